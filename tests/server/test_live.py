# SPDX-License-Identifier: MIT
"""
Answers that are made over time, in the queue, and requests of several transactions:
what plugins may use, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from nodecomm.interfaces import API, ICommand
from nodecomm.server.collecting import Collection
from nodecomm.server.replies import HangUp, Live, LiveAnswer, Reply, frame
from nodecomm.server.requests import Request
from nodecomm.testing import memory_server
from nodecomm.wire.framing import (
    MAX_RECORD,
    TransactionBuffer,
    encode_transaction,
    join_frames,
)
from tests.server.test_answers import Asked, QueueCase, frames, packets


def send_all(answer: LiveAnswer, frames: list[bytes]) -> None:
    """Send any number of frames."""
    for record in join_frames(frames):
        answer.send(record)


@define(eq=False)
class Source:
    """
    Notes what it is told, and says something in between.
    """

    first: Callable[[LiveAnswer], None] = field(default=lambda answer: None)
    told: list[str] = field(factory=list)
    answer: Any = None
    when_resumed: bytes = b""

    def begin(self, answer: LiveAnswer) -> Source:
        """It is its turn."""
        self.told.append("begin")
        self.answer = answer
        self.first(answer)
        return self

    def pause(self) -> None:
        """Noted."""
        self.told.append("pause")

    def resume(self) -> None:
        """Noted, and perhaps answered."""
        self.told.append("resume")
        self.answer.send(self.when_resumed)
        self.when_resumed = b""

    def leave(self) -> None:
        """Noted."""
        self.told.append("leave")


class LiveTests(QueueCase):
    """
    A live answer in the queue.
    """

    def live(self, **more: Any) -> Source:
        """An answer in the queue."""
        source = Source(**more)
        self.request = self.add(Live(source.begin))
        return source

    def test_at_once(self) -> None:
        """Each part leaves in the moment in which it is sent, behind what is there."""
        self.add(frames(b"before"))
        source = self.live()
        one, two = encode_transaction(b"one"), encode_transaction(b"two")

        source.answer.send(one)
        self.assertEqual([encode_transaction(b"before"), one], self.transport.writes)
        source.answer.send(two + two)
        self.assertEqual(two + two, self.transport.writes[-1])
        self.assertEqual([], self.finished[1:])
        source.answer.end()

        self.assertEqual((["begin", "leave"], True), (source.told, self.queue.idle))
        self.assertIs(self.request, self.finished[-1][0])
        self.assertEqual(len(one + two + two), self.request.sent)

    def test_its_turn(self) -> None:
        """It begins when the answers before it have left, and those behind it wait."""
        before: Deferred[Reply] = Deferred()
        self.add(before)
        source = self.live()
        self.add(frames(b"behind"))
        self.assertEqual(([], False), (source.told, self.queue.live))

        before.callback(frames(b"before"))
        self.assertEqual((["begin"], True), (source.told, self.queue.live))
        self.assertEqual(encode_transaction(b"before"), self.written())
        source.answer.end()

        self.assertEqual(encode_transaction(b"behind"), self.transport.writes[-1])
        self.assertFalse(self.queue.live)

    def test_all_in_the_beginning(self) -> None:
        """What is sent before `begin` has returned leaves, too; so does the end."""
        sent = [encode_transaction(b"x" * 4000)] * 9

        def first(answer: LiveAnswer) -> None:
            send_all(answer, sent)
            answer.end()
            send_all(answer, sent)

        source = self.live(first=first)

        self.assertEqual(b"".join(sent), self.written())
        self.assertEqual("leave", source.told[-1])
        self.assertTrue(self.queue.idle)

    def test_after_the_end(self) -> None:
        """Nothing is sent, and nothing ends twice."""
        source = self.live()
        source.answer.end()
        for call in (source.answer.end, lambda: source.answer.break_off("why")):
            call()
        source.answer.send(encode_transaction(b"late"))

        self.assertEqual((b"", []), (self.written(), self.hung_up))
        self.assertEqual(1, len(self.finished))
        self.assertEqual(["begin", "leave"], source.told)

    def test_paused(self) -> None:
        """The source is paused and resumed with the transport; what it sent
        meanwhile waits, and comes first."""
        source = self.live()
        self.queue.pause()
        self.queue.pause()
        source.answer.send(encode_transaction(b"one"))
        source.answer.send(encode_transaction(b"two"))
        self.assertEqual((["begin", "pause"], []), (source.told, self.transport.writes))
        source.when_resumed = encode_transaction(b"three")

        self.queue.resume()

        self.assertEqual(["begin", "pause", "resume"], source.told)
        found = [encode_transaction(each) for each in (b"one", b"two", b"three")]
        self.assertEqual(found, self.transport.writes)
        source.answer.send(encode_transaction(b"four"))
        self.assertEqual(encode_transaction(b"four"), self.transport.writes[-1])

    def test_paused_with_nothing_to_send(self) -> None:
        """The source is resumed all the same, and its end is not held up."""
        source = self.live()
        self.queue.pause()
        self.queue.resume()
        self.assertEqual(["begin", "pause", "resume"], source.told)
        self.queue.pause()
        source.answer.end()
        self.queue.resume()

        self.assertTrue(self.queue.idle)
        self.assertEqual(self.finished[0][0], self.request)

    def test_paused_by_what_is_sent(self) -> None:
        """A transport that has enough in the middle of a part gets the rest later."""
        self.transport.pause_after = [2]
        source = self.live()
        sent = [encode_transaction(b"x" * 4000)] * 20
        send_all(source.answer, sent)
        source.answer.end()
        self.assertEqual(2, len(self.transport.writes))
        self.assertEqual(["begin", "pause"], source.told)

        self.queue.resume()

        self.assertEqual(b"".join(sent), self.written())
        self.assertTrue(self.queue.idle)

    def test_too_much_at_once(self) -> None:
        """What does not fit in a record is a mistake of the source."""
        source = self.live()
        longest = encode_transaction(b"x" * 4088) * 4
        with self.assertRaises(ValueError):
            source.answer.send(longest + encode_transaction(b"x"))
        source.answer.send(longest)

        self.assertEqual([longest], self.transport.writes)

    def test_others_have_their_turn(self) -> None:
        """However much has waited, it lets the reactor go on now and then."""
        source = self.live()
        self.queue.pause()
        sent = [encode_transaction(b"x" * 4088)] * 600
        send_all(source.answer, sent)
        self.queue.resume()
        self.assertLess(len(self.written()), 3 << 19)
        self.assertEqual(["begin", "pause"], source.told)

        self.run_turns()

        self.assertEqual(b"".join(sent), self.written())
        self.assertEqual(["begin", "pause", "resume"], source.told)

    def test_more_than_a_turn_takes(self) -> None:
        """A source that goes on while what it sent before still waits is paused."""
        sent = [encode_transaction(b"x" * 4088)] * 600
        source = self.live(first=lambda answer: send_all(answer, sent))
        self.assertLess(len(self.written()), 3 << 19)
        source.answer.send(encode_transaction(b"behind"))
        self.assertEqual(["begin", "pause"], source.told)

        self.run_turns()

        self.assertEqual(["begin", "pause", "resume"], source.told)
        self.assertEqual(b"".join(sent) + encode_transaction(b"behind"), self.written())

    def test_broken_off(self) -> None:
        """The connection ends behind what was sent, and the log has the reason."""
        self.transport.pause_after = [1]
        source = self.live()
        frames = [encode_transaction(b"x" * 4000)] * 5
        sent = b"".join(frames)
        send_all(source.answer, frames)
        source.answer.break_off("the source is gone")
        self.assertEqual([], self.hung_up)
        self.queue.resume()

        self.assertEqual((sent, ["the source is gone"]), (self.written(), self.hung_up))
        reply = self.finished[-1][1]
        self.assertEqual("the source is gone", cast(HangUp, reply).why)
        self.assertIn("leave", source.told)

    def test_a_source_that_fails(self) -> None:
        """As any command that fails."""

        def first(answer: LiveAnswer) -> None:
            answer.send(encode_transaction(b"never"))
            raise ZeroDivisionError("no source")

        self.add(frames(b"before"))
        self.live(first=first)

        self.assertEqual(encode_transaction(b"before"), self.written())
        self.assertEqual(["no source"], self.hung_up)
        self.assertTrue(self.request.released)

    def test_a_peer_that_has_gone(self) -> None:
        """The source is told at once, once; one whose turn never came is not asked."""
        source = self.live()
        other = self.live()
        self.queue.pause()
        source.answer.send(encode_transaction(b"x"))
        self.queue.stop()
        source.answer.send(encode_transaction(b"x"))
        source.answer.end()
        self.queue.stop()

        self.assertEqual(["begin", "pause", "leave"], source.told)
        self.assertEqual(([], []), (other.told, self.transport.writes))
        self.assertEqual([], self.finished)

    def test_a_peer_that_goes_at_the_beginning(self) -> None:
        """A connection that ends while the source begins."""
        source = self.live(first=lambda _: self.queue.stop())

        self.assertEqual(["begin", "leave"], source.told)

    def test_in_an_envelope(self) -> None:
        """No live answer is encrypted for a request: the command has failed."""
        request = Asked()
        request.seal = object()

        self.queue.add(cast(Request, request), Live(Source().begin))

        self.assertEqual((b"", True), (self.written(), request.released > 0))
        reply = cast(HangUp, self.finished[0][1])
        self.assertEqual("a command answered with Live", reply.why)

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_any_order(self, data: st.DataObject) -> None:
        """Whatever is sent and whenever the transport pauses: the bytes are those of
        all answers one after the other, and no write divides a frame."""
        self.transport, self.queue = self.make()
        self.transport.pause_after = data.draw(st.lists(st.integers(1, 30), max_size=8))
        self.add(packets([4088, 10]))
        source = self.live()
        self.add(frames(b"behind"))
        sent = b""
        self.queue.resume()
        for sizes in data.draw(
            st.lists(st.lists(st.integers(1, 4088), max_size=15), max_size=8)
        ):
            part = [encode_transaction(b"l" * size) for size in sizes]
            if source.answer is not None:
                sent += b"".join(part)
                send_all(source.answer, part)
            if data.draw(st.booleans()):
                self.queue.resume()
                self.run_turns()
        while source.answer is None or not self.queue.idle:
            if source.answer is not None:
                source.answer.end()
            self.queue.resume()
            self.run_turns()

        before = b"".join(encode_transaction(b"p" * s, more=True) for s in (4088, 10))
        behind = encode_transaction(b"behind")
        self.assertEqual(before + sent + behind, self.written())
        for write in self.transport.writes:
            self.assertLessEqual(len(write), MAX_RECORD)
            buffer = TransactionBuffer()
            buffer.feed(write)
            while buffer.next_payload() is not None:
                pass
            self.assertEqual(0, len(buffer))


@implementer(ICommand)
class TwoPartCommand:
    """
    Has a second transaction, and answers when it is told to.
    """

    api = API
    name = "two"
    words = (b"TWO",)
    versions = frozenset({2, 3})

    def __init__(self) -> None:
        self.found: list[Deferred[Any]] = []
        self.failed: list[Any] = []
        self.answers: list[Deferred[Reply]] = []
        self.twice = False

    def answer(self, request: Request) -> Deferred[Reply]:
        """Later."""
        found = request.collect(lambda payload: True)
        self.found.append(found.addErrback(self.failed.append))
        if self.twice:
            request.collect(lambda payload: True)
        self.answers.append(Deferred())
        return self.answers[-1]


class FurtherTests(SynchronousTestCase):
    """
    A plugin's command with several transactions.
    """

    def setUp(self) -> None:
        self.command = TwoPartCommand()
        self.server = memory_server(commands=[self.command])

    def test_alone(self) -> None:
        """The second transaction is the command's, whatever it says; what is behind
        it is asked when the command has answered."""
        node = self.server.connect()
        self.assertEqual([], node.request(b"TWO", b"VERSION", b"VERSION"))
        found = self.successResultOf(self.command.found[0])

        self.command.answers[0].callback(frame(b"both"))
        node.pump()

        self.assertEqual([b"VERSION"], found)
        self.assertEqual([b"both", b"OK: 3.21.0"], node.transactions())

    def test_answered_too_early(self) -> None:
        """A command that answers before its request is complete has no more of it."""
        node = self.server.connect()
        node.request(b"TWO")
        self.command.answers[0].callback(frame(b"early"))
        node.pump()

        self.assertEqual([b"early"], node.transactions())
        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))
        self.assertEqual([ConnectionError], [each.type for each in self.command.failed])

    def test_twice(self) -> None:
        """A request is collected once."""
        self.command.twice = True
        node = self.server.connect()

        self.assertEqual([], node.request(b"TWO"))

        self.assertTrue(node.closed)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_a_request_alone(self) -> None:
        """One that no session has made has nothing behind it."""
        serving = self.server.factory.serving
        nothing = cast(Any, None)
        request = Request(b"x", nothing, nothing, serving, nothing, 0)
        with self.assertRaises(RuntimeError):
            request.collect(lambda payload: True)

    def test_given_up(self) -> None:
        """Once, and not when it is complete."""
        collection = Collection(cast(Any, None), lambda payload: True)
        collection.take(b"x")
        collection.give_up("late")
        self.assertEqual([b"x"], self.successResultOf(collection.result))
