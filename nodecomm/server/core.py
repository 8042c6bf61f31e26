# SPDX-License-Identifier: MIT
"""
What the factories of all protocols share: who is trusted and what is allowed, the
commands and the threads, the connections there are, and their ends.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall

from nodecomm import __version__
from nodecomm.config.model import LimitSettings
from nodecomm.identity.peer import Peer
from nodecomm.server.admission import Admission, peer_address
from nodecomm.server.commands import builtin_commands, command_table
from nodecomm.server.digests import DigestCache
from nodecomm.server.events import BurstLog, EventLog, Strangers
from nodecomm.server.filesystem import FileSystemSource
from nodecomm.server.inodes import InodeNumbers
from nodecomm.server.manifest import Manifests
from nodecomm.server.names import HostNames
from nodecomm.server.pools import PoolGate, WorkerPool, Workers
from nodecomm.server.requests import Serving
from nodecomm.transport.limits import HandshakeGate
from nodecomm.transport.port import FirstByte, SecurePort

if TYPE_CHECKING:
    import typing
    from collections.abc import Callable, Iterable, Mapping

    from OpenSSL import SSL
    from twisted.internet.interfaces import IProtocol
    from twisted.logger import Logger

    from nodecomm.identity.trust import TrustPolicy
    from nodecomm.interfaces import IAccessEvaluator, ICommand, IFileSource
    from nodecomm.server.connection import PeerConnection, SessionState
    from nodecomm.server.digests import DigestStore
    from nodecomm.server.execution.orders import IRunner

    class SeenStore(typing.Protocol):
        """Where trusted peers are noted."""

        def record(
            self, digest: str, address: str, direction: str, when: float
        ) -> None:
            """Note that the peer was here."""


__all__ = ["ServerFactory"]

#: Seconds between two looks for connections that are overdue.
_SWEEP = 1.0


class ServerFactory(Factory):
    """
    What a server consists of, whatever its peers speak. `TLSFactory` is one; a
    `ClassicFactory` has one, its own or a `TLSFactory`.

    Args:
        reactor: Drives sockets, timers and threads.
        context: From `nodecomm.transport.context.server_context`; None: connections
            that begin with TLS are closed.
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
        makes_room: Whether a new connection is taken where there are enough that are
            not trusted yet, and one of those is closed for it: of the address that
            has most of them, the oldest.
        proofs: Where classic dialogs encrypt and decrypt.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any,
        *,
        context: SSL.Context | None,
        trust: TrustPolicy,
        evaluator: IAccessEvaluator,
        sources: Mapping[str, IFileSource] | None = None,
        commands: Iterable[ICommand] = (),
        limits: LimitSettings | None = None,
        max_connections: int = 10_000,
        deny_bad_clocks: bool = True,
        manifest_max_age: float = 10.0,
        digests: DigestStore | None = None,
        seen: SeenStore | None = None,
        execution: IRunner | None = None,
        events: EventLog | None = None,
        workers: Workers | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        product: bytes = b"nodecomm-server " + __version__.encode("ascii"),
    ) -> None:
        self.limits = limits = LimitSettings() if limits is None else limits
        self.events = EventLog() if events is None else events
        self.log: Logger = self.events.log
        self.bursts = BurstLog(self.log, monotonic)
        self.strangers = Strangers(self.log, monotonic)
        self.trust = trust
        self.seen = seen
        self.monotonic = monotonic
        self.now = now
        self.product = product
        self.sessions: set[PeerConnection] = set()
        self.makes_room = False
        #: Where room is made: connections that are not trusted yet, those that have
        #: said nothing and sessions, by age, with their addresses; and those of them
        #: that were closed and count no more.
        self._newcomers: dict[Any, str] = {}
        self._dropped: set[Any] = set()
        self._reactor = reactor
        self._own_pools: list[WorkerPool] = []
        self.workers = self._make_workers(limits) if workers is None else workers
        self.proofs = PoolGate(self.workers.crypto, self._proofs_at_once)
        self.digests = DigestCache(
            self.workers.digests,
            digests,
            limits.digest_cache_entries,
            lambda: int(now() * 1_000_000_000),
            reactor,
        )
        self.names = HostNames(
            self.workers.names,
            reactor,
            monotonic,
            keep=limits.name_cache_seconds,
            timeout=limits.name_timeout,
        )
        files = FileSystemSource(self.digests, self.workers.disk)
        self.manifests = Manifests(
            files,
            self.digests,
            self.workers.disk,
            reactor,
            now,
            monotonic,
            self.log,
            manifest_max_age,
        )
        self.serving = Serving(
            evaluator,
            files,
            {} if sources is None else sources,
            InodeNumbers(),
            now,
            deny_bad_clocks,
            self.manifests,
            execution,
        )
        self.commands = command_table([*builtin_commands(), *commands])
        self.admission = Admission(
            max_connections,
            limits.connections_before_trust,
            limits.connections_per_address,
        )
        self.gate = HandshakeGate(reactor, limits.handshakes_at_once)
        self.port = SecurePort(
            # Without one there is nothing above TLS, see `take`, and it is not used.
            cast("SSL.Context", context),
            reactor,
            gate=self.gate,
            first_byte_timeout=limits.first_byte_timeout,
            handshake_timeout=limits.handshake_timeout,
        )
        self._sweeping: LoopingCall | None = None
        self._stopping: Deferred[None] | None = None

    def _make_workers(self, limits: LimitSettings) -> Workers:
        disk = WorkerPool(self._reactor, "nodecomm-disk", limits.disk_threads)
        digests = WorkerPool(self._reactor, "nodecomm-digests", limits.digest_threads)
        names = WorkerPool(self._reactor, "nodecomm-names", limits.name_lookups_at_once)
        crypto = WorkerPool(self._reactor, "nodecomm-crypto", limits.crypto_threads)
        self._own_pools = [disk, digests, names, crypto]
        return Workers(disk, digests, names, crypto)

    def _proofs_at_once(self) -> int:
        """
        How many proofs of classic dialogs may be in the pool: a thread is left for
        what trusted peers ask for, if there is more than one.
        """
        limits = self.limits
        return min(limits.handshakes_at_once, max(1, limits.crypto_threads - 1))

    # What Twisted asks for.

    def startFactory(self) -> None:
        """The first port listens."""
        for pool in self._own_pools:
            pool.start()
        self._sweeping = LoopingCall(self._sweep)
        self._sweeping.clock = self._reactor
        self._sweeping.start(_SWEEP, now=False)

    def stopFactory(self) -> None:
        """The last port has stopped listening; sessions may still be here."""
        if not self.sessions:
            self._rest()

    def _rest(self) -> None:
        """
        Nothing is left to do: end the timer and the threads.
        """
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            sweeping.stop()
            self.manifests.stop()
            for pool in self._own_pools:
                pool.stop()

    def take(
        self,
        addr: Any,
        *,
        tls: Callable[[Peer], PeerConnection] | None = None,
        classic: Callable[[Peer], PeerConnection | None] | None = None,
    ) -> IProtocol | None:
        """
        What `buildProtocol` returns for a connection from *addr*; None: it is turned
        away without a word.

        Args:
            tls: Makes the session of a connection that begins with TLS; None: there
                are none here.
            classic: Makes the session of a connection that begins with a classic
                frame, asked when the first byte is there, and returns None for a
                peer that may have none; None: nobody may.
        """
        host, port = peer_address(addr)
        if self._stopping is not None:
            return None
        snapshot = self.serving.evaluator.snapshot
        turned = self.admission.enter(host, snapshot)
        if turned is not None and self._make_room(turned.limit):
            turned = self.admission.enter(host, snapshot)
        if turned is not None:
            self.bursts.reached(
                turned.limit,
                "a connection from {peer} was closed ({limit}): {text}",
                peer=host,
                text=turned.text,
            )
            return None
        peer = Peer(host, port)

        def session(make: Callable[[Peer], Any]) -> Any:
            made = make(peer)
            if made is not None:
                self.sessions.add(made)
                if self._newcomers.pop(first, None) is not None:
                    self._newcomers[made] = host
            return made

        def lost(reason: str) -> None:
            self.admission.leave(host, trusted=self._is_dropped(first))
            if reason == "classic-not-allowed" and classic is not None:
                self.bursts.reached(
                    "allowlegacyconnects",
                    "a connection from {peer} was closed: it began with the classic"
                    " protocol, and no entry of {limit} is for that address; if the"
                    " node speaks no newer protocol, add the address to"
                    " server.{limit}",
                    peer=host,
                )
            elif self.strangers.worth_stating(host):
                self.events.lost(peer, "first byte", reason)

        first = self.port.protocol_for(
            addr,
            tls=None if tls is None else lambda: session(tls),
            classic=None if classic is None else lambda: session(classic),
            lost=lost,
        )
        if self.makes_room:
            self._newcomers[first] = host
        return first

    def _make_room(self, limit: str) -> bool:
        """
        Close a connection that is not trusted yet, if that is what *limit* is about,
        and if it is to be done here.
        """
        if limit != "connections_before_trust" or not self._newcomers:
            return False
        counts = Counter(self._newcomers.values())
        most = max(counts.values())
        oldest = next(
            each for each, host in self._newcomers.items() if counts[host] == most
        )
        host = self._newcomers.pop(oldest)
        self._dropped.add(oldest)
        self.admission.trusted()
        self.bursts.reached(
            limit,
            "a connection from {peer} was closed ({limit}): it was not trusted yet, and"
            " made room for another one",
            peer=host,
        )
        if isinstance(oldest, FirstByte):
            oldest.ended("closed to make room")
        else:
            oldest.abort("closed to make room")
        return True

    def _is_dropped(self, connection: Any) -> bool:
        """
        Whether a connection, which is over, was closed to make room.
        """
        self._newcomers.pop(connection, None)
        dropped = connection in self._dropped
        self._dropped.discard(connection)
        return dropped

    # What sessions ask for.

    def next_turn(self, work: Callable[[], None]) -> None:
        """
        Run *work* in the next turn of the reactor.
        """
        self._reactor.callLater(0, work)

    def session_trusted(self, session: PeerConnection) -> None:
        """
        The session's peer is trusted.
        """
        self._newcomers.pop(session, None)
        self.admission.trusted()
        session.admitted = True
        if self.seen is not None:
            self.seen.record(
                session.peer.digest, session.peer.address, "incoming", self.now()
            )

    def session_lost(self, session: PeerConnection, was: SessionState) -> None:
        """
        The session's connection is over.
        """
        self.sessions.discard(session)
        peer = session.peer
        trusted = session.admitted
        counted = not (self._is_dropped(session) or trusted)
        session.when_at_rest(
            lambda: self.admission.leave(peer.address, trusted=not counted)
        )
        if trusted:
            self.events.closed(
                peer,
                seconds=session.seconds,
                requests=session.requests,
                bytes_in=session.bytes_in,
                bytes_out=session.bytes_out,
                reason=session.reason,
            )
        elif not session.distrusted and self.strangers.worth_stating(peer.address):
            self.events.lost(peer, was.value, session.reason)
        if not self.sessions:
            if self.numPorts == 0:
                self._rest()
            stopping = self._stopping
            if stopping is not None and not stopping.called:
                stopping.callback(None)

    # Time.

    def _sweep(self) -> None:
        """
        End what is overdue. One timer for all connections costs less than one each.
        """
        now = self.monotonic()
        for session in list(self.sessions):
            overdue = session.overdue(now)
            if overdue is not None:
                limit, seconds = overdue
                if limit != "goodbye":
                    self.bursts.reached(
                        limit,
                        "a connection from {peer} was closed: {limit}, {seconds} s",
                        peer=session.peer.address,
                        seconds=seconds,
                    )
                session.abort(limit)
        self.bursts.sweep()
        self.strangers.sweep()
        self.manifests.sweep()

    def stop(self, grace: float) -> Deferred[None]:
        """
        End all sessions: those with an answer under way when it has left, but not
        later than after *grace* seconds. New connections are turned away. Runs are
        ended; what of them has not ended itself is killed when half of that time is
        over, so that their peers still hear of it.

        Returns:
            Fires when no session and no run is left.
        """
        if self._stopping is None:
            self._stopping = Deferred()
            for session in list(self.sessions):
                session.finish()
            if self.sessions:
                late = self._reactor.callLater(grace, self._stop_late)
                self._stopping.addBoth(
                    lambda result: (late.cancel() if late.active() else None, result)[1]
                )
            else:
                self._stopping.callback(None)
        stopped: Deferred[None] = Deferred()
        self._stopping.chainDeferred(stopped)
        execution = self.serving.execution
        if execution is not None:
            runs = execution.stop(grace / 2)
            stopped.addCallback(lambda _: runs)
        return stopped

    def _stop_late(self) -> None:
        for session in list(self.sessions):
            session.abort("the server stopped before the answer had left")
