# SPDX-License-Identifier: MIT
"""
What the tables that are written in batches have in common.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nodecomm.storage.database import IRuns
from nodecomm.storage.migrations import Connection

__all__ = ["BATCH_SIZE", "FLUSH_SECONDS", "PENDING_LIMIT", "Batch", "trim"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

#: Seconds that an entry waits for others to be written with.
FLUSH_SECONDS = 2.0

#: Entries that are written without waiting any longer.
BATCH_SIZE = 500

#: Entries held while the database does not take them. The oldest go first.
PENDING_LIMIT = 20_000


def trim(connection: Connection, table: str, order: str, limit: int) -> int:
    """
    Remove the entries of *table* that come first in *order*, as many as there are
    beyond *limit* (at least 1), and return how many went. Those that stand alike at
    the limit stay. Both names are this package's own.
    """
    count = int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
    if count <= limit:
        return 0
    (edge,) = connection.execute(
        f"SELECT {order} FROM {table} ORDER BY {order} DESC LIMIT 1 OFFSET :before",  # noqa: S608
        {"before": limit - 1},
    ).fetchone()
    cursor = connection.execute(
        f"DELETE FROM {table} WHERE {order} < :edge",  # noqa: S608
        {"edge": edge},
    )
    return int(cursor.rowcount)


class Batch(Generic[K, V]):
    """
    Entries on their way into the database: collected, written together, bounded.

    Args:
        database: Where they go.
        clock: Times the writing, an IReactorTime.
        write: Writes a batch; runs on the database's thread.
        name: What the log calls them.
        limit: Entries held at most.
    """

    _log = Logger()

    def __init__(
        self,
        database: IRuns,
        clock: Any,
        write: Callable[[Connection, dict[K, V]], None],
        name: str,
        *,
        limit: int = PENDING_LIMIT,
    ) -> None:
        self._database = database
        self._clock = clock
        self._write = write
        self._name = name
        self._limit = limit
        self._timer: IDelayedCall | None = None
        self._writing: dict[K, V] = {}
        self._written: Deferred[None] | None = None
        self._failing = False
        #: Whether it was told that nothing can be written: once, until that is over.
        self._told = False
        self._stopped = False
        self.pending: dict[K, V] = {}
        self.dropped = 0

    def get(self, key: K) -> V | None:
        """
        What is on its way for *key*, if anything.
        """
        value = self.pending.get(key)
        return value if value is not None else self._writing.get(key)

    def waiting(self) -> dict[K, V]:
        """
        Everything on its way.
        """
        return {**self._writing, **self.pending}

    def add(self, key: K, value: V) -> None:
        """
        Write this soon. A later value for the same key replaces an earlier one.
        """
        # Taken out first, so that the order is that of the last use.
        self.pending.pop(key, None)
        self.pending[key] = value
        self._bound()
        full = len(self.pending) >= BATCH_SIZE
        if full and self._written is None and not self._failing:
            self._flush_and_log()
        self._schedule()

    def flush(self) -> Deferred[None]:
        """
        Write all that waits now. Fails with the database's error; what could not be
        written waits for the next time.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._written is not None:
            # One batch is on its way; the rest follows it.
            after: Deferred[None] = Deferred()
            self._written.addBoth(lambda _: self.flush().chainDeferred(after))
            return after
        if not self.pending:
            return succeed(None)
        batch = self._writing = self.pending
        self.pending = {}
        signal: Deferred[None] = Deferred()
        self._written = signal
        done = self._database.run(lambda connection: self._write(connection, batch))

        def finished(result: Any) -> Any:
            self._writing = {}
            self._written = None
            self._failing = isinstance(result, Failure)
            self._told = self._told and self._failing
            if self._failing:
                # What came meanwhile is newer.
                self.pending = {**batch, **self.pending}
                self._bound()
                self._schedule()
            signal.callback(None)
            return result

        return done.addBoth(finished)

    def stop(self) -> Deferred[None]:
        """
        As `flush`, and do not try again.
        """
        self._stopped = True

        def end(result: T) -> T:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return result

        return self.flush().addBoth(end)

    def _bound(self) -> None:
        while len(self.pending) > self._limit:
            del self.pending[next(iter(self.pending))]
            self.dropped += 1

    def _schedule(self) -> None:
        if self._timer is None and self.pending and not self._stopped:
            self._timer = self._clock.callLater(FLUSH_SECONDS, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._flush_and_log()

    def _flush_and_log(self) -> None:
        def failed(failure: Failure) -> None:
            if self._told:
                return
            self._told = True
            self._log.error(
                "{entries} could not be written to {database}, {held} wait, "
                "{dropped} are lost: {error}",
                event="database.behind",
                entries=self._name,
                database=self._database.name,
                held=len(self.pending),
                dropped=self.dropped,
                error=failure.getErrorMessage(),
            )

        self.flush().addErrback(failed)
