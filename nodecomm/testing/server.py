# SPDX-License-Identifier: MIT
"""
A server in memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, field
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.task import Clock

from nodecomm.access.compile import Resolved, compile_snapshot
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.config.errors import ConfigError
from nodecomm.config.structure import structure
from nodecomm.identity.trust import MemoryCounter, TrustPolicy, TrustWindow
from nodecomm.server.factory import ClassicFactory, PortFactory, TLSFactory
from nodecomm.server.pools import Workers
from nodecomm.testing.classic import MemoryClassicClient
from nodecomm.testing.client import MemoryClient
from nodecomm.testing.keys import MemoryKeyStore, key_pair
from nodecomm.transport.context import server_context

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nodecomm.access.snapshot import Snapshot
    from nodecomm.config.model import LimitSettings, Settings
    from nodecomm.identity.keys import KeyPair, PublicKey
    from nodecomm.server.execution.orders import IRunner

__all__ = ["MemoryServer", "memory_server", "snapshot_of"]

_Client = TypeVar("_Client")

#: Civil time at which tests begin: far from zero, and the same everywhere.
BEGIN = 1_700_000_000.0


def snapshot_of(settings: Settings, generation: int = 0) -> Snapshot:
    """
    The snapshot of *settings*, with paths resolved on this host.

    Raises:
        ConfigError: Something in them is wrong.
    """

    def resolve(path: bytes) -> Resolved | None:
        try:
            real = os.path.realpath(path, strict=True)
        except OSError:
            return None
        return Resolved(real, os.path.isdir(real))

    snapshot, problems = compile_snapshot(
        settings, resolve=resolve, generation=generation
    )
    errors = [problem for problem in problems if problem.is_error]
    if errors:
        raise ConfigError(errors)
    return snapshot


def settings_of(tree: dict[str, Any]) -> Settings:
    """
    Settings from a tree of tables, as a TOML file gives it.

    Raises:
        ConfigError: Something in it is wrong.
    """
    settings, problems = structure(tree)
    if settings is None:
        raise ConfigError(problems)
    return settings


@define(eq=False)
class MemoryServer:
    """
    A factory, its clock, and connections to it.

    Attributes:
        factory: The server's factory for TLS.
        port: That and the one for the classic protocol, on one port.
        clock: Timers, and the monotonic clock; `clock.advance` moves it.
        now: Civil time in seconds; a test may set it.
        store: The trusted keys.
    """

    clock: Clock
    store: MemoryKeyStore
    factory: TLSFactory = field(init=False)
    port: PortFactory = field(init=False)
    now: float = BEGIN
    _port: int = 40_000

    def connect(
        self,
        address: str = "127.0.0.1",
        *,
        key: KeyPair | None = None,
        user: bytes = b"root",
        version: int = 3,
    ) -> MemoryClient:
        """
        A client that has been welcomed.

        Raises:
            ConnectionError: It was not.
        """
        client = self.dial(address, key=key, user=user)
        if client is None or not client.identify(version):
            raise ConnectionError(f"the server did not welcome {user!r} at {address}")
        return client

    def dial(
        self,
        address: str = "127.0.0.1",
        *,
        key: KeyPair | None = None,
        user: bytes = b"root",
    ) -> MemoryClient | None:
        """
        A client whose connection was accepted, and nothing more; None: it was not.
        """
        return self._dial(MemoryClient, address, key, user)

    def connect_classic(
        self,
        address: str = "127.0.0.1",
        *,
        key: KeyPair | None = None,
        user: bytes = b"root",
        stranger: bool = False,
    ) -> MemoryClassicClient:
        """
        A client of the classic protocol that may ask. The address must be in
        `allowlegacyconnects`.

        Args:
            stranger: Whether the client does not know the server's key.

        Raises:
            ConnectionError: The server does not let it in.
        """
        client = self.dial_classic(address, key=key, user=user)
        if client is None or not client.identify(None if stranger else self.public):
            raise ConnectionError(f"the server did not accept {user!r} at {address}")
        return client

    def dial_classic(
        self,
        address: str = "127.0.0.1",
        *,
        key: KeyPair | None = None,
        user: bytes = b"root",
    ) -> MemoryClassicClient | None:
        """
        As `dial`, for the classic protocol.
        """
        return self._dial(MemoryClassicClient, address, key, user)

    @property
    def public(self) -> PublicKey:
        """The server's public key."""
        classic = self.port.classic
        if classic is None:
            raise RuntimeError("the port serves TLS alone")
        return classic.key.public

    def _dial(
        self,
        make: Callable[..., _Client],
        address: str,
        key: KeyPair | None,
        user: bytes,
    ) -> _Client | None:
        self._port += 1
        kind = IPv6Address if ":" in address else IPv4Address
        where = kind("TCP", address, self._port)
        protocol = self.port.buildProtocol(where)
        if protocol is None:
            return None
        return make(
            protocol,
            where,
            self.clock,
            key_pair(1) if key is None else key,
            user,
            now=lambda: self.now,
        )

    def sweep(self, seconds: float) -> None:
        """
        Let time pass, in steps that no timer can miss.
        """
        whole, rest = divmod(seconds, 1.0)
        for step in [1.0] * int(whole) + [rest]:
            self.now += step
            self.clock.advance(step)


def memory_server(
    *access: dict[str, Any],
    trust: bool = True,
    limits: LimitSettings | None = None,
    server: dict[str, Any] | None = None,
    key: KeyPair | None = None,
    roles: Sequence[dict[str, Any]] = (),
    execution: IRunner | None = None,
    **factory: Any,
) -> MemoryServer:
    """
    A server whose sessions run in memory.

    Args:
        access: Access rules, as the tables of a configuration file.
        trust: Whether unknown keys of `root` are trusted on first use.
        limits: `[limits]`.
        server: `[server]`; by default every address may connect as often as it
            likes.
        key: The server's own key.
        roles: Each of `[[roles]]`.
        execution: Runs what `cfruncommand` in *server* names, such as a
            `MemoryRunner`.
        factory: More for the factory.
    """
    clock = Clock()
    made = MemoryServer(clock, MemoryKeyStore())
    tables = {"allowallconnects": ["0.0.0.0/0", "::/0"], **(server or {})}
    tree = {"server": tables, "access": list(access), "roles": list(roles)}
    snapshot = snapshot_of(settings_of(tree))
    windows = [TrustWindow(lambda address: True, "everyone")] if trust else []
    own = key_pair(0) if key is None else key
    arguments: dict[str, Any] = {
        "context": server_context(own),
        "trust": TrustPolicy(
            made.store, windows, ["root"], MemoryCounter(), lambda: made.now
        ),
        "evaluator": AccessEvaluator(snapshot),
        "limits": limits,
        "workers": Workers.inline(),
        "now": lambda: made.now,
        "monotonic": clock.seconds,
        **factory,
    }
    made.factory = TLSFactory(clock, **arguments)
    made.factory.serving.execution = execution
    made.port = PortFactory(made.factory, ClassicFactory.beside(made.factory, own))
    made.port.doStart()
    return made
