# SPDX-License-Identifier: MIT
"""
Where the log goes, by twistd's options and the configuration together.
"""

from __future__ import annotations

import io
import syslog
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel

from nodecomm.config.model import LogSettings
from nodecomm.service.logs import JSONObserver, TextObserver, Verbosity
from nodecomm.service.output import StreamWriter, SyslogObserver, log_output

EVENT = {
    "log_level": LogLevel.warn,
    "log_time": 0.0,
    "log_namespace": "n",
    "log_format": "caf\u00e9",
    "event": "x.y",
}


def test_foreground(tmp_path: Path) -> None:
    """In the foreground the log is standard output, as text or as JSON."""
    for name, kind in (("text", TextObserver), ("json", JSONObserver)):
        stdout = io.StringIO()
        output = log_output(
            LogSettings(format=name),  # type: ignore[arg-type]
            Verbosity.NORMAL,
            {"nodaemon": True},
            stdout,
        )
        output.observer(EVENT)
        output.reopen()

        assert isinstance(output.observer, kind)
        assert output.console
        assert "x.y" in stdout.getvalue()


@pytest.mark.parametrize(
    ("twistd", "configured", "used"),
    [
        ({}, None, "twistd.log"),
        ({}, "mine", "mine"),
        ({"logfile": "theirs"}, "mine", "theirs"),
        ({"logfile": "theirs", "nodaemon": True}, None, "theirs"),
        ({"nodaemon": True}, "mine", "mine"),
    ],
)
def test_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    twistd: dict[str, Any],
    configured: str | None,
    used: str,
) -> None:
    """The command line goes before the configuration, and that before twistd.log."""
    monkeypatch.chdir(tmp_path)
    file = None if configured is None else str(tmp_path / configured)
    stdout = io.StringIO()
    output = log_output(LogSettings(file=file), Verbosity.NORMAL, twistd, stdout)
    output.observer(EVENT)
    (tmp_path / used).rename(tmp_path / "old")
    output.reopen()
    output.observer(EVENT)

    assert not output.console
    assert stdout.getvalue() == ""
    assert "x.y: caf\u00e9" in (tmp_path / used).read_text("utf-8")
    assert (tmp_path / "old").exists()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A log that cannot be written is an error at start."""
    settings = LogSettings(file=str(tmp_path / "missing" / "log"))
    with pytest.raises(FileNotFoundError):
        log_output(settings, Verbosity.NORMAL, {}, io.StringIO())


def test_a_narrow_terminal() -> None:
    """What the stream's encoding does not have is escaped, not an error."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    StreamWriter(stream)("caf\u00e9\n")

    assert raw.getvalue() == b"caf\\xe9\n"


def test_a_closed_pipe() -> None:
    """A reader that went away stops nobody."""

    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    StreamWriter(Closed())("line\n")


def test_syslog(monkeypatch: pytest.MonkeyPatch) -> None:
    """`twistd --syslog` gets the lines that are wanted, by their level."""
    told: list[tuple[int, str]] = []
    opened: list[str] = []
    monkeypatch.setattr(syslog, "openlog", lambda prefix, *_: opened.append(prefix))
    monkeypatch.setattr(
        syslog, "syslog", lambda priority, line: told.append((priority, line))
    )
    output = log_output(
        LogSettings(),
        Verbosity.NORMAL,
        {"syslog": True, "prefix": "mine"},
        io.StringIO(),
    )
    assert isinstance(output.observer, SyslogObserver)
    output.observer(EVENT)
    output.observer({**EVENT, "event": "request", "log_level": LogLevel.debug})

    assert opened == ["mine"]
    ((priority, line),) = told
    assert priority == syslog.LOG_WARNING
    assert "x.y" in line
