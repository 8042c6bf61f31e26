# SPDX-License-Identifier: MIT
"""
Names that are looked up in threads of their own.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nodecomm.client.address import ServerAddress
from nodecomm.client.dialing import Dialer
from nodecomm.client.errors import Unreachable
from nodecomm.client.names import NameLookup
from nodecomm.client.timeouts import Timeouts
from nodecomm.testing import key_pair
from nodecomm.transport.context import client_context
from tests.client.scripted import Trusting

V4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))


class NameTests(TestCase):
    """
    Names, and what becomes of a dialer that asks for them.
    """

    def setUp(self) -> None:
        """
        A look-up whose answers the test decides on.
        """
        from twisted.internet import reactor  # noqa: PLC0415

        self.reactor: Any = reactor
        #: Of the dialer, not of its sockets.
        self.clock = Clock()
        self.answers: dict[str, Any] = {}
        self.looked_up: list[str] = []
        self.names = NameLookup(reactor, 40, self.look_up)
        self.names.start()
        self.addCleanup(self.names.stop)
        self.dialer = Dialer(
            reactor,
            context=client_context(key_pair(1)),
            trust=Trusting(),
            user=b"root",
            names=self.names,
            clock=self.clock,
            timeouts=Timeouts(connect=10.0),
        )

    def look_up(self, host: str, *_: Any) -> Any:
        """
        In a thread: what the test says.
        """
        self.looked_up.append(host)
        answer = self.answers[host]
        if isinstance(answer, threading.Event):
            answer.wait(60)
            return []
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def code(self, host: str, port: int = 1) -> str:
        """
        The word for why there is no connection.
        """
        try:
            await self.dialer.connect(ServerAddress(host, port))
        except Unreachable as error:
            self.assertIn(host, str(error))
            return error.code
        raise AssertionError

    async def test_why_there_is_none(self) -> None:
        """
        A name that does not exist is told from a look-up that failed, with one look-up
        of each.
        """
        self.answers = {
            "none": socket.gaierror(socket.EAI_NONAME, "not known"),
            "later": socket.gaierror(socket.EAI_AGAIN, "try again"),
            "broken": UnicodeError("label too long"),
            "empty": [],
            "there": [V4],
        }

        self.assertEqual("name-unknown", await self.code("none"))
        self.assertEqual("name-lookup-failed", await self.code("later"))
        self.assertEqual("name-lookup-failed", await self.code("broken"))
        self.assertEqual("name-lookup-failed", await self.code("empty"))
        self.assertEqual("connection-refused", await self.code("there"))
        self.assertEqual([*self.answers], self.looked_up)

    async def test_dead_names_delay_nobody(self) -> None:
        """
        While more names are looked up than the reactor has threads, and nobody
        answers, another name is found, and an address needs no look-up at all. Those
        that were never found are told as look-ups that failed.
        """
        release = threading.Event()
        dead = [f"dead{number}" for number in range(30)]
        self.answers = dict.fromkeys(dead, release)
        self.answers["there"] = [V4]
        try:
            waiting = [Deferred.fromCoroutine(self.code(name)) for name in dead]
            self.assertEqual("connection-refused", await self.code("there"))
            self.assertEqual("connection-refused", await self.code("127.0.0.1"))
            self.assertNotIn("127.0.0.1", self.looked_up)
            self.clock.advance(20)
            found = [await each for each in waiting]
        finally:
            release.set()

        self.assertEqual({"name-lookup-failed"}, set(found))


class AddressTests(SynchronousTestCase):
    """
    What a reactor is for an endpoint.
    """

    def test_another_resolver(self) -> None:
        """
        The reactor that looks names up here is the same in all else, and takes
        another resolver as any does.
        """

        class Reactor:
            def seconds(self) -> float:
                """A time."""
                return 5.0

        names = NameLookup(Reactor(), 1)

        self.assertEqual(5.0, names.reactor.seconds())
        self.assertIs(names, names.reactor.installNameResolver(None))
        self.assertIsNone(names.reactor.nameResolver)
