# SPDX-License-Identifier: MIT
"""
`nodecomm sync`: brings what a server has here, verified, in one step.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, TextIO

from twisted.python import usage

from nodecomm.cli.connecting import (
    AskingOptions,
    run_command,
    seconds_option,
    target_argument,
)
from nodecomm.cli.dialing import make_asking_dialer
from nodecomm.cli.options import write_json
from nodecomm.cli.progress import ProgressLine, amount
from nodecomm.cli.statuses import Status
from nodecomm.sync.model import SyncRequest
from nodecomm.wire.text import from_text, safe, to_text

if TYPE_CHECKING:
    from nodecomm.client.address import Target
    from nodecomm.sync.model import Change, SyncResult, Watch

__all__ = ["Options", "destination", "result_facts", "run", "summary"]

COMPARE = ("auto", "digest", "mtime", "size")
REPLACE = ("exchange", "symlink", "files")


class Options(AskingOptions):
    """
    The command line of `nodecomm sync`.
    """

    takes = "[options] HOST[:PORT]:SOURCE DEST"
    longdesc = (
        "Make DEST what SOURCE is on the server: a folder with all that is in it, or a "
        "file. Only what differs is fetched, all of it is verified, and the new set "
        "takes the place of the old one in one step; whatever goes wrong before, DEST "
        "is as it was."
    )
    subjects = (("target", "HOST[:PORT]:SOURCE"), ("dest", "DEST"))
    optParameters = [
        ["compare", None, "auto", f"what makes a file differ: {', '.join(COMPARE)}"],
        ["replace", None, "exchange", f"how DEST is replaced: {', '.join(REPLACE)}"],
        ["lock-wait", None, "10", "seconds to wait for another update of DEST"],
    ]
    optFlags = [
        ["purge", None, "remove here what the server does not have"],
        ["preserve", "p", "keep owner, group and times; modes are kept always"],
        ["dry-run", "n", "find out what would change, and change nothing"],
        ["verbose", "v", "list each change"],
        ["quiet", "q", "print nothing but errors and warnings"],
    ]

    def __init__(self) -> None:
        self.excluded: list[bytes] = []
        super().__init__()

    def opt_exclude(self, glob: str) -> None:
        """
        Leave names like this alone, here and there; may be given several times. With
        a slash inside it is about the whole relative name, with one at the end about
        folders.
        """
        try:
            self.excluded.append(from_text(glob))
        except ValueError as error:
            msg = f"--exclude: {error}"
            raise usage.UsageError(msg) from error

    opt_x = opt_exclude

    def postOptions(self) -> None:
        """
        Check what has been given.
        """
        super().postOptions()
        self["target"] = target_argument(self["target"])
        self["dest"] = destination(self["dest"])
        for name, allowed in (("compare", COMPARE), ("replace", REPLACE)):
            if self[name] not in allowed:
                msg = f"--{name} takes {', '.join(allowed)}, not {self[name]!r}"
                raise usage.UsageError(msg)
        self["lock-wait"] = seconds_option("--lock-wait", self["lock-wait"], least=0.0)

    def request(self) -> SyncRequest:
        """
        The update that was asked for.
        """
        target: Target = self["target"]
        return SyncRequest(
            source=target.path,
            destination=self["dest"],
            compare=self["compare"],
            purge=bool(self["purge"]),
            preserve=bool(self["preserve"]),
            exclude=tuple(self.excluded),
            replace=self["replace"],
            dry_run=bool(self["dry-run"]),
            new=True,
        )


def destination(text: str) -> bytes:
    """
    The absolute name of DEST. A link in its last part stays one: it may be how an
    update replaces DEST.

    Raises:
        usage.UsageError: It is no name for something that could be replaced.
    """
    if not text or "\0" in text:
        msg = "DEST is empty"
        raise usage.UsageError(msg)
    name = os.fsencode(text).rstrip(b"/")
    head, last = os.path.split(name)
    if last in (b".", b".."):
        real = os.path.realpath(name)
    elif last:
        real = os.path.join(os.path.realpath(head or b"."), last)
    else:
        real = b"/"
    if real == b"/":
        msg = "DEST is the root of all files, which cannot be replaced"
        raise usage.UsageError(msg)
    return real


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    `nodecomm sync`.
    """
    as_json = options.as_json
    named = options.named_state_dir
    quiet = bool(options["quiet"])
    request = options.request()
    options.warn(options["target"].server, stderr)
    line = ProgressLine.on(stderr) if not (as_json or quiet) else None

    async def work(reactor: Any) -> int:
        try:
            result = await update(
                reactor, options, request, None if line is None else line.show
            )
        finally:
            if line is not None:
                line.clear()
        for warning in result.warnings:
            stderr.write(f"warning: {safe(warning)}\n")
        if as_json:
            write_json(result_facts(request, result), stdout)
        elif not quiet:
            if options["verbose"] or request.dry_run:
                for change in result.changes:
                    stdout.write(_change_line(change) + "\n")
            stdout.write(summary(request, result) + "\n")
        return Status.DONE

    return run_command(work, stdout, stderr, as_json=as_json, state_dir=named)


async def update(
    reactor: Any,
    options: Options,
    request: SyncRequest,
    watch: Watch | None,
) -> SyncResult:
    """
    Carry a request out.
    """
    # Not at the top: a wrong command line is told without them.
    from nodecomm.server.pools import WorkerPool  # noqa: PLC0415
    from nodecomm.sync.clocks import SteadyClock  # noqa: PLC0415
    from nodecomm.sync.syncing import Syncer  # noqa: PLC0415

    state_dir = options.state_dir
    dialer = make_asking_dialer(reactor, options, state_dir)
    pool = WorkerPool(reactor, "sync", threads=4)
    pool.start()
    syncer = Syncer(
        dialer,
        options["target"].server,
        state_dir=state_dir,
        pool=pool,
        clock=reactor,
        now=time.time,
        monotonic=time.monotonic,
        steady=SteadyClock(),
        lock_wait=options["lock-wait"],
    )
    try:
        return await syncer.run(request, watch=watch)
    finally:
        await syncer.close()


def summary(request: SyncRequest, result: SyncResult) -> str:
    """
    What came out, in one line of words.
    """
    where = safe(to_text(request.destination))
    if request.dry_run:
        said = "would change" if result.changed else "would stay as it is"
    else:
        said = "updated" if result.changed else "unchanged"
    return (
        f"{where} {said}: {_count(result.checked, 'file')} checked, "
        f"{result.fetched} fetched ({amount(result.bytes_fetched)}), "
        f"{result.removed} removed; {amount(result.bytes_received)} received, "
        f"{_count(result.round_trips, 'round trip')}, {result.seconds:.2f} s"
    )


def result_facts(request: SyncRequest, result: SyncResult) -> dict[str, Any]:
    """
    What came out, for a program; names in the reversible text form.
    """
    return {
        "source": to_text(request.source),
        "destination": to_text(request.destination),
        "dry_run": request.dry_run,
        "changed": result.changed,
        "checked": result.checked,
        "fetched": result.fetched,
        "removed": result.removed,
        "bytes_received": result.bytes_received,
        "bytes_fetched": result.bytes_fetched,
        "round_trips": result.round_trips,
        "connections": result.connections,
        "seconds": round(result.seconds, 6),
        "manifest": result.manifest,
        "changes": [
            {"name": to_text(change.name), "what": change.what}
            for change in result.changes
        ],
        "refused": [to_text(name) for name in result.refused],
        "warnings": list(result.warnings),
    }


def _change_line(change: Change) -> str:
    name = to_text(change.name) if change.name else "."
    return f"{change.what:<10}  {safe(name)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
