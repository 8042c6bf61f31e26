# SPDX-License-Identifier: MIT
"""
What was not believed, and why: the record beside it, for operators and programs.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Any

from attrs import frozen

from nodecomm.identity.files import read_small, replace_file
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.pairs import BETWEEN, Box, Sender

__all__ = [
    "FAILED_NAME",
    "REASON_NAME",
    "SPOOL_NAME",
    "Failed",
    "failed_facts",
    "read_failed",
    "read_reason",
    "write_reason",
]

#: The folder of what was received, in the state folder.
SPOOL_NAME = "inventories"

#: The folder of what failed, in that of the spool.
FAILED_NAME = "failed"

#: The file with the reason, beside what failed.
REASON_NAME = "reason.json"


@frozen
class Failed:
    """
    Something that was not believed.

    Attributes:
        serial: The name of its folder.
        name: What its files have in common in their names.
        refusal: Why.
        sender: Where it came from.
        when: When it had come, in UTC.
        failed: When it failed, in UTC.
        files: The names of the files, as they were sent.
    """

    serial: str
    name: str
    refusal: Refusal
    sender: Sender
    when: datetime
    failed: datetime
    files: tuple[str, ...]


def read_failed(folder: str | os.PathLike[str]) -> list[Failed]:
    """
    What failed in the spool in *folder*, the oldest first; another program may use it.
    What has no readable reason is left out.

    Raises:
        OSError: The folder cannot be read.
    """
    top = os.path.join(folder, FAILED_NAME)
    found = []
    for serial in sorted(os.listdir(top)):
        failed = read_reason(os.path.join(top, serial))
        if failed is not None:
            found.append(failed)
    return found


def read_reason(folder: str, name: str = REASON_NAME) -> Failed | None:
    """
    What failed in a folder of its own; None if nothing readable says it.
    """
    try:
        _, data = read_small(os.path.join(folder, name))
        return _read_reason(os.path.basename(folder), json.loads(data))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_reason(folder: str, failed: Failed) -> None:
    """
    Write the reason into a folder, durably.

    Raises:
        OSError: It could not be written.
    """
    text = json.dumps(failed_facts(failed), indent=2) + "\n"
    replace_file(os.path.join(folder, REASON_NAME), text.encode())


def failed_facts(failed: Failed) -> dict[str, Any]:
    """
    What is known of it, as values that JSON has.
    """
    return {
        "name": failed.name,
        "code": failed.refusal.code,
        "text": failed.refusal.text,
        "element": failed.refusal.element,
        "box": failed.sender.box.value,
        "address": failed.sender.address,
        "received": failed.when.isoformat(),
        "failed": failed.failed.isoformat(),
        "files": list(failed.files),
    }


def _read_reason(serial: str, told: Any) -> Failed:
    address = str(told["address"])
    if os.sep in address or BETWEEN in address:
        # It becomes a part of the name of a file that is sent again.
        raise ValueError("no address")
    return Failed(
        serial=serial,
        name=told["name"],
        refusal=Refusal(told["code"], told["text"], told["element"]),
        sender=Sender(Box(told["box"]), address),
        when=datetime.fromisoformat(told["received"]),
        failed=datetime.fromisoformat(told["failed"]),
        files=tuple(told["files"]),
    )
