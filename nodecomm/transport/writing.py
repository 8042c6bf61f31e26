# SPDX-License-Identifier: MIT
"""
What leaves on a TLS connection: the queue, its producers, and the TLS close.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, cast

from OpenSSL import SSL
from twisted.internet import main
from twisted.internet.abstract import FileDescriptor

from nodecomm.transport.errors import TLSFailure, describe, failure_of
from nodecomm.transport.facts import SocketFacts, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.interfaces import IReactorFDSet

    Buffer = bytes | memoryview[int]

#: Bytes that may leave on one connection without a turn of the reactor in between;
#: at the speed of AES on one core about a millisecond.
MAX_BURST = 1 << 20


class RecordWriter(SocketFacts, FileDescriptor):
    """
    The writing half of `TLSDescriptor`. A base class and not an object of its own:
    one more call for each answer would be felt.
    """

    _send: Callable[[Buffer], int]
    _clock: Any

    def __init__(self, reactor: IReactorFDSet) -> None:
        super().__init__(reactor)
        self.stage = Stage.WAITING
        self._reset = False
        self._queue: deque[Buffer] = deque()
        self._queued = 0
        #: Bytes written directly since the reactor last had a say.
        self._burst = 0
        #: Whether a pull producer has written since it was last asked to.
        self._pulled = False
        #: OpenSSL cannot write before the socket is readable.
        self._write_needs_read = False
        self._read_paused = False

    @property
    def write_pending(self) -> int:
        """
        Bytes accepted by `write` that OpenSSL has not finished with.
        """
        return self._queued

    def write(self, data: bytes) -> None:
        """
        Send *data*: as one record when it has at most `MAX_RECORD` bytes.
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
        except SSL.WantWriteError:
            self._enqueue(data)
            self.reactor.addWriter(self)
        except SSL.WantReadError:
            self._write_needs_read = True
            self._enqueue(data)
            self.reactor.addReader(self)
        except SSL.Error as error:
            self._fail_soon(TLSFailure(f"tls: {describe(error)}"))
        else:
            if sent < len(data):
                self._enqueue(memoryview(data)[sent:])
                self.reactor.addWriter(self)
            elif self.producer is not None:
                self._written_for_producer(sent)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """
        As `write` for each item: each is a record of its own.
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
        OpenSSL would not come back from a long write to a peer that keeps up.
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
        self._write_needs_read = False
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
        except SSL.WantWriteError:
            self.reactor.addWriter(self)
            return None
        except SSL.WantReadError:
            self._write_needs_read = True
            self.reactor.removeWriter(self)
            self.reactor.addReader(self)
            return None
        except SSL.Error as error:
            return TLSFailure(f"tls: {describe(error)}")
        if self.producer is not None:
            self._ask_producer()
            return None
        if self.disconnecting:
            return self._say_goodbye()
        self.reactor.removeWriter(self)
        if self._read_paused:
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

    def _say_goodbye(self) -> Exception | None:
        """
        Everything has been sent: send the TLS close, and do not wait for the peer's.
        """
        connection = self._connection
        if connection is not None:
            try:
                connection.shutdown()
            except SSL.WantWriteError:
                self.reactor.addWriter(self)
                return None
            except SSL.Error:
                # The peer has gone already, or never finished the handshake.
                pass
        return main.CONNECTION_DONE

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
