# SPDX-License-Identifier: MIT
"""
Halves that arrive at different servers.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from nodecomm.inventory import exchange
from nodecomm.inventory.exchange import KEPT, LOOK_EVERY
from nodecomm.inventory.halves import SharedHalves
from nodecomm.inventory.judgement import Judgement, Outcome
from nodecomm.inventory.names import read_name
from nodecomm.inventory.pairs import Sender
from nodecomm.inventory.receiving import LOOK_EVERY as ORPHANS_EVERY
from nodecomm.inventory.receiving import Delivery, Receiving, Waits
from nodecomm.inventory.spool import Placed, Spool
from nodecomm.server import pools
from nodecomm.storage.database import DatabaseAway
from tests.postgres import SharedCase
from tests.storage.doubles import InlinePool, InlineReactor

pytestmark = pytest.mark.postgresql

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)

#: What a server does with halves, in this order. It may end before and after each.
STEPS = ["offer", "give_up", "claim", "join", "taken"]


class Killed(Exception):
    """A server was killed here."""


class Server:
    """
    One of the servers.

    Attributes:
        deliveries: What came to a decision.
    """

    def __init__(self, case: ExchangeCase) -> None:
        self.case = case
        self.folder = Path(tempfile.mkdtemp(dir=case.folder))
        self.deliveries: list[tuple[bytes, bytes | None]] = []
        self.boot()

    def boot(self) -> None:
        """Start, or start again."""
        self.clock = InlineReactor()
        self.clock.rightNow = self.case.seconds
        self.spool = Spool(
            self.folder, seconds=self.clock.seconds, now=lambda: self.case.now
        )
        self.halves = SharedHalves(
            self.case.place,
            self.clock,
            make_pool=InlinePool,
            monotonic=self.clock.seconds,
        )
        self.receiving = Receiving(
            self.spool,
            self.receive,
            reactor=self.clock,
            pool=pools.InlinePool(),
            waits=self.case.waits,
        )
        self.receiving.look_elsewhere(self.halves, self.case.present)
        self.case.successResultOf(self.receiving.start())

    def receive(self, delivery: Delivery) -> Deferred[Judgement]:
        """Takes all."""
        self.deliveries.append((delivery.document, delivery.signature))
        return succeed(Judgement(Outcome.TAKEN, "00"))

    def put(self, name: str, data: bytes) -> Placed:
        """Upload a file."""
        part = self.spool.begin()
        part.write(data)
        stored = self.receiving.store(
            part, read_name(name), Sender(address="192.0.2.7"), only_new=False
        )
        return self.case.successResultOf(stored)

    def kill(self) -> None:
        """End in the middle of everything."""
        for call in self.clock.getDelayedCalls():
            call.cancel()
        self.halves.database._drop()
        self.spool._leave()

    def kill_at(self, step: str, *, after: bool) -> None:
        """Be killed before or after a step, when it comes to that."""
        owner: Any = self.spool if step in ("give_up", "join") else self.halves
        really: Callable[..., Any] = getattr(owner, step)

        def killed(*args: Any, **kw: Any) -> Any:
            setattr(owner, step, really)
            self.case.killed.append(self)
            self.case.kills += 1
            if after:
                really(*args, **kw)
            raise Killed

        setattr(owner, step, killed)

    def failed(self) -> list[tuple[str, str]]:
        """What was put aside, and why."""
        return [(x.files[0], x.refusal.code) for x in self.spool.failed()]


class ExchangeCase(SharedCase):
    """Two servers with a database between them."""

    waits = Waits()

    def setUp(self) -> None:
        super().setUp()
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.seconds = 0.0
        self.killed: list[Server] = []
        self.kills = 0
        self.here, self.there = self.servers = [Server(self), Server(self)]
        for server in self.servers:
            self.addCleanup(server.kill)

    @property
    def now(self) -> datetime:
        """Civil time."""
        return NOW + timedelta(seconds=self.seconds)

    def present(self) -> float:
        """The same in seconds."""
        return self.now.timestamp()

    def pass_seconds(self, seconds: float, step: float = LOOK_EVERY) -> None:
        """Time goes by, and whoever was killed starts again."""
        end = self.seconds + seconds
        while self.seconds < end:
            self.seconds += step
            for server in self.servers:
                server.clock.advance(step)
                if server in self.killed:
                    self.killed.remove(server)
                    server.kill()
                    server.boot()

    def rows(self) -> list[tuple[str, str]]:
        """What is in the table."""
        return self.sql("SELECT name, state FROM nodecomm.halves ORDER BY name")

    def quiet(self) -> None:
        """Nothing waits anywhere, and nothing was put aside."""
        for server in self.servers:
            self.assertEqual(
                (0, 0, []),
                (server.spool.waiting, server.spool.undecided, server.failed()),
            )
        self.assertEqual([], [row for row in self.rows() if row[1] != "taken"])


class MeetingTests(ExchangeCase):
    """The halves meet, whatever happens."""

    def test_either_order(self) -> None:
        """The server that has the document decides, once, about both halves."""
        self.here.put("a.ocs", b"<a/>")
        self.there.put("a.ocs.sign", b"a")
        self.there.put("b.ocs.sign", b"b")
        self.pass_seconds(3)
        self.here.put("b.ocs", b"<b/>")
        self.pass_seconds(3)

        self.assertEqual([(b"<a/>", b"a"), (b"<b/>", b"b")], self.here.deliveries)
        self.assertEqual([], self.there.deliveries)
        self.quiet()

    def test_one_server(self) -> None:
        """A pair that comes to one server does not go through the table."""
        self.here.put("a.ocs.sign", b"a")
        self.here.put("a.ocs", b"<a/>")
        self.pass_seconds(3)

        self.assertEqual([(b"<a/>", b"a")], self.here.deliveries)
        self.assertEqual([], self.rows())

    def test_killed_at_every_step(self) -> None:
        """
        Whichever server is killed, before or after any step: one decision, about both
        halves.
        """
        count = 0
        for step in STEPS:
            for after in (False, True):
                for late in (False, True):
                    count += 1
                    name, sign = f"{count}.ocs", f"{count}.ocs.sign"
                    with self.subTest(step=step, after=after, late=late):
                        killed = self.kills
                        for server in self.servers:
                            server.deliveries.clear()
                            server.kill_at(step, after=after)
                        if late:
                            self.there.put(sign, b"s")
                            self.pass_seconds(4)
                            self.here.put(name, b"<doc/>")
                        else:
                            self.here.put(name, b"<doc/>")
                            self.there.put(sign, b"s")
                        self.pass_seconds(12)
                        self.assertEqual([(b"<doc/>", b"s")], self.here.deliveries)
                        self.assertEqual([], self.there.deliveries)
                        self.quiet()
                        self.assertGreater(self.kills, killed)
                        for server in self.servers:
                            server.kill()
                            server.boot()

    def test_away(self) -> None:
        """
        While the database does not answer, halves wait, however long; then they meet.
        """
        self.here.put("a.ocs", b"<a/>")
        self.there.put("a.ocs.sign", b"a")
        self.pass_seconds(1)
        self.addCleanup(patch.stopall)
        for server in self.servers:
            away = patch.object(
                server.halves.database, "_transact", side_effect=DatabaseAway("away")
            )
            away.start()
        self.pass_seconds(self.waits.orphan + 60, ORPHANS_EVERY)
        self.assertEqual([], self.here.failed() + self.there.failed())
        patch.stopall()
        self.pass_seconds(4)

        self.assertEqual([(b"<a/>", b"a")], self.here.deliveries)
        self.quiet()

    def test_an_answer_that_is_lost(self) -> None:
        """
        What the database did though its answer was lost is done here, too, by the
        same program.
        """
        claim = self.here.halves.claim
        lost = []

        def loses(*args: Any) -> Deferred[Any]:
            done: list[Any] = self.successResultOf(claim(*args))
            lost.extend(done)
            return fail(DatabaseAway("lost"))

        self.here.put("a.ocs", b"<a/>")
        self.there.put("a.ocs.sign", b"a")
        with patch.object(self.here.halves, "claim", loses):
            while not lost and self.seconds < 20:
                self.pass_seconds(1)
        self.assertTrue(lost)
        self.pass_seconds(4)

        self.assertEqual([(b"<a/>", b"a")], self.here.deliveries)
        self.quiet()

    def test_what_was_just_taken_is_remembered(self) -> None:
        """
        What is forgotten in the table is what has met long ago, not what did just now.
        """
        self.here.put("a.ocs", b"<a/>")
        self.there.put("a.ocs.sign", b"a")
        self.pass_seconds(120, 1.0)
        self.assertEqual([("a.ocs", "taken")], self.rows())
        self.pass_seconds(KEPT, 3600.0)
        self.pass_seconds(120, 1.0)
        self.assertEqual([], self.rows())

    def test_sent_again_to_the_other(self) -> None:
        """A signature whose sender did not hear that it had arrived counts once."""
        self.here.put("a.ocs.sign", b"a")
        self.there.put("a.ocs.sign", b"a")
        self.pass_seconds(3)
        self.here.put("a.ocs", b"<a/>")
        self.pass_seconds(3)

        self.assertEqual([(b"<a/>", b"a")], self.here.deliveries)
        self.quiet()

    def test_both_again_to_the_other(self) -> None:
        """
        A pair that is sent twice, each half to each server, is decided about twice.
        """
        self.here.put("a.ocs", b"<a/>")
        self.there.put("a.ocs.sign", b"a")
        self.pass_seconds(3)
        self.there.put("a.ocs", b"<a/>")
        self.here.put("a.ocs.sign", b"a")
        self.pass_seconds(3)

        self.assertEqual([(b"<a/>", b"a")], self.here.deliveries)
        self.assertEqual([(b"<a/>", b"a")], self.there.deliveries)
        self.quiet()

    def test_half_of_it_again(self) -> None:
        """
        A signature alone that is sent again, wherever, is forgotten in time without a
        word.
        """
        self.here.put("a.ocs", b"<a/>")
        self.here.put("a.ocs.sign", b"a")
        self.here.put("a.ocs.sign", b"a")
        self.pass_seconds(3)
        self.there.put("b.ocs", b"<b/>")
        self.here.put("b.ocs.sign", b"b")
        self.pass_seconds(3)
        self.here.put("b.ocs.sign", b"b")
        self.pass_seconds(3)
        expected = [("a.ocs", "offered"), ("b.ocs", "offered")]
        self.assertEqual(expected, self.rows())
        self.pass_seconds(KEPT, 3600.0)
        self.pass_seconds(60)
        self.quiet()
        self.assertEqual([], self.rows())

    def test_stopped_in_the_middle(self) -> None:
        """
        A server that stops waits for what is under way and asks no more; the halves
        meet when it is back.
        """
        self.here.put("a.ocs", b"<a/>")
        self.there.put("a.ocs.sign", b"a")
        self.pass_seconds(1)
        pool = self.there.halves.database._pool
        assert isinstance(pool, InlinePool)
        pool.held = True
        self.there.clock.advance(LOOK_EVERY)
        stopped = self.there.receiving.stop()
        self.assertNoResult(stopped)
        pool.work()
        self.successResultOf(stopped)
        self.there.boot()
        self.pass_seconds(4)

        self.assertEqual([(b"<a/>", b"a")], self.here.deliveries)
        self.quiet()

    def test_no_room(self) -> None:
        """
        When the table is full, signatures wait where they are; what is too old makes
        room.
        """
        with patch.object(exchange, "LIMIT", 2):
            self.there.kill()
            self.there.boot()
        for number in range(4):
            self.there.put(f"{number}.ocs.sign", b"s")
        self.pass_seconds(4)
        self.assertEqual((2, 2), (len(self.rows()), self.there.spool.waiting))
        self.here.put("0.ocs", b"<doc/>")
        self.pass_seconds(4)
        self.assertEqual([(b"<doc/>", b"s")], self.here.deliveries)
        self.pass_seconds(self.waits.orphan + 90)
        self.assertEqual(0, self.there.spool.waiting)
        self.assertNotEqual([], self.there.failed())

    def test_the_next_one(self) -> None:
        """A signature that is done with is not taken for the next document."""
        for number in (b"1", b"2"):
            self.here.put("a.ocs", b"<a/>" + number)
            self.pass_seconds(3)
            self.there.put("a.ocs.sign", number)
            self.pass_seconds(3)

        self.assertEqual([(b"<a/>1", b"1"), (b"<a/>2", b"2")], self.here.deliveries)
        self.quiet()

    def test_replaced(self) -> None:
        """A later signature of the same name is the one that counts."""
        self.here.put("a.ocs.sign", b"1")
        self.pass_seconds(3)
        self.there.put("a.ocs.sign", b"2")
        self.pass_seconds(3)
        self.here.put("a.ocs", b"<a/>")
        self.pass_seconds(3)

        self.assertEqual([(b"<a/>", b"2")], self.here.deliveries)
        self.assertEqual([("a.ocs.sign", "replaced")], self.there.failed())

    def test_long_apart(self) -> None:
        """
        Halves that arrived further apart than one waits for the other do not belong
        together; each is put aside.
        """
        self.there.put("a.ocs.sign", b"a")
        self.pass_seconds(self.waits.orphan + 10, 10.0)
        self.here.put("a.ocs", b"<a/>")
        self.pass_seconds(self.waits.orphan + 60, 10.0)

        self.assertEqual([], self.here.deliveries)
        self.assertEqual([("a.ocs", "no-signature")], self.here.failed())
        self.assertEqual([("a.ocs", "offered")], self.rows())
        self.pass_seconds(KEPT, 3600.0)
        self.pass_seconds(60, 1.0)
        failed = self.here.failed() + self.there.failed()
        self.assertIn(("a.ocs.sign", "no-document"), failed)
        self.assertEqual([], self.rows())
