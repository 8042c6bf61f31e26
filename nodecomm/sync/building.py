# SPDX-License-Identifier: MIT
"""
A new set, made of what was fetched and of what the present set has.

What stays as it is stays one file with two names, as long as both sets are there. What
changes in anything, and be it the mode, is copied: a link would change the present
set, too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping, Sequence

from attrs import define, field

from nodecomm.sync.attributes import copy_extended, set_owner
from nodecomm.sync.errors import LocalError
from nodecomm.sync.folders import READ, Folders, entry_at, entry_from, open_folder
from nodecomm.sync.journal import Share
from nodecomm.sync.model import Kind, LocalEntry, Wanted
from nodecomm.sync.posix import UNSUPPORTED, copy_content
from nodecomm.sync.staging import FetchFolder, dress
from nodecomm.wire.text import to_text

__all__ = ["Building", "check_names", "may_give_away"]

#: Why a second name cannot be given: too many already, another owner's file, a file
#: system that has none.
_NO_LINK = UNSUPPORTED | {errno.EMLINK, errno.EPERM, errno.EXDEV}

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def check_names(wanted: Iterable[Wanted]) -> None:
    """
    Make sure that every name stays below the root, in folders of the same set.

    Raises:
        ValueError: One does not, or stands twice, or before its folder. Whoever
            made the list should have seen to that.
    """
    folders = {b""}
    names = set()
    for each in wanted:
        name = each.name
        above, _, last = name.rpartition(b"/")
        if (
            last in (b"", b".", b"..")
            or b"\0" in name
            or name.startswith(b"/")
            or above not in folders
            or name in names
        ):
            msg = f"{name!r} has no place in the new set"
            raise ValueError(msg)
        names.add(name)
        if each.kind is Kind.FOLDER:
            folders.add(name)


@define(eq=False)
class Building:
    """
    A set under construction.

    Args:
        old: The present set's root, open; None: there is no present set.
        scan: What was seen in it.
        new: The new set's root, open; empty, and for its owner only.
        fetched: Where the content of new files is.

    Attributes:
        shares: What each name has of the present set.
        states: What each name is in the new set, but for folders.
        written: Files that have their own content.
        folders: All folders, parents first.
    """

    _old: int | None
    _scan: Mapping[bytes, LocalEntry]
    _new: int
    _fetched: FetchFolder
    shares: dict[bytes, Share] = field(factory=dict, init=False)
    states: dict[bytes, LocalEntry] = field(factory=dict, init=False)
    written: list[bytes] = field(factory=list, init=False)
    folders: list[bytes] = field(factory=list, init=False)
    _from: Folders | None = field(default=None, init=False)
    _to: Folders = field(init=False)

    def build(self, wanted: Sequence[Wanted]) -> None:
        """
        Make it, all modes and times included.

        Raises:
            ValueError: A name has no place in the set, or no content.
            LocalError: The present set is not what it was when it was looked at.
            OSError: The disk does not do it.
        """
        check_names(wanted)
        self._to = Folders(self._new)
        self._from = None if self._old is None else Folders(self._old)
        # By name, each folder's files stand together, and the folder is opened once;
        # a folder still stands before what is in it.
        wanted = sorted(wanted, key=_by_name)
        try:
            for each in wanted:
                self._make(each)
            changed = self._changed_folders(wanted)
            for each in reversed(wanted):
                if each.kind is Kind.FOLDER:
                    self._finish_folder(each, each.name in changed)
        finally:
            self._to.close()
            if self._from is not None:
                self._from.close()

    def _make(self, each: Wanted) -> None:
        folder, last = self._to.parent(each.name)
        if each.kind is Kind.FOLDER:
            os.mkdir(last, 0o700, dir_fd=folder)
            self.folders.append(each.name)
            carried = each.origin == "carried"
            self.shares[each.name] = Share.CARRIED if carried else Share.NOTHING
            return
        if each.origin == "fetched" and each.kind is Kind.FILE:
            sink = self._fetched.finished(each.name)
            mtime = None if each.mtime is None else each.mtime * 10**9
            self._fetched.dress(sink, each.mode, each.owner, mtime)
            _move_in(self._fetched.folder, sink.label, folder, last)
            made = entry_at(folder, last)
            self.written.append(each.name)
            self.shares[each.name] = Share.NOTHING
        elif each.kind is Kind.LINK and not self._is_there(each):
            made = self._make_link(each, folder, last)
        else:
            made = self._take_over(each, folder, last)
        self.states[each.name] = made

    def _is_there(self, each: Wanted) -> bool:
        """
        Whether the present set has this very link.
        """
        seen = self._scan.get(each.name)
        return each.origin == "carried" or (seen is not None and _fits(seen, each))

    def _make_link(self, each: Wanted, folder: int, last: bytes) -> LocalEntry:
        os.symlink(each.target, last, dir_fd=folder)
        if each.owner is not None:
            _own_link(folder, last, each.owner)
        if each.mtime is not None:
            times = (each.mtime * 10**9,) * 2
            os.utime(last, ns=times, dir_fd=folder, follow_symlinks=False)
        self.shares[each.name] = Share.NOTHING
        return entry_at(folder, last)

    def _take_over(self, each: Wanted, folder: int, last: bytes) -> LocalEntry:
        """
        Give an object of the present set a second name, or make a copy.
        """
        if self._from is None:
            msg = f"{each.name!r} is kept, and there is no present set"
            raise ValueError(msg)
        carried = each.origin == "carried"
        try:
            source, _ = self._from.parent(each.name)
            seen = self._scan.get(each.name)
            if carried or (seen is not None and _fits(seen, each)):
                made = _link(source, folder, last)
                if made is not None and (carried or _fits(made, each)):
                    share = Share.CARRIED if carried else Share.LINK
                    self.shares[each.name] = share
                    return made
                if made is not None:
                    os.unlink(last, dir_fd=folder)
            if each.kind is Kind.LINK and not carried:
                # It has become another one, or cannot have a second name here.
                return self._make_link(each, folder, last)
            made = self._copy(each, source, folder, last)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _moved_on(each.name) from error
        self.shares[each.name] = Share.CARRIED_COPY if carried else Share.COPY
        return made

    def _copy(self, each: Wanted, source: int, folder: int, last: bytes) -> LocalEntry:
        found = entry_at(source, last)
        if found.kind is not each.kind:
            raise _moved_on(each.name)
        if found.kind is Kind.LINK:
            os.symlink(found.target, last, dir_fd=folder)
            _own_link(folder, last, (found.uid, found.gid), must=False)
            return entry_at(folder, last)
        if found.kind is Kind.OTHER:
            return _copy_special(source, folder, last)
        descriptor = os.open(last, READ, dir_fd=source)
        try:
            before = entry_from(os.fstat(descriptor))
            if before.kind is not Kind.FILE:
                raise _moved_on(each.name)
            target = os.open(last, _CREATE, 0o600, dir_fd=folder)
            try:
                done = copy_content(descriptor, target, before.size + 1)
            finally:
                os.close(target)
            after = entry_from(os.fstat(descriptor))
            if done != before.size or after.mtime_ns != before.mtime_ns:
                raise _moved_on(each.name)
            mtime = before.mtime_ns
            mode = before.mode
            owner = each.owner
            if each.origin != "carried":
                mode = each.mode
                mtime = mtime if each.mtime is None else each.mtime * 10**9
            if owner is None and may_give_away(before):
                owner = before.uid, before.gid
            made = dress(folder, last, mode, owner, mtime, descriptor)
        finally:
            os.close(descriptor)
        self.written.append(each.name)
        return made

    def _changed_folders(self, wanted: Iterable[Wanted]) -> set[bytes]:
        """
        Folders in which names came, went, or stand for something else now.
        """
        names = set()
        changed = set()
        for each in wanted:
            names.add(each.name)
            seen = self._scan.get(each.name)
            if (
                each.origin == "fetched"
                or seen is None
                or seen.kind is not each.kind
                or seen.target != each.target
            ):
                changed.add(each.name.rpartition(b"/")[0])
        for name in self._scan.keys() - names:
            changed.add(name.rpartition(b"/")[0])
        return changed

    def _finish_folder(self, each: Wanted, changed: bool) -> None:
        carried = each.origin == "carried"
        target = self._to.at(each.name)
        seen = self._scan.get(each.name)
        mode, owner = each.mode, each.owner
        mtime = None if each.mtime is None else each.mtime * 10**9
        if self._from is not None and seen is not None and seen.kind is Kind.FOLDER:
            try:
                above, last = self._from.parent(each.name)
                source = open_folder(last, above)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _moved_on(each.name) from error
            try:
                copy_extended(source, target)
            finally:
                os.close(source)
            if owner is None and may_give_away(seen):
                owner = seen.uid, seen.gid
            if carried:
                mode = seen.mode
            if carried or (mtime is None and not changed):
                mtime = seen.mtime_ns
        if owner is not None:
            set_owner(target, *owner)
        os.fchmod(target, mode)
        if mtime is not None:
            os.utime(target, ns=(mtime, mtime))


def _by_name(each: Wanted) -> bytes:
    return each.name


def _fits(found: LocalEntry, each: Wanted) -> bool:
    """
    Whether a file or link needs no change to be what is wanted.
    """
    if found.kind is not each.kind:
        return False
    is_same = (
        found.target == each.target
        if found.kind is Kind.LINK
        else found.kind is Kind.FILE and found.mode == each.mode
    )
    return (
        is_same
        and (each.owner is None or (found.uid, found.gid) == each.owner)
        and (each.mtime is None or found.mtime_ns // 10**9 == each.mtime)
    )


def _link(source: int, folder: int, last: bytes) -> LocalEntry | None:
    """
    Give the object a second name; None where that cannot be.
    """
    try:
        os.link(last, last, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINK:
            return None
        raise
    return entry_at(folder, last)


def _move_in(source: int, label: bytes, folder: int, last: bytes) -> None:
    """
    Give fetched content its name. A rename would silently replace a name that the
    file system takes for the same one, such as one that differs by case.
    """
    try:
        os.stat(last, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(label, last, src_dir_fd=source, dst_dir_fd=folder)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), last)


def _copy_special(source: int, folder: int, last: bytes) -> LocalEntry:
    """
    Make a fifo or device like the one in *source*.
    """
    status = os.stat(last, dir_fd=source, follow_symlinks=False)
    if stat.S_ISSOCK(status.st_mode):
        msg = f"the socket {to_text(last)} cannot be in two sets on this file system"
        raise LocalError("io", msg)
    os.mknod(last, status.st_mode, status.st_rdev, dir_fd=folder)
    _own_link(folder, last, (status.st_uid, status.st_gid), must=False)
    os.chmod(last, stat.S_IMODE(status.st_mode), dir_fd=folder)
    return entry_at(folder, last)


def _own_link(
    folder: int, last: bytes, owner: tuple[int, int], *, must: bool = True
) -> None:
    try:
        os.chown(last, *owner, dir_fd=folder, follow_symlinks=False)
    except PermissionError:
        if must or os.geteuid() == 0:
            raise


def may_give_away(found: LocalEntry) -> bool:
    """
    Whether the owner that an object has can be kept for its copy.
    """
    return os.geteuid() == 0 or (
        found.uid == os.geteuid()
        and (found.gid == os.getegid() or found.gid in os.getgroups())
    )


def _moved_on(name: bytes) -> LocalError:
    msg = (
        f"{to_text(name)} was changed by another program while the update was at"
        " work; nothing was put in place, the next run begins anew"
    )
    return LocalError("io", msg)
