# SPDX-License-Identifier: MIT
"""
A folder of uploads: who owns it, what comes in, and what was put aside in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Generic, TypeVar

from nodecomm.identity.files import ensure_folder
from nodecomm.inventory.failures import FAILED_NAME, Failed, read_failed, write_reason
from nodecomm.inventory.pairs import BETWEEN, Part, sent_name
from nodecomm.inventory.tried import Tried
from nodecomm.inventory.trimming import Kept, find_kept, surplus

__all__ = ["FAILED_KEPT", "FAILED_SIZE", "NameTaken", "SpoolFolder", "SpoolInUse"]

Item = TypeVar("Item")

#: Failed inventories that are kept, and bytes of them; what goes is told.
FAILED_KEPT = 1000
FAILED_SIZE = 1 << 30


class SpoolInUse(Exception):  # noqa: N818
    """
    Another program owns the folder. Give each server a state folder of its own.
    """


class NameTaken(Exception):  # noqa: N818
    """
    A file of this name waits already, and was not to be replaced.
    """


class SpoolFolder(Generic[Item]):
    """
    What every folder of uploads has: a lock, `partial/` for uploads under way, and
    `failed/`, in which whatever was put aside has a folder of its own. It is generic in
    what waits in it.

    Args:
        folder: Where; it is made if it is not there.
        now: Civil time in UTC.
        failed_kept: How many are kept in `failed/`.
        failed_size: Bytes that are kept there.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        now: Callable[[], datetime],
        failed_kept: int = FAILED_KEPT,
        failed_size: int = FAILED_SIZE,
    ) -> None:
        self.folder = os.fspath(folder)
        self._now = now
        self._failed_kept = failed_kept
        self._failed_size = failed_size
        self._kept: dict[str, Kept] = {}
        self._partial = os.path.join(self.folder, "partial")
        self._failed = os.path.join(self.folder, FAILED_NAME)
        self._lock = threading.Lock()
        self._owned: int | None = None
        self._last_serial = 0

    # Opening and closing

    def open(self) -> list[Item]:
        """
        Take the folder, and find what an earlier program has left in it.

        Returns:
            What waits, the longest waiting first.

        Raises:
            SpoolInUse: Another program has it.
            OSError: It cannot be used.
        """
        self._own(*self._folders())
        try:
            return self._find_waiting()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """
        Leave the folder to others.
        """
        self._leave()
        with self._lock:
            self._forget_all()

    def _folders(self) -> tuple[Sequence[str], Sequence[str]]:
        """
        The folders in it that are emptied at the start, and those that are kept.
        """
        raise NotImplementedError

    def _find_waiting(self) -> list[Item]:
        """
        What an earlier program has left, the longest waiting first.
        """
        raise NotImplementedError

    def _forget_all(self) -> None:
        """
        Remember nothing of what waits. Under the lock.
        """
        raise NotImplementedError

    def _own(self, emptied: Sequence[str], kept: Sequence[str]) -> None:
        """
        Take the folder, and make what is to be in it.

        Raises:
            SpoolInUse: Another program has it.
            OSError: It cannot be used.
        """
        ensure_folder(self.folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(os.path.join(self.folder, "lock"), flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            msg = f"another program uses {self.folder}"
            raise SpoolInUse(msg) from None
        self._owned = descriptor
        try:
            for each in (self._partial, *emptied):
                shutil.rmtree(each, ignore_errors=True)
            for each in (self._partial, *emptied, *kept, self._failed):
                ensure_folder(each)
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        if self._owned is not None:
            os.close(self._owned)
            self._owned = None

    def free(self) -> int:
        """
        Bytes that the file system has left for this user.
        """
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def now(self) -> datetime:
        """
        Civil time in UTC.
        """
        return self._now()

    def note(self, item: Item, tried: Tried) -> None:
        """
        Note how a try went with something that waits on.

        Raises:
            OSError: It could not be written.
        """
        raise NotImplementedError

    def begin(self) -> Part:
        """
        An upload, of which nothing is seen before it is placed.

        Raises:
            OSError: There is no room, or no descriptor.
        """
        descriptor, path = tempfile.mkstemp(dir=self._partial)
        return Part(path, descriptor)

    def failed(self) -> list[Failed]:
        """
        What is in `failed/`, the oldest first.
        """
        return read_failed(self.folder)

    def trim_failed(self) -> list[str]:
        """
        Remove what failed beyond what is kept, see `nodecomm.inventory.trimming`. Not
        called by two threads at once.

        Returns:
            The serials of what was removed.
        """
        # Whoever tidies up may have removed all of it.
        ensure_folder(self._failed)
        self._kept = find_kept(self._failed, self._kept)
        gone = surplus(self._kept.values(), self._failed_kept, self._failed_size)
        for serial in gone:
            shutil.rmtree(os.path.join(self._failed, serial), ignore_errors=True)
        return sorted(gone)

    # Under the lock

    def _new_serial(self) -> str:
        microseconds = int(self._now().timestamp() * 1_000_000)
        self._last_serial = max(microseconds, self._last_serial + 1)
        return f"{self._last_serial:020d}"

    def _know_serial(self, serial: str) -> None:
        """
        New ones are to be greater than this one.
        """
        if serial.isascii() and serial.isdigit():
            self._last_serial = max(self._last_serial, int(serial))

    def _move_failed_with(self, folder: str, failed: Failed) -> None:
        """
        Move a folder to `failed/`, with the reason.
        """
        # The reason first: a folder that has one is decided about.
        write_reason(folder, failed)
        self._move_failed(folder)

    def _move_failed(self, folder: str) -> None:
        """
        Move a folder with a reason in it; its files are called as their sender has
        called them.
        """
        for name in os.listdir(folder):
            if BETWEEN in name:
                path = os.path.join(folder, name)
                os.rename(path, os.path.join(folder, sent_name(path)))
        ensure_folder(self._failed)
        os.rename(folder, os.path.join(self._failed, os.path.basename(folder)))
