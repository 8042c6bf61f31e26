# SPDX-License-Identifier: MIT
"""
The calls that not every POSIX system has, behind capability checks.

Linux holds an object without opening it for reading (`O_PATH`), tells its real
name from the descriptor, opens the very same object for reading, and reads what is
in the page cache without ever waiting for a disk. Elsewhere the same functions
work with what there is; they open folders and plain files only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import stat
import sys
import termios
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "HAS_O_PATH",
    "hold",
    "in_memory",
    "open_held",
    "read_cached",
    "real_name",
]

_FD = "/proc/self/fd/"
_FD_BYTES = b"/proc/self/fd/"

#: Whether an object can be held without reading it, and named from its descriptor.
HAS_O_PATH = hasattr(os, "O_PATH") and os.path.isdir(_FD)

_HOLD = os.O_CLOEXEC | getattr(os, "O_PATH", 0)
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_NOWAIT = getattr(os, "RWF_NOWAIT", None)

#: Bytes read at a time. Memory for more than that is fetched from the system and given
#: back each time: 300 MB then cost 0.3 s of CPU more.
_PART = 1 << 16

#: Where bytes are read to that are only asked for.
_SCRATCH = memoryview(bytearray(_PART))

#: The system call cachestat(2), from Linux 6.5 on. It has the same number on all
#: machines but two old ones. Source: Linux, scripts/syscall.tbl.
_CACHESTAT = 451
_OTHER_NUMBERS = ("alpha", "mips")

#: Of so many bytes that are in memory the last is read, because pages that are still
#: on their way from the disk are counted, too.
_SAMPLE = 1 << 17
_ONE = memoryview(bytearray(1))

_PAGE = os.sysconf("SC_PAGE_SIZE")


def hold(path: bytes, *, follow: bool = True) -> int:
    """
    A descriptor that stands for the object called *path*, and reads nothing.

    Args:
        path: An absolute name.
        follow: Whether a symbolic link at the end of *path* is followed.

    Raises:
        OSError: As `os.open` does.
    """
    if HAS_O_PATH:
        return os.open(path, _HOLD if follow else _HOLD | os.O_NOFOLLOW)
    found = os.stat(path, follow_symlinks=follow)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        # Opening a fifo or a device could block or act; without O_PATH there is
        # no way to hold it.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return os.open(path, _READ if follow else _READ | os.O_NOFOLLOW)


def real_name(descriptor: int, path: bytes) -> bytes:
    """
    The absolute name, without links, of the object held by *descriptor*.

    Args:
        path: The name it was held by, used where the system cannot tell.
    """
    if HAS_O_PATH:
        return os.readlink(_FD_BYTES + b"%d" % descriptor)
    return os.path.realpath(path)


def link_text(descriptor: int, path: bytes) -> bytes:
    """
    The text of the symbolic link held by *descriptor*.
    """
    if HAS_O_PATH:
        return os.readlink(b"", dir_fd=descriptor)
    return os.readlink(path)


def open_held(descriptor: int) -> int:
    """
    Open the object held by *descriptor* for reading; the same object, whatever its
    name means by now.

    Raises:
        OSError: As `os.open` does.
    """
    if HAS_O_PATH:
        return os.open(_FD + str(descriptor), _READ)
    return os.dup(descriptor)


def names_in(descriptor: int) -> list[bytes]:
    """
    The names in the folder held by *descriptor*, in the order the system gives,
    without `.` and `..`.

    Raises:
        OSError: As `os.listdir` does.
    """
    if HAS_O_PATH:
        return os.listdir(_FD_BYTES + b"%d" % descriptor)
    return [os.fsencode(name) for name in os.listdir(descriptor)]


def read_cached(descriptor: int, offset: int, size: int) -> bytes | None:
    """
    At most *size* bytes from *offset* if they can be had without waiting for a
    disk; fewer when only a part can, and at most 64 KiB. None: they must be read
    elsewhere.

    Raises:
        OSError: As `os.preadv` does, but for "would block".
    """
    if _NOWAIT is None:
        return None
    size = min(size, _PART)
    buffer = bytearray(size)
    try:
        count = os.preadv(descriptor, [buffer], offset, _NOWAIT)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise
    if count == size:
        return bytes(buffer)
    return bytes(memoryview(buffer)[:count])


def in_memory(descriptor: int, offset: int, size: int) -> int:
    """
    How many bytes from *offset*, at most *size*, can be read without waiting for a
    disk; 0 also where that cannot be told.

    Raises:
        OSError: As `os.preadv` does, but for "would block".
    """
    if _NOWAIT is None:
        return 0
    if size > _PART and _is_in_memory(descriptor, offset, size):
        return size
    found = 0
    while found < size:
        # What is read is not looked at, so threads may share the place for it.
        place = _SCRATCH[: size - found]
        try:
            count = os.preadv(descriptor, [place], offset + found, _NOWAIT)
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                break
            raise
        found += count
        if count < len(place):
            break
    return found


def _is_in_memory(descriptor: int, offset: int, size: int) -> bool:
    """
    Whether all of these bytes are in memory for certain. False: maybe not.

    It is the quick way: 15 us for a megabyte, which takes 70 us to be read.
    """
    counted = _pages_in_memory()
    first, last = offset // _PAGE, (offset + size - 1) // _PAGE
    if counted is None or counted(descriptor, offset, size) <= last - first:
        return False
    end = offset + size - 1
    try:
        for at in (*range(offset + _SAMPLE - 1, end, _SAMPLE), end):
            if not os.preadv(descriptor, [_ONE], at, _NOWAIT):  # type: ignore[arg-type]
                return False
    except OSError:
        # Whatever it is, the other way finds it out.
        return False
    return True


@cache
def _pages_in_memory() -> Callable[[int, int, int], int] | None:
    """
    What tells how many pages of a range of a file are in memory, or 0 where the
    system does not tell; None where there is nothing to ask.
    """
    if sys.platform != "linux" or os.uname().machine.startswith(_OTHER_NUMBERS):
        return None
    try:
        call = ctypes.PyDLL(None, use_errno=True).syscall
    except (OSError, AttributeError):
        return None
    call.restype = ctypes.c_long
    call.argtypes = (
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_uint,
    )
    # Offset and length; then pages in memory, and four other counts.
    asked, told = ctypes.c_uint64 * 2, ctypes.c_uint64 * 5

    def pages(descriptor: int, offset: int, size: int) -> int:
        found = told()
        # Older systems know no such call, newer ones tell nothing of files that we
        # may not write.
        if call(_CACHESTAT, descriptor, asked(offset, size), found, 0):
            return 0
        return int(found[0])

    return pages


def unsent(descriptor: int) -> int:
    """
    Bytes that a socket's peer has not acknowledged; 0 where that cannot be told.
    """
    request = getattr(termios, "TIOCOUTQ", None)
    if request is None or descriptor < 0:
        return 0
    try:
        answer = fcntl.ioctl(descriptor, request, b"\0" * 4)
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


#: Asked for the end of what a socket's peer sends. Linux alone tells of it while
#: something before it is unread; elsewhere only of a connection that is broken.
_GONE = getattr(select, "POLLRDHUP", 0)


def has_gone(descriptor: int) -> bool:
    """
    Whether a socket's peer will send no more, whatever of it is still unread.
    """
    if descriptor < 0:
        return False
    poll = select.poll()
    poll.register(descriptor, _GONE)
    return bool(poll.poll(0))
