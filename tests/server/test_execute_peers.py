# SPDX-License-Identifier: MIT
"""
EXEC with peers that send too much, take too little, or go away; and a server that
stops.
"""

from __future__ import annotations

import gc
import socket
import weakref
from types import SimpleNamespace
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.config.model import LimitSettings
from nodecomm.server import collecting, posix
from nodecomm.server.replies import frame
from nodecomm.testing import MemoryClient, MemoryRunner
from nodecomm.wire.commands import encode_stat
from nodecomm.wire.execute import encode_execute
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.run_output import Printed
from tests.server.execute_case import (
    END,
    TERMINATOR,
    VERSIONS,
    ExecuteTestCase,
    frames,
)
from tests.server.test_session import SlowCommand


class RequestTests(ExecuteTestCase):
    """
    The frames of a request.
    """

    def test_too_many_frames(self) -> None:
        """The connection ends at the first one too many, and nothing is run."""
        for version in VERSIONS:
            node = self.node(version)
            node.send(frames(b"EXEC", *[b"c"] * collecting.MAX_FRAMES))
            self.assertFalse(node.closed)

            node.send(frames(*[b"c"] * (10_000 - collecting.MAX_FRAMES), TERMINATOR))

            self.assertEqual(([], True), (node.transactions(), node.closed))
        self.assertEqual([], self.runner.runs)
        reasons = {each["reason"] for each in self.told("session.closed")}
        self.assertIn("transactions of a request", reasons.pop())

    def test_as_many_as_may_be(self) -> None:
        """The limit counts the last one too, whatever it is."""
        node = self.node()
        node.request(b"EXEC", *[b"no"] * (collecting.MAX_FRAMES - 2), b"linux")

        self.assertEqual(1, len(node.request(TERMINATOR)))

    def test_too_many_bytes(self) -> None:
        """All frames together have a limit, too."""
        much = collecting.MAX_BYTES - 16 * 4088 - len(b"linux" + TERMINATOR)
        for last, closed in ((much + 1, True), (much, False)):
            node = self.node()
            node.send(frames(b"EXEC", *[b"c" * 4088] * 16, b"linux"))
            node.send(frames(b"c" * last, TERMINATOR))
            self.assertEqual(closed, node.closed)
            self.assertEqual(0 if closed else 1, len(self.runner.runs))

    def test_no_frame(self) -> None:
        """What is no frame ends the connection, and nothing is said or run."""
        for version in VERSIONS:
            node = self.node(version)
            node.send(frames(b"EXEC", b"linux") + b"x garbage")
            self.assertEqual(([], True), (node.transactions(), node.closed))
        self.assertEqual([], self.runner.runs)

    def test_no_terminator(self) -> None:
        """A peer that never sends it is idle, even if it sends other frames."""
        limits = LimitSettings(idle_timeout=60)
        for version in VERSIONS:
            server = self.make_server(limits=limits)
            node = self.node(version, server=server)
            node.request(b"EXEC")
            for _ in range(5):
                server.sweep(10)
                node.request(b"linux")
                self.assertFalse(node.closed)

            server.sweep(11)
            node.pump()

            self.assertTrue(node.closed)
            self.assertEqual(0, server.factory.admission.total)
        limit = [each["limit"] for each in self.told("limit.reached")]
        self.assertEqual(["idle_timeout"] * 3, limit)

    def test_a_peer_that_leaves_before_the_end(self) -> None:
        """Nothing is run, and nothing stays."""
        node = self.node()
        node.request(b"EXEC", b"linux")
        (session,) = self.server.factory.sessions
        seen = weakref.ref(session)
        node.hang_up()
        node.protocol = None  # type: ignore[assignment]
        del session, node
        gc.collect()

        self.assertIsNone(seen())
        self.assertEqual([], self.runner.runs)
        self.assertEqual([], self.flushLoggedErrors())

    def test_one_answer_at_once(self) -> None:
        """A server that has one request at a time reads all of a request."""
        server = self.make_server(limits=LimitSettings(answers_at_once=1))
        node = self.node(server=server)

        found = node.request(b"EXEC", b"no", b"linux", TERMINATOR, b"VERSION")

        self.assertEqual(1, len(found))
        self.last.end(0)
        self.assertEqual(b"OK: 3.21.0", self.heard(node)[-1])


class WaitingTests(ExecuteTestCase):
    """
    What is asked before a run, and behind it.
    """

    def setUp(self) -> None:
        super().setUp()
        self.slow = SlowCommand()
        self.server = self.make_server(commands=[self.slow])

    def test_behind_other_answers(self) -> None:
        """A run begins when it is its turn."""
        node = self.node()
        node.request(b"SLOW", b"EXEC", TERMINATOR, b"VERSION")
        self.assertEqual([], self.runner.runs)

        self.slow.waiting[0].callback(frame(b"done"))
        found = self.heard(node)

        self.assertEqual((1, 2, b"done"), (len(self.runner.runs), len(found), found[0]))
        self.last.end(0)
        self.assertEqual([END, b"OK: 3.21.0"], self.heard(node)[1:])

    def test_a_peer_that_leaves_before_its_turn(self) -> None:
        """There is no run for it."""
        node = self.node()
        node.request(b"SLOW", b"EXEC", TERMINATOR)

        node.hang_up()
        self.slow.waiting[0].callback(frame(b"done"))

        self.assertEqual([], self.runner.runs)

    def test_what_a_run_leaves_behind(self) -> None:
        """A request behind a run is answered as things are when it has ended."""
        node = self.node()
        asked = encode_stat(int(self.server.now), str(self.program).encode())
        node.request(b"EXEC", TERMINATOR, asked, asked)
        self.program.write_bytes(b"seven..")

        self.last.end(0)

        stats = self.heard(node)[-4:]
        self.assertEqual([b"7", b"OK:"] * 2, [*map(self.size, stats)])

    def size(self, told: bytes) -> bytes:
        """The size that a STAT tells."""
        return told.split(b" ")[6] if told != b"OK:" else told

    def test_much_that_is_asked_behind(self) -> None:
        """It is read no further than it is held, and answered after the run."""
        node = self.server.connect()
        node.execute()
        (session,) = self.server.factory.sessions
        sent = 0
        while node.wire.reading:
            sent += 100
            node.send(frames(*[b"VERSION"] * 100))
        self.assertLess(len(session._buffer), 65_536)
        self.last.end(0)

        self.assertEqual([b"OK: 3.21.0"] * sent, self.heard(node)[2:])
        self.assertTrue(node.wire.reading)


class SlowPeerTests(ExecuteTestCase):
    """
    A peer that does not take what is printed.
    """

    def fill(self, node: MemoryClient) -> int:
        """Print until the run is paused; how much that was."""
        said = 0
        while not self.last.paused:
            self.last.say(b"%07d\n" % (said // 8) * 1000)
            said += 8000
            node.step(receive=False)
            self.assertLess(said, 1_000_000)
        return said

    def test_the_run_is_paused(self) -> None:
        """The program waits until the peer takes more; nothing is lost."""
        node = self.server.connect()
        node.execute()
        node.records.clear()
        for _ in range(3):
            said = self.fill(node)
            # A program may have printed something already when it is paused.
            self.last.say(b"x" * 7 + b"\n")
            found = self.heard(node)

            self.assertEqual(said // 8 + 1, len(found))
            self.assertEqual(b"> xxxxxxx\n", found[-1])
            self.assertFalse(self.last.paused)
        self.fill(node)
        self.last.end(0)

        self.assertEqual([b"(exit code: 0)\n", END], self.heard(node)[-2:])
        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))

    def test_a_peer_that_takes_nothing(self) -> None:
        """After the limit for that it is left, and so is the run."""
        server = self.make_server(limits=LimitSettings(write_timeout=60))
        node = server.connect()
        node.execute()
        self.fill(node)

        server.sweep(59)
        self.assertFalse(self.last.left)
        server.sweep(3)
        self.assertTrue(self.last.left)
        node.step(receive=False)

        self.assertTrue(node.closed)
        self.last.say(b"for nobody\n")
        self.last.end(0)

    def test_a_silent_run(self) -> None:
        """It may take its time: the peer is not idle, as it waits."""
        limits = LimitSettings(idle_timeout=60, write_timeout=60)
        server = self.make_server(limits=limits)
        node = self.node(server=server)
        node.execute()
        for _ in range(3):
            server.sweep(1000)
            self.last.say(b"still here\n")
            self.assertEqual([b"> still here\n"], self.heard(node))
        self.last.end(0)
        self.heard(node)
        self.assertFalse(node.closed)

        server.sweep(62)
        node.pump()

        self.assertTrue(node.closed)


class LeavingTests(ExecuteTestCase):
    """
    A peer that goes while there is a run for it.
    """

    def test_at_once(self) -> None:
        """The run is left in that moment, whatever it was doing."""
        for version in VERSIONS:
            for at_once in (True, False):
                self.runner.at_once = at_once
                node = self.node(version)
                node.execute()
                self.assertFalse(self.last.left)

                node.hang_up()

                self.assertTrue(self.last.left)

    def test_what_is_printed_for_nobody(self) -> None:
        """A run that goes on harms nobody, and the session is let go of."""
        node = self.node()
        node.execute()
        run, sink = self.last, self.last._sink
        (session,) = self.server.factory.sessions
        seen = weakref.ref(session)
        node.hang_up()
        node.protocol = None  # type: ignore[assignment]
        del session, node

        sink.output(Printed(b"x\n" * 30_000))
        sink.notice("something")
        sink.ended(mock.Mock(exit_code=0))
        del sink
        self.runner.runs.clear()
        gc.collect()

        self.assertIsNone(seen())
        self.assertTrue(run.left)
        self.assertEqual([], self.flushLoggedErrors())

    def test_while_it_is_paused(self) -> None:
        """A slow peer that goes is noticed like any other."""
        node = self.server.connect()
        node.execute()
        while not self.last.paused:
            self.last.say(b"x\n" * 10_000)
            node.step(receive=False)

        node.hang_up()

        self.assertTrue(self.last.left)

    def test_with_much_unread(self) -> None:
        """A peer that has sent so much ahead that no more is read is looked after,
        as its end cannot be read."""
        node = self.server.connect()
        node.execute()
        while node.wire.reading:
            node.send(frames(*[b"VERSION"] * 100))
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        theirs.send(b"unread")
        (session,) = self.server.factory.sessions
        with mock.patch.object(
            type(session.transport), "fileno", lambda _: ours.fileno(), create=True
        ):
            self.server.sweep(1)
            self.assertFalse(self.last.left)
            theirs.close()
            self.server.sweep(1)

        self.assertTrue(self.last.left)
        node.pump()
        closed = self.told("session.closed")
        self.assertEqual(["closed by the peer"], [each["reason"] for each in closed])
        self.assertEqual([], self.told("limit.reached"))


class GoneTests(SynchronousTestCase):
    """
    Whether a socket's peer has gone.
    """

    def test_gone(self) -> None:
        """Only when it will send no more, whatever is unread; no socket, nobody."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.assertFalse(posix.has_gone(ours.fileno()))
        theirs.send(b"x")
        self.assertFalse(posix.has_gone(ours.fileno()))
        theirs.close()
        self.assertTrue(posix.has_gone(ours.fileno()))
        self.assertFalse(posix.has_gone(-1))


class StoppingTests(ExecuteTestCase):
    """
    A server that stops while there are runs.
    """

    def test_a_run_that_is_ended(self) -> None:
        """The peer gets what there is, and then the connection ends."""
        for version in VERSIONS:
            # One that was stopped takes no more.
            self.runner = MemoryRunner()
            server = self.make_server()
            node = self.node(version, server=server)
            node.send(encode_execute() + encode_transaction(b"VERSION"))
            node.transactions()
            self.last.say(b"half a line")

            stopped = server.factory.stop(10)

            self.assertEqual([b"> half a line\n", END], self.heard(node))
            self.assertTrue(node.closed)
            self.successResultOf(stopped)

    def test_a_run_that_goes_on(self) -> None:
        """It is left when the time for it is over; its end is waited for."""
        node = self.node()
        node.execute()
        over: Deferred[None] = Deferred()
        stopped = self.stubborn(over)
        self.server.sweep(9)
        self.assertFalse(self.last.left)

        self.server.sweep(2)
        node.pump()

        self.assertTrue(self.last.left and node.closed)
        self.assertNoResult(stopped)
        over.callback(None)
        self.successResultOf(stopped)

    def stubborn(self, over: Deferred[None]) -> Deferred[None]:
        """Stop the server; its run goes on until *over*."""
        with mock.patch.object(type(self.runner), "stop", lambda *_: over):
            return self.server.factory.stop(10)

    def test_a_peer_that_leaves_then(self) -> None:
        """It is noticed as ever."""
        node = self.node()
        node.execute()
        stopped = self.stubborn(succeed(None))

        node.hang_up()

        self.assertTrue(self.last.left)
        self.successResultOf(stopped)

    def test_a_request_that_is_not_complete(self) -> None:
        """It is not waited for; the answer before it leaves first."""
        slow = SlowCommand()
        server = self.make_server(commands=[slow])
        waiting = self.node(server=server)
        alone = self.node(1, server=server)
        waiting.request(b"SLOW", b"EXEC", b"linux")
        alone.request(b"EXEC")

        stopped = server.factory.stop(10)
        alone.pump()
        self.assertTrue(alone.closed)
        self.assertNoResult(stopped)
        slow.waiting[0].callback(frame(b"done"))

        self.assertEqual([b"done"], self.heard(waiting))
        self.assertTrue(waiting.closed)
        self.successResultOf(stopped)
        self.assertEqual([], self.runner.runs)


class FaultTests(ExecuteTestCase):
    """
    What goes wrong here.
    """

    def test_a_runner_that_fails(self) -> None:
        """The connection ends, and the log has the place."""

        def fail(*args: Any) -> Any:
            raise ZeroDivisionError

        for version in VERSIONS:
            node = self.node(version)
            with mock.patch.object(type(self.runner), "ask", fail):
                self.assertEqual([], node.execute())
            self.assertTrue(node.closed)
            logged = self.flushLoggedErrors(ZeroDivisionError)
            self.assertEqual(1, len(logged))

    def test_a_host_name_that_cannot_be_found(self) -> None:
        """Nothing is decided then: the connection ends without a refusal."""
        rules = [{"path": str(self.program), "admit_hostnames": ["node.example.org"]}]
        server = self.make_server(rules=rules)
        unknown = SimpleNamespace(name_of=lambda _: succeed((None, False)))
        with mock.patch.object(server.factory, "names", unknown):
            node = self.node(server=server)
        self.assertEqual([], node.execute())
        self.assertTrue(node.closed)
        self.assertEqual(1, len(self.told("request.hung-up")))
