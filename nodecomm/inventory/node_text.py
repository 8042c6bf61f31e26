# SPDX-License-Identifier: MIT
"""
A node as text, and back: what a database keeps of it beside the columns that are
searched.

JSON, with every date in the form of ISO 8601 with its zone, and each key once. What is
missing in a text that an older release wrote has the value of a node that has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from attrs import asdict

from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.judgement import Known, Taken
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.nodes import (
    Alternation,
    Conflict,
    Facts,
    Machine,
    Node,
    Rejected,
    Status,
)

__all__ = ["decode_node", "encode_node"]

#: Characters of a refusal that are kept: it may quote what was sent.
_REFUSAL = 2000


class _Keys:
    """
    Keys by their place in a list.
    """

    def __init__(self, listed: Iterable[list[str]] = ()) -> None:
        self._keys = [PublicKey(int(n, 16), int(e, 16)) for n, e in listed]
        self._places = {key: place for place, key in enumerate(self._keys)}

    def place(self, key: PublicKey | None) -> int | None:
        if key is None:
            return None
        if key not in self._places:
            self._places[key] = len(self._keys)
            self._keys.append(key)
        return self._places[key]

    def at(self, place: int | None) -> PublicKey | None:
        return None if place is None else self._keys[place]

    def listed(self) -> list[list[str]]:
        return [[f"{key.modulus:x}", f"{key.exponent:x}"] for key in self._keys]


def encode_node(node: Node) -> str:
    """
    All of a node but its id, its status and when it took that.
    """
    known, keys = node.known, _Keys()
    facts: dict[str, Any] = {
        "key": keys.place(known.key),
        "signed": known.signed,
        "last": _date(known.last),
        "taken": [
            [taken.digest, _date(taken.written), keys.place(taken.key)]
            for taken in known.taken
        ],
        "refused_keys": [keys.place(key) for key in known.refused_keys],
        "received": _date(node.received),
        "machines": [asdict(machine) for machine in node.machines],
    }
    if node.facts is not None:
        facts["facts"] = asdict(node.facts)
    if node.conflict is not None:
        facts["conflict"] = _dated(asdict(node.conflict))
    if node.alternation is not None:
        facts["alternation"] = _dated(asdict(node.alternation))
    if node.rejected is not None:
        refusal = node.rejected.refusal
        facts["rejected"] = {
            "when": _date(node.rejected.when),
            "code": refusal.code,
            "text": refusal.text[:_REFUSAL],
            "element": refusal.element[:_REFUSAL],
        }
    facts["keys"] = keys.listed()
    return json.dumps(facts, separators=(",", ":"))


def decode_node(node_id: str, status: Status, since: datetime, text: str) -> Node:
    """
    The node that `encode_node` made a text of.
    """
    facts: dict[str, Any] = json.loads(text)
    keys = _Keys(facts.get("keys", ()))
    known = Known(
        node_id,
        key=keys.at(facts.get("key")),
        signed=bool(facts.get("signed", False)),
        last=_read_date(facts.get("last")),
        taken=tuple(
            Taken(digest, datetime.fromisoformat(written), keys.at(place))
            for digest, written, place in facts.get("taken", ())
        ),
        refused_keys=tuple(
            key for x in facts.get("refused_keys", ()) if (key := keys.at(x))
        ),
    )
    return Node(
        known,
        status,
        since,
        facts=_read_facts(facts.get("facts")),
        received=_read_date(facts.get("received")),
        machines=tuple(Machine(**x) for x in facts.get("machines", ())),
        conflict=_read_conflict(facts.get("conflict")),
        alternation=_read_alternation(facts.get("alternation")),
        rejected=_read_rejected(facts.get("rejected")),
    )


def _date(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _read_date(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _dated(facts: dict[str, Any]) -> dict[str, Any]:
    return {**facts, "when": _date(facts["when"])}


def _read_facts(facts: dict[str, Any] | None) -> Facts | None:
    if facts is None:
        return None
    return Facts(**{**facts, "addresses": tuple(facts["addresses"])})


def _read_conflict(facts: dict[str, Any] | None) -> Conflict | None:
    if facts is None:
        return None
    when = datetime.fromisoformat(facts["when"])
    return Conflict(when, facts["key"], facts["hostname"])


def _read_alternation(facts: dict[str, Any] | None) -> Alternation | None:
    if facts is None:
        return None
    when = datetime.fromisoformat(facts["when"])
    return Alternation(when, Machine(**facts["one"]), Machine(**facts["other"]))


def _read_rejected(facts: dict[str, Any] | None) -> Rejected | None:
    if facts is None:
        return None
    refusal = Refusal(facts["code"], facts["text"], facts["element"])
    return Rejected(datetime.fromisoformat(facts["when"]), refusal)
