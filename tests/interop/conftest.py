# SPDX-License-Identifier: MIT
"""
The servers that every test of this folder runs against, and a node for each test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tests.interop.harness import (
    NodecommServer,
    RealAgent,
    RealServer,
    Server,
    WorkFolder,
    config_for,
    has_ipv6_loopback,
    peer_program,
)
from tests.interop.syncing import FRESH, FULL
from tests.interop.trees import big_file, hard_tree, loop_tree, wide_folder
from tests.recorded import key_pair

#: The real server comes first: it shows what is expected, and that the test is right.
KINDS = ("cf-serverd", "nodecomm")

#: Bytes of the big file: some thousand times what either side reads or sends at once,
#: and more than what a system holds for a connection.
BIG = 100_000_000

#: Entries of the crowded folder.
CROWD = 20_000 if FULL else 6_000

_HERE = Path(__file__).parent

_Made = TypeVar("_Made", bound="ClassicShares")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark what runs real programs, so that it can be left out.
    """
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.interop)


@dataclass(frozen=True)
class ClassicShares:
    """
    What every server that speaks the classic protocol serves, by shortcut.

    Attributes:
        files: The tree of all hard cases.
        loops: A tree with links to its own folders.
        scratch: Where a test may put a folder of its own.
    """

    files: Path
    loops: Path
    scratch: Path

    @classmethod
    def made(cls: type[_Made], root: Path, **more: Path) -> _Made:
        """
        Make the folders below *root*; *more* are there already.
        """
        scratch = root / "scratch"
        scratch.mkdir()
        return cls(
            files=hard_tree(root / "files", unstorable=True),
            loops=loop_tree(root / "loops"),
            scratch=scratch,
            **more,
        )

    def folder(self) -> tuple[Path, str]:
        """
        A new folder, and what a client calls it.
        """
        folder = self.scratch / str(len(list(self.scratch.iterdir())))
        folder.mkdir()
        return folder, f"scratch/{folder.name}"


@dataclass(frozen=True)
class Shares(ClassicShares):
    """
    What every server of a session serves, by shortcut.

    Attributes:
        masterfiles: A small policy, with `modules` what a bootstrap asks for.
        many: A folder of 1,200 entries: their names fill more than ten of CFEngine's
            frames and two records of TLS.
        crowd: A folder of `CROWD` entries after `filled_crowd`.
        big: A folder with one file of `BIG` bytes.
    """

    masterfiles: Path
    modules: Path
    many: Path
    crowd: Path
    big: Path

    def filled_crowd(self) -> Path:
        """
        The folder `crowd`, filled when a test needs it: that takes seconds.
        """
        if not any(self.crowd.iterdir()):
            wide_folder(self.crowd, CROWD)
        return self.crowd


_PROMISES = """\
body common control
{
  bundlesequence => { "main" };
}
bundle agent main
{
  reports:
      "the policy of the test runs";
}
"""


@pytest.fixture(scope="session")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Shares:
    """
    The folders that are served, made once.
    """
    root = tmp_path_factory.mktemp("shares")
    masterfiles, modules = root / "masterfiles", root / "modules"
    (masterfiles / "services").mkdir(parents=True)
    modules.mkdir()
    (masterfiles / "promises.cf").write_text(_PROMISES)
    (masterfiles / "update.cf").write_text(_PROMISES)
    (masterfiles / "cf_promises_validated").write_text('{ "timestamp": 1 }\n')
    (masterfiles / "services" / "empty.cf").write_text("")
    (modules / "module").write_text("#!/bin/sh\necho +sample\n")
    (modules / "module").chmod(0o755)
    big = root / "big"
    big.mkdir()
    big_file(big / "file", BIG)
    return Shares.made(
        root,
        masterfiles=masterfiles,
        modules=modules,
        many=wide_folder(root / "many", 1_200),
        crowd=wide_folder(root / "crowd", 0),
        big=big,
    )


@pytest.fixture(scope="session", params=KINDS)
def server(
    request: pytest.FixtureRequest,
    shares: Shares,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """
    A server with all the shares that trusts whoever comes from this machine.
    """
    # Without the real programs neither server has anyone to talk to.
    peer_program("cf-agent")
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "cf-serverd":
        # CFEngine's own key stands for all: to make one takes it long.
        work = WorkFolder(folder / "work", key=False)
        work.cf_key()
        with RealServer(work, vars(shares)) as real:
            yield real
    else:
        # So that a change of a test shows also where manifests are asked for.
        settings = config_for(vars(shares), server=FRESH)
        with NodecommServer(folder, settings) as ours:
            yield ours


@pytest.fixture(scope="session")
def classic_shares(tmp_path_factory: pytest.TempPathFactory) -> ClassicShares:
    """
    The folders that are served, made once.
    """
    return ClassicShares.made(tmp_path_factory.mktemp("classic-shares"))


@pytest.fixture(scope="session", params=KINDS)
def classic_server(
    request: pytest.FixtureRequest,
    classic_shares: ClassicShares,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """
    A server that speaks the classic protocol too, and trusts whoever comes from this
    machine.
    """
    peer_program("cf-agent")
    folder = tmp_path_factory.mktemp(f"classic-{request.param}")
    shares = vars(classic_shares)
    # The keys are known, so that no test waits for one to be made.
    key = key_pair("server")
    if request.param == "cf-serverd":
        work = WorkFolder(folder / "work", key=key)
        with RealServer(work, shares, classic=True) as real:
            yield real
    else:
        with NodecommServer(folder, config_for(shares, classic=True), key=key) as ours:
            yield ours


@pytest.fixture
def node(tmp_path: Path) -> Iterator[WorkFolder]:
    """
    The work folder of a node that no server has seen yet.
    """
    work = WorkFolder(tmp_path / "node")
    yield work
    work.end_daemons()


@pytest.fixture
def agent(node: WorkFolder) -> RealAgent:
    """
    The agent of that node.
    """
    return RealAgent(node)


@pytest.fixture(params=["127.0.0.1", "::1"], ids=["IPv4", "IPv6"])
def address(request: pytest.FixtureRequest) -> str:
    """
    A loopback address of each family.
    """
    if ":" in request.param and not has_ipv6_loopback():
        pytest.skip("this machine has no ::1")
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def scratch(shares: Shares) -> tuple[Path, str]:
    """
    An empty folder of the test's own on the server, and what a client calls it.
    """
    return shares.folder()
