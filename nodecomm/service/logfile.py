# SPDX-License-Identifier: MIT
"""
A file that log lines are appended to, and that can be reopened after rotation.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

__all__ = ["LogFile"]


class LogFile:
    """
    An append-only file, opened by name and opened anew by `reopen`.

    Every method may be called from any thread; a write and a reopening never
    overlap.
    """

    def __init__(self, path: Path, mode: int = 0o640) -> None:
        """
        Args:
            path: The file; its folder must exist. A relative name is taken from
                the folder the process is in now, not when the file is reopened.
            mode: Permissions of a file that is created, before the umask.
        """
        self.path = path.absolute()
        self._mode = mode
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def open(self) -> None:
        """
        Open the file if it is not open.

        Raises:
            OSError: It cannot be opened.
        """
        with self._lock:
            if self._descriptor is None:
                self._descriptor = self._open()

    def reopen(self) -> None:
        """
        Open the file by name again, as after `mv audit.log audit.log.1`.

        Raises:
            OSError: It cannot be opened; the old one stays in use.
        """
        with self._lock:
            fresh = self._open()
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = fresh

    def write(self, data: bytes) -> tuple[int, OSError | None]:
        """
        Append *data*.

        Returns:
            How many bytes of it the file took, and the error that stopped the
            rest, if any: a full disk may take half a line.
        """
        written = 0
        try:
            with self._lock:
                if self._descriptor is None:
                    self._descriptor = self._open()
                view = memoryview(data)
                while written < len(data):
                    written += os.write(self._descriptor, view[written:])
        except OSError as error:
            return written, error
        return written, None

    def close(self) -> None:
        """
        Close the file. A later write opens it again.
        """
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
        return os.open(self.path, flags, self._mode)
