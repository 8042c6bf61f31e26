# SPDX-License-Identifier: MIT
"""
Strangers who have the server work for them, and go: what they cause is bounded, is not
done for those who have gone, and is in nobody's way.
"""

from __future__ import annotations

import gc
import weakref
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodecomm.config.model import LimitSettings
from nodecomm.identity.counters import Counters
from nodecomm.identity.proof import digest, encrypt_to, open_with
from nodecomm.server import classic
from nodecomm.server.pools import InlinePool, Workers
from nodecomm.testing import MemoryClassicClient
from nodecomm.wire.classic import KEY_SIZE, NONCE_SIZE
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.sealed import seal_get
from tests.server.classic_case import ClassicTestCase, payloads
from tests.server.pools import HandPool


class FloodTests(ClassicTestCase):
    """
    A server whose threads work when the test says so.
    """

    def setUp(self) -> None:
        super().setUp()
        self.hold()

    def hold(self, **limits: int) -> None:
        """
        Serve with *limits* and a pool that waits.
        """
        self.pool, inline = HandPool(), InlinePool()
        self.server = self.make_server(
            workers=Workers(inline, inline, inline, self.pool),
            limits=LimitSettings(**limits),
        )
        self.proofs = self.server.factory.proofs
        self.counts = self.server.factory.admission

    def stranger(self) -> MemoryClassicClient:
        """
        A node that waits to be answered, and has shown nothing yet.
        """
        node = self.dial()
        node.send(node.opening(self.server.public)[1])
        return node

    def answer_to(self, node: MemoryClassicClient) -> bytes:
        """
        What has come for *node*.
        """
        node.pump()
        return node.received()

    def work_off(self) -> None:
        """
        Have everything done that is to be done.
        """
        while self.pool.waiting:
            self.pool.work()

    def test_nothing_is_done_for_those_who_have_gone(self) -> None:
        """Of many who hang up at once, not one costs a private key operation, even if
        it was given to the pool before."""
        with mock.patch.object(Counters, "open", autospec=True) as opened:
            nodes = [self.stranger() for _ in range(30)]
            for node in nodes:
                node.hang_up()
            self.work_off()

        opened.assert_not_called()
        self.assertEqual(1, self.pool.asked)
        self.assertEqual((0, 0), (self.counts.total, self.counts.untrusted))
        self.assertEqual((0, 0), (self.proofs.running, self.proofs.waiting))

    def test_nor_when_the_server_hangs_up(self) -> None:
        """Who has waited for too long leaves the queue."""
        nodes = [self.stranger() for _ in range(5)]
        self.server.sweep(self.server.factory.limits.dialog_timeout + 2)
        for node in nodes:
            node.pump()
            self.assertTrue(node.closed)

        self.assertEqual(0, self.proofs.waiting)
        self.work_off()
        self.assertEqual(1, self.pool.asked)
        self.assertEqual(0, self.counts.total)

    def test_few_at_a_time(self) -> None:
        """A thread is left for others where there is more than one; and no more than
        `handshakes_at_once` in any case, which may change."""
        for threads, at_once, expected in [
            (1, 32, 1),
            (2, 32, 1),
            (8, 32, 7),
            (8, 3, 3),
            (8, 1, 1),
        ]:
            self.hold(crypto_threads=threads, handshakes_at_once=at_once)
            for _ in range(10):
                self.stranger()
            self.assertEqual(expected, len(self.pool.waiting))
            self.assertEqual(10 - expected, self.proofs.waiting)

        self.server.factory.limits = LimitSettings(
            crypto_threads=8, handshakes_at_once=5
        )
        self.pool.work()
        self.assertEqual(5, len(self.pool.waiting))

    def test_all_are_served_in_order_of_arrival(self) -> None:
        """As many as come, one after the other."""
        nodes = [self.stranger() for _ in range(6)]
        for number in range(6):
            self.pool.work()
            answered = [bool(self.answer_to(node)) for node in nodes]
            self.assertEqual([n == number for n in range(6)], answered)

    def test_who_has_shown_its_key_comes_first(self) -> None:
        """The session key of a node that answered its challenge is opened before
        anything is done for all the others."""
        node = self.dial()
        dialog, opening = node.opening(self.server.public)
        node.send(opening)
        self.pool.work()
        event = dialog.receive_data(self.answer_to(node))[-1]
        clear = open_with(node.key_pair, event.data, NONCE_SIZE, b"")  # type: ignore[union-attr]
        others = [self.stranger() for _ in range(5)]
        secret = encrypt_to(self.server.public, bytes(KEY_SIZE))
        last = dialog.answer(digest(clear), secret)
        node.send(last + encode_transaction(b"VERSION"))
        # The one that is in the pool already.
        self.pool.work()
        self.assertEqual(b"", self.answer_to(node))
        self.pool.work()

        self.assertEqual([b"OK: 3.21.0"], payloads(self.answer_to(node)))
        self.assertEqual([False] * 5, [other.closed for other in others])

    def test_content_does_not_wait_behind_them(self) -> None:
        """What a trusted node asks for is encrypted as if nobody else was there, but
        for the one proof that is in the pool."""
        (self.root / "big").write_bytes(bytes(range(256)) * 200)
        with mock.patch.object(self.proofs, "_pool", InlinePool()):
            node = self.node()
        for _ in range(30):
            self.stranger()
        node.send(encode_transaction(seal_get(b"files/big", node.cipher)))  # type: ignore[arg-type]
        for _ in range(2):
            self.pool.work()
            node.pump()

        sent = b"".join(payloads(node.received()))
        self.assertGreaterEqual(len(sent), 256 * 200)
        self.assertEqual(28, self.proofs.waiting)

    def test_they_count_until_the_work_has_ended(self) -> None:
        """A connection that is over makes no room for the next while a thread works
        for it; one that waited does."""
        self.hold(connections_before_trust=2)
        first, second = self.stranger(), self.stranger()
        second.hang_up()
        self.assertEqual((1, 1), (self.counts.total, self.counts.untrusted))
        self.stranger()
        first.hang_up()
        self.assertEqual((2, 2), (self.counts.total, self.counts.untrusted))
        self.assertIsNone(self.server.dial_classic())
        self.assertIsNone(self.server.dial())

        self.pool.work()
        self.assertEqual((1, 1), (self.counts.total, self.counts.untrusted))
        self.assertIsNotNone(self.server.dial_classic())

    def test_the_end_waits_for_no_queue(self) -> None:
        """A server that stops lets all of them go at once, and what is in the pool
        already comes to nothing."""
        nodes = [self.stranger() for _ in range(30)]
        stopped = self.server.factory.stop(10)
        self.assertEqual(0, self.proofs.waiting)
        for node in nodes:
            node.pump()

        self.successResultOf(stopped)
        self.assertEqual((1, 0), (self.pool.asked, self.proofs.waiting))
        with mock.patch.object(classic, "digest") as hashed:
            self.work_off()
        hashed.assert_not_called()
        self.assertEqual((1, 0), (self.pool.asked, self.counts.total))

    def test_work_that_fails_for_nobody(self) -> None:
        """Nothing is said of it, and the connection is no longer counted."""
        node = self.stranger()
        (session,) = self.server.factory.sessions
        job = session._job  # type: ignore[attr-defined]

        def fail(*_: object) -> None:
            # It goes while the work is done.
            node.hang_up()
            raise MemoryError

        job._work = fail
        self.pool.work()

        self.assertEqual(0, self.counts.total)
        self.assertEqual([], self.flushLoggedErrors())

    def test_nothing_keeps_them(self) -> None:
        """A session that is over does not wait for the garbage collector, whether it
        waited or was worked for."""
        self.addCleanup(gc.enable)
        gc.collect()
        gc.disable()
        nodes = [self.stranger() for _ in range(3)]
        sessions = [weakref.ref(one) for one in self.server.factory.sessions]
        for node in nodes:
            node.hang_up()
            node.protocol = node.wire = None  # type: ignore[assignment]
        self.work_off()

        self.assertEqual([None] * 3, [session() for session in sessions])

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        threads=st.integers(1, 4),
        acts=st.lists(
            st.tuples(st.sampled_from(["come", "go", "work"]), st.integers(0, 9)),
            max_size=30,
        ),
    )
    def test_counts_come_out(self, threads: int, acts: list[tuple[str, int]]) -> None:
        """Whoever comes and goes whenever: never more in the pool than may be, all of
        them counted, nobody who stays forgotten, and nothing left in the end."""
        self.hold(crypto_threads=threads)
        here: list[MemoryClassicClient] = []
        for act, which in acts:
            if act == "come":
                here.append(self.stranger())
            elif act == "go" and here:
                here.pop(which % len(here)).hang_up()
            elif act == "work" and self.pool.waiting:
                self.pool.work()
            self.assertLessEqual(len(self.pool.waiting), max(1, threads - 1))
            self.assertLessEqual(len(here), self.counts.total)
            self.assertLessEqual(self.counts.total, len(here) + len(self.pool.waiting))
        self.work_off()
        for node in here:
            self.assertTrue(self.answer_to(node))
            node.hang_up()

        self.assertEqual((0, 0), (self.counts.total, self.counts.untrusted))
        self.assertEqual({}, dict(self.counts._addresses))
