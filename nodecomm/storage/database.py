# SPDX-License-Identifier: MIT
"""
Databases whose work is done on a thread of their own; one SQLite file.

The processes of one server share the file; SQLite's write-ahead log lets them read
while one writes. It must not lie on a network file system.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from nodecomm.identity.files import sync_folder
from nodecomm.storage.migrations import MIGRATIONS, Connection, migrate

__all__ = [
    "BUSY_TIMEOUT",
    "DATABASE_NAME",
    "QUEUE_LIMIT",
    "Database",
    "DatabaseAway",
    "DatabaseClosed",
    "DatabaseDamaged",
    "DatabaseOverloaded",
    "IPool",
    "IRuns",
    "Threaded",
    "connect",
    "fault_of",
    "one_thread",
]

T = TypeVar("T")
C = TypeVar("C")

#: The file's name in the state folder.
DATABASE_NAME = "nodecomm.sqlite"

#: Seconds to wait for a lock that another process holds.
BUSY_TIMEOUT = 10.0

#: Calls that may wait for the thread. Beyond that the disk does not keep up, and
#: waiting longer would only hold more memory.
QUEUE_LIMIT = 10_000


class DatabaseClosed(Exception):  # noqa: N818
    """
    The database is not open: before `Database.start`, after `Database.stop`.
    """


class DatabaseOverloaded(Exception):  # noqa: N818
    """
    Too much waits for the database already; the disk does not keep up.
    """


class DatabaseAway(Exception):  # noqa: N818
    """
    A database does not answer now, or cannot do what it was asked for, as one whose
    disk is full; it is asked again later.
    """


class DatabaseDamaged(DatabaseAway):
    """
    What is in it makes no sense.
    """


class IRuns(Protocol):
    """
    A database, for whoever keeps a table in it.

    Attributes:
        name: What it is called in logs.
    """

    @property
    def name(self) -> str: ...

    def run(self, work: Callable[[Connection], T]) -> Deferred[T]:
        """
        Call *work* with the connection, on the database's thread.
        """


class IPool(Protocol):
    """
    What is needed of a thread pool; Twisted's has it.
    """

    def start(self) -> None:
        """
        Begin to work.
        """

    def stop(self) -> None:
        """
        Finish what is queued and end the threads.
        """

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, Any], object] | None,
        func: Callable[..., object],
        *args: Any,
        **kw: Any,
    ) -> object: ...


#: How SQLite begins when a file is damaged. What may follow is what is in it.
_DAMAGED = (
    "Could not decode to UTF-8",
    "database disk image is malformed",
    "file is not a database",
    "malformed database schema",
)


def fault_of(error: sqlite3.Error) -> DatabaseAway | None:
    """
    What to tell when SQLite could not do its work; None where the statement was wrong.
    """
    text = str(error)
    for damage in _DAMAGED:
        if text.startswith(damage):
            return DatabaseDamaged(f"it is damaged ({damage}): restore it from a copy")
    if text == "database is locked":
        return DatabaseAway("another program keeps the database locked: end that one")
    if isinstance(error, sqlite3.OperationalError):
        return DatabaseAway(text)
    return None


def one_thread() -> IPool:
    """
    A pool of one thread: SQLite calls of one process are served in order.
    """
    return ThreadPool(minthreads=1, maxthreads=1, name="nodecomm-database")


def connect(
    path: str | os.PathLike[str],
    busy_timeout: float = BUSY_TIMEOUT,
    steps: Sequence[Sequence[str]] = MIGRATIONS,
) -> sqlite3.Connection:
    """
    Open the database and bring it up to date; one of an older release is first copied
    to a file beside it, whose name ends in the number of its last step
    (`nodecomm.sqlite.1`). Blocks; meant for a thread, or for a program that has nothing
    else to do. Any thread may use the connection, one at a
    time.

    Args:
        path: The file; it is made, readable by its owner only, when it is missing.
        busy_timeout: Seconds to wait for a lock that another process holds.
        steps: What makes this kind of database, see `nodecomm.storage.migrations`.

    Raises:
        sqlite3.Error: It cannot be opened, or is no database.
        OSError: The file cannot be made.
        DatabaseTooNew: A newer release wrote it.
    """
    name = os.fspath(path)
    # SQLite would make it readable by everybody. Its -wal and -shm files take the
    # mode of this one.
    os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        name, timeout=busy_timeout, isolation_level=None, check_same_thread=False
    )
    try:
        _use_write_ahead_log(connection, busy_timeout)
        # A power cut must not give back what was taken from a trust window.
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection, steps, lambda found: _copy(name, f"{name}.{found}"))
    except BaseException:
        connection.close()
        raise
    return connection


def _copy(name: str, copy: str) -> None:
    """
    Copy the database as it was committed last, whole or not at all. Another connection
    may hold the write lock.
    """
    made = f"{copy}.new"
    # What a process that was killed has left.
    with suppress(FileNotFoundError):
        os.unlink(made)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(made, flags, 0o600)
    try:
        with (
            closing(sqlite3.connect(name)) as source,
            closing(sqlite3.connect(made)) as target,
        ):
            source.backup(target)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(made, copy)
    sync_folder(os.path.dirname(copy) or ".")


def _use_write_ahead_log(connection: sqlite3.Connection, busy_timeout: float) -> None:
    """
    Switch to WAL. The switch needs the whole file for itself and does not wait for
    it as other statements do, so several processes that start at once must retry.
    """
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            locked = "locked" in str(error) or "busy" in str(error)
            if not locked or time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        else:
            return


class Threaded(Generic[C]):
    """
    A database whose work is done on one thread, in the order it was asked for. What is
    particular to a kind of database is in the last methods.

    Args:
        name: What it is called in logs and errors.
        reactor: Where results arrive.
        make_pool: Makes the thread.
        queue_limit: Calls that may wait for the thread.
    """

    def __init__(
        self,
        name: str,
        reactor: IReactorFromThreads,
        *,
        make_pool: Callable[[], IPool] = one_thread,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self.name = name
        self._reactor = reactor
        self._make_pool = make_pool
        self._queue_limit = queue_limit
        self._pool: IPool | None = None
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<{self.__class__.__name__} {self.name}>"

    @property
    def running(self) -> bool:
        """
        Whether work is taken.
        """
        return self._pool is not None

    def start(self) -> Deferred[None]:
        """
        Open it and bring it up to date. Work may be given at once; it waits until that
        is done, and fails if that fails.

        The Deferred fails with `sqlite3.Error`, `OSError` or `DatabaseTooNew`; the
        thread is ended then.
        """
        if self._pool is not None:
            msg = f"{self.name} is open already"
            raise RuntimeError(msg)
        pool = self._pool = self._make_pool()
        pool.start()
        opened = self._in_thread(pool, self._open)

        def failed(failure: Failure) -> Failure:
            if self._pool is pool:
                self._pool = None
                pool.stop()
            return failure

        return opened.addErrback(failed)

    def run(self, work: Callable[[C], T]) -> Deferred[T]:
        """
        Call *work* with the connection, on the database's thread.

        The Deferred fails with whatever the work raises, with `DatabaseClosed`, with
        `DatabaseOverloaded`, or with `DatabaseAway`.
        """
        return self._queued(self._work, work)

    def _queued(self, function: Callable[..., T], *args: object) -> Deferred[T]:
        pool = self._pool
        if pool is None:
            return fail(DatabaseClosed(f"{self.name} is not open"))
        if self._waiting >= self._queue_limit:
            msg = f"{self._waiting} calls wait for {self.name}"
            return fail(DatabaseOverloaded(msg))
        return self._in_thread(pool, function, *args)

    def stop(self) -> Deferred[None]:
        """
        Finish what was asked for, close the database and end the thread. Harmless when
        it is not running.
        """
        pool, self._pool = self._pool, None
        if pool is None:
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        closed = self._in_thread(pool, self._close)

        def ended(result: T) -> T:
            # The thread has nothing left to do, so this does not wait.
            pool.stop()
            return result

        return closed.addBoth(ended)

    def _in_thread(
        self, pool: IPool, function: Callable[..., T], *args: object
    ) -> Deferred[T]:
        deferred: Deferred[T] = Deferred()
        self._waiting += 1

        def arrived(success: bool, result: Any) -> None:
            self._waiting -= 1
            if success:
                deferred.callback(result)
            else:
                deferred.errback(result)

        def finished(success: bool, result: Any) -> None:
            self._reactor.callFromThread(arrived, success, result)

        pool.callInThreadWithCallback(finished, function, *args)
        return deferred

    # What follows runs on the thread.

    def _open(self) -> None:
        raise NotImplementedError

    def _work(self, work: Callable[[C], T]) -> T:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class Database(Threaded[sqlite3.Connection]):
    """
    A SQLite file whose work is done on one thread, in the order it was asked for.

    The connection is in autocommit mode: each statement stands alone unless the work
    opens a transaction (`migrations.immediate`). A transaction left open by work that
    raises is rolled back.

    Args:
        path: The file.
        reactor: Where results arrive.
        busy_timeout: Seconds to wait for a lock that another process holds.
        steps: What makes this kind of database, see `nodecomm.storage.migrations`.
        options: As for `Threaded`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        reactor: IReactorFromThreads,
        *,
        busy_timeout: float = BUSY_TIMEOUT,
        steps: Sequence[Sequence[str]] = MIGRATIONS,
        **options: Any,
    ) -> None:
        super().__init__(os.fspath(path), reactor, **options)
        self.path = Path(path)
        self._steps = steps
        self._busy_timeout = busy_timeout
        self._connection: sqlite3.Connection | None = None

    def _open(self) -> None:
        self._connection = connect(self.path, self._busy_timeout, self._steps)

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            msg = f"{self.path} could not be opened"
            raise DatabaseClosed(msg)
        try:
            return work(connection)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
