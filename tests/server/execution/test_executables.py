# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.server.execution.executables`: real programs.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.server.execution.executables import Programs, Running
from nodecomm.server.execution.orders import RunOutcome
from nodecomm.server.execution.programs import Program
from tests.interop.machine import wait_until
from tests.server.execution.run_case import make_order

#: Seconds after which a test that waits for something has failed.
PATIENCE = 60


@define(eq=False)
class Watched:
    """
    A program, and all that was told of it. What its thread has called waits until the
    test takes it.
    """

    command: tuple[str, ...] | str
    settings: dict[str, Any] = field(factory=dict)
    wants: Callable[[bytes], bool] = lambda data: True
    output_: list[bytes] = field(factory=list)
    outcome: RunOutcome | None = None
    calls: queue.Queue[Callable[[], object]] = field(factory=queue.Queue)

    def begin(self) -> Running:
        """Run it."""
        order = make_order(command=self.command, **self.settings)
        programs = Programs(lambda call, *args: self.calls.put(lambda: call(*args)))
        return programs.begin(order, self)

    def take(self) -> None:
        """Take the next call."""
        self.calls.get(timeout=PATIENCE)()

    def until_end(self) -> RunOutcome:
        """Take all calls up to the last one."""
        while self.outcome is None:
            self.take()
        return self.outcome

    def output(self, data: bytes) -> bool:
        """Some output."""
        self.output_.append(data)
        return self.wants(data)

    def ended(self, outcome: RunOutcome) -> None:
        """The end."""
        self.outcome = outcome

    @property
    def printed(self) -> bytes:
        """All output."""
        return b"".join(self.output_)


@pytest.mark.parametrize(
    ("command", "code", "number", "printed"),
    [
        (("/bin/true",), 0, None, b""),
        (("/bin/sh", "-c", "echo out; echo err >&2; exit 3"), 3, None, b"out\nerr\n"),
        ("echo $0; exit 255", 255, None, b"/bin/sh\n"),
        ("kill -TERM $$", None, signal.SIGTERM, b""),
        ("kill -KILL $$", None, signal.SIGKILL, b""),
        ("echo $HOME $USER; umask; pwd; tty", 1, None, b"*\n0022\n/\nnot a tty\n"),
        ("/no/such/program", 127, None, b"*"),
    ],
)
def test_how_programs_end(
    command: tuple[str, ...] | str, code: int | None, number: int | None, printed: bytes
) -> None:
    """The exit code, or the signal and no exit code; with all output before it."""
    watched = Watched(command)
    watched.begin()
    outcome = watched.until_end()

    assert (outcome.exit_code, outcome.signal, outcome.why) == (code, number, "")
    begin, star, end = printed.partition(b"*")
    assert watched.printed.startswith(begin)
    assert watched.printed.endswith(end) if star else watched.printed == begin


@pytest.mark.parametrize(
    ("command", "run_as", "text"),
    [
        (("/no/such/program",), None, "No such file or directory"),
        (("/etc/passwd",), None, "Permission denied"),
        (("/bin/true",), "no-such-user", 'there is no user "no-such-user"'),
        (("/b\x1bin/\udcff",), None, "No such file or directory"),
    ],
)
def test_what_cannot_be_begun(
    command: tuple[str, ...], run_as: str | None, text: str
) -> None:
    """It is told as an end, with the reason and the exit code of a real server."""
    watched = Watched(command, {"run_as": run_as})
    watched.begin()
    outcome = watched.until_end()

    assert (outcome.exit_code, outcome.signal) == (1, None)
    assert outcome.why.startswith("failed: cannot run /")
    assert text in outcome.why
    assert outcome.why.isprintable()


def test_a_limit_of_time() -> None:
    """What takes too long is ended, and the reason told."""
    watched = Watched(("/bin/sleep", "1000"), {"timeout": "1s"})
    watched.begin()
    outcome = watched.until_end()

    assert (outcome.why, outcome.signal) == ("timeout", signal.SIGTERM)
    assert outcome.exit_code is None


class BrokenTests(SynchronousTestCase):
    """
    Mistakes of ours.
    """

    def test_a_thread_that_fails(self) -> None:
        """It is logged, and the run counts as ended."""
        watched = Watched(("/bin/true",))
        with mock.patch.object(Program, "run", side_effect=RuntimeError("made up")):
            watched.begin()
            outcome = watched.until_end()

        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual("failed: cannot run /bin/true: internal error", outcome.why)


def test_stopping() -> None:
    """
    Who is ended in the middle has the reason in the outcome; the time it has to end
    by itself can be cut short.
    """
    watched = Watched("trap '' TERM; echo up; while :; do sleep 0.05; done")
    running = watched.begin()
    watched.take()
    running.stop("left")
    running.stop("stopped", 0.0)
    outcome = watched.until_end()

    assert watched.printed == b"up\n"
    assert (outcome.why, outcome.signal) == ("left", signal.SIGKILL)


def test_no_more_than_a_few_pieces_are_on_their_way() -> None:
    """
    While nobody takes its output a program waits, whatever it has to print; when it is
    taken all of it comes.
    """
    watched = Watched((sys.executable, "-c", "print('x' * 5_000_000, end='')"))
    running: Any = watched.begin()
    wait_until(lambda: len(running._arriving) == 2, "two pieces", PATIENCE)
    watched.take()
    wait_until(lambda: len(running._arriving) == 2, "two pieces again", PATIENCE)
    outcome = watched.until_end()

    assert outcome.exit_code == 0
    assert watched.printed == b"x" * 5_000_000


def test_few_lines_in_a_turn() -> None:
    """
    Of many short lines there are not more in one turn of the reactor than it makes
    frames of in a moment; the end comes behind all of them.
    """
    watched = Watched((sys.executable, "-c", "print('\\n' * 200_000 + 'end', end='')"))
    watched.begin()

    assert watched.until_end().exit_code == 0
    assert watched.printed == b"\n" * 200_000 + b"end"
    assert max(piece.count(b"\n") for piece in watched.output_) <= 1024
    assert watched.calls.empty()


def test_pausing() -> None:
    """One who pauses gets what is on its way, and then nothing until he goes on."""
    watched = Watched((sys.executable, "-c", "print('x' * 5_000_000, end='')"))
    running = watched.begin()
    watched.take()
    running.pause()
    with pytest.raises(queue.Empty):
        for _ in range(4):
            watched.calls.get(timeout=0.2)()
    assert len(watched.output_) <= 3
    running.resume()

    assert watched.until_end().exit_code == 0
    assert len(watched.printed) == 5_000_000


def test_output_that_nobody_wants() -> None:
    """
    When no more of its output is wanted the program goes on to its end, and the
    reactor is bothered with none of it.
    """
    watched = Watched(
        (sys.executable, "-c", "print('x' * 20_000_000); raise SystemExit(4)"),
        wants=lambda data: False,
    )
    watched.begin()

    assert watched.until_end().exit_code == 4
    assert len(watched.output_) <= 4


def test_a_daemon_is_left_alone() -> None:
    """
    What a program leaves behind goes on, as when it has started a service again, and
    does not hold up the end.
    """
    watched = Watched("(setsid sh -c 'echo $$; exec sleep 1000' &); sleep 0.1")
    watched.begin()

    assert watched.until_end().exit_code == 0
    os.kill(int(watched.printed), signal.SIGKILL)
