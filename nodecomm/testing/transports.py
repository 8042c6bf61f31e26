# SPDX-License-Identifier: MIT
"""
What the transports in memory have in common.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["MemoryTransport"]


class MemoryTransport:
    """
    A transport whose protocol says when it wants bytes, and names a producer to be
    told when too many are on their way.

    Attributes:
        reading: Whether the protocol wants bytes.
    """

    disconnecting = False

    def __init__(self) -> None:
        self.reading = True
        self._producer: Any = None
        self._producer_paused = False

    def write(self, data: bytes) -> None:
        """Send bytes to the other end."""
        raise NotImplementedError

    def loseConnection(self) -> None:
        """End the connection behind what was written."""
        raise NotImplementedError

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send bytes to the other end."""
        self.write(b"".join(iovec))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Who is told when too much is on its way."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Nobody is told any more."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Deliver nothing."""
        self.reading = False

    def resumeProducing(self) -> None:
        """Deliver again."""
        self.reading = True

    def stopProducing(self) -> None:
        """As `loseConnection`."""
        self.loseConnection()

    def _pause_producer(self) -> None:
        if self._producer is not None and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def _resume_producer(self) -> None:
        if self._producer_paused:
            self._producer_paused = False
            if self._producer is not None:
                self._producer.resumeProducing()
