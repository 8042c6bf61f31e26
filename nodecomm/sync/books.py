# SPDX-License-Identifier: MIT
"""
The files that the network is needed for, and what they come to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define, field

from nodecomm.sync.errand import Errand, State
from nodecomm.sync.errors import LimitExceeded, LocalError
from nodecomm.sync.model import RemoteEntry
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.sync.clocks import Moment
    from nodecomm.sync.model import SyncLimits

__all__ = ["Books"]


@define(eq=False)
class Books:
    """
    All files of an update that the network is needed for, over all connections.

    Args:
        limits: What an update may cost.
        progressed: Called when anything has come about.

    Attributes:
        space: Bytes that the disk has room for; None: not known.
        files: By name.
        open: Files about which something is to be done.
        progress: How many files were brought to an end.
        fetched: Files of which the content was received and is right.
        bytes_fetched: Their content.
        bytes_wanted: Content of all files to fetch that are known of.
        bytes_come: Content received, right or not.
    """

    _limits: SyncLimits
    progressed: Callable[[], None]
    space: int | None = field(default=None, init=False)
    files: dict[bytes, Errand] = field(factory=dict, init=False)
    open: int = field(default=0, init=False)
    progress: int = field(default=0, init=False)
    fetched: int = field(default=0, init=False)
    bytes_fetched: int = field(default=0, init=False)
    bytes_wanted: int = field(default=0, init=False)
    bytes_come: int = field(default=0, init=False)
    _wanted: dict[bytes, int] = field(factory=dict, init=False)

    def enter(
        self, name: bytes, entry: RemoteEntry, state: State, seen: Moment
    ) -> Errand:
        """
        The file *name*, which the server described at *seen* as *entry*.
        """
        errand = self.files.get(name)
        if errand is None:
            errand = self.files[name] = Errand(name, entry, state)
            self.open += 1
        else:
            errand.entry = entry
            self.move(errand, state)
        errand.seen = seen
        return errand

    def move(self, errand: Errand, state: State) -> None:
        """
        Change the state of *errand*.
        """
        before, errand.state = errand.state, state
        self.open += state.is_open - before.is_open
        if before.is_open and not state.is_open:
            self.progress += 1
        if before is State.FETCHED:
            self.fetched -= 1
            self.bytes_fetched -= errand.received
        if state is State.FETCHED:
            self.fetched += 1
            self.bytes_fetched += errand.received
        self.progressed()

    def drop(self, name: bytes) -> bool:
        """
        Forget the file *name*; says whether there was one.
        """
        errand = self.files.pop(name, None)
        if errand is None:
            return False
        self.move(errand, State.LEFT)
        self.want(name, 0)
        return True

    def want(self, name: bytes, size: int) -> None:
        """
        The content of *name*, of *size* bytes, is to be fetched.

        Raises:
            LimitExceeded: It, or all together, are too large.
            LocalError: The disk has no room for it.
        """
        before = self._wanted.pop(name, 0)
        if size:
            self._wanted[name] = size
        self.bytes_wanted += size - before
        limits = self._limits
        if limits.file_size is not None and size > limits.file_size:
            msg = f"{to_text(name)} has {size} bytes, the limit is {limits.file_size}"
            raise LimitExceeded("file-size", msg)
        if limits.total_size is not None and self.bytes_wanted > limits.total_size:
            msg = (
                f"more than {limits.total_size} bytes would have to be fetched, which"
                " is the limit"
            )
            raise LimitExceeded("total-size", msg)
        if self.space is not None and self.bytes_wanted > self.space:
            msg = (
                f"at least {self.bytes_wanted} bytes are to be fetched, and the disk"
                f" has room for {self.space}"
            )
            raise LocalError("no-space", msg)
