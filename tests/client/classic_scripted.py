# SPDX-License-Identifier: MIT
"""
A classic server that does what a script says, on a network in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.classic import ClassicSession
from nodecomm.client.classic_dialing import ClassicDialer
from nodecomm.client.timeouts import Timeouts
from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.identity.proof import digest, encrypt_to, new_challenge, open_with
from nodecomm.identity.servers import ServerDecision
from nodecomm.testing import MemoryNetwork, key_pair
from nodecomm.transport.plain import PlainOverTransport
from nodecomm.wire.cipher import SessionCipher
from nodecomm.wire.classic import CLEAR, KEY_SIZE, NONCE_SIZE, Claim
from nodecomm.wire.classic_dialog import (
    ClassicServerDialog,
    Introduced,
    SessionKeySent,
)
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.sealed import open_sealed, parse_sealed
from tests.client.scripted import HUB, NOW, Peer, Trusting
from tests.client.test_session import GOOD

#: The server's key, and ours.
SERVER = key_pair(0)
OWN = key_pair(1)

#: A link to `a.txt`, as a real classic server tells it.
LINK = (
    b"OK: 0 420 511 0 0 6 1795340861 1795340849 1795340849 1 4070906 1 65024",
    b"OK:a.txt",
)

ClassicScript = Callable[["ClassicPeer"], Coroutine[Any, Any, None]]


class ClassicPeer(Peer):
    """
    The server's end of one connection.

    Attributes:
        dialog: Its half of the dialog.
        introduced: What the client introduced itself with; None before it did.
        answer: What the client answered to the counter-challenge.
        session_key: Decrypted.
    """

    def __init__(self, script: ClassicScript, clock: Clock, pair: KeyPair) -> None:
        super().__init__(script, clock)  # type: ignore[arg-type]
        self.pair = pair
        self.dialog = ClassicServerDialog()
        self.introduced: Introduced | None = None
        self.session_key = b""

    def connectionMade(self) -> None:
        """The script begins."""
        self.handshakeCompleted()

    @property
    def claim(self) -> Claim | None:
        """Who the client says it is."""
        return self.dialog.claim

    @property
    def form(self) -> bytes:
        """The form of its challenge."""
        return b"" if self.introduced is None else self.introduced.challenge.form

    @property
    def cipher(self) -> SessionCipher:
        """A cipher with the session's key."""
        return SessionCipher(self.session_key)

    async def hear(self) -> Introduced:
        """Wait until the client has introduced itself."""
        while self.introduced is None:
            if not self._received:
                await self.more()
            data = bytes(self._received)
            self._received.clear()
            for event in self.dialog.receive_data(data):
                if isinstance(event, Introduced):
                    self.introduced = event
        return self.introduced

    def accepting(
        self, *, own: PublicKey | None = None, counter: bytes | None = None
    ) -> bytes:
        """
        The bytes that accept the client.

        Args:
            own: The key to show, if not the own.
            counter: What to send for a counter-challenge instead of one.
        """
        introduced = self.introduced
        assert introduced is not None
        shown = self.pair.public if own is None else own
        numbers = (shown.modulus, shown.exponent)
        clear = introduced.challenge.data
        if self.form != CLEAR:
            clear = open_with(self.pair, clear, NONCE_SIZE, os.urandom(NONCE_SIZE))
        nonce = new_challenge()
        if counter is None:
            client = PublicKey(introduced.modulus, introduced.exponent)
            counter = encrypt_to(client, nonce)
        return self.dialog.accept(
            on_trust=False,
            answer=digest(clear),
            counter=counter,
            expected=digest(nonce),
            own=numbers if self.form == CLEAR else None,
        )

    async def keyed(self) -> None:
        """Wait for the client's answer and its session key."""
        data = b""
        while True:
            for event in self.dialog.receive_data(data):
                assert isinstance(event, SessionKeySent)
                self.session_key = open_with(self.pair, event.data, KEY_SIZE, b"")
                self.dialog.established()
                self._received[:0] = self.dialog.trailing()
                return
            if not self._received:
                await self.more()
            data = bytes(self._received)
            self._received.clear()

    async def greet(self) -> None:
        """The dialog, as it should be; a question for the key ends in it."""
        await self.hear()
        self.send(self.accepting())
        await self.keyed()

    async def unsealed(self) -> bytes:
        """The plain request that the next envelope stands for."""
        return open_sealed(parse_sealed(await self.request()), self.cipher)

    def seal(self, *payloads: bytes) -> None:
        """Send each as an encrypted frame, the last one as the last."""
        frames = [
            encode_transaction(self.cipher.encrypt(payload), more=more)
            for payload, more in zip(
                payloads, [True] * (len(payloads) - 1) + [False], strict=True
            )
        ]
        self.send(b"".join(frames))


class ClassicScriptedFactory(Factory):
    """
    Runs one script after the other, the last one for all further connections. None
    instead of a script: the connection is closed when it is accepted.
    """

    noisy = False

    def __init__(
        self, clock: Any, *scripts: ClassicScript | None, pair: KeyPair = SERVER
    ) -> None:
        self._clock = clock
        self._scripts = list(scripts)
        self._pair = pair
        self.peers: list[ClassicPeer] = []

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """The next connection."""
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        if script is None:
            return None
        peer = ClassicPeer(script, self._clock, self._pair)
        self.peers.append(peer)
        return PlainOverTransport(peer, self._clock)


#: A key of somebody else.
OTHER = key_pair(2)

NO = ServerDecision(False, "key-changed", "the key has changed", (OTHER.public,))


async def welcoming(peer: ClassicPeer) -> None:
    """
    A server that answers every request with the same status.
    """
    await peer.greet()
    while True:
        await peer.request()
        peer.send(GOOD)


async def refusing(peer: ClassicPeer) -> None:
    """
    A server that cannot decrypt the challenge and says so, as the real one does.
    """
    await peer.hear()
    peer.send(peer.dialog.refuse())
    peer.close()


async def not_trusting(peer: ClassicPeer) -> None:
    """
    A server that does not trust the client.
    """
    await peer.hear()
    peer.send(peer.dialog.refuse(key=True))
    peer.close()


async def impostor(peer: ClassicPeer) -> None:
    """
    Shows the key of the server, which it has not.
    """
    await peer.hear()
    peer.send(peer.accepting(own=SERVER.public))
    await peer.keyed()
    raise AssertionError("the impostor was answered")


def saying(*payloads: bytes) -> ClassicScript:
    """
    A server that says this, whatever comes, and waits.
    """

    async def script(peer: ClassicPeer) -> None:
        await peer.hear()
        peer.answer(*payloads)
        await peer.more()

    return script


def showing(modulus: int, exponent: int) -> ClassicScript:
    """
    A server that says that this is its key.
    """

    async def script(peer: ClassicPeer) -> None:
        await peer.hear()
        peer.send(peer.accepting(own=PublicKey(modulus, exponent)))
        await peer.more()

    return script


async def showing_own(peer: ClassicPeer) -> None:
    """
    A server that tells its key.
    """
    await peer.hear()
    peer.send(peer.accepting())
    await peer.more()


class Names:
    """
    Knows the name of every address.
    """

    def __init__(self, name: bytes = b"node.example.com") -> None:
        self.name = name
        self.asked: list[str] = []

    def of(self, address: str) -> Deferred[bytes]:
        """At once."""
        self.asked.append(address)
        return execute(lambda: self.name)


class HeldPool:
    """
    Runs work when a test says so.
    """

    def __init__(self) -> None:
        self.held: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def run(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Later."""
        done: Deferred[Any] = Deferred()
        self.held.append((partial(work, *args), done))
        return done

    def finish(self, at: int = 0) -> None:
        """Run one piece of work."""
        work, done = self.held.pop(at)
        execute(work).chainDeferred(done)


class ClassicPlace:
    """
    A network with a scripted server and a client that dials it.

    Args:
        scripts: What the server does.
        trust: Decides about its key; by default it is known and trusted.
        more: For the dialer.
    """

    def __init__(
        self,
        *scripts: ClassicScript | None,
        trust: Any = None,
        timeouts: Timeouts | None = None,
        latency: float = 0.0,
        pair: KeyPair = SERVER,
        **more: Any,
    ) -> None:
        self.network = MemoryNetwork(latency=latency)
        self.clock = self.network.clock
        self.server = ClassicScriptedFactory(self.clock, *scripts, pair=pair)
        self.network.listen(HUB, self.server)
        self.trust = Trusting(None, SERVER.public) if trust is None else trust
        arguments: dict[str, Any] = {
            "key": OWN,
            "user": b"root",
            "name_of": Names().of,
            **more,
        }
        self.dialer = ClassicDialer(
            self.clock,
            trust=self.trust,
            timeouts=timeouts,
            endpoint_for=self.network.endpoint_for,
            now=lambda: NOW,
            monotonic=self.clock.seconds,
            random=lambda: 0.5,
            **arguments,
        )

    @property
    def peer(self) -> ClassicPeer:
        """The server's end of the last connection."""
        return self.server.peers[-1]

    @property
    def forms(self) -> bytes:
        """The forms of the challenges so far."""
        return b"".join(peer.form for peer in self.server.peers)

    def connect(self) -> ClassicSession:
        """Connect, and give the session."""
        return self.network.result_of(self.dialer.connect(HUB))

    def refused(self) -> Any:
        """Connect in vain, and give the error; nothing must be left open."""
        error = self.network.failure_of(self.dialer.connect(HUB))
        self.network.advance(10)
        assert all(connection.over for connection in self.network.connections)
        return error

    def result(self, deferred: Deferred[Any]) -> Any:
        """What a request came to."""
        return self.network.result_of(deferred)

    def failure(self, deferred: Deferred[Any]) -> Any:
        """The error of a request."""
        return self.network.failure_of(deferred)


class SessionCase(SynchronousTestCase):
    """
    A session with a server that does what a script says after the dialog.
    """

    def session(self, script: Any, **more: Any) -> tuple[ClassicPlace, ClassicSession]:
        """
        Connect.
        """

        async def whole(peer: ClassicPeer) -> None:
            await peer.greet()
            await script(peer)

        place = ClassicPlace(whole, **more)
        return place, place.connect()
