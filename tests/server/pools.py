# SPDX-License-Identifier: MIT
"""
A pool that works when the test says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nodecomm.server.pools import QueueFull

T = TypeVar("T")


class HandPool:
    """
    Keeps its work until `work` is called.

    Attributes:
        waiting: What was asked for and not yet done.
        queue: How much may wait.
    """

    def __init__(self, queue: int = 1000) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[..., Any], Any]] = []
        self.queue = queue
        self.asked = 0

    def run(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """Keep it."""
        if len(self.waiting) >= self.queue:
            raise QueueFull("no room")
        self.asked += 1
        done: Deferred[T] = Deferred()
        self.waiting.append((done, work, args))
        return done

    def work(self, count: int = 1) -> None:
        """Do the oldest *count* pieces."""
        for _ in range(count):
            done, work, args = self.waiting.pop(0)
            try:
                result = work(*args)
            except Exception:
                done.errback(Failure())
            else:
                done.callback(result)
