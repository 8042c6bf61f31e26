# SPDX-License-Identifier: MIT
"""
Servers in memory that inventories are sent to: ours, and ones that do as they like.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from nodecomm.client.address import ServerAddress
from nodecomm.identity.keys import KeyPair
from nodecomm.inventory.https import OverTLS, own_key_certificate
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.upstream import InventoryUpstream
from nodecomm.inventory.upstream_trust import IServerCheck, PinnedKeys
from nodecomm.server.pools import InlinePool
from nodecomm.testing.network import MemoryNetwork
from tests.inventory.web import Server

NOW = datetime.now(timezone.utc)

HUB = ServerAddress("hub.example.com", 443)

ACCOUNTS = {Box.FIRST: ("rudder", "rudder"), Box.UPDATE: ("rudder", "secret")}


@cache
def hub_pair() -> KeyPair:
    """The server's key, of a size that TLS takes."""
    return KeyPair.generate(2048)


@cache
def authority() -> tuple[Any, x509.Certificate]:
    """An authority: its key, and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, certificate(key.public_key(), "An authority", key, ca=True)


def certificate(
    public: Any,
    name: str,
    signer: Any,
    *,
    issuer: str = "An authority",
    names: tuple[x509.GeneralName, ...] = (),
    since: datetime = NOW - timedelta(days=1),
    until: datetime = NOW + timedelta(days=1),
    ca: bool = False,
) -> x509.Certificate:
    """A certificate."""

    def called(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(called(name))
        .issuer_name(called(issuer))
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(list(names)), critical=False
        )
    return builder.sign(signer, hashes.SHA256())


def elliptic_context(
    issued_by: tuple[Any, x509.Certificate] | None = None, **more: Any
) -> tuple[SSL.Context, x509.Certificate]:
    """A server's context with a key that is not RSA, and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = key if issued_by is None else issued_by[0]
    made = certificate(key.public_key(), "hub", signer, **more)
    context = own_key_certificate(hub_pair(), "root", NOW)
    context.use_certificate(made)
    context.use_privatekey(key)
    return context, made


class Script(Protocol):
    """
    The server's end of a connection that does as it is told, and keeps what came.
    """

    def __init__(self, owner: Scripted) -> None:
        self.owner = owner
        self.got = b""
        self.asked = 0
        self.lost: Failure | None = None

    def connectionMade(self) -> None:
        """A client, before anything of it is known."""
        self.owner.on_connect(self)

    def dataReceived(self, data: bytes) -> None:
        """The head of a request is what the script waits for."""
        self.got += data
        if self.got.count(b"\r\n\r\n") > self.asked and self.owner.reads(self.got):
            self.asked += 1
            self.owner.on_request(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note it."""
        self.lost = reason

    def say(self, data: bytes) -> None:
        """Send something."""
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        """Close the connection in order."""
        assert self.transport is not None
        self.transport.loseConnection()


def nothing(_: Script) -> None:
    """Do nothing."""


@define(eq=False)
class Scripted:
    """
    A server that does as a test says.

    Attributes:
        on_connect: Done when there is a connection.
        on_request: Done when a request has come, as far as *reads* wants it.
        reads: Whether enough of a request has come.
    """

    on_request: Any = nothing
    on_connect: Any = nothing
    reads: Any = lambda got: True
    seen: list[Script] = field(factory=list)

    @property
    def factory(self) -> Any:
        """For endpoints."""
        return Factory.forProtocol(self._protocol)

    @property
    def got(self) -> bytes:
        """All that has come over all connections."""
        return b"".join(each.got for each in self.seen)

    def _protocol(self) -> Script:
        script = Script(self)
        self.seen.append(script)
        return script


@define(eq=False)
class Hub:
    """
    A network with a server on it.
    """

    folder: Path
    network: MemoryNetwork = field(
        factory=lambda: MemoryNetwork(client_host="192.0.2.7")
    )
    upstreams: list[InventoryUpstream] = field(factory=list)
    servers: list[Server] = field(factory=list)

    def ours(self, **more: Any) -> Server:
        """Our own server listens."""
        server = Server(self.folder / "hub", clock=self.network.clock, **more)
        self.servers.append(server)
        self.listen(server.site)
        return server

    def scripted(self, context: SSL.Context | None = None, **more: Any) -> Scripted:
        """A server that does as it is told."""
        server = Scripted(**more)
        self.listen(server.factory, context)
        return server

    def listen(self, factory: Any, context: SSL.Context | None = None) -> None:
        """Whoever it is listens, behind TLS."""
        context = context or own_key_certificate(hub_pair(), "root", NOW)
        over = OverTLS(context, factory, reactor=self.network.clock, ask_for_keys=True)
        self.network.listen(HUB, over)

    def upstream(
        self,
        check: IServerCheck | None = None,
        url: str = "https://hub.example.com/",
        **more: Any,
    ) -> InventoryUpstream:
        """Who sends to it."""
        more.setdefault("accounts", ACCOUNTS)
        more.setdefault("pool", InlinePool())
        more.setdefault("endpoint", self.network.endpoint_for(HUB))
        made = InventoryUpstream(
            self.network.clock,
            url,
            check=check or PinnedKeys([hub_pair().public]),
            **more,
        )
        self.upstreams.append(made)
        return made

    def result(self, deferred: Deferred[Any]) -> Any:
        """What it fires with."""
        return self.network.result_of(deferred)

    def failure(self, deferred: Deferred[Any]) -> Exception:
        """What it fails with."""
        return self.network.failure_of(deferred)

    def end(self) -> None:
        """
        Close everything. Nothing is left over: no connection, and no timer of ours.
        """
        for upstream in self.upstreams:
            self.result(upstream.close())
        self.network.advance(60)
        for server in self.servers:
            self.result(server.resource.receiving.stop())
        assert [each for each in self.network.connections if not each.over] == []
        assert self.network.clock.getDelayedCalls() == []
