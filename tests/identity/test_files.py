# SPDX-License-Identifier: MIT
"""
What a program that was killed leaves behind.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.identity.files import remove_leftovers, write_new


class LeftoverTests(SynchronousTestCase):
    """
    `remove_leftovers`.
    """

    def test_old_temporary_files_go(self) -> None:
        """Those of a killed program go, one that is being written and keys stay."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        for name in (".new-old.tmp", ".new-young.tmp", "root-x.pub", ".new-other"):
            (folder / name).write_bytes(b"x")
        now = (folder / ".new-young.tmp").stat().st_mtime
        os.utime(folder / ".new-old.tmp", (now - 7200, now - 7200))
        os.utime(folder / "root-x.pub", (now - 7200, now - 7200))

        self.assertEqual(1, remove_leftovers(str(folder), now))

        self.assertEqual(
            [".new-other", ".new-young.tmp", "root-x.pub"], sorted(os.listdir(folder))
        )

    def test_nothing_is_left_by_a_write(self) -> None:
        """A file that was written whole leaves no temporary one."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        write_new(str(folder), "key", b"content")

        self.assertEqual(["key"], os.listdir(folder))

    def test_a_folder_that_is_missing(self) -> None:
        """There is nothing to remove."""
        self.assertEqual(0, remove_leftovers("/nonexistent/folder", 0.0))
