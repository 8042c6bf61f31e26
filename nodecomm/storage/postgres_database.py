# SPDX-License-Identifier: MIT
"""
A PostgreSQL database that several servers share, with the interface of a SQLite file.

Work runs on one thread with one connection, within a transaction. A connection that is
lost is made anew when there is work again; what cannot be reached fails at once for a
while, so that nobody waits long for it. A connection that hangs is cut off.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from nodecomm.storage.database import DatabaseAway, Threaded
from nodecomm.storage.migrations import DatabaseTooNew
from nodecomm.storage.postgres import (
    Area,
    PostgresConnection,
    begin_statement,
    connect_postgres,
    told_errors,
    transact,
)
from nodecomm.storage.postgres_place import (
    HANGS_AFTER,
    DatabaseUnusable,
    PostgresPlace,
    load_driver,
)

if TYPE_CHECKING:
    import psycopg

__all__ = ["FIRST_PAUSE", "HANGS_AT_STOP", "LONGEST_PAUSE", "PostgresDatabase"]

T = TypeVar("T")

#: Seconds without an answer after which a connection is cut off when all is stopped.
HANGS_AT_STOP = 3.0

#: Seconds between two looks for one that hangs.
_LOOK_EVERY = 1.0

#: Seconds before a database that could not be reached is tried again: at first, and at
#: the most. Each pause is twice the one before.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 4.0


class PostgresDatabase(Threaded[PostgresConnection]):
    """
    Some tables of a PostgreSQL database, whose work is done on one thread, in the order
    it was asked for.

    Args:
        place: Where it is.
        area: Which tables.
        reactor: Where results arrive; it cuts off a connection that hangs.
        hangs_after: Seconds without an answer after which it is cut off.
        monotonic: Seconds of a clock that nobody sets.
        options: As for `Threaded`.
    """

    def __init__(
        self,
        place: PostgresPlace,
        area: Area,
        reactor: Any,
        *,
        hangs_after: float = HANGS_AFTER,
        monotonic: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        super().__init__(str(place), reactor, **options)
        self._place = place
        self._area = area
        self._hangs_after = hangs_after
        self._monotonic = monotonic
        self._connection: psycopg.Connection[Any] | None = None
        self._pause = FIRST_PAUSE
        self._not_before: float | None = None
        self._away = ""
        self._timer: IDelayedCall | None = None
        #: Guards the connection's descriptor, which must not be closed while it is cut.
        self._guard = threading.Lock()
        self._busy: float | None = None

    # On the reactor's thread.

    def read(self, work: Callable[[PostgresConnection], T]) -> Deferred[T]:
        """
        As `run`; all that it reads is of one moment, and it writes nothing.
        """
        return self._queued(self._transact, work, {"snapshot": True})

    def write(self, work: Callable[[PostgresConnection], T]) -> Deferred[T]:
        """
        As `run`; nobody else writes to these tables meanwhile.
        """
        return self._queued(self._transact, work, {"write": True})

    def stop(self) -> Deferred[None]:
        """
        As `Threaded.stop`; one that hangs is not waited for as long as before.
        """
        self._hangs_after = min(self._hangs_after, HANGS_AT_STOP)
        return super().stop()

    def _in_thread(
        self, pool: Any, function: Callable[..., T], *args: object
    ) -> Deferred[T]:
        done = super()._in_thread(pool, function, *args)
        if self._timer is None and self._waiting:
            self._timer = self._reactor.callLater(  # type: ignore[attr-defined]
                _LOOK_EVERY, self._look
            )
        return done.addBoth(self._arrived)

    def _arrived(self, result: T) -> T:
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return result

    def _look(self) -> None:
        self._timer = self._reactor.callLater(  # type: ignore[attr-defined]
            _LOOK_EVERY, self._look
        )
        busy = self._busy
        if busy is not None and self._monotonic() - busy > self._hangs_after:
            self._cut()

    def _cut(self) -> None:
        """
        End a connection whose thread waits for it: it hears of it at once.
        """
        with self._guard:
            connection = self._connection
            if connection is None or connection.closed:
                return
            with (
                contextlib.suppress(OSError),
                socket.socket(fileno=os.dup(connection.fileno())) as own,
            ):
                own.shutdown(socket.SHUT_RDWR)

    # What follows runs on the thread.

    def _open(self) -> None:
        with contextlib.suppress(DatabaseAway):
            # It is tried again when there is work.
            self._connected()

    def _connected(self) -> psycopg.Connection[Any]:
        now = self._monotonic()
        if self._not_before is not None and now < self._not_before:
            raise DatabaseAway(self._away)
        try:
            return self._connect()
        except (DatabaseAway, DatabaseUnusable, DatabaseTooNew) as error:
            self._away = str(error)
            self._not_before = self._monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            raise

    def _connect(self) -> psycopg.Connection[Any]:
        def opened(connection: psycopg.Connection[Any]) -> None:
            # From here on it can be cut off.
            self._connection = connection
            self._busy = self._monotonic()

        try:
            connection = connect_postgres(self._place, [self._area], opened)
        except BaseException:
            self._drop()
            raise
        finally:
            self._busy = None
        self._not_before, self._pause = None, FIRST_PAUSE
        return connection

    def _work(self, work: Callable[[PostgresConnection], T]) -> T:
        return self._transact(work, {})

    def _transact(
        self, work: Callable[[PostgresConnection], T], how: dict[str, bool]
    ) -> T:
        driver = load_driver()
        begin = begin_statement(self._area, **how)
        self._busy = self._monotonic()
        try:
            with told_errors(driver):
                connection = self._begun(driver, begin)
                return transact(connection, self._area, work)
        finally:
            self._busy = None
            if self._connection is not None and self._connection.closed:
                self._drop()

    def _begun(self, driver: Any, begin: Any) -> psycopg.Connection[Any]:
        """
        A connection on which a transaction has begun. One that was lost since it was
        used last is made anew: nothing has happened on it yet.
        """
        if self._connection is not None:
            try:
                self._connection.execute(begin)
            except driver.Error:
                if not self._connection.closed:
                    # A lock that could not be had in time, for instance.
                    self._undo()
                    raise
                self._drop()
            else:
                return self._connection
        connection = self._connected()
        self._busy = self._monotonic()
        try:
            connection.execute(begin)
        except BaseException:
            self._undo()
            raise
        return connection

    def _undo(self) -> None:
        if self._connection is not None and not self._connection.closed:
            with contextlib.suppress(Exception):
                self._connection.execute("ROLLBACK")

    def _drop(self) -> None:
        with self._guard:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _close(self) -> None:
        self._drop()
