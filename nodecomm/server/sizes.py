# SPDX-License-Identifier: MIT
"""
The sizes that a peer was told, and that what it asks for next must keep to.
"""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["AnnouncedSizes"]

#: Sizes a connection was told and that GET must keep to; the oldest is forgotten
#: first. More than any run asks for between a STAT and its GET.
_ANNOUNCED = 10_000

#: Bytes of a name that are remembered as they are; of a longer one only a digest is,
#: so that a peer's spellings of one file cannot fill the memory.
_LONG_NAME = 256


class AnnouncedSizes:
    """
    What STAT said on one connection (`requests.Announced`).
    """

    def __init__(self) -> None:
        self._sizes: dict[bytes, tuple[int, int]] = {}

    def announce(self, name: bytes, told: tuple[int, int] | None) -> None:
        """Remember what STAT said of *name*."""
        sizes = self._sizes
        if len(name) > _LONG_NAME:
            name = _short(name)
        if told is None:
            sizes.pop(name, None)
            return
        sizes[name] = told
        if len(sizes) > _ANNOUNCED:
            del sizes[next(iter(sizes))]

    def announced(self, name: bytes) -> tuple[int, int] | None:
        """What STAT said of *name*; None when it said nothing."""
        return self._sizes.get(_short(name) if len(name) > _LONG_NAME else name)

    def clear(self) -> None:
        """Forget all."""
        self._sizes.clear()


def _short(name: bytes) -> bytes:
    return blake2b(name, digest_size=32).digest()
