# SPDX-License-Identifier: MIT
"""
Requests of which one may be what a connection ended at.
"""

from __future__ import annotations

from itertools import chain

from nodecomm.sync.doubting import Doubted


class _Sent:
    """What has left, in groups."""

    def __init__(self) -> None:
        self.groups: list[list[bytes]] = [[]]
        self.doubted = Doubted(self.send)

    def send(self, name: bytes, *, alone: bool) -> None:
        """One more; the last of a group is alone."""
        self.groups[-1].append(name)
        if alone:
            self.groups.append([])

    def answer(self) -> None:
        """The last group is answered."""
        for name in self.groups[-2]:
            self.doubted.answered(name)


def test_groups_grow() -> None:
    """First one, then twice as many each time, until none waits."""
    sent = _Sent()
    for number in range(20):
        sent.doubted.add(b"%d" % number)
    while sent.doubted:
        sent.answer()

    assert list(map(len, sent.groups)) == [1, 2, 4, 8, 5, 0]
    assert [*chain(*sent.groups)] == [b"%d" % number for number in range(20)]


def test_one_after_the_other() -> None:
    """However many come, each when the one before was answered, all of them leave."""
    sent = _Sent()
    for number in range(500):
        sent.doubted.add(b"%d" % number)
        sent.answer()

    assert list(map(len, sent.groups)) == [*500 * [1], 0]


def test_what_came_meanwhile() -> None:
    """Groups grow with those that have left, and not while nothing is asked."""
    sent = _Sent()
    sent.doubted.add(b"first")
    sent.answer()
    sent.doubted.answered(b"never asked for")
    for number in range(7):
        sent.doubted.add(b"%d" % number)
    sent.answer()

    assert list(map(len, sent.groups)) == [1, 1, 4, 0]
