# SPDX-License-Identifier: MIT
"""
The manifests in memory, and the knowledge that there can be none, for as long as they
hold and as far as memory goes.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from attrs import define, field
from zope.interface import implementer

from nodecomm.interfaces import IHeldObject
from nodecomm.server.held import FileStatus, Kind
from nodecomm.server.requests import Refused
from nodecomm.wire.manifest import NAME, NAME_OF_NEW

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodecomm.access.snapshot import Snapshot
    from nodecomm.identity.peer import Peer
    from nodecomm.server.manifest_build import Order, Text, Tree
    from nodecomm.server.manifest_walk import Standing

__all__ = ["SUFFIX", "SUFFIX_OF_NEW", "Allowance", "HeldManifest", "ManifestStore"]

#: What the name of a manifest ends with; of one that is made for whoever asks.
SUFFIX = b"/" + NAME
SUFFIX_OF_NEW = b"/" + NAME_OF_NEW

#: Seconds after `max_age` for which a manifest that was announced by STAT can still be
#: had by GET.
KEPT = 60.0

#: Seconds for which it is remembered that there can be no manifest.
REFUSED = 60.0

#: Bytes of all manifests in memory. Those that are being sent are never dropped; where
#: they leave no room no further one is made.
MEMORY = 64 << 20

#: The first number of a manifest, where no file system has its inode numbers.
_FIRST = 1 << 62

#: Manifests, and refusals, in memory of one folder and of all.
PER_TREE = 16
IN_ALL = 1000

#: Objects that may be looked at on behalf of one key: all at once, and each second.
ALLOWANCE = 300_000
REFILL = 5_000
#: What a manifest costs at the least, in objects.
_COST = 1000
#: Keys whose allowance is remembered.
_KEYS = 10_000


@define(eq=False)
class _Kept:
    """
    A manifest, or that there is none.

    Attributes:
        number: No other has it; its inode number, as a peer sees it.
        snapshot: The rules it was made by.
        standing: For which peers it holds.
        until: Monotonic seconds after which it does not.
        text: The manifest; None: there is none, for the reason in `refusal`.
        status: What STAT says of it.
        holders: How many requests hold it now.
    """

    number: int
    tree: Tree
    snapshot: Snapshot
    standing: Standing
    until: float
    text: Text | None = None
    status: FileStatus | None = None
    refusal: tuple[str, str] = ("", "")
    holders: int = 0

    @property
    def size(self) -> int:
        """Bytes of the text."""
        return 0 if self.text is None else len(self.text.data)

    def holds_for(self, snapshot: Snapshot, peer: Peer) -> bool:
        """
        Whether it was made by these rules for a peer like this one.
        """
        return self.snapshot is snapshot and self.standing.holds_for(peer)


@implementer(IHeldObject)
class HeldManifest:
    """
    A manifest that a request holds.
    """

    __slots__ = ("_kept", "_status", "_text", "path")

    def __init__(self, kept: _Kept) -> None:
        if kept.text is None or kept.status is None:
            raise ValueError("there is no text to hold")
        self._kept: _Kept | None = kept
        self._text = kept.text
        self._status = kept.status
        folder = kept.tree[0]
        self.path = (b"" if folder == b"/" else folder) + SUFFIX
        kept.holders += 1

    def stat(self) -> FileStatus:
        """A plain file; its number is that of this very text."""
        return self._status

    def entries(self) -> Any:
        """None."""
        raise NotADirectoryError("a manifest is no folder")

    def read(self, offset: int, size: int) -> bytes:
        """A part of the text."""
        return self._text.data[offset : offset + size]

    def digest(self, algorithm: str) -> bytes:
        """The digest of the text."""
        return self._text.md5 if algorithm == "md5" else self._text.sha256

    def unchanged(self, size: int) -> bool:
        """It never changes."""
        return True

    def close(self) -> None:
        """Let go of it."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.holders -= 1


@define(eq=False)
class ManifestStore:
    """
    What is remembered about manifests.

    Args:
        now: Civil time in seconds.
        monotonic: Seconds of a clock that nobody sets.
    """

    _now: Callable[[], float]
    _monotonic: Callable[[], float]
    _trees: dict[Tree, list[_Kept]] = field(factory=dict, init=False)
    _all: OrderedDict[int, _Kept] = field(factory=OrderedDict, init=False)
    _memory: int = field(default=0, init=False)
    _numbers: itertools.count[int] = field(
        factory=lambda: itertools.count(_FIRST), init=False
    )

    def find(
        self,
        tree: Tree,
        snapshot: Snapshot,
        peer: Peer,
        max_age: float,
        after: int = 0,
    ) -> HeldManifest | None:
        """
        What is in memory for *peer* and young enough, the newest first.

        Args:
            max_age: Seconds since the look at the tree began.
            after: The number of a look; only what a later one found will do.

        Raises:
            Refused: That there is none is in memory.
        """
        now = self._monotonic()
        for kept in self._trees.get(tree, ()):
            if kept.until >= now and kept.holds_for(snapshot, peer):
                if kept.text is None:
                    raise Refused(*kept.refusal)
                if now - kept.text.began <= max_age and kept.text.look > after:
                    # What many ask for outlives what one peer has made for itself.
                    self._all.move_to_end(kept.number)
                    return HeldManifest(kept)
        return None

    def announced(
        self,
        number: int,
        tree: Tree,
        snapshot: Snapshot,
        peer: Peer,
        max_age: float,
    ) -> HeldManifest:
        """
        The very text that STAT gave *number*, a little longer than `find` gives it.

        Raises:
            Refused: It is not there any more, or not for this peer.
        """
        kept = self._all.get(number)
        now = self._monotonic()
        if (
            kept is None
            or kept.text is None
            or kept.tree != tree
            or now - kept.text.began > max_age + KEPT
            or not kept.holds_for(snapshot, peer)
        ):
            raise Refused(
                "manifest_gone",
                "the manifest that was announced does not hold any more",
            )
        return HeldManifest(kept)

    def keep(self, order: Order, text: Text, max_age: float) -> None:
        """
        Remember what was made.
        """
        beside = self._trees.get(order.tree, [])
        for old in beside:
            if (
                old.text is not None
                and old.text.md5 == text.md5
                and old.text.sha256 == text.sha256
                and old.snapshot is order.snapshot
                and old.standing.rules == order.standing.rules
                and old.standing.right == order.standing.right
            ):
                # Who was announced the same text before can still have it.
                text.data = old.text.data
                old.text = text
                old.standing = order.standing
                old.until = text.began + max_age + KEPT
                self._all.move_to_end(old.number)
                # The list is left right here.
                beside.remove(old)
                beside.insert(0, old)
                return
        number = next(self._numbers)
        now_ns = int(self._now() * 1_000_000_000)
        kept = _Kept(
            number,
            order.tree,
            order.snapshot,
            order.standing,
            text.began + max_age + KEPT,
            text,
            FileStatus(
                Kind.REGULAR,
                0o400,
                0,
                0,
                len(text.data),
                now_ns,
                now_ns,
                now_ns,
                None,
                number,
                1,
                0,
            ),
        )
        if not self._make_room(kept.size):
            self.refuse(order, "manifest_memory", "too many manifests are being sent")
            return
        self._put(kept)

    def refuse(self, order: Order, code: str, text: str) -> None:
        """
        Remember that there can be none, and why.
        """
        until = self._monotonic() + REFUSED
        if self._make_room(0):
            self._put(
                _Kept(
                    next(self._numbers),
                    order.tree,
                    order.snapshot,
                    order.standing,
                    until,
                    refusal=(code, text),
                ),
            )

    def _put(self, kept: _Kept) -> None:
        self._all[kept.number] = kept
        self._memory += kept.size
        beside = self._trees.setdefault(kept.tree, [])
        beside.insert(0, kept)
        if len(beside) > PER_TREE:
            for other in reversed(beside):
                if not other.holders:
                    self._drop(other)
                    break

    def _make_room(self, size: int) -> bool:
        """
        Forget the oldest until there is room; false when what is being sent fills it.
        """
        for kept in list(self._all.values()):
            if self._memory + size <= MEMORY and len(self._all) < IN_ALL:
                break
            if not kept.holders:
                self._drop(kept)
        return self._memory + size <= MEMORY and len(self._all) < IN_ALL

    def _drop(self, kept: _Kept) -> None:
        del self._all[kept.number]
        self._memory -= kept.size
        beside = self._trees[kept.tree]
        beside.remove(kept)
        if not beside:
            del self._trees[kept.tree]

    def sweep(self) -> None:
        """
        Forget what nobody can have any more; to be called every second or so.
        """
        now = self._monotonic()
        for kept in list(self._all.values()):
            if kept.until < now and not kept.holders:
                self._drop(kept)


@define(eq=False)
class Allowance:
    """
    What may be spent on the manifests of one key, counted in objects looked at.

    Args:
        monotonic: Seconds of a clock that nobody sets.
    """

    _monotonic: Callable[[], float]
    _spent: OrderedDict[str, tuple[float, float]] = field(
        factory=OrderedDict, init=False
    )

    def left(self, who: str) -> float:
        """
        Objects that may still be looked at for this key; below 0 after a large tree.
        """
        left, when = self._spent.get(who, (float(ALLOWANCE), 0.0))
        return min(ALLOWANCE, left + (self._monotonic() - when) * REFILL)

    def spend(self, who: str, objects: int) -> None:
        """
        One more manifest was made, or tried, for this key.
        """
        left = self.left(who) - max(_COST, objects)
        self._spent[who] = (left, self._monotonic())
        self._spent.move_to_end(who)
        if len(self._spent) > _KEYS:
            self._spent.popitem(last=False)
