# SPDX-License-Identifier: MIT
"""
TLS for the site that takes inventories.

TLS is made here, above whatever stream the bytes come on, so that every endpoint will
do. Nodes do not ask who has issued the server's certificate: they compare its key with
the one that they know from connections, or nothing. So it is made from that key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet.interfaces import IProtocolFactory, ISSLTransport
from twisted.logger import Logger
from zope.interface import implementer

from nodecomm.identity.keys import KeyPair, PublicKey, UnusableKey, check_sane
from nodecomm.inventory.lines import LineLimit
from nodecomm.inventory.own import node_certificate
from nodecomm.server.admission import peer_address
from nodecomm.transport.context import certificate_key
from nodecomm.transport.errors import TLSFailure
from nodecomm.transport.facts import Stage
from nodecomm.transport.limits import HandshakeGate
from nodecomm.transport.memory import TLSOverTransport

if TYPE_CHECKING:
    from OpenSSL.crypto import X509
    from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime
    from twisted.python.failure import Failure

__all__ = [
    "CertificateError",
    "OverTLS",
    "certificate_from_files",
    "own_key_certificate",
    "peer_key",
]

#: Seconds that a handshake may take, and handshakes that are worked on at a time.
HANDSHAKE_TIMEOUT = 30.0
HANDSHAKES_AT_ONCE = 32

#: Lines that are stated in a minute about handshakes that failed.
_LINES = 10

#: How the reason of a failed handshake begins, and what it ends with if somebody has
#: only looked whether the port is open.
_HANDSHAKE = "handshake: "
_LEFT = "unexpected EOF"

#: What OpenSSL calls a request of HTTP where TLS should begin.
_PLAIN = ("http request", "https proxy request")

#: What a session would be resumed in; OpenSSL wants a name where certificates of
#: clients are asked for. None is resumed.
_SESSION_ID = b"nodecomm-inventory"


class CertificateError(Exception):
    """
    A certificate or its key cannot be used. The text names the file; put the right ones
    there, or write `certificate = "own-key"`.
    """


def own_key_certificate(pair: KeyPair, server_id: str, now: datetime) -> SSL.Context:
    """
    A context with a certificate made from the server's own key, for its id. It is made
    anew at each start, which nobody notices who compares keys.

    Source: Rudder 7.0, whose web server has the certificate of its agent.

    Raises:
        CertificateError: OpenSSL does not take a key like that for TLS; one of less
            than 2048 bits, for example.
    """
    context = _context()
    try:
        context.use_certificate(node_certificate(pair, server_id, now))
        context.use_privatekey(pair.private)
    except SSL.Error as error:
        raise CertificateError(f"the server's own key: {_words(error)}") from error
    return context


def certificate_from_files(certificate: str, key: str) -> SSL.Context:
    """
    A context with a certificate from a file in PEM form, those of its issuers behind
    it, and with its key.

    Raises:
        CertificateError: They cannot be read, or do not belong together.
    """
    context = _context()
    try:
        with open(certificate, "rb") as file:
            first, *issuers = x509.load_pem_x509_certificates(file.read())
        context.use_certificate(first)
        for issuer in issuers:
            context.add_extra_chain_cert(issuer)
    except (OSError, ValueError, SSL.Error) as error:
        raise CertificateError(f"{certificate}: {_words(error)}") from error
    try:
        with open(key, "rb") as file:
            # One with a passphrase is refused: nobody is there to be asked.
            private = load_pem_private_key(file.read(), None)
        context.use_privatekey(private)  # type: ignore[arg-type]
        context.check_privatekey()
    except (OSError, ValueError, TypeError, SSL.Error) as error:
        raise CertificateError(f"{key}: {_words(error)}") from error
    return context


@implementer(IProtocolFactory)
class OverTLS:
    """
    TLS around the connections of another factory; any endpoint may listen with it.

    Handshakes take turns: many at once do not hold up what else the reactor does, and
    many of one address not those of others.

    Args:
        context: The server's certificate and key.
        factory: Who is behind it, an `UploadSite` for example.
        reactor: For time.
        ask_for_keys: Whether clients are asked for a certificate. Those that have none
            are welcome, too; `peer_key` tells the key of those that have.
        handshake_timeout: Seconds that a handshake may take.
        gate: Has handshakes take turns; one of its own if not given.
    """

    _log = Logger("nodecomm.inventory")

    def __init__(
        self,
        context: SSL.Context,
        factory: IProtocolFactory,
        *,
        reactor: IReactorTime,
        ask_for_keys: bool = False,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        gate: HandshakeGate | None = None,
    ) -> None:
        self._factory = factory
        self._reactor = reactor
        self._ask_for_keys = ask_for_keys
        self._handshake_timeout = handshake_timeout
        self._gate = gate or HandshakeGate(reactor, HANDSHAKES_AT_ONCE)
        self._lines = LineLimit(reactor, _LINES, self._tell_more)
        self.show(context)

    def show(self, context: SSL.Context) -> None:
        """
        Have new connections see another certificate; those that are there stay.
        """
        if self._ask_for_keys:
            # Everything is accepted: it is an envelope for the key, as in connections.
            context.set_verify_depth(0)
            context.set_verify(SSL.VERIFY_PEER, _accept)
        self._context = context

    def doStart(self) -> None:
        """A port listens."""
        self._factory.doStart()

    def doStop(self) -> None:
        """A port listens no longer."""
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        """
        TLS, and above it what the other factory makes for the address.
        """
        protocol = self._factory.buildProtocol(addr)
        if protocol is None:
            return None
        host = peer_address(addr)[0]
        stream = _Stream(
            self._context,
            protocol,
            self._reactor,
            gate=self._gate,
            handshake_timeout=self._handshake_timeout,
            asker=host,
        )
        stream.no_handshake = partial(self._no_handshake, host)
        return stream

    def _tell_more(self, count: int) -> None:
        self._log.warn(
            "{count} more TLS handshakes for inventories failed in a minute",
            event="inventory.no-tls-more",
            count=count,
        )

    def _no_handshake(self, host: str, reason: str) -> None:
        """
        State who could not be spoken to, unless too many could not just now.
        """
        if not self._lines.allows():
            return
        advice = ""
        if reason in _PLAIN:
            advice = (
                ": it speaks HTTP without TLS; have it use an address that begins with"
                " https://, or write `plain = true` if it is a proxy of yours"
            )
        self._log.warn(
            "no TLS with {peer} for inventories, {reason}{advice}",
            event="inventory.no-tls",
            peer=host,
            reason=reason,
            advice=advice,
        )


def peer_key(transport: Any) -> PublicKey | None:
    """
    The key that the client at the other end of a connection has proved to have; None
    if it has shown none, or one that is not fit for that.
    """
    if isinstance(transport, _Stream):
        key = transport.peer_certificate_key()
    else:
        # Somebody else's TLS.
        handle = getattr(transport, "getHandle", lambda: None)()
        if not isinstance(handle, SSL.Connection):
            return None
        key = certificate_key(handle)
    try:
        if key is None:
            return None
        found = PublicKey.from_cryptography(key)
        check_sane(found)
    except UnusableKey:
        return None
    return found


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(
        SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET
    )
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(_SESSION_ID)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_alpn_select_callback(_choose)
    return context


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, SSL.Error):
        told = error.args[0] if error.args else ()
        return "; ".join(each[2] for each in told) or "cannot be used"
    if isinstance(error, TypeError):
        return "the key has a passphrase"
    return "cannot be read as PEM"


def _accept(*_arguments: object) -> bool:
    return True


def _choose(_connection: SSL.Connection, offered: Sequence[bytes]) -> Any:
    """
    HTTP/1.1, for who asks. Of HTTP/2 Twisted shows no request before its content.
    """
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


@implementer(ISSLTransport)
class _Stream(TLSOverTransport):  # type: ignore[override]  # any address
    """
    A stream, in which it does not matter where records begin.
    """

    #: Told why there was no handshake, in OpenSSL's words.
    no_handshake: Callable[[str], object] = lambda _: None

    def _end(self, reason: Failure) -> None:
        text = str(reason.value) if isinstance(reason.value, TLSFailure) else ""
        if self.stage is not Stage.LOST and text.startswith(_HANDSHAKE):
            text = text[len(_HANDSHAKE) :]
            if text != _LEFT:
                self.no_handshake(text)
        super()._end(reason)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send all of it in one."""
        self.write(b"".join(iovec))

    def getPeerCertificate(self) -> X509 | None:
        """What the peer has shown, whatever that is."""
        connection = self._connection
        return None if connection is None else connection.get_peer_certificate()
