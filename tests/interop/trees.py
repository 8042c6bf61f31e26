# SPDX-License-Identifier: MIT
"""
Trees that find most mistakes of a file server, and what a copy must look like.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
from pathlib import Path
from typing import NamedTuple

#: Sizes round every boundary of the protocol: the smallest, those of the real
#: client's and server's buffers (2048, 4064, 4096), and a TLS record.
SIZES = (
    *(0, 1, 3, 4, 67),
    *(2047, 2048, 2049, 4063, 4064, 4065, 4095, 4096, 4097),
    *(16383, 16384, 16385, 100_000, 3_000_000),
)

#: The longest name that the real agent can store: it appends a suffix of 6 bytes.
LONGEST_STORABLE = 249


def content(size: int, seed: int = 0) -> bytes:
    """
    *size* bytes that look random and are always the same.
    """
    return random.Random(size * 1000 + seed).randbytes(size)


def hard_tree(path: Path, *, unstorable: bool = False) -> Path:
    """
    Make a tree with every hard case in it.

    Args:
        path: The folder to make.
        unstorable: Also a file with a name of 255 bytes, which the protocol can
            carry and the real agent cannot store.
    """
    root = os.fsencode(path)
    for name in (b"sizes", b"names", b"links", b"modes", b"empty", b"a/deeper/one"):
        os.makedirs(os.path.join(root, name), 0o755)

    def put(name: bytes, data: bytes, mode: int = 0o644) -> None:
        full = os.path.join(root, name)
        with open(full, "wb") as file:
            file.write(data)
        os.chmod(full, mode)

    for size in SIZES:
        put(b"sizes/%d" % size, content(size))
    with open(os.path.join(root, b"sizes/sparse"), "wb") as file:
        file.write(b"head")
        file.seek(1_000_000)
        file.write(b"tail")
        file.truncate(2_000_000)

    names = [
        b"a space",
        b" leading",
        b"trailing ",
        b"  ",
        b"a\ttab",
        b"\xff\xfe not utf-8 \x80",
        "grüße".encode(),
        b"-r",
        b"'quotes\"",
        b"back\\slash",
        b"$(sys.host)",
        b"*",
        b"\x1b[31mred",
        b"x" * LONGEST_STORABLE,
    ]
    if unstorable:
        names.append(b"y" * 255)
    for number, name in enumerate(names):
        put(b"names/" + name, content(50, number))
    os.mkdir(os.path.join(root, b"names/folder \xfd"))
    put(b"names/folder \xfd/inside", b"inside\n")
    put(b"a/deeper/one/leaf", b"leaf\n")

    put(b"links/target", b"the target\n")
    put(b"links/t", b"a name of one character\n")
    for name, to in (
        (b"to-file", b"target"),
        (b"to-folder", b"../a"),
        (b"short", b"t"),
        (b"dangling", b"nowhere/to/be/found"),
    ):
        os.symlink(to, os.path.join(root, b"links", name))
    put(b"links/hard-1", content(5000))
    for name in (b"links/hard-2", b"a/hard-3"):
        os.link(os.path.join(root, b"links/hard-1"), os.path.join(root, name))
    put(b"links/pair-1", content(5000, 1))
    os.link(os.path.join(root, b"links/pair-1"), os.path.join(root, b"links/pair-2"))

    for mode in (0o600, 0o644, 0o755, 0o4755, 0o2755, 0o444, 0o777):
        put(b"modes/%o" % mode, b"mode %o\n" % mode, mode)
    os.mkdir(os.path.join(root, b"modes/folder"))
    os.chmod(os.path.join(root, b"modes/folder"), 0o750)
    return path


def wide_folder(path: Path, entries: int) -> Path:
    """
    Make a folder of *entries* small files with names of different lengths.
    """
    path.mkdir(parents=True, exist_ok=True)
    for number in range(entries):
        name = f"{number:05d}-" + "n" * (number % 60)
        (path / name).write_bytes(b"%d\n" % number)
    return path


def big_file(path: Path, size: int) -> Path:
    """
    Make a sparse file of *size* bytes with data at both ends and in the middle.
    """
    with path.open("wb") as file:
        file.write(content(100_000))
        file.seek(size // 2)
        file.write(content(100_000, 1))
        file.seek(size - 100_000)
        file.write(content(100_000, 2))
    return path


def loop_tree(path: Path) -> Path:
    """
    Make a tree that never ends when links are followed: one to itself, one to the
    parent.
    """
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_bytes(b"once\n")
    (path / "inner" / "self").symlink_to(".")
    (path / "inner" / "parent").symlink_to("..")
    return path


class Entry(NamedTuple):
    """
    What one name in a tree is.
    """

    kind: str
    mode: int
    size: int
    content: str

    @classmethod
    def of(cls, path: bytes, *, follow: bool) -> Entry:
        """
        Describe *path*.

        Args:
            path: The file.
            follow: Describe what a link leads to, where it leads anywhere.
        """
        status = os.lstat(path)
        if follow and stat.S_ISLNK(status.st_mode) and os.path.exists(path):
            status = os.stat(path)
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            return cls("folder", mode, 0, "")
        if stat.S_ISLNK(status.st_mode):
            # The mode of a link is the system's own.
            return cls("link", 0, 0, os.fsdecode(os.readlink(path)))
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return cls("file", mode, status.st_size, digest.hexdigest())


def described(path: Path, *, follow: bool = False) -> dict[bytes, Entry]:
    """
    Every name below *path*, relative to it, with what it is.

    Args:
        path: The folder; it is not in the result itself.
        follow: Describe it as it is seen over TLS, where every link that leads
            anywhere is what it leads to. Do not use it on a tree that never ends.
    """
    found: dict[bytes, Entry] = {}
    root = os.fsencode(path)

    def walk(below: bytes) -> None:
        for name in os.listdir(os.path.join(root, below)):
            relative = os.path.join(below, name)
            entry = Entry.of(os.path.join(root, relative), follow=follow)
            found[relative] = entry
            if entry.kind == "folder":
                walk(relative)

    walk(b"")
    return found
