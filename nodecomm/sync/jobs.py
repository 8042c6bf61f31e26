# SPDX-License-Identifier: MIT
"""
Work of an update in a pool, whose end is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred

if TYPE_CHECKING:
    from nodecomm.server.pools import Pool

__all__ = ["Jobs"]

T = TypeVar("T")


@define(eq=False)
class Jobs:
    """
    Work in a pool whose end is waited for: a thread cannot be stopped, and must not
    go on in a folder that another run holds already.
    """

    _pool: Pool
    _running: set[Deferred[None]] = field(factory=set, init=False)

    def run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        What *function* returns. To cancel the Deferred leaves the work alone.
        """
        ended: Deferred[None] = Deferred()
        result: Deferred[T] = Deferred(lambda _: None)
        self._running.add(ended)

        def over(outcome: Any) -> None:
            self._running.discard(ended)
            if not result.called:
                # A failure of work that nobody waits for any more is of no interest.
                result.callback(outcome)
            ended.callback(None)

        maybeDeferred(self._pool.run, function, *args).addBoth(over)
        return result

    async def quiet(self) -> None:
        """
        Wait until nothing runs.
        """
        while self._running:
            waiter: Deferred[None] = Deferred()
            next(iter(self._running)).chainDeferred(waiter)
            await waiter
