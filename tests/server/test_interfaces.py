# SPDX-License-Identifier: MIT
"""
What every implementation of a public interface does: one set of tests for all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.requests import AccessRequest
from nodecomm.identity.keys import InsaneKey
from nodecomm.identity.peer import Peer
from nodecomm.identity.store import FileKeyStore
from nodecomm.interfaces import (
    API,
    IAccessEvaluator,
    ICommand,
    IFileSource,
    IHeldObject,
    IKeyStore,
)
from nodecomm.server.commands import builtin_commands, command_table
from nodecomm.server.digests import DigestCache
from nodecomm.server.filesystem import FileSystemSource
from nodecomm.server.held import Kind
from nodecomm.server.pools import InlinePool
from nodecomm.testing import MemoryKeyStore, MemorySource
from nodecomm.testing.server import settings_of, snapshot_of
from tests.identity import forgery
from tests.identity.sample import key

#: What both sources serve.
FILES = {
    b"file": b"content of the file\n",
    b"empty": b"",
    b"sub/inner": b"inner",
    b"sub/\xff\xfe": b"no UTF-8",
    b"sub/" + b"n" * 255: b"long",
}


class FileSourceTests:
    """
    An `IFileSource` and what it holds.
    """

    source: Any
    prefix = b""

    def resolve(self: Any, name: bytes) -> Any:
        """Hold it, at once or later, and let go of it after the test."""
        found = self.source.resolve(Peer("127.0.0.1", 1), self.prefix + name)
        if isinstance(found, Deferred):
            found = self.successResultOf(found)
        self.addCleanup(found.close)
        return found

    def value(self: Any, found: Any) -> Any:
        """A value, or what a Deferred has."""
        return self.successResultOf(found) if isinstance(found, Deferred) else found

    def test_interface(self: Any) -> None:
        """The source and what it holds provide their interfaces."""
        self.assertTrue(verifyObject(IFileSource, self.source))
        self.assertEqual(API, self.source.api)
        self.assertTrue(self.source.name)
        for name in (b"file", b"sub"):
            self.assertTrue(verifyObject(IHeldObject, self.resolve(name)))

    def test_files(self: Any) -> None:
        """Kind, size, content in any pieces, digests."""
        for name, content in FILES.items():
            held = self.resolve(name)
            status = held.stat()
            self.assertEqual((Kind.REGULAR, len(content)), (status.kind, status.size))
            self.assertTrue(status.is_regular)
            self.assertTrue(held.path.endswith(name))
            self.assertEqual(content, self.value(held.read(0, 1000)))
            pieces = [
                self.value(held.read(offset, 3)) for offset in range(0, len(content), 3)
            ]
            self.assertEqual(content, b"".join(pieces))
            self.assertEqual(b"", self.value(held.read(len(content), 10)))
            for algorithm in ("md5", "sha256"):
                expected = hashlib.new(algorithm, content).digest()
                self.assertEqual(expected, self.value(held.digest(algorithm)))
            self.assertTrue(held.unchanged(len(content)))

    def test_folders(self: Any) -> None:
        """Kind and names; no final slash in the path."""
        for name, names in [
            (b"", {b"file", b"empty", b"sub"}),
            (b"sub", {b"inner", b"\xff\xfe", b"n" * 255}),
        ]:
            held = self.resolve(name)
            self.assertEqual(Kind.DIRECTORY, held.stat().kind)
            self.assertTrue(held.stat().is_directory)
            self.assertFalse(held.path.endswith(b"/"))
            found = self.value(held.entries())
            self.assertEqual(names | {b".", b".."}, set(found))
            self.assertEqual(len(names) + 2, len(found))

    def test_files_are_no_folders_and_folders_no_files(self: Any) -> None:
        """Each fails in the system's own way."""
        with self.assertRaises(NotADirectoryError):
            self.value(self.resolve(b"file").entries())
        with self.assertRaises(OSError):
            self.value(self.resolve(b"sub").read(0, 1))

    def test_absent(self: Any) -> None:
        """What is not there is `FileNotFoundError`, whatever else it could be."""
        for name in (b"none", b"sub/none", b"file/below", b"fil", b"su", b"sub/inne"):
            with self.assertRaises(FileNotFoundError):
                self.value(self.source.resolve(Peer("::1", 1), self.prefix + name))

    def test_close_twice(self: Any) -> None:
        """Harmless."""
        held = self.resolve(b"file")
        held.close()
        held.close()

    def test_held_apart(self: Any) -> None:
        """Closing one does not close the other."""
        one, two = self.resolve(b"file"), self.resolve(b"file")
        one.close()

        self.assertEqual(FILES[b"file"], self.value(two.read(0, 100)))


class FileSystemSourceTests(FileSourceTests, SynchronousTestCase):
    """
    The file system.
    """

    def setUp(self) -> None:
        root = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, root)
        for name, content in FILES.items():
            full = os.path.join(os.fsencode(root), name)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "wb") as file:
                file.write(content)
        self.prefix = os.fsencode(root) + b"/"
        pool = InlinePool()
        self.source = FileSystemSource(DigestCache(pool, None, 9, lambda: 0), pool)


class MemorySourceTests(FileSourceTests, SynchronousTestCase):
    """
    The source in memory.
    """

    def setUp(self) -> None:
        self.source = MemorySource(FILES)


class KeyStoreTests:
    """
    An `IKeyStore`.
    """

    store: Any

    def test_interface(self: Any) -> None:
        """It provides its interface."""
        self.assertTrue(verifyObject(IKeyStore, self.store))

    def test_empty(self: Any) -> None:
        """Nobody is known."""
        self.assertEqual("unknown", self.store.known(key(0)).state)
        self.assertEqual("unknown", self.store.lookup("root", key(0), "::1").state)
        self.assertEqual([], list(self.store.entries()))
        self.assertEqual([], list(self.store.remove(key(0).md5)))

    def test_add(self: Any) -> None:
        """A key is known under the names it was stored under, and no other key is."""
        name = self.store.add("root", key(0))
        self.assertEqual(name, self.store.add("root", key(0)))
        self.store.add("alice", key(0))

        match = self.store.known(key(0))
        self.assertEqual(("equal", {"root", "alice"}), (match.state, set(match.users)))
        match = self.store.lookup("root", key(0), "10.0.0.1")
        self.assertEqual(("equal", (name,)), (match.state, match.names))
        match = self.store.lookup("bob", key(0), "10.0.0.1")
        self.assertEqual(
            ("unknown", {"root", "alice"}), (match.state, set(match.users))
        )
        self.assertEqual("unknown", self.store.known(key(1)).state)

    def test_entries(self: Any) -> None:
        """All of them, in name order, with what they hold."""
        for user, number in [("root", 1), ("alice", 0), ("root", 0)]:
            self.store.add(user, key(number))

        entries = list(self.store.entries())

        self.assertEqual(sorted(e.name for e in entries), [e.name for e in entries])
        self.assertEqual(
            {("root", key(1)), ("alice", key(0)), ("root", key(0))},
            {(entry.user, entry.key) for entry in entries},
        )
        for entry in entries:
            self.assertEqual(entry.key.md5, entry.digest)

    def test_remove(self: Any) -> None:
        """By name one entry, by digest, old or new, all of that key."""
        for digest in (key(0).md5, key(0).sha):
            names = [self.store.add(user, key(0)) for user in ("root", "alice")]
            other = self.store.add("root", key(1))
            self.assertEqual([names[1]], list(self.store.remove(names[1])))
            self.assertEqual("equal", self.store.known(key(0)).state)
            self.store.add("alice", key(0))

            self.assertEqual(sorted(names), sorted(self.store.remove(digest)))

            self.assertEqual("unknown", self.store.known(key(0)).state)
            self.assertEqual([other], [entry.name for entry in self.store.entries()])

    def test_another_key_with_the_same_digest(self: Any) -> None:
        """Such a key can be built, but not within sane bounds; outside of them it is
        refused whatever is asked, and nothing is stored."""
        honest, forged = forgery.victim(), forgery.forgery()
        self.assertEqual(honest.md5, forged.md5)
        for _ in range(2):
            for ask in (
                lambda: self.store.known(forged),
                lambda: self.store.lookup("root", forged, "10.0.0.1"),
                lambda: self.store.add("root", forged),
                lambda: self.store.add("alice", forged),
            ):
                with self.assertRaises(InsaneKey):
                    ask()
            self.store.add("root", honest)

        self.assertEqual([honest], [entry.key for entry in self.store.entries()])
        self.assertEqual("equal", self.store.known(honest).state)


class FileKeyStoreTests(KeyStoreTests, SynchronousTestCase):
    """
    The folder of key files.
    """

    def setUp(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.store = FileKeyStore(Path(folder) / "ppkeys")


class MemoryKeyStoreTests(KeyStoreTests, SynchronousTestCase):
    """
    The store in memory.
    """

    def setUp(self) -> None:
        self.store = MemoryKeyStore()


class OtherInterfaceTests(SynchronousTestCase):
    """
    Interfaces with one implementation, or several small ones.
    """

    def test_commands(self) -> None:
        """Each built-in command provides the interface, and no two share a word."""
        commands = builtin_commands()
        for command in commands:
            self.assertTrue(verifyObject(ICommand, command))
            self.assertEqual(API, command.api)
        for version, words in command_table(commands).items():
            listed = [
                word
                for command in commands
                if version in command.versions
                for word in command.words
            ]
            self.assertEqual(len(listed), len(set(listed)))
            self.assertEqual(set(listed), set(words))

    def test_a_later_command_replaces_an_earlier_one(self) -> None:
        """That is how a configured plugin overrides a built-in word."""
        first, second = builtin_commands()[:1], builtin_commands()[:1]

        self.assertIs(second[0], command_table(first + second)[3][b"VERSION"])

    def test_evaluator(self) -> None:
        """It provides its interface, and decides by the snapshot it is given."""
        empty = snapshot_of(settings_of({}))
        evaluator = AccessEvaluator(empty)
        self.assertTrue(verifyObject(IAccessEvaluator, evaluator))
        open_ = snapshot_of(
            settings_of({"access": [{"path": "/", "admit_ips": ["127.0.0.1"]}]}), 1
        )
        peer = Peer("127.0.0.1", 1)
        request = AccessRequest("stat", b"/etc", True, 0, 0o755)

        allowed = [
            evaluator.evaluate(snapshot, peer, request).allowed
            for snapshot in (empty, open_, empty)
        ]

        self.assertEqual([False, True, False], allowed)
