# SPDX-License-Identifier: MIT
"""
Asking the agent that runs on this machine for a run, or for an inventory, and waiting
for what comes of it.

The agent is told by a signal and tells by its status file, so that there is no socket
that others could ask at.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from attrs import define, field

from nodecomm.config.durations import duration_text
from nodecomm.service.agent_outbox import ask_for_inventory
from nodecomm.service.agent_status import (
    LOCK_NAME,
    STATUS_NAME,
    AgentStatus,
    Point,
    StatusUnreadable,
    copy_lines,
    read_status,
)
from nodecomm.service.own_state import lock_holder
from nodecomm.service.processes import runs
from nodecomm.wire.text import safe

__all__ = ["AgentAsk", "InventoryAsk", "NoRun", "describe_run", "takes_signal"]

#: Seconds between two looks at the status file.
LOOK_EVERY = 0.1

#: Seconds that an agent which has just been started may take until it takes signals.
LONGEST_START = 10.0

#: Seconds between two lines that say that it still goes on. A real cf-runagent that
#: waits for this program's output gives up after 185 s without any.
SAY_EVERY = 60.0


class NoRun(Exception):  # noqa: N818
    """
    There was no run or no inventory, or nobody knows what came of it. The text says why
    and what to do.
    """


def takes_signal(pid: int, number: int, proc: Path = Path("/proc")) -> bool | None:
    """
    Whether a process has a function for a signal, which would end it otherwise; None
    where the system does not tell.
    """
    try:
        text = (proc / str(pid) / "status").read_text("ascii", "replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "SigCgt":
            return bool(int(value.strip(), 16) >> (number - 1) & 1)
    return None


@define
class AgentAsk:
    """
    One request for a run.

    Args:
        folder: The agent's state folder.
        timeout: Seconds until it is no longer waited for.
        point: The present.
        tell: Takes a line on what goes on.
        sleep: Waits for so many seconds.
        kill: Sends a signal.
        proc: Where the system tells of processes.

    Attributes:
        asked: When the agent was asked.
    """

    _folder: str
    _timeout: float
    _point: Callable[[], Point]
    _tell: Callable[[str], object]
    _sleep: Callable[[float], object] = time.sleep
    _kill: Callable[[int, int], object] = os.kill
    _proc: Path = Path("/proc")
    asked: Point = field(init=False)
    _what: str = field(default="the run", init=False)
    _said: str = field(default="", init=False)
    _file: tuple[int, int] | None = field(default=None, init=False)
    _read: AgentStatus | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.asked = self._point()

    def make(self) -> AgentStatus:
        """
        Have a run made; returns the agent's status afterwards. Blocks until the run and
        what follows it are over.

        Raises:
            NoRun: See its text.
            OSError: The state folder cannot be looked into, or the agent is somebody
                else's.
        """
        pid = self._agent()
        self._prepare(self._status())
        self.asked = self._point()
        try:
            self._kill(pid, signal.SIGUSR1)
        except ProcessLookupError:
            raise self._ended(pid) from None
        next_word = SAY_EVERY
        while True:
            # Asked first: what it wrote last is there when it has gone.
            alive = runs(pid)
            status = self._status()
            if status is not None and status.pid == pid:
                if self._is_over(status):
                    return status
                self._say(status)
            if not alive:
                raise self._ended(pid)
            seconds = self.asked.seconds_until(self._point())
            if seconds >= self._timeout:
                raise NoRun(
                    f"{self._what} is not over after {duration_text(self._timeout)}; it"
                    " goes on, and `nodecomm agent status` tells what comes of it"
                )
            if seconds >= next_word:
                self._tell(f"still under way after {duration_text(seconds)}")
                next_word += SAY_EVERY
            self._sleep(LOOK_EVERY)

    def _prepare(self, before: AgentStatus | None) -> None:
        """
        What is to be done before the agent is asked.
        """
        if before is not None and before.state in ("running", "after-update"):
            self._tell("a run is under way; the one that is asked for follows it")
            self._said = before.state

    def _agent(self) -> int:
        """
        The process of the agent, which is ready to be asked.
        """
        path = os.path.join(self._folder, LOCK_NAME)
        began = self._point()
        while True:
            pid = lock_holder(path)
            if pid is None:
                raise NoRun(
                    f"no agent is running with the state folder {safe(self._folder)}:"
                    " start it with `twistd nodecomm-agent -c agent.toml`, or its"
                    " service; -c names an agent's configuration, --state-dir its state"
                    " folder"
                )
            # Where the system tells nothing, who holds the lock is believed.
            if pid and takes_signal(pid, signal.SIGUSR1, self._proc) is not False:
                return pid
            if began.seconds_until(self._point()) >= LONGEST_START:
                raise NoRun(
                    f"the agent's process ({pid or 'of unknown number'}) takes no"
                    " SIGUSR1: it is starting or stopping, or a part of a program that"
                    " takes none"
                )
            self._sleep(LOOK_EVERY)

    def _status(self) -> AgentStatus | None:
        """
        The status; None where there is none, or one of another release, until the agent
        writes the next one.
        """
        try:
            found = os.stat(os.path.join(self._folder, STATUS_NAME))
        except FileNotFoundError:
            return None
        # Each one is a new file.
        file = (found.st_ino, found.st_mtime_ns)
        if file != self._file:
            try:
                self._read = read_status(self._folder)
            except StatusUnreadable:
                self._read = None
            self._file = file
        return self._read

    def _is_over(self, status: AgentStatus) -> bool:
        """
        Whether a run that began after the agent was asked is over, and what follows it.
        """
        attempt = status.last_attempt
        return (
            attempt is not None
            and self.asked.seconds_until(attempt.began) >= 0
            and status.state != "after-update"
        )

    def _say(self, status: AgentStatus) -> None:
        if status.state == self._said:
            return
        self._said = status.state
        if status.state == "running":
            self._tell("a run is under way")
        elif status.state == "after-update":
            self._tell("after_update is under way")

    def _ended(self, pid: int) -> NoRun:
        return NoRun(
            f"the agent (process {pid}) ended before {self._what} was over; its log"
            " says why, and `nodecomm agent status` tells whether it runs again"
        )


@define
class InventoryAsk(AgentAsk):
    """
    One request for an inventory; arguments as for `AgentAsk`. The agent makes a run,
    too.
    """

    _what: str = field(default="sending an inventory", init=False)

    def _prepare(self, before: AgentStatus | None) -> None:
        inventory = None if before is None else before.inventory
        if inventory is None or inventory.state == "off":
            raise NoRun(
                "the agent sends no inventories: `enabled` in [inventory] of its"
                " configuration says so, or it is of an older release"
            )
        ask_for_inventory(self._folder)

    def _is_over(self, status: AgentStatus) -> bool:
        """
        Whether one that was sent after the agent was asked is acknowledged, or could
        not be sent.
        """
        inventory = status.inventory
        if inventory is None or inventory.state != "waiting":
            return False
        if inventory.sent is not None and self._is_later(inventory.sent.when):
            return True
        attempted = inventory.attempted
        if inventory.failures_in_a_row == 0 or not self._is_later(attempted):
            return False
        run = status.last_attempt
        if any(failure.code == "no-key" for failure in inventory.failures):
            # The run that was asked for, too, may make it known, and it is tried again.
            return (
                super()._is_over(status)
                and run is not None
                and attempted is not None
                and run.began.later(run.seconds).seconds_until(attempted) >= 0
            )
        return True

    def _is_later(self, point: Point | None) -> bool:
        return point is not None and self.asked.seconds_until(point) >= 0

    def _say(self, status: AgentStatus) -> None:
        state = "" if status.inventory is None else status.inventory.state
        if state != self._said and state in ("making", "sending"):
            self._tell(
                f"an inventory is being {'made' if state == 'making' else 'sent'}"
            )
        self._said = state


def describe_run(status: AgentStatus, asked: Point, now: Point) -> list[str]:
    """
    What came of the last run, as lines for people.

    Args:
        status: After it.
        asked: When it was asked for.
        now: The present.
    """
    lines: list[str] = []
    for copy in status.copies:
        lines += copy_lines(copy, now)
    after = status.after_update
    if after is not None and asked.seconds_until(after.began) >= 0:
        lines.append(f"after_update: {after.outcome} after {after.seconds:.1f} s")
    attempt = status.last_attempt
    if attempt is not None:
        lines.append(f"the run {attempt.outcome} after {attempt.seconds:.1f} s")
    return [safe(line) for line in lines]
