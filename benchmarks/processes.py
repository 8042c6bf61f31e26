# SPDX-License-Identifier: MIT
"""
Resources of another process, as the kernel accounts them.

CPU time is read from the process's own CPU clock, as clock_getcpuclockid(3) gives
it: nanoseconds, threads that have ended included, which /proc/PID/schedstat leaves
out and /proc/PID/stat rounds to 10 ms.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

#: The kernel's clock type for CPU time by the scheduler's count, in the low bits of
#: the identifier of a process's clock. Source: Linux, posix-timers.h, CPUCLOCK_SCHED.
_SCHEDULER_CLOCK = 2

#: A server is at rest when its CPU clock stood still this long, in seconds.
_REST = 0.03


def descendants(pid: int) -> list[int]:
    """Return *pid* and every living process below it."""
    found = [pid]
    for each in found:
        for listing in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found.extend(map(int, listing.read_text().split()))
            except OSError:  # The thread has ended since.
                continue
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that *pid* and its living children have used."""
    return (
        sum(
            time.clock_gettime_ns((~each << 3) | _SCHEDULER_CLOCK)
            for each in descendants(pid)
        )
        / 1e9
    )


def resting_cpu_seconds(pid: int, patience: float = 3.0) -> float:
    """
    Wait until the process has nothing more to do; return its CPU seconds.

    Args:
        pid: The process.
        patience: Seconds after which a process that never rests is read anyway.
    """
    end = time.monotonic() + patience
    before = cpu_seconds(pid)
    while time.monotonic() < end:
        time.sleep(_REST)
        now = cpu_seconds(pid)
        if now == before:
            break
        before = now
    return before


def cpu_of(pid: int, work: Callable[[], object]) -> float:
    """Return the CPU seconds that the process *pid* uses while *work* runs."""
    before = resting_cpu_seconds(pid)
    work()
    return resting_cpu_seconds(pid) - before


def memory_bytes(pid: int) -> int:
    """
    Return the proportional set size of *pid* and its children, in bytes.

    Pages that several processes share count by their part, so the figure of a
    server of several processes is not inflated by what they have in common.
    """
    total = 0
    for each in descendants(pid):
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def pin(pid: int, cpus: Iterable[int]) -> None:
    """Let every thread of *pid* and its children run on *cpus* only."""
    chosen = set(cpus)
    for each in descendants(pid):
        for task in os.listdir(f"/proc/{each}/task"):
            try:
                os.sched_setaffinity(int(task), chosen)
            except ProcessLookupError:
                continue


def stolen_and_total_ticks() -> tuple[int, int]:
    """Return ticks stolen by the hypervisor and ticks in all, of all CPUs."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    return int(fields[7]), sum(map(int, fields))
