# SPDX-License-Identifier: MIT
"""
Keys to test with, made once per run.
"""

from __future__ import annotations

from functools import cache

from nodecomm.identity.keys import KeyPair, PublicKey

#: A sane modulus that nobody has the factors of.
MODULUS = (1 << 2047) | (1 << 1000) | 1


@cache
def pair(number: int = 0) -> KeyPair:
    """
    Key pair *number*; small, because making it takes time.
    """
    return KeyPair.generate(1024)


def key(number: int = 0) -> PublicKey:
    """
    The public half of pair *number*.
    """
    return pair(number).public
