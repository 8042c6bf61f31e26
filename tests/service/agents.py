# SPDX-License-Identifier: MIT
"""
An agent without a network: its servers are scripts, its clock is a fake.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock

from nodecomm.client.address import ServerAddress
from nodecomm.identity.keys import KeyPair
from nodecomm.identity.own import KEYS_FOLDER, create_own_key
from nodecomm.server.pools import InlinePool, Pool, Workers
from nodecomm.service.agent_prepared import PreparedAgent, prepare_agent
from nodecomm.service.agent_run import Source
from nodecomm.service.agent_service import AgentService
from nodecomm.service.loading import LoadedAgent, load_agent
from nodecomm.sync.clocks import Moment, SteadyClock
from nodecomm.sync.model import Change, SyncRequest, SyncResult
from nodecomm.sync.staging import Commit
from nodecomm.testing import key_pair


def result(changed: bool = False, **more: Any) -> SyncResult:
    """What comes of an update."""
    facts: dict[str, Any] = {
        "checked": 3,
        "fetched": 1 if changed else 0,
        "removed": 0,
        "bytes_received": 100,
        "bytes_fetched": 10,
        "round_trips": 4,
        "connections": 1,
        "seconds": 0.5,
        "changes": (Change(b"a.cf", "updated"),) if changed else (),
    }
    return SyncResult(changed=changed, **{**facts, **more})


#: What a server does with a request: a result, an error, or something that comes later.
Answer = SyncResult | Exception | Deferred[SyncResult]


@define
class FakeServers:
    """
    Servers by name, each a function from a request to an answer.

    Attributes:
        asked: Server and source of each request.
        closed: Servers whose connection was closed.
        commits: What a changing answer says to `before_commit`.
    """

    answers: dict[str, Callable[[SyncRequest], Answer]]
    asked: list[tuple[str, str]] = field(factory=list)
    closed: list[str] = field(factory=list)
    commit: Commit = field(factory=lambda: Commit(None))

    def open(
        self, prepared: PreparedAgent, pair: KeyPair, pool: Pool
    ) -> Callable[[ServerAddress], Source]:
        """As `Sources`."""
        return lambda server: _Fake(self, str(server))

    def server_key(self, server: ServerAddress) -> str:
        """As `Sources`."""
        return f"MD5=of-{server.host}"


@define
class _Fake:
    servers: FakeServers
    name: str

    def run(
        self,
        request: SyncRequest,
        watch: None = None,
        before_commit: Callable[[Any], None] | None = None,
    ) -> Awaitable[SyncResult]:
        """As `Source`."""
        self.servers.asked.append((self.name, request.source.decode()))
        answer = self.servers.answers[self.name](request)
        if isinstance(answer, Exception):
            return fail(answer)
        if isinstance(answer, Deferred):
            return answer
        if answer.changed and before_commit is not None:
            before_commit(self.servers.commit)
        return succeed(answer)

    def close(self) -> Awaitable[None]:
        """As `Source`."""
        self.servers.closed.append(self.name)
        return succeed(None)


class SteadyFake(SteadyClock):
    """
    A steady clock that follows a fake one.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def __call__(self) -> Moment:
        """The present moment."""
        return Moment("boot", round(self._clock.seconds() * 1e9))


@define(eq=False)
class FakePort:
    """
    A port that nobody but a test connects to.
    """

    reactor: Reactor
    number: int
    factory: Any

    def getHost(self) -> IPv4Address:
        """Where it listens."""
        return IPv4Address("TCP", "0.0.0.0", self.number)

    def stopListening(self) -> Deferred[None]:
        """No longer."""
        del self.reactor.ports[self.number]
        self.factory.doStop()
        return succeed(None)


class Reactor(Clock):
    """
    A fake clock with what else a service asks of a reactor.

    Attributes:
        ports: What listens, by number.
        taken: Ports that others have.
    """

    stopped = False

    def __init__(self) -> None:
        super().__init__()
        self.ports: dict[int, FakePort] = {}
        self.taken: set[int] = set()

    def listenTCP(
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> FakePort:
        """Listen, where nobody does."""
        if port in self.taken or port in self.ports:
            busy = OSError(errno.EADDRINUSE, "Address already in use")
            raise CannotListenError(interface, port, busy)
        factory.doStart()
        self.ports[port] = FakePort(self, port, factory)
        return self.ports[port]

    def callFromThread(self, function: Callable[..., object], *args: Any) -> None:
        """At once."""
        function(*args)

    def stop(self) -> None:
        """The program would end."""
        self.stopped = True


AGENT = """
[agent]
policy_servers = ["a", "b"]
interval = "5m"
trust_server = true
"""

COPY = """
[[copy]]
source = "{0}"
destination = "/srv/{0}"
"""


class FakeAgent:
    """
    An agent whose own files are in *folder*.
    """

    def __init__(
        self,
        folder: Path,
        servers: dict[str, Callable[[SyncRequest], Answer]],
        *,
        copies: Sequence[str] = ("masterfiles",),
        more: str = "",
        key: int = 1,
        ways: Any = None,
        civil: float = 1_700_000_000.0,
    ) -> None:
        self.folder = folder
        self.ways = ways
        self.file = folder / "agent.toml"
        self.reactor = Reactor()
        self.civil = civil
        self.servers = FakeServers(servers)
        self.write(AGENT + more + "".join(COPY.format(name) for name in copies))
        state = folder / "state"
        keys = state / KEYS_FOLDER
        if not keys.exists():
            create_own_key(os.fspath(keys), key_pair(key))
        self.start()

    def write(self, text: str) -> None:
        """Write the configuration."""
        self.file.write_text(text)

    def read(self) -> tuple[PreparedAgent | None, LoadedAgent]:
        """Read the configuration."""
        state = self.folder / "state"
        return prepare_agent(load_agent(self.file, state_dir=state, environ={}))

    def start(self) -> None:
        """Start, or start again, as a new process would."""
        prepared, loaded = self.read()
        assert prepared is not None, loaded.problems
        self.service = AgentService(
            prepared,
            reactor=self.reactor,
            reread=self.read,
            sources=self.servers,
            ways=None if self.ways is None else lambda *about: self.ways,
            now=lambda: self.civil + self.reactor.seconds(),
            monotonic=self.reactor.seconds,
            steady=SteadyFake(self.reactor),
            chance=lambda: 0.5,
            pool=InlinePool(),
            workers=Workers.inline(),
        )
        self.service.startService()

    @property
    def asked(self) -> list[tuple[str, str]]:
        """What was asked of which server since the last look."""
        asked = list(self.servers.asked)
        self.servers.asked.clear()
        return asked

    def kill(self) -> None:
        """End it as kill -9 does: nothing is written, only the lock is gone."""
        lock = self.service._lock
        assert lock is not None
        os.close(lock._descriptor)
        self.service._living = None
        for call in self.reactor.getDelayedCalls():
            call.cancel()
