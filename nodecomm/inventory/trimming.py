# SPDX-License-Identifier: MIT
"""
What is removed of what was put aside, when there is too much of it.

The oldest goes first, but of one kind: of the sender and the reason that there is most
of. So whoever sends the same refused file again and again pushes out his own, and not
what an operator has yet to see of others.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

from attrs import frozen

from nodecomm.inventory.failures import REASON_NAME

__all__ = ["Kept", "find_kept", "surplus"]


@frozen
class Kept:
    """
    Something in `failed/`.

    Attributes:
        serial: The name of its folder; later ones are greater.
        size: Bytes of its files.
        kind: Who sent it, and why it was not believed.
    """

    serial: str
    size: int
    kind: tuple[str, str]


def find_kept(folder: str, known: Mapping[str, Kept]) -> dict[str, Kept]:
    """
    What is in *folder*, by serial. What is *known* from the last time is not looked at
    again.

    Raises:
        OSError: The folder cannot be read.
    """
    return {
        serial: known.get(serial) or _look(os.path.join(folder, serial), serial)
        for serial in os.listdir(folder)
    }


def surplus(kept: Iterable[Kept], most: int, size: int) -> list[str]:
    """
    The serials of what is to go so that no more than *most* with *size* bytes stay.
    """
    kinds: dict[tuple[str, str], deque[Kept]] = defaultdict(deque)
    count = total = 0
    for each in sorted(kept, key=lambda one: one.serial):
        kinds[each.kind].append(each)
        count += 1
        total += each.size
    sizes = {kind: sum(one.size for one in found) for kind, found in kinds.items()}
    gone = []
    while count > most or total > size:
        if count > most:
            largest = max(kinds, key=lambda kind: len(kinds[kind]))
        else:
            largest = max(kinds, key=lambda kind: sizes[kind])
        one = kinds[largest].popleft()
        gone.append(one.serial)
        count -= 1
        total -= one.size
        sizes[largest] -= one.size
        if not kinds[largest]:
            del kinds[largest]
    return gone


def _look(path: str, serial: str) -> Kept:
    size = 0
    try:
        for entry in os.scandir(path):
            size += entry.stat(follow_symlinks=False).st_size
        with open(os.path.join(path, REASON_NAME), encoding="utf-8") as file:
            told = json.load(file)
        return Kept(serial, size, (str(told["address"]), str(told["code"])))
    except (OSError, ValueError, KeyError, TypeError):
        return Kept(serial, size, ("", ""))
