# SPDX-License-Identifier: MIT
"""
Connecting without TLS: whose key it is, and all the ways in which nothing comes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client import classic_dialing
from nodecomm.client.calling import PAUSES
from nodecomm.client.errors import (
    ConnectionBroken,
    Rejected,
    Unreachable,
    UntrustedServer,
)
from nodecomm.client.timeouts import Timeouts
from nodecomm.identity.servers import ServerDecision
from nodecomm.testing.network import MemoryEnd
from nodecomm.wire.cipher import CipherMissing
from nodecomm.wire.classic import KEY_REFUSED, Claim
from nodecomm.wire.errors import LocalProtocolError
from nodecomm.wire.replies import REFUSAL
from tests.client.classic_scripted import (
    NO,
    OTHER,
    OWN,
    SERVER,
    ClassicPeer,
    ClassicPlace,
    ClassicScript,
    HeldPool,
    Names,
    not_trusting,
    refusing,
    saying,
    showing_own,
    welcoming,
)
from tests.client.scripted import HUB, Trusting
from tests.client.test_session import GOOD, STATUS


class DialogTests(SynchronousTestCase):
    """
    What is said before the first answer.
    """

    def test_round_trips(self) -> None:
        """
        Connecting, the dialog and the requests are a round trip each.
        """
        place = ClassicPlace(welcoming, latency=0.1)
        session = place.connect()
        self.assertEqual(session.round_trips, 2)
        self.assertEqual(place.result(session.stat(b"/a")), STATUS)

        self.assertEqual(session.round_trips, 3)
        self.assertAlmostEqual(place.clock.seconds(), 0.3)

    def test_writes(self) -> None:
        """
        Our first four messages leave with one write, the answer and the first
        requests with the next.
        """
        place = ClassicPlace(welcoming)
        asked: list[Any] = []
        connecting = place.dialer.connect(HUB)
        connecting.addCallback(
            lambda session: asked.extend(session.stat(b"/a") for _ in range(3))
        )
        place.network.pump()

        self.assertEqual([place.result(one) for one in asked], [STATUS] * 3)
        self.assertEqual(len(place.peer.records), 2)

    def test_nothing_to_ask(self) -> None:
        """
        The answer leaves although nothing is asked, also when the session is closed
        at once.
        """
        for closing in (False, True):
            place = ClassicPlace(welcoming)
            session = place.connect()
            if closing:
                place.result(session.close())
            else:
                place.network.pump()
            self.assertEqual(len(place.peer.session_key), 16)

    def test_the_claim(self) -> None:
        """
        The server is told our address, its name, and our user name.
        """
        place = ClassicPlace(welcoming, name_of=Names(b"node.example.com").of)
        place.connect()

        expected = Claim(b"127.0.0.1", b"node.example.com", b"root")
        self.assertEqual(place.peer.claim, expected)

    def test_keys_and_names_are_checked_first(self) -> None:
        """
        What would make every connection fail is found out before the first.
        """
        for user in (b"", b"two words", b"x" * 256, b"a/b", b"a\\b"):
            with self.assertRaises(LocalProtocolError):
                ClassicPlace(welcoming, user=user)

    def test_no_cipher(self) -> None:
        """
        Without the cipher nothing can be encrypted, which is said before connecting;
        what is not encrypted works.
        """
        with mock.patch.object(
            classic_dialing, "missing", return_value="install legacy.so"
        ):
            with self.assertRaisesRegex(CipherMissing, "install legacy.so"):
                ClassicPlace(welcoming, encrypt=True)
            place = ClassicPlace(welcoming)
            self.assertEqual(place.result(place.connect().stat(b"/a")), STATUS)

    def test_a_server_that_takes_nobody_of_the_name(self) -> None:
        """
        A server that refuses whoever introduces himself, and not for his key: the
        words are told, cut, and what they mean.
        """

        async def refusing(peer: ClassicPeer) -> None:
            await peer.hear()
            peer.answer(b"BAD: no\x1b " + b"z" * 4000)
            peer.close()

        error = ClassicPlace(refusing, trust=Trusting(None)).refused()
        self.assertEqual((type(error), error.code), (Rejected, "dialog-failed"))
        for part in ("it says BAD: no\\x1b zzz", "our user name", "its log says"):
            self.assertIn(part, str(error))
        self.assertLess(len(str(error)), 300)

    def test_a_wrong_counter_challenge(self) -> None:
        """
        Nothing that the client sends tells whether it could decrypt what the server
        sent: that would decrypt what was recorded.
        """
        seen = []
        for counter in (None, b"\1" * 256, b"\xff" * 256, bytes(256)):

            async def script(
                peer: ClassicPeer, counter: bytes | None = counter
            ) -> None:
                await peer.hear()
                peer.send(peer.accepting(counter=counter))
                while True:
                    await peer.more()

            place = ClassicPlace(script)
            place.connect()
            place.network.pump()
            seen.append([len(record) for record in place.peer.records])

        self.assertEqual(seen, [seen[0]] * len(seen))
        self.assertEqual(len(seen[0]), 2)

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.integers(1, 200), max_size=8), st.booleans())
    def test_any_split(self, sizes: list[int], stranger: bool) -> None:
        """
        It does not matter how the server's messages are cut.
        """

        async def script(peer: ClassicPeer) -> None:
            await peer.hear()
            data = peer.accepting()
            for size in sizes:
                peer.send(data[:size])
                data = data[size:]
            peer.send(data)
            await peer.keyed()
            await peer.request()
            peer.send(GOOD)

        known = () if stranger else (SERVER.public,)
        place = ClassicPlace(script, trust=Trusting(None, *known))
        self.assertEqual(place.result(place.connect().stat(b"/a")), STATUS)


class FailureTests(SynchronousTestCase):
    """
    What goes wrong, in a code and in words.
    """

    def test_not_allowed(self) -> None:
        """
        A server that closes without a word is tried again with growing pauses; the
        error names the setting that allows this protocol.
        """
        place = ClassicPlace(None, trust=Trusting())
        error = place.refused()

        self.assertEqual((type(error), error.code), (Unreachable, "closed-at-accept"))
        for word in ("hub:5308 (127.0.0.2)", "allowlegacyconnects", "allowallconnects"):
            self.assertIn(word, str(error))
        self.assertEqual(place.network.attempts, len(PAUSES) + 1)

    def test_closed_once(self) -> None:
        """
        A server that has not noticed yet that the last connection has ended takes
        the next one.
        """
        place = ClassicPlace(None, None, welcoming)
        self.assertEqual(place.result(place.connect().stat(b"/a")), STATUS)
        self.assertEqual(place.network.attempts, 3)

    def test_one_connection_at_a_time(self) -> None:
        """
        A server that has just shown its key, and has not noticed yet that we hung up,
        is not asked for it again.
        """
        place = ClassicPlace(showing_own, None, None, welcoming, trust=Trusting())
        self.assertEqual(place.result(place.connect().stat(b"/a")), STATUS)
        self.assertEqual(place.forms, b"ny")
        self.assertEqual(place.network.attempts, 4)

    def test_a_key_that_was_shown_long_ago(self) -> None:
        """
        With a new attempt everything begins anew.
        """
        tries = len(PAUSES) + 1
        place = ClassicPlace(showing_own, *[None] * tries, welcoming, trust=Trusting())
        self.assertEqual(place.refused().code, "closed-at-accept")
        self.assertEqual(place.result(place.connect().stat(b"/a")), STATUS)
        self.assertEqual(place.forms, b"nny")

    def test_a_refusal_that_was_lost(self) -> None:
        """
        A server that resets the connection instead of saying that the challenge was
        not made for its key is asked for its key in the end.
        """

        async def resetting(peer: ClassicPeer) -> None:
            await peer.hear()
            peer.abort()

        tries = len(PAUSES) + 1
        place = ClassicPlace(
            *[resetting] * tries, welcoming, trust=Trusting(NO, OTHER.public)
        )
        error = place.refused()

        self.assertEqual(error.code, "key-changed")
        self.assertEqual(place.forms, b"y" * tries + b"ny")

    def test_closed_with_a_known_key(self) -> None:
        """
        When that closes without a word, too, it is the address that is not allowed.
        """
        place = ClassicPlace(None)
        self.assertEqual(place.refused().code, "closed-at-accept")
        self.assertEqual(place.network.attempts, len(PAUSES) + 2)

    def test_we_are_not_trusted(self) -> None:
        """
        A server that does not trust our key says so, and that is not taken for a
        doubt about its own.
        """
        for known in ((), (SERVER.public,)):
            place = ClassicPlace(not_trusting, trust=Trusting(None, *known))
            error = place.refused()

            self.assertEqual((type(error), error.code), (Rejected, "not-trusted"))
            self.assertIn(OWN.public.md5, str(error))
            self.assertIn("root", str(error))
            self.assertEqual(place.network.attempts, 1)

    def test_a_dialog_that_fails(self) -> None:
        """
        What is no dialog ends the connection, and the error says what was wrong.
        """

        async def saying_more(peer: ClassicPeer) -> None:
            await peer.hear()
            peer.send(peer.accepting() + b"t 1\0\0\0\0\0x")
            await peer.keyed()

        async def ending(peer: ClassicPeer) -> None:
            await peer.hear()
            peer.answer(b"OK: key accepted")
            peer.close()

        async def shouting(peer: ClassicPeer) -> None:
            await peer.hear()
            peer.send(b"HTTP/1.1 400 Bad Request\r\n")
            await peer.more()

        cases: list[tuple[ClassicScript, bool, str]] = [
            (saying_more, True, "nothing before our messages"),
            (ending, True, "waiting for the server's proof"),
            (ending, False, "waiting for the server's proof"),
            (shouting, True, "t or m"),
            (saying(b"OK: x", b"short"), False, "challenge is wrong"),
            (refusing, False, "Unspecified server refusal"),
        ]
        for script, known, words in cases:
            keys = (SERVER.public,) if known else ()
            place = ClassicPlace(script, trust=Trusting(None, *keys))
            error = place.refused()

            self.assertEqual(
                (type(error), error.code), (Rejected, "dialog-failed"), error
            )
            self.assertIn(words, str(error))
            self.assertIn("hub:5308", str(error))

    def test_a_server_that_speaks_first(self) -> None:
        """
        Nothing may come before our first message.
        """

        async def speaking_first(peer: ClassicPeer) -> None:
            peer.answer(b"OK: key accepted")
            await peer.more()

        name: Deferred[bytes] = Deferred()
        place = ClassicPlace(speaking_first, name_of=lambda address: name)
        error = place.refused()

        self.assertEqual((type(error), error.code), (Rejected, "dialog-failed"))
        self.assertIn("nothing before our messages", str(error))
        self.assertEqual(place.peer.records, [])

    def test_silence(self) -> None:
        """
        A server that says nothing is given up.
        """
        for payloads in ((), (b"OK: key accepted",)):
            place = ClassicPlace(saying(*payloads), timeouts=Timeouts(dialog=7))
            error = place.refused()

            self.assertEqual((type(error), error.code), (Rejected, "dialog-timeout"))
            self.assertIn("7 s", str(error))

    def test_a_server_that_does_not_hang_up(self) -> None:
        """
        Without TLS the end takes both; a server that keeps its half open is cut off.
        """
        trust = Trusting(NO, SERVER.public)
        place = ClassicPlace(welcoming, trust=trust, timeouts=Timeouts(goodbye=3))
        self.patch(MemoryEnd, "loseConnection", lambda end: None)
        connecting = place.dialer.connect(HUB)
        place.network.advance(2.9)
        self.assertNoResult(connecting)
        error: Any = place.network.failure_of(connecting, within=0.2)

        self.assertEqual(error.code, "key-changed")

    def test_lost_while_deciding(self) -> None:
        """
        A connection that is lost before the answer has left breaks.
        """
        pool = HeldPool()
        decision: Deferred[ServerDecision] = Deferred()
        for trust, code in (
            (Trusting(None, SERVER.public), "dialog-failed"),
            (Trusting(decision, SERVER.public), "reset"),
        ):
            place = ClassicPlace(welcoming, trust=trust, pool=pool)
            connecting = place.dialer.connect(HUB)
            place.network.pump()
            place.network.connections[-1].cut()
            error: Any = place.network.failure_of(connecting)

            self.assertEqual(error.code, code)
        # What comes then is not wanted any more.
        pool.finish()
        self.assertEqual(pool.held, [])

    def test_a_mistake_in_a_thread(self) -> None:
        """
        Whoever dialed gets an exception that should not have been.
        """
        place = ClassicPlace(welcoming)
        with mock.patch(
            "nodecomm.client.classic.open_with", side_effect=ZeroDivisionError("bug")
        ):
            self.assertIsInstance(place.refused(), ZeroDivisionError)

    def test_cancelling(self) -> None:
        """
        Connecting can be given up at any time, and nothing is left open.
        """

        def while_naming() -> ClassicPlace:
            never: Deferred[bytes] = Deferred()
            return ClassicPlace(welcoming, name_of=lambda address: never)

        cases: list[Callable[[], ClassicPlace]] = [
            while_naming,
            lambda: ClassicPlace(saying()),
            lambda: ClassicPlace(saying(), trust=Trusting()),
            lambda: ClassicPlace(welcoming, trust=Trusting(Deferred(), SERVER.public)),
            lambda: ClassicPlace(welcoming, pool=HeldPool()),
            lambda: ClassicPlace(None),
        ]
        for make in cases:
            place = make()
            connecting = place.dialer.connect(HUB)
            place.network.pump()
            connecting.cancel()
            error: Any = place.network.failure_of(connecting)

            self.assertIsInstance(error, (ConnectionBroken, CancelledError))
            self.assertTrue(all(one.over for one in place.network.connections))
            place.network.advance(60)
            self.assertEqual(place.network.attempts, 1)

    def test_answers_that_prove_nothing(self) -> None:
        """
        The refusal of the key is told from other refusals by its text alone, and
        those by their beginning.
        """
        cases = [
            (KEY_REFUSED, Rejected, "not-trusted"),
            (REFUSAL, UntrustedServer, "no-proof"),
            (b"BAD: anything", UntrustedServer, "no-proof"),
        ]
        for text, kind, code in cases:
            trust = Trusting(None, SERVER.public)
            place = ClassicPlace(saying(text), showing_own, trust=trust)
            error = place.refused()
            self.assertEqual((type(error), error.code), (kind, code))
