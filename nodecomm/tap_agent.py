# SPDX-License-Identifier: MIT
"""
`twistd nodecomm-agent`: options, and the service they ask for.
"""

from __future__ import annotations

import signal
import sys
import time

from twisted.application.service import IService

from nodecomm.service.agent_inventory_sources import InventorySources
from nodecomm.service.agent_prepared import PreparedAgent, prepare_agent
from nodecomm.service.agent_service import AgentService
from nodecomm.service.agent_sources import SyncSources
from nodecomm.service.loading import LoadedAgent, load_agent
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
With /etc/nodecomm/agent.toml:

  [agent]
  policy_servers = ["hub.example.com"]
  server_keys = ["MD5=..."]                     # nodecomm key show, on the server
  after_update = ["/usr/bin/cf-agent", "-K"]

  [[copy]]
  source = "masterfiles"
  destination = "/var/lib/nodecomm/inputs"
  purge = true

check it, run it in the foreground, ask how it is doing:

  nodecomm config check -c /etc/nodecomm/agent.toml
  twistd -n nodecomm-agent -c /etc/nodecomm/agent.toml
  nodecomm agent status
  nodecomm agent run                            # a run now

SIGHUP reads the configuration again and reopens the log file; SIGUSR1 runs now;
SIGTERM ends what is under way, leaving every copy as it was or wholly new. twistd's
own options (-n for the foreground, --logfile, --pidfile, --syslog) stand before the
word nodecomm-agent.
"""


class Options(ServiceOptions):
    """
    The options of `twistd nodecomm-agent`.
    """

    longdesc = "Keeps local copies those of a policy server, in one step each."
    examples = _EXAMPLES

    optParameters = [
        [
            "config",
            "c",
            None,
            "the configuration file; without it /etc/nodecomm/agent.toml",
        ],
    ]
    optFlags = [["verbose", "v", "log each run and each copy that did not change"]]


class TwistdAgent(TwistdMixin, AgentService):
    """
    The agent as twistd runs it.
    """

    def cannot_start(self, reason: str) -> None:
        """
        State as an event why the agent does not start.
        """
        self._log.critical("{reason}", event="agent.cannot-start", reason=reason)


def makeService(options: Options) -> IService:
    """
    The service that *options* ask for.

    A configuration with errors ends the program: every problem on a line of standard
    error, exit status 1.
    """
    from twisted.internet import reactor  # noqa: PLC0415

    catch_early(signal.SIGHUP, signal.SIGUSR1)
    stdout, stderr = sys.stdout, sys.stderr
    config, state_dir = options.path("config"), options.path("state-dir")

    def read() -> tuple[PreparedAgent | None, LoadedAgent]:
        return prepare_agent(load_agent(config, state_dir=state_dir))

    try:
        prepared, loaded = read()
        if prepared is None:
            end_with_problems(loaded.problems, stderr)
        output = log_to(options, prepared.configuration.log, stdout)
    except OSError as error:
        end_with_system_error(error, stderr)
    service = TwistdAgent(
        prepared,
        reactor=reactor,
        reread=read,
        sources=SyncSources(reactor),
        ways=lambda state, pair, pool: InventorySources(
            reactor, state, pair, pool, time.time
        ),
        reopen_log=output.reopen,
        handle_signals=True,
    )
    service.runs_under_twistd(output, stderr)
    return service
