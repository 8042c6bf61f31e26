# SPDX-License-Identifier: MIT
"""
What must not be forgotten when the agent is killed: that a set was put in place and
`after_update` has not run since.

It is written down before a set takes its place, with the identity of the new set, so
that a later start can tell whether the set came to its place or not.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from nodecomm.identity.files import read_small, replace_file, sync_folder
from nodecomm.wire.text import from_text, to_text

__all__ = ["MOST_ATTEMPTS", "PENDING_NAME", "Pending", "PendingFile", "identity_of"]

#: The file in the state folder.
PENDING_NAME = "agent-pending.json"

#: How often `after_update` is begun for one change: a start that finds it interrupted
#: runs it once more. A program that ends the agent itself must not do so for ever.
MOST_ATTEMPTS = 2

#: Bytes of the file: a few sets, each with a path of 4 KiB at most in escapes.
_LARGEST = 4 * 1024 * 1024

#: Device and inode of the root of a set.
Identity = tuple[int, int]


@frozen
class _Set:
    """
    A set that was about to be put in place.

    Attributes:
        destination: Where.
        identity: Of the new set; None where that does not tell whether it is there.
        completes: Whether all other copies of that run had succeeded before.
    """

    destination: bytes
    identity: Identity | None
    completes: bool


@frozen
class Pending:
    """
    Changes that `after_update` has not been run for.

    Attributes:
        sets: Those that may have been put in place.
        attempts: How often `after_update` was begun for them.
    """

    sets: tuple[_Set, ...] = field(default=(), repr=False)
    attempts: int = 0

    @property
    def is_complete(self) -> bool:
        """
        Whether the run that made the changes was complete.
        """
        return any(one.completes for one in self.sets)

    @property
    def is_due(self) -> bool:
        """
        Whether anything changed.
        """
        return bool(self.sets)


def identity_of(destination: bytes) -> Identity | None:
    """
    Of what is at *destination* now, links followed; None for nothing.
    """
    try:
        status = os.stat(destination)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class PendingFile:
    """
    `Pending` on disk. All methods wait for the disk, and are called by one at a time.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        look: Callable[[bytes], Identity | None] = identity_of,
    ) -> None:
        """
        Args:
            folder: The state folder; it exists.
            look: Tells what is at a destination.
        """
        self.path = Path(folder) / PENDING_NAME
        self._look = look

    def load(self) -> Pending:
        """
        What is pending for all that is known. A file that cannot be understood counts
        as a change of an incomplete run: better once too often than never.

        Raises:
            OSError: It cannot be read.
        """
        try:
            _, data = read_small(str(self.path), _LARGEST)
        except FileNotFoundError:
            return Pending()
        except ValueError:
            return _UNKNOWN
        try:
            return _parse(json.loads(data))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return _UNKNOWN

    def settle(self) -> Pending:
        """
        Forget the sets that never came to their place, and return the rest.

        Raises:
            OSError: The file cannot be read or written.
        """
        pending = self.load()
        there = tuple(one for one in pending.sets if self._is_there(one))
        if there == pending.sets:
            return pending
        if not there:
            self.clear()
            return Pending()
        return self._save(attrs.evolve(pending, sets=there))

    def note(
        self, destination: bytes, identity: Identity | None, *, completes: bool
    ) -> None:
        """
        A set is about to be put in place. When this returns it is on disk.

        Raises:
            OSError: It could not be written: the set must not be put in place.
        """
        new = _Set(destination, identity, completes)
        pending = self.load()
        # Attempts were those for changes before this one.
        others = tuple(one for one in pending.sets if one != new)
        self._save(Pending((*others, new), 0))

    def completed(self) -> Pending:
        """
        The run is complete; returns what `after_update` is due for.

        Raises:
            OSError: The file cannot be read or written.
        """
        pending = self.settle()
        if not pending.is_due or pending.is_complete:
            return pending
        sets = tuple(attrs.evolve(one, completes=True) for one in pending.sets)
        return self._save(attrs.evolve(pending, sets=sets))

    def begin(self) -> int:
        """
        `after_update` is about to be started; returns which attempt this is.

        Raises:
            OSError: The file cannot be read or written.
        """
        pending = self.load()
        return self._save(attrs.evolve(pending, attempts=pending.attempts + 1)).attempts

    def clear(self) -> None:
        """
        Nothing is pending.

        Raises:
            OSError: The file could not be removed.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
            sync_folder(str(self.path.parent))

    def _is_there(self, one: _Set) -> bool:
        return one.identity is None or self._look(one.destination) == one.identity

    def _save(self, pending: Pending) -> Pending:
        content = {
            "version": 1,
            "attempts": pending.attempts,
            "sets": [
                {
                    "destination": to_text(one.destination),
                    "identity": one.identity,
                    "completes": one.completes,
                }
                for one in pending.sets
            ],
        }
        replace_file(str(self.path), json.dumps(content, indent=1).encode() + b"\n")
        return pending


#: What an unreadable file stands for.
_UNKNOWN = Pending((_Set(b"", None, False),))


def _parse(content: Any) -> Pending:
    sets = []
    for one in content["sets"]:
        identity = one["identity"]
        if identity is not None:
            device, inode = identity
            identity = (int(device), int(inode))
        destination = one["destination"]
        if not isinstance(destination, str):
            msg = "a destination is a text"
            raise TypeError(msg)
        path = from_text(destination)
        if b"\0" in path:
            msg = "no path has a NUL"
            raise ValueError(msg)
        sets.append(_Set(path, identity, bool(one["completes"])))
    return Pending(tuple(sets), int(content["attempts"]))
