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

from nodecomm.identity.accepted import WithdrawnKey
from nodecomm.identity.keys import PublicKey
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
from nodecomm.inventory.nodes import (
    Event,
    KeptDocument,
    Node,
    NodeNews,
    NodesAt,
    OtherNode,
    Status,
)
from nodecomm.inventory.signature import Signature, SignatureRefused, read_signature

__all__ = [
    "MAX_EVENTS",
    "MAX_PENDING",
    "MAX_WITHDRAWN",
    "ReadDocument",
    "Received",
    "Records",
    "news",
    "purge",
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

#: Nodes whose history is forgotten within one transaction.
PURGE_AT_ONCE = 100

#: Withdrawn keys of one node that are kept, the last ones: each is another key.
MAX_WITHDRAWN = 100


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

    def removed_before(self, when: datetime, limit: int) -> Sequence[str]:
        """
        The ids of nodes that were deleted or refused before *when* and have a history
        or a document, *limit* at most.
        """

    def strip(self, node_id: str) -> None:
        """
        Keep neither history nor document of this node.
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

    def advance(self, node_id: str) -> None:
        """
        Make others look at a node again, in this process and in all that share the
        records. The node is saved already.
        """

    def changed_since(
        self, generation: int
    ) -> tuple[Sequence[Node], Sequence[OtherNode]]:
        """
        The accepted nodes that were changed after that generation, and the others; all
        of them if it is negative.
        """

    def withdraw(
        self, node_id: str, key: PublicKey, what: str, when: datetime, limit: int
    ) -> None:
        """
        Note that a key was withdrawn from a node, in place of what was noted of the
        same before, and keep the newest *limit* of the node.
        """

    def withdrawals(self) -> int:
        """
        How many keys were withdrawn; the number of the last one.
        """

    def withdrawn_since(self, number: int) -> Sequence[WithdrawnKey]:
        """
        The keys that were withdrawn after that one, in order.
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
        _keep(records, node, change, now)
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
        _keep(records, node, change, now)
    return change


def _keep(records: Records, before: Node | None, change: Change, now: datetime) -> None:
    node = change.node
    records.save(node)
    for event in change.events:
        records.add_event(node.node_id, event, MAX_EVENTS)
    taken = None if before is None else _withdrawn(before, node)
    if taken is not None:
        key, what = taken
        records.withdraw(node.node_id, key, what, now, MAX_WITHDRAWN)
    if before is None or node.follows != before.follows:
        records.advance(node.node_id)


def _withdrawn(before: Node, after: Node) -> tuple[PublicKey, str] | None:
    """
    The key that is not to be trusted any more, and the decision that says so.

    A key that a pending node has only named, without a signature, may be anybody's:
    a decision about that node says nothing about it.
    """
    key = before.key
    if key is None or not (before.known.signed or before.status is Status.ACCEPTED):
        return None
    if before.status is Status.BLOCKED:
        # It was withdrawn then; this says that the node may come again.
        return None
    if after.status is not before.status and not after.status.is_live:
        return key, after.status.value
    if after.key == key:
        return None
    return key, "trust-again" if after.key is None else "key"


def purge(records: Records, before: datetime) -> list[str]:
    """
    Forget the history and the documents of nodes that were deleted or refused long
    ago, some of them at a time. What decides about their next inventory stays for ever:
    that they have signed, when, and with which keys.

    Args:
        records: Within a transaction that can write.
        before: When, at the latest.

    Returns:
        The ids of those nodes; there may be more while this is not empty.
    """
    found = list(records.removed_before(before, PURGE_AT_ONCE))
    for node_id in found:
        records.strip(node_id)
    return found


def same_moment(records: Records, *statuses: Status) -> NodesAt:
    """
    Nodes and the generation that they are of.

    Args:
        records: Within a transaction.
        statuses: Those that are wanted; all, if none is named.
    """
    return NodesAt(records.generation(), tuple(records.nodes(*statuses)))


def news(records: Records, generation: int, number: int) -> NodeNews:
    """
    What has changed after a generation, and the keys withdrawn after a number.

    Args:
        records: Within a transaction.
        generation: The one that was seen last; negative: none was.
        number: The last one that was seen.
    """
    now, last = records.generation(), records.withdrawals()
    # One that is further than the records is of others, which these have replaced.
    whole = generation < 0 or generation > now or number > last
    if whole:
        generation, number = -1, 0
    accepted, others = records.changed_since(generation)
    withdrawn = records.withdrawn_since(number)
    return NodeNews(now, whole, tuple(accepted), tuple(others), last, tuple(withdrawn))
