# SPDX-License-Identifier: MIT
"""
The real agent copies what changes while it is being copied, and what is hard to copy
as it is. A copy is the old one or a whole new one: never a mixture, never a piece,
never the text of an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.forking import Forked
from tests.interop.brittle import CONTROL, NAME, TREE, Control, write_plugin
from tests.interop.harness import (
    RUN_TIMEOUT,
    RealAgent,
    Run,
    WorkFolder,
    config_for,
    wait_until,
)
from tests.interop.latency import DelayedRelay
from tests.interop.prepared import ROOT, PreparedServer, roomy_folder
from tests.interop.syncing import FULL
from tests.interop.trees import LONGEST_STORABLE, content, described, wide_folder
from tests.service.node import Node

#: Bytes of a file that is far more than what systems hold for a connection, and after
#: how many of them its transfer is held until it has changed.
LARGE = 24_000_000
ARRIVED = 500_000

#: Bytes of the one that must arrive whole.
HUGE = 100_000_000


class Place:
    """
    A server, a folder that it serves, a folder that the plugin serves, and a node.
    """

    def __init__(self, folder: Path, work: WorkFolder) -> None:
        self.tree = folder / "tree"
        self.brittle = folder / "brittle"
        for path in (self.tree, self.brittle):
            path.mkdir()
        self.control = Control(folder / "control")
        plugins = write_plugin(folder / "plugins")
        self.server = PreparedServer(
            folder / "server",
            config_for({"tree": self.tree}, classic=True)
            + f'[[access]]\npath = "/brittle/"\nshortcut = "brittle"\n'
            f'source = "{NAME}"\nadmit_ips = ["127.0.0.1"]\n',
            environment={
                "PYTHONPATH": f"{plugins}:{ROOT}",
                TREE: str(self.brittle),
                CONTROL: str(self.control.path),
            },
        )
        self.agent = RealAgent(work)

    def copy(
        self,
        source: str,
        to: Path,
        *,
        recursive: bool = True,
        timeout: int = 60,
        port: int | None = None,
        **options: str,
    ) -> Run:
        """
        Copy a folder, or a file, that is called *source* to *to*, from another *port*
        than the server's when that is given.
        """
        return self.agent.copy(
            "127.0.0.1",
            port or self.server.port,
            source,
            to,
            recursive=recursive,
            tls_ciphers=None,
            tls_min_version=None,
            verbose=False,
            timeout=timeout,
            **options,
        )


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """
    The place of all tests here.
    """
    with roomy_folder() as folder:
        made = Place(folder, WorkFolder(folder / "node"))
        with made.server:
            yield made


@pytest.fixture
def copy(place: Place) -> Iterator[Path]:
    """
    Where the copy goes; there is nothing yet.
    """
    path = place.tree.parent / "copy"
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def tree(place: Place) -> Iterator[Path]:
    """
    The folder that the server serves as `tree`, empty.
    """
    yield place.tree
    for path in place.tree.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def filled(letter: bytes, size: int = LARGE) -> bytes:
    """
    A content whose every piece tells where it is from.
    """
    return letter * size


def grow(file: Path) -> None:
    """Append."""
    with file.open("ab") as writing:
        writing.write(filled(b"B", 1_000_000))


def shrink(file: Path) -> None:
    """Cut the end off."""
    os.truncate(file, LARGE - 1_000)


def empty(file: Path) -> None:
    """Cut everything off."""
    os.truncate(file, 0)


def rewrite(file: Path) -> None:
    """Write as many other bytes into the same file."""
    with file.open("r+b") as writing:
        writing.write(filled(b"B"))


def vanish(file: Path) -> None:
    """Remove the name."""
    file.unlink()


def replace(file: Path, size: int = LARGE) -> None:
    """Put another file in its place."""
    new = file.with_name(".new")
    new.write_bytes(filled(b"B", size))
    new.replace(file)


def replace_by_longer(file: Path) -> None:
    """Put a longer file in its place."""
    replace(file, LARGE + 1_000_000)


def touch(file: Path) -> None:
    """Change nothing but the time."""
    os.utime(file)


def changed_meanwhile(place: Place, copy: Path, change: Callable[[Path], None]) -> None:
    """
    Do *change* to a file while it is copied. The copy is the old one, or the file as it
    was when it was asked for, or as it is now; the next run makes it equal.
    """
    file = place.tree / "file"
    file.write_bytes(filled(b"A"))
    copy.mkdir()
    (copy / "file").write_bytes(b"old\n")
    with (
        DelayedRelay(place.server.port, holds=[ARRIVED]) as relay,
        ThreadPoolExecutor(1) as pool,
    ):
        # The agent gives up a server that says nothing for so long.
        copied = pool.submit(place.copy, "tree", copy, port=relay.port, timeout=600)
        try:
            assert relay.held.wait(RUN_TIMEOUT), copied.result()
            change(file)
            assert not copied.done()
        finally:
            relay.release()
        done = copied.result()

    found = (copy / "file").read_bytes()
    now = file.read_bytes() if file.exists() else b""
    assert found in (b"old\n", filled(b"A"), now), done.output

    place.copy("tree", copy, purge="true")
    if file.exists():
        assert (copy / "file").read_bytes() == now
    else:
        assert not (copy / "file").exists()


@pytest.mark.parametrize(
    "change",
    [grow, shrink, empty, rewrite, vanish, replace, replace_by_longer, touch],
    ids=lambda change: change.__name__,
)
def test_a_file_that_changes_during_its_transfer(
    place: Place, tree: Path, copy: Path, change: Callable[[Path], None]
) -> None:
    """
    The copy is the old one, or the file as it was when it was asked for, or as it is
    now; the next run makes it equal.
    """
    changed_meanwhile(place, copy, change)


def small_files(folder: Path, letter: bytes) -> None:
    """
    Put files of 0 to 70 bytes there, each by a rename.
    """
    for size in range(71):
        new = folder / ".new"
        new.write_bytes(letter * size)
        new.replace(folder / f"{size:02d}")


def failing_files(place: Place, copy: Path, sizes: tuple[int, ...]) -> None:
    """
    Copy files of these sizes that fail after their STAT: each keeps its old content.
    """
    copy.mkdir()
    small_files(place.brittle, b"A")
    for size in sizes:
        name = f"{size:02d}"
        (copy / name).write_bytes(b"o" * (size - 1))
        place.control.fail(name, "read", "EIO", later=False)
        try:
            done = place.copy(f"brittle/{name}", copy / name, recursive=False)
        finally:
            place.control.nothing()
        assert (copy / name).read_bytes() == b"o" * (size - 1), done.output


def test_small_files(place: Place, tree: Path, copy: Path) -> None:
    """
    Files of 0 to 70 bytes, shorter than the protocol's error texts, arrive as they
    are, and again when they have changed.
    """
    for letter in (b"A", b"t", b"B"):
        small_files(tree, letter)
        done = place.copy("tree", copy)
        assert described(copy) == described(tree), done.output


def test_small_files_that_cannot_be_read(place: Place, copy: Path) -> None:
    """
    A file of 0 to 70 bytes that fails after its STAT keeps its old content: no text
    of an error is written into it, however short it is.
    """
    failing_files(place, copy, (1, 2, 3, 4, 5, 8, 12, 16, 31, 59, 67, 70))


def test_files_that_are_replaced_all_the_time(
    place: Place, tree: Path, copy: Path
) -> None:
    """
    Files of changing lengths are replaced by renames while a purging agent copies
    them, again and again: each copy is a whole one of some moment, and as the names
    are there all the time none is ever purged.
    """
    ended = threading.Event()

    def change() -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            for number in range(20):
                new = tree.parent / "new"
                letter = bytes([65 + (turn + number) % 26])
                new.write_bytes(letter * (1 + (turn * 7 + number) % 70) + b"\n")
                new.replace(tree / str(number))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        wait_until(lambda: len(list(tree.iterdir())) == 20, "the files")
        seen: set[str] = set()
        for _ in range(8):
            done = place.copy("tree", copy, purge="true")
            here = {file.name for file in copy.iterdir() if "." not in file.name}
            assert here >= seen, done.output
            seen = here
            for name in here:
                found = (copy / name).read_bytes()
                assert found.endswith(b"\n"), (name, found)
                assert len(set(found[:-1])) == 1, (name, found)
    finally:
        ended.set()
        thread.join()
    place.copy("tree", copy, purge="true")
    assert {name for name in described(copy) if b"." not in name} == set(
        described(tree)
    )


#: Replaces a file and a link until it is killed.
REPLACING = """\
import os, sys
os.chdir(sys.argv[1])
turn = 0
while True:
    turn += 1
    with open(".new", "w") as file:
        file.write(str(turn))
    os.replace(".new", "file")
    os.symlink(("one", "two")[turn % 2], ".link")
    os.replace(".link", "current")
"""


def test_a_name_that_is_replaced_is_never_refused(place: Place, tree: Path) -> None:
    """
    A file and a link are replaced by renames as fast as it goes: they exist all the
    time, and no STAT of some thousands says otherwise.
    """
    for release in ("one", "two"):
        (tree / release).mkdir()
        (tree / release / "file").write_text(release)
    # A process: a thread that never waits would let us ask only now and then.
    with Forked([sys.executable, "-c", REPLACING, str(tree)]) as replacing:
        try:
            wait_until((tree / "current").exists, "the first turn")
            node = Node(place.server.port)
            answers = [
                node.stat(name)
                for _ in range(1000)
                for name in (b"tree/file", b"tree/current/file", b"tree/current")
            ]
            node.close()
            assert replacing.poll() is None
        finally:
            replacing.kill()

    assert [answer for answer in answers if not answer.startswith(b"OK:")] == []


def test_a_folder_of_thousands(place: Place, tree: Path, copy: Path) -> None:
    """
    A node that has nearly all of a folder of thousands gets what it lacks, and of
    what it has only that is purged which the server has not.
    """
    # What the agent does with a name takes longer with each further one.
    count = 20_000 if FULL else 2_000
    wide_folder(tree / "crowd", count)
    wide_folder(copy, count)
    names = set(os.listdir(tree / "crowd"))
    lacking = sorted(names)[::200]
    for name in lacking:
        (copy / name).unlink()
    (copy / "extra").write_text("only here\n")

    done = place.copy("tree/crowd", copy, purge="true", compare="mtime")

    assert set(os.listdir(copy)) == names, done.output[-2000:]
    for name in lacking:
        assert (copy / name).read_bytes() == (tree / "crowd" / name).read_bytes()


def test_a_huge_file_and_a_sparse_one(place: Place, tree: Path, copy: Path) -> None:
    """
    100 MB of data, and a file with holes, arrive unchanged.
    """
    block = content(1_000_000)
    with (tree / "huge").open("wb") as file:
        for number in range(HUGE // len(block)):
            file.write(number.to_bytes(4, "big") + block[4:])
    with (tree / "sparse").open("wb") as file:
        file.write(b"head")
        file.seek(70_000_000)
        file.write(b"middle")
        file.truncate(100_000_001)

    done = place.copy("tree", copy, verify="true")

    assert described(copy) == described(tree), done.output


def test_long_names(place: Place, tree: Path, copy: Path) -> None:
    """
    Names of 249 bytes, the most that the agent can store, also of folders, and of
    bytes that are no text.
    """
    base = os.fsencode(tree)
    for name in (b"n" * 249, b"\xff" * 249, "ü".encode() * 124 + b"x"):
        assert len(name) == LONGEST_STORABLE
        Path(os.fsdecode(os.path.join(base, name))).write_bytes(name)
    deep = Path(os.fsdecode(os.path.join(base, b"d" * 249, b"e" * 249)))
    deep.mkdir(parents=True)
    (deep / ("f" * 249)).write_bytes(b"deep\n")

    done = place.copy("tree", copy)

    assert described(copy) == described(tree), done.output


#: Two file systems with nothing on them but files with two names each: they give out
#: the same inode numbers in the same order.
_MOUNTS = """
set -e
for disk in one two; do
    mkdir -p "$TREE/$disk"
    mount -t tmpfs none "$TREE/$disk"
    for number in 1 2 3 4 5 6 7 8; do
        echo "$disk $number" > "$TREE/$disk/$number"
        ln "$TREE/$disk/$number" "$TREE/$disk/$number-again"
    done
done
ls -i "$TREE"/*/* > "$TREE/../numbers"
exec "$@"
"""


def test_equal_inode_numbers_on_two_disks(place: Place, tmp_path: Path) -> None:
    """
    The agent links files with equal inode numbers, whatever their device. Files of
    two file systems with the same numbers stay apart, and the two names of one file
    stay together.
    """
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip(f"no file system can be mounted: {tried.stderr.decode()}")
    tree = tmp_path / "tree"
    tree.mkdir()
    copy = tmp_path / "copy"
    server = PreparedServer(
        tmp_path / "server",
        config_for({"tree": tree}),
        prefix=("unshare", "-m", "sh", "-c", _MOUNTS, "sh"),
        environment={"TREE": str(tree)},
    )
    with server:
        done = place.agent.copy("127.0.0.1", server.port, "tree", copy)

    numbers: dict[str, list[str]] = {}
    for line in (tmp_path / "numbers").read_text().splitlines():
        number, name = line.split()
        numbers.setdefault(number, []).append(name)
    assert [names for names in numbers.values() if len(names) == 4], (
        "the file systems have no number in common"
    )
    for disk in ("one", "two"):
        for count in range(1, 9):
            first, second = copy / disk / f"{count}", copy / disk / f"{count}-again"
            assert first.read_text() == f"{disk} {count}\n", done.output
            assert first.samefile(second)
            assert first.stat().st_nlink == 2
