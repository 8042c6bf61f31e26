# SPDX-License-Identifier: MIT
"""
EXEC with the runner that a service has, whose programs the tests make up; and what
every `IRunner` does.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nodecomm.config.execution import RunSettings
from nodecomm.identity.peer import Peer
from nodecomm.server.commands import command_table
from nodecomm.server.commands.execute import ExecuteCommand
from nodecomm.server.commands.version import VersionCommand
from nodecomm.server.execution.orders import IRunner
from nodecomm.server.execution.runner import Runner
from nodecomm.server.requests import Refused
from nodecomm.testing import MemoryClient, MemoryRunner
from tests.server.execute_case import END, REFUSED, TERMINATOR, ExecuteTestCase
from tests.server.execution.run_case import Heard, MakesUp, make_order

#: Expressions that keep engines with backtracking busy for years, or cannot be read.
HOSTILE = (
    b"(a+)+$",
    b"(x+x+)+y",
    b"(.*)*(.*)*(.*)*z",
    b"((a{100}){100}){100}",
    b"(?:a|a|a|a)*" * 15 + b"$",
    b"(a)\\1",
    b"(?=any)any",
    b"(" * 200,
    b"[",
    b"\xff\xfe(",
    b"!" * 255,
    b"(((any|(linux",
    b"n" * 4000,
)


class RunnerTests:
    """
    An `IRunner`.
    """

    def make(self) -> Any:
        """A new one."""
        raise NotImplementedError

    def test_interface(self: Any) -> None:
        """It provides its interface."""
        self.assertTrue(verifyObject(IRunner, self.make()))

    def test_classes(self: Any) -> None:
        """One class of the node is enough; none is not."""
        runner = self.make()
        for patterns, selected in (
            ([b"any"], True),
            ([b"no_such_class", b"any"], True),
            ([b"no_such_class"], False),
            ([b"an"], False),
            ([], False),
            (HOSTILE, False),
        ):
            self.assertEqual(selected, runner.selects(patterns), patterns)

    def test_leaving(self: Any) -> None:
        """Who has left hears nothing, and may say so again."""
        runner = self.make()
        heard = Heard()
        ticket = runner.ask(make_order(), heard)
        self.assertEqual(["begun"], heard.names)
        for _ in range(2):
            ticket.leave()
            ticket.pause()
            ticket.resume()
        runner.stop()

        self.assertEqual(["begun"], heard.names)

    def test_stopped(self: Any) -> None:
        """It takes no more."""
        runner = self.make()
        runner.apply(RunSettings())
        self.successResultOf(runner.stop())
        heard = Heard()
        runner.ask(make_order(), heard).leave()

        self.assertEqual(["refused"], heard.names)


class MemoryRunnerTests(RunnerTests, SynchronousTestCase):
    """
    The one for tests.
    """

    def make(self) -> MemoryRunner:
        """With the class that all nodes have."""
        return MemoryRunner()

    def test_stopped_runs(self) -> None:
        """Those under way end, without an exit code."""
        runner, heard = self.make(), Heard()
        runner.ask(make_order(), heard)
        self.successResultOf(runner.stop())

        self.assertEqual("stopped", heard.calls[-1][1].why)


class ServiceRunnerTests(RunnerTests, SynchronousTestCase):
    """
    The one of a service.
    """

    def make(self) -> Runner:
        """With programs that are made up."""
        clock = Clock()
        return Runner(clock, executable=MakesUp(), monotonic=clock.seconds)


class TogetherTests(ExecuteTestCase):
    """
    What peers hear of a runner with settings of its own.
    """

    def start(self, **settings: Any) -> None:
        """A server with this `[run]`."""
        self.clock = Clock()
        self.made = MakesUp()
        self.real = Runner(
            self.clock,
            RunSettings(**settings),
            executable=self.made,
            monotonic=self.clock.seconds,
        )
        self.server = self.make_server(execution=self.real)

    def says(self, *lines: str) -> list[bytes]:
        """The server's own words."""
        return [f"> nodecomm: {line}\n".encode() for line in lines]

    def test_hostile_classes(self) -> None:
        """No expression of a peer's is more than one that does not match."""
        self.start()
        for version in (1, 3):
            node = self.node(version)
            found = node.request(b"EXEC", *HOSTILE, TERMINATOR)
            self.assertEqual([END], found[2:])
            many = [b"(a+)+%d" % count for count in range(998)]
            self.assertEqual([END], node.request(b"EXEC", *many, TERMINATOR)[2:])
            self.assertEqual([], self.made.runs)
            found = node.request(b"EXEC", *HOSTILE, b"any", TERMINATOR)
            self.assertIn(b"cf-serverd executing", found[0])
            self.made.runs.pop().end()

    def test_joined(self) -> None:
        """The second of the same hears what there was, and the rest."""
        self.start()
        first, second = self.node(), self.node(1)
        announced = first.execute()
        self.made.runs[0].say(b"one\nha")
        self.clock.advance(3)

        joined = self.says("joined a run that was begun 3s ago")
        self.assertEqual([*announced, *joined, b"> one\n"], second.execute())
        self.made.runs[0].say(b"lf\n")
        self.made.runs[0].end(7)

        ends = [b"(exit code: 7)\n", END]
        self.assertEqual([b"> one\n", b"> half\n", *ends], self.heard(first))
        self.assertEqual([b"> half\n", *ends], self.heard(second))

    def test_one_of_two_leaves(self) -> None:
        """The run goes on for the other one; when that leaves, too, it is ended."""
        self.start()
        first, second = self.node(), self.node()
        first.execute()
        second.execute()
        first.hang_up()
        self.assertEqual([], self.made.runs[0].stopped)
        second.hang_up()

        self.assertEqual([("left", None)], self.made.runs[0].stopped)

    def test_waiting(self) -> None:
        """Those who wait are told, in the order of arrival, and so are those for whom
        there is no room; a peer that leaves has no turn."""
        self.start(waiting=2)
        nodes = [self.node() for _ in range(4)]
        found = [node.execute([b"ok%d" % number]) for number, node in enumerate(nodes)]
        self.assertIn(b"-D ok0", found[0][0])
        for heard in found[1:3]:
            self.assertEqual([b"> nodecomm: "], [each[:12] for each in heard])
        full = self.says("too many runs wait for their turn already; not begun")
        self.assertEqual([*full, END], found[3])
        self.assertEqual([b"OK: 3.21.0"], nodes[3].request(b"VERSION"))
        nodes[1].hang_up()

        self.made.runs[0].end(0)

        self.assertIn(b"-D ok2", self.heard(nodes[2])[-1])
        self.assertEqual(2, len(self.made.runs))

    def test_rules_that_change_while_it_waits(self) -> None:
        """
        A run begins by the rules that are in force when it is its turn: who may not
        have it any more is told that they have changed, and no more; the log has why.
        """
        old = str(self.program)
        other = self.root / "other"
        other.write_bytes(b"")
        rules = self.rules()
        admitted = [*rules, {"path": str(other), "admit_ips": ["127.0.0.1"]}]
        tables: list[tuple[dict[str, Any], str]] = [
            ({"server": {"cfruncommand": []}}, "cfruncommand is not set"),
            (
                {"server": {"cfruncommand": [str(other)]}, "rules": admitted},
                "another one now",
            ),
            ({"server": {"cfrunuser": "nobody"}}, "another one now"),
            ({"server": {"allowusers": ["bob"]}}, "does not name user root"),
            ({"rules": rules[1:]}, old),
            ({"rules": [rules[0]]}, "good1"),
            ({"roles": []}, "ok1"),
            ({}, ""),
        ]
        text = self.says("the configuration has changed meanwhile; not begun")
        for version in (1, 3):
            for changed, why in tables:
                self.start()
                self.events.clear()
                first, waits = self.node(version), self.node(version)
                first.execute()
                waits.request(b"EXEC -Dok1 -b good1", TERMINATOR)
                fresh = self.make_server(**changed).factory.serving.evaluator
                self.server.factory.serving.evaluator.snapshot = fresh.snapshot
                self.made.runs[0].end(0)

                found = self.heard(waits)
                if why:
                    self.assertEqual([*text, END], found, why)
                    (event,) = self.told("run.refused")
                    self.assertIn(why, event["text"])
                    self.assertEqual([b"OK: 3.21.0"], waits.request(b"VERSION"))
                else:
                    self.assertIn(b"-D ok1 --bundlesequence good1", found[0])
                self.assertEqual(1 if why else 2, len(self.made.runs))

    def test_a_peer_that_is_checked(self) -> None:
        """
        Whoever serves the command may ask more of peers: when the request is complete,
        and again at its turn.
        """
        gone: set[int] = set()

        def check(peer: Peer) -> None:
            if peer.port in gone:
                raise Refused("forgotten", "its key was forgotten")

        self.start()
        self.server.factory.commands = command_table(
            [VersionCommand(), ExecuteCommand(check)]
        )
        first, waits, late = self.node(), self.node(), self.node()
        first.execute()
        waits.execute([b"ok1"])
        late.request(b"EXEC")
        gone.update(s.peer.port for s in self.server.factory.sessions)

        self.assertEqual(REFUSED, late.request(TERMINATOR))
        self.assertTrue(late.closed)
        self.made.runs[0].end(0)
        text = self.says("the configuration has changed meanwhile; not begun")
        self.assertEqual([*text, END], self.heard(waits))
        (event,) = self.told("run.refused")
        self.assertEqual("its key was forgotten", event["text"])
        self.assertEqual("forgotten", self.told("request.refused")[0]["reason"])

    def test_a_slow_peer(self) -> None:
        """The program waits for it, and nothing is lost; the end is told last."""
        self.start()
        node = self.server.connect()
        assert isinstance(node, MemoryClient)
        node.execute()
        (run,) = self.made.runs
        said = 0
        while not run.paused:
            run.say(b"%07d\n" % said * 1000)
            said += 1
            node.step(receive=False)
        run.say(b"last\n")
        run.end(1)

        found = self.heard(node)

        self.assertEqual(said * 1000 + 3, len(found))
        self.assertEqual([b"> last\n", b"(exit code: 1)\n", END], found[-3:])
        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))

    def test_ends(self) -> None:
        """Why a run ended before its time is in a line of its own."""
        for why, text in (
            ("timeout", "the run was ended: it took longer than 1h"),
            ("failed: cannot run it", "cannot run it"),
        ):
            self.start()
            node = self.node()
            node.execute()
            self.made.runs[0].say(b"half")
            self.made.runs[0].end(None, why=why)
            self.assertEqual([b"> half\n", *self.says(text), END], self.heard(node))
