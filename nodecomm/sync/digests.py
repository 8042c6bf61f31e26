# SPDX-License-Identifier: MIT
"""
Files that are here and may be what the server has: they are hashed, some hundred at a
time, and then the server is asked, or a manifest says it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field
from twisted.python.failure import Failure

from nodecomm.sync.disk_errors import local_error
from nodecomm.sync.hashing import Hashed
from nodecomm.sync.model import RemoteEntry

if TYPE_CHECKING:
    from nodecomm.sync.fetching import Errands
    from nodecomm.sync.jobs import Jobs
    from nodecomm.sync.place import Destination

__all__ = ["LocalDigests", "as_local"]

#: Files and bytes that are hashed in one go.
HASH_FILES = 256
HASH_BYTES = 32 << 20


@define(eq=False)
class LocalDigests:
    """
    The digests of files below the destination.

    Args:
        destination: Where they are.
        jobs: For what may wait.
        errands: What gets the files that the network is needed for.

    Attributes:
        hashed: What was found out, by name.
        awaited: What the server has, by the names that wait to be hashed.
        verified: Names whose digest is the one in the manifest.
        jobs: How much is being hashed.
    """

    _destination: Destination
    _pool: Jobs
    _errands: Errands
    hashed: dict[bytes, Hashed] = field(factory=dict, init=False)
    awaited: dict[bytes, RemoteEntry] = field(factory=dict, init=False)
    verified: set[bytes] = field(factory=set, init=False)
    jobs: int = field(default=0, init=False)
    _gathered: list[bytes] = field(factory=list, init=False)

    def compare(self, name: bytes, entry: RemoteEntry) -> None:
        """
        Find out whether the file *name* has the content of the server's.
        """
        hashed = self.hashed.get(name)
        if hashed is not None:
            self._compare(name, entry, hashed)
            return
        self.awaited[name] = entry
        self._gathered.append(name)
        if len(self._gathered) >= HASH_FILES:
            self.hash_rest()

    def hash_rest(self) -> None:
        """
        Hash what has gathered, away from here.
        """
        gathered, self._gathered = self._gathered, []
        batch: list[bytes] = []
        size = 0
        for name in gathered:
            batch.append(name)
            size += self.awaited[name].size
            if size >= HASH_BYTES:
                self._hash(batch)
                batch, size = [], 0
        if batch:
            self._hash(batch)

    def _hash(self, names: list[bytes]) -> None:
        self.jobs += 1
        self._errands.expecting += 1
        job = self._pool.run(self._destination.hash, names, ("md5", "sha256"))
        job.addCallbacks(self._have_hashed, self._not_hashed, callbackArgs=(names,))

    def _have_hashed(self, found: dict[bytes, Hashed], names: list[bytes]) -> None:
        self.jobs -= 1
        self.hashed.update(found)
        errands = self._errands
        try:
            for name in names:
                entry = self.awaited.pop(name)
                hashed = found.get(name)
                if hashed is None:
                    # It changes, or cannot be read: the server's takes its place.
                    errands.fetch(name, entry)
                else:
                    self._compare(name, entry, hashed)
        except Exception:
            errands.fail(Failure())  # type: ignore[no-untyped-call]
        errands.expecting -= 1
        errands.begin()

    def _not_hashed(self, failure: Failure) -> None:
        self.jobs -= 1
        self._errands.fail(as_local(failure, "read what is here"))

    def _compare(self, name: bytes, entry: RemoteEntry, hashed: Hashed) -> None:
        if entry.sha256 is None:
            self._errands.ask(name, entry, hashed.digests["md5"])
        elif entry.sha256 == hashed.digests["sha256"]:
            self.verified.add(name)
        else:
            self._errands.fetch(name, entry)


def as_local(failure: Failure, doing: str) -> Failure:
    """
    An error of the operating system as one that has words for people.
    """
    if isinstance(failure.value, OSError):
        return Failure(local_error(failure.value, doing))  # type: ignore[no-untyped-call]
    return failure
