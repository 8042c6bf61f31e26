# SPDX-License-Identifier: MIT
"""
A registry of nodes in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed

from nodecomm.identity.accepted import WithdrawnKey
from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.judgement import Rules
from nodecomm.inventory.nodes import Event, KeptDocument, Node, OtherNode, Status
from nodecomm.inventory.records import MAX_PENDING, Records
from nodecomm.inventory.registry import NodeRegistry
from nodecomm.storage.database import DatabaseClosed

__all__ = ["MemoryNodeRegistry"]

T = TypeVar("T")


class _MemoryRecords:
    """
    `nodecomm.inventory.records.Records` in dictionaries.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._documents: dict[str, KeptDocument] = {}
        self._events: dict[str, tuple[Event, ...]] = {}
        self._generation = 0
        self._changed: dict[str, int] = {}
        self._withdrawals = 0
        self._withdrawn: tuple[WithdrawnKey, ...] = ()

    def copy(self) -> _MemoryRecords:
        """
        The same, to be changed on its own: all values are immutable.
        """
        other = _MemoryRecords()
        other._nodes = dict(self._nodes)
        other._documents = dict(self._documents)
        other._events = dict(self._events)
        other._generation = self._generation
        other._changed = dict(self._changed)
        other._withdrawals = self._withdrawals
        other._withdrawn = self._withdrawn
        return other

    def node(self, node_id: str) -> Node | None:
        return self._nodes.get(_id(node_id))

    def nodes(self, *statuses: Status) -> Sequence[Node]:
        return [
            node
            for _, node in sorted(self._nodes.items())
            if not statuses or node.status in statuses
        ]

    def with_key(self, key: PublicKey) -> Sequence[Node]:
        return [node for node in self.nodes() if node.key == key]

    def with_hostname(self, hostname: str) -> Sequence[Node]:
        name = hostname.lower()
        return [node for node in self.nodes() if (node.hostname or "").lower() == name]

    def count(self, status: Status) -> int:
        return len(self.nodes(status))

    def save(self, node: Node) -> None:
        self._nodes[_id(node.node_id)] = node

    def removed_before(self, when: datetime, limit: int) -> Sequence[str]:
        removed = self.nodes(Status.DELETED, Status.REFUSED)
        found = sorted(removed, key=lambda node: node.since)
        return [
            node.node_id
            for node in found
            if node.since < when
            and (_id(node.node_id) in self._events or self.document(node.node_id))
        ][:limit]

    def strip(self, node_id: str) -> None:
        self._documents.pop(_id(node_id), None)
        self._events.pop(_id(node_id), None)

    def document(self, node_id: str) -> KeptDocument | None:
        return self._documents.get(_id(node_id))

    def save_document(self, node_id: str, document: KeptDocument) -> None:
        self._documents[_id(node_id)] = document

    def events(self, node_id: str) -> Sequence[Event]:
        return list(self._events.get(_id(node_id), ()))

    def add_event(self, node_id: str, event: Event, limit: int) -> None:
        before = self._events.get(_id(node_id), ())
        self._events[_id(node_id)] = (*before, event)[-limit:]

    def generation(self) -> int:
        return self._generation

    def advance(self, node_id: str) -> None:
        self._generation += 1
        self._changed[_id(node_id)] = self._generation

    def changed_since(self, generation: int) -> tuple[list[Node], list[OtherNode]]:
        changed = [
            node
            for node in self.nodes()
            if self._changed.get(_id(node.node_id), 0) > generation
        ]
        return [node for node in changed if node.status is Status.ACCEPTED], [
            OtherNode(
                node.node_id, node.status, None if node.key is None else node.key.sha
            )
            for node in changed
            if node.status is not Status.ACCEPTED
        ]

    def withdraw(
        self, node_id: str, key: PublicKey, what: str, when: datetime, limit: int
    ) -> None:
        self._withdrawals += 1
        mine = [x for x in self._withdrawn if _id(x.node_id) == _id(node_id)]
        kept = [x for x in mine if x.key != key]
        kept.append(WithdrawnKey(self._withdrawals, node_id, key, what, when))
        others = [x for x in self._withdrawn if x not in mine]
        self._withdrawn = (*others, *kept[-limit:])

    def withdrawals(self) -> int:
        return self._withdrawals

    def withdrawn_since(self, number: int) -> Sequence[WithdrawnKey]:
        found = (each for each in self._withdrawn if each.number > number)
        return sorted(found, key=lambda each: each.number)


def _id(node_id: str) -> str:
    return node_id.strip().lower()


class _MemoryStore:
    """
    Works at once, while it is started.
    """

    def __init__(self) -> None:
        self._records = _MemoryRecords()
        self._running = False

    def start(self) -> Deferred[None]:
        self._running = True
        return succeed(None)

    def stop(self) -> Deferred[None]:
        self._running = False
        return succeed(None)

    def run(self, work: Callable[[Records], T], *, write: bool) -> Deferred[T]:
        if not self._running:
            return fail(DatabaseClosed("the registry is not started"))
        changed = self._records.copy()

        def keep(result: T) -> T:
            if write:
                self._records = changed
            return result

        return maybeDeferred(work, changed).addCallback(keep)


def _at_once(function: Callable[..., T], /, *args: Any, **kw: Any) -> Deferred[T]:
    return maybeDeferred(function, *args, **kw)


class MemoryNodeRegistry(NodeRegistry):
    """
    An `INodeRegistry` that forgets when the process ends. Everything is done at once.

    Args:
        now: Civil time, with a zone.
        rules: What the operator has chosen about documents.
        max_pending: Nodes that may wait for a decision.
    """

    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        rules: Rules | None = None,
        *,
        max_pending: int = MAX_PENDING,
    ) -> None:
        super().__init__(
            _MemoryStore(), _at_once, rules=rules, max_pending=max_pending, now=now
        )
