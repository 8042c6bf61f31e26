# SPDX-License-Identifier: MIT
"""
The content of uploads on their way to disk.

What is small waits in memory until it is whole; of more than that, pieces are written
by a thread, and the sender is held up meanwhile. So an upload takes little memory,
however large it is, and the reactor never waits for the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure

from nodecomm.inventory.names import UploadName
from nodecomm.inventory.pairs import Part, Sender
from nodecomm.inventory.spool import Placed
from nodecomm.inventory.stores import UploadStore
from nodecomm.server.pools import Pool

__all__ = ["PIECE", "Upload"]

#: Bytes that wait in memory before they are written. Compressed inventories and
#: signatures are smaller, and are written at once when they are whole.
PIECE = 64 * 1024


class Upload:
    """
    One upload. It has what Twisted asks of a request's `content`: `write`, `tell`,
    `seek`, `read`, `close`; and its content cannot be read.

    Args:
        receiving: Where it is stored.
        pool: Where what blocks is done.
        name: What it is called.
        sender: Where it came from.
        length: The bytes that are to come.
        only_new: Whether it is stored only if nothing of that name waits.
        transport: What is held up while pieces are written; None if it cannot be.
        ended: Called once, when nothing of it is under way any more.
    """

    def __init__(
        self,
        receiving: UploadStore,
        pool: Pool,
        name: UploadName,
        sender: Sender,
        *,
        length: int,
        only_new: bool,
        transport: IPushProducer | None,
        ended: Callable[[], None],
    ) -> None:
        self.name = name
        self.sender = sender
        self.length = length
        self.size = 0
        self.closed = False
        self._receiving = receiving
        self._pool = pool
        self._only_new = only_new
        self._transport = transport
        self._ended: Callable[[], None] | None = ended
        self._part: Part | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._writing: Deferred[None] | None = None
        self._failure: Failure | None = None
        self._placing = False
        self._timer: IDelayedCall | None = None

    def end_after(
        self, reactor: IReactorTime, seconds: float, late: Callable[[], None]
    ) -> None:
        """
        Call *late* if it is not whole in time.
        """

        def out_of_time() -> None:
            self._timer = None
            late()

        self._timer = reactor.callLater(seconds, out_of_time)

    def write(self, data: bytes) -> None:
        """
        Add a piece.
        """
        self.size += len(data)
        if self.closed or self._failure is not None:
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._held >= PIECE and self._writing is None:
            if self._transport is not None:
                self._transport.pauseProducing()
            self._writing = self._write_held()
            self._writing.addCallback(self._go_on)

    def store(self) -> Deferred[Placed]:
        """
        Store what was written; it is whole.

        Returns:
            Fires when it is on disk; fails if it could not be stored.
        """
        self._stop_timer()
        self._placing = True
        before = self._writing or succeed(None)
        stored = before.addCallback(lambda _: self._store())
        return stored.addBoth(self._placed)

    def close(self) -> None:
        """
        Give it up, unless it is being stored.
        """
        self._stop_timer()
        self.closed = True
        if self._placing or self._ended is None:
            return
        self._pieces.clear()
        if self._writing is None:
            self._discard()

    def tell(self) -> int:
        """
        The bytes that have come.
        """
        return self.size

    def seek(self, offset: int, whence: int = 0) -> int:
        """
        Without effect.
        """
        return self.size

    def read(self, size: int = -1) -> bytes:
        """
        Nothing.
        """
        return b""

    def _write_held(self) -> Deferred[None]:
        """
        Write what is in memory. Never fails: that is told when it is stored.
        """
        pieces = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0

        def work() -> None:
            if self._part is None:
                self._part = self._receiving.spool.begin()
            self._part.write(pieces)

        return maybeDeferred(self._pool.run, work).addErrback(self._could_not)

    def _could_not(self, failure: Failure) -> None:
        self._failure = failure
        self._pieces.clear()

    def _go_on(self, _: None) -> None:
        self._writing = None
        if self.closed and not self._placing:
            self._discard()
        elif self._transport is not None and not self._placing:
            self._transport.resumeProducing()

    def _store(self) -> Deferred[Placed]:
        return self._write_held().addCallback(lambda _: self._place())

    def _place(self) -> Deferred[Placed]:
        if self._failure is not None:
            self._failure.raiseException()
        assert self._part is not None  # noqa: S101
        return self._receiving.store(
            self._part, self.name, self.sender, only_new=self._only_new
        )

    def _placed(self, result: Any) -> Any:
        if isinstance(result, Failure):
            self._discard()
        else:
            self._end()
        return result

    def _discard(self) -> None:
        part, self._part = self._part, None
        if part is None:
            self._end()
            return
        done = maybeDeferred(self._pool.run, part.discard)
        # If even that fails, the folder is emptied at the next start.
        done.addErrback(lambda _: None)
        done.addCallback(lambda _: self._end())

    def _end(self) -> None:
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
