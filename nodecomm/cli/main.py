# SPDX-License-Identifier: MIT
"""
`nodecomm SUBCOMMAND ...`: finds the subcommand's module, runs it, and turns what
went wrong into one line and an exit status.

Exit statuses: 0 done, 1 it could not be done, 2 the command line is wrong, 130
interrupted. Commands that talk to a server have more, see `nodecomm.cli.statuses`.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import TextIO, cast

from twisted.python import usage

from nodecomm import __version__
from nodecomm.cli.options import write_error
from nodecomm.wire.text import safe

__all__ = ["COMMANDS", "Options", "main", "run"]

#: Name, module, and what it does in one line. The module has `Options` and
#: `run(options, stdout, stderr) -> int` and is imported only when it is asked for.
COMMANDS: tuple[tuple[str, str, str], ...] = (
    (
        "bootstrap",
        "nodecomm.cli.bootstrap",
        "make this machine a node of a policy server, or the server",
    ),
    (
        "sync",
        "nodecomm.cli.sync",
        "bring a folder or a file of a server here, verified, in one step",
    ),
    (
        "get",
        "nodecomm.cli.get",
        "fetch one file of a server, verified",
    ),
    (
        "ls",
        "nodecomm.cli.ls",
        "list a folder of a server",
    ),
    (
        "stat",
        "nodecomm.cli.stat",
        "what a server says about one file or folder",
    ),
    (
        "run",
        "nodecomm.cli.run",
        "have nodes run their agents, many at once",
    ),
    (
        "server-key",
        "nodecomm.cli.server_key",
        "list, accept and forget the keys of servers",
    ),
    (
        "agent",
        "nodecomm.cli.agent",
        "how the agent of this machine is doing, and a run of it now",
    ),
    (
        "key",
        "nodecomm.cli.key",
        "make this machine's key, show, list, trust and remove keys",
    ),
    (
        "inventory",
        "nodecomm.cli.inventory",
        "make, sign, verify and show what nodes tell about themselves",
    ),
    (
        "nodes",
        "nodecomm.cli.nodes",
        "list, accept, refuse and remove the nodes that send inventories",
    ),
    (
        "config",
        "nodecomm.cli.config",
        "check a configuration, show the result and where each value comes from",
    ),
    (
        "access",
        "nodecomm.cli.access",
        "explain what a node may have and why; write the rules for cf-serverd",
    ),
    (
        "plugins",
        "nodecomm.cli.plugins",
        "list the commands and file sources that plugins add",
    ),
)

EXAMPLES = """\
Examples:
  nodecomm bootstrap hub.example.com --start
        make this machine a node of that policy server; on the hub, make it the server
  nodecomm sync hub.example.com:masterfiles /var/lib/nodecomm/inputs --purge
        make that folder what the server has, or change nothing at all
  nodecomm run web1.example.com web2.example.com -D maintenance
        have nodes run their agents, and see what these print
  nodecomm key generate
        make the key pair of this machine, once
  nodecomm key list --seen
        whose keys are trusted, and when each node was last here
  nodecomm config check -c server.toml
        every mistake of a configuration, with its line
  nodecomm access explain -c server.toml --ip 10.1.2.3 masterfiles/promises.cf
        may that node have that file, and which rule says so
  nodecomm COMMAND --help
        what a command takes

Keys and databases are in --state-dir, else in $NODECOMM_STATE_DIR, else in
/var/lib/nodecomm (root) or ~/.local/state/nodecomm. The server itself is started
with `twistd -n nodecomm-server -c server.toml`.
"""


def _load(module: str) -> usage.Options:
    """
    The options of the subcommand in *module*, which is imported only now.
    """
    return cast(Callable[[], usage.Options], import_module(module).Options)()


class Options(usage.Options):
    """
    The command line up to the subcommand's name.
    """

    synopsis = "Usage: nodecomm COMMAND [options]"
    longdesc = (
        "Fetch from policy servers; have nodes run their agents; work on keys, "
        "configurations and rules."
    )

    def __init__(self, commands: Sequence[tuple[str, str, str]] = COMMANDS) -> None:
        self.subCommands = [
            (name, None, partial(_load, module), doc) for name, module, doc in commands
        ]
        self.modules = {name: module for name, module, _ in commands}
        super().__init__()  # type: ignore[no-untyped-call]

    def opt_version(self) -> None:
        """
        Print the version and exit.
        """
        print(f"nodecomm {__version__}")
        raise SystemExit(0)

    def opt_help(self) -> None:
        """
        Display this help and exit.
        """
        print(f"{self}\n{EXAMPLES}", end="")
        raise SystemExit(0)

    opt_h = opt_help


def _usage_error(
    options: usage.Options,
    error: usage.UsageError,
    stdout: TextIO,
    stderr: TextIO,
    *,
    as_json: bool,
) -> int:
    """
    Say what is wrong with the command line and what would be right.
    """
    message = safe(str(error))
    deepest, words = options, ["nodecomm"]
    while getattr(deepest, "subOptions", None) is not None:
        words.append(cast(str, deepest.subCommand))
        deepest = cast(usage.Options, deepest.subOptions)
    prefix, unknown, given = str(error).partition("Unknown command: ")
    mistyped = re.fullmatch(r"option --(.+) not recognized", str(error), re.DOTALL)
    if unknown and not prefix:
        names = [command[0] for command in deepest.subCommands]  # type: ignore[attr-defined]
        close = _close(given, names)
        hint = f"did you mean '{close}'?" if close else f"known: {', '.join(names)}"
        message = f"unknown command '{safe(given)}' ({hint})"
    elif mistyped is not None:
        close = _close(mistyped[1], [name.rstrip("=") for name in deepest.longOpt])
        message += f", did you mean --{close}?" if close else ""
    elif re.fullmatch(r"option --?\S+ requires argument", message):
        message = message.replace("requires argument", "needs a value behind it")
    if as_json:
        write_error("usage", message, 2, stdout)
    stderr.write(f"error: {message}\n")
    stderr.write(f"`{' '.join(words)} --help` tells what it takes.\n")
    return 2


def _close(given: str, names: Sequence[str]) -> str:
    """
    The one of *names* that was probably meant; empty for none.
    """
    # Not at the top: it takes a while to load, and most command lines are right.
    import difflib  # noqa: PLC0415

    return next(iter(difflib.get_close_matches(given, names, n=1)), "")


def _wants_json(arguments: Sequence[str]) -> bool:
    """
    Whether a program reads the output, as far as a wrong command line tells.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    return "--json" in words[:end]


def run(
    arguments: Sequence[str],
    stdout: TextIO,
    stderr: TextIO,
    commands: Sequence[tuple[str, str, str]] = COMMANDS,
) -> int:
    """
    Run one command line and return its exit status.

    An error of the system is one line on *stderr*. Any other exception is a bug and
    is not caught.
    """
    options = Options(commands)
    try:
        options.parseOptions(list(arguments))  # type: ignore[no-untyped-call]
        if options.subCommand is None:
            stderr.write(f"{options}\n{EXAMPLES}")
            return 2
        command = import_module(options.modules[options.subCommand])
        status = cast(int, command.run(options.subOptions, stdout, stderr))
        stdout.flush()
    except usage.UsageError as error:
        as_json = _wants_json(arguments)
        return _usage_error(options, error, stdout, stderr, as_json=as_json)
    except BrokenPipeError:
        stderr.write("error: the output was closed before all of it was written\n")
        return 1
    except OSError as error:
        what = error.strerror or str(error) or type(error).__name__
        where = f": {safe(os.fsdecode(error.filename))}" if error.filename else ""
        if error.filename and _wants_json(arguments):
            # Where there is no name it may be this very output that cannot be written.
            write_error("local", f"{what}{where}", 1, stdout)
        stderr.write(f"error: {what}{where}\n")
        return 1
    except KeyboardInterrupt:
        stderr.write("error: interrupted\n")
        return 130
    return status


def main() -> int:
    """
    The `nodecomm` program.
    """
    # Python has no object for a stream that was closed before it began.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        status = run(sys.argv[1:], sys.stdout, sys.stderr)
    except SystemExit as stopped:
        # `--help` and `--version` end so.
        status = stopped.code if isinstance(stopped.code, int) else 1
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        status = 130
    except Exception:
        # A mistake of this program, told as Python would. It must not keep a process
        # that waits for the threads which the work has left behind.
        traceback.print_exc()
        status = 1
    try:
        sys.stdout.flush()
    except OSError as error:
        if status == 0:
            sys.stderr.write(f"error: {error.strerror}\n")
            status = 1
        # Python flushes once more at its end, which needs somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if threading.active_count() > 1:
        # Python would wait for them: for a name that is being looked up, for a reader
        # who reads no more. All that has to be on disk is there.
        sys.stderr.flush()
        os._exit(status)
    return status
