# SPDX-License-Identifier: MIT
"""
What is done with a folder of uploads, whether somebody decides about them here or they
are passed on: it is opened away from the reactor, and what is gone from it is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nodecomm.inventory.pairs import Sender
from nodecomm.inventory.spool_folder import SpoolFolder
from nodecomm.inventory.tried import Tried
from nodecomm.server.pools import Pool, QueueFull

__all__ = ["SpoolWork"]

T = TypeVar("T")
Folder = TypeVar("Folder", bound=SpoolFolder[Any])


class SpoolWork(Generic[Folder]):
    """
    Works on a folder.

    Args:
        spool: The folder. It is opened and closed here.
        pool: Where what blocks is done.
    """

    _log = Logger("nodecomm.inventory")

    #: What marks the files that are passed on from here; "" where none are.
    mark = ""

    def __init__(self, spool: Folder, pool: Pool) -> None:
        self.spool = spool
        self._pool = pool
        self._started = False

    def start(self) -> Deferred[None]:
        """
        Open the folder and begin with what waits in it.

        Raises:
            SpoolInUse: Another program has it.
            OSError: It cannot be used.
        """
        return self._away(self.spool.open).addCallback(self._opened)

    def _opened(self, found: list[Any]) -> Deferred[None] | None:
        """
        Begin with what waits in the folder.
        """
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        """
        Whether uploads can be stored.
        """
        return self._started

    def _away(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        return maybeDeferred(self._pool.run, work, *args)

    async def _note(self, item: Any, tries: int, pause: float, reason: str) -> None:
        """
        Note how a try went with something that waits on; it is told anyway.

        Args:
            item: What was tried.
            tries: How often, by now.
            pause: Seconds until the next try.
            reason: Why it went wrong.
        """
        now = self.spool.now()
        again = now + timedelta(seconds=max(pause, 0.0))
        tried = Tried(tries, now, again, reason)
        with contextlib.suppress(OSError, QueueFull):
            await self._away(self.spool.note, item, tried)

    # What is told

    def _tell_gone(self, name: str, sender: Sender) -> None:
        """
        Somebody has removed the files: there is nothing to do with them.
        """
        self._log.warn(
            "the inventory {name} is gone from {folder}",
            event="inventory.gone",
            name=name,
            folder=self.spool.folder,
            peer=sender.address,
        )

    def _tell_forgotten(self, serials: Sequence[str]) -> None:
        """
        What failed was removed, if any was.
        """
        if serials:
            self._log.warn(
                "{count} failed inventories were removed, the oldest: {folder} holds"
                " no more",
                event="inventory.forgotten",
                count=len(serials),
                serials=serials,
                folder=self.spool.folder,
            )

    def _failed_looking(self, failure: Failure) -> None:
        self._log.failure(
            "cannot look through {folder}; it is tried again",
            failure,
            event="inventory.unsearchable",
            folder=self.spool.folder,
        )
