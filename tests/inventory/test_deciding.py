# SPDX-License-Identifier: MIT
"""
The registry of nodes decides about what is received.
"""

from __future__ import annotations

from datetime import timedelta

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.access.networks import AddressList
from nodecomm.inventory.deciding import AUTO_ACCEPT, decided_by, taken_by
from nodecomm.inventory.judgement import Judgement, Outcome
from nodecomm.inventory.nodes import Node, Status
from nodecomm.inventory.pairs import Box, Sender
from nodecomm.inventory.receiving import Delivery
from nodecomm.inventory.signature import sign
from nodecomm.testing import MemoryNodeRegistry
from tests.identity.sample import pair
from tests.inventory.documents import NODE, OTHER_NODE, WRITTEN, node_document

DAY = timedelta(days=1)


class DecidingTests(SynchronousTestCase):
    """Deliveries become nodes."""

    def setUp(self) -> None:
        # A long time has passed before there could be a decision.
        self.networks = AddressList(["192.0.2.0/24"])
        self.registry = MemoryNodeRegistry(now=lambda: WRITTEN + 30 * DAY)
        self.successResultOf(self.registry.start())
        self.receive = decided_by(self.registry, lambda: self.networks)

    def deliver(
        self, address: str, *, node_id: str = NODE, late: timedelta = timedelta()
    ) -> Judgement:
        """A node's inventory comes."""
        document = node_document(pair(), node_id=node_id)
        delivery = Delivery(
            document,
            sign(document, pair()),
            "a.ocs",
            WRITTEN + late,
            Sender(Box.FIRST, address),
        )
        return self.successResultOf(self.receive(delivery))

    def node(self, node_id: str = NODE) -> Node:
        """What is known of it."""
        found = self.successResultOf(self.registry.node(node_id))
        assert found is not None
        return found

    def test_a_new_node(self) -> None:
        """A node is pending until an operator decides."""
        judgement = self.deliver("198.51.100.1")

        self.assertIs(judgement.outcome, Outcome.TAKEN)
        self.assertIs(self.node().status, Status.PENDING)

    def test_what_was_taken(self) -> None:
        """Of documents that were believed that is known, by node and content."""
        was_taken = taken_by(self.registry)
        judgement = self.deliver("198.51.100.1")
        refused = self.deliver("198.51.100.1", node_id=OTHER_NODE, late=3 * DAY)

        for node_id, digest, expected in (
            (NODE, judgement.digest, True),
            (NODE.upper(), judgement.digest, True),
            (OTHER_NODE, judgement.digest, False),
            (NODE, "00", False),
            (OTHER_NODE, refused.digest, False),
        ):
            found = self.successResultOf(was_taken(node_id, digest))
            self.assertIs(found, expected)

    def test_the_age_counts_from_the_arrival(self) -> None:
        """What waited for a decision for a month is not too old by that."""
        self.assertIs(self.deliver("198.51.100.1").outcome, Outcome.TAKEN)
        judgement = self.deliver("198.51.100.1", node_id=OTHER_NODE, late=3 * DAY)
        assert judgement.refusal is not None
        self.assertEqual(judgement.refusal.code, "too-old")

    def test_accepted_by_itself(self) -> None:
        """From certain addresses nodes are accepted at once, and by whom is kept."""
        self.deliver("192.0.2.7")

        self.assertIs(self.node().status, Status.ACCEPTED)
        history = self.successResultOf(self.registry.history(NODE))
        self.assertIn(AUTO_ACCEPT, [event.by for event in history])

    def test_the_addresses_of_now(self) -> None:
        """It counts which addresses these are when it is decided."""
        self.networks = AddressList(["198.51.100.1"])
        self.deliver("192.0.2.7")

        self.assertIs(self.node().status, Status.PENDING)

    def test_not_accepted_by_itself(self) -> None:
        """A node with the key of another one is pending, wherever it comes from."""
        self.deliver("192.0.2.7")

        judgement = self.deliver("192.0.2.7", node_id=OTHER_NODE)

        self.assertIs(judgement.outcome, Outcome.TAKEN)
        self.assertIs(self.node(OTHER_NODE).status, Status.PENDING)
