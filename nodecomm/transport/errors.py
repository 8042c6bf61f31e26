# SPDX-License-Identifier: MIT
"""
Why a connection ended, for those who log it.
"""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure


class StreamFailure(ConnectionLost):
    """
    The connection ended, not through either side closing it in order.

    Attributes:
        reason: A short text for the log: `tcp:` followed by the words of the
            operating system.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class TLSFailure(StreamFailure):
    """
    The connection ended through TLS.

    Attributes:
        reason: A short text for the log: `handshake-timeout`, `handshake:` or `tls:`
            followed by the words of OpenSSL, or of the operating system.
    """


def describe(error: SSL.Error) -> str:
    """
    The words of OpenSSL, or of the operating system, for *error*.
    """
    arguments = error.args
    if isinstance(error, SSL.SysCallError):
        return str(arguments[-1])
    if isinstance(error, SSL.ZeroReturnError):
        return "closed by the peer"
    queue = arguments[0] if arguments else None
    if not queue:
        # What OpenSSL 4 leaves in its queue when the peer just hangs up.
        return "unexpected EOF"
    return "; ".join(str(entry[-1]) for entry in queue)


def failure_of(error: Exception) -> Failure:
    """
    The failure that Twisted's interfaces want in the place of *error*.
    """
    return Failure(error)  # type: ignore[no-untyped-call]
