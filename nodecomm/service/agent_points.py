# SPDX-License-Identifier: MIT
"""
Points of time, and how the status of an agent tells of them.
"""

from __future__ import annotations

from attrs import frozen

from nodecomm.config.durations import duration_text
from nodecomm.service.logs import utc

__all__ = ["Point", "ago", "pair_line"]

#: Of times that a clock can show: seconds since 1970 (to the year 9999), and
#: nanoseconds since the start of a machine.
_END_OF_TIME = 253402300800
_MOST_NS = 1 << 63


@frozen
class Point:
    """
    A point of time by both clocks: the civil one, which may be wrong and may be set,
    and one that nobody sets, which begins anew with each start of the machine.

    Attributes:
        civil: Seconds since 1970.
        boot: Which start of the machine.
        ns: Nanoseconds since that start.
    """

    civil: float
    boot: str
    ns: int

    def seconds_until(self, other: Point) -> float:
        """
        From this to *other*: exact within one start of the machine.
        """
        if self.boot == other.boot:
            return (other.ns - self.ns) / 1e9
        return other.civil - self.civil

    @property
    def can_be(self) -> bool:
        """
        Whether clocks can show it.
        """
        return 0 <= self.civil < _END_OF_TIME and 0 <= self.ns < _MOST_NS

    def later(self, seconds: float) -> Point:
        """
        So many seconds after this.
        """
        return Point(self.civil + seconds, self.boot, self.ns + round(seconds * 1e9))


def ago(then: Point, now: Point) -> str:
    """
    How long ago something was, in words.
    """
    seconds = then.seconds_until(now)
    when = utc(then.civil)
    if seconds < 0:
        # Another start of the machine, and the civil clock went back since.
        return f"at {when}"
    return f"{duration_text(seconds)} ago ({when})"


def pair_line(name: str, said: str) -> str:
    """
    One line of the status; a name of "" is for what goes on from the line before.
    """
    return f"{name + ':' if name else '':<14} {said}"
