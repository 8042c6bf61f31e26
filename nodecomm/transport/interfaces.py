# SPDX-License-Identifier: MIT
"""
What the sessions need of a transport, and what it asks of them.
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


class IByteStream(ITransport, IConsumer, IPushProducer):
    """
    A connection, with or without TLS.

    `writeSequence` is one `write` per item. `loseConnection` waits for what is
    queued and for a registered producer before it closes; `pauseProducing` and
    `resumeProducing` stop and start reading.
    """

    tls_version: str = Attribute(
        "The negotiated version, such as `TLSv1.3`; empty before the handshake and"
        " without TLS."
    )
    cipher: str = Attribute(
        "The negotiated suite; empty before the handshake and without TLS."
    )
    write_pending: int = Attribute(
        "Bytes accepted by `write` and not yet handed in whole to OpenSSL, or to the"
        " system."
    )

    def abortConnection() -> None:
        """
        Close at once, dropping what is queued; the peer sees a reset.
        """

    def loseWriteConnection() -> None:
        """
        Say that nothing more will be written, and go on reading: whoever wants to
        see the peer's end before it connects again calls this and waits for
        `connectionLost`. Real peers then end the connection. While something is
        still queued it is `loseConnection`.
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


class ITLSRecords(IByteStream):
    """
    A TLS connection that lets the writer decide where records begin and end.

    One `write` of at most `MAX_RECORD` bytes leaves as exactly one record: real
    peers read a frame with one call and take a frame cut by a record for an error.
    A longer write is a raw stream, cut anywhere. `loseConnection` and
    `loseWriteConnection` send the TLS close.
    """

    close_notify_received: bool = Attribute(
        "Whether the peer ended with the TLS close. A connection that ends with a"
        " plain end of stream is `ConnectionDone` too; this tells the two apart."
    )

    def peer_certificate_key() -> PublicKeyTypes | None:
        """
        The key in the peer's certificate, whatever its kind; None when there is no
        certificate or its key cannot be read. Nothing else of the certificate is
        looked at: real peers' certificates break the rules for them.
        """


class IPlainStream(IByteStream):
    """
    A connection without TLS: what is written is a stream, cut anywhere.

    `loseConnection` sends what is queued, ends our side, and drops what the peer
    still sends until it ends, too: closing while something unread is here would be a
    reset, which can take our last words from the peer. Whoever closes bounds the
    time that may take, and aborts.
    """


class IFileStream(IPlainStream):
    """
    A connection without TLS into which the system puts a file's content by itself.
    """

    def send_file(descriptor: int, offset: int, size: int) -> int:
        """
        Send at most *size* (1 or more) bytes of the file from *offset*, now, as many
        as the system takes, and return how many that were. It waits for the disk
        where the file is not in memory.

        0 means that nothing can be sent now: something is queued before it, there is
        no room, or the connection has ended. A streaming producer has then been
        paused, and is resumed when there is room.

        Raises:
            EOFError: The file has no byte at *offset*.
            OSError: The file cannot be read, or not be sent this way (EINVAL).
        """


class ITLSSession(IHandshakeListener):
    """
    A protocol above `ITLSRecords`. `makeConnection` is called when TLS has been
    chosen, `handshakeCompleted` when the peer's key is known; `dataReceived` never
    comes before that.
    """
