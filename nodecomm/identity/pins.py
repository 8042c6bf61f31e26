# SPDX-License-Identifier: MIT
"""
Digests whose key may be trusted on first contact, named by the operator beforehand.

A text file, one printed digest a line; what follows a `#` is a remark. It may be
edited by hand or put there by another tool: it is read anew when it has changed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nodecomm.identity.files import (
    FileState,
    ensure_folder,
    read_small,
    replace_file,
    settled,
    state_of,
)
from nodecomm.identity.keys import PublicKey, parse_digest, parse_digest_or_none

__all__ = ["PINS_NAME", "PinnedDigests"]

#: Bytes of the largest file that is read: some 200,000 digests.
MAX_PINS_BYTES = 8 * 1024 * 1024

#: The file's name in the state folder.
PINS_NAME = "trusted-digests"


class PinnedDigests:
    """
    The digests in one file.

    A digest alone does not say which key it means; whoever asks must have made sure
    that the key is sane (`nodecomm.identity.keys.check_sane`).

    Args:
        path: The file; it may be missing.
        now: Civil time, in seconds since 1970.
    """

    def __init__(
        self, path: str | os.PathLike[str], now: Callable[[], float] = time.time
    ) -> None:
        self.path = os.fspath(path)
        self._now = now
        self._state: FileState | None = None
        self._digests: frozenset[str] = frozenset()

    def contains(self, key: PublicKey) -> bool:
        """
        Whether one of the key's digests is in the file.

        Raises:
            OSError: The file is there and cannot be read.
            ValueError: It is no ordinary file of at most 8 MiB.
        """
        digests = self._current()
        return key.md5 in digests or key.sha in digests

    def digests(self) -> list[str]:
        """
        The digests, in order of their text.
        """
        return sorted(self._current())

    def bad_lines(self) -> list[tuple[int, str]]:
        """
        The lines that are no digest, with their numbers. They are passed over.
        """
        return [
            (number, line)
            for number, line in enumerate(self._lines(), 1)
            if _content(line) and parse_digest_or_none(_content(line)) is None
        ]

    def add(self, digest: str) -> bool:
        """
        Name a digest. False if it was named already.

        Raises:
            ValueError: It is no printed digest.
            OSError: It could not be written.
        """
        digest = parse_digest(digest)
        ensure_folder(os.path.dirname(self.path) or ".")
        with self._locked():
            lines = self._lines()
            if any(parse_digest_or_none(_content(line)) == digest for line in lines):
                return False
            self._write([*lines, digest])
        return True

    def remove(self, digest: str) -> bool:
        """
        Take a digest back. False if it was not named. Keys already stored stay.
        """
        digest = parse_digest(digest)
        if not os.path.exists(self.path):
            return False
        with self._locked():
            lines = self._lines()
            kept = [
                line for line in lines if parse_digest_or_none(_content(line)) != digest
            ]
            if len(kept) == len(lines):
                return False
            self._write(kept)
        return True

    def _current(self) -> frozenset[str]:
        try:
            state = state_of(os.stat(self.path))
        except FileNotFoundError:
            self._state = None
            return frozenset()
        if state != self._state:
            digests = (parse_digest_or_none(_content(line)) for line in self._lines())
            self._digests = frozenset(digest for digest in digests if digest)
            self._state = state if settled(state, self._now()) else None
        return self._digests

    def _lines(self) -> list[str]:
        try:
            _, data = read_small(self.path, MAX_PINS_BYTES)
        except FileNotFoundError:
            return []
        return data.decode("utf-8", "backslashreplace").splitlines()

    def _write(self, lines: list[str]) -> None:
        replace_file(self.path, "".join(f"{line}\n" for line in lines).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """
        One writer at a time, on a file of its own because the list is replaced.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(f"{self.path}.lock", flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _content(line: str) -> str:
    return line.partition("#")[0].strip()
