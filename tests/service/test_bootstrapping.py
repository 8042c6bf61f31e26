# SPDX-License-Identifier: MIT
"""
Bootstraps with a server that is played.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from nodecomm.client.address import ServerAddress
from nodecomm.client.errors import Refused, Rejected, Unreachable, UntrustedServer
from nodecomm.config.errors import ConfigError
from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.identity.own import load_own_key
from nodecomm.identity.servers import ServerKeyStore
from nodecomm.service.agent_outbox import Outbox
from nodecomm.service.agent_status import AgentStatus, Point, write_status
from nodecomm.service.bootstrap_model import (
    BootstrapError,
    BootstrapRequest,
    BootstrapResult,
)
from nodecomm.service.bootstrapping import Bootstrap
from nodecomm.service.loading import file_path, load_agent
from nodecomm.service.own_addresses import AddressUnknown, ResolvedServer
from nodecomm.service.own_key import ensure_own_key
from nodecomm.service.starting import CannotStart, Started
from nodecomm.service.units import Program
from nodecomm.sync.errors import LocalError, SourceRefused
from nodecomm.sync.model import SyncRequest, SyncResult
from tests.identity.sample import key, pair

HUB = ServerAddress("hub.example.com", 5308)
HUB_KEY = key(1)
OTHER_KEY = key(2)


def done(coroutine: Any) -> Any:
    """
    The result of what needs no reactor.
    """
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    (result,) = results
    if hasattr(result, "raiseException"):
        result.raiseException()
    return result


class Hub:
    """
    The way to a policy server, with what it has.

    Args:
        has: Shortcut to names and contents.
    """

    def __init__(self, **has: dict[str, str]) -> None:
        self.has = has
        self.key = HUB_KEY
        self.is_open = False
        self.failures: list[Exception] = []
        self.connections = 0

    async def connect(self, trust: Any) -> PublicKey:
        assert not self.is_open, "one connection at a time"
        self.connections += 1
        if self.failures:
            raise self.failures.pop(0)
        decision = trust.check(str(HUB), self.key)
        if not decision:
            raise UntrustedServer(
                decision.code, decision.text, HUB, self.key, decision.known
            )
        self.is_open = True
        return self.key

    async def fetch(self, request: SyncRequest) -> SyncResult:
        assert self.is_open
        assert request.new, "whoever types this wants what the server has now"
        source = request.source.decode()
        if source not in self.has:
            raise SourceRefused("refused", f"{source}: refused")
        folder = Path(os.fsdecode(request.destination))
        folder.mkdir(exist_ok=True)
        changed = False
        for name, content in self.has[source].items():
            path = folder / name
            if not path.exists() or path.read_text() != content:
                path.write_text(content)
                changed = True
        count = len(self.has[source])
        return SyncResult(changed, count, count if changed else 0, 0, 1, 1, 1, 1, 0.1)

    async def close(self) -> None:
        self.is_open = False


class Machine:
    """
    A machine with a terminal, or without.
    """

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.state = folder / "state"
        self.config = folder / "etc"
        self.hub = hub
        #: What the person at the terminal says; None: there is none.
        self.answer: bool | None = None
        self.asked: list[PublicKey] = []
        self.lines: list[str] = []
        self.starts: list[Program] = []
        self.cannot_start = ""
        #: Whether what is started says that it runs.
        self.comes_up = True
        self.kills: list[tuple[int, int]] = []
        self.slept = 0.0

    def ask(self, server: ServerAddress, addresses: Any, key: PublicKey) -> bool | None:
        # Nobody waits while a person thinks.
        assert not self.hub.is_open
        self.asked.append(key)
        return self.answer

    def starter_for(self, program: Program, config: Path) -> Any:
        return PlayedStarter(self, program, config)

    def bootstrap(self, **more: Any) -> BootstrapResult:
        """
        Bootstrap from the hub.
        """
        resolve: Callable[[str, int], ResolvedServer] = more.pop(
            "resolve", lambda host, port: ResolvedServer(("192.0.2.1",), ())
        )
        request = BootstrapRequest(
            server=more.pop("server", HUB),
            state_dir=self.state,
            config_dir=self.config,
            **more,
        )
        self.lines = []

        async def sleep(seconds: float) -> None:
            self.slept += seconds

        bootstrap = Bootstrap(
            request=request,
            link=self.hub,
            ask=self.ask,
            say=self.lines.append,
            sleep=sleep,
            starter_for=self.starter_for,
            resolve=resolve,
            kill=lambda pid, number: self.kills.append((pid, number)),
            monotonic=lambda: self.slept,
        )
        result: BootstrapResult = done(bootstrap.run())
        return result

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    @property
    def known(self) -> tuple[PublicKey, ...]:
        """
        The keys stored for the hub.
        """
        return ServerKeyStore(str(self.state / "server-keys")).keys(str(HUB))

    @property
    def agent(self) -> Any:
        """
        The agent's configuration, as the agent reads it.
        """
        return load_agent(self.config / "agent.toml", environ={}).usable()

    def theirs(self, text: str, name: str = "agent.toml") -> Path:
        """
        Write a file of the configuration as a person.
        """
        path = self.config / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


class PlayedStarter:
    """
    Notes what is started.
    """

    def __init__(self, machine: Machine, program: Program, config: Path) -> None:
        self.machine = machine
        self.program = program
        self.config = config

    def check(self) -> None:
        if self.machine.cannot_start:
            raise CannotStart(self.machine.cannot_start)

    def pid(self) -> int | None:
        return None

    def start(self, *, reload: bool) -> Started:
        assert self.config.exists()
        assert not self.machine.hub.is_open
        self.machine.starts.append(self.program)
        if self.machine.comes_up:
            begun = Point(0, "", 0)
            status = AgentStatus(7, begun, "", "", (), 300)
            write_status(str(self.machine.state), status)
        return Started("started", f"{self.program.name} is started", 7, "a log")


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Making a key takes most of the time of a bootstrap.
    """
    made = pair(9)
    monkeypatch.setattr(KeyPair, "generate", lambda bits: made)


@pytest.fixture
def hub() -> Hub:
    """
    A hub with a policy and modules.
    """
    return Hub(masterfiles={"promises.cf": "x"}, modules={"module": "y"})


@pytest.fixture
def machine(tmp_path: Path, hub: Hub) -> Machine:
    """
    A new machine.
    """
    return Machine(tmp_path, hub)


def test_a_new_node(machine: Machine) -> None:
    """
    It gets a key, stores the server's, has the policy and the modules, and its agent
    is configured to keep both.
    """
    result = machine.bootstrap(trust_server=True)

    own = load_own_key(machine.state / "ppkeys").public
    assert (result.role, result.key, result.own_key) == ("node", HUB_KEY, own)
    assert machine.known == (HUB_KEY,)
    assert (machine.state / "inputs" / "promises.cf").read_text() == "x"
    assert (machine.state / "modules" / "module").read_text() == "y"
    settings = machine.agent
    assert settings.agent.policy_servers == ("hub.example.com:5308",)
    assert settings.agent.state_dir == str(machine.state)
    assert [(c.source, c.destination, c.purge) for c in settings.copy] == [
        ("masterfiles", str(machine.state / "inputs"), True),
        ("modules", str(machine.state / "modules"), False),
    ]
    assert machine.starts == []
    # What it is, this server is told as soon as the agent runs.
    assert Outbox(str(machine.state)).asked() != ""
    for told in (own.md5, HUB_KEY.md5, HUB_KEY.sha, "50-bootstrap.toml"):
        assert told in machine.said


def test_again(machine: Machine) -> None:
    """
    A second bootstrap needs no flag, writes nothing and changes nothing.
    """
    machine.bootstrap(trust_server=True)
    own = load_own_key(machine.state / "ppkeys").public
    again = machine.bootstrap()

    assert load_own_key(machine.state / "ppkeys").public == own
    assert again.files == ()
    assert not any(copied.result.changed for copied in again.copies)
    assert machine.asked == []


def test_another_server(machine: Machine, hub: Hub) -> None:
    """
    A bootstrap from another server replaces the one that was recorded.
    """
    machine.bootstrap(trust_server=True)
    machine.bootstrap(server=ServerAddress("new", 1), trust_server=True)

    assert machine.agent.agent.policy_servers == ("new:1",)


class TestTrust:
    """
    Whose key it is.
    """

    def test_nobody_to_ask(self, machine: Machine) -> None:
        """
        Without terminal and flag nothing is accepted; the error shows the key and
        names the flags. Nothing is stored or fetched.
        """
        with pytest.raises(UntrustedServer) as caught:
            machine.bootstrap()

        text = str(caught.value)
        for told in (HUB_KEY.md5, "--server-key", "--trust-server", "no terminal"):
            assert told in text
        assert machine.known == ()
        assert not (machine.state / "inputs").exists()
        assert not machine.config.exists()

    def test_yes(self, machine: Machine) -> None:
        """
        A key that a person accepts is pinned, whole.
        """
        machine.answer = True
        machine.bootstrap()

        assert machine.asked == [HUB_KEY]
        assert machine.known == (HUB_KEY,)

    def test_no(self, machine: Machine) -> None:
        """
        A key that a person does not accept is not stored, and nothing is sent.
        """
        machine.answer = False
        with pytest.raises(UntrustedServer, match="not accepted"):
            machine.bootstrap()

        assert machine.known == ()
        assert machine.hub.connections == 1

    def test_another_key_after_the_question(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        The key that is there when the person has answered must be the one that was
        shown.
        """

        def ask(*arguments: Any) -> bool:
            machine.hub.key = OTHER_KEY
            return True

        monkeypatch.setattr(machine, "ask", ask)
        with pytest.raises(UntrustedServer) as caught:
            machine.bootstrap()

        assert caught.value.code == "key-changed"
        assert machine.known == ()

    @pytest.mark.parametrize(
        "form",
        [HUB_KEY.md5, HUB_KEY.sha, HUB_KEY],
        # The key is another in each process; names of tests are the same in all.
        ids=["MD5", "SHA", "whole"],
    )
    def test_the_key_named(self, machine: Machine, form: str | PublicKey) -> None:
        """
        A key that was named beforehand, by digest or whole, is not asked about.
        """
        machine.bootstrap(server_keys=(form,))

        assert machine.asked == []
        assert machine.known == (HUB_KEY,)

    def test_another_key_named(self, machine: Machine) -> None:
        """
        A key that is not the one named is refused without a question.
        """
        machine.answer = True
        with pytest.raises(UntrustedServer) as caught:
            machine.bootstrap(server_keys=(OTHER_KEY.md5,))

        assert caught.value.code == "key-changed"
        assert machine.asked == []
        assert machine.known == ()

    def test_the_key_changed(self, machine: Machine) -> None:
        """
        Another key than the stored one is refused without a question, and
        --trust-server does not help.
        """
        machine.bootstrap(trust_server=True)
        machine.hub.key = OTHER_KEY
        machine.answer = True
        with pytest.raises(UntrustedServer) as caught:
            machine.bootstrap(trust_server=True)

        assert caught.value.code == "key-changed"
        assert machine.asked == []
        assert machine.known == (HUB_KEY,)


class TestFetching:
    """
    What the server has.
    """

    def test_no_policy(self, machine: Machine) -> None:
        """
        Without masterfiles there is no bootstrap, and nothing is recorded.
        """
        del machine.hub.has["masterfiles"]
        with pytest.raises(SourceRefused):
            machine.bootstrap(trust_server=True, start=True)

        assert not machine.config.exists()
        assert machine.starts == []

    def test_no_modules(self, machine: Machine) -> None:
        """
        Without modules the node does without, is told so, and its agent does not ask
        for them; when they come, a further bootstrap records them.
        """
        modules = machine.hub.has.pop("modules")
        result = machine.bootstrap(trust_server=True)
        assert len(result.warnings) == 1
        assert "modules" in result.warnings[0]
        assert [copy.source for copy in machine.agent.copy] == ["masterfiles"]

        machine.hub.has["modules"] = modules
        assert machine.bootstrap().warnings == ()
        assert [c.source for c in machine.agent.copy] == ["masterfiles", "modules"]

    def test_modules_fail_otherwise(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Modules that fail for another reason than a refusal end the bootstrap.
        """
        fetch = machine.hub.fetch

        async def full(request: SyncRequest) -> SyncResult:
            if request.source == b"modules":
                raise LocalError("no-space", "the disk is full")
            return await fetch(request)

        monkeypatch.setattr(machine.hub, "fetch", full)
        with pytest.raises(LocalError):
            machine.bootstrap(trust_server=True)

    @pytest.mark.parametrize(
        "error",
        [
            Unreachable("connection-refused", "refused"),
            Refused("refused", b"masterfiles", b"BAD: no"),
        ],
    )
    def test_the_server_fails(self, machine: Machine, error: Exception) -> None:
        """
        What went wrong with the server is told as it is; the next run succeeds.
        """
        machine.hub.failures.append(error)
        with pytest.raises(type(error)):
            machine.bootstrap(trust_server=True)

        assert machine.bootstrap(trust_server=True).key == HUB_KEY

    def test_the_server_does_not_want_us(self, machine: Machine) -> None:
        """
        A server that rejects this machine is told with the digest that has to be
        trusted there.
        """
        machine.hub.failures.append(Rejected("dialog-failed", "it ended"))
        with pytest.raises(
            Rejected, match=r"^it ended\. .* trust-digest MD5="
        ) as caught:
            machine.bootstrap(trust_server=True)

        own = load_own_key(machine.state / "ppkeys").public
        assert own.md5 in str(caught.value)
        assert caught.value.code == "dialog-failed"

    def test_an_unknown_name(self, machine: Machine) -> None:
        """
        A name that leads nowhere is a server that cannot be reached.
        """

        def resolve(host: str, port: int) -> ResolvedServer:
            raise AddressUnknown("name-unknown", "no such name")

        with pytest.raises(Unreachable, match="no such name") as caught:
            machine.bootstrap(resolve=resolve)

        assert caught.value.code == "name-unknown"


class TestConfiguration:
    """
    What persons have written.
    """

    def test_their_settings_stay(self, machine: Machine) -> None:
        """
        A person's file is added to and not touched.
        """
        text = '[agent]\ninterval = "1h"\n[[copy]]\nsource = "x"\ndestination = "/x"\n'
        path = machine.theirs(text)
        machine.bootstrap(trust_server=True)

        assert path.read_text() == text
        assert machine.agent.agent.interval == "1h"
        assert [c.source for c in machine.agent.copy] == ["x", "masterfiles", "modules"]

    def test_their_servers_are_others(self, machine: Machine) -> None:
        """
        Where a person has named other servers nothing is done at all, and the error
        names the place and what to write.
        """
        path = machine.theirs('[agent]\npolicy_servers = ["other"]\n')
        with pytest.raises(BootstrapError) as caught:
            machine.bootstrap(trust_server=True)

        assert f"{path}:2:1" in str(caught.value)
        assert "add hub.example.com:5308" in str(caught.value)
        assert machine.hub.connections == 0
        assert not (machine.state / "ppkeys").exists()

    @pytest.mark.parametrize("spelled", ["hub.example.com", "HUB.example.com:5308"])
    def test_their_servers_have_this_one(self, machine: Machine, spelled: str) -> None:
        """
        Where a person has named this server among others, that is left to him.
        """
        machine.theirs(f'[agent]\npolicy_servers = ["first", "{spelled}"]\n')
        machine.bootstrap(trust_server=True)

        assert machine.agent.agent.policy_servers == ("first", spelled)

    def test_their_copy_to_the_same_place(self, machine: Machine) -> None:
        """
        A person's copy to the place of ours takes its place.
        """
        inputs = machine.state / "inputs"
        machine.theirs(f'[[copy]]\nsource = "/else"\ndestination = "{inputs}"\n')
        machine.bootstrap(trust_server=True)

        assert [copy.source for copy in machine.agent.copy] == ["/else", "modules"]

    def test_another_state_folder(self, machine: Machine) -> None:
        """
        A configuration for another state folder is not this bootstrap's.
        """
        machine.theirs('[agent]\nstate_dir = "/srv/else"\n')
        with pytest.raises(BootstrapError, match="--state-dir /srv/else"):
            machine.bootstrap(trust_server=True)

    def test_our_part_changed(self, machine: Machine) -> None:
        """
        Once a person has changed our part it is never written again: fine as long as
        it says what is wanted, else an error that says what is missing.
        """
        machine.bootstrap(trust_server=True)
        part = machine.config / "agent.d" / "50-bootstrap.toml"
        text = part.read_text() + "# mine now\n"
        part.write_text(text)
        assert machine.bootstrap().files == ()
        with pytest.raises(BootstrapError, match=r"agent\.policy_servers"):
            machine.bootstrap(server=ServerAddress("new", 1), trust_server=True)

        part.write_text(text.replace("policy_servers", "#"))
        with pytest.raises(BootstrapError, match=r"has not: agent\.policy_servers"):
            machine.bootstrap()

    def test_their_mistakes(self, machine: Machine) -> None:
        """
        A configuration with a mistake is told with its place, and our part is taken
        back.
        """
        path = machine.theirs("[agent]\nintervall = '1h'\n")
        with pytest.raises(ConfigError, match=f"{path}:2:1.*did you mean interval"):
            machine.bootstrap(trust_server=True)

        assert not (machine.config / "agent.d" / "50-bootstrap.toml").exists()

    def test_keys_that_are_not_the_servers(self, machine: Machine) -> None:
        """
        A pinned key in the agent's configuration that is not this server's is told.
        """
        machine.theirs(f'[agent]\nserver_keys = ["{OTHER_KEY.md5}"]\n')
        result = machine.bootstrap(trust_server=True)

        assert [w for w in result.warnings if "server_keys" in w]

    def test_user_and_protocol_are_recorded(self, machine: Machine) -> None:
        """
        A user name and a protocol that were asked for are the agent's too.
        """
        machine.bootstrap(trust_server=True, user="node", record_user=True, protocol=2)

        assert (machine.agent.agent.user, machine.agent.agent.protocol) == ("node", 2)

    def test_any_path(self, machine: Machine) -> None:
        """
        A state folder of any name is recorded so that the agent finds it.
        """
        machine.state = machine.state / os.fsdecode(b'a "b" \\ \xff\n')
        machine.bootstrap(trust_server=True)
        assert file_path(machine.agent.agent.state_dir) == machine.state


class TestStarting:
    """
    `--start`.
    """

    def test_started_last(self, machine: Machine) -> None:
        """
        The agent is started when all is in place.
        """
        result = machine.bootstrap(trust_server=True, start=True)

        assert [program.name for program in machine.starts] == ["nodecomm-agent"]
        assert result.started["nodecomm-agent"].pid == 7
        assert machine.kills == [(7, signal.SIGUSR1)]
        assert machine.slept == 0

    def test_it_takes_its_time(self, machine: Machine) -> None:
        """
        An agent that does not say that it runs is left to begin by itself: a signal
        now would end it.
        """
        machine.comes_up = False
        machine.bootstrap(trust_server=True, start=True)

        assert machine.kills == []
        assert machine.slept >= 10

    def test_what_is_in_the_way_is_told_first(self, machine: Machine) -> None:
        """
        What is in the way of a start is told before anything is done.
        """
        machine.cannot_start = "no twistd"
        with pytest.raises(CannotStart):
            machine.bootstrap(trust_server=True, start=True)

        assert machine.hub.connections == 0


def test_one_at_a_time(machine: Machine) -> None:
    """
    A second bootstrap in the same state folder is turned away, with the number of the
    first.
    """
    machine.bootstrap(trust_server=True)
    lock = machine.state / "bootstrap.lock"
    assert lock.read_text() == f"{os.getpid()}\n"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BootstrapError, match=f"process {os.getpid()}"):
            machine.bootstrap()
    machine.bootstrap()


def test_a_key_half_made(tmp_path: Path) -> None:
    """
    The public half that a killed program did not get to is made up for.
    """
    first, made = ensure_own_key(tmp_path)
    (tmp_path / "localhost.pub").unlink()

    assert made
    again, made = ensure_own_key(tmp_path)
    assert (again.public, made) == (first.public, False)
    assert PublicKey.from_pem((tmp_path / "localhost.pub").read_bytes()) == first.public


class Killed(BaseException):
    """
    The process ends here.
    """


@pytest.mark.slow
def test_killed_anywhere(tmp_path: Path) -> None:
    """
    Whatever call to the system a bootstrap does not get beyond, the next one
    succeeds, and the node is as after one that was never interrupted.
    """
    count = 1
    while True:
        machine = Machine(
            tmp_path / str(count),
            Hub(masterfiles={"promises.cf": "x"}, modules={"module": "y"}),
        )
        try:
            interrupted_after(count, partial(machine.bootstrap, trust_server=True))
        except Killed:
            machine.hub.is_open = False
        else:
            break
        machine.bootstrap(trust_server=True)
        assert machine.known == (HUB_KEY,)
        assert machine.agent.agent.policy_servers == (str(HUB),)
        assert len(machine.agent.copy) == 2
        count += 1
    assert count > 20


#: What changes something that outlives the process.
_EVENTS = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.chmod", "open"}
_armed: list[int] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _armed or event not in _EVENTS:
        return
    if event == "open" and not (
        isinstance(arguments[2], int) and arguments[2] & (os.O_CREAT | os.O_WRONLY)
    ):
        return
    _armed[0] -= 1
    if _armed[0] < 0:
        # Whatever is done after this is not done: as if the process were gone.
        raise Killed


def interrupted_after(count: int, work: Callable[[], Any]) -> None:
    """
    Run *work*, and let it do *count* changes and no more.
    """
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    _armed[:] = [count]
    try:
        work()
    finally:
        _armed.clear()


_hooked: list[bool] = []
