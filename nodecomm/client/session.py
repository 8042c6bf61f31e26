# SPDX-License-Identifier: MIT
"""
A connection to a server through TLS: the handshake, the dialog, then requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IHandshakeListener
from zope.interface import implementer

from nodecomm.client import endings
from nodecomm.client.connection import Connection
from nodecomm.client.stages import TABLE, Stage, Step
from nodecomm.wire.dialog import ServerHello
from nodecomm.wire.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.errors import ClientError
    from nodecomm.client.trust import IAcquaintance
    from nodecomm.wire.dialog import ClientDialog

__all__ = ["ClientSession"]

#: How a nodecomm server's product begins.
_NODECOMM = b"nodecomm-server"


@implementer(IHandshakeListener)
class ClientSession(Connection):
    """
    One connection through TLS; `Dialer.connect` makes it.

    Attributes:
        early: Whether our lines left before the server's first line came. The
            product is what the server called itself last time, then, until that
            line has come.
    """

    opened: Deferred[ClientSession]

    _table = TABLE
    _first = Stage.HANDSHAKING
    _dialog_stages = frozenset({Stage.GREETING, Stage.IDENTIFYING})

    protected = True
    links = False

    def __init__(
        self,
        server: ServerAddress,
        dialog: ClientDialog,
        acquaintance: IAcquaintance,
        **more: Any,
    ) -> None:
        super().__init__(server, acquaintance, **more)
        self._acquaintance = acquaintance
        self.early = False
        self._dialog = dialog
        self._dialog_trip = 0
        self._hello_seen = False

    @property
    def version(self) -> int:
        """
        The protocol version that is spoken.
        """
        return self._dialog.version

    @property
    def is_nodecomm(self) -> bool:
        """
        Whether the server is nodecomm, as far as is known.
        """
        return self.product.startswith(_NODECOMM)

    def handshakeCompleted(self) -> None:
        """
        The server has proved to hold its key: may it?
        """
        if self.stage is not Stage.HANDSHAKING:
            return
        transport = self._transport
        self._pipeline.round_trips += 1 if transport.tls_version == "TLSv1.3" else 2
        # In TLS 1.2 the server has the last word, and its first line comes with it.
        self._dialog_trip = self.round_trips + (transport.tls_version == "TLSv1.3")
        self._fire(Step.HANDSHAKEN)
        self._judge(transport.peer_certificate_key())

    def _trusted(self) -> None:
        self._await_dialog()
        self._transport.resumeProducing()
        recalled = self._acquaintance.recall(self.server_key)
        if recalled is not None and recalled.newest >= self._dialog.version:
            self.product = recalled.product
            self.early = True
            self._identify()

    def _identify(self) -> None:
        """
        Send our lines; requests may follow at once.
        """
        self._dialog_trip = self.round_trips + 1
        for line in self._dialog.lines():
            self.write_record(line)
        self._fire(Step.IDENTIFIED)
        self._ready()

    def _read_dialog(self, data: bytes) -> bytes:
        """
        Read the server's lines; returns what follows them.
        """
        if self.stage not in self._dialog_stages:
            return b""
        dialog = self._dialog
        try:
            events = dialog.receive_data(data)
            for event in events:
                if isinstance(event, ServerHello):
                    self._greeted(event)
                else:
                    self._welcomed()
        except RemoteProtocolError as error:
            self._dialog_failed(str(error))
            return b""
        return dialog.trailing() if self.stage is Stage.OPEN else b""

    def _greeted(self, hello: ServerHello) -> None:
        self._hello_seen = True
        self._advance()
        self.product = hello.product
        self._acquaintance.greeted(self.server_key, hello.newest, hello.product)
        if self.stage is Stage.GREETING:
            self._identify()

    def _advance(self) -> None:
        """
        A line of the server ends a round trip.
        """
        pipeline = self._pipeline
        pipeline.round_trips = max(pipeline.round_trips, self._dialog_trip)

    def _welcomed(self) -> None:
        if self.stage is not Stage.IDENTIFYING:
            return
        self._advance()
        self._fire(Step.WELCOMED)
        self._accepted()

    def _dialog_failed(self, what: str) -> None:
        if self.early and not self._hello_seen:
            self._acquaintance.mistaken()
            self._end(endings.too_early(self.server, what))
        else:
            self._end(endings.dialog_failed(self.server, what))

    def _dialog_late(self) -> Callable[[], ClientError]:
        return endings.dialog_timeout(self.server, self._timeouts.dialog)

    def _why_unopened(
        self, stage: Stage, error: BaseException
    ) -> Callable[[], ClientError]:
        if stage is Stage.HANDSHAKING:
            return endings.handshake_failed(self.server, self._address, error)
        alert = endings.alert(error)
        if self.early and not self._hello_seen:
            self._acquaintance.mistaken()
            what = alert or "it ended the connection before its first line"
            return endings.too_early(self.server, what)
        if alert:
            return endings.dialog_failed(self.server, alert)
        # A server of ours looks at the key before it says its first line.
        return endings.not_trusted(self.server, *self._acquaintance.own_name())
