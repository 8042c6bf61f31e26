# SPDX-License-Identifier: MIT
"""
The files of an inventory on disk: an upload under way, a half that waits, a pair.
"""

from __future__ import annotations

import contextlib
import enum
import filecmp
import hashlib
import os
import stat
from collections.abc import Sequence
from datetime import datetime, timezone

from attrs import define, frozen

from nodecomm.inventory.limits import DocumentLimits, inflate, is_compressed
from nodecomm.inventory.names import Half, UploadName, read_name
from nodecomm.inventory.signature import MAX_SIGNATURE_SIZE

__all__ = [
    "BETWEEN",
    "Box",
    "Pair",
    "Part",
    "Sender",
    "Waiting",
    "content_digest",
    "held_name",
    "mark_of",
    "pair_of",
    "read_waiting",
    "same_content",
    "sent_name",
]

#: Bytes that are read at a time.
_STEP = 256 * 1024

#: Between the parts of the name of a half that waits; no name that is sent has it.
BETWEEN = "~"


class Box(enum.Enum):
    """
    Where an inventory was put. They are judged alike; the first ones go first, for
    somebody waits for a new node.
    """

    FIRST = "first"
    UPDATE = "update"


@frozen
class Sender:
    """
    Where a file came from.

    Attributes:
        box: Where it was put.
        address: The address that it came from, in its shortest form; "" if unknown.
        via: The marks of the relays that it came by, see `nodecomm.inventory.via`. Only
            relays ask.
    """

    box: Box = Box.FIRST
    address: str = ""
    via: tuple[str, ...] = ()


@frozen
class Pair:
    """
    A document that waits for a decision, and its signature.

    Attributes:
        serial: The name of its folder; later ones are greater.
        name: What both files have in common in their names.
        document: The document's file.
        signature: The signature's file; None where nothing came in time.
        sender: Where the document came from.
        when: When the document had come, in UTC.
    """

    serial: str
    name: str
    document: str
    signature: str | None
    sender: Sender
    when: datetime

    def read(self, limits: DocumentLimits) -> tuple[bytes, bytes | None]:
        """
        The document, no longer compressed, and the signature's file.

        Raises:
            DocumentRefused: It is damaged, or larger than it may be.
            OSError: They cannot be read.
        """
        signature = None
        if self.signature is not None:
            with open(self.signature, "rb") as file:
                signature = file.read(MAX_SIGNATURE_SIZE + 1)
        with open(self.document, "rb") as file:
            start = file.read(2)
            file.seek(0)
            chunks = iter(lambda: file.read(_STEP), b"")
            if is_compressed(start):
                return b"".join(inflate(chunks, limits)), signature
            size = os.fstat(file.fileno()).st_size
            limits.check_size(size)
            return b"".join(chunks), signature


@define(eq=False)
class Part:
    """
    An upload under way. Used by one thread at a time.
    """

    path: str
    _descriptor: int | None
    size: int = 0

    def write(self, data: bytes) -> None:
        """
        Add *data*.

        Raises:
            OSError: The disk is full, or worse.
        """
        if self._descriptor is None:
            raise ValueError("the upload has ended")
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self.size += len(data)

    def finish(self, when: datetime) -> None:
        """
        Put what was written on disk, with the time when it came.

        Raises:
            OSError: It could not be written.
        """
        if self._descriptor is None:
            raise ValueError("the upload has ended")
        seconds = when.timestamp()
        os.utime(self._descriptor, (seconds, seconds))
        os.fsync(self._descriptor)
        self._close()

    def discard(self) -> None:
        """
        Remove it. Without effect when it was placed, or discarded before.
        """
        self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@frozen
class Waiting:
    """
    A half in `incoming/`.

    Attributes:
        arrived: When, by the clock of durations.
        durable: Whether its name is on disk. Before that it takes part in nothing.
    """

    path: str
    name: UploadName
    sender: Sender
    arrived: float
    durable: bool = True


def held_name(name: UploadName, sender: Sender) -> str:
    """
    What a half is called while it waits.
    """
    return BETWEEN.join((name.text, sender.box.value, sender.address))


def sent_name(path: str) -> str:
    """
    What the sender has called a file of `incoming/` or `ready/`.
    """
    return os.path.basename(path).partition(BETWEEN)[0]


def content_digest(path: str) -> bytes:
    """
    What tells this file's content from others.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_STEP):
            digest.update(chunk)
    return digest.digest()


def mark_of(status: os.stat_result) -> str:
    """
    What tells this file from another one of its name, wherever it is moved: its inode
    and the time of its arrival, in nanoseconds.
    """
    return f"{status.st_ino}:{status.st_mtime_ns}"


def same_content(before: Waiting, part: Part, name: UploadName) -> bool:
    """
    Whether what waits is this, byte for byte.
    """
    if before.name != name or os.stat(before.path).st_size != part.size:
        return False
    return filecmp.cmp(before.path, part.path, shallow=False)


def read_waiting(path: str, arrived: float) -> Waiting | None:
    """
    The half in a file of `incoming/`; None for what somebody else has put there, be it
    another name or no file: a link to nowhere, or a pipe, which nobody must wait for.
    """
    parts = os.path.basename(path).split(BETWEEN)
    try:
        text, box, address = parts
        found = Waiting(path, read_name(text), Sender(Box(box), address), arrived)
        return found if stat.S_ISREG(os.lstat(path).st_mode) else None
    except (ValueError, OSError):
        return None


def pair_of(serial: str, found: Sequence[Waiting]) -> Pair:
    halves = {waiting.name.half: waiting for waiting in found}
    document, signature = halves.get(Half.DOCUMENT), halves.get(Half.SIGNATURE)
    first = document or signature
    assert first is not None  # noqa: S101
    modified = os.stat(first.path).st_mtime
    return Pair(
        serial=serial,
        name=first.name.pair,
        document=document.path if document else "",
        signature=signature.path if signature else None,
        sender=first.sender,
        when=datetime.fromtimestamp(modified, timezone.utc),
    )
