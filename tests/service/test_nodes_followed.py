# SPDX-License-Identifier: MIT
"""
What decisions about nodes mean for the connections of a server that is running.
"""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from typing import Any, cast
from unittest.mock import patch

from twisted.internet.defer import Deferred, fail
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.config.inventory import RegisteredSettings
from nodecomm.config.model import Settings
from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.identity.store import FileKeyStore
from nodecomm.identity.trust import MemoryCounter, TrustPolicy, TrustWindow
from nodecomm.inventory.keys import AgentKey
from nodecomm.inventory.lifecycle import (
    Accept,
    Block,
    Decision,
    Delete,
    Lift,
    Refuse,
    Register,
    SetKey,
    TrustAgain,
)
from nodecomm.inventory.nodes import Status
from nodecomm.inventory.signature import sign
from nodecomm.inventory.watching import LOOK_EVERY
from nodecomm.server.pools import InlinePool
from nodecomm.service.keys_withdrawn import MARK_NAME
from nodecomm.service.nodes_followed import NodesFollowed
from nodecomm.storage.database import DatabaseAway, DatabaseClosed
from nodecomm.testing import MemoryClient, MemoryNodeRegistry, key_pair, memory_server
from nodecomm.testing.server import settings_of, snapshot_of
from nodecomm.wire.commands import encode_get
from nodecomm.wire.framing import encode_transaction
from tests.identity.sample import temporary_folder
from tests.inventory.documents import (
    NODE,
    OTHER_NODE,
    WRITTEN,
    agent,
    certificate,
    document,
    rudder,
)

#: The key of NODE, that of OTHER_NODE, and one that is new.
ONE, TWO, NEW = (key_pair(number) for number in (1, 2, 3))

STALE = 900.0

ADDRESS = "10.0.0.7"


class Away(MemoryNodeRegistry):
    """
    A registry whose database may be away.
    """

    def __init__(self, now: Any) -> None:
        super().__init__(now)
        self.away = False

    def generation(self) -> Deferred[int]:
        if self.away:
            return fail(DatabaseClosed("away"))
        return super().generation()


def holding(waiting: list[Any], later: Deferred[Any]) -> Any:
    """
    A thread that keeps the work it is given; *later* is the result of all of it.
    """

    def run(work: Any) -> Deferred[Any]:
        waiting.append(work)
        return later

    return run


class FollowedCase(SynchronousTestCase):
    """
    A server in memory with nodes, and clients with their keys.
    """

    def setUp(self) -> None:
        self.folder = temporary_folder(self)
        self.share = self.folder / "share"
        for node in (NODE, OTHER_NODE, "public"):
            (self.share / node).mkdir(parents=True)
            (self.share / node / "f").write_bytes(b"x" * 300_000)
            (self.share / node / "f").chmod(0o644)
        self.state = self.folder / "state"
        self.state.mkdir()
        # Later than every file that is stored here meanwhile.
        self.now = datetime.now(timezone.utc) + timedelta(seconds=100)
        self.registry = Away(lambda: self.now)
        self.successResultOf(self.registry.start())
        self.server = memory_server()
        self.store = self.stored()
        self.windows: list[TrustWindow] = []
        self.followed: NodesFollowed | None = None
        self.events: list[Any] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def stored(self) -> FileKeyStore:
        return FileKeyStore(
            self.state / "ppkeys",
            now=lambda: time.time() + 10,
            run=lambda work: InlinePool().run(work),
        )

    def settings(self, **inventory: Any) -> Settings:
        return settings_of(
            {
                "server": {
                    "allowallconnects": ["0.0.0.0/0"],
                    "allowlegacyconnects": ["0.0.0.0/0"],
                },
                "inventory": {"server_id": "here", **inventory},
                "node_files": [{"path": f"{self.share}/{{node_id}}/"}],
                "access": [
                    {"path": f"{self.share}/public", "admit_ips": ["0.0.0.0/0"]}
                ],
            }
        )

    def make(self, **more: Any) -> NodesFollowed:
        """
        What follows the nodes, for a server that was just made.
        """
        factory, settings = self.server.factory, self.settings()
        factory.trust = TrustPolicy(
            self.store, self.windows, ["root"], MemoryCounter(), time.time
        )
        factory.serving.evaluator.snapshot = snapshot_of(settings)
        return NodesFollowed(
            more.pop("settings", settings),
            str(self.state),
            factory,
            cast(Any, InlinePool()),
            reactor=self.server.clock,
            monotonic=self.server.clock.seconds,
            registry=self.registry,
        )

    def start(self, **more: Any) -> None:
        self.followed = self.make(**more)
        self.successResultOf(Deferred.fromCoroutine(self.followed.start()))

    def restart(self) -> None:
        """
        The server ends, and another one begins in the same place.
        """
        self.stop()
        self.store = self.stored()
        self.start()

    def stop(self) -> None:
        assert self.followed is not None
        self.successResultOf(Deferred.fromCoroutine(self.followed.stop()))
        self.successResultOf(self.registry.start())

    def decide(self, *decisions: Decision) -> None:
        """
        Operators decide, and half a second passes.
        """
        for decision in decisions:
            self.successResultOf(self.registry.decide(decision, "alice"))
        self.look()

    def look(self) -> None:
        self.server.clock.advance(LOOK_EVERY)

    def register(self, node_id: str = NODE, pair: KeyPair = ONE) -> None:
        self.decide(Register(node_id, AgentKey(pair.public)))

    def arrives(self, pair: KeyPair, node_id: str = NODE, **more: Any) -> None:
        """
        An inventory of a node, a minute after the last one.
        """
        self.now += timedelta(minutes=1)
        own = agent(certificate=certificate(pair, node_id), **more)
        written = WRITTEN + (self.now - WRITTEN)
        data = document(rudder(own, node_id=node_id), written=written)
        found = self.successResultOf(self.registry.receive(data, sign(data, pair)))
        assert found.judgement.refusal is None, found.judgement
        self.look()

    def connect(self, pair: KeyPair = ONE, user: bytes = b"root") -> MemoryClient:
        return self.server.connect(ADDRESS, key=pair, user=user)

    def is_trusted(self, pair: KeyPair = ONE) -> bool:
        client = self.server.dial(ADDRESS, key=pair)
        assert client is not None
        return client.identify()

    def has(self, client: MemoryClient, node: str = NODE) -> bool | None:
        """
        Whether the client may have what is in the folder of a node; None: nothing was
        said, the connection was closed.
        """
        found = client.stat(f"{self.share}/{node}/f".encode())
        client.pump()
        if found is None and client.closed:
            return None
        return found is not None

    def names(self) -> list[str]:
        """
        What is stored.
        """
        return [entry.name for entry in self.store.entries()]

    def told(self, name: str) -> list[Any]:
        return [event for event in self.events if event.get("event") == name]


class AcceptedTests(FollowedCase):
    """
    What acceptance opens.
    """

    def test_accepted_before(self) -> None:
        """
        Without any window and with nothing stored, an accepted node connects under any
        user name, and has its own files and nobody else's.
        """
        self.register()
        self.register(OTHER_NODE, TWO)
        self.start()
        for user in (b"root", b"backup"):
            client = self.connect(user=user)
            self.assertTrue(self.has(client))
            self.assertFalse(self.has(client, OTHER_NODE))
            self.assertTrue(self.has(client, "public"))
        self.assertTrue(self.has(self.connect(TWO), OTHER_NODE))
        self.assertFalse(self.is_trusted(NEW))
        self.assertEqual([], self.names())

    def test_accepted_later(self) -> None:
        """
        A decision is in force with the next look, for sessions that are open, too.
        """
        self.start()
        self.store.add("root", ONE.public)
        client = self.connect()
        self.assertFalse(self.has(client))
        self.assertFalse(self.is_trusted(TWO))
        self.register()
        self.register(OTHER_NODE, TWO)
        self.assertTrue(self.has(client))
        self.assertTrue(self.is_trusted(TWO))

    def test_classic_protocol(self) -> None:
        """
        The same on the classic protocol.
        """
        self.start()
        self.register()
        client = self.server.connect_classic(ADDRESS, key=ONE)
        name = f"{self.share}/{NODE}/f".encode()
        self.assertIsNotNone(client.stat(name))
        self.decide(Delete(NODE))
        client.pump()
        self.assertTrue(client.closed)

    def test_another_servers(self) -> None:
        """
        A node that another server serves has nothing here from its acceptance, and its
        connections end when it goes there.
        """
        self.start()
        self.register()
        self.arrives(ONE, server="HERE")
        client = self.connect()
        self.assertTrue(self.has(client))
        self.arrives(ONE, server="relay")
        client.pump()
        self.assertTrue(client.closed)
        self.assertFalse(self.is_trusted())
        (refused,) = self.told("trust.refused")
        self.assertIn("served by relay", refused["text"])
        self.store.add("root", ONE.public)
        self.assertFalse(self.has(self.connect()))
        self.arrives(ONE, server="here")
        self.assertTrue(self.has(self.connect()))

    def test_named_in_the_configuration(self) -> None:
        """
        Nodes that the configuration names are there when it has started.
        """
        pem = ONE.public.to_pem().decode()
        settings = self.settings()
        object.__setattr__(
            settings, "registered", (RegisteredSettings(id=NODE, key=pem),)
        )
        self.start(settings=settings)
        self.assertTrue(self.has(self.connect()))

    def named(self, *whom: tuple[str, PublicKey]) -> Settings:
        """
        A configuration that names these nodes.
        """
        settings = self.settings()
        tables = tuple(
            RegisteredSettings(id=node, key=key.to_pem().decode()) for node, key in whom
        )
        object.__setattr__(settings, "registered", tables)
        return settings

    def test_named_meanwhile(self) -> None:
        """
        A reload while nodes are being registered names others: they are next.
        """
        self.start(settings=self.named())
        assert self.followed is not None
        later: Deferred[Any] = Deferred()
        first = (NODE, ONE.public)
        with patch.object(self.registry, "node", lambda _: later):
            self.followed.apply(self.named(first))
        self.followed.apply(self.named(first, (OTHER_NODE, TWO.public)))
        later.callback(None)
        self.look()
        self.assertTrue(self.is_trusted(ONE))
        self.assertTrue(self.is_trusted(TWO))

    def test_named_in_another_configuration(self) -> None:
        """
        A reload registers whom it names first, also while others are tried again; who
        is not named any more is not registered; what was decided since then stands.
        """
        named = self.named
        self.start(settings=named())
        assert self.followed is not None
        self.followed.apply(named((NODE, ONE.public)))
        self.server.clock.pump([1.0] * 2)
        self.assertTrue(self.has(self.connect()))

        self.decide(Delete(NODE))
        self.followed.apply(named((NODE, ONE.public)))
        self.server.clock.pump([1.0] * 2)
        self.assertFalse(self.is_trusted())
        self.assertEqual([], self.told("node.not-registered"))

        with patch.object(self.registry, "node", lambda _: fail(DatabaseAway("away"))):
            self.followed.apply(named((OTHER_NODE, TWO.public), ("gone", ONE.public)))
        self.assertEqual(1, len(self.told("nodes.not-registered")))
        self.followed.apply(named((OTHER_NODE, TWO.public)))
        self.server.clock.pump([1.0] * 2)
        nodes = self.successResultOf(self.registry.nodes(Status.ACCEPTED)).nodes
        self.assertEqual([OTHER_NODE], [node.node_id for node in nodes])

    def test_named_while_the_database_fails(self) -> None:
        """
        A node that the configuration names and that could not be registered is tried
        again, and no more when that is done or the server has ended.
        """
        pem = ONE.public.to_pem().decode()
        settings = self.settings()
        object.__setattr__(
            settings, "registered", (RegisteredSettings(id=NODE, key=pem),)
        )
        asked = []

        def away(node_id: str) -> Deferred[Any]:
            asked.append(node_id)
            return fail(DatabaseAway("away"))

        with patch.object(self.registry, "node", away):
            self.start(settings=settings)
            self.assertEqual([NODE], asked)
            self.server.clock.pump([1.0] * 59)
            self.assertEqual([NODE] * 2, asked)
        self.assertEqual(2, len(self.told("nodes.not-registered")))
        self.server.clock.pump([1.0] * 2)
        self.assertTrue(self.has(self.connect()))
        with patch.object(self.registry, "node", away):
            self.server.clock.pump([1.0] * 99)
            self.assertEqual(2, len(asked))
            self.stop()
            self.start(settings=settings)
            self.stop()
            self.server.clock.pump([1.0] * 99)
        self.assertEqual(3, len(asked))

    def test_reload(self) -> None:
        """
        Rules of a configuration that is loaded anew are in force with the same nodes.
        """
        self.start()
        self.register()
        client = self.connect()
        assert self.followed is not None
        snapshot = snapshot_of(self.settings(), 5)
        evaluator = self.server.factory.serving.evaluator
        evaluator.snapshot = self.followed.in_force(snapshot)
        self.assertEqual(5, evaluator.snapshot.generation)
        self.assertTrue(self.has(client))

    def test_many_at_once(self) -> None:
        """
        Many nodes are looked at somewhere else, and are in force when that is done.
        """
        for number in range(60):
            self.arrives(NEW if number else ONE, f"node-{number}", server="here")
        self.decide(Accept("node-0"))
        self.start()
        assert self.followed is not None
        self.stop()
        self.followed = self.make()
        later: Deferred[Any] = Deferred()
        waiting: list[Any] = []
        self.followed._in_thread = holding(waiting, later)
        started = Deferred.fromCoroutine(self.followed.start())
        self.assertNoResult(started)
        self.assertFalse(self.is_trusted())
        later.callback(waiting[0]())
        self.successResultOf(started)
        self.assertTrue(self.is_trusted())


class RemovedTests(FollowedCase):
    """
    What refusal, deletion and the like take away.
    """

    def setUp(self) -> None:
        super().setUp()
        self.windows = [TrustWindow(lambda address: True, "everybody")]
        self.start()

    def assert_gone(self, client: MemoryClient, code: str) -> None:
        """
        The connection was closed without a refusal, nothing is stored, and nobody comes
        with the key again, though a window is open.
        """
        client.pump()
        self.assertTrue(client.closed)
        self.assertEqual([], client.transactions())
        self.assertEqual([], self.names())
        self.events.clear()
        self.assertFalse(self.is_trusted())
        self.assertEqual([code], [x["code"] for x in self.told("trust.refused")])
        self.assertEqual([], self.names())

    def test_deleted(self) -> None:
        """
        Its connection is closed, its key is stored no more and not trusted; it is told
        which files are gone.
        """
        self.store.add("root", ONE.public)
        self.store.add("backup", ONE.public)
        name, kept = f"backup-{ONE.public.md5}.pub", f"root-{TWO.public.md5}.pub"
        self.store.add("root", TWO.public)
        self.register()
        client, other = self.connect(), self.connect(TWO)
        self.decide(Delete(NODE))
        client.pump()
        (removed,) = self.told("key.removed")
        self.assertIn(name, removed["names"])
        self.assertEqual((NODE, "deleted"), (removed["node"], removed["what"]))
        (closed,) = self.told("session.closed")
        self.assertIn("taken from the node", closed["reason"])
        self.assertEqual([kept], self.names())
        self.assertTrue(self.has(other, "public"))
        self.store.remove(kept)
        self.assert_gone(client, "node_withdrawn")

    def test_refused(self) -> None:
        """
        A node that was trusted through a window and is refused then.
        """
        client = self.connect()
        self.assertEqual(1, len(self.names()))
        self.arrives(ONE)
        self.assertTrue(self.has(client, "public"))
        self.decide(Refuse(NODE))
        self.assert_gone(client, "node_refused")
        # Although somebody stores it; deletion ends that.
        self.store.add("root", ONE.public)
        self.assertFalse(self.is_trusted())
        self.decide(Delete(NODE))
        self.assertTrue(self.is_trusted())

    def test_blocked(self) -> None:
        """
        A node that is blocked, until that is lifted and it is accepted again.
        """
        self.register()
        client = self.connect()
        self.decide(Block(NODE))
        self.assert_gone(client, "node_refused")
        self.decide(Lift(NODE))
        self.assertFalse(self.is_trusted())
        self.arrives(ONE, server="here")
        self.assertFalse(self.is_trusted())
        self.decide(Accept(NODE))
        self.assertTrue(self.has(self.connect()))

    def test_another_key(self) -> None:
        """
        The former key is trusted no more, the new one is; so it is when the next
        inventory is to decide.
        """
        self.register()
        client = self.connect()
        self.decide(SetKey(NODE, AgentKey(NEW.public)))
        self.assert_gone(client, "node_withdrawn")
        client = self.connect(NEW)
        self.assertTrue(self.has(client))
        self.decide(TrustAgain(NODE))
        client.pump()
        self.assertTrue(client.closed)
        self.assertFalse(self.is_trusted(NEW))

    def test_before_its_identity(self) -> None:
        """
        A connection that has not said who it is is closed, too.
        """
        self.register()
        client = self.server.dial(ADDRESS, key=ONE)
        assert client is not None
        client.pump()
        self.assertFalse(client.closed)
        self.decide(Delete(NODE))
        client.pump()
        self.assertTrue(client.closed)

    def test_in_the_middle_of_a_file(self) -> None:
        """
        A file that is under way is cut; what comes is no other content and no refusal.
        """
        self.register()
        client = self.connect()
        name = f"{self.share}/{NODE}/f".encode()
        client._tls.send(encode_transaction(encode_get(name, 4095)))
        while client.step(receive=False):
            pass
        self.decide(Delete(NODE))
        client.pump()
        content = client.received()
        self.assertTrue(client.closed)
        self.assertLess(len(content), 300_000)
        self.assertGreater(len(content), 30_000)
        (closed,) = self.told("session.closed")
        self.assertIn("taken from the node", closed["reason"])

    def test_in_the_middle_of_a_classic_file(self) -> None:
        """
        The same on the classic protocol, where the file has no frames around it: less
        comes than was told, and the connection ends.
        """
        self.register()
        client = self.server.connect_classic(ADDRESS, key=ONE)
        name = f"{self.share}/{NODE}/f".encode()
        self.assertIsNotNone(client.stat(name))
        client._output += encode_transaction(encode_get(name, 2048))
        while client.step(receive=False):
            pass
        self.decide(Delete(NODE))
        client.pump()
        content = client.received()
        self.assertTrue(client.closed)
        self.assertEqual({ord("x")}, set(content))
        self.assertLess(len(content), 300_000)
        self.assertGreater(len(content), 30_000)

    def test_stored_again_by_hand(self) -> None:
        """
        A key that an operator stores after the decision stays, over restarts, too, and
        is trusted.
        """
        self.register()
        self.decide(Delete(NODE))
        self.store.add("root", ONE.public)
        self.look()
        self.assertTrue(self.is_trusted())
        self.restart()
        self.assertTrue(self.is_trusted())
        self.assertEqual(1, len(self.names()))

    def test_a_key_of_two_nodes(self) -> None:
        """
        A copy that is refused takes nothing from the node that is accepted.
        """
        self.register()
        client = self.connect()
        self.arrives(ONE, "copy")
        self.decide(Refuse("copy"))
        self.assertTrue(self.has(client))
        self.assertTrue(self.is_trusted())

    def test_cannot_be_removed(self) -> None:
        """
        While what is stored cannot be removed the key is refused; it is tried again.
        """
        self.store.add("root", ONE.public)
        self.register()
        with patch("os.unlink", side_effect=PermissionError(13, "no")):
            self.decide(Delete(NODE))
            self.assertEqual(1, len(self.names()))
            self.assertFalse(self.is_trusted())
            self.server.clock.advance(30)
        self.assertEqual(1, len(self.told("key.not-removed")))
        self.assertFalse(self.is_trusted())
        self.server.clock.advance(30)
        self.assertEqual([], self.names())
        self.assertEqual(1, len(self.told("key.removed")))


class DownTests(FollowedCase):
    """
    Decisions made while the server was down.
    """

    def setUp(self) -> None:
        super().setUp()
        self.start()
        self.store.add("root", ONE.public)
        self.store.add("root", TWO.public)
        self.register()
        self.register(OTHER_NODE, TWO)

    def test_removed_at_the_start(self) -> None:
        """
        What was decided is done at the next start, and once.
        """
        self.stop()
        self.decide(Delete(NODE))
        self.store = self.stored()
        self.start()
        self.assertEqual([f"root-{TWO.public.md5}.pub"], self.names())
        self.assertFalse(self.is_trusted())
        self.assertEqual(1, len(self.told("key.removed")))
        mark = (self.state / MARK_NAME).read_text()
        self.assertIn(ONE.public.sha, mark)
        self.restart()
        self.assertEqual(1, len(self.told("key.removed")))

    def test_stored_since(self) -> None:
        """
        What was stored after the decision, while the server was down, stays.
        """
        self.stop()
        self.now = datetime.now(timezone.utc) - timedelta(seconds=100)
        self.decide(Delete(NODE))
        self.store = self.stored()
        self.start()
        self.assertTrue(self.is_trusted())
        self.assertIn(ONE.public.sha, (self.state / MARK_NAME).read_text())

    def test_stored_in_between(self) -> None:
        """
        What was stored after a decision of which a server that runs had not heard yet,
        perhaps through an open window, goes.
        """
        self.now = datetime.now(timezone.utc) - timedelta(seconds=100)
        self.decide(Delete(NODE))
        self.assertFalse(self.is_trusted())
        self.assertEqual([f"root-{TWO.public.md5}.pub"], self.names())

    def test_noted_in_between(self) -> None:
        """
        Of many keys it is noted now and then how far it has come.
        """
        noted = []

        def note(path: str, data: bytes) -> None:
            noted.append((data.split()[1].decode(), len(self.names())))

        with (
            patch("nodecomm.service.keys_withdrawn._NOTE_EVERY", 1),
            patch("nodecomm.service.keys_withdrawn.replace_file", note),
        ):
            self.decide(Delete(NODE), Delete(OTHER_NODE))
        self.assertEqual([(ONE.public.sha, 1), (TWO.public.sha, 0)], noted)

    def test_another_database(self) -> None:
        """
        Numbers of another database mean nothing: all of its decisions are looked at.
        """
        (self.state / MARK_NAME).write_text("7 SHA=00 2020-01-01T00:00:00+00:00\n")
        self.stop()
        self.decide(Delete(NODE))
        self.store = self.stored()
        self.start()
        self.assertFalse(self.is_trusted())
        self.assertEqual(1, len(self.names()))

    def test_an_older_database(self) -> None:
        """
        A database that was restored from a copy, and has been decided on since, is
        looked at as a whole while the server runs.
        """
        self.decide(Delete(NODE), Register(NODE, AgentKey(NEW.public)))
        fresh = Away(lambda: self.now)
        self.successResultOf(fresh.start())
        register = Register(OTHER_NODE, AgentKey(TWO.public))
        for decision in (register, Block(OTHER_NODE)):
            self.successResultOf(fresh.decide(decision, "alice"))
        assert self.followed is not None
        self.assertTrue(self.is_trusted(NEW))
        self.followed._watch._registry = fresh
        self.look()
        self.assertFalse(self.is_trusted(NEW))
        self.assertFalse(self.is_trusted(TWO))
        self.assertEqual([], self.names())

    def test_nothing_can_be_noted(self) -> None:
        """
        A full disk is told, and hinders nothing.
        """
        with patch(
            "nodecomm.service.keys_withdrawn.replace_file",
            side_effect=OSError(28, "No space left on device"),
        ):
            self.decide(Delete(NODE), Delete(OTHER_NODE))
        self.assertEqual([], self.names())
        self.assertTrue(self.told("state.not-written"))
        self.assertFalse(os.path.exists(self.state / MARK_NAME))

    def test_stopped_in_between(self) -> None:
        """
        What is under way when the server ends is finished, the rest is done at the
        next start.
        """
        waiting: list[Any] = []
        done: Deferred[Any] = Deferred()
        self.store._run = holding(waiting, done)
        self.decide(Delete(NODE), Delete(OTHER_NODE))
        assert self.followed is not None
        stopped = Deferred.fromCoroutine(self.followed.stop())
        self.assertNoResult(stopped)
        self.assertFalse(self.is_trusted())
        done.callback(waiting[0]())
        self.successResultOf(stopped)
        self.assertEqual([f"root-{TWO.public.md5}.pub"], self.names())
        self.successResultOf(self.registry.start())
        self.store = self.stored()
        self.start()
        self.assertEqual([], self.names())


class StaleTests(FollowedCase):
    """
    A database that does not answer.
    """

    def test_before_the_first_answer(self) -> None:
        """
        What a rule of the configuration admits is served; whoever might be a node is
        not refused, but his connection closed; nobody is trusted on first use.
        """
        self.windows = [TrustWindow(lambda address: True, "everybody")]
        self.store.add("root", TWO.public)
        self.registry.away = True
        self.start()
        client = self.connect(TWO)
        self.assertTrue(self.has(client, "public"))
        self.assertIsNone(self.has(client))
        self.assertFalse(self.is_trusted())
        self.assertEqual(
            ["nodes_unknown"], [x["code"] for x in self.told("trust.refused")]
        )
        self.assertEqual(1, len(self.names()))
        self.registry.away = False
        self.look()
        client = self.connect(TWO)
        self.assertFalse(self.has(client))
        self.assertTrue(self.is_trusted())

    def test_away_for_a_while(self) -> None:
        """
        For so long what is known goes on; after that it is closed, never refused, and
        when the database is back it goes on as before.
        """
        self.register()
        self.start()
        self.store.add("root", TWO.public)
        self.registry.away = True
        self.server.clock.advance(STALE - 1)
        client = self.connect()
        self.assertTrue(self.has(client))
        self.assertFalse(self.has(client, OTHER_NODE))
        self.server.clock.advance(2)
        other = self.connect(TWO)
        self.assertTrue(self.has(client, "public"))
        self.assertIsNone(self.has(client))
        self.assertIsNone(self.has(other))
        self.assertFalse(self.is_trusted())
        self.assertEqual(1, len(self.told("nodes.stale")))
        self.registry.away = False
        self.look()
        self.assertTrue(self.has(self.connect()))
        self.assertFalse(self.has(self.connect(TWO)))
        self.assertEqual(1, len(self.told("nodes.back")))

    def test_another_limit(self) -> None:
        """
        The limit is that of the configuration, also of one that is loaded later.
        """
        self.register()
        self.start(settings=self.settings(registry_max_stale="1m"))
        assert self.followed is not None
        self.registry.away = True
        self.server.clock.advance(50)
        self.assertTrue(self.is_trusted())
        self.server.clock.advance(15)
        self.assertFalse(self.is_trusted())
        self.registry.away = False
        self.look()
        self.followed.apply(self.settings(registry_max_stale="2m"))
        self.registry.away = True
        self.server.clock.advance(100)
        self.assertTrue(self.is_trusted())
        self.assertTrue(self.followed.knows_key(ONE.public))
        self.followed.apply(self.settings(registry_max_stale="90s"))
        self.assertFalse(self.is_trusted())
        self.assertFalse(self.followed.knows_key(ONE.public))
