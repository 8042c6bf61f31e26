# SPDX-License-Identifier: MIT
"""
A run on many nodes: what each comes to, and that none is in the way of another.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.address import ServerAddress
from nodecomm.client.fleet import Fleet, NodeResult, Wanted
from nodecomm.client.timeouts import Timeouts
from nodecomm.identity.servers import ServerDecision
from nodecomm.wire.execute import CLASS_DENIED
from nodecomm.wire.replies import REFUSAL, TERMINATOR
from tests.client.scripted import Peer, Place, Script, ScriptedFactory

ANNOUNCED = b"cf-serverd executing cfruncommand: /bin/agent\n"


def running(*payloads: bytes, close: bool = False) -> Script:
    """
    A node that answers a run with these frames.
    """

    async def script(peer: Peer) -> None:
        await peer.greet()
        while await peer.request() != TERMINATOR:
            pass
        peer.answer(*payloads)
        if close:
            peer.close()

    return script


def ending(number: int, *lines: bytes) -> Script:
    """
    A node whose run prints *lines* and ends with *number*.
    """
    output = [b"> " + line + b"\n" for line in lines]
    code = b"(exit code: %d)\n" % number
    return running(ANNOUNCED, *output, code, TERMINATOR + b"\0")


async def silent(peer: Peer) -> None:
    """
    A node that begins to run and never says a word again.
    """
    await peer.greet()
    await peer.request()
    peer.answer(ANNOUNCED)


async def chattering(peer: Peer) -> None:
    """
    A node that never stops to print.
    """
    await peer.greet()
    await peer.request()
    peer.answer(ANNOUNCED)
    while True:
        await peer.sleep(1)
        peer.answer(b"> still here\n")


class Sink:
    """
    Notes what it is told.
    """

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.results: list[NodeResult] = []
        self.holding: dict[str, Deferred[None]] = {}
        #: How many are called and have not ended: now, and at the most.
        self.open = 0
        self.most = 0

    def calling(self, server: ServerAddress) -> None:
        """Noted."""
        self.events.append((server.host, "calling"))
        self.open += 1
        self.most = max(self.most, self.open)

    def running(self, server: ServerAddress, command: bytes) -> None:
        """Noted."""
        self.events.append((server.host, "running", command))

    def line(self, server: ServerAddress, data: bytes) -> Deferred[None] | None:
        """Noted; more is taken of a node when it is not held."""
        self.events.append((server.host, "line", data))
        return self.holding.get(server.host)

    def ended(self, result: NodeResult) -> None:
        """Noted."""
        self.events.append((result.server.host, "ended"))
        self.results.append(result)
        self.open -= 1

    def of(self, host: str) -> list[tuple[Any, ...]]:
        """
        What was told of one node.
        """
        return [event[1:] for event in self.events if event[0] == host]


class Site:
    """
    A network of nodes, and a fleet that calls them.
    """

    def __init__(self, trust: Any = None, **options: Any) -> None:
        timeouts = Timeouts(connect=5, handshake=5, dialog=5)
        self.place = Place(None, trust=trust, timeouts=timeouts)
        self.clock = self.place.clock
        self.network = self.place.network
        self.sink = Sink()
        self.servers: list[ServerAddress] = []
        self.factories: dict[str, ScriptedFactory] = {}
        self.fleet = Fleet(
            self.place.dialer,
            clock=self.clock,
            monotonic=self.clock.seconds,
            **options,
        )

    def add(self, host: str, what: Any) -> None:
        """
        There is a node: its script, why it cannot be connected to, or None if it
        never answers.
        """
        server = ServerAddress(host)
        self.servers.append(server)
        if callable(what):
            what = self.factories[host] = ScriptedFactory(self.clock, what)
        self.network.listen(server, what)

    def begin(self, **wanted: Any) -> Deferred[list[NodeResult]]:
        """
        Run it on all of them.
        """
        return self.fleet.run(self.servers, Wanted(**wanted), self.sink)

    def run(self, **wanted: Any) -> dict[str, NodeResult]:
        """
        The same, to its end: what became of each.
        """
        results = self.network.result_of(self.begin(**wanted), within=100_000)
        assert [result.server for result in results] == self.servers
        return {result.server.host: result for result in results}


def code_of(result: NodeResult) -> str:
    """
    The word for what went wrong.
    """
    return getattr(result.error, "code", "")


class ResultTests(SynchronousTestCase):
    """
    What becomes of one node.
    """

    def test_each_node_has_a_result(self) -> None:
        """
        Exit codes, output and failures of every kind are told, in the order of the
        nodes.
        """
        site = Site(output_limit=105)
        site.add("good", ending(0, b"one", b"", b"> two"))
        site.add("bad", ending(3))
        site.add("killed", running(ANNOUNCED, TERMINATOR + b"\0"))
        site.add("refusing", running(REFUSAL, TERMINATOR + b"\0", close=True))
        site.add("dead", ConnectionRefusedError())
        site.add("flooding", ending(0, b"x" * 50, b"y" * 60))
        site.add("rude", running(ANNOUNCED, b"> line\n", close=True))
        found = site.run()

        good = found["good"]
        self.assertEqual(
            (0, True, b"/bin/agent"), (good.exit_code, good.done, good.announced)
        )
        self.assertEqual((3, len(b"one\n\n> two\n")), (good.lines, good.size))
        self.assertEqual((3, False), (found["bad"].exit_code, found["bad"].done))
        self.assertEqual(
            (None, None), (found["killed"].exit_code, found["killed"].error)
        )
        self.assertEqual("refused", code_of(found["refusing"]))
        self.assertEqual("connection-refused", code_of(found["dead"]))
        flooding = found["flooding"]
        self.assertEqual(
            (True, None, 1), (flooding.cut, flooding.exit_code, flooding.lines)
        )
        rude = found["rude"]
        self.assertEqual(
            ("closed", 1, b"/bin/agent"), (code_of(rude), rude.lines, rude.announced)
        )

    def test_errors_hold_nothing(self) -> None:
        """
        The error of a node is its words: with a traceback it would hold the connection,
        and there may be thousands of them.
        """
        site = Site()
        site.add("dead", ConnectionRefusedError())
        site.add("rude", running(ANNOUNCED, close=True))
        site.add("refusing", running(REFUSAL, TERMINATOR + b"\0", close=True))

        for host, result in site.run().items():
            error: BaseException | None = result.error
            self.assertTrue(str(error), host)
            while error is not None:
                self.assertIsNone(error.__traceback__, host)
                error = error.__cause__ or error.__context__

    def test_what_is_told_meanwhile(self) -> None:
        """
        The sink hears of each node that it is called, runs, what it prints, and that
        it has ended; nothing after that.
        """
        site = Site()
        site.add("good", ending(0, b"one", b"two"))
        site.run()

        self.assertEqual(
            [
                ("calling",),
                ("running", b"/bin/agent"),
                ("line", b"one"),
                ("line", b"two"),
                ("ended",),
            ],
            site.sink.of("good"),
        )

    def test_what_is_asked(self) -> None:
        """
        Classes, bundles and the selection reach each node.
        """
        asked: list[bytes] = []

        async def script(peer: Peer) -> None:
            await peer.greet()
            asked.append(await peer.request())
            asked.append(await peer.request())
            asked.append(await peer.request())
            peer.answer(TERMINATOR)

        site = Site()
        site.add("good", script)
        site.run(defined=(b"a", b"b"), bundles=(b"c",), selected=(b"linux",))

        self.assertEqual([b"EXEC -Da,b -b c", b"linux", TERMINATOR], asked)

    def test_remarks(self) -> None:
        """
        What a node says that has no such class is told with the denial.
        """
        site = Site()
        site.add(
            "other",
            running(
                b"Hello  (127.0.0.1), nothing relevant to do here...\n\n",
                CLASS_DENIED,
                TERMINATOR,
            ),
        )
        result = site.run(selected=(b"linux",))["other"]

        self.assertEqual("class-match", code_of(result))
        self.assertEqual(1, len(result.remarks))
        self.assertIn("nothing relevant", result.remarks[0])

    def test_silence(self) -> None:
        """
        A node that is silent for too long while it runs is given up; each line of
        another begins its time anew.
        """
        site = Site(silence=10.0, max_duration=60.0)
        site.add("silent", silent)
        site.add("chattering", chattering)
        found = site.run()

        self.assertEqual("timeout", code_of(found["silent"]))
        self.assertTrue(10 <= found["silent"].seconds < 15, found["silent"])
        self.assertEqual("duration", code_of(found["chattering"]))
        self.assertEqual(60, found["chattering"].seconds)
        self.assertEqual(59, found["chattering"].lines)

    def test_a_mistake_of_this_program(self) -> None:
        """
        What is no failure of a node ends everything, and is not swallowed.
        """
        site = Site(trust=_Broken())
        site.add("one", ending(0))
        site.add("two", silent)

        error = site.network.failure_of(site.begin())

        self.assertIsInstance(error, ZeroDivisionError)


class _Broken:
    """
    Decides nothing about keys.
    """

    def check(self, server: str, key: object) -> ServerDecision:
        """It fails."""
        raise ZeroDivisionError


class ManyTests(SynchronousTestCase):
    """
    Many nodes.
    """

    def test_nobody_waits_for_another(self) -> None:
        """
        Nodes that hang in every stage, flood or refuse do not delay the others: those
        are done before any time has passed.
        """
        site = Site()

        async def mute(peer: Peer) -> None:
            await peer.more()

        site.add("never-connected", None)
        site.add("mute", mute)
        site.add("silent", silent)
        site.add("flooding", ending(0, *[b"x" * 1000] * 100))
        site.sink.holding["flooding"] = Deferred()
        for number in range(20):
            site.add(f"good{number}", ending(0, b"line"))
        running = site.begin()
        site.network.pump()

        done = {result.server.host for result in site.sink.results if result.done}
        self.assertEqual({f"good{number}" for number in range(20)}, done)
        self.assertEqual(
            1, len([1 for event in site.sink.of("flooding") if event[0] == "line"])
        )
        running.cancel()

    def test_at_most_so_many_at_a_time(self) -> None:
        """
        No more nodes are worked on at a time than was said; the next begins when one
        has ended.
        """
        site = Site(parallel=3, silence=10.0)
        for number in range(10):
            site.add(f"node{number}", silent if number % 4 == 0 else ending(0))
        found = site.run()

        self.assertEqual(3, site.sink.most)
        self.assertEqual(7, sum(result.done for result in found.values()))
        self.assertEqual(10, len(site.sink.results))

    def test_one_that_is_not_read_holds_nobody_up(self) -> None:
        """
        A node whose lines are not taken is read again when they are, and no silence
        is counted meanwhile.
        """
        site = Site(silence=10.0)
        site.add("slow", ending(0, b"one", b"two"))
        held: Deferred[None] = Deferred()
        site.sink.holding["slow"] = held
        running = site.begin()
        site.network.advance(100)
        self.assertEqual([("line", b"one")], site.sink.of("slow")[2:])

        del site.sink.holding["slow"]
        held.callback(None)
        (result,) = site.network.result_of(running)

        self.assertTrue(result.done)

    def test_nobody(self) -> None:
        """
        No nodes are done at once.
        """
        self.assertEqual({}, Site().run())


class StopTests(SynchronousTestCase):
    """
    The end from here.
    """

    def test_cancelled(self) -> None:
        """
        Whoever cancels it has a result for each node at once: those that were done,
        those that were not, and those that were never called; all connections end.
        """
        site = Site(parallel=3)
        site.add("good", ending(0))
        site.add("silent", silent)
        site.add("never", None)
        site.add("chattering", chattering)
        site.add("waiting", ending(0))
        running = site.begin()
        site.network.advance(3)
        told = len(site.sink.results)
        found: list[list[NodeResult]] = []
        running.addCallback(found.append)
        running.cancel()

        stopped = [result.server.host for result in found[0] if result.stopped]
        self.assertEqual(["silent", "never", "chattering", "waiting"], stopped)
        self.assertTrue(found[0][0].done)
        self.assertEqual(3, found[0][3].lines)
        self.assertEqual(told + 3, len(site.sink.results))
        self.assertEqual([], site.sink.of("waiting"))
        site.network.advance(60)
        self.assertTrue(all(each.over for each in site.network.connections))
        self.assertEqual(told + 3, len(site.sink.results))

    def test_cancelled_before_it_began(self) -> None:
        """
        Nobody is called then.
        """
        site = Site()
        site.add("good", ending(0))
        running = site.begin()
        running.cancel()

        (result,) = site.network.result_of(running)
        self.assertTrue(result.stopped)
        self.assertEqual([], site.sink.events)
        self.assertEqual([], site.clock.getDelayedCalls())
