# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_command`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from nodecomm.service.agent_command import (
    LONGEST_LINE,
    MOST_LINES,
    Ended,
    Program,
    exit_text,
)
from tests.interop.machine import wait_until


def run(
    *command: str, timeout: float = 60.0, kill_after: float = 60.0
) -> tuple[Ended, list[bytes]]:
    """Run a program; how it ended and what it said."""
    lines: list[bytes] = []
    program = Program(
        command, timeout=timeout, tell=lines.append, kill_after=kill_after
    )
    return program.run(), lines


def group_lives(number: int) -> bool:
    """
    Whether a process of this group runs. One that has ended and whose parent does not
    look does not.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, group, *_ = (
                (entry / "stat").read_text().rpartition(")")[2].split()
            )
        except OSError:
            continue
        if int(group) == number and state != "Z":
            return True
    return False


def test_output_and_status() -> None:
    """Both streams become lines in their order, and the status is told."""
    ended, lines = run("/bin/sh", "-c", "echo one; echo two >&2; printf three; exit 7")

    assert lines == [b"one", b"two", b"three"]
    assert (ended.status, ended.reason, ended.lines) == (7, "", 3)
    assert not ended.succeeded


def test_no_shell() -> None:
    """The arguments of a list reach the program as they are."""
    odd = "$HOME; echo `id` && * \\ 'x"
    ended, lines = run(sys.executable, "-c", "import sys; print(sys.argv[1:])", odd)

    assert ended.succeeded
    assert lines == [repr([odd]).encode()]


def test_a_text_is_for_the_shell() -> None:
    """A command that is one text is read by /bin/sh."""
    lines: list[bytes] = []
    program = Program("echo a && echo b", timeout=60, tell=lines.append)

    assert program.run().succeeded
    assert lines == [b"a", b"b"]


@pytest.mark.parametrize(
    "command", [("/no/such/program",), ("/etc/passwd",), ("/a\0",)]
)
def test_what_cannot_be_started(command: tuple[str, ...]) -> None:
    """A program that is not there is an outcome with a reason, not an exception."""
    ended, lines = run(*command)

    assert ended.status is None
    assert ended.reason
    assert not ended.succeeded
    assert lines == []


def test_a_limit_of_lines_and_bytes() -> None:
    """Of endless output the first lines are told, each cut, the rest is counted."""
    ended, lines = run(
        "/bin/sh", "-c", f"seq -f %0{LONGEST_LINE * 2}.0f {MOST_LINES + 5}"
    )

    assert len(lines) == MOST_LINES
    assert ended.dropped == 5
    assert {len(line) for line in lines} == {LONGEST_LINE + 3}
    assert lines[0].endswith(b"...")


def test_a_limit_of_time() -> None:
    """A program that takes too long is ended with all that it started."""
    ended, lines = run("/bin/sh", "-c", "echo $$; sleep 1000 & wait", timeout=0.2)

    assert ended.reason == "timeout"
    assert ended.status == -signal.SIGTERM
    wait_until(lambda: not group_lives(int(lines[0])), "the end of the group", 20)


def test_one_that_does_not_want_to_end() -> None:
    """Who ignores the request is killed, some time later."""
    ended, lines = run(
        "/bin/sh",
        "-c",
        "trap '' TERM; echo $$; while :; do sleep 0.05; done",
        timeout=0.2,
        kill_after=0.3,
    )

    assert (ended.reason, ended.status) == ("timeout", -signal.SIGKILL)
    wait_until(lambda: not group_lives(int(lines[0])), "the end of the group", 20)


def test_a_daemon_that_is_left_behind() -> None:
    """
    A program that starts a daemon has ended when itself has, though the daemon holds
    its output open; the daemon goes on.
    """
    ended, lines = run("/bin/sh", "-c", "sleep 1000 & echo $!")

    daemon = int(lines[0])
    assert ended.succeeded
    os.kill(daemon, 0)
    os.kill(daemon, signal.SIGKILL)


def test_stopping() -> None:
    """Another thread can end it."""
    started = threading.Event()
    program = Program(
        ("/bin/sh", "-c", "echo up; exec sleep 1000"),
        timeout=1000,
        tell=lambda line: started.set(),
    )
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(program.run()))
    thread.start()
    assert started.wait(60)
    program.stop()
    thread.join(60)

    assert (ended[0].reason, ended[0].status) == ("stopped", -signal.SIGTERM)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exit status 0"),
        (3, "exit status 3"),
        (-9, "ended by SIGKILL"),
        (-99, "ended by 99"),
        (None, "not started"),
    ],
)
def test_statuses_in_words(status: int | None, text: str) -> None:
    """What a person reads."""
    assert exit_text(status) == text
