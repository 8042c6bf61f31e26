# SPDX-License-Identifier: MIT
"""
A relay to be killed: `killed_relay FOLDER` prints its port. The port of the server
above is in the file `above` of the folder.
"""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.threads import deferToThread

from nodecomm.access.networks import AddressList
from nodecomm.inventory.doors import Account, UploadRules
from nodecomm.inventory.outbox import Outbox
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.relaying import Relaying
from nodecomm.inventory.resource import InventoryResource
from nodecomm.inventory.site import UploadSite
from nodecomm.inventory.upstream_errors import Transient, failure_of
from nodecomm.server.pools import WorkerPool
from tests.inventory.web import basic

reactor: Any = installed


class Above:
    """The server above, without TLS."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def server_id(self) -> Deferred[str]:
        """Its id."""
        return succeed("root")

    def put(
        self, box: Box, name: str, content: str, *, via: Sequence[str]
    ) -> Deferred[None]:
        """Put a file."""
        return deferToThread(self._put, name, content)

    def close(self) -> Deferred[None]:
        """Nothing is kept open."""
        return succeed(None)

    def _put(self, name: str, path: str) -> None:
        port = int((self.folder / "above").read_text())
        data = Path(path).read_bytes()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            headers = {"Authorization": basic("rudder")}
            connection.request("PUT", f"/inventories/{name}", data, headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise Transient(str(error)) from error
        finally:
            connection.close()
        if status not in (201, 204):
            raise failure_of(status, "")


async def relay(folder: str) -> None:
    """Begin to relay."""
    pool = WorkerPool(reactor, "spool", 4)
    pool.start()
    outbox = Outbox(
        f"{folder}/relay",
        seconds=time.monotonic,
        now=lambda: datetime.now(timezone.utc),
    )
    relaying = Relaying(
        outbox, Above(folder), reactor=reactor, pool=pool, server_id="relay"
    )
    await relaying.start()
    rules = UploadRules(
        networks=AddressList(["127.0.0.1"]),
        accounts={Box.FIRST: [Account("rudder", "rudder")]},
        min_free=0,
    )
    resource = InventoryResource(
        relaying, rules, server_id="relay", reactor=reactor, pool=pool
    )
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await endpoint.listen(UploadSite(resource, reactor=reactor))
    print(port.getHost().port, flush=True)


if __name__ == "__main__":
    Deferred.fromCoroutine(relay(sys.argv[1])).addErrback(
        lambda failure: failure.printTraceback()
    )
    reactor.run()
