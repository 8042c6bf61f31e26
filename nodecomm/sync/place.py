# SPDX-License-Identifier: MIT
"""
A destination: what is there, whether another set can take its place, and the way to
do it.

Everything here blocks; callers that must not wait run it in a pool.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from attrs import define, field

from nodecomm.sync.changing import recover
from nodecomm.sync.disk_errors import disk_errors, local_error
from nodecomm.sync.errors import LocalError
from nodecomm.sync.excluding import Exclusion
from nodecomm.sync.folders import Folders, entry_at, entry_from, open_folder, scan_tree
from nodecomm.sync.hashing import Hashed, hash_files
from nodecomm.sync.locking import lock_file, lock_folder
from nodecomm.sync.model import Kind, LocalEntry, SyncRequest
from nodecomm.sync.piecewise import PiecewiseStaging
from nodecomm.sync.posix import mount_of, mounts_below
from nodecomm.sync.siblings import INSIDE, NEAR, Site, split_destination
from nodecomm.sync.single import FileStaging
from nodecomm.sync.staging import Staging
from nodecomm.sync.tree_staging import TreeStaging
from nodecomm.wire.text import to_text

__all__ = ["Destination", "open_destination"]

#: What to do where a set cannot be replaced as a whole.
_REMEDY = (
    'replace = "files" changes it file by file (not all at once);'
    ' replace = "symlink" needs a destination that is a link beside its sets, in a'
    " folder that can be written to"
)


@define(eq=False)
class Destination:
    """
    The place that an update is for. Made by `open_destination`; `close` it.

    Attributes:
        site: The names.
        kind: What is there: a folder, a file, or None for nothing.
        warnings: What the run before left to say, one line each.
    """

    site: Site
    _request: SyncRequest
    _present: int | None
    kind: Kind | None
    warnings: tuple[str, ...] = ()
    _locks: list[int] = field(factory=list)
    _scan: dict[bytes, LocalEntry] | None = field(default=None, init=False)
    _taken: int = field(default=0, init=False)
    _strays: list[bytes] = field(factory=list, init=False)
    _staging: Staging | None = field(default=None, init=False)

    def __enter__(self) -> Destination:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def path(self) -> bytes:
        """Its name, absolute, without links above the last part."""
        return self.site.path

    def scan(self) -> dict[bytes, LocalEntry]:
        """
        What the present set consists of, folders before what is in them; also what is
        excluded from the update. Links are not followed.

        Raises:
            LocalError: It is no folder, or cannot be looked at.
        """
        if self.kind is Kind.FILE:
            msg = f"{self.site.show()} is a file, and the source is a folder"
            raise LocalError("not-a-folder", msg)
        self._taken = time.time_ns()
        if self._present is None:
            self._scan = {}
        else:
            with disk_errors(f"look through {self.site.show()}"):
                self._scan = scan_tree(self._present, (INSIDE,))
        if self._request.replace == "files":
            self._strays = [
                name
                for name, found in self._scan.items()
                if found.kind is not Kind.FOLDER
                and NEAR.fullmatch(name.rpartition(b"/")[2])
            ]
            for name in self._strays:
                del self._scan[name]
        return self._scan

    def entry(self, name: bytes = b"") -> LocalEntry | None:
        """
        One object of it as it is now; `b""` is the destination itself, as its link
        points to it.

        Raises:
            LocalError: It cannot be looked at.
        """
        with disk_errors(f"look at {self.site.show()}"):
            try:
                if not name:
                    if self._present is not None:
                        return entry_from(os.fstat(self._present))
                    return entry_at(self.site.folder, self.site.present())
                if self._present is None:
                    return None
                with Folders(self._present) as folders:
                    return entry_at(*folders.parent(name))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def hash(
        self, names: Iterable[bytes], algorithms: Sequence[str] = ("md5",)
    ) -> dict[bytes, Hashed]:
        """
        Digests of files in it, by name; `b""` is the destination itself if it is a
        file. What is no plain file, cannot be read, or changes meanwhile is left out.
        Several threads may hash at a time.
        """
        if self._present is not None:
            return hash_files(self._present, names, algorithms)
        if self.kind is Kind.FILE and b"" in names:
            found = hash_files(self.site.folder, (self.site.name,), algorithms)
            return dict(zip((b"",), found.values(), strict=False))
        return {}

    def free_space(self) -> int:
        """
        Bytes that this process may still write where files are fetched to.

        Raises:
            LocalError: It cannot be told.
        """
        inside = self._request.replace == "files" and self._present is not None
        at = self._present if inside else self.site.folder
        assert at is not None  # noqa: S101 - by the line above
        with disk_errors(f"find the free space of {self.site.show()}"):
            found = os.fstatvfs(at)
        blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
        return blocks * found.f_frsize

    def stage(self, *, single: bool = False) -> Staging:
        """
        Begin a new set beside the destination; what was begun is thrown away.

        Args:
            single: Whether the source is a file, so that the destination is one: its
                content is created under the name `b""`.

        Raises:
            LocalError: A set cannot take the destination's place here, or nothing
                can be written.
        """
        if not self._locks:
            msg = "a dry run changes nothing"
            raise ValueError(msg)
        if self._staging is not None:
            self._staging.discard()
            self._staging = None
        if single:
            if self.kind is Kind.FOLDER:
                msg = (
                    f"{self.site.show()} is a folder, and the source is a file:"
                    " name the file that it is to become"
                )
                raise LocalError("exists", msg)
            self._staging = FileStaging(self.site)
            return self._staging
        scan = self.scan() if self._scan is None else self._scan
        if self._request.replace == "files":
            self._staging = PiecewiseStaging(
                self.site, self._present, scan, self._strays
            )
        else:
            self._check_below()
            self._staging = TreeStaging(
                self.site,
                self._present,
                scan,
                taken=self._taken,
                keeps=keeper(self._request),
                link=self._request.replace == "symlink",
            )
        return self._staging

    def _check_below(self) -> None:
        """
        What is mounted inside would stay with the old set, and go with the one before
        that.
        """
        site = self.site
        present = site.present()
        for old in {site.previous, *site.slots} - {present}:
            below = mounts_below(site.beside(old))
            if below:
                msg = (
                    f"{to_text(below[0])} is a mount point inside a set before"
                    f" {site.show()}, which another update removes: unmount it"
                )
                raise LocalError("mount-point", msg)
        if self._present is None:
            return
        below = mounts_below(site.beside(present))
        if below:
            msg = (
                f"{to_text(below[0])} is a mount point inside {self.site.show()};"
                f" another set cannot take its place: {_REMEDY}"
            )
            raise LocalError("mount-point", msg)

    def close(self) -> None:
        """
        Throw away what has no place yet, and let others have the destination. Never
        fails; what cannot be removed is removed by the next run.
        """
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.discard()
        locks, self._locks = self._locks, []
        if self._present is not None and self._present not in locks:
            os.close(self._present)
        self._present = None
        for lock in locks:
            os.close(lock)
        self.site.close()


def keeper(request: SyncRequest) -> Callable[[bytes, bool], bool]:
    """
    Which names that the server does not have stay here.
    """
    excluded = Exclusion(request.exclude)

    def keeps(name: bytes, folder: bool) -> bool:
        if not request.purge or excluded(name, folder):
            return True
        parts = name.split(b"/")
        return any(
            excluded(b"/".join(parts[:depth]), True) for depth in range(1, len(parts))
        )

    return keeps


def open_destination(
    request: SyncRequest,
    *,
    now: Callable[[], float] = time.time,
    wait: float = 10.0,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
    program: str = "nodecomm",
) -> Destination:
    """
    Take hold of the destination of an update: look whether it can be done at all, wait
    for another update of it, and bring in order what a killed one left behind. A dry
    run only looks.

    Args:
        now: Civil time, in seconds since 1970.
        wait: Seconds to wait for another update of it.
        sleep: How to wait.
        monotonic: Seconds, for the waiting.
        program: Who we are, for those who have to wait for us.

    Raises:
        LocalError: It cannot be done. Nothing was changed.
    """
    site = _find(request)
    files = request.replace == "files"
    locks: list[int] = []
    present: int | None = None
    warnings: tuple[str, ...] = ()
    try:
        if not request.dry_run:
            try:
                locks.append(
                    lock_file(
                        site.folder,
                        site.lock,
                        site.show(),
                        now=now,
                        wait=wait,
                        sleep=sleep,
                        monotonic=monotonic,
                        program=program,
                    )
                )
            except OSError as error:
                told = local_error(error, f"write beside {site.show()}")
                if not files:
                    said = _instead(site, told)
                    raise LocalError(told.code, f"{told.text}{said}") from error
                if told.code not in ("read-only", "permission"):
                    raise told from error
                # Then the folder itself is the lock, below.
        if locks:
            with disk_errors(f"tidy up beside {site.show()}"):
                warnings = recover(site, keeper(request))
        kind, present = _look(site, files)
        if files and not request.dry_run and present is not None:
            with disk_errors(f"lock {site.show()}"):
                lock_folder(
                    present, site.show(), wait=wait, sleep=sleep, monotonic=monotonic
                )
            if not locks:
                locks.append(present)
        if not locks and not request.dry_run:
            msg = (
                f"{site.show()} is not there, and cannot be made: run as the owner of"
                f" {to_text(site.parent)}, or choose another destination"
            )
            raise LocalError("read-only", msg)
    except BaseException:
        if present is not None and present not in locks:
            locks.append(present)
        for descriptor in locks:
            os.close(descriptor)
        site.close()
        raise
    return Destination(site, request, present, kind, warnings, locks)


def _instead(site: Site, told: LocalError) -> str:
    """
    What to do when nothing can be written beside the destination.
    """
    if told.code not in ("permission", "read-only"):
        return ""
    kind = os.stat(site.path).st_mode if os.path.exists(site.path) else 0
    if stat.S_ISDIR(kind) and os.access(site.path, os.W_OK | os.X_OK):
        return f"; {_REMEDY}"
    if told.code == "read-only":
        return "; choose another destination"
    return (
        f"; run as the owner of {to_text(site.parent)}, or choose another destination"
    )


def _find(request: SyncRequest) -> Site:
    """
    The destination's place. A link to somewhere else stands for that place, as it
    does for every reader; one to sets of our own stands for itself.
    """
    parent, name = split_destination(request.destination)
    shown = to_text(request.destination)
    with disk_errors(f"find {shown}"):
        site = _site(parent, name)
        try:
            status = site.status(name)
            if status is None or not stat.S_ISLNK(status.st_mode) or site.linked():
                return site
            if request.replace == "symlink":
                msg = (
                    f"{shown} is a link to something else than a set of this program;"
                    " remove it, or name what it points to"
                )
                raise LocalError("exists", msg)
            target = os.path.realpath(site.path, strict=True)
        except FileNotFoundError:
            site.close()
            msg = f"{shown} is a link to something that does not exist"
            raise LocalError("not-a-folder", msg) from None
        except BaseException:
            site.close()
            raise
        site.close()
        return _site(*split_destination(target))


def _site(parent: bytes, name: bytes) -> Site:
    try:
        real = os.path.realpath(parent, strict=True)
        return Site(real, name, open_folder(real))
    except (FileNotFoundError, NotADirectoryError):
        msg = f"the folder {to_text(parent)} does not exist: make it first"
        raise LocalError("not-a-folder", msg) from None


def _look(site: Site, files: bool) -> tuple[Kind | None, int | None]:
    """
    What is at the destination, and a descriptor if it is a folder.
    """
    with disk_errors(f"look at {site.show()}"):
        name = site.present()
        status = site.status(name)
        if status is None:
            return None, None
        if stat.S_ISDIR(status.st_mode):
            descriptor = open_folder(name, site.folder)
            try:
                if not files and _is_mounted(site.folder, descriptor):
                    msg = (
                        f"{site.show()} is a mount point; another set cannot take its"
                        f" place: {_REMEDY}"
                    )
                    raise LocalError("mount-point", msg)
            except BaseException:
                os.close(descriptor)
                raise
            return Kind.FOLDER, descriptor
        if not stat.S_ISREG(status.st_mode):
            msg = f"{site.show()} is neither a folder nor a file"
            raise LocalError("not-a-folder", msg)
        if hasattr(os, "O_PATH"):
            held = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=site.folder)
            try:
                if _is_mounted(site.folder, held):
                    msg = f"{site.show()} is a mount point and cannot be replaced"
                    raise LocalError("mount-point", msg)
            finally:
                os.close(held)
        return Kind.FILE, None


def _is_mounted(parent: int, descriptor: int) -> bool:
    """
    Whether the open object is on another file system than the folder it is in, or
    the same one mounted once more.
    """
    if os.fstat(parent).st_dev != os.fstat(descriptor).st_dev:
        return True
    return mount_of(parent) != mount_of(descriptor)
