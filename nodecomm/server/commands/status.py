# SPDX-License-Identifier: MIT
"""
SYNCH ... STAT: what an object is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from nodecomm.interfaces import API, ICommand
from nodecomm.server.filesystem import HeldFile
from nodecomm.server.replies import Frames, Reply, frame
from nodecomm.server.requests import Refused
from nodecomm.wire.commands import StatRequest, parse_stat
from nodecomm.wire.framing import MAX_PAYLOAD
from nodecomm.wire.replies import DIRECTORY, LINK, REGULAR, clock_error, encode_stat

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from nodecomm.interfaces import IHeldObject
    from nodecomm.server.held import FileStatus
    from nodecomm.server.requests import Request

__all__ = ["MAX_CLOCK_DIFFERENCE", "StatCommand"]

#: Seconds by which the clocks may differ.
#: Source: CFEngine 3.21, observed; the real test overflows for some values, this
#: one compares the absolute difference.
MAX_CLOCK_DIFFERENCE = 3600

_NS = 1_000_000_000

#: Permission bits of a link, where a reply tells that an object is one.
_LINK_MODE = 0o777

#: Bytes of a link's text that a reply can tell. A link with a longer one is reported as
#: what it leads to.
_MAX_TARGET = MAX_PAYLOAD - len(b"OK:")

#: Answers remembered, some 900 bytes each.
_REMEMBERED = 2048


@implementer(ICommand)
class StatCommand:
    """
    Over TLS links are followed before anything else, so a link is reported exactly
    as what it leads to; only one that leads nowhere is reported as a link. The
    classic protocol tells of links: mostly what they lead to, with the link's own
    permission bits, place and text. Whether the peer may have either is decided by
    what the link leads to.

    Source: CFEngine 3.21, protocol 1, 2 and 3, observed.
    """

    api = API
    name = "stat"
    words = (b"SYNCH",)
    versions = frozenset({1, 2, 3})

    def answer(self, request: Request) -> Reply | Deferred[Reply]:
        """
        Two transactions, or the refusal.

        Raises:
            RemoteProtocolError: The request is malformed.
        """
        query = parse_stat(request.payload)
        try:
            held = request.hold("stat", query.path, links=request.version == 1)
        except Refused:
            request.sizes.announce(query.path, None)
            raise
        if type(held) is not HeldFile and isinstance(held, Deferred):
            held.addErrback(self._refused, request, query)
            return held.addCallback(self._reply, request, query)
        return self._reply(held, request, query)

    def _refused(
        self, failure: Failure, request: Request, query: StatRequest
    ) -> Failure:
        request.sizes.announce(query.path, None)
        return failure

    def _reply(self, held: IHeldObject, request: Request, query: StatRequest) -> Reply:
        status = held.stat()
        link = held.link if type(held) is HeldFile else None
        request.release()
        serving = request.serving
        if serving.deny_bad_clocks:
            now = int(serving.now())
            if abs(now - query.client_time) > MAX_CLOCK_DIFFERENCE:
                request.sizes.announce(query.path, None)
                return frame(clock_error(now, query.client_time))
        kind = status.kind
        dev = status.dev
        ino = status.ino
        # What the peer was told about a plain file is what GET keeps to.
        request.sizes.announce(
            query.path, (status.size, ino) if kind == REGULAR else None
        )
        inodes = serving.inodes
        if link is not None and len(link.status.target) <= _MAX_TARGET:
            found = link.status
            number = inodes.unique if found.nlink > 1 else inodes.plain
            return _link_frames(status, found, number(found.dev, found.ino))
        number = (
            inodes.unique if status.nlink > 1 or kind == DIRECTORY else inodes.plain
        )
        return _frames(status, number(dev, ino))


@lru_cache(maxsize=_REMEMBERED)
def _frames(status: FileStatus, number: int) -> Frames:
    """
    The answer for an object with this status and inode number. A fleet asks for the
    same files all the time.
    """
    return Frames(
        encode_stat(
            status.kind,
            status.mode,
            _LINK_MODE if status.kind == LINK else 0,
            status.uid,
            status.gid,
            status.size,
            status.atime_ns // _NS,
            status.mtime_ns // _NS,
            status.ctime_ns // _NS,
            status.blocks is not None and status.size > 512 * status.blocks,
            number,
            status.nlink,
            status.dev,
            status.target,
        )
    )


def _link_frames(target: FileStatus, link: FileStatus, number: int) -> Frames:
    """
    The answer for *link*, which leads to an object with the status *target*.
    """
    return Frames(
        encode_stat(
            target.kind,
            target.mode,
            # Source: CFEngine 3.21, observed: the access time, what it takes on disk,
            # and the last three numbers are the link's own.
            link.mode,
            target.uid,
            target.gid,
            target.size,
            link.atime_ns // _NS,
            target.mtime_ns // _NS,
            target.ctime_ns // _NS,
            link.blocks is not None and target.size > 512 * link.blocks,
            number,
            link.nlink,
            link.dev,
            link.target,
        )
    )
