# SPDX-License-Identifier: MIT
"""
All that a program has started, and ending it.

A program that is run here leads a session of its own. What belongs to it is whatever
is in that session, and whatever descends from that, also in a session of its own as
long as its parent lives. A daemon, whose parent has ended, belongs to it no more.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from attrs import frozen

__all__ = ["Family"]

#: States of a process that has ended, though its parent has not looked yet.
#: Source: Linux, fs/proc/array.c.
_ENDED = ("Z", "X", "x")


@frozen
class _Process:
    """
    A process, as far as its number says which one it is.
    """

    number: int
    began: int


class Family:
    """
    The processes of one program. Its leader must not have been waited for while this
    is used, so that its number is nobody else's.

    Args:
        leader: The number of the program's process and of its session.
        proc: Where the system tells of processes; where it does not, those of the
            leader's process group are known, and no others.
    """

    def __init__(self, leader: int, proc: Path = Path("/proc")) -> None:
        self._leader = leader
        self._proc = proc
        self._known: set[_Process] = set()

    def send(self, number: signal.Signals) -> None:
        """
        Send all of them a signal.
        """
        # What is begun between the look and the signal is mostly in the group.
        others = self._look()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._leader, number)
        for process, group in others.items():
            if group != self._leader:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.number, number)

    def lives(self) -> bool:
        """
        Whether any of them has not ended.
        """
        if self._told():
            return bool(self._look())
        try:
            os.killpg(self._leader, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # Source: macOS, kill(2): so it is when all of them are zombies.
            return False
        return True

    def _told(self) -> bool:
        return (self._proc / "self" / "stat").exists()

    def _look(self) -> dict[_Process, int]:
        """
        The group of each process that has not ended. One that was seen once is
        looked for again, wherever its parent's end has left it.
        """
        groups: dict[_Process, int] = {}
        children: dict[int, list[_Process]] = {}
        found = []
        for process, parent, group, session in self._processes():
            groups[process] = group
            children.setdefault(parent, []).append(process)
            if session == self._leader or process in self._known:
                found.append(process)
        members: set[_Process] = set()
        while found:
            process = found.pop()
            if process not in members:
                members.add(process)
                found += children.get(process.number, ())
        self._known = members
        return {process: groups[process] for process in members}

    def _processes(self) -> list[tuple[_Process, int, int, int]]:
        """
        All processes of the machine that have not ended: parent, group and session.
        """
        found = []
        try:
            names = os.listdir(self._proc)
        except OSError:
            return []
        for name in names:
            if not name.isdigit():
                continue
            try:
                text = (self._proc / name / "stat").read_bytes()
            except OSError:
                # It has ended meanwhile.
                continue
            # The name in brackets may hold anything.
            words = text.rpartition(b")")[2].split()
            if words[0].decode("ascii") in _ENDED:
                continue
            parent, group, session = map(int, words[1:4])
            process = _Process(int(name), int(words[19]))
            found.append((process, parent, group, session))
        return found
