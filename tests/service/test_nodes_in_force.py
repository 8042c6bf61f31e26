# SPDX-License-Identifier: MIT
"""
Two servers as processes that share the nodes: what an operator decides is in force on
both, also on the one that was dead at that moment.
"""

from __future__ import annotations

import time
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest
from OpenSSL import SSL

from nodecomm.cli import main
from nodecomm.identity.store import FileKeyStore
from nodecomm.testing import key_pair
from tests.ports import free_port
from tests.service.node import PATIENCE, Node, Server

pytestmark = pytest.mark.programs

CONFIGURATION = """
[server]
listen = ["tcp:{port}:interface=127.0.0.1"]
allowed_networks = ["127.0.0.1"]
allowallconnects = ["127.0.0.1"]
state_dir = "{folder}/state"
[inventory]
listen = []
server_id = "root"
database = "sqlite:///{shared}/nodes.sqlite"
[[node_files]]
path = "{shared}/{{node_id}}/"
"""

NODE = "2bb4e01b-be7e-4c9e-9c30-177aada44869"


class Sharing:
    """
    One of the servers.
    """

    def __init__(self, folder: Path, shared: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.port = free_port()
        self.config = folder / "server.toml"
        self.file = f"{shared}/{NODE}/f".encode()
        self.config.write_text(
            CONFIGURATION.format(port=self.port, folder=folder, shared=shared)
        )
        self.store = FileKeyStore(folder / "state" / "ppkeys")

    def begin(self) -> Server:
        server = Server(self.folder, "-c", str(self.config))
        server.wait_for("serving on")
        return server

    def decide(self, *words: str) -> None:
        """An operator's command."""
        out, err = StringIO(), StringIO()
        status = main.run(["nodes", *words, "-c", str(self.config)], out, err)
        assert status == 0, err.getvalue()

    def answer(self) -> bytes | None:
        """What a new connection with the node's key is told; None: not trusted."""
        try:
            with closing(Node(self.port)) as node:
                return node.stat(self.file)[:3]
        except (SSL.Error, OSError):
            return None

    def until(self, wanted: bytes | None) -> None:
        """Wait until a new connection is told that."""
        end = time.monotonic() + PATIENCE
        while (told := self.answer()) != wanted:
            assert time.monotonic() < end, told
            time.sleep(0.05)


def test_two_servers(tmp_path: Path) -> None:
    """
    Without any reload: accepted on both; deleted on the one that lives, whose open
    connection ends, and on the other when it is there again.
    """
    shared = tmp_path / "shared"
    (shared / NODE).mkdir(parents=True)
    (shared / NODE / "f").write_text("x")
    one, two = (Sharing(tmp_path / name, shared) for name in ("one", "two"))
    public = key_pair(1).public
    pem = tmp_path / "node.pem"
    pem.write_bytes(public.to_pem())
    with one.begin() as living, two.begin() as dying:
        assert one.answer() is None
        one.decide("register", NODE, str(pem))
        one.until(b"OK:")
        two.until(b"OK:")
        for server in (one, two):
            server.store.add("root", public)
        dying.process.kill()
        dying.wait()
        with closing(Node(one.port)) as node:
            assert node.stat(one.file).startswith(b"OK:")
            two.decide("delete", NODE)
            assert node.read() == b""
        one.until(None)
        living.wait_for("is not stored any more")
        assert not one.store.entries()
        assert len(two.store.entries()) == 1
        with two.begin() as begun:
            begun.wait_for("is not stored any more")
            assert two.answer() is None
            assert not two.store.entries()
