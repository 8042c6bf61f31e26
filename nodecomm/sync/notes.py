# SPDX-License-Identifier: MIT
"""
Lines for people, not more of them than a person reads.
"""

from __future__ import annotations

from attrs import define, field

__all__ = ["MAX_LINES", "Notes"]

#: Lines that are kept; of further ones only the number.
MAX_LINES = 100


@define
class Notes:
    """
    The warnings of an update.
    """

    _lines: list[str] = field(factory=list, init=False)
    _more: int = field(default=0, init=False)

    def add(self, line: str) -> None:
        """
        Remember *line*, once.
        """
        if line in self._lines:
            return
        if len(self._lines) < MAX_LINES:
            self._lines.append(line)
        else:
            self._more += 1

    def lines(self) -> tuple[str, ...]:
        """
        What to show.
        """
        if not self._more:
            return tuple(self._lines)
        return (*self._lines, f"and {self._more} more")
