# SPDX-License-Identifier: MIT
"""
Connections to a server that inventories are sent to: TLS, and the decision whether it
is the server that is meant, before anything else goes over them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from attrs import define, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_ASN1, X509, dump_certificate
from OpenSSL.crypto import Error as CryptoError
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    fail,
    maybeDeferred,
    succeed,
)
from twisted.internet.error import ConnectingCancelledError, ConnectionLost
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from nodecomm.identity.servers import ServerDecision
from nodecomm.inventory.upstream_errors import (
    CertificateRefused,
    Transient,
    UntrustedServer,
)
from nodecomm.inventory.upstream_trust import IServerCheck, ShownKey, problem_text
from nodecomm.transport.errors import describe

__all__ = [
    "CheckedConnection",
    "CheckedEndpoint",
    "ClientCertificate",
    "is_about_ours",
]

#: What a server may send before the answer to a request is whole. An answer has a
#: line or two, or some page in HTML.
_MAX_ANSWER = 64 * 1024

#: Keys of 1024 bits do where the key itself is compared; see `SECURITY_LEVEL` of
#: connections.
_CIPHERS = b"DEFAULT@SECLEVEL=1"


_log = Logger("nodecomm.inventory")

#: What a server says, in OpenSSL's words, when it does not take a client's certificate.
_ABOUT_OURS = re.compile(r"alert .*(certificate|unknown ca)")


@frozen
class ClientCertificate:
    """
    A certificate that says who we are, for servers that ask.

    Attributes:
        certificate: Shown to the server, once it is known to be the right one.
        key: Its private key.
    """

    certificate: x509.Certificate
    key: RSAPrivateKey


@define(eq=False)
class _Handshake:
    """
    What was found out about a server while the handshake went on.
    """

    check: IServerCheck
    server: str
    problem: str = ""
    decision: ServerDecision | None = None
    shown: ShownKey | None = None

    def saw(self, certificate: X509, error: int, depth: int, ok: int) -> bool:
        """
        OpenSSL has looked at one certificate of the chain.
        """
        if self.check.authorities is not None and not ok:
            self.problem = self.problem or problem_text(error)
            if depth > 0:
                # The decision is made at the server's own, which comes last.
                return True
        if depth > 0:
            return True
        return self.judge(certificate)

    def judge(self, certificate: X509 | None) -> bool:
        """
        Decide by the server's own certificate. Never fails.
        """
        try:
            self.decision = self._judge(certificate)
        except Exception as error:
            # Whoever decides may be somebody else's code.
            _log.failure("a server cannot be checked", event="upstream.failed")
            text = f"{self.server} cannot be checked: {error!r}"
            self.decision = ServerDecision(False, "check-failed", text)
        return bool(self.decision)

    def _judge(self, certificate: X509 | None) -> ServerDecision:
        if certificate is None:
            text = f"{self.server} shows no certificate"
            return ServerDecision(False, "key-unusable", text)
        try:
            encoded = dump_certificate(FILETYPE_ASN1, certificate)
            self.shown = ShownKey.from_certificate(encoded, self.problem)
        except (ValueError, SSL.Error, CryptoError):
            text = f"the certificate of {self.server} cannot be read"
            return ServerDecision(False, "key-unusable", text)
        return self.check.judge(self.server, self.shown)

    def refusal(self, decision: ServerDecision | None = None) -> UntrustedServer:
        """
        The error for a decision that says no.
        """
        decision = decision or self.decision
        assert decision is not None  # noqa: S101
        names = () if self.shown is None else self.shown.names
        return UntrustedServer(decision.text, decision.code, names)


@implementer(IHandshakeListener)
class CheckedConnection(Protocol):
    """
    A connection over TLS to a server that is known to be the right one; what is spoken
    over it begins only then.

    Attributes:
        requests: How many requests were begun.
        heard: Bytes that came since the last of them.
        failure: Why it was aborted, if it was aborted by us.
    """

    def __init__(self, handshake: _Handshake, clock: IReactorTime) -> None:
        self.requests = 0
        self.heard = 0
        self.failure: Transient | None = None
        self._moved: Callable[[], object] | None = None
        self._is_open = True
        self._handshake = handshake
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._inner: IProtocol | None = None
        self._lost: Callable[[], object] = lambda: None
        self._ready: Deferred[None] | None = None
        self._is_decided = False

    def wait(self, seconds: float) -> Deferred[None]:
        """
        Fires when the server is known to be the right one, in this time.
        """
        if self._is_decided:
            return succeed(None) if self.failure is None else fail(self.failure)
        self._timer = self._clock.callLater(seconds, self._late, seconds)
        self._ready = Deferred(lambda _: self.abort())
        return self._ready

    def carry(self, inner: IProtocol, lost: Callable[[], object]) -> None:
        """
        Speak *inner* from now on; *lost* is called when that is over.
        """
        self._inner = inner
        self._lost = lost
        assert self.transport is not None  # noqa: S101
        inner.makeConnection(self.transport)

    def begin(self, moved: Callable[[], object]) -> None:
        """
        A request begins. *moved* is called whenever something has come.
        """
        self._stop_timer()
        self._moved = moved
        self.requests += 1
        self.heard = 0
        self.failure = None

    @property
    def is_idle(self) -> bool:
        """
        Whether no request is under way.
        """
        return self._inner is not None and self._moved is None

    def rest(self, seconds: float) -> None:
        """
        A request has ended. If there is no other one in this time, the connection is
        cut, however it is being closed.
        """
        self._moved = None
        self._stop_timer()
        if self._is_open:
            self._timer = self._clock.callLater(seconds, self._cut)

    def _cut(self) -> None:
        self._timer = None
        self.abort()

    def abort(self, failure: Transient | None = None) -> None:
        """
        Close at once.
        """
        self._stop_timer()
        self.failure = self.failure or failure
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def handshakeCompleted(self) -> None:
        """
        The server has proved to have the key that it shows.
        """
        handshake = self._handshake
        connection = self.transport.getHandle()  # type: ignore[union-attr]
        # Once more, by what the handshake has ended with.
        if not handshake.judge(connection.get_peer_certificate()):
            self._end(handshake.refusal())
            return
        assert handshake.shown is not None  # noqa: S101
        kept: Deferred[ServerDecision] = maybeDeferred(
            handshake.check.keep, handshake.server, handshake.shown
        )
        kept.addCallbacks(self._kept, self._not_kept)

    def dataReceived(self, data: bytes) -> None:
        """Pass it on, unless it is too much."""
        self.heard += len(data)
        if self._inner is None:
            self._end(Transient("the server speaks before it was asked"))
        elif self.heard > _MAX_ANSWER:
            self.abort(Transient(f"the answer is longer than {_MAX_ANSWER} bytes"))
        else:
            if self._moved is not None:
                self._moved()
            self._inner.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Pass it on."""
        self._is_open = False
        self._stop_timer()
        if self._inner is None:
            self._decide(self.failure or self._why(reason))
            return
        self._lost()
        self._inner.connectionLost(reason)

    def _kept(self, decision: ServerDecision) -> None:
        if decision:
            self._decide(None)
        else:
            self._end(self._handshake.refusal(decision))

    def _not_kept(self, failure: Failure) -> None:
        self._end(Transient(f"the server's key cannot be kept: {failure.value}"))

    def _late(self, seconds: float) -> None:
        self._timer = None
        text = f"the TLS handshake was not over after {seconds:g} seconds"
        self._end(Transient(text))

    def _end(self, failure: Transient) -> None:
        self.abort()
        self._decide(failure)

    def _decide(self, failure: Transient | None) -> None:
        if self._is_decided:
            return
        self._is_decided = True
        self.failure = failure
        self._stop_timer()
        ready, self._ready = self._ready, None
        if ready is None:
            return
        if failure is None:
            ready.callback(None)
        else:
            ready.errback(failure)

    def _why(self, reason: Failure) -> Transient:
        decision = self._handshake.decision
        if decision is not None and not decision:
            return self._handshake.refusal()
        error = reason.value
        words = describe(error) if isinstance(error, SSL.Error) else ""
        if isinstance(error, ConnectionLost) or not words:
            words = "the server closed the connection in the TLS handshake"
        elif decision and is_about_ours(words):
            return CertificateRefused(words)
        return Transient(f"no TLS connection: {words}")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def is_about_ours(words: str) -> bool:
    """
    Whether a server, if it is the right one, says that by the certificate that we have
    shown: in the handshake, or of TLS 1.3 when an answer is waited for.
    """
    return _ABOUT_OURS.search(words) is not None


class _Secured(TLSMemoryBIOProtocol):
    """
    TLS over a stream of any kind.
    """

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Twisted asks for it of everything with TLS; it is not always TCP."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(enabled)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    def __init__(
        self, endpoint: CheckedEndpoint, handshake: _Handshake, name: bytes | None
    ) -> None:
        self._endpoint = endpoint
        self._handshake = handshake
        self._name = name

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._endpoint.context, None)
        self._endpoint.handshakes[connection] = self._handshake
        if self._name is not None:
            connection.set_tlsext_host_name(self._name)
        return connection


@implementer(IStreamClientEndpoint)
class CheckedEndpoint:
    """
    Connects to a server and makes sure that it is the right one.

    Args:
        clock: For time limits.
        endpoint: The way to the server, without TLS.
        host: What the server is called: a name or an address.
        port: Its port.
        check: Decides whether it is the right one.
        connect: Seconds until there must be a connection.
        handshake: Seconds that TLS and the decision may take.
        certificate: Who we are, for servers that ask.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        host: str,
        port: int,
        check: IServerCheck,
        *,
        connect: float,
        handshake: float,
        certificate: ClientCertificate | None = None,
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        literal = isIPAddress(host) or isIPv6Address(host)
        shown = f"[{host}]" if ":" in host else host
        self._server = f"{shown}:{port}"
        self._name = None if literal else host.encode("ascii")
        self._check = check
        self._connect_seconds = connect
        self._handshake_seconds = handshake
        self.show(certificate)
        #: Those that go on.
        self.handshakes: WeakKeyDictionary[SSL.Connection, _Handshake]
        self.handshakes = WeakKeyDictionary()
        #: What each protocol is spoken over, while there is a connection.
        self.connections: dict[Any, CheckedConnection] = {}

    def show(self, certificate: ClientCertificate | None) -> None:
        """
        Show servers that ask another certificate from now on, or none.
        """
        self.context = _context(self._check, certificate, self._saw)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Fires when something may be sent.
        """
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    def cut_idle(self) -> None:
        """
        Close the connections at once over which nothing is under way.
        """
        for connection in tuple(self.connections.values()):
            if connection.is_idle:
                connection.abort()

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        handshake = _Handshake(self._check, self._server)
        connection = CheckedConnection(handshake, self._clock)
        creator = _Creator(self, handshake, self._name)
        above = Factory.forProtocol(lambda: connection)
        above.noisy = False
        tls = TLSMemoryBIOFactory(creator, True, above, self._clock)
        tls.protocol = _Secured
        reaching = self._endpoint.connect(tls)
        timer = self._clock.callLater(self._connect_seconds, reaching.cancel)
        try:
            await reaching
        except (CancelledError, ConnectingCancelledError):
            if timer.active():
                raise
            text = f"no connection after {self._connect_seconds:g} seconds"
            raise Transient(text) from None
        finally:
            if timer.active():
                timer.cancel()
        await connection.wait(self._handshake_seconds)
        transport: Any = connection.transport
        inner = factory.buildProtocol(transport.getPeer())
        if inner is None:
            connection.abort()
            raise Transient("nothing is to be spoken over the connection")
        self.connections[inner] = connection
        connection.carry(inner, lambda: self.connections.pop(inner, None))
        return inner

    def _saw(
        self,
        connection: SSL.Connection,
        certificate: X509,
        error: int,
        depth: int,
        ok: int,
    ) -> bool:
        return self.handshakes[connection].saw(certificate, error, depth, ok)


def _context(
    check: IServerCheck, certificate: ClientCertificate | None, saw: Any
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    if check.authorities is None:
        # Nothing in the certificate counts but the key; no chain is looked at.
        context.set_cipher_list(_CIPHERS)
        context.set_verify_depth(0)
    else:
        check.authorities.load(context)
    context.set_verify(SSL.VERIFY_PEER, saw)
    if certificate is not None:
        # A small key is none for OpenSSL where authorities count; passwords do then.
        with contextlib.suppress(SSL.Error):
            context.use_certificate(certificate.certificate)
            context.use_privatekey(certificate.key)
    return context
