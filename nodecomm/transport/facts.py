# SPDX-License-Identifier: MIT
"""
What can be asked about a connection on a socket.
"""

from __future__ import annotations

import socket
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionLost

from nodecomm.transport.context import certificate_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from OpenSSL import SSL
    from twisted.internet.interfaces import IAddress


class Stage(Enum):
    """
    The life of a connection.
    """

    WAITING = "no handshake yet: the gate is full"
    HANDSHAKING = "the handshake is in progress"
    OPEN = "application data flows"
    DRAINING = "all is sent; what still arrives is dropped until the peer ends"
    ENDING = "the socket will be closed in the next turn of the reactor"
    LOST = "the socket is gone"


class TLSFacts:
    """
    What TLS has agreed on.
    """

    stage: Stage
    _connection: SSL.Connection | None

    @property
    def tls_version(self) -> str:
        """
        `TLSv1.2` or `TLSv1.3`; empty before the handshake and after the end.
        """
        if self._connection is None or self.stage is not Stage.OPEN:
            return ""
        return self._connection.get_protocol_version_name()

    @property
    def cipher(self) -> str:
        """
        The negotiated suite; empty before the handshake and after the end.
        """
        if self._connection is None:
            return ""
        return self._connection.get_cipher_name() or ""

    def peer_certificate_key(self) -> PublicKeyTypes | None:
        """
        The key in the peer's certificate, or None.
        """
        return certificate_key(self._connection)


class SocketFacts:
    """
    Addresses and options of a socket.
    """

    _socket: socket.socket | None
    _peer: Any
    _host: Any

    def getPeer(self) -> IPv4Address | IPv6Address:
        """
        The peer's address; known after the end, too.
        """
        return cast("IPv4Address | IPv6Address", self._peer)

    def getHost(self) -> IPv4Address | IPv6Address:
        """
        Our own address, as the peer sees it. Ask before the end.
        """
        if self._host is None:
            sock = self._require_socket()
            self._host = address_of(sock.family, sock.getsockname())
        return cast("IPv4Address | IPv6Address", self._host)

    def getTcpNoDelay(self) -> bool:
        """
        Whether small writes leave at once.
        """
        return self._option(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        Have small writes leave at once.
        """
        self._set_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)

    def getTcpKeepAlive(self) -> bool:
        """
        Whether the kernel asks a silent peer for a sign of life.
        """
        return self._option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """
        Have the kernel ask a silent peer for a sign of life.
        """
        self._set_option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    def _require_socket(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionLost("the connection has ended")
        return self._socket

    def _option(self, level: int, name: int) -> bool:
        try:
            return bool(self._require_socket().getsockopt(level, name))
        except OSError:
            # A UNIX socket has no TCP options.
            return False

    def _set_option(self, level: int, name: int, enabled: bool) -> None:
        sock = self._socket
        if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(level, name, int(enabled))


def address_of(family: int, raw: Any) -> IAddress:
    if family == socket.AF_INET:
        return IPv4Address("TCP", *raw[:2])
    if family == socket.AF_INET6:
        return IPv6Address("TCP", *raw)
    return UNIXAddress(raw or None)
