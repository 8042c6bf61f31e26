# SPDX-License-Identifier: MIT
"""
The halves that wait for the other one, found by the name of their pair and counted by
who has sent them.
"""

from __future__ import annotations

from collections.abc import Mapping

from nodecomm.inventory.names import Half
from nodecomm.inventory.pairs import Waiting

__all__ = ["WaitingHalves"]

_NONE: Mapping[Half, Waiting] = {}


class WaitingHalves:
    """
    Halves by their names. Whoever changes something holds a lock; the reactor asks
    without one: how many there are, `of` and `of_address` look at a dict once.
    """

    def __init__(self) -> None:
        self._pairs: dict[str, dict[Half, Waiting]] = {}
        self._addresses: dict[str, int] = {}

    def __len__(self) -> int:
        """
        How many pairs there are of which something waits.
        """
        return len(self._pairs)

    def of(self, name: str) -> Mapping[Half, Waiting]:
        """
        What waits of a pair.
        """
        return self._pairs.get(name, _NONE)

    def of_address(self, address: str) -> int:
        """
        How many halves came from an address.
        """
        return self._addresses.get(address, 0)

    def pairs(self) -> list[tuple[str, Mapping[Half, Waiting]]]:
        """
        What waits of each pair, at this moment.
        """
        return [(name, dict(halves)) for name, halves in self._pairs.items()]

    def put(self, waiting: Waiting) -> None:
        """
        One more, or in the place of one of that name.
        """
        name = waiting.name
        halves = self._pairs.setdefault(name.pair, {})
        before = halves.get(name.half)
        halves[name.half] = waiting
        self._count(waiting.sender.address, 1)
        if before is not None:
            self._count(before.sender.address, -1)

    def remove(self, name: str, half: Half) -> None:
        """
        One that waits no more. Harmless where there is none.
        """
        halves = self._pairs.get(name, {})
        gone = halves.pop(half, None)
        if gone is None:
            return
        if not halves:
            del self._pairs[name]
        self._count(gone.sender.address, -1)

    def _count(self, address: str, more: int) -> None:
        number = self._addresses.get(address, 0) + more
        if number:
            self._addresses[address] = number
        else:
            del self._addresses[address]

    def clear(self) -> None:
        """
        Forget all of them.
        """
        self._pairs.clear()
        self._addresses.clear()
