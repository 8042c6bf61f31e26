# SPDX-License-Identifier: MIT
"""
A server with a folder, and a node that copies it, in one process without a network.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from attrs import define, field
from twisted.internet.defer import Deferred

from nodecomm.client.address import ServerAddress
from nodecomm.client.classic_dialing import ClassicDialer
from nodecomm.client.dialing import Dialer
from nodecomm.client.memory import ServerMemory
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.servers import ServerDecision
from nodecomm.server.pools import InlinePool
from nodecomm.sync.clocks import Moment
from nodecomm.sync.model import SyncRequest, SyncResult
from nodecomm.sync.syncing import Dialing, Syncer
from nodecomm.testing import MemoryNetwork, MemoryServer, key_pair, memory_server
from nodecomm.transport.context import client_context

HUB = ServerAddress("hub")

#: TLS, or the classic protocol, plain or encrypted.
Protocol = Literal["tls", "plain", "encrypted"]

#: The client's half of TLS is dear to make.
_CONTEXT = client_context(key_pair(1))


class Trusting:
    """
    Everybody is who we mean.

    Args:
        known: The keys that are known.
    """

    def __init__(self, *known: PublicKey) -> None:
        self._known = known

    def check(self, server: str, key: PublicKey) -> ServerDecision:
        """Yes."""
        return ServerDecision(True, "pinned", "trusted")

    def candidates(self, server: str) -> tuple[PublicKey, ...]:
        """Those that are known."""
        return self._known


@define(eq=False)
class Hub:
    """
    Both sides.

    Attributes:
        root: A folder for everything.
        source: What the server has.
        dest: What the node makes of it.
        server: The server.
        network: Between the two.
        protocol: What the node speaks; it may be changed before `new_syncer`.
    """

    root: Path
    latency: float = 0.0
    options: dict[str, Any] = field(factory=dict)
    protocol: Protocol = "tls"
    source: Path = field(init=False)
    dest: Path = field(init=False)
    server: MemoryServer = field(init=False)
    network: MemoryNetwork = field(init=False)
    memory: ServerMemory = field(init=False)
    syncer: Syncer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.source = self.root / "source"
        self.source.mkdir()
        self.dest = self.root / "node" / "inputs"
        self.dest.parent.mkdir()
        self.server = memory_server(
            {
                "path": str(self.source),
                "shortcut": "masterfiles",
                "admit_ips": ["127.0.0.1"],
            },
            server={"allowlegacyconnects": ["0.0.0.0/0"]},
            **self.options,
        )
        self.network = MemoryNetwork(self.server.clock, latency=self.latency)
        self.network.listen(HUB, self.server.port)
        self.memory = ServerMemory(self.root / "memory.json")
        self.syncer = self.new_syncer()

    def steady(self) -> Moment:
        """The clock of the network."""
        return Moment("boot", int(self.network.clock.seconds() * 1e9))

    def new_syncer(self) -> Syncer:
        """As after a new start of the node's program."""
        clock = self.network.clock
        common: dict[str, Any] = {
            "trust": Trusting(self.server.public),
            "user": b"root",
            "endpoint_for": self.network.endpoint_for,
            "now": lambda: self.server.now,
            "monotonic": clock.seconds,
        }
        dialer: Dialing
        if self.protocol == "tls":
            dialer = Dialer(clock, context=_CONTEXT, memory=self.memory, **common)
        else:
            dialer = ClassicDialer(
                clock,
                key=key_pair(1),
                encrypt=self.protocol == "encrypted",
                **common,
            )
        self.syncer = Syncer(
            dialer,
            HUB,
            state_dir=self.root / "state",
            pool=InlinePool(),
            clock=clock,
            now=lambda: self.server.now,
            monotonic=clock.seconds,
            steady=self.steady,
        )
        return self.syncer

    def write(self, name: str, content: bytes, mode: int = 0o644) -> Path:
        """A file on the server."""
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def request(self, **more: Any) -> SyncRequest:
        """What is wanted."""
        values: dict[str, Any] = {
            "source": os.fsencode(self.source),
            "destination": os.fsencode(self.dest),
            **more,
        }
        return SyncRequest(**values)

    def start(self, watch: Any = None, before: Any = None, **more: Any) -> Any:
        """Begin a run."""
        running: Deferred[SyncResult] = self.syncer.run(
            self.request(**more), watch, before
        )
        return running

    def run(self, **more: Any) -> SyncResult:
        """A run that succeeds, on a connection of its own."""
        result: SyncResult = self.network.result_of(self.start(**more))
        self.network.result_of(self.syncer.close())
        return result

    def fail(self, **more: Any) -> Any:
        """The error of a run that fails."""
        error = self.network.failure_of(self.start(**more))
        self.network.result_of(self.syncer.close())
        return error

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.server.now += seconds
        self.network.advance(seconds)

    def tree(self, root: Path | None = None) -> dict[str, Any]:
        """Everything below a folder: content and mode."""
        root = self.dest if root is None else root
        found: dict[str, Any] = {}
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.is_dir():
                found[name] = (path.stat().st_mode & 0o7777, None)
            else:
                found[name] = (path.stat().st_mode & 0o7777, path.read_bytes())
        return found

    def leftovers(self) -> list[str]:
        """What stands beside the destination."""
        return sorted(
            name for name in os.listdir(self.dest.parent) if name != self.dest.name
        )


#: What makes the server look and behave like one of upstream's.
PLAIN = {"product": b"cf-serverd 3.21.0", "manifest_max_age": 0.0}


def make_hub(
    add_cleanup: Callable[..., object],
    latency: float = 0.0,
    protocol: Protocol = "tls",
    **options: Any,
) -> Hub:
    """
    A hub that is gone after the test, without manifests unless they are asked for.
    """
    if options.pop("manifests", False):
        options.setdefault("manifest_max_age", 1e-6)
    else:
        options = {**PLAIN, **options}
    root = Path(tempfile.mkdtemp())
    add_cleanup(shutil.rmtree, root)
    return Hub(root, latency, options, protocol)
