# SPDX-License-Identifier: MIT
"""
A connection to a server, from the handshake on: the dialog, then requests in a
pipeline.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, cast

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IProtocol, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from nodecomm.client import endings
from nodecomm.client.answers import (
    PENDING,
    Answer,
    ContentAnswer,
    DigestAnswer,
    ListingAnswer,
    NothingAnswer,
    SinkFailed,
    StatAnswer,
    Unacceptable,
    VersionAnswer,
)
from nodecomm.client.errors import BadAnswer, ClientError, Refused
from nodecomm.client.pace import Pace
from nodecomm.client.timeouts import DIGEST_RATE
from nodecomm.identity.keys import PublicKey, UnusableKey, check_sane
from nodecomm.transport.errors import failure_of
from nodecomm.transport.interfaces import MAX_RECORD
from nodecomm.wire.commands import (
    encode_digest,
    encode_get,
    encode_opendir,
    encode_stat,
)
from nodecomm.wire.dialog import ServerHello
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import TransactionBuffer, encode_transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.memory import Recalled
    from nodecomm.client.timeouts import Timeouts
    from nodecomm.identity.servers import ServerDecision
    from nodecomm.transport.interfaces import ITLSRecords
    from nodecomm.wire.dialog import ClientDialog
    from nodecomm.wire.replies import StatReply

__all__ = ["DEFAULT_WINDOW", "MAX_NAMES", "ClientSession", "Stage", "Step"]

#: Requests that are out at a time. The real server answers any number in order; what
#: a round trip of 100 ms needs is some hundred.
DEFAULT_WINDOW = 256

#: Names in a listing that are accepted unless the caller says otherwise.
MAX_NAMES = 1_000_000

#: How a nodecomm server's product begins.
_NODECOMM = b"nodecomm-server"


class Stage(Enum):
    """
    The life of a session.
    """

    HANDSHAKING = "TLS handshake"
    DECIDING = "deciding about the server's key"
    GREETING = "waiting for the server's first line"
    IDENTIFYING = "waiting for the welcome"
    OPEN = "welcomed"
    ENDING = "waiting for the end"
    ENDED = "ended"


class Step(Enum):
    """
    What moves a session.
    """

    HANDSHAKEN = "handshake completed"
    TRUSTED = "key trusted"
    IDENTIFIED = "own lines sent"
    WELCOMED = "welcome received"
    LEFT = "closed or dropped from this side"
    LOST = "connection lost"


#: The steps of a session that goes well, `LEFT` and `LOST` apart: those lead from
#: any stage to `ENDING` and `ENDED`. Own lines are sent when the server's first line
#: has come, or before it to a server that is known.
TABLE: dict[tuple[Stage, Step], Stage] = {
    (Stage.HANDSHAKING, Step.HANDSHAKEN): Stage.DECIDING,
    (Stage.DECIDING, Step.TRUSTED): Stage.GREETING,
    (Stage.GREETING, Step.IDENTIFIED): Stage.IDENTIFYING,
    (Stage.IDENTIFYING, Step.WELCOMED): Stage.OPEN,
}

#: Stages in which requests leave.
_ASKING = (Stage.IDENTIFYING, Stage.OPEN)

#: Stages in which nothing more can be asked for.
_OVER = (Stage.ENDING, Stage.ENDED)


class IAcquaintance(Protocol):
    """
    What is known about the server that was called, and what becomes of the call.
    """

    def check(self, key: PublicKey) -> ServerDecision | Deferred[ServerDecision]:
        """Whether the server may show this key."""

    def recall(self, key: PublicKey) -> Recalled | None:
        """What the server with this very key said last time."""

    def greeted(self, key: PublicKey, newest: int, product: bytes) -> None:
        """The server, with this key, said so."""

    def mistaken(self) -> None:
        """What was recalled turned out wrong."""

    def own_name(self) -> tuple[str, bytes]:
        """The digest of our own key, and our user name."""


@implementer(IProtocol, IHandshakeListener)
class ClientSession:
    """
    One connection; `Dialer.connect` makes it.

    Requests may be made at once; they leave in the order in which they were made, as
    many as the window allows without waiting for answers, and are answered in that
    order. A request that the server refuses fails with `Refused` and the connection
    goes on. Whatever else goes wrong ends the connection, and every request that has
    no whole answer fails with an error of its own: `ConnectionBroken`, `BadAnswer` or
    `Rejected`. To cancel a request's Deferred is allowed at any time and changes
    nothing for the others.

    Attributes:
        server: Who was called.
        server_key: The key that the server proved to hold; known once connected.
        product: What the server calls itself; until its first line has come, what
            it called itself last time, or empty.
        early: Whether our lines left before the server's first line came.
        stage: Where in its life the session is.
        round_trips: The longest chain of messages of which each waited for the one
            before, connecting and TLS included.
        bytes_received: Plaintext.
        bytes_sent: Plaintext.
        requests: How many left.
    """

    def __init__(
        self,
        server: ServerAddress,
        dialog: ClientDialog,
        acquaintance: IAcquaintance,
        *,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        now: Callable[[], float],
        timeouts: Timeouts,
    ) -> None:
        self.server = server
        self.server_key: PublicKey
        self.product = b""
        self.early = False
        self.stage = Stage.HANDSHAKING
        self.round_trips = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.requests = 0
        #: Fires with this session when its requests can leave; fails when the
        #: connection is over before.
        self.opened: Deferred[ClientSession] = Deferred(self._cancel)
        self._dialog = dialog
        self._acquaintance = acquaintance
        self._clock = clock
        self._monotonic = monotonic
        self._now = now
        self._timeouts = timeouts
        self._transport: Any = None
        self._address = ""
        self._window = DEFAULT_WINDOW
        #: Requests that are out, and those that wait for the window.
        self._expected: deque[Answer] = deque()
        self._waiting: deque[Answer] = deque()
        self._buffer = TransactionBuffer()
        self._answered = 0
        self._pauses = 0
        self._running = False
        self._flush_asked = False
        self._hello_seen = False
        self._dialog_began = 0.0
        self._dialog_trip = 0
        self._deciding: Deferred[Any] | None = None
        self._undecidable: Failure | None = None
        #: Makes the error that ended the session, a new one for each who waits.
        self._reason: Callable[[], ClientError] | None = None
        self._welcome_waiters: list[Deferred[ClientSession]] = []
        self._end_waiters: list[Deferred[None]] = []
        self._goodbye: Any = None
        self._pace = Pace(
            clock,
            monotonic,
            self._look,
            min(timeouts.answer, timeouts.dialog, timeouts.slow),
        )

    # What it is.

    @property
    def version(self) -> int:
        """
        The protocol version that is spoken.
        """
        return self._dialog.version

    @property
    def is_nodecomm(self) -> bool:
        """
        Whether the server is nodecomm, as far as is known.
        """
        return self.product.startswith(_NODECOMM)

    @property
    def closed(self) -> bool:
        """
        Whether nothing more can be asked for.
        """
        return self.stage in _OVER

    @property
    def outstanding(self) -> int:
        """
        Requests without a whole answer, those that have not left included.
        """
        return len(self._expected) + len(self._waiting)

    @property
    def window(self) -> int:
        """
        How many requests are out at a time; 1 waits for each answer.
        """
        return self._window

    @window.setter
    def window(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a window of {size} requests; at least 1")
        self._window = size
        self._flush_soon()

    def __repr__(self) -> str:
        """
        For logs and failed tests.
        """
        return f"<ClientSession {self.server} {self.stage.value}>"

    def when_welcomed(self) -> Deferred[ClientSession]:
        """
        Fires with this session when the server has accepted us; fails as a request
        does when the connection is over before.
        """
        if self.stage is Stage.OPEN:
            return succeed(self)
        if self._reason is not None:
            return fail(self._reason())
        waiter: Deferred[ClientSession] = Deferred()
        self._welcome_waiters.append(waiter)
        return waiter

    # Requests.

    def stat(self, path: bytes) -> Deferred[StatReply]:
        """
        What is at *path*.

        Errors, here and below: `Refused`; those that end the connection; and
        `LocalProtocolError` for a name that no request can carry.
        """
        try:
            frame = encode_transaction(encode_stat(int(self._now()), path))
        except LocalProtocolError as error:
            return fail(error)
        return self._ask(StatAnswer(path, frame))

    def opendir(
        self, path: bytes, *, max_names: int = MAX_NAMES
    ) -> Deferred[list[bytes]]:
        """
        The names in a folder, each checked to be one part of a path, without `.` and
        `..`. A listing that is longer than *max_names* ends the connection.
        """
        try:
            frame = encode_transaction(encode_opendir(path))
        except LocalProtocolError as error:
            return fail(error)
        return self._ask(ListingAnswer(path, frame, max_names))

    def differs(
        self, path: bytes, digest: bytes, size: int | None = None
    ) -> Deferred[bool]:
        """
        Whether the server's file has another digest.

        Args:
            path: Its name.
            digest: MD5, 16 bytes.
            size: The file's size in bytes if known: the server reads it all, and is
                given time for that.
        """
        try:
            frame = encode_transaction(encode_digest(path, digest))
        except LocalProtocolError as error:
            return fail(error)
        timeouts = self._timeouts
        patience = timeouts.digest
        if size is not None:
            patience = max(timeouts.answer, size / DIGEST_RATE)
        return self._ask(DigestAnswer(path, frame, patience))

    def get(
        self, path: bytes, size: int, sink: Callable[[bytes], None]
    ) -> Deferred[None]:
        """
        The content of a file of which a status said that it is an ordinary file of
        *size* bytes.

        Whether those bytes are the file's is not known before its digest has been
        compared: the protocol has no error that would show here.

        Args:
            path: Its name.
            size: Bytes; of 0 nothing is asked.
            sink: Called with pieces that are *size* bytes together, never empty,
                never more. When it raises, the connection is dropped, and this
                request fails with what it raised.
        """
        answer: Answer
        try:
            if size > 0:
                frame = encode_transaction(encode_get(path))
                answer = ContentAnswer(path, frame, size, sink)
            else:
                answer = NothingAnswer(path, b"")
        except LocalProtocolError as error:
            return fail(error)
        return self._ask(answer)

    def version_text(self) -> Deferred[bytes]:
        """
        The release that the server says it is.
        """
        return self._ask(VersionAnswer(b"", encode_transaction(b"VERSION")))

    def _ask(self, answer: Answer) -> Deferred[Any]:
        if self._reason is not None:
            return fail(self._reason())
        self._waiting.append(answer)
        self._flush_soon()
        return answer.deferred

    # Back-pressure.

    def pause(self) -> None:
        """
        Deliver nothing until `resume` has been called as often.
        """
        self._pauses += 1
        if self._pauses == 1 and self.stage in _ASKING:
            self._transport.pauseProducing()

    def resume(self) -> None:
        """
        Undo one `pause`.
        """
        if not self._pauses:
            raise RuntimeError("resume without pause")
        self._pauses -= 1
        if self._pauses == 0 and self.stage in _ASKING:
            self._pace.restart(self.bytes_received, self._answered)
            self._transport.resumeProducing()
            # What is here already is delivered in the next turn, not inside a call
            # of whoever resumes.
            self._flush_soon()

    # The end.

    def close(self) -> Deferred[None]:
        """
        Say good-bye; fires when the server's end has been seen, so that the next
        connection is not one too many for it. Requests without an answer fail, and
        then the connection is dropped.
        """
        if self.stage is Stage.ENDED:
            return succeed(None)
        ended: Deferred[None] = Deferred()
        self._end_waiters.append(ended)
        if self.stage not in _OVER:
            text = f"{self.server}: the connection was closed from this side"
            reason = endings.broken("closed", text)
            if self.stage is Stage.OPEN and not self.outstanding:
                self._leave(reason, self._say_goodbye)
            else:
                self._leave(reason, self._drop)
        return ended

    def abort(self, code: str, text: str) -> None:
        """
        Drop the connection. Requests without an answer fail with `ConnectionBroken`
        of this code and text.
        """
        self._end(endings.broken(code, text))

    def _say_goodbye(self) -> None:
        transport = self._transport
        # The end shows only to who reads.
        transport.resumeProducing()
        transport.loseWriteConnection()
        self._goodbye = self._clock.callLater(self._timeouts.goodbye, self._drop)

    def _drop(self) -> None:
        self._goodbye = None
        transport = self._transport
        if transport is not None:
            transport.abortConnection()

    def _cancel(self, _deferred: object) -> None:
        self.abort("cancelled", f"{self.server}: connecting was cancelled")

    def _end(self, reason: Callable[[], ClientError]) -> None:
        if self.stage not in _OVER:
            self._leave(reason, self._drop)

    def _leave(
        self, reason: Callable[[], ClientError], how: Callable[[], None]
    ) -> None:
        self._fire(Step.LEFT)
        self._reason = reason
        how()
        self._fail_all()

    def _fire(self, step: Step) -> None:
        if step is Step.LEFT:
            self.stage = Stage.ENDING
        elif step is Step.LOST:
            self.stage = Stage.ENDED
        else:
            self.stage = TABLE[self.stage, step]

    def _fail_all(self) -> None:
        """
        Every request that has no answer, and whoever waits for the welcome, is told.
        """
        self._pace.end()
        deciding, self._deciding = self._deciding, None
        if deciding is not None:
            deciding.cancel()
        reason = self._reason
        answers = [*self._expected, *self._waiting]
        self._expected.clear()
        self._waiting.clear()
        self._buffer = TransactionBuffer()
        waiters: list[Deferred[Any]] = [answer.deferred for answer in answers]
        waiters += self._welcome_waiters
        self._welcome_waiters = []
        for waiter in waiters:
            if not waiter.called and reason is not None:
                waiter.errback(reason())

    # What the transport calls.

    def makeConnection(self, transport: ITransport) -> None:
        """
        TCP is connected.
        """
        records = self._transport = cast("ITLSRecords", transport)
        if self.stage in _OVER:
            records.abortConnection()
            return
        self.round_trips = 1
        records.setTcpNoDelay(True)
        self._address = endings.address_text(transport.getPeer())

    def connectionMade(self) -> None:
        """
        Part of `IProtocol`; `makeConnection` does everything.
        """

    def handshakeCompleted(self) -> None:
        """
        The server has proved to hold its key: may it?
        """
        if self.stage is not Stage.HANDSHAKING:
            return
        transport = self._transport
        self.round_trips += 1 if transport.tls_version == "TLSv1.3" else 2
        # In TLS 1.2 the server has the last word, and its first line comes with it.
        self._dialog_trip = self.round_trips + (transport.tls_version == "TLSv1.3")
        self._fire(Step.HANDSHAKEN)
        found = transport.peer_certificate_key()
        key: PublicKey | None = None
        try:
            key = PublicKey.from_cryptography(found)
            check_sane(key)
        except UnusableKey as error:
            self._end_politely(endings.unusable_key(self.server, key, error))
            return
        self.server_key = key
        try:
            decision = self._acquaintance.check(key)
        except Exception as error:
            self._undecided(failure_of(error))
            return
        if not isinstance(decision, Deferred):
            self._decided(decision)
            return
        # Nothing that the server says counts before its key is trusted.
        transport.pauseProducing()
        self._deciding = decision
        decision.addCallbacks(self._decided, self._undecided)

    def _undecided(self, failure: Failure) -> None:
        """
        The decision failed: a bug, or a disk that is full. Whoever dialed gets it.
        """
        self._deciding = None
        if self.stage is not Stage.DECIDING:
            failure.trap(CancelledError)  # type: ignore[no-untyped-call]
            return
        self._undecidable = failure
        text = f"{self.server}: no decision about its key: {failure.value}"
        self._end_politely(endings.broken("closed", text))

    def _decided(self, decision: ServerDecision) -> None:
        self._deciding = None
        if self.stage is not Stage.DECIDING:
            return
        if not decision.trusted:
            self._end_politely(
                endings.untrusted(self.server, self.server_key, decision)
            )
            return
        self._fire(Step.TRUSTED)
        self._dialog_began = self._monotonic()
        self._pace.begin(self.bytes_received, self._answered)
        self._transport.resumeProducing()
        recalled = self._acquaintance.recall(self.server_key)
        if recalled is not None and recalled.newest >= self._dialog.version:
            self.product = recalled.product
            self.early = True
            self._identify()

    def _end_politely(self, reason: Callable[[], ClientError]) -> None:
        self._leave(reason, self._transport.loseConnection)

    def _identify(self) -> None:
        """
        Send our lines; requests may follow at once.
        """
        self._dialog_trip = self.round_trips + 1
        for line in self._dialog.lines():
            self._write(line)
        self._fire(Step.IDENTIFIED)
        if not self.opened.called:
            self.opened.callback(self)

    def _write(self, data: bytes) -> None:
        self.bytes_sent += len(data)
        self._transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        """
        Bytes from the server.
        """
        self.bytes_received += len(data)
        self._pace.heard()
        if self.stage is not Stage.OPEN:
            if self.stage not in (Stage.GREETING, Stage.IDENTIFYING):
                return
            data = self._read_dialog(data)
            if not data:
                return
        buffer = self._buffer
        expected = self._expected
        if expected and not buffer and not self._pauses and not self._running:
            head = expected[0]
            if isinstance(head, ContentAnswer) and len(data) < head.left:
                # The middle of a file never goes through the buffer.
                try:
                    head.pour(data)
                except SinkFailed as error:
                    self._sink_failed(head, error)
                return
        buffer.feed(data)
        self._run()

    def _read_dialog(self, data: bytes) -> bytes:
        """
        Read the server's lines; returns what follows them.
        """
        dialog = self._dialog
        try:
            events = dialog.receive_data(data)
            for event in events:
                if isinstance(event, ServerHello):
                    self._greeted(event)
                else:
                    self._welcomed()
        except RemoteProtocolError as error:
            self._dialog_failed(str(error))
            return b""
        return dialog.trailing() if self.stage is Stage.OPEN else b""

    def _greeted(self, hello: ServerHello) -> None:
        self._hello_seen = True
        self.round_trips = max(self.round_trips, self._dialog_trip)
        self.product = hello.product
        self._acquaintance.greeted(self.server_key, hello.newest, hello.product)
        if self.stage is Stage.GREETING:
            self._identify()

    def _welcomed(self) -> None:
        if self.stage is not Stage.IDENTIFYING:
            return
        self.round_trips = max(self.round_trips, self._dialog_trip)
        self._fire(Step.WELCOMED)
        if not self._expected:
            self._pace.end()
        waiters, self._welcome_waiters = self._welcome_waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(self)

    def _dialog_failed(self, what: str) -> None:
        if self.early and not self._hello_seen:
            self._acquaintance.mistaken()
            self._end(endings.too_early(self.server, what))
        else:
            self._end(endings.dialog_failed(self.server, what))

    def connectionLost(self, reason: Failure) -> None:
        """
        The connection is over.
        """
        stage = self.stage
        self._fire(Step.LOST)
        self._transport = None
        goodbye, self._goodbye = self._goodbye, None
        if goodbye is not None:
            goodbye.cancel()
        if self._reason is None:
            self._reason = self._why(stage, reason)
        self._fail_all()
        if not self.opened.called:
            self.opened.errback(self._undecidable or self._reason())
        waiters, self._end_waiters = self._end_waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)

    def _why(self, stage: Stage, reason: Failure) -> Callable[[], ClientError]:
        """
        What it means that the connection ended in *stage*, not by our doing.
        """
        error = cast("BaseException", reason.value)
        if stage is Stage.HANDSHAKING:
            return endings.handshake_failed(self.server, self._address, error)
        if stage in (Stage.GREETING, Stage.IDENTIFYING):
            alert = endings.alert(error)
            if self.early and not self._hello_seen:
                self._acquaintance.mistaken()
                what = alert or "it ended the connection before its first line"
                return endings.too_early(self.server, what)
            if alert:
                return endings.dialog_failed(self.server, alert)
            if not self._hello_seen:
                what = "it ended the connection before its first line"
                return endings.dialog_failed(self.server, what)
            return endings.not_trusted(self.server, *self._acquaintance.own_name())
        text = f"{self.server}: the server ended the connection"
        if self._expected:
            text += f" with {len(self._expected)} requests unanswered"
        if isinstance(error, ConnectionDone):
            return endings.broken("closed", text)
        return endings.broken("reset", f"{text} ({error})")

    # Requests out, answers in.

    def _flush_soon(self) -> None:
        if not self._flush_asked and not self._running and self.stage in _ASKING:
            self._flush_asked = True
            self._clock.callLater(0, self._flush_now)

    def _flush_now(self) -> None:
        self._flush_asked = False
        if self.stage in _ASKING:
            self._run()

    def _run(self) -> None:
        """
        Deliver what has come and send what may leave, until neither moves.
        """
        if self._running:
            return
        self._running = True
        try:
            while True:
                self._deliver()
                if not self._refill():
                    break
        finally:
            self._running = False

    def _deliver(self) -> None:
        """
        Hand out the answers that have come whole.
        """
        if self.stage not in _ASKING:
            return
        expected = self._expected
        buffer = self._buffer
        head: Answer | None = None
        try:
            while expected and not self._pauses:
                head = expected[0]
                result = head.take(buffer)
                if result is PENDING:
                    return
                if not expected or expected[0] is not head:
                    # A sink ended the session.
                    return
                expected.popleft()
                self._answered += 1
                trip = head.trip
                self.round_trips = max(self.round_trips, trip)
                deferred = head.deferred
                if deferred.called:
                    continue
                if isinstance(result, Refused):
                    deferred.errback(result)
                else:
                    deferred.callback(result)
            if not expected and buffer:
                what = f"{len(buffer)} bytes that nothing was asked for"
                self._unacceptable("out-of-step", None, what)
        except RemoteProtocolError as error:
            self._unacceptable("out-of-step", head, str(error))
        except Unacceptable as error:
            self._unacceptable(error.code, head, error.text)
        except SinkFailed as error:
            if head is not None:
                self._sink_failed(head, error)

    def _unacceptable(self, code: str, answer: Answer | None, what: str) -> None:
        path = b"" if answer is None else answer.path
        text = endings.about(self.server, path, f"not what was asked for: {what}")
        self._end(lambda: BadAnswer(code, text))

    def _sink_failed(self, head: Answer, failed: SinkFailed) -> None:
        if self._expected and self._expected[0] is head:
            self._expected.popleft()
        text = endings.about(self.server, head.path, f"not taken: {failed.error}")
        self._end(endings.broken("aborted", text))
        if not head.deferred.called:
            head.deferred.errback(failed.error)

    def _refill(self) -> bool:
        """
        Send what the window allows; says whether something is complete already.

        The window is filled when it is half empty: one record then carries many
        requests.
        """
        waiting = self._waiting
        expected = self._expected
        if self.stage not in _ASKING:
            return False
        room = self._window - len(expected)
        if waiting and (room >= len(waiting) or 2 * room >= self._window):
            self._send(room)
        if not expected:
            if self.stage is Stage.OPEN:
                self._pace.end()
            return bool(self._buffer) and not self._pauses
        self._pace.begin(self.bytes_received, self._answered)
        return isinstance(expected[0], NothingAnswer) and not self._pauses

    def _send(self, room: int) -> None:
        """
        Send up to *room* requests, as many in a record as have room there whole.
        """
        waiting = self._waiting
        expected = self._expected
        trip = self.round_trips + 1
        record: list[bytes] = []
        size = 0
        while waiting and room > 0:
            answer = waiting.popleft()
            if answer.deferred.called:
                # Cancelled before it left.
                continue
            room -= 1
            frame = answer.frame
            expected.append(answer)
            if not frame:
                continue
            answer.frame = b""
            answer.trip = trip
            self.requests += 1
            size += len(frame)
            if size > MAX_RECORD:
                self._write(b"".join(record))
                record.clear()
                size = len(frame)
            record.append(frame)
        if record:
            self._write(b"".join(record))

    # Time.

    def _look(self, now: float) -> bool:
        """
        Has the server been waited for long enough? Says whether to look again.
        """
        timeouts = self._timeouts
        if self.stage in (Stage.GREETING, Stage.IDENTIFYING):
            if now - self._dialog_began >= timeouts.dialog:
                seconds = timeouts.dialog
                self._end(endings.dialog_timeout(self.server, seconds))
                return False
            return True
        if self.stage is not Stage.OPEN or not self._expected:
            return False
        if self._pauses:
            self._pace.restart(self.bytes_received, self._answered)
            return True
        head = self._expected[0]
        patience = timeouts.answer if head.patience is None else head.patience
        if now - self._pace.silent_since >= patience:
            what = f"nothing came for {patience:g} s"
            text = endings.about(self.server, head.path, what)
            self._end(endings.broken("timeout", text))
            return False
        if head.patience is not None:
            # The server reads a file meanwhile; that is no slowness.
            self._pace.restart_rate(self.bytes_received, self._answered)
        elif self._pace.too_slow(
            now, timeouts.slow, self.bytes_received, self._answered
        ):
            what = f"too little came in {timeouts.slow:g} s"
            text = endings.about(self.server, head.path, what)
            self._end(endings.broken("too-slow", text))
            return False
        return True
