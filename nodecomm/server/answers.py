# SPDX-License-Identifier: MIT
"""
Answers on their way to the peer: in the order of the requests, whatever finishes
first, and never more of them in memory than the peer takes.

Small answers are joined into TLS records of whole frames; a folder's names and a
file's content are made while they leave: see `flows` and `sealing`. What is made
over time leaves as it comes: see `live`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from nodecomm.server.filesystem import HeldFile
from nodecomm.server.flows import BROKEN_OFF, Flow, NameFlow, ReadFlow, SystemFlow
from nodecomm.server.live import LiveFlow
from nodecomm.server.replies import (
    Content,
    Frames,
    HangUp,
    Listing,
    Live,
    Packets,
    Reply,
)
from nodecomm.server.sealing import SealedContentFlow, SealedNameFlow, Sealer
from nodecomm.wire.framing import MAX_RECORD
from nodecomm.wire.replies import encode_listing

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodecomm.interfaces import IHeldObject
    from nodecomm.server.pools import Pool
    from nodecomm.server.requests import Request
    from nodecomm.transport.interfaces import IByteStream
    from nodecomm.wire.cipher import SessionCipher

__all__ = ["AnswerQueue"]

#: Bytes of content written for one connection before the others have their turn.
_TURN = 1 << 20

#: Bytes from which on the system puts a file into the connection, where it can. Less
#: than that is sooner read and written.
_BY_SYSTEM = 32_768

#: Stands for a reply that is not there yet; None is a mistake of a command.
_PENDING = Reply()


@define(eq=False)
class _Slot:
    """
    A request and, once it is there, its reply.
    """

    request: Request
    reply: Reply = _PENDING


@define(eq=False)
class AnswerQueue:
    """
    The answers of one connection.

    Args:
        transport: Where they go. Its producer calls are passed to `pause` and
            `resume`.
        later: Runs a callable in the next turn of the reactor.
        chunk: Bytes of content read at a time.
        limit: Answers that may be under way before `blocked` is true.
        failed: Turns an exception of a command into a reply.
        finished: Told of each answer that has left in whole.
        hang_up: Asked to close the connection, with the reason.
        ready: Told that `blocked` has become false.
        crypto: Where answers to requests with a `seal` are encrypted; None: where
            they are.

    Attributes:
        blocked: Whether further requests must wait.
        paused: Whether the transport has enough for now.
        sent: Bytes written.
    """

    _transport: IByteStream
    _later: Callable[[Callable[[], None]], object]
    chunk: int
    _limit: int
    _failed: Callable[[Request, Failure], Reply]
    _finished: Callable[[Request, Reply], None]
    _hang_up: Callable[[str], None]
    _ready: Callable[[], None]
    _crypto: Pool | None = None
    sent: int = field(default=0, init=False)
    blocked: bool = field(default=False, init=False)
    paused: bool = field(default=False, init=False)
    _slots: deque[_Slot] = field(factory=deque, init=False)
    _current: Flow | None = field(default=None, init=False)
    _sealer: Sealer | None = field(default=None, init=False)
    # For the flow that is leaving, and for others to have their turn.
    _waiting: bool = field(default=False, init=False)
    _resting: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)
    _parts: list[bytes] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)
    _pumping: bool = field(default=False, init=False)
    #: Where the transport can be given a file.
    send_file: Callable[[int, int, int], int] | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.send_file = getattr(self._transport, "send_file", None)

    @property
    def idle(self) -> bool:
        """
        Whether nothing is under way.
        """
        return not self._slots and self._current is None and not self._parts

    def add(self, request: Request, reply: Reply | Deferred[Reply]) -> None:
        """
        Put the answer to *request* behind those before it.
        """
        # The usual case first: the test for a Deferred, an abstract class, is slow.
        if type(reply) is Frames and not self._slots and self._current is None:
            self._join(request, reply)
        elif isinstance(reply, Deferred):
            slot = _Slot(request)
            self._slots.append(slot)
            self._see()
            reply.addErrback(lambda failure: self._failed(request, failure))
            reply.addCallback(self._arrived, slot)
        elif self._slots or self._current is not None:
            self._slots.append(_Slot(request, reply))
            self._see()
        else:
            self._begin(request, reply)

    def _see(self) -> None:
        """
        Find out whether further requests must wait.
        """
        self.blocked = self.paused or self._stopped or len(self._slots) >= self._limit

    def _arrived(self, reply: Reply, slot: _Slot) -> None:
        slot.reply = reply
        if self._stopped:
            self._drop(slot)
            return
        self._advance()
        self.flush()

    def flush(self) -> None:
        """
        Write what is joined so far.
        """
        parts = self._parts
        if parts:
            # A single part is not copied.
            data = b"".join(parts)
            parts.clear()
            self.sent += self._size
            self._size = 0
            self._transport.write(data)

    @property
    def live(self) -> bool:
        """
        Whether an answer is leaving that is made over time.
        """
        return type(self._current) is LiveFlow

    def pause(self) -> None:
        """The transport has enough for now."""
        self.paused = self.blocked = True
        if self._current is not None:
            self._current.paused()

    def resume(self) -> None:
        """The transport takes more."""
        if not self.paused:
            return
        self.paused = False
        self._see()
        if self._current is not None:
            self._current.resumed()
        self._advance()
        self.flush()

    def stop(self) -> None:
        """
        Nothing can be sent any more: drop everything.
        """
        self._stopped = self.blocked = True
        self._parts = []
        current, self._current = self._current, None
        if current is not None:
            current.drop()
        while self._slots:
            slot = self._slots.popleft()
            if slot.reply is not _PENDING:
                self._drop(slot)

    def _drop(self, slot: _Slot) -> None:
        if isinstance(slot.reply, (Content, Listing)):
            slot.reply.held.close()
        slot.request.release()

    def _begin(self, request: Request, reply: Reply) -> None:
        """
        Send *reply*, the next in order.
        """
        if type(reply) is Frames:
            self._join(request, reply)
        elif isinstance(reply, Content):
            self.flush()
            self._current = self._content(request, reply)
            self._pump()
        elif isinstance(reply, Packets):
            if request.seal is None:
                self._current = NameFlow(request, reply)
            else:
                sealer = self._sealer_of(request.seal)
                self._current = SealedNameFlow(request, reply, sealer)
            self._pump()
        elif isinstance(reply, Listing):
            self._list(request, reply.held)
        elif isinstance(reply, Live) and request.seal is None:
            self.flush()
            self._current = LiveFlow(request, reply, self)
            self._pump()
        elif isinstance(reply, HangUp):
            request.release()
            self._finished(request, reply)
            self._close(reply.why)
        else:
            self._unusable(request, f"with {type(reply).__name__}")

    def _content(self, request: Request, reply: Content) -> Flow:
        """
        The way in which a file leaves.
        """
        if request.seal is not None:
            return SealedContentFlow(request, reply, self._sealer_of(request.seal))
        held = reply.held
        if (
            self.send_file is not None
            and reply.size >= _BY_SYSTEM
            and isinstance(held, HeldFile)
        ):
            return SystemFlow(request, reply, held)
        return ReadFlow(request, reply)

    def _sealer_of(self, seal: SessionCipher) -> Sealer:
        """
        What encrypts with *seal*, of which a connection has but one.
        """
        sealer = self._sealer
        if sealer is None or sealer.seal is not seal:
            sealer = self._sealer = Sealer(seal, self._crypto)
        return sealer

    def _list(self, request: Request, folder: IHeldObject) -> None:
        """
        Read the names in *folder*, the next in order, and let go of it.
        """
        slot = _Slot(request)
        self._slots.appendleft(slot)

        def close(result: Any) -> Any:
            folder.close()
            return result

        listing: Deferred[Any] = maybeDeferred(folder.entries).addBoth(close)
        listing.addCallback(lambda names: Packets(encode_listing(names)))
        listing.addErrback(lambda failure: self._failed(request, failure))
        listing.addCallback(self._arrived, slot)

    def _join(self, request: Request, reply: Frames) -> None:
        """
        Put whole frames behind what is joined so far.
        """
        size = len(reply.wire)
        total = self._size + size
        if total > MAX_RECORD:
            if size > MAX_RECORD:
                self._unusable(request, f"with {size} bytes of frames at once")
                return
            self.flush()
            total = size
        if size:
            self._parts.append(reply.wire)
            self._size = total
            request.sent = size
        self._finished(request, reply)
        if reply.close:
            self._close("after the answer")

    def _unusable(self, request: Request, what: str) -> None:
        """
        A command answered with what cannot be sent.
        """
        failure = Failure(  # type: ignore[no-untyped-call]
            TypeError(f"a command answered {what}")
        )
        self._begin(request, self._failed(request, failure))

    def _close(self, why: str) -> None:
        self.flush()
        self.stop()
        self._hang_up(why)

    def _advance(self) -> None:
        """
        Send all that can be sent now.
        """
        self._pump()
        slots = self._slots
        while slots and self._current is None and not self.paused:
            reply = slots[0].reply
            if reply is _PENDING:
                break
            self._begin(slots.popleft().request, reply)
        self._see()
        if not self.blocked:
            self._ready()

    def _pump(self) -> None:
        """
        Move the current listing or content along until it ends or must wait.
        """
        if self._pumping:
            return
        self._pumping = True
        turn = 0
        try:
            while not (self.paused or self._waiting or self._resting or self._stopped):
                current = self._current
                if current is None:
                    return
                if turn >= _TURN:
                    self._resting = True
                    self._later(self._next_turn)
                    return
                turn += current.step(self)
        finally:
            self._pumping = False

    def _next_turn(self) -> None:
        self._resting = False
        self._go_on()

    def _go_on(self) -> None:
        if not self._stopped:
            self._advance()
            self.flush()

    # For the flow that is leaving (`Outlet`).

    def join(self, flow: Flow, frame: bytes) -> bool:
        """Put a frame behind what is joined so far; whether a record has left."""
        size = len(frame)
        flow.request.sent += size
        full = self._size + size > MAX_RECORD
        if full:
            self.flush()
        self._parts.append(frame)
        self._size += size
        return full

    def send(self, flow: Flow, data: bytes, *, last: bool) -> None:
        """Write *data*; *last* ends the flow."""
        flow.request.sent += len(data)
        self.sent += len(data)
        if last:
            self._current = None
            flow.drop()
        self._transport.write(data)
        if last:
            self._finished(flow.request, flow.reply)

    def count(self, flow: Flow, size: int, *, last: bool) -> None:
        """So many bytes were written past the queue; *last* ends the flow."""
        flow.request.sent += size
        self.sent += size
        if last:
            self.end(flow)

    def end(self, flow: Flow) -> None:
        """All of it has been joined or sent."""
        self._current = None
        flow.drop()
        self._finished(flow.request, flow.reply)

    def fail(self, flow: Flow, failure: Failure) -> None:
        """It cannot go on; *failure* is turned into an answer."""
        self._current = None
        flow.drop()
        self._waiting = False
        reply = self._failed(flow.request, failure)
        if not isinstance(reply, HangUp):
            # In the middle of an answer nothing else can be said.
            reply = HangUp(BROKEN_OFF)
        self._begin(flow.request, reply)

    def break_off(self, flow: Flow, why: str) -> None:
        """It cannot go on; the connection is closed."""
        self._current = None
        flow.drop()
        reply = HangUp(why)
        self._finished(flow.request, reply)
        self._close(why)

    def wait(self) -> None:
        """Nothing can be done before `wake`."""
        self._waiting = True

    def wake(self) -> None:
        """Something can be done again."""
        if self._waiting:
            self._waiting = False
            self._go_on()
