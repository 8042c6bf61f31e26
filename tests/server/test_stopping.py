# SPDX-License-Identifier: MIT
"""
A server that stops: what is under way is finished, nothing new is begun.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.server.replies import frame
from nodecomm.testing import MemoryServer, memory_server
from nodecomm.wire.commands import encode_get
from nodecomm.wire.framing import encode_transaction
from tests.server.test_session import SlowCommand


class StoppingTests(SynchronousTestCase):
    """
    `stop` of the factory, with sessions in every state.
    """

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir(parents=True)
        self.slow = SlowCommand()
        self.server = self.make_server()

    def make_server(self) -> MemoryServer:
        rule = {
            "path": str(self.root),
            "shortcut": "files",
            "admit_ips": ["127.0.0.1"],
        }
        return memory_server(rule, commands=[self.slow])

    def test_nothing_new_is_begun(self) -> None:
        """A peer that asked far ahead gets what is under way, in order, and no
        more."""
        node = self.server.connect()
        node.request(*[b"SLOW"] * 30)
        begun = len(self.slow.waiting)
        self.assertEqual(self.server.factory.limits.answers_at_once, begun)

        stopped = self.server.factory.stop(10)
        for number in reversed(range(begun)):
            self.slow.waiting[number].callback(frame(b"%d" % number))
            node.pump()

        self.assertEqual(begun, len(self.slow.waiting))
        self.assertEqual([b"%d" % n for n in range(begun)], node.transactions())
        self.assertTrue(node.closed)
        self.successResultOf(stopped)

    def test_a_file_leaves_in_whole(self) -> None:
        """As fast as the peer takes it."""
        content = bytes(range(256)) * 4000
        (self.root / "file").write_bytes(content)
        node = self.server.connect()
        node._tls.send(encode_transaction(encode_get(b"files/file")))
        for _ in range(5):
            node.step(receive=False)

        stopped = self.server.factory.stop(10)
        self.assertNoResult(stopped)
        node.pump()

        self.assertEqual(content, node.received())
        self.assertTrue(node.closed)
        self.successResultOf(stopped)

    def test_before_there_is_a_session(self) -> None:
        """Handshake and dialog are not waited for."""
        beginning = self.server.dial()
        talking = self.server.dial()
        assert beginning is not None and talking is not None
        beginning.step()
        talking.pump()
        talking.send(b"CFE_v3 x\n")

        stopped = self.server.factory.stop(10)
        for client in (beginning, talking):
            client.pump()
            self.assertTrue(client.closed)

        self.successResultOf(stopped)
        self.assertEqual(0, self.server.factory.admission.total)

    def test_stopped_twice(self) -> None:
        """Both who asked are told, once."""
        node = self.server.connect()
        node.request(b"SLOW")
        first = self.server.factory.stop(10)
        second = self.server.factory.stop(0)
        self.assertNoResult(first)

        self.slow.waiting[0].callback(frame(b"done"))
        node.pump()

        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(self.server.factory.stop(10))
        self.assertTrue(node.closed)

    def test_nobody_there(self) -> None:
        """Nothing is waited for, and no timer is left."""
        factory = self.server.factory
        self.successResultOf(factory.stop(10))
        factory.doStop()

        self.assertEqual([], self.server.clock.getDelayedCalls())

    def test_no_timer_is_left(self) -> None:
        """Nor after the last session, when the port was closed before."""
        node = self.server.connect()
        node.request(b"SLOW")
        stopped = self.server.factory.stop(10)
        self.server.factory.doStop()
        self.slow.waiting[0].callback(frame(b"done"))
        node.pump()

        self.successResultOf(stopped)
        self.assertEqual([], self.server.clock.getDelayedCalls())
