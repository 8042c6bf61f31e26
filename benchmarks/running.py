# SPDX-License-Identifier: MIT
"""Rounds of measurements, the servers in turn."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import pin
from benchmarks.report import OURS, THEIRS, Result
from benchmarks.rows import Row, Stand
from benchmarks.servers import CfServerd, Nodecomm, Server
from benchmarks.site import Site


class Bench:
    """
    A run of the benchmark.

    Args:
        site: What is served.
        names: The servers to measure, of `theirs` and `ours`.
        twistd: The twistd of our server, or None for this environment's.
        cpu: The CPU that server and client share in pinned rows.
        note: Told what is going on.
    """

    def __init__(
        self,
        site: Site,
        names: Sequence[str],
        twistd: str | None,
        cpu: int,
        note: Callable[[str], None],
    ) -> None:
        self._site = site
        self._names = names
        self._twistd = twistd
        self._cpu = cpu
        self._note = note
        self._all_cpus = os.sched_getaffinity(0)
        self._numbers = itertools.count()

    def _server(self, name: str) -> Server:
        folder = self._site.root / f"{name}-{next(self._numbers)}"
        if name == THEIRS:
            return CfServerd(self._site, folder)
        return Nodecomm(self._site, folder, self._twistd)

    @contextmanager
    def stands(self) -> Iterator[dict[str, Stand]]:
        """Start the servers; stop them at the end."""
        stands: dict[str, Stand] = {}
        try:
            for name in self._names:
                server = self._server(name)
                server.start()
                folder = self._site.root / f"agent-{next(self._numbers)}"
                stands[name] = Stand(server, folder)
            yield stands
        finally:
            for stand in stands.values():
                stand.server.stop()

    def _measure(self, row: Row, stand: Stand, count: int) -> float:
        cpus = {self._cpu} if row.pinned else self._all_cpus
        pin(stand.server.pid, cpus)
        os.sched_setaffinity(0, cpus)
        try:
            return row.measure(stand, count)
        finally:
            os.sched_setaffinity(0, self._all_cpus)

    def measure(self, row: Row, count: int, rounds: int) -> Result:
        """Measure *row*, *count* units in each of *rounds* rounds."""
        figures: dict[str, list[float]] = {name: [] for name in self._names}

        def measure_round(stands: dict[str, Stand], number: int) -> None:
            # Who comes first changes, so that a machine that grows slower or faster
            # in the meantime favours nobody.
            names = list(stands) if number % 2 == 0 else list(stands)[::-1]
            for name in names:
                value = self._measure(row, stands[name], count)
                figures[name].append(value)
                self._note(f"{row.name} {name} {value * row.scale:.4g} {row.unit}")

        rounds = min(rounds, row.most_rounds)
        if row.own_server:
            for number in range(rounds):
                with self.stands() as stands:
                    measure_round(stands, number)
            return Result(row, figures)
        with self.stands() as stands:
            for stand in stands.values():  # Caches are warm in daily life too.
                self._measure(row, stand, max(1, count // 10))
            for number in range(rounds):
                measure_round(stands, number)
        return Result(row, figures)


def order_of(servers: str) -> list[str]:
    """
    Return the names in *servers*, checked.

    Raises:
        ValueError: One of them is no server.
    """
    names = servers.split(",")
    if not names or set(names) - {THEIRS, OURS}:
        raise ValueError(f"--servers takes {THEIRS}, {OURS} or both, not {servers!r}")
    return names


def build_site(folder: Path, rows: Sequence[Row], trees: Collection[str] = ()) -> Site:
    """Write what *rows* and copies of *trees* need below *folder*."""
    site = Site(folder)
    site.build(
        with_big_file="big" in trees or any(row.big_file for row in rows),
        with_wide_tree="wide" in trees,
    )
    return site


def say(text: str) -> None:
    """Tell what is going on, beside the report."""
    print(text, file=sys.stderr, flush=True)
