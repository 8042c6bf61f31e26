# SPDX-License-Identifier: MIT
"""
What can go wrong between a client and a server, told apart by what one does about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.client.address import ServerAddress
    from nodecomm.identity.keys import PublicKey

__all__ = [
    "BadAnswer",
    "ClientError",
    "CodedError",
    "ConnectionBroken",
    "Refused",
    "Rejected",
    "Unreachable",
    "UntrustedServer",
]


#: Bytes of a server's words that a message shows.
MAX_WORDS = 300


class CodedError(Exception):
    """
    An error that programs tell from others by a word.

    Attributes:
        code: A stable word for programs.
        text: For people: what happened, with names and numbers, and what to do.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return self.text


class ClientError(CodedError):
    """
    The server could not be asked, or did not answer as it should.
    """


class Unreachable(ClientError):  # noqa: N818
    """
    No connection: the name is unknown (`name-unknown`), the look-up failed
    (`name-lookup-failed`), nobody listens (`connection-refused`), no answer in time
    (`connect-timeout`), no route (`no-route`), closed before a word was said
    (`closed-at-accept`), TLS failed (`handshake-failed`, `handshake-timeout`),
    anything else (`connect-failed`). Try again later, or another server.
    """


class UntrustedServer(ClientError):  # noqa: N818
    """
    The server's key is not the one that is known for it (`key-changed`), none is
    known (`key-unknown`), it is no usable key (`key-unusable`), or, without TLS, the
    server did not prove to hold it (`no-proof`). Nothing was asked.

    Attributes:
        server: Who was called.
        key: What it showed; None where it cannot be used as a key.
        known: The keys that are stored for this server.
        address: Where it was reached; empty if that is not known.
    """

    def __init__(
        self,
        code: str,
        text: str,
        server: ServerAddress,
        key: PublicKey | None,
        known: tuple[PublicKey, ...] = (),
        address: str = "",
    ) -> None:
        super().__init__(code, text)
        self.server = server
        self.key = key
        self.known = known
        self.address = address


class Rejected(ClientError):  # noqa: N818
    """
    The server ended the connection when it knew who we are: it does not trust our
    key or our user name (`not-trusted`), or it did not go on with the dialog
    (`dialog-failed`, `dialog-timeout`).
    """


class ConnectionBroken(ClientError):  # noqa: N818
    """
    An open connection ended before the answer: `closed`, `reset`, `timeout` (nothing
    came for too long), `too-slow`, `early-data` (we spoke first, to a server that is
    not what it was), or our own doing: `closed`, `aborted`, or the word that was given
    for it. Requests may be repeated on a new one.
    """


class BadAnswer(ClientError):  # noqa: N818
    """
    What came is no answer to what was asked (`out-of-step`, `bad-status`,
    `bad-listing`, `bad-reply`, `too-large`), or a file has `changed` while it was read,
    which only encrypted content tells. The connection has been dropped: nothing
    that comes after can be believed.
    """


class Refused(ClientError):  # noqa: N818
    """
    The server answered this one request with an error text; the connection goes on.
    `refused` is the refusal that means both missing and forbidden, `clock` that the
    clocks are an hour apart, `error` anything else.

    Attributes:
        path: What was asked for.
        reply: The server's words, all of them; the message shows the first 300.
    """

    def __init__(self, code: str, path: bytes, reply: bytes) -> None:
        words = to_text(reply[:MAX_WORDS]) + ("..." if len(reply) > MAX_WORDS else "")
        super().__init__(code, f"{to_text(path)}: the server says {words}")
        self.path = path
        self.reply = reply
