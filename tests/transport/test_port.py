# SPDX-License-Identifier: MIT
"""
One port for two protocols, on the sockets of a reactor and in memory.
"""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.tcp import Server
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.transport.descriptor import TLSDescriptor
from nodecomm.transport.memory import TLSOverTransport
from nodecomm.transport.plain import PlainDescriptor, PlainOverTransport
from nodecomm.transport.port import SecurePort
from tests.transport.links import SERVER_CONTEXT, Below, Peer, Session, TinyReactor

#: What the transports of a reactor want to know of the port they came from.
LISTENING: Any = SimpleNamespace(_realPortNumber=0)

PEER = IPv4Address("TCP", "127.0.0.1", 4)


class PortTests:
    """
    What is the same wherever the bytes come from.
    """

    transport_type: type
    plain_type: type
    assertEqual: Any
    assertIsInstance: Any
    addCleanup: Any

    def setUp(self) -> None:
        self.reactor = TinyReactor()
        self.port = SecurePort(
            SERVER_CONTEXT,
            self.reactor,
            gate=None,
            first_byte_timeout=10,
            handshake_timeout=30,
        )
        self.reasons: list[str] = []
        self.tls = Session()
        self.classic = Session()

    def protocol(self, *, tls: bool = True, classic: bool = True) -> Any:
        return self.port.protocol_for(
            PEER,
            tls=(lambda: self.tls) if tls else None,
            classic=(lambda: self.classic) if classic else None,
            lost=self.reasons.append,
        )

    def connect(self, protocol: Any, first: bytes = b"") -> None:
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    def receive(self) -> bytes:
        raise NotImplementedError

    def hang_up(self) -> None:
        raise NotImplementedError

    def turns(self) -> None:
        for _ in range(6):
            self.reactor.turn()

    def test_tls(self) -> None:
        """A TLS hello gives the TLS session its transport; nothing is lost of it."""
        self.connect(self.protocol())
        peer = Peer()
        for _ in range(6):
            peer.step()
            outgoing = peer.take()
            if outgoing:
                self.send(outgoing)
            self.turns()
            peer.give(self.receive())
        peer.connection.send(b"hello")
        self.send(peer.take())
        self.turns()

        self.assertEqual(self.tls.calls, ["made", "handshake"])
        self.assertEqual(bytes(self.tls.received), b"hello")
        self.assertIsInstance(self.tls.transport, self.transport_type)
        self.assertEqual((self.classic.calls, self.reasons), ([], []))
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.hang_up()
        self.turns()
        self.assertEqual(self.tls.calls, ["made", "handshake", "lost"])

    def test_classic(self) -> None:
        """Either status byte of a classic frame gives the classic session it all."""
        for first in (b"t", b"m"):
            self.setUp()
            self.connect(self.protocol())
            self.send(first)
            self.turns()
            self.send(b" 5\0rest")
            self.turns()

            self.assertEqual(self.classic.calls, ["made"])
            self.assertEqual(bytes(self.classic.received), first + b" 5\0rest")
            self.assertIsInstance(self.classic.transport, self.plain_type)
            self.assertEqual((self.tls.calls, self.reasons), ([], []))
            self.assertEqual(self.reactor.getDelayedCalls(), [])
            self.hang_up()
            self.turns()
            self.assertEqual(self.classic.calls, ["made", "lost"])

    def test_classic_byte_by_byte(self) -> None:
        """A classic peer may send everything one byte at a time."""
        self.connect(self.protocol())
        for number in range(12):
            self.send(b"t 5\0    CAUTH"[number : number + 1])
            self.turns()

        self.assertEqual(bytes(self.classic.received), b"t 5\0    CAUT")
        self.assertEqual(self.classic.calls, ["made"])

    def test_classic_answer(self) -> None:
        """What a classic session writes leaves as it is."""
        self.classic.on_data = lambda data: self.classic.transport.write(data[::-1])  # type: ignore[union-attr]
        self.connect(self.protocol(), b"t 5")
        self.turns()

        self.assertEqual(self.receive(), b"5 t")

    def test_classic_not_for_this_peer(self) -> None:
        """Whether a peer may have a classic session is asked when its first byte is
        known, and not before."""
        asked = []

        def ask() -> None:
            asked.append(True)

        self.connect(
            self.port.protocol_for(
                PEER, tls=None, classic=ask, lost=self.reasons.append
            )
        )
        self.turns()
        self.assertEqual((asked, self.reasons), ([], []))
        self.send(b"t")
        self.turns()

        self.assertEqual((asked, self.reasons), ([True], ["classic-not-allowed"]))

    def test_first_byte_before_the_connection(self) -> None:
        """What has arrived before we look is not overlooked."""
        self.connect(self.protocol(), b"t 5\0")
        self.turns()

        self.assertEqual(bytes(self.classic.received), b"t 5\0")

    def test_refused(self) -> None:
        """Everything else is closed, and the reason told once."""
        cases = [
            (b"GET / HTTP/1.1\r\n", {}, "not-tls"),
            (b"\0", {}, "not-tls"),
            (b"\xff" * 3000, {}, "not-tls"),
            (b"t 5\0", {"classic": False}, "classic-not-allowed"),
            (b"\x16\x03\x01", {"tls": False}, "tls-not-served"),
        ]
        for sent, options, reason in cases:
            self.setUp()
            self.connect(self.protocol(**options))
            self.send(sent)
            self.turns()

            self.assertEqual(self.reasons, [reason])
            self.assertEqual((self.tls.calls, self.classic.calls), ([], []))
            self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_silence(self) -> None:
        """A peer that says nothing is closed after the timeout."""
        self.connect(self.protocol())
        self.turns()
        self.reactor.advance(9)
        self.assertEqual(self.reasons, [])
        self.reactor.advance(1)
        self.turns()

        self.assertEqual(self.reasons, ["first-byte-timeout"])

    def test_gone_at_once(self) -> None:
        """A peer that goes without a word is told of once, too."""
        self.connect(self.protocol())
        self.hang_up()
        self.turns()

        self.assertEqual(self.reasons, ["closed"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_bad_hello(self) -> None:
        """A handshake that fails is told to the session, not to `lost`."""
        self.connect(self.protocol())
        self.send(b"\x16\x03\x01\x00\x05hello")
        # Some releases of OpenSSL say goodbye with an alert; it has to be taken.
        self.receive()
        self.turns()

        self.assertEqual((self.tls.calls, self.reasons), (["made", "lost"], []))
        self.assertEqual(str(self.tls.reasons[0])[:11], "handshake: ")

    def test_stalled_hello(self) -> None:
        """So is one that takes too long."""
        self.connect(self.protocol())
        self.send(b"\x16\x03")
        self.turns()
        self.reactor.advance(30)
        self.turns()

        self.assertEqual((self.tls.calls, self.reasons), (["made", "lost"], []))
        self.assertEqual(str(self.tls.reasons[0]), "handshake-timeout")


class SocketPortTests(PortTests, SynchronousTestCase):
    """
    On the plain sockets of a reactor, by peeking.
    """

    transport_type = TLSDescriptor
    plain_type = PlainDescriptor

    def connect(self, protocol: Any, first: bytes = b"") -> None:
        # UNIX sockets deliver at once, so no test has to wait for the kernel.
        self.sock, ours = socket.socketpair()
        self.addCleanup(self.sock.close)
        self.sock.setblocking(False)
        if first:
            self.sock.send(first)
        server = Server(ours, protocol, ("127.0.0.1", 4), LISTENING, 0, self.reactor)
        self.addCleanup(self.end)
        protocol.makeConnection(server)

    def end(self) -> None:
        """
        Close whatever still holds the socket.
        """
        for session in (self.tls, self.classic):
            transport: Any = session.transport
            if transport is not None:
                transport.abortConnection()
        self.turns()

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    def receive(self) -> bytes:
        try:
            return self.sock.recv(1 << 20)
        except BlockingIOError:
            return b""

    def hang_up(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def test_socket_taken_over(self) -> None:
        """The transport that had the socket can do nothing to it any more."""
        for first, session in ((b"\x16\x03", "tls"), (b"t 5", "classic")):
            self.setUp()
            protocol = self.protocol()
            self.connect(protocol)
            before = protocol.transport
            self.send(first)
            self.turns()
            before.abortConnection()
            before.loseConnection()
            self.turns()

            above = getattr(self, session)
            self.assertEqual(above.calls, ["made"])
            self.assertEqual(above.transport.getPeer(), PEER)
            above.transport.abortConnection()
            self.turns()


class MemoryPortTests(PortTests, SynchronousTestCase):
    """
    Over a transport in memory.
    """

    transport_type = TLSOverTransport
    plain_type = PlainOverTransport

    def connect(self, protocol: Any, first: bytes = b"") -> None:
        self.below = Below(self.reactor)
        self.below.above = protocol
        protocol.makeConnection(self.below)
        if first:
            self.send(first)

    def send(self, data: bytes) -> None:
        self.below.arrived.append(data)
        self.below.deliver()

    def receive(self) -> bytes:
        return self.below.take()

    def hang_up(self) -> None:
        self.below.end(ConnectionDone())
