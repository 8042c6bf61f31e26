# SPDX-License-Identifier: MIT
"""
`python -m benchmarks`: cf-serverd and our server, side by side.

See docs/benchmarks.rst for what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.processes import stolen_and_total_ticks
from benchmarks.report import OURS, THEIRS, Result, heading, machine
from benchmarks.rows import ROWS, Row, choose_rows
from benchmarks.running import Bench, build_site, order_of, say
from benchmarks.servers import find_twistd, raise_descriptor_limit
from benchmarks.site import find_program


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="CPU and memory of cf-serverd and of nodecomm's server, on the "
        "same tree and key, on loopback.",
        epilog="Rows: " + "; ".join(f"{row.name}: {row.title}" for row in ROWS) + ".",
    )
    parser.add_argument(
        "--rows", metavar="NAMES", help="rows to measure, separated by commas"
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of each row (5, with --quick 2)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer units and rounds")
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


def _check_programs(names: list[str], rows: list[Row]) -> None:
    if THEIRS in names:
        find_program("cf-serverd")
    if any(row.real_agent for row in rows):
        find_program("cf-agent")
    if OURS in names:
        find_twistd()


def _measure(arguments: argparse.Namespace, folder: Path) -> list[Result]:
    rows = choose_rows(arguments.rows)
    names = order_of(arguments.servers)
    _check_programs(names, rows)
    site = build_site(folder, rows)
    note = say if arguments.verbose else lambda text: None
    bench = Bench(site, names, arguments.twistd, arguments.cpu, note)
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    print(heading(), flush=True)
    results = []
    for row in rows:
        count = row.quick_units if arguments.quick else row.units
        results.append(bench.measure(row, count, rounds))
        print(results[-1].line(), flush=True)
    return results


def main() -> int:
    """Measure what the command line asks for; return the exit status."""
    arguments = _arguments()
    raise_descriptor_limit()
    load, ticks = os.getloadavg()[0], stolen_and_total_ticks()
    try:
        if arguments.keep is None:
            with tempfile.TemporaryDirectory(prefix="nodecomm-bench-") as folder:
                results = _measure(arguments, Path(folder))
        else:
            arguments.keep.mkdir(parents=True)
            results = _measure(arguments, arguments.keep.resolve())
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
            "rows": [result.to_json() for result in results],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
