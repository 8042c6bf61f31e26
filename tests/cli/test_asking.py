# SPDX-License-Identifier: MIT
"""
The question whether a server's key is the right one.
"""

from __future__ import annotations

import io
import itertools
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from twisted.internet.task import Clock

from nodecomm.cli.asking import Terminal, TerminalQuestion, ask_about_key, judge
from nodecomm.client.acquaintance import AskingDialer
from nodecomm.client.address import ServerAddress
from nodecomm.client.errors import UntrustedServer
from nodecomm.identity.servers import ServerKeyStore
from tests.identity.sample import key

HUB = ServerAddress("hub.example.com")
KEY, OTHER = key(1), key(2)


def ask(answers: str) -> tuple[bool | None, str]:
    """
    What comes of it when a person types *answers*, and what was shown to him.
    """
    screen = io.StringIO()

    @contextmanager
    def terminal() -> Iterator[Terminal | None]:
        yield io.StringIO(answers), screen

    return ask_about_key(HUB, ["192.0.2.1"], KEY, terminal), screen.getvalue()


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("yes", True),
        ("YES", True),
        ("no", False),
        (KEY.md5, True),
        (KEY.sha, True),
        (KEY.md5.lower(), True),
        (KEY.sha.removeprefix("SHA="), True),
        (OTHER.md5, "That is the digest of another key.\n"),
        (OTHER.sha.removeprefix("SHA="), "That is the digest of another key.\n"),
        ("", ""),
        ("y", ""),
        ("n", ""),
        ("yes please", ""),
        (KEY.md5[:-1], ""),
    ],
    # Keys are made anew for each process; names of tests must be the same in all.
    ids=itertools.count(),
)
def test_answers(answer: str, verdict: bool | str) -> None:
    """
    Only `yes` in full or the digest of this very key is a yes; what is neither yes nor
    no is asked again.
    """
    assert judge(answer, KEY) == verdict


def test_the_question() -> None:
    """
    It shows the server, its address and both digests of its key, and how to compare.
    """
    accepted, shown = ask("yes\n")

    assert accepted is True
    for told in (str(HUB), "192.0.2.1", KEY.md5, KEY.sha, "cf-key -p", "yes/no"):
        assert told in shown


def test_asked_again() -> None:
    """
    An answer that is none is asked for again; the end of the input is a no.
    """
    accepted, shown = ask(f"what\n{OTHER.md5}\n")

    assert accepted is False
    assert shown.count("Please type") == 2
    assert "digest of another key" in shown


def test_nobody_there() -> None:
    """
    Without a terminal there is no answer.
    """

    @contextmanager
    def terminal() -> Iterator[Terminal | None]:
        yield None

    assert ask_about_key(HUB, [], KEY, terminal) is None


#: Asks at the terminal of its own process, and prints what came of it.
SCRIPT = """
import sys
from nodecomm.cli.asking import ask_about_key, open_terminal
from nodecomm.cli.connecting import Interrupted
from nodecomm.client.address import ServerAddress
from nodecomm.identity.keys import PublicKey
key = PublicKey((1 << 2047) | 1, 65537)
terminal = lambda: open_terminal(sys.stderr)
try:
    print(ask_about_key(ServerAddress("hub"), [], key, terminal))
except Interrupted as stopped:
    print("interrupted", stopped.number)
"""


def run_with_terminal(
    typed: bytes, number: int | None = None, *, before: bytes = b""
) -> str:
    """
    Run the script with a terminal of its own and standard input from nowhere, type,
    send the signal *number*, and return what it printed. *before* is typed before the
    script has begun.
    """
    main, terminal = pty.openpty()
    os.write(main, before)
    # The new session's first terminal becomes its own.
    script = "import os, sys; os.close(os.open(sys.argv[1], os.O_RDWR))\n" + SCRIPT
    try:
        with subprocess.Popen(
            [sys.executable, "-c", script, os.ttyname(terminal)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            shown = b""
            while b"[digest])? " not in shown:
                shown += os.read(main, 1000)
            os.write(main, typed)
            if number is not None:
                process.send_signal(number)
            out, err = process.communicate(timeout=60)
    finally:
        os.close(main)
        os.close(terminal)
    assert err == b""
    return out.decode().strip()


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        (b"yes\n", "True"),
        (b"no\n", "False"),
        (b"\x04", "False"),
        (b"\x03", f"interrupted {int(signal.SIGINT)}"),
    ],
    ids=["yes", "no", "end", "Ctrl-C"],
)
@pytest.mark.programs
def test_the_terminal_is_asked(typed: bytes, printed: str) -> None:
    """
    The question goes to the terminal though standard input and output lead elsewhere,
    as in a pipeline; Ctrl-C there ends it.
    """
    assert run_with_terminal(typed) == printed


@pytest.mark.programs
def test_typed_ahead() -> None:
    """
    What is typed before the question is there to be read does not answer it.
    """
    assert run_with_terminal(b"no\n", before=b"yes\nyes\n") == "False"


@pytest.mark.programs
def test_terminated() -> None:
    """
    SIGTERM ends the question at once, as Ctrl-C does.
    """
    printed = f"interrupted {int(signal.SIGTERM)}"

    assert run_with_terminal(b"", signal.SIGTERM) == printed


@pytest.mark.programs
def test_no_terminal() -> None:
    """
    A process without a terminal, whose input is a file or a pipe, asks nobody: what is
    in the pipe is no answer.
    """
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=b"yes\n",
        capture_output=True,
        start_new_session=True,
        check=True,
    )

    assert done.stdout == b"None\n"


class Threads(Clock):
    """
    A reactor whose threads begin nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def getThreadPool(self) -> Threads:
        """It has one."""
        return self

    def callInThreadWithCallback(
        self, done: object, ask: object, server: ServerAddress, *more: object
    ) -> None:
        """Kept."""
        self.asked.append(str(server))


class Strangers:
    """
    Servers whose keys are not known.
    """

    async def connect(self, server: ServerAddress) -> NoReturn:
        """They show one."""
        raise UntrustedServer("key-unknown", "unknown", server, KEY)


def test_no_question_when_all_is_ended(tmp_path: Path) -> None:
    """
    Where all is ended during a question the next one is not asked, in whatever order
    the calls are ended.
    """
    for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0)):
        reactor: Any = Threads()
        question = TerminalQuestion(reactor, io.StringIO())
        dialer: Any = AskingDialer(Strangers(), ServerKeyStore(tmp_path), question)
        calls = [dialer.connect(ServerAddress(f"web{number}")) for number in range(3)]
        ended: list[Any] = []
        reactor.advance(0)
        assert reactor.asked == ["web0:5308"]

        for number in order:
            calls[number].addErrback(ended.append).cancel()
        reactor.advance(0)

        assert reactor.asked == ["web0:5308"]
        assert len(ended) == 3
