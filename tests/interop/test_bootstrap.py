# SPDX-License-Identifier: MIT
"""
A new node bootstraps from a server and keeps its policy up to date.
"""

from __future__ import annotations

from pathlib import Path

from tests.interop.conftest import Shares
from tests.interop.harness import Server, WorkFolder
from tests.interop.trees import described


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


def test_bootstrap(server: Server, shares: Shares, node: WorkFolder) -> None:
    """
    `cf-agent --bootstrap` succeeds: the policy and the modules are the server's, the
    policy ran, cf-execd runs, and each side has stored the other's key.
    """
    # Told 127.0.0.1, a node takes itself for the policy server.
    done = node.bootstrap("127.0.0.2", server.port)

    assert done.status == 0, done.output[-5000:]
    assert "completed successfully" in done.output
    assert "cf-execd runs" in done.output
    if "the policy of the test runs" not in done.output:
        # That cf-execd has run it a moment before, and it is run once a minute.
        assert "the policy of the test runs" in node.run("cf-agent", "-K").output
    inputs, modules = node.path / "inputs", node.path / "modules"
    assert copied(inputs, shares.masterfiles) == plain(shares.masterfiles)
    assert copied(modules, shares.modules) == plain(shares.modules)
    key = (node.path / "ppkeys" / "localhost.pub").read_bytes()
    assert key in [file.read_bytes() for file in server.ppkeys.glob("root-*.pub")]
    hub = (server.ppkeys / "localhost.pub").read_bytes()
    known = (node.path / "ppkeys").glob("root-*.pub")
    assert hub in [file.read_bytes() for file in known]


def test_a_node_without_a_key_does_not_bootstrap(
    server: Server, tmp_path: Path
) -> None:
    """
    Without a key pair the bootstrap fails on the node, and the server goes on.
    """
    keyless = WorkFolder(tmp_path / "keyless", key=False)

    done = keyless.bootstrap("127.0.0.2", server.port)

    assert done.status != 0
    assert not (keyless.path / "inputs" / "promises.cf").exists()
