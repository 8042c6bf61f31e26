# SPDX-License-Identifier: MIT
"""
Compressed documents.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.inventory.limits import (
    DocumentLimits,
    DocumentRefused,
    inflate,
    is_compressed,
    uncompress,
)

LIMITS = DocumentLimits(size=5000, compressed=1000, ratio=20, free_size=2000)


def code(chunks: Sequence[bytes], limits: DocumentLimits = LIMITS) -> str:
    """
    Why compressed bytes are refused.
    """
    with pytest.raises(DocumentRefused) as caught:
        list(inflate(chunks, limits))
    return caught.value.refusal.code


@given(content=st.binary(max_size=900), step=st.integers(1, 400))
@settings(max_examples=50)
def test_any_cut(content: bytes, step: int) -> None:
    """
    The content does not depend on how the compressed bytes were cut.
    """
    data = gzip.compress(content)
    chunks = [data[at : at + step] for at in range(0, len(data), step)]

    assert b"".join(inflate(chunks, LIMITS)) == content
    assert is_compressed(data)


@given(data=st.binary(max_size=200))
@settings(max_examples=50)
def test_any_bytes(data: bytes) -> None:
    """
    Whatever comes is content or a refusal.
    """
    for given_bytes in (data, gzip.compress(b"x")[:10] + data):
        try:
            uncompress(given_bytes, LIMITS)
        except DocumentRefused as error:
            assert error.refusal.code in ("bad-gzip", "too-large", "gzip-bomb")


def test_pieces_are_small() -> None:
    """
    However much there is, it comes in pieces that memory can hold.
    """
    content = bytes(range(256)) * 8192
    pieces = list(inflate([gzip.compress(content)], DocumentLimits(ratio=10_000)))

    assert b"".join(pieces) == content
    assert max(map(len, pieces)) == 256 * 1024


def test_several_in_one() -> None:
    """
    Several compressed files in one are read one after the other.
    """
    assert uncompress(gzip.compress(b"one ") + gzip.compress(b"two"), LIMITS) == (
        b"one two"
    )


def test_thousands_in_one() -> None:
    """
    Each compressed file in one takes time, even an empty one: thousands are refused.
    """
    empty = gzip.compress(b"")
    data = empty * 2000
    read = []

    def chunks() -> Iterator[bytes]:
        for at in range(0, len(data), 1000):
            read.append(at)
            yield data[at : at + 1000]

    limits = DocumentLimits()
    assert uncompress(empty * 999 + gzip.compress(b"<x/>"), limits) == b"<x/>"
    with pytest.raises(DocumentRefused) as caught:
        list(inflate(chunks(), limits))
    assert caught.value.refusal.code == "gzip-bomb"
    assert read[-1] < len(data) * 2 // 3


def test_damaged() -> None:
    """
    What is cut off, changed, or followed by something else is refused.
    """
    data = gzip.compress(b"some content")
    changed = bytearray(data)
    changed[-6] ^= 1

    assert code([]) == code([b""]) == "bad-gzip"
    assert code([b"<?xml?>"]) == "bad-gzip"
    assert [code([data[:end]]) for end in range(len(data))] == ["bad-gzip"] * len(data)
    assert code([bytes(changed)]) == "bad-gzip"
    assert code([data, b"more"]) == "bad-gzip"


def test_limits() -> None:
    """
    Neither the compressed bytes, nor the content, nor how much larger it is, may be
    beyond its limit; what is small may be as many times larger as it likes.
    """
    noise = bytes((n * n * 7919 + n) % 251 for n in range(5001))

    assert code([bytes(1001)]) == "too-large"
    assert code([bytes(600), bytes(600)]) == "bad-gzip"
    assert code([gzip.compress(noise)]) == "too-large"
    assert code([gzip.compress(bytes(4000))]) == "gzip-bomb"
    assert uncompress(gzip.compress(bytes(2000)), LIMITS) == bytes(2000)


def test_bomb() -> None:
    """
    A bomb is refused when the first megabyte of it is there, however much it holds.
    """
    bomb = gzip.compress(bytes(100 << 20), 1)
    made = 0

    with pytest.raises(DocumentRefused) as caught:
        for piece in inflate([bomb[:10_000], bomb[10_000:]], DocumentLimits()):
            made += len(piece)

    assert caught.value.refusal.code == "gzip-bomb"
    assert made <= 2 << 20
