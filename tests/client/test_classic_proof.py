# SPDX-License-Identifier: MIT
"""
Whose key it is, without TLS.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.errors import (
    UntrustedServer,
)
from nodecomm.client.stages import Stage
from nodecomm.identity.keys import PublicKey, UnreadableKey
from nodecomm.identity.servers import ServerDecision, ServerKeyStore, ServerTrust
from nodecomm.testing import key_pair
from tests.client.classic_scripted import (
    NO,
    OTHER,
    OWN,
    SERVER,
    ClassicPlace,
    impostor,
    refusing,
    showing,
    welcoming,
)
from tests.client.scripted import HUB, Trusting
from tests.client.test_session import STATUS


class ProofTests(SynchronousTestCase):
    """
    Whose key is it?
    """

    def trust(self, **more: Any) -> ServerTrust:
        """
        Decides with a store on disk.
        """
        return ServerTrust(ServerKeyStore(self.mktemp()), **more)

    def test_a_known_server(self) -> None:
        """
        A server whose key is known proves on the first connection that it holds it;
        the session says what it is.
        """
        place = ClassicPlace(welcoming)
        session = place.connect()

        self.assertEqual(place.network.attempts, 1)
        self.assertEqual(place.forms, b"y")
        self.assertEqual(place.trust.asked, [("hub:5308", SERVER.public)])
        self.assertEqual(session.server_key, SERVER.public)
        self.assertIs(session.stage, Stage.OPEN)
        self.assertEqual(session.version, 1)
        self.assertFalse(session.protected)
        self.assertFalse(session.encrypted)
        self.assertFalse(session.is_nodecomm)
        self.assertTrue(session.links)
        self.assertIs(place.result(session.when_welcomed()), session)
        self.assertEqual(place.dialer.own_digest, OWN.public.md5)
        self.assertIn("hub:5308 welcomed", repr(session))

    def test_a_stranger(self) -> None:
        """
        A server whose key is not known is asked for it on a connection on which
        nothing else is asked, not even that is answered which the server asks; then
        it must prove on the next one that it holds the key. Only that is decided
        about.
        """
        for first_use in (True, False):
            trust = self.trust(first_use=first_use)
            place = ClassicPlace(welcoming, trust=trust)
            if first_use:
                session = place.connect()
                self.assertEqual(place.result(session.stat(b"/a")), STATUS)
                self.assertEqual(trust.candidates("hub:5308"), (SERVER.public,))
            else:
                error = place.refused()
                self.assertEqual(error.code, "key-unknown")
                self.assertEqual(error.key, SERVER.public)

            self.assertEqual(place.forms, b"ny")
            question, proof = place.server.peers
            self.assertEqual(len(question.records), 1)
            self.assertTrue(question.ended)
            # The dialog's first half; the answer and then a request.
            self.assertEqual(len(proof.records), 3 if first_use else 1)

    def test_the_next_time(self) -> None:
        """
        A key that was stored on first use is asked to be proved at once.
        """
        place = ClassicPlace(welcoming, trust=self.trust(first_use=True))
        place.result(place.connect().close())
        place.connect()

        self.assertEqual(place.forms, b"nyy")

    def test_several_keys(self) -> None:
        """
        Each key that the server may have is tried, on a connection of its own, until
        one is proved; the next connection begins with that.
        """
        for script in (welcoming, refusing):
            known = (OTHER.public, key_pair(3).public, SERVER.public)
            scripts = (script, script, welcoming)
            place = ClassicPlace(*scripts, trust=Trusting(None, *known))
            session = place.connect()

            self.assertEqual(session.server_key, SERVER.public)
            self.assertEqual(place.forms, b"yyy")
            place.result(session.close())
            place.connect()
            self.assertEqual(place.forms, b"yyyy")

    def test_another_key(self) -> None:
        """
        A server that has another key than the known one says which, proves it, and
        the decision tells what became of it.
        """
        for script in (welcoming, refusing):
            trust = self.trust()
            trust.store.add("hub:5308", OTHER.public)
            place = ClassicPlace(script, welcoming, trust=trust)
            error = place.refused()

            self.assertIsInstance(error, UntrustedServer)
            self.assertEqual(error.code, "key-changed")
            self.assertIn("nodecomm server-key accept hub:5308", str(error))
            self.assertEqual(error.key, SERVER.public)
            self.assertEqual(error.known, (OTHER.public,))
            self.assertEqual(place.forms, b"yny")
            self.assertEqual(trust.candidates("hub:5308"), (OTHER.public,))

    def test_pins(self) -> None:
        """
        A key that was named whole is asked to be proved at once; of one that was
        named by its digest the server is asked for the rest.
        """
        for pin, forms in ((SERVER.public, b"y"), (SERVER.public.md5, b"ny")):
            place = ClassicPlace(welcoming, trust=self.trust(pinned=[pin]))
            self.assertEqual(place.connect().server_key, SERVER.public)
            self.assertEqual(place.forms, forms)
        for wrong, forms in ((OTHER.public, b"yny"), (OTHER.public.sha, b"ny")):
            trust = self.trust(pinned=[wrong], first_use=True)
            place = ClassicPlace(welcoming, trust=trust)
            self.assertEqual(place.refused().code, "key-changed")
            self.assertEqual(place.forms, forms)

    def test_no_proof(self) -> None:
        """
        Whoever shows the right key and cannot prove it is not asked anything, and
        nothing is stored; the error says what that may mean.
        """
        known = self.trust()
        known.store.add("hub:5308", SERVER.public)
        for trust, forms in (
            (known, b"yn"),
            (self.trust(first_use=True), b"ny"),
            (self.trust(pinned=[SERVER.public.md5]), b"ny"),
        ):
            before = trust.candidates("hub:5308")
            place = ClassicPlace(impostor, trust=trust, pair=OTHER)
            error = place.refused()

            self.assertEqual(
                (type(error), error.code), (UntrustedServer, "no-proof"), forms
            )
            self.assertIn(SERVER.public.md5, str(error))
            self.assertIn("Nothing was asked", str(error))
            self.assertEqual(place.forms, forms)
            self.assertEqual(trust.candidates("hub:5308"), before)
            for peer in place.server.peers:
                self.assertEqual(len(peer.records), 1)

    def test_a_decision_that_takes_time(self) -> None:
        """
        Nothing is sent before the decision; the dialog goes on after it.
        """
        decision: Deferred[ServerDecision] = Deferred()
        place = ClassicPlace(welcoming, trust=Trusting(decision, SERVER.public))
        connecting = place.dialer.connect(HUB)
        place.network.advance(5)
        self.assertEqual(len(place.peer.records), 1)
        decision.callback(ServerDecision(True, "stored", ""))
        session = place.network.result_of(connecting)

        self.assertEqual(place.result(session.stat(b"/a")), STATUS)

    def test_a_decision_that_is_no(self) -> None:
        """
        A key that may not be shown ends it, although the server holds it.
        """
        place = ClassicPlace(welcoming, trust=Trusting(NO, SERVER.public))
        error = place.refused()

        self.assertEqual(error.code, "key-changed")
        self.assertEqual(len(place.peer.records), 1)

    def test_a_decision_that_fails(self) -> None:
        """
        Whoever dialed gets what went wrong.
        """
        place = ClassicPlace(
            welcoming, trust=Trusting(ZeroDivisionError("bug"), SERVER.public)
        )
        self.assertIsInstance(place.refused(), ZeroDivisionError)

    def test_keys_that_prove_nothing(self) -> None:
        """
        A key that could share its digest with another, or that the dialog has no
        room for, is refused before anything is encrypted with it.
        """
        modulus = SERVER.public.modulus
        long = (1 << 8191) | 1
        for shown in ((modulus, 1), (modulus, 4), (modulus >> 1, 3), (long, 65537)):
            place = ClassicPlace(showing(*shown), trust=self.trust(first_use=True))
            error = place.refused()

            self.assertEqual(
                (type(error), error.code), (UntrustedServer, "key-unusable")
            )
            self.assertEqual(place.forms, b"n")
            self.assertIn("hub:5308", str(error))

    def test_a_key_that_the_library_refuses(self) -> None:
        """
        Numbers that look like a key and with which nothing can be encrypted make the
        key unusable, and no bug.
        """
        known = PublicKey(SERVER.public.modulus, 3)
        place = ClassicPlace(welcoming, trust=Trusting(None, known))
        problem = UnreadableKey("unheard of")
        with mock.patch("nodecomm.client.classic.encrypt_to", side_effect=problem):
            error = place.refused()

        self.assertEqual((type(error), error.code), (UntrustedServer, "key-unusable"))
        self.assertIn("unheard of", str(error))
