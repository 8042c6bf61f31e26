# SPDX-License-Identifier: MIT
"""
cf-net asks a server. Its exit status is 0 whatever happens, so its words are compared.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.conftest import BIG, Shares
from tests.interop.harness import Server, WorkFolder
from tests.interop.trees import content

REFUSAL = "BAD: Unspecified server refusal (see verbose server output)"


def test_connect(server: Server, node: WorkFolder, address: str) -> None:
    """
    A node that was never seen is trusted on first use, over either address family.
    """
    done = node.cf_net(address, server.port, "connect")

    assert "Connected & authenticated successfully" in done.output
    assert "Traceback" not in server.logs()


def test_keys_are_stored_on_both_sides(server: Server, node: WorkFolder) -> None:
    """
    After the first connection each side has stored the other's public key, under the
    user's name and the digest that cf-key prints.
    """
    node.cf_net("127.0.0.1", server.port, "connect")

    ours = node.path / "ppkeys" / "localhost.pub"
    digest = node.cf_key("-p", str(ours)).output.split()[-1]
    theirs = [file for file in ours.parent.iterdir() if file.name.startswith("root-")]
    stored = server.ppkeys / f"root-{digest}.pub"
    assert stored.read_bytes() == ours.read_bytes()
    assert [file.read_bytes() for file in theirs] == [
        (server.ppkeys / "localhost.pub").read_bytes()
    ]


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("files/sizes/0", "is a regular file"),
        ("files/sizes/4096", "is a regular file"),
        ("files/empty", "is a directory"),
        ("files", "is a directory"),
        ("files/", "is a directory"),
        ("files/links/to-file", "is a regular file"),
        ("files/links/to-folder", "is a directory"),
        ("files/links/dangling", "is a symbolic link"),
        ("files/names/ leading", "is a regular file"),
        ("loops/inner/self/parent/inner/file", "is a regular file"),
        ("files//sizes/../sizes/./1", "is a regular file"),
        ("files/sizes/1/", REFUSAL),
        ("files/no such file", REFUSAL),
        ("nonesuch", REFUSAL),
        ("../files", REFUSAL),
        ("/etc/passwd", REFUSAL),
        ("files/../../../../../../../etc/passwd", REFUSAL),
    ],
)
def test_stat(server: Server, node: WorkFolder, path: str, answer: str) -> None:
    """
    What a path is, links resolved, or the one refusal for all that is not served.
    """
    done = node.cf_net("127.0.0.1", server.port, "stat", path)

    assert answer in done.output


@pytest.mark.parametrize(
    "folder", ["files/names", "files/empty", "files/sizes", "crowd"]
)
def test_opendir(server: Server, node: WorkFolder, shares: Shares, folder: str) -> None:
    """
    A listing has every name, the two dots too, each once; also in a folder of
    thousands.
    """
    if folder == "crowd":
        shares.filled_crowd()
    # The first connection also tells of the new key.
    node.cf_net("127.0.0.1", server.port, "connect")

    done = node.cf_net("127.0.0.1", server.port, "opendir", folder)

    share, _, rest = folder.partition("/")
    path = getattr(shares, share) / rest
    names = sorted([".", "..", *(entry.name for entry in path.iterdir())])
    assert sorted(done.output.removesuffix("\n").split("\n")) == names


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("files/no such folder", REFUSAL),
        ("/etc", REFUSAL),
        ("files/sizes/1", "BAD: cfengine, couldn't open dir"),
    ],
)
def test_opendir_of_what_is_no_folder(
    server: Server, node: WorkFolder, path: str, answer: str
) -> None:
    """
    A folder that is not served is refused; a file is told to be no folder.
    """
    done = node.cf_net("127.0.0.1", server.port, "opendir", path)

    assert answer in done.output


@pytest.mark.parametrize("size", [0, 1, 2048, 4096, 4097, 16384, 100_000, 3_000_000])
def test_get(server: Server, node: WorkFolder, size: int, tmp_path: Path) -> None:
    """
    A file arrives with exactly its bytes, in blocks of another size than the agent's.
    """
    done = node.cf_net(
        "127.0.0.1",
        server.port,
        "get",
        "-o",
        str(tmp_path / "got"),
        f"files/sizes/{size}",
    )

    assert (tmp_path / "got").read_bytes() == content(size), done.output


def test_get_a_big_file(server: Server, node: WorkFolder, tmp_path: Path) -> None:
    """
    100 MB arrive whole.
    """
    got = tmp_path / "got"
    done = node.cf_net("127.0.0.1", server.port, "get", "-o", str(got), "big/file")
    try:
        assert got.stat().st_size == BIG, done.output
        with got.open("rb") as file:
            assert file.read(100_000) == content(100_000)
            file.seek(BIG // 2)
            assert file.read(100_000) == content(100_000, 1)
            file.seek(BIG - 100_000)
            assert file.read() == content(100_000, 2)
    finally:
        got.unlink(missing_ok=True)


def test_get_what_is_not_served(
    server: Server, node: WorkFolder, tmp_path: Path
) -> None:
    """
    A file that is not served is refused and nothing is written.
    """
    done = node.cf_net(
        "127.0.0.1", server.port, "get", "-o", str(tmp_path / "got"), "/etc/passwd"
    )

    assert REFUSAL in done.output
    assert not (tmp_path / "got").exists()
