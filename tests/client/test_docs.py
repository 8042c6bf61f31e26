# SPDX-License-Identifier: MIT
"""
The page about the client says what is so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodecomm.client.stages import CLASSIC_TABLE, TABLE
from nodecomm.identity.own import create_own_key
from tests.interop.servers import NodecommServer, config_for

DOCS = Path(__file__).parents[2] / "docs"


def test_the_tables_of_stages() -> None:
    """
    The tables on the page are those that are obeyed.
    """
    rows = [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in (DOCS / "client.rst").read_text().splitlines()
    ]
    begin = 0
    for table in (TABLE, CLASSIC_TABLE):
        expected = [
            [before.value, step.value, after.value]
            for (before, step), after in table.items()
        ]

        begin = rows.index(["in", "when", "comes"], begin) + 2

        assert rows[begin : begin + len(expected)] == expected
        assert rows[begin + len(expected)][0].startswith("===")


def run_example(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """
    Python with *words*, in the folder of the examples.
    """
    return subprocess.run(
        [sys.executable, *words],
        cwd=DOCS / "examples" / "client",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "error", **environ},
    )


def test_the_tests() -> None:
    """
    The tests of what is on the page run, and succeed.
    """
    done = run_example("-B", "-m", "unittest", "test_tree_size", "test_remote_run")

    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr


@pytest.mark.programs
def test_mistakes_with_the_program(tmp_path: Path) -> None:
    """
    What a person did wrong is one line, and how it is called stands in its help.
    """
    empty = {"NODECOMM_STATE_DIR": str(tmp_path)}
    for words, said in (
        ([], "HOST[:PORT]:PATH [STATE_DIR]"),
        (["hub"], "error: 'hub' names no server"),
        (["hub:x"], f"error: {tmp_path}/ppkeys/localhost.priv"),
    ):
        done = run_example("-B", "tree_size.py", *words, **empty)

        assert done.returncode == 1
        assert done.stdout == ""
        assert said in done.stderr
        assert (done.stderr.count("\n") == 1) == bool(words)


@pytest.mark.programs
def test_the_program(tmp_path: Path) -> None:
    """
    The program on the page counts the files of a folder of a real server.
    """
    share = tmp_path / "share"
    (share / "folder").mkdir(parents=True)
    for number in range(20):
        (share / f"file{number}").write_bytes(b"x" * number)
    state = tmp_path / "node"
    create_own_key(str(state / "ppkeys"))
    with NodecommServer(tmp_path / "server", config_for({"share": share})) as server:
        done = run_example(
            "-B", "tree_size.py", f"127.0.0.1:{server.port}:share", str(state)
        )

    assert done.stderr == ""
    assert done.stdout == "20 files, 190 bytes, 5 round trips\n"
