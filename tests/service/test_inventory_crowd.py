# SPDX-License-Identifier: MIT
"""
Many nodes send at once, and somebody holds connections: the others are served.

The variable NODECOMM_UPLOADS says how many uploads; 5000 take some minutes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from nodecomm.testing import key_pair
from tests.inventory.web import basic
from tests.ports import free_port
from tests.service.node import PATIENCE, Node, Server

# What is tried is what the system does; the interpreter's release makes no difference.
pytestmark = [pytest.mark.slow, pytest.mark.programs]

UPLOADS = int(os.environ.get("NODECOMM_UPLOADS", "60"))

#: Connections at a time; less than there are uploads.
CONNECTIONS = UPLOADS * 2 // 5

SERVER = """
[server]
listen = ["tcp:{port}:interface=127.0.0.1"]
allowed_networks = ["127.0.0.0/8"]
trustkeysfrom = ["127.0.0.1"]
state_dir = "{state}"
[inventory]
listen = ["tcp:{inventories}"]
connections = {connections}
waiting = {waiting}
min_free = 0
[[access]]
path = "{file}"
admit_keys = ["{key}"]
"""

CONTENT = b"<REQUEST/>" * 500


class Crowd:
    """
    Senders of one address, all at the same time, each until it has an answer that says
    that its file is stored.

    Attributes:
        said: How often there was which status; 0 for a connection that was closed.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.said: Counter[int] = Counter()
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE

    async def ask(self, *lines: str, body: bytes = b"", address: str) -> int:
        """The status of an answer."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.tls, local_addr=(address, 0)
        )
        try:
            head = "\r\n".join([*lines, "Host: a", "Connection: close", "", ""])
            writer.write(head.encode() + body)
            first = await reader.readline()
            return int(first.split()[1]) if first else 0
        finally:
            writer.transport.abort()

    async def send(self, number: int) -> None:
        """Send a file, again and again, as nodes do."""
        request = (
            f"PUT /inventories/{number}.ocs HTTP/1.1",
            f"Authorization: {basic('rudder')}",
            f"Content-Length: {len(CONTENT)}",
        )
        pause = 0.2
        while True:
            try:
                status = await self.ask(*request, body=CONTENT, address="127.0.0.1")
            except (OSError, ValueError):
                status = 0
            self.said[status] += 1
            if status in (201, 204):
                return
            await asyncio.sleep(pause * (1 + number % 7 / 7))
            pause = min(2 * pause, 5.0)

    async def look(self, sending: Sequence[asyncio.Task[None]]) -> list[float]:
        """The seconds that somebody else waits, again and again, while they send."""
        waited = []
        while not all(task.done() for task in sending):
            began = time.monotonic()
            status = await self.ask("GET /uuid HTTP/1.1", address="127.0.0.2")
            waited.append(time.monotonic() - began)
            assert status == 200
            await asyncio.sleep(0.2)
        return waited

    async def all(self) -> list[float]:
        """Everybody at once; how long others waited meanwhile."""
        sending = [asyncio.create_task(self.send(each)) for each in range(UPLOADS)]
        waited = await self.look(sending)
        await asyncio.gather(*sending)
        return waited


def test_many_at_once(tmp_path: Path) -> None:
    """
    More uploads at once than there may be connections, and as many connections that
    never send anything: everything that was acknowledged is there, once, while another
    address is answered and files are served.
    """
    port, inventories = free_port(), free_port()
    served = tmp_path / "file"
    served.write_bytes(b"content")
    config = tmp_path / "server.toml"
    config.write_text(
        SERVER.format(
            port=port,
            inventories=inventories,
            state=tmp_path / "state",
            connections=CONNECTIONS,
            # More than half of the places would be too many for one address.
            waiting=3 * UPLOADS,
            file=served,
            key=key_pair(1).public.md5,
        )
    )
    with Server(tmp_path, "-c", str(config)) as server:
        server.wait_for("taking inventories on")
        node = Node(port)
        idle = [socket.socket() for _ in range(CONNECTIONS)]
        for each in idle:
            each.bind(("127.0.0.3", 0))
            each.connect(("127.0.0.1", inventories))
        crowd = Crowd(inventories)
        waited = asyncio.run(asyncio.wait_for(crowd.all(), 10 * PATIENCE))
        assert node.stat(str(served).encode()).startswith(b"OK:")
        node.close()
        for each in idle:
            each.close()
        incoming = tmp_path / "state" / "inventories" / "incoming"
        stored = sorted(path.name.partition("~")[0] for path in incoming.iterdir())
        text = server.err.read_text() + server.out.read_text()

    print(f"answers {dict(crowd.said)}; others waited {max(waited):.2f} s at most")
    assert stored == sorted(f"{number}.ocs" for number in range(UPLOADS))
    assert set(crowd.said) <= {0, 201, 204, 503}
    assert "Traceback" not in text
