# SPDX-License-Identifier: MIT
"""
Who may put an inventory here, and what.
"""

from __future__ import annotations

import base64
from itertools import product

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.access.networks import AddressList
from nodecomm.inventory.doors import (
    Account,
    Head,
    Refused,
    Room,
    UploadRules,
    check_length,
    check_room,
    check_sender,
    check_target,
    client_address,
)
from nodecomm.inventory.limits import DocumentLimits
from nodecomm.inventory.names import read_name
from nodecomm.inventory.pairs import Box


def basic(user: str, password: str) -> str:
    """The header of Basic authentication."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


RULES = UploadRules(
    networks=AddressList(["192.0.2.0/24", "2001:db8::/32"]),
    accounts={
        Box.FIRST: [Account("rudder", "rudder")],
        Box.UPDATE: [Account("rudder", "old"), Account("rudder", "né:w")],
    },
)

GOOD = {
    Box.FIRST: basic("rudder", "rudder"),
    Box.UPDATE: basic("rudder", "old"),
}


def head(
    box: Box = Box.FIRST,
    *segments: str,
    method: str = "PUT",
    address: str = "192.0.2.7",
    authorization: str | None = None,
) -> Head:
    """An upload, right in all that a test does not name."""
    given = GOOD[box] if authorization is None else authorization
    return Head(method, box, segments or ("a.ocs",), address, given, length=10)


def status(told: Head, rules: UploadRules = RULES) -> int:
    """How the sender fares; 0 for well."""
    try:
        check_sender(told, rules)
    except Refused as refused:
        return refused.status
    return 0


@pytest.mark.parametrize(
    ("method", "box", "address", "password"),
    list(
        product(
            ["PUT", "GET", "HEAD", "POST", "DELETE", "PROPFIND", "MKCOL", "put"],
            Box,
            ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7", "198.51.100.1", ""],
            ["right", "none", "wrong", "of the other box"],
        )
    ),
)
def test_all_conditions_must_hold(
    method: str, box: Box, address: str, password: str
) -> None:
    """Method and address and password: two of them are not enough, whichever."""
    other = Box.UPDATE if box is Box.FIRST else Box.FIRST
    given = {
        "right": GOOD[box],
        "none": "",
        "wrong": basic("rudder", "wrong"),
        "of the other box": GOOD[other],
    }[password]
    expected = 0 if password == "right" else 401
    if method != "PUT" or address in ("198.51.100.1", ""):
        expected = 403

    told = head(box, method=method, address=address, authorization=given)

    assert status(told) == expected


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic " + base64.b64encode(b"rudder").decode(),
        "Basic " + base64.b64encode(b"rudder:rudderX").decode(),
        "Basic " + base64.b64encode(b"rudder:rudder").decode() + "\u00e9",
        "Bearer " + base64.b64encode(b"rudder:rudder").decode(),
        "Digest username=rudder",
        "\u20ac",
    ],
)
def test_other_credentials(authorization: str) -> None:
    """Whatever is not user and password of the box is none."""
    assert status(head(authorization=authorization)) == 401


@pytest.mark.parametrize("password", ["old", "né:w"])
def test_two_passwords(password: str) -> None:
    """While a password changes, both are good."""
    given = basic("rudder", password)

    assert status(head(Box.UPDATE, authorization=given)) == 0
    assert status(head(Box.FIRST, authorization=given)) == 401


def test_nobody_is_known() -> None:
    """A box without accounts is open to nobody."""
    rules = evolve(RULES, accounts={})

    assert status(head(), rules) == 401
    assert status(head(authorization=basic("", "")), rules) == 401


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        (("a.ocs",), 0),
        (("", "a.ocs"), 0),
        (("f56c_2024-03-21T16:07:29+01:00.ocs.gz",), 0),
        (("",), 409),
        (("a", "b.ocs"), 409),
        (("a.ocs", ""), 409),
        (("a.txt",), 400),
        (("a/../b.ocs",), 400),
        (("..",), 405),
        (("..", "uuid"), 405),
        (("a", "..", "b.ocs"), 405),
    ],
)
def test_targets(segments: tuple[str, ...], expected: int) -> None:
    """A file of a known kind directly in the box, and nothing else."""
    told = head(Box.FIRST, *segments)
    try:
        check_sender(told, RULES)
        check_target(told)
    except Refused as refused:
        assert refused.status == expected
    else:
        assert expected == 0


def test_parts_of_files() -> None:
    """A part of a file is refused, not written somewhere into one."""
    with pytest.raises(Refused) as caught:
        check_target(evolve(head(), content_range=True))

    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("name", "length", "expected"),
    [
        ("a.ocs", None, 411),
        ("a.ocs", 0, 0),
        ("a.ocs", 1000, 0),
        ("a.ocs", 1001, 413),
        ("a.ocs.gz", 100, 0),
        ("a.ocs.gz", 101, 413),
        ("a.ocs.sign", 16384, 0),
        ("a.ocs.sign", 16385, 413),
    ],
)
def test_lengths(name: str, length: int | None, expected: int) -> None:
    """Each kind of file has its limit, and the length must be told."""
    limits = DocumentLimits(size=1000, compressed=100)
    told = evolve(head(Box.FIRST, name), length=length)
    try:
        assert check_length(told, read_name(name), limits) == length
    except Refused as refused:
        assert refused.status == expected
    else:
        assert expected == 0


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (Room(), 0),
        (Room(free=1010), 0),
        (Room(free=1009), 507),
        (Room(uploads=2), 503),
        (Room(waiting=3), 503),
        (Room(undecided=4), 503),
        (Room(uploads=1, waiting=2, undecided=3), 0),
    ],
)
def test_room(room: Room, expected: int) -> None:
    """Where there is no room, that is said before anything is sent."""
    rules = evolve(RULES, at_once=2, waiting=3, undecided=4, min_free=1000)
    try:
        check_room(room, rules, 10)
    except Refused as refused:
        assert refused.status == expected
        assert ("Retry-After" in refused.headers) == (expected == 503)
    else:
        assert expected == 0


@pytest.mark.parametrize(
    ("uploads", "of_sender", "taken"),
    [(50, 9, True), (50, 10, False), (49, 40, True), (99, 0, True), (100, 0, False)],
)
def test_one_sender(uploads: int, of_sender: int, taken: bool) -> None:
    """Slow uploads of one sender leave half of the places to others."""
    rules = evolve(RULES, at_once=100)
    room = Room(uploads=uploads, of_sender=of_sender)
    if taken:
        check_room(room, rules, 10)
        return
    with pytest.raises(Refused) as caught:
        check_room(room, rules, 10)
    assert caught.value.status == 503


PROXIES = AddressList(["10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("::ffff:192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", ["203.0.113.9"], "192.0.2.7"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["192.0.2.1", "unknown"], ""),
        ("::1", [" [2001:db8::9] "], "2001:db8::9"),
        ("/run/socket", ["192.0.2.1"], ""),
    ],
)
def test_proxies(peer: str, forwarded: list[str], expected: str) -> None:
    """Only who is a proxy of ours is believed for whom he speaks."""
    assert client_address(peer, forwarded, PROXIES) == expected


@settings(max_examples=60)
@given(st.text(max_size=40), st.lists(st.text(max_size=20), max_size=3))
def test_garbage(authorization: str, segments: list[str]) -> None:
    """Whatever is sent, the answer is a refusal."""
    told = head(Box.FIRST, *segments, authorization=authorization)

    assert status(told) in (401, 405)
