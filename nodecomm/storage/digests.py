# SPDX-License-Identifier: MIT
"""
Digests of files, remembered across nodes and restarts.

This is a cache: whatever is lost is computed again. An entry belongs to one state of
one file, which inode, size and both times to the nanosecond tell apart; who stores
one must have made sure that the file did not change while it was read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, succeed

from nodecomm.storage.database import IRuns
from nodecomm.storage.migrations import Connection, immediate
from nodecomm.storage.tables import Batch, trim

__all__ = ["DIGEST_LIMIT", "DigestKey", "DigestTable"]

#: Entries kept by default; those stored longest ago go first. Some 100 bytes each.
DIGEST_LIMIT = 200_000


class DigestKey(NamedTuple):
    """
    One state of one file, and the algorithm. A plain tuple of the same serves too.
    """

    algorithm: str
    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int


_Plain = tuple[str, int, int, int, int, int]


def _name(key: _Plain) -> str:
    # Text, because a device or inode number may not fit SQLite's signed 64 bits.
    return ":".join(map(str, key))


def _get(connection: Connection, name: str) -> bytes | None:
    row = connection.execute(
        "SELECT digest FROM digests WHERE name = :name", {"name": name}
    ).fetchone()
    return None if row is None else bytes(row[0])


class DigestTable:
    """
    The table of file digests.

    Args:
        database: Where it is.
        clock: Times the writing, an IReactorTime.
        limit: Entries kept.
    """

    def __init__(
        self, database: IRuns, clock: Any, *, limit: int = DIGEST_LIMIT
    ) -> None:
        self._database = database
        self._limit = limit
        self._since_trim = 0
        self._batch: Batch[str, bytes] = Batch(
            database, clock, self._write_batch, "file digests"
        )

    def get(self, key: _Plain) -> Deferred[bytes | None]:
        """
        The digest stored for this state of a file. Fails with the database's error.
        """
        name = _name(key)
        waiting = self._batch.get(name)
        if waiting is not None:
            return succeed(waiting)
        return self._database.run(lambda connection: _get(connection, name))

    def put(self, key: _Plain, digest: bytes) -> None:
        """
        Remember a digest. Returns at once; it is written within seconds.
        """
        self._batch.add(_name(key), digest)

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

    def _write_batch(self, connection: Connection, entries: dict[str, bytes]) -> None:
        with immediate(connection):
            connection.executemany(
                # Anew, so that its number grows.
                "INSERT OR REPLACE INTO digests (name, digest) VALUES (:name, :digest)",
                [{"name": name, "digest": digest} for name, digest in entries.items()],
            )
        self._since_trim += len(entries)
        if self._since_trim >= max(self._limit // 20, 1):
            self._since_trim = 0
            trim(connection, "digests", "number", self._limit)
