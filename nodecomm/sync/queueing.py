# SPDX-License-Identifier: MIT
"""
Files to fetch, in the order in which a surprise costs least.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

from attrs import define, field

from nodecomm.sync.errand import Errand, State

__all__ = ["Queue"]

#: The level from which on a file comes alone.
_ALONE = 2


@define(eq=False)
class Queue:
    """
    Those that need least care first, and of these the small ones.
    """

    _heap: list[tuple[int, int, int, Errand]] = field(factory=list, init=False)
    _order: Iterator[int] = field(factory=itertools.count, init=False)

    def __bool__(self) -> bool:
        """
        Whether anything may be left.
        """
        return bool(self._heap)

    def push(self, errand: Errand) -> None:
        """
        Add a file.
        """
        level = min(errand.level, _ALONE)
        heapq.heappush(
            self._heap, (level, errand.entry.size, next(self._order), errand)
        )

    def first(self) -> tuple[int, int, Errand] | None:
        """
        The care that the first file needs, its size and itself.
        """
        heap = self._heap
        while heap:
            level, size, _order, errand = heap[0]
            if errand.state is State.GET and errand.entry.size == size:
                return level, size, errand
            # It is another file now, or needed no more.
            heapq.heappop(heap)
        return None

    def level(self) -> int | None:
        """
        The care that the first file needs.
        """
        return self._heap[0][0] if self._heap else None

    def pop(self) -> None:
        """
        Take the first one away.
        """
        heapq.heappop(self._heap)

    def clear(self) -> None:
        """
        Forget all.
        """
        self._heap.clear()
