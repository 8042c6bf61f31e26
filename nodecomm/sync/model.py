# SPDX-License-Identifier: MIT
"""
The words that the parts of an update talk in: what is wanted, what is there, what the
new set consists of, what came out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Literal

from attrs import frozen

__all__ = [
    "UNKNOWN",
    "Change",
    "Compare",
    "Kind",
    "LocalEntry",
    "Phase",
    "Progress",
    "RemoteEntry",
    "RemoteTree",
    "Replace",
    "SyncLimits",
    "SyncRequest",
    "SyncResult",
    "Wanted",
]

#: For an owner or group that a server does not tell.
UNKNOWN = -1

Compare = Literal["auto", "digest", "mtime", "size"]
Replace = Literal["exchange", "symlink", "files"]


class Kind(Enum):
    """
    What an object is. `OTHER` is a fifo, a device or a socket: never made here.
    """

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


@frozen
class SyncLimits:
    """
    How far a server is followed.

    Attributes:
        entries: Objects in the tree.
        depth: Folders inside each other, the source itself not counted.
        file_size: Bytes of one file; None: what the disk has room for.
        total_size: Bytes of all fetched files; None: what the disk has room for.
        attempts: Connections tried for what a broken connection left unfinished.
        duration: Seconds that the whole update may take.
    """

    entries: int = 1_000_000
    depth: int = 100
    file_size: int | None = None
    total_size: int | None = None
    attempts: int = 4
    duration: float = 3600.0


@frozen
class SyncRequest:
    """
    One update.

    Attributes:
        source: The name on the server, absolute or beginning with a shortcut.
        destination: An absolute local name, without a final slash.
        compare: How it is found out whether a file that is here differs.
        purge: Whether what the server does not have is removed here.
        preserve: Whether owner, group and times are taken from the server; modes
            always are.
        exclude: Globs of names that are neither fetched nor removed. One without a
            slash is about the last part of a name, one with a slash about the whole
            relative name; a final slash makes it about folders alone.
        replace: How the new set takes the place of the old one.
        dry_run: Whether to find out only.
        limits: How far the server is followed.
        new: Whether the server's answer must not be older than the update: without
            this it may tell what it found some seconds before (`manifest_max_age`).
    """

    source: bytes
    destination: bytes
    compare: Compare = "auto"
    purge: bool = False
    preserve: bool = False
    exclude: tuple[bytes, ...] = ()
    replace: Replace = "exchange"
    dry_run: bool = False
    limits: SyncLimits = SyncLimits()
    new: bool = False


@frozen
class RemoteEntry:
    """
    An object as the server describes it.

    Attributes:
        kind: What it is.
        mode: Permission bits, at most 0o7777.
        uid: Owner; `UNKNOWN` of a link beside which a server describes what it leads
            to.
        gid: Group; the same.
        size: Bytes; of such a link, of what it leads to, as are mode and times.
        mtime: Seconds since the epoch.
        ctime: Seconds since the epoch; 0 from a manifest.
        ino: Its number; 0 from a manifest.
        dev: Its device; 0 from a manifest.
        target: The text of a link.
        sha256: From a manifest, the digest of a file; else None.
    """

    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    ctime: int
    ino: int
    dev: int
    target: bytes = b""
    sha256: bytes | None = None


@frozen
class RemoteTree:
    """
    What the server has below the source. Names are relative, without leading slash;
    the source itself is `b""`.

    Attributes:
        entries: What was described, parents before children.
        present: Names that are listed and could not be described (refused, excluded,
            not askable, an ancestor of itself): neither fetched nor removed here, nor
            anything below them.
        warnings: About the above, for people, one line each.
        refused: Those of `present` that the server lists and does not describe.
    """

    entries: Mapping[bytes, RemoteEntry]
    present: frozenset[bytes] = frozenset()
    warnings: tuple[str, ...] = ()
    refused: tuple[bytes, ...] = ()


@frozen
class LocalEntry:
    """
    An object of the present set, by lstat.
    """

    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    ino: int
    dev: int
    nlink: int = 1
    target: bytes = b""


@frozen
class Wanted:
    """
    One object of the new set.

    Attributes:
        name: Relative, without leading slash; never `b""`. Parents come before
            children.
        kind: File, folder or link.
        mode: Permission bits; without meaning for a link.
        origin: Where a file's content is: `fetched` into the staging folder, `kept`
            from the present set under the same name, or `carried`, which is `kept`
            with all attributes as they are (and then kind may be OTHER).
        owner: uid and gid to set; None leaves the process's own.
        mtime: Seconds since the epoch to set; None leaves the present one.
        target: The text of a link.
    """

    name: bytes
    kind: Kind
    mode: int
    origin: Literal["fetched", "kept", "carried"] = "kept"
    owner: tuple[int, int] | None = None
    mtime: int | None = None
    target: bytes = b""


@frozen
class Change:
    """
    What an update did to one name.

    Attributes:
        name: Relative; `b""` is the destination itself.
        what: The word for it.
    """

    name: bytes
    what: Literal["added", "updated", "removed", "attributes"]


@frozen
class SyncResult:
    """
    What came out of an update that succeeded.

    Attributes:
        changed: Whether the destination is another set than before (for a dry run:
            would be).
        checked: Files of the source that were looked at.
        fetched: Files whose content came over the network.
        removed: Names removed, those below removed folders included.
        bytes_received: Plaintext from the server, all of it.
        bytes_fetched: Content of the fetched files.
        round_trips: The longest chain of a message waiting for the one before,
            connecting and TLS included, over all connections.
        connections: Connections made.
        seconds: Monotonic, from the call to the end.
        changes: In name order.
        warnings: For people, one line each.
        manifest: Whether the server's manifest answered.
        refused: Names that the server lists and does not describe.
    """

    changed: bool
    checked: int
    fetched: int
    removed: int
    bytes_received: int
    bytes_fetched: int
    round_trips: int
    connections: int
    seconds: float
    changes: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()
    manifest: bool = False
    refused: tuple[bytes, ...] = ()


class Phase(Enum):
    """
    What an update is busy with.
    """

    CONNECTING = "connecting"
    LISTING = "listing"
    FETCHING = "fetching"
    PLACING = "putting in place"


@frozen
class Progress:
    """
    How far an update is; totals are 0 as long as they are unknown, and may grow.
    """

    phase: Phase
    files: int = 0
    files_total: int = 0
    bytes: int = 0
    bytes_total: int = 0


#: Called now and then, at most some ten times a second.
Watch = Callable[[Progress], None]
