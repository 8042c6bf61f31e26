# SPDX-License-Identifier: MIT
"""
The client on real sockets of the loopback: what the network in memory cannot show.
"""

from __future__ import annotations

import hashlib
import random
import socket
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.protocols.policies import WrappingFactory
from twisted.trial.unittest import TestCase

from nodecomm.client import calling
from nodecomm.client.address import ServerAddress
from nodecomm.client.classic_dialing import ClassicDialer
from nodecomm.client.dialing import Dialer
from nodecomm.client.errors import ConnectionBroken, Unreachable
from nodecomm.client.timeouts import Timeouts
from nodecomm.testing import key_pair
from nodecomm.transport.context import client_context
from nodecomm.transport.descriptor import TLSDescriptor
from nodecomm.transport.memory import TLSOverTransport
from nodecomm.transport.plain import PlainDescriptor, PlainOverTransport
from nodecomm.transport.port import take_socket
from tests.client.classic_scripted import (
    OWN,
    SERVER,
    ClassicPeer,
    ClassicScript,
    ClassicScriptedFactory,
)
from tests.client.scripted import Peer, Script, ScriptedFactory, Trusting
from tests.client.test_session import GOOD, STATUS, welcoming

reactor: Any = _reactor

#: Bytes of a content that fits in no socket's buffers.
LARGE = 24 << 20

#: A content that threads decrypt in many pieces.
CONTENT = random.Random(1).randbytes((4 << 20) + 17)


async def generous(peer: Peer) -> None:
    """
    A server that answers everything with a large content.
    """
    await peer.greet()
    while True:
        await peer.request()
        for _ in range(LARGE >> 14):
            peer.send(b"x" * 16384)


async def classic_generous(peer: ClassicPeer) -> None:
    """
    A classic server that gives everybody the same content, and the same status.
    """
    await peer.greet()
    while True:
        request = await peer.request()
        if request.startswith(b"SGET"):
            stream = peer.cipher.encrypt_blocks(CONTENT, last=True)
            for start in range(0, len(stream), 65536):
                peer.send(stream[start : start + 65536])
        else:
            peer.send(GOOD)


class _Wrapped:
    """
    An endpoint whose transport is a wrapper.
    """

    def __init__(self, server: ServerAddress) -> None:
        self._below = TCP4ClientEndpoint(reactor, server.host, server.port)

    def connect(self, factory: Any) -> Any:
        """
        Connect, and wrap.
        """
        return self._below.connect(WrappingFactory(factory))


class SocketTests(TestCase):
    """
    TCP, TLS on the socket itself, and the reactor.
    """

    timeout = 60

    def listen(self, *scripts: Script | None) -> ServerAddress:
        """
        A scripted server on a free port.
        """
        factory: Any = ScriptedFactory(reactor, *scripts)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.factory = factory
        return ServerAddress("127.0.0.1", port.getHost().port)

    def dialer(self, **more: Any) -> Dialer:
        """
        A dialer on the real reactor.
        """
        arguments: dict[str, Any] = {
            "context": client_context(key_pair(1)),
            "trust": Trusting(),
            "user": b"root",
            **more,
        }
        return Dialer(reactor, **arguments)

    def listen_classic(self, *scripts: ClassicScript | None) -> ServerAddress:
        """
        A scripted classic server on a free port.
        """
        factory: Any = ClassicScriptedFactory(reactor, *scripts)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.factory = factory
        return ServerAddress("127.0.0.1", port.getHost().port)

    def classic_dialer(self, **more: Any) -> ClassicDialer:
        """
        A classic dialer on the real reactor.
        """
        trust = Trusting(None, SERVER.public)
        arguments: dict[str, Any] = {"key": OWN, "trust": trust, "user": b"root"}
        return ClassicDialer(reactor, **{**arguments, **more})

    async def test_requests(self) -> None:
        """
        TLS is on the socket itself; requests are answered; the close sees the
        server's end.
        """
        server = self.listen(welcoming)
        session = await self.dialer().connect(server)
        self.assertIsInstance(session._transport, TLSDescriptor)
        self.assertTrue(session._transport.getTcpNoDelay())
        found = await gatherResults([session.stat(b"/a") for _ in range(1000)])
        self.assertEqual(found, [STATUS] * 1000)
        await session.close()
        (peer,) = self.factory.peers
        self.assertTrue(peer.ended)

    async def test_by_name(self) -> None:
        """
        A name is looked up, and whichever of its addresses answers is taken.
        """
        server = self.listen(welcoming)
        session = await self.dialer().connect(ServerAddress("localhost", server.port))
        self.assertEqual(await session.stat(b"/a"), STATUS)
        await session.close()

    async def test_other_transports(self) -> None:
        """
        Where there is no plain socket, TLS is above whatever there is.
        """
        server = self.listen(welcoming)
        session = await self.dialer(endpoint_for=_Wrapped).connect(server)
        self.assertIsInstance(session._transport, TLSOverTransport)
        self.assertEqual(await session.stat(b"/a"), STATUS)
        await session.close()

    async def test_without_tls(self) -> None:
        """
        The classic protocol is on the socket itself; RSA and what is large are left
        to threads; requests are answered, and the close sees the server's end.
        """
        for encrypt in (False, True):
            server = self.listen_classic(classic_generous)
            dialer = self.classic_dialer(encrypt=encrypt)
            session = await dialer.connect(server)
            self.assertIsInstance(session._transport, PlainDescriptor)
            self.assertTrue(session._transport.getTcpNoDelay())
            found = await gatherResults([session.stat(b"/a") for _ in range(1000)])
            self.assertEqual(found, [STATUS] * 1000)
            await session.close()
            (peer,) = self.factory.peers
            self.assertTrue(peer.ended)
            self.assertIsNotNone(peer.claim)

    async def test_without_tls_on_other_transports(self) -> None:
        """
        Where there is no plain socket, the protocol is above whatever there is.
        """
        server = self.listen_classic(classic_generous)
        session = await self.classic_dialer(endpoint_for=_Wrapped).connect(server)
        self.assertIsInstance(session._transport, PlainOverTransport)
        self.assertEqual(await session.stat(b"/a"), STATUS)
        await session.close()

    async def test_a_large_encrypted_content(self) -> None:
        """
        Threads decrypt what comes, in order; a pause in between loses nothing.
        """
        server = self.listen_classic(classic_generous)
        session = await self.classic_dialer(encrypt=True).connect(server)
        digest = hashlib.sha256()
        pauses = 0

        def sink(data: bytes) -> None:
            nonlocal pauses
            digest.update(data)
            pauses += 1
            if pauses % 8 == 0:
                session.pause()
                reactor.callLater(0.001, session.resume)

        await session.get(b"/large", len(CONTENT), sink)
        self.assertEqual(digest.digest(), hashlib.sha256(CONTENT).digest())
        self.assertGreater(pauses, 10)
        self.assertEqual(await session.stat(b"/a"), STATUS)
        await session.close()

    async def test_a_large_content(self) -> None:
        """
        A paused session leaves the bytes in the kernel, and goes on afterwards.
        """
        server = self.listen(generous)
        session = await self.dialer().connect(server)
        got = 0
        pauses = 0

        def sink(data: bytes) -> None:
            nonlocal got, pauses
            got += len(data)
            if got >> 20 > pauses:
                pauses = got >> 20
                session.pause()
                reactor.callLater(0.001, session.resume)

        await session.get(b"/large", LARGE, sink)
        self.assertEqual(got, LARGE)
        self.assertGreater(pauses, 10)
        await session.close()

    async def test_nobody_listens(self) -> None:
        """
        A refused connection is told as such.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        connecting = self.dialer().connect(ServerAddress("127.0.0.1", port))
        error: Any = await self.assertFailure(connecting, Unreachable)
        self.assertEqual(error.code, "connection-refused")
        self.assertIn(f"127.0.0.1:{port}", str(error))

    async def test_an_unknown_name(self) -> None:
        """
        A name that cannot exist is told apart from a look-up that failed.
        """
        connecting = self.dialer().connect(ServerAddress("no-such-name.invalid"))
        error: Any = await self.assertFailure(connecting, Unreachable)
        self.assertIn(error.code, ("name-unknown", "name-lookup-failed"))
        self.assertIn("no-such-name.invalid", str(error))

    async def test_closed_at_accept(self) -> None:
        """
        A connection that is accepted and closed without a word is tried again.
        """
        server = self.listen(None, None, welcoming)
        # The pauses are half as long without jitter.
        session = await self.dialer(random=lambda: 0.0).connect(server)
        self.assertEqual(await session.stat(b"/a"), STATUS)
        await session.close()

    async def test_a_transport_without_its_socket(self) -> None:
        """
        A connection that is made and closed between two turns of the reactor is
        readable and writable at once: the reactor then calls a transport whose
        socket has been taken while it was told of the first.
        """
        taken: list[Any] = []

        def keeping(transport: Any) -> Any:
            taken.append(transport)
            return take_socket(transport)

        self.patch(calling, "take_socket", keeping)
        session = await self.dialer().connect(self.listen(welcoming))

        (transport,) = taken
        self.assertIsNone(transport.doWrite())
        self.assertIsNone(transport.doRead())
        self.assertEqual(await session.stat(b"/a"), STATUS)
        await session.close()

    async def test_a_reset(self) -> None:
        """
        A server that resets the connection breaks it.
        """

        async def resetting(peer: Peer) -> None:
            await peer.greet()
            await peer.request()
            peer.send(GOOD)
            await peer.request()
            peer.abort()

        server = self.listen(resetting)
        session = await self.dialer().connect(server)
        self.assertEqual(await session.stat(b"/a"), STATUS)
        error: Any = await self.assertFailure(session.stat(b"/b"), ConnectionBroken)
        self.assertIn(error.code, ("reset", "closed"))
        await session.close()

    async def test_a_listener_that_is_silent(self) -> None:
        """
        A port that accepts and never answers is given up, and the socket closed.
        """
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = ServerAddress("127.0.0.1", silent.getsockname()[1])
            dialer = self.dialer(timeouts=Timeouts(handshake=0.05))
            error: Any = await self.assertFailure(dialer.connect(address), Unreachable)
            self.assertEqual(error.code, "handshake-timeout")
