# SPDX-License-Identifier: MIT
"""
Who may run when, and who listens to which run.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from nodecomm.config.durations import duration_text
from nodecomm.config.execution import RunSettings
from nodecomm.server.execution.classes import full_hostname, node_classes, selects
from nodecomm.server.execution.executables import Programs
from nodecomm.server.execution.listening import Listener
from nodecomm.server.execution.orders import IRunner, RunOutcome
from nodecomm.server.execution.run_log import RunLog

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from nodecomm.server.execution.executables import Executable, Running
    from nodecomm.server.execution.orders import RunOrder, RunSink, Ticket

__all__ = ["SAY_AGAIN", "TAIL", "Runner"]

#: Bytes of a run's output that are kept for those who join it.
TAIL = 65536

#: Seconds after which those who wait are told so again.
#: Source: cf-runagent of CFEngine 3.21, observed: it gives up after 185 s of silence.
SAY_AGAIN = 60.0


class _Run:
    """
    One run: it waits, has begun, or is over.

    Attributes:
        order: What those asked for who asked first.
        listeners: Who listens, in the order of arrival. The program runs no faster
            than the first of them reads.
        began: When it began; None: it waits.
        over: Whether it has ended.
    """

    def __init__(self, order: RunOrder, runner: Runner, asked: float) -> None:
        self.order = order
        self.key = _key(order)
        self.listeners: list[Listener] = []
        self.began: float | None = None
        self.over = False
        self._runner = runner
        self._asked = asked
        self._command = b""
        self._running: Running | None = None
        self._paused = False
        self._joined = 0
        self._tail = bytearray()
        self._printed = 0
        self._lines = 0
        self._cut = False

    # For the runner.

    def take(self, order: RunOrder, sink: RunSink) -> Listener:
        """
        One more listens from now on.
        """
        listener = Listener(sink, self)
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
        self.began = self._runner.monotonic()
        waited = self.began - self._asked
        try:
            self._command = executable.command(self.order)
            self._runner.log.started(self.order, self._command, waited)
            for listener in list(self.listeners):
                listener.begun(self._command)
            running = executable.begin(self.order, self)
        except Exception:
            self._runner.unexpected("a run could not be begun")
            self.ended(RunOutcome(None, why="failed: internal error"))
            return
        if not self.over:
            self._running = running
            self.look()

    def stop(self, why: str, grace: float | None = None) -> None:
        """
        End it, if it has begun.
        """
        if self._running is not None:
            self._running.stop(why, grace)

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
            self._runner.withdraw(self)
        else:
            self.stop("left")

    # For what runs (`RunWatcher`).

    def output(self, data: bytes) -> None:
        """
        Tell all.
        """
        limit = self.order.execution.settings.output_limit
        room = limit - self._printed
        self._printed += len(data)
        self._lines += data.count(b"\n")
        if room > 0:
            shown = data[:room]
            self._tail = (self._tail + shown)[-TAIL:]
            for listener in list(self.listeners):
                listener.output(shown)
        if self._printed > limit and not self._cut:
            self._cut = True
            for listener in list(self.listeners):
                listener.notice(_cut_text(limit))
        self.look()

    def ended(self, outcome: RunOutcome) -> None:
        """
        Tell all.
        """
        if self.over:
            return
        self.over = True
        self._running = None
        text = _end_text(outcome, self.order.execution.settings)
        listeners, self.listeners = self.listeners, []
        for listener in listeners:
            if text:
                listener.notice(text)
            listener.ended(outcome)
        self.log_end(outcome)
        self._runner.run_ended(self)

    def log_end(self, outcome: RunOutcome) -> None:
        """
        State what became of it.
        """
        until = self._runner.monotonic() if self.began is None else self.began
        self._runner.log.ended(
            self.order,
            outcome,
            until - self._asked,
            lines=self._lines,
            bytes=self._printed,
            cut=self._cut,
            joined=self._joined,
        )

    def _catch_up(self, listener: Listener) -> None:
        """
        What was before the listener came.
        """
        assert self.began is not None  # noqa: S101
        listener.begun(self._command)
        limit = self.order.execution.settings.output_limit
        printed = min(self._printed, limit)
        tail = bytes(self._tail)
        seconds = duration_text(self._runner.monotonic() - self.began)
        text = f"joined a run that was begun {seconds} ago"
        if len(tail) < printed:
            # What is kept may begin within a line.
            head, newline, rest = tail.partition(b"\n")
            tail = rest if newline else head
            text += f"; the first {printed - len(tail)} bytes of its output are missing"
        listener.notice(text)
        if tail:
            listener.output(tail)
        if self._cut:
            listener.notice(_cut_text(limit))


@implementer(IRunner)
class Runner:
    """
    Runs what peers may have run: so many at a time, the others wait in the order of
    their arrival; requests for the same may share a run.

    A run that nobody listens to any more is ended, with all that it started.

    Args:
        reactor: For timers, and to get back from threads.
        settings: `[run]`. How long a run may take and how much it may print is looked
            up in its order, which has the settings that its request began with.
        executable: What is run; None: the command of the configuration.
        log: Where the events go.
        monotonic: Seconds of a clock that nobody sets.

    Attributes:
        hostnames: The names of this host, of which its classes are made.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: RunSettings | None = None,
        *,
        executable: Executable | None = None,
        log: RunLog | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log = RunLog() if log is None else log
        self.monotonic = monotonic
        self.hostnames: tuple[str, ...] = (socket.gethostname(),)
        self._reactor = reactor
        self._settings = RunSettings() if settings is None else settings
        self._executable = (
            Programs(reactor.callFromThread) if executable is None else executable
        )
        self._running: list[_Run] = []
        self._waiting: list[_Run] = []
        self._letting_begin = False
        self._stopping = False
        self._stopped: list[Deferred[None]] = []
        self._timer: IDelayedCall | None = None

    @property
    def running(self) -> int:
        """
        Runs that have begun and not ended.
        """
        return len(self._running)

    @property
    def waiting(self) -> int:
        """
        Runs that wait for their turn.
        """
        return len(self._waiting)

    # What others ask for (`IRunner`).

    def selects(self, patterns: Sequence[bytes]) -> bool:
        """
        Whether one of *patterns* matches a class of this node. Addresses change, so
        the classes are found out each time, which takes less than a millisecond.
        """
        classes = node_classes(self._settings.classes, hostnames=self.hostnames)
        return selects(classes, patterns)

    def ask(self, order: RunOrder, sink: RunSink) -> Ticket:
        """
        Have *order* run, now or when it is its turn, and tell *sink*.
        """
        if self._stopping:
            return self._refuse(order, sink, "stopping", _STOPPING)
        same = self._find(order)
        if same is not None and self._settings.again == "join":
            return self._join(same, order, sink)
        if same is not None and self._settings.again == "refuse":
            return self._refuse(order, sink, "busy", _BUSY)
        free = len(self._running) < self._settings.at_once and not self._waiting
        if not free and len(self._waiting) >= self._settings.waiting:
            return self._refuse(order, sink, "too_many_waiting", _TOO_MANY)
        run = _Run(order, self, self.monotonic())
        listener = run.take(order, sink)
        self._waiting.append(run)
        if free:
            self._let_begin()
        else:
            before = len(self._running) + len(self._waiting) - 1
            self.log.waits(order, before)
            listener.notice(_waits_text(before))
            self._say_again_later()
        return listener

    def stop(self, grace: float | None = None) -> Deferred[None]:
        """
        End all runs, and refuse further ones.

        Args:
            grace: Seconds until they are ended against their will, if that is less
                than `kill_after`.

        Returns:
            Fires when no program is left.
        """
        self._stopping = True
        waiting, self._waiting = self._waiting, []
        for run in waiting:
            self._give_up(run)
        self._let_begin()
        for run in list(self._running):
            run.stop("stopped", grace)
        if not self._running:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._stopped.append(stopped)
        return stopped

    def apply(self, settings: RunSettings) -> None:
        """
        Take over changed settings, for runs that begin from now on.
        """
        self._settings = settings
        self._let_begin()

    def find_hostname(self) -> None:
        """
        Look up this host's name with its domain, which is among its classes from
        then on. Name servers may take their time; nothing waits for them.
        """

        def found(name: str) -> None:
            if name:
                self.hostnames = (socket.gethostname(), name)

        def look_up() -> None:
            self._reactor.callFromThread(found, full_hostname())

        threading.Thread(target=look_up, daemon=True, name="nodecomm-hostname").start()

    # What runs ask for.

    def withdraw(self, run: _Run) -> None:
        """
        Nobody waits for it any more.
        """
        if run in self._waiting:
            self._waiting.remove(run)
            run.over = True
            run.log_end(RunOutcome(None, why="left"))

    def run_ended(self, run: _Run) -> None:
        """
        It is another one's turn.
        """
        if run in self._running:
            self._running.remove(run)
        self._let_begin()
        if self._stopping and not self._running:
            stopped, self._stopped = self._stopped, []
            for each in stopped:
                each.callback(None)

    def unexpected(self, text: str) -> None:
        """
        Log an error of our own, with its traceback.
        """
        self._log.failure(text)

    # Within.

    def _find(self, order: RunOrder) -> _Run | None:
        """
        A run for the same that is under way, or waits.
        """
        key = _key(order)
        for run in (*self._running, *self._waiting):
            if run.key == key and not run.over and run.listeners:
                return run
        return None

    def _join(self, run: _Run, order: RunOrder, sink: RunSink) -> Ticket:
        began = run.began
        self.log.joined(
            order, run.order, None if began is None else self.monotonic() - began
        )
        listener = run.take(order, sink)
        if began is None:
            before = len(self._running) + self._waiting.index(run)
            listener.notice(_waits_text(before))
        return listener

    def _refuse(self, order: RunOrder, sink: RunSink, reason: str, text: str) -> Ticket:
        self.log.refused(order, reason, text)
        listener = Listener(sink, None)
        listener.refused(text)
        return listener

    def _give_up(self, run: _Run) -> None:
        """
        The service stops before it was its turn.
        """
        run.over = True
        listeners, run.listeners = run.listeners, []
        for listener in listeners:
            listener.refused(_STOPPING)
        run.log_end(RunOutcome(None, why="stopped"))

    def _let_begin(self) -> None:
        # What ends at once must not call this deeper and deeper.
        if self._letting_begin:
            return
        self._letting_begin = True
        try:
            while self._waiting and len(self._running) < self._settings.at_once:
                run = self._waiting.pop(0)
                self._running.append(run)
                run.begin(self._executable)
        finally:
            self._letting_begin = False
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _say_again_later(self) -> None:
        if self._timer is None:
            self._timer = self._reactor.callLater(SAY_AGAIN, self._say_again)

    def _say_again(self) -> None:
        """
        Those who wait know nothing else of it, and some give up when nothing comes.
        """
        self._timer = None
        for index, run in enumerate(list(self._waiting)):
            text = _waits_text(len(self._running) + index)
            for listener in list(run.listeners):
                listener.notice(text)
        if self._waiting:
            self._say_again_later()


_STOPPING = "the service stops; not begun"
_BUSY = "another run of the same is under way; not begun"
_TOO_MANY = "too many runs wait for their turn already; not begun"


def _key(order: RunOrder) -> tuple[object, ...]:
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


def _waits_text(before: int) -> str:
    runs = "1 run comes" if before == 1 else f"{before} runs come"
    return f"waiting: {runs} before this one"


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
