# SPDX-License-Identifier: MIT
"""
What is sent to a server, read while it is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from nodecomm.server.pools import Pool

__all__ = ["PIECE", "Content"]

#: Bytes that are read and written at a time.
PIECE = 64 * 1024


@implementer(IBodyProducer)
class Content:
    """
    A file on its way, read in pieces by a thread; never more than one in memory.

    Args:
        stream: The open file; whoever opened it closes it, when `ended` has fired.
        length: The bytes of it that are sent.
        pool: Where it is read.
        moved: Called whenever the other side has taken something.
    """

    def __init__(
        self,
        stream: IO[bytes],
        length: int,
        pool: Pool,
        moved: Callable[[], object] = lambda: None,
    ) -> None:
        self.length = length
        #: Bytes that were given to the connection.
        self.sent = 0
        #: Why it could not be read.
        self.error: OSError | None = None
        self._stream = stream
        self._pool = pool
        self._moved = moved
        self._done: Deferred[None] | None = None
        self._pump: Deferred[None] = succeed(None)
        self._paused = False
        self._resumed: Deferred[None] | None = None

    @property
    def is_complete(self) -> bool:
        """
        Whether all of it was given to the connection.
        """
        return self.sent == self.length

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """
        Begin; fires when all of it was written.
        """
        done = self._done = Deferred(lambda _: self.stopProducing())
        self._pump = Deferred.fromCoroutine(self._run(consumer))
        self._pump.addCallbacks(self._written, self._failed)
        return done

    def pauseProducing(self) -> None:
        """
        Write nothing for a while.
        """
        self._paused = True

    def resumeProducing(self) -> None:
        """
        Go on.
        """
        self._paused = False
        self._moved()
        self._wake()

    def stopProducing(self) -> None:
        """
        Write nothing any more.
        """
        self._done = None
        self._wake()

    def ended(self) -> Deferred[None]:
        """
        Stop. Fires when no thread reads any more.
        """
        self.stopProducing()
        ended: Deferred[None] = Deferred()
        self._pump.addBoth(lambda _: ended.callback(None))
        return ended

    async def _run(self, consumer: IConsumer) -> None:
        while not self.is_complete:
            if self._paused:
                self._resumed = Deferred()
                await self._resumed
                continue
            if self._done is None:
                return
            size = min(PIECE, self.length - self.sent)
            piece = await self._pool.run(self._stream.read, size)
            if self._done is None:
                return
            if not piece:
                raise OSError("it became shorter while it was sent")
            self.sent += len(piece)
            consumer.write(piece)
            self._moved()

    def _wake(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            self._paused = False
            resumed.callback(None)

    def _written(self, _: None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done.callback(None)

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, OSError):
            self.error = failure.value
        done, self._done = self._done, None
        if done is not None:
            done.errback(failure)
