# SPDX-License-Identifier: MIT
"""
The keys of servers.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.identity.keys import InsaneKey, PublicKey
from nodecomm.identity.servers import (
    SERVER_CODES,
    ServerDecision,
    ServerKeyStore,
    ServerKeysUnreadable,
    ServerTrust,
)
from nodecomm.identity.store import FileKeyStore
from tests.identity import forgery
from tests.identity.sample import key, temporary_folder

HUB = "hub.example.com:5308"
OTHER = "[2001:db8::1]:5309"
LONG = f"{'x' * 250}:5308"
NOW = 1_800_000_000.0


def with_digest_of(other: PublicKey, number: int) -> PublicKey:
    """
    A sane key that pretends to the digests of another one, as one made with a
    collision of the hash function would have.
    """
    forged = PublicKey(key(number).modulus, key(number).exponent)
    object.__setattr__(forged, "md5", other.md5)
    object.__setattr__(forged, "sha", other.sha)
    return forged


class ServerCase(SynchronousTestCase):
    """
    A folder of server keys.
    """

    def setUp(self) -> None:
        self.folder = temporary_folder(self) / "state" / "server-keys"
        self.store = ServerKeyStore(self.folder, now=lambda: NOW)


class StoreTests(ServerCase):
    """
    What is stored, and how.
    """

    def test_nothing_stored(self) -> None:
        """
        Without the folder no server is known, and looking does not make it.
        """
        self.assertEqual((), self.store.keys(HUB))
        self.assertEqual([], self.store.entries())
        self.assertEqual([], self.store.unusable())
        self.assertEqual((), self.store.others(key()))
        self.assertEqual((), self.store.forget(HUB))
        self.assertFalse(self.folder.exists())

    def test_add_and_forget(self) -> None:
        """
        Several keys may stand side by side, the oldest first; each is forgotten by
        either digest, and the file goes with the last.
        """
        self.assertTrue(self.store.add(HUB, key(0)))
        self.assertFalse(self.store.add(HUB, key(0)))
        self.assertTrue(self.store.add(HUB, key(1)))
        self.assertEqual((key(0), key(1)), self.store.keys(HUB))
        self.assertEqual((), self.store.forget(HUB, key(2).md5))
        self.assertEqual((key(0),), self.store.forget(HUB, key(0).sha.upper()))
        self.assertEqual((key(1),), self.store.keys(HUB))
        self.assertEqual((key(1),), self.store.forget(HUB, key(1).md5))
        self.assertFalse(Path(self.store.path(HUB)).exists())
        self.assertRaises(ValueError, self.store.forget, HUB, "MD5=short")

    def test_replace(self) -> None:
        """
        A key may take the place of all others; if it is alone already, nothing is
        written.
        """
        self.store.add(HUB, key(0))
        self.store.add(HUB, key(1))
        self.assertTrue(self.store.add(HUB, key(1), replace=True))
        self.assertEqual((key(1),), self.store.keys(HUB))
        before = os.stat(self.store.path(HUB)).st_ino
        self.assertFalse(self.store.add(HUB, key(1), replace=True))
        self.assertEqual(before, os.stat(self.store.path(HUB)).st_ino)

    def test_first_and_only(self) -> None:
        """
        A first key is only stored where there is none; keeping one forgets those
        that are not good.
        """
        self.assertEqual((key(0),), self.store.add_first(HUB, key(0)))
        self.assertEqual((key(0),), self.store.add_first(HUB, key(1)))
        self.store.add(HUB, key(1))
        self.store.keep_only(HUB, key(2), lambda one: one == key(1))
        self.assertEqual((key(1), key(2)), self.store.keys(HUB))

    def test_the_file(self) -> None:
        """
        The file is the owner's alone, holds PEM blocks, and says for whom and since
        when; remarks survive other changes.
        """
        self.store.add(HUB, key(0))
        path = Path(self.store.path(HUB))
        self.assertEqual("hub.example.com%3A5308.pem", path.name)
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        self.assertEqual(0o700, stat.S_IMODE(self.folder.stat().st_mode))
        head = f"# server: {HUB}\n# {key(0).md5}, stored 2027-01-15T08:00:00Z\n"
        self.assertEqual(head.encode() + key(0).to_pem(), path.read_bytes())
        path.write_bytes(b"# from the old hub\n" + path.read_bytes())
        self.store.add(HUB, key(1))
        self.store.forget(HUB, key(1).md5)
        self.assertEqual(
            f"# server: {HUB}\n# from the old hub\n".encode(),
            path.read_bytes().partition(b"# MD5")[0],
        )
        self.assertEqual(1, path.read_bytes().count(b"# server:"))

    def test_written_by_hand(self) -> None:
        """
        A file may be put there by hand: either PEM form, remarks, no last newline.
        """
        self.folder.mkdir(parents=True)
        path = Path(self.store.path(HUB))
        pem = key(0).to_pem() + b"\r\n# second\n" + key(1).to_pem().rstrip(b"\n")
        path.write_bytes(pem)
        self.assertEqual((key(0), key(1)), self.store.keys(HUB))
        self.store.add(HUB, key(2))
        self.assertEqual((key(0), key(1), key(2)), self.store.keys(HUB))

    def test_entries(self) -> None:
        """
        Every server is listed under its own name, long ones too; files that are
        damaged or misnamed are told apart, others' are passed over.
        """
        for server in (HUB, OTHER, LONG):
            self.store.add(server, key(0))
        self.store.add(OTHER, key(1))
        (self.folder / "README").write_text("ours")
        (self.folder / "Hub%3A1.pem").write_bytes(key(0).to_pem())
        (self.folder / f"long={'0' * 64}.pem").write_bytes(b"# server: \\x\n")
        (self.folder / "empty%3A1.pem").write_bytes(b"# nothing\n")
        (self.folder / "folder%3A1.pem").mkdir()
        entries = self.store.entries()
        self.assertEqual(
            [(OTHER, (key(0), key(1))), (HUB, (key(0),)), (LONG, (key(0),))],
            [(entry.server, entry.keys) for entry in entries],
        )
        self.assertEqual(
            [self.store.path(s) for s in (OTHER, HUB, LONG)],
            [entry.path for entry in entries],
        )
        bad = [(entry.name, entry.reason) for entry in self.store.unusable()]
        misnamed = "is not named as the file of any server would be"
        self.assertEqual(
            [
                ("Hub%3A1.pem", misnamed),
                ("empty%3A1.pem", "holds no key"),
                ("folder%3A1.pem", "is no ordinary file"),
                (f"long={'0' * 64}.pem", misnamed),
            ],
            bad,
        )
        self.assertEqual((OTHER, HUB, LONG), self.store.others(key(0)))
        self.assertEqual((OTHER, LONG), self.store.others(key(0), HUB.upper()))

    def test_damaged(self) -> None:
        """
        A file with anything else in it vouches for nobody and is no empty one; it is
        replaced or forgotten as a whole.
        """
        insane = PublicKey((1 << 1031) | 1, 65537)
        table = [
            (b"", "holds no key"),
            (key(0).to_pem() + b"junk\n", "has a line that is no key: junk"),
            (key(0).to_pem()[:-20], "has a line that is no key"),
            (b"\x1b[2J\n" + key(0).to_pem(), "no key: \\x1b[2J"),
            (insane.to_pem(), "holds no usable key"),
            (key(0).to_pem() + b"#" * 70_000, "is larger than"),
        ]
        for data, reason in table:
            self.store.add(HUB, key(0), replace=True)
            path = Path(self.store.path(HUB))
            path.write_bytes(data)
            error = self.assertRaises(ServerKeysUnreadable, self.store.keys, HUB)
            self.assertIn(reason, str(error))
            self.assertEqual(str(path), error.path)
            for call in (
                lambda: self.store.add(HUB, key(1)),
                lambda: self.store.add_first(HUB, key(1)),
                lambda: self.store.forget(HUB, key(0).md5),
            ):
                self.assertRaises(ServerKeysUnreadable, call)
            self.assertEqual(data, path.read_bytes())
            self.assertTrue(self.store.add(HUB, key(1), replace=True))
            self.assertEqual((key(1),), self.store.keys(HUB))
            path.write_bytes(data)
            self.assertEqual((), self.store.forget(HUB))
            self.assertFalse(path.exists())

    def test_insane_keys(self) -> None:
        """
        A key that could share its digest is not stored.
        """
        for call in (self.store.add, self.store.add_first):
            self.assertRaises(InsaneKey, call, HUB, forgery.forgery())
        self.assertFalse(self.folder.exists())

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.text(min_size=1, max_size=300), unique_by=str.lower))
    def test_names_neither_collide_nor_escape(self, names: list[str]) -> None:
        """
        Whatever servers are called, each has a file of its own in the folder, with a
        name that file systems take.
        """
        paths = [self.store.path(name) for name in names]
        folded = {path.encode() for path in paths}
        self.assertEqual(len(set(map(str.lower, names))), len(folded))
        for path in paths:
            self.assertEqual(str(self.folder), os.path.dirname(path))
            self.assertFalse(os.path.basename(path).startswith("."))
            self.assertLess(len(os.path.basename(path)), 220)

    def test_odd_names(self) -> None:
        """
        Names of any characters are stored under themselves.
        """
        names = ["../../etc/passwd", ".", "..", ".hidden", "a\udc80b", "ü\x1b", "A%41"]
        for name in names:
            self.store.add(name, key(0))
        self.assertEqual(
            sorted(name.lower() for name in names),
            [entry.server for entry in self.store.entries()],
        )
        self.assertEqual(len(names), len(list(self.folder.glob("*.pem"))))

    @pytest.mark.programs
    def test_many_writers(self) -> None:
        """
        Processes that add keys at once lose none; of first keys one wins.
        """
        code = (
            "import sys\n"
            "from nodecomm.identity.keys import PublicKey\n"
            "from nodecomm.identity.servers import ServerKeyStore\n"
            "store = ServerKeyStore(sys.argv[1])\n"
            "key = PublicKey(int(sys.argv[2]), 65537)\n"
            "print('ready', flush=True)\n"
            "sys.stdin.readline()\n"
            "store.add('all:1', key)\n"
            "print(key in store.add_first('one:1', key))\n"
        )
        modulus = key(0).modulus
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", code, self.folder, str(modulus + 2 * number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(6)
        ]
        for worker in workers:
            assert worker.stdout is not None
            self.assertEqual("ready\n", worker.stdout.readline())
        said = [worker.communicate("go\n")[0] for worker in workers]

        self.assertEqual(6, len(self.store.keys("all:1")))
        self.assertEqual(1, len(self.store.keys("one:1")))
        self.assertEqual(["False\n"] * 5 + ["True\n"], sorted(said))


class DocumentationTests(SynchronousTestCase):
    """
    The page for operators.
    """

    def test_codes(self) -> None:
        """
        The page's table has every code of a server's key once, and besides the one
        for a key that is not proved, which no decision comes to.
        """
        page = Path(__file__).parents[2] / "docs" / "keys.rst"
        _, _, servers = page.read_text().partition("\nThe keys of servers\n")
        rows = re.findall(r"^``([\w-]+)`` +(?:yes|no) ", servers, re.MULTILINE)

        self.assertEqual(sorted([*SERVER_CODES, "no-proof"]), sorted(rows))


class TrustTests(ServerCase):
    """
    Whether a server is the one that is meant.
    """

    def check(
        self,
        shown: PublicKey | None,
        *,
        pinned: tuple[str | PublicKey, ...] = (),
        first_use: bool = False,
        server: str = HUB,
    ) -> ServerDecision:
        trust = ServerTrust(self.store, pinned=pinned, first_use=first_use)
        decision = trust.check(server, shown)
        assert isinstance(decision, ServerDecision)
        self.assertIn(decision.code, SERVER_CODES)
        self.assertEqual(decision.trusted, bool(decision))
        self.assertTrue(decision.text.isprintable())
        return decision

    def test_every_combination(self) -> None:
        """
        Pinned keys alone count where there are any; else the stored ones; else first
        use, if it was asked for. What is stored afterwards follows.
        """
        shown, other = key(0), key(1)
        # pinned, stored, the code, and what is stored afterwards; with first use the
        # same, but for the last line.
        table: list[tuple[str, str, str, tuple[PublicKey, ...]]] = [
            ("match", "match", "pinned", (shown,)),
            ("match", "other", "pinned", (shown,)),
            ("match", "both", "pinned", (other, shown)),
            ("match", "none", "pinned", (shown,)),
            ("other", "match", "key-changed", (shown,)),
            ("other", "other", "key-changed", (other,)),
            ("other", "both", "key-changed", (other, shown)),
            ("other", "none", "key-changed", ()),
            ("none", "match", "stored", (shown,)),
            ("none", "other", "key-changed", (other,)),
            ("none", "both", "stored", (other, shown)),
            ("none", "none", "key-unknown", ()),
        ]
        pins: dict[str, list[tuple[str | PublicKey, ...]]] = {
            "match": [(shown,), (shown.md5,), (shown.sha.lower(),)],
            "other": [(other,), (other.md5,)],
            "none": [()],
        }
        keys = {
            "match": [shown],
            "other": [other],
            "both": [other, shown],
            "none": [],
        }
        for pinned_case, stored_case, code, after in table:
            for pinned in pins[pinned_case]:
                for first_use in (False, True):
                    self.store.forget(HUB)
                    for one in keys[stored_case]:
                        self.store.add(HUB, one)
                    expected, left = code, after
                    if first_use and code == "key-unknown":
                        expected, left = "first-use", (shown,)

                    decision = self.check(shown, pinned=pinned, first_use=first_use)

                    case = (pinned, stored_case, first_use)
                    self.assertEqual(expected, decision.code, case)
                    self.assertEqual(
                        expected in ("pinned", "stored", "first-use"),
                        decision.trusted,
                    )
                    self.assertEqual(expected == "first-use", decision.first_use)
                    self.assertEqual(left, self.store.keys(HUB), case)

    def test_a_change_of_pinned_key(self) -> None:
        """
        With both keys pinned the new one is stored beside the old one; what is no
        longer pinned goes when the next one comes.
        """
        both = (key(0).md5, key(1).md5)
        self.check(key(0), pinned=both)
        self.check(key(1), pinned=both)
        self.assertEqual((key(0), key(1)), self.store.keys(HUB))
        self.check(key(2), pinned=(key(1), key(2)))
        self.assertEqual((key(1), key(2)), self.store.keys(HUB))

    def test_the_texts(self) -> None:
        """
        A refusal names both digests and what to do.
        """
        self.store.add(HUB, key(0))
        self.store.add(OTHER, key(1))
        text = self.check(key(1)).text
        for part in (
            key(0).md5,
            key(1).md5,
            f"`nodecomm server-key accept {HUB}`",
            f"that is the key of {OTHER}",
        ):
            self.assertIn(part, text)
        text = self.check(key(2), server="new:1").text
        for part in (
            "--trust-server",
            f"--server-key {key(2).md5}",
            "`nodecomm server-key accept new:1`",
        ):
            self.assertIn(part, text)
        classic = ServerTrust(self.store, classic=True)
        for server in (HUB, "new:1"):
            self.assertIn(
                f"`nodecomm server-key accept {server} --protocol classic`",
                classic.check(server, key(2)).text,
            )
        text = self.check(key(2), pinned=(key(0), key(1).sha)).text
        for part in (key(2).md5, key(0).md5, key(1).sha):
            self.assertIn(part, text)
        self.assertNotIn("server-key accept", text)
        self.assertEqual((key(0),), self.check(key(1)).known)

    def test_candidates(self) -> None:
        """
        The keys that a server may show are those that were named whole and those that
        are stored and not forbidden by what was named, the newest first, each once.
        """
        one, two, three = key(0), key(1), key(2)
        trust = ServerTrust(self.store)
        self.assertEqual(trust.candidates(HUB), ())
        self.store.add(HUB, one)
        self.store.add(HUB, two)
        self.assertEqual(trust.candidates(HUB), (two, one))
        self.assertEqual(trust.candidates(OTHER), ())
        table: list[tuple[list[str | PublicKey], tuple[PublicKey, ...]]] = [
            ([three], (three,)),
            ([one], (one,)),
            ([three, two], (three, two)),
            ([one.md5], (one,)),
            ([two.sha, three], (three, two)),
            ([three.md5], ()),
        ]
        for pinned, expected in table:
            trust = ServerTrust(self.store, pinned=pinned)
            self.assertEqual(trust.candidates(HUB), expected)
        Path(self.store.path(HUB)).write_text("damaged")
        self.assertEqual(ServerTrust(self.store).candidates(HUB), ())
        self.assertEqual(ServerTrust(self.store, pinned=[one]).candidates(HUB), (one,))

    def test_names_and_ports_apart(self) -> None:
        """
        A key belongs to one name and one port; letter case does not matter.
        """
        self.store.add(HUB, key(0))
        self.assertTrue(self.check(key(0), server=HUB.upper()))
        for server in ("hub.example.com:5309", "hub:5308", "10.0.0.1:5308"):
            self.assertEqual("key-unknown", self.check(key(0), server=server).code)

    def test_roles_apart(self) -> None:
        """
        A key that is trusted as a client's is not a server's, nor the reverse.
        """
        clients = FileKeyStore(self.folder.parent / "ppkeys")
        clients.add("root", key(0))
        self.assertEqual("key-unknown", self.check(key(0)).code)
        self.check(key(1), first_use=True)
        self.assertEqual("unknown", clients.known(key(1)).state)

    def test_unusable_keys(self) -> None:
        """
        A key that is no usable one is refused whatever is pinned or stored.
        """
        forged = forgery.forgery()
        for pinned in ((), (forged,), (forgery.victim().md5,)):
            decision = self.check(forged, pinned=pinned, first_use=True)
            self.assertEqual("key-unusable", decision.code)
        self.store.add(HUB, forgery.victim())
        self.assertEqual("key-unusable", self.check(forged).code)
        self.assertEqual("key-unusable", self.check(None, first_use=True).code)

    def test_the_same_digest(self) -> None:
        """
        Another key with the digest of the stored one is refused loudly, also when
        that digest is pinned; a whole key that is pinned needs no digest.
        """
        self.store.add(HUB, key(0))
        forged = with_digest_of(key(0), 1)
        for pinned in ((), (key(0).md5,), (key(0),), (key(2).md5,)):
            decision = self.check(forged, pinned=pinned)
            self.assertEqual("key-changed", decision.code, pinned)
            self.assertIn("KEY CONFLICT", decision.text)
        self.assertEqual("pinned", self.check(forged, pinned=(forged,)).code)

    def test_a_damaged_or_unwritable_store(self) -> None:
        """
        Where nothing can be read or written nobody is trusted, and it is not taken
        for a first use.
        """
        self.store.add(HUB, key(0))
        path = Path(self.store.path(HUB))
        path.write_bytes(b"junk\n")
        for shown in (key(0), key(1)):
            decision = self.check(shown, first_use=True, pinned=())
            self.assertEqual("store-unusable", decision.code)
            self.assertIn(str(path), decision.text)
        self.assertEqual(b"junk\n", path.read_bytes())
        self.folder.parent.joinpath("file").write_text("in the way")
        self.store = ServerKeyStore(self.folder.parent / "file")
        for pinned, first_use in (((), True), ((key(0),), False)):
            decision = self.check(key(0), pinned=pinned, first_use=first_use)
            self.assertEqual("store-unusable", decision.code)
            self.assertIn("Not a directory", decision.text)

    def test_what_waits_for_the_disk_runs_elsewhere(self) -> None:
        """
        With a `run`, only what has to be stored gives a Deferred, and what is stored
        meanwhile by somebody else is not overrun.
        """
        waiting: list[tuple[Deferred[ServerDecision], object]] = []

        def run(work: object) -> Deferred[ServerDecision]:
            waiting.append((Deferred(), work))
            return waiting[-1][0]

        trust = ServerTrust(self.store, first_use=True, run=run)
        results = [trust.check(HUB, key(0)), trust.check(HUB, key(1))]
        self.assertEqual((), self.store.keys(HUB))
        for deferred, work in waiting:
            assert callable(work)
            deferred.callback(work())
        first, second = (self.successResultOf(result) for result in results)
        self.assertEqual(("first-use", "key-changed"), (first.code, second.code))
        self.assertEqual("stored", trust.check(HUB, key(0)).code)
        self.assertEqual((key(0),), self.store.keys(HUB))

    def test_what_is_no_digest(self) -> None:
        """
        A pin that is no digest is an error of whoever wrote it.
        """
        self.assertRaises(ValueError, ServerTrust, self.store, pinned=["MD5=1"])
