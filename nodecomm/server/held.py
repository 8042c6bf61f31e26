# SPDX-License-Identifier: MIT
"""
What a held object says of itself.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

__all__ = ["FileStatus", "Kind", "status_of"]


class Kind:
    """
    Types of objects, by the number that the STAT reply gives them.

    Source: CFEngine 3.21, the first number of a STAT reply, observed.
    """

    REGULAR = 0
    LINK = 1
    DIRECTORY = 2
    FIFO = 3
    BLOCK = 4
    CHARACTER = 5
    SOCKET = 6


_KINDS = {
    stat.S_IFREG: Kind.REGULAR,
    stat.S_IFLNK: Kind.LINK,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFSOCK: Kind.SOCKET,
}


class FileStatus(NamedTuple):
    """
    Type, rights, owner, size and times of an object.

    Attributes:
        kind: One of `Kind`.
        mode: Permission bits, set-uid, set-gid and sticky included (07777).
        size: Bytes.
        mtime_ns: Nanoseconds since the epoch; so atime_ns, ctime_ns.
        blocks: Units of 512 bytes that are allocated; None when unknown.
        target: The raw text of a symbolic link, else empty.
    """

    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    blocks: int | None
    ino: int
    nlink: int
    dev: int
    target: bytes = b""

    @property
    def is_regular(self) -> bool:
        """Whether this is a plain file."""
        return self.kind == Kind.REGULAR

    @property
    def is_directory(self) -> bool:
        """Whether this is a folder."""
        return self.kind == Kind.DIRECTORY


def status_of(found: os.stat_result, target: bytes = b"") -> FileStatus:
    """
    *found* as a `FileStatus`.
    """
    # The first ten have an order that POSIX programs rely on (`stat.ST_MODE` and so
    # on), and are taken out at once: that is quicker than by their names.
    mode, ino, dev, nlink, uid, gid, size, _, _, _ = found
    # So is making the value in one step, without the call of its own constructor.
    return tuple.__new__(
        FileStatus,
        (
            _KINDS.get(stat.S_IFMT(mode), Kind.SOCKET),
            mode & 0o7777,
            uid,
            gid,
            size,
            found.st_atime_ns,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_blocks,
            ino,
            nlink,
            dev,
            target,
        ),
    )
