# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_schedule`.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.service.agent_schedule import (
    FIRST_PAUSE,
    LONGEST_AVOIDANCE,
    Avoidance,
    Grid,
    pause_after,
    share_of,
)

HOSTS = 10_000
DIGESTS = [f"MD5={hashlib.md5(b'%d' % n).hexdigest()}" for n in range(HOSTS)]


def busiest(moments: Iterable[float], width: float) -> int:
    """How many of *moments* fall into the fullest of the slots of this *width*."""
    return max(Counter(int(moment // width) for moment in moments).values())


def test_the_first_runs_of_a_fleet_are_spread() -> None:
    """
    10,000 hosts that start at one moment come evenly: 33 a second on average, and
    no second has twice as many.
    """
    first = [Grid(1000.0, share_of(d), 300, 300).first for d in DIGESTS]

    assert all(1000 <= moment < 1300 for moment in first)
    assert busiest(first, 1) < 2 * HOSTS / 300
    assert busiest(first, 30) < 1.1 * HOSTS / 10


@pytest.mark.parametrize("interval", [60.0, 300.0, 3600.0, 86400.0])
def test_the_later_runs_of_a_fleet_are_spread(interval: float) -> None:
    """
    Whatever the interval, its regular runs are spread over all of it, and each host
    has exactly one in each interval.
    """
    grids = [Grid(0.0, share_of(d), interval, min(interval, 300)) for d in DIGESTS]
    for turn in (1, 2):
        moments = [grid.after(turn * interval) for grid in grids]
        inside = [m for m in moments if turn * interval < m <= (turn + 1) * interval]
        assert len(inside) == HOSTS
        assert busiest(inside, interval / 10) < 1.1 * HOSTS / 10


def test_the_retries_of_a_fleet_are_spread() -> None:
    """
    A fleet started at one moment while the server is down: its second and third
    attempts are as spread as its first ones.
    """
    chance = random.Random(5).random
    moments = [Grid(0.0, share_of(d), 300, 300).first for d in DIGESTS]
    for failures in (1, 2, 3):
        moments = [m + pause_after(failures, 300, chance()) for m in moments]
        assert busiest(moments, 1) < 2 * HOSTS / 300


def test_retries_after_one_failure_for_all() -> None:
    """
    When the server fails all hosts at the same moment their next attempts are spread
    over a time as long as the pause, and over more with each failure.
    """
    chance = random.Random(6).random
    for failures, longest in ((1, 30.0), (2, 60.0), (3, 120.0), (4, 240.0), (9, 300.0)):
        pauses = [pause_after(failures, 300, chance()) for _ in DIGESTS]
        assert min(pauses) >= longest / 2
        assert max(pauses) < longest * 1.5
        assert busiest(pauses, longest / 10) < 1.1 * HOSTS / 10


def test_a_share_is_the_hosts_own() -> None:
    """The same digest always has the same share, another one another."""
    assert share_of(DIGESTS[0]) == share_of(DIGESTS[0])
    assert len({share_of(d) for d in DIGESTS}) == HOSTS
    assert all(0 <= share_of(d) < 1 for d in DIGESTS)


@settings(max_examples=100)
@given(
    st.floats(-1e7, 1e7),
    st.floats(0, 0.9999999),
    st.floats(1, 3e6),
    st.floats(0, 3e6),
)
def test_the_next_run_is_later_and_within_an_interval(
    start: float, share: float, interval: float, passed: float
) -> None:
    """
    The next regular run is after now, at most one interval away, and asking again
    from there moves on by one interval, however the numbers are rounded.
    """
    grid = Grid(start, share, interval, interval)
    now = start + passed
    due = grid.after(now)

    assert due > now
    assert due - now <= interval * 1.001
    assert grid.after(due) - due == pytest.approx(interval, rel=0.01)


def test_the_second_run_of_a_short_interval_is_one_interval_later() -> None:
    """With a splay as long as the interval the first run is a point of the grid."""
    grid = Grid(100.0, 0.25, 60.0, 60.0)

    assert grid.first == 115.0
    assert grid.after(grid.first) == 175.0


def test_pauses_never_overflow() -> None:
    """A server may be down for years."""
    assert pause_after(10**9, 300, 0.5) == 300
    assert pause_after(1, 300, 0.5) == FIRST_PAUSE
    assert pause_after(1, 5, 0.5) == 5


def test_a_server_that_failed_is_tried_last() -> None:
    """
    For a time that grows with each failure, then it has its old place; one success
    forgets all.
    """
    avoidance: Avoidance[str] = Avoidance(lambda: 0.5)
    servers = ["a", "b", "c"]

    assert avoidance.order(servers, 0) == servers
    assert avoidance.failed("a", 0) == 30
    assert avoidance.order(servers, 29) == ["b", "c", "a"]
    assert avoidance.order(servers, 30) == servers
    assert avoidance.failed("a", 30) == 60
    assert avoidance.failed("b", 31) == 30
    # Both are avoided: the one whose time is over first goes first.
    assert avoidance.order(servers, 40) == ["c", "b", "a"]
    avoidance.worked("a")
    assert avoidance.order(servers, 40) == ["a", "c", "b"]
    assert avoidance.failed("a", 40) == 30
    for _ in range(20):
        longest = avoidance.failed("c", 0)
    assert longest == LONGEST_AVOIDANCE
