# SPDX-License-Identifier: MIT
"""
How a set takes its place, and what stays as it was.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import evolve

from nodecomm.sync.errors import LocalError
from nodecomm.sync.model import Kind, Replace, Wanted
from nodecomm.sync.place import open_destination
from nodecomm.sync.staging import Commit
from tests.sync.injected import without
from tests.sync.trees import make, own_names, put, read, request

MODES: tuple[Replace, ...] = ("exchange", "symlink", "files")

#: An access list with an entry for the user 1, as `system.posix_acl_access` has it.
ACL = bytes.fromhex(
    "02000000"
    "01000700ffffffff"
    "0200070001000000"
    "04000500ffffffff"
    "10000700ffffffff"
    "20000500ffffffff"
)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def update(
    root: Path, tree: dict[bytes, bytes | str | None], **settings: object
) -> None:
    """An update, to what *tree* says."""
    with open_destination(request(root, **settings)) as place:
        put(place, tree)


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[None]:
    """Something mounted on *path*; skipped where that is not allowed."""
    done = subprocess.run(
        ["mount", *options, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def as_nobody(work: Callable[[], None]) -> None:
    """Do it as another user than root, in a child."""
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can get to, and that belongs to nobody."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        inner = Path(name, "inner")
        inner.mkdir()
        os.chown(inner, 65534, 65534)
        yield inner


@pytest.mark.parametrize("replace", MODES)
def test_first_and_next_set(tmp_path: Path, replace: Replace) -> None:
    """
    A destination that is not there is made; what is there and not on the server stays.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"1", b"f": None, b"f/b": b"1"}, replace=replace)
    (root / "local").write_bytes(b"local")
    os.mkfifo(root / "fifo")
    inode = (root / "f/b").stat().st_ino
    os.unlink(root / "fifo")
    update(root, {b"a": b"2", b"f": None, b"f/b": b"1"}, replace=replace)

    assert read(root) == {b"a": b"2", b"f": None, b"f/b": b"1", b"local": b"local"}
    assert (root / "f/b").stat().st_ino == inode
    assert root.is_symlink() == (replace == "symlink")
    assert not own_names(root) & {"new", "fetched", "trash", "journal", "link"}


@pytest.mark.parametrize("replace", MODES)
def test_links_that_stay(tmp_path: Path, replace: Replace) -> None:
    """
    A link that leads where it did is the same link afterwards, whatever it leads to;
    one that leads elsewhere is another, and counts as a change of its folder.
    """
    root = tmp_path / "dest"
    texts = {b"up": "..", b"one": "x", b"gone": "/no/such", b"dir": "f", b"f/in": "."}
    update(root, {b"f": None, b"same": None, b"a": b"1", **texts}, replace=replace)
    before = {name: os.lstat(os.fsencode(root) + b"/" + name) for name in texts}
    for folder in ("f", "same"):
        os.utime(root / folder, (5, 5))
    changed = {**texts, b"f/in": ".."}

    update(root, {b"f": None, b"same": None, b"a": b"2", **changed}, replace=replace)

    assert read(root) == {b"f": None, b"same": None, b"a": b"2", **changed}
    for name, status in before.items():
        now = os.lstat(os.fsencode(root) + b"/" + name)
        is_same = (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
        assert is_same == (name != b"f/in"), name
    assert (root / "same").stat().st_mtime == 5
    assert (root / "f").stat().st_mtime != 5


def test_links_where_nothing_has_two_names(tmp_path: Path) -> None:
    """
    They are made anew.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"1", b"link": "a", b"up": ".."})
    with without("link"):
        update(root, {b"a": b"2", b"link": "a", b"up": "."})

    assert read(root) == {b"a": b"2", b"link": "a", b"up": "."}


@pytest.mark.parametrize("before", MODES)
@pytest.mark.parametrize("after", MODES)
def test_from_one_way_to_another(
    tmp_path: Path, before: Replace, after: Replace
) -> None:
    """
    The setting may change between runs, and back.
    """
    root = tmp_path / "dest"
    for number, replace in enumerate((before, before, after, after, before)):
        update(root, {b"a": b"%d" % number, b"same": b"same"}, replace=replace)

        assert read(root) == {b"a": b"%d" % number, b"same": b"same"}


@pytest.mark.parametrize("replace", MODES)
def test_kinds_change(tmp_path: Path, replace: Replace) -> None:
    """
    A file, a folder and a link take each other's places, in every way.
    """
    root = tmp_path / "dest"
    things: list[dict[bytes, bytes | str | None]] = [
        {b"x": b"file"},
        {b"x": None, b"x/y": b"below"},
        {b"x": "link"},
    ]
    for first in things:
        for second in things:
            for tree in (first, second):
                with open_destination(request(root, replace=replace)) as place:
                    put(place, tree, carry=False)
                assert read(root) == tree


@pytest.mark.parametrize("replace", MODES)
def test_modes(tmp_path: Path, replace: Replace) -> None:
    """
    Modes are the ones wanted whatever the process's mask, set-uid too; a kept file with
    another mode does not change in the old set.
    """
    root = tmp_path / "dest"
    tree: dict[bytes, bytes | str | None] = {b"s": b"s", b"k": b"k", b"f": None}
    mask = os.umask(0o077)
    try:
        with open_destination(request(root, replace=replace)) as place:
            put(place, tree, modes={b"s": 0o4755, b"f": 0o2775})
        with open_destination(request(root, replace=replace)) as place:
            put(place, tree, modes={b"s": 0o4755, b"k": 0o606, b"f": 0o555})
    finally:
        os.umask(mask)

    found = {name: stat.S_IMODE((root / name).stat().st_mode) for name in "skf"}
    assert found == {"s": 0o4755, "k": 0o606, "f": 0o555}
    if replace == "exchange":
        old = tmp_path / ".dest.nodecomm-previous/k"
        assert stat.S_IMODE(old.stat().st_mode) == 0o644
        assert (root / "s").stat().st_nlink == 2


@pytest.mark.parametrize("replace", ["exchange", "symlink"])
def test_the_destination_stays_what_it_is(tmp_path: Path, replace: Replace) -> None:
    """
    Mode, owner, access list and extended attributes of the destination and of folders
    in it stay, and what the folder above hands down is not added.
    """
    root = tmp_path / "dest"
    make(root, {b"f": None, b"a": b"a"})
    try:
        for path in (root, root / "f"):
            os.setxattr(path, "system.posix_acl_access", ACL)
            os.setxattr(path, "user.note", b"note")
        os.setxattr(tmp_path, "system.posix_acl_default", ACL)
    except OSError as error:
        pytest.skip(f"the file system has no access lists: {error}")
    os.chmod(root, 0o2771)
    if os.geteuid() == 0:
        os.chown(root, 12, 34)
        os.chmod(root, 0o2771)
    before = root.stat()
    lists = [os.getxattr(p, "system.posix_acl_access") for p in (root, root / "f")]
    mode = stat.S_IMODE((root / "f").stat().st_mode)
    with open_destination(request(root, replace=replace)) as place:
        put(place, {b"f": None, b"a": b"b"}, modes={b"f": mode})
    after = root.stat()

    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert after.st_ino != before.st_ino
    for path, expected in zip((root, root / "f"), lists, strict=True):
        names = sorted(os.listxattr(path))
        assert names == ["system.posix_acl_access", "user.note"]
        assert os.getxattr(path, "system.posix_acl_access") == expected


def test_open_folder_keeps_its_set(tmp_path: Path) -> None:
    """
    Who has the destination open reads the old set to the end.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"old", b"b": b"old"})
    descriptor = os.open(root, os.O_RDONLY)
    try:
        update(root, {b"a": b"new", b"b": b"new"})
        for name in ("a", "b"):
            file = os.open(name, os.O_RDONLY, dir_fd=descriptor)
            assert os.read(file, 10) == b"old"
            os.close(file)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("replace", ["exchange", "symlink"])
def test_carried_objects(tmp_path: Path, replace: Replace) -> None:
    """
    Local objects of every kind are carried over with all they have; links are not
    followed.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"1"}, replace=replace)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(root / "socket"))
    (root / "dangling").symlink_to("/nowhere/at/all")
    (root / "outside").symlink_to(tmp_path)
    (root / "sub").mkdir(mode=0o500)
    os.utime(root / "sub", (5, 5))
    (root / "file").write_bytes(b"f")
    os.chmod(root / "file", 0o4711)
    inode = (root / "file").stat().st_ino
    update(root, {b"a": b"2"}, replace=replace)

    kinds = {p.name: stat.S_IFMT(p.lstat().st_mode) for p in root.iterdir()}
    assert kinds == {
        "a": stat.S_IFREG,
        "fifo": stat.S_IFIFO,
        "socket": stat.S_IFSOCK,
        "dangling": stat.S_IFLNK,
        "outside": stat.S_IFLNK,
        "sub": stat.S_IFDIR,
        "file": stat.S_IFREG,
    }
    assert (root / "sub").stat().st_mtime == 5
    assert stat.S_IMODE((root / "sub").stat().st_mode) == 0o500
    assert (root / "file").stat().st_ino == inode


def test_late_changes(tmp_path: Path) -> None:
    """
    What other programs do to local names while the new set is made is done to the new
    set; what they do to the server's names is a conflict, and stays in the old set.
    """
    root = tmp_path / "dest"
    tree: dict[bytes, bytes | str | None] = {b"f": None, b"f/a": b"1", b"b": b"1"}
    update(root, tree)
    for name in ("written", "replaced", "removed", "f/removed"):
        (root / name).write_bytes(b"before")

    def meanwhile() -> None:
        (root / "appeared").write_bytes(b"late")
        (root / "f/appeared").write_bytes(b"late")
        (root / "folder").mkdir()
        (root / "folder/appeared").write_bytes(b"late")
        (root / "written").write_bytes(b"late")
        (root / "other").write_bytes(b"late")
        (root / "other").rename(root / "replaced")
        (root / "removed").unlink()
        (root / "f/removed").unlink()
        (root / "wanted").write_bytes(b"late")
        (root / "other").write_bytes(b"late")
        (root / "other").rename(root / "f/a")

    with open_destination(request(root)) as place:
        new: dict[bytes, bytes | str | None] = {**tree, b"b": b"2", b"wanted": b"2"}
        report = put(place, new, assembled=meanwhile)

    assert read(root) == {
        **new,
        b"appeared": b"late",
        b"f/appeared": b"late",
        b"folder": None,
        b"folder/appeared": b"late",
        b"written": b"late",
        b"replaced": b"late",
    }
    assert report.conflicts == (b"f/a", b"wanted")
    assert set(report.moved) == {
        *(b"appeared", b"f/appeared", b"folder"),
        *(b"replaced", b"removed", b"f/removed"),
    }
    assert report.warnings == ()
    assert b"written" not in report.locals
    previous = tmp_path / ".dest.nodecomm-previous"
    assert (previous / "wanted").read_bytes() == b"late"


def test_late_names_are_purged(tmp_path: Path) -> None:
    """
    With purge, what appears meanwhile stays in the old set, unless it is excluded.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"1"})
    settings = {"purge": True, "exclude": (b"*.keep", b"dir/")}

    def meanwhile() -> None:
        (root / "x").write_bytes(b"late")
        (root / "x.keep").write_bytes(b"late")
        (root / "dir").mkdir()

    with open_destination(request(root, **settings)) as place:
        report = put(place, {b"a": b"2"}, carry=False, assembled=meanwhile)

    assert read(root) == {b"a": b"2", b"x.keep": b"late", b"dir": None}
    assert (report.moved, report.conflicts) == ((b"dir", b"x.keep"), ())


@pytest.mark.parametrize("lacking", [("link",), ("exchange",), ("link", "exchange")])
def test_poor_file_systems(tmp_path: Path, lacking: tuple[str, ...]) -> None:
    """
    Without second names files are copied; without exchange the update says what to do
    instead, before anything is fetched, and a destination that is a link works.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"1", b"same": b"same"})
    (root / "local").write_bytes(b"local")
    os.utime(root / "local", ns=(5, 5))
    with without(*lacking):
        if "exchange" in lacking:
            with (
                open_destination(request(root)) as place,
                pytest.raises(LocalError, match=r'"symlink".*"files"'),
            ):
                place.stage()
            with (
                open_destination(request(root, replace="symlink")) as place,
                pytest.raises(LocalError, match="rename the folder"),
            ):
                place.stage()
            root = tmp_path / "link"
            update(root, {b"a": b"1", b"same": b"same"}, replace="symlink")
            (root / "local").write_bytes(b"local")
            os.utime(root / "local", ns=(5, 5))
            update(root, {b"a": b"2", b"same": b"same"}, replace="symlink")
        else:
            update(root, {b"a": b"2", b"same": b"same"})

    assert read(root) == {b"a": b"2", b"same": b"same", b"local": b"local"}
    assert (root / "local").stat().st_mtime_ns == 5
    assert (root / "same").stat().st_nlink == (1 if "link" in lacking else 2)


def test_late_changes_of_copies(tmp_path: Path) -> None:
    """
    Where a local file is a copy, writing to the old one meanwhile is not lost.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"1"})
    (root / "local").write_bytes(b"before")
    with without("link"), open_destination(request(root)) as place:
        report = put(
            place,
            {b"a": b"2"},
            assembled=lambda: (root / "local").write_bytes(b"after"),
        )

    assert read(root) == {b"a": b"2", b"local": b"after"}
    assert report.moved == (b"local",)


@root_only
def test_mount_points(tmp_path: Path) -> None:
    """
    A mount point, also one of the same file system, and one inside are told before
    anything is fetched; file by file works.
    """
    root = tmp_path / "dest"
    other = tmp_path / "other"
    make(root, {b"sub": None})
    make(other, {b"a": b"1"})
    for options in (("-t", "tmpfs", "none"), ("--bind", str(other))):
        with mounted(root, *options):
            with pytest.raises(LocalError, match=r"mount point.*files") as caught:
                open_destination(request(root))
            assert caught.value.code == "mount-point"
            update(root, {b"a": b"2"}, replace="files")
            assert read(root) == {b"a": b"2"}
        with mounted(root / "sub", *options):
            with (
                open_destination(request(root)) as place,
                pytest.raises(LocalError, match="mount point inside") as caught,
            ):
                place.stage()
            assert caught.value.code == "mount-point"
            update(root, {b"sub": None, b"sub/a": b"3"}, replace="files")
            assert read(root) == {b"sub": None, b"sub/a": b"3"}


@root_only
def test_mounted_in_the_set_before(tmp_path: Path) -> None:
    """
    What somebody mounts in an old set is not removed with it, at whatever moment.
    """
    root, other = tmp_path / "dest", tmp_path / "other"
    make(other, {b"precious": b"1"})
    update(root, {b"sub": None})
    update(root, {b"sub": None, b"a": b"1"})
    before = tmp_path / ".dest.nodecomm-previous" / "sub"
    with mounted(before, "--bind", str(other)):
        with pytest.raises(LocalError, match=r"before .*unmount it") as caught:
            update(root, {b"sub": None, b"a": b"2"})
        assert caught.value.code == "mount-point"
    trash = tmp_path / ".dest.nodecomm-trash" / "sub"
    bind = ["mount", "--bind", str(other), str(before)]
    with open_destination(request(root)) as place:
        tree: dict[bytes, bytes | str | None] = {b"sub": None, b"a": b"3"}
        report = put(place, tree, assembled=lambda: subprocess.run(bind, check=True))
    try:
        assert any("is a mount point" in line for line in report.warnings)
        with open_destination(request(root)) as place:
            assert any("is a mount point" in line for line in place.warnings)
    finally:
        subprocess.run(["umount", str(trash)], check=True)
    assert read(root) == tree
    open_destination(request(root)).close()
    assert own_names(root) == {"lock", "previous"}
    assert read(other) == {b"precious": b"1"}


@root_only
def test_journal_of_somebody_else(tmp_path: Path) -> None:
    """
    In a folder that others may write to, they do not say what belongs into the
    destination by writing that a run was killed.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"1"})
    status = root.stat()
    told = (b"nodecomm-journal 1", b"%d %d" % (status.st_dev, status.st_ino))
    journal = tmp_path / ".dest.nodecomm-journal"
    for uid, appears in ((os.geteuid(), True), (1234, False)):
        make(tmp_path / ".dest.nodecomm-new", {b"evil%d" % uid: b"1"})
        journal.write_bytes(
            b"\0".join((*told, b".dest.nodecomm-new", b"", b"0", b"end"))
        )
        os.chown(journal, uid, -1)
        open_destination(request(root)).close()
        assert (b"evil%d" % uid in read(root)) is appears
        assert not journal.exists()


def test_journal_that_is_no_file(tmp_path: Path) -> None:
    """
    It says nothing, and goes.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"1"})
    journal = tmp_path / ".dest.nodecomm-journal"
    makers: tuple[Callable[[], object], ...] = (
        journal.mkdir,
        lambda: os.mkfifo(journal),
        lambda: journal.symlink_to(tmp_path / "elsewhere"),
    )
    for make_one in makers:
        make_one()
        open_destination(request(root)).close()
        assert not os.path.lexists(journal)
    assert read(root) == {b"a": b"1"}


def test_what_killed_runs_left_inside(tmp_path: Path) -> None:
    """
    What a run that changes file by file left in the destination goes, with each way of
    replacing, and local names that only look like it stay.
    """
    left = b".nodecomm-0123456789abcdef.tmp"
    tree: dict[bytes, bytes | str | None] = {b"d": None, b"d/" + left + b"x": b"mine"}
    for replace in MODES:
        root = tmp_path / replace
        make(root, {**tree, b".nodecomm-fetched": None, b".nodecomm-fetched/0": b"x"})
        if replace == "files":
            (root / "d" / os.fsdecode(left)).write_bytes(b"half")
        update(root, {b"d": None, b"a": b"1"}, replace=replace)

        assert read(root) == {**tree, b"a": b"1"}


@root_only
def test_full_disk(tmp_path: Path) -> None:
    """
    A disk that is full says so while content is written, and the destination is as it
    was; the next run, with room, succeeds.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=256k", "none"):
        root = disk / "dest"
        update(root, {b"a": b"1"})
        with open_destination(request(root)) as place:
            assert 0 < place.free_space() <= 256 * 1024
            with pytest.raises(LocalError, match="No space left") as caught:
                put(place, {b"a": b"2" * 10**6})
        assert caught.value.code == "no-space"
        assert read(root) == {b"a": b"1"}
        assert own_names(root) == {"lock"}
        update(root, {b"a": b"2" * 1000})
        assert read(root) == {b"a": b"2" * 1000}


@root_only
def test_read_only_disk(tmp_path: Path) -> None:
    """
    A read-only file system is told at once, with what to do; also file by file when
    the destination itself can be written to.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "none"):
        root = disk / "dest"
        make(root, {})
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for replace in MODES:
            with pytest.raises(LocalError) as caught:
                update(root, {b"a": b"1"}, replace=replace)
            assert caught.value.code == "read-only", replace
        with pytest.raises(LocalError) as caught:
            update(disk / "missing", {b"a": b"1"}, replace="files")
        assert caught.value.code == "read-only"
        with mounted(root, "-t", "tmpfs", "none"):
            update(root, {b"a": b"1"}, replace="files")
            first = open_destination(request(root, replace="files"))
            with first, pytest.raises(LocalError) as caught:
                open_destination(request(root, replace="files"), wait=0)
            assert caught.value.code == "locked"
            assert read(root) == {b"a": b"1"}


@root_only
def test_without_being_root(open_folder: Path) -> None:
    """
    Any user can update his own destination, read-only folders included; what he may
    not do is told as such.
    """
    root = open_folder / "dest"

    def work() -> None:
        tree: dict[bytes, bytes | str | None] = {b"f": None, b"f/g": None}
        for text in (b"1", b"2", b"3"):
            with open_destination(request(root)) as place:
                tree[b"f/g/a"] = text
                put(place, tree, modes={b"f": 0o555, b"f/g": 0o500})
            assert read(root) == tree
        root.chmod(0o555)
        update(root, {b"f": None, b"f/g": None, b"f/g/a": b"4"})
        assert stat.S_IMODE(root.stat().st_mode) == 0o555
        root.chmod(0o755)
        with open_destination(request(root)) as place:
            place.scan()
            staging = place.stage()
            with pytest.raises(LocalError) as caught:
                staging.assemble(
                    [Wanted(b"x", Kind.FOLDER, 0o755, "fetched", owner=(0, 0))]
                )
            assert caught.value.code == "permission"
        (open_folder / "mine").mkdir()
        (open_folder / "closed").mkdir(0o555)
        open_folder.chmod(0o555)
        for name, said in (
            ("mine", 'replace = "files"'),
            ("closed", f"run as the owner of {open_folder}"),
            ("new", f"run as the owner of {open_folder}"),
        ):
            with pytest.raises(LocalError) as caught:
                update(open_folder / name, {b"a": b"1"})
            assert caught.value.code == "permission"
            assert said in caught.value.text
            assert ("files" in caught.value.text) == (name == "mine")

    as_nobody(work)
    open_folder.chmod(0o755)
    os.chown(root, 0, 0)
    root.chmod(0o777)

    def foreign() -> None:
        with (
            open_destination(request(root)) as place,
            pytest.raises(LocalError) as caught,
        ):
            place.stage()
        assert caught.value.code == "permission"

    as_nobody(foreign)
    assert own_names(root) == {"lock", "previous"}


def test_second_update_waits(tmp_path: Path) -> None:
    """
    Who comes second waits for the first as long as he wants to, and is told who it is
    and since when.
    """
    root = tmp_path / "dest"
    passed: list[float] = []

    def monotonic() -> float:
        return sum(passed)

    with open_destination(request(root), program="first", now=lambda: 0.0) as first:
        with pytest.raises(LocalError) as caught:
            open_destination(
                request(root), wait=3.0, sleep=passed.append, monotonic=monotonic
            )
        assert caught.value.code == "locked"
        who = f"first, process {os.getpid()}, since 1970-01-01T00:00:00Z"
        assert who in caught.value.text
        assert sum(passed) == pytest.approx(3.0)
        second = open_destination(
            request(root), sleep=lambda seconds: first.close(), monotonic=monotonic
        )
    second.close()


def test_lock_file_that_vanished(tmp_path: Path) -> None:
    """
    A lock on a file that is not the lock's any more is no lock.
    """
    root = tmp_path / "dest"
    first = open_destination(request(root))

    def remove_and_release(seconds: float) -> None:
        (tmp_path / ".dest.nodecomm-lock").unlink()
        first.close()

    with open_destination(request(root), sleep=remove_and_release):
        note = json.loads((tmp_path / ".dest.nodecomm-lock").read_text())
        assert note["pid"] == os.getpid()
        with pytest.raises(LocalError):
            open_destination(request(root), wait=0)


def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    """
    A dry run looks, and leaves not even a lock; what a killed run left stays.
    """
    root = tmp_path / "dest"
    make(root, {b"a": b"1"})
    (tmp_path / ".dest.nodecomm-new").mkdir()
    with open_destination(request(root, dry_run=True)) as place:
        assert list(place.scan()) == [b"a"]
        with pytest.raises(ValueError, match="dry run"):
            place.stage()

    assert own_names(root) == {"new"}


@pytest.mark.parametrize("replace", MODES)
def test_odd_names(tmp_path: Path, replace: Replace) -> None:
    """
    Names of 255 bytes, and such that are no UTF-8, are names like others.
    """
    long = b"n" * 254
    for name in (long + b"1", long + b"2", b"d\xff\x01\n\\"):
        root = Path(os.fsdecode(name))
        tree: dict[bytes, bytes | str | None] = {
            b"\xc3\x28": b"1",
            b"x" * 255: None,
            b"x" * 255 + b"/" + b"\xfe" * 255: b"2",
            b"l": "\udcff" * 100,
        }
        for _ in range(2):
            update(tmp_path / root, tree, replace=replace)
            assert read(tmp_path / root) == tree
            tree[b"\xc3\x28"] = b"2"
    assert len(list(tmp_path.iterdir())) > 3


def test_deep_tree(tmp_path: Path) -> None:
    """
    Trees deeper than any path is long are carried over, and removed.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"1"})
    here = os.open(root, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, dir_fd=here)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    update(root, {b"a": b"2"})
    with open_destination(request(root)) as place:
        assert max(name.count(b"/") for name in place.scan()) == 59
        put(place, {b"a": b"3"}, carry=False)
    update(root, {b"a": b"4"})

    assert read(root) == {b"a": b"4"}


def test_destination_that_is_a_link(tmp_path: Path) -> None:
    """
    A link to a folder stands for it; one to nothing is an error; for sets of links it
    must be ours.
    """
    real = tmp_path / "real"
    root = tmp_path / "dest"
    make(real, {b"a": b"1"})
    root.symlink_to("real")
    update(root, {b"a": b"2"})
    with pytest.raises(LocalError, match="is a link to something else"):
        open_destination(request(root, replace="symlink"))
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(LocalError, match="does not exist"):
        open_destination(request(tmp_path / "dangling"))

    assert os.readlink(root) == "real"
    assert read(real) == {b"a": b"2"}
    assert own_names(real) == {"lock", "previous"}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"relative", "not-a-folder"),
        (b"/", "mount-point"),
        (b"/tmp/..", "not-a-folder"),
        (b"/nowhere/at/all", "not-a-folder"),
        (b"/dev/null", "not-a-folder"),
        (b"/etc/passwd/x", "not-a-folder"),
    ],
)
def test_impossible_destinations(name: bytes, code: str) -> None:
    """
    What is no place for a set is told as such.
    """
    wanted = request(Path("/x"), dry_run=True)
    with pytest.raises(LocalError) as caught:
        open_destination(evolve(wanted, destination=name))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "wanted",
    [
        [Wanted(b"../x", Kind.FOLDER, 0o755)],
        [Wanted(b"..", Kind.FOLDER, 0o755)],
        [Wanted(b".", Kind.FOLDER, 0o755)],
        [Wanted(b"", Kind.FOLDER, 0o755)],
        [Wanted(b"/x", Kind.FOLDER, 0o755)],
        [Wanted(b"x/", Kind.FOLDER, 0o755)],
        [Wanted(b"x\0", Kind.FOLDER, 0o755)],
        [Wanted(b"x/y", Kind.FOLDER, 0o755)],
        [Wanted(b"x", Kind.LINK, 0, target=b"/"), Wanted(b"x/y", Kind.FOLDER, 0)],
        [Wanted(b"x", Kind.FOLDER, 0o755), Wanted(b"x", Kind.FOLDER, 0o755)],
        [Wanted(b"x", Kind.FILE, 0o644, "fetched")],
    ],
)
@pytest.mark.parametrize("replace", MODES)
def test_lists_that_contradict_themselves(
    tmp_path: Path, replace: Replace, wanted: list[Wanted]
) -> None:
    """
    A name that is not below the root, or below what is no folder of the set, or without
    content, is refused.
    """
    root = tmp_path / "dest"
    make(root, {})
    with (
        open_destination(request(root, replace=replace)) as place,
        pytest.raises(ValueError, match=r"place|content"),
    ):
        place.stage().assemble(wanted)

    assert read(root) == {}


def test_file_destination(tmp_path: Path) -> None:
    """
    A destination that is a file is replaced at once, keeps its owner and attributes,
    and a folder in its place is an error.
    """
    root = tmp_path / "file"
    for number, origin in enumerate(("fetched", "fetched", "kept")):
        with open_destination(request(root)) as place:
            assert place.kind is (Kind.FILE if number else None)
            staging = place.stage(single=True)
            if origin == "fetched":
                sink = staging.create(b"")
                sink.write(b"%d" % number)
                sink.close()
            commits: list[Commit] = []
            mode = 0o640 + number
            staging.assemble(
                [Wanted(b"", Kind.FILE, mode, origin, mtime=number)]  # type: ignore[arg-type]
            )
            report = staging.commit(commits.append)
        found = root.stat()
        assert commits == [Commit((found.st_dev, found.st_ino))]
        assert report.locals[b""].ino == found.st_ino
        assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (mode, number)
        if number == 0:
            os.setxattr(root, "user.note", b"note")
    assert root.read_bytes() == b"1"
    assert os.getxattr(root, "user.note") == b"note"
    assert own_names(root) == {"lock"}
    with (
        open_destination(request(root)) as place,
        pytest.raises(LocalError, match="is a file"),
    ):
        place.scan()
    with (
        open_destination(request(tmp_path)) as place,
        pytest.raises(LocalError, match="name the file"),
    ):
        place.stage(single=True)


def test_refusal_right_before(tmp_path: Path) -> None:
    """
    What is asked right before may still stop it.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"1"})

    def refuse(commit: Commit) -> None:
        raise RuntimeError

    with open_destination(request(root)) as place, pytest.raises(RuntimeError):
        put(place, {b"a": b"2"}, before=refuse)

    assert read(root) == {b"a": b"1"}
    assert own_names(root) == {"lock"}


@pytest.mark.parametrize("replace", ["exchange", "files"])
def test_destination_that_somebody_replaces(tmp_path: Path, replace: Replace) -> None:
    """
    If another program puts another folder in place meanwhile, that one stays.
    """
    root = tmp_path / "dest"
    update(root, {b"a": b"1"})

    def meanwhile() -> None:
        root.rename(tmp_path / "aside")
        make(root, {b"x": b"x"})

    with (
        open_destination(request(root, replace=replace)) as place,
        pytest.raises(LocalError, match="replaced by another program"),
    ):
        put(place, {b"a": b"2"}, assembled=meanwhile)

    assert read(root) == {b"x": b"x"}
    assert read(tmp_path / "aside") == {b"a": b"1"}
