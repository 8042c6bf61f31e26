# SPDX-License-Identifier: MIT
"""
`nodecomm bootstrap`: make this machine a node of a policy server, or that server.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from twisted.python import usage

from nodecomm.cli.asking import ask_about_key, open_terminal
from nodecomm.cli.connecting import (
    ConnectingOptions,
    run_command,
    server_argument,
)
from nodecomm.cli.dialing import make_dialer
from nodecomm.cli.options import write_json
from nodecomm.cli.statuses import Status
from nodecomm.config.durations import parse_duration
from nodecomm.identity.places import standard_state_dir
from nodecomm.wire.text import safe

if TYPE_CHECKING:
    from nodecomm.service.bootstrap_model import BootstrapResult

__all__ = ["Options", "run"]

#: The configuration of the machine's own services.
SYSTEM_CONFIG = Path("/etc/nodecomm")

ROLES = ("auto", "node", "server")


class Options(ConnectingOptions):
    """
    The command line of `nodecomm bootstrap`.
    """

    takes = "HOST[:PORT] [options]"
    longdesc = (
        "Make this machine a node of the policy server HOST: make its key, check the "
        "server's, fetch masterfiles and modules, and record the server in the agent's "
        "configuration. On the machine that has the address of HOST, set up the policy "
        "server first. May be run again at any time."
    )
    optParameters = [
        [
            "config-dir",
            None,
            None,
            "folder of agent.toml and server.toml; by default /etc/nodecomm for root "
            "with the usual state folder, else the state folder",
        ],
        [
            "role",
            None,
            "auto",
            "node or server, whatever the address says",
        ],
        [
            "trust-for",
            None,
            None,
            "on the policy server: how long new nodes are trusted (2h, 30m, 0: not at "
            "all); 24h at first, and left alone when run again",
        ],
    ]
    optFlags = [
        [
            "start",
            None,
            "have the agent run from now on: as a systemd unit, or in the background "
            "where there is no systemd",
        ],
    ]

    subjects = (("host", "HOST"),)

    def __init__(self) -> None:
        self.trust_networks: list[str] = []
        self.trust_for: float | None = None
        super().__init__()

    def opt_trust_network(self, network: str) -> None:
        """
        On the policy server: from where new nodes are trusted and served (10.1.0.0/16,
        2001:db8::/64); may be given several times. By default the /16 (IPv6: /64)
        around the server's address.
        """
        import ipaddress  # noqa: PLC0415

        try:
            self.trust_networks.append(str(ipaddress.ip_network(network)))
        except ValueError as error:
            msg = f"--trust-network takes a network such as 10.1.0.0/16: {error}"
            raise usage.UsageError(msg) from error

    def postOptions(self) -> None:
        """
        Check what has been given.
        """
        super().postOptions()
        self.server = server_argument(self["host"])
        if self.server.host in ("0.0.0.0", "::"):  # noqa: S104
            msg = (
                f"{self.server.host} is no address of a server: give the name or the "
                "address by which nodes know it"
            )
            raise usage.UsageError(msg)
        if self["role"] not in ROLES:
            msg = f"--role takes {', '.join(ROLES)}, not {self['role']!r}"
            raise usage.UsageError(msg)
        if self["trust-for"] is not None:
            given = self["trust-for"]
            try:
                self.trust_for = 0.0 if given == "0" else float(parse_duration(given))
            except ValueError as error:
                msg = (
                    f"--trust-for takes a time such as 2h, 30m, 1d or 0, not {given!r}"
                )
                raise usage.UsageError(msg) from error
        if self["trust-server"] and self.server_keys:
            msg = "--trust-server and --server-key: give one of the two"
            raise usage.UsageError(msg)

    @property
    def places(self) -> tuple[Path, Path, bool]:
        """
        The folders of state and configuration, and whether they are the machine's own.
        """
        state_dir = Path(os.path.abspath(self.state_dir))
        is_root = os.geteuid() == 0
        if self["config-dir"]:
            config_dir = Path(os.path.abspath(self["config-dir"]))
        elif is_root and state_dir == standard_state_dir({}, 0):
            config_dir = SYSTEM_CONFIG
        else:
            config_dir = state_dir
        return state_dir, config_dir, is_root and config_dir == SYSTEM_CONFIG

    @property
    def again(self) -> str:
        """
        The command line that means the same machine, server and folders.
        """
        words = ["bootstrap", self["host"]]
        for name in ("state-dir", "config-dir"):
            if self[name]:
                words += [f"--{name}", os.path.abspath(self[name])]
        if self["role"] != "auto":
            words += ["--role", self["role"]]
        return f"{_program()} {shlex.join(words)}"


def _program() -> str:
    """
    How this program is called from anywhere.
    """
    from nodecomm.service.sample import nodecomm_command  # noqa: PLC0415

    command = nodecomm_command()
    if "/" not in command:
        return command
    return shlex.quote(os.path.abspath(shlex.split(command)[0]))


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    Bootstrap, and return the exit status.
    """
    as_json = options.as_json

    def say(line: str) -> None:
        # Facts for programs are all of what they read.
        stream = stderr if as_json else stdout
        stream.write(safe(line) + "\n")
        stream.flush()

    return run_command(
        partial(_bootstrap, options, say, stdout, stderr),
        stdout,
        stderr,
        as_json=as_json,
        state_dir=options.named_state_dir,
    )


async def _bootstrap(
    options: Options,
    say: Callable[[str], None],
    stdout: TextIO,
    stderr: TextIO,
    reactor: Any,
) -> int:
    # All of the server and of the agent, which takes its time to load.
    from twisted.internet.task import deferLater  # noqa: PLC0415

    from nodecomm.config.errors import ConfigError  # noqa: PLC0415
    from nodecomm.service.bootstrap_link import ServerLink  # noqa: PLC0415
    from nodecomm.service.bootstrap_model import (  # noqa: PLC0415
        BootstrapError,
        BootstrapRequest,
    )
    from nodecomm.service.bootstrapping import Bootstrap  # noqa: PLC0415
    from nodecomm.service.own_server import become_server  # noqa: PLC0415
    from nodecomm.service.starting import CannotStart  # noqa: PLC0415

    state_dir, config_dir, system = options.places
    request = BootstrapRequest(
        server=options.server,
        state_dir=state_dir,
        config_dir=config_dir,
        system=system,
        server_keys=tuple(options.server_keys),
        trust_server=bool(options["trust-server"]),
        start=bool(options["start"]),
        role=options["role"],
        trust_for=options.trust_for,
        trust_networks=tuple(options.trust_networks),
        user=options.user.decode("utf-8", "replace"),
        record_user=options["user"] is not None,
        protocol=None if options["protocol"] == "latest" else options.newest,
        program=_program(),
        again=options.again,
    )
    bootstrap = Bootstrap(
        request=request,
        link=ServerLink(
            reactor,
            options.server,
            state_dir,
            lambda trust: make_dialer(reactor, options, state_dir, trust=trust),
        ),
        ask=partial(ask_about_key, terminal=partial(open_terminal, stderr)),
        say=say,
        sleep=lambda seconds: deferLater(reactor, seconds),
        become_server=become_server,
    )
    try:
        result = await bootstrap.run()
    except (BootstrapError, CannotStart) as error:
        return _failed([str(error)], options, stdout, stderr)
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems]
        problems.append("nothing was changed in the configuration, for its errors")
        return _failed(problems, options, stdout, stderr)
    if options.as_json:
        write_json(_facts(result), stdout)
    else:
        say(_last_line(result, started=request.start))
    return Status.DONE


def _failed(
    lines: list[str], options: Options, stdout: TextIO, stderr: TextIO
) -> Status:
    """
    Tell what is in the way on this machine.
    """
    if options.as_json:
        error = {"code": "local", "text": "\n".join(lines), "status": int(Status.LOCAL)}
        write_json({"error": error}, stdout)
    for line in lines[:-1]:
        stderr.write(safe(line) + "\n")
    stderr.write(f"error: {safe(lines[-1])}\n")
    return Status.LOCAL


def _last_line(result: BootstrapResult, *, started: bool) -> str:
    what = "the policy server and its own node" if result.role == "server" else "a node"
    line = f"this machine is {what} of {result.server} now"
    if result.role == "server":
        line = f"this machine is {result.server}, {what}, now"
    if not started:
        line += "; run this with --start to have the agent keep the policy up to date"
    return line


def _facts(result: BootstrapResult) -> dict[str, Any]:
    return {
        "role": result.role,
        "server": str(result.server),
        "key": {"md5": result.key.md5, "sha": result.key.sha},
        "own_key": {"md5": result.own_key.md5, "sha": result.own_key.sha},
        "copies": [
            {
                "source": copied.source,
                "destination": copied.destination,
                "changed": copied.result.changed,
                "checked": copied.result.checked,
                "fetched": copied.result.fetched,
                "removed": copied.result.removed,
            }
            for copied in result.copies
        ],
        "files": [str(path) for path in result.files],
        "started": {
            name: {"how": started.how, "pid": started.pid, "log": started.log}
            for name, started in result.started.items()
        },
        "trust_windows": [
            {"network": network, "until": until} for network, until in result.windows
        ],
        "warnings": list(result.warnings),
    }
