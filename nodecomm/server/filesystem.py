# SPDX-License-Identifier: MIT
"""
Objects of the file system, held so that nothing is looked up by name twice.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from attrs import define, field
from zope.interface import implementer

from nodecomm.interfaces import API, IFileSource, IHeldObject
from nodecomm.server import posix
from nodecomm.server.held import FileStatus, status_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.defer import Deferred

    from nodecomm.identity.peer import Peer
    from nodecomm.server.digests import DigestCache
    from nodecomm.server.pools import Pool

__all__ = ["FileSystemSource", "HeldFile"]

#: What the system says when there is no object of that name. Everything else (no
#: right of ours on a folder, a failing disk, no descriptors left) is a failure of
#: this server, and never answered with the refusal: a purging agent would delete
#: its copy.
_ABSENT = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}
)

#: Bytes a folder may take on disk to be listed on the reactor; about 1,000 names.
#: A larger one is read in the disk pool.
SMALL_FOLDER = 32_768

#: Bytes of a name that the server's path functions take.
#: Source: Linux PATH_MAX, its final NUL included.
MAX_PATH = 4096


@implementer(IHeldObject)
@define(slots=True, eq=False)
class HeldFile:
    """
    A file, folder or other object of the file system, held by a descriptor.

    Attributes:
        path: Its real absolute name.
        status: What `stat` answers, taken when the object was first held.
    """

    path: bytes
    status: FileStatus
    _descriptor: int
    _source: FileSystemSource
    _readable: bool = field(default=False)

    def stat(self) -> FileStatus:
        """The status at the time the object was held."""
        return self.status

    def unchanged(self, size: int) -> bool:
        """
        Whether the first *size* bytes are what they were: nobody wrote to the file,
        or it only grew behind them, as a log file does.
        """
        now = os.fstat(self._descriptor)
        if now.st_size < size:
            return False
        return now.st_mtime_ns == self.status.mtime_ns or now.st_size > self.status.size

    def entries(self) -> Sequence[bytes] | Deferred[Sequence[bytes]]:
        """
        The names in the folder, `.` and `..` first.

        Raises:
            NotADirectoryError: This is no folder.
            QueueFull: The disk pool has too much to do.
        """
        if not self.status.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", self.path)
        if self.status.size <= SMALL_FOLDER:
            return self._list()
        return self._source.disk.run(self._list)

    def _list(self) -> Sequence[bytes]:
        return [b".", b"..", *posix.names_in(self._descriptor)]

    def open(self) -> int:
        """
        Make the object readable, if it is not yet, and return the descriptor. Only
        plain files are ever opened: a fifo would block, a device would act.

        Raises:
            OSError: It cannot be opened, or is no plain file.
        """
        if not self._readable:
            if not self.status.is_regular:
                raise OSError(errno.EINVAL, "not a plain file", self.path)
            opened = posix.open_held(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = opened
            self._readable = True
        return self._descriptor

    def read(self, offset: int, size: int) -> bytes | Deferred[bytes]:
        """
        At most *size* bytes from *offset*: at once when they are in memory, else
        from the disk pool.
        """
        descriptor = self.open()
        found = posix.read_cached(descriptor, offset, size)
        if found is not None:
            return found
        return self._source.disk.run(os.pread, descriptor, size, offset)

    def digest(self, algorithm: str) -> bytes | Deferred[bytes]:
        """
        The digest of the content, from the source's cache where it is known.
        """
        return self._source.digests.digest(self, algorithm)

    def close(self) -> None:
        """Let go of the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@implementer(IFileSource)
@define(eq=False)
class FileSystemSource:
    """
    The file system of this host.

    Args:
        digests: Where digests are remembered.
        disk: Where what may wait for a disk is done.
    """

    digests: DigestCache
    disk: Pool
    api: int = API
    name: str = "filesystem"

    def resolve(self, peer: Peer | None, name: bytes) -> HeldFile:
        """
        Hold the object called *name*, an absolute name. Links are followed; one
        that leads nowhere is held itself.

        Raises:
            FileNotFoundError: No such object, or no absolute name.
            OSError: The object cannot be reached for a reason of this server's own.
        """
        if not name.startswith(b"/") or b"\0" in name or len(name) >= MAX_PATH:
            raise FileNotFoundError(errno.ENOENT, "no absolute name", name)
        try:
            descriptor = posix.hold(name)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return self._hold_dangling(name)
        try:
            status = status_of(os.fstat(descriptor))
            path = posix.real_name(descriptor, name)
            if status.nlink == 0:
                # Removed in between; its name in /proc carries a remark.
                raise FileNotFoundError(errno.ENOENT, "removed", name)
        except BaseException:
            os.close(descriptor)
            raise
        return HeldFile(path, status, descriptor, self)

    def _hold_dangling(self, name: bytes) -> HeldFile:
        """
        Hold a symbolic link that cannot be followed to its end.
        """
        try:
            descriptor = posix.hold(name, follow=False)
        except OSError as error:
            if error.errno in _ABSENT:
                raise FileNotFoundError(error.errno, error.strerror, name) from error
            raise
        try:
            status = status_of(os.fstat(descriptor), posix.link_text(descriptor, name))
            path = posix.real_name(descriptor, name)
        except OSError as error:
            os.close(descriptor)
            if error.errno == errno.EINVAL:
                # It is no link: it appeared between the two calls. Asking again
                # is the client's choice.
                raise FileNotFoundError(errno.ENOENT, "appeared", name) from error
            raise
        except BaseException:
            os.close(descriptor)
            raise
        return HeldFile(path, status, descriptor, self)
