# SPDX-License-Identifier: MIT
"""
A new node bootstraps from a server and keeps its policy up to date.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import Shares
from tests.interop.harness import Server, WorkFolder, wait_until
from tests.interop.trees import described


@pytest.fixture
def new_node(node: WorkFolder) -> Iterator[WorkFolder]:
    """
    A node whose cf-execd is ended afterwards, by its pid file.
    """
    yield node
    pid_file = node.path / "cf-execd.pid"
    if pid_file.exists():
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        wait_until(lambda: not pid_file.exists(), "the end of cf-execd")


def copied(folder: Path, like: Path) -> dict[bytes, object]:
    """
    What is in *folder* of the names that are in *like*, without modes: the built-in
    policy of a bootstrap chooses those.
    """
    names = described(like)
    return {
        name: entry._replace(mode=0)
        for name, entry in described(folder).items()
        if name in names
    }


def plain(tree: Path) -> dict[bytes, object]:
    """
    A tree without its modes.
    """
    return {name: entry._replace(mode=0) for name, entry in described(tree).items()}


def test_bootstrap(server: Server, shares: Shares, new_node: WorkFolder) -> None:
    """
    `cf-agent --bootstrap` succeeds: the policy and the modules are the server's, the
    policy ran, cf-execd runs, and each side has stored the other's key.
    """
    # Told 127.0.0.1, a node takes itself for the policy server.
    done = new_node.bootstrap("127.0.0.2", server.port)

    assert done.status == 0, done.output[-5000:]
    assert "completed successfully" in done.output
    assert "the policy of the test runs" in done.output
    assert (new_node.path / "cf-execd.pid").exists()
    inputs, modules = new_node.path / "inputs", new_node.path / "modules"
    assert copied(inputs, shares.masterfiles) == plain(shares.masterfiles)
    assert copied(modules, shares.modules) == plain(shares.modules)
    key = (new_node.path / "ppkeys" / "localhost.pub").read_bytes()
    assert key in [file.read_bytes() for file in server.ppkeys.glob("root-*.pub")]
    hub = (server.ppkeys / "localhost.pub").read_bytes()
    known = (new_node.path / "ppkeys").glob("root-*.pub")
    assert hub in [file.read_bytes() for file in known]


def test_a_node_without_a_key_does_not_bootstrap(
    server: Server, tmp_path: Path
) -> None:
    """
    Without a key pair the bootstrap fails on the node, and the server goes on.
    """
    keyless = WorkFolder(tmp_path / "keyless", key=False)
    try:
        done = keyless.bootstrap("127.0.0.2", server.port)
    finally:
        keyless.end_daemons()

    assert done.status != 0
    assert not (keyless.path / "inputs" / "promises.cf").exists()
