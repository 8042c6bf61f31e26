# SPDX-License-Identifier: MIT
"""
What `nodecomm stat`, `ls` and `get` have in common: the thing on a server that they are
about, and how its status is shown.
"""

from __future__ import annotations

import stat as modes
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from nodecomm.cli.connecting import (
    AskingOptions,
    run_command,
    target_argument,
)
from nodecomm.cli.dialing import make_asking_dialer
from nodecomm.client.errors import ConnectionBroken
from nodecomm.wire.replies import (
    BLOCK_DEVICE,
    CHARACTER_DEVICE,
    DIRECTORY,
    FIFO,
    LINK,
    REGULAR,
    SOCKET,
)
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.connection import Connection
    from nodecomm.sync.syncing import Dialing
    from nodecomm.wire.replies import StatReply

__all__ = [
    "TargetOptions",
    "ask",
    "is_link",
    "kind_of",
    "leads_to",
    "letters",
    "mode_of",
    "run_asking",
    "status_facts",
    "when",
]

T = TypeVar("T")

#: What the kinds of objects are called, and the letter that `ls -l` begins with.
_KINDS = {
    REGULAR: ("file", "-"),
    LINK: ("link", "l"),
    DIRECTORY: ("folder", "d"),
    FIFO: ("fifo", "p"),
    BLOCK_DEVICE: ("block device", "b"),
    CHARACTER_DEVICE: ("character device", "c"),
    SOCKET: ("socket", "s"),
}


class TargetOptions(AskingOptions):
    """
    A command about one thing on a server.
    """

    takes = "[options] HOST[:PORT]:PATH"
    subjects: Sequence[tuple[str, str]] = (("target", "HOST[:PORT]:PATH"),)

    def postOptions(self) -> None:
        """
        Read what it is about.
        """
        super().postOptions()
        self["target"] = target_argument(self["target"])


def run_asking(
    options: TargetOptions,
    stdout: TextIO,
    stderr: TextIO,
    work: Callable[[Dialing], Awaitable[int]],
) -> int:
    """
    Run a command that asks a server as the options say; its exit status.
    """

    async def begin(reactor: Any) -> int:
        return await work(make_asking_dialer(reactor, options, options.state_dir))

    named = options.named_state_dir
    options.warn(options["target"].server, stderr)
    return run_command(begin, stdout, stderr, as_json=options.as_json, state_dir=named)


async def ask(
    dialer: Dialing,
    server: ServerAddress,
    question: Callable[[Connection], Awaitable[T]],
) -> T:
    """
    Connect, ask, and see the connection end: the server may allow one at a time, and
    the next command is to find it free. A server that turns out not to be what it was
    last time is asked once more.
    """
    known = True
    while True:
        session = await dialer.connect(server)
        try:
            return await question(session)
        except ConnectionBroken as error:
            if error.code != "early-data" or not known:
                raise
            known = False
        finally:
            await session.close()


def status_facts(status: StatReply) -> dict[str, Any]:
    """
    A status for programs.
    """
    return {
        "type": kind_of(status)[0],
        "mode": f"{mode_of(status):04o}",
        "uid": status.uid,
        "gid": status.gid,
        "size": status.size,
        "mtime": status.mtime,
        "ctime": status.ctime,
        "atime": status.atime,
        "ino": status.ino,
        "dev": status.dev,
        "nlink": status.nlink,
        "target": to_text(status.target) if status.target else None,
        "target_type": (
            leads_to(status)[0] if is_link(status) and status.kind != LINK else None
        ),
    }


def when(seconds: int) -> str:
    """
    A time of the server's, as a person reads it; just the number if it is no time.
    """
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return str(seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def kind_of(status: StatReply) -> tuple[str, str]:
    """
    What the kind of an object is called, and the letter that `ls -l` begins with. A
    link is one, whatever it leads to.
    """
    return _KINDS[LINK] if is_link(status) else leads_to(status)


def is_link(status: StatReply) -> bool:
    """
    Whether it is a link that the server reports as one.
    """
    return status.kind == LINK or bool(status.link_mode and status.target)


def leads_to(status: StatReply) -> tuple[str, str]:
    """
    The same for what a link leads to; `link` if that is nothing.
    """
    return _KINDS.get(status.kind, (f"unknown ({status.kind})", "?"))


def mode_of(status: StatReply) -> int:
    """
    Permission bits of the object itself.
    """
    return status.link_mode if is_link(status) else status.mode


def letters(mode: int) -> str:
    """
    Permission bits as `ls -l` shows them.
    """
    return modes.filemode(modes.S_IFREG | mode)[1:]
