# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.config.inventory_upstream`: what the keys of a relay must be.
"""

from __future__ import annotations

import re

import pytest

from nodecomm.config.secrets import Secret
from tests.config.test_inventory import read

RELAY = """
[inventory]
upstream = "https://root.example.org"
upstream_key = ["sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="]
"""


def test_every_key_is_read() -> None:
    """What is written is what the settings hold."""
    whole, problems = read(
        RELAY
        + """
        upstream_first_user = "first"
        upstream_first_password = { env = "FIRST" }
        upstream_user = "later"
        upstream_password = { file = "/etc/later" }
        upstream_keep = "1d"
        """
    )

    assert problems == []
    relay = whole.inventory
    assert relay.upstream == "https://root.example.org"
    assert relay.upstream_first_user == "first"
    assert relay.upstream_first_password == Secret(env="FIRST")
    assert relay.upstream_user == "later"
    assert relay.upstream_password == Secret(file="/etc/later")
    assert relay.upstream_keep == "1d"


@pytest.mark.parametrize(
    ("toml", "key", "told"),
    [
        ('upstream_user = "a:b"', "upstream_user", "cannot have this user"),
        ('upstream_user = "a"', "upstream_user", "has no password"),
        ('upstream_first_user = ""', "upstream_first_user", "cannot have"),
        ('upstream_password = "a"', "upstream_password", "whose it is"),
        ('upstream_keep = "1s"', "upstream_keep", "1"),
        ("listen = []", "upstream", "nothing to pass on"),
        ('server_id = "root"', "server_id", "without one above"),
        ('signatures = "compat"', "signatures", "decides about no inventory"),
        ('max_age = "1d"', "max_age", "decides about no inventory"),
        ('orphan_after = "1m"', "orphan_after", "decides about no inventory"),
    ],
)
def test_what_makes_no_sense(toml: str, key: str, told: str) -> None:
    """A mistake in a relay's table is told at its key."""
    _, (problem, *_) = read(RELAY + toml)

    assert re.search(rf"inventory\.{key}\b", problem)
    assert told in problem


def test_accounts_of_its_own_nodes() -> None:
    """What nodes use here is what the relay uses above, unless it says more."""
    both = 'update_user = "u"\nupdate_password = "p"\n'
    for more in ('upstream_user = "x"', 'upstream_password = "x"', ""):
        _, problems = read(RELAY + both + more)
        assert problems == []


def test_a_key_is_needed() -> None:
    """Nothing goes to a server that could be anybody's."""
    _, (problem,) = read('[inventory]\nupstream = "https://root.example.org"\n')

    assert "inventory.upstream_key" in problem
    assert "whose key is not known" in problem


def test_no_relay() -> None:
    """Keys of a relay on a server that is none are told of."""
    _, problems = read('[inventory]\nupstream_user = "u"\nupstream_keep = "2d"\n')

    assert len(problems) == 2
    assert all("is no relay" in each for each in problems)
    assert all(each.endswith("(warning)") for each in problems)
