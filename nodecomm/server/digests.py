# SPDX-License-Identifier: MIT
"""
Digests of files, computed once for all nodes that ask, also across restarts.

A digest is kept under what changes when the content does: device, inode, size,
and modification and change times in nanoseconds. File systems stamp times with the
clock's tick, so a file can change twice within one stamp: a digest is stored only
if the change time was at least `SETTLED` old when hashing began, and only if the
status after hashing equals the one before.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from nodecomm.server.held import status_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime

    from nodecomm.server.filesystem import HeldFile
    from nodecomm.server.held import FileStatus
    from nodecomm.server.pools import Pool

__all__ = ["DigestCache", "DigestKey", "DigestStore"]

#: Nanoseconds for which a file must have been left alone.
SETTLED = 2_000_000_000

#: Bytes read at a time while hashing.
_CHUNK = 1 << 20

#: Bytes of a file above which it is hashed alone: one large file at a time, so that
#: small ones always find a thread, whatever a peer asks for.
LARGE = 16 << 20

#: Seconds to wait for a stored digest; then the file is hashed. A database that
#: another process has locked answers much later.
_STORE_PATIENCE = 0.5

#: algorithm, device, inode, size, mtime, ctime (the times in nanoseconds).
DigestKey = tuple[str, int, int, int, int, int]


class DigestStore(Protocol):
    """
    Where digests outlive the process.
    """

    def get(self, key: DigestKey) -> Deferred[bytes | None]:
        """The digest stored under *key*."""
        ...

    def put(self, key: DigestKey, digest: bytes) -> None:
        """Store, some time soon."""
        ...


def digest_key(algorithm: str, status: FileStatus) -> DigestKey:
    """
    What the digest of a file with this status is kept under.
    """
    return (
        algorithm,
        status.dev,
        status.ino,
        status.size,
        status.mtime_ns,
        status.ctime_ns,
    )


def new_hash(algorithm: str) -> Any:
    """
    A hash object; MD5 serves the protocol here, not security.
    """
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    if algorithm == "sha256":
        return hashlib.sha256()
    raise ValueError(
        f"unknown digest algorithm {algorithm!r}; md5 and sha256 are known"
    )


@define(eq=False)
class DigestCache:
    """
    Digests by file status.

    Args:
        pool: Where hashing is done.
        store: Where digests are kept across restarts; None keeps them in memory.
        entries: How many are kept in memory.
        now_ns: Civil time in nanoseconds.
        clock: For the time limit of the store; None: there is none.
    """

    _pool: Pool
    _store: DigestStore | None
    _entries: int
    _now_ns: Callable[[], int]
    _clock: IReactorTime | None = None
    hashed: int = field(default=0, init=False)
    _known: OrderedDict[DigestKey, bytes] = field(factory=OrderedDict, init=False)
    _waiting: dict[DigestKey, list[Deferred[bytes]]] = field(factory=dict, init=False)
    _large: deque[Callable[[], None]] = field(factory=deque, init=False)
    _large_runs: bool = field(default=False, init=False)
    _log: Logger = field(factory=Logger, init=False)

    def peek(self, key: DigestKey) -> bytes | None:
        """
        The digest kept under *key*, if it is in memory. May be called in a thread.
        """
        return self._known.get(key)

    def keep(self, key: DigestKey, digest: bytes) -> None:
        """
        Remember the digest of a file that was left alone for `SETTLED` before it was
        hashed, and had this key before and after.
        """
        self._remember(key, digest)
        if self._store is not None:
            try:
                self._store.put(key, digest)
            except Exception:
                # Nor is it lost because it cannot be kept.
                self._log.failure(
                    "a digest could not be stored", event="digests.failed"
                )

    def digest(self, held: HeldFile, algorithm: str) -> bytes | Deferred[bytes]:
        """
        The digest of *held*'s content. All who ask while it is being computed
        share one computation.

        Raises:
            OSError: The file cannot be opened.
            QueueFull: Too many files wait to be hashed.
        """
        key = digest_key(algorithm, held.status)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        waiting = self._waiting.get(key)
        answer: Deferred[bytes] = Deferred()
        if waiting is not None:
            waiting.append(answer)
            return answer
        # Opened now, on the asker's own object; the duplicate lives as long as the
        # computation does, even if the asker goes away.
        descriptor = os.dup(held.open())
        self._waiting[key] = [answer]
        stored: Deferred[bytes | None] = (
            succeed(None)
            if self._store is None
            else maybeDeferred(self._store.get, key)
        )
        if self._clock is not None:
            stored.addTimeout(_STORE_PATIENCE, self._clock)
        # A store that cannot be read only costs the computation.
        stored.addErrback(lambda _: None)
        computed: Deferred[bytes] = stored.addCallback(self._compute, key, descriptor)
        computed.addBoth(lambda result: self._finish(result, key, descriptor))
        return answer

    def _compute(
        self, stored: bytes | None, key: DigestKey, descriptor: int
    ) -> bytes | Deferred[bytes]:
        if stored is not None:
            self._remember(key, stored)
            return stored
        self.hashed += 1
        computing = (
            self._hash_alone(key, descriptor)
            if key[3] > LARGE
            else self._pool.run(self._hash, key, descriptor)
        )

        def keep(found: tuple[bytes, bool]) -> bytes:
            digest, settled = found
            if settled:
                self.keep(key, digest)
            return digest

        return computing.addCallback(keep)

    def _hash_alone(
        self, key: DigestKey, descriptor: int
    ) -> Deferred[tuple[bytes, bool]]:
        """
        Hash a large file when no other large one is being hashed.
        """
        answer: Deferred[tuple[bytes, bool]] = Deferred()

        def begin() -> None:
            self._large_runs = True
            running = maybeDeferred(self._pool.run, self._hash, key, descriptor)
            running.addBoth(ended)

        def ended(result: tuple[bytes, bool] | Failure) -> None:
            self._large_runs = False
            if self._large:
                self._large.popleft()()
            if isinstance(result, Failure):
                answer.errback(result)
            else:
                answer.callback(result)

        if self._large_runs:
            self._large.append(begin)
        else:
            begin()
        return answer

    def _hash(self, key: DigestKey, descriptor: int) -> tuple[bytes, bool]:
        """
        In a thread: the digest, and whether it may be kept.
        """
        started = self._now_ns()
        before = digest_key(key[0], status_of(os.fstat(descriptor)))
        hashing = new_hash(key[0])
        offset = 0
        # A file that grows meanwhile is not followed: what is answered then differs
        # from every copy, and is not kept.
        while offset <= key[3] and (chunk := os.pread(descriptor, _CHUNK, offset)):
            hashing.update(chunk)
            offset += len(chunk)
        after = digest_key(key[0], status_of(os.fstat(descriptor)))
        settled = before == after == key and started - key[5] >= SETTLED
        return hashing.digest(), settled

    def _remember(self, key: DigestKey, digest: bytes) -> None:
        self._known[key] = digest
        if len(self._known) > self._entries:
            self._known.popitem(last=False)

    def _finish(self, result: bytes | Failure, key: DigestKey, descriptor: int) -> None:
        os.close(descriptor)
        for answer in self._waiting.pop(key):
            if isinstance(result, Failure):
                answer.errback(result)
            else:
                answer.callback(result)
