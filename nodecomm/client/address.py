# SPDX-License-Identifier: MIT
"""
How a person names a server, and something on it.
"""

from __future__ import annotations

import re
import socket

from attrs import frozen

from nodecomm.wire.text import from_text

__all__ = ["DEFAULT_PORT", "ServerAddress", "Target", "parse_server", "parse_target"]

#: Source: CFEngine 3.21, the port it registered.
DEFAULT_PORT = 5308

_MAX_PORT = 65535

_IN_BRACKETS = re.compile(r"\[([^\[\]]+)\](?::(.*))?", re.DOTALL)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^\s/:@\x00-\x1f]*)")

#: What may be an IPv6 address without brackets, and what follows it.
_BARE_IPV6 = re.compile(r"([0-9A-Fa-f:]{2,39})(?::|\Z)(.*)", re.DOTALL)
_DIGITS = re.compile(r"[0-9]+")

#: A host name or an address: no white space, no slash, nothing a terminal acts on.
_HOST = re.compile(r"[^\s/\x00-\x1f\x7f\\@\[\]]{1,255}")


@frozen(order=True)
class ServerAddress:
    """
    A server as it was configured: its key is pinned to exactly this name and port.

    Attributes:
        host: A name, or an address without brackets; in lower case but for the zone
            of a link-local address.
        port: 1 to 65535.
    """

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        """
        `host:port`, with brackets where the host has colons itself.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@frozen
class Target:
    """
    Something on a server.

    Attributes:
        server: Where.
        path: An absolute name or one that begins with a shortcut, as on the wire.
    """

    server: ServerAddress
    path: bytes


def parse_server(text: str) -> ServerAddress:
    """
    Read `HOST`, `HOST:PORT`, `[ADDRESS]`, `[ADDRESS]:PORT`, or a bare IPv6 address.

    Raises:
        ValueError: It is none of these; the text says what to write.
    """
    _no_url(text)
    found = _IN_BRACKETS.fullmatch(text)
    if found is not None:
        host, port = found.groups()
        return ServerAddress(_host(host, text), _port(port, text))
    if text.startswith("["):
        msg = f"{text!r} is not [ADDRESS] or [ADDRESS]:PORT"
        raise ValueError(msg)
    if text.count(":") > 1:
        # More than one colon and no brackets: an address without a port.
        return ServerAddress(_host(text, text))
    host, colon, port = text.partition(":")
    return ServerAddress(_host(host, text), _port(port if colon else None, text))


def parse_target(text: str) -> Target:
    """
    Read `HOST:PATH` or `HOST:PORT:PATH`, the host as in `parse_server`, an IPv6
    address always in brackets. Digits between two colons are the port. The path is
    in the reversible text form: `\\xNN` for bytes that are no text.

    Raises:
        ValueError: It is none of these; the text says what to write.
    """
    _no_url(text, ", and a path behind :")
    if text.startswith("["):
        end = text.find("]")
        host, rest = text[1:end], text[end + 1 :]
        if end < 0 or not rest.startswith(":"):
            msg = f"{text!r} is not [ADDRESS]:PATH or [ADDRESS]:PORT:PATH"
            raise ValueError(msg)
        rest = rest[1:]
    else:
        found = _BARE_IPV6.match(text)
        if found is not None and _is_ipv6(found[1]):
            address, rest = found.groups()
            msg = (
                f"{text!r}: an IPv6 address stands in brackets here: write"
                f" [{address}]:{rest or 'PATH'}"
            )
            raise ValueError(msg)
        host, colon, rest = text.partition(":")
        if not colon:
            msg = f"{text!r} names no server: write HOST:PATH or HOST:PORT:PATH"
            raise ValueError(msg)
    before, colon, after = rest.partition(":")
    port = None
    if colon and _DIGITS.fullmatch(before):
        port, rest = before, after
    if not rest:
        msg = f"{text!r} names nothing on the server: write HOST:PATH"
        raise ValueError(msg)
    server = ServerAddress(_host(host, text), _port(port, text))
    return Target(server, from_text(rest))


def _no_url(text: str, more: str = "") -> None:
    """
    Refuse what belongs into a browser; *more* is what may stand behind a server.
    """
    found = _URL.match(text)
    if found is not None:
        host = found[1] or "HOST"
        msg = f"{text!r} is a URL: write {host} or {host}:PORT{more}"
        raise ValueError(msg)


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True


def _host(host: str, text: str) -> str:
    if not _HOST.fullmatch(host):
        msg = f"{text!r} begins with no host name or address"
        raise ValueError(msg)
    # The zone behind an address is an interface's name, which has its own case.
    name, percent, zone = host.partition("%")
    return name.lower() + percent + zone


def _port(port: str | None, text: str) -> int:
    if port is None:
        return DEFAULT_PORT
    number = int(port) if _DIGITS.fullmatch(port) and len(port) <= 5 else 0
    if not 0 < number <= _MAX_PORT:
        msg = f"{text!r}: the port must be a number from 1 to {_MAX_PORT}, not {port!r}"
        raise ValueError(msg)
    return number
