# SPDX-License-Identifier: MIT
"""
`nodecomm inventory waiting`.
"""

from __future__ import annotations

import io
import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from nodecomm.cli import main
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.names import read_name
from nodecomm.inventory.outbox import Outbox, Outgoing
from nodecomm.inventory.pairs import Box, Sender
from nodecomm.inventory.spool import Spool
from nodecomm.inventory.tried import Tried, read_tried

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)

FROM = Sender(Box.UPDATE, "192.0.2.7")

TRIED = Tried(2, NOW, NOW + timedelta(seconds=20), "no \x1b[2J connection")


def run(*words: str | Path) -> tuple[int, str, str]:
    """
    Status, output, errors of `nodecomm inventory waiting`.
    """
    out, err = io.StringIO(), io.StringIO()
    status = main.run(["inventory", "waiting", *map(str, words)], out, err)
    return status, out.getvalue(), err.getvalue()


class Clock:
    """Civil time."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        """A minute more each time."""
        self.now += timedelta(minutes=1)
        return self.now


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    """The folder of a relay, which has it open."""
    made = Outbox(tmp_path, seconds=lambda: 0.0, now=Clock())
    made.open()
    return made


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """The folder of a server, which has it open."""
    made = Spool(tmp_path, seconds=lambda: 0.0, now=Clock())
    made.open()
    return made


def relayed(outbox: Outbox, name: str, data: bytes, sender: Sender = FROM) -> Outgoing:
    """A file that a relay has to pass on."""
    part = outbox.begin()
    part.write(data)
    _, item = outbox.place(part, read_name(name), sender)
    assert item is not None
    return item


def test_nothing(outbox: Outbox) -> None:
    """Where nothing waits that is said."""
    assert run(outbox.folder) == (0, "nothing waits\n", "")
    assert json.loads(run(outbox.folder, "--json")[1]) == {
        "folder": outbox.folder,
        "files": 0,
        "bytes": 0,
        "oldest": None,
        "waiting": [],
    }


def test_a_relay(outbox: Outbox) -> None:
    """What a running relay has to pass on, the oldest first, and how it fared."""
    first = relayed(outbox, "a.ocs.gz", b"12345")
    relayed(outbox, "a.ocs.sign", b"12", Sender(Box.FIRST, ""))
    outbox.fail(relayed(outbox, "b.ocs", b"1"), Refusal("expired", "too long"))
    outbox.note(first, TRIED)

    assert run(outbox.folder) == (
        0,
        "2 files wait, 7 bytes, since 2026-11-22 12:01:00 UTC\n"
        "2026-11-22 12:01:00 UTC a.ocs.gz from 192.0.2.7 (update, 5 bytes) for the "
        "server above\n"
        "    2 tries, the last 2026-11-22 12:00:00 UTC, the next 2026-11-22 12:00:20 "
        "UTC: no \\x1b[2J connection\n"
        f"{since(outbox, 'a.ocs.sign')} a.ocs.sign from an unknown address (first, "
        "2 bytes) for the server above\n",
        "",
    )


def since(outbox: Outbox, name: str) -> str:
    """When a file came."""
    (item,) = [each for each in outbox.rescan() if each.name.text == name]
    return item.when.strftime("%Y-%m-%d %H:%M:%S UTC")


def test_as_json(outbox: Outbox) -> None:
    """Programs are told everything."""
    item = relayed(outbox, "a.ocs", b"12345")
    outbox.note(item, TRIED)

    assert json.loads(run(outbox.folder, "--json")[1]) == {
        "folder": outbox.folder,
        "files": 1,
        "bytes": 5,
        "oldest": "2026-11-22T12:01:00+00:00",
        "waiting": [
            {
                "number": item.serial,
                "files": ["a.ocs"],
                "box": "update",
                "address": "192.0.2.7",
                "since": "2026-11-22T12:01:00+00:00",
                "bytes": 5,
                "awaits": "the server above",
                "tries": 2,
                "tried": "2026-11-22T12:00:00+00:00",
                "again": "2026-11-22T12:00:20+00:00",
                "reason": "no \x1b[2J connection",
            }
        ],
    }


def test_a_server(spool: Spool) -> None:
    """Halves wait for the other one, pairs for a decision."""
    for name in ("a.ocs", "a.ocs.sign", "b.ocs", "c.ocs.sign"):
        part = spool.begin()
        part.write(b"12")
        pair = spool.place(part, read_name(name), FROM).pair
        if pair is not None:
            spool.note(pair, TRIED)

    facts = json.loads(run(spool.folder, "--json")[1])["waiting"]
    assert [(each["files"], each["awaits"]) for each in facts] == [
        (["a.ocs", "a.ocs.sign"], "a decision"),
        (["b.ocs"], "its signature"),
        (["c.ocs.sign"], "its document"),
    ]
    assert [each["tries"] for each in facts] == [2, None, None]
    assert run(spool.folder)[1].startswith("4 files wait, 8 bytes, since")


def test_odd_things(outbox: Outbox) -> None:
    """What is no inventory, and what is being moved at the moment, is left out."""
    for name, inside in (
        ("1", "notes"),
        ("2", "tried.json"),
        ("3", "reason.json"),
        ("4", "tried.json"),
    ):
        folder = Path(outbox.folder, "outgoing", name)
        folder.mkdir()
        (folder / inside).write_text("[]")
        if name in "34":
            (folder / "a.ocs~first~").write_bytes(b"1")
    Path(outbox.folder, "outgoing", "README").write_text("?")

    facts = json.loads(run(outbox.folder, "--json")[1])["waiting"]
    assert [(each["number"], each["tries"]) for each in facts] == [("4", None)]


def test_what_is_gone_is_noted_nowhere(outbox: Outbox) -> None:
    """A note about what was passed on, or put aside, meanwhile is none."""
    item = relayed(outbox, "a.ocs", b"1")
    outbox.done(item)
    outbox.note(item, TRIED)
    assert read_tried(str(Path(item.path).parent)) is None


@pytest.mark.parametrize("name", ["nothing", "."])
def test_another_folder(tmp_path: Path, name: str) -> None:
    """A folder that is none of a server is told."""
    status, out, err = run(tmp_path / name)

    assert (status, out) == (1, "")
    assert "no server has received anything there" in err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 60_000,
        "[]",
        '{"tries": 1}',
        '{"tries": Infinity, "when": "", "again": "", "reason": ""}',
        '{"tries": 1, "when": 2, "again": "", "reason": ""}',
        " " * 100_000,
        None,
    ],
)
def test_what_somebody_has_written_there(outbox: Outbox, text: str | None) -> None:
    """How it fared is left out where the file is another one, or a pipe."""
    item = relayed(outbox, "a.ocs", b"12345")
    path = Path(item.path).with_name("tried.json")
    if text is None:
        os.mkfifo(path)
    else:
        path.write_text(text)

    status, told, err = run(outbox.folder, "--json")

    assert (status, err) == (0, "")
    assert json.loads(told)["waiting"][0]["tries"] is None
