# SPDX-License-Identifier: MIT
"""
Manifests: one file that says of a whole tree what this peer would learn by asking for
each object, under a reserved name that no listing shows.

A manifest is made when a peer asks for it, kept for `max_age` seconds, and shared by
all peers for whom every rule that decided says the same and who have the same right on
the files. One is made at a time for each folder, and a few at a time in all. Where it
cannot be known what a peer may have, or the tree is too large, or its digests are not
known soon enough, the request is refused: then the peer asks for each object, as it
would of any other server.

A refusal is harmless here: the name is in no listing, so nobody has a copy that he
would delete.
"""

from __future__ import annotations

import posixpath
from collections import deque
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred, ensureDeferred

from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.requests import AccessRequest
from nodecomm.server import posix
from nodecomm.server.manifest_build import Builder, Order
from nodecomm.server.manifest_store import (
    SUFFIX,
    SUFFIX_OF_NEW,
    Allowance,
    ManifestStore,
)
from nodecomm.server.pools import QueueFull
from nodecomm.server.requests import Refused
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.logger import Logger

    from nodecomm.access.snapshot import Snapshot
    from nodecomm.server.digests import DigestCache
    from nodecomm.server.filesystem import FileSystemSource
    from nodecomm.server.manifest_build import Tree
    from nodecomm.server.manifest_store import HeldManifest
    from nodecomm.server.pools import Pool
    from nodecomm.server.requests import Request

__all__ = ["Manifests"]

#: Seconds that a request waits for its manifest; then it is refused, and the manifest
#: is made all the same. A tree whose files were never hashed takes longer.
PATIENCE = 3.0

#: Manifests being made at a time; those that wait for their turn; those that one key
#: has ordered.
AT_ONCE = 2
WAITING = 64
PER_KEY = 2

#: How often a peer that waited for a manifest which turned out to be another's is made
#: to wait again.
_ATTEMPTS = 3

#: Names of real objects that were told of once.
_SHADOWS = 1000


@define(eq=False)
class Manifests:
    """
    The manifests of a server.

    Args:
        files: The file system.
        digests: Where digests of files are known.
        disk: Where trees are looked at.
        clock: For how long a request waits.
        now: Civil time in seconds.
        monotonic: Seconds of a clock that nobody sets.
        log: Where events go.
        max_age: Seconds for which a manifest may be answered; 0: there are none.

    Attributes:
        made: How many were made.
    """

    _files: FileSystemSource
    _digests: DigestCache
    _disk: Pool
    _clock: IReactorTime
    _now: Callable[[], float]
    _monotonic: Callable[[], float]
    _log: Logger
    max_age: float = 10.0
    made: int = field(default=0, init=False)
    _builder: Builder = field(init=False)
    _store: ManifestStore = field(init=False)
    _allowance: Allowance = field(init=False)
    _orders: dict[Tree, Order] = field(factory=dict, init=False)
    _queue: deque[tuple[Order, AccessEvaluator]] = field(factory=deque, init=False)
    _running: set[Order] = field(factory=set, init=False)
    _timers: dict[Tree, IDelayedCall] = field(factory=dict, init=False)
    _shadows: set[bytes] = field(factory=set, init=False)
    #: New ones that connections wait for, by the sizes that those were told and the
    #: name: after which look each of them is to be made.
    _together: dict[tuple[int, bytes], int] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._builder = self._make_builder()
        self._store = ManifestStore(self._now, self._monotonic)
        self._allowance = Allowance(self._monotonic)

    def _make_builder(self, looks: int = 0) -> Builder:
        return Builder(
            self._files,
            self._digests,
            self._disk,
            lambda: int(self._now() * 1_000_000_000),
            self._monotonic,
            looks,
        )

    # What requests ask for.

    def hold(
        self, operation: str, request: Request, full: bytes
    ) -> HeldManifest | Deferred[HeldManifest]:
        """
        The manifest called *full*, for *operation* (`stat`, `md5` or `get`). Under
        the name of a new one, `stat` and `md5` are answered by a look at the tree that
        has not begun yet; those that one connection asks together, by the same look.

        Raises:
            Refused: There is none for this peer now.
            FileNotFoundError: There is no such folder.
        """
        peer, snapshot = request.peer, request.snapshot
        evaluator = request.serving.evaluator
        if (
            self.max_age <= 0
            or not posix.HAS_O_PATH
            # What another evaluator's decisions depend on cannot be known.
            or type(evaluator) is not AccessEvaluator
            or not peer.encrypted
        ):
            raise FileNotFoundError("no such object, and no manifests here")
        new = full.endswith(SUFFIX_OF_NEW)
        folder = full[: -len(SUFFIX_OF_NEW if new else SUFFIX)] or b"/"
        after = 0
        if new:
            after = self._together.get((id(request.sizes), full), self._builder.looks)
        _check_sources(snapshot, folder)
        tree = self._folder(request, evaluator, folder)
        if operation == "get":
            told = request.sizes.announced(request.name)
            if told is None:
                # Without this a peer that is refused every STAT, for its clock, would
                # learn here what STAT says.
                raise Refused("manifest_not_announced", "a manifest begins with STAT")
            return self._store.announced(told[1], tree, snapshot, peer, self.max_age)
        held = self._store.find(tree, snapshot, peer, self.max_age, after)
        if held is not None:
            return held
        if new:
            return ensureDeferred(
                self._obtain_new(request, tree, evaluator, after, full)
            )
        return ensureDeferred(self._obtain(request, tree, evaluator))

    def shadowed(self, name: bytes) -> None:
        """
        A real object is called *name*: it is what is served. Told once for each.
        """
        if self.max_age > 0 and name not in self._shadows:
            if len(self._shadows) >= _SHADOWS:
                return
            self._shadows.add(name)
            self._log.warn(
                "there is a real {log_name}: it is served, and its folder has no"
                " manifest",
                event="manifest.shadowed",
                name=to_text(name),
                log_name=to_text(name[-300:]),
            )

    def _folder(
        self, request: Request, evaluator: AccessEvaluator, folder: bytes
    ) -> Tree:
        """
        The folder, if the peer may list it.
        """
        held = self._files.resolve(request.peer, folder)
        held.close()
        status = held.status
        if not status.is_directory:
            raise FileNotFoundError("no folder")
        for operation in ("stat", "opendir"):
            decision = evaluator.evaluate(
                request.snapshot,
                request.peer,
                AccessRequest(operation, held.path, True, status.uid, status.mode),
            )
            request.decision = decision
            if not decision.allowed:
                code = "manifest_hostname" if decision.undecidable else decision.reason
                raise Refused(code, decision.text)
        return held.path, status.dev, status.ino

    # Making them.

    async def _obtain_new(
        self,
        request: Request,
        tree: Tree,
        evaluator: AccessEvaluator,
        after: int,
        full: bytes,
    ) -> HeldManifest:
        """
        As `_obtain`, for one that is called *full*.
        """
        asked = (id(request.sizes), full)
        first = asked not in self._together
        self._together[asked] = after
        try:
            return await self._obtain(request, tree, evaluator, after)
        finally:
            if first:
                self._together.pop(asked, None)

    async def _obtain(
        self, request: Request, tree: Tree, evaluator: AccessEvaluator, after: int = 0
    ) -> HeldManifest:
        """
        Wait for a manifest, at the most `PATIENCE` seconds for each. One that is being
        made is waited for even where it is too old: it may become newer, and the next
        one of its folder is made after it.
        """
        for _ in range(_ATTEMPTS):
            order = self._orders.get(tree)
            if order is None:
                order = self._order(request, tree, evaluator)
            if order.late:
                raise _not_ready()
            waiter: Deferred[None] = Deferred()
            order.waiters.append(waiter)
            self._next()
            await waiter
            held = self._store.find(
                tree, request.snapshot, request.peer, self.max_age, after
            )
            if held is not None:
                return held
        raise Refused("manifest_busy", "manifests of this folder are made for others")

    def _order(self, request: Request, tree: Tree, evaluator: AccessEvaluator) -> Order:
        """
        Have a manifest made, soon.
        """
        who = request.peer.digest
        if len(self._orders) >= WAITING:
            raise Refused("manifest_busy", f"{WAITING} manifests are ordered already")
        ordered = [order for order in self._orders.values() if order.peer.digest == who]
        if len(ordered) >= PER_KEY or self._allowance.left(who) <= 0:
            raise Refused(
                "manifest_busy", "this key has asked for too many manifests just now"
            )
        order = Order.of(tree, request.snapshot, request.peer)
        self._orders[tree] = order
        self._timers[tree] = self._clock.callLater(PATIENCE, self._give_up, order)
        self._queue.append((order, evaluator))
        return order

    def _next(self) -> None:
        """
        Begin with what waits for its turn.
        """
        while self._queue and len(self._running) < AT_ONCE:
            order, evaluator = self._queue.popleft()
            self._running.add(order)
            making = ensureDeferred(self._make(order, evaluator))
            making.addErrback(
                lambda failure: self._log.failure(
                    "a manifest could not be made", failure, event="manifest.failed"
                )
            )

    async def _make(self, order: Order, evaluator: AccessEvaluator) -> None:
        name = to_text(order.tree[0])
        max_age = self.max_age
        try:
            text = await self._builder.make(order, evaluator, max_age)
            self.made += 1
            self._store.keep(order, text, max_age)
            self._log.debug(
                "made the manifest of {name}: {objects} objects, {bytes} bytes,"
                " {seconds} s",
                event="manifest.made",
                name=name,
                objects=text.objects,
                bytes=len(text.data),
                seconds=round(self._monotonic() - text.began, 3),
            )
        except Refused as refusal:
            self._store.refuse(order, refusal.code, refusal.text)
        except (OSError, QueueFull, MemoryError) as error:
            self._log.warn(
                "the manifest of {name} could not be made: {reason}",
                event="manifest.failed",
                name=name,
                reason=str(error),
            )
            self._store.refuse(order, "manifest_failed", str(error))
        except Exception:
            self._log.failure(
                "the manifest of {name} could not be made",
                event="manifest.failed",
                name=name,
            )
            self._store.refuse(order, "manifest_failed", "failure in the server")
        finally:
            self._running.discard(order)
            self._allowance.spend(order.peer.digest, order.cost)
            if self._orders.get(order.tree) is order:
                del self._orders[order.tree]
                timer = self._timers.pop(order.tree)
                if timer.active():
                    timer.cancel()
            waiters, order.waiters = order.waiters, []
            for waiter in waiters:
                waiter.callback(None)
            self._next()

    def _give_up(self, order: Order) -> None:
        """
        Let nobody wait any longer.
        """
        order.late = True
        waiters, order.waiters = order.waiters, []
        for waiter in waiters:
            waiter.errback(_not_ready())

    def sweep(self) -> None:
        """
        Forget what nobody can have any more; to be called every second or so.
        """
        self._store.sweep()

    def stop(self) -> None:
        """
        Nobody waits any more, and nothing more is begun.
        """
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        self._timers.clear()
        for order in self._orders.values():
            # All sessions are over. What is never ended is closed as garbage, in any
            # order, and must not call back then.
            order.waiters.clear()
        self._orders.clear()
        self._together.clear()
        self._queue.clear()
        # What a stopped pool holds never ends; another start begins without it.
        self._running.clear()
        self._builder = self._make_builder(self._builder.looks)


def _check_sources(snapshot: Snapshot, folder: bytes) -> None:
    """
    No manifest of what a plugin's source answers for, wholly or partly. Which source
    answers is decided by the name that is asked for, not by the resolved one.
    """
    if not snapshot.mounts:
        return
    inside = posixpath.normpath(folder).rstrip(b"/") + b"/"
    for mount in snapshot.mounts:
        mounted = mount.rstrip(b"/") + b"/"
        if inside.startswith(mounted) or mounted.startswith(inside):
            raise Refused(
                "manifest_source", "a plugin's source answers for a part of the folder"
            )


def _not_ready() -> Refused:
    return Refused(
        "manifest_not_ready", f"it takes longer than {PATIENCE:g} s, and is being made"
    )
