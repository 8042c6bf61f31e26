# SPDX-License-Identifier: MIT
"""
The factories: ordinary Twisted ones, for any `IStreamServerEndpoint`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Factory

from nodecomm.identity.counters import Counters
from nodecomm.server.classic import ClassicSession
from nodecomm.server.core import ServerFactory
from nodecomm.server.session import TLSSession

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IAddress

    from nodecomm.identity.keys import KeyPair
    from nodecomm.identity.peer import Peer
    from nodecomm.server.connection import PeerConnection

__all__ = ["ClassicFactory", "PortFactory", "TLSFactory"]


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
        execution: Runs what peers may have run, and is ended with the server; None:
            nothing is run here.
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


class ClassicFactory(Factory):
    """
    Serves protocol 1, the classic one, to addresses in `allowlegacyconnects`.

    Nothing protects its connections: whoever can read or change them on their way
    can do both unseen, but for what nodes ask to be encrypted, and even that can be
    changed. Every session says so in the log.

    Args:
        reactor: Drives sockets, timers and threads.
        key: The server's own key.
        more: As for `TLSFactory`, without `context`.

    Attributes:
        core: The server that this is a part of.
    """

    noisy = False

    def __init__(self, reactor: Any, *, key: KeyPair, **more: Any) -> None:
        self._join(ServerFactory(reactor, context=None, **more), key)

    @classmethod
    def beside(cls, server: ServerFactory, key: KeyPair) -> ClassicFactory:
        """
        A part of *server*, with whom it shares everything: rules, commands, limits,
        threads and the count of connections. For a `PortFactory`, or for a port of
        its own.
        """
        made = cls.__new__(cls)
        made._join(server, key)
        return made

    def _join(self, server: ServerFactory, key: KeyPair) -> None:
        self.core = server
        self.key = key
        self._counters = Counters(key)

    @property
    def sessions(self) -> set[PeerConnection]:
        """The connections that have a session now, all of the server's."""
        return self.core.sessions

    def doStart(self) -> None:
        """A port listens."""
        self.core.doStart()  # type: ignore[no-untyped-call]

    def doStop(self) -> None:
        """A port has stopped listening."""
        self.core.doStop()  # type: ignore[no-untyped-call]

    def stop(self, grace: float) -> Deferred[None]:
        """
        As `TLSFactory.stop`.
        """
        return self.core.stop(grace)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        Take the connection, or turn it away without a word.
        """
        return self.core.take(addr, classic=self.session)

    def session(self, peer: Peer) -> ClassicSession | None:
        """
        The session of a connection that begins with a classic frame; None: the rules
        of this moment allow the peer none.
        """
        allowed = self.core.serving.evaluator.snapshot.allowlegacyconnects
        if allowed.match(peer.address) is None:
            return None
        return ClassicSession(self.core, peer, self.key, self._counters)


class PortFactory(Factory):
    """
    Both protocols on one port: the first byte of a connection decides.

    Args:
        tls: Serves connections that begin with TLS, counts all, and holds the rules.
        classic: Serves connections that begin with a classic frame, from addresses
            in `allowlegacyconnects`, as a part of the same server; None: nobody's.
    """

    noisy = False

    def __init__(self, tls: TLSFactory, classic: ClassicFactory | None = None) -> None:
        if not isinstance(tls, TLSFactory):
            raise TypeError(
                "the first argument must be a TLSFactory; a ClassicFactory alone is put"
                " on a port as it is"
            )
        if classic is not None and classic.core is not tls:
            raise ValueError("the two factories must be of one server")
        self.tls = tls
        self.classic = classic

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
        classic = self.classic
        return self.tls.take(
            addr,
            tls=self.tls.session,
            classic=None if classic is None else classic.session,
        )
