# SPDX-License-Identifier: MIT
"""
The addresses of network interfaces, as the Linux kernel lists them.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

from attrs import frozen

__all__ = ["Assigned", "assigned_addresses", "parse_addresses"]

#: Source: Linux, netlink(7) and rtnetlink(7).
_NETLINK_ROUTE = 0
_REQUEST_DUMP = 0x301
_GET_ADDRESS = 22
_NEW_ADDRESS = 20
_ERROR = 2
_DONE = 3
_ADDRESS = 1
_LOCAL = 2

#: Length, type, flags, sequence number, port.
_HEADER = struct.Struct("=IHHII")
#: Family, bits of the network, flags, scope, index of the interface.
_ENTRY = struct.Struct("=BBBBI")
#: Length and type.
_ATTRIBUTE = struct.Struct("=HH")

#: Bytes that are taken at once; the kernel sends up to 32 KiB.
_ROOM = 64 * 1024

#: Seconds that the kernel may take.
_PATIENCE = 10.0


@frozen
class Assigned:
    """
    An address that an interface has.

    Attributes:
        index: The number of the interface, as in `/sys/class/net/NAME/ifindex`.
        address: The address and its network.
    """

    index: int
    address: ipaddress.IPv4Interface | ipaddress.IPv6Interface


def assigned_addresses() -> list[Assigned]:
    """
    Every address of every interface.

    Raises:
        OSError: The system cannot be asked in this way.
    """
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        raise OSError("addresses are listed in this way on Linux only")
    found: list[Assigned] = []
    with socket.socket(family, socket.SOCK_RAW, _NETLINK_ROUTE) as kernel:
        kernel.settimeout(_PATIENCE)
        entry = _ENTRY.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        size = _HEADER.size + len(entry)
        kernel.send(_HEADER.pack(size, _GET_ADDRESS, _REQUEST_DUMP, 1, 0) + entry)
        done = False
        while not done:
            more, done = parse_addresses(kernel.recv(_ROOM))
            found += more
    return found


def parse_addresses(data: bytes) -> tuple[list[Assigned], bool]:
    """
    The addresses in one answer of the kernel, and whether it is the last one.

    Raises:
        OSError: The kernel refuses, or this is no answer of a kernel.
    """
    found: list[Assigned] = []
    for kind, body in _messages(data):
        if kind == _DONE:
            return found, True
        if kind == _ERROR:
            number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
            raise OSError(number, os.strerror(number))
        if kind == _NEW_ADDRESS and len(body) >= _ENTRY.size:
            assigned = _assigned(body)
            if assigned is not None:
                found.append(assigned)
    return found, not data


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while len(data) - at >= _HEADER.size:
        size, kind, *_ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= size <= len(data) - at:
            raise OSError("an answer of the kernel that is cut off")
        yield kind, data[at + _HEADER.size : at + size]
        at += _aligned(size)


def _assigned(body: bytes) -> Assigned | None:
    family, bits, _, _, index = _ENTRY.unpack_from(body)
    values: dict[int, bytes] = {}
    at = _ENTRY.size
    while len(body) - at >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(body, at)
        if size < _ATTRIBUTE.size:
            break
        values[kind] = body[at + _ATTRIBUTE.size : at + size]
        at += _aligned(size)
    # On a line between two hosts ADDRESS is the other end.
    raw = values.get(_LOCAL, values.get(_ADDRESS, b""))
    if family == socket.AF_INET and len(raw) == 4 and bits <= 32:
        return Assigned(index, ipaddress.IPv4Interface((raw, bits)))
    if family == socket.AF_INET6 and len(raw) == 16 and bits <= 128:
        return Assigned(index, ipaddress.IPv6Interface((raw, bits)))
    return None


def _aligned(size: int) -> int:
    return (size + 3) & ~3
