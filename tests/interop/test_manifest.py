# SPDX-License-Identifier: MIT
"""
Real programs and the manifest: an agent that copies a tree never sees it, and whoever
asks for it by name gets it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nodecomm.wire.manifest import NAME, ManifestKind, parse_manifest
from tests.interop.test_copies import expected_copy
from tests.interop.trees import Entry, described

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.conftest import Shares
    from tests.interop.harness import RealAgent, Server, WorkFolder

MANIFEST = f"files/{os.fsdecode(NAME)}"

_KINDS = {
    ManifestKind.FILE: "file",
    ManifestKind.FOLDER: "folder",
    ManifestKind.LINK: "link",
}


def test_cf_net_gets_a_manifest(
    server: Server, node: WorkFolder, shares: Shares, tmp_path: Path
) -> None:
    """
    From nodecomm it is a plain file, which lists the tree as it is on the server's
    disk, links followed; from cf-serverd there is none.
    """
    node.cf_net("127.0.0.1", server.port, "connect")
    done = node.cf_net("127.0.0.1", server.port, "stat", MANIFEST)
    if server.kind != "nodecomm":
        assert "BAD: Unspecified server refusal" in done.output
        return
    assert "is a regular file" in done.output
    got = tmp_path / "got"
    done = node.cf_net("127.0.0.1", server.port, "get", "-o", str(got), MANIFEST)

    entries = parse_manifest(got.read_bytes(), 1000)
    found = {
        entry.name: Entry(
            _KINDS[entry.kind],
            0 if entry.kind is ManifestKind.LINK else entry.mode,
            entry.size if entry.kind is ManifestKind.FILE else 0,
            entry.sha256.hex() if entry.sha256 else os.fsdecode(entry.target),
        )
        for entry in entries
    }
    expected = {
        name: entry
        for name, entry in described(shares.files, follow=True).items()
        # Such a name cannot be asked for.
        if b"\n" not in name
    }
    expected[b""] = Entry("folder", shares.files.stat().st_mode & 0o7777, 0, "")
    assert found == expected
    assert "Traceback" not in server.logs()


def test_an_agent_never_sees_it(
    server: Server, shares: Shares, agent: RealAgent, tmp_path: Path
) -> None:
    """
    A copy is the same tree whether or not somebody asks for manifests meanwhile, and a
    second run has nothing to do.
    """
    copy = tmp_path / "copy"
    ask = ("127.0.0.1", server.port)
    agent.copy(*ask, "files", copy, purge="true")
    agent.work.cf_net(*ask, "stat", MANIFEST)
    (copy / "surplus").write_text("surplus")
    done = agent.copy(*ask, "files", copy, purge="true", compare="digest")
    again = agent.copy(*ask, "files", copy, purge="true", compare="digest")

    assert described(copy) == expected_copy(shares.files), done.output
    assert "surplus" not in again.output
    assert os.fsdecode(NAME) not in done.output + again.output
    listed = agent.work.cf_net(*ask, "opendir", "files").output.split("\n")
    assert sorted(listed) == sorted([".", "..", "", *os.listdir(shares.files)])
