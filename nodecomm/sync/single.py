# SPDX-License-Identifier: MIT
"""
A destination that is one file: its content is written beside it and renamed over it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from nodecomm.sync.building import check_names, may_give_away
from nodecomm.sync.disk_errors import disk_errors
from nodecomm.sync.folders import READ, entry_at, entry_from, open_folder, remove_tree
from nodecomm.sync.model import Kind, Wanted
from nodecomm.sync.posix import copy_content
from nodecomm.sync.siblings import Site, identity_of
from nodecomm.sync.staging import (
    Before,
    Commit,
    CommitReport,
    Fetches,
    FetchFolder,
    dress,
)

__all__ = ["FileStaging"]


class FileStaging(Fetches):
    """
    Replaces the file; see `Staging`. The one name of its set is `b""`.

    Args:
        site: The destination.

    Raises:
        LocalError: It cannot be done here.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._wanted: Wanted | None = None
        self._writing = f"write beside {site.show()}"
        with disk_errors(self._writing):
            os.mkdir(site.fetched, 0o700, dir_fd=site.folder)
            self._folder = open_folder(site.fetched, site.folder)
        self._fetch_folder = FetchFolder(self._folder)

    def assemble(self, wanted: Sequence[Wanted]) -> None:
        """
        Say what the file is to be: one object called `b""`. If it is `kept`, its
        content is copied.

        Raises:
            LocalError: The disk does not do it. The destination is as it was.
            ValueError: It is not one file.
        """
        (each,) = wanted
        if each.name or each.kind is not Kind.FILE:
            # The same words as for a set that has a wrong name in it.
            check_names(wanted)
            msg = f"{each.name!r} is not the destination itself"
            raise ValueError(msg)
        with disk_errors(f"make the new {self._site.show()}"):
            self._assemble(each)
        self._wanted = each

    def _assemble(self, each: Wanted) -> None:
        site = self._site
        mtime = None if each.mtime is None else each.mtime * 10**9
        try:
            model = os.open(site.name, READ, dir_fd=site.folder)
        except FileNotFoundError:
            if each.origin != "fetched":
                raise
            sink = self._fetch_folder.finished(b"")
            dress(self._folder, sink.label, each.mode, each.owner, mtime)
            return
        try:
            present = entry_from(os.fstat(model))
            if each.origin != "fetched":
                copy = self._fetch_folder.create(b"", ())
                target = os.open(copy.label, os.O_WRONLY, dir_fd=self._folder)
                try:
                    copy_content(model, target, present.size)
                finally:
                    os.close(target)
                copy.close()
                if mtime is None:
                    mtime = present.mtime_ns
            label = self._fetch_folder.finished(b"").label
            owner = each.owner
            if owner is None and may_give_away(present):
                owner = present.uid, present.gid
            dress(self._folder, label, each.mode, owner, mtime, model)
        finally:
            os.close(model)

    def commit(self, before: Before | None = None) -> CommitReport:
        """
        Put it in place.

        Args:
            before: Called when it is on disk, right before; what it raises ends it.

        Raises:
            LocalError: It could not be done; the destination is as it was.
        """
        site = self._site
        if self._wanted is None:
            msg = "there is no content yet"
            raise ValueError(msg)
        label = self._fetch_folder.finished(b"").label
        with disk_errors(f"put the new {site.show()} on disk"):
            descriptor = os.open(label, READ, dir_fd=self._folder)
            try:
                os.fsync(descriptor)
                identity = identity_of(os.fstat(descriptor))
            finally:
                os.close(descriptor)
        if before is not None:
            before(Commit(identity))
        with disk_errors(f"put the new {site.show()} in place"):
            os.rename(label, site.name, src_dir_fd=self._folder, dst_dir_fd=site.folder)
        warnings = []
        try:
            site.sync()
        except OSError as error:
            reason = error.strerror or str(error)
            warnings.append(
                f"the new file is in place, but maybe not on disk: {reason}"
            )
        found = {b"": entry_at(site.folder, site.name)}
        self.discard()
        return CommitReport(locals=found, warnings=tuple(warnings))

    def discard(self) -> None:
        """
        Remove what has no place yet. Never fails; the next run tries again.
        """
        if self._folder < 0:
            return
        self._fetch_folder.close()
        os.close(self._folder)
        self._folder = -1
        with suppress(OSError):
            remove_tree(self._site.folder, self._site.fetched)
