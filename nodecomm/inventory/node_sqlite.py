# SPDX-License-Identifier: MIT
"""
Nodes in a SQLite file: what is particular to SQLite.

The processes of one server share the file. It has nothing in common with the file of
keys that were seen (`nodecomm.storage`), and other steps make it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

from nodecomm.inventory.node_tables import NodeTables
from nodecomm.inventory.records import Records
from nodecomm.storage.database import BUSY_TIMEOUT, Database, connect, fault_of
from nodecomm.storage.migrations import immediate

__all__ = [
    "NODES_DATABASE",
    "STEPS",
    "SqliteNodes",
    "UnknownDatabase",
    "database_path",
    "open_nodes",
]

T = TypeVar("T")

#: Where nodes are unless a configuration says otherwise; relative to the state folder.
NODES_DATABASE = "sqlite:///nodes.sqlite"

_SCHEME = "sqlite:///"

#: How the tables came to be, one step after the other. A released one is never changed.
STEPS: Sequence[Sequence[str]] = (
    (
        # Dates are ISO 8601 with a zone; an id is in lower case, node_id as it came.
        """
        CREATE TABLE nodes (
            id TEXT PRIMARY KEY,
            node_id TEXT NOT NULL,
            status TEXT NOT NULL,
            since TEXT NOT NULL,
            key_digest TEXT,
            hostname TEXT,
            record TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX nodes_by_status ON nodes (status)",
        "CREATE INDEX nodes_by_key ON nodes (key_digest)",
        "CREATE INDEX nodes_by_hostname ON nodes (hostname)",
        """
        CREATE TABLE documents (
            id TEXT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
            document BLOB NOT NULL,
            signature BLOB
        )
        """,
        """
        CREATE TABLE events (
            id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
            number INTEGER NOT NULL,
            happened TEXT NOT NULL,
            what TEXT NOT NULL,
            who TEXT NOT NULL,
            words TEXT NOT NULL,
            PRIMARY KEY (id, number)
        ) WITHOUT ROWID
        """,
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
        "INSERT INTO counters (name, value) VALUES ('generation', 0)",
    ),
    (
        # The generation in which what follows from a node was changed last.
        "ALTER TABLE nodes ADD COLUMN changed INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX nodes_by_change ON nodes (changed)",
        # Keys that were taken from nodes, or refused with them, each once for a node.
        # It outlives the node.
        """
        CREATE TABLE withdrawn (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            node_id TEXT NOT NULL,
            key_text TEXT NOT NULL,
            what TEXT NOT NULL,
            happened TEXT NOT NULL
        )
        """,
        "CREATE INDEX withdrawn_by_id ON withdrawn (id, number)",
        "INSERT INTO counters (name, value) VALUES ('withdrawn', 0)",
    ),
)


class UnknownDatabase(ValueError):  # noqa: N818
    """
    This names no database that nodes can be kept in.
    """


def database_path(named: str, state_dir: str | os.PathLike[str]) -> Path:
    """
    The file that `sqlite:///FILE` names: relative to the state folder, unless it begins
    with a slash of its own (`sqlite:////var/lib/nodes.sqlite`).

    Raises:
        UnknownDatabase: It names something else.
    """
    name = named[len(_SCHEME) :]
    if not named.startswith(_SCHEME) or not name or "\0" in name:
        msg = f"{named!r} names no database of nodes; {NODES_DATABASE} would"
        raise UnknownDatabase(msg)
    return Path(state_dir) / name


@contextmanager
def _transaction(connection: sqlite3.Connection, write: bool) -> Iterator[Records]:
    """
    What is kept, as it is at one moment; nobody else writes meanwhile if *write*.
    """
    tables = NodeTables(connection.execute)
    if write:
        with immediate(connection):
            yield tables
        return
    connection.execute("BEGIN")
    try:
        yield tables
    finally:
        # After some errors SQLite has ended it by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _run(
    connection: sqlite3.Connection, work: Callable[[Records], T], write: bool
) -> T:
    with _transaction(connection, write) as records:
        return work(records)


@contextmanager
def open_nodes(
    path: str | os.PathLike[str], busy_timeout: float = BUSY_TIMEOUT
) -> Iterator[Callable[[Callable[[Records], Any], bool], Any]]:
    """
    The file, for a program that has nothing else to do: gives a function that calls
    *work* within a transaction that can write, or only read. Blocks.

    Args:
        path: The file; it is made when it is missing.
        busy_timeout: Seconds to wait for a lock that another process holds.

    Raises:
        sqlite3.Error: It cannot be opened, or is no database.
        OSError: The file cannot be made.
        DatabaseTooNew: A newer release wrote it.
    """
    connection = connect(path, busy_timeout, STEPS)
    try:
        yield lambda work, write: _run(connection, work, write)
    finally:
        connection.close()


class SqliteNodes:
    """
    A file of nodes whose work is done on one thread: a
    `nodecomm.inventory.registry.NodeStore`.

    Args:
        path: The file.
        reactor: Where results arrive.
        options: As for `nodecomm.storage.database.Database`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        reactor: IReactorFromThreads,
        **options: Any,
    ) -> None:
        self.database = Database(path, reactor, steps=STEPS, **options)

    def start(self) -> Deferred[None]:
        """
        Open the file and bring it up to date. See `Database.start`.
        """
        return self.database.start()

    def stop(self) -> Deferred[None]:
        """
        Finish what was asked for and close the file.
        """
        return self.database.stop()

    def run(self, work: Callable[[Records], T], *, write: bool) -> Deferred[T]:
        """
        Call *work* within one transaction, on the file's thread. What it raises undoes
        what it wrote. The Deferred fails as that of `Database.run`; with `DatabaseAway`
        when the disk is full, or the file locked for long or damaged.
        """

        def answered(connection: sqlite3.Connection) -> T:
            try:
                return _run(connection, work, write)
            except sqlite3.Error as error:
                fault = fault_of(error)
                if fault is None:
                    raise
                fault.args = (f"{self.database.path}: {fault}",)
                raise fault from error

        return self.database.run(answered)
