# SPDX-License-Identifier: MIT
"""
Key pairs that nobody has seen yet, without looking for one.

Most tests need a node that is new to its server, and to find two primes of 1024 bits
took more of the CPU than what many of them do. Those in `primes.txt` make another key
of any two, and each process takes the same ones in turn: servers are its own. Nothing
trusts these keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from nodecomm.identity.keys import KeyPair

_PRIMES = Path(__file__).with_name("primes.txt")


def new_pair() -> KeyPair:
    """
    A key pair of 2048 bits, another one each time.
    """
    primes = next(_pairs(), None)
    return KeyPair(_private(*primes)) if primes else KeyPair.generate()


@cache
def _pairs() -> Iterator[tuple[int, int]]:
    primes = [int(line, 16) for line in _PRIMES.read_text().split()]
    return combinations(primes, 2)


def _private(p: int, q: int) -> rsa.RSAPrivateKey:
    exponent = 65537
    d = pow(exponent, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        *(p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q)),
        rsa.rsa_crt_iqmp(p, q),
        rsa.RSAPublicNumbers(exponent, p * q),
    ).private_key(unsafe_skip_rsa_key_validation=True)
