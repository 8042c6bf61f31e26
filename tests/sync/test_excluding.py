# SPDX-License-Identifier: MIT
from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.sync.excluding import Exclusion

#: Glob, name, whether it is a folder, whether it is left alone.
CASES = [
    (b"*.swp", b"a.swp", False, True),
    (b"*.swp", b"deep/er/a.swp", False, True),
    (b"*.swp", b"a.swp/b", False, False),
    (b"*", b"anything", False, True),
    (b"a?c", b"x/abc", False, True),
    (b"[ab]", b"x/c", False, False),
    (b"x/*.cf", b"x/a.cf", False, True),
    (b"x/*.cf", b"x/y/a.cf", False, False),
    (b"x/*.cf", b"z/x/a.cf", False, False),
    (b"/top", b"top", False, True),
    (b"/top", b"x/top", False, False),
    (b"x/**/a", b"x/a", False, True),
    (b"x/**/a", b"x/1/2/3/a", False, True),
    (b"x/**/a", b"x/1/2/3/b", False, False),
    (b"x/**/y/**/a", b"x/y/1/y/2/a", False, True),
    (b"**/a/b", b"1/a/a/b", False, True),
    (b"x/**", b"x/1/2", False, True),
    (b"x/**", b"x", True, False),
    (b"**", b"x", False, True),
    (b"git/", b"git", True, True),
    (b"git/", b"git", False, False),
    (b"git/", b"x/git", True, True),
    (b"x/git/", b"x/git", True, True),
    (b"x/git/", b"y/x/git", True, False),
    (b"\xff*", b"\xffname", False, True),
    (b"a\nb", b"a\nb", False, True),
    (b"a", b"a\n", False, False),
]


class ExclusionTests(SynchronousTestCase):
    """
    Which names globs stand for.
    """

    def test_globs_match_what_they_say(self) -> None:
        """
        Last parts, whole names and folders are told apart as documented.
        """
        for glob, name, folder, expected in CASES:
            with self.subTest(glob=glob, name=name):
                self.assertEqual(Exclusion((glob,))(name, folder), expected)

    def test_no_globs_exclude_nothing(self) -> None:
        """
        Without globs every name is copied.
        """
        self.assertFalse(Exclusion()(b"a", True))

    @settings(max_examples=50, deadline=None)
    @given(st.binary(min_size=1).filter(lambda part: part.strip(b"/") != b""))
    def test_garbage_is_a_glob_too(self, glob: bytes) -> None:
        """
        Whatever bytes a person writes compile, and can be asked about any name.
        """
        self.assertIn(Exclusion((glob,))(b"a/b", False), (True, False))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=6))
    def test_two_stars_find_every_match(self, words: list[bytes]) -> None:
        """
        `**/a/**/b` matches exactly the names that end in b and have an a before.
        """
        expected = words[-1] == b"b" and b"a" in words[:-1]
        self.assertEqual(Exclusion((b"**/a/**/b",))(b"/".join(words), False), expected)

    def test_a_long_name_takes_no_long_time(self) -> None:
        """
        A glob of many stars against a name made to fit almost is answered.
        """
        self.assertFalse(Exclusion((b"*a" * 30 + b"b",))(b"a" * 255, False))
