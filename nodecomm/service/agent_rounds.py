# SPDX-License-Identifier: MIT
"""
The runs of an agent: each makes all copies, and then runs what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from twisted.internet.defer import CancelledError

from nodecomm.client.protection import classic_warning
from nodecomm.service.agent_after import Follower
from nodecomm.service.agent_keeping import StatusKeeper
from nodecomm.service.agent_pending import Pending, PendingFile
from nodecomm.service.agent_run import Run
from nodecomm.service.own_state import os_error_text

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.logger import Logger

    from nodecomm.client.address import ServerAddress
    from nodecomm.server.pools import Pool
    from nodecomm.service.agent_prepared import PreparedAgent
    from nodecomm.service.agent_run import RunReport, Source
    from nodecomm.service.agent_schedule import Avoidance
    from nodecomm.service.agent_status import Point, State

__all__ = ["BY_REQUEST", "BY_SIGNAL", "AgentRounds"]

#: What a run is for that somebody has asked for, by a signal or through the listener.
BY_SIGNAL, BY_REQUEST = "signal", "request"

#: Makes what brings copies from one server.
Connect = Callable[["ServerAddress"], "Source"]


class AgentRounds:
    """
    Makes runs, one at a time, and keeps the status.

    Args:
        prepared: The configuration.
        connect: Makes what brings copies.
        reactor: Takes what threads say.
        pool: Runs what blocks.
        avoidance: Which servers are tried last.
        server_key: The digests of the key that is stored for a server. Blocks.
        point: The present.
        monotonic: Seconds of a clock that nobody sets.
        log: States what comes of it.

    Attributes:
        prepared: The configuration, which the next run goes by.
        keeper: Keeps the status.
        follower: Runs what follows an update.
        running: Whether copies are being made.

    Raises:
        OSError: The agent's own state cannot be read.
    """

    def __init__(
        self,
        prepared: PreparedAgent,
        connect: Connect,
        *,
        reactor: Any,
        pool: Pool,
        avoidance: Avoidance[ServerAddress],
        server_key: Callable[[ServerAddress], str],
        point: Callable[[], Point],
        monotonic: Callable[[], float],
        log: Logger,
    ) -> None:
        self.prepared = prepared
        self.running = False
        self._connect = connect
        self._pool = pool
        self._avoidance = avoidance
        self._server_key = server_key
        self._point = point
        self._monotonic = monotonic
        self._log = log
        self._stopping = False
        pending = PendingFile(prepared.state)
        self._pending = pending.settle()
        self.keeper = StatusKeeper(
            prepared.state,
            pool=pool,
            point=point,
            trouble=partial(reactor.callFromThread, self._state_trouble),
        )
        self.follower = Follower(
            pending, pool=pool, reactor=reactor, point=point, log=log
        )

    def begin(self, own_key: str) -> None:
        """
        A process begins, of the machine with this key.
        """
        self.keeper.begin(own_key)
        self.keeper.change(after_update_pending=self._pending.is_due)
        self.keeper.configured(self.prepared)

    def take(self, prepared: PreparedAgent, connect: Connect) -> None:
        """
        Go by *prepared* from the next run on.
        """
        self.prepared = prepared
        self._connect = connect
        self.keeper.configured(prepared)

    def stop(self) -> None:
        """
        Begin nothing more, and end what follows an update. A run ends when who awaits
        it is cancelled.
        """
        self._stopping = True
        self.follower.stop()

    async def catch_up(self) -> None:
        """
        Run what is due for a run of before: the agent was killed between putting a set
        in place and what follows.
        """
        if self._pending.is_complete:
            await self._follow(self._pending)

    async def make(self, reason: str) -> RunReport | None:
        """
        One run and what follows; None if it was stopped.
        """
        prepared = self.prepared
        began = self._point()
        self._log.info(
            "a run begins ({reason})", event="agent.run-started", reason=reason
        )
        self._warn(prepared)
        await self.tell("running")
        await self._settle()
        if self._stopping:
            return None
        run = Run(
            prepared.servers,
            self._connect,
            self._avoidance,
            self._monotonic,
            self.follower.pending if prepared.command else None,
            classic=prepared.configuration.agent.protocol == "classic",
            log=self._log,
        )
        self.running = True
        try:
            # Whoever asks has changed something just now, and expects it here.
            new = reason in (BY_SIGNAL, BY_REQUEST)
            report = await run.make(prepared.copies, new=new)
        except CancelledError:
            self._log.info(
                "the run was ended; what it had not put in place stays as it was",
                event="agent.run-stopped",
            )
            self.keeper.change(
                last_attempt=self.keeper.attempt(began, reason, "stopped")
            )
            return None
        finally:
            self.running = False
        outcome: Literal["succeeded", "failed"]
        outcome = "succeeded" if report.succeeded else "failed"
        attempt = self.keeper.attempt(began, reason, outcome)
        self.keeper.ended(report, attempt)
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
            self._pending = await self._pool.run(self.follower.pending.settle)
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
            key = await self._pool.run(self._server_key, report.server)
            self.keeper.change(server=str(report.server), server_key=key)
        try:
            look = self.follower.pending
            done = report.succeeded and prepared.command
            self._pending = await self._pool.run(
                look.completed if done else look.settle
            )
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
            await self.tell("after-update")
        try:
            ended = await self.follower.run(
                prepared.command, prepared.command_timeout, pending
            )
            self._pending = await self._pool.run(self.follower.pending.load)
        except OSError as error:
            self._state_trouble(error)
            return
        if ended is not None:
            self.keeper.change(after_update=ended)

    def tell(self, state: State, next_run: Point | None = None) -> Deferred[None]:
        """
        Write the status: what the agent does, and when the next run is due.
        """
        return self.keeper.tell(
            state=state,
            next_run=next_run,
            after_update_pending=self._pending.is_due,
        )

    def _state_trouble(self, error: OSError) -> None:
        self._log.error(
            "the agent's own state cannot be read or written: {reason}; make room, or"
            " correct the folder's owner and mode",
            event="agent.state-failed",
            reason=os_error_text(error, self.prepared.state),
        )
