# SPDX-License-Identifier: MIT
"""
The nodes of a server, for whoever lives in a reactor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, LogLevel
from zope.interface import implementer

from nodecomm.interfaces import INodeRegistry
from nodecomm.inventory.judgement import Rules
from nodecomm.inventory.lifecycle import Change, Decision
from nodecomm.inventory.limits import DocumentLimits
from nodecomm.inventory.nodes import (
    Event,
    KeptDocument,
    Node,
    NodeNews,
    NodesAt,
    Status,
)
from nodecomm.inventory.records import (
    MAX_PENDING,
    ReadDocument,
    Received,
    Records,
    news,
    purge,
    put_decision,
    put_document,
    read_files,
    same_moment,
)

__all__ = ["NodeRegistry", "NodeStore", "in_reactor_threads"]

T = TypeVar("T")

#: Events that an operator should look into.
_DOUBTS = {"alternating", "conflict", "key"}


class NodeStore(Protocol):
    """
    What keeps nodes: a SQLite file, a server's memory.
    """

    def start(self) -> Deferred[None]:
        """
        Take work from now on.
        """

    def stop(self) -> Deferred[None]:
        """
        Finish what was asked for, and take no more.
        """

    def run(self, work: Callable[[Records], T], *, write: bool) -> Deferred[T]:
        """
        Call *work* within one transaction, one after the other where it can write.
        What it raises undoes what it wrote. It may be called on another thread.
        """


class InThread(Protocol):
    """
    Calls something where it may block.
    """

    def __call__(
        self, function: Callable[..., T], /, *args: Any, **kw: Any
    ) -> Deferred[T]: ...


def in_reactor_threads(reactor: Any) -> InThread:
    """
    Calls functions in the threads of a reactor.
    """

    def call(function: Callable[..., T], /, *args: Any, **kw: Any) -> Deferred[T]:
        return deferToThreadPool(
            reactor, reactor.getThreadPool(), function, *args, **kw
        )

    return call


def _present() -> datetime:
    return datetime.now(timezone.utc)


@implementer(INodeRegistry)
class NodeRegistry:
    """
    The nodes of a server. Each method's Deferred fails with the store's error.

    Args:
        store: What keeps them. Whoever starts and stops it is free to do so through
            `start` and `stop` here.
        in_thread: Calls what blocks: documents are read so, outside of transactions.
        rules: What the operator has chosen about documents.
        limits: How much of a document is read.
        max_pending: Nodes that may wait for a decision.
        now: Civil time, with a zone.
    """

    _log = Logger()

    def __init__(
        self,
        store: NodeStore,
        in_thread: InThread,
        *,
        rules: Rules | None = None,
        limits: DocumentLimits | None = None,
        max_pending: int = MAX_PENDING,
        now: Callable[[], datetime] = _present,
    ) -> None:
        self._store = store
        self._in_thread = in_thread
        self._rules = rules
        self._limits = limits
        self._max_pending = max_pending
        self._now = now

    def start(self) -> Deferred[None]:
        """
        Start the store.
        """
        return self._store.start()

    def stop(self) -> Deferred[None]:
        """
        Stop the store.
        """
        return self._store.stop()

    def receive(
        self,
        document: bytes,
        signature: bytes | None,
        *,
        when: datetime | None = None,
        accept_as: str | None = None,
    ) -> Deferred[Received]:
        """
        Read and judge a document, and put in force what follows: when this is there, it
        is on disk.

        Args:
            document: The document, not compressed.
            signature: The content of its signature's file; None if there is none.
            when: When it had come, if it waited since: its age counts from then.
            accept_as: Who accepts the node at once if it is pending then; None for
                nobody.
        """
        read = self._in_thread(read_files, document, signature, self._limits)

        def put(found: ReadDocument) -> Deferred[Received]:
            return self._store.run(
                lambda records: put_document(
                    records,
                    found,
                    when or self._now(),
                    self._rules,
                    accept_as=accept_as,
                    max_pending=self._max_pending,
                ),
                write=True,
            )

        def told(received: Received) -> Received:
            self._tell(received.node, received.events)
            return received

        return read.addCallback(put).addCallback(told)

    def decide(self, decision: Decision, by: str) -> Deferred[Node]:
        """
        Put an operator's decision in force. Fails with `NotPossible`, too.
        """
        done = self._store.run(
            lambda records: put_decision(records, decision, self._now(), by), write=True
        )

        def told(change: Change) -> Node:
            self._tell(change.node, change.events)
            return change.node

        return done.addCallback(told)

    def _tell(self, node: Node | None, events: Iterable[Event]) -> None:
        """
        Log what is in force now.
        """
        for event in events:
            level = LogLevel.warn if event.what in _DOUBTS else LogLevel.info
            self._log.emit(
                level,
                "node {node}: {what}, by {by}: {text}",
                event="node.changed",
                node=node and node.node_id,
                what=event.what,
                by=event.by,
                text=event.text,
            )

    def node(self, node_id: str) -> Deferred[Node | None]:
        """
        The node with this id, in any case of letters.
        """
        return self._store.run(lambda records: records.node(node_id), write=False)

    def nodes(self, *statuses: Status) -> Deferred[NodesAt]:
        """
        Those with one of these statuses, or all, with the generation they are of.
        """
        return self._store.run(
            lambda records: same_moment(records, *statuses), write=False
        )

    def document(self, node_id: str) -> Deferred[KeptDocument | None]:
        """
        The newest document of a node.
        """
        return self._store.run(lambda records: records.document(node_id), write=False)

    def history(self, node_id: str) -> Deferred[Sequence[Event]]:
        """
        What happened to a node, the oldest first.
        """
        return self._store.run(lambda records: records.events(node_id), write=False)

    def purge(self, before: datetime) -> Deferred[Sequence[str]]:
        """
        Forget the history and the documents of nodes that were deleted or refused
        before that moment.
        """
        return Deferred.fromCoroutine(self._purge(before))

    async def _purge(self, before: datetime) -> Sequence[str]:
        gone: list[str] = []
        while True:
            # In parts, so that others need not wait long.
            some: list[str] = await self._store.run(
                lambda records: purge(records, before), write=True
            )
            if not some:
                break
            gone += some
        if gone:
            self._log.info(
                "the history of {count} nodes that were deleted or refused before"
                " {before} is forgotten",
                event="nodes.forgotten",
                count=len(gone),
                before=before.isoformat(),
                nodes=gone,
            )
        return gone

    def generation(self) -> Deferred[int]:
        """
        A number that grows when what follows from any node changes, in whichever
        process.
        """
        return self._store.run(lambda records: records.generation(), write=False)

    def news(self, generation: int = -1, number: int = 0) -> Deferred[NodeNews]:
        """
        What has changed after a generation, and the keys that were withdrawn after
        that number: for whoever follows the nodes.
        """
        return self._store.run(
            lambda records: news(records, generation, number), write=False
        )
