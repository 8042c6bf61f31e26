# SPDX-License-Identifier: MIT
"""
A file source in memory.
"""

from __future__ import annotations

import errno
import hashlib
from typing import TYPE_CHECKING

from attrs import define, field
from zope.interface import implementer

from nodecomm.interfaces import API, IFileSource, IHeldObject
from nodecomm.server.held import FileStatus, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nodecomm.identity.peer import Peer

__all__ = ["MemoryObject", "MemorySource"]


@implementer(IHeldObject)
@define(eq=False)
class MemoryObject:
    """
    A file or folder that exists in memory only.

    Args:
        path: Its name; absolute, or relative to the rule that the source is bound
            to.
        content: A file's bytes; None: a folder.
        names: A folder's names.
        mode: Permission bits.
        mtime: Seconds since the epoch.
    """

    path: bytes
    content: bytes | None
    names: Sequence[bytes] = ()
    mode: int = 0o644
    uid: int = 0
    mtime: int = 0
    ino: int = 1
    closed: int = field(default=0, init=False)

    def stat(self) -> FileStatus:
        """Its status."""
        content = self.content
        size = 0 if content is None else len(content)
        when = self.mtime * 1_000_000_000
        return FileStatus(
            Kind.DIRECTORY if content is None else Kind.REGULAR,
            self.mode,
            self.uid,
            0,
            size,
            when,
            when,
            when,
            None,
            self.ino,
            2 if content is None else 1,
            0,
        )

    def entries(self) -> Sequence[bytes]:
        """The folder's names."""
        if self.content is not None:
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", self.path)
        return [b".", b"..", *self.names]

    def read(self, offset: int, size: int) -> bytes:
        """A part of the content."""
        if self.content is None:
            raise IsADirectoryError(errno.EISDIR, "a folder", self.path)
        return self.content[offset : offset + size]

    def digest(self, algorithm: str) -> bytes:
        """The content's digest."""
        hashing = hashlib.new(algorithm, usedforsecurity=False)
        hashing.update(self.content or b"")
        return hashing.digest()

    def unchanged(self, size: int) -> bool:
        """It never changes while it is held."""
        return True

    def close(self) -> None:
        """Count how often it was let go of."""
        self.closed += 1


@implementer(IFileSource)
@define(eq=False)
class MemorySource:
    """
    A tree in memory.

    Args:
        files: Content by name, without a leading slash; the folders follow from it.
        name: What an access rule's `source` calls it.
    """

    files: Mapping[bytes, bytes]
    name: str = "memory"
    api: int = API
    held: list[MemoryObject] = field(factory=list, init=False)

    def resolve(self, peer: Peer, name: bytes) -> MemoryObject:
        """
        Hold what is called *name*.

        Raises:
            FileNotFoundError: There is no such file or folder.
        """
        found = self._find(name.strip(b"/"))
        self.held.append(found)
        return found

    def _find(self, name: bytes) -> MemoryObject:
        content = self.files.get(name)
        number = 2 + sorted(self.files).index(name) if content is not None else 1
        if content is not None:
            return MemoryObject(name, content, ino=number)
        below = name + b"/" if name else b""
        names = sorted(
            {
                path[len(below) :].split(b"/")[0]
                for path in self.files
                if path.startswith(below)
            }
        )
        if not names:
            raise FileNotFoundError(errno.ENOENT, "no such object", name)
        return MemoryObject(name, None, names, mode=0o755)
