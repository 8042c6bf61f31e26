# SPDX-License-Identifier: MIT
"""
A transport without TLS under test, and a peer.
"""

from __future__ import annotations

import select
import socket
from typing import Any

from twisted.internet.error import ConnectionDone

from nodecomm.transport.plain import PlainDescriptor, PlainOverTransport
from tests.transport.links import Below, Session, TinyReactor


class Link:
    """
    The transport under test, its session, and a peer that reads when told to.
    """

    transport: Any

    def __init__(self, session: Session | None = None) -> None:
        self.reactor = TinyReactor()
        self.session = session or Session()
        self.taken = bytearray()
        self.reading = True
        self.ended = False

    def start(self) -> None:
        """The connection is made."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Bytes from the peer."""
        raise NotImplementedError

    def take(self) -> bool:
        """The peer takes what is there; whether there was anything."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """The peer ends its stream."""
        raise NotImplementedError

    def wait(self) -> None:
        """Give the kernel time to deliver, where there is one."""

    def pump(self, turns: int = 400) -> None:
        """Move bytes both ways until nothing happens any more."""
        idle = 0
        while idle < 3 and turns:
            busy = self.reactor.turn()
            if self.reading:
                busy = self.take() or busy
            idle = 0 if busy else idle + 1
            turns -= 1
            if idle:
                self.wait()

    def close(self) -> None:
        """Let go of everything."""


class DescriptorLink(Link):
    """
    Over a pair of connected loopback sockets with little room.
    """

    def __init__(
        self, session: Session | None = None, *, hear_out: bool = False
    ) -> None:
        super().__init__(session)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.sock = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.reset = False
        self.transport = PlainDescriptor(
            ours, self.session, self.reactor, hear_out=hear_out
        )

    def start(self) -> None:
        self.transport.start()

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    def take(self) -> bool:
        if self.ended:
            return False
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return False
        except ConnectionError:
            self.ended = self.reset = True
            return True
        self.taken += data
        self.ended = not data
        return True

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
        if self.reading and not self.ended:
            poll.register(self.sock, select.POLLIN)
        poll.poll(250 if self.reading and writers else 10)

    def close(self) -> None:
        self.transport.abortConnection()
        self.reactor.turn()
        self.sock.close()


class MemoryLink(Link):
    """
    Over a transport in memory.
    """

    def __init__(self, session: Session | None = None) -> None:
        super().__init__(session)
        self.below = Below(self.reactor)
        self.transport = self.below.above = PlainOverTransport(
            self.session, self.reactor
        )

    def start(self) -> None:
        self.transport.makeConnection(self.below)

    def send(self, data: bytes) -> None:
        self.below.arrived.append(data)
        self.below.deliver()

    def take(self) -> bool:
        data = self.below.take()
        self.taken += data
        return bool(data)

    def hang_up(self) -> None:
        self.below.end(ConnectionDone())
