# SPDX-License-Identifier: MIT
"""
Somebody without any private key connects twice, and has the server answer its own
challenge. The real server takes him for itself; nodecomm does not.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from pathlib import Path

from nodecomm.identity.keys import PublicKey
from nodecomm.identity.proof import digest, encrypt_to, new_challenge
from nodecomm.wire.classic import CLEAR, ENCRYPTED, NONCE_SIZE, Challenge, Claim
from nodecomm.wire.classic_dialog import ClassicClientDialog, Countered
from nodecomm.wire.commands import encode_stat
from nodecomm.wire.framing import TransactionBuffer, encode_transaction
from tests.interop.harness import Server

#: Seconds until a server that says nothing is given up.
PATIENCE = 30

CLAIM = Claim(b"127.0.0.1", b"localhost", b"root")


def dialog(key: PublicKey, challenge: Challenge, nonce: bytes) -> ClassicClientDialog:
    """The dialog of somebody who shows *key*, which is not his."""
    return ClassicClientDialog(
        CLAIM, challenge, key.modulus, key.exponent, digest(nonce)
    )


def counter_challenge(
    wire: socket.socket, key: PublicKey
) -> tuple[bytes, ClassicClientDialog]:
    """Show *key*: what the server wants to have decrypted, and the dialog."""
    nonce = new_challenge()
    talk = dialog(key, Challenge(CLEAR, nonce, len(nonce)), nonce)
    wire.sendall(talk.opening())
    while True:
        data = wire.recv(65536)
        assert data, "the server has closed"
        for event in talk.receive_data(data):
            if isinstance(event, Countered):
                return event.data, talk


def frames(wire: socket.socket, count: int) -> list[bytes]:
    """The next messages; fewer if the server closes."""
    buffer = TransactionBuffer()
    found: list[bytes] = []
    while len(found) < count:
        try:
            data = wire.recv(65536)
        except ConnectionResetError:
            break
        if not data:
            break
        buffer.feed(data)
        while (part := buffer.next_transaction()) is not None:
            found.append(part.payload)
    return found


def dial(server: Server) -> closing[socket.socket]:
    """A connection."""
    return closing(socket.create_connection(("127.0.0.1", server.port), PATIENCE))


def test_a_challenge_of_its_own(classic_server: Server) -> None:
    """
    What the server was asked to answer on a second connection opens the first one as
    the server itself at the real server; nodecomm answers something else, and closes.
    """
    server = classic_server
    key = PublicKey.from_pem((Path(server.ppkeys) / "localhost.pub").read_bytes())
    with dial(server) as first, dial(server) as second:
        counter, talk = counter_challenge(first, key)
        asking = dialog(key, Challenge(ENCRYPTED, counter, NONCE_SIZE), b"")
        second.sendall(asking.opening())
        accepted, answer = frames(second, 2)[:2]
        assert accepted.startswith(b"OK: ")
        assert len(answer) == 16

        session_key = encrypt_to(key, os.urandom(16))
        first.sendall(
            talk.answer(answer, session_key)
            + encode_transaction(encode_stat(int(time.time()), b"files"))
        )
        said = frames(first, 1)

    if server.kind == "cf-serverd":
        assert said[0].startswith(b"OK: ")
    else:
        assert not any(text.startswith(b"OK: ") for text in said)
