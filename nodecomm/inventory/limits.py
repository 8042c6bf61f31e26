# SPDX-License-Identifier: MIT
"""
How large a document may be, and its way out of gzip within that.

A megabyte of gzip can hold a gigabyte, and a document with a list of its own entities
can hold as much in a kilobyte. So nothing is expanded beyond these limits, and what a
sender claims about sizes is not asked.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from attrs import frozen

from nodecomm.inventory.model import Refusal

__all__ = [
    "DocumentLimits",
    "DocumentRefused",
    "inflate",
    "is_compressed",
    "uncompress",
]

_MIB = 1 << 20

#: Bytes that are made of compressed ones at a time.
_STEP = 256 * 1024

#: Compressed files in one. Each takes some microseconds, even an empty one of 20 bytes.
_FILES = 1000

#: `zlib` reads gzip's header and checks its sum.
_GZIP = 16 + zlib.MAX_WBITS

#: The first two bytes of gzip.
_MAGIC = b"\x1f\x8b"


class DocumentRefused(ValueError):  # noqa: N818
    """
    This is no inventory that can be used, and sending it again would not help.

    Attributes:
        refusal: Why, and which element it is about.
    """

    def __init__(self, code: str, text: str, element: str = "") -> None:
        super().__init__(text)
        self.refusal = Refusal(code, text, element)


@frozen
class DocumentLimits:
    """
    How much of a document is read.

    Attributes:
        size: Bytes of the document itself. Real ones have up to 465 KiB.
        compressed: Bytes of it compressed. Real ones have up to 50 KiB.
        ratio: How many times larger than the compressed bytes it may be, once it is
            larger than `free_size`. Real ones are 5 to 13 times larger.
        free_size: Bytes below which the ratio does not matter.
        depth: Elements within each other. Real ones have 5.
        elements: And attributes, in the whole document. Real ones have some 10,000.
    """

    size: int = 64 * _MIB
    compressed: int = 16 * _MIB
    ratio: int = 100
    free_size: int = _MIB
    depth: int = 32
    elements: int = 200_000

    def check_compressed(self, size: int) -> None:
        """
        Refuse more compressed bytes than may be.

        Raises:
            DocumentRefused: `too-large`.
        """
        if size > self.compressed:
            msg = f"more than {self.compressed} bytes of compressed document"
            raise DocumentRefused("too-large", msg)

    def check_size(self, size: int) -> None:
        """
        Refuse a larger document than may be.

        Raises:
            DocumentRefused: `too-large`.
        """
        if size > self.size:
            msg = f"a document of more than {self.size} bytes"
            raise DocumentRefused("too-large", msg)

    def check_ratio(self, compressed: int, size: int) -> None:
        """
        Refuse what grows too much when it is uncompressed.

        Raises:
            DocumentRefused: `gzip-bomb`.
        """
        if size > self.free_size and size > compressed * self.ratio:
            msg = (
                f"{compressed} compressed bytes become more than "
                f"{self.ratio} times as many"
            )
            raise DocumentRefused("gzip-bomb", msg)


def is_compressed(start: bytes) -> bool:
    """
    Whether a file that starts so is gzip's. No XML document starts so.
    """
    return start.startswith(_MAGIC)


def inflate(chunks: Iterable[bytes], limits: DocumentLimits) -> Iterator[bytes]:
    """
    The content of a gzip file that comes in *chunks*, in pieces of 256 KiB at most.
    Several files in one, as gzip allows, are read one after the other, a thousand at
    most.

    Raises:
        DocumentRefused: `too-large`, `gzip-bomb`, or `bad-gzip` for what is damaged,
            not complete, or followed by something else. Pieces that came before are of
            no use then.
    """
    inside = zlib.decompressobj(_GZIP)
    taken = made = files = 0
    within = True
    for chunk in chunks:
        taken += len(chunk)
        limits.check_compressed(taken)
        rest, more = chunk, False
        while rest or more:
            piece = _inflated(inside, rest)
            made += len(piece)
            limits.check_size(made)
            limits.check_ratio(taken, made)
            if piece:
                yield piece
            within = not inside.eof
            if within:
                rest, more = inside.unconsumed_tail, len(piece) == _STEP
            else:
                rest, more = inside.unused_data, False
                inside = zlib.decompressobj(_GZIP)
                files += 1
                if rest and files >= _FILES:
                    msg = f"more than {_FILES} compressed files in one"
                    raise DocumentRefused("gzip-bomb", msg)
    if within:
        raise DocumentRefused("bad-gzip", "the compressed document ends too early")


def _inflated(inside: zlib._Decompress, data: bytes) -> bytes:
    try:
        return inside.decompress(data, _STEP)
    except zlib.error as error:
        msg = f"damaged compressed document: {error}"
        raise DocumentRefused("bad-gzip", msg) from error


def uncompress(data: bytes, limits: DocumentLimits) -> bytes:
    """
    The content of a gzip file, as `inflate` reads it.

    Raises:
        DocumentRefused: See `inflate`.
    """
    return b"".join(inflate([data], limits))
