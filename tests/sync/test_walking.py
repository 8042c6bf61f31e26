# SPDX-License-Identifier: MIT
from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.errors import BadAnswer, ConnectionBroken
from nodecomm.sync import walking
from nodecomm.sync.asking import Asking
from nodecomm.sync.errors import LimitExceeded, SourceRefused
from nodecomm.sync.model import (
    UNKNOWN,
    Kind,
    RemoteEntry,
    RemoteTree,
    SyncLimits,
    SyncRequest,
)
from nodecomm.sync.refusals import Refusals
from nodecomm.sync.walking import join, walk
from nodecomm.wire.replies import DIRECTORY, FIFO, LINK, REGULAR, StatReply
from tests.sync.fakes import SOURCE, FakeSession, Tree, reply

TREE: Tree = {
    b"": None,
    b"a": b"1",
    b"dir": None,
    b"dir/b": b"22",
    b"dir/sub": None,
    b"dir/sub/c": b"333",
    b"empty": None,
}


def link_reply(kind: int, ino: int, target: bytes) -> StatReply:
    """A link, described beside what it leads to."""
    led_to = reply(kind, 5, ino, target=target)
    return attrs.evolve(led_to, link_mode=0o777, uid=7, gid=8)


def request(**values: Any) -> SyncRequest:
    """An update of the fake source."""
    return SyncRequest(SOURCE, b"/dest", **values)


class WalkTests(SynchronousTestCase):
    """
    What a walk finds, and how many round trips it takes.
    """

    def walked(
        self,
        session: FakeSession,
        *,
        hints: dict[bytes, Kind] | None = None,
        **more: Any,
    ) -> RemoteTree:
        """Walk to the end."""
        done = walk(Asking(session), request(**more), hints)
        session.answer_all()
        return self.successResultOf(done)

    def failed(
        self, session: FakeSession, kind: type[Exception], **more: Any
    ) -> Exception:
        """Walk into an error."""
        done = walk(Asking(session), request(**more))
        session.answer_all()
        failure = self.failureResultOf(done, kind)
        return failure.value  # type: ignore[no-any-return]

    def test_two_round_trips_a_level(self) -> None:
        """
        A tree of three levels is described in six round trips less the one that the
        source's listing saves, whatever the number of files.
        """
        session = FakeSession(TREE)

        tree = self.walked(session)

        self.assertEqual(set(tree.entries), set(TREE))
        # Source and its listing; its names; dir and empty; their names; sub; c.
        self.assertEqual(session.trips, 6)
        self.assertEqual(tree.entries[b"dir/sub/c"].size, 3)

    def test_parents_come_before_children(self) -> None:
        """
        In the tree, and in the order in which objects are told.
        """
        session = FakeSession(TREE)
        told: list[bytes] = []

        def found(name: bytes, entry: RemoteEntry) -> None:
            told.append(name)

        done = walk(Asking(session), request(), None, found)
        session.answer_all()

        tree = self.successResultOf(done)
        self.assertEqual(told, list(tree.entries))
        for place, name in enumerate(told):
            if name:
                self.assertIn(name.rpartition(b"/")[0], told[:place])

    def test_a_known_tree_takes_one_round_trip(self) -> None:
        """
        With the names of the run before, everything is asked for at once.
        """
        first = self.walked(FakeSession(TREE))
        hints = {name: entry.kind for name, entry in first.entries.items()}
        session = FakeSession(TREE)

        tree = self.walked(session, hints=hints)

        self.assertEqual(tree, first)
        self.assertEqual(session.trips, 1)
        self.assertEqual(len(session.asked), len(set(session.asked)))

    def test_hints_that_are_out_of_date_do_no_harm(self) -> None:
        """
        What is gone is not in the tree; what was a folder and is a file now is one;
        what is new below is found by listings.
        """
        hints = {
            b"": Kind.FOLDER,
            b"gone": Kind.FOLDER,
            b"gone/x": Kind.FILE,
            b"a": Kind.FOLDER,
            b"a/y": Kind.FILE,
            b"dir": Kind.FILE,
        }
        session = FakeSession(TREE)

        tree = self.walked(session, hints=hints)

        self.assertEqual(tree, self.walked(FakeSession(TREE)))

    def test_an_answer_without_a_listing_that_confirms_it_counts_nothing(self) -> None:
        """
        A name that can be described and is not listed is not there.
        """
        session = FakeSession({**TREE, b"dir/hidden": b"x"})
        listed = dict(session.tree)
        del listed[b"dir/hidden"]

        class Hiding(FakeSession):
            def opendir(self, path: bytes, **more: Any) -> Any:
                names: Deferred[list[bytes]] = super().opendir(path, **more)
                return names.addCallback(
                    lambda found: [name for name in found if name != b"hidden"]
                )

        tree = self.walked(
            Hiding(session.tree),
            hints={b"": Kind.FOLDER, b"dir/hidden": Kind.FILE, b"dir": Kind.FOLDER},
        )

        self.assertEqual(set(tree.entries), set(listed))

    def test_a_refused_status_leaves_the_name_alone(self) -> None:
        """
        It is listed, so it is there; nothing below it is asked about.
        """
        session = FakeSession(TREE, {("STAT", b"dir")})

        tree = self.walked(session)

        self.assertEqual(tree.present, {b"dir"})
        self.assertEqual(tree.refused, (b"dir",))
        self.assertNotIn(("OPENDIR", b"/src/dir"), session.asked)
        self.assertIn("dir", tree.warnings[0])

    def test_a_refused_listing_leaves_the_folder_alone(self) -> None:
        """
        A folder that cannot be listed is not taken for an empty one.
        """
        tree = self.walked(FakeSession(TREE, {("OPENDIR", b"dir")}))

        self.assertEqual(set(tree.entries), {b"", b"a", b"empty"})
        self.assertEqual(tree.present, {b"dir"})
        self.assertEqual(tree.refused, (b"dir",))

    def test_a_refused_source_is_an_error(self) -> None:
        """
        Refused as a whole, or its listing.
        """
        for command in ("STAT", "OPENDIR"):
            error = self.failed(FakeSession(TREE, {(command, b"")}), SourceRefused)
            self.assertIn("/src", str(error))

    def test_a_source_that_is_a_file(self) -> None:
        """
        It is the only entry.
        """
        tree = self.walked(FakeSession({b"": b"content"}))

        self.assertEqual(list(tree.entries), [b""])
        self.assertEqual(tree.entries[b""].kind, Kind.FILE)

    def test_a_source_that_cannot_be_copied(self) -> None:
        """
        A fifo is no source.
        """
        self.failed(FakeSession({b"": reply(FIFO)}), SourceRefused)

    def test_a_folder_inside_itself_is_not_entered(self) -> None:
        """
        A link up the tree shows as a folder with the number of one around it.
        """
        tree: Tree = {
            b"": reply(DIRECTORY, ino=1),
            b"x": reply(DIRECTORY, ino=2),
            b"x/up": reply(DIRECTORY, ino=1),
            b"x/here": reply(DIRECTORY, ino=2),
            b"x/twin": reply(DIRECTORY, ino=3, dev=7),
            b"other": reply(DIRECTORY, ino=1, dev=8),
        }
        session = FakeSession(tree)

        found = self.walked(session)

        self.assertEqual(found.present, {b"x/up", b"x/here"})
        self.assertEqual(set(found.entries), {b"", b"x", b"x/twin", b"other"})
        self.assertNotIn(("OPENDIR", b"/src/x/up"), session.asked)

    def test_links_and_special_objects(self) -> None:
        """
        A link is told with its text; what is neither file, folder nor link, and a
        link without text, are left alone.
        """
        tree = self.walked(
            FakeSession(
                {
                    b"": None,
                    b"link": reply(LINK, target=b"../x"),
                    b"shown": reply(REGULAR, target=b"").__class__(
                        0, 0o644, 0o777, 0, 0, 5, 0, 0, 0, 0, 9, 1, 1, b"a.txt"
                    ),
                    b"empty": reply(LINK),
                    b"fifo": reply(FIFO),
                }
            )
        )

        self.assertEqual(tree.entries[b"link"].target, b"../x")
        self.assertEqual(tree.entries[b"shown"].kind, Kind.LINK)
        self.assertEqual(tree.present, {b"empty", b"fifo"})
        self.assertEqual(tree.refused, ())

    def test_a_link_to_a_folder_is_not_entered(self) -> None:
        """
        The classic protocol tells links beside what they lead to: whatever that is,
        and whatever was there the last time, a link is in the tree as itself, and
        nothing below it.
        """
        texts = [b"dir", b"..", b".", b"/etc", b"nowhere", b"f"]
        tree = {**TREE}
        for number, text in enumerate(texts):
            tree[b"link%d" % number] = link_reply(DIRECTORY, 30 + number, text)
        tree[b"to-file"] = link_reply(REGULAR, 40, b"a")
        hints = {b"": Kind.FOLDER, b"link0": Kind.FOLDER, b"link0/b": Kind.FILE}

        for version in (1, 3):
            for before in ({}, hints):
                session = FakeSession(tree, version=version)
                found = self.walked(session, hints=before)

                self.assertEqual(set(found.entries), set(tree))
                for number, text in enumerate(texts):
                    entry = found.entries[b"link%d" % number]
                    self.assertEqual((entry.kind, entry.target), (Kind.LINK, text))
                self.assertEqual(found.entries[b"to-file"].kind, Kind.LINK)
                if not before:
                    listed = [path for what, path in session.asked if what != "STAT"]
                    self.assertFalse([path for path in listed if b"link" in path])

    def test_who_owns_a_link_is_unknown(self) -> None:
        """
        Beside its text stands the owner of what it leads to, unless that is nothing.
        """
        tree = self.walked(
            FakeSession(
                {
                    b"": None,
                    b"leads": link_reply(REGULAR, 30, b"x"),
                    b"dangles": reply(LINK, target=b"x"),
                }
            )
        )

        for name, owner in ((b"leads", UNKNOWN), (b"dangles", 0), (b"", 0)):
            entry = tree.entries[name]
            self.assertEqual((entry.uid, entry.gid), (owner, owner), name)

    def test_a_source_that_is_a_link_is_followed(self) -> None:
        """
        To a folder or a file; one that leads nowhere is no source.
        """
        tree: Tree = {**TREE, b"": link_reply(DIRECTORY, 9, b"/else/where")}
        found = self.walked(FakeSession(tree, version=1))
        self.assertEqual(set(found.entries), set(TREE))
        self.assertEqual(found.entries[b""].kind, Kind.FOLDER)
        found = self.walked(FakeSession({b"": link_reply(REGULAR, 9, b"x")}, version=1))
        self.assertEqual(found.entries[b""].kind, Kind.FILE)
        self.failed(FakeSession({b"": reply(LINK, target=b"gone")}), SourceRefused)

    def test_names_that_cannot_be_asked_for(self) -> None:
        """
        A newline, or more bytes than a request takes.
        """
        deep = b"/".join([b"n" * 255] * 15)
        tree: Tree = {b"": None, b"new\nline": b""}
        for depth in range(1, 16):
            tree[b"/".join([b"n" * 255] * depth)] = None
        tree[deep + b"/" + b"x" * 100] = b""
        session = FakeSession(tree)

        found = self.walked(session)

        self.assertEqual(found.present, {b"new\nline", deep + b"/" + b"x" * 100})
        self.assertTrue(all(b"\n" not in path for _, path in session.asked))

    def test_excluded_names_are_not_asked_about(self) -> None:
        """
        Neither are those below an excluded folder; they count as present.
        """
        session = FakeSession(TREE)

        tree = self.walked(session, exclude=(b"sub/", b"a"))

        self.assertEqual(tree.present, {b"a", b"dir/sub"})
        self.assertNotIn(("STAT", b"/src/a"), session.asked)
        self.assertNotIn(("OPENDIR", b"/src/dir/sub"), session.asked)

    def test_excluded_names_are_not_asked_about_from_memory(self) -> None:
        """
        Nor when the run before had them.
        """
        session = FakeSession(TREE)
        hints = {b"": Kind.FOLDER, b"dir": Kind.FOLDER, b"dir/sub": Kind.FOLDER}

        self.walked(
            session, hints={**hints, b"dir/sub/c": Kind.FILE}, exclude=(b"sub/",)
        )

        self.assertNotIn(("OPENDIR", b"/src/dir/sub"), session.asked)
        self.assertNotIn(("STAT", b"/src/dir/sub/c"), session.asked)

    def test_names_that_are_no_names_end_everything(self) -> None:
        """
        A server that lists a way out of the tree is not believed at all.
        """
        for name in (b"..", b".", b"", b"a/b", b"/etc", b"a\0b"):
            session = FakeSession(TREE, extra={b"dir": [name]})
            self.failed(session, BadAnswer)

    def test_a_name_that_is_listed_twice_is_one(self) -> None:
        """
        Some file systems do that while a folder changes.
        """
        tree = self.walked(FakeSession(TREE, extra={b"": [b"a"]}))

        self.assertEqual(set(tree.entries), set(TREE))

    def test_a_mistake_ends_the_walk(self) -> None:
        """
        What goes wrong with an answer in this program is told, and nobody waits for
        what follows from it for ever.
        """

        def mistaken(*_: object) -> None:
            raise RuntimeError("a mistake")

        for where in ("_weigh", "_listing_answered"):
            with self.subTest(where=where):
                self.patch(walking.Walk, where, mistaken)
                self.failed(FakeSession(TREE), RuntimeError)

    def test_too_many_objects(self) -> None:
        """
        The limit is told before the rest is looked at.
        """
        self.walked(FakeSession(TREE), limits=SyncLimits(entries=6))
        error = self.failed(
            FakeSession(TREE), LimitExceeded, limits=SyncLimits(entries=5)
        )
        self.assertEqual(error.code, "entries")  # type: ignore[attr-defined]

    def test_names_that_are_used_here(self) -> None:
        """
        They are left alone, whoever made them on the server.
        """
        temporary = b"dir/.nodecomm-0123456789abcdef.tmp"
        own: Tree = {b".nodecomm-fetched": None, temporary: b"1"}
        others: Tree = {b"dir/.nodecomm-fetched": b"1", b".nodecomm-fetched2": b"1"}

        tree = self.walked(FakeSession({**TREE, **own, **others}))

        self.assertEqual(set(tree.entries), TREE.keys() | others.keys())
        self.assertEqual(tree.present, own.keys())
        self.assertEqual(len(tree.warnings), 2)

    def test_listings_that_nothing_confirms_are_counted(self) -> None:
        """
        A server may fill the folders of the last time that it does not list any more,
        and those answers are kept until it is known that they are not.
        """
        folders = {b"f%d" % number: None for number in range(9)}
        session = FakeSession({b"": None, **folders})
        session.extra = {name: [b"%d" % n for n in range(9)] for name in folders}
        hints = {b"": Kind.FOLDER, **dict.fromkeys(folders, Kind.FOLDER)}
        done = walk(Asking(session), request(limits=SyncLimits(entries=20)), {**hints})
        # All but the source's own listing, which would end the walk.
        session.waiting[:] = [
            each
            for each, asked in zip(session.waiting, session.asked, strict=True)
            if asked != ("OPENDIR", SOURCE)
        ]
        session.answer()

        error = self.failureResultOf(done, LimitExceeded).value
        self.assertEqual(error.code, "entries")

    def test_too_much_text(self) -> None:
        """
        Names and links are kept in memory: all together they have a limit, too.
        """
        self.patch(walking, "MAX_TEXT", 60)
        self.walked(FakeSession(TREE))
        link = reply(LINK, target=b"x" * 40)
        for more in ({b"link": link}, {b"n" * 50: None}):
            session = FakeSession({**TREE, **more})
            error = self.failed(session, LimitExceeded)
            self.assertEqual(error.code, "entries")  # type: ignore[attr-defined]

    def test_too_deep(self) -> None:
        """
        The source itself does not count.
        """
        self.walked(FakeSession(TREE), limits=SyncLimits(depth=2))
        error = self.failed(
            FakeSession(TREE), LimitExceeded, limits=SyncLimits(depth=1)
        )
        self.assertEqual(error.code, "depth")  # type: ignore[attr-defined]

    def test_a_broken_connection_is_no_tree(self) -> None:
        """
        However far the walk was.
        """
        for trips in range(6):
            session = FakeSession(TREE)
            done = walk(Asking(session), request())
            for _ in range(trips):
                session.answer()
            session.fail()
            self.failureResultOf(done, ConnectionBroken)

    def test_a_cancelled_walk_asks_no_more(self) -> None:
        """
        Answers that still come do nothing.
        """
        session = FakeSession(TREE)
        done = walk(Asking(session), request())
        session.answer()
        done.addErrback(lambda failure: None)
        asked = len(session.asked)

        done.cancel()
        session.answer_all()

        self.assertEqual(len(session.asked), asked)

    def test_names_of_the_root(self) -> None:
        """
        A source that is the root, or ends in a slash, gives no double slashes.
        """
        self.assertEqual(join(b"/", b"a/b"), b"/a/b")
        self.assertEqual(join(b"short", b"a"), b"short/a")
        self.assertEqual(join(b"short", b""), b"short")

    @settings(max_examples=60, deadline=None)
    @given(
        st.dictionaries(
            st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=4).map(
                b"/".join
            ),
            st.booleans(),
            max_size=12,
        ),
        st.dictionaries(
            st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=4).map(b"/".join),
            st.sampled_from([Kind.FILE, Kind.FOLDER]),
            max_size=12,
        ),
    )
    def test_hints_never_change_the_result(
        self, names: dict[bytes, bool], hints: dict[bytes, Kind]
    ) -> None:
        """
        Whatever is remembered, the tree is the one that the server has now.
        """
        tree: Tree = {b"": None}
        for name in sorted(names):
            parent = name.rpartition(b"/")[0]
            if parent in tree and tree[parent] is None:
                tree[name] = None if names[name] else b"content"

        found = self.walked(FakeSession(tree), hints=hints)

        self.assertEqual(set(found.entries), set(tree))
        self.assertEqual(found, self.walked(FakeSession(tree)))


class RefusalTests(SynchronousTestCase):
    """
    A server that ends the connection when it refuses a listing.
    """

    def walked(
        self,
        tree: Tree,
        refused: set[bytes],
        hints: dict[bytes, Kind] | None = None,
        **more: Any,
    ) -> tuple[RemoteTree, list[FakeSession], Refusals]:
        """Walk until it succeeds, on as many connections as it takes."""
        refusals = Refusals()
        sessions: list[FakeSession] = []
        while True:
            asked = {("OPENDIR", name) for name in refused}
            session = FakeSession(tree, asked, version=1)
            sessions.append(session)
            before = refusals.learned
            done = walk(Asking(session), request(**more), hints, None, refusals)
            session.answer_all()
            ends: list[Any] = []
            done.addBoth(ends.append)
            (end,) = ends
            if isinstance(end, RemoteTree):
                return end, sessions, refusals
            end.trap(ConnectionBroken)
            self.assertGreater(refusals.learned, before)

    def test_what_is_refused_is_not_asked_for_again(self) -> None:
        """
        Each refused listing costs one connection more, and what is in the end known
        is all but the refused folders, which are left alone.
        """
        tree: Tree = {b"": None}
        for number in range(4):
            tree[b"d%d" % number] = None
            tree[b"d%d/f" % number] = b"1"

        found, sessions, _ = self.walked(tree, {b"d0", b"d2"})

        self.assertEqual(found.refused, (b"d0", b"d2"))
        self.assertEqual(found.present, {b"d0", b"d2"})
        self.assertEqual(set(found.entries), {b"", b"d1", b"d1/f", b"d3", b"d3/f"})
        self.assertEqual(len(sessions), 3)
        for place, name in ((1, b"/src/d0"), (2, b"/src/d2")):
            for later in sessions[place:]:
                self.assertNotIn(("OPENDIR", name), later.asked)

    def test_folders_that_are_gone_cost_one_connection(self) -> None:
        """
        However many were there the last time: after the first refusal no listing is
        guessed at any more.
        """
        gone = {b"gone%d" % number: Kind.FOLDER for number in range(9)}
        hints = {b"": Kind.FOLDER, **gone, b"dir": Kind.FOLDER, b"dir/b": Kind.FILE}

        found, sessions, refusals = self.walked(TREE, set(), hints)

        self.assertEqual(set(found.entries), set(TREE))
        self.assertEqual((found.present, found.refused), (frozenset(), ()))
        self.assertEqual(len(sessions), 2)
        self.assertEqual(refusals.listings, {})

    def test_a_tree_that_is_known_takes_one_round_trip(self) -> None:
        """
        As long as nothing is refused.
        """
        hints = {
            name: Kind.FILE if tree else Kind.FOLDER for name, tree in TREE.items()
        }

        found, (session,), _ = self.walked(TREE, set(), hints)

        self.assertEqual(set(found.entries), set(TREE))
        self.assertEqual(session.trips, 1)

    def test_a_source_of_which_nothing_is_known(self) -> None:
        """
        A file is not asked for its listing: that would cost the connection.
        """
        _, (session,), _ = self.walked({b"": b"content"}, set())
        self.assertEqual(session.asked, [("STAT", SOURCE)])

    def test_a_refused_source(self) -> None:
        """
        Its listing is an error at once.
        """
        session = FakeSession(TREE, {("OPENDIR", b"")}, version=1)
        done = walk(Asking(session), request())
        session.answer_all()
        self.failureResultOf(done, SourceRefused)

    def test_other_servers_are_asked_again(self) -> None:
        """
        Where a refusal ends nothing, nothing is remembered.
        """
        refusals = Refusals()
        session = FakeSession(TREE, {("OPENDIR", b"dir")})
        done = walk(Asking(session), request(), None, None, refusals)
        session.answer_all()
        self.assertEqual(self.successResultOf(done).refused, (b"dir",))
        self.assertEqual((refusals.learned, refusals.listings), (0, {}))

    @settings(max_examples=60, deadline=None)
    @given(
        st.dictionaries(
            st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(
                b"/".join
            ),
            st.booleans(),
            max_size=12,
        ),
        st.sets(
            st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(
                b"/".join
            ),
            max_size=6,
        ),
        st.dictionaries(
            st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=3).map(b"/".join),
            st.sampled_from([Kind.FILE, Kind.FOLDER, Kind.LINK]),
            max_size=8,
        ),
    )
    def test_the_result_is_that_of_a_server_that_stays(
        self, names: dict[bytes, bool], refused: set[bytes], hints: dict[bytes, Kind]
    ) -> None:
        """
        Whatever is refused and remembered, the walk comes to an end, with the tree
        that a server shows that does not end connections.
        """
        tree: Tree = {b"": None}
        for name in sorted(names):
            parent = name.rpartition(b"/")[0]
            if parent in tree and tree[parent] is None:
                tree[name] = None if names[name] else b"content"
        session = FakeSession(tree, {("OPENDIR", name) for name in refused})
        done = walk(Asking(session), request())
        session.answer_all()

        found, _, _ = self.walked(tree, refused, hints)

        expected = self.successResultOf(done)
        self.assertEqual(dict(found.entries), dict(expected.entries))
        self.assertEqual(found.present, expected.present)
        self.assertEqual(sorted(found.refused), sorted(expected.refused))
