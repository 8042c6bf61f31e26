# SPDX-License-Identifier: MIT
"""
Digests named beforehand.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.identity.pins import PinnedDigests
from tests.identity.sample import key, temporary_folder


class PinTests(SynchronousTestCase):
    """
    The file of digests.
    """

    def setUp(self) -> None:
        self.path = temporary_folder(self) / "state" / "trusted-digests"
        self.pins = self.make_pins()

    def make_pins(self) -> PinnedDigests:
        return PinnedDigests(self.path, now=lambda: time.time() + 10)

    def test_nothing_named(self) -> None:
        """
        Without the file nobody is named.
        """
        self.assertFalse(self.pins.contains(key()))
        self.assertEqual([], self.pins.digests())
        self.assertFalse(self.pins.remove(key().md5))

    def test_add_and_remove(self) -> None:
        """
        Either digest names the key until it is taken back; twice is once.
        """
        for number, digest in enumerate((key(0).md5, key(1).sha.upper())):
            self.assertTrue(self.pins.add(digest))
            self.assertFalse(self.pins.add(digest))
            self.assertTrue(self.pins.contains(key(number)))
        self.assertEqual([key(0).md5, key(1).sha], self.pins.digests())
        self.assertTrue(self.pins.remove(key(0).md5))
        self.assertFalse(self.pins.contains(key(0)))
        self.assertTrue(self.make_pins().contains(key(1)))
        self.assertEqual(0o600, stat.S_IMODE(os.stat(self.path).st_mode))

    def test_edited_by_hand(self) -> None:
        """
        Remarks and empty lines are kept, other text is reported and passed over, a
        change counts at once.
        """
        self.pins.add(key(0).md5)
        text = f"# ours\n\n  {key(1).md5.upper()}  # node 1\nroot\n\xff\n"
        self.path.write_bytes(text.encode("latin-1"))

        self.assertEqual([key(1).md5], self.pins.digests())
        self.assertEqual([(4, "root"), (5, "\\xff")], self.pins.bad_lines())
        self.pins.add(key(2).md5)
        self.assertIn("# ours\n", self.path.read_text())
        self.assertEqual(sorted([key(1).md5, key(2).md5]), self.pins.digests())
        self.assertTrue(self.pins.remove(key(1).md5))
        self.assertFalse(self.pins.contains(key(1)))

    def test_no_digest(self) -> None:
        """
        What is no digest is refused and not written.
        """
        for text in ("root", "", key().md5[:-1], key().md5 + "\n" + key(1).md5):
            self.assertRaises(ValueError, self.pins.add, text)
        self.assertFalse(self.path.exists())

    def test_many_writers(self) -> None:
        """
        Programs that add digests at the same time lose none.
        """
        code = (
            "import sys; from nodecomm.identity.pins import PinnedDigests\n"
            "pins = PinnedDigests(sys.argv[1]); first = int(sys.argv[2])\n"
            "for n in range(first, first + 15): pins.add(f'MD5={n:032x}')\n"
        )
        self.path.parent.mkdir()
        writers = [
            subprocess.Popen([sys.executable, "-c", code, str(self.path), str(first)])
            for first in (0, 100, 200)
        ]
        self.assertEqual([0, 0, 0], [writer.wait() for writer in writers])

        self.assertEqual(45, len(self.make_pins().digests()))
