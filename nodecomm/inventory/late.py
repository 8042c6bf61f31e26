# SPDX-License-Identifier: MIT
"""
Documents that were put aside because their signature had not come: it may yet come to
light, when a server that has it was away.
"""

from __future__ import annotations

import contextlib
import os

from nodecomm.inventory.failures import FAILED_NAME, Failed, read_failed
from nodecomm.inventory.names import Half, read_name
from nodecomm.inventory.pairs import Waiting, mark_of

__all__ = ["LateDocuments"]


class LateDocuments:
    """
    Those of one spool, found in its `failed/` when somebody first asks for them. One
    thread at a time.

    Args:
        folder: That of the spool.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._found: dict[str, Waiting] | None = None

    def add(self, failed: Failed) -> None:
        """
        Something was put aside.
        """
        if self._found is not None:
            self._add(self._found, failed)

    def clear(self) -> None:
        """
        Look for them anew, the next time.
        """
        self._found = None

    def between(self, earliest: float, latest: float) -> list[Waiting]:
        """
        Those that arrived then, in seconds since 1970. Earlier ones are forgotten, and
        those that somebody has removed.

        Raises:
            OSError: The folder cannot be read.
        """
        found = []
        for serial, each in list(self._all().items()):
            try:
                arrived = os.stat(each.path).st_mtime
            except FileNotFoundError:
                self.remove(serial)
                continue
            if arrived < earliest:
                self.remove(serial)
            elif arrived <= latest:
                found.append(each)
        return found

    def find(self, name: str, mark: str) -> tuple[str, Waiting] | None:
        """
        The one of a name with this mark (see `nodecomm.inventory.pairs.mark_of`), and
        its serial.

        Raises:
            OSError: The folder cannot be read.
        """
        for serial, each in self._all().items():
            if each.name.pair == name:
                with contextlib.suppress(FileNotFoundError):
                    if mark_of(os.stat(each.path)) == mark:
                        return serial, each
        return None

    def remove(self, serial: str) -> None:
        """
        It is none any more.
        """
        if self._found is not None:
            self._found.pop(serial, None)

    def _all(self) -> dict[str, Waiting]:
        if self._found is None:
            found: dict[str, Waiting] = {}
            # Whoever tidies up may have removed all of it.
            with contextlib.suppress(FileNotFoundError):
                for failed in read_failed(self._folder):
                    self._add(found, failed)
            self._found = found
        return self._found

    def _add(self, found: dict[str, Waiting], failed: Failed) -> None:
        if failed.refusal.code != "no-signature" or len(failed.files) != 1:
            return
        try:
            name = read_name(failed.files[0])
        except ValueError:
            # Somebody has changed the reason.
            return
        if name.half is Half.DOCUMENT:
            folder = os.path.join(self._folder, FAILED_NAME, failed.serial)
            path = os.path.join(folder, name.text)
            found[failed.serial] = Waiting(path, name, failed.sender, arrived=0.0)
