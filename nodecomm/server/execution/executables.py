# SPDX-License-Identifier: MIT
"""
What can be run for peers, and programs as one kind of it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger

from nodecomm.config.durations import parse_duration
from nodecomm.server.execution.accounts import find_account
from nodecomm.server.execution.command_line import command_line, shown_command
from nodecomm.server.execution.orders import RunOutcome
from nodecomm.server.execution.programs import Ended, Program
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.server.execution.orders import RunOrder

__all__ = ["Executable", "Programs", "RunWatcher", "Running"]

#: Pieces of output on their way from a program's thread to the reactor, from which on
#: it is not read. Each is at most 64 KiB.
_ON_THE_WAY = 2

#: Lines in one piece of output, of which there is one in each turn of the reactor: each
#: of them is a frame to be made. A pipe may hold 65,536 at once.
_LINES_A_TURN = 1024

#: Source: CFEngine 3.21, observed, of a program that exists and cannot be started.
_NOT_STARTED = 1

#: What a run takes away from the mode of the files it makes.
_UMASK = 0o022


class RunWatcher(Protocol):
    """
    Who is told of one run, in the reactor's thread.
    """

    def output(self, data: bytes) -> bool:
        """
        It has printed *data*; at most 65536 bytes.

        Returns:
            Whether more of it is wanted. It runs on in either case.
        """
        ...

    def ended(self, outcome: RunOutcome) -> None:
        """
        It has ended, and all of its output was given. `outcome.why` is `timeout`,
        what `Running.stop` was given, `failed: ...` or empty.
        """
        ...


class Running(Protocol):
    """
    A run that has begun. Each call may come at any time; when it has ended nothing
    happens.
    """

    def pause(self) -> None:
        """
        Give no output for now; what is on its way may still come, some 1 MiB at the
        most.
        """
        ...

    def resume(self) -> None:
        """
        Give output again.
        """
        ...

    def stop(self, why: str, grace: float | None = None) -> None:
        """
        End it; the watcher is told when it has.

        Args:
            why: What `RunOutcome.why` becomes.
            grace: Seconds until it is ended against its will, if that is less than
                the configuration says.
        """
        ...


class Executable(Protocol):
    """
    A kind of what can be run.
    """

    def command(self, order: RunOrder) -> bytes:
        """
        What is run for *order*, as the peer is told.
        """
        ...

    def begin(self, order: RunOrder, watcher: RunWatcher) -> Running:
        """
        Run it. It keeps to the limit of time in `order.execution.settings`.
        """
        ...


class Programs:
    """
    Runs the command of the configuration, each run in a thread of its own.

    Args:
        from_thread: Has a function called soon by the reactor's thread
            (`IReactorFromThreads.callFromThread`).
    """

    def __init__(self, from_thread: Callable[..., object]) -> None:
        self._from_thread = from_thread

    def command(self, order: RunOrder) -> bytes:
        """
        The command with all its arguments.
        """
        return shown_command(order)

    def begin(self, order: RunOrder, watcher: RunWatcher) -> Running:
        """
        Start a thread that starts the program and waits for its end.
        """
        return _Thread(order, watcher, self._from_thread)


class _Thread:
    """
    One program, between its thread and the reactor's.
    """

    _log = Logger()

    def __init__(
        self,
        order: RunOrder,
        watcher: RunWatcher,
        from_thread: Callable[..., object],
    ) -> None:
        execution = order.execution
        self._watcher = watcher
        self._from_thread = from_thread
        self._name = to_text(os.fsencode(command_line(order)[0]))
        self._why = ""
        self._lock = threading.Lock()
        #: What is on its way, and whether the reactor will come for it.
        self._arriving: deque[bytes | Ended] = deque()
        self._called = False
        self._held = False
        self._muted = False
        self._program = Program(
            command_line(order),
            timeout=parse_duration(execution.settings.timeout),
            tell=self._tell,
            kill_after=parse_duration(execution.settings.kill_after),
            account=lambda: find_account(execution.user),
            umask=_UMASK,
        )
        # Not one of a pool: those are waited for when the process ends, also when a
        # program hangs beyond any signal.
        threading.Thread(target=self._run, daemon=True, name="nodecomm-run").start()

    def pause(self) -> None:
        """
        Read no more.
        """
        self._held = True
        self._program.pause()

    def resume(self) -> None:
        """
        Read again, once what is on its way has arrived.
        """
        self._held = False
        with self._lock:
            self._go_on()

    def stop(self, why: str, grace: float | None = None) -> None:
        """
        End it, and all that it started.
        """
        self._why = self._why or why
        self._program.stop(why, grace)

    # In the program's thread.

    def _run(self) -> None:
        try:
            ended = self._program.run()
        except Exception:
            self._log.failure("the program {name} is out of sight", name=self._name)
            ended = Ended(None, 0.0, "internal error")
        self._send([ended])

    def _tell(self, data: bytes) -> None:
        if not self._muted:
            self._send(_pieces(data))

    def _send(self, items: Iterable[bytes | Ended]) -> None:
        with self._lock:
            self._arriving += items
            if len(self._arriving) >= _ON_THE_WAY:
                self._program.pause()
            called, self._called = self._called, True
        if not called:
            self._from_thread(self._arrive)

    # In the reactor's.

    def _arrive(self) -> None:
        """
        Take the next piece. Others have their turn before there is another.
        """
        with self._lock:
            item = self._arriving.popleft()
            more = self._called = bool(self._arriving)
        if isinstance(item, Ended):
            self._watcher.ended(self._outcome(item))
            return
        if more:
            self._from_thread(self._arrive)
        if not self._watcher.output(item):
            self._muted = True
        with self._lock:
            self._go_on()

    def _go_on(self) -> None:
        if len(self._arriving) < _ON_THE_WAY and not self._held:
            self._program.resume()

    def _outcome(self, ended: Ended) -> RunOutcome:
        """
        How it ended, as peers and operators are told.
        """
        status, seconds, why = ended.status, ended.seconds, ended.reason
        if why not in ("", "timeout", self._why):
            failed = f"failed: cannot run {self._name}: {why}"
            return RunOutcome(_NOT_STARTED, None, seconds, failed)
        if status is not None and status < 0:
            return RunOutcome(None, -status, seconds, why)
        return RunOutcome(status, None, seconds, why)


def _pieces(data: bytes) -> Iterator[bytes]:
    """
    *data* in pieces, none of which has too many lines.
    """
    if data.count(b"\n") <= _LINES_A_TURN:
        yield data
        return
    middle = len(data) // 2
    yield from _pieces(data[:middle])
    yield from _pieces(data[middle:])
