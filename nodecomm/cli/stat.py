# SPDX-License-Identifier: MIT
"""
`nodecomm stat`: what a server says about one thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from nodecomm.cli.options import write_json
from nodecomm.cli.remote import (
    TargetOptions,
    ask,
    is_link,
    kind_of,
    leads_to,
    letters,
    mode_of,
    run_asking,
    status_facts,
    when,
)
from nodecomm.cli.statuses import Status
from nodecomm.wire.replies import LINK
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from nodecomm.client.address import Target
    from nodecomm.sync.syncing import Dialing

__all__ = ["Options", "run", "show_status"]


class Options(TargetOptions):
    """
    The command line of `nodecomm stat`.
    """

    longdesc = "Print what a server says about a file, a folder, or whatever it is."


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    `nodecomm stat`.
    """

    async def work(dialer: Dialing) -> int:
        target = options["target"]
        return await show_status(dialer, target, stdout, as_json=options.as_json)

    return run_asking(options, stdout, stderr, work)


async def show_status(
    dialer: Dialing, target: Target, stdout: TextIO, *, as_json: bool
) -> int:
    """
    Ask for the status of one thing, and print it.
    """
    status = await ask(dialer, target.server, lambda one: one.stat(target.path))
    if as_json:
        facts = {"path": to_text(target.path), **status_facts(status)}
        write_json(facts, stdout)
        return Status.DONE
    kind, letter = kind_of(status)
    mode = mode_of(status)
    lines = [
        ("path", to_text(target.path)),
        ("type", kind),
        ("mode", f"{mode:04o} ({letter}{letters(mode)})"),
        ("owner", f"{status.uid}:{status.gid}"),
        ("size", f"{status.size} bytes"),
        ("changed", when(status.mtime)),
        ("inode changed", when(status.ctime)),
        ("read", when(status.atime)),
        ("inode", f"{status.ino}, device {status.dev}, links {status.nlink}"),
    ]
    if is_link(status) and status.kind != LINK:
        lines.insert(2, ("which is a", leads_to(status)[0]))
    if status.target:
        lines.insert(2, ("link to", to_text(status.target)))
    for name, value in lines:
        stdout.write(f"{name + ':':<15}{safe(value)}\n")
    return Status.DONE
