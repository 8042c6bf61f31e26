# SPDX-License-Identifier: MIT
from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.sync.clocks import Moment
from nodecomm.sync.comparing import Verdict, judge
from nodecomm.sync.model import (
    UNKNOWN,
    Compare,
    Kind,
    LocalEntry,
    RemoteEntry,
    RemoteTree,
    SyncRequest,
)
from nodecomm.sync.planning import Plan, make_plan
from nodecomm.sync.record import LocalState, Record, ServerState


def remote(kind: Kind = Kind.FILE, **more: Any) -> RemoteEntry:
    """An object of the server."""
    values: dict[str, Any] = {"mode": 0o644, "uid": 0, "gid": 0, "size": 5, **more}
    return RemoteEntry(
        kind, **{"mtime": 100, "ctime": 100, "ino": 9, "dev": 1, **values}
    )


def local(kind: Kind = Kind.FILE, **more: Any) -> LocalEntry:
    """An object here."""
    values: dict[str, Any] = {"mode": 0o644, "uid": 0, "gid": 0, "size": 5, **more}
    times = {"mtime_ns": 50 * 10**9, "ctime_ns": 1, "ino": 2, "dev": 3}
    return LocalEntry(kind, **{**times, **values})


FOLDER, FILE, LINK, OTHER = Kind.FOLDER, Kind.FILE, Kind.LINK, Kind.OTHER


class PlanTests(SynchronousTestCase):
    """
    What the new set consists of.
    """

    def plan(
        self,
        theirs: dict[bytes, Kind],
        ours: dict[bytes, Kind],
        *,
        present: tuple[bytes, ...] = (),
        fetched: tuple[bytes, ...] = (),
        left: tuple[bytes, ...] = (),
        **more: Any,
    ) -> Plan:
        """Make it."""
        tree = RemoteTree(
            {
                b"": remote(FOLDER),
                **{name: remote(kind) for name, kind in theirs.items()},
            },
            frozenset(present),
        )
        here = {name: local(kind) for name, kind in ours.items()}
        request = SyncRequest(b"/s", b"/d", **more)
        return make_plan(request, tree, here, set(fetched), set(left))

    def names(self, plan: Plan) -> dict[bytes, str]:
        """What becomes of each."""
        return {each.name: each.origin for each in plan.wanted}

    def test_cases(self) -> None:
        """
        The server's names, ours, what else is said, and what becomes of it all.
        """
        both = {b"a": FILE}
        cases: list[tuple[Any, Any, dict[str, Any], dict[bytes, str]]] = [
            ({}, both, {}, {b"a": "carried"}),
            ({}, both, {"purge": True}, {}),
            ({}, both, {"purge": True, "present": (b"a",)}, {b"a": "carried"}),
            ({}, both, {"purge": True, "exclude": (b"a",)}, {b"a": "carried"}),
            (both, both, {}, {b"a": "kept"}),
            (both, both, {"fetched": (b"a",)}, {b"a": "fetched"}),
            (both, both, {"left": (b"a",)}, {b"a": "carried"}),
            (both, {}, {"left": (b"a",)}, {}),
            # Below what stays, everything stays.
            (
                {},
                {b"a": FOLDER, b"a/b": FILE, b"c": FILE},
                {"purge": True, "present": (b"a",)},
                {b"a": "carried", b"a/b": "carried"},
            ),
            # And the folders that it is in.
            (
                {},
                {b"a": FOLDER, b"a/b": FOLDER, b"a/b/c": FILE, b"a/d": FILE},
                {"purge": True, "exclude": (b"c",)},
                {b"a": "carried", b"a/b": "carried", b"a/b/c": "carried"},
            ),
            # A file takes a folder's place with all in it,
            (
                {b"a": FILE},
                {b"a": FOLDER, b"a/b": FILE},
                {"fetched": (b"a",)},
                {b"a": "fetched"},
            ),
            # but not when something in it stays.
            (
                {b"a": FILE},
                {b"a": FOLDER, b"a/b": FILE},
                {"fetched": (b"a",), "exclude": (b"b",)},
                {b"a": "carried", b"a/b": "carried"},
            ),
            # A folder takes a link's place.
            (
                {b"a": FOLDER, b"a/b": FILE},
                {b"a": LINK},
                {"fetched": (b"a/b",)},
                {b"a": "kept", b"a/b": "fetched"},
            ),
            ({}, {b"fifo": OTHER}, {}, {b"fifo": "carried"}),
        ]
        for theirs, ours, said, expected in cases:
            with self.subTest(theirs=theirs, ours=ours, said=said):
                self.assertEqual(self.names(self.plan(theirs, ours, **said)), expected)

    def test_changes(self) -> None:
        """
        Each name that becomes something else is told once, in order.
        """
        plan = self.plan(
            {b"b": FILE, b"c": FILE, b"d": FOLDER},
            {b"a": FILE, b"b": FILE, b"d": FILE},
            purge=True,
            fetched=(b"b", b"c"),
        )

        self.assertEqual(
            [(each.name, each.what) for each in plan.changes],
            [(b"a", "removed"), (b"b", "updated"), (b"c", "added"), (b"d", "updated")],
        )

    def test_links(self) -> None:
        """
        Links are compared by where they lead alone; beside an owner that is not known,
        none is wanted.
        """
        here = local(LINK, target=b"there", mode=0o777, uid=3, gid=4)
        cases: list[tuple[RemoteEntry, bool, str | None]] = [
            (remote(LINK, target=b"there", mode=0o600, mtime=9), False, None),
            (remote(LINK, target=b"else"), False, "updated"),
            (remote(LINK, target=b"there", uid=UNKNOWN, gid=UNKNOWN), True, None),
            (remote(LINK, target=b"there", uid=3, gid=4), True, None),
            (remote(LINK, target=b"there", uid=3, gid=5), True, "attributes"),
            (remote(FILE), False, "updated"),
            (remote(FOLDER), False, "updated"),
        ]
        for theirs, preserve, expected in cases:
            tree = RemoteTree({b"": remote(FOLDER), b"a": theirs})
            wanted = SyncRequest(b"/s", b"/d", preserve=preserve)
            plan = make_plan(wanted, tree, {b"a": here}, set())
            with self.subTest(theirs=theirs, preserve=preserve):
                self.assertEqual(
                    [one.what for one in plan.changes] or [None], [expected]
                )
                if theirs.uid == UNKNOWN:
                    self.assertIsNone(plan.wanted[0].owner)

    def test_what_stays_in_the_way_is_told(self) -> None:
        """
        A person should know why the server's file is not there.
        """
        plan = self.plan(
            {b"a": FILE}, {b"a": FOLDER, b"a/b": FILE}, exclude=(b"b",), fetched=(b"a",)
        )

        self.assertEqual(len(plan.warnings), 1)
        self.assertEqual(plan.changes, ())

    @settings(max_examples=80, deadline=None)
    @given(st.data())
    def test_every_plan_is_a_tree(self, data: st.DataObject) -> None:
        """
        Whatever both sides have, each object's folder comes before it, and what is
        excluded or present here is never lost.
        """
        names = [b"a", b"b", b"a/a", b"a/b", b"b/a", b"a/a/a", b"a/a/b"]
        kinds = st.sampled_from([FILE, FOLDER, LINK])

        def tree() -> dict[bytes, Kind]:
            made: dict[bytes, Kind] = {}
            for name in names:
                parent = name.rpartition(b"/")[0]
                if (not parent or made.get(parent) is FOLDER) and data.draw(
                    st.booleans()
                ):
                    made[name] = data.draw(kinds)
            return made

        theirs, ours = tree(), tree()
        exclude = data.draw(st.sampled_from([(), (b"b",), (b"a/a",), (b"a/",)]))
        left = tuple(
            name
            for name, kind in theirs.items()
            if kind is FILE and data.draw(st.booleans())
        )
        present = tuple(name for name in names if name not in theirs)[:2]

        plan = self.plan(
            theirs,
            ours,
            exclude=exclude,
            left=left,
            present=present,
            purge=data.draw(st.booleans()),
        )

        folders = {b""}
        for each in plan.wanted:
            self.assertIn(each.name.rpartition(b"/")[0], folders)
            if each.kind is FOLDER:
                folders.add(each.name)
        kept = {each.name for each in plan.wanted}
        for name in (*left, *present):
            if name in ours:
                self.assertIn(name, kept)
        self.assertEqual(sorted(kept), [each.name for each in plan.wanted])


class JudgeTests(SynchronousTestCase):
    """
    What is done about one file.
    """

    def record(self, seconds: float) -> Record:
        """A record of a file that was confirmed so long after it was seen."""
        record = Record.load("/nonexistent", "hub:5308", b"/s", b"/d")
        seen = Moment("boot", 0)
        record.note(
            b"f",
            ServerState.of(remote()),
            LocalState.of(local()),
            b"m" * 16,
            seen=seen,
            confirmed=Moment("boot", int(seconds * 1e9)),
        )
        return record

    def test_cases(self) -> None:
        """
        Each mode, with a settled record, one that is not, and none.
        """
        sum_ = b"s" * 32
        settled, fresh = self.record(2.0), self.record(1.9)
        none = Record.load("/nonexistent", "hub:5308", b"/s", b"/d")
        same, fetch = Verdict.SAME, Verdict.FETCH
        ask, hash_ = Verdict.ASK, Verdict.HASH
        told = remote(sha256=sum_)
        cases: list[tuple[Compare, Any, Any, Record, Any, Verdict]] = [
            ("auto", remote(), None, settled, {}, fetch),
            ("auto", remote(), local(FOLDER), settled, {}, fetch),
            ("auto", remote(size=6), local(), settled, {}, fetch),
            ("auto", remote(), local(), settled, {}, same),
            ("auto", remote(), local(), fresh, {}, ask),
            ("auto", remote(), local(), none, {}, hash_),
            ("auto", remote(mtime=101), local(), settled, {}, ask),
            ("auto", remote(ctime=101), local(), settled, {}, ask),
            ("auto", remote(ino=8), local(), settled, {}, ask),
            ("auto", remote(), local(mtime_ns=1), settled, {}, hash_),
            ("auto", remote(), local(ctime_ns=2), settled, {}, hash_),
            ("auto", remote(), local(ino=3), settled, {}, hash_),
            ("auto", remote(), local(dev=4), settled, {}, hash_),
            ("auto", told, local(), settled, {}, hash_),
            ("auto", told, local(), fresh, {b"f": sum_}, same),
            ("auto", told, local(), fresh, {b"f": b"other"}, hash_),
            ("auto", told, local(ino=3), settled, {b"f": sum_}, hash_),
            ("digest", remote(), local(), settled, {}, hash_),
            ("digest", remote(size=6), local(), settled, {}, fetch),
            ("size", remote(mtime=999), local(), none, {}, same),
            ("size", remote(size=6), local(), settled, {}, fetch),
            ("mtime", remote(mtime=50), local(), none, {}, same),
            ("mtime", remote(mtime=51), local(), settled, {}, fetch),
            ("mtime", remote(size=6, mtime=1), local(), settled, {}, fetch),
        ]
        for case in cases:
            compare, entry, here, record, held, expected = case
            with self.subTest(case=case):
                self.assertIs(judge(compare, b"f", entry, here, record, held), expected)
