# SPDX-License-Identifier: MIT
"""
What documents make of a node.

Pure, as `nodecomm.inventory.lifecycle` is, which says what operators make of it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from attrs import evolve

from nodecomm.inventory.judgement import Judgement, Known, Outcome, Rules, known_after
from nodecomm.inventory.lifecycle import (
    Change,
    Others,
    key_in_the_way,
    key_news,
    moved,
    new_node,
    shown,
)
from nodecomm.inventory.model import Inventory, Refusal
from nodecomm.inventory.nodes import (
    Alternation,
    Conflict,
    Event,
    Facts,
    Machine,
    Node,
    Rejected,
    Status,
)

__all__ = ["MAX_MACHINES", "after_document"]

#: Machines of one node that are remembered.
MAX_MACHINES = 8


class _Refused(Exception):  # noqa: N818
    def __init__(self, code: str, text: str, element: str = "") -> None:
        super().__init__(text)
        self.refusal = Refusal(code, text, element)


def after_document(
    node: Node | None,
    judgement: Judgement,
    others: Others,
    now: datetime,
    rules: Rules | None = None,
    *,
    room: Callable[[], bool] = lambda: True,
) -> tuple[Judgement, Change | None]:
    """
    What a document makes of its node, and the judgement, which may now be a refusal.

    Args:
        node: The node that it is about; None if there is none.
        judgement: What was decided from `Node.known`.
        others: The nodes besides.
        now: Civil time, with a zone.
        rules: What the operator has chosen; the same that it was judged by.
        room: Whether one more node may become pending.

    Returns:
        The judgement to act upon, and the change; None if there is none.
    """
    if judgement.outcome is Outcome.TAKEN:
        try:
            return judgement, _taken(node, judgement, others, now, rules, room)
        except _Refused as error:
            judgement = Judgement(
                Outcome.REFUSED,
                judgement.digest,
                refusal=error.refusal,
                inventory=judgement.inventory,
            )
    if judgement.outcome is Outcome.REFUSED and node is not None:
        return judgement, _rejected(node, judgement, now)
    return judgement, None


def _taken(
    node: Node | None,
    judgement: Judgement,
    others: Others,
    now: datetime,
    rules: Rules | None,
    room: Callable[[], bool],
) -> Change:
    inventory = judgement.inventory
    known = known_after(node.known if node else None, judgement, now, rules)
    if inventory is None or known is None or known.key is None:
        raise ValueError("a document was taken that was not read")
    if node is None or not node.status.is_live:
        if not room():
            msg = "too many nodes wait for a decision already"
            raise _Refused("too-many-pending", msg)
        node = node or new_node(known.node_id, now)
        text = f"{shown(inventory.hostname)}, key {known.key.md5}"
        before = moved(node, Status.PENDING, now, "inventory", text)
        # What it was called before it was removed is no news.
        fresh = evolve(before.node, facts=None, machines=(), known=known)
        return _told(fresh, inventory, known, now, before.events)
    if node.status is Status.ACCEPTED and known.key != node.key:
        why = key_in_the_way(node.node_id, known.key, others)
        if why is not None:
            raise _Refused("key-in-use", f"node {node.node_id} changes its key: {why}")
    return _told(node, inventory, known, now, ())


def _told(
    node: Node,
    inventory: Inventory,
    known: Known,
    now: datetime,
    events: tuple[Event, ...],
) -> Change:
    """
    The node with what its new document says.
    """
    facts = Facts.of(inventory)
    news: list[tuple[str, str]] = []
    machines, alternation = node.machines, node.alternation
    if known.key != node.key and known.key is not None:
        # Another machine that has the key of before cannot send any more.
        machines, alternation = (), None
        how = "the former one has signed it"
        if node.key is None:
            how = "the first after `trust-again`"
        news.append(("key", f"{key_news(node.key, known.key)}, {how}"))
    old = node.facts
    if old is not None and old.hostname != facts.hostname:
        news.append(
            ("hostname", f"from {shown(old.hostname)} to {shown(facts.hostname)}")
        )
    if old is not None and old.policy_server_id != facts.policy_server_id:
        one, other = shown(old.policy_server_id), shown(facts.policy_server_id)
        news.append(("policy-server", f"from {one} to {other}"))
    machine = Machine.of(inventory)
    if machine in machines[:-1]:
        if alternation is None:
            text = f"{_described(machine)} and {_described(machines[-1])} in turn"
            news.append(("alternating", text))
        alternation = Alternation(now, machine, machines[-1])
    machines = (*(x for x in machines if x != machine), machine)
    conflict = node.conflict
    if conflict is not None and known.key is not None:
        # That was the node itself, which has shown by now whose its new key is.
        conflict = None if conflict.key == known.key.md5 else conflict
    changed = evolve(
        node,
        known=known,
        facts=facts,
        received=now,
        machines=machines[-MAX_MACHINES:],
        conflict=conflict,
        alternation=alternation,
        rejected=None,
    )
    added = (Event(now, what, "inventory", text) for what, text in news)
    return Change(changed, (*events, *added))


def _described(machine: Machine) -> str:
    return (
        f"{shown(machine.hostname)} (device {shown(machine.device_id)}, "
        f"machine {shown(machine.machine_id) or 'unknown'})"
    )


def _rejected(node: Node, judgement: Judgement, now: datetime) -> Change:
    refusal, inventory = judgement.refusal, judgement.inventory
    if refusal is None:
        raise ValueError("a document was refused for no reason")
    changed = evolve(node, rejected=Rejected(now, refusal))
    signer, last = judgement.signer, node.known.last
    if signer is None or inventory is None:
        return Change(changed)
    written = inventory.written
    if signer in node.known.refused_keys and last and written and written <= last:
        # From before the change of the key, and late.
        return Change(changed)
    conflict = Conflict(now, signer.md5, inventory.hostname)
    changed = evolve(changed, conflict=conflict)
    if node.conflict is not None:
        # One for all of them, until an operator has looked: whoever has the password
        # for uploads can send as many as he likes.
        return Change(changed)
    return Change(changed, (Event(now, "conflict", "inventory", refusal.text),))
