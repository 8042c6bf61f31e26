# SPDX-License-Identifier: MIT
"""
How a classic peer shows who it is: keys and users, order, bytes cut anywhere.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.logger import formatEvent
from zope.interface.verify import verifyObject

from nodecomm.identity.keys import KeyPair, PublicKey, UnreadableKey
from nodecomm.identity.proof import digest, encrypt_to, open_with
from nodecomm.identity.trust import MemoryCounter, TrustPolicy, TrustWindow
from nodecomm.interfaces import API, ICommand
from nodecomm.server import classic
from nodecomm.server.commands import builtin_commands
from nodecomm.server.events import EventLog
from nodecomm.testing import MemoryClassicClient, MemoryKeyStore, key_pair
from nodecomm.wire.classic import (
    KEY_ACCEPTED,
    KEY_ON_TRUST,
    KEY_REFUSED,
    KEY_SIZE,
    NONCE_SIZE,
)
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import REFUSAL
from tests.server.classic_case import (
    CAUTH,
    REFUSED,
    SAUTH,
    ClassicTestCase,
    key_frames,
    payloads,
)
from tests.server.test_events import Recorder

KEYS = Path(__file__).parents[1] / "recorded" / "keys"


def stored(name: str) -> KeyPair:
    """
    One of the keys that tests share.
    """
    return KeyPair.load((KEYS / f"{name}.priv").read_bytes())


class Sightings:
    """
    Who was noted.
    """

    def __init__(self) -> None:
        self.noted: list[tuple[str, str]] = []

    def record(self, digest: str, address: str, direction: str, when: float) -> None:
        """Note it."""
        self.noted.append((digest, address))


class KeyTests(ClassicTestCase):
    """
    Keys of all sizes, and whether they are trusted.
    """

    def test_both_forms(self) -> None:
        """A node that does not know the server's key is sent it, and another is not."""
        for stranger in (True, False):
            node = self.node(stranger=stranger)
            self.assertEqual(self.server.public, node.server)
            self.assertEqual(b"hello\n", node.sealed_get(b"files/a.txt"))
        for known, sizes in [
            (None, [16, 256, 261, 7]),
            (self.server.public, [16, 256]),
        ]:
            node = self.dial()
            node.send(node.opening(known)[1])
            _, *found = payloads(node.received())
            self.assertEqual(sizes, [len(payload) for payload in found])

    def test_keys_of_any_size(self) -> None:
        """1024 to 4096 bits, exponent 3 and 65537, on both ends, in both forms."""
        names = ["small", "exponent-3", "large"]
        for ours in names:
            server = self.server = self.make_server(key=stored(ours))
            for theirs in names:
                for stranger in (True, False):
                    node = server.connect_classic(key=stored(theirs), stranger=stranger)
                    self.assertEqual(
                        b"hello\n", node.sealed_get(b"files/a.txt"), (ours, theirs)
                    )

    def test_what_a_peer_is_told_of_its_key(self) -> None:
        """That it is known, or is kept from now on."""
        for text in (KEY_ON_TRUST, KEY_ACCEPTED):
            node = self.opened()
            self.assertEqual(text, payloads(node.received())[0])
            self.node()

    def test_an_unknown_key(self) -> None:
        """It is told so in the protocol's words, and the connection ends."""
        self.server = self.make_server(trust=False)
        node = self.opened()

        self.assertEqual([KEY_REFUSED, REFUSAL], payloads(node.received()))
        self.assertTrue(node.closed)

    def test_a_key_of_another_user(self) -> None:
        """A key is trusted under the names that it is stored under."""
        self.server = self.make_server(trust=False)
        self.server.store.add("bob", key_pair(1).public)
        for user, told in [(b"bob", KEY_ACCEPTED), (b"root", KEY_REFUSED)]:
            node = self.dial()
            claim = encode_transaction(b"CAUTH 127.0.0.1 localhost %b 0" % user)
            node.send(claim + SAUTH + key_frames(node.key_pair.public))
            self.assertEqual(told, payloads(node.received())[0], user)

    def test_keys_outside_the_bounds(self) -> None:
        """Those that can be made to share a digest with another key are refused in
        every window, and so is what cannot encrypt."""
        good = key_pair(1).public
        for modulus, exponent in [
            (good.modulus, 1),
            (good.modulus, 4),
            (good.modulus, 1 << 32 | 1),
            (good.modulus >> 1032, 65537),
            (good.modulus >> 1, 65537),
            (good.modulus - 1, 65537),
            ((1 << 8192) - 1 >> 64, 65537),
            (3, 3),
        ]:
            self.server = self.make_server()
            node = self.dial()
            key = PublicKey(modulus, exponent)
            node.send(CAUTH + SAUTH + key_frames(key))
            found = payloads(node.received())
            if modulus.bit_length() % 64 == 0 and exponent == 65537 and modulus & 1:
                # It is sane; that nobody can have its private half shows later.
                self.assertEqual(KEY_ON_TRUST, found[0])
                continue
            self.assertEqual(([KEY_REFUSED, REFUSAL], True), (found, node.closed), key)
            self.assertEqual([], self.server.store.entries())

    def test_a_key_that_nothing_can_be_encrypted_with(self) -> None:
        """That is the peer's fault, and no failure here."""
        error = UnreadableKey("no such key")
        with mock.patch.object(classic, "encrypt_to", side_effect=error):
            node = self.opened()

        self.assertEqual([KEY_REFUSED, REFUSAL], payloads(node.received()))
        self.assertTrue(node.closed)

    def test_nothing_is_kept_before_the_key_is_proved(self) -> None:
        """
        Anybody can send a public key. Only who answers the counter-challenge has it
        stored, uses up a place in a window, and is noted.
        """
        store, counter, seen = MemoryKeyStore(), MemoryCounter(), Sightings()
        window = TrustWindow(lambda address: True, "everyone", count=1)
        trust = TrustPolicy(store, [window], ["root"], counter)
        self.server = self.make_server(seen=seen)
        self.server.factory.trust = trust
        for proof in (b"", b"x" * 16, b"short"):
            node = self.opened(key=key_pair(2))
            self.assertEqual(KEY_ON_TRUST, payloads(node.received())[0])
            if proof:
                node.send(encode_transaction(proof))
            else:
                node.hang_up()
            self.assertTrue(node.closed)
        self.assertEqual(([], []), (list(store.entries()), seen.noted))

        self.node(key=key_pair(1))

        owner = key_pair(1).public.md5
        self.assertEqual([owner], [entry.digest for entry in store.entries()])
        self.assertEqual([(owner, "127.0.0.1")], seen.noted)
        self.assertEqual(1, counter.used(window.window_id))
        late = self.opened(key=key_pair(2))
        self.assertEqual(KEY_REFUSED, payloads(late.received())[0])

    def test_a_window_that_closes_in_between(self) -> None:
        """What holds is what is decided when the key has been proved."""
        store, counter = MemoryKeyStore(), MemoryCounter()
        window = TrustWindow(lambda address: True, "everyone", count=1)
        trust = TrustPolicy(store, [window], ["root"], counter)
        self.server = self.make_server()
        self.server.factory.trust = trust
        late = self.dial(key=key_pair(2))
        dialog, opening = late.opening(self.server.public)
        late.send(opening)
        self.node(key=key_pair(1))
        event = dialog.receive_data(late.received())[-1]
        clear = open_with(key_pair(2), event.data, NONCE_SIZE, b"")  # type: ignore[union-attr]
        key = encrypt_to(self.server.public, os.urandom(KEY_SIZE))
        late.send(dialog.answer(digest(clear), key))

        self.assertEqual((REFUSED, True), (late.received(), late.closed))
        self.assertEqual(1, len(store.entries()))


class UserTests(ClassicTestCase):
    """
    Who the peer claims to be.
    """

    def test_names_that_nobody_may_have(self) -> None:
        """They would leave the folder of keys, or deceive who reads them."""
        for user in [b"a/b", b"a\\b", b".x", b"-x", b"\x1b[0m", b"\xff", b"u" * 65]:
            node = self.dial()
            node.send(encode_transaction(b"CAUTH 127.0.0.1 localhost %b 0" % user))
            self.assertEqual((REFUSED, True), (node.received(), node.closed), user)

    def test_a_user_who_is_not_trusted_on_first_use(self) -> None:
        """`trustusers` holds here, too."""
        node = self.dial()
        claim = encode_transaction(b"CAUTH 127.0.0.1 localhost bob 0")
        node.send(claim + SAUTH + key_frames(node.key_pair.public))

        self.assertEqual([KEY_REFUSED, REFUSAL], payloads(node.received()))


class OrderTests(ClassicTestCase):
    """
    The dialog's messages, and everything else in their place.
    """

    def test_every_message_at_every_stage(self) -> None:
        """Exactly one goes on; all others are refused, and end the connection."""
        key = key_pair(1).public
        modulus, exponent = payloads(key_frames(key))
        messages = {
            "claim": payloads(CAUTH)[0],
            "challenge": payloads(SAUTH)[0],
            "modulus": modulus,
            "exponent": exponent,
            "digest": bytes(16),
            "block": bytes(256),
            "request": b"VERSION",
            "sealed": b"SGET 8 2048".ljust(16, b"\0") + bytes(8),
        }
        before = [CAUTH, SAUTH, *map(encode_transaction, (modulus, exponent))]
        goes_on = ["claim", "challenge", "modulus", "exponent", ""]
        for stage, right in enumerate(goes_on):
            for what, message in messages.items():
                if (right, what) in {("modulus", "exponent"), ("exponent", "modulus")}:
                    # Both are numbers; that they are of no key shows behind them.
                    continue
                node = self.dial()
                node.send(b"".join(before[:stage]))
                node.received()
                node.send(encode_transaction(message))
                found = node.received()
                if what == right:
                    self.assertFalse(node.closed, (stage, what))
                else:
                    self.assertEqual(
                        (REFUSED, True), (found, node.closed), (stage, what)
                    )

    def test_answers_to_the_counter_challenge(self) -> None:
        """Of a longer one the first bytes count; a wrong or shorter one is refused."""
        for change, right in [
            (lambda answer: answer, True),
            (lambda answer: answer + b"more", True),
            (lambda answer: answer[:15], False),
            (lambda answer: answer[:15] + bytes([answer[15] ^ 1]), False),
            (lambda answer: b"x", False),
        ]:
            node = self.dial()
            dialog, opening = node.opening()
            node.send(opening)
            event = dialog.receive_data(node.received())[-1]
            clear = open_with(node.key_pair, event.data, NONCE_SIZE, b"")  # type: ignore[union-attr]
            node.send(encode_transaction(change(digest(clear))))
            self.assertEqual(
                (b"", False) if right else (REFUSED, True),
                (node.received(), node.closed),
            )

    def test_what_is_no_classic_protocol(self) -> None:
        """Not a word is said to what does not speak in frames."""
        for data in [b"t 9999\0\0", b"t x\0\0\0\0\0", b"m" * 100]:
            node = self.dial()
            node.send(data)
            self.assertEqual((b"", True), (node.received(), node.closed), data)

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.integers(0, 4), st.binary(max_size=600), st.booleans())
    def test_any_garbage(self, stage: int, garbage: bytes, framed: bool) -> None:
        """It is waited for, or refused; nothing fails here."""
        if framed and garbage:
            garbage = encode_transaction(garbage)
        numbers = payloads(key_frames(key_pair(1).public))
        before = [CAUTH, SAUTH, *map(encode_transaction, numbers)]
        node = self.dial()
        node.send(b"".join(before[:stage]) or b"t")
        self.assertFalse(node.closed)
        node.received()
        node.send(garbage)

        found = node.received()
        if node.closed:
            self.assertIn(
                found, (b"", REFUSED, encode_transaction(KEY_REFUSED) + REFUSED)
            )
        else:
            node.hang_up()
        self.assertEqual([], self.flushLoggedErrors())


class SplitTests(ClassicTestCase):
    """
    Bytes cut anywhere.
    """

    def script(self, node: MemoryClassicClient, cut: Any) -> bytes:
        """
        Send everything that a node sends, in the pieces that *cut* makes.
        """
        dialog, opening = node.opening(self.server.public)
        for piece in cut(opening):
            node.send(piece)
        event = dialog.receive_data(node.received())[-1]
        clear = open_with(node.key_pair, event.data, NONCE_SIZE, b"")  # type: ignore[union-attr]
        key = encrypt_to(self.server.public, os.urandom(KEY_SIZE))
        last = dialog.answer(digest(clear), key)
        for piece in cut(last + encode_transaction(b"VERSION") * 2):
            node.send(piece)
        return node.received()

    def test_all_at_once(self) -> None:
        """The last messages and the first requests may come in one piece."""
        found = self.script(self.dial(), lambda data: [data])

        self.assertEqual([b"OK: 3.21.0"] * 2, payloads(found))

    def test_one_byte_at_a_time(self) -> None:
        """From the very first one on."""
        found = self.script(self.dial(), lambda data: [bytes([x]) for x in data])

        self.assertEqual([b"OK: 3.21.0"] * 2, payloads(found))

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_any_split(self, data: st.DataObject) -> None:
        """The answers are the same."""

        def cut(whole: bytes) -> list[bytes]:
            places = data.draw(st.lists(st.integers(0, len(whole)), max_size=6))
            ends = [0, *sorted(places), len(whole)]
            pieces = [whole[a:b] for a, b in pairwise(ends)]
            return [piece for piece in pieces if piece]

        found = self.script(self.dial(), cut)
        self.assertEqual([b"OK: 3.21.0"] * 2, payloads(found))


class EventTests(ClassicTestCase):
    """
    What the log says.
    """

    def events(self, **level: bool) -> Recorder:
        """What is logged from now on."""
        recorder = Recorder()
        self.server = self.make_server(events=EventLog(log=recorder.log, **level))
        return recorder

    def test_a_session(self) -> None:
        """It is opened and closed like others, and said to be unprotected once."""
        recorder = self.events()
        node = self.node()
        node.request(b"VERSION", b"VERSION")
        node.hang_up()

        names = [event["event"] for event in recorder.events]
        self.assertEqual(
            [
                "trust.accepted",
                "session.opened",
                "session.unprotected",
                "session.closed",
            ],
            names,
        )
        md5 = node.key_pair.public.md5
        for event in recorder.events:
            self.assertEqual(
                ("127.0.0.1", "root", md5), (event["peer"], event["user"], event["key"])
            )
        opened, unprotected, closed = recorder.events[1:]
        self.assertEqual((1, 1), (opened["protocol"], unprotected["protocol"]))
        self.assertEqual(
            ("info", 2), (unprotected["log_level"].name, closed["requests"])
        )

    def test_what_a_peer_says_of_itself(self) -> None:
        """Its words are told to who wants to know more, and go nowhere else."""
        for verbose in (False, True):
            recorder = self.events(verbose=verbose)
            node = self.dial()
            node.send(encode_transaction(b"CAUTH 10.9.8.7 other\x1b.example root 0"))
            events = recorder.named("classic.claimed")
            self.assertEqual(int(verbose), len(events))
            if verbose:
                [event] = events
                self.assertEqual("127.0.0.1", event["peer"])
                self.assertEqual("10.9.8.7", event["address"])
                self.assertNotIn("\x1b", event["hostname"])

    def test_a_refused_peer(self) -> None:
        """The reason is in the log, exactly once."""
        recorder = self.events()
        node = self.dial()
        node.send(encode_transaction(b"VERSION"))

        [event] = recorder.events
        self.assertEqual(
            ("trust.refused", "bad_dialog"), (event["event"], event["code"])
        )
        # It has shown no key.
        self.assertIn("not trusted: - from 127.0.0.1: bad ", formatEvent(event))

    def test_the_last_words_are_said_before_the_end(self) -> None:
        """A dialogue in the log has both directions."""
        recorder = self.events(dialogue=True)
        node = self.dial()
        node.send(encode_transaction(b"VERSION"))

        said = [event["direction"] for event in recorder.named("dialogue")]
        self.assertEqual(["received", "sent"], said)


class CommandTests(ClassicTestCase):
    """
    Commands of plugins.
    """

    def test_builtin_commands(self) -> None:
        """All but COOKIE exist in version 1."""
        without = [
            command.name
            for command in builtin_commands()
            if verifyObject(ICommand, command) and 1 not in command.versions
        ]
        self.assertEqual((["cookie"], 1), (without, API))
