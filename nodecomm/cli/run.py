# SPDX-License-Identifier: MIT
"""
`nodecomm run`: has nodes run their agents, many at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TextIO

from twisted.internet.defer import CancelledError
from twisted.python import usage

from nodecomm.cli.connecting import (
    InteractiveOptions,
    run_command,
    server_argument,
)
from nodecomm.cli.dialing import ask_at_terminal, make_dialer
from nodecomm.cli.hosts import label, read_hosts, without_duplicates
from nodecomm.cli.progress import ProgressLine
from nodecomm.config.durations import parse_duration
from nodecomm.wire.errors import LocalProtocolError
from nodecomm.wire.execute import encode_execute
from nodecomm.wire.text import safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nodecomm.cli.run_report import JSONReport, TextReport
    from nodecomm.client.address import ServerAddress
    from nodecomm.client.fleet import NodeResult

__all__ = ["Options", "bounded", "run"]

#: Seconds to be connected, at the most.
_CONNECT = 30.0

#: Descriptors of one node: its connection, and a second one where a name has addresses
#: of both kinds.
_DESCRIPTORS = 2

#: Descriptors for everything else.
_SPARE = 64

#: Threads that look names up.
_LOOKUPS = 500

#: Seconds that what was printed may take to be written when all was ended.
_LAST_WORDS = 2.0


class Options(InteractiveOptions):
    """
    The command line of `nodecomm run`.
    """

    takes = "[options] HOST[:PORT]..."
    longdesc = (
        "Have each HOST run its agent, and print what it prints, as it comes. What is "
        "run is what the node's cfruncommand says; it decides who may ask for that, "
        "and which classes and bundles may be named."
    )
    optParameters = [
        ["parallel", "p", "300", "nodes at a time"],
        ["max-duration", None, "1h", "how long a node may take, as 90s, 30m, 2h"],
        ["output-limit", None, str(10 << 20), "bytes of output to take of a node"],
    ]

    def __init__(self) -> None:
        self.servers: list[ServerAddress] = []
        self.lists: list[str] = []
        self.defined: list[bytes] = []
        self.bundles: list[bytes] = []
        self.selected: list[bytes] = []
        self.max_duration = 0.0
        self.parallel = 0
        self.output_limit = 0
        super().__init__()
        self["timeout"] = "300"
        self.defaults["timeout"] = "300"
        self.docs["timeout"] = (
            "seconds without a word from a node that runs; to connect, the same but "
            "30 at the most"
        )

    def opt_hosts_from(self, file: str) -> None:
        """
        A file with a HOST[:PORT] a line; - is stdin; may be given several times.
        """
        self.lists.append(file)

    opt_f = opt_hosts_from

    def opt_define_class(self, classes: str) -> None:
        """
        Classes to define for the run, with commas between; may be given several
        times.
        """
        self.defined += _names(classes)

    opt_D = opt_define_class

    def opt_remote_bundles(self, bundles: str) -> None:
        """
        Bundles to run instead of those that the node's policy names, with commas
        between; may be given several times.
        """
        self.bundles += _names(bundles)

    def opt_select_class(self, classes: str) -> None:
        """
        Only nodes that have one of these classes shall do anything, with commas
        between; may be given several times.
        """
        self.selected += _names(classes)

    opt_s = opt_select_class

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse; who comes from cf-runagent is told how hosts are named here.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            if str(error) != "option -H not recognized":
                raise
            msg = f"{error}: name each node by itself, nodecomm run HOST HOST:PORT"
            raise usage.UsageError(msg) from None

    def parseArgs(self, *hosts: str) -> None:
        """
        Keep the names of the nodes.
        """
        self.servers = [server_argument(host) for host in hosts]

    def postOptions(self) -> None:
        """
        Check what has been given.
        """
        super().postOptions()
        self.parallel = _number("--parallel", self["parallel"])
        self.output_limit = _number("--output-limit", self["output-limit"])
        self.max_duration = _duration("--max-duration", self["max-duration"])
        try:
            encode_execute(self.defined, self.bundles, self.selected)
        except LocalProtocolError as error:
            raise usage.UsageError(str(error)) from error
        for file in self.lists:
            self.servers += read_hosts(file)
        if not self.servers:
            what = " (--hosts-from names none)" if self.lists else ""
            msg = f"which HOST[:PORT]?{what}"
            raise usage.UsageError(msg)


def _names(text: str) -> list[bytes]:
    return [name.encode("utf-8", "surrogateescape") for name in text.split(",")]


def _number(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:18]) > 0):
        msg = f"{option} takes a number, at least 1, not {text!r}"
        raise usage.UsageError(msg)
    return int(text[:18])


def _duration(option: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0
    if seconds < 1:
        msg = f"{option} takes a time such as 90s, 30m or 2h, not {text!r}"
        raise usage.UsageError(msg)
    return float(seconds)


def bounded(parallel: int, nodes: int) -> int:
    """
    How many of *nodes* can be worked on at a time if *parallel* are wanted: as many as
    there are descriptors for. This process is given more of them if it may have more.
    """
    wanted = min(parallel, nodes)
    try:
        import resource  # noqa: PLC0415
    except ImportError:
        return wanted
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * _DESCRIPTORS + _SPARE
    if limit != resource.RLIM_INFINITY and limit < needed:
        if most != resource.RLIM_INFINITY:
            needed = min(needed, most)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
            limit = needed
        except (OSError, ValueError):
            pass
        wanted = min(wanted, max(1, (limit - _SPARE) // _DESCRIPTORS))
    return wanted


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    `nodecomm run`.
    """
    servers, twice = without_duplicates(options.servers)
    for server in twice:
        stderr.write(f"warning: {safe(label(server))} is named twice, and asked once\n")
    parallel = bounded(options.parallel, len(servers))
    if parallel < min(options.parallel, len(servers)):
        stderr.write(
            f"warning: {parallel} nodes at a time: there are no descriptors for more"
            " (ulimit -n)\n"
        )

    async def work(reactor: Any) -> int:
        return await _work(reactor, options, servers, parallel, stdout, stderr)

    return run_command(
        work,
        stdout,
        stderr,
        as_json=options.as_json,
        state_dir=options.named_state_dir,
    )


async def _work(
    reactor: Any,
    options: Options,
    servers: Sequence[ServerAddress],
    parallel: int,
    stdout: TextIO,
    stderr: TextIO,
) -> int:
    # Not at the top: a wrong command line is told without them.
    from nodecomm.cli.printer import Printer  # noqa: PLC0415
    from nodecomm.cli.run_report import JSONReport, TextReport  # noqa: PLC0415
    from nodecomm.client.fleet import Fleet, Wanted  # noqa: PLC0415
    from nodecomm.client.names import NameLookup  # noqa: PLC0415
    from nodecomm.client.timeouts import Timeouts  # noqa: PLC0415

    state_dir = options.state_dir
    names = NameLookup(reactor, min(parallel, _LOOKUPS))
    connect = min(options.timeout, _CONNECT)
    dialer: Any = make_dialer(
        reactor,
        options,
        state_dir,
        names=names,
        # What it would save is not worth a file that is written for each node.
        memory=None,
        timeouts=Timeouts(
            connect=connect,
            handshake=connect,
            dialog=connect,
            answer=options.timeout,
        ),
    )
    names.start()
    printer = Printer(stdout, reactor.callFromThread, ProgressLine.on(stderr))
    if options["interactive"]:
        dialer = ask_at_terminal(reactor, dialer, state_dir, stderr, printer.quiet)
    fleet = Fleet(
        dialer,
        clock=reactor,
        monotonic=time.monotonic,
        parallel=parallel,
        silence=options.timeout,
        max_duration=options.max_duration,
        output_limit=options.output_limit,
    )
    report: TextReport | JSONReport = (JSONReport if options.as_json else TextReport)(
        printer,
        len(servers),
        options.output_limit,
        options.named_state_dir,
        selecting=bool(options.selected),
    )
    wanted = Wanted(
        tuple(options.defined), tuple(options.bundles), tuple(options.selected)
    )
    running = fleet.run(servers, wanted, report)
    broken: list[OSError] = []

    def stop(error: OSError) -> None:
        broken.append(error)
        running.cancel()

    printer.broken.addCallback(stop)
    results = await running
    if broken:
        raise broken[0]
    return await _finish(reactor, report, printer, results)


async def _finish(
    reactor: Any,
    report: TextReport | JSONReport,
    printer: Any,
    results: Sequence[NodeResult],
) -> int:
    """
    Print the end, and return the exit status.
    """
    from nodecomm.cli.run_report import fleet_status  # noqa: PLC0415

    stopped = any(result.stopped for result in results)
    if stopped:
        printer.hurry()
    printer.status("")
    report.summary(results)
    drained = printer.drained()
    if stopped:
        drained.addTimeout(_LAST_WORDS, reactor, lambda *_: None)
    await drained
    printer.end()
    if printer.error is not None:
        raise printer.error
    if stopped:
        # By a signal, which says what the exit status is.
        raise CancelledError
    return fleet_status([report.outcome(result) for result in results])
