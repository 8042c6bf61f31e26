# SPDX-License-Identifier: MIT
"""
Servers that are not known yet, and whoever is asked about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.acquaintance import AskingDialer
from nodecomm.client.address import ServerAddress
from nodecomm.client.timeouts import Timeouts
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.servers import ServerKeyStore, ServerTrust
from nodecomm.testing import key_pair
from tests.client.scripted import HUB, Peer, Place, ScriptedFactory

KEY, OTHER = key_pair(0).public, key_pair(1).public


async def patient(peer: Peer) -> None:
    """
    A server that greets, and waits for its client to end the connection.
    """
    await peer.greet()
    while True:
        await peer.more()


class Person:
    """
    Answers when the test says so.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, PublicKey, tuple[str, ...]]] = []
        self.answers: list[Deferred[bool | None]] = []

    def __call__(
        self,
        server: ServerAddress,
        address: str,
        key: PublicKey,
        others: Sequence[str],
    ) -> Deferred[bool | None]:
        """Asked."""
        self.asked.append((str(server), address, key, tuple(others)))
        answer: Deferred[bool | None] = Deferred()
        self.answers.append(answer)
        return answer


class AskingTests(SynchronousTestCase):
    """
    Connecting with somebody to ask.
    """

    def setUp(self) -> None:
        """
        A server, a store without its key, and somebody to ask.
        """
        self.store = ServerKeyStore(self.mktemp())
        self.place = Place(
            patient, trust=ServerTrust(self.store), timeouts=Timeouts(goodbye=1)
        )
        self.network = self.place.network
        self.person = Person()
        self.dialer = AskingDialer(self.place.dialer, self.store, self.person)

    def answered(self, answer: bool | None, server: ServerAddress = HUB) -> Any:
        """
        What comes of connecting when the question is answered so: the connection, or
        the error.
        """
        connecting = self.dialer.connect(server)
        found: list[Any] = []
        connecting.addBoth(found.append)
        self.network.pump()
        self.person.answers[-1].callback(answer)
        self.network.advance(5)
        return getattr(found[0], "value", found[0])

    def test_yes(self) -> None:
        """
        The key that was accepted is stored, and the server is called again and has to
        show it.
        """
        session = self.answered(True)

        self.assertEqual([(str(HUB), "127.0.0.2", KEY, ())], self.person.asked)
        self.assertEqual((KEY,), self.store.keys(str(HUB)))
        self.assertEqual(KEY, session.server_key)
        self.assertEqual(2, self.network.attempts)
        session.abort("aborted", "the test is over")

    def test_no(self) -> None:
        """
        Without a yes the server is refused, nothing is stored and nothing sent; the
        error says what to do where there is nobody to ask.
        """
        for answer, words in ((False, "was not accepted"), (None, "no terminal")):
            error = self.answered(answer)

            self.assertEqual("key-unknown", error.code)
            self.assertIn(words, str(error))
            self.assertIn(KEY.md5, str(error))
            self.assertEqual((), self.store.keys(str(HUB)))
        self.assertIn("--server-key", str(error))
        self.assertEqual(
            [], [peer.records for peer in self.place.server.peers if peer.records]
        )

    def test_no_connection_waits_for_an_answer(self) -> None:
        """
        While the answer is awaited, however long, no connection is open.
        """
        connecting = self.dialer.connect(HUB)
        self.network.advance(10_000)

        self.assertEqual(1, len(self.person.asked))
        self.assertTrue(all(each.over for each in self.network.connections))
        self.person.answers[0].callback(True)
        session = self.network.result_of(connecting)
        session.abort("aborted", "the test is over")

    def test_a_known_server_is_no_question(self) -> None:
        """
        Nobody is asked about a key that is stored.
        """
        self.store.add(str(HUB), KEY)
        session = self.network.result_of(self.dialer.connect(HUB))

        self.assertEqual([], self.person.asked)
        session.abort("aborted", "the test is over")

    def test_a_changed_key_is_no_question(self) -> None:
        """
        Another key than the stored one is refused, and nobody can say yes to it.
        """
        self.store.add(str(HUB), OTHER)
        error: Any = self.network.failure_of(self.dialer.connect(HUB))

        self.assertEqual("key-changed", error.code)
        self.assertIn("HAS CHANGED", str(error))
        self.assertEqual([], self.person.asked)
        self.assertEqual((OTHER,), self.store.keys(str(HUB)))

    def test_another_key_after_the_yes(self) -> None:
        """
        A server that shows another key when it is called again is refused: the yes was
        for the first one.
        """
        connecting = self.dialer.connect(HUB)
        self.network.pump()
        changed = ScriptedFactory(self.network.clock, patient, key=key_pair(2))
        self.network.listen(HUB, changed)
        self.person.answers[0].callback(True)
        error: Any = self.network.failure_of(connecting)

        self.assertEqual("key-changed", error.code)
        self.assertEqual(1, len(self.person.asked))

    def test_one_question_at_a_time(self) -> None:
        """
        Of many servers each is asked about when the one before was answered, and once,
        however often it is called; the others connect meanwhile.
        """
        names = [ServerAddress(f"web{number}") for number in range(3)]
        for server in names:
            self.network.listen(server, self.place.server)
        self.store.add(str(names[2]), KEY)
        found: list[Any] = []
        for server in (HUB, HUB, names[0], names[1], names[2]):
            self.dialer.connect(server).addBoth(found.append)
        self.network.pump()

        self.assertEqual([str(HUB)], [asked[0] for asked in self.person.asked])
        self.assertEqual([names[2]], [session.server for session in found])
        self.person.answers[0].callback(True)
        self.network.pump()
        self.assertEqual(
            [str(HUB), "web0:5308"], [asked[0] for asked in self.person.asked]
        )
        self.person.answers[1].callback(False)
        self.network.pump()
        self.person.answers[2].callback(True)
        self.network.pump()

        self.assertEqual(3, len(self.person.asked))
        self.assertEqual(("hub:5308", "web2:5308"), self.person.asked[1][3])
        errors = [each.value for each in found if hasattr(each, "value")]
        self.assertEqual([names[0]], [error.server for error in errors])
        for each in found:
            if not hasattr(each, "value"):
                each.abort("aborted", "the test is over")
        self.network.advance(5)

    def test_known_meanwhile(self) -> None:
        """
        A server that becomes known while its question waits for another's answer is
        asked about no more.
        """
        web = ServerAddress("web")
        self.network.listen(web, self.place.server)
        first, second = self.dialer.connect(HUB), self.dialer.connect(web)
        self.network.pump()
        self.store.add(str(web), KEY)
        self.person.answers[0].callback(True)
        for connecting in (first, second):
            session = self.network.result_of(connecting)
            session.abort("aborted", "the test is over")

        self.assertEqual(1, len(self.person.asked))
