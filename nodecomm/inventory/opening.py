# SPDX-License-Identifier: MIT
"""
The database of nodes that a configuration or a command line names: a SQLite file, or
PostgreSQL.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import field, frozen

from nodecomm.inventory.node_postgres import PostgresNodes, open_shared_nodes
from nodecomm.inventory.node_sqlite import (
    NODES_DATABASE,
    SqliteNodes,
    UnknownDatabase,
    database_path,
    open_nodes,
)
from nodecomm.inventory.records import Records
from nodecomm.inventory.registry import NodeStore
from nodecomm.storage.database import DatabaseAway, DatabaseDamaged, fault_of
from nodecomm.storage.migrations import DatabaseTooNew
from nodecomm.storage.postgres_place import DatabaseUnusable, PostgresPlace, is_postgres

__all__ = [
    "NodesAway",
    "NodesPlace",
    "NodesUnusable",
    "UnknownDatabase",
    "node_store",
    "nodes_place",
    "open_nodes_at",
]


class NodesUnusable(Exception):  # noqa: N818
    """
    The database cannot be used; the text names it and says why. It has no password.
    """


class NodesAway(NodesUnusable):
    """
    It does not answer now.
    """


@frozen
class NodesPlace:
    """
    Where nodes are kept.

    Attributes:
        path: The file of SQLite; None for PostgreSQL.
        shared: Where PostgreSQL is; None for SQLite.
    """

    path: Path | None = None
    shared: PostgresPlace | None = field(default=None)

    @property
    def is_made(self) -> bool:
        """
        Whether there may be anything in it.
        """
        return self.path is None or self.path.exists()

    def __str__(self) -> str:
        return str(self.path if self.shared is None else self.shared)


def nodes_place(
    named: str | None,
    state_dir: str | os.PathLike[str],
    password: str | None = None,
) -> NodesPlace:
    """
    Where nodes are kept.

    Args:
        named: `sqlite:///FILE` or `postgresql://...`; None: the file that is used
            where nothing is said.
        state_dir: What a file is relative to.
        password: That of PostgreSQL; None: as in
            `nodecomm.storage.postgres_place.PostgresPlace`.

    Raises:
        UnknownDatabase: It names something else.
    """
    named = named or NODES_DATABASE
    if is_postgres(named):
        return NodesPlace(shared=PostgresPlace(named, password))
    return NodesPlace(database_path(named, state_dir))


@contextmanager
def open_nodes_at(
    place: NodesPlace,
) -> Iterator[Callable[[Callable[[Records], Any], bool], Any]]:
    """
    The database, for a program that has nothing else to do: gives a function that calls
    *work* within a transaction that can write, or only read. Blocks. A file is made
    when it is missing.

    Raises:
        NodesUnusable: It cannot be opened, or something happened to it.
    """
    try:
        if place.shared is not None:
            with open_shared_nodes(place.shared) as nodes:
                yield nodes
        else:
            assert place.path is not None  # noqa: S101
            with open_nodes(place.path) as nodes:
                yield nodes
    except DatabaseDamaged as error:
        raise NodesUnusable(f"{place}: {error}") from error
    except DatabaseAway as error:
        raise NodesAway(f"{place}: {error}") from error
    except sqlite3.Error as error:
        raise NodesUnusable(f"{place}: {fault_of(error) or error}") from error
    except (DatabaseTooNew, DatabaseUnusable) as error:
        raise NodesUnusable(f"{place}: {error}") from error
    except OSError as error:
        if place.path is None or error.filename != str(place.path):
            raise
        raise NodesUnusable(f"{place}: {error.strerror or error}") from error


def node_store(place: NodesPlace, reactor: Any) -> NodeStore:
    """
    The database, for whoever lives in a reactor. It is started and stopped by its
    owner.
    """
    if place.shared is not None:
        return PostgresNodes(place.shared, reactor)
    assert place.path is not None  # noqa: S101
    return SqliteNodes(place.path, reactor)
