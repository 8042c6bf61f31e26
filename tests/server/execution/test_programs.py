# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.server.execution.programs`.
"""

from __future__ import annotations

import errno
import gc
import os
import pwd
import selectors
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.server.execution import programs
from nodecomm.server.execution.accounts import find_account, own_account
from nodecomm.server.execution.processes import Family
from nodecomm.server.execution.programs import READ_SIZE, Ended, Program, exit_text
from nodecomm.server.execution.told_lines import LONGEST_LINE, MOST_LINES, Lines
from nodecomm.transport.limits import raise_descriptor_limit
from tests.interop.machine import wait_until


def without_ends(line: bytes) -> bytes:
    """*line* with nothing that would end it, or be taken from its end."""
    return line.replace(b"\n", b"").rstrip(b"\r")


def runs(number: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def run(
    *command: str, timeout: float = 60.0, kill_after: float = 60.0, **more: Any
) -> tuple[Ended, list[bytes]]:
    """Run a program; how it ended and what it said."""
    said: list[bytes] = []
    program = Program(
        command, timeout=timeout, tell=said.append, kill_after=kill_after, **more
    )
    return program.run(), b"".join(said).splitlines()


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


def test_there_is_no_input() -> None:
    """
    A program reads nothing of what this process could read, nor waits for it.
    """
    behind, ahead = os.pipe()
    own = os.dup(0)
    try:
        os.dup2(behind, 0)
        os.write(ahead, b"not for programs\n")
        ended, said = run("/bin/sh", "-c", "cat; echo end")
    finally:
        os.dup2(own, 0)
        for descriptor in (behind, ahead, own):
            os.close(descriptor)
    assert (ended.status, said) == (0, [b"end"])


def test_output_and_status() -> None:
    """Both streams become lines in their order, and the status is told."""
    ended, lines = run("/bin/sh", "-c", "echo one; echo two >&2; printf three; exit 7")

    assert lines == [b"one", b"two", b"three"]
    assert (ended.status, ended.reason) == (7, "")
    assert not ended.succeeded


def test_no_shell() -> None:
    """The arguments of a list reach the program as they are."""
    odd = "$HOME; echo `id` && * \\ 'x"
    ended, lines = run(sys.executable, "-c", "import sys; print(sys.argv[1:])", odd)

    assert ended.succeeded
    assert lines == [repr([odd]).encode()]


def test_a_text_is_for_the_shell() -> None:
    """A command that is one text is read by /bin/sh."""
    said: list[bytes] = []
    program = Program("echo a && echo b", timeout=60, tell=said.append)

    assert program.run().succeeded
    assert b"".join(said) == b"a\nb\n"


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


@given(
    lines=st.lists(st.binary(max_size=2 * LONGEST_LINE).map(without_ends), max_size=8),
    step=st.integers(1, 3000),
)
@settings(max_examples=50, deadline=None)
def test_lines_do_not_depend_on_how_output_is_cut(
    lines: list[bytes], step: int
) -> None:
    """However output arrives, each line of it is told once, cut where it is long."""
    output = b"".join(line + b"\n" for line in lines)
    told: list[bytes] = []
    taken = Lines(told.append)
    for at in range(0, len(output), step):
        taken.add(output[at : at + step])
    taken.finish()

    short = [line if len(line) <= LONGEST_LINE else None for line in lines]
    assert [line if len(line) <= LONGEST_LINE else None for line in told] == short
    assert {len(line) for line in told if len(line) > LONGEST_LINE} <= {
        LONGEST_LINE + 3
    }


def test_a_limit_of_lines_and_bytes() -> None:
    """Of endless output the first lines are told, each cut, the rest is counted."""
    told: list[bytes] = []
    lines = Lines(told.append)
    for _ in range(MOST_LINES + 5):
        lines.add(b"0" * LONGEST_LINE * 2 + b"\n")

    assert len(told) == lines.told == MOST_LINES
    assert lines.dropped == 5
    assert {len(line) for line in told} == {LONGEST_LINE + 3}
    assert told[0].endswith(b"...")


def test_any_bytes() -> None:
    """Output is given as it comes, whatever it is, with no line held back."""
    every = bytes(range(256))
    said: list[bytes] = []
    text = f"import os; os.write(1, bytes(range(256)) * {READ_SIZE // 64})"
    program = Program((sys.executable, "-c", text), timeout=60, tell=said.append)

    assert program.run().succeeded
    assert b"".join(said) == every * (READ_SIZE // 64)
    assert max(map(len, said)) <= READ_SIZE


def test_what_a_program_finds(tmp_path: Path) -> None:
    """
    Its environment is what it is given and nothing else; it stands in the root
    folder, reads nothing, has no descriptor of ours, and leads a session. A number of
    open files that this process has raised for itself is not passed on.
    """
    text = (
        "import os, resource, stat, time\n"
        "print(sorted(os.environ.items()), os.getcwd(), os.read(0, 1))\n"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:3])\n"
        "print(len(os.listdir('/proc/self/fd')), os.getsid(0) == os.getpid())\n"
        "print(oct(os.umask(0)))\n"
        # It is told a moment after the start.
        "until = time.monotonic() + 30\n"
        "while resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1024:\n"
        "    assert time.monotonic() < until\n"
    )
    account = evolve(own_account(), name="somebody", home="/nowhere")
    _, before = raise_descriptor_limit()
    with (tmp_path / "open").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        ended, lines = run(
            *(sys.executable, "-I", "-c", text), account=lambda: account, umask=0o022
        )

    assert ended.succeeded, lines
    assert before > 1024
    expected = {
        "HOME": "/nowhere",
        "LANG": "C.UTF-8",
        "LOGNAME": "somebody",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "USER": "somebody",
    }
    assert lines[0] == f"{list(expected.items())} / b''".encode()
    # The fourth is the folder that is being listed.
    assert lines[1:] == [b"[0, 1, 2]", b"4 True", b"0o22"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user() -> None:
    """Root can have it run as another user, with the groups of that one alone."""
    ended, lines = run(
        *("/bin/sh", "-c", "id -u; id -g; id -G; echo $HOME $USER $LOGNAME"),
        account=lambda: find_account("nobody"),
    )

    entry = pwd.getpwnam("nobody")
    group = str(entry.pw_gid).encode()
    home = f"{entry.pw_dir} nobody nobody".encode()
    assert ended.succeeded
    assert lines == [str(entry.pw_uid).encode(), group, group, home]


def test_pausing() -> None:
    """
    A program whose output nobody takes waits; of what it prints meanwhile at most one
    more piece is told. When its output is taken again, nothing is missing.
    """
    amount = 40 * READ_SIZE
    text = f"import os; [os.write(1, b'x' * {READ_SIZE}) for _ in range(40)]"
    said: list[int] = []
    first, second = threading.Event(), threading.Event()

    def tell(data: bytes) -> None:
        program.pause()
        said.append(len(data))
        (second if first.is_set() else first).set()

    program = Program((sys.executable, "-c", text), timeout=600, tell=tell)
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(program.run()))
    thread.start()
    assert first.wait(60)
    assert not second.wait(0.1)
    assert len(said) == 1
    while thread.is_alive():
        program.resume()
        thread.join(0.001)

    assert ended[0].succeeded
    assert sum(said) == amount


def test_stopping_one_that_is_paused() -> None:
    """A program that waits for its reader can be ended as any other."""
    first = threading.Event()

    def tell(data: bytes) -> None:
        program.pause()
        first.set()

    program = Program(("/usr/bin/yes",), timeout=600, tell=tell)
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(program.run()))
    thread.start()
    assert first.wait(60)
    program.stop("left")
    thread.join(60)

    assert (ended[0].reason, ended[0].status) == ("left", -signal.SIGTERM)


def test_where_ends_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without descriptors of processes their ends are found by looking."""
    monkeypatch.setattr(programs, "_pidfd", lambda number: None)
    ended, lines = run("/bin/sh", "-c", "echo a; exit 3")
    assert (ended.status, lines) == (3, [b"a"])
    ended, _ = run("/bin/sleep", "1000", timeout=0.1)

    assert (ended.status, ended.reason) == (-signal.SIGTERM, "timeout")


@pytest.mark.parametrize("broken", ["register", "select"])
def test_what_fails_when_it_runs_already(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """
    A program that cannot be looked after is ended, with what it has started, and
    nothing is left open.
    """
    began: list[int] = []
    begin = Program._begin

    def note(self: Program) -> Any:
        process = begin(self)
        began.append(process.pid)
        return process

    class Failing(selectors.DefaultSelector):
        """Lacks memory."""

    def fail(*_: object) -> None:
        raise MemoryError("made up")

    setattr(Failing, broken, fail)
    monkeypatch.setattr(Program, "_begin", note)
    monkeypatch.setattr(selectors, "DefaultSelector", Failing)
    opened = len(os.listdir("/proc/self/fd"))
    program = Program("sleep 1000 & exec sleep 1000", timeout=60, tell=print)
    with pytest.raises(MemoryError, match="made up"):
        program.run()
    program.stop()

    wait_until(lambda: not group_lives(began[0]), "the end of the group", 20)
    with pytest.raises(ChildProcessError):
        os.waitpid(began[0], 0)
    assert len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize("lacking", ["pipe", "selector", "program"])
def test_what_is_lacking_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """Without descriptors nothing begins, the reason is told, nothing is left open."""

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    if lacking == "pipe":
        monkeypatch.setattr(os, "pipe", fail)
    elif lacking == "selector":
        monkeypatch.setattr(selectors, "DefaultSelector", fail)
    else:
        monkeypatch.setattr(Program, "_begin", fail)
    opened = len(os.listdir("/proc/self/fd"))
    ended, lines = run("/bin/sh", "-c", "echo up")

    assert (ended.status, ended.reason, lines) == (None, "Too many open files", [])
    assert len(os.listdir("/proc/self/fd")) == opened


def test_one_that_no_signal_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What hangs in the system itself is given up after a while, without a status.
    """
    monkeypatch.setattr(programs, "_GIVE_UP", 0.01)
    sent: list[signal.Signals] = []
    monkeypatch.setattr(Family, "send", lambda family, n: sent.append(n))
    said: list[bytes] = []

    def tell(data: bytes) -> None:
        said.append(data)
        program.stop("enough", 0.0)

    program = Program("echo $$; exec sleep 1000", timeout=60, tell=tell)
    with pytest.warns(ResourceWarning, match="is still running"):
        ended = program.run()
        gc.collect()
    os.kill(int(said[0]), signal.SIGKILL)

    assert sent == [signal.SIGTERM, signal.SIGKILL]
    assert (ended.status, ended.reason) == (None, "enough")


def test_stopping_before_it_begins() -> None:
    """What is stopped before it began never begins."""
    said: list[bytes] = []
    program = Program(("/bin/sh", "-c", "echo up"), timeout=60, tell=said.append)
    program.stop()

    assert program.run() == Ended(None, 0.0, "stopped")
    assert said == []


class Hurrying:
    """
    A clock that stands still until `hurry`; then a minute is over, and each look at it
    takes a moment.
    """

    def __init__(self) -> None:
        self._now = self._step = 0.0

    def __call__(self) -> float:
        self._now += self._step
        return self._now

    def hurry(self) -> None:
        """Go on."""
        self._now += 60.0
        self._step = 0.1


def run_late(text: str, kill_after: float = 60.0) -> tuple[Ended, int]:
    """
    Run a shell that tells its number, and takes too long from then on; how it ended,
    and the number.
    """
    said: list[bytes] = []
    clock = Hurrying()

    def tell(data: bytes) -> None:
        said.append(data)
        if data.endswith(b"\n"):
            clock.hurry()

    program = Program(
        text, timeout=30.0, tell=tell, kill_after=kill_after, monotonic=clock
    )
    ended = program.run()
    return ended, int(b"".join(said).split()[0])


def test_a_limit_of_time() -> None:
    """A program that takes too long is ended with all that it started."""
    ended, group = run_late("sleep 1000 & echo $$; wait")

    assert ended.reason == "timeout"
    assert ended.status == -signal.SIGTERM
    wait_until(lambda: not group_lives(group), "the end of the group", 20)


def test_one_that_does_not_want_to_end() -> None:
    """Who ignores the request is killed, some time later."""
    ended, group = run_late(
        "trap '' TERM; echo $$; while :; do sleep 0.05; done", kill_after=0.3
    )

    assert (ended.reason, ended.status) == ("timeout", -signal.SIGKILL)
    wait_until(lambda: not group_lives(group), "the end of the group", 20)


def test_children_elsewhere() -> None:
    """
    Ending a program ends what it started in other process groups and sessions as
    well, as long as that is its own.
    """
    text = (
        "import os, time\n"
        "for begin in os.setsid, os.setpgrp:\n"
        "    if os.fork() == 0:\n"
        "        begin()\n"
        "        os.write(1, b'%d\\n' % os.getpid())\n"
        "        time.sleep(1000)\n"
        "time.sleep(1000)\n"
    )
    said: list[bytes] = []

    def tell(data: bytes) -> None:
        said.append(data)
        if b"".join(said).count(b"\n") == 2:
            program.stop("enough")

    program = Program((sys.executable, "-c", text), timeout=60, tell=tell)
    ended = program.run()
    lines = b"".join(said).split()

    assert ended.reason == "enough"
    assert len(lines) == 2
    assert not any(runs(int(line)) for line in lines)


def test_children_have_time_to_end() -> None:
    """
    When the program itself has ended at once as it was asked to, those that it started
    still have their time.
    """
    child = (
        "trap 'sleep 0.1; echo tidied; exit' TERM;"
        " echo up; while :; do sleep 0.05; done"
    )
    said: list[bytes] = []

    def tell(data: bytes) -> None:
        said.append(data)
        program.stop()

    program = Program(f"( {child} ) & exec sleep 1000", timeout=60, tell=tell)
    ended = program.run()

    assert (ended.reason, ended.status) == ("stopped", -signal.SIGTERM)
    # The shell may tell of the sleep that was ended with it.
    assert b"".join(said).endswith(b"tidied\n")


def test_output_that_is_still_on_its_way() -> None:
    """What passes through a filter that the program does not wait for is told."""
    ended, lines = run(
        *("/bin/sh", "-c", "( sleep 0.1; echo late ) & echo early"),
        # Half a second can be over before that where the machine is busy.
        monotonic=Hurrying(),
    )

    assert ended.succeeded
    assert lines == [b"early", b"late"]


def test_a_daemon_that_talks() -> None:
    """A daemon that was left behind and prints without end holds up nobody."""
    ended, lines = run("/bin/sh", "-c", "yes & echo begun")

    assert ended.succeeded
    assert b"begun" in lines


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
