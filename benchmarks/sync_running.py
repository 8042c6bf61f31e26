# SPDX-License-Identifier: MIT
"""Rounds of the two agents, with each server."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks.agent import Agent, Copied
from benchmarks.errors import BenchmarkError
from benchmarks.report import THEIRS
from benchmarks.servers import CfServerd, Nodecomm, Server
from benchmarks.site import TREE_FILES, WIDE_FILES, Site
from benchmarks.sync_report import SyncFigures
from benchmarks.sync_rows import SyncRow
from benchmarks.update import Outcome, Update, find_nodecomm
from tests.interop.latency import DelayedRelay

#: Seconds after which a server's times, which have whole seconds, can be believed.
_SETTLING = 2.5


class SyncBench:
    """
    A run of the rows of updates.

    Args:
        site: What is served.
        names: The servers to measure with, of `theirs` and `ours`.
        twistd: The twistd of our server, or None for this environment's.
        quick: Leave out what takes the real agent minutes.
        note: Told what is going on.
    """

    def __init__(
        self,
        site: Site,
        names: Sequence[str],
        twistd: str | None,
        quick: bool,
        note: Callable[[str], None],
    ) -> None:
        self._site = site
        self._names = names
        self._twistd = twistd
        self._quick = quick
        self._note = note
        self._program = find_nodecomm()
        self._numbers = itertools.count()

    @contextmanager
    def servers(self) -> Iterator[dict[str, Server]]:
        """Start the servers; stop them at the end."""
        with ExitStack() as stack:
            started: dict[str, Server] = {}
            for name in self._names:
                folder = self._site.root / f"sync-{name}-{next(self._numbers)}"
                server = (
                    CfServerd(self._site, folder)
                    if name == THEIRS
                    else Nodecomm(self._site, folder, self._twistd)
                )
                stack.callback(server.stop)
                server.start()
                started[name] = server
            yield started

    def measure(
        self, row: SyncRow, servers: dict[str, Server], rounds: int
    ) -> Iterator[SyncFigures]:
        """Measure *row* with each of *servers*."""
        for name, server in servers.items():
            with ExitStack() as stack:
                port = server.port
                if row.round_trip:
                    relay = DelayedRelay(server.port, row.round_trip / 1000)
                    port = stack.enter_context(relay).port
                yield self._beside(row, name, server.port, port, rounds)

    def _beside(
        self, row: SyncRow, name: str, near: int, far: int, rounds: int
    ) -> SyncFigures:
        copied = {
            "tree": Copied(self._site.tree, TREE_FILES),
            "wide": Copied(self._site.wide, WIDE_FILES),
            "big": Copied(self._site.big.parent, 1),
        }[row.tree]
        folder = self._site.root / f"agents-{next(self._numbers)}"
        update = Update(folder / "ours", far, copied.source, self._program)
        theirs = 0
        if row.real_agent and not (self._quick and row.minutes):
            theirs = min(rounds, row.most_rounds)
        agent = Agent(folder / "theirs", far, copied, verify=row.verify)
        if not row.fresh:
            update.run()
            # The first run that can take the server's times for settled asks for
            # all digests once more; what is measured is every run after it.
            time.sleep(_SETTLING)
            update.run()
            if theirs:
                # The way does not matter for the copy that is there before.
                Agent(folder / "theirs", near, copied).run()
                agent = Agent(folder / "theirs", far, copied, verify=row.verify)
        real: list[float] = []
        outcomes: list[Outcome] = []

        def run_real() -> None:
            if len(real) < theirs:
                if row.fresh:
                    agent.forget()
                real.append(agent.run())
                self._note(f"{row.name} {name} cf-agent {real[-1]:.3f} s")

        def run_ours() -> None:
            if row.fresh:
                update.forget()
            outcomes.append(update.run(row.compare))
            self._note(f"{row.name} {name} {outcomes[-1]}")
            if outcomes[-1].changed != row.fresh:
                raise BenchmarkError(f"{row.name}: {outcomes[-1]}")
            update.check()

        for number in range(rounds):
            for run in (run_real, run_ours)[:: 1 if number % 2 == 0 else -1]:
                run()
        return SyncFigures(row, name, real, outcomes)

    def agent_alone(self) -> float:
        """Return the seconds of a run of cf-agent that has nothing to do."""
        agent = Agent(self._site.root / f"alone-{next(self._numbers)}", 0, None)
        return statistics.median(agent.run() for _ in range(5))
