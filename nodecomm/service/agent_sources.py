# SPDX-License-Identifier: MIT
"""
What an agent brings copies with: the client and the sync, made of a configuration.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from nodecomm.client.classic_dialing import ClassicDialer
from nodecomm.client.dialing import Dialer
from nodecomm.client.memory import MEMORY_NAME, ServerMemory
from nodecomm.client.timeouts import Timeouts
from nodecomm.identity.server_keys import (
    SERVER_KEYS_FOLDER,
    ServerKeyStore,
    ServerKeysUnreadable,
)
from nodecomm.identity.servers import ServerDecision, ServerTrust
from nodecomm.service.own_state import StartError
from nodecomm.sync.clocks import SteadyClock
from nodecomm.sync.syncing import Syncer
from nodecomm.transport.context import client_context
from nodecomm.wire.cipher import CipherMissing
from nodecomm.wire.errors import LocalProtocolError

if TYPE_CHECKING:
    from nodecomm.client.address import ServerAddress
    from nodecomm.identity.keys import KeyPair, PublicKey
    from nodecomm.server.pools import Pool
    from nodecomm.service.agent_prepared import PreparedAgent
    from nodecomm.service.agent_run import Source
    from nodecomm.sync.syncing import Dialing

__all__ = ["SyncSources"]


class SyncSources:
    """
    The sources of a real agent.
    """

    def __init__(self, reactor: Any, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            reactor: Drives the connections.
            now: Civil time in seconds.
        """
        self._reactor = reactor
        self._now = now
        self._store: ServerKeyStore | None = None

    def open(
        self, prepared: PreparedAgent, pair: KeyPair, pool: Pool
    ) -> Callable[[ServerAddress], Source]:
        """
        As `Sources.open`.
        """
        store = ServerKeyStore(
            os.path.join(prepared.state, SERVER_KEYS_FOLDER), now=self._now
        )
        agent = prepared.configuration.agent
        try:
            trust = ServerTrust(
                store,
                pinned=prepared.pinned,
                first_use=agent.trust_server,
                run=pool.run,
                classic=agent.protocol == "classic",
            )
            dialer = self._dialer(prepared, pair, pool, _ToldTrust(trust))
        except CipherMissing as error:
            told = f"agent.encrypt = true: {error}, or leave it out"
            raise StartError(told) from error
        except (ValueError, SSL.Error, LocalProtocolError) as error:
            raise StartError(str(error)) from error
        self._store = store

        def connect(server: ServerAddress) -> Source:
            return Syncer(
                dialer,
                server,
                state_dir=Path(prepared.state),
                pool=pool,
                clock=self._reactor,
                now=self._now,
                monotonic=time.monotonic,
                steady=SteadyClock(),
            )

        return connect

    def _dialer(
        self, prepared: PreparedAgent, pair: KeyPair, pool: Pool, trust: _ToldTrust
    ) -> Dialing:
        """
        What connects as the configuration says.
        """
        agent = prepared.configuration.agent
        timeouts = Timeouts.of(prepared.timeout)
        if agent.protocol == "classic":
            return ClassicDialer(
                self._reactor,
                key=pair,
                trust=trust,
                user=prepared.user,
                encrypt=agent.encrypt,
                pool=pool,
                timeouts=timeouts,
                now=self._now,
            )
        return Dialer(
            self._reactor,
            context=client_context(pair),
            trust=trust,
            user=prepared.user,
            newest=agent.protocol,
            memory=ServerMemory(os.path.join(prepared.state, MEMORY_NAME)),
            timeouts=timeouts,
            now=self._now,
        )

    def server_key(self, server: ServerAddress) -> str:
        """
        As `Sources.server_key`.
        """
        if self._store is None:
            return ""
        try:
            keys = self._store.keys(str(server))
        except (OSError, ServerKeysUnreadable):
            return ""
        return ", ".join(key.md5 for key in keys)


class _ToldTrust:
    """
    Decides as another does, and states when a key is trusted that nobody knew.
    """

    _log = Logger()

    def __init__(self, trust: ServerTrust) -> None:
        self._trust = trust

    def check(
        self, server: str, key: PublicKey
    ) -> ServerDecision | Deferred[ServerDecision]:
        """
        Whether *server* may show *key*.
        """
        decision: Any = self._trust.check(server, key)
        if isinstance(decision, Deferred):
            return decision.addCallback(self._tell, server, key)
        return self._tell(decision, server, key)

    def candidates(self, server: str) -> Sequence[PublicKey]:
        """
        The keys that *server* may have.
        """
        return self._trust.candidates(server)

    def _tell(
        self, decision: ServerDecision, server: str, key: PublicKey
    ) -> ServerDecision:
        if decision.first_use:
            self._log.warn(
                "{text}",
                event="agent.server-trusted",
                text=decision.text,
                server=server,
                key=key.md5,
            )
        return decision
