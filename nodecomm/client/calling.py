# SPDX-License-Identifier: MIT
"""
Reaching servers: endpoints, what it means that there is no connection, and calling
again a server that hangs up without a word.
"""

from __future__ import annotations

import random
import socket
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    DNSLookupError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from nodecomm.client import endings
from nodecomm.client.connection import Connection
from nodecomm.client.errors import Unreachable
from nodecomm.client.timeouts import Timeouts
from nodecomm.transport.errors import failure_of
from nodecomm.transport.port import is_plain_socket, take_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
    from twisted.python.failure import Failure

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.names import NameLookup
    from nodecomm.client.trust import IServerTrust

__all__ = ["PAUSES", "Caller"]

#: Seconds, before they are jittered, between attempts to connect to a server that
#: closes without a word: it may only be about to notice that our last connection
#: has ended.
PAUSES = (0.2, 0.4, 0.8, 1.6, 3.2)

#: What a resolver says when it is sure that there is no such name.
_NO_SUCH_NAME = {
    number
    for name in ("EAI_NONAME", "EAI_NODATA")
    if (number := getattr(socket, name, None)) is not None
}

C = TypeVar("C", bound=Connection)
D = TypeVar("D", bound=Connection)


class Caller(ABC, Generic[C]):
    """
    Connects to servers, whatever protocol is spoken then.

    Args:
        reactor: Drives sockets and looks names up.
        trust: Decides about the servers' keys.
        user: Who we say we are: one word.
        timeouts: How long a server is waited for.
        endpoint_for: How to reach a server; by default TCP to its name, by IPv6 and
            IPv4.
        names: Looks names up where *endpoint_for* is not given; by default the
            reactor does, a few at a time.
        clock: For timers; the reactor when None.
        now: Civil time in seconds; servers may refuse clocks that are far off.
        monotonic: Seconds of a clock that nobody sets.
        random: Numbers from 0 up to 1, for the length of pauses.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        trust: IServerTrust,
        user: bytes,
        timeouts: Timeouts | None = None,
        endpoint_for: Callable[[ServerAddress], IStreamClientEndpoint] | None = None,
        names: NameLookup | None = None,
        clock: IReactorTime | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.trust = trust
        self.user = user
        self.timeouts = Timeouts() if timeouts is None else timeouts
        self.reactor = reactor
        self.clock: Any = reactor if clock is None else clock
        self.now = now
        self.monotonic = monotonic
        self._endpoint_for = endpoint_for or self._by_name
        self._names = names
        self._random = random

    @property
    @abstractmethod
    def own_digest(self) -> str:
        """
        The digest of our own key, as servers print it.
        """

    @abstractmethod
    async def _attempt(self, server: ServerAddress) -> C:
        """
        Connect once.
        """

    def connect(self, server: ServerAddress) -> Deferred[C]:
        """
        Connect. The Deferred fires when the server's key is trusted and our part of
        the dialog has left, so that requests may follow; that we are welcome may be
        known later (`Connection.when_welcomed`). When it fails, nothing is left open.

        Errors: `Unreachable`, `UntrustedServer`, `Rejected`, `ConnectionBroken`; and
        whatever the decision about the key failed with.
        """
        return Deferred.fromCoroutine(self._connect(server))

    async def _connect(self, server: ServerAddress) -> C:
        for pause in PAUSES:
            try:
                return await self._attempt(server)
            except Unreachable as error:
                if error.code != "closed-at-accept":
                    raise
            seconds = pause * (0.5 + self._random())
            await deferLater(self.clock, seconds, lambda: None)
        return await self._attempt(server)

    @abstractmethod
    def _own_socket(
        self, connection: Connection, sock: socket.socket, reactor: Any, peer: Any
    ) -> None:
        """
        Have *connection* live on *sock*, connected to the address *peer*.
        """

    @abstractmethod
    def _between(self, connection: Connection) -> Any:
        """
        The same where there is no plain socket: the protocol that lies between
        *connection* and whatever transport there is.
        """

    async def _reach(self, server: ServerAddress, connection: D) -> D:
        """
        Connect to *server*, and wait until *connection* is open.
        """
        connecting = self._endpoint_for(server).connect(
            _OpeningFactory(self, connection)
        )
        # The endpoint times each address; this is for the look-up of the name, too.
        patience = 2 * self.timeouts.connect
        connecting.addTimeout(patience, self.clock, _timed_out)
        try:
            await connecting
        except DNSLookupError as error:
            raise await self._why_unknown(server, error) from None
        except ConnectingCancelledError:
            raise CancelledError from None
        except ConnectError as error:
            names = self._names
            if names is not None and names.pending[server.host]:
                words = f"no answer within {patience:g} s"
                raise endings.lookup_failed(server, words) from None
            raise endings.unreachable(server, error) from None
        except socket.gaierror as error:
            raise endings.unknown_name(server, str(error.strerror)) from None
        except ValueError as error:
            raise endings.unknown_name(server, str(error)) from None
        opened: D = await connection.opened
        return opened

    def _by_name(self, server: ServerAddress) -> IStreamClientEndpoint:
        # Twisted's look-up forgets the zone of a link-local address (fe80::1%eth0), and
        # what is an address waits for nobody who looks names up.
        kind: Any = HostnameEndpoint
        if ":" in server.host:
            kind = TCP6ClientEndpoint
        elif isIPAddress(server.host):
            kind = TCP4ClientEndpoint
        reactor = self.reactor if self._names is None else self._names.reactor
        endpoint: IStreamClientEndpoint = kind(
            reactor, server.host, server.port, timeout=self.timeouts.connect
        )
        return endpoint

    async def _why_unknown(
        self, server: ServerAddress, error: DNSLookupError
    ) -> Unreachable:
        """
        Twisted does not tell a name that does not exist from a look-up that failed,
        so it is asked for once more.
        """
        if self._names is not None:
            why = self._names.failures.get(server.host)
            return _unknown(server, error if why is None else why)
        pool = getattr(self.reactor, "getThreadPool", None)
        if pool is None:
            return endings.lookup_failed(server, str(error))
        try:
            await deferToThreadPool(
                self.reactor, pool(), socket.getaddrinfo, server.host, server.port
            )
        except (OSError, UnicodeError) as why:
            return _unknown(server, why)
        return endings.lookup_failed(server, str(error))


def _unknown(server: ServerAddress, why: Exception) -> Unreachable:
    """
    What it means that the look-up of a name failed so.
    """
    if isinstance(why, socket.gaierror) and why.errno in _NO_SUCH_NAME:
        return endings.unknown_name(server, str(why.strerror))
    words = why.strerror if isinstance(why, socket.gaierror) else why
    return endings.lookup_failed(server, str(words))


def _timed_out(_result: object, seconds: float) -> Failure:
    return failure_of(ConnectTimeout())  # type: ignore[no-untyped-call]


class _OpeningFactory(Factory):
    """
    What an endpoint connects.
    """

    noisy = False

    def __init__(self, caller: Caller[Any], connection: Connection) -> None:
        self._caller = caller
        self._connection = connection

    def buildProtocol(self, addr: object) -> _Opening:
        return _Opening(self._caller, self._connection)


class _Opening(Protocol):
    """
    A connection that is about to get a transport of ours.
    """

    def __init__(self, caller: Caller[Any], connection: Connection) -> None:
        self._caller = caller
        self._connection = connection
        #: What the bytes go to, where they come through here.
        self._above: Any = None

    def connectionMade(self) -> None:
        """
        Take the socket where there is a plain one.
        """
        transport: Any = self.transport
        if is_plain_socket(transport):
            self.transport = None
            # Without its socket it does not know that any more.
            peer = transport.getPeer()
            sock = take_socket(transport)
            self._caller._own_socket(self._connection, sock, transport.reactor, peer)
        else:
            self._above = self._caller._between(self._connection)
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
