# SPDX-License-Identifier: MIT
"""
Where an agent lets others ask for a run, and for nothing else.

A server like any other, of which little is left: over TLS only, for keys that are known
beforehand, with two commands.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nodecomm import __version__
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.config.model import LimitSettings
from nodecomm.server.commands import command_table
from nodecomm.server.commands.execute import ExecuteCommand
from nodecomm.server.commands.version import VersionCommand
from nodecomm.server.events import EventLog
from nodecomm.server.execution.accounts import AccountError, find_account
from nodecomm.server.execution.runner import Runner
from nodecomm.server.factory import TLSFactory
from nodecomm.server.requests import Refused
from nodecomm.service.agent_snapshot import caller_trust
from nodecomm.service.agent_sync import AgentExecutable
from nodecomm.service.listening import (
    ListenError,
    begin_listening,
    listen_all,
    port_number,
    stop_listening,
)
from nodecomm.service.own_state import StartError
from nodecomm.transport.context import server_context

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort
    from twisted.logger import Logger

    from nodecomm.identity.keys import KeyPair
    from nodecomm.identity.peer import Peer
    from nodecomm.identity.trust import TrustPolicy
    from nodecomm.server.pools import Workers
    from nodecomm.service.agent_prepared import PreparedAgent
    from nodecomm.service.agent_sync import FollowRun

__all__ = ["AgentListener", "check_account"]

#: A node is asked by few, and does other work: what strangers can cost is little.
LIMITS = LimitSettings(
    connections_before_trust=50,
    connections_per_address=20,
    handshakes_at_once=8,
    name_lookups_at_once=4,
    disk_threads=1,
    digest_threads=1,
    crypto_threads=1,
    digest_cache_entries=0,
)

#: Connections at a time.
MOST_CONNECTIONS = 100


class AgentListener:
    """
    The listener of one agent, if its configuration has one.

    Args:
        pair: This machine's key.
        reactor: Drives all of it.
        follow: Has a run of the agent made, now or right after the one that is under
            way.
        changed: Takes the endpoints at which it listens, whenever they are others.
        log: Takes what it states.
        workers: Threads for what may wait; None: threads of its own.
        now: Civil time in seconds.
        monotonic: Seconds of a clock that nobody sets.

    Attributes:
        factory: What serves; None while it listens nowhere.
        ports: The ports by endpoint string.
        trust: Who may connect.
    """

    def __init__(
        self,
        pair: KeyPair,
        *,
        reactor: Any,
        follow: FollowRun,
        changed: Callable[[tuple[str, ...]], object],
        log: Logger,
        workers: Workers | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.factory: TLSFactory | None = None
        self.ports: dict[str, list[IListeningPort]] = {}
        self._pair = pair
        self._reactor = reactor
        self._changed = changed
        self._log = log
        self._workers = workers
        self._now = now
        self._monotonic = monotonic
        self._runner = Runner(
            reactor,
            executable=AgentExecutable(reactor, follow, monotonic),
            monotonic=monotonic,
        )

    @property
    def listening(self) -> tuple[str, ...]:
        """
        The endpoints at which it listens.
        """
        return tuple(self.ports)

    def start(self, prepared: PreparedAgent) -> None:
        """
        Listen where *prepared* says.

        Raises:
            StartError: It cannot be done. An endpoint that takes its time to listen
                fails later, by a critical event and the end of the reactor.
        """
        if not prepared.listen:
            return

        def failed(failure: Failure) -> None:
            self._log.critical(
                "{reason}", event="listen.failed", reason=failure.getErrorMessage()
            )
            self._reactor.stop()

        check_account(prepared)
        self._take(prepared)
        begin_listening(self._begin(prepared), failed)

    async def _begin(self, prepared: PreparedAgent) -> None:
        self.ports.update(await self._open(prepared.listen))
        self._tell(prepared)

    def apply(self, prepared: PreparedAgent) -> Deferred[tuple[str, ...]]:
        """
        Put *prepared* in force: whom to let in and what to run for them, at once, and
        where to listen. If a new address cannot be had, that is stated and the old ones
        stay.

        Returns:
            The endpoints at which it listens then. Never fails.
        """
        return Deferred.fromCoroutine(self._apply(prepared)).addErrback(self._failed)

    async def _apply(self, prepared: PreparedAgent) -> tuple[str, ...]:
        before = self.listening
        self._take(prepared)
        fresh = tuple(each for each in prepared.listen if each not in self.ports)
        try:
            opened = await self._open(fresh)
        except ListenError as error:
            self._log.error(
                "{reason}; the agent listens where it did before",
                event="listen.failed",
                reason=str(error),
            )
            return self.listening
        self.ports.update(opened)
        for endpoint in before:
            if endpoint not in prepared.listen:
                await self._close(endpoint)
        if not self.ports:
            self._retire()
        if self.listening != before:
            self._tell(prepared)
        return self.listening

    def _retire(self) -> None:
        """
        Nobody can come any more: let those who are here end, and the threads with
        them. Threads that have ended do not begin again, so the next time it is
        another factory.
        """
        factory, self.factory = self.factory, None
        if factory is not None:
            factory.stop(LIMITS.stop_grace)

    def _failed(self, failure: Failure) -> tuple[str, ...]:
        self._log.failure("the agent's listener could not be changed", failure=failure)
        return self.listening

    async def stop(self) -> None:
        """
        Listen no longer, and end what runs for others. The agent's own run is not
        ended by this.
        """
        for endpoint in self.listening:
            await self._close(endpoint)
        self._changed(())
        await self._runner.stop(LIMITS.stop_grace)
        if self.factory is not None:
            await self.factory.stop(LIMITS.stop_grace)

    def _take(self, prepared: PreparedAgent) -> None:
        """
        Let in whom *prepared* names, and run for them what it says.
        """
        self.trust = caller_trust(prepared)
        self._runner.apply(prepared.configuration.run)
        if self.factory is None:
            if prepared.listen:
                self.factory = self._make(prepared)
                self._runner.find_hostname()
            return
        self.factory.trust = cast("TrustPolicy", self.trust)
        self.factory.serving.evaluator.snapshot = prepared.snapshot

    def _make(self, prepared: PreparedAgent) -> TLSFactory:
        try:
            context = server_context(self._pair)
        except ValueError as error:
            raise StartError(str(error)) from error
        factory = TLSFactory(
            self._reactor,
            context=context,
            # The same two questions, and no windows.
            trust=cast("TrustPolicy", self.trust),
            evaluator=AccessEvaluator(prepared.snapshot),
            limits=LIMITS,
            max_connections=MOST_CONNECTIONS,
            manifest_max_age=0,
            # The log leaves out what nobody wants to see.
            events=EventLog(verbose=True),
            workers=self._workers,
            now=self._now,
            monotonic=self._monotonic,
            product=b"nodecomm-agent " + __version__.encode("ascii"),
        )
        factory.commands = command_table(
            [VersionCommand(), ExecuteCommand(self._check)]
        )
        factory.serving.execution = self._runner
        # However many strangers do nothing here, who may ask for a run gets in.
        factory.makes_room = True
        return factory

    def _check(self, peer: Peer) -> None:
        """
        Find out whether the peer may ask for a run at this moment: its key may have
        been forgotten since it connected.

        Raises:
            Refused: It may not.
        """
        decision = self.trust.check_key(peer.key, peer.address)
        if not decision.trusted:
            raise Refused(decision.code, decision.text)

    async def _open(
        self, endpoints: tuple[str, ...]
    ) -> dict[str, list[IListeningPort]]:
        """
        Listen on all *endpoints*, or on none.
        """
        if not endpoints:
            return {}
        assert self.factory is not None  # noqa: S101
        return await listen_all(self._reactor, endpoints, self.factory, "agent")

    def _tell(self, prepared: PreparedAgent) -> None:
        self._changed(self.listening)
        execution = prepared.snapshot.execution
        command = None if execution is None else execution.command
        if not self.ports:
            self._log.info(
                "nobody can ask for a run any more",
                event="agent.listening",
                listen=[],
                command=command,
            )
            return
        numbers = [port_number(port) for ports in self.ports.values() for port in ports]
        self._log.info(
            "others may ask for runs at {log_listen}",
            event="agent.listening",
            log_listen=", ".join(self.ports),
            listen=list(self.ports),
            ports=[number for number in numbers if number],
            command=command,
        )

    async def _close(self, endpoint: str) -> None:
        await stop_listening(self.ports.pop(endpoint))


def check_account(prepared: PreparedAgent) -> None:
    """
    Find out whether a program can be run as the user that *prepared* names.

    Raises:
        StartError: It cannot.
    """
    execution = prepared.snapshot.execution
    if not prepared.listen or execution is None or execution.program is None:
        return
    try:
        find_account(execution.user)
    except AccountError as error:
        raise StartError(f"agent.cfrunuser: {error}") from error
