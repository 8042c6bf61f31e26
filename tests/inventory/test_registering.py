# SPDX-License-Identifier: MIT
"""
Nodes that a configuration names.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.inventory.keys import AgentKey
from nodecomm.inventory.lifecycle import (
    Block,
    Decision,
    Delete,
    Refuse,
    SetKey,
    TrustAgain,
)
from nodecomm.inventory.nodes import Node, Status
from nodecomm.inventory.registering import REGISTERED, register_named
from nodecomm.inventory.signature import sign
from nodecomm.storage.database import DatabaseClosed
from nodecomm.testing import MemoryNodeRegistry
from tests.identity.sample import key, pair
from tests.inventory.documents import (
    NODE,
    OTHER_NODE,
    WRITTEN,
    certificate,
    node_document,
)


class RegisterTests(SynchronousTestCase):
    """
    What a start does to the nodes of a configuration.
    """

    def setUp(self) -> None:
        self.registry = MemoryNodeRegistry(lambda: WRITTEN + timedelta(minutes=1))
        self.successResultOf(self.registry.start())
        self.told: list[str] = []
        observer = cast(ILogObserver, self.note)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def note(self, event: Any) -> None:
        if event.get("event") == "node.not-registered":
            self.told.append(event["node"])

    def named(self, *named: tuple[str, str]) -> None:
        self.successResultOf(register_named(self.registry, named))

    def name(self, number: int = 0, node_id: str = NODE) -> None:
        self.named((node_id, key(number).to_pem().decode()))

    def decide(self, decision: Decision) -> None:
        self.successResultOf(self.registry.decide(decision, "alice"))

    def node(self, node_id: str = NODE) -> Node | None:
        found: Deferred[Node | None] = self.registry.node(node_id)
        result: Node | None = self.successResultOf(found)
        return result

    def send(self, number: int = 0, node_id: str = NODE) -> None:
        data = node_document(pair(number), node_id=node_id)
        self.successResultOf(self.registry.receive(data, sign(data, pair(number))))

    def test_new(self) -> None:
        """
        A node that is not known is accepted; the next start changes nothing.
        """
        self.name()
        self.name()
        node = self.node()

        self.assertEqual((Status.ACCEPTED, key()), node and (node.status, node.key))
        events = self.successResultOf(self.registry.history(NODE))
        self.assertEqual([REGISTERED], [event.by for event in events])
        self.assertEqual([], self.told)

    def test_certificate(self) -> None:
        """
        A certificate names the node; another node's is told and not taken.
        """
        self.named((NODE, certificate(pair())), (OTHER_NODE, certificate(pair(1))))

        self.assertIsNotNone(self.node())
        self.assertIsNone(self.node(OTHER_NODE))
        self.assertEqual([OTHER_NODE], self.told)

    def test_pending(self) -> None:
        """
        One that waits is accepted if it has this key.
        """
        self.send()
        self.send(2, OTHER_NODE)
        self.name()
        self.name(1, OTHER_NODE)
        node, other = self.node(), self.node(OTHER_NODE)

        self.assertIs(Status.ACCEPTED, node and node.status)
        self.assertEqual((Status.PENDING, key(2)), other and (other.status, other.key))
        self.assertEqual([OTHER_NODE], self.told)

    def test_what_was_decided_since(self) -> None:
        """
        It stands, and is told at each start.
        """
        for decision in (Delete(NODE), Block(NODE)):
            self.name()
            self.decide(decision)
            before = self.node()
            self.told.clear()
            self.name()

            self.assertEqual(before, self.node())
            self.assertEqual([NODE], self.told)

    def test_refused(self) -> None:
        """
        A node that was refused stays so.
        """
        self.send()
        self.decide(Refuse(NODE))
        self.name()
        node = self.node()

        self.assertIs(Status.REFUSED, node and node.status)

    def test_another_key_since(self) -> None:
        """
        A key that the node has come to since is not taken back, and no key is given to
        one whose next inventory decides.
        """
        for decision in (SetKey(NODE, AgentKey(key(1))), TrustAgain(NODE)):
            self.name()
            self.decide(decision)
            before = self.node()
            self.told.clear()
            self.name()

            self.assertEqual(before, self.node())
            self.assertEqual([NODE], self.told)

    def test_mistakes(self) -> None:
        """
        What cannot be registered is told, and the others are.
        """
        good = key(3).to_pem().decode()
        self.named(
            ("bad-key", "nonsense"), ("bad id", good), (NODE, good), ("copy", good)
        )

        self.assertEqual(["bad-key", "bad id", "copy"], self.told)
        self.assertIsNotNone(self.node())

    def test_database_is_away(self) -> None:
        """
        That is a failure, not a mistake of the configuration.
        """
        self.successResultOf(self.registry.stop())
        named = [(NODE, key().to_pem().decode())]

        self.failureResultOf(register_named(self.registry, named), DatabaseClosed)
        self.assertEqual([], self.told)
