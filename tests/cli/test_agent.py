# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm agent status`, and `nodecomm config` for an agent's file.
"""

from __future__ import annotations

import io
import json
import os
import pwd
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest
from twisted.python import usage

from nodecomm.cli import agent, config
from nodecomm.service.agent_status import (
    LOCK_NAME,
    STATUS_NAME,
    Attempt,
    Point,
    write_status,
)
from nodecomm.service.own_state import FolderLock
from nodecomm.sync.clocks import SteadyClock
from tests.service.test_agent_status import FAILED, GOOD


def run(module: ModuleType, *arguments: str) -> tuple[int, str, str]:
    """Run a command: status, output, errors."""
    options = module.Options()
    options.parseOptions(list(arguments))
    out, errors = io.StringIO(), io.StringIO()
    status: int = module.run(options, out, errors)
    return status, out.getvalue(), errors.getvalue()


@pytest.fixture
def running(tmp_path: Path) -> Any:
    """A state folder that an agent holds."""
    lock = FolderLock(str(tmp_path / LOCK_NAME))
    assert lock.take()
    yield str(tmp_path)
    lock.release()


def test_healthy(running: str) -> None:
    """Lines for people on standard output, status 0."""
    write_status(running, GOOD)
    status, out, errors = run(agent, "status", "--state-dir", running)

    assert (status, errors) == (0, "")
    assert out.startswith("agent:         running (process 42), ")
    assert "masterfiles -> /srv/masterfiles: updated from a:5308" in out


def test_failed(running: str) -> None:
    """Status 1, and why on standard error."""
    write_status(running, FAILED)
    status, out, errors = run(agent, "status", "--state-dir", running)

    assert status == 1
    assert errors == (
        f"error: the last run failed for 1 of 1 copies (state folder {running})\n"
    )
    assert "what to do: a route" in out


def test_never(tmp_path: Path) -> None:
    """No agent, no file: status 1 with both."""
    status, out, errors = run(agent, "status", "--state-dir", str(tmp_path))

    assert (status, out) == (1, "")
    assert errors.count("error: ") == 2


def test_json(running: str) -> None:
    """The same facts for programs, with the ages of this moment."""
    write_status(running, FAILED)
    status, out, _ = run(agent, "status", "--json", "--state-dir", running)
    facts = json.loads(out)

    assert status == 1
    assert facts["running"] is True
    assert facts["ailments"] == ["the last run failed for 1 of 1 copies"]
    assert facts["status"] == json.loads(json.dumps(attrs.asdict(FAILED)))
    assert set(facts["seconds"]) == {
        "since_last_success",
        "since_last_change",
        "until_next_run",
    }
    status, out, _ = run(agent, "status", "--json", "--state-dir", running + "/none")
    assert json.loads(out)["status"] is None


def test_damaged(running: str) -> None:
    """A file that nobody understands is one line."""
    (Path(running) / STATUS_NAME).write_text("{")
    status, out, errors = run(agent, "status", "--state-dir", running)

    assert (status, out) == (1, "")
    assert "cannot be understood" in errors
    assert errors.count("\n") == 1


def test_whose_agent_it_is(running: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who may not see the state is told who may."""

    def read_status(folder: str) -> None:
        raise PermissionError(13, "Permission denied", f"{folder}/{STATUS_NAME}")

    monkeypatch.setattr(agent, "read_status", read_status)
    status, out, errors = run(agent, "status", "--state-dir", running)
    owner = pwd.getpwuid(os.stat(running).st_uid).pw_name

    assert (status, out) == (1, "")
    assert errors == (
        f"error: {running}/{STATUS_NAME}: Permission denied; run this as the user whose"
        f" agent it is: sudo -u {owner} ...\n"
    )


def test_the_state_folder_of_the_configuration(
    running: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found by the configuration, though that may be wrong otherwise."""
    monkeypatch.delenv("NODECOMM_STATE_DIR", raising=False)
    write_status(running, GOOD)
    file = tmp_path / "a.toml"
    file.write_text(f'[agent]\nstate_dir = "{running}"\n')

    assert run(agent, "status", "-c", str(file))[0] == 0


@pytest.fixture
def answering(running: str) -> Iterator[list[str]]:
    """
    A state folder that this process holds as an agent; asked for a run, it makes one
    with the outcome that the list ends with.
    """
    outcomes: list[Any] = [running]

    def asked(number: int, frame: object) -> None:
        steady = SteadyClock()()
        now = Point(time.time(), steady.boot, steady.ns)
        status = GOOD if outcomes[-1] == "succeeded" else FAILED
        attempt = Attempt(now, 0.5, "signal", outcomes[-1])
        write_status(
            running, attrs.evolve(status, pid=os.getpid(), last_attempt=attempt)
        )

    before = signal.signal(signal.SIGUSR1, asked)
    yield outcomes
    signal.signal(signal.SIGUSR1, before)


def test_a_run(answering: list[str]) -> None:
    """The agent is asked, and what came of it told, as lines and as JSON."""
    state = answering[0]
    answering.append("succeeded")
    status, out, errors = run(agent, "run", "--state-dir", state)
    assert (status, errors) == (0, "")
    assert out.startswith("masterfiles -> /srv/masterfiles: updated from a:5308")
    assert out.endswith("the run succeeded after 0.5 s\n")
    answering.append("failed")
    status, out, errors = run(agent, "run", "--state-dir", state)
    assert status == 1
    assert errors == (
        f"error: the last run failed for 1 of 1 copies (state folder {state})\n"
    )
    status, out, _ = run(agent, "run", "--json", "--timeout", "9", "--state-dir", state)
    facts = json.loads(out)
    assert status == 1
    assert facts["status"]["last_attempt"]["outcome"] == "failed"
    assert facts["ailments"] == ["the last run failed for 1 of 1 copies"]


def test_a_run_of_nobody(tmp_path: Path) -> None:
    """Where no agent runs, what to do is told."""
    status, out, errors = run(agent, "run", "--state-dir", str(tmp_path))
    assert (status, out) == (1, "")
    assert errors.startswith(
        f"error: no agent is running with the state folder {tmp_path}"
    )
    assert "twistd nodecomm-agent" in errors
    with pytest.raises(usage.UsageError, match="--timeout takes seconds"):
        run(agent, "run", "--timeout", "soon")


def test_nothing_to_do() -> None:
    """What to do must be named."""
    with pytest.raises(usage.UsageError, match="status"):
        agent.Options().parseOptions([])


AGENT = """\
[agent]
policy_servers = ["hub"]
interval = "5m"
[[copy]]
source = "masterfiles"
destination = "/srv/inputs"
"""


def test_checking_a_file_of_an_agent(tmp_path: Path) -> None:
    """By its name, by its table, or because it is said."""
    for name, arguments in (
        ("agent.toml", []),
        ("other.toml", []),
        ("other.toml", ["--agent"]),
    ):
        file = tmp_path / name
        file.write_text(AGENT)
        status, out, errors = run(config, "check", "-c", str(file), *arguments)
        assert (status, out, errors) == (0, f"{file}: can be used\n", "")
        file.write_text(AGENT.replace("interval", "intervall").replace("hub", "a b"))
        status, out, errors = run(config, "check", "-c", str(file), *arguments)
        assert (status, out) == (1, f"{file}: cannot be used (2 errors)\n")
        assert f"{file}:2:19: error: agent.policy_servers[0]" in errors
        assert "did you mean interval?" in errors


def test_showing_a_file_of_an_agent(tmp_path: Path) -> None:
    """Every value with its origin; the output can be read again."""
    file = tmp_path / "agent.toml"
    file.write_text(AGENT)
    status, out, _ = run(config, "show", "-c", str(file))
    assert status == 0
    assert f'interval = "5m"  # {file}:3:1' in out
    assert 'timeout = "30s"  # default' in out
    shown = tmp_path / "shown.toml"
    shown.write_text(out)
    assert run(config, "check", "-c", str(shown))[0] == 0
    facts = json.loads(run(config, "show", "--json", "-c", str(file))[1])
    keys = {value["key"]: value["value"] for value in facts["values"]}
    assert keys["copy[0].source"] == "masterfiles"
    assert keys["agent.after_update"] == []
    assert "\nexclude = []  # default\n" in out
