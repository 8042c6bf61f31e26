# SPDX-License-Identifier: MIT
"""
`nodecomm bootstrap`: its command line, its output, its exit statuses.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from twisted.python import usage

from nodecomm.cli import bootstrap, main
from nodecomm.cli.bootstrap import Options
from nodecomm.client.address import ServerAddress
from nodecomm.client.errors import BadAnswer, Rejected, Unreachable
from nodecomm.identity.keys import KeyPair
from nodecomm.identity.own import create_own_key
from nodecomm.service import bootstrap_link
from nodecomm.sync.errors import LocalError, VerificationFailed
from tests.identity.sample import pair
from tests.service.test_bootstrapping import HUB_KEY, OTHER_KEY, Hub

#: An address that is nobody's, and needs no look-up.
HOST = "203.0.113.77"


def parsed(*arguments: str) -> Options:
    """
    The options of a command line.
    """
    options = Options()
    options.parseOptions([HOST, *arguments])
    return options


class TestOptions:
    """
    The command line.
    """

    def test_plain(self) -> None:
        """
        A host is enough.
        """
        options = parsed()

        assert options.server == ServerAddress(HOST)
        assert options.trust_for is None
        assert options.trust_networks == []
        assert options["role"] == "auto"

    @pytest.mark.parametrize(
        ("text", "seconds"), [("2h", 7200), ("0", 0), ("1d12h", 129600), ("90s", 90)]
    )
    def test_trust_for(self, text: str, seconds: float) -> None:
        """
        A length of time as in the configuration, or 0.
        """
        assert parsed("--trust-for", text).trust_for == seconds

    def test_trust_network(self) -> None:
        """
        It may be given several times.
        """
        options = parsed("--trust-network=10.1.0.0/16", "--trust-network=2001:db8::/64")

        assert options.trust_networks == ["10.1.0.0/16", "2001:db8::/64"]

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["--trust-for", "soon"], "--trust-for"),
            (["--trust-network", "10.1.2.3/16"], "has host bits set"),
            (["--trust-network", "office"], "--trust-network"),
            (["--role", "king"], "auto, node, server"),
            (["--trust-server", "--server-key", HUB_KEY.md5], "one of the two"),
            (["--server-key", "MD5=12"], "digest"),
            (["--protocol", "1"], "speaks TLS only"),
            (["--encrypt"], "encrypt"),
            (["again"], "too many"),
        ],
    )
    def test_mistakes(self, arguments: list[str], told: str) -> None:
        """
        Mistakes are told before anything is done.
        """
        with pytest.raises(usage.UsageError, match=told):
            parsed(*arguments)

    @pytest.mark.parametrize("host", ["0.0.0.0", "[::]:5308"])
    def test_the_wildcard_is_no_server(self, host: str) -> None:
        """
        What means all addresses of this machine is the address of no server.
        """
        with pytest.raises(usage.UsageError, match="no address of a server"):
            Options().parseOptions([host])

    @pytest.mark.parametrize(
        ("uid", "arguments", "places"),
        [
            (0, [], ("/var/lib/nodecomm", "/etc/nodecomm", True)),
            (0, ["--state-dir", "/s"], ("/s", "/s", False)),
            (
                0,
                ["--state-dir", "/s", "--config-dir", "/etc/nodecomm"],
                ("/s", "/etc/nodecomm", True),
            ),
            (0, ["--config-dir", "/c"], ("/var/lib/nodecomm", "/c", False)),
            (7, ["--state-dir", "/s"], ("/s", "/s", False)),
            (
                7,
                ["--state-dir", "/var/lib/nodecomm"],
                ("/var/lib/nodecomm", "/var/lib/nodecomm", False),
            ),
            (7, ["--config-dir", "/etc/nodecomm"], (None, "/etc/nodecomm", False)),
        ],
    )
    def test_places(
        self,
        uid: int,
        arguments: list[str],
        places: tuple[str | None, str, bool],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        The machine's own folders are root's; whoever has another state folder has the
        configuration there, too.
        """
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        monkeypatch.delenv("NODECOMM_STATE_DIR", raising=False)
        state_dir, config_dir, system = parsed(*arguments).places

        assert places[0] in (None, str(state_dir))
        assert (str(config_dir), system) == places[1:]


class Command:
    """
    The command, with a server that is played.
    """

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder = folder
        self.hub = hub

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """
        Status, output, errors.
        """
        out, err = io.StringIO(), io.StringIO()
        line = ["bootstrap", HOST, "--state-dir", str(self.folder), *arguments]
        status = main.run(line, out, err)
        return status, out.getvalue(), err.getvalue()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """
    The command where nobody sits at a terminal.
    """
    hub = Hub(masterfiles={"promises.cf": "x"}, modules={})
    made = pair(9)
    monkeypatch.setattr(KeyPair, "generate", lambda bits: made)
    monkeypatch.setattr(bootstrap_link, "ServerLink", lambda *arguments: hub)
    monkeypatch.setattr(bootstrap, "ask_about_key", lambda *a, **k: None)
    return Command(tmp_path, hub)


def test_done(command: Command) -> None:
    """
    What was done is told on standard output, and what to do next.
    """
    status, out, err = command("--trust-server")

    assert (status, err) == (0, "")
    assert f"{HOST}:5308 has the key {HUB_KEY.md5}" in out
    assert f"wrote {command.folder}/agent.d/50-bootstrap.toml" in out
    assert (
        "this machine is a node of 203.0.113.77:5308 now; run this with --start" in out
    )


def test_json(command: Command) -> None:
    """
    With --json standard output is one object, and people read standard error.
    """
    status, out, err = command("--server-key", HUB_KEY.sha, "--json")
    facts = json.loads(out)

    assert status == 0
    assert facts["role"] == "node"
    assert facts["server"] == f"{HOST}:5308"
    assert facts["key"] == {"md5": HUB_KEY.md5, "sha": HUB_KEY.sha}
    assert [copy["source"] for copy in facts["copies"]] == ["masterfiles", "modules"]
    assert str(command.folder / "agent.d" / "50-bootstrap.toml") in facts["files"]
    assert "made a key" in err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unreachable("connection-refused", "nobody listens"), 3),
        (Rejected("not-trusted", "unknown key"), 5),
        (BadAnswer("bad-status", "nonsense"), 6),
        (VerificationFailed("digest", "never agreed"), 6),
        (LocalError("no-space", "the disk is full"), 1),
        (PermissionError(13, "Permission denied", "/x"), 1),
    ],
)
def test_statuses(command: Command, error: Exception, status: int) -> None:
    """
    Each kind of failure has a status of its own and one line that says what it was.
    """
    command.hub.failures.append(error)
    found, _, err = command("--trust-server")

    assert found == status
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_no_terminal_and_no_flag(command: Command) -> None:
    """
    The status is that of an untrusted server, and the line names the flags.
    """
    status, _, err = command()

    assert status == 4
    for told in ("--server-key", "--trust-server", HUB_KEY.md5):
        assert told in err


def test_another_key(command: Command) -> None:
    """
    A key that is not the one named is untrusted.
    """
    assert command("--server-key", OTHER_KEY.md5)[0] == 4


def test_nothing_without_policy(command: Command) -> None:
    """
    A server that does not give masterfiles refuses.
    """
    del command.hub.has["masterfiles"]

    assert command("--trust-server")[0] == 5


@pytest.mark.parametrize("as_json", [False, True])
def test_a_configuration_that_leads_elsewhere(command: Command, as_json: bool) -> None:
    """
    What stands in a person's file is told with its place, for programs too.
    """
    path = command.folder / "agent.toml"
    path.write_text('[agent]\npolicy_servers = ["other"]\n')
    status, out, err = command("--trust-server", *(["--json"] if as_json else []))

    assert status == 1
    assert err.startswith(f"error: {path}:2:1: agent.policy_servers")
    if as_json:
        assert json.loads(out)["error"]["status"] == 1


def test_mistakes_in_the_configuration(command: Command) -> None:
    """
    Every mistake is told, each on a line.
    """
    path = command.folder / "agent.toml"
    path.write_text("[agent]\nintervall = 1\nsplay = 'x'\n")
    status, _, err = command("--trust-server")

    assert status == 1
    assert f"{path}:2:1" in err
    assert f"{path}:3:" in err


def test_a_damaged_key(command: Command, tmp_path: Path) -> None:
    """
    This machine's key is never replaced: a damaged one is told.
    """
    create_own_key(tmp_path / "ppkeys", pair(9))
    private = tmp_path / "ppkeys" / "localhost.priv"
    private.write_text("damaged")
    status, _, err = command("--trust-server")

    assert status == 1
    assert str(private) in err
    assert private.read_text() == "damaged"


def test_help() -> None:
    """
    The help names every option.
    """
    text = str(Options())

    for name in ("server-key", "trust-server", "start", "config-dir", "trust-network"):
        assert f"--{name}" in text
