# SPDX-License-Identifier: MIT
"""
Open trust windows are stated once an hour.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from nodecomm.identity.decisions import TrustWindow
from nodecomm.identity.trust import MemoryCounter, TrustPolicy
from nodecomm.service.windows import EVERY, WindowTeller
from nodecomm.testing import MemoryKeyStore

BEGIN = 1_700_000_000.0


def anybody(address: str) -> bool:
    """Every address."""
    return True


class WindowTests(SynchronousTestCase):
    """
    `WindowTeller`.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[LogEvent] = []

        @implementer(ILogObserver)
        class Watch:
            def __call__(_, event: LogEvent) -> None:
                if str(event.get("event", "")).startswith("trust."):
                    self.told.append(event)

        watch = Watch()
        globalLogPublisher.addObserver(watch)
        self.addCleanup(globalLogPublisher.removeObserver, watch)
        self.counter: Any = MemoryCounter()

    def teller(self, *windows: TrustWindow) -> WindowTeller:
        """A started teller for these windows."""
        self.policy = TrustPolicy(
            MemoryKeyStore(),
            windows,
            ["root"],
            self.counter,
            lambda: BEGIN + self.clock.seconds(),
        )
        teller = WindowTeller(self.policy, self.clock)
        teller.start()
        self.addCleanup(teller.stop)
        return teller

    def facts(self) -> list[tuple[str, str]]:
        """Event and network of each line so far, which are then forgotten."""
        facts = [(event["event"], event["network"]) for event in self.told]
        self.told.clear()
        return facts

    def test_once_an_hour(self) -> None:
        """An open window is told at once and every hour, until it is over."""
        self.teller(TrustWindow(anybody, "10.0.0.0/8", BEGIN + 2 * EVERY))
        opened = [("trust.window-open", "10.0.0.0/8")]

        self.assertEqual(self.facts(), opened)
        self.clock.advance(EVERY - 1)
        self.assertEqual(self.facts(), [])
        self.clock.advance(1)
        self.assertEqual(self.facts(), opened)
        self.clock.advance(EVERY)
        self.assertEqual(self.facts(), [])

    def test_closed_windows(self) -> None:
        """A window that is over or used up is told as such, at once only."""
        self.counter.take("10.2.0.0/16", 1, "a key")
        self.teller(
            TrustWindow(anybody, "10.1.0.0/16", BEGIN),
            TrustWindow(anybody, "10.2.0.0/16", None, 1),
        )

        self.assertEqual(
            [event["state"] for event in self.told], ["expired", "used up"]
        )
        self.assertEqual(
            self.facts(),
            [
                ("trust.window-closed", "10.1.0.0/16"),
                ("trust.window-closed", "10.2.0.0/16"),
            ],
        )
        self.clock.advance(EVERY)
        self.assertEqual(self.facts(), [])

    def test_fields(self) -> None:
        """The line says until when and for how many keys more."""
        self.counter.take("10.0.0.0/8 1700003600", 5, "a key")
        self.teller(TrustWindow(anybody, "10.0.0.0/8", BEGIN + 3600, 5))

        (event,) = self.told
        wanted = {
            "count": 5,
            "used": 1,
            "left": 4,
            "until": "2023-11-14T23:13:20+00:00",
        }
        self.assertEqual({name: event[name] for name in wanted}, wanted)

    def test_after_a_reload(self) -> None:
        """New windows are told at once, and the hour begins again."""
        teller = self.teller(TrustWindow(anybody, "old"))
        self.clock.advance(EVERY / 2)
        self.facts()
        self.policy.windows = (TrustWindow(anybody, "new"),)
        teller.changed()
        self.assertEqual(self.facts(), [("trust.window-open", "new")])
        self.clock.advance(EVERY / 2)
        self.assertEqual(self.facts(), [])
        self.clock.advance(EVERY / 2)
        self.assertEqual(self.facts(), [("trust.window-open", "new")])

    def test_a_counter_that_fails(self) -> None:
        """A database that is away costs the lines, not the reminder."""

        class Away:
            def used(self, window_id: str) -> Deferred[int]:
                return fail(OSError("away"))

        good, self.counter = self.counter, Away()
        self.teller(TrustWindow(anybody, "10.0.0.0/8", None, 5))
        self.assertEqual(
            {event["event"] for event in self.told}, {"trust.window-failed"}
        )
        self.told.clear()
        self.policy._counter = good
        self.clock.advance(EVERY)
        self.assertEqual(self.facts(), [("trust.window-open", "10.0.0.0/8")])
