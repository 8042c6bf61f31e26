# SPDX-License-Identifier: MIT
"""
Servers whose keys are not known yet: whoever sits at the terminal is asked, once for
each and one after the other, while everything else goes on.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool

from nodecomm.cli.asking import ask_about_key, open_terminal
from nodecomm.client.errors import UntrustedServer
from nodecomm.identity.server_keys import ServerKeysUnreadable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from twisted.python.failure import Failure

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.connection import Connection
    from nodecomm.identity.keys import PublicKey
    from nodecomm.identity.server_keys import ServerKeyStore

__all__ = ["AskingDialer", "TerminalQuestion"]

#: The code of a server whose key is not known; of no other may anybody be asked.
_UNKNOWN = "key-unknown"


class _Calling(Protocol):
    def connect(self, server: ServerAddress) -> Awaitable[Connection]:
        """Connect."""
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
        question: Asks whether a server, reached at an address, has this key, which
            these others are known by; None where there is nobody to ask. It is called
            again only when the last answer has come.
    """

    def __init__(
        self,
        dialer: _Calling,
        store: ServerKeyStore,
        question: Callable[
            [ServerAddress, str, PublicKey, Sequence[str]], Awaitable[bool | None]
        ],
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


class TerminalQuestion:
    """
    Asks at the terminal, in a thread.

    Args:
        reactor: Where the answer is wanted.
        stderr: Where to ask if the process has no terminal but for standard input.
        quiet: Entered in that thread before a question, and left after it: nothing
            else is written to the terminal meanwhile.
    """

    def __init__(
        self,
        reactor: Any,
        stderr: TextIO,
        quiet: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._reactor = reactor
        self._stderr = stderr
        self._terminal = partial(open_terminal, stderr)
        self._quiet = quiet

    def __call__(
        self,
        server: ServerAddress,
        address: str,
        key: PublicKey,
        others: Sequence[str],
    ) -> Deferred[bool | None]:
        """
        Whether *key* is the key of *server*, which was reached at *address*.
        """
        pool = self._reactor.getThreadPool()
        answer: Deferred[bool | None] = deferToThreadPool(
            self._reactor, pool, self._ask, server, address, key, others
        )
        return answer.addErrback(self._left)

    def _left(self, failure: Failure) -> Failure:
        """
        Nobody waits for the answer any more; what is told next begins a line.
        """
        if isinstance(failure.value, CancelledError) and self._stderr.isatty():
            self._stderr.write("\n")
        return failure

    def _ask(
        self,
        server: ServerAddress,
        address: str,
        key: PublicKey,
        others: Sequence[str],
    ) -> bool | None:
        addresses = [address] if address else []
        with self._quiet():
            return ask_about_key(server, addresses, key, self._terminal, others)
