# SPDX-License-Identifier: MIT
"""What is measured of the two agents, and what our own has to reach."""

from __future__ import annotations

from typing import Literal, NamedTuple

from benchmarks.agent import CLASSIC, SEALED, TLS, Way
from benchmarks.report import OURS, THEIRS

Tree = Literal["tree", "wide", "big"]


class Target(NamedTuple):
    """
    What a figure has to be at most.

    Attributes:
        of: Of what: the seconds of our update, their ratio to those of the real
            agent, or the round trips of our update.
        most: The number.
        server: Beside which server; None: beside each.
    """

    of: Literal["seconds", "ratio", "trips"]
    most: float
    server: str | None = None

    def __str__(self) -> str:
        return f"{self.most:g} {({'seconds': 's', 'ratio': 'x'}).get(self.of, self.of)}"


class SyncRow(NamedTuple):
    """
    One line of the report for each server.

    Attributes:
        name: What `--rows` takes.
        title: What is measured, for people.
        tree: What is copied.
        round_trip: Milliseconds of the relay between agent and server; 0: no relay.
        fresh: Whether there is no copy yet, and the server is not known; else there
            is one that is the same.
        compare: How our agent finds out what is the same. The real one always
            compares digests.
        real_agent: Whether the real agent is measured too.
        verify: Whether the real agent compares each file's digest after the copy, as
            ours always does.
        targets: What has to be reached.
        most_rounds: More rounds of the real agent tell nothing new.
        minutes: Whether a run of the real agent takes minutes, so that `--quick`
            leaves it out.
        way: How both agents talk to the server.
        pair_target: The ratio to reach of our agent with our server to the real agent
            with the real server; None: that ratio is not told.
    """

    name: str
    title: str
    tree: Tree
    round_trip: int
    fresh: bool
    compare: str = "auto"
    real_agent: bool = True
    verify: bool = False
    targets: tuple[Target, ...] = ()
    most_rounds: int = 1000
    minutes: bool = False
    way: Way = TLS
    pair_target: float | None = None

    def targets_beside(self, server: str) -> tuple[Target, ...]:
        """Return what has to be reached with one of the servers."""
        return tuple(each for each in self.targets if each.server in (None, server))


_NOT_SLOWER = Target("ratio", 1.0)

SYNC_ROWS = (
    SyncRow(
        name="sync-fresh-0",
        title="398 files, fresh, 0 ms",
        tree="tree",
        round_trip=0,
        fresh=True,
        targets=(_NOT_SLOWER,),
    ),
    SyncRow(
        name="sync-fresh-50",
        title="398 files, fresh, 50 ms",
        tree="tree",
        round_trip=50,
        fresh=True,
        targets=(Target("seconds", 1.0, THEIRS),),
        most_rounds=1,
    ),
    SyncRow(
        name="sync-fresh-200",
        title="398 files, fresh, 200 ms",
        tree="tree",
        round_trip=200,
        fresh=True,
        most_rounds=1,
        minutes=True,
    ),
    SyncRow(
        name="sync-same-0",
        title="398 files, no change, 0 ms",
        tree="tree",
        round_trip=0,
        fresh=False,
        targets=(_NOT_SLOWER,),
    ),
    SyncRow(
        name="sync-same-50",
        title="398 files, no change, 50 ms",
        tree="tree",
        round_trip=50,
        fresh=False,
        targets=(Target("seconds", 0.6, THEIRS), Target("trips", 6, OURS)),
        most_rounds=1,
    ),
    SyncRow(
        name="sync-digest-50",
        title="the same, all digests asked",
        tree="tree",
        round_trip=50,
        fresh=False,
        compare="digest",
        real_agent=False,
    ),
    SyncRow(
        name="sync-same-200",
        title="398 files, no change, 200 ms",
        tree="tree",
        round_trip=200,
        fresh=False,
        most_rounds=1,
        minutes=True,
    ),
    SyncRow(
        name="sync-wide-fresh",
        title="20,000 files, fresh, 0 ms",
        tree="wide",
        round_trip=0,
        fresh=True,
        targets=(_NOT_SLOWER,),
        most_rounds=3,
    ),
    SyncRow(
        name="sync-wide-same",
        title="20,000 files, no change, 0 ms",
        tree="wide",
        round_trip=0,
        fresh=False,
        targets=(_NOT_SLOWER,),
        most_rounds=3,
    ),
    SyncRow(
        name="sync-big-fresh",
        title="300 MB and its digest, 0 ms",
        tree="big",
        round_trip=0,
        fresh=True,
        verify=True,
        targets=(Target("ratio", 0.5),),
    ),
    SyncRow(
        name="sync-big-same",
        title="300 MB, no change, 0 ms",
        tree="big",
        round_trip=0,
        fresh=False,
        verify=True,
        targets=(_NOT_SLOWER,),
    ),
    SyncRow(
        name="sync-classic-same",
        title="classic: 398 files, no change",
        tree="tree",
        round_trip=0,
        fresh=False,
        way=CLASSIC,
        pair_target=0.7,
    ),
    SyncRow(
        name="sync-classic-big",
        title="classic: 300 MB and its digest",
        tree="big",
        round_trip=0,
        fresh=True,
        verify=True,
        way=CLASSIC,
        pair_target=0.3,
    ),
    SyncRow(
        name="sync-classic-sget",
        title="the same, encrypted",
        tree="big",
        round_trip=0,
        fresh=True,
        verify=True,
        way=SEALED,
        pair_target=0.6,
        most_rounds=3,
    ),
)
