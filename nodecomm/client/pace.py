# SPDX-License-Identifier: MIT
"""
Whether a server that owes an answer keeps up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodecomm.client.timeouts import SLOW_ANSWERS, SLOW_RATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Pace"]

#: Seconds between two looks, at the most.
_LOOK = 1.0


class Pace:
    """
    One timer that looks now and then, instead of one for each answer.

    Silence and slowness are measured by a clock that nobody sets: the reactor's own
    jumps with civil time, and then a look comes too early, which does no harm.

    Args:
        clock: For the timer.
        monotonic: Seconds of a clock that nobody sets.
        look: Called at each look with the time; it says whether to go on.
        shortest: The shortest time that is measured, in seconds.
    """

    def __init__(
        self,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        look: Callable[[float], bool],
        shortest: float,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._look = look
        self._every = max(0.01, min(_LOOK, shortest / 4))
        self._call: IDelayedCall | None = None
        #: Since when there has been silence.
        self.silent_since = 0.0
        self._mark = (0.0, 0, 0)

    @property
    def running(self) -> bool:
        """
        Whether somebody looks.
        """
        return self._call is not None

    def begin(self, received: int, answers: int) -> None:
        """
        From now on something is awaited; so much has come before.
        """
        if self._call is None:
            self.restart(received, answers)
            self._call = self._clock.callLater(self._every, self._tick)

    def restart(self, received: int, answers: int) -> None:
        """
        Whatever was measured counts no more.
        """
        self.silent_since = self._monotonic()
        self.restart_rate(received, answers)

    def restart_rate(self, received: int, answers: int) -> None:
        """
        The rate is measured from now on; silence from where it began.
        """
        self._mark = (self._monotonic(), received, answers)

    def heard(self) -> None:
        """
        Something came.
        """
        self.silent_since = self._monotonic()

    def end(self) -> None:
        """
        Nothing is awaited any more.
        """
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def too_slow(self, now: float, over: float, received: int, answers: int) -> bool:
        """
        Whether too little has come over the last *over* seconds; False before they
        are over. All numbers are totals.
        """
        since, bytes_before, answers_before = self._mark
        if now - since < over:
            return False
        self._mark = (now, received, answers)
        return (
            received - bytes_before < SLOW_RATE * (now - since)
            and answers - answers_before < SLOW_ANSWERS
        )

    def _tick(self) -> None:
        self._call = None
        if self._look(self._monotonic()) and self._call is None:
            self._call = self._clock.callLater(self._every, self._tick)
