# SPDX-License-Identifier: MIT
"""
`twistd nodecomm-agent` as a process, against the real server and against ours.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nodecomm.cli import agent as agent_command
from nodecomm.identity.server_keys import SERVER_KEYS_FOLDER, ServerKeyStore
from nodecomm.testing import key_pair
from tests.interop.harness import (
    NodecommServer,
    RealServer,
    Server,
    WorkFolder,
    config_for,
    wait_until,
)
from tests.interop.trees import big_file
from tests.ports import free_port
from tests.server.execution.test_programs import group_lives
from tests.service.node import Server as Process

#: A start later than any test lasts, so that only signals make runs.
LATER = 'interval = "10m"\nsplay = "0s"'


class Agent:
    """
    An agent with a state folder and a destination of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.destination = folder / "copies" / "masterfiles"
        self.destination.parent.mkdir(parents=True)
        self.config = folder / "agent.toml"
        self.processes = ExitStack()

    def configure(
        self,
        *servers: str,
        source: str = "masterfiles",
        more: str = LATER,
        trust: bool = True,
        copies: str = "",
    ) -> None:
        """
        Write the configuration.
        """
        self.config.write_text(
            f"[agent]\npolicy_servers = {json.dumps(servers)}\n{more}\n"
            f"trust_server = {json.dumps(trust)}\n"
            f'[[copy]]\nsource = "{source}"\npurge = true\n'
            f'destination = "{self.destination}"\n{copies}'
        )

    def start(self, *options: str, prelude: str = "") -> Process:
        """
        Start it.
        """
        process = Process(
            self.folder,
            "-c",
            str(self.config),
            *options,
            plugin="nodecomm-agent",
            prelude=prelude,
        )
        return self.processes.enter_context(process)

    def status(self) -> tuple[int, str, str]:
        """
        `nodecomm agent status`: status, output, errors.
        """
        options = agent_command.Options()
        options.parseOptions(["status", "--state-dir", str(self.state)])
        out, errors = io.StringIO(), io.StringIO()
        return (
            agent_command.run(options, out, errors),
            out.getvalue(),
            errors.getvalue(),
        )

    def settled(self) -> None:
        """
        Wait until it waits, after a run.
        """

        def waits() -> bool:
            status = self.facts()["status"]
            return bool(
                status
                and status["state"] == "waiting"
                and status["last_attempt"] is not None
                and status["pid"] == int((self.folder / "pid").read_text())
            )

        wait_until(waits, "the end of the run in the status")

    def facts(self) -> dict[str, Any]:
        """
        The same, as a program reads it.
        """
        options = agent_command.Options()
        options.parseOptions(["status", "--json", "--state-dir", str(self.state)])
        out = io.StringIO()
        agent_command.run(options, out, io.StringIO())
        facts: dict[str, Any] = json.loads(out.getvalue())
        return facts

    def content(self) -> dict[str, bytes]:
        """
        The files of the copy.
        """
        return content(self.destination)


def content(folder: Path) -> dict[str, bytes]:
    """
    The files below *folder*, by relative name.
    """
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """
    An agent that is ended at the end.
    """
    made = Agent(tmp_path / "agent")
    with made.processes:
        yield made


@pytest.fixture
def policy(scratch: tuple[Path, str]) -> tuple[Path, str]:
    """
    A small policy on the server that a test may change.
    """
    folder, name = scratch
    (folder / "sub").mkdir()
    (folder / "promises.cf").write_text("bundle agent main {}\n")
    (folder / "sub" / "lib.cf").write_text("# a library\n")
    return folder, name


def address(server: Server) -> str:
    """How an agent names a server of this machine."""
    return f"127.0.0.1:{server.port}"


def script(agent: Agent, text: str) -> str:
    """
    The setting for an `after_update` that runs a shell script.
    """
    command = json.dumps(["/bin/sh", "-c", text, str(agent.folder / "ran")])
    return f"{LATER}\nafter_update = {command}"


def test_a_life(agent: Agent, server: Server, policy: tuple[Path, str]) -> None:
    """
    It copies, runs `after_update` for a change only, runs at SIGUSR1, takes a new
    configuration at SIGHUP, tells its status, and ends cleanly at SIGTERM.
    """
    folder, name = policy
    ran = agent.folder / "ran"
    agent.configure(address(server), source=name, more=script(agent, "echo x >> $0"))
    process = agent.start("-v")
    process.wait_for("agent.after-update-ended")
    assert agent.content() == content(folder)
    assert ran.read_text() == "x\n"
    agent.settled()
    status, out, errors = agent.status()
    assert (status, errors) == (0, "")
    assert f"{name} -> {agent.destination}: updated from {address(server)}" in out
    assert "added: promises.cf" in out
    assert "next run in " in out

    process.signal(signal.SIGUSR1)
    process.wait_for("agent.unchanged")
    assert ran.read_text() == "x\n"

    (folder / "promises.cf").write_text("bundle agent main { reports: 'x'; }\n")
    (folder / "sub" / "lib.cf").unlink()

    def runs_again() -> bool:
        # Our server's manifest may be older than the change.
        process.signal(signal.SIGUSR1)
        time.sleep(0.5)
        return process.out.read_text().count("agent.after-update-ended") == 2

    wait_until(runs_again, "an update")
    assert agent.content() == content(folder)
    assert ran.read_text() == "x\nx\n"

    agent.config.write_text("[agent]\n")
    process.signal(signal.SIGHUP)
    process.wait_for("config.rejected")
    more = '[[copy]]\nsource = "modules"\n'
    more += f'destination = "{agent.folder}/modules"\n'
    agent.configure(address(server), source=name, copies=more)
    process.signal(signal.SIGHUP)
    process.wait_for("config.loaded")
    process.signal(signal.SIGUSR1)
    process.wait_for(f"{agent.folder}/modules is updated to modules")
    assert (agent.folder / "modules" / "module").stat().st_mode & 0o777 == 0o755

    process.signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    assert "Traceback" not in process.out.read_text()
    assert process.err.read_text() == ""
    assert agent.facts()["status"]["state"] == "stopped"
    status, _, errors = agent.status()
    assert status == 1
    assert "no agent is running" in errors


Prepare = Callable[[Agent, Server], None]


def nobody_listens(agent: Agent, server: Server) -> None:
    """The server is down."""
    agent.configure(f"127.0.0.1:{free_port()}")


def no_such_name(agent: Agent, server: Server) -> None:
    """DNS says no, or nothing."""
    agent.configure("no-such-host.invalid")


def another_key(agent: Agent, server: Server) -> None:
    """The server's key is not the one that was pinned."""
    store = ServerKeyStore(agent.state / SERVER_KEYS_FOLDER)
    store.add(address(server), key_pair(7).public)
    agent.configure(address(server))


def pinned_otherwise(agent: Agent, server: Server) -> None:
    """The configuration names another key."""
    digest = key_pair(7).public.md5
    more = f'{LATER}\nserver_keys = ["{digest}"]'
    agent.configure(address(server), more=more, trust=False)


def unknown_key(agent: Agent, server: Server) -> None:
    """Nobody said which key is right."""
    agent.configure(address(server), trust=False)


def no_such_source(agent: Agent, server: Server) -> None:
    """The server does not give that."""
    agent.configure(address(server), source="nothing-of-this-name")


def no_parent(agent: Agent, server: Server) -> None:
    """There is no place for the copy."""
    agent.destination = agent.folder / "missing" / "copy"
    agent.configure(address(server))


@pytest.mark.parametrize(
    ("prepare", "code", "remedy"),
    [
        (nobody_listens, "connection-refused", "start the server"),
        (no_such_name, "name-", "resolver"),
        (another_key, "key-changed", "nodecomm server-key accept 127.0.0.1:"),
        (pinned_otherwise, "key-changed", "nodecomm server-key accept"),
        (unknown_key, "key-unknown", "nodecomm server-key accept 127.0.0.1:"),
        (no_such_source, "refused", "nodecomm access explain"),
        (no_parent, "", ""),
    ],
)
def test_what_is_wrong_is_said(
    agent: Agent, server: Server, prepare: Prepare, code: str, remedy: str
) -> None:
    """
    Log and status say exactly which of the things it was and what to do, and what is
    at the destination stays.
    """
    agent.state.mkdir(mode=0o700)
    (agent.destination).mkdir()
    (agent.destination / "old").write_text("old")
    before = agent.destination
    prepare(agent, server)
    process = agent.start("--json-log")
    process.wait_for('"agent.run-ended"')
    events = [json.loads(line) for line in process.out.read_text().splitlines()]
    (said,) = [event for event in events if event["event"] == "agent.copy-failed"]
    assert said["code"].startswith(code)
    assert remedy in said["remedy"]
    assert said["remedy"]
    agent.settled()
    status, out, errors = agent.status()
    assert status == 1
    assert "the last run failed for 1 of 1 copies" in errors
    assert f"({said['code']}): " in out
    # The command line repeats the state folder that it was given.
    told = re.sub(r" --state-dir \S+?(?=`)", "", out)
    assert f"what to do: {said['remedy']}" in told
    assert "next run in" in out
    assert content(before) == {"old": b"old"}
    assert "Traceback" not in process.out.read_text()


@pytest.mark.parametrize("kind", ["cf-serverd", "nodecomm"])
def test_a_server_that_does_not_trust_us(
    agent: Agent, tmp_path: Path, kind: str
) -> None:
    """The message says that its administrator has to trust our key."""
    share = tmp_path / "policy"
    share.mkdir()
    with ExitStack() as servers:
        server: Server
        if kind == "nodecomm":
            settings = config_for({"masterfiles": share})
            lines = [s for s in settings.splitlines() if "trustkeysfrom" not in s]
            server = servers.enter_context(
                NodecommServer(tmp_path / "server", "\n".join(lines))
            )
        else:
            work = WorkFolder(tmp_path / "work")
            server = servers.enter_context(Distrusting(work, {"masterfiles": share}))
        agent.configure(address(server))
        process = agent.start()
        out = process.wait_for("agent.run-ended")
    agent.settled()
    assert "not-trusted" in agent.status()[1]
    assert "on the server, trust this machine's key" in out


class Distrusting(RealServer):
    """
    cf-serverd that trusts nobody it does not know.
    """

    def __enter__(self) -> RealServer:
        text = self._policy.read_text()
        lines = [s for s in text.splitlines(True) if "trustkeysfrom" not in s]
        self._policy.write_text("".join(lines))
        return super().__enter__()


def test_failover(agent: Agent, server: Server, policy: tuple[Path, str]) -> None:
    """A server that is down costs nothing but a line; the next one gives the copy."""
    folder, name = policy
    dead = f"127.0.0.1:{free_port()}"
    agent.configure(dead, address(server), source=name)
    process = agent.start()
    out = process.wait_for("agent.run-ended")

    assert f"{dead} did not give {name}" in out
    assert agent.content() == content(folder)
    agent.settled()
    assert agent.status()[0] == 0
    process.signal(signal.SIGUSR1)
    out = process.wait_for("agent.run-ended", times=2)
    # It is tried last now.
    assert out.count("did not give") == 1


def test_killed_before_after_update_has_ended(
    agent: Agent, server: Server, policy: tuple[Path, str]
) -> None:
    """
    kill -9 while `after_update` runs: the next start runs it once more, and the one
    after that does not.
    """
    folder, name = policy
    text = "echo x >> $0; test -e $0.killed || { : > $0.killed; kill -9 $PPID; }"
    agent.configure(address(server), source=name, more=script(agent, text))
    process = agent.start()
    assert process.wait() == -signal.SIGKILL
    assert agent.content() == content(folder)
    assert (agent.state / "agent-pending.json").exists()

    process = agent.start()
    process.wait_for("agent.after-update-ended")
    out = process.wait_for("agent.run-ended")
    assert "once more" in out
    assert (agent.folder / "ran").read_text() == "x\nx\n"
    assert not (agent.state / "agent-pending.json").exists()
    process.signal(signal.SIGTERM)
    process.wait()
    process = agent.start()
    process.wait_for("agent.run-ended")
    assert (agent.folder / "ran").read_text() == "x\nx\n"


def test_stopped_while_after_update_runs(
    agent: Agent, server: Server, policy: tuple[Path, str]
) -> None:
    """SIGTERM ends it with all that it started; the next start runs it once more."""
    _, name = policy
    text = "echo $$ >> $0; test -e $0.once && exit 0; : > $0.once; sleep 1000 & wait"
    agent.configure(address(server), source=name, more=script(agent, text))
    process = agent.start()
    wait_until((agent.folder / "ran.once").exists, "after_update")
    process.signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    assert "it was ended because the agent stops" in process.out.read_text()
    group = int((agent.folder / "ran").read_text())
    wait_until(lambda: not group_lives(group), "the end of what it started")
    assert agent.facts()["status"]["after_update_pending"]

    process = agent.start()
    out = process.wait_for("agent.after-update-ended")
    assert "exit status 0" in out
    assert len((agent.folder / "ran").read_text().split()) == 2


def test_a_civil_clock_that_is_far_off(
    agent: Agent, server: Server, policy: tuple[Path, str]
) -> None:
    """
    The agent itself does not mind. The servers refuse to describe files to such a
    node: that is said, with what to do, and when the clock is right the copy is made.
    """
    folder, name = policy
    steps = agent.folder / "step"
    # A day and more passes the real server by chance: its test overflows.
    steps.write_text("-7200")
    agent.configure(address(server), source=name)
    process = agent.start(prelude=_CLOCK.format(path=str(steps)))
    out = process.wait_for("agent.run-ended")
    agent.settled()
    assert "set the clocks of this machine and the server" in out
    assert "refused (clock)" in agent.status()[1]
    assert not agent.destination.exists()
    steps.write_text("0")
    process.signal(signal.SIGUSR1)
    process.wait_for("agent.run-ended", times=2)
    assert agent.content() == content(folder)


#: Ends the process at the exchange: just before it, or just after it.
_DIE = """
import os
from nodecomm.service.agent_pending import PendingFile
from nodecomm.service.agent_run import Run
before = {before}
note = PendingFile.note
def noting(*arguments, **named):
    note(*arguments, **named)
    if before:
        os.kill(os.getpid(), 9)
PendingFile.note = noting
told = Run._tell
def telling(*arguments):
    os.kill(os.getpid(), 9)
Run._tell = telling
"""


@pytest.mark.parametrize("before", [True, False])
def test_killed_around_the_exchange(
    agent: Agent, server: Server, policy: tuple[Path, str], before: bool
) -> None:
    """
    kill -9 when a change is noted and nothing is in place: the next start makes the
    copy, and what follows runs once for that. kill -9 when it is in place: what
    follows runs at the next start, and not again.
    """
    folder, name = policy
    agent.configure(address(server), source=name, more=script(agent, "echo x >> $0"))
    process = agent.start(prelude=_DIE.format(before=before))
    assert process.wait() == -signal.SIGKILL
    assert agent.destination.exists() is not before
    assert (agent.state / "agent-pending.json").exists()

    process = agent.start("-v")
    out = process.wait_for("agent.run-ended")
    process.wait_for("agent.after-update-ended")
    first = out.index("agent.after-update") if "agent.after-update" in out else len(out)
    assert (first < out.index("agent.run-started")) is not before
    assert ("agent.updated" in out) is before
    assert agent.content() == content(folder)
    process.signal(signal.SIGTERM)
    process.wait()
    assert (agent.folder / "ran").read_text() == "x\n"


def test_sigterm_in_the_middle_of_a_run(
    agent: Agent, server: Server, scratch: tuple[Path, str]
) -> None:
    """
    What is under way ends, nothing is left at the destination but what was there, and
    the next start makes the copy.
    """
    folder, name_there = scratch
    # So large that no machine has fetched it before the signal comes.
    big_file(folder / "file", 500_000_000)
    agent.destination.mkdir()
    (agent.destination / "old").write_text("old")
    agent.configure(address(server), source=name_there)
    process = agent.start("-v")
    name = f".{agent.destination.name}.nodecomm-"

    def is_fetching() -> bool:
        parent = agent.destination.parent
        for entry in parent.iterdir():
            if entry.name.startswith(name) and entry.is_dir():
                for path in entry.rglob("*"):
                    if path.is_file() and path.stat().st_size > 1_000_000:
                        return True
        return False

    process.wait_for("agent.run-started")
    wait_until(is_fetching, "the beginning of the big file")
    process.signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    out = process.out.read_text()
    assert "agent.run-stopped" in out
    assert "Traceback" not in out
    assert agent.content() == {"old": b"old"}
    assert agent.facts()["status"]["last_attempt"]["outcome"] == "stopped"

    (folder / "file").unlink()
    big_file(folder / "file", 3_000_000)
    process = agent.start()
    process.wait_for("agent.updated")
    assert (agent.destination / "file").stat().st_size == 3_000_000
    assert not (agent.destination / "old").exists()


#: A civil clock that is off by what a file says.
_CLOCK = """
import time
real = time.time
def stepped():
    try:
        with open({path!r}) as file:
            return real() + float(file.read() or 0)
    except OSError:
        return real()
time.time = stepped
"""


def test_steps_of_the_civil_clock(
    agent: Agent, server: Server, policy: tuple[Path, str]
) -> None:
    """Runs go on at their interval when the clock is set a day forward and back."""
    _, name = policy
    steps = agent.folder / "step"
    agent.configure(address(server), source=name, more='interval = "1s"\nsplay = "0s"')
    process = agent.start("-v", prelude=_CLOCK.format(path=str(steps)))
    process.wait_for("agent.run-ended")
    for step in ("0.5", "-3500", "3500"):
        # A server may refuse clocks that are more than an hour away. One run may be
        # under way already, the next one is planned by the new time.
        steps.write_text(step)
        seen = process.out.read_text().count("agent.run-ended")
        began = time.monotonic()
        process.wait_for("agent.run-ended", times=seen + 2)
        # Without a steady clock the calls would wait for an hour.
        assert time.monotonic() - began < 60
    for step in ("86400", "-86400"):
        steps.write_text(step)
        seen = process.out.read_text().count("agent.run-ended")
        out = process.wait_for("agent.run-ended", times=seen + 2)
        assert "Traceback" not in out


def test_two_agents(agent: Agent, server: Server) -> None:
    """The second says who is in the way, and ends with status 1."""
    agent.configure(address(server))
    process = agent.start()
    process.wait_for("agent.started")
    second = Process(
        agent.folder,
        "-c",
        str(agent.config),
        plugin="nodecomm-agent",
        twistd=("--pidfile=second.pid",),
    )
    with second:
        assert second.wait() == 1
        assert "another agent runs with this state folder" in second.err.read_text()
    os.kill(process.process.pid, 0)
