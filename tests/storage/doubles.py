# SPDX-License-Identifier: MIT
"""
A database without threads: pools and reactors that do everything at once, or when
the test says so.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from nodecomm.storage.database import Database


@implementer(IReactorFromThreads)
class InlineReactor(Clock):
    """
    A clock that calls what comes from other threads at once.
    """

    def callFromThread(
        self, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        callable(*args, **kwargs)


class InlinePool:
    """
    A pool that works in the caller's thread: at once, or held until `work`.
    """

    def __init__(self) -> None:
        self.running = False
        self.held = False
        self._queue: list[Callable[[], None]] = []

    def start(self) -> None:
        assert not self.running
        self.running = True

    def stop(self) -> None:
        assert self.running
        self.work()
        self.running = False

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, Any], object] | None,
        func: Callable[..., object],
        *args: Any,
        **kw: Any,
    ) -> None:
        assert self.running and onResult is not None
        report = onResult

        def call() -> None:
            try:
                result = func(*args, **kw)
            except BaseException:
                report(False, Failure())
            else:
                report(True, result)

        self._queue.append(call)
        if not self.held:
            self.work()

    def work(self) -> None:
        """
        Do what is queued.
        """
        while self._queue:
            self._queue.pop(0)()


class DatabaseCase(SynchronousTestCase):
    """
    A database in a folder of its own, working at once.
    """

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = self.folder / "nodecomm.sqlite"
        self.reactor = InlineReactor()
        self.pool = InlinePool()
        self.database = self.make_database()
        self.successResultOf(self.database.start())
        self.addCleanup(self.stop)

    def make_database(self, **options: Any) -> Database:
        return Database(
            self.path,
            self.reactor,
            make_pool=lambda: self.pool,
            busy_timeout=0.05,
            **options,
        )

    def stop(self) -> None:
        self.pool.held = False
        self.pool.work()
        if self.database.running:
            self.successResultOf(self.database.stop())
