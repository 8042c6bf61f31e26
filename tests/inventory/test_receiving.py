# SPDX-License-Identifier: MIT
"""
What becomes of the inventories that were stored.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unittest import mock

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.inventory.backlog import read_backlog
from nodecomm.inventory.judgement import Judgement, Outcome
from nodecomm.inventory.limits import DocumentLimits
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.names import read_name
from nodecomm.inventory.pairs import Box, Sender
from nodecomm.inventory.receiving import Delivery, Receiving, Waits, WasTaken
from nodecomm.inventory.spool import Placed, Spool
from nodecomm.server.pools import InlinePool
from nodecomm.storage.database import DatabaseAway
from tests.identity.sample import pair
from tests.inventory.documents import NODE, OTHER_NODE, node_document

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)

TAKEN = Judgement(Outcome.TAKEN, "00")

REFUSED = Judgement(Outcome.REFUSED, "00", refusal=Refusal("too-old", "a year"))


class ReceivingTests(SynchronousTestCase):
    """Pairs go to whoever decides, and his word decides what becomes of them."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.folder = Path(self.mktemp())
        self.deliveries: list[Delivery] = []
        #: What is answered, in turn; the last one for ever.
        self.answers: list[Deferred[Judgement]] = []
        self.receiving = self.make()

    def make(
        self, waits: Waits | None = None, was_taken: WasTaken | None = None
    ) -> Receiving:
        """Another one on the same folder."""
        spool = Spool(
            self.folder,
            seconds=self.clock.seconds,
            now=lambda: NOW + timedelta(seconds=self.clock.seconds()),
        )
        return Receiving(
            spool,
            self.receive,
            reactor=self.clock,
            pool=InlinePool(),
            limits=DocumentLimits(size=1000),
            waits=waits,
            was_taken=was_taken,
        )

    def receive(self, delivery: Delivery) -> Deferred[Judgement]:
        """Decides as a test wants."""
        self.deliveries.append(delivery)
        return self.answers.pop(0) if self.answers else succeed(TAKEN)

    def start(self) -> None:
        """Begin."""
        self.successResultOf(self.receiving.start())

    def put(
        self, name: str, data: bytes, box: Box = Box.FIRST, *, new: bool = False
    ) -> Placed:
        """Upload a file."""
        part = self.receiving.spool.begin()
        part.write(data)
        sender = Sender(box, "192.0.2.7")
        stored = self.receiving.store(part, read_name(name), sender, only_new=new)
        return self.successResultOf(stored)

    def put_pair(self, name: str, box: Box = Box.FIRST) -> None:
        """Upload both files."""
        self.put(f"{name}.ocs", name.encode(), box)
        self.put(f"{name}.ocs.sign", b"s", box)

    def left(self) -> tuple[int, int, int]:
        """Halves that wait, pairs that wait, failures."""
        spool = self.receiving.spool
        return spool.waiting, spool.undecided, len(spool.failed())

    def test_a_pair_is_decided_about(self) -> None:
        """Both files go, unpacked, with when and whence they came; then are gone."""
        self.start()

        self.put("a.ocs.sign", b"s", Box.UPDATE)
        self.assertEqual(self.deliveries, [])
        self.put("a.ocs.gz", gzip.compress(b"<doc/>"), Box.UPDATE)

        sender = Sender(Box.UPDATE, "192.0.2.7")
        self.assertEqual(
            self.deliveries, [Delivery(b"<doc/>", b"s", "a.ocs", NOW, sender)]
        )
        self.assertEqual(self.left(), (0, 0, 0))

    def test_repeated_is_a_success(self) -> None:
        """A document that was taken before is no failure."""
        self.start()
        self.answers = [succeed(Judgement(Outcome.REPEATED, "00"))]

        self.put_pair("a")

        self.assertEqual(self.left(), (0, 0, 0))

    def test_refused(self) -> None:
        """What is not believed is put aside with the reason."""
        self.start()
        refusal = Refusal("bad-signature", "changed")
        self.answers = [succeed(Judgement(Outcome.REFUSED, "00", refusal=refusal))]

        self.put_pair("a")

        (failed,) = self.receiving.spool.failed()
        self.assertEqual((failed.refusal, failed.name), (refusal, "a.ocs"))

    def test_too_large_a_document_is_not_given_away(self) -> None:
        """A bomb is put aside by its size alone."""
        self.start()

        self.put("a.ocs.gz", gzip.compress(bytes(1001)))
        self.put("a.ocs.sign", b"s")

        self.assertEqual(self.deliveries, [])
        (failed,) = self.receiving.spool.failed()
        self.assertEqual(failed.refusal.code, "too-large")

    def test_no_decision(self) -> None:
        """While there is no decision a pair waits, with growing pauses."""
        self.start()
        self.answers = [fail(RuntimeError("no database")) for _ in range(3)]

        self.put_pair("a")
        self.assertEqual(self.left(), (0, 1, 0))
        for pause in (1, 2, 4):
            self.clock.advance(pause - 0.1)
            before = len(self.deliveries)
            self.clock.advance(0.1)
            self.assertEqual(len(self.deliveries), before + 1)

        self.assertEqual(self.left(), (0, 0, 0))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_how_it_went_is_noted(self) -> None:
        """Beside a pair that waits for a decision stands why there was none."""
        self.start()
        self.answers = [fail(DatabaseAway("is away")), fail(DatabaseAway(""))]
        self.put_pair("a")

        for tries, why in ((1, "is away"), (2, "DatabaseAway")):
            (queued,) = read_backlog(self.folder)
            tried = queued.tried
            self.assertIsNotNone(tried)
            if tried is not None:
                self.assertEqual((tried.tries, tried.reason), (tries, why))
                pause = (tried.again - tried.when).total_seconds()
                self.assertEqual(pause, float(tries))
            self.clock.advance(1)

    def test_others_go_on(self) -> None:
        """A pair whose decision takes its time does not hold up another one."""
        self.start()
        slow: Deferred[Judgement] = Deferred()
        self.answers = [slow]

        self.put_pair("a")
        self.put_pair("b")

        self.assertEqual([each.name for each in self.deliveries], ["a.ocs", "b.ocs"])
        self.assertEqual(self.left(), (0, 1, 0))
        slow.callback(TAKEN)
        self.assertEqual(self.left(), (0, 0, 0))

    def test_a_mistake_of_whoever_decides_loses_nothing(self) -> None:
        """A missing file of his own is not taken for one of ours."""
        self.start()
        self.answers = [fail(FileNotFoundError("nodes.sqlite"))]

        self.put_pair("a")

        self.assertEqual(self.left(), (0, 1, 0))
        self.clock.advance(1)
        self.assertEqual(self.left(), (0, 0, 0))
        self.flushLoggedErrors(FileNotFoundError)

    def test_what_thousands_wait_for_is_told_once(self) -> None:
        """A full disk, or a mistake, is told once in a minute, whoever waits for it."""
        self.start()
        self.answers = [fail(DatabaseAway("nodes.sqlite: disk is full"))] * 3
        self.answers += [fail(ZeroDivisionError()) for _ in range(9)]

        with capturedLogs() as logs:
            for name in "abc":
                self.put_pair(name)
            for _ in range(60):
                self.clock.advance(1)
        self.flushLoggedErrors(ZeroDivisionError)

        told = [each for each in logs if each.get("event") == "inventory.delayed"]
        self.assertEqual(
            [each["log_level"].name for each in told], ["warn", "critical"]
        )
        self.assertEqual(told[0]["error"], "nodes.sqlite: disk is full")
        self.assertEqual(self.left(), (0, 0, 0))
        self.answers = [fail(DatabaseAway("again"))]
        with capturedLogs() as logs:
            self.put_pair("d")
        self.assertEqual([x["error"] for x in logs if "error" in x], ["again"])

    def test_first_ones_first(self) -> None:
        """New nodes go before known ones, which still have one turn in four."""
        self.start()
        busy: list[Deferred[Judgement]] = [Deferred(), Deferred()]
        self.answers = list(busy)
        self.put_pair("x")
        self.put_pair("y")
        for name in "abcdef":
            self.put_pair(name, Box.UPDATE if name in "ab" else Box.FIRST)

        busy[0].callback(TAKEN)

        order = "".join(each.name[0] for each in self.deliveries)
        self.assertEqual(order, "xycadefb")
        busy[1].callback(TAKEN)

    def test_what_an_earlier_program_left(self) -> None:
        """Pairs without a decision are decided about at the next start."""
        self.start()
        never: Deferred[Judgement] = Deferred()
        self.answers = [never]
        self.put_pair("a")
        self.put("b.ocs", b"b")
        self.receiving.spool.close()
        self.receiving = self.make()

        self.start()

        self.assertEqual([each.name for each in self.deliveries], ["a.ocs", "a.ocs"])
        self.assertEqual(self.deliveries[1].when, NOW)
        self.assertEqual(self.left(), (1, 0, 0))

    def test_orphans(self) -> None:
        """After ten minutes a half without the other one is put aside."""
        self.start()
        self.put("a.ocs", b"a")

        self.clock.pump([30] * 19)
        self.assertEqual(self.left(), (1, 0, 0))
        self.clock.pump([30] * 2)

        (failed,) = self.receiving.spool.failed()
        self.assertEqual(failed.refusal.code, "no-signature")
        self.assertEqual(self.deliveries, [])

    def test_orphans_that_were_believed(self) -> None:
        """
        A document that was believed before, and came again without its signature, is
        worth no word; all others are put aside, whatever is known of them.
        """
        known, other = node_document(pair()), node_document(pair(), node_id=OTHER_NODE)
        digest = hashlib.sha256(known).hexdigest()
        asked: list[str] = []

        def was_taken(node_id: str, found: str) -> Deferred[bool]:
            asked.append(node_id)
            if node_id == OTHER_NODE:
                return fail(DatabaseAway("is away"))
            return succeed((node_id, found) == (NODE, digest))

        self.receiving = self.make(was_taken=was_taken)
        self.receiving.limits = DocumentLimits()
        self.start()
        for name, data in (
            ("known.ocs.gz", gzip.compress(known)),
            ("changed.ocs", known + b" "),
            ("other.ocs", other),
            ("nonsense.ocs", b"?"),
        ):
            self.put(name, data)
        self.clock.pump([30] * 21)

        self.assertEqual(
            sorted(each.name for each in self.receiving.spool.failed()),
            ["changed.ocs", "nonsense.ocs", "other.ocs"],
        )
        self.assertEqual(asked, [NODE, NODE, OTHER_NODE])
        self.assertEqual(self.left()[0], 0)

    def test_the_end_waits_for_a_look(self) -> None:
        """While it is asked whether a document was believed, the folder stays open."""
        answer: Deferred[bool] = Deferred()
        self.receiving = self.make(was_taken=lambda *_: answer)
        self.receiving.limits = DocumentLimits()
        self.start()
        self.put("a.ocs", node_document(pair()))
        self.clock.pump([30] * 21)
        stopped = self.receiving.stop()
        self.assertNoResult(stopped)
        answer.callback(True)
        self.successResultOf(stopped)

        self.start()
        self.assertEqual(self.left(), (0, 0, 0))

    def test_unsigned_documents(self) -> None:
        """Where they may be believed, unsigned documents are decided about."""
        self.receiving = self.make(Waits(unsigned=60))
        self.start()
        self.put("a.ocs", b"a")

        self.clock.pump([30] * 2)

        self.assertEqual([each.signature for each in self.deliveries], [None])
        self.assertEqual(self.left(), (0, 0, 0))

    def test_unsigned_documents_before_they_are_orphans(self) -> None:
        """However soon halves are put aside, what may be believed is not."""
        self.receiving = self.make(Waits(orphan=10, unsigned=60))
        self.start()
        self.put("a.ocs", b"a")
        self.put("b.ocs.sign", b"b")

        self.clock.pump([30] * 2)

        self.assertEqual([each.signature for each in self.deliveries], [None])
        (failed,) = self.receiving.spool.failed()
        self.assertEqual(failed.refusal.code, "no-document")

    def test_unsigned_documents_of_an_unsearchable_folder(self) -> None:
        """What is to be decided about is, though what failed cannot be looked at."""
        self.receiving = self.make(Waits(unsigned=60))
        self.start()
        self.put("a.ocs", b"a")
        with mock.patch.object(self.receiving.spool, "trim_failed") as trim:
            trim.side_effect = PermissionError("no")
            self.clock.pump([30] * 2)

        self.assertEqual(len(self.deliveries), 1)
        self.assertEqual(len(self.flushLoggedErrors(PermissionError)), 2)

    def test_somebody_removed_what_failed(self) -> None:
        """Whoever removes all of `failed/` does not stop that more is put there."""
        self.start()
        self.answers = [succeed(REFUSED), succeed(REFUSED)]
        (self.folder / "failed").rmdir()

        self.clock.advance(30)
        self.put_pair("a")
        self.assertEqual(
            [each.name for each in self.receiving.spool.failed()], ["a.ocs"]
        )
        shutil.rmtree(self.folder / "failed")
        self.put_pair("b")

        self.assertEqual(
            [each.name for each in self.receiving.spool.failed()], ["b.ocs"]
        )

    def test_orphans_and_a_full_disk(self) -> None:
        """
        What cannot be put aside waits on: its other half may still come, and is met.
        """
        self.start()
        self.put("a.ocs", b"a")
        self.put("b.ocs.sign", b"b")
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch(
            "nodecomm.inventory.spool_folder.write_reason", side_effect=full
        ):
            self.clock.pump([30] * 21)
            self.assertEqual(self.left(), (2, 0, 0))
        self.put("a.ocs.sign", b"s")
        self.clock.advance(30)

        self.assertEqual(
            [(each.name, each.document) for each in self.deliveries], [("a.ocs", b"a")]
        )
        (failed,) = self.receiving.spool.failed()
        self.assertEqual(failed.refusal.code, "no-document")
        self.assertNotEqual(self.flushLoggedErrors(OSError), [])

    def test_put_aside_in_two_steps(self) -> None:
        """
        A pair with a reason beside it that could not be moved to `failed/` is not lost
        when that is tried again.
        """
        self.start()
        self.answers = [succeed(REFUSED)]
        real = os.rename

        def full(old: str, new: str) -> None:
            if os.path.dirname(new) == str(self.folder / "failed"):
                raise OSError(errno.ENOSPC, "No space left on device")
            real(old, new)

        with mock.patch("os.rename", full), capturedLogs() as logs:
            self.put_pair("a")
            self.clock.advance(1)
        self.assertEqual(self.left(), (0, 1, 0))
        self.clock.advance(2)

        self.assertEqual(self.left(), (0, 0, 1))
        (failed,) = self.receiving.spool.failed()
        self.assertEqual(failed.refusal, REFUSED.refusal)
        self.assertEqual(failed.files, ("a.ocs", "a.ocs.sign"))
        aside = self.folder / "failed" / failed.serial
        self.assertEqual((aside / "a.ocs").read_bytes(), b"a")
        self.assertEqual(len(self.deliveries), 1)
        self.assertNotIn("inventory.gone", [each.get("event") for each in logs])

    def test_files_that_somebody_removed(self) -> None:
        """A pair whose files are gone is no reason to stop, or to try for ever."""
        self.start()
        self.answers = [fail(RuntimeError())]
        self.put_pair("a")
        for path in self.folder.glob("ready/*/*"):
            path.unlink()

        self.clock.advance(1)

        self.assertEqual(self.left(), (0, 0, 0))
        self.assertEqual(len(self.deliveries), 1)
        self.assertEqual(list(self.folder.glob("ready/*")), [])
        self.flushLoggedErrors(RuntimeError)

    def test_stop(self) -> None:
        """The end waits for decisions under way, and leaves nothing to happen later."""
        self.start()
        slow: Deferred[Judgement] = Deferred()
        self.answers = [slow, fail(RuntimeError())]
        self.put_pair("a")
        self.put_pair("b")

        stopped = self.receiving.stop()

        self.assertNoResult(stopped)
        slow.callback(TAKEN)
        self.successResultOf(stopped)
        self.assertFalse(self.receiving.is_running)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(list(self.folder.glob("ready/*"))), 1)
        self.flushLoggedErrors(RuntimeError)
