# SPDX-License-Identifier: MIT
"""
Links, of which the classic protocol tells.
"""

from __future__ import annotations

import os
import time
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock

from nodecomm.server import posix
from nodecomm.server.filesystem import FileSystemSource
from nodecomm.server.names import HostName
from nodecomm.testing import MemorySource, memory_server
from nodecomm.wire.replies import DIRECTORY, LINK, REGULAR
from tests.server.classic_case import ClassicTestCase
from tests.server.descriptors import no_descriptor_lost


class LinkTests(ClassicTestCase):
    """
    STAT of links.
    """

    def link(self, name: str, text: str | Path) -> Path:
        """Make a link in the folder."""
        path = self.root / name
        path.symlink_to(text)
        # An access time in the future is not moved by reading.
        later = time.time() + 3600
        os.utime(path, (later, later - 7200), follow_symlinks=False)
        return path

    def test_what_is_told(self) -> None:
        """
        Type, mode, owner, size and times of what it leads to; permission bits, access
        time, links and place of its own; and its text.
        """
        self.link("one", "a.txt")
        self.link("folder", "sub")
        self.link("absolute", self.root / "a.txt")
        self.link("here", ".")
        self.link("two", "one")
        self.link("sub/up", "../a.txt")
        table = [
            ("one", REGULAR, b"a.txt"),
            ("folder", DIRECTORY, b"sub"),
            ("absolute", REGULAR, self.path("a.txt")),
            ("here", DIRECTORY, b"."),
            ("two", REGULAR, b"one"),
            ("sub/up", REGULAR, b"../a.txt"),
            ("folder/up", REGULAR, b"../a.txt"),
            ("here/here", DIRECTORY, b"."),
        ]
        for name, kind, text in table:
            own = os.lstat(self.root / name)
            target = os.stat(self.root / name)
            for path in (self.path(name), b"files/" + os.fsencode(name)):
                node = self.node()
                reply = node.stat(path)
                assert reply is not None, name
                self.assertEqual(
                    (
                        kind,
                        target.st_mode & 0o7777,
                        0o777,
                        target.st_size,
                        int(own.st_atime),
                        int(target.st_mtime),
                        own.st_nlink,
                        own.st_dev,
                        text,
                    ),
                    (
                        reply.kind,
                        reply.mode,
                        reply.link_mode,
                        reply.size,
                        reply.atime,
                        reply.mtime,
                        reply.nlink,
                        reply.dev,
                        reply.target,
                    ),
                    name,
                )
                self.assertEqual(reply, node.sealed_stat(path))

    def test_numbers_of_their_own(self) -> None:
        """A link and what it leads to are two objects; names of one link are one."""
        self.link("one", "a.txt")
        os.link(self.root / "one", self.root / "same", follow_symlinks=False)
        node = self.node()
        found = [node.stat(b"files/" + name) for name in (b"one", b"same", b"a.txt")]
        inodes = [reply.ino for reply in found if reply is not None]

        self.assertEqual(3, len(inodes))
        self.assertEqual(inodes[0], inodes[1])
        self.assertNotEqual(inodes[0], inodes[2])

    def test_links_that_lead_nowhere(self) -> None:
        """They are links, whatever their text is; also over TLS."""
        for name, text in [("lost", "nowhere"), ("short", "f"), ("itself", "itself")]:
            self.link(name, text)
            for node in (self.node(), self.server.connect()):
                reply = node.stat(b"files/" + os.fsencode(name))
                assert reply is not None
                self.assertEqual(
                    (LINK, 0o777, 0o777, len(text), os.fsencode(text)),
                    (reply.kind, reply.mode, reply.link_mode, reply.size, reply.target),
                )

    def test_a_slash_behind_a_link(self) -> None:
        """It asks for the folder."""
        self.link("folder", "sub")
        node = self.node()
        reply = node.stat(b"files/folder/")
        assert reply is not None

        self.assertEqual(
            (DIRECTORY, 0, b""), (reply.kind, reply.link_mode, reply.target)
        )
        self.link("file", "a.txt")
        self.assertIsNone(node.stat(b"files/file/"))

    def test_over_tls_they_are_followed(self) -> None:
        """As ever."""
        self.link("one", "a.txt")
        node = self.server.connect()

        self.assertEqual(node.stat(b"files/a.txt"), node.stat(b"files/one"))

    def test_a_system_that_cannot_hold_links(self) -> None:
        """There they are followed, as over TLS."""
        self.link("one", "a.txt")
        with mock.patch.object(posix, "HAS_O_PATH", False):
            reply = self.node().stat(b"files/one")
        assert reply is not None

        self.assertEqual((REGULAR, 0, b""), (reply.kind, reply.link_mode, reply.target))

    def test_content_and_digest_are_those_of_the_file(self) -> None:
        """A link is followed by everything but STAT."""
        self.link("one", "a.txt")
        self.link("folder", "sub")
        node = self.node()
        self.assertIsNotNone(node.stat(b"files/one"))

        self.assertEqual(b"hello\n", node.get(b"files/one", 10))
        self.assertEqual(b"hello\n", node.sealed_get(b"files/one"))
        self.assertEqual(
            [b".", b"..", b"b"], sorted(node.opendir(b"files/folder") or ())
        )

    def test_a_very_long_text(self) -> None:
        """Where the reply has no room for it the link is reported as its target."""
        for length, told in [(4085, True), (4087, False), (4095, False)]:
            text = "./" * ((length - 5) // 2) + "a.txt"
            self.assertEqual(length, len(text))
            name = f"long{length}"
            self.link(name, text)
            reply = self.node().stat(b"files/" + name.encode())
            assert reply is not None
            self.assertEqual(
                (REGULAR, os.fsencode(text) if told else b""),
                (reply.kind, reply.target),
            )


class PlaceTests(ClassicTestCase):
    """
    Links between what may be had and what may not.
    """

    def setUp(self) -> None:
        super().setUp()
        self.outside = self.root.parent / "outside"
        self.outside.mkdir()
        (self.outside / "in").symlink_to(self.root / "a.txt")
        (self.root / "out").symlink_to("/etc/hostname")
        (self.root / "through").symlink_to(self.outside / "in")

    def test_a_link_to_what_may_not_be_had(self) -> None:
        """It is refused, text and all."""
        self.assertIsNone(self.node().stat(b"files/out"))

    def test_a_link_in_a_place_that_may_not_be_looked_at(self) -> None:
        """It leads to a file that may be had, and is reported as that."""
        node = self.node()
        file = node.stat(b"files/a.txt")

        self.assertEqual(file, node.stat(os.fsencode(self.outside / "in")))

    def test_a_chain_through_such_a_place(self) -> None:
        """The first link may be told of; the one that it leads to is not."""
        reply = self.node().stat(b"files/through")
        assert reply is not None

        self.assertEqual(os.fsencode(self.outside / "in"), reply.target)

    def test_a_rule_for_the_place_that_cannot_be_decided(self) -> None:
        """
        Reporting the link as something else for a while would have a node replace it:
        the connection ends.
        """
        rules = [
            {"path": str(self.root), "admit_ips": ["127.0.0.1"]},
            {"path": str(self.outside), "admit_hostnames": ["node.example.com"]},
        ]
        lists = {"allowlegacyconnects": ["127.0.0.1"]}
        for known, told in [
            (HostName("node.example.com", True), True),
            (HostName("x.example.com", True), False),
            (HostName(None, False), None),
        ]:
            server = memory_server(*rules, server=lists)
            server.factory.names._look_up = lambda _, known=known: known  # type: ignore[misc]
            node = server.connect_classic()
            reply = node.stat(os.fsencode(self.outside / "in"))
            self.assertEqual(told is None, node.closed)
            if reply is not None:
                self.assertEqual(told, bool(reply.target))

    def test_encrypted_only(self) -> None:
        """STAT counts as encrypted for the link's own place, too."""
        rule = {
            "path": str(self.root),
            "shortcut": "files",
            "admit_ips": ["127.0.0.1"],
            "ifencrypted": True,
        }
        lists = {"allowlegacyconnects": ["127.0.0.1"]}
        (self.root / "one").symlink_to("a.txt")
        reply = memory_server(rule, server=lists).connect_classic().stat(b"files/one")
        assert reply is not None

        self.assertEqual(b"a.txt", reply.target)

    def test_names_of_a_plugins_source(self) -> None:
        """They are no names of the file system; another rule's are."""
        (self.root / "one").symlink_to("a.txt")
        source = MemorySource({b"one": b"content"}, "memory")
        rules = [
            {"path": "/made", "source": "memory", "admit_ips": ["127.0.0.1"]},
            {"path": str(self.root), "admit_ips": ["127.0.0.1"]},
        ]
        node = memory_server(
            *rules,
            server={"allowlegacyconnects": ["127.0.0.1"]},
            sources={"memory": source},
        ).connect_classic()
        made, one = node.stat(b"/made/one"), node.stat(self.path("one"))
        assert made is not None
        assert one is not None

        self.assertEqual((b"", 7), (made.target, made.size))
        self.assertEqual(b"a.txt", one.target)


class ChangingTests(ClassicTestCase):
    """
    Links that change while they are looked at.
    """

    def setUp(self) -> None:
        super().setUp()
        (self.root / "b.txt").write_bytes(b"other content\n")
        self.link = self.root / "link"
        self.link.symlink_to("a.txt")
        source = self.server.factory.serving.files
        assert isinstance(source, FileSystemSource)
        self.source = source
        self.name = os.fsencode(self.link)

    def resolve(self, changes: list[Any]) -> Any:
        """
        Hold the link's name; each time the link itself is held, the next of *changes*
        happens just after that.
        """
        hold = posix.hold

        def changing(path: bytes, *, follow: bool = True) -> int:
            descriptor = hold(path, follow=follow)
            if not follow and changes:
                changes.pop(0)()
            return descriptor

        with mock.patch.object(posix, "hold", changing):
            held = self.source.resolve_with_link(None, self.name)
        self.addCleanup(held.close)
        return held

    def turn(self, text: str) -> Any:
        """What replaces the link, as a deployment does."""

        def replace() -> None:
            new = self.root / "new"
            new.symlink_to(text)
            new.rename(self.link)

        return replace

    def test_another_link(self) -> None:
        """Text and target belong together."""
        held = self.resolve(
            [self.turn("b.txt"), self.turn("a.txt"), self.turn("b.txt")]
        )

        self.assertEqual(
            (self.path("b.txt"), b"b.txt"), (held.path, held.link.status.target)
        )

    def test_turned_all_the_time(self) -> None:
        """
        A link that leads elsewhere at each look, always to something, is answered:
        with one of its texts and what that led to, whatever the name means by then.
        """
        hold = posix.hold
        texts = cycle(["b.txt", os.fspath(self.root / "a.txt"), "a.txt"])

        def turning(path: bytes, *, follow: bool = True) -> int:
            descriptor = hold(path, follow=follow)
            if follow:
                self.turn(next(texts))()
            return descriptor

        seen = set()
        with mock.patch.object(posix, "hold", turning), no_descriptor_lost():
            for _ in range(12):
                self.source._known.clear()
                held = self.source.resolve_with_link(None, self.name)
                assert held.link is not None
                seen.add((held.link.path, held.link.status.target, held.path))
                held.close()

        a, b = self.path("a.txt"), self.path("b.txt")
        self.assertLessEqual(
            seen,
            {(self.name, b"b.txt", b), (self.name, b"a.txt", a), (self.name, a, a)},
        )
        self.assertGreater(len(seen), 1)

    def test_turned_to_nothing(self) -> None:
        """A link that led nowhere for a moment is looked at once more."""
        hold, leads = posix.hold, FileSystemSource._leads
        before, behind = [self.turn("nowhere")], [self.turn("b.txt")]

        def turning(path: bytes, *, follow: bool = True) -> int:
            descriptor = hold(path, follow=follow)
            if before:
                before.pop()()
            return descriptor

        def late(source: FileSystemSource, *arguments: Any) -> bool:
            if behind:
                behind.pop()()
            return leads(source, *arguments)

        with (
            mock.patch.object(posix, "hold", turning),
            mock.patch.object(FileSystemSource, "_leads", late),
        ):
            held = self.source.resolve_with_link(None, self.name)
        self.addCleanup(held.close)
        assert held.link is not None
        self.assertEqual(
            (self.path("b.txt"), b"b.txt"), (held.path, held.link.status.target)
        )

    def test_a_file_in_its_place(self) -> None:
        """It is reported as the file."""

        def replace() -> None:
            (self.root / "b.txt").rename(self.link)

        held = self.resolve([replace])

        self.assertEqual((self.name, None), (held.path, held.link))

    def test_a_target_that_goes(self) -> None:
        """The link is then one that leads nowhere."""
        held = self.resolve([(self.root / "a.txt").unlink])

        self.assertEqual((self.name, LINK), (held.path, held.status.kind))

    def test_a_link_that_goes(self) -> None:
        """Nothing is there any more."""
        with self.assertRaises(FileNotFoundError):
            self.resolve([self.link.unlink])

    def test_again_and_again(self) -> None:
        """It is no answer that nothing is there: the connection ends."""
        changes = [self.turn(text) for text in ("b.txt", "a.txt") * 20]
        with self.assertRaises(OSError) as caught:
            self.resolve(changes)

        self.assertNotIsInstance(caught.exception, FileNotFoundError)

    def test_no_descriptor_is_lost(self) -> None:
        """However it ends."""
        with no_descriptor_lost():
            for change in (self.turn("b.txt"), (self.root / "b.txt").unlink):
                self.resolve([change]).close()
            for step in ("link_text", "real_name"):
                with (
                    mock.patch.object(posix, step, side_effect=PermissionError),
                    self.assertRaises(PermissionError),
                ):
                    self.source.resolve_with_link(None, self.name)
