# SPDX-License-Identifier: MIT
"""
The two TLS transports, held to the same tests.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nodecomm.transport.errors import TLSFailure
from nodecomm.transport.interfaces import MAX_RECORD, ITLSRecords
from nodecomm.transport.limits import HandshakeGate
from tests.transport.links import (
    CLIENT_KEY,
    DescriptorLink,
    HalfCloseable,
    Link,
    MemoryLink,
)
from tests.transport.producers import Pull, Push

_few = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


class RecordsTests:
    """
    What both transports do.
    """

    link_type: type[Link]
    assertEqual: Any
    assertTrue: Any
    assertFalse: Any
    assertIsInstance: Any
    assertGreater: Any
    assertLess: Any
    assertRaises: Any
    assertIsNone: Any
    addCleanup: Any

    def link(self, **options: Any) -> Link:
        link = self.link_type(**options)
        self.addCleanup(link.close)
        return link

    def opened(self, **options: Any) -> Link:
        link = self.link(**options)
        link.open()
        return link

    def test_interface(self) -> None:
        """The transport has everything that sessions may use."""
        link = self.opened()

        self.assertTrue(verifyObject(ITLSRecords, link.transport))

    def test_order_of_calls(self) -> None:
        """A session is connected, then told of the handshake, then gets data."""
        link = self.opened()
        link.send(b"hello")
        link.pump()

        self.assertEqual(link.session.calls, ["made", "handshake"])
        self.assertEqual(bytes(link.session.received), b"hello")

    def test_facts(self) -> None:
        """Version, suite and the peer's key are known after the handshake."""
        link = self.link()
        self.assertEqual(link.transport.tls_version, "")
        link.open()
        key = link.transport.peer_certificate_key()

        self.assertEqual(link.transport.tls_version, "TLSv1.3")
        self.assertEqual(link.transport.cipher, "TLS_AES_256_GCM_SHA384")
        self.assertEqual(
            key.public_numbers(), CLIENT_KEY.private.public_key().public_numbers()
        )
        self.assertEqual(link.transport.getPeer().host, "127.0.0.1")
        self.assertEqual(link.transport.getHost().host, "127.0.0.1")

    def test_one_write_is_one_record(self) -> None:
        """Writes in one turn are neither merged nor cut."""
        link = self.opened()
        sent = [b"a", b"b" * 3000, b"c" * MAX_RECORD, b"d" * 4096, b"e"]
        for data in sent:
            link.transport.write(data)
        link.pump()

        self.assertEqual(link.peer.records, sent)

    def test_sequence_is_a_record_each(self) -> None:
        """Each item of a sequence is a record."""
        link = self.opened()
        link.transport.writeSequence([b"one", b"", b"two"])
        link.pump()

        self.assertEqual(link.peer.records, [b"one", b"two"])

    @given(sizes=st.lists(st.integers(1, MAX_RECORD), min_size=1, max_size=40))
    @_few
    def test_any_sizes(self, sizes: list[int]) -> None:
        """Whatever is written, and whenever it leaves, records are the writes."""
        link = self.opened()
        link.reading = False
        for number, size in enumerate(sizes):
            link.transport.write(bytes([number]) * size)
        link.pump()
        link.reading = True
        link.pump()

        self.assertEqual([len(record) for record in link.peer.records], sizes)

    def test_long_write_is_a_stream(self) -> None:
        """A write longer than a record arrives whole, in full records."""
        link = self.opened()
        data = bytes(range(256)) * 4096
        link.transport.write(data)
        link.pump()

        self.assertEqual(b"".join(link.peer.records), data)
        self.assertEqual(len(link.peer.records), len(data) // MAX_RECORD)

    def test_very_long_write(self) -> None:
        """A write of many megabytes arrives whole, and what follows it after it."""
        link = self.opened()
        data = bytes(range(256)) * 4096 * 5 + b"end"
        link.transport.write(data)
        link.transport.write(b"next")
        link.pump()

        self.assertEqual(b"".join(link.peer.records[:-1]), data)
        self.assertEqual(link.peer.records[-1], b"next")

    def test_only_bytes(self) -> None:
        """Text cannot be written."""
        link = self.opened()

        self.assertRaises(TypeError, link.transport.write, "text")

    def test_written_before_the_handshake(self) -> None:
        """What is written too early leaves after the handshake, in order."""
        link = self.link()
        link.session.on_made = lambda: link.transport.write(b"early")
        link.session.on_handshake = lambda: link.transport.write(b"late")
        link.open()
        link.pump()

        self.assertEqual(link.peer.records, [b"early", b"late"])

    def test_hello_byte_by_byte(self) -> None:
        """A peer may send its hello one byte at a time."""
        link = self.link()
        link.start()
        link.pump(step=1)
        link.send(b"x")
        link.pump(step=1)

        self.assertEqual(bytes(link.session.received), b"x")

    def test_hello_byte_by_byte_at_the_gate(self) -> None:
        """The same where one step of a handshake is allowed a turn."""
        link = self.link()
        gate = HandshakeGate(link.reactor, 1)
        link.transport._gate = gate
        link.start()
        link.pump(step=1)

        self.assertEqual(link.session.calls, ["made", "handshake"])
        self.assertEqual((gate.in_progress, gate.admitted), (0, 1))

    def test_gate_makes_others_wait(self) -> None:
        """A handshake beyond the limit begins when a place is free."""
        link = self.link()
        gate = HandshakeGate(link.reactor, 1)
        tickets: list[Any] = []
        first = gate.enter(tickets.append)
        link.transport._gate = gate
        link.start()
        link.pump()
        self.assertEqual((link.peer.ready, gate.waiting), (False, 1))

        first.leave()
        link.pump()

        self.assertTrue(link.peer.ready)
        self.assertEqual((gate.in_progress, gate.waiting, gate.delayed), (0, 0, 1))

    def test_lost_while_waiting_at_the_gate(self) -> None:
        """A connection that ends before its turn gives up its place in the queue."""
        link = self.link()
        gate = HandshakeGate(link.reactor, 1)
        gate.enter(lambda _: None)
        link.transport._gate = gate
        link.start()
        link.transport.abortConnection()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])
        self.assertEqual((gate.in_progress, gate.waiting), (1, 0))

    def test_handshake_timeout(self) -> None:
        """A handshake that does not end in time is ended, with the reason."""
        link = self.link()
        link.start()
        link.to_server(b"\x16\x03")
        link.reactor.turn()
        link.reactor.advance(30)
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])
        self.assertEqual(str(link.session.reasons[0]), "handshake-timeout")

    def test_no_timer_after_the_handshake(self) -> None:
        """The timeout of the handshake ends with it."""
        link = self.opened()

        self.assertEqual(link.reactor.getDelayedCalls(), [])

    def test_garbage_for_a_hello(self) -> None:
        """Garbage ends the handshake with OpenSSL's reason."""
        link = self.link()
        link.start()
        link.to_server(b"\x16garbage, and no end to it")
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])
        self.assertIsInstance(link.session.reasons[0], TLSFailure)
        self.assertTrue(str(link.session.reasons[0]).startswith("handshake: "))

    @given(garbage=st.binary(min_size=1, max_size=200))
    @_few
    def test_garbage_after_the_handshake(self, garbage: bytes) -> None:
        """Garbage later on ends the connection once, and delivers nothing."""
        link = self.opened()
        link.to_server(garbage)
        link.hang_up()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "handshake", "lost"])
        self.assertEqual(bytes(link.session.received), b"")

    def test_gone_in_the_handshake(self) -> None:
        """A peer that goes in the middle of the handshake is a failure."""
        link = self.link()
        link.start()
        link.peer.step()
        link.to_server(link.peer.take()[:40])
        link.reactor.turn()
        link.hang_up()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])
        self.assertIsInstance(link.session.reasons[0], TLSFailure)

    def test_peer_closes(self) -> None:
        """The peer's TLS close is a clean end, and is answered with ours."""
        link = self.opened()
        link.peer.connection.shutdown()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "handshake", "lost"])
        self.assertIsInstance(link.session.reasons[0], ConnectionDone)
        self.assertTrue(link.transport.close_notify_received)
        self.assertTrue(link.peer.closed)

    def test_peer_hangs_up(self) -> None:
        """An end without the TLS close is clean, too, and can be told apart."""
        link = self.opened()
        link.send(b"last")
        link.pump()
        link.hang_up()
        link.pump()

        self.assertEqual(bytes(link.session.received), b"last")
        self.assertIsInstance(link.session.reasons[0], ConnectionDone)
        self.assertFalse(link.transport.close_notify_received)

    def test_half_close(self) -> None:
        """A session that can goes on writing after the peer's close."""
        link = self.opened(session=HalfCloseable())
        link.peer.connection.shutdown()
        link.pump()
        self.assertEqual(link.session.calls, ["made", "handshake", "read lost"])
        link.transport.write(b"still here")
        link.transport.resumeProducing()
        link.transport.loseConnection()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "handshake", "read lost", "lost"])
        self.assertIsInstance(link.session.reasons[0], ConnectionDone)

    def test_lose_flushes(self) -> None:
        """Closing sends what is queued, then the TLS close."""
        link = self.opened()
        link.reading = False
        for _ in range(400):
            link.transport.write(b"q" * MAX_RECORD)
        link.transport.loseConnection()
        link.transport.write(b"too late")
        link.pump()
        self.assertEqual(link.session.calls, ["made", "handshake"])
        link.reading = True
        link.pump(turns=400)

        self.assertEqual(link.session.calls, ["made", "handshake", "lost"])
        self.assertIsInstance(link.session.reasons[0], ConnectionDone)
        self.assertEqual(len(link.peer.records), 400)
        self.assertTrue(link.peer.closed)

    def test_lose_is_not_reentrant(self) -> None:
        """Closing or aborting never calls the session from inside its own call."""
        for name in ("loseConnection", "abortConnection"):
            link = self.opened()
            getattr(link.transport, name)()
            self.assertEqual(link.session.calls, ["made", "handshake"])
            link.pump()
            self.assertEqual(link.session.calls, ["made", "handshake", "lost"])

    def test_lose_before_the_handshake(self) -> None:
        """Closing before the handshake ends the connection without waiting for it."""
        link = self.link()
        link.session.on_made = link.transport.loseConnection
        link.start()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])
        self.assertIsInstance(link.session.reasons[0], ConnectionDone)

    def test_lose_in_the_handshake(self) -> None:
        """So does closing in the middle of it."""
        link = self.link()
        link.start()
        link.to_server(b"\x16\x03\x01")
        link.reactor.turn()
        link.transport.loseConnection()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])

    def test_abort_in_every_state(self) -> None:
        """Aborting ends the connection once, wherever it is."""

        def started(link: Link) -> None:
            link.start()

        def in_handshake(link: Link) -> None:
            link.start()
            link.to_server(b"\x16\x03\x01")
            link.reactor.turn()

        def queued(link: Link) -> None:
            link.open()
            link.reading = False
            link.transport.write(b"q" * 8_000_000)

        def closing(link: Link) -> None:
            queued(link)
            link.transport.loseConnection()

        def produced(link: Link) -> None:
            link.open()
            link.transport.registerProducer(Pull(link.transport, 10**9, 10), False)

        for state in (started, in_handshake, Link.open, queued, closing, produced):
            link = self.link()
            state(link)
            link.transport.abortConnection()
            link.transport.abortConnection()
            link.pump()
            link.transport.abortConnection()
            link.transport.loseConnection()
            link.transport.write(b"nothing")
            link.pump()

            self.assertEqual(link.session.calls.count("lost"), 1, state)
            self.assertIsInstance(link.session.reasons[0], ConnectionAborted)
            self.assertEqual(link.transport.write_pending, 0)
            self.assertIsNone(link.transport.peer_certificate_key())

    def test_abort_inside_data(self) -> None:
        """After aborting in the middle of data nothing more is delivered."""
        link = self.opened()
        link.session.on_data = lambda _: link.transport.abortConnection()
        link.send(b"one")
        link.send(b"two")
        link.pump()

        self.assertEqual(bytes(link.session.received), b"one")
        self.assertEqual(link.session.calls[-1], "lost")

    def test_pause_in_the_middle(self) -> None:
        """A paused session gets nothing; resumed, everything, in order."""
        link = self.opened()
        link.session.on_data = lambda _: link.transport.pauseProducing()
        for number in range(30):
            link.send(b"%03d" % number)
        link.pump()
        self.assertEqual(bytes(link.session.received), b"000")
        for _ in range(40):
            link.transport.resumeProducing()
            link.pump(turns=3)

        expected = b"".join(b"%03d" % number for number in range(30))
        self.assertEqual(bytes(link.session.received), expected)

    def test_end_while_paused(self) -> None:
        """A session that has paused hears of the peer's close when it resumes."""
        link = self.opened()
        link.session.on_data = lambda _: link.transport.pauseProducing()
        for _ in range(20):
            link.send(b"x")
        link.peer.connection.shutdown()
        link.pump()
        self.assertEqual(link.session.calls, ["made", "handshake"])
        for _ in range(30):
            link.transport.resumeProducing()
            link.pump(turns=3)

        self.assertEqual(bytes(link.session.received), b"x" * 20)
        self.assertEqual(link.session.calls, ["made", "handshake", "lost"])

    def test_paused_before_the_handshake(self) -> None:
        """Pausing does not stop the handshake, only the data after it."""
        link = self.link()
        link.session.on_made = link.transport.pauseProducing
        link.open()
        link.send(b"data")
        link.pump()
        self.assertEqual(link.session.calls, ["made", "handshake"])
        self.assertEqual(bytes(link.session.received), b"")
        link.transport.resumeProducing()
        link.pump()

        self.assertEqual(bytes(link.session.received), b"data")

    def test_pull_producer(self) -> None:
        """A pull producer is asked until it has finished; then closing goes on."""
        link = self.opened()
        producer = Pull(link.transport, 50, 40_000)
        link.transport.registerProducer(producer, False)
        link.transport.loseConnection()
        link.pump(turns=300)

        self.assertEqual(len(b"".join(link.peer.records)), 50 * 40_000)
        self.assertEqual(link.session.calls, ["made", "handshake", "lost"])
        self.assertTrue(link.peer.closed)
        self.assertFalse(producer.stopped)

    def test_pull_producer_against_a_silent_peer(self) -> None:
        """A peer that never reads holds up the producer: memory stays flat."""
        link = self.opened()
        link.reading = False
        producer = Pull(link.transport, 10**6, 1 << 18)
        link.transport.registerProducer(producer, False)
        link.pump(turns=200)

        self.assertLess(10**6 - producer.parts, 200)
        self.assertLess(producer.most_pending, (1 << 18) + 1)
        link.transport.abortConnection()
        link.pump()
        self.assertTrue(producer.stopped)

    def test_push_producer(self) -> None:
        """A streaming producer is paused when the peer does not keep up."""
        link = self.opened()
        producer = Push(link.transport, 2000, MAX_RECORD)
        link.transport.registerProducer(producer, True)
        link.reading = False
        producer.produce()
        link.pump()
        self.assertGreater(producer.parts, 0)
        self.assertGreater(producer.pauses, 0)
        self.assertLess(producer.most_pending, 65536 + MAX_RECORD + 1)
        link.reading = True
        link.pump(turns=1000)

        self.assertEqual(producer.parts, 0)
        self.assertEqual({len(record) for record in link.peer.records}, {MAX_RECORD})
        self.assertEqual(len(link.peer.records), 2000)

    def test_second_producer(self) -> None:
        """Only one producer can be registered."""
        link = self.opened()
        link.transport.registerProducer(Push(link.transport, 1, 1), True)

        self.assertRaises(
            RuntimeError,
            link.transport.registerProducer,
            Push(link.transport, 1, 1),
            True,
        )

    def test_producer_after_the_end(self) -> None:
        """A producer registered after the end is stopped."""
        link = self.opened()
        link.transport.abortConnection()
        link.pump()
        producer = Push(link.transport, 1, 1)
        link.transport.registerProducer(producer, True)

        self.assertTrue(producer.stopped)

    def test_nothing_kept(self) -> None:
        """After the end a session that keeps its transport keeps no connection."""
        link = self.opened()
        connection = weakref.ref(link.transport._connection)
        link.transport.abortConnection()
        link.pump()
        gc.disable()
        self.addCleanup(gc.enable)

        self.assertIsNone(connection())


class DescriptorTests(RecordsTests, SynchronousTestCase):
    """
    On the socket.
    """

    link_type = DescriptorLink

    def test_options(self) -> None:
        """The options of TCP reach the socket."""
        link = self.opened()
        for value in (True, False):
            link.transport.setTcpNoDelay(value)
            link.transport.setTcpKeepAlive(value)

            self.assertEqual(link.transport.getTcpNoDelay(), value)
            self.assertEqual(link.transport.getTcpKeepAlive(), value)

    def test_many_small_records(self) -> None:
        """Records in a row all arrive, whatever share of them one turn reads."""
        link = self.opened()
        for number in range(500):
            link.send(b"%03d" % number)
        link.pump()

        expected = b"".join(b"%03d" % number for number in range(500))
        self.assertEqual(bytes(link.session.received), expected)

    def test_socket_closed_once(self) -> None:
        """After the end there is no descriptor and the reactor knows nothing."""
        link = self.opened()
        link.transport.abortConnection()
        link.pump()

        self.assertEqual(link.transport.fileno(), -1)
        self.assertEqual(link.reactor.getReaders() + link.reactor.getWriters(), [])


class MemoryTests(RecordsTests, SynchronousTestCase):
    """
    Over a transport in memory.
    """

    link_type = MemoryLink
