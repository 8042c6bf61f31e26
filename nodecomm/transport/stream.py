# SPDX-License-Identifier: MIT
"""
A connection on a socket that the reactor drives: what leaves, the queue, its
producers, and the end. Whether TLS is between the queue and the socket is decided in
the classes derived from this one.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from nodecomm.transport.errors import failure_of
from nodecomm.transport.facts import SocketFacts, Stage, address_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.interfaces import (
        IAddress,
        IProtocol,
        IReactorFDSet,
        IReactorTime,
    )

    Buffer = bytes | memoryview[int]

_log = Logger()

#: Bytes that may leave on one connection without a turn of the reactor in between;
#: at the speed of AES on one core about a millisecond.
MAX_BURST = 1 << 20


def _closed() -> int:
    """
    The descriptor number of a connection that has none any more.
    """
    return -1


class SocketStream(SocketFacts, FileDescriptor):
    """
    What `TLSDescriptor` and `PlainDescriptor` have in common. A base class and not
    an object of its own: one more call for each answer would be felt.

    Attributes:
        stage: Where in its life the connection is.
    """

    #: Sends what the system takes of a buffer and returns how much that was.
    _send: Callable[[Buffer], int]
    #: What `_send` raises, apart from mistakes of ours.
    _send_errors: type[Exception]
    _read_ended = False

    def __init__(
        self,
        sock: socket.socket,
        protocol: IProtocol,
        reactor: IReactorFDSet,
        *,
        peer: IAddress | None = None,
        clock: IReactorTime | None = None,
    ) -> None:
        super().__init__(reactor)
        sock.setblocking(False)
        self.stage = Stage.WAITING
        self.protocol: IProtocol | None = protocol
        self.fileno: Callable[[], int] = sock.fileno
        self._socket: socket.socket | None = sock
        self._peer: Any = peer or address_of(sock.family, sock.getpeername())
        self._host: Any = None
        self._clock: Any = clock or reactor
        self._reset = False
        self._queue: deque[Buffer] = deque()
        self._queued = 0
        #: Bytes written directly since the reactor last had a say.
        self._burst = 0
        #: Whether a pull producer has written since it was last asked to.
        self._pulled = False
        self._read_paused = False
        self.connected = 1

    def _hindered(self, error: Exception) -> Exception | None:
        """
        What *error*, raised by `_send`, means: None when what was to be sent waits
        for the reactor, which has been asked; else what ends the connection.
        """
        raise NotImplementedError

    def _say_goodbye(self) -> Exception | None:
        """
        Everything has been sent and the connection is to be closed. Returns what it
        ends with, or None when there is something to wait for.
        """
        raise NotImplementedError

    @property
    def write_pending(self) -> int:
        """
        Bytes accepted by `write` that have not been handed on.
        """
        return self._queued

    def write(self, data: bytes) -> None:
        """
        Send *data*; with TLS as one record when it has at most `MAX_RECORD` bytes.
        """
        if not isinstance(data, (bytes, memoryview)):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if not data or not self._writable():
            return
        if self._queue or self.stage is not Stage.OPEN:
            self._enqueue(data)
            return
        if len(data) > MAX_BURST:
            self._write_in_parts(data)
            return
        # Nothing waits before it: most answers leave here, in the same turn in
        # which the request was read, and the reactor is not asked for anything.
        try:
            sent = self._send(data)
        except self._send_errors as error:
            end = self._hindered(error)
            if end is None:
                self._enqueue(data)
            else:
                self._fail_soon(end)
        else:
            if sent < len(data):
                self._enqueue(memoryview(data)[sent:])
                self.reactor.addWriter(self)
            elif self.producer is not None:
                self._written_for_producer(sent)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """
        As `write` for each item; with TLS each is a record of its own.
        """
        for data in iovec:
            self.write(data)

    def _writable(self) -> bool:
        """
        After `loseConnection` only a registered producer may still write.
        """
        return bool(
            self.connected and (not self.disconnecting or self.producer is not None)
        )

    def _pulling(self) -> bool:
        return self.producer is not None and (
            not self.streamingProducer or self.producerPaused
        )

    def _write_in_parts(self, data: Buffer) -> None:
        """
        A long write to a peer that keeps up would not come back for a while.
        """
        view = memoryview(data)
        for start in range(0, len(view), MAX_BURST):
            self._enqueue(view[start : start + MAX_BURST])
        self.reactor.addWriter(self)

    def _written_for_producer(self, size: int) -> None:
        """
        A pull producer is asked for more in a later turn; a streaming one whose peer
        keeps up with it has to give way to others now and then.
        """
        if not self.streamingProducer:
            self._pulled = True
            self.reactor.addWriter(self)
            return
        self._burst += size
        if self._burst > MAX_BURST and not self.producerPaused:
            self.producerPaused = True
            self.reactor.addWriter(self)
            cast("Any", self.producer).pauseProducing()

    def _enqueue(self, data: Buffer) -> None:
        self._queue.append(data)
        self._queued += len(data)
        self._pulled = True
        if (
            self._queued > self.bufferSize
            and self.producer is not None
            and self.streamingProducer
            and not self.producerPaused
        ):
            self.producerPaused = True
            cast("Any", self.producer).pauseProducing()

    def _flush(self) -> Exception | None:
        queue = self._queue
        self._burst = 0
        try:
            while queue:
                data = queue[0]
                sent = self._send(data)
                if not queue:
                    return None
                self._queued -= sent
                self._burst += sent
                if sent < len(data):
                    queue[0] = memoryview(data)[sent:]
                else:
                    queue.popleft()
                if self._burst >= MAX_BURST and queue:
                    self.reactor.addWriter(self)
                    return None
        except self._send_errors as error:
            return self._hindered(error)
        if self.producer is not None:
            self._ask_producer()
            return None
        if self.disconnecting:
            return self._say_goodbye()
        self.reactor.removeWriter(self)
        if self._read_paused:
            # Only TLS wanted to read, in order to write.
            self.reactor.removeReader(self)
        return None

    def _ask_producer(self) -> None:
        """
        Nothing is queued any more: ask for more, and listen for room to write in only
        when something came of it.
        """
        producer = self.producer
        if self.streamingProducer:
            self.reactor.removeWriter(self)
            if self.producerPaused:
                self.producerPaused = False
                cast("Any", producer).resumeProducing()
            return
        self._pulled = False
        cast("Any", producer).resumeProducing()
        if self._pulled or self.stage is not Stage.OPEN:
            return
        if not (self.disconnecting and self.producer is None):
            self.reactor.removeWriter(self)

    def unregisterProducer(self) -> None:
        """
        The producer has nothing more to write.
        """
        self.producer = None
        self.producerPaused = False
        if self.disconnecting:
            self._close_when_written()

    def loseConnection(self) -> None:
        """
        Close when what is queued has been sent and no producer is registered.
        """
        if not self.connected or self.disconnecting:
            return
        self.disconnecting = 1
        if self.stage is Stage.OPEN:
            self.reactor.removeReader(self)
        self._close_when_written()

    def _close_when_written(self) -> None:
        """
        Have `doWrite` called, where closing happens: never inside a protocol's call.
        """
        if self.stage is Stage.OPEN or (self.connected and self._closing_unopened()):
            self.reactor.addWriter(self)

    def _closing_unopened(self) -> bool:
        """
        `loseConnection` came before the handshake ended and nothing waits for it.
        """
        return bool(self.disconnecting and not self._queue and self.producer is None)

    def _fail_soon(self, error: Exception) -> None:
        """
        End the connection in the next turn, not inside a call of the protocol.
        """
        self.connected = 0
        self.stage = Stage.ENDING
        self._reset = True
        self.reactor.removeReader(self)
        self.reactor.removeWriter(self)
        self._queue.clear()
        self._queued = 0
        self._clock.callLater(0, self.connectionLost, failure_of(error))

    # The end.

    def readConnectionLost(self, reason: Failure) -> None:
        """
        The peer will send no more. A protocol that provides
        `IHalfCloseableProtocol` may go on writing; else the connection ends.
        """
        protocol = self.protocol
        self._read_ended = True
        if not self.disconnecting and IHalfCloseableProtocol.providedBy(protocol):
            try:
                protocol.readConnectionLost()
            except Exception:
                failure = Failure()
                _log.failure("readConnectionLost failed", failure)
                self.connectionLost(failure)
            return
        self._answer_end()
        self.connectionLost(reason)

    def _answer_end(self) -> None:
        """
        The peer has ended in order; the connection ends now.
        """

    def stopProducing(self) -> None:
        """
        As `loseConnection`.
        """
        self.loseConnection()

    def abortConnection(self) -> None:
        """
        Close with a reset, dropping what is queued.
        """
        if self.connected:
            self._fail_soon(ConnectionAborted())

    def connectionLost(self, reason: Failure) -> None:
        """
        Close the socket and tell the protocol; a second call does nothing.
        """
        if self.stage is Stage.LOST:
            return
        self.stage = Stage.LOST
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        sock, self._socket = self._socket, None
        protocol, self.protocol = self.protocol, None
        self._send = _unusable
        self.fileno = _closed
        self._queue.clear()
        self._queued = 0
        if sock is not None:
            _close(sock, reset=self._reset)
        if protocol is not None:
            protocol.connectionLost(reason)


def _unusable(*_arguments: object) -> Any:
    raise ConnectionDone("the connection has ended")


def _close(sock: socket.socket, *, reset: bool) -> None:
    try:
        if reset:
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        else:
            sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The peer was faster.
        pass
    sock.close()
