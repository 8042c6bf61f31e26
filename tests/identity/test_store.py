# SPDX-License-Identifier: MIT
"""
Trusted keys in a folder.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis.strategies import binary
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nodecomm.identity.keys import InsaneKey, PublicKey
from nodecomm.identity.store import FileKeyStore, KeyConflict
from nodecomm.identity.users import UntrustedUser
from nodecomm.interfaces import IKeyStore
from tests.identity import forgery
from tests.identity.sample import key, temporary_folder

ADDRESS = "10.0.0.7"


class StoreCase(SynchronousTestCase):
    """
    A store in a folder of its own, whose clock runs ahead so that it may cache.
    """

    ahead = 10.0

    def setUp(self) -> None:
        self.folder = temporary_folder(self) / "state" / "ppkeys"
        self.folder.mkdir(parents=True)
        self.store = self.make_store()

    def make_store(self) -> FileKeyStore:
        return FileKeyStore(self.folder, now=lambda: time.time() + self.ahead)

    def put(self, name: str, public: PublicKey) -> Path:
        path = self.folder / name
        path.write_bytes(public.to_pem())
        return path


class LookupTests(StoreCase):
    """
    What is found for a key.
    """

    def test_interface(self) -> None:
        """
        It provides the key store interface.
        """
        self.assertTrue(verifyObject(IKeyStore, self.store))

    def test_missing_folder(self) -> None:
        """
        Without a folder nobody is known; the first key makes it, for the owner only.
        """
        self.folder.rmdir()
        self.folder.parent.rmdir()
        self.assertEqual("unknown", self.store.known(key()).state)

        self.store.add("root", key())

        self.assertEqual(0o700, stat.S_IMODE(self.folder.stat().st_mode))
        self.assertEqual("equal", self.store.known(key()).state)

    def test_both_names(self) -> None:
        """
        A key is found under its MD5 and under its SHA name.
        """
        for number, digest in enumerate((key(0).md5, key(1).sha)):
            name = f"root-{digest}.pub"
            self.put(name, key(number))
            match = self.store.lookup("root", key(number), ADDRESS)
            self.assertEqual(("equal", (name,)), (match.state, match.names))

    def test_trust_is_per_user_name(self) -> None:
        """
        A key stored under one user name is unknown under another, which the match
        tells.
        """
        self.store.add("root", key())

        match = self.store.lookup("bob", key(), ADDRESS)

        self.assertEqual("unknown", match.state)
        self.assertEqual({"root"}, match.users)
        self.assertEqual({"root"}, self.store.known(key()).users)

    def test_empty_user_name(self) -> None:
        """
        The file of the empty user name begins with the dash.
        """
        self.assertEqual(f"-{key().md5}.pub", self.store.add("", key()))
        self.assertEqual("equal", self.store.lookup("", key(), ADDRESS).state)
        self.assertEqual("unknown", self.store.lookup("root", key(), ADDRESS).state)

    def test_user_names_with_dashes(self) -> None:
        """
        A name may hold dashes, and even look like another key's file.
        """
        for user in ("a-b", f"root-{key(1).md5}", "root-10.0.0.7"):
            name = self.store.add(user, key())
            match = self.make_store().lookup(user, key(), ADDRESS)
            self.assertEqual((name,), match.names)
        self.assertEqual("unknown", self.store.lookup("root", key(1), ADDRESS).state)

    def test_own_key_is_no_peer(self) -> None:
        """
        The machine's own key file does not make its key trusted.
        """
        self.put("localhost.pub", key())

        self.assertEqual("unknown", self.store.known(key()).state)
        self.assertEqual([], list(self.store.entries()))
        self.assertEqual([], list(self.store.unusable()))

    def test_a_misnamed_file_vouches_for_nobody(self) -> None:
        """
        A file named after one key and holding another is a conflict for the key it
        is named after, and nothing for the key it holds.
        """
        self.put(f"root-{key(0).md5}.pub", key(1))

        match = self.store.known(key(0))
        self.assertEqual("conflict", match.state)
        self.assertIn(f"root-{key(0).md5}.pub", match.conflict or "")
        self.assertEqual("conflict", self.store.lookup("bob", key(0), ADDRESS).state)
        self.assertEqual("unknown", self.store.known(key(1)).state)
        self.assertEqual([], list(self.store.entries()))
        (bad,) = self.store.unusable()
        self.assertIn(key(1).md5, bad.reason)

    def test_without_folder_rights(self) -> None:
        """
        A folder that cannot be read is an error, not an empty folder.
        """
        self.store.add("root", key())
        with mock.patch("os.stat", side_effect=PermissionError(errno.EACCES, "no")):
            self.assertRaises(PermissionError, self.store.known, key())


class OldStyleTests(StoreCase):
    """
    Files named after an address.
    """

    def test_renamed_when_equal(self) -> None:
        """
        An equal key under the old name is trusted and gets its new name.
        """
        for number, address in enumerate(("10.0.0.7", "2001:db8::7")):
            old = self.put(f"root-{address}.pub", key(number))
            match = self.store.lookup("root", key(number), address)

            name = f"root-{key(number).md5}.pub"
            self.assertEqual(("equal", (name,)), (match.state, match.names))
            self.assertFalse(old.exists())
            self.assertEqual(key(number).to_pem(), (self.folder / name).read_bytes())
            again = self.store.lookup("root", key(number), "192.0.2.1")
            self.assertEqual("equal", again.state)

    def test_not_renamed_when_different(self) -> None:
        """
        Another key under the old name stays where it is, and the match names it.
        """
        old = self.put(f"root-{ADDRESS}.pub", key(0))

        match = self.store.lookup("root", key(1), ADDRESS)

        self.assertEqual("unknown", match.state)
        self.assertEqual(old.name, match.replaced)
        self.assertEqual([old.name], os.listdir(self.folder))

    def test_only_for_its_address_and_user(self) -> None:
        """
        Elsewhere, or with another name, the key is unknown, though some is stored.
        """
        self.put(f"root-{ADDRESS}.pub", key())

        for user, address in (("root", "10.0.0.8"), ("bob", ADDRESS)):
            match = self.store.lookup(user, key(), address)
            self.assertEqual("unknown", match.state)
            self.assertEqual({"root"}, match.users)
        self.assertEqual("equal", self.store.known(key()).state)

    def test_new_name_taken_by_a_damaged_file(self) -> None:
        """
        A damaged file under the new name is not overwritten; the peer is trusted.
        """
        self.put(f"root-{ADDRESS}.pub", key())
        damaged = self.folder / f"root-{key().md5}.pub"
        damaged.write_bytes(b"half")

        match = self.store.lookup("root", key(), ADDRESS)

        self.assertEqual(
            ("equal", (f"root-{ADDRESS}.pub",)), (match.state, match.names)
        )
        self.assertEqual(b"half", damaged.read_bytes())

    def test_read_only_folder(self) -> None:
        """
        A file that cannot be renamed is good all the same.
        """
        self.put(f"root-{ADDRESS}.pub", key())
        with mock.patch("os.link", side_effect=OSError(errno.EROFS, "read only")):
            match = self.store.lookup("root", key(), ADDRESS)
        self.assertEqual(
            ("equal", (f"root-{ADDRESS}.pub",)), (match.state, match.names)
        )


class FreshnessTests(StoreCase):
    """
    The folder is read anew when it has changed.
    """

    def test_a_file_copied_there(self) -> None:
        """
        A file put there by hand is good for the next connection, a removed one
        is not.
        """
        self.assertEqual("unknown", self.store.known(key()).state)
        path = self.put(f"root-{key().md5}.pub", key())
        self.assertEqual("equal", self.store.known(key()).state)
        path.unlink()
        self.assertEqual("unknown", self.store.known(key()).state)

    def test_a_file_overwritten(self) -> None:
        """
        Another content under the same name counts from then on.
        """
        path = self.put(f"root-{key().md5}.pub", key())
        self.assertEqual("equal", self.store.known(key()).state)
        path.write_bytes(key(1).to_pem() + b"\n")
        self.assertEqual("conflict", self.store.known(key()).state)

    def test_settled_folder_is_not_listed_again(self) -> None:
        """
        While nothing changes the folder is not listed and no file is opened.
        """
        self.store.add("root", key())
        self.store.known(key())
        with (
            mock.patch("os.listdir", side_effect=AssertionError("listed")),
            mock.patch("os.open", side_effect=AssertionError("opened")),
        ):
            self.assertEqual("equal", self.store.known(key()).state)
            self.assertEqual("equal", self.store.lookup("root", key(), "").state)


class CoarseClockTests(StoreCase):
    """
    A file system whose times do not change with a second change soon after.
    """

    ahead = 0.0

    def setUp(self) -> None:
        super().setUp()
        # Every state of the folder and of its files looks the same.
        frozen = (1, 2, 3, time.time_ns(), time.time_ns())
        for module in ("files", "store"):
            patcher = mock.patch(f"nodecomm.identity.{module}.state_of")
            patcher.start().return_value = frozen
            self.addCleanup(patcher.stop)

    def test_a_second_change_is_seen(self) -> None:
        """
        What changed less than two seconds ago is not trusted to have changed its
        times: names and contents are read again.
        """
        self.put(f"root-{key(0).md5}.pub", key(0))
        self.assertEqual("equal", self.store.known(key(0)).state)
        self.put(f"root-{key(1).md5}.pub", key(1))
        self.assertEqual("equal", self.store.known(key(1)).state)
        self.put(f"root-{key(0).md5}.pub", key(1))
        self.assertEqual("conflict", self.store.known(key(0)).state)

    def test_it_would_be_missed_otherwise(self) -> None:
        """
        The same is missed when the times are believed too early, so the test above
        can fail.
        """
        self.ahead = 10.0
        self.assertEqual("unknown", self.store.known(key(0)).state)
        self.put(f"root-{key(0).md5}.pub", key(0))
        self.assertEqual("unknown", self.store.known(key(0)).state)


class BadFileTests(StoreCase):
    """
    Files that are no keys.
    """

    def test_passed_over_with_a_reason(self) -> None:
        """
        Each bad file is passed over, its reason is shown, and the others count.
        """
        self.store.add("root", key())
        (self.folder / f"a-{key(1).md5}.pub").write_bytes(b"nonsense")
        (self.folder / f"b-{key(1).md5}.pub").write_bytes(b"")
        (self.folder / f"c-{key(1).md5}.pub").mkdir()
        os.mkfifo(self.folder / f"d-{key(1).md5}.pub")
        (self.folder / f"e-{key(1).md5}.pub").write_bytes(b"x" * 70_000)
        (self.folder / f"f-{key(1).md5}.pub").symlink_to(f"f-{key(1).md5}.pub")
        (self.folder / "root-somewhere.pub").write_bytes(key(1).to_pem())
        (self.folder / f".g-{key(1).md5}.pub").write_bytes(key(1).to_pem())
        (self.folder / f"h i-{key(1).md5}.pub").write_bytes(key(1).to_pem())
        raw = os.fsencode(self.folder) + b"/\xff-10.0.0.1.pub"
        Path(os.fsdecode(raw)).write_bytes(key(1).to_pem())
        (self.folder / "dangling-10.0.0.1.pub").symlink_to("nowhere")

        self.assertEqual("unknown", self.store.known(key(1)).state)
        self.assertEqual([key()], [entry.key for entry in self.store.entries()])
        reasons = {bad.name[:1]: bad.reason for bad in self.store.unusable()}
        self.assertEqual(set("abcdefrh") | {"\udcff"}, set(reasons))
        for first, word in (
            ("a", "PEM"),
            ("c", "ordinary"),
            ("d", "ordinary"),
            ("e", "larger"),
            ("r", "is not named"),
            ("h", "character"),
        ):
            self.assertIn(word, reasons[first])

    def test_forgery_in_the_folder(self) -> None:
        """
        A forged key that another program stored vouches for nobody, and makes the
        honest key with its digest a conflict, under any user name.
        """
        honest, forged = forgery.victim(), forgery.forgery()
        self.put(f"root-{forged.md5}.pub", forged)

        self.assertRaises(InsaneKey, self.store.known, forged)
        self.assertRaises(InsaneKey, self.store.lookup, "root", forged, ADDRESS)
        self.assertRaises(InsaneKey, self.store.add, "root", forged)
        self.assertEqual("conflict", self.store.known(honest).state)
        self.assertEqual("conflict", self.store.lookup("bob", honest, ADDRESS).state)
        self.assertRaises(KeyConflict, self.store.add, "bob", honest)
        self.assertEqual([], list(self.store.entries()))
        self.assertIn("exponent", self.store.unusable()[0].reason)

    def test_forgery_beside_the_honest_key(self) -> None:
        """
        With the honest key stored, its forgery is refused.
        """
        self.store.add("root", forgery.victim())

        self.assertRaises(InsaneKey, self.store.known, forgery.forgery())
        self.assertRaises(InsaneKey, self.store.add, "bob", forgery.forgery())
        self.assertEqual(1, len(os.listdir(self.folder)))

    def test_no_descriptors(self) -> None:
        """
        A failure that says nothing about the file goes to the caller.
        """
        self.store.add("root", key())
        failing = mock.patch("os.open", side_effect=OSError(errno.EMFILE, "many"))
        with failing, self.assertRaises(OSError) as caught:
            self.store.known(key())
        self.assertEqual(errno.EMFILE, caught.exception.errno)
        self.assertEqual("equal", self.store.known(key()).state)

    @settings(max_examples=50, deadline=None)
    @given(garbage=binary(max_size=500))
    def test_any_content(self, garbage: bytes) -> None:
        """
        No content of a file makes another key known, or raises.
        """
        (self.folder / f"root-{key().md5}.pub").write_bytes(garbage)
        self.assertEqual("unknown", self.make_store().known(key()).state)


class AddTests(StoreCase):
    """
    Saving a key.
    """

    def test_file(self) -> None:
        """
        The file has the community edition's name, holds PKCS#1, is the owner's
        only, and nothing else is left in the folder.
        """
        name = self.store.add("root", key())

        self.assertEqual(f"root-{key().md5}.pub", name)
        self.assertEqual([name], os.listdir(self.folder))
        path = self.folder / name
        self.assertEqual(key().to_pem(), path.read_bytes())
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))

    def test_twice(self) -> None:
        """
        Saving again changes nothing, even where the first one was not noticed.
        """
        name = self.store.add("root", key())
        before = (self.folder / name).stat().st_mtime_ns

        self.assertEqual(name, self.store.add("root", key()))
        with mock.patch.object(FileKeyStore, "_named_after", return_value=([], None)):
            self.assertEqual(name, self.make_store().add("root", key()))
        self.assertEqual(before, (self.folder / name).stat().st_mtime_ns)
        self.assertEqual([name], os.listdir(self.folder))

    def test_stored_under_the_other_digest(self) -> None:
        """
        A key that is there under its SHA name is not stored a second time.
        """
        self.put(f"root-{key().sha}.pub", key())

        self.assertEqual(f"root-{key().sha}.pub", self.store.add("root", key()))

    def test_never_overwrites(self) -> None:
        """
        Whatever stands under the name stays, and the key is refused loudly.
        """
        path = self.folder / f"root-{key().md5}.pub"
        for content in (b"", b"half a file", key(1).to_pem()):
            path.write_bytes(content)
            with self.subTest(content=content[:20]):
                with self.assertRaises(KeyConflict) as caught:
                    self.make_store().add("root", key())
                self.assertEqual(path.name, caught.exception.name)
                self.assertEqual(content, path.read_bytes())
                self.assertEqual([path.name], os.listdir(self.folder))

    def test_bad_user(self) -> None:
        """
        A name that is not acceptable never reaches the file system.
        """
        for user in ("../root", ".root", "a b", "x" * 65):
            self.assertRaises(UntrustedUser, self.store.add, user, key())
        self.assertEqual([], os.listdir(self.folder))

    def test_failure_leaves_nothing(self) -> None:
        """
        A full disk leaves no file behind.
        """
        full = OSError(errno.ENOSPC, "full")
        with mock.patch("os.fsync", side_effect=full):
            self.assertRaises(OSError, self.store.add, "root", key())
        self.assertEqual([], os.listdir(self.folder))

    def test_disk_first(self) -> None:
        """
        The name appears only when the content is on disk.
        """
        calls: list[str] = []
        real_fsync, real_link = os.fsync, os.link

        def fsync(descriptor: int) -> None:
            mode = os.fstat(descriptor).st_mode
            calls.append("folder" if stat.S_ISDIR(mode) else "file")
            real_fsync(descriptor)

        def link(source: str, target: str) -> None:
            calls.append("name")
            real_link(source, target)

        with mock.patch("os.fsync", fsync), mock.patch("os.link", link):
            self.store.add("root", key())
        self.assertEqual(["file", "name", "folder"], calls)

    def test_elsewhere(self) -> None:
        """
        What waits for the disk is called where the program wants it called.
        """
        waiting: list[Deferred[str]] = []

        def run(work: Callable[[], str]) -> Deferred[str]:
            deferred: Deferred[str] = Deferred()
            waiting.append(deferred)
            return deferred.addCallback(lambda _: work())

        store = FileKeyStore(self.folder, run=run)
        result = store.add("root", key())
        self.assertEqual([], os.listdir(self.folder))
        waiting[0].callback("")

        self.assertEqual(f"root-{key().md5}.pub", self.successResultOf(result))
        self.assertEqual("equal", store.known(key()).state)


class RemoveTests(StoreCase):
    """
    Taking trust back.
    """

    def setUp(self) -> None:
        super().setUp()
        self.md5 = self.store.add("root", key())
        self.sha = f"bob-{key().sha}.pub"
        self.put(self.sha, key())
        self.old = f"root-{ADDRESS}.pub"
        self.put(self.old, key())
        self.other = self.store.add("root", key(1))
        self.put("localhost.pub", key())

    def test_by_name(self) -> None:
        """
        One entry goes by its name, with or without the ending.
        """
        self.assertEqual([self.md5], list(self.store.remove(self.md5)))
        self.assertEqual([self.sha], list(self.store.remove(self.sha[:-4])))
        self.assertEqual([], list(self.store.remove(self.sha)))

    def test_by_digest(self) -> None:
        """
        A digest stands for every entry of its key, whatever they are called.
        """
        for digest in key().digests:
            self.setUp()
            removed = sorted([self.md5, self.sha, self.old])
            self.assertEqual(removed, list(self.store.remove(digest)))
            self.assertEqual("unknown", self.store.known(key()).state)
            left = sorted([self.other, "localhost.pub"])
            self.assertEqual(left, sorted(os.listdir(self.folder)))

    def test_what_is_not_an_entry(self) -> None:
        """
        The own key, other folders and unknown names are not touched.
        """
        before = sorted(os.listdir(self.folder))
        for name in ("localhost.pub", "localhost", "", "../ppkeys", "/etc/passwd", "x"):
            self.assertEqual([], list(self.store.remove(name)))
        self.assertEqual(before, sorted(os.listdir(self.folder)))

    def test_a_damaged_file(self) -> None:
        """
        A file that is of no use can be removed by its name or the digest in it.
        """
        path = self.folder / f"root-{key(2).md5}.pub"
        path.write_bytes(b"half")
        self.assertEqual([path.name], list(self.store.remove(key(2).md5)))
        path.write_bytes(b"half")
        self.assertEqual([path.name], list(self.store.remove(path.name)))


class ForgetTests(StoreCase):
    """
    A key that a decision has taken: all that is stored of it goes.
    """

    def test_every_entry(self) -> None:
        """
        Whatever they are called and whoever they are for; another key under its name
        stays, and so do other keys and the own one.
        """
        md5, sha = f"root-{key().md5}.pub", f"bob-{key().sha}.pub"
        old = f"root-{ADDRESS}.pub"
        for name in (md5, sha, old, "localhost.pub"):
            self.put(name, key())
        wrong = f"alice-{key().md5}.pub"
        self.put(wrong, key(1))
        other = self.store.add("root", key(1))

        removed = self.store.forget(key())

        self.assertEqual(sorted([md5, sha, old]), sorted(removed))
        left = sorted([wrong, other, "localhost.pub"])
        self.assertEqual(left, sorted(os.listdir(self.folder)))
        self.assertEqual([], self.store.forget(key()))

    def test_what_came_later(self) -> None:
        """
        With a time, what was put there afterwards stays, whatever time of its content
        it was given.
        """
        path = self.put(f"root-{key().md5}.pub", key())
        os.utime(path, (1, 1))
        came = path.stat().st_ctime
        self.assertEqual([], self.store.forget(key(), until=came - 1))
        self.assertEqual([path.name], self.store.forget(key(), until=came + 1))

    def test_somewhere_else(self) -> None:
        """
        What waits for the disk is called as the store was told.
        """
        waiting: list[Any] = []
        store = FileKeyStore(self.folder, run=waiting.append)
        self.put(f"root-{key().md5}.pub", key())
        store.forget(key())
        self.assertEqual("equal", store.known(key()).state)
        (work,) = waiting
        self.assertEqual([f"root-{key().md5}.pub"], work())
        self.assertEqual("unknown", store.known(key()).state)


class EntriesTests(StoreCase):
    """
    The list of what is stored.
    """

    def test_in_name_order(self) -> None:
        """
        Every usable entry is listed once, with what it stands for.
        """
        for user, number in (("root", 1), ("bob", 0), ("root", 0)):
            self.store.add(user, key(number))

        entries = self.store.entries()

        self.assertEqual(sorted(os.listdir(self.folder)), [x.name for x in entries])
        first = entries[0]
        self.assertEqual("bob", first.user)
        self.assertEqual(key(0), first.key)
        self.assertEqual(key(0).md5, first.digest)
        self.assertEqual(str(self.folder / first.name), first.path)
