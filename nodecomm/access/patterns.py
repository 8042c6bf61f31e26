# SPDX-License-Identifier: MIT
"""
Regular expressions in rules. One engine with linear time decides on every
installation; what it cannot do exactly is refused when the rule is read.
"""

from __future__ import annotations

from typing import Any

import re2  # type: ignore[import-untyped,unused-ignore]

__all__ = [
    "MOST_STEPS",
    "REGEX_CHARACTERS",
    "Pattern",
    "UnsupportedPatternError",
    "has_regex",
]

#: The characters that make an entry a regular expression. A dot alone does not:
#: every address and host name has dots.
REGEX_CHARACTERS = frozenset("\\^$*+?()[]{}|")

#: Steps that an expression of a peer may consist of, once it is compiled. Expressions
#: that people write have less than 50; a short text can mean thousands, and each of
#: them costs time in each comparison.
MOST_STEPS = 400

#: Bytes for compiling such an expression; with more, some take 100 ms.
_BOUNDED_MEMORY = 128 * 1024

#: How a construct is called whose beginning the engine complains about.
_CONSTRUCTS = (
    ("(?=", "lookahead"),
    ("(?!", "lookahead"),
    ("(?<=", "lookbehind"),
    ("(?<!", "lookbehind"),
    ("(?>", "an atomic group"),
    ("(?(", "a conditional group"),
    ("(?|", "a branch reset group"),
    ("(?&", "a subroutine call"),
    ("(?R", "recursion"),
    ("(?P=", "a backreference"),
    ("\\g", "a backreference"),
    ("\\k", "a backreference"),
    ("++", "a possessive quantifier"),
    ("*+", "a possessive quantifier"),
    ("?+", "a possessive quantifier"),
    ("}+", "a possessive quantifier"),
)


class UnsupportedPatternError(ValueError):
    """
    The expression is malformed, or uses what linear-time matching cannot do. Write it
    without that construct, or list the alternatives as entries of their own.
    """


def has_regex(text: str) -> bool:
    """
    Whether *text* holds a character that only a regular expression would.
    """
    return not REGEX_CHARACTERS.isdisjoint(text)


def _name_construct(text: str, complaint: str) -> str:
    """
    What in *text* the engine complained about, in the words of a manual.
    """
    for i in range(1, 10):
        if f"\\{i}" in text and "escape" in complaint:
            return "a backreference"
    for begin, name in _CONSTRUCTS:
        if begin in text:
            return name
    return ""


class Pattern:
    """
    An expression that must match the whole text.

    Args:
        text: The expression.
        fold: Whether upper and lower case are the same.
        bounded: Whether it comes from a peer, and must not cost much.

    Raises:
        UnsupportedPatternError: It cannot be evaluated exactly.
    """

    __slots__ = ("_test", "text")

    def __init__(self, text: str, *, fold: bool = False, bounded: bool = False) -> None:
        options = re2.Options()
        # The engine would write to stderr by itself.
        options.log_errors = False
        # Bytes in, bytes compared: names are not always text.
        options.encoding = re2.Options.Encoding.LATIN1
        options.never_nl = False
        # Source: CFEngine 3.21 compiles with PCRE_DOTALL.
        options.dot_nl = True
        options.case_sensitive = not fold
        options.never_capture = True
        if bounded:
            options.max_mem = _BOUNDED_MEMORY
        try:
            compiled: Any = re2.compile(
                text.encode("utf-8", "surrogateescape"), options
            )
        except re2.error as error:
            said = error.args[0] if error.args else ""
            said = said.decode("latin-1") if isinstance(said, bytes) else str(said)
            construct = _name_construct(text, said)
            message = f"{construct} is not supported" if construct else said
            raise UnsupportedPatternError(message) from None
        if bounded and compiled.programsize > MOST_STEPS:
            raise UnsupportedPatternError("too large")
        self.text = text
        self._test = compiled.fullmatch

    def matches(self, subject: bytes) -> bool:
        """
        Whether the expression matches all of *subject*.
        """
        return self._test(subject) is not None
