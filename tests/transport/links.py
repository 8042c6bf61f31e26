# SPDX-License-Identifier: MIT
"""
A TLS transport under test, an independent peer, and what moves bytes between them.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import sys
import termios
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IReactorFDSet,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from nodecomm.identity.keys import KeyPair
from nodecomm.transport.context import client_context, server_context
from nodecomm.transport.descriptor import TLSDescriptor
from nodecomm.transport.limits import HandshakeGate
from nodecomm.transport.memory import TLSOverTransport

SERVER_KEY = KeyPair.generate(1024)
CLIENT_KEY = KeyPair.generate(1024)
SERVER_CONTEXT = server_context(SERVER_KEY)
CLIENT_CONTEXT = client_context(CLIENT_KEY)


@implementer(IReactorFDSet)
class TinyReactor(Clock):
    """
    Time that stands still, and descriptors looked at when a test says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, Any] = {}
        self.writers: dict[int, Any] = {}

    def addReader(self, reader: Any) -> None:
        assert reader.fileno() >= 0
        self.readers[reader.fileno()] = reader

    def addWriter(self, writer: Any) -> None:
        assert writer.fileno() >= 0
        self.writers[writer.fileno()] = writer

    def removeReader(self, reader: Any) -> None:
        self._remove(self.readers, reader)

    def removeWriter(self, writer: Any) -> None:
        self._remove(self.writers, writer)

    @staticmethod
    def _remove(known: dict[int, Any], descriptor: Any) -> None:
        for number, which in list(known.items()):
            if which is descriptor:
                del known[number]

    def removeAll(self) -> list[Any]:
        raise NotImplementedError

    def getReaders(self) -> list[Any]:
        return list(self.readers.values())

    def getWriters(self) -> list[Any]:
        return list(self.writers.values())

    def turn(self) -> bool:
        """
        One turn: calls that are due, then each descriptor that is ready. True when
        anything was.
        """
        self.advance(0)
        poll = select.poll()
        for number in {*self.readers, *self.writers}:
            poll.register(
                number,
                (select.POLLIN if number in self.readers else 0)
                | (select.POLLOUT if number in self.writers else 0),
            )
        events = poll.poll(0)
        for number, event in events:
            descriptor = self.readers.get(number) or self.writers.get(number)
            if descriptor is None:
                continue
            why, in_read = None, False
            if event & (select.POLLIN | select.POLLHUP) and number in self.readers:
                why, in_read = descriptor.doRead(), True
            if not why and event & select.POLLOUT and number in self.writers:
                why, in_read = descriptor.doWrite(), False
            if why:
                self._end(descriptor, why, in_read)
        return bool(events)

    def _end(self, descriptor: Any, why: Exception, in_read: bool) -> None:
        self.removeReader(descriptor)
        failure = Failure(why)
        if in_read and isinstance(why, ConnectionDone):
            descriptor.readConnectionLost(failure)
        else:
            self.removeWriter(descriptor)
            descriptor.connectionLost(failure)


@implementer(IHandshakeListener)
class Session(Protocol):
    """
    Writes down what the transport does.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received = bytearray()
        self.reasons: list[BaseException] = []
        self.on_handshake: Any = lambda: None
        self.on_data: Any = lambda _: None
        self.on_made: Any = lambda: None

    def connectionMade(self) -> None:
        self.calls.append("made")
        self.on_made()

    def handshakeCompleted(self) -> None:
        self.calls.append("handshake")
        self.on_handshake()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.on_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.calls.append("lost")
        self.reasons.append(reason.value or AssertionError(reason))


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Session):
    """
    Goes on writing after the peer has ended.
    """

    def readConnectionLost(self) -> None:
        self.calls.append("read lost")

    def writeConnectionLost(self) -> None:
        self.calls.append("write lost")


class Peer:
    """
    An independent TLS client in memory that keeps each record it gets apart.
    """

    def __init__(self, context: SSL.Context = CLIENT_CONTEXT) -> None:
        self.connection = SSL.Connection(context, None)
        self.connection.set_connect_state()
        self.ready = False
        self.records: list[bytes] = []
        self.closed = False
        self.error: SSL.Error | None = None

    def step(self) -> None:
        """
        Do what can be done with the bytes that are here.
        """
        try:
            if not self.ready:
                self.connection.do_handshake()
                self.ready = True
            while True:
                self.records.append(self.connection.recv(1 << 16))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.closed = True
        except SSL.Error as error:
            self.error = error

    def take(self) -> bytes:
        """
        The ciphertext to be sent.
        """
        try:
            return self.connection.bio_read(1 << 20)
        except SSL.Error:
            return b""

    def give(self, data: bytes) -> None:
        """
        Ciphertext that has arrived.
        """
        if data:
            self.connection.bio_write(data)


class Link:
    """
    The transport under test, its session, a peer, and the bytes between them.
    """

    transport: Any

    def __init__(
        self, *, session: Session | None = None, gate: HandshakeGate | None = None
    ) -> None:
        self.reactor = TinyReactor()
        self.session = session or Session()
        self.gate = gate
        self.peer = Peer()
        self.reading = True

    def start(self) -> None:
        """
        The connection is made.
        """

    def to_server(self, data: bytes) -> None:
        """
        Bytes from the peer.
        """
        raise NotImplementedError

    def to_peer(self) -> bytes:
        """
        Bytes for the peer.
        """
        raise NotImplementedError

    def hang_up(self) -> None:
        """
        The peer ends its stream without a TLS close.
        """
        raise NotImplementedError

    def pump(self, turns: int = 60, step: int = 1 << 20) -> None:
        """
        Move bytes both ways, *step* at a time, until nothing happens any more.
        """
        idle = 0
        while idle < 3 and turns:
            if self.reading:
                received = self.to_peer()
                self.peer.give(received)
                self.peer.step()
            else:
                received = b""
            sending = self.peer.take()
            for start in range(0, len(sending), step):
                self.to_server(sending[start : start + step])
                self.reactor.turn()
            busy = self.reactor.turn()
            idle = 0 if received or sending or busy else idle + 1
            turns -= idle > 0
            if idle:
                self.wait()

    def wait(self) -> None:
        """
        Give the kernel time to deliver, where there is a kernel in between.
        """

    def open(self) -> None:
        """
        Start, and finish the handshake.
        """
        self.start()
        self.pump()
        assert self.peer.ready

    def send(self, data: bytes) -> None:
        """
        The peer writes *data*; it is on its way, not delivered.
        """
        self.peer.connection.send(data)

    def close(self) -> None:
        """
        Let go of everything.
        """


class DescriptorLink(Link):
    """
    Over a pair of connected loopback sockets.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.sock = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        self._ours = ours
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport = TLSDescriptor(
            ours,
            SERVER_CONTEXT,
            self.session,
            self.reactor,
            gate=self.gate,
            handshake_timeout=30,
        )

    def start(self) -> None:
        self.transport.start()

    def to_server(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(data)

    def to_peer(self) -> bytes:
        try:
            return self.sock.recv(1 << 20)
        except OSError:
            return b""

    def hang_up(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def wait(self) -> None:
        poll = select.poll()
        readers, writers = self.reactor.readers, self.reactor.writers
        for number in {*readers, *writers}:
            poll.register(
                number,
                (select.POLLIN if number in readers else 0)
                | (select.POLLOUT if number in writers else 0),
            )
        if self.reading:
            poll.register(self.sock, select.POLLIN)
        # A kernel that has just found room again may take 0.2 s to say so.
        underway = self.reading and _unsent(self._ours)
        poll.poll(300 if underway else 10)

    def close(self) -> None:
        self.transport.abortConnection()
        self.reactor.turn()
        self.sock.close()


def _unsent(sock: socket.socket) -> int:
    """
    Bytes that the peer's kernel has not taken yet.
    """
    if sock.fileno() < 0:
        return 0
    size = fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4)
    return int.from_bytes(size, sys.byteorder)


class Below:
    """
    A transport in memory with little room, as a socket has little room.
    """

    ROOM = 1 << 18

    def __init__(self, reactor: TinyReactor) -> None:
        self._reactor = reactor
        self.above: Any = None
        self.written = bytearray()
        self.arrived: list[bytes] = []
        self.producer: Any = None
        self.paused = False
        self.closing = False
        self.ended = False

    def write(self, data: bytes) -> None:
        if self.ended:
            return
        self.written += data
        if len(self.written) > self.ROOM and self.producer is not None:
            self.producer.pauseProducing()

    def take(self) -> bytes:
        taken = bytes(self.written)
        self.written.clear()
        if taken and self.producer is not None:
            self.producer.resumeProducing()
        if self.closing and not self.written:
            self.end(ConnectionDone())
        return taken

    def deliver(self) -> None:
        while self.arrived and not self.paused and not self.ended:
            self.above.dataReceived(self.arrived.pop(0))

    def end(self, why: Exception) -> None:
        if not self.ended:
            self.ended = True
            self.above.connectionLost(Failure(why))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseConnection(self) -> None:
        self.closing = True
        if not self.written:
            self._reactor.callLater(0, self.end, ConnectionDone())

    def abortConnection(self) -> None:
        self.end(ConnectionAborted())

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self._reactor.callLater(0, self.deliver)

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 1)

    getHost = getPeer


class MemoryLink(Link):
    """
    Over a transport in memory.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.below = Below(self.reactor)
        self.transport = self.below.above = TLSOverTransport(
            SERVER_CONTEXT,
            self.session,
            self.reactor,
            gate=self.gate,
            handshake_timeout=30,
        )

    def start(self) -> None:
        self.transport.makeConnection(self.below)

    def to_server(self, data: bytes) -> None:
        self.below.arrived.append(data)
        self.below.deliver()

    def to_peer(self) -> bytes:
        return self.below.take()

    def hang_up(self) -> None:
        self.below.end(ConnectionDone())
