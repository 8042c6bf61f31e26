# SPDX-License-Identifier: MIT
"""
Requests and answers, however the bytes are cut and whatever they are.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.answers import (
    Answer,
    ContentAnswer,
    DigestAnswer,
    ListingAnswer,
    NothingAnswer,
    StatAnswer,
    VersionAnswer,
)
from nodecomm.client.errors import BadAnswer, Refused
from nodecomm.client.pipeline import Pipeline
from nodecomm.client.stages import CLASSIC_TABLE, TABLE, Stage, Step, after
from nodecomm.wire.framing import MAX_RECORD, encode_transaction
from nodecomm.wire.replies import REFUSAL, StatReply, encode_listing
from tests.recorded import load, names


class Owner:
    """
    Has a pipeline, and notes what it does.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.pipeline = Pipeline(self, self.clock)
        self.records: list[bytes] = []
        self.complaints: list[str] = []
        self.refused: list[bytes] = []

    def write_record(self, data: bytes) -> None:
        """Noted."""
        self.records.append(data)

    def awaiting(self, anything: bool) -> None:
        """Must be true."""
        assert anything == (self.pipeline.head is not None)

    def was_refused(self, answer: Answer, error: Refused) -> None:
        """Noted."""
        self.refused.append(error.path)

    def parted(self, code: str, path: bytes, what: str) -> None:
        """As a session does."""
        self.unacceptable(code, path, what)

    def unacceptable(self, code: str, path: bytes, what: str) -> None:
        """As a session does."""
        self.complaints.append(code)
        self.pipeline.end(lambda: BadAnswer(code, what))

    def not_taken(self, path: bytes, error: Exception) -> None:
        """As a session does."""
        self.complaints.append("aborted")
        self.pipeline.end(lambda: BadAnswer("aborted", str(error)))


class Outcome:
    """
    What a request came to.
    """

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.results: list[Any] = []
        deferred.addBoth(self._done)

    def _done(self, result: Any) -> None:
        self.results.append(getattr(result, "value", result))


def contents() -> tuple[list[bytes], Callable[[bytes], None]]:
    """
    Pieces, and what adds one.
    """
    pieces: list[bytes] = []
    return pieces, pieces.append


small = st.integers(0, 2**31 - 1)
replies = st.builds(
    StatReply,
    kind=st.sampled_from([0, 2, 3]),
    mode=st.integers(0, 0o7777),
    link_mode=st.just(0),
    uid=small,
    gid=small,
    size=st.integers(0, 2**40),
    atime=small,
    mtime=small,
    ctime=small,
    holes=st.integers(0, 1),
    ino=small,
    nlink=small,
    dev=small,
)
filenames = st.binary(min_size=1, max_size=255).filter(
    lambda name: (
        b"/" not in name
        and b"\0" not in name
        and name not in (b".", b"..")
        and not name.startswith((b"BAD: ", b"---cf"))
    )
)
#: What is asked, what is answered, what the caller gets.
exchanges = st.one_of(
    replies.map(lambda reply: ("stat", reply.encode(), reply)),
    st.lists(filenames, max_size=40, unique=True).map(
        lambda found: (
            "opendir",
            b"".join(encode_listing([b".", b"..", *found])),
            found,
        )
    ),
    st.booleans().map(
        lambda differs: (
            "md5",
            encode_transaction(b"CFD_TRUE" if differs else b"CFD_FALSE"),
            differs,
        )
    ),
    st.binary(max_size=5000).map(lambda data: ("get", data, data)),
    st.just(("version", encode_transaction(b"OK: 3.21.0"), b"3.21.0")),
    st.just(("stat", encode_transaction(REFUSAL), REFUSAL)),
)


def ask(pipeline: Pipeline, kind: str, expected: Any, sink: Any) -> Deferred[Any]:
    """
    Ask what an exchange is about.
    """
    answer: Answer
    if kind == "stat":
        answer = StatAnswer(b"/a", 1)
    elif kind == "opendir":
        answer = ListingAnswer(b"/a", 100)
    elif kind == "md5":
        answer = DigestAnswer(b"/a", b"d" * 16, 30)
    elif kind == "version":
        answer = VersionAnswer()
    elif expected:
        answer = ContentAnswer(b"/a", len(expected), sink)
    else:
        answer = NothingAnswer(b"/a")
    return pipeline.ask(answer)


class StreamTests(SynchronousTestCase):
    """
    Bytes in, answers out.
    """

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(exchanges, min_size=1, max_size=12),
        st.lists(st.integers(1, 700), min_size=1, max_size=30),
        st.integers(1, 15),
    )
    def test_any_split(
        self, sent: list[tuple[str, bytes, Any]], steps: list[int], window: int
    ) -> None:
        """
        The answers do not depend on how the bytes were cut, nor on the window.
        """
        owner = Owner()
        pipeline = owner.pipeline
        pipeline.begin()
        pipeline.window = window
        sinks = [contents() for _ in sent]
        outcomes = [
            Outcome(ask(pipeline, kind, expected, sink))
            for (kind, _, expected), (_, sink) in zip(sent, sinks, strict=True)
        ]
        owner.clock.advance(0)
        wire = [data for kind, data, _ in sent if data]
        # The server answers what it has been asked, in pieces of any size.
        asked = 0
        turn = 0
        ready = b""
        while wire or ready:
            while wire and asked < pipeline.requests:
                ready += wire.pop(0)
                asked += 1
            step = steps[turn % len(steps)]
            turn += 1
            self.assertTrue(ready)
            pipeline.receive(ready[:step])
            ready = ready[step:]
            owner.clock.advance(0)

        self.assertEqual(owner.complaints, [])
        for (kind, _, expected), outcome, (pieces, _) in zip(
            sent, outcomes, sinks, strict=True
        ):
            (result,) = outcome.results
            if kind == "get":
                self.assertEqual(b"".join(pieces), expected)
            elif isinstance(result, Refused):
                self.assertEqual(result.reply, expected)
            else:
                self.assertEqual(result, expected)
        self.assertEqual(len(pipeline), 0)

    @settings(max_examples=80, deadline=None)
    @given(
        st.lists(exchanges, min_size=1, max_size=8),
        st.lists(
            st.one_of(
                st.binary(max_size=60),
                st.binary(max_size=60).map(lambda data: b"t 5\0\0\0\0\0" + data),
                exchanges.map(lambda exchange: exchange[1]),
                exchanges.map(lambda exchange: exchange[1][:-1]),
            ),
            max_size=8,
        ),
    )
    def test_any_garbage(
        self, asked: list[tuple[str, bytes, Any]], wire: list[bytes]
    ) -> None:
        """
        Whatever comes, each request has at most one outcome, the sinks get no byte
        more than was asked for, and what is wrong ends everything once.
        """
        owner = Owner()
        pipeline = owner.pipeline
        pipeline.begin()
        sinks = [contents() for _ in asked]
        outcomes = [
            Outcome(ask(pipeline, kind, expected, sink))
            for (kind, _, expected), (_, sink) in zip(asked, sinks, strict=True)
        ]
        owner.clock.advance(0)
        for data in wire:
            if owner.complaints:
                break
            pipeline.receive(data)

        self.assertLessEqual(len(owner.complaints), 1)
        for (kind, _, expected), outcome, (pieces, _) in zip(
            asked, outcomes, sinks, strict=True
        ):
            self.assertLessEqual(len(outcome.results), 1)
            if kind == "get":
                self.assertLessEqual(len(b"".join(pieces)), len(expected))
        if owner.complaints:
            self.assertTrue(all(outcome.results for outcome in outcomes))
            self.assertEqual(len(pipeline), 0)

    def test_the_middle_of_a_content_is_not_copied(self) -> None:
        """
        A sink gets the very bytes that came.
        """
        owner = Owner()
        pipeline = owner.pipeline
        pieces, sink = contents()
        pipeline.begin()
        pipeline.ask(ContentAnswer(b"/a", 3 * MAX_RECORD, sink))
        owner.clock.advance(0)
        record = bytes(MAX_RECORD)
        for _ in range(3):
            pipeline.receive(record)

        self.assertEqual([piece is record for piece in pieces], [True] * 3)

    def test_nothing_leaves_before_the_beginning(self) -> None:
        """
        What is asked before the own lines have left waits.
        """
        owner = Owner()
        owner.pipeline.ask(VersionAnswer())
        owner.clock.advance(1)
        self.assertEqual(owner.records, [])
        owner.pipeline.begin()
        owner.clock.advance(0)
        self.assertEqual(owner.records, [encode_transaction(b"VERSION")])

    def test_half_empty_windows_are_filled(self) -> None:
        """
        Requests behind the window leave when half of it is free, in one record.
        """
        owner = Owner()
        pipeline = owner.pipeline
        pipeline.begin()
        pipeline.window = 8
        for _ in range(20):
            pipeline.ask(VersionAnswer())
        owner.clock.advance(0)
        frame = encode_transaction(b"VERSION")
        answer = encode_transaction(b"OK: 1")
        for _ in range(20):
            pipeline.receive(answer)

        sent = [len(record) // len(frame) for record in owner.records]
        self.assertEqual(sent, [8, 4, 4, 4])

    def test_nothing_leaves_behind_one_that_is_alone(self) -> None:
        """
        What is before it leaves with it, what is behind it when it is answered, whole.
        """
        owner = Owner()
        pipeline = owner.pipeline
        pipeline.begin()
        answers = [VersionAnswer() for _ in range(6)]
        answers[2].alone = answers[3].alone = True
        for answer in answers:
            pipeline.ask(answer)
        owner.clock.advance(0)
        reply = encode_transaction(b"OK: 1")
        for _ in range(6):
            pipeline.receive(reply[:9])
            pipeline.receive(reply[9:])

        frame = encode_transaction(b"VERSION")
        sent = [len(record) // len(frame) for record in owner.records]
        self.assertEqual(sent, [3, 1, 2])
        self.assertEqual(pipeline.round_trips, 3)


class StageTests(SynchronousTestCase):
    """
    The life of a connection.
    """

    def test_every_step_in_every_stage(self) -> None:
        """
        What the table does not have is a mistake of this program, except that every
        connection can be left and lost; nothing leads out of the end.
        """
        for table, stage, step in product((TABLE, CLASSIC_TABLE), Stage, Step):
            if stage is not Stage.ENDED and step is Step.LEFT:
                self.assertIs(after(stage, step, table), Stage.ENDING)
            elif stage is not Stage.ENDED and step is Step.LOST:
                self.assertIs(after(stage, step, table), Stage.ENDED)
            elif (stage, step) in table:
                self.assertIs(after(stage, step, table), table[stage, step])
            else:
                self.assertRaises(KeyError, after, stage, step, table)


class RecordedTests(SynchronousTestCase):
    """
    What real servers answered, taken out of recorded connections.
    """

    def test_recorded_answers(self) -> None:
        """
        The requests that real programs made, made again, are answered by what the
        real server sent, to the last byte, whole or byte by byte.
        """
        from tests.recorded.test_exchanges import (  # noqa: PLC0415
            read_welcome,
            requests,
        )

        for name in names():
            exchange = load(name)
            answers = read_welcome(exchange).trailing()
            for step in (len(answers) or 1, 1):
                owner = Owner()
                pipeline = owner.pipeline
                pipeline.begin()
                pipeline.window = 1
                outcomes: list[Outcome] = []
                sizes: dict[bytes, int] = {}
                at = 0
                for payload in requests(exchange):
                    answer = self.answer_for(payload, sizes)
                    outcome = Outcome(pipeline.ask(answer))
                    outcomes.append(outcome)
                    owner.clock.advance(0)
                    while not outcome.results:
                        self.assertLess(at, len(answers), (name, payload))
                        at += self.receive_one(owner, answers, at, step)
                    result = outcome.results[0]
                    if isinstance(result, StatReply):
                        sizes[answer.path] = result.size

                self.assertEqual(owner.complaints, [], name)
                self.assertEqual(at, len(answers), name)

    @staticmethod
    def answer_for(payload: bytes, sizes: dict[bytes, int]) -> Answer:
        """What a recorded request awaits."""
        word, _, rest = payload.partition(b" ")
        if word == b"SYNCH":
            return StatAnswer(rest.split(b" ", 2)[2].rstrip(b"\0"), 1)
        if word == b"OPENDIR":
            return ListingAnswer(rest.rstrip(b"\0"), 10_000)
        if word == b"MD5":
            return DigestAnswer(rest.split(b"\0")[0], b"d" * 16, 30)
        if word == b"GET":
            path = rest.split(b" ", 1)[1].rstrip(b"\0")
            size = sizes.get(path, 0)
            if size:
                return ContentAnswer(path, size, lambda data: None)
            return NothingAnswer(path)
        return VersionAnswer()

    @staticmethod
    def receive_one(owner: Owner, answers: bytes, at: int, step: int) -> int:
        """
        Give the pipeline bytes up to the end of the frame or content that is next.
        """
        head = owner.pipeline.head
        if isinstance(head, ContentAnswer):
            size = head.left
        else:
            size = 8 + int(answers[at + 2 : at + 8].rstrip(b"\0"))
        for start in range(at, at + size, step):
            owner.pipeline.receive(answers[start : min(start + step, at + size)])
        return size
