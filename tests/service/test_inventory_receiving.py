# SPDX-License-Identifier: MIT
"""
A policy server that takes inventories, as a process, and what is wrong with its tables.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.python import usage

from nodecomm.cli import main
from nodecomm.cli.server_state import ServerState, find_state
from nodecomm.config.model import Settings
from nodecomm.inventory.doors import Account
from nodecomm.inventory.node_sqlite import open_nodes
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.site import UploadChannel
from nodecomm.inventory.spool import Spool
from nodecomm.service import inventory_receiving
from nodecomm.service.inventory_checks import waits_for_restart
from nodecomm.service.inventory_receiving import InventoryReceiver
from nodecomm.service.loading import load
from nodecomm.service.nodes_followed import NodesFollowed
from nodecomm.service.own_state import StartError
from nodecomm.service.prepared import prepare
from nodecomm.transport.memory import TLSOverTransport
from tests.identity.sample import pair
from tests.ports import free_port
from tests.service.node import PATIENCE, Server

SERVER = """
[server]
listen = ["tcp:{port}:interface=127.0.0.1"]
allowed_networks = ["127.0.0.1"]
state_dir = "{state}"
[inventory]
listen = ["tcp:{inventories}:interface=127.0.0.1"]
first_password = "secret"
min_free = 0
{more}
"""


def configured(folder: Path, more: str = "", **ports: int) -> Path:
    """A configuration file with [inventory]."""
    path = folder / "server.toml"
    ports.setdefault("port", free_port())
    ports.setdefault("inventories", free_port())
    text = SERVER.format(state=folder / "state", more=more, **ports)
    path.write_text(text)
    return path


def settings(folder: Path, more: str = "") -> Settings:
    """What a configuration says."""
    found = load(configured(folder, more, port=1, inventories=2)).settings
    assert found is not None
    return found


def problems(folder: Path, more: str) -> list[str]:
    """The errors in a configuration."""
    prepared, loaded = prepare(load(configured(folder, more)))
    assert (prepared is None) == any(each.is_error for each in loaded.problems)
    return [str(each) for each in loaded.problems if each.is_error]


def nodecomm(*words: str) -> str:
    """What a command prints."""
    out, err = StringIO(), StringIO()
    assert main.run(list(words), out, err) == 0, err.getvalue()
    return out.getvalue()


@pytest.mark.programs
def test_the_whole_way(tmp_path: Path) -> None:
    """
    A node makes an inventory, signs it and sends it with curl; the server has it
    pending, an operator accepts it, and the server ends in order.
    """
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs curl")
    quiet = (curl, "--silent", "--insecure", "--fail")
    port = free_port()
    config = configured(tmp_path, inventories=port)
    node = str(tmp_path / "node")
    document = str(tmp_path / "node.ocs")
    nodecomm("key", "generate", "--state-dir", node)
    made = ("--hostname", "a.example.org", "-o", document)
    nodecomm("inventory", "make", "--state-dir", node, *made)
    nodecomm("inventory", "sign", "--state-dir", node, document)

    with Server(tmp_path, "-c", str(config)) as server:
        server.wait_for("taking inventories on")
        place = f"https://127.0.0.1:{port}"
        told = subprocess.run(
            [*quiet, f"{place}/uuid"],
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        ).stdout
        assert re.fullmatch(r"[a-z0-9-]{36}\n", told)
        for name in (document, f"{document}.sign"):
            send = ("--user", "rudder:secret", "--upload-file", name)
            subprocess.run(
                [*quiet, *send, f"{place}/inventories/"],
                check=True,
                timeout=PATIENCE,
            )
        limit = ("--timeout", str(PATIENCE), "--json")
        waited = json.loads(nodecomm("nodes", "wait", "-c", str(config), *limit))
        (pending,) = waited["nodes"]
        listed = nodecomm("nodes", "list", "-c", str(config))
        assert pending["id"] in listed
        assert "pending" in listed
        nodecomm("nodes", "accept", "-c", str(config), pending["id"])
        assert "accepted" in nodecomm("nodes", "list", "-c", str(config))
        assert nodecomm("inventory", "failed", "-c", str(config)) == ""
        server.signal(signal.SIGTERM)
        assert server.wait() == -signal.SIGTERM
        said = server.out.read_text() + server.err.read_text()

    assert "Traceback" not in said
    assert "stopped" in said
    assert list((tmp_path / "state" / "inventories" / "ready").iterdir()) == []


@pytest.mark.programs
def test_an_address_in_use(tmp_path: Path) -> None:
    """A port of inventories that is taken is one line that names the table."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = configured(tmp_path, inventories=taken.getsockname()[1])
        with Server(tmp_path, "-c", str(config)) as server:
            assert server.wait() == 1
            told = server.err.read_text()

    assert "in [inventory]" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('networks = ["10.0.0.0/99"]', "inventory.networks[0]"),
        ('auto_accept = ["nobody"]', "inventory.auto_accept[0]"),
        ('[[registered]]\nid = "a"\nkey = "no key"', "registered[0].key"),
        ('database = "mysql://db/nodes"', "inventory.database"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, more: str, told: str) -> None:
    """What cannot be used is an error at its place before anything starts."""
    (problem,) = problems(tmp_path, more)
    assert told in problem


def test_certificate_files_that_cannot_be_read(tmp_path: Path) -> None:
    """
    A check tells of them, and does not refuse the configuration: it may be made by
    somebody who may not read them, and a server that runs goes on with what it has.
    """
    files = 'certificate = { cert = "/none.pem", key = "/none.key" }'
    prepared, loaded = prepare(load(configured(tmp_path, files)))
    assert prepared is not None
    (problem,) = map(str, loaded.problems)
    assert "warning: inventory.certificate: /none.pem: No such file" in problem
    assert "does not start" in problem

    _, loaded = prepare(load(configured(tmp_path, "")))
    assert loaded.problems == ()


def test_what_waits_for_a_restart(tmp_path: Path) -> None:
    """Who may send is in force at once; what the site is made of is not."""
    before = settings(tmp_path)

    assert waits_for_restart(before, before) == []
    assert waits_for_restart(before, settings(tmp_path, "waiting = 5")) == []
    later = settings(tmp_path, 'max_age = "1d"')
    assert waits_for_restart(before, later)[-1] == "inventory.max_age"
    assert waits_for_restart(before, Settings()) == ["inventory"]
    assert waits_for_restart(Settings(), Settings()) == []


def test_it_is_shown(tmp_path: Path) -> None:
    """`nodecomm config show` prints the tables so that they can be read again."""
    more = 'update_user = "u"\nupdate_password = "p"\n'
    config = configured(tmp_path, more)
    shown = nodecomm("config", "show", "-c", str(config))
    assert 'certificate = { cert = "own-key" }' in shown
    assert '"secret"' not in shown
    again = tmp_path / "again.toml"
    again.write_text(shown)
    found, before = load(again).settings, load(config).settings
    assert found is not None and found.inventory is not None
    assert before is not None and before.inventory is not None
    assert found.inventory.listen == before.inventory.listen
    assert found.inventory.certificate == before.inventory.certificate

    config.write_text('[server]\nlisten = ["tcp:1"]\n')
    assert "# [inventory] is not set" in nodecomm("config", "show", "-c", str(config))


def test_state_of_a_configuration(tmp_path: Path) -> None:
    """Commands work on the state that a configuration names, secrets unseen."""
    more = 'update_user = "u"\nupdate_password = { env = "NOT_THERE" }'
    config = configured(tmp_path, more)

    found = find_state(str(config), None)
    assert found.folder == tmp_path / "state"
    assert found.database == "sqlite:///nodes.sqlite"
    assert find_state(str(config), tmp_path).folder == tmp_path
    with pytest.raises(usage.UsageError, match="missing"):
        find_state(str(tmp_path / "missing.toml"), None)


def test_the_servers_configuration_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Without a word about it, commands work on what this machine's server has; who names
    a state folder means that one.
    """
    monkeypatch.delenv("NODECOMM_STATE_DIR", raising=False)
    system = configured(tmp_path, f'database = "sqlite:///{tmp_path}/else.sqlite"')
    here = find_state(None, None, system)
    assert here.folder == tmp_path / "state"
    assert here.nodes().path == tmp_path / "else.sqlite"
    assert find_state(None, tmp_path, system) == ServerState(tmp_path)
    assert find_state(None, None, tmp_path / "none.toml").config is None
    monkeypatch.setenv("NODECOMM_STATE_DIR", str(tmp_path / "mine"))
    assert find_state(None, None, system).folder == tmp_path / "mine"


def test_a_server_without_inventories(tmp_path: Path) -> None:
    """A server that takes no inventories has no nodes, and that is said."""
    config = tmp_path / "server.toml"
    config.write_text('[server]\nlisten = ["tcp:1"]\n')
    for words in (("nodes", "list"), ("inventory", "failed")):
        out, err = StringIO(), StringIO()
        status = main.run([*words, "-c", str(config)], out, err)
        assert (status, out.getvalue()) == (2, "")
        assert f"the server of {config} takes no inventories" in err.getvalue()


def test_advice_repeats_the_configuration(tmp_path: Path) -> None:
    """A command that is advised is about the same server."""
    config = configured(tmp_path)
    out, err = StringIO(), StringIO()
    (tmp_path / "state").mkdir()
    key = tmp_path / "key.pem"
    key.write_bytes(pair(1).public.to_pem())
    nodecomm("nodes", "register", "-c", str(config), "a", str(key))
    status = main.run(["nodes", "refuse", "-c", str(config), "a"], out, err)
    assert status == 1
    assert f"`nodecomm nodes delete a --config {config}`" in err.getvalue()


def test_a_database_of_a_configuration(tmp_path: Path) -> None:
    """`nodecomm nodes` asks the database that the configuration names."""
    config = configured(tmp_path, f'database = "sqlite:///{tmp_path}/else.sqlite"')
    with open_nodes(tmp_path / "else.sqlite"):
        pass
    listed = json.loads(nodecomm("nodes", "list", "--json", "-c", str(config)))

    assert listed["nodes"] == []
    assert not (tmp_path / "state").exists()


def receiver(folder: Path, more: str = "") -> InventoryReceiver:
    """What takes inventories; nothing runs."""
    found = settings(folder, more)
    state = str(folder / "state")
    reactor = MemoryReactorClock()
    nodes = NodesFollowed(found, state, reactor=reactor)
    return InventoryReceiver(found, state, pair(1), nodes, reactor=reactor)


def put_in_force(taking: InventoryReceiver, found: Settings) -> list[str]:
    """Reload, which is done at once in memory; what is not in force."""
    waiting: list[list[str]] = []
    Deferred.fromCoroutine(taking.apply(found)).addCallback(waiting.append)
    return waiting[0]


def test_what_is_in_the_way_of_a_start(tmp_path: Path) -> None:
    """Whatever cannot be used is a start error that names it."""
    with pytest.raises(StartError, match=r"the server's own key: .* too small"):
        receiver(tmp_path)
    files = 'certificate = { cert = "/none.pem", key = "/none.key" }'
    with pytest.raises(StartError, match=r"certificate: /none\.pem: No such file"):
        receiver(tmp_path, files)

    database = tmp_path / "state" / "nodes.sqlite"
    kept = database.read_bytes()
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(StartError, match=r"nodes\.sqlite: it is damaged"):
        receiver(tmp_path)
    database.write_bytes(kept)

    now = datetime.now(timezone.utc)
    folder = tmp_path / "state" / "inventories"
    other = Spool(folder, seconds=lambda: 0.0, now=lambda: now)
    other.open()
    with pytest.raises(StartError, match=r"another program uses .*; end the other"):
        receiver(tmp_path)
    other.close()
    uuid = tmp_path / "state" / "uuid"
    uuid.write_text("not an id")
    with pytest.raises(StartError, match="uuid"):
        receiver(tmp_path)


def test_a_reload_with_tls_or_without(tmp_path: Path) -> None:
    """New connections are with TLS or without as the configuration says now."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    with patch.object(inventory_receiving, "own_key_certificate", lambda *_: context):
        taking = receiver(tmp_path)
        here = IPv4Address("TCP", "127.0.0.1", 40000)
        for more, shown in (
            ("plain = true", UploadChannel),
            ("", TLSOverTransport),
            ("", TLSOverTransport),
            ("plain = true", UploadChannel),
        ):
            assert put_in_force(taking, settings(tmp_path, more)) == []
            assert isinstance(taking._front.buildProtocol(here), shown)
    # A key that TLS does not take.
    waiting = put_in_force(taking, settings(tmp_path))
    assert waiting == ["inventory.certificate", "inventory.plain"]
    assert isinstance(taking._front.buildProtocol(here), UploadChannel)


def test_a_reload_changes_who_may_send(tmp_path: Path) -> None:
    """Networks, users and limits of uploads are new at once, the site is the same."""
    taking = receiver(tmp_path, "plain = true")
    assert Box.UPDATE not in taking.resource.rules.accounts

    more = 'networks = ["10.0.0.0/8"]\nmax_size = 70000\nuploads_at_once = 3\n'
    more += 'update_user = "u"\nupdate_password = "p"'
    before = taking.resource.rules
    put_in_force(taking, settings(tmp_path, more))
    rules = taking.resource.rules

    assert rules.networks.find("10.1.2.3") is not None
    assert rules.networks.find("127.0.0.1") is None
    assert rules.accounts[Box.UPDATE] == [Account("u", "p")]
    assert rules.at_once == 3
    assert rules.limits == before.limits
    put_in_force(taking, Settings())
    assert taking.resource.rules is rules
