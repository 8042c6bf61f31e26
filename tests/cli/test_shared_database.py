# SPDX-License-Identifier: MIT
"""
Commands on a database that servers share.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from twisted.internet.testing import MemoryReactorClock

from nodecomm.cli import main
from nodecomm.config.model import Settings
from nodecomm.inventory.lifecycle import Accept, Block, TrustAgain
from nodecomm.inventory.node_postgres import open_shared_nodes
from nodecomm.inventory.node_sqlite import open_nodes
from nodecomm.inventory.records import Records, put_decision, put_document, read_files
from nodecomm.inventory.signature import sign
from nodecomm.service.loading import load
from nodecomm.service.own_state import StartError
from nodecomm.service.shared_keys import open_shared_keys
from nodecomm.storage import postgres
from nodecomm.storage.database import DatabaseAway
from nodecomm.storage.migrations import immediate
from nodecomm.storage.postgres import blocking
from nodecomm.storage.shared_keys import KEYS
from nodecomm.testing import key_pair
from tests.inventory.documents import NODE, OTHER_NODE, WRITTEN, node_document
from tests.postgres import SharedCase

pytestmark = pytest.mark.postgresql

SERVER = """
[server]
listen = ["tcp:1:interface=127.0.0.1"]
allowed_networks = ["127.0.0.1"]
state_dir = "{folder}/state"
[inventory]
listen = ["tcp:2:interface=127.0.0.1"]
database = "{database}"
"""


def _all(kept: Records) -> object:
    """
    All that is known of any node.
    """
    return (
        [
            (node, kept.document(node.node_id), list(kept.events(node.node_id)))
            for node in kept.nodes()
        ],
        list(kept.withdrawn_since(0)),
    )


class CommandTests(SharedCase):
    """
    What commands make of a configuration that names such a database.
    """

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "state").mkdir()
        self.config = self.write(self.place.url)

    def write(self, database: str, more: str = "") -> Path:
        path = self.folder / "server.toml"
        text = SERVER.format(folder=self.folder, database=database)
        path.write_text(text + more)
        return path

    def settings(self) -> Settings:
        found = load(self.config).settings
        assert found is not None
        return found

    def nodecomm(self, *words: str, status: int = 0) -> str:
        out, err = StringIO(), StringIO()
        found = main.run([*words, "-c", str(self.config)], out, err)
        self.assertEqual(status, found, err.getvalue())
        return out.getvalue() + err.getvalue()

    def test_nodes(self) -> None:
        """
        What one command has decided another one shows.
        """
        self.assertIn("there are no nodes", self.nodecomm("nodes", "list"))
        pem = self.folder / "key.pem"
        pem.write_bytes(key_pair(1).public.to_pem())
        self.nodecomm("nodes", "register", NODE, str(pem))
        (node,) = json.loads(self.nodecomm("nodes", "list", "--json"))["nodes"]
        self.assertEqual((NODE, "accepted"), (node["id"], node["status"]))
        self.assertEqual([], list((self.folder / "state").iterdir()))

        out = StringIO()
        named = ("--database", self.place.url, "--state-dir", str(self.folder))
        self.assertEqual(0, main.run(["nodes", "list", *named], out, out))
        self.assertIn(NODE, out.getvalue())

    def test_waiting_over_a_restart(self) -> None:
        """
        Who waits for a node does not mind that the database is restarted meanwhile, or
        takes no connections for a while. One that never answered is an error.
        """
        pem = self.folder / "key.pem"
        pem.write_bytes(key_pair(1).public.to_pem())
        looks: list[float] = []
        real = postgres.connect_postgres

        def connect(*arguments: Any, **named: Any) -> object:
            if len(looks) == 1:
                raise DatabaseAway("the database system is starting up")
            return real(*arguments, **named)

        def pause(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 1:
                self.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'nodecomm'"
                )
            elif len(looks) == 4:
                self.nodecomm("nodes", "register", NODE, str(pem))

        with (
            patch("nodecomm.cli.nodes.time.sleep", pause),
            patch("nodecomm.storage.postgres.connect_postgres", connect),
        ):
            self.assertIn("accepted", self.nodecomm("nodes", "wait", NODE))
            self.assertEqual(4, len(looks))
            looks = [0.0]
            text = self.nodecomm("nodes", "wait", OTHER_NODE, status=1)
            self.assertIn("is starting up", text)
        self.assertEqual([0.0], looks)

    def test_copy(self) -> None:
        """
        Nodes move from a file to a database without any, with all that is known of
        them.
        """
        state = self.folder / "state"
        document = node_document(key_pair(1))
        read = read_files(document, sign(document, key_pair(1)))
        with open_nodes(state / "nodes.sqlite") as nodes:
            nodes(lambda kept: put_document(kept, read, WRITTEN), True)
            for decision in (Accept(NODE), TrustAgain(NODE), Block(OTHER_NODE)):
                put = partial(put_decision, decision=decision, now=WRITTEN, by="alice")
                nodes(put, True)
            before = nodes(_all, False)
        text = self.nodecomm("nodes", "copy", "sqlite:///nodes.sqlite")
        self.assertIn(f"copied 2 nodes from {state}/nodes.sqlite to postgresql:", text)
        with open_shared_nodes(self.place) as nodes:
            self.assertEqual(before, nodes(_all, False))
            accepted, others, *_ = nodes(lambda kept: kept.changed_since(0), False)
            self.assertEqual(2, len(accepted) + len(others))
        text = self.nodecomm("nodes", "copy", "sqlite:///nodes.sqlite", status=1)
        self.assertIn("nothing is copied", text)
        text = self.nodecomm("nodes", "copy", "sqlite:///nowhere", status=1)
        self.assertIn("nowhere is not there", text)

    def test_seen(self) -> None:
        """
        The keys that any of the servers has seen.
        """
        with blocking(self.place, KEYS) as run:

            def see(connection: object) -> None:
                with immediate(connection):  # type: ignore[arg-type]
                    connection.execute(  # type: ignore[attr-defined]
                        "INSERT INTO seen (digest, address, direction, last) "
                        "VALUES ('MD5=00', '192.0.2.1', 'incoming', 86400)"
                    )

            run(see, True)
        found = self.nodecomm("key", "list", "--seen")
        self.assertIn("1970-01-02T00:00:00Z  incoming  192.0.2.1  MD5=00", found)

    def test_away(self) -> None:
        """
        What is in the way is told, and no password.
        """
        self.config = self.write("postgresql://me:hush@127.0.0.1:1/x")
        for command in (("nodes", "list"), ("key", "list", "--seen")):
            text = self.nodecomm(*command, status=1)
            self.assertIn("postgresql://127.0.0.1:1/x: ", text)
            self.assertIn("refused", text)
            self.assertNotIn("hush", text)
        shown = self.nodecomm("config", "show")
        self.assertIn("postgresql://me:(secret)@127.0.0.1:1/x", shown)
        self.assertNotIn("hush", shown)

    def test_checked(self) -> None:
        """
        What cannot be tried at all is found before anything starts.
        """
        self.config = self.write("postgresql://me:hush@host:port/x")
        text = self.nodecomm("config", "check", status=1)
        self.assertIn("inventory.database", text)
        self.assertIn("port", text)
        self.assertNotIn("hush", text)
        self.config = self.write(self.place.url)
        with patch.dict("sys.modules", psycopg=None):
            text = self.nodecomm("config", "check", status=1)
        self.assertIn("nodecomm[postgresql]", text)
        self.write("sqlite:///x", 'database_password = "hush"')
        self.assertIn("has no effect", self.nodecomm("config", "check", status=1))

    def test_start(self) -> None:
        """
        A server starts without a database that is away, and not with one that it cannot
        use.
        """
        state = str(self.folder / "state")
        reactor = MemoryReactorClock()
        found = open_shared_keys(self.settings(), state, reactor)
        self.assertIsNotNone(found)
        self.config = self.write("postgresql://127.0.0.1:1/x")
        self.assertIsNotNone(open_shared_keys(self.settings(), state, reactor))
        self.config = self.write(self.cluster.url("nowhere"))
        with self.assertRaisesRegex(StartError, "nowhere.*does not exist"):
            open_shared_keys(self.settings(), state, reactor)
        self.config = self.write("sqlite:///x")
        self.assertIsNone(open_shared_keys(self.settings(), state, reactor))
