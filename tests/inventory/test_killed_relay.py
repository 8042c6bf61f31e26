# SPDX-License-Identifier: MIT
"""
A relay that is killed, again and again, and a server above it that is killed, too:
every inventory that the relay acknowledged is decided about in the end.

The variable NODECOMM_KILLS says how often.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from operator import methodcaller
from pathlib import Path

import pytest

from nodecomm.inventory.failures import read_failed
from nodecomm.inventory.node_sqlite import open_nodes
from tests.identity.sample import pair
from tests.interop.machine import wait_until
from tests.inventory.test_killed import LIFE, NOW, ROOT, SENDERS, Nodes, end_all
from tests.service.node import PATIENCE

# What is tried is what the system does; the interpreter's release makes no difference.
pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("NODECOMM_KILLS", "2"))


def start(module: str, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """A program of these tests, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.inventory.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        return process, int(process.stdout.readline())


def kill(process: subprocess.Popen[str]) -> None:
    """End it in the middle of whatever it does."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed(tmp_path: Path) -> None:
    """
    Whatever the relay acknowledged is above in the end: whole, with its signature,
    decided about once, and nothing was put aside.
    """
    # Made here: each thread would make its own.
    pair()
    senders = [Nodes(number) for number in range(SENDERS)]
    # Fixed, so that a failure can be seen again.
    choice = random.Random(20261122)
    folder = str(tmp_path)
    above, port = start("killed_server", folder, NOW.isoformat())
    for turn in range(KILLS + 1):
        (tmp_path / "above").write_text(str(port))
        relay, relay_port = start("killed_relay", folder)
        for sender in senders:
            sender.port = relay_port
            if turn == 0:
                sender.start()
        if turn < KILLS:
            time.sleep(choice.randrange(LIFE) / 1000)
            if turn % 2:
                kill(above)
                kill(relay)
                above, port = start("killed_server", folder, NOW.isoformat())
            else:
                kill(relay)
    end_all(senders)
    left = [tmp_path / "relay" / "outgoing", tmp_path / "spool" / "ready"]
    # What took too long is sent again after a pause.
    wait_until(
        lambda: not any(any(each.iterdir()) for each in left),
        "the decisions",
        5 * PATIENCE,
    )
    kill(relay)
    kill(above)

    sent = {node: pair for sender in senders for node, pair in sender.sent.items()}
    assert sent
    assert read_failed(tmp_path / "relay") == []
    assert read_failed(tmp_path / "spool") == []
    with open_nodes(tmp_path / "nodes.sqlite") as run:
        for node, files in sent.items():
            kept = run(methodcaller("document", node), False)
            assert kept is not None, node
            assert (kept.document, kept.signature) == files
            events = run(methodcaller("events", node), False)
            assert [event.what for event in events].count("pending") == 1
