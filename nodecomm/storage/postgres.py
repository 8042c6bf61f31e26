# SPDX-License-Identifier: MIT
"""
A PostgreSQL database that several servers share, with the interface of a SQLite file.

Work runs on one thread with one connection, within a transaction. A connection that is
lost is made anew when there is work again; what cannot be reached fails at once for a
while, so that nobody waits long for it. A connection that hangs is cut off. Whatever
the configuration of the database says, our statements are limited in time: transaction
by transaction, because a connection pooler may stand in between.

Passwords are in no text that this module gives to anybody.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from nodecomm.storage.database import DatabaseAway, Threaded
from nodecomm.storage.migrations import DatabaseTooNew
from nodecomm.storage.postgres_texts import meant_parameter, one_line

if TYPE_CHECKING:
    import psycopg

__all__ = [
    "Area",
    "DatabaseUnusable",
    "PostgresConnection",
    "PostgresDatabase",
    "PostgresPlace",
    "blocking",
    "connect_postgres",
    "is_postgres",
]

T = TypeVar("T")

_SCHEMES = ("postgresql://", "postgres://")

#: Our tables have a schema of their own: the database may be somebody else's, too.
_SCHEMA = "nodecomm"

#: Seconds to wait for a connection to one machine.
CONNECT_TIMEOUT = 5

#: Seconds that a statement may take, that one may wait for a lock, and that a
#: transaction may stand idle while it keeps others from writing.
STATEMENT_TIMEOUT = 10
LOCK_TIMEOUT = 8
IDLE_TIMEOUT = 30

#: Seconds without an answer after which a connection is cut off.
HANGS_AFTER = 15.0
HANGS_AT_STOP = 3.0

#: Seconds between two looks for one that hangs.
_LOOK_EVERY = 1.0

#: Seconds before a database that could not be reached is tried again: at first, and at
#: the most. Each pause is twice the one before.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 4.0

#: What a failed connection says where trying again is of no use.
#: Source: PostgreSQL 15, its messages and those of its client library.
_FINAL = re.compile(
    r"password authentication failed|no password supplied|authentication failed|"
    r"no pg_hba\.conf entry|pg_hba\.conf rejects|does not exist|"
    r"permission denied for database|is not currently accepting connections|"
    r"is not permitted to log in|certificate verify failed|"
    r"root certificate file .* does not exist|server does not support SSL"
)

#: Numbers of advisory locks: ours, and the area of it.
#: The first is the word "node".
_LOCKS = 0x6E6F6465

_MIGRATIONS_LOCK = 0

_PARAMETER = re.compile(r"(?<!:):([a-z_][a-z0-9_]*)")


class DatabaseUnusable(Exception):  # noqa: N818
    """
    The database cannot be used, and waiting does not help.
    """


@frozen
class Area:
    """
    Some of the tables: those that are made and migrated together, and that one
    transaction at a time writes to.

    Attributes:
        name: What it is called in the database.
        number: That of its lock, from 1.
        steps: What makes the tables: the statements of each step, one after the other.
            A released one is never changed.
    """

    name: str
    number: int
    steps: Sequence[Sequence[str]] = field(repr=False)


def is_postgres(named: str) -> bool:
    """
    Whether a configuration means PostgreSQL.
    """
    return named.startswith(_SCHEMES)


@frozen
class PostgresPlace:
    """
    Where a database is.

    Attributes:
        url: As libpq takes it; it may have a password in it.
        password: The password; None: the one in the URL, in the environment
            (`PGPASSWORD`) or in the file `.pgpass`, or none.
    """

    url: str = field(repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def parameters(self) -> dict[str, Any]:
        """
        The parameters of a connection.

        Raises:
            DatabaseUnusable: The URL is none, or the driver is not installed.
        """
        driver = _driver()
        try:
            found = driver.conninfo.conninfo_to_dict(self.url)
        except driver.Error as error:
            # Its text repeats what it could not read, which may be a password.
            raise DatabaseUnusable(
                "the URL of the database cannot be read; it is postgresql://USER@HOST/"
                "DATABASE, with other characters than letters and digits as %XX"
                + meant_parameter(str(error))
            ) from None
        port = str(found.get("port") or "")
        if not re.fullmatch("[0-9,]*", port):
            # Text in its place may be a password, too, of a user that is missing.
            raise DatabaseUnusable("the port of the database is no number")
        if self.password is not None:
            found["password"] = self.password
        return {
            # Of several hosts, the one that can be written to.
            "target_session_attrs": "read-write",
            "connect_timeout": CONNECT_TIMEOUT,
            "tcp_user_timeout": int(HANGS_AFTER * 1000),
            "keepalives_idle": 30,
            "application_name": "nodecomm",
            **found,
        }

    def check(self) -> None:
        """
        Look whether this can be tried at all.

        Raises:
            DatabaseUnusable: The URL is none, or the driver is not installed.
        """
        _ = self.parameters

    def __str__(self) -> str:
        try:
            found = self.parameters
        except DatabaseUnusable:
            return "postgresql://"
        host = found.get("host") or found.get("hostaddr") or ""
        port = f":{found['port']}" if found.get("port") else ""
        name = found.get("dbname") or ""
        if str(host).startswith("/"):
            # The folder of a socket.
            return f"postgresql://{port}/{name}?host={host}"
        return f"postgresql://{host}{port}/{name}"


def _driver() -> Any:
    try:
        import psycopg  # noqa: PLC0415
    except ImportError as error:
        raise DatabaseUnusable(
            "PostgreSQL needs psycopg, which is not installed or has no libpq "
            f"({error}): pip install 'nodecomm[postgresql]'"
        ) from error
    return psycopg


def connect_postgres(
    place: PostgresPlace,
    areas: Sequence[Area],
    opened: Callable[[psycopg.Connection[Any]], object] = lambda connection: None,
) -> psycopg.Connection[Any]:
    """
    Open a database, and bring some of its tables up to date. Blocks.

    Args:
        place: Where it is.
        areas: Which tables.
        opened: Called with the connection before it is used.

    Raises:
        DatabaseAway: It cannot be reached now.
        DatabaseUnusable: It cannot be used.
        DatabaseTooNew: A newer release wrote it.
    """
    driver = _driver()
    parameters = place.parameters
    try:
        # Every transaction is begun by us. Prepared statements do not go through a
        # connection pooler.
        connection: psycopg.Connection[Any] = driver.connect(
            "", autocommit=True, prepare_threshold=None, **parameters
        )
    except driver.OperationalError as error:
        text = one_line(str(error))
        if _FINAL.search(text):
            raise DatabaseUnusable(text) from None
        raise DatabaseAway(text) from None
    except (driver.Error, ValueError) as error:
        # A parameter of the URL that libpq does not know, or cannot take.
        raise DatabaseUnusable(one_line(str(error))) from None
    opened(connection)
    try:
        with _errors(driver):
            _check(connection, place)
            for area in areas:
                _migrate(connection, area)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _errors(driver: Any) -> Iterator[None]:
    """
    Tell errors that pass from others.
    """
    try:
        yield
    except driver.errors.InsufficientPrivilege as error:
        raise DatabaseUnusable(
            f"{one_line(str(error))}; the user must be able to make a schema and "
            "tables: make the database with `createdb --owner USER`, or GRANT CREATE "
            "on it"
        ) from error
    except (driver.OperationalError, driver.InterfaceError) as error:
        raise DatabaseAway(one_line(str(error)) or error.__class__.__name__) from error


def _check(connection: psycopg.Connection[Any], place: PostgresPlace) -> None:
    info = connection.info
    encoding = info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise DatabaseUnusable(
            f"the database {place} has the encoding {encoding}, which cannot hold what "
            "nodes are called: make one with `createdb --encoding UTF8 --template "
            "template0`"
        )
    if info.server_version < 100000:
        raise DatabaseUnusable(
            f"PostgreSQL {info.server_version // 10000} is too old, 10 is the oldest"
        )
    connection.execute("SET client_encoding TO 'UTF8'")


def _settings(timeout: int) -> str:
    return (
        f"SET LOCAL search_path TO {_SCHEMA}; "
        f"SET LOCAL lock_timeout TO '{LOCK_TIMEOUT}s'; "
        f"SET LOCAL statement_timeout TO '{timeout}s'; "
        f"SET LOCAL idle_in_transaction_session_timeout TO '{IDLE_TIMEOUT}s'; "
        "SET LOCAL synchronous_commit TO on; "
    )


def _lock(number: int) -> str:
    return f"SELECT pg_advisory_xact_lock({_LOCKS}, {number})"


def _migrate(connection: psycopg.Connection[Any], area: Area) -> None:
    """
    Make or change the tables, whole or not at all. Of several servers that try at once
    one does it and the others find it done.
    """
    # Read from a table: what looks up a name may remember that there was none.
    made = (
        "SELECT 1 FROM pg_catalog.pg_tables "  # noqa: S608
        f"WHERE schemaname = '{_SCHEMA}' AND tablename = 'steps'"
    )
    there = connection.execute(made).fetchone()
    if there and _steps_done(connection, area) == len(area.steps):
        return
    # What it takes, it takes: tables may be large.
    connection.execute(f"BEGIN; {_settings(0)} {_lock(_MIGRATIONS_LOCK)}")
    try:
        # Whoever writes with an older release, or reads, is waited for.
        connection.execute(_lock(area.number))
        if not connection.execute(made).fetchone():
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
            connection.execute(
                "CREATE TABLE steps (area TEXT PRIMARY KEY, done INTEGER NOT NULL)"
            )
        done = _steps_done(connection, area)
        if done > len(area.steps):
            raise DatabaseTooNew(done, len(area.steps))
        for statements in area.steps[done:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(
            "INSERT INTO steps (area, done) VALUES (%s, %s) "
            "ON CONFLICT (area) DO UPDATE SET done = excluded.done",
            (area.name, len(area.steps)),
        )
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(Exception):
            connection.execute("ROLLBACK")
        raise


def _steps_done(connection: psycopg.Connection[Any], area: Area) -> int:
    row = connection.execute(
        f"SELECT done FROM {_SCHEMA}.steps WHERE area = %s",  # noqa: S608
        (area.name,),
    ).fetchone()
    return 0 if row is None else int(row[0])


@lru_cache(maxsize=256)
def _translated(statement: str) -> str:
    """
    A statement whose parameters are written as SQLite does, as the driver has them.
    """
    return _PARAMETER.sub(r"%(\1)s", statement.replace("%", "%%"))


class PostgresConnection:
    """
    A connection within a transaction, as `nodecomm.storage.migrations.Connection`.
    """

    def __init__(self, connection: psycopg.Connection[Any], area: Area) -> None:
        self._connection = connection
        self._area = area

    def execute(
        self, statement: str, parameters: Mapping[str, Any] | None = None, /
    ) -> psycopg.Cursor[Any]:
        query: Any = _translated(statement)
        return self._connection.execute(query, parameters or {})

    def executemany(
        self, statement: str, parameters: Iterable[Mapping[str, Any]], /
    ) -> None:
        query: Any = _translated(statement)
        # In one order, so that two servers that write the same do not wait for each
        # other.
        rows = sorted(parameters, key=lambda row: [str(x) for x in row.values()])
        with self._connection.cursor() as cursor:
            cursor.executemany(query, rows)

    def lock(self) -> None:
        """
        Keep all others from writing in this area until the transaction ends.
        """
        self._connection.execute(_lock(self._area.number))


_BEGIN_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; "


def transact(
    connection: psycopg.Connection[Any],
    area: Area,
    work: Callable[[PostgresConnection], T],
) -> T:
    """
    Call *work* within a transaction that has begun, and end it. What it raises undoes
    what it wrote. Blocks.
    """
    try:
        result = work(PostgresConnection(connection, area))
    except BaseException:
        # A connection that is lost undoes it, too.
        with contextlib.suppress(Exception):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return result


def begin_statement(area: Area, *, write: bool = False, snapshot: bool = False) -> str:
    """
    What begins a transaction, in one question and answer.

    Args:
        area: Which tables.
        write: Whether nobody else writes to them meanwhile.
        snapshot: Whether it only reads, and all of one moment.
    """
    begin = _BEGIN_READING if snapshot else "BEGIN; "
    statement = begin + _settings(STATEMENT_TIMEOUT)
    return statement + (_lock(area.number) if write else "")


@contextmanager
def blocking(
    place: PostgresPlace, area: Area
) -> Iterator[Callable[[Callable[[PostgresConnection], Any], bool], Any]]:
    """
    Some tables, for a program that has nothing else to do: gives a function that calls
    its argument within a transaction that can write, or only read. Blocks.

    Raises:
        DatabaseAway: It cannot be reached.
        DatabaseUnusable: It cannot be used.
        DatabaseTooNew: A newer release wrote it.
    """
    driver = _driver()
    connection = connect_postgres(place, [area])

    def run(work: Callable[[PostgresConnection], Any], write: bool) -> Any:
        begin: Any = begin_statement(area, write=write, snapshot=not write)
        with _errors(driver):
            connection.execute(begin)
            return transact(connection, area, work)

    try:
        yield run
    finally:
        connection.close()


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
        driver = _driver()
        begin = begin_statement(self._area, **how)
        self._busy = self._monotonic()
        try:
            with _errors(driver):
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
            except (driver.OperationalError, driver.InterfaceError):
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
