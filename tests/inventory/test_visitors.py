# SPDX-License-Identifier: MIT
"""
Connections to the site of inventories: nobody keeps others out by being there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from nodecomm.access.networks import AddressList
from nodecomm.inventory.https import OverTLS, own_key_certificate
from nodecomm.inventory.site import HEAD_TIMEOUT, UploadSite
from nodecomm.inventory.visitors import PATIENCE, Visit, Visitors
from tests.inventory.test_https import server_pair
from tests.inventory.web import NOW, Server, Transport, basic, head


class Crowd:
    """Visitors by short names, and which of them were closed."""

    def __init__(self, most: int, **options: Any) -> None:
        self.clock = Clock()
        self.visitors = Visitors(self.clock, most=most, **options)
        self.visits: dict[str, Visit] = {}
        self.closed: list[str] = []

    def come(self, name: str, host: str) -> bool:
        """A new connection from a host."""
        kind = IPv6Address if ":" in host else IPv4Address
        visit = self.visitors.enter(
            kind("TCP", host, 40000), lambda: self.closed.append(name)
        )
        if visit is not None:
            self.visits[name] = visit
        return visit is not None


def test_the_address_with_most_makes_room() -> None:
    """Somebody with many connections loses his oldest, and others come in at once."""
    crowd = Crowd(3)
    for name in ("a1", "a2", "a3"):
        crowd.clock.advance(1)
        assert crowd.come(name, "192.0.2.1")

    assert crowd.come("b", "192.0.2.2")
    assert crowd.closed == ["a1"]
    assert crowd.visitors.total == 3
    # Now he has one more than the other; the next one of his own is not taken.
    assert not crowd.come("a4", "192.0.2.1")
    assert crowd.closed == ["a1"]


def test_many_that_come_at_once() -> None:
    """Of many that come at the same time nobody loses his place to a later one."""
    crowd = Crowd(2)
    assert crowd.come("a", "192.0.2.1")
    assert crowd.come("b", "192.0.2.1")
    crowd.clock.advance(PATIENCE / 2)

    assert not crowd.come("c", "192.0.2.1")
    assert crowd.closed == []


def test_whoever_only_waits_makes_room() -> None:
    """A connection that has sent nothing for a while goes, whosever it is."""
    crowd = Crowd(2)
    for name in ("a", "b"):
        assert crowd.come(name, f"192.0.2.{ord(name)}")
        crowd.clock.advance(PATIENCE)
    # Asking for something that everybody may have is no merit.
    crowd.visits["a"].idle()

    assert crowd.come("c", "192.0.2.3")
    assert crowd.closed == ["a"]


def test_whoever_sends_what_is_wanted_stays() -> None:
    """An upload that is allowed keeps its connection; when it is idle, it is last."""
    crowd = Crowd(2)
    for name in ("a", "b"):
        assert crowd.come(name, "192.0.2.1")
        crowd.visits[name].welcome()
    crowd.clock.advance(10 * PATIENCE)
    assert not crowd.come("c", "192.0.2.2")

    crowd.visits["b"].idle()
    assert not crowd.come("d", "192.0.2.1")
    crowd.clock.advance(PATIENCE)
    assert crowd.come("e", "192.0.2.1")
    assert crowd.closed == ["b"]


def test_what_has_ended_is_forgotten() -> None:
    """An end counts once, whoever brings it about."""
    crowd = Crowd(1, per_address=1)
    for name in ("a", "b", "c"):
        assert crowd.come(name, "192.0.2.1")
        for end in (crowd.visits[name].leave, crowd.visits[name].welcome):
            end()
            end()
        crowd.visits[name].leave()
    assert crowd.visitors.total == 0
    assert crowd.visitors._strangers == {}
    assert crowd.visitors._held == {}


def test_one_address_alone() -> None:
    """A limit of one address holds when there is room, and not for proxies."""
    crowd = Crowd(10, per_address=1, proxies=AddressList(["192.0.2.9"]))
    assert crowd.come("a", "2001:db8::1")
    assert not crowd.come("b", "2001:db8::2")
    assert crowd.come("c", "2001:db8:0:1::2")
    assert crowd.come("d", "::ffff:192.0.2.1")
    assert not crowd.come("e", "192.0.2.1")
    assert crowd.come("f", "192.0.2.9")
    assert crowd.come("g", "192.0.2.9")
    crowd.visits["a"].leave()
    assert crowd.come("h", "2001:db8::2")


def test_a_local_socket() -> None:
    """A local socket has an address, too."""
    visitors = Visitors(Clock(), most=1)
    assert visitors.enter(UNIXAddress(b"/x"), lambda: None) is not None
    assert visitors.enter(UNIXAddress(b"/x"), lambda: None) is None


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server that takes two connections at a time."""
    server = Server(tmp_path / "spool")
    visitors = Visitors(server.clock, most=2)
    server.site = UploadSite(server.resource, reactor=server.clock, visitors=visitors)
    return server


def test_uploads_keep_their_connections(server: Server) -> None:
    """An upload under way stays; a connection without one makes room."""
    upload, other = server.connect(), server.connect()
    allowed = {"Authorization": basic("rudder")}
    upload.send(head("PUT", "/inventories/a.ocs", b"<doc/>", allowed))
    server.clock.advance(PATIENCE)

    assert server.ask("GET", "/uuid", address="192.0.2.8").status == 200
    assert other.transport.aborted
    upload.send(b"<doc/>")
    assert b" 201 " in upload.take()
    assert not upload.transport.aborted


def test_a_refused_upload_is_not_welcome(server: Server) -> None:
    """Without the password, sending something gives no right to stay."""
    refused, other = server.connect(), server.connect()
    refused.send(head("PUT", "/inventories/a.ocs", b"<doc/>", {}))
    server.clock.advance(PATIENCE)

    third = server.connect("192.0.2.8")
    assert refused.transport.aborted
    assert not other.transport.aborted
    for each in (refused, other, third):
        each.lose()
    assert server.site._visitors.total == 0


def test_headers_that_come_too_slowly(server: Server) -> None:
    """Headers have a time to end in, however many bytes come."""
    connection = server.connect()
    connection.send(b"GET /uuid HTTP/1.1\r\n")
    for number in range(3):
        server.clock.advance(HEAD_TIMEOUT / 3 - 0.1)
        connection.send(b"X-%d: 1\r\n" % number)
        assert not connection.transport.aborted
    server.clock.advance(1)
    assert connection.transport.aborted


def test_requests_one_after_the_other(server: Server) -> None:
    """The time for headers begins anew with each request."""
    connection = server.connect()
    for _ in range(3):
        server.clock.advance(HEAD_TIMEOUT - 1)
        assert server.ask("GET", "/uuid", connection=connection).status == 200
    connection.lose()
    # What waits is only what the resource itself has.
    assert not connection.transport.aborted


def test_during_the_handshake(server: Server) -> None:
    """A connection that has not even begun with TLS can be closed, too."""
    factory = OverTLS(
        own_key_certificate(server_pair(), "root", NOW),
        server.site,
        reactor=server.clock,
    )

    def connect() -> Transport | None:
        address = IPv4Address("TCP", "192.0.2.1", 40000)
        protocol = factory.buildProtocol(address)
        if protocol is None:
            return None
        transport = Transport(peerAddress=address)
        protocol.makeConnection(transport)
        return transport

    first, second = connect(), connect()
    assert first is not None
    assert second is not None
    assert connect() is None
    server.clock.advance(PATIENCE)
    assert connect() is not None
    server.clock.advance(0)
    assert first.aborted
    assert not second.aborted
    # A handshake that does not go on is given up by itself.
    server.clock.advance(HEAD_TIMEOUT)
    server.clock.advance(0)
    assert second.aborted
    assert server.site._visitors.total <= 1


def test_nobody_fills_the_log_by_being_there(server: Server) -> None:
    """Of connections that time out, or do not let themselves be closed, no line."""
    with capturedLogs() as told:
        for request in (b"", head("PUT", "/inventories/a.ocs", b"x" * 100_000, {})):
            connection = server.connect()
            connection.send(request)
            connection.transport.disconnecting = False
            server.clock.advance(120)
            server.clock.advance(120)
            assert connection.transport.aborted
            connection.lose()
        connection = server.connect()
        for path, status in (("/uuid", 200), ("/uuid/x", 404), ("/x", 404)):
            reply = server.ask("HEAD", path, connection=connection)
            assert (reply.status, reply.body) == (status, b"")
            assert int(reply.headers["Content-Length"]) > 0
    assert [event.get("event") for event in told] == ["upload.refused"]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"GET /uuid HTTP/1.1\r\nX: " + b"x" * 65536, "HTTP/1.1"),
        (b"GET /uuid HTTP/1.1\r\nContent-Length: x\r\n\r\n", "HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nContent-Length: " + b"9" * 20 + b"\r\n\r\n", "HTTP/1.1"),
        (b"something else\r\n\r\n", "HTTP/1.1"),
        (b"\x16\x03\x01\x02\x00\x01", "begins with http://"),
    ],
)
def test_what_is_no_request(server: Server, sent: bytes, told: str) -> None:
    """Whoever sends none hears so at once, is closed, and is stated."""
    connection = server.connect()
    with capturedLogs() as events:
        connection.send(sent)
    assert connection.take() == b"HTTP/1.1 400 Bad Request\r\n\r\n"
    assert connection.transport.disconnecting
    (event,) = events
    assert (event["event"], event["peer"]) == ("inventory.bad-request", "192.0.2.7")
    assert formatEvent(event).endswith(told)


def test_many_that_are_no_requests(server: Server) -> None:
    """There are only so many lines in a minute."""
    with capturedLogs() as events:
        for after in (0,) * 12 + (60,):
            server.clock.advance(after)
            connection = server.connect()
            connection.send(b"?\r\n")
            connection.lose()
    assert [each["event"] for each in events[9:]] == [
        "inventory.bad-request",
        "inventory.bad-request-more",
        "inventory.bad-request",
    ]
    assert events[10]["count"] == 2


def test_http_where_tls_begins(server: Server) -> None:
    """Who speaks HTTP to the port of HTTPS is stated, so many times in a minute."""
    factory = OverTLS(
        own_key_certificate(server_pair(), "root", NOW),
        server.site,
        reactor=server.clock,
    )

    def speak(data: bytes) -> Transport:
        address = IPv4Address("TCP", "192.0.2.1", 40000)
        protocol = factory.buildProtocol(address)
        assert protocol is not None
        transport = Transport(peerAddress=address)
        protocol.makeConnection(transport)
        server.clock.advance(0)
        protocol.dataReceived(data)
        server.clock.advance(0)
        protocol.connectionLost(Failure(ConnectionLost()))
        return transport

    with capturedLogs() as told:
        # Somebody who only looks whether the port is open.
        speak(b"")
        answers = [speak(b"PUT /inventories/a.ocs HTTP/1.1\r\n") for _ in range(12)]
        assert len(told) == 10
        server.clock.advance(60)
        speak(b"\x00" * 100)

    assert b"https" not in b"".join(answer.value() for answer in answers)
    assert {each["event"] for each in told[:10]} == {"inventory.no-tls"}
    assert told[0]["peer"] == "192.0.2.1"
    assert "begins with https://" in formatEvent(told[0])
    assert told[10]["event"] == "inventory.no-tls-more"
    assert told[10]["count"] == 2
    assert "https://" not in formatEvent(told[11])
