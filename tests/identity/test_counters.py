# SPDX-License-Identifier: MIT
"""
Counter-challenges that their server knows again.
"""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.identity.counters import Counters
from nodecomm.identity.proof import encrypt_to, new_challenge
from nodecomm.testing import key_pair
from nodecomm.wire.classic import NONCE_BITS, NONCE_SIZE, parse_mpi

OURS, OTHERS = key_pair(1), key_pair(2)
COUNTERS = Counters(OURS)


@given(st.binary(min_size=16, max_size=16))
@settings(max_examples=50)
def test_they_look_like_any_challenge(random: bytes) -> None:
    """Whatever is random in them, they are numbers of 256 bits in 37 bytes."""
    made = COUNTERS.new(lambda size: random[:size])

    assert len(made) == NONCE_SIZE
    assert parse_mpi(made, "counter-challenge").bit_length() == NONCE_BITS


def test_no_two_are_the_same() -> None:
    """Each is made of random bytes of its own."""
    assert len({COUNTERS.new() for _ in range(20)}) == 20


def test_they_are_known_by_every_process_with_the_key() -> None:
    """The secret follows from the key, so other processes know them too."""
    again = Counters(type(OURS).load(OURS.to_pem()))

    assert again.made(COUNTERS.new())
    assert not Counters(OTHERS).made(COUNTERS.new())
    assert not COUNTERS.made(new_challenge())


@given(st.binary(max_size=64))
@settings(max_examples=50)
def test_nothing_else_is_known(data: bytes) -> None:
    """Bytes of any length that others made are not known, and nothing is raised."""
    assert not COUNTERS.made(data)


def test_the_secret_is_not_the_public_half() -> None:
    """
    What anybody can work out from the public key makes no counter-challenge: the
    second half is none of its hashes.
    """
    made = COUNTERS.new()
    first, second = made[-32:-16], made[-16:]
    public = OURS.public.to_pem()

    for name in ("md5", "sha1", "sha256"):
        for data in (first, public + first, first + public):
            assert hashlib.new(name, data).digest()[:16] != second


@pytest.mark.parametrize(
    ("clear", "pair", "opened"),
    [
        ("a node's", OURS, True),
        ("a node's", OTHERS, False),
        ("our own", OURS, False),
        ("another server's", OURS, True),
        ("short", OURS, False),
    ],
)
def test_what_is_opened(clear: str, pair: object, opened: bool) -> None:
    """
    A challenge of a node is; one that was not encrypted for this server, or that
    this server made itself, becomes bytes that are nobody's, the same ones each time.
    """
    challenge = {
        "a node's": new_challenge(),
        "our own": COUNTERS.new(),
        "another server's": Counters(OTHERS).new(),
        "short": os.urandom(16),
    }[clear]
    data = encrypt_to((OURS if pair is OURS else OTHERS).public, challenge)

    found = COUNTERS.open(data)
    assert (found == challenge) is opened
    assert len(found) == NONCE_SIZE
    # Another answer to the same question would tell one case from the other.
    assert COUNTERS.open(data) == found
