# SPDX-License-Identifier: MIT
"""
Registries of nodes: in memory, and in SQLite.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from unittest.mock import patch

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nodecomm.identity.keys import KeyPair
from nodecomm.interfaces import INodeRegistry
from nodecomm.inventory import records
from nodecomm.inventory.arrivals import MAX_MACHINES
from nodecomm.inventory.judgement import Outcome, Rules, Signatures
from nodecomm.inventory.keys import AgentKey
from nodecomm.inventory.lifecycle import (
    Accept,
    Block,
    Decision,
    Delete,
    Lift,
    NotPossible,
    Refuse,
    Register,
    ResetDate,
    SetKey,
    TrustAgain,
)
from nodecomm.inventory.node_sqlite import (
    STEPS,
    SqliteNodes,
    UnknownDatabase,
    database_path,
    open_nodes,
)
from nodecomm.inventory.node_tables import NodeTables
from nodecomm.inventory.nodes import (
    Conflict,
    KeptDocument,
    Machine,
    Node,
    NodeNews,
    OtherNode,
    Status,
)
from nodecomm.inventory.records import Received, Records
from nodecomm.inventory.registry import NodeRegistry
from nodecomm.inventory.signature import sign
from nodecomm.inventory.suspicions import suspicions
from nodecomm.storage.database import (
    DatabaseAway,
    DatabaseClosed,
    DatabaseDamaged,
    connect,
)
from nodecomm.storage.migrations import DatabaseTooNew
from nodecomm.testing import MemoryNodeRegistry
from tests.identity.sample import key, pair
from tests.inventory.documents import (
    DAY,
    NODE,
    OTHER_NODE,
    WRITTEN,
    agent,
    certificate,
    document,
    node_document,
    rudder,
)
from tests.storage.doubles import InlinePool, InlineReactor

T = TypeVar("T")

# The tests of all registries are no case of their own.
if TYPE_CHECKING:
    Case = SynchronousTestCase
else:
    Case = object

MINUTE = timedelta(minutes=1)

COMPAT = Rules(signatures=Signatures.COMPAT)


def raises(error: Exception) -> Callable[[Records], None]:
    """
    Work that fails.
    """

    def work(_: Records) -> None:
        raise error

    return work


def at_once(function: Callable[..., T], /, *args: Any, **kw: Any) -> Deferred[T]:
    """
    Calls in this thread.
    """
    return maybeDeferred(function, *args, **kw)


class RegistryTests(Case):
    """
    What every registry does. `make` makes one.
    """

    def setUp(self) -> None:
        self.now = WRITTEN + MINUTE
        self.registry = self.make()
        self.successResultOf(self.registry.start())

    def make(self, **options: Any) -> NodeRegistry:
        raise NotImplementedError

    def send(
        self,
        data: bytes,
        signer: KeyPair | None = None,
        *,
        signed: bool = True,
        accept_as: str | None = None,
    ) -> Received:
        """
        A document comes, signed by the first key unless another is named.
        """
        signature = sign(data, signer or pair()) if signed else None
        found = self.registry.receive(data, signature, accept_as=accept_as)
        result: Received = self.successResultOf(found)
        return result

    def do(self, decision: Decision) -> Node:
        result: Node = self.successResultOf(self.registry.decide(decision, "alice"))
        return result

    def denied(self, decision: Decision) -> str:
        failure = self.failureResultOf(self.registry.decide(decision, "alice"))
        error = failure.value
        assert isinstance(error, NotPossible)
        return error.code

    def node(self, node_id: str = NODE) -> Node:
        found = self.successResultOf(self.registry.node(node_id))
        assert found is not None
        result: Node = found
        return result

    def generation(self) -> int:
        return int(self.successResultOf(self.registry.generation()))

    def history(self, node_id: str = NODE) -> list[tuple[str, str]]:
        events = self.successResultOf(self.registry.history(node_id))
        return [(event.what, event.by) for event in events]

    def taken(self, received: Received) -> None:
        self.assertIsNone(received.judgement.refusal)
        self.assertIs(Outcome.TAKEN, received.judgement.outcome)

    def refused(self, received: Received, code: str) -> None:
        refusal = received.judgement.refusal
        self.assertEqual(code, refusal and refusal.code)
        self.assertIs(Outcome.REFUSED, received.judgement.outcome)

    def accepted(self, number: int = 0, node_id: str = NODE) -> None:
        """
        A node that is accepted.
        """
        self.taken(
            self.send(node_document(pair(number), node_id=node_id), pair(number))
        )
        self.do(Accept(node_id, duplicate_hostname=True))

    def later(self, minutes: int) -> datetime:
        """
        When the next document is written; the present is then.
        """
        self.now = WRITTEN + minutes * MINUTE
        return self.now

    # The tests.

    def test_provides(self) -> None:
        """
        It is what embedders are promised.
        """
        self.assertTrue(verifyObject(INodeRegistry, self.registry))

    def test_first_document(self) -> None:
        """
        It makes a pending node with the key in it; nothing is open to that.
        """
        data = node_document(pair())
        received = self.send(data)

        self.taken(received)
        self.assertEqual(received.node, self.node())
        node = self.node()
        self.assertIs(Status.PENDING, node.status)
        self.assertEqual(key(), node.key)
        self.assertEqual("node.example.com", node.hostname)
        self.assertEqual(self.now, node.received)
        self.assertEqual([("pending", "inventory")], self.history())
        self.assertEqual(1, self.generation())
        kept = self.successResultOf(self.registry.document(NODE))
        self.assertEqual(KeptDocument.of(data, sign(data, pair())), kept)
        self.assertEqual(data, kept and kept.document)

    def test_ids_in_any_case(self) -> None:
        """
        Upper and lower case are one node, under the id that came first.
        """
        self.send(node_document(pair(), node_id=NODE.upper()))
        self.taken(self.send(node_document(pair(), self.later(2))))
        self.do(Accept(NODE))

        found = self.successResultOf(self.registry.nodes())
        self.assertEqual([NODE.upper()], [node.node_id for node in found.nodes])
        self.assertEqual(
            [("pending", "inventory"), ("accepted", "alice")], self.history()
        )

    def test_unknown(self) -> None:
        """
        There is nothing about a node that is not known.
        """
        self.assertIsNone(self.successResultOf(self.registry.node(NODE)))
        self.assertIsNone(self.successResultOf(self.registry.document(NODE)))
        self.assertEqual([], self.history())
        self.assertEqual("unknown-node", self.denied(Accept(NODE)))

    def test_names_that_no_node_has(self) -> None:
        """
        A name that is no text, as a command line may have it, is nobody's.
        """
        name = os.fsdecode(b"\xff")

        self.assertIsNone(self.successResultOf(self.registry.node(name)))
        self.assertEqual("unknown-node", self.denied(Delete(name)))
        self.assertEqual("bad-node-id", self.denied(Block(name)))
        run = self.registry._store.run
        found = run(lambda records: list(records.with_hostname(name)), write=False)
        self.assertEqual([], self.successResultOf(found))

    def test_refused_first_document(self) -> None:
        """
        What is not believed leaves nothing behind.
        """
        self.refused(self.send(node_document(pair()), signed=False), "no-signature")
        self.refused(self.send(node_document(pair()), pair(1)), "bad-signature")
        self.refused(self.send(b"<REQUEST>"), "not-xml")
        self.now += 3 * DAY
        self.refused(self.send(node_document(pair())), "too-old")

        self.assertEqual((), self.successResultOf(self.registry.nodes()).nodes)

    def test_document_that_has_waited(self) -> None:
        """
        What came in time has not become too old since.
        """
        self.now += 3 * DAY
        data = node_document(pair())
        self.refused(self.send(data), "too-old")
        when = WRITTEN + MINUTE
        found = self.registry.receive(data, sign(data, pair()), when=when)

        self.taken(self.successResultOf(found))
        self.assertEqual(when, self.node().received)

    def test_unreadable_signature(self) -> None:
        """
        A file that is no signature is a refusal of its own.
        """
        found = self.registry.receive(node_document(pair()), b"nonsense")

        self.refused(self.successResultOf(found), "bad-signature-file")

    def test_accepted_node_goes_on(self) -> None:
        """
        A further document changes what is known and not the status; others look again
        only when what is open has changed.
        """
        self.accepted()
        self.assertEqual(2, self.generation())
        self.taken(self.send(node_document(pair(), self.later(2))))

        node = self.node()
        self.assertIs(Status.ACCEPTED, node.status)
        self.assertEqual(WRITTEN + 2 * MINUTE, node.known.last)
        self.assertEqual(2, self.generation())

    def test_repeated(self) -> None:
        """
        The same document again is a success that changes nothing.
        """
        self.accepted()
        before = self.node()
        self.now += MINUTE
        received = self.send(node_document(pair()))

        self.assertIs(Outcome.REPEATED, received.judgement.outcome)
        self.assertEqual(before, self.node())

    def test_older_document(self) -> None:
        """
        An older one that comes later is refused and replaces nothing.
        """
        newer = node_document(pair(), WRITTEN + MINUTE)
        self.send(newer)
        self.refused(self.send(node_document(pair())), "replay")

        kept = self.successResultOf(self.registry.document(NODE))
        self.assertEqual(newer, kept and kept.document)
        self.do(ResetDate(NODE))
        self.taken(self.send(node_document(pair())))

    def test_last_refusal(self) -> None:
        """
        Why the last document of a known node was refused can be seen, until one is
        taken.
        """
        self.accepted()
        self.refused(
            self.send(node_document(pair(), self.later(2)), pair(1)), "bad-signature"
        )
        rejected = self.node().rejected
        self.assertEqual("bad-signature", rejected and rejected.refusal.code)
        self.assertEqual(self.now, rejected and rejected.when)

        self.taken(self.send(node_document(pair(), self.later(3))))
        self.assertIsNone(self.node().rejected)

    def test_hostname_and_server_change(self) -> None:
        """
        They are told in the history, and others look again.
        """
        self.accepted()
        own = agent(certificate=certificate(pair()), server="other")
        section = rudder(own, hostname="new.example.com")
        self.taken(self.send(document(section, written=self.later(2))))

        self.assertEqual(
            [("hostname", "inventory"), ("policy-server", "inventory")],
            self.history()[2:],
        )
        self.assertEqual(3, self.generation())

    def test_key_change(self) -> None:
        """
        A key that the former one has let in is that of the node; the former one is not.
        """
        self.accepted()
        self.taken(self.send(node_document(pair(1), self.later(2)), pair()))
        node = self.node()
        self.assertEqual(key(1), node.key)
        self.assertEqual((key(),), node.known.refused_keys)
        self.assertEqual(("key", "inventory"), self.history()[-1])
        events = self.successResultOf(self.registry.history(NODE))
        self.assertIn(f"from {key().md5} to {key(1).md5}", events[-1].text)
        self.assertEqual(3, self.generation())

        self.refused(self.send(node_document(pair(), self.later(3))), "former-key")

    def test_log(self) -> None:
        """
        What changes a node is logged, with both keys where it is the key.
        """
        told: list[dict[str, Any]] = []
        observer = cast(ILogObserver, told.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.accepted()
        self.send(node_document(pair(1), self.later(2)), pair())
        changes = [x for x in told if x.get("event") == "node.changed"]

        self.assertEqual(
            [
                ("pending", "inventory", LogLevel.info),
                ("accepted", "alice", LogLevel.info),
                ("key", "inventory", LogLevel.warn),
            ],
            [(x["what"], x["by"], x["log_level"]) for x in changes],
        )
        self.assertEqual({NODE}, {x["node"] for x in changes})
        self.assertIn(f"from {key().md5} to {key(1).md5}", changes[2]["text"])

    def test_change_to_the_key_of_another(self) -> None:
        """
        An accepted node does not come to a key that another accepted one has.
        """
        self.accepted()
        self.accepted(1, OTHER_NODE)
        received = self.send(node_document(pair(1), self.later(2)), pair())

        self.refused(received, "key-in-use")
        self.assertEqual(key(), self.node().key)
        rejected = self.node().rejected
        self.assertEqual("key-in-use", rejected and rejected.refusal.code)

    def test_change_to_the_key_of_a_blocked_node(self) -> None:
        """
        Nor to one that is refused because a node is blocked, whoever has both keys.
        """
        self.accepted()
        self.accepted(1, OTHER_NODE)
        self.do(Block(OTHER_NODE))
        change = node_document(pair(1), self.later(2))
        self.refused(self.send(change, pair()), "key-in-use")
        self.assertEqual(key(), self.node().key)
        self.do(TrustAgain(NODE))
        own = node_document(pair(1), self.later(3))
        self.refused(self.send(own, pair(1)), "key-in-use")
        self.do(Lift(OTHER_NODE))
        self.taken(self.send(own, pair(1)))

    def test_accepted_node_that_is_trusted_again(self) -> None:
        """
        The next document decides, but not for a key that another accepted node has.
        """
        self.accepted()
        self.accepted(1, OTHER_NODE)
        self.do(TrustAgain(NODE))
        self.refused(
            self.send(node_document(pair(1), self.later(2)), pair(1)), "key-in-use"
        )
        self.taken(self.send(node_document(pair(2), self.later(3)), pair(2)))

        self.assertEqual(key(2), self.node().key)
        self.assertIs(Status.ACCEPTED, self.node().status)

    def test_once_signed(self) -> None:
        """
        Where unsigned documents are taken, none is from a node that has signed, though
        it was deleted and came again.
        """
        self.registry = self.make(rules=COMPAT)
        self.successResultOf(self.registry.start())
        data = node_document(pair(), node_id=OTHER_NODE)
        self.taken(self.send(data, signed=False))
        self.accepted()
        for step, decision in enumerate([None, TrustAgain(NODE), Delete(NODE)]):
            if decision is not None:
                self.do(decision)
            data = node_document(pair(), self.later(2 + step))
            self.refused(self.send(data, signed=False), "no-signature")

    def test_clone_with_another_key(self) -> None:
        """
        Another machine with the id changes nothing and is told: in the history once,
        however often it comes, until an operator has given the key.
        """
        self.accepted()
        for step in (2, 3):
            other = node_document(pair(1), self.later(step))
            self.refused(self.send(other, pair(1)), "id-conflict")
        self.assertEqual(key(), self.node().key)
        conflict = Conflict(self.now, key(1).md5, "node.example.com")
        self.assertEqual(conflict, self.node().conflict)
        self.assertEqual(1, self.history().count(("conflict", "inventory")))
        self.assertEqual(["id-conflict"], [x.code for x in suspicions([self.node()])])

        self.taken(self.send(node_document(pair(), self.later(4))))
        self.assertIsNotNone(self.node().conflict)
        self.do(SetKey(NODE, AgentKey(key(1))))
        self.assertEqual((), suspicions([self.node()]))
        self.taken(self.send(node_document(pair(1), self.later(5)), pair(1)))
        late = node_document(pair(), self.later(5))
        self.refused(self.send(late), "former-key")
        self.assertEqual((), suspicions([self.node()]))
        self.refused(self.send(node_document(pair(), self.later(6))), "former-key")
        self.assertEqual(["former-key"], [x.code for x in suspicions([self.node()])])
        self.assertEqual(2, self.history().count(("conflict", "inventory")))

    def test_the_other_key_was_its_own(self) -> None:
        """
        What was doubtful about a key is not when the node has changed to it with the
        word of the key that is known.
        """
        self.accepted()
        early = node_document(pair(1), self.later(2))
        self.refused(self.send(early, pair(1)), "id-conflict")
        self.assertEqual(["id-conflict"], [x.code for x in suspicions([self.node()])])
        self.taken(self.send(node_document(pair(1), self.later(3)), pair()))
        self.assertEqual((), suspicions([self.node()]))

    def test_clone_with_the_same_key(self) -> None:
        """
        Two machines that send in turn are told; one that was installed anew is not.
        """
        self.accepted()

        def send(device: str, minutes: int) -> None:
            own = rudder(agent(certificate=certificate(pair())))
            data = document(own, written=self.later(minutes), device_id=device)
            self.taken(self.send(data))

        send("reinstalled", 2)
        self.assertEqual((), suspicions([self.node()]))
        send("reinstalled", 3)
        self.assertEqual((), suspicions([self.node()]))
        send("node-2024-03-21-16-07-29", 4)
        send("reinstalled", 5)
        self.assertEqual(["alternating"], [x.code for x in suspicions([self.node()])])
        self.assertEqual(1, self.history().count(("alternating", "inventory")))
        last = self.node().machines[-1]
        self.assertEqual(Machine("reinstalled", None, "node.example.com"), last)

        # One of them has another key now, and the other nothing to say.
        self.taken(self.send(node_document(pair(1), self.later(6))))
        self.assertEqual((), suspicions([self.node()]))
        self.assertEqual(1, len(self.node().machines))

    def test_removed_and_installed_anew(self) -> None:
        """
        The machines of before a node's removal do not count when it comes again.
        """
        self.accepted()
        self.do(Delete(NODE))
        for minutes, device in ((2, "reinstalled"), (3, "node-2024-03-21-16-07-29")):
            own = rudder(agent(certificate=certificate(pair())))
            data = document(own, written=self.later(minutes), device_id=device)
            self.taken(self.send(data))
        self.assertEqual((), suspicions([self.node()]))

    def test_copies_with_one_key(self) -> None:
        """
        Two ids with one key are two pending nodes, of which one can be accepted.
        """
        self.send(node_document(pair()))
        self.send(node_document(pair(), node_id=OTHER_NODE))
        found = self.successResultOf(self.registry.nodes(Status.PENDING)).nodes
        codes = [x.code for x in suspicions(found)]
        self.assertEqual(["duplicate-key", "duplicate-hostname"], codes)

        self.do(Accept(NODE))
        self.assertEqual("key-in-use", self.denied(Accept(OTHER_NODE)))
        self.do(Delete(NODE))
        self.do(Accept(OTHER_NODE))

    def test_refused_and_deleted_nodes_come_again(self) -> None:
        """
        With another key too, for they may have been installed anew; with an old
        document they do not.
        """
        self.send(node_document(pair()))
        self.do(Refuse(NODE))
        received = self.send(node_document(pair()))
        self.assertIs(Outcome.REPEATED, received.judgement.outcome)
        self.assertIs(Status.REFUSED, self.node().status)
        self.refused(self.send(node_document(pair(), WRITTEN - MINUTE)), "replay")

        self.taken(self.send(node_document(pair(1), self.later(2)), pair(1)))
        self.assertIs(Status.PENDING, self.node().status)
        self.do(Accept(NODE, key(1).md5))
        self.do(Delete(NODE))
        self.assertEqual(5, self.generation())
        self.taken(self.send(node_document(pair(), self.later(3))))
        self.assertEqual(
            ["pending", "refused", "pending", "accepted", "deleted", "pending"],
            [what for what, _ in self.history()],
        )

    def test_blocked(self) -> None:
        """
        Nothing is taken from a blocked node, not even one that was blocked before it
        came; when that is lifted it begins anew.
        """
        self.do(Block(OTHER_NODE))
        self.refused(self.send(node_document(pair(), node_id=OTHER_NODE)), "blocked")
        self.accepted()
        self.do(Block(NODE))
        self.refused(self.send(node_document(pair(), self.later(2))), "blocked")
        self.assertEqual(4, self.generation())

        self.do(Lift(NODE))
        self.taken(self.send(node_document(pair(1), self.later(3)), pair(1)))
        self.assertIs(Status.PENDING, self.node().status)

    def test_key_of_a_blocked_node(self) -> None:
        """
        It is refused wherever it comes from, so no other node is accepted with it, or
        comes to it, until that is lifted.
        """
        self.accepted()
        self.send(node_document(pair(), node_id=OTHER_NODE))
        self.do(Block(NODE))
        self.assertEqual("key-in-use", self.denied(Accept(OTHER_NODE)))
        register = Register("third", AgentKey(key()))
        self.assertEqual("key-in-use", self.denied(register))
        self.do(Lift(NODE))
        self.do(Accept(OTHER_NODE))

    def test_registered(self) -> None:
        """
        A node that was accepted before it came needs the key that it was registered
        with, from its first document on.
        """
        self.do(Register(NODE, AgentKey(key(1))))
        self.assertEqual(1, self.generation())
        self.refused(self.send(node_document(pair())), "id-conflict")
        self.taken(self.send(node_document(pair(1), self.later(2)), pair(1)))

        self.assertIs(Status.ACCEPTED, self.node().status)
        self.assertEqual("node.example.com", self.node().hostname)

    def test_accepted_at_once(self) -> None:
        """
        Where that is wanted a new node is accepted as it comes; where it cannot be it
        waits, and why is told.
        """
        self.send(node_document(pair()), accept_as="auto_accept")
        received = self.send(
            node_document(pair(), node_id=OTHER_NODE), accept_as="auto_accept"
        )

        self.assertIs(Status.ACCEPTED, self.node().status)
        self.assertEqual(("accepted", "auto_accept"), self.history()[-1])
        self.taken(received)
        error = received.not_accepted
        self.assertEqual("key-in-use", error and error.code)
        self.assertIs(Status.PENDING, self.node(OTHER_NODE).status)

    def test_too_many_pending(self) -> None:
        """
        No more than so many wait; those that do can send again.
        """
        self.registry = self.make(max_pending=1)
        self.successResultOf(self.registry.start())
        self.send(node_document(pair()))
        other = node_document(pair(1), node_id=OTHER_NODE)

        self.refused(self.send(other, pair(1)), "too-many-pending")
        self.taken(self.send(node_document(pair(), self.later(2))))
        self.do(Accept(NODE))
        self.taken(self.send(other, pair(1)))
        # One that was removed and comes again needs a place like any other.
        self.do(Delete(NODE))
        back = node_document(pair(), self.later(3))
        self.refused(self.send(back), "too-many-pending")
        self.do(Delete(OTHER_NODE))
        self.taken(self.send(back))

    def test_by_status(self) -> None:
        """
        Nodes are listed in the order of their ids, all or some.
        """
        self.accepted()
        self.send(node_document(pair(1), node_id=OTHER_NODE), pair(1))
        all_of_them = self.successResultOf(self.registry.nodes())
        some = self.successResultOf(
            self.registry.nodes(Status.ACCEPTED, Status.BLOCKED)
        )

        self.assertEqual([OTHER_NODE, NODE], [x.node_id for x in all_of_them.nodes])
        self.assertEqual([NODE], [x.node_id for x in some.nodes])
        self.assertEqual(3, some.generation)

    def news(self, generation: int = -1, number: int = 0) -> NodeNews:
        found = self.registry.news(generation, number)
        result: NodeNews = self.successResultOf(found)
        return result

    def test_news(self) -> None:
        """
        Whoever was there before hears of the nodes that have changed since, and no
        others; whoever comes anew, or has seen another database, hears of all.
        """
        self.accepted()
        self.send(node_document(pair(1), node_id=OTHER_NODE), pair(1))
        both = self.news()
        self.assertTrue(both.whole)
        self.assertEqual([self.node()], list(both.accepted))
        pending = OtherNode(OTHER_NODE, Status.PENDING, key(1).sha)
        self.assertEqual((pending,), both.others)
        self.assertEqual(both, self.news(both.generation + 1))
        self.assertEqual(both, self.news(both.generation, 1))

        later = self.news(both.generation - 1)
        self.assertFalse(later.whole)
        self.assertEqual(((), (pending,)), (later.accepted, later.others))
        deleted = self.now
        self.do(Delete(NODE))
        self.send(node_document(pair(1), self.later(2), node_id=OTHER_NODE), pair(1))
        gone = self.news(both.generation)
        self.assertEqual((OtherNode(NODE, Status.DELETED, None),), gone.others)
        self.assertEqual((), gone.accepted)
        self.assertEqual(1, gone.number)
        (taken,) = gone.withdrawn
        self.assertEqual(
            (NODE, key(), "deleted"), (taken.node_id, taken.key, taken.what)
        )
        self.assertEqual(deleted, taken.when)
        self.assertEqual((), self.news(gone.generation, 1).withdrawn)

    def withdrawn(self) -> list[tuple[str, str]]:
        return [(x.key.md5, x.what) for x in self.news().withdrawn]

    def test_withdrawn_keys(self) -> None:
        """
        Each decision, and each document, that takes a key from a node or refuses it is
        noted with the key; none that leaves it.
        """
        one, two = key().md5, key(1).md5
        self.accepted()
        self.do(ResetDate(NODE))
        self.assertEqual([], self.withdrawn())
        self.taken(self.send(node_document(pair(1), self.later(2)), pair()))
        self.assertEqual([(one, "key")], self.withdrawn())
        self.do(TrustAgain(NODE))
        self.assertEqual([(one, "key"), (two, "trust-again")], self.withdrawn())
        self.do(SetKey(NODE, AgentKey(key())))
        self.do(SetKey(NODE, AgentKey(key(1))))
        # Each once, in the order of the last time.
        self.assertEqual([(two, "trust-again"), (one, "key")], self.withdrawn())
        self.do(Block(NODE))
        self.assertEqual([(one, "key"), (two, "blocked")], self.withdrawn())
        self.do(Lift(NODE))
        self.assertEqual([(one, "key"), (two, "blocked")], self.withdrawn())
        self.send(node_document(pair(2), node_id=OTHER_NODE), pair(2))
        self.do(Refuse(OTHER_NODE))
        self.assertEqual((key(2).md5, "refused"), self.withdrawn()[-1])
        self.assertEqual([3, 4, 5], [x.number for x in self.news().withdrawn])

    def test_withdrawn_keys_are_bounded(self) -> None:
        """
        Of one node the last ones are kept.
        """
        self.accepted()
        with patch.object(records, "MAX_WITHDRAWN", 2):
            for number in (1, 2, 3):
                self.do(SetKey(NODE, AgentKey(key(number))))
        self.assertEqual([(key(1).md5, "key"), (key(2).md5, "key")], self.withdrawn())

    def test_a_key_that_was_only_named(self) -> None:
        """
        What is decided about a node that has not signed says nothing about the key that
        it names, which may be somebody else's; unless it was accepted with it.
        """
        self.registry = self.make(rules=COMPAT)
        self.successResultOf(self.registry.start())
        self.send(node_document(pair()), signed=False)
        self.do(Refuse(NODE))
        self.assertEqual([], self.withdrawn())
        self.send(node_document(pair(), self.later(2)), signed=False)
        self.do(Accept(NODE))
        self.do(Delete(NODE))
        self.assertEqual([(key().md5, "deleted")], self.withdrawn())

    def test_removed_long_ago(self) -> None:
        """
        After a while nothing is left of the history of deleted and refused nodes, and
        of their documents; of blocked and live ones it stays. That they have signed,
        and when, is known for ever.
        """
        made: tuple[list[Decision], ...] = (
            [Accept("a0", duplicate_hostname=True), Delete("A0")],
            [Refuse("a1")],
            [Block("a2")],
            [Accept("a3", duplicate_hostname=True)],
        )
        for number, decisions in enumerate(made):
            data = node_document(pair(number), node_id=f"a{number}")
            self.taken(self.send(data, pair(number)))
            for decision in decisions:
                self.do(decision)
        before, self.now = self.now, self.now + DAY
        later = node_document(pair(), self.now, node_id="b")
        self.taken(self.send(later, pair()))
        self.do(Refuse("b"))
        known = self.successResultOf(self.registry.news(-1, 0))

        def purge(moment: datetime) -> list[str]:
            gone: Any = self.successResultOf(self.registry.purge(moment))
            return sorted(gone)

        self.assertEqual([], purge(before))
        self.assertEqual(["a0", "a1"], purge(before + MINUTE))
        self.assertEqual([], purge(before + MINUTE))
        self.assertEqual(known, self.successResultOf(self.registry.news(-1, 0)))
        for name, kept in (("a0", 0), ("a1", 0), ("a2", 1), ("a3", 1), ("b", 1)):
            document = self.successResultOf(self.registry.document(name))
            self.assertEqual(bool(kept), bool(self.history(name)), name)
            self.assertEqual(bool(kept), document is not None, name)
        self.assertTrue(self.node("a0").known.signed)
        older = node_document(pair(), WRITTEN - MINUTE, node_id="a0")
        self.refused(self.send(older, pair()), "replay")
        newer = node_document(pair(), self.now, node_id="a0")
        self.taken(self.send(newer, pair()))
        self.assertEqual([("pending", "inventory")], self.history("a0"))

    def test_many_removed_long_ago(self) -> None:
        """
        They are forgotten in parts, all of them.
        """
        with patch.object(records, "PURGE_AT_ONCE", 2):
            for number in range(5):
                self.do(Register(f"n{number}", AgentKey(key(number + 1))))
                self.do(Delete(f"n{number}"))
            gone: Any = self.registry.purge(self.now + MINUTE)
            self.assertEqual(5, len(self.successResultOf(gone)))

    def test_failure_undoes(self) -> None:
        """
        A decision that fails on its way leaves everything as it was.
        """
        self.send(node_document(pair()))
        before = self.node()
        with patch.object(records, "MAX_EVENTS", None):
            done = self.registry.decide(Accept(NODE), "alice")

        self.failureResultOf(done, TypeError)
        self.assertEqual(before, self.node())
        self.assertEqual(1, self.generation())
        self.do(Accept(NODE))

    def test_bounded_history(self) -> None:
        """
        The oldest events go when there are too many.
        """
        self.send(node_document(pair()))
        with patch.object(records, "MAX_EVENTS", 3):
            for number in (1, 2, 3, 4):
                self.do(SetKey(NODE, AgentKey(key(number))))

        events = self.successResultOf(self.registry.history(NODE))
        self.assertEqual(3, len(events))
        self.assertIn(key(4).md5, events[-1].text)

    def test_stopped(self) -> None:
        """
        A registry that is not running fails, and forgets nothing it has.
        """
        self.send(node_document(pair()))
        self.successResultOf(self.registry.stop())

        self.failureResultOf(self.registry.node(NODE), DatabaseClosed)
        self.successResultOf(self.registry.start())
        self.assertEqual(key(), self.node().key)


class MemoryRegistryTests(RegistryTests, SynchronousTestCase):
    """
    The one in memory.
    """

    def make(self, **options: Any) -> NodeRegistry:
        return MemoryNodeRegistry(lambda: self.now, **options)

    def test_machines_are_bounded(self) -> None:
        """
        Of a node whose machine calls itself otherwise each time the last are kept.
        """
        own = rudder(agent(certificate=certificate(pair())))
        for minutes in range(MAX_MACHINES + 2):
            data = document(
                own, written=self.later(minutes), device_id=f"device-{minutes}"
            )
            self.taken(self.send(data))

        kept = [machine.device_id for machine in self.node().machines]
        self.assertEqual(MAX_MACHINES, len(kept))
        self.assertEqual(f"device-{MAX_MACHINES + 1}", kept[-1])


class SqliteRegistryTests(RegistryTests, SynchronousTestCase):
    """
    The one in SQLite.
    """

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        super().setUp()

    def make(self, **options: Any) -> NodeRegistry:
        path = self.folder / "nodes.sqlite"
        store = SqliteNodes(path, InlineReactor(), make_pool=InlinePool)
        self.addCleanup(store.stop)
        return NodeRegistry(store, at_once, now=lambda: self.now, **options)

    def test_other_processes(self) -> None:
        """
        What one process decides another one sees, with a generation that has grown.
        """
        other = self.make()
        self.successResultOf(other.start())
        self.accepted()
        found = self.successResultOf(other.nodes(Status.ACCEPTED))

        self.assertEqual(self.successResultOf(self.registry.nodes()), found)
        self.assertEqual(2, found.generation)

    def test_everything_is_kept(self) -> None:
        """
        A node is read as it was written, whatever there is of it.
        """
        self.accepted()
        own = rudder(agent(certificate=certificate(pair())))
        for minutes, device in ((2, "a"), (3, "node-2024-03-21-16-07-29"), (4, "a")):
            data = document(own, written=self.later(minutes), device_id=device)
            received = self.send(data)
        self.assertEqual(received.node, self.node())
        self.assertIsNotNone(self.node().alternation)
        received = self.send(node_document(pair(1), self.later(5)), pair(1))
        self.assertEqual(received.node, self.node())
        self.assertIsNotNone(self.node().conflict)
        received = self.send(node_document(pair(1), self.later(6)), pair())
        self.assertEqual(received.node, self.node())
        self.assertEqual((key(),), self.node().known.refused_keys)

    def test_blocking(self) -> None:
        """
        A program without a reactor works on the same file.
        """
        self.send(node_document(pair()))
        path = self.folder / "nodes.sqlite"
        with open_nodes(path) as nodes:
            found = nodes(lambda x: x.node(NODE), False)

            def fail(kept: Records) -> None:
                kept.save(evolve(found, since=WRITTEN))
                raise ZeroDivisionError

            with self.assertRaises(ZeroDivisionError):
                nodes(fail, True)
            self.assertEqual(found, nodes(lambda x: x.node(NODE), False))

        self.assertEqual(self.node(), found)
        self.assertEqual(0o600, path.stat().st_mode & 0o777)

    def test_reading_does_not_write(self) -> None:
        """
        What only reads changes nothing, though it tries.
        """
        self.accepted()
        with open_nodes(self.folder / "nodes.sqlite") as nodes:
            nodes(lambda x: x.advance(NODE), False)

        self.assertEqual(2, self.generation())

    def test_what_sqlite_has_ended_by_itself(self) -> None:
        """
        It is told why, and not that there is nothing left to end.
        """
        self.accepted()
        why = "disk I/O error"

        def work(kept: Any) -> None:
            kept._execute("ROLLBACK", {})
            raise sqlite3.OperationalError(why)

        for write in (False, True):
            found = self.registry._store.run(work, write=write)
            self.assertIn(why, str(self.failureResultOf(found, DatabaseAway).value))
        self.assertEqual(key(), self.node().key)

    def test_changes_are_found_by_their_index(self) -> None:
        """
        Who follows the nodes reads those that have changed, not all of them.
        """
        with closing(connect(self.folder / "plan.sqlite", 1.0, STEPS)) as connection:
            plans = []

            def explain(sql: str, parameters: Mapping[str, Any]) -> list[Any]:
                plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
                plans.append(" ".join(str(row[-1]) for row in plan))
                return []

            NodeTables(explain).changed_since(5)

        self.assertEqual(2, len(plans))
        for plan in plans:
            self.assertRegex(plan, r"^SEARCH .* nodes_by_change \(changed>\?\)$")

    def test_what_the_disk_does_not_do(self) -> None:
        """
        What SQLite cannot do now is tried again later; a mistake is one.
        """
        for error, kind, text in (
            (sqlite3.OperationalError("disk is full"), DatabaseAway, "disk is full"),
            (sqlite3.OperationalError("database is locked"), DatabaseAway, "another"),
            (sqlite3.DatabaseError("file is not a database"), DatabaseDamaged, "copy"),
            (
                sqlite3.OperationalError("Could not decode to UTF-8 column 'x' '{raw"),
                DatabaseDamaged,
                "Could not decode to UTF-8): ",
            ),
            (sqlite3.IntegrityError("UNIQUE"), sqlite3.IntegrityError, "UNIQUE"),
        ):
            found = self.registry._store.run(raises(error), write=True)
            said = str(self.failureResultOf(found, kind).value)
            self.assertIn(text, said)
            self.assertNotIn("raw", said)
        self.accepted()

    def test_a_damaged_row_is_told(self) -> None:
        """
        A row that makes no sense is the database's fault, and names its node.
        """
        self.accepted()
        for wrong in ('{"key": 0', '{"key": 5}', "[]", '{"facts": {"x": 1}}'):
            with closing(sqlite3.connect(self.folder / "nodes.sqlite")) as connection:
                connection.execute("UPDATE nodes SET record = ?", (wrong,))
                connection.commit()
            error = self.failureResultOf(self.registry.nodes(), DatabaseDamaged)
            self.assertIn(f"node {NODE} is damaged", str(error.value))

    def test_newer_release(self) -> None:
        """
        A file of a newer release is left alone.
        """
        path = self.folder / "new.sqlite"
        with sqlite3.connect(path) as connection:
            connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
        connection.close()
        with self.assertRaises(DatabaseTooNew), open_nodes(path):
            pass


class PathTests(SynchronousTestCase):
    """
    How a configuration names the file.
    """

    def test_files(self) -> None:
        """
        Relative to the state folder, unless it begins with a slash of its own.
        """
        for named, path in [
            ("sqlite:///nodes.sqlite", "/state/nodes.sqlite"),
            ("sqlite:///a/b", "/state/a/b"),
            ("sqlite:////srv/nodes", "/srv/nodes"),
        ]:
            self.assertEqual(Path(path), database_path(named, "/state"))

    def test_anything_else(self) -> None:
        """
        Other names are refused.
        """
        for named in ["", "nodes.sqlite", "sqlite:///", "sqlite://x", "mysql://a/b"]:
            with self.assertRaises(UnknownDatabase):
                database_path(named, "/state")
