# SPDX-License-Identifier: MIT
"""What is measured: one function a row, and the table that names them."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.agent import CLASSIC, SEALED, TLS, Agent, Way, agent_of_tree
from benchmarks.errors import BenchmarkError
from benchmarks.processes import cpu_of, memory_bytes, resting_cpu_seconds
from benchmarks.servers import Server

#: Requests without an answer yet in the pipelined row.
WINDOW = 100


class Stand:
    """
    One server, and what a row keeps for it between rounds.

    Attributes:
        server: The server.
        folder: Where a row may put files of its own.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self._agents: dict[Way, Agent] = {}
        self._checked: set[str] = set()

    def agent(self, way: Way) -> Agent:
        """Return an agent that talks to this server, its copy complete."""
        if way not in self._agents:
            folder = self.folder / str(len(self._agents))
            made = agent_of_tree(self.server.site, folder, self.server.port, way)
            made.run()
            self._agents[way] = made
        return self._agents[way]

    def check_once(self, what: str, fetch: Callable[[], bytes]) -> None:
        """
        See, before the first measurement of a row, that the big file arrives as it is.

        Raises:
            BenchmarkError: It does not.
        """
        if what not in self._checked:
            if fetch() != self.server.site.big_digest:
                raise BenchmarkError(f"{what}: the file arrives changed")
            self._checked.add(what)

    def paths(self, count: int) -> list[bytes]:
        """Return *count* paths of the tree, round and round."""
        return list(itertools.islice(itertools.cycle(self.server.site.paths), count))

    def cpu_of_each(self, count: int, action: Callable[[], object]) -> float:
        """Server CPU seconds per *action*, done *count* times."""

        def work() -> None:
            for _ in range(count):
                action()

        return cpu_of(self.server.pid, work) / count


def fresh_connection(stand: Stand, count: int) -> float:
    """Server CPU seconds per connection with one STAT."""
    paths = stand.paths(count)

    def work() -> None:
        for path in paths:
            with stand.server.session() as session:
                session.stat(path)

    return cpu_of(stand.server.pid, work) / count


def stat_one_at_a_time(stand: Stand, count: int) -> float:
    """Server CPU seconds per STAT, each asked when the last was answered."""
    paths = stand.paths(count)
    with stand.server.session() as session:

        def work() -> None:
            for path in paths:
                session.stat(path)

        return cpu_of(stand.server.pid, work) / count


def stat_pipelined(stand: Stand, count: int) -> float:
    """Server CPU seconds per STAT, `WINDOW` of them under way."""
    paths = stand.paths(count)
    with stand.server.session() as session:
        return cpu_of(stand.server.pid, lambda: session.stats(paths, WINDOW)) / count


def _run(stand: Stand, count: int, way: Way) -> float:
    return stand.cpu_of_each(count, stand.agent(way).run)


def no_change_run(stand: Stand, count: int) -> float:
    """Server CPU seconds per run of cf-agent that finds nothing to copy."""
    return _run(stand, count, TLS)


def classic_run(stand: Stand, count: int) -> float:
    """The same over the classic protocol."""
    return _run(stand, count, CLASSIC)


def classic_sealed_run(stand: Stand, count: int) -> float:
    """The same over the classic protocol, encrypted."""
    return _run(stand, count, SEALED)


def big_get(stand: Stand, count: int) -> float:
    """Server CPU seconds per GET of the big file."""
    path = bytes(stand.server.site.big)
    with stand.server.session() as session:
        return stand.cpu_of_each(count, lambda: session.get(path, len))


def classic_get(stand: Stand, count: int) -> float:
    """Server CPU seconds per classic GET of the big file."""
    path = bytes(stand.server.site.big)
    with stand.server.classic_session() as session:
        stand.check_once("GET", lambda: session.fetch_digest(path))
        return stand.cpu_of_each(count, lambda: session.get(path, len))


def classic_sget(stand: Stand, count: int) -> float:
    """Server CPU seconds per SGET, encrypted, of the big file."""
    path = bytes(stand.server.site.big)
    with stand.server.classic_session() as session:
        stand.check_once("SGET", lambda: session.fetch_sealed_digest(path))
        return stand.cpu_of_each(count, lambda: session.get_sealed(path, len))


def _compare(stand: Stand, count: int) -> float:
    site = stand.server.site
    with stand.server.session() as session:

        def compare() -> None:
            if not session.digest_equal(bytes(site.big), site.big_digest):
                raise BenchmarkError("the server says that equal digests differ")

        return stand.cpu_of_each(count, compare)


def big_compare(stand: Stand, count: int) -> float:
    """Server CPU seconds per comparison of the big file, which is as it was."""
    return _compare(stand, count)


def big_compare_first(stand: Stand, count: int) -> float:
    """Server CPU seconds for the first comparison after the big file was touched."""
    total = 0.0
    for _ in range(count):
        os.utime(stand.server.site.big)
        # A server may keep no digest of a file that changed a moment ago.
        time.sleep(2.5)
        total += _compare(stand, 1)
    return total / count


def held_connection(stand: Stand, count: int) -> float:
    """
    Bytes of server memory per connection that is open and waits.

    Each has asked for one STAT, as every connection of an agent has. The server must
    have been started for this measurement alone: what an earlier burst left in its
    allocator would hide the growth.
    """
    server = stand.server
    path = server.site.paths[0]
    with server.session() as session:
        session.stat(path)
    resting_cpu_seconds(server.pid)
    before = memory_bytes(server.pid)
    sessions = []
    try:
        for _ in range(count):
            sessions.append(server.session())
            sessions[-1].stat(path)
        resting_cpu_seconds(server.pid)
        return (memory_bytes(server.pid) - before) / count
    finally:
        for session in sessions:
            session.close()


class Row(NamedTuple):
    """
    One line of the report.

    Attributes:
        name: What `--rows` takes.
        title: What is measured, for people.
        measure: Measures *count* units and returns seconds or bytes per unit.
        unit: Unit of the report.
        scale: How many of those make a second, or a byte.
        target: Ratio ours/theirs to reach, or None for a figure beside the others.
        pinned: Whether server and client share one CPU.
        units: Units in a round.
        quick_units: Units in a round with `--quick`.
        own_server: Whether each round needs servers started for it.
        big_file: Whether it needs the big file.
        real_agent: Whether it needs the real cf-agent.
        most_rounds: More rounds than this tell nothing new.
    """

    name: str
    title: str
    measure: Callable[[Stand, int], float]
    unit: str
    scale: float
    target: float | None
    pinned: bool
    units: int
    quick_units: int
    own_server: bool = False
    big_file: bool = False
    real_agent: bool = False
    most_rounds: int = 1000


ROWS = (
    Row(
        name="fresh",
        title="fresh connection with one STAT",
        measure=fresh_connection,
        unit="ms",
        scale=1e3,
        target=0.7,
        pinned=True,
        units=200,
        quick_units=60,
    ),
    Row(
        name="stat",
        title="STAT, open connection, one at a time",
        measure=stat_one_at_a_time,
        unit="us",
        scale=1e6,
        target=1.0,
        pinned=True,
        units=4000,
        quick_units=1500,
    ),
    Row(
        name="pipelined",
        title=f"STAT, pipelined, window {WINDOW}",
        measure=stat_pipelined,
        unit="us",
        scale=1e6,
        target=0.5,
        pinned=True,
        units=10000,
        quick_units=4000,
    ),
    Row(
        name="no-change-run",
        title="no-change run of cf-agent, 398 files",
        measure=no_change_run,
        unit="ms",
        scale=1e3,
        target=0.8,
        pinned=False,
        units=2,
        quick_units=1,
        real_agent=True,
    ),
    Row(
        name="no-change-pinned",
        title="the same, on one CPU with the agent",
        measure=no_change_run,
        unit="ms",
        scale=1e3,
        target=None,
        pinned=True,
        units=2,
        quick_units=1,
        real_agent=True,
        most_rounds=5,
    ),
    Row(
        name="get",
        title="GET of 300 MB",
        measure=big_get,
        unit="ms",
        scale=1e3,
        target=1.0,
        pinned=False,
        units=1,
        quick_units=1,
        big_file=True,
    ),
    Row(
        name="compare",
        title="no-change comparison of 300 MB",
        measure=big_compare,
        unit="ms",
        scale=1e3,
        target=0.05,
        pinned=False,
        units=2,
        quick_units=1,
        big_file=True,
    ),
    Row(
        name="compare-first",
        title="the same, file touched since",
        measure=big_compare_first,
        unit="ms",
        scale=1e3,
        target=None,
        pinned=False,
        units=1,
        quick_units=1,
        big_file=True,
        most_rounds=3,
    ),
    Row(
        name="memory",
        title="memory per held connection, 1,000 held",
        measure=held_connection,
        unit="KB",
        scale=1e-3,
        target=0.35,
        pinned=True,
        units=1000,
        quick_units=1000,
        own_server=True,
        most_rounds=3,
    ),
    Row(
        name="classic-run",
        title="classic: no-change run of cf-agent",
        measure=classic_run,
        unit="ms",
        scale=1e3,
        target=0.7,
        pinned=False,
        units=2,
        quick_units=1,
        real_agent=True,
    ),
    Row(
        name="classic-sealed-run",
        title="the same, encrypted",
        measure=classic_sealed_run,
        unit="ms",
        scale=1e3,
        target=0.7,
        pinned=False,
        units=2,
        quick_units=1,
        real_agent=True,
    ),
    Row(
        name="classic-get",
        title="classic: GET of 300 MB",
        measure=classic_get,
        unit="ms",
        scale=1e3,
        target=0.3,
        pinned=False,
        units=1,
        quick_units=1,
        big_file=True,
    ),
    Row(
        name="classic-sget",
        title="classic: SGET (encrypted) of 300 MB",
        measure=classic_sget,
        unit="ms",
        scale=1e3,
        target=0.6,
        pinned=False,
        units=1,
        quick_units=1,
        big_file=True,
        most_rounds=3,
    ),
)


def choose_rows(names: str | None) -> list[Row]:
    """
    Return the rows in *names*, which are separated by commas; all for None.

    Raises:
        BenchmarkError: There is no such row.
    """
    if names is None:
        return list(ROWS)
    by_name = {row.name: row for row in ROWS}
    chosen = []
    for name in names.split(","):
        if name not in by_name:
            raise BenchmarkError(f"no row {name!r}; there are: {', '.join(by_name)}")
        chosen.append(by_name[name])
    return chosen
