# SPDX-License-Identifier: MIT
"""
Halves of inventories that arrive at different servers, behind one that spreads
requests, meet: `nodecomm.inventory.halves` says how.

Nothing that a sender was told waits for it: what was uploaded is on this server's disk
until the table has it, or the other half has come.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nodecomm.identity.files import sync_folder
from nodecomm.inventory.failures import Failed
from nodecomm.inventory.halves import REPLACED, Entry, IHalves, Offered, Wanted
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.names import Half
from nodecomm.inventory.pairs import Pair, Waiting, mark_of
from nodecomm.inventory.spool import Placed, Spool
from nodecomm.server.pools import Pool

__all__ = ["LOOK_EVERY", "Exchange"]

T = TypeVar("T")

#: Seconds between two looks at what waits.
LOOK_EVERY = 1.0

#: Seconds that a half waits for the other one here, before it is looked for elsewhere:
#: most senders send both at once, and to one server.
GRACE = 1.0

#: Seconds that the database has to have answered for before a half is put aside because
#: the other one has not come: other servers must have had the time to tell of theirs.
SETTLED = 60.0

#: Seconds that a signature is kept for whose document nobody had; less when there is
#: little room.
KEPT = 86400.0

#: Signatures that the table holds.
LIMIT = 10_000

#: Halves that one question is about.
_AT_ONCE = 200

#: Looks between two at what is in the table for longer.
_OLD_EACH = 30

#: The file that tells this folder from those of other servers.
_IDENTITY = "exchange-id"


class Exchange:
    """
    Looks elsewhere for the halves that wait in a folder.

    Args:
        spool: The folder, which is open while this runs.
        halves: The table.
        reactor: Drives all of it.
        pool: Where what blocks is done.
        completed: Called with each pair that has become one.
        failed: Called with what was put aside.
        within: Seconds that may lie between the arrival of two halves.
        now: Civil time in seconds.
        limit: Signatures that the table holds.
    """

    _log = Logger("nodecomm.inventory")

    def __init__(
        self,
        spool: Spool,
        halves: IHalves,
        *,
        reactor: Any,
        pool: Pool,
        completed: Callable[[Pair], object],
        failed: Callable[[Failed], object],
        within: float,
        now: Callable[[], float],
        limit: int | None = None,
    ) -> None:
        self._spool = spool
        self._halves = halves
        self._reactor = reactor
        self._pool = pool
        self._completed = completed
        self._failed = failed
        self._within = within
        self._now = now
        self._limit = LIMIT if limit is None else limit
        self._owner = ""
        self._recovered = False
        self._has_begun = False
        self._answers_since: float | None = None
        self._away = False
        self._looks = 0
        self._listed = 0
        self._look: LoopingCall | None = None
        self._looking: Deferred[None] = succeed(None)

    @property
    def is_settled(self) -> bool:
        """
        Whether another server that has a half would have told by now.
        """
        since = self._answers_since
        return since is not None and bool(self._reactor.seconds() - since >= SETTLED)

    def start(self) -> Deferred[None]:
        """
        Begin to look. Whether the database answers is not waited for.

        The Deferred fails with an `OSError` of the folder, or as that of
        `nodecomm.storage.postgres_database.PostgresDatabase.start`.
        """

        def begin(owner: str) -> None:
            self._owner = owner
            self._look = LoopingCall(self.look)
            self._look.clock = self._reactor
            self._look.start(LOOK_EVERY, now=False)

        started = self._halves.start()
        named = started.addCallback(lambda _: self._in_pool(self._identity))
        return named.addCallback(begin)

    def stop(self) -> Deferred[None]:
        """
        Look no more, and wait for what is under way.
        """
        if self._look is not None:
            if self._look.running:
                self._look.stop()
            self._look = None
        # A look that is under way is not to ask anything more.
        stopped = self._halves.stop()
        waiting: Deferred[None] = Deferred()
        self._looking.addBoth(lambda _: waiting.callback(None))
        return waiting.addCallback(lambda _: stopped)

    def _in_pool(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        return maybeDeferred(self._pool.run, work, *args)

    def _identity(self) -> str:
        """
        What this folder is called among others; made once.
        """
        path = os.path.join(self._spool.folder, _IDENTITY)
        with contextlib.suppress(FileNotFoundError), open(path) as file:
            found = file.read().strip()
            if found:
                return found
        made = str(uuid.uuid4())
        with open(f"{path}.new", "w") as file:
            file.write(f"{made}\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{path}.new", path)
        sync_folder(self._spool.folder)
        return made

    def look(self) -> Deferred[None]:
        """
        Look once. Never fails.
        """
        self._looking = Deferred.fromCoroutine(self._look_once())
        return self._looking.addErrback(self._not_answered)

    def _not_answered(self, failure: Failure) -> None:
        self._answers_since = None
        # What was asked last may have happened.
        self._recovered = False
        if self._away or self._look is None:
            return
        self._away = True
        self._log.warn(
            "halves of inventories cannot be looked for at other servers, they wait: "
            "{error}",
            event="inventory.alone",
            error=f"{failure.value.__class__.__name__}: {failure.getErrorMessage()}",
        )

    def _answered(self) -> None:
        if self._answers_since is None:
            self._answers_since = self._reactor.seconds()
        if self._away:
            self._away = False
            self._log.info(
                "halves of inventories are looked for at other servers again",
                event="inventory.together",
            )

    async def _look_once(self) -> None:
        if not self._recovered:
            await self._recover()
            self._recovered = self._has_begun = True
            self._answered()
        asked = await self._give()
        asked = await self._fetch() or asked
        if not asked and self._answers_since is None:
            await self._halves.count()
            asked = True
        if asked:
            self._answered()
        self._looks += 1
        if self._looks % _OLD_EACH == 0:
            await self._tell_decided()
            await self._claim(await self._in_pool(self._late_documents))
            await self._put_aside_old()

    # What this server was about to do when it ended

    async def _recover(self) -> None:
        claimed = await self._halves.claimed(self._owner)
        # Of what an earlier program has done nobody knows: one whose document does not
        # wait any more is beside it already.
        await self._store(claimed, met=not self._has_begun)

    # Signatures of this server

    async def _give(self) -> bool:
        found = await self._in_pool(self._lonely_signatures)
        if not found:
            return False
        given = [offered for _, offered in found]
        outcome = await self._halves.offer(given, self._owner, self._limit)
        await self._store(outcome.replaced)
        told = []
        for place, number in outcome.stored.items():
            waiting, _ = found[place]
            if not await self._in_pool(self._spool.give_up, waiting):
                # Its document has come here meanwhile, or a later one in its place.
                told.append(number)
        if told:
            await self._halves.repeated(told)
        return True

    def _lonely_signatures(self) -> list[tuple[Waiting, Offered]]:
        found = []
        for waiting in self._spool.lonely(Half.SIGNATURE, GRACE)[:_AT_ONCE]:
            try:
                with open(waiting.path, "rb") as file:
                    content = file.read()
                    arrived = os.fstat(file.fileno()).st_mtime
            except FileNotFoundError:
                # Its document has come meanwhile.
                continue
            digest = hashlib.sha256(content).hexdigest()
            offered = Offered(
                waiting.name,
                waiting.sender,
                arrived,
                content,
                digest,
                repeated=self._spool.was_decided(waiting.name.pair, digest),
            )
            found.append((waiting, offered))
        return found

    # Documents of this server

    async def _fetch(self) -> bool:
        wanted = await self._in_pool(self._lonely_documents)
        await self._claim(wanted)
        return bool(wanted)

    async def _claim(self, wanted: Sequence[Wanted]) -> None:
        for first in range(0, len(wanted), _AT_ONCE):
            some = wanted[first : first + _AT_ONCE]
            claimed = await self._halves.claim(some, self._owner, self._within)
            await self._store(claimed)

    def _lonely_documents(self) -> list[Wanted]:
        return _wanted(self._spool.lonely(Half.DOCUMENT, GRACE))

    def _late_documents(self) -> list[Wanted]:
        """
        Documents that were put aside before their signature came. Those that wait go
        first: what these ask for has had the time to be asked for by others.
        """
        now = self._now()
        latest = now - self._within - SETTLED
        return _wanted(self._spool.unsigned(now - KEPT, latest))

    async def _store(self, claimed: Sequence[Offered], *, met: bool = False) -> None:
        """
        Put signatures beside their documents, or aside, then say so.

        Args:
            claimed: By this server.
            met: What to believe of one whose document does not wait any more, and that
                is not known here: that it is beside it, or that it waits on.
        """
        for each in claimed:
            if each.mark == REPLACED:
                self._failed(await self._in_pool(self._put_aside, each, "replaced"))
            elif not await self._meet(each) and not met:
                await self._halves.release([each.number])
                continue
            await self._halves.taken([each.number])

    async def _meet(self, each: Offered) -> bool:
        """
        Put a signature beside its document; whether it is here now.
        """
        placed = await self._in_pool(self._join, each)
        if placed is None:
            has = self._spool.has_signature
            return await self._in_pool(has, each.name.pair, each.digest)
        if placed.replaced is not None:
            self._failed(placed.replaced)
        if placed.pair is not None:
            self._completed(placed.pair)
        return True

    def _join(self, each: Offered) -> Placed | None:
        part = self._spool.begin()
        try:
            part.write(each.content)
            return self._spool.join(part, each.name, each.sender, each.mark)
        finally:
            part.discard()

    # What nobody has asked for

    async def _tell_decided(self) -> None:
        """
        Tell of signatures in the table, some at a time, that are of pairs which this
        server has decided about: they were sent again, to another one.
        """
        listed = await self._halves.listed(self._listed, _AT_ONCE)
        self._listed = listed[-1].number if len(listed) == _AT_ONCE else 0
        numbers = await self._in_pool(self._decided, listed)
        if numbers:
            await self._halves.repeated(numbers)

    def _decided(self, listed: Sequence[Entry]) -> list[int]:
        was_decided = self._spool.was_decided
        return [each.number for each in listed if was_decided(each.name, each.digest)]

    async def _put_aside_old(self) -> None:
        now = self._now()
        # Later halves of the same time may come from a server that was away.
        full = await self._halves.count() > self._limit // 2
        before = now - (self._within if full else KEPT)
        old = await self._halves.old(before, _AT_ONCE)
        for each in old:
            self._failed(await self._in_pool(self._put_aside, each, "no-document"))
        await self._halves.forget([each.number for each in old], before)

    def _put_aside(self, each: Offered, why: str) -> Failed:
        text = (
            "another file of this name came before the other half did"
            if why == "replaced"
            else "the document did not come in time, to any server"
        )
        part = self._spool.begin()
        try:
            part.write(each.content)
            return self._spool.put_aside(
                part, each.name, each.sender, each.arrived, Refusal(why, text)
            )
        finally:
            part.discard()


def _wanted(documents: Iterable[Waiting]) -> list[Wanted]:
    found = []
    for waiting in documents:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(waiting.path)
            wanted = Wanted(waiting.name.pair, status.st_mtime, mark_of(status))
            found.append(wanted)
    return found
