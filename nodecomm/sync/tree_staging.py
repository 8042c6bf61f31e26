# SPDX-License-Identifier: MIT
"""
A new set that is built beside the destination and takes its place as a whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress

from nodecomm.sync.attributes import copy_attributes, copy_default_list
from nodecomm.sync.building import Building
from nodecomm.sync.changing import Keeps, change_sets, recover
from nodecomm.sync.disk_errors import disk_errors
from nodecomm.sync.durable import make_durable
from nodecomm.sync.errors import LocalError
from nodecomm.sync.folders import open_folder, scan_tree
from nodecomm.sync.journal import Journal, Seen, Share, write_journal
from nodecomm.sync.model import Kind, LocalEntry, Wanted
from nodecomm.sync.posix import can_exchange
from nodecomm.sync.siblings import Site, identity_of
from nodecomm.sync.staging import Before, Commit, CommitReport, Fetches, FetchFolder

__all__ = ["TreeStaging"]


class TreeStaging(Fetches):
    """
    Builds the set; see `Staging`.

    Args:
        site: The destination.
        present: The present set, open; None: there is none.
        scan: What was seen in it.
        taken: When that was begun, civil time in nanoseconds.
        keeps: Whether a name stays that the server does not have.
        link: Whether the destination is to be a link to the set.

    Raises:
        LocalError: It cannot be done here. Nothing was left.
    """

    def __init__(
        self,
        site: Site,
        present: int | None,
        scan: Mapping[bytes, LocalEntry],
        *,
        taken: int,
        keeps: Keeps,
        link: bool,
    ) -> None:
        self._site = site
        self._writing = f"write beside {site.show()}"
        self._present = present
        self._scan = scan
        self._taken = taken
        self._keeps = keeps
        self._link = link
        self._building: Building | None = None
        self._done = False
        self._new = self._fetched = -1
        try:
            with disk_errors(f"make a new set beside {site.show()}"):
                self._prepare()
        except BaseException:
            self.discard()
            raise

    def _prepare(self) -> None:
        site = self._site
        # With the mode that any new folder gets, which is what a destination that
        # was not there before is to have.
        os.mkdir(site.new, 0o777, dir_fd=site.folder)
        os.mkdir(site.fetched, 0o777, dir_fd=site.folder)
        if (
            self._present is not None
            and not (self._link and site.linked())
            and not can_exchange(site.folder, site.new, site.fetched)
        ):
            raise LocalError("io", self._no_exchange())
        self._new = open_folder(site.new, site.folder)
        self._fetched = open_folder(site.fetched, site.folder)
        self._fetch_folder = FetchFolder(self._fetched)
        self._mode = stat.S_IMODE(os.fstat(self._new).st_mode)
        if self._present is not None:
            # Now, as it may not be allowed; and once more at the end.
            copy_attributes(self._present, self._new)
            copy_default_list(self._present, self._fetched)
        os.fchmod(self._new, 0o700)
        os.fchmod(self._fetched, 0o700)

    def _no_exchange(self) -> str:
        shown = self._site.show()
        if self._link:
            return (
                f"{shown} is a folder, and the file system cannot let a link take its"
                " place; rename the folder, and the next run makes the link"
            )
        return (
            f"the file system of {shown} cannot exchange two folders;"
            ' use replace = "symlink" (the destination becomes a link) or'
            ' replace = "files" (file by file, not all at once)'
        )

    def assemble(self, wanted: Sequence[Wanted]) -> None:
        """
        Make the new set of what was fetched and what is there.

        Raises:
            LocalError: The disk does not do it, or another program changes the
                present set too much. The destination is as it was.
            ValueError: *wanted* contradicts itself.
        """
        with disk_errors(f"build the new set beside {self._site.show()}"):
            if self._building is not None:
                msg = "a set is assembled once"
                raise ValueError(msg)
            building = Building(
                self._present, self._scan, self._new, self._fetch_folder
            )
            self._building = building
            building.build(wanted)

    def commit(self, before: Before | None = None) -> CommitReport:
        """
        Let it take the destination's place. What appeared there meanwhile is carried
        over.

        Args:
            before: Called when all is on disk, right before; what it raises ends it.

        Raises:
            LocalError: It could not be done; the destination is as it was.
        """
        site, building = self._site, self._building
        if building is None:
            msg = "there is no set yet"
            raise ValueError(msg)
        with disk_errors(f"put the new set of {site.show()} on disk"):
            self._check_present()
            if self._present is not None:
                copy_attributes(self._present, self._new)
            else:
                os.fchmod(self._new, self._mode)
            make_durable(self._new, building.written, building.folders)
            journal = self._journal(building)
            write_journal(site, journal)
        if before is not None:
            before(Commit(journal.identity))
        with disk_errors(f"put the new set of {site.show()} in place"):
            self._check_present()
            after = change_sets(site, journal, self._keeps)
        self._done = True
        return CommitReport(
            tuple(sorted(after.moved)),
            tuple(sorted(after.conflicts)),
            self._locals(building, after.warnings),
            tuple(after.warnings),
        )

    def _check_present(self) -> None:
        """
        Make sure that the present set is the one that was looked at.
        """
        expected = None
        if self._present is not None:
            expected = identity_of(os.fstat(self._present))
        status = self._site.status(self._site.present())
        found = None if status is None else identity_of(status)
        if found != expected:
            msg = (
                f"{self._site.show()} was replaced by another program while the update"
                " was at work; the next run begins anew"
            )
            raise LocalError("exists", msg)

    def _journal(self, building: Building) -> Journal:
        site = self._site
        linked = site.linked()
        old = slot = b""
        if self._link:
            slot = site.other_slot(linked)
            if self._present is not None:
                old = linked or site.link
        elif self._present is not None:
            old = linked or site.new
        nothing = Share.NOTHING
        shares = building.shares
        seen = {
            name: Seen(
                found.kind,
                shares.get(name, nothing),
                found.ino,
                found.size,
                found.mtime_ns,
            )
            for name, found in self._scan.items()
        }
        identity = identity_of(os.fstat(self._new))
        return Journal(identity, old, slot, self._taken, seen)

    def _locals(
        self, building: Building, warnings: list[str]
    ) -> dict[bytes, LocalEntry]:
        """
        What is in place of what was wanted. Later than the removal of the set before
        the previous one, which changes the times of what they shared.
        """
        try:
            found = scan_tree(self._new)
        except OSError as error:
            reason = error.strerror or str(error)
            warnings.append(
                f"the new set is in place and cannot be looked at: {reason}"
            )
            return {}
        states, folders = building.states, set(building.folders)
        return {
            name: entry
            for name, entry in found.items()
            if (name in folders and entry.kind is Kind.FOLDER)
            or (name in states and _same(states[name], entry))
        }

    def discard(self) -> None:
        """
        Remove whatever of it has no place yet. Never fails; the next run tries again.
        """
        site = self._site
        if self._fetched >= 0:
            self._fetch_folder.close()
            os.close(self._fetched)
            self._fetched = -1
        if self._new >= 0:
            os.close(self._new)
            self._new = -1
        if not self._done:
            self._done = True
            with suppress(OSError):
                recover(site, self._keeps)


def _same(before: LocalEntry, after: LocalEntry) -> bool:
    """
    Whether it is the same object with the same content, whatever its other names.
    """
    return (before.kind, before.ino, before.size, before.mtime_ns) == (
        after.kind,
        after.ino,
        after.size,
        after.mtime_ns,
    )
