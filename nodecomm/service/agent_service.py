# SPDX-License-Identifier: MIT
"""
The agent as a Twisted service: it keeps local copies those of a policy server.

It is one loop: wait, make all copies, run what follows, wait. Whatever asks for a run
or changes the configuration meanwhile only ends the wait, so that runs never overlap.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from nodecomm.identity.files import remove_leftovers
from nodecomm.inventory.own import NodeIdError, own_node_id
from nodecomm.server.pools import Pool, WorkerPool, Workers
from nodecomm.service.agent_events import AgentEvents
from nodecomm.service.agent_inventory import InventorySender
from nodecomm.service.agent_listener import AgentListener, check_account
from nodecomm.service.agent_prepared import for_node, kept_at_start
from nodecomm.service.agent_rounds import BY_REQUEST, BY_SIGNAL, AgentRounds
from nodecomm.service.agent_run import RunReport
from nodecomm.service.agent_schedule import Avoidance, Grid, pause_after, share_of
from nodecomm.service.agent_status import LOCK_NAME, AgentStatus, Point, ailments
from nodecomm.service.audit import AuditLog, open_audit
from nodecomm.service.own_state import (
    FolderLock,
    StartError,
    open_own_key,
    os_error_text,
)
from nodecomm.service.signals import SignalWatch
from nodecomm.service.telling import (
    reopen_or_tell,
    tell_problems,
    tell_rejected,
    tell_waiting,
)
from nodecomm.sync.clocks import SteadyClock

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from nodecomm.identity.keys import KeyPair
    from nodecomm.service.agent_events import Follow
    from nodecomm.service.agent_inventory_sources import Ways
    from nodecomm.service.agent_prepared import PreparedAgent
    from nodecomm.service.agent_run import Sources
    from nodecomm.service.loading import LoadedAgent

__all__ = ["AgentService"]

#: Threads for the disk, for the small files of the state, and for what follows an
#: update.
THREADS = 4


class AgentService(Service):
    """
    An agent.

    Everything that can go wrong at start does so in `startService`, as one
    `StartError`.

    Args:
        prepared: The configuration to start with.
        reactor: Drives all of it.
        reread: Reads the configuration again, for `reload`.
        sources: Makes what brings copies.
        ways: Makes what makes and sends inventories, of the state folder, the key and
            a pool; None: none are sent.
        reopen_log: Called when log files are to be opened again.
        handle_signals: Whether SIGHUP reloads and SIGUSR1 runs now.
        now: Civil time in seconds; only shown.
        monotonic: Seconds of a clock that nobody sets.
        steady: The same, to be compared across processes.
        chance: Random numbers from 0 up to 1.
        pool: Runs what blocks; None: threads of its own.
        workers: Threads for those who ask for runs; None: threads of their own.

    Attributes:
        prepared: The configuration in force.
        events: What it states.
        rounds: Makes its runs; there once it has started.
        listener: Where others may ask for runs; None before the start.
        sender: Sends inventories; None before the start, and where none are sent.
    """

    rounds: AgentRounds

    def __init__(
        self,
        prepared: PreparedAgent,
        *,
        reactor: Any,
        reread: Callable[[], tuple[PreparedAgent | None, LoadedAgent]],
        sources: Sources,
        ways: Callable[[str, KeyPair, Pool], Ways] | None = None,
        reopen_log: Callable[[], object] = lambda: None,
        handle_signals: bool = False,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        steady: SteadyClock | None = None,
        chance: Callable[[], float] = random.random,
        pool: Pool | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.prepared = prepared
        self.events = AgentEvents()
        self.listener: AgentListener | None = None
        self._log = self.events.log
        self._reactor = reactor
        self._reread = reread
        self._sources = sources
        self._ways = ways
        self.sender: InventorySender | None = None
        self._reopen_log = reopen_log
        self._now = now
        self._monotonic = monotonic
        self._steady = steady or SteadyClock()
        self._chance = chance
        self._workers = workers
        self._threads: WorkerPool | None = None
        if pool is None:
            self._threads = WorkerPool(reactor, "nodecomm-agent", THREADS)
            pool = self._threads
        self.pool: Pool = pool
        self._signals: list[SignalWatch] = []
        if handle_signals:
            self._signals = [
                SignalWatch(signal.SIGHUP, reactor, self.reload),
                SignalWatch(signal.SIGUSR1, reactor, self.run_now),
            ]
        self._lock: FolderLock | None = None
        self._audit: AuditLog | None = None
        self._pair: KeyPair | None = None
        self._failures = 0
        self._generation = 1
        self._asked = ""
        self._reloading = False
        self._stopping = False
        self._busy = False
        self._wake: Deferred[None] | None = None
        self._living: Deferred[None] | None = None

    # Starting

    def startService(self) -> None:
        """
        Make what is missing in the state folder, and begin.

        Raises:
            StartError: Something is in the way.
        """
        folder = self.prepared.state
        self._pair = pair = open_own_key(folder, self._log)
        self._take_lock(folder)
        try:
            self.prepared = _for_this_node(self.prepared)
            connect = self._sources.open(self.prepared, pair, self.pool)
            remove_leftovers(folder, self._now())
            self.rounds = AgentRounds(
                self.prepared,
                connect,
                reactor=self._reactor,
                pool=self.pool,
                avoidance=Avoidance(self._chance),
                server_key=self._sources.server_key,
                point=self.point,
                monotonic=self._monotonic,
                log=self._log,
            )
        except OSError as error:
            raise StartError(os_error_text(error, folder)) from error
        self._share = share_of(pair.public.md5)
        self._started = self._monotonic()
        self.rounds.begin(pair.public.md5)
        self._take_schedule()
        self._open_doors(pair)
        if self._threads is not None:
            self._threads.start()
        if self._audit is not None:
            globalLogPublisher.addObserver(self._audit)
        super().startService()  # type: ignore[no-untyped-call]
        for watch in self._signals:
            watch.start()
        tell_problems(self.prepared.loaded.problems, self._log)
        first = self._grid.first
        runs = (
            "copies: {copies}, from {servers}, every {interval} s, for the first time"
            " in {first:.1f} s"
        )
        if not self.prepared.copies:
            runs = "nothing is to be copied: no runs but those that are asked for"
        self._log.info(
            runs + "; own key {key}; configuration: {configuration}",
            event="agent.started",
            copies=len(self.prepared.copies),
            servers=", ".join(map(str, self.prepared.servers)),
            interval=self.prepared.interval,
            first=first - self._started,
            key=pair.public.md5,
            configuration=self.prepared.loaded.description,
            pid=os.getpid(),
        )
        self._tell_machine(pair, first)
        self._living = Deferred.fromCoroutine(self._live(first))
        self._living.addErrback(self._died)

    def _tell_machine(self, pair: KeyPair, first: float) -> None:
        """
        Begin to send inventories.
        """
        if self._ways is None:
            return
        state = self.prepared.state
        self.sender = InventorySender(
            state,
            pair,
            self._share,
            self._ways(state, pair, self.pool),
            reactor=self._reactor,
            pool=self.pool,
            point=self.point,
            monotonic=self._monotonic,
            chance=self._chance,
            changed=lambda status: self.rounds.keeper.tell(inventory=status),
            log=self._log,
        )
        self.sender.begin(self.prepared.inventory, first)

    def _open_doors(self, pair: KeyPair) -> None:
        """
        Begin to listen for those who ask for runs, if the configuration says so, and
        the record of what they had.

        Raises:
            StartError: It cannot be done.
        """
        prepared = self.prepared
        self.listener = AgentListener(
            pair,
            reactor=self._reactor,
            follow=self.follow_run,
            changed=self._listens,
            log=self._log,
            workers=self._workers,
            now=self._now,
            monotonic=self._monotonic,
        )
        try:
            self._audit = open_audit(
                prepared.configuration.log.audit, self._reactor, self.pool
            )
            self.listener.start(prepared)
        except StartError:
            if self._audit is not None:
                self._audit.stop()
            self._release()
            raise

    def _take_lock(self, folder: str) -> None:
        path = os.path.join(folder, LOCK_NAME)
        lock = FolderLock(path)
        try:
            if not lock.take():
                raise StartError(
                    f"{path}: another agent runs with this state folder; stop it, or"
                    " give this one a folder of its own with --state-dir"
                )
        except OSError as error:
            raise StartError(os_error_text(error, path)) from error
        self._lock = lock

    def _take_schedule(self) -> None:
        prepared = self.prepared
        self._grid = Grid(self._started, self._share, prepared.interval, prepared.splay)

    # Living

    def _died(self, failure: Failure) -> None:
        self._log.failure(
            "a mistake of this program ended the agent",
            failure=failure,
            event="agent.failed",
        )
        self._reactor.stop()

    async def _live(self, due: float) -> None:
        reason = "start"
        await self.rounds.catch_up()
        while not self._stopping:
            reason = await self._wait(due, reason)
            if self._stopping:
                break
            began = self._monotonic()
            self._busy = True
            try:
                report = await self.rounds.make(reason)
            finally:
                self._busy = False
            if report is None:
                break
            self.events.run_over(ailments(self.status, running=True))
            if self.sender is not None:
                self.sender.run_over()
            due, reason = self._next(report, began)

    async def _wait(self, due: float, reason: str) -> str:
        """
        Wait until something is to be done; returns what for. Where nothing is to be
        copied, only what is asked for is to be done.
        """
        while not self._stopping and not self._asked:
            now = self._monotonic()
            left = due - now if self.prepared.copies else math.inf
            if left <= 0:
                return reason
            following = None if left == math.inf else self.point().later(left)
            await self.rounds.tell("waiting", following)
            if self._asked or self._stopping:
                break
            wake: Deferred[None] = Deferred()
            self._wake = wake
            timer: IDelayedCall | None = None
            if left < math.inf:
                timer = self._reactor.callLater(left, self._ring)
            try:
                await wake
            finally:
                self._wake = None
                if timer is not None and timer.active():
                    timer.cancel()
            if self._reloading:
                self._reloading = False
                if reason == "schedule":
                    due = self._grid.after(self._monotonic())
                elif reason == "start":
                    due = max(self._grid.first, self._monotonic())
        asked, self._asked = self._asked, ""
        return asked or reason

    def _ring(self) -> None:
        """
        End the wait, if there is one.
        """
        wake, self._wake = self._wake, None
        if wake is not None:
            wake.callback(None)

    def _next(self, report: RunReport, began: float) -> tuple[float, str]:
        """
        When the next run is due, and what for.
        """
        now = self._monotonic()
        due = self._grid.after(max(began, now))
        if report.succeeded:
            self._failures = 0
            return due, "schedule"
        self._failures += 1
        if report.heals:
            pause = pause_after(self._failures, self.prepared.interval, self._chance())
            if now + pause < due:
                return now + pause, "retry"
        return due, "schedule"

    # Telling

    @property
    def status(self) -> AgentStatus:
        """
        How it is doing.
        """
        return self.rounds.keeper.status

    def point(self) -> Point:
        """
        The present.
        """
        steady = self._steady()
        return Point(self._now(), steady.boot, steady.ns)

    # Signals

    def run_now(self, reason: str = BY_SIGNAL) -> None:
        """
        Make a run now; during a run, another one right after it.
        """
        self._log.info("a run is asked for", event="agent.run-asked")
        self._asked = reason
        if self.sender is not None:
            self.sender.hurry()
        self._ring()

    def follow_run(
        self, tell: Callable[[str], object], *, inventory: bool = False
    ) -> Follow:
        """
        Make a run now; during a run, another one right after it, for all who ask
        meanwhile: the one that is under way may have seen the servers before what
        made somebody ask.

        Args:
            tell: Takes each line that there is to say of it.
            inventory: Whether an inventory is to be sent, too.
        """
        follow = self.events.follow(tell, after=self._busy)
        if self._stopping:
            self.events.run_over(None)
            return follow
        if inventory:
            sends = self.sender is not None and self.sender.ask()
            tell("an inventory is sent, too" if sends else "no inventories are sent")
        if self._busy:
            tell("a run is under way; the one that is asked for follows it")
        self.run_now(BY_REQUEST)
        return follow

    def reload(self) -> bool:
        """
        Open the log files again, read the configuration again and put it in force for
        the next run; one with an error changes nothing. Returns whether it is in force.
        """
        reopen_or_tell(self._reopen_log, self._log)
        if self._audit is not None:
            self._audit.reopen()
        try:
            return self._reload()
        except Exception:
            self._log.failure("the configuration could not be loaded")
            return False

    def _reload(self) -> bool:
        prepared, loaded = self._reread()
        tell_problems(loaded.problems, self._log)
        reason = ""
        if prepared is not None and self._pair is not None:
            old = self.prepared
            prepared, waiting = kept_at_start(old, prepared)
            try:
                prepared = _for_this_node(prepared)
                check_account(prepared)
                connect = self._sources.open(prepared, self._pair, self.pool)
            except StartError as error:
                reason = str(error)
            else:
                self.prepared = prepared
                self._generation += 1
                self._take_schedule()
                self.rounds.take(prepared, connect)
                self._log.info(
                    "the configuration is in force ({configuration})",
                    event="config.loaded",
                    generation=self._generation,
                    configuration=loaded.description,
                )
                tell_waiting(waiting, self._log)
                if self.listener is not None:
                    self.listener.apply(prepared)
                if self.sender is not None:
                    self.sender.take(prepared.inventory)
                self._reloading = self._wake is not None
                self._ring()
                return True
        tell_rejected(loaded.problems, loaded.description, self._log, reason)
        return False

    def _listens(self, listening: tuple[str, ...]) -> None:
        self.rounds.keeper.tell(listening=listening)

    # Stopping

    def stopService(self) -> Deferred[None]:
        """
        End what is under way, leaving every destination as it is or wholly new, and
        let go of everything.
        """
        for watch in self._signals:
            watch.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        self._log.info("stopping", event="agent.stopping", busy=self.rounds.running)
        quiet: Deferred[None] | None = None
        if self.listener is not None:
            quiet = Deferred.fromCoroutine(self.listener.stop())
        self.events.run_over(None)
        self.rounds.stop()
        if self.sender is not None:
            await self.sender.stop()
        living = self._living
        if living is not None:
            if self.rounds.running:
                living.cancel()
            self._ring()
            await living
        if quiet is not None:
            await quiet
        await self.rounds.tell("stopped")
        if self._audit is not None:
            # The last words to those who asked come before this.
            globalLogPublisher.removeObserver(self._audit)
            await self._audit.stop()
        if self._threads is not None:
            self._threads.stop()
        self._release()
        super().stopService()  # type: ignore[no-untyped-call]
        self._log.info("stopped", event="agent.stopped")

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


def _for_this_node(prepared: PreparedAgent) -> PreparedAgent:
    """
    *prepared* with the id of this node, which is made if there is none, wherever the
    configuration means it.

    Raises:
        StartError: It means it, and there can be none.
    """
    if not prepared.means_node_id:
        return prepared
    try:
        return for_node(prepared, own_node_id(prepared.state))
    except NodeIdError as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(os_error_text(error, prepared.state)) from error
