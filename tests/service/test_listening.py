# SPDX-License-Identifier: MIT
"""
Endpoint strings: what they become where there is no IPv6, and what a person is told.
"""

from __future__ import annotations

import errno
import socket
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nodecomm.service.listening import BACKLOG, ListenError, listen, port_number


class NoIPv6(MemoryReactor):
    """
    A reactor on a system without IPv6.
    """

    number = errno.EAFNOSUPPORT

    def listenTCP(
        self, port: int, factory: Factory, backlog: int = 50, interface: str = ""
    ) -> Any:
        """Fail for IPv6 as the system does."""
        if ":" in interface:
            raise CannotListenError(interface, port, OSError(self.number, "no"))
        return super().listenTCP(port, factory, backlog, interface)


class ListeningTests(SynchronousTestCase):
    """
    `listen` with a reactor in memory.
    """

    def listening(self, reactor: MemoryReactor, endpoint: str) -> Deferred[Any]:
        """Listen on *endpoint*."""
        return ensureDeferred(listen(reactor, endpoint, Factory()))

    def test_backlog(self) -> None:
        """Connections of many nodes at once wait in the kernel."""
        reactor = MemoryReactor()
        self.successResultOf(self.listening(reactor, "tcp6:5308"))
        self.successResultOf(self.listening(reactor, "tcp:5309:backlog=7"))

        self.assertEqual(
            [(port, backlog) for port, _, backlog, _ in reactor.tcpServers],
            [(5308, BACKLOG), (5309, 7)],
        )

    def test_without_ipv6(self) -> None:
        """`tcp6` falls back to `tcp`, whichever way IPv6 is missing."""
        for number in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            reactor = NoIPv6()
            reactor.number = number
            self.successResultOf(self.listening(reactor, "tcp6:5308"))
            ((port, _, _, interface),) = reactor.tcpServers
            self.assertEqual((port, interface), (5308, ""))

    def test_no_fallback(self) -> None:
        """A named IPv6 interface, or an address in use, is no case for `tcp`."""
        reactor = NoIPv6()
        named = self.listening(reactor, "tcp6:5308:interface=\\:\\:1")
        self.failureResultOf(named, ListenError)
        reactor.number = errno.EADDRINUSE
        failure = self.failureResultOf(self.listening(reactor, "tcp6:5308"))

        self.assertEqual(
            str(failure.value),
            "cannot listen on tcp6:5308: Address already in use (EADDRINUSE); end what"
            " has the port (`ss -lntp` tells), or write another one into the"
            ' configuration that -c names: listen = ["tcp6:5309"] in [server]',
        )
        self.assertEqual(reactor.tcpServers, [])

    def test_a_name_that_nobody_knows(self) -> None:
        """What to write is told, and no number of an error."""
        reactor = MemoryReactor()
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        wrong = CannotListenError("nowhere", 5308, unknown)
        with mock.patch.object(reactor, "listenTCP", side_effect=wrong):
            named = self.listening(reactor, "tcp:5308:interface=nowhere")
        self.assertEqual(
            str(self.failureResultOf(named, ListenError).value),
            "cannot listen on tcp:5308:interface=nowhere: Name or service not known;"
            " write an address of this machine behind interface=, or leave that out",
        )

    def test_what_is_no_endpoint(self) -> None:
        """A string that Twisted cannot read is the same kind of error."""
        for endpoint in ("nothing:1", "tcp6:port", "tcp6"):
            failure = self.failureResultOf(
                self.listening(MemoryReactor(), endpoint), ListenError
            )
            self.assertIn(f"cannot listen on {endpoint}: ", str(failure.value))


class RealListeningTests(TestCase):
    """
    `listen` with the real reactor.
    """

    async def test_both_families(self) -> None:
        """`tcp6` without an interface takes IPv4 connections too."""
        from twisted.internet import reactor  # noqa: PLC0415

        ports = await listen(reactor, "tcp6:0", Factory())
        for port in ports:
            self.addCleanup(port.stopListening)
        number = port_number(ports[0])
        assert number is not None
        with socket.create_connection(("127.0.0.1", number), 10):
            pass
