# SPDX-License-Identifier: MIT
"""
What this machine says about `cfruncommand` and `cfrunuser`: things that reading the
configuration does not show.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Iterator

from nodecomm.access.execution import Execution
from nodecomm.config.errors import Problem
from nodecomm.config.placed import Checks, Placed
from nodecomm.identity.places import STATE_DIR_VARIABLE
from nodecomm.wire.text import from_text

__all__ = ["execution_problems", "sync_command"]

#: Who names the state folder for one start, and not for the programs of it.
_PASSING = ("--state-dir", STATE_DIR_VARIABLE)


def sync_command(settings: Placed, key_path: str, state_dir: str) -> tuple[str, ...]:
    """
    What `cfruncommand = "sync"` stands for where the service itself cannot do it: the
    `nodecomm` that belongs to this program asks the agent of this machine.

    Args:
        settings: The configuration.
        key_path: Its key for the state folder.
        state_dir: Its value, with all that may take its place.
    """
    command = (_own_program(), "agent", "run")
    origin = settings.origin(key_path)
    if origin is not None and origin.file in _PASSING:
        return (*command, "--state-dir", os.fsdecode(from_text(state_dir)))
    return command


def _own_program() -> str:
    """
    The absolute path of `nodecomm`: beside the program that was started (`twistd`, or
    `nodecomm` itself), or beside the interpreter.
    """
    started = os.path.abspath(sys.argv[0]) if sys.argv[:1] else ""
    beside = [os.path.dirname(path) for path in (started, sys.executable) if path]
    programs = [os.path.join(folder, "nodecomm") for folder in beside]
    for program in programs:
        if os.path.isfile(program) and os.access(program, os.X_OK):
            return program
    return programs[-1] if programs else "/usr/bin/nodecomm"


def execution_problems(
    settings: Placed, table: str, execution: Execution | None
) -> list[Problem]:
    """
    What is wrong, on this machine, with what is run for peers. Blocks for a look at
    the program and into the list of users.

    Args:
        settings: The configuration.
        table: The table of `cfruncommand`, `server` or `agent`.
        execution: What is run; None: nothing.
    """
    if execution is None:
        return []
    checks: Checks[Placed] = Checks(settings)
    uids = {0, os.geteuid()}
    problems = []
    if execution.user is not None:
        try:
            uids.add(pwd.getpwnam(execution.user).pw_uid)
        except KeyError:
            problems.append(
                checks.problem(
                    f"{table}.cfrunuser",
                    "there is no such user on this machine",
                    execution.user,
                    "name one, or leave it out",
                )
            )
    if execution.program is not None:
        path = f"{table}.cfruncommand"
        for message, hint in _program_faults(os.fsdecode(execution.program), uids):
            problems.append(
                checks.problem(
                    path, message, os.fsdecode(execution.program), hint, warning=True
                )
            )
    return problems


def _program_faults(program: str, uids: set[int]) -> Iterator[tuple[str, str]]:
    """
    What is wrong with the file *program*, with what to do: that it cannot be run, or
    that others than *uids* can change what is run. That it is not there is found
    where the rules are made.
    """
    try:
        real = os.path.realpath(program, strict=True)
        status = os.stat(real)
    except OSError:
        return
    if stat.S_ISREG(status.st_mode) and not status.st_mode & 0o111:
        yield "the program cannot be executed", f"chmod +x {real}"
    # Where it is and how it is called: a link can be replaced, too.
    places = dict.fromkeys([*_and_above(real), *_and_above(os.path.abspath(program))])
    for place in places:
        why = _changeable(place, uids)
        if why:
            yield (
                f"{place} {why}, who could have anything run here",
                f"chown root {place} && chmod go-w {place}",
            )
            return


def _and_above(path: str) -> Iterator[str]:
    """
    *path*, absolute, and all folders that it is in.
    """
    yield path
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        yield path


def _changeable(place: str, uids: set[int]) -> str:
    """
    Who else can change *place*, in words; "" if nobody can.
    """
    try:
        status = os.stat(place)
    except OSError:
        return ""
    if status.st_uid not in uids:
        try:
            return f"belongs to {pwd.getpwuid(status.st_uid).pw_name}"
        except KeyError:
            return f"belongs to user {status.st_uid}"
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        # There everybody can add names, and remove only his own.
        return ""
    if status.st_mode & stat.S_IWOTH:
        return "can be written by everybody"
    if status.st_mode & stat.S_IWGRP and status.st_gid != 0:
        return f"can be written by group {status.st_gid}"
    return ""
