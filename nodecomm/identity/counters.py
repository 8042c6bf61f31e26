# SPDX-License-Identifier: MIT
"""
The counter-challenges of one server, which it knows again when they come back.

In the classic dialog both ends do the same with a challenge: decrypt it, and send its
digest. A server does so before it knows who asks. So a stranger could connect twice,
show the server's own public key on the first connection, and on the second one submit
the counter-challenge that the first one got: the digest that he needs is what the
server answers. Real servers let him in like that, as themselves, without any private
key; a server that trusts its own key, as one does that is its own node, then serves
him what itself may have.

Here a counter-challenge is half random, and the other half is made of the first with
a secret that follows from the server's key. Nobody else can tell it from a random
number; every process that has the key knows it again, and answers it as something that
was not encrypted for this server.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable

from nodecomm.identity.keys import KeyPair
from nodecomm.identity.proof import open_with, substitute_for
from nodecomm.wire.classic import NONCE_BITS, NONCE_SIZE, encode_mpi

__all__ = ["Counters"]

#: Bytes of either half.
_HALF = NONCE_BITS // 8 // 2

#: What the secret is made for.
_PURPOSE = b"nodecomm classic counter-challenge"


class Counters:
    """
    Makes counter-challenges, and opens challenges that are none of them.

    Args:
        pair: The server's key.
    """

    __slots__ = ("_pair", "_secret")

    def __init__(self, pair: KeyPair) -> None:
        exponent = pair.private.private_numbers().d
        data = exponent.to_bytes((exponent.bit_length() + 7) // 8, "big")
        self._pair = pair
        self._secret = hmac.digest(_PURPOSE, data, "sha256")

    def new(self, random: Callable[[int], bytes] = os.urandom) -> bytes:
        """
        A counter-challenge in clear: a number of 256 bits, its top bit set, as an mpi.

        Args:
            random: Where random bytes come from.
        """
        first = bytearray(random(_HALF))
        first[0] |= 0x80
        return encode_mpi(int.from_bytes(first + self._second(first), "big"))

    def made(self, clear: bytes) -> bool:
        """
        Whether *clear* is one that a server with this key has made.
        """
        first, second = clear[-2 * _HALF : -_HALF], clear[-_HALF:]
        return hmac.compare_digest(self._second(first), second)

    def open(self, data: bytes) -> bytes:
        """
        What the challenge *data* is in clear; as many bytes that nobody knows, always
        the same ones for the same data, when it was not encrypted for this server, or
        by it. Blocks.

        Args:
            data: What the peer encrypted, of any length.
        """
        substitute = substitute_for(self._pair, data, NONCE_SIZE)
        clear = open_with(self._pair, data, NONCE_SIZE, substitute)
        return (clear, substitute)[self.made(clear)]

    def _second(self, first: bytes | bytearray) -> bytes:
        return hmac.digest(self._secret, first, hashlib.sha256)[:_HALF]
