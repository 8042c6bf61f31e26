# SPDX-License-Identifier: MIT
"""
How small files get to disk and are read back: whole, durable, never half.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile

__all__ = [
    "MAX_FILE_BYTES",
    "SETTLED_SECONDS",
    "FileState",
    "ensure_folder",
    "read_small",
    "remove_leftovers",
    "replace_file",
    "settled",
    "state_of",
    "sync_folder",
    "write_new",
]

#: Bytes of the largest file that is read. A key of 8192 bits has 6 KiB in PEM form
#: with its private half.
MAX_FILE_BYTES = 64 * 1024

#: A file or folder changed less than this many seconds ago may change again without
#: its times changing: clocks of file systems are coarse, up to 2 s on some.
SETTLED_SECONDS = 2.0

#: Modes: what is in there is nobody else's business.
FOLDER_MODE = 0o700


#: What tells one content of a file, or one listing of a folder, from the next:
#: device, inode, size, and the times of change of content and of inode, in ns.
FileState = tuple[int, int, int, int, int]


def state_of(status: os.stat_result) -> FileState:
    """
    The state that a stat result shows.
    """
    # A plain tuple: this is done twice for each connection.
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def settled(state: FileState, now: float) -> bool:
    """
    Whether a later change is sure to show in the times.
    """
    newest = max(state[3:]) / 1e9
    return now - newest > SETTLED_SECONDS


def read_small(path: str, limit: int = MAX_FILE_BYTES) -> tuple[FileState, bytes]:
    """
    The content of an ordinary file of at most *limit* bytes, and the state it had.
    Never waits for the other end of a pipe.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no ordinary file, or too large.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            msg = "is no ordinary file"
            raise ValueError(msg)
        data = b""
        while chunk := os.read(descriptor, limit + 1 - len(data)):
            data += chunk
        if len(data) > limit:
            msg = f"is larger than {limit} bytes"
            raise ValueError(msg)
        return state_of(status), data
    finally:
        os.close(descriptor)


def ensure_folder(path: str) -> None:
    """
    Make a folder, and those above it, for the owner only. One that exists is left
    as it is.
    """
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent and parent != path:
        ensure_folder(parent)
    try:
        os.mkdir(path, FOLDER_MODE)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    else:
        sync_folder(parent or ".")


def sync_folder(path: str) -> None:
    """
    Make the names in a folder durable.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(folder: str, name: str, data: bytes) -> bool:
    """
    Write a new file of mode 0600, durably, and never over another: its name appears
    at once with the whole content. False when the name is taken.
    """
    path = os.path.join(folder, name)
    temporary = _write_temporary(folder, data)
    try:
        # A link, not a rename: a rename would replace what is there.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
        sync_folder(folder)
    return True


#: How temporary files are called.
_PREFIX, _SUFFIX = ".new-", ".tmp"
_TEMPORARY = re.compile(re.escape(_PREFIX) + ".*" + re.escape(_SUFFIX), re.DOTALL)

#: Seconds after which a temporary file is nobody's any more.
_LEFT = 3600


def replace_file(path: str, data: bytes) -> None:
    """
    Give a file new content, durably; a reader has the old or the new one, whole.
    """
    folder = os.path.dirname(path) or "."
    temporary = _write_temporary(folder, data)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_folder(folder)


def remove_leftovers(
    folder: str, now: float, names: re.Pattern[str] = _TEMPORARY
) -> int:
    """
    Remove temporary files that a program killed in the middle left behind: those
    that nobody has written to for an hour.

    Args:
        folder: Where they may be; it need not exist.
        now: Civil time, in seconds since 1970.
        names: What they are called in full.

    Returns:
        How many there were.
    """
    removed = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if names.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    if now - entry.stat(follow_symlinks=False).st_mtime > _LEFT:
                        os.unlink(entry.path)
                        removed += 1
    return removed


def _write_temporary(folder: str, data: bytes) -> str:
    """
    A new file of mode 0600 in the folder, its content on disk; returns its path.
    """
    descriptor, path = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(path)
        raise
    return path
