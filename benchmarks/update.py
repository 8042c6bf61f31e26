# SPDX-License-Identifier: MIT
"""`nodecomm sync` as a process, copying a folder from either server."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.errors import BenchmarkError

#: Seconds one run may take.
_PATIENCE = 600.0


class Outcome(NamedTuple):
    """
    What one run came to.

    Attributes:
        seconds: From the call to the end of the update, by the program's own count.
        whole: From the start of the process to its end, in seconds.
        round_trips: The longest chain of a message waiting for the one before,
            connecting and TLS included.
        connections: Connections made.
        changed: Whether the copy is another set than before.
        fetched: Files whose content came over the network.
        received: Bytes from the server.
        manifest: Whether the server's manifest answered.
    """

    seconds: float
    whole: float
    round_trips: int
    connections: int
    changed: bool
    fetched: int
    received: int
    manifest: bool

    @property
    def start_up(self) -> float:
        """Seconds of the process that are not the update's."""
        return self.whole - self.seconds


class Update:
    """
    Our agent with a state folder and a copy of its own.

    Args:
        folder: Where both are put.
        port: Where it finds the server, on 127.0.0.1.
        source: The folder on the server.
        program: The `nodecomm` to run.
        options: Further options of `nodecomm sync`.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        source: Path,
        program: str,
        options: tuple[str, ...] = (),
    ) -> None:
        self._program = program
        self._options = options
        self._state = folder / "state"
        self._source = source
        self._where = f"127.0.0.1:{port}:{source}"
        self.copy = folder / "copy"
        folder.mkdir(parents=True, mode=0o700)
        self._key = folder / "key"
        self._generate(self._key)
        shutil.copytree(self._key, self._state)

    def _generate(self, state: Path) -> None:
        state.mkdir(mode=0o700)
        done = subprocess.run(
            [self._program, "key", "generate", "--state-dir", state],
            check=False,
            capture_output=True,
        )
        if done.returncode:
            raise BenchmarkError(
                "nodecomm key generate: " + done.stderr.decode(errors="replace")
            )

    def forget(self) -> None:
        """
        Remove the copy and all that is known but our own key, so that the next run
        is the first.
        """
        for folder in (self.copy, self._state):
            shutil.rmtree(folder, ignore_errors=True)
        for previous in self.copy.parent.glob(f".{self.copy.name}.nodecomm-*"):
            if previous.is_dir():
                shutil.rmtree(previous)
            else:
                previous.unlink()
        shutil.copytree(self._key, self._state)

    def run(self, compare: str = "auto") -> Outcome:
        """
        Let it run once.

        Raises:
            BenchmarkError: It failed; its words are in the text.
        """
        command = [
            *(self._program, "sync", "--json", "--state-dir", str(self._state)),
            *("--trust-server", "--preserve", "--compare", compare),
            *self._options,
            *(self._where, str(self.copy)),
        ]
        begun = time.monotonic()
        done = subprocess.run(
            command, check=False, capture_output=True, timeout=_PATIENCE
        )
        whole = time.monotonic() - begun
        if done.returncode:
            raise BenchmarkError(
                f"{' '.join(command)}: status {done.returncode}\n"
                + (done.stdout + done.stderr).decode(errors="replace")[-2000:]
            )
        facts = json.loads(done.stdout)
        return Outcome(
            seconds=facts["seconds"],
            whole=whole,
            round_trips=facts["round_trips"],
            connections=facts["connections"],
            changed=facts["changed"],
            fetched=facts["fetched"],
            received=facts["bytes_received"],
            manifest=facts["manifest"],
        )

    def check(self) -> None:
        """
        See that the copy is what the server has.

        Raises:
            BenchmarkError: It is not.
        """
        different = _difference(self._source, self.copy)
        if different is not None:
            raise BenchmarkError(f"the copy of {self._source} differs in {different}")


def _difference(source: Path, copy: Path) -> Path | None:
    """Return the first name that is not the same in both, None where all are."""
    for folder, folders, files in os.walk(source):
        place = Path(folder)
        beside = copy / place.relative_to(source)
        if sorted(os.listdir(beside)) != sorted([*folders, *files]):
            return place
        for name in files:
            if not filecmp.cmp(place / name, beside / name, shallow=False):
                return place / name
    return None


def find_nodecomm() -> str:
    """
    Return the `nodecomm` that belongs to the running Python.

    Raises:
        BenchmarkError: There is none.
    """
    beside = Path(sys.executable).with_name("nodecomm")
    found = str(beside) if beside.exists() else shutil.which("nodecomm")
    if found is None:
        raise BenchmarkError("nodecomm not found: pip install -e . in this environment")
    return found
