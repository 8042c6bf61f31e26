# SPDX-License-Identifier: MIT
"""
`nodecomm inventory retry`.
"""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from nodecomm.cli import main
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.names import read_name
from nodecomm.inventory.outbox import Outbox
from nodecomm.inventory.pairs import Box, Sender

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)


def run(*words: str | Path) -> tuple[int, str, str]:
    """
    Status, output, errors of `nodecomm inventory retry`.
    """
    out, err = io.StringIO(), io.StringIO()
    status = main.run(["inventory", "retry", *map(str, words)], out, err)
    return status, out.getvalue(), err.getvalue()


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    """The folder of a relay that runs."""
    made = Outbox(tmp_path / "inventories", seconds=lambda: 0.0, now=lambda: NOW)
    made.open()
    return made


def put_aside(outbox: Outbox, name: str) -> str:
    """Something could not be passed on; gives its number."""
    part = outbox.begin()
    part.write(b"x")
    _, item = outbox.place(part, read_name(name), Sender(Box.FIRST, "192.0.2.7"))
    assert item is not None
    return outbox.fail(item, Refusal("expired", "a week")).serial


def test_one(outbox: Outbox, tmp_path: Path) -> None:
    """What is named waits again, the rest does not."""
    numbers = [put_aside(outbox, name) for name in ("a.ocs", "b.ocs", "c.ocs")]

    status, out, err = run("--state-dir", tmp_path, *numbers[:2])

    assert (status, err) == (0, "")
    assert out == f"{numbers[0]} a.ocs\n{numbers[1]} b.ocs\n"
    assert [each.name.text for each in outbox.rescan()] == ["a.ocs", "b.ocs"]
    assert [each.serial for each in outbox.failed()] == numbers[2:]


def test_all_as_json(outbox: Outbox) -> None:
    """Everything waits again, and programs are told what."""
    numbers = [put_aside(outbox, name) for name in ("a.ocs", "b.ocs")]

    status, out, _ = run("--folder", outbox.folder, "--all", "--json")

    assert status == 0
    assert json.loads(out) == [
        {"number": numbers[0], "files": ["a.ocs"]},
        {"number": numbers[1], "files": ["b.ocs"]},
    ]
    assert run("--folder", outbox.folder, "--all") == (0, "", "")


def test_not_all(outbox: Outbox) -> None:
    """A number that there is not is told; the others wait again."""
    number = put_aside(outbox, "a.ocs")

    status, out, err = run("--folder", outbox.folder, "\x1b[2J", number)

    assert status == 1
    assert out == f"{number} a.ocs\n"
    assert err == "error: \\x1b[2J: nothing of this number\n"


def test_no_relay(tmp_path: Path) -> None:
    """A server that decides by itself has nothing to send again."""
    (tmp_path / "inventories").mkdir()
    status, _, err = run("--state-dir", tmp_path, "--all")

    assert status != 0
    assert "not that of a relay" in err


def test_which(outbox: Outbox) -> None:
    """Nobody has everything sent again by a mistake."""
    for words in ((), ("--all", "1")):
        status, _, err = run("--folder", outbox.folder, *words)
        assert status != 0
        assert "which ones?" in err
