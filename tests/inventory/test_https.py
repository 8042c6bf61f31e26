# SPDX-License-Identifier: MIT
"""
Inventories over HTTPS, sent by the commands that nodes use.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from nodecomm.access.networks import AddressList
from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.inventory.deciding import decided_by
from nodecomm.inventory.doors import Account, UploadRules
from nodecomm.inventory.https import (
    CertificateError,
    OverTLS,
    certificate_from_files,
    own_key_certificate,
)
from nodecomm.inventory.nodes import Status
from nodecomm.inventory.own import node_certificate
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.receiving import Receiving
from nodecomm.inventory.resource import InventoryResource
from nodecomm.inventory.signature import sign
from nodecomm.inventory.site import UploadSite
from nodecomm.inventory.spool import Spool
from nodecomm.server.pools import InlinePool
from nodecomm.testing import MemoryNodeRegistry
from tests.identity.sample import pair
from tests.inventory.documents import NODE, WRITTEN, node_document

CURL = shutil.which("curl")

NOW = WRITTEN + timedelta(minutes=1)


@lru_cache
def server_pair() -> KeyPair:
    """The server's key, of a size that TLS takes."""
    return KeyPair.generate(2048)


def pin(key: PublicKey) -> str:
    """What curl compares a server's key with."""
    loaded = serialization.load_der_public_key(der(key))
    spki = loaded.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return "sha256//" + base64.b64encode(hashlib.sha256(spki).digest()).decode()


def der(key: PublicKey) -> bytes:
    """The key as PKCS#1."""
    lines = key.to_pem().decode().splitlines()
    return base64.b64decode("".join(lines[1:-1]))


class CurlTests(TestCase):
    """A server on this machine, and curl as nodes call it."""

    timeout = 60

    @inlineCallbacks
    def setUp(self) -> Any:  # type: ignore[override]
        if CURL is None:
            raise SkipTest("there is no curl")
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.registry = MemoryNodeRegistry(now=lambda: NOW)
        yield self.registry.start()
        self.addCleanup(self.registry.stop)
        spool = Spool(self.folder / "spool", seconds=time.monotonic, now=lambda: NOW)
        receiving = Receiving(
            spool, decided_by(self.registry), reactor=reactor, pool=InlinePool()
        )
        yield receiving.start()
        self.addCleanup(receiving.stop)
        self.node = pair()
        self.keys: set[PublicKey] = set()
        rules = UploadRules(
            networks=AddressList(["127.0.0.1"]),
            accounts={
                Box.FIRST: [Account("rudder", "rudder")],
                Box.UPDATE: [Account("rudder", "s3cret:!")],
            },
            min_free=0,
        )
        self.resource = InventoryResource(
            receiving,
            rules,
            server_id="root",
            reactor=reactor,
            pool=InlinePool(),
            knows_key=lambda key: key in self.keys,
        )
        factory = OverTLS(
            own_key_certificate(server_pair(), "root", NOW),
            UploadSite(self.resource, reactor=reactor),
            reactor=reactor,
            ask_for_keys=True,
        )
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = yield endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        self.url = f"https://127.0.0.1:{port.getHost().port}"

    def file(self, name: str, data: bytes) -> str:
        """A file to send."""
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def node_files(self, stem: str) -> tuple[str, str]:
        """A node's inventory, compressed, and its signature."""
        document = node_document(self.node)
        return (
            self.file(f"{stem}.ocs.gz", gzip.compress(document)),
            self.file(f"{stem}.ocs.sign", sign(document, self.node)),
        )

    def curl(self, *arguments: str) -> Deferred[tuple[bytes, bytes, int]]:
        """Run curl."""
        result: Deferred[tuple[bytes, bytes, int]] = getProcessOutputAndValue(
            CURL, arguments, env={"HOME": "/nowhere"}
        )
        return result

    @inlineCallbacks
    def check(self, *commands: Callable[[str], list[str]]) -> Any:
        """Both files go by each of the commands, and the node is there."""
        for number, command in enumerate(commands):
            stem = f"{NODE}_2024-03-21T16:07:{number:02}+01:00"
            for path in self.node_files(stem):
                out, error, status = yield self.curl(*command(path))
                self.assertEqual((status, error), (0, b""), (command(path), out))
        nodes = yield self.registry.nodes(Status.PENDING)
        self.assertEqual([node.node_id for node in nodes.nodes], [NODE])
        self.assertEqual(self.resource.receiving.spool.failed(), [])

    @inlineCallbacks
    def test_rudder_4(self) -> Any:
        """Rudder 4.0: no check of the server, no tool of its own."""
        common = ["-k", "-1", "-f", "-s", "--proxy", ""]
        out, _, status = yield self.curl("-L", *common, f"{self.url}/uuid")
        self.assertEqual((out, status), (b"root\n", 0))
        first = ["--user", "rudder:rudder", "-T"]
        later = ["--user", "rudder:s3cret:!", "-T"]
        updates = f"{self.url}/inventory-updates/"
        yield self.check(
            lambda path: ["-L", *common, *first, path, f"{self.url}/inventories/"],
            lambda path: [
                "-L",
                *common,
                *later,
                path,
                updates,
            ],
        )

    @inlineCallbacks
    def test_rudder_6_to_8(self) -> Any:
        """Rudder 6.0, then 7.0 with the server's key pinned, then 8.0 with TLS 1.3."""
        to = [
            *("--location", "--fail", "--connect-timeout", "10"),
            *("--silent", "--show-error", "--user", "rudder:rudder"),
        ]
        pinned = ["--insecure", "--pinnedpubkey", pin(server_pair().public)]
        url = f"{self.url}/inventories/"
        yield self.check(
            lambda path: [
                "--tlsv1.2",
                "-k",
                "-L",
                "-f",
                "-s",
                "--proxy",
                "",
                "--user",
                "rudder:rudder",
                "-T",
                path,
                url,
            ],
            lambda path: ["--tlsv1.2", *to, *pinned, "--upload-file", path, url],
            lambda path: [
                "--tlsv1.3",
                *to,
                *pinned,
                "--noproxy",
                "*",
                "--upload-file",
                path,
                "-o",
                "/dev/null",
                url,
            ],
        )

    @inlineCallbacks
    def test_another_key_is_pinned(self) -> Any:
        """A server with another key than the pinned one gets nothing."""
        path, _ = self.node_files("a")
        _, _, status = yield self.curl(
            *("--insecure", "--silent", "--pinnedpubkey", pin(pair().public)),
            *("--user", "rudder:rudder", "-T", path, f"{self.url}/inventories/"),
        )

        self.assertEqual(status, 90)
        self.assertEqual(self.resource.receiving.spool.waiting, 0)

    @inlineCallbacks
    def test_a_certificate_in_place_of_a_password(self) -> Any:
        """A node's own key admits it (Rudder 9.0); a key that nobody knows does not."""
        # OpenSSL is not content with the small keys of other tests.
        self.node = KeyPair.generate(2048)
        self.keys.add(self.node.public)
        certificate = node_certificate(self.node, NODE, WRITTEN)
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        mine = ["--cert", self.file("agent.cert", pem)]
        mine += ["--key", self.file("localhost.priv", self.node.to_pem())]
        common = ["--insecure", "--fail", "--silent", *mine]
        url = f"{self.url}/inventories/"
        yield self.check(lambda path: [*common, "--upload-file", path, url])

        self.keys.clear()
        path, _ = self.node_files("b")
        _, _, status = yield self.curl(*common, "--upload-file", path, url)
        self.assertEqual(status, 22)

    @inlineCallbacks
    def test_refused_before_it_is_sent(self) -> Any:
        """Curl hears that a large file is refused, and sends no more of it."""
        path = self.folder / "large.ocs"
        with path.open("wb") as file:
            file.truncate(2 << 30)
        out, _, _ = yield self.curl(
            *("--insecure", "--silent", "--user", "rudder:rudder"),
            *("-o", "/dev/null", "-w", "%{http_code} %{size_upload}"),
            *("-T", str(path), f"{self.url}/inventories/"),
        )

        code, size = out.split()
        self.assertEqual(code, b"413")
        self.assertLess(int(size), 50 << 20)

    @inlineCallbacks
    def test_a_file_of_some_megabytes(self) -> Any:
        """A document in many pieces is stored whole; it is not believed, being none."""
        document = bytes(range(256)) * (3 << 12)
        for name, data in (("a.ocs", document), ("a.ocs.sign", b"?")):
            out, _, _ = yield self.curl(
                *("--insecure", "--silent", "--user", "rudder:rudder"),
                *("-w", "%{http_code}", "-T", self.file(name, data)),
                f"{self.url}/inventories/",
            )
            self.assertEqual(out, b"201")

        (failed,) = self.resource.receiving.spool.failed()
        kept = self.folder / "spool" / "failed" / failed.serial / "a.ocs"
        self.assertEqual(kept.read_bytes(), document)
        self.assertEqual(failed.refusal.code, "not-xml")


class CertificateTests(SynchronousTestCase):
    """Certificates of an operator's own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def write(self, name: str, data: bytes) -> str:
        """A file."""
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def pem(self) -> bytes:
        """A certificate for the server's key."""
        certificate = node_certificate(server_pair(), "root", NOW)
        return certificate.public_bytes(serialization.Encoding.PEM)

    def test_files(self) -> None:
        """A certificate and its key make a context."""
        certificate_from_files(
            self.write("cert", self.pem()), self.write("key", server_pair().to_pem())
        )

    def test_mistakes_name_the_file(self) -> None:
        """What cannot be used is told with the file that it is in."""
        cert = self.write("cert", self.pem())
        key = self.write("key", server_pair().to_pem())
        other = self.write("other", KeyPair.generate(2048).to_pem())
        nothing = self.write("nothing", b"nothing\n")
        missing = str(self.folder / "missing")
        for certificate, private, told in (
            (missing, key, f"{missing}: No such file"),
            (nothing, key, f"{nothing}: "),
            (cert, missing, f"{missing}: No such file"),
            (cert, nothing, f"{nothing}: "),
            (cert, other, f"{other}: "),
            (key, key, f"{key}: "),
        ):
            with self.assertRaises(CertificateError) as caught:
                certificate_from_files(certificate, private)
            self.assertIn(told, str(caught.exception))

    def test_a_key_that_is_too_small(self) -> None:
        """A key that TLS does not take is told, not found out by the first node."""
        with self.assertRaises(CertificateError) as caught:
            own_key_certificate(pair(), "root", NOW)

        self.assertIn("the server's own key: ", str(caught.exception))
