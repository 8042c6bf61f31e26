# SPDX-License-Identifier: MIT
"""
Digests that are computed once.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.server import digests
from nodecomm.server.digests import (
    LARGE,
    SETTLED,
    DigestCache,
    DigestStore,
    new_hash,
)
from nodecomm.server.filesystem import FileSystemSource, HeldFile
from nodecomm.server.pools import InlinePool, QueueFull, Workers
from nodecomm.storage.digests import DigestTable
from nodecomm.testing import memory_server
from nodecomm.wire.commands import encode_digest
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import DIGEST_EQUAL
from tests.server.descriptors import no_descriptor_lost
from tests.server.pools import HandPool
from tests.storage.doubles import DatabaseCase

CONTENT = b"content of the file\n"
MD5 = hashlib.md5(CONTENT).digest()


class Kept:
    """
    A store that keeps digests in memory, or fails as the test says.
    """

    def __init__(self) -> None:
        self.digests: dict[Any, bytes] = {}
        self.error: Exception | None = None
        self.raises = False
        self.held: list[Deferred[bytes | None]] | None = None

    def get(self, key: Any) -> Deferred[bytes | None]:
        """What is kept."""
        if self.error is not None:
            if self.raises:
                raise self.error
            return fail(self.error)
        answer: Deferred[bytes | None] = Deferred()
        if self.held is not None:
            self.held.append(answer)
        else:
            answer.callback(self.digests.get(key))
        return answer

    def put(self, key: Any, digest: bytes) -> None:
        """Keep it."""
        if self.error is not None:
            raise self.error
        self.digests[key] = digest


class CacheCase(SynchronousTestCase):
    """
    A file, a pool by hand, and a clock that stands `age` after the file's change.
    """

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir(parents=True)
        self.file = self.root / "file"
        self.file.write_bytes(CONTENT)
        self.pool = HandPool()
        self.store = Kept()
        self.now = 0
        self.cache = self.make_cache()
        self.age(10 * SETTLED)

    def make_cache(self, store: DigestStore | None = None, entries: int = 10) -> Any:
        return DigestCache(
            self.pool,
            self.store if store is None else store,
            entries,
            lambda: self.now,
        )

    def age(self, ns: int) -> None:
        """It is *ns* after the file's last change."""
        self.now = self.file.stat().st_ctime_ns + ns

    def hold(self, name: str = "file") -> HeldFile:
        source = FileSystemSource(self.cache, InlinePool())
        held = source.resolve(None, os.fsencode(self.root / name))
        self.addCleanup(held.close)
        return held

    def ask(self, held: HeldFile | None = None, algorithm: str = "md5") -> Any:
        return (held or self.hold()).digest(algorithm)

    def digest(self, algorithm: str = "md5") -> bytes:
        """The digest, worked on if need be."""
        held = self.hold()
        found = held.digest(algorithm)
        if isinstance(found, Deferred):
            while self.pool.waiting:
                self.pool.work()
            found = self.successResultOf(found)
        held.close()
        assert isinstance(found, bytes)
        return found


class SharingTests(CacheCase):
    """
    Many who ask at the same time.
    """

    def test_one_computation(self) -> None:
        """All get the digest, and the file is hashed once."""
        asked = [self.ask() for _ in range(50)]
        self.assertEqual(1, len(self.pool.waiting))
        for answer in asked:
            self.assertNoResult(answer)

        self.pool.work()

        self.assertEqual([MD5] * 50, [self.successResultOf(a) for a in asked])
        self.assertEqual(1, self.cache.hashed)
        # And from now on nobody waits.
        self.assertEqual(MD5, self.ask())

    def test_they_share_the_look_into_the_store(self) -> None:
        """Also who asks while the store is asked."""
        self.store.held = []
        asked = [self.ask() for _ in range(3)]
        self.assertEqual((1, 0), (len(self.store.held), len(self.pool.waiting)))

        self.store.held[0].callback(MD5)

        self.assertEqual([MD5] * 3, [self.successResultOf(a) for a in asked])
        self.assertEqual(0, self.cache.hashed)

    def test_algorithms_and_files_are_apart(self) -> None:
        """Another algorithm, another file, another state are other computations."""
        (self.root / "other").write_bytes(CONTENT)
        asked = [self.ask(), self.ask(algorithm="sha256"), self.ask(self.hold("other"))]
        later = self.file.stat().st_mtime_ns + 1
        os.utime(self.file, ns=(later, later))
        asked.append(self.ask())

        self.pool.work(4)

        sha = hashlib.sha256(CONTENT).digest()
        self.assertEqual([MD5, sha, MD5, MD5], [self.successResultOf(a) for a in asked])

    def test_an_asker_goes_away(self) -> None:
        """The others are answered, from the same computation: it has a descriptor
        of its own."""
        with no_descriptor_lost():
            gone, stays = self.hold(), self.hold()
            first, second = self.ask(gone), self.ask(stays)
            gone.close()
            first.addErrback(lambda _: None)
            first.cancel()
            stays.close()
            self.file.unlink()

            self.pool.work()

        self.assertEqual(MD5, self.successResultOf(second))

    def test_an_asker_that_fails(self) -> None:
        """What one does with its answer is nothing to the others."""
        first, second = self.ask(), self.ask()
        first.addCallback(lambda _: 1 / 0)

        self.pool.work()

        self.failureResultOf(first, ZeroDivisionError)
        self.assertEqual(MD5, self.successResultOf(second))

    def test_a_peer_that_leaves(self) -> None:
        """Its connection's end does not disturb who asks for the same file."""
        inline = InlinePool()
        server = memory_server(
            {"path": str(self.root), "shortcut": "f", "admit_ips": ["127.0.0.1"]},
            workers=Workers(inline, self.pool, inline, inline),
        )
        with no_descriptor_lost():
            gone, stays = server.connect(), server.connect()
            request = encode_transaction(encode_digest(b"f/file", MD5))
            gone.send(request)
            stays.send(request)
            gone.hang_up()
            self.assertEqual(1, len(self.pool.waiting))

            self.pool.work()
            stays.pump()

        self.assertEqual([DIGEST_EQUAL], stays.transactions())


class FailureTests(CacheCase):
    """
    What cannot be computed.
    """

    def assert_all_fail(self, error: type[Exception], asked: list[Any]) -> None:
        for answer in asked:
            self.failureResultOf(answer, error)
        self.assertEqual({}, self.cache._waiting)
        # Nothing is left of it: the next time it works.
        self.assertEqual(MD5, self.digest())

    def test_a_disk_that_fails(self) -> None:
        """Everyone who asked is told."""
        with no_descriptor_lost():
            held = self.hold()
            asked = [self.ask(held), self.ask(held)]
            with mock.patch.object(os, "pread", side_effect=OSError(errno.EIO, "I/O")):
                self.pool.work()
            held.close()
        self.assert_all_fail(OSError, asked)

    def test_a_full_queue(self) -> None:
        """Is no digest either, whether it is found out now or after the store."""
        self.pool.queue = 0
        self.store.held = []
        with no_descriptor_lost():
            held = self.hold()
            asked = [self.ask(held), self.ask(held)]
            self.store.held.pop().callback(None)
            held.close()
        self.pool.queue = 10
        self.store.held = None
        self.assert_all_fail(QueueFull, asked)

    def test_a_store_that_cannot_be_asked(self) -> None:
        """Costs the computation only, in whatever way it fails."""
        for raises in (False, True):
            self.cache = self.make_cache()
            self.store.error = RuntimeError("no database")
            self.store.raises = raises
            self.age(0)
            with no_descriptor_lost():
                self.assertEqual(MD5, self.digest())

    def test_a_store_that_cannot_keep(self) -> None:
        """The digest is known all the same, and remembered here."""
        held = self.hold()
        asked = self.ask(held)
        self.store.error = RuntimeError("no database")

        self.pool.work()

        self.assertEqual(MD5, self.successResultOf(asked))
        self.assertEqual(MD5, self.ask())
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_unknown_algorithm(self) -> None:
        """Only the two that the protocol has."""
        with self.assertRaises(ValueError):
            new_hash("sha1")


class SettledTests(CacheCase):
    """
    A file that was left alone for long enough is remembered.
    """

    def hashed_again(self) -> bool:
        """Whether asking twice is computing twice."""
        before = self.cache.hashed
        self.assertEqual([MD5, MD5], [self.digest(), self.digest()])
        stored = bool(self.store.digests)
        self.assertEqual(stored, bool(self.cache._known))
        return bool(self.cache.hashed - before == 2)

    def test_two_seconds(self) -> None:
        """A change time younger than that is answered and not stored; a clock that
        was set back counts as young."""
        for age, again in [
            (-SETTLED, True),
            (0, True),
            (SETTLED - 1, True),
        ]:
            self.age(age)
            self.assertEqual(again, self.hashed_again(), age)
        self.age(SETTLED)
        self.assertFalse(self.hashed_again())

    def test_the_clock_is_read_before_hashing(self) -> None:
        """Hashing may take long; what counts is when it began."""
        self.age(SETTLED - 1)
        asked = self.ask()
        real = os.pread

        def slow(descriptor: int, size: int, offset: int) -> bytes:
            self.now += 100 * SETTLED
            return real(descriptor, size, offset)

        with mock.patch.object(os, "pread", slow):
            self.pool.work()

        self.assertEqual(MD5, self.successResultOf(asked))
        self.assertEqual({}, self.store.digests)

    def test_changed_while_it_was_hashed(self) -> None:
        """The statuses before and after disagree: answered, not stored."""
        asked = self.ask()
        real = os.pread
        later = self.file.stat().st_mtime_ns + 1_000_000

        def touched(descriptor: int, size: int, offset: int) -> bytes:
            os.utime(self.file, ns=(later, later))
            return real(descriptor, size, offset)

        with mock.patch.object(os, "pread", touched):
            self.pool.work()

        self.assertEqual(MD5, self.successResultOf(asked))
        self.assertEqual(({}, {}), (self.store.digests, dict(self.cache._known)))

    def test_changed_before_it_was_hashed(self) -> None:
        """The status that was asked for is not the one that was hashed."""
        asked = self.ask()
        later = self.file.stat().st_mtime_ns + 1_000_000
        os.utime(self.file, ns=(later, later))
        self.age(10 * SETTLED)

        self.pool.work()

        self.assertEqual(MD5, self.successResultOf(asked))
        self.assertEqual(({}, {}), (self.store.digests, dict(self.cache._known)))

    def test_other_content_under_the_same_times_and_size(self) -> None:
        """The change time cannot be set back, so it is noticed."""
        self.digest()
        before = self.file.stat()
        self.file.write_bytes(CONTENT[::-1])
        os.utime(self.file, ns=(before.st_atime_ns, before.st_mtime_ns))

        self.assertEqual(hashlib.md5(CONTENT[::-1]).digest(), self.digest())


class MemoryTests(CacheCase):
    """
    What is remembered, and for how long.
    """

    def test_bounded(self) -> None:
        """The one that nobody asked for longest is forgotten first."""
        self.cache = self.make_cache(entries=2)
        for name in "abc":
            (self.root / name).write_bytes(name.encode())
        self.now = (self.root / "c").stat().st_ctime_ns + 10 * SETTLED

        def ask(name: str) -> int:
            before = self.cache.hashed
            self.store.digests.clear()
            if isinstance(self.ask(self.hold(name)), Deferred):
                self.pool.work()
            return int(self.cache.hashed - before)

        self.assertEqual([1, 1, 0, 1], [ask("a"), ask("b"), ask("a"), ask("c")])
        self.assertEqual([0, 0, 1], [ask("a"), ask("c"), ask("b")])
        self.assertEqual(2, len(self.cache._known))

    def test_large_files_are_read_in_pieces(self) -> None:
        """And all of them count."""
        content = os.urandom(2_500_000)
        self.file.write_bytes(content)
        self.patch(digests, "_CHUNK", 999_999)

        self.assertEqual(hashlib.sha256(content).digest(), self.digest("sha256"))


class RestartTests(DatabaseCase):
    """
    The table outlives the process.
    """

    def test_hit_after_restart(self) -> None:
        """A new cache over the same database does not hash again."""
        file = self.folder / "file"
        file.write_bytes(CONTENT)
        now = file.stat().st_ctime_ns + SETTLED
        hashed = []
        for _ in range(2):
            table = DigestTable(self.database, self.reactor)
            cache = DigestCache(InlinePool(), table, 10, lambda: now)
            source = FileSystemSource(cache, InlinePool())
            held = source.resolve(None, os.fsencode(file))
            found = held.digest("md5")
            assert isinstance(found, Deferred)
            self.assertEqual(MD5, self.successResultOf(found))
            held.close()
            self.successResultOf(table.stop())
            hashed.append(cache.hashed)

        self.assertEqual([1, 0], hashed)

    def test_database_away(self) -> None:
        """Digests are computed as if there were none."""
        file = self.folder / "file"
        file.write_bytes(CONTENT)
        table = DigestTable(self.database, self.reactor)
        self.successResultOf(self.database.stop())
        cache = DigestCache(InlinePool(), table, 10, lambda: 0)
        source = FileSystemSource(cache, InlinePool())
        held = source.resolve(None, os.fsencode(file))
        found = held.digest("md5")
        assert isinstance(found, Deferred)

        self.assertEqual(MD5, self.successResultOf(found))
        held.close()


class FairnessTests(CacheCase):
    """
    Large files do not keep small ones waiting, nor does a store that hangs.
    """

    def large(self, name: str) -> HeldFile:
        with (self.root / name).open("wb") as file:
            file.truncate(LARGE + 1)
        return self.hold(name)

    def test_large_files_one_at_a_time(self) -> None:
        """A second large file waits for the first; a small one does not."""
        asked = [self.ask(self.large("one")), self.ask(self.large("two"))]
        small = self.ask()
        self.assertEqual(2, len(self.pool.waiting))

        self.pool.work()
        self.pool.work()

        self.successResultOf(asked[0])
        self.assertNoResult(asked[1])
        self.assertEqual(hashlib.md5(CONTENT).digest(), self.successResultOf(small))
        self.pool.work()
        self.successResultOf(asked[1])
        self.assertEqual([], list(self.pool.waiting))

    def test_a_store_that_hangs(self) -> None:
        """After half a second the file is hashed; the late answer is nothing."""
        clock = Clock()
        self.store.held = []
        self.cache = DigestCache(self.pool, self.store, 10, lambda: self.now, clock)
        asked = self.ask()
        clock.advance(0.4)
        self.assertEqual(0, len(self.pool.waiting))
        clock.advance(0.2)

        self.pool.work()

        self.assertEqual(hashlib.md5(CONTENT).digest(), self.successResultOf(asked))
        self.store.held[0].callback(None)

    def test_a_file_that_grows_without_end(self) -> None:
        """It is not followed beyond the size it had."""
        held = self.hold()
        asked = self.ask(held)
        with self.file.open("ab") as file:
            file.truncate(1 << 30)

        self.pool.work()

        self.assertNotEqual(hashlib.md5(CONTENT).digest(), self.successResultOf(asked))
        self.assertEqual({}, self.store.digests)
