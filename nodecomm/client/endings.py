# SPDX-License-Identifier: MIT
"""
How connections end, in words: for each way a maker of its error, because everybody who
waits on the connection gets an error of his own.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING

from twisted.internet import error as causes

from nodecomm.client.errors import (
    ClientError,
    ConnectionBroken,
    Rejected,
    Unreachable,
    UntrustedServer,
)
from nodecomm.transport.errors import TLSFailure
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodecomm.client.address import ServerAddress
    from nodecomm.identity.keys import PublicKey, UnusableKey
    from nodecomm.identity.servers import ServerDecision

    _Maker = Callable[[], ClientError]

#: What TLS says when the peer just hung up, in lower case.
_HUNG_UP = ("unexpected eof", "econnreset", "epipe", "econnaborted", "closed by")

#: What the operating system says when there is no way to the address.
_NO_ROUTE = {
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
}


def about(server: ServerAddress, path: bytes, what: str) -> str:
    """
    A sentence about *path* on *server*.
    """
    where = f"{server}: {safe(to_text(path))}" if path else str(server)
    return f"{where}: {what}"


def address_text(peer: object) -> str:
    """
    The address of a peer, as Twisted tells it; empty where there is none.
    """
    return str(getattr(peer, "host", ""))


def _called(server: ServerAddress, address: str) -> str:
    """
    The server, with the address that its name stood for.
    """
    if address and address != server.host:
        return f"{server} ({address})"
    return str(server)


def broken(code: str, text: str) -> _Maker:
    """
    An open connection ended.
    """
    return partial(ConnectionBroken, code, text)


def unusable_key(
    server: ServerAddress, key: PublicKey | None, error: UnusableKey
) -> _Maker:
    """
    The server's key is none that could be trusted.
    """
    text = f"{server}: its key cannot be used: {error}"
    return partial(UntrustedServer, "key-unusable", text, server, key)


def untrusted(
    server: ServerAddress, address: str, key: PublicKey, decision: ServerDecision
) -> _Maker:
    """
    The server's key is not trusted.
    """
    return partial(
        UntrustedServer,
        decision.code,
        decision.text,
        server,
        key,
        decision.known,
        address,
    )


def too_early(server: ServerAddress, what: str) -> _Maker:
    """
    We spoke before the server did, and it was not what it had been.
    """
    text = (
        f"{server}: it was spoken to as it was last time, and that went wrong: {what};"
        " the next connection waits for its first line"
    )
    return partial(ConnectionBroken, "early-data", text)


def dialog_failed(server: ServerAddress, what: str) -> _Maker:
    """
    The lines before the requests did not go as they must.
    """
    return partial(Rejected, "dialog-failed", f"{server}: no dialog: {what}")


def turned_away(server: ServerAddress, words: str) -> _Maker:
    """
    Without TLS: the server refused who we say we are.
    """
    text = (
        f"{server}: no dialog: it says {words}: it refuses our user name, or our key"
        " for what it is; its log says which"
    )
    return partial(Rejected, "dialog-failed", text)


def dialog_timeout(server: ServerAddress, seconds: float) -> _Maker:
    """
    The server did not say its lines in time.
    """
    text = f"{server}: no welcome within {seconds:g} s after the TLS handshake"
    return partial(Rejected, "dialog-timeout", text)


def not_trusted(server: ServerAddress, digest: str, user: bytes) -> _Maker:
    """
    The server hung up when it knew who we are.
    """
    text = (
        f"{server}: the server ended the connection when it knew who we are: its"
        f" administrator must trust our key {digest} for the user"
        f" {safe(to_text(user))}"
    )
    return partial(Rejected, "not-trusted", text)


def alert(error: BaseException) -> str:
    """
    What the peer complained of through TLS; empty when it only hung up.
    """
    if not isinstance(error, TLSFailure):
        return ""
    _, _, words = error.reason.partition(": ")
    return "" if words.lower().startswith(_HUNG_UP) else error.reason


def handshake_failed(
    server: ServerAddress, address: str, error: BaseException
) -> _Maker:
    """
    The connection ended before TLS was agreed on.
    """
    called = _called(server, address)
    words = alert(error)
    if words == "handshake-timeout":
        text = f"{called}: accepted the connection and was silent in the TLS handshake"
        return partial(Unreachable, "handshake-timeout", text)
    if words:
        text = f"{called}: TLS failed: {safe(words.removeprefix('handshake: '))}"
        return partial(Unreachable, "handshake-failed", text)
    text = (
        f"{called}: closed every connection without a word. Either it does not allow"
        " our address (allowconnects), or it allows one connection for an address and"
        " another one is open (allowallconnects), or it is too busy (maxconnections),"
        " or it is so old that it speaks only the classic protocol (--protocol classic,"
        " which protects nothing)"
    )
    return partial(Unreachable, "closed-at-accept", text)


def classic_closed(server: ServerAddress, address: str) -> _Maker:
    """
    Without TLS: the connection ended before the server said anything.
    """
    text = (
        f"{_called(server, address)}: closed every connection without a word. A server"
        " speaks the classic protocol only with addresses in allowlegacyconnects;"
        " those must be in allowconnects, too. Or it allows one connection for an"
        " address and another one is open (allowallconnects), or it is too busy"
        " (maxconnections)"
    )
    return partial(Unreachable, "closed-at-accept", text)


def classic_late(server: ServerAddress, seconds: float) -> _Maker:
    """
    Without TLS: the server did not do its part of the dialog in time.
    """
    text = f"{server}: no answer to our key within {seconds:g} s"
    return partial(Rejected, "dialog-timeout", text)


def no_proof(server: ServerAddress, key: PublicKey, what: str) -> _Maker:
    """
    Without TLS: whoever answers does not hold the key.
    """
    text = (
        f"{server}: whoever answers there did not prove to hold the key {key.md5}:"
        f" {what}. Nothing was asked. Either the server has another key now, or"
        " somebody stands between"
    )
    return partial(UntrustedServer, "no-proof", text, server, key, (key,))


def too_long_key(server: ServerAddress, key: PublicKey, bits: int) -> UntrustedServer:
    """
    Without TLS: a key that the server cannot be asked to prove.
    """
    text = (
        f"{server}: its key {key.md5} has {key.bits} bits; the classic protocol has no"
        f" room for a proof of more than {bits} bits. Use TLS, or have a shorter key"
        " made on the server"
    )
    return UntrustedServer("key-unusable", text, server, key)


def unreachable(server: ServerAddress, error: BaseException) -> Unreachable:
    """
    What it means that no connection came about; look-ups of names apart.
    """
    number = getattr(error, "osError", None)
    words = f" ({os.strerror(number)})" if isinstance(number, int) else ""
    if isinstance(error, causes.ConnectionRefusedError):
        text = f"{server}: connection refused; nothing listens on port {server.port}"
        return Unreachable("connection-refused", text + words)
    if isinstance(error, (causes.TimeoutError, causes.TCPTimedOutError)):
        text = f"{server}: no answer to the attempt to connect; is a firewall between?"
        return Unreachable("connect-timeout", text + words)
    if isinstance(error, causes.NoRouteError) or number in _NO_ROUTE:
        return Unreachable("no-route", f"{server}: no route to that address{words}")
    said = "" if words else f": {safe(str(error))}"
    return Unreachable("connect-failed", f"{server}: cannot connect{said}{words}")


def unknown_name(server: ServerAddress, words: str) -> Unreachable:
    """
    There is no such name.
    """
    text = f"{server}: the name {server.host} is not known ({safe(words)})"
    return Unreachable("name-unknown", text)


def lookup_failed(server: ServerAddress, words: str) -> Unreachable:
    """
    Nobody could say whether there is such a name.
    """
    text = f"{server}: the name {server.host} could not be looked up ({safe(words)})"
    return Unreachable("name-lookup-failed", text)
