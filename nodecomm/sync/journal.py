# SPDX-License-Identifier: MIT
"""
What a run writes down before it lets a new set take its place, so that whoever comes
after a kill knows which of the folders is which, and what was in the old set when the
new one was made from it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from attrs import frozen

from nodecomm.sync.model import Kind, LocalEntry
from nodecomm.sync.posix import write_all
from nodecomm.sync.siblings import Identity, Site

__all__ = ["Journal", "Seen", "Share", "read_journal", "write_journal"]

_HEADER = b"nodecomm-journal 1"
_END = b"end"

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
#: What opening a link, or a socket or device that nobody serves, fails with.
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV)

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Share(Enum):
    """
    What the new set took from the old one under a name.
    """

    NOTHING = b"-"
    LINK = b"l"
    COPY = b"c"
    #: A local object, which the server does not have, as a link or a folder.
    CARRIED = b"L"
    #: A local object of which only a copy could be made.
    CARRIED_COPY = b"C"


_SHARES = {share.value: share for share in Share}
_KINDS = {
    Kind.FILE: b"f",
    Kind.FOLDER: b"d",
    Kind.LINK: b"l",
    Kind.OTHER: b"o",
}
_LETTERS = {letter: kind for kind, letter in _KINDS.items()}


class Seen(NamedTuple):
    """
    An object of the old set when it was looked at.
    """

    kind: Kind
    share: Share
    ino: int
    size: int
    mtime_ns: int

    def same(self, entry: LocalEntry) -> bool:
        """Whether *entry* is that object, its content as it was."""
        if entry.kind is not self.kind or entry.ino != self.ino:
            return False
        if self.kind is Kind.FOLDER:
            return True
        return (entry.size, entry.mtime_ns) == (self.size, self.mtime_ns)


@frozen
class Journal:
    """
    A change of sets that has begun.

    Attributes:
        identity: The new set's root.
        old: Where the old set stands once the new one is in place; empty: there was
            none.
        slot: Where the new set stands when the destination is a link; else empty.
        taken: When the old set was looked at, civil time in nanoseconds.
        seen: What was in it.
    """

    identity: Identity
    old: bytes
    slot: bytes
    taken: int
    seen: Mapping[bytes, Seen]


def write_journal(site: Site, journal: Journal) -> None:
    """
    Put it on disk, durably.

    Raises:
        OSError: It could not be written.
    """
    fields = [
        _HEADER,
        b"%d %d" % journal.identity,
        journal.old,
        journal.slot,
        b"%d" % journal.taken,
    ]
    for name, seen in journal.seen.items():
        fields.append(name)
        fields.append(
            b"%b %b %d %d %d"
            % (_KINDS[seen.kind], seen.share.value, seen.ino, seen.size, seen.mtime_ns)
        )
    fields.append(_END)
    descriptor = os.open(site.journal, _FLAGS, 0o600, dir_fd=site.folder)
    try:
        write_all(descriptor, b"\0".join(fields))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    site.sync()


def read_journal(site: Site) -> Journal | None:
    """
    The one that a killed run left; None when there is none, or it was not written to
    its end, which means that nothing had changed places yet. One that this process's
    user has not written says nothing: in a folder that others may write to, it would
    let them say what belongs into the destination.

    Raises:
        OSError: It cannot be read.
    """
    try:
        descriptor = os.open(site.journal, _READ, dir_fd=site.folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    # By descriptor: Python opens no folder as a file.
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        fields = file.read().split(b"\0")
    if len(fields) < 6 or fields[0] != _HEADER or fields[-1] != _END:
        return None
    try:
        dev, ino = map(int, fields[1].split())
        seen = {
            name: _parse(text)
            for name, text in zip(fields[5:-1:2], fields[6:-1:2], strict=True)
        }
        return Journal((dev, ino), fields[2], fields[3], int(fields[4]), seen)
    except (ValueError, LookupError):
        return None


def _parse(text: bytes) -> Seen:
    kind, share, ino, size, mtime_ns = text.split()
    return Seen(_LETTERS[kind], _SHARES[share], int(ino), int(size), int(mtime_ns))
