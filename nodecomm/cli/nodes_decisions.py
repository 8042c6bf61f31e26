# SPDX-License-Identifier: MIT
"""
`nodecomm nodes`: what an operator decides about a node.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from datetime import datetime, timezone

from nodecomm.cli.key_file import read_key_file
from nodecomm.cli.nodes_reached import Answer, Nodes
from nodecomm.cli.nodes_shown import COMPARE, key_lines, node_facts, served_by
from nodecomm.cli.options import CommandOptions
from nodecomm.inventory.lifecycle import (
    Accept,
    Block,
    Change,
    Decision,
    Delete,
    Lift,
    Refuse,
    Register,
    ResetDate,
    SetKey,
    TrustAgain,
)
from nodecomm.inventory.records import Records, put_decision
from nodecomm.inventory.suspicions import Suspicion, suspicions_of
from nodecomm.wire.text import safe

__all__ = ["DECISIONS"]

#: Characters of an operator's name in a history.
_NAME = 64


def _present() -> datetime:
    return datetime.now(timezone.utc)


def _operator() -> str:
    """
    Who decides, for the history.
    """
    uid = os.getuid()
    if uid == 0 and os.environ.get("SUDO_USER"):
        return safe(os.environ["SUDO_USER"])[:_NAME]
    try:
        return pwd.getpwuid(uid).pw_name[:_NAME]
    except KeyError:
        return f"uid {uid}"


def _decided(
    nodes: Nodes,
    decision: Decision,
    done: str,
    *advice: str,
    before: str = "",
    with_key: bool = False,
) -> Answer:
    """
    Put a decision in force, and say so; *before* is said where it was already.
    """
    by, now = _operator(), _present()

    def work(records: Records) -> tuple[Change, tuple[Suspicion, ...]]:
        change = put_decision(records, decision, now, by)
        return change, suspicions_of(change.node, records)

    if nodes.place.is_made or isinstance(decision, (Block, Register)):
        change, found = nodes.write(work)
        node = change.node
        done = done if change.events else before or f"{done} before"
    else:
        node, found = nodes.node(decision.node_id)
    name = f"{node.hostname}, " if node.hostname else ""
    lines = [f"{done}: {name}node {node.node_id}"]
    if with_key:
        lines += [f"key {line}" for line in key_lines(node.key)]
    other = served_by(node, nodes.server_id)
    if with_key and other is not None:
        lines.append(f"served by {other}: nothing is open to it on this server")
    lines += advice
    lines += [f"warning: {x.text}" for x in found]
    return node_facts(node, found, nodes.server_id), lines


def _accept(nodes: Nodes, options: CommandOptions) -> Answer:
    decision = Accept(
        options["node"], options["key"], bool(options["duplicate-hostname"])
    )
    advice = () if options["key"] else (COMPARE,)
    return _decided(nodes, decision, "accepted", *advice, with_key=True)


def _refuse(nodes: Nodes, options: CommandOptions) -> Answer:
    return _decided(nodes, Refuse(options["node"]), "refused")


def _delete(nodes: Nodes, options: CommandOptions) -> Answer:
    return _decided(nodes, Delete(options["node"]), "deleted")


def _block(nodes: Nodes, options: CommandOptions) -> Answer:
    if options["lift"]:
        return _decided(nodes, Lift(options["node"]), "blocked no longer")
    return _decided(nodes, Block(options["node"]), "blocked")


def _set_key(nodes: Nodes, options: CommandOptions) -> Answer:
    decision = SetKey(options["node"], read_key_file(options["pem"]))
    before = "the key that it has already"
    return _decided(nodes, decision, "another key", before=before, with_key=True)


def _trust_again(nodes: Nodes, options: CommandOptions) -> Answer:
    decision = TrustAgain(options["node"])
    return _decided(nodes, decision, "the next inventory decides")


def _reset_date(nodes: Nodes, options: CommandOptions) -> Answer:
    decision, done = ResetDate(options["node"]), "the next inventory may be older"
    return _decided(nodes, decision, done, before=done)


def _register(nodes: Nodes, options: CommandOptions) -> Answer:
    decision = Register(options["node"], read_key_file(options["pem"]))
    return _decided(nodes, decision, "registered", with_key=True)


#: What decides, by the name of its command.
DECISIONS: dict[str, Callable[[Nodes, CommandOptions], Answer]] = {
    "accept": _accept,
    "refuse": _refuse,
    "delete": _delete,
    "block": _block,
    "set-key": _set_key,
    "trust-again": _trust_again,
    "reset-date": _reset_date,
    "register": _register,
}
