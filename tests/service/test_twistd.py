# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.twistd` and `nodecomm.service.own_state`.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from twisted.internet.selectreactor import SelectReactor
from twisted.python import usage

from nodecomm import tap_agent, tap_server
from nodecomm.service.logs import Verbosity
from nodecomm.service.own_state import FolderLock, lock_holder
from nodecomm.service.twistd import (
    ServiceOptions,
    end_with_system_error,
    use_steady_time,
)


class Clocks:
    """
    A civil clock and one that nobody sets.
    """

    def __init__(self) -> None:
        self.civil = 1_700_000_000.0
        self.steady = 100.0

    def pass_by(self, seconds: float) -> None:
        """Time passes."""
        self.civil += seconds
        self.steady += seconds


@pytest.mark.parametrize("step", [86400.0, -86400.0])
def test_a_step_of_the_civil_clock_moves_no_call(step: float) -> None:
    """
    Calls that were and are made come after their seconds, neither at once nor a day
    later.
    """
    clocks = Clocks()
    reactor = SelectReactor()
    reactor.seconds = lambda: clocks.civil
    called: list[str] = []
    reactor.callLater(5, called.append, "before")
    clocks.pass_by(1)
    use_steady_time(reactor, lambda: clocks.steady)
    reactor.callLater(10, called.append, "after")

    clocks.civil += step
    clocks.pass_by(3.5)
    reactor.runUntilCurrent()
    assert called == []
    timeout = reactor.timeout()
    assert timeout == pytest.approx(0.5)
    clocks.pass_by(0.5)
    reactor.runUntilCurrent()
    assert called == ["before"]
    clocks.pass_by(6)
    reactor.runUntilCurrent()
    assert called == ["before", "after"]
    for reader in list(reactor.getReaders()):
        reactor.removeReader(reader)
        reader.connectionLost(None)


@pytest.mark.parametrize("options", [tap_server.Options, tap_agent.Options])
def test_options(options: type[ServiceOptions]) -> None:
    """Both services take the same options, and teach by examples."""
    parsed = options()
    parsed.parseOptions(["-v", "--json-log", "-c", "x.toml", "--state-dir", "s"])
    assert parsed.verbosity is Verbosity.VERBOSE
    assert parsed["log-format"] == "json"
    assert parsed.path("config") == Path.cwd() / "x.toml"
    assert parsed.path("state-dir") == Path.cwd() / "s"
    assert "policy" in parsed.getUsage()
    assert "  twistd -n nodecomm-" in parsed.getUsage()
    for wrong in (["x.toml"], ["--log-format", "xml"]):
        with pytest.raises(usage.UsageError):
            options().parseOptions(wrong)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none/log", "; make the folder {0}/none first, or name a file in another one"),
        ("absent", ""),
    ],
)
def test_a_file_in_a_folder_that_is_not_there(
    tmp_path: Path, name: str, said: str
) -> None:
    """The program ends, and says what to do about it."""
    stderr = io.StringIO()
    path = tmp_path / name
    with pytest.raises(FileNotFoundError) as raised:
        path.open()
    with pytest.raises(SystemExit):
        end_with_system_error(raised.value, stderr)
    assert stderr.getvalue() == (
        f"error: {path}: No such file or directory (ENOENT){said.format(tmp_path)}\n"
    )


def test_a_lock_tells_who_holds_it(tmp_path: Path) -> None:
    """One at a time; whoever asks learns the process."""
    path = str(tmp_path / "lock")
    assert lock_holder(path) is None
    first, second = FolderLock(path), FolderLock(path)
    assert first.take()
    assert lock_holder(path) == os.getpid()
    assert not second.take()
    first.release()
    assert lock_holder(path) is None
    assert second.take()
    second.release()
    second.release()
