# SPDX-License-Identifier: MIT
"""
Trust windows and keys that were seen, in a database that servers share.
"""

from __future__ import annotations

import threading

import pytest
from twisted.internet.defer import Deferred

from nodecomm.storage.postgres import blocking
from nodecomm.storage.postgres_database import PostgresDatabase
from nodecomm.storage.seen import SeenEntry, SeenTable, read_seen
from nodecomm.storage.shared_keys import KEYS
from nodecomm.storage.windows import WindowCounter
from tests.postgres import SharedCase
from tests.storage.doubles import InlinePool, InlineReactor

pytestmark = pytest.mark.postgresql


class SharedKeysCase(SharedCase):
    """
    Two servers with one database.
    """

    def setUp(self) -> None:
        super().setUp()
        self.reactor = InlineReactor()
        self.here, self.there = self.make(), self.make()

    def make(self) -> PostgresDatabase:
        database = PostgresDatabase(
            self.place, KEYS, self.reactor, make_pool=InlinePool
        )
        self.successResultOf(database.start())
        self.addCleanup(database.stop)
        return database


class SharedWindowTests(SharedKeysCase):
    """
    A window is as wide for all servers together as it is for one.
    """

    def setUp(self) -> None:
        super().setUp()
        self.counters = [WindowCounter(self.here), WindowCounter(self.there)]

    def take(self, server: int, token: str, limit: int = 2) -> bool:
        found: Deferred[bool] = self.counters[server].take("window", limit, token)
        return bool(self.successResultOf(found))

    def test_one_count(self) -> None:
        """
        What one has taken is gone for the other, and nobody takes twice.
        """
        self.assertTrue(self.take(0, "a"))
        self.assertTrue(self.take(1, "a"))
        self.assertTrue(self.take(1, "b"))
        self.assertFalse(self.take(0, "c"))
        self.assertTrue(self.take(0, "b"))
        for counter in self.counters:
            used = counter.used("window")
            self.assertEqual(2, self.successResultOf(used))
            for token, room in (("a", True), ("c", False)):
                found = counter.has_room("window", 2, token)
                self.assertEqual(room, self.successResultOf(found))
            found = counter.has_room("another", 2, "c")
            self.assertTrue(self.successResultOf(found))

    def test_at_the_same_moment(self) -> None:
        """
        Many that come at once to several servers have as many places as there are.
        """
        barrier = threading.Barrier(6, timeout=60)
        taken: list[str] = []

        def come(number: int) -> None:
            pool = InlinePool()
            database = PostgresDatabase(
                self.place, KEYS, InlineReactor(), make_pool=lambda: pool
            )
            database.start()
            counter = WindowCounter(database)
            barrier.wait()
            for each in range(4):
                token = f"{number}-{each}"
                if self.successResultOf(counter.take("window", 5, token)):
                    taken.append(token)
            database.stop()

        threads = [threading.Thread(target=come, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual(5, len(taken))


class SharedSeenTests(SharedKeysCase):
    """
    Keys that any of them has seen.
    """

    def test_seen_together(self) -> None:
        """
        The last time counts, whoever it was that saw the key.
        """
        tables = [
            SeenTable(database, self.reactor, lambda: 1.0)
            for database in (self.here, self.there)
        ]
        for server, digest, when in [
            (0, "MD5=a", 10.5),
            (1, "MD5=a", 9.0),
            (1, "MD5=b", 11.0),
        ]:
            tables[server].record(digest, "192.0.2.1", "incoming", when)
        for table in tables:
            self.successResultOf(table.stop())
        expected = [
            SeenEntry("MD5=b", "192.0.2.1", "incoming", 11.0),
            SeenEntry("MD5=a", "192.0.2.1", "incoming", 10.5),
        ]
        for table in tables:
            self.assertEqual(expected, self.successResultOf(table.entries()))
        digests = self.successResultOf(tables[0].digests_at("192.0.2.1"))
        self.assertEqual(["MD5=b", "MD5=a"], digests)
        with blocking(self.place, KEYS) as run:
            self.assertEqual(expected, run(read_seen, False))

    def test_bounded(self) -> None:
        """
        The longest unseen go.
        """
        table = SeenTable(self.here, self.reactor, limit=20)
        for number in range(40):
            table.record(f"MD5={number}", "192.0.2.1", "incoming", float(number))
        entries = self.successResultOf(table.entries())
        self.assertEqual(
            [float(number) for number in range(39, 19, -1)],
            [entry.last for entry in entries],
        )
        self.successResultOf(table.stop())
