# SPDX-License-Identifier: MIT
"""
The policy server as a Twisted service: everything wired from a configuration, kept
running through reloads, and taken down in order.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.identity.files import remove_leftovers
from nodecomm.identity.own import KEYS_FOLDER
from nodecomm.identity.pins import PINS_NAME, PinnedDigests
from nodecomm.identity.store import FileKeyStore
from nodecomm.identity.trust import TrustPolicy
from nodecomm.server.events import EventLog
from nodecomm.server.execution.runner import Runner
from nodecomm.server.factory import ClassicFactory, PortFactory, TLSFactory
from nodecomm.server.pools import WorkerPool
from nodecomm.service.audit import AuditLog, open_audit
from nodecomm.service.classic import tell_classic
from nodecomm.service.listening import (
    ListenError,
    begin_listening,
    listen_all,
    port_number,
    stop_listening,
)
from nodecomm.service.logs import Verbosity
from nodecomm.service.own_state import StartError, open_own_key, os_error_text
from nodecomm.service.prepared import Prepared, state_folder
from nodecomm.service.reloading import (
    apply,
    connections_that_fit,
    folders_gone,
    needs_restart,
    run_user_problems,
    visits_that_fit,
)
from nodecomm.service.signals import SignalWatch
from nodecomm.service.telling import (
    reopen_or_tell,
    tell_problems,
    tell_rejected,
    tell_waiting,
)
from nodecomm.service.windows import WindowTeller
from nodecomm.storage.database import DATABASE_NAME, Database, connect
from nodecomm.storage.digests import DigestTable
from nodecomm.storage.migrations import DatabaseTooNew
from nodecomm.storage.seen import SeenTable
from nodecomm.storage.windows import WindowCounter
from nodecomm.transport.context import server_context

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort, IProtocolFactory

    from nodecomm.config.model import Settings
    from nodecomm.identity.keys import KeyPair
    from nodecomm.service.inventory_receiving import InventoryReceiver
    from nodecomm.service.loading import Loaded
    from nodecomm.service.nodes_followed import NodesFollowed
    from nodecomm.storage.postgres_database import PostgresDatabase

__all__ = ["ServerService", "StartError"]


class ServerService(MultiService):
    """
    A policy server.

    Everything that can go wrong at start does so in `startService`, as one
    `StartError`; an endpoint that takes its time to listen fails later, by a
    critical event and the end of the reactor.

    Args:
        prepared: The configuration to start with.
        reactor: Drives all of it.
        reread: Reads the configuration again, for `reload`.
        verbosity: How much is stated.
        reopen_log: Called when log files are to be opened again.
        handle_signals: Whether SIGHUP reloads.
        ready: Called with the first TCP port's number (0: none) once the server
            listens.
        now: Civil time in seconds.
        monotonic: Seconds of a clock that nobody sets.

    Attributes:
        prepared: The configuration in force.
        factory: What serves; None before the start.
        key_pair: This machine's key; None before the start.
        ports: The ports by endpoint string.
    """

    _log = Logger()

    def __init__(
        self,
        prepared: Prepared,
        *,
        reactor: Any,
        reread: Callable[[int], tuple[Prepared | None, Loaded]],
        verbosity: Verbosity = Verbosity.NORMAL,
        reopen_log: Callable[[], object] = lambda: None,
        handle_signals: bool = False,
        ready: Callable[[int], object] = lambda port: None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prepared = prepared
        self.factory: TLSFactory | None = None
        self.key_pair: KeyPair | None = None
        self.ports: dict[str, list[IListeningPort]] = {}
        self._reactor = reactor
        self._reread = reread
        self._verbosity = verbosity
        self._reopen_log = reopen_log
        self._ready = ready
        self._now = now
        self._monotonic = monotonic
        self._generation = prepared.snapshot.generation
        self._signal = (
            SignalWatch(signal.SIGHUP, reactor, self.reload) if handle_signals else None
        )
        self._windows: WindowTeller | None = None
        self._above: IProtocolFactory | None = None
        self._audit: AuditLog | None = None
        self._files: WorkerPool | None = None
        self._database: Database | None = None
        self._shared: PostgresDatabase | None = None
        self._seen: SeenTable | None = None
        self._digests: DigestTable | None = None
        self._runner: Runner | None = None
        self._nodes: NodesFollowed | None = None
        self._inventories: InventoryReceiver | None = None

    @property
    def settings(self) -> Settings:
        """
        The configuration in force.
        """
        return self.prepared.settings

    # Starting

    def startService(self) -> None:
        """
        Make what is missing in the state folder, and listen.

        Raises:
            StartError: Something is in the way.
        """
        self._build()

        def failed(failure: Failure) -> None:
            self._log.critical(
                "{reason}", event="server.failed", reason=failure.getErrorMessage()
            )
            self._reactor.stop()

        try:
            begin_listening(self._listen(), failed)
        except BaseException:
            if self._audit is not None:
                self._audit.stop()
            raise
        super().startService()  # type: ignore[no-untyped-call]
        if self._signal is not None:
            self._signal.start()

    def _build(self) -> None:
        """
        Everything but listening; no thread runs yet.
        """
        settings = self.settings
        for problem in run_user_problems(settings):
            raise StartError(str(problem))
        folder = state_folder(settings)
        keys = os.path.join(folder, KEYS_FOLDER)
        self.key_pair = pair = open_own_key(folder, self._log)
        try:
            context = server_context(
                pair,
                ciphers=settings.server.allowciphers,
                min_version=settings.server.allowtlsversion,
            )
        except ValueError as error:
            raise StartError(str(error)) from error
        remove_leftovers(keys, self._now())
        self._files = WorkerPool(self._reactor, "nodecomm-files", 2)
        self._audit = open_audit(settings.log.audit, self._reactor, self._files)
        self._database = database = self._open_database(folder)
        if settings.inventory is not None:
            from nodecomm.service.shared_keys import (  # noqa: PLC0415
                open_shared_keys,
            )

            self._shared = open_shared_keys(settings, folder, self._reactor)
        self._seen = SeenTable(self._shared or database, self._reactor, self._now)
        limits = settings.limits
        if limits.digest_cache_entries:
            self._digests = DigestTable(
                database, self._reactor, limit=limits.digest_cache_entries
            )
        trust = TrustPolicy(
            FileKeyStore(keys, now=self._now, run=self._files.run),
            self.prepared.windows,
            settings.server.trustusers,
            WindowCounter(self._shared or database),
            self._now,
            pins=PinnedDigests(os.path.join(folder, PINS_NAME), self._now),
            seen=self._seen,
        )
        self._windows = WindowTeller(trust, self._reactor)
        self._runner = Runner(self._reactor, settings.run, monotonic=self._monotonic)
        self.factory = TLSFactory(
            self._reactor,
            context=context,
            trust=trust,
            evaluator=AccessEvaluator(self.prepared.snapshot),
            sources=self.prepared.sources,
            commands=self.prepared.commands,
            limits=limits,
            max_connections=self._max_connections(settings),
            deny_bad_clocks=settings.server.denybadclocks,
            manifest_max_age=settings.server.manifest_max_age,
            digests=self._digests,
            seen=self._seen,  # type: ignore[arg-type]  # knows two directions only
            execution=self._runner,
            events=EventLog(
                verbose=self._verbosity >= Verbosity.VERBOSE or self._audit is not None,
                dialogue=self._verbosity >= Verbosity.DEBUG,
            ),
            now=self._now,
            monotonic=self._monotonic,
        )
        classic = ClassicFactory.beside(self.factory, pair)
        self._above = PortFactory(self.factory, classic)
        if settings.inventory is not None:
            # It brings a web server along, which others need not load.
            from nodecomm.service.inventory_receiving import (  # noqa: PLC0415
                InventoryReceiver,
            )
            from nodecomm.service.nodes_followed import (  # noqa: PLC0415
                NodesFollowed,
            )

            self._nodes = nodes = NodesFollowed(
                settings,
                folder,
                self.factory,
                self._files,
                reactor=self._reactor,
                now=self._now,
                monotonic=self._monotonic,
            )
            self._inventories = InventoryReceiver(
                settings, folder, pair, nodes, reactor=self._reactor, now=self._now
            )

    def _open_database(self, folder: str) -> Database:
        path = os.path.join(folder, DATABASE_NAME)
        try:
            # Once before any thread is there, so that what is wrong with the file
            # is told at start.
            connect(path).close()
        except (sqlite3.Error, DatabaseTooNew) as error:
            raise StartError(f"{path}: {error}") from error
        except OSError as error:
            raise StartError(os_error_text(error, path)) from error
        return Database(path, self._reactor)

    def _max_connections(self, settings: Settings) -> int:
        asked = settings.server.maxconnections
        besides = 0
        if settings.inventory is not None:
            besides = visits_that_fit(settings.inventory.connections)
        fit, descriptors = connections_that_fit(asked, besides)
        if fit < asked:
            self._log.warn(
                "maxconnections is {value} instead of {asked}: this process may have"
                " {descriptors} descriptors open (ulimit -Hn, or LimitNOFILE= of"
                " systemd)",
                event="limit.lowered",
                limit="maxconnections",
                asked=asked,
                value=fit,
                descriptors=descriptors,
            )
        return fit

    async def _listen(self) -> None:
        opened = await self._open_ports(self.settings.server.listen)
        if self._inventories is not None:
            try:
                await self._inventories.listen()
            except ListenError:
                for ports in opened.values():
                    # Nobody waits for what is given up: who started hears at once.
                    Deferred.fromCoroutine(stop_listening(ports))
                raise
        # Now that nothing is in the way, the threads may start.
        self.ports.update(opened)
        if self._files is not None:
            self._files.start()
        for started in (self._database, self._shared):
            if started is not None:
                started.start().addErrback(self._database_failed)
        if self._audit is not None:
            globalLogPublisher.addObserver(self._audit)
        if self._nodes is not None:
            await self._nodes.start()
        if self._inventories is not None:
            await self._inventories.start()
        tell_problems(self.prepared.loaded.problems, self._log)
        assert self.key_pair is not None  # noqa: S101
        numbers = [port_number(port) for ports in opened.values() for port in ports]
        self._log.info(
            "serving on {listen} with the key {key}; configuration: {configuration}",
            event="server.started",
            listen=", ".join(opened),
            key=self.key_pair.public.md5,
            configuration=self.prepared.loaded.description,
            pid=os.getpid(),
        )
        tell_classic(self.settings, self._log)
        if self._windows is not None:
            self._windows.start()
        self._find_hostname()
        self._ready(next((number for number in numbers if number), 0))

    async def _open_ports(
        self, endpoints: tuple[str, ...]
    ) -> dict[str, list[IListeningPort]]:
        """
        Listen on all *endpoints*, or on none.
        """
        assert self._above is not None  # noqa: S101
        return await listen_all(self._reactor, endpoints, self._above)

    def _database_failed(self, failure: Failure) -> None:
        # Trusted peers are still served; those on first use and digests suffer.
        self._log.error(
            "the database cannot be used: {reason}",
            event="database.failed",
            reason=failure.getErrorMessage(),
        )

    # Reloading

    def reload(self) -> Deferred[bool]:
        """
        Open the log files again, read the configuration again and put it in force;
        one with an error changes nothing.

        Returns:
            Whether the new configuration is in force. Never fails.
        """
        return Deferred.fromCoroutine(self._reload()).addErrback(self._reload_failed)

    def _reload_failed(self, failure: Failure) -> bool:
        self._log.failure("the configuration could not be loaded", failure=failure)
        return False

    async def _reload(self) -> bool:
        reopen_or_tell(self._reopen_log, self._log)
        if self._audit is not None:
            self._audit.reopen()
        prepared, loaded = self._reread(self._generation + 1)
        if prepared is not None:
            wrong = folders_gone(self.prepared.snapshot, prepared.snapshot)
            wrong += run_user_problems(prepared.settings)
            if wrong:
                prepared, loaded = None, loaded.with_problems(wrong)
        tell_problems(loaded.problems, self._log)
        if prepared is None or self.factory is None:
            tell_rejected(loaded.problems, loaded.description, self._log)
            return False
        old = self.settings
        waiting = needs_restart(old, prepared.settings)
        if not await self._move_ports(prepared.settings):
            waiting.append("server.listen")
        self._generation = prepared.snapshot.generation
        self.prepared = prepared
        snapshot = prepared.snapshot
        if self._nodes is not None:
            self._nodes.apply(prepared.settings)
            snapshot = self._nodes.in_force(snapshot)
        most = self._max_connections(prepared.settings)
        apply(self.factory, prepared, most, snapshot)
        if self._inventories is not None:
            waiting += await self._inventories.apply(prepared.settings)
        self._log.info(
            "the configuration is in force, generation {generation} ({configuration})",
            event="config.loaded",
            generation=self._generation,
            configuration=prepared.loaded.description,
        )
        tell_waiting(waiting, self._log)
        tell_classic(prepared.settings, self._log, before=old)
        if self._windows is not None:
            self._windows.changed()
        self._find_hostname()
        return True

    def _find_hostname(self) -> None:
        """
        Only whoever selects nodes for a run needs it.
        """
        if self._runner is not None and self.settings.server.cfruncommand:
            self._runner.find_hostname()

    async def _move_ports(self, settings: Settings) -> bool:
        """
        Listen where *settings* say, and no longer elsewhere. When a new address
        cannot be had nothing changes, and the answer is False.
        """
        wanted = settings.server.listen
        fresh = tuple(each for each in wanted if each not in self.ports)
        try:
            opened = await self._open_ports(fresh)
        except ListenError as error:
            self._log.error("{reason}", event="listen.failed", reason=str(error))
            return False
        self.ports.update(opened)
        for endpoint in [each for each in self.ports if each not in wanted]:
            await self._close(endpoint)
        return True

    async def _close(self, endpoint: str) -> None:
        await stop_listening(self.ports.pop(endpoint))

    # Stopping

    def stopService(self) -> Deferred[None]:
        """
        Stop listening, let answers under way end for up to `stop_grace` seconds,
        write what waits, end the threads.
        """
        if self._signal is not None:
            self._signal.stop()
        if self._windows is not None:
            self._windows.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        grace = self.settings.limits.stop_grace
        sessions = len(self.factory.sessions) if self.factory is not None else 0
        self._log.info(
            "stopping; {sessions} sessions have {grace} s to finish",
            event="server.stopping",
            sessions=sessions,
            grace=grace,
        )
        for endpoint in list(self.ports):
            await self._close(endpoint)
        if self._inventories is not None:
            await self._inventories.stop()
        if self.factory is not None:
            await self.factory.stop(grace)
        if self._nodes is not None:
            await self._nodes.stop()
        for table in (self._seen, self._digests):
            if table is not None:
                await table.stop().addErrback(self._database_failed)
        for stopped in (self._database, self._shared):
            if stopped is not None:
                await stopped.stop().addErrback(self._database_failed)
        if self._audit is not None:
            # The sessions' last words come before this.
            globalLogPublisher.removeObserver(self._audit)
            await self._audit.stop()
        if self._files is not None:
            self._files.stop()
        stopping = super().stopService()  # type: ignore[no-untyped-call]
        if isinstance(stopping, Deferred):
            await stopping
        self._log.info("stopped", event="server.stopped")
