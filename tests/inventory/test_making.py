# SPDX-License-Identifier: MIT
"""
A node's own inventory, from the machine to what a server reads.
"""

from __future__ import annotations

import gzip
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from nodecomm import __version__
from nodecomm.identity.own import KEYS_FOLDER, create_own_key
from nodecomm.inventory.document import read_document
from nodecomm.inventory.keys import read_agent_key
from nodecomm.inventory.limits import DocumentLimits, DocumentRefused, uncompress
from nodecomm.inventory.making import files_to_send, make_inventory
from nodecomm.inventory.names import Half, read_name
from nodecomm.inventory.own import own_node_id, own_user
from nodecomm.inventory.signature import read_signature, sign, verify
from nodecomm.inventory.writing import IncompleteDocument
from tests.identity.sample import pair
from tests.inventory.machine import UNAME, machine
from tests.inventory.test_writing import FOREIGN

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


def test_what_is_made_holds(tmp_path: Path) -> None:
    """
    What a node makes and signs, a server reads, and verifies with the key in it.
    """
    made = make_inventory(
        tmp_path, pair(), NOW, policy_server_id="root", policy_server="hub.example.com"
    )
    signature = read_signature(sign(made.document, pair()))

    read = read_document(made.document)
    key = read_agent_key(read.agent, read.node_id)
    verify(made.document, signature, key.key)
    assert read == made.inventory
    assert read.node_id == own_node_id(tmp_path)
    assert key.key == pair().public
    assert key.certificate is not None
    assert key.certificate.proves_possession()
    assert (read.owner, read.agent.version) == (own_user(), __version__)
    assert (read.policy_server_id, read.policy_server_hostname) == (
        "root",
        "hub.example.com",
    )
    assert read.written == NOW


def test_a_foreign_document(tmp_path: Path) -> None:
    """
    A document of another program is completed, and this machine not looked at.
    """
    made = make_inventory(
        tmp_path,
        pair(),
        NOW,
        policy_server_id="root",
        node_id="A-1",
        hostname="shop",
        foreign=FOREIGN.encode(),
        host=machine(tmp_path, {}),
    )

    assert (made.inventory.node_id, made.inventory.hostname) == ("A-1", "shop")
    assert made.inventory.device_id == "web1-2026-02-03-04-05-06"
    assert made.inventory.software == ()
    assert made.skipped == ()


@pytest.mark.parametrize(
    ("full", "short", "name"),
    [
        ("web1.example.com", "web1", "web1.example.com"),
        ("", "web1", "web1"),
        ("localhost", "web1", "web1"),
        ("odd name", "web1", "web1"),
    ],
)
def test_names(tmp_path: Path, full: str, short: str, name: str) -> None:
    """
    The node has the machine's name with a domain, if that is one, else the short one.
    """
    host = machine(
        tmp_path, {}, full_hostname=full, uname=(UNAME[0], short, *UNAME[2:])
    )

    made = make_inventory(tmp_path, pair(), NOW, policy_server_id="root", host=host)

    assert made.inventory.hostname == name


def test_a_machine_without_a_name(tmp_path: Path) -> None:
    """
    A document that no server would take is not made.
    """
    host = machine(
        tmp_path,
        {},
        full_hostname="",
        uname=(UNAME[0], "localhost", *UNAME[2:]),
    )

    with pytest.raises(DocumentRefused, match="RUDDER/HOSTNAME"):
        make_inventory(tmp_path, pair(), NOW, policy_server_id="root", host=host)


def test_no_policy_server(tmp_path: Path) -> None:
    """
    Without the id of its server a node belongs nowhere.
    """
    with pytest.raises(DocumentRefused, match="POLICY_SERVER_UUID"):
        make_inventory(
            tmp_path, pair(), NOW, policy_server_id=" ", host=machine(tmp_path, {})
        )


def test_what_cannot_be_completed(tmp_path: Path) -> None:
    """
    A document of something else is refused.
    """
    with pytest.raises(IncompleteDocument):
        make_inventory(
            tmp_path, pair(), NOW, policy_server_id="root", foreign=b"<html/>"
        )


def test_the_files_that_are_sent(tmp_path: Path) -> None:
    """
    The document, compressed, and the signature of what it was before; with names that
    belong together, and to no other inventory of that second.
    """
    create_own_key(os.fspath(tmp_path / KEYS_FOLDER), pair())
    when = NOW.astimezone(timezone(timedelta(hours=1)))
    made = [files_to_send(tmp_path, pair(), when, b"<a/>", "A-1") for _ in range(2)]

    first, second = made
    names = [read_name(first.document_name), read_name(first.signature_name)]
    assert [name.half for name in names] == [Half.DOCUMENT, Half.SIGNATURE]
    assert names[0].pair == names[1].pair != read_name(second.document_name).pair
    assert names[0].compressed
    assert first.document_name.startswith("A-1_2026-03-01T12:00:00+00:00-")
    assert uncompress(first.document, DocumentLimits()) == b"<a/>"
    signature = read_signature(first.signature)
    verify(b"<a/>", signature, pair().public)
    assert signature.key_date.startswith("20")


def test_a_document_that_compresses_too_well(tmp_path: Path) -> None:
    """It is sent as it is: a server could not tell it from an attack."""
    document = b"a" * (2 << 20)
    made = files_to_send(tmp_path, pair(), NOW, document, "A-1")
    assert made.document == document
    assert not read_name(made.document_name).compressed
    assert len(gzip.compress(document)) < 10_000


def test_a_document_that_no_server_takes(tmp_path: Path) -> None:
    """It is refused here."""
    with pytest.raises(DocumentRefused, match="more than 67108864 bytes"):
        files_to_send(tmp_path, pair(), NOW, b"a" * (65 << 20), "A-1")
