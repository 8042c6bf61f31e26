# SPDX-License-Identifier: MIT
"""
`nodecomm sync` and the other commands of a node, as processes.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nodecomm.identity.keys import KeyPair
from nodecomm.identity.own import create_own_key
from tests.forking import Forked
from tests.interop.machine import KEPT, RUN_TIMEOUT, peer_program
from tests.interop.nodes import WorkFolder
from tests.interop.servers import NodecommServer, RealServer, Server, config_for

#: Whether the large forms of the tests were asked for.
FULL = os.environ.get("NODECOMM_FULL") == "1"

#: What only shows something new now and then.
FULL_ONLY = pytest.mark.skipif(not FULL, reason="takes long; NODECOMM_FULL=1 runs it")


#: Seconds that a manifest lasts of which a test needs a new one for each command, and
#: what says so to our server.
MANIFEST_AGE = 0.25
FRESH = f"manifest_max_age = {MANIFEST_AGE}"


class SyncRun(NamedTuple):
    """
    How one of our commands ended.

    Attributes:
        status: Its exit status.
        output: What it printed.
        errors: What it said beside that.
    """

    status: int
    output: str
    errors: str

    @property
    def facts(self) -> dict[str, Any]:
        """
        What it printed with --json, after it succeeded.
        """
        assert self.status == 0, self
        found: dict[str, Any] = json.loads(self.output)
        return found

    @property
    def said(self) -> str:
        """
        All its words.
        """
        return self.output + self.errors


@cache
def _node_key() -> KeyPair:
    """
    The key of all nodes that need none of their own: making one takes a moment.
    """
    return KeyPair.generate()


class SyncAgent:
    """
    A node with a state folder of its own that copies with `nodecomm sync`.

    Args:
        folder: Where its state is put.
        key: Its key; by default one that it shares with others.
    """

    def __init__(self, folder: Path, *, key: KeyPair | None = None) -> None:
        self.state = folder / "state"
        self.state.mkdir(parents=True, mode=0o700)
        create_own_key(self.state / "ppkeys", key or _node_key())

    def sync(
        self,
        port: int,
        source: str,
        destination: Path,
        *words: str,
        host: str = "127.0.0.1",
        trust: bool = True,
    ) -> SyncRun:
        """
        Copy *source* of the server to *destination*.

        Args:
            port: The server's port.
            source: What is asked for.
            destination: The local folder, or file.
            words: More of the command line.
            host: The server's address.
            trust: Trust the server's key when none is known.
        """
        command = self.command(port, source, destination, *words, host=host)
        if trust:
            command.insert(2, "--trust-server")
        return self._run(command)

    def run(self, *words: str) -> SyncRun:
        """
        Run one of the other commands with this node's state.
        """
        name, *rest = words
        return self._run([_program(), name, *rest, "--state-dir", str(self.state)])

    def command(
        self,
        port: int,
        source: str,
        destination: Path,
        *words: str,
        host: str = "127.0.0.1",
    ) -> list[str]:
        """
        The command line of an update that prints JSON.
        """
        where = f"[{host}]" if ":" in host else host
        return [
            *(_program(), "sync", "--json", "--state-dir", str(self.state), *words),
            *(f"{where}:{port}:{source}", str(destination)),
        ]

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """
        Begin a command, and do not wait for its end.
        """
        _outlive_manifest(command)
        return Forked(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @property
    def environment(self) -> dict[str, str]:
        """
        The environment of the commands.
        """
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return {
            **kept,
            "PYTHONWARNINGS": "default",
            "PYTHONFAULTHANDLER": "1",
            "LC_ALL": "C.UTF-8",
        }

    def _run(self, command: list[str]) -> SyncRun:
        return ended(self.start(*command))


#: When what was last asked for that source was told.
_asked: dict[str, float] = {}


def _source(command: Any) -> str:
    """
    What of a server a command is about.
    """
    return next((word for word in command[1:] if re.search(r":\d+:", word)), "")


def _outlive_manifest(command: Sequence[str]) -> None:
    """
    Wait until no server tells of a source what it has told of it before.
    """
    age = time.monotonic() - _asked.get(_source(command), -math.inf)
    time.sleep(max(0.0, MANIFEST_AGE - age))


def ended(process: subprocess.Popen[bytes]) -> SyncRun:
    """
    Wait until a command has ended. No bug may show, however it ends.
    """
    try:
        output, errors = process.communicate(timeout=RUN_TIMEOUT)
    except subprocess.TimeoutExpired:
        # What does not end says where it is: Python prints the stack of each thread.
        process.send_signal(signal.SIGABRT)
        output, errors = process.communicate()
        words = (output + errors).decode("utf-8", "backslashreplace")
        raise AssertionError(f"{process.args!r} does not end:\n{words}") from None
    _asked[_source(process.args)] = time.monotonic()
    done = SyncRun(process.returncode, output.decode(), errors.decode())
    for word in ("Traceback", "Unhandled", "Warning:"):
        assert word not in done.said, done
    return done


@contextmanager
def fresh_server(
    kind: str, folder: Path, shares: Mapping[str, Path]
) -> Iterator[Server]:
    """
    A server of one kind whose answers are never old: our own makes a manifest anew for
    each command of a `SyncAgent`.
    """
    # Without the real programs neither server has anyone to be compared with.
    peer_program("cf-serverd")
    if kind == "cf-serverd":
        with RealServer(WorkFolder(folder / "work"), shares) as real:
            yield real
    else:
        settings = config_for(shares, server=FRESH)
        with NodecommServer(folder, settings) as ours:
            yield ours


def leftovers(destination: Path) -> set[str]:
    """
    What lies beside a destination and is about it, the set before and the lock apart,
    which stay.
    """
    begin = f".{destination.name}.nodecomm-"
    kept = {begin + "previous", begin + "lock"}
    names = {entry.name for entry in destination.parent.iterdir()}
    return {name for name in names if name.startswith(begin)} - kept


def _program() -> str:
    return str(Path(sys.executable).with_name("nodecomm"))
