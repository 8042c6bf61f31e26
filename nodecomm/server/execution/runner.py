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
from zope.interface import implementer

from nodecomm.config.execution import RunSettings
from nodecomm.server.execution.classes import full_hostname, node_classes, selects
from nodecomm.server.execution.executables import Programs
from nodecomm.server.execution.listening import Listener
from nodecomm.server.execution.orders import IRunner, RunOutcome
from nodecomm.server.execution.run_log import RunLog
from nodecomm.server.execution.runs import Run, run_key

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from nodecomm.server.execution.executables import Executable
    from nodecomm.server.execution.orders import RunOrder, RunSink, Ticket

__all__ = ["SAY_AGAIN", "Runner"]

#: Seconds after which those who wait for their turn are told so again.
SAY_AGAIN = 30.0

#: What those are told whose run will never begin.
_STOPPING = "the service stops; not begun"
_BUSY = "another run of the same is under way; not begun"
_TOO_MANY = "too many runs wait for their turn already; not begun"


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
        self._running: list[Run] = []
        self._waiting: list[Run] = []
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
        if (
            same is not None
            and same.began is not None
            and order.execution.is_sync
            and self._settings.again == "join"
        ):
            # It may have seen the policy server before what is asked for now was
            # there. Those who come while another one waits share that.
            same = self._find(order, self._waiting)
        if same is not None and self._settings.again == "join":
            return self._join(same, order, sink)
        if same is not None and self._settings.again == "refuse":
            return self._refuse(order, sink, "busy", _BUSY)
        free = len(self._running) < self._settings.at_once and not self._waiting
        if not free and len(self._waiting) >= self._settings.waiting:
            return self._refuse(order, sink, "too_many_waiting", _TOO_MANY)
        run = Run(order, self, self.monotonic())
        listener = run.take(order, sink)
        self._waiting.append(run)
        if free:
            self._let_begin()
        else:
            before = len(self._running) + len(self._waiting) - 1
            self.log.waits(order, before)
            listener.notice(_waits_text(before))
            self._keep_time()
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

    def forget(self, run: Run) -> None:
        """
        It waits and runs no more.
        """
        for known in (self._running, self._waiting):
            if run in known:
                known.remove(run)

    def go_on(self) -> None:
        """
        It may be another one's turn.
        """
        self._let_begin()
        if self._stopping and not self._running:
            stopped, self._stopped = self._stopped, []
            for each in stopped:
                each.callback(None)

    # Within.

    def _find(self, order: RunOrder, among: Sequence[Run] | None = None) -> Run | None:
        """
        A run for the same that is under way, or waits.
        """
        key = run_key(order)
        for run in (*self._running, *self._waiting) if among is None else among:
            if run.key == key and not run.over and run.listeners:
                return run
        return None

    def _join(self, run: Run, order: RunOrder, sink: RunSink) -> Ticket:
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
        listener = Listener(order, sink, None)
        listener.refused(text)
        return listener

    def _give_up(self, run: Run) -> None:
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
                if run.judge():
                    self._running.append(run)
                    run.begin(self._executable)
        finally:
            self._letting_begin = False
        self._keep_time()

    def _keep_time(self) -> None:
        """
        Have the timer run while there is somebody who may have to be told something.
        """
        busy = bool(self._running or self._waiting)
        if busy and self._timer is None:
            self._timer = self._reactor.callLater(SAY_AGAIN, self._say_again)
        elif not busy and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _say_again(self) -> None:
        """
        Those who wait know nothing else of it, and some give up when nothing comes.
        """
        self._timer = None
        for run in list(self._running):
            run.break_silence()
        for index, run in enumerate(list(self._waiting)):
            text = _waits_text(len(self._running) + index)
            for listener in list(run.listeners):
                listener.notice(text)
        self._keep_time()


def _waits_text(before: int) -> str:
    runs = "1 run comes" if before == 1 else f"{before} runs come"
    return f"waiting: {runs} before this one"
