# SPDX-License-Identifier: MIT
"""
`nodecomm sync` copies from the real server and from ours: the same as the real agent.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import BIG, KINDS, Shares
from tests.interop.harness import RealAgent, Server, WorkFolder
from tests.interop.latency import DelayedRelay
from tests.interop.prepared import roomy_folder
from tests.interop.syncing import (
    FULL,
    FULL_ONLY,
    SyncAgent,
    SyncRun,
    fresh_server,
    leftovers,
)
from tests.interop.test_copies import expected_copy
from tests.interop.trees import LONGEST_STORABLE, Entry, content, described

#: The protocol's own words: the refusal as text, as a transaction, and as it stands
#: at the beginning of the block that a GET of the real server is interrupted by.
ERROR_TEXTS = (
    b"BAD: Unspecified server refusal (see verbose server output)",
    b"t 59\0\0\0\0BAD: Unspecified server refusal (see verbose server output)",
    b"BAD: File changed while copying: /some/where",
    b"t 5     BAD: ",
    b"BAD: Request denied",
    b"CFD_TRUE",
    b"OK: 0 420 0 0 0 6 1 1 1 0 100 1 5",
)


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest,
    shares: Shares,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """
    As that of all tests here, but for the age of manifests: what changes must be seen
    at once.
    """
    folder = tmp_path_factory.mktemp(request.param)
    with fresh_server(request.param, folder, vars(shares)) as started:
        yield started


@pytest.fixture
def ours(tmp_path: Path) -> SyncAgent:
    """
    A node that copies with our program.
    """
    return SyncAgent(tmp_path / "ours")


@pytest.fixture(scope="module")
def real_copy(
    server: Server, shares: Shares, tmp_path_factory: pytest.TempPathFactory
) -> dict[bytes, Entry]:
    """
    What the real agent makes of the tree of all hard cases.
    """
    folder = tmp_path_factory.mktemp("real")
    agent = RealAgent(WorkFolder(folder / "node"))
    agent.copy("127.0.0.1", server.port, "files", folder / "copy")
    found = described(folder / "copy")
    shutil.rmtree(folder / "copy")
    return found


def storable(found: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """
    What is *found* but for names that the real agent cannot store.
    """
    return {
        name: entry
        for name, entry in found.items()
        if len(os.path.basename(name)) <= LONGEST_STORABLE
    }


@pytest.mark.parametrize("protocol", ["2", "3"])
def test_a_copy_is_that_of_the_real_agent(
    server: Server,
    shares: Shares,
    ours: SyncAgent,
    tmp_path: Path,
    real_copy: dict[bytes, Entry],
    protocol: str,
) -> None:
    """
    Names, kinds, contents, modes and links of the tree of all hard cases are what the
    real agent fetched from the same server, and names that it cannot store are here.
    A second update finds nothing to do and touches nothing.
    """
    copy = tmp_path / "copy"
    words = ("--protocol", protocol, "--preserve")
    done = ours.sync(server.port, "files", copy, *words)
    again = ours.sync(server.port, "files", copy, *words)
    found = described(copy)

    assert done.facts["changed"]
    assert storable(found) == real_copy == expected_copy(shares.files)
    assert set(found) == set(described(shares.files, follow=True))
    assert not again.facts["changed"]
    assert again.facts["fetched"] == 0
    assert leftovers(copy) == set()


def test_names_of_servers_and_sources(
    server: Server, shares: Shares, ours: SyncAgent, tmp_path: Path, address: str
) -> None:
    """
    Either address family, a shortcut and an absolute path lead to the same tree.
    """
    short = ours.sync(server.port, "files/a", tmp_path / "1", host=address)
    full = ours.sync(server.port, str(shares.files / "a"), tmp_path / "2", host=address)

    assert short.facts["fetched"] == full.facts["fetched"] == 2
    assert described(tmp_path / "1") == described(tmp_path / "2")
    assert described(tmp_path / "1") == described(shares.files / "a")


@pytest.mark.parametrize(
    "compare",
    [
        "auto",
        pytest.param("digest", marks=FULL_ONLY),
        "mtime",
        pytest.param("size", marks=FULL_ONLY),
    ],
)
def test_changes_arrive(
    server: Server,
    scratch: tuple[Path, str],
    ours: SyncAgent,
    tmp_path: Path,
    compare: str,
) -> None:
    """
    A second update brings exactly what changed on the server, and what is unchanged
    keeps its inode.
    """
    tree, name = scratch
    for old in ("same", "content", "longer", "mode", "empty", "gone"):
        (tree / old).write_bytes(content(5000))
    (tree / "kind").mkdir()
    (tree / "turns").write_bytes(b"into a folder\n")
    for path in (tree, *tree.iterdir()):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    copy = tmp_path / "copy"
    words = ("--compare", compare, "--purge", "--preserve")
    ours.sync(server.port, name, copy, *words)
    first = described(copy)
    inode = (copy / "same").stat().st_ino
    # Comparing sizes alone sees nothing but sizes.
    (tree / "content").write_bytes(content(5001 if compare == "size" else 5000, 1))
    (tree / "longer").write_bytes(content(5001))
    (tree / "mode").chmod(0o600)
    (tree / "empty").write_bytes(b"")
    (tree / "new").write_bytes(b"new\n")
    (tree / "gone").unlink()
    (tree / "kind").rmdir()
    (tree / "kind").write_bytes(b"a file now\n")
    (tree / "turns").unlink()
    (tree / "turns").mkdir()
    (tree / "turns" / "inside").write_bytes(b"inside\n")

    done = ours.sync(server.port, name, copy, *words)

    assert len(first) == 8
    assert described(copy) == described(tree), done
    assert (copy / "same").stat().st_ino == inode
    assert done.facts["fetched"] == 6
    assert done.facts["removed"] >= 1
    assert (copy.parent / ".copy.nodecomm-previous").is_dir()
    assert described(copy.parent / ".copy.nodecomm-previous") == first


def test_a_change_that_no_time_shows(
    server: Server, scratch: tuple[Path, str], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    A file that is written again in place, in the same second and with the same size,
    just after it was fetched, is fetched again.
    """
    tree, name = scratch
    copy = tmp_path / "copy"
    for generation in range(4):
        (tree / "file").write_bytes(b"generation %d\n" % generation)
        os.utime(tree / "file", (1_000_000_000, 1_000_000_000))
        done = ours.sync(server.port, name, copy)

        assert (copy / "file").read_bytes() == b"generation %d\n" % generation, done


def test_local_damage_is_repaired(
    server: Server, scratch: tuple[Path, str], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    Files of the copy that were changed here, however well hidden, are brought back,
    also when the record of the update before says that all is settled.
    """
    tree, name = scratch
    for number in range(5):
        (tree / f"file{number}").write_bytes(content(3000, number))
    copy = tmp_path / "copy"
    ours.sync(server.port, name, copy)
    time.sleep(2.1)
    ours.sync(server.port, name, copy)
    times = (copy / "file1").stat()
    (copy / "file1").write_bytes(content(3000, 9))
    os.utime(copy / "file1", ns=(times.st_atime_ns, times.st_mtime_ns))
    (copy / "file2").unlink()
    (copy / "file3").chmod(0o777)
    (copy / "file4").unlink()
    (copy / "file4").symlink_to("file0")

    done = ours.sync(server.port, name, copy)

    assert described(copy) == described(tree)
    assert done.facts["fetched"] == 3
    assert {change["name"] for change in done.facts["changes"]} >= {
        *("file1", "file2", "file3", "file4")
    }


def test_what_is_only_here(
    server: Server, scratch: tuple[Path, str], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    Without purge what the server does not have stays; a dry run with purge says what
    it would remove and does nothing; with purge it goes, but for excluded names.
    """
    tree, name = scratch
    (tree / "kept").write_bytes(b"kept\n")
    (tree / "folder").mkdir()
    (tree / "folder" / "kept too").write_bytes(b"kept too\n")
    (tree / "not for us.tmp").write_bytes(b"x")
    copy = tmp_path / "copy"
    ours.sync(server.port, name, copy, "--exclude", "*.tmp")
    (copy / "extra").write_bytes(b"x")
    (copy / "folder" / "extra \udcff").write_bytes(b"x")
    (copy / "gone").mkdir()
    (copy / "gone" / "file").write_bytes(b"x")
    (copy / "mine.tmp").write_bytes(b"mine")
    (copy / "link").symlink_to("/etc")
    before = described(copy)

    words = ("--exclude", "*.tmp")
    carried = ours.sync(server.port, name, copy, *words)
    assert described(copy) == before, carried
    dry = ours.sync(server.port, name, copy, *words, "--purge", "--dry-run")
    assert described(copy) == before, dry
    done = ours.sync(server.port, name, copy, *words, "--purge")

    wanted = described(tree)
    del wanted[b"not for us.tmp"]
    wanted[b"mine.tmp"] = before[b"mine.tmp"]
    assert described(copy) == wanted
    assert dry.facts["removed"] == done.facts["removed"] == 5
    assert dry.facts["changed"] and done.facts["changed"]


def test_contents_that_look_like_errors(
    server: Server, scratch: tuple[Path, str], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    Files that begin with the protocol's own error texts, are pieces of them, or have
    them where the real agent looks, and files of each size from 0 to 70 bytes, arrive
    as they are.
    """
    tree, name = scratch
    for number, text in enumerate(ERROR_TEXTS):
        for size in {*range(0, 71, 5), len(text), 4096}:
            piece = (text + content(4096, number))[:size]
            (tree / f"text{number}-{size}").write_bytes(piece)
        for place in (2040, 2048, 4096, 16384 - 8, 16384):
            data = content(20_000, number)
            data = data[:place] + text + data[place + len(text) :]
            (tree / f"at{number}-{place}").write_bytes(data)
    refusal = b"t 59\0\0\0\0" + ERROR_TEXTS[0]
    for size in range(71):
        (tree / f"size{size}").write_bytes(refusal[:size].ljust(size, b"\0"))
    copy = tmp_path / "copy"

    done = ours.sync(server.port, name, copy)

    assert described(copy) == described(tree)
    assert done.facts["connections"] == 1


def test_links_that_lead_out_are_refused(
    server: Server, scratch: tuple[Path, str], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    What the server refuses is named, a copy of it here stays even with purge, and
    everything else is copied.
    """
    tree, name = scratch
    (tree / "a").write_bytes(b"a\n")
    (tree / "out").write_bytes(b"not out yet\n")
    (tree / "z").write_bytes(b"z\n")
    copy = tmp_path / "copy"
    ours.sync(server.port, name, copy, "--purge")
    (tree / "out").unlink()
    (tree / "out").symlink_to("/etc/passwd")
    (tree / "z").unlink()

    done = ours.sync(server.port, name, copy, "--purge")

    assert done.facts["refused"] == ["out"]
    assert done.facts["warnings"]
    assert {file.name for file in copy.iterdir()} == {"a", "out"}
    assert (copy / "out").read_bytes() == b"not out yet\n"


def test_a_tree_that_never_ends(
    server: Server, shares: Shares, ours: SyncAgent, tmp_path: Path
) -> None:
    """
    A folder that contains itself is reported and not entered; the rest is copied.
    """
    done = ours.sync(server.port, "loops", tmp_path / "copy", "--purge")

    assert (tmp_path / "copy" / "inner" / "file").read_bytes() == b"once\n"
    assert set(described(tmp_path / "copy")) == {b"inner", b"inner/file"}
    assert len(done.facts["warnings"]) >= 2


def test_special_objects_are_not_made(
    server: Server, scratch: tuple[Path, str], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    A fifo on the server is told about and not made here.
    """
    tree, name = scratch
    os.mkfifo(tree / "fifo")
    (tree / "file").write_bytes(b"file\n")

    done = ours.sync(server.port, name, tmp_path / "copy")

    assert [file.name for file in (tmp_path / "copy").iterdir()] == ["file"]
    assert any("fifo" in warning for warning in done.facts["warnings"])


@pytest.mark.parametrize("size", [0, 16385])
def test_one_file(server: Server, ours: SyncAgent, tmp_path: Path, size: int) -> None:
    """
    A source that is a file is copied without its folder, and the second time not at
    all.
    """
    source = f"files/sizes/{size}"
    done = ours.sync(server.port, source, tmp_path / "file")
    again = ours.sync(server.port, source, tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == content(size)
    assert done.facts["changed"] and not again.facts["changed"]


def test_many_names(
    server: Server, shares: Shares, ours: SyncAgent, tmp_path: Path
) -> None:
    """
    A folder whose listing fills many records arrives whole, the second time without
    its contents: 1,200 names, 20,000 where there is time.
    """
    name, tree = ("crowd", shares.filled_crowd()) if FULL else ("many", shares.many)
    copy = tmp_path / "copy"
    done = ours.sync(server.port, name, copy)
    again = ours.sync(server.port, name, copy)

    assert described(copy) == described(tree), done
    assert done.facts["connections"] == 1
    assert again.facts["fetched"] == 0


@pytest.fixture
def roomy() -> Iterator[Path]:
    """
    A folder for large files.
    """
    with roomy_folder() as folder:
        yield folder


def test_a_big_file(
    server: Server, shares: Shares, ours: SyncAgent, roomy: Path
) -> None:
    """
    100 MB arrive unchanged, and a second update fetches nothing.
    """
    done = ours.sync(server.port, "big", roomy / "copy")
    again = ours.sync(server.port, "big", roomy / "copy")

    assert (roomy / "copy" / "file").stat().st_size == BIG, done
    assert described(roomy / "copy") == described(shares.big)
    assert done.facts["bytes_fetched"] == BIG
    assert again.facts["bytes_received"] < 10_000


def _wide(tree: Path, files: int) -> None:
    for folder in ("a", "a/b"):
        (tree / folder).mkdir(exist_ok=True)
    for number in range(files):
        (tree / "a" / "b" / f"{number}").write_bytes(b"%d\n" % number)


def test_round_trips_do_not_grow_with_the_files(
    server: Server, scratch: tuple[Path, str], tmp_path: Path
) -> None:
    """
    A hundred files take about the round trips of three, on one connection (a server
    that is slow to answer makes one or two more of what leaves in between); and an
    update with no change takes fewer than the first.
    """
    tree, name = scratch
    runs: list[list[SyncRun]] = []
    with DelayedRelay(server.port, 0.01) as relay:
        for files in (3, 100):
            _wide(tree, files)
            node = SyncAgent(tmp_path / f"node{files}")
            copy = tmp_path / f"copy{files}"
            runs.append([node.sync(relay.port, name, copy) for _ in range(2)])
    few, many = ([run.facts["round_trips"] for run in each] for each in runs)

    assert many[0] <= few[0] + 3
    assert many[1] <= few[1] + 3
    assert many[1] < many[0]
    assert relay.accepted == 4
    assert relay.most_at_once == 1
    if server.kind == "nodecomm":
        assert many[1] <= 6
        assert runs[1][1].facts["manifest"]


@FULL_ONLY
def test_hundreds_of_updates_from_far_away(
    server: Server, scratch: tuple[Path, str], tmp_path: Path
) -> None:
    """
    A tree that changes between updates is the same here after each of many.
    """
    tree, name = scratch
    node = SyncAgent(tmp_path / "node")
    with DelayedRelay(server.port, 0.02) as relay:
        for number in range(100):
            _wide(tree, number % 7)
            (tree / "a" / f"file{number % 11}").write_bytes(content(number * 100))
            done = node.sync(relay.port, name, tmp_path / "copy", "--purge")
            assert described(tmp_path / "copy") == described(tree), done
