# SPDX-License-Identifier: MIT
"""
Halves that arrive at different servers.
"""

from __future__ import annotations

import os
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
        is_down: Whether it stays away.
    """

    def __init__(self, case: ExchangeCase) -> None:
        self.case = case
        self.folder = Path(tempfile.mkdtemp(dir=case.folder))
        self.deliveries: list[tuple[bytes, bytes | None]] = []
        self.is_down = False
        self.boot()

    def boot(self) -> None:
        """Start, or start again."""
        self.is_down = False
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
        self.delivery = delivery
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
        self.is_down = True

    def kill_at(self, step: str, *, after: bool) -> None:
        """Be killed before or after a step, when it comes to that."""
        owner: Any = self.halves
        if step in ("give_up", "join", "put_aside"):
            owner = self.spool
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
                if not server.is_down:
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
        with patch.object(exchange, "_OLD_EACH", 2):
            self.pass_seconds(self.waits.orphan + 90, ORPHANS_EVERY)
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

    def test_killed_while_replacing(self) -> None:
        """
        Whenever the server is killed that has the later signature: the earlier one is
        put aside, and told, and the later one counts.
        """
        for step in ("offer", "put_aside", "taken", "give_up"):
            for after in (False, True):
                with self.subTest(step=step, after=after):
                    name = f"{step}-{after}.ocs"
                    self.here.put(f"{name}.sign", b"1")
                    self.pass_seconds(3)
                    self.there.kill_at(step, after=after)
                    self.there.put(f"{name}.sign", b"2")
                    self.pass_seconds(6)
                    self.here.put(name, b"<a/>")
                    self.pass_seconds(3)

                    self.assertEqual([(b"<a/>", b"2")], self.here.deliveries)
                    self.here.deliveries.clear()
                    failed = [x for x in self.there.failed() if x[0].startswith(name)]
                    self.assertEqual({(f"{name}.sign", "replaced")}, set(failed))
                    self.assertIn((name, "taken"), self.rows())
        self.assertEqual(8, self.kills)
        self.assertEqual([], self.here.failed())

    def test_ended_while_replacing(self) -> None:
        """
        A server that ends while it replaces signatures, and stays away, is in nobody's
        way: another one puts them aside, and the latest ones count, be they the same.
        """
        names = ("a.ocs", "b.ocs")
        for name in names:
            self.here.put(f"{name}.sign", b"1")
        self.pass_seconds(3)
        self.there.kill_at("put_aside", after=False)
        for name in names:
            self.there.put(f"{name}.sign", b"2")
        while not self.kills:
            self.seconds += 1
            self.there.clock.advance(1)
        self.killed.clear()
        self.there.kill()
        for name, content in (("a.ocs", b"1"), ("b.ocs", b"1"), ("b.ocs", b"3")):
            self.here.put(f"{name}.sign", content)
            self.pass_seconds(3)
        for name in names:
            self.here.put(name, b"<doc/>")
        self.pass_seconds(3)

        expected = [(b"<doc/>", b"1"), (b"<doc/>", b"3")]
        self.assertEqual(expected, self.here.deliveries)
        replaced = [(f"{name}.sign", "replaced") for name in names]
        self.assertEqual(replaced, self.here.failed())

    def test_a_later_one_for_one_that_was_claimed(self) -> None:
        """
        A signature that somebody has claimed, and died, stays his: a later one of its
        name waits where it is until he is back, and is told of if it was of no use.
        """
        self.here.put("a.ocs.sign", b"1")
        self.pass_seconds(3)
        self.there.kill_at("claim", after=True)
        self.there.put("a.ocs", b"<a/>")
        while not self.kills:
            self.seconds += 1
            self.there.clock.advance(1)
        self.killed.clear()
        self.there.kill()
        self.here.put("a.ocs.sign", b"2")
        self.pass_seconds(5)
        self.assertEqual([("a.ocs", "claimed")], self.rows())
        self.assertEqual(1, self.here.spool.waiting)
        self.there.boot()
        self.pass_seconds(5)

        self.assertEqual([(b"<a/>", b"1")], self.there.deliveries)
        self.assertEqual([("a.ocs", "offered")], self.rows())
        self.pass_seconds(KEPT, 3600.0)
        self.pass_seconds(60)
        failed = self.here.failed() + self.there.failed()
        self.assertEqual([("a.ocs.sign", "no-document")], failed)

    def test_another_document_meanwhile(self) -> None:
        """
        A signature whose document made room for another one, after it was claimed and
        before it was there, waits on: for that one. Also when the answer was lost.
        """
        claim = self.here.halves.claim

        def late(*args: Any) -> Deferred[Any]:
            done = self.successResultOf(claim(*args))
            name = done[0].name.pair if done else ""
            if name and (name, "replaced") not in self.here.failed():
                self.here.put(name, b"<doc/>2")
                if name == "b.ocs":
                    return fail(DatabaseAway("lost"))
            return succeed(done)

        for name in ("a.ocs", "b.ocs"):
            with patch.object(self.here.halves, "claim", late):
                self.here.put(name, b"<doc/>1")
                self.there.put(f"{name}.sign", b"2")
                self.pass_seconds(6)

            self.assertEqual([(b"<doc/>2", b"2")], self.here.deliveries)
            self.here.deliveries.clear()
            self.assertIn((name, "replaced"), self.here.failed())
        self.assertEqual([("a.ocs", "taken"), ("b.ocs", "taken")], self.rows())

    def test_the_same_signature_meanwhile(self) -> None:
        """
        A signature that its sender sends again, to the server that has the document and
        has just claimed the first one, counts once.
        """
        claim = self.here.halves.claim

        def late(*args: Any) -> Deferred[Any]:
            done = self.successResultOf(claim(*args))
            if done:
                self.here.put("a.ocs.sign", b"a")
            return succeed(done)

        with patch.object(self.here.halves, "claim", late):
            self.here.put("a.ocs", b"<a/>")
            self.there.put("a.ocs.sign", b"a")
            self.pass_seconds(6)

        self.assertEqual([(b"<a/>", b"a")], self.here.deliveries)
        self.quiet()

    def test_the_document_comes_after_all(self) -> None:
        """
        When a document comes to the server that has just put its signature into the
        table, nothing is said of that one a day later: whether the server lives on, or
        is killed at that moment.
        """
        offer = self.there.halves.offer

        def late(*args: Any) -> Deferred[Any]:
            done = self.successResultOf(offer(*args))
            self.there.put("a.ocs", b"<doc/>")
            return succeed(done)

        def dies(*args: Any) -> Deferred[Any]:
            self.successResultOf(offer(*args))
            part = self.there.spool.begin()
            part.write(b"<doc/>")
            self.there.spool.place(part, read_name("b.ocs"), Sender())
            self.killed.append(self.there)
            raise Killed

        for name, way in (("a", late), ("b", dies)):
            with patch.object(self.there.halves, "offer", way):
                self.there.put(f"{name}.ocs.sign", name.encode())
                while not self.there.deliveries:
                    self.pass_seconds(1)
            self.assertEqual([(b"<doc/>", name.encode())], self.there.deliveries)
            self.there.deliveries.clear()
        found = self.sql("SELECT name, state, repeated FROM nodecomm.halves ORDER BY 1")
        self.assertEqual([("a.ocs", "offered", 1), ("b.ocs", "offered", 0)], found)
        self.pass_seconds(40)
        self.pass_seconds(KEPT, 3600.0)
        self.pass_seconds(60)
        self.quiet()

    def test_a_signature_again_elsewhere(self) -> None:
        """
        Signatures alone that are sent again, to another server than the one that has
        decided about their pairs, are forgotten in time without a word; others are not.
        """
        self.addCleanup(patch.stopall)
        patch.object(exchange, "_AT_ONCE", 2).start()
        others = ["1-other.ocs.sign", "2-other.ocs.sign"]
        for name in others:
            self.there.put(name, b"s")
            self.pass_seconds(2)
        for number in range(3):
            self.here.put(f"{number}.ocs", b"<doc/>")
            self.here.put(f"{number}.ocs.sign", b"s")
            self.there.put(f"{number}.ocs.sign", b"s")
        self.pass_seconds(3)
        self.here.put("1.ocs", b"<doc/>")
        self.here.put("1.ocs.sign", b"another")
        self.pass_seconds(KEPT, 900.0)
        self.pass_seconds(60)

        failed = self.here.failed() + self.there.failed()
        expected = [(name, "no-document") for name in [*others, "1.ocs.sign"]]
        self.assertCountEqual(expected, failed)
        self.assertEqual([], self.rows())

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


class LateTests(ExchangeCase):
    """A server that was away brings a signature of hours ago."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(patch.stopall)
        patch.object(exchange, "_OLD_EACH", 2).start()

    def lose(self, name: str) -> None:
        """
        One server takes a signature and ends, the other one gives up on the document.
        """
        self.there.put(name.removesuffix(".gz") + ".sign", b"s")
        self.there.kill()
        self.here.put(name, b"<doc/>")
        self.pass_seconds(self.waits.orphan + 60, ORPHANS_EVERY)
        self.assertEqual([(name, "no-signature")], self.here.failed())
        self.pass_seconds(60, ORPHANS_EVERY)

    def test_hours_later(self) -> None:
        """
        The halves meet: what was put aside is taken back, with what is known of it.
        """
        self.lose("a.ocs.gz")
        self.pass_seconds(22 * 3600.0, 3600.0)
        self.there.boot()
        self.pass_seconds(6)

        self.assertEqual([(b"<doc/>", b"s")], self.here.deliveries)
        found = self.here.delivery
        self.assertEqual((Sender(address="192.0.2.7"), NOW), (found.sender, found.when))
        self.quiet()
        self.assertEqual([], os.listdir(self.here.folder / "failed"))
        self.assertEqual([], os.listdir(self.here.folder / "ready"))

    def test_not_at_once(self) -> None:
        """
        What a document that was put aside asks for, those that wait elsewhere have had
        a minute to ask for.
        """
        self.there.put("a.ocs.sign", b"s")
        self.there.kill()
        self.here.put("a.ocs", b"<doc/>")
        self.pass_seconds(self.waits.orphan + 30, ORPHANS_EVERY)
        self.assertEqual([("a.ocs", "no-signature")], self.here.failed())
        self.there.boot()
        self.pass_seconds(6)
        self.assertEqual([], self.here.deliveries)
        self.pass_seconds(30)

        self.assertEqual([(b"<doc/>", b"s")], self.here.deliveries)
        self.quiet()

    def test_more_than_a_day_later(self) -> None:
        """Then each of them is put aside."""
        self.lose("a.ocs")
        self.pass_seconds(24 * 3600.0, 3600.0)
        self.there.boot()
        self.pass_seconds(6)

        self.assertEqual([], self.here.deliveries)
        failed = sorted(self.here.failed() + self.there.failed())
        expected = [("a.ocs", "no-signature"), ("a.ocs.sign", "no-document")]
        self.assertEqual(expected, failed)

    def test_killed_at_every_step(self) -> None:
        """Whichever step the server that has the document does not survive."""
        for step in ("claim", "join", "taken"):
            for after in (False, True):
                with self.subTest(step=step, after=after):
                    self.lose(f"{step}-{after}.ocs")
                    self.here.kill_at(step, after=after)
                    self.there.boot()
                    self.pass_seconds(9)

                    self.assertEqual([(b"<doc/>", b"s")], self.here.deliveries)
                    self.here.deliveries.clear()
                    self.quiet()
        self.assertEqual(6, self.kills)

    def test_two_of_a_name(self) -> None:
        """The signature goes to the one that it came with."""
        self.lose("a.ocs")
        self.here.put("a.ocs", b"<doc/>2")
        self.pass_seconds(self.waits.orphan + 120, ORPHANS_EVERY)
        self.assertEqual([("a.ocs", "no-signature")] * 2, self.here.failed())
        self.there.boot()
        self.pass_seconds(6)

        self.assertEqual([(b"<doc/>", b"s")], self.here.deliveries)
        self.assertEqual([("a.ocs", "no-signature")], self.here.failed())
        self.assertEqual([], self.there.failed())

    def test_one_that_waits_goes_first(self) -> None:
        """
        While another document of the name waits, the former one stays aside; the
        signature goes to the one that it came with.
        """
        self.lose("a.ocs")
        self.here.put("a.ocs", b"<doc/>2")
        self.there.boot()
        self.pass_seconds(6)
        self.assertEqual([], self.here.deliveries)
        self.there.put("a.ocs.sign", b"2")
        self.pass_seconds(6)

        self.assertEqual([(b"<doc/>2", b"2")], self.here.deliveries)
        self.assertEqual([("a.ocs", "no-signature")], self.here.failed())
        self.assertEqual([("a.ocs.sign", "replaced")], self.there.failed())
