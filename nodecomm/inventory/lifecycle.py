# SPDX-License-Identifier: MIT
"""
What operators make of a node.

Pure: a node and a decision go in, a changed node and its history come out, and whoever
keeps nodes (`nodecomm.inventory.records`) puts that in force in one transaction (`-` is
not possible, `=` changes nothing):

=========== ======== ======== ======== ======== ======== =======
decision    unknown  pending  accepted refused  deleted  blocked
=========== ======== ======== ======== ======== ======== =======
Accept      -        accepted =        -        -        -
Refuse      -        refused  -        =        -        -
Delete      -        deleted  deleted  deleted  =        -
Block       blocked  blocked  blocked  blocked  blocked  =
Lift        -        -        -        -        -        deleted
SetKey      -        pending  accepted -        -        -
TrustAgain  -        pending  accepted -        -        -
ResetDate   -        pending  accepted refused  deleted  blocked
Register    accepted accepted =        accepted accepted -
=========== ======== ======== ======== ======== ======== =======

A document that is believed makes a node pending, unless it is pending or accepted
already: `nodecomm.inventory.arrivals`. Refusal and deletion forget the key, so that a
machine that was installed anew can come again. They do not forget what was taken, so
that an old document cannot bring a node back, nor that it has signed, nor which keys it
had before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from attrs import evolve, frozen

from nodecomm.identity.keys import PublicKey, parse_digest_or_none
from nodecomm.inventory.document import check_node_id
from nodecomm.inventory.judgement import Known
from nodecomm.inventory.keys import AgentKey, key_pin, same_node
from nodecomm.inventory.nodes import Event, Node, Status

__all__ = [
    "Accept",
    "Block",
    "Change",
    "Decision",
    "Delete",
    "Lift",
    "NotPossible",
    "Others",
    "Refuse",
    "Register",
    "ResetDate",
    "SetKey",
    "TrustAgain",
    "decide",
    "key_in_the_way",
    "key_news",
    "moved",
    "new_node",
    "shown",
]

#: Characters of a sender's text in a text of ours.
_SHOWN = 200


class NotPossible(Exception):  # noqa: N818
    """
    A decision that cannot be put in force. Nothing changes.

    Attributes:
        code: A stable word: `unknown-node`, `status`, `no-key`, `other-key`,
            `key-in-use`, `duplicate-hostname`, `bad-node-id`, `subject-mismatch`.
        text: Why, and what can be done.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Others(Protocol):
    """
    Which nodes there are besides. A node that is asked about may be among them.
    """

    def with_key(self, key: PublicKey) -> Sequence[Node]:
        """
        Those whose key this is, whatever their status.
        """

    def with_hostname(self, hostname: str) -> Sequence[Node]:
        """
        Those that are called so, in any case of letters, whatever their status.
        """


@frozen
class Accept:
    """
    Open its files to a pending node.

    Attributes:
        node_id: Which one.
        key: A printed digest that its key must have, MD5 or SHA; None: whatever it
            has now.
        duplicate_hostname: Although an accepted node is called so, too.
    """

    node_id: str
    key: str | None = None
    duplicate_hostname: bool = False


@frozen
class Refuse:
    """
    Say no to a pending node.
    """

    node_id: str


@frozen
class Delete:
    """
    Remove a node.
    """

    node_id: str


@frozen
class Block:
    """
    Take nothing from a node, even one that is not known yet.
    """

    node_id: str


@frozen
class Lift:
    """
    Take something from a blocked node again; it begins anew.
    """

    node_id: str


@frozen
class SetKey:
    """
    Give a node another key. The former one is refused from then on.
    """

    node_id: str
    key: AgentKey


@frozen
class TrustAgain:
    """
    Let the next document of a node decide which key it has.
    """

    node_id: str


@frozen
class ResetDate:
    """
    Let the next document of a node be older than the last one.
    """

    node_id: str


@frozen
class Register:
    """
    Accept a node before it has sent anything.
    """

    node_id: str
    key: AgentKey


Decision = (
    Accept | Refuse | Delete | Block | Lift | SetKey | TrustAgain | ResetDate | Register
)


@frozen
class Change:
    """
    What becomes of a node.

    Attributes:
        node: The node from now on.
        events: What to add to its history.
    """

    node: Node
    events: tuple[Event, ...] = ()


def decide(
    node: Node | None, decision: Decision, others: Others, now: datetime, by: str
) -> Change:
    """
    What an operator's decision makes of a node.

    Args:
        node: The one that the decision names; None if there is none.
        decision: What is wanted.
        others: The nodes besides.
        now: Civil time, with a zone.
        by: Who decides.

    Raises:
        NotPossible: It cannot be.
    """
    match decision:
        case Accept():
            return _accept(_there(node, decision), decision, others, now, by)
        case Refuse():
            return _refuse(_there(node, decision), now, by)
        case Delete():
            return _delete(_there(node, decision), now, by)
        case Block():
            return _block(node, decision, now, by)
        case Lift():
            return _lift(_there(node, decision), now, by)
        case SetKey():
            return _set_key(_there(node, decision), decision, others, now, by)
        case TrustAgain():
            return _trust_again(_there(node, decision), now, by)
        case ResetDate():
            return _reset_date(_there(node, decision), now, by)
        case Register():
            return _register(node, decision, others, now, by)


def _there(node: Node | None, decision: Decision) -> Node:
    if node is None:
        msg = f"no node {decision.node_id} is known"
        raise NotPossible("unknown-node", msg)
    return node


def _wrong_status(node: Node, advice: str) -> NotPossible:
    return NotPossible(
        "status", f"node {node.node_id} is {node.status.value}: {advice}"
    )


def moved(
    node: Node, status: Status, now: datetime, by: str, text: str, what: str = ""
) -> Change:
    """
    The node with another status, and that in its history.
    """
    event = Event(now, what or status.value, by, text)
    return Change(evolve(node, status=status, since=now), (event,))


def _forgotten(node: Node) -> Node:
    """
    The same without its key, and without suspicions about others that have it.
    """
    known = evolve(node.known, key=None)
    return evolve(node, known=known, conflict=None, alternation=None, rejected=None)


def _named(node: Node) -> str:
    key = "no key" if node.key is None else f"key {node.key.md5}"
    return f"{shown(node.hostname)}, {key}" if node.hostname else key


def shown(text: str | None) -> str:
    """
    Some of a sender's text, for a text of ours.
    """
    return (text or "")[:_SHOWN]


def _accept(
    node: Node, decision: Accept, others: Others, now: datetime, by: str
) -> Change:
    key = node.key
    if decision.key is not None:
        wanted = parse_digest_or_none(decision.key) or decision.key
        if key is None or wanted not in (*key.digests, key_pin(key)):
            has = "no key" if key is None else f"the key {key.md5}"
            msg = f"node {node.node_id} has {has}, not {decision.key[:_SHOWN]}"
            raise NotPossible("other-key", msg)
    if node.status is Status.ACCEPTED and key is not None:
        return Change(node)
    if node.status is Status.BLOCKED:
        raise _wrong_status(node, _LIFT.format(node.node_id))
    if not node.status.is_live:
        advice = "its next inventory makes it pending, then it can be accepted"
        raise _wrong_status(node, advice)
    if key is None:
        msg = (
            f"node {node.node_id} is {node.status.value} and has no key until its next"
            f" inventory comes; `nodecomm nodes set-key {node.node_id} PEM` gives it"
            " one"
        )
        raise NotPossible("no-key", msg)
    _check_key_free(node.node_id, key, others)
    if node.hostname and not decision.duplicate_hostname:
        _check_hostname_free(node.node_id, node.hostname, others)
    return moved(node, Status.ACCEPTED, now, by, _named(node))


#: What to do about a blocked node.
_LIFT = "`nodecomm nodes block {} --lift` lets it come again"


def key_in_the_way(node_id: str, key: PublicKey, others: Others) -> str | None:
    """
    Why this node cannot be an accepted one with that key: another one has it; None if
    nothing is in the way.
    """
    those = [x for x in others.with_key(key) if not same_node(x.node_id, node_id)]
    for other in those:
        if other.status is Status.ACCEPTED:
            return (
                f"the accepted node {other.node_id} "
                f"({shown(other.hostname) or 'no name'}) has the key {key.md5}: each "
                "could read the files of the other. One of them is a copy and needs a "
                "key and an id of its own"
            )
    for other in those:
        # One that was only named in a document without a signature may be anybody's.
        if other.status is Status.BLOCKED and other.known.signed:
            return (
                f"the blocked node {other.node_id} has the key {key.md5}, which is "
                "refused as long as it is blocked"
            )
    return None


def _check_key_free(node_id: str, key: PublicKey, others: Others) -> None:
    why = key_in_the_way(node_id, key, others)
    if why is not None:
        raise NotPossible("key-in-use", why)


def _check_hostname_free(node_id: str, hostname: str, others: Others) -> None:
    for other in others.with_hostname(hostname):
        if other.status is Status.ACCEPTED and not same_node(other.node_id, node_id):
            msg = (
                f"the accepted node {other.node_id} is called {shown(hostname)}, too; "
                "--duplicate-hostname accepts it all the same"
            )
            raise NotPossible("duplicate-hostname", msg)


def _refuse(node: Node, now: datetime, by: str) -> Change:
    if node.status is Status.REFUSED:
        return Change(node)
    if node.status is Status.ACCEPTED:
        advice = f"`nodecomm nodes delete {node.node_id}` removes it"
        raise _wrong_status(node, advice)
    if node.status is Status.BLOCKED:
        raise _wrong_status(node, _LIFT.format(node.node_id))
    if node.status is not Status.PENDING:
        raise _wrong_status(node, "only a pending node can be refused")
    return moved(_forgotten(node), Status.REFUSED, now, by, _named(node))


def _delete(node: Node, now: datetime, by: str) -> Change:
    if node.status is Status.DELETED:
        return Change(node)
    if node.status is Status.BLOCKED:
        raise _wrong_status(node, _LIFT.format(node.node_id))
    return moved(_forgotten(node), Status.DELETED, now, by, _named(node))


def new_node(node_id: str, now: datetime) -> Node:
    """
    A node that nobody knew.
    """
    if not check_node_id(node_id):
        msg = (
            f"{node_id[:_SHOWN]!r} is no id of a node: 50 letters, digits and hyphens "
            "at most"
        )
        raise NotPossible("bad-node-id", msg)
    return Node(Known(node_id), Status.DELETED, now)


def _block(node: Node | None, decision: Block, now: datetime, by: str) -> Change:
    if node is None:
        node = new_node(decision.node_id, now)
        return moved(node, Status.BLOCKED, now, by, "before it had sent anything")
    if node.status is Status.BLOCKED:
        return Change(node)
    text = f"{_named(node)}, was {node.status.value}"
    return moved(node, Status.BLOCKED, now, by, text)


def _lift(node: Node, now: datetime, by: str) -> Change:
    if node.status is not Status.BLOCKED:
        raise _wrong_status(node, "it is not blocked")
    return moved(_forgotten(node), Status.DELETED, now, by, _named(node), "lifted")


def _check_named(node_id: str, key: AgentKey) -> None:
    if key.certificate is not None and not key.certificate.is_of(node_id):
        msg = f"the certificate is not that of node {node_id}"
        raise NotPossible("subject-mismatch", msg)


def _with_key(known: Known, key: PublicKey) -> Known:
    """
    The same with a key that an operator has given: it counts as signed, and the one
    before is refused.
    """
    refused = [x for x in known.refused_keys if x != key]
    if known.key is not None and known.key != key:
        refused = [x for x in refused if x != known.key] + [known.key]
    return evolve(known, key=key, signed=True, refused_keys=tuple(refused))


def _set_key(
    node: Node, decision: SetKey, others: Others, now: datetime, by: str
) -> Change:
    if node.status is Status.BLOCKED:
        raise _wrong_status(node, _LIFT.format(node.node_id))
    if not node.status.is_live:
        advice = f"`nodecomm nodes register {node.node_id} PEM` accepts it with a key"
        raise _wrong_status(node, advice)
    _check_named(node.node_id, decision.key)
    key = decision.key.key
    _check_key_free(node.node_id, key, others)
    known = _with_key(node.known, key)
    if node.key == key and node.conflict is None and node.alternation is None:
        return Change(evolve(node, known=known))
    text = f"{key_news(node.key, key)}, given by an operator"
    changed = evolve(node, known=known, conflict=None, alternation=None)
    return Change(changed, (Event(now, "key", by, text),))


def key_news(former: PublicKey | None, key: PublicKey) -> str:
    """
    Which key a node has from now on, and which one it had.
    """
    if former is None or former == key:
        return f"key {key.md5}"
    return f"key from {former.md5} to {key.md5}"


def _trust_again(node: Node, now: datetime, by: str) -> Change:
    if node.status is Status.BLOCKED:
        raise _wrong_status(node, _LIFT.format(node.node_id))
    if not node.status.is_live:
        raise _wrong_status(node, "it has no key to forget")
    text = "the next inventory decides which key it has; " + (
        "it had none" if node.key is None else f"it had {node.key.md5}"
    )
    return Change(_forgotten(node), (Event(now, "trust-again", by, text),))


def _reset_date(node: Node, now: datetime, by: str) -> Change:
    last = node.known.last
    if last is None:
        return Change(node)
    text = f"the last inventory was of {last.isoformat()}"
    changed = evolve(node, known=evolve(node.known, last=None))
    return Change(changed, (Event(now, "reset-date", by, text),))


def _register(
    node: Node | None, decision: Register, others: Others, now: datetime, by: str
) -> Change:
    node_id, key = decision.node_id, decision.key.key
    _check_named(node_id, decision.key)
    if node is not None and node.status is Status.BLOCKED:
        raise _wrong_status(node, _LIFT.format(node.node_id))
    if node is not None and node.status.is_live and node.key != key:
        advice = (
            f"its key is {'not known' if node.key is None else node.key.md5}; "
            f"`nodecomm nodes set-key {node.node_id} PEM` gives it another"
        )
        raise _wrong_status(node, advice)
    _check_key_free(node_id, key, others)
    if node is None:
        node = new_node(node_id, now)
    node = evolve(node, known=_with_key(node.known, key))
    if node.status is Status.ACCEPTED:
        return Change(node)
    return moved(node, Status.ACCEPTED, now, by, _named(node), "registered")
