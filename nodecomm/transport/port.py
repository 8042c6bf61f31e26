# SPDX-License-Identifier: MIT
"""
One port for two protocols: the first byte decides, and nothing is consumed by
looking at it.

The real server looks at 14 bytes, once, and so takes a TLS hello that arrives in
small pieces for the classic protocol. The first byte is enough: 0x16 begins a TLS
handshake record, `t` or `m` a classic frame, and nothing else can follow.
Source: CFEngine 3.21, cf-serverd, what a connection's first bytes decide.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection as TCPConnection

from nodecomm.transport.descriptor import TLSDescriptor
from nodecomm.transport.memory import TLSOverTransport
from nodecomm.transport.plain import PlainDescriptor, PlainOverTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL import SSL
    from twisted.internet.interfaces import (
        IAddress,
        IDelayedCall,
        IProtocol,
        IReactorTime,
    )
    from twisted.python.failure import Failure

    from nodecomm.transport.limits import HandshakeGate

#: What the first byte can be: a TLS record of the handshake kind (RFC 8446, 5.1),
#: or the status byte of a classic frame.
TLS_FIRST = b"\x16"
CLASSIC_FIRST = (b"t", b"m")


class SecurePort:
    """
    What all connections of one listening address have in common.
    """

    def __init__(
        self,
        context: SSL.Context,
        reactor: Any,
        *,
        gate: HandshakeGate | None,
        first_byte_timeout: float,
        handshake_timeout: float,
        clock: IReactorTime | None = None,
    ) -> None:
        """
        Args:
            context: From `nodecomm.transport.context.server_context`. May be replaced
                later; connections that exist keep the one they began with.
            reactor: Drives descriptors, where there are any.
            gate: Limits handshakes in progress; None for no limit.
            first_byte_timeout: Seconds until a peer must have sent something.
            handshake_timeout: Seconds a handshake may take, waiting at the gate
                excluded.
            clock: For the timeouts; the reactor when None.
        """
        self.context = context
        self.reactor = reactor
        self.gate = gate
        self.first_byte_timeout = first_byte_timeout
        self.handshake_timeout = handshake_timeout
        self.clock: IReactorTime = reactor if clock is None else clock

    def protocol_for(
        self,
        addr: IAddress,
        *,
        tls: Callable[[], IProtocol] | None,
        classic: Callable[[], IProtocol | None] | None,
        lost: Callable[[str], None],
    ) -> IProtocol:
        """
        What a factory's `buildProtocol` returns for a connection from *addr*.

        Args:
            addr: The peer's address.
            tls: Makes the protocol above TLS; see `ITLSSession`. None: TLS is closed.
            classic: Makes the protocol for a classic connection, above an
                `IPlainStream`; asked when the first byte is known, and returns None
                for a peer that may not have one. None: nobody may. Such a
                connection is closed.
            lost: Called with the reason when the connection ends before either of
                the two has been made; once, and never otherwise.
        """
        return FirstByte(self, addr, tls, classic, lost)


class FirstByte(Protocol):
    """
    A connection whose first byte has not been seen.
    """

    def __init__(
        self,
        port: SecurePort,
        addr: IAddress,
        tls: Callable[[], IProtocol] | None,
        classic: Callable[[], IProtocol | None] | None,
        lost: Callable[[str], None],
    ) -> None:
        self._port = port
        self._addr = addr
        self._tls = tls
        self._classic = classic
        self._lost: Callable[[str], None] | None = lost
        self._timer: IDelayedCall | None = None
        self._peek: _Peek | None = None
        #: What the bytes go to, once that is known and they come through here.
        self._above: IProtocol | None = None

    def connectionMade(self) -> None:
        """
        Look for the first byte: by peeking where there is a plain socket.
        """
        port = self._port
        transport: Any = self.transport
        if is_plain_socket(transport):
            self._peek = peek = _Peek(transport.socket, self, port.reactor)
            # A client's hello is often here before its connection is accepted; the
            # reactor is then not asked to look for it.
            if peek.look():
                return
            transport.stopReading()
            peek.wait()
        self._timer = port.clock.callLater(port.first_byte_timeout, self._too_late)

    def _too_late(self) -> None:
        self._timer = None
        self._refuse("first-byte-timeout")

    def ended(self, reason: str) -> None:
        """
        The peer went before it sent anything.
        """
        self._refuse(reason)

    def _refuse(self, reason: str) -> None:
        """
        Close without a word, and say why to our own side.
        """
        self._settle()
        lost, self._lost = self._lost, None
        transport = self.transport
        if transport is not None:
            cast("Any", transport).abortConnection()
        if lost is not None:
            lost(reason)

    def _settle(self) -> None:
        """
        No longer wait for the first byte.
        """
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        peek, self._peek = self._peek, None
        if peek is not None:
            peek.stop()

    def decide(self, first: bytes) -> None:
        """
        The first byte is *first*: leave the connection to whom it concerns.
        """
        if first == TLS_FIRST:
            if self._tls is None:
                self._refuse("tls-not-served")
            else:
                self._become_tls(self._tls)
        elif first in CLASSIC_FIRST:
            protocol = None if self._classic is None else self._classic()
            if protocol is None:
                self._refuse("classic-not-allowed")
            else:
                self._become_classic(protocol)
        else:
            self._refuse("not-tls")

    def _become_tls(self, make: Callable[[], IProtocol]) -> None:
        peeked = self._peek is not None
        self._settle()
        self._lost = None
        port = self._port
        if not peeked:
            above = TLSOverTransport(
                port.context,
                make(),
                port.clock,
                gate=port.gate,
                handshake_timeout=port.handshake_timeout,
            )
            self._above = above
            above.makeConnection(self.transport)
            return
        transport, self.transport = self.transport, None
        TLSDescriptor(
            take_socket(transport),
            port.context,
            make(),
            port.reactor,
            peer=self._addr,
            gate=port.gate,
            clock=port.clock,
            handshake_timeout=port.handshake_timeout,
        ).start()

    def _become_classic(self, protocol: IProtocol) -> None:
        peeked = self._peek is not None
        self._settle()
        self._lost = None
        port = self._port
        if not peeked:
            above = PlainOverTransport(protocol, port.clock)
            self._above = above
            above.makeConnection(self.transport)
            return
        transport, self.transport = self.transport, None
        PlainDescriptor(
            take_socket(transport),
            protocol,
            port.reactor,
            peer=self._addr,
            clock=port.clock,
        ).start()

    def dataReceived(self, data: bytes) -> None:
        """
        Bytes, where they cannot be peeked at.
        """
        if self._above is None and self._lost is not None:
            self.decide(data[:1])
        if self._above is not None:
            self._above.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The connection has ended: tell whoever has it.
        """
        self._settle()
        above, self._above = self._above, None
        lost, self._lost = self._lost, None
        if above is not None:
            above.connectionLost(reason)
        elif lost is not None:
            lost("closed")


class _Peek(FileDescriptor):
    """
    Waits for a socket's first byte and looks at it without taking it.
    """

    def __init__(self, sock: socket.socket, found: FirstByte, reactor: Any) -> None:
        super().__init__(reactor)
        self._socket = sock
        self._found: FirstByte | None = found
        self._waiting = False
        self.fileno: Callable[[], int] = sock.fileno

    def wait(self) -> None:
        """
        Have the reactor tell when there is something.
        """
        self._waiting = True
        self.reactor.addReader(self)

    def stop(self) -> None:
        """
        Let go of the socket.
        """
        if self._waiting:
            self.reactor.removeReader(self)
        self._found = None

    def look(self) -> bool:
        """
        Look; true when the matter is settled.
        """
        found = self._found
        if found is None:
            return True
        try:
            first = self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError as error:
            found.ended(errno.errorcode.get(error.errno or 0, "error"))
            return True
        if first:
            found.decide(first)
        else:
            found.ended("closed")
        return True

    def doRead(self) -> None:
        """
        The reactor tells that there is something.
        """
        self.look()

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor tells that the peer has gone, which `look` finds out, too.
        """
        found = self._found
        if found is not None:
            found.ended("closed")

    def logPrefix(self) -> str:
        """
        What Twisted puts before lines logged on this connection's behalf.
        """
        return "SecurePort"


def is_plain_socket(transport: Any) -> bool:
    """
    Whether *transport* is a stream socket of the reactor and nothing more.
    """
    return (
        isinstance(transport, TCPConnection)
        and not transport.TLS
        and IReactorFDSet.providedBy(transport.reactor)
    )


def take_socket(transport: Any) -> socket.socket:
    """
    Take the socket from a transport of the reactor, which is then as one that has
    lost its connection: it will neither close the socket nor call its protocol.
    Nothing has been written to it.
    """
    sock: socket.socket = transport.socket
    transport.stopReading()
    transport.connected = 0
    transport.disconnected = 1
    del transport.socket, transport.protocol, transport.fileno
    # Whoever has just connected and is closed by the peer at once is readable and
    # writable: the reactor, in the middle of telling it so, calls both.
    transport.doRead = transport.doWrite = _nothing
    return sock


def _nothing() -> None:
    """
    What a transport without its socket does.
    """
