# SPDX-License-Identifier: MIT
"""
A question to the person at the terminal, wherever standard input and output lead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from nodecomm.cli.connecting import Interrupted
from nodecomm.identity.keys import PublicKey, parse_digest_or_none
from nodecomm.identity.servers import few
from nodecomm.wire.text import safe

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from nodecomm.client.address import ServerAddress

__all__ = [
    "OpenTerminal",
    "Terminal",
    "TerminalQuestion",
    "ask_about_key",
    "ask_whether",
    "open_terminal",
]

#: Where to read an answer, and where to write the question.
Terminal = tuple[TextIO, TextIO]

#: Opens the terminal; None where there is nobody to ask.
OpenTerminal = Callable[[], AbstractContextManager["Terminal | None"]]


@contextlib.contextmanager
def open_terminal(stderr: TextIO) -> Iterator[Terminal | None]:
    """
    The terminal of this process: /dev/tty, else standard input if that is one; None
    where there is nobody to ask.
    """
    try:
        # Unbuffered below: a terminal cannot be opened for both otherwise.
        descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        is_terminal = sys.stdin is not None and sys.stdin.isatty()
        yield (sys.stdin, stderr) if is_terminal else None
        return
    with (
        open(descriptor, encoding="utf-8", errors="replace", closefd=False) as reader,
        open(descriptor, "w", encoding="utf-8", closefd=False) as writer,
    ):
        try:
            yield reader, writer
        finally:
            writer.flush()
            os.close(descriptor)


def ask_about_key(
    server: ServerAddress,
    addresses: Sequence[str],
    key: PublicKey,
    terminal: OpenTerminal,
    others: Sequence[str] = (),
) -> bool | None:
    """
    Ask whether *key* is that of a server that is not known yet, as `ask_whether`.

    Args:
        server: Which.
        addresses: Where it is.
        key: What it shows.
        terminal: Opens it.
        others: The servers that are known by this key.

    Raises:
        Interrupted: By Ctrl-C, or by SIGTERM.
    """
    at = ", ".join(each for each in addresses if each != server.host)
    introduction = (
        f"\nThe server {safe(str(server))}{f' ({safe(at)})' if at else ''} is not known"
        f" yet. Its key is\n  {key.md5}\n  {key.sha}\n"
    )
    if others:
        introduction += f"That is the key of {safe(few(others))}, too.\n"
    return ask_whether(introduction, key, terminal)


def ask_whether(
    introduction: str, key: PublicKey, terminal: OpenTerminal
) -> bool | None:
    """
    Ask whether *key* is the server's, as ssh does: `yes`, `no`, or the digest itself,
    which is compared. None where nobody can be asked. What was typed before the
    question is dropped.

    Args:
        introduction: Lines to print before, with the key, safe for a terminal.
        key: What the server shows.
        terminal: Opens it.

    Raises:
        Interrupted: By Ctrl-C, or by SIGTERM.
    """
    with _interruptible(), terminal() as opened:
        if opened is None:
            return None
        reader, writer = opened
        writer.write(
            f"{introduction}Compare with what `nodecomm key show` or `cf-key -p` prints"
            " on the server itself.\n"
        )
        _drop_typed_ahead(reader)
        question = "Is that the server's key (yes/no/[digest])? "
        while True:
            writer.write(question)
            writer.flush()
            answer = reader.readline()
            if not answer:
                writer.write("\n")
                return False
            verdict = judge(answer.strip(), key)
            if isinstance(verdict, bool):
                return verdict
            writer.write(verdict)
            question = "Please type 'yes', 'no' or the digest: "


def _drop_typed_ahead(reader: TextIO) -> None:
    """
    What was typed before a question was to be seen is no answer to it.
    """
    # No terminal, as in a test, has nothing of the kind.
    with contextlib.suppress(OSError, ValueError, termios.error):
        termios.tcflush(reader.fileno(), termios.TCIFLUSH)


def judge(answer: str, key: PublicKey) -> bool | str:
    """
    What an answer says; a line to print where it says neither yes nor no.
    """
    if answer.lower() in ("yes", "no"):
        return answer.lower() == "yes"
    # Without its prefix too, as some programs print it.
    for form in (answer, f"MD5={answer}", f"SHA={answer}"):
        if parse_digest_or_none(form) is not None:
            if key.matches(form):
                return True
            return "That is the digest of another key.\n"
    return ""


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """
    Let Ctrl-C and SIGTERM end the wait for an answer, whatever else they do meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Interrupted(number)

    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class TerminalQuestion:
    """
    Asks at the terminal, in a thread.

    Args:
        reactor: Where the answer is wanted.
        stderr: Where to ask if the process has no terminal but for standard input.
        quiet: Entered in that thread before a question, and left after it: nothing
            else is written to the terminal meanwhile.
    """

    def __init__(
        self,
        reactor: Any,
        stderr: TextIO,
        quiet: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._reactor = reactor
        self._stderr = stderr
        self._terminal = partial(open_terminal, stderr)
        self._quiet = quiet

    def __call__(
        self,
        server: ServerAddress,
        address: str,
        key: PublicKey,
        others: Sequence[str],
    ) -> Deferred[bool | None]:
        """
        Whether *key* is the key of *server*, which was reached at *address*.

        He is asked when the reactor has its next turn: where everything is being ended,
        the end of one question is not the beginning of another one.
        """
        asking = self._ask_in_turn(server, address, key, others)
        return Deferred.fromCoroutine(asking)

    async def _ask_in_turn(
        self,
        server: ServerAddress,
        address: str,
        key: PublicKey,
        others: Sequence[str],
    ) -> bool | None:
        await deferLater(self._reactor, 0)
        pool = self._reactor.getThreadPool()
        answer: Deferred[bool | None] = deferToThreadPool(
            self._reactor, pool, self._ask, server, address, key, others
        )
        return await answer.addErrback(self._left)

    def _left(self, failure: Failure) -> Failure:
        """
        Nobody waits for the answer any more; what is told next begins a line.
        """
        if isinstance(failure.value, CancelledError) and self._stderr.isatty():
            self._stderr.write("\n")
        return failure

    def _ask(
        self,
        server: ServerAddress,
        address: str,
        key: PublicKey,
        others: Sequence[str],
    ) -> bool | None:
        addresses = [address] if address else []
        with self._quiet():
            return ask_about_key(server, addresses, key, self._terminal, others)
