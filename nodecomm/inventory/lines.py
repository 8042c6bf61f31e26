# SPDX-License-Identifier: MIT
"""
Lines of a log that strangers can cause, and how many of them there are.
"""

from __future__ import annotations

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
    """

    _reactor: IReactorTime
    most: int
    _asked: int = field(default=0, init=False)
    _since: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._since = self._reactor.seconds()

    def left_out(self) -> int:
        """
        Begin another minute, if one is over.

        Returns:
            How many lines were left out in the one before; 0 while it goes on.
        """
        now = self._reactor.seconds()
        if 0 <= now - self._since < PERIOD:
            return 0
        more = max(0, self._asked - self.most)
        self._since, self._asked = now, 0
        return more

    def allows(self) -> bool:
        """
        Whether one more line may be stated.
        """
        self._asked += 1
        return self._asked <= self.most
