# SPDX-License-Identifier: MIT
"""
Who may stay connected to the site while nothing is known of him.

A connection costs memory and a descriptor before its first request, and whoever asks
for the id of the server needs no password. So there are only so many at a time, and
when there are as many, one makes room: of the address that has the most, the one that
has waited longest. Whoever is sending an inventory, and was found to be allowed to,
stays.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from nodecomm.access.networks import AddressList, read_address
from nodecomm.server.admission import peer_address

__all__ = ["Visit", "Visitors"]

#: Seconds in which somebody who has come to send something has done so, also when many
#: have come at once and each handshake waits for its turn.
PATIENCE = 10.0

#: Seconds between two lines about connections that were closed.
_PERIOD = 60.0

#: Bits of an IPv6 address that one holder of addresses has in common, mostly.
_NETWORK = 64


@define(eq=False)
class Visit:
    """
    One connection.

    Attributes:
        close: Closes it at once.
        holder: Whose it is, as far as its address tells; None for a proxy, whose
            connections are everybody's.
        since: Since when it is there without being welcome.
    """

    _visitors: Visitors
    close: Callable[[], object]
    holder: str | None
    since: float
    _here: bool = field(default=True, init=False)

    def welcome(self) -> None:
        """
        It sends something that is wanted: it stays.
        """
        if self._here:
            self._visitors._forget_stranger(self)

    def idle(self) -> None:
        """
        It has sent that. Who was not welcome has gained nothing by another request.
        """
        if self._here:
            self._visitors._add_stranger(self)

    def leave(self) -> None:
        """
        The connection has ended.
        """
        if self._here:
            self._here = False
            self._visitors._leave(self)


class Visitors:
    """
    Counts the connections of a site, and closes those that keep others out.

    Args:
        reactor: For time.
        most: Connections at a time.
        per_address: Connections at a time from one address, or from one network of
            IPv6 (/64); 0 for no limit of its own.
        proxies: Addresses that speak for many; what is said of one address is not
            meant for them.

    Attributes:
        total: Connections that there are.
    """

    _log = Logger("nodecomm.inventory")

    def __init__(
        self,
        reactor: IReactorTime,
        *,
        most: int,
        per_address: int = 0,
        proxies: AddressList | None = None,
    ) -> None:
        self.most = most
        self.per_address = per_address
        self.proxies = proxies or AddressList()
        self.total = 0
        self._reactor = reactor
        self._held: dict[str, int] = {}
        #: Those that are not welcome (yet), by holder, the longest waiting first.
        self._strangers: dict[str | None, dict[Visit, None]] = {}
        self._closed = 0
        self._turned = 0
        self._told: float | None = None

    def enter(self, address: Any, close: Callable[[], object]) -> Visit | None:
        """
        Take a new connection.

        Args:
            address: Where it comes from, as Twisted tells.
            close: Closes it.

        Returns:
            None if it is to be closed instead.
        """
        holder = self._holder(address)
        held = self._held.get(holder, 0) if holder is not None else 0
        full = self.total >= self.most
        if (self.per_address and held >= self.per_address) or (
            full and not self._make_room(holder)
        ):
            self._turned += 1
            self._tell()
            return None
        visit = Visit(self, close, holder, self._reactor.seconds())
        self.total += 1
        if holder is not None:
            self._held[holder] = held + 1
        self._add_stranger(visit)
        return visit

    def _holder(self, address: Any) -> str | None:
        host, _ = peer_address(address)
        found = read_address(host)
        if found is None or self.proxies.find(found) is not None:
            return None
        if ":" in found.text:
            network = ipaddress.ip_network((found.text, _NETWORK), strict=False)
            return str(network.network_address)
        return found.text

    def _make_room(self, holder: str | None) -> bool:
        """
        Close a connection for one of *holder*, if that is just.
        """
        # Only when there are too many; some thousands are looked at in less time than
        # a handshake takes.
        mine = len(self._strangers.get(holder, ())) + 1
        most = max(map(len, self._strangers.values()), default=0)
        oldest = _oldest(
            visits for visits in self._strangers.values() if len(visits) == most
        )
        if oldest is None:
            return False
        waited = self._reactor.seconds() - oldest.since
        if most <= mine and waited < PATIENCE:
            # Nobody has more than the new one, and all may be about to send.
            return False
        self._closed += 1
        oldest.leave()
        oldest.close()
        self._tell()
        return True

    def _tell(self) -> None:
        now = self._reactor.seconds()
        if self._told is not None and 0 <= now - self._told < _PERIOD:
            return
        self._told = now
        self._log.warn(
            "too many connections for inventories: {closed} that had sent nothing were"
            " closed, {turned} were not taken; there are {total} of {most}",
            event="inventory.crowded",
            closed=self._closed,
            turned=self._turned,
            total=self.total,
            most=self.most,
        )
        self._closed = self._turned = 0

    # For visits

    def _add_stranger(self, visit: Visit) -> None:
        visits = self._strangers.setdefault(visit.holder, {})
        if visit not in visits:
            visit.since = self._reactor.seconds()
            visits[visit] = None

    def _forget_stranger(self, visit: Visit) -> None:
        visits = self._strangers.get(visit.holder, {})
        visits.pop(visit, None)
        if not visits:
            self._strangers.pop(visit.holder, None)

    def _leave(self, visit: Visit) -> None:
        self.total -= 1
        self._forget_stranger(visit)
        holder = visit.holder
        if holder is None:
            return
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]


def _oldest(groups: Iterable[dict[Visit, None]]) -> Visit | None:
    """
    Of the first of each, the one that has waited longest.
    """
    firsts = (next(iter(visits)) for visits in groups)
    return min(firsts, key=lambda visit: visit.since, default=None)
