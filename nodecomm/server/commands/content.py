# SPDX-License-Identifier: MIT
"""
GET: the content of a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from nodecomm.interfaces import API, ICommand
from nodecomm.server.filesystem import HeldFile
from nodecomm.server.replies import Content, Frames, HangUp, Reply
from nodecomm.server.requests import Refused
from nodecomm.wire.commands import parse_get

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from nodecomm.interfaces import IHeldObject
    from nodecomm.server.requests import Request

__all__ = ["GetCommand"]

_NOTHING = Frames(b"")


@implementer(ICommand)
class GetCommand:
    """
    The reply is raw bytes without length or status: the peer counts them from the
    size it was told by STAT. So exactly that many are sent, and where that cannot
    be done the connection is closed, the one failure that no peer takes for
    content. The block size in the request has no meaning.

    Source: CFEngine 3.21, protocol 2 and 3, observed; the real server sends the
    size of the moment and error texts in between.
    """

    api = API
    name = "get"
    words = (b"GET",)
    versions = frozenset({1, 2, 3})

    def answer(self, request: Request) -> Reply | Deferred[Reply]:
        """
        The content; the refusal to a peer that was not told a size before.

        Raises:
            RemoteProtocolError: The request is malformed.
        """
        # Source: CFEngine 3.21, protocol 1, observed: 0 is a size there, too.
        query = parse_get(request.payload, 0 if request.version == 1 else 1)
        told = request.sizes.announced(query.path)
        try:
            held = request.hold("get", query.path)
        except Refused as refusal:
            return self._refused(refusal, request, told)
        if type(held) is not HeldFile and isinstance(held, Deferred):
            held.addCallback(self._reply, request, told)
            return held.addErrback(self._refused_later, request, told)
        return self._reply(held, request, told)

    def _refused_later(
        self, failure: Failure, request: Request, told: tuple[int, int] | None
    ) -> Reply:
        if not isinstance(failure.value, Refused):
            failure.raiseException()
        return self._refused(failure.value, request, told)

    def _refused(
        self, refusal: Refused, request: Request, told: tuple[int, int] | None
    ) -> Reply:
        if told is None or request.seal is not None:
            # Encrypted content comes in frames, and is not mistaken for them.
            raise refusal
        # The peer counts bytes now and would write the refusal into its file.
        return HangUp(f"a refusal would be taken for the content: {refusal.text}")

    def _reply(
        self, held: IHeldObject, request: Request, told: tuple[int, int] | None
    ) -> Reply:
        status = held.stat()
        if not status.is_regular:
            return HangUp("no plain file")
        size, ino = (status.size, status.ino) if told is None else told
        if status.size < size or (status.size > size and status.ino != ino):
            # A file that only grew is sent as far as it was announced; of another
            # file that would be a piece.
            return HangUp(f"announced with {size} bytes, has {status.size} now")
        if size == 0:
            request.release()
            return _NOTHING
        return Content(request.detach(), size)
