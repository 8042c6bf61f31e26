# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.run_checks`: what this machine says about what is run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nodecomm.access.execution import Execution
from nodecomm.config.errors import Origin
from nodecomm.config.model import Settings
from nodecomm.service.loading import check_access, load
from nodecomm.service.prepared import prepare
from nodecomm.service.run_checks import execution_problems, sync_command


def problems_of(program: Path, user: str | None = None) -> list[str]:
    """
    What is said about a program.
    """
    execution = Execution((str(program),), os.fsencode(program), user)
    return [str(p) for p in execution_problems(Settings(), "server", execution)]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """
    A program that only its owner can change.
    """
    tmp_path.chmod(0o755)
    made = tmp_path / "agent"
    made.write_text("#!/bin/sh\n")
    made.chmod(0o755)
    return made


def test_good_program_is_not_told_of(program: Path) -> None:
    """What only we and root can change, and everybody run, is nothing to tell of."""
    assert problems_of(program) == []
    assert execution_problems(Settings(), "server", None) == []
    inside = Execution("sync", is_sync=True)
    assert execution_problems(Settings(), "server", inside) == []


def test_missing_program_is_not_told_of_twice(tmp_path: Path) -> None:
    """The rules say that it is not there."""
    assert problems_of(tmp_path / "nothing") == []


def test_program_that_cannot_be_executed(program: Path) -> None:
    """Without an x bit nothing would ever run."""
    program.chmod(0o644)

    (said,) = problems_of(program)

    assert "the program cannot be executed; chmod +x" in said
    assert "warning" in said


def test_program_that_others_can_change(program: Path) -> None:
    """Whoever can write the program, its folder, or its link decides what runs."""
    program.chmod(0o757)
    (said,) = problems_of(program)
    assert f"{program} can be written by everybody" in said

    program.chmod(0o755)
    program.parent.chmod(0o777)
    (said,) = problems_of(program)
    assert f"{program.parent} can be written by everybody" in said

    program.parent.chmod(0o1777)
    assert problems_of(program) == []

    open_folder = program.parent / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    link = open_folder / "link"
    link.symlink_to(program)
    (said,) = problems_of(link)
    assert f"{open_folder} can be written by everybody" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_program_of_somebody_else(program: Path) -> None:
    """A program's owner decides what runs, unless it is root or who runs it."""
    os.chown(program, 12345, 0)
    (said,) = problems_of(program)
    assert f"{program} belongs to user 12345, who could have anything run here" in said

    os.chown(program, 1, 0)
    assert problems_of(program, user="daemon") == []
    (said,) = problems_of(program)
    assert f"{program} belongs to daemon" in said

    os.chown(program, 0, 12345)
    program.chmod(0o775)
    (said,) = problems_of(program)
    assert f"{program} can be written by group 12345" in said


def test_unknown_user(program: Path) -> None:
    """A user that is not there is an error of the configuration."""
    execution = Execution((str(program),), os.fsencode(program), "no-such-user")

    (problem,) = execution_problems(Settings(), "agent", execution)

    assert problem.is_error
    assert problem.key_path == "agent.cfrunuser"
    assert problem.message == "there is no such user on this machine"


def test_sync_is_the_program_beside_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The `nodecomm` beside what was started, else the one beside the interpreter."""
    beside = tmp_path / "nodecomm"
    beside.write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "twistd"), "nodecomm-server"])
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    key = "server.state_dir"

    assert sync_command(Settings(), key, "/s") == ("/nowhere/nodecomm", "agent", "run")

    beside.chmod(0o755)
    assert sync_command(Settings(), key, "/s") == (str(beside), "agent", "run")


@pytest.mark.parametrize("source", ["--state-dir", "NODECOMM_STATE_DIR"])
def test_sync_is_told_a_state_folder_of_this_start(source: str) -> None:
    """A folder that was named for this start alone is named for the run as well."""
    here = Settings(origins={"server.state_dir": Origin(source, 0, 0)})
    written = Settings(origins={"server.state_dir": Origin("server.toml", 2, 1)})
    key = "server.state_dir"

    assert sync_command(here, key, "/srv/\\xff")[3:] == ("--state-dir", "/srv/\udcff")
    assert sync_command(written, key, "/srv/x")[3:] == ()


def test_prepared_configuration_is_checked(tmp_path: Path, program: Path) -> None:
    """What a server starts with has the command, and what is wrong with it is told."""
    program.chmod(0o757)
    config = tmp_path / "server.toml"
    config.write_text(
        f"[server]\nstate_dir = '{tmp_path}/state'\nallowusers = ['root']\n"
        f"cfruncommand = ['{program}']\ncfrunuser = 'no-such-user'\n"
        f"[[access]]\npath = '{program}'\nadmit_ips = ['127.0.0.1']\n"
    )

    ready, loaded = prepare(load(config, environ={}))

    assert ready is None
    said = [str(problem) for problem in loaded.problems]
    assert any("can be written by everybody" in text for text in said)
    assert any("there is no such user" in text for text in said)

    config.write_text(config.read_text().replace("cfrunuser = 'no-such-user'\n", ""))
    ready, loaded = prepare(load(config, environ={}))

    assert ready is not None
    execution = ready.snapshot.execution
    assert execution is not None
    assert execution.program == os.fsencode(program)


def test_sync_of_a_server_is_a_program(tmp_path: Path) -> None:
    """A server has another program do its sync, and needs a rule for that."""
    config = tmp_path / "server.toml"
    config.write_text("[server]\ncfruncommand = 'sync'\nallowusers = ['root']\n")

    snapshot, loaded = check_access(load(config, environ={}))

    assert snapshot is not None
    assert snapshot.execution is not None
    assert snapshot.execution.command[1:] == ("agent", "run")
    assert snapshot.execution.program is not None
    assert any("cfruncommand" in problem.key_path for problem in loaded.problems)
