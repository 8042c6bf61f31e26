# SPDX-License-Identifier: MIT
"""
Factories for the classic protocol: alone, and on one port with TLS.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.identity.trust import MemoryCounter, TrustPolicy, TrustWindow
from nodecomm.server import ClassicFactory, PortFactory
from nodecomm.server.events import EventLog
from nodecomm.server.pools import Workers
from nodecomm.testing import (
    MemoryClassicClient,
    MemoryKeyStore,
    key_pair,
    memory_server,
)
from nodecomm.testing.server import settings_of, snapshot_of
from nodecomm.wire.framing import encode_transaction
from tests.server.test_events import Recorder

ALLOWED = {"allowlegacyconnects": ["10.0.0.1"]}


def snapshot(**server: Any) -> Any:
    """
    Rules that let everybody connect.
    """
    tables = {"allowallconnects": ["0.0.0.0/0"], **server}
    return snapshot_of(settings_of({"server": tables}))


class PortTests(SynchronousTestCase):
    """
    Who is served what on one port.
    """

    def setUp(self) -> None:
        self.recorder = Recorder()
        self.server = memory_server(
            server=ALLOWED, events=EventLog(log=self.recorder.log)
        )

    def refused(self, address: str) -> None:
        """A classic node at *address* is closed without a word."""
        node = self.server.dial_classic(address)
        assert node is not None
        node.send(encode_transaction(b"CAUTH 1 2 root 0"))
        self.assertEqual((b"", True), (node.received(), node.closed))

    def test_both_at_once(self) -> None:
        """The first byte decides; sessions of both are counted together."""
        classic = self.server.connect_classic("10.0.0.1")
        tls = self.server.connect("10.0.0.1")

        for node in (classic, tls):
            self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))
        self.assertEqual(2, len(self.server.factory.sessions))
        self.assertEqual(2, self.server.factory.admission.total)
        self.assertEqual(0, self.server.factory.admission.untrusted)
        classic.hang_up()
        tls.hang_up()
        self.assertEqual(set(), self.server.factory.sessions)
        self.assertEqual(0, self.server.factory.admission.total)

    def test_an_address_that_is_not_listed(self) -> None:
        """Closed without a word; the log says how to allow it, once for many."""
        for _ in range(3):
            self.refused("10.0.0.2")

        [event] = self.recorder.events
        self.assertEqual(
            ("limit.reached", "allowlegacyconnects", "10.0.0.2"),
            (event["event"], event["limit"], event["peer"]),
        )
        self.server.sweep(60)
        self.assertEqual(2, self.recorder.events[-1]["count"])
        self.assertEqual(0, self.server.factory.admission.total)
        self.assertTrue(self.server.connect("10.0.0.2").handshaken)

    def test_nobody_is_listed(self) -> None:
        """As it is unless the configuration says otherwise."""
        self.server = memory_server(events=EventLog(log=self.recorder.log))
        self.refused("127.0.0.1")

        self.assertEqual("allowlegacyconnects", self.recorder.events[0]["limit"])

    def test_rules_of_the_moment(self) -> None:
        """A reload holds for the next connection, and leaves those that are here."""
        node = self.server.connect_classic("10.0.0.1")
        evaluator = self.server.factory.serving.evaluator
        evaluator.snapshot = snapshot(allowlegacyconnects=["10.0.0.2"])

        self.refused("10.0.0.1")
        self.server.connect_classic("10.0.0.2")
        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))

    def test_a_rule_that_changes_before_the_first_byte(self) -> None:
        """What counts is when the peer shows what it speaks."""
        node = self.server.dial_classic("10.0.0.1")
        assert node is not None
        self.server.factory.serving.evaluator.snapshot = snapshot()
        node.send(encode_transaction(b"CAUTH 1 2 root 0"))

        self.assertEqual((b"", True), (node.received(), node.closed))

    def test_connections_count_like_others(self) -> None:
        """The lists and limits of the port are for both protocols."""
        evaluator = self.server.factory.serving.evaluator
        evaluator.snapshot = snapshot_of(
            settings_of({"server": {**ALLOWED, "denyconnects": ["10.0.0.3"]}})
        )
        self.assertIsNone(self.server.dial_classic("10.0.0.3"))
        self.server.connect_classic("10.0.0.1")
        self.assertIsNone(self.server.dial_classic("10.0.0.1"))

    def test_without_a_classic_factory(self) -> None:
        """A port for TLS alone closes them, too."""
        self.server.port = PortFactory(self.server.factory)

        self.refused("10.0.0.1")
        [event] = self.recorder.events
        self.assertEqual(
            "a connection from 10.0.0.1 ended before TLS: it began with the classic"
            " protocol, which is not served",
            formatEvent(event),
        )

    def test_two_servers(self) -> None:
        """Factories on one port share what they consist of."""
        other = memory_server()
        with self.assertRaises(ValueError):
            PortFactory(self.server.factory, other.port.classic)

    def test_the_classic_protocol_alone(self) -> None:
        """Its factory needs no other one around it, and is told so at once."""
        with self.assertRaises(TypeError) as raised:
            PortFactory(self.server.port.classic)  # type: ignore[arg-type]
        self.assertIn("ClassicFactory alone", str(raised.exception))

    def test_commands_of_later_versions(self) -> None:
        """A reload of the commands is for the classic protocol, too."""
        self.assertEqual({1, 2, 3}, set(self.server.factory.commands))
        self.assertNotIn(b"COOKIE", self.server.factory.commands[1])


class AloneTests(SynchronousTestCase):
    """
    A port for the classic protocol and nothing else.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.factory = ClassicFactory(
            self.clock,
            key=key_pair(0),
            trust=TrustPolicy(
                MemoryKeyStore(),
                [TrustWindow(lambda address: True, "everyone")],
                ["root"],
                MemoryCounter(),
            ),
            evaluator=AccessEvaluator(snapshot(**ALLOWED)),
            workers=Workers.inline(),
            monotonic=self.clock.seconds,
        )
        self.factory.doStart()

    def dial(self, address: str = "10.0.0.1") -> MemoryClassicClient:
        """A client whose connection was accepted."""
        where = IPv4Address("TCP", address, 1)
        return MemoryClassicClient(
            self.factory.buildProtocol(where), where, self.clock, key_pair(1)
        )

    def test_a_session(self) -> None:
        """It needs no TLS, and no certificate."""
        node = self.dial()

        self.assertTrue(node.identify(key_pair(0).public))
        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))
        self.assertEqual(1, len(self.factory.sessions))

    def test_tls(self) -> None:
        """There is none here."""
        node = self.dial()
        node.send(b"\x16\x03\x01")

        self.assertEqual((b"", True), (node.received(), node.closed))

    def test_an_address_that_is_not_listed(self) -> None:
        """`allowlegacyconnects` holds without TLS, too."""
        node = self.dial("10.0.0.2")
        node.send(encode_transaction(b"CAUTH 1 2 root 0"))

        self.assertEqual((b"", True), (node.received(), node.closed))

    def test_the_end(self) -> None:
        """Sessions end, timers stop, and nobody new is taken."""
        node = self.dial()
        node.identify(None)
        done = self.factory.stop(5)
        node.pump()

        self.successResultOf(done)
        self.assertTrue(node.closed)
        self.assertIsNone(self.factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 2)))
        self.factory.doStop()
        self.clock.advance(10)
        self.assertEqual([], self.clock.getDelayedCalls())
