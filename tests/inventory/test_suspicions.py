# SPDX-License-Identifier: MIT
"""
What is suspicious about nodes.
"""

from __future__ import annotations

from attrs import evolve

from nodecomm.inventory.judgement import Known
from nodecomm.inventory.nodes import Alternation, Conflict, Machine, Status
from nodecomm.inventory.suspicions import by_node, suspicions, suspicions_of
from nodecomm.testing.nodes import _MemoryRecords
from tests.identity.sample import key
from tests.inventory.documents import NODE, OTHER_NODE
from tests.inventory.test_lifecycle import FACTS, NOW, a_node


def test_nothing() -> None:
    """
    Nodes of different names and keys are not suspicious, nor are those without either.
    """
    other = a_node(Status.ACCEPTED, OTHER_NODE, key(1), evolve(FACTS, hostname="other"))
    third = a_node(Status.ACCEPTED, "third", key(2), None)
    fourth = a_node(Status.ACCEPTED, "fourth", key(3), None)

    assert suspicions([a_node(), other, third, fourth]) == ()


def test_same_key_and_name() -> None:
    """
    One key or one name of two nodes is told, whatever the case of the name.
    """
    facts = evolve(FACTS, hostname="NODE.example.com")
    found = suspicions([a_node(), a_node(Status.ACCEPTED, OTHER_NODE, facts=facts)])

    assert [(x.code, x.node_ids) for x in found] == [
        ("duplicate-key", (OTHER_NODE, NODE)),
        ("duplicate-hostname", (OTHER_NODE, NODE)),
    ]
    assert key().md5 in found[0].text


def test_nodes_that_are_gone() -> None:
    """
    What was refused, deleted or blocked does not count.
    """
    gone = [a_node(x, f"n{x.value}") for x in Status if not x.is_live]

    assert suspicions([a_node(), *gone]) == ()


def test_many() -> None:
    """
    However many are alike, the text names a few and counts the others; the values name
    all.
    """
    found = suspicions([a_node(node_id=f"n{x:02}") for x in range(12)])

    assert len(found[0].node_ids) == 12
    assert "n00, n01, n02, n03, n04 and 7 more" in found[0].text


def test_of_each_node() -> None:
    """
    Each node has what is about it, and only that.
    """
    alike = [a_node(node_id=f"n{x}") for x in range(3)]
    other = a_node(Status.ACCEPTED, "m", key(1), evolve(FACTS, hostname="other"))
    found = suspicions([*alike, other])
    about = by_node(found)

    assert {name: tuple(own) for name, own in about.items()} == {
        f"n{x}": found for x in range(3)
    }


def test_of_a_node_among_others() -> None:
    """
    Whoever asks about one node is told the same as all of them tell of it.
    """
    gone = (Status.DELETED, "gone")
    other = evolve(FACTS, hostname="other")
    machine = Machine("two", None, "b")
    nodes = [
        a_node(),
        a_node(Status.ACCEPTED, OTHER_NODE, facts=other),
        a_node(Status.ACCEPTED, "third", key(1), evolve(FACTS, hostname="OTHER")),
        a_node(*gone, key(1), other),
        evolve(
            a_node(node_id="fourth", facts=None),
            alternation=Alternation(NOW, machine, machine),
        ),
        evolve(a_node(node_id="fifth"), known=Known("fifth")),
    ]
    records = _MemoryRecords()
    for node in nodes:
        records.save(node)
    about = by_node(suspicions(nodes))

    for node in nodes:
        assert suspicions_of(node, records) == tuple(about.get(node.node_id, ()))
    assert [len(about.get(node.node_id, ())) for node in nodes] == [2, 2, 1, 0, 2, 1]


def test_of_one_node() -> None:
    """
    Another machine with the id is told, with its key or with the node's own.
    """
    machines = (Machine("one", None, "a"), Machine("two", None, "b"))
    when = NOW.replace(microsecond=123456)
    node = evolve(
        a_node(),
        conflict=Conflict(when, key(1).md5, "other"),
        alternation=Alternation(when, *machines),
    )
    found = suspicions([node])

    assert [x.code for x in found] == ["id-conflict", "alternating"]
    assert key().md5 in found[0].text
    assert key(1).md5 in found[0].text
    for each in found:
        assert f"at {NOW.isoformat()}: " in each.text
