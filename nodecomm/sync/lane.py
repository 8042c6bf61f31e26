# SPDX-License-Identifier: MIT
"""
Work for the disk, in order, away from the reactor, as much at a time as has gathered.

One piece of work is small: create a file, write it, close it. What gathers while one
thread is busy goes to the next in one go, so that 20,000 files cost some hundred
changes of thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from nodecomm.server.pools import Pool

__all__ = ["HIGH_WATER", "LOW_WATER", "Lane"]

#: Bytes that wait for the disk before the network is told to wait.
HIGH_WATER = 4 << 20

#: Bytes left when the network may go on.
LOW_WATER = 1 << 20

#: Pieces of work in one go, so that results come now and then.
MAX_BATCH = 512


@define
class _Work:
    function: Callable[[], Any]
    done: Callable[[Any], None] | None
    size: int


@define(eq=False)
class Lane:
    """
    Where the content of files goes.

    Args:
        pool: Where it runs.
        failed: Told of the first piece of work that failed; nothing runs after it.

    Attributes:
        size: Bytes that wait or are being written.
    """

    _pool: Pool
    _failed: Callable[[Failure], None]
    size: int = field(default=0, init=False)
    _queue: deque[_Work] = field(factory=deque, init=False)
    _running: bool = field(default=False, init=False)
    _broken: bool = field(default=False, init=False)
    _full: Callable[[], None] | None = field(default=None, init=False)
    _free: Callable[[], None] | None = field(default=None, init=False)
    _held: bool = field(default=False, init=False)
    _idle: list[Deferred[None]] = field(factory=list, init=False)

    def put(
        self,
        function: Callable[[], Any],
        done: Callable[[Any], None] | None = None,
        size: int = 0,
    ) -> None:
        """
        Run *function* after all that was put before, then *done* on its result, here.

        Args:
            function: May wait.
            done: May not wait.
            size: Bytes that it holds in memory.
        """
        self._queue.append(_Work(function, done, size))
        self.size += size
        if self.size > HIGH_WATER and not self._held and self._full is not None:
            self._held = True
            self._full()
        self._go_on()

    def regulate(self, full: Callable[[], None], free: Callable[[], None]) -> None:
        """
        Call *full* when too much waits, and *free* when there is room again; the two
        always alternate. Whoever was called before is freed first.
        """
        self.let_go()
        self._full, self._free = full, free

    def let_go(self) -> None:
        """
        Regulate nobody any more.
        """
        if self._held and self._free is not None:
            self._held = False
            self._free()
        self._full = self._free = None

    def when_idle(self) -> Deferred[None]:
        """
        Fires when nothing waits or runs, failed or not.
        """
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        self._go_on()
        return idle

    def _go_on(self) -> None:
        if self._running:
            return
        if self._broken:
            self._queue.clear()
            self.size = 0
        if not self._queue:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)
            return
        batch: list[_Work] = []
        while self._queue and len(batch) < MAX_BATCH:
            batch.append(self._queue.popleft())
        self._running = True
        maybeDeferred(self._pool.run, _run, batch).addCallbacks(
            self._finished, self._stop, callbackArgs=(batch,)
        ).addErrback(self._stop)

    def _finished(self, results: list[Any], batch: list[_Work]) -> None:
        self._running = False
        self.size -= sum(work.size for work in batch)
        if self._held and self.size <= LOW_WATER and self._free is not None:
            self._held = False
            self._free()
        for work, result in zip(batch, results, strict=False):
            if isinstance(result, Failure):
                self._stop(result)
            elif work.done is not None:
                work.done(result)
        self._go_on()

    def _stop(self, failure: Failure) -> None:
        self._running = False
        if not self._broken:
            self._broken = True
            self._failed(failure)
        self._go_on()


def _run(batch: list[_Work]) -> list[Any]:
    """
    The results of as many as succeeded, and the first failure behind them.
    """
    results: list[Any] = []
    for work in batch:
        try:
            results.append(work.function())
        except Exception:
            results.append(Failure())  # type: ignore[no-untyped-call]
            break
    return results
