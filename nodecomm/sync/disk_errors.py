# SPDX-License-Identifier: MIT
"""
What a failed system call means for the person whose disk it is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from nodecomm.sync.errors import LocalError
from nodecomm.wire.text import safe, to_text

__all__ = ["disk_errors", "local_error"]

_CODES = {
    errno.ENOSPC: "no-space",
    errno.EDQUOT: "no-space",
    errno.EROFS: "read-only",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EBUSY: "mount-point",
    errno.EXDEV: "mount-point",
    errno.ENOTDIR: "not-a-folder",
    errno.EEXIST: "exists",
}


def local_error(error: OSError, doing: str) -> LocalError:
    """
    The error of an update for one of the system.

    Args:
        doing: What was being done, to complete "cannot ...".
    """
    code = _CODES.get(error.errno or 0, "io")
    reason = os.strerror(error.errno) if error.errno else str(error)
    name = error.filename
    where = ""
    if isinstance(name, str):
        name = os.fsencode(name)
    if isinstance(name, bytes):
        where = f" ({to_text(name)})"
    return LocalError(code, safe(f"cannot {doing}: {reason}{where}"))


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """
    Turn errors of the system into `LocalError`.

    Args:
        doing: What is being done, to complete "cannot ...".
    """
    try:
        yield
    except OSError as error:
        raise local_error(error, doing) from error
