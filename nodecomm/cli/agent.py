# SPDX-License-Identifier: MIT
"""
`nodecomm agent ...`: how the agent of this machine is doing, and a run of it, or an
inventory, now.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import attrs

from nodecomm.cli.connecting import seconds_option
from nodecomm.cli.options import (
    CommandOptions,
    GroupOptions,
    fail,
    repeat_state_dir,
    write_json,
)
from nodecomm.service.agent_asking import AgentAsk, InventoryAsk, NoRun, describe_run
from nodecomm.service.agent_inventory_status import inventory_failures, inventory_lines
from nodecomm.service.agent_status import (
    LOCK_NAME,
    AgentStatus,
    Point,
    StatusUnreadable,
    ailments,
    describe,
    read_status,
)
from nodecomm.service.loading import AGENT_FILE, file_path, load_agent
from nodecomm.service.own_state import lock_holder
from nodecomm.sync.clocks import SteadyClock
from nodecomm.wire.text import safe

__all__ = ["Options", "run"]


class StatusOptions(CommandOptions):
    """
    `nodecomm agent status`.
    """

    longdesc = (
        "Tells what the agent does, when it last updated its copies and from where, "
        "what changed, when it runs next, and why a copy failed and what to do. The "
        "exit status is 0 when an agent runs, its last run succeeded and what "
        "followed it too; else 1, with each reason on a line of standard error."
    )
    optParameters = [
        [
            "config",
            "c",
            None,
            f"the agent's configuration, for its state folder ({AGENT_FILE})",
        ],
    ]


class WaitingOptions(CommandOptions):
    """
    A command that asks the agent for something and waits for it.
    """

    @property
    def timeout(self) -> float:
        """
        Seconds.
        """
        return seconds_option("--timeout", self["timeout"])

    def postOptions(self) -> None:
        """
        The time must be one.
        """
        _ = self.timeout


class RunOptions(WaitingOptions):
    """
    `nodecomm agent run`.
    """

    longdesc = (
        "Asks the agent of this machine for a run now, waits until it and what follows "
        "it are over, and tells what came of it. A run that is under way is not "
        "disturbed: the one that is asked for follows. The exit status is 0 if all is "
        "well afterwards, as for `nodecomm agent status`; else 1, with each reason on "
        "a line of standard error."
    )
    optParameters = [
        [
            "config",
            "c",
            None,
            f"the agent's configuration, for its state folder ({AGENT_FILE})",
        ],
        ["timeout", None, "3600", "how long to wait, in seconds"],
    ]


class InventoryOptions(WaitingOptions):
    """
    `nodecomm agent inventory`.
    """

    longdesc = (
        "Asks the agent of this machine to send an inventory to its policy server now, "
        "whenever the last one was, waits for that, and tells what came of it. A run "
        "is made, too. The exit status is 0 if the server has the inventory, else 1. "
        "Whether it believes it is told there."
    )
    optParameters = [
        [
            "config",
            "c",
            None,
            f"the agent's configuration, for its state folder ({AGENT_FILE})",
        ],
        ["timeout", None, "900", "how long to wait, in seconds"],
    ]


class Options(GroupOptions):
    """
    `nodecomm agent`.
    """

    takes = "status|run|inventory [options]"
    unnamed = "say what to do with the agent: status, run, inventory"
    subCommands = [
        ["status", None, StatusOptions, "how it is doing"],
        ["run", None, RunOptions, "a run now"],
        ["inventory", None, InventoryOptions, "an inventory now"],
    ]


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    Tell the status, or have a run made or an inventory sent. The exit status is 1 if
    something is not as it should be.
    """
    chosen: StatusOptions | RunOptions | InventoryOptions = options.subOptions
    loaded = load_agent(
        Path(chosen["config"]) if chosen["config"] else None,
        state_dir=options.named_state_dir,
    )
    folder = os.fspath(file_path(loaded.partial.agent.state_dir))
    if isinstance(chosen, StatusOptions):
        return _tell_status(options, folder, stdout, stderr)

    def tell(line: str) -> None:
        if not options.as_json:
            stdout.write(f"{safe(line)}\n")
            # Whoever reads this may wait for it.
            stdout.flush()

    kind = InventoryAsk if isinstance(chosen, InventoryOptions) else AgentAsk
    ask = kind(folder, chosen.timeout, _present, tell)
    try:
        status = ask.make()
    except NoRun as error:
        return fail(stderr, repeat_state_dir(str(error), options.named_state_dir))
    except PermissionError as error:
        return fail(stderr, _not_ours(error, folder))
    now, running = _present(), status.state != "stopped"
    if kind is InventoryAsk:
        assert status.inventory is not None  # noqa: S101
        wrong = inventory_failures(status.inventory)
        lines = inventory_lines(status.inventory, now, running=running)
    else:
        wrong = ailments(status, running=running)
        lines = describe_run(status, ask.asked, now)
    if options.as_json:
        facts = _facts(status, now, running=running)
        write_json({**facts, "ailments": wrong}, stdout)
    for line in lines:
        tell(repeat_state_dir(line, options.named_state_dir))
    _complain(wrong, folder, stderr)
    return 1 if wrong else 0


def _present() -> Point:
    steady = SteadyClock()()
    return Point(time.time(), steady.boot, steady.ns)


def _complain(wrong: Sequence[str], folder: str, stderr: TextIO) -> None:
    for line in wrong:
        stderr.write(f"error: {safe(line)} (state folder {safe(folder)})\n")


def _tell_status(options: Options, folder: str, stdout: TextIO, stderr: TextIO) -> int:
    """
    Tell the status.
    """
    now = _present()
    try:
        running = lock_holder(os.path.join(folder, LOCK_NAME)) is not None
        status = read_status(folder)
    except PermissionError as error:
        return fail(stderr, _not_ours(error, folder))
    except StatusUnreadable as error:
        return fail(stderr, f"{safe(str(error))}; the agent writes a new one")
    wrong = ailments(status, running=running)
    if options.as_json:
        facts = _facts(status, now, running=running)
        write_json({**facts, "ailments": wrong}, stdout)
    elif status is not None:
        for line in describe(status, now, running=running):
            said = safe(repeat_state_dir(line, options.named_state_dir))
            stdout.write(f"{said}\n")
    _complain(wrong, folder, stderr)
    return 1 if wrong else 0


def _not_ours(error: PermissionError, folder: str) -> str:
    """
    Whose state it is, for somebody who may not see it.
    """
    number = os.stat(folder).st_uid if os.path.isdir(folder) else 0
    try:
        owner = pwd.getpwuid(number).pw_name
    except KeyError:
        owner = f"'#{number}'"
    what = f"{os.fsdecode(error.filename or folder)}: {error.strerror}"
    return safe(f"{what}; run this as the user whose agent it is: sudo -u {owner} ...")


def _facts(status: AgentStatus | None, now: Point, *, running: bool) -> dict[str, Any]:
    """
    What is known, with the ages that only this moment has.
    """
    facts: dict[str, Any] = {"running": running, "status": None}
    if status is not None:
        facts["status"] = attrs.asdict(status)
        facts["seconds"] = {
            "since_last_success": _since(status.last_success, now),
            "since_last_change": _since(status.last_change, now),
            "until_next_run": None
            if status.next_run is None or not running
            else now.seconds_until(status.next_run),
        }
    return facts


def _since(point: Point | None, now: Point) -> float | None:
    return None if point is None else point.seconds_until(now)
