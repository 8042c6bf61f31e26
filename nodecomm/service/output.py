# SPDX-License-Identifier: MIT
"""
Where the log goes when `twistd` runs the server.
"""

from __future__ import annotations

import syslog
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from attrs import frozen
from twisted.logger import ILogObserver, LogEvent, LogLevel
from zope.interface import implementer

from nodecomm.service.logs import (
    FileWriter,
    JSONObserver,
    TextObserver,
    Verbosity,
    is_wanted,
    json_line,
    text_line,
)

if TYPE_CHECKING:
    from nodecomm.config.model import OutputSettings

__all__ = ["LogOutput", "StreamWriter", "SyslogObserver", "log_output"]

#: What twistd calls its log when it becomes a daemon and nobody names one.
DEFAULT_LOG = "twistd.log"


@frozen
class LogOutput:
    """
    A destination for events.

    Attributes:
        observer: Takes the events.
        reopen: Opens the file again after it was rotated; nothing elsewhere.
        console: Whether a person at a terminal reads it.
    """

    observer: ILogObserver
    reopen: Callable[[], None]
    console: bool = False


class StreamWriter:
    """
    Log lines on a stream such as standard output. One that is closed or full loses
    lines and stops nobody.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, text: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        try:
            self._stream.write(shown)
            self._stream.flush()
        except (OSError, ValueError):
            # A closed terminal or pipe: there is nowhere left to say so.
            return


_PRIORITIES = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}


@implementer(ILogObserver)
class SyslogObserver:
    """
    Writes the events that are wanted to the system's log, a message a line.
    """

    def __init__(
        self, prefix: str, form: Callable[[LogEvent], str], verbosity: Verbosity
    ) -> None:
        """
        Args:
            prefix: What the messages begin with.
            form: Makes the text of an event.
            verbosity: May be changed at any time.
        """
        syslog.openlog(prefix, syslog.LOG_PID, syslog.LOG_DAEMON)
        self._form = form
        self.verbosity = verbosity

    def __call__(self, event: LogEvent) -> None:
        if not is_wanted(event, self.verbosity):
            return
        level = event.get("log_level")
        priority = _PRIORITIES.get(level or LogLevel.info, syslog.LOG_INFO)
        for line in self._form(event).splitlines():
            syslog.syslog(priority, line)


def log_output(
    log: OutputSettings,
    verbosity: Verbosity,
    twistd: Mapping[str, Any],
    stdout: TextIO,
) -> LogOutput:
    """
    The destination that command line and configuration ask for together: twistd's
    `--syslog` and `--logfile` go before `[log] file`; without any of them standard
    output, or twistd.log for a daemon.

    Args:
        log: The `[log]` settings, the format of the command line put in.
        verbosity: How much is logged.
        twistd: twistd's own options.
        stdout: Standard output as it was before twistd redirects it.

    Raises:
        OSError: The file cannot be opened.
    """
    as_json = log.format == "json"
    if twistd.get("syslog"):
        prefix = twistd.get("prefix") or "nodecomm"
        form = json_line if as_json else text_line
        return LogOutput(SyslogObserver(prefix, form, verbosity), lambda: None)
    named = twistd.get("logfile") or log.file
    make = JSONObserver if as_json else TextObserver
    if named in (None, "", "-") and (twistd.get("nodaemon") or named == "-"):
        return LogOutput(
            make(StreamWriter(stdout), verbosity), lambda: None, console=True
        )
    writer = FileWriter(Path(named or DEFAULT_LOG))
    writer.open()
    return LogOutput(make(writer, verbosity), writer.reopen)
