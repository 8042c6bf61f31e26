# SPDX-License-Identifier: MIT
"""
How an agent's inventories are doing: a part of its status.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from nodecomm.config.durations import duration_text
from nodecomm.service.agent_inventory_when import Sent
from nodecomm.service.agent_points import Point, ago, pair_line
from nodecomm.service.logs import utc
from nodecomm.wire.text import safe

__all__ = [
    "REASONS",
    "InventoryFailure",
    "InventoryStatus",
    "inventory_ailments",
    "inventory_failures",
    "inventory_lines",
    "inventory_points",
]

#: What an inventory is for, in words.
REASONS = {
    "first": "the first one",
    "asked": "asked for",
    "version": "after an upgrade",
    "key": "with another key",
    "server": "to other servers",
    "daily": "the daily one",
    "clock": "the clock was wrong before",
}


@frozen
class InventoryFailure:
    """
    Why an inventory is not where it should be.

    Attributes:
        url: The server; "" for this machine.
        kind: `unreachable`, `untrusted`, `refused`, `local`, or `bug`.
        code: Why, in a word.
        text: Why, in words.
        remedy: What to do; "" if the words say it.
        permanent: Whether it will not heal by itself.
        retry_after: Seconds that the server asks to wait.
    """

    url: str
    kind: str
    code: str
    text: str
    remedy: str = ""
    permanent: bool = False
    retry_after: float = 0.0


@frozen
class InventoryStatus:
    """
    All of it.

    Attributes:
        state: What is done now.
        servers: Where inventories go.
        is_wanted: Whether it is an ailment if none is taken: a person has written
            that they are sent, or a server has taken one before.
        node_id: The id of this node.
        sent: The last one that was acknowledged.
        due: What one is due for; "" if none is.
        waits: What the one is called that was made and not yet acknowledged.
        next: When the next one is tried.
        attempted: When one was tried last.
        failures: Why the last attempt failed.
        failures_in_a_row: Attempts that failed since the last success.
        failing_since: When the first of them was.
        skipped: What the last one that was made is without.
    """

    state: Literal["off", "waiting", "making", "sending"] = "off"
    servers: tuple[str, ...] = ()
    is_wanted: bool = False
    node_id: str = ""
    sent: Sent | None = None
    due: str = ""
    waits: str = ""
    next: Point | None = None
    attempted: Point | None = None
    failures: tuple[InventoryFailure, ...] = ()
    failures_in_a_row: int = 0
    failing_since: Point | None = None
    skipped: tuple[str, ...] = ()


def inventory_points(status: InventoryStatus) -> list[Point | None]:
    """
    All points of time in *status*.
    """
    sent = None if status.sent is None else status.sent.when
    return [sent, status.next, status.attempted, status.failing_since]


def inventory_ailments(status: InventoryStatus) -> list[str]:
    """
    What is not as it should be, for people.
    """
    return inventory_failures(status) if status.is_wanted else []


def inventory_failures(status: InventoryStatus) -> list[str]:
    """
    Why the last one was not sent, for people, whether anybody expects it or not.
    """
    if status.state == "off" or not status.failures_in_a_row:
        return []
    tries = status.failures_in_a_row
    often = "once" if tries == 1 else f"{tries} times in a row"
    why = "; ".join(_because(failure) for failure in status.failures)
    return [f"the inventory of this node could not be sent, {often}: {safe(why)}"]


def inventory_lines(status: InventoryStatus, now: Point, *, running: bool) -> list[str]:
    """
    The status as lines for people.
    """
    if status.state == "off":
        return [pair_line("inventory", "none is sent (enabled = false)")]
    sent = status.sent
    if sent is None:
        lines = [pair_line("inventory", "none has been acknowledged so far")]
    else:
        said = (
            f"sent {ago(sent.when, now)} to {safe(sent.url)}{_for(sent.reason)}, "
            f"policy server {safe(sent.server_id)}"
        )
        lines = [pair_line("inventory", said)]
    if status.node_id:
        lines.append(pair_line("node", safe(status.node_id)))
    if status.state == "making":
        lines.append(pair_line("", "one is being made"))
    elif status.state == "sending":
        lines.append(pair_line("", f"one is being sent{_for(status.due)}"))
    elif status.due:
        lines.append(pair_line("", f"one is due{_for(status.due)}"))
    if status.next is not None and running and status.state == "waiting":
        left = now.seconds_until(status.next)
        what = "next try" if status.due else "next one"
        when = utc(status.next.civil)
        lines.append(pair_line("", f"{what} in {duration_text(max(left, 0))} ({when})"))
    lines += [f"  without {safe(one)}" for one in status.skipped]
    for failure in status.failures:
        where = safe(failure.url) or "this machine"
        text = safe(failure.text)
        lines.append(f"  {where}: {failure.kind} ({safe(failure.code)}): {text}")
        if failure.remedy:
            lines.append(f"    what to do: {safe(failure.remedy)}")
    return lines


def _because(failure: InventoryFailure) -> str:
    where = f"{failure.url}: " if failure.url else ""
    return f"{where}{failure.text}"


def _for(reason: str) -> str:
    return f" ({REASONS.get(reason, safe(reason))})" if reason else ""
