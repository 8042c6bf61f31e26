# SPDX-License-Identifier: MIT
"""
Nodes that move to another database: when several servers are to share what one of them
had alone.
"""

from __future__ import annotations

from nodecomm.inventory.records import MAX_EVENTS, MAX_WITHDRAWN, Records

__all__ = ["NotEmpty", "copy_nodes"]


class NotEmpty(Exception):  # noqa: N818
    """
    There are nodes in the database that others were to be copied to.
    """


def copy_nodes(source: Records, target: Records) -> int:
    """
    Copy everything that is known of any node. Blocks.

    Args:
        source: Within a transaction.
        target: Within a transaction that can write.

    Returns:
        How many nodes there are.

    Raises:
        NotEmpty: The target has nodes.
    """
    if target.nodes():
        raise NotEmpty("there are nodes already: nothing is copied over them")
    nodes = source.nodes()
    for node in nodes:
        target.save(node)
        document = source.document(node.node_id)
        if document is not None:
            target.save_document(node.node_id, document)
        for event in source.events(node.node_id):
            target.add_event(node.node_id, event, MAX_EVENTS)
        target.advance(node.node_id)
    for each in source.withdrawn_since(0):
        target.withdraw(each.node_id, each.key, each.what, each.when, MAX_WITHDRAWN)
    return len(nodes)
