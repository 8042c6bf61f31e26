# SPDX-License-Identifier: MIT
"""
`twistd nodecomm-server`: options, and the service they ask for.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from twisted.application.service import IService

from nodecomm.identity.files import ensure_folder
from nodecomm.service.loading import Loaded, load
from nodecomm.service.output import StreamWriter
from nodecomm.service.prepared import Prepared, prepare, state_folder
from nodecomm.service.sample import next_steps, write_sample
from nodecomm.service.server_service import ServerService
from nodecomm.service.twistd import (
    ServiceOptions,
    TwistdMixin,
    catch_early,
    end_with_problems,
    end_with_system_error,
    log_to,
)

__all__ = ["Options", "makeService"]

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


class Options(ServiceOptions):
    """
    The options of `twistd nodecomm-server`.
    """

    longdesc = (
        "A policy server for CFEngine nodes: over TLS, and where allowlegacyconnects"
        " says so, by the classic protocol."
    )
    examples = _EXAMPLES

    optParameters = [
        [
            "config",
            "c",
            None,
            "the configuration file; without it /etc/nodecomm/server.toml if there"
            " is one, else defaults for trying things out on this machine alone",
        ],
    ]
    optFlags = [["verbose", "v", "log each request and the decision about it"]]


class TwistdService(TwistdMixin, ServerService):
    """
    The server as twistd runs it.
    """

    def cannot_start(self, reason: str) -> None:
        """
        State as an event why the server does not start.
        """
        self._log.critical("{reason}", event="server.cannot-start", reason=reason)


def makeService(options: Options) -> IService:
    """
    The service that *options* ask for.

    A configuration with errors ends the program: every problem on a line of standard
    error, exit status 1.
    """
    from twisted.internet import reactor  # noqa: PLC0415

    catch_early(signal.SIGHUP)
    stdout, stderr = sys.stdout, sys.stderr
    config, state_dir = options.path("config"), options.path("state-dir")

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
            end_with_problems(loaded.problems, stderr)
        output = log_to(options, prepared.settings.log, stdout)
    except OSError as error:
        end_with_system_error(error, stderr)

    folder = _shown(state_folder(prepared.settings))

    def ready(port: int) -> None:
        if made_sample and output.console:
            StreamWriter(stdout)(f"\n{next_steps(Path(folder), port)}\n")

    service = TwistdService(
        prepared=prepared,
        reactor=reactor,
        reread=read,
        reopen_log=output.reopen,
        verbosity=options.verbosity,
        handle_signals=True,
        ready=ready,
    )
    service.runs_under_twistd(output, stderr)
    return service


def _shown(folder: str) -> str:
    """
    The shorter of the absolute name and the one seen from here.
    """
    return min(folder, os.path.relpath(folder), key=len)
