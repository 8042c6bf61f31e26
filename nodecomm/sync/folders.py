# SPDX-License-Identifier: MIT
"""
Trees of local folders, gone through by descriptors: no component of a name is ever a
link that is followed, whatever others do to the tree meanwhile, and no depth is too
deep for one path.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Collection, Iterator
from types import TracebackType

from nodecomm.sync.model import Kind, LocalEntry

__all__ = [
    "READ",
    "Folders",
    "entry_at",
    "entry_from",
    "names_at",
    "open_folder",
    "remove_tree",
    "scan_tree",
]

#: How a file is opened to be read that may have become something else meanwhile.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Descriptors of folders that are kept open.
_KEEP = 32

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFLNK: Kind.LINK,
}


def open_folder(name: bytes, at: int | None = None) -> int:
    """
    A descriptor for the folder called *name*, which is not a link.

    Args:
        at: The folder that the name is in; None: the name is absolute.

    Raises:
        OSError: As `os.open` does; NotADirectoryError for a link, too.
    """
    try:
        return os.open(name, _FOLDER, dir_fd=at)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(
                errno.ENOTDIR, os.strerror(errno.ENOTDIR), name
            ) from None
        raise


class Folders:
    """
    The folders of a tree by their names relative to its root, opened as they are
    asked for. For one thread.

    Args:
        root: A descriptor of the root, which stays the caller's.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def __enter__(self) -> Folders:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptors back."""
        while self._open:
            os.close(self._open.popitem()[1])

    def at(self, name: bytes) -> int:
        """
        A descriptor of the folder, good until some others were asked for.

        Raises:
            OSError: It, or one above it, is missing, no folder, or not allowed.
        """
        if not name:
            return self._root
        found = self._open.get(name)
        if found is not None:
            self._open.move_to_end(name)
            return found
        missing = []
        above = name
        descriptor = self._root
        while above:
            known = self._open.get(above)
            if known is not None:
                descriptor = known
                break
            missing.append(above)
            above = above.rpartition(b"/")[0]
        for path in reversed(missing):
            descriptor = open_folder(path.rpartition(b"/")[2], descriptor)
            self._open[path] = descriptor
            # The one just opened is the newest, so never the one that goes.
            if len(self._open) > _KEEP:
                os.close(self._open.popitem(last=False)[1])
        return descriptor

    def parent(self, name: bytes) -> tuple[int, bytes]:
        """
        The folder that *name* is in, and its last part: what calls with `dir_fd`
        want.
        """
        above, _, last = name.rpartition(b"/")
        return self.at(above), last


def entry_from(status: os.stat_result, target: bytes = b"") -> LocalEntry:
    """
    What a stat result says.
    """
    mode = status.st_mode
    return LocalEntry(
        _KINDS.get(stat.S_IFMT(mode), Kind.OTHER),
        mode & 0o7777,
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_dev,
        status.st_nlink,
        target,
    )


def entry_at(folder: int, name: bytes) -> LocalEntry:
    """
    The object called *name* in the folder; of a link itself.

    Raises:
        OSError: There is none, or it is not allowed.
    """
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        return entry_from(status, os.readlink(name, dir_fd=folder))
    return entry_from(status)


def names_at(folder: int) -> list[bytes]:
    """
    The names in the folder, without `.` and `..`.
    """
    # Given a descriptor, Python answers with text, which turns back into the bytes.
    return [os.fsencode(name) for name in os.listdir(folder)]


def _walk(
    folders: Folders, skip: Collection[bytes] = ()
) -> Iterator[tuple[bytes, int, bytes, LocalEntry]]:
    """
    Everything below the root, folders before what is in them: name, the folder it is
    in, its last part, what it is. What vanishes meanwhile is left out.
    """
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        try:
            folder = folders.at(above)
            names = names_at(folder)
        except FileNotFoundError:
            continue
        prefix = above + b"/" if above else b""
        for last in names:
            if not above and last in skip:
                continue
            try:
                found = entry_at(folder, last)
            except FileNotFoundError:
                continue
            name = prefix + last
            yield name, folder, last, found
            if found.kind is Kind.FOLDER:
                waiting.append(name)


def scan_tree(root: int, skip: Collection[bytes] = ()) -> dict[bytes, LocalEntry]:
    """
    Everything below the open folder, folders before what is in them.

    Args:
        skip: Names in the root itself that are left out, with what is below.

    Raises:
        OSError: Something cannot be looked at. Its `filename` is the name.
    """
    with Folders(root) as folders:
        return {name: found for name, _, _, found in _walk(folders, skip)}


def remove_tree(parent: int, name: bytes) -> bool:
    """
    Remove the object called *name* in the folder, and what is below. Links are
    removed, not followed; folders that their owner may not change are opened up.

    Returns:
        False when there was nothing.

    Raises:
        OSError: Something cannot be removed; the rest may be gone.
    """
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=parent)
        return True
    _open_up(parent, name, status)
    root = open_folder(name, parent)
    try:
        with Folders(root) as folders:
            below = _empty(folders)
            for path in reversed(below):
                os.rmdir(path.rpartition(b"/")[2], dir_fd=folders.parent(path)[0])
    finally:
        os.close(root)
    os.rmdir(name, dir_fd=parent)
    return True


def _empty(folders: Folders) -> list[bytes]:
    """
    Remove all but the folders; returns those, parents first.
    """
    below: list[bytes] = []
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        folder = folders.at(above)
        prefix = above + b"/" if above else b""
        with os.scandir(folder) as entries:
            # All names first: removing while reading may skip some.
            found = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
        for text, is_folder in found:
            last = os.fsencode(text)
            if is_folder:
                status = os.stat(last, dir_fd=folder, follow_symlinks=False)
                _open_up(folder, last, status)
                below.append(prefix + last)
                waiting.append(prefix + last)
            else:
                os.unlink(last, dir_fd=folder)
    return below


def _open_up(parent: int, name: bytes, status: os.stat_result) -> None:
    """
    Let the owner of a folder look into it and change it, as removing needs.
    """
    if status.st_mode & 0o700 != 0o700 and status.st_uid == os.geteuid():
        # Not a link: this was asked just before, and nobody but the owner of what
        # is removed here could have put one there.
        os.chmod(name, 0o700, dir_fd=parent)
