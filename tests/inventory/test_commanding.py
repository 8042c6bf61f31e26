# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.inventory.commanding`, with real programs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nodecomm.inventory import commanding
from nodecomm.inventory.commanding import CommandFailed, DocumentCommand
from nodecomm.server.execution.programs import Ended

SH = "/bin/sh"


def command(script: str, timeout: float = 30, limit: int = 1000) -> DocumentCommand:
    """A program of a few words."""
    return DocumentCommand([SH, "-c", script], timeout, limit)


def test_what_it_prints_and_not_its_complaints() -> None:
    """The document is standard output alone, byte for byte, whatever else is said."""
    script = "printf '<a>\\r\\n\\377</a>'; echo warning: no dmidecode >&2"
    before = os.listdir("/proc/self/fd")
    assert command(script).run() == b"<a>\r\n\xff</a>"
    # Fewer, when what other tests have left is closed meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_more_complaints_than_a_pipe_holds() -> None:
    """Nobody has to read them for the program to go on."""
    script = "head -c 1000000 /dev/zero >&2; echo done"
    assert command(script).run() == b"done\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "failed (exit status 3)"),
        ("echo one >&2; echo two >&2; echo >&2; exit 1", "exit status 1): two"),
        ("echo half a document; exit 1", "exit status 1"),
        ("kill -9 $$", "failed (ended by SIGKILL)"),
        (":", "printed nothing"),
        ("echo no dmidecode >&2", "printed nothing: no dmidecode"),
        ("head -c 2000 /dev/zero", "it prints more than 1000 bytes"),
        ("printf '\\033[31m\\n' >&2; exit 1", r"\x1b[31m"),
    ],
)
def test_what_is_no_document(script: str, said: str) -> None:
    """A program that fails, or prints nothing or too much, and what it said last."""
    with pytest.raises(CommandFailed) as failed:
        command(script).run()
    assert said in str(failed.value)
    assert str(failed.value).startswith(SH)


class Hasty:
    """A program that prints too much, some more, and ends before it can be stopped."""

    def __init__(
        self, command: object, *, tell: Callable[[bytes], object], **more: object
    ) -> None:
        self._tell = tell

    def stop(self, reason: str) -> None:
        """Too late."""

    def run(self) -> Ended:
        """All is well, it says."""
        self._tell(bytes(2000))
        self._tell(b"<the rest/>")
        return Ended(0, 0.1)


def test_too_much_and_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of one that printed too much is no document, however it ended."""
    monkeypatch.setattr(commanding, "Program", Hasty)
    with pytest.raises(CommandFailed, match="it prints more than 1000 bytes"):
        command("exit 0").run()


def test_one_that_is_not_there() -> None:
    """Its name is told, and what the system says."""
    with pytest.raises(
        CommandFailed, match=r"/nonexistent/x could not be run: No such"
    ):
        DocumentCommand(["/nonexistent/x"], 5).run()


def test_one_that_hangs() -> None:
    """It is ended with all that it started when its time is over."""
    with pytest.raises(CommandFailed, match=r"was ended: not done after 0\.05 s"):
        command("echo x; sleep 60 & wait", timeout=0.05).run()


def test_what_it_leaves_behind_holds_up_nobody() -> None:
    """A daemon that has its standard error still open is not waited for."""
    assert command("echo x; sleep 5 >/dev/null &").run() == b"x\n"


def test_one_that_is_stopped(tmp_path: Path) -> None:
    """Before it begins, and while it runs."""
    early = command("echo x")
    early.stop()
    with pytest.raises(CommandFailed, match="could not be run: stopped"):
        early.run()
    runs = tmp_path / "runs"
    os.mkfifo(runs)
    late = command(f"echo x > '{runs}'; sleep 60")

    def stop() -> None:
        # Nothing is there to read before the program runs.
        assert runs.read_bytes() == b"x\n"
        late.stop()

    stopping = threading.Thread(target=stop, daemon=True)
    stopping.start()
    with pytest.raises(CommandFailed, match="was ended: stopped"):
        late.run()
    stopping.join()
