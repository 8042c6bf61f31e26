# SPDX-License-Identifier: MIT
"""
A connection over any transport of Twisted: what leaves, the queue, its producers, and
the end. Whether TLS is in between is decided in the classes derived from this one.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, cast

from twisted.internet import main
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from nodecomm.transport.errors import failure_of
from nodecomm.transport.facts import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime
    from twisted.python.failure import Failure

#: Bytes queued before a streaming producer is paused, as Twisted's transports do.
_HIGH_WATER = 65536


class NeverRaised(Exception):  # noqa: N818
    """
    What is raised by a way of sending that takes everything.
    """


@implementer(IPushProducer)
class _Below:
    """
    What the transport below knows as its producer: it says when it is full.
    """

    def __init__(self, above: OverTransport) -> None:
        self._above = above

    def pauseProducing(self) -> None:
        self._above._below_full = True

    def resumeProducing(self) -> None:
        self._above._below_drained()

    def stopProducing(self) -> None:
        """
        The loss of the connection is reported apart.
        """


class OverTransport:
    """
    What `TLSOverTransport` and `PlainOverTransport` have in common.

    Attributes:
        stage: Where in its life the connection is.
    """

    #: What `_send` raises, apart from mistakes of ours.
    _send_errors: type[Exception]

    def __init__(self, protocol: IProtocol, reactor: IReactorTime) -> None:
        self.protocol: IProtocol | None = protocol
        self.transport: Any = None
        self.stage = Stage.WAITING
        self.connected = 0
        self.disconnecting = 0
        self.producer: Any = None
        self._streaming = False
        self._producer_paused = False
        self._reactor = reactor
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._flushing = False
        self._below_full = False
        self._read_paused = False
        self._reason: Failure | None = None

    # For the derived classes.

    def _drain(self) -> None:
        """
        Deliver what has arrived, as long as the protocol wants it.
        """
        raise NotImplementedError

    def _send(self, data: bytes) -> int:
        """
        Hand *data* to the transport below; returns how many bytes are done with.
        """
        raise NotImplementedError

    def _failed(self, error: Exception) -> Exception:
        """
        What the connection ends with when `_send` raised *error*.
        """
        return error

    def _say_goodbye(self) -> None:
        """
        Everything has been sent and the connection is to be closed.
        """
        raise NotImplementedError

    def _half_close(self) -> None:
        """
        Nothing more will be written; what is read goes on.
        """
        raise NotImplementedError

    def _attach(self, transport: Any) -> None:
        """
        The transport below is there.
        """
        self.transport = transport
        self.connected = 1
        transport.registerProducer(_Below(self), True)

    def connectionMade(self) -> None:
        """
        Part of `IProtocol`; `makeConnection` does everything.
        """

    # Reading.

    def pauseProducing(self) -> None:
        """
        Stop reading.
        """
        self._read_paused = True
        if self.stage is Stage.OPEN:
            call(self.transport, "pauseProducing")

    def resumeProducing(self) -> None:
        """
        Read again; what is here already comes in the next turn of the reactor.
        """
        if not self._read_paused:
            return
        self._read_paused = False
        if self.stage is Stage.OPEN and not self.disconnecting:
            call(self.transport, "resumeProducing")
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
        Bytes accepted by `write` and not handed on yet.
        """
        return self._queued

    def write(self, data: bytes) -> None:
        """
        Send *data*; with TLS as one record when it has at most `MAX_RECORD` bytes.
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
        As `write` for each item; with TLS each is a record of its own.
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
        Hand on what is queued, as far as the transport below has room.
        """
        if self._flushing or self.stage is not Stage.OPEN:
            return
        self._flushing = True
        try:
            while self._queue and not self._below_full:
                data = self._queue[0]
                sent = self._send(data)
                if not self._queue:
                    # The transport below ended in the meantime.
                    return
                self._queued -= sent
                if sent < len(data):
                    self._queue[0] = cast("bytes", memoryview(data)[sent:])
                else:
                    self._queue.popleft()
        except self._send_errors as error:
            self._fail_soon(self._failed(error))
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
        Say that nothing more will be written, and go on reading; with something
        queued, as `loseConnection`.
        """
        if self._queue or self.producer is not None or not self.connected:
            self.loseConnection()
        elif self.stage is Stage.OPEN:
            self._half_close()

    def _close_when_written(self) -> None:
        self._reactor.callLater(0, self._close_if_written)

    def _close_if_written(self) -> None:
        if self.producer is not None or self._queue or not self.connected:
            return
        if self.stage is Stage.OPEN:
            self._flush()
        elif self.stage in (Stage.WAITING, Stage.HANDSHAKING):
            self._close_below()

    def _close_below(self) -> None:
        if self._reason is None:
            self._reason = failure_of(main.CONNECTION_DONE)
        self.stage = Stage.ENDING
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
        self._queue.clear()
        self._queued = 0
        producer, self.producer = self.producer, None
        protocol, self.protocol = self.protocol, None
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
        return bool(call(self.transport, "getTcpNoDelay"))

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        Passed on to the transport below, where it is TCP.
        """
        call(self.transport, "setTcpNoDelay", enabled)

    def getTcpKeepAlive(self) -> bool:
        """
        What the transport below says; False where there is no TCP.
        """
        return bool(call(self.transport, "getTcpKeepAlive"))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """
        Passed on to the transport below, where it is TCP.
        """
        call(self.transport, "setTcpKeepAlive", enabled)


def call(transport: Any, name: str, *arguments: object) -> Any:
    method = getattr(transport, name, None)
    return None if method is None else method(*arguments)
