# SPDX-License-Identifier: MIT
"""
Which processes run, and which of them has a port. Where the system has no /proc,
nothing is known.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from attrs import frozen

__all__ = ["Listener", "command_line", "find_listener", "runs"]

#: The state of a socket that listens.
#: Source: Linux, include/net/tcp_states.h, TCP_LISTEN.
_LISTENS = "0A"


@frozen
class Listener:
    """
    Who listens on a port.

    Attributes:
        pid: Its process number; None where that may not be seen.
        words: Its command line; empty where that may not be seen.
    """

    pid: int | None = None
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        """
        For a message.
        """
        if self.pid is None:
            return "another process"
        return f"process {self.pid} ({' '.join(self.words) or 'no command line'})"


def runs(pid: int) -> bool:
    """
    Whether there is a process of that number.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def command_line(pid: int, proc: Path = Path("/proc")) -> tuple[str, ...] | None:
    """
    The words a process was called with; None where that is not told.
    """
    try:
        data = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None
    return tuple(os.fsdecode(word) for word in data.rstrip(b"\0").split(b"\0"))


def find_listener(port: int, proc: Path = Path("/proc")) -> Listener | None:
    """
    Who listens on a TCP port, on whatever address; None: nobody, for all we know.
    """
    sockets = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                if (
                    words[3] == _LISTENS
                    and int(words[1].rpartition(":")[2], 16) == port
                ):
                    sockets.add(f"socket:[{words[9]}]")
    if not sockets:
        return None
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        # It may end meanwhile, or be somebody else's.
        with contextlib.suppress(OSError):
            for descriptor in (entry / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor) in sockets:
                        pid = int(entry.name)
                        return Listener(pid, command_line(pid, proc) or ())
    return Listener()
