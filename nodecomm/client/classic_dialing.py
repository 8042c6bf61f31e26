# SPDX-License-Identifier: MIT
"""
Connecting to servers in the classic protocol, which has no TLS.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.threads import deferToThreadPool

from nodecomm.client import endings
from nodecomm.client.calling import Caller
from nodecomm.client.classic import ClassicSession, KeyQuestion
from nodecomm.client.errors import ClientError, Unreachable, UntrustedServer
from nodecomm.client.own_name import OwnNames
from nodecomm.identity.keys import PublicKey, UnusableKey, check_sane
from nodecomm.identity.proof import block_size
from nodecomm.server.pools import InlinePool
from nodecomm.transport.plain import PlainDescriptor, PlainOverTransport
from nodecomm.wire.cipher import CipherMissing, missing
from nodecomm.wire.classic import MAX_CHALLENGE, check_user

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.connection import Connection
    from nodecomm.client.trust import IClassicTrust
    from nodecomm.identity.keys import KeyPair
    from nodecomm.identity.servers import ServerDecision
    from nodecomm.server.pools import Pool

__all__ = ["ClassicDialer"]

T = TypeVar("T")


class ClassicDialer(Caller[ClassicSession]):
    """
    Connects to servers in the classic protocol.

    Args:
        reactor: Drives sockets and looks names up.
        key: Our own.
        trust: Decides about the servers' keys.
        user: Who we say we are: one word of at most 255 bytes, without slashes.
        encrypt: Whether requests, names and contents are encrypted.
        name_of: The name of one of our own addresses; by default it is looked up.
        pool: Where RSA is done, and much decrypting; by default the reactor's threads
            where it has some.
        random_bytes: Random bytes that nobody can guess.
        more: What every `Caller` takes.

    Raises:
        CipherMissing: *encrypt*, and there is no cipher for it; the text says what to
            do.
        LocalProtocolError: Nobody can be called *user*.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        key: KeyPair,
        trust: IClassicTrust,
        user: bytes,
        encrypt: bool = False,
        name_of: Callable[[str], Deferred[bytes]] | None = None,
        pool: Pool | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        **more: Any,
    ) -> None:
        # Found out now and not at the first connection.
        check_user(user)
        reason = missing() if encrypt else None
        if reason is not None:
            raise CipherMissing(reason)
        super().__init__(reactor, trust=trust, user=user, **more)
        self.trust: IClassicTrust = trust
        self.key = key
        self.encrypt = encrypt
        self._name_of = name_of or OwnNames(reactor, self.clock).of
        self._pool = _pool_of(reactor) if pool is None else pool
        self._random_bytes = random_bytes
        #: The key that each server proved last.
        self._proven: dict[ServerAddress, PublicKey] = {}
        #: Those that servers have shown and could not be asked to prove yet.
        self._shown: dict[ServerAddress, PublicKey] = {}

    @property
    def own_digest(self) -> str:
        """
        The digest of our own key, as servers print it.
        """
        return self.key.public.md5

    async def _connect(self, server: ServerAddress) -> ClassicSession:
        self._shown.pop(server, None)
        try:
            return await super()._connect(server)
        except Unreachable as error:
            if error.code != "closed-at-accept" or not self._candidates(server):
                raise
            # The server may have refused a challenge that was not made for its key;
            # some systems drop what was said before a connection was reset.
            return await self._prove(server, await self._ask_for_key(server))

    async def _attempt(self, server: ServerAddress) -> ClassicSession:
        failed: dict[PublicKey, UntrustedServer] = {}
        for key in self._candidates(server):
            try:
                return await self._prove(server, key)
            except UntrustedServer as error:
                if error.code != "no-proof":
                    raise
                failed[key] = error
        shown: PublicKey | None = self._shown.pop(server, None)
        key = shown or await self._ask_for_key(server)
        if key in failed:
            raise failed[key]
        try:
            return await self._prove(server, key)
        except Unreachable:
            # A server that allows one connection for an address may be about to
            # notice that the last one has ended: it need not be asked again.
            self._shown[server] = key
            raise

    async def _ask_for_key(self, server: ServerAddress) -> PublicKey:
        """
        The key that the server says is its own.
        """
        question = KeyQuestion(server, _Call(self, server), **self._parts())
        try:
            await self._reach(server, question)
        except ClientError:
            if question.found is None:
                raise
        assert question.found is not None  # noqa: S101
        return question.found

    def _candidates(self, server: ServerAddress) -> list[PublicKey]:
        """
        The keys that the server may have, the likeliest first.
        """
        keys = list(self.trust.candidates(str(server)))
        last = self._proven.get(server)
        if last is not None and last in keys:
            keys.remove(last)
            keys.insert(0, last)
        return keys

    async def _prove(self, server: ServerAddress, key: PublicKey) -> ClassicSession:
        """
        A connection to the server if it holds *key* and may.
        """
        try:
            check_sane(key)
        except UnusableKey as error:
            raise endings.unusable_key(server, key, error)() from None
        if block_size(key) > MAX_CHALLENGE:
            raise endings.too_long_key(server, key, 8 * MAX_CHALLENGE)
        session = ClassicSession(
            server,
            _Call(self, server),
            known=key,
            encrypt=self.encrypt,
            **self._parts(),
        )
        try:
            await self._reach(server, session)
        except UnusableKey as error:
            # The library does not take it.
            raise endings.unusable_key(server, key, error)() from None
        self._proven[server] = key
        return session

    def _own_socket(
        self, connection: Connection, sock: socket.socket, reactor: Any, peer: Any
    ) -> None:
        # Some refusals are a server's last words, and more may be asked meanwhile.
        PlainDescriptor(
            sock, connection, reactor, peer=peer, clock=self.clock, hear_out=True
        ).start()

    def _between(self, connection: Connection) -> PlainOverTransport:
        return PlainOverTransport(connection, self.clock)

    def _parts(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "user": self.user,
            "name_of": self._name_of,
            "pool": self._pool,
            "random": self._random_bytes,
            "clock": self.clock,
            "monotonic": self.monotonic,
            "now": self.now,
            "timeouts": self.timeouts,
        }


class _ReactorPool:
    """
    The reactor's threads.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def run(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Run `work(*args)` in a thread.
        """
        done: Deferred[T] = deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), work, *args
        )
        return done


def _pool_of(reactor: Any) -> Pool:
    return _ReactorPool(reactor) if hasattr(reactor, "getThreadPool") else InlinePool()


class _Call:
    """
    A server that is being called: what the session asks about it.
    """

    def __init__(self, dialer: ClassicDialer, server: ServerAddress) -> None:
        self._dialer = dialer
        self._server = str(server)

    def check(self, key: PublicKey) -> ServerDecision | Deferred[ServerDecision]:
        return self._dialer.trust.check(self._server, key)

    def own_name(self) -> tuple[str, bytes]:
        return self._dialer.own_digest, self._dialer.user
