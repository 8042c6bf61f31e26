# SPDX-License-Identifier: MIT
"""
Pools: bounded, and free again whatever their work comes to.
"""

from __future__ import annotations

import threading
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.server.pools import InlinePool, QueueFull, WorkerPool, Workers
from tests.storage import doubles


def _fail() -> None:
    raise OSError(5, "Input/output error")


class WorkerPoolTests(SynchronousTestCase):
    """
    Threads of one kind, without the threads.
    """

    def setUp(self) -> None:
        self.pool = WorkerPool(doubles.InlineReactor(), "test", 2, queue=3)
        self.threads = doubles.InlinePool()
        self.pool._pool = cast(Any, self.threads)
        self.pool.start()
        self.addCleanup(self.pool.stop)

    def test_result_and_failure(self) -> None:
        """Work's result or exception is the answer's."""
        self.assertEqual(7, self.successResultOf(self.pool.run(max, 3, 7)))
        self.failureResultOf(self.pool.run(_fail), OSError)

    def test_bounded(self) -> None:
        """What runs and waits is counted together; more is refused at once, and
        there is room again for each piece that ended, well or not."""
        self.threads.held = True
        answers: list[Deferred[Any]] = [
            self.pool.run(max, 1, 2),
            self.pool.run(_fail),
            self.pool.run(max, 3, 4),
        ]
        with self.assertRaises(QueueFull) as raised:
            self.pool.run(max, 5, 6)
        self.assertIn("test", str(raised.exception))

        self.threads.work()

        self.assertEqual(0, self.pool.busy)
        self.failureResultOf(answers[1], OSError)
        self.assertEqual(2, self.successResultOf(answers[0]))
        for _ in range(3):
            self.pool.run(max, 5, 6)


class ThreadTests(SynchronousTestCase):
    """
    The same with real threads.
    """

    def test_away_from_the_caller(self) -> None:
        """Work runs in a thread of the pool's name."""
        called = threading.Event()
        names: list[str] = []

        class Reactor:
            """Takes what comes from other threads."""

            def callFromThread(self, call: Any, *args: Any) -> None:
                call(*args)
                called.set()

        pool = WorkerPool(Reactor(), "nodecomm-test", 1)
        pool.start()
        try:
            pool.run(lambda: names.append(threading.current_thread().name))
            self.assertTrue(called.wait(30))
        finally:
            pool.stop()

        self.assertIn("nodecomm-test", names[0])


class InlinePoolTests(SynchronousTestCase):
    """
    The pool of tests.
    """

    def test_at_once(self) -> None:
        """Results and failures are there when `run` returns."""
        workers = Workers.inline()
        for pool in (InlinePool(), workers.disk, workers.digests, workers.names):
            self.assertEqual(7, self.successResultOf(pool.run(max, 3, 7)))
            self.failureResultOf(pool.run(_fail), OSError)
