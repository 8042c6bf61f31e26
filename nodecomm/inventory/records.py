# SPDX-License-Identifier: MIT
"""
Documents and decisions put in force, whatever keeps the nodes.

`Records` is what a database must offer. What is done with it stands here once: within
one transaction a node is looked up, judged, changed and written, so that two processes
that take documents of one node do so one after the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from attrs import field, frozen

from nodecomm.inventory.arrivals import after_document
from nodecomm.inventory.document import read_document
from nodecomm.inventory.judgement import Judgement, Outcome, Rules, judge
from nodecomm.inventory.lifecycle import (
    Accept,
    Change,
    Decision,
    NotPossible,
    Others,
    decide,
)
from nodecomm.inventory.limits import DocumentLimits, DocumentRefused
from nodecomm.inventory.model import Inventory, Refusal
from nodecomm.inventory.nodes import Event, KeptDocument, Node, NodesAt, Status
from nodecomm.inventory.signature import Signature, SignatureRefused, read_signature

__all__ = [
    "MAX_EVENTS",
    "MAX_PENDING",
    "ReadDocument",
    "Received",
    "Records",
    "put_decision",
    "put_document",
    "read_files",
    "same_moment",
]

#: Events of one node that are kept, the newest.
MAX_EVENTS = 500

#: Nodes that may wait for a decision. Whoever has the password for uploads can make
#: one with each key pair that he makes.
MAX_PENDING = 10_000


class Records(Others, Protocol):
    """
    What is kept, within one transaction. Ids are the same in any case of letters.
    """

    def node(self, node_id: str) -> Node | None:
        """
        The node with this id.
        """

    def nodes(self, *statuses: Status) -> Sequence[Node]:
        """
        Those with one of these statuses, or all, in the order of their ids.
        """

    def count(self, status: Status) -> int:
        """
        How many have this status.
        """

    def save(self, node: Node) -> None:
        """
        Keep this in place of the node with its id, if there is one.
        """

    def document(self, node_id: str) -> KeptDocument | None:
        """
        The newest document of a node.
        """

    def save_document(self, node_id: str, document: KeptDocument) -> None:
        """
        Keep this in place of the one before. The node is saved already.
        """

    def events(self, node_id: str) -> Sequence[Event]:
        """
        The history of a node, the oldest first.
        """

    def add_event(self, node_id: str, event: Event, limit: int) -> None:
        """
        Add to the history, and keep the newest *limit*. The node is saved already.
        """

    def generation(self) -> int:
        """
        A number that grows with `advance`.
        """

    def advance(self) -> None:
        """
        Make others look again, in this process and in all that share the records.
        """


@frozen
class ReadDocument:
    """
    A document and its signature's file, read but not judged.

    Attributes:
        document: The document, not compressed.
        kept: Both, as they are kept; None if one of them could not be read.
        digest: SHA-256 of the document.
        inventory: What it says; None if it could not be read.
        signature: What is in the signature's file; None if there is none.
        refusal: Why one of them could not be read.
    """

    document: bytes = field(repr=False)
    digest: str
    kept: KeptDocument | None = field(default=None, repr=False)
    inventory: Inventory | None = field(default=None, repr=False)
    signature: Signature | None = field(default=None, repr=False)
    refusal: Refusal | None = None


@frozen
class Received:
    """
    What became of a document.

    Attributes:
        judgement: The decision about it.
        node: The node that it is about, as it is now; None if the document could not
            be read, or is refused and no such node is known.
        not_accepted: Why the node is not accepted, although it was to be.
        events: What its history has now that it had not before.
    """

    judgement: Judgement
    node: Node | None = None
    not_accepted: NotPossible | None = None
    events: tuple[Event, ...] = ()


def read_files(
    document: bytes, signature: bytes | None, limits: DocumentLimits | None = None
) -> ReadDocument:
    """
    Read a document and its signature's file, and compress it to be kept. Blocks for
    some 25 ms, and needs nothing of a database: any thread will do.

    Args:
        document: The document, not compressed.
        signature: The content of its signature's file; None if there is none.
        limits: How much of a document is read.
    """
    digest = hashlib.sha256(document).hexdigest()
    try:
        inventory = read_document(document, limits)
        read = None if signature is None else read_signature(signature)
    except (DocumentRefused, SignatureRefused) as error:
        return ReadDocument(document, digest, refusal=error.refusal)
    kept = KeptDocument.of(document, signature)
    return ReadDocument(document, digest, kept, inventory, read)


def put_document(
    records: Records,
    read: ReadDocument,
    now: datetime,
    rules: Rules | None = None,
    *,
    accept_as: str | None = None,
    max_pending: int = MAX_PENDING,
) -> Received:
    """
    Judge a document and put what follows in force. Blocks for some 3 ms.

    Args:
        records: Within a transaction that can write.
        read: The document.
        now: Civil time, with a zone.
        rules: What the operator has chosen.
        accept_as: Who accepts the node at once if it is pending then; None for nobody.
        max_pending: Nodes that may wait for a decision.
    """
    inventory, kept = read.inventory, read.kept
    if inventory is None or kept is None:
        refused = Judgement(Outcome.REFUSED, read.digest, refusal=read.refusal)
        return Received(refused)
    node = records.node(inventory.node_id)
    known = node.for_judgement if node else None
    judgement, change = after_document(
        node,
        judge(read.document, inventory, read.signature, known, now, rules),
        records,
        now,
        rules,
        room=lambda: records.count(Status.PENDING) < max_pending,
    )
    events: tuple[Event, ...] = ()
    if change is not None:
        _keep(records, node, change)
        node, events = change.node, change.events
    if judgement.outcome is Outcome.TAKEN and node is not None:
        records.save_document(node.node_id, kept)
        if accept_as is not None and node.status is Status.PENDING:
            decision = Accept(node.node_id)
            try:
                change = put_decision(records, decision, now, accept_as)
            except NotPossible as error:
                return Received(judgement, node, error, events)
            node, events = change.node, (*events, *change.events)
    return Received(judgement, node, events=events)


def put_decision(
    records: Records, decision: Decision, now: datetime, by: str
) -> Change:
    """
    Put an operator's decision in force.

    Args:
        records: Within a transaction that can write.
        decision: What is wanted.
        now: Civil time, with a zone.
        by: Who decides.

    Returns:
        The node as it is now, and what its history has now that it had not before.

    Raises:
        NotPossible: It cannot be. Nothing has changed.
    """
    node = records.node(decision.node_id)
    change = decide(node, decision, records, now, by)
    if change.node != node:
        _keep(records, node, change)
    return change


def _keep(records: Records, before: Node | None, change: Change) -> None:
    records.save(change.node)
    for event in change.events:
        records.add_event(change.node.node_id, event, MAX_EVENTS)
    if change.node.opens != (before.opens if before else None):
        records.advance()


def same_moment(records: Records, *statuses: Status) -> NodesAt:
    """
    Nodes and the generation that they are of.

    Args:
        records: Within a transaction.
        statuses: Those that are wanted; all, if none is named.
    """
    return NodesAt(records.generation(), tuple(records.nodes(*statuses)))
