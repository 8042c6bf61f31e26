# SPDX-License-Identifier: MIT
"""
The factories: ordinary Twisted ones, for any `IStreamServerEndpoint`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Factory

from nodecomm.server.core import ServerFactory
from nodecomm.server.session import TLSSession

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress

    from nodecomm.identity.peer import Peer

__all__ = ["PortFactory", "TLSFactory"]


class TLSFactory(ServerFactory):
    """
    Serves protocol 2 and 3 on connections that begin with TLS.

    Args:
        reactor: Drives sockets, timers and threads.
        context: From `nodecomm.transport.context.server_context`.
        trust: Decides about keys.
        evaluator: Decides about everything else, on its snapshot.
        sources: File sources that access rules name.
        commands: Commands besides, or instead of, the built-in ones.
        limits: How long, how much, how many.
        max_connections: Connections at a time.
        deny_bad_clocks: Whether nodes with a clock far off are refused STATs.
        manifest_max_age: Seconds for which a folder's manifest may be answered; 0:
            there are none.
        digests: Where digests are kept across restarts; None: in memory only.
        seen: Where trusted peers are noted; None: nowhere.
        events: How much is logged.
        workers: Threads for what may wait; made, started and stopped here when None.
        now: Civil time in seconds.
        monotonic: Seconds of a clock that nobody sets.

    Attributes:
        sessions: The connections that have a session now.
    """

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        Take the connection, or turn it away without a word.
        """
        return self.take(addr, tls=self.session)

    def session(self, peer: Peer) -> TLSSession:
        """
        The session of a connection that begins with TLS.
        """
        return TLSSession(self, peer)


class PortFactory(Factory):
    """
    Both protocols on one port: the first byte of a connection decides.

    Args:
        tls: Serves connections that begin with TLS, counts all, and holds the rules.
    """

    noisy = False

    def __init__(self, tls: TLSFactory) -> None:
        self.tls = tls

    def doStart(self) -> None:
        """A port listens."""
        self.tls.doStart()  # type: ignore[no-untyped-call]

    def doStop(self) -> None:
        """A port has stopped listening."""
        self.tls.doStop()  # type: ignore[no-untyped-call]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        Take the connection, or turn it away without a word.
        """
        return self.tls.buildProtocol(addr)
