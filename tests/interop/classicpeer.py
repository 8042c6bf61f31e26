# SPDX-License-Identifier: MIT
"""
A classic peer that does what no real program does: it can stop, lie or flood at every
stage.

It has nothing in common with the server but the cryptographic library.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.asymmetric import padding

from nodecomm.identity.keys import KeyPair, PublicKey
from tests.interop.rawpeer import RawPeer, frame
from tests.recorded.opened import digest, number, sealed, unsealed

#: Bytes of a challenge in clear.
CHALLENGE = 37


def mpi(value: int) -> bytes:
    """
    A number as it travels.
    """
    size = value.bit_length() // 8 + 1
    return size.to_bytes(4, "big") + value.to_bytes(size, "big")


def new_nonce() -> bytes:
    """
    A challenge: a number of 256 bits, the top one set.
    """
    return mpi(int.from_bytes(os.urandom(32), "big") | 1 << 255)


def encrypted_to(key: PublicKey, clear: bytes) -> bytes:
    """
    RSA PKCS#1 v1.5, by the numbers: *clear* and *key* may be whatever they are.
    """
    size = (key.modulus.bit_length() + 7) // 8
    filling = bytes(1 + byte % 255 for byte in os.urandom(size - 3 - len(clear)))
    block = int.from_bytes(b"\0\2" + filling + b"\0" + clear, "big")
    return pow(block, key.exponent, key.modulus).to_bytes(size, "big")


def sauth(form: str, challenge: bytes, clear_size: int = CHALLENGE) -> bytes:
    """
    The payload of a challenge.
    """
    text = f"SAUTH {form} {len(challenge)} {clear_size} c"
    return text.encode().ljust(24, b"\0") + challenge


class ClassicPeer(RawPeer):
    """
    A connection, at the stage that the test has brought it to.

    Args:
        port: The server's port.
        key: The own key.
        server: The server's key.
        source: The local address to come from.
        receive_buffer: Bytes that the kernel may keep unread.
    """

    def __init__(
        self,
        port: int,
        key: KeyPair,
        server: PublicKey,
        *,
        source: str = "127.0.0.1",
        receive_buffer: int = 0,
    ) -> None:
        super().__init__(port, None, source=source, receive_buffer=receive_buffer)
        self.key = key
        self.server = server
        self.nonce = new_nonce()
        self.session_key = os.urandom(16)

    def __enter__(self) -> ClassicPeer:
        return self

    def opening(
        self, form: str = "y", *, user: str = "root", host: str = "localhost"
    ) -> list[bytes]:
        """
        The four payloads that a client begins with.
        """
        challenge = self.nonce
        if form == "y":
            challenge = encrypted_to(self.server, self.nonce)
        public = self.key.public
        return [
            f"CAUTH 127.0.0.1 {host} {user} 0".encode(),
            sauth(form, challenge),
            mpi(public.modulus),
            mpi(public.exponent),
        ]

    def say(self, *payloads: bytes) -> ClassicPeer:
        """
        Send transactions, all with one call.
        """
        self.send(b"".join(map(frame, payloads)))
        return self

    def welcomed(self, form: str = "y") -> bytes:
        """
        Read what the server says to an opening; the counter-challenge, opened.
        """
        text = self.transaction()
        assert text.startswith(b"OK: "), text
        assert self.transaction() == digest(self.nonce)
        counter = self.key.private.decrypt(self.transaction(), padding.PKCS1v15())
        assert len(counter) == CHALLENGE
        if form == "n":
            theirs = number(self.transaction()), number(self.transaction())
            assert theirs == (self.server.modulus, self.server.exponent)
        return counter

    def closing(self, counter: bytes) -> list[bytes]:
        """
        The two payloads that end the dialog.
        """
        return [digest(counter), encrypted_to(self.server, self.session_key)]

    def dialog(self, *_: bytes, form: str = "y", user: str = "root") -> ClassicPeer:
        """
        Say who we are, and choose a session key.
        """
        self.say(*self.opening(form, user=user))
        return self.say(*self.closing(self.welcomed(form)))

    def encrypted(self, word: str, clear: bytes, block: str = "") -> bytes:
        """
        The payload of an encrypted command.
        """
        data = sealed(self.session_key, clear)
        return f"{word} {len(data)}{block}\0".encode().ljust(16, b"x") + data

    def opened(self, payload: bytes) -> bytes:
        """
        What is in an encrypted answer.
        """
        return unsealed(self.session_key, payload)

    def frames(self) -> list[tuple[str, bytes]]:
        """
        Status and payload of each frame up to the last of an answer.
        """
        found = []
        while True:
            head = self.exactly(8)
            found.append((head[:1].decode(), self.exactly(int(head[1:].strip(b"\0")))))
            if found[-1][0] == "t":
                return found
