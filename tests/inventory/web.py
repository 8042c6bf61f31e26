# SPDX-License-Identifier: MIT
"""
A site in memory that takes inventories, and a sender of raw requests.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from attrs import define, field, frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.server import Site

from nodecomm.access.networks import AddressList
from nodecomm.inventory.doors import Account, UploadRules
from nodecomm.inventory.judgement import Judgement, Outcome
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.receiving import Delivery, Receiving
from nodecomm.inventory.resource import InventoryResource
from nodecomm.inventory.site import UploadSite
from nodecomm.inventory.spool import Spool
from nodecomm.server.pools import InlinePool

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)

RULES = UploadRules(
    networks=AddressList(["192.0.2.0/24"]),
    accounts={
        Box.FIRST: [Account("rudder", "rudder")],
        Box.UPDATE: [Account("rudder", "secret")],
    },
    min_free=0,
)

PASSWORDS = {"inventories": "rudder", "inventory-updates": "secret"}


def basic(password: str, user: str = "rudder") -> str:
    """The header of Basic authentication."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@frozen
class Reply:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Transport(StringTransport):
    """The server's end of a connection."""

    aborted = False

    def abortConnection(self) -> None:
        """Note it."""
        self.aborted = True
        self.loseConnection()


class Connection:
    """One connection of a sender."""

    def __init__(self, site: Any, address: str) -> None:
        peer = IPv4Address("TCP", address, 40000)
        self.transport = Transport(peerAddress=peer)
        self.protocol = site.buildProtocol(peer)
        self.protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        """Send some bytes, unless the server has closed."""
        if not self.transport.disconnecting:
            self.protocol.dataReceived(data)

    def take(self) -> bytes:
        """What has come since the last time."""
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def lose(self) -> None:
        """The network fails."""
        reason = Failure(ConnectionLost())
        self.protocol.connectionLost(reason)


def read_reply(data: bytes) -> Reply:
    """The only answer in some bytes."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.partition(": ")[::2] for line in lines)
    headers = {name.title(): value for name, value in pairs}
    return Reply(int(first.split()[1]), headers, body)


@define
class Server:
    """
    A site, and all that stands behind it.

    Attributes:
        deliveries: What there was to decide about.
        decide: Decides.
    """

    folder: Any
    own_site: bool = True
    rules: UploadRules = RULES
    pool: Any = field(factory=InlinePool)
    clock: Clock = field(factory=Clock)
    deliveries: list[Delivery] = field(factory=list)
    decide: Callable[[Delivery], Deferred[Judgement]] = field(
        default=lambda _: succeed(Judgement(Outcome.TAKEN, "00"))
    )
    resource: InventoryResource = field(init=False)
    site: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        spool = Spool(
            self.folder,
            seconds=self.clock.seconds,
            now=lambda: NOW + timedelta(seconds=self.clock.seconds()),
        )
        receiving = Receiving(
            spool, self._receive, reactor=self.clock, pool=InlinePool()
        )
        receiving.start()
        self.resource = InventoryResource(
            receiving,
            self.rules,
            server_id="root",
            reactor=self.clock,
            pool=self.pool,
        )
        if self.own_site:
            self.site = UploadSite(self.resource, reactor=self.clock, other_body=1024)
        else:
            self.site = Site(self.resource, reactor=self.clock)
            self.site.log = lambda request: None

    def _receive(self, delivery: Delivery) -> Deferred[Judgement]:
        self.deliveries.append(delivery)
        return self.decide(delivery)

    def connect(self, address: str = "192.0.2.7") -> Connection:
        """A connection from an address."""
        return Connection(self.site, address)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        address: str = "192.0.2.7",
        connection: Connection | None = None,
        **headers: str,
    ) -> Reply:
        """Send one request, and read its answer."""
        connection = connection or self.connect(address)
        connection.send(head(method, path, body, headers) + (body or b""))
        return read_reply(connection.take())

    def put(self, path: str, body: bytes = b"<doc/>", **options: Any) -> Reply:
        """Put a file, with the password of its box."""
        box = path.lstrip("/").partition("/")[0]
        options.setdefault("Authorization", basic(PASSWORDS.get(box, "")))
        return self.ask("PUT", path, body, **options)


def head(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
    """A request up to its content."""
    lines = [f"{method} {path} HTTP/1.1", "Host: server"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()
