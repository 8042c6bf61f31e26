# SPDX-License-Identifier: MIT
"""
What follows from the nodes for a server that their connections come to: which keys are
trusted, whose files are served, and which keys are to be trusted no more.

`digested` turns what the registry tells into values of identity and access, in whatever
thread; `NodeTable` takes them in, at once, where decisions are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from attrs import define, field, frozen

from nodecomm.access.nodes import ServedNode, is_served_here
from nodecomm.identity.accepted import NodeKey, NodeKeys, Standing, WithdrawnKey
from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.nodes import Node, NodeNews, Status

__all__ = ["DigestedNews", "NodeTable", "TableChange", "digested"]

#: What the status of a node that is not accepted means for its key.
_STANDINGS = {
    Status.PENDING: Standing.PENDING,
    Status.REFUSED: Standing.REFUSED,
    Status.BLOCKED: Standing.BLOCKED,
    Status.DELETED: Standing.FORMER,
}

_ACCEPTED = (Standing.ACCEPTED, Standing.ELSEWHERE)


@frozen
class DigestedNews:
    """
    What has changed, as far as connections are concerned.

    Attributes:
        whole: Whether this is all there is.
        keys: The nodes that have changed, with their keys.
        served: Of those, the ones whose files are served here, by id in lower case.
        withdrawn: The keys that were withdrawn.
    """

    whole: bool
    keys: tuple[NodeKey, ...]
    served: Mapping[str, ServedNode]
    withdrawn: tuple[WithdrawnKey, ...]


@frozen
class TableChange:
    """
    What somebody must see to when the table has changed.

    Attributes:
        lost: Keys whose connections are to be closed.
        withdrawn: Keys of which nothing may be stored any more, in order.
    """

    lost: frozenset[PublicKey]
    withdrawn: tuple[WithdrawnKey, ...]


def digested(news: NodeNews, server_id: str) -> DigestedNews:
    """
    What the news mean for the server *server_id*. Takes some 40 us a node, so for many
    of them a thread is the place.
    """
    keys: list[NodeKey] = []
    served: dict[str, ServedNode] = {}
    for node in news.accepted:
        keys.append(_accepted(node, server_id))
        if keys[-1].standing is Standing.ACCEPTED:
            served[node.node_id.lower()] = ServedNode(
                node.node_id,
                node.key,
                node.hostname,
                () if node.facts is None else node.facts.addresses,
            )
    keys.extend(
        NodeKey(other.node_id, _STANDINGS[other.status], other.digest)
        for other in news.others
    )
    return DigestedNews(news.whole, tuple(keys), served, news.withdrawn)


def _accepted(node: Node, server_id: str) -> NodeKey:
    key, facts = node.key, node.facts
    if key is None:
        # Nothing is open until its next inventory says which one it has.
        return NodeKey(node.node_id, Standing.FORMER)
    server = None if facts is None else facts.policy_server_id
    if not is_served_here(server, server_id):
        standing = Standing.ELSEWHERE
        return NodeKey(node.node_id, standing, key.sha, key, server)
    return NodeKey(node.node_id, Standing.ACCEPTED, key.sha, key)


@define(eq=False)
class NodeTable:
    """
    What is known of the nodes.

    Attributes:
        keys: Whose keys are whose; of use for a `TrustPolicy`.
        served: The nodes whose files are served here, by id in lower case; never
            changed, but replaced.
    """

    keys: NodeKeys = field(factory=NodeKeys)
    served: Mapping[str, ServedNode] = MappingProxyType({})

    def take(self, news: DigestedNews) -> TableChange:
        """
        Put what has changed in force.
        """
        before, gone = self.served, set()
        after = {} if news.whole else dict(before)
        for node in news.keys:
            name = node.node_id.lower()
            if name in before:
                gone.add(name)
                after.pop(name, None)
        after.update(news.served)
        if news.whole:
            gone.update(before)
            self.keys.clear()
        self.keys.put(news.keys)
        self.keys.withdraw(news.withdrawn)
        self.served = MappingProxyType(after)
        suspects = {each.key for each in news.withdrawn}
        suspects.update(key for name in gone if (key := before[name].key) is not None)
        return TableChange(self._lost(suspects), news.withdrawn)

    def _lost(self, suspects: Iterable[PublicKey]) -> frozenset[PublicKey]:
        return frozenset(key for key in suspects if not self.is_accepted(key))

    def is_accepted(self, key: PublicKey) -> bool:
        """
        Whether this is the key of an accepted node that is served here.
        """
        found = self.keys.find(key)
        return found is not None and found.standing is Standing.ACCEPTED

    def is_known(self, key: PublicKey) -> bool:
        """
        Whether this is the key of an accepted node, whichever server it belongs to.
        """
        found = self.keys.find(key)
        return found is not None and found.standing in _ACCEPTED
