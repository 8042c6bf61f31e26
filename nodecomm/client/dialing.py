# SPDX-License-Identifier: MIT
"""
Connecting to servers through TLS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.protocol import Factory, Protocol, connectionDone

from nodecomm import __version__
from nodecomm.client.calling import PAUSES, Caller
from nodecomm.client.session import ClientSession
from nodecomm.identity.keys import PublicKey
from nodecomm.transport.descriptor import TLSDescriptor
from nodecomm.transport.memory import TLSOverTransport
from nodecomm.transport.port import is_plain_socket, take_socket
from nodecomm.wire.dialog import NEWEST_VERSION, ClientDialog

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.memory import Recalled, ServerMemory
    from nodecomm.client.trust import IServerTrust
    from nodecomm.identity.servers import ServerDecision

__all__ = ["PAUSES", "Dialer"]

_PRODUCT = b"nodecomm-agent " + __version__.encode("ascii")


class Dialer(Caller[ClientSession]):
    """
    Connects to servers through TLS.

    Args:
        reactor: Drives sockets and looks names up.
        context: From `nodecomm.transport.context.client_context`, with our key.
        trust: Decides about the servers' keys.
        user: Who we say we are: one word.
        newest: The newest protocol version to ask for.
        memory: What servers said last time; None: every connection waits to hear it.
        product: What we call ourselves in the dialog; nobody looks.
        more: What every `Caller` takes.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        context: SSL.Context,
        trust: IServerTrust,
        user: bytes,
        newest: int = NEWEST_VERSION,
        memory: ServerMemory | None = None,
        product: bytes = _PRODUCT,
        **more: Any,
    ) -> None:
        # Found out now and not at the first connection.
        ClientDialog(user, product, newest)
        super().__init__(reactor, trust=trust, user=user, **more)
        self.context = context
        self.newest = newest
        self.memory = memory
        self.product = product
        self._digest = ""

    @property
    def own_digest(self) -> str:
        """
        The digest of our own key, as servers print it.
        """
        if not self._digest:
            certificate = SSL.Connection(self.context, None).get_certificate()
            if certificate is None:
                return ""
            key = certificate.get_pubkey().to_cryptography_key()
            self._digest = PublicKey.from_cryptography(key).md5
        return self._digest

    async def _attempt(self, server: ServerAddress) -> ClientSession:
        call = _Call(self, server)
        session = ClientSession(
            server,
            ClientDialog(self.user, self.product, self.newest),
            call,
            clock=self.clock,
            monotonic=self.monotonic,
            now=self.now,
            timeouts=self.timeouts,
        )
        await self._reach(server, _OpeningFactory(self, session))
        return await session.opened


class _Call:
    """
    A server that is being called: what the session asks about it.
    """

    def __init__(self, dialer: Dialer, server: ServerAddress) -> None:
        self._dialer = dialer
        self._server = str(server)

    def check(self, key: PublicKey) -> ServerDecision | Deferred[ServerDecision]:
        return self._dialer.trust.check(self._server, key)

    def recall(self, key: PublicKey) -> Recalled | None:
        memory = self._dialer.memory
        return None if memory is None else memory.recall(self._server, key)

    def greeted(self, key: PublicKey, newest: int, product: bytes) -> None:
        memory = self._dialer.memory
        if memory is not None:
            memory.note(self._server, key, newest, product)

    def mistaken(self) -> None:
        memory = self._dialer.memory
        if memory is not None:
            memory.forget(self._server)

    def own_name(self) -> tuple[str, bytes]:
        return self._dialer.own_digest, self._dialer.user


class _OpeningFactory(Factory):
    """
    What an endpoint connects.
    """

    noisy = False

    def __init__(self, dialer: Dialer, session: ClientSession) -> None:
        self._dialer = dialer
        self._session = session

    def buildProtocol(self, addr: object) -> _Opening:
        return _Opening(self._dialer, self._session)


class _Opening(Protocol):
    """
    A connection that is about to become TLS.
    """

    def __init__(self, dialer: Dialer, session: ClientSession) -> None:
        self._dialer = dialer
        self._session = session
        #: What the bytes go to, where they come through here.
        self._above: TLSOverTransport | None = None

    def connectionMade(self) -> None:
        """
        Give the socket to OpenSSL where there is a plain one.
        """
        dialer = self._dialer
        transport: Any = self.transport
        timeout = dialer.timeouts.handshake
        if is_plain_socket(transport):
            self.transport = None
            peer = transport.getPeer()
            TLSDescriptor(
                take_socket(transport),
                dialer.context,
                self._session,
                transport.reactor,
                server=False,
                peer=peer,
                clock=dialer.clock,
                handshake_timeout=timeout,
            ).start()
        else:
            self._above = TLSOverTransport(
                dialer.context,
                self._session,
                dialer.clock,
                server=False,
                handshake_timeout=timeout,
            )
            self._above.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """
        Bytes, where there is no plain socket.
        """
        if self._above is not None:
            self._above.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The end, where there is no plain socket.
        """
        above, self._above = self._above, None
        if above is not None:
            above.connectionLost(reason)
