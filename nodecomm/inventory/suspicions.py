# SPDX-License-Identifier: MIT
"""
Which nodes may be copies of each other, or other than they seem.

Nothing is merged or repaired because of it: an operator is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from nodecomm.inventory.nodes import Node

if TYPE_CHECKING:
    from nodecomm.inventory.lifecycle import Others

__all__ = ["Suspicion", "by_node", "suspicions", "suspicions_of"]

#: Names of nodes in one text.
_NAMED = 5


@frozen
class Suspicion:
    """
    Something that an operator should look at.

    Attributes:
        code: `duplicate-key`, `duplicate-hostname`, `id-conflict`, `former-key`,
            `alternating`.
        text: For people. It may hold text of whoever sent a document: make it safe
            before it reaches a terminal.
        node_ids: The nodes that it is about, in order.
    """

    code: str
    text: str
    node_ids: tuple[str, ...]


def suspicions(nodes: Iterable[Node]) -> tuple[Suspicion, ...]:
    """
    What is suspicious about these nodes, of which those that are pending or accepted
    count.
    """
    live = sorted(
        (node for node in nodes if node.status.is_live), key=lambda x: x.node_id.lower()
    )
    keys: dict[object, list[Node]] = {}
    names: dict[str, list[Node]] = {}
    found: list[Suspicion] = []
    for node in live:
        if node.key is not None:
            keys.setdefault(node.key, []).append(node)
        if node.hostname:
            names.setdefault(node.hostname.lower(), []).append(node)
        found += _alone(node)
    for same in keys.values():
        if len(same) > 1 and same[0].key is not None:
            text = f"{_listed(same)} have the same key {same[0].key.md5}: copies"
            found.append(Suspicion("duplicate-key", text, _ids(same)))
    for name, same in names.items():
        if len(same) > 1:
            text = f"{_listed(same)} are called {name}"
            found.append(Suspicion("duplicate-hostname", text, _ids(same)))
    return tuple(found)


def suspicions_of(node: Node, others: Others) -> tuple[Suspicion, ...]:
    """
    What is suspicious about this node: the same as `suspicions` of all nodes tells of
    it, and few of them are read for it.
    """
    near = {node.node_id: node}
    if node.key is not None:
        near.update((other.node_id, other) for other in others.with_key(node.key))
    if node.hostname:
        same = others.with_hostname(node.hostname)
        near.update((other.node_id, other) for other in same)
    return tuple(by_node(suspicions(near.values())).get(node.node_id, ()))


def by_node(found: Iterable[Suspicion]) -> dict[str, list[Suspicion]]:
    """
    What is suspicious about each node about which there is something.
    """
    about: dict[str, list[Suspicion]] = {}
    for suspicion in found:
        for node_id in suspicion.node_ids:
            about.setdefault(node_id, []).append(suspicion)
    return about


def _alone(node: Node) -> Iterable[Suspicion]:
    """
    What is suspicious about a node whatever others there are.
    """
    conflict, alternation = node.conflict, node.alternation
    if conflict is not None:
        has = "no key" if node.key is None else node.key.md5
        text = (
            f"{node.node_id} has {has}, and {conflict.hostname} sent an inventory of "
            f"this id with {conflict.key} at {_shown(conflict.when)}: "
        )
        if conflict.key in (key.md5 for key in node.known.refused_keys):
            code = "former-key"
            text += (
                "it had this key before; the node was put back to what it was then, or"
                " a copy of it has that key still"
            )
        else:
            code = "id-conflict"
            text += "the node has a new key, or another machine has its id"
        yield Suspicion(code, text, (node.node_id,))
    if alternation is not None:
        one, other = alternation.one, alternation.other
        text = (
            f"{node.node_id} is {one.hostname} (device {one.device_id}) and "
            f"{other.hostname} (device {other.device_id}) in turn, at last at "
            f"{_shown(alternation.when)}: two machines with one id and one key"
        )
        yield Suspicion("alternating", text, (node.node_id,))


def _shown(when: datetime) -> str:
    return when.isoformat(timespec="seconds")


def _ids(nodes: list[Node]) -> tuple[str, ...]:
    return tuple(node.node_id for node in nodes)


def _listed(nodes: list[Node]) -> str:
    named = ", ".join(node.node_id for node in nodes[:_NAMED])
    more = len(nodes) - _NAMED
    return f"{named} and {more} more" if more > 0 else named
