# SPDX-License-Identifier: MIT
"""
Inode numbers that the real agent cannot misread.

The agent reads at most 14 digits (a longer number spills into the next field), and
it hard-links files locally that have several links and the same number, without
looking at the device. It also takes a folder whose number is an ancestor's for a
loop. So: numbers of at most 9 digits; folders and files with several links get one
that nothing else has, whatever the device.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from attrs import define, field

__all__ = ["InodeNumbers"]

#: Files with one link take numbers from here up; nothing depends on theirs.
_SHARED_FROM = 1 << 28
_MASK = _SHARED_FROM - 1


@define(eq=False)
class InodeNumbers:
    """
    A 29-bit number for each (device, inode).

    The number is a hash, so that it is the same after a restart; only where two
    objects would collide does one get the next free number, which then depends on
    the order of asking.

    Args:
        remembered: How many folders and multiply linked files are kept apart. The
            one asked for longest ago is forgotten first.
    """

    remembered: int = 200_000
    _numbers: OrderedDict[tuple[int, int], int] = field(factory=OrderedDict, init=False)
    _taken: set[int] = field(factory=set, init=False)

    def plain(self, dev: int, ino: int) -> int:
        """
        The number of a file with one link.
        """
        # Small inode numbers, the usual case, need no hashing to stay apart on
        # one device.
        return _SHARED_FROM | ((ino ^ (ino >> 28) ^ (dev * 0x9E3779B1)) & _MASK)

    def unique(self, dev: int, ino: int) -> int:
        """
        The number of a folder, or of a file with several links: no other object
        that is remembered has it.
        """
        key = (dev, ino)
        known = self._numbers.get(key)
        if known is not None:
            self._numbers.move_to_end(key)
            return known
        text = b"%d %d" % key
        number = int.from_bytes(blake2b(text, digest_size=4).digest(), "big") & _MASK
        while number == 0 or number in self._taken:
            number = (number + 1) & _MASK
        if len(self._numbers) >= self.remembered:
            _, freed = self._numbers.popitem(last=False)
            self._taken.discard(freed)
        self._numbers[key] = number
        self._taken.add(number)
        return number
