# SPDX-License-Identifier: MIT
"""
Lines for standard output, and how far it is below them, written by a thread: whoever
reads them may take his time, and nothing here waits for him but what he reads.
"""

from __future__ import annotations

import select
import threading
from collections import Counter, deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from nodecomm.cli.progress import ProgressLine

__all__ = ["Printer", "Unbuffered"]

#: Bytes of one owner that may wait before he is made to wait.
AHEAD = 1 << 16

#: Bytes that are written at once.
_BATCH = 1 << 16


class Unbuffered:
    """
    Standard output without the buffer that Python has before it. A thread that waits
    for a reader holds that buffer's lock, and the program could not even end meanwhile.

    Args:
        stream: What was printed to it before is flushed.
    """

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        below: Any = getattr(stream, "buffer", None)
        self._stream = stream
        self._raw: Any = getattr(below, "raw", below)
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, data: bytes) -> None:
        """
        Write all of it.
        """
        if self._raw is None:
            # A stream of a test, or of whoever embeds the command.
            self._stream.write(data.decode(self.encoding))
            self._stream.flush()
            return
        left = memoryview(data)
        while left:
            written = self._raw.write(left)
            if written is None:
                # Somebody has told the system not to let writers wait.
                select.select([], [self._raw], [])
            else:
                left = left[written:]

    def flush(self) -> None:
        """
        Nothing is kept back.
        """


class Printer:
    """
    Takes lines in the reactor's thread and writes them in one of its own, in the
    order in which they come.

    Args:
        stream: Standard output.
        call: Calls a function in the reactor's thread.
        progress: A line of a terminal that always is the last one; None for none.
        ahead: Bytes of one owner that may wait before he is made to wait: who prints
            much waits for his own lines, and not the others for his.

    Attributes:
        broken: Fires with the error when lines cannot be written any more.
        error: That error, then.
    """

    def __init__(
        self,
        stream: TextIO,
        call: Callable[[Callable[[], None]], None],
        progress: ProgressLine | None = None,
        ahead: int = AHEAD,
    ) -> None:
        self.broken: Deferred[OSError] = Deferred()
        self._output = Unbuffered(stream)
        self._call = call
        self._progress = progress
        self._ahead = ahead
        # In the reactor's thread.
        self._waiting: Counter[Hashable] = Counter()
        self._waiters: dict[Hashable, list[Deferred[None]]] = {}
        self._drained: list[Deferred[None]] = []
        self.error: OSError | None = None
        # In both.
        self._changed = threading.Condition()
        self._lines: deque[tuple[Hashable, bytes]] = deque()
        self._status = ""
        self._shown = ""
        self._questions = 0
        self._hurry = False
        self._writing = False
        self._ended = False
        # Nobody waits for it when the program ends: the reader may never read on.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    # In the reactor's thread.

    def put(self, owner: Hashable, text: str) -> Deferred[None] | None:
        """
        Have *text*, whole lines, written; a Deferred that fires when *owner* may come
        with more, None if that is now.
        """
        if self.error is not None:
            return None
        # A terminal that cannot show a character shows its number.
        data = text.encode(self._output.encoding, "backslashreplace")
        self._waiting[owner] += len(data)
        with self._changed:
            # Only for the first of several lines does the thread have to wake up.
            if not self._lines:
                self._changed.notify_all()
            self._lines.append((owner, data))
        if self._waiting[owner] <= self._ahead:
            return None
        waiter: Deferred[None] = Deferred()
        self._waiters.setdefault(owner, []).append(waiter)
        return waiter

    def status(self, text: str) -> None:
        """
        Show *text* in the last line.
        """
        if self._progress is not None:
            with self._changed:
                self._status = text
                self._changed.notify_all()

    def drained(self) -> Deferred[None]:
        """
        Fires when all has been written, or nothing can be.
        """
        waiter: Deferred[None] = Deferred()
        if self.error is not None or not self._waiting.total():
            waiter.callback(None)
        else:
            self._drained.append(waiter)
        return waiter

    def hurry(self) -> None:
        """
        Write, whoever is being asked meanwhile: his answer is not wanted any more.
        """
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

    def end(self) -> None:
        """
        Nothing more comes.
        """
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _written(self, sizes: Counter[Hashable], error: OSError | None) -> None:
        self._waiting.subtract(sizes)
        if error is not None and self.error is None:
            self.error = error
            self.broken.callback(error)
        for owner in list(self._waiters if self.error is not None else sizes):
            if self.error is None and self._waiting[owner] > self._ahead // 2:
                continue
            for waiter in self._waiters.pop(owner, ()):
                if not waiter.called:
                    waiter.callback(None)
        self._waiting += Counter()
        if self.error is not None or not self._waiting:
            waiters, self._drained = self._drained, []
            for waiter in waiters:
                if not waiter.called:
                    waiter.callback(None)

    # In any other.

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """
        Write nothing while this lasts, and leave the terminal's last line empty.
        """
        with self._changed:
            self._questions += 1
            self._changed.wait_for(lambda: not self._writing)
            if self._progress is not None:
                self._progress.clear()
        try:
            yield
        finally:
            with self._changed:
                self._questions -= 1
                self._changed.notify_all()

    # In its own.

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                batch, sizes = self._take()
                self._shown = status = self._status
                ended = self._ended and not batch
                self._writing = True
            error = None
            try:
                self._write(batch, "" if ended else status)
            except OSError as caught:
                error = caught
            finally:
                with self._changed:
                    self._writing = False
                    self._changed.notify_all()
            if sizes or error is not None:
                self._call(partial(self._written, sizes, error))
            if ended or error is not None:
                return

    def _has_work(self) -> bool:
        if self._questions and not self._hurry:
            return False
        return bool(self._lines) or self._ended or self._status != self._shown

    def _take(self) -> tuple[bytes, Counter[Hashable]]:
        lines: list[bytes] = []
        sizes: Counter[Hashable] = Counter()
        size = 0
        while self._lines and size < _BATCH:
            owner, data = self._lines.popleft()
            lines.append(data)
            sizes[owner] += len(data)
            size += len(data)
        return b"".join(lines), sizes

    def _write(self, batch: bytes, status: str) -> None:
        progress = self._progress
        if batch:
            if progress is not None:
                progress.clear()
            self._output.write(batch)
        if progress is not None:
            if status:
                progress.show_text(status)
            else:
                progress.clear()
