# SPDX-License-Identifier: MIT
"""
Connecting to servers through TLS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from OpenSSL import SSL

from nodecomm import __version__
from nodecomm.client.calling import PAUSES, Caller
from nodecomm.client.session import ClientSession
from nodecomm.identity.keys import PublicKey
from nodecomm.transport.descriptor import TLSDescriptor
from nodecomm.transport.memory import TLSOverTransport
from nodecomm.wire.dialog import NEWEST_VERSION, ClientDialog

if TYPE_CHECKING:
    import socket

    from twisted.internet.defer import Deferred

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.connection import Connection
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
        return await self._reach(server, session)

    def _own_socket(
        self, connection: Connection, sock: socket.socket, reactor: Any, peer: Any
    ) -> None:
        TLSDescriptor(
            sock,
            self.context,
            connection,
            reactor,
            server=False,
            peer=peer,
            clock=self.clock,
            handshake_timeout=self.timeouts.handshake,
        ).start()

    def _between(self, connection: Connection) -> TLSOverTransport:
        return TLSOverTransport(
            self.context,
            connection,
            self.clock,
            server=False,
            handshake_timeout=self.timeouts.handshake,
        )


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
