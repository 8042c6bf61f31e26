# SPDX-License-Identifier: MIT
"""
Remote runs as their asker sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.errors import BadAnswer, ConnectionBroken, Refused
from nodecomm.client.executing import ExecuteResult, ExecutionDenied
from nodecomm.client.session import ClientSession
from nodecomm.client.timeouts import Timeouts
from nodecomm.wire.errors import LocalProtocolError
from nodecomm.wire.execute import (
    BUNDLE_DENIED,
    CLASS_DENIED,
    END,
    REFUSED,
    ROLE_DENIED,
    announcement,
    denied,
    exit_code,
    is_terminator,
    nothing_relevant,
)
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import REFUSAL, TERMINATOR
from nodecomm.wire.run_output import output_line
from tests.client.classic_scripted import ClassicPeer, SessionCase
from tests.client.scripted import HELLO, WELCOME, Peer, Place
from tests.client.test_session import GOOD, STATUS

BEGUN = announcement(b"/bin/run")
HELLO_TEXT = "Hello  (127.0.0.1), nothing relevant to do here..."
#: What a real server says of frames that it takes for commands.
DENIED = encode_transaction(b"BAD: Request denied")
OURS = b"CFE_v3 nodecomm-server 1.0\n"


def output(*lines: bytes) -> bytes:
    """
    The frames of lines.
    """
    return b"".join(map(output_line, lines))


def run(*lines: bytes, code: int = 0) -> bytes:
    """
    The frames of a whole run.
    """
    return BEGUN + output(*lines) + exit_code(code) + END


async def asked(peer: Peer) -> list[bytes]:
    """
    Read a whole request to run.
    """
    payloads = [await peer.request()]
    assert payloads[0].startswith(b"EXEC")
    while not is_terminator(payloads[-1]):
        payloads.append(await peer.request())
    return payloads


def serving(*answers: bytes, hello: bytes = HELLO) -> Any:
    """
    A server that answers run by run, and then waits.
    """

    async def script(peer: Peer) -> None:
        peer.send(hello)
        await peer.line()
        await peer.line()
        peer.send(WELCOME)
        for answer in answers:
            await asked(peer)
            peer.send(answer)
        while True:
            await peer.more()

    return script


def closing(*answers: bytes) -> Any:
    """
    A server that says this to one request, and closes.
    """

    async def script(peer: Peer) -> None:
        await peer.greet()
        await asked(peer)
        peer.send(*answers)
        peer.close()

    return script


def outcome(result: ExecuteResult) -> tuple[Any, ...]:
    """
    All of it but the time.
    """
    return (
        result.exit_code,
        result.announced,
        result.remarks,
        result.lines,
        result.bytes,
        result.cut,
    )


class RunTests(SynchronousTestCase):
    """
    Runs that a server lets us have.
    """

    def setUp(self) -> None:
        """
        Lines that have come.
        """
        self.lines: list[bytes] = []

    def test_a_run(self) -> None:
        """
        Lines come one by one and the result tells the rest; what was asked for is
        what the server gets.
        """
        requests: list[list[bytes]] = []

        async def script(peer: Peer) -> None:
            await peer.greet()
            requests.append(await asked(peer))
            peer.send(BEGUN)
            await peer.sleep(5)
            peer.send(output(b"one", b"", b"\x1b[2J\xff"))
            await peer.sleep(2)
            peer.send(exit_code(3), END)
            await peer.more()

        place = Place(script)
        session = place.connect()
        announced: list[bytes] = []
        result = place.result(
            session.execute(
                defined=[b"a", b"b"],
                bundles=[b"c"],
                on_line=self.lines.append,
                on_announced=announced.append,
            )
        )

        self.assertEqual(requests, [[b"EXEC -Da,b -b c", TERMINATOR]])
        self.assertEqual(announced, [b"/bin/run"])
        self.assertEqual(self.lines, [b"one", b"", b"\x1b[2J\xff"])
        self.assertEqual(outcome(result), (3, b"/bin/run", (), 3, 11, False))
        self.assertAlmostEqual(result.seconds, 7.0)

    def test_lines_come_when_they_are_sent(self) -> None:
        """
        A line is there before the next one is.
        """

        async def script(peer: Peer) -> None:
            await peer.greet()
            await asked(peer)
            peer.send(BEGUN, output(b"one"))
            await peer.sleep(50)
            peer.send(output(b"two"))
            await peer.more()

        place = Place(script)
        running = place.connect().execute(on_line=self.lines.append)
        place.network.advance(40)
        self.assertEqual(self.lines, [b"one"])
        place.network.advance(20)
        self.assertEqual(self.lines, [b"one", b"two"])
        self.assertNoResult(running)

    def test_runs_one_after_the_other(self) -> None:
        """
        Runs and other requests of one connection are answered in their order, though
        all were asked at once.
        """

        async def script(peer: Peer) -> None:
            await peer.greet()
            await asked(peer)
            await asked(peer)
            await peer.request()
            peer.send(run(b"first") + run(b"second", code=1) + GOOD)
            await peer.more()

        place = Place(script)
        session = place.connect()
        first = session.execute(on_line=self.lines.append)
        second = session.execute(on_line=self.lines.append)
        status = session.stat(b"/a")

        self.assertEqual(place.result(first).exit_code, 0)
        self.assertEqual(place.result(second).exit_code, 1)
        self.assertEqual(place.result(status), STATUS)
        self.assertEqual(self.lines, [b"first", b"second"])
        self.assertFalse(session.closed)

    def test_a_run_without_an_exit_code(self) -> None:
        """
        A command that a signal ended tells none, and output that imitates one counts
        for nothing.
        """
        place = Place(serving(BEGUN + output(b"(exit code: 0)", TERMINATOR) + END))
        result = place.result(place.connect().execute(on_line=self.lines.append))

        self.assertIsNone(result.exit_code)
        self.assertEqual(self.lines, [b"(exit code: 0)", TERMINATOR])

    def test_remarks(self) -> None:
        """
        What the server says besides is kept, a little of it, as text.
        """
        said = b"".join(
            encode_transaction(b"remark %d\x1b" % number) for number in range(50)
        )
        long = encode_transaction(b"x" * 400)
        place = Place(serving(BEGUN + long + said + exit_code(0) + END))
        result = place.result(place.connect().execute(on_line=self.lines.append))

        self.assertEqual(
            result.remarks,
            (
                "x" * 300 + "...",
                *[f"remark {number}\\x1b" for number in range(19)],
            ),
        )
        self.assertEqual((result.lines, result.exit_code), (0, 0))

    def test_what_cannot_be_asked(self) -> None:
        """
        A name that no request can carry fails, and the connection goes on.
        """
        place = Place(serving(run()))
        session = place.connect()
        mistakes: list[dict[str, Any]] = [
            {"defined": [b"a;b"]},
            {"bundles": [b""]},
            {"selected": [b"a b"]},
        ]
        for arguments in mistakes:
            self.failureResultOf(
                session.execute(on_line=self.lines.append, **arguments),
                LocalProtocolError,
            )

        result = place.result(session.execute(on_line=self.lines.append))
        self.assertEqual(result.exit_code, 0)

    def test_cancelled(self) -> None:
        """
        The lines of a run that nobody waits for are passed over, and the next request
        is answered.
        """

        async def script(peer: Peer) -> None:
            await peer.greet()
            await asked(peer)
            peer.send(BEGUN + output(b"first"))
            await peer.sleep(5)
            peer.send(output(b"late") + exit_code(0) + END)
            await asked(peer)
            peer.send(run(b"second", code=1))
            await peer.more()

        place = Place(script)
        session = place.connect()
        first = session.execute(on_line=self.lines.append)
        place.network.pump()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        result = place.result(session.execute(on_line=self.lines.append))

        self.assertEqual((result.exit_code, result.lines), (1, 1))
        self.assertEqual(self.lines, [b"first", b"second"])


class ClassicTests(SessionCase):
    """
    Runs without TLS.
    """

    def test_runs(self) -> None:
        """
        The classic protocol carries them, too, and in the clear.
        """

        async def script(peer: ClassicPeer) -> None:
            await asked(peer)
            peer.send(run(b"line", code=7))
            await asked(peer)
            peer.send(REFUSED)
            peer.close()

        for encrypt in (False, True):
            place, session = self.session(script, encrypt=encrypt)
            lines: list[bytes] = []
            first = session.execute(on_line=lines.append)
            second = session.execute(on_line=lines.append)

            self.assertEqual(place.result(first).exit_code, 7)
            self.assertEqual(lines, [b"line"])
            self.assertEqual(place.failure(second).code, "refused")


class DenialTests(SynchronousTestCase):
    """
    Runs that a server does not let us have.
    """

    def denial(self, place: Place, **arguments: Any) -> Refused:
        """
        Ask, and give the error.
        """
        running = place.connect().execute(on_line=self.fail, **arguments)
        error = place.failure(running)
        assert isinstance(error, Refused)
        return error

    def test_refusals(self) -> None:
        """
        The refusal is what is told, whether the server says all before it closes or
        not; what was asked behind it fails because the connection ended.
        """
        for said in (REFUSED, encode_transaction(REFUSAL)):
            place = Place(closing(said))
            session = place.connect()
            running = session.execute(on_line=self.fail)
            behind = session.stat(b"/a")
            error = place.failure(running)

            self.assertIsInstance(error, Refused)
            self.assertNotIsInstance(error, ExecutionDenied)
            self.assertEqual((error.code, error.reply), ("refused", REFUSAL))
            self.assertTrue(str(error).startswith("EXEC: the server says BAD: Unspec"))
            self.assertIsInstance(place.failure(behind), ConnectionBroken)

    def test_a_server_that_knows_no_such_command(self) -> None:
        """
        Its words are told.
        """
        error = self.denial(Place(closing(DENIED)))

        self.assertEqual((error.code, error.reply), ("error", b"BAD: Request denied"))

    def test_a_server_that_just_closes(self) -> None:
        """
        It refused nothing: the connection broke.
        """
        for said in ([], [BEGUN], [BEGUN + output(b"one") + exit_code(0)]):
            place = Place(closing(*said))
            running = place.connect().execute(on_line=lambda _: None)
            error = place.failure(running)

            self.assertIsInstance(error, ConnectionBroken)
            self.assertEqual(error.code, "closed")

    def test_denials(self) -> None:
        """
        Each denial has its word, keeps the connection, and is no run.
        """
        hello = nothing_relevant(b"", b"127.0.0.1")
        for said, code, remarks in [
            (denied(ROLE_DENIED), "role", ()),
            (denied(BUNDLE_DENIED), "bundle", ()),
            (denied(b"EXEC denied: invalid arguments: -K"), "arguments", ()),
            (hello + denied(CLASS_DENIED), "class-match", (HELLO_TEXT,)),
        ]:
            place = Place(serving(said, run()))
            session = place.connect()
            error = place.failure(session.execute(on_line=self.fail))

            self.assertIsInstance(error, ExecutionDenied)
            self.assertEqual((error.code, error.remarks), (code, remarks))
            self.assertIn("EXEC denied", str(error))
            again = place.result(session.execute(on_line=self.fail))
            self.assertEqual(again.exit_code, 0)

    def test_words_of_a_hostile_server_are_safe(self) -> None:
        """
        What it says is escaped in the message.
        """
        error = self.denial(Place(closing(encode_transaction(b"BAD: \x1b[2J\n"))))

        self.assertEqual(str(error), "EXEC: the server says BAD: \\x1b[2J")


class SelectionTests(SynchronousTestCase):
    """
    Runs on those nodes that have a class.
    """

    def test_a_real_server_is_left_after_one(self) -> None:
        """
        It takes the frames that it has not read for commands. The result is told, and
        what was asked behind it fails because the connection ended.
        """

        async def script(peer: Peer) -> None:
            await peer.greet()
            await asked(peer)
            peer.send(run())
            peer.send(DENIED)
            peer.close()

        place = Place(script)
        session = place.connect()
        running = session.execute(selected=[b"linux"], on_line=self.fail)
        behind = session.stat(b"/a")

        self.assertEqual(place.result(running).exit_code, 0)
        error = place.failure(behind)
        self.assertIsInstance(error, ConnectionBroken)
        self.assertEqual(error.code, "closed")
        self.assertIn("asked for classes", str(error))
        self.assertTrue(session.closed)

    def test_where_the_connection_goes_on(self) -> None:
        """
        A real server that has none of the classes has read them all, and so has a
        server of ours always.
        """
        nothing = nothing_relevant(b"", b"127.0.0.1") + denied(CLASS_DENIED)
        for hello, first in ((HELLO, nothing), (OURS, run()), (OURS, nothing)):
            place = Place(serving(first, run(), hello=hello))
            session = place.connect()
            place.result(session.when_welcomed())
            results: list[Any] = []
            running = session.execute(selected=[b"linux"], on_line=self.fail)
            running.addBoth(results.append)
            place.network.pump()
            again = place.result(session.execute(on_line=self.fail))

            self.assertEqual(len(results), 1)
            self.assertEqual(again.exit_code, 0)


class TakerTests(SynchronousTestCase):
    """
    Whoever takes the lines.
    """

    def test_lines_wait_for_their_taker(self) -> None:
        """
        Nothing is read, and no silence is counted, before a line's Deferred fires; the
        server is held back, too.
        """
        waiting: list[Deferred[None]] = []

        def take(line: bytes) -> Deferred[None]:
            waiting.append(Deferred())
            return waiting[-1]

        async def script(peer: Peer) -> None:
            await peer.greet()
            await asked(peer)
            peer.send(BEGUN)
            Flood(peer)
            await peer.more()

        place = Place(script)
        session = place.connect()
        running = session.execute(on_line=take, silence=20)
        place.network.advance(200)
        self.assertEqual(len(waiting), 1)
        sent = place.network.connections[0].server.sent
        place.network.advance(200)
        self.assertEqual(place.network.connections[0].server.sent, sent)
        self.assertLess(sent, 300_000)

        waiting[0].callback(None)
        place.network.pump()
        self.assertEqual(len(waiting), 2)
        self.assertNoResult(running)
        self.assertFalse(session.closed)
        session.abort("aborted", "enough")
        waiting[1].callback(None)
        self.failureResultOf(running, ConnectionBroken)

    def test_all_lines_and_the_end_wait(self) -> None:
        """
        What has come together is taken one by one, and the result comes last.
        """
        waiting: list[Deferred[None]] = []
        lines: list[bytes] = []

        def take(line: bytes) -> Deferred[None]:
            lines.append(line)
            waiting.append(Deferred())
            return waiting[-1]

        place = Place(serving(run(b"1", b"2", b"3")))
        running = place.connect().execute(on_line=take)
        for number in range(1, 4):
            place.network.pump()
            self.assertEqual(len(lines), number)
            self.assertNoResult(running)
            waiting[-1].callback(None)

        self.assertEqual(place.result(running).exit_code, 0)
        self.assertEqual(lines, [b"1", b"2", b"3"])

    def test_takers_that_are_ready_are_not_waited_for(self) -> None:
        """
        All lines that came together are taken in the same turn.
        """
        lines: list[bytes] = []

        def take(line: bytes) -> Deferred[None]:
            lines.append(line)
            return succeed(None)

        place = Place(serving(run(b"1", b"2", b"3")))
        result = place.result(place.connect().execute(on_line=take))

        self.assertEqual((len(lines), result.exit_code), (3, 0))

    def test_takers_that_fail(self) -> None:
        """
        At once, later, or for the announcement: the connection is dropped, and the
        request fails with that error.
        """

        def now(_: bytes) -> None:
            raise ZeroDivisionError

        def ready(_: bytes) -> Deferred[None]:
            return fail(ZeroDivisionError())

        def later(_: bytes) -> Deferred[None]:
            waiting: Deferred[None] = Deferred()
            place.clock.callLater(5, waiting.errback, ZeroDivisionError())
            return waiting

        def never(_: bytes) -> None:
            self.fail("the announcement failed before")

        table: list[tuple[Callable[[bytes], Any], Any]] = [
            (now, None),
            (ready, None),
            (later, None),
            (never, now),
        ]
        for on_line, on_announced in table:
            place = Place(serving(run(b"1")))
            session = place.connect()
            running = session.execute(on_line=on_line, on_announced=on_announced)
            behind = session.stat(b"/a")

            self.assertIsInstance(place.failure(running), ZeroDivisionError)
            error = place.failure(behind)
            self.assertEqual(error.code, "aborted")
            self.assertTrue(session.closed)

    def test_a_taker_that_fails_when_all_is_over(self) -> None:
        """
        Nobody is told any more, so its error goes to the log.
        """
        waiting: Deferred[None] = Deferred()
        place = Place(serving(run(b"1")))
        session = place.connect()
        running = session.execute(on_line=lambda _: waiting)
        place.network.pump()
        session.abort("aborted", "enough")
        self.failureResultOf(running, ConnectionBroken)
        waiting.errback(ZeroDivisionError())

        self.failureResultOf(waiting, ZeroDivisionError)

    def test_a_taker_that_ends_the_connection(self) -> None:
        """
        It is called no more.
        """
        lines: list[bytes] = []

        def take(line: bytes) -> None:
            lines.append(line)
            session.abort("aborted", "enough")

        place = Place(serving(run(b"1", b"2")))
        session: ClientSession = place.connect()
        running = session.execute(on_line=take)

        self.assertEqual(place.failure(running).code, "aborted")
        self.assertEqual(lines, [b"1"])


class Flood:
    """
    Sends lines as long as it may.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._records = output(*[b"x" * 1000] * 16)
        transport: Any = peer.transport
        transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """More."""
        self._peer.send(self._records)

    def stopProducing(self) -> None:
        """Nobody listens."""


class HostileTests(SynchronousTestCase):
    """
    Servers that say too much, too little or something else.
    """

    def test_too_much_output(self) -> None:
        """
        Up to the limit it is taken; then the connection is dropped, the result says
        that it was cut, and what was asked behind it fails.
        """
        lines: list[bytes] = []
        place = Place(serving(run(*[b"x" * 49] * 10)))
        session = place.connect()
        result = place.result(session.execute(on_line=lines.append, output_limit=500))
        self.assertEqual(outcome(result), (0, b"/bin/run", (), 10, 500, False))

        place = Place(serving(run(*[b"x" * 49] * 10)))
        session = place.connect()
        lines.clear()
        running = session.execute(on_line=lines.append, output_limit=499)
        behind = session.stat(b"/a")
        result = place.result(running)

        self.assertEqual(outcome(result), (None, b"/bin/run", (), 9, 450, True))
        self.assertEqual(len(lines), 9)
        self.assertEqual(place.failure(behind).code, "aborted")
        self.assertTrue(place.server.peers[0].ended)

    def test_short_lines(self) -> None:
        """
        Lines cost something even if nothing is in them: each counts for 32 bytes.
        """
        for count, cut in ((10, False), (11, True)):
            place = Place(serving(run(*[b""] * count)))
            running = place.connect().execute(on_line=lambda _: None, output_limit=320)
            result = place.result(running)
            self.assertEqual((10, 10, cut), (result.lines, result.bytes, result.cut))

    def test_endless_output(self) -> None:
        """
        Lines, empty ones, lines without newline, remarks and exit codes without an end
        all are cut.
        """
        for frame in (
            output(b"x" * 1000),
            output(b""),
            encode_transaction(b"> "),
            encode_transaction(b"remark"),
            encode_transaction(b"(exit code: 0)\n"),
            encode_transaction(b"\n"),
        ):

            async def script(peer: Peer, frames: bytes = frame * 10) -> None:
                await peer.greet()
                await asked(peer)
                peer.send(BEGUN)
                while True:
                    peer.send(frames)
                    await peer.sleep(0.01)

            place = Place(script)
            running = place.connect().execute(on_line=lambda _: None, output_limit=2000)

            self.assertTrue(place.result(running).cut)

    def test_silence(self) -> None:
        """
        A run that says nothing for too long is lost; every line is a sign of life.
        """

        async def script(peer: Peer) -> None:
            await peer.greet()
            await asked(peer)
            peer.send(BEGUN)
            for _ in range(5):
                await peer.sleep(90)
                peer.send(output(b"alive"))
            await peer.more()

        place = Place(script, timeouts=Timeouts(answer=5, slow=20))
        lines: list[bytes] = []
        running = place.connect().execute(on_line=lines.append, silence=100)
        before = place.clock.seconds()
        error = place.failure(running)

        self.assertEqual(error.code, "timeout")
        self.assertEqual(str(error), "hub:5308: EXEC: nothing came for 100 s")
        self.assertEqual(len(lines), 5)
        self.assertAlmostEqual(place.clock.seconds() - before, 550, delta=2)

    def test_what_is_no_answer(self) -> None:
        """
        A frame that says that more follow, and no frame at all, end the connection.
        """
        for said in (
            encode_transaction(b"> x\n", more=True),
            b"> x\n" * 5,
            BEGUN + b"\0" * 8,
        ):
            place = Place(serving(said))
            error = place.failure(place.connect().execute(on_line=self.fail))
            self.assertIsInstance(error, BadAnswer)

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_any_split(self, data: st.DataObject) -> None:
        """
        What comes of an answer does not depend on how its bytes were cut.
        """
        answer = run(b"one", b"", b"x" * 5000, code=3)
        cuts = data.draw(st.lists(st.integers(0, len(answer)), max_size=12))
        edges = [0, *sorted(cuts), len(answer)]

        async def script(peer: Peer) -> None:
            await peer.greet()
            await asked(peer)
            for start, end in pairwise(edges):
                peer.send(answer[start:end])
                await peer.sleep(0.1)
            await peer.more()

        place = Place(script)
        lines: list[bytes] = []
        result = place.result(place.connect().execute(on_line=lines.append))

        self.assertEqual(lines, [b"one", b"", b"x" * 4083])
        self.assertEqual(outcome(result)[:2], (3, b"/bin/run"))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    def test_any_frames(self, said: list[bytes]) -> None:
        """
        Any frames before the terminator are a result or a refusal, and the connection
        goes on.
        """
        said = [payload for payload in said if not is_terminator(payload)]
        answer = b"".join(map(encode_transaction, said)) + END
        place = Place(serving(answer, run()))
        session = place.connect()
        results: list[Any] = []
        running = session.execute(on_line=lambda _: None)
        running.addErrback(lambda failure: failure.trap(Refused) and failure.value)
        running.addCallback(results.append)
        place.network.pump()
        again = place.result(session.execute(on_line=self.fail))

        self.assertIsInstance(results[0], (ExecuteResult, Refused))
        self.assertEqual(again.exit_code, 0)
