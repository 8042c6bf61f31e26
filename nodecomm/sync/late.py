# SPDX-License-Identifier: MIT
"""
What other programs did in the old set while the new one was being made from it.

A program that opened the old set's folder, or looked a name up just before the sets
changed places, writes into the old set. What it made there, and what it did to objects
that the server does not know, belongs into the new set as well.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from attrs import define, field

from nodecomm.sync.folders import Folders, entry_at, names_at
from nodecomm.sync.journal import Journal, Seen, Share
from nodecomm.sync.model import Kind, LocalEntry
from nodecomm.sync.posix import UNSUPPORTED
from nodecomm.sync.siblings import INSIDE

__all__ = ["LateChanges"]

#: Nanoseconds within which a folder may change twice and its time only once: clocks
#: of file systems are coarse.
_COARSE = 2 * 10**9

_CARRIED = (Share.CARRIED, Share.CARRIED_COPY)
_COPIES = (Share.COPY, Share.CARRIED_COPY)


@define(eq=False)
class LateChanges:
    """
    Finds them and carries them over.

    Args:
        journal: What was in the old set when the new one was made.
        old: The old set, open.
        new: The new set, open, in place.
        keeps: Whether a name that is not in the new set, or one that it has for this
            host's sake alone, is to stay; False: it would be removed by the next run.

    Attributes:
        moved: Names that are in the new set now, or no more, as in the old one.
        conflicts: Names that the new set has something else under.
    """

    _journal: Journal
    _old: int
    _new: int
    _keeps: Callable[[bytes, bool], bool]
    moved: list[bytes] = field(factory=list, init=False)
    conflicts: list[bytes] = field(factory=list, init=False)

    def carry(self) -> None:
        """
        Do it.

        Raises:
            OSError: The disk does not do it; what was done is in `moved`.
        """
        with Folders(self._old) as old, Folders(self._new) as new:
            present = set()
            listed = {b""}
            for above in self._folders_to_list(old):
                listed.add(above)
                try:
                    names = names_at(old.at(above))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                prefix = above + b"/" if above else b""
                for last in names:
                    if not above and last == INSIDE:
                        # Left by a run that was killed while it changed single files.
                        continue
                    present.add(prefix + last)
                    self._look(old, new, prefix + last)
            self._vanished(new, listed, present)
            for name, seen in self._journal.seen.items():
                # A copy does not change with the original, as a link does.
                above = name.rpartition(b"/")[0]
                if seen.share in _COPIES and above not in listed:
                    self._look(old, new, name)

    def _folders_to_list(self, old: Folders) -> Iterator[bytes]:
        """
        Folders whose names may have changed: their time did, or may not have shown it.
        """
        yield b""
        for name, seen in self._journal.seen.items():
            if seen.kind is not Kind.FOLDER:
                continue
            try:
                found = entry_at(*old.parent(name))
            except (FileNotFoundError, NotADirectoryError):
                continue
            if found.kind is Kind.FOLDER and (
                found.mtime_ns != seen.mtime_ns
                or found.ino != seen.ino
                or self._journal.taken - seen.mtime_ns < _COARSE
            ):
                yield name

    def _look(self, old: Folders, new: Folders, name: bytes) -> None:
        try:
            folder, last = old.parent(name)
            found = entry_at(folder, last)
        except (FileNotFoundError, NotADirectoryError):
            return
        seen = self._journal.seen.get(name)
        if seen is not None and seen.same(found):
            return
        is_folder = found.kind is Kind.FOLDER
        if not self._keeps(name, is_folder) and not self._was_carried(seen):
            return
        try:
            there = entry_at(*new.parent(name))
        except (FileNotFoundError, NotADirectoryError):
            there = None
        if there is not None and (there.dev, there.ino) == (found.dev, found.ino):
            # One file in both sets, written to in place.
            return
        if there is not None and not (
            self._was_carried(seen)
            and seen is not None
            and Kind.FOLDER not in (seen.kind, found.kind, there.kind)
        ):
            self.conflicts.append(name)
            return
        self._move(folder, new, name, there)

    def _move(
        self, folder: int, new: Folders, name: bytes, there: LocalEntry | None
    ) -> None:
        """
        Give the late object its name in the new set; the old set keeps it, too, where
        an object can have two names.
        """
        try:
            target, last = new.parent(name)
        except (FileNotFoundError, NotADirectoryError):
            self.conflicts.append(name)
            return
        try:
            if there is not None:
                os.rename(last, last, src_dir_fd=folder, dst_dir_fd=target)
            else:
                _give(folder, target, last)
        except FileExistsError:
            self.conflicts.append(name)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise
            self.conflicts.append(name)
        else:
            self.moved.append(name)

    def _vanished(self, new: Folders, listed: set[bytes], present: set[bytes]) -> None:
        """
        Remove what the new set has for this host's sake alone, and which is gone.
        """
        gone = [
            (name, seen)
            for name, seen in self._journal.seen.items()
            if self._was_carried(seen)
            and name not in present
            and name.rpartition(b"/")[0] in listed
        ]
        for name, seen in reversed(gone):
            try:
                folder, last = new.parent(name)
                there = entry_at(folder, last)
                if there.kind is Kind.FOLDER:
                    os.rmdir(last, dir_fd=folder)
                elif seen.share is Share.CARRIED_COPY or there.ino == seen.ino:
                    os.unlink(last, dir_fd=folder)
                else:
                    continue
            except OSError:
                # Something else by now, or not empty: then it stays.
                continue
            self.moved.append(name)

    @staticmethod
    def _was_carried(seen: Seen | None) -> bool:
        return seen is not None and seen.share in _CARRIED


def _give(folder: int, target: int, last: bytes) -> None:
    """
    Let an object appear under a name that is free.
    """
    try:
        os.link(last, last, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        # A folder has one name only, and some file systems know no second one.
        if error.errno not in UNSUPPORTED | {errno.EPERM, errno.EMLINK}:
            raise
        os.rename(last, last, src_dir_fd=folder, dst_dir_fd=target)
