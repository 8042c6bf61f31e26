# SPDX-License-Identifier: MIT
"""
The names that belong to an update, beside its destination.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import PurePosixPath

from attrs import define, field

from nodecomm.sync.errors import LocalError
from nodecomm.wire.text import to_text

__all__ = ["INSIDE", "NEAR", "Identity", "Site", "identity_of", "is_own"]

#: Device and inode number of a folder: which one it is, whatever it is called.
Identity = tuple[int, int]

#: What a file system takes as one name, on all that matter.
_NAME_MAX = 255

#: The longest of the endings, with a point before the name.
_LONGEST = len(b"..nodecomm-previous")

#: Where a destination that is changed file by file keeps what is fetched: in itself,
#: as only that is sure to be on its own file system.
INSIDE = b".nodecomm-fetched"

#: And what a file is called there, next to its name, if another file system is mounted
#: inside the destination, so that it must be copied to it before it is renamed.
NEAR = re.compile(rb"\.nodecomm-[0-9a-f]{16}\.tmp")


def is_own(name: bytes) -> bool:
    """
    Whether a name in a destination is one that this program uses there itself.
    """
    return name == INSIDE or NEAR.fullmatch(name.rpartition(b"/")[2]) is not None


def identity_of(status: os.stat_result) -> Identity:
    """
    Which object it is.
    """
    return status.st_dev, status.st_ino


@define(eq=False)
class Site:
    """
    A destination's place: the folder it is in, its name there, and the names beside
    it that this program uses. All of these begin with a point, the destination's
    name, and `.nodecomm-`; of a name too long for that, a part and a digest.

    Args:
        parent: The folder, without links in its name.
        name: The last part of the destination.
        folder: A descriptor of the parent, which `close` gives back.

    Attributes:
        lock: The file whose lock is the right to change the destination.
        new: The new set while it is being built; after an exchange, the old one.
        fetched: Files that came, before they have a place.
        previous: The set before the present one.
        trash: What is being removed.
        journal: What a start after a kill has to know.
        link: A link that is about to become the destination.
        slots: The two sets that a destination which is a link points to in turn.
    """

    parent: bytes
    name: bytes
    folder: int
    lock: bytes = field(init=False)
    new: bytes = field(init=False)
    fetched: bytes = field(init=False)
    previous: bytes = field(init=False)
    trash: bytes = field(init=False)
    journal: bytes = field(init=False)
    link: bytes = field(init=False)
    slots: tuple[bytes, bytes] = field(init=False)

    def __attrs_post_init__(self) -> None:
        stem = self.name
        if len(stem) > _NAME_MAX - _LONGEST:
            digest = hashlib.sha256(stem).hexdigest()[:16].encode()
            stem = stem[: _NAME_MAX - _LONGEST - len(digest) - 1] + b"~" + digest
        start = b"." + stem + b".nodecomm-"
        self.lock = start + b"lock"
        self.new = start + b"new"
        self.fetched = start + b"fetched"
        self.previous = start + b"previous"
        self.trash = start + b"trash"
        self.journal = start + b"journal"
        self.link = start + b"link"
        self.slots = (start + b"a", start + b"b")

    @property
    def path(self) -> bytes:
        """The destination."""
        return self.beside(self.name)

    def beside(self, name: bytes) -> bytes:
        """The absolute name of what is called *name* in the same folder."""
        return self.parent.rstrip(b"/") + b"/" + name

    def show(self, name: bytes | None = None) -> str:
        """The destination, or a name beside it, for people."""
        return to_text(self.path if name is None else self.beside(name))

    def close(self) -> None:
        """Give the descriptor back."""
        if self.folder >= 0:
            os.close(self.folder)
            self.folder = -1

    def status(self, name: bytes) -> os.stat_result | None:
        """What is called *name* beside the destination, not following a link."""
        try:
            return os.stat(name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def exists(self, name: bytes) -> bool:
        """Whether anything is called *name*."""
        return self.status(name) is not None

    def identity(self, name: bytes) -> Identity | None:
        """Which folder is called *name*; None for anything else."""
        status = self.status(name)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return None
        return identity_of(status)

    def linked(self) -> bytes | None:
        """The one of `slots` that the destination is a link to."""
        status = self.status(self.name)
        if status is None or not stat.S_ISLNK(status.st_mode):
            return None
        target = os.readlink(self.name, dir_fd=self.folder)
        return target if target in self.slots else None

    def present(self) -> bytes:
        """The name, beside the destination, of the folder that is the present set."""
        return self.linked() or self.name

    def other_slot(self, slot: bytes | None) -> bytes:
        """The slot that is not *slot*."""
        return self.slots[1] if slot == self.slots[0] else self.slots[0]

    def rename(self, old: bytes, new: bytes) -> None:
        """Rename, replacing what may be replaced."""
        os.rename(old, new, src_dir_fd=self.folder, dst_dir_fd=self.folder)

    def sync(self) -> None:
        """Make the names durable."""
        os.fsync(self.folder)


def split_destination(path: bytes) -> tuple[bytes, bytes]:
    """
    The folder that the destination is in, and its name there.

    Raises:
        LocalError: It has none, as it is no absolute name, or the root.
    """
    shown = to_text(path)
    if not path.startswith(b"/"):
        raise LocalError("not-a-folder", f"{shown} is not an absolute name")
    parts = PurePosixPath(os.fsdecode(path)).parts
    if len(parts) < 2:
        raise LocalError("mount-point", f"{shown} cannot be replaced")
    if parts[-1] == "..":
        raise LocalError("not-a-folder", f"{shown} does not end with a name")
    parent, _, name = path.rstrip(b"/").rpartition(b"/")
    return parent or b"/", name
