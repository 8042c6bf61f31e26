# SPDX-License-Identifier: MIT
"""
Connecting, and all the ways in which it does not come about.
"""

from __future__ import annotations

import errno
import socket
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from twisted.internet import error as causes
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.address import ServerAddress
from nodecomm.client.dialing import PAUSES, Dialer
from nodecomm.client.errors import (
    ConnectionBroken,
    Rejected,
    Unreachable,
    UntrustedServer,
)
from nodecomm.client.memory import ServerMemory
from nodecomm.client.timeouts import Timeouts
from nodecomm.identity.keys import KeyPair
from nodecomm.identity.servers import ServerDecision
from nodecomm.testing import key_pair
from nodecomm.transport.context import client_context, server_context
from nodecomm.wire.errors import LocalProtocolError
from tests.client.scripted import HELLO, HUB, WELCOME, Peer, Place, Trusting
from tests.client.test_session import GOOD, STATUS, welcoming


class Reactor:
    """
    Runs what belongs into a thread at once.
    """

    def getThreadPool(self) -> Any:
        """This is the pool, too."""
        return self

    def callInThreadWithCallback(
        self, done: Any, work: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Now."""
        try:
            done(True, work(*args, **kwargs))
        except Exception as error:
            from twisted.python.failure import Failure  # noqa: PLC0415

            done(False, Failure(error))

    def callFromThread(self, work: Any, *args: Any) -> None:
        """Now."""
        work(*args)


class _NoSuchZone(MemoryReactorClock):
    """
    Has no interface of any name.
    """

    def connectTCP(self, *_arguments: Any, **_more: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "not known")


class UnreachableTests(SynchronousTestCase):
    """
    No connection: what it was, in a code and in words.
    """

    def test_causes(self) -> None:
        """
        Each cause has a code of its own, and its text names the server.
        """

        def with_number(number: int) -> causes.ConnectError:
            return causes.ConnectError(number, "words")

        cases: list[tuple[Exception, str, str]] = [
            (
                causes.ConnectionRefusedError(errno.ECONNREFUSED),
                "connection-refused",
                "nothing listens",
            ),
            (causes.TCPTimedOutError(), "connect-timeout", "firewall"),
            (causes.TimeoutError(), "connect-timeout", "firewall"),
            (causes.NoRouteError(errno.ENETUNREACH), "no-route", "unreachable"),
            (with_number(errno.EHOSTUNREACH), "no-route", "No route to host"),
            (with_number(errno.EACCES), "connect-failed", "Permission denied"),
            (causes.UnknownHostError(), "connect-failed", ""),
            (ValueError("invalid hostname: x"), "name-unknown", "hub"),
        ]
        for cause, code, words in cases:
            place = Place(welcoming)
            place.network.listen(HUB, cause)
            found: Any = place.refused()

            self.assertEqual((type(found), found.code), (Unreachable, code), cause)
            self.assertIn("hub:5308", str(found))
            self.assertIn(words, str(found))

    def test_names(self) -> None:
        """
        A name that does not exist is told from a look-up that failed.
        """
        cases: list[tuple[Any, str]] = [
            (socket.gaierror(socket.EAI_NONAME, "not known"), "name-unknown"),
            (socket.gaierror(socket.EAI_AGAIN, "failure"), "name-lookup-failed"),
            (OSError("no threads"), "name-lookup-failed"),
            ([], "name-lookup-failed"),
        ]
        for outcome, code in cases:

            def look_up(*_arguments: object, outcome: Any = outcome) -> Any:
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

            self.patch(socket, "getaddrinfo", look_up)
            place = Place(welcoming)
            place.dialer.reactor = Reactor()
            place.network.listen(HUB, causes.DNSLookupError())
            found: Any = place.refused()

            self.assertEqual((type(found), found.code), (Unreachable, code))
            self.assertIn("hub", str(found))
        place = Place(welcoming)
        place.network.listen(HUB, causes.DNSLookupError())
        error: Any = place.refused()
        self.assertEqual(error.code, "name-lookup-failed")

    def test_zones(self) -> None:
        """
        A link-local address is connected to with its zone, without which it leads
        nowhere; a zone that this machine does not have is told.
        """
        server = ServerAddress("fe80::1%eth0", 5308)
        for reactor, code in (
            (MemoryReactorClock(), None),
            (_NoSuchZone(), "name-unknown"),
        ):
            place = Place(welcoming)
            dialer = Dialer(
                reactor, context=place.dialer.context, trust=Trusting(), user=b"root"
            )
            connecting = dialer.connect(server)
            if code is None:
                self.assertEqual(reactor.tcpClients[0][:2], ("fe80::1%eth0", 5308))
                connecting.addErrback(lambda failure: failure.trap(CancelledError))
                connecting.cancel()
                continue
            found: Any = self.failureResultOf(connecting, Unreachable).value
            self.assertEqual(found.code, code)
            self.assertIn("fe80::1%eth0", str(found))

    def test_nobody_answers(self) -> None:
        """
        An endpoint that never gets anywhere is given up.
        """
        place = Place(welcoming, timeouts=Timeouts(connect=10))
        place.network.listen(HUB, None)
        found: Any = place.refused()

        self.assertEqual(found.code, "connect-timeout")
        self.assertEqual(place.clock.seconds(), 20)

    def test_closed_at_accept(self) -> None:
        """
        A connection that is closed without a word is tried again, with growing
        pauses; when it never works, the error says what that may mean.
        """
        place = Place(None)
        found: Any = place.refused()

        self.assertEqual((type(found), found.code), (Unreachable, "closed-at-accept"))
        for word in ("hub:5308 (127.0.0.2)", "allowconnects", "allowallconnects"):
            self.assertIn(word, str(found))
        self.assertEqual(place.network.attempts, len(PAUSES) + 1)
        self.assertAlmostEqual(place.clock.seconds(), sum(PAUSES))

    def test_closed_at_accept_once(self) -> None:
        """
        A server that has not noticed yet that the last connection has ended takes
        the next one.
        """
        place = Place(None, None, welcoming)
        session = place.connect()

        self.assertEqual(place.network.attempts, 3)
        self.assertEqual(place.result(session.stat(b"/a")), STATUS)

    def test_jitter(self) -> None:
        """
        The pauses are never the same for two agents, and never short.
        """
        for number, least, most in ((0.0, 0.5, 0.5), (0.999, 1.4, 1.5)):
            place = Place(None)
            self.patch(place.dialer, "_random", partial(float, number))
            place.refused()
            share = place.clock.seconds() / sum(PAUSES)
            self.assertTrue(least <= share <= most, share)

    def test_no_tls(self) -> None:
        """
        Something else listens there, or TLS has no version in common: that is told
        at once, and not tried again.
        """

        class Chatty(Protocol):
            """Talks first."""

            def connectionMade(self) -> None:
                """A greeting of some other protocol."""
                transport: Any = self.transport
                transport.write(b"220 mail.example.com ESMTP\r\n")

        place = Place(welcoming)
        place.network.listen(HUB, Factory.forProtocol(Chatty))
        found: Any = place.refused()

        self.assertEqual((type(found), found.code), (Unreachable, "handshake-failed"))
        self.assertEqual(place.network.attempts, 1)

        place = Place(welcoming)
        place.server._context = server_context(key_pair(0), max_version="1.2")
        place.dialer.context = client_context(key_pair(1), min_version="1.3")
        found = place.refused()

        self.assertEqual((type(found), found.code), (Unreachable, "handshake-failed"))

    def test_silent_handshake(self) -> None:
        """
        A server that accepts and never says a word is given up.
        """
        place = Place(welcoming, timeouts=Timeouts(handshake=7))
        place.network.listen(HUB, Factory.forProtocol(Protocol))
        found: Any = place.refused()

        self.assertEqual((type(found), found.code), (Unreachable, "handshake-timeout"))
        self.assertEqual(place.clock.seconds(), 7)
        self.assertTrue(place.network.connections[0].over)

    def test_older_tls(self) -> None:
        """
        TLS 1.2 takes a round trip more, in which the server's first line comes.
        """
        place = Place(welcoming, latency=1.0)
        place.server._context = server_context(key_pair(0), max_version="1.2")
        session = place.connect()
        self.assertEqual(place.result(session.stat(b"/a")), STATUS)

        self.assertEqual(session.round_trips, 4)
        self.assertAlmostEqual(place.clock.seconds(), 4.0)


class TrustTests(SynchronousTestCase):
    """
    Whether the server is the one that is meant.
    """

    def test_an_untrusted_server(self) -> None:
        """
        Nothing is sent to it; the error has its key, the known ones, and the words
        of the decision.
        """
        known = (key_pair(5).public,)
        decision = ServerDecision(False, "key-changed", "another key", known)
        place = Place(welcoming, trust=Trusting(decision))
        found: Any = place.refused()

        self.assertEqual((type(found), found.code), (UntrustedServer, "key-changed"))
        self.assertEqual(str(found), "another key")
        self.assertEqual((found.server, found.known), (HUB, known))
        self.assertEqual(found.key, key_pair(0).public)
        self.assertEqual(place.server.peers[0].records, [])
        self.assertTrue(place.network.connections[0].over)
        self.assertEqual(place.network.attempts, 1)

    def test_a_decision_that_takes_time(self) -> None:
        """
        Nothing is sent, and nothing that the server says counts, before it is there.
        """
        decision: Deferred[ServerDecision] = Deferred()
        place = Place(welcoming, trust=Trusting(decision))
        connecting = place.dialer.connect(HUB)
        place.network.advance(1000)
        self.assertNoResult(connecting)
        self.assertEqual(place.server.peers[0].records, [])
        decision.callback(ServerDecision(True, "first-use", "", first_use=True))
        session = place.result(connecting)

        self.assertEqual(place.result(session.stat(b"/a")), STATUS)

    def test_a_decision_that_comes_too_late(self) -> None:
        """
        The server has gone meanwhile, which shows when it is listened to.
        """
        decision: Deferred[ServerDecision] = Deferred()

        async def impatient(peer: Peer) -> None:
            peer.send(HELLO)
            await peer.sleep(10)
            peer.close()

        place = Place(impatient, trust=Trusting(decision))
        connecting = place.dialer.connect(HUB)
        place.network.advance(100)
        decision.callback(ServerDecision(True, "stored", ""))
        session = place.result(connecting)

        error = place.failure(session.stat(b"/a"))
        self.assertIsInstance(error, Rejected)

    def test_a_decision_that_fails(self) -> None:
        """
        Whoever dialed gets what went wrong, and the connection is closed.
        """
        for trust in (
            Trusting(OSError(28, "disk full")),
            Trusting(Deferred.fromCoroutine(_raise(OSError(28, "disk full")))),
        ):
            place = Place(welcoming, trust=trust)

            self.assertIsInstance(place.refused(), OSError)
            self.assertTrue(place.network.connections[0].over)

    def test_unusable_keys(self) -> None:
        """
        A key outside sane bounds, or no RSA key, is refused before trust is asked.
        """
        place = Place(welcoming)
        place.server._context = _context_of(rsa.generate_private_key(65537, 1032))
        error: Any = place.refused()
        self.assertEqual((type(error), error.code), (UntrustedServer, "key-unusable"))
        self.assertIn("1032 bits", str(error))
        self.assertIsNotNone(error.key)
        self.assertEqual(place.trust.asked, [])

        place = Place(welcoming)
        place.server._context = _context_of(ec.generate_private_key(ec.SECP256R1()))
        error = place.refused()
        self.assertEqual((type(error), error.code), (UntrustedServer, "key-unusable"))
        self.assertIsNone(error.key)
        self.assertEqual(place.trust.asked, [])
        self.assertTrue(place.network.connections[0].over)


def _context_of(key: Any) -> Any:
    """
    The context of a server with any key whatever.
    """
    name = x509.Name([])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    context = server_context(KeyPair.generate(1024))
    context.use_certificate(certificate)
    context.use_privatekey(key)
    return context


async def _raise(error: Exception) -> Any:
    raise error


class CancelTests(SynchronousTestCase):
    """
    Connecting can be cancelled at any time, and then nothing is left open.
    """

    def test_cancelled(self) -> None:
        """
        While TCP connects, in the handshake, while the key is decided about, in the
        dialog, and in a pause between attempts.
        """

        async def mute(peer: Peer) -> None:
            await peer.more()

        decision: Deferred[ServerDecision] = Deferred(lambda _: None)
        cases: list[tuple[Place, float]] = [
            (Place(welcoming, latency=1.0), 0.5),
            (Place(welcoming, latency=1.0), 1.7),
            (Place(welcoming, trust=Trusting(decision)), 3.0),
            (Place(mute), 3.0),
            (Place(None), 0.1),
        ]
        for place, when in cases:
            connecting = place.dialer.connect(HUB)
            place.network.advance(when)
            self.assertNoResult(connecting)
            connecting.cancel()
            self.failureResultOf(connecting, CancelledError)
            place.network.advance(100)
            for connection in place.network.connections:
                self.assertTrue(connection.over)
            self.assertEqual(place.clock.getDelayedCalls(), [])


class EarlyTests(SynchronousTestCase):
    """
    Speaking before a server that is known does.
    """

    def memory(self) -> ServerMemory:
        """An empty memory."""
        return ServerMemory(self.mktemp())

    def test_a_known_server(self) -> None:
        """
        The second connection does not wait for the server's line: one round trip
        less, and the same bytes.
        """
        place = Place(welcoming, latency=1.0, memory=self.memory())
        counts = []
        for early in (False, True, True):
            before = place.clock.seconds()
            session = place.connect()
            self.assertEqual(place.result(session.stat(b"/a")), STATUS)
            counts.append(session.round_trips)
            self.assertAlmostEqual(place.clock.seconds() - before, session.round_trips)
            self.assertEqual(session.early, early)
            self.assertEqual(session.product, b"cf-serverd 3.21.0")
            place.result(session.close())

        self.assertEqual(counts, [4, 3, 3])
        first, second, _ = place.server.peers
        self.assertEqual(first.records, second.records)

    def test_the_product_is_known_early(self) -> None:
        """
        That a server is nodecomm is known before it has said so again.
        """

        async def ours(peer: Peer) -> None:
            peer.send(b"CFE_v3 nodecomm-server 1.0\n")
            await peer.more()

        place = Place(ours, memory=self.memory())
        self.assertTrue(place.connect().is_nodecomm)
        place.server._scripts = [_mute]
        again = place.connect()

        self.assertTrue(again.is_nodecomm)
        self.assertTrue(again.early)

    def test_a_server_that_became_older(self) -> None:
        """
        It was asked for more than it speaks: the connection fails with a word for
        that, and the next one waits.
        """

        async def older(peer: Peer) -> None:
            peer.send(b"CFE_v2\n")
            await peer.line()
            await peer.line()
            peer.send(WELCOME)
            await peer.request()
            peer.send(GOOD)
            await peer.more()

        place = Place(welcoming, older, memory=self.memory())
        place.result(place.connect().close())
        session = place.connect()
        error = place.failure(session.stat(b"/a"))
        self.assertEqual((type(error), error.code), (ConnectionBroken, "early-data"))
        session = place.connect()
        self.assertFalse(session.early)
        self.assertEqual(place.result(session.stat(b"/a")), STATUS)
        self.assertEqual(session.version, 2)

    def test_a_server_that_hangs_up_early(self) -> None:
        """
        Before its line came, the early data may be why; the next connection tells.
        """

        async def gone(peer: Peer) -> None:
            await peer.line()
            peer.abort()

        async def distrusting(peer: Peer) -> None:
            peer.send(HELLO)
            await peer.line()
            await peer.line()
            peer.close()

        place = Place(welcoming, gone, distrusting, memory=self.memory())
        place.result(place.connect().close())
        session = place.connect()
        self.assertEqual(place.failure(session.stat(b"/a")).code, "early-data")
        session = place.connect()
        self.assertEqual(place.failure(session.stat(b"/a")).code, "not-trusted")

    def test_hanging_up_behind_an_early_dialog(self) -> None:
        """
        When its line did come, the server does not trust us.
        """

        async def distrusting(peer: Peer) -> None:
            peer.send(HELLO)
            await peer.line()
            await peer.line()
            peer.close()

        place = Place(welcoming, distrusting, memory=self.memory())
        place.result(place.connect().close())
        session = place.connect()
        error = place.failure(session.stat(b"/a"))
        self.assertEqual((type(error), error.code), (Rejected, "not-trusted"))

    def test_another_key(self) -> None:
        """
        A server with another key is not known, whatever its name.
        """
        memory = self.memory()
        Place(welcoming, memory=memory).connect()
        place = Place(welcoming, memory=memory, key=key_pair(7))

        self.assertFalse(place.connect().early)

    def test_an_older_server_is_waited_for(self) -> None:
        """
        Where less is spoken than wanted, its line is waited for: it may speak more
        by now.
        """

        async def older(peer: Peer) -> None:
            peer.send(b"CFE_v2\n")
            await peer.more()

        memory = self.memory()
        Place(older, memory=memory).connect()

        self.assertFalse(Place(older, memory=memory).connect().early)
        self.assertTrue(Place(older, memory=memory, newest=2).connect().early)


async def _mute(peer: Peer) -> None:
    await peer.more()


class DialerTests(SynchronousTestCase):
    """
    What a dialer is made with.
    """

    def test_users(self) -> None:
        """
        A user name that no line can carry is found out when the dialer is made.
        """
        for user in (b"", b"a b", b"a/b", b"x" * 2000):
            self.assertRaises(
                LocalProtocolError,
                Dialer,
                None,
                context=client_context(key_pair(1)),
                trust=Trusting(),
                user=user,
            )

    def test_own_digest(self) -> None:
        """
        The digest is that of the key in the context.
        """
        place = Place(welcoming)
        self.assertEqual(place.dialer.own_digest, key_pair(1).public.md5)
