# SPDX-License-Identifier: MIT
"""
System calls that are counted, and one of which kills the process or fails.

Every call of the standard library that changes a disk goes through `os`, and ours that
it does not know through `nodecomm.sync.posix`, so both are replaced there. Nothing in
the product knows of this.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from nodecomm.sync import changing, durable, posix, tree_staging

#: What changes a disk, or makes it durable.
CALLS = (
    *("chmod", "chown", "fchmod", "fchown", "fsync", "ftruncate", "link", "mkdir"),
    *("removexattr", "rename", "rmdir", "setxattr", "symlink", "unlink", "utime"),
    *("write", "copy_file_range", "mknod"),
)

#: Ours: where each is looked up, and its name there.
OURS = (
    (changing, "exchange"),
    (changing, "rename_new"),
    (posix, "exchange"),
    (durable, "sync_file_system"),
)

#: Opening counts where it makes a file.
_MAKES = os.O_CREAT


@contextmanager
def each_call(seen: Callable[[str], object]) -> Iterator[None]:
    """
    Let *seen* be called with the name of each such call, right before it.
    """

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen(name)
            return real(*args, **kwargs)

        return call

    real_open = os.open

    def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & _MAKES:
            seen("open")
        return real_open(path, flags, *args, **kwargs)

    with _patches(
        [(os, name, counted(name, getattr(os, name))) for name in CALLS]
        + [(room, name, counted(name, getattr(room, name))) for room, name in OURS]
        + [(os, "open", opened)]
    ):
        yield


@contextmanager
def _patches(patches: list[tuple[Any, str, Any]]) -> Iterator[None]:
    begun = [mock.patch.object(room, name, new) for room, name, new in patches]
    for each in begun:
        each.start()
    try:
        yield
    finally:
        for each in reversed(begun):
            each.stop()


@contextmanager
def failing(number: int, error: int) -> Iterator[list[str]]:
    """
    Let the call of this number fail with the error, or all from there on if *number*
    is negative. Gives the names of the calls.
    """
    names: list[str] = []

    def seen(name: str) -> None:
        names.append(name)
        at = len(names)
        if at == number or (number < 0 and at >= -number):
            raise OSError(error, os.strerror(error))

    with each_call(seen):
        yield names


@contextmanager
def without(*calls: str) -> Iterator[None]:
    """
    Let a file system be one that does not know some things: `exchange`, `link`.
    """

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def refuse_link(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    patches: list[tuple[Any, str, Any]] = []
    if "exchange" in calls:
        patches += [
            (posix, "_renameat2", refuse),
            (tree_staging, "can_exchange", lambda *args: False),
        ]
    if "link" in calls:
        patches.append((os, "link", refuse_link))
    with _patches(patches):
        yield
