# SPDX-License-Identifier: MIT
"""
When an agent runs, and which server it asks first. Pure: times are seconds of a clock
that nobody sets, counted from anywhere.

Many agents must never do the same at the same moment, however they were started:

* each has a *share*, a number from 0 up to 1 made of its key's digest, evenly spread
  over all keys and the same at each start;
* after a start the first run comes at `share * splay`, the others at `share * interval`
  in each interval that follows;
* after a failure that may heal by itself the next attempt comes earlier than that:
  after a pause that doubles with each failure in a row, times a random number.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from attrs import define, field, frozen

__all__ = [
    "FIRST_PAUSE",
    "LONGEST_AVOIDANCE",
    "LONGEST_SPLAY",
    "Avoidance",
    "Grid",
    "pause_after",
    "share_of",
]

K = TypeVar("K", bound=Hashable)

#: Seconds that the first run waits at most when nothing is configured.
LONGEST_SPLAY = 300.0

#: Seconds of the middle pause after the first failure.
FIRST_PAUSE = 30.0

#: Parts of an interval that are no time.
_ROUNDING = 1e-6

#: Seconds that a server which failed is tried last, at the most.
LONGEST_AVOIDANCE = 3600.0


def share_of(digest: str) -> float:
    """
    The share of the host with this key digest: 0 up to 1, 1 not included.
    """
    # A hash of its own, so that digests of one kind or another are as even.
    hashed = hashlib.sha256(b"nodecomm-agent splay\0" + digest.encode()).digest()
    # A float has 53 bits: with more of them the largest number would round to 1.
    return (int.from_bytes(hashed[:8], "big") >> 11) / 2.0**53


def pause_after(
    failures: int, longest: float, chance: float, first: float = FIRST_PAUSE
) -> float:
    """
    Seconds to wait after so many failures in a row.

    Args:
        failures: From 1.
        longest: Where the middle of the pause stops growing.
        chance: A random number from 0 up to 1: from half the middle to one and a half.
        first: The middle of the first pause.
    """
    # 2.0**1024 does not exist.
    middle = min(first * 2.0 ** min(failures - 1, 60), longest)
    return middle * (0.5 + chance)


@frozen
class Grid:
    """
    The regular runs of one agent.

    Attributes:
        start: When the agent started.
        share: Of this host.
        interval: Seconds.
        splay: Seconds within which the first run comes.
    """

    start: float
    share: float
    interval: float
    splay: float

    @property
    def first(self) -> float:
        """
        When the first run is due.
        """
        return self.start + self.share * self.splay

    def after(self, now: float) -> float:
        """
        When the next run is due that is later than *now* and not the first.
        """
        phase = self.start + self.share * self.interval
        # A point that *now* is short of by rounding alone is no later one.
        whole = math.floor((now - phase) / self.interval + _ROUNDING) + 1
        return phase + max(whole, 0) * self.interval


@define
class Avoidance(Generic[K]):
    """
    Servers that failed lately, and so are tried after the others.

    Args:
        chance: Random numbers from 0 up to 1.
    """

    _chance: Callable[[], float]
    _failures: dict[K, int] = field(factory=dict, init=False)
    _until: dict[K, float] = field(factory=dict, init=False)

    def order(self, servers: Sequence[K], now: float) -> list[K]:
        """
        The order to try *servers* in: as given, but those that are avoided at the
        end, the one whose time ends first before the others.
        """

        def place(server: K) -> float:
            until = self._until.get(server, -math.inf)
            return until if until > now else -math.inf

        return sorted(servers, key=place)

    def failed(self, server: K, now: float) -> float:
        """
        *server* failed; returns for how many seconds it is tried last.
        """
        count = self._failures[server] = self._failures.get(server, 0) + 1
        pause = pause_after(count, LONGEST_AVOIDANCE, self._chance())
        self._until[server] = now + pause
        return pause

    def worked(self, server: K) -> None:
        """
        *server* is as good as any.
        """
        self._failures.pop(server, None)
        self._until.pop(server, None)
