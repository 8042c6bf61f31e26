# SPDX-License-Identifier: MIT
"""
How much of each trust window is used, counted for all processes together.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import implementer

from nodecomm.identity.interfaces import IWindowCounter
from nodecomm.storage.database import IRuns
from nodecomm.storage.migrations import Connection, immediate

__all__ = ["WindowCounter", "take_from_window", "window_has_room", "window_used"]


def take_from_window(
    connection: Connection, window_id: str, limit: int, token: str
) -> bool:
    """
    Take one place in a window, unless *limit* are taken.

    Taking again with the same token changes nothing and succeeds, so one key that
    connects from many processes at once, or again after a crash, has one place.
    """
    with immediate(connection):
        connection.execute(
            'INSERT INTO window_uses ("window", token) '
            "SELECT CAST(:window AS TEXT), CAST(:token AS TEXT) WHERE "
            '(SELECT count(*) FROM window_uses WHERE "window" = :window) < :limit '
            "ON CONFLICT DO NOTHING",
            {"window": window_id, "token": token, "limit": limit},
        )
        row = connection.execute(
            'SELECT 1 FROM window_uses WHERE "window" = :window AND token = :token',
            {"window": window_id, "token": token},
        ).fetchone()
    return row is not None


def window_has_room(
    connection: Connection, window_id: str, limit: int, token: str
) -> bool:
    """
    Whether `take_from_window` would succeed now.
    """
    row = connection.execute(
        'SELECT 1 FROM window_uses WHERE "window" = :window AND token = :token '
        "UNION ALL SELECT 1 WHERE "
        '(SELECT count(*) FROM window_uses WHERE "window" = :window) < :limit',
        {"window": window_id, "token": token, "limit": limit},
    ).fetchone()
    return row is not None


def window_used(connection: Connection, window_id: str) -> int:
    """
    How many places of a window are taken.
    """
    row = connection.execute(
        'SELECT count(*) FROM window_uses WHERE "window" = :window',
        {"window": window_id},
    ).fetchone()
    return int(row[0])


@implementer(IWindowCounter)
class WindowCounter:
    """
    The counters of trust windows, in the database.
    """

    def __init__(self, database: IRuns) -> None:
        self._database = database

    def take(self, window_id: str, limit: int, token: str) -> Deferred[bool]:
        """
        Take one place for *token* (who takes it), unless *limit* are taken by
        others. Fails with the database's errors; nobody is to be trusted then.
        """
        return self._database.run(
            lambda connection: take_from_window(connection, window_id, limit, token)
        )

    def has_room(self, window_id: str, limit: int, token: str) -> Deferred[bool]:
        """
        Whether `take` would succeed now.
        """
        return self._database.run(
            lambda connection: window_has_room(connection, window_id, limit, token)
        )

    def used(self, window_id: str) -> Deferred[int]:
        """
        How many places are taken.
        """
        return self._database.run(lambda connection: window_used(connection, window_id))
