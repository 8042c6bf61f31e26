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


class _Turns:
    """
    The two agents with one server, ready to be measured in turn.

    Args:
        row: What is measured.
        server: With which server.
        agent: The real agent.
        update: Ours.
        theirs: How many runs of the real agent are measured.
        note: Told what is going on.
    """

    def __init__(
        self,
        row: SyncRow,
        server: str,
        agent: Agent,
        update: Update,
        theirs: int,
        note: Callable[[str], None],
    ) -> None:
        self.server = server
        self.real: list[float] = []
        self.outcomes: list[Outcome] = []
        self._row = row
        self._agent = agent
        self._update = update
        self._theirs = theirs
        self._note = note

    def run_both(self, number: int) -> None:
        """Let each agent run once; who comes first changes with *number*."""
        for run in (self._run_real, self._run_ours)[:: 1 if number % 2 == 0 else -1]:
            run()

    def _run_real(self) -> None:
        if len(self.real) < self._theirs:
            if self._row.fresh:
                self._agent.forget()
            self.real.append(self._agent.run())
            text = f"cf-agent {self.real[-1]:.3f} s"
            self._note(f"{self._row.name} {self.server} {text}")

    def _run_ours(self) -> None:
        if self._row.fresh:
            self._update.forget()
        outcome = self._update.run(self._row.compare)
        self.outcomes.append(outcome)
        self._note(f"{self._row.name} {self.server} {outcome}")
        if outcome.changed != self._row.fresh:
            raise BenchmarkError(f"{self._row.name}: {outcome}")
        self._update.check()


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
        """
        Measure *row* with *servers*: one after the other, or in turn when they are
        compared with each other.
        """
        together = row.pair_target is not None
        batches = [[*servers]] if together else [[name] for name in servers]
        for names in batches:
            with ExitStack() as stack:
                turns: list[_Turns] = []
                for name in names:
                    near = far = servers[name].port
                    if row.round_trip:
                        relay = DelayedRelay(near, row.round_trip / 1000)
                        far = stack.enter_context(relay).port
                    turns.append(self._turns(row, name, near, far, rounds))
                for number in range(rounds):
                    for each in turns[:: 1 if number % 2 == 0 else -1]:
                        each.run_both(number)
                for each in turns:
                    yield SyncFigures(row, each.server, each.real, each.outcomes)

    def _turns(
        self, row: SyncRow, server: str, near: int, far: int, rounds: int
    ) -> _Turns:
        copied = {
            "tree": Copied(self._site.tree, TREE_FILES),
            "wide": Copied(self._site.wide, WIDE_FILES),
            "big": Copied(self._site.big.parent, 1),
        }[row.tree]
        folder = self._site.root / f"agents-{next(self._numbers)}"
        way = row.way
        update = Update(folder / "ours", far, copied.source, self._program, way.options)
        theirs = 0
        if row.real_agent and not (self._quick and row.minutes):
            theirs = min(rounds, row.most_rounds)
        agent = Agent(folder / "theirs", far, copied, verify=row.verify, way=way)
        if not row.fresh:
            update.run()
            # The first run that can take the server's times for settled asks for
            # all digests once more; what is measured is every run after it.
            time.sleep(_SETTLING)
            update.run()
            if theirs:
                # The way does not matter for the copy that is there before.
                Agent(folder / "theirs", near, copied, way=way).run()
                agent = Agent(
                    folder / "theirs", far, copied, verify=row.verify, way=way
                )
        return _Turns(row, server, agent, update, theirs, self._note)

    def agent_alone(self) -> float:
        """Return the seconds of a run of cf-agent that has nothing to do."""
        agent = Agent(self._site.root / f"alone-{next(self._numbers)}", 0, None)
        return statistics.median(agent.run() for _ in range(5))
