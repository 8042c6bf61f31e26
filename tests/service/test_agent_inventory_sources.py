# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_inventory_prepared` and `agent_inventory_sources`:
where inventories go, and which key a server must have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock
from zope.interface import alsoProvides

from nodecomm.identity.own import KEYS_FOLDER, create_own_key
from nodecomm.identity.server_keys import SERVER_KEYS_FOLDER, ServerKeyStore
from nodecomm.inventory.own import CERTIFICATE_NAME
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.upstream import InventoryUpstream
from nodecomm.inventory.upstream_trust import (
    Authorities,
    PinnedKeys,
    PinOnFirstUse,
    Unchecked,
)
from nodecomm.server.pools import InlinePool
from nodecomm.service.agent_inventory_prepared import PreparedInventory
from nodecomm.service.agent_inventory_sources import InventorySources, NoWay
from nodecomm.service.agent_prepared import prepare_agent
from nodecomm.service.loading import load_agent
from nodecomm.testing import key_pair

AGENT = """
[agent]
policy_servers = {servers}
{more}
[[copy]]
source = "masterfiles"
destination = "/srv/x"
"""

MD5 = key_pair(2).public.md5


def read(
    folder: Path, inventory: str = "", more: str = "", servers: str = '["hub:5309"]'
) -> tuple[PreparedInventory | None, list[str]]:
    """What a file means, and the problems that it has."""
    path = folder / "agent.toml"
    path.write_text(AGENT.format(servers=servers, more=more) + inventory)
    environ = {"PASSWORD": "sesame"}
    prepared, loaded = prepare_agent(
        load_agent(path, state_dir=folder / "state", environ=environ)
    )
    problems = [
        f"{p.severity} {p.key_path}: {p.message}"
        for p in loaded.problems
        if p.key_path.startswith("inventory")
    ]
    return (None if prepared is None else prepared.inventory), problems


def good(folder: Path, inventory: str = "", **more: str) -> PreparedInventory:
    """What a good file means."""
    prepared, problems = read(folder, inventory, **more)
    assert prepared is not None, problems
    return prepared


@pytest.mark.parametrize(
    ("servers", "urls"),
    [
        ('["hub.example.com:5309"]', ["https://hub.example.com/"]),
        (
            '["a", "b:5308", "192.0.2.1"]',
            ["https://a/", "https://b/", "https://192.0.2.1/"],
        ),
        ('["[2001:db8::1]:5308", "::1"]', ["https://[2001:db8::1]/", "https://[::1]/"]),
        ('["a:5308", "a:5309"]', ["https://a/"]),
        ('["fe80::1%eth0", "a"]', ["https://a/"]),
    ],
)
def test_where_to(tmp_path: Path, servers: str, urls: list[str]) -> None:
    """Port 443 of each policy server, once."""
    found = good(tmp_path, servers=servers)
    assert list(found.urls) == urls
    assert not found.is_asked_for


def test_elsewhere(tmp_path: Path) -> None:
    """Where the configuration says; the policy server keeps its name."""
    found = good(tmp_path, '[inventory]\nurls = ["https://proxy:8443/x"]\n')
    (target,) = found.targets
    assert target.url == "https://proxy:8443/x"
    assert target.name == "hub"
    assert found.is_asked_for


def test_passwords(tmp_path: Path) -> None:
    """They are read from where they stand, and are shown nowhere."""
    found = good(
        tmp_path,
        '[inventory]\nfirst_password = { env = "PASSWORD" }\n'
        'update_user = "u"\nupdate_password = "other"\n',
    )
    assert found.accounts == {
        Box.FIRST: ("rudder", "sesame"),
        Box.UPDATE: ("u", "other"),
    }
    assert "sesame" not in repr(found)
    prepared, problems = read(tmp_path, '[inventory]\nfirst_password = { env = "X" }\n')
    assert prepared is None
    assert "the environment variable X is not set" in problems[0]


@pytest.mark.parametrize(
    ("inventory", "said"),
    [
        ('server_keys = ["MD5=x"]', "error inventory.server_keys[0]: 'MD5=x' names no"),
        ('server_keys = ["/nonexistent"]', "this file cannot be read: No such file"),
        ('server_trust = "ca"\nca_file = "/nonexistent"', "error inventory.ca_file"),
        (
            'command = ["/nonexistent"]',
            "warning inventory.command[0]: there is no such",
        ),
    ],
)
def test_what_is_not_there(tmp_path: Path, inventory: str, said: str) -> None:
    """Files and programs are looked at when the configuration is read."""
    _, problems = read(tmp_path, f"[inventory]\n{inventory}\n")
    assert [p for p in problems if said in p], problems


def test_a_file_without_a_key(tmp_path: Path) -> None:
    """It is told which entry it is."""
    (tmp_path / "key.pem").write_text("nothing\n")
    _, problems = read(
        tmp_path,
        f'[inventory]\nserver_keys = ["MD5={"0" * 32}", "{tmp_path}/key.pem"]\n',
    )
    assert problems[0].startswith("error inventory.server_keys[1]: ")


def sources(folder: Path) -> InventorySources:
    """The ways of a node."""
    state = folder / "state"
    create_own_key(os.fspath(state / KEYS_FOLDER), key_pair(1))
    pool = InlinePool()
    reactor = MemoryReactorClock()
    # Twisted 24 warns of one that looks no names up; nobody does here.
    alsoProvides(reactor, IReactorPluggableNameResolver)
    vars(reactor).setdefault("nameResolver", None)
    return InventorySources(reactor, os.fspath(state), key_pair(1), pool, lambda: 1.8e9)


def connect(ways: InventorySources, prepared: PreparedInventory) -> InventoryUpstream:
    """The way to the first server."""
    found: list[object] = []
    way = Deferred.fromCoroutine(ways.connect(prepared.targets[0], prepared))
    way.addBoth(found.append)
    error = getattr(found[0], "value", None)
    if error is not None:
        raise error
    assert isinstance(found[0], InventoryUpstream)
    return found[0]


@contextmanager
def no_way(code: str) -> Iterator[None]:
    """There is none, for this reason."""
    with pytest.raises(NoWay) as refused:
        yield
    assert refused.value.failure.code == code


def check(upstream: InventoryUpstream) -> object:
    """How its key is judged."""
    return upstream._endpoint._check


def test_the_key_of_the_policy_server(tmp_path: Path) -> None:
    """
    The one that is stored for it, once there is one; who we are is shown to it, too.
    """
    ways = sources(tmp_path)
    prepared = good(tmp_path)
    with no_way("no-key"):
        connect(ways, prepared)
    store = ServerKeyStore(os.fspath(tmp_path / "state" / SERVER_KEYS_FOLDER))
    store.add("other:5308", key_pair(3).public)
    with no_way("no-key"):
        connect(ways, prepared)
    store.add("hub:5309", key_pair(2).public)
    judge = check(connect(ways, prepared))
    assert isinstance(judge, PinnedKeys)
    assert judge.pins == (key_pair(2).public,)
    assert (tmp_path / "state" / CERTIFICATE_NAME).exists()
    Path(store.path("hub:5309")).write_text("damaged")
    with no_way("store-unusable"):
        connect(ways, prepared)


def test_keys_that_are_named(tmp_path: Path) -> None:
    """Those of `[inventory]` before those of `[agent]` before what is stored."""
    ways = sources(tmp_path)
    store = ServerKeyStore(os.fspath(tmp_path / "state" / SERVER_KEYS_FOLDER))
    store.add("hub:5309", key_pair(3).public)
    agent = f'server_keys = ["{MD5}"]'
    judge = check(connect(ways, good(tmp_path, more=agent)))
    assert isinstance(judge, PinnedKeys)
    assert judge.pins == (MD5,)
    own = f'[inventory]\nserver_keys = ["MD5={"1" * 32}"]\n'
    judge = check(connect(ways, good(tmp_path, own, more=agent)))
    assert isinstance(judge, PinnedKeys)
    assert judge.pins == (f"MD5={'1' * 32}",)


@pytest.mark.parametrize(
    ("trust", "kind"),
    [("pin", PinOnFirstUse), ("ca", Authorities), ("none", Unchecked)],
)
def test_other_trust(tmp_path: Path, trust: str, kind: type) -> None:
    """As the configuration says, whatever is known of the policy server."""
    ways = sources(tmp_path)
    prepared = good(
        tmp_path,
        f'[inventory]\nserver_trust = "{trust}"\n',
        more=f'server_keys = ["{MD5}"]',
    )
    assert isinstance(check(connect(ways, prepared)), kind)


def test_an_id_that_is_none(tmp_path: Path) -> None:
    """There is nobody to say who we are."""
    ways = sources(tmp_path)
    (tmp_path / "state" / "uuid").write_text("?\n")
    with no_way("node-id"):
        connect(ways, good(tmp_path, '[inventory]\nserver_trust = "pin"\n'))
