# SPDX-License-Identifier: MIT
"""
How an agent is doing: a small file in the state folder that the agent writes and
`nodecomm agent status` reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Literal

import attrs
from attrs import frozen
from cattrs import Converter

from nodecomm.config.durations import duration_text
from nodecomm.identity.files import read_small, replace_file
from nodecomm.service.agent_failures import CopyFailure
from nodecomm.service.agent_inventory_status import (
    InventoryStatus,
    inventory_ailments,
    inventory_lines,
    inventory_points,
)
from nodecomm.service.agent_points import Point, ago, pair_line
from nodecomm.sync.model import SyncResult
from nodecomm.wire.text import safe, to_text

__all__ = [
    "LOCK_NAME",
    "MOST_CHANGES",
    "STATUS_NAME",
    "AfterUpdate",
    "AgentStatus",
    "Attempt",
    "CopyStatus",
    "FailureNote",
    "Point",
    "State",
    "StatusUnreadable",
    "ailments",
    "copy_lines",
    "describe",
    "read_status",
    "write_status",
]

#: The files in the state folder: what is told, and what a running agent holds locked.
STATUS_NAME = "agent-status.json"
LOCK_NAME = "agent.lock"

#: Changes and warnings of one copy that the file names; of the rest only the number.
MOST_CHANGES = 50

#: Bytes of the file, some 100 copies with their changes.
_LARGEST = 16 * 1024 * 1024

State = Literal["waiting", "running", "after-update", "stopped"]


class StatusUnreadable(Exception):  # noqa: N818
    """
    The file cannot be understood: it is damaged, or of another release. The agent
    writes a new one at its next run.
    """


@frozen
class FailureNote:
    """
    Why a server did not give a copy; attributes as `CopyFailure`.
    """

    server: str
    kind: str
    code: str
    text: str
    remedy: str

    @classmethod
    def of(cls, server: object, failure: CopyFailure) -> FailureNote:
        """
        What *failure* says about *server*.
        """
        return cls(
            str(server), failure.kind, failure.code, failure.text, failure.remedy
        )


@frozen
class CopyStatus:
    """
    One copy in the last finished run.

    Attributes:
        source: On the server, as text.
        destination: Here, as text.
        outcome: What became of it.
        server: Who gave it; "" for nobody.
        failures: Of the servers that were asked in vain.
        files: Files of the source that were looked at.
        fetched: Files whose content came over the network.
        removed: Names removed.
        bytes_received: From the server, all of it.
        round_trips: As `SyncResult`.
        seconds: How long it took.
        changes: Names and what became of each, the first `MOST_CHANGES`.
        changed_names: How many there are in all.
        warnings: For people, the first `MOST_CHANGES`.
        last_success: When it was last found or brought up to date.
        last_change: When it last changed.
    """

    source: str
    destination: str
    outcome: Literal["unchanged", "updated", "failed"]
    server: str = ""
    failures: tuple[FailureNote, ...] = ()
    files: int = 0
    fetched: int = 0
    removed: int = 0
    bytes_received: int = 0
    round_trips: int = 0
    seconds: float = 0.0
    changes: tuple[tuple[str, str], ...] = ()
    changed_names: int = 0
    warnings: tuple[str, ...] = ()
    last_success: Point | None = None
    last_change: Point | None = None

    def with_result(self, server: object, result: SyncResult) -> CopyStatus:
        """
        The same with what came out.
        """
        changes = [(to_text(c.name), c.what) for c in result.changes[:MOST_CHANGES]]
        return attrs.evolve(
            self,
            outcome="updated" if result.changed else "unchanged",
            server=str(server),
            files=result.checked,
            fetched=result.fetched,
            removed=result.removed,
            bytes_received=result.bytes_received,
            round_trips=result.round_trips,
            seconds=result.seconds,
            changes=tuple(changes),
            changed_names=len(result.changes),
            warnings=tuple(result.warnings[:MOST_CHANGES]),
        )


@frozen
class Attempt:
    """
    One run that has ended.

    Attributes:
        began: When.
        seconds: How long it took.
        reason: What it was for: the first after a start, the schedule, another try
            after a failure, a signal, a request at the listener.
        outcome: Whether all copies succeeded.
    """

    began: Point
    seconds: float
    reason: str
    outcome: Literal["succeeded", "failed", "stopped"]


@frozen
class AfterUpdate:
    """
    The last run of `after_update`; attributes as `Ended`, and when it began.
    """

    began: Point
    seconds: float
    status: int | None
    outcome: str
    succeeded: bool


@frozen
class AgentStatus:
    """
    All of it.

    Attributes:
        pid: The agent's process.
        started: When it started.
        configuration: Which files.
        own_key: The digest of this machine's key.
        servers: As configured.
        interval: Seconds.
        state: What it is doing.
        server: Who gave the last copy; "" for nobody so far.
        server_key: The digests of that server's key.
        next_run: When.
        last_attempt: The last run that ended.
        last_success: When all copies were last up to date.
        last_change: When one of them last changed.
        failures_in_a_row: Runs that failed since.
        copies: As of the last run that ended.
        after_update: Its last run.
        after_update_pending: Whether a change waits for it.
        protocol: What is spoken with the servers; "" if a release wrote it that did
            not say so.
        listening: Where others may ask for a run, as endpoint strings; empty: nowhere.
        regular: Whether it makes runs of its own accord: there is something to copy.
        inventory: How its inventories are doing; None if a release wrote it that sent
            none.
    """

    pid: int
    started: Point
    configuration: str
    own_key: str
    servers: tuple[str, ...]
    interval: float
    state: State = "waiting"
    server: str = ""
    server_key: str = ""
    next_run: Point | None = None
    last_attempt: Attempt | None = None
    last_success: Point | None = None
    last_change: Point | None = None
    failures_in_a_row: int = 0
    copies: tuple[CopyStatus, ...] = ()
    after_update: AfterUpdate | None = None
    after_update_pending: bool = False
    protocol: str = ""
    listening: tuple[str, ...] = ()
    regular: bool = True
    inventory: InventoryStatus | None = None
    version: int = 1


def write_status(folder: str, status: AgentStatus) -> None:
    """
    Put *status* into the state folder.

    Raises:
        OSError: It could not be written.
    """
    data = json.dumps(attrs.asdict(status), indent=1).encode() + b"\n"
    replace_file(os.path.join(folder, STATUS_NAME), data)


def read_status(folder: str) -> AgentStatus | None:
    """
    The status in the state folder; None if there is none.

    Raises:
        StatusUnreadable: It is damaged.
        OSError: It cannot be read.
    """
    path = os.path.join(folder, STATUS_NAME)
    try:
        _, data = read_small(path, _LARGEST)
        content = json.loads(data)
        if content["version"] != 1:
            msg = f"it is of version {content['version']!r}"
            raise ValueError(msg)
        status = Converter().structure(content, AgentStatus)
        _check_points(status)
        return status
    except FileNotFoundError:
        return None
    except OSError:
        raise
    except Exception as error:
        # Whatever cattrs says of a file that somebody else wrote.
        said = str(error) if isinstance(error, ValueError) else type(error).__name__
        msg = f"{path} cannot be understood ({said})"
        raise StatusUnreadable(msg) from error


def _check_points(status: AgentStatus) -> None:
    """
    Look at all points of time in *status*: those that can be told of must be points
    that a clock can show.

    Raises:
        ValueError: One cannot.
    """
    attempt, after = status.last_attempt, status.after_update
    points = [status.started, status.next_run, status.last_success, status.last_change]
    points.append(None if attempt is None else attempt.began)
    points.append(None if after is None else after.began)
    if status.inventory is not None:
        points += inventory_points(status.inventory)
    for copy in status.copies:
        points += [copy.last_success, copy.last_change]
    for point in points:
        if point is not None and not point.can_be:
            msg = "it has a time that no clock can show"
            raise ValueError(msg)


def ailments(status: AgentStatus | None, *, running: bool) -> list[str]:
    """
    What is not as it should be, for people; nothing when all is well.
    """
    found: list[str] = []
    if not running:
        found.append(
            "no agent is running: start it with `twistd nodecomm-agent -c agent.toml`,"
            " or its service"
        )
    if status is None:
        found.append(
            "no agent has ever run with this state folder: -c names an agent's"
            " configuration, --state-dir its state folder"
        )
        return found
    if status.last_success is None and status.regular:
        found.append("no run has succeeded so far")
    attempt = status.last_attempt
    if attempt is not None and attempt.outcome == "failed" and status.regular:
        failed = [copy for copy in status.copies if copy.outcome == "failed"]
        found.append(
            f"the last run failed for {len(failed)} of {len(status.copies)} copies"
        )
    after = status.after_update
    if after is not None and not after.succeeded:
        found.append(f"the last after_update failed: {safe(after.outcome)}")
    if status.inventory is not None:
        found += inventory_ailments(status.inventory)
    return found


def describe(status: AgentStatus, now: Point, *, running: bool) -> list[str]:
    """
    The status as lines for people.
    """
    lines = [pair_line("agent", _doing(status, now, running=running))]
    if not status.regular:
        lines.append(pair_line("policy", "nothing is to be copied"))
    elif status.last_success is None:
        lines.append(pair_line("policy", "never fetched completely"))
    else:
        said = f"confirmed {ago(status.last_success, now)}"
        if status.last_change is not None:
            said += f", last changed {ago(status.last_change, now)}"
        lines.append(pair_line("policy", said))
    configured = ", ".join(status.servers)
    server = (
        status.server or f"none has given anything so far (configured: {configured})"
    )
    lines.append(pair_line("server", server))
    if status.server_key:
        lines.append(pair_line("its key", status.server_key))
    if status.protocol:
        lines.append(pair_line("protocol", status.protocol))
    if status.listening:
        lines.append(
            pair_line("listening", f"{', '.join(status.listening)} (for runs)")
        )
    attempt = status.last_attempt
    if attempt is None:
        lines.append(pair_line("last attempt", "none"))
    else:
        said = (
            f"{ago(attempt.began, now)} ({attempt.reason}), {attempt.outcome} after"
            f" {attempt.seconds:.1f} s"
        )
        if status.failures_in_a_row > 1:
            said += f", {status.failures_in_a_row} failures in a row"
        lines.append(pair_line("last attempt", said))
    success = status.last_success
    lines.append(
        pair_line("last success", "never" if success is None else ago(success, now))
    )
    if status.after_update is not None:
        after = status.after_update
        said = f"{ago(after.began, now)}, {safe(after.outcome)}"
        lines.append(pair_line("after_update", f"{said} after {after.seconds:.1f} s"))
    if status.after_update_pending:
        lines.append(pair_line("after_update", "is due for a change, and has not run"))
    if status.inventory is not None:
        lines += inventory_lines(status.inventory, now, running=running)
    for copy in status.copies:
        lines += copy_lines(copy, now)
    # What was made safe stays as it is.
    return [safe(line) for line in lines]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _doing(status: AgentStatus, now: Point, *, running: bool) -> str:
    if not running:
        return f"not running (its last process was {status.pid})"
    said = f"running (process {status.pid}), "
    if status.state == "running":
        return said + "an update is under way"
    if status.state == "after-update":
        return said + "after_update is under way"
    if not status.regular and status.state == "waiting":
        return said + "no run but those that are asked for"
    if status.next_run is None:
        return said + status.state
    left = now.seconds_until(status.next_run)
    if left < 0:
        return said + f"the next run was due {duration_text(-left)} ago"
    return said + f"next run in {duration_text(left)}"


def copy_lines(copy: CopyStatus, now: Point) -> Sequence[str]:
    """
    What became of one copy, as lines for people.
    """
    lines = [f"{safe(copy.source)} -> {safe(copy.destination)}: {copy.outcome}"]
    if copy.outcome != "failed":
        lines[0] += (
            f" from {safe(copy.server)} ({_count(copy.files, 'file')}, {copy.fetched}"
            f" fetched, {copy.removed} removed, {_count(copy.bytes_received, 'byte')},"
            f" {_count(copy.round_trips, 'round trip')}, {copy.seconds:.1f} s)"
        )
    elif copy.last_success is not None:
        lines[0] += f"; what is there is of {ago(copy.last_success, now)}"
    else:
        lines[0] += "; it was never made"
    for failure in copy.failures:
        lines.append(
            f"  {safe(failure.server)}: {failure.kind} ({failure.code}):"
            f" {safe(failure.text)}"
        )
        lines.append(f"    what to do: {safe(failure.remedy)}")
    lines += [f"  {what}: {safe(name) or '.'}" for name, what in copy.changes]
    if copy.changed_names > len(copy.changes):
        more = copy.changed_names - len(copy.changes)
        lines.append(f"  and {_count(more, 'more change')}")
    lines += [f"  warning: {safe(warning)}" for warning in copy.warnings]
    return lines
