# SPDX-License-Identifier: MIT
"""
The nodes of a server, wired from `[inventory]`: their database, and what follows from
them for the server's connections, in whichever process it is decided.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from nodecomm.config.durations import parse_duration
from nodecomm.inventory.following import DigestedNews, NodeTable, digested
from nodecomm.inventory.judgement import Rules, Signatures
from nodecomm.inventory.limits import DocumentLimits
from nodecomm.inventory.opening import (
    NodesAway,
    NodesUnusable,
    UnknownDatabase,
    node_store,
    open_nodes_at,
)
from nodecomm.inventory.own import NodeIdError, own_node_id
from nodecomm.inventory.registering import register_named
from nodecomm.inventory.registry import NodeRegistry, in_reactor_threads
from nodecomm.inventory.watching import NodeWatch
from nodecomm.service.inventory_checks import place_of_nodes
from nodecomm.service.keys_withdrawn import WithdrawnKeys
from nodecomm.service.own_state import StartError, os_error_text

if TYPE_CHECKING:
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.config.inventory import InventorySettings
    from nodecomm.config.model import Settings
    from nodecomm.identity.keys import PublicKey
    from nodecomm.inventory.nodes import NodeNews
    from nodecomm.server.core import ServerFactory
    from nodecomm.server.pools import Pool

__all__ = ["NodesFollowed", "document_limits", "own_server_id"]

#: Seconds between two looks for nodes that were removed long ago.
_PURGE_EVERY = 86400.0

#: Seconds before it is tried again to register what the configuration names.
_AGAIN = 30.0

#: Nodes that are looked at where connections are served; more of them in a thread.
_AT_ONCE = 50


class NodesFollowed:
    """
    Follows the nodes while a server runs.

    Args:
        settings: The configuration; it has `[inventory]`.
        folder: The state folder.
        factory: The server: its trust, its rules, its connections; None: whoever wants
            something to follow asks `table`.
        pool: Threads for what takes time; None: those of the reactor.
        reactor: Drives all of it.
        now: Civil time in seconds.
        monotonic: Seconds of a clock that nobody sets.
        registry: The nodes; None: where the configuration has them.

    Attributes:
        registry: The nodes.
        server_id: What nodes call this server.
        table: What is known of the nodes.

    Raises:
        StartError: Something is in the way.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        folder: str,
        factory: ServerFactory | None = None,
        pool: Pool | None = None,
        *,
        reactor: Any,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        registry: NodeRegistry | None = None,
    ) -> None:
        assert settings.inventory is not None  # noqa: S101
        inventory = settings.inventory
        self._configured = _named_in(settings)
        #: Those of them that are still to be registered.
        self._named = self._configured
        self._factory = factory
        self._in_thread = in_reactor_threads(reactor) if pool is None else pool.run
        self._reactor = reactor
        self._now = now
        self._registering: Deferred[None] | None = None
        self._again: IDelayedCall | None = None
        self._stopped = False
        self._started: Deferred[None] | None = None
        self.server_id = own_server_id(inventory, folder)
        if registry is None:
            registry = self._open(inventory, folder)
        self.registry = registry
        self.table = NodeTable()
        self._watch = NodeWatch(
            registry,
            reactor,
            self._changed,
            self._believed,
            max_stale=parse_duration(inventory.registry_max_stale),
            seconds=monotonic,
        )
        self._keep = _kept_for(inventory)
        self._purging = LoopingCall(self._purge)
        self._purging.clock = reactor
        self._purged: Deferred[Any] | None = None
        self._withdrawn: WithdrawnKeys | None = None
        if factory is not None:
            self._withdrawn = self._removal(factory, folder)
            factory.trust.nodes = self.table.keys

    def _present(self) -> datetime:
        return datetime.fromtimestamp(self._now(), timezone.utc)

    def _removal(self, factory: ServerFactory, folder: str) -> WithdrawnKeys:
        try:
            return WithdrawnKeys(
                factory.trust.store,
                self.table.keys,
                folder,
                clock=self._reactor,
                run=self._in_thread,
            )
        except OSError as error:
            raise StartError(os_error_text(error, folder)) from error

    def _open(self, inventory: InventorySettings, folder: str) -> NodeRegistry:
        try:
            place = place_of_nodes(inventory, folder)
            # Once before any thread is there, so that what is wrong with it is told at
            # start.
            with open_nodes_at(place):
                pass
        except UnknownDatabase as error:
            raise StartError(f"inventory.database: {error}") from error
        except NodesAway as error:
            # It may come: until then nothing is decided about inventories.
            self._log.error(
                "the database of nodes does not answer, it is tried again: {reason}",
                event="nodes.away-at-start",
                reason=str(error),
            )
        except NodesUnusable as error:
            raise StartError(str(error)) from error
        return NodeRegistry(
            node_store(place, self._reactor),
            in_reactor_threads(self._reactor),
            rules=Rules(
                Signatures(inventory.signatures),
                timedelta(seconds=parse_duration(inventory.max_age)),
                timedelta(seconds=parse_duration(inventory.max_ahead)),
            ),
            limits=document_limits(inventory),
            now=self._present,
        )

    # What others ask

    def knows_key(self, key: PublicKey) -> bool:
        """
        Whether this is the key of an accepted node, whichever server it belongs to.
        """
        return self._watch.is_fresh and self.table.is_known(key)

    def in_force(self, snapshot: Snapshot) -> Snapshot:
        """
        The rules of a configuration together with those that follow from the nodes.
        """
        known = self.table.keys.is_known
        return snapshot.with_nodes(self.table.served if known else None)

    # Changes

    def _changed(self, news: NodeNews) -> Deferred[None]:
        work = partial(digested, news, self.server_id)
        if len(news.accepted) + len(news.others) > _AT_ONCE:
            done = self._in_thread(work)
        else:
            done = maybeDeferred(work)
        return done.addCallback(self._take)

    def _take(self, news: DigestedNews) -> None:
        change = self.table.take(news)
        self._put()
        if self._withdrawn is not None:
            self._withdrawn.take(change.withdrawn, whole=news.whole)
        if self._factory is None or not change.lost:
            return
        for session in list(self._factory.sessions):
            if session.peer.key in change.lost:
                session.close("its key was taken from the node, or refused with it")

    def _believed(self, fresh: bool) -> None:
        self.table.keys.is_known = fresh
        self._put()
        self._begin_registering()

    def _begin_registering(self) -> None:
        """
        Register the nodes that the configuration names, if that was not done yet.
        """
        if self._again is not None and self._again.active():
            self._again.cancel()
        self._again = None
        under_way = self._registering is not None and not self._registering.called
        if self._named and self.table.keys.is_known and not under_way:
            self._registering = ensureDeferred(self._register())

    async def _register(self) -> None:
        try:
            while self._named and not self._stopped:
                named = self._named
                await register_named(self.registry, named)
                if self._named is named:
                    # There were no others meanwhile.
                    self._named = []
        except Exception as error:
            if not self._stopped:
                later = self._reactor.callLater(_AGAIN, self._begin_registering)
                self._again = later
            self._log.error(
                "the nodes that the configuration names are not registered: {error}",
                event="nodes.not-registered",
                error=str(error),
            )

    def _put(self) -> None:
        if self._factory is None:
            return
        evaluator = self._factory.serving.evaluator
        evaluator.snapshot = self.in_force(evaluator.snapshot)

    # Running

    async def start(self) -> None:
        """
        Follow the nodes. What is known is in force when this returns, if the database
        answers.
        """
        self._started = Deferred()
        try:
            await self.registry.start()
            await self._watch.start()
            await self._registered()
        finally:
            self._started.callback(None)
        self._purged = self._purging.start(_PURGE_EVERY)

    async def _registered(self) -> None:
        if self._registering is not None:
            await self._registering
            await self._watch.look()

    def apply(self, settings: Settings) -> None:
        """
        Put in force what of a new configuration needs no restart.
        """
        if settings.inventory is None:
            return
        self._watch.max_stale = parse_duration(settings.inventory.registry_max_stale)
        self._keep = _kept_for(settings.inventory)
        named, before = _named_in(settings), self._configured
        # Once is enough: a node that was deleted since does not come back, and that
        # this is so need not be told with every new log file.
        self._named = [x for x in named if x in self._named or x not in before]
        self._configured = named
        self._begin_registering()

    async def _purge(self) -> None:
        """
        Forget the history of who was removed long ago.
        """
        try:
            await self.registry.purge(self._present() - self._keep)
        except Exception as error:
            self._log.warn(
                "the history of nodes that were removed long ago is not forgotten yet:"
                " {error}",
                event="nodes.not-forgotten",
                error=str(error),
            )

    async def stop(self) -> None:
        """
        Follow them no longer, and close their database.
        """
        if self._started is None:
            return
        await self._started
        self._stopped = True
        if self._again is not None and self._again.active():
            self._again.cancel()
        if self._purged is not None:
            if self._purging.running:
                self._purging.stop()
            await self._purged
        await self._watch.stop()
        if self._withdrawn is not None:
            await self._withdrawn.stop()
        await self.registry.stop()
        if self._registering is not None:
            await self._registering


def _named_in(settings: Settings) -> list[tuple[str, str]]:
    return [(node.id, node.key) for node in settings.registered]


def _kept_for(inventory: InventorySettings) -> timedelta:
    return timedelta(seconds=parse_duration(inventory.keep_deleted))


def document_limits(inventory: InventorySettings) -> DocumentLimits:
    """
    How much of a document is read.
    """
    return DocumentLimits(
        size=inventory.max_size,
        compressed=inventory.max_compressed,
        ratio=inventory.max_ratio,
    )


def own_server_id(inventory: InventorySettings, folder: str) -> str:
    """
    What nodes call this server. Made when it is missing.

    Raises:
        StartError: It cannot be read, or made.
    """
    if inventory.server_id is not None:
        return inventory.server_id
    try:
        # Nodes compare it in this form.
        return own_node_id(folder).lower()
    except NodeIdError as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(os_error_text(error, folder)) from error
