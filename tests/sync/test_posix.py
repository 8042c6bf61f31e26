# SPDX-License-Identifier: MIT
"""
The calls that not every system has.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from nodecomm.sync import posix
from nodecomm.sync.hashing import hash_files
from nodecomm.sync.locking import _held
from nodecomm.sync.model import Kind
from nodecomm.sync.siblings import Site


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """An open folder with the files `a` and `b`."""
    (tmp_path / "a").write_bytes(b"a" * 100_000)
    (tmp_path / "b").write_bytes(b"b")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def refuse(number: int) -> object:
    """A call that always fails."""

    def call(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_exchange(tmp_path: Path, folder: int) -> None:
    """
    Two names change places; one that is missing is an error, not a lack.
    """
    assert posix.can_exchange(folder, b"a", b"b")
    assert (tmp_path / "a").read_bytes() == b"b"
    with pytest.raises(FileNotFoundError):
        posix.can_exchange(folder, b"a", b"c")
    with mock.patch.object(posix, "_renameat2", refuse(errno.EINVAL)):
        assert not posix.can_exchange(folder, b"a", b"b")


@pytest.mark.parametrize("lacking", [False, True])
def test_rename_to_a_free_name(tmp_path: Path, folder: int, lacking: bool) -> None:
    """
    A name that is taken stays what it is, also where the system has no call for it.
    """
    call = refuse(errno.ENOSYS) if lacking else posix._renameat2
    with mock.patch.object(posix, "_renameat2", call):
        with pytest.raises(FileExistsError):
            posix.rename_new(folder, b"a", b"b")
        posix.rename_new(folder, b"a", b"c")

    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


@pytest.mark.parametrize("error", [None, errno.EXDEV, errno.EINVAL, errno.ENOSYS])
@pytest.mark.parametrize("size", [0, 5, 100_000, 200_000])
def test_copy(tmp_path: Path, folder: int, error: int | None, size: int) -> None:
    """
    At most the bytes asked for are copied, whether the kernel does it or not.
    """
    real = os.copy_file_range
    call = real if error is None else refuse(error)
    source = os.open("a", os.O_RDONLY, dir_fd=folder)
    target = os.open("c", os.O_WRONLY | os.O_CREAT, dir_fd=folder)
    with mock.patch.object(os, "copy_file_range", call):
        assert posix.copy_content(source, target, size) == min(size, 100_000)
    os.close(source)
    os.close(target)

    assert (tmp_path / "c").read_bytes() == b"a" * min(size, 100_000)


def test_copy_reports_a_full_disk(folder: int) -> None:
    """
    What is wrong with the disk is not taken for a lack of the call.
    """
    source = os.open("a", os.O_RDONLY, dir_fd=folder)
    with (
        mock.patch.object(os, "copy_file_range", refuse(errno.ENOSPC)),
        pytest.raises(OSError, match="No space"),
    ):
        posix.copy_content(source, source, 10)
    os.close(source)


def test_mounts(tmp_path: Path) -> None:
    """
    The system's own mounts are found below the root, not below a new folder.
    """
    assert b"/proc" in posix.mounts_below(b"/")
    assert posix.mounts_below(b"/pro") == []
    assert posix.mounts_below(os.fsencode(tmp_path)) == []
    assert posix._octal(rb"/a\040b\134\011\012c") == b"/a b\\\t\nc"
    root, proc = os.open("/", os.O_RDONLY), os.open("/proc", os.O_RDONLY)
    assert posix.mount_of(root) != posix.mount_of(proc)
    os.close(root)
    os.close(proc)
    assert posix.mount_of(10**6) is None


def test_hashing(tmp_path: Path, folder: int) -> None:
    """
    Plain files have digests; links, pipes, folders and what is missing are left out.
    """
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/c").write_bytes(b"")
    (tmp_path / "way").symlink_to("sub")
    names = [b"a", b"link", b"fifo", b"sub", b"sub/c", b"way/c", b"missing", b"../x"]
    found = hash_files(folder, names, ["md5", "sha256"])

    assert set(found) == {b"a", b"sub/c"}
    content = b"a" * 100_000
    assert found[b"a"].digests == {
        "md5": hashlib.md5(content).digest(),
        "sha256": hashlib.sha256(content).digest(),
    }
    assert found[b"a"].entry.kind is Kind.FILE
    assert found[b"a"].entry.ino == (tmp_path / "a").stat().st_ino


def test_hashing_of_a_file_that_changes(tmp_path: Path, folder: int) -> None:
    """
    A digest of a file that was written to meanwhile is of nothing.
    """
    real = os.read

    def read(descriptor: int, size: int) -> bytes:
        data = real(descriptor, size)
        with open(tmp_path / "a", "ab") as file:
            file.write(b"x" if data else b"")
        return data[:1000] if len(data) > 1 else b""

    with mock.patch.object(os, "read", read):
        assert hash_files(folder, [b"a"], ["md5"]) == {}


@pytest.mark.parametrize("size", [1, 200, 236, 237, 238, 255])
def test_names_beside(size: int) -> None:
    """
    Names beside the destination are names, whatever its length, and differ from those
    of any other destination.
    """
    sites = [Site(b"/", b"n" * (size - 1) + end, -1) for end in (b"1", b"2")]
    names = [
        name
        for site in sites
        for name in (
            *(site.lock, site.new, site.fetched, site.previous, site.trash),
            *(site.journal, site.link, *site.slots),
        )
    ]

    assert len(set(names)) == len(names) == 18
    assert max(map(len, names)) <= 255
    assert all(name.startswith(b".n" if size > 1 else b".") for name in names)


@pytest.mark.parametrize("note", [b"", b"junk", b"[]", b'{"pid": "x"}', b"\xff"])
def test_lock_that_says_nothing(tmp_path: Path, note: bytes) -> None:
    """
    A lock file that was damaged costs the name of its holder only.
    """
    (tmp_path / "lock").write_bytes(note)
    descriptor = os.open(tmp_path / "lock", os.O_RDONLY)
    text = _held(descriptor, "/x", 1)
    os.close(descriptor)

    assert text == "another process is updating /x, for longer than 1 s"
