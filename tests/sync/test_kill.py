# SPDX-License-Identifier: MIT
"""
Updates that end in the middle, at every step and at any time.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from nodecomm.sync.errors import LocalError
from nodecomm.sync.place import open_destination
from tests.forking import Forked
from tests.sync.injected import failing
from tests.sync.killed import BEFORE, END, NEW, OLD, prepare
from tests.sync.trees import own_names, put, read, request

# What is tried is what the system does, hundreds of times; the interpreter's release
# makes no difference to it.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

#: Updates a destination with versions of a tree, for ever.
UPDATER = """
import sys
from pathlib import Path
from nodecomm.sync.place import open_destination
from tests.sync.trees import put, request

root, replace = Path(sys.argv[1]), sys.argv[2]
version = int(sys.argv[3])
print("ready", flush=True)
while version < int(sys.argv[4]):
    version += 1
    text = b"%d" % version
    tree = {b"a": text, b"folder": None, b"folder/b": text, b"kept": b"kept"}
    with open_destination(request(root, replace=replace)) as place:
        put(place, tree)
"""

#: Reads a destination until it has met some sets: each must have one version, whether
#: the folder is held open or the name is looked up for each set.
READER = """
import os, sys

versions = set()
print("ready", flush=True)
while len(versions) < int(sys.argv[2]):
    root = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
    found = []
    try:
        for name in ("a", "folder/b", "a"):
            file = os.open(name, os.O_RDONLY, dir_fd=root)
            found.append(os.read(file, 100))
            os.close(file)
    except FileNotFoundError:
        # A set is removed when two newer ones have come.
        with open(sys.argv[1] + "/a", "rb") as file:
            assert not found or int(file.read()) >= int(found[0]) + 2
        continue
    finally:
        os.close(root)
    # By name, each look-up gets one that is there.
    with open(sys.argv[1] + "/folder/b", "rb") as file:
        assert file.read()
    assert len(set(found)) == 1, found
    versions.add(found[0])
"""


def start(program: str, *args: object) -> subprocess.Popen[bytes]:
    """
    A Python program that has said that it is ready.
    """
    process = Forked(
        [sys.executable, "-c", program, *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.fixture
def folder() -> Iterator[Path]:
    """
    A folder in memory where there is such a thing: a disk would have to turn for each
    of some thousand calls.
    """
    memory = "/dev/shm"
    usable = os.path.isdir(memory) and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=memory if usable else None) as name:
        yield Path(name)


@pytest.mark.parametrize("kind", BEFORE)
@pytest.mark.parametrize("replace", ["exchange", "symlink", "files"])
def test_killed_at_every_step(folder: Path, replace: str, kind: str) -> None:
    """
    Whichever call that changes the disk a run does not live to make, and the one that
    tidies up after it neither: the destination is wholly the old or the new set
    (unless it is changed file by file), the set before it is whole, and the next run
    tidies up and gets it right.
    """
    # Not a copy of a large process: it makes hundreds of copies of its own.
    done = subprocess.run(
        [sys.executable, "-m", "tests.sync.killed", folder, replace, kind],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 20


@pytest.mark.parametrize("replace", ["exchange", "symlink"])
def test_killed_at_any_time(tmp_path: Path, replace: str) -> None:
    """
    After a SIGKILL at a random moment the destination is one whole set, and it goes
    on from there.
    """
    root = tmp_path / "dest"
    random = Random(3)
    version = 0
    for _ in range(8):
        process = start(UPDATER, root, replace, version, 10**9)
        time.sleep(random.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if not root.exists():
            continue
        found = read(root)
        before, version = version, int(str(found[b"a"], "ascii"))  # type: ignore[arg-type]
        assert version >= before
        text = b"%d" % version
        assert found == {
            b"a": text,
            b"folder": None,
            b"folder/b": text,
            b"kept": b"kept",
        }
    with open_destination(request(root, replace=replace)) as place:
        put(place, {b"last": b"last"}, carry=False)

    assert read(root) == {b"last": b"last"}


@pytest.mark.parametrize("replace", ["exchange", "symlink"])
def test_reader_meets_one_set(tmp_path: Path, replace: str) -> None:
    """
    A process that reads all the time meets sets of one version only, and there is no
    moment at which the name is missing.
    """
    root = tmp_path / "dest"
    start(UPDATER, root, replace, 0, 1).communicate()
    reader = start(READER, root, 20)
    updater = start(UPDATER, root, replace, 1, 10**9)
    try:
        reader.communicate(timeout=120)
    finally:
        for process in (updater, reader):
            process.kill()
            process.communicate()

    assert reader.returncode == 0


#: What a disk may say, and what it is called then.
ERRORS = (
    (errno.ENOSPC, "no-space"),
    (errno.EDQUOT, "no-space"),
    (errno.EROFS, "read-only"),
    (errno.EACCES, "permission"),
    (errno.EIO, "io"),
)


@pytest.mark.parametrize("kind", BEFORE)
@pytest.mark.parametrize("lasting", [False, True])
def test_disk_that_fails_at_every_step(folder: Path, kind: str, lasting: bool) -> None:
    """
    Whichever call fails, once or from then on, the update says so as a local error and
    the destination is the old set; or it succeeds and it is the new one. The next run
    gets it right.
    """
    old = {} if kind == "nothing" else dict(OLD)
    end = dict(NEW) if kind == "nothing" else dict(END)
    outcomes = set()
    number = 0
    names = ["until the call was not reached"]
    while number <= len(names):
        number += 1
        error, code = ERRORS[number % len(ERRORS)]
        top = folder / f"{number}"
        top.mkdir()
        root = top / "dest"
        prepare(root, kind)
        with failing(-number if lasting else number, error) as names:
            try:
                with open_destination(request(root)) as place:
                    report = put(place, NEW)
            except LocalError as raised:
                assert raised.code == code, (number, names, raised)
                assert (read(root) if root.exists() else {}) == old, (number, names)
                outcomes.add("failed")
            else:
                assert read(root) == end, (number, names)
                outcomes.add("warned" if report.warnings else "succeeded")
        with open_destination(request(root)) as place:
            left = own_names(root) & {"new", "fetched", "trash", "journal"}
            assert not left, (number, names)
            put(place, NEW)
        assert read(root) == end, number

    assert outcomes == {"failed", "warned", "succeeded"}


def test_previous_is_kept_until_the_next_change(tmp_path: Path) -> None:
    """
    The set before the present one stays beside it, the one before that does not.
    """
    root = tmp_path / "dest"
    for text in (b"1", b"2", b"3"):
        with open_destination(request(root)) as place:
            put(place, {b"version": text})

    assert read(root) == {b"version": b"3"}
    assert read(tmp_path / ".dest.nodecomm-previous") == {b"version": b"2"}
    assert own_names(root) == {"lock", "previous"}
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["dest", ".dest.nodecomm-lock", ".dest.nodecomm-previous"]
    )
