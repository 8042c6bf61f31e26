# SPDX-License-Identifier: MIT
"""
`python -m benchmarks`: CFEngine's server and agent and ours, side by side.

See docs/benchmarks.rst for what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.agent import TLS
from benchmarks.errors import BenchmarkError
from benchmarks.inventories import (
    INVENTORY_ROWS,
    InventoryBench,
    InventoryFigures,
    InventoryRow,
    inventory_heading,
)
from benchmarks.processes import stolen_and_total_ticks
from benchmarks.report import OURS, THEIRS, Result, heading, machine
from benchmarks.rows import ROWS, Row, choose_rows
from benchmarks.running import Bench, build_site, order_of, say
from benchmarks.runs import RUN_ROWS, RunBench, RunFigures, RunRow, run_heading
from benchmarks.servers import find_twistd, raise_descriptor_limit
from benchmarks.site import Site, find_program
from benchmarks.sync_report import Pair, SyncFigures, sync_heading
from benchmarks.sync_rows import SYNC_ROWS, SyncRow
from benchmarks.sync_running import SyncBench
from benchmarks.update import find_nodecomm


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="CPU and memory of cf-serverd and of nodecomm's server, on the "
        "same tree and key, on loopback; then the time of updates by cf-agent and by "
        "nodecomm sync, and of remote runs by cf-runagent and by nodecomm run; then "
        "how many inventories our server takes.",
        epilog="Rows: "
        + "; ".join(
            f"{row.name}: {row.title}"
            for row in (*ROWS, *SYNC_ROWS, *RUN_ROWS, *INVENTORY_ROWS)
        )
        + ".",
    )
    parser.add_argument(
        "--rows",
        metavar="NAMES",
        help="rows to measure, separated by commas; sync: all rows of updates; "
        "classic: all rows of the classic protocol; run: all rows of remote runs",
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of each row (5, with --quick 2)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer units and rounds, and no run of cf-agent that takes minutes",
    )
    parser.add_argument(
        "--servers",
        default=f"{THEIRS},{OURS}",
        help=f"{THEIRS} (cf-serverd), {OURS}, or both (the default)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write JSON to FILE")
    parser.add_argument(
        "--cpu",
        type=int,
        default=max(os.sched_getaffinity(0)),
        help="CPU of the rows that share one (%(default)s)",
    )
    parser.add_argument("--twistd", help="the twistd that runs our server")
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="work in DIR and leave it there"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print each measurement"
    )
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds takes a number of 1 or more")
    if arguments.cpu not in os.sched_getaffinity(0):
        parser.error(f"CPU {arguments.cpu} is not ours to use")
    return arguments


class _Chosen(NamedTuple):
    """
    The rows to measure, of servers, of updates, of remote runs and of inventories.
    """

    servers: list[Row]
    updates: list[SyncRow]
    runs: list[RunRow]
    inventories: list[InventoryRow]

    @classmethod
    def of(cls, names: str | None) -> _Chosen:
        """
        The rows in *names*, which are separated by commas; all for None.

        Raises:
            BenchmarkError: There is no such row.
        """
        if names is None:
            return cls(
                list(ROWS), list(SYNC_ROWS), list(RUN_ROWS), list(INVENTORY_ROWS)
            )
        wanted: list[str] = []
        for name in names.split(","):
            if name == "sync":
                wanted += [row.name for row in SYNC_ROWS]
            elif name == "run":
                wanted += [row.name for row in RUN_ROWS]
            elif name == "classic":
                wanted += [row.name for row in ROWS if row.name.startswith("classic-")]
                wanted += [row.name for row in SYNC_ROWS if row.way != TLS]
            else:
                wanted.append(name)
        updates = [row for row in SYNC_ROWS if row.name in wanted]
        runs = [row for row in RUN_ROWS if row.name in wanted]
        inventories = [row for row in INVENTORY_ROWS if row.name in wanted]
        found = {row.name for row in updates} | {row.name for row in runs}
        found |= {row.name for row in inventories}
        others = [name for name in dict.fromkeys(wanted) if name not in found]
        servers = choose_rows(",".join(others)) if others else []
        return cls(servers, updates, runs, inventories)


def _check_programs(names: list[str], rows: _Chosen) -> None:
    if THEIRS in names:
        find_program("cf-serverd")
    if any(row.real_agent for row in rows.servers) or rows.updates:
        find_program("cf-agent")
    if OURS in names:
        find_twistd()
    if rows.updates or rows.runs:
        find_nodecomm()
    if rows.runs:
        find_program("cf-runagent")


class _Measured(NamedTuple):
    """
    All figures of a run.
    """

    results: list[Result]
    updates: list[SyncFigures]
    pairs: list[Pair]
    runs: list[RunFigures]
    inventories: list[InventoryFigures]


def _measure(arguments: argparse.Namespace, folder: Path) -> _Measured:
    rows = _Chosen.of(arguments.rows)
    names = order_of(arguments.servers)
    _check_programs(names, rows)
    site = build_site(folder, rows.servers, {row.tree for row in rows.updates})
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    results = []
    if rows.servers:
        note = say if arguments.verbose else lambda text: None
        bench = Bench(site, names, arguments.twistd, arguments.cpu, note)
        print(heading(), flush=True)
        for row in rows.servers:
            count = row.quick_units if arguments.quick else row.units
            results.append(bench.measure(row, count, rounds))
            print(results[-1].line(), flush=True)
    updates, pairs = _measure_updates(arguments, site, names, rows.updates, rounds)
    runs = _measure_runs(arguments, folder, rows.runs, rounds)
    inventories = _measure_inventories(arguments, folder, rows.inventories, rounds)
    return _Measured(results, updates, pairs, runs, inventories)


def _measure_updates(
    arguments: argparse.Namespace,
    site: Site,
    names: list[str],
    rows: list[SyncRow],
    rounds: int,
) -> tuple[list[SyncFigures], list[Pair]]:
    figures: list[SyncFigures] = []
    pairs: list[Pair] = []
    if not rows:
        return figures, pairs
    note = say if arguments.verbose else lambda text: None
    bench = SyncBench(site, names, arguments.twistd, arguments.quick, note)
    print("\n" + sync_heading(), flush=True)
    with bench.servers() as servers:
        for row in rows:
            measured = []
            for each in bench.measure(row, servers, rounds):
                measured.append(each)
                print(each.line(), flush=True)
            figures += measured
            if row.pair_target is not None:
                pairs.append(Pair(row, measured))
                print(pairs[-1].line(), flush=True)
    if any(row.real_agent for row in rows):
        print(f"A run of cf-agent without any work: {bench.agent_alone():.2f} s.")
    return figures, pairs


def _measure_runs(
    arguments: argparse.Namespace, folder: Path, rows: list[RunRow], rounds: int
) -> list[RunFigures]:
    figures: list[RunFigures] = []
    if rows:
        bench = RunBench(folder, say if arguments.verbose else lambda text: None)
        print("\n" + run_heading(), flush=True)
    for row in rows:
        figures.append(bench.measure(row, rounds))
        for line in figures[-1].lines():
            print(line, flush=True)
    return figures


def _measure_inventories(
    arguments: argparse.Namespace, folder: Path, rows: list[InventoryRow], rounds: int
) -> list[InventoryFigures]:
    figures: list[InventoryFigures] = []
    if not rows:
        return figures
    note = say if arguments.verbose else lambda text: None
    bench = InventoryBench(folder, arguments.twistd, note)
    print("\n" + inventory_heading(), flush=True)
    for row in rows:
        nodes = row.nodes // 4 if arguments.quick else row.nodes
        figures.append(bench.measure(row, nodes, rounds))
        for line in figures[-1].lines():
            print(line, flush=True)
    return figures


def main() -> int:
    """Measure what the command line asks for; return the exit status."""
    arguments = _arguments()
    raise_descriptor_limit()
    load, ticks = os.getloadavg()[0], stolen_and_total_ticks()
    try:
        if arguments.keep is None:
            with tempfile.TemporaryDirectory(prefix="nodecomm-bench-") as folder:
                measured = _measure(arguments, Path(folder))
        else:
            arguments.keep.mkdir(parents=True)
            measured = _measure(arguments, arguments.keep.resolve())
    except (BenchmarkError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    stolen, total = (
        now - then for now, then in zip(stolen_and_total_ticks(), ticks, strict=True)
    )
    noise = {"load_before": load, "stolen": stolen / max(total, 1)}
    facts = machine()
    print(
        f"\n{facts['processor']}, {facts['cpus']} CPUs, Python {facts['python']}, "
        f"{facts['cf-serverd']}; load before {load:.2f}, "
        f"stolen by the hypervisor {noise['stolen']:.1%}."
    )
    if arguments.json is not None:
        document = {
            "machine": facts,
            "noise": noise,
            "rows": [result.to_json() for result in measured.results],
            "updates": [each.to_json() for each in measured.updates],
            "pairs": [pair.to_json() for pair in measured.pairs],
            "runs": [each.to_json() for each in measured.runs],
            "inventories": [each.to_json() for each in measured.inventories],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
