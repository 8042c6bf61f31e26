# SPDX-License-Identifier: MIT
"""
The part of a policy server that takes inventories, wired from `[inventory]`: database,
folder, site and ports.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from nodecomm.config.durations import parse_duration
from nodecomm.config.inventory import OWN_KEY
from nodecomm.inventory.deciding import decided_by
from nodecomm.inventory.doors import Account, UploadRules
from nodecomm.inventory.failures import SPOOL_NAME
from nodecomm.inventory.https import (
    CertificateError,
    OverTLS,
    certificate_from_files,
    own_key_certificate,
)
from nodecomm.inventory.judgement import Rules, Signatures
from nodecomm.inventory.limits import DocumentLimits
from nodecomm.inventory.node_sqlite import (
    SqliteNodes,
    UnknownDatabase,
    database_path,
    open_nodes,
)
from nodecomm.inventory.own import NodeIdError, own_node_id
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.receiving import Receiving, Waits
from nodecomm.inventory.registering import register_named
from nodecomm.inventory.registry import NodeRegistry, in_reactor_threads
from nodecomm.inventory.resource import InventoryResource
from nodecomm.inventory.site import UploadSite
from nodecomm.inventory.spool import Spool, SpoolInUse
from nodecomm.inventory.watching import NodeWatch
from nodecomm.server.pools import WorkerPool
from nodecomm.service.inventory_checks import address_list
from nodecomm.service.listening import listen_all, port_number, stop_listening
from nodecomm.service.own_state import StartError, os_error_text
from nodecomm.storage.migrations import DatabaseTooNew

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort, IProtocolFactory

    from nodecomm.config.inventory import InventorySettings
    from nodecomm.config.model import Settings
    from nodecomm.identity.keys import KeyPair, PublicKey
    from nodecomm.inventory.nodes import NodesAt

__all__ = ["InventoryReceiver"]

#: Threads that write uploads to disk.
_THREADS = 4

#: Seconds after which an unsigned document is decided about, where those are believed.
_UNSIGNED = 60.0


class InventoryReceiver:
    """
    Takes inventories while a server runs.

    Args:
        settings: The configuration; it has `[inventory]`.
        folder: The state folder.
        pair: The server's key.
        reactor: Drives all of it.
        now: Civil time in seconds.

    Attributes:
        registry: The nodes.
        resource: What is behind the ports.
        ports: The ports by endpoint string.

    Raises:
        StartError: Something is in the way.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        folder: str,
        pair: KeyPair,
        *,
        reactor: Any,
        now: Callable[[], float] = time.time,
    ) -> None:
        assert settings.inventory is not None  # noqa: S101
        inventory = settings.inventory
        self._settings = settings
        self._inventory = inventory
        self._reactor = reactor
        self._now = now
        self.ports: dict[str, list[IListeningPort]] = {}
        self._keys: frozenset[PublicKey] = frozenset()
        self._started: Deferred[None] | None = None
        self.server_id = _server_id(inventory, folder)
        self._pool = WorkerPool(reactor, "nodecomm-inventories", _THREADS)
        self._limits = DocumentLimits(
            size=inventory.max_size,
            compressed=inventory.max_compressed,
            ratio=inventory.max_ratio,
        )
        self.registry = self._open_registry(folder)
        self._watch = NodeWatch(self.registry, reactor, self._nodes_changed)
        self._receiving = self._open_spool(os.path.join(folder, SPOOL_NAME))
        self.resource = InventoryResource(
            self._receiving,
            _upload_rules(inventory, self._limits),
            server_id=self.server_id,
            reactor=reactor,
            pool=self._pool,
            knows_key=self._knows_key,
        )
        self._factory = self._make_factory(pair)

    def _present(self) -> datetime:
        return datetime.fromtimestamp(self._now(), timezone.utc)

    def _open_registry(self, folder: str) -> NodeRegistry:
        inventory = self._inventory
        try:
            path = database_path(inventory.database, folder)
        except UnknownDatabase as error:
            raise StartError(f"inventory.database: {error}") from error
        try:
            # Once before any thread is there, so that what is wrong with the file is
            # told at start.
            with open_nodes(path):
                pass
        except (sqlite3.Error, DatabaseTooNew) as error:
            raise StartError(f"{path}: {error}") from error
        except OSError as error:
            raise StartError(os_error_text(error, str(path))) from error
        return NodeRegistry(
            SqliteNodes(path, self._reactor),
            in_reactor_threads(self._reactor),
            rules=Rules(
                Signatures(inventory.signatures),
                timedelta(seconds=parse_duration(inventory.max_age)),
                timedelta(seconds=parse_duration(inventory.max_ahead)),
            ),
            limits=self._limits,
            now=self._present,
        )

    def _open_spool(self, folder: str) -> Receiving:
        inventory = self._inventory
        spool = Spool(folder, seconds=time.monotonic, now=self._present)
        try:
            # For the same reason.
            spool.open()
        except SpoolInUse as error:
            raise StartError(
                f"{error}; end the other server, or give this one another state folder"
            ) from error
        except OSError as error:
            raise StartError(os_error_text(error, folder)) from error
        spool.close()
        compat = inventory.signatures == "compat"
        waits = Waits(
            orphan=parse_duration(inventory.orphan_after),
            unsigned=_UNSIGNED if compat else None,
        )
        return Receiving(
            spool,
            decided_by(self.registry, address_list(inventory.auto_accept)),
            reactor=self._reactor,
            pool=self._pool,
            limits=self._limits,
            waits=waits,
        )

    def _make_factory(self, pair: KeyPair) -> IProtocolFactory:
        inventory = self._inventory
        site = UploadSite(self.resource, reactor=self._reactor)
        if inventory.plain:
            return site
        certificate = inventory.certificate
        try:
            if certificate.cert == OWN_KEY or certificate.key is None:
                context = own_key_certificate(pair, self.server_id, self._present())
            else:
                context = certificate_from_files(certificate.cert, certificate.key)
        except CertificateError as error:
            raise StartError(
                f"inventory.certificate: {error}; name the files of a certificate that"
                " can be used, and of its key"
            ) from error
        return OverTLS(context, site, reactor=self._reactor, ask_for_keys=True)

    # Keys of accepted nodes, which need no password

    def _nodes_changed(self, found: NodesAt) -> None:
        keys = (node.key for node in found.nodes if node.opens is not None)
        self._keys = frozenset(key for key in keys if key is not None)

    def _knows_key(self, key: PublicKey) -> bool:
        return self._watch.is_fresh and key in self._keys

    # Running

    async def listen(self) -> None:
        """
        Listen; uploads are told to come again until `start` has ended.

        Raises:
            ListenError: An endpoint cannot be had.
        """
        self.ports.update(
            await listen_all(
                self._reactor, self._inventory.listen, self._factory, "inventory"
            )
        )

    async def start(self) -> None:
        """
        Take inventories.
        """
        self._started = Deferred()
        try:
            self._pool.start()
            await self.registry.start()
            named = [(node.id, node.key) for node in self._settings.registered]
            await register_named(self.registry, named)
            await self._watch.start()
            await self._receiving.start()
        finally:
            self._started.callback(None)
        self._log.info(
            "taking inventories on {listen} as {server_id}",
            event="inventory.started",
            listen=", ".join(self._inventory.listen),
            server_id=self.server_id,
            ports=[
                port_number(port) for ports in self.ports.values() for port in ports
            ],
        )

    def apply(self, settings: Settings) -> None:
        """
        Put in force what of a new configuration needs no restart.
        """
        if settings.inventory is not None:
            rules = _upload_rules(settings.inventory, self._limits)
            self.resource.rules = rules

    async def close(self) -> None:
        """
        Listen no longer.
        """
        for ports in self.ports.values():
            await stop_listening(ports)
        self.ports.clear()

    async def stop(self) -> None:
        """
        Listen no longer, finish what was begun, and close everything.
        """
        await self.close()
        if self._started is None:
            return
        await self._started
        await self._receiving.stop()
        await self._watch.stop()
        await self.registry.stop()
        self._pool.stop()


def _server_id(inventory: InventorySettings, folder: str) -> str:
    if inventory.server_id is not None:
        return inventory.server_id
    try:
        # Nodes compare it in this form.
        return own_node_id(folder).lower()
    except NodeIdError as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(os_error_text(error, folder)) from error


def _upload_rules(inventory: InventorySettings, limits: DocumentLimits) -> UploadRules:
    first = Account(inventory.first_user, inventory.first_password.reveal())
    accounts: Mapping[Box, Sequence[Account]] = {Box.FIRST: [first]}
    user, password = inventory.update_user, inventory.update_password
    if user is not None and password is not None:
        accounts = {**accounts, Box.UPDATE: [Account(user, password.reveal())]}
    return UploadRules(
        networks=address_list(inventory.networks),
        accounts=accounts,
        trusted_proxies=address_list(inventory.trusted_proxies),
        limits=limits,
        at_once=inventory.uploads_at_once,
        waiting=inventory.waiting,
        undecided=inventory.waiting,
        min_free=inventory.min_free,
        timeout=float(parse_duration(inventory.upload_timeout)),
    )
