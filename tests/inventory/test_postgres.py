# SPDX-License-Identifier: MIT
"""
Nodes in PostgreSQL.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from typing import Any
from unittest.mock import patch

import pytest
from attrs import evolve
from twisted.python.failure import Failure

from nodecomm.inventory import node_postgres, node_sqlite
from nodecomm.inventory.lifecycle import new_node
from nodecomm.inventory.node_postgres import NODES, PostgresNodes, open_shared_nodes
from nodecomm.inventory.nodes import Node, Status
from nodecomm.inventory.records import Records
from nodecomm.inventory.registry import NodeRegistry
from nodecomm.storage import postgres
from nodecomm.storage.database import DatabaseAway, one_thread
from nodecomm.storage.migrations import DatabaseTooNew
from nodecomm.storage.postgres import Area, PostgresConnection, connect_postgres
from nodecomm.storage.postgres_database import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    PostgresDatabase,
)
from nodecomm.storage.postgres_place import HANGS_AFTER, DatabaseUnusable, PostgresPlace
from tests.identity.sample import key, pair
from tests.inventory.documents import (
    NODE,
    WRITTEN,
    agent,
    certificate,
    document,
    node_document,
    rudder,
)
from tests.inventory.test_registry import RegistryTests, at_once
from tests.postgres import SharedCase
from tests.storage.doubles import InlinePool, InlineReactor

pytestmark = pytest.mark.postgresql


class PostgresRegistryTests(SharedCase, RegistryTests):
    """
    The registry in PostgreSQL.
    """

    def setUp(self) -> None:
        SharedCase.setUp(self)
        RegistryTests.setUp(self)

    def make(self, **options: Any) -> NodeRegistry:
        store = PostgresNodes(self.place, InlineReactor(), make_pool=InlinePool)
        self.addCleanup(store.stop)
        return NodeRegistry(store, at_once, now=lambda: self.now, **options)

    def test_other_processes(self) -> None:
        """
        What one process decides another one sees, with a generation that has grown.
        """
        other = self.make()
        self.successResultOf(other.start())
        self.accepted()
        found = self.successResultOf(other.nodes(Status.ACCEPTED))

        self.assertEqual(self.successResultOf(self.registry.nodes()), found)
        self.assertEqual(self.generation(), found.generation)

    def test_everything_is_kept(self) -> None:
        """
        A node is read as it was written, whatever there is of it.
        """
        self.accepted()
        own = rudder(agent(certificate=certificate(pair())))
        for minutes, device in ((2, "a"), (3, "node-2024-03-21-16-07-29"), (4, "ä")):
            data = document(own, written=self.later(minutes), device_id=device)
            received = self.send(data)
        self.assertEqual(received.node, self.node())
        received = self.send(node_document(pair(1), self.later(5)), pair(1))
        self.assertEqual(received.node, self.node())
        self.assertIsNotNone(self.node().conflict)
        received = self.send(node_document(pair(1), self.later(6)), pair())
        self.assertEqual(received.node, self.node())
        self.assertEqual((key(),), self.node().known.refused_keys)

    def test_blocking(self) -> None:
        """
        A program without a reactor works on the same database; what only reads cannot
        write.
        """
        self.send(node_document(pair()))
        with open_shared_nodes(self.place) as nodes:
            found = nodes(lambda x: x.node(NODE), False)

            def fail(kept: Records) -> None:
                kept.save(evolve(found, since=WRITTEN))
                raise ZeroDivisionError

            with self.assertRaises(ZeroDivisionError):
                nodes(fail, True)
            with self.assertRaisesRegex(Exception, "read-only"):
                nodes(lambda kept: kept.save(found), False)
            self.assertEqual(found, nodes(lambda x: x.node(NODE), False))

        self.assertEqual(self.node(), found)

    def test_a_long_name(self) -> None:
        """
        A host name that no index would take is one like any other.
        """
        # What repeats itself would be compressed.
        name = "".join(f"{number:x}." for number in range(3000))
        found = self.send(node_document(pair())).node
        assert found is not None
        longer = evolve(found, facts=found.facts and evolve(found.facts, hostname=name))
        with open_shared_nodes(self.place) as nodes:
            nodes(lambda kept: kept.save(longer), True)
            same = nodes(lambda kept: kept.with_hostname(name), False)

        self.assertEqual([longer], same)

    def test_same_columns(self) -> None:
        """
        The tables are those of SQLite.
        """
        with closing(sqlite3.connect(":memory:")) as connection:
            for statements in node_sqlite.STEPS:
                for statement in statements:
                    connection.execute(statement)
            expected = {
                (table, column)
                for (table,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                ).fetchall()
                for _, column, *_ in connection.execute(f"PRAGMA table_info({table})")
            }
        found = self.sql(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'nodecomm' AND table_name <> 'steps'"
        )

        self.assertEqual(expected, set(found))


class LostConnectionTests(SharedCase):
    """
    A database that is restarted, is away, or hangs.
    """

    def setUp(self) -> None:
        super().setUp()
        self.seconds = 0.0
        self.reactor = InlineReactor()
        self.nodes = self.make(self.place)

    def make(self, place: PostgresPlace) -> PostgresNodes:
        nodes = PostgresNodes(
            place,
            self.reactor,
            make_pool=InlinePool,
            monotonic=lambda: self.seconds,
        )
        self.addCleanup(nodes.stop)
        self.successResultOf(nodes.start())
        return nodes

    def generation(self) -> int:
        found = self.nodes.run(lambda kept: kept.generation(), write=False)
        return int(self.successResultOf(found))

    def away(self) -> str:
        found = self.nodes.run(lambda kept: kept.generation(), write=True)
        return str(self.failureResultOf(found, DatabaseAway).value)

    def end_connections(self) -> None:
        """
        What a restart does to connections.
        """
        self.cluster.do(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{self.database}'"
        )

    def test_a_new_connection(self) -> None:
        """
        One that was lost between two calls is made anew, and nobody hears of it.
        """
        self.assertEqual(0, self.generation())
        self.end_connections()
        self.assertEqual(0, self.generation())

    def test_lost_in_the_middle(self) -> None:
        """
        Work under way fails and nothing of it stays; the next finds a new connection.
        """

        def work(kept: Records) -> int:
            kept.save(_node(NODE))
            self.end_connections()
            return kept.generation()

        self.failureResultOf(self.nodes.run(work, write=True), DatabaseAway)
        found = self.nodes.run(lambda kept: kept.node(NODE), write=False)
        self.assertIsNone(self.successResultOf(found))

    def test_away(self) -> None:
        """
        While it cannot be reached, work fails at once, and the database is asked again
        only now and then. What comes back is used.
        """
        self.assertEqual(0, self.generation())
        self.cluster.stop()
        self.addCleanup(self.cluster.start)
        text = self.away()
        with patch("psycopg.connect", side_effect=AssertionError):
            self.assertEqual(text, self.away())
        self.seconds += LONGEST_PAUSE
        self.away()
        self.cluster.start()
        self.assertEqual(text, self.away())
        self.seconds += LONGEST_PAUSE
        self.assertEqual(0, self.generation())

    def test_back_soon(self) -> None:
        """
        After the first failure it is asked again soon, then less and less often.
        """
        self.assertEqual(0, self.generation())
        self.end_connections()
        error = pytest.importorskip("psycopg").OperationalError("no")
        with patch("psycopg.connect", side_effect=error) as made:
            pause = FIRST_PAUSE
            self.away()
            tried = made.call_count
            for _ in range(3):
                self.seconds += pause - 0.01
                self.away()
                self.assertEqual(tried, made.call_count)
                self.seconds += 0.02
                self.away()
                self.assertLess(tried, made.call_count)
                tried, pause = made.call_count, 2 * pause

    def test_what_is_written_is_on_disk(self) -> None:
        """
        Whatever the database does for others, it has written ours when it says so.
        """
        self.cluster.do(
            f'ALTER DATABASE "{self.database}" SET synchronous_commit TO off'
        )
        self.end_connections()

        def work(connection: PostgresConnection) -> str:
            (row,) = connection.execute("SELECT current_setting('synchronous_commit')")
            return str(row[0])

        for run in (self.nodes.database.run, self.nodes.database.write):
            self.assertEqual("on", self.successResultOf(run(work)))

    def test_what_others_have_written_is_seen(self) -> None:
        """
        Whoever has waited for the lock sees what was written meanwhile, whatever
        transactions are like in this database.
        """
        nodes = self.make(self.strict())

        def work(connection: PostgresConnection) -> str:
            (row,) = connection.execute(
                "SELECT current_setting('transaction_isolation')"
            )
            return str(row[0])

        for run in (nodes.database.run, nodes.database.write):
            self.assertEqual("read committed", self.successResultOf(run(work)))

    def test_nobody_writes_while_tables_are_changed(self) -> None:
        """
        Whoever changes tables has the lock of those that write to them.
        """
        step = (
            "CREATE TABLE held AS SELECT objid FROM pg_locks "
            "WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        connect_postgres(self.place, [Area("tests", 77, [[step]])]).close()

        self.assertIn((77,), self.sql("SELECT objid::int FROM nodecomm.held"))

    def test_away_at_the_start(self) -> None:
        """
        A server starts without it, and uses it when it is there.
        """
        self.cluster.stop()
        self.addCleanup(self.cluster.start)
        self.nodes = self.make(self.place)
        self.away()
        self.cluster.start()
        self.seconds += LONGEST_PAUSE
        self.assertEqual(0, self.generation())

    def test_a_lock_that_is_held(self) -> None:
        """
        Whoever keeps others from writing for too long is not waited for; the connection
        stays.
        """
        with open_shared_nodes(self.place) as other:
            connection = self.nodes.database._connection

            def meanwhile(_: Records) -> str:
                with patch.object(postgres, "LOCK_TIMEOUT", "0.05"):
                    return self.away()

            self.assertIn("lock timeout", other(meanwhile, True))
        self.assertEqual(0, self.generation())
        self.assertIs(connection, self.nodes.database._connection)

    def test_a_statement_that_takes_long(self) -> None:
        """
        It is ended by the database.
        """

        def work(connection: PostgresConnection) -> None:
            connection.execute("SELECT pg_sleep(60)")

        with patch.object(postgres, "STATEMENT_TIMEOUT", "0.05"):
            found = self.nodes.database.run(work)
        self.assertIn(
            "statement timeout", str(self.failureResultOf(found, DatabaseAway).value)
        )
        self.assertEqual(0, self.generation())

    def test_it_does_not_do_it_now(self) -> None:
        """
        A database that was made read-only, or has lost patience with a program that
        stood still, is away like any other.
        """

        def refused(connection: PostgresConnection) -> None:
            connection.execute("SET TRANSACTION READ ONLY")
            connection.execute("CREATE TABLE more ()")

        def stopped(_: PostgresConnection) -> None:
            # Sent before it ends a connection.
            errors = pytest.importorskip("psycopg").errors
            raise errors.IdleInTransactionSessionTimeout("idle")

        for work, text in ((refused, "read-only transaction"), (stopped, "idle")):
            found = self.nodes.database.run(work)
            self.assertIn(text, str(self.failureResultOf(found, DatabaseAway).value))
            self.assertEqual(0, self.generation())

    def test_a_database_that_hangs(self) -> None:
        """
        A connection on which no answer comes is cut off.
        """
        pool, reactor = one_thread(), InlineReactor()
        database = PostgresDatabase(
            self.place,
            NODES,
            reactor,
            make_pool=lambda: pool,
            monotonic=lambda: self.seconds,
        )
        ended = threading.Event()
        started = database.start()
        begun = threading.Event()
        failures: list[Failure] = []

        def work(connection: PostgresConnection) -> None:
            begun.set()
            # The database would be willing for some seconds.
            connection.execute("SELECT pg_sleep(9)")

        found = database.run(work)
        found.addErrback(failures.append).addBoth(lambda _: ended.set())
        self.assertTrue(begun.wait(60))
        reactor.advance(2)
        self.assertFalse(ended.is_set())
        self.seconds += HANGS_AFTER + 1
        reactor.advance(2)
        self.assertTrue(ended.wait(60))

        self.successResultOf(started)
        failures[0].trap(DatabaseAway)
        stopped = threading.Event()
        database.stop().addBoth(lambda _: stopped.set())
        self.assertTrue(stopped.wait(60))
        self.assertEqual([], reactor.getDelayedCalls())


class PlaceTests(SharedCase):
    """
    What a configuration names, and what is in the way of using it.
    """

    def refused(self, place: PostgresPlace) -> str:
        with self.assertRaises(DatabaseUnusable) as caught, open_shared_nodes(place):
            pass
        return str(caught.exception)

    def test_in_the_way(self) -> None:
        """
        What does not pass by itself is told.
        """
        latin = self.cluster.make_database(
            "ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        self.cluster.do("CREATE ROLE guest LOGIN")
        guest = self.cluster.url(self.database, "guest")
        for url, text in [
            (self.cluster.url("nowhere"), '"nowhere" does not exist'),
            (self.cluster.url(latin), "SQL_ASCII.*createdb --encoding UTF8"),
            (guest, "permission denied.*createdb --owner"),
            (self.cluster.url(self.database, "nobody"), '"nobody" does not exist'),
            ("postgresql://a:b@c:port/d", "port"),
            (self.cluster.url(self.database) + "&passwort=x", "cannot be read"),
            ("postgresql://x/y?sslmod=verify-full", "did you mean sslmode"),
        ]:
            self.assertRegex(self.refused(PostgresPlace(url)), text)

    def test_passwords(self) -> None:
        """
        That of the configuration goes before that of the environment; a wrong one is
        told as what it is.
        """
        self.cluster.do("DROP ROLE IF EXISTS guarded")
        self.cluster.do("CREATE ROLE guarded LOGIN PASSWORD 'hush'")
        self.addCleanup(self.cluster.do, "DROP ROLE guarded")
        self.sql("GRANT CREATE ON DATABASE " + self.database + " TO guarded")
        self.addCleanup(self.sql, "DROP OWNED BY guarded")
        url = self.cluster.url(self.database, "guarded")
        with patch.dict(os.environ, PGPASSWORD="hush"):
            with open_shared_nodes(PostgresPlace(url)):
                pass
            text = self.refused(PostgresPlace(url, "wrong"))
            self.assertIn("password authentication failed", text)
        with open_shared_nodes(PostgresPlace(url, "hush")):
            pass
        with patch.dict(os.environ, PGPASSFILE="/nonexistent"):
            self.assertIn("no password supplied", self.refused(PostgresPlace(url)))

    def test_not_there(self) -> None:
        """
        What may pass by itself is told from that.
        """
        for url in [
            "postgresql:///x?host=/nonexistent",
            "postgresql://127.0.0.1:1/x",
            "postgresql://host.invalid/x",
        ]:
            with self.assertRaises(DatabaseAway), open_shared_nodes(PostgresPlace(url)):
                pass

    def test_passwords_are_not_told(self) -> None:
        """
        Neither in names nor in errors.
        """
        for url in [
            "postgresql://me:hush@127.0.0.1:1/db",
            "postgresql://me@127.0.0.1:1/db?password=hush",
            "postgresql://me:hush@[::1/db",
            "postgresql://me:hu%sh@127.0.0.1/db",
            "postgresql://me:hush@127.0.0.1:hush/db",
        ]:
            place = PostgresPlace(url, "hush")
            with (
                self.assertRaises((DatabaseAway, DatabaseUnusable)) as caught,
                open_shared_nodes(place),
            ):
                pass
            for text in (str(place), repr(place), str(caught.exception)):
                self.assertNotIn("hush", text)
        self.assertEqual(
            "postgresql://127.0.0.1:1/db",
            str(PostgresPlace("postgresql://me:hush@127.0.0.1:1/db")),
        )
        self.assertEqual(
            "postgresql://:5433/db?host=/run/postgresql",
            str(PostgresPlace("postgresql://me@/db?host=/run/postgresql&port=5433")),
        )

    def test_without_the_driver(self) -> None:
        """
        It is said what is missing.
        """
        with patch.dict("sys.modules", psycopg=None):
            text = self.refused(self.place)
        self.assertIn("pip install 'nodecomm[postgresql]'", text)

    def test_newer_release(self) -> None:
        """
        Tables of a newer release are left alone.
        """
        with open_shared_nodes(self.place):
            pass
        self.sql("UPDATE nodecomm.steps SET done = done + 1")
        with self.assertRaises(DatabaseTooNew), open_shared_nodes(self.place):
            pass

    def test_steps(self) -> None:
        """
        Tables of an older release get what is missing, or nothing of it.
        """
        with open_shared_nodes(self.place) as nodes:
            nodes(lambda kept: kept.save(_node(NODE)), True)
        step = ["ALTER TABLE nodes ADD COLUMN extra TEXT", "SELECT nothing"]
        newer = evolve(NODES, steps=(*NODES.steps, step))
        with patch.object(node_postgres, "NODES", newer):
            with (
                self.assertRaisesRegex(Exception, "nothing"),
                open_shared_nodes(self.place),
            ):
                pass
            step.pop()
            with open_shared_nodes(self.place) as nodes:
                self.assertIsNotNone(nodes(lambda kept: kept.node(NODE), False))
        self.assertEqual([(len(NODES.steps) + 1,)], self.sql(_DONE))
        self.assertEqual([(None,)], self.sql("SELECT extra FROM nodecomm.nodes"))

    def test_two_at_once(self) -> None:
        """
        Of servers that start at once one makes the tables; the others find them made.
        """
        barrier = threading.Barrier(4, timeout=60)
        found: list[int] = []
        place = self.strict()

        def start() -> None:
            barrier.wait()
            with open_shared_nodes(place) as nodes:
                found.append(nodes(lambda kept: kept.generation(), False))

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual([0, 0, 0, 0], found)


_DONE = "SELECT done FROM nodecomm.steps WHERE area = 'nodes'"


def _node(node_id: str) -> Node:
    return new_node(node_id, WRITTEN)
