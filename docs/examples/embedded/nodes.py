# SPDX-License-Identifier: MIT
"""
A policy server that knows its nodes, inside another Twisted application: they send
their inventories to its web site, and who is accepted has a folder of his own.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

from nodecomm.access.networks import AddressList
from nodecomm.inventory.deciding import decided_by
from nodecomm.inventory.doors import Account, UploadRules
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.receiving import Receiving
from nodecomm.inventory.resource import InventoryResource
from nodecomm.inventory.spool import Spool
from nodecomm.service.embedding import follow_nodes, port_factory

NETWORKS = ["10.0.0.0/8"]


class NodeServer:
    """
    Args:
        reactor: The application's.
        folder: Keys, the database of nodes, and what is received.
        share: The folder with those of the nodes.
        pool: Threads that write and read; started and stopped by the application.
        more: For `follow_nodes`.

    Attributes:
        factory: Serves nodes; for any endpoint.
        resource: Takes inventories; for any place in a tree of Twisted Web.
        nodes: `nodes.registry` tells about nodes, and takes decisions.
    """

    def __init__(
        self, reactor: Any, folder: str, share: str, *, pool: Any, **more: Any
    ) -> None:
        tables = {
            "server": {"allowallconnects": NETWORKS},
            "inventory": {"server_id": "root", "networks": NETWORKS},
            "node_files": [{"path": f"{share}/{{node_id}}/"}],
        }
        self.factory = port_factory(reactor, tables, keys=f"{folder}/ppkeys")
        self.nodes = follow_nodes(
            reactor, tables, self.factory, folder=folder, pool=pool, **more
        )
        spool = Spool(f"{folder}/inventories", seconds=time.monotonic, now=present)
        self.receiving = Receiving(
            spool, decided_by(self.nodes.registry), reactor=reactor, pool=pool
        )
        rules = UploadRules(
            networks=AddressList(NETWORKS),
            accounts={Box.FIRST: [Account("rudder", "rudder")]},
        )
        self.resource = InventoryResource(
            self.receiving,
            rules,
            server_id=self.nodes.server_id,
            reactor=reactor,
            pool=pool,
            knows_key=self.nodes.knows_key,
        )

    async def start(self) -> None:
        """
        Know the nodes, and take inventories. Before that nobody is refused anything:
        connections are closed, uploads told to come again.
        """
        await self.nodes.start()
        await self.receiving.start()

    async def stop(self) -> None:
        """
        Finish what was begun.
        """
        await self.receiving.stop()
        await self.nodes.stop()


def present() -> datetime:
    """
    Civil time.
    """
    return datetime.now(timezone.utc)
