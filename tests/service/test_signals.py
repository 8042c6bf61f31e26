# SPDX-License-Identifier: MIT
"""
A signal becomes a call in a later turn of the reactor.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.service.signals import EarlySignal, SignalWatch, StopOnce


class Reactor:
    """
    Keeps what was asked for.
    """

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def callFromThread(self, function: Callable[[], object]) -> None:
        """Keep it."""
        self.calls.append(function)


class SignalTests(SynchronousTestCase):
    """
    `SignalWatch`.
    """

    def test_watching(self) -> None:
        """A signal has the function called by the reactor, not at once."""
        reactor, arrived = Reactor(), []
        watch = SignalWatch(
            signal.SIGHUP,
            reactor,  # type: ignore[arg-type]
            lambda: arrived.append(1),
        )
        watch.start()
        self.addCleanup(watch.stop)
        os.kill(os.getpid(), signal.SIGHUP)

        self.assertEqual(arrived, [])
        (call,) = reactor.calls
        call()
        self.assertEqual(arrived, [1])

    def test_before_the_watch(self) -> None:
        """A signal that comes while the program starts is answered once it runs."""
        before = signal.getsignal(signal.SIGHUP)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        EarlySignal().install(signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        reactor, arrived = Reactor(), []
        watch = SignalWatch(
            signal.SIGHUP,
            reactor,  # type: ignore[arg-type]
            lambda: arrived.append(1),
        )

        watch.start()
        self.addCleanup(watch.stop)

        (call,) = reactor.calls
        call()
        self.assertEqual(arrived, [1])

    def test_stopping(self) -> None:
        """At the end what was installed before is back, and only once."""

        def other(number: int, frame: object) -> None:
            raise NotImplementedError

        before = signal.signal(signal.SIGHUP, other)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        watch = SignalWatch(
            signal.SIGHUP,
            Reactor(),  # type: ignore[arg-type]
            lambda: None,
        )
        watch.stop()
        self.assertIs(signal.getsignal(signal.SIGHUP), other)
        watch.start()
        self.assertIsNot(signal.getsignal(signal.SIGHUP), other)
        watch.stop()
        watch.stop()
        self.assertIs(signal.getsignal(signal.SIGHUP), other)


class StopOnceTests(SynchronousTestCase):
    """
    `StopOnce`.
    """

    def test_second_is_nothing(self) -> None:
        """Of all signals that stop only the first is let through."""
        arrived: list[int] = []

        def note(number: int, frame: object) -> None:
            arrived.append(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.signal(number, note))
        once = StopOnce((signal.SIGTERM, signal.SIGINT))
        once.start()
        once.start()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)

        self.assertEqual(arrived, [signal.SIGINT])

    def test_ignored_stays_ignored(self) -> None:
        """What ignores a signal is left as it is."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        StopOnce((signal.SIGINT,)).start()

        self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_IGN)
