# SPDX-License-Identifier: MIT
"""
How nodes are shown: lines for people, facts for programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from attrs import asdict

from nodecomm.access.nodes import is_served_here
from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.keys import key_pin
from nodecomm.inventory.nodes import Event, Node
from nodecomm.inventory.suspicions import Suspicion

__all__ = [
    "event_facts",
    "event_lines",
    "key_lines",
    "list_lines",
    "node_facts",
    "node_lines",
    "served_by",
    "suspicion_facts",
]

#: Where the digests of a node's own key can be read on it.
COMPARE = (
    "compare with what `nodecomm key show`, or `rudder agent info` (Key hash), prints "
    "on the node itself"
)


#: Nodes that are named in a warning of one of them.
_NAMED = 20


def _date(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _key_facts(key: PublicKey | None) -> dict[str, Any] | None:
    if key is None:
        return None
    return {"md5": key.md5, "sha": key.sha, "pin": key_pin(key), "bits": key.bits}


def suspicion_facts(
    found: Iterable[Suspicion], most: int | None = None
) -> list[dict[str, Any]]:
    """
    Warnings, for programs.

    Args:
        found: The warnings.
        most: How many nodes are named of those that one is about; None: all.
    """
    return [
        {
            "code": x.code,
            "text": x.text,
            "nodes": list(x.node_ids[:most]),
            "count": len(x.node_ids),
        }
        for x in found
    ]


def event_facts(events: Iterable[Event]) -> list[dict[str, Any]]:
    """
    A history, for programs.
    """
    return [{**asdict(event), "when": _date(event.when)} for event in events]


def served_by(node: Node, server_id: str | None) -> str | None:
    """
    The server that a node belongs to, if that is another one than *server_id*.
    """
    if node.facts is None or server_id is None or not node.status.is_live:
        return None
    named = node.facts.policy_server_id
    return None if is_served_here(named, server_id) else named


def node_facts(
    node: Node, own: Iterable[Suspicion] = (), server_id: str | None = None
) -> dict[str, Any]:
    """
    A node, for programs, with the warnings that are about it. A warning may be about
    thousands, each of which has it: not all of them are named at each.
    """
    facts, known, rejected = node.facts, node.known, node.rejected
    return {
        "id": node.node_id,
        "status": node.status.value,
        "since": _date(node.since),
        "key": _key_facts(node.key),
        "signed": known.signed,
        "refused_keys": [key.md5 for key in known.refused_keys],
        "last_inventory": _date(known.last),
        "received": _date(node.received),
        "hostname": node.hostname,
        "policy_server": facts.policy_server_id if facts else None,
        "served_by": served_by(node, server_id),
        "owner": facts.owner if facts else None,
        "agent": facts.agent_name if facts else None,
        "agent_version": facts.agent_version if facts else None,
        "system": facts.system if facts else None,
        "addresses": list(facts.addresses) if facts else [],
        "device_id": facts.device_id if facts else None,
        "machine_id": facts.machine_id if facts else None,
        "last_refused": None
        if rejected is None
        else {"when": _date(rejected.when), **asdict(rejected.refusal)},
        "warnings": suspicion_facts(own, _NAMED),
    }


def key_lines(key: PublicKey | None) -> list[str]:
    """
    The digests of a key, each in the form of another program.
    """
    if key is None:
        return ["none: the next inventory decides"]
    return [key.md5, key.sha, key_pin(key)]


def list_lines(
    nodes: Sequence[Node], found: Iterable[Suspicion], server_id: str | None = None
) -> Iterator[str]:
    """
    A line for each node, then the warnings.
    """
    rows = [
        (
            node.node_id,
            node.status.value,
            node.hostname or "-",
            node.key.md5 if node.key else "no key",
            _date(node.known.last) or "no inventory",
            _served(node, server_id),
        )
        for node in nodes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
    yield from (f"warning: {x.text}" for x in found)


def _served(node: Node, server_id: str | None) -> str:
    other = served_by(node, server_id)
    return "" if other is None else f"served by {other}"


def node_lines(
    node: Node, own: Iterable[Suspicion], server_id: str | None = None
) -> Iterator[str]:
    """
    All about a node, with the warnings that are about it.
    """
    for name, value in _parts(node, server_id):
        yield f"{name:<15} {value}".rstrip()
    for suspicion in own:
        yield f"warning: {suspicion.text}"


def _parts(node: Node, server_id: str | None) -> Iterator[tuple[str, object]]:
    facts, known, rejected = node.facts, node.known, node.rejected
    yield "node", node.node_id
    yield "status", f"{node.status.value} since {_date(node.since)}"
    if facts is not None:
        yield "hostname", facts.hostname
    for place, line in enumerate(key_lines(node.key)):
        yield "" if place else "key", line
    for key in known.refused_keys:
        yield "refused key", key.md5
    yield "last inventory", _date(known.last) or "none"
    if node.received is not None:
        yield "received", _date(node.received)
    if facts is not None:
        served = _served(node, server_id)
        yield (
            "policy server",
            facts.policy_server_id + (f" ({served}, not here)" if served else ""),
        )
        yield "agent", f"{facts.agent_name} {facts.agent_version}, as {facts.owner}"
        yield "system", facts.system
        yield "addresses", " ".join(facts.addresses)
    if rejected is not None:
        refusal = rejected.refusal
        yield "last refused", f"{_date(rejected.when)} {refusal.code}: {refusal.text}"


def event_lines(events: Iterable[Event]) -> Iterator[str]:
    """
    A history, the oldest first.
    """
    for event in events:
        yield f"{_date(event.when)}  {event.what}  by {event.by}  {event.text}".rstrip()
