# SPDX-License-Identifier: MIT
"""
The sample policy, which the embedded defaults serve.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nodecomm.service import sample
from nodecomm.service.loading import load
from nodecomm.service.prepared import prepare
from nodecomm.service.sample import next_steps, nodecomm_command, write_sample

CF_PROMISES = shutil.which("cf-promises")


def test_the_defaults_serve_the_sample(tmp_path: Path) -> None:
    """With the sample in place the embedded defaults are without a doubt."""
    write_sample(tmp_path, 0)
    nowhere = tmp_path / "no" / "server.toml"
    made, loaded = prepare(load(state_dir=tmp_path, system_file=nowhere))

    assert loaded.problems == ()
    assert made is not None
    assert set(made.snapshot.shortcuts) == {b"masterfiles", b"modules"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [(b"root", ("root",)), (b"alice", ("alice", "root")), (b"\xff", ("root",))],
)
def test_whoever_tries_it_is_a_node(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: bytes,
    expected: tuple[str, ...],
) -> None:
    """
    With the defaults a node that its own user runs is trusted on first use, as one of
    root is.
    """
    monkeypatch.setattr(sample, "own_user", lambda: name)
    nowhere = tmp_path / "no" / "server.toml"
    settings = load(state_dir=tmp_path, system_file=nowhere).settings

    assert settings is not None
    assert settings.server.trustusers == expected


def test_sample_is_written_once(tmp_path: Path) -> None:
    """The sample is written into an empty state folder and never again."""
    made = write_sample(tmp_path, 1_700_000_000.5)
    promises = tmp_path / "masterfiles" / "promises.cf"
    promises.write_text("changed")
    again = write_sample(tmp_path, 1_800_000_000)

    assert sorted(str(path.relative_to(tmp_path)) for path in made) == [
        "masterfiles/cf_promises_validated",
        "masterfiles/promises.cf",
        "masterfiles/update.cf",
        "modules/README",
    ]
    assert again == []
    assert promises.read_text() == "changed"
    validated = tmp_path / "masterfiles" / "cf_promises_validated"
    assert json.loads(validated.read_text()) == {"timestamp": 1_700_000_000}


def test_what_is_there_stays(tmp_path: Path) -> None:
    """A file in the way is kept as it is."""
    (tmp_path / "modules").mkdir()
    readme = tmp_path / "modules" / "README"
    readme.write_text("mine")
    made = write_sample(tmp_path, 0)

    assert readme not in made
    assert readme.read_text() == "mine"


def test_next_steps_name_the_port(tmp_path: Path) -> None:
    """What to type names the state folder, and the port where it is not the usual."""
    assert f"--state-dir {tmp_path}" in next_steps(tmp_path, 5308)
    assert "--bootstrap 127.0.0.2\n" in next_steps(tmp_path, 5308)
    assert "--bootstrap 127.0.0.2:1234\n" in next_steps(tmp_path, 1234)


def test_next_steps_tell_the_key(tmp_path: Path) -> None:
    """A node asks about the server's key; what prints it here is named."""
    told = next_steps(tmp_path, 1234, "bin/nodecomm")

    assert f"\n  bin/nodecomm key show --state-dir {tmp_path}\n" in told
    assert "\n  bin/nodecomm bootstrap 127.0.0.2:1234 --role node --state-dir " in told


def test_next_steps_make_a_key_first(tmp_path: Path) -> None:
    """cf-net needs the key that cf-key makes; a port in use is no reason to worry."""
    told = next_steps(tmp_path, 5308)

    lines = [line.split()[0] for line in told.splitlines() if line[2:4] == "cf"]
    assert lines == ["cf-key", "cf-net", "cf-net", "cf-agent"]
    assert "can be ignored" in told


def test_command_is_named_so_that_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nodecomm` is called by name on PATH, else by its path beside the program."""
    # From there no relative path is the shorter one.
    monkeypatch.chdir("/usr/bin")
    program = tmp_path / "with space" / "nodecomm"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    beside = str(program.with_name("twistd"))

    assert nodecomm_command(str(program.parent), [beside]) == "nodecomm"
    assert nodecomm_command("/nonexistent", ["", "/x/y", beside]) == f"'{program}'"
    assert nodecomm_command("/nonexistent", ["/x/y"]) == "nodecomm"
    assert f"  '{program}' key list" in next_steps(tmp_path, 1, f"'{program}'")


@pytest.mark.skipif(CF_PROMISES is None, reason="cf-promises is not installed")
@pytest.mark.parametrize("name", ["promises.cf", "update.cf"])
def test_real_program_accepts_the_sample(tmp_path: Path, name: str) -> None:
    """The real cf-promises finds nothing wrong with the sample policy."""
    write_sample(tmp_path, 0)
    # The program looks for its own folders even if it needs nothing in them.
    work = tmp_path / "work"
    (work / "inputs").mkdir(mode=0o700, parents=True)
    assert CF_PROMISES is not None
    done = subprocess.run(
        [CF_PROMISES, "-f", str(tmp_path / "masterfiles" / name)],
        env={**os.environ, "CFENGINE_TEST_OVERRIDE_WORKDIR": str(work)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
