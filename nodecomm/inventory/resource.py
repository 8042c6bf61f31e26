# SPDX-License-Identifier: MIT
"""
Where nodes put their inventories, as resources of a Twisted Web site.

`GET /uuid` tells the id of this server; `PUT /inventories/NAME` and
`PUT /inventory-updates/NAME` take documents and signatures, in either order. An answer
says that a file is on disk, and never whether it is believed: that is decided later,
and a sender who could tell would learn what is known of others.

Source: the paths, methods and codes are those of Rudder 4.0 to 9.0.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.doors import (
    Head,
    Refused,
    Room,
    UploadRules,
    check_length,
    check_room,
    check_sender,
    check_target,
    check_way,
    client_address,
    is_crowded,
)
from nodecomm.inventory.https import peer_key
from nodecomm.inventory.lines import LineLimit
from nodecomm.inventory.names import UploadName
from nodecomm.inventory.pairs import Box, Sender
from nodecomm.inventory.site import (
    IUploadResource,
    UploadRequest,
    abort,
    answer,
    done,
    is_length_told,
)
from nodecomm.inventory.spool import NameTaken, Placed
from nodecomm.inventory.stores import UploadStore
from nodecomm.inventory.uploads import Upload
from nodecomm.inventory.via import read_via
from nodecomm.server.pools import Pool, QueueFull

__all__ = ["InventoryResource"]

#: Bytes that are read at a time of a content that another site has stored.
_STEP = 64 * 1024

#: What the system says when there is no room.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: Lines that are stated in a minute of uploads that were refused; the rest is counted.
_LINES = 60

#: What a sender is told who has the path wrong.
_NOT_HERE = "nothing is here; files go to inventories/ or inventory-updates/"


class InventoryResource(Resource):
    """
    The paths of inventories: `uuid`, `inventories` and `inventory-updates`. It may be
    the root of a site, or stand anywhere in another application's tree; in an
    `UploadSite` the content of uploads is looked at before it is taken.

    Args:
        receiving: Where uploads are stored and decided about. Whoever makes this starts
            and stops it.
        rules: Who may put something here, and how much.
        server_id: The id of this server.
        reactor: For time limits.
        pool: Where what blocks is done.
        knows_key: Whether this is the key of an accepted node. Who has proved by a
            certificate of TLS to have such a key needs no password.
    """

    _log = Logger("nodecomm.inventory")

    def __init__(
        self,
        receiving: UploadStore,
        rules: UploadRules,
        *,
        server_id: str,
        reactor: IReactorTime,
        pool: Pool,
        knows_key: Callable[[PublicKey], bool] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.receiving = receiving
        #: May be replaced at any time; uploads under way keep those that they began by.
        self.rules = rules
        self.uploads = 0
        self._senders: Counter[str] = Counter()
        self._reactor = reactor
        self._pool = pool
        self._knows_key = knows_key
        self._lines = LineLimit(reactor, _LINES, self._tell_more)
        self.putChild(b"uuid", _ServerId(self, server_id))
        self.putChild(b"inventories", _BoxResource(self, Box.FIRST))
        self.putChild(b"inventory-updates", _BoxResource(self, Box.UPDATE))

    def getChild(self, path: bytes, request: Request) -> Any:
        """
        This one again for an empty part: relays send `//inventories/NAME`.
        """
        if path == b"" and request.postpath:
            return self
        return _Nothing(self)

    def render(self, request: Request) -> int:
        """Nothing is here itself."""
        return _Nothing(self).render(request)

    # For the boxes

    def lost(self, request: Request) -> Refused:
        """
        Why nothing is taken at another path. What was to be stored there is stated: its
        sender's address is wrong.
        """
        refused = Refused(404, "path", _NOT_HERE)
        if request.method == b"PUT":
            self.refuse(request, refused, _address(request, self.rules))
        return refused

    def begin(self, request: Request, box: Box, length: int | None) -> Upload:
        """
        An upload, for which everything has been checked but its content.

        Raises:
            Refused: It is not taken.
        """
        rules = self.rules
        head = _head(request, box, length, rules)
        if self._knows_key is not None:
            key = peer_key(request.transport)
            head = evolve(head, known_key=key is not None and self._knows_key(key))
        try:
            check_sender(head, rules)
            name = check_target(head)
            check_way(head, self.receiving.mark)
            if head.only_new and self.receiving.spool.holds(name):
                raise Refused(412, "exists")
            length = check_length(head, name, rules.limits)
            check_room(self._room(head.address, name), rules, length)
        except Refused as refused:
            self.refuse(request, refused, head.address)
            raise
        sender = Sender(box, head.address, head.via)
        return self._upload(request, name, sender, head, length)

    def _upload(
        self,
        request: Request,
        name: UploadName,
        sender: Sender,
        head: Head,
        length: int,
    ) -> Upload:
        self.uploads += 1
        self._senders[sender.address] += 1
        transport = request.channel.transport if request.channel else None
        upload = Upload(
            self.receiving,
            self._pool,
            name,
            sender,
            length=length,
            only_new=head.only_new,
            transport=IPushProducer(transport, None),
            ended=lambda: self._ended(sender.address),
        )

        def late() -> None:
            refused = Refused(408, "too-slow")
            self.refuse(request, refused, sender.address)
            upload.close()
            abort(request)

        upload.end_after(self._reactor, self.rules.timeout, late)
        return upload

    def _ended(self, address: str) -> None:
        self.uploads -= 1
        self._senders[address] -= 1
        if not self._senders[address]:
            del self._senders[address]

    def _room(self, address: str, name: UploadName) -> Room:
        spool = self.receiving.spool
        if not self.receiving.is_running:
            raise Refused(503, "stopped", headers={"Retry-After": "60"})
        try:
            free = spool.free()
        except OSError as error:
            self._log.failure("cannot tell how much room there is", event="upload.room")
            raise Refused(503, "spool") from error
        mine = self._senders[address]
        # What completes a pair makes room; the same half again takes none.
        waiting, held = 0 if spool.completes(name) else spool.waiting, 0
        if is_crowded(waiting, self.rules.waiting):
            held = spool.waiting_of(address)
        return Room(self.uploads, mine, waiting, held, spool.undecided, free)

    def store(self, request: Request, upload: Upload) -> None:
        """
        Store what has come, and answer.
        """
        if upload.size != upload.length:
            upload.close()
            self._answer(request, Refused(400, "cut-off"), upload.sender.address)
            return
        lost: list[Failure] = []
        request.notifyFinish().addErrback(lost.append)
        stored = upload.store()
        stored.addCallbacks(
            self._stored,
            self._not_stored,
            callbackArgs=(request, upload, lost),
            errbackArgs=(request, upload, lost),
        )
        stored.addErrback(self._mistake)

    def _stored(
        self, placed: Placed, request: Request, upload: Upload, lost: Sequence[Failure]
    ) -> None:
        status = 204 if placed.existed else 201
        self._log.debug(
            "{name} from {peer} is stored ({bytes} bytes)",
            event="upload.stored",
            name=upload.name.text,
            box=upload.sender.box.value,
            peer=upload.sender.address,
            bytes=upload.size,
            status=status,
        )
        if lost:
            return
        done(request, status)

    def _not_stored(
        self,
        failure: Failure,
        request: Request,
        upload: Upload,
        lost: Sequence[Failure],
    ) -> None:
        error = failure.value
        later = {"Retry-After": "60"}
        if isinstance(error, NameTaken):
            refused = Refused(412, "exists")
        elif isinstance(error, QueueFull):
            refused = Refused(503, "busy", headers=later)
        elif isinstance(error, OSError) and error.errno in _NO_ROOM:
            refused = Refused(507, "disk-full")
        else:
            self._log.failure(
                "{name} from {peer} could not be stored",
                failure,
                event="upload.failed",
                name=upload.name.text,
                peer=upload.sender.address,
            )
            refused = Refused(503, "failed", headers=later)
        if not lost:
            self._answer(request, refused, upload.sender.address)

    def _mistake(self, failure: Failure) -> None:
        self._log.failure(
            "an upload could not be answered", failure, event="upload.failed"
        )

    def _answer(self, request: Request, refused: Refused, address: str) -> None:
        self.refuse(request, refused, address)
        answer(request, refused)

    def _tell_more(self, count: int) -> None:
        self._log.warn(
            "{count} more uploads were refused in a minute",
            event="upload.refused-more",
            count=count,
        )

    def refuse(self, request: Request, refused: Refused, address: str) -> None:
        """
        State that an upload was refused, unless too many were just now.
        """
        if not self._lines.allows():
            return
        self._log.warn(
            "{method} {path} from {peer} is refused: {status}, {reason}",
            event="upload.refused",
            method=request.method[:20],
            path=request.path[:300],
            peer=address,
            status=refused.status,
            reason=refused.reason,
        )


class _ServerId(Resource):
    """
    The id of this server, for everybody: a node asks before it knows anybody.
    """

    def __init__(self, owner: InventoryResource, server_id: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner
        self._body = f"{server_id}\n".encode("ascii")

    def getChild(self, path: bytes, request: Request) -> Any:
        """Nothing is below."""
        return _Nothing(self._owner)

    def render(self, request: Request) -> bytes | int:
        """Tell it."""
        if request.method not in (b"GET", b"HEAD"):
            answer(request, Refused(405, "method", headers={"Allow": "GET, HEAD"}))
            return NOT_DONE_YET
        request.setHeader("Content-Type", "text/plain")  # type: ignore[no-untyped-call]
        if request.method == b"GET":
            return self._body
        # Of a body to a HEAD Twisted makes a line of the log, for whoever asks.
        request.setHeader(  # type: ignore[no-untyped-call]
            "Content-Length", str(len(self._body))
        )
        request.write(b"")  # type: ignore[no-untyped-call]
        request.finish()  # type: ignore[no-untyped-call]
        return NOT_DONE_YET


@implementer(IUploadResource)
class _Nothing(Resource):
    """
    Every path where nothing is.
    """

    isLeaf = True

    def __init__(self, owner: InventoryResource) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner

    def begin_upload(self, request: UploadRequest, length: int | None) -> object:
        """Refuse it, whatever its length is."""
        raise self._owner.lost(request)

    def render(self, request: Request) -> int:
        """Answer on a site that has taken the content."""
        answer(request, self._owner.lost(request))
        return NOT_DONE_YET


@implementer(IUploadResource)
class _BoxResource(Resource):
    """
    One of the two boxes, and all below it.
    """

    isLeaf = True

    def __init__(self, owner: InventoryResource, box: Box) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner
        self._box = box

    def begin_upload(self, request: UploadRequest, length: int | None) -> Upload:
        """Check it before its content comes."""
        return self._owner.begin(request, self._box, length)

    def render(self, request: Request) -> bytes | int:
        """
        Answer, now that the content is whole. Whatever the method is, it was checked.
        """
        content: Any = request.content
        if isinstance(content, Upload):
            self._owner.store(request, content)
            return NOT_DONE_YET
        # A site that has taken the content itself.
        size = content.seek(0, 2)
        content.seek(0)
        length = size if size or is_length_told(request) else None
        try:
            upload = self._owner.begin(request, self._box, length)
        except Refused as refused:
            answer(request, refused)
            return NOT_DONE_YET
        while chunk := content.read(_STEP):
            upload.write(chunk)
        self._owner.store(request, upload)
        return NOT_DONE_YET


def _address(request: Request, rules: UploadRules) -> str:
    """
    Who sends a request, proxies seen through.
    """
    lines = request.requestHeaders.getRawHeaders(b"X-Forwarded-For") or ()
    forwarded = b",".join(lines).decode("latin-1").split(",")
    peer = request.getClientAddress()  # type: ignore[no-untyped-call]
    address = peer.host if isinstance(peer, (IPv4Address, IPv6Address)) else ""
    proxies = [each for each in forwarded if each.strip()]
    return client_address(address, proxies, rules.trusted_proxies)


def _head(request: Request, box: Box, length: int | None, rules: UploadRules) -> Head:
    headers = request.requestHeaders

    def last(name: bytes) -> str:
        # Of bytes: asked for text, Twisted fails where it is no UTF-8.
        return (headers.getRawHeaders(name) or [b""])[-1].decode("latin-1")

    return Head(
        method=request.method.decode("latin-1"),
        box=box,
        segments=tuple(x.decode("latin-1") for x in request.postpath or ()),
        address=_address(request, rules),
        authorization=last(b"Authorization"),
        content_range=headers.hasHeader("Content-Range"),
        only_new=last(b"If-None-Match").strip() == "*",
        length=length,
        via=read_via(headers.getRawHeaders(b"Via") or ()),
    )
