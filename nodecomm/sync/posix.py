# SPDX-License-Identifier: MIT
"""
The calls that not every POSIX system or file system has. Where there is none, they
raise `OSError` with ENOSYS or what the system says; nothing is pretended.

Whether a file system can exchange two names only shows when two existing names are
exchanged, so `can_exchange` does that with two folders of the caller's.
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import sys
from typing import Any

__all__ = [
    "UNSUPPORTED",
    "can_exchange",
    "copy_content",
    "exchange",
    "mount_of",
    "mounts_below",
    "rename_new",
    "sync_file_system",
]

#: What a system says that lacks a call, or whose file system does.
UNSUPPORTED = frozenset(
    {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
)

# Flags of renameat2(2).
_NOREPLACE = 1
_EXCHANGE = 2

#: Numbers of renameat2 for C libraries without the function, musl among them.
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "i686": 353}

_COPY_CHUNK = 1 << 24
_READ_CHUNK = 1 << 20


@functools.cache
def _libc() -> Any:
    # Not at the top: loading ctypes takes longer than many a run without changes.
    import ctypes  # noqa: PLC0415

    return ctypes.CDLL(None, use_errno=True)


def _call(function: Any, *args: Any) -> None:
    import ctypes  # noqa: PLC0415

    while function(*args) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _renameat2(folder: int, old: bytes, new: bytes, flags: int) -> None:
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = _libc()
    if hasattr(libc, "renameat2"):
        _call(libc.renameat2, folder, old, folder, new, flags)
        return
    number = _RENAMEAT2.get(platform.machine())
    if number is None or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    _call(libc.syscall, number, folder, old, folder, new, flags)


def exchange(folder: int, one: bytes, other: bytes) -> None:
    """
    Let two names in the folder change places, at once for everybody.

    Raises:
        OSError: It cannot be done; one of `UNSUPPORTED` where it never can.
    """
    _renameat2(folder, one, other, _EXCHANGE)


def rename_new(folder: int, old: bytes, new: bytes) -> None:
    """
    Rename within the folder to a name that is not taken.

    Where the system has no such call, an empty folder at *new* would be replaced by
    a folder; anything else fails just the same.

    Raises:
        FileExistsError: It is taken.
        OSError: It cannot be done.
    """
    try:
        _renameat2(folder, old, new, _NOREPLACE)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        if _exists(folder, new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)


def _exists(folder: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def can_exchange(folder: int, one: bytes, other: bytes) -> bool:
    """
    Whether the file system that the folder is on exchanges names, found out with two
    objects in it, which change places.

    Raises:
        OSError: Something else is wrong.
    """
    try:
        exchange(folder, one, other)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


def sync_file_system(descriptor: int) -> bool:
    """
    Put everything that was written to the file system of the open object on disk.

    Returns:
        False where there is no such call: then nothing was done.

    Raises:
        OSError: Something could not be written (told since Linux 5.8).
    """
    if not sys.platform.startswith("linux") or not hasattr(_libc(), "syncfs"):
        return False
    try:
        _call(_libc().syncfs, descriptor)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


def mount_of(descriptor: int) -> int | None:
    """
    The number of the mount that the open object was reached through. A folder bound
    onto another of the same file system has the same device, but not the same mount.
    None where the system does not tell.
    """
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            for line in file:
                key, _, value = line.partition(b":")
                if key == b"mnt_id":
                    return int(value)
    except (OSError, ValueError):
        pass
    return None


def mounts_below(path: bytes) -> list[bytes]:
    """
    What is mounted at names below *path*, an absolute name without links in it;
    sorted. Empty where the system does not tell.
    """
    prefix = path.rstrip(b"/") + b"/"
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.readlines()
    except OSError:
        return []
    found = set()
    for line in lines:
        fields = line.split(b" ", 5)
        if len(fields) > 5:
            point = _octal(fields[4])
            if point.startswith(prefix):
                found.add(point)
    return sorted(found)


def _octal(field: bytes) -> bytes:
    """
    A field of mountinfo: space, tab, newline and backslash are written in octal.
    """
    first, *rest = field.split(b"\\")
    return first + b"".join(
        bytes((int(part[:3], 8) & 0xFF,)) + part[3:] for part in rest
    )


def copy_content(source: int, target: int, size: int) -> int:
    """
    Copy the content of one open file to another, within the kernel where possible,
    shared by file systems that can.

    Args:
        size: Bytes to copy at the most.

    Returns:
        How many there were.

    Raises:
        OSError: As reading and writing do.
    """
    done = 0
    if hasattr(os, "copy_file_range"):
        try:
            while done < size:
                count = os.copy_file_range(
                    source, target, min(size - done, _COPY_CHUNK)
                )
                if not count:
                    break
                done += count
        except OSError as error:
            # Nothing is lost: both descriptors stand behind what was copied.
            if error.errno not in UNSUPPORTED | {errno.EXDEV, errno.EPERM}:
                raise
    while done < size:
        piece = os.read(source, min(size - done, _READ_CHUNK))
        if not piece:
            break
        write_all(target, piece)
        done += len(piece)
    return done


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """
    Write all of it, however often the system takes only a part.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
