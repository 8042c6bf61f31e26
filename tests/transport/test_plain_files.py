# SPDX-License-Identifier: MIT
"""
Files that the system puts into a connection.
"""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nodecomm.transport.errors import StreamFailure
from nodecomm.transport.interfaces import IFileStream
from tests.transport.plain_links import DescriptorLink
from tests.transport.producers import Push


class FileTests(SynchronousTestCase):
    """
    On the socket.
    """

    def opened(self) -> Any:
        link = DescriptorLink()
        self.addCleanup(link.close)
        link.start()
        link.pump()
        return link

    def file(self, content: bytes) -> int:
        """The descriptor of a file."""
        held = tempfile.TemporaryFile()  # noqa: SIM115
        self.addCleanup(held.close)
        held.write(content)
        held.flush()
        return held.fileno()

    def test_file_interface(self) -> None:
        """The socket takes files."""
        link = self.opened()

        self.assertTrue(verifyObject(IFileStream, link.transport))

    def test_file(self) -> None:
        """A range of a file is sent in its place between what is written."""
        link = self.opened()
        number = self.file(b"0123456789")
        link.transport.write(b"<")
        sent = link.transport.send_file(number, 2, 5)
        link.transport.write(b">")
        link.pump()

        self.assertEqual((sent, bytes(link.taken)), (5, b"<23456>"))

    def test_file_ends(self) -> None:
        """Less than wanted is sent at the end of a file, and behind it is an error."""
        link = self.opened()
        number = self.file(b"0123456789")

        self.assertEqual(link.transport.send_file(number, 7, 50), 3)
        self.assertRaises(EOFError, link.transport.send_file, number, 10, 1)

    def test_file_not_readable(self) -> None:
        """What is wrong with the file is the caller's matter; the connection stays."""
        link = self.opened()
        write_only = os.open("/dev/null", os.O_WRONLY)
        self.addCleanup(os.close, write_only)
        for number in (write_only, -1):
            with self.assertRaises(OSError) as raised:
                link.transport.send_file(number, 0, 10)
            self.assertEqual(raised.exception.errno, errno.EBADF)
        link.transport.write(b"on we go")
        link.pump()

        self.assertEqual(bytes(link.taken), b"on we go")

    def test_file_behind_what_is_queued(self) -> None:
        """A file cannot overtake: the producer is paused, and resumed when it can."""
        link = self.opened()
        number = self.file(b"content")

        class Sender(Push):
            def produce(self) -> None:
                self.sent.append(self.transport.send_file(number, 0, 7))

            sent: list[int] = []

        sender = Sender(link.transport, 1, 1)
        link.transport.registerProducer(sender, True)
        link.transport.write(b"q" * 8_000_000)
        self.assertFalse(sender.running)
        self.assertEqual(link.transport.send_file(number, 0, 7), 0)
        link.pump(turns=3000)

        self.assertEqual(sender.sent, [7])
        self.assertEqual(len(link.taken), 8_000_007)
        self.assertEqual(bytes(link.taken[-7:]), b"content")

    def test_file_against_a_silent_peer(self) -> None:
        """A file waits for a peer that does not read, and goes on when it does."""
        link = self.opened()
        content = os.urandom(1 << 20) * 8
        number = self.file(content)
        state = {"at": 0}

        class Sender(Push):
            def produce(self) -> None:
                while self.running and state["at"] < len(content):
                    state["at"] += self.transport.send_file(
                        number, state["at"], 1 << 18
                    )

        sender = Sender(link.transport, 1, 1)
        link.transport.registerProducer(sender, True)
        link.reading = False
        sender.produce()
        link.pump()
        stuck = state["at"]
        link.pump()
        self.assertEqual((state["at"], sender.running), (stuck, False))
        self.assertLess(stuck, len(content))
        self.assertEqual(link.transport.write_pending, 0)
        link.reading = True
        link.pump(turns=3000)

        self.assertTrue(bytes(link.taken) == content)
        self.assertGreater(sender.pauses, 1)

    def test_file_gives_others_a_turn(self) -> None:
        """A file that leaves as fast as it is sent is paused now and then."""
        link = self.opened()
        number = self.file(b"x" * 65536)
        sender = Push(link.transport, 0, 0)
        link.transport.registerProducer(sender, True)
        sizes = []
        while sender.running:
            sizes.append(link.transport.send_file(number, 0, 65536))
            link.take()

        self.assertGreater(sum(sizes), 1 << 16)
        self.assertLess(sum(sizes), 3 << 20)

    def test_file_after_the_end(self) -> None:
        """Nothing is sent when we have closed, or are closing."""
        number = self.file(b"content")
        for name in ("loseConnection", "abortConnection"):
            link = self.opened()
            getattr(link.transport, name)()
            self.assertEqual(link.transport.send_file(number, 0, 7), 0)
            link.hang_up()
            link.pump()

            self.assertEqual(link.transport.send_file(number, 0, 7), 0)
            self.assertEqual(bytes(link.taken), b"")

    def test_file_for_a_peer_that_went(self) -> None:
        """A peer that has gone ends the connection, not the file."""
        link = self.opened()
        link.transport.pauseProducing()
        number = self.file(b"content")
        link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1" + b"\0" * 7)
        link.sock.close()
        link.reading = False

        self.assertEqual(link.transport.send_file(number, 0, 7), 0)
        self.assertEqual(link.session.calls, ["made"])
        link.pump()
        self.assertEqual(link.session.calls, ["made", "lost"])
        self.assertIsInstance(link.session.reasons[0], StreamFailure)

    def test_file_and_a_network_that_went(self) -> None:
        """So does a network that has gone, whatever the system calls that."""
        for number in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETDOWN):
            link = self.opened()
            with mock.patch.object(
                os, "sendfile", side_effect=OSError(number, os.strerror(number))
            ):
                sent = link.transport.send_file(self.file(b"content"), 0, 7)
            link.pump()

            self.assertEqual(sent, 0)
            self.assertEqual(
                str(link.session.reasons[0]), f"tcp: {os.strerror(number)}"
            )
