# SPDX-License-Identifier: MIT
"""
What the registry tells, as a server needs it for connections.
"""

from __future__ import annotations

import pytest

from nodecomm.identity.accepted import Standing
from nodecomm.inventory.following import NodeTable, digested
from nodecomm.inventory.judgement import Known
from nodecomm.inventory.nodes import Facts, Node, NodeNews, OtherNode, Status
from tests.identity.sample import key
from tests.inventory.documents import NODE, OTHER_NODE, WRITTEN


def node(
    number: int | None = 0, node_id: str = NODE, server: str | None = "here"
) -> Node:
    """
    An accepted node; without facts if it has not sent anything yet.
    """
    facts = None
    if server is not None:
        facts = Facts(
            hostname="Node.example.com",
            policy_server_id=server,
            owner="root",
            agent_name="cfengine-community",
            agent_version="8.3.1",
            system="Debian",
            addresses=("127.0.0.1", "10.0.0.7"),
            device_id="x",
            machine_id=None,
            in_certificate=True,
        )
    known = Known(node_id, None if number is None else key(number), signed=True)
    return Node(known, Status.ACCEPTED, WRITTEN, facts)


def news(
    *accepted: Node, others: tuple[OtherNode, ...] = (), whole: bool = False
) -> NodeNews:
    """
    News without any key that was withdrawn.
    """
    return NodeNews(1, whole, accepted, others, 0, ())


@pytest.mark.parametrize(
    ("server", "standing"),
    [
        ("here", Standing.ACCEPTED),
        (" HERE", Standing.ACCEPTED),
        (None, Standing.ACCEPTED),
        ("there", Standing.ELSEWHERE),
        ("", Standing.ELSEWHERE),
    ],
)
def test_whose_node_it_is(server: str | None, standing: Standing) -> None:
    """
    A node belongs to the server that it names, in any case of letters, and to the one
    that was told of it while it has named none.
    """
    table = NodeTable()
    table.take(digested(news(node(server=server)), "here"))

    found = table.keys.find(key())
    assert found is not None
    assert found.standing is standing
    assert (NODE in table.served) == (standing is Standing.ACCEPTED)
    assert table.is_known(key())
    assert table.is_accepted(key()) == (standing is Standing.ACCEPTED)


def test_what_is_served() -> None:
    """
    Its id as it writes it, its key, its name and the addresses that others may see.
    """
    table = NodeTable()
    table.take(digested(news(node(node_id="Node-1")), "here"))

    served = table.served["node-1"]
    assert served.node_id == "Node-1"
    assert served.key == key()
    assert served.hostname == "node.example.com"
    assert served.addresses == ("10.0.0.7",)


def test_a_node_without_key() -> None:
    """
    One whose next inventory decides which key it has is not served meanwhile.
    """
    table = NodeTable()
    table.take(digested(news(node()), "here"))
    change = table.take(digested(news(node(None)), "here"))

    assert change.lost == {key()}
    assert table.served == {}
    assert table.keys.find(key()) is None


def test_changes_and_the_rest() -> None:
    """
    What has changed replaces what was known of it, and nothing else; what is all there
    is replaces everything. Keys that lose what they had are told.
    """
    table = NodeTable()
    table.take(digested(news(node(0), node(1, OTHER_NODE)), "here"))
    assert set(table.served) == {NODE, OTHER_NODE}
    before = table.served

    change = table.take(digested(news(node(2)), "here"))
    assert change.lost == {key(0)}
    assert table.served[NODE].key == key(2)
    assert table.served[OTHER_NODE] is before[OTHER_NODE]
    assert before[NODE].key == key(0)

    gone = OtherNode(NODE.upper(), Status.DELETED, None)
    assert table.take(digested(news(others=(gone,)), "here")).lost == {key(2)}
    assert set(table.served) == {OTHER_NODE}

    change = table.take(digested(news(node(3), whole=True), "here"))
    assert change.lost == {key(1)}
    assert set(table.served) == {NODE}
    assert table.keys.find(key(1)) is None


def test_a_key_that_goes_over() -> None:
    """
    A key that another accepted node has now is not lost.
    """
    table = NodeTable()
    table.take(digested(news(node(0)), "here"))
    gone = OtherNode(NODE, Status.DELETED, None)
    change = table.take(digested(news(node(0, OTHER_NODE), others=(gone,)), "here"))

    assert change.lost == frozenset()
    assert table.is_accepted(key())


def test_facts_that_change_nothing_here() -> None:
    """
    A node that is called otherwise keeps its connections.
    """
    table = NodeTable()
    table.take(digested(news(node(server=None)), "here"))
    assert table.served[NODE].hostname is None
    assert table.take(digested(news(node()), "here")).lost == frozenset()
    assert table.served[NODE].hostname == "node.example.com"
