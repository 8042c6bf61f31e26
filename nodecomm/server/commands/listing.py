# SPDX-License-Identifier: MIT
"""
OPENDIR: the names in a folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from nodecomm.interfaces import API, ICommand
from nodecomm.server.filesystem import HeldFile
from nodecomm.server.replies import Listing, Reply, frame
from nodecomm.wire.commands import parse_opendir
from nodecomm.wire.replies import cannot_open_directory

if TYPE_CHECKING:
    from nodecomm.interfaces import IHeldObject
    from nodecomm.server.requests import Request

__all__ = ["OpendirCommand"]


@implementer(ICommand)
class OpendirCommand:
    """
    `.` and `..` are listed too, in the order of the system; a file is answered with
    a text of its own, after access was decided.

    Source: CFEngine 3.21, observed.
    """

    api = API
    name = "opendir"
    words = (b"OPENDIR",)
    versions = frozenset({1, 2, 3})

    def answer(self, request: Request) -> Reply | Deferred[Reply]:
        """
        One or more transactions, or the refusal.

        Raises:
            RemoteProtocolError: The request is malformed.
        """
        held = request.hold("opendir", parse_opendir(request.payload).path)
        if type(held) is not HeldFile and isinstance(held, Deferred):
            return held.addCallback(self._list, request)
        return self._list(held, request)

    def _list(self, held: IHeldObject, request: Request) -> Reply:
        if not held.stat().is_directory:
            # Source: CFEngine 3.21, observed: the classic protocol repeats the name
            # that was asked for, over TLS it is the real one with a slash.
            classic = request.version == 1
            path = request.full_name if classic else held.path + b"/"
            request.release()
            return frame(cannot_open_directory(path))
        return Listing(request.detach())
