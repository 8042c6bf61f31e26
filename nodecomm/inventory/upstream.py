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
from collections.abc import Mapping, Sequence
from typing import IO, Any
from urllib.parse import urlsplit

from attrs import frozen
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.web.client import HTTPConnectionPool
from twisted.web.http_headers import Headers

from nodecomm import __version__
from nodecomm.inventory.names import read_name
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.upstream_connecting import (
    CheckedEndpoint,
    ClientCertificate,
)
from nodecomm.inventory.upstream_content import Content
from nodecomm.inventory.upstream_errors import (
    CertificateRefused,
    Permanent,
    SendFailed,
    Transient,
    UntrustedServer,
    failure_of,
)
from nodecomm.inventory.upstream_exchange import Answer, Exchange, SendTimeouts, Stale
from nodecomm.inventory.upstream_trust import IServerCheck
from nodecomm.inventory.via import join_via
from nodecomm.server.pools import InlinePool, Pool, QueueFull
from nodecomm.wire.text import safe

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

#: Seconds in which they are closed in order, before they are cut.
_CLOSING = 2.0


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
    if "[" in parts.netloc and not isIPv6Address(host or ""):
        raise ValueError(f"{safe(text)!r} is no address: no IPv6 address in brackets")
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
    if port == 0 or {".", ".."} & set(base.split("/")):
        raise ValueError(f"{safe(text)!r}: no such port, or no such path")
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
        certificate: Who we are, for servers that ask. One that does not take it is
            asked without, where there is a password or none is needed.
        endpoint: The way to the server, without TLS, if not straight to its address.

    Raises:
        ValueError: The address, a user or a password cannot be used.
        AuthoritiesUnusable: No authority of *check* can be read.
    """

    _log = Logger("nodecomm.inventory")

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
        #: Ours; and what servers that ask are shown now.
        self._own = self._certificate = certificate
        self._endpoint = CheckedEndpoint(
            reactor,
            endpoint,
            self.url.host,
            self.url.port,
            check,
            connect=self.timeouts.connect,
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
        self,
        box: Box,
        name: str,
        content: bytes | str | os.PathLike[str],
        *,
        via: Sequence[str] = (),
    ) -> Deferred[int]:
        """
        Put a file into a box of the server, byte for byte. The same file may be sent
        again.

        Args:
            box: Which box.
            name: What it is called there.
            content: The file's path, or what is in it.
            via: The marks of the relays that it has come by.

        Returns:
            Fires with the answer's code when the server has the file: 201, or 204 if it
            had one of that name. Fails with `Transient` or `Permanent`; with `OSError`
            if the file cannot be read, and `ValueError` for a name that no server
            takes.
        """
        return Deferred.fromCoroutine(self._put(box, name, content, via))

    def close(self) -> Deferred[None]:
        """
        Close what is kept open. What is under way goes on.
        """
        closed: Deferred[None] = self._connections.closeCachedConnections()
        # Not every server plays along.
        timer = self._reactor.callLater(_CLOSING, self._endpoint.cut_idle)

        def stop(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            return result

        return closed.addBoth(stop)

    async def _server_id(self) -> str:
        answer = await self._ask("GET", "/uuid", Headers())
        if answer.status != 200:
            raise self._refused(answer)
        text = answer.body.decode("latin-1").strip()
        if not _SERVER_ID.fullmatch(text):
            msg = (
                f"{self.url}uuid answers something else than the id of a server; check "
                "the address"
            )
            raise Transient(msg, answer.status)
        return text

    async def _put(
        self,
        box: Box,
        name: str,
        content: bytes | str | os.PathLike[str],
        via: Sequence[str],
    ) -> int:
        read_name(name)
        headers = Headers({"Content-Type": ["application/octet-stream"]})
        if box in self._authorization:
            headers.addRawHeader("Authorization", self._authorization[box])
        if via:
            headers.addRawHeader("Via", join_via(via))
        try:
            stream: IO[bytes] = (
                io.BytesIO(content)
                if isinstance(content, bytes)
                else await self._pool.run(_open, content)
            )
        except QueueFull as error:
            raise Transient("this machine has too much to do") from error
        with stream:
            answer = await self._ask("PUT", f"/{PATHS[box]}/{name}", headers, stream)
        if answer.status in _STORED:
            return answer.status
        raise self._refused(answer)

    def _refused(self, answer: Answer) -> SendFailed:
        if 300 <= answer.status < 400 and answer.location:
            msg = (
                f"the server answers {answer.status}, to go to "
                f"{answer.location}; that is not followed: if it is the "
                "right address, write it"
            )
            return Transient(msg, answer.status)
        return failure_of(answer.status, answer.text, retry_after=answer.retry_after)

    async def _ask(
        self, method: str, path: str, headers: Headers, stream: IO[bytes] | None = None
    ) -> Answer:
        url = f"https://{self.url.server}{self.url.base}{path}"
        headers.addRawHeader("User-Agent", f"nodecomm/{__version__}")
        headers.addRawHeader("Host", self.url.netloc)
        has_nothing_else = method != "GET" and not headers.hasHeader("Authorization")
        if has_nothing_else and self._certificate is not self._own:
            # It was not needed for what was asked before.
            self._certificate = self._own
            self._endpoint.show(self._own)
            await self.close()
        try:
            return await self._try(method, url, headers, stream)
        except CertificateRefused as error:
            certificate, refused = self._certificate, error
            if certificate is None or has_nothing_else:
                raise
        self._certificate = None
        self._endpoint.show(None)
        try:
            answer = await self._try(method, url, headers, stream)
        except BaseException as error:
            self._certificate = certificate
            self._endpoint.show(certificate)
            if not isinstance(error, Transient) or isinstance(error, UntrustedServer):
                raise
            text = f"{refused.reason}; and without it: {error.reason}"
            raise Transient(text, retry_after=error.retry_after) from error
        self._log.info(
            "{server}: {reason}; it is sent to without it",
            event="upstream.without-certificate",
            server=self.url.server,
            reason=refused.reason,
        )
        return answer

    async def _try(
        self, method: str, url: str, headers: Headers, stream: IO[bytes] | None
    ) -> Answer:
        try:
            return await self._exchange(method, url, headers, stream)
        except Stale:
            # The server has closed a connection that was kept, as it may.
            await self.close()
        try:
            return await self._exchange(method, url, headers, stream)
        except Stale:
            raise Transient("the server closes every connection at once") from None

    async def _exchange(
        self, method: str, url: str, headers: Headers, stream: IO[bytes] | None
    ) -> Answer:
        exchange = Exchange(
            self._reactor, self._endpoint, self._connections, self.timeouts
        )
        if stream is None:
            return await exchange.run(method, url, headers)
        # What is in memory needs no thread.
        pool = InlinePool() if isinstance(stream, io.BytesIO) else self._pool
        size = await pool.run(_rewind, stream)
        content = Content(stream, size, pool, exchange.moved)
        try:
            return await exchange.run(method, url, headers, content)
        finally:
            await content.ended()


def _open(path: str | os.PathLike[str]) -> IO[bytes]:
    return open(path, "rb")


def _rewind(stream: IO[bytes]) -> int:
    """
    Go to the beginning; how long it is.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return size


def _basic(user: str, password: str) -> str:
    if ":" in user:
        raise ValueError("a user's name has no colon")
    if not user or any(ord(letter) < 32 or ord(letter) == 127 for letter in user):
        raise ValueError("a user's name is one line, and not empty")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in password):
        raise ValueError("a password has no line breaks and no control characters")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
