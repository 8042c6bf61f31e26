# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_status`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodecomm.service.agent_inventory_status import InventoryFailure, InventoryStatus
from nodecomm.service.agent_inventory_when import Sent
from nodecomm.service.agent_status import (
    MOST_CHANGES,
    STATUS_NAME,
    AfterUpdate,
    AgentStatus,
    Attempt,
    CopyStatus,
    FailureNote,
    Point,
    StatusUnreadable,
    ailments,
    describe,
    read_status,
    write_status,
)
from nodecomm.sync.model import Change
from tests.service.agents import result

NOW = Point(1_700_000_000.0, "this start", 10_000 * 10**9)
COPY = CopyStatus("masterfiles", "/srv/masterfiles", "failed")

GOOD = AgentStatus(
    42,
    NOW.later(-7200),
    "agent.toml",
    "MD5=own",
    ("a:5308", "b:5308"),
    300.0,
    server="a:5308",
    server_key="MD5=theirs",
    next_run=NOW.later(130),
    last_attempt=Attempt(NOW.later(-170), 1.25, "schedule", "succeeded"),
    last_success=NOW.later(-168),
    last_change=NOW.later(-7000),
    copies=(
        attrs.evolve(
            COPY.with_result("a:5308", result(True, warnings=("a fifo was left out",))),
            last_success=NOW.later(-168),
        ),
    ),
    after_update=AfterUpdate(NOW.later(-6990), 2.0, 0, "exit status 0", True),
    protocol="TLS",
)

FAILED = attrs.evolve(
    GOOD,
    last_attempt=Attempt(NOW.later(-10), 0.1, "retry", "failed"),
    failures_in_a_row=3,
    copies=(
        attrs.evolve(
            COPY,
            failures=(
                FailureNote("a:5308", "unreachable", "no-route", "no way", "a route"),
                FailureNote("b:5308", "refused", "not-trusted", "\x1b[2J", "trust"),
            ),
            last_success=NOW.later(-9000),
        ),
    ),
    after_update_pending=True,
)


def test_where_it_listens() -> None:
    """Where others may ask for runs is told, if anywhere."""
    listening = attrs.evolve(GOOD, listening=("tcp6:5308", "tcp:1"))
    line = "listening:     tcp6:5308, tcp:1 (for runs)"
    assert line in describe(listening, NOW, running=True)
    assert not any("listening" in one for one in describe(GOOD, NOW, running=True))


def test_round_trip(tmp_path: Path) -> None:
    """What was written is read."""
    for status in (GOOD, FAILED, attrs.evolve(GOOD, copies=(), last_success=None)):
        write_status(str(tmp_path), status)
        assert read_status(str(tmp_path)) == status


def test_no_file(tmp_path: Path) -> None:
    """No agent has run yet."""
    assert read_status(str(tmp_path)) is None
    assert len(ailments(None, running=False)) == 2


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.binary(max_size=50)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: st.dictionaries(
            st.sampled_from(["version", "pid", "copies", "started"]), inner
        ),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode())
)
def test_garbage(tmp_path: Path, data: bytes) -> None:
    """Whatever is in the file, it is a status or one error that names the file."""
    (tmp_path / STATUS_NAME).write_bytes(data)
    with pytest.raises(StatusUnreadable, match=STATUS_NAME):
        read_status(str(tmp_path))


@pytest.mark.parametrize(
    "point",
    [
        {"civil": float("inf")},
        {"civil": float("nan")},
        {"civil": 1e12},
        {"civil": -1.0},
        {"ns": 10**400},
        {"ns": -1},
    ],
)
@pytest.mark.parametrize("name", ["last_success", "next_run", "copies", "last_attempt"])
def test_a_time_that_no_clock_shows(
    tmp_path: Path, name: str, point: dict[str, Any]
) -> None:
    """Such a file is damaged; it does not end the command that shows it."""
    bad = attrs.evolve(NOW, **point)
    values: dict[str, Any] = {
        "copies": (attrs.evolve(COPY, last_success=bad),),
        "last_attempt": Attempt(bad, 1.0, "start", "failed"),
    }
    write_status(str(tmp_path), attrs.evolve(GOOD, **{name: values.get(name, bad)}))
    with pytest.raises(StatusUnreadable, match="no clock can show"):
        read_status(str(tmp_path))


def test_what_a_terminal_would_act_on() -> None:
    """A file that somebody else wrote is shown without it, whatever the place."""
    evil = "\x1b[2J\ud800"
    failure = FailureNote(evil, evil, evil, evil, evil)
    copy = attrs.evolve(COPY, failures=(failure,), changes=((evil, evil),))
    status = attrs.evolve(
        GOOD,
        server_key=evil,
        copies=(copy,),
        last_attempt=Attempt(NOW, 1.0, evil, "failed"),
        after_update=AfterUpdate(NOW, 1.0, 1, evil, False),
    )
    lines = describe(status, NOW, running=True) + ailments(status, running=True)
    assert all(line.isprintable() for line in lines)
    assert sum(r"\x1b[2J" in line for line in lines) >= 5


def test_a_file_of_an_older_release(tmp_path: Path) -> None:
    """It does not say which protocol is spoken, and is read all the same."""
    write_status(str(tmp_path), GOOD)
    facts = json.loads((tmp_path / STATUS_NAME).read_text())
    del facts["protocol"]
    (tmp_path / STATUS_NAME).write_text(json.dumps(facts))

    status = read_status(str(tmp_path))

    assert status == attrs.evolve(GOOD, protocol="")
    assert status is not None
    lines = describe(status, NOW, running=True)
    assert not any(line.startswith("protocol:") for line in lines)


def test_a_newer_version(tmp_path: Path) -> None:
    """A file of another release is said to be that."""
    write_status(str(tmp_path), attrs.evolve(GOOD, version=2))
    with pytest.raises(StatusUnreadable, match="version 2"):
        read_status(str(tmp_path))


def test_all_is_well() -> None:
    """The lines for a person, and nothing to complain of."""
    assert ailments(GOOD, running=True) == []
    assert describe(GOOD, NOW, running=True) == [
        "agent:         running (process 42), next run in 2m10s",
        "policy:        confirmed 2m48s ago (2023-11-14T22:10:32.000Z), last changed"
        " 1h56m ago (2023-11-14T20:16:40.000Z)",
        "server:        a:5308",
        "its key:       MD5=theirs",
        "protocol:      TLS",
        "last attempt:  2m50s ago (2023-11-14T22:10:30.000Z) (schedule), succeeded"
        " after 1.2 s",
        "last success:  2m48s ago (2023-11-14T22:10:32.000Z)",
        "after_update:  1h56m ago (2023-11-14T20:16:50.000Z), exit status 0 after"
        " 2.0 s",
        "masterfiles -> /srv/masterfiles: updated from a:5308 (3 files, 1 fetched, 0"
        " removed, 100 bytes, 4 round trips, 0.5 s)",
        "  updated: a.cf",
        "  warning: a fifo was left out",
    ]


def test_a_failure() -> None:
    """What every server said, what to do, and no control character of theirs."""
    lines = describe(FAILED, NOW, running=True)

    assert ailments(FAILED, running=True) == ["the last run failed for 1 of 1 copies"]
    assert "after_update:  is due for a change, and has not run" in lines
    at = lines.index(
        "masterfiles -> /srv/masterfiles: failed; what is there is of 2h30m ago"
        " (2023-11-14T19:43:20.000Z)"
    )
    assert lines[at + 1 :] == [
        "  a:5308: unreachable (no-route): no way",
        "    what to do: a route",
        "  b:5308: refused (not-trusted): \\x1b[2J",
        "    what to do: trust",
    ]
    assert any("3 failures in a row" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "running", "said"),
    [
        ({}, False, "no agent is running"),
        ({"last_success": None}, True, "no run has succeeded so far"),
        (
            {"after_update": AfterUpdate(NOW, 1.0, 3, "exit status 3", False)},
            True,
            "the last after_update failed: exit status 3",
        ),
    ],
)
def test_ailments(change: dict[str, Any], running: bool, said: str) -> None:
    """Each thing that is not as it should be is told by itself."""
    (told,) = ailments(attrs.evolve(GOOD, **change), running=running)
    assert said in told


@pytest.mark.parametrize(
    ("change", "running", "said"),
    [
        ({"state": "running"}, True, "an update is under way"),
        ({"state": "after-update"}, True, "after_update is under way"),
        ({"next_run": NOW.later(-60)}, True, "the next run was due 1m ago"),
        ({"next_run": None}, True, "waiting"),
        ({}, False, "not running (its last process was 42)"),
    ],
)
def test_what_it_does(change: dict[str, Any], running: bool, said: str) -> None:
    """The first line."""
    lines = describe(attrs.evolve(GOOD, **change), NOW, running=running)
    assert said in lines[0]


def test_ages_by_the_right_clock() -> None:
    """
    Within one start of the machine the civil clock does not count; across starts only
    it is left, and one that went back gives no negative age.
    """
    stepped = attrs.evolve(NOW, civil=NOW.civil + 86400)
    assert "confirmed 2m48s ago" in describe(GOOD, stepped, running=True)[1]
    restarted = attrs.evolve(NOW, boot="next start", ns=0)
    assert "confirmed 2m48s ago" in describe(GOOD, restarted, running=True)[1]
    back = attrs.evolve(restarted, civil=NOW.civil - 86400)
    line = describe(GOOD, back, running=True)[1]
    assert "confirmed at 2023-11-14T22:10:32.000Z" in line


def test_many_changes_are_cut() -> None:
    """The file stays small; how many there were is told."""
    changes = tuple(Change(b"f%d" % n, "added") for n in range(MOST_CHANGES + 7))
    copy = COPY.with_result("a:5308", result(True, changes=changes))

    assert len(copy.changes) == MOST_CHANGES
    lines = describe(attrs.evolve(GOOD, copies=(copy,)), NOW, running=True)
    assert "  and 7 more changes" in lines


def test_one_of_each() -> None:
    """What there is one of is told so; who gave nothing has not given anything."""
    copy = attrs.evolve(GOOD.copies[0], files=1, bytes_received=1, round_trips=1)
    status = attrs.evolve(GOOD, server="", copies=(copy,))
    lines = describe(status, NOW, running=True)

    assert "(1 file, 1 fetched, 0 removed, 1 byte, 1 round trip," in "".join(lines)
    assert (
        "server:        none has given anything so far (configured: a:5308, b:5308)"
        in lines
    )


SENT = Sent(
    NOW.later(-3600), "1.0", "MD5=own", ("https://a/",), "https://a/", "root", "n-1"
)
REFUSED = InventoryFailure(
    "https://a/", "refused", "http-401", "the server answers 401", "", True
)


@pytest.mark.parametrize(
    ("status", "running", "lines", "wrong"),
    [
        (
            InventoryStatus("waiting", ("https://a/",), node_id="n-1"),
            True,
            ["inventory:     none has been acknowledged so far", "node:          n-1"],
            [],
        ),
        (
            InventoryStatus("waiting", sent=SENT, next=NOW.later(60)),
            False,
            [
                "inventory:     sent 1h ago (2023-11-14T21:13:20.000Z) to https://a/,"
                " policy server root"
            ],
            [],
        ),
        (
            InventoryStatus("making", due="version"),
            True,
            [
                "inventory:     none has been acknowledged so far",
                "               one is being made",
            ],
            [],
        ),
        (
            InventoryStatus("sending", due="asked"),
            True,
            [
                "inventory:     none has been acknowledged so far",
                "               one is being sent (asked for)",
            ],
            [],
        ),
        (
            InventoryStatus(
                "waiting",
                is_wanted=True,
                due="first",
                next=NOW.later(60),
                failures=(REFUSED,),
                failures_in_a_row=1,
            ),
            True,
            [
                "inventory:     none has been acknowledged so far",
                "               one is due (the first one)",
                "               next try in 1m (2023-11-14T22:14:20.000Z)",
                "  https://a/: refused (http-401): the server answers 401",
            ],
            [
                "the inventory of this node could not be sent, once: https://a/: the"
                " server answers 401"
            ],
        ),
        (
            InventoryStatus(
                "off", is_wanted=True, failures=(REFUSED,), failures_in_a_row=3
            ),
            True,
            ["inventory:     none is sent (enabled = false)"],
            [],
        ),
    ],
)
def test_inventories(
    status: InventoryStatus, running: bool, lines: list[str], wrong: list[str]
) -> None:
    """What is told of them, and when something is not as it should be."""
    whole = attrs.evolve(GOOD, inventory=status)
    told = describe(whole, NOW, running=running)
    # They stand before the copies.
    start = [line.startswith("inventory:") for line in told].index(True)
    assert told[start : start + len(lines)] == lines
    assert "masterfiles" in told[start + len(lines)]
    assert ailments(whole, running=True) == wrong


def test_inventories_are_kept_in_the_file(tmp_path: Path) -> None:
    """All of it is read back; a file of a release without them is read, too."""
    inventory = InventoryStatus(
        "waiting",
        ("https://a/",),
        True,
        "n-1",
        SENT,
        "daily",
        "n-1.ocs.gz",
        NOW,
        NOW,
        (REFUSED,),
        2,
        NOW,
        ("packages: none",),
    )
    status = attrs.evolve(GOOD, inventory=inventory)
    write_status(str(tmp_path), status)
    assert read_status(str(tmp_path)) == status
    content = json.loads((tmp_path / STATUS_NAME).read_text())
    content["inventory"]["sent"]["when"]["civil"] = 1e300
    (tmp_path / STATUS_NAME).write_text(json.dumps(content))
    with pytest.raises(StatusUnreadable):
        read_status(str(tmp_path))
    del content["inventory"]
    (tmp_path / STATUS_NAME).write_text(json.dumps(content))
    assert read_status(str(tmp_path)) == GOOD
