# SPDX-License-Identifier: MIT
"""
RSA keys that no library would make, with certificates for them: written down in DER,
because every library refuses to.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa

from nodecomm.identity.keys import PublicKey
from tests.identity import forgery

#: 1.2.840.113549.1.1.1 and .11: an RSA key, and SHA-256 with one.
_RSA = bytes.fromhex("06092a864886f70d010101")
_SIGNED = bytes.fromhex("06092a864886f70d01010b")
_NULL = b"\5\0"


class OddKey(NamedTuple):
    """
    Numbers of a key with two prime factors, whatever its exponent is.
    """

    modulus: int
    exponent: int
    private: int
    first: int
    second: int
    #: The private exponent modulo each factor, or what serves for it.
    by_first: int
    by_second: int

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(self.modulus, self.exponent)

    def private_der(self) -> bytes:
        """The private key."""
        inverse = pow(self.second, -1, self.first)
        return _sequence(*(_integer(number) for number in (0, *self, inverse)))

    def certificate_der(self) -> bytes:
        """A certificate with a signature that is none; nobody looks at it."""
        algorithm = _sequence(_SIGNED, _NULL)
        key = _sequence(_integer(self.modulus), _integer(self.exponent))
        dates = _sequence(_der(0x17, b"250101000000Z"), _der(0x17, b"450101000000Z"))
        to_be_signed = _sequence(
            _der(0xA0, _integer(2)),
            _integer(1),
            algorithm,
            _sequence(),
            dates,
            _sequence(),
            _sequence(_sequence(_RSA, _NULL), _der(3, b"\0" + key)),
        )
        signature = _der(3, b"\0" + b"\1" * ((self.modulus.bit_length() + 7) // 8))
        return _sequence(to_be_signed, algorithm, signature)


def forged() -> OddKey:
    """
    The key with the digest of an honest one.
    """
    key = forgery.forgery()
    (small,) = forgery.SMALL_FACTORS
    private = forgery.private_exponent(key, forgery.SMALL_FACTORS)
    assert private is not None
    large = key.modulus // small
    return OddKey(
        key.modulus,
        key.exponent,
        private,
        large,
        small,
        private % (large - 1),
        private % (small - 1),
    )


def _blum_primes() -> tuple[int, int]:
    """
    Two primes with a remainder of 3 when divided by 4.
    """
    found: list[int] = []
    while len(found) < 2:
        numbers = rsa.generate_private_key(65537, 1024).private_numbers()
        found += [prime for prime in (numbers.p, numbers.q) if prime % 4 == 3]
    return found[0], found[1]


def exponent_one() -> OddKey:
    """
    A key that signs and encrypts nothing: everything is its own signature.
    """
    p, q = _blum_primes()
    return OddKey(p * q, 1, 1, p, q, 1, 1)


def exponent_two() -> OddKey:
    """
    A key with an even exponent. A signature is a square root; every fourth number has
    one, so a handshake has to be tried some times.
    """
    p, q = _blum_primes()
    return OddKey(
        p * q, 2, ((p - 1) * (q - 1) + 4) // 8, p, q, (p + 1) // 4, (q + 1) // 4
    )


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 + len(length)]) + length + content


def _integer(number: int) -> bytes:
    return _der(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))
