# SPDX-License-Identifier: MIT
"""
What decisions about nodes say about keys, and what a trust policy makes of that.
"""

from __future__ import annotations

from datetime import datetime, timezone

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.identity.accepted import NodeKey, NodeKeys, Standing, WithdrawnKey
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.trust import TrustPolicy
from tests.identity.sample import key
from tests.identity.test_trust import HERE, TrustCase, window

WHEN = datetime(2024, 3, 21, 16, 0, tzinfo=timezone.utc)

ONE, TWO = "0a0f4a80-3c0d-4f7d-8a35-7e2d6b8a1c11", "Node-2"


def node(
    node_id: str,
    standing: Standing,
    number: int | None = 0,
    server_id: str | None = None,
) -> NodeKey:
    """
    A node with key *number*.
    """
    if number is None:
        return NodeKey(node_id, standing)
    whole = key(number) if standing is Standing.ACCEPTED else None
    return NodeKey(node_id, standing, key(number).sha, whole, server_id)


def withdrawn(
    place: int, node_id: str, number: int = 0, what: str = "deleted"
) -> WithdrawnKey:
    """
    Key *number*, taken from a node.
    """
    return WithdrawnKey(place, node_id, key(number), what, WHEN)


class NodeKeysTests(SynchronousTestCase):
    """
    The table.
    """

    def setUp(self) -> None:
        self.keys = NodeKeys()

    def found(self, number: int = 0) -> tuple[str, Standing] | None:
        found = self.keys.find(key(number))
        return None if found is None else (found.node_id, found.standing)

    def test_nobody(self) -> None:
        """
        A key that nobody has decided about is nobody's.
        """
        self.assertIsNone(self.found())

    def test_one_node(self) -> None:
        """
        Its key is its own as long as it has it, whatever the case of its id.
        """
        self.keys.put([node(TWO, Standing.PENDING)])
        self.assertEqual((TWO, Standing.PENDING), self.found())
        self.keys.put([node(TWO.upper(), Standing.ACCEPTED)])
        self.assertEqual((TWO.upper(), Standing.ACCEPTED), self.found())
        self.keys.put([node(TWO, Standing.ACCEPTED, 1)])
        self.assertIsNone(self.found())
        self.assertEqual((TWO, Standing.ACCEPTED), self.found(1))
        self.keys.put([node(TWO, Standing.FORMER, None)])
        self.assertIsNone(self.found(1))

    def test_another_servers(self) -> None:
        """
        Who serves a node that is another server's is told.
        """
        self.keys.put([node(ONE, Standing.ELSEWHERE, 0, "relay-7")])
        found = self.keys.find(key())
        assert found is not None
        self.assertEqual("relay-7", found.server_id)

    def test_same_digest_is_not_the_same_key(self) -> None:
        """
        Where the whole key is known the whole key counts.
        """
        real = key()
        size = (real.modulus.bit_length() + 7) // 8
        text = real.modulus.to_bytes(size, "big") + real.exponent.to_bytes(3, "big")
        forged = PublicKey(
            int.from_bytes(text[: size - 1], "big"),
            int.from_bytes(text[size - 1 :], "big"),
        )
        self.assertEqual(real.sha, forged.sha)
        self.keys.put([node(ONE, Standing.ACCEPTED)])
        self.keys.withdraw([withdrawn(1, TWO)])
        self.assertIsNone(self.keys.find(forged))

    def test_withdrawn(self) -> None:
        """
        What was withdrawn says as much as its node's status: refused, blocked, or that
        it was the key of a node once. A node that has the key now ends that.
        """
        self.keys.put([node(ONE, Standing.REFUSED, None)])
        self.keys.withdraw([withdrawn(1, ONE, what="refused"), withdrawn(2, TWO, 1)])
        self.assertEqual((ONE, Standing.REFUSED), self.found())
        self.assertEqual((TWO, Standing.FORMER), self.found(1))

        self.keys.put([node(ONE, Standing.BLOCKED, None)])
        self.assertEqual((ONE, Standing.BLOCKED), self.found())
        self.keys.put([node(ONE, Standing.FORMER, None)])
        self.assertEqual((ONE, Standing.FORMER), self.found())
        self.keys.put([node(ONE, Standing.PENDING)])
        self.assertEqual((ONE, Standing.PENDING), self.found())

    def test_several_nodes(self) -> None:
        """
        A key that several nodes have: a block counts most, then acceptance, then
        refusal, then that somebody has it at all.
        """
        self.keys.put([node(ONE, Standing.ACCEPTED), node(TWO, Standing.PENDING)])
        self.keys.withdraw([withdrawn(1, "third", what="refused")])
        self.keys.put([node("third", Standing.REFUSED, None)])
        self.assertEqual((ONE, Standing.ACCEPTED), self.found())
        self.keys.put([node("third", Standing.BLOCKED, None)])
        self.assertEqual(("third", Standing.BLOCKED), self.found())
        self.keys.put([node("third", Standing.REFUSED, None)])
        self.keys.put([node(ONE, Standing.FORMER, None)])
        self.assertEqual(("third", Standing.REFUSED), self.found())

    def test_while_it_leaves(self) -> None:
        """
        A key whose files are being removed is refused until all of that is done, but
        for that of a node that is accepted meanwhile.
        """
        self.keys.withdraw([withdrawn(1, ONE)])
        self.keys.leaves(key())
        self.keys.leaves(key())
        self.keys.put([node(TWO, Standing.PENDING)])
        self.assertEqual((ONE, Standing.LEAVING), self.found())
        self.keys.left(key())
        self.assertEqual((ONE, Standing.LEAVING), self.found())
        self.keys.put([node(TWO, Standing.ACCEPTED)])
        self.assertEqual((TWO, Standing.ACCEPTED), self.found())
        self.keys.put([node(TWO, Standing.FORMER, None)])
        self.keys.left(key())
        self.assertEqual((ONE, Standing.FORMER), self.found())

    def test_anew(self) -> None:
        """
        When all comes anew nothing of before is left.
        """
        self.keys.put([node(ONE, Standing.ACCEPTED)])
        self.keys.withdraw([withdrawn(1, TWO, 1)])
        self.keys.clear()
        self.assertEqual((None, None), (self.found(), self.found(1)))


class TrustOfNodesTests(TrustCase):
    """
    Keys of nodes before a trust policy.
    """

    def setUp(self) -> None:
        super().setUp()
        self.nodes = NodeKeys(is_known=True)

    def both(self, policy: TrustPolicy, number: int = 0, user: str = "root") -> object:
        """
        The codes right after the handshake and after the identity, where that is
        reached.
        """
        first = self.key_code(policy, key(number))
        if not first[0]:
            return first
        return self.identity_code(policy, key(number), user)

    def of_nodes(self, *windows: object) -> TrustPolicy:
        policy: TrustPolicy = self.policy(*windows)  # type: ignore[arg-type]
        policy.nodes = self.nodes
        return policy

    def test_accepted(self) -> None:
        """
        The key of an accepted node is trusted, from anywhere and under any valid name,
        without a window; nothing is stored, and the node is named.
        """
        policy = self.of_nodes()
        self.assertEqual((False, "unknown_key"), self.both(policy))
        self.nodes.put([node(ONE, Standing.ACCEPTED)])
        for user in ("root", "alice", ""):
            self.assertEqual((True, "accepted_node"), self.both(policy, user=user))
        decision = self.result(policy.check_identity(key(), "root", HERE))
        self.assertEqual((ONE, False), (decision.node, decision.first_use))
        self.assertIn(ONE, decision.text)
        self.assertEqual((False, "bad_user"), self.both(policy, user="../x"))
        self.assertFalse(self.store.known(key()).names)

    def test_refused_and_blocked(self) -> None:
        """
        Theirs are refused in an open window, with a digest that was named, and stored.
        """
        policy = self.of_nodes(window())
        self.pins.add(key().md5)
        self.store.add("root", key())
        self.nodes.withdraw([withdrawn(1, ONE, what="refused")])
        for standing in (Standing.REFUSED, Standing.BLOCKED):
            self.nodes.put([node(ONE, standing, None)])
            self.assertEqual((False, "node_refused"), self.both(policy))
            decision = self.result(policy.check_identity(key(), "root", HERE))
            self.assertEqual((False, "node_refused"), (bool(decision), decision.code))
            self.assertIn("nodecomm nodes", decision.text)

    def test_former(self) -> None:
        """
        A key that was taken from a node does not come back through a window or a digest
        that was named; it does when an operator stores it.
        """
        policy = self.of_nodes(window())
        self.pins.add(key().md5)
        self.nodes.withdraw([withdrawn(1, ONE)])
        self.assertEqual((False, "node_withdrawn"), self.both(policy))
        decision = self.result(policy.check_identity(key(), "root", HERE))
        self.assertEqual("node_withdrawn", decision.code)
        self.assertIn("accept the node after its next inventory", decision.text)
        self.assertFalse(self.store.known(key()).names)
        self.store.add("root", key())
        self.assertEqual((True, "stored"), self.both(policy))
        self.nodes.leaves(key())
        self.assertEqual((False, "node_refused"), self.both(policy))

    def test_a_refused_key_with_another_id(self) -> None:
        """
        Whoever was refused does not come back by sending an inventory: not of another
        id, and through no window as long as nobody has accepted him.
        """
        policy = self.of_nodes(window())
        self.pins.add(key().md5)
        self.nodes.withdraw([withdrawn(1, ONE, what="refused")])
        self.nodes.put([node(ONE, Standing.REFUSED, None), node(TWO, Standing.PENDING)])
        self.assertEqual((False, "node_refused"), self.both(policy))
        for pending in (ONE, TWO):
            self.nodes.put([node(ONE, Standing.FORMER, None)])
            self.nodes.put([node(TWO, Standing.FORMER, None)])
            self.nodes.put([node(pending, Standing.PENDING)])
            self.assertEqual((False, "node_withdrawn"), self.both(policy))
            decision = self.result(policy.check_identity(key(), "root", HERE))
            self.assertIn(f"nodecomm nodes accept {pending}", decision.text)
            self.assertFalse(self.store.known(key()).names)
        self.nodes.put([node(TWO, Standing.ACCEPTED)])
        self.assertEqual((True, "accepted_node"), self.both(policy))

    def test_pending_and_elsewhere(self) -> None:
        """
        They are treated as anybody; who is refused is told about.
        """
        for standing, words in (
            (Standing.PENDING, f"nodecomm nodes accept {ONE}"),
            (Standing.ELSEWHERE, "served by relay-7"),
        ):
            self.nodes.put([node(ONE, standing, 0, "relay-7")])
            self.assertEqual((True, "first_use"), self.both(self.of_nodes(window())))
            self.store.remove(key().md5)
            policy = self.of_nodes()
            self.assertEqual((False, "unknown_key"), self.both(policy))
            self.assertIn(words, self.result(policy.check_key(key(), HERE)).text)

    def test_database_away(self) -> None:
        """
        While nobody knows the nodes, stored keys are trusted, the last refusals hold,
        nobody is trusted by acceptance and nobody on first use.
        """
        policy = self.of_nodes(window())
        self.nodes.put(
            [node(ONE, Standing.ACCEPTED), node(TWO, Standing.BLOCKED, None)]
        )
        self.nodes.withdraw([withdrawn(1, TWO, 1)])
        self.store.add("root", key(2))
        self.nodes.is_known = False
        self.assertEqual((False, "nodes_unknown"), self.both(policy))
        self.assertEqual((False, "node_refused"), self.both(policy, 1))
        self.assertEqual((True, "stored"), self.both(policy, 2))
        decision = self.result(policy.check_identity(key(3), "root", HERE))
        self.assertEqual("nodes_unknown", decision.code)
        self.assertFalse(self.store.known(key(3)).names)

    def test_decided_meanwhile(self) -> None:
        """
        What is decided while the counter of a window is asked counts, and that nobody
        knows any more what is: nothing is stored.
        """

        def happens(standing: Standing | None) -> None:
            if standing is None:
                self.nodes.is_known = False
            else:
                self.nodes.put([node(ONE, standing, None)])
                self.nodes.withdraw([withdrawn(1, ONE)])

        for standing, code in (
            (Standing.REFUSED, "node_refused"),
            (Standing.FORMER, "node_withdrawn"),
            (None, "nodes_unknown"),
        ):
            asked: Deferred[bool] = Deferred()
            policy = self.of_nodes(window(count=3))
            policy._counter = type("Slow", (), {"take": lambda *_, x=asked: x})()
            deciding = policy.check_identity(key(), "root", HERE)
            happens(standing)
            asked.callback(True)
            self.assertEqual(code, self.result(deciding).code)
            self.assertFalse(self.store.known(key()).names)
            self.nodes.clear()
