# SPDX-License-Identifier: MIT
"""
`nodecomm inventory waiting`: what a server has not decided about yet, and what a relay
has not passed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nodecomm.cli.options import CommandOptions
from nodecomm.cli.server_state import CONFIG

if TYPE_CHECKING:
    from nodecomm.inventory.backlog import Queued

__all__ = ["WaitingOptions", "waiting"]


class WaitingOptions(CommandOptions):
    """
    The command line of `nodecomm inventory waiting`.
    """

    takes = "[options] [FOLDER]"
    subjects = (("folder", "FOLDER"),)
    optional = 1
    longdesc = (
        "List what a server has received and not decided about yet, or a relay not "
        "passed on, the longest waiting first: since when, what for, and how the last "
        "try went. The server may be running; nothing is changed. FOLDER is where it "
        "keeps what it has received, by default `inventories` in the state folder. "
        "With --json all that is known of each."
    )
    optParameters = [CONFIG]


def waiting(folder: str) -> tuple[Any, list[str]]:
    """
    What waits in a folder, for programs and for people.

    Raises:
        OSError: It cannot be read.
    """
    # It is not for the commands beside this one.
    from nodecomm.inventory.backlog import queued_facts, read_backlog  # noqa: PLC0415

    found = read_backlog(folder)
    files = sum(len(each.files) for each in found)
    size = sum(each.size for each in found)
    facts = {
        "folder": folder,
        "files": files,
        "bytes": size,
        "oldest": found[0].since.isoformat() if found else None,
        "waiting": [queued_facts(each) for each in found],
    }
    if not found:
        return facts, ["nothing waits"]
    since = _when(found[0].since)
    how_many = "1 file waits" if files == 1 else f"{files} files wait"
    return facts, [f"{how_many}, {size} bytes, since {since}", *_lines(found)]


def _lines(found: Sequence[Queued]) -> Iterator[str]:
    for each in found:
        sender = each.sender.address or "an unknown address"
        yield (
            f"{_when(each.since)} {' '.join(each.files)} from {sender} "
            f"({each.sender.box.value}, {each.size} bytes) for {each.awaits}"
        )
        if each.tried is not None:
            tried = each.tried
            tries = "1 try" if tried.tries == 1 else f"{tried.tries} tries"
            yield (
                f"    {tries}, the last {_when(tried.when)}, the next "
                f"{_when(tried.again)}: {tried.reason}"
            )


def _when(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S %Z")
