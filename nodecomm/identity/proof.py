# SPDX-License-Identifier: MIT
"""
Proofs of the classic dialog: who can decrypt a challenge owns the key.

RSA with PKCS#1 v1.5 padding, because that is what the real programs do. With this
padding, whoever learns which ciphertexts decrypt to something well formed can decrypt
what was recorded. So `open_with` has one outcome: some bytes of the size asked for.

All of it blocks; call it in a thread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from nodecomm.identity.keys import KeyPair, PublicKey, UnreadableKey
from nodecomm.wire.classic import NONCE_BITS, encode_mpi

__all__ = [
    "block_size",
    "digest",
    "encrypt_to",
    "new_challenge",
    "open_with",
    "substitute_for",
]


def new_challenge(random: Callable[[int], bytes] = os.urandom) -> bytes:
    """
    A challenge in clear: a random number of 256 bits, its top bit set, as an mpi.

    Args:
        random: Where random bytes come from.
    """
    number = int.from_bytes(random(NONCE_BITS // 8), "big")
    return encode_mpi(number | 1 << (NONCE_BITS - 1))


def digest(clear: bytes) -> bytes:
    """
    What answers the challenge *clear*: 16 bytes.
    """
    # Source: CFEngine 3.21, MD5 of all its bytes, the mpi's length included. What is
    # hashed is random and secret, so nobody can look for a collision.
    return hashlib.md5(clear, usedforsecurity=False).digest()


def block_size(key: PublicKey) -> int:
    """
    Bytes of what is encrypted with *key*. A ciphertext of another size was made with
    another key; that is no secret and may be refused before `open_with`.
    """
    return (key.bits + 7) // 8


def encrypt_to(key: PublicKey, clear: bytes) -> bytes:
    """
    Encrypt a challenge or a session key, so that only the owner of *key* reads it.

    Args:
        key: A key that passed `nodecomm.identity.keys.check_sane`.
        clear: At most 11 bytes less than `block_size`.

    Raises:
        UnreadableKey: Nothing can be encrypted with these numbers.
    """
    try:
        numbers = rsa.RSAPublicNumbers(key.exponent, key.modulus)
        return numbers.public_key().encrypt(clear, padding.PKCS1v15())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnreadableKey(str(error)) from error


def open_with(pair: KeyPair, data: bytes, size: int, substitute: bytes) -> bytes:
    """
    Decrypt *data*, or return *substitute* when that gives anything but *size* bytes.

    Exactly one private operation is done in any case, nothing is raised, and the
    caller goes on with what it got: an answer made of random bytes looks like one
    made of the right ones.

    Args:
        pair: The own key.
        data: What the peer encrypted, of any length.
        size: Bytes that it must decrypt to.
        substitute: As many bytes that nobody knows, made before the call: those of
            `substitute_for`, or random ones where nobody can ask twice.
    """
    modulus = pair.public.modulus
    width = block_size(pair.public)
    number = int.from_bytes(data, "big")
    # A number that the library would not even try costs as much as any other.
    fits = len(data) == width and number < modulus
    try:
        # Since OpenSSL 3.2 wrong padding gives random bytes of a random length, and
        # before that an error.
        clear = pair.private.decrypt(
            (number % modulus).to_bytes(width, "big"), padding.PKCS1v15()
        )
    except ValueError:
        clear = b""
    return (substitute, clear)[fits & (len(clear) == size)]


def substitute_for(pair: KeyPair, data: bytes, size: int) -> bytes:
    """
    What to give to `open_with` for the same *data*: bytes that only the owner of the
    key can tell from random ones, and the same ones whenever and wherever they are
    asked for.

    Random bytes would not do for an answer: whoever sends a ciphertext twice, and gets
    the same answer twice, knows that it was well formed.

    Args:
        pair: The own key.
        data: What the peer encrypted.
        size: How many bytes.
    """
    return hashlib.shake_256(_secret(pair) + data).digest(size)


@lru_cache(maxsize=4)
def _secret(pair: KeyPair) -> bytes:
    """
    A secret that belongs to the key and says nothing about it.
    """
    exponent = pair.private.private_numbers().d
    width = block_size(pair.public)
    return hashlib.sha256(b"substitute" + exponent.to_bytes(width, "big")).digest()
