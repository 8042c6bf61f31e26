# SPDX-License-Identifier: MIT
"""
TLS over any transport: in-memory tests, wrapped endpoints, whatever has no socket.

Not Twisted's own TLS layer, because that one merges the writes of a reactor turn
and cuts the result at 16384 bytes, which real peers do not survive, and its
unbuffered form closes only after the peer has agreed to.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

from OpenSSL import SSL
from twisted.internet import main
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocol,
)
from zope.interface import implementer

from nodecomm.transport.errors import TLSFailure, describe, failure_of
from nodecomm.transport.facts import Stage, TLSFacts
from nodecomm.transport.interfaces import MAX_RECORD, ITLSRecords
from nodecomm.transport.over import OverTransport, call

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from nodecomm.transport.limits import HandshakeGate, HandshakeTicket

#: Ciphertext moved between OpenSSL and the lower transport at a time, in bytes.
_CHUNK = 65536


@implementer(ITLSRecords, IProtocol)
class TLSOverTransport(TLSFacts, OverTransport):
    """
    A TLS connection over another transport, of which it is the protocol.

    Attributes:
        stage: Where in its life the connection is.
        close_notify_received: Whether the peer sent the TLS close.
    """

    _send_errors = SSL.Error

    def __init__(
        self,
        context: SSL.Context,
        protocol: IProtocol,
        reactor: IReactorTime,
        *,
        server: bool = True,
        gate: HandshakeGate | None = None,
        handshake_timeout: float | None = None,
        asker: str = "",
    ) -> None:
        super().__init__(protocol, reactor)
        self._asker = asker
        self.close_notify_received = False
        self._context = context
        self._server = server
        self._gate = gate
        self._ticket: HandshakeTicket | None = None
        self._handshake_timeout = handshake_timeout
        self._timer: IDelayedCall | None = None
        self._step_asked = False
        self._connection: SSL.Connection | None = None
        self._early = bytearray()
        self._read_ended = False

    # From below.

    def makeConnection(self, transport: Any) -> None:
        """
        The transport below is there: give ours to the protocol, begin the handshake.
        """
        connection = SSL.Connection(self._context, None)
        if self._server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        self._connection = connection
        self._attach(transport)
        protocol = self.protocol
        if protocol is not None:
            protocol.makeConnection(self)
        if self.stage is not Stage.WAITING:
            return
        if self._gate is None:
            self._begin(None)
        else:
            self._ticket = self._gate.enter(self._begin, self._asker)
            if self.stage is Stage.WAITING:
                call(transport, "pauseProducing")

    def _begin(self, ticket: HandshakeTicket | None) -> None:
        if self.stage is not Stage.WAITING:
            return
        self._ticket = ticket
        self.stage = Stage.HANDSHAKING
        if self._handshake_timeout is not None:
            self._timer = self._reactor.callLater(
                self._handshake_timeout, self._handshake_too_late
            )
        call(self.transport, "resumeProducing")
        early, self._early = bytes(self._early), bytearray()
        self._feed(early)
        self._handshake_step()

    def dataReceived(self, data: bytes) -> None:
        """
        Ciphertext from the peer.
        """
        if self.stage is Stage.WAITING:
            self._early += data
        elif self.stage is Stage.HANDSHAKING:
            self._feed(data)
            self._handshake_step()
        elif self.stage is Stage.OPEN and not self._read_ended:
            self._feed(data)
            if not self._read_paused:
                self._drain()

    def _feed(self, data: bytes) -> None:
        connection = self._connection
        rest = memoryview(data)
        while rest and connection is not None:
            rest = rest[connection.bio_write(rest) :]

    def connectionLost(self, reason: Failure) -> None:
        """
        The transport below has ended.
        """
        if self.stage is Stage.HANDSHAKING and self._reason is None:
            self._end(failure_of(TLSFailure("handshake: unexpected EOF")))
        else:
            self._end(self._reason or reason)

    # The handshake.

    def _handshake_step(self) -> None:
        if self._ticket is None:
            self._advance()
        elif not self._step_asked:
            self._step_asked = True
            self._ticket.step(self._advance)

    def _advance(self) -> None:
        self._step_asked = False
        connection = self._connection
        if connection is None or self.stage is not Stage.HANDSHAKING:
            return
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            self._flush_below()
            if self._ticket is not None:
                self._ticket.rest()
        except SSL.Error as error:
            self._flush_below()
            self._reason = failure_of(TLSFailure(f"handshake: {describe(error)}"))
            self._close_below()
        else:
            self._flush_below()
            self._open()

    def _open(self) -> None:
        self.stage = Stage.OPEN
        self._handshake_over()
        protocol = self.protocol
        if IHandshakeListener.providedBy(protocol):
            protocol.handshakeCompleted()
        self._flush()
        if not self._read_paused:
            self._drain()

    def _handshake_too_late(self) -> None:
        self._timer = None
        self.fail("handshake-timeout")

    def _handshake_over(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.leave()

    # Reading.

    def _drain(self) -> None:
        """
        Deliver what has arrived, until there is no more or the protocol has enough.
        """
        while (
            self.stage is Stage.OPEN
            and not self._read_paused
            and not self.disconnecting
            and not self._read_ended
        ):
            connection, protocol = self._connection, self.protocol
            if connection is None or protocol is None:
                return
            try:
                data = connection.recv(MAX_RECORD)
            except SSL.WantReadError:
                self._flush_below()
                return
            except SSL.ZeroReturnError:
                self.close_notify_received = True
                self._peer_closed()
                return
            except SSL.Error as error:
                self._flush_below()
                self._reason = failure_of(TLSFailure(f"tls: {describe(error)}"))
                self._close_below()
                return
            protocol.dataReceived(data)

    def _peer_closed(self) -> None:
        self._read_ended = True
        protocol = self.protocol
        if IHalfCloseableProtocol.providedBy(protocol):
            protocol.readConnectionLost()
        elif not self.disconnecting:
            self._reason = failure_of(main.CONNECTION_DONE)
            self._say_goodbye()

    # Writing: the rest is in `OverTransport`.

    def _send(self, data: bytes) -> int:
        connection = self._connection
        if connection is None:
            return 0
        sent = connection.send(data)
        self._flush_below()
        return sent

    def _failed(self, error: Exception) -> Exception:
        return TLSFailure(f"tls: {describe(cast('SSL.Error', error))}")

    def _flush_below(self) -> None:
        """
        Hand the ciphertext that OpenSSL has made to the transport below.
        """
        while self._connection is not None and self.transport is not None:
            try:
                data = self._connection.bio_read(_CHUNK)
            except SSL.Error:
                return
            self.transport.write(data)

    # The end.

    def _half_close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(SSL.Error):
                self._connection.shutdown()
            self._flush_below()

    def _say_goodbye(self) -> None:
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(SSL.Error):
                connection.shutdown()
            self._flush_below()
        self._close_below()

    def fail(self, reason: str) -> None:
        """
        Close at once; the protocol's `connectionLost` gets a `TLSFailure` with
        *reason*.
        """
        if self.connected:
            self._fail_soon(TLSFailure(reason))

    def _close_below(self) -> None:
        self._handshake_over()
        super()._close_below()

    def _end(self, reason: Failure) -> None:
        if self.stage is not Stage.LOST:
            self._handshake_over()
            self._connection = None
        super()._end(reason)
