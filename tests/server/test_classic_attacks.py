# SPDX-License-Identifier: MIT
"""
Attacks on the classic protocol that work against the real server, mounted against
this one.
"""

from __future__ import annotations

import os
import re
from unittest import mock

from zope.interface import implementer

from nodecomm.access.requests import AccessRequest
from nodecomm.identity import counters, proof
from nodecomm.identity.counters import Counters
from nodecomm.identity.proof import digest, encrypt_to, new_challenge, open_with
from nodecomm.interfaces import API, ICommand
from nodecomm.server import classic
from nodecomm.server.events import EventLog
from nodecomm.server.filesystem import FileSystemSource
from nodecomm.server.names import HostName
from nodecomm.server.replies import Reply, frame
from nodecomm.server.requests import Refused, Request
from nodecomm.testing import MemoryClassicClient, key_pair, memory_server
from nodecomm.wire.cipher import SessionCipher
from nodecomm.wire.classic import (
    ENCRYPTED,
    KEY_ACCEPTED,
    KEY_ON_TRUST,
    KEY_REFUSED,
    KEY_SIZE,
    NONCE_SIZE,
    Challenge,
    encode_sauth,
)
from nodecomm.wire.commands import encode_get, encode_stat, parse_context
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import DENIED, REFUSAL
from nodecomm.wire.sealed import seal_get, seal_stat
from tests.identity import forgery
from tests.server.classic_case import (
    CAUTH,
    REFUSED,
    SAUTH,
    ClassicTestCase,
    key_frames,
    payloads,
)
from tests.server.test_events import Recorder
from tests.wire.envelopes import seal_context

BEGIN = 1_700_000_000
LEGACY = {"allowlegacyconnects": ["127.0.0.1"]}


@implementer(ICommand)
class Classes:
    """
    `CONTEXT` of a plugin that defines two classes.
    """

    api = API
    name = "classes"
    words = (b"CONTEXT",)
    versions = frozenset({1})

    def answer(self, request: Request) -> Reply:
        """Those that match, and that the peer may have."""
        pattern = re.compile(parse_context(request.payload).pattern)
        named = filter(pattern.fullmatch, (b"web_open", b"web_secret"))
        found = [name for name in named if self.admits(request, name)]
        if not found:
            raise Refused("no_class", "there is none for this peer")
        return frame(b" ".join(found))

    def admits(self, request: Request, name: bytes) -> bool:
        """What the rules say of one class."""
        asked = AccessRequest("context", name, encrypted=request.encrypted)
        evaluator = request.serving.evaluator
        return evaluator.evaluate(request.snapshot, request.peer, asked).allowed


class ClaimTests(ClassicTestCase):
    """
    What a peer says of itself.
    """

    def claiming(
        self, host: bytes, user: bytes = b"root", address: bytes = b"127.0.0.1"
    ) -> MemoryClassicClient:
        """
        A node that claims to be *host*, and may ask.
        """
        node = self.dial()
        dialog, opening = node.opening(self.server.public)
        claim = encode_transaction(b"CAUTH %b %b %b 0" % (address, host, user))
        node.send(claim + opening[opening.index(b"SAUTH") - 8 :])
        event = dialog.receive_data(node.received())[-1]
        clear = open_with(node.key_pair, event.data, NONCE_SIZE, b"")  # type: ignore[union-attr]
        key = os.urandom(KEY_SIZE)
        node.cipher = SessionCipher(key)
        node.send(dialog.answer(digest(clear), encrypt_to(self.server.public, key)))
        return node

    def test_a_host_name_that_is_a_pattern(self) -> None:
        """`.*` matches every rule of the real server; here only names that were looked
        up count."""
        for rule in (
            {"admit_hostnames": ["hub.example.com"]},
            {"admit": [".example.com"]},
            {"admit_ips": ["127.0.0.1"], "deny_hostnames": ["node.example.com"]},
        ):
            allowed = "deny_hostnames" in rule
            for host in (b".*", b"hub.example.com", b"x.example.com", b"[a-z.]*"):
                self.server = memory_server(
                    {"path": str(self.root), "shortcut": "files", **rule},
                    server=LEGACY,
                )
                self.server.factory.names._look_up = lambda _: HostName(
                    "else.example.org", True
                )
                found = self.claiming(host).stat(b"files/a.txt")
                self.assertEqual(allowed, found is not None, (rule, host))

    def test_a_host_name_that_is_right(self) -> None:
        """The name that was looked up admits, whatever is claimed."""
        self.server = memory_server(
            {
                "path": str(self.root),
                "shortcut": "files",
                "admit_hostnames": ["hub.example.com"],
            },
            server=LEGACY,
        )
        self.server.factory.names._look_up = lambda _: HostName("hub.example.com", True)

        self.assertIsNotNone(self.claiming(b"nobody").stat(b"files/a.txt"))

    def test_an_address(self) -> None:
        """The socket's counts."""
        self.server = memory_server(
            {"path": str(self.root), "shortcut": "files", "admit_ips": ["10.0.0.1"]},
            server=LEGACY,
        )

        node = self.claiming(b"localhost", address=b"10.0.0.1")
        self.assertIsNone(node.stat(b"files/a.txt"))

    def test_a_host_name_that_maps_to_root(self) -> None:
        """`maproot` believes the name that was looked up, and no other."""
        (self.root / "a.txt").chmod(0o600)
        for name, served in [("hub.example.com", True), ("x.example.org", False)]:
            self.server = memory_server(
                {
                    "path": str(self.root),
                    "shortcut": "files",
                    "admit_ips": ["127.0.0.1"],
                    "maproot": ["hub.example.com"],
                },
                server=LEGACY,
            )
            self.server.store.add("bob", key_pair(1).public)
            known = HostName(name, True)
            self.server.factory.names._look_up = lambda _, known=known: known  # type: ignore[misc]
            node = self.claiming(b"hub.example.com", b"bob")
            self.assertEqual(served, node.stat(b"files/a.txt") is not None)

    def test_a_second_claim(self) -> None:
        """bob does not become root: the connection ends."""
        (self.root / "a.txt").chmod(0o600)
        recorder = Recorder()
        self.server = self.make_server(events=EventLog(log=recorder.log))
        self.server.store.add("bob", key_pair(1).public)
        node = self.node(user=b"bob")
        self.assertIsNone(node.stat(b"files/a.txt"))
        for again in (CAUTH, SAUTH, CAUTH + SAUTH + key_frames(key_pair(1).public)):
            node = self.node(user=b"bob")
            node.send(again + encode_transaction(encode_get(b"files/a.txt")))
            self.assertEqual([DENIED], payloads(node.received()))
            self.assertTrue(node.closed)
        reasons = [event["reason"] for event in recorder.named("request.refused")]
        self.assertEqual(["out_of_place"] * 3, reasons[1:])

    def test_a_second_claim_before_the_key(self) -> None:
        """It would change whose key is looked up."""
        node = self.dial()
        node.send(CAUTH + CAUTH)

        self.assertEqual((REFUSED, True), (node.received(), node.closed))


class ForgeryTests(ClassicTestCase):
    """
    A key with the digest of another one, and with known factors.
    """

    def test_a_key_with_the_digest_of_a_trusted_one(self) -> None:
        """
        The real server serves its holder what is served to the victim. Here it is
        refused before anything is looked up, in every window, under every name.
        """
        self.assertEqual(forgery.victim().md5, forgery.forgery().md5)
        recorder = Recorder()
        for known in (False, True):
            self.server = self.make_server(events=EventLog(log=recorder.log))
            if known:
                self.server.store.add("root", forgery.victim())
            node = self.dial()
            node.send(CAUTH + SAUTH + key_frames(forgery.forgery()))
            self.assertEqual([KEY_REFUSED, REFUSAL], payloads(node.received()))
            self.assertTrue(node.closed)
        codes = [event["code"] for event in recorder.named("trust.refused")]
        self.assertEqual(["insane_key"] * 2, codes)

    def test_the_key_of_somebody_else(self) -> None:
        """A public key is no secret; who cannot answer with it, is nobody."""
        self.server = self.make_server(trust=False)
        self.server.store.add("root", key_pair(3).public)
        node = self.dial()
        node.send(CAUTH + SAUTH + key_frames(key_pair(3).public))
        found = payloads(node.received())
        self.assertEqual(KEY_ACCEPTED, found[0])
        mine = open_with(node.key_pair, found[2], NONCE_SIZE, bytes(NONCE_SIZE))
        node.send(
            encode_transaction(digest(mine))
            + encode_transaction(encrypt_to(self.server.public, bytes(KEY_SIZE)))
            + encode_transaction(b"VERSION")
        )

        self.assertEqual((REFUSED, True), (node.received(), node.closed))


class SecretTests(ClassicTestCase):
    """
    What the server could be made to say of what others encrypted.
    """

    def answer(self, data: bytes) -> tuple[list[bytes], int]:
        """
        What comes back for the challenge *data*, and how often the server used its
        private key for that.
        """
        node = self.dial()
        challenge = encode_sauth(Challenge(ENCRYPTED, data, NONCE_SIZE))
        opened = 0

        def counted(*args: object) -> bytes:
            nonlocal opened
            opened += 1
            return open_with(*args)  # type: ignore[arg-type]

        with mock.patch.object(counters, "open_with", counted):
            node.send(
                CAUTH + encode_transaction(challenge) + key_frames(node.key_pair.public)
            )
        self.assertFalse(node.closed)
        found = payloads(node.received())
        node.hang_up()
        return found, opened

    def test_challenges_that_cannot_be_opened(self) -> None:
        """
        All are answered as a right one is: as many frames of the same sizes, made with
        one use of the private key; and each the same whenever it is sent.
        """
        ours = self.server.public
        clear = new_challenge()
        right = encrypt_to(ours, clear)
        pair = self.server.port.classic.key  # type: ignore[union-attr]
        table = {
            "right": right,
            "another key": encrypt_to(key_pair(3).public, clear),
            "one bit": right[:-1] + bytes([right[-1] ^ 1]),
            "random": b"\1" + os.urandom(255),
            "zero": bytes(256),
            "one": bytes(255) + b"\1",
            "the modulus": ours.modulus.to_bytes(256, "big"),
            "above the modulus": b"\xff" * 256,
            "too short": encrypt_to(ours, clear[:36]),
            "too long": encrypt_to(ours, clear + b"x"),
            "a session key": encrypt_to(ours, os.urandom(KEY_SIZE)),
            "nothing": encrypt_to(ours, b""),
            "our own counter-challenge": encrypt_to(ours, Counters(pair).new()),
        }
        self.node()
        for what, data in table.items():
            found, opened = self.answer(data)
            again, _ = self.answer(data)
            self.assertEqual(
                (KEY_ACCEPTED, [16, 16, 256], 1),
                (found[0], [len(payload) for payload in found], opened),
                what,
            )
            self.assertEqual(found[1], again[1], what)
            self.assertEqual(what == "right", found[1] == digest(clear), what)

    def test_a_challenge_of_another_size(self) -> None:
        """Of which key it is, its size says; it is refused at once."""
        for data in (b"x", bytes(255), bytes(257), bytes(512)):
            node = self.dial()
            challenge = encode_sauth(Challenge(ENCRYPTED, data, NONCE_SIZE))
            node.send(
                CAUTH + encode_transaction(challenge) + key_frames(node.key_pair.public)
            )
            self.assertEqual((REFUSED, True), (node.received(), node.closed))

    def test_a_session_key_as_a_challenge(self) -> None:
        """
        The real server opens what has any size that the peer names: whoever recorded
        another's session key is told its digest. Only that of a challenge is one here.
        """
        recorded = encrypt_to(self.server.public, os.urandom(KEY_SIZE))
        for size in (KEY_SIZE, 36, 38, 245):
            node = self.dial()
            text = b"SAUTH y %d %d c" % (len(recorded), size)
            challenge = encode_transaction(text.ljust(24, b"\0") + recorded)
            node.send(CAUTH + challenge + key_frames(node.key_pair.public))
            self.assertEqual((REFUSED, True), (node.received(), node.closed), size)

    def test_a_stranger_who_poses_as_the_server(self) -> None:
        """
        He shows the server's own public key, which it trusts, and has the server
        itself, on another connection, answer the counter-challenge.
        """
        self.server = self.make_server(trust=False)
        self.server.store.add("root", self.server.public)
        self.server.store.add("root", key_pair(1).public)
        victim = self.dial()
        victim.send(CAUTH + SAUTH + key_frames(self.server.public))
        told = payloads(victim.received())
        self.assertEqual(KEY_ACCEPTED, told[0])
        answers, _ = self.answer(told[2])
        victim.send(encode_transaction(answers[1]))

        self.assertEqual((REFUSED, True), (victim.received(), victim.closed))

    def test_a_session_key_in_clear(self) -> None:
        """The real server takes it, and so does everybody who listens."""
        for data in (os.urandom(KEY_SIZE), os.urandom(24), bytes(255), bytes(257)):
            node = self.proved()
            node.send(encode_transaction(data) + encode_transaction(b"VERSION"))
            self.assertEqual((REFUSED, True), (node.received(), node.closed))

    def proved(self) -> MemoryClassicClient:
        """
        A node that has answered the counter-challenge.
        """
        node = self.dial()
        dialog, opening = node.opening(self.server.public)
        node.send(opening)
        event = dialog.receive_data(node.received())[-1]
        clear = open_with(node.key_pair, event.data, NONCE_SIZE, b"")  # type: ignore[union-attr]
        node.send(encode_transaction(digest(clear)))
        self.assertEqual((b"", False), (node.received(), node.closed))
        return node

    def test_session_keys_that_cannot_be_opened(self) -> None:
        """
        Nothing tells them from a right one: the session goes on, and what is encrypted
        with any key but the right one cannot be opened.
        """
        ours = self.server.public
        key = os.urandom(KEY_SIZE)
        right = encrypt_to(ours, key)
        table = {
            "right": right,
            "another key": encrypt_to(key_pair(3).public, key),
            "one bit": right[:-1] + bytes([right[-1] ^ 1]),
            "zero": bytes(256),
            "above the modulus": b"\xff" * 256,
            "too short": encrypt_to(ours, key[:15]),
            "too long": encrypt_to(ours, key + b"x"),
            "a challenge": encrypt_to(ours, new_challenge()),
        }
        for what, data in table.items():
            node = self.proved()
            calls: list[object] = []

            def counted(*args: object, calls: list[object] = calls) -> bytes:
                calls.append(args)
                return open_with(*args)  # type: ignore[arg-type]

            with mock.patch.object(classic, "open_with", counted):
                node.send(encode_transaction(data))
            self.assertEqual((b"", False), (node.received(), node.closed), what)
            self.assertEqual(1, len(calls), what)
            self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"), what)
            for guess in (key, bytes(KEY_SIZE), key[:15] + b"\0"):
                request = seal_stat(BEGIN, b"files/a.txt", SessionCipher(guess))
                found = node.request(request)
                expected = 2 if what == "right" and guess == key else 1
                self.assertEqual(expected, len(found), what)
                if expected == 1:
                    self.assertEqual([REFUSAL], found)

    def test_the_private_key_is_used_once_for_each_proof(self) -> None:
        """A peer cannot make the server do more work than its own messages ask."""
        uses: list[object] = []
        decrypt = proof.open_with

        def counted(*args: object) -> bytes:
            uses.append(args)
            return decrypt(*args)  # type: ignore[arg-type]

        for stranger, expected in [(True, 1), (False, 2)]:
            uses.clear()
            with (
                mock.patch.object(counters, "open_with", counted),
                mock.patch.object(classic, "open_with", counted),
            ):
                self.node(stranger=stranger)
            self.assertEqual(expected, len(uses))


class PathTests(ClassicTestCase):
    """
    The real server decides on one path and opens another.
    """

    def test_a_link_that_is_turned_round(self) -> None:
        """
        While access is decided the name leads to what may be had, and then to what may
        not: nothing of that is told, whenever it happens.
        """
        secret = self.root.parent / "secret"
        secret.write_bytes(b"secret\n")
        link = self.root / "link"
        turned = []
        resolve = FileSystemSource.resolve

        def turning(self: FileSystemSource, *args: object) -> object:
            found = resolve(self, *args)  # type: ignore[arg-type]
            link.unlink()
            link.symlink_to(secret)
            turned.append(found.path)
            return found

        for request in (encode_get(b"files/link"), encode_stat(BEGIN, b"files/link")):
            link.unlink(missing_ok=True)
            link.symlink_to("a.txt")
            node = self.node()
            with mock.patch.object(FileSystemSource, "resolve", turning):
                node.send(encode_transaction(request))
            found = node.received()
            self.assertTrue(turned)
            self.assertNotIn(b"secret", found)
            turned.clear()
        self.assertEqual(
            [REFUSAL], self.node().request(encode_stat(BEGIN, b"files/link"))
        )

    def test_the_encrypted_way(self) -> None:
        """What is encrypted is decided by the same path."""
        (self.root / "out").symlink_to("/etc/hostname")
        node = self.node()
        assert node.cipher is not None
        found = node.request(seal_get(b"files/out", node.cipher))

        self.assertEqual(([REFUSAL], True), (found, node.closed))


class LeakTests(ClassicTestCase):
    """
    What the real server tells, and should not.
    """

    def test_classes(self) -> None:
        """
        One admitted class does not open the others, as it does on the real server,
        asked for in clear or encrypted: a plugin that has classes is told of each
        whether the peer may have it.
        """
        for admitted in (["web_open"], ["web_open", "web_secret"], []):
            rules = [
                {"path": name, "resource_type": "context", "admit_ips": ["127.0.0.1"]}
                for name in admitted
            ]
            self.server = memory_server(*rules, server=LEGACY, commands=[Classes()])
            told = b" ".join(name.encode() for name in admitted)
            node = self.node()
            assert node.cipher is not None
            self.assertEqual([told or REFUSAL], self.node().request(b"CONTEXT web_.*"))
            [found] = node.request(seal_context(b"web_.*", node.cipher))
            if told:
                found = node.cipher.decrypt(found).rstrip(b"\0")
            self.assertEqual(told or REFUSAL, found)

    def test_classes_of_the_server_itself(self) -> None:
        """It has none, so whoever may have them all is refused."""
        rule = {"path": ".*", "resource_type": "context", "admit_ips": ["127.0.0.1"]}
        self.server = memory_server(rule, server=LEGACY)
        self.assertEqual(([REFUSAL], True), self.ask(b"CONTEXT .*"))
        node = self.node()
        assert node.cipher is not None
        found = node.request(seal_context(b".*", node.cipher))

        self.assertEqual(([REFUSAL], True), (found, node.closed))

    def test_a_file_that_others_may_not_read(self) -> None:
        """
        The real server says twice that it is refused, and so puts the peer out of step;
        here it is said once, and before that to STAT and MD5, too.
        """
        (self.root / "a.txt").chmod(0o600)
        self.server.store.add("bob", key_pair(1).public)
        node = self.node(user=b"bob")
        self.assertIsNone(node.stat(b"files/a.txt"))
        self.assertEqual(REFUSAL, node.differs(b"files/a.txt", bytes(16)))
        assert node.cipher is not None
        found = node.request(seal_get(b"files/a.txt", node.cipher))

        self.assertEqual(([REFUSAL], True), (found, node.closed))

    def test_failures_in_clear(self) -> None:
        """No block of our memory is sent where content cannot be."""
        (self.root / "lost").symlink_to("nowhere")
        for name in (b"files/lost", b"files/sub"):
            node = self.node()
            node.send(encode_transaction(encode_get(name)))
            self.assertEqual((b"", True), (node.received(), node.closed), name)

    def test_who_was_trusted_is_told_so_only_when_it_was(self) -> None:
        """Two peers at once in one window: both are told the same."""
        first, second = self.opened(), self.opened()

        for node in (first, second):
            self.assertEqual(KEY_ON_TRUST, payloads(node.received())[0])
