# SPDX-License-Identifier: MIT
"""
A manifest lists exactly what its peer would learn by asking for each object.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodecomm.testing import key_pair, memory_server
from tests.server.walked import manifest, walked

#: Folders that may be made, parents first; `outside` is never asked for.
FOLDERS = ["tree", "tree/a", "tree/a/b", "tree/c", "outside", "outside/d"]
NAMES = ["f", "g h", "é"]
#: Where links lead, as they are written.
TARGETS = ["..", ".", "../outside", "../../outside/d", "f", "a", "/nowhere", "b/f"]
#: Whoever asks: address, number of the key, user.
PEERS = [
    ("10.0.0.1", 1, "root"),
    ("10.0.0.2", 2, "root"),
    ("10.0.0.1", 3, "nobody"),
    ("10.0.0.3", 4, "daemon"),
]
OWNERS = [0, 1, 65534]


class Tree(NamedTuple):
    """
    What is made on disk: folders, files (folder, name, mode, owner, content), links
    (folder, name, target), fifos.
    """

    folders: list[str]
    files: list[tuple[str, str, int, int, bytes]]
    links: list[tuple[str, str, str]]
    fifos: list[str]


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Any small tree, and one outside of it."""
    more = draw(st.lists(st.sampled_from(FOLDERS[2:]), unique=True, max_size=4))
    folders = [name for name in FOLDERS if name in {"tree", "tree/a", "outside", *more}]
    folders = [name for name in folders if os.path.dirname(name) in {"", *folders}]
    where = st.sampled_from(folders)
    files = draw(
        st.lists(
            st.tuples(
                where,
                st.sampled_from(NAMES),
                st.sampled_from([0o644, 0o600, 0o640, 0o604]),
                st.sampled_from(OWNERS),
                st.sampled_from([b"", b"one", b"two"]),
            ),
            max_size=6,
            unique_by=lambda made: made[:2],
        )
    )
    links = draw(
        st.lists(
            st.tuples(where, st.sampled_from(["k", "l"]), st.sampled_from(TARGETS)),
            max_size=4,
            unique_by=lambda made: made[:2],
        )
    )
    return Tree(folders, files, links, draw(st.lists(where, max_size=1)))


_lists = st.dictionaries(
    st.sampled_from(["admit_ips", "admit_keys", "deny_ips", "deny_keys"]),
    st.lists(st.integers(0, 5), min_size=1, max_size=2, unique=True),
    min_size=1,
    max_size=2,
)
_places = st.sampled_from(
    [
        "tree",
        "tree/a",
        "tree/a/b",
        "tree/c",
        "tree/f",
        "tree/a/f",
        "tree/k",
        "outside",
        "outside/d",
        "",
        "other/$(connection.ip)",
    ]
)
rules = st.lists(st.tuples(_places, _lists), max_size=5)


def make(root: str, tree: Tree) -> None:
    """Put *tree* on disk."""
    for folder in tree.folders:
        os.mkdir(f"{root}/{folder}")
    for folder, name, mode, owner, content in tree.files:
        path = f"{root}/{folder}/{name}"
        with open(path, "wb") as file:
            file.write(content)
        if os.geteuid() == 0:
            os.chown(path, owner, owner)
        os.chmod(path, mode)
    for folder, name, target in tree.links:
        os.symlink(target, f"{root}/{folder}/{name}")
    for folder in tree.fifos:
        os.mkfifo(f"{root}/{folder}/fifo", 0o622)


def table(root: str, place: str, lists: dict[str, list[int]]) -> dict[str, Any]:
    """One `[[access]]`."""
    made: dict[str, Any] = {"path": f"{root}/{place}".rstrip("/")}
    if not os.path.exists(made["path"]):
        made["path"] += "/"
    for name, numbers in lists.items():
        if name.endswith("ips"):
            made[name] = ["10.0.0.0/8", *(f"10.0.0.{n}" for n in numbers)][-2:]
            if name == "deny_ips":
                made[name] = made[name][1:] if len(numbers) < 2 else made[name]
            if 5 in numbers and name == "admit_ips":
                made[name] = ["10.0.0.0/8"]
        else:
            made[name] = [key_pair(n % 5).public.md5 for n in numbers]
    return made


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees(), rules, st.permutations(PEERS))
def test_manifest_lists_what_the_peer_may_have(
    tree: Tree,
    tables: list[tuple[str, dict[str, list[int]]]],
    peers: list[tuple[str, int, str]],
) -> None:
    """
    Types, modes, owners, sizes, times, contents and links, of everything that STAT,
    OPENDIR, MD5 and GET of this peer give, and of nothing else; whoever asked before,
    for the folder and for folders in it.
    """
    root = os.path.realpath(tempfile.mkdtemp())
    try:
        make(root, tree)
        access = [table(root, place, lists) for place, lists in tables]
        access.append({"path": f"{root}/tree", "admit_ips": ["10.0.0.1", "10.0.0.2"]})
        server = memory_server(*access)
        for address, number, user in (*peers, *peers):
            pair = key_pair(number)
            server.store.add(user, pair.public)
            client = server.connect(address, key=pair, user=user.encode())
            for folder in tree.folders[:3]:
                source = f"{root}/{folder}".encode()
                assert manifest(client, source) == walked(client, source)
    finally:
        shutil.rmtree(root)
