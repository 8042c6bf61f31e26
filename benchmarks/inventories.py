# SPDX-License-Identifier: MIT
"""
Inventories per second, and the CPU of each step on their way: the row of our server
alone, for cf-serverd takes none.

Each node sends a document of some 180 KB, compressed, and its signature, as nodes do:
two uploads over HTTPS. It counts when it has been verified and is in the database.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import itertools
import os
import shutil
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.errors import BenchmarkError
from benchmarks.processes import cpu_of, memory_bytes
from benchmarks.report import summary
from benchmarks.servers import find_twistd, free_port
from nodecomm.identity.keys import KeyPair
from nodecomm.inventory.document import read_document
from nodecomm.inventory.failures import read_failed
from nodecomm.inventory.limits import DocumentLimits, uncompress
from nodecomm.inventory.node_sqlite import open_nodes
from nodecomm.inventory.nodes import KeptDocument
from nodecomm.inventory.records import put_document, read_files
from nodecomm.inventory.signature import read_signature, sign, verify
from tests.inventory.documents import agent, certificate, document, element, rudder

Json = dict[str, Any]

#: Bytes of a document, roughly: those of nodes have 45 to 465 KB.
SIZE = 180_000

#: Threads that send, each on a connection that stays open.
SENDERS = 8

_PASSWORD = base64.b64encode(b"rudder:benchmark").decode()

#: Seconds until a server answers, and until everything is decided about.
_START_PATIENCE = 60.0
_PATIENCE = 300.0

_CONFIGURATION = """\
[server]
listen = ["tcp:{copies}:interface=127.0.0.1"]
state_dir = "{state}"
allowed_networks = ["127.0.0.1"]
[inventory]
listen = ["tcp:{port}:interface=127.0.0.1"]
first_password = "benchmark"
{more}
"""


class InventoryRow(NamedTuple):
    """
    Something that is measured.

    Attributes:
        name: What `--rows` calls it.
        title: What the report calls it.
        nodes: How many nodes send.
        more: Lines of `[inventory]`.
    """

    name: str
    title: str
    nodes: int = 100
    more: str = ""


INVENTORY_ROWS = (InventoryRow("inventory", "inventories, SQLite"),)


class InventoryRound(NamedTuple):
    """
    What one round took: each node has sent one inventory.

    Attributes:
        per_second: Inventories that are in the database, in a second.
        upload: Seconds from the first byte to the last answer.
        cpu: The server's CPU seconds for one.
        memory: The server's memory, in bytes.
    """

    per_second: float
    upload: float
    cpu: float
    memory: int


class InventoryFigures:
    """
    All rounds of a row.

    Args:
        row: What was measured.
        rounds: What each took; the first one is that of new nodes.
        steps: CPU seconds of each step of one inventory.
    """

    def __init__(
        self, row: InventoryRow, rounds: list[InventoryRound], steps: dict[str, float]
    ) -> None:
        self.row = row
        self.rounds = rounds
        self.steps = steps

    def _median(self, what: str) -> float:
        values: list[float] = [getattr(each, what) for each in self.rounds]
        return statistics.median(values)

    def lines(self) -> Iterator[str]:
        """Return the figures as lines of the table."""
        yield _LINE.format(
            self.row.title,
            f"{self._median('per_second'):.1f}",
            f"{self._median('cpu') * 1e3:.1f}",
            f"{self._median('memory') / 1e6:.0f}",
        ).rstrip()
        rest = self._median("cpu")
        for step, seconds in self.steps.items():
            rest -= seconds
            yield _LINE.format(f"  {step}", "", f"{seconds * 1e3:.1f}", "").rstrip()
        yield _LINE.format("  uploads, and all else", "", f"{rest * 1e3:.1f}", "")

    def to_json(self) -> Json:
        """Return the figures as JSON values."""
        found = {
            what: summary([getattr(each, what) for each in self.rounds])
            for what in InventoryRound._fields
        }
        return {"name": self.row.name, "title": self.row.title, "steps": self.steps} | (
            found
        )


_LINE = "{:<43}{:>12}{:>12}{:>8}"


def inventory_heading() -> str:
    """Return the heading of the table."""
    return _LINE.format("inventories", "per second", "CPU ms each", "MB")


class _Node:
    """
    A node with a key of its own.
    """

    def __init__(self, number: int) -> None:
        self.node_id = f"b9a71482-5030-4699-984d-{number:012d}"
        self.pair = KeyPair.generate(2048)
        self._certificate = certificate(self.pair, self.node_id)
        self._software = "".join(
            element(
                "SOFTWARES",
                element("NAME", f"package-{number}-{count}"),
                element("VERSION", f"1.{count}.0-{count % 7}+deb12u{count % 5}"),
                element("PUBLISHER", "Some Maintainers, team@example.org"),
                element("COMMENTS", f"it does what {count * 7919 % 104729} needs"),
                element("FROM", "deb"),
            )
            for count in range(SIZE // 205)
        )

    def made(self, when: datetime) -> tuple[bytes, bytes]:
        """A document, and its signature."""
        own = agent(certificate=self._certificate)
        about = rudder(own, node_id=self.node_id, hostname=f"{self.node_id}.example")
        data = document(about, self._software, written=when)
        return data, sign(data, self.pair)


class InventoryBench:
    """
    A run of the rows of inventories.

    Args:
        folder: Where all is put.
        twistd: The twistd that runs our server.
        note: Told what is going on.
    """

    def __init__(
        self, folder: Path, twistd: str | None, note: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._twistd = twistd or find_twistd()
        self._note = note
        self._numbers = itertools.count()

    def measure(self, row: InventoryRow, nodes: int, rounds: int) -> InventoryFigures:
        """
        Let *nodes* nodes send one inventory each in each round.

        Raises:
            BenchmarkError: Something was refused, or took too long.
        """
        folder = self._folder / f"inventories-{next(self._numbers)}"
        folder.mkdir(parents=True)
        senders = [_Node(number) for number in range(nodes)]
        began = datetime.now(timezone.utc) - timedelta(hours=1)
        measured = []
        with _server(folder, self._twistd, row.more) as (pid, port):
            for number in range(rounds):
                made = [node.made(began + number * _MINUTE) for node in senders]
                files = [
                    (node.node_id, gzip.compress(data), signature)
                    for node, (data, signature) in zip(senders, made, strict=True)
                ]
                measured.append(_round(folder, pid, port, files))
                self._note(f"{row.name} {measured[-1]}")
        steps = _steps(folder, senders, began + rounds * _MINUTE)
        return InventoryFigures(row, measured, steps)


_MINUTE = timedelta(minutes=1)


@contextmanager
def _server(folder: Path, twistd: str, more: str) -> Iterator[tuple[int, int]]:
    """A server, while it runs: its process and its port for inventories."""
    port = free_port()
    state = folder / "state"
    configuration = folder / "server.toml"
    configuration.write_text(
        _CONFIGURATION.format(copies=free_port(), port=port, state=state, more=more)
    )
    log = folder / "output.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *(twistd, "-n", f"--pidfile={folder}/twistd.pid"),
                *("nodecomm-server", "-c", str(configuration)),
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        end = time.monotonic() + _START_PATIENCE
        while not _answers(port):
            if time.monotonic() > end or process.poll() is not None:
                raise BenchmarkError(
                    "the server takes no inventories. Its last words:\n"
                    + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                )
            time.sleep(0.1)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


def _connect(port: int) -> http.client.HTTPSConnection:
    context = ssl.create_default_context()
    # As nodes of Rudder 4.0 do; it is one handshake for many files here.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)


def _answers(port: int) -> bool:
    try:
        connection = _connect(port)
        connection.request("GET", "/uuid")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def _round(
    folder: Path, pid: int, port: int, files: Sequence[tuple[str, bytes, bytes]]
) -> InventoryRound:
    """Send everything, and wait until all of it is decided about."""
    spool = folder / "state" / "inventories"
    waiting = iter(files)
    lock = threading.Lock()
    mistakes: list[str] = []

    def send() -> None:
        connection = _connect(port)
        headers = {"Authorization": f"Basic {_PASSWORD}"}
        while True:
            with lock:
                found = next(waiting, None)
            if found is None:
                return
            name, data, signature = found
            for path, content in (
                (f"{name}.ocs.gz", data),
                (f"{name}.ocs.sign", signature),
            ):
                connection.request("PUT", f"/inventories/{path}", content, headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 201:
                    mistakes.append(f"{path}: {answer.status}")

    upload = seconds = 0.0

    def work() -> None:
        nonlocal upload, seconds
        began = time.monotonic()
        threads = [threading.Thread(target=send) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        upload = time.monotonic() - began
        while os.listdir(spool / "ready") or os.listdir(spool / "incoming"):
            if time.monotonic() - began > _PATIENCE:
                raise BenchmarkError("inventories are not decided about in time")
            time.sleep(0.002)
        seconds = time.monotonic() - began

    cpu = cpu_of(pid, work)
    mistakes += [str(each.refusal) for each in read_failed(spool)]
    if mistakes:
        raise BenchmarkError(f"inventories were refused: {mistakes[:3]}")
    count = len(files)
    return InventoryRound(count / seconds, upload, cpu / count, memory_bytes(pid))


def _steps(folder: Path, nodes: Sequence[_Node], when: datetime) -> dict[str, float]:
    """
    CPU seconds of each step, the mean of all nodes; in this process, one after the
    other, with the database that the server has left.
    """
    spent: dict[str, float] = {}
    database = folder / "steps.sqlite"
    shutil.copy(folder / "state" / "nodes.sqlite", database)

    def step(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began = time.thread_time()
        result = work(*arguments)
        spent[name] = spent.get(name, 0.0) + time.thread_time() - began
        return result

    limits = DocumentLimits()
    with open_nodes(database) as run:
        for node in nodes:
            data, signature = node.made(when)
            packed = gzip.compress(data)
            step("gunzip", uncompress, packed, limits)
            step("parse", read_document, data)
            read = read_signature(signature)
            step("verify", verify, data, read, node.pair.public)
            step("compress again, to keep", KeptDocument.of, data, signature)
            found = read_files(data, signature)
            put = partial(put_document, read=found, now=when + _MINUTE)
            step("judge and store", run, put, True)
    # Verifying is a part of judging.
    spent["judge and store"] -= spent["verify"]
    return {name: seconds / len(nodes) for name, seconds in spent.items()}
