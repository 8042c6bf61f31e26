# SPDX-License-Identifier: MIT
"""
An agent as a process, which cf-runagent asks for runs.
"""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodecomm.cli import agent as agent_command
from nodecomm.identity.keys import PublicKey
from tests.interop.harness import RealServer, WorkFolder, peer_program
from tests.interop.running import Command, run_node
from tests.interop.test_agent import Agent
from tests.ports import free_port
from tests.recorded import key_pair

HOST = "127.0.0.1"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """
    A small policy.
    """
    folder = tmp_path / "masterfiles"
    folder.mkdir()
    (folder / "promises.cf").write_text("bundle agent main {}\n")
    return folder


@pytest.fixture
def hub(tmp_path: Path, policy: Path) -> Iterator[RealServer]:
    """
    A policy server.
    """
    peer_program("cf-runagent")
    work = WorkFolder(tmp_path / "hub", key=key_pair("server"))
    with RealServer(work, {"masterfiles": policy}) as server:
        yield server


def test_an_agent_is_asked_for_runs(
    tmp_path: Path, hub: RealServer, policy: Path
) -> None:
    """
    The key of the policy server, which the agent learns by its first run, may ask for
    the agent's own run, gets what it says of it, and the exit code; another key may
    connect only when run_keys names it. After a reload it is a program that runs.
    """
    agent = Agent(tmp_path / "agent")
    port = free_port()
    listen = f'listen = ["tcp:{port}:interface={HOST}"]\n'
    later = f'interval = "10m"\nsplay = "0s"\n{listen}'
    agent.configure(f"{HOST}:{hub.port}", more=f'{later}cfruncommand = "sync"')
    with agent.processes:
        process = agent.start("-v")
        process.wait_for("agent.listening")
        agent.settled()
        assert f"tcp:{port}:interface={HOST}" in agent.status()[1]
        public = PublicKey.from_pem(
            (agent.state / "ppkeys" / "localhost.pub").read_bytes()
        )
        asking, stranger = (
            run_node(WorkFolder(tmp_path / name, key=key_pair(name)), public)
            for name in ("server", "other")
        )

        (policy / "promises.cf").write_text("bundle agent main { reports: 'x'; }\n")
        status, output = asking.run("cf-runagent", "-H", f"{HOST}:{port}")
        assert status == 0, output
        lines = output.splitlines()
        assert lines[0] == f"{HOST}> cf-serverd executing cfruncommand: sync"
        assert lines[-1] == f"{HOST}> (exit code: 0)"
        assert f"{HOST}-> ->" not in output
        assert f"{agent.destination} is updated to masterfiles" in output
        assert agent.content()["promises.cf"].endswith(b"'x'; }\n")

        status, output = stranger.run("cf-runagent", "-H", f"{HOST}:{port}")
        assert (status, "executing" in output) == (255, False)
        digest = key_pair("other").public.md5
        said = process.wait_for("trust.refused")
        assert f'run_keys = ["{digest}"] in [agent]' in said.replace("\\", "")

        out, errors = io.StringIO(), io.StringIO()
        options = agent_command.Options()
        options.parseOptions(["run", "--state-dir", str(agent.state)])
        assert agent_command.run(options, out, errors) == 0, errors.getvalue()
        # On a busy machine it tells first that the run takes its time.
        assert f"masterfiles -> {agent.destination}: " in out.getvalue()

        command = Command.made(tmp_path / "run")
        tables = (
            '[[roles]]\npattern = "ok_.*"\nauthorize = ["root"]\n'
            '[[access]]\npath = "b_.*"\nresource_type = "bundle"\n'
            f'admit_keys = ["{digest}"]\n'
        )
        agent.configure(
            f"{HOST}:{hub.port}",
            more=f"{later}cfruncommand = {json.dumps([str(command.path), 'one'])}\n"
            f'run_keys = ["{digest}"]',
            copies=tables,
        )
        process.signal(signal.SIGHUP)
        process.wait_for("config.loaded")
        status, output = stranger.run(
            "cf-runagent",
            "-D",
            "ok_code_3",
            "--remote-bundles",
            "b_1",
            "-H",
            f"{HOST}:{port}",
        )
        assert status == 3, output
        words = "one -D ok_code_3 --bundlesequence b_1"
        assert f"cfruncommand: {command.path} {words}\n" in output
        status, output = asking.run(
            "cf-runagent", "--remote-bundles", "b_1", "-H", f"{HOST}:{port}"
        )
        assert status == 255
        assert "EXEC denied bundle activation" in output
        process.signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        assert "Traceback" not in process.out.read_text()
        assert process.err.read_text() == ""
