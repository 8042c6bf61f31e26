# SPDX-License-Identifier: MIT
"""
Classic dialogs that take time: work that waits, peers that are early, late or gone, and
a server that stops.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred

from nodecomm.identity.proof import digest, encrypt_to, open_with
from nodecomm.server import classic, connection
from nodecomm.server.events import EventLog
from nodecomm.server.pools import InlinePool, QueueFull, Workers
from nodecomm.server.serving import SessionState
from nodecomm.storage.database import DatabaseAway, DatabaseOverloaded
from nodecomm.testing import MemoryClassicClient, key_pair
from nodecomm.wire.classic import KEY_SIZE, NONCE_SIZE
from nodecomm.wire.framing import encode_transaction
from tests.server.classic_case import (
    CAUTH,
    REFUSED,
    SAUTH,
    ClassicTestCase,
    key_frames,
    payloads,
)
from tests.server.pools import HandPool
from tests.server.test_events import Recorder


class FullPool:
    """
    A pool that takes nothing.
    """

    def run(self, work: Any, *args: Any) -> Deferred[Any]:
        """Raise."""
        raise QueueFull("crypto: 10 of 10 in use")


class WaitingTests(ClassicTestCase):
    """
    Work that takes time, and peers that do.
    """

    def holding(self) -> HandPool:
        """Serve with a pool for RSA whose work waits."""
        pool, inline = HandPool(), InlinePool()
        self.server = self.make_server(workers=Workers(inline, inline, inline, pool))
        return pool

    def test_bytes_that_come_meanwhile(self) -> None:
        """They wait; reading stops when there are too many, and goes on later."""
        pool = self.holding()
        node = self.dial()
        dialog, opening = node.opening()
        node.send(opening)
        self.assertEqual(b"", node.received())
        pool.work()
        node.pump()
        event = dialog.receive_data(node.received())[-1]
        clear = open_with(node.key_pair, event.data, NONCE_SIZE, b"")  # type: ignore[union-attr]
        last = dialog.answer(
            digest(clear), encrypt_to(self.server.public, bytes(KEY_SIZE))
        )
        node.send(last + encode_transaction(b"VERSION"))
        request = encode_transaction(b"VERSION")
        for _ in range(10):
            node.send(request * 1000)
        self.assertFalse(node.wire.reading)
        self.assertEqual(b"", node.received())
        pool.work()
        node.pump()

        self.assertEqual([b"OK: 3.21.0"] * 10_001, payloads(node.received()))

    def test_bytes_before_the_counter_challenge(self) -> None:
        """They can be no answer to it: the dialog ends, and nothing is worked out,
        whether they come with what was awaited or after it."""
        early = encode_transaction(bytes(1000))
        for split in (False, True):
            pool = self.holding()
            node = self.dial()
            opening = node.opening(self.server.public)[1]
            if split:
                node.send(opening)
                node.send(early[:1])
            else:
                node.send(opening + early[:1])

            self.assertEqual((REFUSED, True), (node.received(), node.closed))
            with mock.patch.object(classic, "digest") as hashed:
                while pool.waiting:
                    pool.work()
            hashed.assert_not_called()

    def test_a_peer_that_leaves_meanwhile(self) -> None:
        """What is found out then concerns nobody."""
        for stages in (1, 2):
            pool = self.holding()
            node = self.dial()
            dialog, opening = node.opening()
            node.send(opening)
            if stages == 2:
                pool.work()
                node.pump()
                event = dialog.receive_data(node.received())[-1]
                clear = open_with(node.key_pair, event.data, NONCE_SIZE, b"")  # type: ignore[union-attr]
                block = encrypt_to(self.server.public, bytes(KEY_SIZE))
                node.send(dialog.answer(digest(clear), block))
            (session,) = self.server.factory.sessions
            node.hang_up()
            pool.work()
            self.assertIs(SessionState.LOST, session.state)
            self.assertEqual([], list(self.server.store.entries()))
            self.assertEqual(0, self.server.factory.admission.total)
            self.assertEqual(set(), self.server.factory.sessions)

    def test_too_much_to_do(self) -> None:
        """The connection ends without a word; a refusal would say that the key is not
        trusted."""
        recorder, inline = Recorder(), InlinePool()
        self.server = self.make_server(
            workers=Workers(inline, inline, inline, FullPool()),
            events=EventLog(log=recorder.log),
        )
        node = self.opened()

        self.assertEqual((b"", True), (node.received(), node.closed))
        [event] = recorder.named("limit.reached")
        self.assertEqual("workers", event["limit"])

    def test_a_store_that_fails(self) -> None:
        """As with too much to do: no word, and a reason in the log, whether the disk is
        full or a database that others share away."""
        errors = (
            OSError("the disk is full"),
            DatabaseAway("no answer"),
            DatabaseOverloaded("much waits"),
        )
        for error in errors:
            recorder = Recorder()
            self.server = self.make_server(events=EventLog(log=recorder.log))

            def fail(*_: Any, error: Exception = error) -> Any:
                raise error

            self.server.store.add = fail  # type: ignore[assignment]
            node = self.node_without_end()

            self.assertEqual((b"", True), (node.received(), node.closed))
            [event] = recorder.named("limit.reached")
            self.assertEqual("state_dir", event["limit"])
            self.assertEqual(str(error), event["reason"])

    def node_without_end(self) -> MemoryClassicClient:
        """A node that has sent its last message."""
        node = self.dial()
        node.identify(self.server.public)
        return node

    def test_dialogs_that_never_end(self) -> None:
        """At every stage the time is limited."""
        numbers = payloads(key_frames(key_pair(1).public))
        before = [CAUTH, SAUTH, *map(encode_transaction, numbers)]
        for stage in range(5):
            node = self.dial()
            node.send(b"".join(before[:stage]))
            node.send(b"t")
            node.received()
            limit = self.server.factory.limits.dialog_timeout
            self.server.sweep(limit - 1)
            self.assertFalse(node.wire.disconnecting, stage)
            self.server.sweep(2)
            node.pump()
            self.assertEqual((b"", True), (node.received(), node.closed), stage)

    def test_the_time_is_for_the_whole_dialog(self) -> None:
        """The answer to the peer's challenge does not begin it anew."""
        node = self.dial()
        half = self.server.factory.limits.dialog_timeout / 2
        opening = node.opening()[1]
        node.send(opening[:1])
        self.server.sweep(half)
        node.send(opening[1:])
        self.assertTrue(node.received())
        self.server.sweep(half - 2)
        self.assertFalse(node.wire.aborted)
        self.server.sweep(4)

        self.assertTrue(node.wire.aborted)

    def test_an_idle_session(self) -> None:
        """As over TLS."""
        node = self.node()
        self.server.sweep(self.server.factory.limits.idle_timeout - 1)
        self.assertFalse(node.wire.disconnecting)
        self.server.sweep(2)
        node.pump()

        self.assertTrue(node.closed)

    def test_the_server_stops(self) -> None:
        """Idle sessions and dialogs under way end at once."""
        idle, opened, silent = self.node(), self.opened(), self.dial()
        done = self.server.factory.stop(10)
        for node in (idle, opened, silent):
            node.pump()
        self.assertEqual((True, True), (idle.closed, opened.closed))
        silent.hang_up()

        self.successResultOf(done)

    def test_the_server_stops_and_peers_stay(self) -> None:
        """Their end is not waited for once they have all that was said; before that
        it is."""
        for unsent, aborted in ((0, True), (7, False)):
            self.server = self.make_server()
            node = self.node()
            self.server.factory.stop(100)
            with mock.patch.object(connection, "_unsent", lambda _, n=unsent: n):
                self.server.sweep(2)
                self.assertEqual(aborted, node.wire.aborted)
                self.server.sweep(15)
            self.assertTrue(node.wire.aborted)

    def test_last_words_of_a_server_that_goes_on(self) -> None:
        """Time is left to a peer to hear why it is refused."""
        node = self.dial()
        node._output += b"t 3\0\0\0\0\0abc"
        node.step(receive=False)
        self.server.sweep(5)
        self.assertEqual((True, False), (node.wire.disconnecting, node.wire.aborted))
        self.server.sweep(10)

        self.assertTrue(node.wire.aborted)
