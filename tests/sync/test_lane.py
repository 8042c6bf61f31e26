# SPDX-License-Identifier: MIT
from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.server.pools import QueueFull
from nodecomm.sync.lane import HIGH_WATER, Lane

T = TypeVar("T")


class SlowPool:
    """
    Runs work when the test says so.
    """

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def run(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """Later."""
        done: Deferred[T] = Deferred()

        def go() -> None:
            done.callback(work(*args))

        self.waiting.append(go)
        return done

    def go(self) -> None:
        """Now."""
        self.waiting.pop(0)()


class LaneTests(SynchronousTestCase):
    """
    Work for the disk.
    """

    def setUp(self) -> None:
        """A lane whose pool is slow."""
        self.pool = SlowPool()
        self.failures: list[Failure] = []
        self.lane = Lane(self.pool, self.failures.append)
        self.done: list[Any] = []

    def put(self, value: Any, size: int = 0) -> None:
        """Work that says a value, or raises it."""

        def work() -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        self.lane.put(work, self.done.append, size)

    def test_what_gathers_goes_in_one(self) -> None:
        """
        The first piece of work at once, all that came meanwhile together.
        """
        for value in range(100):
            self.put(value)

        self.pool.go()
        self.assertEqual(self.done, [0])
        self.assertEqual(len(self.pool.waiting), 1)
        self.pool.go()
        self.assertEqual(self.done, list(range(100)))

    def test_too_much_in_memory_is_told(self) -> None:
        """
        Once, and once when there is room again.
        """
        told: list[str] = []
        self.lane.regulate(lambda: told.append("full"), lambda: told.append("free"))
        for _ in range(10):
            self.put("x", HIGH_WATER // 4)

        self.assertEqual(told, ["full"])
        self.pool.go()
        self.pool.go()
        self.assertEqual(told, ["full", "free"])
        self.assertEqual(self.lane.size, 0)

    def test_who_is_let_go_is_freed(self) -> None:
        """
        A connection that ends while it is held is not held for ever.
        """
        told: list[str] = []
        self.lane.regulate(lambda: told.append("full"), lambda: told.append("free"))
        self.put("x", HIGH_WATER + 1)

        self.lane.let_go()
        self.pool.go()

        self.assertEqual(told, ["full", "free"])

    def test_nothing_runs_after_a_failure(self) -> None:
        """
        What succeeded before it is told, and the failure once.
        """
        self.put("first")
        self.put("second")
        self.put(OSError(28, "full"))
        self.put("never")
        self.pool.go()
        self.pool.go()
        self.put("nor this")
        idle = self.lane.when_idle()

        self.assertEqual(self.done, ["first", "second"])
        self.assertEqual(
            [str(each.value) for each in self.failures], ["[Errno 28] full"]
        )
        self.assertEqual(self.pool.waiting, [])
        self.successResultOf(idle)

    def test_a_pool_that_takes_no_more(self) -> None:
        """
        It is a failure like others.
        """

        def run(work: object, *args: object) -> Any:
            raise QueueFull("full")

        self.pool.run = run  # type: ignore[method-assign]
        self.put("x")

        self.assertIsInstance(self.failures[0].value, QueueFull)

    def test_idle(self) -> None:
        """
        It is told when the last work is done.
        """
        self.put("x")
        idle = self.lane.when_idle()
        self.assertNoResult(idle)

        self.pool.go()

        self.successResultOf(idle)
