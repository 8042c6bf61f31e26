# SPDX-License-Identifier: MIT
"""
The tables: who was seen, windows, digests.
"""

from __future__ import annotations

import random
import sqlite3
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import floats, integers, lists, sampled_from, tuples
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nodecomm.identity.interfaces import ISeen, IWindowCounter
from nodecomm.storage.database import DatabaseClosed, connect
from nodecomm.storage.digests import DigestKey, DigestTable
from nodecomm.storage.migrations import migrate
from nodecomm.storage.seen import Direction, SeenEntry, SeenTable, read_seen
from nodecomm.storage.tables import BATCH_SIZE, FLUSH_SECONDS, Batch, trim
from nodecomm.storage.windows import (
    WindowCounter,
    take_from_window,
    window_has_room,
    window_used,
)
from tests.storage.doubles import DatabaseCase


class SeenTests(DatabaseCase):
    """
    Who was seen where.
    """

    def setUp(self) -> None:
        super().setUp()
        self.now = 1000.0
        self.seen = SeenTable(self.database, self.reactor, lambda: self.now)

    def stored(self) -> list[SeenEntry]:
        return self.successResultOf(self.database.run(read_seen))

    def test_interface(self) -> None:
        """
        It tells a trust policy who was seen.
        """
        self.assertTrue(verifyObject(ISeen, self.seen))

    def test_written_in_batches(self) -> None:
        """
        Nothing is written at once; all that came is written together, and then no
        timer is left.
        """
        self.seen.record("MD5=a", "10.0.0.1", "incoming")
        self.now = 1001.0
        self.seen.record("MD5=b", "10.0.0.2", "outgoing")
        self.seen.record("MD5=c", "10.0.0.3", "incoming", 999.5)
        self.assertEqual([], self.stored())
        self.reactor.advance(FLUSH_SECONDS)

        self.assertEqual(
            [
                SeenEntry("MD5=b", "10.0.0.2", "outgoing", 1001.0),
                SeenEntry("MD5=a", "10.0.0.1", "incoming", 1000.0),
                SeenEntry("MD5=c", "10.0.0.3", "incoming", 999.5),
            ],
            self.stored(),
        )
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_last_time(self) -> None:
        """
        One entry holds the last time, in one batch or in several, also when another
        process wrote a later one.
        """
        for when in (5.0, 7.0, 6.0):
            self.seen.record("MD5=a", "10.0.0.1", "incoming", when)
            self.successResultOf(self.seen.flush())
        self.seen.record("MD5=a", "10.0.0.1", "incoming", 8.0)

        (entry,) = self.successResultOf(self.seen.entries())
        self.assertEqual(8.0, entry.last)

    def test_a_full_batch_does_not_wait(self) -> None:
        """
        Many sightings are written before the time is up.
        """
        for number in range(BATCH_SIZE):
            self.seen.record(f"MD5={number}", "10.0.0.1", "incoming")
        self.assertEqual(BATCH_SIZE, len(self.stored()))

    def test_digests_at_an_address(self) -> None:
        """
        The last incoming key comes first, whether it is written yet or not.
        """
        self.seen.record("MD5=a", "10.0.0.1", "incoming", 1)
        self.seen.record("MD5=b", "10.0.0.1", "incoming", 2)
        self.seen.record("MD5=out", "10.0.0.1", "outgoing", 3)
        self.seen.record("MD5=other", "10.0.0.2", "incoming", 3)
        self.successResultOf(self.seen.flush())
        self.seen.record("MD5=a", "10.0.0.1", "incoming", 4)
        self.seen.record("MD5=c", "10.0.0.1", "incoming", 5)

        found = self.successResultOf(self.seen.digests_at("10.0.0.1"))
        self.assertEqual(["MD5=c", "MD5=a", "MD5=b"], found)
        self.assertEqual([], self.successResultOf(self.seen.digests_at("10.0.0.9")))

    def test_failure_is_told_and_made_good(self) -> None:
        """
        While the database is locked a flush fails; what waits is logged, tried again
        with the timer, and written in the end.
        """
        other = connect(self.path)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        self.seen.record("MD5=a", "10.0.0.1", "incoming")
        self.failureResultOf(self.seen.flush(), sqlite3.OperationalError)
        with mock.patch("nodecomm.storage.tables.Batch._log") as log:
            self.reactor.advance(FLUSH_SECONDS)
        self.assertEqual(1, log.error.call_count)
        other.execute("ROLLBACK")
        self.reactor.advance(FLUSH_SECONDS)

        self.assertEqual(["MD5=a"], [entry.digest for entry in self.stored()])

    def test_what_came_while_it_failed_counts(self) -> None:
        """
        What could not be written does not replace what came meanwhile, and after the
        end nothing is tried again.
        """
        given: list[Deferred[None]] = []

        class Away:
            name = "away"

            def run(self, work: object) -> Deferred[Any]:
                given.append(Deferred())
                return given[-1]

        batch: Batch[str, int] = Batch(Away(), self.reactor, mock.Mock(), "entries")
        batch.add("one", 1)
        flushed = batch.flush()
        batch.add("one", 2)
        given[-1].errback(OSError("no"))
        self.failureResultOf(flushed, OSError)
        self.assertEqual({"one": 2}, batch.waiting())
        stopped = batch.stop()
        given[-1].errback(OSError("no"))
        self.failureResultOf(stopped, OSError)
        batch.add("two", 3)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_bounded_memory(self) -> None:
        """
        While the database takes nothing only so many are held, the latest ones.
        """
        batch = self.seen._batch
        batch._limit = 10
        self.pool.held = True
        first = self.seen.flush()
        for number in range(100):
            self.seen.record(f"MD5={number:03}", "10.0.0.1", "incoming", number)
        self.assertEqual(10, len(batch.pending))
        self.assertEqual(90, batch.dropped)
        self.pool.held = False
        self.successResultOf(first)
        self.successResultOf(self.seen.flush())

        digests = sorted(entry.digest for entry in self.stored())
        self.assertEqual([f"MD5={number:03}" for number in range(90, 100)], digests)

    def test_flush_during_flush(self) -> None:
        """
        A flush that comes while one is on its way ends when everything is written.
        """
        self.pool.held = True
        self.seen.record("MD5=a", "10.0.0.1", "incoming")
        first = self.seen.flush()
        self.seen.record("MD5=b", "10.0.0.1", "incoming")
        second = self.seen.flush()
        self.assertNoResult(second)
        self.pool.work()
        self.successResultOf(first)
        self.successResultOf(second)
        self.pool.held = False

        self.assertEqual(2, len(self.stored()))

    def test_stop(self) -> None:
        """
        At the end what waits is written and no timer is left, not even when that
        fails.
        """
        self.seen.record("MD5=a", "10.0.0.1", "incoming")
        self.successResultOf(self.seen.stop())
        self.assertEqual(1, len(self.stored()))
        self.successResultOf(self.database.stop())
        self.seen.record("MD5=b", "10.0.0.1", "incoming")
        self.failureResultOf(self.seen.stop(), DatabaseClosed)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_bounded_table(self) -> None:
        """
        The longest unseen go when there are too many.
        """
        seen = SeenTable(self.database, self.reactor, limit=20)
        for number in range(50):
            seen.record(f"MD5={number}", "10.0.0.1", "incoming", number)
            self.successResultOf(seen.flush())

        self.assertEqual(
            list(range(49, 29, -1)), [entry.last for entry in self.stored()]
        )

    @settings(max_examples=30, deadline=None)
    @given(
        sightings=lists(
            tuples(
                sampled_from(["a", "b"]),
                sampled_from(["1", "2"]),
                sampled_from(["incoming", "outgoing"]),
                floats(0, 1e10),
                integers(0, 2),
            ),
            max_size=30,
        )
    )
    def test_any_order(
        self, sightings: list[tuple[str, str, Direction, float, int]]
    ) -> None:
        """
        However sightings and flushes are mixed, each key's last time is kept when
        times only go forward.
        """
        self.successResultOf(
            self.database.run(lambda connection: connection.execute("DELETE FROM seen"))
        )
        expected: dict[tuple[str, str, str], float] = {}
        when = 0.0
        for digest, address, direction, step, flush in sightings:
            when += step
            self.seen.record(digest, address, direction, when)
            expected[digest, address, direction] = when
            if not flush:
                self.successResultOf(self.seen.flush())

        entries = self.successResultOf(self.seen.entries())
        found = {(x.digest, x.address, x.direction): x.last for x in entries}
        self.assertEqual(expected, found)


class WindowCounterTests(DatabaseCase):
    """
    Places in trust windows.
    """

    def setUp(self) -> None:
        super().setUp()
        self.counter = WindowCounter(self.database)

    def test_interface(self) -> None:
        """
        It counts for a trust policy.
        """
        self.assertTrue(verifyObject(IWindowCounter, self.counter))

    def test_places(self) -> None:
        """
        A window has its number of places, each window its own, and a holder of a
        place keeps it.
        """

        def answer(call: Deferred[bool]) -> bool:
            return self.successResultOf(call)

        self.assertTrue(answer(self.counter.take("w", 2, "a")))
        self.assertTrue(answer(self.counter.take("w", 2, "a")))
        self.assertTrue(answer(self.counter.has_room("w", 2, "b")))
        self.assertTrue(answer(self.counter.take("w", 2, "b")))
        self.assertFalse(answer(self.counter.has_room("w", 2, "c")))
        self.assertFalse(answer(self.counter.take("w", 2, "c")))
        self.assertTrue(answer(self.counter.has_room("w", 2, "a")))
        self.assertTrue(answer(self.counter.take("w", 2, "a")))
        self.assertEqual(2, self.successResultOf(self.counter.used("w")))
        self.assertTrue(answer(self.counter.take("w", 3, "c")))
        self.assertFalse(answer(self.counter.take("x", 0, "a")))
        self.assertEqual(0, self.successResultOf(self.counter.used("x")))

    def test_locked(self) -> None:
        """
        When the database cannot be written the caller is told; no place is taken.
        """
        other = connect(self.path)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        taken = self.counter.take("w", 2, "a")
        self.failureResultOf(taken, sqlite3.OperationalError)
        other.execute("ROLLBACK")
        self.assertEqual(0, self.successResultOf(self.counter.used("w")))


class WindowFunctionTests(SynchronousTestCase):
    """
    The same as plain functions.
    """

    @settings(
        max_examples=30,
        deadline=None,
        # How fast values are made says nothing here, on a busy machine still less.
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(tokens=lists(integers(0, 5), max_size=12), limit=integers(0, 4))
    def test_against_a_set(self, tokens: list[int], limit: int) -> None:
        """
        It behaves as a set with a limit does.
        """
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(connection.close)
        migrate(connection)
        holders: set[str] = set()
        for token in map(str, tokens):
            allowed = token in holders or len(holders) < limit
            self.assertEqual(allowed, window_has_room(connection, "w", limit, token))
            self.assertEqual(allowed, take_from_window(connection, "w", limit, token))
            if allowed:
                holders.add(token)
        self.assertEqual(len(holders), window_used(connection, "w"))


class DigestTests(DatabaseCase):
    """
    Digests of files.
    """

    KEY = DigestKey("md5", 2**64 - 1, 2**64 - 2, 5, -1, 1_800_000_000_123_456_789)

    def setUp(self) -> None:
        super().setUp()
        self.table = DigestTable(self.database, self.reactor)

    def get(self, key: DigestKey) -> bytes | None:
        return self.successResultOf(self.table.get(key))

    def test_put_and_get(self) -> None:
        """
        A digest is there at once, and after a restart, also with numbers beyond 63
        bits.
        """
        self.assertIsNone(self.get(self.KEY))
        self.table.put(self.KEY, b"\0" * 16)
        self.assertEqual(b"\0" * 16, self.get(self.KEY))
        self.reactor.advance(FLUSH_SECONDS)
        self.successResultOf(self.database.stop())
        self.successResultOf(self.database.start())
        self.table = DigestTable(self.database, self.reactor)

        self.assertEqual(b"\0" * 16, self.get(self.KEY))

    def test_any_difference_is_another_state(self) -> None:
        """
        The digest of one state of a file is not that of another.
        """
        self.table.put(self.KEY, b"x")
        self.successResultOf(self.table.flush())
        others = [self.KEY._replace(algorithm="sha256")]
        for name in ("dev", "ino", "size", "mtime_ns", "ctime_ns"):
            others.append(self.KEY._replace(**{name: getattr(self.KEY, name) - 1}))
        for other in others:
            self.assertIsNone(self.get(other))
        self.table.put(self.KEY, b"y")
        self.successResultOf(self.table.flush())
        self.assertEqual(b"y", self.get(self.KEY))

    def test_while_it_is_written(self) -> None:
        """
        A digest on its way into the database is found.
        """
        self.table.put(self.KEY, b"x")
        self.pool.held = True
        flushed = self.table.flush()
        self.assertNoResult(flushed)

        self.assertEqual(b"x", self.get(self.KEY))
        self.pool.held = False
        self.pool.work()

    def test_bounded(self) -> None:
        """
        Those stored longest ago go when there are too many; storing again counts.
        """
        table = self.table = DigestTable(self.database, self.reactor, limit=20)
        keys = [self.KEY._replace(ino=number) for number in range(41)]
        for key in keys[:40]:
            table.put(key, b"x")
            table.put(keys[0], b"x")
            self.successResultOf(table.flush())

        kept = {key.ino for key in keys if self.get(key) is not None}
        self.assertEqual({0, *range(21, 40)}, kept)

    def test_stop(self) -> None:
        """
        What waits at the end is written.
        """
        self.table.put(self.KEY, b"x")
        self.successResultOf(self.table.stop())
        self.assertEqual([], self.reactor.getDelayedCalls())
        self.assertEqual(
            b"x",
            self.successResultOf(
                DigestTable(self.database, self.reactor).get(self.KEY)
            ),
        )


class TrimTests(SynchronousTestCase):
    """
    Keeping a table small.
    """

    def test_any_number(self) -> None:
        """
        As many as the limit are left, the last ones, in whatever order they came.
        """
        for limit in (1, 5, 10, 11):
            connection = sqlite3.connect(":memory:", isolation_level=None)
            self.addCleanup(connection.close)
            connection.execute("CREATE TABLE t (x)")
            numbers = random.Random(1).sample(range(10), 10)
            connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in numbers])
            removed = trim(connection, "t", "x", limit)
            left = [x for (x,) in connection.execute("SELECT x FROM t ORDER BY x")]
            with self.subTest(limit=limit):
                self.assertEqual(list(range(10))[10 - min(limit, 10) :], left)
                self.assertEqual(10 - len(left), removed)
