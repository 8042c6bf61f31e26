# SPDX-License-Identifier: MIT
"""
The network in memory behaves as a network.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.internet.interfaces import IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nodecomm.client.address import ServerAddress
from nodecomm.client.dialing import Dialer
from nodecomm.identity.servers import ServerDecision
from nodecomm.testing import MemoryNetwork, MemorySource, key_pair, memory_server
from nodecomm.testing.network import HIGH_WATER
from nodecomm.transport.context import client_context

HERE = ServerAddress("here")


class Noting(Protocol):
    """
    Writes down what it hears.
    """

    def __init__(self) -> None:
        self.got = b""
        self.reasons: list[BaseException | None] = []

    @property
    def end(self) -> Any:
        """The transport."""
        return self.transport

    def dataReceived(self, data: bytes) -> None:
        """Noted."""
        self.got += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Noted."""
        self.reasons.append(reason.value)


class Keeping(Factory):
    """
    Keeps what it builds.
    """

    noisy = False

    def __init__(self) -> None:
        self.built: list[Noting] = []

    def buildProtocol(self, addr: object) -> Noting:
        """A new one."""
        self.built.append(Noting())
        return self.built[-1]


class NetworkTests(SynchronousTestCase):
    """
    Connections between two protocols.
    """

    def setUp(self) -> None:
        """Somebody listens."""
        self.network = MemoryNetwork()
        self.listening = Keeping()
        self.network.listen(HERE, self.listening)

    def connect(self) -> tuple[Noting, Noting]:
        """Both ends of a new connection."""
        endpoint = self.network.endpoint_for(HERE)
        verifyObject(IStreamClientEndpoint, endpoint)
        client: Any = self.network.result_of(endpoint.connect(Keeping()))
        return client, self.listening.built[-1]

    def test_bytes_both_ways(self) -> None:
        """
        What is written on one end comes out on the other, in order.
        """
        client, server = self.connect()
        verifyObject(ITransport, client.end)
        client.end.write(b"a")
        client.end.writeSequence([b"b", b"c"])
        server.end.write(b"d")
        self.assertEqual((client.got, server.got), (b"", b""))
        self.assertTrue(self.network.pump())

        self.assertEqual((client.got, server.got), (b"d", b"abc"))
        self.assertFalse(self.network.pump())
        self.assertEqual(client.end.sent, 3)
        self.assertEqual(client.end.getPeer(), server.end.getHost())
        self.assertEqual(server.end.getPeer().host, "127.0.0.1")

    def test_the_ends(self) -> None:
        """
        An end that closes is seen by both behind what was written; one that aborts
        drops that.
        """
        for how, said, got, why in (
            ("loseConnection", b"last", b"last", ConnectionDone),
            ("stopProducing", b"last", b"last", ConnectionDone),
            ("abortConnection", b"last", b"", ConnectionLost),
        ):
            client, server = self.connect()
            client.end.write(said)
            getattr(client.end, how)()
            client.end.write(b"too late")
            self.network.pump()

            self.assertEqual(server.got, got)
            for one in (client, server):
                (reason,) = one.reasons
                self.assertIsInstance(reason, why)
            self.assertTrue(self.network.connections[-1].over)

    def test_a_cut(self) -> None:
        """
        Both ends see a reset, and nothing that was on its way.
        """
        client, server = self.connect()
        client.end.write(b"x")
        server.end.write(b"y")
        self.network.connections[0].cut()
        self.network.pump()

        self.assertEqual((client.got, server.got), (b"", b""))
        for one in (client, server):
            (reason,) = one.reasons
            self.assertIsInstance(reason, ConnectionLost)

    def test_latency(self) -> None:
        """
        A byte takes half a round trip, a connection a whole one.
        """
        self.network.latency = 1.0
        client, server = self.connect()
        self.assertEqual(self.network.clock.seconds(), 1.0)
        client.end.write(b"x")
        self.network.advance(0.4)
        self.assertEqual(server.got, b"")
        self.network.advance(0.2)
        self.assertEqual(server.got, b"x")
        self.assertAlmostEqual(self.network.clock.seconds(), 1.6)

    def test_back_pressure(self) -> None:
        """
        Who does not read gets nothing, and the writer's producer is paused.
        """
        client, server = self.connect()
        calls: list[str] = []

        class Producer:
            """Notes what it is told."""

            def pauseProducing(self) -> None:
                """Noted."""
                calls.append("pause")

            def resumeProducing(self) -> None:
                """Noted."""
                calls.append("resume")

        client.end.registerProducer(Producer(), True)
        server.end.pauseProducing()
        client.end.write(b"x" * (HIGH_WATER + 1))
        client.end.write(b"x")
        self.network.pump()
        self.assertEqual((server.got, calls), (b"", ["pause"]))
        server.end.resumeProducing()
        self.network.pump()
        self.assertEqual(len(server.got), HIGH_WATER + 2)
        self.assertEqual(calls, ["pause", "resume"])
        client.end.unregisterProducer()
        client.end.write(b"x" * (HIGH_WATER + 1))
        self.assertEqual(calls, ["pause", "resume"])

    def test_nobody_there(self) -> None:
        """
        Connecting fails as a test says, or is refused, or never ends, or is closed
        at once; it can be cancelled.
        """
        endpoint = self.network.endpoint_for(ServerAddress("nowhere"))
        error = self.network.failure_of(endpoint.connect(Keeping()))
        self.assertIsInstance(error, ConnectionRefusedError)
        endpoint = self.network.endpoint_for(HERE)
        self.network.listen(HERE, DNSLookupError())
        error = self.network.failure_of(endpoint.connect(Keeping()))
        self.assertIsInstance(error, DNSLookupError)
        self.network.listen(HERE, None)
        with self.assertRaises(TimeoutError):
            self.network.result_of(endpoint.connect(Keeping()))

        class Refusing(Factory):
            """Builds nothing."""

            def buildProtocol(self, addr: object) -> None:
                """Nothing."""

        self.network.listen(HERE, Refusing())
        client: Any = self.network.result_of(endpoint.connect(Keeping()))
        self.network.pump()
        self.assertEqual(len(client.reasons), 1)
        self.network.listen(HERE, self.listening)
        connecting = endpoint.connect(Keeping())
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.network.pump()
        self.assertEqual(self.listening.built, [])
        self.assertEqual(self.network.attempts, 5)

    def test_results(self) -> None:
        """
        Time passes until a Deferred fires, and not for longer than allowed.
        """
        fired: Deferred[int] = Deferred()
        self.network.clock.callLater(50, fired.callback, 3)
        self.assertEqual(self.network.result_of(fired), 3)
        self.assertEqual(self.network.clock.seconds(), 50)
        late: Deferred[int] = Deferred()
        self.network.clock.callLater(50, late.callback, 3)
        with self.assertRaises(TimeoutError):
            self.network.result_of(late, within=40)
        fine: Deferred[int] = Deferred()
        fine.callback(4)
        with self.assertRaises(AssertionError):
            self.network.failure_of(fine)

    def test_programs_that_never_rest(self) -> None:
        """
        Two ends that talk for ever are found out.
        """
        self.patch(
            __import__("nodecomm.testing.network").testing.network, "_MAX_STEPS", 100
        )
        client, server = self.connect()
        self.patch(client, "dataReceived", client.end.write)
        self.patch(server, "dataReceived", server.end.write)
        client.end.write(b"x")

        with self.assertRaises(RuntimeError):
            self.network.pump()


class ServerTests(SynchronousTestCase):
    """
    The real server's factory on a network in memory.
    """

    def test_client_and_server(self) -> None:
        """
        A dialer and the server talk as over a network; the server is there already.
        """
        content = bytes(range(256)) * 5000
        server = memory_server(
            {
                "path": "/virtual/",
                "shortcut": "files",
                "source": "memory",
                "admit_ips": ["127.0.0.1"],
            },
            sources={"memory": MemorySource({b"a": b"hello", b"big/file": content})},
        )
        network = MemoryNetwork(server.clock, latency=0.1)
        network.listen(HERE, server.factory)

        class Trusting:
            """Trusts."""

            def check(self, name: str, key: object) -> ServerDecision:
                """Yes."""
                return ServerDecision(True, "stored", "")

        dialer = Dialer(
            network.clock,
            context=client_context(key_pair(1)),
            trust=Trusting(),
            user=b"root",
            endpoint_for=network.endpoint_for,
            now=lambda: server.now,
            monotonic=network.clock.seconds,
        )
        session = network.result_of(dialer.connect(HERE))
        names = network.result_of(session.opendir(b"files"))
        status = network.result_of(session.stat(b"files/big/file"))
        pieces: list[bytes] = []
        done = session.get(b"files/big/file", status.size, pieces.append)
        network.result_of(done)

        self.assertEqual(names, [b"a", b"big"])
        self.assertTrue(session.is_nodecomm)
        self.assertEqual(b"".join(pieces), content)
        network.result_of(session.close())
        self.assertEqual(server.factory.sessions, set())
