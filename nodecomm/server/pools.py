# SPDX-License-Identifier: MIT
"""
Bounded pools of threads, one for each kind of waiting, so that slow name look-ups
never delay a digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["InlinePool", "Pool", "QueueFull", "WorkerPool", "Workers"]

T = TypeVar("T")


class QueueFull(Exception):  # noqa: N818
    """
    A pool has as much waiting work as it may hold. The request that asked is ended
    by closing its connection; the peer comes again later.
    """


class Pool(Protocol):
    """
    Somewhere to run what may wait.
    """

    def run(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Run `work(*args)` away from the reactor.

        Raises:
            QueueFull: Too much waits already.
        """
        ...


class InlinePool:
    """
    Runs work at once, in the caller. For tests with a fake clock.
    """

    def run(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """Run `work(*args)` now."""
        result: Deferred[T] = execute(work, *args)
        return result


@define
class WorkerPool:
    """
    Threads of one kind, with a bounded queue.

    Args:
        reactor: Where the results arrive (IReactorFromThreads).
        name: What the threads are called.
        threads: How many there are at the most.
        queue: How much may run and wait together.
    """

    _reactor: Any
    name: str
    threads: int
    queue: int = 10_000
    busy: int = field(default=0, init=False)
    _pool: ThreadPool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pool = ThreadPool(0, self.threads, self.name)

    def start(self) -> None:
        """Begin to take work."""
        self._pool.start()

    def stop(self) -> None:
        """Finish what runs, and end the threads."""
        self._pool.stop()

    def run(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Run `work(*args)` in a thread.

        Raises:
            QueueFull: `queue` pieces of work run or wait already.
        """
        if self.busy >= self.queue:
            raise QueueFull(f"{self.name}: {self.busy} of {self.queue} in use")
        self.busy += 1
        done: Deferred[T] = deferToThreadPool(self._reactor, self._pool, work, *args)

        def free(result: Any) -> Any:
            self.busy -= 1
            return result

        return done.addBoth(free)


@define
class Workers:
    """
    The pools of a server.

    Attributes:
        disk: Cold reads and large folders.
        digests: Hashing.
        names: Host and user names.
        crypto: What the classic protocol encrypts and decrypts.
    """

    disk: Pool
    digests: Pool
    names: Pool
    crypto: Pool

    @classmethod
    def inline(cls) -> Workers:
        """Pools that run everything at once, for tests."""
        pool = InlinePool()
        return cls(pool, pool, pool, pool)
