# SPDX-License-Identifier: MIT
"""
Connections without TLS, for the classic protocol.

Not the reactor's own transports, for two reasons: a file's content leaves through
the system, without passing this process, and closing does not take our last words
from a peer that is still sending.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from twisted.internet import main
from twisted.internet.interfaces import IProtocol, ISystemHandle, ITCPTransport
from zope.interface import implementer

from nodecomm.transport.errors import StreamFailure
from nodecomm.transport.facts import Stage
from nodecomm.transport.interfaces import IFileStream, IPlainStream
from nodecomm.transport.over import NeverRaised, OverTransport
from nodecomm.transport.stream import SocketStream

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IReactorFDSet, IReactorTime
    from twisted.python.failure import Failure

#: Bytes read at a time, before others get their turn.
MAX_READ = 65536

#: Bytes dropped of what a peer sends after we have closed. More than any peer asks
#: ahead; who sends more than that is not waiting for our last words.
MAX_DROPPED = 4 << 20

#: What the system says when it is the connection that has failed, not the file;
#: `ConnectionError` and `TimeoutError` apart.
_NETWORK = frozenset(
    {
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENOTCONN,
    }
)


@implementer(IFileStream, ITCPTransport, ISystemHandle)
class PlainDescriptor(SocketStream):
    """
    A connection over a connected stream socket.

    The socket belongs to this object from the start and is closed by it. Nothing
    happens before `start` is called.

    Args:
        sock: Connected.
        protocol: Who talks.
        reactor: Drives the socket.
        peer: Its address, where that is known already.
        clock: For what happens in a later turn; the reactor when None.
        hear_out: When the peer turns out to be gone while something is written, read
            first what it had said before it went. For a side that asks: a refusal
            may be the peer's last words.
    """

    tls_version = cipher = ""
    _send_errors = OSError

    def __init__(
        self,
        sock: socket.socket,
        protocol: IProtocol,
        reactor: IReactorFDSet,
        *,
        peer: IAddress | None = None,
        clock: IReactorTime | None = None,
        hear_out: bool = False,
    ) -> None:
        super().__init__(sock, protocol, reactor, peer=peer, clock=clock)
        self._send = sock.send
        self._dropped = 0
        self._hear_out = hear_out
        #: Why nothing can be written any more, while there may be more to read.
        self._gone: StreamFailure | None = None

    def start(self) -> None:
        """
        Give the protocol its transport and begin to read.
        """
        protocol = self.protocol
        if protocol is None or self.stage is not Stage.WAITING:
            return
        self.stage = Stage.OPEN
        protocol.makeConnection(self)
        if self.stage is Stage.OPEN and not (self._read_paused or self.disconnecting):
            self.reactor.addReader(self)

    # Reading.

    def doRead(self) -> Exception | None:
        """
        Read what is there, up to `MAX_READ` bytes.
        """
        sock = self._socket
        if sock is None:
            return None
        try:
            data = sock.recv(MAX_READ)
        except BlockingIOError:
            return None
        except OSError as error:
            # After our end it does not matter how the peer ends.
            draining = self.stage is Stage.DRAINING
            return main.CONNECTION_DONE if draining else _failed(error)
        if not data:
            return self._gone or main.CONNECTION_DONE
        if self.stage is Stage.OPEN:
            self.protocol.dataReceived(data)  # type: ignore[union-attr]
            return None
        self._dropped += len(data)
        return main.CONNECTION_DONE if self._dropped > MAX_DROPPED else None

    def pauseProducing(self) -> None:
        """
        Stop reading.
        """
        self._read_paused = True
        if self.stage is Stage.OPEN:
            self.reactor.removeReader(self)

    def resumeProducing(self) -> None:
        """
        Read again.
        """
        self._read_paused = False
        if self.stage is Stage.OPEN and not (self.disconnecting or self._read_ended):
            self.reactor.addReader(self)

    # Writing: the rest is in `SocketStream`.

    def doWrite(self) -> Exception | None:
        """
        Send what is queued; ask the producer for more; close when that was wanted.
        """
        return self._flush() if self.stage is Stage.OPEN else None

    def _hindered(self, error: Exception) -> Exception | None:
        if isinstance(error, BlockingIOError):
            self.reactor.addWriter(self)
            return None
        if self._hear_out and isinstance(error, ConnectionError):
            # What the peer had sent can still be read, up to its end.
            self._gone = _failed(error)
            self._send = len
            self.reactor.addWriter(self)
            return None
        return _failed(error)

    def send_file(self, descriptor: int, offset: int, size: int) -> int:
        """
        Have the system send of a file what it takes now; see `IFileStream`.
        """
        if not self._writable() or self.stage is not Stage.OPEN:
            return 0
        if self._queue:
            self._make_wait()
            return 0
        try:
            sent = os.sendfile(self.fileno(), descriptor, offset, size)
        except BlockingIOError:
            self._make_wait()
            return 0
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError)) or (
                error.errno in _NETWORK
            ):
                self._fail_soon(_failed(error))
                return 0
            raise
        if not sent:
            raise EOFError(f"the file ends before byte {offset}")
        if self.producer is not None:
            self._written_for_producer(sent)
        return sent

    def _make_wait(self) -> None:
        """
        Have the producer wait until there is room.
        """
        self._pulled = True
        self.reactor.addWriter(self)
        producer = self.producer
        if producer is not None and self.streamingProducer and not self.producerPaused:
            self.producerPaused = True
            cast("Any", producer).pauseProducing()

    # The end.

    def _say_goodbye(self) -> Exception | None:
        """
        Everything has been sent: end our side, and wait for the peer's end.
        """
        sock = self._socket
        self.reactor.removeWriter(self)
        if sock is None or self._read_ended:
            return main.CONNECTION_DONE
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            # The peer has gone already.
            return main.CONNECTION_DONE
        self.stage = Stage.DRAINING
        self.reactor.addReader(self)
        return None

    def loseWriteConnection(self) -> None:
        """
        End our side and go on reading; with something queued, as `loseConnection`.
        """
        sock = self._socket
        if self._queue or self.producer is not None or sock is None:
            self.loseConnection()
        elif self.stage is Stage.OPEN and not self.disconnecting:
            # If the peer has gone, reading finds it out.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    def getHandle(self) -> socket.socket | None:
        """
        The socket; None after the end.
        """
        return self._socket

    def logPrefix(self) -> str:
        """
        What Twisted puts before lines logged on this connection's behalf.
        """
        return "PlainDescriptor"


def _failed(error: Exception) -> StreamFailure:
    return StreamFailure(f"tcp: {getattr(error, 'strerror', None) or error}")


@implementer(IPlainStream, IProtocol)
class PlainOverTransport(OverTransport):
    """
    The same over another transport, of which it is the protocol. There is no
    `send_file`. What closing means is left to the transport below.
    """

    tls_version = cipher = ""
    #: The transport below takes everything.
    _send_errors = NeverRaised

    def __init__(self, protocol: IProtocol, reactor: IReactorTime) -> None:
        super().__init__(protocol, reactor)
        self._arrived: deque[bytes] = deque()
        self._lost: Failure | None = None

    # From below.

    def makeConnection(self, transport: Any) -> None:
        """
        The transport below is there: give ours to the protocol.
        """
        self.stage = Stage.OPEN
        self._attach(transport)
        if self.protocol is not None:
            self.protocol.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        """
        Bytes from the peer. A transport below may deliver what it had read before
        it was told to stop.
        """
        self._arrived.append(data)
        self._drain()

    def connectionLost(self, reason: Failure) -> None:
        """
        The transport below has ended; a protocol that has paused hears of it after
        what came before.
        """
        self._lost = self._reason or reason
        self._drain()

    # Reading.

    def _drain(self) -> None:
        """
        Deliver what has arrived, as long as the protocol wants it.
        """
        arrived = self._arrived
        while arrived:
            if self.stage is not Stage.OPEN or self.disconnecting:
                arrived.clear()
            elif self._read_paused:
                return
            elif self.protocol is not None:
                self.protocol.dataReceived(arrived.popleft())
        if self._lost is not None:
            self._end(self._lost)

    # Writing, and the end: the rest is in `OverTransport`.

    def _send(self, data: bytes) -> int:
        self.transport.write(data)
        return len(data)

    def _say_goodbye(self) -> None:
        self._close_below()

    def _half_close(self) -> None:
        shut = getattr(self.transport, "loseWriteConnection", None)
        if shut is None:
            self.loseConnection()
        else:
            shut()
