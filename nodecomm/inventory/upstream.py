# SPDX-License-Identifier: MIT
"""
Sending inventories to a server: what a node and a relay do.

A file goes byte for byte to one of the two boxes of a server by `PUT`, over HTTPS, and
is there when the server has said so. The server is known to be the right one before
anything is sent to it, be it a password; it is not followed elsewhere.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping
from typing import IO, Any, cast
from urllib.parse import urlsplit

from attrs import field, frozen
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from nodecomm import __version__
from nodecomm.inventory.names import read_name
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.upstream_connecting import (
    CheckedConnection,
    CheckedEndpoint,
    ClientCertificate,
)
from nodecomm.inventory.upstream_content import Content
from nodecomm.inventory.upstream_errors import (
    Permanent,
    SendFailed,
    Transient,
    UntrustedServer,
    failure_of,
)
from nodecomm.inventory.upstream_trust import IServerCheck
from nodecomm.server.pools import Pool
from nodecomm.wire.text import safe, to_text

__all__ = [
    "ClientCertificate",
    "InventoryUpstream",
    "Permanent",
    "SendFailed",
    "SendTimeouts",
    "Transient",
    "UntrustedServer",
    "UpstreamURL",
    "parse_url",
]

#: The port of HTTPS.
PORT = 443

#: Where the files of each box are put.
PATHS = {Box.FIRST: "inventories", Box.UPDATE: "inventory-updates"}

#: The answers that say that a file is there.
_STORED = frozenset({200, 201, 204})

#: What `GET /uuid` may answer. Source: Rudder, what its agent takes.
_SERVER_ID = re.compile(r"[a-z0-9-]{1,50}")

#: Seconds that an unused connection stays open for the next file.
_IDLE = 10

#: The longest pause that a server may ask for, in seconds.
_LONGEST_PAUSE = 24 * 3600.0

#: Characters of an answer that are told.
_TOLD = 200


@frozen
class SendTimeouts:
    """
    How long each stage may take, in seconds.

    Attributes:
        connect: Until there is a connection.
        handshake: TLS, and the decision about the server's key.
        silence: While nothing moves in either direction.
        whole: A request, from its connection to its answer.
    """

    connect: float = 10.0
    handshake: float = 15.0
    silence: float = 60.0
    whole: float = 900.0


@frozen
class UpstreamURL:
    """
    The address of a server.

    Attributes:
        host: Its name or address.
        port: Its port.
        base: What stands before the paths: "" or `/somewhere`.
    """

    host: str
    port: int = PORT
    base: str = ""

    @property
    def server(self) -> str:
        """
        `HOST:PORT`, as keys are kept for it.
        """
        return f"{self._host}:{self.port}"

    @property
    def netloc(self) -> str:
        """
        `HOST`, or `HOST:PORT` if the port is not the usual one.
        """
        return self._host if self.port == PORT else self.server

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"https://{self.netloc}{self.base}/"


def parse_url(text: str) -> UpstreamURL:
    """
    Read the address of a server, `https://HOST`, perhaps with a port and a path.

    Raises:
        ValueError: It is none. The message says what one looks like.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{safe(text)!r} is no address: {error}") from error
    if parts.scheme != "https" or not host:
        raise ValueError(f"{safe(text)!r}: write https://HOST or https://HOST:PORT")
    if "@" in parts.netloc:
        msg = "a user and a password do not stand in the address; name them apart"
        raise ValueError(msg)
    if parts.query or parts.fragment:
        raise ValueError(f"{safe(text)!r}: an address has no ? and no #")
    if not (isIPAddress(host) or isIPv6Address(host)):
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise ValueError(f"{safe(host)!r} is no name of a host") from error
        if not re.fullmatch(r"[a-z0-9_.-]{1,253}", host):
            raise ValueError(f"{safe(host)!r} is no name of a host")
    base = "/".join(part for part in parts.path.split("/") if part)
    if not re.fullmatch(r"[A-Za-z0-9_.~%+:@!$&'()*,;=/-]*", base):
        raise ValueError(f"{safe(text)!r}: a path with odd characters")
    return UpstreamURL(host, port or PORT, f"/{base}" if base else "")


class InventoryUpstream:
    """
    A server that inventories are sent to. Connections are kept for a few seconds, for
    the next file; `close` ends them.

    Args:
        reactor: Drives sockets, looks names up, and has the time.
        url: Its address, `https://HOST[:PORT][/PATH]`.
        accounts: User and password of each box; a box without goes without.
        check: Decides by its key or certificate whether it is the right one.
        pool: Where files are read.
        timeouts: How long what may take.
        certificate: Who we are, for servers that ask.
        endpoint: The way to the server, without TLS, if not straight to its address.

    Raises:
        ValueError: The address, a user or a password cannot be used.
        AuthoritiesUnusable: No authority of *check* can be read.
    """

    def __init__(
        self,
        reactor: Any,
        url: str | UpstreamURL,
        accounts: Mapping[Box, tuple[str, str]],
        check: IServerCheck,
        *,
        pool: Pool,
        timeouts: SendTimeouts | None = None,
        certificate: ClientCertificate | None = None,
        endpoint: IStreamClientEndpoint | None = None,
    ) -> None:
        self.url = parse_url(url) if isinstance(url, str) else url
        self.timeouts = timeouts or SendTimeouts()
        self._reactor = reactor
        self._pool = pool
        self._authorization = {box: _basic(*who) for box, who in accounts.items()}
        if endpoint is None:
            endpoint = HostnameEndpoint(
                reactor,
                self.url.host,
                self.url.port,
                timeout=self.timeouts.connect,
            )
        self._endpoint = CheckedEndpoint(
            reactor,
            endpoint,
            self.url.host,
            self.url.port,
            check,
            handshake=self.timeouts.handshake,
            certificate=certificate,
        )
        self._connections: Any = HTTPConnectionPool(  # type: ignore[no-untyped-call]
            reactor
        )
        self._connections.retryAutomatically = False
        self._connections.cachedConnectionTimeout = _IDLE

    def server_id(self) -> Deferred[str]:
        """
        The id of the server (`GET /uuid`).

        Returns:
            Fires with it; fails with a `SendFailed`.
        """
        return Deferred.fromCoroutine(self._server_id())

    def put(
        self, box: Box, name: str, content: bytes | str | os.PathLike[str]
    ) -> Deferred[int]:
        """
        Put a file into a box of the server, byte for byte. The same file may be sent
        again.

        Args:
            box: Which box.
            name: What it is called there.
            content: The file's path, or what is in it.

        Returns:
            Fires with the answer's code when the server has the file: 201, or 204 if it
            had one of that name. Fails with `Transient` or `Permanent`; with `OSError`
            if the file cannot be read, and `ValueError` for a name that no server
            takes.
        """
        return Deferred.fromCoroutine(self._put(box, name, content))

    def close(self) -> Deferred[None]:
        """
        Close what is kept open. What is under way goes on.
        """
        return cast("Deferred[None]", self._connections.closeCachedConnections())

    async def _server_id(self) -> str:
        answer = await self._ask("GET", "/uuid", Headers())
        if answer.status != 200:
            raise failure_of(answer.status, answer.text)
        text = answer.text
        if not _SERVER_ID.fullmatch(text):
            msg = (
                f"{self.url}uuid answers something else than the id of a server; check "
                "the address"
            )
            raise Transient(msg, answer.status)
        return text

    async def _put(
        self, box: Box, name: str, content: bytes | str | os.PathLike[str]
    ) -> int:
        read_name(name)
        headers = Headers({"Content-Type": ["application/octet-stream"]})
        if box in self._authorization:
            headers.addRawHeader("Authorization", self._authorization[box])
        stream = (
            io.BytesIO(content)
            if isinstance(content, bytes)
            else await self._pool.run(_open, content)
        )
        try:
            size = await self._pool.run(stream.seek, 0, io.SEEK_END)
            answer = await self._ask(
                "PUT", f"/{PATHS[box]}/{name}", headers, stream, size
            )
        finally:
            stream.close()
        if answer.status in _STORED:
            return answer.status
        raise self._refused(answer)

    def _refused(self, answer: _Answer) -> SendFailed:
        if 300 <= answer.status < 400 and answer.location:
            msg = (
                f"the server answers {answer.status}, to go to "
                f"{safe(answer.location[:_TOLD])}; that is not followed: if it is the "
                "right address, write it"
            )
            return Transient(msg, answer.status)
        return failure_of(answer.status, answer.text, retry_after=answer.retry_after)

    async def _ask(
        self,
        method: str,
        path: str,
        headers: Headers,
        stream: IO[bytes] | None = None,
        size: int = 0,
    ) -> _Answer:
        while True:
            content = None
            if stream is not None:
                await self._pool.run(stream.seek, 0)
                content = Content(stream, size, self._pool)
            exchange = _Exchange(self, content)
            try:
                return await exchange.run(method, path, headers)
            except _Stale:
                # The server has closed a connection that was kept, as it may; once
                # more over a new one.
                await self.close()
            finally:
                if content is not None:
                    await content.ended()


@frozen
class _Answer:
    status: int
    text: str
    retry_after: float | None = None
    location: str = ""


class _Stale(Exception):  # noqa: N818
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

    _pool: HTTPConnectionPool
    _taken: Any
    persistent: bool = field(default=True, init=False)

    def getConnection(self, key: Any, endpoint: Any) -> Deferred[Any]:
        return self._pool.getConnection(key, endpoint).addCallback(self._taken)


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
        if reason.check(ResponseDone, PotentialDataLoss):
            self._whole.callback(b"".join(self._pieces))
        else:
            self._whole.errback(reason)


class _Exchange:
    """
    One request and its answer, in time.
    """

    def __init__(self, upstream: InventoryUpstream, content: Content | None) -> None:
        self._upstream = upstream
        self._clock = upstream._reactor
        self._times = upstream.timeouts
        self._content = content
        self._connection: CheckedConnection | None = None
        self._silence: IDelayedCall | None = None
        self._pending: Deferred[Any] | None = None
        self._late: Transient | None = None

    async def run(self, method: str, path: str, headers: Headers) -> _Answer:
        whole = self._clock.callLater(
            self._times.whole, self._too_late, f"after {self._times.whole:g} seconds"
        )
        try:
            return await self._run(method, path, headers)
        except SendFailed:
            raise
        except Exception as error:
            raise self._failure(error) from error
        finally:
            if whole.active():
                whole.cancel()
            if self._silence is not None and self._silence.active():
                self._silence.cancel()
            if self._connection is not None:
                self._connection.moved = None

    async def _run(self, method: str, path: str, headers: Headers) -> _Answer:
        upstream = self._upstream
        url = upstream.url
        agent: Agent = Agent.usingEndpointFactory(  # type: ignore[no-untyped-call]
            self._clock,
            _Endpoints(upstream._endpoint),
            cast(Any, _Taking(upstream._connections, self._taken)),
        )
        headers = headers.copy()
        headers.addRawHeader("User-Agent", f"nodecomm/{__version__}")
        headers.addRawHeader("Host", url.netloc)
        if self._content is not None:
            self._content._moved = self._move
        self._pending = agent.request(
            method.encode("ascii"),
            f"https://{url.server}{url.base}{path}".encode("ascii"),
            headers,
            self._content,
        )
        response = await self._pending
        try:
            body = await self._body(response)
        except Exception:
            if method == "GET":
                raise
            # The code has been said; the rest is but words.
            body = b""
        self._pending = None
        if self._content is not None and not self._content.is_complete:
            assert self._connection is not None  # noqa: S101
            self._connection.abort()
        return _Answer(
            response.code,
            _first_line(body),
            _pause(response.headers, self._clock),
            (response.headers.getRawHeaders("Location") or [""])[0],
        )

    def _body(self, response: IResponse) -> Deferred[bytes]:
        self._pending = Deferred()
        response.deliverBody(_Body(self._pending))
        return self._pending

    def _taken(self, protocol: Any) -> Any:
        self._connection = self._upstream._endpoint.connections[protocol]
        self._connection.begin()
        self._connection.moved = self._move
        self._silence = self._clock.callLater(
            self._times.silence,
            self._too_late,
            f"for {self._times.silence:g} seconds nothing has moved",
        )
        return protocol

    def _move(self) -> None:
        if self._silence is not None and self._silence.active():
            self._silence.reset(self._times.silence)

    def _too_late(self, when: str) -> None:
        self._late = Transient(f"no answer {when}")
        if self._connection is not None:
            self._connection.abort(self._late)
        if self._pending is not None:
            self._pending.cancel()

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
            return _Stale()
        return Transient(f"the connection has ended without an answer: {_words(error)}")


def _open(path: str | os.PathLike[str]) -> IO[bytes]:
    return open(path, "rb")


def _basic(user: str, password: str) -> str:
    if ":" in user:
        raise ValueError("a user's name has no colon")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def _first_line(body: bytes) -> str:
    return safe(to_text(body.strip().partition(b"\n")[0].strip()[:_TOLD]))


def _pause(headers: Headers, clock: Any) -> float | None:
    """
    Seconds that a server asks to wait, in whichever way it says so.
    """
    text = (headers.getRawHeaders("Retry-After") or [""])[0].strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), _LONGEST_PAUSE)
    return None


def _words(error: Any) -> str:
    reasons = getattr(error, "reasons", None)
    if reasons:
        return _words(reasons[0].value)
    return str(error) or type(error).__name__
