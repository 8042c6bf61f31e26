# SPDX-License-Identifier: MIT
"""
What becomes of the inventories that were stored: each pair is read, given to whoever
decides, and forgotten or put aside by what he says.

A pair that nobody could decide about, because the database is away or this program has
a mistake, stays where it is and is tried again, with growing pauses; the others go on
meanwhile. So what a sender was told to be stored ends in exactly one of three ways:
somebody else has it, it is in `failed/` with a reason, or it waits.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from datetime import datetime
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from nodecomm.inventory.document import read_document
from nodecomm.inventory.exchange import Exchange
from nodecomm.inventory.failures import Failed
from nodecomm.inventory.halves import IHalves
from nodecomm.inventory.judgement import Judgement, Outcome
from nodecomm.inventory.limits import DocumentLimits, DocumentRefused
from nodecomm.inventory.names import Half, UploadName
from nodecomm.inventory.pairs import Box, Pair, Part, Sender, Waiting, pair_of
from nodecomm.inventory.spool import Placed, Spool
from nodecomm.inventory.spool_work import SpoolWork
from nodecomm.server.pools import Pool, QueueFull
from nodecomm.storage.database import DatabaseAway
from nodecomm.storage.migrations import DatabaseTooNew
from nodecomm.storage.postgres_place import DatabaseUnusable

__all__ = ["Delivery", "Receive", "Receiving", "Waits", "WasTaken"]

#: Seconds between two looks for halves that have waited too long.
LOOK_EVERY = 30.0

#: Seconds before a pair that nobody could decide about is tried again: at first, and at
#: the most. Each pause is twice the one before.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0

#: Seconds between two words about inventories that wait, for a database or a disk; and
#: between two about those that a mistake holds up.
TOLD_EVERY = 60.0

#: What is nobody's mistake in this program.
_IN_THE_WAY = (DatabaseAway, DatabaseTooNew, DatabaseUnusable, OSError, QueueFull)

#: Of so many pairs that are begun while others wait, one is an update, if any waits:
#: whoever has the password for first inventories must not stop those of all others.
_UPDATE_EACH = 4


@frozen
class Delivery:
    """
    An inventory to decide about.

    Attributes:
        document: The document, not compressed.
        signature: The content of its signature's file; None where there is none.
        name: What both files have in common in their names. Nothing follows from it.
        when: When the document had come, in UTC. Its age counts from then: what waited
            here has not become too old by that.
        sender: Where it came from.
    """

    document: bytes = field(repr=False)
    signature: bytes | None = field(repr=False)
    name: str
    when: datetime
    sender: Sender


#: Whoever decides: durably, before the Deferred fires, for the files are gone then. It
#: fails when there could be no decision.
Receive = Callable[[Delivery], Deferred[Judgement]]

#: Tells whether of the node with this id a document with this SHA-256, in hexadecimal
#: digits, was believed before.
WasTaken = Callable[[str, str], Deferred[bool]]


@frozen
class Waits:
    """
    How long is waited, in seconds.

    Attributes:
        orphan: For the other half, before one is put aside.
        unsigned: For a signature, before a document is decided about without one; None
            where those are never believed. It is less where `orphan` is, or documents
            would be put aside before.
    """

    orphan: float = 600.0
    unsigned: float | None = None

    @property
    def claim(self) -> float | None:
        """
        After how long a document is decided about without a signature; None for never.
        """
        return None if self.unsigned is None else min(self.unsigned, 0.9 * self.orphan)


@define(order=True)
class _Turn:
    """
    A pair in the order in which pairs are decided about.
    """

    serial: str
    pair: Pair = field(order=False)
    pause: float = field(default=FIRST_PAUSE, order=False)
    tries: int = field(default=0, order=False)


class Receiving(SpoolWork[Spool]):
    """
    Decides about what is stored, and keeps the folder in order.

    Args:
        spool: The folder. It is opened and closed here.
        receive: Who decides.
        was_taken: Who remembers the decisions. A document that comes again alone,
            because its sender has missed an answer, is not put aside then.
        reactor: For pauses.
        pool: Where what blocks is done.
        limits: How much of a document is read.
        waits: How long is waited for halves.
        at_once: Pairs that are decided about at a time.
    """

    def __init__(
        self,
        spool: Spool,
        receive: Receive,
        *,
        was_taken: WasTaken | None = None,
        reactor: IReactorTime,
        pool: Pool,
        limits: DocumentLimits | None = None,
        waits: Waits | None = None,
        at_once: int = 2,
    ) -> None:
        super().__init__(spool, pool)
        self.limits = limits or DocumentLimits()
        self._receive = receive
        self._was_taken = was_taken
        self._reactor = reactor
        self._waits = waits or Waits()
        self._at_once = at_once
        self._turns: dict[Box, list[_Turn]] = {box: [] for box in Box}
        self._begun = 0
        self._running: set[Deferred[None]] = set()
        self._pauses: set[IDelayedCall] = set()
        self._exchange: Exchange | None = None
        self._told: dict[bool, float] = {}
        self._look = LoopingCall(self._look_for_orphans)
        self._look.clock = reactor
        self._looking: Deferred[None] = succeed(None)

    def look_elsewhere(self, halves: IHalves, now: Callable[[], float]) -> None:
        """
        Look for the other half of what waits at other servers, too. Before `start`.

        Args:
            halves: What the servers share.
            now: Civil time in seconds.
        """
        self._exchange = Exchange(
            self.spool,
            halves,
            reactor=self._reactor,
            pool=self._pool,
            completed=self._completed,
            failed=self._tell_failed,
            within=self._waits.orphan,
            now=now,
        )

    def _opened(self, pairs: list[Pair]) -> Deferred[None] | None:
        self._started = True
        for pair in pairs:
            self._add(_Turn(pair.serial, pair))
        looking = self._look.start(LOOK_EVERY)
        looking.addErrback(self._failed_looking)
        self._next()
        return None if self._exchange is None else self._exchange.start()

    def stop(self) -> Deferred[None]:
        """
        Begin nothing more, wait for what runs, and close the folder.
        """
        self._started = False
        if self._look.running:
            self._look.stop()
        for call in self._pauses:
            call.cancel()
        self._pauses.clear()
        for turns in self._turns.values():
            turns.clear()
        looked: Deferred[None] = Deferred()
        self._looking.addBoth(lambda _: looked.callback(None))
        running: list[Deferred[Any]] = [*self._running, looked]
        if self._exchange is not None:
            running.append(self._exchange.stop())
        ended = DeferredList(running)
        return ended.addCallback(lambda _: self.spool.close())

    def store(
        self, part: Part, name: UploadName, sender: Sender, *, only_new: bool
    ) -> Deferred[Placed]:
        """
        Store an upload that is whole, and decide about it if it completes a pair.

        Returns:
            Fires when it is on disk; fails as `Spool.place` does, or with `QueueFull`.
        """

        def work() -> Placed:
            return self.spool.place(part, name, sender, only_new=only_new)

        return self._away(work).addCallback(self._stored)

    def _stored(self, placed: Placed) -> Placed:
        if placed.replaced is not None:
            self._tell_failed(placed.replaced)
        if placed.pair is not None:
            self._completed(placed.pair)
        return placed

    def _completed(self, pair: Pair) -> None:
        if self._started:
            self._add(_Turn(pair.serial, pair))
            self._next()

    # Turns

    def _add(self, turn: _Turn) -> None:
        heapq.heappush(self._turns[turn.pair.sender.box], turn)

    def _next(self) -> None:
        while self._started and len(self._running) < self._at_once:
            turn = self._take()
            if turn is None:
                return
            work = self._decide(turn)
            done = Deferred.fromCoroutine(work)
            if not done.called:
                self._running.add(done)
                done.addCallback(self._ended, done)

    def _ended(self, _: None, done: Deferred[None]) -> None:
        self._running.discard(done)
        self._next()

    def _take(self) -> _Turn | None:
        first, updates = self._turns[Box.FIRST], self._turns[Box.UPDATE]
        if not first and not updates:
            return None
        self._begun += 1
        if not first or (updates and self._begun % _UPDATE_EACH == 0):
            return heapq.heappop(updates)
        return heapq.heappop(first)

    async def _decide(self, turn: _Turn) -> None:
        """
        Decide about one pair. Whatever goes wrong, it is told, and the others go on.
        """
        try:
            await self._decide_once(turn.pair)
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            pause = turn.pause
            self._again(turn, failure)
            turn.tries += 1
            why = failure.getErrorMessage() or failure.value.__class__.__name__
            await self._note(turn.pair, turn.tries, pause, why)

    async def _decide_once(self, pair: Pair) -> None:
        began = self._reactor.seconds()
        try:
            document, signature = await self._away(pair.read, self.limits)
        except DocumentRefused as error:
            judgement = Judgement(Outcome.REFUSED, "", refusal=error.refusal)
        except FileNotFoundError:
            aside = await self._away(self.spool.forget, pair)
            if aside is None:
                self._tell_gone(pair.name, pair.sender)
            else:
                self._tell_failed(aside)
            return
        else:
            delivery = Delivery(document, signature, pair.name, pair.when, pair.sender)
            judgement = await maybeDeferred(self._receive, delivery)
        failed = await self._put_in_force(pair, judgement)
        if failed is not None:
            self._tell_failed(failed, judgement)
            return
        inventory = judgement.inventory
        self._log.info(
            "inventory of {hostname} ({node}) from {peer}: {outcome}",
            event="inventory.received",
            node=inventory.node_id if inventory else "",
            hostname=inventory.hostname if inventory else "",
            outcome=judgement.outcome.value,
            name=pair.name,
            box=pair.sender.box.value,
            peer=pair.sender.address,
            seconds=self._reactor.seconds() - began,
        )

    async def _put_in_force(self, pair: Pair, judgement: Judgement) -> Failed | None:
        if judgement.outcome is not Outcome.REFUSED:
            await self._away(self.spool.finish, pair)
            return None
        if judgement.refusal is None:
            raise ValueError("refused without a reason")
        return await self._away(self.spool.fail, pair, judgement.refusal)

    def _again(self, turn: _Turn, failure: Failure) -> None:
        """
        Try again later.
        """
        self._tell_delayed(turn, failure)
        if not self._started:
            return
        pause, turn.pause = turn.pause, min(2 * turn.pause, LONGEST_PAUSE)

        def go_on() -> None:
            self._pauses.discard(call)
            self._add(turn)
            self._next()

        call = self._reactor.callLater(pause, go_on)
        self._pauses.add(call)

    def _tell_delayed(self, turn: _Turn, failure: Failure) -> None:
        """
        Tell why it waits: once in a while, for thousands may wait for the same.
        """
        is_mistake = not isinstance(failure.value, _IN_THE_WAY)
        now, told = self._reactor.seconds(), self._told.get(is_mistake)
        if told is not None and now - told < TOLD_EVERY:
            return
        self._told[is_mistake] = now
        facts: dict[str, Any] = {
            "event": "inventory.delayed",
            "name": turn.pair.name,
            "peer": turn.pair.sender.address,
            "pause": turn.pause,
        }
        if is_mistake:
            self._log.failure(
                "the inventory {name} from {peer}, and maybe others, waits {pause} s "
                "for a decision",
                failure,
                **facts,
            )
        else:
            self._log.warn(
                "the inventory {name} from {peer}, and maybe others, waits: {error}",
                error=failure.getErrorMessage(),
                **facts,
            )

    # What has waited too long

    def _look_for_orphans(self) -> Deferred[None]:
        looking = Deferred.fromCoroutine(self._look_once())
        self._looking = looking.addErrback(self._failed_looking)
        return self._looking

    async def _look_once(self) -> None:
        # Else the other half may be at another server that cannot tell.
        if self._exchange is None or self._exchange.is_settled:
            claim = self._waits.claim
            if claim is not None:
                claimed = await self._away(self.spool.claim_unsigned, claim)
                for pair in claimed:
                    self._completed(pair)
            await self._forget_repeated()
            if not self._started:
                return
            expired = await self._away(self.spool.expire, self._waits.orphan)
            for each in expired:
                self._tell_failed(each)
        self._tell_forgotten(await self._away(self.spool.trim_failed))

    async def _forget_repeated(self) -> None:
        """
        Remove documents that have waited in vain for their signature, and were believed
        before, be it at another server.
        """
        if self._was_taken is None:
            return
        orphan = self._waits.orphan
        for waiting in await self._away(self.spool.lonely, Half.DOCUMENT, orphan):
            if not self._started:
                return
            try:
                node_id, digest = await self._away(self._identify, waiting)
                if await maybeDeferred(self._was_taken, node_id, digest):
                    await self._away(self.spool.give_up, waiting)
            except (DocumentRefused, *_IN_THE_WAY):
                # It is put aside, as others are.
                continue
            except Exception:
                self._failed_looking(Failure())  # type: ignore[no-untyped-call]

    def _identify(self, waiting: Waiting) -> tuple[str, str]:
        """
        The node that a document is of, and the document's SHA-256.
        """
        document, _ = pair_of("", [waiting]).read(self.limits)
        found = read_document(document, self.limits)
        return found.node_id, hashlib.sha256(document).hexdigest()

    def _tell_failed(self, failed: Failed, judgement: Judgement | None = None) -> None:
        inventory = judgement.inventory if judgement else None
        self._log.warn(
            "inventory {name} from {peer} is not believed: {text}",
            event="inventory.failed",
            name=failed.name,
            node=inventory.node_id if inventory else "",
            reason=failed.refusal.code,
            text=failed.refusal.text,
            element=failed.refusal.element,
            box=failed.sender.box.value,
            peer=failed.sender.address,
            serial=failed.serial,
        )
