# SPDX-License-Identifier: MIT
"""
Requests of which one may be what a connection ended at, asked for in such a way that
the refusal arrives.

They leave in groups, first one, then twice as many each time, with nothing behind a
group: what the last of it is answered arrives, whatever it is. A refusal in the middle
may be lost again, and leaves half as many to doubt.
"""

from __future__ import annotations

from itertools import islice
from typing import Protocol

from attrs import define, field

__all__ = ["Doubted"]

#: Requests in one group. There are no more of them, and what doubles without an end
#: becomes a number that is none of a machine's.
_LARGEST = 1 << 30


class _Send(Protocol):
    def __call__(self, name: bytes, *, alone: bool) -> None:
        """Ask for *name*; if *alone*, with nothing behind it."""


@define(eq=False)
class Doubted:
    """
    Those of one connection.

    Args:
        send: Asks for one of them.
    """

    _send: _Send
    _waiting: dict[bytes, None] = field(factory=dict, init=False)
    _group: set[bytes] = field(factory=set, init=False)
    _size: int = field(default=1, init=False)

    def __bool__(self) -> bool:
        """
        Whether any wait for others to be answered.
        """
        return bool(self._waiting)

    def add(self, name: bytes) -> None:
        """
        Ask for *name*, now or later.
        """
        self._waiting[name] = None
        self._go_on()

    def answered(self, name: bytes) -> None:
        """
        The answer to *name* has come, or is not wanted any more.
        """
        if name in self._group:
            self._group.discard(name)
            self._go_on()

    def _go_on(self) -> None:
        if self._group or not self._waiting:
            return
        group = list(islice(self._waiting, self._size))
        for name in group:
            del self._waiting[name]
        self._group.update(group)
        self._size = min(2 * self._size, _LARGEST)
        for name in group:
            self._send(name, alone=name is group[-1])
