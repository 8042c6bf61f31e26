# SPDX-License-Identifier: MIT
"""
Bringing a server's tree here: connections as they are needed, one at a time.

Whatever breaks on the way, the destination is as it was until the new set, complete
and verified, takes its place.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Protocol, cast

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.task import deferLater

from nodecomm.client.errors import (
    BadAnswer,
    ConnectionBroken,
    Rejected,
    Unreachable,
)
from nodecomm.sync.asking import Asking, Session
from nodecomm.sync.clocks import Moment, SteadyClock
from nodecomm.sync.errand import FreshConnectionNeeded, ManifestContradicted
from nodecomm.sync.errors import LimitExceeded
from nodecomm.sync.jobs import Jobs
from nodecomm.sync.model import SyncRequest, SyncResult, Watch
from nodecomm.sync.place import Destination, open_destination
from nodecomm.sync.staging import Commit
from nodecomm.sync.updating import Update

if TYPE_CHECKING:
    from random import Random

    from twisted.internet.interfaces import IReactorTime

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.connection import Connection
    from nodecomm.server.pools import Pool

__all__ = ["Dialing", "Syncer"]

#: Seconds before a connection that broke is followed by another, the first time
#: and at the most; they double, and are jittered.
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0

#: Seconds that another update of the same destination is waited for.
LOCK_WAIT = 10.0


class Dialing(Protocol):
    """
    What connects: a `nodecomm.client.dialing.Dialer`, or the classic protocol's.
    """

    def connect(self, server: ServerAddress) -> Awaitable[Connection]:
        """Connect."""
        ...


@define
class _Tally:
    """
    What the connections of one run cost.
    """

    connections: int = 0
    round_trips: int = 0
    bytes_received: int = 0


@define(eq=False)
class Syncer:
    """
    Updates from one server. Requests run one after the other, over one connection
    that is kept for the next; `close` it in the end.

    Args:
        dialer: How to connect.
        server: Whom.
        state_dir: Where the records of copies are.
        pool: For whatever may wait: disk, digests. Two threads or more.
        clock: For timers.
        now: Civil time.
        monotonic: Seconds of a clock that nobody sets.
        steady: A clock that can be compared with that of earlier runs.
        random: For pauses, and for what nobody may foresee.
        lock_wait: Seconds that another update of the same destination is waited for.
    """

    _dialer: Dialing
    server: ServerAddress
    state_dir: Path = field(kw_only=True, converter=Path)
    _pool: Pool = field(kw_only=True)
    _clock: IReactorTime = field(kw_only=True)
    _now: Callable[[], float] = field(default=time.time, kw_only=True)
    _monotonic: Callable[[], float] = field(default=time.monotonic, kw_only=True)
    _steady: Callable[[], Moment] = field(factory=SteadyClock, kw_only=True)
    _random: Random = field(factory=SystemRandom, kw_only=True)
    _lock_wait: float = field(default=LOCK_WAIT, kw_only=True)
    _turn: DeferredLock = field(factory=DeferredLock, init=False)
    _session: Connection | None = field(default=None, init=False)
    _asking: Asking | None = field(default=None, init=False)
    _base: tuple[int, int] = field(default=(0, 0), init=False)

    def run(
        self,
        request: SyncRequest,
        watch: Watch | None = None,
        before_commit: Callable[[Commit], None] | None = None,
    ) -> Deferred[SyncResult]:
        """
        Bring the destination of *request* up to date.

        To cancel the Deferred ends the run cleanly; until the new set takes its place
        nothing has changed.

        Args:
            watch: Told of progress.
            before_commit: Called when the new set is on disk and is about to take its
                place, in a thread; it may wait. What it raises ends the run.

        Errors: those of `nodecomm.sync.errors` and of `nodecomm.client.errors`. The
        destination is as it was then.
        """
        return Deferred.fromCoroutine(self._run(request, watch, before_commit))

    def close(self) -> Deferred[None]:
        """
        Say good-bye to the server; fires when it has ended the connection.
        """
        return Deferred.fromCoroutine(self._hang_up())

    # A run.

    async def _run(
        self,
        request: SyncRequest,
        watch: Watch | None,
        before: Callable[[Commit], None] | None,
    ) -> SyncResult:
        began = self._monotonic()
        request = _tidy(request)
        await self._turn.acquire()
        try:
            working = Deferred.fromCoroutine(
                self._in_time(request, watch, before, began)
            )
            overdue = False

            def too_long() -> None:
                nonlocal overdue
                overdue = True
                working.cancel()

            timer = self._clock.callLater(request.limits.duration, too_long)
            try:
                return await working
            except CancelledError:
                if overdue:
                    msg = (
                        f"the update was not done after {request.limits.duration:g} s,"
                        " which is the limit"
                    )
                    raise LimitExceeded("duration", msg) from None
                raise
            finally:
                if timer.active():
                    timer.cancel()
        finally:
            self._turn.release()

    async def _in_time(
        self,
        request: SyncRequest,
        watch: Watch | None,
        before: Callable[[Commit], None] | None,
        began: float,
    ) -> SyncResult:
        jobs = Jobs(self._pool)
        stop = threading.Event()
        holding: list[Destination] = []

        def hold() -> Destination:
            destination = open_destination(
                request,
                now=self._now,
                wait=self._lock_wait,
                sleep=lambda seconds: _sleep(stop, seconds),
                monotonic=self._monotonic,
            )
            holding.append(destination)
            return destination

        update: Update | None = None
        try:
            update = Update(
                request,
                await jobs.run(hold),
                str(self.server),
                os.fspath(self.state_dir),
                jobs,
                self._pool,
                self._clock,
                self._monotonic,
                self._steady,
                watch,
            )
            return await self._update(update, before, began)
        finally:
            stop.set()
            if update is not None:
                await update.lane.when_idle()
            await jobs.quiet()
            for destination in holding:
                await jobs.run(destination.close)

    async def _update(
        self,
        update: Update,
        before: Callable[[Commit], None] | None,
        began: float,
    ) -> SyncResult:
        tally = _Tally()
        looking = Deferred.fromCoroutine(update.look_here())
        try:
            await self._describe_and_fetch(update, looking, tally)
        finally:
            looking.addErrback(lambda _: None)
            looking.cancel()
        request, books = update.request, update.books
        plan, changed = update.plan()
        if not request.dry_run:
            locals_ = update.here.entries
            if changed:
                locals_ = dict(await update.place(plan, before))
            await update.remember(locals_)
        return SyncResult(
            changed=changed,
            checked=update.checked(),
            fetched=books.fetched,
            removed=sum(change.what == "removed" for change in plan.changes),
            bytes_received=tally.bytes_received,
            bytes_fetched=books.bytes_fetched,
            round_trips=tally.round_trips,
            connections=tally.connections,
            seconds=self._monotonic() - began,
            changes=plan.changes,
            warnings=update.warnings(),
            manifest=update.manifest_used,
            refused=update.refused(),
        )

    async def _describe_and_fetch(
        self, update: Update, looking: Deferred[None], tally: _Tally
    ) -> None:
        """
        Do everything that needs the server, over as many connections as it takes.
        """
        attempts = update.request.limits.attempts
        failures = 0
        while True:
            error: Exception
            asking: Asking | None = None
            before = update.books.progress
            learned = update.refusals.learned
            try:
                asking = await self._connect(tally)
                if not looking.called or looking.result is not None:
                    await looking
                await self._work(update, asking, tally)
                return
            except (FreshConnectionNeeded, ManifestContradicted) as why:
                if isinstance(why, ManifestContradicted):
                    update.contradicted()
                await self._drop(tally)
                await update.interrupted(None)
                continue
            except (ConnectionBroken, BadAnswer) as why:
                error = why
            except Unreachable as why:
                if not tally.connections:
                    raise
                error = why
            except Rejected as why:
                # A server that welcomed us a moment ago and hangs up in the dialog
                # now has lost its connection rather than its trust in us.
                if tally.connections < 2:
                    await self._drop(tally)
                    await update.interrupted(None)
                    raise
                error = why
            except BaseException:
                await self._drop(tally)
                await update.interrupted(None)
                raise
            await self._drop(tally)
            narrowed = False
            if (
                isinstance(error, ConnectionBroken)
                and asking is not None
                and asking.trouble is None
                and asking.ends_at_refusals
            ):
                # A refusal may have taken the connection with it.
                if update.refusals.learned > learned:
                    # It is not asked for again, so this comes to an end.
                    await update.interrupted(None)
                    update.refusals.check()
                    failures = 0
                    continue
                narrowed = update.refusals.lost()
            await update.interrupted(None if narrowed else error)
            progress = narrowed or update.books.progress > before
            failures = 1 if progress else failures + 1
            if failures >= attempts:
                raise error
            await self._pause(failures)

    async def _work(self, update: Update, asking: Asking, tally: _Tally) -> None:
        await update.work(asking)
        self._count(tally)
        if asking.doubtful:
            # What was received is verified, but nothing that is asked later would
            # be believed without a check; there may be nothing to check by.
            if asking.can_check:
                asking.check()
            else:
                await self._drop(None)

    # Connections.

    async def _connect(self, tally: _Tally) -> Asking:
        session, asking = self._session, self._asking
        if session is not None and asking is not None:
            if not session.closed and asking.trouble is None:
                return asking
            await self._drop(None)
        tally.connections += 1
        try:
            session = await self._dialer.connect(self.server)
        except Unreachable:
            tally.connections -= 1
            raise
        self._session = session
        self._base = (0, 0)
        self._asking = Asking(cast("Session", session), self._random)
        return self._asking

    def _count(self, tally: _Tally) -> None:
        """
        Add what this run had of the connection.
        """
        session = self._session
        if session is not None:
            trips, received = self._base
            self._base = session.round_trips, session.bytes_received
            tally.round_trips += self._base[0] - trips
            tally.bytes_received += self._base[1] - received

    async def _drop(self, tally: _Tally | None) -> None:
        """
        End the connection and wait until the server has seen it: some let an address
        have one connection only.
        """
        if tally is not None:
            self._count(tally)
        session, self._session, self._asking = self._session, None, None
        if session is not None:
            if not session.closed:
                session.abort("closed", "the rest is asked for on another connection")
            await session.close()

    async def _hang_up(self) -> None:
        await self._turn.run(self._say_goodbye)

    def _say_goodbye(self) -> Deferred[None] | None:
        session, self._session, self._asking = self._session, None, None
        return None if session is None else session.close()

    async def _pause(self, failures: int) -> None:
        seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1))
        seconds *= 0.5 + self._random.random()
        await deferLater(self._clock, seconds, lambda: None)


class _Stopped(Exception):  # noqa: N818
    """
    The run was cancelled while a thread waited.
    """


def _sleep(stop: threading.Event, seconds: float) -> None:
    if stop.wait(seconds):
        raise _Stopped


def _tidy(request: SyncRequest) -> SyncRequest:
    """
    *request* with its source as the server is asked for it.
    """
    source = request.source.rstrip(b"/") or b"/"
    if source == request.source:
        return request

    return evolve(request, source=source)
