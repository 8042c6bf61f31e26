# SPDX-License-Identifier: MIT
"""
Whole updates over the classic protocol, plain and encrypted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.errors import ClientError
from nodecomm.sync.errors import SourceRefused
from nodecomm.sync.model import Change, Replace
from nodecomm.testing.server import settings_of, snapshot_of
from nodecomm.wire.cipher import BLOCK
from nodecomm.wire.replies import CHANGED_PREFIX, REFUSAL
from tests.sync.hub import Hub, Protocol, make_hub

CLASSIC: tuple[Protocol, ...] = ("plain", "encrypted")

#: Where links lead, by their names.
LINKS = {
    "to-file": "big",
    "to-folder": "d1",
    "d1/up": "..",
    "d1/loop": ".",
    "d1/f": "f1",
    "d2/beside": "../d1/f1",
}


class ClassicTests(SynchronousTestCase):
    """
    The tree of the server is the tree here, links as links.
    """

    def hubs(self, latency: float = 0.0, **more: Any) -> Iterator[Hub]:
        """Server and node, in the clear and encrypted."""
        for protocol in CLASSIC:
            hub = make_hub(self.addCleanup, latency, protocol, **more)
            self.fill(hub)
            yield hub

    def fill(self, hub: Hub) -> None:
        """Files of several sizes and modes, and links of every kind."""
        for number in range(12):
            hub.write(f"d{number % 4}/f{number}", b"x" * number * 100)
        for size in (1, 7, 8, 9, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK):
            hub.write(f"sizes/{size}", os.urandom(size))
        hub.write("big", os.urandom(1_500_000), 0o750)
        hub.write("empty", b"", 0o4711)
        (hub.source / "hollow").mkdir(mode=0o700)
        for name, text in LINKS.items():
            (hub.source / name).symlink_to(text)

    def same(self, hub: Hub) -> None:
        """Both sides are the same, and nothing was left beside."""
        self.assertEqual(hub.tree(), hub.tree(hub.source))
        for name in hub.leftovers():
            self.assertIn(name, (".inputs.nodecomm-lock", ".inputs.nodecomm-previous"))

    def test_a_fresh_copy(self) -> None:
        """
        Content, modes and links are the server's, over one connection.
        """
        for hub in self.hubs():
            result = hub.run()

            self.same(hub)
            self.assertEqual(os.readlink(hub.dest / "to-folder"), "d1")
            self.assertEqual((result.checked, result.fetched), (22, 22))
            self.assertEqual((result.connections, result.refused), (1, ()))
            self.assertEqual((result.warnings, result.manifest), ((), False))
            self.assertIn(Change(b"d1/up", "added"), result.changes)

    def test_every_way_to_replace(self) -> None:
        """
        Links are right in each, and stay the same ones when nothing changes.
        """
        ways: tuple[Replace, ...] = ("exchange", "symlink", "files")
        for replace in ways:
            hub = make_hub(self.addCleanup, protocol="plain")
            self.fill(hub)
            hub.run(replace=replace)
            before = {name: os.lstat(hub.dest / name).st_ino for name in LINKS}
            hub.write("d1/f1", b"changed")

            result = hub.run(replace=replace, purge=True)

            self.assertEqual(hub.tree(), hub.tree(hub.source), replace)
            self.assertEqual(result.changes, (Change(b"d1/f1", "updated"),))
            after = {name: os.lstat(hub.dest / name).st_ino for name in LINKS}
            self.assertEqual(after, before, replace)

    def test_nothing_changed(self) -> None:
        """
        The third run asks about nothing but the status of everything, in the round
        trips that connecting takes and one.
        """
        for hub in self.hubs(0.05):
            first = hub.run()
            hub.wait(5)
            second = hub.run()
            hub.wait(5)
            third = hub.run()

            self.assertFalse(second.changed or third.changed)
            self.assertLess(third.bytes_received, second.bytes_received)
            # TCP and the dialog; source, listing, 2 for the next level; content;
            # digests. That the source is a folder is not guessed at.
            self.assertEqual(first.round_trips, 2 + 5 + 2)
            self.assertEqual((second.round_trips, third.round_trips), (4, 3))

    def test_links_change(self) -> None:
        """
        A link becomes another, a file, a folder, and all the other way round.
        """
        for hub in self.hubs():
            hub.run()
            source = hub.source
            for name in ("to-file", "to-folder", "d1/loop"):
                (source / name).unlink()
            (source / "to-file").symlink_to("empty")
            hub.write("to-folder", b"a file now")
            hub.write("d1/loop/inside", b"a folder now")
            (source / "hollow").rmdir()
            (source / "hollow").symlink_to("d1")
            (source / "empty").unlink()
            (source / "empty").symlink_to("d1/f1")

            result = hub.run()

            self.same(hub)
            self.assertEqual(result.connections, 1)
            hub.run()
            self.assertFalse(hub.run().changed)

    def test_links_to_nowhere(self) -> None:
        """
        A link whose target is missing is a link here as well, over TLS and without.
        """
        protocols: tuple[Protocol, ...] = ("tls", *CLASSIC)
        for protocol in protocols:
            hub = make_hub(self.addCleanup, protocol=protocol)
            hub.write("a", b"1")
            (hub.source / "gone").symlink_to("no/such")
            (hub.source / "g").symlink_to("x")

            result = hub.run()

            self.same(hub)
            self.assertEqual((result.refused, result.warnings), ((), ()))

    def test_links_out_of_what_is_allowed(self) -> None:
        """
        They are refused like what they lead to, and what is here stays.
        """
        for hub in self.hubs():
            (hub.root / "outside").write_bytes(b"secret")
            (hub.source / "out").symlink_to("../outside")

            result = hub.run()

            self.assertEqual(result.refused, (b"out",))
            self.assertFalse((hub.dest / "out").is_symlink())
            self.assertEqual(result.connections, 1)

    def test_the_source_is_a_link(self) -> None:
        """
        To a folder or to a file: it is followed.
        """
        for hub in self.hubs():
            (hub.source / "way").symlink_to("d1")
            hub.run(source=os.fsencode(hub.source / "way"))
            self.assertEqual(hub.tree(), hub.tree(hub.source / "d1"))
            other = hub.dest.parent / "file"
            wanted = {
                "source": os.fsencode(hub.source / "to-file"),
                "destination": os.fsencode(other),
            }
            hub.run(**wanted)
            self.assertEqual(other.read_bytes(), (hub.source / "big").read_bytes())
            self.assertFalse(hub.run(**wanted).changed)

    def test_from_one_protocol_to_another(self) -> None:
        """
        Over TLS links are copies of what they lead to. A destination may change over,
        and back, and each time is what a new one would be.
        """
        hub = make_hub(self.addCleanup, protocol="tls")
        self.fill(hub)
        for name in ("d1/up", "d1/loop"):
            # Endless over TLS, so left out there.
            (hub.source / name).unlink()
        steps: tuple[Protocol, ...] = ("tls", "plain", "tls", "encrypted", "plain")
        for protocol in steps:
            hub.protocol = protocol
            hub.new_syncer()

            hub.run(purge=True)
            again = hub.run(purge=True)

            self.assertEqual(
                (hub.dest / "to-folder").is_symlink(), protocol != "tls", protocol
            )
            self.assertEqual((hub.dest / "to-folder" / "f1").read_bytes(), b"x" * 100)
            if protocol != "tls":
                self.same(hub)
            self.assertFalse(again.changed)

    def test_preserve(self) -> None:
        """
        Owner and times are taken of what is no link.
        """
        for hub in self.hubs():
            os.utime(hub.source / "d1" / "f1", (10, 1000))
            before = hub.run(preserve=True)

            self.assertTrue(before.changed)
            self.assertEqual((hub.dest / "d1" / "f1").stat().st_mtime, 1000)
            self.assertFalse(hub.run(preserve=True).changed)

    def test_content_that_looks_like_the_protocol(self) -> None:
        """
        Files that consist of its error texts are copied right.
        """
        texts = [REFUSAL, CHANGED_PREFIX + b": /x", b"BAD: x", b"t 9     CFD_FALSE" * 9]
        for hub in self.hubs():
            for number, text in enumerate(texts):
                hub.write(f"texts/{number}", text)

            result = hub.run()

            self.same(hub)
            self.assertEqual(result.connections, 1)

    def forbid(self, hub: Hub, *more: dict[str, Any]) -> None:
        """Other rules from now on: the source's, and these."""
        rules = [{"path": str(hub.source), "admit_ips": ["127.0.0.1"]}, *more]
        everyone = ["0.0.0.0/0"]
        tables = {"allowallconnects": everyone, "allowlegacyconnects": everyone}
        settings = settings_of({"server": tables, "access": rules})
        serving: Any = hub.server.factory.serving
        serving.evaluator.snapshot = snapshot_of(settings, 1)

    def test_folders_that_are_refused_now(self) -> None:
        """
        They were there the last time, so their listings are asked for at once, and
        the server closes: the run goes on without them, and removes nothing.
        """
        for hub in self.hubs():
            hub.run()
            before = hub.tree()
            self.forbid(
                hub,
                {"path": str(hub.source / "d1"), "deny_ips": ["127.0.0.1"]},
                {"path": str(hub.source / "sizes"), "deny_ips": ["127.0.0.1"]},
            )
            hub.write("d2/f2", b"new")

            result = hub.run(purge=True)

            # Links to what is refused are refused, too.
            self.assertLessEqual({b"d1", b"sizes"}, set(result.refused))
            self.assertEqual(result.removed, 0)
            self.assertEqual(hub.tree(), {**before, "d2/f2": (0o644, b"new")})
            self.assertEqual(result.connections, 2)

    def test_folders_that_are_given_encrypted_only(self) -> None:
        """
        In the clear their status is told and their names are not: they are left
        alone, each for one connection more. Encrypted, they are like all others.
        """
        for hub in self.hubs():
            self.forbid(
                hub,
                {
                    "path": str(hub.source / "d1"),
                    "admit_ips": ["127.0.0.1"],
                    "ifencrypted": True,
                },
                {
                    "path": str(hub.source / "d3"),
                    "admit_ips": ["127.0.0.1"],
                    "ifencrypted": True,
                },
            )

            result = hub.run(purge=True)

            if hub.protocol == "encrypted":
                self.same(hub)
                self.assertEqual(result.connections, 1)
                continue
            self.assertEqual(result.refused, (b"d1", b"d3"))
            self.assertEqual(result.connections, 3)
            self.assertFalse((hub.dest / "d1").exists())
            self.assertTrue((hub.dest / "d2" / "f2").exists())

    def test_a_source_that_is_given_encrypted_only(self) -> None:
        """
        In the clear it is refused, and nothing changes.
        """
        hub = make_hub(self.addCleanup, protocol="plain")
        self.fill(hub)
        hub.run()
        before = hub.tree()
        rule = {
            "path": str(hub.source),
            "admit_ips": ["127.0.0.1"],
            "ifencrypted": True,
        }
        tables = {
            "allowallconnects": ["0.0.0.0/0"],
            "allowlegacyconnects": ["0.0.0.0/0"],
        }
        serving: Any = hub.server.factory.serving
        serving.evaluator.snapshot = snapshot_of(
            settings_of({"server": tables, "access": [rule]}), 1
        )

        self.assertIsInstance(hub.fail(purge=True), SourceRefused)
        self.assertEqual(hub.tree(), before)

    def test_connections_break_at_any_moment(self) -> None:
        """
        Whenever the connection is cut, the result is right, or nothing has changed.
        """
        for steps in range(2, 40, 5):
            for hub in self.hubs(0.01):
                running = hub.start()
                hub.network.advance(0.0025 * steps)
                for connection in hub.network.connections:
                    connection.cut()

                try:
                    hub.network.result_of(running)
                except ClientError:
                    # Cut in the dialog, it cannot be told from being turned away.
                    self.assertLess(steps, 16)
                    self.assertFalse(hub.dest.exists())
                    continue
                self.same(hub)

    def test_a_file_that_changes_as_it_is_read(self) -> None:
        """
        What comes in the end is what the server has in the end.
        """
        for hub in self.hubs(0.01):
            running = hub.start()
            for number in range(12):
                hub.network.advance(0.006)
                hub.write("big", os.urandom(400_000 + 70_000 * number), 0o750)

            hub.network.result_of(running)

            self.same(hub)
