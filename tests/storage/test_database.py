# SPDX-License-Identifier: MIT
"""
One database on a thread of its own.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nodecomm.storage.database import (
    Database,
    DatabaseClosed,
    DatabaseOverloaded,
    connect,
)
from nodecomm.storage.migrations import (
    MIGRATIONS,
    DatabaseTooNew,
    immediate,
    migrate,
    version,
)
from tests.forking import Forked
from tests.identity.sample import temporary_folder
from tests.storage.doubles import DatabaseCase


def count(connection: sqlite3.Connection) -> int:
    """
    The number of sightings.
    """
    return int(connection.execute("SELECT count(*) FROM seen").fetchone()[0])


def insert(connection: sqlite3.Connection, digest: str = "d") -> None:
    """
    One sighting.
    """
    connection.execute("INSERT INTO seen VALUES (?, 'a', 'incoming', 1)", (digest,))


class RunTests(DatabaseCase):
    """
    Work on the database.
    """

    def test_result(self) -> None:
        """
        The Deferred has what the work returned.
        """
        self.successResultOf(self.database.run(insert))
        self.assertEqual(1, self.successResultOf(self.database.run(count)))

    def test_failure(self) -> None:
        """
        What the work raises reaches the caller, and its transaction is undone.
        """

        def broken(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN")
            insert(connection)
            connection.execute("SELECT nonsense")

        self.failureResultOf(self.database.run(broken), sqlite3.OperationalError)
        self.assertEqual(0, self.successResultOf(self.database.run(count)))

    def test_locked(self) -> None:
        """
        A lock that another process does not let go of is a failure after the busy
        timeout, and the next call works again.
        """
        other = connect(self.path)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        failure = self.failureResultOf(
            self.database.run(insert), sqlite3.OperationalError
        )
        self.assertIn("locked", failure.getErrorMessage())
        other.execute("ROLLBACK")

        self.successResultOf(self.database.run(insert))

    def test_too_much(self) -> None:
        """
        Beyond the limit of waiting calls a call fails at once; those that wait are
        served.
        """
        self.successResultOf(self.database.stop())
        database = self.database = self.make_database(queue_limit=2)
        self.successResultOf(database.start())
        self.pool.held = True
        waiting = [database.run(count), database.run(count)]
        self.failureResultOf(database.run(count), DatabaseOverloaded)
        self.pool.work()

        self.assertEqual([0, 0], [self.successResultOf(d) for d in waiting])
        self.pool.held = False
        self.assertEqual(0, self.successResultOf(database.run(count)))

    def test_closed(self) -> None:
        """
        Before start and after stop there is no database.
        """
        self.successResultOf(self.database.stop())
        self.assertFalse(self.database.running)
        self.failureResultOf(self.database.run(count), DatabaseClosed)
        self.assertFalse(self.pool.running)
        self.successResultOf(self.database.stop())

    def test_work_before_the_end(self) -> None:
        """
        Work that waits when the database stops is still done.
        """
        self.pool.held = True
        inserted = self.database.run(insert)
        stopped = self.database.stop()
        self.assertNoResult(inserted)
        self.assertNoResult(stopped)
        self.pool.work()

        self.successResultOf(inserted)
        self.successResultOf(stopped)
        connection = connect(self.path)
        self.addCleanup(connection.close)
        self.assertEqual(1, count(connection))

    def test_started_once(self) -> None:
        """
        Starting twice is a mistake.
        """
        self.assertRaises(RuntimeError, self.database.start)

    def test_started_again(self) -> None:
        """
        After a stop it can be started again.
        """
        self.successResultOf(self.database.run(insert))
        self.successResultOf(self.database.stop())
        self.successResultOf(self.database.start())
        self.assertEqual(1, self.successResultOf(self.database.run(count)))


class OpenTests(DatabaseCase):
    """
    Opening the file.
    """

    def setUp(self) -> None:
        super().setUp()
        self.successResultOf(self.database.stop())

    def test_owner_only(self) -> None:
        """
        The files are readable by their owner only, and WAL is on.
        """
        connection = connect(self.path)
        self.addCleanup(connection.close)
        insert(connection)

        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        self.assertEqual("wal", mode)
        names = sorted(os.listdir(self.folder))
        self.assertEqual(3, len(names))
        for name in names:
            self.assertEqual(0o600, stat.S_IMODE((self.folder / name).stat().st_mode))

    def test_on_disk_when_it_is_committed(self) -> None:
        """
        SQLite waits for the disk at each commit.
        """
        with closing(connect(self.path)) as connection:
            (full,) = connection.execute("PRAGMA synchronous").fetchone()
        self.assertEqual(2, full)

    def test_no_database(self) -> None:
        """
        A file that is none fails the start and what waited for it; the thread ends.
        """
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.path.write_bytes(b"this is no database, only a text" * 100)
        self.pool.held = True
        started = self.database.start()
        waiting = self.database.run(count)
        self.pool.work()

        self.failureResultOf(started, sqlite3.DatabaseError)
        self.failureResultOf(waiting, DatabaseClosed)
        self.assertFalse(self.pool.running)

    def test_no_folder(self) -> None:
        """
        A folder that is missing is a failure that names it.
        """
        self.path = self.folder / "missing" / "x"
        failure = self.failureResultOf(self.make_database().start(), OSError)
        self.assertEqual(str(self.path), failure.value.filename)

    def test_newer_release(self) -> None:
        """
        A database that a newer release wrote is left alone.
        """
        connection = connect(self.path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()

        failure = self.failureResultOf(self.database.start(), DatabaseTooNew)
        self.assertIn("99", failure.getErrorMessage())


class CopyTests(SynchronousTestCase):
    """
    What is kept of a database of an older release.
    """

    STEPS = (
        ["CREATE TABLE one (x)", "INSERT INTO one VALUES (7)"],
        ["DROP TABLE one"],
        ["CREATE TABLE two (x)"],
    )

    def setUp(self) -> None:
        self.folder = temporary_folder(self)
        self.path = self.folder / "nodes.sqlite"

    def open(self, steps: int) -> None:
        connect(self.path, steps=self.STEPS[:steps]).close()

    def values(self, name: str) -> list[tuple[int]]:
        with closing(sqlite3.connect(self.folder / name)) as connection:
            return connection.execute("SELECT x FROM one").fetchall()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def test_copied_before_it_is_changed(self) -> None:
        """
        The file as it was stands beside the new one, for its owner only.
        """
        self.open(1)
        self.open(3)

        self.assertEqual(["nodes.sqlite", "nodes.sqlite.1"], self.names())
        self.assertEqual([(7,)], self.values("nodes.sqlite.1"))
        self.assertRaises(sqlite3.OperationalError, self.values, "nodes.sqlite")
        mode = (self.folder / "nodes.sqlite.1").stat().st_mode
        self.assertEqual(0o600, mode & 0o777)

    def test_nothing_to_copy(self) -> None:
        """
        A new file, and one that is of this release, is not copied.
        """
        self.open(2)
        self.open(2)

        self.assertEqual(["nodes.sqlite"], self.names())

    def test_after_a_kill(self) -> None:
        """
        What a process left that was killed while it copied is no copy.
        """
        self.open(1)
        (self.folder / "nodes.sqlite.1.new").write_bytes(b"half")
        self.open(2)

        self.assertEqual(["nodes.sqlite", "nodes.sqlite.1"], self.names())
        self.assertEqual([(7,)], self.values("nodes.sqlite.1"))

    def test_no_copy_no_change(self) -> None:
        """
        Where it cannot be copied it is left as it is.
        """
        self.open(1)
        (self.folder / "nodes.sqlite.1").mkdir()

        self.assertRaises(OSError, self.open, 2)
        self.assertEqual([(7,)], self.values("nodes.sqlite"))

    def test_what_is_committed_is_copied(self) -> None:
        """
        Another process has the file open, and its last words are not in it yet but in
        the log beside it.
        """
        with closing(connect(self.path, steps=self.STEPS[:1])) as other:
            other.execute("INSERT INTO one VALUES (8)")
            self.open(2)

            self.assertEqual([(7,), (8,)], self.values("nodes.sqlite.1"))


class MigrationTests(SynchronousTestCase):
    """
    The numbered steps.
    """

    def connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(connection.close)
        return connection

    def test_each_step_once(self) -> None:
        """
        Only the steps that are missing are done.
        """
        steps = [["CREATE TABLE one (x)"], ["CREATE TABLE two (x)"]]
        connection = self.connection()

        self.assertEqual(1, migrate(connection, steps[:1]))
        self.assertEqual(1, migrate(connection, steps))
        self.assertEqual(0, migrate(connection, steps))
        self.assertEqual(2, version(connection))
        connection.execute("SELECT one.x, two.x FROM one, two")

    def test_all_or_nothing(self) -> None:
        """
        A step that fails leaves the database as it was.
        """
        connection = self.connection()
        steps = [["CREATE TABLE one (x)", "CREATE TABLE one (x)"]]

        self.assertRaises(sqlite3.OperationalError, migrate, connection, steps)
        self.assertEqual(0, version(connection))
        self.assertRaises(sqlite3.OperationalError, connection.execute, "TABLE one")

    def test_what_cannot_be_committed(self) -> None:
        """
        A transaction whose end fails is over all the same.
        """
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("CREATE TABLE one (id TEXT PRIMARY KEY)")
            connection.execute(
                "CREATE TABLE other (id TEXT REFERENCES one (id) "
                "DEFERRABLE INITIALLY DEFERRED)"
            )
            with self.assertRaises(sqlite3.IntegrityError), immediate(connection):
                connection.execute("INSERT INTO other VALUES ('x')")
            with immediate(connection):
                found = connection.execute("SELECT * FROM other").fetchall()

        self.assertEqual([], found)

    def test_too_new(self) -> None:
        """
        Steps that are not known here are an error.
        """
        connection = self.connection()
        migrate(connection, [["CREATE TABLE one (x)"]] * 1)

        self.assertRaises(DatabaseTooNew, migrate, connection, [])

    def test_the_real_steps(self) -> None:
        """
        The steps of this release make the tables.
        """
        connection = self.connection()
        self.assertEqual(len(MIGRATIONS), migrate(connection))
        for table in ("seen", "window_uses", "digests"):
            connection.execute(f"SELECT * FROM {table}")

    def test_many_processes_start_at_once(self) -> None:
        """
        Processes that open a new database at the same time all succeed.
        """
        code = "import sys; from nodecomm.storage.database import connect\n"
        code += "sys.stdin.read(); connect(sys.argv[1]).close()"
        path = str(temporary_folder(self) / "new.sqlite")
        starters = [
            Forked([sys.executable, "-c", code, path], stdin=subprocess.PIPE)
            for _ in range(4)
        ]
        for starter in starters:
            assert starter.stdin is not None
            starter.stdin.close()
        self.assertEqual([0] * 4, [starter.wait() for starter in starters])


class ThreadTests(TestCase):
    """
    The real thread.
    """

    @inlineCallbacks
    def test_one_thread(self) -> Any:
        """
        All work is done on one thread that is not the reactor's; results arrive on
        the reactor's, in order.
        """
        path = temporary_folder(self) / "x.sqlite"
        database = Database(path, reactor)  # type: ignore[arg-type]
        yield database.start()
        arrived: list[int] = []
        threads: set[int] = set()

        def done(thread: int, number: int) -> None:
            arrived.append(number)
            threads.add(thread)
            self.assertEqual(here, threading.get_ident())

        here = threading.get_ident()
        calls: list[Deferred[None]] = []
        for number in range(20):
            call = database.run(lambda _: threading.get_ident())
            calls.append(call.addCallback(done, number))
        yield gatherResults(calls)
        yield database.stop()

        self.assertEqual(list(range(20)), arrived)
        self.assertEqual(1, len(threads))
        self.assertNotIn(here, threads)
