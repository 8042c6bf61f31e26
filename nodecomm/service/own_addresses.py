# SPDX-License-Identifier: MIT
"""
Whether a server's name leads to this very host, and which network lies around an
address.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from attrs import frozen

from nodecomm.client.errors import CodedError

__all__ = [
    "AddressUnknown",
    "ResolvedServer",
    "is_own",
    "network_around",
    "resolve_server",
]

#: Bits of the network around an address whose nodes are trusted at first: what
#: `cf-agent --bootstrap` on a policy server takes for its own.
#: Source: CFEngine 3.21, the failsafe policy (`$(sys.policy_hub)/16`).
NETWORK_BITS = {4: 16, 6: 64}

#: Where Linux says that any address can be bound, own or not.
_NONLOCAL = {
    socket.AF_INET: "/proc/sys/net/ipv4/ip_nonlocal_bind",
    socket.AF_INET6: "/proc/sys/net/ipv6/ip_nonlocal_bind",
}

#: A resolver as `socket.getaddrinfo`.
GetAddrInfo = Callable[..., Sequence[tuple[int, int, int, str, tuple[object, ...]]]]


class AddressUnknown(CodedError):  # noqa: N818
    """
    The name leads to no address (`name-unknown`), or it may yet
    (`name-lookup-failed`).
    """


@frozen
class ResolvedServer:
    """
    A server's addresses.

    Attributes:
        addresses: All of them, in the resolver's order.
        own: Those of this host.
    """

    addresses: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def only_loopback(self) -> bool:
        """
        Whether no other machine can mean this host by it.
        """
        return all(_plain(address).is_loopback for address in self.addresses)


def resolve_server(
    host: str,
    port: int,
    *,
    getaddrinfo: GetAddrInfo = socket.getaddrinfo,
    own: Callable[[str], bool] | None = None,
) -> ResolvedServer:
    """
    Look up a server and see which of its addresses are this host's. Blocks.

    Args:
        host: A name or an address.
        port: Its port.
        getaddrinfo: Looks up.
        own: Says whether an address is this host's; None: `is_own`.

    Raises:
        AddressUnknown: There is no address.
    """
    try:
        found = getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, socket.gaierror) else None
        reason = error.strerror if isinstance(error, OSError) else "this is no name"
        if number in (socket.EAI_AGAIN, socket.EAI_FAIL):
            raise AddressUnknown(
                "name-lookup-failed",
                f"{host} cannot be looked up now: {reason}; look at the name servers "
                "in /etc/resolv.conf, or give the server's address",
            ) from error
        raise AddressUnknown(
            "name-unknown",
            f"{host} leads to no address: {reason}; look at the spelling, or give the "
            "server's address",
        ) from error
    addresses = tuple(dict.fromkeys(_with_scope(entry[4]) for entry in found))
    is_mine = is_own if own is None else own
    return ResolvedServer(addresses, tuple(filter(is_mine, addresses)))


def _with_scope(address: tuple[object, ...]) -> str:
    """
    The address with its scope, which a link-local one cannot be bound without.
    """
    host = str(address[0])
    if len(address) == 4 and address[3] and "%" not in host:
        return f"{host}%{address[3]}"
    return host


def is_own(address: str, *, nonlocal_bind: Callable[[int], bool] | None = None) -> bool:
    """
    Whether *address* is one of this host: whether a socket can be bound to it.

    Args:
        address: An address, with a scope where it needs one.
        nonlocal_bind: Whether the system binds any address of a family, own or not;
            then it is asked by which address it would leave. None: Linux is asked.
    """
    plain = _plain(address)
    if plain.is_unspecified or plain.is_multicast:
        return False
    family = socket.AF_INET if plain.version == 4 else socket.AF_INET6
    try:
        ((_, kind, _, _, place), *_) = socket.getaddrinfo(
            address, 0, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST
        )
        with socket.socket(family, kind) as probe:
            probe.bind(place)
    except OSError:
        return False
    if not (nonlocal_bind or _binds_all)(family) or plain.is_loopback:
        return True
    return _leaves_by_itself(family, place, plain)


def _leaves_by_itself(
    family: int, place: tuple[object, ...], address: ipaddress._BaseAddress
) -> bool:
    """
    Whether what is sent to the address would come from it: so it is with one's own
    addresses alone. Nothing is sent.
    """
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((place[0], 9, *place[2:]))
            return _plain(probe.getsockname()[0]) == address
        except OSError:
            return False


def _binds_all(family: int) -> bool:
    try:
        return Path(_NONLOCAL[socket.AddressFamily(family)]).read_text().strip() != "0"
    except OSError:
        return False


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address.partition("%")[0])


def network_around(addresses: Iterable[str]) -> tuple[str, ...]:
    """
    The networks around the addresses, as CIDR, each once: /16 for IPv4, /64 for IPv6.
    """
    networks = []
    for address in addresses:
        plain = _plain(address)
        mapped = getattr(plain, "ipv4_mapped", None)
        plain = mapped or plain
        bits = NETWORK_BITS[plain.version]
        networks.append(str(ipaddress.ip_network(f"{plain}/{bits}", strict=False)))
    return tuple(dict.fromkeys(networks))
