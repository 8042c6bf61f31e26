# SPDX-License-Identifier: MIT
"""
One listener to a run, who may be slow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger

if TYPE_CHECKING:
    from nodecomm.server.execution.orders import RunOrder, RunOutcome, RunSink
    from nodecomm.wire.run_output import Printed

__all__ = ["BACKLOG", "Listener"]

#: Bytes of output, as they leave, that wait for one who has joined a run and does not
#: read. The run does not wait for him; what comes then is lost to him.
BACKLOG = 262144


class Listened(Protocol):
    """
    What a listener needs of his run.
    """

    def is_first(self, listener: Listener) -> bool:
        """
        Whether the run waits for this one.
        """
        ...

    def look(self) -> None:
        """
        This one reads, or does not.
        """
        ...

    def left(self, listener: Listener) -> None:
        """
        This one has gone.
        """
        ...


class Listener:
    """
    A sink with what waits for it (`Ticket`).

    Args:
        order: What was asked for.
        sink: Who listens.
        run: What to; None: to nothing.

    Attributes:
        order: What was asked for.
    """

    _log = Logger()

    def __init__(self, order: RunOrder, sink: RunSink, run: Listened | None) -> None:
        self.order = order
        self._sink = sink
        self._run = run
        self._paused = False
        #: What the sink is to be told, each with the bytes of output in it.
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()
        self._size = 0
        self._lost = 0
        self._giving = False
        self._gone = False

    @property
    def behind(self) -> bool:
        """
        Whether it takes nothing for now.
        """
        return self._paused or bool(self._waiting)

    # For the one who listens.

    def pause(self) -> None:
        """
        Give no output for now.
        """
        if not self._gone:
            self._paused = True
            self._look()

    def resume(self) -> None:
        """
        Give output again, what has waited first.
        """
        if not self._gone:
            self._paused = False
            self._give()
            self._look()

    def leave(self) -> None:
        """
        Nobody is there any more.
        """
        if not self._gone:
            self._close()
            if self._run is not None:
                self._run.left(self)

    # For the run.

    def refused(self, text: str) -> None:
        """
        There will be none.
        """
        if not self._gone:
            self._close()
            self._sink.refused(text)

    def begun(self, command: bytes) -> None:
        """
        It begins.
        """
        if not self._gone:
            self._put(partial(self._sink.begun, command))

    def output(self, printed: Printed) -> None:
        """
        It has printed this.
        """
        if self._gone:
            return
        if self._is_lost(printed.size):
            self._lost += len(printed.lines)
            return
        if self._lost:
            self._tell_lost()
        self._put(partial(self._sink.output, printed), printed.size)

    def notice(self, text: str) -> None:
        """
        It is to know *text*.
        """
        if not self._gone:
            self._put(partial(self._sink.notice, text))

    def ended(self, outcome: RunOutcome) -> None:
        """
        There is no more.
        """
        if not self._gone:
            if self._lost:
                self._tell_lost()
            self._put(partial(self._end, outcome))

    # Within.

    def _is_lost(self, size: int) -> bool:
        if self._run is None or self._run.is_first(self):
            return False
        if self._lost:
            # Rather one large gap than many small ones.
            return self.behind
        return self._paused and self._size + size > BACKLOG

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, 0
        self.notice(
            f"{lost} bytes of output are missing here: they were not read in time"
        )

    def _end(self, outcome: RunOutcome) -> None:
        self._close()
        self._sink.ended(outcome)

    def _put(self, call: Callable[[], None], size: int = 0) -> None:
        self._waiting.append((call, size))
        self._size += size
        self._give()

    def _give(self) -> None:
        """
        Give what waits, as long as it is taken.
        """
        if self._giving:
            # The sink has called, in the middle of this.
            return
        self._giving = True
        try:
            while self._waiting and not self._paused:
                call, size = self._waiting.popleft()
                self._size -= size
                call()
        except Exception:
            # The others who listen are not to suffer for it, nor the run.
            self._log.failure("a listener to a run has failed")
            self.leave()
        finally:
            self._giving = False

    def _look(self) -> None:
        if self._run is not None and not self._giving:
            self._run.look()

    def _close(self) -> None:
        self._gone = True
        self._waiting.clear()
        self._size = 0
