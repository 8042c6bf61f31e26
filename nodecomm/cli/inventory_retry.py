# SPDX-License-Identifier: MIT
"""
`nodecomm inventory retry`: a relay sends again what it has put aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO, cast

from twisted.python import usage

from nodecomm.cli.options import CONFIG, CommandOptions, GroupOptions, write_json
from nodecomm.cli.server_state import find_state
from nodecomm.inventory.failures import SPOOL_NAME, read_failed
from nodecomm.wire.text import safe

__all__ = ["RetryOptions", "retry"]


class RetryOptions(CommandOptions):
    """
    The command line of `nodecomm inventory retry`.
    """

    takes = "[options] NUMBER..."
    longdesc = (
        "Let a relay send again what it has put aside: what `nodecomm inventory "
        "failed` lists under these numbers, or with --all everything. It may be "
        "running, and begins within half a minute. A server that decides by itself "
        "has nothing to send. Exit status: 0 all of it waits again, 1 not all."
    )
    optParameters = [
        CONFIG,
        [
            "folder",
            None,
            None,
            "where the relay keeps what it has received, by default `inventories` in "
            "the state folder",
        ],
    ]
    optFlags = [["all", "a", "everything that was put aside"]]

    def parseArgs(self, *given: str) -> None:
        """
        Any number of them.
        """
        if bool(given) == bool(self["all"]):
            raise usage.UsageError("which ones? Give their numbers, or --all")
        self["numbers"] = given


def retry(options: GroupOptions, stdout: TextIO, stderr: TextIO) -> int:
    """
    Move what was put aside to what waits, and return the exit status.
    """
    # It is not for the commands that only list.
    from nodecomm.inventory.outbox import OUTGOING_NAME, send_again  # noqa: PLC0415

    chosen = cast(CommandOptions, options.subOptions)
    if chosen["folder"] is None:
        state = find_state(chosen["config"], options.named_state_dir)
        state.check()
        folder = state.folder / SPOOL_NAME
    else:
        folder = Path(chosen["folder"])
    if not (folder / OUTGOING_NAME).is_dir():
        raise usage.UsageError(
            f"{folder} is not that of a relay: a server that decides by itself has "
            "nothing to send; name another configuration with --config, or a folder "
            "with --folder"
        )
    numbers: Sequence[str] = chosen["numbers"]
    if chosen["all"]:
        numbers = [each.serial for each in read_failed(folder)]
    done, status = [], 0
    for number in numbers:
        try:
            files = send_again(folder, number)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            stderr.write(f"error: {safe(number)}: {safe(str(why))}\n")
            status = 1
        else:
            done.append({"number": number, "files": list(files)})
            if not options.as_json:
                stdout.write(f"{number} {' '.join(files)}\n")
    if options.as_json:
        write_json(done, stdout)
    return status
