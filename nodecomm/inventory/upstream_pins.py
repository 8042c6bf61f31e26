# SPDX-License-Identifier: MIT
"""
The keys that web servers showed the first time, on disk.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from nodecomm.identity.files import ensure_folder, read_small, replace_file

__all__ = ["PINS_NAME", "ServerPins"]

#: The file's name in the state folder.
PINS_NAME = "https-servers"

#: Bytes of the largest file that is read: some thousand servers.
_MAX_BYTES = 256 * 1024


class ServerPins:
    """
    A text file, `HOST:PORT sha256//...` a line; what follows a `#` is a remark. A
    server with several lines may have any of their keys. It may be edited by hand; it
    is read anew each time.

    Its methods block for as long as a local file system needs for a small file; the
    one that writes waits for the disk.

    Args:
        path: The file; it may be missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def of(self, server: str) -> tuple[str, ...]:
        """
        The keys of a server, `HOST:PORT`.

        Raises:
            OSError: The file is there and cannot be read.
            ValueError: A line of this server, or of none, names no key.
        """
        found = []
        for number, line in enumerate(self._lines(), 1):
            content = line.partition("#")[0].split()
            if not content:
                continue
            if len(content) != 2 or not content[1].startswith("sha256//"):
                msg = f"line {number} of {self.path} is not HOST:PORT sha256//..."
                raise ValueError(msg)
            if content[0].lower() == server.lower():
                found.append(content[1])
        return tuple(found)

    def add_first(self, server: str, pin: str) -> bool:
        """
        Keep the key of a server, on disk; False if one is kept already.

        Raises:
            OSError: It could not be written.
            ValueError: What is there cannot be read.
        """
        ensure_folder(os.path.dirname(self.path) or ".")
        with self._locked():
            if self.of(server):
                return False
            lines = [*self._lines(), f"{server.lower()} {pin}"]
            replace_file(self.path, "".join(f"{line}\n" for line in lines).encode())
        return True

    def _lines(self) -> list[str]:
        try:
            data = read_small(self.path, _MAX_BYTES)[1]
        except FileNotFoundError:
            return []
        except ValueError as error:
            msg = f"{self.path} {error}"
            raise ValueError(msg) from error
        return data.decode("utf-8", "backslashreplace").splitlines()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(f"{self.path}.lock", flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
