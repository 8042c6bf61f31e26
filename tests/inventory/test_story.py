# SPDX-License-Identifier: MIT
"""
What all of this is for, with a real server, a real agent, and the commands of the
operator: a machine becomes a node, tells what it is, is accepted, and has its files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nodecomm.identity.users import own_user
from tests.forking import Forked
from tests.interop.machine import wait_until
from tests.ports import free_port
from tests.service.node import PATIENCE, Server

SERVER = """
[server]
listen = ["tcp:{port}:interface=127.0.0.1"]
allowed_networks = ["127.0.0.1"]
trustkeysfrom = ["127.0.0.1"]
trustusers = ["{user}"]

[[access]]
path = "{folder}/masterfiles"
shortcut = "masterfiles"
admit_ips = ["127.0.0.1"]

[inventory]
listen = ["tcp:{https}:interface=127.0.0.1"]
server_id = "root"
min_free = 0

[[node_files]]
path = "{folder}/nodes/{{node_id}}"
"""

AGENT = """
[agent]
interval = "1h"
splay = "0s"

[inventory]
urls = ["https://127.0.0.1:{https}/"]

[[copy]]
source = "{folder}/nodes/{{node_id}}"
destination = "{state}/own"
purge = true
"""

#: The policy server as a node of its own.
OWN_AGENT = """
[agent]
policy_servers = ["127.0.0.1:{port}"]
server_keys = ["{key}"]
interval = "1h"
splay = "0s"

[inventory]
urls = ["https://127.0.0.1:{https}/"]

[[copy]]
source = "masterfiles"
destination = "{state}/inputs"
"""


def command(*words: str) -> tuple[int, Any, str]:
    """Exit status of a command, what it prints for programs, and its complaints."""
    program = str(Path(sys.executable).with_name("nodecomm"))
    process = Forked(
        [program, *words, "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    printed, complaints = process.communicate(timeout=PATIENCE)
    facts = json.loads(printed) if printed.strip() else None
    return process.returncode, facts, complaints.decode()


def listed(*words: str) -> list[dict[str, Any]]:
    """What the server knows of its nodes."""
    _, facts, _ = command("nodes", "list", *words)
    found: list[dict[str, Any]] = facts["nodes"]
    return found


@pytest.mark.programs
def test_from_a_new_machine_to_a_node_with_its_files(tmp_path: Path) -> None:
    """
    Bootstrap, inventory, acceptance, and the node's own folder, which nobody else is
    given; and the server is a node of itself.
    """
    port, https = free_port(), free_port()
    (tmp_path / "masterfiles").mkdir()
    (tmp_path / "masterfiles" / "promises.cf").write_text("for all")
    config = tmp_path / "server.toml"
    config.write_text(
        SERVER.format(port=port, https=https, folder=tmp_path, user=own_user().decode())
    )
    node = tmp_path / "node"
    node.mkdir(mode=0o700)
    state = ("--state-dir", str(node))
    agent = node / "agent.toml"
    agent.write_text(AGENT.format(https=https, folder=tmp_path, state=node))
    nodes = ("--config", str(config), "--state-dir", str(tmp_path / "state"))

    with Server(tmp_path, "-c", str(config)) as server:
        server.wait_for("server.started")
        _, own, _ = command("key", "show", "--state-dir", str(tmp_path / "state"))
        status, _, said = command(
            "bootstrap",
            f"127.0.0.1:{port}",
            *("--role", "node", "--server-key", own["md5"]),
            *state,
        )
        assert status == 0, said
        place = tmp_path / "agent"
        place.mkdir()
        words = ("-c", str(agent), *state)
        with Server(place, *words, plugin="nodecomm-agent") as running:
            running.wait_for("agent.inventory-sent")
            # The server has it on disk; what it says is read right after.
            status, _, said = command("nodes", "wait", *nodes)
            assert status == 0, said
            (pending,) = listed(*nodes)
            node_id = (node / "uuid").read_text().strip()
            assert (pending["id"], pending["status"]) == (node_id, "pending")
            # Its files are there, and are not given yet.
            (tmp_path / "nodes" / node_id).mkdir(parents=True)
            (tmp_path / "nodes" / node_id / "policy").write_text(f"for {node_id}")
            status, _, said = command("agent", "run", "-c", str(agent), *state)
            assert status == 1, said
            assert not (node / "own").exists()

            status, _, said = command("nodes", "accept", node_id, *nodes)
            assert status == 0, said

            def has_its_files() -> bool:
                done, _, _ = command("agent", "run", "-c", str(agent), *state)
                return done == 0

            wait_until(has_its_files, "the files of the node", PATIENCE)
            assert (node / "own" / "policy").read_text() == f"for {node_id}"
            status, _, said = command("agent", "inventory", "-c", str(agent), *state)
            assert status == 0, said
            _, facts, _ = command("agent", "status", "-c", str(agent), *state)
            inventory = facts["status"]["inventory"]
            assert inventory["sent"]["server_id"] == "root"
            assert inventory["sent"]["reason"] == "asked"
            assert inventory["node_id"] == node_id

        own_place = tmp_path / "own-agent"
        own_place.mkdir()
        own_agent = own_place / "agent.toml"
        own_state = tmp_path / "state"
        own_agent.write_text(
            OWN_AGENT.format(port=port, https=https, key=own["md5"], state=own_state)
        )
        words = ("-c", str(own_agent), "--state-dir", str(own_state))
        with Server(own_place, *words, plugin="nodecomm-agent") as running:
            running.wait_for("agent.inventory-sent")
            own_id = (own_state / "uuid").read_text().strip()
            status, _, said = command("nodes", "wait", own_id, *nodes)
            assert status == 0, said
            found = {one["id"]: one["status"] for one in listed(*nodes)}
            assert found == {node_id: "accepted", own_id: "pending"}
