# SPDX-License-Identifier: MIT
"""
Content on its way from the network to the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attrs import define, field

from nodecomm.sync.errand import Errand, Sink, algorithms_for

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from nodecomm.sync.books import Books
    from nodecomm.sync.lane import Lane

__all__ = ["Receiving"]

#: A file of at most so many bytes is written when it is whole; a larger one in pieces
#: of that size. Each is a change of threads, which costs the thread that reads from
#: the network some milliseconds on busy cores.
PIECE = 1 << 20

#: A file of at most so many bytes is hashed at once, in some 20 us, so that the
#: question about it leaves while the disk is still busy with the ones before.
QUICK = 16 << 10


@define(eq=False)
class Receiving:
    """
    Takes the content of files.

    Args:
        books: Told what has come.
        lane: The way to the disk.
        prepare: Makes the place that content goes to.
        create: Opens the file that the content of a name goes to, and makes the
            digests that are named; may wait.
        hashed: Told of each file whose content came whole and whose digest is known.
        written: Told of those whose content reached the disk after that.

    Attributes:
        ready: Whether the place is there.
    """

    _books: Books
    _lane: Lane
    _prepare: Callable[[], Deferred[None]]
    _create: Callable[[bytes, Sequence[str]], Sink]
    _hashed: Callable[[Errand], None]
    _written: Callable[[Errand], None]
    ready: bool = field(default=False, init=False)
    _preparing: bool = field(default=False, init=False)

    def make_ready(
        self, then: Callable[[], None], failed: Callable[[Failure], None]
    ) -> None:
        """
        Content needs a place before it is asked for.
        """
        if self._preparing:
            return

        def ready(_none: None) -> None:
            self.ready = True
            then()

        def over(_result: object) -> None:
            self._preparing = False

        self._preparing = True
        self._prepare().addCallbacks(ready, failed).addBoth(over)

    def take(self, errand: Errand, data: bytes) -> None:
        """
        Some of it.
        """
        if not errand.received:
            errand.head = data[:100]
        errand.received += len(data)
        errand.pieces.append(data)
        errand.pending += len(data)
        if errand.pending >= PIECE and errand.received < errand.entry.size:
            self._write(errand)
        books = self._books
        books.bytes_come += len(data)
        books.progressed()

    def _write(self, errand: Errand) -> None:
        """
        Write what has come of a large file.
        """
        size = errand.pending
        pieces = errand.take_pieces()

        def work() -> None:
            if errand.sink is None:
                errand.sink = self._create(errand.name, algorithms_for(errand.entry))
            errand.sink.write(b"".join(pieces))

        self._lane.put(work, None, size)

    def finish(self, errand: Errand) -> None:
        """
        That was all of it.
        """
        errand.complete = True
        data = b"".join(errand.take_pieces())
        attempt = errand.attempt
        is_quick = errand.entry.sha256 is None and errand.entry.size <= QUICK
        algorithms = () if is_quick else algorithms_for(errand.entry)

        def work() -> list[bytes]:
            sink = errand.sink
            if sink is None:
                sink = errand.sink = self._create(errand.name, algorithms)
            if data:
                sink.write(data)
            sink.close()
            return [sink.digest(name) for name in algorithms]

        def done(digests: list[bytes]) -> None:
            if errand.attempt != attempt:
                return
            errand.sink = None
            errand.stored = True
            if is_quick:
                self._written(errand)
                return
            errand.md5, *rest = digests
            errand.sha256 = rest[0] if rest else b""
            self._hashed(errand)

        if is_quick:
            errand.md5 = hashlib.md5(data, usedforsecurity=False).digest()
            self._hashed(errand)
        self._lane.put(work, done, len(data))
