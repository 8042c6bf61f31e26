# SPDX-License-Identifier: MIT
"""
Who is at the other end of a connection, as far as it is known.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field

from nodecomm.identity.keys import PublicKey

__all__ = ["Peer"]


@define(eq=False)
class Peer:
    """
    The other end of one connection. Each session has one of its own.

    Attributes:
        address: The numeric address, IPv4 in its own form on a dual-stack socket.
        port: The peer's port.
        key: The key it proved to hold; None before the handshake.
        user: The name it claims; only as good as the trust in its key.
        uid: What the name means here; 0 for root, None for nobody in particular.
        hostname: Its forward-confirmed name; None while there is none.
        hostname_known: Whether looking for a name has come to an end. While False a
            rule that needs the name cannot be decided.
        calls_itself: The host name that it claims, on the classic protocol; for words
            to it, and worth nothing else.
        protocol: The protocol version in use, 0 before it is agreed.
        encrypted: Whether requests and data travel encrypted.
        memo: What the access evaluator remembers between this peer's requests.
    """

    address: str
    port: int = 0
    key: PublicKey | None = None
    user: str = ""
    uid: int | None = None
    hostname: str | None = None
    hostname_known: bool = False
    calls_itself: bytes = b""
    protocol: int = 0
    encrypted: bool = False
    memo: dict[Any, Any] = field(factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """
        The printed digest of its key, empty before the handshake.
        """
        return self.key.md5 if self.key is not None else ""
