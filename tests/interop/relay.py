# SPDX-License-Identifier: MIT
"""
Relays between a client and a server that see what they say.

TLS hides the bytes, so the relay ends it on both sides with a key of its own. Client
and server must trust that key on first use. The classic protocol hides nothing from a
relay: it passes bytes on, and neither side sees that it is there.
"""

from __future__ import annotations

import select
import socket
import threading
from abc import abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

from OpenSSL import SSL

from nodecomm.identity.keys import KeyPair
from nodecomm.transport.context import client_context, server_context
from tests.recorded import Record

_R = TypeVar("_R", bound="_Relay")

#: The most plaintext in a TLS record.
_RECORD = 16384

#: Seconds after which a silent connection is given up.
_SILENCE = 60.0

#: Bytes that are passed on at once where there are no records.
_PIECE = 65536


class _Relay:
    """
    Listens on a port of its own and passes one connection on after the other.
    """

    def __init__(self, host: str, port: int, address: str) -> None:
        self._server = (host, port)
        self.connections: list[list[Record]] = []
        self.tls = ""
        self._socket = socket.create_server((address, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self: _R) -> _R:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A thread in accept() is not woken by close() alone.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(_SILENCE)
        self._socket.close()

    def _serve(self) -> None:
        """
        Accept one connection after the other until the socket is shut.
        """
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return
            passed: list[Record] = []
            self.connections.append(passed)
            with accepted, socket.create_connection(self._server) as connected:
                self._pass_on(accepted, connected, passed)

    @abstractmethod
    def _pass_on(
        self, accepted: socket.socket, connected: socket.socket, passed: list[Record]
    ) -> None:
        """
        Pass on what a client and a server say until one of them closes.
        """


class Relay(_Relay):
    """
    Passes TLS connections on, record for record.

    Args:
        host: The server's address.
        port: The server's port.

    Attributes:
        port: Where to connect instead.
        connections: What passed, a list of records for each connection.
        tls: The version of TLS towards the last client.
        key: The relay's own, towards both.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, "127.0.0.1")
        self.key = KeyPair.generate()
        self._towards_client = server_context(self.key)
        self._towards_server = client_context(self.key)

    def _pass_on(
        self, accepted: socket.socket, connected: socket.socket, passed: list[Record]
    ) -> None:
        server = SSL.Connection(self._towards_server, connected)
        server.set_connect_state()
        client = SSL.Connection(self._towards_client, accepted)
        client.set_accept_state()
        for side in (server, client):
            side.setblocking(True)
            side.do_handshake()
            side.setblocking(False)
        self.tls = client.get_protocol_version_name()
        sides = {"client": (client, server), "server": (server, client)}
        while True:
            ready, _, _ = select.select([accepted, connected], [], [], _SILENCE)
            if not ready:
                return
            for sender, (source, target) in sides.items():
                while True:
                    # One call never returns bytes of two records.
                    try:
                        data = source.recv(_RECORD)
                    except SSL.WantReadError:
                        break
                    except (SSL.ZeroReturnError, SSL.SysCallError):
                        passed.append(Record(sender, b""))
                        target.shutdown()
                        return
                    passed.append(Record(sender, data))
                    _send(target, data)


class PlainRelay(_Relay):
    """
    Passes bytes on as they come, for the classic protocol.

    Args:
        host: The server's address.
        port: The server's port.
        address: Where to listen. The real client never takes 127.0.0.1 for a server
            that it knows.

    Attributes:
        port: Where to connect instead.
        connections: What passed, a list of pieces for each connection.
        tls: Empty.
    """

    def __init__(self, host: str, port: int, *, address: str = "127.0.0.2") -> None:
        super().__init__(host, port, address)

    def _pass_on(
        self, accepted: socket.socket, connected: socket.socket, passed: list[Record]
    ) -> None:
        sides = {"client": (accepted, connected), "server": (connected, accepted)}
        while True:
            ready, _, _ = select.select([accepted, connected], [], [], _SILENCE)
            if not ready:
                return
            for sender, (source, target) in sides.items():
                if source not in ready:
                    continue
                try:
                    data = source.recv(_PIECE)
                except ConnectionResetError:
                    data = b""
                passed.append(Record(sender, data))
                if not data:
                    return
                with suppress(ConnectionError):
                    target.sendall(data)


def _send(target: SSL.Connection, data: bytes) -> None:
    """
    Send *data* as one record.
    """
    while True:
        try:
            sent = target.send(data)
        except (SSL.WantWriteError, SSL.WantReadError):
            select.select([], [target], [], _SILENCE)
            continue
        # OpenSSL writes whole records or none.
        assert sent == len(data)
        return
