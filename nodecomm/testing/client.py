# SPDX-License-Identifier: MIT
"""
A node in memory: TLS, dialog and requests against a server's protocol, step by step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from nodecomm.testing.transports import MemoryTransport
from nodecomm.transport.context import client_context
from nodecomm.wire.commands import (
    encode_digest,
    encode_get,
    encode_opendir,
    encode_stat,
)
from nodecomm.wire.dialog import ClientDialog
from nodecomm.wire.execute import encode_execute
from nodecomm.wire.framing import MAX_RECORD, TransactionBuffer, encode_transaction
from nodecomm.wire.replies import ListingParser, StatReply, is_error, parse_stat_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IAddress, IProtocol
    from twisted.internet.task import Clock

    from nodecomm.identity.keys import KeyPair

__all__ = ["MemoryClient", "RequestingClient", "Wire"]


class Wire(MemoryTransport):
    """
    The transport below the server's protocol: holds what the server wrote until it
    is taken.

    Args:
        peer: Where the connection seems to come from.
        high_water: Bytes held before the server's producer is paused.
    """

    def __init__(self, peer: IAddress, high_water: int = 65_536) -> None:
        super().__init__()
        self._peer = peer
        self._high_water = high_water
        self._written = bytearray()
        self.aborted = False
        self.lost = False

    def write(self, data: bytes) -> None:
        """From the server."""
        if self.lost:
            return
        self._written += data
        if len(self._written) > self._high_water:
            self._pause_producer()

    def take(self) -> bytes:
        """What the server wrote since the last time."""
        data = bytes(self._written)
        self._written.clear()
        self._resume_producer()
        return data

    def loseConnection(self) -> None:
        """The server wants to close."""
        self.disconnecting = True

    def abortConnection(self) -> None:
        """The server closes at once."""
        self._written.clear()
        self.disconnecting = self.aborted = True

    def getPeer(self) -> IAddress:
        """The client's address."""
        return self._peer

    def getHost(self) -> IAddress:
        """The client's address too; nothing asks for the server's."""
        return self._peer


class RequestingClient:
    """
    What the clients of all protocols ask, once the server has let them in.
    """

    now: Callable[[], float]

    def __init__(self) -> None:
        self._input = bytearray()
        self._buffer = TransactionBuffer()

    def send(self, data: bytes) -> None:
        """
        Send *data*, and let everything happen that follows.
        """
        raise NotImplementedError

    def received(self) -> bytes:
        """
        Take all plaintext received so far.
        """
        data = bytes(self._input)
        self._input.clear()
        return data

    def request(self, *payloads: bytes) -> list[bytes]:
        """
        Send each payload as a transaction, all in one record, and return the
        payloads of what came back.
        """
        self.send(b"".join(map(encode_transaction, payloads)))
        return self.transactions()

    def transactions(self) -> list[bytes]:
        """
        The payloads of the whole transactions received.
        """
        self._buffer.feed(self.received())
        found = []
        while (transaction := self._buffer.next_transaction()) is not None:
            found.append(transaction.payload)
        return found

    def stat(self, path: bytes) -> StatReply | None:
        """
        STAT; None: refused, or the connection was closed.
        """
        found = self.request(encode_stat(int(self.now()), path))
        if len(found) != 2 or is_error(found[0]):
            return None
        return parse_stat_reply(found[0], found[1])

    def opendir(self, path: bytes) -> list[bytes] | None:
        """
        OPENDIR; None: refused, or the connection was closed.
        """
        self.send(encode_transaction(encode_opendir(path)))
        parser = ListingParser()
        names: list[bytes] = []
        self._buffer.feed(self.received())
        while (transaction := self._buffer.next_transaction()) is not None:
            if is_error(transaction.payload):
                return None
            names += parser.feed(transaction.payload, transaction.more)
        return names if parser.finished else None

    def differs(self, path: bytes, digest: bytes) -> bytes | None:
        """
        MD5: the server's word for the comparison; None: the connection was closed.
        """
        found = self.request(encode_digest(path, digest))
        return found[0] if found else None

    def get(self, path: bytes, size: int) -> bytes:
        """
        GET: at most *size* bytes of what came back.
        """
        self.send(encode_transaction(encode_get(path)))
        self._buffer.feed(self.received())
        return self._buffer.take(size)

    def execute(
        self,
        defined: Sequence[bytes] = (),
        bundles: Sequence[bytes] = (),
        selected: Sequence[bytes] = (),
    ) -> list[bytes]:
        """
        EXEC: the payloads of what came back so far. `transactions` has what comes
        later.

        Args:
            defined: Classes to define.
            bundles: Bundles to run.
            selected: Classes of which the server must have one.
        """
        self.send(encode_execute(defined, bundles, selected))
        return self.transactions()


class MemoryClient(RequestingClient):
    """
    The other end of a server's connection.

    Args:
        protocol: What the server's factory built.
        address: Where the client seems to be.
        clock: The server's clock.
        key_pair: The client's key.
        user: The name it gives.

    Attributes:
        records: Every TLS record received, decrypted, in order.
        closed: Whether the server has ended the connection.
    """

    def __init__(
        self,
        protocol: IProtocol,
        address: IAddress,
        clock: Clock,
        key_pair: KeyPair,
        user: bytes = b"root",
        *,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__()
        self.wire = Wire(address)
        self.protocol = protocol
        self.clock = clock
        self.user = user
        self.now = now
        self.records: list[bytes] = []
        self.closed = False
        self.handshaken = False
        self._lost = False
        self._tls = SSL.Connection(client_context(key_pair), None)
        self._tls.set_connect_state()
        protocol.makeConnection(self.wire)  # type: ignore[arg-type]

    # Bytes.

    def pump(self) -> None:
        """
        Move bytes both ways until nothing moves any more.
        """
        while self.step():
            pass

    def step(self, receive: bool = True) -> bool:
        """
        Move what is there, once.

        Args:
            receive: False: leave what the server wrote where it is, as a peer does
                that never reads.

        Returns:
            Whether anything moved.
        """
        self.clock.advance(0)
        moved = self._send() or (self._receive() if receive else False)
        if self.wire.disconnecting and not (receive and moved):
            self._end()
        return moved

    def _send(self) -> bool:
        if not self.handshaken:
            try:
                self._tls.do_handshake()
                self.handshaken = True
            except SSL.WantReadError:
                pass
            except SSL.Error:
                self.closed = True
                return False
        if not self.wire.reading or self._lost:
            return False
        try:
            data = self._tls.bio_read(MAX_RECORD)
        except SSL.WantReadError:
            return False
        self.protocol.dataReceived(data)
        return True

    def _receive(self) -> bool:
        data = self.wire.take()
        moved = bool(data)
        while data:
            written = self._tls.bio_write(data)
            data = data[written:]
        if not self.handshaken:
            return moved
        while True:
            try:
                record = self._tls.recv(MAX_RECORD)
            except SSL.WantReadError:
                return moved
            except (SSL.ZeroReturnError, SSL.Error):
                self.closed = True
                return moved
            moved = True
            self.records.append(record)
            self._input += record

    def _end(self) -> None:
        if not self._lost:
            self._lost = self.closed = self.wire.lost = True
            why = ConnectionLost() if self.wire.aborted else ConnectionDone()
            self.protocol.connectionLost(
                Failure(why)  # type: ignore[no-untyped-call]
            )

    def send(self, data: bytes) -> None:
        """
        Send *data* as one TLS record, and let everything happen that follows.
        """
        self._tls.send(data)
        self.pump()

    def send_raw(self, data: bytes) -> None:
        """
        Send bytes below TLS.
        """
        self.protocol.dataReceived(data)
        self.pump()

    def hang_up(self) -> None:
        """
        End the connection from this side, without a TLS close.
        """
        self.wire.disconnecting = True
        self._end()

    # The dialog.

    def identify(self, newest: int = 3) -> bool:
        """
        Go through the dialog.

        Returns:
            Whether the server said welcome.
        """
        self.pump()
        dialog = ClientDialog(self.user, b"nodecomm-testing", newest)
        if not dialog.receive_data(self.received()):
            return False
        for line in dialog.lines():
            if self.closed:
                return False
            self.send(line)
        return bool(dialog.receive_data(self.received()))
