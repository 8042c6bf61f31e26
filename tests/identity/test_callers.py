# SPDX-License-Identifier: MIT
"""
Who may ask an agent for a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.identity.callers import CALLER_CODES, CallerTrust
from nodecomm.identity.decisions import TrustDecision
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.server_keys import ServerKeyStore
from tests.identity import forgery
from tests.identity.sample import key, temporary_folder
from tests.identity.test_servers import HUB, OTHER, with_digest_of

STRANGER = "192.0.2.9"
DOCUMENT = Path(__file__).parents[2] / "docs" / "agent.rst"


class CallerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = temporary_folder(self) / "server-keys"
        self.store = ServerKeyStore(self.folder)

    def trust(
        self,
        pinned: Sequence[str | PublicKey] = (),
        named: Sequence[str | PublicKey] = (),
        servers: Sequence[str] = (HUB,),
    ) -> CallerTrust:
        """What decides, by the keys that are stored."""
        return CallerTrust(self.store, servers, pinned=pinned, named=named)

    def judged(self, trust: CallerTrust, one: PublicKey | None) -> TrustDecision:
        """The decision, which is the same with a good user name as without."""
        decision = trust.check_key(one, STRANGER)
        self.assertEqual(decision, trust.check_identity(one, "root", STRANGER))
        self.assertIn(decision.code, CALLER_CODES)
        return decision

    def code(self, trust: CallerTrust, one: PublicKey | None) -> tuple[bool, str]:
        """The short of it."""
        decision = self.judged(trust, one)
        return decision.trusted, decision.code

    def test_keys_of_policy_servers(self) -> None:
        """
        A key that is stored for a policy server may call, from wherever it comes;
        that of another server, or of none, may not.
        """
        self.store.add(HUB, key(0))
        self.store.add(HUB, key(1))
        self.store.add(OTHER, key(2))
        trust = self.trust()
        for number in (0, 1):
            self.assertEqual((True, "server_key"), self.code(trust, key(number)))
        refused = self.judged(trust, key(2))
        self.assertEqual((False, "not_a_caller"), (refused.trusted, refused.code))
        self.assertIn(OTHER, refused.text)
        stranger = self.judged(trust, key(3))
        self.assertFalse(stranger.trusted)
        self.assertIn(f'run_keys = ["{key(3).md5}"] in [agent]', stranger.text)

    def test_what_is_stored_now(self) -> None:
        """
        A key counts from the moment it is stored, until it is forgotten.
        """
        trust = self.trust()
        self.assertEqual((False, "not_a_caller"), self.code(trust, key()))
        self.store.add(HUB, key())
        self.assertEqual((True, "server_key"), self.code(trust, key()))
        self.store.forget(HUB)
        self.assertEqual((False, "not_a_caller"), self.code(trust, key()))

    def test_named_keys(self) -> None:
        """
        `run_keys` adds keys, whole or by either digest; `server_keys` too, and takes
        away what is stored and not among them.
        """
        self.store.add(HUB, key(0))
        for form in (key(1), key(1).md5, key(1).sha, key(1).md5.lower()):
            trust = self.trust(named=[form])
            self.assertEqual((True, "run_key"), self.code(trust, key(1)))
            self.assertEqual((True, "server_key"), self.code(trust, key(0)))
            trust = self.trust(pinned=[form])
            self.assertEqual((True, "server_pinned"), self.code(trust, key(1)))
            refused = self.judged(trust, key(0))
            self.assertEqual((False, "not_a_caller"), (refused.trusted, refused.code))
            self.assertIn("server_keys names others only", refused.text)
        trust = self.trust(pinned=[key(1)], named=[key(0).sha])
        self.assertEqual((True, "run_key"), self.code(trust, key(0)))
        with self.assertRaises(ValueError):
            self.trust(named=["MD5=123"])

    @given(
        st.lists(st.tuples(st.sampled_from([HUB, OTHER]), st.integers(0, 3))),
        st.sets(st.integers(0, 3)),
        st.sets(st.integers(0, 3)),
        st.booleans(),
        st.integers(0, 3),
    )
    @settings(max_examples=60, deadline=None)
    def test_the_rule(
        self,
        stored: list[tuple[str, int]],
        pinned: set[int],
        named: set[int],
        whole: bool,
        asked: int,
    ) -> None:
        """
        Trusted are `run_keys`, and `server_keys` if there are any, else what is stored
        for a policy server.
        """
        self.store = ServerKeyStore(temporary_folder(self) / "server-keys")
        for server, number in stored:
            self.store.add(server, key(number))

        def form(number: int) -> str | PublicKey:
            return key(number) if whole else key(number).sha

        trust = self.trust(list(map(form, pinned)), list(map(form, named)))
        servers = pinned or {number for server, number in stored if server == HUB}
        self.assertEqual(
            asked in named or asked in servers, self.judged(trust, key(asked)).trusted
        )

    def test_a_digest_that_another_key_has(self) -> None:
        """
        Where the whole key is known anywhere, another one with its digest is refused,
        loudly, though the digest is named.
        """
        twin = with_digest_of(key(0), 1)
        places = {
            "stored for the server": lambda: self.store.add(HUB, key(0)),
            "stored for another": lambda: self.store.add(OTHER, key(0)),
        }
        for name, place in places.items():
            with self.subTest(name):
                place()
                for trust in (
                    self.trust(named=[key(0).md5]),
                    self.trust(pinned=[key(0).sha]),
                    self.trust(),
                ):
                    decision = self.judged(trust, twin)
                    self.assertEqual("conflict", decision.code)
                    self.assertIn("KEY CONFLICT", decision.text)
                trust = self.trust(named=[key(0).md5])
                self.assertTrue(self.judged(trust, key(0)).trusted)
                self.store.forget(HUB)
                self.store.forget(OTHER)
        trust = self.trust(named=[key(0).md5], pinned=[key(0)])
        self.assertEqual((False, "conflict"), self.code(trust, twin))
        self.assertEqual((True, "server_pinned"), self.code(trust, key(0)))

    def test_keys_that_are_good_for_nobody(self) -> None:
        """
        A forged key is refused though its digest is named, and so is one that is not
        an RSA key.
        """
        trust = self.trust(named=[forgery.victim().md5])
        self.assertEqual((True, "run_key"), self.code(trust, forgery.victim()))
        self.assertEqual((False, "insane_key"), self.code(trust, forgery.forgery()))
        self.assertEqual((False, "not_rsa"), self.code(trust, None))

    def test_user_names(self) -> None:
        """
        A name that could be taken for something else is refused with any key.
        """
        trust = self.trust(named=[key()])
        for user in ("../root", "-x", "ro\not", "a b", "x" * 65):
            decision = trust.check_identity(key(), user, STRANGER)
            self.assertEqual(("bad_user", False), (decision.code, decision.trusted))
        for user in ("root", "", "somebody"):
            self.assertTrue(trust.check_identity(key(), user, STRANGER).trusted)

    def test_a_file_that_cannot_be_read(self) -> None:
        """
        While what is stored for a policy server cannot be read, no digest vouches for
        a key, as the file may hold another one; whole keys that are known still do.
        """
        self.folder.mkdir()
        Path(self.store.path(HUB)).write_text("not a key\n")
        self.store.add(OTHER, key(2))
        trust = self.trust(named=[key(0).md5, key(1)], servers=(HUB, OTHER))
        decision = self.judged(trust, key(0))
        self.assertEqual((False, "store_unusable"), (decision.trusted, decision.code))
        self.assertIn(self.store.path(HUB), decision.text)
        self.assertEqual((False, "store_unusable"), self.code(trust, key(3)))
        self.assertEqual((True, "run_key"), self.code(trust, key(1)))
        self.assertEqual((True, "server_key"), self.code(trust, key(2)))

    def test_documented_codes(self) -> None:
        """
        The documentation has each code, and no other.
        """
        rows = []
        section = DOCUMENT.read_text().partition(".. _callers:")[2]
        for line in section.splitlines():
            if line.startswith("``") and line.split()[1:2] in (["yes"], ["no"]):
                rows.append(line.split()[0].strip("`"))
        self.assertEqual(sorted(CALLER_CODES), sorted(rows))
