# SPDX-License-Identifier: MIT
"""
What the resource of inventories asks of whoever stores what is sent: a server that
decides about it (`Receiving`), or a relay that passes it on (`Relaying`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from nodecomm.inventory.failures import Failed
    from nodecomm.inventory.names import UploadName
    from nodecomm.inventory.pairs import Part, Sender
    from nodecomm.inventory.spool import Placed

__all__ = ["UploadFolder", "UploadStore"]


class UploadFolder(Protocol):
    """
    A folder of uploads. Only `begin` and `failed` may wait for the disk.
    """

    @property
    def folder(self) -> str:
        """Where it is."""
        ...

    @property
    def waiting(self) -> int:
        """Names of which something waits."""
        ...

    def waiting_of(self, address: str) -> int:
        """Those of them that came from one address and block others; or none."""
        ...

    @property
    def undecided(self) -> int:
        """Pairs that wait for a decision."""
        ...

    def holds(self, name: UploadName) -> bool:
        """Whether a file of exactly this name waits."""
        ...

    def completes(self, name: UploadName) -> bool:
        """Whether its other half waits, so that nothing waits for longer by it."""
        ...

    def free(self) -> int:
        """Bytes that the file system has left."""
        ...

    def begin(self) -> Part:
        """An upload of which nothing is seen before it is stored."""
        ...

    def failed(self) -> list[Failed]:
        """What was put aside."""
        ...


class UploadStore(Protocol):
    """
    Stores what is sent.
    """

    def start(self) -> Deferred[None]:
        """Open the folder, and begin with what waits in it."""
        ...

    def stop(self) -> Deferred[None]:
        """Begin nothing more, wait for what runs, and close the folder."""
        ...

    @property
    def spool(self) -> UploadFolder:
        """The folder."""
        ...

    @property
    def mark(self) -> str:
        """What marks the files that it passes on; "" if it passes on none."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether uploads can be stored."""
        ...

    def store(
        self, part: Part, name: UploadName, sender: Sender, *, only_new: bool
    ) -> Deferred[Placed]:
        """
        Store an upload that is whole.

        Returns:
            Fires when it is on disk; fails with `NameTaken`, `QueueFull` or OSError.
        """
        ...
