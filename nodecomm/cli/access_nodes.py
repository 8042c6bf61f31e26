# SPDX-License-Identifier: MIT
"""
The nodes that a server has, as far as its rules are concerned: read once, by a command,
and never written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from nodecomm.access.explain import Step
from nodecomm.access.networks import read_address
from nodecomm.access.nodes import ServedNode, is_served_here, telling_addresses
from nodecomm.identity.accepted import first_use_refused, hint, judge_key
from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.following import NodeTable, digested
from nodecomm.inventory.keys import same_node
from nodecomm.inventory.nodes import Node, NodeNews, Status
from nodecomm.inventory.opening import (
    NodesUnusable,
    UnknownDatabase,
    nodes_place,
    open_nodes_at,
)
from nodecomm.inventory.own import NodeIdError, kept_node_id
from nodecomm.inventory.records import Records, news
from nodecomm.service.prepared import state_folder
from nodecomm.wire.text import safe

if TYPE_CHECKING:
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.config.model import Settings
    from nodecomm.identity.decisions import TrustDecision
    from nodecomm.identity.peer import Peer

__all__ = ["ServerNodes", "read_nodes"]

#: Nodes that are named where several have an address.
_SHOWN = 5


@frozen
class ServerNodes:
    """
    The nodes of a server.

    Attributes:
        server_id: The server; empty while it has no id, so that no node names it.
        place: Where they are kept.
        nodes: All of them.
        table: What follows from them.
        withdrawn: Keys that nodes had.
        unknown: Why they could not be read; empty when they were.
    """

    server_id: str
    place: str
    nodes: tuple[Node, ...] = field(default=(), repr=False)
    table: NodeTable = field(factory=NodeTable, repr=False)
    withdrawn: tuple[PublicKey, ...] = field(default=(), repr=False)
    unknown: str = ""

    def put_in_force(self, snapshot: Snapshot) -> Snapshot:
        """
        The rules with these nodes.
        """
        if self.unknown:
            return snapshot.with_nodes(None)
        return snapshot.with_nodes(self.table.served)

    @property
    def served(self) -> tuple[ServedNode, ...]:
        """
        Those whose files are served here.
        """
        return tuple(self.table.served.values())

    def keys(self) -> Iterator[PublicKey]:
        """
        All keys that are, or were, a node's.
        """
        for node in self.nodes:
            if node.key is not None:
                yield node.key
        yield from self.withdrawn

    def left_out(self) -> Iterator[tuple[Node, str]]:
        """
        The accepted nodes that no rule is about here, each with the reason.
        """
        for node in self.nodes:
            if node.status is Status.ACCEPTED:
                why = self._elsewhere(node)
                if why:
                    yield node, why

    def _elsewhere(self, node: Node) -> str:
        if node.key is None:
            return "has no key now; its next inventory says which"
        facts = node.facts
        if facts and not is_served_here(facts.policy_server_id, self.server_id):
            return f"is served by {safe(facts.policy_server_id)}"
        return ""

    def tell(self, node_id: str) -> str:
        """
        Where a node stands, to follow a sentence about its files.
        """
        if self.unknown:
            return "and whether there is such a node is not known"
        node = self._node(node_id)
        if node is None:
            other = self._alike(node_id)
            if other is not None:
                return f"and there is none, but {other}, whose id is written so"
            return "and no such node is known"
        name = f" ({safe(node.hostname)})" if node.hostname else ""
        return f"which{name} {self._standing(node)}"

    def _standing(self, node: Node) -> str:
        if node.status is Status.PENDING:
            advice = f"`nodecomm nodes accept {node.node_id}`"
            return f"is pending, so nothing is open to it: {advice}"
        if node.status is not Status.ACCEPTED:
            return f"is {node.status.value}, so nothing is open to it"
        why = self._elsewhere(node)
        if why:
            return f"is accepted, and {why}, so nothing is open to it here"
        return "is accepted: it is open to the node's key"

    def _node(self, node_id: str) -> Node | None:
        # Rules go by the id as the node writes it.
        return next((node for node in self.nodes if node.node_id == node_id), None)

    def _alike(self, node_id: str) -> str | None:
        """
        The id of a node that differs in upper and lower case only.
        """
        found = (n.node_id for n in self.nodes if same_node(n.node_id, node_id))
        return next(found, None)

    def judge(self, peer: Peer) -> tuple[list[Step], TrustDecision | None]:
        """
        What is known of the key and the address of a peer, and what that says about
        the trust in its key; None: nothing.
        """
        if self.unknown:
            return [Step("nodes", f"they are not known: {self.unknown}")], None
        steps: list[Step] = []
        decision: TrustDecision | None = None
        # Of another key than a node's only the digests may be known.
        if isinstance(peer.key, PublicKey):
            decision = judge_key(self.table.keys, peer.key)
            text = self._told(peer.key, decision)
            if text:
                steps.append(Step("node", safe(text)))
        own = self.at(peer.address)
        if own:
            names = ", ".join(
                f"{node.node_id} ({node.status.value})" for node in own[:_SHOWN]
            )
            more = f" and {len(own) - _SHOWN} more" if len(own) > _SHOWN else ""
            text = f"{peer.address} is an address of node {names}{more}"
            steps.append(Step("address", safe(text)))
        return steps, decision

    def _told(self, key: PublicKey, decision: TrustDecision | None) -> str:
        """
        Whose key it is, and what follows; empty if it is no node's.
        """
        keys = self.table.keys
        if decision is not None:
            because = ": it is trusted because of that, stored or not"
            return decision.text + (because if decision.trusted else "")
        barred = first_use_refused(keys, key)
        if barred is not None:
            return barred.text
        advice = hint(keys, key).removeprefix(". ")
        return f"key {key.md5}: {advice[:1].lower()}{advice[1:]}" if advice else ""

    def at(self, address: str) -> Sequence[Node]:
        """
        The nodes whose last inventory names an address; none for one, such as
        127.0.0.1, that tells no machine from another.
        """
        if not telling_addresses([address]):
            return []
        return [
            node
            for node in self.nodes
            if node.facts is not None
            and (node.status.is_live or node.status is Status.BLOCKED)
            and any(_is(text, address) for text in node.facts.addresses)
        ]

    def as_json(self, peer: Peer) -> dict[str, Any]:
        """
        The same about a peer as plain values.
        """
        found = None
        if isinstance(peer.key, PublicKey) and not self.unknown:
            found = self.table.keys.find(peer.key)
        return {
            "server_id": self.server_id or None,
            "known": not self.unknown,
            "key_of": None
            if found is None
            else {
                "id": found.node_id,
                "standing": found.standing.value,
                "served_by": found.server_id,
            },
            "address_of": [node.node_id for node in self.at(peer.address)],
        }


def _is(text: str, address: str) -> bool:
    """
    Whether *text*, of an inventory, is this address.
    """
    read = read_address(text)
    return read is not None and read.text == address


def read_nodes(settings: Settings) -> ServerNodes | None:
    """
    The nodes of the server with this configuration; None: it keeps none. Blocks.
    """
    inventory = settings.inventory
    if inventory is None or inventory.upstream is not None:
        return None
    folder = state_folder(settings)
    password = inventory.database_password
    known = password is not None and password.is_known
    server_id = inventory.server_id or ""
    try:
        server_id = server_id or (kept_node_id(folder) or "").lower()
        place = nodes_place(
            inventory.database,
            folder,
            password.reveal() if password and known else None,
        )
    except (NodeIdError, OSError, UnknownDatabase) as error:
        return ServerNodes(server_id, inventory.database, unknown=str(error))

    def read(records: Records) -> tuple[tuple[Node, ...], NodeNews]:
        return tuple(records.nodes()), news(records, -1, 0)

    table = NodeTable()
    table.keys.is_known = True
    if not place.is_made:
        return ServerNodes(server_id, str(place), table=table)
    try:
        with open_nodes_at(place) as run:
            nodes, found = run(read, False)
    except (NodesUnusable, OSError) as error:
        return ServerNodes(server_id, str(place), unknown=str(error))
    table.take(digested(found, server_id))
    withdrawn = tuple(each.key for each in found.withdrawn)
    return ServerNodes(server_id, str(place), nodes, table, withdrawn)
