# SPDX-License-Identifier: MIT
"""
Transactions: the frames that carry requests and most replies.

A frame is 8 bytes of header (`t` or `m`, a space, the payload's length in decimal,
NULs) and 1 to 4088 bytes of payload.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Bytes in a transaction header, NUL padding included.
#: Source: CFEngine 3.21, CF_INBAND_OFFSET.
HEADER_SIZE = 8

#: Most bytes in a payload: a frame fits in the real programs' buffer of 4096.
#: Source: CFEngine 3.21, CF_BUFSIZE less CF_INBAND_OFFSET.
MAX_PAYLOAD = 4088

#: Most bytes in one TLS record. The real reader takes a header or a payload with one
#: read, which never spans two records: a frame that a record boundary divides ends
#: the connection.
MAX_RECORD = 16384


class Transaction(NamedTuple):
    """
    One frame: its payload, and whether its status says that more follow.
    """

    payload: bytes
    more: bool


@lru_cache(maxsize=2 * MAX_PAYLOAD)
def _header(length: int, more: bool) -> bytes:
    if not 0 < length <= MAX_PAYLOAD:
        raise LocalProtocolError("payload length", length, f"1 to {MAX_PAYLOAD}")
    return (b"%b %d" % (b"m" if more else b"t", length)).ljust(HEADER_SIZE, b"\0")


def encode_transaction(payload: bytes, *, more: bool = False) -> bytes:
    """
    Put a header before *payload*: status `m` when *more* frames of this message
    follow, else `t`.

    Raises:
        LocalProtocolError: The payload is empty or longer than `MAX_PAYLOAD`.
    """
    return _header(len(payload), more) + payload


def join_frames(frames: Sequence[bytes]) -> list[bytes]:
    """
    Join whole frames to records: each is at most `MAX_RECORD` bytes, and no frame is in
    two of them.
    """
    ends = list(accumulate(map(len, frames)))
    if not ends:
        return []
    records = []
    at = size = 0
    while size < ends[-1]:
        end = max(bisect_right(ends, size + MAX_RECORD, at), at + 1)
        records.append(b"".join(frames[at:end]))
        at, size = end, ends[end - 1]
    return records


@lru_cache(maxsize=1024)
def _read_header(header: bytes) -> tuple[int, bool]:
    # The real reader scans for one character and a decimal number, so white space,
    # a plus sign and zeros before the digits, and anything after them, are accepted.
    status = header[:1]
    if status not in (b"t", b"m"):
        raise RemoteProtocolError("frame status", header, "must be t or m")
    text = header[1:].lstrip()
    digits = text[1:] if text.startswith(b"+") else text
    count = len(digits) - len(digits.lstrip(b"0123456789"))
    if not count:
        raise RemoteProtocolError("frame header", header, "must hold a length")
    length = int(digits[:count])
    if length > MAX_PAYLOAD:
        raise _bad_length(length)
    return length, status == b"m"


def _bad_length(length: int) -> RemoteProtocolError:
    return RemoteProtocolError("payload length", length, f"1 to {MAX_PAYLOAD}")


class TransactionBuffer:
    """
    Bytes received, taken out as transactions or as raw data.

    Add bytes with `feed`, then call `next_transaction` until it returns None. The
    result does not depend on how the bytes were cut. A caller that has asked for a
    file's content takes it with `take`.

    The buffer keeps what it was fed until it is taken out; whoever reads the
    network stops reading while too much waits here (`len(buffer)` bytes).

    Attributes:
        more: Whether the status of the frame taken out last says that more follow.
        takes_empty: Whether a payload may have no bytes.
    """

    __slots__ = (
        "_at",
        "_chunks",
        "_data",
        "_error",
        "_needed",
        "_size",
        "more",
        "takes_empty",
    )

    def __init__(self) -> None:
        # Unread bytes are _data[_at:], then _chunks; their number is _size. Chunks
        # are joined only once _needed bytes are there, so that bytes that come one
        # by one are not copied again and again.
        self._data = b""
        self._at = 0
        self._chunks: list[bytes] = []
        self._size = 0
        self._needed = HEADER_SIZE
        self._error: RemoteProtocolError | None = None
        self.more = False
        self.takes_empty = False

    def __len__(self) -> int:
        """
        Bytes that wait here.
        """
        return self._size

    def feed(self, data: bytes) -> None:
        """
        Add bytes as received. They are dropped once the stream is in error.
        """
        if self._error is not None:
            return
        if self._size:
            self._chunks.append(data)
            self._size += len(data)
        else:
            self._data = data
            self._at = 0
            self._size = len(data)

    def next_transaction(self) -> Transaction | None:
        """
        As `next_payload`, with the frame's status.

        Raises:
            RemoteProtocolError: As there.
        """
        payload = self.next_payload()
        return None if payload is None else Transaction(payload, self.more)

    def next_payload(self) -> bytes | None:
        """
        Take out the payload of the next transaction, or return None when more bytes
        are needed.

        Raises:
            RemoteProtocolError: The header is malformed or its length is outside 1
                to `MAX_PAYLOAD`. Every later call raises it again.
        """
        size = self._size
        if size < self._needed:
            if self._error is not None:
                raise self._error
            return None
        at = self._at
        data = self._data
        if len(data) < at + self._needed:
            data = self._join()
            at = 0
        start = at + HEADER_SIZE
        try:
            length, self.more = _read_header(data[at:start])
            if not length and not self.takes_empty:
                raise _bad_length(length)
        except RemoteProtocolError as error:
            self._fail(error)
            raise
        end = start + length
        left = size - HEADER_SIZE - length
        if left < 0:
            self._needed = HEADER_SIZE + length
            return None
        if end > len(data):
            data = self._join()
            start, end = HEADER_SIZE, HEADER_SIZE + length
        payload = data[start:end]
        self._needed = HEADER_SIZE
        self._size = left
        if left:
            self._at = end
        else:
            self._data = b""
            self._at = 0
        return payload

    def take(self, size: int) -> bytes:
        """
        Take out up to *size* raw bytes: fewer when fewer are here, maybe none.

        Raises:
            RemoteProtocolError: The stream is in error.
        """
        if self._error is not None:
            raise self._error
        size = min(size, self._size)
        if size <= 0:
            return b""
        if len(self._data) < self._at + size:
            self._join()
        end = self._at + size
        taken = self._data[self._at : end]
        self._needed = HEADER_SIZE
        self._size -= size
        if self._size:
            self._at = end
        else:
            self._data = b""
            self._at = 0
        return taken

    def _join(self) -> bytes:
        data = self._data = b"".join([self._data[self._at :], *self._chunks])
        self._at = 0
        self._chunks.clear()
        return data

    def _fail(self, error: RemoteProtocolError) -> None:
        self._error = error
        self._data = b""
        self._at = 0
        self._chunks.clear()
        self._size = 0
