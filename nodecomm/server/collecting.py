# SPDX-License-Identifier: MIT
"""
Requests of more than one transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from nodecomm.wire.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodecomm.server.requests import Request

__all__ = ["MAX_BYTES", "MAX_FRAMES", "Collection"]

#: Transactions that a request may have after its first. The real server takes 10
#: class names of a remote run, each in one of its own.
MAX_FRAMES = 1000

#: Bytes in all of them together.
MAX_BYTES = 65_536


class Collection:
    """
    The further transactions of one request, and that it is the only one until it is
    answered.

    Args:
        request: The request.
        last: Whether a payload is the last one.

    Attributes:
        request: The request.
        open: Whether transactions are still awaited.
        result: Fires with their payloads when the last is there.
    """

    __slots__ = ("_last", "_payloads", "_size", "open", "request", "result")

    def __init__(self, request: Request, last: Callable[[bytes], bool]) -> None:
        self.request = request
        self.open = True
        self.result: Deferred[list[bytes]] = Deferred()
        self._last = last
        self._payloads: list[bytes] = []
        self._size = 0

    def take(self, payload: bytes) -> None:
        """
        Add a payload.

        Raises:
            RemoteProtocolError: There are too many, or they are too long.
        """
        payloads = self._payloads
        payloads.append(payload)
        self._size += len(payload)
        if len(payloads) > MAX_FRAMES:
            count = f"more than {MAX_FRAMES}"
            raise RemoteProtocolError("transactions of a request", count, "not so many")
        if self._size > MAX_BYTES:
            raise RemoteProtocolError(
                "bytes of a request", self._size, f"at most {MAX_BYTES}"
            )
        if self._last(payload):
            self.open = False
            self.result.callback(payloads)

    def give_up(self, why: str) -> None:
        """
        They will not come any more, if they have not yet.
        """
        if self.open:
            self.open = False
            self.result.errback(ConnectionError(why))
            # Whoever wants to hear that, has by now.
            self.result.addErrback(lambda _: None)
