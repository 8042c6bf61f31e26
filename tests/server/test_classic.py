# SPDX-License-Identifier: MIT
"""
What is asked on classic connections, in clear and encrypted: a client in memory
against the server in memory.
"""

from __future__ import annotations

import gc
import hashlib
import os
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from zope.interface import implementer

from nodecomm.identity.peer import Peer
from nodecomm.interfaces import API, ICommand, IFileSource
from nodecomm.server import classic
from nodecomm.server.events import EventLog
from nodecomm.server.replies import Reply, frame
from nodecomm.server.requests import Request
from nodecomm.testing import MemoryClassicClient, MemorySource, memory_server
from nodecomm.wire.cipher import BLOCK, SessionCipher
from nodecomm.wire.commands import (
    encode_digest,
    encode_get,
    encode_opendir,
    encode_stat,
)
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import DENIED, DIGEST_DIFFERS, DIGEST_EQUAL, REFUSAL
from nodecomm.wire.sealed import (
    HEAD,
    SEALED,
    seal_digest,
    seal_get,
    seal_opendir,
    seal_stat,
)
from tests.server.classic_case import ClassicTestCase
from tests.wire.envelopes import seal_context, seal_query, seal_var

BEGIN = 1_700_000_000


def envelope(word: bytes, clear: bytes, cipher: SessionCipher) -> bytes:
    """
    An envelope that says *word* and holds *clear*, whether that fits or not.
    """
    data = cipher.encrypt(clear)
    size = b" %d 2048" if word == b"SGET" else b" %d"
    return (word + size % len(data)).ljust(HEAD, b"\0") + data


class PlainTests(ClassicTestCase):
    """
    Requests and answers in clear.
    """

    def test_version(self) -> None:
        """Every authenticated peer is told the release."""
        self.assertEqual(([b"OK: 3.21.0"], False), self.ask(b"VERSION"))

    def test_a_file(self) -> None:
        """STAT, GET and MD5 of a file are as over TLS."""
        node, tls = self.node(), self.server.connect()

        self.assertEqual(tls.stat(b"files/a.txt"), node.stat(b"files/a.txt"))
        self.assertEqual(b"hello\n", node.get(b"files/a.txt", 100))
        for content, word in [(b"hello\n", DIGEST_EQUAL), (b"", DIGEST_DIFFERS)]:
            digest = hashlib.md5(content).digest()
            self.assertEqual(word, node.differs(b"files/a.txt", digest))
        self.assertEqual(b"", node.get(b"files/empty", 100))
        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))

    def test_a_folder(self) -> None:
        """All names, `.` and `..` too."""
        names = self.node().opendir(b"files")

        self.assertEqual([b".", b"..", b"a.txt", b"empty", b"sub"], sorted(names or ()))

    def test_any_block_size_up_to_4096_is_one(self) -> None:
        """0 is a size, too, as for the real server; beyond the bounds GET is refused,
        and ends the connection."""
        for size, served in [(0, True), (1, True), (4096, True), (4097, False)]:
            node = self.node()
            node.send(encode_transaction(b"GET %d files/a.txt" % size))
            answer = b"hello\n" if served else encode_transaction(REFUSAL)
            self.assertEqual((answer, not served), (node.received(), node.closed), size)

    def test_what_is_refused(self) -> None:
        """Some refusals end the connection, as the real server's do."""
        table = [
            (encode_stat(BEGIN, b"/nowhere"), False),
            (encode_stat(BEGIN, b"/etc/hostname"), False),
            (encode_get(b"/nowhere"), False),
            (encode_digest(b"/nowhere", bytes(16)), False),
            (encode_opendir(b"/nowhere"), True),
            (b"VAR x", True),
            (b"CONTEXT .*", True),
        ]
        for request, closed in table:
            found, over = self.ask(request, b"VERSION")
            answers = [REFUSAL] if closed else [REFUSAL, b"OK: 3.21.0"]
            self.assertEqual((answers, closed), (found, over), request)

    def test_what_is_no_command(self) -> None:
        """Words of other versions, of the dialog, and none at all."""
        for request in [
            b"QUERY delta",
            b"COOKIE",
            b"AUTH x",
            b"CLASSES x",
            b"CALL_ME_BACK collect_calls",
            b"XYZZY",
            b"SYNCH x STAT files",
            b"OPENDIR",
            b"MD5",
        ]:
            self.assertEqual(([DENIED], True), self.ask(request, b"VERSION"), request)

    def test_requests_are_answered_in_order(self) -> None:
        """Asked in one piece or byte by byte."""
        asked = [b"VERSION", encode_opendir(b"files/sub"), b"VERSION"] * 3
        whole, _ = self.ask(*asked)
        node = self.node()
        for byte in b"".join(map(encode_transaction, asked)):
            node.send(bytes([byte]))

        self.assertEqual(9, len(whole))
        self.assertEqual(whole, node.transactions())

    def test_a_file_that_was_announced_and_cannot_be_sent(self) -> None:
        """The peer counts bytes: nothing is sent, and the connection ends."""
        node = self.node()
        node.stat(b"files/a.txt")
        (self.root / "a.txt").unlink()
        node.send(encode_transaction(encode_get(b"files/a.txt")))

        self.assertEqual((b"", True), (node.received(), node.closed))


class SealedTests(ClassicTestCase):
    """
    Requests in envelopes.
    """

    def test_a_file(self) -> None:
        """Everything is as without encryption, whatever the size."""
        node = self.node()
        self.assertEqual(node.stat(b"files/a.txt"), node.sealed_stat(b"files/a.txt"))
        for content, word in [(b"hello\n", DIGEST_EQUAL), (b"", DIGEST_DIFFERS)]:
            digest = hashlib.md5(content).digest()
            self.assertEqual(word, node.sealed_differs(b"files/a.txt", digest))
        for size in (0, 1, 7, 8, 4063, BLOCK, 4065, 3 * BLOCK, 300_000):
            content = os.urandom(size)
            (self.root / "some").write_bytes(content)
            node = self.node()
            self.assertEqual(content, node.sealed_get(b"files/some"), size)

    def test_a_folder(self) -> None:
        """Each packet is encrypted, of a large one too."""
        for number in range(1000):
            (self.root / "sub" / f"{number:05}-{'n' * 40}").touch()
        node = self.node()

        self.assertEqual(1003, len(node.sealed_opendir(b"files/sub") or ()))
        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))

    def test_nothing_of_an_encrypted_answer_leaves_in_clear(self) -> None:
        """Neither a file's content nor a name can be read on the way."""
        (self.root / "sub" / "wordiness").write_bytes(b"plaintext" * 1000)
        for make in (
            lambda cipher: seal_get(b"files/sub/wordiness", cipher),
            lambda cipher: seal_opendir(b"files/sub", cipher),
        ):
            node = self.node()
            assert node.cipher is not None
            node.send(encode_transaction(make(node.cipher)))
            found = node.received()
            self.assertNotEqual(b"", found)
            self.assertNotIn(b"wordiness", found)
            self.assertNotIn(b"plaintext", found)

    def test_an_empty_file(self) -> None:
        """One frame that holds the encryption of nothing, and no memory of ours."""
        node = self.node()
        assert node.cipher is not None
        found = node.request(seal_get(b"files/empty", node.cipher))

        self.assertEqual([8], [len(payload) for payload in found])
        self.assertEqual([b""], node.cipher.decrypt_joined(found))

    def test_a_file_asked_as_a_folder(self) -> None:
        """The text names what was asked for, not what that leads to; it is encrypted
        too, with the NUL of the real server's."""
        (self.root / "link").symlink_to("a.txt")
        for name in ("a.txt", "link"):
            node = self.node()
            assert node.cipher is not None
            text = b"BAD: cfengine, couldn't open dir " + self.path(name)
            for asked in (b"files/" + name.encode(), self.path(name)):
                [found] = node.request(seal_opendir(asked, node.cipher))
                self.assertEqual(text + b"\0", node.cipher.decrypt(found))
                self.assertEqual([text], node.request(b"OPENDIR " + asked))

    def test_a_literal(self) -> None:
        """What it is, and here it is nothing, is encrypted with a NUL."""
        literal = {"path": "known", "resource_type": "literal"}
        for word in ("literal", "variable"):
            rule = {**literal, "resource_type": word, "admit_ips": ["127.0.0.1"]}
            lists = {"allowlegacyconnects": ["127.0.0.1"]}
            node = memory_server(rule, server=lists).connect_classic()
            assert node.cipher is not None
            [found] = node.request(seal_var(b"known", node.cipher))
            self.assertEqual(b"BAD: Not found\0", node.cipher.decrypt(found))

    def test_what_is_refused(self) -> None:
        """In clear and once, and the connection ends where the real server's does."""
        table: list[tuple[Callable[[SessionCipher], bytes], bool]] = [
            (lambda cipher: seal_stat(BEGIN, b"/nowhere", cipher), False),
            (lambda cipher: seal_digest(b"/nowhere", bytes(16), cipher), False),
            (lambda cipher: seal_opendir(b"/nowhere", cipher), True),
            (lambda cipher: seal_get(b"/nowhere", cipher), True),
            (lambda cipher: seal_get(b"/etc/hostname", cipher), True),
            (lambda cipher: seal_var(b"x", cipher), True),
            (lambda cipher: seal_context(b".*", cipher), True),
            (lambda cipher: seal_query(b"x", b"", cipher), True),
        ]
        for make, closed in table:
            node = self.node()
            assert node.cipher is not None
            request = make(node.cipher)
            found = node.request(request, b"VERSION")
            answers = [REFUSAL] if closed else [REFUSAL, b"OK: 3.21.0"]
            self.assertEqual((answers, closed), (found, node.closed), request[:8])

    def test_a_file_that_was_announced_and_is_refused(self) -> None:
        """One refusal: it is no piece of a file, as it would be in clear."""
        node = self.node()
        self.assertIsNotNone(node.sealed_stat(b"files/a.txt"))
        (self.root / "a.txt").unlink()
        assert node.cipher is not None

        found = node.request(seal_get(b"files/a.txt", node.cipher))
        self.assertEqual(([REFUSAL], True), (found, node.closed))

    def test_a_query(self) -> None:
        """Who would be admitted is told that there is nothing."""
        rule = {"path": "delta", "resource_type": "query", "admit_ips": ["127.0.0.1"]}
        lists = {"allowlegacyconnects": ["127.0.0.1"]}
        node = memory_server(rule, server=lists).connect_classic()
        assert node.cipher is not None

        found = node.request(seal_query(b"delta", b"x", node.cipher))
        self.assertEqual(([DENIED], True), (found, node.closed))

    def test_a_call_back(self) -> None:
        """The connection ends without a word."""
        node = self.node()
        assert node.cipher is not None
        inside = b"CALL_ME_BACK collect_calls\0"

        found = node.request(envelope(b"SCALLBACK", inside, node.cipher))
        self.assertEqual(([], True), (found, node.closed))

    def test_envelopes_of_another_size(self) -> None:
        """Refused; for some the connection ends, as at the real server."""
        table: dict[bytes, tuple[list[bytes], bool]] = {
            b"SSYNCH": ([REFUSAL], True),
            b"SOPENDIR": ([REFUSAL], True),
            b"SGET": ([REFUSAL], True),
            b"SMD5": ([REFUSAL], False),
            b"SVAR": ([REFUSAL], False),
            b"SCONTEXT": ([REFUSAL], False),
            b"SQUERY": ([REFUSAL], False),
            b"SCALLBACK": ([], False),
        }
        for word, (answers, closed) in table.items():
            for request in [
                word,
                word + b" 8",
                word + b" x",
                (word + b" 8 2048").ljust(HEAD, b"\0") + bytes(16),
                (word + b" 8 2048").ljust(HEAD, b"\0"),
            ]:
                more = [] if closed else [b"OK: 3.21.0"]
                self.assertEqual(
                    (answers + more, closed), self.ask(request, b"VERSION"), request
                )

    def test_envelopes_with_another_content(self) -> None:
        """
        Another command and what cannot be decrypted are one and the same: who changes
        encrypted requests on their way learns nothing of what is in them.
        """
        table: dict[bytes, tuple[list[bytes], bool]] = {
            b"SSYNCH": ([REFUSAL], False),
            b"SOPENDIR": ([REFUSAL], False),
            b"SGET": ([REFUSAL], False),
            b"SMD5": ([REFUSAL], True),
            b"SVAR": ([REFUSAL], True),
            b"SCONTEXT": ([REFUSAL], True),
            b"SQUERY": ([REFUSAL], True),
            b"SCALLBACK": ([], True),
        }
        for word, (answers, closed) in table.items():
            for inside in (b"EXEC x\0", b"\0", b"not ours", b"not padded"):
                node = self.node()
                cipher = _cipher(node)
                if inside == b"not ours":
                    request = envelope(word, b"", SessionCipher(bytes(16)))
                elif inside == b"not padded":
                    request = (word + b" 12 9").ljust(HEAD, b"\0") + bytes(12)
                else:
                    request = envelope(word, inside, cipher)
                found = node.request(request, b"VERSION")
                more = [] if closed else [b"OK: 3.21.0"]
                self.assertEqual((answers + more, closed), (found, node.closed), word)

    def test_filling_between_the_text_and_what_is_encrypted(self) -> None:
        """Real clients leave bytes of their memory there."""
        node = self.node()
        request = bytearray(seal_stat(BEGIN, b"files/a.txt", _cipher(node)))
        request[request.index(0) + 1 : HEAD] = b"\xda" * (HEAD - request.index(0) - 1)

        self.assertEqual(2, len(node.request(bytes(request))))

    def test_no_cipher(self) -> None:
        """
        Where Blowfish is missing encrypted requests are refused, with a reason for the
        operator each; those in clear are answered.
        """
        node = self.node()
        cipher = _cipher(node)
        asked = [
            (seal_stat(BEGIN, b"files/a.txt", cipher), False),
            (seal_digest(b"files/a.txt", bytes(16), cipher), False),
            (seal_opendir(b"files", cipher), True),
            (seal_get(b"files/a.txt", cipher), True),
        ]
        logged: list[str] = []

        def refused(_: EventLog, request: Request, code: str, text: str) -> None:
            logged.append(text)

        with (
            mock.patch.object(classic, "missing", lambda: "no Blowfish here"),
            mock.patch.object(EventLog, "refused", refused),
        ):
            for request, closed in asked:
                found, over = self.ask(b"VERSION", request, b"VERSION")
                answers = [b"OK: 3.21.0", REFUSAL] + [b"OK: 3.21.0"] * (not closed)
                self.assertEqual((answers, closed), (found, over), request[:8])

        self.assertEqual(["no Blowfish here"] * len(asked), logged)

    def test_requests_are_answered_in_order(self) -> None:
        """Encrypted ones and others, asked in one piece or byte by byte."""
        (self.root / "sub" / "b").write_bytes(b"x" * (2 * BLOCK))
        for whole in (True, False):
            node = self.node()
            cipher = _cipher(node)
            asked = [
                b"VERSION",
                seal_get(b"files/sub/b", cipher),
                encode_opendir(b"files/sub"),
                seal_opendir(b"files/sub", cipher),
                b"VERSION",
            ]
            data = b"".join(map(encode_transaction, asked))
            for piece in [data] if whole else [bytes([byte]) for byte in data]:
                node.send(piece)
            found = node.transactions()
            names = found[3]
            self.assertEqual(6, len(found))
            self.assertEqual([b"OK: 3.21.0"] * 2, [found[0], found[5]])
            self.assertEqual(
                [b"x" * BLOCK] * 2,
                node.cipher.decrypt_joined(found[1:3]),  # type: ignore[union-attr]
            )
            self.assertEqual(names, cipher.decrypt(found[4]))

    def test_a_plugins_answer_that_comes_later(self) -> None:
        """It is encrypted like one that is there at once."""
        later: Deferred[Reply] = Deferred()

        @implementer(ICommand)
        class Literal:
            api = API
            name = "later"
            words = (b"VAR",)
            versions = frozenset({1})

            def answer(self, request: Request) -> Deferred[Reply]:
                return later

        self.server = self.make_server(commands=[Literal()])
        node = self.node()
        cipher = _cipher(node)
        self.assertEqual([], node.request(seal_var(b"x", cipher)))
        later.callback(frame(b"a text"))
        node.pump()

        [found] = node.transactions()
        self.assertEqual(b"a text\0", cipher.decrypt(found))


def _cipher(node: MemoryClassicClient) -> SessionCipher:
    assert node.cipher is not None
    return node.cipher


class GarbageTests(ClassicTestCase):
    """
    Requests of any bytes.
    """

    @settings(max_examples=80, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([*SEALED, b"", b"GET", b"SYNCH", b"MD5", b"VAR"]),
                st.sampled_from([b"", b"GET dummykey ", b"VAR ", b"SYNCH 1 STAT "]),
                st.binary(max_size=200),
                st.booleans(),
            ),
            min_size=1,
            max_size=5,
        )
    )
    def test_they_are_answered_or_refused(
        self, requests: list[tuple[bytes, bytes, bytes, bool]]
    ) -> None:
        """Nothing fails here, and the next peer is served."""
        node = self.node()
        for word, begin, rest, sealed in requests:
            if sealed and word in SEALED:
                request = envelope(word, begin + rest, _cipher(node))
            else:
                request = word + b" " + rest
            node.send(encode_transaction(request))
        self.assertEqual([], self.flushLoggedErrors())
        self.assertEqual(([b"OK: 3.21.0"], False), self.ask(b"VERSION"))


class SlowSourceTests(ClassicTestCase):
    """
    Objects that a plugin's source needs time for.
    """

    def setUp(self) -> None:
        super().setUp()
        memory = MemorySource({b"one": b"content", b"none": b""})
        self.waiting: list[Deferred[None]] = []

        @implementer(IFileSource)
        class Slow:
            api = API
            name = "slow"

            def resolve(source, peer: Peer, name: bytes) -> Deferred[Any]:
                later: Deferred[None] = Deferred()
                self.waiting.append(later)
                return later.addCallback(lambda _: memory.resolve(peer, name))

        self.server = memory_server(
            {"path": "/slow", "source": "slow", "admit_ips": ["127.0.0.1"]},
            server={"allowlegacyconnects": ["127.0.0.1"]},
            sources={"slow": Slow()},
        )

    def ask_slowly(
        self, *requests: Callable[[SessionCipher], bytes]
    ) -> tuple[MemoryClassicClient, list[bytes]]:
        """
        What is answered when the last object is there first.
        """
        node = self.node()
        cipher = _cipher(node)
        self.assertEqual([], node.request(*[make(cipher) for make in requests]))
        for later in reversed(self.waiting):
            later.callback(None)
        node.pump()
        return node, node.transactions()

    def test_what_is_there(self) -> None:
        """It is encrypted, in the order of the requests."""
        node, found = self.ask_slowly(
            lambda cipher: seal_get(b"/slow/one", cipher),
            lambda cipher: seal_get(b"/slow/none", cipher),
            lambda cipher: seal_opendir(b"/slow", cipher),
            lambda cipher: encode_opendir(b"/slow"),
        )
        clear = _cipher(node).decrypt_joined(found[:3])

        self.assertEqual([b"content", b"", found[3]], clear)

    def test_what_is_not_there(self) -> None:
        """One refusal, and the connection ends."""
        node, found = self.ask_slowly(
            lambda cipher: seal_get(b"/slow/two", cipher),
            lambda cipher: b"VERSION",
        )

        self.assertEqual(([REFUSAL], True), (found, node.closed))

    def test_links(self) -> None:
        """STAT of such an object tells of none."""
        node, found = self.ask_slowly(
            lambda cipher: seal_stat(BEGIN, b"/slow/one", cipher)
        )

        self.assertEqual(b"OK:", found[1])
        self.assertFalse(node.closed)


class ForgettingTests(ClassicTestCase):
    """
    What is left of a connection that is over.
    """

    def test_a_session_that_is_over_is_gone_at_once(self) -> None:
        """It does not wait for the collector of garbage."""
        node = self.node()
        node.sealed_get(b"files/a.txt")
        node.sealed_opendir(b"files")
        (session,) = self.server.factory.sessions
        left = weakref.ref(session)
        del session
        self.addCleanup(gc.enable)
        gc.disable()

        node.hang_up()
        del node

        self.assertIsNone(left())


class RightTests(ClassicTestCase):
    """
    What rules say about encryption and about root on classic connections.
    """

    def make(self, **rule: object) -> None:
        """Serve the folder by one rule."""
        self.server = memory_server(
            {"path": str(self.root), "shortcut": "files", **rule},
            server={"allowlegacyconnects": ["127.0.0.1"], "trustusers": ["bob"]},
        )

    def test_a_rule_for_encrypted_requests(self) -> None:
        """
        STAT is served in clear too; listing, digest and content are not.
        """
        self.make(admit_ips=["127.0.0.1"], ifencrypted=True)
        digest = hashlib.md5(b"hello\n").digest()
        for request, served in [
            (encode_stat(BEGIN, b"files/a.txt"), True),
            (encode_digest(b"files/a.txt", digest), False),
            (encode_get(b"files/a.txt"), False),
            (encode_opendir(b"files"), False),
        ]:
            found, _ = self.ask(request)
            self.assertEqual(served, found != [REFUSAL], request)
        node = self.node()
        self.assertIsNotNone(node.sealed_stat(b"files/a.txt"))
        self.assertEqual(DIGEST_EQUAL, node.sealed_differs(b"files/a.txt", digest))
        self.assertEqual(3 + 2, len(node.sealed_opendir(b"files") or ()))
        self.assertEqual(b"hello\n", self.node().sealed_get(b"files/a.txt"))

    def test_a_file_that_others_may_not_read(self) -> None:
        """It is for root, as over TLS; and for every user at an address that the rule
        maps to root, which is so on the classic protocol only."""
        (self.root / "a.txt").chmod(0o600)
        for maproot, served in [([], False), (["127.0.0.1"], True)]:
            self.make(admit_ips=["127.0.0.1"], maproot=maproot)
            self.server.store.add("bob", self.server.public)
            key = self.server.port.classic.key  # type: ignore[union-attr]
            node = self.node(key=key, user=b"bob")
            self.assertEqual(served, node.stat(b"files/a.txt") is not None)
            self.assertEqual(
                b"hello\n" if served else None, node.sealed_get(b"files/a.txt")
            )
            self.assertEqual(b"hello\n", self.node().get(b"files/a.txt", 10))
            tls = self.server.connect(key=key, user=b"bob")
            self.assertIsNone(tls.stat(b"files/a.txt"))

    def test_rules_with_keys(self) -> None:
        """They hold here too, unlike at the real server."""
        self.make(admit_keys=[self.node_digest()])

        self.assertIsNotNone(self.node().stat(b"files/a.txt"))
        key = self.server.port.classic.key  # type: ignore[union-attr]
        self.assertIsNone(self.node(key=key).stat(b"files/a.txt"))

    def node_digest(self) -> str:
        """The digest of the usual node's key."""
        return self.node().key_pair.public.md5
