# SPDX-License-Identifier: MIT
"""
Bounded pools of threads, one for each kind of waiting, so that slow name look-ups
never delay a digest.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "InlinePool",
    "Job",
    "Pool",
    "PoolGate",
    "QueueFull",
    "WorkerPool",
    "Workers",
]

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


class Job(Generic[T]):
    """
    One piece of work at a `PoolGate`.

    Attributes:
        result: What comes of it; nothing, ever, once the job was left.
    """

    __slots__ = ("_args", "_gate", "_left", "_running", "_then", "_work", "result")

    def __init__(
        self, gate: PoolGate, work: Callable[..., T], args: tuple[Any, ...]
    ) -> None:
        self.result: Deferred[T] = Deferred()
        self._gate = gate
        self._work = work
        self._args = args
        self._left = False
        self._running = False
        self._then: Callable[[], None] | None = None

    def leave(self) -> None:
        """
        Nobody wants the result any more: what has not begun never does. Again:
        nothing happens.
        """
        self._left = True
        self._gate._forget(self)

    def when_over(self, call: Callable[[], None]) -> None:
        """
        Call *call* when the job, which was left, is not in the pool: now, or later.
        """
        if self._running:
            self._then = call
        else:
            call()

    def _do(self) -> T | None:
        """
        The work, in a thread. The flag may change meanwhile; then it is done in vain.
        """
        return None if self._left else self._work(*self._args)

    def _over(self, result: Any) -> None:
        self._running = False
        then, self._then = self._then, None
        self._gate._ended()
        if then is not None:
            then()
        if self._left:
            # A failure that nobody waits for is none.
            return
        if isinstance(result, Failure):
            self.result.errback(result)
        else:
            self.result.callback(result)


class PoolGate:
    """
    Lets at most `at_once()` jobs into a pool that others need, too. The others wait
    here in order of arrival, where whoever goes takes his job along: work that
    strangers cause is neither done for those who have gone, nor in the way of what
    the pool does for others.

    Args:
        pool: Where it is done.
        at_once: The limit, asked for each job; at least 1.

    Attributes:
        running: Jobs in the pool now.
    """

    def __init__(self, pool: Pool, at_once: Callable[[], int]) -> None:
        self._pool = pool
        self._at_once = at_once
        self.running = 0
        self._first: OrderedDict[Job[Any], None] = OrderedDict()
        self._others: OrderedDict[Job[Any], None] = OrderedDict()
        self._letting_in = False

    @property
    def waiting(self) -> int:
        """
        Jobs that wait to be let in.
        """
        return len(self._first) + len(self._others)

    def run(self, work: Callable[..., T], *args: Any, first: bool = False) -> Job[T]:
        """
        Run `work(*args)` in the pool, when there is room. That the pool is full, is
        a failure of the job.

        Args:
            first: Before all that are not, in whatever order they came.
        """
        job = Job(self, work, args)
        (self._first if first else self._others)[job] = None
        self._let_in()
        return job

    def _let_in(self) -> None:
        # What ends at once must not call this deeper and deeper.
        if self._letting_in:
            return
        self._letting_in = True
        try:
            while self.waiting and self.running < self._at_once():
                job, _ = (self._first or self._others).popitem(last=False)
                job._running = True
                self.running += 1
                try:
                    done = self._pool.run(job._do)
                except QueueFull:
                    job._over(Failure())  # type: ignore[no-untyped-call]
                else:
                    done.addBoth(job._over)
        finally:
            self._letting_in = False

    def _ended(self) -> None:
        self.running -= 1
        self._let_in()

    def _forget(self, job: Job[Any]) -> None:
        self._first.pop(job, None)
        self._others.pop(job, None)


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
