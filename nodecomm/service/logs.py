# SPDX-License-Identifier: MIT
"""
Log events as lines for people, or as JSON for programs.

Facts are emitted through `twisted.logger` with a stable name in the `event` field
and typed fields beside it. What a line looks like, and which facts make a line at
all, is decided here.
"""

from __future__ import annotations

import contextlib
import enum
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet import error
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    formatEvent,
    formatTime,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from nodecomm.service.logfile import LogFile
from nodecomm.wire.errors import RemoteProtocolError
from nodecomm.wire.text import safe, to_text

__all__ = [
    "NEEDED_VERBOSITY",
    "FileWriter",
    "JSONObserver",
    "TextObserver",
    "Verbosity",
    "fields",
    "is_wanted",
    "json_line",
    "text_line",
]


class Verbosity(enum.IntEnum):
    """
    How much is logged: the number of steps up from the default.
    """

    NORMAL = 0
    VERBOSE = 1
    DEBUG = 2


#: Named facts that make a line only when more is asked for. Every other fact of
#: level info and above makes one always.
NEEDED_VERBOSITY: Mapping[str, Verbosity] = {
    "session.opened": Verbosity.VERBOSE,
    "request": Verbosity.VERBOSE,
    "agent.run-started": Verbosity.VERBOSE,
    "agent.unchanged": Verbosity.VERBOSE,
    "agent.inventory-not-taken": Verbosity.VERBOSE,
    "classic.claimed": Verbosity.VERBOSE,
    "manifest.made": Verbosity.VERBOSE,
    "upload.stored": Verbosity.VERBOSE,
    "dialogue": Verbosity.DEBUG,
}

#: Failures that a peer or the network causes: never worth a traceback.
_PEER_ERRORS = (
    RemoteProtocolError,
    SSL.Error,
    error.ConnectionDone,
    error.ConnectionLost,
    error.ConnectionAborted,
    error.ConnectError,
    error.TimeoutError,
)

#: Characters a bare value in `key=value` may not have.
_NEEDS_QUOTES = frozenset(" \t\"'=")


#: What Twisted says of each port that opens and closes, with the names of classes;
#: `server.started` and its like say the same.
_PORT_LINE = re.compile(r"\S+ starting on .*|\(\S+ Port .* Closed\)", re.DOTALL)


def is_wanted(event: LogEvent, verbosity: Verbosity) -> bool:
    """
    Whether *event* makes a line at this verbosity.
    """
    if event.get("log_namespace") == "log_legacy" and not event.get("isError"):
        text = event.get("log_text")
        if isinstance(text, str) and _PORT_LINE.fullmatch(text):
            return False
    needed = NEEDED_VERBOSITY.get(event.get("event", ""))
    if needed is None:
        level = event.get("log_level")
        needed = Verbosity.DEBUG if level is LogLevel.debug else Verbosity.NORMAL
    return verbosity >= needed


def fields(event: LogEvent) -> dict[str, Any]:
    """
    The typed fields of a named fact, as values JSON has; nothing for other events.
    """
    if "event" not in event:
        return {}
    return {
        key: _plain(value)
        for key, value in event.items()
        if not key.startswith("log_") and key != "event"
    }


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return to_text(bytes(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(each) for each in value), key=str)
    try:
        return str(value)
    except Exception:
        # A value whose text cannot be made must not cost the rest of the line.
        return f"<{type(value).__name__}>"


def _message(event: LogEvent) -> str:
    """
    What the event says to people, peer-supplied text included as it came.
    """
    if isinstance(event.get("failure"), Failure):
        # From the older interface, which puts the traceback into the text.
        return str(event.get("why") or "")
    if event.get("log_format") is None:
        return " ".join(
            f"{key}={_value(value)}" for key, value in fields(event).items()
        )
    # bytes would show as b'...': format the one text form of wire names instead.
    shown = {
        key: to_text(value) if isinstance(value, bytes) else value
        for key, value in event.items()
    }
    template = event["log_format"]
    if isinstance(template, str) and "(" not in template:
        # Twisted's formatter is written in Python, so that fields may be calls; the
        # built-in one takes 3 us instead of 20. What it cannot do, Twisted's says in a
        # way that never fails.
        with contextlib.suppress(Exception):
            return template.format_map(shown)
    return formatEvent(shown)


@lru_cache(maxsize=4)
def _local_time(second: int) -> str:
    """
    The local time of a line. Working out the time zone takes 10 us, and a busy
    server has many lines a second.
    """
    return formatTime(second)


def _value(value: object) -> str:
    if isinstance(value, str):
        if value and not _NEEDS_QUOTES.intersection(value):
            return value
        # The escape that wire names have, so `from_text` reads it back.
        quoted = value.replace('"', "\\x22")
        return f'"{quoted}"'
    return json.dumps(value, ensure_ascii=False)


def _trouble(event: LogEvent) -> tuple[str, str]:
    """
    The failure of an event in one line, and its traceback when it is a bug of ours.
    """
    failure = event.get("log_failure") or event.get("failure")
    if not isinstance(failure, Failure):
        return "", ""
    line = f"{failure.type.__name__ if failure.type else ''}: {failure.value}"
    if isinstance(failure.value, _PEER_ERRORS):
        return line, ""
    return line, failure.getTraceback()


def text_line(event: LogEvent) -> str:
    """
    The event for people: time, level, name, message; a bug's traceback below it,
    indented. Whatever a peer sent can neither end the line nor reach the terminal
    as a control character.
    """
    level = event.get("log_level")
    name = event.get("event") or event.get("log_namespace") or "-"
    message = _message(event)
    line, traceback = _trouble(event)
    if line:
        message = f"{message}: {line}" if message else line
    time = event.get("log_time")
    when = "-" if time is None else _local_time(math.floor(time))
    head = f"{when} {level.name if level else '-'} {safe(str(name))}: {safe(message)}\n"
    below = "".join(f"    {safe(each)}\n" for each in traceback.splitlines())
    return head + below


def json_line(event: LogEvent) -> str:
    """
    The event as one JSON object: time (UTC), level, event, its fields, the message
    where it has one. ASCII only, so it is safe to look at as it is.
    """
    level = event.get("log_level")
    record: dict[str, Any] = {
        "time": utc(event.get("log_time")),
        "level": level.name if level else None,
        "event": event.get("event") or event.get("log_namespace"),
    }
    for key, value in fields(event).items():
        record.setdefault(key, value)
    if event.get("log_format") is not None:
        record.setdefault("message", _message(event))
    line, traceback = _trouble(event)
    if line:
        record["failure"] = line
    if traceback:
        record["traceback"] = traceback
    return json.dumps(record) + "\n"


def utc(when: float | None) -> str | None:
    """
    A time in seconds since 1970 as ISO 8601 in UTC, to the millisecond.
    """
    if when is None:
        return None
    text = datetime.fromtimestamp(when, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


@implementer(ILogObserver)
class TextObserver:
    """
    Writes the events that are wanted as lines for people.
    """

    def __init__(self, write: Callable[[str], object], verbosity: Verbosity) -> None:
        """
        Args:
            write: Takes the text of one event, line ends included.
            verbosity: May be changed at any time.
        """
        self._write = write
        self.verbosity = verbosity

    def __call__(self, event: LogEvent) -> None:
        if is_wanted(event, self.verbosity):
            self._write(text_line(event))


@implementer(ILogObserver)
class JSONObserver:
    """
    Writes the events that are wanted as JSON, one object a line.
    """

    def __init__(self, write: Callable[[str], object], verbosity: Verbosity) -> None:
        """
        Args:
            write: Takes the text of one event, line end included.
            verbosity: May be changed at any time.
        """
        self._write = write
        self.verbosity = verbosity

    def __call__(self, event: LogEvent) -> None:
        if is_wanted(event, self.verbosity):
            self._write(json_line(event))


class FileWriter:
    """
    Log lines into a file. A file that cannot be written never stops the program:
    the first lost line of a burst is told on standard error, and the first line
    that fits again comes after one that says how many were lost.
    """

    def __init__(
        self, path: Path, complain: Callable[[str], object] | None = None
    ) -> None:
        """
        Args:
            path: The file.
            complain: Takes the line about a file that cannot be written;
                standard error, as it was when the program started, by default.
        """
        self._file = LogFile(path)
        self._complain = complain or _to_stderr
        self._lost = 0
        self._torn = False

    def open(self) -> None:
        """
        Open the file now.

        Raises:
            OSError: It cannot be opened.
        """
        self._file.open()

    def __call__(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        if self._lost:
            data = f"(lines lost before this one: {self._lost})\n".encode() + data
        if self._torn:
            data = b"\n" + data
        written, trouble = self._file.write(data)
        if trouble is None:
            self._lost = 0
            self._torn = False
            return
        self._torn = self._torn or written > 0
        if not self._lost:
            self._complain(f"cannot write {self._file.path}: {trouble.strerror}\n")
        self._lost += 1

    def reopen(self) -> None:
        """
        Open the file by name again.

        Raises:
            OSError: It cannot be opened; the old one stays in use.
        """
        self._file.reopen()
        self._torn = False

    def close(self) -> None:
        """
        Close the file.
        """
        self._file.close()


def _to_stderr(text: str) -> None:
    stream = sys.__stderr__
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        # Nobody is left to be told.
        return
