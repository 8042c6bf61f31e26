# SPDX-License-Identifier: MIT
"""
The agent's own run as something that others may ask for, beside programs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from nodecomm.access.execution import FORCE_INVENTORY
from nodecomm.config.durations import duration_text, parse_duration
from nodecomm.config.execution import SYNC
from nodecomm.server.execution.executables import Programs
from nodecomm.server.execution.orders import RunOutcome
from nodecomm.wire.text import safe

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from nodecomm.server.execution.executables import Running, RunWatcher
    from nodecomm.server.execution.orders import RunOrder
    from nodecomm.service.agent_events import Follow

__all__ = ["AgentExecutable"]

#: Bytes that wait for somebody who takes none; further lines are only counted.
MOST_WAITING = 1024 * 1024

#: Seconds between two lines that say that it still goes on.
#: Source: cf-runagent of CFEngine 3.21, observed: it gives up after 185 s of silence.
SAY_EVERY = 60.0


class FollowRun(Protocol):
    """
    Has a run made, now or right after the one that is under way.
    """

    def __call__(
        self, tell: Callable[[str], object], *, inventory: bool = False
    ) -> Follow:
        """
        Args:
            tell: Takes each line.
            inventory: Whether an inventory is asked for, too.
        """
        ...


class AgentExecutable:
    """
    Runs what an agent's configuration has for others: the agent's own run, or a
    program.

    Args:
        reactor: For timers, and to get back from threads.
        follow: Has a run made, now or right after the one that is under way.
        monotonic: Seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        reactor: Any,
        follow: FollowRun,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._follow = follow
        self._monotonic = monotonic
        self._programs = Programs(reactor.callFromThread)

    def command(self, order: RunOrder) -> bytes:
        """
        What is run, as the peer is told.
        """
        if order.execution.program is None:
            return SYNC.encode()
        return self._programs.command(order)

    def begin(self, order: RunOrder, watcher: RunWatcher) -> Running:
        """
        Run it.
        """
        if order.execution.program is not None:
            return self._programs.begin(order, watcher)
        running = _Sync(order, watcher, self._reactor, self._monotonic)
        inventory = FORCE_INVENTORY in order.defined
        running.follow(partial(self._follow, inventory=inventory))
        return running


class _Sync:
    """
    A run of the agent that somebody follows. It is the agent's own: whoever leaves, or
    has waited long enough, leaves it to itself.
    """

    def __init__(
        self,
        order: RunOrder,
        watcher: RunWatcher,
        reactor: Any,
        monotonic: Callable[[], float],
    ) -> None:
        self._watcher = watcher
        self._monotonic = monotonic
        self._began = monotonic()
        self._ended = False
        self._paused = False
        self._waiting = bytearray()
        self._dropped = 0
        self._follow: Follow | None = None
        self._reactor = reactor
        self._limit = parse_duration(order.execution.settings.timeout)
        self._timer = self._later()

    def follow(self, follow: Callable[[Callable[[str], object]], Follow]) -> None:
        """
        Begin.
        """
        self._follow = follow(self._line)
        self._follow.over.addCallback(self._over)

    def _later(self) -> IDelayedCall:
        left = max(self._limit - self._seconds, 0.0)
        timer: IDelayedCall = self._reactor.callLater(
            min(left, SAY_EVERY), self._look_at_time
        )
        return timer

    def _look_at_time(self) -> None:
        if self._seconds >= self._limit:
            self._leave(
                "failed: this takes longer than the timeout of [run]; the agent's own"
                " run goes on"
            )
            return
        self._line(f"still under way after {duration_text(self._seconds)}")
        self._timer = self._later()

    def pause(self) -> None:
        """
        Keep lines for now.
        """
        self._paused = True

    def resume(self) -> None:
        """
        Give them.
        """
        self._paused = False
        self._give()

    def stop(self, why: str, grace: float | None = None) -> None:
        """
        Tell no more of it. A run is never ended half-way for somebody who asked for
        it: others may have, and the schedule counts on it.
        """
        self._leave(why)

    def _leave(self, why: str) -> None:
        if self._follow is not None:
            self._follow.leave()
        self._end(RunOutcome(None, None, self._seconds, why))

    @property
    def _seconds(self) -> float:
        return self._monotonic() - self._began

    def _line(self, text: str) -> None:
        data = safe(text).encode("utf-8", "backslashreplace") + b"\n"
        if len(self._waiting) + len(data) > MOST_WAITING:
            self._dropped += 1
            return
        self._waiting += data
        if not self._paused:
            self._give()

    def _give(self, *, all_of_it: bool = False) -> None:
        while self._waiting and not self._ended and (all_of_it or not self._paused):
            data = bytes(self._waiting[:65536])
            del self._waiting[: len(data)]
            self._watcher.output(data)
        if self._dropped and (all_of_it or not self._paused):
            dropped, self._dropped = self._dropped, 0
            self._line(f"({dropped} more lines are only in the agent's log)")
            if all_of_it:
                self._give(all_of_it=True)

    def _over(self, ailments: list[str] | None) -> None:
        """
        The run is over, or there will be none.
        """
        if ailments is None:
            self._end(RunOutcome(None, None, self._seconds, "stopped"))
            return
        for one in ailments:
            self._line(f"error: {one}")
        self._end(RunOutcome(1 if ailments else 0, None, self._seconds))

    def _end(self, outcome: RunOutcome) -> None:
        if self._ended:
            return
        # What still waits comes, also to one who takes nothing now: it is bounded, and
        # there will be no more.
        self._give(all_of_it=True)
        self._ended = True
        if self._timer.active():
            self._timer.cancel()
        self._watcher.ended(outcome)
