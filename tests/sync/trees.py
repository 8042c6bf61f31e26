# SPDX-License-Identifier: MIT
"""
Small trees for the tests: as values, made, and read back.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from nodecomm.sync.model import Kind, SyncRequest, Wanted
from nodecomm.sync.place import Destination
from nodecomm.sync.staging import Commit, CommitReport

__all__ = ["Tree", "make", "own_names", "put", "read", "request"]

#: Content by name; None is a folder, text is a link.
Tree = Mapping[bytes, "bytes | str | None"]


def make(root: Path, tree: Tree) -> None:
    """
    Make it, *root* included.
    """
    root.mkdir()
    for name, content in tree.items():
        path = os.path.join(os.fsencode(root), name)
        if content is None:
            os.mkdir(path)
        elif isinstance(content, str):
            os.symlink(content, path)
        else:
            with open(path, "wb") as file:
                file.write(content)


def read(root: Path) -> dict[bytes, bytes | str | None]:
    """
    What is there, read by walking from the name.
    """
    found: dict[bytes, bytes | str | None] = {}
    top = os.fsencode(root)
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        for last in os.listdir(os.path.join(top, above)):
            name = os.path.join(above, last)
            path = os.path.join(top, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode):
                found[name] = None
                waiting.append(name)
            elif stat.S_ISLNK(mode):
                found[name] = os.fsdecode(os.readlink(path))
            else:
                with open(path, "rb") as file:
                    found[name] = file.read()
    return found


def own_names(root: Path) -> set[str]:
    """
    The names beside the destination that are ours, by their last word.
    """
    start = f".{root.name}.nodecomm-"
    return {
        name[len(start) :] for name in os.listdir(root.parent) if name.startswith(start)
    }


def request(root: Path, **settings: object) -> SyncRequest:
    """
    An update of *root*.
    """
    return SyncRequest(b"source", os.fsencode(root), **settings)  # type: ignore[arg-type]


def put(
    place: Destination,
    tree: Tree,
    *,
    carry: bool = True,
    modes: Mapping[bytes, int] | None = None,
    before: Callable[[Commit], None] | None = None,
    assembled: Callable[[], object] | None = None,
) -> CommitReport:
    """
    Bring the destination to what *tree* says, as an update does: what is the same is
    kept, the rest is fetched, and local names are carried over.

    Args:
        carry: Whether they are.
        modes: Of names that do not have 0644 and 0755.
        assembled: Called when the new set is built.
    """
    present = place.scan()
    modes = modes or {}
    staging = place.stage()
    wanted = []
    for name, content in sorted(tree.items()):
        if content is None:
            known = name in present and present[name].kind is Kind.FOLDER
            wanted.append(
                Wanted(
                    name,
                    Kind.FOLDER,
                    modes.get(name, 0o755),
                    "kept" if known else "fetched",
                )
            )
        elif isinstance(content, str):
            target = os.fsencode(content)
            wanted.append(Wanted(name, Kind.LINK, 0o777, "fetched", target=target))
        else:
            found = place.hash([name], ["sha256"]).get(name)
            sink = staging.create(name)
            sink.write(content)
            sink.close()
            same = found is not None and found.digests["sha256"] == sink.sha256
            if same:
                sink.abort()
            wanted.append(
                Wanted(
                    name,
                    Kind.FILE,
                    modes.get(name, 0o644),
                    "kept" if same else "fetched",
                )
            )
    if carry:
        wanted += [
            Wanted(name, found.kind, found.mode, "carried", target=found.target)
            for name, found in present.items()
            if name not in tree
        ]
    staging.assemble(sorted(wanted, key=lambda each: each.name))
    if assembled is not None:
        assembled()
    return staging.commit(before)
