# SPDX-License-Identifier: MIT
"""
`nodecomm inventory failed`.
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
from nodecomm.inventory.pairs import Box, Sender
from nodecomm.inventory.spool import Spool

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)


def run(*words: str | Path) -> tuple[int, str, str]:
    """
    Status, output, errors of `nodecomm inventory failed`.
    """
    out, err = io.StringIO(), io.StringIO()
    status = main.run(["inventory", "failed", *map(str, words)], out, err)
    return status, out.getvalue(), err.getvalue()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool that a server has open."""
    made = Spool(tmp_path, seconds=lambda: 0.0, now=lambda: NOW)
    made.open()
    return made


def fail(spool: Spool, refusal: Refusal) -> str:
    """Something is not believed; gives its number."""
    for name in ("a.ocs", "a.ocs.sign"):
        part = spool.begin()
        part.write(b"x")
        sender = Sender(Box.FIRST, "192.0.2.7")
        pair = spool.place(part, read_name(name), sender).pair
    assert pair is not None
    return spool.fail(pair, refusal).serial


def test_nothing(spool: Spool) -> None:
    """A server that has believed everything has nothing to list."""
    assert run(spool.folder) == (0, "", "")
    assert run(spool.folder, "--json")[:2] == (0, "[]\n")


def test_what_failed(spool: Spool) -> None:
    """Each has its reason; a stranger's text does not reach the terminal as it is."""
    number = fail(spool, Refusal("bad-hostname", "\x1b[2J is no name", "RUDDER"))

    status, out, err = run(spool.folder)

    assert (status, err) == (0, "")
    assert out == (
        f"{number} 2026-11-22 12:00:00 UTC a.ocs from 192.0.2.7\n"
        "    bad-hostname: \\x1b[2J is no name\n"
    )


def test_as_json(spool: Spool) -> None:
    """Programs are told everything."""
    number = fail(spool, Refusal("too-old", "a year", "ACCESSLOG/LOGDATE"))

    assert json.loads(run(spool.folder, "--json")[1]) == [
        {
            "number": number,
            "name": "a.ocs",
            "code": "too-old",
            "text": "a year",
            "element": "ACCESSLOG/LOGDATE",
            "box": "first",
            "address": "192.0.2.7",
            "received": "2026-11-22T12:00:00+00:00",
            "failed": "2026-11-22T12:00:00+00:00",
            "files": ["a.ocs", "a.ocs.sign"],
        }
    ]


def test_another_folder(tmp_path: Path) -> None:
    """A folder that is no spool is told."""
    status, out, err = run(tmp_path / "nothing")

    assert (status, out) == (1, "")
    assert err.startswith("error: No such file or directory: ")
