# SPDX-License-Identifier: MIT
"""
The programs in the README and on the page about embedding are programs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from datetime import datetime, timezone
from pathlib import Path
from runpy import run_path
from typing import Any
from unittest import mock

import pytest
import twisted.internet
from attrs import evolve
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.config.errors import ConfigError
from nodecomm.identity.trust import MemoryCounter
from nodecomm.inventory.lifecycle import Accept, Delete
from nodecomm.inventory.nodes import Status
from nodecomm.inventory.signature import sign
from nodecomm.inventory.site import UploadSite
from nodecomm.server import PortFactory
from nodecomm.server.pools import InlinePool, Workers
from nodecomm.service.embedding import follow_nodes, port_factory
from nodecomm.testing import (
    MemoryClassicClient,
    MemoryClient,
    MemoryKeyStore,
    MemoryNodeRegistry,
    key_pair,
)
from tests.inventory.documents import NODE, OTHER_NODE, node_document
from tests.inventory.web import Connection, basic, head, read_reply
from tests.ports import free_port
from tests.service.node import PATIENCE

README = Path(__file__).parents[1] / "README.rst"
EXAMPLES = README.parent / "docs" / "examples" / "embedded"


def program() -> str:
    """
    The Python program in the README.
    """
    (block,) = re.findall(
        r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", README.read_text()
    )
    return textwrap.dedent(block).strip()


class ReadmeTests(SynchronousTestCase):
    """
    What a reader would paste.
    """

    def test_it_is_short(self) -> None:
        """
        The program has at most 15 lines.
        """
        self.assertLessEqual(len(program().splitlines()), 15)

    def test_it_names_the_commands(self) -> None:
        """
        Both commands that a clone begins with are named, and there are such targets;
        so is the variable that installs CFEngine's programs.
        """
        text = README.read_text()
        root = README.parent
        targets = re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.M)
        for target in ("run", "test"):
            self.assertIn(f"$ make {target}", text)
            self.assertIn(target, targets)
        self.assertIn("NODECOMM_INSTALL_PEERS=1", text)
        self.assertIn(
            "NODECOMM_INSTALL_PEERS", (root / "scripts/install_peers.sh").read_text()
        )

    def test_it_serves_the_folder(self) -> None:
        """
        Pasted and run, with folders that exist, it listens on CFEngine's port, trusts
        a node of the named network on first use and serves it the folder; a node from
        elsewhere is not trusted.
        """
        folder, keys = Path(self.mktemp()), Path(self.mktemp())
        folder.mkdir(parents=True)
        (folder / "promises.cf").write_text("bundle agent main {}\n")
        text = program()
        for name, place in (("/srv/policy", folder), ("/var/lib/example/ppkeys", keys)):
            self.assertIn(name, text)
            text = text.replace(name, str(place.absolute()))
        reactor = MemoryReactorClock()
        with mock.patch.object(twisted.internet, "reactor", reactor, create=True):
            exec(compile(text, "README.rst", "exec"), {})

        self.assertTrue(reactor.hasRun)
        ((port, factory, _, _),) = reactor.tcpServers
        self.assertEqual(5308, port)
        factory.doStart()
        self.addCleanup(factory.doStop)
        client = dial(factory, reactor, "10.1.2.3")
        self.assertTrue(client.identify())
        status = client.stat(b"masterfiles/promises.cf")
        assert status is not None
        self.assertEqual(21, status.size)
        self.assertEqual(
            {b".", b"..", b"promises.cf"}, set(client.opendir(b"masterfiles") or ())
        )
        self.assertIsNone(client.stat(b"/etc/passwd"))
        self.assertEqual(
            {"localhost.priv", "localhost.pub", f"root-{key_pair(1).public.md5}.pub"},
            {file.name for file in keys.iterdir()},
        )
        stranger = dial(factory, reactor, "10.2.2.3", key=2)
        self.assertFalse(stranger.identify())
        for each in (client, stranger):
            each.hang_up()


class PartsTests(SynchronousTestCase):
    """
    The example in docs/embedding.rst with each part by itself.
    """

    def test_it_serves_whom_it_knows(self) -> None:
        """
        A node whose key is in the application's store has the folder; another, on the
        same network, is not trusted.
        """
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        (folder / "promises.cf").write_text("bundle agent main {}\n")
        example = run_path(str(EXAMPLES / "parts.py"))
        store = MemoryKeyStore()
        store.add("root", key_pair(1).public)
        reactor = MemoryReactorClock()

        factory = example["make_factory"](
            reactor, key_pair(0), store, str(folder.absolute())
        )

        factory.doStart()
        self.addCleanup(factory.doStop)
        client = dial(factory, reactor, "10.1.2.3")
        self.assertTrue(client.identify())
        self.assertIsNotNone(client.stat(b"masterfiles/promises.cf"))
        stranger = dial(factory, reactor, "10.1.2.4", key=2)
        self.assertFalse(stranger.identify())
        for each in (client, stranger):
            each.hang_up()


class NodesTests(SynchronousTestCase):
    """
    The example in docs/embedding.rst with nodes, and `follow_nodes`.
    """

    def setUp(self) -> None:
        self.folder, self.share = (Path(self.mktemp()).absolute() for _ in range(2))
        for folder in (self.folder, self.share / NODE, self.share / OTHER_NODE):
            folder.mkdir(parents=True)
        (self.share / NODE / "motd").write_text("for this node alone")
        self.reactor = MemoryReactorClock()

    def make(self, **more: Any) -> Any:
        """
        The example, with what needs neither threads nor a disk for its database.
        """
        made = run_path(str(EXAMPLES / "nodes.py"))["NodeServer"](
            self.reactor,
            str(self.folder),
            str(self.share),
            pool=InlinePool(),
            registry=MemoryNodeRegistry(),
            **more,
        )
        made.factory.doStart()
        self.addCleanup(made.factory.doStop)
        return made

    def done(self, coroutine: Any) -> None:
        """It has ended by now."""
        self.successResultOf(Deferred.fromCoroutine(coroutine))

    def test_from_inventory_to_files(self) -> None:
        """
        An inventory that is put into the application's web site makes a node, which is
        accepted through its registry; then it is trusted and has its folder, and no
        other. Once it is deleted its connection is closed and it is not trusted.
        """
        server = self.make()
        site = UploadSite(server.resource, reactor=self.reactor)
        server.resource.rules = evolve(server.resource.rules, min_free=0)
        document = node_document(key_pair(1), datetime.now(timezone.utc))
        files = {"n.ocs": document, "n.ocs.sign": sign(document, key_pair(1))}
        self.done(server.start())
        registry = server.nodes.registry

        for name, content in files.items():
            connection = Connection(site, "10.1.2.3")
            password = {"Authorization": basic("rudder")}
            asked = head("PUT", f"/inventories/{name}", content, password)
            connection.send(asked + content)
            self.assertEqual(201, read_reply(connection.take()).status)
        self.reactor.advance(1)
        (node,) = self.successResultOf(registry.nodes()).nodes
        self.assertEqual((NODE, Status.PENDING), (node.node_id, node.status))
        self.assertFalse(dial(server.factory, self.reactor, "10.1.2.3").identify())

        self.successResultOf(registry.decide(Accept(NODE), "example"))
        self.reactor.advance(1)
        client = dial(server.factory, self.reactor, "10.1.2.3")
        self.assertTrue(client.identify())
        own = client.stat(f"{self.share}/{NODE}/motd".encode())
        assert own is not None
        self.assertEqual(19, own.size)
        self.assertIsNone(client.stat(f"{self.share}/{OTHER_NODE}".encode()))
        self.assertFalse(client.closed)

        self.successResultOf(registry.decide(Delete(NODE), "example"))
        self.reactor.advance(1)
        client.pump()
        self.assertTrue(client.closed)
        self.assertFalse(dial(server.factory, self.reactor, "10.1.2.3").identify())
        self.done(server.stop())

    @pytest.mark.programs
    def test_the_program_ends(self) -> None:
        """
        As a program it answers, and SIGTERM ends it: no thread keeps the process.
        """
        ports = [f"tcp:{free_port()}:interface=127.0.0.1" for _ in range(2)]
        with subprocess.Popen(
            [
                *(sys.executable, "-u", str(EXAMPLES / "serve_nodes.py")),
                *(str(self.folder), str(self.share), *ports),
            ],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as program:
            assert program.stdout is not None
            try:
                heard = next(line for line in program.stdout if "OverTLS" in line)
                program.terminate()
                rest, _ = program.communicate(timeout=PATIENCE)
            finally:
                program.kill()
        self.assertIn("starting on", heard)
        self.assertIn("Main loop terminated", rest)
        self.assertEqual(program.returncode, 0)

    def test_nobody_follows(self) -> None:
        """
        Without `follow_nodes`, and before it has begun, nobody is refused what may be
        his: the connection is closed. What is no node's is refused as ever.
        """
        made = self.make()
        made.factory.tls.trust.store.add("root", key_pair(1).public)
        for path, closes in ((f"{self.share}/{NODE}", True), ("/etc/passwd", False)):
            client = dial(made.factory, self.reactor, "10.1.2.3")
            self.assertTrue(client.identify())
            self.assertIsNone(client.stat(path.encode()))
            client.pump()
            self.assertEqual(closes, client.closed)
            client.hang_up()

    def test_no_inventory(self) -> None:
        """
        Where the settings have no nodes there are none to follow; what is wrong with
        them is told when the factory is made.
        """
        factory = port_factory(self.reactor, {}, keys=self.mktemp())
        for settings, expected in (({}, ValueError), ({"inventry": {}}, ConfigError)):
            with self.assertRaises(expected):
                follow_nodes(self.reactor, settings, factory, folder=self.folder)
        with self.assertRaises(ConfigError) as caught:
            port_factory(
                self.reactor,
                {"inventory": {"networks": ["192.168."]}},
                keys=self.mktemp(),
            )
        self.assertIn("inventory.networks[0]", str(caught.exception))


def dial(
    factory: Any, reactor: MemoryReactorClock, address: str, key: int = 1
) -> MemoryClient:
    """
    A node at *address* that has connected.
    """
    where = IPv4Address("TCP", address, 40_000)
    return MemoryClient(
        factory.buildProtocol(where), where, reactor, key_pair(key), now=time.time
    )


def dial_classic(
    factory: Any, reactor: MemoryReactorClock, address: str
) -> MemoryClassicClient:
    """
    As `dial`, for a node of the classic protocol.
    """
    where = IPv4Address("TCP", address, 40_000)
    return MemoryClassicClient(
        factory.buildProtocol(where), where, reactor, key_pair(1), now=time.time
    )


class PortFactoryTests(SynchronousTestCase):
    """
    `port_factory`, which the program is built on.
    """

    def make(self, settings: dict[str, Any], **more: Any) -> PortFactory:
        """
        A factory with its keys in a new folder.
        """
        return port_factory(MemoryReactorClock(), settings, keys=self.mktemp(), **more)

    def test_all_that_is_wrong_is_told_at_once(self) -> None:
        """
        Wrong settings are one error with every problem in it, and make no key.
        """
        rule = {"path": "/nonexistent/nodecomm", "admit_ips": ["192.168."]}
        keys = self.mktemp()
        error = self.assertRaises(
            ConfigError,
            port_factory,
            MemoryReactorClock(),
            {"server": {"trustkeysfrom": ["10.1.0.0/99"]}, "access": [rule]},
            keys=keys,
        )

        told = {problem.key_path for problem in error.problems}
        self.assertLessEqual(
            {"server.trustkeysfrom[0].network", "access[0].admit_ips[0]"}, told
        )
        self.assertFalse(Path(keys).exists())

    def test_a_misspelt_key(self) -> None:
        """
        A key that does not exist is an error that names the one meant.
        """
        error = self.assertRaises(
            ConfigError, self.make, {"server": {"allowconects": []}}
        )

        self.assertIn("allowconnects", str(error))

    def test_a_count_needs_a_memory(self) -> None:
        """
        A window that admits so many nodes is refused without a counter that survives
        a restart, and accepted with one.
        """
        window = {"network": "10.1.0.0/16", "count": 3}
        settings = {"server": {"trustkeysfrom": [window]}}

        error = self.assertRaises(ConfigError, self.make, settings)

        self.assertIn("trustkeysfrom[0].count", str(error))
        self.make(settings, counter=MemoryCounter())

    def test_both_protocols(self) -> None:
        """
        An address of allowlegacyconnects may use either protocol, with one key; that
        nothing protects the classic one is told when the factory is made. Any other
        address is closed as soon as it says its first byte in it.
        """
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        (folder / "promises.cf").write_text("bundle agent main {}\n")
        everywhere = ["10.0.0.0/8"]
        reactor = MemoryReactorClock()
        with capturedLogs() as logs:
            factory = port_factory(
                reactor,
                {
                    "server": {
                        "allowallconnects": everywhere,
                        "allowlegacyconnects": ["10.1.0.0/16"],
                        "trustkeysfrom": everywhere,
                    },
                    "access": [
                        {
                            "path": str(folder.absolute()),
                            "shortcut": "masterfiles",
                            "admit_ips": everywhere,
                        }
                    ],
                },
                keys=self.mktemp(),
                workers=Workers.inline(),
            )
        factory.doStart()
        self.addCleanup(factory.doStop)
        newer = dial(factory, reactor, "10.1.2.3")
        node = dial_classic(factory, reactor, "10.1.2.3")
        stranger = dial_classic(factory, reactor, "10.2.2.3")

        (told,) = [event for event in logs if event.get("event") == "classic.allowed"]
        self.assertEqual("10.1.0.0/16", told["networks"])
        self.assertTrue(newer.identify())
        self.assertIsNotNone(newer.stat(b"masterfiles/promises.cf"))
        self.assertTrue(node.identify())
        self.assertIsNotNone(node.stat(b"masterfiles/promises.cf"))
        self.assertEqual(
            b"bundle agent main {}\n", node.sealed_get(b"masterfiles/promises.cf")
        )
        self.assertFalse(stranger.identify())
        self.assertTrue(stranger.closed)
        for each in (newer, node, stranger):
            each.hang_up()

    def test_the_key_stays(self) -> None:
        """
        The second start uses the key of the first.
        """
        keys = self.mktemp()
        port_factory(MemoryReactorClock(), {}, keys=keys)
        before = (Path(keys) / "localhost.priv").read_bytes()

        port_factory(MemoryReactorClock(), {}, keys=keys)

        self.assertEqual(before, (Path(keys) / "localhost.priv").read_bytes())
