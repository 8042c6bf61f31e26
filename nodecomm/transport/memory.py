# SPDX-License-Identifier: MIT
"""
TLS over any transport: in-memory tests, wrapped endpoints, whatever has no socket.

Not Twisted's own TLS layer, because that one merges the writes of a reactor turn
and cuts the result at 16384 bytes, which real peers do not survive, and its
unbuffered form closes only after the peer has agreed to.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from OpenSSL import SSL
from twisted.internet import main
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocol,
    IPushProducer,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from nodecomm.transport.errors import TLSFailure, describe, failure_of
from nodecomm.transport.facts import Stage, TLSFacts
from nodecomm.transport.interfaces import MAX_RECORD, ITLSRecords

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime

    from nodecomm.transport.limits import HandshakeGate, HandshakeTicket

#: Ciphertext moved between OpenSSL and the lower transport at a time, in bytes.
_CHUNK = 65536

#: Bytes queued before a streaming producer is paused, as Twisted's transports do.
_HIGH_WATER = 65536


@implementer(IPushProducer)
class _Below:
    """
    What the transport below knows as its producer: it says when it is full.
    """

    def __init__(self, above: TLSOverTransport) -> None:
        self._above = above

    def pauseProducing(self) -> None:
        self._above._below_full = True

    def resumeProducing(self) -> None:
        self._above._below_drained()

    def stopProducing(self) -> None:
        """
        The loss of the connection is reported apart.
        """


@implementer(ITLSRecords, IProtocol)
class TLSOverTransport(TLSFacts):
    """
    A TLS connection over another transport, of which it is the protocol.

    Attributes:
        stage: Where in its life the connection is.
        close_notify_received: Whether the peer sent the TLS close.
    """

    def __init__(
        self,
        context: SSL.Context,
        protocol: IProtocol,
        reactor: IReactorTime,
        *,
        server: bool = True,
        gate: HandshakeGate | None = None,
        handshake_timeout: float | None = None,
    ) -> None:
        self.protocol: IProtocol | None = protocol
        self.transport: Any = None
        self.stage = Stage.WAITING
        self.close_notify_received = False
        self.connected = 0
        self.disconnecting = 0
        self.producer: Any = None
        self._streaming = False
        self._producer_paused = False
        self._context = context
        self._reactor = reactor
        self._server = server
        self._gate = gate
        self._ticket: HandshakeTicket | None = None
        self._handshake_timeout = handshake_timeout
        self._timer: IDelayedCall | None = None
        self._step_asked = False
        self._connection: SSL.Connection | None = None
        self._early = bytearray()
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._flushing = False
        self._below_full = False
        self._read_paused = False
        self._read_ended = False
        self._reason: Failure | None = None

    # From below.

    def makeConnection(self, transport: Any) -> None:
        """
        The transport below is there: give ours to the protocol, begin the handshake.
        """
        self.transport = transport
        self.connected = 1
        connection = SSL.Connection(self._context, None)
        if self._server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        self._connection = connection
        transport.registerProducer(_Below(self), True)
        protocol = self.protocol
        if protocol is not None:
            protocol.makeConnection(self)
        if self.stage is not Stage.WAITING:
            return
        if self._gate is None:
            self._begin(None)
        else:
            self._ticket = self._gate.enter(self._begin)
            if self.stage is Stage.WAITING:
                _pause(transport)

    def connectionMade(self) -> None:
        """
        Part of `IProtocol`; `makeConnection` does everything.
        """

    def _begin(self, ticket: HandshakeTicket | None) -> None:
        if self.stage is not Stage.WAITING:
            return
        self._ticket = ticket
        self.stage = Stage.HANDSHAKING
        if self._handshake_timeout is not None:
            self._timer = self._reactor.callLater(
                self._handshake_timeout, self._handshake_too_late
            )
        _resume(self.transport)
        early, self._early = bytes(self._early), bytearray()
        self._feed(early)
        self._handshake_step()

    def dataReceived(self, data: bytes) -> None:
        """
        Ciphertext from the peer.
        """
        if self.stage is Stage.WAITING:
            self._early += data
        elif self.stage is Stage.HANDSHAKING:
            self._feed(data)
            self._handshake_step()
        elif self.stage is Stage.OPEN and not self._read_ended:
            self._feed(data)
            if not self._read_paused:
                self._drain()

    def _feed(self, data: bytes) -> None:
        connection = self._connection
        rest = memoryview(data)
        while rest and connection is not None:
            rest = rest[connection.bio_write(rest) :]

    def connectionLost(self, reason: Failure) -> None:
        """
        The transport below has ended.
        """
        if self.stage is Stage.HANDSHAKING and self._reason is None:
            self._end(failure_of(TLSFailure("handshake: unexpected EOF")))
        else:
            self._end(self._reason or reason)

    # The handshake.

    def _handshake_step(self) -> None:
        if self._ticket is None:
            self._advance()
        elif not self._step_asked:
            self._step_asked = True
            self._ticket.step(self._advance)

    def _advance(self) -> None:
        self._step_asked = False
        connection = self._connection
        if connection is None or self.stage is not Stage.HANDSHAKING:
            return
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            self._flush_below()
            if self._ticket is not None:
                self._ticket.rest()
        except SSL.Error as error:
            self._flush_below()
            self._reason = failure_of(TLSFailure(f"handshake: {describe(error)}"))
            self._close_below()
        else:
            self._flush_below()
            self._open()

    def _open(self) -> None:
        self.stage = Stage.OPEN
        self._handshake_over()
        protocol = self.protocol
        if IHandshakeListener.providedBy(protocol):
            protocol.handshakeCompleted()
        self._flush()
        if not self._read_paused:
            self._drain()

    def _handshake_too_late(self) -> None:
        self._timer = None
        self.fail("handshake-timeout")

    def _handshake_over(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.leave()

    # Reading.

    def _drain(self) -> None:
        """
        Deliver what has arrived, until there is no more or the protocol has enough.
        """
        while (
            self.stage is Stage.OPEN
            and not self._read_paused
            and not self.disconnecting
            and not self._read_ended
        ):
            connection, protocol = self._connection, self.protocol
            if connection is None or protocol is None:
                return
            try:
                data = connection.recv(MAX_RECORD)
            except SSL.WantReadError:
                self._flush_below()
                return
            except SSL.ZeroReturnError:
                self.close_notify_received = True
                self._peer_closed()
                return
            except SSL.Error as error:
                self._flush_below()
                self._reason = failure_of(TLSFailure(f"tls: {describe(error)}"))
                self._close_below()
                return
            protocol.dataReceived(data)

    def _peer_closed(self) -> None:
        self._read_ended = True
        protocol = self.protocol
        if IHalfCloseableProtocol.providedBy(protocol):
            protocol.readConnectionLost()
        elif not self.disconnecting:
            self._reason = failure_of(main.CONNECTION_DONE)
            self._say_goodbye()

    def pauseProducing(self) -> None:
        """
        Stop reading.
        """
        self._read_paused = True
        if self.stage is Stage.OPEN:
            _pause(self.transport)

    def resumeProducing(self) -> None:
        """
        Read again; what is here already comes in the next turn of the reactor.
        """
        if not self._read_paused:
            return
        self._read_paused = False
        if self.stage is Stage.OPEN and not self.disconnecting:
            _resume(self.transport)
            self._reactor.callLater(0, self._drain)

    def stopProducing(self) -> None:
        """
        As `loseConnection`.
        """
        self.loseConnection()

    # Writing.

    @property
    def write_pending(self) -> int:
        """
        Bytes accepted by `write` and not encrypted yet.
        """
        return self._queued

    def write(self, data: bytes) -> None:
        """
        Send *data*: as one record when it has at most `MAX_RECORD` bytes.
        """
        if not isinstance(data, (bytes, memoryview)):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if (
            not data
            or not self.connected
            or (self.disconnecting and self.producer is None)
        ):
            return
        self._queue.append(data)
        self._queued += len(data)
        if self.stage is Stage.OPEN:
            self._flush()
        self._pause_producer()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """
        As `write` for each item: each is a record of its own.
        """
        for data in iovec:
            self.write(data)

    def _pause_producer(self) -> None:
        full = self._queued > _HIGH_WATER or (self._queued and self._below_full)
        if self._streaming and full and not self._producer_paused:
            self._producer_paused = True
            self.producer.pauseProducing()

    def _below_drained(self) -> None:
        self._below_full = False
        if self.stage is Stage.OPEN:
            self._flush()

    def _flush(self) -> None:
        """
        Encrypt what is queued, as far as the transport below has room.
        """
        if self._flushing or self.stage is not Stage.OPEN:
            return
        self._flushing = True
        try:
            while self._queue and not self._below_full and self._connection is not None:
                data = self._queue[0]
                sent = self._connection.send(data)
                self._queued -= sent
                if sent < len(data):
                    self._queue[0] = cast("bytes", memoryview(data)[sent:])
                else:
                    self._queue.popleft()
                self._flush_below()
        except SSL.Error as error:
            self._fail_soon(TLSFailure(f"tls: {describe(error)}"))
            return
        finally:
            self._flushing = False
        if self._queue or self._below_full or self.stage is not Stage.OPEN:
            return
        if self.producer is not None:
            if not self._streaming or self._producer_paused:
                self._producer_paused = False
                self._reactor.callLater(0, self._ask_producer)
        elif self.disconnecting:
            self._say_goodbye()

    def _ask_producer(self) -> None:
        if self.producer is not None and not self._queue and self.connected:
            self.producer.resumeProducing()

    def _flush_below(self) -> None:
        """
        Hand the ciphertext that OpenSSL has made to the transport below.
        """
        while self._connection is not None and self.transport is not None:
            try:
                data = self._connection.bio_read(_CHUNK)
            except SSL.Error:
                return
            self.transport.write(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        Have *producer* write; a pull producer is asked whenever nothing is queued.
        """
        if self.producer is not None:
            raise RuntimeError(
                f"cannot register {producer}: {self.producer} is registered"
            )
        if not self.connected:
            producer.stopProducing()
            return
        self.producer = producer
        self._streaming = streaming
        self._producer_paused = False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """
        The producer has nothing more to write.
        """
        self.producer = None
        self._producer_paused = False
        self._streaming = False
        if self.disconnecting:
            self._close_when_written()

    # The end.

    def loseConnection(self) -> None:
        """
        Close when what is queued has been sent and no producer is registered.
        """
        if not self.connected or self.disconnecting:
            return
        self.disconnecting = 1
        self._close_when_written()

    def loseWriteConnection(self) -> None:
        """
        Send the TLS close and go on reading; with something queued, as
        `loseConnection`.
        """
        connection = self._connection
        if self._queue or self.producer is not None or connection is None:
            self.loseConnection()
        elif self.stage is Stage.OPEN:
            with contextlib.suppress(SSL.Error):
                connection.shutdown()
            self._flush_below()

    def _close_when_written(self) -> None:
        self._reactor.callLater(0, self._close_if_written)

    def _close_if_written(self) -> None:
        if self.producer is not None or self._queue or not self.connected:
            return
        if self.stage is Stage.OPEN:
            self._flush()
        elif self.stage in (Stage.WAITING, Stage.HANDSHAKING):
            self._reason = failure_of(main.CONNECTION_DONE)
            self._close_below()

    def _say_goodbye(self) -> None:
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(SSL.Error):
                connection.shutdown()
            self._flush_below()
        if self._reason is None:
            self._reason = failure_of(main.CONNECTION_DONE)
        self._close_below()

    def _close_below(self) -> None:
        self.stage = Stage.ENDING
        self._handshake_over()
        transport = self.transport
        if transport is not None:
            transport.unregisterProducer()
            transport.loseConnection()

    def abortConnection(self) -> None:
        """
        Close at once, dropping what is queued.
        """
        if self.connected:
            self._fail_soon(ConnectionAborted())

    def fail(self, reason: str) -> None:
        """
        Close at once; the protocol's `connectionLost` gets a `TLSFailure` with
        *reason*.
        """
        if self.connected:
            self._fail_soon(TLSFailure(reason))

    def _fail_soon(self, error: Exception) -> None:
        self.connected = 0
        self.stage = Stage.ENDING
        self._queue.clear()
        self._queued = 0
        self._reason = failure_of(error)
        self._reactor.callLater(0, self._abort_below)

    def _abort_below(self) -> None:
        transport = self.transport
        if transport is not None:
            transport.unregisterProducer()
            getattr(transport, "abortConnection", transport.loseConnection)()
        if self._reason is not None:
            self._end(self._reason)

    def _end(self, reason: Failure) -> None:
        if self.stage is Stage.LOST:
            return
        self.stage = Stage.LOST
        self.connected = 0
        self._handshake_over()
        self._queue.clear()
        self._queued = 0
        producer, self.producer = self.producer, None
        protocol, self.protocol = self.protocol, None
        self._connection = None
        if producer is not None:
            producer.stopProducing()
        if protocol is not None:
            protocol.connectionLost(reason)

    # Facts.

    def getPeer(self) -> IAddress:
        """
        The peer's address, as the transport below tells it.
        """
        return cast("IAddress", self.transport.getPeer())

    def getHost(self) -> IAddress:
        """
        Our own address, as the transport below tells it.
        """
        return cast("IAddress", self.transport.getHost())

    def getTcpNoDelay(self) -> bool:
        """
        What the transport below says; False where there is no TCP.
        """
        return bool(_call(self.transport, "getTcpNoDelay"))

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        Passed on to the transport below, where it is TCP.
        """
        _call(self.transport, "setTcpNoDelay", enabled)

    def getTcpKeepAlive(self) -> bool:
        """
        What the transport below says; False where there is no TCP.
        """
        return bool(_call(self.transport, "getTcpKeepAlive"))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """
        Passed on to the transport below, where it is TCP.
        """
        _call(self.transport, "setTcpKeepAlive", enabled)


def _call(transport: Any, name: str, *arguments: object) -> Any:
    method = getattr(transport, name, None)
    return None if method is None else method(*arguments)


def _pause(transport: Any) -> None:
    _call(transport, "pauseProducing")


def _resume(transport: Any) -> None:
    _call(transport, "resumeProducing")
