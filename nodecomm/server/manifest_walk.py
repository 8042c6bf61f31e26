# SPDX-License-Identifier: MIT
"""
A look at a whole tree as one peer may see it, for its manifest.

Everything is decided as STAT, OPENDIR, MD5 and GET of the same name would be: links are
followed first, the evaluator is asked about the resolved name, its type, owner and
mode, and what it refuses is not listed. Besides the objects the walk keeps what it was
decided by, so that another peer for whom all of that is the same can share the result.

It runs in threads, one at a time and step by step, and touches nothing that the reactor
uses.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from attrs import define, field

from nodecomm.access.judgement import judge
from nodecomm.access.requests import AccessRequest
from nodecomm.server import posix
from nodecomm.server.digests import DigestKey, digest_key
from nodecomm.server.held import FileStatus, Kind, status_of
from nodecomm.server.requests import Refused
from nodecomm.wire.manifest import NAMES, ManifestEntry, ManifestKind
from nodecomm.wire.replies import TERMINATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nodecomm.access.evaluator import AccessEvaluator
    from nodecomm.access.rules import Rule
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.identity.peer import Peer
    from nodecomm.server.filesystem import FileSystemSource

__all__ = ["Changed", "Standing", "Unhashed", "Walk"]

#: Objects in one manifest; about 13 MB of text.
MAX_ENTRIES = 100_000

#: Bytes of all names in one manifest.
MAX_NAMES = 16 << 20

#: Folders inside each other. Our agent goes no deeper either.
MAX_DEPTH = 100

#: Rules that one manifest may depend on: each is looked at for every peer that asks.
MAX_RULES = 256

#: Bytes of a resolved name that is listed. A longer one might have no room in a
#: request, where the name of the folder can be longer than the resolved one.
MAX_LENGTH = 2048

#: Objects looked at in one step, some milliseconds.
STEP = 512

_NS = 1_000_000_000
_WORD = b"$(connection."

_KINDS = {
    Kind.REGULAR: ManifestKind.FILE,
    Kind.DIRECTORY: ManifestKind.FOLDER,
    Kind.LINK: ManifestKind.LINK,
}


class Changed(Exception):  # noqa: N818
    """
    The tree is not what it was a moment ago; another look may succeed.
    """


class Unhashed(NamedTuple):
    """
    A file whose digest is not known.

    Attributes:
        place: Of its entry.
        path: Its resolved name.
        key: What its digest is kept under, and what it must still be afterwards.
    """

    place: int
    path: bytes
    key: DigestKey


@define(eq=False)
class Standing:
    """
    All that a look at a tree was decided by. A peer for whom it is the same would see
    the same.

    Attributes:
        rules: Each rule that covers something in it, and what its lists say about the
            peer; None: that this cannot be said.
        owners: Who owns the files that not everybody may read.
        right: The peer's own right on these, see `right_on`.
    """

    rules: dict[Rule, int | None] = field(factory=dict)
    owners: set[int] = field(factory=set)
    right: int | None = None

    def settle(self, peer: Peer) -> None:
        """
        Note the right of *peer*, for whom the tree was looked at. All owners must be
        known.
        """
        self.right = right_on(self.owners, peer)

    def holds_for(self, peer: Peer) -> bool:
        """
        Whether *peer*, over a connection that is encrypted, stands as the peer for
        whom the tree was looked at.
        """
        if right_on(self.owners, peer) != self.right:
            return False
        return all(outcome(rule, peer) == said for rule, said in self.rules.items())


def outcome(rule: Rule, peer: Peer) -> int | None:
    """
    What the lists of *rule* say about *peer*, who speaks TLS: 0 that it is not
    admitted, 1 that it is, 2 that it may read files of any owner, too; None: that
    cannot be said.
    """
    decision = judge(rule, peer)
    if decision.undecidable:
        return None
    return int(decision.allowed) + int(
        decision.allowed
        and peer.key is not None
        and rule.maproot_keys.find(peer.key.digests) is not None
    )


def right_on(owners: set[int], peer: Peer) -> int | None:
    """
    What distinguishes peers in their right on files of *owners* that not everybody
    may read: -1 for root, the number of an owner, None for everybody else.
    """
    if not owners:
        return None
    if peer.uid == 0 or peer.user == "root":
        return -1
    return peer.uid if peer.uid in owners else None


class _Folder(NamedTuple):
    """
    A folder that is to be listed.
    """

    place: int
    name: bytes
    path: bytes
    above: tuple[tuple[int, int], ...]


@define(eq=False)
class Walk:
    """
    One look at one tree.

    Args:
        snapshot: The rules.
        peer: Who asks; nobody else may use this object meanwhile.
        files: Resolves links; nobody else may use it meanwhile.
        known: The digest of a file where it is known; called in a thread.
        path: The folder's resolved name.
        identity: The folder's device and inode.

    Attributes:
        entries: What was found. Files whose digest is not known have none yet.
        unhashed: These files.
        standing: What it was decided by so far.
    """

    _evaluator: AccessEvaluator
    _snapshot: Snapshot
    _peer: Peer
    _files: FileSystemSource
    _known: Callable[[DigestKey], bytes | None]
    _path: bytes
    _identity: tuple[int, int]
    entries: list[ManifestEntry] = field(factory=list, init=False)
    unhashed: list[Unhashed] = field(factory=list, init=False)
    standing: Standing = field(factory=Standing, init=False)
    _words: tuple[bytes, ...] = field(init=False)
    _names: int = field(default=0, init=False)
    _waiting: list[_Folder] = field(factory=list, init=False)
    _going: Iterator[None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._words = tuple(
            rule.path.partition(_WORD)[0]
            for rule in self._snapshot.rules
            if _WORD in rule.path
        )
        self._going = self._all()

    def step(self) -> bool:
        """
        Look at some more.

        Returns:
            Whether everything was looked at.

        Raises:
            Refused: There can be none.
            Changed: Something was moved meanwhile.
            OSError: Something cannot be looked at.
        """
        return next(self._going, self) is self

    def _all(self) -> Iterator[None]:
        status = status_of(os.stat(self._path, follow_symlinks=False))
        identity = (status.dev, status.ino)
        if identity != self._identity or not status.is_directory:
            raise Changed
        self._check_words(self._path)
        if not self._may("opendir", self._path, status):
            raise Refused("manifest_folder", "the folder itself may not be listed")
        self._add(b"", self._path, status)
        self._waiting.append(_Folder(0, b"", self._path, (identity,)))
        count = 0
        while self._waiting:
            folder = self._waiting.pop()
            for _ in self._list(folder):
                count += 1
                if count % STEP == 0:
                    yield

    def _list(self, folder: _Folder) -> Iterator[None]:
        """
        Look at each object in *folder*.
        """
        descriptor = posix.hold(folder.path)
        try:
            self._check(descriptor, folder)
            names = posix.names_in(descriptor)
            if len(self.entries) + len(names) > MAX_ENTRIES:
                raise Refused(
                    "manifest_entries",
                    f"there are more than {MAX_ENTRIES} objects, too many for a"
                    " manifest",
                )
            base = folder.path if folder.path != b"/" else b""
            partial = False
            for own in names:
                yield
                if own == TERMINATOR:
                    # Nor does OPENDIR list it: it has no form on the wire.
                    continue
                if not self._look(folder, own, base + b"/" + own, descriptor):
                    partial = True
            # The names belong to the folder only if it was here all the time.
            self._check(descriptor, folder)
            if partial:
                entry = self.entries[folder.place]
                self.entries[folder.place] = entry._replace(partial=True)
        finally:
            os.close(descriptor)

    def _check(self, descriptor: int, folder: _Folder) -> None:
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != folder.above[-1]:
            raise Changed
        if posix.real_name(descriptor, folder.path) != folder.path:
            raise Changed

    def _look(self, folder: _Folder, own: bytes, path: bytes, descriptor: int) -> bool:
        """
        Look at one object; false when the peer could not ask for it.
        """
        if b"\n" in own or len(path) > MAX_LENGTH:
            return False
        if own in NAMES and not folder.name:
            raise Refused(
                "manifest_shadowed", "a real object with the manifest's name is there"
            )
        try:
            found = os.stat(own, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                held = self._files.resolve(None, path)
                held.close()
                path, status = held.path, held.status
            else:
                status = status_of(found)
        except FileNotFoundError:
            # It was removed in this moment.
            return True
        self._check_words(path)
        # STAT, MD5 and GET are decided alike, and so are STAT and OPENDIR of a folder.
        operation = "opendir" if status.is_directory else "get"
        if not self._may(operation, path, status):
            return False
        name = folder.name + b"/" + own if folder.name else own
        index = self._add(name, path, status)
        if status.is_directory:
            identity = (status.dev, status.ino)
            if identity in folder.above:
                # Its own ancestor: it is named, and not entered.
                entry = self.entries[index]
                self.entries[index] = entry._replace(kind=ManifestKind.OTHER)
            elif len(folder.above) > MAX_DEPTH:
                raise Refused(
                    "manifest_depth",
                    f"there are more than {MAX_DEPTH} folders inside each other",
                )
            else:
                above = (*folder.above, identity)
                self._waiting.append(_Folder(index, name, path, above))
        return True

    def _check_words(self, path: bytes) -> None:
        """
        No manifest where a rule with `$(connection.*)` in its path might decide: what
        it covers is different for each peer.
        """
        if self._words and (path + b"/").startswith(self._words):
            raise Refused(
                "manifest_connection",
                "a rule with $(connection.*) in its path covers a part of the tree",
            )

    def _may(self, operation: str, path: bytes, status: FileStatus) -> bool:
        """
        Whether the peer may do *operation*; keeps what that depends on.
        """
        is_directory = status.is_directory
        standing = self.standing
        rule = self._snapshot.find(path, is_directory)
        if rule is not None and rule not in standing.rules:
            if len(standing.rules) >= MAX_RULES:
                raise Refused(
                    "manifest_rules", f"more than {MAX_RULES} rules decide in the tree"
                )
            standing.rules[rule] = outcome(rule, self._peer)
        if not is_directory and not status.mode & 0o004:
            standing.owners.add(status.uid)
        decision = self._evaluator.evaluate(
            self._snapshot,
            self._peer,
            AccessRequest(operation, path, is_directory, status.uid, status.mode),
        )
        if decision.undecidable:
            raise Refused("manifest_hostname", decision.text)
        return decision.allowed

    def _add(self, name: bytes, path: bytes, status: FileStatus) -> int:
        """
        List an object; returns its place.
        """
        index = len(self.entries)
        self._names += len(name)
        if index >= MAX_ENTRIES or self._names > MAX_NAMES:
            raise Refused(
                "manifest_entries",
                f"there are more than {MAX_ENTRIES} objects or {MAX_NAMES} bytes of"
                " names, too many for a manifest",
            )
        digest: bytes | None = None
        if status.is_regular:
            key = digest_key("sha256", status)
            digest = self._known(key)
            if digest is None:
                self.unhashed.append(Unhashed(index, path, key))
        self.entries.append(
            ManifestEntry(
                name,
                _KINDS.get(status.kind, ManifestKind.OTHER),
                status.mode,
                status.uid,
                status.gid,
                status.size,
                status.mtime_ns // _NS,
                digest,
                status.target,
            )
        )
        return index

    def finish(self, digests: dict[int, bytes]) -> None:
        """
        Give the unhashed files their digests, by place.
        """
        for index, digest in digests.items():
            self.entries[index] = self.entries[index]._replace(sha256=digest)
