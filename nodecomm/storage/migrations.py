# SPDX-License-Identifier: MIT
"""
How the database came to look as it does, one numbered step after the other.

A step that has been released is never changed; a correction is a further step. The
number of the last step done stands in the database itself (`PRAGMA user_version`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

__all__ = [
    "MIGRATIONS",
    "Connection",
    "Cursor",
    "DatabaseTooNew",
    "ILocks",
    "immediate",
    "migrate",
    "version",
]

#: The statements of each step; step 1 comes first.
MIGRATIONS: Sequence[Sequence[str]] = (
    (
        # Who was seen. Times are seconds since 1970, UTC.
        """
        CREATE TABLE seen (
            digest TEXT NOT NULL,
            address TEXT NOT NULL,
            direction TEXT NOT NULL CHECK (direction IN ('incoming', 'outgoing')),
            last REAL NOT NULL,
            PRIMARY KEY (digest, address, direction)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX seen_by_address ON seen (address, direction, last)",
        "CREATE INDEX seen_by_time ON seen (last)",
        # Who was trusted through which window: as many rows as were taken from it.
        """
        CREATE TABLE window_uses (
            window TEXT NOT NULL,
            token TEXT NOT NULL,
            PRIMARY KEY (window, token)
        ) WITHOUT ROWID
        """,
        # The names hold all that tells one state of a file from another.
        """
        CREATE TABLE digests (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            digest BLOB NOT NULL
        )
        """,
    ),
)


class Cursor(Protocol):
    """
    What a statement has found.
    """

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """
    What a table needs of a connection, whatever the database: statements that SQLite
    and PostgreSQL understand alike, with parameters by name (`:name`).
    """

    def execute(
        self, statement: str, parameters: Mapping[str, Any] = ..., /
    ) -> Cursor: ...

    def executemany(
        self, statement: str, parameters: Iterable[Mapping[str, Any]], /
    ) -> object: ...


class ILocks(Connection, Protocol):
    """
    A connection that is within a transaction already, and can keep others from writing
    until that ends.
    """

    def lock(self) -> None: ...


class DatabaseTooNew(Exception):  # noqa: N818
    """
    The database was written by a newer release; run that one, or use another database.

    Attributes:
        found: The number of the last step done in it.
        known: The number of the last step known here.
    """

    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"the database is of version {found}, this release knows up to {known}: "
            "run the newer release, or use another database"
        )
        self.found = found
        self.known = known


@contextmanager
def immediate(connection: Connection) -> Iterator[None]:
    """
    A transaction that holds the write lock from its beginning, so that what it
    reads is still true when it writes. Rolled back when the body raises, or when what
    it wrote cannot be committed.
    """
    if not isinstance(connection, sqlite3.Connection):
        # Work with another database is within a transaction anyway.
        cast(ILocks, connection).lock()
        yield
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def version(connection: sqlite3.Connection) -> int:
    """
    The number of the last step done in this database.
    """
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(
    connection: sqlite3.Connection,
    steps: Sequence[Sequence[str]] = MIGRATIONS,
    keep: Callable[[int], None] | None = None,
) -> int:
    """
    Do the steps that are missing and return how many there were. Two processes may
    try at once: one does them, the other finds them done.

    Args:
        connection: The database.
        steps: All that there are.
        keep: Called with the number of the last step done, before a database that has
            something in it is changed; nobody writes to it meanwhile.

    Raises:
        DatabaseTooNew: A newer release wrote it.
    """
    if version(connection) == len(steps):
        return 0
    with immediate(connection):
        found = version(connection)
        if found > len(steps):
            raise DatabaseTooNew(found, len(steps))
        if keep is not None and 0 < found < len(steps):
            keep(found)
        for statements in steps[found:]:
            for statement in statements:
                connection.execute(statement)
        # A PRAGMA takes no parameters; this is a number of ours.
        connection.execute(f"PRAGMA user_version = {len(steps):d}")
    return len(steps) - found
