# SPDX-License-Identifier: MIT
"""
Who was seen where, when last: written after trust, in batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import implementer

from nodecomm.identity.interfaces import ISeen
from nodecomm.storage.database import IRuns
from nodecomm.storage.migrations import Connection, immediate
from nodecomm.storage.tables import Batch, trim

__all__ = ["SEEN_LIMIT", "Direction", "SeenEntry", "SeenTable", "read_seen"]

#: `incoming`: the key connected to us from that address; `outgoing`: we to it.
Direction = Literal["incoming", "outgoing"]

#: Entries kept; the longest unseen go first. Some 100 bytes each.
SEEN_LIMIT = 500_000

_Key = tuple[str, str, str]


@frozen
class SeenEntry:
    """
    One key at one address.

    Attributes:
        digest: The key's printed MD5 digest.
        address: The address, in its shortest form.
        direction: Who connected to whom.
        last: When it was last seen, in seconds since 1970.
    """

    digest: str
    address: str
    direction: Direction
    last: float


def read_seen(connection: Connection) -> list[SeenEntry]:
    """
    All entries, the last seen first. Blocks.
    """
    rows = connection.execute(
        "SELECT digest, address, direction, last FROM seen "
        "ORDER BY last DESC, digest, address, direction"
    )
    return [SeenEntry(*row) for row in rows]


def _digests_at(connection: Connection, address: str) -> list[str]:
    rows = connection.execute(
        "SELECT digest FROM seen WHERE address = :address "
        "AND direction = 'incoming' ORDER BY last DESC LIMIT 16",
        {"address": address},
    )
    return [digest for (digest,) in rows]


def _write(connection: Connection, entries: dict[_Key, float]) -> None:
    with immediate(connection):
        connection.executemany(
            "INSERT INTO seen (digest, address, direction, last) "
            "VALUES (:digest, :address, :direction, :last) "
            "ON CONFLICT (digest, address, direction) DO UPDATE SET last = CASE WHEN "
            "excluded.last > seen.last THEN excluded.last ELSE seen.last END",
            [
                {
                    "digest": digest,
                    "address": address,
                    "direction": direction,
                    "last": last,
                }
                for (digest, address, direction), last in entries.items()
            ],
        )


@implementer(ISeen)
class SeenTable:
    """
    The table of keys and addresses.

    Args:
        database: Where it is.
        clock: Times the writing, an IReactorTime.
        now: Civil time, in seconds since 1970.
        limit: Entries kept.
    """

    def __init__(
        self,
        database: IRuns,
        clock: Any,
        now: Callable[[], float] = time.time,
        *,
        limit: int = SEEN_LIMIT,
    ) -> None:
        self._database = database
        self._now = now
        self._limit = limit
        self._since_trim = 0
        self._batch: Batch[_Key, float] = Batch(
            database, clock, self._write_batch, "sightings"
        )

    def record(
        self,
        digest: str,
        address: str,
        direction: Direction,
        when: float | None = None,
    ) -> None:
        """
        Note that a trusted key was seen. Returns at once; it is written within
        seconds. Call it only after the key is trusted.
        """
        self._batch.add(
            (digest, address, direction), self._now() if when is None else when
        )

    def flush(self) -> Deferred[None]:
        """
        Write what waits. Fails with the database's error; it then goes on waiting.
        """
        return self._batch.flush()

    def stop(self) -> Deferred[None]:
        """
        As `flush`, and do not try again. Comes before `Database.stop`.
        """
        return self._batch.stop()

    def entries(self) -> Deferred[list[SeenEntry]]:
        """
        All entries, what waits to be written included, the last seen first.
        """
        flushed = self.flush()
        return flushed.addCallback(lambda _: self._database.run(read_seen))

    def digests_at(self, address: str) -> Deferred[list[str]]:
        """
        The digests of the keys that connected from an address, the last one first,
        at most 16.
        """

        def merged(stored: list[str]) -> list[str]:
            waiting = [
                (last, digest)
                for (digest, at, direction), last in self._batch.waiting().items()
                if at == address and direction == "incoming"
            ]
            fresh = [digest for _, digest in sorted(waiting, reverse=True)]
            return [*fresh, *(digest for digest in stored if digest not in fresh)]

        found = self._database.run(lambda connection: _digests_at(connection, address))
        return found.addCallback(merged)

    def _write_batch(self, connection: Connection, entries: dict[_Key, float]) -> None:
        _write(connection, entries)
        self._since_trim += len(entries)
        slack = max(self._limit // 20, 1)
        if self._since_trim >= slack:
            self._since_trim = 0
            trim(connection, "seen", "last", self._limit)
