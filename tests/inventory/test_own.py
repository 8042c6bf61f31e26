# SPDX-License-Identifier: MIT
"""
A node's id and certificate.
"""

from __future__ import annotations

import stat
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from nodecomm.inventory.keys import read_certificate
from nodecomm.inventory.own import (
    NodeIdError,
    node_certificate,
    own_certificate,
    own_node_id,
    own_user,
)
from tests.identity.sample import pair

NODE = "e6cc8e97-01de-48bc-8fee-8f28970116d3"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


def test_an_id_is_made_once(tmp_path: Path) -> None:
    """
    A node makes a UUID and keeps it, for itself only.
    """
    state = tmp_path / "a" / "state"

    made = own_node_id(state)

    assert str(uuid.UUID(made)) == made
    assert own_node_id(state) == made
    assert stat.S_IMODE((state / "uuid").stat().st_mode) == 0o600
    assert own_node_id(tmp_path / "b") != made


def test_an_id_from_elsewhere(tmp_path: Path) -> None:
    """
    A node that has an id already keeps that; its case is the one that is kept.
    """
    assert own_node_id(tmp_path, NODE.upper()) == NODE.upper()
    assert own_node_id(tmp_path) == NODE.upper()
    assert own_node_id(tmp_path, NODE) == NODE.upper()


def test_an_id_does_not_change(tmp_path: Path) -> None:
    """
    Another id than the one that is kept is refused, and the file is named.
    """
    own_node_id(tmp_path, NODE)

    with pytest.raises(NodeIdError, match=f"this node is {NODE}, not root") as caught:
        own_node_id(tmp_path, "root")

    assert str(tmp_path / "uuid") in str(caught.value)
    assert own_node_id(tmp_path) == NODE


@pytest.mark.parametrize("named", ["", "-a", "a" * 51, "a b", "../x", "a\n", "ä"])
def test_what_is_no_id(tmp_path: Path, named: str) -> None:
    """
    What a server would refuse as an id is not kept.
    """
    with pytest.raises(NodeIdError, match="is no id of a node"):
        own_node_id(tmp_path, named)

    assert not (tmp_path / "uuid").exists()


@pytest.mark.parametrize("content", [b"", b"a b", b"\xff\xfe", b"x" * 100_000])
def test_a_damaged_id(tmp_path: Path, content: bytes) -> None:
    """
    A file that holds no id is not replaced: the node may be known by what was there.
    """
    path = tmp_path / "uuid"
    path.write_bytes(content)

    with pytest.raises(NodeIdError, match="uuid"):
        own_node_id(tmp_path)

    assert path.read_bytes() == content


def test_an_id_of_other_programs(tmp_path: Path) -> None:
    """
    Blanks and line ends around an id do not matter.
    """
    (tmp_path / "uuid").write_text(f" {NODE}\r\n")

    assert own_node_id(tmp_path) == NODE


def test_a_certificate_binds_id_and_key() -> None:
    """
    A server finds the node's id and key in it, and sees that the key has signed it.
    """
    made = node_certificate(pair(), NODE, NOW)

    names = made.subject.get_attributes_for_oid(NameOID.USER_ID)
    assert [name.value for name in names] == [NODE]
    assert made.not_valid_before_utc < NOW
    assert made.not_valid_after_utc == NOW + timedelta(days=3650)
    assert made.serial_number > 1


def test_a_certificate_is_made_once(tmp_path: Path) -> None:
    """
    The same certificate serves as long as it is right.
    """
    made = own_certificate(tmp_path, pair(), NODE, NOW)

    assert own_certificate(tmp_path, pair(), NODE, NOW + timedelta(days=3649)) == made
    assert stat.S_IMODE((tmp_path / "agent.cert").stat().st_mode) == 0o600
    read = read_certificate(made)
    assert read.is_of(NODE)
    assert read.key == pair().public
    assert read.proves_possession()


def test_a_new_certificate(tmp_path: Path) -> None:
    """
    Another key, another id and the end of its time each need a new one.
    """
    first = own_certificate(tmp_path, pair(), NODE, NOW)
    later = own_certificate(tmp_path, pair(), NODE, NOW + timedelta(days=3651))
    renamed = own_certificate(tmp_path, pair(), "root", NOW)
    rekeyed = own_certificate(tmp_path, pair(1), "root", NOW)

    assert len({first, later, renamed, rekeyed}) == 4
    assert read_certificate(renamed).is_of("root")
    assert read_certificate(rekeyed).key == pair(1).public
    assert own_certificate(tmp_path, pair(1), "root", NOW) == rekeyed


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff" * 100_000])
def test_a_damaged_certificate(tmp_path: Path, content: bytes) -> None:
    """
    What is no certificate is replaced.
    """
    (tmp_path / "agent.cert").write_bytes(content)

    made = own_certificate(tmp_path, pair(), NODE, NOW)

    x509.load_pem_x509_certificate(made.encode())
    assert (tmp_path / "agent.cert").read_text() == made


def test_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A user without a name is told by the number.
    """
    monkeypatch.setattr("os.geteuid", lambda: 4_000_111)
    assert own_user() == "4000111"

    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert own_user() == "root"
