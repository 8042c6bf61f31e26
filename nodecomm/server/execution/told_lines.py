# SPDX-License-Identifier: MIT
"""
Output as lines for people, of which there are not too many.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

__all__ = ["LONGEST_LINE", "MOST_LINES", "Lines"]

#: Lines of output that are told, and bytes of each; the rest is only counted.
MOST_LINES = 200
LONGEST_LINE = 1000


@define
class Lines:
    """
    Output on its way to lines, of which only so many are told and only so much of
    each.

    Attributes:
        tell: Takes each line, without its end.
        told: Lines that were told.
        dropped: Lines that were not.
    """

    tell: Callable[[bytes], object]
    told: int = 0
    dropped: int = 0
    _rest: bytearray = field(factory=bytearray)
    _cut: bool = False

    def add(self, data: bytes) -> None:
        """
        More output.
        """
        *whole, last = data.split(b"\n")
        for line in whole:
            self._keep(line)
            self._end()
        self._keep(last)

    def finish(self) -> None:
        """
        There is no more.
        """
        if self._rest:
            self._end()

    def _keep(self, data: bytes) -> None:
        room = LONGEST_LINE - len(self._rest)
        self._rest += data[:room]
        self._cut |= len(data) > room

    def _end(self) -> None:
        line = bytes(self._rest).rstrip(b"\r") + (b"..." if self._cut else b"")
        self._rest.clear()
        self._cut = False
        if self.told < MOST_LINES:
            self.told += 1
            self.tell(line)
        else:
            self.dropped += 1
