# SPDX-License-Identifier: MIT
"""
One run, from the first who asks for it to its end.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger

from nodecomm.config.durations import duration_text
from nodecomm.server.execution.listening import Listener
from nodecomm.server.execution.orders import RunOutcome
from nodecomm.wire.run_output import OutputLines, Printed

if TYPE_CHECKING:
    from nodecomm.config.execution import RunSettings
    from nodecomm.server.execution.executables import Executable, Running
    from nodecomm.server.execution.orders import RunOrder, RunSink
    from nodecomm.server.execution.run_log import RunLog

__all__ = ["SILENCE", "TAIL", "Run", "Runs", "run_key"]

#: Bytes of a run's output that are kept for those who join it, at least; there is
#: never one piece more.
TAIL = 65536

#: What those are told who might have a run when they asked for it.
_WITHDRAWN = "the configuration has changed meanwhile; not begun"

#: Seconds without a word after which those who listen are told that the run goes on.
#: Source: cf-runagent of CFEngine 3.21, observed: with its defaults it gives up after
#: 185 s without a byte, and the run would be ended for it.
SILENCE = 120.0


class Runs(Protocol):
    """
    What a run needs of those who know all runs.

    Attributes:
        log: Where the events go.
    """

    log: RunLog

    def monotonic(self) -> float:
        """
        Seconds of a clock that nobody sets.
        """
        ...

    def forget(self, run: Run) -> None:
        """
        It waits and runs no more.
        """
        ...

    def go_on(self) -> None:
        """
        It may be another one's turn.
        """
        ...


class Run:
    """
    One run: it waits, has begun, or is over.

    Attributes:
        order: What those asked for who asked first.
        listeners: Who listens, in the order of arrival. The program runs no faster
            than the first of them reads.
        began: When it began; None: it waits.
        over: Whether it has ended.
    """

    _log = Logger()

    def __init__(self, order: RunOrder, runs: Runs, asked: float) -> None:
        self.order = order
        self.key = run_key(order)
        self.listeners: list[Listener] = []
        self.began: float | None = None
        self.over = False
        self._runs = runs
        self._asked = asked
        self._heard = asked
        self._command = b""
        self._running: Running | None = None
        self._paused = False
        self._joined = 0
        #: The last of what was printed, for those who join; with its bytes, and those
        #: of all that was ever given.
        self._tail: deque[Printed] = deque()
        self._kept = 0
        self._given = 0
        self._output = OutputLines()
        self._printed = 0
        self._lines = 0
        self._in_line = False
        self._cut = False

    # For the runner.

    def take(self, order: RunOrder, sink: RunSink) -> Listener:
        """
        One more listens from now on.
        """
        listener = Listener(order, sink, self)
        self.listeners.append(listener)
        if len(self.listeners) > 1:
            self._joined += 1
        if self.began is not None:
            self._catch_up(listener)
        return listener

    def begin(self, executable: Executable) -> None:
        """
        It is its turn.
        """
        self.began = self._heard = self._runs.monotonic()
        waited = self.began - self._asked
        try:
            self._command = executable.command(self.order)
            self._runs.log.started(self.order, self._command, waited)
            for listener in list(self.listeners):
                listener.begun(self._command)
            running = executable.begin(self.order, self)
        except Exception:
            self._log.failure("a run could not be begun")
            self.ended(RunOutcome(None, why="failed: internal error"))
            return
        if not self.over:
            self._running = running
            self.look()

    def judge(self) -> bool:
        """
        Send away those who may not have it any more; whether anybody is left.
        """
        for listener in list(self.listeners):
            try:
                why = listener.order.withdrawn()
            except Exception:
                self._log.failure("whether a run may begin could not be decided")
                why = "internal error"
            if why:
                self.listeners.remove(listener)
                self._runs.log.refused(listener.order, "withdrawn", why)
                listener.refused(_WITHDRAWN)
        if self.listeners:
            self.order = self.listeners[0].order
        else:
            self.over = True
        return not self.over

    def stop(self, why: str, grace: float | None = None) -> None:
        """
        End it, if it has begun.
        """
        if self._running is not None:
            self._running.stop(why, grace)

    def break_silence(self) -> None:
        """
        Tell those who have heard nothing for long that it goes on.
        """
        now = self._runs.monotonic()
        if self.began is None or now - self._heard < SILENCE:
            return
        self._heard = now
        text = f"the run goes on, since {duration_text(now - self.began)}"
        self._give(self._output.finish())
        for listener in list(self.listeners):
            if not listener.behind:
                listener.notice(text)

    # For its listeners.

    def is_first(self, listener: Listener) -> bool:
        """
        Whether the program waits for this one.
        """
        return self.listeners[:1] == [listener]

    def look(self) -> None:
        """
        Somebody reads, or does not, or has gone.
        """
        if self.over or self._running is None:
            return
        wanted = bool(self.listeners) and self.listeners[0].behind
        if wanted != self._paused:
            self._paused = wanted
            if wanted:
                self._running.pause()
            else:
                self._running.resume()

    def left(self, listener: Listener) -> None:
        """
        One has gone.
        """
        if listener in self.listeners:
            self.listeners.remove(listener)
        if self.over:
            return
        if self.listeners:
            self.look()
            return
        if self.began is None:
            self._runs.forget(self)
            self.over = True
            self.log_end(RunOutcome(None, why="left"))
            self._runs.go_on()
        else:
            self.stop("left")

    # For what runs (`RunWatcher`).

    def output(self, data: bytes) -> bool:
        """
        Tell all.

        Returns:
            Whether more of it is wanted.
        """
        limit = self.order.execution.settings.output_limit
        room = limit - self._printed
        self._printed += len(data)
        self._lines += data.count(b"\n")
        self._in_line = not data.endswith(b"\n")
        if room > 0:
            self._heard = self._runs.monotonic()
            self._give(self._output.feed(data[:room]))
        if self._printed > limit and not self._cut:
            self._cut = True
            self._give(self._output.finish())
            for listener in list(self.listeners):
                listener.notice(_cut_text(limit))
        self.look()
        return not self._cut

    def ended(self, outcome: RunOutcome) -> None:
        """
        Tell all.
        """
        if self.over:
            return
        self.over = True
        self._running = None
        # Before anybody hears of it, and asks for the next.
        self._runs.forget(self)
        self._give(self._output.finish())
        text = _end_text(outcome, self.order.execution.settings)
        listeners, self.listeners = self.listeners, []
        for listener in listeners:
            if text:
                listener.notice(text)
            listener.ended(outcome)
        self.log_end(outcome)
        self._runs.go_on()

    def log_end(self, outcome: RunOutcome) -> None:
        """
        State what became of it.
        """
        until = self._runs.monotonic() if self.began is None else self.began
        self._runs.log.ended(
            self.order,
            outcome,
            until - self._asked,
            lines=self._lines + self._in_line,
            bytes=self._printed,
            cut=self._cut,
            joined=self._joined,
        )

    def _give(self, lines: bytes) -> None:
        """
        Tell all of these lines, and keep them for those who join.
        """
        if not lines:
            return
        printed = Printed(lines)
        self._given += len(lines)
        self._kept += len(lines)
        self._tail.append(printed)
        while self._kept - len(self._tail[0].lines) >= TAIL:
            self._kept -= len(self._tail.popleft().lines)
        for listener in list(self.listeners):
            listener.output(printed)

    def _catch_up(self, listener: Listener) -> None:
        """
        What was before the listener came.
        """
        assert self.began is not None  # noqa: S101
        listener.begun(self._command)
        limit = self.order.execution.settings.output_limit
        seconds = duration_text(self._runs.monotonic() - self.began)
        text = f"joined a run that was begun {seconds} ago"
        missing = self._given - self._kept
        if missing:
            text += f"; the first {missing} bytes of its output are missing"
        listener.notice(text)
        for printed in list(self._tail):
            listener.output(printed)
        if self._cut:
            listener.notice(_cut_text(limit))


def run_key(order: RunOrder) -> tuple[object, ...]:
    """
    Orders for which this is equal are for the same.
    """
    execution = order.execution
    return (
        execution.command,
        execution.user,
        frozenset(order.defined),
        order.bundles,
    )


def _cut_text(limit: int) -> str:
    return f"the output is cut here: {limit} bytes are the limit; the run goes on"


def _end_text(outcome: RunOutcome, settings: RunSettings) -> str:
    """
    What peers are told of an end before its time.
    """
    if outcome.why == "timeout":
        return f"the run was ended: it took longer than {settings.timeout}"
    if outcome.why == "stopped":
        return "the run was ended: the service stops"
    return outcome.why.removeprefix("failed: ")
