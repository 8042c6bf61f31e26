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

from attrs import define, field, frozen

from nodecomm.identity.keys import PublicKey

__all__ = [
    "INodeKeys",
    "KeyOfNode",
    "NodeKey",
    "NodeKeys",
    "Standing",
    "WithdrawnKey",
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
    #: The node waits for a decision: nothing follows.
    PENDING = "pending"


@frozen
class KeyOfNode:
    """
    What is known of a key.

    Attributes:
        node_id: The node whose key it is, or was.
        standing: What that means.
        server_id: The policy server of that node, where it is another one.
    """

    node_id: str
    standing: Standing
    server_id: str | None = None


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
        standing: ACCEPTED, ELSEWHERE, REFUSED, BLOCKED, PENDING, or FORMER for any
            other.
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


#: Which one counts if a key is that of several nodes.
_ORDER = (Standing.BLOCKED, Standing.ACCEPTED, Standing.ELSEWHERE)


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
            if before is not None and before.digest is not None:
                held = self._holders[before.digest]
                held.discard(name)
                if not held:
                    del self._holders[before.digest]
            if node.digest is None and node.standing is not Standing.REFUSED:
                # Nothing could ever follow from it.
                continue
            self._nodes[name] = node
            if node.digest is not None:
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
        held = self._holders.get(digest, ())
        holders = [self._nodes[name] for name in sorted(held)]
        # The same digest need not be the same key.
        holders = [node for node in holders if node.key in (None, key)]
        for standing in _ORDER:
            for node in holders:
                if node.standing is standing:
                    return KeyOfNode(node.node_id, standing, node.server_id)
        taken = self._withdrawn.get(digest, {})
        former = [each for each in taken.values() if each.key == key]
        former.sort(key=lambda each: each.number, reverse=True)
        if former and digest in self._leaving:
            return KeyOfNode(former[0].node_id, Standing.LEAVING)
        for node in holders:
            if node.standing is Standing.PENDING:
                return KeyOfNode(node.node_id, Standing.PENDING)
        for each in former:
            node_now = self._nodes.get(each.node_id.lower())
            if node_now is not None and node_now.standing is Standing.REFUSED:
                return KeyOfNode(each.node_id, Standing.REFUSED)
        if former:
            return KeyOfNode(former[0].node_id, Standing.FORMER)
        return None
