# SPDX-License-Identifier: MIT
"""
MD5: whether the peer's copy of a file differs.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from nodecomm.interfaces import API, ICommand
from nodecomm.server.filesystem import HeldFile
from nodecomm.server.replies import Frames, Reply
from nodecomm.wire.commands import parse_digest
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import DIGEST_DIFFERS, DIGEST_EQUAL, REGULAR

if TYPE_CHECKING:
    from nodecomm.interfaces import IHeldObject
    from nodecomm.server.requests import Request

__all__ = ["DigestCommand"]

#: The algorithm that a digest of so many bytes was made with. Community peers send
#: 16, Enterprise peers 32.
_ALGORITHMS = {16: "md5", 32: "sha256"}

_EQUAL = Frames(encode_transaction(DIGEST_EQUAL))
_DIFFERS = Frames(encode_transaction(DIGEST_DIFFERS))


@implementer(ICommand)
class DigestCommand:
    """
    The answer's words mean the opposite of what they seem to: `CFD_TRUE` is "they
    differ". What is no plain file differs from everything.

    Source: CFEngine 3.21, observed.
    """

    api = API
    name = "digest"
    words = (b"MD5",)
    versions = frozenset({1, 2, 3})

    def answer(self, request: Request) -> Reply | Deferred[Reply]:
        """
        One transaction.

        Raises:
            RemoteProtocolError: The request is malformed.
        """
        query = parse_digest(request.payload)
        held = request.hold("md5", query.path)
        # The usual cases first: the test for a Deferred, an abstract class, is slow.
        if type(held) is not HeldFile and isinstance(held, Deferred):
            return held.addCallback(self._compare, request, query.digest)
        return self._compare(held, request, query.digest)

    def _compare(
        self, held: IHeldObject, request: Request, theirs: bytes | None
    ) -> Reply | Deferred[Reply]:
        algorithm = None if theirs is None else _ALGORITHMS.get(len(theirs))
        if theirs is None or algorithm is None or held.stat().kind != REGULAR:
            request.release()
            return _DIFFERS
        ours = held.digest(algorithm)
        if type(ours) is not bytes and isinstance(ours, Deferred):
            return ours.addCallback(self._reply, request, theirs)
        return self._reply(ours, request, theirs)

    def _reply(self, ours: bytes, request: Request, theirs: bytes) -> Reply:
        request.release()
        return _EQUAL if compare_digest(ours, theirs) else _DIFFERS
