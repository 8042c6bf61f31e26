# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_inventory_making`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from nodecomm.identity.own import KEYS_FOLDER, create_own_key
from nodecomm.inventory.commanding import DocumentCommand
from nodecomm.inventory.document import read_document
from nodecomm.inventory.limits import DocumentLimits, uncompress
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.signature import read_signature, verify
from nodecomm.service.agent_inventory_making import (
    InventoryOrder,
    MadeFiles,
    Maker,
    MakingFailed,
    make_files,
)
from nodecomm.service.agent_inventory_prepared import PreparedInventory
from nodecomm.testing import key_pair
from tests.inventory.machine import UNAME, machine
from tests.inventory.test_writing import FOREIGN

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


def order(folder: Path) -> InventoryOrder:
    """A node with a key."""
    if not (folder / KEYS_FOLDER).exists():
        create_own_key(os.fspath(folder / KEYS_FOLDER), key_pair(1))
    return InventoryOrder(os.fspath(folder), key_pair(1), "root", "hub")


def prepared(*command: str) -> PreparedInventory:
    """A configuration."""
    accounts = {Box.FIRST: ("rudder", "rudder")}
    return PreparedInventory(
        (), "policy-server-key", (), None, accounts, command, 60.0, 0, 360, True
    )


def program(folder: Path, text: str) -> str:
    """A program of a few words."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return os.fspath(path)


def test_of_this_machine(tmp_path: Path) -> None:
    """What is made says who the node is, and holds."""
    made = make_files(order(tmp_path), NOW, host=machine(tmp_path / "root", {}))
    document = uncompress(made.files.document, DocumentLimits())
    verify(document, read_signature(made.files.signature), key_pair(1).public)
    read = read_document(document)
    assert (read.node_id, read.policy_server_id) == (made.node_id, "root")
    assert read.policy_server_hostname == "hub"
    assert made.node_id == (tmp_path / "uuid").read_text().strip()
    assert made.size == len(document)
    assert any(text.startswith("packages: ") for text in made.skipped)


def test_of_a_program(tmp_path: Path) -> None:
    """What it prints is completed with who the node is."""
    (tmp_path / "document").write_text(FOREIGN)
    path = program(tmp_path, f"echo some warning >&2; cat {tmp_path}/document")
    made = make_files(order(tmp_path), NOW, DocumentCommand([path], 30))
    read = read_document(uncompress(made.files.document, DocumentLimits()))
    assert read.node_id == made.node_id
    assert read.device_id == "web1-2026-02-03-04-05-06"


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("echo no dmidecode >&2; exit 1", "command", "exit status 1): no dmidecode"),
        ("echo hello", "no-document", "no XML"),
        ("echo '<REQUEST/>'", "no-document", "no inventory"),
        (
            "echo '<REQUEST><CONTENT><A>1</A></CONTENT></REQUEST>'",
            "missing",
            "no server would take it",
        ),
    ],
)
def test_a_program_that_prints_none(
    tmp_path: Path, script: str, code: str, said: str
) -> None:
    """It is told what it printed, and which key names it."""
    path = program(tmp_path, script)
    with pytest.raises(MakingFailed) as failed:
        make_files(order(tmp_path), NOW, DocumentCommand([path], 30))
    failure = failed.value.failure
    assert (failure.kind, failure.code) == ("local", code)
    assert said in failure.text


def test_a_machine_without_a_name(tmp_path: Path) -> None:
    """It is told what to do about it."""
    uname = (UNAME[0], "localhost", *UNAME[2:])
    host = machine(tmp_path / "root", {}, full_hostname="", uname=uname)
    with pytest.raises(MakingFailed) as failed:
        make_files(order(tmp_path), NOW, host=host)
    failure = failed.value.failure
    assert (failure.kind, failure.code) == ("local", "bad-hostname")
    assert "hostnamectl" in failure.remedy


def test_an_id_that_is_none(tmp_path: Path) -> None:
    """Somebody put something else there: it is told which file."""
    (tmp_path / "uuid").write_text("not an id\n")
    with pytest.raises(MakingFailed, match="holds no id of a node"):
        make_files(order(tmp_path), NOW, host=machine(tmp_path / "root", {}))


class FakeThreads(Clock):
    """
    A reactor, and threads that end when a test says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[Callable[[], object]] = []

    def callFromThread(self, function: Callable[..., object], *args: Any) -> None:
        """At once."""
        function(*args)


@pytest.fixture
def threads() -> FakeThreads:
    """A reactor."""
    return FakeThreads()


def maker(threads: FakeThreads, result: object) -> Maker:
    """What makes inventories: all the same."""

    def make(*about: object) -> MadeFiles:
        if isinstance(result, BaseException):
            raise result
        return result  # type: ignore[return-value]

    return Maker(threads, lambda: 1.8e9, threads.threads.append, make)


def begin(maker: Maker, folder: Path, *command: str) -> Deferred[MadeFiles]:
    """Begin to make one."""
    return Deferred.fromCoroutine(maker.make(order(folder), prepared(*command)))


def failure(made: Deferred[MadeFiles]) -> MakingFailed:
    """Why one was not made."""
    found: list[Any] = []
    made.addErrback(found.append)
    assert found, "it is still being made"
    error = found[0].value
    assert isinstance(error, MakingFailed)
    return error


def test_in_a_thread(threads: FakeThreads, tmp_path: Path) -> None:
    """The result comes when the thread is done."""
    results: list[Any] = []
    made = begin(maker(threads, "files"), tmp_path)
    made.addCallback(results.append)
    assert results == []
    threads.threads.pop()()
    assert results == ["files"]
    assert threads.getDelayedCalls() == []


def test_what_goes_wrong_in_the_thread(threads: FakeThreads, tmp_path: Path) -> None:
    """It is told to whoever waits, and the next one is made."""
    making = maker(threads, MakingFailed("io", "no room"))
    made = begin(making, tmp_path)
    threads.threads.pop()()
    assert failure(made).failure.code == "io"
    failing = begin(maker(threads, RuntimeError("oops")), tmp_path)
    threads.threads.pop()()
    errors: list[Any] = []
    failing.addErrback(errors.append)
    assert errors[0].type is RuntimeError


def test_a_machine_that_hangs(threads: FakeThreads, tmp_path: Path) -> None:
    """
    It is not waited for longer than its time; no second thread is begun before the
    first has come back, and what that brings is of no use.
    """
    making = maker(threads, "files")
    made = begin(making, tmp_path)
    threads.advance(59)
    assert not made.called
    threads.advance(2)
    error = failure(made)
    assert error.failure.code == "hangs"
    assert "longer than 60 s" in error.failure.text
    assert failure(begin(making, tmp_path)).failure.code == "hangs"
    assert len(threads.threads) == 1
    threads.threads.pop()()
    again = begin(making, tmp_path)
    threads.threads.pop()()
    assert again.result == "files"


def test_stopping(threads: FakeThreads, tmp_path: Path) -> None:
    """Whoever waits is told, a program is ended, and nothing happens later."""
    making = maker(threads, "files")
    made = begin(making, tmp_path, "/bin/sleep", "60")
    making.stop()
    assert failure(made).failure.code == "stopped"
    assert making._command is not None
    assert making._command._stopped
    threads.threads.pop()()
    making.stop()
    assert threads.getDelayedCalls() == []


def test_giving_up(threads: FakeThreads, tmp_path: Path) -> None:
    """One that nobody waits for any more is made for nobody."""
    making = maker(threads, "files")
    made = begin(making, tmp_path)
    made.addErrback(lambda failure: None)
    made.cancel()
    making.stop()
    threads.threads.pop()()
    assert threads.getDelayedCalls() == []
