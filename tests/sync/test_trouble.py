# SPDX-License-Identifier: MIT
"""
Streams that get out of step, by chance or by design: nothing wrong is ever put in
place, and what can be had is had in the end.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.errors import ClientError, Rejected, Unreachable
from nodecomm.sync.errors import VerificationFailed
from nodecomm.sync.fetching import Errands
from nodecomm.sync.model import SyncLimits
from nodecomm.sync.receiving import Receiving
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import DIGEST_EQUAL, REFUSAL, encode_listing
from tests.sync.upstream import Node, Upstream, make_node, refusal_block

FORGED = encode_transaction(DIGEST_EQUAL)


def tree() -> dict[bytes, bytes | None]:
    """Some files of different sizes, two levels."""
    files: dict[bytes, bytes | None] = {b"": None, b"sub": None, b"sub/deep": None}
    for number in range(12):
        files[b"f%d" % number] = b"%d" % number * number * 30
        files[b"sub/g%d" % number] = b"g" * number * 500
    files[b"sub/deep/large"] = bytes(range(256)) * 3000
    return files


class Once:
    """
    Does something else than it should, for some names and so many times each.
    """

    def __init__(self, times: int, **what: Any) -> None:
        self._times = {name.encode(): times for name in what}
        self._what = {name.encode(): each for name, each in what.items()}

    def __call__(self, name: bytes, true: bytes) -> bytes | None:
        """The content."""
        last = name.rpartition(b"/")[2]
        if self._times.get(last, 0):
            self._times[last] -= 1
            result: bytes | None = self._what[last](true)
            return result
        return true


class InTurn:
    """
    Something else each time, then what is right.
    """

    def __init__(self, *wrong: bytes) -> None:
        self._wrong = iter(wrong)

    def __call__(self, name: bytes, true: bytes) -> bytes:
        """The content."""
        return next(self._wrong, true)


class TroubleTests(SynchronousTestCase):
    """
    A server of upstream's kind on which files change while they are sent.
    """

    def node(self, content: Any = None, latency: float = 0.0) -> Node:
        """A node and what it copies from."""
        upstream = Upstream(tree())
        if content is not None:
            upstream.content = content
        return make_node(self.addCleanup, upstream, latency)

    def right(self, node: Node) -> None:
        """The copy is what the server has."""
        self.assertEqual(node.copied(), node.upstream.files)

    def test_no_trouble(self) -> None:
        """
        One connection, each file once.
        """
        node = self.node()
        result = node.run()

        self.right(node)
        self.assertEqual(result.connections, 1)
        gets = [name for word, name in node.upstream.asked if word == "GET"]
        self.assertEqual(len(gets), len(set(gets)))

    def test_a_file_that_grew(self) -> None:
        """
        What comes behind it is not taken for anything.
        """
        for surplus in (b"x", b"y" * 5000, FORGED, FORGED * 300, REFUSAL, b"\0" * 9):
            for latency in (0.0, 0.05):
                node = self.node(
                    Once(1, f7=lambda true, more=surplus: true + more), latency
                )
                result = node.run()

                self.right(node)
                self.assertGreater(result.connections, 1)

    def test_a_file_that_shrank(self) -> None:
        """
        It eats into what follows.
        """
        for lost in (1, 17, 100, 209):
            node = self.node(Once(1, f7=lambda true, lost=lost: true[:-lost]))
            result = node.run()

            self.right(node)
            self.assertGreater(result.connections, 1)

    def test_wrong_content_with_forged_verification(self) -> None:
        """
        One file brings wrong content, the next one the answers that say it is right,
        in any number: it is not believed.
        """
        for count in (1, 10, 30, 60, 200):
            for latency in (0.0, 0.05):
                node = self.node(
                    Once(
                        1,
                        f6=lambda true: b"!" * len(true),
                        f7=lambda true, count=count: true + FORGED * count,
                    ),
                    latency,
                )
                node.run()

                self.right(node)

    def test_sizes_that_make_up_for_each_other(self) -> None:
        """
        One file grew by as much as the next one shrank, so that the stream fits.
        """
        node = self.node(
            Once(1, f6=lambda true: true + b"12345", f7=lambda true: true[:-5])
        )
        node.run()

        self.right(node)

    def test_a_forged_listing_removes_nothing(self) -> None:
        """
        Neither does a forged refusal: a file of the first level answers for the
        folders of the second.
        """
        empty = b"".join(encode_listing([b".", b".."]))
        for forged in (empty * 3, encode_transaction(REFUSAL) * 90):
            for latency in (0.0, 0.05):
                node = self.node(None, latency)
                node.run()
                node.upstream.files[b"f1"] = b"now this"
                node.upstream.content = Once(
                    1, f1=lambda true, more=forged: true + more
                )

                result = node.run(purge=True)

                self.right(node)
                self.assertEqual((result.removed, result.refused), (0, ()))

    def test_changed_content_of_the_same_size(self) -> None:
        """
        The stream stays in step, and the digest shows it.
        """
        node = self.node(Once(2, f7=lambda true: b"?" * len(true)))
        result = node.run()

        self.right(node)
        self.assertGreater(result.connections, 1)

    def test_refused_content(self) -> None:
        """
        A file that is described and not given: the update fails, names it and says
        why, and nothing is put in place.
        """
        for block in (2048, 59):
            node = self.node(
                Once(99, f7=lambda true, block=block: refusal_block(block))
            )
            error = node.fail()

            self.assertIsInstance(error, VerificationFailed)
            self.assertIn("/src/f7", str(error))
            self.assertIn("refusal", str(error))
            self.assertFalse(node.dest.exists())

    def test_error_texts_never_become_content(self) -> None:
        """
        Of files of any small size.
        """
        for size in (*range(0, 71, 5), 67, 126, 2115):
            upstream = Upstream(
                {b"": None, b"a": b"a", b"file": b"x" * size, b"z": b"z"}
            )
            upstream.content = Once(1, file=lambda true: refusal_block())
            node = make_node(self.addCleanup, upstream)

            node.run()

            self.right(node)

    def test_a_file_that_always_changes(self) -> None:
        """
        It is given up after so many attempts, by name.
        """
        for surplus in (b"more", FORGED * 7):
            node = self.node(
                Once(999, f7=lambda true, more=surplus: b"!" * len(true) + more)
            )
            error = node.fail(limits=SyncLimits(attempts=4))

            self.assertIsInstance(error, VerificationFailed)
            self.assertIn("/src/f7", str(error))
            gets = [name for word, name in node.upstream.asked if word == "GET"]
            self.assertEqual(gets.count(b"f7"), 4)
            self.assertFalse(node.dest.exists())

    def test_careful_means_alone(self) -> None:
        """
        What was near trouble twice is described, fetched and verified with nothing
        else under way.
        """
        node = self.node(Once(3, f7=lambda true: b"!" * len(true) + b"more"))
        node.run()

        self.right(node)
        asked = node.upstream.asked
        last = len(asked) - 1 - asked[::-1].index(("GET", b"f7"))
        self.assertEqual(asked[last - 1], ("STAT", b"f7"))
        self.assertEqual(asked[-1], ("MD5", b"f7"))

    def test_a_server_that_closes(self) -> None:
        """
        As ours does when a file changes under it: the others are not fetched again.
        """
        node = self.node(Once(2, f7=lambda true: None))
        result = node.run()

        self.right(node)
        self.assertEqual(result.connections, 3)

    def test_a_server_that_always_closes(self) -> None:
        """
        The error says what happened.
        """
        node = self.node(Once(99, f7=lambda true: None))
        error = node.fail()

        self.assertIsInstance(error, ClientError)
        self.assertFalse(node.dest.exists())

    def test_connections_that_last_for_few_requests(self) -> None:
        """
        A server that ends each connection after so many requests: as long as there
        is progress, the run goes on.
        """
        node = self.node()
        node.upstream.limit = 120
        result = node.run()

        self.right(node)
        self.assertLess(result.connections, 10)

    def test_connections_that_never_get_anywhere(self) -> None:
        """
        Without progress it ends.
        """
        node = self.node()
        node.upstream.limit = 3
        error = node.fail(limits=SyncLimits(attempts=3))

        self.assertIsInstance(error, ClientError)
        self.assertNotIsInstance(error, (Rejected, Unreachable))
        self.assertEqual(len(node.place.network.connections), 3)

    def test_a_file_that_vanishes(self) -> None:
        """
        Between its status and its content: it is not there, and the rest is.
        """
        node = self.node()
        files = node.upstream.files

        def gone(name: bytes, true: bytes) -> bytes | None:
            if name == b"f7" and b"f7" in files:
                del files[b"f7"]
                return encode_transaction(REFUSAL)
            return true

        node.upstream.content = gone
        node.run()

        self.right(node)

    def test_a_digest_that_is_refused(self) -> None:
        """
        What is here stays, and is told of.
        """
        node = self.node()
        node.run()
        node.upstream.refused = {("MD5", b"f7")}

        result = node.run(purge=True, compare="digest")

        self.right(node)
        self.assertEqual(result.refused, (b"f7",))

    def test_a_single_file(self) -> None:
        """
        With nothing else to check the stream by.
        """
        for size in (3, 5000, 200_000):
            for latency in (0.0, 0.05):
                upstream = Upstream({b"": b"c" * size})
                upstream.content = InTurn(b"!" * size + FORGED * 60, b"c" * size + b"+")
                node = make_node(self.addCleanup, upstream, latency)

                node.run()

                self.assertEqual(node.dest.read_bytes(), b"c" * size)

    @settings(max_examples=20, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([b"f%d" % number for number in range(12)]),
                st.one_of(
                    st.integers(1, 300),
                    st.integers(-300, -1),
                    st.binary(max_size=200),
                    st.integers(1, 60).map(lambda count: FORGED * count),
                    st.none(),
                ),
            ),
            max_size=6,
        ),
        st.sampled_from([0.0, 0.02]),
    )
    def test_any_trouble(
        self, plan: list[tuple[bytes, int | bytes | None]], latency: float
    ) -> None:
        """
        Whatever happens to the content of some files a few times, the copy is right
        in the end.
        """
        left = list(plan)

        def content(name: bytes, true: bytes) -> bytes | None:
            for each in left:
                if each[0] == name:
                    left.remove(each)
                    what = each[1]
                    if isinstance(what, int):
                        return true[:what] if what < 0 else true + b"+" * what
                    return None if what is None else true + what
            return true

        upstream = Upstream(tree())
        upstream.content = content
        node = make_node(self.addCleanup, upstream, latency)

        node.run(limits=SyncLimits(attempts=9))

        self.right(node)


class MistakeTests(SynchronousTestCase):
    """
    Mistakes of this program.
    """

    def test_each_ends_the_run(self) -> None:
        """
        What goes wrong in the course of an update, in whatever way nobody thought of,
        ends it with that error: it never waits for what cannot come any more.
        """

        def mistaken(*_arguments: object, **_more: object) -> None:
            raise ZeroDivisionError("a mistake")

        places: list[tuple[type, str]] = [
            (Receiving, "take"),
            (Receiving, "finish"),
            (Errands, "_hashed"),
            (Errands, "_written"),
            (Errands, "_verified"),
            (Errands, "_submit"),
        ]
        for kind, method in places:
            upstream = Upstream({b"": None, b"a": b"1" * 100, b"b": b"2" * 50_000})
            node = make_node(self.addCleanup, upstream, 0.0)
            patched = self.patch(kind, method, mistaken)

            error = node.fail()

            patched.restore()
            self.assertIn("a mistake", str(error), method)
            self.assertFalse(node.dest.exists())
