# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.server.execution.processes`.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from nodecomm.server.execution.processes import Family


class Machine:
    """
    Processes that are made up, and the signals that are sent to them.
    """

    def __init__(self, proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc = proc
        self.sent: list[tuple[str, int]] = []
        (proc / "self").mkdir()
        (proc / "self" / "stat").write_text("")
        (proc / "net").mkdir()
        monkeypatch.setattr(os, "kill", lambda pid, number: self.note("one", pid))
        monkeypatch.setattr(os, "killpg", lambda pid, number: self.note("group", pid))

    def note(self, kind: str, number: int) -> None:
        """A signal was sent."""
        self.sent.append((kind, number))

    def put(
        self,
        pid: int,
        parent: int,
        group: int,
        session: int,
        *,
        state: str = "S",
        began: int = 0,
        name: str = "x",
    ) -> None:
        """A process is there."""
        words = [state, parent, group, session, *[0] * 15, began or pid, 0, 0]
        (self.proc / str(pid)).mkdir(exist_ok=True)
        text = f"{pid} ({name}) {' '.join(map(str, words))}\n"
        (self.proc / str(pid) / "stat").write_bytes(text.encode())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine on which a program runs as 100, with some others."""
    made = Machine(tmp_path, monkeypatch)
    made.put(1, 0, 1, 1)
    made.put(50, 1, 50, 50)
    made.put(100, 50, 100, 100)
    return made


def test_who_belongs_to_it(machine: Machine) -> None:
    """
    Its session in whatever group, and what descends from that in whatever session;
    not its own parent, nor a daemon whose parent has ended.
    """
    machine.put(101, 100, 100, 100)
    machine.put(102, 101, 102, 100, name="odd ) S 1 1 1")
    machine.put(103, 102, 103, 103)
    machine.put(104, 103, 104, 104)
    machine.put(105, 1, 100, 100)
    machine.put(200, 1, 200, 200)
    machine.put(201, 50, 50, 50)
    Family(100, machine.proc).send(signal.SIGTERM)

    assert machine.sent[0] == ("group", 100)
    assert sorted(machine.sent[1:]) == [("one", 102), ("one", 103), ("one", 104)]


def test_whoever_was_seen_stays(machine: Machine) -> None:
    """
    A child in a session of its own is found again when its parent has ended, and not
    mistaken for another process that has got its number.
    """
    machine.put(101, 100, 101, 101)
    machine.put(102, 100, 102, 102)
    family = Family(100, machine.proc)
    family.send(signal.SIGTERM)
    machine.put(100, 50, 100, 100, state="Z")
    machine.put(101, 1, 101, 101)
    machine.put(102, 1, 102, 102, began=9999)
    machine.sent.clear()
    assert family.lives()
    family.send(signal.SIGKILL)

    assert machine.sent == [("group", 100), ("one", 101)]


def test_the_end(machine: Machine) -> None:
    """When all have ended, looked after or not, none lives."""
    family = Family(100, machine.proc)
    machine.put(101, 100, 100, 100)
    assert family.lives()
    machine.put(100, 50, 100, 100, state="Z")
    assert family.lives()
    machine.put(101, 1, 100, 100, state="X")

    assert not family.lives()


def test_without_a_list_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere the process group is what is known."""
    answers: list[Exception | None] = [
        None,
        None,
        ProcessLookupError(),
        PermissionError(),
        ProcessLookupError(),
    ]
    sent: list[tuple[int, int]] = []

    def killpg(group: int, number: int) -> None:
        sent.append((group, number))
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    monkeypatch.setattr(os, "killpg", killpg)
    family = Family(100, tmp_path / "absent")
    family.send(signal.SIGTERM)

    assert [family.lives() for _ in range(3)] == [True, False, False]
    family.send(signal.SIGKILL)
    assert sent[0] == (100, signal.SIGTERM)
    assert sent[-1] == (100, signal.SIGKILL)
