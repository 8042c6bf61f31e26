# SPDX-License-Identifier: MIT
"""
Lines of a log that strangers can cause, and how many of them there are.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

__all__ = ["PERIOD", "LineLimit"]

#: Seconds in which so many lines are stated.
PERIOD = 60.0


@define
class LineLimit:
    """
    States so many lines in a minute; the others are counted.

    Args:
        reactor: For time.
        most: Lines in a minute.
        tell_more: Called, when the next line is asked for, with how many were left out
            in a minute that is over; not if there were none.
    """

    _reactor: IReactorTime
    most: int
    _tell_more: Callable[[int], object]
    _asked: int = field(default=0, init=False)
    _since: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._since = self._reactor.seconds()

    def allows(self) -> bool:
        """
        Whether one more line may be stated.
        """
        now = self._reactor.seconds()
        if not 0 <= now - self._since < PERIOD:
            more = self._asked - self.most
            self._since, self._asked = now, 0
            if more > 0:
                self._tell_more(more)
        self._asked += 1
        return self._asked <= self.most
