# SPDX-License-Identifier: MIT
"""
The registry of nodes as the one who decides about what is received.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from nodecomm.access.networks import AddressList
from nodecomm.interfaces import INodeRegistry
from nodecomm.inventory.judgement import Judgement
from nodecomm.inventory.nodes import Node
from nodecomm.inventory.receiving import Delivery, Receive, WasTaken
from nodecomm.inventory.records import Received

__all__ = ["AUTO_ACCEPT", "decided_by", "taken_by"]

#: In whose name nodes are accepted that come from certain networks.
AUTO_ACCEPT = "auto_accept"

_log = Logger("nodecomm.inventory")


def decided_by(
    registry: INodeRegistry, auto_accept: Callable[[], AddressList] = AddressList
) -> Receive:
    """
    What is received goes to *registry*, which keeps what is believed.

    Args:
        registry: The nodes.
        auto_accept: Tells the addresses from which nodes are accepted at once, without
            an operator; asked for each delivery. Whoever can send from there, and knows
            the password, has a node.
    """

    def receive(delivery: Delivery) -> Deferred[Judgement]:
        trusted = auto_accept().find(delivery.sender.address) is not None
        received: Deferred[Received] = maybeDeferred(
            cast(Any, registry).receive,
            delivery.document,
            delivery.signature,
            when=delivery.when,
            accept_as=AUTO_ACCEPT if trusted else None,
        )
        return received.addCallback(_judgement_of, delivery)

    return receive


def taken_by(registry: INodeRegistry) -> WasTaken:
    """
    Which documents *registry* remembers to have believed.
    """

    def was_taken(node_id: str, digest: str) -> Deferred[bool]:
        found: Deferred[Node | None] = maybeDeferred(cast(Any, registry).node, node_id)
        return found.addCallback(
            lambda node: (
                node is not None
                and any(each.digest == digest for each in node.known.taken)
            )
        )

    return was_taken


def _judgement_of(received: Received, delivery: Delivery) -> Judgement:
    if received.not_accepted is not None and received.node is not None:
        _log.warn(
            "node {node} from {peer} is not accepted by itself: {text}",
            event="node.not-accepted",
            node=received.node.node_id,
            peer=delivery.sender.address,
            text=str(received.not_accepted),
        )
    return received.judgement
