# SPDX-License-Identifier: MIT
"""
Nodes that a configuration names, accepted before they come.

A configuration is read at every start, and what was decided since then stands: a node
that an operator has deleted, refused or blocked does not come back with a restart, and
one that has changed its key keeps the new one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, cast

from twisted.internet.defer import inlineCallbacks
from twisted.logger import Logger

from nodecomm.interfaces import INodeRegistry
from nodecomm.inventory.keys import AgentKey, KeyRefused, read_pem
from nodecomm.inventory.lifecycle import NotPossible, Register
from nodecomm.inventory.nodes import Node, Status

__all__ = ["REGISTERED", "register_named"]

#: In whose name they are accepted.
REGISTERED = "configuration"

_log = Logger("nodecomm.inventory")


@inlineCallbacks
def register_named(
    registry: INodeRegistry, named: Iterable[tuple[str, str]]
) -> Generator[Any, Any, None]:
    """
    Register nodes that are not known yet, and accept those that are pending with the
    key that is named. One that cannot be is logged, and the others are done.

    Args:
        registry: The nodes.
        named: Id, and key or certificate in PEM form, of each.

    The Deferred fires when they are in force. It fails with the registry's errors.
    """
    nodes = cast(Any, registry)
    for node_id, pem in named:
        try:
            key = read_pem(pem)
        except KeyRefused as error:
            _not_registered(node_id, str(error))
            continue
        node: Node | None = yield nodes.node(node_id)
        if node is not None and node.status is not Status.PENDING:
            _leave(node, key)
            continue
        try:
            yield nodes.decide(Register(node_id, key), REGISTERED)
        except NotPossible as error:
            _not_registered(node_id, str(error))


def _leave(node: Node, key: AgentKey) -> None:
    """
    Say so where a node is otherwise than the configuration has it.
    """
    if node.status is not Status.ACCEPTED:
        text = f"it is {node.status.value} since {node.since.isoformat()}"
        _not_registered(node.node_id, text)
    elif node.key != key.key:
        has = "no key" if node.key is None else f"the key {node.key.md5}"
        text = f"it is accepted with {has}, not {key.key.md5}"
        _not_registered(node.node_id, text)


def _not_registered(node_id: str, text: str) -> None:
    _log.warn(
        "node {node} is not registered as the configuration has it: {text}",
        event="node.not-registered",
        node=node_id,
        text=text,
    )
