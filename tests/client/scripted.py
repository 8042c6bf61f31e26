# SPDX-License-Identifier: MIT
"""
A server that does what a script says, well-behaved or not, on a network in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHandshakeListener, IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from nodecomm.client.address import ServerAddress
from nodecomm.client.dialing import Dialer
from nodecomm.client.memory import ServerMemory
from nodecomm.client.session import ClientSession
from nodecomm.client.timeouts import Timeouts
from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.identity.servers import ServerDecision
from nodecomm.testing import MemoryNetwork, key_pair
from nodecomm.transport.context import client_context, server_context
from nodecomm.transport.memory import TLSOverTransport
from nodecomm.wire.framing import TransactionBuffer, encode_transaction

HUB = ServerAddress("hub")

#: Civil time on this network.
NOW = 1_700_000_000.0

HELLO = b"CFE_v3 cf-serverd 3.21.0\n"
WELCOME = b"OK WELCOME USERNAME=root\n"

_CLIENT = client_context(key_pair(1))
_SERVERS: dict[KeyPair, Any] = {}


class Gone(Exception):
    """
    The client ended the connection while the script waited for it.
    """


Script = Callable[["Peer"], Coroutine[Any, Any, None]]


@implementer(IHandshakeListener)
class Peer(Protocol):
    """
    The server's end of one connection.

    Attributes:
        records: Everything received, record by record.
    """

    def __init__(self, script: Script, clock: Clock) -> None:
        self._script = script
        self._clock = clock
        self._received = bytearray()
        self._buffer = TransactionBuffer()
        self._waiting: Deferred[None] | None = None
        self.records: list[bytes] = []
        self.ended = False

    def handshakeCompleted(self) -> None:
        """The script begins."""
        running: Deferred[None] = Deferred.fromCoroutine(self._script(self))
        running.addErrback(lambda failure: failure.trap(Gone))

    def dataReceived(self, data: bytes) -> None:
        """The script may go on."""
        self.records.append(data)
        self._received += data
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The script may go on, and finds that nobody is there."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def more(self) -> None:
        """Wait until something comes."""
        if self.ended:
            raise Gone
        self._waiting = Deferred()
        await self._waiting

    async def line(self) -> bytes:
        """The next line of the dialog."""
        while b"\n" not in self._received:
            await self.more()
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        return line

    async def request(self) -> bytes:
        """The payload of the next request."""
        while True:
            self._buffer.feed(bytes(self._received))
            self._received.clear()
            payload = self._buffer.next_payload()
            if payload is not None:
                return payload
            await self.more()

    async def greet(self) -> None:
        """The dialog, as it should be."""
        self.send(HELLO)
        assert (await self.line()).startswith(b"CFE_v")
        assert (await self.line()).startswith(b"IDENTITY")
        self.send(WELCOME)

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await deferLater(self._clock, seconds)
        if self.ended:
            raise Gone

    def send(self, *records: bytes) -> None:
        """Send each as a record of its own."""
        for record in records:
            self.transport.write(record)  # type: ignore[union-attr]

    def answer(self, *payloads: bytes) -> None:
        """Send each as a frame, all in one record."""
        self.send(b"".join(map(encode_transaction, payloads)))

    def close(self) -> None:
        """End the connection in order."""
        self.transport.loseConnection()  # type: ignore[union-attr]

    def abort(self) -> None:
        """End it with a reset."""
        self.transport.abortConnection()  # type: ignore[union-attr]


class ScriptedFactory(Factory):
    """
    Runs one script after the other, the last one for all further connections. None
    instead of a script: the connection is closed when it is accepted.
    """

    noisy = False

    def __init__(
        self, clock: Clock, *scripts: Script | None, key: KeyPair | None = None
    ) -> None:
        self._clock = clock
        self._scripts = list(scripts)
        key = key_pair(0) if key is None else key
        if key not in _SERVERS:
            _SERVERS[key] = server_context(key)
        self._context = _SERVERS[key]
        self.peers: list[Peer] = []

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """The next connection."""
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        if script is None:
            return None
        peer = Peer(script, self._clock)
        self.peers.append(peer)
        below: IProtocol = TLSOverTransport(self._context, peer, self._clock)
        return below


class Trusting:
    """
    An `IServerTrust` that says what it was told to say.
    """

    def __init__(self, decision: Any = None, *known: PublicKey) -> None:
        self.known = known
        if decision is None:
            decision = ServerDecision(True, "stored", "")
        self.decision = decision
        self.asked: list[tuple[str, PublicKey]] = []

    def check(self, server: str, key: PublicKey) -> Any:
        """What it was told."""
        self.asked.append((server, key))
        if isinstance(self.decision, Exception):
            raise self.decision
        return self.decision

    def candidates(self, server: str) -> tuple[PublicKey, ...]:
        """Those it was given."""
        return self.known


class Place:
    """
    A network with a scripted server and a client that dials it.
    """

    def __init__(
        self,
        *scripts: Script | None,
        trust: Any = None,
        memory: ServerMemory | None = None,
        timeouts: Timeouts | None = None,
        latency: float = 0.0,
        key: KeyPair | None = None,
        newest: int = 3,
    ) -> None:
        self.network = MemoryNetwork(latency=latency)
        self.clock = self.network.clock
        self.server = ScriptedFactory(self.clock, *scripts, key=key)
        self.network.listen(HUB, self.server)
        self.trust = Trusting() if trust is None else trust
        self.dialer = Dialer(
            self.clock,
            context=_CLIENT,
            trust=self.trust,
            user=b"root",
            newest=newest,
            memory=memory,
            timeouts=timeouts,
            endpoint_for=self.network.endpoint_for,
            now=lambda: NOW,
            monotonic=self.clock.seconds,
            random=lambda: 0.5,
        )

    def connect(self) -> ClientSession:
        """Connect, and give the session."""
        return self.network.result_of(self.dialer.connect(HUB))

    def refused(self) -> Exception:
        """Connect in vain, and give the error."""
        return self.network.failure_of(self.dialer.connect(HUB))

    def result(self, deferred: Deferred[Any]) -> Any:
        """What a request came to."""
        return self.network.result_of(deferred)

    def failure(self, deferred: Deferred[Any]) -> Any:
        """The error of a request."""
        return self.network.failure_of(deferred)
