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

from twisted.internet.interfaces import IReactorTime
from twisted.web import http
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from nodecomm.inventory.doors import Refused

__all__ = ["IUploadResource", "UploadRequest", "UploadSite", "abort", "answer", "done"]

#: Bytes of a refused upload that are read all the same, so that the connection can be
#: used again and the sender, who is still sending, does not miss the answer.
SMALL = 64 * 1024

#: Seconds for which the content of a larger one is thrown away after the answer, before
#: the connection is closed. A sender who reads stops by then.
LINGER = 2.0


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
                self.content = resource.begin_upload(self, length)
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


class UploadSite(Site):
    """
    A site with resources that take uploads themselves.

    Args:
        resource: The root of its tree.
        reactor: For time limits.
        timeout: Seconds without a byte before a connection is closed.
        other_body: Bytes of content that requests to other resources may have; None for
            no limit, as in Twisted.
    """

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        timeout: float = 60.0,
        other_body: int | None = None,
    ) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            resource, requestFactory=UploadRequest, reactor=reactor, timeout=timeout
        )
        self.displayTracebacks = False
        self._other_body = other_body

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
