# SPDX-License-Identifier: MIT
"""
Replies: the fixed texts, the status of a file, the listing of a folder.

The content of a file is no message at all: raw bytes, exactly as many as the status
said, without header or end mark.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from attrs import frozen

from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import MAX_PAYLOAD, encode_transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The one answer for what does not exist and what may not be had.
#: Source: CFEngine 3.21, CF_FAILEDSTR.
REFUSAL = b"BAD: Unspecified server refusal (see verbose server output)"

#: The answer to a malformed or unknown request; the server then closes.
DENIED = b"BAD: Request denied"

#: The digests differ, so the client should fetch. The words are upstream's: true
#: answers the question whether the file must be copied.
#: Source: CFEngine 3.21, CFD_TRUE and CFD_FALSE.
DIGEST_DIFFERS = b"CFD_TRUE"

#: The digests are equal. See `DIGEST_DIFFERS`.
DIGEST_EQUAL = b"CFD_FALSE"

#: The last name of a listing. A file of this very name cannot be listed.
#: Source: CFEngine 3.21, CFD_TERMINATOR.
TERMINATOR = b"---cfXen/gine/cfXen/gine---"

#: How the block begins that a real server puts into the content of a file that
#: changed while it was sent; a colon, a space and the path follow.
#: Source: CFEngine 3.21, CF_CHANGEDSTR1 and CF_CHANGEDSTR2.
CHANGED_PREFIX = b"BAD: File changed while copying"

#: How every error reply begins, the space included.
ERROR_PREFIX = b"BAD: "

#: How the replies to STAT and VERSION begin.
OK_PREFIX = b"OK:"

#: A packet of a listing is sent before it would have this many bytes.
#: Source: CFEngine 3.21, CF_BUFSIZE less 256.
PACKET_LIMIT = 3840

#: Most bytes in a listed name.
MAX_NAME = 255

#: Kinds of objects in the first number of a status.
REGULAR, LINK, DIRECTORY, FIFO, BLOCK_DEVICE, CHARACTER_DEVICE, SOCKET = range(7)

_NO_TARGET = encode_transaction(OK_PREFIX)

# The real reader takes at most so many characters for a number, the minus sign
# included; further digits would be taken for the next number.
_MAX_14 = 10**14 - 1
_MIN_14 = -(10**13 - 1)
_MAX_18 = 10**18 - 1
#: 43 bits, less than any of these limits.
_USUAL = (1 << 43) - 1
#: A folded inode number has at most nine digits, as upstream's own have ten.
_INO_FOLD = 10**9

_NUMBERS = 13

# Looking for a number in bytes is several times faster than for bytes.
_NUL = 0
_SLASH = ord("/")


def is_error(payload: bytes) -> bool:
    """
    Whether a reply's first frame is an error text.

    A listing that begins with a file called `BAD: ...` is none: it holds NULs.
    """
    return payload.startswith(ERROR_PREFIX) and _NUL not in payload


def version_reply(version: bytes) -> bytes:
    """
    The answer to VERSION.
    """
    return b"OK: " + version


def clock_error(server: int, client: int) -> bytes:
    """
    The answer to a STAT when the clocks, in seconds, are too far apart.
    """
    return b"BAD: Clocks are too far unsynchronized %d/%d" % (server, client)


def cannot_open_directory(path: bytes) -> bytes:
    """
    The answer to an OPENDIR of something that is no folder, called *path*. It is cut
    when the reply would be too long for a frame.
    """
    reply = b"BAD: cfengine, couldn't open dir %b" % path
    return reply[:MAX_PAYLOAD]


@frozen
class StatReply:
    """
    The status of an object, as STAT reports it.

    Attributes:
        kind: 0 regular, 1 symbolic link, 2 directory, 3 fifo, 4 block device,
            5 character device, 6 socket; of the link's target where it has one.
        mode: Permission bits, at most 0o7777, of the target.
        link_mode: Permission bits of the link itself; 0 when this is no link.
        uid: Owner of the target.
        gid: Group of the target.
        size: Bytes, of the target.
        atime: Last access, seconds since the epoch.
        mtime: Last change of the content, seconds since the epoch.
        ctime: Last change of the inode, seconds since the epoch.
        holes: 1 when the file takes less space than its size, else 0.
        ino: A number for the object, small; two names with one number and *nlink*
            over 1 are taken for hard links of one file, whatever *dev* says.
        nlink: Hard links.
        dev: Device number.
        target: The text of a link; empty when this is no link.
    """

    kind: int
    mode: int
    link_mode: int
    uid: int
    gid: int
    size: int
    atime: int
    mtime: int
    ctime: int
    holes: int
    ino: int
    nlink: int
    dev: int
    target: bytes = b""

    def encode(self) -> bytes:
        """
        Both frames, ready for the wire. See `encode_stat`.
        """
        return encode_stat(
            self.kind,
            self.mode,
            self.link_mode,
            self.uid,
            self.gid,
            self.size,
            self.atime,
            self.mtime,
            self.ctime,
            self.holes,
            self.ino,
            self.nlink,
            self.dev,
            self.target,
        )


def encode_stat(
    kind: int,
    mode: int,
    link_mode: int,
    uid: int,
    gid: int,
    size: int,
    atime: int,
    mtime: int,
    ctime: int,
    holes: int,
    ino: int,
    nlink: int,
    dev: int,
    target: bytes = b"",
) -> bytes:
    """
    The two frames that answer a STAT. The arguments are the fields of `StatReply`.

    The real client reads numbers of limited width, and takes what is too long for
    the next number: an inode number's last digit became the link count, and the
    agent then made hard links between unrelated files. So every number is kept
    within its width: sizes and times stay at the largest that fit, device numbers
    lose their first digits, and an inode number that does not fit is folded and
    sent with one link, so that nothing can be taken for a hard link of it.

    Raises:
        LocalProtocolError: The kind is not 0 to 6, or the target does not fit in a
            frame.
    """
    # The usual numbers all fit: none is negative, and none of these has more than
    # 43 bits, which is one question to all of them.
    if not (
        0 <= kind <= 6
        and 0 <= mode | link_mode <= 0o7777
        and 0 <= uid | gid | size | atime | mtime | ctime | ino | nlink | dev <= _USUAL
        and 0 <= holes <= 1
    ):
        if not 0 <= kind <= 6:
            raise LocalProtocolError("object kind", kind, "0 to 6")
        mode &= 0o7777
        link_mode &= 0o7777
        uid = max(0, min(uid, _MAX_14))
        gid = max(0, min(gid, _MAX_14))
        size = max(0, min(size, _MAX_18))
        atime = max(_MIN_14, min(atime, _MAX_14))
        mtime = max(_MIN_14, min(mtime, _MAX_14))
        ctime = max(_MIN_14, min(ctime, _MAX_14))
        holes = 1 if holes else 0
        nlink = max(0, min(nlink, _MAX_14))
        if not _MIN_14 <= ino <= _MAX_14:
            ino %= _INO_FOLD
            nlink = 1
        dev %= 10**18
    first = b"OK: %d %d %d %d %d %d %d %d %d %d %d %d %d" % (
        kind,
        mode,
        link_mode,
        uid,
        gid,
        size,
        atime,
        mtime,
        ctime,
        holes,
        ino,
        nlink,
        dev,
    )
    if target:
        return encode_transaction(first) + encode_transaction(OK_PREFIX + target)
    return encode_transaction(first) + _NO_TARGET


def parse_stat_reply(first: bytes, second: bytes) -> StatReply:
    """
    Read the two payloads that answer a STAT.

    Stricter than the real client, which accepts further numbers: exactly 13, each in
    the range of what it stands for.

    Raises:
        RemoteProtocolError: *first* is an error text or malformed, or *second* does
            not begin with `OK:`, holds a NUL, or names a target for what is no link.
    """
    usual = _USUAL_STATUS(first)
    if usual is not None and second == OK_PREFIX:
        numbers: Any = list(map(int, usual.groups()))
        if numbers[1] <= 0o7777 and numbers[2] <= 0o7777:
            return StatReply(*numbers)
    words = first.split()
    if len(words) != _NUMBERS + 1 or words[0] != OK_PREFIX:
        raise RemoteProtocolError("status", first, "OK: and 13 numbers")
    del words[0]
    # int() alone would also take underscores and plus signs.
    if not b"".join(words).replace(b"-", b"").isdigit():
        raise RemoteProtocolError("status", first, "OK: and 13 decimal numbers")
    try:
        values = [int(word) for word in words]
    except ValueError:
        raise RemoteProtocolError(
            "status", first, "OK: and 13 decimal numbers"
        ) from None
    for value, (name, low, high) in zip(values, _RANGES, strict=True):
        if not low <= value <= high:
            raise RemoteProtocolError(f"{name} in a status", value, f"{low} to {high}")
    target = second[len(OK_PREFIX) :]
    if not second.startswith(OK_PREFIX) or _NUL in target:
        raise RemoteProtocolError("status, second part", second, "OK:<link target>")
    kind, mode, link_mode, uid, gid, size, *last = values
    atime, mtime, ctime, holes, ino, nlink, dev = last
    if target and not link_mode and kind != LINK:
        raise RemoteProtocolError("link target", target, "only for a link")
    return StatReply(
        kind,
        mode,
        link_mode,
        uid,
        gid,
        size,
        atime,
        mtime,
        ctime,
        holes,
        ino,
        nlink,
        dev,
        target,
    )


#: A status whose numbers all are within `_RANGES` by their digits alone, the two modes
#: apart: nearly every one, read in a third of the time.
_USUAL_STATUS = re.compile(
    rb"OK: ([0-6]) ([0-9]{1,4}) ([0-9]{1,4}) ([0-9]{1,9}) ([0-9]{1,9}) ([0-9]{1,18})"
    rb" ([0-9]{1,13}) ([0-9]{1,13}) ([0-9]{1,13}) ([01]) ([0-9]{1,18}) ([0-9]{1,9})"
    rb" ([0-9]{1,18})"
).fullmatch

#: Name, smallest and largest of each number of a status.
_RANGES = (
    ("kind", 0, 6),
    ("mode", 0, 0o7777),
    ("link mode", 0, 0o7777),
    ("uid", -(2**31), 2**32 - 1),
    ("gid", -(2**31), 2**32 - 1),
    ("size", 0, 2**63 - 1),
    ("atime", _MIN_14, _MAX_14),
    ("mtime", _MIN_14, _MAX_14),
    ("ctime", _MIN_14, _MAX_14),
    ("holes", 0, 1),
    # The real server prints inode numbers as signed numbers of 32 bits.
    ("inode number", -(2**31), 2**64 - 1),
    ("link count", 0, 2**32 - 1),
    ("device number", 0, 2**64 - 1),
)


def encode_listing(names: Iterable[bytes]) -> Iterator[bytes]:
    """
    The frames that answer an OPENDIR, packed as the real server packs them.

    Each name ends in a NUL, each packet in one more; the last packet ends with
    `TERMINATOR` and has status `t`. A file that is called like the terminator has no
    form on the wire and is left out.

    Args:
        names: The names in the folder, in any order, `.` and `..` included.

    Raises:
        LocalProtocolError: A name is empty, longer than 255 bytes, or holds a slash
            or a NUL.
    """
    packet: list[bytes] = []
    used = 0
    for name in names:
        size = len(name)
        if not 0 < size <= MAX_NAME or _SLASH in name or _NUL in name:
            if name == TERMINATOR:
                continue
            raise LocalProtocolError("listed name", name, _NAME_LIMIT)
        size += 1
        if used + size >= PACKET_LIMIT:
            packet.append(b"\0")
            yield encode_transaction(b"\0".join(packet), more=True)
            packet = []
            used = 0
        packet.append(name)
        used += size
    packet.append(TERMINATOR + b"\0\0")
    yield encode_transaction(b"\0".join(packet))


_NAME_LIMIT = f"1 to {MAX_NAME} bytes without '/' and NUL"


class ListingParser:
    """
    The answer to an OPENDIR, packet by packet.

    The real agent stops at the terminator and cf-net at the status; a listing must
    have both in its last packet, so that one that was cut is never taken for a
    folder with fewer files.

    Attributes:
        finished: The last packet was read.
    """

    __slots__ = ("finished",)

    def __init__(self) -> None:
        self.finished = False

    def feed(self, payload: bytes, more: bool) -> list[bytes]:
        """
        Read one packet and return its names as they were sent, `.` and `..` included.

        Check `is_error` first: a refusal is no listing.

        Args:
            payload: The payload of a transaction.
            more: Whether its status says that more follow.

        Raises:
            RemoteProtocolError: A name is empty, longer than 255 bytes or holds a
                slash; the packet is cut or has anything after its end; terminator
                and status contradict each other; the listing was finished already.
        """
        if self.finished:
            raise RemoteProtocolError("listing", payload, "was finished already")
        names = payload.split(b"\0")
        # Each packet ends in two NULs, so the pieces end in two empty ones.
        if len(names) < 3 or names.pop() or names.pop():
            raise RemoteProtocolError("listing", payload, "names that end in a NUL")
        if names[-1] == TERMINATOR:
            names.pop()
            self.finished = True
        if self.finished == more:
            raise RemoteProtocolError(
                "listing", payload[-40:], "terminator and status t come together"
            )
        for name in names:
            if not 0 < len(name) <= MAX_NAME or _SLASH in name:
                raise RemoteProtocolError("listed name", name, _NAME_LIMIT)
        return names
