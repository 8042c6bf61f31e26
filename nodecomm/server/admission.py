# SPDX-License-Identifier: MIT
"""
Who may connect, before anything is known of a peer but its address.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import define, field
from twisted.internet.address import IPv4Address, IPv6Address

if TYPE_CHECKING:
    from nodecomm.access.snapshot import Snapshot

__all__ = ["Admission", "Turned", "peer_address"]


def peer_address(address: Any) -> tuple[str, int]:
    """
    The numeric address and port of a connection's other end; an IPv4 address on a
    dual-stack socket in its own form. A local socket is 127.0.0.1, port 0.
    """
    if isinstance(address, (IPv4Address, IPv6Address)):
        host: str = address.host
        if host.startswith("::ffff:") and "." in host:
            host = host[7:]
        return host, address.port
    return "127.0.0.1", 0


class Turned(NamedTuple):
    """
    Why a connection is not taken.

    Attributes:
        limit: The setting that says so.
        text: For the log.
    """

    limit: str
    text: str


@define(eq=False)
class Admission:
    """
    Counts connections, and takes or turns away new ones.

    Args:
        max_connections: Connections at a time.
        before_trust: Of those, connections whose key is not trusted yet.
        per_address: Connections at a time from one address; 0: no limit.
    """

    max_connections: int
    before_trust: int
    per_address: int = 0
    total: int = field(default=0, init=False)
    untrusted: int = field(default=0, init=False)
    _addresses: Counter[str] = field(factory=Counter, init=False)

    def enter(self, address: str, snapshot: Snapshot) -> Turned | None:
        """
        Count a new connection from *address*; if it is not to be taken, say why.
        """
        decision = snapshot.check_connection(address)
        if not decision.allowed:
            return Turned(decision.list_name or "allowconnects", decision.text)
        held = self._addresses[address]
        if held and snapshot.allowallconnects.match(address) is None:
            return Turned(
                "allowallconnects",
                f"{address} is connected already, and only addresses in"
                " allowallconnects may be more than once",
            )
        if self.per_address and held >= self.per_address:
            return Turned(
                "connections_per_address",
                f"{address} holds {held} connections of {self.per_address}",
            )
        if self.total >= self.max_connections:
            return Turned(
                "maxconnections",
                f"{self.total} connections of {self.max_connections} are held",
            )
        if self.untrusted >= self.before_trust:
            return Turned(
                "connections_before_trust",
                f"{self.untrusted} connections of {self.before_trust} are not"
                " trusted yet",
            )
        self.total += 1
        self.untrusted += 1
        self._addresses[address] = held + 1
        return None

    def trusted(self) -> None:
        """
        One more of the connections has shown a trusted key, or is being closed and
        counts as untrusted no more.
        """
        self.untrusted -= 1

    def leave(self, address: str, *, trusted: bool) -> None:
        """
        A connection that was taken is over.
        """
        self.total -= 1
        if not trusted:
            self.untrusted -= 1
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]
