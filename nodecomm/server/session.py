# SPDX-License-Identifier: MIT
"""
One TLS connection of a peer: who it is, then its requests.

1. The handshake ends; the peer's key is known. A key that is unknown under every
   name and outside every first-use window goes no further.
2. The server's line, the peer's two lines, and the decision about key and name.
3. The welcome, and from then on requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from twisted.internet.interfaces import IHandshakeListener
from zope.interface import implementer

from nodecomm.identity.keys import PublicKey
from nodecomm.identity.users import UntrustedUser, valid_user
from nodecomm.server.serving import RequestSession, SessionState
from nodecomm.wire.dialog import Identity, ServerDialog
from nodecomm.wire.errors import RemoteProtocolError

if TYPE_CHECKING:
    from nodecomm.identity.peer import Peer
    from nodecomm.identity.trust import TrustDecision
    from nodecomm.server.core import ServerFactory
    from nodecomm.transport.interfaces import ITLSRecords

__all__ = ["SessionState", "TLSSession"]


@implementer(IHandshakeListener)
class TLSSession(RequestSession):
    """
    The server's end of one connection of protocol 2 or 3.
    """

    transport: ITLSRecords

    def __init__(self, server: ServerFactory, peer: Peer) -> None:
        super().__init__(server, peer, SessionState.HANDSHAKE)
        self._dialog = ServerDialog(server.product)

    def handshakeCompleted(self) -> None:
        """
        The peer's key is known: is it worth listening to?
        """
        server = self._server
        self._moved = server.monotonic()
        self.transport.setTcpNoDelay(True)
        found = self.transport.peer_certificate_key()
        if not isinstance(found, RSAPublicKey):
            self._distrust(
                "not_rsa", "the peer's certificate holds no RSA key that can be used"
            )
            return
        self.peer.key = PublicKey.from_cryptography(found)
        self.state = SessionState.CHECKING_KEY
        self._ask(
            self._key_checked, server.trust.check_key, self.peer.key, self.peer.address
        )

    def _key_checked(self, decision: TrustDecision) -> None:
        if self.state is not SessionState.CHECKING_KEY:
            return
        if not decision.trusted:
            self._distrust(decision.code, decision.text)
            return
        self.state = SessionState.DIALOG
        self._moved = self._server.monotonic()
        hello = self._dialog.hello()
        self._said("sent", hello)
        self.transport.write(hello)
        self._take_early()

    def _dialog_data(self, data: bytes) -> None:
        self._said("received", data)
        try:
            events = self._dialog.receive_data(data)
            for event in events:
                if isinstance(event, Identity):
                    self._early += self._dialog.trailing()
                    self._identified(valid_user(event.user))
        except RemoteProtocolError as error:
            self._distrust("bad_dialog", f"bad identification: {error}")
        except UntrustedUser as error:
            self._distrust("bad_user", str(error))

    def _identified(self, user: str) -> None:
        peer = self.peer
        peer.user = user
        peer.protocol = self._dialog.version
        peer.encrypted = True
        self.state = SessionState.TRUSTING
        if peer.key is None:
            raise RuntimeError("identified without a key")
        self._ask(
            self._identity_checked,
            self._server.trust.check_identity,
            peer.key,
            user,
            peer.address,
        )

    def _identity_checked(self, decision: TrustDecision) -> None:
        if self.state is not SessionState.TRUSTING:
            return
        if not decision.trusted:
            self._distrust(decision.code, decision.text)
            return
        server = self._server
        if decision.first_use:
            server.events.trust_accepted(self.peer, decision.code, decision.text)
        server.session_trusted(self)
        self.state = SessionState.PREPARING
        welcome = self._dialog.welcome()
        self._said("sent", welcome)
        self.transport.write(welcome)
        server.events.opened(
            self.peer, self.transport.tls_version, self.transport.cipher
        )
        self._trusted()
