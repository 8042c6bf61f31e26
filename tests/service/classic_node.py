# SPDX-License-Identifier: MIT
"""
A node that speaks the classic protocol and blocks, for tests that run the server as a
process of its own.
"""

from __future__ import annotations

import os
import socket
import time

from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.identity.proof import digest, encrypt_to, new_challenge, open_with
from nodecomm.testing import key_pair
from nodecomm.wire.cipher import SessionCipher
from nodecomm.wire.classic import CLEAR, NONCE_SIZE, Challenge, Claim
from nodecomm.wire.classic_dialog import (
    ClassicClientDialog,
    Countered,
)
from nodecomm.wire.commands import encode_get, encode_stat
from nodecomm.wire.framing import TransactionBuffer, encode_transaction
from nodecomm.wire.sealed import seal_get, seal_stat
from tests.service.node import PATIENCE

__all__ = ["ClassicNode"]

_KEY = bytes(range(16))


class ClassicNode:
    """
    A connection to a server, whose key it believes.
    """

    def __init__(self, port: int, key: KeyPair | None = None) -> None:
        pair = key or key_pair(1)
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.cipher = SessionCipher(_KEY)
        self._buffer = TransactionBuffer()
        try:
            self._introduce(pair)
        except BaseException:
            self.close()
            raise

    def _introduce(self, pair: KeyPair) -> None:
        nonce = new_challenge()
        dialog = ClassicClientDialog(
            Claim(b"127.0.0.1", b"localhost", b"root"),
            Challenge(CLEAR, nonce, len(nonce)),
            pair.public.modulus,
            pair.public.exponent,
            digest(nonce),
        )
        self.socket.sendall(dialog.opening())
        while True:
            events = dialog.receive_data(self._more())
            if events and isinstance(events[-1], Countered):
                counter = events[-1]
                break
        assert counter.own is not None
        clear = open_with(pair, counter.data, NONCE_SIZE, os.urandom(NONCE_SIZE))
        server = PublicKey(*counter.own)
        self.socket.sendall(dialog.answer(digest(clear), encrypt_to(server, _KEY)))

    def _more(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError("the server has closed")
        return data

    def request(self, payload: bytes) -> bytes:
        """Send a transaction and wait for the answer's first one."""
        self.socket.sendall(encode_transaction(payload))
        return self.receive()

    def receive(self) -> bytes:
        """The next transaction."""
        while True:
            transaction = self._buffer.next_transaction()
            if transaction is not None:
                return transaction.payload
            self._buffer.feed(self._more())

    def stat(self, path: bytes, *, sealed: bool = False) -> bytes:
        """The first transaction of the answer to STAT."""
        now = int(time.time())
        first = self.request(
            seal_stat(now, path, self.cipher) if sealed else encode_stat(now, path)
        )
        if first.startswith(b"OK:"):
            # Where a link leads to is a transaction of its own.
            self.receive()
        return first

    def get(self, path: bytes, size: int) -> bytes:
        """A file of this size, in the clear."""
        self.socket.sendall(encode_transaction(encode_get(path)))
        data = b""
        while len(data) < size:
            data += self._more()
        return data

    def sealed_get(self, path: bytes) -> bytes:
        """
        What comes for a file of one block, encrypted: its content, or a refusal.
        """
        answer = self.request(seal_get(path, self.cipher))
        return answer if answer.startswith(b"BAD:") else self.cipher.decrypt(answer)

    def is_closed(self) -> bool:
        """Whether the server ends the connection, and says nothing more."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
