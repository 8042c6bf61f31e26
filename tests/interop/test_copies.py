# SPDX-License-Identifier: MIT
"""
The real agent copies from a server: the same from the real one and from nodecomm.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.interop.conftest import BIG, Shares
from tests.interop.harness import RealAgent, Server
from tests.interop.trees import LONGEST_STORABLE, Entry, content, described


def expected_copy(tree: Path) -> dict[bytes, Entry]:
    """
    What a copy of *tree* over TLS is: links are what they lead to, and names that the
    real agent cannot store are missing.
    """
    return {
        name: entry
        for name, entry in described(tree, follow=True).items()
        if len(os.path.basename(name)) <= LONGEST_STORABLE
    }


def test_a_copy_is_the_same_tree(
    server: Server, shares: Shares, agent: RealAgent, tmp_path: Path, address: str
) -> None:
    """
    Names, kinds, contents and modes of a copied tree are those of the server's tree,
    over either address family.
    """
    done = agent.copy(address, server.port, "files", tmp_path / "copy", verify="true")

    assert described(tmp_path / "copy") == expected_copy(shares.files), done.output


@pytest.mark.parametrize("protocol", ["2", "3", "latest"])
@pytest.mark.parametrize(
    ("ciphers", "tls"),
    [("AES256-GCM-SHA384", "TLSv1.2"), ("TLS_AES_256_GCM_SHA384", "TLSv1.3")],
)
def test_versions(
    server: Server,
    shares: Shares,
    agent: RealAgent,
    tmp_path: Path,
    protocol: str,
    ciphers: str,
    tls: str,
) -> None:
    """
    Each protocol version works over each version of TLS.
    """
    done = agent.copy(
        "127.0.0.1",
        server.port,
        "files",
        tmp_path / "copy",
        protocol_version=protocol,
        tls_ciphers=ciphers,
        verbose=True,
    )

    assert done.tls_version == tls
    assert described(tmp_path / "copy") == expected_copy(shares.files), done.output


@pytest.mark.parametrize("compare", ["digest", "mtime", "binary"])
def test_changes_arrive(
    server: Server,
    scratch: tuple[Path, str],
    agent: RealAgent,
    tmp_path: Path,
    compare: str,
) -> None:
    """
    A second run brings exactly what changed on the server since the first, in content,
    mode or by being new, whichever way files are compared.
    """
    tree, name = scratch
    for old in ("same", "content", "longer", "mode", "empty"):
        (tree / old).write_bytes(content(5000))
    copy = tmp_path / "copy"
    agent.copy("127.0.0.1", server.port, name, copy, compare=compare)
    # The copy's times are those of its writing; the changes must be later than that.
    for file in copy.iterdir():
        os.utime(file, (1_000_000_000, 1_000_000_000))
    os.utime(tree / "same", (900_000_000, 900_000_000))
    inode = (copy / "same").stat().st_ino
    (tree / "content").write_bytes(content(5000, 1))
    (tree / "longer").write_bytes(content(5001))
    (tree / "mode").chmod(0o600)
    (tree / "empty").write_bytes(b"")
    (tree / "new").write_bytes(b"new\n")

    done = agent.copy("127.0.0.1", server.port, name, copy, compare=compare)

    assert described(copy) == described(tree), done.output
    assert (copy / "same").stat().st_ino == inode


def test_nothing_is_transferred_when_nothing_changed(
    server: Server, shares: Shares, agent: RealAgent, tmp_path: Path
) -> None:
    """
    A second run with compare digest writes no file.
    """
    copy = tmp_path / "copy"
    agent.copy("127.0.0.1", server.port, "files", copy)
    before = {file: file.lstat() for file in copy.rglob("*")}

    done = agent.copy("127.0.0.1", server.port, "files", copy, purge="true")

    after = {file: file.lstat() for file in copy.rglob("*")}
    changed = [
        file
        for file, status in after.items()
        if file not in before or before[file].st_ino != status.st_ino
    ]
    assert after.keys() == before.keys()
    assert changed == [], done.output


def test_purge_deletes_what_the_server_has_not(
    server: Server, scratch: tuple[Path, str], agent: RealAgent, tmp_path: Path
) -> None:
    """
    With purge a file and a folder that are not on the server disappear, and what is
    there stays.
    """
    tree, name = scratch
    (tree / "kept").write_bytes(b"kept\n")
    (tree / "folder").mkdir()
    (tree / "folder" / "kept too").write_bytes(b"kept too\n")
    copy = tmp_path / "copy"
    agent.copy("127.0.0.1", server.port, name, copy)
    (copy / "extra").write_bytes(b"x")
    (copy / "folder" / "extra \xff").write_bytes(b"x")
    (copy / "gone").mkdir()
    (copy / "gone" / "file").write_bytes(b"x")

    done = agent.copy("127.0.0.1", server.port, name, copy, purge="true")

    assert described(copy) == described(tree), done.output


def test_without_purge_other_files_stay(
    server: Server, scratch: tuple[Path, str], agent: RealAgent, tmp_path: Path
) -> None:
    """
    Without purge a file that is not on the server stays.
    """
    tree, name = scratch
    (tree / "theirs").write_bytes(b"theirs\n")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "ours").write_bytes(b"ours\n")

    agent.copy("127.0.0.1", server.port, name, copy)

    assert {file.name for file in copy.iterdir()} == {"ours", "theirs"}


def test_hard_links_stay_together_and_apart(
    server: Server, shares: Shares, agent: RealAgent, tmp_path: Path
) -> None:
    """
    The real agent links files whose inode numbers are equal, so equal numbers must
    mean the same file: the names of one file are linked again, others are not.
    """
    copy = tmp_path / "copy"
    agent.copy("127.0.0.1", server.port, "files", copy)

    inode = {name: (copy / name).stat().st_ino for name in described_names(copy)}
    assert inode["links/hard-1"] == inode["links/hard-2"] == inode["a/hard-3"]
    assert inode["links/pair-1"] == inode["links/pair-2"]
    assert inode["links/hard-1"] != inode["links/pair-1"]
    assert inode["sizes/4096"] != inode["sizes/4095"]


def described_names(copy: Path) -> list[str]:
    """
    The names of the plain files in a copy whose names are plain text.
    """
    return [
        name.decode("ascii")
        for name, entry in described(copy).items()
        if entry.kind == "file" and name.isascii()
    ]


def test_a_folder_of_thousands(
    server: Server, shares: Shares, agent: RealAgent, tmp_path: Path
) -> None:
    """
    A folder whose listing fills many TLS records arrives whole.
    """
    copy = tmp_path / "copy"
    done = agent.copy("127.0.0.1", server.port, "many", copy)

    assert described(copy) == described(shares.many), done.output[-2000:]


def test_a_big_file(
    server: Server, shares: Shares, agent: RealAgent, tmp_path: Path
) -> None:
    """
    100 MB arrive unchanged, and a second run finds the digest equal.
    """
    copy = tmp_path / "copy"
    done = agent.copy("127.0.0.1", server.port, "big", copy, verify="true")
    try:
        assert (copy / "file").stat().st_size == BIG, done.output
        assert described(copy) == described(shares.big)
        inode = (copy / "file").stat().st_ino

        agent.copy("127.0.0.1", server.port, "big", copy)

        assert (copy / "file").stat().st_ino == inode
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize("size", [0, 1, 4096, 16385])
def test_one_file(server: Server, agent: RealAgent, tmp_path: Path, size: int) -> None:
    """
    One file is copied without its folder.
    """
    done = agent.copy(
        "127.0.0.1",
        server.port,
        f"files/sizes/{size}",
        tmp_path / "file",
        recursive=False,
    )

    assert (tmp_path / "file").read_bytes() == content(size), done.output


def test_an_absolute_path_is_served_like_its_shortcut(
    server: Server, shares: Shares, agent: RealAgent, tmp_path: Path
) -> None:
    """
    What has a shortcut can be asked for by its path too.
    """
    agent.copy("127.0.0.1", server.port, str(shares.files / "a"), tmp_path / "copy")

    assert described(tmp_path / "copy") == described(shares.files / "a")


def test_a_path_that_is_not_served(
    server: Server, agent: RealAgent, tmp_path: Path
) -> None:
    """
    What does not exist, what no rule covers and what only looks covered are refused
    alike; the agent says so and copies nothing.
    """
    for number, name in enumerate(
        ("/etc", "files/no such file", "nonesuch", "files/../../..", "./files")
    ):
        copy = tmp_path / f"copy{number}"
        done = agent.copy("127.0.0.1", server.port, name, copy)

        assert list(copy.iterdir()) == [], name
        assert "Can't stat" in done.output, done.output


def test_a_refused_file_leaves_the_rest(
    server: Server, scratch: tuple[Path, str], agent: RealAgent, tmp_path: Path
) -> None:
    """
    A link that leads out of what is served is refused, and the connection serves the
    other files.
    """
    tree, name = scratch
    (tree / "a").write_bytes(b"a\n")
    (tree / "out").symlink_to("/etc/passwd")
    (tree / "z").write_bytes(b"z\n")

    agent.copy("127.0.0.1", server.port, name, tmp_path / "copy")

    assert {file.name for file in (tmp_path / "copy").iterdir()} == {"a", "z"}
