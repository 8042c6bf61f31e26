# SPDX-License-Identifier: MIT
"""
Counts descriptors, so that a test can say that none was lost.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def open_descriptors() -> dict[str, str]:
    """
    What this process holds open, number to name.
    """
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            # The descriptor that the listing itself needed.
            continue
    return found


@contextmanager
def no_descriptor_lost() -> Iterator[None]:
    """
    What is open after the block is what was open before it.
    """
    # Cycles of earlier tests may hold descriptors, and would lose them in between.
    gc.disable()
    try:
        before = open_descriptors()
        yield
        after = open_descriptors()
    finally:
        gc.enable()
    assert before == after, sorted(set(after.items()) ^ set(before.items()))
