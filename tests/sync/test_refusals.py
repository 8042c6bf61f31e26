# SPDX-License-Identifier: MIT
"""
Whole updates from a server that ends the connection when it refuses something.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.address import ServerAddress
from nodecomm.client.errors import ConnectionBroken, Refused
from nodecomm.server.pools import InlinePool
from nodecomm.sync import refusals
from nodecomm.sync.clocks import Moment
from nodecomm.sync.errors import LimitExceeded, SourceRefused
from nodecomm.sync.model import SyncRequest, SyncResult
from nodecomm.sync.refusals import Refusals
from nodecomm.sync.syncing import Syncer
from nodecomm.wire.replies import REFUSAL
from tests.sync.fakes import SOURCE, FakeSession, Tree

TREE: Tree = {
    b"": None,
    b"a": b"1",
    b"dir": None,
    b"dir/b": b"22",
    b"dir/sub": None,
    b"dir/sub/c": b"333",
    b"other": None,
    b"other/d": b"4444",
}

#: What a node has of them all.
COPY = {
    "a": b"1",
    "dir": None,
    "dir/b": b"22",
    "dir/sub": None,
    "dir/sub/c": b"333",
    "other": None,
    "other/d": b"4444",
}


class Node:
    """
    A node and the connections that it makes; answers come at once.

    Attributes:
        tree: What the server has.
        refused: What it refuses; see `FakeSession`.
        sessions: Every connection so far.
        lost: As a `FakeSession` has it.
        is_broken: Whether none of them lasts.
        lasting: Round trips after which a connection breaks.
        dest: The destination.
    """

    def __init__(self, *, encrypted: bool = True, version: int = 1) -> None:
        self.tree: Tree = dict(TREE)
        self.refused: set[tuple[str, bytes]] = set()
        self.sessions: list[FakeSession] = []
        self.encrypted = encrypted
        self.version = version
        self.lost: int | None = None
        self.is_broken = False
        self.lasting = 1 << 30
        self.clock = Clock()
        self.root = Path(tempfile.mkdtemp())
        self.dest = self.root / "dest"
        self.syncer = Syncer(
            self,
            ServerAddress("hub"),
            state_dir=self.root / "state",
            pool=InlinePool(),
            clock=self.clock,
            now=self.clock.seconds,
            monotonic=self.clock.seconds,
            steady=lambda: Moment("boot", int(self.clock.seconds() * 1e9)),
            random=Random(1),
        )

    def connect(self, _server: ServerAddress) -> Deferred[Any]:
        """As a dialer."""
        session = FakeSession(
            self.tree,
            self.refused,
            version=self.version,
            encrypted=self.encrypted,
            lost=self.lost,
        )
        self.sessions.append(session)
        return succeed(session)

    def run(self, **more: Any) -> SyncResult | Exception:
        """A run, and how it ended."""
        self.sessions.clear()
        ends: list[Any] = []
        request = SyncRequest(SOURCE, os.fsencode(self.dest), **more)
        self.syncer.run(request).addBoth(ends.append)
        for _ in range(2000):
            if ends:
                break
            for session in self.sessions:
                if self.is_broken or session.trips >= self.lasting:
                    session.fail()
                else:
                    session.answer()
            self.clock.advance(0.01)
        self.syncer.close()
        (end,) = ends
        return end if isinstance(end, SyncResult) else end.value

    def has(self) -> dict[str, bytes | None]:
        """What is at the destination."""
        return {
            str(path.relative_to(self.dest)): (
                None if path.is_dir() else path.read_bytes()
            )
            for path in sorted(self.dest.rglob("*"))
        }


class RefusedPartTests(SynchronousTestCase):
    """
    The rest is brought up to date, and nothing is removed.
    """

    def node(self, **more: Any) -> Node:
        """A node that is gone after the test."""
        node = Node(**more)
        self.addCleanup(shutil.rmtree, node.root)
        return node

    def updated(self, node: Node, **more: Any) -> SyncResult:
        """A run that succeeds."""
        result = node.run(**more)
        if isinstance(result, Exception):
            raise result
        return result

    def test_nothing_is_refused(self) -> None:
        """
        One connection is enough.
        """
        node = self.node()
        result = self.updated(node)
        self.assertEqual(node.has(), COPY)
        self.assertEqual((result.connections, result.refused), (1, ()))

    def test_a_listing(self) -> None:
        """
        A folder that is refused stays as it was, all others follow the server, on one
        connection more; and so at every run, without a pause.
        """
        node = self.node()
        self.updated(node)
        node.refused.add(("OPENDIR", b"dir"))
        for content in (b"new", b"newer"):
            node.tree[b"a"] = node.tree[b"other/d"] = content

            result = self.updated(node, purge=True)

            self.assertEqual(node.has(), {**COPY, "a": content, "other/d": content})
            self.assertEqual((result.refused, result.removed), ((b"dir",), 0))
            self.assertEqual(result.connections, 2)
            self.assertTrue(any("dir: not listed" in one for one in result.warnings))
            self.assertLess(result.seconds, 0.2)

    def test_more_listings_than_attempts(self) -> None:
        """
        However many are refused, the run comes to its end.
        """
        node = self.node()
        folders = [b"f%d" % number for number in range(12)]
        node.tree.update(dict.fromkeys(folders))
        node.refused = {("OPENDIR", name) for name in folders}

        result = self.updated(node)

        self.assertEqual(set(result.refused), set(folders))
        self.assertEqual(result.connections, 13)
        self.assertEqual(node.has(), COPY)

    def test_listings_whose_refusals_are_lost(self) -> None:
        """
        A server that closes with requests unread takes its last answers along. Which
        listing it was is found out in few connections, and few round trips, however
        many were out.
        """
        folders = [b"f%03d" % number for number in range(200)]
        for lost, *refused in ((0, 7), (3, 0), (1000, 120), (1000, 3, 90, 199)):
            with self.subTest(lost=lost, refused=refused):
                node = self.node()
                node.lost = lost
                node.tree.update(dict.fromkeys(folders))
                names = [folders[number] for number in refused]
                node.refused = {("OPENDIR", name) for name in names}

                result = self.updated(node)

                self.assertEqual(result.refused, tuple(names))
                self.assertEqual(node.has().keys() - COPY.keys(), _text(folders, names))
                self.assertLessEqual(result.connections, 1 + 6 * len(refused))
                trips = sum(session.trips for session in node.sessions)
                self.assertLessEqual(trips, 20 + 40 * len(refused))

    def test_contents_whose_refusals_are_lost(self) -> None:
        """
        They are found out as well, and all others come.
        """
        node = self.node()
        node.lost = 1000
        names = [b"r%02d" % number for number in range(40)]
        node.tree.update(dict.fromkeys(names, b"secret"))
        node.refused = {("GET", name) for name in names[7:9]}

        result = self.updated(node)

        self.assertEqual(result.refused, tuple(names[7:9]))
        self.assertEqual(node.has().keys() - COPY.keys(), _text(names, names[7:9]))

    def test_a_server_that_closes_now_and_then(self) -> None:
        """
        That it may have been a refusal is believed for a while only.
        """
        node = self.node()
        folders = [b"f%03d" % number for number in range(200)]
        node.tree.update(dict.fromkeys(folders))
        for node.lasting in (1, 2, 3, 5):
            self.assertIsInstance(node.run(), ConnectionBroken)
            self.assertLessEqual(len(node.sessions), 12)

    def test_other_names_on_every_connection(self) -> None:
        """
        A server that refuses something new each time does not keep a run busy, nor its
        memory, for as long as a run may take.
        """

        class Endless(Node):
            """Each connection is shown another tree."""

            def connect(self, server: ServerAddress) -> Deferred[Any]:
                """As a dialer."""
                name = b"f%d" % len(self.sessions)
                self.tree = {b"": None, name: None, b"more": None}
                self.refused = {("OPENDIR", name)}
                return super().connect(server)

        self.patch(refusals, "MOST", 20)
        node = Endless()
        self.addCleanup(shutil.rmtree, node.root)

        end = node.run()

        self.assertIsInstance(end, LimitExceeded)
        self.assertIn("have the server give them, or exclude them", str(end))
        self.assertEqual(len(node.sessions), 21)

    def test_folders_that_are_gone(self) -> None:
        """
        They were listed the last time and are asked for at once: that they are gone
        costs one connection, however many they are, and purging removes them.
        """
        node = self.node()
        self.updated(node)
        node.tree = {b"": None, b"a": b"1", b"new": b"5"}

        result = self.updated(node, purge=True)

        self.assertEqual(node.has(), {"a": b"1", "new": b"5"})
        self.assertEqual((result.connections, result.refused), (2, ()))

    def test_content(self) -> None:
        """
        A file whose content is refused stays as it is, or does not come into being,
        and nothing else has to do with it.
        """
        node = self.node()
        self.updated(node)
        node.tree.update({b"a": b"new", b"dir/b": b"changed", b"dir/never": b"seen"})
        node.refused = {("GET", b"dir/b"), ("GET", b"dir/never")}

        result = self.updated(node, purge=True)

        self.assertEqual(node.has(), {**COPY, "a": b"new"})
        self.assertEqual(result.refused, (b"dir/b", b"dir/never"))
        self.assertEqual((result.fetched, result.removed), (1, 0))
        for name in ("dir/b", "dir/never"):
            self.assertIn(
                f"{name}: the server does not tell its content", result.warnings
            )
        asked = [one for session in node.sessions for one in session.asked]
        # The first refusal takes the question about the second with it.
        self.assertLessEqual(asked.count(("GET", b"/src/dir/never")), 2)
        self.assertLessEqual(asked.count(("GET", b"/src/dir/b")), 2)

    def test_more_content_than_attempts(self) -> None:
        """
        Each refused file costs one connection, and nobody else is suspected.
        """
        node = self.node()
        names = [b"r%d" % number for number in range(9)]
        node.tree.update(dict.fromkeys(names, b"secret"))
        node.refused = {("GET", name) for name in names}

        result = self.updated(node)

        self.assertEqual(set(result.refused), set(names))
        self.assertEqual(node.has(), COPY)
        self.assertLessEqual(result.connections, 10)

    def test_a_source_that_is_a_file(self) -> None:
        """
        Refused content of the source itself is an error, and what is here stays.
        """
        node = self.node()
        node.tree = {b"": b"content"}
        node.refused = {("GET", b"")}
        for before in (None, b"was"):
            if before is not None:
                node.dest.write_bytes(before)

            error = node.run()

            self.assertIsInstance(error, SourceRefused)
            self.assertIn("does not give its content", str(error))
            self.assertEqual(node.dest.exists(), before is not None)
            if before is not None:
                self.assertEqual(node.dest.read_bytes(), before)

    def test_a_refused_source(self) -> None:
        """
        A folder that is not listed is no empty folder.
        """
        node = self.node()
        self.updated(node)
        node.refused = {("OPENDIR", b"")}

        self.assertIsInstance(node.run(purge=True), SourceRefused)
        self.assertEqual(node.has(), COPY)

    def test_a_connection_that_breaks_by_itself(self) -> None:
        """
        It counts as ever, and is no refusal: after so many the run gives up.
        """
        node = self.node()
        node.is_broken = True

        self.assertIsInstance(node.run(), ConnectionBroken)
        self.assertEqual(len(node.sessions), 4)

    @settings(max_examples=40, deadline=None)
    @given(
        st.sets(st.sampled_from(sorted(name for name in TREE if name)), max_size=5),
        st.sets(st.sampled_from(sorted(name for name in TREE if name)), max_size=5),
        st.sets(st.sampled_from(sorted(name for name in TREE if name)), max_size=3),
        st.booleans(),
        st.sampled_from([None, 0, 1, 2, 100]),
    )
    def test_whatever_is_refused(
        self,
        listings: set[bytes],
        contents: set[bytes],
        gone: set[bytes],
        encrypted: bool,
        lost: int | None,
    ) -> None:
        """
        A run that follows one of everything ends well and loses nothing that the
        server still has, whatever its last answers on a connection become.
        """
        node = Node(encrypted=encrypted)
        node.lost = lost
        try:
            self.updated(node)
            node.tree = {
                name: content + b"!" if isinstance(content, bytes) else content
                for name, content in TREE.items()
                if not any(name == one or name.startswith(one + b"/") for one in gone)
            }
            node.refused = {("OPENDIR", name) for name in listings}
            if encrypted:
                node.refused |= {("GET", name) for name in contents}

            self.updated(node, purge=True)

            has = node.has()
            self.assertEqual(
                {name.encode() for name in has} - _below(listings & node.tree.keys()),
                node.tree.keys() - {b""} - _below(listings),
            )
            for name, was in COPY.items():
                content = node.tree.get(name.encode())
                refused = name.encode() in _below(listings) or (
                    encrypted and name.encode() in contents
                )
                if content is not None:
                    self.assertEqual(has[name], was if refused else content, name)
        finally:
            shutil.rmtree(node.root)


def _text(names: list[bytes], without: list[bytes]) -> set[str]:
    """These names but some, as text."""
    return {name.decode() for name in names if name not in without}


def _below(folders: set[bytes]) -> set[bytes]:
    """The names inside these folders."""
    return {
        name for name in TREE if any(name.startswith(one + b"/") for one in folders)
    }


class RefusalsTests(SynchronousTestCase):
    """
    What is remembered.
    """

    def test_each_is_learned_once(self) -> None:
        """
        Repeating what is known is no progress.
        """
        refusals = Refusals()
        refused = Refused("refused", b"x", REFUSAL)
        told = []
        for _ in range(2):
            refusals.listing(b"x", refused, guessed=False)
            told.append(refusals.learned)
            refusals.listing(b"y", refused, guessed=True)
            told.append(refusals.learned)
            refusals.listing(b"z", refused, guessed=True)
            told.append(refusals.learned)
            refusals.content(b"f")
            told.append(refusals.learned)

        self.assertEqual(told, [1, 2, 2, 3, 3, 3, 3, 3])
        self.assertEqual(refusals.listings, {b"x": refused})
        self.assertFalse(refusals.guessing)
        self.assertEqual(refusals.contents, {b"f"})

    def test_what_tells_more_comes_to_an_end(self) -> None:
        """
        A server that lets many questions be lost, then one, and so on in turn, is no
        nearer to telling which one it refuses; nothing that it has lost is remembered
        for ever.
        """
        self.patch(refusals, "MOST", 500)
        found = Refusals()
        told = []
        for turn in range(8):
            count = 1 if turn % 2 else 100
            for number in range(count):
                found.asked(b"%d/%d" % (turn, number))
            told.append(found.lost())

        self.assertEqual(told, [True, True] + [False] * 6)
        for turn in range(20):
            for number in range(100):
                found.asked(b"later %d/%d" % (turn, number))
            found.lost()
        self.assertLessEqual(len(found.doubted), 600)
