# SPDX-License-Identifier: MIT
"""
Network interfaces and their addresses.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.inventory.host import Skipped
from nodecomm.inventory.model import Address, Interface
from nodecomm.inventory.netlink import Assigned, assigned_addresses, parse_addresses
from nodecomm.inventory.network import interfaces_of
from tests.inventory.machine import machine

NET = "/sys/class/net"


def native(address: str) -> str:
    """
    An address as the table of routes has it: its number in the machine's byte order.
    """
    return f"{struct.unpack('=I', socket.inet_aton(address))[0]:08X}"


def card(name: str, index: int, **values: str) -> dict[str, str]:
    """
    The files of an interface.
    """
    values = {"ifindex": str(index), "flags": "0x1003", "type": "1", **values}
    return {f"{NET}/{name}/{key}": f"{value}\n" for key, value in values.items()}


ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n" + "".join(
    f"{name}\t{native(to)}\t{native(via)}\t{flags}\t0\t0\t0\t{native(mask)}\n"
    for name, to, via, flags, mask in (
        ("eth0", "0.0.0.0", "192.0.2.1", "0003", "0.0.0.0"),
        ("eth0", "0.0.0.0", "192.0.2.9", "0003", "0.0.0.0"),
        ("eth0", "192.0.2.0", "0.0.0.0", "0001", "255.255.255.0"),
        ("eth1", "10.0.0.0", "198.51.100.7", "0003", "255.0.0.0"),
    )
)


def test_interfaces(tmp_path: Path) -> None:
    """
    Each interface has its facts and all its addresses; a router is told where it is in
    the address's network.
    """
    files = {
        **card("eth0", 2, address="02:fc:00:00:00:01", speed="1000"),
        **card("eth1", 3, flags="0x1002", speed="-1"),
        **card("lo", 1, type="772"),
        f"{NET}/bonding_masters": "",
        "/proc/net/route": ROUTES,
    }
    addresses = [
        Assigned(1, ipaddress.IPv4Interface("127.0.0.1/8")),
        Assigned(2, ipaddress.IPv4Interface("192.0.2.2/24")),
        Assigned(2, ipaddress.IPv4Interface("203.0.113.5/28")),
        Assigned(2, ipaddress.IPv6Interface("fd00::2/64")),
        Assigned(9, ipaddress.IPv4Interface("192.0.2.77/24")),
    ]

    assert interfaces_of(machine(tmp_path, files, addresses=addresses)) == (
        Interface(
            "eth0",
            (
                Address("192.0.2.2", "255.255.255.0", "192.0.2.1", "192.0.2.0"),
                Address("203.0.113.5", "255.255.255.240", None, "203.0.113.0"),
                Address("fd00::2", "ffff:ffff:ffff:ffff::", None, "fd00::"),
            ),
            mac="02:fc:00:00:00:01",
            status="Up",
            kind="ethernet",
            speed="1000",
        ),
        Interface("eth1", status="Down", kind="ethernet"),
        Interface(
            "lo",
            (Address("127.0.0.1", "255.0.0.0", None, "127.0.0.0"),),
            status="Up",
            kind="loopback",
        ),
    )


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"wireless/link": "0"}, "wifi"),
        ({"bridge/bridge_id": "8000"}, "bridge"),
        ({"bonding/mode": "balance-rr 0"}, "aggregate"),
        ({"type": "32"}, "infiniband"),
        ({"type": "65534"}, "tunnel"),
        ({"type": "4711"}, None),
    ],
)
def test_kinds(tmp_path: Path, more: dict[str, str], kind: str | None) -> None:
    """
    The kind of an interface is seen by its number or by what it has besides.
    """
    (found,) = interfaces_of(machine(tmp_path, card("x0", 5, **more)))

    assert found.kind == kind


def test_addresses_that_cannot_be_had(tmp_path: Path) -> None:
    """
    Interfaces are told without their addresses, and the reason is kept.
    """
    host = machine(tmp_path, {**card("eth0", 2), "/proc/net/route": ROUTES})

    def refuse() -> list[Assigned]:
        raise PermissionError(1, "Operation not permitted")

    host.addresses = refuse

    (found,) = interfaces_of(host)
    assert (found.name, found.addresses) == ("eth0", ())
    assert [each.source for each in host.skipped] == ["addresses"]


def test_no_routes(tmp_path: Path) -> None:
    """
    Without a table of routes no router is told.
    """
    host = machine(
        tmp_path,
        card("eth0", 2),
        addresses=[Assigned(2, ipaddress.IPv4Interface("192.0.2.2/24"))],
    )

    (found,) = interfaces_of(host)

    assert found.addresses[0].gateway is None
    assert host.skipped == [Skipped("/proc/net/route", "No such file or directory")]


def test_no_interfaces_told(tmp_path: Path) -> None:
    """
    A system that does not list its interfaces is told apart from one without any.
    """
    with pytest.raises(OSError, match="there is no /sys/class/net"):
        interfaces_of(machine(tmp_path, {}))


def message(kind: int, body: bytes) -> bytes:
    """
    A message of the kernel.
    """
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def entry(index: int, address: str, *, peer: str | None = None) -> bytes:
    """
    A message about an address of an interface.
    """
    own = ipaddress.ip_interface(address)
    family = socket.AF_INET if own.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, own.network.prefixlen, 0, 0, index)
    packed = own.ip.packed
    other = ipaddress.ip_address(peer).packed if peer else packed
    body += struct.pack("=HH", 4 + len(other), 1) + other
    # Five bytes of a label, and three that fill it up.
    body += struct.pack("=HH", 9, 3) + b"eth0\0" + b"\0\0\0"
    if own.version == 4 or peer:
        body += struct.pack("=HH", 4 + len(packed), 2) + packed
    return message(20, body)


DONE = message(3, b"\0\0\0\0")


def test_answers_of_the_kernel() -> None:
    """
    An answer has addresses of both kinds; on a line between two hosts the own one.
    """
    data = entry(2, "192.0.2.2/24") + entry(3, "fd00::2/64")
    data += entry(4, "10.0.0.1/32", peer="10.0.0.2")

    assert parse_addresses(data) == (
        [
            Assigned(2, ipaddress.IPv4Interface("192.0.2.2/24")),
            Assigned(3, ipaddress.IPv6Interface("fd00::2/64")),
            Assigned(4, ipaddress.IPv4Interface("10.0.0.1/32")),
        ],
        False,
    )
    assert parse_addresses(message(99, b"even") + DONE) == ([], True)


def test_the_kernel_refuses() -> None:
    """
    A refusal of the kernel is an OSError with its number.
    """
    with pytest.raises(PermissionError):
        parse_addresses(message(2, struct.pack("=i", -1)))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 80))
def test_any_answer(rubbish: bytes, at: int) -> None:
    """
    Whatever comes is addresses or an OSError.
    """
    whole = entry(2, "192.0.2.2/24") + entry(3, "fd00::2/64")
    try:
        found, _ = parse_addresses(whole[:at] + rubbish + whole[at + len(rubbish) :])
    except OSError:
        return
    assert all(each.address.network.prefixlen <= 128 for each in found)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_this_machine_has_loopback() -> None:
    """
    The real kernel tells of the address that every machine has.
    """
    found = {str(each.address) for each in assigned_addresses()}

    assert "127.0.0.1/8" in found
