# SPDX-License-Identifier: MIT
"""
`nodecomm run` as a program, against a node on this host; and `-i`, with a terminal.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodecomm.identity.own import create_own_key, load_own_key
from nodecomm.identity.servers import ServerKeyStore
from tests.forking import Forked
from tests.identity.sample import key, pair
from tests.interop.harness import NodecommServer, config_for
from tests.ports import free_port

#: What it does is said by the class that is defined; waits for a file with its name
#: and `.go` behind.
COMMAND = """#!/bin/sh
echo "hello $*"
case $2 in
fail) exit 3;;
colour) printf '\\033[2Jred\\n';;
flood) while :; do echo "more, more, more, more, more, more, more"; done;;
wait) while [ ! -e "$0.go" ]; do sleep 0.05; done;;
esac
"""

ASKED = b"[digest])? "


class Node:
    """
    A node that runs something, and a policy server's state with a key that it trusts.
    """

    def __init__(self, server: NodecommServer, state: Path) -> None:
        self.name = f"127.0.0.1:{server.port}"
        self.key = load_own_key(server.ppkeys).public
        self.state = state
        self.store = ServerKeyStore(state / "server-keys")

    def start(self, *words: str, **streams: int) -> Forked:
        """
        `nodecomm WORDS`, started as root, whom the node trusts.
        """
        return Forked(
            ["nodecomm", *words, "--user", "root"],
            stdin=streams.get("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=streams.get("stderr", subprocess.PIPE),
            env={**os.environ, "NODECOMM_STATE_DIR": str(self.state)},
            start_new_session=True,
        )

    def run(self, *words: str) -> tuple[int, list[str], str]:
        """
        The same to its end: its status, the lines it printed, and its errors.
        """
        process = self.start("run", *words)
        out, err = process.communicate(timeout=60)
        return process.returncode, out.decode().splitlines(), err.decode()

    @contextmanager
    def asking(self, *words: str) -> Iterator[tuple[Forked, int]]:
        """
        `nodecomm WORDS` at a terminal, when it has asked something; the process, and
        where to type.
        """
        main, terminal = pty.openpty()
        try:
            with self.start(*words, stdin=terminal, stderr=terminal) as process:
                os.close(terminal)
                terminal = -1
                shown = b""
                while ASKED not in shown:
                    shown += os.read(main, 1000)
                for told in (self.name, self.key.md5, self.key.sha):
                    assert told.encode() in shown
                yield process, main
        finally:
            for descriptor in (main, terminal):
                if descriptor >= 0:
                    os.close(descriptor)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodecommServer]:
    """
    A node.
    """
    folder = tmp_path_factory.mktemp("node")
    command = folder / "command"
    command.write_text(COMMAND)
    command.chmod(0o755)
    config = config_for({}, server=f'cfruncommand = ["{command}"]\n') + (
        f'[[access]]\npath = "{command}"\nadmit_ips = ["127.0.0.1"]\n'
        '[[roles]]\npattern = ".*"\nauthorize = ["root"]\n[run]\nagain = "wait"\n'
    )
    with NodecommServer(folder, config) as running:
        yield running


@pytest.fixture
def node(server: NodecommServer, tmp_path: Path) -> Node:
    """
    The node, with nobody's key stored here.
    """
    create_own_key(tmp_path / "ppkeys", pair(7))
    return Node(server, tmp_path)


@pytest.mark.programs
class TestRun:
    """
    Runs.
    """

    def test_output_and_table(self, node: Node) -> None:
        """
        What a node prints comes with its name and nothing that a terminal acts on; in
        the end there is a table, and the status tells of all nodes.
        """
        node.store.add(node.name, node.key)
        dead = f"127.0.0.1:{free_port()}"
        status, lines, err = node.run(node.name, node.name, "-D", "colour")
        assert (status, err) == (
            0,
            f"warning: {node.name} is named twice, and asked once\n",
        )
        assert lines[:3] == [
            f"{node.name}: hello -D colour",
            f"{node.name}: \\x1b[2Jred",
            f"{'HOST':<{len(node.name)}}  EXIT   SECONDS",
        ]
        assert lines[-1] == "1 node: 1 done, 0 failed, 0 without an exit code"

        status, lines, err = node.run("--json", dead, node.name, "-D", "fail")
        assert (status, err) == (1, "")
        events = [json.loads(line) for line in lines]
        ends = {each["host"]: each for each in events if each["event"] == "end"}
        assert ends[node.name]["exit_code"] == 3
        assert ends[dead]["error"]["code"] == "connection-refused"
        assert events[-1]["event"] == "summary"

    def test_not_known(self, node: Node) -> None:
        """
        A node whose key is not known is refused and told how to trust it, with -i too
        when there is no terminal; so is one whose key has changed, whatever is said.
        """
        for words in ((), ("-i",)):
            status, lines, _ = node.run(node.name, *words)
            assert status == 4
            for told in ("key-unknown", "--server-key", "server-key accept"):
                assert told in lines[1]
        assert ("no terminal" in lines[1]) is True

        node.store.add(node.name, key(1))
        for words in (("-i",), ("--trust-server",)):
            status, lines, _ = node.run(node.name, *words)
            assert (status, "HAS CHANGED" in lines[1]) == (4, True)

    def test_interrupted(self, node: Node) -> None:
        """
        Ctrl-C ends the run, and the table tells which nodes had not finished.
        """
        node.store.add(node.name, node.key)
        with node.start("run", node.name, "-D", "wait") as process:
            assert process.stdout is not None
            assert b"hello" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err == b"error: interrupted\n"
        assert f"{node.name}     -".encode() in out
        assert b"interrupted: it was not finished" in out

    def test_nobody_reads(self, node: Node) -> None:
        """
        When the output is closed, all is ended, and told in one line.
        """
        node.store.add(node.name, node.key)
        with node.start("run", node.name, "-D", "flood") as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr is not None
            err = process.stderr.read()
        assert process.returncode == 1
        assert err == b"error: the output was closed before all of it was written\n"

    def test_too_much_output(self, node: Node) -> None:
        """
        Output without an end is cut, and told.
        """
        node.store.add(node.name, node.key)
        status, lines, _ = node.run(node.name, "-D", "flood", "--output-limit", "10000")
        assert status == 1
        assert "output-limit: it printed more than 10000 bytes" in lines[-2]


@pytest.mark.programs
class TestInteractive:
    """
    `-i` at a terminal.
    """

    def test_yes(self, node: Node) -> None:
        """
        A yes has the key stored and the run begun; whatever else is typed is asked for
        again. Other nodes run meanwhile.
        """
        other = f"localhost:{node.name.rpartition(':')[2]}"
        node.store.add(other, node.key)
        with node.asking("run", "-i", node.name, other) as (process, terminal):
            os.write(terminal, b"perhaps\nyes\n")
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        lines = out.decode().splitlines()
        assert {f"{node.name}: hello ", f"{other}: hello "} <= set(lines)
        assert node.store.keys(node.name) == (node.key,)

    @pytest.mark.parametrize("command", ["run", "stat"])
    def test_no(self, node: Node, command: str) -> None:
        """
        A no is a refusal, and nothing is stored; every command that asks a server can
        ask about it.
        """
        what = node.name if command == "run" else f"{node.name}:/etc"
        with node.asking(command, "-i", what) as (process, terminal):
            os.write(terminal, b"no\n")
            process.communicate(timeout=60)
        assert process.returncode == 4
        assert node.store.keys(node.name) == ()

    def test_interrupted(self, node: Node) -> None:
        """
        Ctrl-C while something is asked ends everything at once.
        """
        with node.asking("run", "-i", node.name) as (process, _):
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert b"interrupted: it was not finished" in out
