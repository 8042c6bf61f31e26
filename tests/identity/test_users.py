# SPDX-License-Identifier: MIT
"""
Claimed user names.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis.strategies import binary, text
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.identity.users import UntrustedUser, check_user, valid_user

GOOD = [
    b"root",
    b"",
    b"a",
    b"first.last",
    b"with-dash",
    b"_apt",
    b"x" * 64,
    b"SYSTEM",
    b"a@b",
    b"\xc3\xbcser",
    b"root-MD5=00112233445566778899aabbccddeeff",
]

BAD = [
    (b"a/b", "character"),
    (b"/", "character"),
    (b"a\\b", "character"),
    (b"..", "begins"),
    (b".profile", "begins"),
    (b"-rf", "begins"),
    (b"a b", "character"),
    (b" root", "character"),
    (b"root\n", "character"),
    (b"a\tb", "character"),
    (b"a\0b", "character"),
    (b"a\x7f", "character"),
    ("a\u00a0b".encode(), "character"),
    ("a\u0085b".encode(), "character"),
    ("a\u202eb".encode(), "character"),
    ("a\u200bb".encode(), "character"),
    (b"x" * 65, "65 bytes"),
    ("\u00fc".encode() * 33, "66 bytes"),
    (b"\xff", "UTF-8"),
    (b"\xed\xa0\x80", "UTF-8"),
]


class UserTests(SynchronousTestCase):
    """
    Names that may become part of a file name.
    """

    def test_good_names(self) -> None:
        """
        A name in use anywhere is accepted as it is.
        """
        for raw in GOOD:
            with self.subTest(raw=raw):
                self.assertEqual(raw, valid_user(raw).encode())
                self.assertEqual(raw.decode(), check_user(raw.decode()))

    def test_bad_names(self) -> None:
        """
        A name that could leave the folder or deceive a reader is refused.
        """
        for raw, why in BAD:
            with self.subTest(raw=raw):
                with self.assertRaises(UntrustedUser) as caught:
                    valid_user(raw)
                self.assertIn(why, caught.exception.reason)
                self.assertTrue(str(caught.exception).isprintable())
                self.assertTrue(str(caught.exception).isascii())

    def test_text_that_is_no_utf8(self) -> None:
        """
        A lone surrogate, as in the name of a file that is not UTF-8, is refused.
        """
        self.assertRaises(UntrustedUser, check_user, "a\udcff")

    @settings(max_examples=100, deadline=None)
    @given(raw=binary(max_size=80))
    def test_any_bytes(self, raw: bytes) -> None:
        """
        Any bytes give a name that stays within a folder, or the one error.
        """
        try:
            name = valid_user(raw)
        except UntrustedUser:
            return
        self.assertEqual(raw, name.encode())
        self.assertFalse({"/", "\\", "\0", "\n", " "} & set(name))
        self.assertNotIn(name[:1], [".", "-"])

    @settings(max_examples=100, deadline=None)
    @given(name=text(max_size=70))
    def test_bytes_and_text_agree(self, name: str) -> None:
        """
        The same name is judged alike as text and as bytes.
        """
        outcomes = []
        for judge in (lambda: check_user(name), lambda: valid_user(name.encode())):
            try:
                outcomes.append(judge())
            except (UntrustedUser, UnicodeEncodeError):
                outcomes.append("refused")
        self.assertEqual(outcomes[0], outcomes[1])
