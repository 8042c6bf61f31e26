# SPDX-License-Identifier: MIT
"""Remote runs on many nodes: `nodecomm run` beside `cf-runagent`."""

from __future__ import annotations

import getpass
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.errors import BenchmarkError
from benchmarks.processes import memory_bytes
from benchmarks.report import Json, summary
from benchmarks.servers import free_port
from benchmarks.site import (
    cfengine_environment,
    cfengine_folder,
    find_program,
    write_policy,
)
from benchmarks.update import find_nodecomm
from nodecomm.identity.keys import PublicKey
from tests.interop.crowd import address_of, keys_of

#: Seconds that a slow node's run takes.
SLOW = 3
#: Seconds without a word after which either gives a node up.
_SILENCE = 15
#: Processes that the nodes share.
_PROCESSES = 2
#: Seconds between two looks at the memory.
_LOOK = 0.02

_COMMAND = f"""\
#!/bin/sh
echo "the node does its work"
if [ "$1" = slow ]; then sleep {SLOW}; fi
echo "the work is done"
"""

_POLICY = """\
body common control { bundlesequence => { "main" }; }
bundle agent main { }
"""


class RunRow(NamedTuple):
    """
    One group of nodes.

    Attributes:
        name: What `--rows` takes.
        title: What is measured, for people.
        kinds: How many nodes there are of each kind.
        most_rounds: More rounds of cf-runagent tell nothing new.
    """

    name: str
    title: str
    kinds: tuple[tuple[str, int], ...]
    most_rounds: int = 1000

    @property
    def nodes(self) -> list[str]:
        """The kind of each node, those in a bad way spread among the others."""
        good, *others = (count for _, count in self.kinds)
        total = good + sum(others)
        found = ["good"] * total
        bad = [kind for kind, count in self.kinds[1:] for _ in range(count)]
        for place, kind in enumerate(bad):
            found[place * total // len(bad)] = kind
        return found

    @property
    def runs(self) -> int:
        """How many runs end with 0."""
        return sum(count for kind, count in self.kinds if kind in ("good", "slow"))


RUN_ROWS = (
    RunRow("run-one", "one node", (("good", 1),)),
    RunRow("run-300", "300 nodes", (("good", 300),), most_rounds=2),
    RunRow(
        "run-300-slow",
        f"300, of which 15 take {SLOW} s",
        (("good", 285), ("slow", 15)),
        most_rounds=1,
    ),
    RunRow(
        "run-300-mixed",
        "300: 15 slow, refusing, dead each, 1 mute",
        (("good", 254), ("slow", 15), ("refusing", 15), ("dead", 15), ("mute", 1)),
        most_rounds=1,
    ),
)


class Spent(NamedTuple):
    """
    What one run on all nodes took.

    Attributes:
        seconds: From the start of the process to its end.
        cpu: CPU seconds of it and its children; those of the nodes are not among them.
        memory: The most bytes that it and its children had at a time.
    """

    seconds: float
    cpu: float
    memory: float


def _spent(
    command: Sequence[str], environment: dict[str, str], output: Path
) -> tuple[Spent, bytes]:
    with output.open("wb") as file:
        begun = time.monotonic()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
        most = 0
        ended = threading.Event()

        def look() -> None:
            nonlocal most
            while not ended.wait(_LOOK):
                try:
                    most = max(most, memory_bytes(process.pid))
                except OSError:  # It, or a child of it, has just ended.
                    continue

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            _, _, used = os.wait4(process.pid, 0)
        finally:
            ended.set()
            watcher.join()
    spent = Spent(time.monotonic() - begun, used.ru_utime + used.ru_stime, most)
    return spent, output.read_bytes()


class _Asker:
    """
    A program that has the nodes run what they run.

    Attributes:
        name: What the report calls it.
        spent: Of each measured run.
    """

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spent: list[Spent] = []

    def run(self, row: RunRow, hosts: Sequence[str]) -> None:
        """
        Let it run once, and see that it did.

        Raises:
            BenchmarkError: Not all nodes that should have run.
        """
        raise NotImplementedError

    def check(self, row: RunRow, found: int, told: bytes) -> None:
        """See that as many runs ended well as should."""
        if found != row.runs:
            words = told.decode(errors="replace")[-2000:]
            raise BenchmarkError(
                f"{row.name}: {self.name}: {found} of {row.runs} ran:\n{words}"
            )


class CfRunagent(_Asker):
    """
    cf-runagent that knows the keys of all nodes.

    Args:
        folder: Its work folder.
        keys: The keys of the nodes.
        children: How many nodes it asks at a time; None: one after the other.
    """

    def __init__(
        self, folder: Path, keys: Sequence[PublicKey], children: int | None = None
    ) -> None:
        super().__init__(folder)
        self.name = "cf-runagent" if children is None else f"cf-runagent -b {children}"
        self._options = [] if children is None else [f"--background={children}"]
        cfengine_folder(folder)
        environment = cfengine_environment(folder)
        quiet = subprocess.DEVNULL
        subprocess.run(
            [find_program("cf-key")], env=environment, check=True, stdout=quiet
        )
        for key in keys:
            path = folder / "ppkeys" / f"root-{key.md5}.pub"
            path.write_bytes(key.to_pem())
            path.chmod(0o600)
        write_policy(folder / "inputs" / "run.cf", _POLICY)

    def run(self, row: RunRow, hosts: Sequence[str]) -> None:
        """Let it run once."""
        command = [
            *(str(find_program("cf-runagent")), "-t", str(_SILENCE), *self._options),
            *("-f", str(self.folder / "inputs" / "run.cf"), "-H", ",".join(hosts)),
        ]
        environment = cfengine_environment(self.folder)
        spent, told = _spent(command, environment, self.folder / "output")
        self.check(row, told.count(b"(exit code: 0)"), told)
        self.spent.append(spent)


class NodecommRun(_Asker):
    """
    `nodecomm run`.

    Args:
        folder: Its state folder.
    """

    name = "nodecomm run"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = find_nodecomm()
        folder.mkdir(mode=0o700)
        subprocess.run(
            [self._program, "key", "generate", "--state-dir", folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def run(self, row: RunRow, hosts: Sequence[str]) -> None:
        """Let it run once."""
        command = [
            *(self._program, "run", "--json", "--state-dir", str(self.folder)),
            *("--trust-server", "--timeout", str(_SILENCE), *hosts),
        ]
        spent, told = _spent(command, dict(os.environ), self.folder / "output")
        last = json.loads(told.splitlines()[-1])
        self.check(row, last.get("done", -1), told)
        self.spent.append(spent)


class RunFigures:
    """
    All rounds of one row.

    Args:
        row: What was measured.
        spent: Of each program, by its name.
    """

    def __init__(self, row: RunRow, spent: dict[str, list[Spent]]) -> None:
        self.row = row
        self.spent = spent

    def _median(self, name: str, what: str) -> float:
        values: list[float] = [getattr(each, what) for each in self.spent[name]]
        return statistics.median(values)

    def ratio(self, name: str) -> float | None:
        """Seconds of ours to those of the program *name*; None: that is ours."""
        if name == NodecommRun.name:
            return None
        ours = self._median(NodecommRun.name, "seconds")
        return ours / self._median(name, "seconds")

    def lines(self) -> Iterator[str]:
        """Return the figures as lines of the table."""
        for name in self.spent:
            ratio = self.ratio(name)
            yield _LINE.format(
                self.row.title,
                name,
                f"{self._median(name, 'seconds'):.2f}",
                f"{self._median(name, 'cpu'):.2f}",
                f"{self._median(name, 'memory') / 1e6:.0f}",
                "" if ratio is None else f"{ratio:.2f}",
            ).rstrip()

    def to_json(self) -> Json:
        """Return the figures as JSON values."""
        answer: Json = {"name": self.row.name, "title": self.row.title}
        for name, spent in self.spent.items():
            answer[name] = {
                what: summary([getattr(each, what) for each in spent])
                for what in Spent._fields
            } | {"ratio": self.ratio(name)}
        return answer


#: Columns: title, program, seconds, CPU, memory, ratio of ours.
_LINE = "{:<43}{:<19}{:>9}{:>7}{:>6}{:>12}"


def run_heading() -> str:
    """Return the heading of the table."""
    return _LINE.format(
        "remote runs", "", "seconds", "CPU", "MB", "ours/theirs"
    ).rstrip()


class RunBench:
    """
    A run of the rows of remote runs.

    Args:
        folder: Where all is put.
        note: Told what is going on.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._note = note
        self._numbers = itertools.count()

    def measure(self, row: RunRow, rounds: int) -> RunFigures:
        """
        Let each program run as often as wanted, in turn. Ours runs once more before, to
        learn the keys that cf-runagent knows.
        """
        folder = self._folder / f"runs-{next(self._numbers)}"
        folder.mkdir(parents=True)
        kinds = row.nodes
        with _crowd(folder / "nodes", kinds) as port:
            hosts = [f"{address_of(number)}:{port}" for number in range(len(kinds))]
            keys = _keys(folder / "nodes")
            ours = NodecommRun(folder / "ours")
            theirs: list[_Asker] = [CfRunagent(folder / "theirs", keys)]
            if len(kinds) > 1:
                theirs.append(CfRunagent(folder / "theirs-parallel", keys, 50))
            ours.run(row, hosts)
            ours.spent.clear()
            for number in range(rounds):
                for each in (*theirs, ours)[:: 1 if number % 2 == 0 else -1]:
                    if each is ours or number < row.most_rounds:
                        each.run(row, hosts)
                        self._note(f"{row.name} {each.name} {each.spent[-1]}")
        return RunFigures(row, {each.name: each.spent for each in (*theirs, ours)})


@contextmanager
def _crowd(folder: Path, kinds: Sequence[str]) -> Iterator[int]:
    """Start the nodes, and end them at the end; gives their port."""
    folder.mkdir()
    command = folder / "command"
    command.write_text(_COMMAND)
    command.chmod(0o755)
    port = free_port()
    share = -(-len(kinds) // _PROCESSES)
    with ExitStack() as stack:
        started = []
        for first in range(0, len(kinds), share):
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.interop.crowd", str(folder)),
                    *(str(port), str(command), getpass.getuser(), str(first)),
                    *kinds[first : first + share],
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(folder / "log").open("ab"),
            )
            stack.enter_context(process)
            started.append(process)
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline() != b"listening\n":
                words = (folder / "log").read_text(errors="replace")
                raise BenchmarkError(f"the nodes do not listen:\n{words[-2000:]}")
        yield port


def _keys(folder: Path) -> list[PublicKey]:
    found = {
        path.read_bytes() for path in keys_of(folder, 0).parent.glob("*/localhost.pub")
    }
    return [PublicKey.from_pem(text) for text in sorted(found)]
