# SPDX-License-Identifier: MIT
"""
Running a program and waiting for its end, with a limit of time.

It runs in a session of its own, so that ending it ends all that it started, while what
it leaves behind when it ends by itself (a daemon) goes on.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from attrs import frozen

from nodecomm.server.execution.accounts import Account, AccountError
from nodecomm.server.execution.processes import Family

__all__ = [
    "KILL_AFTER",
    "READ_SIZE",
    "Ended",
    "Program",
    "exit_text",
]

#: Seconds between asking a program to end and ending it.
KILL_AFTER = 10.0

#: Bytes of output that are read at a time: what a pipe holds on Linux.
READ_SIZE = 65536

#: Seconds for which more output is waited for after a program's end, when others hold
#: its output open: what is on its way through a filter has arrived by then, and a
#: daemon that was left behind holds up nobody for long.
_LINGER = 0.5

#: Reads after the end of a program: others may write to its output for ever.
_LAST_READS = 16

#: Seconds between two looks at what does not report its end: the shortest, and the
#: longest.
_LOOK_FIRST = 0.01
_LOOK_LAST = 0.25

#: Seconds after SIGKILL until a program counts as ended that has not: it hangs in
#: the system itself, on a file system that does not answer.
_GIVE_UP = 5.0

#: Descriptors that a program may have open, unless it asks for more: the usual number.
#: This process has raised its own to many more, and some programs close all that they
#: might have, one by one.
_DESCRIPTORS = 1024


@frozen
class Ended:
    """
    How a program ended.

    Attributes:
        status: Its exit status; negative: the number of the signal that ended it. None:
            it could not be started, or hangs beyond any signal.
        seconds: How long it ran.
        reason: Why it was ended: "timeout", what `Program.stop` was given, or the
            error that kept it from being started; "" when it ended by itself.
    """

    status: int | None
    seconds: float
    reason: str = ""

    @property
    def succeeded(self) -> bool:
        """
        Whether it ended by itself and said that all is well.
        """
        return self.status == 0 and not self.reason


def exit_text(status: int | None) -> str:
    """
    An exit status in words.
    """
    if status is None:
        return "not started"
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    return f"ended by {name}"


class Program:
    """
    One run of a program.
    """

    def __init__(
        self,
        command: Sequence[str] | str,
        *,
        timeout: float,
        tell: Callable[[bytes], object],
        kill_after: float = KILL_AFTER,
        account: Callable[[], Account] | None = None,
        umask: int = -1,
        errors: int = subprocess.STDOUT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            command: The program and its arguments; a text is for `/bin/sh -c`.
            timeout: Seconds it may take.
            tell: Takes output as it comes, at most `READ_SIZE` bytes, in the thread
                that runs the program.
            kill_after: Seconds between asking it to end and ending it.
            account: Finds as whom it runs, with the environment of that user and no
                other; None: as this process, with its environment.
            umask: What it takes away from the mode of files; -1: as this process.
            errors: A descriptor that its standard error is; else it is output, too.
            monotonic: Seconds of a clock that nobody sets.
        """
        if isinstance(command, str):
            command = ("/bin/sh", "-c", command)
        self.command = tuple(command)
        self._timeout = timeout
        self._tell = tell
        self._kill_after = kill_after
        self._account = account
        self._umask = umask
        self._errors = errors
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._bell: int | None = None
        self._paused = False
        self._stop = ""
        self._kill_at = math.inf

    def stop(self, reason: str = "stopped", kill_after: float | None = None) -> None:
        """
        End it. Any thread may call this, at any time; the first reason counts.

        Args:
            reason: Why.
            kill_after: Seconds that it has from now on, if that is less.
        """
        with self._lock:
            self._stop = self._stop or reason
            if kill_after is not None:
                until = self._monotonic() + kill_after
                self._kill_at = min(self._kill_at, until)
            self._ring()

    def pause(self) -> None:
        """
        Read no more of its output, which makes it wait when it prints more than a
        pipe holds. One more call of `tell` may be on its way. Any thread may call
        this, at any time.
        """
        with self._lock:
            self._paused = True

    def resume(self) -> None:
        """
        Read its output again.
        """
        with self._lock:
            self._paused = False
            self._ring()

    def _ring(self) -> None:
        """
        Wake the thread that runs it.
        """
        if self._bell is not None:
            # Full: it will wake all the same.
            with contextlib.suppress(BlockingIOError):
                os.write(self._bell, b"!")

    def run(self) -> Ended:
        """
        Run it to its end. Blocks; call it in a thread.
        """
        began = self._monotonic()
        if self._stop:
            return Ended(None, 0.0, self._stop)
        watch: _Watch | None = None
        try:
            # What can be lacking is there before the program is.
            watch = _Watch(self, began)
            process = self._begin()
        except (
            AccountError,
            OSError,
            ValueError,
            subprocess.SubprocessError,
        ) as error:
            if watch is not None:
                watch.close()
            reason = getattr(error, "strerror", None) or str(error)
            return Ended(None, self._monotonic() - began, f"{reason}")
        with self._lock:
            self._bell = watch.bell
        try:
            reason = watch.until_end(process)
        except BaseException:
            # Nobody would look after it, nor know that it is there.
            _end_now(process)
            raise
        finally:
            with self._lock:
                self._bell = None
            watch.close()
        return Ended(process.returncode, self._monotonic() - began, reason)

    def _begin(self) -> subprocess.Popen[bytes]:
        account = self._account() if self._account is not None else None
        return subprocess.Popen(  # noqa: S603
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd="/",
            env=None if account is None else account.environment,
            start_new_session=True,
            bufsize=0,
            umask=self._umask,
            **({} if account is None else account.switch),
        )


class _Watch:
    """
    The look at one process until it has ended.

    Attributes:
        bell: What is written into it wakes the thread that looks.
    """

    _process: subprocess.Popen[bytes]
    _family: Family
    _output: int

    def __init__(self, program: Program, began: float) -> None:
        self._program = program
        self._clock = program._monotonic
        self._limit = began + program._timeout
        self._open = True
        self._ended = False
        self._reads = 0
        self._reading = False
        self._pidfd: int | None = None
        self._selector = selectors.DefaultSelector()
        try:
            self._heard, self.bell = os.pipe()
        except BaseException:
            self._selector.close()
            raise
        os.set_blocking(self._heard, False)
        os.set_blocking(self.bell, False)

    def close(self) -> None:
        """
        Give back what this has opened.
        """
        self._selector.close()
        for descriptor in (self._heard, self.bell, self._pidfd):
            if descriptor is not None:
                os.close(descriptor)

    def until_end(self, process: subprocess.Popen[bytes]) -> str:
        """
        Read until the process has ended; returns why it was ended.
        """
        assert process.stdout is not None  # noqa: S101
        _limit_descriptors(process.pid)
        with process.stdout:
            self._process = process
            self._family = Family(process.pid)
            self._output = process.stdout.fileno()
            os.set_blocking(self._output, False)
            self._selector.register(self._heard, selectors.EVENT_READ)
            self._pidfd = _pidfd(process.pid)
            if self._pidfd is not None:
                self._selector.register(self._pidfd, selectors.EVENT_READ)
            return self._until_end()

    def _until_end(self) -> str:
        reason = self._while_running()
        if reason:
            self._end_all()
            self._last_words()
        else:
            self._linger()
        # Only now: until here its number is nobody else's.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GIVE_UP)
        return reason

    def _while_running(self) -> str:
        """
        Until it has ended, or is to be ended: then why.
        """
        while not self._has_ended():
            reason = self._program._stop
            if not reason and self._clock() >= self._limit:
                reason = "timeout"
            if reason:
                return reason
            self._turn(self._limit - self._clock())
        return ""

    def _linger(self) -> None:
        """
        It has ended by itself: what is on its way still comes.
        """
        until = self._clock() + _LINGER
        most = self._reads + _LAST_READS
        while self._open and not self._program._stop and self._reads < most:
            if self._program._paused:
                self._turn(None)
                until = self._clock() + _LINGER
                continue
            left = until - self._clock()
            if left <= 0:
                break
            self._turn(left)

    def _end_all(self) -> None:
        """
        Ask it and all that it started to end, and see to it that they do.
        """
        family = self._family
        family.send(signal.SIGTERM)
        until = self._clock() + self._program._kill_after
        pauses = _pauses()
        while family.lives():
            left = min(until, self._program._kill_at) - self._clock()
            if left <= 0:
                family.send(signal.SIGKILL)
                break
            self._turn(min(left, next(pauses)))
        # What SIGKILL has reached ends at once, but for what hangs in the system.
        until = self._clock() + _GIVE_UP
        pauses = _pauses()
        while not self._has_ended() and self._clock() < until:
            self._turn(next(pauses))

    def _last_words(self) -> None:
        """
        What is in the pipe.
        """
        for _ in range(_LAST_READS):
            if not self._open or not self._read(once=True):
                break

    def _has_ended(self) -> bool:
        """
        Whether the process has. Where it reports its end it is not waited for here.
        """
        if self._pidfd is None:
            self._ended = self._process.poll() is not None
        return self._ended

    def _turn(self, seconds: float | None) -> None:
        """
        Wait for something to happen, *seconds* at the most; None: as long as it
        takes.
        """
        wanted = self._open and not self._program._paused
        if wanted != self._reading:
            if wanted:
                self._selector.register(self._output, selectors.EVENT_READ)
            else:
                self._selector.unregister(self._output)
            self._reading = wanted
        if self._pidfd is None and not self._ended:
            seconds = _LOOK_LAST if seconds is None else min(seconds, _LOOK_LAST)
        for key, _ in self._selector.select(seconds):
            if key.fd == self._heard:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._heard, 4096)
            elif key.fd == self._output:
                self._read()
            else:
                self._ended = True
                self._selector.unregister(key.fd)

    def _read(self, *, once: bool = False) -> bool:
        """
        Read what is there; False at the end of the output, or (*once*) when nothing
        is there.
        """
        try:
            data = os.read(self._output, READ_SIZE)
        except BlockingIOError:
            return not once
        if data:
            self._reads += 1
            self._program._tell(data)
            return True
        self._open = False
        if self._reading:
            self._selector.unregister(self._output)
            self._reading = False
        return False


def _end_now(process: subprocess.Popen[bytes]) -> None:
    """
    End a process, and what it has started, without another look at it.
    """
    if process.returncode is not None:
        # Its number may be another's by now.
        return
    with contextlib.suppress(Exception):
        Family(process.pid).send(signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GIVE_UP)


def _pauses() -> Iterator[float]:
    """
    Seconds between looks at what does not report its end, longer and longer.
    """
    pause = _LOOK_FIRST
    while True:
        yield pause
        pause = min(pause * 2, _LOOK_LAST)


def _pidfd(number: int) -> int | None:
    """
    A descriptor that can be read from when the process has ended; None where the
    system has no such thing.
    """
    try:
        return os.pidfd_open(number)
    except (AttributeError, OSError):
        return None


def _limit_descriptors(number: int) -> None:
    """
    Give the process the usual number of descriptors, whatever this one has.
    """
    try:
        import resource  # noqa: PLC0415

        soft, hard = resource.prlimit(number, resource.RLIMIT_NOFILE)
        if soft > _DESCRIPTORS or soft == resource.RLIM_INFINITY:
            limits = (_DESCRIPTORS, hard)
            resource.prlimit(number, resource.RLIMIT_NOFILE, limits)
    except (ImportError, AttributeError, OSError, ValueError):
        # Not there, or not allowed to a process that has become another user: it
        # does with what it has.
        return
