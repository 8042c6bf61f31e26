# SPDX-License-Identifier: MIT
"""
Sessions, from the outside: a client in memory against the server in memory.
"""

from __future__ import annotations

import gc
import hashlib
import os
import time
import weakref
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from nodecomm.interfaces import API, ICommand
from nodecomm.server.replies import Frames, Reply, frame
from nodecomm.server.requests import Request
from nodecomm.testing import MemoryServer, MemorySource, key_pair, memory_server
from nodecomm.testing.client import MemoryClient
from nodecomm.wire.commands import encode_digest, encode_get, encode_stat
from nodecomm.wire.framing import MAX_RECORD, TransactionBuffer, encode_transaction
from nodecomm.wire.replies import DENIED, DIGEST_DIFFERS, DIGEST_EQUAL, REFUSAL

NOT_WELCOME = "not welcome"


class TreeTestCase(SynchronousTestCase):
    """
    A folder that is served as `files` to 127.0.0.1.
    """

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir(parents=True)
        (self.root / "a.txt").write_bytes(b"hello\n")
        # An access time in the future is not moved by reading.
        later = time.time() + 3600
        os.utime(self.root / "a.txt", (later, later - 7200))
        (self.root / "empty").write_bytes(b"")
        (self.root / "sub").mkdir()
        (self.root / "sub" / "b").write_bytes(b"x" * 5000)
        self.server = self.make_server()

    def make_server(self, **more: Any) -> MemoryServer:
        """A server of the folder."""
        rule = {
            "path": str(self.root),
            "shortcut": "files",
            "admit_ips": ["127.0.0.1"],
        }
        return memory_server(rule, **more)

    def path(self, name: str) -> bytes:
        """The absolute name on the wire."""
        return os.fsencode(self.root / name)


class CommandTests(TreeTestCase):
    """
    Each command, as the community server answers it.
    """

    def test_version(self) -> None:
        """Every authenticated peer is told the release."""
        self.assertEqual([b"OK: 3.21.0"], self.server.connect().request(b"VERSION"))

    def test_stat_tells_what_the_file_is(self) -> None:
        """The thirteen numbers are those of the file; no link text follows."""
        found = os.stat(self.root / "a.txt")

        reply = self.server.connect().stat(b"files/a.txt")

        assert reply is not None
        self.assertEqual(
            (0, found.st_mode & 0o7777, 0, 6, int(found.st_mtime), 1, b""),
            (
                reply.kind,
                reply.mode,
                reply.link_mode,
                reply.size,
                reply.mtime,
                reply.nlink,
                reply.target,
            ),
        )

    def test_stat_follows_links(self) -> None:
        """A link is reported exactly as what it leads to."""
        (self.root / "link").symlink_to("a.txt")
        node = self.server.connect()

        self.assertEqual(node.stat(b"files/a.txt"), node.stat(b"files/link"))

    def test_stat_shows_a_dangling_link(self) -> None:
        """A link that leads nowhere is the only thing reported as a link."""
        (self.root / "lost").symlink_to("nowhere")

        reply = self.server.connect().stat(b"files/lost")

        assert reply is not None
        self.assertEqual(
            (1, 0o777, b"nowhere"), (reply.kind, reply.link_mode, reply.target)
        )

    def test_a_link_out_of_the_tree_is_refused(self) -> None:
        """Access is decided on where a link leads."""
        (self.root / "out").symlink_to("/etc/hostname")

        self.assertIsNone(self.server.connect().stat(b"files/out"))

    def test_missing_and_forbidden_look_alike(self) -> None:
        """The refusal tells nothing, and the connection stays."""
        node = self.server.connect()

        for path in (b"/etc/hostname", b"/nowhere", b"files/none", b"./a.txt", b"zz"):
            self.assertEqual([REFUSAL], node.request(encode_stat(BEGIN, path)))
        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))

    def test_a_slash_after_a_file_is_refused(self) -> None:
        """A file is no folder."""
        self.assertIsNone(self.server.connect().stat(b"files/a.txt/"))

    def test_clocks(self) -> None:
        """An hour's difference passes, a second more does not, either way."""
        node = self.server.connect()
        now = int(self.server.now)

        for difference, passes in [(3600, True), (3601, False), (46341, False)]:
            for sign in (-1, 1):
                found = node.request(
                    encode_stat(now + sign * difference, b"files/a.txt")
                )
                self.assertEqual(passes, found[0].startswith(b"OK: "), difference)
                if not passes:
                    self.assertEqual(
                        b"BAD: Clocks are too far unsynchronized %d/%d"
                        % (now, now + sign * difference),
                        found[0],
                    )

    def test_clocks_are_ignored_when_told_so(self) -> None:
        """`denybadclocks = false` serves a node without a clock."""
        node = self.make_server(deny_bad_clocks=False).connect()

        self.assertEqual(2, len(node.request(encode_stat(0, b"files/a.txt"))))

    def test_opendir(self) -> None:
        """All names, `.` and `..` too."""
        names = self.server.connect().opendir(b"files")

        self.assertEqual([b".", b"..", b"a.txt", b"empty", b"sub"], sorted(names or ()))

    def test_opendir_of_a_file(self) -> None:
        """A file has no names, and says so in the real server's words."""
        found = self.server.connect().request(b"OPENDIR files/a.txt")

        self.assertEqual(
            [b"BAD: cfengine, couldn't open dir " + self.path("a.txt") + b"/"], found
        )

    def test_a_large_folder_leaves_in_records_of_whole_frames(self) -> None:
        """No frame is cut by a TLS record, and no record is over the limit."""
        for number in range(3000):
            (self.root / "sub" / f"{number:05}-{'n' * 40}").touch()
        node = self.server.connect()
        node.records.clear()

        names = node.opendir(b"files/sub")

        self.assertEqual(3003, len(names or ()))
        self.assertGreater(len(node.records), 5)
        for record in node.records:
            self.assertLessEqual(len(record), MAX_RECORD)
            buffer = TransactionBuffer()
            buffer.feed(record)
            while buffer.next_transaction() is not None:
                pass
            self.assertEqual(0, len(buffer))

    def test_digest(self) -> None:
        """`CFD_TRUE` is "differs", in MD5 and for Enterprise peers in SHA-256."""
        node = self.server.connect()

        for new in (hashlib.md5, hashlib.sha256):
            right = new(b"hello\n").digest()
            wrong = new(b"hallo\n").digest()
            self.assertEqual(DIGEST_EQUAL, node.differs(b"files/a.txt", right))
            self.assertEqual(DIGEST_DIFFERS, node.differs(b"files/a.txt", wrong))

    def test_digest_of_what_is_no_file(self) -> None:
        """A folder, and a request without a digest, differ."""
        node = self.server.connect()
        right = hashlib.md5(b"").digest()

        self.assertEqual(DIGEST_DIFFERS, node.differs(b"files/sub", right))
        self.assertEqual([DIGEST_DIFFERS], node.request(b"MD5 files/empty"))
        self.assertEqual(DIGEST_EQUAL, node.differs(b"files/empty", right))

    def test_get(self) -> None:
        """The bytes and nothing else; an empty file is nothing at all."""
        node = self.server.connect()

        self.assertEqual(b"x" * 5000, node.get(b"files/sub/b", 6000))
        self.assertEqual(b"", node.get(b"files/empty", 100))
        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))

    def test_get_of_what_was_never_announced_and_is_refused(self) -> None:
        """The framed refusal, as the real server's; the connection stays."""
        node = self.server.connect()

        self.assertEqual([REFUSAL], node.request(encode_get(b"/etc/hostname")))
        self.assertFalse(node.closed)

    def test_get_of_a_folder_or_fifo_closes(self) -> None:
        """What has no content cannot be sent; a fifo is not even opened."""
        os.mkfifo(self.root / "fifo")
        for name in (b"files/sub", b"files/fifo"):
            node = self.server.connect()
            node.send(encode_transaction(encode_get(name)))
            self.assertEqual((b"", True), (node.received(), node.closed))

    def test_values_of_the_enterprise_edition(self) -> None:
        """What the community server knows and does not have."""
        rules = [
            {"path": "known", "resource_type": "literal", "admit_ips": ["127.0.0.1"]},
            {"path": "delta", "resource_type": "query", "admit_ips": ["127.0.0.1"]},
        ]
        table: list[tuple[bytes, list[bytes], bool]] = [
            (b"VAR known", [b"BAD: Not found"], False),
            (b"VAR other", [REFUSAL], False),
            (b"CONTEXT .*", [REFUSAL], False),
            (b"QUERY other x", [REFUSAL], False),
            (b"QUERY delta x", [DENIED], True),
            (b"COOKIE", [DENIED], True),
            (b"SCALLBACK", [], True),
        ]
        for payload, answer, closed in table:
            node = memory_server(*rules).connect()
            self.assertEqual(answer, node.request(payload), payload)
            self.assertEqual(closed, node.closed, payload)

    def test_cookie_exists_in_protocol_3_only(self) -> None:
        """In protocol 2 the word is unknown; in 3 the query decides."""
        old = self.server.connect(version=2)
        self.assertEqual([DENIED], old.request(b"COOKIE"))
        self.assertTrue(old.closed)
        new = self.server.connect(version=3)
        self.assertEqual([REFUSAL], new.request(b"COOKIE"))
        self.assertFalse(new.closed)

    def test_malformed_requests_end_the_connection(self) -> None:
        """One frame says so, and what was asked behind it is not answered."""
        for payload in [
            b"version",
            b"VERSIONX",
            b"SYNCH x STAT files",
            b"SYNCH 1",
            b"OPENDIR",
            b"MD5",
            b"VAR",
            b"GET 0 files/a.txt",
            b"GET -1 files/a.txt",
            b"GET 4097 files/a.txt",
            b"GET files/a.txt",
            b"CAUTH 1 2 3 4",
            b"SSYNCH 8",
            b"CLASSES x",
        ]:
            node = self.server.connect()
            self.assertEqual([DENIED], node.request(payload, b"VERSION"), payload)
            self.assertTrue(node.closed, payload)

    def test_a_payload_that_begins_with_nul_is_ignored(self) -> None:
        """No answer, and the connection stays."""
        node = self.server.connect()

        self.assertEqual([b"OK: 3.21.0"], node.request(b"\0VERSION", b"VERSION"))


BEGIN = 1_700_000_000


class AnnouncedSizeTests(TreeTestCase):
    """
    GET has no length: what STAT told is what is sent.
    """

    def setUp(self) -> None:
        super().setUp()
        self.node = self.server.connect()
        self.file = self.root / "grown"
        self.file.write_bytes(b"12345")
        self.node.stat(b"files/grown")

    def test_a_file_that_grew(self) -> None:
        """The announced number of bytes is sent, so both stay in step."""
        self.file.write_bytes(b"1234567890")

        self.assertEqual(b"12345", self.node.get(b"files/grown", 100))
        self.assertEqual([b"OK: 3.21.0"], self.node.request(b"VERSION"))

    def test_another_file_that_is_longer(self) -> None:
        """No piece of it is sent as if it were the whole; where it has the size that
        was announced, it is sent."""
        for content, sent, closed in [
            (b"67890", b"67890", False),
            (b"678901", b"", True),
        ]:
            node = self.server.connect()
            node.stat(b"files/grown")
            (self.root / "new").write_bytes(content)
            (self.root / "new").rename(self.file)
            node.send(encode_transaction(encode_get(b"files/grown")))
            self.assertEqual((sent, closed), (node.received(), node.closed))

    def test_a_file_that_was_empty(self) -> None:
        """Nothing was announced, so nothing is sent."""
        self.node.stat(b"files/empty")
        (self.root / "empty").write_bytes(b"full")

        self.assertEqual(b"", self.node.get(b"files/empty", 100))
        self.assertEqual([b"OK: 3.21.0"], self.node.request(b"VERSION"))

    def test_a_file_that_shrank_vanished_or_may_not_be_had_any_more(self) -> None:
        """The connection is closed without a byte that could become content."""

        def shrink() -> None:
            self.file.write_bytes(b"1")

        def vanish() -> None:
            self.file.unlink()

        def hide() -> None:
            self.file.unlink()
            self.file.symlink_to("/etc/hostname")

        for change in (shrink, vanish, hide):
            self.file.unlink(missing_ok=True)
            self.file.write_bytes(b"12345")
            node = self.server.connect()
            node.stat(b"files/grown")
            change()
            node.send(encode_transaction(encode_get(b"files/grown")))
            self.assertEqual((b"", True), (node.received(), node.closed), change)

    def test_a_file_that_changes_while_it_is_sent(self) -> None:
        """The last bytes are held back, so the peer keeps the copy it has."""
        self.file.write_bytes(b"a" * 1_000_000)
        node = self.server.connect()
        node.stat(b"files/grown")
        node._tls.send(encode_transaction(encode_get(b"files/grown")))
        while node.step(receive=False):
            pass
        with self.file.open("r+b") as writing:
            writing.write(b"b" * 1_000_000)
        later = self.file.stat().st_mtime_ns + 5_000_000
        os.utime(self.file, ns=(later, later))

        node.pump()

        self.assertTrue(node.closed)
        self.assertLess(len(node.received()), 1_000_000)

    def test_a_file_that_is_replaced_while_it_is_sent(self) -> None:
        """The old content arrives whole."""
        self.file.write_bytes(b"a" * 1_000_000)
        node = self.server.connect()
        node.stat(b"files/grown")
        node._tls.send(encode_transaction(encode_get(b"files/grown")))
        while node.step(receive=False):
            pass
        (self.root / "new").write_bytes(b"b" * 1_000_000)
        (self.root / "new").rename(self.file)

        node.pump()

        self.assertEqual(b"a" * 1_000_000, node.received())


class DialogTests(TreeTestCase):
    """
    Who is let in, and what is read before that.
    """

    def test_an_unknown_key_is_told_nothing(self) -> None:
        """Without trust on first use the connection ends before any line."""
        server = self.make_server(trust=False)
        client = server.dial()
        assert client is not None

        client.pump()

        self.assertEqual((b"", True), (client.received(), client.closed))

    def test_a_stored_key_is_trusted_under_its_user_only(self) -> None:
        """The same key under another name is an unknown key."""
        server = self.make_server(trust=False)
        server.store.add("root", key_pair(1).public)

        self.assertEqual([b"OK: 3.21.0"], server.connect().request(b"VERSION"))
        with self.assertRaises(ConnectionError):
            server.connect(user=b"alice")

    def test_bad_lines_end_the_connection(self) -> None:
        """Unknown versions, bad names and endless lines are not answered."""
        for line in [
            b"CFE_v0 x\n",
            b"CFE_v1 x\n",
            b"CFE_v4 x\n",
            b"garbage\n",
            b"\n",
            b"x" * 2000,
            b"CFE_v3 x\nIDENTITY USERNAME=a/b\n",
            b"CFE_v3 x\nIDENTITY USERNAME=a\\b\n",
            b"CFE_v3 x\nIDENTITY USERNAME=.x\n",
            b"CFE_v3 x\nIDENTITY USERNAME=" + b"a" * 65 + b"\n",
        ]:
            client = self.server.dial()
            assert client is not None
            client.pump()
            client.received()
            client.send(line)
            self.assertEqual((b"", True), (client.received(), client.closed), line)

    def test_lines_stand_alone_in_their_records(self) -> None:
        """Nothing follows a dialog line in its TLS record."""
        node = self.server.connect()

        self.assertTrue(node.records[0].startswith(b"CFE_v3 nodecomm-server "))
        self.assertEqual(
            [1, 1], [record.count(b"\n") for record in node.records if record]
        )
        self.assertEqual(b"OK WELCOME USERNAME=root\n", node.records[1])

    def test_requests_may_be_sent_ahead(self) -> None:
        """Lines and requests in one go are answered in order."""
        client = self.server.dial()
        assert client is not None
        client.pump()
        client.received()

        client.send(
            b"CFE_v3 x\nIDENTITY A=b USERNAME=root C=d\n"
            + encode_transaction(b"VERSION")
            + encode_transaction(encode_stat(BEGIN, b"files/empty"))
        )

        self.assertTrue(client.received().startswith(b"OK WELCOME USERNAME=root\n"))
        # The hello, the welcome, and both answers in one.
        self.assertEqual(3, len(client.records))

    def test_one_byte_at_a_time(self) -> None:
        """How the bytes were cut makes no difference."""
        client = self.server.dial()
        assert client is not None
        client.pump()
        for byte in b"CFE_v2 x\nIDENTITY USERNAME=root\n" + encode_transaction(
            b"VERSION"
        ):
            client.send(bytes([byte]))

        self.assertTrue(client.received().endswith(b"OK: 3.21.0"))

    def test_garbage_instead_of_tls(self) -> None:
        """Whatever comes first and is no TLS ends the connection."""
        for garbage in (b"\0", b"GET / HTTP/1.0\r\n\r\n", b"t 7", b"\x16\x03" * 90):
            client = self.server.dial()
            assert client is not None
            client.send_raw(garbage)
            self.assertTrue(client.wire.disconnecting, garbage)
            self.assertEqual(0, self.server.factory.admission.total)

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(min_size=1, max_size=200))
    def test_any_garbage_after_the_dialog(self, garbage: bytes) -> None:
        """Frames that are none end the connection; nothing else happens."""
        node = self.server.connect()

        node.send(garbage)

        for answer in node.transactions():
            self.assertTrue(answer.startswith(b"BAD: "), answer)

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_any_split_gives_the_same_answers(self, data: st.DataObject) -> None:
        """Requests are cut at random; the bytes that come back are the same."""
        wire = b"".join(
            map(
                encode_transaction,
                [
                    b"VERSION",
                    encode_stat(BEGIN, b"files/a.txt"),
                    encode_get(b"files/a.txt"),
                    b"OPENDIR files",
                    encode_digest(b"files/a.txt", b"0" * 16),
                    encode_get(b"files/sub/b"),
                    encode_stat(BEGIN, b"files/none"),
                ],
            )
        )
        whole = self.server.connect()
        whole.received()
        whole.send(wire)
        expected = whole.received()
        node = self.server.connect()
        node.received()
        cuts = sorted(
            data.draw(st.lists(st.integers(0, len(wire)), max_size=8, unique=True))
        )

        for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            if start < end:
                node.send(wire[start:end])

        self.assertEqual(expected, node.received())


@implementer(ICommand)
class SlowCommand:
    """
    Answers when the test says so.
    """

    api = API
    name = "slow"
    words = (b"SLOW",)
    versions = frozenset({2, 3})

    def __init__(self) -> None:
        self.waiting: list[Deferred[Reply]] = []

    def answer(self, request: Request) -> Deferred[Reply]:
        """Later."""
        answer: Deferred[Reply] = Deferred()
        self.waiting.append(answer)
        return answer


class OrderTests(TreeTestCase):
    """
    Answers leave in the order of the requests.
    """

    def setUp(self) -> None:
        self.slow = SlowCommand()
        super().setUp()
        self.server = self.make_server(commands=[self.slow])

    def test_a_slow_answer_holds_back_those_behind_it(self) -> None:
        """The second request is done first and answered second."""
        node = self.server.connect()

        self.assertEqual([], node.request(b"SLOW", b"VERSION", b"SLOW", b"VERSION"))
        self.slow.waiting[1].callback(frame(b"second"))
        node.pump()
        self.assertEqual([], node.transactions())
        self.slow.waiting[0].callback(frame(b"first"))
        node.pump()

        self.assertEqual(
            [b"first", b"OK: 3.21.0", b"second", b"OK: 3.21.0"], node.transactions()
        )

    def test_only_so_many_are_worked_on(self) -> None:
        """A peer that asks ahead without end waits in its own connection."""
        node = self.server.connect()
        for _ in range(200):
            node._tls.send(encode_transaction(b"SLOW") * 100)
        node.pump()

        self.assertEqual(
            self.server.factory.limits.answers_at_once, len(self.slow.waiting)
        )
        self.assertFalse(node.wire.reading)
        for answer in list(self.slow.waiting):
            answer.callback(Frames(b""))
        node.pump()
        self.assertEqual(
            2 * self.server.factory.limits.answers_at_once, len(self.slow.waiting)
        )

    def test_a_failing_command_closes_its_connection_only(self) -> None:
        """The peer is told nothing, the log has the traceback."""
        node = self.server.connect()
        other = self.server.connect()
        node.request(b"SLOW")
        other.request(b"SLOW")

        self.slow.waiting[0].errback(ValueError("a bug"))
        self.slow.waiting[1].errback(OSError(5, "Input/output error"))
        node.pump()
        other.pump()

        self.assertEqual((b"", True), (node.received(), node.closed))
        self.assertEqual((b"", True), (other.received(), other.closed))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_a_late_answer_to_a_peer_that_left(self) -> None:
        """It is dropped, and what it held is let go of."""
        node = self.server.connect()
        node.request(b"SLOW")
        node.hang_up()

        self.slow.waiting[0].callback(frame(b"too late"))

        self.assertEqual(0, self.server.factory.admission.total)


class SlowReaderTests(TreeTestCase):
    """
    A peer that does not take its answers holds nothing but its own connection.
    """

    def test_memory_stays_flat(self) -> None:
        """Content is read as it is taken, a few hundred kilobytes ahead."""
        with (self.root / "huge").open("wb") as file:
            file.truncate(300_000_000)
        node = self.server.connect()
        node._tls.send(encode_transaction(encode_get(b"files/huge")) * 5)
        for _ in range(50):
            node.step(receive=False)

        waiting = len(node.wire._written)
        self.assertLess(waiting, 1_000_000)
        self.assertGreater(waiting, 65_536)

    def test_it_is_cut_off_in_the_end(self) -> None:
        """`write_timeout` after the last byte was taken."""
        with (self.root / "huge").open("wb") as file:
            file.truncate(30_000_000)
        node = self.server.connect()
        node._tls.send(encode_transaction(encode_get(b"files/huge")))
        while node.step(receive=False):
            pass

        self.server.sweep(self.server.factory.limits.write_timeout + 3)
        node.step(receive=False)

        self.assertTrue(node.wire.aborted)
        self.assertEqual(0, self.server.factory.admission.total)

    def test_a_slow_one_that_takes_something_is_served(self) -> None:
        """Every byte taken counts."""
        with (self.root / "huge").open("wb") as file:
            file.truncate(3_000_000)
        node = self.server.connect()
        node._tls.send(encode_transaction(encode_get(b"files/huge")))
        while node.step(receive=False):
            pass
        while len(node._input) < 3_000_000:
            self.server.sweep(self.server.factory.limits.write_timeout / 2)
            self.assertFalse(node.closed)
            if not node.step():
                break

        self.assertEqual(3_000_000, len(node.received()))


class TimeTests(TreeTestCase):
    """
    Time limits.
    """

    def assert_ends(self, client: MemoryClient, seconds: float) -> None:
        """The connection lasts for *seconds* and not for three more."""
        self.server.sweep(seconds - 1)
        client.step()
        self.assertFalse(client.closed)
        self.server.sweep(4)
        client.step()
        self.assertTrue(client.closed)
        self.assertEqual(0, self.server.factory.admission.total)

    def test_nothing_at_all(self) -> None:
        """A connection must begin."""
        client = self.server.dial()
        assert client is not None
        self.server.sweep(self.server.factory.limits.first_byte_timeout - 1)
        self.assertFalse(client.wire.disconnecting)
        self.server.sweep(2)
        self.assertTrue(client.wire.disconnecting)
        self.assertEqual(0, self.server.factory.admission.total)

    def test_dialog_that_never_ends(self) -> None:
        """Bytes of a line do not prolong it."""
        client = self.server.dial()
        assert client is not None
        client.pump()
        client.send(b"CFE_v3")
        self.assert_ends(client, self.server.factory.limits.dialog_timeout)

    def test_idle_session(self) -> None:
        """Half a frame is not a request."""
        node = self.server.connect()
        node.send(b"t 7\0\0")
        self.assert_ends(node, self.server.factory.limits.idle_timeout)


class StopTests(TreeTestCase):
    """
    The end of the server.
    """

    def test_running_answers_are_finished(self) -> None:
        """An idle session ends at once, a busy one after its answer."""
        slow = SlowCommand()
        self.server = self.make_server(commands=[slow])
        idle = self.server.connect()
        busy = self.server.connect()
        busy.request(b"SLOW")

        done = self.server.factory.stop(10)
        idle.pump()
        busy.pump()

        self.assertTrue(idle.closed)
        self.assertFalse(busy.closed)
        self.assertIsNone(self.server.dial())
        self.assertNoResult(done)
        slow.waiting[0].callback(frame(b"at last"))
        busy.pump()
        self.assertEqual([b"at last"], busy.transactions())
        self.assertTrue(busy.closed)
        self.successResultOf(done)

    def test_not_for_ever(self) -> None:
        """After the grace the connection is ended."""
        slow = SlowCommand()
        self.server = self.make_server(commands=[slow])
        busy = self.server.connect()
        busy.request(b"SLOW")
        done = self.server.factory.stop(10)

        self.server.sweep(11)
        busy.step()

        self.assertTrue(busy.closed)
        self.successResultOf(done)


class SourceTests(SynchronousTestCase):
    """
    Objects that are no files of the host.
    """

    def test_a_source_in_memory(self) -> None:
        """A rule's source answers below the rule's path, and only there."""
        source = MemorySource({b"x/one": b"1", b"x/two": b"22"})
        server = memory_server(
            {
                "path": "/virtual",
                "shortcut": "v",
                "source": "memory",
                "admit_ips": ["127.0.0.1"],
            },
            sources={"memory": source},
        )
        node = server.connect()

        self.assertEqual([b".", b"..", b"x"], node.opendir(b"v"))
        self.assertEqual([b".", b"..", b"one", b"two"], node.opendir(b"/virtual/x"))
        reply = node.stat(b"v/x/two")
        assert reply is not None
        self.assertEqual((0, 2), (reply.kind, reply.size))
        self.assertEqual(b"22", node.get(b"v/x/two", 2))
        self.assertEqual(
            DIGEST_EQUAL, node.differs(b"v/x/one", hashlib.md5(b"1").digest())
        )
        self.assertIsNone(node.stat(b"v/x/three"))
        self.assertIsNone(node.stat(b"v/../etc/hostname"))
        self.assertTrue(all(held.closed for held in source.held))


class ForgettingTests(TreeTestCase):
    """
    What is left of a connection that is over.
    """

    def test_a_session_that_is_over_is_gone_at_once(self) -> None:
        """It does not wait for the collector of garbage: there are many of them."""
        client = self.server.connect()
        client.stat(b"files/a.txt")
        (session,) = self.server.factory.sessions
        left = weakref.ref(session)
        del session
        self.addCleanup(gc.enable)
        gc.disable()

        client.hang_up()
        del client

        self.assertIsNone(left())
