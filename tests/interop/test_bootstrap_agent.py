# SPDX-License-Identifier: MIT
"""
`nodecomm bootstrap`: a node of the real server and of ours, and a policy server that
real nodes bootstrap from.
"""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodecomm.identity.keys import PublicKey
from nodecomm.service.processes import command_line, find_listener
from tests.interop.conftest import Shares
from tests.interop.harness import Server, WorkFolder, wait_until
from tests.interop.syncing import FRESH, SyncAgent, SyncRun, ended
from tests.interop.test_bootstrap import copied, plain
from tests.ports import free_port

#: An address of this machine, which a node does not take for itself.
HUB = "127.0.0.2"


class Machine(SyncAgent):
    """
    A machine with a state folder of its own, in which its configuration is too, and
    whose daemons end with the test.
    """

    def __init__(self, folder: Path) -> None:
        # It makes its key itself.
        self.state = folder / "state"

    def bootstrap(self, port: int, *words: str, host: str = HUB) -> SyncRun:
        """
        Bootstrap from *host*.
        """
        return self.run("bootstrap", f"{host}:{port}", *words)

    def node(self, port: int, *words: str) -> SyncRun:
        """
        Bootstrap as a node, although the server's address is this machine's.
        """
        return self.bootstrap(port, "--role", "node", *words, host="127.0.0.1")

    def program_words(self, *words: str) -> list[str]:
        """
        The command line of one of our commands with this machine's state.
        """
        program = Path(sys.executable).with_name("nodecomm")
        return [str(program), *words, "--state-dir", str(self.state)]

    def at_terminal(self, terminal: int, *words: str) -> subprocess.Popen[bytes]:
        """
        Begin a command in a session of its own whose terminal is *terminal*; its
        standard input is empty.
        """
        command = self.program_words(*words)
        script = 'tty=$1; shift; exec 3<>"$tty"; exec "$@" 3>&-'
        return subprocess.Popen(
            ["sh", "-c", script, "sh", os.ttyname(terminal), *command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # The first terminal that a new session opens becomes its own.
            start_new_session=True,
        )

    def pid(self, program: str) -> int | None:
        """
        The daemon of that name, if it runs.
        """
        file = self.state / f"{program}.pid"
        if not file.exists():
            return None
        pid = int(file.read_text())
        return pid if program in (command_line(pid) or ()) else None

    def stop(self, program: str) -> None:
        """
        End the daemon of that name.
        """
        pid = self.pid(program)
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: self.pid(program) is None, f"the end of {program}", 30)

    def log(self, program: str) -> str:
        """
        What the daemon of that name has logged.
        """
        return (self.state / f"{program}.log").read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """
    A new machine.
    """
    machine = Machine(tmp_path / "machine")
    yield machine
    machine.stop("nodecomm-agent")
    machine.stop("nodecomm-server")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Machine]:
    """
    Another one.
    """
    machine = Machine(tmp_path / "other")
    yield machine
    machine.stop("nodecomm-agent")


def key_of(server: Server) -> PublicKey:
    """
    The key of a server.
    """
    return PublicKey.from_pem((server.ppkeys / "localhost.pub").read_bytes())


class TestNode:
    """
    A node of either server.
    """

    def test_bootstrap(self, server: Server, shares: Shares, machine: Machine) -> None:
        """
        A node has the policy and the modules of the server, and an agent that is
        configured to keep them; a second bootstrap changes nothing.
        """
        facts = machine.node(
            server.port, "--server-key", key_of(server).sha, "--json"
        ).facts

        assert facts["role"] == "node"
        assert facts["key"]["md5"] == key_of(server).md5
        inputs, modules = machine.state / "inputs", machine.state / "modules"
        assert copied(inputs, shares.masterfiles) == plain(shares.masterfiles)
        assert copied(modules, shares.modules) == plain(shares.modules)
        assert (modules / "module").stat().st_mode & 0o777 == 0o755
        checked = machine.run(
            "config", "check", "-c", str(machine.state / "agent.toml")
        )
        assert checked.status == 0, checked

        again = machine.node(server.port, "--json").facts
        assert again["files"] == []
        assert [copy["changed"] for copy in again["copies"]] == [False, False]

    def test_an_unknown_key(self, server: Server, machine: Machine) -> None:
        """
        Without terminal and flag nothing is fetched; neither with another key's
        digest.
        """
        for words in ([], ["--server-key", "MD5=" + "0" * 32]):
            done = machine.node(server.port, *words)
            assert done.status == 4, done
            assert key_of(server).md5 in done.errors
        assert not (machine.state / "inputs").exists()

    @pytest.mark.parametrize(
        ("answer", "status"), [("yes", 0), ("digest", 0), ("no", 4), ("Ctrl-C", 130)]
    )
    def test_asked_at_the_terminal(
        self, server: Server, machine: Machine, answer: str, status: int
    ) -> None:
        """
        A person at the terminal is shown the key and accepts it, by `yes` or with its
        digest, or does not, or ends it all.
        """
        typed = {"digest": key_of(server).md5, "Ctrl-C": "\x03"}.get(answer, answer)
        main, terminal = pty.openpty()
        try:
            where = f"127.0.0.1:{server.port}"
            process = machine.at_terminal(
                terminal, "bootstrap", where, "--role", "node"
            )
            shown = b""
            while b"[digest])? " not in shown:
                shown += os.read(main, 1000)
            os.write(main, f"{typed}\n".encode())
            done = ended(process)
        finally:
            os.close(main)
            os.close(terminal)

        assert key_of(server).md5.encode() in shown
        assert key_of(server).sha.encode() in shown
        assert done.status == status, done
        assert (machine.state / "inputs").exists() is (status == 0)

    def test_nobody_listens(self, machine: Machine) -> None:
        """
        A server that is not there is told as unreachable; the key is made already.
        """
        done = machine.node(free_port(), "--trust-server")

        assert done.status == 3, done
        assert (machine.state / "ppkeys" / "localhost.priv").exists()

    def test_killed(self, server: Server, shares: Shares, machine: Machine) -> None:
        """
        Killed at any moment, the next run succeeds.
        """
        command = machine.program_words("bootstrap", f"127.0.0.1:{server.port}")
        command += ["--role", "node", "--trust-server"]
        for _ in range(6):
            process = machine.start(*command)
            # Somewhere in the time that it takes.
            time.sleep(random.uniform(0.0, 0.7))
            process.kill()
            process.communicate()
        done = machine.node(server.port, "--trust-server")

        assert done.status == 0, done
        inputs = machine.state / "inputs"
        assert copied(inputs, shares.masterfiles) == plain(shares.masterfiles)


class TestPolicyServer:
    """
    The machine with the address.
    """

    def test_real_nodes_bootstrap_from_it(
        self, machine: Machine, node: WorkFolder
    ) -> None:
        """
        One command makes a policy server from which `cf-agent --bootstrap` succeeds.
        """
        port = free_port()
        facts = machine.bootstrap(port, "--json").facts
        assert facts["role"] == "server"
        assert [window["network"] for window in facts["trust_windows"]] == [
            "127.0.0.0/16"
        ]

        done = node.bootstrap(HUB, port)

        assert done.status == 0, done.output[-5000:]
        assert "completed successfully" in done.output
        # Not what the policy reports: the cf-execd that a bootstrap starts may have
        # run it a moment before, and it is run once a minute.
        masterfiles = machine.state / "masterfiles"
        for folder in (node.path / "inputs", machine.state / "inputs"):
            assert copied(folder, masterfiles) == plain(masterfiles)

    def test_again(self, machine: Machine) -> None:
        """
        Run again, the server goes on as the same process, and reads its configuration
        again.
        """
        port = free_port()
        first = machine.bootstrap(port, "--json").facts["started"]["nodecomm-server"]
        again = machine.bootstrap(port, "--json").facts

        assert first["how"] == "started"
        assert again["started"]["nodecomm-server"]["how"] == "reloaded"
        assert again["started"]["nodecomm-server"]["pid"] == first["pid"]
        assert again["files"] == []
        wait_until(
            lambda: "config.loaded" in machine.log("nodecomm-server"), "a reload", 30
        )

    def test_the_window_is_closed_and_opened(
        self, machine: Machine, other: Machine
    ) -> None:
        """
        With the window closed a new node is refused, and told so; opened again, it is
        let in.
        """
        port = free_port()
        assert machine.bootstrap(port, "--trust-for", "0").status == 0
        refused = other.node(port, "--trust-server")
        assert refused.status == 5, refused
        own = PublicKey.from_pem(
            (other.state / "ppkeys" / "localhost.pub").read_bytes()
        )
        assert own.md5 in refused.errors

        assert machine.bootstrap(port, "--trust-for", "1h").status == 0
        wait_until(
            lambda: other.node(port, "--trust-server").status == 0, "an open window"
        )

    def test_the_agents_run(self, machine: Machine, other: Machine) -> None:
        """
        With --start the agents of the server itself and of a node run, as daemons
        where there is no systemd, and keep the policy up to date; --start again finds
        the same process.
        """
        port = free_port()
        # What the server says about a whole tree may be as old as this.
        part = machine.state / "server.d" / "10-fresh.toml"
        part.parent.mkdir(parents=True)
        part.write_text(f"[server]\n{FRESH}\n")
        assert machine.bootstrap(port, "--start").status == 0
        started = other.node(port, "--trust-server", "--start", "--json").facts
        pid = started["started"]["nodecomm-agent"]["pid"]
        assert other.pid("nodecomm-agent") == pid
        assert machine.pid("nodecomm-agent") is not None

        (machine.state / "masterfiles" / "new.cf").write_text("# new\n")
        wait_until(
            lambda: "agent.started" in other.log("nodecomm-agent"), "the agent", 60
        )

        def updated() -> bool:
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.5)
            return (other.state / "inputs" / "new.cf").exists()

        wait_until(updated, "an update", 60)
        again = other.node(port, "--start", "--json").facts
        assert again["started"]["nodecomm-agent"]["pid"] == pid

    def test_the_port_is_taken(self, server: Server, machine: Machine) -> None:
        """
        Where another server has the port nothing is set up; the error says which and
        what to do.
        """
        done = machine.bootstrap(server.port)

        listener = find_listener(server.port)
        assert listener is not None
        assert done.status == 1, done
        assert f"process {listener.pid} " in done.errors
        assert not (machine.state / "server.toml").exists()

    def test_killed(self, machine: Machine) -> None:
        """
        Killed at any moment, the next run succeeds, with one server.
        """
        port = free_port()
        command = machine.program_words("bootstrap", f"{HUB}:{port}")
        for _ in range(5):
            process = machine.start(*command)
            time.sleep(random.uniform(0.0, 1.4))
            process.kill()
            process.communicate()
        done = machine.bootstrap(port, "--json")

        assert done.facts["role"] == "server"
        listener = find_listener(port)
        assert listener is not None
        assert listener.pid is not None
        assert str(machine.state / "server.toml") in listener.words
        # One that was still starting when the next was started has the port without
        # a PID file, and is found all the same.
        again = machine.bootstrap(port, "--json").facts["started"]
        assert again["nodecomm-server"]["pid"] == listener.pid
        os.kill(listener.pid, signal.SIGTERM)
        wait_until(lambda: find_listener(port) is None, "the end of the server", 30)


def test_an_odd_folder(tmp_path: Path) -> None:
    """
    A state folder with blanks, quotes and bytes that are no text works all the way to
    the running server and agent.
    """
    folder = tmp_path / os.fsdecode(b'a "b" $HOME %h \\ \xc3\xa4')
    folder.mkdir()
    machine = Machine(folder)
    try:
        done = machine.bootstrap(free_port(), "--start")
        assert done.status == 0, done
        assert machine.pid("nodecomm-server") is not None
        assert machine.pid("nodecomm-agent") is not None
    finally:
        machine.stop("nodecomm-agent")
        machine.stop("nodecomm-server")
