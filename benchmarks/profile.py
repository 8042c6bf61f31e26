# SPDX-License-Identifier: MIT
"""
`python -m benchmarks.profile ROW`: where our server's time goes in one row.

Server and client are not pinned here: on a shared CPU the client's time would be
counted where the server was interrupted. Three tools, each with its own view:

* cprofile, part of Python: every call of the reactor's thread, counted. Slows Python
  code by about half and C code not at all, so it shows counts better than shares.
* py-spy: samples of the Python stacks, at full speed. Its Python functions are the
  last that it names: the kernel and OpenSSL count as the function that called them.
* perf: samples of everything, the kernel and OpenSSL included, by library and symbol.
"""

from __future__ import annotations

import argparse
import io
import os
import pstats
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.rows import ROWS, Row, Stand, choose_rows
from benchmarks.running import build_site, say
from benchmarks.servers import Nodecomm, Server, raise_descriptor_limit

#: Samples per second: no divisor of the kernel's ticks, so as not to march in step.
_RATE = 497
#: Units of a profiled run, in rounds of the row.
_ROUNDS = 5
_LINES = 40
#: Innermost functions of threads that wait, as py-spy shows them.
_WAITING = ("Condition.wait ", "wait (threading", "EPollReactor.doPoll ", "doPoll ")


def _find_tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise BenchmarkError(
            f"{name} is not installed: pip install py-spy, or apt-get install "
            "linux-perf; --tool cprofile needs neither"
        )
    return found


def _recorded(command: list[str], work: Callable[[], float]) -> float:
    recorder = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        time.sleep(1.5)  # It attaches, or says why it cannot.
        if recorder.poll() is not None:
            said = recorder.stderr.read() if recorder.stderr else b""
            raise BenchmarkError(said.decode(errors="replace").strip())
        return work()
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.wait()


def _with_py_spy(server: Server, work: Callable[[], float], out: Path) -> str:
    command = [_find_tool("py-spy"), "record", "--pid", str(server.pid)]
    command += ["--rate", str(_RATE), "--format", "raw", "--output", str(out)]
    cost = _recorded([*command, "--nonblocking", "--function"], work)
    return f"{_per_unit(cost)}\n{_stack_summary(out.read_text())}"


def _per_unit(cost: float) -> str:
    return f"{cost:.4g} seconds of CPU (memory row: bytes) per unit"


def _stack_summary(stacks: str) -> str:
    """Sum up stacks as `a;b;c 12`: by innermost frame, and by any frame."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in stacks.splitlines():
        frames, _, number = line.rpartition(" ")
        names, samples = frames.split(";"), int(number)
        if names[-1].startswith(_WAITING):
            continue  # It is no cost, though it may be shown as running.
        total += samples
        own[names[-1]] += samples
        for name in set(names):
            within[name] += samples
    text = [f"{total} samples"]
    for title, counter in (("own time", own), ("own and called", within)):
        text.append(f"\n{title}:")
        for name, samples in counter.most_common(_LINES):
            text.append(f"{samples / max(total, 1):7.1%}  {name}")
    return "\n".join(text)


def _with_perf(server: Server, work: Callable[[], float], out: Path) -> str:
    perf = _find_tool("perf")
    command = [perf, "record", "-q", "-F", str(_RATE), "-g", "-p", str(server.pid)]
    cost = _recorded([*command, "-o", str(out)], work)
    text = [_per_unit(cost)]
    for order in ("dso", "dso,symbol"):
        shown = subprocess.run(
            [perf, "report", "-i", out, "--no-children", "-g", "none", "--sort", order],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line for line in shown.stdout.splitlines() if line.strip()]
        text += [*[line for line in lines if not line.startswith("#")][:_LINES], ""]
    return "\n".join(text)


def _stats_summary(file: Path) -> str:
    stream = io.StringIO()
    stats = pstats.Stats(str(file), stream=stream)
    for order in ("tottime", "cumulative"):
        stats.sort_stats(order).print_stats(_LINES)
    return stream.getvalue()


def profile(row: Row, tool: str, rounds: int, folder: Path, out: Path) -> str:
    """
    Run *row* against our server under *tool*.

    Args:
        row: What to do.
        tool: `cprofile`, `py-spy` or `perf`.
        rounds: How many rounds of it.
        folder: Work folder.
        out: Where the tool's own file goes.

    Returns:
        What the tool saw, for people.
    """
    os.environ["PYTHONPERFSUPPORT"] = "1"  # From Python 3.12 perf then sees functions.
    options: tuple[str, ...] = ()
    if tool == "cprofile":
        options = ("--profiler=cprofile", f"--profile={out}", "--savestats")
    site = build_site(folder, [row])
    server = Nodecomm(site, folder / "ours", twistd_options=options)
    server.start()
    stand = Stand(server, folder / "agent")
    units = row.units if row.own_server else row.units * rounds

    def work() -> float:
        return row.measure(stand, units)

    try:
        if not row.own_server:
            row.measure(stand, max(1, row.units // 10))
        if tool == "py-spy":
            return _with_py_spy(server, work, out)
        if tool == "perf":
            return _with_perf(server, work, out)
        said = _per_unit(work())
    finally:
        server.stop()
    return f"{said}\n{_stats_summary(out)}"


def main() -> int:
    """Profile the row that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description="Where our server's time goes in one row of the benchmark.",
    )
    parser.add_argument("row", choices=[row.name for row in ROWS])
    parser.add_argument(
        "--tool", choices=["cprofile", "py-spy", "perf"], default="cprofile"
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument(
        "--out", type=Path, help="keep the tool's own file here", metavar="FILE"
    )
    arguments = parser.parse_args()
    raise_descriptor_limit()
    try:
        with tempfile.TemporaryDirectory(prefix="nodecomm-profile-") as folder:
            out = (arguments.out or Path(folder, "profile.out")).resolve()
            (row,) = choose_rows(arguments.row)
            print(profile(row, arguments.tool, arguments.rounds, Path(folder), out))
    except (BenchmarkError, OSError) as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
