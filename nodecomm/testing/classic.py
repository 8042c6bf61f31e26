# SPDX-License-Identifier: MIT
"""
A node of the classic protocol in memory, step by step.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from nodecomm.identity.keys import PublicKey
from nodecomm.identity.proof import digest, encrypt_to, new_challenge, open_with
from nodecomm.testing.client import RequestingClient, Wire
from nodecomm.wire.cipher import SessionCipher
from nodecomm.wire.classic import (
    CLEAR,
    ENCRYPTED,
    KEY_SIZE,
    NONCE_SIZE,
    Challenge,
    Claim,
)
from nodecomm.wire.classic_dialog import ClassicClientDialog, Countered
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import ListingParser, StatReply, is_error, parse_stat_reply
from nodecomm.wire.sealed import seal_digest, seal_get, seal_opendir, seal_stat

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IAddress, IProtocol
    from twisted.internet.task import Clock

    from nodecomm.identity.keys import KeyPair

__all__ = ["MemoryClassicClient"]


class MemoryClassicClient(RequestingClient):
    """
    The other end of a server's classic connection.

    Args:
        protocol: What the server's factory built.
        address: Where the client seems to be.
        clock: The server's clock.
        key_pair: The client's key.
        user: The name it gives.
        now: Its own civil time.

    Attributes:
        closed: Whether the server has ended the connection.
        server: The server's public key, once it is known.
        cipher: The session's cipher, once it is agreed.
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
        self.key_pair = key_pair
        self.user = user
        self.now = now
        self.closed = False
        self.server: PublicKey | None = None
        self.cipher: SessionCipher | None = None
        self._output = bytearray()
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
        moved = False
        if self._output and self.wire.reading and not self.closed:
            data = bytes(self._output)
            self._output.clear()
            self.protocol.dataReceived(data)
            moved = True
        if receive:
            data = self.wire.take()
            self._input += data
            moved = moved or bool(data)
        if self.wire.disconnecting and not moved:
            self._end()
        return moved

    def _end(self) -> None:
        if not self.closed:
            self.closed = self.wire.lost = True
            why = ConnectionLost() if self.wire.aborted else ConnectionDone()
            self.protocol.connectionLost(
                Failure(why)  # type: ignore[no-untyped-call]
            )

    def send(self, data: bytes) -> None:
        """
        Send *data*, and let everything happen that follows.
        """
        self._output += data
        self.pump()

    def hang_up(self) -> None:
        """
        End the connection from this side.
        """
        self.wire.disconnecting = True
        self._end()

    # The dialog.

    def opening(
        self, server: PublicKey | None = None
    ) -> tuple[ClassicClientDialog, bytes]:
        """
        A dialog of this client, and the bytes that open it.

        Args:
            server: The server's key, if it is known.
        """
        clear = new_challenge()
        form, data = CLEAR, clear
        if server is not None:
            form, data = ENCRYPTED, encrypt_to(server, clear)
        own = self.key_pair.public
        dialog = ClassicClientDialog(
            Claim(b"127.0.0.1", b"localhost", self.user),
            Challenge(form, data, NONCE_SIZE),
            own.modulus,
            own.exponent,
            digest(clear),
        )
        return dialog, dialog.opening()

    def identify(self, server: PublicKey | None = None) -> bool:
        """
        Go through the dialog.

        Args:
            server: The server's key; None: it is asked for it.

        Returns:
            Whether the server goes on. The last message has no answer, so one that
            it does not like shows in what follows only.
        """
        dialog, opening = self.opening(server)
        self.send(opening)
        found = dialog.receive_data(self.received())
        if not found or not isinstance(found[-1], Countered):
            return False
        self.server = server
        if found[-1].own is not None:
            self.server = PublicKey(*found[-1].own)
        if self.server is None:
            return False
        clear = open_with(self.key_pair, found[-1].data, NONCE_SIZE, b"")
        key = os.urandom(KEY_SIZE)
        self.cipher = SessionCipher(key)
        self.send(dialog.answer(digest(clear), encrypt_to(self.server, key)))
        return not self.closed

    # Encrypted requests.

    @property
    def _session(self) -> SessionCipher:
        if self.cipher is None:
            raise RuntimeError("no session key is agreed yet")
        return self.cipher

    def sealed_stat(self, path: bytes) -> StatReply | None:
        """
        SSYNCH; None: refused, or the connection was closed.
        """
        found = self.request(seal_stat(int(self.now()), path, self._session))
        if len(found) != 2 or is_error(found[0]):
            return None
        return parse_stat_reply(found[0], found[1])

    def sealed_opendir(self, path: bytes) -> list[bytes] | None:
        """
        SOPENDIR; None: refused, or the connection was closed.
        """
        self.send(encode_transaction(seal_opendir(path, self._session)))
        self._buffer.feed(self.received())
        parser = ListingParser()
        names: list[bytes] = []
        while (transaction := self._buffer.next_transaction()) is not None:
            if is_error(transaction.payload):
                return None
            clear = self._session.decrypt(transaction.payload)
            if is_error(clear):
                return None
            names += parser.feed(clear, transaction.more)
        return names if parser.finished else None

    def sealed_differs(self, path: bytes, wanted: bytes) -> bytes | None:
        """
        SMD5: the server's word for the comparison; None: the connection was closed.
        """
        found = self.request(seal_digest(path, wanted, self._session))
        return found[0] if found else None

    def sealed_get(self, path: bytes) -> bytes | None:
        """
        SGET: the whole content; None: refused, or the connection was closed.
        """
        self.send(encode_transaction(seal_get(path, self._session)))
        self._buffer.feed(self.received())
        parts = []
        while (transaction := self._buffer.next_transaction()) is not None:
            if is_error(transaction.payload) and len(transaction.payload) % 8:
                return None
            parts.append(transaction.payload)
            if not transaction.more:
                return b"".join(self._session.decrypt_joined(parts))
        return None
