# SPDX-License-Identifier: MIT
"""
The part of a policy server that takes inventories, wired from `[inventory]`: folder,
site and ports.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger
from zope.interface import implementer

from nodecomm.config.durations import parse_duration
from nodecomm.config.inventory import OWN_KEY
from nodecomm.inventory.deciding import decided_by, taken_by
from nodecomm.inventory.doors import Account, UploadRules
from nodecomm.inventory.failures import SPOOL_NAME
from nodecomm.inventory.halves import SharedHalves
from nodecomm.inventory.https import (
    CertificateError,
    OverTLS,
    certificate_from_files,
    own_key_certificate,
)
from nodecomm.inventory.outbox import Outbox
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.receiving import Receiving, Waits
from nodecomm.inventory.resource import InventoryResource
from nodecomm.inventory.site import UploadSite
from nodecomm.inventory.spool import Spool, SpoolInUse
from nodecomm.inventory.visitors import Visitors
from nodecomm.server.pools import WorkerPool
from nodecomm.service.inventory_checks import address_list, place_of_nodes
from nodecomm.service.listening import (
    ListenError,
    listen_all,
    port_number,
    stop_listening,
)
from nodecomm.service.nodes_followed import document_limits
from nodecomm.service.own_state import StartError, os_error_text
from nodecomm.service.reloading import visits_that_fit

if TYPE_CHECKING:
    from OpenSSL import SSL
    from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol

    from nodecomm.config.inventory import InventorySettings
    from nodecomm.config.model import Settings
    from nodecomm.identity.keys import KeyPair
    from nodecomm.inventory.limits import DocumentLimits
    from nodecomm.inventory.relaying import Relaying
    from nodecomm.inventory.stores import UploadStore
    from nodecomm.service.nodes_followed import NodesFollowed

__all__ = ["InventoryReceiver"]

#: Threads that write uploads to disk.
_THREADS = 4

#: Bytes of content that a request may have that is no upload.
_OTHER_BODY = 1024

#: Seconds after which an unsigned document is decided about, where those are believed.
_UNSIGNED = 60.0


@implementer(IProtocolFactory)
class _Front:
    """
    What the ports have behind them: the site, with TLS around it or without. Which, may
    change while they listen.
    """

    def __init__(self, site: UploadSite) -> None:
        self.site = site
        self.tls: OverTLS | None = None

    def doStart(self) -> None:
        """A port listens."""
        self.site.doStart()  # type: ignore[no-untyped-call]

    def doStop(self) -> None:
        """A port listens no longer."""
        self.site.doStop()  # type: ignore[no-untyped-call]

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        """As it is now."""
        return (self.tls or self.site).buildProtocol(addr)


class InventoryReceiver:
    """
    Takes inventories while a server runs.

    Args:
        settings: The configuration; it has `[inventory]`.
        folder: The state folder.
        pair: The server's key.
        nodes: The nodes; started before this, and stopped after it.
        reactor: Drives all of it.
        now: Civil time in seconds.

    Attributes:
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
        nodes: NodesFollowed,
        *,
        reactor: Any,
        now: Callable[[], float] = time.time,
    ) -> None:
        assert settings.inventory is not None  # noqa: S101
        inventory = settings.inventory
        self._inventory = inventory
        self._nodes = nodes
        self._reactor = reactor
        self._now = now
        self.ports: dict[str, list[IListeningPort]] = {}
        self._started: Deferred[None] | None = None
        self.server_id = nodes.server_id
        self._pool = WorkerPool(reactor, "nodecomm-inventories", _THREADS)
        self._limits = document_limits(inventory)
        self._relaying: Relaying | None = None
        self._auto_accept = address_list(inventory.auto_accept)
        self._receiving = self._open_store(os.path.join(folder, SPOOL_NAME))
        self.resource = InventoryResource(
            self._receiving,
            _upload_rules(inventory, self._limits),
            server_id=self.server_id,
            reactor=reactor,
            pool=self._pool,
            knows_key=nodes.knows_key,
        )
        self._visitors = Visitors(reactor, most=1)
        self._limit_visitors(inventory)
        self._pair = pair
        self._front = self._make_front()

    def _present(self) -> datetime:
        return datetime.fromtimestamp(self._now(), timezone.utc)

    def _open_store(self, folder: str) -> UploadStore:
        try:
            if self._inventory.upstream is None:
                return self._open_spool(folder)
            # It brings a web client along, which others need not load.
            from nodecomm.service.inventory_relaying import (  # noqa: PLC0415
                open_relaying,
            )

            self._relaying = open_relaying(
                self._inventory,
                folder,
                server_id=self.server_id,
                reactor=self._reactor,
                pool=self._pool,
                now=self._present,
            )
        except SpoolInUse as error:
            raise StartError(
                f"{error}; end the other server, or give this one another state folder"
            ) from error
        except OSError as error:
            raise StartError(os_error_text(error, folder)) from error
        return self._relaying

    def _open_spool(self, folder: str) -> Receiving:
        inventory = self._inventory
        # What waits there if it was a relay before.
        Outbox(folder, seconds=time.monotonic, now=self._present).hand_back()
        spool = Spool(folder, seconds=time.monotonic, now=self._present)
        # Once before any thread is there, so that what is wrong is told at start.
        spool.open()
        spool.close()
        compat = inventory.signatures == "compat"
        waits = Waits(
            orphan=parse_duration(inventory.orphan_after),
            unsigned=_UNSIGNED if compat else None,
        )
        receiving = Receiving(
            spool,
            decided_by(self._nodes.registry, lambda: self._auto_accept),
            was_taken=taken_by(self._nodes.registry),
            reactor=self._reactor,
            pool=self._pool,
            limits=self._limits,
            waits=waits,
        )
        shared = place_of_nodes(inventory, os.path.dirname(folder)).shared
        if shared is not None:
            halves = SharedHalves(shared, self._reactor)
            receiving.look_elsewhere(halves, self._now)
        return receiving

    def _limit_visitors(self, inventory: InventorySettings) -> None:
        visitors = self._visitors
        visitors.most = visits_that_fit(inventory.connections)
        visitors.per_address = inventory.connections_per_address
        visitors.proxies = address_list(inventory.trusted_proxies)

    def _make_front(self) -> _Front:
        site = UploadSite(
            self.resource,
            reactor=self._reactor,
            other_body=_OTHER_BODY,
            visitors=self._visitors,
        )
        front = _Front(site)
        try:
            self._show_certificate(front, self._inventory)
        except CertificateError as error:
            raise StartError(
                f"inventory.certificate: {error}; name the files of a certificate that"
                " can be used, and of its key"
            ) from error
        return front

    def _show_certificate(self, front: _Front, inventory: InventorySettings) -> None:
        """
        Have new connections see the certificate of a configuration, or no TLS.

        Raises:
            CertificateError: It cannot be used; all stays as it was.
        """
        if inventory.plain:
            front.tls = None
            return
        context = self._context(inventory)
        if front.tls is not None:
            front.tls.show(context)
            return
        front.tls = OverTLS(
            context, front.site, reactor=self._reactor, ask_for_keys=True
        )

    def _context(self, inventory: InventorySettings) -> SSL.Context:
        certificate = inventory.certificate
        if certificate.cert == OWN_KEY or certificate.key is None:
            return own_key_certificate(self._pair, self.server_id, self._present())
        return certificate_from_files(certificate.cert, certificate.key)

    # Running

    async def listen(self) -> None:
        """
        Listen; uploads are told to come again until `start` has ended.

        Raises:
            ListenError: An endpoint cannot be had.
        """
        self.ports.update(
            await listen_all(
                self._reactor, self._inventory.listen, self._front, "inventory"
            )
        )

    async def start(self) -> None:
        """
        Take inventories.
        """
        self._started = Deferred()
        try:
            self._pool.start()
            await self._receiving.start()
        finally:
            self._started.callback(None)
        if not self.ports:
            return
        self._log.info(
            "taking inventories on {listen} as {server_id}",
            event="inventory.started",
            listen=", ".join(self._inventory.listen),
            server_id=self.server_id,
            ports=[
                port_number(port) for ports in self.ports.values() for port in ports
            ],
        )

    async def apply(self, settings: Settings) -> list[str]:
        """
        Put in force what of a new configuration needs no restart. The files of a
        certificate are read again.

        Returns:
            The keys that are not in force, because something was in the way; that is
            told.
        """
        inventory = settings.inventory
        if inventory is None:
            return []
        self.resource.rules = _upload_rules(inventory, self._limits)
        self._limit_visitors(inventory)
        self._auto_accept = address_list(inventory.auto_accept)
        waiting = self._send_by(inventory)
        try:
            self._show_certificate(self._front, inventory)
        except CertificateError as error:
            waiting.append("inventory.certificate")
            if self._front.tls is None:
                waiting.append("inventory.plain")
            self._log.error(
                "the certificate for inventories stays as it was: {reason}",
                event="inventory.certificate-kept",
                reason=str(error),
            )
        try:
            await self._move_ports(inventory.listen)
        except ListenError as error:
            waiting.append("inventory.listen")
            self._log.error("{reason}", event="listen.failed", reason=str(error))
        return waiting

    def _send_by(self, inventory: InventorySettings) -> list[str]:
        """
        Pass on by a new configuration; the files with keys are read again.
        """
        if self._relaying is None or inventory.upstream is None:
            return []
        from nodecomm.service.inventory_relaying import put_in_force  # noqa: PLC0415

        why = put_in_force(self._relaying, inventory, self._reactor, self._pool)
        if not why:
            return []
        self._log.error(
            "the server above stays as it was: {reason}",
            event="upstream.kept",
            reason=why,
        )
        return ["inventory.upstream"]

    async def _move_ports(self, wanted: Sequence[str]) -> None:
        fresh = [each for each in wanted if each not in self.ports]
        opened = await listen_all(self._reactor, fresh, self._front, "inventory")
        self.ports.update(opened)
        for endpoint in [each for each in self.ports if each not in wanted]:
            await stop_listening(self.ports.pop(endpoint))

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
        self._pool.stop()


def _upload_rules(inventory: InventorySettings, limits: DocumentLimits) -> UploadRules:
    first = Account(inventory.first_user, inventory.first_password.reveal())
    accounts: Mapping[Box, Sequence[Account]] = {Box.FIRST: [first]}
    user, password = inventory.update_user, inventory.update_password
    if user is not None and password is not None:
        accounts = {**accounts, Box.UPDATE: [Account(user, password.reveal())]}
    # A relay counts files, others halves and pairs.
    waiting = inventory.waiting * (1 if inventory.upstream is None else 2)
    return UploadRules(
        networks=address_list(inventory.networks),
        accounts=accounts,
        trusted_proxies=address_list(inventory.trusted_proxies),
        limits=limits,
        at_once=inventory.uploads_at_once,
        waiting=waiting,
        undecided=waiting,
        min_free=inventory.min_free,
        timeout=float(parse_duration(inventory.upload_timeout)),
    )
