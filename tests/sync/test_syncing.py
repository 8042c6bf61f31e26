# SPDX-License-Identifier: MIT
"""
Whole updates between a server and a node in one process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.errors import Rejected, Unreachable
from nodecomm.sync.errors import LimitExceeded, LocalError, SourceRefused
from nodecomm.sync.model import Change, Progress, SyncLimits
from nodecomm.testing.server import settings_of, snapshot_of
from nodecomm.wire.replies import CHANGED_PREFIX, REFUSAL
from tests.sync.hub import HUB, Hub, make_hub


class PlainTests(SynchronousTestCase):
    """
    Against a server without manifests, as upstream's are.
    """

    def setUp(self) -> None:
        """A tree of two levels."""
        self.hub = make_hub(self.addCleanup)
        self.fill(self.hub)

    def fill(self, hub: Hub) -> None:
        """Files of several sizes and modes."""
        for number in range(20):
            hub.write(f"d{number % 4}/f{number}", b"x" * number * 100)
        hub.write("big", os.urandom(1_500_000), 0o750)
        hub.write("empty", b"", 0o4711)
        (hub.source / "hollow").mkdir(mode=0o700)

    def same(self, hub: Hub | None = None) -> None:
        """Both sides are the same, and nothing was left beside."""
        hub = hub or self.hub
        self.assertEqual(hub.tree(), hub.tree(hub.source))
        for name in hub.leftovers():
            self.assertIn(name, (".inputs.nodecomm-lock", ".inputs.nodecomm-previous"))

    def test_a_fresh_copy(self) -> None:
        """
        Content and modes are the server's, and what was done is told.
        """
        result = self.hub.run()

        self.same()
        self.assertTrue(result.changed)
        self.assertEqual((result.checked, result.fetched, result.removed), (22, 22, 0))
        self.assertEqual(result.connections, 1)
        self.assertEqual(result.bytes_fetched, 1_500_000 + 100 * sum(range(20)))
        self.assertFalse(result.manifest)
        self.assertIn(Change(b"d0/f0", "added"), result.changes)

    def test_nothing_changed(self) -> None:
        """
        The second run asks about digests, as the values were seen for too short a
        time; the third asks about nothing but the values.
        """
        self.hub.run()
        before = self.hub.dest.stat()
        self.hub.wait(5)
        second = self.hub.run()
        self.hub.wait(5)
        third = self.hub.run()

        self.assertFalse(second.changed or third.changed)
        self.assertEqual(second.changes, ())
        self.assertLess(third.bytes_received, second.bytes_received)
        self.assertEqual(self.hub.dest.stat().st_ino, before.st_ino)

    def test_round_trips(self) -> None:
        """
        Connecting to a known server, TLS, then one for a tree that is known, and
        one besides for the digests.
        """
        hub = make_hub(self.addCleanup, 0.05)
        self.fill(hub)

        first = hub.run()
        hub.wait(5)
        second = hub.run()
        hub.wait(5)
        third = hub.run()

        # TCP, TLS and the hello; 2 x 2 levels; content; digests.
        self.assertEqual(first.round_trips, 3 + 4 + 2)
        self.assertEqual((second.round_trips, third.round_trips), (4, 3))
        self.assertLess(third.seconds, 4 * 0.05)

    def test_round_trips_do_not_grow_with_files(self) -> None:
        """
        Twenty times the files take as many.
        """
        counts = []
        for files in (5, 100):
            hub = make_hub(self.addCleanup, 0.05)
            for number in range(files):
                hub.write(f"folder/file{number}", b"%d" % number * 50)
            counts.append(hub.run().round_trips)

        self.assertEqual(counts[0], counts[1])

    def test_one_file_changed(self) -> None:
        """
        It alone is fetched; the others are shared with the previous set.
        """
        self.hub.run()
        before = (self.hub.dest / "big").stat().st_ino
        self.hub.write("d1/f1", b"changed")

        result = self.hub.run()

        self.same()
        self.assertEqual(result.changes, (Change(b"d1/f1", "updated"),))
        self.assertEqual(result.bytes_fetched, 7)
        self.assertEqual((self.hub.dest / "big").stat().st_ino, before)

    def test_the_same_size_within_a_second(self) -> None:
        """
        A change that shows neither in size nor in whole seconds is found, as nothing
        was settled.
        """
        path = self.hub.write("d1/f1", b"one")
        self.hub.run()
        was = path.stat()
        path.write_bytes(b"two")
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

        self.hub.run()

        self.same()

    def test_a_local_change_is_repaired(self) -> None:
        """
        Also one that hides behind the old size and time.
        """
        self.hub.run()
        self.hub.wait(5)
        self.hub.run()
        path = self.hub.dest / "d1" / "f1"
        was = path.stat()
        path.write_bytes(b"y" * was.st_size)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
        self.hub.wait(5)

        result = self.hub.run()

        self.same()
        self.assertEqual(result.changes, (Change(b"d1/f1", "updated"),))

    def test_modes_are_repaired(self) -> None:
        """
        Of files and folders, without content.
        """
        self.hub.run()
        (self.hub.dest / "d1" / "f1").chmod(0o600)
        (self.hub.dest / "d2").chmod(0o777)

        result = self.hub.run()

        self.same()
        self.assertEqual(result.fetched, 0)
        self.assertEqual(
            result.changes,
            (Change(b"d1/f1", "attributes"), Change(b"d2", "attributes")),
        )

    def test_what_the_server_does_not_have(self) -> None:
        """
        It stays, unless purging is asked for.
        """
        self.hub.run()
        for name in ("own", "d1/own", "hollow/own"):
            (self.hub.dest / name).write_bytes(b"mine")
        self.hub.write("new", b"1")

        self.hub.run()
        self.assertEqual((self.hub.dest / "d1" / "own").read_bytes(), b"mine")
        result = self.hub.run(purge=True, exclude=(b"hollow/",))

        self.assertEqual(result.removed, 2)
        self.assertTrue((self.hub.dest / "hollow" / "own").exists())
        self.assertFalse((self.hub.dest / "own").exists())

    def test_a_refused_file_is_never_removed(self) -> None:
        """
        A name that is listed and refused stays as it is here, and the rest is
        brought up to date.
        """
        hub = self.hub
        hub.run()
        rules = [
            {
                "path": str(hub.source),
                "shortcut": "masterfiles",
                "admit_ips": ["127.0.0.1"],
            },
            {"path": str(hub.source / "d1"), "deny_ips": ["127.0.0.1"]},
        ]
        tables = {"allowallconnects": ["0.0.0.0/0"]}
        settings = settings_of({"server": tables, "access": rules})
        serving: Any = hub.server.factory.serving
        serving.evaluator.snapshot = snapshot_of(settings, 1)
        hub.write("big", b"now small")

        result = hub.run(purge=True)

        self.same()
        self.assertEqual(result.refused, (b"d1",))
        self.assertEqual(result.removed, 0)
        self.assertTrue(any("d1" in line for line in result.warnings))

    def test_content_that_looks_like_the_protocol(self) -> None:
        """
        Files that consist of its error texts are copied right, whatever their size.
        """
        texts = [
            REFUSAL,
            b"t 59    " + REFUSAL,
            CHANGED_PREFIX + b": /x",
            b"t 9     CFD_FALSE" * 100,
            b"BAD: ",
            *[(b"t 59    " + REFUSAL)[:size] for size in range(71)],
        ]
        for number, text in enumerate(texts):
            self.hub.write(f"texts/{number}", text)

        self.hub.run()

        self.same()

    def test_compare_modes(self) -> None:
        """
        What each looks at.
        """
        for mode, expected in (
            ("size", b"old"),
            ("mtime", b"new"),
            ("digest", b"new"),
            ("auto", b"new"),
        ):
            hub = make_hub(self.addCleanup)
            path = hub.write("file", b"old")
            hub.run()
            path.write_bytes(b"new")
            later = hub.dest.joinpath("file").stat().st_mtime + 10
            os.utime(path, (later, later))

            hub.run(compare=mode)

            self.assertEqual(hub.dest.joinpath("file").read_bytes(), expected, mode)

    def test_digest_asks_about_every_file(self) -> None:
        """
        Also when nothing can have changed.
        """
        self.hub.run()
        self.hub.wait(5)
        self.hub.run()
        self.hub.wait(5)
        plain = self.hub.run()
        self.hub.wait(5)

        asked = self.hub.run(compare="digest")

        # The answer to MD5 has 17 bytes.
        self.assertEqual(asked.bytes_received - plain.bytes_received, 22 * 17)

    def test_preserve(self) -> None:
        """
        Times of files and folders are the server's.
        """
        os.utime(self.hub.source / "d1" / "f1", (10, 1000))
        os.utime(self.hub.source / "d1", (10, 2000))

        self.hub.run(preserve=True)
        again = self.hub.run(preserve=True)

        self.assertEqual((self.hub.dest / "d1" / "f1").stat().st_mtime, 1000)
        self.assertEqual((self.hub.dest / "d1").stat().st_mtime, 2000)
        self.assertFalse(again.changed)

    def test_excluded_names(self) -> None:
        """
        They are not fetched.
        """
        self.hub.run(exclude=(b"f1*", b"d2/"))

        self.assertFalse((self.hub.dest / "d1" / "f1").exists())
        self.assertFalse((self.hub.dest / "d2").exists())
        self.assertTrue((self.hub.dest / "d3" / "f3").exists())

    def test_links(self) -> None:
        """
        The protocol shows what links lead to; one that leads nowhere is a link, and
        one up the tree is reported.
        """
        (self.hub.source / "copy").symlink_to("big")
        (self.hub.source / "nowhere").symlink_to("no/such/file")
        (self.hub.source / "d1" / "up").symlink_to("..")

        result = self.hub.run()

        self.assertEqual(os.readlink(self.hub.dest / "nowhere"), "no/such/file")
        self.assertEqual(
            (self.hub.dest / "copy").read_bytes(), (self.hub.dest / "big").read_bytes()
        )
        self.assertFalse((self.hub.dest / "d1" / "up").exists())
        self.assertTrue(any("d1/up" in line for line in result.warnings))

    def test_a_dry_run(self) -> None:
        """
        Says what would be done, and does nothing at all.
        """
        result = self.hub.run(dry_run=True)

        self.assertTrue(result.changed)
        self.assertIn(Change(b"big", "added"), result.changes)
        self.assertEqual(result.fetched, 0)
        self.assertEqual(os.listdir(self.hub.dest.parent), [])
        self.assertFalse((self.hub.root / "state").exists())

    def test_a_single_file(self) -> None:
        """
        A source that is a file makes the destination one; changes are found as in
        trees.
        """
        source = os.fsencode(self.hub.source / "d1" / "f1")
        first = self.hub.run(source=source)
        again = self.hub.run(source=source)
        self.hub.write("d1/f1", b"new content", 0o600)
        third = self.hub.run(source=source)

        self.assertTrue(first.changed)
        self.assertFalse(again.changed)
        self.assertEqual(third.changes, (Change(b"", "updated"),))
        self.assertEqual(self.hub.dest.read_bytes(), b"new content")
        self.assertEqual(self.hub.dest.stat().st_mode & 0o777, 0o600)

    def test_a_single_large_file(self) -> None:
        """
        With nothing else known to check the stream by, its digest is asked about on
        a connection without content.
        """
        source = os.fsencode(self.hub.source / "big")

        result = self.hub.run(source=source)

        self.assertEqual(result.connections, 2)
        self.assertEqual(
            self.hub.dest.read_bytes(), (self.hub.source / "big").read_bytes()
        )

    def test_files_and_folders_do_not_take_each_others_place(self) -> None:
        """
        A source that is a file and a destination that is a folder, and the reverse.
        """
        self.hub.dest.mkdir()
        error = self.hub.fail(source=os.fsencode(self.hub.source / "big"))
        self.assertIsInstance(error, LocalError)
        self.hub.dest.rmdir()
        self.hub.dest.write_bytes(b"file")
        error = self.hub.fail()
        self.assertIsInstance(error, LocalError)
        self.assertEqual(self.hub.dest.read_bytes(), b"file")

    def test_kinds_change_below(self) -> None:
        """
        A folder becomes a file, a file a folder.
        """
        self.hub.run()
        (self.hub.source / "hollow").rmdir()
        self.hub.write("hollow", b"a file")
        (self.hub.source / "empty").unlink()
        self.hub.write("empty/inside", b"1")

        self.hub.run()

        self.same()

    def test_several_requests_share_a_connection(self) -> None:
        """
        The connection is kept until it is closed.
        """
        hub = self.hub
        first = hub.network.result_of(hub.start())
        other = os.fsencode(hub.dest.parent / "other")
        second = hub.network.result_of(hub.start(destination=other))
        third = hub.network.result_of(hub.start())
        hub.network.result_of(hub.syncer.close())

        self.assertEqual(
            [first.connections, second.connections, third.connections], [1, 0, 0]
        )
        self.assertEqual(hub.tree(Path(os.fsdecode(other))), hub.tree())
        self.assertLess(second.round_trips, first.round_trips)

    def test_requests_take_turns(self) -> None:
        """
        Two that are begun at once both succeed.
        """
        other = os.fsencode(self.hub.dest.parent / "other")
        one = self.hub.start()
        two = self.hub.start(destination=other)

        self.assertTrue(self.hub.network.result_of(two).changed)
        self.assertTrue(self.hub.network.result_of(one).changed)

    def test_a_refused_source(self) -> None:
        """
        The server does not say whether it is missing or forbidden.
        """
        error = self.hub.fail(source=b"/no/such/folder")

        self.assertIsInstance(error, SourceRefused)
        self.assertEqual(error.code, "refused")
        self.assertEqual(os.listdir(self.hub.dest.parent), [".inputs.nodecomm-lock"])

    def test_nobody_there(self) -> None:
        """
        The destination stays as it is.
        """
        self.hub.run()
        before = self.hub.tree()
        self.hub.network.listen(HUB, ConnectionRefusedError())

        error = self.hub.fail()

        self.assertIsInstance(error, Unreachable)
        self.assertEqual(self.hub.tree(), before)

    def test_limits(self) -> None:
        """
        Each has a code, and nothing is put in place.
        """
        for code, limits in (
            ("file-size", SyncLimits(file_size=1_000_000)),
            ("total-size", SyncLimits(total_size=1_000_000)),
            ("entries", SyncLimits(entries=10)),
            ("depth", SyncLimits(depth=0)),
        ):
            error = self.hub.fail(limits=limits)
            self.assertIsInstance(error, LimitExceeded)
            self.assertEqual(error.code, code)
            self.assertFalse(self.hub.dest.exists())

    def test_it_takes_too_long(self) -> None:
        """
        A server that says nothing more does not hold a run for ever.
        """
        self.hub.network.listen(HUB, None)

        error = self.hub.fail(limits=SyncLimits(duration=10.0))

        self.assertIsInstance(error, LimitExceeded)
        self.assertEqual(error.code, "duration")

    def test_a_cancelled_run(self) -> None:
        """
        At any moment: nothing is left, and the next run succeeds.
        """
        for steps in range(0, 40, 3):
            hub = make_hub(self.addCleanup, 0.01)
            self.fill(hub)
            running = hub.start()
            hub.network.advance(0.0025 * steps)
            running.addErrback(lambda failure: failure.trap(CancelledError) and None)
            running.cancel()
            hub.network.result_of(running)

            hub.run()
            self.same(hub)

    def test_connections_break_at_any_moment(self) -> None:
        """
        Whenever the connection is cut, the run goes on with the next one, and the
        result is right.
        """
        for steps in range(2, 40, 2):
            hub = make_hub(self.addCleanup, 0.01)
            self.fill(hub)
            running = hub.start()
            hub.network.advance(0.0025 * steps)
            for connection in hub.network.connections:
                connection.cut()

            try:
                result = hub.network.result_of(running)
            except (Rejected, Unreachable):
                # Cut in the dialog, it cannot be told from being turned away.
                self.assertLess(steps, 16)
                continue
            self.assertLessEqual(result.connections, 2)
            self.same(hub)

    def test_progress(self) -> None:
        """
        It is told, and in the end everything is done.
        """
        told: list[Progress] = []
        hub = make_hub(self.addCleanup, 0.2)
        self.fill(hub)

        hub.network.result_of(hub.start(told.append))

        self.assertGreater(len(told), 3)
        self.assertEqual(told[-1].files, told[-1].files_total)
        self.assertEqual(told[-1].bytes, told[-1].bytes_total)

    def test_before_commit(self) -> None:
        """
        It is called when all is ready and nothing has changed; what it raises ends
        the run.
        """
        seen: list[Any] = []

        def before(commit: Any) -> None:
            seen.append((commit.identity, self.hub.dest.exists()))
            raise LocalError("io", "no")

        error = self.hub.network.failure_of(self.hub.start(before=before))

        self.assertEqual(error.args, ("no",))
        self.assertEqual([exists for _, exists in seen], [False])
        self.assertFalse(self.hub.dest.exists())

    def test_no_state_folder_is_no_reason_to_fail(self) -> None:
        """
        A record that cannot be written costs questions the next time.
        """
        (self.hub.root / "state").write_bytes(b"a file")

        result = self.hub.run()

        self.same()
        self.assertTrue(any("record" in line for line in result.warnings))
