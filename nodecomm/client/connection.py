# SPDX-License-Identifier: MIT
"""
What every connection to a server is, whatever protocol it speaks: a decision about the
server's key, requests in a pipeline, an end that everybody who waits is told of.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, ITransport
from zope.interface import implementer

from nodecomm.client import endings
from nodecomm.client.errors import BadAnswer, ClientError
from nodecomm.client.pace import Pace
from nodecomm.client.pipeline import Pipeline
from nodecomm.client.requests import Requests
from nodecomm.client.stages import OVER, Stage, Step, after
from nodecomm.identity.keys import PublicKey, UnusableKey, check_sane
from nodecomm.transport.errors import failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure
    from typing_extensions import Self

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.answers import Answer
    from nodecomm.client.errors import Refused
    from nodecomm.client.timeouts import Timeouts
    from nodecomm.client.trust import IVoucher
    from nodecomm.identity.servers import ServerDecision

__all__ = ["Connection"]


@implementer(IProtocol)
class Connection(Requests):
    """
    One connection; `Dialer.connect` and `ClassicDialer.connect` make them.

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
        product: What the server calls itself, as far as is known; may be empty.
        protected: Whether what is sent can be neither read nor changed on the way.
        links: Whether a status tells that what was asked for is a symbolic link.
        stage: Where in its life the connection is.
        bytes_received: Without what TLS adds.
        bytes_sent: Without what TLS adds.
    """

    #: The steps of a connection that goes well, and where it begins.
    _table: ClassVar[Mapping[tuple[Stage, Step], Stage]]
    _first: ClassVar[Stage]
    #: The stages in which the server's part of the dialog is awaited.
    _dialog_stages: ClassVar[frozenset[Stage]]

    protected: ClassVar[bool]
    links: ClassVar[bool]

    def __init__(
        self,
        server: ServerAddress,
        voucher: IVoucher,
        *,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        now: Callable[[], float],
        timeouts: Timeouts,
    ) -> None:
        super().__init__()
        self.server = server
        self.server_key: PublicKey
        self.product = b""
        self.stage = self._first
        self.bytes_received = 0
        self.bytes_sent = 0
        #: Fires with this connection when its requests can leave; fails when it is
        #: over before.
        self.opened: Deferred[Any] = Deferred(self._cancel)
        self._voucher = voucher
        self._clock = clock
        self._monotonic = monotonic
        self._now = now
        self._timeouts = timeouts
        self._transport: Any = None
        self._address = ""
        self._pipeline = Pipeline(self, clock)
        self._dialog_began = 0.0
        self._deciding: Deferred[Any] | None = None
        self._undecidable: Failure | None = None
        #: Makes the error that ended the connection, a new one for each who waits.
        self._reason: Callable[[], ClientError] | None = None
        self._welcome_waiters: list[Deferred[Any]] = []
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
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """
        Whether nothing more can be asked for.
        """
        return self.stage in OVER

    def __repr__(self) -> str:
        """
        For logs and failed tests.
        """
        return f"<{type(self).__name__} {self.server} {self.stage.value}>"

    def when_welcomed(self) -> Deferred[Self]:
        """
        Fires with this connection when the server has accepted us; fails as a
        request does when the connection is over before.
        """
        if self.stage is Stage.OPEN:
            return succeed(self)
        if self._reason is not None:
            return fail(self._reason())
        waiter: Deferred[Self] = Deferred()
        self._welcome_waiters.append(waiter)
        return waiter

    # What each protocol does in its own way.

    def _connected(self) -> None:
        """
        TCP is connected, and the transport is there.
        """

    def _trusted(self) -> None:
        """
        The server's key is trusted; `DECIDING` is over.
        """
        raise NotImplementedError

    def _read_dialog(self, data: bytes) -> bytes:
        """
        Take bytes that came before the connection is open; returns those that
        belong to answers, if it is open now.
        """
        raise NotImplementedError

    def _dialog_late(self) -> Callable[[], ClientError]:
        """
        Why it ends when the dialog takes too long.
        """
        raise NotImplementedError

    def _why_unopened(
        self, stage: Stage, error: BaseException
    ) -> Callable[[], ClientError]:
        """
        What it means that the connection ended in *stage*, before it was open.
        """
        raise NotImplementedError

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
        if self.stage not in OVER:
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
        if self.stage not in OVER:
            self._leave(reason, self._drop)

    def _end_politely(self, reason: Callable[[], ClientError]) -> None:
        self._leave(reason, self._lose)

    def _lose(self) -> None:
        # Without TLS that waits for the server's end.
        self._transport.loseConnection()
        self._goodbye = self._clock.callLater(self._timeouts.goodbye, self._drop)

    def _leave(
        self, reason: Callable[[], ClientError], how: Callable[[], None]
    ) -> None:
        self._fire(Step.LEFT)
        self._reason = reason
        how()
        self._fail_all()

    def _fire(self, step: Step) -> None:
        self.stage = after(self.stage, step, self._table)

    def _fail_all(self) -> None:
        """
        Every request that has no answer, and whoever waits for the welcome, is told.
        """
        self._pace.end()
        deciding, self._deciding = self._deciding, None
        if deciding is not None:
            deciding.cancel()
        reason = self._reason
        if reason is None:
            return
        self._pipeline.end(reason)
        waiters, self._welcome_waiters = self._welcome_waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.errback(reason())

    # What the transport calls.

    def makeConnection(self, transport: ITransport) -> None:
        """
        TCP is connected.
        """
        stream: Any = transport
        self._transport = stream
        if self.stage in OVER:
            stream.abortConnection()
            return
        self._pipeline.round_trips = 1
        stream.setTcpNoDelay(True)
        self._address = endings.address_text(transport.getPeer())
        self._connected()

    def connectionMade(self) -> None:
        """
        Part of `IProtocol`; `makeConnection` does everything.
        """

    def dataReceived(self, data: bytes) -> None:
        """
        Bytes from the server.
        """
        self.bytes_received += len(data)
        self._pace.heard()
        if self.stage is not Stage.OPEN:
            data = self._read_dialog(data)
            if not data:
                return
        self._pipeline.receive(data)

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
        error: Any = reason.value
        if stage not in (Stage.DECIDING, Stage.OPEN):
            return self._why_unopened(stage, error)
        text = f"{self.server}: the server ended the connection"
        if self.outstanding:
            plural = "" if self.outstanding == 1 else "s"
            text += f" with {self.outstanding} request{plural} unanswered"
            text += self._why_unanswered()
        if isinstance(error, ConnectionDone):
            return endings.broken("closed", text)
        return endings.broken("reset", f"{text} ({error})")

    def _why_unanswered(self) -> str:
        """
        What a server may mean that ends the connection instead of an answer.
        """
        return ""

    # Whose key is it?

    def _judge(self, found: Any) -> None:
        """
        The server has proved to hold the key *found*: may it?
        """
        key: PublicKey | None = None
        try:
            key = (
                found
                if isinstance(found, PublicKey)
                else PublicKey.from_cryptography(found)
            )
            check_sane(key)
        except UnusableKey as error:
            self._end_politely(endings.unusable_key(self.server, key, error))
            return
        self.server_key = key
        try:
            decision = self._voucher.check(key)
        except Exception as error:
            self._undecided(failure_of(error))
            return
        if not isinstance(decision, Deferred):
            self._decided(decision)
            return
        # Nothing that the server says counts before its key is trusted.
        self._transport.pauseProducing()
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
                endings.untrusted(self.server, self._address, self.server_key, decision)
            )
            return
        self._fire(Step.TRUSTED)
        self._trusted()

    def _await_dialog(self) -> None:
        """
        From now on the server's part of the dialog is awaited.
        """
        self._dialog_began = self._monotonic()
        self._pace.begin(self.bytes_received, self._pipeline.answered)

    def _ready(self) -> None:
        """
        Requests may leave.
        """
        self._pipeline.begin()
        if not self.opened.called:
            self.opened.callback(self)

    def _accepted(self) -> None:
        """
        The server has accepted us, and the connection is open.
        """
        if self._pipeline.head is None:
            self._pace.end()
        waiters, self._welcome_waiters = self._welcome_waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(self)

    # What the pipeline calls.

    def was_refused(self, answer: Answer, error: Refused) -> None:
        """
        The server refused what *answer* stands for; whoever waited has been told.
        """

    def write_record(self, data: bytes) -> None:
        """
        Send *data* with one write.
        """
        self.bytes_sent += len(data)
        self._transport.write(data)

    def awaiting(self, anything: bool) -> None:
        """
        Whether an answer is awaited now.
        """
        if anything:
            self._pace.begin(self.bytes_received, self._pipeline.answered)
        elif self.stage is Stage.OPEN:
            self._pace.end()

    def unacceptable(self, code: str, path: bytes, what: str) -> None:
        """
        Nothing that comes after this can be believed.
        """
        text = endings.about(self.server, path, f"not what was asked for: {what}")
        self._end(partial(BadAnswer, code, text))

    def not_taken(self, path: bytes, error: Exception) -> None:
        """
        What comes cannot be put anywhere.
        """
        text = endings.about(self.server, path, f"not taken: {error}")
        self._end(endings.broken("aborted", text))

    # Time.

    def _look(self, now: float) -> bool:
        """
        Has the server been waited for long enough? Says whether to look again.
        """
        timeouts = self._timeouts
        if self.stage in self._dialog_stages:
            if now - self._dialog_began >= timeouts.dialog:
                self._end(self._dialog_late())
                return False
            return True
        head = self._pipeline.head
        if self.stage is not Stage.OPEN or head is None:
            return False
        if self._still:
            self._pace.restart(self.bytes_received, self._pipeline.answered)
            return True
        patience = timeouts.answer if head.patience is None else head.patience
        if now - self._pace.silent_since >= patience:
            what = f"nothing came for {patience:g} s"
            text = endings.about(self.server, head.path, what)
            self._end(endings.broken("timeout", text))
            return False
        if head.patience is not None:
            # The server reads a file meanwhile; that is no slowness.
            self._pace.restart_rate(self.bytes_received, self._pipeline.answered)
        elif self._pace.too_slow(
            now, timeouts.slow, self.bytes_received, self._pipeline.answered
        ):
            what = f"too little came in {timeouts.slow:g} s"
            text = endings.about(self.server, head.path, what)
            self._end(endings.broken("too-slow", text))
            return False
        return True
