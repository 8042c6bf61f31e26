# SPDX-License-Identifier: MIT
"""
Connecting to servers.
"""

from __future__ import annotations

import random
import socket
import time
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP6ClientEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    DNSLookupError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from nodecomm import __version__
from nodecomm.client import endings
from nodecomm.client.errors import Unreachable
from nodecomm.client.session import ClientSession
from nodecomm.client.timeouts import Timeouts
from nodecomm.identity.keys import PublicKey
from nodecomm.transport.descriptor import TLSDescriptor
from nodecomm.transport.errors import failure_of
from nodecomm.transport.memory import TLSOverTransport
from nodecomm.transport.port import is_plain_socket, take_socket
from nodecomm.wire.dialog import NEWEST_VERSION, ClientDialog

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
    from twisted.python.failure import Failure

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.memory import Recalled, ServerMemory
    from nodecomm.client.trust import IServerTrust
    from nodecomm.identity.servers import ServerDecision

__all__ = ["PAUSES", "Dialer"]

#: Seconds, before they are jittered, between attempts to connect to a server that
#: closes without a word: it may only be about to notice that our last connection
#: has ended.
PAUSES = (0.2, 0.4, 0.8, 1.6, 3.2)

_PRODUCT = b"nodecomm-agent " + __version__.encode("ascii")

#: What a resolver says when it is sure that there is no such name.
_NO_SUCH_NAME = {
    number
    for name in ("EAI_NONAME", "EAI_NODATA")
    if (number := getattr(socket, name, None)) is not None
}


class Dialer:
    """
    Connects to servers.

    Args:
        reactor: Drives sockets and looks names up.
        context: From `nodecomm.transport.context.client_context`, with our key.
        trust: Decides about the servers' keys.
        user: Who we say we are: one word.
        newest: The newest protocol version to ask for.
        memory: What servers said last time; None: every connection waits to hear it.
        timeouts: How long a server is waited for.
        endpoint_for: How to reach a server; by default TCP to its name, by IPv6 and
            IPv4.
        clock: For timers; the reactor when None.
        product: What we call ourselves in the dialog; nobody looks.
        now: Civil time in seconds; servers may refuse clocks that are far off.
        monotonic: Seconds of a clock that nobody sets.
        random: Numbers from 0 up to 1, for the length of pauses.
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
        timeouts: Timeouts | None = None,
        endpoint_for: Callable[[ServerAddress], IStreamClientEndpoint] | None = None,
        clock: IReactorTime | None = None,
        product: bytes = _PRODUCT,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        # Found out now and not at the first connection.
        ClientDialog(user, product, newest)
        self.context = context
        self.trust = trust
        self.user = user
        self.newest = newest
        self.memory = memory
        self.timeouts = Timeouts() if timeouts is None else timeouts
        self.product = product
        self.reactor = reactor
        self.clock: Any = reactor if clock is None else clock
        self.now = now
        self.monotonic = monotonic
        self._endpoint_for = endpoint_for or self._by_name
        self._random = random
        self._digest = ""

    def connect(self, server: ServerAddress) -> Deferred[ClientSession]:
        """
        Connect. The Deferred fires when the server's key is trusted and our lines
        have left, so that requests may follow; that we are welcome is known later
        (`ClientSession.when_welcomed`). When it fails, nothing is left open.

        Errors: `Unreachable`, `UntrustedServer`, `Rejected`, `ConnectionBroken`; and
        whatever the decision about the key failed with.
        """
        return Deferred.fromCoroutine(self._connect(server))

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

    async def _connect(self, server: ServerAddress) -> ClientSession:
        for pause in PAUSES:
            try:
                return await self._attempt(server)
            except Unreachable as error:
                if error.code != "closed-at-accept":
                    raise
            seconds = pause * (0.5 + self._random())
            await deferLater(self.clock, seconds, lambda: None)
        return await self._attempt(server)

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
        opening = _OpeningFactory(self, session)
        connecting = self._endpoint_for(server).connect(opening)
        # The endpoint times each address; this is for the look-up of the name, too.
        connecting.addTimeout(2 * self.timeouts.connect, self.clock, _timed_out)
        try:
            await connecting
        except DNSLookupError as error:
            raise await self._why_unknown(server, error) from None
        except ConnectingCancelledError:
            raise CancelledError from None
        except ConnectError as error:
            raise endings.unreachable(server, error) from None
        except socket.gaierror as error:
            raise endings.unknown_name(server, str(error.strerror)) from None
        except ValueError as error:
            raise endings.unknown_name(server, str(error)) from None
        return await session.opened

    def _by_name(self, server: ServerAddress) -> IStreamClientEndpoint:
        # Twisted's look-up forgets the zone of a link-local address (fe80::1%eth0).
        kind = TCP6ClientEndpoint if "%" in server.host else HostnameEndpoint
        endpoint: IStreamClientEndpoint = kind(
            self.reactor, server.host, server.port, timeout=self.timeouts.connect
        )
        return endpoint

    async def _why_unknown(
        self, server: ServerAddress, error: DNSLookupError
    ) -> Unreachable:
        """
        Twisted does not tell a name that does not exist from a look-up that failed,
        so it is asked for once more.
        """
        pool = getattr(self.reactor, "getThreadPool", None)
        if pool is None:
            return endings.lookup_failed(server, str(error))
        try:
            await deferToThreadPool(
                self.reactor, pool(), socket.getaddrinfo, server.host, server.port
            )
        except socket.gaierror as why:
            if why.errno in _NO_SUCH_NAME:
                return endings.unknown_name(server, str(why.strerror))
            return endings.lookup_failed(server, str(why.strerror))
        except (OSError, UnicodeError) as why:
            return endings.lookup_failed(server, str(why))
        return endings.lookup_failed(server, str(error))


def _timed_out(_result: object, seconds: float) -> Failure:
    return failure_of(ConnectTimeout())  # type: ignore[no-untyped-call]


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
