# SPDX-License-Identifier: MIT
"""
Where the content of files waits until the new set is made: a folder that only this
process's user can look into, with names that say nothing, so that no name that a
server gives is ever used there.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from attrs import Factory, define, field, frozen

from nodecomm.sync.attributes import copy_extended, set_owner
from nodecomm.sync.disk_errors import disk_errors, local_error
from nodecomm.sync.folders import entry_from
from nodecomm.sync.hashing import new_hashes
from nodecomm.sync.model import LocalEntry, Wanted
from nodecomm.sync.posix import write_all
from nodecomm.sync.siblings import Identity
from nodecomm.wire.text import to_text

__all__ = [
    "Commit",
    "CommitReport",
    "FetchFolder",
    "Fetches",
    "FileSink",
    "Staging",
    "dress",
]

_CREATE = (
    os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
)

_ALGORITHMS = ("md5", "sha256")


@frozen
class Commit:
    """
    A new set that is on disk and about to take its place.

    Attributes:
        identity: Device and inode number of what the destination will be; it is in
            place if the destination has these. None where names are replaced one by
            one, so that there is no such moment.
    """

    identity: Identity | None


@frozen
class CommitReport:
    """
    What came of it. The new set is in place.

    Attributes:
        moved: Names that appeared, changed or vanished in the old set while the new
            one was being made, and have done so in the new one, too.
        conflicts: The same, where the new set has something else under the name: what
            appeared is in the previous set alone.
        locals: What is in place now, for what was wanted and nobody else touched;
            under `b""` what the destination itself is.
        warnings: What did not succeed after the sets had changed places, one line
            each.
    """

    moved: tuple[bytes, ...] = ()
    conflicts: tuple[bytes, ...] = ()
    locals: Mapping[bytes, LocalEntry] = Factory(dict)
    warnings: tuple[str, ...] = ()


#: Called when all is on disk and nothing has changed yet. What it raises ends the
#: update.
Before = Callable[[Commit], None]


class Staging(Protocol):
    """
    A new set that is being made. The methods block; one thread at a time may call
    them, except that sinks of different files may be used side by side.
    """

    def create(self, name: bytes, algorithms: Sequence[str] = ...) -> FileSink:
        """Begin the content of the file *name*, in place of what there was."""
        ...

    def assemble(self, wanted: Sequence[Wanted]) -> None:
        """Make the new set of what was fetched and what is there."""
        ...

    def commit(self, before: Before | None = None) -> CommitReport:
        """Let it take its place."""
        ...

    def discard(self) -> None:
        """Remove whatever of it has no place yet."""
        ...


@define(eq=False)
class FileSink:
    """
    The content of one file on its way to disk.

    Attributes:
        name: The name that it is for.
        label: What it is called in its folder.
        size: Bytes so far.
    """

    name: bytes
    label: bytes
    _descriptor: int
    _folder: int
    _hashes: dict[str, Any]
    size: int = field(default=0, init=False)
    closed: bool = field(default=False, init=False)

    def write(self, data: bytes) -> None:
        """
        Add to it.

        Raises:
            LocalError: The disk does not take it.
        """
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            raise local_error(error, f"write {to_text(self.name)}") from error
        self.size += len(data)
        for each in self._hashes.values():
            each.update(data)

    def close(self) -> None:
        """That was all."""
        descriptor, self._descriptor = self._descriptor, -1
        self.closed = True
        if descriptor >= 0:
            os.close(descriptor)

    def abort(self) -> None:
        """
        Throw it away. It may be called at any time, again, too. Never fails: what
        cannot be removed goes with its folder.
        """
        self.close()
        self.closed = False
        with suppress(OSError):
            os.unlink(self.label, dir_fd=self._folder)

    def digest(self, algorithm: str) -> bytes:
        """
        The digest of what was written.

        Raises:
            KeyError: It was not asked for at the beginning.
        """
        digest: bytes = self._hashes[algorithm].digest()
        return digest

    @property
    def md5(self) -> bytes:
        """The MD5 of what was written."""
        return self.digest("md5")

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of what was written."""
        return self.digest("sha256")


class FetchFolder:
    """
    The folder of the sinks.

    Args:
        folder: A descriptor of it, which stays the caller's.
    """

    def __init__(self, folder: int) -> None:
        self.folder = folder
        self._sinks: dict[bytes, FileSink] = {}
        self._labels = itertools.count()

    def create(self, name: bytes, algorithms: Sequence[str] = _ALGORITHMS) -> FileSink:
        """
        Begin the content of the file *name*. What was begun for it is thrown away.

        Raises:
            OSError: The disk does not take it.
        """
        earlier = self._sinks.pop(name, None)
        if earlier is not None:
            earlier.abort()
        label = b"%d" % next(self._labels)
        descriptor = os.open(label, _CREATE, 0o600, dir_fd=self.folder)
        sink = FileSink(name, label, descriptor, self.folder, new_hashes(algorithms))
        self._sinks[name] = sink
        return sink

    def finished(self, name: bytes) -> FileSink:
        """
        The sink of *name*, all written.

        Raises:
            ValueError: There is none, or it was not closed.
        """
        sink = self._sinks.get(name)
        if sink is None or not sink.closed:
            msg = f"the content of {name!r} is not there"
            raise ValueError(msg)
        return sink

    def dress(
        self,
        sink: FileSink,
        mode: int,
        owner: tuple[int, int] | None,
        mtime_ns: int | None,
    ) -> None:
        """
        Give a file its owner, mode and time. By its label, which nobody else can have
        made a link of: that takes half the calls.

        Raises:
            OSError: Something cannot be given.
        """
        if owner is not None:
            os.chown(sink.label, *owner, dir_fd=self.folder, follow_symlinks=False)
        # After the owner, a change of which takes set-uid bits away.
        os.chmod(sink.label, mode, dir_fd=self.folder)
        if mtime_ns is not None:
            os.utime(sink.label, ns=(mtime_ns, mtime_ns), dir_fd=self.folder)

    def close(self) -> None:
        """Close what is open."""
        for sink in self._sinks.values():
            if not sink.closed:
                sink.close()


class Fetches:
    """
    What every `Staging` begins with: it takes the content of files.
    """

    _fetch_folder: FetchFolder
    #: What the disk is asked for, for a message.
    _writing: str

    def create(
        self, name: bytes = b"", algorithms: Sequence[str] = _ALGORITHMS
    ) -> FileSink:
        """
        Begin the content of the file *name*, in place of what there was.

        Args:
            algorithms: The digests that are made while it is written.

        Raises:
            LocalError: The disk does not take it.
        """
        with disk_errors(self._writing):
            return self._fetch_folder.create(name, algorithms)


def dress(
    folder: int,
    name: bytes,
    mode: int,
    owner: tuple[int, int] | None,
    mtime_ns: int | None,
    model: int | None = None,
) -> LocalEntry:
    """
    Give a file its owner, mode and times. A link is not followed.

    Args:
        model: An open file whose access lists and extended attributes it gets.

    Returns:
        What it is then.

    Raises:
        OSError: Something cannot be given.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        if owner is not None:
            set_owner(descriptor, *owner)
        if model is not None:
            copy_extended(model, descriptor, remove=False)
        # Last: a change of owner takes set-uid bits away.
        os.fchmod(descriptor, mode)
        if mtime_ns is not None:
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        return entry_from(os.fstat(descriptor))
    finally:
        os.close(descriptor)
