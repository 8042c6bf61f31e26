# SPDX-License-Identifier: MIT
"""
Manifests: what peers may cost, and trees that change while they are looked at.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from unittest import mock

from nodecomm.server import manifest as making
from nodecomm.server import manifest_build, manifest_store, posix
from nodecomm.server.digests import DigestCache
from nodecomm.server.pools import InlinePool, Workers
from nodecomm.testing import (
    MemoryServer,
    key_pair,
)
from nodecomm.testing.client import MemoryClient
from nodecomm.wire.commands import encode_digest, encode_stat
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.manifest import NAME, parse_manifest
from nodecomm.wire.replies import DIGEST_DIFFERS, REFUSAL, parse_stat_reply
from tests.server.manifest_case import ASKED, ASKED_NEW, ManifestCase
from tests.server.pools import HandPool
from tests.server.walked import manifest, walked


class CostTests(ManifestCase):
    """
    What peers may cost.
    """

    def setUp(self) -> None:
        super().setUp()
        # Every file is hashed in the pool for hashing.
        self.patch(manifest_build, "SMALL", -1)
        self.disk = HandPool()
        self.hashing = HandPool()

    def slow(self, *more: dict[str, Any]) -> MemoryServer:
        """A server whose disk and hashing work by hand."""
        return self.make(
            *more, workers=Workers(self.disk, self.hashing, *[InlinePool()] * 2)
        )

    def finish(self, *clients: MemoryClient) -> None:
        """Let all work be done."""
        while self.disk.waiting or self.hashing.waiting:
            (self.disk if self.disk.waiting else self.hashing).work()
            for client in clients:
                client.pump()

    def test_all_who_ask_share_one(self) -> None:
        """Many peers at once make one look at the tree."""
        server = self.slow()
        clients = [server.connect() for _ in range(20)]
        for client in clients:
            client.send(encode_transaction(encode_digest(ASKED, bytes(16))))
        self.assertEqual(1, len(self.disk.waiting))

        self.finish(*clients)

        for client in clients:
            self.assertEqual([DIGEST_DIFFERS], client.transactions())
        self.assertEqual(1, server.factory.manifests.made)

    def test_one_peer_has_one_look_made(self) -> None:
        """What an update asks together is answered by one look, and what it asks the
        next time by another."""
        server = self.slow()
        client = server.connect()
        stat = encode_transaction(encode_stat(int(server.now), ASKED_NEW))
        for made in (1, 2):
            client.send(stat + encode_transaction(encode_digest(ASKED_NEW, bytes(16))))
            self.finish(client)
            self.assertEqual(DIGEST_DIFFERS, client.transactions()[-1])
            self.assertEqual(made, server.factory.manifests.made)
        self.assertEqual({}, server.factory.manifests._together)

    def test_new_ones_are_shared_by_those_who_ask_during_a_look(self) -> None:
        """A look that has begun is too old for who asks for a new one. However many
        ask meanwhile, there is one more."""
        server = self.slow()
        clients = [server.connect() for _ in range(20)]
        # As an update asks.
        stat = encode_transaction(encode_stat(int(server.now), ASKED_NEW))
        asked = stat + encode_transaction(encode_digest(ASKED_NEW, bytes(16)))
        clients[0].send(asked)
        self.assertEqual(1, len(self.disk.waiting))
        (self.root / "t" / "a").write_bytes(b"changed")
        for client in clients[1:]:
            client.send(asked)

        self.finish(*clients)

        digest = sha256(b"changed").digest()
        for client in clients:
            answers = client.transactions()
            self.assertEqual(DIGEST_DIFFERS, answers[-1])
            size = parse_stat_reply(answers[0], answers[1]).size
            data = client.get(ASKED_NEW, size)
            if client is not clients[0]:
                found = parse_manifest(data, 9)
                self.assertIn(digest, [entry.sha256 for entry in found])
        self.assertEqual(2, server.factory.manifests.made)
        self.assertEqual({}, server.factory.manifests._together)

    def test_patience(self) -> None:
        """Where digests take long the waiting are refused, and who asks then; it is
        made all the same, and there when it is ready."""
        server = self.slow()
        client = server.connect()
        stat = encode_transaction(encode_stat(int(server.now), ASKED))
        client.send(stat)
        self.disk.work()
        self.assertEqual(2, len(self.hashing.waiting))
        server.clock.advance(making.PATIENCE)
        client.pump()

        self.assertEqual([REFUSAL], client.transactions())
        self.assert_refused(client, "manifest_not_ready")
        self.finish()
        self.assertEqual(1, server.factory.manifests.made)
        found = client.stat(ASKED)
        assert found is not None
        self.assertEqual(found.size, len(client.get(ASKED, found.size)))

    def test_digests_that_take_longer_than_it_may_be_old(self) -> None:
        """The tree is looked at again before it is answered: what changed meanwhile
        is in it."""
        server = self.slow()
        client = server.connect()
        client.send(encode_transaction(encode_digest(ASKED, bytes(16))))
        # Left alone for long enough that its digest is kept.
        server.now = os.stat(self.root / "t" / "a").st_ctime + 100
        self.disk.work()
        server.sweep(30)
        (self.root / "t" / "new").mkdir()

        self.finish(client)

        self.assertEqual([REFUSAL], client.transactions())
        found = manifest(client, b"t") or []
        self.assertIn(b"new", [entry.name for entry in found])
        self.assertEqual(1, server.factory.manifests.made)
        self.assertEqual(2, self.hashing.asked)

    def test_what_takes_too_long(self) -> None:
        """Looks that each take longer than a manifest may be old come to an end, and
        so does hashing."""
        server = self.slow()
        client = server.connect()
        client.send(encode_transaction(encode_digest(ASKED, bytes(16))))
        for _ in range(100):
            if not self.disk.waiting and not self.hashing.waiting:
                break
            server.sweep(6)
            (self.disk if self.disk.waiting else self.hashing).work()
        self.assertEqual({}, server.factory.manifests._orders)
        client.pump()
        self.assertEqual([REFUSAL], client.transactions())
        self.assert_refused(client, "manifest_slow")

        self.patch(manifest_build, "_LONGEST", -1)
        self.assert_refused(self.make().connect(), "manifest_slow")

    def test_a_peer_that_leaves(self) -> None:
        """Disturbs nobody, and nothing is left of it."""
        server = self.slow()
        gone, stays = server.connect(), server.connect()
        request = encode_transaction(encode_digest(ASKED, bytes(16)))
        gone.send(request)
        stays.send(request)
        gone.hang_up()

        self.finish(stays)

        self.assertEqual([DIGEST_DIFFERS], stays.transactions())
        kept = list(server.factory.manifests._store._all.values())
        self.assertEqual([0], [one.holders for one in kept])
        gc.collect()

    def test_a_server_that_stops(self) -> None:
        """No timer is left of manifests that are being made."""
        server = self.slow()
        client = server.connect()
        client.send(encode_transaction(encode_digest(ASKED, bytes(16))))
        client.hang_up()
        server.factory.doStop()

        self.assertEqual([], server.clock.getDelayedCalls())
        # Its threads are gone; another start does not wait for them.
        self.disk.waiting.clear()
        server.factory.doStart()
        client = server.connect()
        client.send(encode_transaction(encode_digest(ASKED, bytes(16))))
        self.finish(client)
        self.assertEqual([DIGEST_DIFFERS], client.transactions())

    def test_orders_at_a_time(self) -> None:
        """One key has a few manifests made at a time, and all keys together some
        more; the others are refused at once."""
        for number in range(10):
            (self.root / "t" / f"d{number}").mkdir()
        self.patch(making, "WAITING", 3)
        server = self.slow()
        one, two = server.connect(), server.connect(key=key_pair(2))
        now = int(server.now)
        for client, answered in ((one, 2), (two, 3)):
            client.send(
                b"".join(
                    encode_transaction(encode_stat(now, b"t/d%d/" % n + NAME))
                    for n in range(answered - 2, answered + 4)
                )
            )
        self.assertEqual(3, len(server.factory.manifests._orders))

        self.finish(one, two)

        # Of six requests two are answered; of the others' six the one that was under
        # way already, and one more.
        for client in (one, two):
            self.assertEqual(4, client.transactions().count(REFUSAL))
        self.assertEqual(3, server.factory.manifests.made)
        self.assertEqual({"manifest_busy"}, set(self.refusals()))

    def test_allowance(self) -> None:
        """A key that has ever more folders looked at is refused for a while; others
        are not, and it is not either later."""
        self.patch(manifest_store, "ALLOWANCE", 2500)
        self.patch(manifest_store, "REFILL", 100)
        for number in range(4):
            (self.root / "t" / f"d{number}").mkdir()
        server = self.make()
        client = server.connect()
        answers = [client.stat(b"t/d%d/" % n + NAME) is not None for n in range(4)]

        self.assertEqual([True, True, True, False], answers)
        self.assertEqual(["manifest_busy"], self.refusals())
        other = server.connect(key=key_pair(2))
        self.assertIsNotNone(other.stat(b"t/d3/" + NAME))
        server.sweep(6)
        self.assertIsNotNone(client.stat(b"t/" + NAME))

    def test_one_peer_does_not_push_out_what_others_use(self) -> None:
        """However many folders it asks for, what others ask for again and again is
        not made anew."""
        self.patch(manifest_store, "IN_ALL", 3)
        for number in range(6):
            (self.root / "t" / f"d{number}").mkdir()
        server = self.make()
        fleet, greedy = server.connect(), server.connect(key=key_pair(2))
        fleet.stat(ASKED)
        for number in range(6):
            self.assertIsNotNone(greedy.stat(b"t/d%d/" % number + NAME))
            self.assertIsNotNone(fleet.stat(ASKED))

        self.assertEqual(7, server.factory.manifests.made)
        self.assertEqual(3, len(server.factory.manifests._store._all))

    def test_memory(self) -> None:
        """The oldest manifests go when there are too many, or too large ones; those
        that are being sent stay, and then there is no further one."""
        for number in range(4):
            (self.root / "t" / f"d{number}").mkdir()
        server = self.make()
        client = server.connect()
        first = client.stat(b"t/d0/" + NAME)
        assert first is not None
        self.patch(manifest_store, "MEMORY", 2 * first.size)
        client.stat(b"t/d1/" + NAME)
        store = server.factory.manifests._store
        self.assertEqual(2, len(store._all))
        oldest = next(iter(store._all.values()))
        holding = [manifest_store.HeldManifest(oldest)]

        self.assertIsNotNone(client.stat(b"t/d2/" + NAME))
        self.assertEqual(2, len(store._all))
        self.assertIn(oldest, store._all.values())
        holding += [manifest_store.HeldManifest(kept) for kept in store._all.values()]
        self.refusals()
        self.assertIsNone(client.stat(b"t/d3/" + NAME))
        self.assertEqual(["manifest_memory"], self.refusals())
        for one in holding:
            one.close()
            one.close()
        self.assertEqual({0}, {kept.holders for kept in store._all.values()})
        server.sweep(80)
        self.assertEqual((0, {}), (store._memory, store._trees))


class ChangingTests(ManifestCase):
    """
    Trees that change while they are looked at.
    """

    def test_a_file_that_is_written_while_it_is_hashed(self) -> None:
        """It is hashed again: the digest listed is that of the size and time listed."""
        self.patch(manifest_build, "SMALL", -1)
        server = self.make()
        client = server.connect()
        whole = DigestCache.digest
        changes = [b"first", b"second!"]

        def digest(cache: DigestCache, held: Any, algorithm: str) -> Any:
            found = whole(cache, held, algorithm)
            if changes and held.path.endswith(b"/a"):
                (self.root / "t" / "a").write_bytes(changes.pop())
            return found

        with mock.patch.object(DigestCache, "digest", digest):
            found = manifest(client, b"t")

        self.assertEqual([], changes)
        self.assertEqual(walked(client, b"t"), found)

    def test_a_file_that_is_written_all_the_time(self) -> None:
        """There is no manifest of its tree."""
        self.patch(manifest_build, "SMALL", -1)
        client = self.make().connect()
        whole = DigestCache.digest
        count = iter(range(100))

        def digest(cache: DigestCache, held: Any, algorithm: str) -> Any:
            found = whole(cache, held, algorithm)
            with open(held.path, "ab") as file:
                file.write(b"%d" % next(count))
            return found

        with mock.patch.object(DigestCache, "digest", digest):
            self.assert_refused(client, "manifest_changing")

    def test_a_small_file_that_is_written_while_it_is_hashed(self) -> None:
        """Nor is there a digest of what is neither the file before nor after: it is
        hashed again, and when that never ends there is no manifest."""
        whole = os.pread
        path = self.root / "t" / "a"

        for times, refused in ((1, False), (100, True)):
            client = self.make().connect()
            left = list(range(times))

            def pread(
                descriptor: int, size: int, offset: int, left: list[int] = left
            ) -> bytes:
                found = whole(descriptor, size, offset)
                if left and size == os.fstat(descriptor).st_size + 1 < 100:
                    path.write_bytes(found + b"%d" % left.pop())
                return found

            with mock.patch.object(os, "pread", pread):
                if refused:
                    self.assert_refused(client, "manifest_changing")
                else:
                    found = manifest(client, b"t")
                    self.assertEqual(walked(client, b"t"), found)
                    self.assertEqual([], left)

    def test_a_file_that_is_replaced_before_it_is_hashed(self) -> None:
        """By another file, a link, a fifo or nothing: it is never opened, and the tree
        is looked at again."""
        path = self.root / "t" / "a"
        replace: list[Callable[[], object]] = [
            lambda: path.write_bytes(b"other"),
            lambda: path.symlink_to("sub/b"),
            lambda: os.mkfifo(path),
            lambda: None,
        ]
        hold = posix.hold
        for make in replace:
            path.unlink(missing_ok=True)
            path.write_bytes(b"hello")
            client = self.make().connect()
            done: list[bytes] = []

            def swap(
                name: bytes,
                *,
                follow: bool = True,
                make: Callable[[], object] = make,
                done: list[bytes] = done,
            ) -> int:
                if not follow and name.endswith(b"/t/a") and not done:
                    done.append(name)
                    path.unlink()
                    make()
                return hold(name, follow=follow)

            with mock.patch.object(posix, "hold", swap):
                found = manifest(client, b"t")

            self.assertEqual(1, len(done))
            self.assertEqual(walked(client, b"t"), found)

    def test_objects_that_vanish(self) -> None:
        """A name that is gone when it is looked at is not listed."""
        client = self.make().connect()
        names_in = posix.names_in

        def names(descriptor: int) -> list[bytes]:
            return [*names_in(descriptor), b"gone"]

        with mock.patch.object(posix, "names_in", names):
            found = manifest(client, b"t")

        self.assertEqual(walked(client, b"t"), found)

    def test_a_folder_that_is_moved_away(self) -> None:
        """What is in it is not listed under the name it had: rules decide by names,
        and it may be where nobody is admitted."""
        client = self.make().connect()
        names_in = posix.names_in
        moved: list[bytes] = []

        def names(descriptor: int) -> list[bytes]:
            found = names_in(descriptor)
            if found == [b"b"] and not moved:
                (self.root / "t" / "sub").rename(self.root / "moved")
                moved.extend(found)
            return found

        with mock.patch.object(posix, "names_in", names):
            found = manifest(client, b"t") or []

        self.assertEqual([b"b"], moved)
        self.assertEqual([b"", b"a"], [entry.name for entry in found])

    def test_a_folder_that_becomes_a_link(self) -> None:
        """It is looked at as a link then, decided by where it leads."""
        (self.root / "secret").mkdir()
        (self.root / "secret" / "b").write_bytes(b"secret")
        client = self.make().connect()
        hold = posix.hold
        swapped: list[bytes] = []

        def swap(path: bytes, **more: Any) -> int:
            if path.endswith(b"/sub") and not swapped:
                swapped.append(path)
                (self.root / "t" / "sub").rename(self.root / "t" / "old")
                (self.root / "t" / "sub").symlink_to("../secret")
            return hold(path, **more)

        with mock.patch.object(posix, "hold", swap):
            found = manifest(client, b"t")

        self.assertEqual(1, len(swapped))
        self.assertEqual(walked(client, b"t"), found)
        self.assertNotIn(b"sub/b", [entry.name for entry in found or []])
