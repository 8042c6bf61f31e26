# SPDX-License-Identifier: MIT
"""
`NodeServer` as a program: python serve_nodes.py FOLDER SHARE ENDPOINT WEB-ENDPOINT
"""

from __future__ import annotations

import sys
from typing import Any

from nodes import NodeServer, present
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure

from nodecomm.identity.own import load_own_key
from nodecomm.inventory.https import OverTLS, own_key_certificate
from nodecomm.inventory.site import UploadSite
from nodecomm.server.pools import WorkerPool


def serve(reactor: Any, folder: str, share: str, listen: str, web: str) -> None:
    """
    Serve until the reactor ends.
    """
    pool = WorkerPool(reactor, "nodes", 2)
    server = NodeServer(reactor, folder, share, pool=pool)
    pair = load_own_key(f"{folder}/ppkeys")
    site = OverTLS(
        own_key_certificate(pair, server.nodes.server_id, present()),
        UploadSite(server.resource, reactor=reactor),
        reactor=reactor,
        ask_for_keys=True,
    )

    async def begin() -> None:
        pool.start()
        await server.start()
        await endpoints.serverFromString(reactor, listen).listen(server.factory)
        await endpoints.serverFromString(reactor, web).listen(site)

    async def end() -> None:
        await server.stop()
        # Its threads would keep the process.
        pool.stop()

    def failed(failure: Failure) -> None:
        print(failure.getErrorMessage(), file=sys.stderr)
        reactor.stop()

    reactor.addSystemEventTrigger(
        "before", "shutdown", lambda: Deferred.fromCoroutine(end())
    )
    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(begin()).addErrback(failed))


if __name__ == "__main__":
    from twisted.internet import reactor

    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    serve(reactor, *sys.argv[1:])
    reactor.run()  # type: ignore[attr-defined]
