# SPDX-License-Identifier: MIT
"""
What is here: before an update, and what is remembered of it after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import frozen

from nodecomm.sync.errand import Errand, State
from nodecomm.sync.manifests import read_manifest
from nodecomm.sync.model import Kind, LocalEntry, RemoteTree, SyncRequest
from nodecomm.sync.record import LocalState, Record, ServerState

if TYPE_CHECKING:
    from nodecomm.sync.clocks import Moment
    from nodecomm.sync.digests import LocalDigests
    from nodecomm.sync.place import Destination

__all__ = ["Local", "look_here", "remember"]


@frozen
class Local:
    """
    What is here, before the update.

    Attributes:
        record: What is known since earlier runs.
        manifest: The server's manifest of the last run.
        entries: The destination, by name; a file has the name `b""`.
        space: Bytes that the disk has room for; None: not known.
    """

    record: Record
    manifest: bytes | None
    entries: dict[bytes, LocalEntry]
    space: int | None

    def sums_held(self) -> dict[bytes, bytes]:
        """
        The digests that the files had when the record was made, by the manifest.
        """
        held = self.manifest
        entries = None if held is None else read_manifest(held, 1 << 31)
        return {
            each.name: each.sha256 for each in entries or () if each.sha256 is not None
        }


def look_here(
    destination: Destination, request: SyncRequest, state_dir: str, server: str
) -> Local:
    """
    Read the record and look through the destination.

    Raises:
        LocalError: It cannot be looked through.
    """
    record = Record.load(state_dir, server, request.source, request.destination)
    entries: dict[bytes, LocalEntry] = {}
    if destination.kind is Kind.FILE:
        entry = destination.entry()
        if entry is not None:
            entries[b""] = entry
    else:
        entries = destination.scan()
    return Local(record, record.manifest(), entries, destination.free_space())


def remember(
    request: SyncRequest,
    here: Local,
    tree: RemoteTree,
    now_here: Mapping[bytes, LocalEntry],
    errands: Mapping[bytes, Errand],
    digests: LocalDigests,
    moment: Moment,
    manifest: bytes | None,
) -> None:
    """
    Write the record.

    Args:
        request: What was wanted.
        here: What was here before.
        tree: What the server has.
        now_here: What is in place now.
        errands: The files that the network was needed for.
        digests: Those of files that were here.
        moment: Now.
        manifest: The server's, if it answered.

    Raises:
        OSError: It cannot be written.
    """

    def is_as_compared(name: bytes, now: LocalEntry) -> bool:
        # As many bytes, of the same time: the content that was compared. A file
        # whose attributes changed has another number.
        hashed = digests.hashed.get(name)
        before = here.entries.get(name) if hashed is None else hashed.entry
        return (
            before is not None
            and before.size == now.size
            and (before.mtime_ns == now.mtime_ns or request.preserve)
        )

    record = here.record
    files = record.files
    by_content = request.compare in ("auto", "digest")
    kept: set[bytes] = set()
    for name, entry in tree.entries.items():
        now = now_here.get(name)
        if entry.kind is not Kind.FILE or now is None:
            continue
        errand = errands.get(name)
        local = LocalState.of(now)
        if errand is not None and errand.state in (State.SAME, State.FETCHED):
            if errand.state is State.SAME and not is_as_compared(name, now):
                continue
            record.note(
                name,
                ServerState.of(errand.entry),
                local,
                errand.md5,
                seen=errand.seen or moment,
                confirmed=errand.confirmed or moment,
            )
        elif name in digests.verified:
            if not is_as_compared(name, now):
                continue
            record.note(
                name,
                ServerState.of(entry),
                local,
                digests.hashed[name].digests["md5"],
                seen=moment,
                confirmed=moment,
            )
        elif by_content and errand is None and name in files:
            if not is_as_compared(name, now):
                continue
            files[name] = files[name]._replace(local=local)
        else:
            continue
        kept.add(name)
    record.keep_only(kept)
    record.kinds = {name: each.kind for name, each in tree.entries.items()}
    record.hold_manifest(manifest)
    record.save()
