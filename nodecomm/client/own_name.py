# SPDX-License-Identifier: MIT
"""
The name that belongs to an address of our own.

Classic servers are told it, and real ones look for it in their rules.
"""

from __future__ import annotations

import socket
from threading import Thread
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed

from nodecomm.wire.classic import MAX_WORD

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime

__all__ = ["LIMIT", "OwnNames", "reverse_name"]

#: Seconds that a name is waited for. Then the address has to do: no rule of a server
#: of ours needs the name, and a connection does not wait for a resolver that is down.
LIMIT = 2.0


def reverse_name(address: str) -> str:
    """
    The name of one of this host's addresses, with its domain. Blocks.

    Raises:
        OSError: It has none.
    """
    name, _ = socket.getnameinfo((address, 0), socket.NI_NAMEREQD)
    # Source: CFEngine 3.21 appends the host's domain to a name without a dot.
    if "." not in name and name != "localhost":
        _, dot, domain = socket.getfqdn().partition(".")
        name += dot + domain
    return name


class OwnNames:
    """
    Looks up names of own addresses, each once.

    Args:
        reactor: Where results arrive. One without threads looks nothing up.
        clock: For the limit.
        look_up: As `reverse_name`.
        limit: Seconds that one look-up is waited for.
    """

    def __init__(
        self,
        reactor: Any,
        clock: IReactorTime,
        look_up: Callable[[str], str] = reverse_name,
        limit: float = LIMIT,
    ) -> None:
        self._from_thread = getattr(reactor, "callFromThread", None)
        self._clock = clock
        self._look_up = look_up
        self._limit = limit
        self._names: dict[str, bytes] = {}

    def of(self, address: str) -> Deferred[bytes]:
        """
        The name of *address*, or *address* when it has none or nobody says in time.
        """
        found = self._names.get(address)
        from_thread = self._from_thread
        if found is not None or from_thread is None:
            return succeed(found or _bytes(address))
        waiting: Deferred[bytes] = Deferred()

        def arrived(name: bytes) -> None:
            self._names[address] = name
            if not waiting.called:
                waiting.callback(name)

        def look_up() -> None:
            from_thread(arrived, self._word(address))

        # Not in a pool: those are waited for when the program ends, and a resolver
        # that is down would hold it up.
        Thread(target=look_up, daemon=True, name="own-name").start()

        return waiting.addTimeout(
            self._limit, self._clock, lambda _failure, _seconds: _bytes(address)
        )

    def _word(self, address: str) -> bytes:
        """
        The name as the one word that a claim has room for.
        """
        try:
            name = self._look_up(address).encode("ascii")
        except (OSError, UnicodeError):
            name = b""
        if name.split() != [name] or len(name) > MAX_WORD:
            return _bytes(address)
        return name


def _bytes(address: str) -> bytes:
    return address.encode("ascii", "replace")
