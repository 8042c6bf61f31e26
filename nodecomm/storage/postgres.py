# SPDX-License-Identifier: MIT
"""
Connections to a PostgreSQL database: the tables there, and transactions.

Whatever the configuration of the database says, our statements are limited in time:
transaction by transaction, because a connection pooler may stand in between.

Passwords are in no text that this module gives to anybody.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import field, frozen

from nodecomm.storage.database import DatabaseAway
from nodecomm.storage.migrations import DatabaseTooNew
from nodecomm.storage.postgres_place import (
    DatabaseUnusable,
    PostgresPlace,
    load_driver,
)
from nodecomm.storage.postgres_texts import one_line

if TYPE_CHECKING:
    import psycopg

__all__ = [
    "Area",
    "PostgresConnection",
    "begin_statement",
    "blocking",
    "connect_postgres",
    "told_errors",
    "transact",
]

T = TypeVar("T")

#: Our tables have a schema of their own: the database may be somebody else's, too.
_SCHEMA = "nodecomm"

#: Seconds that a statement may take, that one may wait for a lock, and that a
#: transaction may stand idle while it keeps others from writing.
STATEMENT_TIMEOUT = 10
LOCK_TIMEOUT = 8
IDLE_TIMEOUT = 30

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
    driver = load_driver()
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
        with told_errors(driver):
            _check(connection, place)
            for area in areas:
                _migrate(connection, area)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def told_errors(driver: Any) -> Iterator[None]:
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
    except (
        driver.OperationalError,
        driver.InterfaceError,
        # As one that was made read-only, or has ended a transaction that stood idle.
        driver.InternalError,
    ) as error:
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


#: What is read after a lock was waited for is what others have written until then,
#: whatever the database is set to.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED; "

_BEGIN_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; "


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
    connection.execute(f"{_BEGIN}{_settings(0)} {_lock(_MIGRATIONS_LOCK)}")
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
    begin = _BEGIN_READING if snapshot else _BEGIN
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
    driver = load_driver()
    connection = connect_postgres(place, [area])

    def run(work: Callable[[PostgresConnection], Any], write: bool) -> Any:
        begin: Any = begin_statement(area, write=write, snapshot=not write)
        with told_errors(driver):
            connection.execute(begin)
            return transact(connection, area, work)

    try:
        yield run
    finally:
        connection.close()
