# SPDX-License-Identifier: MIT
"""
A machine becomes the policy server.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from nodecomm.client.address import ServerAddress
from nodecomm.client.errors import Unreachable, UntrustedServer
from nodecomm.config.errors import ConfigError
from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.identity.own import load_own_key
from nodecomm.identity.store import FileKeyStore
from nodecomm.service import own_server
from nodecomm.service.bootstrap_model import (
    BootstrapError,
    BootstrapRequest,
    BootstrapResult,
)
from nodecomm.service.bootstrapping import Bootstrap
from nodecomm.service.loading import load
from nodecomm.service.own_addresses import ResolvedServer
from nodecomm.service.own_server import become_server, place_sample, places_of
from nodecomm.service.prepared import prepare
from nodecomm.service.processes import Listener
from nodecomm.service.starting import CannotStart, Started
from nodecomm.service.units import SERVER
from nodecomm.sync.errors import SourceRefused
from nodecomm.sync.model import SyncRequest, SyncResult
from tests.identity.sample import pair
from tests.service.test_bootstrapping import (
    Hub,
    Killed,
    Machine,
    PlayedStarter,
    done,
    interrupted_after,
)

ADDRESS = "192.0.2.1"
HERE = ServerAddress(ADDRESS)
NOW = 1_900_000_000.0
SYSTEM = "/etc/nodecomm/server.toml"


def at(seconds: float) -> datetime:
    """
    So many seconds from now.
    """
    return datetime.fromtimestamp(NOW + seconds, timezone.utc)


class OwnHub(Hub):
    """
    This machine's own server: it runs when it has been started, and its key is that of
    the machine.

    Args:
        machine: The machine.
    """

    def __init__(self, machine: Host) -> None:
        super().__init__()
        self.machine = machine
        #: Connections that fail after the start, as while a server begins.
        self.slow = 2

    async def connect(self, trust: Any) -> PublicKey:
        if not self.machine.running or self.slow:
            self.slow -= 1
            raise Unreachable("connection-refused", "nobody listens")
        self.key = load_own_key(self.machine.state / "ppkeys").public
        decision = trust.check(str(HERE), self.key)
        assert decision, decision.text
        self.is_open = True
        return self.key

    async def fetch(self, request: SyncRequest) -> SyncResult:
        (folder,) = (
            Path(rule.path)
            for rule in self.machine.server.access
            if rule.shortcut == "masterfiles"
        )
        self.has = {"masterfiles": {p.name: p.read_text() for p in folder.iterdir()}}
        return await super().fetch(request)


class Host(Machine):
    """
    A machine that has the address.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Hub())
        self.hub = OwnHub(self)
        self.now = NOW

    @property
    def running(self) -> bool:
        """
        Whether its server was started.
        """
        return "nodecomm-server" in [program.name for program in self.starts]

    def bootstrap(self, **more: Any) -> BootstrapResult:
        """
        Bootstrap from its own address.
        """
        addresses = more.pop("addresses", (ADDRESS,))
        request = BootstrapRequest(
            server=more.pop("server", HERE),
            state_dir=self.state,
            config_dir=self.config,
            **more,
        )
        self.lines = []
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        bootstrap = Bootstrap(
            request=request,
            link=self.hub,
            ask=self.ask,
            say=self.lines.append,
            sleep=sleep,
            become_server=become_server,
            starter_for=self.starter_for,
            resolve=lambda host, port: ResolvedServer(addresses, addresses),
            now=lambda: self.now,
            monotonic=lambda: sum(slept),
        )
        result: BootstrapResult = done(bootstrap.run())
        return result

    @property
    def server(self) -> Any:
        """
        The server's configuration, as the server reads it.
        """
        prepared, loaded = prepare(load(self.config / "server.toml", environ={}))
        assert prepared is not None, loaded.problems
        return prepared.settings

    @property
    def part(self) -> Path:
        return self.config / "server.d" / "50-bootstrap.toml"

    @property
    def windows(self) -> list[tuple[str, datetime | None]]:
        return [(w.network, w.until) for w in self.server.server.trustkeysfrom]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Keys are at hand, and no server of this machine matters.
    """
    made = pair(9)
    monkeypatch.setattr(KeyPair, "generate", lambda bits: made)
    monkeypatch.setattr(own_server, "find_listener", lambda port: None)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """
    A new machine.
    """
    return Host(tmp_path)


def test_a_new_policy_server(host: Host) -> None:
    """
    It serves a sample policy to its own network, trusts new nodes of that for a day,
    runs, and is its own node; no question is asked.
    """
    result = host.bootstrap()

    settings = host.server
    assert settings.server.state_dir == str(host.state)
    assert settings.server.listen == ("tcp6:5308",)
    assert settings.server.allowed_networks == ("192.0.0.0/16",)
    assert settings.server.allowconnects == ("192.0.0.0/16",)
    assert settings.server.allowallconnects == ("192.0.0.0/16",)
    assert host.windows == [("192.0.0.0/16", at(86400))]
    assert [(rule.shortcut, rule.path) for rule in settings.access] == [
        ("masterfiles", f"{host.state}/masterfiles/"),
        ("modules", f"{host.state}/modules/"),
    ]
    assert (host.state / "masterfiles" / "promises.cf").exists()
    inputs = host.state / "inputs"
    assert (inputs / "promises.cf").read_text().startswith("# The policy")
    own = load_own_key(host.state / "ppkeys").public
    assert (result.role, result.key, result.own_key) == ("server", own, own)
    # It is its own node after the window too, and no server is trusted as a node.
    stored = FileKeyStore(str(host.state / "ppkeys")).entries()
    assert [(each.user, each.key) for each in stored] == [("root", own)]
    assert host.asked == []
    # Its modules are those that it serves.
    assert [copy.source for copy in host.agent.copy] == ["masterfiles"]
    assert [program.name for program in host.starts] == ["nodecomm-server"]
    assert result.windows == (("192.0.0.0/16", "2030-03-18T17:46:40Z"),)
    for told in ("2030-03-18T17:46:40Z", "for 1d", "--trust-for 0", "config show -c"):
        assert told in host.said


def test_ipv6_and_both(host: Host) -> None:
    """
    An IPv6 address brings its /64, several addresses all of their networks.
    """
    host.bootstrap(addresses=("2001:db8::7", "10.9.8.7"))

    networks = ("2001:db8::/64", "10.9.0.0/16")
    assert host.server.server.allowed_networks == networks
    assert [network for network, _ in host.windows] == list(networks)


def test_another_port(host: Host) -> None:
    """
    Another port is listened on, and recorded for the node.
    """
    host.bootstrap(server=ServerAddress(ADDRESS, 5309))

    assert host.server.server.listen == ("tcp6:5309",)
    assert host.agent.agent.policy_servers == ("192.0.2.1:5309",)


def test_only_loopback_is_told(host: Host) -> None:
    """
    A name that only this machine can use is fine for a trial, and told.
    """
    result = host.bootstrap(addresses=("127.0.1.1",))

    assert [w for w in result.warnings if "for itself alone" in w]
    assert host.server.server.allowed_networks == ("127.0.0.0/16",)


class TestAgain:
    """
    A bootstrap of a policy server that is one already.
    """

    def test_nothing_changes(self, host: Host) -> None:
        """
        An hour later the window is the same, and nothing is written.
        """
        host.bootstrap()
        host.now += 3600
        result = host.bootstrap()

        assert result.files == ()
        assert host.windows == [("192.0.0.0/16", at(86400))]
        assert "for 23h" in host.said

    def test_a_closed_window_stays_closed(self, host: Host) -> None:
        """
        Two days later no window is opened again by itself, and how to do it is told.
        """
        host.bootstrap()
        host.now += 2 * 86400
        host.bootstrap()

        assert host.windows == []
        assert "no trust window is open" in host.said
        assert "--trust-for 2h" in host.said

    def test_prolonged(self, host: Host) -> None:
        """
        --trust-for sets the end anew.
        """
        host.bootstrap()
        host.now += 3600
        host.bootstrap(trust_for=7200)

        assert host.windows == [("192.0.0.0/16", at(3600 + 7200))]

    def test_closed(self, host: Host) -> None:
        """
        --trust-for 0 closes the window; who is served stays.
        """
        host.bootstrap()
        host.bootstrap(trust_for=0)

        assert host.windows == []
        assert host.server.server.allowed_networks == ("192.0.0.0/16",)

    def test_another_network(self, host: Host) -> None:
        """
        --trust-network opens the window for that instead, and serves it besides; it
        is still served when run again without.
        """
        host.bootstrap()
        host.bootstrap(trust_networks=("10.0.0.0/8",))
        host.bootstrap()

        assert host.windows == [("10.0.0.0/8", at(86400))]
        networks = ("192.0.0.0/16", "10.0.0.0/8")
        assert host.server.server.allowed_networks == networks

    def test_the_policy_stays(self, host: Host) -> None:
        """
        A policy is never written over.
        """
        host.bootstrap()
        policy = host.state / "masterfiles" / "promises.cf"
        policy.write_text("mine")
        host.bootstrap()

        assert policy.read_text() == "mine"


class TestTheirConfiguration:
    """
    What persons have written.
    """

    def test_it_stays_and_is_told(self, host: Host, tmp_path: Path) -> None:
        """
        Settings of a person stay, with a note about each that is another than
        bootstrap would have written; what is missing is added.
        """
        policy = tmp_path / "policy"
        policy.mkdir()
        text = (
            '[server]\nallowed_networks = ["10.0.0.0/8"]\nlisten = ["tcp:5308"]\n'
            '[[server.trustkeysfrom]]\nnetwork = "10.1.2.3"\n'
            f'[[access]]\npath = "{policy}/"\nshortcut = "masterfiles"\n'
            'admit_ips = ["@allowed_networks"]\n'
        )
        path = host.theirs(text, "server.toml")
        host.bootstrap()

        assert path.read_text() == text
        assert host.server.server.allowed_networks == ("10.0.0.0/8",)
        assert f"note: {path}:2:1: server.allowed_networks" in host.said
        assert host.windows == [("10.1.2.3", None), ("192.0.0.0/16", at(86400))]
        shortcuts = [rule.shortcut for rule in host.server.access]
        assert shortcuts == ["masterfiles", "modules"]
        # The policy is elsewhere, and none of ours is put there.
        assert not (host.state / "masterfiles").exists()
        assert list(policy.iterdir()) == []
        assert (host.state / "modules").is_dir()
        assert [w for w in host.lines if "10.1.2.3 are trusted for ever" in w]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ('[server]\nstate_dir = "/srv/else"\n', "--state-dir /srv/else"),
            ('[server]\nlisten = ["tcp:1234"]\n', f"bootstrap {ADDRESS}:1234"),
            ("access = []\n", "no rule has the shortcut masterfiles"),
        ],
    )
    def test_contradictions(self, host: Host, text: str, told: str) -> None:
        """
        Settings that lead elsewhere end the bootstrap: what is in the way is told with
        what to do, our part is taken back, and nothing is started.
        """
        path = host.theirs(text, "server.toml")
        with pytest.raises(BootstrapError) as caught:
            host.bootstrap()

        assert told in str(caught.value)
        assert str(path) in str(caught.value)
        assert path.read_text() == text
        assert not host.part.exists()
        assert host.starts == []

    def test_mistakes(self, host: Host) -> None:
        """
        Mistakes are told by the reader of configurations, with their places.
        """
        path = host.theirs('[server]\nlisten = ["nonsense:1"]\n', "server.toml")
        with pytest.raises(ConfigError, match=f"{path}:2:11"):
            host.bootstrap()

        assert not host.part.exists()

    def test_our_part_changed(self, host: Host) -> None:
        """
        Our part is left as it is once a person has changed it: a further bootstrap
        says so, one that is to change the window says what to do instead.
        """
        host.bootstrap()
        text = host.part.read_text().replace("2030-03-18", "2031-03-18")
        host.part.write_text(text)
        result = host.bootstrap()
        assert host.part.read_text() == text
        assert "changed by hand" in host.said
        assert result.windows == (("192.0.0.0/16", "2031-03-18T17:46:40Z"),)

        with pytest.raises(BootstrapError, match="change its trust window there"):
            host.bootstrap(trust_for=60)


class TestThePort:
    """
    Who listens there already.
    """

    def listens(self, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
        listener = Listener(4711, words)
        monkeypatch.setattr(own_server, "find_listener", lambda port: listener)

    def test_another_program(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where another program has the port nothing is done; the error names it.
        """
        self.listens(monkeypatch, "/usr/sbin/cf-serverd", "-F")
        with pytest.raises(BootstrapError, match=r"4711 \(/usr/sbin/cf-serverd -F\)"):
            host.bootstrap()

        assert not host.config.exists()

    def test_another_configuration(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A server of ours with another configuration is not this bootstrap's.
        """
        self.listens(monkeypatch, "twistd", "nodecomm-server", "-c", "/srv/x.toml")
        with pytest.raises(BootstrapError, match="--config-dir /srv"):
            host.bootstrap()

    def test_ours_runs(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A server that has this configuration is told to read it again, whoever started
        it.
        """
        host.bootstrap()
        told = []
        monkeypatch.setattr(os, "kill", lambda *arguments: told.append(arguments))
        config = str(host.config / "server.toml")
        self.listens(monkeypatch, "twistd", "nodecomm-server", "-c", config)
        result = host.bootstrap()

        assert told == [(4711, signal.SIGHUP)]
        assert result.started["nodecomm-server"].how == "reloaded"

    def test_ours_was_quicker(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A server that gets the port while another is started is the one that is used.
        """
        config = str(host.config / "server.toml")
        told = []

        def start(*arguments: Any, **more: Any) -> Started:
            self.listens(monkeypatch, "twistd", "nodecomm-server", "-c", config)
            monkeypatch.setattr(os, "kill", lambda *each: told.append(each))
            host.starts.append(SERVER)
            raise CannotStart("the port is taken")

        monkeypatch.setattr(PlayedStarter, "start", start)
        result = host.bootstrap()

        assert told == [(4711, signal.SIGHUP)]
        assert result.started["nodecomm-server"].pid == 4711

    @pytest.mark.parametrize(
        ("words", "places"),
        [
            (["twistd", "-n", "nodecomm-server", "-c", "/a"], ("/a", None)),
            (["twistd", "nodecomm-server", "--config=/a", "-v"], ("/a", None)),
            (["twistd", "nodecomm-server", "--config", "/a"], ("/a", None)),
            (["twistd", "nodecomm-server", "-c/a"], ("/a", None)),
            (["twistd", "-c", "/b", "nodecomm-server"], (SYSTEM, None)),
            (["twistd", "nodecomm-server", "--state-dir", "/s"], (SYSTEM, "/s")),
            (["twistd", "nodecomm-server", "-c/a", "--state-dir=/s"], ("/a", "/s")),
            (["twistd", "nodecomm-agent", "-c", "/a"], (None, None)),
        ],
    )
    def test_which_places(
        self, words: list[str], places: tuple[str | None, str | None]
    ) -> None:
        """
        The command line says which configuration and state folder a server has.
        """
        assert places_of(Listener(1, tuple(words))) == places

    def test_a_relative_name(self, tmp_path: Path) -> None:
        """
        A relative name starts where the server runs.
        """
        words = ("twistd", "nodecomm-server", "-c", "x.toml", "--state-dir=var")
        with subprocess.Popen(
            [sys.executable, "-c", "input()"], cwd=tmp_path, stdin=subprocess.PIPE
        ) as process:
            found = places_of(Listener(process.pid, words))
            process.communicate(b"\n")

        assert found == (str(tmp_path / "x.toml"), str(tmp_path / "var"))

    def test_another_state_folder(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A server of ours with another state folder is not this bootstrap's.
        """
        self.listens(monkeypatch, "twistd", "nodecomm-server", "--state-dir", "/srv/s")
        with pytest.raises(BootstrapError, match="with --state-dir /srv/s"):
            host.bootstrap()

        assert not host.config.exists()


class TestTheOwnServer:
    """
    The server that answers.
    """

    def test_another_key(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A server with another key is not this state folder's, and that is told at once.
        """

        async def connect(trust: Any) -> PublicKey:
            raise UntrustedServer("key-changed", "another key", HERE, None)

        monkeypatch.setattr(host.hub, "connect", connect)
        with pytest.raises(BootstrapError, match="not this state folder's own"):
            host.bootstrap()

    def test_it_never_answers(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What keeps failing is told in the end, as it is.
        """
        assert isinstance(host.hub, OwnHub)
        host.hub.slow = 10**9
        with pytest.raises(Unreachable):
            host.bootstrap()

    def test_it_refuses_for_good(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A server that goes on with rules of its own refuses in the end.
        """

        async def fetch(request: SyncRequest) -> SyncResult:
            raise SourceRefused("refused", "refused")

        monkeypatch.setattr(host.hub, "fetch", fetch)
        with pytest.raises(SourceRefused):
            host.bootstrap()


class TestSample:
    """
    A policy to begin with.
    """

    NAMES = ["cf_promises_validated", "promises.cf", "update.cf"]

    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    def test_no_folder(self, tmp_path: Path) -> None:
        """
        All of it is there at once, and nothing else is left behind.
        """
        assert place_sample(tmp_path, NOW)
        assert self.names(tmp_path) == ["masterfiles", "modules"]
        assert self.names(tmp_path / "masterfiles") == self.NAMES
        assert not place_sample(tmp_path, NOW)

    def test_leftovers(self, tmp_path: Path) -> None:
        """
        What a killed run has left is removed.
        """
        (tmp_path / ".nodecomm-sample-x" / "masterfiles").mkdir(parents=True)
        assert place_sample(tmp_path, NOW)
        assert self.names(tmp_path) == ["masterfiles", "modules"]

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        """
        An empty folder is no policy.
        """
        (tmp_path / "masterfiles").mkdir()
        assert place_sample(tmp_path, NOW)
        assert self.names(tmp_path / "masterfiles") == self.NAMES

    def test_a_link_to_an_empty_folder(self, tmp_path: Path) -> None:
        """
        A link stays one.
        """
        (tmp_path / "there").mkdir()
        (tmp_path / "masterfiles").symlink_to("there")
        assert place_sample(tmp_path, NOW)
        assert (tmp_path / "masterfiles").is_symlink()
        assert self.names(tmp_path / "there") == self.NAMES

    def test_a_folder_that_cannot_be_renamed_onto(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A mounted folder is filled, the file that nodes look at last.
        """
        (tmp_path / "masterfiles").mkdir()
        rename = os.rename

        def refuse(source: Any, target: Any) -> None:
            if Path(target).name == "masterfiles":
                raise OSError(16, "Device or resource busy")
            rename(source, target)

        monkeypatch.setattr(os, "rename", refuse)
        assert place_sample(tmp_path, NOW)
        assert self.names(tmp_path / "masterfiles") == self.NAMES

    def test_modules_of_others(self, tmp_path: Path) -> None:
        """
        Modules that are there stay as they are.
        """
        (tmp_path / "modules").mkdir()
        (tmp_path / "modules" / "mine").write_text("")
        assert place_sample(tmp_path, NOW)
        assert self.names(tmp_path / "modules") == ["mine"]


@pytest.mark.slow
def test_killed_anywhere(tmp_path: Path) -> None:
    """
    Whatever change the bootstrap of a policy server does not get beyond, the next one
    succeeds.
    """
    count = 1
    while True:
        host = Host(tmp_path / str(count))
        try:
            interrupted_after(count, host.bootstrap)
        except Killed:
            host.hub.is_open = False
        else:
            break
        host.bootstrap()
        assert host.windows == [("192.0.0.0/16", at(86400))]
        assert (host.state / "masterfiles" / "promises.cf").exists()
        assert (host.state / "inputs" / "promises.cf").exists()
        assert host.agent.agent.policy_servers == (str(HERE),)
        count += 1
    assert count > 30
