# SPDX-License-Identifier: MIT
"""
The facts that the server states, each once, as events with a stable name and typed
fields. Text, JSON and the audit log are observers of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.logger import Logger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BurstLog", "EventLog"]


@define(eq=False)
class EventLog:
    """
    Where a server's events go, and how much is worth stating.

    Attributes:
        verbose: Whether each request is stated, not only refused ones.
        dialogue: Whether each message on the wire is stated.
    """

    verbose: bool = False
    dialogue: bool = False
    log: Logger = field(factory=lambda: Logger("nodecomm.server"))


@define
class _Burst:
    began: float
    last: float
    more: int = 0


@define(eq=False)
class BurstLog:
    """
    States a limit that was reached once per burst, and how often it was afterwards.

    A burst ends when nothing happened for `quiet` seconds, or after `longest`.
    """

    _log: Logger
    _monotonic: Callable[[], float]
    quiet: float = 10
    longest: float = 60
    _bursts: dict[str, _Burst] = field(factory=dict, init=False)

    def reached(self, limit: str, message: str, **fields: Any) -> None:
        """
        State that *limit* was reached, unless that was just stated.

        Args:
            limit: The name of the limit, a setting where there is one.
            message: A twisted.logger format; *fields* are its values.
        """
        now = self._monotonic()
        burst = self._bursts.get(limit)
        if burst is not None:
            burst.more += 1
            burst.last = now
            return
        self._bursts[limit] = _Burst(now, now)
        self._log.warn(message, event="limit.reached", limit=limit, **fields)

    def sweep(self) -> None:
        """
        End the bursts that are over; to be called every second or so.
        """
        now = self._monotonic()
        for limit, burst in list(self._bursts.items()):
            if now - burst.last < self.quiet and now - burst.began < self.longest:
                continue
            del self._bursts[limit]
            if burst.more:
                self._log.warn(
                    "{limit} was reached {count} more times in {seconds} s",
                    event="limit.repeated",
                    limit=limit,
                    count=burst.more,
                    seconds=round(now - burst.began),
                )
