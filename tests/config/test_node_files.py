# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.config.node_files`: the files of nodes in a configuration.
"""

from __future__ import annotations

import sys

import pytest

from nodecomm.config.model import Settings
from nodecomm.config.node_files import CommonFileSettings, NodeFileSettings
from nodecomm.config.structure import structure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

WHOLE = """
[server]
allowed_networks = ["10.0.0.0/8"]
[inventory]
[[node_files]]
path = "/var/rudder/share/{node_id}/"
[[node_files]]
path = "/var/rudder/shared-files/{node_id}/"
[[common_files]]
path = "/var/rudder/tools/"
"""

INVENTORY = "[inventory]\nnetworks = ['10.0.0.0/8']\n"


def said(toml: str) -> tuple[Settings | None, list[str]]:
    """What a document says, and what is wrong with it."""
    settings, problems = structure(tomllib.loads(toml), {})
    return settings, [
        f"{p.severity} {p.key_path}: {p.message} [{p.hint}]" for p in problems
    ]


def test_tables_are_read() -> None:
    """Several of each, and nothing wrong with them."""
    settings, problems = said(WHOLE)

    assert problems == []
    assert settings is not None
    assert settings.node_files == (
        NodeFileSettings(path="/var/rudder/share/{node_id}/"),
        NodeFileSettings(path="/var/rudder/shared-files/{node_id}/"),
    )
    assert settings.common_files == (CommonFileSettings(path="/var/rudder/tools/"),)
    assert settings.inventory is not None
    assert settings.inventory.networks == ("10.0.0.0/8",)
    assert not settings.node_files[0].legacy_hosts


WRONG = [
    ("/srv/nodes/", "all nodes would have the same files", "{node_id}"),
    ("srv/{node_id}/", "", ""),
    ("", "", ""),
    ("/{node_id}/", "a node that calls itself", "/srv/nodes/{node_id}/"),
    ("/node-{node_id}/x", "a node that calls itself", "/srv/nodes/{node_id}/"),
    ("/srv/{hostname}/{node_id}/", "{hostname} stands for nothing", "{node_id}"),
    ("/srv/{node-id}/", "{node-id} stands for nothing", "{node_id}"),
    ("/srv/$(connection.key)/{node_id}/", "variables of a peer", "[[access]]"),
    ("/srv/${x}/{node_id}/", "variables of a peer", "[[access]]"),
    ("/srv/../{node_id}/", "no request is resolved", "'..'"),
    ("/srv/{node_id}/..", "no request is resolved", "'..'"),
    ("/srv/./{node_id}/", "no request is resolved", "'.'"),
    ("/srv//{node_id}/", "no request is resolved", "empty names"),
]


@pytest.mark.parametrize(("path", "message", "hint"), WRONG)
def test_paths_that_make_no_sense_are_errors(
    path: str, message: str, hint: str
) -> None:
    """With what to write instead."""
    _, problems = said(f"{INVENTORY}[[node_files]]\npath = '{path}'\n")

    assert any(
        line.startswith(f"error node_files[0].path: {message}") and hint in line
        for line in problems
    ), problems


COMMON = [
    ("/srv/{node_id}/", "files of one node are not common to all", "[[node_files]]"),
    ("srv", "", ""),
    ("/srv/$(connection.ip)/", "variables of a peer", "[[access]]"),
]


@pytest.mark.parametrize(("path", "message", "hint"), COMMON)
def test_common_paths_are_plain(path: str, message: str, hint: str) -> None:
    """They are the same for all nodes."""
    _, problems = said(f"{INVENTORY}[[common_files]]\npath = '{path}'\n")

    assert len(problems) == 1
    assert problems[0].startswith(f"error common_files[0].path: {message}")
    assert hint in problems[0]


@pytest.mark.parametrize("name", ["node_files", "common_files"])
def test_they_need_inventories(name: str) -> None:
    """Without them no node is known."""
    path = "/srv/{node_id}/" if name == "node_files" else "/srv/"
    _, problems = said(f"[[{name}]]\npath = '{path}'\n")

    assert problems == [
        f"error {name}[0]: without [inventory] the server knows no nodes and no "
        f"networks of theirs [write [inventory], or leave [[{name}]] out]"
    ]


def test_same_path_twice_is_an_error() -> None:
    """With and without a final slash it is the same folder."""
    table = "[[node_files]]\npath = '/srv/{node_id}'\n"
    _, problems = said(f"{INVENTORY}{table}{table.replace('}', '}/')}")

    assert [line.partition(":")[0] for line in problems] == ["error node_files[1].path"]
    assert "the same as" in problems[0]


def test_key_must_be_a_path() -> None:
    """A table without a path is told of, and so are keys that are none."""
    _, problems = said(f"{INVENTORY}[[node_files]]\nlegacy_host = true\n")

    assert {line.partition(":")[0] for line in problems} == {
        "error node_files[0]",
        "error node_files[0].legacy_host",
    }
    assert any("legacy_hosts" in line for line in problems)


def test_legacy_hosts_warns_of_what_it_does() -> None:
    """Whoever turns it on reads that it makes the rule weaker."""
    table = "[[node_files]]\npath = '/srv/{node_id}'\nlegacy_hosts = true\n"
    settings, problems = said(f"{INVENTORY}{table}")

    assert settings is not None
    assert settings.node_files[0].legacy_hosts
    assert len(problems) == 1
    assert problems[0].startswith("warning node_files[0].legacy_hosts: ")
    assert "is enough by itself" in problems[0]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("", False),
        ("upstream = 'https://root'\nupstream_key = ['MD5=0']\n", True),
        (
            "upstream = 'https://root'\nupstream_key = ['MD5=0']\n"
            "database = 'postgresql://db/nodes'\n",
            False,
        ),
    ],
)
def test_relay_knows_no_nodes_of_its_own(more: str, told: bool) -> None:
    """Unless it shares the database of those who do."""
    table = "[[node_files]]\npath = '/srv/{node_id}'\n"
    _, problems = said(f"{INVENTORY}{more}{table}")

    found = [line for line in problems if "a relay learns of no node" in line]
    assert len(found) == told
