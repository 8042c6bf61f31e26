# SPDX-License-Identifier: MIT
"""
A web site that looks at an upload before it takes its content.

Twisted gives a request to its resource when the content is whole, in memory or in a
temporary file, however large it is. Here the resource is asked as soon as the headers
are there, so that what is not wanted is refused before it is sent, and the rest goes
where the resource wants it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from nodecomm.inventory.doors import Refused
from nodecomm.inventory.lines import LineLimit
from nodecomm.inventory.visitors import Visit, Visitors
from nodecomm.server.admission import peer_address

__all__ = [
    "IUploadResource",
    "UploadChannel",
    "UploadRequest",
    "UploadSite",
    "abort",
    "answer",
    "done",
    "is_length_told",
]

#: Bytes of a refused upload that are read all the same, so that the connection can be
#: used again and the sender, who is still sending, does not miss the answer.
SMALL = 64 * 1024

#: Seconds for which the content of a larger one is thrown away after the answer, before
#: the connection is closed. A sender who reads stops by then.
LINGER = 2.0

#: Seconds from the first byte of a request to the end of its headers.
HEAD_TIMEOUT = 30.0

#: Lines that are stated in a minute of what is no request.
_LINES = 10

#: How TLS begins; no request of HTTP does.
_TLS = b"\x16"

#: Digits of the longest length that is looked at. Of thousands, Python makes no number.
LENGTH_DIGITS = 18


class IUploadResource(IResource):
    """
    A resource that takes the content of requests itself.
    """

    def begin_upload(request: UploadRequest, length: int | None) -> object:  # noqa: N805
        """
        Look at a request whose content has not come yet.

        Args:
            request: The request, with its method, path and headers.
            length: How long the content will be; None where that was not said.

        Returns:
            Where the content goes: something with `write`, `tell`, `seek`, `read` and
            `close`. It becomes `request.content`.

        Raises:
            Refused: The content is not wanted.
        """


class _Nowhere:
    """
    The content of a request that was refused.
    """

    def write(self, data: bytes) -> None:
        """Forget it."""

    def tell(self) -> int:
        """Nothing has come."""
        return 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """There is one place."""
        return 0

    def read(self, size: int = -1) -> bytes:
        """There is nothing."""
        return b""

    def close(self) -> None:
        """Nothing is open."""


def answer(request: Any, refused: Refused) -> None:
    """
    Answer with a refusal.
    """
    _write(request, refused)
    request.finish()


def done(request: Any, status: int) -> None:
    """
    Answer without a content.
    """
    request.setResponseCode(status)
    if status != http.NO_CONTENT:
        request.setHeader("Content-Length", "0")
    request.finish()


def is_length_told(request: Any) -> bool:
    """
    Whether a request says how long its content is; to Twisted, none has the length 0.
    """
    return bool(request.requestHeaders.hasHeader(b"Content-Length"))


def abort(request: Any) -> None:
    """
    Close the connection at once.
    """
    if request.channel is not None:
        request.channel.forceAbortClient()


def _write(request: Any, refused: Refused) -> None:
    request.setResponseCode(refused.status)
    for name, value in refused.headers.items():
        request.setHeader(name, value)
    body = f"{refused.text}\n".encode() if refused.text else b""
    request.setHeader("Content-Type", "text/plain; charset=utf-8")
    request.setHeader("Content-Length", str(len(body)))
    request.write(body)


class UploadRequest(Request):
    """
    A request of an `UploadSite`.
    """

    #: Why the content is not wanted.
    refused: Refused | None = None
    _answered = False

    def gotLength(self, length: int | None) -> None:
        """
        Decide where the content goes. All headers are there.
        """
        channel: Any = self.channel
        # Twisted tells the method and the path when the content is whole; before that
        # only its channel has them.
        self.method = channel._command
        self.uri = channel._path
        self.clientproto = channel._version
        self.path = self.uri.partition(b"?")[0]
        self.prepath = []
        self.postpath = [unquote_to_bytes(x) for x in self.path[1:].split(b"/")]
        site: Any = channel.site
        try:
            resource = site.getResourceFor(self)
            if IUploadResource.providedBy(resource):
                told = length if is_length_told(self) else None
                self.content = resource.begin_upload(self, told)
                channel.welcome()
                return
            site.check_other(length)
        except Refused as refused:
            self.content = _Nowhere()
            self.refused = refused
            if not self._is_small(length):
                self._answer_now(refused)
            return
        super().gotLength(length)  # type: ignore[no-untyped-call]

    def _is_small(self, length: int | None) -> bool:
        waits = self.requestHeaders.hasHeader(b"Expect")
        return length is not None and (length == 0 or (length <= SMALL and not waits))

    def _answer_now(self, refused: Refused) -> None:
        """
        Answer, although the content is still to come, and close the connection.
        """
        channel: Any = self.channel
        self._answered = True
        # Or Twisted would ask for the content.
        self.requestHeaders.removeHeader(b"Expect")
        channel.persistent = False
        self.setHeader("Connection", "close")  # type: ignore[no-untyped-call]
        _write(self, refused)
        channel.setTimeout(None)
        channel._abortingCall = channel.callLater(LINGER, channel.forceAbortClient)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """
        The content is whole.
        """
        if self._answered:
            self.finish()  # type: ignore[no-untyped-call]
        elif self.refused is not None:
            # Before Twisted looks into the content of a form, which is not there.
            answer(self, self.refused)
        else:
            super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]


class UploadChannel(http.HTTPChannel):
    """
    A connection to an `UploadSite`.
    """

    #: Its place among the others, where they are counted.
    visit: Visit | None = None
    _late: IDelayedCall | None = None
    _has_head = False
    _has_begun = False
    _is_tls = False

    def dataReceived(self, data: bytes) -> None:
        """
        A part of a request. Headers that come one by one must end, too.
        """
        if not self._has_begun:
            self._has_begun = True
            self._is_tls = data.startswith(_TLS)
            if self._is_tls:
                self._respondToBadRequestAndDisconnect()
                return
        if self._late is None and not self._has_head:
            self._late = self.callLater(  # type: ignore[no-untyped-call]
                HEAD_TIMEOUT, self._too_late
            )
        super().dataReceived(data)  # type: ignore[no-untyped-call]

    def headerReceived(self, line: bytes) -> bool:
        """One of the headers. Twisted does not expect a length beyond all numbers."""
        name, _, value = line.partition(b":")
        if (
            name.strip().lower() == b"content-length"
            and len(value.strip()) > LENGTH_DIGITS
        ):
            self._respondToBadRequestAndDisconnect()
            return False
        return bool(super().headerReceived(line))  # type: ignore[no-untyped-call]

    def lineLengthExceeded(self, line: bytes) -> None:
        """
        A header without end. Twisted would wait for itself before it closes, in vain.
        """
        self._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted calls it for all that is no request.
        channel: Any = self
        peer = channel.transport.getPeer()
        channel.site.state_bad_request(peer, is_tls=self._is_tls)
        super()._respondToBadRequestAndDisconnect()  # type: ignore[no-untyped-call]

    def allHeadersReceived(self) -> None:
        """The headers have come."""
        self._has_head = True
        self._stop_waiting()
        super().allHeadersReceived()  # type: ignore[no-untyped-call]

    def welcome(self) -> None:
        """What is being sent is wanted."""
        if self.visit is not None:
            self.visit.welcome()

    def requestDone(self, request: Any) -> None:
        """A request was answered."""
        self._has_head = False
        if self.visit is not None:
            self.visit.idle()
        super().requestDone(request)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """It has ended."""
        self._stop_waiting()
        if self.visit is not None:
            self.visit.leave()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    # These two as Twisted has them, without a line of the log each: whoever connects
    # and does nothing could fill it.

    def timeoutConnection(self) -> None:
        """Nothing comes any more: close it."""
        if self.abortTimeout is not None:
            self._abortingCall = self.callLater(  # type: ignore[no-untyped-call]
                self.abortTimeout, self.forceAbortClient
            )
        self.loseConnection()  # type: ignore[no-untyped-call]

    def forceAbortClient(self) -> None:
        """It does not let itself be closed in order."""
        self._abortingCall = None
        self.close()

    def close(self) -> None:
        """Close it at once."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def _too_late(self) -> None:
        self._late = None
        self.close()

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class UploadSite(Site):
    """
    A site with resources that take uploads themselves.

    Args:
        resource: The root of its tree.
        reactor: For time limits.
        timeout: Seconds without a byte before a connection is closed.
        other_body: Bytes of content that requests to other resources may have; None for
            no limit, as in Twisted.
        visitors: Counts connections; None for as many as there are.
    """

    #: It listens and ends with the service, which says so.
    noisy = False
    _log = Logger("nodecomm.inventory")
    protocol = UploadChannel  # type: ignore[assignment]

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        timeout: float = 60.0,
        other_body: int | None = None,
        visitors: Visitors | None = None,
    ) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            resource, requestFactory=UploadRequest, reactor=reactor, timeout=timeout
        )
        self.displayTracebacks = False
        self._other_body = other_body
        self._visitors = visitors
        self._lines = LineLimit(reactor, _LINES, self._tell_more)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        A channel for a new connection, if there is room.
        """
        channel = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        if self._visitors is not None:
            channel.visit = self._visitors.enter(addr, channel.close)
            if channel.visit is None:
                return None
        return channel

    def check_other(self, length: int | None) -> None:
        """
        Check the content of a request that no upload resource takes.

        Raises:
            Refused: It is too long, or may be.
        """
        if self._other_body is None:
            return
        if length is None:
            raise Refused(411, "no-length")
        if length > self._other_body:
            raise Refused(413, "too-large")

    def _tell_more(self, count: int) -> None:
        self._log.warn(
            "{count} more sent what is no request of HTTP in a minute",
            event="inventory.bad-request-more",
            count=count,
        )

    def state_bad_request(self, address: IAddress, *, is_tls: bool) -> None:
        """
        State that somebody sends what is no request, unless too many did just now.

        Args:
            address: Who.
            is_tls: Whether it is TLS, which is not spoken here.
        """
        if not self._lines.allows():
            return
        advice = ""
        if is_tls:
            advice = (
                ": it speaks TLS, and here is none (`plain = true`); have the proxy"
                " send to an address that begins with http://"
            )
        self._log.warn(
            "{peer} sends what is no request of HTTP/1.1{advice}",
            event="inventory.bad-request",
            peer=peer_address(address)[0],
            is_tls=is_tls,
            advice=advice,
        )

    def acceptableProtocols(self) -> list[bytes]:
        """
        HTTP/1.1 alone: of HTTP/2 Twisted shows no request before its content.

        For TLS of Twisted's own; `OverTLS` does not ask.
        """
        return [b"http/1.1"]

    def log(self, request: Any) -> None:
        """
        Nothing: what is worth it is stated as an event, without what peers may forge.
        """
