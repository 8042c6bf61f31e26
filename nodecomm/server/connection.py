# SPDX-License-Identifier: MIT
"""
One connection, whatever its peer says and asks: how far it has come, what arrives and
leaves, how long that may take, and how it ends.
"""

from __future__ import annotations

import sqlite3
from enum import Enum
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from nodecomm.server import posix
from nodecomm.server.pools import QueueFull
from nodecomm.storage.database import (
    DatabaseAway,
    DatabaseClosed,
    DatabaseOverloaded,
)
from nodecomm.storage.migrations import DatabaseTooNew
from nodecomm.storage.postgres_place import DatabaseUnusable
from nodecomm.wire.framing import TransactionBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodecomm.identity.peer import Peer
    from nodecomm.server.answers import AnswerQueue
    from nodecomm.server.core import ServerFactory

__all__ = ["INPUT_LIMIT", "PeerConnection", "SessionState"]

#: Bytes of requests that may wait here before reading stops; a record and a frame.
INPUT_LIMIT = 32_768

#: Seconds that a closed connection may take to say goodbye.
_GOODBYE = 10.0


#: What is no mistake of this program: a full disk, a locked database, one that is away.
_IN_THE_WAY = (
    OSError,
    sqlite3.Error,
    DatabaseAway,
    DatabaseClosed,
    DatabaseOverloaded,
    DatabaseTooNew,
    DatabaseUnusable,
)


class SessionState(Enum):
    """
    How far a connection has come.
    """

    HANDSHAKE = "handshake"
    CHECKING_KEY = "checking key"
    DIALOG = "dialog"
    TRUSTING = "trusting"
    PROVING = "proving"
    PREPARING = "preparing"
    READY = "ready"
    CLOSING = "closing"
    LOST = "lost"


#: Compared with at every record: a member of an Enum takes longer to look up.
_READY = SessionState.READY


@implementer(IPushProducer)
class PeerConnection(Protocol):
    """
    The server's end of one connection. How the peer shows who it is, is a matter of
    the classes that are made from this one: they take over `_dialog_data`. So is what
    it may ask then: `_work`.

    Attributes:
        state: How far it has come.
        peer: Who is at the other end, as far as it is known.
        requests: How many requests were taken.
        bytes_in: Bytes received, the dialog included.
        reason: Why the connection ended.
        admitted: Whether the peer was welcomed.
        distrusted: Whether the peer was refused for its key, name or dialog.
    """

    transport: Any

    def __init__(self, server: ServerFactory, peer: Peer, state: SessionState) -> None:
        self._server = server
        self.peer = peer
        self.state = state
        self.requests = 0
        self.bytes_in = 0
        self.reason = ""
        self.admitted = False
        self.distrusted = False
        self._opened = 0.0
        # Monotonic time of the last step forward; `overdue` compares with it.
        self._moved = server.monotonic()
        # What the peer had not taken yet when that was last looked at.
        self._left = (0, 0, 0)
        self._buffer = TransactionBuffer()
        self._early = bytearray()
        self._reading = True
        self._finishing = False
        self._answers: AnswerQueue | None = None

    @property
    def seconds(self) -> float:
        """How long the session has lasted, since the welcome."""
        return round(self._server.monotonic() - self._opened, 3)

    @property
    def bytes_out(self) -> int:
        """Bytes of answers written."""
        return 0 if self._answers is None else self._answers.sent

    # The transport's side.

    def dataReceived(self, data: bytes) -> None:
        """
        Bytes, cut anywhere.
        """
        self.bytes_in += len(data)
        if self.state is _READY:
            self._buffer.feed(data)
            self._work()
        elif self.state is SessionState.DIALOG:
            self._dialog_data(data)
        elif self.state not in (SessionState.CLOSING, SessionState.LOST):
            self._early += data
            self._came_ahead()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The connection is over.
        """
        was = self.state
        self.state = SessionState.LOST
        self._stop_answers()
        self._early.clear()
        if not self.reason:
            self.reason = (
                "closed by the peer"
                if isinstance(reason.value, ConnectionDone)
                else reason.getErrorMessage()
            )
        self._server.session_lost(self, was)
        # It calls back; together they would stay until garbage is collected.
        self._answers = None

    # A streaming producer for the transport: what leaves here.

    def pauseProducing(self) -> None:
        """The transport holds enough of our answers."""
        if self._answers is not None:
            self._answers.pause()

    def resumeProducing(self) -> None:
        """The transport takes more of our answers."""
        self._moved = self._server.monotonic()
        if self._answers is not None:
            self._answers.resume()

    def stopProducing(self) -> None:
        """The transport will take no more; `connectionLost` follows."""

    # Who it is.

    def _dialog_data(self, data: bytes) -> None:
        """
        Bytes of the dialog in which the peer says who it is.
        """
        raise NotImplementedError

    def _came_ahead(self) -> None:
        """
        What a peer sends ahead waits until it is known to be trusted.
        """
        self._balance()

    def _ask(self, then: Any, question: Any, *args: Any) -> None:
        """
        Go on with *then* when `question(*args)` is answered. What goes wrong closes
        the connection and is our own fault.
        """
        try:
            decision = question(*args)
            if not isinstance(decision, Deferred):
                then(decision)
                return
        except Exception:
            self._failed_inside(Failure())  # type: ignore[no-untyped-call]
            return
        self._balance()
        decision.addCallback(then).addErrback(self._failed_inside)

    def _failed_inside(self, failure: Failure) -> None:
        if isinstance(failure.value, QueueFull):
            self._server.bursts.reached(
                "workers",
                "a connection from {peer} was closed, too much waits already: {reason}",
                peer=self.peer.address,
                reason=str(failure.value),
            )
            self.close(str(failure.value))
            return
        if isinstance(failure.value, _IN_THE_WAY):
            self._server.bursts.reached(
                "state_dir",
                "a connection from {peer} was closed: its key could not be looked up"
                " or stored: {reason}",
                peer=self.peer.address,
                reason=str(failure.value),
            )
            self.close(str(failure.value))
            return
        self._server.log.failure(
            "a connection from {peer} was closed because of a failure here",
            failure,
            event="session.failed",
            peer=self.peer.address,
        )
        self.close("failure in the server")

    def _take_early(self) -> None:
        """
        The dialog goes on: with what was sent ahead first.
        """
        early = bytes(self._early)
        self._early.clear()
        if early and self.state is SessionState.DIALOG:
            self._dialog_data(early)
        self._balance()

    def _distrust(self, code: str, text: str) -> None:
        self.distrusted = True
        if self._server.strangers.worth_stating(self.peer.address):
            self._server.events.trust_refused(self.peer, code, text)
        self.close(text)

    # Its requests.

    def _work(self) -> None:
        """
        Answer the requests that are here, as long as answers find room.
        """
        raise NotImplementedError

    def _wants_requests(self) -> bool:
        """
        Whether reading is to go on, once requests are answered.
        """
        raise NotImplementedError

    def _is_at_work(self) -> bool:
        """
        Whether it is the server that something waits for.
        """
        return self._answers is not None and not self._answers.idle

    def _stop_answers(self) -> None:
        """
        Nothing can be sent to the peer any more.
        """
        if self._answers is not None:
            self._answers.stop()

    # Ends.

    def close(self, reason: str) -> None:
        """
        End the connection after what is written so far.

        Args:
            reason: For the log.
        """
        if self.state in (SessionState.CLOSING, SessionState.LOST):
            return
        if self._answers is not None:
            self._stop_answers()
            self.transport.unregisterProducer()
        self.state = SessionState.CLOSING
        self.reason = reason
        self._moved = self._server.monotonic()
        self.transport.loseConnection()

    def finish(self) -> None:
        """
        Take no more requests, and close when the answers under way have left.
        """
        self._finishing = True
        if self.state is not SessionState.READY:
            self.close("the server stops")
            return
        self._balance()
        self._finish_when_idle()

    def when_at_rest(self, call: Callable[[], None]) -> None:
        """
        Call *call* when nothing is done any more for this connection, which is over,
        that counts against the limits of connections.
        """
        call()

    def _finish_when_idle(self) -> None:
        if self._answers is None or self._answers.idle:
            self.close("the server stops")

    def abort(self, reason: str) -> None:
        """
        End the connection now.
        """
        self.reason = self.reason or reason
        self._stop_answers()
        if self.state is not SessionState.LOST:
            self.state = SessionState.CLOSING
            self.transport.abortConnection()

    def overdue(self, now: float) -> tuple[str, float] | None:
        """
        The time limit that this connection has passed, and its seconds.

        Args:
            now: Monotonic seconds.
        """
        limits = self._server.limits
        if self.state is SessionState.HANDSHAKE:
            # The port watches the handshake.
            return None
        if self.state is SessionState.CLOSING:
            limit, seconds = "goodbye", _GOODBYE
            if self._finishing and self._all_arrived():
                # Only the peer's own end is waited for, which may never come.
                return limit, 0.0
        elif self.state is not SessionState.READY:
            limit, seconds = "dialog_timeout", limits.dialog_timeout
        elif self._is_writing():
            limit, seconds = "write_timeout", limits.write_timeout
        elif self._is_at_work():
            # The server's own work takes as long as it takes.
            return None
        else:
            limit, seconds = "idle_timeout", limits.idle_timeout
        if limit in ("goodbye", "write_timeout") and self._was_taken_from():
            self._moved = now
        return (limit, seconds) if now - self._moved > seconds else None

    def _is_writing(self) -> bool:
        """
        Whether an answer waits for the peer to take it. Content that is made as it
        leaves waits here even when OpenSSL and the system have all there is so far.
        """
        paused = self._answers is not None and self._answers.paused
        return paused or self.transport.write_pending > 0

    def _all_arrived(self) -> bool:
        """
        Whether the peer's system has everything that was written.
        """
        return not (self.transport.write_pending or _unsent(self.transport))

    def _was_taken_from(self) -> bool:
        """
        Whether the peer has taken anything since the last time this was asked: a
        slow one may need minutes to empty what the system holds for it.
        """
        left = (self.transport.write_pending, self.bytes_out, _unsent(self.transport))
        taken = left != self._left
        self._left = left
        return taken

    def _balance(self) -> None:
        """
        Read only while there is room for what is read.
        """
        if self.state is SessionState.READY:
            wanted = self._wants_requests()
        else:
            wanted = len(self._early) < INPUT_LIMIT
        if wanted == self._reading or self.state in (
            SessionState.CLOSING,
            SessionState.LOST,
        ):
            return
        self._reading = wanted
        if wanted:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    def _said(self, direction: str, data: bytes) -> None:
        if self._server.events.dialogue:
            self._server.events.said(self.peer, direction, data)


def _unsent(transport: Any) -> int:
    """
    Bytes that the system holds for the peer; 0 where there is no descriptor.
    """
    descriptor = getattr(transport, "fileno", None)
    return 0 if descriptor is None else posix.unsent(descriptor())
