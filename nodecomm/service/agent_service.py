# SPDX-License-Identifier: MIT
"""
The agent as a Twisted service: it keeps local copies those of a policy server.

It is one loop: wait, make all copies, run what follows, wait. Whatever asks for a run
or changes the configuration meanwhile only ends the wait, so that runs never overlap.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from nodecomm.client.protection import classic_warning
from nodecomm.identity.files import remove_leftovers
from nodecomm.server.pools import Pool, WorkerPool, Workers
from nodecomm.service.agent_after import Follower
from nodecomm.service.agent_events import AgentEvents
from nodecomm.service.agent_keeping import StatusKeeper
from nodecomm.service.agent_listener import AgentListener, check_account
from nodecomm.service.agent_pending import Pending, PendingFile
from nodecomm.service.agent_prepared import kept_at_start
from nodecomm.service.agent_run import Run, RunReport
from nodecomm.service.agent_schedule import Avoidance, Grid, pause_after, share_of
from nodecomm.service.agent_status import LOCK_NAME, AgentStatus, Point, State, ailments
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
    from nodecomm.client.address import ServerAddress
    from nodecomm.identity.keys import KeyPair
    from nodecomm.service.agent_events import Follow
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
        listener: Where others may ask for runs; None before the start.
    """

    def __init__(
        self,
        prepared: PreparedAgent,
        *,
        reactor: Any,
        reread: Callable[[], tuple[PreparedAgent | None, LoadedAgent]],
        sources: Sources,
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
        self._pair: KeyPair | None = None
        self._avoidance: Avoidance[ServerAddress] = Avoidance(chance)
        self._failures = 0
        self._generation = 1
        self._asked = ""
        self._reloading = False
        self._stopping = False
        self._busy = False
        self._running = False
        self._wake: Deferred[None] | None = None
        self._living: Deferred[None] | None = None

    # Starting

    def startService(self) -> None:
        """
        Make what is missing in the state folder, and begin.

        Raises:
            StartError: Something is in the way.
        """
        folder, reactor = self.prepared.state, self._reactor
        self._pair = pair = open_own_key(folder, self._log)
        self._take_lock(folder)
        try:
            self._connect = self._sources.open(self.prepared, pair, self.pool)
            remove_leftovers(folder, self._now())
            pending = PendingFile(folder)
            self._pending = pending.settle()
            self._keeper = StatusKeeper(
                folder,
                pool=self.pool,
                point=self.point,
                trouble=partial(reactor.callFromThread, self._state_trouble),
            )
        except OSError as error:
            raise StartError(os_error_text(error, folder)) from error
        self._follower = Follower(
            pending,
            pool=self.pool,
            reactor=self._reactor,
            point=self.point,
            log=self._log,
        )
        self._share = share_of(pair.public.md5)
        self._started = self._monotonic()
        self._keeper.begin(pair.public.md5)
        self._keeper.change(after_update_pending=self._pending.is_due)
        self._take_configuration()
        self._listen(pair)
        if self._threads is not None:
            self._threads.start()
        super().startService()  # type: ignore[no-untyped-call]
        for watch in self._signals:
            watch.start()
        tell_problems(self.prepared.loaded.problems, self._log)
        first = self._grid.first
        self._log.info(
            "copies: {copies}, from {servers}, every {interval} s, for the first time"
            " in {first:.1f} s; own key {key}; configuration: {configuration}",
            event="agent.started",
            copies=len(self.prepared.copies),
            servers=", ".join(map(str, self.prepared.servers)),
            interval=self.prepared.interval,
            first=first - self._started,
            key=pair.public.md5,
            configuration=self.prepared.loaded.description,
            pid=os.getpid(),
        )
        self._living = Deferred.fromCoroutine(self._live(first))
        self._living.addErrback(self._died)

    def _listen(self, pair: KeyPair) -> None:
        """
        Begin to listen for those who ask for runs, if the configuration says so.

        Raises:
            StartError: It cannot be done.
        """
        self.listener = listener = AgentListener(
            pair,
            reactor=self._reactor,
            follow=self.follow_run,
            log=self._log,
            workers=self._workers,
            now=self._now,
            monotonic=self._monotonic,
        )
        try:
            listener.start(self.prepared)
        except StartError:
            self._release()
            raise
        self._keeper.change(listening=listener.listening)

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

    def _take_configuration(self) -> None:
        prepared = self.prepared
        self._grid = Grid(self._started, self._share, prepared.interval, prepared.splay)
        self._keeper.configured(prepared)

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
        if self._pending.is_complete:
            # Killed between putting a set in place and what follows.
            await self._follow(self._pending)
        while not self._stopping:
            reason = await self._wait(due, reason)
            if self._stopping:
                break
            began = self._monotonic()
            self._busy = True
            try:
                report = await self._run(reason)
            finally:
                self._busy = False
            if report is None:
                break
            self.events.run_over(ailments(self.status, running=True))
            due, reason = self._next(report, began)

    async def _wait(self, due: float, reason: str) -> str:
        """
        Wait until something is to be done; returns what for.
        """
        while not self._stopping and not self._asked:
            now = self._monotonic()
            if now >= due:
                return reason
            await self._tell("waiting", self.point().later(due - now))
            if self._asked or self._stopping:
                break
            wake: Deferred[None] = Deferred()
            self._wake = wake
            timer = self._reactor.callLater(max(due - now, 0.0), self._ring)
            try:
                await wake
            finally:
                self._wake = None
                if timer.active():
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

    async def _run(self, reason: str) -> RunReport | None:
        """
        One run and what follows; None if it was stopped.
        """
        prepared = self.prepared
        began = self.point()
        self._log.info(
            "a run begins ({reason})", event="agent.run-started", reason=reason
        )
        self._warn(prepared)
        await self._tell("running")
        await self._settle()
        if self._stopping:
            return None
        run = Run(
            prepared.servers,
            self._connect,
            self._avoidance,
            self._monotonic,
            self._follower.pending if prepared.command else None,
            classic=prepared.configuration.agent.protocol == "classic",
            log=self._log,
        )
        self._running = True
        try:
            report = await run.make(prepared.copies)
        except CancelledError:
            self._log.info(
                "the run was ended; what it had not put in place stays as it was",
                event="agent.run-stopped",
            )
            self._keeper.change(
                last_attempt=self._keeper.attempt(began, reason, "stopped")
            )
            return None
        finally:
            self._running = False
        outcome: Literal["succeeded", "failed"]
        outcome = "succeeded" if report.succeeded else "failed"
        attempt = self._keeper.attempt(began, reason, outcome)
        self._keeper.ended(report, attempt)
        await self._finish(report, prepared, attempt.seconds)
        return report

    def _warn(self, prepared: PreparedAgent) -> None:
        """
        State it if nothing protects what will be sent.
        """
        agent = prepared.configuration.agent
        if agent.protocol == "classic":
            servers = ", ".join(map(str, prepared.servers))
            self._log.warn(
                "{text}",
                event="agent.unprotected",
                text=classic_warning(servers, encrypt=agent.encrypt),
                servers=[str(server) for server in prepared.servers],
                encrypt=agent.encrypt,
            )

    async def _settle(self) -> None:
        try:
            self._pending = await self.pool.run(self._follower.pending.settle)
        except OSError as error:
            self._state_trouble(error)

    async def _finish(
        self, report: RunReport, prepared: PreparedAgent, seconds: float
    ) -> None:
        failed = sum(copy.outcome == "failed" for copy in report.copies)
        say = self._log.info if report.succeeded else self._log.error
        say(
            "the run is over after {seconds:.2f} s; copies: {copies}, changed:"
            " {changed}, failed: {failed}",
            event="agent.run-ended",
            seconds=seconds,
            copies=len(report.copies),
            changed=sum(copy.outcome == "updated" for copy in report.copies),
            failed=failed,
        )
        if report.server is not None:
            key = await self.pool.run(self._sources.server_key, report.server)
            self._keeper.change(server=str(report.server), server_key=key)
        try:
            look = self._follower.pending
            done = report.succeeded and prepared.command
            self._pending = await self.pool.run(look.completed if done else look.settle)
        except OSError as error:
            self._state_trouble(error)
            return
        if report.succeeded:
            await self._follow(self._pending)
        elif self._pending.is_due:
            self._log.warn(
                "after_update waits for a run in which every copy succeeds",
                event="agent.after-update-waits",
            )

    async def _follow(self, pending: Pending) -> None:
        """
        Run `after_update` if it is due.
        """
        prepared = self.prepared
        if pending.is_due and prepared.command:
            await self._tell("after-update")
        try:
            ended = await self._follower.run(
                prepared.command, prepared.command_timeout, pending
            )
            self._pending = await self.pool.run(self._follower.pending.load)
        except OSError as error:
            self._state_trouble(error)
            return
        if ended is not None:
            self._keeper.change(after_update=ended)

    def _tell(self, state: State, next_run: Point | None = None) -> Deferred[None]:
        return self._keeper.tell(
            state=state,
            next_run=next_run,
            after_update_pending=self._pending.is_due,
        )

    # Telling

    @property
    def status(self) -> AgentStatus:
        """
        How it is doing.
        """
        return self._keeper.status

    def point(self) -> Point:
        """
        The present.
        """
        steady = self._steady()
        return Point(self._now(), steady.boot, steady.ns)

    def _state_trouble(self, error: OSError) -> None:
        self._log.error(
            "the agent's own state cannot be read or written: {reason}; make room, or"
            " correct the folder's owner and mode",
            event="agent.state-failed",
            reason=os_error_text(error, self.prepared.state),
        )

    # Signals

    def run_now(self, reason: str = "signal") -> None:
        """
        Make a run now; during a run, another one right after it.
        """
        self._log.info("a run is asked for", event="agent.run-asked")
        self._asked = reason
        self._ring()

    def follow_run(self, tell: Callable[[str], object]) -> Follow:
        """
        Make a run now, or join the one that is under way.

        Args:
            tell: Takes each line that there is to say of it.
        """
        follow = self.events.follow(tell)
        if self._stopping:
            self.events.run_over(None)
        elif self._busy:
            tell("a run is under way and is joined")
        else:
            self.run_now("request")
        return follow

    def reload(self) -> bool:
        """
        Open the log files again, read the configuration again and put it in force for
        the next run; one with an error changes nothing. Returns whether it is in force.
        """
        reopen_or_tell(self._reopen_log, self._log)
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
                check_account(prepared)
                self._connect = self._sources.open(prepared, self._pair, self.pool)
            except StartError as error:
                reason = str(error)
            else:
                self.prepared = prepared
                self._generation += 1
                self._take_configuration()
                self._log.info(
                    "the configuration is in force ({configuration})",
                    event="config.loaded",
                    generation=self._generation,
                    configuration=loaded.description,
                )
                tell_waiting(waiting, self._log)
                if self.listener is not None:
                    self.listener.apply(prepared).addCallback(self._listens)
                self._reloading = self._wake is not None
                self._ring()
                return True
        tell_rejected(loaded.problems, loaded.description, self._log, reason)
        return False

    def _listens(self, listening: tuple[str, ...]) -> None:
        self._keeper.change(listening=listening)

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
        self._log.info("stopping", event="agent.stopping", busy=self._running)
        quiet: Deferred[None] | None = None
        if self.listener is not None:
            quiet = Deferred.fromCoroutine(self.listener.stop())
        self.events.run_over(None)
        self._follower.stop()
        living = self._living
        if living is not None:
            if self._running:
                living.cancel()
            self._ring()
            await living
        if quiet is not None:
            await quiet
        self._keeper.change(listening=())
        await self._tell("stopped")
        if self._threads is not None:
            self._threads.stop()
        self._release()
        super().stopService()  # type: ignore[no-untyped-call]
        self._log.info("stopped", event="agent.stopped")

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
