# SPDX-License-Identifier: MIT
"""
What every `nodecomm` command takes.
"""

from __future__ import annotations

import getopt
import json
import os
import re
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from twisted.python import usage

from nodecomm import __version__
from nodecomm.identity.places import STATE_DIR_VARIABLE, standard_state_dir

__all__ = [
    "CONFIG",
    "CommandOptions",
    "GroupOptions",
    "StateOptions",
    "check_server_id",
    "default_state_dir",
    "fail",
    "file_to_write",
    "repeat_config",
    "repeat_state_dir",
    "write_error",
    "write_json",
]

#: The option that names a server's configuration.
CONFIG = [
    "config",
    "c",
    None,
    "the server's configuration, which says where its state is",
]

#: Commands about this machine's own state, as texts name them.
_ADVICE = re.compile(
    r"`nodecomm (?:server-key|bootstrap|nodes|key (?:generate|list|remove))\b[^`]*`"
)


_SERVER_ID = re.compile(r"[A-Za-z0-9-]{1,50}")


def default_state_dir() -> Path:
    """
    Where keys and databases are when nobody says otherwise: /var/lib/nodecomm for
    root, else the XDG state folder of the user.
    """
    named = os.environ.get(STATE_DIR_VARIABLE)
    if named:
        return Path(named)
    return standard_state_dir(os.environ, os.geteuid())


class StateOptions(usage.Options):
    """
    `--state-dir` and `--json`.
    """

    optParameters = [
        ["state-dir", None, None, "folder of keys and state"],
    ]
    optFlags = [["json", None, "print facts as JSON"]]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Texts of methods are wrapped where they stand, and help wraps them again.
        self.docs = {
            name: text and " ".join(text.split()) for name, text in self.docs.items()
        }

    # Not everybody types it out.
    opt_h = usage.Options.opt_help

    def opt_version(self) -> None:
        """
        Print the version and exit.
        """
        print(f"nodecomm {__version__}")
        raise SystemExit(0)

    #: What follows the command's name in the first line of its help.
    takes = "[options]"

    def getSynopsis(self) -> str:
        """
        The whole command line, from `nodecomm` on.
        """
        words = [self.takes]
        options: usage.Options = self
        while getattr(options, "parent", None) is not None:
            options = cast(usage.Options, options.parent)
            words.insert(0, str(options.subCommand))
        return " ".join(["Usage: nodecomm", *words])

    @property
    def state_dir(self) -> Path:
        """
        The folder asked for, else `NODECOMM_STATE_DIR`, else the default.
        """
        return self.named_state_dir or default_state_dir()

    @property
    def named_state_dir(self) -> Path | None:
        """
        The folder asked for.
        """
        return Path(self["state-dir"]) if self["state-dir"] else None

    @property
    def as_json(self) -> bool:
        """
        Whether facts are for a program.
        """
        return bool(self["json"])


class CommandOptions(StateOptions):
    """
    The command line of one command: options may stand before, between and after the
    names that it is about.
    """

    #: What the command is about, in order: the option that each is kept under, and
    #: what help calls it.
    subjects: Sequence[tuple[str, str]] = ()

    #: How many of them, at the end, need not be given.
    optional = 0

    def parseArgs(self, *given: str) -> None:
        """
        Keep each argument under its name.
        """
        if len(given) < len(self.subjects) - self.optional:
            msg = f"which {self.subjects[len(given)][1]}?"
            raise usage.UsageError(msg)
        if len(given) > len(self.subjects):
            msg = f"too many arguments: {given[len(self.subjects)]!r}"
            raise usage.UsageError(msg)
        for index, (name, _) in enumerate(self.subjects):
            self[name] = given[index] if index < len(given) else None

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse, wherever the options stand.
        """
        given = list(options or ())
        try:
            # Twisted alone stops at the first argument that is no option.
            found, rest = getopt.gnu_getopt(given, self.shortOpt, self.longOpt)
        except getopt.error as error:
            raise usage.UsageError(str(error)) from None
        words = [part for option in found for part in self._spelled(*option)]
        super().parseOptions([*words, "--", *rest])  # type: ignore[no-untyped-call]

    def _spelled(self, name: str, value: str) -> list[str]:
        if name.startswith("--"):
            return [f"{name}={value}" if f"{name[2:]}=" in self.longOpt else name]
        return [name, value] if f"{name[1:]}:" in self.shortOpt else [name]


class GroupOptions(StateOptions):
    """
    The command line of a command that consists of commands, one of which must be
    named. `--state-dir` and `--json` are good before and after its name.
    """

    #: What to tell who names none.
    unnamed = ""

    def postOptions(self) -> None:
        """
        There must be a command.
        """
        if self.subCommand is None:
            raise usage.UsageError(self.unnamed)

    @property
    def named_state_dir(self) -> Path | None:
        """
        The folder asked for.
        """
        return self._chosen.named_state_dir or super().named_state_dir

    @property
    def as_json(self) -> bool:
        """
        Whether facts are for a program.
        """
        return self._chosen.as_json or super().as_json

    @property
    def _chosen(self) -> StateOptions:
        return cast(StateOptions, self.subOptions)


def check_server_id(text: str | None) -> None:
    """
    Check the id of a policy server; None is that nobody has named one.

    Raises:
        usage.UsageError: No server can have it.
    """
    if text is not None and not _SERVER_ID.fullmatch(text):
        msg = f"--policy-server-id: {text!r} is none: 50 letters, digits and hyphens"
        raise usage.UsageError(msg)


def file_to_write(named: str) -> Path:
    """
    The ordinary file, there or not, that *named* leads to. A file is replaced as a
    whole, so a link would be none any more, nor would a device: /dev/stdout is one.

    Raises:
        usage.UsageError: It leads to something else.
    """
    real = Path(os.path.realpath(named))
    try:
        mode = real.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return real
    if stat.S_ISDIR(mode):
        msg = f"{named} is a folder; name a file"
        raise usage.UsageError(msg)
    if not stat.S_ISREG(mode):
        msg = f"{named} is no ordinary file and is not replaced; write `-` and redirect"
        raise usage.UsageError(msg)
    return real


def repeat_state_dir(text: str, state_dir: Path | None) -> str:
    """
    *text* with the state folder that a command line named in each command that it
    says to run on this machine: without it they would be about another one.
    """
    return _repeat(text, "--state-dir", state_dir)


def repeat_config(text: str, config: str | None) -> str:
    """
    The same for the configuration that a command line named, for commands that have
    the option.
    """
    return _repeat(text, "--config", config)


def _repeat(text: str, option: str, value: object) -> str:
    if value is None:
        return text
    named = f" {option} {shlex.quote(str(value))}`"
    return _ADVICE.sub(lambda found: found[0][:-1] + named, text)


def write_json(facts: Any, stdout: TextIO, indent: int | None = 2) -> None:
    """
    Print facts for a program; in one line if *indent* is None, as an error is, whatever
    a command prints otherwise.
    """
    stdout.write(json.dumps(facts, indent=indent) + "\n")


def write_error(code: str, text: str, status: int, stdout: TextIO, **more: Any) -> None:
    """
    Print why a command failed, for a program, in one line.

    Args:
        code: A word for the kind of error.
        text: What a person is told.
        status: The exit status.
        stdout: Where to.
        more: Facts of some errors.
    """
    facts = {"code": code, "text": text, "status": int(status), **more}
    write_json({"error": facts}, stdout, indent=None)


def fail(stderr: TextIO, message: str) -> int:
    """
    Tell a person what went wrong and return the exit status for it.
    """
    stderr.write(f"error: {message}\n")
    return 1
