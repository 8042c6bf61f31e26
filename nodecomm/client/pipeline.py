# SPDX-License-Identifier: MIT
"""
Requests that leave without waiting for answers, and answers in the order of their
requests.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from nodecomm.client.answers import (
    PENDING,
    Answer,
    ContentAnswer,
    NothingAnswer,
    SinkFailed,
    Unacceptable,
)
from nodecomm.client.errors import Refused
from nodecomm.wire.errors import RemoteProtocolError
from nodecomm.wire.framing import MAX_RECORD, TransactionBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime

__all__ = ["DEFAULT_WINDOW", "IPipelineOwner", "Pipeline"]

#: Requests that are out at a time. The real server answers any number in order; what
#: a round trip of 100 ms needs is some hundred.
DEFAULT_WINDOW = 256


class IPipelineOwner(Protocol):
    """
    Who has the connection that a pipeline works on.
    """

    def write_record(self, data: bytes) -> None:
        """Send *data* as one TLS record."""

    def awaiting(self, anything: bool) -> None:
        """Whether an answer is awaited now."""

    def was_refused(self, answer: Answer, error: Refused) -> None:
        """The server refused what *answer* stands for; its waiter knows."""

    def parted(self, code: str, path: bytes, what: str) -> None:
        """What was just answered is the last answer: end the connection."""

    def unacceptable(self, code: str, path: bytes, what: str) -> None:
        """What came cannot be believed: end the connection."""

    def not_taken(self, path: bytes, error: Exception) -> None:
        """The taker of a content failed: end the connection."""


class Pipeline:
    """
    The requests of one connection.

    Attributes:
        owner: Who has the connection; nothing is called any more once `end` was.
        round_trips: The longest chain of messages of which each waited for the one
            before, those before the pipeline began included.
        requests: How many left.
        answered: How many have been answered.
    """

    def __init__(self, owner: IPipelineOwner, clock: IReactorTime) -> None:
        self.owner = owner
        self.round_trips = 0
        self.requests = 0
        self.answered = 0
        self._clock = clock
        self._window = DEFAULT_WINDOW
        #: Whether requests may leave, and answers come.
        self._begun = False
        self._held = False
        #: Requests that are out, and those that wait for the window.
        self._expected: deque[Answer] = deque()
        self._waiting: deque[Answer] = deque()
        self._buffer = TransactionBuffer()
        self._running = False
        self._run_asked = False

    def __len__(self) -> int:
        """
        Requests without a whole answer, those that have not left included.
        """
        return len(self._expected) + len(self._waiting)

    @property
    def head(self) -> Answer | None:
        """
        The answer that comes next; None when nothing has been asked.
        """
        return self._expected[0] if self._expected else None

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
        self._run_soon()

    def begin(self) -> None:
        """
        From now on requests may leave.
        """
        self._begun = True
        self._run_soon()

    def ask(self, answer: Answer) -> Deferred[Any]:
        """
        Have the request of *answer* leave: in this turn of the reactor together with
        what else is asked, as soon as the window allows.
        """
        self._waiting.append(answer)
        self._run_soon()
        return answer.deferred

    def receive(self, data: bytes) -> None:
        """
        Bytes from the server.
        """
        expected = self._expected
        buffer = self._buffer
        if expected and not (buffer or self._held or self._running):
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

    def hold(self) -> None:
        """
        Deliver nothing until `release`.
        """
        self._held = True

    def release(self) -> None:
        """
        Deliver again, in the next turn and not inside a call of whoever says so.
        """
        self._held = False
        self._run_soon()

    def wake(self) -> None:
        """
        The answer that comes next can go on without more bytes.
        """
        self._run()

    def end(self, reason: Callable[[], Exception]) -> None:
        """
        Nothing leaves any more, nothing comes: every request without a whole answer
        fails, each with an error of its own.
        """
        self._begun = False
        answers = [*self._expected, *self._waiting]
        self._expected.clear()
        self._waiting.clear()
        self._buffer = TransactionBuffer()
        for answer in answers:
            if not answer.deferred.called:
                answer.deferred.errback(answer.unanswered(reason()))

    def _run_soon(self) -> None:
        if self._begun and not self._run_asked and not self._running:
            self._run_asked = True
            self._clock.callLater(0, self._run_now)

    def _run_now(self) -> None:
        self._run_asked = False
        self._run()

    def _run(self) -> None:
        """
        Deliver what has come and send what may leave, until neither moves.
        """
        if self._running:
            return
        self._running = True
        try:
            while self._begun:
                self._deliver()
                if not self._refill():
                    break
        finally:
            self._running = False

    def _deliver(self) -> None:
        """
        Hand out the answers that have come whole.
        """
        expected = self._expected
        buffer = self._buffer
        path = b""
        try:
            while expected and not self._held:
                head = expected[0]
                path = head.path
                result = head.take(buffer)
                # The taker of a content may have ended the connection.
                if result is PENDING or not self._begun:
                    return
                expected.popleft()
                self.answered += 1
                self.round_trips = max(self.round_trips, head.trip)
                deferred = head.deferred
                if isinstance(result, Refused):
                    if not deferred.called:
                        deferred.errback(result)
                    self.owner.was_refused(head, result)
                elif not deferred.called:
                    deferred.callback(result)
                if head.parting is not None and self._begun:
                    code, what = head.parting
                    self.owner.parted(code, path, what)
            if buffer and not expected and self._begun:
                what = f"{len(buffer)} bytes that nothing was asked for"
                self.owner.unacceptable("out-of-step", b"", what)
        except RemoteProtocolError as error:
            self.owner.unacceptable("out-of-step", path, str(error))
        except Unacceptable as error:
            self.owner.unacceptable(error.code, path, error.text)
        except SinkFailed as error:
            self._sink_failed(head, error)

    def _sink_failed(self, head: Answer, failed: SinkFailed) -> None:
        # The taker may have ended the connection before it failed.
        if self._expected and self._expected[0] is head:
            self._expected.popleft()
            self.owner.not_taken(head.path, failed.error)
            if not head.deferred.called:
                head.deferred.errback(failed.error)

    def _refill(self) -> bool:
        """
        Send what the window allows; says whether something can be delivered already.

        The window is filled again when it is half empty: one record then carries
        many requests. Behind one that is to be alone nothing leaves.
        """
        if not self._begun:
            return False
        waiting = self._waiting
        expected = self._expected
        room = self._window - len(expected)
        if expected and expected[-1].alone:
            room = 0
        if waiting and (room >= len(waiting) or 2 * room >= self._window):
            self._send(room)
        self.owner.awaiting(bool(expected))
        return bool(expected) and type(expected[0]) is NothingAnswer and not self._held

    def _send(self, room: int) -> None:
        """
        Send up to *room* requests, none behind one that is to be alone, as many in a
        record as have room there whole.
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
            room = 0 if answer.alone else room - 1
            frame = answer.frame
            expected.append(answer)
            if not frame:
                continue
            answer.frame = b""
            answer.trip = trip
            self.requests += 1
            size += len(frame)
            if size > MAX_RECORD:
                self.owner.write_record(b"".join(record))
                record.clear()
                size = len(frame)
            record.append(frame)
        if record:
            self.owner.write_record(b"".join(record))
