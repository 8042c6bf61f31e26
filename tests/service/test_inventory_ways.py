# SPDX-License-Identifier: MIT
"""
The ways in which a node becomes known to a policy server: by its inventory alone, by
an address, by name, by a password, by its own certificate, through a proxy.
"""

from __future__ import annotations

import gc
import gzip
import ipaddress
import shutil
import socket
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest, TestCase

from nodecomm.config.errors import in_toml
from nodecomm.config.model import Settings
from nodecomm.identity.keys import KeyPair
from nodecomm.inventory.lifecycle import Accept, Delete
from nodecomm.inventory.nodes import Status
from nodecomm.inventory.own import node_certificate
from nodecomm.inventory.signature import sign
from nodecomm.service.inventory_receiving import InventoryReceiver
from nodecomm.service.loading import load
from nodecomm.service.nodes_followed import NodesFollowed
from tests.identity.sample import pair
from tests.inventory.documents import NODE, OTHER_NODE, WRITTEN, node_document
from tests.ports import free_port

# The interpreter's release makes no difference.
pytestmark = pytest.mark.programs

CURL = shutil.which("curl")

SERVER = """
[server]
listen = ["tcp:5308:interface=127.0.0.1"]
allowed_networks = ["127.0.0.1"]
state_dir = "{state}"
[inventory]
listen = {listen}
server_id = "root"
min_free = 0
{more}
"""


@lru_cache
def large_pair(number: int) -> KeyPair:
    """Keys of a size that TLS takes."""
    return KeyPair.generate(2048)


class WaysTests(TestCase):
    """A server's part that takes inventories, and curl."""

    timeout = 60

    def setUp(self) -> None:
        if CURL is None:
            raise SkipTest("there is no curl")
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.state = self.folder / "state"
        self.state.mkdir()
        self.ports = [free_port()]
        self.sent = 0
        self.running = False
        self.addCleanup(self.end)

    def settings(self, more: str = "") -> Settings:
        """What a configuration says."""
        path = self.folder / "server.toml"
        listen = [f"tcp:{port}:interface=127.0.0.1" for port in self.ports]
        shown = "[" + ", ".join(map(in_toml, listen)) + "]"
        path.write_text(SERVER.format(state=self.state, listen=shown, more=more))
        found = load(path).settings
        assert found is not None
        return found

    def begin(self, more: str = "") -> Deferred[None]:
        """Start it."""
        settings, state = self.settings(more), str(self.state)
        now = (WRITTEN + timedelta(minutes=1)).timestamp
        self.nodes = NodesFollowed(settings, state, reactor=reactor, now=now)
        self.taking = InventoryReceiver(
            settings, state, large_pair(0), self.nodes, reactor=reactor, now=now
        )

        async def start() -> None:
            await self.nodes.start()
            await self.taking.listen()
            await self.taking.start()

        self.running = True
        return Deferred.fromCoroutine(start())

    def end(self) -> Deferred[None]:
        """Stop it, if it runs."""
        if not self.running:
            return succeed(None)
        self.running = False

        async def stop() -> None:
            await self.taking.stop()
            await self.nodes.stop()

        return Deferred.fromCoroutine(stop())

    def reload(self, more: str = "") -> Deferred[list[str]]:
        """Put another configuration in force."""
        return Deferred.fromCoroutine(self.taking.apply(self.settings(more)))

    def file(self, name: str, data: bytes) -> str:
        """A file to send, or to be configured."""
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def curl(self, *arguments: str, at: int = 0, scheme: str = "https") -> Any:
        """What curl prints; its last argument is a path of the server."""
        *options, path = arguments
        url = f"{scheme}://127.0.0.1:{self.ports[at]}{path}"
        common = ("--silent", "--noproxy", "*", "--max-time", "20")
        done: Deferred[tuple[bytes, bytes, int]] = getProcessOutputAndValue(
            CURL, (*common, *options, url), env={"HOME": "/nowhere"}
        )
        return done.addCallback(lambda result: (result[0].decode(), result[2]))

    @inlineCallbacks
    def send(
        self,
        key: KeyPair,
        *options: str,
        node: str = NODE,
        box: str = "inventories",
        wanted: str = "201",
        scheme: str = "https",
        **document: Any,
    ) -> Any:
        """Send an inventory; then all of it was decided about."""
        self.sent += 1
        content = node_document(key, node_id=node, **document)
        stem = f"{node}_{self.sent}"
        for name, data in (
            (f"{stem}.ocs.gz", gzip.compress(content)),
            (f"{stem}.ocs.sign", sign(content, key)),
        ):
            out, status = yield self.curl(
                *(self.CHECK, "-w", "%{http_code}", *options),
                *("-T", self.file(name, data), f"/{box}/"),
                scheme=scheme,
            )
            self.assertEqual((out[-3:], status), (wanted, 0), out)
        spool = self.taking.resource.receiving.spool
        yield self.until(lambda: not spool.waiting and not spool.undecided)

    def until(self, true: Callable[[], object]) -> Deferred[None]:
        """Fires when it is so."""
        done: Deferred[None] = Deferred()

        def look() -> None:
            if true():
                done.callback(None)
            else:
                reactor.callLater(0.01, look)

        look()
        return done

    @inlineCallbacks
    def status(self, node: str = NODE) -> Any:
        """What a node is; None for one that nobody knows."""
        found = yield self.nodes.registry.node(node)
        return found and found.status

    def failures(self) -> list[str]:
        """Why what was not believed was not."""
        spool = self.taking.resource.receiving.spool
        return [each.refusal.code for each in spool.failed()]

    PASSWORD = ("--user", "rudder:rudder")
    CHECK = "--insecure"

    @inlineCallbacks
    def test_registered(self) -> Any:
        """
        A node of [[registered]] is accepted before its first inventory, and only what
        its key has signed is believed; what an operator decides later stands.
        """
        mine = pair(1)
        table = f'[[registered]]\nid = "{NODE}"\nkey = """\n'
        table += mine.public.to_pem().decode() + '"""\n'
        yield self.begin(table)
        self.assertEqual((yield self.status()), Status.ACCEPTED)

        yield self.send(pair(2), *self.PASSWORD)
        self.assertEqual(self.failures(), ["id-conflict"])
        yield self.send(mine, *self.PASSWORD)
        self.assertEqual(self.failures(), ["id-conflict"])
        found = yield self.nodes.registry.node(NODE)
        self.assertEqual((found.status, found.key), (Status.ACCEPTED, mine.public))

        yield self.nodes.registry.decide(Delete(NODE), "operator")
        yield self.end()
        yield self.begin(table)
        self.assertEqual((yield self.status()), Status.DELETED)

    @inlineCallbacks
    def test_a_captured_inventory(self) -> Any:
        """
        Whoever sends again what a node has sent changes nothing, whatever he calls it;
        what is older than the last and was never here is refused.
        """
        key = pair(4)
        yield self.begin()
        for minutes in (0, 1):
            when = WRITTEN + timedelta(minutes=minutes)
            yield self.send(key, *self.PASSWORD, written=when)
        before = yield self.nodes.registry.node(NODE)
        self.assertEqual(self.failures(), [])

        for minutes, failures in ((0, []), (1, []), (-1, ["replay"])):
            when = WRITTEN + timedelta(minutes=minutes)
            yield self.send(key, *self.PASSWORD, written=when)
            self.assertEqual(self.failures(), failures)
        after = yield self.nodes.registry.node(NODE)
        self.assertEqual(before.known, after.known)

    @inlineCallbacks
    def test_auto_accept(self) -> Any:
        """Nodes of some addresses need no operator; a proxy speaks for others."""
        yield self.begin(
            'plain = true\ntrusted_proxies = ["127.0.0.1"]\n'
            'networks = ["192.0.2.0/24"]\nauto_accept = ["192.0.2.7"]'
        )
        web = {"scheme": "http"}
        for node, address, wanted in (
            (NODE, "192.0.2.7", Status.ACCEPTED),
            (OTHER_NODE, "192.0.2.8", Status.PENDING),
        ):
            forwarded = ("-H", f"X-Forwarded-For: 127.9.9.9, {address}")
            key = pair(len(node) + wanted.value.count("c"))
            yield self.send(key, *self.PASSWORD, *forwarded, node=node, **web)
            self.assertEqual((yield self.status(node)), wanted, self.failures())
        for more in ([], ["-H", "X-Forwarded-For: 198.51.100.1"]):
            yield self.send(pair(3), *self.PASSWORD, *more, wanted="403", **web)

        # Another configuration, and a node that comes then.
        proxy = 'plain = true\ntrusted_proxies = ["127.0.0.1"]\n'
        networks = 'networks = ["192.0.2.0/24"]\nauto_accept = ["192.0.2.9"]'
        self.assertEqual((yield self.reload(proxy + networks)), [])
        forwarded = ("-H", "X-Forwarded-For: 192.0.2.9")
        # Another name, too: one that two nodes have is for an operator to decide.
        name = '[{"rudder_override_hostname": "third"}]'
        told = f"<CUSTOM_PROPERTIES>{name}</CUSTOM_PROPERTIES>"
        options = (*self.PASSWORD, *forwarded)
        yield self.send(pair(4), *options, node="third", more=told, **web)
        self.assertEqual((yield self.status("third")), Status.ACCEPTED)

    @inlineCallbacks
    def test_a_nodes_own_certificate(self) -> Any:
        """
        Rudder 9.0, where everybody has a certificate: an accepted node needs no
        password, in either box; others do, and a node that is not accepted any more.
        """
        key = large_pair(1)
        certificate = node_certificate(key, NODE, WRITTEN)
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        mine = ["--cert", self.file("agent.cert", pem)]
        mine += ["--key", self.file("localhost.priv", key.to_pem())]
        shown = self.file("server.pem", server_certificate(2))
        secret = self.file("server.key", large_pair(2).to_pem())
        # Nothing but what curl checks by itself, and TLS 1.3.
        self.CHECK = "--tlsv1.3"
        mine += ["--location", "--show-error", "--cacert", shown]
        yield self.begin(f'certificate = {{ cert = "{shown}", key = "{secret}" }}')
        self.assertEqual((yield self.curl(*mine, "/uuid")), ("root\n", 0))
        yield self.send(key, *mine, wanted="401")
        yield self.send(key, *mine, *self.PASSWORD, "-o", "/dev/null")
        self.assertEqual((yield self.status()), Status.PENDING)
        yield self.send(key, *mine, wanted="401", box="inventory-updates")

        yield self.nodes.registry.decide(Accept(NODE), "operator")
        yield self.until(lambda: self.nodes.knows_key(key.public))
        for box in ("inventories", "inventory-updates"):
            yield self.send(key, *mine, box=box)
        yield self.nodes.registry.decide(Delete(NODE), "operator")
        yield self.until(lambda: not self.nodes.knows_key(key.public))
        yield self.send(key, *mine, wanted="401")

    @inlineCallbacks
    def test_certificates_and_ports_of_a_reload(self) -> Any:
        """
        A certificate of an operator's own is what nodes see; after a reload its new
        files, and where to listen; with mistakes all stays as it was.
        """
        names = {}
        for number in (1, 2):
            names[number] = self.file(f"{number}.pem", server_certificate(number))
        cert, key = self.folder / "cert.pem", self.folder / "key.pem"
        files = f'certificate = {{ cert = "{cert}", key = "{key}" }}'

        def install(number: int) -> None:
            shutil.copy(names[number], cert)
            key.write_bytes(large_pair(number).to_pem())

        install(1)
        yield self.begin(files)
        asked = yield self.curl("--cacert", names[1], "/uuid")
        self.assertEqual(asked, ("root\n", 0))

        install(2)
        self.ports.append(free_port())
        self.assertEqual((yield self.reload(files)), [])
        for at in (0, 1):
            asked = yield self.curl("--cacert", names[2], "/uuid", at=at)
            self.assertEqual(asked, ("root\n", 0))
        first = self.ports.pop(0)
        cert.write_text("nothing")
        self.assertEqual((yield self.reload(files)), ["inventory.certificate"])
        asked = yield self.curl("--cacert", names[2], "/uuid")
        self.assertEqual(asked, ("root\n", 0))

        kept = self.ports[0]
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            self.ports = [first, kept, other.getsockname()[1]]
            install(1)
            self.assertEqual((yield self.reload(files)), ["inventory.listen"])
        _, status = yield self.curl("--insecure", "/uuid")
        self.assertEqual(status, 7)
        asked = yield self.curl("--cacert", names[1], "/uuid", at=1)
        self.assertEqual(asked, ("root\n", 0))
        # Older releases of Twisted leave the socket that could not be bound open.
        gc.collect()
        self.flushWarnings()


@lru_cache
def server_certificate(number: int) -> bytes:
    """A certificate for this machine."""
    key = large_pair(number).private
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"server {number}")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(number)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .public_key(key.public_key())
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)
