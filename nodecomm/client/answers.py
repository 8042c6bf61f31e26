# SPDX-License-Identifier: MIT
"""
What is awaited from a server, one object for each request.

Bytes in, results out; no connection, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred

from nodecomm.client.errors import CodedError, Refused
from nodecomm.wire.commands import (
    check_path,
    encode_digest,
    encode_get,
    encode_opendir,
    encode_stat,
)
from nodecomm.wire.errors import SHOWN, RemoteProtocolError
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import (
    DIGEST_DIFFERS,
    DIGEST_EQUAL,
    ERROR_PREFIX,
    OK_PREFIX,
    REFUSAL,
    ListingParser,
    is_error,
    parse_stat_reply,
)
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodecomm.wire.framing import TransactionBuffer

__all__ = [
    "PENDING",
    "Answer",
    "ContentAnswer",
    "DigestAnswer",
    "ListingAnswer",
    "NothingAnswer",
    "SinkFailed",
    "StatAnswer",
    "Unacceptable",
    "VersionAnswer",
    "refused",
]

#: What `Answer.take` returns as long as bytes are missing.
PENDING: Final = object()

#: How the reply begins that says that the clocks are too far apart.
_CLOCK = b"BAD: Clocks are too far unsynchronized"


class Unacceptable(CodedError):  # noqa: N818
    """
    What came is no answer to what was asked: the words of a `BadAnswer`.
    """


class SinkFailed(Exception):  # noqa: N818
    """
    Whoever takes a file's content raised an exception.

    Attributes:
        error: That exception.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Answer:
    """
    An answer that is awaited. The constructors raise `LocalProtocolError` for a name
    that no request can carry.

    Attributes:
        path: What was asked for; empty where no object was.
        frame: The request as it goes out; empty once it is out.
        deferred: Who waits for it. Cancelling it changes nothing on the wire: what
            was asked is answered, and the answer passed over.
        trip: The round trip in which the answer comes; set when the request leaves.
        patience: Seconds of silence before it; None: as usual.
        parting: Why the connection cannot go on after this answer, as a code and a
            text; None: it can.
        alone: Nothing leaves behind this request before it is answered.
    """

    __slots__ = ("alone", "deferred", "frame", "parting", "path", "patience", "trip")

    def __init__(
        self, path: bytes, frame: bytes, patience: float | None = None
    ) -> None:
        self.path = path
        self.frame = frame
        self.patience = patience
        self.parting: tuple[str, str] | None = None
        self.alone = False
        self.trip = 0
        self.deferred: Deferred[Any] = Deferred()

    def take(self, buffer: TransactionBuffer) -> Any:
        """
        Take what belongs to this answer out of *buffer*.

        Returns:
            The result, a `Refused`, or `PENDING` when more bytes are needed.

        Raises:
            RemoteProtocolError: There is no frame where one must be.
            Unacceptable: It is no answer to this request.
            SinkFailed: Whoever takes the content could not.
        """
        raise NotImplementedError

    def unanswered(self, error: Exception) -> Exception:
        """
        What to tell whoever waits when *error* ended the connection before the answer
        was whole.
        """
        return error


def refused(path: bytes, payload: bytes) -> Refused:
    """
    The error that an error text stands for.
    """
    if payload == REFUSAL:
        code = "refused"
    elif payload.startswith(_CLOCK):
        code = "clock"
    else:
        code = "error"
    return Refused(code, path, payload)


def _shown(payload: bytes) -> str:
    more = "..." if len(payload) > SHOWN else ""
    return f"'{safe(to_text(payload[:SHOWN]))}'{more}"


class StatAnswer(Answer):
    """
    Awaits a `StatReply`: two frames, or one with an error text.
    """

    __slots__ = ("_first",)

    def __init__(
        self,
        path: bytes,
        client_time: int,
        encode: Callable[[int, bytes], bytes] = encode_stat,
    ) -> None:
        super().__init__(path, encode_transaction(encode(client_time, path)))
        self._first: bytes | None = None

    def take(self, buffer: TransactionBuffer) -> Any:
        """As `Answer.take`."""
        first = self._first
        if first is None:
            first = buffer.next_payload()
            if first is None:
                return PENDING
            if buffer.more:
                raise Unacceptable("bad-status", "a status that says more follows")
            if not first.startswith(OK_PREFIX):
                if is_error(first):
                    return refused(self.path, first)
                raise Unacceptable("bad-status", f"no status but {_shown(first)}")
            self._first = first
        second = buffer.next_payload()
        if second is None:
            return PENDING
        if buffer.more:
            raise Unacceptable("bad-status", "a status that says more follows")
        try:
            return parse_stat_reply(first, second)
        except RemoteProtocolError as error:
            raise Unacceptable("bad-status", str(error)) from None


class ListingAnswer(Answer):
    """
    Awaits the names in a folder, without `.` and `..`, each once.
    """

    __slots__ = ("_max_names", "_names", "_parser", "_size")

    def __init__(
        self,
        path: bytes,
        max_names: int,
        encode: Callable[[bytes], bytes] = encode_opendir,
    ) -> None:
        super().__init__(path, encode_transaction(encode(path)))
        self._max_names = max_names
        self._names: dict[bytes, None] = {}
        self._size = 0
        self._parser: ListingParser | None = None

    def take(self, buffer: TransactionBuffer) -> Any:
        """As `Answer.take`."""
        while (payload := buffer.next_payload()) is not None:
            payload = self._clear(payload)
            parser = self._parser
            if parser is None:
                if is_error(payload) and not buffer.more:
                    return refused(self.path, payload)
                parser = self._parser = ListingParser()
            try:
                names = parser.feed(payload, buffer.more)
            except RemoteProtocolError as error:
                raise Unacceptable("bad-listing", str(error)) from None
            self._size += len(names)
            # Counted before repeated names are taken out: a listing need not end.
            if self._size > self._max_names + 2:
                text = f"a listing of more than {self._max_names} names"
                raise Unacceptable("too-large", text)
            self._names.update(dict.fromkeys(names))
            if parser.finished:
                self._names.pop(b".", None)
                self._names.pop(b"..", None)
                return list(self._names)
        return PENDING

    def _clear(self, payload: bytes) -> bytes:
        """
        What the server meant to say with *payload*.
        """
        return payload


class DigestAnswer(Answer):
    """
    Awaits whether the server's file differs: exactly one of two words.
    """

    __slots__ = ()

    def __init__(
        self,
        path: bytes,
        digest: bytes,
        patience: float,
        encode: Callable[[bytes, bytes], bytes] = encode_digest,
    ) -> None:
        frame = encode_transaction(encode(path, digest))
        super().__init__(path, frame, patience)

    def take(self, buffer: TransactionBuffer) -> Any:
        """As `Answer.take`."""
        payload = buffer.next_payload()
        if payload is None:
            return PENDING
        if not buffer.more:
            if payload == DIGEST_EQUAL:
                return False
            if payload == DIGEST_DIFFERS:
                return True
            if is_error(payload):
                return refused(self.path, payload)
        text = f"{_shown(payload)} to the comparison of a digest"
        raise Unacceptable("bad-reply", text)


class VersionAnswer(Answer):
    """
    Awaits the text of the server's release.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(b"", encode_transaction(b"VERSION"))

    def take(self, buffer: TransactionBuffer) -> Any:
        """As `Answer.take`."""
        payload = buffer.next_payload()
        if payload is None:
            return PENDING
        if not buffer.more:
            if payload.startswith(OK_PREFIX):
                return payload[len(OK_PREFIX) :].strip()
            if payload.startswith(ERROR_PREFIX):
                return refused(self.path, payload)
        raise Unacceptable("bad-reply", f"{_shown(payload)} to VERSION")


class ContentAnswer(Answer):
    """
    Awaits the content of a file: raw bytes, as many as its status said.

    What the bytes are is not judged: an error text looks like content and content
    may look like an error text. Only a digest tells.
    """

    __slots__ = ("_sink", "left")

    def __init__(self, path: bytes, size: int, sink: Callable[[bytes], None]) -> None:
        super().__init__(path, encode_transaction(encode_get(path)))
        self._sink = sink
        #: Bytes that have not come yet.
        self.left = size

    def take(self, buffer: TransactionBuffer) -> Any:
        """As `Answer.take`."""
        data = buffer.take(self.left)
        if not data:
            return PENDING
        return self.pour(data)

    def pour(self, data: bytes) -> Any:
        """
        As `take`, for bytes that never were in a buffer: at most `left` of them.
        """
        self.left -= len(data)
        if not self.deferred.called:
            try:
                self._sink(data)
            except Exception as error:
                raise SinkFailed(error) from error
        return PENDING if self.left else None


class NothingAnswer(Answer):
    """
    The content of an empty file: nothing is asked, nothing comes, and it is complete
    when everything before it is. A request would only be a risk: bytes that came
    because the file has grown would belong to no answer.
    """

    __slots__ = ()

    def __init__(self, path: bytes) -> None:
        super().__init__(check_path(path), b"")

    def take(self, buffer: TransactionBuffer) -> None:
        """Complete."""
