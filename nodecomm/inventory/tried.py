# SPDX-License-Identifier: MIT
"""
How the last try with something that waits went: a file beside it, for whoever looks
(`nodecomm inventory waiting`). Nothing that this program does follows from it.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Any

from attrs import frozen

from nodecomm.identity.files import read_small

__all__ = ["TRIED_NAME", "TRIED_NAMES", "Tried", "read_tried", "write_tried"]

#: The file beside what waits.
TRIED_NAME = "tried.json"

_NEW_NAME = f"{TRIED_NAME}.new"

#: It, and what a program that was killed at writing it has left.
TRIED_NAMES = (TRIED_NAME, _NEW_NAME)


@frozen
class Tried:
    """
    How the last try went.

    Attributes:
        tries: How many there were, since the program began.
        when: When the last one was, in UTC.
        again: When there is another one, unless something changes before.
        reason: Why it went wrong.
    """

    tries: int
    when: datetime
    again: datetime
    reason: str


def write_tried(folder: str, tried: Tried) -> None:
    """
    Write it into the folder of what waits. It need not outlast the machine.

    Raises:
        OSError: It could not be written.
    """
    facts = {
        "tries": tried.tries,
        "when": tried.when.isoformat(),
        "again": tried.again.isoformat(),
        "reason": tried.reason,
    }
    new = os.path.join(folder, _NEW_NAME)
    with open(new, "w", encoding="utf-8") as file:
        json.dump(facts, file)
    os.rename(new, os.path.join(folder, TRIED_NAME))


def read_tried(folder: str) -> Tried | None:
    """
    Read it; None if nothing readable says it.
    """
    try:
        _, data = read_small(os.path.join(folder, TRIED_NAME))
        told: Any = json.loads(data)
        return Tried(
            int(told["tries"]),
            datetime.fromisoformat(told["when"]),
            datetime.fromisoformat(told["again"]),
            str(told["reason"]),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
