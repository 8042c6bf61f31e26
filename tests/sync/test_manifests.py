# SPDX-License-Identifier: MIT
"""
Updates from a server that has manifests.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.server import requests
from nodecomm.sync.asking import Asking
from nodecomm.sync.errors import LimitExceeded
from nodecomm.sync.manifests import ask_for_listings, read_manifest, tree_of
from nodecomm.sync.model import Change, Kind, SyncLimits, SyncRequest
from nodecomm.testing.server import settings_of, snapshot_of
from nodecomm.wire.manifest import NAME, ManifestEntry, ManifestKind
from tests.sync.fakes import SOURCE, FakeSession, Tree
from tests.sync.hub import Hub, make_hub


def entry(name: bytes, kind: ManifestKind, **more: Any) -> ManifestEntry:
    """An object of a manifest."""
    sha256 = b"s" * 32 if kind is ManifestKind.FILE else None
    return ManifestEntry(name, kind, 0o644, 0, 0, 1, 2, sha256, **more)


class ManifestTests(SynchronousTestCase):
    """
    What is asked of a server of our own, and when it is not believed.
    """

    def setUp(self) -> None:
        """A tree of two levels, far away."""
        self.hub = self.make()

    def make(self, **options: Any) -> Hub:
        """A hub with files."""
        hub = make_hub(self.addCleanup, 0.05, manifests=True, **options)
        for number in range(20):
            hub.write(f"d{number % 4}/f{number}", b"x" * number * 100)
        hub.write("big", os.urandom(300_000), 0o750)
        return hub

    def refuse(self, *names: str) -> None:
        """The server has a rule against these names now."""
        source = str(self.hub.source)
        rules: list[dict[str, Any]] = [{"path": source, "admit_ips": ["127.0.0.1"]}]
        rules += [
            {"path": f"{source}/{name}", "deny_ips": ["127.0.0.1"]} for name in names
        ]
        tables = {"allowallconnects": ["0.0.0.0/0"]}
        settings = settings_of({"server": tables, "access": rules})
        serving: Any = self.hub.server.factory.serving
        serving.evaluator.snapshot = snapshot_of(settings, 1)

    def same(self) -> None:
        """Both sides are the same."""
        self.assertEqual(self.hub.tree(), self.hub.tree(self.hub.source))

    def test_a_fresh_copy(self) -> None:
        """
        One file tells everything; content needs no questions then.
        """
        result = self.hub.run()

        self.same()
        self.assertTrue(result.manifest)
        self.assertEqual(result.fetched, 21)
        # TCP, TLS, the hello; status, manifest, content.
        self.assertEqual(result.round_trips, 6)

    def test_no_change_is_one_question(self) -> None:
        """
        At once after the first run, and hardly any bytes.
        """
        self.hub.run()

        result = self.hub.run()

        self.assertTrue(result.manifest)
        self.assertFalse(result.changed)
        self.assertEqual(result.round_trips, 3)
        self.assertLess(result.bytes_received, 400)
        self.assertEqual(result.checked, 21)

    def test_a_change(self) -> None:
        """
        What the manifests have in common is not hashed or asked about.
        """
        self.hub.run()
        self.hub.write("d1/f1", b"new")
        self.hub.wait(1)

        result = self.hub.run(purge=True)

        self.same()
        self.assertEqual(result.changes, (Change(b"d1/f1", "updated"),))

    def test_a_change_of_this_moment(self) -> None:
        """
        An update may be told what the server found some seconds before; one that asks
        for what is new is not, with a manifest at hand or without one.
        """
        self.hub = self.make(manifest_max_age=10.0)
        for number, forget in enumerate((False, True)):
            self.hub.run()
            self.hub.write("d1/f1", b"new%d" % number)
            self.assertFalse(self.hub.run(dry_run=True).changed)
            if forget:
                shutil.rmtree(self.hub.root / "state")

            result = self.hub.run(new=True)

            self.same()
            self.assertTrue(result.manifest)
            self.assertEqual(result.changes, (Change(b"d1/f1", "updated"),))

    def test_nothing_new_is_one_question(self) -> None:
        """
        Though it is made for this question.
        """
        self.hub = self.make(manifest_max_age=10.0)
        self.hub.run()
        made = self.hub.server.factory.manifests.made

        result = self.hub.run(new=True)

        self.assertEqual((result.manifest, result.changed), (True, False))
        self.assertEqual(result.round_trips, 3)
        self.assertLess(made, self.hub.server.factory.manifests.made)

    def test_a_server_without_new_manifests(self) -> None:
        """
        One of an older release refuses them: it is asked for each object.
        """
        self.patch(requests, "_MANIFEST", b"/" + NAME)
        for _ in range(2):
            self.hub.run()
            self.hub.write("d1/f1", os.urandom(9))

            result = self.hub.run(new=True)

            self.same()
            self.assertFalse(result.manifest)
            self.assertEqual(result.changes, (Change(b"d1/f1", "updated"),))

    def test_a_local_change_is_repaired(self) -> None:
        """
        While the server's side stays as it is.
        """
        self.hub.run()
        path = self.hub.dest / "d1" / "f1"
        was = path.stat()
        path.write_bytes(b"y" * was.st_size)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

        result = self.hub.run()

        self.same()
        self.assertTrue(result.manifest)
        self.assertEqual(result.fetched, 1)

    def test_digest_hashes_everything_here(self) -> None:
        """
        What is here is compared with the manifest, file by file.
        """
        self.hub.run()

        result = self.hub.run(compare="digest")

        self.assertFalse(result.changed)
        self.assertTrue(result.manifest)

    def test_what_is_refused_stays(self) -> None:
        """
        The manifest does not tell which names it leaves out; the listing does, so
        that what is really gone is removed and what is refused is not.
        """
        self.hub.run()
        self.refuse("d1")
        (self.hub.source / "big").unlink()
        self.hub.wait(1)
        before = self.hub.tree()
        del before["big"]

        result = self.hub.run(purge=True)

        self.assertTrue(result.manifest)
        self.assertEqual(self.hub.tree(), before)
        self.assertEqual(result.refused, (b"d1",))
        self.assertEqual(result.removed, 1)

    def test_a_file_that_is_not_what_the_manifest_says(self) -> None:
        """
        The manifest is fetched once more; if that does not help, the tree is walked.
        """
        hub = self.make(manifest_max_age=1000.0)
        hub.run()
        # The manifest still answers for what was there before.
        path = hub.write("d1/f1", b"same size as before? no matter".ljust(100))
        (hub.dest / "d1" / "f1").unlink()

        result = hub.run()

        self.assertEqual(hub.dest.joinpath("d1/f1").read_bytes(), path.read_bytes())
        self.assertFalse(result.manifest)
        self.assertGreater(result.connections, 1)

    def test_a_real_file_of_that_name(self) -> None:
        """
        It is a file like others, and the tree is walked.
        """
        self.hub.write(os.fsdecode(NAME), b"just a file")

        result = self.hub.run()

        self.same()
        self.assertFalse(result.manifest)

    def test_connections_break(self) -> None:
        """
        With a manifest as without.
        """
        for steps in range(21, 40, 2):
            hub = self.make()
            running = hub.start()
            hub.network.advance(0.01 * steps)
            for connection in hub.network.connections:
                connection.cut()

            hub.network.result_of(running)

            self.assertEqual(hub.tree(), hub.tree(hub.source))

    def test_names_that_cannot_be_asked_for(self) -> None:
        """
        The manifest can tell them, and GET cannot.
        """
        self.hub.write("new\nline", b"1")

        result = self.hub.run()

        self.assertFalse((self.hub.dest / "new\nline").exists())
        self.assertTrue(any("new" in line for line in result.warnings))

    def test_trees(self) -> None:
        """
        What is excluded, special, below something excluded or called as something of
        ours is present and not in the tree; a folder that cannot be listed keeps all
        that is here.
        """
        here: Any = dict.fromkeys((b"half/mine", b"half/told", b"mine"))
        tree = tree_of(
            [
                entry(b"", ManifestKind.FOLDER),
                entry(b".nodecomm-fetched", ManifestKind.FOLDER),
                entry(b".nodecomm-fetched/file", ManifestKind.FILE),
                entry(b"fifo", ManifestKind.OTHER),
                entry(b"half", ManifestKind.FOLDER, partial=True),
                entry(b"half/told", ManifestKind.FILE),
                entry(b"link", ManifestKind.LINK, target=b"x"),
                entry(b"out", ManifestKind.FOLDER),
                entry(b"out/file", ManifestKind.FILE),
            ],
            SyncRequest(b"/s", b"/d", exclude=(b"out/",)),
            here,
            {b"half": None},
        )

        self.assertEqual(list(tree.entries), [b"", b"half", b"half/told", b"link"])
        self.assertEqual(
            tree.present, {b".nodecomm-fetched", b"fifo", b"half/mine", b"out"}
        )
        self.assertEqual(tree.entries[b"half/told"].sha256, b"s" * 32)
        self.assertIs(tree.entries[b"link"].kind, Kind.LINK)

    def test_listings_have_one_limit(self) -> None:
        """
        A manifest may say of many folders that it does not tell all, and each can be
        as long as may be.
        """
        tree: Tree = {b"a": None, b"b": None}
        for name in (b"a", b"b"):
            tree.update({b"%b/%d" % (name, number): b"" for number in range(3)})
        folders = [
            entry(name, ManifestKind.FOLDER, partial=True) for name in (b"a", b"b")
        ]

        def listed(limit: int) -> Any:
            session = FakeSession(tree)
            limits = SyncLimits(entries=limit)
            request = SyncRequest(SOURCE, b"/d", limits=limits)
            asked = ask_for_listings(Asking(session), request, folders)
            done = Deferred.fromCoroutine(asked)
            session.answer_all()
            return done

        self.assertEqual(self.successResultOf(listed(6))[b"b"], [b"0", b"1", b"2"])
        self.failureResultOf(listed(5), LimitExceeded)

    def test_too_deep(self) -> None:
        """
        The limit holds here, too.
        """
        limits = SyncLimits(depth=1)
        entries = [
            entry(name, ManifestKind.FOLDER) for name in (b"", b"a", b"a/b", b"a/b/c")
        ]
        tree_of(entries[:2], SyncRequest(b"/s", b"/d", limits=limits), {}, {})
        self.assertRaises(
            LimitExceeded,
            tree_of,
            entries,
            SyncRequest(b"/s", b"/d", limits=limits),
            {},
            {},
        )

    def test_garbage_is_no_manifest(self) -> None:
        """
        Nor is a part of one.
        """
        self.assertIsNone(read_manifest(b"garbage", 10))
        self.assertIsNone(read_manifest(b"nodecomm-manifest 1\n", 10))
