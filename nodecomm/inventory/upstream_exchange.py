# SPDX-License-Identifier: MIT
"""
One request to a server that inventories are sent to, and its answer, in time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, cast

from attrs import field, frozen
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
)
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from nodecomm.inventory.upstream_connecting import (
    CheckedConnection,
    CheckedEndpoint,
    is_about_ours,
)
from nodecomm.inventory.upstream_content import Content
from nodecomm.inventory.upstream_errors import (
    CertificateRefused,
    SendFailed,
    Transient,
)
from nodecomm.transport.errors import describe
from nodecomm.wire.text import safe, to_text

__all__ = ["Answer", "Exchange", "SendTimeouts", "Stale"]

#: The longest pause that a server may ask for, in seconds.
_LONGEST_PAUSE = 24 * 3600.0

#: Characters of an answer that are told.
_TOLD = 200

#: Seconds after the end of a request in which a connection that is not used again is
#: closed in order. Then it is cut: the other side need not play along.
_REST = 15.0

#: How a network and another side can fail; all else is a mistake of ours.
_FAILURES = (
    CancelledError,
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    OSError,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    SSL.Error,
)


@frozen
class SendTimeouts:
    """
    How long each stage may take, in seconds.

    Attributes:
        connect: Until there is a connection, the look-up of the name included.
        handshake: TLS, and the decision about the server's key.
        silence: While nothing moves in either direction.
        whole: A request, from its connection to its answer.
    """

    connect: float = 20.0
    handshake: float = 15.0
    silence: float = 60.0
    whole: float = 900.0


@frozen
class Answer:
    """
    What a server said.

    Attributes:
        status: The code.
        body: What it consists of.
        retry_after: Seconds that it asks to wait; None if it does not.
        location: Where it says to go instead, safe to be shown.
    """

    status: int
    body: bytes
    retry_after: float | None = None
    location: str = ""

    @property
    def text(self) -> str:
        """
        The first line of its content, safe to be shown.
        """
        return _first_line(self.body)


class Stale(Exception):  # noqa: N818
    """
    A connection that was kept was of no use any more.
    """


@implementer(IAgentEndpointFactory)
@frozen
class _Endpoints:
    endpoint: CheckedEndpoint

    def endpointForURI(self, uri: object) -> CheckedEndpoint:
        return self.endpoint


@frozen
class _Taking:
    """
    A pool of connections that tells which one was taken.
    """

    _pool: Any
    _taken: Callable[[Any], Any]
    persistent: bool = field(default=True, init=False)

    def getConnection(self, key: Any, endpoint: Any) -> Deferred[Any]:
        taken: Deferred[Any] = self._pool.getConnection(key, endpoint)
        return taken.addCallback(self._taken)


class _Body(Protocol):
    """
    The content of an answer; the connection sees to it that it is short.
    """

    def __init__(self, whole: Deferred[bytes]) -> None:
        self._whole = whole
        self._pieces: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if isinstance(reason.value, (ResponseDone, PotentialDataLoss)):
            self._whole.callback(b"".join(self._pieces))
        else:
            self._whole.errback(reason)


class Exchange:
    """
    One request and its answer.

    Args:
        clock: The reactor.
        endpoint: Makes connections.
        connections: Keeps them.
        timeouts: How long what may take.
    """

    def __init__(
        self,
        clock: Any,
        endpoint: CheckedEndpoint,
        connections: HTTPConnectionPool,
        timeouts: SendTimeouts,
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._connections = connections
        self._times = timeouts
        self._content: Content | None = None
        self._connection: CheckedConnection | None = None
        self._silence: IDelayedCall | None = None
        self._pending: Deferred[Any] | None = None
        self._late: Transient | None = None

    async def run(
        self, method: str, url: str, headers: Headers, content: Content | None = None
    ) -> Answer:
        """
        Ask, and read the answer.

        Args:
            method: GET or PUT. The answer to a GET must be whole; of a PUT the code
                will do.
            url: What about.
            headers: All that go with it.
            content: What is sent, which tells `moved` when it moves.

        Raises:
            SendFailed: There was no answer.
            Stale: As far as it is known, the connection had ended before.
            OSError: The content could not be read.
        """
        self._content = content
        whole = self._clock.callLater(
            self._times.whole, self._too_late, f"after {self._times.whole:g} seconds"
        )
        try:
            return await self._run(method, url, headers)
        except SendFailed:
            raise
        except _FAILURES as error:
            if self._is_given_up(error):
                self._abort()
                raise CancelledError from error
            raise self._failure(error) from error
        finally:
            if whole.active():
                whole.cancel()
            self._stop_silence()
            if self._connection is not None:
                self._connection.rest(_REST)

    def moved(self) -> None:
        """
        Something has moved.
        """
        if self._silence is not None:
            self._silence.reset(self._times.silence)

    async def _run(self, method: str, url: str, headers: Headers) -> Answer:
        agent: Agent = Agent.usingEndpointFactory(  # type: ignore[no-untyped-call]
            self._clock,
            _Endpoints(self._endpoint),
            cast(Any, _Taking(self._connections, self._taken)),
        )
        self._pending = agent.request(
            method.encode("ascii"), url.encode("ascii"), headers, self._content
        )
        response = await self._pending
        try:
            body = await self._body(response)
        except _FAILURES as error:
            if method == "GET" or self._is_given_up(error):
                raise
            # The code has been said; the rest is but words.
            body = b""
            self._abort()
        if self._content is not None and not self._content.is_complete:
            # It has answered before it had all, and does not want the rest.
            self._abort()
        values = response.headers.getRawHeaders
        return Answer(
            response.code,
            body,
            _pause(values("Retry-After"), values("Date")),
            _first_line((values("Location") or [""])[0].encode("utf-8", "replace")),
        )

    def _body(self, response: IResponse) -> Deferred[bytes]:
        self._pending = whole = Deferred[bytes]()
        response.deliverBody(_Body(whole))  # type: ignore[no-untyped-call]
        return whole

    def _taken(self, protocol: Any) -> Any:
        self._connection = self._endpoint.connections[protocol]
        self._connection.begin(self.moved)
        self._silence = self._clock.callLater(
            self._times.silence,
            self._too_late,
            f"for {self._times.silence:g} seconds nothing has moved",
        )
        return protocol

    def _too_late(self, when: str) -> None:
        self._silence = None if self._silence_is_over() else self._silence
        self._late = Transient(f"the server does not answer: {when}")
        self._abort()
        if self._pending is not None:
            self._pending.cancel()

    def _silence_is_over(self) -> bool:
        return self._silence is not None and not self._silence.active()

    def _stop_silence(self) -> None:
        silence, self._silence = self._silence, None
        if silence is not None and silence.active():
            silence.cancel()

    def _abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    def _is_given_up(self, error: Exception) -> bool:
        """
        Whether nobody wants it any more.
        """
        return self._late is None and _is_cancelled(error)

    def _failure(self, error: Exception) -> Exception:
        if self._late is not None:
            return self._late
        if self._content is not None and self._content.error is not None:
            return self._content.error
        connection = self._connection
        if connection is None:
            return Transient(f"no connection: {_words(error)}")
        if connection.failure is not None:
            return connection.failure
        if connection.requests > 1 and not connection.heard:
            return Stale()
        if not connection.heard:
            words = _words(error)
            if is_about_ours(words):
                return CertificateRefused(words)
            return Transient(f"the connection has ended before an answer came: {words}")
        return Transient(f"the answer makes no sense, or is cut off: {_words(error)}")


def _first_line(body: bytes) -> str:
    return safe(to_text(body.strip().partition(b"\n")[0].strip()[:_TOLD]))


def _pause(asked: list[str] | None, date: list[str] | None) -> float | None:
    """
    Seconds that a server asks to wait: a number, or a date by its own clock.
    """
    text = (asked or [""])[0].strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), _LONGEST_PAUSE)
    try:
        until = parsedate_to_datetime(text)
        pause = (until - parsedate_to_datetime((date or [""])[0])).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(pause, 0.0), _LONGEST_PAUSE)


def _is_cancelled(error: Any) -> bool:
    reasons = getattr(error, "reasons", ())
    return isinstance(error, (CancelledError, ConnectingCancelledError)) or any(
        _is_cancelled(each.value) for each in reasons
    )


def _words(error: Any) -> str:
    reasons = getattr(error, "reasons", None)
    if reasons:
        return _words(reasons[0].value)
    if isinstance(error, SSL.Error):
        return safe(describe(error))
    return safe(str(error)) or type(error).__name__
