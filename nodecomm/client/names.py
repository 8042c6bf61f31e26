# SPDX-License-Identifier: MIT
"""
Looking names up in threads of its own, as many at a time as there are servers to be
called: where nobody answers questions about names, the reactor's few threads would
be busy for minutes, and names that are known would wait behind those that are not.
"""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

from attrs import define
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IAddress
    from twisted.python.failure import Failure

__all__ = ["NameLookup"]


@implementer(IHostnameResolver)
class NameLookup:
    """
    Looks names up, and remembers of each that failed why it did.

    Args:
        reactor: Where results arrive.
        threads: Names that are looked up at a time; a thread is made when it is
            needed.
        getaddrinfo: What looks them up; called in a thread.

    Attributes:
        reactor: The same reactor, for endpoints: they look names up here then.
        failures: Why the last look-up of each name failed.
        pending: How often each name is being looked up, or waits for it.
    """

    def __init__(
        self,
        reactor: Any,
        threads: int,
        getaddrinfo: Callable[..., Any] = socket.getaddrinfo,
    ) -> None:
        self._reactor = reactor
        self._getaddrinfo = getaddrinfo
        self._pool = ThreadPool(0, threads, "names")
        self.failures: dict[str, Exception] = {}
        self.pending: Counter[str] = Counter()
        self.reactor: Any = _Reactor(reactor, self)

    def start(self) -> None:
        """
        Begin to look names up.
        """
        self._pool.start()

    def stop(self) -> None:
        """
        Wait for the look-ups that are under way, and end the threads.
        """
        self._pool.stop()

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """
        Look a name up, for TCP; other semantics, and a choice of kinds of addresses,
        nobody here asks for.
        """
        del addressTypes, transportSemantics
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        self.pending[hostName] += 1
        looking = deferToThreadPool(
            self._reactor,
            self._pool,
            self._getaddrinfo,
            hostName,
            portNumber,
            0,
            socket.SOCK_STREAM,
        )

        def found(entries: Any) -> None:
            for family, _, _, _, address in entries:
                if family == socket.AF_INET6:
                    resolutionReceiver.addressResolved(IPv6Address("TCP", *address))
                elif family == socket.AF_INET:
                    resolutionReceiver.addressResolved(IPv4Address("TCP", *address))

        def failed(failure: Failure) -> None:
            failure.trap(OSError, UnicodeError)  # type: ignore[no-untyped-call]
            self.failures[hostName] = failure.value  # type: ignore[assignment]

        def over(result: Any) -> Any:
            self.pending[hostName] -= 1
            return result

        looking.addBoth(over).addCallbacks(found, failed)
        looking.addCallback(lambda _: resolutionReceiver.resolutionComplete())
        return resolution


@implementer(IHostResolution)
@define
class _Resolution:
    name: str

    def cancel(self) -> None:
        """
        A call of the system cannot be called back.
        """


@implementer(IReactorPluggableNameResolver)
class _Reactor:
    """
    A reactor that looks names up in another way.
    """

    def __init__(self, reactor: Any, resolver: IHostnameResolver) -> None:
        self._reactor = reactor
        self.nameResolver = resolver

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """
        Look names up in yet another way; returns the one before.
        """
        before, self.nameResolver = self.nameResolver, resolver
        return before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)
