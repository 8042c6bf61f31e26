# SPDX-License-Identifier: MIT
"""
What the real programs said to each other: inside TLS record by record, in the folder
`exec` of remote runs, and in the folder `classic` without TLS, piece by piece.

Each file holds one connection as JSON lines: first what it is and the tree that was
served, then each TLS record in the order in which it passed, and at last who closed.
Bytes are in the text form of `nodecomm.wire.text`. `scripts/record_exchange.py` made
them. The keys of the classic exchanges are in `keys`, so that what was encrypted can
be opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodecomm.identity.keys import KeyPair
from nodecomm.wire.text import from_text, to_text

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Record:
    """
    One TLS record's plaintext, or one piece of a classic connection.

    Attributes:
        sender: "client" or "server".
        data: The bytes; empty when the sender closed the connection.
    """

    sender: str
    data: bytes


@dataclass(frozen=True)
class Exchange:
    """
    One connection from its first byte to its end.

    Attributes:
        title: What was done, in words.
        programs: The two programs and their version.
        tls: The version of TLS; empty: classic.
        shortcut: The name by which the tree was asked for.
        tree: The served tree, name to description, as `make_tree` takes it.
        records: What passed.
        keys: The names of the keys of `client` and `server`, where they are known.
    """

    title: str
    programs: str
    tls: str
    shortcut: str
    tree: Mapping[str, Mapping[str, Any]]
    records: Sequence[Record]
    keys: Mapping[str, str] = field(default_factory=dict)

    def key(self, side: str) -> KeyPair:
        """
        The key pair of "client" or "server".
        """
        return key_pair(self.keys[side])

    def sent_by(self, sender: str) -> bytes:
        """
        All bytes of one side, joined.
        """
        return b"".join(r.data for r in self.records if r.sender == sender)

    def write(self, path: Path) -> None:
        """
        Write the exchange as JSON lines.
        """
        about = {
            name: value
            for name, value in vars(self).items()
            if name != "records" and not (name == "keys" and not value)
        }
        with path.open("w", encoding="utf-8") as file:
            for line in (about, *map(_line, self.records)):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _line(record: Record) -> dict[str, str | bool]:
    """
    One record as it stands in the file.
    """
    if not record.data:
        return {"from": record.sender, "closed": True}
    return {"from": record.sender, "data": to_text(record.data)}


def names() -> list[str]:
    """
    The names of all exchanges recorded inside TLS, but for remote runs.
    """
    return sorted(file.stem for file in FOLDER.glob("*.jsonl"))


def exec_names() -> list[str]:
    """
    The names of all recorded remote runs.
    """
    return sorted(f"exec/{file.stem}" for file in FOLDER.glob("exec/*.jsonl"))


def classic_names() -> list[str]:
    """
    The names of all recorded classic exchanges.
    """
    return sorted(f"classic/{file.stem}" for file in FOLDER.glob("classic/*.jsonl"))


def key_pair(name: str) -> KeyPair:
    """
    The key pair called *name* with which classic exchanges were recorded.
    """
    return KeyPair.load((FOLDER / "keys" / f"{name}.priv").read_bytes())


def load(name: str) -> Exchange:
    """
    Read a recorded exchange.
    """
    with (FOLDER / f"{name}.jsonl").open(encoding="utf-8") as file:
        about = json.loads(next(file))
        lines = [json.loads(line) for line in file]
    records = [Record(line["from"], from_text(line.get("data", ""))) for line in lines]
    return Exchange(**about, records=records)


def make_tree(path: Path, tree: Mapping[str, Mapping[str, Any]]) -> None:
    """
    Make the tree that an exchange served, with the same names, contents, modes and
    times; only the numbers that a file system gives itself differ.

    Args:
        path: The folder to make.
        tree: Name in text form to a description with one of `folder` (True),
            `content` (text form), `link` or `hard` (another name), and `mode` (octal)
            and `mtime` (seconds since 1970) where they apply.
    """
    root = os.fsencode(path)
    os.makedirs(root)
    times: list[tuple[bytes, int]] = [(root, 1_700_000_000)]
    for name, what in tree.items():
        full = os.path.join(root, from_text(name))
        if "link" in what:
            os.symlink(from_text(what["link"]), full)
            continue
        if "hard" in what:
            os.link(os.path.join(root, from_text(what["hard"])), full)
            continue
        if "content" in what:
            with open(full, "wb") as file:
                file.write(from_text(what["content"]))
        else:
            os.mkdir(full)
        os.chmod(full, int(what["mode"], 8))
        times.append((full, what["mtime"]))
    # Last, because making a file changes its folder's time.
    for full, mtime in reversed(times):
        os.utime(full, (mtime, mtime))
