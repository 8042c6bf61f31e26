# SPDX-License-Identifier: MIT
"""
Our client asks for runs, as a library and as `nodecomm run`: it tells the same,
whichever server is asked.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from twisted.internet import reactor as _reactor
from twisted.trial.unittest import TestCase

from nodecomm.cli.statuses import Status
from nodecomm.client.address import ServerAddress
from nodecomm.client.dialing import Dialer
from nodecomm.client.errors import Refused
from nodecomm.client.session import ClientSession
from nodecomm.identity.servers import (
    SERVER_KEYS_FOLDER,
    ServerKeyStore,
    ServerTrust,
)
from nodecomm.transport.context import client_context
from tests.forking import Forked
from tests.interop.conftest import KINDS
from tests.interop.harness import START_TIMEOUT
from tests.interop.running import ROOM, Running, running_server
from tests.interop.syncing import SyncAgent

reactor: Any = _reactor


class Asked(NamedTuple):
    """
    What is asked for, and what comes of it.

    Attributes:
        defined: Classes to define.
        bundles: Bundles to run.
        selected: Expressions; a node must have one of these classes.
        words: What the server adds to its command.
        lines: Of output.
        code: The exit code.
    """

    defined: list[bytes] = []
    bundles: list[bytes] = []
    selected: list[bytes] = []
    words: bytes = b""
    lines: list[bytes] = []
    code: int | None = 0


#: Runs that can be asked for one after the other on one connection.
RUNS = [
    Asked(lines=[b"hello", b"arguments: "]),
    Asked(
        [b"ok_a", b"ok_b"],
        [b"b_1", b"b_2"],
        words=b" -D ok_a,ok_b --bundlesequence b_1,b_2",
        lines=[
            b"hello",
            b"arguments: -D ok_a,ok_b --bundlesequence b_1,b_2",
        ],
    ),
    Asked([b"ok_code_3"], words=b" -D ok_code_3", code=3),
    Asked([b"ok_code_255"], words=b" -D ok_code_255", code=255),
    Asked([b"ok_signal_15"], words=b" -D ok_signal_15", lines=[b"before"], code=None),
    Asked([b"ok_nothing"], words=b" -D ok_nothing"),
    Asked([b"ok_blank"], words=b" -D ok_blank", lines=[b"", b"", b"a", b""]),
    Asked([b"ok_open"], words=b" -D ok_open", lines=[b"one", b"two without end"]),
    Asked([b"ok_nul"], words=b" -D ok_nul", lines=[b"a", b"c", b"d", b""]),
    Asked([b"ok_returns"], words=b" -D ok_returns", lines=[b"a\rb\r", b"c\r", b"\r"]),
    Asked([b"ok_long"], words=b" -D ok_long", lines=[b"x" * ROOM, b"after"]),
    Asked(
        [b"ok_binary"],
        words=b" -D ok_binary",
        lines=[bytes(range(1, 10)), bytes(range(11, 256)), b"after"],
    ),
    Asked(
        [b"ok_forged"],
        words=b" -D ok_forged",
        lines=[
            b"---cfXen/gine/cfXen/gine---",
            b"(exit code: 0)",
            b"> (exit code: 0)",
            b"BAD: Unspecified server refusal (see verbose server output)",
            b"EXEC denied role activation (check cf-serverd verbose output)",
        ],
        code=5,
    ),
]

#: Runs that a real server lets nothing follow.
SELECTED = [
    Asked([b"ok_nothing"], selected=[b"any"], words=b" -D ok_nothing"),
    Asked([b"ok_nothing"], selected=[b"no", b"an."], words=b" -D ok_nothing"),
    Asked([b"ok_code_4"], selected=[b"any.!no"], words=b" -D ok_code_4", code=4),
    Asked(
        [b"ok_nothing"],
        selected=[*(b"no%d" % n for n in range(30)), b"any"],
        words=b" -D ok_nothing",
    ),
]

#: What is denied, and the code of the error.
DENIED = [
    (Asked([b"ok_a", b"other_a"]), "role"),
    (Asked(bundles=[b"b_1", b"other"]), "bundle"),
    (Asked(bundles=[b"b_denied"]), "bundle"),
    (Asked([b"other_a"], selected=[b"no", b"never"]), "class-match"),
]


class LibraryTests(TestCase):
    """
    The requests of a connection.
    """

    timeout = 120

    def setUp(self) -> None:
        """
        A new folder for this test.
        """
        kept = tempfile.TemporaryDirectory(prefix="nodecomm-run-")
        self.addCleanup(kept.cleanup)
        self.folder = Path(kept.name).resolve()

    async def session(
        self, running: Running, *, user: bytes = b"root", newest: int = 3
    ) -> ClientSession:
        """
        A connection to the server.
        """
        dialer = Dialer(
            reactor,
            context=client_context(
                running.client if user == b"root" else running.other
            ),
            trust=ServerTrust(
                ServerKeyStore(self.folder / "known"), pinned=[running.key.public]
            ),
            user=user,
            newest=newest,
        )
        return await dialer.connect(ServerAddress("127.0.0.1", running.server.port))

    async def run_one(
        self, session: ClientSession, running: Running, asked: Asked
    ) -> None:
        """
        Ask for a run and see what comes of it.
        """
        lines: list[bytes] = []
        path = os.fsencode(running.command.path)
        result = await session.execute(
            defined=asked.defined,
            bundles=asked.bundles,
            selected=asked.selected,
            on_line=lines.append,
        )
        self.assertEqual(lines, asked.lines)
        self.assertEqual(result.exit_code, asked.code)
        self.assertEqual(result.announced, path + asked.words)
        self.assertEqual(result.remarks, ())
        self.assertFalse(result.cut)

    async def code(self, session: ClientSession, asked: Asked) -> str:
        """
        The code of the error with which a run is denied.
        """
        try:
            await session.execute(
                defined=asked.defined,
                bundles=asked.bundles,
                selected=asked.selected,
                on_line=self.fail,
            )
        except Refused as error:
            return error.code
        raise AssertionError("it is a run")

    async def everything(self, kind: str) -> None:
        """
        Every run, denial and refusal, with a server of this kind.
        """
        with running_server(kind, self.folder / kind) as running:
            for newest in (3, 2):
                session = await self.session(running, newest=newest)
                for asked in RUNS:
                    await self.run_one(session, running, asked)
                self.assertEqual(
                    [await self.code(session, asked) for asked, _ in DENIED],
                    [code for _, code in DENIED],
                )
                await self.run_one(session, running, RUNS[0])
                await session.close()
            for asked in SELECTED:
                session = await self.session(running)
                await self.run_one(session, running, asked)
                await session.close()
            session = await self.session(running, user=b"other")
            self.assertEqual(await self.code(session, Asked()), "refused")
            with running.command.missing():
                session = await self.session(running)
                self.assertEqual(await self.code(session, Asked()), "refused")

    async def test_cf_serverd(self) -> None:
        """
        Runs that a real server does for us: their lines, exit codes and denials, many
        on one connection.
        """
        await self.everything("cf-serverd")

    async def test_nodecomm(self) -> None:
        """
        Our server does the same.
        """
        await self.everything("nodecomm")


#: How a question about a key ends; and when an answer was none.
QUESTION = re.compile(rb"yes/no|'yes', 'no'")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """
    Two servers: a real one and ours.
    """
    folder = tmp_path_factory.mktemp("run-both")
    with (
        running_server(KINDS[0], folder / KINDS[0]) as real,
        running_server(KINDS[1], folder / KINDS[1]) as ours,
    ):
        yield [real, ours]


@pytest.fixture
def asking(both: list[Running], tmp_path: Path) -> SyncAgent:
    """
    A machine that may ask both for runs.
    """
    return SyncAgent(tmp_path, key=both[0].client)


def hosts(both: list[Running]) -> list[str]:
    """
    What is typed for the two.
    """
    return [f"127.0.0.1:{running.server.port}" for running in both]


def test_both_at_once(both: list[Running], asking: SyncAgent, tmp_path: Path) -> None:
    """
    One command runs both nodes: the same lines, escaped, and the same exit code come
    from both; a run that fails, one that a signal ends, and what is denied or refused
    is told for each, and the command's exit status says the worst.
    """
    words = ("run", "--trust-server", "--json", *hosts(both))
    cases: list[tuple[list[str], list[str], int | None, str, int]] = [
        (["-D", "ok_escapes"], [r"\x1b[31mred\x1b[0m\x07\x08 café \xff"], 0, "", 0),
        (["-D", "ok_code_3"], [], 3, "exit-code", 1),
        (["-D", "ok_signal_9"], ["before"], None, "no-exit-code", 1),
        (["-D", "other_a"], [], None, "role", 5),
        (["--remote-bundles", "other"], [], None, "bundle", 5),
        (["-D", "ok_nothing", "-s", "no,any"], [], 0, "", 0),
        (["-s", "no,never"], [], None, "not-selected", 1),
    ]
    other = SyncAgent(tmp_path / "other", key=both[0].other)
    cases.append((["--user", "other"], [], None, "refused", 5))
    for options, lines, code, error, status in cases:
        done = (other if "--user" in options else asking).run(*words, *options)
        facts = [json.loads(line) for line in done.output.splitlines()]

        assert done.status == status, done
        for host in hosts(both):
            mine = [fact for fact in facts if fact.get("host") == host]
            said = [fact["text"] for fact in mine if fact["event"] == "line"]
            assert said == lines, options
            (end,) = (fact for fact in mine if fact["event"] == "end")
            assert end["exit_code"] == code, options
            assert (end.get("error") or {"code": ""})["code"] == error, options


def test_a_terminal_is_asked_about_a_key(
    both: list[Running], asking: SyncAgent
) -> None:
    """
    With -i the key of a real server that is not known is shown, `yes` pins it, and the
    run goes on; then nothing is asked any more. Where another key is known for that
    server it is refused without a question.
    """
    real = both[0]
    host = hosts(both)[0]

    status, said = on_terminal(asking, host, b"maybe\n", b"yes\n")
    assert status == 0, said
    assert real.key.public.md5 in said
    assert "maybe" in said
    status, said = on_terminal(asking, host)
    assert status == 0, said
    assert "yes/no" not in said

    store = ServerKeyStore(asking.state / SERVER_KEYS_FOLDER)
    assert store.forget(host)
    ServerTrust(store, first_use=True).check(host, real.denied.public)
    status, said = on_terminal(asking, host, b"yes\n")
    assert status == Status.UNTRUSTED, said
    assert "yes/no" not in said
    assert real.key.public.md5 in said


def on_terminal(asking: SyncAgent, host: str, *answers: bytes) -> tuple[int, str]:
    """
    Run `nodecomm run -i` for *host* on a terminal and answer its questions; its exit
    status and all that the terminal shows.
    """
    controlling, terminal = pty.openpty()
    left = list(answers)
    said = b""
    at = 0
    command = Forked(
        [
            *(str(Path(sys.executable).with_name("nodecomm")), "run", "-i"),
            *("-D", "ok_nothing", "--state-dir", str(asking.state), host),
        ],
        env=asking.environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    try:
        while True:
            ready, _, _ = select.select([controlling], [], [], START_TIMEOUT)
            assert ready, said
            try:
                data = os.read(controlling, 65536)
            except OSError:
                break
            said += data
            if left and QUESTION.search(said, at):
                at = len(said)
                os.write(controlling, left.pop(0))
        status = command.wait(START_TIMEOUT)
    finally:
        os.close(controlling)
        command.kill()
        command.wait()
    return status, said.decode("utf-8", "backslashreplace")
