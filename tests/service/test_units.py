# SPDX-License-Identifier: MIT
"""
The systemd units.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nodecomm.service.units import AGENT, SERVER, Program, sample_units, unit_text

SAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "systemd"


def test_the_documentation_has_these_units() -> None:
    """
    The samples are what bootstrap would write;
    `python -m nodecomm.service.units docs/examples/systemd` brings them up to date.
    """
    found = {path.name: path.read_text() for path in SAMPLES.iterdir()}

    assert found == sample_units()


@pytest.mark.parametrize("program", [AGENT, SERVER], ids=lambda program: program.name)
def test_systemd_takes_them(program: Program, tmp_path: Path) -> None:
    """
    systemd's own check has nothing to say about a unit, also with odd paths.
    """
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("there is no systemd-analyze")
    odd = tmp_path / 'with "quotes" 100% $HOME and\\space'
    odd.mkdir()
    twistd = odd / "twistd"
    twistd.write_text("#!/bin/sh\n")
    twistd.chmod(0o755)
    unit = tmp_path / program.unit
    unit.write_text(unit_text(program, [sys.executable, str(twistd)], odd / "x.toml"))

    done = subprocess.run(
        [verify, "verify", str(unit)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/etc/nodecomm/agent.toml", "/etc/nodecomm/agent.toml"),
        ("/a b/x", '"/a b/x"'),
        ('/a"b/x', '"/a\\"b/x"'),
        ("/100%/x", "/100%%/x"),
        ("/$HOME/x", "/$$HOME/x"),
        ("/a\\b", '"/a\\\\b"'),
    ],
)
def test_words_of_a_command_line(path: str, word: str) -> None:
    """
    Whatever systemd would take apart or replace is escaped.
    """
    assert f" -c {word}\n" in unit_text(AGENT, ["/bin/twistd"], Path(path))
