# SPDX-License-Identifier: MIT
"""
A server of inventories to be killed: `killed_server FOLDER NOW` prints its port.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint

from nodecomm.access.networks import AddressList
from nodecomm.inventory.deciding import decided_by
from nodecomm.inventory.doors import Account, UploadRules
from nodecomm.inventory.node_sqlite import SqliteNodes
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.receiving import Receiving
from nodecomm.inventory.registry import NodeRegistry, in_reactor_threads
from nodecomm.inventory.resource import InventoryResource
from nodecomm.inventory.site import UploadSite
from nodecomm.inventory.spool import Spool
from nodecomm.server.pools import WorkerPool

reactor: Any = installed


async def serve(folder: str, now: datetime) -> None:
    """Begin to serve."""
    pool = WorkerPool(reactor, "spool", 4)
    pool.start()
    store = SqliteNodes(f"{folder}/nodes.sqlite", reactor)
    registry = NodeRegistry(store, in_reactor_threads(reactor), now=lambda: now)
    await registry.start()
    spool = Spool(f"{folder}/spool", seconds=time.monotonic, now=lambda: now)
    receiving = Receiving(spool, decided_by(registry), reactor=reactor, pool=pool)
    await receiving.start()
    rules = UploadRules(
        networks=AddressList(["127.0.0.1"]),
        accounts={Box.FIRST: [Account("rudder", "rudder")]},
        min_free=0,
    )
    resource = InventoryResource(
        receiving, rules, server_id="root", reactor=reactor, pool=pool
    )
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await endpoint.listen(UploadSite(resource, reactor=reactor))
    print(port.getHost().port, flush=True)


if __name__ == "__main__":
    Deferred.fromCoroutine(
        serve(sys.argv[1], datetime.fromisoformat(sys.argv[2]))
    ).addErrback(lambda failure: failure.printTraceback())
    reactor.run()
