# SPDX-License-Identifier: MIT
"""
Whether a name leads to this very machine.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest

from nodecomm.service.own_addresses import (
    AddressUnknown,
    is_own,
    network_around,
    resolve_server,
)


def answers(*addresses: str) -> Any:
    """
    A resolver that knows these.
    """

    def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        return [
            (
                socket.AF_INET6 if ":" in each else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (each, port, 0, 3) if each.startswith("fe80") else (each, port),
            )
            for each in addresses
        ]

    return getaddrinfo


def fails(error: Exception) -> Any:
    """
    A resolver that fails.
    """

    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        raise error

    return getaddrinfo


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("127.255.255.254", True),
        # Documentation networks are nobody's.
        ("203.0.113.77", False),
        ("2001:db8::77", False),
        # Every address of this machine is none.
        ("0.0.0.0", False),
        ("::", False),
        ("224.0.0.1", False),
        ("ff02::1", False),
        ("fe80::1%nosuchinterface", False),
    ],
)
def test_own_is_what_can_be_bound(address: str, own: bool) -> None:
    """
    An address is this machine's if a socket can be bound to it; loopback counts, the
    wildcards do not.
    """
    assert is_own(address) is own


def test_a_system_that_binds_everything() -> None:
    """
    Where any address can be bound, an address is own if one would leave by it.
    """
    assert is_own("127.0.0.2", nonlocal_bind=lambda family: True)
    assert not is_own("203.0.113.77", nonlocal_bind=lambda family: True)


def test_some_addresses_are_own() -> None:
    """
    All addresses are told once, in the resolver's order, and which of them are own; a
    link-local one keeps its scope.
    """
    found = resolve_server(
        "hub",
        5308,
        getaddrinfo=answers("10.0.0.9", "fe80::1", "127.0.0.2", "10.0.0.9"),
        own=lambda address: address == "127.0.0.2",
    )

    assert found.addresses == ("10.0.0.9", "fe80::1%3", "127.0.0.2")
    assert found.own == ("127.0.0.2",)
    assert not found.only_loopback


def test_only_loopback() -> None:
    """
    A name that is loopback alone is one that no other machine can use.
    """
    assert resolve_server(
        "me", 1, getaddrinfo=answers("127.0.1.1", "::1")
    ).only_loopback


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "name-unknown",
        ),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "name-lookup-failed"),
        (UnicodeError("label too long"), "name-unknown"),
    ],
)
def test_a_name_without_address(error: Exception, code: str) -> None:
    """
    A name that does not exist is told apart from one that cannot be looked up now.
    """
    with pytest.raises(AddressUnknown, match=r"hub\.example") as caught:
        resolve_server("hub.example", 5308, getaddrinfo=fails(error))

    assert caught.value.code == code


@pytest.mark.parametrize(
    ("addresses", "networks"),
    [
        (["192.0.2.2"], ("192.0.0.0/16",)),
        (["2001:db8:1:2:3::4"], ("2001:db8:1:2::/64",)),
        (["10.1.2.3", "10.1.9.9", "2001:db8::1"], ("10.1.0.0/16", "2001:db8::/64")),
        (["fe80::1%2"], ("fe80::/64",)),
        (["::ffff:10.1.2.3"], ("10.1.0.0/16",)),
    ],
)
def test_the_network_around(addresses: list[str], networks: tuple[str, ...]) -> None:
    """
    It is the /16 of an IPv4 address and the /64 of an IPv6 one, each once.
    """
    assert network_around(addresses) == networks
