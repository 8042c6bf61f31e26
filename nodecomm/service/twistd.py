# SPDX-License-Identifier: MIT
"""
What every service of ours that `twistd` runs has in common: its options, its log as
the program's log, and an end with one line when it cannot start.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

from attrs import evolve
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized

from nodecomm import __version__
from nodecomm.service.logs import Verbosity
from nodecomm.service.output import LogOutput, log_output
from nodecomm.service.own_state import StartError
from nodecomm.service.signals import EarlySignal, StopOnce

if TYPE_CHECKING:
    from twisted.application.service import Service

    from nodecomm.config.errors import Problem
    from nodecomm.config.model import OutputSettings

    _Service = Service
else:
    _Service = object

__all__ = [
    "FORMATS",
    "ServiceOptions",
    "TwistdMixin",
    "catch_early",
    "end_with_problems",
    "end_with_system_error",
    "log_to",
    "use_steady_time",
]

FORMATS = ["text", "json"]

L = TypeVar("L", bound="OutputSettings")


class ServiceOptions(usage.Options):
    """
    The options of a service. A class derived from it has `--config` and `--verbose` of
    its own, with what they mean there.
    """

    synopsis = "[options]"

    #: Shown as it is below the options.
    examples = ""

    optParameters = [
        [
            "state-dir",
            None,
            None,
            "folder of keys and state; goes before NODECOMM_STATE_DIR and the"
            " configuration",
        ],
        ["log-format", None, None, "text or json; goes before the configuration"],
    ]
    optFlags = [
        ["debug", "d", "log the dialogue too"],
        ["json-log", None, "the same as --log-format json"],
    ]
    #: What a shell proposes.
    compData = usage.Completions(  # type: ignore[no-untyped-call]
        optActions={
            "config": usage.CompleteFiles("*.toml"),  # type: ignore[no-untyped-call]
            "state-dir": usage.CompleteDirs(),  # type: ignore[no-untyped-call]
            "log-format": usage.CompleteList(FORMATS),  # type: ignore[no-untyped-call]
        }
    )

    def getUsage(self, width: int | None = None) -> str:
        """
        The options, then examples; these must not be wrapped as a text is.
        """
        usual: str = super().getUsage(width)
        return f"{usual.rstrip()}\n\n{self.examples}"

    def opt_version(self) -> None:
        """
        Print the version and exit.
        """
        print(f"nodecomm {__version__}")
        raise SystemExit(0)

    def parseArgs(self, *arguments: str) -> None:
        """
        There are only options.
        """
        if arguments:
            raise usage.UsageError(
                f"unexpected argument {arguments[0]!r}; is it meant to be -c FILE?"
            )

    def postOptions(self) -> None:
        """
        Check what can be checked without a configuration.
        """
        wanted = self["log-format"]
        if wanted is not None and wanted not in FORMATS:
            raise usage.UsageError(f"--log-format is text or json, not {wanted!r}")
        if self["json-log"]:
            if wanted == "text":
                raise usage.UsageError("--json-log and --log-format text disagree")
            self["log-format"] = "json"

    @property
    def verbosity(self) -> Verbosity:
        """
        How much is logged.
        """
        if self["debug"]:
            return Verbosity.DEBUG
        return Verbosity.VERBOSE if self["verbose"] else Verbosity.NORMAL

    def path(self, name: str) -> Path | None:
        """
        The value of an option that names a file or folder: as it is seen from here,
        for a daemon works elsewhere.
        """
        return Path(self[name]).absolute() if self[name] else None


class Stopped(SystemExit, Exception):  # noqa: N818
    """
    The service did not start, and why has been said. As an `Exception`, twistd
    removes its PID file and tells the process that waits for the daemon; as a
    `SystemExit`, nobody sees a traceback.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(1)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class TwistdMixin(_Service):
    """
    A service as twistd runs it: its log is the program's log, and what keeps it from
    starting ends the program with one line and status 1. Comes before the service's
    class.
    """

    _output: LogOutput
    _stderr: TextIO
    _reactor: Any
    _log: Logger

    def runs_under_twistd(self, output: LogOutput, stderr: TextIO) -> None:
        """
        Args:
            output: Where the log goes.
            stderr: Standard error as it was before twistd redirects it.
        """
        self._output = output
        self._stderr = stderr

    def cannot_start(self, reason: str) -> None:
        """
        State as an event why the service does not start.
        """
        raise NotImplementedError

    def setServiceParent(self, parent: Any) -> None:
        """
        Become part of the application, and its log observer: twistd asks the
        application for one before it makes its own.
        """
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._output.observer)  # type: ignore[no-untyped-call]
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """
        Start, or end the program.
        """
        use_steady_time(self._reactor)
        try:
            super().startService()  # type: ignore[no-untyped-call]
        except StartError as error:
            self._stderr.write(f"error: {error}\n")
            self._stderr.flush()
            if not self._output.console:
                self.cannot_start(str(error))
            raise Stopped(str(error)) from None
        # The reactor installs what it does at these signals when it begins to run.
        stop = StopOnce((signal.SIGTERM, signal.SIGINT))
        self._reactor.callWhenRunning(stop.start)


def use_steady_time(
    reactor: Any, monotonic: Callable[[], float] = time.monotonic
) -> None:
    """
    Make *reactor* time its calls by a clock that nobody sets.

    Twisted's reactors take the civil time. When that is set back by a day, every call
    waits for a day more, and all is silent; when it is set forward, all time-outs come
    at once.
    """
    pending = [(call, call.getTime() - reactor.seconds()) for call in _calls(reactor)]
    reactor.seconds = monotonic
    for call, left in pending:
        call.seconds = monotonic
        call.reset(max(left, 0.0))


def _calls(reactor: Any) -> Iterable[Any]:
    return list(reactor.getDelayedCalls())


def catch_early(*numbers: int) -> None:
    """
    Keep signals that mean something to the service from ending the program while it
    starts.
    """
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            EarlySignal().install(number)


def log_to(options: ServiceOptions, log: L, stdout: TextIO) -> LogOutput:
    """
    Where the log goes by options and configuration together.

    Raises:
        OSError: The log file cannot be opened.
    """
    if options["log-format"]:
        log = evolve(log, format=options["log-format"])
    parent = getattr(options, "parent", None)
    twistd: Mapping[str, Any] = {} if parent is None else parent
    return log_output(log, options.verbosity, twistd, stdout)


def end_with_problems(problems: Iterable[Problem], stderr: TextIO) -> NoReturn:
    """
    End the program for a configuration with errors.
    """
    count = 0
    for problem in problems:
        stderr.write(f"{problem}\n")
        count += problem.is_error
    counted = "1 error" if count == 1 else f"{count} errors"
    stderr.write(f"error: {counted} in the configuration\n")
    raise SystemExit(1)


def end_with_system_error(error: OSError, stderr: TextIO) -> NoReturn:
    """
    End the program for an error of the system.
    """
    where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    name = errno.errorcode.get(error.errno or 0, "")
    stderr.write(
        f"error: {where}{error.strerror or error} ({name}){_missing_folder(error)}\n"
    )
    raise SystemExit(1) from None


def _missing_folder(error: OSError) -> str:
    """
    What to do about a file whose folder is not there.
    """
    if error.errno != errno.ENOENT or not error.filename:
        return ""
    folder = os.path.dirname(os.fsdecode(error.filename))
    if not folder or os.path.lexists(folder):
        return ""
    return f"; make the folder {folder} first, or name a file in another one"
