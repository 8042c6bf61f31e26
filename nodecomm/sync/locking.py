# SPDX-License-Identifier: MIT
"""
One update of a destination at a time, on this host.

The lock belongs to an open file, so it goes with the process that had it, however that
ends. The file stays: removing it would let two processes hold locks on two files of
one name.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable

from nodecomm.sync.errors import LocalError
from nodecomm.sync.posix import write_all
from nodecomm.sync.siblings import identity_of
from nodecomm.wire.text import safe

__all__ = ["lock_file", "lock_folder"]

#: Seconds between two looks at a lock that somebody else has.
_PAUSE = 0.1

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_NOTE_BYTES = 4096


def lock_file(
    folder: int,
    name: bytes,
    shown: str,
    *,
    now: Callable[[], float],
    wait: float,
    sleep: Callable[[float], None],
    monotonic: Callable[[], float],
    program: str,
) -> int:
    """
    Take the lock that a file in the open folder stands for.

    Args:
        shown: What is locked, for people.
        now: Civil time, for whoever has to wait for us.
        wait: Seconds to wait for another one.
        program: Who we are.

    Returns:
        A descriptor; closing it gives the lock back.

    Raises:
        LocalError: Somebody else has it (`locked`).
        OSError: The file cannot be made or locked.
    """
    end = monotonic() + wait
    while True:
        descriptor = os.open(name, _FLAGS, 0o600, dir_fd=folder)
        try:
            if not _take(descriptor, end, sleep, monotonic):
                raise LocalError("locked", _held(descriptor, shown, wait))
            try:
                named = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                named = None
            if named is None or identity_of(named) != identity_of(os.fstat(descriptor)):
                # Somebody removed the file meanwhile: this lock is nobody's.
                os.close(descriptor)
                continue
            note = {
                "pid": os.getpid(),
                "program": program,
                "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now())),
            }
            os.ftruncate(descriptor, 0)
            write_all(descriptor, json.dumps(note).encode() + b"\n")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def lock_folder(
    descriptor: int,
    shown: str,
    *,
    wait: float,
    sleep: Callable[[float], None],
    monotonic: Callable[[], float],
) -> None:
    """
    Lock an open folder itself, where no file can be made beside it. Closing the
    descriptor gives the lock back.

    Raises:
        LocalError: Somebody else has it (`locked`).
        OSError: It cannot be locked.
    """
    if not _take(descriptor, monotonic() + wait, sleep, monotonic):
        msg = f"another process is updating {shown}, for longer than {wait:g} s"
        raise LocalError("locked", msg)


def _take(
    descriptor: int,
    end: float,
    sleep: Callable[[float], None],
    monotonic: Callable[[], float],
) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        else:
            return True
        left = end - monotonic()
        if left <= 0:
            return False
        sleep(min(_PAUSE, left))


def _held(descriptor: int, shown: str, wait: float) -> str:
    """
    Who has the lock, as far as the file tells.
    """
    text = f"another process is updating {shown}, for longer than {wait:g} s"
    try:
        note = json.loads(os.pread(descriptor, _NOTE_BYTES, 0))
        who = f"{note['program']}, process {note['pid']:d}, since {note['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return text
    return f"{text}: {safe(who)}"
