# SPDX-License-Identifier: MIT
"""
Objects of the file system, held so that nothing is looked up by name twice.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from attrs import define, field
from zope.interface import implementer

from nodecomm.interfaces import API, IFileSource, IHeldObject
from nodecomm.server import posix
from nodecomm.server.held import FileStatus, Kind, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.defer import Deferred

    from nodecomm.identity.peer import Peer
    from nodecomm.server.digests import DigestCache
    from nodecomm.server.pools import Pool

__all__ = ["FileSystemSource", "HeldFile", "Link"]

#: What the system says when there is no object of that name. Everything else (no
#: right of ours on a folder, a failing disk, no descriptors left) is a failure of
#: this server, and never answered with the refusal: a purging agent would delete
#: its copy.
_ABSENT = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}
)

#: Seconds for which the real name of an object is believed while the name asked for
#: still leads to the same object (device and inode). A fleet asks for the same few
#: hundred names all the time, and finding out the real name is the dearest part of a
#: STAT (measured: 15 of 38 us). What this can miss is a folder above the object that
#: was renamed less than this ago.
REMEMBERED = 1.0

#: Names remembered; all are forgotten when there are more. Longer names than
#: `_LONGEST` bytes are not, so that a peer's inventions cannot fill the memory.
_NAMES = 20_000
_LONGEST = 512

#: Bytes a folder may take on disk to be listed on the reactor; about 1,000 names.
#: A larger one is read in the disk pool.
SMALL_FOLDER = 32_768

#: Bytes of a name that the server's path functions take.
#: Source: Linux PATH_MAX, its final NUL included.
MAX_PATH = 4096


#: How often a name is looked at that stands for another object each time.
_TRIES = 10

#: No descriptor yet, and none any more.
_LATER, _CLOSED = -1, -2


def _is_elsewhere(path: bytes, status: FileStatus) -> bool:
    """
    Whether *path* is not the name of the object: that was removed under it in this
    moment, or it is seen through `/proc/PID/root`, where the name that the system
    tells belongs to another mount namespace and may equal an admitted one.
    """
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _ABSENT:
            return True
        raise
    return (found.st_dev, found.st_ino) != (status.dev, status.ino)


class Link(NamedTuple):
    """
    A symbolic link by which an object was found.

    Attributes:
        path: Its own real absolute name.
        status: What it is itself, with its text.
    """

    path: bytes
    status: FileStatus


@implementer(IHeldObject)
@define(slots=True, eq=False)
class HeldFile:
    """
    A file, folder or other object of the file system, held by a descriptor.

    Attributes:
        path: Its real absolute name.
        status: What `stat` answers, taken when the object was first held.
        link: The link that the last part of the name asked for is, if it is one and
            that was looked at (`resolve_with_link`).
    """

    path: bytes
    status: FileStatus
    # _LATER: not held yet; it is looked at first when it is read, see `_acquire`.
    _descriptor: int
    _source: FileSystemSource
    _readable: bool = field(default=False)
    link: Link | None = None

    def stat(self) -> FileStatus:
        """The status at the time the object was held."""
        return self.status

    def unchanged(self, size: int) -> bool:
        """
        Whether the first *size* bytes are what they were: nobody wrote to the file,
        or it only grew behind them, as a log file does.
        """
        now = os.fstat(self._acquire())
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
        return [b".", b"..", *posix.names_in(self._acquire())]

    def _acquire(self) -> int:
        """
        The descriptor. An object whose real name was remembered is opened by that
        name now, and only if it is the one that access was decided on.

        Raises:
            OSError: It cannot be held, or is another object by now.
        """
        if self._descriptor == _LATER:
            descriptor = posix.hold(self.path, follow=False)
            try:
                found = status_of(os.fstat(descriptor))
                if (
                    (found.dev, found.ino) != (self.status.dev, self.status.ino)
                    or found.ctime_ns != self.status.ctime_ns
                    or posix.real_name(descriptor, self.path) != self.path
                ):
                    raise OSError(errno.ESTALE, "replaced in this moment", self.path)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
        return self._descriptor

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
            opened = posix.open_held(self._acquire())
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
        descriptor, self._descriptor = self._descriptor, _CLOSED
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
    _monotonic: Callable[[], float] = time.monotonic
    _known: dict[bytes, tuple[bytes, int, int, int, float]] = field(
        factory=dict, init=False
    )

    def resolve(self, peer: Peer | None, name: bytes) -> HeldFile:
        """
        Hold the object called *name*, an absolute name. Links are followed; one
        that leads nowhere is held itself.

        Raises:
            FileNotFoundError: No such object, or no absolute name.
            OSError: The object cannot be reached for a reason of this server's own.
        """
        known = self._known.get(name)
        if known is not None:
            path, dev, ino, changed, until = known
            if self._monotonic() < until:
                try:
                    found = os.stat(name)
                except OSError:
                    # What is wrong is found out, and told apart, below.
                    pass
                else:
                    # A removed file's inode number is soon used again.
                    if (
                        found.st_ino == ino
                        and found.st_dev == dev
                        and found.st_ctime_ns == changed
                    ):
                        return HeldFile(path, status_of(found), _LATER, self)
            del self._known[name]
        if not name.startswith(b"/") or b"\0" in name or len(name) >= MAX_PATH:
            raise FileNotFoundError(errno.ENOENT, "no absolute name", name)
        for _ in range(_TRIES):
            held = self._hold(name)
            if held is not None:
                return held
        raise OSError(errno.ESTALE, "replaced again and again", name)

    def resolve_with_link(self, peer: Peer | None, name: bytes) -> HeldFile:
        """
        As `resolve`; where the last part of *name* is a link, the object knows it.

        Raises:
            FileNotFoundError: As `resolve`.
            OSError: As `resolve`.
        """
        for _ in range(_TRIES):
            held = self.resolve(peer, name)
            if held.status.kind == Kind.LINK:
                # It leads nowhere, and is held itself.
                return held
            if held.path == name:
                # Its real name: there is no link to know of.
                return held
            try:
                if not stat.S_ISLNK(os.lstat(name).st_mode) or not posix.HAS_O_PATH:
                    return held
                link = self._link(name)
                if link is not None and self._leads(name, link, held.status):
                    held.link = link
                    return held
            except OSError as error:
                link = None
                if error.errno not in _ABSENT:
                    held.close()
                    raise
            except BaseException:
                held.close()
                raise
            held.close()
            self._known.pop(name, None)
            if link is not None:
                # It was turned round meanwhile. What it led to is as good an answer.
                found = self._follow(peer, link)
                if found is not None:
                    return found
        raise OSError(errno.ESTALE, "replaced again and again", name)

    def _follow(self, peer: Peer | None, link: Link) -> HeldFile | None:
        """
        Hold what *link* leads to, whatever its name means by now; None if that is
        nothing.
        """
        try:
            held = self.resolve(
                peer, os.path.join(os.path.dirname(link.path), link.status.target)
            )
        except FileNotFoundError:
            return None
        if held.status.kind == Kind.LINK:
            held.close()
            return None
        held.link = link
        return held

    def _leads(self, name: bytes, link: Link, status: FileStatus) -> bool:
        """
        Whether *name* still is *link*, and leads to the object with *status*.
        """
        target = os.stat(name)
        again = os.lstat(name)
        found = link.status
        return (target.st_dev, target.st_ino) == (status.dev, status.ino) and (
            again.st_dev,
            again.st_ino,
            again.st_ctime_ns,
        ) == (found.dev, found.ino, found.ctime_ns)

    def _link(self, name: bytes) -> Link | None:
        """
        The link that *name* is; None when it is none, or was replaced in this moment.
        """
        try:
            descriptor = posix.hold(name, follow=False)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISLNK(found.st_mode):
                return None
            link = Link(
                posix.real_name(descriptor, name),
                status_of(found, posix.link_text(descriptor, name)),
            )
        finally:
            os.close(descriptor)
        return None if _is_elsewhere(link.path, link.status) else link

    def _hold(self, name: bytes) -> HeldFile | None:
        """
        As `resolve`, without memory; None when *name* lost what it stood for while
        it was looked at. That is no answer yet: a file that is replaced by a rename
        exists all the time, and a node would delete its copy if told otherwise.
        """
        try:
            descriptor = posix.hold(name)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return self._hold_dangling(name)
        try:
            status = status_of(os.fstat(descriptor))
            path = posix.real_name(descriptor, name)
            gone = status.nlink == 0 or _is_elsewhere(path, status)
        except BaseException:
            os.close(descriptor)
            raise
        if gone:
            os.close(descriptor)
            return None
        if len(name) <= _LONGEST:
            if len(self._known) >= _NAMES:
                self._known.clear()
            self._known[name] = (
                path,
                status.dev,
                status.ino,
                status.ctime_ns,
                self._monotonic() + REMEMBERED,
            )
        return HeldFile(path, status, descriptor, self)

    def _hold_dangling(self, name: bytes) -> HeldFile | None:
        """
        Hold a symbolic link that cannot be followed to its end; None when it is
        none any more.
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
            gone = status.nlink == 0 or _is_elsewhere(path, status)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EINVAL, errno.ENOENT):
                # It is no link (Linux says "no entry" of what is held, other
                # systems "invalid"): something appeared between the two calls.
                return None
            raise
        except BaseException:
            os.close(descriptor)
            raise
        if gone:
            os.close(descriptor)
            return None
        return HeldFile(path, status, descriptor, self)
