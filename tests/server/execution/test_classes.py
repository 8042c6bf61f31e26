# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.server.execution.classes`.
"""

from __future__ import annotations

import ipaddress
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.server.execution import classes as module
from nodecomm.server.execution.classes import (
    LONGEST_PATTERN,
    MOST_PATTERNS,
    canonified,
    full_hostname,
    node_classes,
    own_addresses,
    selects,
)


def test_what_a_node_is() -> None:
    """Its system, machine, names and addresses make classes; the operator adds more."""
    found = node_classes(
        ("web", "web_2"),
        hostnames=("Alpha.East.example.org",),
        addresses=("10.1.2.3", "fd00::2"),
        system="linux",
        machine="x86_64",
        release={"ID": "debian", "VERSION_ID": "12.11"},
    )

    assert found - {b"64_bit", b"32_bit"} == {
        *(b"any", b"nodecomm", b"linux", b"x86_64", b"linux_x86_64"),
        *(b"debian", b"debian_12", b"debian_12_11"),
        *(b"alpha", b"alpha_east_example_org", b"east_example_org"),
        *(b"example_org", b"org"),
        *(b"10_1_2_3", b"ipv4_10_1_2_3", b"ipv4_10_1_2", b"ipv4_10_1", b"ipv4_10"),
        b"ipv6_fd00__2",
        *(b"web", b"web_2"),
    }


@pytest.mark.parametrize(
    ("release", "found"),
    [
        ({}, set()),
        ({"ID": "arch"}, {b"arch"}),
        (
            {"ID": "opensuse-leap", "VERSION_ID": "15.6"},
            {b"opensuse_leap", b"opensuse_leap_15", b"opensuse_leap_15_6"},
        ),
        ({"VERSION_ID": "12"}, set()),
    ],
)
def test_systems(release: dict[str, str], found: set[bytes]) -> None:
    """The system's name and version, as far as it tells them."""
    given_ = node_classes(addresses=(), system="s", machine="m", release=release)
    plain = node_classes(addresses=(), system="s", machine="m", release={})

    assert given_ - plain == found


def test_this_node() -> None:
    """This machine is found out: at least what Python knows of it, too."""
    found = node_classes(hostnames=[socket.gethostname()])

    assert {b"any", b"linux", os.uname().machine.encode()} <= found
    assert canonified(socket.gethostname().lower()).encode() in found
    for address in own_addresses():
        ipaddress.ip_address(address)
    assert "127.0.0.1" in own_addresses()
    assert b"ipv4_127_0_0_1" in found


def test_where_the_system_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lists of Linux there are fewer classes, and no error."""
    monkeypatch.setattr(module, "_INET6", module._INET6 / "absent")
    monkeypatch.setattr(module, "_RELEASE", module._INET6)
    monkeypatch.setattr(module, "_SIOCGIFCONF", 0)

    assert own_addresses() == ()
    assert b"any" in node_classes()


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ([(0, 0, 0, "a.example.org", ())], "a.example.org"),
        ([(0, 0, 0, "localhost", ())], ""),
        ([(0, 0, 0, "localhost.localdomain", ())], ""),
        ([], ""),
        (OSError("down"), ""),
        (UnicodeError("odd"), ""),
    ],
)
def test_the_name_with_its_domain(
    answer: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what the resolver says, unless that is the name of every machine."""

    def look_up(*args: object, **more: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    assert full_hostname() == name


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        (b"linux", True),
        (b"lin", False),
        (b"LINUX", False),
        (b"lin.*", True),
        (b"(debian|linux)", True),
        (b"debian|linux", True),
        (b"deb", False),
        (b"", False),
        (b"(", False),
        (b"(?=linux)linux", False),
        (b"lin\xffux", False),
        (b"\xff", False),
        (b"l" * (LONGEST_PATTERN + 1), False),
        (b"linux" + b"|x" * LONGEST_PATTERN, False),
    ],
)
def test_expressions(pattern: bytes, matches: bool) -> None:
    """An expression selects a node when it is the whole name of one of its classes."""
    assert selects([b"any", b"linux"], [pattern]) is matches


@given(st.lists(st.binary(max_size=40), max_size=5))
@settings(max_examples=100, deadline=None)
def test_any_bytes(patterns: list[bytes]) -> None:
    """Whatever a peer sends is an expression or is none; it is never an error."""
    assert selects([b"linux"], patterns) in (True, False)
    assert selects([b"linux"], [*patterns, b"linux"])


def test_expressions_that_would_take_for_ever() -> None:
    """
    Expressions on which other engines do not come back, and those that are short and
    mean a lot; beyond so many none is looked at.
    """
    names = [b"a" * 250 + b"!%d" % number for number in range(20)]
    bad = [b"(a+)+" * 40 + b"%d" % number for number in range(MOST_PATTERNS)]
    large = [b"(.{0,9}){0,99}" * 10, rb"\pL{1000}" * 20, b"((a{1,9}){1,9}){1,9}"]

    assert not selects(names, [*bad, b"a.*"])
    assert not selects(names, large)
    assert selects(names, [*bad[1:], b"a.*"])
    assert selects([*names, b"linux"], [*bad, *large, b"linux"])
