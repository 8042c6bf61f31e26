# SPDX-License-Identifier: MIT
"""
Running a program and waiting for its end, with a limit of time and of words.

It runs in a session of its own, so that ending it ends all that it started, while what
it leaves behind when it ends by itself (a daemon) goes on.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from attrs import define, field, frozen

__all__ = ["KILL_AFTER", "LONGEST_LINE", "MOST_LINES", "Ended", "Program", "exit_text"]

#: Seconds between asking a program to end and ending it.
KILL_AFTER = 10.0

#: Lines of output that are told, and bytes of each; the rest is only counted.
MOST_LINES = 200
LONGEST_LINE = 1000

#: Seconds between two looks at whether the program has ended. Its output may be held
#: open by what it left behind, so the end of the output is not its end.
_LOOK_EVERY = 0.05

#: Reads of up to 64 KiB after its end.
_LAST_READS = 16


@frozen
class Ended:
    """
    How a program ended.

    Attributes:
        status: Its exit status; negative: the number of the signal that ended it. None:
            it could not be started.
        seconds: How long it ran.
        reason: Why it was ended: "timeout", "stopped", or the error that kept it from
            being started; "" when it ended by itself.
        lines: Lines of output that were told.
        dropped: Lines of output that were not.
    """

    status: int | None
    seconds: float
    reason: str = ""
    lines: int = 0
    dropped: int = 0

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


@define
class _Lines:
    """
    Output on its way to lines.
    """

    tell: Callable[[bytes], object]
    told: int = 0
    dropped: int = 0
    _rest: bytearray = field(factory=bytearray)
    _cut: bool = False

    def add(self, data: bytes) -> None:
        """
        More output.
        """
        *whole, last = data.split(b"\n")
        for line in whole:
            self._keep(line)
            self._end()
        self._keep(last)

    def finish(self) -> None:
        """
        There is no more.
        """
        if self._rest:
            self._end()

    def _keep(self, data: bytes) -> None:
        room = LONGEST_LINE - len(self._rest)
        self._rest += data[:room]
        self._cut |= len(data) > room

    def _end(self) -> None:
        line = bytes(self._rest).rstrip(b"\r") + (b"..." if self._cut else b"")
        self._rest.clear()
        self._cut = False
        if self.told < MOST_LINES:
            self.told += 1
            self.tell(line)
        else:
            self.dropped += 1


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
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            command: The program and its arguments; a text is for `/bin/sh -c`.
            timeout: Seconds it may take.
            tell: Takes each line of output, in the thread that runs the program.
            kill_after: Seconds between asking it to end and ending it.
            monotonic: Seconds of a clock that nobody sets.
        """
        if isinstance(command, str):
            command = ("/bin/sh", "-c", command)
        self.command = tuple(command)
        self._timeout = timeout
        self._tell = tell
        self._kill_after = kill_after
        self._monotonic = monotonic
        self._stop = threading.Event()

    def stop(self) -> None:
        """
        End it. Any thread may call this, at any time.
        """
        self._stop.set()

    def run(self) -> Ended:
        """
        Run it to its end. Blocks; call it in a thread.
        """
        began = self._monotonic()
        lines = _Lines(self._tell)
        try:
            process = subprocess.Popen(  # noqa: S603
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return Ended(None, self._monotonic() - began, f"{reason}")
        with process:
            reason = self._watch(process, lines, began)
            lines.finish()
        status = process.returncode
        seconds = self._monotonic() - began
        return Ended(status, seconds, reason, lines.told, lines.dropped)

    def _watch(
        self, process: subprocess.Popen[bytes], lines: _Lines, began: float
    ) -> str:
        """
        Read until the process has ended; returns why it was ended.
        """
        assert process.stdout is not None  # noqa: S101
        output = process.stdout.fileno()
        os.set_blocking(output, False)
        reason = ""
        asked = 0.0
        killed = False
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            open_ = True
            while process.poll() is None:
                if open_ and selector.select(_LOOK_EVERY):
                    open_ = _read(output, lines)
                    if not open_:
                        selector.unregister(output)
                elif not open_:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_LOOK_EVERY)
                now = self._monotonic()
                if not reason:
                    reason = self._why_end(now - began)
                    if reason:
                        asked = now
                        _end_group(process, signal.SIGTERM)
                elif not killed and now - asked >= self._kill_after:
                    killed = True
                    _end_group(process, signal.SIGKILL)
        if reason and not killed:
            # It ended when it was asked to; not so, perhaps, what it had started.
            _end_group(process, signal.SIGKILL)
        # Its last words; what it left behind may write for ever.
        for _ in range(_LAST_READS):
            if not open_ or not _read(output, lines, once=True):
                break
        return reason

    def _why_end(self, seconds: float) -> str:
        if self._stop.is_set():
            return "stopped"
        return "timeout" if seconds >= self._timeout else ""


def _read(output: int, lines: _Lines, *, once: bool = False) -> bool:
    """
    Read what is there; False at the end of the output, or (*once*) when nothing is
    there.
    """
    try:
        data = os.read(output, 65536)
    except BlockingIOError:
        return not once
    lines.add(data)
    return bool(data)


def _end_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """
    Send a signal to all that the program started.
    """
    # The session's leader has the number of its group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
