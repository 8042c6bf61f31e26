# SPDX-License-Identifier: MIT
"""
The classes of this node, by which those who ask for a run select nodes (`-s`).
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import os
import re
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nodecomm.access.patterns import Pattern, UnsupportedPatternError
from nodecomm.server.execution.expressions import holds

__all__ = [
    "LONGEST_PATTERN",
    "MOST_PATTERNS",
    "canonified",
    "full_hostname",
    "node_classes",
    "own_addresses",
    "selects",
]

#: Bytes of the longest expression that is looked at. Source: CFEngine 3.21 takes no
#: longer one for classes elsewhere (CONTEXT).
LONGEST_PATTERN = 255

#: Expressions that are looked at, besides plain names; one takes up to some ms.
#: Source: CFEngine 3.21 reads ten frames, and cf-runagent puts one into each.
MOST_PATTERNS = 20

#: Where Linux distributions say what they are.
_RELEASE = Path("/etc/os-release")

#: Where Linux lists its IPv6 addresses. Of IPv4 there is only the table of routes,
#: which can be very long.
_INET6 = Path("/proc/net/if_inet6")

#: Asks for the IPv4 addresses of all interfaces, in entries of so many bytes.
#: Source: Linux, netdevice(7).
_SIOCGIFCONF = 0x8912
_ENTRY = 40 if sys.maxsize > 2**32 else 32
_MOST_ENTRIES = 512

_IS_NAME = re.compile(rb"[A-Za-z0-9_]*").fullmatch

_OTHERS = re.compile(r"[^A-Za-z0-9_]", re.ASCII)


def canonified(name: str) -> str:
    """
    *name* as the name of a class: what cannot be part of one is `_`.
    """
    return _OTHERS.sub("_", name)


def full_hostname() -> str:
    """
    This host's name with its domain; "" if it has none. Blocks for as long as name
    servers do.
    """
    own = socket.gethostname()
    try:
        found = socket.getaddrinfo(own, None, flags=socket.AI_CANONNAME)
    except (OSError, UnicodeError):
        return ""
    name = found[0][3] if found else ""
    # So it is where the name stands beside loopback in /etc/hosts.
    return "" if name.partition(".")[0] == "localhost" else name


def own_addresses() -> tuple[str, ...]:
    """
    The addresses of this host, on systems that tell of them in the way Linux does.
    """
    return tuple(dict.fromkeys([*_addresses_4(), *_addresses_6()]))


def _addresses_4() -> Iterator[str]:
    room = array.array("B", bytes(_ENTRY * _MOST_ENTRIES))
    place, size = room.buffer_info()
    asked = struct.pack("iP", size, place)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            answer = fcntl.ioctl(probe, _SIOCGIFCONF, asked)
    except OSError:
        return
    used = struct.unpack("iP", answer)[0]
    for at in range(0, used, _ENTRY):
        # A name of 16 bytes, a family and a port of 2 each.
        yield socket.inet_ntoa(bytes(room[at + 20 : at + 24]))


def _addresses_6() -> Iterator[str]:
    for line in _lines(_INET6):
        digits = line.split()[:1]
        if digits and len(digits[0]) == 32:
            yield str(ipaddress.IPv6Address(int(digits[0], 16)))


def node_classes(
    more: Iterable[str] = (),
    *,
    hostnames: Iterable[str] = (),
    addresses: Iterable[str] | None = None,
    system: str = sys.platform,
    machine: str | None = None,
    release: Mapping[str, str] | None = None,
) -> frozenset[bytes]:
    """
    The classes of this node.

    Args:
        more: Further ones, as they are.
        hostnames: This host's names; with the short one, each part of them from some
            dot on is a class.
        addresses: Its addresses; None: those that the system tells of.
        system: As `sys.platform`.
        machine: As of `os.uname`; None: this one's.
        release: What /etc/os-release says; None: what it says here.
    """
    machine = os.uname().machine if machine is None else machine
    release = _release() if release is None else release
    found = {"any", "nodecomm", system, machine, f"{system}_{machine}"}
    # Source: CFEngine 3.21, the classes 32_bit and 64_bit.
    found.add("64_bit" if sys.maxsize > 2**32 else "32_bit")
    name = release.get("ID", "")
    if name:
        found |= {name, *(f"{name}_{part}" for part in _versions(release))}
    for hostname in hostnames:
        found |= set(_host_classes(hostname))
    for address in own_addresses() if addresses is None else addresses:
        found |= set(_address_classes(address))
    return frozenset(canonified(each).encode() for each in found if each) | frozenset(
        each.encode() for each in more
    )


def selects(classes: Iterable[bytes], patterns: Sequence[bytes]) -> bool:
    """
    Whether one of *patterns* is one of *classes*, an expression of classes that holds
    (`linux.!web`), or an anchored regular expression that matches one of them. What is
    none of these matches nothing; never raises.
    """
    known = frozenset(classes)
    if not known.isdisjoint(patterns):
        return True
    expressions = [
        pattern
        for pattern in dict.fromkeys(patterns)
        if len(pattern) <= LONGEST_PATTERN and not _IS_NAME(pattern)
    ]
    for expression in expressions[:MOST_PATTERNS]:
        if holds(expression, known):
            return True
        try:
            text = expression.decode("utf-8", "surrogateescape")
            compiled = Pattern(text, bounded=True)
        except UnsupportedPatternError:
            continue
        if any(compiled.matches(each) for each in known):
            return True
    return False


def _host_classes(hostname: str) -> Iterator[str]:
    """
    Source: CFEngine 3.21: of a.b.org the classes a, a_b_org, b_org and org.
    """
    labels = hostname.lower().strip(".").split(".")
    yield labels[0]
    for index in range(len(labels)):
        yield ".".join(labels[index:])


def _address_classes(address: str) -> Iterator[str]:
    """
    Source: CFEngine 3.21: of 10.1.2.3 the classes 10_1_2_3, ipv4_10_1_2_3 and the
    latter without one, two and three of its numbers; of fd00::2 ipv6_fd00__2.
    """
    if ":" in address:
        yield f"ipv6_{address}"
        return
    yield address
    parts = address.split(".")
    for index in range(len(parts)):
        yield "ipv4_" + "_".join(parts[: index + 1])


def _versions(release: Mapping[str, str]) -> Iterator[str]:
    """
    The version of the system, then without its last numbers.
    """
    parts = release.get("VERSION_ID", "").split(".")
    if parts != [""]:
        for index in range(len(parts)):
            yield ".".join(parts[: index + 1])


def _release() -> dict[str, str]:
    """
    Source: os-release(5); of its quoting only what names and numbers need.
    """
    found = {}
    for line in _lines(_RELEASE):
        key, _, value = line.strip().partition("=")
        found[key] = value.strip("\"'")
    return found


def _lines(path: Path) -> list[str]:
    """
    The lines of a file; none where it cannot be read.
    """
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
