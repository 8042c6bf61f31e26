# SPDX-License-Identifier: MIT
"""
Manifests: who gets which, how old, at what cost, and when there is none.
"""

from __future__ import annotations

import os
from hashlib import md5, sha256
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SkipTest

from nodecomm.server import manifest_build, manifest_store, manifest_walk, posix
from nodecomm.server.digests import DigestCache
from nodecomm.server.names import HostName
from nodecomm.server.pools import InlinePool, Workers
from nodecomm.testing import (
    MemorySource,
    key_pair,
    memory_server,
)
from nodecomm.testing.server import settings_of, snapshot_of
from nodecomm.wire.commands import encode_digest, encode_get, encode_stat
from nodecomm.wire.manifest import NAME, NAME_OF_NEW, ManifestKind, parse_manifest
from nodecomm.wire.replies import DIGEST_DIFFERS, DIGEST_EQUAL, REFUSAL
from tests.server.manifest_case import ASKED, ASKED_NEW, ManifestCase
from tests.server.pools import HandPool
from tests.server.walked import manifest, manifest_text, walked


class ContentTests(ManifestCase):
    """
    What a manifest says, and by what name.
    """

    def test_everything_in_a_tree(self) -> None:
        """Files, folders, links into the tree, out of it and to nowhere, loops, fifos
        and odd names are listed as the single requests tell them."""
        tree = self.root / "t"
        (self.root / "out").mkdir()
        (self.root / "out" / "far").write_bytes(b"far")
        (self.root / "hidden").write_bytes(b"hidden")
        for name, target in (
            ("file", "a"),
            ("folder", "sub"),
            ("lost", "no\twhere\\\n"),
            ("self", "self"),
            ("sub/up", ".."),
            ("sub/here", "."),
            ("far", "../out"),
            ("hidden", "../hidden"),
        ):
            (tree / name).symlink_to(target)
        os.mkfifo(tree / "fifo", 0o644)
        for raw in (b"\xff\t", b"back\\slash", b" first", "größe".encode(), b"line\n"):
            Path(os.fsdecode(os.fsencode(tree / "sub") + b"/" + raw)).write_bytes(raw)
        os.chmod(tree / "a", 0o4755)
        os.utime(tree / "a", (5, -5))
        client = self.make(self.rule("out")).connect()

        found = manifest(client, b"t")

        assert found is not None
        self.assertEqual(walked(client, b"t"), found)
        kinds = {entry.name: entry.kind for entry in found}
        self.assertEqual(kinds[b"sub/up"], ManifestKind.OTHER)
        self.assertEqual(kinds[b"folder/here"], ManifestKind.OTHER)
        self.assertEqual(kinds[b"far/far"], ManifestKind.FILE)
        self.assertNotIn(b"hidden", kinds)
        partial = {entry.name for entry in found if entry.partial}
        self.assertEqual({b"", b"sub", b"folder"}, partial)

    def test_names_of_the_folder(self) -> None:
        """It is there under whatever name its folder has, and in folders below."""
        client = self.make().connect()
        (self.root / "link").symlink_to("t")
        path = os.fsencode(self.root)

        whole = manifest(client, b"t")

        for name in (
            path + b"/t",
            path + b"/link",
            path + b"/t/sub/..",
            b"t//",
            b"t/.",
        ):
            self.assertEqual(whole, manifest(client, name), name)
        self.assertEqual(
            [b"", b"b"], [entry.name for entry in manifest(client, b"t/sub") or []]
        )

    def test_no_listing_shows_it(self) -> None:
        """OPENDIR has the names that are there, also after it was asked for; and it
        is no folder."""
        client = self.make().connect()
        before = client.opendir(b"t")
        manifest(client, b"t")

        self.assertEqual(before, client.opendir(b"t"))
        self.assertNotIn(NAME, before or [])
        self.assertIsNone(client.opendir(ASKED))

    def test_comparing(self) -> None:
        """MD5 answers whether the manifest held is that of now, by either digest."""
        client = self.make().connect()
        held = manifest_text(client, b"t") or b""

        for digest in (md5(held).digest(), sha256(held).digest()):
            self.assertEqual(DIGEST_EQUAL, client.differs(ASKED, digest))
        for digest in (md5(b"").digest(), sha256(b"").digest()):
            self.assertEqual(DIGEST_DIFFERS, client.differs(ASKED, digest))

    def test_a_real_file_wins(self) -> None:
        """A file of the name is served as any other, and told of once."""
        (self.root / "t" / os.fsdecode(NAME)).write_bytes(b"real")
        client = self.make().connect()

        self.assertEqual(b"real", manifest_text(client, b"t"))
        self.assertEqual(DIGEST_EQUAL, client.differs(ASKED, md5(b"real").digest()))
        self.assertIn(NAME, client.opendir(b"t") or [])
        told = [e for e in self.events if e.get("event") == "manifest.shadowed"]
        self.assertEqual(
            [str(self.root / "t" / os.fsdecode(NAME))],
            [event["name"] for event in told],
        )

    def test_a_real_file_below_is_listed(self) -> None:
        """In another folder's manifest it is a file with a name."""
        (self.root / "t" / "sub" / os.fsdecode(NAME)).write_bytes(b"real")
        client = self.make().connect()

        found = manifest(client, b"t")

        self.assertEqual(walked(client, b"t"), found)
        self.assertIn(b"sub/" + NAME, [entry.name for entry in found or []])

    def test_a_real_file_that_may_not_be_had(self) -> None:
        """Refused; there is no manifest in its place."""
        real = self.root / "t" / os.fsdecode(NAME)
        real.write_bytes(b"real")
        client = self.make({"path": str(real), "deny_ips": ["127.0.0.1"]}).connect()

        self.assert_refused(client, "denied")


class RefusalTests(ManifestCase):
    """
    Where there is no manifest.
    """

    def test_where_there_is_none(self) -> None:
        """Names that are no folder's, or whose folder may not be listed, are refused
        like any other."""
        server = self.make()
        client = server.connect()
        secret = self.root / "secret"
        secret.mkdir()
        for name, reason in (
            (b"t/no", "absent"),
            (b"t/a", "absent"),
            (os.fsencode(secret), "no_rule"),
            (b"", "no_rule"),
            (b"other", "no_shortcut"),
        ):
            self.refusals()
            self.assertIsNone(client.stat(name + b"/" + NAME))
            self.assertEqual([reason], self.refusals(), name)
        self.assertEqual(0, server.factory.manifests.made)

    def test_switched_off(self) -> None:
        """With an age of 0 the name is absent, and a real one is not told of."""
        client = self.make(manifest_max_age=0).connect()
        self.assert_refused(client, "absent")

    def test_get_without_stat(self) -> None:
        """Is refused: a peer that is refused every STAT, because its clock is wrong,
        learns nothing here that STAT says."""
        server = self.make()
        client = server.connect()
        good, wrong = int(server.now), int(server.now) - 10_000
        self.assertEqual([REFUSAL], client.request(encode_get(ASKED)))
        self.assertEqual(["manifest_not_announced"], self.refusals())

        self.assertEqual(2, len(client.request(encode_stat(good, ASKED))))
        self.assertEqual(1, len(client.request(encode_stat(wrong, ASKED))))
        self.assertEqual([REFUSAL], client.request(encode_get(ASKED)))

    def test_rules_about_connections(self) -> None:
        """A rule with `$(connection.*)` that could cover a part of the tree; one that
        cannot does not matter."""
        for place, refused in (
            ("t/$(connection.ip)/", True),
            ("t/sub/x-$(connection.key)", False),
            ("t/sub/$(connection.key)", True),
            ("other/$(connection.ip)/", False),
            ("$(connection.ip)/", True),
        ):
            rule = self.rule(place, admit_ips=["$(connection.ip)"])
            client = self.make(rule).connect()
            if refused:
                self.assert_refused(client, "manifest_connection")
            else:
                self.assertIsNotNone(manifest(client, b"t"), place)

    def test_sources_of_plugins(self) -> None:
        """A tree with a plugin's source in it, at it or above it."""
        source = MemorySource({b"made": b"made"})
        for place in ("t/sub", "t/gone", "t", ".."):
            rule = {
                "path": os.path.normpath(self.root / place),
                "source": "memory",
                "admit_ips": ["127.0.0.1"],
            }
            client = memory_server(
                {**self.rule("t/a"), "path": str(self.root) + "/"},
                {**self.rule("t/a"), "shortcut": "x"},
                rule,
                sources={"memory": source},
            ).connect()
            self.refusals()
            self.assertIsNone(client.stat(os.fsencode(self.root / "t") + b"/" + NAME))
            self.assertEqual(["manifest_source"], self.refusals(), place)

    def test_host_names_that_are_not_known(self) -> None:
        """A rule that needs the name of a peer whose name could not be looked up; a
        manifest of the part where it is not needed can be had, and the answer for
        this peer is not that for others."""
        names = HandPool()
        inline = InlinePool()
        server = self.make(
            self.rule("t/sub", admit_hostnames=["node.example"]),
            workers=Workers(inline, inline, names, inline),
        )
        unknown, named = server.connect(), server.connect("127.0.0.2")
        for name, known in ((None, False), ("node.example", True)):
            names.waiting.pop(0)[0].callback(making_name(name, known))

        self.assert_refused(unknown, "manifest_hostname")
        self.assertEqual(walked(named, b"t"), manifest(named, b"t"))
        self.assert_refused(unknown, "manifest_hostname")

    def test_limits(self) -> None:
        """Too many objects, names, rules and folders inside each other."""
        more = [self.rule(f"t/{name}") for name in ("a", "sub")]
        for limit, value, reason in (
            ("MAX_ENTRIES", 3, "manifest_entries"),
            ("MAX_NAMES", 8, "manifest_entries"),
            ("MAX_RULES", 2, "manifest_rules"),
            ("MAX_DEPTH", 0, "manifest_depth"),
        ):
            client = self.make(*more).connect()
            with mock.patch.object(manifest_walk, limit, value + 1):
                self.assertIsNotNone(manifest(client, b"t"), limit)
            client = self.make(*more).connect()
            with mock.patch.object(manifest_walk, limit, value):
                self.assert_refused(client, reason)

    def test_what_cannot_be_looked_at(self) -> None:
        """An error of the disk is told in the log, tried again later, and nobody is
        left without the single requests."""
        server = self.make()
        client = server.connect()
        with mock.patch.object(posix, "names_in", side_effect=OSError(5, "I/O error")):
            self.assert_refused(client, "manifest_failed")
        self.assert_refused(client, "manifest_failed")
        self.assertIsNotNone(walked(client, b"t"))

        server.sweep(manifest_store.REFUSED + 1)

        self.assertEqual(walked(client, b"t"), manifest(client, b"t"))

    def test_mistakes_of_this_program(self) -> None:
        """Are told with a traceback, and refuse the manifest only."""
        self.patch(manifest_build, "SMALL", -1)
        client = self.make().connect()
        with mock.patch.object(
            DigestCache, "digest", side_effect=ZeroDivisionError("mistake")
        ):
            self.assert_refused(client, "manifest_failed")
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


def making_name(name: str | None, known: bool) -> Any:
    """The result of a look-up."""
    return HostName(name, known)


class AgeTests(ManifestCase):
    """
    How old a manifest may be.
    """

    def test_it_is_made_anew(self) -> None:
        """For `manifest_max_age` one answers all; then the tree is looked at again."""
        server = self.make()
        client = server.connect()
        held = manifest_text(client, b"t") or b""
        (self.root / "t" / "new").write_bytes(b"new")

        server.sweep(9.9)
        self.assertEqual(DIGEST_EQUAL, client.differs(ASKED, md5(held).digest()))
        self.assertEqual(1, server.factory.manifests.made)

        server.sweep(0.2)
        self.assertEqual(DIGEST_DIFFERS, client.differs(ASKED, md5(held).digest()))
        self.assertEqual(walked(client, b"t"), manifest(client, b"t"))
        self.assertEqual(2, server.factory.manifests.made)

    def test_a_new_one(self) -> None:
        """Under its other name a manifest is never older than the question, and it is
        what others get from then on."""
        server = self.make()
        client = server.connect()
        for content in (b"one", b"two", b"one"):
            before = manifest_text(client, b"t") or b""
            (self.root / "t" / "a").write_bytes(content)
            digest = md5(before).digest()
            equal, differs = client.request(
                encode_digest(ASKED, digest), encode_digest(ASKED_NEW, digest)
            )
            self.assertEqual((DIGEST_EQUAL, DIGEST_DIFFERS), (equal, differs))
            after = manifest_text(client, b"t")
            self.assertNotEqual(before, after)
            announced = client.stat(ASKED_NEW)
            assert announced is not None
            self.assertEqual(after, client.get(ASKED_NEW, announced.size))
            self.assertEqual(walked(client, b"t"), parse_manifest(after or b"", 9))

    def test_a_real_file_with_the_name_of_a_new_one(self) -> None:
        """It is served in its place, and the folder has no manifest."""
        (self.root / "t" / os.fsdecode(NAME_OF_NEW)).write_bytes(b"mine")
        client = self.make().connect()

        self.assertEqual(b"mine", client.get(ASKED_NEW, 4))
        self.assert_refused(client, "manifest_shadowed")

    def test_every_change_is_another_manifest(self) -> None:
        """Content, mode, owner, time, name, type: nothing changes without another
        digest, and an unchanged tree has the same bytes again."""
        server = self.make()
        client = server.connect()
        tree = self.root / "t"
        os.utime(tree / "a", (100, 100))
        stat = os.stat(tree / "sub")

        def rewrite() -> None:
            (tree / "a").write_bytes(b"HELLO")
            os.utime(tree / "a", (100, 100))

        def rename() -> None:
            (tree / "sub" / "b").rename(tree / "sub" / "c")
            os.utime(tree / "sub", ns=(stat.st_atime_ns, stat.st_mtime_ns))

        texts = []
        for change in (
            lambda: None,
            rewrite,
            lambda: os.chmod(tree / "a", 0o755),
            # Only root gives files away.
            lambda: (
                os.chown(tree / "a", 1, 1)
                if os.geteuid() == 0
                else os.chmod(tree / "a", 0o700)
            ),
            lambda: os.utime(tree / "a", (100, 101)),
            rename,
        ):
            change()
            server.sweep(11)
            texts.append(manifest_text(client, b"t"))
            server.sweep(11)
            self.assertEqual(texts[-1], manifest_text(client, b"t"))
            self.assertEqual(walked(client, b"t"), parse_manifest(texts[-1] or b"", 9))
        self.assertEqual(len(texts), len(set(texts)))

    def test_get_sends_what_was_announced(self) -> None:
        """Though another manifest was made meanwhile, for this or another peer; with a
        size that tells them apart or not."""
        server = self.make()
        client, other = server.connect(), server.connect()
        for content in (b"longer than before", b"HELLO", b"hELLO"):
            announced = client.stat(ASKED)
            assert announced is not None
            before = manifest_text(other, b"t")
            (self.root / "t" / "a").write_bytes(content)
            server.sweep(11)
            after = manifest_text(other, b"t")

            self.assertNotEqual(before, after)
            self.assertEqual(before, client.get(ASKED, announced.size))
            self.assertEqual(after, manifest_text(client, b"t"))

    def test_get_comes_too_late(self) -> None:
        """What was announced is not kept for ever: the connection is closed, which no
        peer takes for content."""
        server = self.make(limits=settings_of({"limits": {"idle_timeout": 900}}).limits)
        client = server.connect()
        announced = client.stat(ASKED)
        assert announced is not None
        server.sweep(10 + manifest_store.KEPT + 2)

        self.assertEqual(b"", client.get(ASKED, announced.size))
        self.assertTrue(client.closed)

    def test_other_rules(self) -> None:
        """No manifest outlives the rules it was made by, not even one announced."""
        server = self.make()
        client, other = server.connect(), server.connect()
        announced = client.stat(ASKED)
        assert announced is not None
        held = manifest_text(other, b"t") or b""
        tree = {
            "server": {"allowallconnects": ["0.0.0.0/0"]},
            "access": [
                {**self.rule(), "shortcut": "t"},
                self.rule("t/sub", admit_ips=["127.0.0.9"]),
            ],
        }
        server.factory.serving.evaluator.snapshot = snapshot_of(settings_of(tree))

        self.assertEqual(DIGEST_DIFFERS, other.differs(ASKED, md5(held).digest()))
        found = manifest(other, b"t") or []
        self.assertEqual([b"", b"a"], [entry.name for entry in found])
        self.assertEqual(b"", client.get(ASKED, announced.size))
        self.assertTrue(client.closed)


class SharingTests(ManifestCase):
    """
    Who shares a manifest with whom.
    """

    def test_peers_alike_share(self) -> None:
        """Another key and another admitted address make no difference where no rule
        says so; another user makes none where everybody may read all."""
        server = self.make()
        server.store.add("daemon", key_pair(2).public)
        texts = {
            manifest_text(client, b"t")
            for client in (
                server.connect(),
                server.connect("127.0.0.2", key=key_pair(2)),
                server.connect(key=key_pair(2), user=b"daemon"),
            )
        }
        self.assertEqual(1, len(texts))
        self.assertEqual(1, server.factory.manifests.made)

    def test_owners_of_files(self) -> None:
        """Who owns a private file sees it; root too; others do not."""
        if os.geteuid() != 0:
            raise SkipTest("only root gives files away")
        os.chown(self.root / "t" / "a", 1, 1)
        os.chmod(self.root / "t" / "a", 0o600)
        server = self.make()
        for number, name in ((2, "daemon"), (3, "bin"), (4, "unheard-of")):
            server.store.add(name, key_pair(number).public)
        for number, user, seen in (
            (1, b"root", True),
            (2, b"daemon", True),
            (3, b"bin", False),
            (4, b"unheard-of", False),
            (2, b"daemon", True),
        ):
            client = server.connect(key=key_pair(number), user=user)
            found = manifest(client, b"t") or []
            self.assertEqual(seen, b"a" in [entry.name for entry in found], user)
            self.assertEqual(not seen, found[0].partial)
            self.assertEqual(walked(client, b"t"), found)
        # Root, the owner, and everybody else.
        self.assertEqual(3, server.factory.manifests.made)

    def test_rules_below(self) -> None:
        """A rule for a file in the tree divides the peers it treats differently."""
        server = self.make(self.rule("t/a", admit_keys=[key_pair(2).public.md5]))
        for number, names in (
            (1, [b"", b"sub", b"sub/b"]),
            (2, [b"", b"a", b"sub", b"sub/b"]),
        ):
            client = server.connect(key=key_pair(number))
            for _ in range(2):
                found = manifest(client, b"t") or []
                self.assertEqual(names, [entry.name for entry in found])
        self.assertEqual(2, server.factory.manifests.made)
