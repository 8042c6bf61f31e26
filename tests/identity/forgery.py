# SPDX-License-Identifier: MIT
"""
A forged key: another RSA key with the digest of a victim's, and with known factors.

A digest hashes the bytes of modulus and exponent without saying where the one ends.
Cut the victim's bytes elsewhere and both halves make another key with the same
digest, MD5 and SHA-256 alike. Among the hundred usable cuts there is nearly always
one whose modulus is a product of small primes and one large one, so that the forger
has its private exponent.

Run as a program this searches for a new victim and prints what stands below.
"""

from __future__ import annotations

import math
from pathlib import Path

from nodecomm.identity.keys import KeyPair, PublicKey

KEYS = Path(__file__).parent / "keys"

#: Bytes of the victim's modulus and exponent that are the forgery's modulus.
CUT = 136

#: The small prime factors of the forgery's modulus; what is left is prime.
SMALL_FACTORS: tuple[int, ...] = (1283,)


def joined(key: PublicKey) -> bytes:
    """
    The bytes that a digest is made of.
    """
    return b"".join(
        number.to_bytes((number.bit_length() + 7) // 8, "big")
        for number in (key.modulus, key.exponent)
    )


def split(data: bytes, cut: int) -> PublicKey:
    """
    The key whose modulus is the first *cut* bytes, and its exponent the others.
    """
    return PublicKey(
        int.from_bytes(data[:cut], "big"), int.from_bytes(data[cut:], "big")
    )


def victim() -> PublicKey:
    """
    An honest key.
    """
    return PublicKey.from_pem((KEYS / "victim.pub").read_bytes())


def forgery() -> PublicKey:
    """
    Another key with the victim's digests.
    """
    return split(joined(victim()), CUT)


def private_exponent(key: PublicKey, small: tuple[int, ...]) -> int | None:
    """
    What only the owner of a key should know, from its factors; None if it has none.
    """
    order = key.modulus // math.prod(small) - 1
    for prime in set(small):
        power = small.count(prime)
        order = math.lcm(order, prime ** (power - 1) * (prime - 1))
    if math.gcd(order, key.exponent) != 1:
        return None
    return pow(key.exponent, -1, order)


def is_prime(number: int) -> bool:
    """
    Whether a large number is a prime, as good as certainly.
    """
    odd, twos = number - 1, 0
    while not odd & 1:
        odd, twos = odd >> 1, twos + 1
    for witness in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29):
        power = pow(witness, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def _primes(limit: int) -> list[int]:
    sieve = bytearray([1]) * limit
    sieve[:2] = b"\0\0"
    for number in range(2, math.isqrt(limit) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(
                len(range(number * number, limit, number))
            )
    return [number for number in range(limit) if sieve[number]]


def search() -> tuple[PublicKey, int, tuple[int, ...]]:
    """
    Find a victim, a cut, and the small factors. Takes some seconds.
    """
    primes = _primes(1 << 17)
    while True:
        honest = KeyPair.generate(2048).public
        data = joined(honest)
        for cut in range(128 + 8, len(data) - 8, 8):
            key = split(data, cut)
            rest, small = key.modulus, []
            for prime in primes:
                while rest % prime == 0:
                    rest //= prime
                    small.append(prime)
            usable = data[0] >= 0x80 and small and 2 not in small
            if usable and is_prime(rest) and private_exponent(key, tuple(small)):
                return honest, cut, tuple(small)


def main() -> None:
    """
    Search, write the victim's key, print the constants.
    """
    honest, cut, small = search()
    (KEYS / "victim.pub").write_bytes(honest.to_pem())
    print(f"CUT = {cut}\nSMALL_FACTORS = {small}")


if __name__ == "__main__":
    main()
