# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_inventory_when`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.service.agent_inventory_when import DAY, HOUR, Daily, Sent, due, next_look
from nodecomm.service.agent_status import Point

#: At 03:00 of each day, in a zone without summer time.
AT_THREE = Daily(0, 360, 0.5)


def at(text: str) -> float:
    """Seconds since 1970 of a UTC time."""
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


def point(text: str, uptime: float = 1000 * HOUR, boot: str = "this") -> Point:
    """A point of time, so many seconds after the machine's start."""
    return Point(at(text), boot, round(uptime * 1e9))


SENT = Sent(point("2026-03-01T03:00:00"), "1.0", "MD5=a", ("https://hub/",))


def reason(sent: Sent | None, now: Point, **other: object) -> str:
    """What one is due for."""
    facts = {"version": "1.0", "key": "MD5=a", "servers": ("https://hub/",), **other}
    return due(sent, now, AT_THREE, **facts)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine is in UTC."""
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_what_one_is_due_for() -> None:
    """Never sent, asked for, another program, another key, other servers."""
    soon = SENT.when.later(60)
    assert reason(SENT, soon) == ""
    assert reason(None, soon) == "first"
    assert reason(None, soon, asked=True) == "first"
    assert reason(SENT, soon, asked=True) == "asked"
    assert reason(SENT, soon, version="1.1") == "version"
    assert reason(SENT, soon, version="0.9") == "version"
    assert reason(SENT, soon, key="MD5=b") == "key"
    assert reason(SENT, soon, servers=("https://other/",)) == "server"


def test_daily() -> None:
    """At the point of the next day, and at each one after that once."""
    assert reason(SENT, SENT.when.later(DAY - 1)) == ""
    assert reason(SENT, SENT.when.later(DAY)) == "daily"
    assert next_look(SENT, SENT.when.later(60), AT_THREE) == DAY - 60
    late = attrs.evolve(SENT, when=SENT.when.later(DAY + 600))
    assert reason(late, late.when.later(DAY - 601)) == ""
    assert reason(late, late.when.later(DAY - 600)) == "daily"


def test_a_missed_one_is_caught_up() -> None:
    """The machine was off at its point: it is due when the machine is on again."""
    again = point("2026-03-04T11:00:00", uptime=60, boot="next")
    assert reason(SENT, again) == "daily"
    again = point("2026-03-01T23:00:00", uptime=60, boot="next")
    assert reason(SENT, again) == ""


def test_one_in_the_evening_makes_that_of_the_night_needless() -> None:
    """Less than 8 hours before; the one of the night after comes."""
    evening = attrs.evolve(SENT, when=point("2026-03-01T21:00:00"))
    assert reason(evening, evening.when.later(6 * HOUR)) == ""
    assert reason(evening, evening.when.later(20 * HOUR)) == ""
    assert reason(evening, evening.when.later(30 * HOUR)) == "daily"
    left = next_look(evening, evening.when.later(HOUR), AT_THREE)
    assert left == 29 * HOUR


@pytest.mark.parametrize("step", [-11 * HOUR, -HOUR, HOUR, 11 * HOUR, 30 * HOUR])
def test_a_clock_that_is_set(step: float) -> None:
    """
    What was sent is placed on the new clock: none twice for it, and the next one at
    the next point that the new clock shows.
    """
    when = SENT.when
    now = Point(when.civil + HOUR + step, when.boot, when.ns + round(HOUR * 1e9))
    passed = now.civil - HOUR
    expected = AT_THREE.after(passed + 8 * HOUR - 1)
    for hours in range(40):
        later = now.later(hours * HOUR)
        assert reason(SENT, later) == ("daily" if later.civil >= expected else "")


@pytest.mark.parametrize(
    ("step", "said"),
    [(-12.5 * HOUR, "clock"), (2.1 * DAY, "clock"), (-365 * DAY, "clock")],
)
def test_a_clock_that_was_so_wrong_that_nobody_believed(step: float, said: str) -> None:
    """What was sent had a time that a server does not take: once more, with the new."""
    when = SENT.when
    now = Point(when.civil + 60 + step, when.boot, when.ns + 60 * 10**9)
    assert reason(SENT, now) == said
    again = attrs.evolve(SENT, when=now)
    assert reason(again, now.later(60)) == ""


def test_a_clock_that_is_behind_after_a_start() -> None:
    """
    One that cannot be right, of a machine without a battery, is waited for; one that
    can says that the one before was wrong.
    """
    first = point("1970-01-01T00:01:00", uptime=60, boot="next")
    assert reason(SENT, first) == ""
    assert reason(SENT, point("2026-03-01T09:00:00", 120, "next")) == ""
    assert reason(SENT, point("2026-03-02T04:00:00", 120, "next")) == "daily"
    assert reason(SENT, point("2026-02-01T00:00:00", 120, "next")) == "clock"
    assert reason(SENT, point("2026-03-01T02:59:58", 120, "next")) == ""


ZONES = ["UTC0", "CET-1CEST,M3.5.0,M10.5.0/3", "NZST-12NZDT,M9.5.0,M4.1.0/3", "X+9:30"]


@given(
    st.integers(0, 1439),
    st.integers(0, 1439),
    st.floats(0, 1, exclude_max=True),
    st.integers(1_700_000_000, 1_800_000_000),
    st.sampled_from(ZONES),
)
@settings(max_examples=100, deadline=None)
def test_points_of_the_day(
    begin: int, end: int, share: float, now: int, zone: str
) -> None:
    """
    Whatever the zone: between the two hours, one a local day, in order, and *before*
    and *after* agree.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        daily = Daily(begin, end, share)
        last, following = daily.before(now), daily.after(now)
        assert last <= now < following
        assert daily.before(following) == following
        assert daily.after(last) == following
        # A change of the hour moves it by one.
        assert abs(following - last - DAY) <= HOUR
        local = time.localtime(last)
        minute = (local.tm_hour * 60 + local.tm_min - begin) % 1440
        changes = time.localtime(last - DAY).tm_isdst != local.tm_isdst
        assert minute <= max((end - begin) % 1440 - 1, 0) or changes
    time.tzset()
