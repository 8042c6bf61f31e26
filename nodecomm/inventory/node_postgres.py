# SPDX-License-Identifier: MIT
"""
Nodes in a PostgreSQL database that several servers share: what is particular to
PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from nodecomm.inventory.node_tables import NodeTables
from nodecomm.inventory.records import Records
from nodecomm.storage.postgres import Area, PostgresConnection, blocking
from nodecomm.storage.postgres_database import PostgresDatabase
from nodecomm.storage.postgres_place import PostgresPlace

__all__ = ["NODES", "PostgresNodes", "open_shared_nodes"]

T = TypeVar("T")

#: The tables, with the same columns as in SQLite.
NODES = Area(
    "nodes",
    1,
    (
        (
            # Dates are ISO 8601 with a zone; an id is in lower case, node_id as it
            # came. Ids stand in the order of their bytes, as in SQLite.
            """
            CREATE TABLE nodes (
                id TEXT COLLATE "C" PRIMARY KEY,
                node_id TEXT NOT NULL,
                status TEXT NOT NULL,
                since TEXT NOT NULL,
                key_digest TEXT,
                hostname TEXT,
                record TEXT NOT NULL
            )
            """,
            "CREATE INDEX nodes_by_status ON nodes (status)",
            "CREATE INDEX nodes_by_key ON nodes (key_digest)",
            # A name may be longer than what an index takes.
            "CREATE INDEX nodes_by_hostname ON nodes USING hash (hostname)",
            """
            CREATE TABLE documents (
                id TEXT COLLATE "C" PRIMARY KEY
                    REFERENCES nodes (id) ON DELETE CASCADE,
                document BYTEA NOT NULL,
                signature BYTEA
            )
            """,
            # What is compressed already.
            "ALTER TABLE documents ALTER COLUMN document SET STORAGE EXTERNAL",
            """
            CREATE TABLE events (
                id TEXT COLLATE "C" NOT NULL
                    REFERENCES nodes (id) ON DELETE CASCADE,
                number BIGINT NOT NULL,
                happened TEXT NOT NULL,
                what TEXT NOT NULL,
                who TEXT NOT NULL,
                words TEXT NOT NULL,
                PRIMARY KEY (id, number)
            )
            """,
            "CREATE TABLE counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL)",
            "INSERT INTO counters (name, value) VALUES ('generation', 0)",
            # The generation in which what follows from a node was changed last.
            "ALTER TABLE nodes ADD COLUMN changed BIGINT NOT NULL DEFAULT 0",
            "CREATE INDEX nodes_by_change ON nodes (changed)",
            # Keys that were taken from nodes, or refused with them, each once for a
            # node. It outlives the node.
            """
            CREATE TABLE withdrawn (
                number BIGINT PRIMARY KEY,
                id TEXT COLLATE "C" NOT NULL,
                node_id TEXT NOT NULL,
                key_text TEXT NOT NULL,
                what TEXT NOT NULL,
                happened TEXT NOT NULL
            )
            """,
            "CREATE INDEX withdrawn_by_id ON withdrawn (id, number)",
            "INSERT INTO counters (name, value) VALUES ('withdrawn', 0)",
        ),
    ),
)


def _tables(connection: PostgresConnection) -> Records:
    return NodeTables(connection.execute)


@contextmanager
def open_shared_nodes(
    place: PostgresPlace,
) -> Iterator[Callable[[Callable[[Records], Any], bool], Any]]:
    """
    The database, for a program that has nothing else to do: gives a function that calls
    *work* within a transaction that can write, or only read. Blocks.

    Raises:
        DatabaseAway: It cannot be reached.
        DatabaseUnusable: It cannot be used.
        DatabaseTooNew: A newer release wrote it.
    """
    with blocking(place, NODES) as run:

        def nodes(work: Callable[[Records], Any], write: bool) -> Any:
            return run(lambda connection: work(_tables(connection)), write)

        yield nodes


class PostgresNodes:
    """
    A database of nodes whose work is done on one thread: a
    `nodecomm.inventory.registry.NodeStore`.

    Args:
        place: Where it is.
        reactor: Where results arrive.
        options: As for `nodecomm.storage.postgres_database.PostgresDatabase`.
    """

    def __init__(self, place: PostgresPlace, reactor: Any, **options: Any) -> None:
        self.database = PostgresDatabase(place, NODES, reactor, **options)

    def start(self) -> Deferred[None]:
        """
        Connect, if it can be reached. See `PostgresDatabase.start`.
        """
        return self.database.start()

    def stop(self) -> Deferred[None]:
        """
        Finish what was asked for and disconnect.
        """
        return self.database.stop()

    def run(self, work: Callable[[Records], T], *, write: bool) -> Deferred[T]:
        """
        Call *work* within one transaction, on the database's thread: one that nobody
        else writes in, or one that reads everything as it is at one moment. What it
        raises undoes what it wrote. The Deferred fails as that of
        `PostgresDatabase.run`.
        """
        run = self.database.write if write else self.database.read
        return run(lambda connection: work(_tables(connection)))
