# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.config.inventory`: what the keys about inventories must be.
"""

from __future__ import annotations

import sys

import pytest
from attrs import field, frozen

from nodecomm.config.fields import about
from nodecomm.config.inventory import (
    CertificateSettings,
    InventorySettings,
    RegisteredSettings,
    check_inventory,
)
from nodecomm.config.placed import Checks, Placed
from nodecomm.config.secrets import Secret
from nodecomm.config.tree import structure_tree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


@frozen(kw_only=True)
class Whole(Placed):
    """A configuration with these tables alone."""

    inventory: InventorySettings = field(
        factory=InventorySettings, metadata=about("Inventories.")
    )
    registered: tuple[RegisteredSettings, ...] = field(
        default=(), metadata=about("Nodes.")
    )


def read(toml: str) -> tuple[Whole, list[str]]:
    """What a document says, and what is said about it, without the place."""
    found = structure_tree(Whole, tomllib.loads(toml), {})
    whole = found.value
    together = check_inventory(Checks(whole), whole.inventory, whole.registered)
    problems = [*found.problems, *together]
    return whole, [
        str(problem).removeprefix("configuration: ")
        + (" (warning)" if problem.severity == "warning" else "")
        for problem in problems
    ]


def test_nothing_need_be_written() -> None:
    """An empty table is a server as Rudder's nodes expect it."""
    whole, problems = read("[inventory]\n")

    assert problems == []
    assert whole.inventory == InventorySettings()
    assert whole.inventory.first_password.reveal() == "rudder"
    assert whole.inventory.certificate == CertificateSettings(cert="own-key")


def test_every_key_is_read() -> None:
    """What is written is what the settings hold."""
    whole, problems = read(
        """
        [inventory]
        listen = ["tcp:8443"]
        certificate = { cert = "/etc/ssl/a.pem", key = "/etc/ssl/a.key" }
        trusted_proxies = ["10.0.0.1"]
        server_id = "root"
        networks = ["10.0.0.0/8"]
        first_user = "first"
        first_password = { env = "FIRST" }
        update_user = "later"
        update_password = { file = "/etc/later" }
        database = "sqlite:////srv/nodes.sqlite"
        signatures = "compat"
        max_age = "1d"
        max_ahead = "1h"
        max_size = 1000000
        max_compressed = 100000
        max_ratio = 50
        upload_timeout = "1m"
        uploads_at_once = 10
        waiting = 100
        orphan_after = "1m"
        min_free = 0
        [[registered]]
        id = "b9a71482"
        key = "-----BEGIN RSA PUBLIC KEY-----"
        """
    )

    assert problems == []
    assert whole.inventory == InventorySettings(
        listen=("tcp:8443",),
        certificate=CertificateSettings(cert="/etc/ssl/a.pem", key="/etc/ssl/a.key"),
        trusted_proxies=("10.0.0.1",),
        server_id="root",
        networks=("10.0.0.0/8",),
        first_user="first",
        first_password=Secret(env="FIRST"),
        update_user="later",
        update_password=Secret(file="/etc/later"),
        database="sqlite:////srv/nodes.sqlite",
        signatures="compat",
        max_age="1d",
        max_ahead="1h",
        max_size=1000000,
        max_compressed=100000,
        max_ratio=50,
        upload_timeout="1m",
        uploads_at_once=10,
        waiting=100,
        orphan_after="1m",
        min_free=0,
    )
    assert [node.id for node in whole.registered] == ["b9a71482"]


def test_own_key_by_name() -> None:
    """The certificate may be given as a word alone."""
    whole, problems = read('[inventory]\ncertificate = "own-key"\n')

    assert problems == []
    assert whole.inventory.certificate == CertificateSettings()


@pytest.mark.parametrize(
    ("toml", "key", "told"),
    [
        ('listen = ["tcp:1", "tcp:1"]', "listen[1]", "the same as"),
        ('certificate = "mine"', "certificate.cert", "not an absolute path"),
        ('certificate = "/a.pem"', "certificate.key", "is not given"),
        ('certificate = { key = "/a.key" }', "certificate.key", "needs no other key"),
        ("plain = true", "plain", "can read the passwords"),
        ('server_id = "Root"', "server_id", "nodes take no such id"),
        ('server_id = ""', "server_id", "nodes take no such id"),
        ('server_id = "-a"', "server_id", "nodes take no such id"),
        ("networks = []", "networks", "no address may send"),
        ('first_user = "a:b"', "first_user", "cannot have this user"),
        ('first_user = ""', "first_user", "cannot have this user"),
        ('update_user = "a"', "update_user", "no effect without update_password"),
        ('update_password = "a"', "update_password", "no effect without update_user"),
        ('database = "mysql://x"', "database", "this names no database"),
        ('database = "nodes.sqlite"', "database", "this names no database"),
        ('auto_accept = ["10.0.0.0/8"]', "auto_accept", "without anybody having"),
        ('max_age = "1s"', "max_age", ""),
        ('signatures = "none"', "signatures", "not one of the values"),
        ("max_ratio = 1", "max_ratio", ""),
    ],
)
def test_mistakes(toml: str, key: str, told: str) -> None:
    """Each mistake is told once, with the key that it is about."""
    _, problems = read(f"[inventory]\n{toml}\n")

    assert len(problems) == 1, problems
    assert f"inventory.{key}" in problems[0]
    assert told in problems[0]


def test_a_certificate_without_tls() -> None:
    """A certificate that nobody will see is doubtful, and no more."""
    _, problems = read(
        "[inventory]\nplain = true\ntrusted_proxies = ['10.0.0.1']\n"
        "certificate = { cert = '/a', key = '/b' }\n"
    )

    (problem,) = problems
    assert "plain = true means that there is no TLS" in problem
    assert problem.endswith("(warning)")


def test_registered_nodes() -> None:
    """Ids must be such, and different, whatever their case."""
    _, problems = read(
        "".join(
            f'[[registered]]\nid = "{node}"\nkey = "k"\n'
            for node in ("ab", "c_d", "AB")
        )
    )

    assert len(problems) == 2
    assert "registered[1].id" in problems[0]
    assert "no node has such an id" in problems[0]
    assert "registered[2].id" in problems[1]
    assert "the same node as registered[0].id" in problems[1]


def test_a_password_is_not_shown() -> None:
    """What is wrong about a database is told without what may be a password in it."""
    _, problems = read('[inventory]\ndatabase = "mysql://u:s3cret@db"\n')

    assert "s3cret" not in "".join(problems)


def test_a_server_that_only_follows() -> None:
    """One that shares nodes with others need not take inventories itself."""
    settings, problems = read(
        "[inventory]\nlisten = []\nnetworks = []\n"
        'database = "postgresql://db/nodes"\nregistry_max_stale = "5m"\n'
    )

    assert problems == []
    assert settings.inventory is not None
    assert settings.inventory.registry_max_stale == "5m"


def test_how_long_nodes_are_known() -> None:
    """No time at all would close connections whenever the database is busy."""
    _, problems = read('[inventory]\nregistry_max_stale = "0s"\n')

    (problem,) = problems
    assert "inventory.registry_max_stale" in problem
