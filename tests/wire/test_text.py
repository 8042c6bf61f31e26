# SPDX-License-Identifier: MIT
"""
Bytes of the wire as text, and back.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis.strategies import binary, characters, text
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire.errors import (
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
)
from nodecomm.wire.text import from_text, safe, to_text

#: Bytes, and the one text that stands for them.
FORMS = [
    (b"", ""),
    (b"/var/cfengine/masterfiles", "/var/cfengine/masterfiles"),
    (b"with space ", "with space "),
    ("größe".encode(), "größe"),
    (b"latin-1 \xe4", "latin-1 \\xe4"),
    (b"back\\slash", "back\\\\slash"),
    (b"\\x41", "\\\\x41"),
    (b"a\nb\tc\0", "a\\x0ab\\x09c\\x00"),
    (b"\x7f", "\\x7f"),
    (b"\x1b[31m", "\\x1b[31m"),
    # U+0085 is a control of the C1 range: its two bytes are escaped.
    (b"\xc2\x85", "\\xc2\\x85"),
    # U+D800 in UTF-8 is no UTF-8.
    (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
    (b"\xf0\x9f\x90\xa7", "\U0001f427"),
]

#: Texts that stand for no bytes, and a word of what is said about it.
NOT_FORMS = [
    ("\\", "single backslash"),
    ("a\\\\\\", "single backslash"),
    ("\\n", "no escape"),
    ("\\x", "no escape"),
    ("\\x4", "no escape"),
    ("\\xg0", "no escape"),
    ("\\x+1", "no escape"),
    ("\ud800", "surrogate"),
]

#: Texts as they come, and as they may be printed.
SAFE = [
    ("plain größe", "plain größe"),
    ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
    ("two\nlines\r", "two\\x0alines\\x0d"),
    # Right-to-left override: `txt.exe` would show as `exe.txt`.
    ("a\u202etxt.exe", "a\\xe2\\x80\\xaetxt.exe"),
    ("zero\u200bwidth", "zero\\xe2\\x80\\x8bwidth"),
    ("line\u2028separator", "line\\xe2\\x80\\xa8separator"),
    ("\udcff", "\\xff"),
    ("\ud800", "\\xed\\xa0\\x80"),
    ("\U000e0001", "\\xf3\\xa0\\x80\\x81"),
]


class TextTests(SynchronousTestCase):
    """
    `to_text` and `from_text`.
    """

    def test_forms(self) -> None:
        """
        Each string of bytes has one text, which stands for these bytes.
        """
        for raw, shown in FORMS:
            self.assertEqual(shown, to_text(raw))
            self.assertEqual(raw, from_text(shown))

    def test_escapes_may_be_written_by_hand(self) -> None:
        """
        Digits in either case, and escapes where none is needed, are understood.
        """
        self.assertEqual(b"A\xff\xffz\\", from_text("\\x41\\xFF\\xffz\\\\"))

    def test_no_form(self) -> None:
        """
        A text that stands for no bytes is refused with a reason.
        """
        for shown, word in NOT_FORMS:
            error = self.assertRaises(ValueError, from_text, shown)
            self.assertIn(word, str(error))
            self.assertEqual(safe(str(error)), str(error))

    @given(binary())
    @settings(max_examples=100)
    def test_reversible(self, raw: bytes) -> None:
        """
        Any bytes come back, also when the text was made safe for a terminal.
        """
        shown = to_text(raw)

        self.assertEqual(raw, from_text(shown))
        self.assertEqual(raw, from_text(safe(shown)))

    @given(binary())
    @settings(max_examples=100)
    def test_no_controls(self, raw: bytes) -> None:
        """
        The text holds no C0 or C1 control and no surrogate.
        """
        for char in to_text(raw):
            code = ord(char)
            self.assertFalse(code < 0x20 or 0x7F <= code < 0xA0, hex(code))
            self.assertFalse(0xD800 <= code < 0xE000, hex(code))


class SafeTests(SynchronousTestCase):
    """
    `safe`.
    """

    def test_table(self) -> None:
        """
        What would move, hide or colour text on a terminal is escaped.
        """
        for given_text, shown in SAFE:
            self.assertEqual(shown, safe(given_text))

    @given(text(characters()))
    @settings(max_examples=100)
    def test_any_text(self, given_text: str) -> None:
        """
        Any text becomes printable, and stays what it is the second time.
        """
        shown = safe(given_text)

        self.assertTrue(shown.isprintable())
        self.assertEqual(shown, safe(shown))


class ErrorTests(SynchronousTestCase):
    """
    The messages of protocol errors.
    """

    def test_message(self) -> None:
        """
        The message names the field, the value and the limit, as far as known.
        """
        for error, shown in [
            (ProtocolError("frame"), "frame"),
            (
                RemoteProtocolError("payload length", 4089, "1 to 4088"),
                "payload length 4089: 1 to 4088",
            ),
            (LocalProtocolError("path", b"a\nb"), "path 'a\\x0ab'"),
            (LocalProtocolError("state", "done", "no more"), "state 'done': no more"),
        ]:
            self.assertEqual(shown, str(error))

    def test_long_value_is_cut(self) -> None:
        """
        The message shows the beginning of a long value; the attribute has it all.
        """
        error = RemoteProtocolError("line", b"\xff" * 4000, "at most 1023 bytes")

        self.assertEqual(b"\xff" * 4000, error.value)
        self.assertEqual(
            "line '" + "\\xff" * 80 + "'...: at most 1023 bytes", str(error)
        )

    def test_one_family(self) -> None:
        """
        Both kinds are caught as `ProtocolError`, neither as the other.
        """
        self.assertTrue(issubclass(LocalProtocolError, ProtocolError))
        self.assertTrue(issubclass(RemoteProtocolError, ProtocolError))
        self.assertFalse(issubclass(RemoteProtocolError, LocalProtocolError))
        self.assertFalse(issubclass(LocalProtocolError, RemoteProtocolError))
