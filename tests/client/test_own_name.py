# SPDX-License-Identifier: MIT
"""
Names of our own addresses.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nodecomm.client.own_name import OwnNames, reverse_name

reactor: Any = _reactor


class ReverseTests(SynchronousTestCase):
    """
    What the resolver says, and what becomes of it.
    """

    def test_domains(self) -> None:
        """
        The host's domain is put behind a name without a dot, unless it has none or
        the name is that of the loopback.
        """
        for name, own, expected in (
            ("node.example.com", "host.example.org", "node.example.com"),
            ("node", "host.example.org", "node.example.org"),
            ("node", "host", "node"),
            ("localhost", "host.example.org", "localhost"),
        ):
            self.patch(socket, "getnameinfo", lambda *_, name=name: (name, "0"))
            self.patch(socket, "getfqdn", lambda own=own: own)
            self.assertEqual(reverse_name("192.0.2.1"), expected)

    def test_names_are_wanted(self) -> None:
        """
        An address without a name is an error, and not its own name.
        """
        asked: list[Any] = []

        def look_up(*arguments: Any) -> tuple[str, str]:
            asked.append(arguments)
            return "localhost", "0"

        self.patch(socket, "getnameinfo", look_up)
        reverse_name("127.0.0.1")
        self.assertEqual(asked, [(("127.0.0.1", 0), socket.NI_NAMEREQD)])


class NoThreadTests(SynchronousTestCase):
    """
    A reactor without threads.
    """

    def test_the_address(self) -> None:
        """
        The address has to do, and nobody is asked.
        """

        def never(address: str) -> str:
            raise AssertionError(address)

        names = OwnNames(Clock(), Clock(), never)
        self.assertEqual(self.successResultOf(names.of("192.0.2.1")), b"192.0.2.1")


class ThreadTests(TestCase):
    """
    Looking up away from the reactor.
    """

    timeout = 60

    async def test_once(self) -> None:
        """
        A name is looked up once, in a thread of its own.
        """
        asked = []

        def look_up(address: str) -> str:
            asked.append((address, threading.current_thread().daemon))
            return "node.example.com"

        names = OwnNames(reactor, reactor, look_up)
        for _ in range(3):
            self.assertEqual(await names.of("192.0.2.1"), b"node.example.com")
        self.assertEqual(asked, [("192.0.2.1", True)])

    async def test_what_is_no_name(self) -> None:
        """
        Where there is no name, or none that a claim has room for, the address has to
        do.
        """
        for answer in (OSError("no name"), "", "two words", "x" * 256, "n\xf6de"):

            def look_up(address: str, answer: Any = answer) -> str:
                if isinstance(answer, Exception):
                    raise answer
                return str(answer)

            names = OwnNames(reactor, reactor, look_up)
            self.assertEqual(await names.of("192.0.2.1"), b"192.0.2.1")

    async def test_too_slow(self) -> None:
        """
        A resolver that takes too long is not waited for; what it says in the end is
        there for the next connection.
        """
        may = threading.Event()
        clock = Clock()

        def look_up(address: str) -> str:
            may.wait(30)
            return "node.example.com"

        names = OwnNames(reactor, clock, look_up, limit=2)
        waiting = names.of("192.0.2.1")
        clock.advance(1.9)
        self.assertNoResult(waiting)
        clock.advance(0.2)
        self.assertEqual(self.successResultOf(waiting), b"192.0.2.1")
        may.set()
        while "192.0.2.1" not in names._names:
            await deferLater(reactor, 0.001)
        self.assertEqual(
            self.successResultOf(names.of("192.0.2.1")), b"node.example.com"
        )

    async def test_the_loopback(self) -> None:
        """
        The real resolver says something that a claim has room for.
        """
        name = await OwnNames(reactor, reactor).of("127.0.0.1")
        self.assertEqual(name.split(), [name])
