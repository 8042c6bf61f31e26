# SPDX-License-Identifier: MIT
"""
What operators make of nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from attrs import evolve, frozen

from nodecomm.identity.keys import PublicKey
from nodecomm.inventory import lifecycle
from nodecomm.inventory.document import read_document
from nodecomm.inventory.judgement import Known, Taken
from nodecomm.inventory.keys import AgentKey, key_pin, read_agent_key
from nodecomm.inventory.lifecycle import (
    Accept,
    Block,
    Change,
    Decision,
    Delete,
    Lift,
    NotPossible,
    Refuse,
    Register,
    ResetDate,
    SetKey,
    TrustAgain,
    decide,
)
from nodecomm.inventory.model import Address, Agent, Hardware, Interface
from nodecomm.inventory.nodes import (
    Alternation,
    Conflict,
    Event,
    Facts,
    Machine,
    Node,
    Status,
)
from tests.identity.sample import key, pair
from tests.inventory.documents import (
    NODE,
    OTHER_NODE,
    WRITTEN,
    agent,
    certificate,
    document,
    rudder,
)

NOW = WRITTEN + timedelta(minutes=1)

FACTS = Facts(
    hostname="node.example.com",
    policy_server_id="root",
    owner="root",
    agent_name="cfengine-community",
    agent_version="8.3.1",
    system="Debian GNU/Linux 12 (bookworm)",
    addresses=("192.0.2.7",),
    device_id="node-2024-03-21-16-07-29",
    machine_id=None,
    in_certificate=True,
)

DECISIONS: dict[str, Callable[[str], Decision]] = {
    "Accept": Accept,
    "Refuse": Refuse,
    "Delete": Delete,
    "Block": Block,
    "Lift": Lift,
    "SetKey": lambda node_id: SetKey(node_id, AgentKey(key(1))),
    "TrustAgain": TrustAgain,
    "ResetDate": ResetDate,
    "Register": lambda node_id: Register(node_id, AgentKey(key())),
}


def a_node(
    status: Status = Status.PENDING,
    node_id: str = NODE,
    own: PublicKey | None = None,
    facts: Facts | None = FACTS,
) -> Node:
    """
    A node that has sent a signed document.
    """
    known = Known(
        node_id,
        key=(own or key()) if status.is_live or status is Status.BLOCKED else None,
        signed=True,
        last=WRITTEN,
        taken=(Taken("0" * 64, WRITTEN, own or key()),),
    )
    return Node(known, status, WRITTEN, facts=facts, received=WRITTEN)


@frozen
class Fleet:
    """
    The other nodes.
    """

    nodes: tuple[Node, ...] = ()

    def with_key(self, key: PublicKey) -> list[Node]:
        return [node for node in self.nodes if node.key == key]

    def with_hostname(self, hostname: str) -> list[Node]:
        return [x for x in self.nodes if (x.hostname or "").lower() == hostname.lower()]


def do(node: Node | None, decision: Decision, *others: Node) -> Change:
    """
    What an operator's decision makes of a node.
    """
    fleet = Fleet((*others, node) if node else others)
    return decide(node, decision, fleet, NOW, "alice")


def denied(node: Node | None, decision: Decision, *others: Node) -> NotPossible:
    """
    Why a decision cannot be put in force.
    """
    with pytest.raises(NotPossible) as caught:
        do(node, decision, *others)
    return caught.value


def table() -> list[tuple[str, str, str]]:
    """
    Decision, status before, what becomes of it, as the module's documentation has it.
    """
    found = re.findall(
        r"^=[= ]+\n(.*)\n=[= ]+\n((?:.*\n)*?)=", lifecycle.__doc__ or "", re.M
    )
    head, body = found[0]
    statuses = head.split()[1:]
    rows = [line.split() for line in body.splitlines()]
    return [
        (row[0], status, after)
        for row in rows
        for status, after in zip(statuses, row[1:], strict=True)
    ]


@pytest.mark.parametrize(("name", "before", "after"), table())
def test_table(name: str, before: str, after: str) -> None:
    """
    Each decision does to a node of each status what the table says.
    """
    node = None if before == "unknown" else a_node(Status(before))
    decision = DECISIONS[name](NODE)
    if after == "-":
        code = denied(node, decision).code

        assert code == ("unknown-node" if node is None else "status")
        return
    change = do(node, decision)
    if after == "=":
        assert change.events == ()
        assert change.node.status is Status(before)
        return

    assert change.node.status is Status(after)
    assert [event.by for event in change.events] == ["alice"]
    if after != before:
        assert change.node.since == NOW


def test_table_is_whole() -> None:
    """
    The table has every decision and every status.
    """
    rows = table()

    assert {name for name, _, _ in rows} == set(DECISIONS)
    assert {before for _, before, _ in rows} == {"unknown", *(x.value for x in Status)}
    assert len(rows) == len(DECISIONS) * (len(Status) + 1)


def test_accept_tells_the_key() -> None:
    """
    The history says what was accepted.
    """
    change = do(a_node(), Accept(NODE))
    text = f"node.example.com, key {key().md5}"

    assert change.events == (Event(NOW, "accepted", "alice", text),)
    assert change.node.opens is not None


@pytest.mark.parametrize(
    "digest",
    [key().md5, key().sha, key().md5.upper(), key_pin(key())],
    ids=["md5", "sha", "upper", "pin"],
)
def test_accept_with_the_right_digest(digest: str) -> None:
    """
    Who names the key that the node shows accepts it.
    """
    assert do(a_node(), Accept(NODE, digest)).node.status is Status.ACCEPTED


@pytest.mark.parametrize(
    "digest",
    [key(1).md5, key(1).sha, "MD5=", "", "nonsense"],
    ids=["md5", "sha", "short", "empty", "nonsense"],
)
@pytest.mark.parametrize("status", [Status.PENDING, Status.ACCEPTED])
def test_accept_with_another_digest(digest: str, status: Status) -> None:
    """
    Who names another key, or none, accepts nothing, and is not told that it is accepted
    already.
    """
    assert denied(a_node(status), Accept(NODE, digest)).code == "other-key"


def test_accept_without_key() -> None:
    """
    A node whose key the next document decides cannot be accepted before that.
    """
    node = do(a_node(), TrustAgain(NODE)).node

    assert denied(node, Accept(NODE)).code == "no-key"
    assert denied(node, Accept(NODE, key().md5)).code == "other-key"
    node = do(a_node(Status.ACCEPTED), TrustAgain(NODE)).node
    assert denied(node, Accept(NODE)).code == "no-key"


def test_what_is_kept_of_a_document_is_bounded() -> None:
    """
    Whatever a document says, what is kept of it in a node's own record is small.
    """
    long = "x" * 100_000
    cards = tuple(
        Interface(f"e{n}", addresses=(Address(f"10.1.{n // 256}.{n % 256}"),))
        for n in range(1000)
    )
    read = read_document(document(rudder(agent(certificate=certificate(pair())))))
    inventory = evolve(
        read,
        agent=evolve(read.agent, version=long),
        os=evolve(read.os, full_name=long),
        hardware=Hardware(machine_id=long),
        interfaces=cards,
    )
    facts, machine = Facts.of(inventory), Machine.of(inventory)

    assert len(repr(facts)) + len(repr(machine)) < 10_000
    assert facts.addresses == inventory.addresses[:256]
    assert facts.system == long[:255]


def test_advice_about_a_blocked_node() -> None:
    """
    Whatever is to be done with a blocked node, the way there is told.
    """
    for decision in (Accept(NODE), Refuse(NODE), Delete(NODE), TrustAgain(NODE)):
        assert "--lift" in str(denied(a_node(Status.BLOCKED), decision))


@pytest.mark.parametrize("status", Status)
def test_key_of_another(status: Status) -> None:
    """
    A key that an accepted or a blocked node has is no key for another one. What any
    other node has does not count.
    """
    other = a_node(status, OTHER_NODE, facts=None)
    blank = a_node(own=key(1))
    decisions: list[tuple[Node | None, Decision]] = [
        (a_node(), Accept(NODE)),
        (blank, SetKey(NODE, AgentKey(key()))),
        (None, Register(NODE, AgentKey(key()))),
    ]
    for node, decision in decisions:
        if status in (Status.ACCEPTED, Status.BLOCKED):
            error = denied(node, decision, other)

            assert error.code == "key-in-use"
            assert OTHER_NODE in error.text
        else:
            assert do(node, decision, other).node.key == key()


def test_a_key_that_was_only_named() -> None:
    """
    One of which nobody has shown that he has it keeps no other node from it, though it
    is blocked.
    """
    other = a_node(Status.BLOCKED, OTHER_NODE)
    other = evolve(other, known=evolve(other.known, signed=False))

    assert do(a_node(), Accept(NODE), other).node.status is Status.ACCEPTED


def test_hostname_of_another() -> None:
    """
    Two accepted nodes of one name must be wanted.
    """
    facts = evolve(FACTS, hostname="NODE.example.com")
    other = a_node(Status.ACCEPTED, OTHER_NODE, key(1), facts)

    assert denied(a_node(), Accept(NODE), other).code == "duplicate-hostname"
    wanted = Accept(NODE, duplicate_hostname=True)
    assert do(a_node(), wanted, other).node.status is Status.ACCEPTED
    pending = a_node(Status.PENDING, OTHER_NODE, key(1), facts)
    assert do(a_node(), Accept(NODE), pending).node.status is Status.ACCEPTED


@pytest.mark.parametrize("decision", [Refuse(NODE), Delete(NODE)])
def test_forgotten(decision: Decision) -> None:
    """
    Refusal and deletion forget the key, and what was suspicious about it; not what was
    taken, nor that it was signed, nor former keys.
    """
    known = evolve(a_node().known, refused_keys=(key(2),))
    node = evolve(a_node(), known=known, conflict=Conflict(NOW, key(1).md5, "other"))
    after = do(node, decision).node

    assert after.known == evolve(known, key=None)
    assert after.conflict is None
    assert after.opens is None


def test_set_key_again() -> None:
    """
    Each key that the node had is refused, but for one that is given again.
    """
    node = a_node(Status.ACCEPTED)
    for number in (1, 2):
        node = do(node, SetKey(NODE, AgentKey(key(number)))).node
    assert node.known.refused_keys == (key(), key(1))
    node = do(node, SetKey(NODE, AgentKey(key(1)))).node
    assert node.known.refused_keys == (key(), key(2))


def test_the_same_key_given() -> None:
    """
    It says that an operator has looked at what is suspicious about the node.
    """
    one, two = (Machine(x, None, "node") for x in ("a", "b"))
    decision = SetKey(NODE, AgentKey(key()))

    for doubts in (
        {"conflict": Conflict(NOW, key(1).md5, "other")},
        {"alternation": Alternation(NOW, one, two)},
    ):
        change = do(evolve(a_node(), **doubts), decision)
        assert change.node == a_node()
        assert [event.what for event in change.events] == ["key"]
        assert change.events[0].text == f"key {key().md5}, given by an operator"
    assert do(a_node(), decision) == Change(a_node())


def test_set_key() -> None:
    """
    The former key is refused from then on, and the new one counts as signed.
    """
    node = evolve(a_node(Status.ACCEPTED), conflict=Conflict(NOW, key(1).md5, "other"))
    change = do(node, SetKey(NODE, AgentKey(key(1))))

    assert change.node.key == key(1)
    assert change.node.known.refused_keys == (key(),)
    assert change.node.known.signed
    assert change.node.conflict is None
    text = f"key from {key().md5} to {key(1).md5}, given by an operator"
    assert change.events == (Event(NOW, "key", "alice", text),)


def test_set_key_back() -> None:
    """
    An operator may give a node a key that it had before.
    """
    node = do(a_node(), SetKey(NODE, AgentKey(key(1)))).node
    node = do(node, SetKey(NODE, AgentKey(key()))).node

    assert node.key == key()
    assert node.known.refused_keys == (key(1),)


def test_set_the_same_key() -> None:
    """
    Setting the key that the node has makes it the operator's word: unsigned documents
    are over. It is no news.
    """
    node = evolve(a_node(), known=evolve(a_node().known, signed=False))
    change = do(node, SetKey(NODE, AgentKey(key())))

    assert change == Change(evolve(node, known=evolve(node.known, signed=True)))


def test_certificate_of_another_node() -> None:
    """
    A certificate is good for the node that it names only.
    """
    text = certificate(pair(1), OTHER_NODE)
    found = read_agent_key(Agent("dsc", "1", certificate=text), OTHER_NODE)

    assert denied(a_node(), SetKey(NODE, found)).code == "subject-mismatch"
    assert denied(None, Register(NODE, found)).code == "subject-mismatch"
    assert do(None, Register(OTHER_NODE.upper(), found)).node.key == key(1)


def test_trust_again() -> None:
    """
    The next document decides; nothing is open to the node until then.
    """
    change = do(a_node(Status.ACCEPTED), TrustAgain(NODE))

    assert change.node.status is Status.ACCEPTED
    assert change.node.key is None
    assert change.node.opens is None
    assert [x.what for x in change.events] == ["trust-again"]
    assert key().md5 in change.events[0].text


def test_reset_date() -> None:
    """
    The next document may be of any date in the window; it is told once.
    """
    change = do(a_node(), ResetDate(NODE))

    assert change.node.known.last is None
    assert [x.what for x in change.events] == ["reset-date"]
    assert do(change.node, ResetDate(NODE)) == Change(change.node)


def test_register_a_pending_node() -> None:
    """
    It is accepted if it has this key, and left alone if it has another.
    """
    assert do(a_node(), Register(NODE, AgentKey(key()))).node.status is Status.ACCEPTED
    assert denied(a_node(), Register(NODE, AgentKey(key(1)))).code == "status"
    accepted = a_node(Status.ACCEPTED)
    assert denied(accepted, Register(NODE, AgentKey(key(1)))).code == "status"


@pytest.mark.parametrize("node_id", ["", "..", "a/b", "a b", "-a", "a" * 51, "ä"])
def test_bad_ids(node_id: str) -> None:
    """
    A node that is not known yet must be able to have the id.
    """
    assert denied(None, Block(node_id)).code == "bad-node-id"
    assert denied(None, Register(node_id, AgentKey(key()))).code == "bad-node-id"
