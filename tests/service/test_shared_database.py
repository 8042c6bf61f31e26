# SPDX-License-Identifier: MIT
"""
Two servers that share their nodes in PostgreSQL, as processes.
"""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import threading
import time
from datetime import datetime, timezone
from io import StringIO
from operator import methodcaller
from pathlib import Path

import pytest
from OpenSSL import SSL

from nodecomm.cli import main
from nodecomm.inventory.failures import read_failed
from nodecomm.inventory.node_postgres import open_shared_nodes
from nodecomm.inventory.signature import sign
from nodecomm.testing import key_pair
from tests.inventory.documents import node_document
from tests.inventory.web import basic
from tests.ports import free_port
from tests.postgres import Cluster
from tests.service.node import PATIENCE, Node, Server

pytestmark = [pytest.mark.postgresql, pytest.mark.programs]

SERVER = """
[server]
listen = ["tcp:{port}:interface=127.0.0.1"]
allowed_networks = ["127.0.0.1"]
state_dir = "{folder}/state"
[inventory]
listen = ["tcp:{site}:interface=127.0.0.1"]
plain = true
server_id = "root"
min_free = 0
database = "{database}"
[[node_files]]
path = "{share}/{{node_id}}/"
"""

NODE = "00000000-0000-4000-8000-000000000001"

#: Threads that send inventories, and how many nodes each is.
SENDERS = 2
NODES = 12


class One:
    """
    One of the servers.
    """

    def __init__(self, folder: Path, database: str, share: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.port, self.site = free_port(), free_port()
        self.config = folder / "server.toml"
        self.config.write_text(
            SERVER.format(
                port=self.port,
                site=self.site,
                folder=folder,
                share=share,
                database=database,
            )
        )
        self.boot()

    def boot(self) -> None:
        """Start, or start again."""
        self.server = Server(self.folder, "-c", str(self.config))

    def wait(self) -> None:
        """Until it serves."""
        self.server.wait_for("serving on")

    def nodecomm(self, *words: str) -> str:
        """What a command on this server's nodes prints."""
        out, err = StringIO(), StringIO()
        command, *rest = words
        config = ("-c", str(self.config))
        assert main.run(["nodes", command, *config, *rest], out, err) == 0, (
            err.getvalue()
        )
        return out.getvalue()

    def put(self, name: str, data: bytes) -> int:
        """Upload a file once; 0: nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.site, timeout=10)
        try:
            headers = {"Authorization": basic("rudder")}
            connection.request("PUT", f"/inventories/{name}", data, headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def spool(self) -> Path:
        """Where inventories wait."""
        return self.folder / "state" / "inventories"


class Sender(threading.Thread):
    """
    Sends inventories of many nodes, each half to another server.
    """

    def __init__(self, number: int, servers: list[One]) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.servers = servers
        self.sent: dict[str, tuple[bytes, bytes]] = {}
        self.statuses: set[int] = set()

    def run(self) -> None:
        """Send."""
        for each in range(NODES):
            node = f"node-{self.number}-{each}"
            now = datetime.now(timezone.utc)
            document = node_document(key_pair(2), now, node_id=node)
            signature = sign(document, key_pair(2))
            first = self.servers[each % 2]
            second = self.servers[(each // 2) % 2]
            self.put(first, f"{node}.ocs", document)
            self.put(second, f"{node}.ocs.sign", signature)
            self.sent[node] = document, signature

    def put(self, server: One, name: str, data: bytes) -> None:
        """Until the server has it, as nodes do."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            status = server.put(name, data)
            self.statuses.add(status)
            if status in (201, 204):
                return
            time.sleep(0.02)
        raise AssertionError(f"{name} was not taken")


@pytest.fixture
def database() -> Cluster:
    """A database server that may be restarted."""
    from tests.postgres import cluster  # noqa: PLC0415

    return cluster()


def test_two_servers(tmp_path: Path, database: Cluster) -> None:
    """
    What one server learns is in force at the other. The database crashes and one
    server is killed while inventories come: what was acknowledged is there once, and
    files are served meanwhile.
    """
    name = database.make_database()
    share = tmp_path / "share"
    (share / NODE).mkdir(parents=True)
    (share / NODE / "file").write_text("mine")
    path = bytes(share / NODE / "file")
    servers = [
        One(tmp_path / each, database.url(name), share) for each in ("here", "there")
    ]
    here, there = servers
    try:
        for each in servers:
            each.wait()
        # A node that one of them hears of, is accepted at the other.
        document = node_document(key_pair(1), datetime.now(timezone.utc), node_id=NODE)
        assert here.put("a.ocs", document) == 201
        assert here.put("a.ocs.sign", sign(document, key_pair(1))) == 201
        there.nodecomm("wait", NODE, "--timeout", str(PATIENCE))
        there.nodecomm("accept", NODE)
        node = _served(here, path)
        _served(there, path).close()

        # Made here: each thread would make its own.
        key_pair(2)
        senders = [Sender(number, servers) for number in range(SENDERS)]
        for sender in senders:
            sender.start()
        time.sleep(0.1)
        database.stop(signal.SIGQUIT)
        # Kept connections, and the files of a node, do not mind.
        assert node.stat(path).startswith(b"OK:")
        _served(there, path).close()
        there.server.signal(signal.SIGKILL)
        there.server.wait()
        there.boot()
        there.wait()
        database.start()
        for sender in senders:
            sender.join(PATIENCE)
            assert sender.statuses <= {0, 201, 204, 503}
        sent = {node: both for sender in senders for node, both in sender.sent.items()}
        assert len(sent) == SENDERS * NODES
        _quiet(servers)
        node.close()
        listed = json.loads(here.nodecomm("list", "--json"))["nodes"]
        assert {node["id"] for node in listed} == {NODE, *sent}
    finally:
        for each in servers:
            each.server.__exit__(None, None, None)
    for each in servers:
        assert read_failed(each.spool()) == []
    with open_shared_nodes(database.place(name)) as run:
        for node_id, files in sent.items():
            kept = run(methodcaller("document", node_id), False)
            assert (kept.document, kept.signature) == files
            events = run(methodcaller("events", node_id), False)
            assert [event.what for event in events] == ["pending"]
    shutil.rmtree(share)


def _served(server: One, path: bytes) -> Node:
    """
    A connection on which a node has been told of its file, in time.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            node = Node(server.port)
        except (OSError, SSL.Error):
            # Its key is not trusted yet.
            pass
        else:
            if node.stat(path).startswith(b"OK:"):
                return node
            node.close()
        assert time.monotonic() < end
        time.sleep(0.05)


def _quiet(servers: list[One]) -> None:
    """
    Wait until everything is decided about.
    """
    end = time.monotonic() + PATIENCE
    for server in servers:
        for folder in ("incoming", "ready"):
            while any((server.spool() / folder).iterdir()):
                left = list((server.spool() / folder).iterdir())
                assert time.monotonic() < end, (left, server.server.out.read_text())
                time.sleep(0.05)
