# SPDX-License-Identifier: MIT
"""
The two transports without TLS, held to the same tests.
"""

from __future__ import annotations

import socket
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nodecomm.transport import plain
from nodecomm.transport.errors import StreamFailure
from nodecomm.transport.interfaces import IFileStream, IPlainStream
from tests.transport.links import HalfCloseable, Session
from tests.transport.plain_links import DescriptorLink, Link, MemoryLink
from tests.transport.producers import Pull, Push

_few = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


class PlainTests:
    """
    What both transports do.
    """

    link_type: type[Link]
    assertEqual: Any
    assertTrue: Any
    assertFalse: Any
    assertIn: Any
    assertIsInstance: Any
    assertGreater: Any
    assertLess: Any
    assertRaises: Any
    addCleanup: Any

    def link(self, session: Session | None = None) -> Any:
        link = self.link_type(session)
        self.addCleanup(link.close)
        return link

    def opened(self, session: Session | None = None) -> Any:
        link = self.link(session)
        link.start()
        link.pump()
        return link

    def test_interface(self) -> None:
        """The transport has everything that sessions may use."""
        link = self.opened()

        self.assertTrue(verifyObject(IPlainStream, link.transport))

    def test_facts(self) -> None:
        """There is no TLS, and both addresses are known."""
        link = self.opened()

        self.assertEqual((link.transport.tls_version, link.transport.cipher), ("", ""))
        self.assertEqual(link.transport.getPeer().host, "127.0.0.1")
        self.assertEqual(link.transport.getHost().host, "127.0.0.1")

    @given(
        incoming=st.lists(st.binary(min_size=1, max_size=3000), max_size=10),
        outgoing=st.lists(st.binary(max_size=40_000), max_size=10),
    )
    @_few
    def test_bytes_both_ways(
        self, incoming: list[bytes], outgoing: list[bytes]
    ) -> None:
        """All that is sent arrives, in order, whatever it is and however cut."""
        link = self.opened()
        for data in incoming:
            link.send(data)
        link.transport.writeSequence(outgoing)
        link.pump()

        self.assertEqual(bytes(link.session.received), b"".join(incoming))
        self.assertEqual(bytes(link.taken), b"".join(outgoing))
        self.assertEqual(link.session.calls, ["made"])

    def test_written_when_made(self) -> None:
        """What is written as soon as there is a transport leaves."""
        link = self.link()
        link.session.on_made = lambda: link.transport.write(b"early")
        link.start()
        link.pump()

        self.assertEqual(bytes(link.taken), b"early")

    def test_very_long_write(self) -> None:
        """A write of many megabytes arrives whole, and what follows it after it."""
        link = self.opened()
        data = bytes(range(256)) * 4096 * 5 + b"end"
        link.transport.write(data)
        link.transport.write(b"next")
        self.assertGreater(link.transport.write_pending, 0)
        link.pump()

        self.assertTrue(bytes(link.taken) == data + b"next")
        self.assertEqual(link.transport.write_pending, 0)

    def test_only_bytes(self) -> None:
        """Text cannot be written."""
        link = self.opened()

        self.assertRaises(TypeError, link.transport.write, "text")

    def test_peer_ends(self) -> None:
        """The end of the peer's stream is a clean end, and comes after its bytes."""
        link = self.opened()
        link.send(b"last")
        link.pump()
        link.hang_up()
        link.pump()

        self.assertEqual(bytes(link.session.received), b"last")
        self.assertEqual(link.session.calls, ["made", "lost"])
        self.assertIsInstance(link.session.reasons[0], ConnectionDone)

    def test_lose_flushes(self) -> None:
        """Closing sends what is queued, and nothing that is written later."""
        link = self.opened()
        link.reading = False
        for _ in range(400):
            link.transport.write(b"q" * 16_384)
        link.transport.loseConnection()
        link.transport.write(b"too late")
        link.pump()
        self.assertEqual(link.session.calls, ["made"])
        link.reading = True
        link.pump(turns=3000)
        link.hang_up()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])
        self.assertIsInstance(link.session.reasons[0], ConnectionDone)
        self.assertTrue(bytes(link.taken) == b"q" * 16_384 * 400)

    def test_ends_are_not_reentrant(self) -> None:
        """Closing or aborting never calls the session from inside its own call."""
        for name in ("loseConnection", "abortConnection", "stopProducing"):
            link = self.opened()
            getattr(link.transport, name)()
            self.assertEqual(link.session.calls, ["made"])
            link.hang_up()
            link.pump()
            self.assertEqual(link.session.calls, ["made", "lost"])

    def test_lose_when_made(self) -> None:
        """A session that does not want the connection at all can close it."""
        link = self.link()
        link.session.on_made = link.transport.loseConnection
        link.start()
        link.pump()
        link.hang_up()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])

    def test_nothing_after_closing(self) -> None:
        """What the peer sends after we have closed is dropped."""
        link = self.opened()
        link.transport.loseConnection()
        link.send(b"more")
        link.pump()

        self.assertEqual(bytes(link.session.received), b"")

    def test_nothing_after_closing_inside_data(self) -> None:
        """So it is when the session closes while it gets data."""
        for name in ("loseConnection", "abortConnection"):
            link = self.opened()
            link.session.on_data = lambda _, link=link, name=name: getattr(
                link.transport, name
            )()
            link.send(b"one")
            link.pump()
            if name == "loseConnection":
                link.send(b"two")
                link.pump()
                link.hang_up()
                link.pump()

            self.assertEqual(bytes(link.session.received), b"one")
            self.assertEqual(link.session.calls, ["made", "lost"])

    def test_abort_in_every_state(self) -> None:
        """Aborting ends the connection once, wherever it is."""

        def queued(link: Any) -> None:
            link.reading = False
            link.transport.write(b"q" * 8_000_000)

        def closing(link: Any) -> None:
            queued(link)
            link.transport.loseConnection()

        def closed(link: Any) -> None:
            link.transport.loseConnection()
            link.reactor.turn()

        def produced(link: Any) -> None:
            link.transport.registerProducer(Pull(link.transport, 10**9, 10), False)

        for state in (lambda _: None, queued, closing, produced, closed):
            link = self.opened()
            state(link)
            link.transport.abortConnection()
            link.transport.abortConnection()
            link.pump()
            link.transport.abortConnection()
            link.transport.loseConnection()
            link.transport.write(b"nothing")
            link.transport.pauseProducing()
            link.transport.resumeProducing()
            link.pump()

            self.assertEqual(link.session.calls, ["made", "lost"])
            self.assertEqual(link.transport.write_pending, 0)

    def test_pause(self) -> None:
        """A paused session gets nothing; resumed, everything, in order."""
        link = self.opened()
        link.transport.pauseProducing()
        link.send(b"one")
        link.send(b"two")
        link.pump()
        self.assertEqual(bytes(link.session.received), b"")
        link.transport.resumeProducing()
        link.pump()

        self.assertEqual(bytes(link.session.received), b"onetwo")

    def test_paused_when_made(self) -> None:
        """A session may pause as soon as it has its transport."""
        link = self.link()
        link.session.on_made = link.transport.pauseProducing
        link.start()
        link.send(b"data")
        link.pump()
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
        link.pump(turns=3000)
        link.hang_up()
        link.pump()

        self.assertEqual(len(link.taken), 50 * 40_000)
        self.assertEqual(link.session.calls, ["made", "lost"])
        self.assertFalse(producer.stopped)

    def test_pull_producer_against_a_silent_peer(self) -> None:
        """A peer that never reads holds up the producer: memory stays flat."""
        link = self.opened()
        link.reading = False
        producer = Pull(link.transport, 10**6, 1 << 18)
        link.transport.registerProducer(producer, False)
        link.pump()

        self.assertLess(10**6 - producer.parts, 200)
        self.assertLess(producer.most_pending, (1 << 18) + 1)
        link.transport.abortConnection()
        link.pump()
        self.assertTrue(producer.stopped)

    def test_push_producer(self) -> None:
        """A streaming producer is paused when the peer does not keep up."""
        link = self.opened()
        producer = Push(link.transport, 2000, 16_384)
        link.transport.registerProducer(producer, True)
        link.reading = False
        producer.produce()
        link.pump()
        self.assertGreater(producer.parts, 0)
        self.assertGreater(producer.pauses, 0)
        self.assertLess(producer.most_pending, 65536 + 16_384 + 1)
        link.reading = True
        link.pump(turns=10_000)

        self.assertEqual(producer.parts, 0)
        self.assertEqual(len(link.taken), 2000 * 16_384)

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


class DescriptorTests(PlainTests, SynchronousTestCase):
    """
    On the socket.
    """

    link_type = DescriptorLink

    def test_options(self) -> None:
        """The options of TCP reach the socket, which is the connection's handle."""
        link = self.opened()
        for value in (True, False):
            link.transport.setTcpNoDelay(value)
            link.transport.setTcpKeepAlive(value)

            self.assertEqual(link.transport.getTcpNoDelay(), value)
            self.assertEqual(link.transport.getTcpKeepAlive(), value)
        self.assertEqual(link.transport.getHandle().fileno(), link.transport.fileno())

    def test_socket_closed_once(self) -> None:
        """After the end there is no descriptor and the reactor knows nothing."""
        link = self.opened()
        link.transport.abortConnection()
        link.pump()

        self.assertEqual(link.transport.fileno(), -1)
        self.assertEqual(link.reactor.getReaders() + link.reactor.getWriters(), [])
        self.assertEqual(link.transport.getHandle(), None)

    def test_abort_is_a_reset(self) -> None:
        """Aborting resets the connection and is told as what it is."""
        link = self.opened()
        link.transport.abortConnection()
        link.pump()

        self.assertTrue(link.reset)
        self.assertIsInstance(link.session.reasons[0], ConnectionAborted)

    def test_last_words(self) -> None:
        """The last words reach a peer that has sent more than anybody read, and only
        then its end is awaited."""
        link = self.opened()
        link.send(b"x" * 50_000)
        link.transport.write(b"BAD: enough")
        link.transport.loseConnection()
        link.pump()
        link.send(b"y" * 1000)
        link.pump()
        self.assertEqual(bytes(link.taken), b"BAD: enough")
        self.assertEqual((link.ended, link.reset), (True, False))
        self.assertEqual(link.session.calls, ["made"])
        link.hang_up()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])
        self.assertIsInstance(link.session.reasons[0], ConnectionDone)
        self.assertEqual(bytes(link.session.received), b"")

    def test_flood_after_the_last_words(self) -> None:
        """A peer that goes on sending for ever is not listened to for ever."""
        link = self.opened()
        link.transport.loseConnection()
        link.pump()
        total = 0
        while link.session.calls == ["made"]:
            try:
                total += link.sock.send(b"z" * 65536)
            except (BlockingIOError, ConnectionError):
                link.wait()
            link.reactor.turn()

        self.assertGreater(total, plain.MAX_DROPPED)
        self.assertLess(total, 4 * plain.MAX_DROPPED)
        self.assertIsInstance(link.session.reasons[0], ConnectionDone)

    def test_drained_whether_paused_or_not(self) -> None:
        """A session that had paused, or pauses late, does not hold up the end."""
        link = self.opened()
        link.transport.pauseProducing()
        link.transport.loseConnection()
        link.pump()
        link.transport.pauseProducing()
        link.hang_up()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])

    def test_half_close(self) -> None:
        """A session that can goes on writing after the peer's end."""
        link = self.opened(HalfCloseable())
        link.hang_up()
        link.pump()
        self.assertEqual(link.session.calls, ["made", "read lost"])
        link.transport.write(b"still here")
        link.transport.resumeProducing()
        link.transport.loseConnection()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "read lost", "lost"])
        self.assertEqual(bytes(link.taken), b"still here")

    def test_lose_write(self) -> None:
        """Ending only our side lets the peer's last bytes in."""
        link = self.opened()
        link.transport.write(b"that is all")
        link.transport.loseWriteConnection()
        link.pump()
        self.assertEqual((bytes(link.taken), link.ended), (b"that is all", True))
        link.send(b"good-bye")
        link.hang_up()
        link.pump()

        self.assertEqual(bytes(link.session.received), b"good-bye")
        self.assertEqual(link.session.calls, ["made", "lost"])

    def test_lose_write_with_something_queued(self) -> None:
        """With something queued it is closing."""
        link = self.opened()
        data = b"q" * 8_000_000
        link.transport.write(data)
        link.transport.loseWriteConnection()
        link.pump(turns=3000)

        self.assertTrue(bytes(link.taken) == data)
        self.assertTrue(link.ended)

    def test_reset_by_the_peer(self) -> None:
        """A reset ends the connection with the system's words, reading or writing."""
        linger = b"\1\0\0\0\0\0\0\0"
        for writing in (False, True):
            link = self.opened()
            link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            if writing:
                link.transport.pauseProducing()
            link.sock.close()
            link.reading = False
            for _ in range(2 * writing):
                link.transport.write(b"data")
            link.pump()

            self.assertEqual(link.session.calls, ["made", "lost"])
            self.assertIsInstance(link.session.reasons[0], StreamFailure)
            self.assertIsInstance(link.session.reasons[0], ConnectionLost)
            self.assertIn(
                str(link.session.reasons[0]),
                ("tcp: Connection reset by peer", "tcp: Broken pipe"),
            )

    def test_what_was_said_before_a_reset(self) -> None:
        """
        Whoever wants to hear a peer out gets what it said before it went, although
        writing has shown that it is gone; nothing more leaves.
        """
        linger = b"\1\0\0\0\0\0\0\0"
        for hear_out, queued in ((True, False), (True, True), (False, False)):
            link = DescriptorLink(hear_out=hear_out)
            self.addCleanup(link.close)
            link.start()
            link.reading = False
            if queued:
                link.transport.write(b"q" * 8_000_000)
            link.send(b"last words")
            link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            link.sock.close()
            for _ in range(3):
                link.transport.write(b"data")
            link.pump()

            said = b"last words" if hear_out else b""
            self.assertEqual(bytes(link.session.received), said)
            self.assertEqual(link.session.calls[-1], "lost")
            self.assertIsInstance(link.session.reasons[0], StreamFailure)
            self.assertEqual(link.transport.write_pending, 0)

    def test_reset_while_queued(self) -> None:
        """So it is for what was queued when the peer went."""
        link = self.opened()
        link.reading = False
        link.transport.write(b"q" * 8_000_000)
        link.sock.close()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])
        self.assertEqual(link.transport.write_pending, 0)


class MemoryTests(PlainTests, SynchronousTestCase):
    """
    Over a transport in memory.
    """

    link_type = MemoryLink

    def test_no_files(self) -> None:
        """There is nothing that the system could put a file into."""
        link = self.opened()

        self.assertFalse(IFileStream.providedBy(link.transport))
        self.assertFalse(hasattr(link.transport, "send_file"))

    def test_end_while_paused(self) -> None:
        """A session that has paused gets what came before the end, then the end."""
        link = self.opened()
        link.transport.pauseProducing()
        # A transport below that does not stop at once.
        link.below.paused = False
        link.send(b"last")
        link.hang_up()
        link.pump()
        self.assertEqual(link.session.calls, ["made"])
        link.transport.resumeProducing()
        link.pump()

        self.assertEqual(bytes(link.session.received), b"last")
        self.assertEqual(link.session.calls, ["made", "lost"])

    def test_lose_write(self) -> None:
        """Ending only our side is left to the transport below, where it can; else it
        is closing."""
        link = self.opened()
        told: list[str] = []
        link.below.loseWriteConnection = lambda: told.append("half")
        link.transport.loseWriteConnection()
        self.assertEqual((told, link.below.closing), (["half"], False))
        del link.below.loseWriteConnection
        link.transport.loseWriteConnection()
        link.pump()

        self.assertEqual(link.session.calls, ["made", "lost"])
