# SPDX-License-Identifier: MIT
"""
Servers whose keys are not known yet: somebody is asked, once for each and one after the
other, while everything else goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred, DeferredLock

from nodecomm.client.errors import UntrustedServer
from nodecomm.identity.server_keys import ServerKeysUnreadable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.connection import Connection
    from nodecomm.identity.keys import PublicKey
    from nodecomm.identity.server_keys import ServerKeyStore

__all__ = ["AskingDialer", "ICalling", "IQuestion"]

#: The code of a server whose key is not known; of no other may anybody be asked.
_UNKNOWN = "key-unknown"


class ICalling(Protocol):
    """
    What connects to servers; a `nodecomm.client.dialing.Dialer` does.
    """

    def connect(self, server: ServerAddress) -> Awaitable[Connection]:
        """Connect."""
        ...


class IQuestion(Protocol):
    """
    Somebody who knows whose key is whose.
    """

    def __call__(
        self,
        server: ServerAddress,
        address: str,
        key: PublicKey,
        others: Sequence[str],
    ) -> Awaitable[bool | None]:
        """
        Whether *server*, reached at *address*, has this key; None where there is
        nobody to ask.

        Args:
            server: As it was called.
            address: Where it was reached; empty if that is not known.
            key: What it proved to hold.
            others: Which servers are known by that key.
        """
        ...


class AskingDialer:
    """
    Connects to servers, and asks about those whose keys are not known. No connection
    is open while the answer is awaited, so that no server runs out of patience; when
    the key is accepted it is stored, and the server is called again and has to show
    that very key.

    Args:
        dialer: Connects.
        store: The keys of servers.
        question: Asks; it is called again only when the last answer has come.
    """

    def __init__(
        self,
        dialer: ICalling,
        store: ServerKeyStore,
        question: IQuestion,
    ) -> None:
        self._dialer = dialer
        self._store = store
        self._question = question
        self._turn = DeferredLock()

    def connect(self, server: ServerAddress) -> Deferred[Connection]:
        """
        Connect, as the dialer does.

        Errors: those of the dialer; `UntrustedServer` with the code `key-unknown` also
        if the key was not accepted, and if there is nobody to ask.
        """
        return Deferred.fromCoroutine(self._connect(server))

    async def _connect(self, server: ServerAddress) -> Connection:
        try:
            return await self._dialer.connect(server)
        except UntrustedServer as error:
            if error.code != _UNKNOWN or error.key is None:
                raise
            refusal, key = error, error.key
        await self._turn.acquire()
        try:
            await self._get_to_know(refusal, key)
        except ServerKeysUnreadable:
            # The dialer says so, and what to do.
            pass
        finally:
            self._turn.release()
        return await self._dialer.connect(server)

    async def _get_to_know(self, refusal: UntrustedServer, key: PublicKey) -> None:
        server = refusal.server
        if self._store.keys(str(server)):
            # Meanwhile somebody else got to know it.
            return
        others = self._store.others(key, str(server))
        answer = await self._question(server, refusal.address, key, others)
        if answer is None:
            text = f"there is no terminal to ask at, and {refusal.text}"
            raise _because(refusal, text)
        if not answer:
            text = f"the key {key.md5} of {server} was not accepted; nothing was sent"
            raise _because(refusal, text)
        self._store.add_first(str(server), key)


def _because(error: UntrustedServer, text: str) -> UntrustedServer:
    return UntrustedServer(
        error.code, text, error.server, error.key, error.known, error.address
    )
