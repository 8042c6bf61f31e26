# SPDX-License-Identifier: MIT
"""
A clock that nobody sets, and that can be compared across processes until the machine
starts again.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

__all__ = ["Moment", "SteadyClock"]

#: Where Linux tells which start of the machine this is.
_BOOT_ID = "/proc/sys/kernel/random/boot_id"

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Moment(NamedTuple):
    """
    A point of time in the life of one start of the machine.

    Attributes:
        boot: Which start.
        ns: Nanoseconds since then, those asleep included.
    """

    boot: str
    ns: int

    def since(self, earlier: Moment) -> float | None:
        """
        Seconds from *earlier* to this; None when the machine was started in between,
        as nothing can be said then.
        """
        if self.boot != earlier.boot:
            return None
        return (self.ns - earlier.ns) / 1e9


class SteadyClock:
    """
    Call it for the present `Moment`. A step of the civil clock does not show.
    """

    def __init__(self, boot_id_file: str = _BOOT_ID) -> None:
        try:
            with open(boot_id_file, encoding="ascii") as file:
                self.boot = file.read(64).strip()
        except (OSError, ValueError):
            self.boot = ""
        if not self.boot:
            # Unknown: then no moment of another process can be compared with ours.
            self.boot = f"process-{os.getpid()}-{os.urandom(8).hex()}"

    def __call__(self) -> Moment:
        """The present moment."""
        return Moment(self.boot, time.clock_gettime_ns(_CLOCK))
