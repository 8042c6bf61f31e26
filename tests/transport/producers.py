# SPDX-License-Identifier: MIT
"""
Producers for the transports under test.
"""

from __future__ import annotations

from typing import Any


class Pull:
    """
    A pull producer of so many parts.
    """

    def __init__(self, transport: Any, parts: int, size: int) -> None:
        self.transport, self.parts, self.size = transport, parts, size
        self.stopped = False
        self.most_pending = 0

    def resumeProducing(self) -> None:
        self.transport.write(b"p" * self.size)
        self.most_pending = max(self.most_pending, self.transport.write_pending)
        self.parts -= 1
        if not self.parts:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


class Push(Pull):
    """
    A streaming producer that writes until it is paused.
    """

    def __init__(self, transport: Any, parts: int, size: int) -> None:
        super().__init__(transport, parts, size)
        self.running = True
        self.pauses = 0

    def produce(self) -> None:
        while self.running and self.parts:
            super().resumeProducing()

    def resumeProducing(self) -> None:
        self.running = True
        self.produce()

    def pauseProducing(self) -> None:
        self.running = False
        self.pauses += 1
