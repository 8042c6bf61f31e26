# SPDX-License-Identifier: MIT
"""
Trust windows and keys that were seen, kept where several servers share their nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from nodecomm.inventory.halves import HALVES
from nodecomm.service.inventory_checks import place_of_nodes
from nodecomm.service.own_state import StartError
from nodecomm.storage.database import DatabaseAway
from nodecomm.storage.migrations import DatabaseTooNew
from nodecomm.storage.postgres import connect_postgres
from nodecomm.storage.postgres_database import PostgresDatabase
from nodecomm.storage.postgres_place import DatabaseUnusable
from nodecomm.storage.shared_keys import KEYS

if TYPE_CHECKING:
    from nodecomm.config.model import Settings

__all__ = ["open_shared_keys"]

_log = Logger()


def open_shared_keys(
    settings: Settings, folder: str, reactor: Any
) -> PostgresDatabase | None:
    """
    The database that several servers share, not started yet; None where a server has
    its own. Blocks.

    Args:
        settings: The configuration.
        folder: The state folder.
        reactor: Where results arrive.

    Raises:
        StartError: It cannot be used.
    """
    if settings.inventory is None:
        return None
    place = place_of_nodes(settings.inventory, folder).shared
    if place is None:
        return None
    try:
        # All that will be used, so that what is wrong is told at start.
        connect_postgres(place, [KEYS, HALVES]).close()
    except DatabaseAway as error:
        # It may come. Until then nobody is trusted on first use.
        _log.error(
            "the database of trust windows does not answer, it is tried again: "
            "{reason}",
            event="database.away-at-start",
            reason=f"{place}: {error}",
        )
    except (DatabaseUnusable, DatabaseTooNew) as error:
        raise StartError(f"{place}: {error}") from error
    return PostgresDatabase(place, KEYS, reactor)
