# SPDX-License-Identifier: MIT
"""
Runs for others in a server as it is really run: what a configuration makes of them, and
what is left of a program when its listener, the server, or both are gone.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve
from twisted.internet.testing import MemoryReactorClock

from nodecomm.config.errors import ConfigError
from nodecomm.config.execution import RunSettings
from nodecomm.config.model import AccessSettings, ServerSettings, Settings
from nodecomm.identity.own import create_own_key
from nodecomm.server.execution.accounts import AccountError
from nodecomm.server.execution.runner import Runner
from nodecomm.service import reloading
from nodecomm.service.embedding import port_factory
from nodecomm.service.loading import Loaded
from nodecomm.service.prepared import Prepared, prepare
from nodecomm.service.reloading import apply, run_user_problems
from nodecomm.service.server_service import ServerService, StartError
from nodecomm.testing import MemoryRunner, key_pair, memory_server
from nodecomm.wire.execute import encode_execute
from tests.interop.machine import wait_until
from tests.ports import free_port
from tests.server.execution.test_programs import runs
from tests.service.node import PATIENCE, Node, Server

TERMINATOR = b"---cfXen/gine/cfXen/gine---\0"


def settings_with(program: Path, user: str | None = None) -> Settings:
    """A server that runs *program* as *user*."""
    return Settings(
        server=ServerSettings(
            state_dir=str(program.parent),
            cfruncommand=(str(program),),
            cfrunuser=user,
            allowusers=("root",),
        ),
        access=(AccessSettings(path=str(program), admit_ips=("127.0.0.1",)),),
        run=RunSettings(at_once=7),
    )


def prepared(settings: Settings) -> Prepared:
    """These settings, ready to be put in force."""
    loaded = Loaded(settings, (), ("server.toml",), settings)
    made, checked = prepare(loaded)
    assert made is not None, checked.problems
    return made


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that says what it is given."""
    path = tmp_path / "program"
    path.write_text('#!/bin/sh\necho "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process can become nobody else."""

    def find(name: str | None) -> None:
        if name is not None:
            raise AccountError(f'only root can run a program as "{name}"')

    monkeypatch.setattr(reloading, "find_account", find)


class ThreadedReactor(MemoryReactorClock):
    """
    A reactor that threads may call.
    """

    def callFromThread(self, function: Callable[..., object], *args: object) -> None:
        """At once."""
        function(*args)


@pytest.mark.usefixtures("not_root")
def test_a_user_that_the_server_cannot_become(program: Path) -> None:
    """It is an error at start, before anything is made, and one of a reload."""
    settings = settings_with(program, "daemon")
    (problem,) = run_user_problems(settings)
    assert problem.is_error
    assert problem.key_path == "server.cfrunuser"
    service = ServerService(
        prepared(settings),
        reactor=MemoryReactorClock(),
        reread=lambda generation: pytest.fail("there is no reload"),
    )
    with pytest.raises(StartError, match='only root can run a program as "daemon"'):
        service.startService()
    assert list(program.parent.iterdir()) == [program]

    plain = evolve(settings, server=evolve(settings.server, cfrunuser=None))
    unused = evolve(settings, server=evolve(settings.server, cfruncommand=()))
    assert run_user_problems(plain) == run_user_problems(unused) == []


def test_a_reload_changes_what_runs(program: Path) -> None:
    """New settings reach the runner, and the next request finds the new command."""
    asked: list[RunSettings] = []

    class Noted(MemoryRunner):
        def apply(self, settings: RunSettings) -> None:
            asked.append(settings)

    server = memory_server(execution=Noted())
    settings = settings_with(program)
    apply(server.factory, prepared(settings), 8)

    assert asked == [settings.run]
    execution = server.factory.serving.evaluator.snapshot.execution
    assert execution is not None
    assert execution.command == (str(program),)


def test_inside_another_application(program: Path) -> None:
    """An embedded server runs what its settings say, and nothing without a command."""
    keys = program.parent / "keys"
    create_own_key(keys, key_pair(1))
    tables = {
        "server": {"cfruncommand": [str(program)], "allowusers": ["root"]},
        "access": [{"path": str(program), "admit_ips": ["127.0.0.1"]}],
    }
    reactor = ThreadedReactor()
    factory = port_factory(reactor, tables, keys=keys)
    assert isinstance(factory.tls.serving.execution, Runner)
    given = MemoryRunner()
    factory = port_factory(reactor, tables, keys=keys, execution=given)
    assert factory.tls.serving.execution is given
    assert port_factory(reactor, {}, keys=keys).tls.serving.execution is None
    tables["server"]["cfrunuser"] = "no-such-user"
    with pytest.raises(ConfigError, match="no-such-user"):
        port_factory(reactor, tables, keys=keys)


SCRIPT = """#!/bin/sh
case "$*" in
*c_stubborn*)
    trap '' TERM
    sh -c 'trap "" TERM; echo $$; exec sleep 1000' &
    echo $$; wait; while :; do sleep 1; done;;
*c_children*)
    sleep 1000 & echo $!
    setsid sleep 1000 & echo $!
    echo $$; wait;;
*c_talks*)
    echo $$; echo $$; while :; do sleep 0.05; echo more; done;;
esac
"""

CONFIG = """
[server]
listen = ["tcp:{port}:interface=127.0.0.1"]
allowallconnects = ["127.0.0.1"]
trustkeysfrom = ["127.0.0.1"]
allowusers = ["root"]
cfruncommand = ["{program}"]

[[access]]
path = "{program}"
admit_ips = ["127.0.0.1"]

[[roles]]
pattern = "c_.*"
authorize = ["root"]

[run]
at_once = 2
{run}

[limits]
stop_grace = 1

[log]
audit = "{folder}/audit"
"""


class Asker(Node):
    """
    A node that asks for runs.
    """

    def ask(self, *classes: bytes) -> None:
        """Ask for a run."""
        self._tls.send(encode_execute(defined=classes))

    def line(self) -> bytes:
        """The next line of the answer."""
        return self._receive()

    def pids(self, count: int) -> list[int]:
        """The numbers of processes that the run prints first."""
        assert self.line().startswith(b"cf-serverd executing")
        return [int(self.line()[2:]) for _ in range(count)]

    def rest(self) -> list[bytes]:
        """The answer up to its end."""
        lines = [self.line()]
        while lines[-1] != TERMINATOR:
            lines.append(self.line())
        return lines


def configured(folder: Path, port: int, run: str = "") -> Path:
    """Write the program and a configuration with it."""
    program = folder / "program"
    program.write_text(SCRIPT)
    program.chmod(0o755)
    path = folder / "server.toml"
    path.write_text(CONFIG.format(port=port, program=program, folder=folder, run=run))
    return path


def gone(pids: list[int]) -> bool:
    """Whether none of these runs any more."""
    return not any(map(runs, pids))


def test_nothing_is_left_running(tmp_path: Path) -> None:
    """
    A run ends with all that it started when its peer hangs up, and when the server
    stops, whether it wants to or not; a peer that is still there hears of it. What a
    reload has changed counts for the next run. All of it is in the audit log.
    """
    port = free_port()
    config = configured(tmp_path, port)
    with Server(tmp_path, "-c", str(config)) as server:
        server.wait_for("server.started")
        first = Asker(port)
        first.ask(b"c_children")
        pids = first.pids(3)
        assert all(map(runs, pids))
        first.close()
        wait_until(lambda: gone(pids), "the end of all of them", PATIENCE)

        config.write_text(config.read_text().replace('"c_.*"', '"c_s.*"'))
        server.signal(signal.SIGHUP)
        server.wait_for("config.loaded")
        second = Asker(port)
        second.ask(b"c_children")
        assert second.rest()[0].startswith(b"EXEC denied role activation")
        second.ask(b"c_stubborn")
        pids = second.pids(2)
        server.signal(signal.SIGTERM)
        assert second.rest() == [
            b"> nodecomm: the run was ended: the service stops\n",
            TERMINATOR,
        ]
        second.close()
        server.wait()
        assert gone(pids)
    lines = (tmp_path / "audit").read_text().splitlines()
    events = list(map(json.loads, lines))
    ends = [each for each in events if each["event"] == "run.ended"]
    assert [(each["why"], each["signal"], each["classes"]) for each in ends] == [
        ("left", signal.SIGTERM, ["c_children"]),
        ("stopped", signal.SIGKILL, ["c_stubborn"]),
    ]
    assert {each["peer"] for each in ends} == {"127.0.0.1"}


def test_a_server_that_is_killed(tmp_path: Path) -> None:
    """
    When the server is killed nobody can end a program of it; the program ends when it
    next prints something, as one whose reader has gone.
    """
    port = free_port()
    with Server(tmp_path, "-c", str(configured(tmp_path, port))) as server:
        server.wait_for("server.started")
        node = Asker(port)
        node.ask(b"c_talks")
        pids = node.pids(2)
        assert all(map(runs, pids))
        server.signal(signal.SIGKILL)
        node.close()
        server.wait()
    wait_until(lambda: gone(pids), "the end of the program", PATIENCE)
