# SPDX-License-Identifier: MIT
"""
What the sessions need of a TLS transport, and what it asks of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import (
    IConsumer,
    IHandshakeListener,
    IPushProducer,
    ITransport,
)
from zope.interface import Attribute

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

#: The most plaintext one TLS record may hold, in bytes (RFC 8446, 5.1).
MAX_RECORD = 16384


class ITLSRecords(ITransport, IConsumer, IPushProducer):
    """
    A TLS connection that lets the writer decide where records begin and end.

    One `write` of at most `MAX_RECORD` bytes leaves as exactly one record: real
    peers read a frame with one call and take a frame cut by a record for an error.
    A longer write is a raw stream, cut anywhere. `writeSequence` is one such write
    per item. `loseConnection` waits for what is queued and for a registered
    producer, sends the TLS close and closes; `pauseProducing` and `resumeProducing`
    stop and start reading.
    """

    tls_version: str = Attribute(
        "The negotiated version, such as `TLSv1.3`; empty before the handshake."
    )
    cipher: str = Attribute("The negotiated suite; empty before the handshake.")
    write_pending: int = Attribute(
        "Bytes of plaintext accepted by `write` and not yet handed to OpenSSL in whole."
    )
    close_notify_received: bool = Attribute(
        "Whether the peer ended with the TLS close. A connection that ends with a"
        " plain end of stream is `ConnectionDone` too; this tells the two apart."
    )

    def abortConnection() -> None:
        """
        Close at once, dropping what is queued; the peer sees a reset.
        """

    def loseWriteConnection() -> None:
        """
        Say with the TLS close that nothing more will be written, and go on reading:
        whoever wants to see the peer's end before it connects again calls this and
        waits for `connectionLost`. Real peers then end the connection. While
        something is still queued it is `loseConnection`.
        """

    def peer_certificate_key() -> PublicKeyTypes | None:
        """
        The key in the peer's certificate, whatever its kind; None when there is no
        certificate or its key cannot be read. Nothing else of the certificate is
        looked at: real peers' certificates break the rules for them.
        """

    def setTcpNoDelay(enabled: bool) -> None:
        """
        Switch TCP_NODELAY; without effect where there is no TCP below.
        """

    def getTcpNoDelay() -> bool:
        """
        Whether TCP_NODELAY is on.
        """

    def setTcpKeepAlive(enabled: bool) -> None:
        """
        Switch TCP keep-alive; without effect where there is no TCP below.
        """

    def getTcpKeepAlive() -> bool:
        """
        Whether TCP keep-alive is on.
        """


class ITLSSession(IHandshakeListener):
    """
    A protocol above `ITLSRecords`. `makeConnection` is called when TLS has been
    chosen, `handshakeCompleted` when the peer's key is known; `dataReceived` never
    comes before that.
    """
