# SPDX-License-Identifier: MIT
"""
Tests leave nothing in the source folder.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase


class FolderTests(SynchronousTestCase):
    """
    `mktemp` of trial.
    """

    def test_folders_are_temporary(self) -> None:
        """
        Each name is new, absolute, not there yet, and outside the source folder.
        """
        first, second = Path(self.mktemp()), Path(self.mktemp())

        self.assertNotEqual(first, second)
        for path in (first, second):
            self.assertTrue(path.is_absolute())
            self.assertFalse(path.exists())
            self.assertTrue(path.parent.is_dir())
            self.assertNotIn(Path(__file__).parents[1], path.parents)
