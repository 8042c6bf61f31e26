# SPDX-License-Identifier: MIT
"""
Proofs of the classic dialog.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given, settings
from hypothesis.strategies import binary, integers
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.identity.keys import KeyPair, PublicKey, UnreadableKey
from nodecomm.identity.proof import (
    block_size,
    digest,
    encrypt_to,
    new_challenge,
    open_with,
    substitute_for,
)
from nodecomm.wire.classic import KEY_SIZE, NONCE_SIZE, parse_mpi
from tests.identity.sample import key, pair

NONCE = bytes.fromhex("0000002100") + b"\xce" * 32
SUBSTITUTE = b"?" * NONCE_SIZE


class Counted:
    """
    A private key that counts what is done with it.
    """

    def __init__(self, private: rsa.RSAPrivateKey) -> None:
        self._private = private
        self.calls: list[bytes] = []
        self.clear = b""

    def public_key(self) -> rsa.RSAPublicKey:
        return self._private.public_key()

    def decrypt(self, data: bytes, scheme: padding.PKCS1v15) -> bytes:
        self.calls.append(data)
        self.clear = self._private.decrypt(data, scheme)
        return self.clear


class Raising(Counted):
    """
    A private key that raises for wrong padding, as older releases of OpenSSL do.
    """

    def decrypt(self, data: bytes, scheme: padding.PKCS1v15) -> bytes:
        self.calls.append(data)
        raise ValueError("Decryption failed")


def source_of(drawn: bytes) -> Callable[[int], bytes]:
    """
    A source of random bytes that gives these.
    """
    return lambda size: drawn[:size]


def counted(kind: type[Counted] = Counted) -> tuple[KeyPair, Counted]:
    """
    Pair 0 with a private key that counts.
    """
    private = kind(pair().private)
    wrapped: Any = private
    return KeyPair(wrapped), private


def raw(block: bytes) -> bytes:
    """
    Encrypt a whole block, padded in whatever way, to pair 0.
    """
    number = pow(int.from_bytes(block, "big"), key().exponent, key().modulus)
    return number.to_bytes(block_size(key()), "big")


def padded(clear: bytes, start: bytes = b"\0\2", filling: bytes = b"\xaa") -> bytes:
    """
    A block with the padding of PKCS#1 v1.5, or something like it.
    """
    return start + filling * (block_size(key()) - 3 - len(clear)) + b"\0" + clear


def wrong_ciphertexts() -> Iterator[tuple[str, bytes]]:
    """
    What a peer may send instead of a challenge, and what is wrong with it.
    """
    right = encrypt_to(key(), NONCE)
    width = len(right)
    for position in (0, 1, width // 2, width - 1):
        changed = bytearray(right)
        changed[position] ^= 1
        yield f"byte {position} changed", bytes(changed)
    yield "zeros", bytes(width)
    yield "one", bytes(width - 1) + b"\1"
    yield "as large as the modulus", key().modulus.to_bytes(width, "big")
    yield "as large as can be", b"\xff" * width
    yield "too short", right[1:]
    yield "too long", b"\0" + right
    yield (
        "too long by a multiple of the modulus",
        (int.from_bytes(right, "big") + (key().modulus << 8)).to_bytes(
            width + 1, "big"
        ),
    )
    yield "empty", b""
    yield "endless", right * 30
    yield "another key", encrypt_to(key(1), NONCE)
    for size in (0, 1, KEY_SIZE, NONCE_SIZE - 1, NONCE_SIZE + 1, width - 11):
        yield f"{size} bytes", encrypt_to(key(), b"x" * size)
    yield "no padding", raw(NONCE.rjust(width, b"\0"))
    yield "padding of a signature", raw(padded(NONCE, b"\0\1", b"\xff"))
    yield "short padding", raw(b"\0\2abc\0" + bytes(width - 6))
    yield "no end of the padding", raw(b"\0\2" + b"\xaa" * (width - 2))
    yield "wrong first byte", raw(padded(NONCE, b"\1\2"))


class ChallengeTests(SynchronousTestCase):
    """
    Challenges and their answers.
    """

    def test_challenges(self) -> None:
        """
        A challenge has 37 bytes and its top bit set, whatever is drawn.
        """
        for drawn, first in ((bytes(32), 0x80), (b"\xff" * 32, 0xFF), (b"a" * 32, 225)):
            challenge = new_challenge(source_of(drawn))
            number = parse_mpi(challenge, "challenge")

            self.assertEqual(NONCE_SIZE, len(challenge))
            self.assertEqual(256, number.bit_length())
            self.assertEqual(first, challenge[5])
            self.assertEqual(drawn[1:], challenge[6:])

    def test_new_each_time(self) -> None:
        """
        No two challenges are the same.
        """
        self.assertEqual(20, len({new_challenge() for _ in range(20)}))

    def test_digest(self) -> None:
        """
        All bytes of the challenge are hashed, those of its length too.
        """
        self.assertEqual("8b86f47fdc4877d122f88ef001d9fa0a", digest(b"\0\0\0!").hex())
        self.assertEqual(
            hashlib.md5(NONCE, usedforsecurity=False).digest(), digest(NONCE)
        )


class OpenTests(SynchronousTestCase):
    """
    Encrypting to a key, and opening with it.
    """

    def test_there_and_back(self) -> None:
        """
        Whoever has the key reads what was encrypted with it.
        """
        for number in (0, 1):
            data = encrypt_to(key(number), NONCE)

            self.assertEqual(block_size(key(number)), len(data))
            self.assertEqual(NONCE, open_with(pair(number), data, 37, SUBSTITUTE))

    def test_small_exponent(self) -> None:
        """
        A key with the exponent 3 is used as any other.
        """
        own = KeyPair(rsa.generate_private_key(3, 1024))
        data = encrypt_to(own.public, NONCE)

        self.assertEqual(NONCE, open_with(own, data, 37, SUBSTITUTE))

    def test_never_the_same(self) -> None:
        """
        The same text is encrypted differently each time.
        """
        self.assertNotEqual(encrypt_to(key(), NONCE), encrypt_to(key(), NONCE))

    def test_wrong_ciphertexts(self) -> None:
        """
        Whatever is wrong, the substitute comes back, or random bytes of the library
        that happen to have its size; and the private key was used exactly once, on a
        number that it can decrypt.
        """
        for kind in (Counted, Raising):
            for what, data in wrong_ciphertexts():
                own, private = counted(kind)
                opened = open_with(own, data, NONCE_SIZE, SUBSTITUTE)

                self.assertNotEqual(NONCE, opened, what)
                self.assertEqual(NONCE_SIZE, len(opened), what)
                self.assertIn(opened, (SUBSTITUTE, private.clear), what)
                self.assertEqual(1, len(private.calls), what)
                self.assertEqual(block_size(key()), len(private.calls[0]), what)
                self.assertLess(
                    int.from_bytes(private.calls[0], "big"), key().modulus, what
                )

    def test_right_ciphertext(self) -> None:
        """
        The right one takes the same way: the private key is used once.
        """
        own, private = counted()
        data = encrypt_to(key(), NONCE)

        self.assertEqual(NONCE, open_with(own, data, NONCE_SIZE, SUBSTITUTE))
        self.assertEqual([data], private.calls)

    def test_library_does_not_raise(self) -> None:
        """
        Why the size must be checked: the library decrypts damaged ciphertexts to
        bytes that look like any others.
        """
        right = encrypt_to(key(), NONCE)
        damaged = right[:-1] + bytes([right[-1] ^ 1])
        try:
            clear = pair().private.decrypt(damaged, padding.PKCS1v15())
        except ValueError:
            self.skipTest("this OpenSSL still raises for wrong padding")

        self.assertNotEqual(NONCE, clear)
        # For the same ciphertext they are even the same.
        self.assertEqual(clear, pair().private.decrypt(damaged, padding.PKCS1v15()))

    def test_random_bytes_of_the_right_size(self) -> None:
        """
        Random bytes that the library gives for a damaged ciphertext are as good as the
        substitute: they have its size, and nobody knows them.
        """
        right = encrypt_to(key(), NONCE)
        sizes = set()
        for number in range(40):
            damaged = (int.from_bytes(right, "big") ^ (number + 1)).to_bytes(128, "big")
            opened = open_with(pair(), damaged, NONCE_SIZE, SUBSTITUTE)
            self.assertNotEqual(NONCE, opened)
            sizes.add(len(opened))
        self.assertEqual({NONCE_SIZE}, sizes)

    def test_asked_twice(self) -> None:
        """
        The substitute belongs to the key and the ciphertext: whoever asks again learns
        nothing, and neither does another key's owner.
        """
        data = encrypt_to(key(1), NONCE)
        first = substitute_for(pair(), data, NONCE_SIZE)
        again = KeyPair.load(pair().to_pem())

        self.assertEqual(NONCE_SIZE, len(first))
        self.assertEqual(first, substitute_for(again, data, NONCE_SIZE))
        self.assertNotEqual(first, substitute_for(pair(1), data, NONCE_SIZE))
        self.assertNotEqual(first, substitute_for(pair(), data + b"x", NONCE_SIZE))

    @given(binary(max_size=200), integers(1, 60))
    @settings(max_examples=50, deadline=None)
    def test_garbage(self, data: bytes, size: int) -> None:
        """
        Any bytes give bytes of the size asked for.
        """
        self.assertEqual(size, len(open_with(pair(), data, size, b"?" * size)))

    def test_too_much_to_encrypt(self) -> None:
        """
        What does not fit, and numbers that are no key, are refused with a reason.
        """
        cases: list[Callable[[], bytes]] = [
            lambda: encrypt_to(key(), b"x" * (block_size(key()) - 10)),
            lambda: encrypt_to(PublicKey(3, 65537), b"x"),
            lambda: encrypt_to(PublicKey(key().modulus, 2), b"x"),
        ]
        for case in cases:
            self.assertRaises(UnreadableKey, case)
