# SPDX-License-Identifier: MIT
"""
Log lines: what makes one, what it looks like, and what a peer cannot do with it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionLost
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatTime
from twisted.logger._legacy import publishToNewObserver
from twisted.python.failure import Failure
from twisted.python.log import textFromEventDict
from zope.interface.verify import verifyObject

from nodecomm.service.logs import (
    FileWriter,
    JSONObserver,
    TextObserver,
    Verbosity,
    fields,
    is_wanted,
    json_line,
    text_line,
)
from nodecomm.wire.errors import RemoteProtocolError

WHEN = 1_795_317_300.25


def made(level: LogLevel = LogLevel.info, **more: Any) -> dict[str, Any]:
    """An event as a Logger would emit it."""
    return {
        "log_level": level,
        "log_time": WHEN,
        "log_namespace": "nodecomm.test",
        "log_format": None,
        **more,
    }


@pytest.mark.parametrize(
    ("name", "level", "least"),
    [
        ("session.closed", LogLevel.info, Verbosity.NORMAL),
        ("request.refused", LogLevel.info, Verbosity.NORMAL),
        ("limit.reached", LogLevel.warn, Verbosity.NORMAL),
        ("trust.changed", LogLevel.error, Verbosity.NORMAL),
        ("session.opened", LogLevel.info, Verbosity.VERBOSE),
        ("request", LogLevel.debug, Verbosity.VERBOSE),
        ("request", LogLevel.info, Verbosity.VERBOSE),
        ("dialogue", LogLevel.debug, Verbosity.DEBUG),
        ("", LogLevel.debug, Verbosity.DEBUG),
        ("", LogLevel.info, Verbosity.NORMAL),
    ],
)
def test_verbosity(name: str, level: LogLevel, least: Verbosity) -> None:
    """Each fact makes a line from its verbosity on, and not below it."""
    event = made(level, event=name) if name else made(level)

    assert [is_wanted(event, each) for each in Verbosity] == [
        each >= least for each in Verbosity
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("PortFactory starting on 5308", False),
        ("(TCP Port 5308 Closed)", False),
        ("Site starting on '/run/x'", False),
        ("a plugin has something to say", True),
    ],
)
def test_lines_of_ports_are_left_out(text: str, wanted: bool) -> None:
    """What Twisted says of ports, with names of classes, makes no line."""
    events: list[LogEvent] = []
    publishToNewObserver(
        events.append,  # type: ignore[arg-type]
        {"message": (text,), "time": WHEN, "system": "-", "isError": 0},
        textFromEventDict,
    )

    (event,) = events
    assert is_wanted(event, Verbosity.DEBUG) is wanted


def test_text_line_of_fields() -> None:
    """Without a message the fields are the message, quoted where they must be."""
    event = made(
        event="request", user="root", name=b'a b\xff"', bytes=12, rule=None, seconds=0.5
    )

    (line,) = text_line(event).splitlines()

    _, _, rest = line.partition(" ")
    assert rest == (
        'info request: user=root name="a b\\xff\\x22" bytes=12 rule=null seconds=0.5'
    )


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{name} has {count:3d} of {raw}", r"wq has   7 of \xff"),
        ("{name.upper} {count!r}", "<built-in method upper"),
        ("{call()} calls", "called calls"),
        (b"{name} as bytes", "wq as bytes"),
        ("{missing} is not there", "missing"),
        ("{name", "{name"),
    ],
)
def test_formats(template: object, shown: str) -> None:
    """Whatever Twisted formats is formatted, and a bad format still makes a line."""
    event = made(log_format=template, name="wq", count=7, raw=b"\xff")
    event["call"] = lambda: "called"

    line = text_line(event)

    assert shown in line
    assert line.count("\n") == 1


def test_the_time_of_a_line() -> None:
    """Each line has its own second, whatever was written before it."""
    times = [
        text_line(made(log_format="x", log_time=when)).split()[0]
        for when in (WHEN, WHEN + 0.5, WHEN + 0.75, WHEN + 3600, WHEN)
    ]

    assert times == [
        formatTime(when) for when in (WHEN, WHEN, WHEN + 1, WHEN + 3600, WHEN)
    ]
    assert text_line(made(log_format="x", log_time=None)).startswith("- ")


def test_text_line_of_a_message() -> None:
    """The message is shown, with wire names in their one text form."""
    event = made(event="x.y", log_format="peer asks for {name}", name=b"\x1b[2J\\")

    assert text_line(event).endswith(" info x.y: peer asks for \\x1b[2J\\\\\n")


@given(st.text(), st.binary(), st.booleans())
def test_a_peer_cannot_break_a_line(text: str, raw: bytes, message: bool) -> None:
    """Whatever a peer sent, a fact is one line of printable characters."""
    event = made(event="request.refused", user=text, name=raw)
    if message:
        event["log_format"] = "{user} asked for {name}"

    for line in (text_line(event), json_line(event)):
        assert line.endswith("\n")
        assert line[:-1].isprintable()


@given(st.text(), st.binary())
def test_json_gives_the_fields_back(text: str, raw: bytes) -> None:
    """The JSON line holds the fields with their types."""
    event = made(event="request", user=text, raw=raw, bytes=3, tls=True, none=None)

    record = json.loads(json_line(event))

    assert record["user"] == text
    assert (record["bytes"], record["tls"], record["none"]) == (3, True, None)
    assert record["time"] == "2026-11-22T03:15:00.250Z"
    assert record["level"] == "info"
    assert record["event"] == "request"


def test_fields_of_any_type() -> None:
    """A value without a JSON form becomes text, and one without a text its type."""

    class Mute:
        def __str__(self) -> str:
            raise ValueError

    event = made(
        event="x",
        path=Path("/a"),
        many={2, 1},
        nested={"k": (b"\x00", float("nan"))},
        mute=Mute(),
    )

    assert fields(event) == {
        "path": "/a",
        "many": [1, 2],
        "nested": {"k": ["\\x00", None]},
        "mute": "<Mute>",
    }


def failure_of(error: Exception) -> Failure:
    """A failure with a traceback."""
    try:
        raise error
    except type(error):
        return Failure()


def test_a_bug_shows_its_traceback() -> None:
    """A failure of our own is shown with its traceback, also as JSON."""
    event = made(
        LogLevel.critical,
        log_format="closing {peer}",
        peer="127.0.0.1",
        log_failure=failure_of(ZeroDivisionError("oops")),
    )

    lines = text_line(event).splitlines()

    assert lines[0].endswith("closing 127.0.0.1: ZeroDivisionError: oops")
    assert any("failure_of" in line for line in lines[1:])
    assert all(line.startswith("    ") for line in lines[1:])
    assert "failure_of" in json.loads(json_line(event))["traceback"]


def test_a_bug_told_the_older_way() -> None:
    """`twisted.python.log.err` makes the same lines as a Logger."""
    lines: list[str] = []
    observer = TextObserver(lines.append, Verbosity.NORMAL)
    failure = failure_of(ZeroDivisionError("oops"))
    event = {"failure": failure, "why": "during x", "isError": 1, "time": WHEN}
    event["message"] = ()
    publishToNewObserver(observer, event, textFromEventDict)

    first, *rest = "".join(lines).splitlines()
    assert first.endswith(" critical log_legacy: during x: ZeroDivisionError: oops")
    assert any("failure_of" in line for line in rest)


@pytest.mark.parametrize(
    "error", [RemoteProtocolError("user", b"a/\x1bb"), ConnectionLost("gone")]
)
def test_a_peers_error_shows_no_traceback(error: Exception) -> None:
    """What a peer or the network does wrong is one line."""
    event = made(LogLevel.error, log_format="closed", log_failure=failure_of(error))

    assert len(text_line(event).splitlines()) == 1
    assert type(error).__name__ in text_line(event)
    assert "traceback" not in json.loads(json_line(event))


@pytest.mark.parametrize("kind", [TextObserver, JSONObserver])
def test_observers_write_what_is_wanted(
    kind: type[TextObserver] | type[JSONObserver],
) -> None:
    """An observer writes a line for each wanted event, by its present verbosity."""
    lines: list[str] = []
    observer = kind(lines.append, Verbosity.NORMAL)
    verifyObject(ILogObserver, observer)
    log = Logger("test", observer=observer)

    log.debug("", event="request", name=b"1")
    observer.verbosity = Verbosity.VERBOSE
    log.debug("", event="request", name=b"2")

    assert len(lines) == 1
    assert "request" in lines[0]


def test_the_file_is_reopened(tmp_path: Path) -> None:
    """After rotation lines go to a new file of the old name."""
    path = tmp_path / "log"
    writer = FileWriter(path)
    writer("one\n")
    path.rename(tmp_path / "log.1")
    writer("two\n")
    writer.reopen()
    writer("three\n")
    writer.close()

    assert (tmp_path / "log.1").read_text() == "one\ntwo\n"
    assert path.read_text() == "three\n"
    assert path.stat().st_mode & 0o027 == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_told_once(tmp_path: Path) -> None:
    """A file that takes nothing is complained of once, and lines are counted."""
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    told: list[str] = []
    writer = FileWriter(path, told.append)
    for number in range(5):
        writer(f"{number}\n")
    path.unlink()
    writer.reopen()
    writer("five\n")
    writer("six\n")
    writer.close()

    assert told == [f"cannot write {path}: No space left on device\n"]
    assert path.read_text() == "(lines lost before this one: 5)\nfive\nsix\n"
