# SPDX-License-Identifier: MIT
"""
How a process follows the nodes that other processes change.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogLevel, capturedLogs, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.inventory.keys import AgentKey
from nodecomm.inventory.lifecycle import Decision, Delete, Register, ResetDate
from nodecomm.inventory.nodes import NodeNews
from nodecomm.inventory.watching import LOOK_EVERY, MAX_STALE, NodeWatch
from nodecomm.storage.database import DatabaseClosed
from nodecomm.testing import MemoryNodeRegistry
from tests.identity.sample import key
from tests.inventory.documents import NODE, OTHER_NODE


class Held(MemoryNodeRegistry):
    """
    A registry that counts what it is asked, and answers when it is told to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.questions = 0
        self.waiting: Deferred[int] | None = None
        self.hold = False
        self.away = False
        self.reason = "away"

    def generation(self) -> Deferred[int]:
        self.questions += 1
        if self.away:
            return fail(DatabaseClosed(self.reason))
        if not self.hold:
            return super().generation()
        self.waiting = Deferred()
        return self.waiting

    def news(self, generation: int = -1, number: int = 0) -> Deferred[NodeNews]:
        self.reads += 1
        return super().news(generation, number)

    def answer(self) -> None:
        """
        Give what was asked for last, as it is now.
        """
        waiting, self.waiting = self.waiting, None
        assert waiting is not None
        super().generation().chainDeferred(waiting)


class NodeWatchTests(SynchronousTestCase):
    """
    The copy.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = Held()
        self.successResultOf(self.registry.start())
        self.seen: list[list[str]] = []
        self.nodes: set[str] = set()
        self.told: list[NodeNews] = []
        self.believed: list[bool] = []
        self.watch = NodeWatch(
            self.registry, self.clock, self.changed, self.believed.append
        )
        self.events: list[tuple[str, Any]] = []
        observer = cast(ILogObserver, self.note)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def changed(self, found: NodeNews) -> object:
        """
        Note all accepted nodes as they are after the news.
        """
        self.told.append(found)
        if found.whole:
            self.nodes.clear()
        self.nodes.difference_update(node.node_id for node in found.others)
        self.nodes.update(node.node_id for node in found.accepted)
        self.seen.append(sorted(self.nodes))
        return None

    def note(self, event: Any) -> None:
        if event.get("event", "").startswith("nodes."):
            self.events.append((event["event"], event["log_level"]))

    def decide(self, decision: Decision) -> None:
        self.successResultOf(self.registry.decide(decision, "alice"))

    def register(self, node_id: str, number: int) -> None:
        self.decide(Register(node_id, AgentKey(key(number))))

    def start(self) -> None:
        self.successResultOf(self.watch.start())

    def test_at_the_beginning(self) -> None:
        """
        The nodes are there when it has started, although there are none.
        """
        self.assertFalse(self.watch.is_fresh)
        self.start()

        self.assertTrue(self.watch.is_fresh)
        self.assertEqual([[]], self.seen)

    def test_changes_arrive(self) -> None:
        """
        What is decided arrives with the next look, and the nodes are read only then.
        """
        self.start()
        self.register(NODE, 0)
        self.register(OTHER_NODE, 1)
        self.clock.advance(LOOK_EVERY)
        self.clock.pump([LOOK_EVERY] * 10)

        self.assertEqual([[], [OTHER_NODE, NODE]], self.seen)
        self.assertEqual(2, self.registry.reads)
        self.decide(Delete(NODE))
        self.clock.advance(LOOK_EVERY)
        self.assertEqual([OTHER_NODE], self.seen[-1])
        # Nothing but what has changed is read.
        self.assertEqual([True, False, False], [news.whole for news in self.told])
        self.assertEqual((), self.told[-1].accepted)
        self.assertEqual([NODE], [x.node_id for x in self.told[-1].withdrawn])
        self.register(NODE, 0)
        self.clock.advance(LOOK_EVERY)
        self.assertEqual((), self.told[-1].withdrawn)

    def test_within_a_second(self) -> None:
        """
        A decision is in force within a second.
        """
        self.assertLess(LOOK_EVERY, 1)

    def test_what_changes_nothing(self) -> None:
        """
        What changes nothing for a node does not make others look.
        """
        self.register(NODE, 0)
        self.start()
        self.decide(ResetDate(NODE))
        self.clock.advance(LOOK_EVERY)

        self.assertEqual([[NODE]], self.seen)
        self.assertEqual(1, self.registry.reads)

    def test_at_once(self) -> None:
        """
        Who has changed something need not wait for the next look, which is as far from
        this one as from any.
        """
        self.start()
        self.register(NODE, 0)
        self.successResultOf(self.watch.look())

        self.assertEqual([NODE], self.seen[-1])
        # The next look, and the end of what is believed.
        self.assertEqual(2, len(self.clock.getDelayedCalls()))

    def test_asked_too_early(self) -> None:
        """
        A look that was under way when another one was wanted does not count for it.
        """
        self.registry.hold = True
        started = self.watch.start()
        wanted = self.watch.look()
        self.registry.answer()
        self.assertNoResult(wanted)
        self.register(NODE, 0)
        self.registry.answer()

        self.successResultOf(started)
        self.successResultOf(wanted)
        self.assertEqual([NODE], self.seen[-1])
        self.assertEqual(2, self.registry.questions)

    def test_one_question_at_a_time(self) -> None:
        """
        A database that is slow is not asked again before it has answered.
        """
        self.registry.hold = True
        self.watch.start()
        self.clock.pump([LOOK_EVERY] * 20)

        self.assertEqual(1, self.registry.questions)

    def test_away(self) -> None:
        """
        While the database is away the last copy is believed, for so long; it is told
        once, and that it is back, when what has changed arrives.
        """
        self.register(NODE, 0)
        self.start()
        self.registry.away = True
        self.clock.pump([LOOK_EVERY] * 4)
        self.assertTrue(self.watch.is_fresh)
        self.assertEqual([("nodes.away", LogLevel.warn)], self.events)
        self.assertEqual([True], self.believed)
        self.clock.advance(MAX_STALE)
        self.assertFalse(self.watch.is_fresh)
        self.assertEqual([True, False], self.believed)
        self.assertEqual(("nodes.stale", LogLevel.error), self.events[-1])
        self.assertEqual([[NODE]], self.seen)

        self.decide(Delete(NODE))
        self.registry.away = False
        self.clock.advance(LOOK_EVERY)
        self.assertTrue(self.watch.is_fresh)
        self.assertEqual([[NODE], []], self.seen)
        self.assertEqual([True, False, True], self.believed)
        self.assertTrue(self.told[-1].whole)
        self.assertEqual(("nodes.back", LogLevel.info), self.events[-1])
        self.assertEqual(3, len(self.events))

    def test_another_reason(self) -> None:
        """
        A database that is away for another reason than at first is told again, though
        not with each question; and what ends its nodes' trust has the last reason.
        """
        self.start()
        self.registry.away = True
        with capturedLogs() as logs:
            for number in range(10):
                self.registry.reason = f"reason {number // 4}"
                self.clock.pump([LOOK_EVERY] * (int(30 / LOOK_EVERY) + 1))
            self.clock.advance(MAX_STALE)

        told = [(x["event"], x["error"]) for x in logs if "error" in x]
        self.assertEqual(
            told,
            [
                *(("nodes.away", f"reason {number}") for number in range(3)),
                ("nodes.stale", "reason 2"),
            ],
        )

    def test_never_there(self) -> None:
        """
        A database that is away from the beginning is tried on; nothing is believed.
        """
        self.registry.away = True
        self.start()
        self.assertFalse(self.watch.is_fresh)
        self.assertEqual([], self.seen)

        self.registry.away = False
        self.clock.advance(LOOK_EVERY)
        self.assertEqual([[]], self.seen)

    def test_no_answer_at_all(self) -> None:
        """
        A database that neither answers nor fails is believed no longer either.
        """
        self.start()
        self.registry.hold = True
        self.clock.advance(LOOK_EVERY)
        self.clock.advance(MAX_STALE)

        self.assertFalse(self.watch.is_fresh)
        self.assertEqual([True, False], self.believed)

    def test_a_slow_answer(self) -> None:
        """
        What is known is as old as the question, however long the answer took.
        """
        self.start()
        self.registry.hold = True
        self.clock.advance(LOOK_EVERY)
        self.clock.advance(100)
        self.registry.answer()
        self.clock.advance(MAX_STALE - 100.5)
        self.assertTrue(self.watch.is_fresh)
        self.clock.advance(1)

        self.assertFalse(self.watch.is_fresh)

    def test_another_limit(self) -> None:
        """
        How long it is believed can be changed; what is too old then is so at once.
        """
        self.start()
        self.registry.away = True
        self.clock.pump([LOOK_EVERY] * 20)
        self.watch.max_stale = 60
        self.assertEqual([True], self.believed)
        self.watch.max_stale = 5
        self.assertEqual([True, False], self.believed)

    def test_clock_that_is_set(self) -> None:
        """
        A civil clock that is set makes nothing older.
        """
        seconds = Clock()
        watch = NodeWatch(
            self.registry,
            self.clock,
            self.changed,
            self.believed.append,
            seconds=seconds.seconds,
        )
        self.successResultOf(watch.start())
        self.registry.hold = True
        self.clock.advance(2 * MAX_STALE)
        self.assertTrue(watch.is_fresh)
        seconds.advance(2 * MAX_STALE)
        self.clock.advance(2 * MAX_STALE)
        self.assertEqual([True, False], self.believed)

    def test_waits_for_what_it_tells(self) -> None:
        """
        Nothing is asked, and nothing counts as known, while the last news are put in
        force.
        """
        done: Deferred[None] = Deferred()
        watch = NodeWatch(
            self.registry, self.clock, lambda _: done, self.believed.append
        )
        started = watch.start()
        self.clock.pump([LOOK_EVERY] * 4)
        self.assertEqual((1, []), (self.registry.questions, self.believed))
        done.callback(None)
        self.successResultOf(started)
        self.assertEqual([True], self.believed)

    def test_what_is_called_fails(self) -> None:
        """
        A mistake of who is told is logged, and does not end the watch: he is told all
        there is again. Until he has taken it nothing is believed.
        """
        wrong = [True]

        def changed(found: NodeNews) -> None:
            self.changed(found)
            if wrong:
                raise ZeroDivisionError

        watch = NodeWatch(self.registry, self.clock, changed, self.believed.append)
        self.successResultOf(watch.start())
        self.register(NODE, 0)
        self.clock.advance(LOOK_EVERY)

        self.assertEqual([[], [NODE]], self.seen)
        self.assertFalse(watch.is_fresh)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        wrong.clear()
        self.clock.advance(LOOK_EVERY)
        self.assertEqual([True] * 3, [news.whole for news in self.told])
        self.assertEqual([True], self.believed)
        self.register(OTHER_NODE, 1)
        wrong.append(True)
        self.clock.pump([LOOK_EVERY] * 2)
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual([False, True], [news.whole for news in self.told[3:]])

    def test_stopped(self) -> None:
        """
        It looks no more, and stopping waits for what is under way.
        """
        self.start()
        self.successResultOf(self.watch.stop())
        self.assertEqual([], self.clock.getDelayedCalls())

        self.registry.hold = True
        self.watch.start()
        stopped = self.watch.stop()
        self.assertNoResult(stopped)
        self.registry.answer()
        self.successResultOf(stopped)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_started_twice(self) -> None:
        """
        That is a mistake of the caller.
        """
        self.start()

        self.assertRaises(RuntimeError, self.watch.start)
