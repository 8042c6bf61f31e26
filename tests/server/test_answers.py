# SPDX-License-Identifier: MIT
"""
The queue of answers alone, against a transport that only keeps what is written.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.server.answers import AnswerQueue
from nodecomm.server.replies import Content, Frames, HangUp, Packets, Reply
from nodecomm.server.requests import Request
from nodecomm.testing.sources import MemoryObject
from nodecomm.wire.framing import MAX_RECORD, TransactionBuffer, encode_transaction

CHUNK = 5_000


class Transport:
    """
    Keeps each write; tells the queue to pause after so many.
    """

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.pause_after: list[int] = []
        self.queue: AnswerQueue | None = None

    def write(self, data: bytes) -> None:
        """From the queue."""
        assert data
        self.writes.append(data)
        if self.pause_after and len(self.writes) >= self.pause_after[0]:
            self.pause_after.pop(0)
            assert self.queue is not None
            self.queue.pause()


@define(eq=False)
class Held(MemoryObject):
    """
    A file whose content comes when the test says so.
    """

    later: bool = False
    waiting: list[tuple[Deferred[bytes], int, int]] = field(factory=list, init=False)
    error: Exception | None = None
    more: bytes = b""
    changed: bool | Exception = False

    def read(self, offset: int, size: int) -> Any:
        if self.error is not None and offset >= CHUNK:
            raise self.error
        if not self.later:
            return super().read(offset, size) + self.more
        answer: Deferred[bytes] = Deferred()
        self.waiting.append((answer, offset, size))
        return answer

    def give(self) -> None:
        """Answer the oldest read."""
        answer, offset, size = self.waiting.pop(0)
        answer.callback(super().read(offset, size))

    def unchanged(self, size: int) -> bool:
        if isinstance(self.changed, Exception):
            raise self.changed
        return not self.changed


class Asked(SimpleNamespace):
    """
    As much of a request as the queue needs.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__(name=name, sent=0, released=0, seal=None)

    def release(self) -> None:
        """The queue lets go of what the request holds."""
        self.released += 1


class QueueCase(SynchronousTestCase):
    """
    A queue, what it wrote and what it told.
    """

    def setUp(self) -> None:
        self.transport, self.queue = self.make()

    def make(self, limit: int = 100) -> tuple[Transport, AnswerQueue]:
        self.turns: list[Callable[[], None]] = []
        self.finished: list[tuple[Any, Reply]] = []
        self.hung_up: list[str] = []
        self.ready = 0
        transport = Transport()
        queue = AnswerQueue(
            cast(Any, transport),
            self.turns.append,
            CHUNK,
            limit,
            self.failed,
            lambda request, reply: self.finished.append((request, reply)),
            self.hung_up.append,
            self.told_ready,
        )
        transport.queue = queue
        return transport, queue

    def failed(self, request: Request, failure: Failure) -> Reply:
        request.release()
        return HangUp(failure.getErrorMessage())

    def told_ready(self) -> None:
        self.ready += 1

    def add(self, reply: Any, queue: AnswerQueue | None = None) -> Asked:
        request = Asked()
        (self.queue if queue is None else queue).add(cast(Request, request), reply)
        return request

    def run_turns(self) -> None:
        """Let the reactor's turns pass until none is asked for."""
        while self.turns:
            self.turns.pop(0)()

    def written(self) -> bytes:
        return b"".join(self.transport.writes)


def frames(*payloads: bytes) -> Frames:
    """One answer of whole transactions."""
    return Frames(b"".join(map(encode_transaction, payloads)))


def packets(sizes: list[int]) -> Packets:
    """An answer made while it leaves."""
    return Packets(encode_transaction(b"p" * size, more=True) for size in sizes)


def file(size: int, **more: Any) -> Held:
    """A held file, whose every byte tells where it is."""
    content = b"".join(b"%08d" % number for number in range(size // 8 + 1))[:size]
    return Held(b"/file", content, **more)


#: What an answer may be: a kind, and how large.
kinds = st.one_of(
    st.tuples(st.just("frames"), st.integers(1, 4088)),
    st.tuples(st.just("none"), st.just(0)),
    st.tuples(st.just("packets"), st.lists(st.integers(1, 4088), max_size=12)),
    st.tuples(st.just("content"), st.integers(1, 30_000)),
    st.tuples(st.just("later content"), st.integers(1, 30_000)),
)


class OrderTests(QueueCase):
    """
    Answers leave in the order of the requests.
    """

    def make_reply(self, number: int, kind: tuple[str, Any]) -> tuple[Reply, bytes]:
        """A reply, and the bytes it stands for."""
        word, size = kind
        if word == "frames":
            wire = encode_transaction(b"%d" % (number % 10) * size)
            return Frames(wire), wire
        if word == "none":
            return Frames(b""), b""
        if word == "packets":
            wire = b"".join(encode_transaction(b"p" * s, more=True) for s in size)
            return packets(size), wire
        held = file(size, later=word == "later content")
        self.held.append(held)
        assert held.content is not None
        return Content(held, size), held.content

    def give(self) -> bool:
        """Answer the reads that wait; whether there were any."""
        found = [held for held in self.held if held.waiting]
        for held in found:
            held.give()
        return bool(found)

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_whatever_finishes_first(self, data: st.DataObject) -> None:
        """The bytes are those of all answers one after the other, whichever is
        there first, whenever the transport pauses, and however reads wait; each
        answer is told as finished once, in order, with its own number of bytes."""
        self.held: list[Held] = []
        asked = data.draw(
            st.lists(st.tuples(kinds, st.booleans()), min_size=1, max_size=12)
        )
        self.transport, self.queue = self.make()
        self.transport.pause_after = sorted(
            data.draw(st.lists(st.integers(1, 30), max_size=5, unique=True))
        )
        expected = b""
        requests = []
        sizes = []
        waiting: list[tuple[Deferred[Reply], Reply]] = []
        for number, (kind, later) in enumerate(asked):
            reply, wire = self.make_reply(number, kind)
            expected += wire
            sizes.append(len(wire))
            # As a session does: nothing is asked of a queue that is blocked.
            while self.queue.blocked:
                self.queue.resume()
            if later:
                answer: Deferred[Reply] = Deferred()
                waiting.append((answer, reply))
                requests.append(self.add(answer))
            else:
                requests.append(self.add(reply))
        for answer, reply in data.draw(st.permutations(waiting)):
            answer.callback(reply)
            if data.draw(st.booleans()):
                self.queue.resume()
        self.queue.flush()
        while not self.queue.idle:
            self.give()
            self.run_turns()
            self.queue.resume()

        self.assertEqual(expected, self.written())
        self.assertEqual(len(expected), self.queue.sent)
        self.assertEqual(requests, [request for request, _ in self.finished])
        self.assertEqual(sizes, [request.sent for request in requests])
        self.assertEqual([1] * len(self.held), [held.closed for held in self.held])
        self.assertEqual([], self.hung_up)

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("frames"), st.integers(1, 4088)),
                st.tuples(
                    st.just("packets"), st.lists(st.integers(1, 4088), max_size=12)
                ),
            ),
            max_size=20,
        ),
        st.booleans(),
    )
    def test_records(self, asked: list[tuple[str, Any]], at_once: bool) -> None:
        """Each write is whole frames and fits in one record."""
        self.held = []
        self.transport, self.queue = self.make()
        for number, kind in enumerate(asked):
            self.add(self.make_reply(number, kind)[0])
            if at_once:
                self.queue.flush()
        self.queue.flush()
        self.run_turns()

        for write in self.transport.writes:
            self.assertLessEqual(len(write), MAX_RECORD)
            buffer = TransactionBuffer()
            buffer.feed(write)
            while buffer.next_transaction() is not None:
                pass
            self.assertEqual(0, len(buffer))

    def test_small_answers_share_a_record(self) -> None:
        """Until the limit; then the next record begins with a whole frame."""
        for _ in range(10):
            self.add(frames(b"x" * 2000, b"y" * 80))
        self.queue.flush()

        self.assertEqual([7 * 2096, 3 * 2096], list(map(len, self.transport.writes)))

    def test_content_has_records_of_its_own(self) -> None:
        """What is before it leaves first, what follows does not join it."""
        held = file(10)
        assert held.content is not None
        self.add(frames(b"before"))
        self.add(Content(held, 10))
        self.add(frames(b"after"))
        self.queue.flush()

        self.assertEqual(
            [
                encode_transaction(b"before"),
                held.content,
                encode_transaction(b"after"),
            ],
            self.transport.writes,
        )


class PauseTests(QueueCase):
    """
    A transport that takes no more.
    """

    def test_nothing_is_made_while_it_is_paused(self) -> None:
        """Neither a file nor a listing goes on, and no request is let in."""
        made = []

        def listing() -> Iterator[bytes]:
            for number in range(100):
                made.append(number)
                yield encode_transaction(b"n" * 4000, more=True)

        self.transport.pause_after = [1]
        self.add(Packets(listing()))

        self.assertEqual(1, len(self.transport.writes))
        self.assertLess(len(made), 10)
        self.assertTrue(self.queue.blocked)
        self.assertFalse(self.queue.idle)
        held = file(50_000)
        answer: Deferred[Reply] = Deferred()
        self.add(answer)
        answer.callback(Content(held, 50_000))
        before = len(made)
        self.assertEqual(before, len(made))
        self.queue.resume()
        self.run_turns()
        self.assertEqual(1, held.closed)
        self.assertTrue(self.queue.idle)

    def test_paused_while_a_read_is_under_way(self) -> None:
        """What was read still leaves; the next read waits for `resume`."""
        held = file(3 * CHUNK, later=True)
        self.add(Content(held, 3 * CHUNK))
        self.queue.pause()

        held.give()

        self.assertEqual(CHUNK, len(self.written()))
        self.assertEqual([], held.waiting)
        self.queue.resume()
        self.assertEqual([CHUNK], [offset for _, offset, _ in held.waiting])

    def test_room_is_told_of(self) -> None:
        """At the limit no more requests are let in; one answer makes room."""
        self.transport, self.queue = self.make(limit=2)
        first: Deferred[Reply] = Deferred()
        second: Deferred[Reply] = Deferred()
        self.add(first)
        self.assertFalse(self.queue.blocked)
        self.add(second)
        self.assertTrue(self.queue.blocked)
        # The second alone makes no room: it has to wait.
        second.callback(frames(b"2"))
        self.assertTrue(self.queue.blocked)
        self.ready = 0

        first.callback(frames(b"1"))

        self.assertEqual((1, False), (self.ready, self.queue.blocked))

    def test_others_have_their_turn(self) -> None:
        """A peer that takes everything gets a megabyte, then the reactor turns."""
        held = file(3_000_000)
        self.add(Content(held, 3_000_000))

        self.assertLess(len(self.written()), 1_100_000)
        self.assertEqual(1, len(self.turns))
        self.run_turns()
        self.assertEqual(held.content, self.written())


class FailureTests(QueueCase):
    """
    Answers that cannot be given end the connection, and tell why once.
    """

    def assert_hung_up(self, request: Asked, why: str) -> None:
        """After everything before it, for *why*, with nothing left held."""
        self.assertEqual(1, len(self.hung_up), self.hung_up)
        self.assertIn(why, self.hung_up[0])
        ended = [r for r, reply in self.finished if isinstance(reply, HangUp)]
        self.assertEqual([request], ended)
        self.assertTrue(self.queue.blocked)
        self.assertTrue(self.queue.idle)

    def test_hang_up_in_the_middle(self) -> None:
        """The answers before it leave, those behind it never do."""
        behind = file(10)
        answer: Deferred[Reply] = Deferred()
        self.add(answer)
        request = self.add(HangUp("enough"))
        self.add(frames(b"never"))
        self.add(Content(behind, 10))

        answer.callback(frames(b"first"))

        self.assert_hung_up(request, "enough")
        self.assertEqual(encode_transaction(b"first"), self.written())
        self.assertEqual((1, 1), (behind.closed, request.released))

    def test_an_answer_that_ends_the_connection(self) -> None:
        """It leaves, and nothing after it."""
        self.add(frames(b"one"))
        self.add(Frames(encode_transaction(b"bye"), "denied", True))
        self.add(frames(b"never"))

        self.assertEqual(["after the answer"], self.hung_up)
        self.assertEqual(
            encode_transaction(b"one") + encode_transaction(b"bye"), self.written()
        )

    def test_a_read_that_fails(self) -> None:
        """At once or later, in the middle of a file."""
        for later in (False, True):
            self.transport, self.queue = self.make()
            held = file(2 * CHUNK, later=later)
            request = self.add(Content(held, 2 * CHUNK)) if later else None
            if later:
                held.give()
                held.waiting[0][0].errback(OSError(errno.EIO, "Input/output error"))
            else:
                held.error = OSError(errno.EIO, "Input/output error")
                request = self.add(Content(held, 2 * CHUNK))

            assert request is not None
            self.assert_hung_up(request, "Input/output error")
            self.assertEqual((CHUNK, 1), (len(self.written()), held.closed))

    def test_a_file_that_became_shorter(self) -> None:
        """Fewer bytes than announced are never made up for."""
        for later in (False, True):
            self.transport, self.queue = self.make()
            held = file(10, later=later)
            request = self.add(Content(held, 12))
            while held.waiting:
                held.give()

            self.assert_hung_up(request, "ends 2 bytes too early")
            self.assertEqual((10, 1), (len(self.written()), held.closed))

    def test_a_file_that_changed(self) -> None:
        """The last bytes stay here; also where that cannot be found out."""
        for later in (False, True):
            for changed, why in [
                (True, "changed while it was being sent"),
                (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
            ]:
                self.transport, self.queue = self.make()
                held = file(CHUNK + 1, later=later, changed=changed)
                request = self.add(Content(held, CHUNK + 1))
                while held.waiting:
                    held.give()

                self.assert_hung_up(request, why)
                self.assertEqual((CHUNK, 1), (len(self.written()), held.closed))

    def test_a_source_that_gives_too_much(self) -> None:
        """Never more than announced."""
        held = file(10, more=b"more than was asked for")
        self.add(Content(held, 10))

        self.assertEqual(held.content, self.written())
        self.assertEqual([], self.hung_up)

    def test_a_command_that_fails_later(self) -> None:
        """In its turn, not before."""
        first: Deferred[Reply] = Deferred()
        second: Deferred[Reply] = Deferred()
        self.add(first)
        request = self.add(second)
        second.errback(OSError(errno.EIO, "Input/output error"))
        self.assertEqual([], self.hung_up)

        first.callback(frames(b"first"))

        self.assert_hung_up(request, "Input/output error")
        self.assertEqual(encode_transaction(b"first"), self.written())

    def test_a_listing_that_fails(self) -> None:
        """In the middle: what has left has left, and the connection ends."""

        def listing() -> Iterator[bytes]:
            yield encode_transaction(b"n" * 10, more=True)
            raise ValueError("bad name")

        for later in (False, True):
            self.transport, self.queue = self.make()
            reply = Packets(listing())
            answer: Deferred[Reply] = Deferred()
            request = self.add(answer if later else reply)
            if later:
                answer.callback(reply)

            self.assert_hung_up(request, "bad name")

    def test_what_is_no_reply(self) -> None:
        """A command that answers with something else has failed, in its turn."""
        for later in (False, True):
            self.transport, self.queue = self.make()
            first: Deferred[Reply] = Deferred()
            answer: Deferred[Any] = Deferred()
            self.add(first)
            request = self.add(answer if later else b"bytes")
            self.add(frames(b"never"))
            if later:
                answer.callback(None)
            first.callback(frames(b"first"))

            self.assert_hung_up(request, "NoneType" if later else "bytes")
            self.assertEqual(encode_transaction(b"first"), self.written())


class StopTests(QueueCase):
    """
    A peer that has gone.
    """

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_everything_is_let_go_of(self, data: st.DataObject) -> None:
        """Wherever it was: leaving, waiting in line, read from, or not there yet.
        Each object is closed once, and nothing is written any more."""
        self.transport, self.queue = self.make()
        if data.draw(st.booleans()):
            self.transport.pause_after = [data.draw(st.integers(1, 3))]
        held: list[Held] = []
        requests: list[Asked] = []
        waiting: list[Deferred[Reply]] = []
        for later_reply, later_read in data.draw(
            st.lists(st.tuples(st.booleans(), st.booleans()), max_size=6)
        ):
            one = file(3 * CHUNK, later=later_read)
            held.append(one)
            if later_reply:
                answer: Deferred[Reply] = Deferred()
                waiting.append(answer)
                requests.append(self.add(answer))
                answer.addErrback(lambda _: None)
                held[-1].closed = 1  # The command's own, until it answers.
                continue
            requests.append(self.add(Content(one, 3 * CHUNK)))

        self.queue.stop()
        before = len(self.transport.writes)
        for one in held:
            for read, _, _ in one.waiting:
                read.callback(b"late")
        late = [file(10) for _ in waiting]
        for number, (answer, one) in enumerate(zip(waiting, late, strict=True)):
            if number % 2:
                answer.errback(OSError(errno.EIO, "Input/output error"))
                one.close()
            else:
                answer.callback(Content(one, 10))
        self.run_turns()
        self.queue.resume()
        self.queue.flush()

        self.assertEqual([1] * len(held), [one.closed for one in held])
        self.assertEqual([1] * len(late), [one.closed for one in late])
        self.assertEqual(before, len(self.transport.writes))
        self.assertTrue(self.queue.blocked)

    def test_requests_that_wait_keep_their_object(self) -> None:
        """A command that works in a thread still needs what it holds; it is let go
        of when the command answers."""
        answer: Deferred[Reply] = Deferred()
        request = self.add(answer)

        self.queue.stop()
        self.assertEqual(0, request.released)
        answer.callback(frames(b"late"))

        self.assertEqual(1, request.released)
        self.assertEqual([], self.transport.writes)
