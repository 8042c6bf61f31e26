# SPDX-License-Identifier: MIT
"""
Signals: one as an event of the reactor, and those that stop taken once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorFromThreads

__all__ = ["EarlySignal", "SignalWatch", "StopOnce"]


class EarlySignal:
    """
    Stands for a signal until a `SignalWatch` takes it over, which then calls its
    function if the signal has come meanwhile. Without it a SIGHUP that arrives while
    the program starts would end it.

    Attributes:
        arrived: Whether it has come.
    """

    def __init__(self) -> None:
        self.arrived = False

    def install(self, number: int) -> None:
        """
        Take the signal. Only the main thread may.
        """
        signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.arrived = True


class SignalWatch:
    """
    Calls a function from the reactor whenever a signal arrives, until it is stopped.

    The reactor takes care of SIGTERM and SIGINT itself and knows nothing of this
    one; what was installed before comes back at the end.
    """

    def __init__(
        self,
        number: int,
        reactor: IReactorFromThreads,
        function: Callable[[], object],
    ) -> None:
        """
        Args:
            number: The signal.
            reactor: Calls *function* in its own turn, never inside other code.
            function: What to do.
        """
        self._number = number
        self._reactor = reactor
        self._function = function
        self._before: Any = None
        self._installed = False

    def start(self) -> None:
        """
        Begin to watch. Only the main thread may.
        """
        self._before = signal.signal(self._number, self._arrived)
        self._installed = True
        if isinstance(self._before, EarlySignal) and self._before.arrived:
            self._before.arrived = False
            self._reactor.callFromThread(self._function)

    def stop(self) -> None:
        """
        Put back what was there before.
        """
        if not self._installed:
            return
        self._installed = False
        # None: it was not installed from Python, so it cannot be put back.
        before = signal.SIG_DFL if self._before is None else self._before
        signal.signal(self._number, before)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._function)


class StopOnce:
    """
    Lets the first signal that stops the program through, and no other: a stop that
    is under way cannot begin again, and a reactor that is told to complains.

    `timeout` and a terminal send such a signal to a whole group of programs, so that
    it often comes twice.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        """
        Args:
            numbers: The signals.
        """
        self._numbers = tuple(numbers)
        self._before: dict[int, Any] = {}
        self._stopping = False

    def start(self) -> None:
        """
        Stand before what is installed now: only functions, not what ignores a signal
        or ends the program. Only the main thread may.
        """
        for number in self._numbers:
            before = signal.getsignal(number)
            if callable(before) and number not in self._before:
                self._before[number] = before
                signal.signal(number, self._arrived)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not self._stopping:
            self._stopping = True
            self._before[number](number, frame)
