# SPDX-License-Identifier: MIT
"""
`nodecomm ls`: what is in a folder of a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

from nodecomm.cli.options import write_json
from nodecomm.cli.remote import (
    TargetOptions,
    ask,
    kind_of,
    letters,
    mode_of,
    run_asking,
    status_facts,
    when,
)
from nodecomm.cli.statuses import Status
from nodecomm.client.errors import Refused
from nodecomm.wire.errors import LocalProtocolError
from nodecomm.wire.replies import DIRECTORY
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from nodecomm.client.address import Target
    from nodecomm.client.connection import Connection
    from nodecomm.sync.syncing import Dialing
    from nodecomm.wire.replies import StatReply

__all__ = ["Options", "list_folder", "run"]


class Options(TargetOptions):
    """
    The command line of `nodecomm ls`.
    """

    longdesc = (
        "List a folder of a server, one name a line, in the reversible text form: "
        "\\xNN for a byte that is no text, two backslashes for one."
    )
    optFlags = [["long", "l", "mode, owner, group, size and time of each as well"]]


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    `nodecomm ls`.
    """

    async def work(dialer: Dialing) -> int:
        return await list_folder(
            dialer,
            options["target"],
            stdout,
            stderr,
            long=bool(options["long"]),
            as_json=options.as_json,
        )

    return run_asking(options, stdout, stderr, work)


async def list_folder(
    dialer: Dialing,
    target: Target,
    stdout: TextIO,
    stderr: TextIO,
    *,
    long: bool,
    as_json: bool,
) -> int:
    """
    Ask for the names in a folder, with *long* for the status of each as well, and
    print them in name order. Something else than a folder is listed as itself.

    Returns:
        `Status.REFUSED` if the status of a listed name was refused.
    """
    names, described = await ask(
        dialer, target.server, lambda session: _look(session, target.path, long)
    )
    if as_json:
        facts = [_entry_facts(name, described.get(name)) for name in names]
        write_json(facts, stdout)
    elif long:
        _print_long(names, described, stdout)
    else:
        for name in names:
            stdout.write(safe(to_text(name)) + "\n")
    failed = [(n, d) for n, d in described.items() if isinstance(d, Exception)]
    for _, error in failed:
        stderr.write(f"error: {safe(str(error))}\n")
    return Status.REFUSED if failed else Status.DONE


_Described = dict[bytes, "StatReply | Refused | LocalProtocolError"]


async def _look(
    session: Connection, path: bytes, long: bool
) -> tuple[list[bytes], _Described]:
    # Together: a server that refuses a listing may end the connection then.
    asked = session.stat(path)
    listing = session.opendir(path)
    # Whatever becomes of it is told below, or not at all if the status fails.
    listing.addErrback(lambda failure: failure.value)
    status = await asked
    found: Any = await listing
    if isinstance(found, Refused) and status.kind != DIRECTORY:
        return [path], {path: status} if long else {}
    if isinstance(found, BaseException):
        raise found
    names = sorted(found)
    if not long:
        return names, {}
    prefix = path if path.endswith(b"/") else path + b"/"
    described: _Described = {}
    waiting: list[Deferred[Any]] = []
    for name in names:
        deferred: Deferred[Any] = session.stat(prefix + name)
        # The other requests go on whatever becomes of one.
        waiting.append(deferred.addErrback(lambda failure: failure.value))
    for name, deferred in zip(names, waiting, strict=True):
        described[name] = await _one_status(deferred)
    return names, described


async def _one_status(
    deferred: Deferred[Any],
) -> StatReply | Refused | LocalProtocolError:
    result: Any = await deferred
    if isinstance(result, BaseException) and not isinstance(
        result, (Refused, LocalProtocolError)
    ):
        raise result
    return result  # type: ignore[no-any-return]


def _entry_facts(name: bytes, described: object) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": to_text(name)}
    if isinstance(described, Exception):
        facts["error"] = str(described)
    elif described is not None:
        facts.update(status_facts(described))  # type: ignore[arg-type]
    return facts


def _print_long(names: list[bytes], described: _Described, stdout: TextIO) -> None:
    rows = []
    for name in names:
        status = described[name]
        if isinstance(status, Exception):
            rows.append(("?" * 10, "?", "?", "?", "?", to_text(name)))
            continue
        shown = to_text(name)
        if status.target:
            shown += f" -> {to_text(status.target)}"
        mode = kind_of(status)[1] + letters(mode_of(status))
        numbers = (str(status.uid), str(status.gid), str(status.size))
        rows.append((mode, *numbers, when(status.mtime), shown))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(5)]
    for mode, uid, gid, size, time, shown in rows:
        stdout.write(
            f"{mode} {uid:>{widths[1]}} {gid:>{widths[2]}} {size:>{widths[3]}} "
            f"{time:<{widths[4]}} {safe(shown)}\n"
        )
