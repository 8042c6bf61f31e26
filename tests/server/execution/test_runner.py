# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.server.execution.runner`.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from nodecomm.config.execution import RunSettings
from nodecomm.server.execution import runner as module
from nodecomm.server.execution.listening import BACKLOG
from nodecomm.server.execution.orders import IRunner, RunOutcome
from nodecomm.server.execution.runner import SAY_AGAIN, Runner
from nodecomm.server.execution.runs import TAIL
from tests.server.execution.run_case import (
    Heard,
    MadeUp,
    MakesUp,
    RunTestCase,
    make_order,
)

COMMAND = b"/usr/bin/agent -K"


class PlainTests(RunTestCase):
    """
    One run, one listener.
    """

    def test_a_run(self) -> None:
        """Its listener hears the command, the output as it comes, and the end."""
        heard = self.ask("one", "two", bundles=("main",))
        (run,) = self.runs
        command = COMMAND + b" -D one,two --bundlesequence main"
        self.assertEqual([("begun", command)], heard.calls)
        run.say(b"one\nhalf")
        self.assertEqual(("output", b"one\n"), heard.calls[-1])
        run.say(b" a line\n")
        outcome = RunOutcome(3, None, 1.5)
        run.watcher.ended(outcome)

        self.assertEqual(
            [
                ("begun", command),
                ("output", b"one\nhalf a line\n"),
                ("ended", outcome),
            ],
            heard.calls,
        )
        self.assertEqual((0, 0), (self.runner.running, self.runner.waiting))

    def test_what_is_logged(self) -> None:
        """Who asked for what, and what came of it, is in two events."""
        self.ask(
            "one",
            bundles=("main",),
            selected=("linux", "a|b"),
            user="bob",
            address="10.9.8.7",
        )
        self.runs[0].say(b"a\nb\nlast")
        self.runs[0].end(7, seconds=2.0)

        who = {
            "peer": "10.9.8.7",
            "port": 4711,
            "user": "bob",
            "key": "",
            "classes": ["one"],
            "bundles": ["main"],
            "selected": ["linux", "a|b"],
        }
        (started,) = self.told("run.started")
        self.assertEqual(who, {key: started[key] for key in who})
        self.assertEqual(
            "/usr/bin/agent -K -D one --bundlesequence main", started["command"]
        )
        (ended,) = self.told("run.ended")
        what = {"exit_code": 7, "seconds": 2.0, "lines": 3, "bytes": 8, "why": ""}
        self.assertEqual(who | what, {key: ended[key] for key in who | what})

    def test_ends_before_their_time(self) -> None:
        """The listener is told what ended a run that did not end by itself."""
        for why, text in (
            ("timeout", "the run was ended: it took longer than 1h"),
            ("stopped", "the run was ended: the service stops"),
            ("failed: cannot run /x: it is blue", "cannot run /x: it is blue"),
        ):
            heard = self.ask()
            self.runs[-1].end(None, why=why)

            self.assertEqual(["begun", "notice", "ended"], heard.names)
            self.assertEqual([text], heard.notices)

    def test_the_next_is_asked_for_at_the_end(self) -> None:
        """Who asks for another run as soon as one has ended does not wait for it."""
        second = Heard()

        def then(call: str) -> None:
            if call == "ended":
                self.runner.ask(make_order(), second)

        first = self.ask()
        first.then = then
        self.runs[0].end()

        self.assertEqual(["begun"], second.names)
        self.assertEqual(2, len(self.runs))

    def test_what_cannot_be_begun(self) -> None:
        """A mistake of ours ends one run, is logged, and the next one begins."""
        self.made.fails = True
        heard = self.ask()
        self.assertEqual(["begun", "notice", "ended"], heard.names)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.made.fails = False

        self.assertEqual(["begun"], self.ask().names)

    def test_a_listener_that_fails(self) -> None:
        """A mistake in one listener harms neither the run nor the others."""

        def fail(call: str) -> None:
            if call == "output":
                raise RuntimeError("made up")

        first, second = self.ask(), self.ask()
        first.then = fail
        self.runs[0].say(b"a\n")
        self.runs[0].say(b"b\n")
        self.runs[0].end()

        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual(b"a\nb\n", second.printed)
        self.assertEqual("ended", second.names[-1])

    def test_interface(self) -> None:
        """It is what the server takes for a runner."""
        self.assertTrue(verifyObject(IRunner, self.runner))

    def test_long_silence(self) -> None:
        """
        Who listens to a run that prints nothing is told now and then that it goes on,
        before he takes its silence for the end.
        """
        first = self.ask()
        for _ in range(10):
            self.clock.advance(SAY_AGAIN)
            self.runs[0].say(b"x\n")
        self.assertEqual([], first.notices)
        second = self.ask()
        assert second.ticket is not None
        second.ticket.pause()
        silent, words = 0.0, 0
        while words < 3:
            self.clock.advance(SAY_AGAIN)
            silent += SAY_AGAIN
            if len(first.notices) > words:
                words, silent = words + 1, 0.0
            self.assertLess(silent, 185 - SAY_AGAIN)

        self.assertEqual("the run goes on, since 7m", first.notices[0])
        self.assertEqual(1, len(second.notices))
        self.runs[0].end()
        self.assertEqual([], self.clock.getDelayedCalls())


class TurnTests(RunTestCase):
    """
    More is asked for than may run.
    """

    def test_turns(self) -> None:
        """They run in the order of their arrival; those who wait know it."""
        heard = [self.ask(name) for name in ("a", "b", "c")]
        self.assertEqual((1, 2), (self.runner.running, self.runner.waiting))
        self.assertEqual([], heard[0].notices)
        self.assertEqual(["waiting: 1 run comes before this one"], heard[1].notices)
        self.assertEqual(["waiting: 2 runs come before this one"], heard[2].notices)
        for index in range(3):
            self.assertEqual(index + 1, len(self.runs))
            self.assertIn("begun", heard[index].names)
            self.clock.advance(5)
            self.runs[index].end()

        names = [run.order.defined for run in self.runs]
        self.assertEqual([(b"a",), (b"b",), (b"c",)], names)
        waited = [each["waited"] for each in self.told("run.started")]
        self.assertEqual([0, 5, 10], waited)
        self.assertEqual([1, 2], [each["before"] for each in self.told("run.waits")])

    def test_several_at_once(self) -> None:
        """As many run as the setting says; a changed one counts at once."""
        self.runner = self.make_runner(at_once=2)
        for name in ("a", "b", "c", "d", "e"):
            self.ask(name)
        self.assertEqual((2, 3), (self.runner.running, self.runner.waiting))
        self.runner.apply(RunSettings(at_once=4))
        self.assertEqual((4, 1), (self.runner.running, self.runner.waiting))
        self.runner.apply(RunSettings(at_once=1))
        for run in self.runs[:3]:
            run.end()
        self.assertEqual((1, 1), (self.runner.running, self.runner.waiting))
        self.runs[3].end()

        self.assertEqual((1, 0), (self.runner.running, self.runner.waiting))

    def test_too_many_wait(self) -> None:
        """One more than may wait is told so."""
        self.runner = self.make_runner(waiting=2)
        for name in ("a", "b", "c"):
            self.ask(name)
        late = self.ask("d")

        self.assertEqual(
            [("refused", "too many runs wait for their turn already; not begun")],
            late.calls,
        )
        (refused,) = self.told("run.refused")
        self.assertEqual("too_many_waiting", refused["reason"])
        self.assertEqual(["d"], refused["classes"])

    def test_nobody_may_wait(self) -> None:
        """Without room to wait one run is served all the same."""
        self.runner = self.make_runner(waiting=0)

        self.assertEqual(["begun"], self.ask("a").names)
        self.assertEqual(["refused"], self.ask("b").names)

    def test_who_waits_is_told_again(self) -> None:
        """Words come often enough that nobody takes the silence for the end."""
        self.ask("a")
        waits = self.ask("b")
        self.clock.pump([SAY_AGAIN, SAY_AGAIN])
        self.assertEqual(["waiting: 1 run comes before this one"] * 3, waits.notices)
        self.runs[0].end()
        self.clock.advance(SAY_AGAIN)
        self.assertEqual(3, len(waits.notices))
        self.runs[1].end()

        self.assertEqual([], self.clock.getDelayedCalls())

    def test_who_waits_may_go(self) -> None:
        """What nobody waits for any more never begins."""
        self.ask("a")
        goes = self.ask("b")
        stays = self.ask("c")
        assert goes.ticket is not None
        goes.ticket.leave()
        self.runs[0].end()

        self.assertEqual([(b"a",), (b"c",)], [run.order.defined for run in self.runs])
        self.assertEqual("begun", stays.names[-1])
        self.assertEqual(["notice"], goes.names)
        whys = [each["why"] for each in self.told("run.ended")]
        self.assertEqual(["left", ""], whys)

    def test_withdrawn_while_it_waited(self) -> None:
        """
        What nobody may have any more never begins; of several who wait for one run
        those go without it who may not have it, and it is the others' then.
        """
        why = ["", "no rule", "no role", ""]
        asked = [("a", "ann"), ("b", "bob"), ("b", "ben"), ("b", "bea")]
        heard = [
            self.ask(name, user=user, withdrawn=lambda text=text: text)
            for (name, user), text in zip(asked, why, strict=True)
        ]
        gone = self.ask("c", withdrawn=lambda: "no command")
        self.runs[0].end()
        self.runs[1].say(b"x\n")
        self.runs[1].end()

        text = "the configuration has changed meanwhile; not begun"
        for each in (*heard[1:3], gone):
            self.assertEqual(["notice", "refused"], each.names)
            self.assertEqual(text, each.calls[-1][1])
        self.assertEqual(["notice", "begun", "output", "ended"], heard[3].names)
        self.assertEqual((2, 0), (len(self.runs), self.runner.waiting))
        refused = self.told("run.refused")
        self.assertEqual({"withdrawn"}, {each["reason"] for each in refused})
        self.assertEqual(
            [("bob", "no rule"), ("ben", "no role"), ("root", "no command")],
            [(each["user"], each["text"]) for each in refused],
        )
        users = [each["user"] for each in self.told("run.ended")]
        self.assertEqual(["ann", "bea"], users)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_what_cannot_be_decided_again(self) -> None:
        """A mistake of ours there is logged, and nothing runs for it."""

        def fail() -> str:
            raise RuntimeError("made up")

        self.ask("a")
        heard, last = self.ask("b", withdrawn=fail), self.ask("c")
        self.runs[0].end()

        self.assertEqual("refused", heard.names[-1])
        self.assertEqual("begun", last.names[-1])
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_a_thousand_that_end_at_once(self) -> None:
        """However many wait, one after another begins."""
        self.runner = self.make_runner(waiting=2000)
        heard = [self.ask(f"c{number}") for number in range(2000)]
        self.made.then = lambda run: run.end()
        self.runs[0].end()

        self.assertEqual({"ended"}, {each.names[-1] for each in heard})


class AgainTests(RunTestCase):
    """
    The same is asked for while it is under way.
    """

    def test_joining(self) -> None:
        """The second listener gets what was before it came, and all that follows."""
        first = self.ask("a", "b")
        self.runs[0].say(b"one\n")
        self.clock.advance(61)
        second = self.ask("b", "a", user="bob", address="10.0.0.2")
        self.runs[0].say(b"two\n")
        self.runs[0].end(4)

        self.assertEqual(1, len(self.runs))
        self.assertEqual(b"one\ntwo\n", first.printed)
        self.assertEqual(
            [
                ("begun", COMMAND + b" -D a,b"),
                ("notice", "joined a run that was begun 1m1s ago"),
                ("output", b"one\ntwo\n"),
                ("ended", RunOutcome(4)),
            ],
            second.calls,
        )
        (joined,) = self.told("run.joined")
        self.assertEqual(("bob", 61), (joined["user"], joined["begun"]))
        self.assertEqual(1, self.told("run.ended")[0]["joined"])

    def test_joiners_share_what_they_are_given(self) -> None:
        """What is printed is made once for all who listen, also for who comes later."""
        heard = [self.ask(), self.ask()]
        self.runs[0].say(b"a\nb")
        self.runs[0].say(b"c\n")
        heard.append(self.ask())

        given = [each.given for each in heard]
        self.assertEqual([b"a\n", b"bc\n"], [each.lines for each in given[0]])
        for one, two, three in zip(*given, strict=True):
            self.assertIs(one, two)
            self.assertIs(one, three)

    def test_words_within_a_line(self) -> None:
        """A line that is not whole is told before the runner's own words."""
        heard = self.ask()
        self.runs[0].say(b"half")
        self.clock.pump([SAY_AGAIN] * 4)
        self.runs[0].say(b" a line")
        self.runs[0].end()

        names = ["begun", "output", "notice", "output", "ended"]
        self.assertEqual(names, heard.names)
        self.assertEqual(b"half\n a line\n", heard.printed)

    def test_joining_late(self) -> None:
        """Of long output the last is kept, from the beginning of a line on."""
        self.ask()
        line = b"0123456789\n"
        for _ in range(100):
            self.runs[0].say(line * 100)
        second = self.ask()

        lines, rest = divmod(len(second.printed), len(line))
        self.assertEqual(0, rest)
        self.assertEqual(line * lines, second.printed)
        self.assertGreater(len(second.printed), TAIL - len(line))
        missing = len(line) * 10000 - len(second.printed)
        self.assertEqual(
            [
                "joined a run that was begun 0s ago; the first"
                f" {missing} bytes of its output are missing"
            ],
            second.notices,
        )

    def test_joining_one_that_waits(self) -> None:
        """Who asks for the same as somebody who waits waits with him."""
        self.ask("a")
        second, third = self.ask("b"), self.ask("b")
        self.assertEqual(1, self.runner.waiting)
        self.assertEqual(second.notices, third.notices)
        self.runs[0].end()
        self.runs[1].say(b"x\n")

        for each in (second, third):
            self.assertEqual(["notice", "begun", "output"], each.names)

    def test_a_sync_that_has_begun_is_not_joined(self) -> None:
        """It may have seen the server before what is asked for now was there. Who
        asks during it shares the next one."""
        self.ask(is_sync=True)
        second, third = (self.ask(is_sync=True) for _ in range(2))
        self.assertEqual((1, 1), (self.runner.running, self.runner.waiting))
        self.runs[0].end()
        fourth = self.ask(is_sync=True)
        self.assertEqual((1, 1), (self.runner.running, self.runner.waiting))
        self.runs[1].end()
        self.runs[2].end()

        for each in (second, third, fourth):
            self.assertEqual(["notice", "begun", "ended"], each.names)
        self.assertEqual(3, len(self.runs))

    def test_what_is_the_same(self) -> None:
        """Another command, user, class or bundle makes another run; order matters
        for bundles alone."""
        base: dict[str, Any] = {"bundles": ("x", "y")}
        self.ask("a", "b", **base)
        for defined, more, joins in (
            (("b", "a"), {}, True),
            (("a", "b"), {"user": "bob"}, True),
            (("a",), {}, False),
            (("a", "b", "c"), {}, False),
            (("a", "b"), {"bundles": ("y", "x")}, False),
            (("a", "b"), {"bundles": ()}, False),
            (("a", "b"), {"run_as": "nobody"}, False),
            (("a", "b"), {"command": "/usr/bin/agent -K"}, False),
        ):
            asked = self.ask(*defined, **{**base, **more})
            text = "joined" if joins else "waiting"
            self.assertTrue(asked.notices[0].startswith(text), (defined, more))

    def test_waiting_for_one_of_ones_own(self) -> None:
        """By another setting the same is run again."""
        self.runner = self.make_runner(again="wait")
        self.ask()
        second = self.ask()
        self.assertEqual(["notice"], second.names)
        self.runs[0].end()

        self.assertEqual(2, len(self.runs))
        self.assertEqual("begun", second.names[-1])

    def test_refusing(self) -> None:
        """By another setting the second is told that there is one already."""
        self.runner = self.make_runner(again="refuse", at_once=5)
        self.ask("a")
        second, other = self.ask("a"), self.ask("b")

        text = "another run of the same is under way; not begun"
        self.assertEqual([("refused", text)], second.calls)
        self.assertEqual(["begun"], other.names)
        self.assertEqual("busy", self.told("run.refused")[0]["reason"])

    def test_one_that_is_being_ended_is_not_joined(self) -> None:
        """A run that its listeners have left is nobody's any more."""
        first = self.ask()
        assert first.ticket is not None
        first.ticket.leave()
        second = self.ask()
        self.assertEqual(["notice"], second.names)
        self.runs[0].end(None, why="left")

        self.assertEqual(2, len(self.runs))


class SlowTests(RunTestCase):
    """
    Those who listen and do not read.
    """

    def test_the_run_waits_for_the_first(self) -> None:
        """While the only listener does not read, the program stands still."""
        heard = self.ask()
        assert heard.ticket is not None
        self.runs[0].say(b"a\n")
        heard.ticket.pause()
        self.assertTrue(self.runs[0].paused)
        # What was on its way.
        self.runs[0].say(b"b\n")
        self.assertEqual(b"a\n", heard.printed)
        heard.ticket.resume()

        self.assertFalse(self.runs[0].paused)
        self.assertEqual(b"a\nb\n", heard.printed)

    def test_the_end_comes_last(self) -> None:
        """One who does not read hears of the end when he has read all."""
        heard = self.ask()
        assert heard.ticket is not None
        heard.ticket.pause()
        self.runs[0].say(b"a\n")
        self.runs[0].end(None, why="timeout")
        self.assertEqual(["begun"], heard.names)
        self.assertEqual(0, self.runner.running)
        heard.ticket.resume()

        self.assertEqual(["begun", "output", "notice", "ended"], heard.names)

    def test_pausing_in_the_middle(self) -> None:
        """A listener that pauses in a call gets no further one."""
        heard = self.ask()
        ticket = heard.ticket
        assert ticket is not None
        heard.then = lambda call: ticket.pause()
        for _ in range(3):
            self.runs[0].say(b"x\n")
        self.assertEqual(b"x\n", heard.printed)
        ticket.resume()
        self.assertEqual(b"x\n" * 2, heard.printed)
        self.assertTrue(self.runs[0].paused)
        heard.then = lambda call: None
        ticket.resume()

        self.assertEqual(b"x\n" * 3, heard.printed)
        self.assertFalse(self.runs[0].paused)

    def test_the_first_loses_nothing(self) -> None:
        """Whatever was on its way when the program was told to stand still comes."""
        heard = self.ask()
        assert heard.ticket is not None
        heard.ticket.pause()
        count = 0
        while count * 1024 < 2 * BACKLOG:
            self.runs[0].say(b"0123456789abcde\n" * 64)
            count += 1
        heard.ticket.resume()

        self.assertEqual(b"0123456789abcde\n" * 64 * count, heard.printed)
        self.assertEqual([], heard.notices)

    def test_the_run_does_not_wait_for_others(self) -> None:
        """
        One who has joined and does not read loses whole lines, is told how much, and
        goes on with what comes next.
        """
        first, second = self.ask(), self.ask()
        assert second.ticket is not None
        second.ticket.pause()
        line = b"0123456789abcde\n"
        count = 0
        while count * len(line) < 2 * BACKLOG:
            self.runs[0].say(line * 64)
            count += 64
        self.assertFalse(self.runs[0].paused)
        second.ticket.resume()
        self.assertLessEqual(len(second.printed), BACKLOG)
        self.runs[0].say(b"next\n")
        self.runs[0].end()

        self.assertEqual(line * count + b"next\n", first.printed)
        lost = len(first.printed) - len(second.printed)
        self.assertEqual(
            f"{lost} bytes of output are missing here: they were not read in time",
            second.notices[-1],
        )
        self.assertEqual(("output", b"next\n"), second.calls[-2])

    def test_what_was_lost_is_told_at_the_end(self) -> None:
        """Also when nothing follows what was lost."""
        self.ask()
        second = self.ask()
        assert second.ticket is not None
        second.ticket.pause()
        line = b"x" * 1013 + b"\n"
        for _ in range(BACKLOG // 65536 + 1):
            self.runs[0].say(line * 64)
        self.runs[0].end()
        second.ticket.resume()

        self.assertTrue(second.notices[-1].startswith("64896 bytes of output are"))
        self.assertEqual("ended", second.names[-1])

    def test_the_next_becomes_the_first(self) -> None:
        """When the first has gone, the run waits for the one who came after."""
        first, second = self.ask(), self.ask()
        assert first.ticket is not None
        assert second.ticket is not None
        second.ticket.pause()
        self.assertFalse(self.runs[0].paused)
        first.ticket.leave()
        self.assertTrue(self.runs[0].paused)
        self.assertEqual([], self.runs[0].stopped)
        second.ticket.resume()

        self.assertFalse(self.runs[0].paused)


class LeavingTests(RunTestCase):
    """
    Those who go.
    """

    def test_the_last_one(self) -> None:
        """
        A run that nobody listens to is ended; its place is free when it has ended.
        """
        first, second = self.ask("a"), self.ask("a")
        waits = self.ask("b")
        for each in (first, second):
            assert each.ticket is not None
            self.assertEqual([], self.runs[0].stopped)
            each.ticket.leave()
            each.ticket.leave()
        self.assertEqual([("left", None)], self.runs[0].stopped)
        self.assertEqual(1, len(self.runs))
        self.runs[0].say(b"unheard")
        self.runs[0].end(None, signal=15, why="left")

        self.assertEqual(b"", first.printed + second.printed)
        self.assertEqual("begun", waits.names[-1])
        (ended,) = self.told("run.ended")
        self.assertEqual(("left", 15), (ended["why"], ended["signal"]))

    def test_calls_after_the_end(self) -> None:
        """A ticket may be used when all is over."""
        heard = self.ask()
        self.runs[0].end()
        assert heard.ticket is not None
        for call in (heard.ticket.pause, heard.ticket.resume, heard.ticket.leave):
            call()

        self.assertEqual(["begun", "ended"], heard.names)

    def test_leaving_in_the_middle_of_a_call(self) -> None:
        """Who goes while he is told something is told nothing more."""
        heard = self.ask()
        ticket = heard.ticket
        assert ticket is not None
        heard.then = lambda call: ticket.leave()
        self.runs[0].say(b"a\n")
        self.runs[0].say(b"b\n")
        self.runs[0].end(None, why="left")

        self.assertEqual(["begun", "output"], heard.names)


class LimitTests(RunTestCase):
    """
    Endless output.
    """

    def test_the_limit(self) -> None:
        """It is cut to the byte, told once, and no more of it is wanted."""
        heard = self.ask(output_limit=2000)
        self.assertTrue(self.runs[0].say(b"x" * 1500))
        self.assertTrue(self.runs[0].say(b"x" * 500))
        self.assertEqual([], heard.notices)
        self.assertFalse(self.runs[0].say(b"x"))
        self.assertFalse(self.runs[0].say(b"x" * 5000))
        late = self.ask(output_limit=2000)
        self.runs[0].end(0)

        text = "the output is cut here: 2000 bytes are the limit; the run goes on"
        self.assertEqual(["begun", "output", "notice", "ended"], heard.names)
        shown = b"x" * 2000 + b"\n"
        self.assertEqual((shown, [text]), (heard.printed, heard.notices))
        self.assertEqual((shown, text), (late.printed, late.notices[-1]))
        (ended,) = self.told("run.ended")
        self.assertTrue(ended["cut"])
        self.assertEqual(0, ended["exit_code"])

    def test_what_crosses_the_limit(self) -> None:
        """Of the piece that is too much the beginning is told."""
        heard = self.ask(output_limit=2000)
        self.runs[0].say(b"x" * 1990)
        self.runs[0].say(b"0123456789abc")

        self.assertEqual(b"x" * 1990 + b"0123456789\n", heard.printed)


class StoppingTests(RunTestCase):
    """
    The service stops.
    """

    def test_stopping(self) -> None:
        """What runs is ended, what waits never begins, and both are told."""
        runs, waits = self.ask("a"), self.ask("b")
        stopped = self.runner.stop(7)
        self.assertNoResult(stopped)
        self.assertEqual([("stopped", 7)], self.runs[0].stopped)
        text = "the service stops; not begun"
        self.assertEqual(("refused", text), waits.calls[-1])
        late = self.ask("c")
        self.assertEqual([("refused", text)], late.calls)
        self.runs[0].end(None, signal=15, why="stopped")

        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(["begun", "notice", "ended"], runs.names)
        self.assertEqual(1, len(self.runs))
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertIsNone(self.successResultOf(self.runner.stop()))

    def test_nothing_runs(self) -> None:
        """Then there is nothing to wait for."""
        self.assertIsNone(self.successResultOf(self.runner.stop()))


class ClassTests(RunTestCase):
    """
    Nodes that are selected.
    """

    def test_selecting(self) -> None:
        """An expression matches whole names of classes; the operator names more."""
        self.runner = self.make_runner(classes=("web_server",))
        for pattern, selected in (
            (b"any", True),
            (b"web_server", True),
            (b"web_.*", True),
            (b"web", False),
            (b"(any", False),
            (b"nodecomm|nothing", True),
        ):
            self.assertEqual(selected, self.runner.selects([pattern]), pattern)
        self.assertFalse(self.runner.selects([]))

    def test_a_name_that_is_found_later(self) -> None:
        """
        The host's name with its domain makes classes once name servers have told it;
        when they have none, the short one has to do.
        """
        calls: queue.Queue[Callable[[], object]] = queue.Queue()
        reactor = SimpleNamespace(
            callFromThread=lambda call, *args: calls.put(lambda: call(*args))
        )
        runner = Runner(reactor)
        for name, known in (("", False), ("a.example.org", True)):
            with mock.patch.object(module, "full_hostname", lambda name=name: name):
                runner.find_hostname()
                self.assertFalse(runner.selects([b"example_org"]))
                calls.get(timeout=60)()

            self.assertEqual(known, runner.selects([b"example_org"]))


#: What may happen, each with a number that says to whom.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ask", "ask", "say", "say", "end", "pause", "resume", "leave", "apply"]
        ),
        st.integers(0, 7),
    ),
    max_size=60,
)

#: The calls that a sink may see, as the last of each.
AFTER = {
    "": {"notice", "begun", "refused"},
    "notice": {"notice", "begun", "refused", "output", "ended"},
    "begun": {"output", "notice", "ended"},
    "output": {"output", "notice", "ended"},
    "refused": set(),
    "ended": set(),
}


@given(EVENTS, st.sampled_from(["join", "wait", "refuse"]))
@settings(max_examples=40, deadline=None)
def test_whatever_happens(events: list[tuple[str, int]], again: Any) -> None:
    """
    In whatever order runs and listeners do things: no more run than may, calls come
    in their order, and at the end all have heard it but those who left.
    """
    clock, made = Clock(), MakesUp()
    runner = Runner(
        clock,
        RunSettings(again=again, at_once=2, waiting=3),
        executable=made,
        monotonic=clock.seconds,
    )
    heard: list[Heard] = []
    left: set[int] = set()
    over: set[int] = set()
    most = 2

    def end(run: MadeUp) -> None:
        if id(run) not in over:
            over.add(id(run))
            run.end()

    for what, number in events:
        if what == "ask":
            one = Heard()
            heard.append(one)
            one.ticket = runner.ask(make_order(f"c{number % 3}"), one)
        elif what == "apply":
            most = number % 3 + 1
            runner.apply(RunSettings(again=again, at_once=most, waiting=3))
        elif what in ("say", "end") and made.runs:
            run = made.runs[number % len(made.runs)]
            if what == "end":
                end(run)
            elif id(run) not in over:
                run.say(b"line %d\n" % number)
        elif heard and what in ("pause", "resume", "leave"):
            at = number % len(heard)
            getattr(heard[at].ticket, what)()
            if what == "leave":
                left.add(at)
        assert runner.running <= 3
        assert runner.waiting <= 3
    for one in heard:
        assert one.ticket is not None
        one.ticket.resume()
    stopped = runner.stop()
    for run in list(made.runs):
        end(run)
    assert stopped.called
    assert (runner.running, runner.waiting) == (0, 0)
    assert clock.getDelayedCalls() == []
    for at, one in enumerate(heard):
        for last, name in zip(["", *one.names], one.names, strict=False):
            assert name in AFTER[last], one.names
        assert one.names.count("begun") <= 1
        if at not in left:
            assert one.names[-1] in ("ended", "refused")
