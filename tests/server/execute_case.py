# SPDX-License-Identifier: MIT
"""
A server that runs a command when it is asked to; the runs are made up by the tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.testing import (
    MemoryClassicClient,
    MemoryClient,
    MemoryRun,
    MemoryRunner,
    MemoryServer,
    key_pair,
    memory_server,
)
from nodecomm.wire.framing import encode_transaction

#: What ends a request, and with a NUL an answer.
TERMINATOR = b"---cfXen/gine/cfXen/gine---"
END = TERMINATOR + b"\0"

REFUSED = [b"BAD: Unspecified server refusal (see verbose server output)", END]

VERSIONS = (1, 2, 3)

Node = MemoryClient | MemoryClassicClient


def frames(*payloads: bytes) -> bytes:
    """Each payload in a frame."""
    return b"".join(map(encode_transaction, payloads))


class ExecuteTestCase(SynchronousTestCase):
    """
    `root` may have the program run, with classes `ok...` and bundles `good...`.
    """

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir(parents=True)
        self.program = self.root / "agent"
        self.program.write_bytes(b"")
        self.runner = MemoryRunner((b"any", b"linux"))
        self.server = self.make_server()
        self.events: list[dict[str, Any]] = []
        observer = cast("ILogObserver", self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def rules(self) -> list[dict[str, Any]]:
        """The rules."""
        here = ["127.0.0.1"]
        bundles = {"resource_type": "bundle", "admit_ips": here}
        return [
            {"path": str(self.program), "admit_ips": here, "ifencrypted": True},
            {"path": "good.*", **bundles},
            {"path": "goodbye", "deny_ips": here, **bundles},
        ]

    def make_server(
        self,
        *,
        rules: list[dict[str, Any]] | None = None,
        server: dict[str, Any] | None = None,
        roles: list[dict[str, Any]] | None = None,
        **more: Any,
    ) -> MemoryServer:
        """Another server, which differs in these things."""
        if roles is None:
            roles = [{"pattern": "ok.*", "authorize": ["root"]}]
        tables = {
            "cfruncommand": [str(self.program), "-K"],
            "allowusers": ["root"],
            "allowlegacyconnects": ["127.0.0.1"],
            **(server or {}),
        }
        made = memory_server(
            *(self.rules() if rules is None else rules),
            server=tables,
            roles=roles,
            **{"execution": self.runner, **more},
        )
        made.store.add("bob", key_pair(2).public)
        return made

    def node(
        self, version: int = 3, *, server: MemoryServer | None = None, user: str = ""
    ) -> Node:
        """A node that may ask, as *user*."""
        server = self.server if server is None else server
        more: dict[str, Any] = {}
        if user:
            more = {"key": key_pair(2), "user": user.encode()}
        if version == 1:
            return server.connect_classic(**more)
        return server.connect(version=version, **more)

    def heard(self, node: Node, *requests: bytes) -> list[bytes]:
        """What the node has received by now, after these requests."""
        if requests:
            return node.request(*requests)
        node.pump()
        return node.transactions()

    @property
    def last(self) -> MemoryRun:
        """The run that was asked for last."""
        return self.runner.runs[-1]

    def told(self, event: str) -> list[dict[str, Any]]:
        """The events of this name."""
        return [each for each in self.events if each.get("event") == event]
