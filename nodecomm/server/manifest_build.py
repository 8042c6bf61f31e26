# SPDX-License-Identifier: MIT
"""
Making one manifest: look at the tree, find the digests that are not known, look again
where that took long, and write it down.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field
from twisted.internet.defer import (
    Deferred,
    DeferredList,
    DeferredLock,
    ensureDeferred,
)

from nodecomm.server import posix
from nodecomm.server.digests import SETTLED, digest_key
from nodecomm.server.filesystem import FileSystemSource
from nodecomm.server.held import status_of
from nodecomm.server.manifest_walk import Changed, Standing, Unhashed, Walk
from nodecomm.server.requests import Refused
from nodecomm.wire.manifest import encode_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodecomm.access.evaluator import AccessEvaluator
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.identity.peer import Peer
    from nodecomm.server.digests import DigestCache, DigestKey
    from nodecomm.server.pools import Pool

__all__ = ["Builder", "Order", "Text", "Tree"]

#: Looks at a tree that changes, or whose digests take long, before it is given up.
_LOOKS = 4

#: Bytes of a file that is hashed together with others, some hundred at a time. Asking
#: a database for its digest, and going back and forth between threads, takes longer.
SMALL = 256 << 10
_TOGETHER = 256

#: Larger files hashed at a time for one manifest.
_HASHED_AT_ONCE = 4

#: Seconds that one manifest may take; what was hashed until then is kept.
_LONGEST = 600.0

#: What a file that was removed or replaced in this moment is told by.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP})

#: A folder's resolved name, device and inode.
Tree = tuple[bytes, int, int]


@define(eq=False)
class Text:
    """
    A manifest that is written.

    Attributes:
        began: Monotonic seconds at which the look at the tree began.
        objects: How many it lists.
        look: The number of that look; a later one has a larger number.
    """

    data: bytes
    md5: bytes
    sha256: bytes
    began: float
    objects: int
    look: int


@define(eq=False)
class Order:
    """
    A manifest that is to be made.

    Attributes:
        tree: Of which folder.
        snapshot: By which rules.
        peer: For whom; a copy that nobody else uses.
        standing: What it depends on, as far as that is known.
        waiters: Who waits for it.
        late: Whether it took too long to be waited for.
        cost: Objects looked at so far.
    """

    tree: Tree
    snapshot: Snapshot
    peer: Peer
    standing: Standing = field(factory=Standing)
    waiters: list[Deferred[None]] = field(factory=list)
    late: bool = False
    cost: int = 0

    @classmethod
    def of(cls, tree: Tree, snapshot: Snapshot, peer: Peer) -> Order:
        """
        An order for *peer*, whose own memory stays what it is.
        """
        return cls(tree, snapshot, evolve(peer, memo={}))


@define(eq=False)
class Builder:
    """
    Makes manifests.

    Args:
        files: The file system, for use on the reactor.
        digests: Where digests are known.
        disk: Where trees are looked at.
        now_ns: Civil time in nanoseconds.
        monotonic: Seconds of a clock that nobody sets.

    Attributes:
        looks: The number of the last look at any tree.
    """

    _files: FileSystemSource
    _digests: DigestCache
    _disk: Pool
    _now_ns: Callable[[], int]
    _monotonic: Callable[[], float]
    looks: int = 0
    # One tree is looked at at a time, by turns: more threads would only take the
    # interpreter away from the reactor.
    _turn: DeferredLock = field(factory=DeferredLock, init=False)

    async def make(
        self, order: Order, evaluator: AccessEvaluator, max_age: float
    ) -> Text:
        """
        Make what is ordered, no older than *max_age* seconds when it is done.

        Raises:
            Refused: There can be none.
            OSError: Something cannot be looked at.
            QueueFull: There is too much to do.
        """
        until = self._monotonic() + _LONGEST
        hashed: dict[DigestKey, bytes] = {}

        def known(key: DigestKey) -> bytes | None:
            return hashed.get(key) or self._digests.peek(key)

        changed = False
        for _ in range(_LOOKS):
            began = self._monotonic()
            self.looks += 1
            look = self.looks
            path, dev, ino = order.tree
            walk = Walk(
                evaluator,
                order.snapshot,
                order.peer,
                FileSystemSource(self._digests, self._disk),
                known,
                path,
                (dev, ino),
            )
            order.standing = walk.standing
            try:
                await self._look(walk)
                await self._hash(walk, hashed, until)
            except Changed:
                changed = True
                continue
            finally:
                order.cost += len(walk.entries)
                walk.standing.settle(order.peer)
            text = await self._disk.run(_write, walk, began, look)
            if self._monotonic() - began <= max_age:
                return text
            changed = False
        if changed:
            raise Refused("manifest_changing", "the tree changes all the time")
        raise Refused(
            "manifest_slow", f"a look at the tree takes longer than {max_age:g} s"
        )

    async def _look(self, walk: Walk) -> None:
        done = False
        while not done:
            await self._turn.acquire()
            try:
                done = await self._disk.run(walk.step)
            finally:
                self._turn.release()

    async def _hash(
        self, walk: Walk, hashed: dict[DigestKey, bytes], until: float
    ) -> None:
        """
        Find the digests that are not known.
        """
        digests: dict[int, bytes] = {}
        small = [item for item in walk.unhashed if item.key[3] <= SMALL]
        for begin in range(0, len(small), _TOGETHER):
            together = small[begin : begin + _TOGETHER]
            self._check_time(until)
            await self._turn.acquire()
            try:
                found = await self._disk.run(_hash_small, together, self._now_ns())
            finally:
                self._turn.release()
            for item, (digest, settled) in zip(together, found, strict=True):
                digests[item.place] = digest
                if settled:
                    hashed[item.key] = digest
                    self._digests.keep(item.key, digest)
        waiting = deque(item for item in walk.unhashed if item.key[3] > SMALL)

        async def some() -> None:
            try:
                while waiting:
                    item = waiting.popleft()
                    self._check_time(until)
                    digests[item.place] = await self._digest(item, hashed)
            except BaseException:
                waiting.clear()
                raise

        count = min(_HASHED_AT_ONCE, len(waiting))
        several = [ensureDeferred(some()) for _ in range(count)]
        ended: list[tuple[bool, Any]] = await DeferredList(several, consumeErrors=True)
        for succeeded, result in ended:
            if not succeeded:
                result.raiseException()
        walk.finish(digests)

    def _check_time(self, until: float) -> None:
        if self._monotonic() > until:
            raise Refused(
                "manifest_slow", f"hashing the tree takes longer than {_LONGEST:g} s"
            )

    async def _digest(self, item: Unhashed, hashed: dict[DigestKey, bytes]) -> bytes:
        """
        The digest of a file that is the same before and after.
        """
        try:
            held = self._files.resolve(None, item.path)
            try:
                if held.path != item.path:
                    raise Changed
                if digest_key("sha256", held.status) != item.key:
                    raise Changed
                settled = self._now_ns() - held.status.ctime_ns >= SETTLED
                found = held.digest("sha256")
                digest = await found if isinstance(found, Deferred) else found
                after = status_of(os.fstat(held.open()))
                if digest_key("sha256", after) != item.key:
                    raise Changed
            finally:
                held.close()
        except OSError as error:
            if error.errno in _GONE:
                raise Changed from error
            raise
        if settled:
            hashed[item.key] = digest
        return digest


def _hash_small(items: list[Unhashed], now_ns: int) -> list[tuple[bytes, bool]]:
    """
    In a thread: the digest of each file, and whether it may be kept.
    """
    found = []
    for item in items:
        try:
            held = posix.hold(item.path, follow=False)
        except OSError as error:
            if error.errno in _GONE:
                raise Changed from error
            raise
        try:
            # Nothing else than the very file is ever opened.
            _check(held, item)
            opened = posix.open_held(held)
            try:
                data = os.pread(opened, item.key[3] + 1, 0)
                _check(opened, item)
            finally:
                os.close(opened)
        finally:
            os.close(held)
        if len(data) != item.key[3]:
            raise Changed
        settled = now_ns - item.key[5] >= SETTLED
        found.append((hashlib.sha256(data).digest(), settled))
    return found


def _check(descriptor: int, item: Unhashed) -> None:
    if digest_key("sha256", status_of(os.fstat(descriptor))) != item.key:
        raise Changed


def _write(walk: Walk, began: float, look: int) -> Text:
    """
    In a thread: the text and its digests.
    """
    data = encode_manifest(walk.entries)
    return Text(
        data,
        hashlib.md5(data, usedforsecurity=False).digest(),
        hashlib.sha256(data).digest(),
        began,
        len(walk.entries),
        look,
    )
