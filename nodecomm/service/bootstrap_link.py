# SPDX-License-Identifier: MIT
"""
The way from a bootstrap to the policy server: the client and the updates.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodecomm.server.pools import WorkerPool
from nodecomm.sync.clocks import SteadyClock
from nodecomm.sync.syncing import Syncer

if TYPE_CHECKING:
    from nodecomm.client.address import ServerAddress
    from nodecomm.client.dialing import Dialer
    from nodecomm.client.trust import IServerTrust
    from nodecomm.identity.keys import PublicKey
    from nodecomm.sync.model import SyncRequest, SyncResult

__all__ = ["ServerLink"]

#: Threads for the disk.
THREADS = 2


class ServerLink:
    """
    Connects to one server and brings things here.

    Args:
        reactor: Drives it.
        server: Who is called.
        state_dir: For what an update remembers.
        dialer_for: Makes a dialer with this machine's key that trusts as it is told.
    """

    def __init__(
        self,
        reactor: Any,
        server: ServerAddress,
        state_dir: Path,
        dialer_for: Callable[[IServerTrust], Dialer],
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._state_dir = state_dir
        self._dialer_for = dialer_for
        self._pool: WorkerPool | None = None
        self._syncer: Syncer | None = None

    async def connect(self, trust: IServerTrust) -> PublicKey:
        """
        See that the server answers, is trusted, and welcomes us.
        """
        await self.close()
        dialer = self._dialer_for(trust)
        session = await dialer.connect(self._server)
        try:
            await session.when_welcomed()
        finally:
            await session.close()
        self._pool = WorkerPool(self._reactor, "nodecomm-files", THREADS)
        self._pool.start()
        self._syncer = Syncer(
            dialer,
            self._server,
            state_dir=self._state_dir,
            pool=self._pool,
            clock=self._reactor,
            now=time.time,
            monotonic=time.monotonic,
            steady=SteadyClock(),
        )
        return session.server_key

    async def fetch(self, request: SyncRequest) -> SyncResult:
        """
        Bring something here.
        """
        assert self._syncer is not None  # noqa: S101
        return await self._syncer.run(request)

    async def close(self) -> None:
        """
        End the connection and the threads.
        """
        syncer, self._syncer = self._syncer, None
        pool, self._pool = self._pool, None
        if syncer is not None:
            await syncer.close()
        if pool is not None:
            pool.stop()
