# SPDX-License-Identifier: MIT
"""
The network interfaces of a machine.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from nodecomm.inventory.host import Host, Skipped
from nodecomm.inventory.model import Address, Interface

__all__ = ["interfaces_of"]

_FOLDER = "/sys/class/net"

#: Bit of an interface's flags: the administrator has switched it on.
#: Source: Linux, netdevice(7), IFF_UP.
_UP = 1

#: Kinds of interfaces by their number, as inventories call them.
#: Source: Linux, if_arp.h.
_KINDS = {
    1: "ethernet",
    32: "infiniband",
    512: "dialup",
    768: "tunnel",
    769: "tunnel",
    772: "loopback",
    776: "tunnel",
    778: "tunnel",
    801: "wifi",
    803: "wifi",
    65534: "tunnel",
}

#: Folders that some interfaces have, and what they are then.
_MARKS = (
    ("wireless", "wifi"),
    ("phy80211", "wifi"),
    ("bridge", "bridge"),
    ("bonding", "aggregate"),
)

#: Bytes of a table of routes that are read. Those of routers have millions of lines;
#: the default routes come first.
_ROUTES = 256 * 1024

#: Bits of a route's flags. Source: Linux, route.h, RTF_UP and RTF_GATEWAY.
_USABLE_GATEWAY = 0x3


def interfaces_of(host: Host) -> tuple[Interface, ...]:
    """
    The network interfaces, with their addresses.

    Raises:
        OSError: The system does not list them.
    """
    if not host.has(_FOLDER):
        raise OSError(f"there is no {_FOLDER}")
    gateways = _gateways(host)
    assigned: dict[int, list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]] = {}
    try:
        for each in host.addresses():
            assigned.setdefault(each.index, []).append(each.address)
    except OSError as error:
        # What the cards are is worth telling without their addresses.
        host.skipped.append(Skipped("addresses", str(error)))
    found = []
    for name in host.names(_FOLDER):
        # /sys/class/net holds files besides, such as bonding_masters.
        index = host.number(f"{_FOLDER}/{name}/ifindex")
        if index is not None:
            addresses = [
                _address(address, gateways.get(name))
                for address in assigned.get(index, ())
            ]
            found.append(_interface(host, name, tuple(addresses)))
    return tuple(found)


def _interface(host: Host, name: str, addresses: tuple[Address, ...]) -> Interface:
    folder = f"{_FOLDER}/{name}"
    flags = host.value(f"{folder}/flags") or "0"
    is_up = int(flags, 16) & _UP
    speed = host.number(f"{folder}/speed")
    return Interface(
        name=name,
        addresses=addresses,
        mac=host.value(f"{folder}/address"),
        status="Up" if is_up else "Down",
        kind=_kind(host, folder),
        speed=None if speed is None else str(speed),
    )


def _kind(host: Host, folder: str) -> str | None:
    for mark, kind in _MARKS:
        if host.has(f"{folder}/{mark}"):
            return kind
    number = host.number(f"{folder}/type")
    return None if number is None else _KINDS.get(number)


def _address(
    address: ipaddress.IPv4Interface | ipaddress.IPv6Interface, gateway: str | None
) -> Address:
    leads = gateway is not None and ipaddress.ip_address(gateway) in address.network
    return Address(
        address=str(address.ip),
        mask=str(address.netmask),
        gateway=gateway if leads else None,
        subnet=str(address.network.network_address),
    )


def _gateways(host: Host) -> dict[str, str]:
    """
    The default routers of IPv4, by the names of interfaces.
    """
    found: dict[str, str] = {}
    for line in _lines(host, "/proc/net/route"):
        # Interface, destination, gateway, flags, ..., mask.
        words = line.split()
        if len(words) >= 8 and (words[1], words[7]) == ("0" * 8, "0" * 8):
            flags = int(words[3], 16)
            if flags & _USABLE_GATEWAY == _USABLE_GATEWAY:
                packed = struct.pack("=I", int(words[2], 16))
                found.setdefault(words[0], socket.inet_ntoa(packed))
    return found


def _lines(host: Host, name: str) -> list[str]:
    try:
        text = host.text(name, _ROUTES)
    except OSError as error:
        host.skipped.append(Skipped(name, error.strerror or str(error)))
        return []
    # The last line may be cut off.
    return text[: text.rfind("\n") + 1].splitlines()
