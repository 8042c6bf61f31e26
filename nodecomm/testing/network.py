# SPDX-License-Identifier: MIT
"""
A network in memory: endpoints for clients, factories for servers, a clock that moves
when a test says so.

    network = MemoryNetwork(server.clock)
    network.listen(ServerAddress("hub"), server.factory)
    dialer = Dialer(
        network.clock, endpoint_for=network.endpoint_for, clock=network.clock, ...
    )
    session = network.result_of(dialer.connect(ServerAddress("hub")))
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from nodecomm.testing.transports import MemoryTransport

if TYPE_CHECKING:
    from nodecomm.client.address import ServerAddress

__all__ = ["MemoryConnection", "MemoryEnd", "MemoryNetwork"]

T = TypeVar("T")

#: Bytes on their way in one direction before the sender's producer is paused.
HIGH_WATER = 65_536

#: What connecting to where nobody listens fails with.
_NOBODY = ConnectionRefusedError()  # type: ignore[no-untyped-call]

#: Steps without an end mean that two programs talk for ever.
_MAX_STEPS = 1_000_000


@implementer(ITransport)
class MemoryEnd(MemoryTransport):
    """
    One end of a connection: the transport of the protocol there.

    Attributes:
        protocol: Who is there.
        other: The other end.
        sent: Bytes written so far.
        lost: Whether the protocol has been told of the end.
    """

    def __init__(self, network: MemoryNetwork, here: IAddress, there: IAddress) -> None:
        super().__init__()
        self.protocol: Any = None
        self.other: MemoryEnd
        self.sent = 0
        self.lost = False
        self._network = network
        self._here = here
        self._there = there
        #: What is on its way to this end, and when each piece arrives. None is the
        #: end of the stream, an exception one with an error.
        self._arriving: deque[tuple[float, bytes | Exception]] = deque()
        self._waiting = 0
        self._ended = False

    # What the protocol calls.

    def write(self, data: bytes) -> None:
        """Send bytes to the other end."""
        if self._ended or not data:
            return
        self.sent += len(data)
        self.other._arrive(bytes(data))
        if self.other._waiting > HIGH_WATER:
            self._pause_producer()

    def loseConnection(self) -> None:
        """End the connection; the other end sees it behind what was written."""
        self._finish(ConnectionDone())

    def abortConnection(self) -> None:
        """End the connection with a reset."""
        self.other._forget()
        self._finish(ConnectionLost())

    def getPeer(self) -> IAddress:
        """Where the other end is."""
        return self._there

    def getHost(self) -> IAddress:
        """Where this end is."""
        return self._here

    # What the network calls.

    def _arrive(self, what: bytes | Exception) -> None:
        if self.lost:
            return
        when = self._network.clock.seconds() + self._network.latency / 2
        self._arriving.append((when, what))
        if isinstance(what, bytes):
            self._waiting += len(what)

    def _forget(self) -> None:
        self._arriving.clear()
        self._waiting = 0

    def _finish(self, why: Exception) -> None:
        if self._ended:
            return
        self._ended = self.disconnecting = True
        self.other._arrive(why)
        # This end is told in a turn of its own, as by a reactor.
        self._forget()
        self._arriving.append((self._network.clock.seconds(), why))

    def _step(self) -> bool:
        """
        Deliver one thing, if one has arrived and is wanted.
        """
        if self.lost or not self._arriving:
            return False
        when, what = self._arriving[0]
        if when > self._network.clock.seconds():
            return False
        if not (self.reading or self._ended):
            return False
        self._arriving.popleft()
        if isinstance(what, Exception):
            self.lost = self._ended = True
            self._forget()
            self.other._arrive(what)
            self.protocol.connectionLost(
                Failure(what)  # type: ignore[no-untyped-call]
            )
            return True
        self._waiting -= len(what)
        self.other._drained()
        self.protocol.dataReceived(what)
        return True

    def _drained(self) -> None:
        if self.other._waiting <= HIGH_WATER:
            self._resume_producer()

    def _due(self) -> float | None:
        if self.lost or not self._arriving or not (self.reading or self._ended):
            return None
        return self._arriving[0][0]


@define(eq=False)
class MemoryConnection:
    """
    A connection that was made.

    Attributes:
        client: The end that connected.
        server: The end that listened.
    """

    client: MemoryEnd
    server: MemoryEnd

    @property
    def over(self) -> bool:
        """
        Whether both ends know that it has ended.
        """
        return self.client.lost and self.server.lost

    def cut(self) -> None:
        """
        Both ends see a reset at once, and nothing of what was on its way.
        """
        self.client.abortConnection()
        self.server.abortConnection()


@define(eq=False)
class MemoryNetwork:
    """
    Who listens where, and every connection there was.

    Attributes:
        clock: The time of everything on this network.
        latency: Seconds of a round trip.
        client_host: Where clients seem to be.
        connections: All that were made, in order; those that were turned away too.
        attempts: Calls of an endpoint's `connect`.
    """

    clock: Clock = field(factory=Clock)
    latency: float = 0.0
    client_host: str = "127.0.0.1"
    connections: list[MemoryConnection] = field(factory=list, init=False)
    attempts: int = field(default=0, init=False)
    _listening: dict[str, Any] = field(factory=dict, init=False)
    _port: int = field(default=50_000, init=False)

    def listen(self, address: ServerAddress, factory: Any) -> None:
        """
        Connections to *address* go to *factory* from now on. As an exception instead
        of a factory: connecting fails with it. None: connecting never ends.
        """
        self._listening[str(address)] = factory

    def endpoint_for(self, address: ServerAddress) -> IStreamClientEndpoint:
        """
        How to reach *address*, as `Dialer` wants it.
        """
        return _Endpoint(self, str(address))

    def pump(self) -> bool:
        """
        Move bytes, and run what is due, until nothing moves any more. Time stands
        still. Says whether anything moved.
        """
        moved = False
        for _ in range(_MAX_STEPS):
            self.clock.advance(0)
            stepped = False
            for connection in tuple(self.connections):
                stepped |= connection.client._step()
                stepped |= connection.server._step()
            if not stepped and not self._is_due():
                return moved
            moved = True
        raise RuntimeError("the network never becomes quiet")

    def advance(self, seconds: float) -> None:
        """
        Let time pass, and everything happen that belongs into it, in order.
        """
        until = self.clock.seconds() + seconds
        self.pump()
        while True:
            following = self._following()
            if following is None or following > until:
                break
            self.clock.advance(max(0.0, following - self.clock.seconds()))
            self.pump()
        self.clock.advance(max(0.0, until - self.clock.seconds()))
        self.pump()

    def result_of(self, deferred: Deferred[T], within: float = 3600.0) -> T:
        """
        What *deferred* fires with; lets time pass until it does.

        Raises:
            TimeoutError: It did not within so many seconds.
        """
        results: list[T] = []
        failures: list[Failure] = []
        deferred.addCallbacks(results.append, failures.append)
        until = self.clock.seconds() + within
        self.pump()
        while not results and not failures:
            following = self._following()
            if following is None or following > until:
                raise TimeoutError(f"nothing fired within {within:g} s")
            self.clock.advance(max(0.0, following - self.clock.seconds()))
            self.pump()
        if failures:
            failures[0].raiseException()
        return results[0]

    def failure_of(self, deferred: Deferred[Any], within: float = 3600.0) -> Exception:
        """
        The exception that *deferred* fails with, as `result_of`.

        Raises:
            AssertionError: It did not fail.
        """
        try:
            result = self.result_of(deferred, within)
        except TimeoutError:
            raise
        except Exception as error:
            return error
        raise AssertionError(f"no failure but {result!r}")

    def _is_due(self) -> bool:
        now = self.clock.seconds()
        return any(call.getTime() <= now for call in self.clock.getDelayedCalls())

    def _following(self) -> float | None:
        """
        When something happens next.
        """
        times = [call.getTime() for call in self.clock.getDelayedCalls()]
        for connection in self.connections:
            for end in (connection.client, connection.server):
                due = end._due()
                if due is not None:
                    times.append(due)
        return min(times, default=None)

    def _connect(self, address: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        self.attempts += 1
        listening = self._listening.get(address, _NOBODY)
        if listening is None:
            never: Deferred[IProtocol] = Deferred()
            return never
        if isinstance(listening, Exception):
            return fail(listening)
        calls: list[IDelayedCall] = []
        done: Deferred[IProtocol] = Deferred(lambda _: calls[0].cancel())
        calls.append(
            self.clock.callLater(
                self.latency, self._connected, listening, factory, done
            )
        )
        return done

    def _connected(
        self, listening: Any, factory: IProtocolFactory, done: Deferred[IProtocol]
    ) -> None:
        self._port += 1
        there = IPv4Address("TCP", self.client_host, self._port)
        here = IPv4Address("TCP", "127.0.0.2", 5308)
        client, server = MemoryEnd(self, there, here), MemoryEnd(self, here, there)
        client.other, server.other = server, client
        self.connections.append(MemoryConnection(client, server))
        client.protocol = asking = factory.buildProtocol(here)
        server.protocol = answering = listening.buildProtocol(there)
        if answering is None:
            server.protocol = _Nobody()
            server.loseConnection()
        else:
            answering.makeConnection(server)
        if asking is None:
            raise RuntimeError("the client's factory built nothing")
        asking.makeConnection(client)
        done.callback(asking)


class _Nobody:
    """
    Where a connection was turned away.
    """

    def dataReceived(self, data: bytes) -> None:
        """Passed over."""

    def connectionLost(self, reason: Failure) -> None:
        """Passed over."""


@implementer(IStreamClientEndpoint)
@define(eq=False)
class _Endpoint:
    _network: MemoryNetwork
    _address: str

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._network._connect(self._address, protocolFactory)
