# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_sync` and `agent_events`: a run as those see it who
ask for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.access.execution import Execution
from nodecomm.config.execution import RunSettings
from nodecomm.identity.peer import Peer
from nodecomm.server.execution.orders import RunOrder, RunOutcome
from nodecomm.service.agent_events import AgentEvents, Follow, lines_of
from nodecomm.service.agent_sync import MOST_WAITING, SAY_EVERY, AgentExecutable
from nodecomm.wire.text import safe
from tests.service.agents import Reactor


@define
class Watcher:
    """
    Who is told of a run.
    """

    said: bytearray = field(factory=bytearray)
    pieces: list[int] = field(factory=list)
    outcomes: list[RunOutcome] = field(factory=list)
    then: Callable[[], object] = lambda: None

    def output(self, data: bytes) -> bool:
        """As `RunWatcher`."""
        assert not self.outcomes
        self.pieces.append(len(data))
        self.said += data
        self.then()
        return True

    def ended(self, outcome: RunOutcome) -> None:
        """As `RunWatcher`."""
        self.outcomes.append(outcome)

    def lines(self) -> list[bytes]:
        """What was said since the last look."""
        lines = bytes(self.said).splitlines()
        self.said.clear()
        return lines


class SyncCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Reactor()
        self.events = AgentEvents()
        self.asked = self.inventories = 0
        self.executable = AgentExecutable(self.clock, self.follow, self.clock.seconds)
        self.watcher = Watcher()

    def follow(self, tell: Any, *, inventory: bool = False) -> Follow:
        """As `AgentService.follow_run`."""
        self.asked += 1
        self.inventories += inventory
        return self.events.follow(tell)

    def begin(self, timeout: str = "1h", *classes: bytes) -> Any:
        """A run that somebody asks for."""
        execution = Execution(
            "sync", is_sync=True, settings=RunSettings(timeout=timeout)
        )
        order = RunOrder(classes, (), (), Peer("192.0.2.1"), execution)
        self.assertEqual(b"sync", self.executable.command(order))
        return self.executable.begin(order, self.watcher)

    def say(self, text: str, name: str = "agent.output") -> None:
        """The agent states something."""
        self.events.log.info("{text}", event=name, text=text)


class SyncTests(SyncCase):
    def test_lines_and_the_end(self) -> None:
        """What the agent states of its run comes at once; then the exit code."""
        self.begin()
        self.say("one")
        self.assertEqual([b"one"], self.watcher.lines())
        self.say("two\nthree")
        self.assertEqual([b"two", b"three"], self.watcher.lines())
        self.say("of something else", "config.loaded")
        self.assertEqual([], self.watcher.lines())
        self.clock.advance(7)
        self.events.run_over([])
        self.assertEqual([RunOutcome(0, None, 7)], self.watcher.outcomes)
        self.say("of the next run")
        self.events.run_over(["this"])
        self.assertEqual([], self.watcher.lines())
        self.assertEqual(1, len(self.watcher.outcomes))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_what_is_wrong(self) -> None:
        """What is not as it should be is said, and the exit code is 1."""
        self.begin()
        self.events.run_over(["no copy", "no after_update"])
        self.assertEqual(
            [b"error: no copy", b"error: no after_update"], self.watcher.lines()
        )
        self.assertEqual(1, self.watcher.outcomes[0].exit_code)

    def test_an_inventory_is_asked_for(self) -> None:
        """By the class that is the only one that the agent's own run takes."""
        self.begin()
        self.assertEqual(0, self.inventories)
        self.begin("1h", b"force_inventory")
        self.assertEqual(1, self.inventories)

    def test_the_agent_stops(self) -> None:
        """There is no exit code then."""
        self.begin()
        self.events.run_over(None)
        (outcome,) = self.watcher.outcomes
        self.assertEqual((None, "stopped"), (outcome.exit_code, outcome.why))

    def test_it_goes_on(self) -> None:
        """Each minute a line says so, until whoever asked has waited long enough."""
        self.begin("150s")
        for minute in (1, 2):
            self.clock.advance(SAY_EVERY)
            line = f"still under way after {minute}m".encode()
            self.assertEqual([line], self.watcher.lines())
        self.clock.advance(29.9)
        self.assertEqual([], self.watcher.outcomes)
        self.clock.advance(0.2)
        (outcome,) = self.watcher.outcomes
        self.assertIn("goes on", outcome.why)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.say("more")
        self.events.run_over([])
        self.assertEqual(([], 1), (self.watcher.lines(), len(self.watcher.outcomes)))

    def test_nobody_listens(self) -> None:
        """Whoever leaves hears no more; the run is not ended."""
        running = self.begin()
        running.stop("left", 0.0)
        running.stop("stopped")
        running.pause()
        running.resume()
        self.say("more")
        self.events.run_over([])
        (outcome,) = self.watcher.outcomes
        self.assertEqual(("left", []), (outcome.why, self.watcher.lines()))

    def test_controls(self) -> None:
        """What a program behind an update prints is made visible."""
        self.begin()
        self.say("\x1b[2J\x07 \u202e")
        (line,) = self.watcher.lines()
        self.assertTrue(line.decode().isprintable())

    def test_one_who_takes_nothing(self) -> None:
        """Lines wait for him, up to a limit; of what is beyond it he hears."""
        running = self.begin()
        running.pause()
        count = MOST_WAITING // 1000 + 5
        for _ in range(count):
            self.say("x" * 999)
        self.assertEqual([], self.watcher.lines())
        running.resume()
        lines = self.watcher.lines()
        self.assertEqual(MOST_WAITING // 1000 + 1, len(lines))
        self.assertIn(b"more lines are only in the agent's log", lines[-1])
        self.assertLessEqual(max(self.watcher.pieces), 65536)
        self.say("again")
        self.assertEqual([b"again"], self.watcher.lines())

    def test_one_who_takes_nothing_at_the_end(self) -> None:
        """What waits is given with the end, all of it, also when he says in the middle
        of it that it is enough for now."""
        running = self.begin()
        self.watcher.then = running.pause
        running.pause()
        for _ in range(MOST_WAITING // 1000 + 5):
            self.say("x" * 999)
        self.events.run_over(["wrong"])
        lines = self.watcher.lines()
        self.assertEqual(MOST_WAITING // 1000 + 2, len(lines))
        self.assertIn(b"more lines are only in the agent's log", lines[-1])
        self.assertIn(b"error: wrong", lines)
        self.assertEqual(1, len(self.watcher.outcomes))

    @given(st.lists(st.one_of(st.text(), st.sampled_from(["pause", "resume"]))))
    @settings(max_examples=60, deadline=None)
    def test_nothing_is_lost(self, steps: list[str]) -> None:
        """However often he pauses, all lines come, in order."""
        self.setUp()
        running = self.begin()
        said = []
        for step in steps:
            if step in ("pause", "resume"):
                getattr(running, step)()
            elif step:
                self.say(f"<{step}>")
                said.append(f"<{step}>")
        self.events.run_over([])
        expected = [safe(line) for text in said for line in text.splitlines()]
        self.assertEqual(expected, [line.decode() for line in self.watcher.lines()])
        self.assertEqual(1, len(self.watcher.outcomes))


class LineTests(SynchronousTestCase):
    def test_lines_of_events(self) -> None:
        """Events about runs are lines, with what changed; others are none."""
        cases: list[tuple[dict[str, Any], list[str]]] = [
            ({"event": "agent.output", "log_format": "{a}", "a": "b"}, ["b"]),
            (
                {
                    "event": "agent.updated",
                    "log_format": "x",
                    "changes": ["added a", "removed b"],
                    "changed_names": 4,
                },
                ["x", "  added a", "  removed b", "  and 2 more"],
            ),
            ({"event": "agent.listening", "log_format": "x"}, []),
            ({"event": "agent.run-asked", "log_format": "x"}, []),
            ({"event": "trust.refused", "log_format": "x"}, []),
            ({"event": None, "log_format": "x"}, []),
            ({"log_format": "x"}, []),
        ]
        for event, expected in cases:
            self.assertEqual(expected, list(lines_of(event)))
