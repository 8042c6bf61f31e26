# SPDX-License-Identifier: MIT
"""
What the client asks of whoever decides about servers' keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.defer import Deferred

    from nodecomm.client.memory import Recalled
    from nodecomm.identity.keys import PublicKey
    from nodecomm.identity.servers import ServerDecision

__all__ = ["IAcquaintance", "IClassicTrust", "IServerTrust", "IVoucher"]


class IServerTrust(Protocol):
    """
    Decides whether a server is the one that is meant; `identity.servers.ServerTrust`
    is one.
    """

    def check(
        self, server: str, key: PublicKey
    ) -> ServerDecision | Deferred[ServerDecision]:
        """
        Whether *server* may show *key*. Nothing is sent before the answer, and
        whatever the answer makes necessary (a key to be stored) is done by then.

        Args:
            server: Name and port as configured, `str(ServerAddress)`.
            key: What it proved to hold; a sane key.
        """
        ...


class IClassicTrust(IServerTrust, Protocol):
    """
    Knows servers' keys beforehand, too; `identity.servers.ServerTrust` does.
    """

    def candidates(self, server: str) -> Sequence[PublicKey]:
        """
        The keys that *server* may show, as far as they are known, the likeliest
        first. Without TLS a server is asked to prove that it holds one of them, and
        `check` decides then. Empty where none is known.
        """
        ...


class IVoucher(Protocol):
    """
    Who both sides of a call are.
    """

    def check(self, key: PublicKey) -> ServerDecision | Deferred[ServerDecision]:
        """Whether the server may show this key."""

    def own_name(self) -> tuple[str, bytes]:
        """The digest of our own key, and our user name."""


class IAcquaintance(IVoucher, Protocol):
    """
    What is known about the server that was called, and what becomes of the call.
    """

    def recall(self, key: PublicKey) -> Recalled | None:
        """What the server with this very key said last time."""

    def greeted(self, key: PublicKey, newest: int, product: bytes) -> None:
        """The server, with this key, said so."""

    def mistaken(self) -> None:
        """What was recalled turned out wrong."""
