# SPDX-License-Identifier: MIT
"""
Answers on their way to the peer: in the order of the requests, whatever finishes
first, and never more of them in memory than the peer takes.

Small answers are joined into TLS records of whole frames; a folder's names and a
file's content are made while they leave.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from nodecomm.server.replies import Content, Frames, HangUp, Listing, Packets, Reply
from nodecomm.wire.framing import MAX_RECORD
from nodecomm.wire.replies import encode_listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nodecomm.interfaces import IHeldObject
    from nodecomm.server.requests import Request
    from nodecomm.transport.interfaces import ITLSRecords

__all__ = ["AnswerQueue"]

#: Bytes of content written for one connection before the others have their turn.
_TURN = 1 << 20


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
class _Names:
    """
    A listing that is leaving.
    """

    request: Request
    reply: Packets
    frames: Iterator[bytes]


@define(eq=False)
class _Bytes:
    """
    A file's content that is leaving.
    """

    request: Request
    reply: Content
    held: IHeldObject
    left: int
    offset: int = 0


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

    Attributes:
        blocked: Whether further requests must wait.
        paused: Whether the transport has enough for now.
        sent: Bytes written.
    """

    _transport: ITLSRecords
    _later: Callable[[Callable[[], None]], object]
    _chunk: int
    _limit: int
    _failed: Callable[[Request, Failure], Reply]
    _finished: Callable[[Request, Reply], None]
    _hang_up: Callable[[str], None]
    _ready: Callable[[], None]
    sent: int = field(default=0, init=False)
    blocked: bool = field(default=False, init=False)
    paused: bool = field(default=False, init=False)
    _slots: deque[_Slot] = field(factory=deque, init=False)
    _current: _Names | _Bytes | None = field(default=None, init=False)
    _waiting: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)
    _parts: list[bytes] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)
    _pumping: bool = field(default=False, init=False)

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

    def pause(self) -> None:
        """The transport has enough for now."""
        self.paused = self.blocked = True

    def resume(self) -> None:
        """The transport takes more."""
        if not self.paused:
            return
        self.paused = False
        self._see()
        self._advance()
        self.flush()

    def stop(self) -> None:
        """
        Nothing can be sent any more: drop everything.
        """
        self._stopped = self.blocked = True
        self._parts = []
        current, self._current = self._current, None
        if isinstance(current, _Bytes):
            current.held.close()
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
            self._current = _Bytes(request, reply, reply.held, reply.size)
            self._pump()
        elif isinstance(reply, Packets):
            self._current = _Names(request, reply, iter(reply.frames))
            self._pump()
        elif isinstance(reply, Listing):
            self._list(request, reply.held)
        elif isinstance(reply, HangUp):
            request.release()
            self._finished(request, reply)
            self._close(reply.why)
        else:
            self._unusable(request, f"with {type(reply).__name__}")

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
            while not (self.paused or self._waiting or self._stopped):
                current = self._current
                if current is None:
                    return
                if turn >= _TURN:
                    self._waiting = True
                    self._later(self._next_turn)
                    return
                if isinstance(current, _Names):
                    self._more_names(current)
                    turn += MAX_RECORD
                else:
                    turn += self._chunk
                    self._more_bytes(current)
        finally:
            self._pumping = False

    def _next_turn(self) -> None:
        self._waiting = False
        if not self._stopped:
            self._advance()
            self.flush()

    def _more_names(self, current: _Names) -> None:
        try:
            for packet in current.frames:
                current.request.sent += len(packet)
                if self._size + len(packet) > MAX_RECORD:
                    self.flush()
                    self._parts.append(packet)
                    self._size = len(packet)
                    return
                self._parts.append(packet)
                self._size += len(packet)
        except Exception:
            # A source may list what has no form on the wire.
            self._current = None
            reply = self._failed(current.request, Failure())  # type: ignore[no-untyped-call]
            if not isinstance(reply, HangUp):
                # In the middle of a listing nothing else can be said.
                reply = HangUp("the listing broke off")
            self._begin(current.request, reply)
            return
        self._current = None
        self._finished(current.request, current.reply)

    def _more_bytes(self, current: _Bytes) -> None:
        try:
            data = current.held.read(current.offset, min(self._chunk, current.left))
        except Exception as error:
            self._broken(current, f"cannot be read: {error}")
            return
        if isinstance(data, Deferred):
            self._waiting = True
            data.addCallbacks(
                self._read_later, self._read_failed, (current,), {}, (current,)
            )
        else:
            self._write(current, data)

    def _read_later(self, data: bytes, current: _Bytes) -> None:
        self._waiting = False
        if self._stopped:
            return
        self._write(current, data)
        self._advance()
        self.flush()

    def _read_failed(self, failure: Failure, current: _Bytes) -> None:
        self._waiting = False
        if not self._stopped:
            self._broken(current, f"cannot be read: {failure.getErrorMessage()}")

    def _write(self, current: _Bytes, data: bytes) -> None:
        try:
            data = data[: current.left]
            last = len(data) == current.left
            changed = last and not current.held.unchanged(current.reply.size)
        except Exception as error:
            self._broken(current, f"cannot be read: {error}")
            return
        if not data:
            self._broken(current, f"ends {current.left} bytes too early")
            return
        if changed:
            # The peer has not got the last bytes, so it keeps the copy it has.
            self._broken(current, "changed while it was being sent")
            return
        current.offset += len(data)
        current.left -= len(data)
        current.request.sent += len(data)
        self.sent += len(data)
        if current.left == 0:
            self._current = None
            current.held.close()
        self._transport.write(data)
        if current.left == 0:
            self._finished(current.request, current.reply)

    def _broken(self, current: _Bytes, why: str) -> None:
        self._current = None
        current.held.close()
        reply = HangUp(why)
        self._finished(current.request, reply)
        self._close(why)
