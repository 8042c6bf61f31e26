# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_pending`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodecomm.service.agent_pending import PENDING_NAME, Pending, PendingFile

A, B = b"/srv/a", b"/srv/b\xff"


class Disk:
    """
    What is at each destination, and a file of what is pending about it.
    """

    def __init__(self, folder: Path) -> None:
        self.there: dict[bytes, tuple[int, int]] = {}
        self.folder = folder

    @property
    def file(self) -> PendingFile:
        """As a program that has just started has it."""
        return PendingFile(self.folder, self.there.get)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Nothing anywhere."""
    return Disk(tmp_path)


def test_nothing(disk: Disk) -> None:
    """Without a file nothing is pending, and clearing is no error."""
    disk.file.clear()
    assert disk.file.load() == Pending()
    assert not disk.file.settle().is_due
    assert not disk.file.completed().is_due


def test_killed_before_the_exchange(disk: Disk) -> None:
    """A set that never came to its place is nothing that changed."""
    disk.there[A] = (1, 10)
    disk.file.note(A, (1, 11), completes=True)

    assert not disk.file.settle().is_due
    assert os.listdir(disk.folder) == []


def test_killed_after_the_exchange(disk: Disk) -> None:
    """A set that is in its place, the last of its run, makes `after_update` due."""
    disk.file.note(A, (1, 11), completes=True)
    disk.there[A] = (1, 11)

    pending = disk.file.settle()
    assert pending.is_due
    assert pending.is_complete
    assert pending.attempts == 0


def test_killed_between_two_copies(disk: Disk) -> None:
    """The first of two sets waits for a complete run, which may change nothing."""
    disk.file.note(A, (1, 11), completes=False)
    disk.there[A] = (1, 11)
    disk.file.note(B, (1, 21), completes=True)

    pending = disk.file.settle()
    assert pending.is_due
    assert not pending.is_complete
    pending = disk.file.completed()
    assert pending.is_complete
    assert disk.file.load() == pending


def test_killed_before_a_second_exchange(disk: Disk) -> None:
    """A later set that did not come to its place does not hide the one before."""
    disk.file.note(A, (1, 11), completes=True)
    disk.there[A] = (1, 11)
    disk.file.note(A, (1, 12), completes=True)

    assert disk.file.settle().is_complete


def test_without_an_identity(disk: Disk) -> None:
    """Where files are replaced one by one each beginning counts."""
    disk.file.note(A, None, completes=True)

    assert disk.file.settle().is_complete


def test_attempts_are_counted_until_the_next_change(disk: Disk) -> None:
    """A program that ends the agent is not begun for ever."""
    disk.file.note(B, None, completes=True)
    assert disk.file.begin() == 1
    assert disk.file.begin() == 2
    assert disk.file.settle().attempts == 2
    disk.file.note(B, None, completes=True)
    assert disk.file.settle().attempts == 0
    disk.file.clear()
    assert not disk.file.load().is_due


def test_the_present_is_looked_at(tmp_path: Path) -> None:
    """Whether a set is in its place is told by the folder itself, links followed."""
    new = tmp_path / "new"
    new.mkdir()
    status = new.stat()
    file = PendingFile(tmp_path)
    file.note(bytes(tmp_path / "link"), (status.st_dev, status.st_ino), completes=True)
    (tmp_path / "link").symlink_to(new)

    assert file.settle().is_due
    (tmp_path / "link").unlink()
    assert not file.settle().is_due


def _set(**changes: object) -> bytes:
    """A file with one set, and something wrong with it."""
    whole = {"destination": "/srv/d", "identity": [1, 2], "completes": True}
    return json.dumps({"sets": [{**whole, **changes}], "attempts": 0}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b'{"sets": [], "attempts": Infinity}',
        b'{"sets": [], "attempts": 1e999}',
        _set(identity=[float("inf"), 1]),
        _set(identity=[1]),
        _set(destination=1),
        _set(destination=None),
        _set(destination=[]),
        _set(destination="a\0b"),
        _set(destination=r"a\x00b"),
        b"[" * 100_000,
    ],
)
def test_damage_of_every_kind(tmp_path: Path, data: bytes) -> None:
    """It counts as a change of a run that was not complete, and is no mistake."""
    (tmp_path / PENDING_NAME).write_bytes(data)
    pending = PendingFile(tmp_path).settle()

    assert pending.is_due
    assert not pending.is_complete
    assert PendingFile(tmp_path).completed().is_complete


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.binary() | st.sampled_from([b"{}", b"[]", b'{"sets": [1], "attempts": 0}']))
def test_a_damaged_file(tmp_path: Path, data: bytes) -> None:
    """It counts as a change of a run that was not complete."""
    (tmp_path / PENDING_NAME).write_bytes(data)
    pending = PendingFile(tmp_path).settle()

    assert pending.is_due
    assert not pending.is_complete
    assert PendingFile(tmp_path).completed().is_complete
