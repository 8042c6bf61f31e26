# SPDX-License-Identifier: MIT
"""
Who may put an inventory here, and what: the checks of an upload, in their order.

Method, address, credentials, name and headers, length, room. Address *and* credentials:
of Rudder 4.0 either was enough, because of how its web server combined the rules, and
whoever had an address could read and remove what others had sent.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence

from attrs import field, frozen

from nodecomm.access.networks import AddressList, read_address
from nodecomm.inventory.limits import DocumentLimits
from nodecomm.inventory.names import Half, UploadName, read_name
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.signature import MAX_SIGNATURE_SIZE
from nodecomm.inventory.via import MOST

__all__ = [
    "Account",
    "Head",
    "Refused",
    "Room",
    "UploadRules",
    "check_length",
    "check_room",
    "check_sender",
    "check_target",
    "check_way",
    "client_address",
    "is_crowded",
]

_MIB = 1 << 20

#: Seconds after which a sender may come again when there is no room.
RETRY_AFTER = 60

#: When half of the places for uploads, or for halves, are taken, nobody gets more than
#: a tenth of them.
_SHARE = 10


class Refused(Exception):  # noqa: N818
    """
    The upload is not taken.

    Attributes:
        status: The code of the answer.
        reason: Why, for the log; a stable word.
        text: What the sender is told: a line, or nothing.
        headers: More headers of the answer.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        text: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text or reason)
        self.status = status
        self.reason = reason
        self.text = text
        self.headers = dict(headers or {})


@frozen
class Account:
    """
    A user of Basic authentication.
    """

    user: str
    password: str = field(repr=False)


@frozen
class UploadRules:
    """
    What an operator may choose about uploads.

    Attributes:
        networks: The addresses that may send inventories.
        accounts: Who may put something into which box. Several are for the time of a
            change, in which nodes have the one password or the other.
        trusted_proxies: Addresses of proxies, which are believed for whom they speak.
        limits: How large a document may be.
        at_once: Uploads at a time.
        waiting: Halves that may wait for the other one.
        undecided: Pairs that may wait for a decision.
        min_free: Bytes that are left free on the disk.
        timeout: Seconds that an upload may take.
    """

    networks: AddressList
    accounts: Mapping[Box, Sequence[Account]]
    trusted_proxies: AddressList = field(factory=AddressList)
    limits: DocumentLimits = field(factory=DocumentLimits)
    at_once: int = 1000
    waiting: int = 10_000
    undecided: int = 10_000
    min_free: int = 256 * _MIB
    timeout: float = 300.0


@frozen
class Head:
    """
    What is known of an upload before its content.

    Attributes:
        method: The method, as it was sent.
        box: Where it is to go.
        segments: What stands in the path behind that, each decoded.
        address: Who sends it, proxies seen through.
        authorization: The header of that name; "" for none.
        content_range: Whether it is to be a part of a file.
        only_new: Whether it is to be stored only if nothing of that name waits.
        length: Bytes of content; None if it was not said.
        known_key: Whether the sender has proved, by TLS, to have the key of an accepted
            node. That is worth more than a password.
        via: The marks of the relays that it came by.
    """

    method: str
    box: Box
    segments: tuple[str, ...]
    address: str
    authorization: str = field(default="", repr=False)
    content_range: bool = False
    only_new: bool = False
    length: int | None = 0
    known_key: bool = False
    via: tuple[str, ...] = ()


@frozen
class Room:
    """
    How much there is already.

    Attributes:
        uploads: Uploads under way.
        of_sender: Those of them that are this sender's.
        waiting: Halves that wait for the other one.
        waiting_of_sender: Those of them that are this sender's.
        undecided: Pairs that wait for a decision.
        free: Bytes free on the disk.
    """

    uploads: int = 0
    of_sender: int = 0
    waiting: int = 0
    waiting_of_sender: int = 0
    undecided: int = 0
    free: int = 1 << 62


def client_address(peer: str, forwarded: Sequence[str], proxies: AddressList) -> str:
    """
    Whom a request is from, in the shortest form of the address; "" for a peer without.

    Args:
        peer: The address of the connection.
        forwarded: The addresses of X-Forwarded-For, each proxy's behind the one before.
        proxies: The proxies that are believed.
    """
    found = read_address(peer)
    if found is None:
        return ""
    for text in reversed(forwarded):
        if proxies.find(found) is None:
            break
        before = read_address(text.strip().strip("[]"))
        if before is None:
            # A proxy that speaks for nobody in particular.
            return ""
        found = before
    return found.text


def check_sender(head: Head, rules: UploadRules) -> None:
    """
    Check the method, the address and the credentials.

    Raises:
        Refused: 405, 403 or 401.
    """
    if head.method != "PUT":
        raise Refused(403, "method")
    if ".." in head.segments:
        # Source: Apache httpd 2.4, measured: such a path leaves the folder, and what is
        # there takes no PUT.
        raise Refused(405, "outside", headers={"Allow": "GET, HEAD"})
    if rules.networks.find(head.address) is None:
        raise Refused(403, "network")
    if head.known_key:
        return
    accounts = rules.accounts.get(head.box, ())
    if not _known(head.authorization, accounts):
        challenge = 'Basic realm="inventories", charset="UTF-8"'
        reason = "credentials" if head.authorization else "no-credentials"
        # For the log only: whether there is a user is no stranger's business.
        reason = reason if accounts else "no-user"
        text = "this is not the user and the password of this folder"
        raise Refused(401, reason, text, {"WWW-Authenticate": challenge})


def check_target(head: Head) -> UploadName:
    """
    Check the name and the headers.

    Raises:
        Refused: 409 or 400.
    """
    segments = [each for each in head.segments if each]
    if len(segments) != 1 or head.segments[-1] == "":
        raise Refused(409, "folder", "put a file into this folder")
    try:
        name = read_name(segments[0])
    except ValueError as error:
        raise Refused(400, "name", str(error)) from error
    if head.content_range:
        raise Refused(400, "part", "parts of a file are not taken")
    return name


def check_way(head: Head, mark: str) -> None:
    """
    Check that a relay does not get what it has passed on.

    Args:
        head: The upload.
        mark: What marks the files that this server passes on; "" if it passes on none.

    Raises:
        Refused: 508.
    """
    if not mark:
        return
    if mark in head.via:
        raise Refused(508, "loop", "this relay has passed this file on before")
    if len(head.via) > MOST:
        raise Refused(508, "loop", f"this file came by more than {MOST} relays")


def check_length(head: Head, name: UploadName, limits: DocumentLimits) -> int:
    """
    The bytes that will come.

    Raises:
        Refused: 411 or 413.
    """
    if head.length is None:
        raise Refused(411, "no-length", "tell the length of the file")
    limit = limits.compressed if name.compressed else limits.size
    if name.half is Half.SIGNATURE:
        limit = MAX_SIGNATURE_SIZE
    if head.length > limit:
        raise Refused(413, "too-large", f"at most {limit} bytes")
    return head.length


def check_room(room: Room, rules: UploadRules, length: int) -> None:
    """
    Check that there is room for so many bytes more.

    Raises:
        Refused: 507 or 503.
    """
    if room.free - length < rules.min_free:
        raise Refused(507, "disk-full", "there is no room on the disk")
    later = {"Retry-After": str(RETRY_AFTER)}
    for there, mine, most in (
        # Slow uploads of one sender, or halves, would leave no place for others.
        (room.uploads, room.of_sender, rules.at_once),
        (room.waiting, room.waiting_of_sender, rules.waiting),
    ):
        if is_crowded(there, most) and mine >= max(1, most // _SHARE):
            raise Refused(503, "share", "too much of yours is here", later)
    for reason, there, most in (
        ("uploads", room.uploads, rules.at_once),
        ("waiting", room.waiting, rules.waiting),
        ("undecided", room.undecided, rules.undecided),
    ):
        if there >= most:
            raise Refused(503, reason, "too much waits here; come again later", later)


def is_crowded(there: int, most: int) -> bool:
    """
    Whether so much of the room is taken that nobody may have more than his share.
    """
    return 2 * there >= most


def _known(authorization: str, accounts: Sequence[Account]) -> bool:
    """
    Whether the header has the user and the password of one of the accounts. How long
    that takes tells nothing of them.
    """
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        given = base64.b64decode(rest.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    known = False
    for account in accounts:
        wanted = f"{account.user}:{account.password}".encode()
        known |= hmac.compare_digest(given, wanted)
    return known
