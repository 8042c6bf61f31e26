# SPDX-License-Identifier: MIT
"""
Numbers that the real agent cannot misread.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.server.inodes import InodeNumbers

#: The agent's field is wider, but this is what is promised.
LARGEST = 999_999_999

numbers = st.one_of(st.integers(0, 1000), st.integers(0, 2**64 - 1))
objects = st.lists(st.tuples(numbers, numbers), max_size=60)


class InodeNumberTests(SynchronousTestCase):
    """
    One number for each device and inode.
    """

    @settings(max_examples=100, deadline=None)
    @given(numbers, numbers)
    def test_at_most_nine_digits(self, dev: int, ino: int) -> None:
        """Whatever the system's own numbers are, and never nought."""
        given_out = InodeNumbers()

        for number in (given_out.plain(dev, ino), given_out.unique(dev, ino)):
            self.assertTrue(0 < number <= LARGEST, number)

    @settings(max_examples=100, deadline=None)
    @given(objects, objects)
    def test_nothing_shares_a_unique_number(
        self, unique: list[tuple[int, int]], plain: list[tuple[int, int]]
    ) -> None:
        """Folders and files of several links are apart from each other, whatever
        their devices, and from all plain files."""
        given_out = InodeNumbers()

        found = {key: given_out.unique(*key) for key in unique}

        self.assertEqual(len(found), len(set(found.values())))
        self.assertFalse(set(found.values()) & {given_out.plain(*key) for key in plain})

    @settings(max_examples=50, deadline=None)
    @given(objects)
    def test_stable(self, asked: list[tuple[int, int]]) -> None:
        """The same object has the same number every time."""
        given_out = InodeNumbers()
        first = [given_out.unique(*key) for key in asked]
        other = InodeNumbers()

        self.assertEqual(first, [given_out.unique(*key) for key in asked])
        # Another process that is asked in the same order agrees, too.
        self.assertEqual(first, [other.unique(*key) for key in asked])
        self.assertEqual(
            [given_out.plain(*key) for key in asked],
            [other.plain(*key) for key in asked],
        )

    def test_numbers_that_would_collide(self) -> None:
        """With 60,000 objects some hashes are equal; the numbers are not."""
        given_out = InodeNumbers()

        found = {given_out.unique(1, ino) for ino in range(60_000)}

        self.assertEqual(60_000, len(found))

    def test_neighbours_on_one_device_stay_apart(self) -> None:
        """Small inode numbers give different numbers without being remembered."""
        given_out = InodeNumbers()

        found = {given_out.plain(64_768, ino) for ino in range(10_000)}

        self.assertEqual(10_000, len(found))
        self.assertEqual(0, len(given_out._numbers))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(0, 30), max_size=200))
    def test_bounded(self, asked: list[int]) -> None:
        """What was asked for longest ago is forgotten first, and its number freed;
        what is remembered stays apart and keeps its number."""
        given_out = InodeNumbers(remembered=8)
        last: dict[int, int] = {}
        order: list[int] = []

        for ino in asked:
            number = given_out.unique(1, ino)
            if ino in order[-8:]:
                self.assertEqual(last[ino], number)
            if ino in order:
                order.remove(ino)
            order.append(ino)
            last[ino] = number
            kept = [last[known] for known in order[-8:]]
            self.assertEqual(len(kept), len(set(kept)))

        self.assertLessEqual(len(given_out._numbers), 8)
        self.assertEqual(len(given_out._numbers), len(given_out._taken))
