# SPDX-License-Identifier: MIT
"""
What waits in the folder of a server or a relay, seen by another program, which neither
owns the folder nor changes anything in it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

from attrs import frozen

from nodecomm.inventory.failures import REASON_NAME
from nodecomm.inventory.names import Half
from nodecomm.inventory.outbox import OUTGOING_NAME
from nodecomm.inventory.pairs import Sender, Waiting, read_waiting
from nodecomm.inventory.spool import INCOMING_NAME, READY_NAME
from nodecomm.inventory.tried import Tried, read_tried

__all__ = ["Queued", "queued_facts", "read_backlog"]

#: What a pair, or a file of a relay, waits for.
_DECISION, _ABOVE = "a decision", "the server above"


@frozen
class Queued:
    """
    Something that waits: a file, or both files of an inventory.

    Attributes:
        serial: The name of its folder; "" for a half that waits for the other one.
        files: What its sender has called its files.
        sender: Where it came from.
        since: When it came, in UTC.
        size: Bytes of its files.
        awaits: What it waits for, in words.
        tried: How the last try went; None if there was none, or nobody has noted it.
    """

    serial: str
    files: tuple[str, ...]
    sender: Sender
    since: datetime
    size: int
    awaits: str
    tried: Tried | None = None


def read_backlog(folder: str | os.PathLike[str]) -> list[Queued]:
    """
    What waits in a folder, the longest waiting first. What goes or comes while it is
    read may be in it or not.

    Raises:
        FileNotFoundError: It is not the folder of a server or a relay.
        OSError: It cannot be read.
    """
    top = os.fspath(folder)
    names = (INCOMING_NAME, READY_NAME, OUTGOING_NAME)
    if not any(os.path.isdir(os.path.join(top, name)) for name in names):
        msg = "no server has received anything there (see --config)"
        raise FileNotFoundError(errno.ENOENT, msg, top)
    found = [*_halves(os.path.join(top, INCOMING_NAME))]
    found += _folders(os.path.join(top, READY_NAME), _DECISION)
    found += _folders(os.path.join(top, OUTGOING_NAME), _ABOVE)
    return sorted(found, key=lambda each: (each.since, each.serial, each.files))


def queued_facts(queued: Queued) -> dict[str, Any]:
    """
    What is known of it, as values that JSON has.
    """
    tried = queued.tried
    return {
        "number": queued.serial or None,
        "files": list(queued.files),
        "box": queued.sender.box.value,
        "address": queued.sender.address,
        "since": queued.since.isoformat(),
        "bytes": queued.size,
        "awaits": queued.awaits,
        "tries": tried.tries if tried else None,
        "tried": tried.when.isoformat() if tried else None,
        "again": tried.again.isoformat() if tried else None,
        "reason": tried.reason if tried else None,
    }


def _halves(folder: str) -> Iterator[Queued]:
    for waiting in _read(folder):
        queued = _queued([waiting], f"its {waiting.name.half.other.value}")
        if queued is not None:
            yield queued


def _folders(top: str, awaits: str) -> Iterator[Queued]:
    for serial in _names(top):
        folder = os.path.join(top, serial)
        if os.path.exists(os.path.join(folder, REASON_NAME)):
            # It is about to be in failed/.
            continue
        queued = _queued(_read(folder), awaits, serial, read_tried(folder))
        if queued is not None:
            yield queued


def _queued(
    found: Sequence[Waiting], awaits: str, serial: str = "", tried: Tried | None = None
) -> Queued | None:
    try:
        states = [os.stat(each.path) for each in found]
    except FileNotFoundError:
        # It goes on while we look.
        return None
    if not states:
        return None
    since = min(state.st_mtime for state in states)
    return Queued(
        serial,
        tuple(each.name.text for each in found),
        found[0].sender,
        datetime.fromtimestamp(since, timezone.utc),
        sum(state.st_size for state in states),
        awaits,
        tried,
    )


def _read(folder: str) -> list[Waiting]:
    paths = (os.path.join(folder, name) for name in _names(folder))
    found = (read_waiting(path, 0) for path in paths)
    halves = [waiting for waiting in found if waiting is not None]
    return sorted(halves, key=lambda waiting: waiting.name.half is Half.SIGNATURE)


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
