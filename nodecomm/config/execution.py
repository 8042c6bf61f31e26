# SPDX-License-Identifier: MIT
"""
The part of a configuration that is about runs asked for by others (EXEC): what is run,
as whom, who may ask for it, and how many at a time. A server's configuration and an
agent's have it alike.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Literal, Protocol

from attrs import field, frozen

from nodecomm.config.errors import Problem, child_path, element_path
from nodecomm.config.fields import about
from nodecomm.config.placed import Checks

__all__ = [
    "SYNC",
    "Command",
    "ExecutionKeys",
    "RoleSettings",
    "RunSettings",
    "check_execution",
    "program_of",
]

#: The value of `cfruncommand` that means the node's own sync.
SYNC = "sync"

#: A program with its arguments, or a text for `/bin/sh -c`; nothing when empty.
Command = tuple[str, ...] | str

#: Seconds.
DAY = 86400

#: What no argument may follow in a text for a shell.
_ENDS_OF_COMMANDS = frozenset({";", "&", "|", "||", "&&", ")", "}", "<", ">", ">>"})


@frozen(kw_only=True)
class RoleSettings:
    """
    One `[[roles]]`: which classes a user may define for a run.
    """

    pattern: str = field(
        metadata=about(
            "A regular expression that the whole name of a class must match.",
            upstream="The promiser of the `roles` promise.",
        ),
    )
    authorize: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "The user names that may define such a class (`-D`), compared exactly. "
            "They must be in `allowusers`, too.",
            shape="user",
        ),
    )


@frozen(kw_only=True)
class RunSettings:
    """
    `[run]`: the runs that others ask for.
    """

    at_once: int = field(
        default=1,
        metadata=about(
            "Runs at a time; the others wait their turn.",
            unit="runs",
            minimum=1,
            maximum=1000,
            upstream="No counterpart: every request begins a run at once.",
        ),
    )
    waiting: int = field(
        default=10,
        metadata=about(
            "Requests that wait their turn; one more is told that too many do.",
            unit="requests",
            minimum=0,
            maximum=10000,
            upstream="No counterpart.",
        ),
    )
    again: Literal["join", "wait", "refuse"] = field(
        default="join",
        metadata=about(
            "What becomes of a request for the same classes and bundles as a run that "
            "is under way: it joins that run and gets its output, or waits for a run "
            "of its own, or is told that one is under way. A sync that has begun is "
            "not joined: those who come meanwhile share the next one.",
            upstream="No counterpart.",
        ),
    )
    timeout: str = field(
        default="1h",
        metadata=about(
            "A run that takes longer is ended, with all that it started in its process "
            "group.",
            shape="duration",
            minimum=1,
            maximum=31 * DAY,
            upstream="No counterpart.",
        ),
    )
    kill_after: str = field(
        default="10s",
        metadata=about(
            "A run that is to end is asked to (SIGTERM); what is left of it after "
            "this is killed.",
            shape="duration",
            maximum=3600,
            upstream="No counterpart.",
        ),
    )
    output_limit: int = field(
        default=10 * 1024 * 1024,
        metadata=about(
            "Of the output of a run so much is sent. What comes after it is dropped, "
            "with a notice; the run goes on and its exit code is told.",
            unit="bytes",
            minimum=1024,
            upstream="No counterpart.",
        ),
    )
    classes: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Classes of this node for those who select nodes by class (`-s`), besides "
            "the ones that it finds out itself.",
            shape="class",
            upstream="No counterpart: there the classes are those that "
            "the policy of `cf-serverd` defines.",
        ),
    )


class ExecutionKeys(Protocol):
    """
    The keys about runs that `[server]` and `[agent]` have.
    """

    @property
    def cfruncommand(self) -> Command:
        """
        What is run; empty: nothing.
        """

    @property
    def cfrunuser(self) -> str | None:
        """
        As whom; None: as the service itself.
        """

    @property
    def allowusers(self) -> tuple[str, ...]:
        """
        The user names that may ask for a run.
        """


def program_of(command: Command) -> str:
    """
    The program of *command*: its first word, of a text as a shell reads it. "" where
    there is none.

    Raises:
        ValueError: The text is none that a shell could read.
    """
    if not isinstance(command, str):
        return command[0] if command else ""
    words = shlex.shlex(command, posix=True)
    words.whitespace_split = True
    words.commenters = ""
    return words.get_token() or ""


def check_execution(
    checks: Checks[Any],
    table: str,
    keys: ExecutionKeys,
    roles: tuple[RoleSettings, ...],
) -> Iterator[Problem]:
    """
    Everything that is wrong between the keys about runs.

    Args:
        checks: The look at the whole configuration.
        table: The table with these keys, `server` or `agent`.
        keys: What it says.
        roles: Each `[[roles]]`.
    """
    path = child_path(table, "cfruncommand")
    yield from _check_command(checks, path, keys.cfruncommand)
    users = child_path(table, "allowusers")
    if keys.cfruncommand and not keys.allowusers:
        yield checks.problem(
            users,
            "nobody may ask for a run of cfruncommand",
            [],
            'write allowusers = ["root"], or leave cfruncommand out',
            warning=True,
        )
    if not keys.cfruncommand and keys.cfrunuser is not None:
        yield checks.problem(
            child_path(table, "cfrunuser"),
            "it has no effect without cfruncommand: there is nothing to run",
            keys.cfrunuser,
            f"write cfruncommand in [{table}], or leave it out",
            warning=True,
        )
    yield from _check_roles(checks, table, keys, roles)


def _check_command(
    checks: Checks[Any], path: str, command: Command
) -> Iterator[Problem]:
    """
    `cfruncommand`.
    """
    if command in ((), SYNC):
        return
    parts = [command] if isinstance(command, str) else list(command)
    if any("\0" in part for part in parts):
        yield checks.problem(path, "a NUL cannot be part of a command", None)
        return
    if isinstance(command, str):
        yield from _check_text(checks, path, command)
        return
    if not command[0].startswith("/"):
        hint = "there is no search path here; write one such as /usr/bin/cf-agent"
        if command == (SYNC,):
            hint = f'write "{SYNC}", without the list, for the node\'s own sync'
        yield checks.problem(
            element_path(path, 0),
            "the program is not named by an absolute path",
            command[0],
            hint,
        )


def _check_text(checks: Checks[Any], path: str, command: str) -> Iterator[Problem]:
    """
    A command that is a text for the shell.
    """
    if not command.strip():
        yield checks.problem(
            path, "an empty text is no command", command, "leave it out"
        )
        return
    try:
        program = program_of(command)
    except ValueError as error:
        yield checks.problem(
            path,
            f"no shell can read this: {str(error).lower()}",
            command,
            'write a list: ["/path/of/program", "argument"]',
        )
        return
    if not program.startswith("/"):
        hint = "begin with one such as /usr/bin/cf-agent"
        if get_close_matches(command.strip().lower(), [SYNC], cutoff=0.7):
            hint = f'write "{SYNC}" for the node\'s own sync'
        yield checks.problem(
            path, "the program is not named by an absolute path", command, hint
        )
        return
    yield checks.problem(
        path,
        "a text is given to /bin/sh -c, with -D and --bundlesequence behind it where "
        "they are asked for",
        command,
        'a list is run without a shell: write ["/path/of/program", "argument"]',
        warning=True,
    )
    if not _takes_more(command):
        yield checks.problem(
            path,
            "what is put behind this text, as -D and a class, is no argument of its "
            "last command",
            command,
            "let the text end in a command that takes them",
            warning=True,
        )


def _takes_more(command: str) -> bool:
    """
    Whether words behind a text are arguments: it does not end within quotes, in a
    comment or behind the end of a command.
    """
    words = shlex.shlex(f"{command} -D x", posix=True, punctuation_chars=True)
    words.whitespace_split = True
    try:
        *_, before, word, text = words
    except ValueError:
        return False
    return (word, text) == ("-D", "x") and before not in _ENDS_OF_COMMANDS


def _check_roles(
    checks: Checks[Any],
    table: str,
    keys: ExecutionKeys,
    roles: tuple[RoleSettings, ...],
) -> Iterator[Problem]:
    """
    Each `[[roles]]`.
    """
    if roles and not keys.cfruncommand:
        yield checks.problem(
            "roles",
            "they have no effect without cfruncommand: there is nothing to run",
            None,
            f"write cfruncommand in [{table}], or leave them out",
            warning=True,
        )
    elif roles and keys.cfruncommand == SYNC:
        yield checks.problem(
            "roles",
            "they have no effect: the node's own sync takes no classes",
            None,
            "leave them out, or write a command of your own as cfruncommand",
            warning=True,
        )
    for index, role in enumerate(roles):
        here = child_path(element_path("roles", index), "authorize")
        if not role.authorize:
            yield checks.problem(
                here, "the role authorizes nobody", [], 'write ["root"]', warning=True
            )
        for place, user in enumerate(role.authorize):
            # Without any the fault is there, and told.
            if keys.allowusers and user not in keys.allowusers:
                yield checks.problem(
                    element_path(here, place),
                    f"this user may not ask for a run: allowusers of [{table}] does "
                    "not name it",
                    user,
                    "add it there, or leave it out here",
                    warning=True,
                )
