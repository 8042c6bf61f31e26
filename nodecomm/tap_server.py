# SPDX-License-Identifier: MIT
"""
`twistd nodecomm-server`: options, and the service they ask for.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from attrs import evolve
from twisted.application.service import IService
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.components import Componentized

from nodecomm import __version__
from nodecomm.identity.files import ensure_folder
from nodecomm.service.loading import Loaded, load
from nodecomm.service.logs import Verbosity
from nodecomm.service.output import LogOutput, StreamWriter, log_output
from nodecomm.service.prepared import Prepared, prepare, state_folder
from nodecomm.service.sample import next_steps, write_sample
from nodecomm.service.server_service import ServerService, StartError
from nodecomm.service.signals import EarlySignal, StopOnce

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Options", "makeService"]

FORMATS = ["text", "json"]

_EXAMPLES = """\
To try it on one machine, with a sample policy in ./var/masterfiles:

  twistd -n nodecomm-server --state-dir ./var

To serve a fleet, write /etc/nodecomm/server.toml, check it, start a daemon:

  [server]
  allowed_networks = ["10.0.0.0/8"]
  allowconnects = ["@allowed_networks"]
  allowallconnects = ["@allowed_networks"]
  trustkeysfrom = [{ network = "10.1.0.0/16", until = 2030-01-01T00:00:00Z }]

  [[access]]
  path = "/srv/policy/masterfiles/"
  shortcut = "masterfiles"
  admit_ips = ["@allowed_networks"]

  nodecomm config check -c /etc/nodecomm/server.toml
  twistd --pidfile /run/nodecomm.pid --logfile /var/log/nodecomm.log \\
      nodecomm-server -c /etc/nodecomm/server.toml

SIGHUP reads the configuration again and reopens the log files; SIGTERM lets
answers under way end, then stops. twistd's own options (-n for the foreground,
--logfile, --pidfile, --syslog, --uid) stand before the word nodecomm-server.
"""


class Options(usage.Options):
    """
    The options of `twistd nodecomm-server`.
    """

    synopsis = "[options]"
    longdesc = "A policy server that CFEngine nodes use over TLS."

    optParameters = [
        [
            "config",
            "c",
            None,
            "the configuration file; without it /etc/nodecomm/server.toml if there"
            " is one, else defaults for trying things out on this machine alone",
        ],
        [
            "state-dir",
            None,
            None,
            "folder of keys and database; goes before NODECOMM_STATE_DIR and the"
            " configuration",
        ],
        ["log-format", None, None, "text or json; goes before the configuration"],
    ]
    optFlags = [
        ["verbose", "v", "log each request and the decision about it"],
        ["debug", "d", "log the dialogue too"],
        ["json-log", None, "the same as --log-format json"],
    ]
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
        return f"{usual.rstrip()}\n\n{_EXAMPLES}"

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


class _Stopped(SystemExit, Exception):  # noqa: N818
    """
    The server did not start, and why has been said. As an `Exception`, twistd
    removes its PID file and tells the process that waits for the daemon; as a
    `SystemExit`, nobody sees a traceback.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(1)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class TwistdService(ServerService):
    """
    The server as twistd runs it: its log is the program's log, and what keeps it
    from starting ends the program with one line and status 1.
    """

    def __init__(self, output: LogOutput, stderr: TextIO, **arguments: Any) -> None:
        """
        Args:
            output: Where the log goes.
            stderr: Standard error as it was before twistd redirects it.
            arguments: Those of `ServerService`.
        """
        super().__init__(reopen_log=output.reopen, **arguments)
        self._output = output
        self._stderr = stderr

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
        try:
            super().startService()
        except StartError as error:
            self._stderr.write(f"error: {error}\n")
            self._stderr.flush()
            if not self._output.console:
                self._log.critical(
                    "{reason}", event="server.cannot-start", reason=str(error)
                )
            raise _Stopped(str(error)) from None
        # The reactor installs what it does at these signals when it begins to run.
        stop = StopOnce((signal.SIGTERM, signal.SIGINT))
        self._reactor.callWhenRunning(stop.start)


def makeService(options: Options) -> IService:
    """
    The service that *options* ask for.

    A configuration with errors ends the program: every problem on a line of standard
    error, exit status 1.
    """
    from twisted.internet import reactor  # noqa: PLC0415

    if threading.current_thread() is threading.main_thread():
        EarlySignal().install(signal.SIGHUP)
    stdout, stderr = sys.stdout, sys.stderr
    config = Path(options["config"]).absolute() if options["config"] else None
    state_dir = Path(options["state-dir"]).absolute() if options["state-dir"] else None

    def read(generation: int) -> tuple[Prepared | None, Loaded]:
        return prepare(load(config, state_dir=state_dir), generation=generation)

    loaded = load(config, state_dir=state_dir)
    made_sample = False
    try:
        if not loaded.sources and loaded.settings is not None:
            # Rules are about what exists when they are loaded.
            folder = state_folder(loaded.settings)
            ensure_folder(folder)
            made_sample = bool(write_sample(Path(folder), time.time()))
        prepared, loaded = prepare(loaded, generation=1)
        if prepared is None:
            for problem in loaded.problems:
                stderr.write(f"{problem}\n")
            count = sum(problem.is_error for problem in loaded.problems)
            stderr.write(f"error: {_counted(count)} in the configuration\n")
            raise SystemExit(1)
        log = prepared.settings.log
        if options["log-format"]:
            log = evolve(log, format=options["log-format"])
        output = log_output(log, options.verbosity, _twistd_options(options), stdout)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        name = errno.errorcode.get(error.errno or 0, "")
        stderr.write(f"error: {where}{error.strerror or error} ({name})\n")
        raise SystemExit(1) from None

    folder = _shown(state_folder(prepared.settings))

    def ready(port: int) -> None:
        if made_sample and output.console:
            StreamWriter(stdout)(f"\n{next_steps(Path(folder), port)}\n")

    return TwistdService(
        output,
        stderr,
        prepared=prepared,
        reactor=reactor,
        reread=read,
        verbosity=options.verbosity,
        handle_signals=True,
        ready=ready,
    )


def _counted(count: int) -> str:
    return "1 error" if count == 1 else f"{count} errors"


def _shown(folder: str) -> str:
    """
    The shorter of the absolute name and the one seen from here.
    """
    return min(folder, os.path.relpath(folder), key=len)


def _twistd_options(options: Options) -> Mapping[str, Any]:
    parent = getattr(options, "parent", None)
    return {} if parent is None else parent
