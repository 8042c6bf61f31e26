# SPDX-License-Identifier: MIT
"""
A destination that is changed file by file, where nothing else is possible. Each file
is replaced at once and whole; the set as such is not: readers meet new files beside old
ones, and a run that is killed leaves a mixture, which the next run completes.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress

from nodecomm.sync.attributes import set_owner
from nodecomm.sync.building import check_names
from nodecomm.sync.disk_errors import disk_errors
from nodecomm.sync.durable import make_durable
from nodecomm.sync.errors import LocalError
from nodecomm.sync.folders import (
    READ,
    Folders,
    entry_at,
    entry_from,
    open_folder,
    remove_tree,
    scan_tree,
)
from nodecomm.sync.model import Kind, LocalEntry, Wanted
from nodecomm.sync.posix import copy_content
from nodecomm.sync.siblings import INSIDE, Site, identity_of
from nodecomm.sync.staging import (
    Before,
    Commit,
    CommitReport,
    Fetches,
    FetchFolder,
    dress,
)
from nodecomm.wire.text import to_text

__all__ = ["PiecewiseStaging"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class PiecewiseStaging(Fetches):
    """
    Changes the destination; see `Staging`.

    Args:
        site: The destination.
        present: It, open; None: it is not there yet, and is made.
        scan: What was seen in it.
        strays: Names that a killed run left, which go.

    Raises:
        LocalError: It cannot be written to.
    """

    def __init__(
        self,
        site: Site,
        present: int | None,
        scan: Mapping[bytes, LocalEntry],
        strays: Sequence[bytes] = (),
    ) -> None:
        self._site = site
        self._scan = scan
        self._wanted: Sequence[Wanted] | None = None
        self._conflicts: list[bytes] = []
        self._writing = f"write in {site.show()}"
        with disk_errors(self._writing):
            if present is None:
                os.mkdir(site.name, dir_fd=site.folder)
                site.sync()
                self._root = open_folder(site.name, site.folder)
            else:
                self._root = os.dup(present)
            try:
                remove_tree(self._root, INSIDE)
                with Folders(self._root) as tree:
                    for name in strays:
                        remove_tree(*tree.parent(name))
                os.mkdir(INSIDE, 0o700, dir_fd=self._root)
                self._folder = open_folder(INSIDE, self._root)
            except BaseException:
                os.close(self._root)
                raise
        self._fetch_folder = FetchFolder(self._folder)

    def assemble(self, wanted: Sequence[Wanted]) -> None:
        """
        Make the fetched files ready, on disk. Nothing that is in place changes.

        Raises:
            LocalError: The disk does not do it.
            ValueError: *wanted* contradicts itself.
        """
        check_names(wanted)
        if any(each.name.partition(b"/")[0] == INSIDE for each in wanted):
            msg = f"the name {to_text(INSIDE)} is not free in {self._site.show()}"
            raise LocalError("exists", msg)
        labels = []
        with disk_errors(f"make new files in {self._site.show()}"):
            for each in wanted:
                if each.origin == "fetched" and each.kind is Kind.FILE:
                    sink = self._fetch_folder.finished(each.name)
                    mtime = None if each.mtime is None else each.mtime * 10**9
                    self._fetch_folder.dress(sink, each.mode, each.owner, mtime)
                    labels.append(sink.label)
            make_durable(self._folder, labels, ())
        self._wanted = wanted

    def commit(self, before: Before | None = None) -> CommitReport:
        """
        Change the destination.

        Args:
            before: Called right before the first change; what it raises ends it.

        Raises:
            LocalError: It could not be done to the end.
        """
        if self._wanted is None:
            msg = "there is no set yet"
            raise ValueError(msg)
        self._check_present()
        if before is not None:
            before(Commit(None))
        wanted = self._wanted
        with disk_errors(f"change files in {self._site.show()}"):
            with Folders(self._root) as tree:
                for each in wanted:
                    self._place(tree, each)
                self._remove(tree, wanted)
                for each in reversed(wanted):
                    if each.kind is Kind.FOLDER and each.origin != "carried":
                        self._finish(tree, each)
            os.rmdir(INSIDE, dir_fd=self._root)
            folders = [each.name for each in wanted if each.kind is Kind.FOLDER]
            make_durable(self._root, (), folders)
            found = scan_tree(self._root)
        names = {each.name: each.kind for each in wanted}
        return CommitReport(
            conflicts=tuple(sorted(self._conflicts)),
            locals={
                name: entry
                for name, entry in found.items()
                if names.get(name) is entry.kind
            },
        )

    def _check_present(self) -> None:
        """
        Make sure that the name still leads to the folder that was looked at, so that
        nobody hears of an update that no reader finds.
        """
        site = self._site
        with suppress(OSError):
            found = identity_of(os.stat(site.name, dir_fd=site.folder))
            if found == identity_of(os.fstat(self._root)):
                return
        msg = (
            f"{site.show()} was replaced by another program while the update was at"
            " work; the next run begins anew"
        )
        raise LocalError("exists", msg)

    def _place(self, tree: Folders, each: Wanted) -> None:
        if each.origin == "carried":
            return
        folder, last = tree.parent(each.name)
        try:
            there: LocalEntry | None = entry_at(folder, last)
        except FileNotFoundError:
            there = None
        if there is not None and (there.kind is Kind.FOLDER) != (
            each.kind is Kind.FOLDER
        ):
            # Nothing can be renamed over a folder, nor a folder over anything.
            remove_tree(folder, last)
            there = None
        if each.kind is Kind.FOLDER:
            if there is None:
                os.mkdir(last, 0o700, dir_fd=folder)
            elif there.mode & 0o700 != 0o700 and os.geteuid() != 0:
                os.fchmod(tree.at(each.name), there.mode | 0o700)
        elif each.kind is Kind.LINK:
            if (
                there is None
                or there.kind is not Kind.LINK
                or (there.target != each.target)
            ):
                os.symlink(each.target, b"link", dir_fd=self._folder)
                self._bring(b"link", folder, last)
            if each.owner is not None:
                os.chown(last, *each.owner, dir_fd=folder, follow_symlinks=False)
        elif each.origin == "fetched":
            self._bring(self._fetch_folder.finished(each.name).label, folder, last)
        elif there is None or there.kind is not Kind.FILE:
            msg = f"{to_text(each.name)} was changed by another program meanwhile"
            raise LocalError("io", msg)
        else:
            _adjust(folder, last, there, each)

    def _bring(self, label: bytes, folder: int, last: bytes) -> None:
        """
        Give what was made ready its name.
        """
        try:
            os.rename(label, last, src_dir_fd=self._folder, dst_dir_fd=folder)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            return
        # Another file system is mounted inside the destination.
        near = b".nodecomm-%b.tmp" % secrets.token_hex(8).encode()
        made = entry_at(self._folder, label)
        try:
            if made.kind is Kind.LINK:
                os.symlink(made.target, near, dir_fd=folder)
            else:
                self._copy_near(label, made, folder, near)
            os.rename(near, last, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(near, dir_fd=folder)
            raise
        os.unlink(label, dir_fd=self._folder)

    def _copy_near(
        self, label: bytes, made: LocalEntry, folder: int, near: bytes
    ) -> None:
        source = os.open(label, READ, dir_fd=self._folder)
        try:
            target = os.open(near, _CREATE, 0o600, dir_fd=folder)
            try:
                copied = copy_content(source, target, made.size)
                if copied != made.size:
                    raise OSError(errno.EIO, os.strerror(errno.EIO), near)
                set_owner(target, made.uid, made.gid)
                os.fchmod(target, made.mode)
                os.utime(target, ns=(made.mtime_ns, made.mtime_ns))
                os.fsync(target)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _remove(self, tree: Folders, wanted: Sequence[Wanted]) -> None:
        names = {each.name for each in wanted}
        for name in reversed(list(self._scan)):
            if name in names:
                continue
            try:
                folder, last = tree.parent(name)
                if entry_at(folder, last).kind is Kind.FOLDER:
                    os.rmdir(last, dir_fd=folder)
                else:
                    os.unlink(last, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                # Something appeared in there meanwhile: it stays.
                self._conflicts.append(name)

    @staticmethod
    def _finish(tree: Folders, each: Wanted) -> None:
        descriptor = tree.at(each.name)
        present = entry_from(os.fstat(descriptor))
        if each.owner is not None:
            set_owner(descriptor, *each.owner)
        if each.owner is not None or present.mode != each.mode:
            os.fchmod(descriptor, each.mode)
        if each.mtime is not None and present.mtime_ns // 10**9 != each.mtime:
            os.utime(descriptor, ns=(each.mtime * 10**9,) * 2)

    def discard(self) -> None:
        """
        Remove what has no place yet. Never fails; the next run tries again.
        """
        if self._root < 0:
            return
        self._fetch_folder.close()
        os.close(self._folder)
        with suppress(OSError):
            remove_tree(self._root, INSIDE)
        os.close(self._root)
        self._root = -1


def _adjust(folder: int, last: bytes, there: LocalEntry, each: Wanted) -> None:
    """
    Give a file that is in place the mode, owner and time that are wanted.
    """
    owner = each.owner is not None and (there.uid, there.gid) != each.owner
    mtime = each.mtime is not None and there.mtime_ns // 10**9 != each.mtime
    if there.mode == each.mode and not owner and not mtime:
        return
    dress(
        folder,
        last,
        each.mode,
        each.owner,
        None if each.mtime is None or not mtime else each.mtime * 10**9,
    )
