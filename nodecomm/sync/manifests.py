# SPDX-License-Identifier: MIT
"""
What another nodecomm server has below a source, from its manifest: one question when
nothing has changed, one file when something has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, gatherResults

from nodecomm.client.errors import Refused
from nodecomm.sync.errors import LimitExceeded
from nodecomm.sync.excluding import Exclusion
from nodecomm.sync.model import Kind, LocalEntry, RemoteEntry, RemoteTree, SyncRequest
from nodecomm.sync.notes import Notes
from nodecomm.sync.siblings import is_own
from nodecomm.sync.walking import MAX_PATH, join
from nodecomm.wire.errors import RemoteProtocolError
from nodecomm.wire.manifest import (
    NAME,
    NAME_OF_NEW,
    ManifestEntry,
    ManifestKind,
    parse_manifest,
)
from nodecomm.wire.replies import REGULAR, StatReply
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from nodecomm.sync.asking import Asking

__all__ = [
    "MAX_MANIFEST",
    "ask_for_listings",
    "ask_for_manifest",
    "read_manifest",
    "tree_of",
]

#: Bytes of a manifest that is fetched: two million objects. A larger tree is walked.
MAX_MANIFEST = 256 << 20

_KINDS = {
    ManifestKind.FILE: Kind.FILE,
    ManifestKind.FOLDER: Kind.FOLDER,
    ManifestKind.LINK: Kind.LINK,
    ManifestKind.OTHER: Kind.OTHER,
}


async def ask_for_manifest(
    asking: Asking,
    source: bytes,
    held: bytes | None,
    held_md5: bytes | None,
    *,
    new: bool = False,
) -> bytes | None:
    """
    The manifest of *source*.

    The status of the source itself is asked for besides: a second object that is
    known on this connection makes it possible to check the stream later.

    Args:
        held: The manifest of an earlier run.
        held_md5: Its digest.
        new: Whether it must be made of a look at the tree that begins from now on.

    Returns:
        *held* itself if it is still right; None if there is no manifest. Fails with
        what ended the connection.
    """
    path = join(source, NAME_OF_NEW if new else NAME)
    questions: list[Deferred[object]] = [
        _or_refused(asking.stat(source)),
        _or_refused(asking.stat(path)),
    ]
    if held is not None and held_md5 is not None:
        questions.append(_or_refused(asking.differs(path, held_md5, len(held))))
    answers = await _all(questions)
    if len(answers) == 3 and answers[2] is False:
        return held
    status = answers[1]
    if (
        not isinstance(status, StatReply)
        or status.kind != REGULAR
        or not 0 < status.size <= MAX_MANIFEST
    ):
        return None
    pieces: list[bytes] = []
    await asking.get(path, status.size, pieces.append)
    return b"".join(pieces)


async def ask_for_listings(
    asking: Asking, request: SyncRequest, entries: Iterable[ManifestEntry]
) -> dict[bytes, list[bytes] | None]:
    """
    The names in the folders of which a manifest does not tell all; None for one that
    is refused.

    Raises:
        LimitExceeded: They are too many, all folders together.
    """
    folders = [each.name for each in entries if each.partial]
    limit = request.limits.entries
    total = 0

    def count(names: list[bytes]) -> list[bytes]:
        nonlocal total
        total += len(names)
        if total > limit:
            msg = f"{to_text(request.source)} has more than {limit} objects"
            raise LimitExceeded("entries", msg)
        return names

    answers = await _all(
        [
            _or_refused(
                asking.opendir(join(request.source, folder), limit + 3).addCallback(
                    count
                )
            )
            for folder in folders
        ]
    )
    return dict(zip(folders, answers, strict=True))  # type: ignore[arg-type]


async def _all(questions: list[Deferred[object]]) -> list[object]:
    try:
        return await gatherResults(questions, consumeErrors=True)
    except Exception as error:
        # What ended the connection, not which question it ended.
        why = getattr(error, "subFailure", None)
        if why is not None:
            raise why.value from None
        raise


def _or_refused(answer: Deferred[Any]) -> Deferred[Any]:
    def refused(failure: Failure) -> None:
        if not isinstance(failure.value, Refused):
            failure.raiseException()

    return answer.addErrback(refused)


def read_manifest(data: bytes, max_entries: int) -> list[ManifestEntry] | None:
    """
    What is in a manifest; None if it is none, or too long. This may take a while.
    """
    try:
        return parse_manifest(data, max_entries)
    except RemoteProtocolError:
        return None


def tree_of(
    entries: Iterable[ManifestEntry],
    request: SyncRequest,
    local: Mapping[bytes, LocalEntry],
    listings: Mapping[bytes, list[bytes] | None],
) -> RemoteTree:
    """
    The tree that a manifest describes.

    Args:
        entries: What is in it.
        request: What is wanted.
        local: What is here.
        listings: The names in folders of which it tells not all; where they are not
            known, all names that are here count as present.

    Raises:
        LimitExceeded: It is too deep.
    """
    excluded = Exclusion(request.exclude)
    notes = Notes()
    found: dict[bytes, RemoteEntry] = {}
    present: set[bytes] = set()
    refused: list[bytes] = []
    for each in entries:
        name = each.name
        parent = name.rpartition(b"/")[0]
        if name and parent not in found:
            # Its folder is excluded.
            continue
        kind = _KINDS[each.kind]
        if name and excluded(name, kind is Kind.FOLDER):
            present.add(name)
            continue
        if is_own(name):
            present.add(name)
            notes.add(f"{to_text(name)}: a name that this program uses itself")
            continue
        if b"\n" in name or len(request.source) + len(name) >= MAX_PATH:
            present.add(name)
            notes.add(f"{to_text(name)}: such a name cannot be asked for")
            continue
        if kind is Kind.OTHER:
            present.add(name)
            notes.add(f"{to_text(name)}: nothing that can be made here")
            continue
        if kind is Kind.FOLDER and name.count(b"/") >= request.limits.depth and name:
            msg = (
                f"{to_text(request.source)} has more than {request.limits.depth}"
                f" folders inside each other: {to_text(name)[:200]}"
            )
            raise LimitExceeded("depth", msg)
        found[name] = RemoteEntry(
            kind,
            each.mode,
            each.uid,
            each.gid,
            each.size,
            each.mtime,
            0,
            0,
            0,
            each.target,
            each.sha256,
        )
    unlisted = {folder for folder, names in listings.items() if names is None}
    if unlisted:
        present.update(
            name
            for name in local
            if name and name.rpartition(b"/")[0] in unlisted and name not in found
        )
    for folder, names in listings.items():
        if folder not in found:
            continue
        for last in names or ():
            name = folder + b"/" + last if folder else last
            if name not in found and name not in present:
                present.add(name)
                if not excluded(name, False):
                    refused.append(name)
                    notes.add(f"{to_text(name)}: not described: the server refuses it")
    return RemoteTree(found, frozenset(present), notes.lines(), tuple(refused))
