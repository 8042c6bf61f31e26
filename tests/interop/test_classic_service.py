# SPDX-License-Identifier: MIT
"""
`twistd nodecomm-server` and the real agent over the classic protocol: who is let in,
what the log says, and what becomes of a node that is let in no longer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.interop.harness import (
    NodecommServer,
    RealAgent,
    WorkFolder,
    config_for,
    peer_program,
    wait_until,
)

CONTENT = "content\n" * 1000


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A small tree."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "file").write_text(CONTENT)
    (served / "empty").write_text("")
    (served / "link").symlink_to("file")
    return served


def tree(folder: Path) -> dict[str, str]:
    """What is in *folder*: content of files, texts of links."""
    return {
        path.name: f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in folder.iterdir()
    }


def test_a_node_of_either_protocol(tmp_path: Path, served: Path) -> None:
    """
    One agent copies over the classic protocol in the clear, encrypted, and over TLS
    from one port: links are links there and copies here. Each classic session is
    told, the one over TLS is not.
    """
    peer_program("cf-agent")
    agent = RealAgent(WorkFolder(tmp_path / "node"))
    config = config_for({"files": served}, classic=True)
    classic = {"empty": "", "file": CONTENT, "link": "-> file"}
    ways: list[tuple[str, dict[str, Any], dict[str, str]]] = [
        ("plain", {"protocol_version": "classic", "encrypt": "false"}, classic),
        ("encrypted", {"protocol_version": "1", "encrypt": "true"}, classic),
        ("tls", {"protocol_version": "latest"}, {**classic, "link": CONTENT}),
    ]
    with NodecommServer(tmp_path / "server", config) as server:
        for name, options, expected in ways:
            run = agent.copy(
                "127.0.0.1", server.port, "files", tmp_path / name, **options
            )
            assert tree(tmp_path / name) == expected, run.output + server.logs()
        wait_until(
            lambda: server.logs().count(" session.closed: ") == 3, "three sessions"
        )
        logs = server.logs()

    assert logs.count(" classic.allowed: ") == 1
    assert logs.count(" session.unprotected: ") == 2
    assert "Traceback" not in logs


def test_a_node_that_is_let_in_no_longer(tmp_path: Path, served: Path) -> None:
    """
    When the list loses a node's address, the node keeps what it has, though its copy
    purges; the log names the list. When the list has it again it is served again.
    """
    peer_program("cf-agent")
    agent = RealAgent(WorkFolder(tmp_path / "node"))
    shares, here = {"files": served}, tmp_path / "here"
    options: dict[str, Any] = {
        "protocol_version": "1",
        "encrypt": "true",
        "purge": "true",
    }
    allowed = config_for(shares, classic=True)
    with NodecommServer(tmp_path / "server", allowed) as server:

        def reload(settings: str, times: int) -> None:
            server.write_settings(settings)
            server.reload()
            wait_until(
                lambda: server.logs().count(" config.loaded: ") == times,
                "the new configuration",
            )

        agent.copy("127.0.0.1", server.port, "files", here, **options)
        before = tree(here)
        assert before["file"] == CONTENT, server.logs()

        reload(config_for(shares, classic=False), 1)
        (served / "file").write_text("changed")
        (served / "empty").unlink()
        agent.copy("127.0.0.1", server.port, "files", here, **options)
        assert tree(here) == before
        refused = [
            line for line in server.logs().splitlines() if " limit.reached: " in line
        ]
        assert len(refused) == 1
        assert "allowlegacyconnects" in refused[0]
        assert "127.0.0.1" in refused[0]

        reload(allowed, 2)
        agent.copy("127.0.0.1", server.port, "files", here, **options)
        assert tree(here) == {"file": "changed", "link": "-> file"}
        assert "Traceback" not in server.logs()
