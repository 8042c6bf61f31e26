# SPDX-License-Identifier: MIT
"""
`nodecomm inventory send`, to a server that is a process of its own.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from nodecomm.cli import main
from nodecomm.identity.own import create_own_key, load_own_key
from nodecomm.identity.server_keys import SERVER_KEYS_FOLDER, ServerKeyStore
from tests.identity.sample import pair
from tests.inventory.hub import hub_pair
from tests.inventory.test_https import pin
from tests.inventory.test_writing import FOREIGN
from tests.ports import free_port
from tests.service.node import Server

CONFIG = """
[server]
listen = ["tcp:{port}:interface=127.0.0.1"]
allowed_networks = ["127.0.0.1"]
state_dir = "{folder}/state"
[inventory]
listen = ["tcp:{inventories}:interface=127.0.0.1"]
server_id = "hub-1"
first_password = "first"
update_user = "updater"
update_password = "second"
min_free = 0
"""

AGENT = """
[agent]
policy_servers = ["127.0.0.1:{port}"]
state_dir = "{state}"
[[copy]]
source = "/x"
destination = "{state}/x"
[inventory]
enabled = false
first_password = "first"
{more}
"""


class Hub:
    """A server, and where it takes inventories."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}/"
        config = folder / "server.toml"
        config.write_text(
            CONFIG.format(port=free_port(), inventories=self.port, folder=folder)
        )
        self.server = Server(folder, "-c", str(config))
        self.server.wait_for("taking inventories on")
        self.key = load_own_key(folder / "state" / "ppkeys").public

    def nodes(self) -> Any:
        """What the server has."""
        out, err = io.StringIO(), io.StringIO()
        state = str(self.folder / "state")
        words = ["nodes", "wait", "--state-dir", state, "--json", "--timeout", "60"]
        assert main.run(words, out, err) == 0, err.getvalue()
        return json.loads(out.getvalue())["nodes"]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """One server for all of them."""
    folder = Path(tempfile.mkdtemp())
    hub = Hub(folder)
    with hub.server:
        yield hub
    assert "Traceback" not in hub.server.out.read_text()
    shutil.rmtree(folder)


class Node:
    """A node, and its commands."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "node"
        self.foreign = root / "foreign.xml"
        # The server has the time of today.
        now = datetime.now(timezone(timedelta(hours=1)))
        self.foreign.write_text(
            FOREIGN.replace("2026-02-03 04:05:06", f"{now:%Y-%m-%d %H:%M:%S}")
        )
        # Servers ask for a certificate, and OpenSSL takes no smaller key for that.
        create_own_key(self.state / "ppkeys", hub_pair())

    def run(self, *words: object) -> tuple[int, str, str]:
        """Status, output, errors of `nodecomm inventory`."""
        out, err = io.StringIO(), io.StringIO()
        line = ["inventory", "--state-dir", str(self.state), *map(str, words)]
        status = main.run(line, out, err)
        return status, out.getvalue(), err.getvalue()

    def send(self, *words: object) -> tuple[int, str, str]:
        """The same of `send`, without a look at this machine."""
        return self.run("send", "--from", self.foreign, *words)

    def password(self, text: str) -> Path:
        """A file with a password."""
        path = self.root / "password"
        path.write_text(f"{text}\r\nnothing of this\n")
        return path

    def files(self) -> tuple[Path, Path]:
        """A document and its signature."""
        document = self.root / "node.ocs"
        for words in (
            ("make", "--from", self.foreign, "-o", document),
            ("sign", document),
        ):
            status, _, err = self.run(*words)
            assert (status, err) == (0, "")
        return document, self.root / "node.ocs.sign"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node."""
    return Node(tmp_path)


@pytest.mark.programs
def test_made_and_sent(hub: Hub, node: Node) -> None:
    """An inventory is made, signed and sent; the server has the node then."""
    status, out, err = node.send(
        *("--to", hub.url, "--server-key", hub.key.md5),
        *("--password-file", node.password("first")),
    )

    assert (status, err) == (0, "")
    lines = out.splitlines()
    node_id = (node.state / "uuid").read_text().strip()
    assert lines[0] == "the server is hub-1"
    assert lines[1].startswith(f"made {node_id}_")
    assert lines[2].startswith(f"sent {node_id}_")
    assert f"to {hub.url}inventories/ (201, " in lines[2]
    assert ".ocs.sign to" in lines[3]
    assert node_id in lines[4]
    assert node_id in [each["id"] for each in hub.nodes()]


@pytest.mark.programs
def test_files(hub: Hub, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are there, compressed or not, and what a program is told."""
    monkeypatch.setenv("NODECOMM_INVENTORY_PASSWORD", "second")
    document, signature = node.files()
    compressed = node.root / "node.ocs.gz"
    compressed.write_bytes(gzip.compress(document.read_bytes()))
    common = ("--to", hub.url, "--server-key", pin(hub.key), "--json")
    updates = ("--updates", "--user", "updater")

    for words in ((document,), (compressed,), (compressed, signature)):
        status, out, err = node.run("send", *common, *updates, *words)

        assert (status, err) == (0, "")
        facts = json.loads(out)
        assert facts["box"] == "inventory-updates"
        assert facts["server"] == hub.url
        assert facts["key"] == hub_pair().public.md5
        assert [each["name"] for each in facts["files"]] == [
            words[0].name,
            "node.ocs.sign",
        ]
        sizes = [path.stat().st_size for path in (words[0], signature)]
        assert [each["bytes"] for each in facts["files"]] == sizes


@pytest.mark.programs
def test_another_server(hub: Hub, node: Node) -> None:
    """A server that is not known, or another one: both are told with its key."""
    other = pair().public.sha
    for words, code in (((), "key-unknown"), (("--server-key", other), "key-changed")):
        status, out, err = node.send("--to", hub.url, "--json", *words)

        assert status == 4
        error = json.loads(out)["error"]
        assert error["code"] == code
        assert error["shown"] == [pin(hub.key), hub.key.md5, hub.key.sha]
        assert err.startswith("error: ")
        for name in error["shown"]:
            assert name in err
        assert "--server-key" in err


@pytest.mark.programs
def test_how_the_server_is_known(hub: Hub, node: Node) -> None:
    """By its key among those of policy servers, on first use, or not at all."""
    password = ("--password-file", node.password("first"))

    status, _, err = node.send("--to", hub.url, "--insecure", *password)
    assert status == 0
    assert err.startswith("warning: the key of 127.0.0.1")

    for _ in range(2):
        assert node.send("--to", hub.url, "--first-use", *password)[0] == 0
    kept = (node.state / "https-servers").read_text()
    assert kept == f"127.0.0.1:{hub.port} {pin(hub.key)}\n"

    file = node.root / "hub.pem"
    file.write_bytes(hub.key.to_pem())
    assert node.send("--to", hub.url, "--server-key", file, *password)[0] == 0

    status, _, err = node.send("--to", hub.url, "--ca", "system", *password)
    assert (status, "by itself" in err) == (4, True)

    ServerKeyStore(node.state / SERVER_KEYS_FOLDER).add("127.0.0.1:5308", hub.key)
    assert node.send("--to", hub.url, *password)[0] == 0


@pytest.mark.programs
def test_by_the_configuration(hub: Hub, node: Node) -> None:
    """Where to, whom and with which password may stand in the agent's configuration."""
    config = node.root / "agent.toml"
    nowhere = free_port()
    urls = [f"https://127.0.0.1:{nowhere}/", hub.url]
    more = f'urls = {json.dumps(urls)}\nserver_keys = ["{hub.key.md5}"]'
    config.write_text(AGENT.format(port=nowhere, state=node.state, more=more))

    status, out, err = node.send("-c", config, "--json")

    assert status == 0, err
    assert json.loads(out)["server"] == hub.url
    # The first one did not answer.
    assert err.count("warning: ") == 1
    assert f"127.0.0.1:{nowhere}/: no connection" in err
    # What the command line says goes before it.
    status, _, err = node.send(
        "-c", config, "--to", hub.url, "--server-key", "MD5=" + "0" * 32
    )
    assert status == 4
    config.write_text("[agent]\nnonsense = 1\n")
    assert node.send("-c", config)[0] == 2


@pytest.mark.programs
def test_not_taken(hub: Hub, node: Node) -> None:
    """A wrong password, and a server that is not there."""
    known = ("--server-key", hub.key.md5)
    wrong = ("--password-file", node.password("wrong"))
    status, out, err = node.send("--to", hub.url, *known, *wrong, "--json")

    assert status == 5
    error = json.loads(out)["error"]
    assert (error["code"], error["http"], error["again"]) == ("refused", 401, True)
    assert "check the user and the password" in err

    status, _, err = node.send("--to", hub.url, *known, "--updates")
    assert status == 5
    assert "only a node that the server has accepted" in err

    status, _, err = node.send("--to", f"https://127.0.0.1:{free_port()}", *known)
    assert status == 3
    assert "refused" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--from", "x"], "where to?"),
        (["--to", "http://hub"], "https://HOST"),
        (["--to", "https://a:b@hub"], "name them apart"),
        (["--to", "https://hub", "--insecure", "--first-use"], "exclude each other"),
        (["--to", "https://hub", "--ca", "x", "--server-key", "y"], "exclude"),
        (["--to", "https://hub", "--server-key", "MD5="], "no such file"),
        (["--to", "https://hub", "--from", "x", "a.ocs"], "not for DOCUMENT"),
        (["--to", "https://hub", "--policy-server-id", "a b!"], "--policy-server-id"),
        (["--to", "https://hub", "a.txt"], "no server takes these names"),
        (["--to", "https://hub", "a.ocs", "b.ocs.sign"], "is called a.ocs.sign"),
        (["--to", "https://hub", "a.ocs.sign", "a.ocs"], "first the document"),
        (["--to", "https://hub", "--updates", "a.ocs"], "whose password?"),
        (["--to", "https://hub", "--ca", "/nowhere/ca.pem"], "/nowhere/ca.pem"),
    ],
)
def test_the_command_line(node: Node, words: list[str], expected: str) -> None:
    """What is not enough, or contradicts itself; nobody is asked for anything."""
    status, out, err = node.run("send", *words)

    assert (status, out) == (2, "")
    assert expected in err


def test_what_no_server_takes(node: Node) -> None:
    """It is not sent."""
    document, signature = node.files()
    to = ("--to", "https://hub", "--insecure")
    assert node.run("send", *to, node.root / "none.ocs")[0] == 1
    signature.write_bytes(b"nonsense")

    status, _, err = node.run("send", *to, document)

    assert status == 1
    assert err.startswith("error: bad-signature-file: ")
    document.write_bytes(b"<nonsense/>")
    assert node.run("send", *to, document)[0] == 1


def test_what_is_no_inventory_of_a_machine(node: Node) -> None:
    """Who names a file is told about that, and not about a program."""
    node.foreign.write_text("nonsense")
    to = ("--to", "https://hub", "--insecure", "--policy-server-id", "root")

    status, _, err = node.send(*to)

    assert status == 1
    assert "--from names" in err
    assert "`command`" not in err


def test_without_a_key(node: Node) -> None:
    """Who has none cannot sign anything."""
    shutil.rmtree(node.state)

    status, _, err = node.send("--to", "https://hub", "--insecure")

    assert status == 1
    assert f"`nodecomm key generate --state-dir {node.state}`" in err


@pytest.mark.programs
def test_signed_with_another_key(hub: Hub, node: Node) -> None:
    """A document that brings a new key is signed with the old one: a warning."""
    document, signature = node.files()
    shutil.rmtree(node.state)
    create_own_key(node.state / "ppkeys", pair())
    signature.unlink()
    assert node.run("sign", document)[0] == 0

    status, _, err = node.run(
        *("send", document, "--to", hub.url, "--server-key", hub.key.sha),
        *("--password-file", node.password("first")),
    )

    assert status == 0
    assert err.startswith("warning: it is not signed with the key that it brings")
