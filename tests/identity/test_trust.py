# SPDX-License-Identifier: MIT
"""
Whose key is trusted, and why.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nodecomm.identity.interfaces import IWindowCounter
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.pins import PinnedDigests
from nodecomm.identity.store import FileKeyStore, KeyConflict, KeyMatch
from nodecomm.identity.trust import (
    CODES,
    MemoryCounter,
    TrustDecision,
    TrustPolicy,
    TrustWindow,
    WindowState,
)
from tests.identity import forgery
from tests.identity.sample import key, temporary_folder

HERE = "10.0.0.7"
ELSEWHERE = "192.0.2.1"
NOW = 1_800_000_000.0


def window(
    until: float | None = None, count: int | None = None, text: str = "10."
) -> TrustWindow:
    """
    A window for addresses that begin like its text.
    """
    return TrustWindow(lambda address: address.startswith(text), text, until, count)


class Sightings:
    """
    Who was seen where.
    """

    def __init__(self) -> None:
        self.at: dict[str, list[str]] = {}

    def digests_at(self, address: str) -> Deferred[list[str]]:
        return succeed(self.at.get(address, []))


class TrustCase(SynchronousTestCase):
    """
    A policy over a store, with a clock that the test sets.
    """

    def setUp(self) -> None:
        folder = temporary_folder(self)
        self.now = NOW
        self.store = FileKeyStore(folder / "ppkeys")
        self.pins = PinnedDigests(folder / "trusted-digests")
        self.counter = MemoryCounter()
        self.seen = Sightings()

    def policy(self, *windows: TrustWindow, users: tuple[str, ...] = ("root",)) -> Any:
        return TrustPolicy(
            self.store,
            windows,
            users,
            self.counter,
            lambda: self.now,
            pins=self.pins,
            seen=self.seen,
        )

    def result(self, decision: Any) -> TrustDecision:
        if isinstance(decision, Deferred):
            decision = self.successResultOf(decision)
        assert isinstance(decision, TrustDecision)
        self.assertIn(decision.code, CODES)
        self.assertTrue(decision.text)
        return decision

    def key_code(
        self, policy: Any, public: PublicKey | None, address: str = HERE
    ) -> tuple[bool, str]:
        decision = self.result(policy.check_key(public, address))
        self.assertFalse(decision.first_use)
        return decision.trusted, decision.code

    def identity_code(
        self, policy: Any, public: PublicKey, user: str = "root", address: str = HERE
    ) -> tuple[bool, str]:
        decision = self.result(policy.check_identity(public, user, address))
        return decision.trusted, decision.code


class StoredKeyTests(TrustCase):
    """
    Keys that are stored already.
    """

    def test_trusted_from_anywhere(self) -> None:
        """
        A stored key is trusted at any address, at once, without any window.
        """
        name = self.store.add("root", key())
        policy = self.policy()

        for address in (HERE, ELSEWHERE, "2001:db8::1"):
            first = policy.check_key(key(), address)
            decision = policy.check_identity(key(), "root", address)
            self.assertEqual((True, "stored_key"), (first.trusted, first.code))
            self.assertEqual((True, "stored"), (decision.trusted, decision.code))
            self.assertEqual(name, decision.stored_name)
            self.assertFalse(decision.first_use)
            self.assertTrue(decision)

    def test_another_user_name(self) -> None:
        """
        Under another name the same key may introduce itself, and is then unknown.
        """
        self.store.add("root", key())
        policy = self.policy(users=("root", "bob"))

        self.assertEqual((True, "stored_key"), self.key_code(policy, key()))
        refused = self.result(policy.check_identity(key(), "bob", HERE))
        self.assertEqual((False, "unknown_key"), (refused.trusted, refused.code))
        self.assertIn("'root'", refused.text)

    def test_user_outside_trustusers_may_be_stored(self) -> None:
        """
        A user that is not in trustusers is trusted when his key is stored.
        """
        self.store.add("bob", key())

        self.assertEqual(
            (True, "stored"), self.identity_code(self.policy(), key(), "bob")
        )


class RefusedKeyTests(TrustCase):
    """
    Keys that no window helps.
    """

    def test_no_rsa_key(self) -> None:
        """
        Without an RSA key nobody is trusted.
        """
        policy = self.policy(window())

        self.assertEqual((False, "not_rsa"), self.key_code(policy, None))
        decision = self.result(policy.check_identity(None, "root", HERE))
        self.assertEqual("not_rsa", decision.code)

    def test_forgery(self) -> None:
        """
        A key forged to have the digest of a trusted or pinned key is refused in an
        open window, at both checks, and nothing is saved.
        """
        forged = forgery.forgery()
        self.pins.add(forged.md5)
        self.pins.add(forged.sha)
        policy = self.policy(window())
        for _ in range(2):
            self.assertEqual((False, "insane_key"), self.key_code(policy, forged))
            self.assertEqual((False, "insane_key"), self.identity_code(policy, forged))
            self.assertEqual([], [x for x in self.store.entries() if x.key == forged])
            self.store.add("root", forgery.victim())
        self.assertEqual(1, len(self.store.entries()))

    def test_conflict(self) -> None:
        """
        A key in whose place another one is stored is refused loudly, whatever name
        it comes with.
        """
        folder = temporary_folder(self)
        (folder / f"root-{key(0).md5}.pub").write_bytes(key(1).to_pem())
        self.store = FileKeyStore(folder)
        self.pins.add(key(0).md5)
        policy = self.policy(window(), users=("root", "bob"))

        self.assertEqual((False, "conflict"), self.key_code(policy, key(0)))
        for user in ("root", "bob"):
            decision = self.result(policy.check_identity(key(0), user, HERE))
            self.assertEqual((False, "conflict"), (decision.trusted, decision.code))
            self.assertIn("CONFLICT", decision.text)
            self.assertIn(f"root-{key(0).md5}.pub", decision.text)

    def test_conflict_at_the_last_moment(self) -> None:
        """
        When another key takes the place between look-up and saving, now or later,
        the decision is the same.
        """
        for outcome in ("raise", "fail"):

            class Store:
                def lookup(self, *call: Any) -> KeyMatch:
                    return KeyMatch("unknown")

                def add(self, *call: Any, how: str = outcome) -> Deferred[str]:
                    error = KeyConflict("root-x.pub", "holds another key")
                    if how == "raise":
                        raise error
                    return fail(error)

            policy = TrustPolicy(Store(), [window()], ["root"], MemoryCounter())
            self.assertEqual((False, "conflict"), self.identity_code(policy, key()))

    def test_bad_user(self) -> None:
        """
        A name that is accepted from nobody is refused, key or no key.
        """
        self.store.add("root", key())
        for user in ("../root", "ro ot", ".root"):
            code = self.identity_code(self.policy(window()), key(), user)
            self.assertEqual((False, "bad_user"), code)


class FirstUseTests(TrustCase):
    """
    Unknown keys.
    """

    def test_no_window(self) -> None:
        """
        By default nobody is trusted, and the text says what to do.
        """
        decision = self.result(self.policy().check_key(key(), HERE))

        self.assertEqual((False, "unknown_key"), (decision.trusted, decision.code))
        for part in (key().md5, HERE, "nodecomm key trust FILE", "trustkeysfrom"):
            self.assertIn(part, decision.text)
        self.assertEqual(
            (False, "unknown_key"), self.identity_code(self.policy(), key())
        )
        self.assertEqual([], list(self.store.entries()))

    def test_open_window(self) -> None:
        """
        Inside an open window the key is let in, saved, and known from then on, also
        from elsewhere.
        """
        policy = self.policy(window())
        self.assertEqual((True, "in_window"), self.key_code(policy, key()))
        self.assertEqual([], list(self.store.entries()))

        decision = self.result(policy.check_identity(key(), "root", HERE))

        self.assertEqual((True, "first_use"), (decision.trusted, decision.code))
        self.assertTrue(decision.first_use)
        self.assertEqual("10.", decision.window.text if decision.window else None)
        self.assertEqual(f"root-{key().md5}.pub", decision.stored_name)
        again = self.identity_code(self.policy(), key(), "root", ELSEWHERE)
        self.assertEqual((True, "stored"), again)

    def test_a_key_that_is_not_proved_yet(self) -> None:
        """
        Asked not to save, the same is decided, in a window and by a digest, but nothing
        is kept and no place taken.
        """
        policy = self.policy(window(count=1))
        for expected in ("first_use", "first_use_pinned"):
            decision = self.result(
                policy.check_identity(key(), "root", HERE, save=False)
            )
            self.assertEqual(
                (True, expected, True, None),
                (
                    decision.trusted,
                    decision.code,
                    decision.first_use,
                    decision.stored_name,
                ),
            )
            self.assertEqual([], list(self.store.entries()))
            self.assertEqual(0, self.counter.used(window(count=1).window_id))
            self.pins.add(key().md5)
        outside = self.result(
            self.policy(users=()).check_identity(key(), "root", HERE, save=False)
        )
        self.assertEqual((False, "user_not_trusted"), (outside.trusted, outside.code))
        self.store.add("root", key())
        known = self.result(policy.check_identity(key(), "root", HERE, save=False))
        self.assertEqual(
            (True, "stored", False), (known.trusted, known.code, known.first_use)
        )

    def test_outside_the_network(self) -> None:
        """
        A window is for its own network.
        """
        policy = self.policy(window())

        self.assertEqual(
            (False, "unknown_key"), self.key_code(policy, key(), ELSEWHERE)
        )
        code = self.identity_code(policy, key(), address=ELSEWHERE)
        self.assertEqual((False, "unknown_key"), code)

    def test_window_over(self) -> None:
        """
        From its end on a window trusts nobody.
        """
        policy = self.policy(window(until=NOW + 10))
        self.now = NOW + 9.9
        self.assertEqual((True, "in_window"), self.key_code(policy, key()))
        self.now = NOW + 10

        self.assertEqual((False, "window_expired"), self.key_code(policy, key()))
        self.assertEqual((False, "window_expired"), self.identity_code(policy, key()))
        self.assertEqual([], list(self.store.entries()))

    def test_window_used_up(self) -> None:
        """
        After its count of keys a window trusts nobody new.
        """
        policy = self.policy(window(count=2))
        for number in (0, 1):
            self.assertEqual((True, "in_window"), self.key_code(policy, key(number)))
            code = self.identity_code(policy, key(number))
            self.assertEqual((True, "first_use"), code)

        self.assertEqual((False, "window_used_up"), self.key_code(policy, key(2)))
        self.assertEqual((False, "window_used_up"), self.identity_code(policy, key(2)))
        self.assertEqual((True, "stored"), self.identity_code(policy, key(0)))

    def test_used_up_in_words(self) -> None:
        """
        The refusal counts the keys of the window.
        """
        for count, said in ((0, "the 0 keys are used up"), (1, "the 1 key is used up")):
            limited = window(count=count)
            if count:
                self.counter.take(limited.window_id, 1, key(0).sha)
            decision = self.result(self.policy(limited).check_key(key(1), HERE))
            self.assertIn(f"of the window {limited.text} {said}", decision.text)

    def test_nobody_may_use_an_empty_window(self) -> None:
        """
        A count of zero trusts nobody.
        """
        policy = self.policy(window(count=0))

        self.assertEqual((False, "window_used_up"), self.key_code(policy, key()))

    def test_one_key_takes_one_place(self) -> None:
        """
        A key that took its place and was not saved, because the process died, still
        has it; other keys do not get it.
        """
        limited = window(count=1)
        self.counter.take(limited.window_id, 1, key(0).sha)
        policy = self.policy(limited)

        self.assertEqual((False, "window_used_up"), self.key_code(policy, key(1)))
        self.assertEqual((True, "in_window"), self.key_code(policy, key(0)))
        self.assertEqual((True, "first_use"), self.identity_code(policy, key(0)))

    def test_the_next_window(self) -> None:
        """
        Where one window is over or used up another one for the same address helps.
        """
        policy = self.policy(
            window(until=NOW - 1), window(count=0, text="10.0"), window(text="10.0.0")
        )

        decision = self.result(policy.check_identity(key(), "root", HERE))

        self.assertEqual("10.0.0", decision.window.text if decision.window else None)

    def test_more_windows_take_one_place(self) -> None:
        """
        Only the window that lets a key in loses a place.
        """
        one, two = window(count=1, text="10.0"), window(count=1)
        policy = self.policy(one, two)
        self.identity_code(policy, key(0))

        self.assertEqual(1, self.counter.used(one.window_id))
        self.assertEqual(0, self.counter.used(two.window_id))

    def test_trustusers(self) -> None:
        """
        A user outside trustusers is never trusted on first use, not even pinned,
        and takes no place; the empty name only if it is listed.
        """
        self.pins.add(key(1).md5)
        policy = self.policy(window(count=5))
        for user in ("bob", ""):
            for number in (0, 1):
                code = self.identity_code(policy, key(number), user)
                self.assertEqual((False, "user_not_trusted"), code)
        self.assertEqual(0, self.counter.used("10."))
        allowed = self.policy(window(), users=("root", ""))
        self.assertEqual((True, "first_use"), self.identity_code(allowed, key(), ""))

    def test_pinned_digest(self) -> None:
        """
        A key whose digest was named is trusted without any window, by either digest.
        """
        policy = self.policy()
        for number, digest in enumerate((key(0).md5, key(1).sha)):
            public = key(number)
            self.assertEqual((False, "unknown_key"), self.key_code(policy, public))
            self.pins.add(digest)
            self.assertEqual((True, "pinned"), self.key_code(policy, public))
            code = self.identity_code(policy, public)
            self.assertEqual((True, "first_use_pinned"), code)
            self.assertEqual((True, "stored"), self.identity_code(policy, public))


class ChangedKeyTests(TrustCase):
    """
    Another key where one was seen before.
    """

    def setUp(self) -> None:
        super().setUp()
        self.seen.at[HERE] = [key(0).md5]

    def test_refused_outside_windows(self) -> None:
        """
        Without a window it is refused, at both checks, and the former key is named.
        """
        policy = self.policy()
        for decision in (
            self.result(policy.check_key(key(1), HERE)),
            self.result(policy.check_identity(key(1), "root", HERE)),
        ):
            self.assertEqual("changed_key_refused", decision.code)
            self.assertFalse(decision.trusted)
            self.assertEqual(key(0).md5, decision.previous)
            self.assertIn("CHANGED KEY", decision.text)

    def test_loud_inside_a_window(self) -> None:
        """
        In an open window it is saved, and reported loudly.
        """
        decision = self.result(
            self.policy(window()).check_identity(key(1), "root", HERE)
        )

        self.assertEqual("changed_key_trusted", decision.code)
        self.assertTrue(decision.trusted and decision.first_use)
        self.assertEqual(key(0).md5, decision.previous)
        self.assertIn("CHANGED KEY", decision.text)

    def test_no_change(self) -> None:
        """
        The key that was seen there, or any key elsewhere, is no change.
        """
        policy = self.policy(window())

        self.assertEqual((True, "first_use"), self.identity_code(policy, key(0)))
        code = self.identity_code(policy, key(1), address="10.9.9.9")
        self.assertEqual((True, "first_use"), code)

    def test_old_style_file_of_another_key(self) -> None:
        """
        A file named after user and address that holds another key tells a change.
        """
        folder = temporary_folder(self)
        name = f"root-{HERE}.pub"
        (folder / name).write_bytes(key(2).to_pem())
        self.store = FileKeyStore(folder)

        decision = self.result(self.policy().check_identity(key(1), "root", HERE))

        self.assertEqual("changed_key_refused", decision.code)
        self.assertEqual(name, decision.previous)


class WindowTests(TrustCase):
    """
    The windows themselves.
    """

    def test_states(self) -> None:
        """
        Each window is shown as open, expired or used up, with its uses.
        """
        windows = [window(), window(until=NOW), window(count=1), window(NOW + 1, 3)]
        policy = self.policy(*windows)
        self.counter.take(windows[2].window_id, 1, "somebody")

        self.assertEqual(
            [
                WindowState(windows[0], "open", None),
                WindowState(windows[1], "expired", None),
                WindowState(windows[2], "used up", 1),
                WindowState(windows[3], "open", 0),
            ],
            policy.window_states(),
        )

    def test_identity_of_a_window(self) -> None:
        """
        A larger count goes on counting; a new end begins anew.
        """
        self.assertEqual(window(NOW, 1).window_id, window(NOW, 2).window_id)
        self.assertNotEqual(window(NOW).window_id, window(NOW + 1).window_id)
        self.assertNotEqual(window().window_id, window(NOW).window_id)

    def test_memory_counter(self) -> None:
        """
        The counter in memory provides the interface.
        """
        self.assertTrue(verifyObject(IWindowCounter, MemoryCounter()))


class LaterAnswerTests(TrustCase):
    """
    Stores, counters and tables that answer with Deferreds, or not at all.
    """

    def test_decisions_wait(self) -> None:
        """
        The decision comes when the counter has answered, not before.
        """
        answer: Deferred[bool] = Deferred()

        class Counter(MemoryCounter):
            def take(self, *call: Any) -> Any:
                return answer

        self.counter = Counter()
        decision = self.policy(window(count=1)).check_identity(key(), "root", HERE)
        self.assertNoResult(decision)
        self.assertEqual([], list(self.store.entries()))
        answer.callback(True)

        self.assertEqual("first_use", self.result(decision).code)

    def test_a_failure_trusts_nobody(self) -> None:
        """
        A counter that fails is the caller's to know, and nothing is saved.
        """

        class Counter(MemoryCounter):
            def take(self, *call: Any) -> Any:
                return fail(OSError("no database"))

        self.counter = Counter()
        decision = self.policy(window(count=1)).check_identity(key(), "root", HERE)

        self.failureResultOf(decision, OSError)
        self.assertEqual([], list(self.store.entries()))

    def test_a_failing_table_trusts_nobody(self) -> None:
        """
        The same goes for the table of sightings.
        """
        self.seen.digests_at = lambda address: fail(OSError("no database"))  # type: ignore[method-assign]
        decision = self.policy(window()).check_identity(key(), "root", HERE)

        self.failureResultOf(decision, OSError)
        self.assertEqual([], list(self.store.entries()))


class DocumentationTests(SynchronousTestCase):
    """
    The page for operators.
    """

    def test_codes(self) -> None:
        """
        The page's table has every code once, and no other.
        """
        page = Path(__file__).parents[2] / "docs" / "keys.rst"
        # What is about servers' keys has a table of its own.
        nodes, _, _ = page.read_text().partition("\nThe keys of servers\n")
        rows = re.findall(r"^``(\w+)`` +(?:yes|no) ", nodes, re.MULTILINE)

        self.assertEqual(sorted(CODES), sorted(rows))


class ImportTests(SynchronousTestCase):
    """
    Decisions need no Twisted.
    """

    def test_without_twisted(self) -> None:
        """
        Everything but the store imports with Twisted blocked.
        """
        code = (
            "import sys; sys.modules['twisted'] = None\n"
            "import nodecomm.identity.trust, nodecomm.identity.peer\n"
            "import nodecomm.identity.pins, nodecomm.identity.own\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True
        )
        self.assertEqual((0, b""), (done.returncode, done.stderr))
