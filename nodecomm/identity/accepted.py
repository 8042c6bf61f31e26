# SPDX-License-Identifier: MIT
"""
The keys of nodes that operators have decided about: whose a key is, and what that is
worth to whoever connects with it.

`NodeKeys` is the table that a server keeps of them while it follows its registry of
nodes. It holds values only; who fills it is `nodecomm.inventory.following`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from attrs import define, evolve, field, frozen

from nodecomm.identity.decisions import TrustDecision
from nodecomm.identity.keys import PublicKey

__all__ = [
    "INodeKeys",
    "KeyOfNode",
    "NodeKey",
    "NodeKeys",
    "Standing",
    "WithdrawnKey",
    "first_use_refused",
    "hint",
    "judge_key",
]


class Standing(enum.Enum):
    """
    What a decision about a node says about its key.
    """

    #: The node is accepted, and served from here: its key is trusted.
    ACCEPTED = "accepted"
    #: The node is accepted, and another server's: nothing follows here.
    ELSEWHERE = "elsewhere"
    #: An operator said no to the node: its key is refused, wherever it is stored.
    REFUSED = "refused"
    #: Nothing is taken from the node: its key is refused, wherever it is stored.
    BLOCKED = "blocked"
    #: It was the key of a node that is deleted or has another one: not trusted on
    #: first use, but if an operator stores it again.
    FORMER = "former"
    #: As before, and what is stored of it is being removed: refused until that is done.
    LEAVING = "leaving"
    #: The node waits for a decision: nothing follows, and a decision that has taken
    #: the key from this node or another one before still holds.
    PENDING = "pending"


@frozen
class KeyOfNode:
    """
    What is known of a key.

    Attributes:
        node_id: The node whose key it is, or was.
        standing: What that means.
        server_id: The policy server of that node, where it is another one.
        taken_from: The node from which a decision has taken the key before, where that
            still bars it from trust on first use.
    """

    node_id: str
    standing: Standing
    server_id: str | None = None
    taken_from: str | None = None


class INodeKeys(Protocol):
    """
    Tells whose a key is. Answers at once.
    """

    @property
    def is_known(self) -> bool:
        """
        Whether the decisions about nodes are known now. If not, a key that is not
        found may be anybody's.
        """

    def find(self, key: PublicKey) -> KeyOfNode | None:
        """
        The node whose key this is, or was; None if it was never one that somebody
        decided about, as far as it is known.
        """


@frozen
class NodeKey:
    """
    A node and the key that it has now.

    Attributes:
        node_id: The node.
        standing: ACCEPTED, ELSEWHERE, PENDING, REFUSED, BLOCKED, or FORMER for any
            other. Which keys a refusal or a block is about is told by
            `NodeKeys.withdraw`.
        digest: The key's SHA digest, as it is printed; None if it has none.
        key: The whole key; it must be there for ACCEPTED.
        server_id: As for `KeyOfNode`.
    """

    node_id: str
    standing: Standing
    digest: str | None = None
    key: PublicKey | None = None
    server_id: str | None = None


@frozen
class WithdrawnKey:
    """
    A key that a decision has taken from a node, or refused with it.

    Attributes:
        number: Counts them, in the order of the decisions.
        node_id: The node.
        key: The key.
        what: The decision: `refused`, `deleted`, `blocked`, `key`, `trust-again`.
        when: When it was made: civil time, with a zone.
    """

    number: int
    node_id: str
    key: PublicKey
    what: str
    when: datetime

    @property
    def mark(self) -> str:
        """
        By what this one is told from others in whichever database.
        """
        return f"{self.number} {self.key.sha} {self.when.isoformat()}"


#: What is said of the keys that were withdrawn with such a node.
_BY_DECISION = (Standing.BLOCKED, Standing.REFUSED)


def judge_key(nodes: INodeKeys, key: PublicKey) -> TrustDecision | None:
    """
    What decisions about nodes say about a key, wherever it is stored; None: nothing.
    """
    found = nodes.find(key)
    if found is None:
        return None
    node = found.node_id
    match found.standing:
        case Standing.ACCEPTED:
            if not nodes.is_known:
                return None
            text = f"key {key.md5} is that of the accepted node {node}"
            return TrustDecision(True, "accepted_node", text, node=node)
        case Standing.REFUSED:
            text = (
                f"key {key.md5} is that of node {node}, which was refused: accept the "
                f"node after its next inventory, or let `nodecomm nodes delete {node}` "
                "end the refusal"
            )
        case Standing.BLOCKED:
            text = (
                f"key {key.md5} is that of node {node}, which is blocked; "
                f"`nodecomm nodes block {node} --lift` ends that"
            )
        case Standing.LEAVING:
            text = f"key {key.md5} was that of node {node} until just now"
        case _:
            return None
    return TrustDecision(False, "node_refused", text, node=node)


def first_use_refused(nodes: INodeKeys, key: PublicKey) -> TrustDecision | None:
    """
    Why a key that is stored nowhere cannot be trusted on first use, whatever windows
    are open and whatever digests were named; None: nothing is in the way.
    """
    found = nodes.find(key)
    if found is not None and found.taken_from is not None:
        advice = "accept the node after its next inventory"
        if found.standing is Standing.PENDING:
            advice = f"`nodecomm nodes accept {found.node_id}`"
        text = (
            f"key {key.md5} was that of node {found.taken_from}, from which it was "
            f"taken: {advice}, or store the key with `nodecomm key trust FILE`"
        )
        return TrustDecision(False, "node_withdrawn", text, node=found.node_id)
    if not nodes.is_known:
        text = (
            f"key {key.md5} is not stored, and the database of nodes does not answer, "
            "so nobody can say whether it is a node's"
        )
        return TrustDecision(False, "nodes_unknown", text)
    return None


def hint(nodes: INodeKeys, key: PublicKey) -> str:
    """
    What can be done about a node whose key is not trusted, to follow a sentence; empty
    where it is no node's.
    """
    found = nodes.find(key)
    if found is None:
        return ""
    if found.standing is Standing.PENDING:
        return (
            f". It is that of node {found.node_id}, which waits for a decision: "
            f"`nodecomm nodes accept {found.node_id}`"
        )
    if found.standing is Standing.ELSEWHERE:
        return (
            f". It is that of node {found.node_id}, which is accepted and served by "
            f"{found.server_id}"
        )
    return ""


@define(eq=False)
class NodeKeys:
    """
    The keys of nodes by their digests: an `INodeKeys`.

    Attributes:
        is_known: Set by whoever fills it.
    """

    is_known: bool = False
    _nodes: dict[str, NodeKey] = field(factory=dict, init=False)
    _holders: dict[str, set[str]] = field(factory=dict, init=False)
    _withdrawn: dict[str, dict[str, WithdrawnKey]] = field(factory=dict, init=False)
    _leaving: dict[str, int] = field(factory=dict, init=False)

    def put(self, changed: Iterable[NodeKey]) -> None:
        """
        Nodes as they are now, in place of what was known of them.
        """
        for node in changed:
            name = node.node_id.lower()
            before = self._nodes.pop(name, None)
            held = self._holders.get(before.digest or "") if before else None
            if before is not None and held is not None:
                held.discard(name)
                if not held:
                    del self._holders[before.digest or ""]
            if node.standing in _BY_DECISION:
                # Which keys those are, is among what was withdrawn.
                self._nodes[name] = evolve(node, digest=None, key=None)
            elif node.digest is not None and node.standing is not Standing.FORMER:
                self._nodes[name] = node
                self._holders.setdefault(node.digest, set()).add(name)

    def withdraw(self, taken: Iterable[WithdrawnKey]) -> None:
        """
        Keys that were withdrawn besides those before.
        """
        for each in taken:
            of_key = self._withdrawn.setdefault(each.key.sha, {})
            of_key[each.node_id.lower()] = each

    def clear(self) -> None:
        """
        Forget all nodes and keys: they come anew.
        """
        self._nodes.clear()
        self._holders.clear()
        self._withdrawn.clear()

    def leaves(self, key: PublicKey) -> None:
        """
        What is stored of a key begins to be removed.
        """
        self._leaving[key.sha] = self._leaving.get(key.sha, 0) + 1

    def left(self, key: PublicKey) -> None:
        """
        What was stored of a key is removed.
        """
        count = self._leaving.pop(key.sha) - 1
        if count:
            self._leaving[key.sha] = count

    def find(self, key: PublicKey) -> KeyOfNode | None:
        """
        Whose key this is, or was.
        """
        digest = key.sha
        taken = self._withdrawn.get(digest, {})
        # The same digest need not be the same key.
        former = [each for each in taken.values() if each.key == key]
        former.sort(key=lambda each: each.number, reverse=True)
        blocked = self._decided(former, Standing.BLOCKED)
        if blocked is not None:
            return blocked
        held = [self._nodes[name] for name in sorted(self._holders.get(digest, ()))]
        for standing in (Standing.ACCEPTED, Standing.ELSEWHERE):
            for node in held:
                if node.standing is standing and node.key in (None, key):
                    return KeyOfNode(node.node_id, standing, node.server_id)
        if former and digest in self._leaving:
            return KeyOfNode(former[0].node_id, Standing.LEAVING)
        # Whoever was refused can send an inventory of another id at any time.
        refused = self._decided(former, Standing.REFUSED)
        if refused is not None:
            return refused
        taken_from = former[0].node_id if former else None
        for node in held:
            if node.standing is Standing.PENDING:
                return KeyOfNode(node.node_id, Standing.PENDING, taken_from=taken_from)
        if taken_from is None:
            return None
        return KeyOfNode(taken_from, Standing.FORMER, taken_from=taken_from)

    def _decided(
        self, former: Iterable[WithdrawnKey], standing: Standing
    ) -> KeyOfNode | None:
        for each in former:
            node = self._nodes.get(each.node_id.lower())
            if node is not None and node.standing is standing:
                return KeyOfNode(node.node_id, standing)
        return None
