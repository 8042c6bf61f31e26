# SPDX-License-Identifier: MIT
"""
A server that is killed, again and again, has every inventory that it acknowledged.

The variable NODECOMM_KILLS says how often; 200 take some three minutes.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from functools import partial
from operator import methodcaller
from pathlib import Path

import pytest

from nodecomm.inventory.failures import read_failed
from nodecomm.inventory.node_sqlite import open_nodes
from nodecomm.inventory.signature import sign
from tests.identity.sample import pair
from tests.interop.machine import wait_until
from tests.inventory.documents import WRITTEN, node_document
from tests.inventory.web import basic
from tests.service.node import PATIENCE

# What is tried is what the system does; the interpreter's release makes no difference.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

NOW = WRITTEN + timedelta(minutes=1)

#: How often it is killed, and how many nodes send all the time.
KILLS = int(os.environ.get("NODECOMM_KILLS", "3"))
SENDERS = 3

#: Milliseconds for which a server lives, at the most.
LIFE = 300


class Nodes(threading.Thread):
    """
    Sends inventories of one node after the other, until it is told to end.

    Attributes:
        sent: What was acknowledged whole, by node.
    """

    def __init__(self, number: int) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.port = 0
        self.ended = False
        self.sent: dict[str, tuple[bytes, bytes]] = {}

    def run(self) -> None:
        """Send."""
        count = 0
        while not self.ended:
            count += 1
            node = f"node-{self.number}-{count}"
            document = node_document(pair(), node_id=node)
            signature = sign(document, pair())
            if self.put(f"{node}.ocs", document) and self.put(
                f"{node}.ocs.sign", signature
            ):
                self.sent[node] = document, signature

    def put(self, name: str, data: bytes) -> bool:
        """Put a file, again and again until somebody has it, as nodes do."""
        headers = {"Authorization": basic("rudder")}
        while not self.ended:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("PUT", f"/inventories/{name}", data, headers)
                if connection.getresponse().status in (201, 204):
                    return True
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)
            finally:
                connection.close()
        return False


def start(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A server on the folder, and its port."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.inventory.killed_server"),
            *(str(folder), NOW.isoformat()),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        return process, int(process.stdout.readline())


def end_all(senders: list[Nodes]) -> None:
    """Once each of them has sent something, however slow the machine is."""
    for sender in senders:
        wait_until(partial(bool, sender.sent), "something sent", PATIENCE)
    for sender in senders:
        sender.ended = True
    for sender in senders:
        sender.join()


def test_killed(tmp_path: Path) -> None:
    """
    Whatever was acknowledged is there in the end: whole, with its signature, once, and
    nothing was put aside.
    """
    # Made here: each thread would make its own.
    pair()
    senders = [Nodes(number) for number in range(SENDERS)]
    # Fixed, so that a failure can be seen again.
    choice = random.Random(20261122)
    for turn in range(KILLS + 1):
        process, port = start(tmp_path)
        for sender in senders:
            sender.port = port
            if turn == 0:
                sender.start()
        if turn < KILLS:
            time.sleep(choice.randrange(LIFE) / 1000)
            process.send_signal(signal.SIGKILL)
            process.wait()
    end_all(senders)
    ready = tmp_path / "spool" / "ready"
    wait_until(lambda: not any(ready.iterdir()), "the decisions", PATIENCE)
    process.kill()
    process.wait()

    sent = {node: pair for sender in senders for node, pair in sender.sent.items()}
    assert sent
    assert read_failed(tmp_path / "spool") == []
    with open_nodes(tmp_path / "nodes.sqlite") as run:
        for node, files in sent.items():
            kept = run(methodcaller("document", node), False)
            assert kept is not None, node
            assert (kept.document, kept.signature) == files
            events = run(methodcaller("events", node), False)
            assert [event.what for event in events].count("pending") == 1
