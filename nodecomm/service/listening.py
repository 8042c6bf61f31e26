# SPDX-License-Identifier: MIT
"""
The addresses a server listens on, from Twisted endpoint strings.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure

from nodecomm.config.errors import in_toml
from nodecomm.service.endpoints import what_is_wrong
from nodecomm.service.own_state import StartError

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort, IProtocolFactory

__all__ = [
    "BACKLOG",
    "ListenError",
    "begin_listening",
    "listen",
    "listen_all",
    "port_number",
    "stop_listening",
]

#: Connections the kernel holds for us while we are busy, where the endpoint string
#: does not say. Twisted's own 50 makes nodes that start together wait for seconds;
#: the kernel cuts this to net.core.somaxconn.
BACKLOG = 4096

#: What a system without IPv6, or with IPv6 switched off, answers.
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL})

#: Endpoints that are an address of this host, with a port as the first argument.
_TCP = re.compile(r"(tcp6?):", re.IGNORECASE)

#: The same, taken apart at the port.
_PORT = re.compile(r"(tcp6?:(?:port=)?)([0-9]{1,5})((?::.*)?)", re.IGNORECASE)

_log = Logger()


class ListenError(Exception):
    """
    An endpoint cannot be listened on. Look at who has the address
    (`ss -lntp`), or change `listen`.

    Attributes:
        endpoint: The endpoint string.
        reason: Why.
    """

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(endpoint, reason)
        self.endpoint = endpoint
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot listen on {self.endpoint}: {self.reason}"


async def listen(
    reactor: Any,
    description: str,
    factory: IProtocolFactory,
    table: str = "server",
) -> list[IListeningPort]:
    """
    Listen on an endpoint.

    `tcp6` takes IPv4 too, whatever the system's default for that is, unless it names
    an interface; where there is no IPv6 it falls back to `tcp`.

    Args:
        reactor: Listens.
        description: The endpoint string.
        factory: Takes the connections.
        table: The table of the configuration that says where to listen.

    Returns:
        The ports, to be stopped by the caller.

    Raises:
        ListenError: It cannot be done.
    """
    try:
        ports = [await _listen(reactor, description, factory, table)]
    except ListenError as error:
        if not _is_any_tcp6(description) or _errno(error) not in _NO_IPV6:
            raise
        _log.warn(
            "there is no IPv6 here ({reason}): listening on {endpoint} as tcp",
            event="listen.without-ipv6",
            endpoint=description,
            reason=error.reason,
        )
        return [await _listen(reactor, "tcp" + description[4:], factory, table)]
    if _is_any_tcp6(description) and _is_v6_only(ports[0]):
        four = f"tcp:{port_number(ports[0])}"
        try:
            ports.append(await _listen(reactor, four, factory, table))
        except ListenError:
            await _stopped(ports[0])
            raise
    return ports


async def listen_all(
    reactor: Any,
    endpoints: Iterable[str],
    factory: IProtocolFactory,
    table: str = "server",
) -> dict[str, list[IListeningPort]]:
    """
    Listen on all *endpoints*, or on none; arguments as for `listen`.

    Returns:
        The ports by endpoint.

    Raises:
        ListenError: One cannot be had.
    """
    opened: dict[str, list[IListeningPort]] = {}
    try:
        for endpoint in endpoints:
            opened[endpoint] = await listen(reactor, endpoint, factory, table)
    except ListenError:
        for ports in opened.values():
            # Nobody waits for what is given up: who asked hears at once.
            Deferred.fromCoroutine(stop_listening(ports)).addErrback(lambda _: None)
        raise
    return opened


async def stop_listening(ports: Iterable[IListeningPort]) -> None:
    """
    Listen no longer at *ports*.
    """
    for port in ports:
        await _stopped(port)


def begin_listening(
    work: Coroutine[Any, Any, None], late: Callable[[Failure], object]
) -> None:
    """
    Do *work*, which listens, for a service that starts.

    Args:
        work: It.
        late: Called with what goes wrong later, for an endpoint that takes its time.

    Raises:
        StartError: An endpoint cannot be had, and that is known at once.
    """
    failures: list[Failure] = []
    is_late = False

    def failed(failure: Failure) -> None:
        if is_late:
            late(failure)
        else:
            failures.append(failure)

    Deferred.fromCoroutine(work).addErrback(failed)
    is_late = True
    if failures:
        (failure,) = failures
        if isinstance(failure.value, ListenError):
            raise StartError(failure.getErrorMessage()) from failure.value
        failure.raiseException()


async def _listen(
    reactor: Any, description: str, factory: IProtocolFactory, table: str
) -> IListeningPort:
    full = description
    if _TCP.match(description) and "backlog=" not in description:
        full += f":backlog={BACKLOG}"
    try:
        endpoint = serverFromString(reactor, full)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, LookupError, OSError) as error:
        message, hint = what_is_wrong(description, error)
        raise ListenError(description, f"{message}; {hint}") from error
    try:
        port: IListeningPort = await endpoint.listen(factory)
    except CannotListenError as error:
        raise ListenError(description, _taken(description, error, table)) from error
    except (OSError, ValueError, TypeError) as error:
        raise ListenError(description, _reason(error)) from error
    return port


async def _stopped(port: IListeningPort) -> None:
    stopping = port.stopListening()
    if isinstance(stopping, Deferred):
        await stopping


def _taken(description: str, error: CannotListenError, table: str) -> str:
    """
    Why there is no listening there, and what to write where another has the port.
    """
    said = _reason(error.socketError)
    if getattr(error.socketError, "errno", None) != errno.EADDRINUSE:
        return said
    found = _PORT.match(description)
    if found is None:
        return said
    kind, number, rest = found.groups()
    other = f"{kind}{int(number) % 65535 + 1}{rest}"
    return (
        f"{said}; end what has the port (`ss -lntp` tells), or write another one into"
        f" the configuration that -c names: listen = [{in_toml(other)}] in [{table}]"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return (
            f"{error.strerror}; write an address of this machine behind interface=, or"
            " leave that out"
        )
    if isinstance(error, OSError) and error.errno is not None:
        name = errno.errorcode.get(error.errno, str(error.errno))
        return f"{os.strerror(error.errno)} ({name})"
    return str(error) or type(error).__name__


def _errno(error: ListenError) -> int | None:
    cause: object = error.__cause__
    if isinstance(cause, CannotListenError):
        cause = cause.socketError
    return cause.errno if isinstance(cause, OSError) else None


def _is_any_tcp6(description: str) -> bool:
    return description.lower().startswith("tcp6:") and "interface=" not in description


def _is_v6_only(port: Any) -> bool:
    found = getattr(port, "socket", None)
    if not isinstance(found, socket.socket):
        return False
    return bool(found.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def port_number(port: IListeningPort) -> int | None:
    """
    The number of the TCP port, where it is one.
    """
    number = getattr(port.getHost(), "port", None)
    return number if isinstance(number, int) else None
