# SPDX-License-Identifier: MIT
"""
Expressions of classes: `linux.debian_12`, `web|db`, `!(test|staging)`.
"""

from __future__ import annotations

import re
from collections.abc import Container

__all__ = ["DEEPEST", "holds"]

#: How deep parentheses may be nested.
DEEPEST = 20

_TOKEN = re.compile(rb"([A-Za-z0-9_:]+)|(\|\|?|[.&!()])")

#: What stands before the name of a class that is in no other namespace.
_OWN = b"default:"


class _NoExpressionError(Exception):
    """
    It has another form.
    """


class _Evaluation:
    """
    One expression while it is read.
    """

    __slots__ = ("_at", "_classes", "_deep", "_expression", "_name", "_sign")

    def __init__(self, expression: bytes, classes: Container[bytes]) -> None:
        self._expression = expression
        self._classes = classes
        self._at = 0
        self._deep = 0
        self._next()

    def whole(self) -> bool:
        """
        What all of it says.
        """
        found = self._either()
        if self._name is not None or self._sign:
            raise _NoExpressionError
        return found

    def _next(self) -> None:
        """
        Read the next name or sign; at the end there is neither.
        """
        self._name: bytes | None = None
        self._sign = b""
        if self._at == len(self._expression):
            return
        found = _TOKEN.match(self._expression, self._at)
        if found is None:
            raise _NoExpressionError
        self._at = found.end()
        self._name = found[1]
        self._sign = found[2] or b""

    def _either(self) -> bool:
        found = self._both()
        while self._sign in (b"|", b"||"):
            self._next()
            # Not left out when it decides nothing: it must be read.
            found = self._both() or found
        return found

    def _both(self) -> bool:
        found = self._one()
        while self._sign in (b".", b"&"):
            self._next()
            found = self._one() and found
        return found

    def _one(self) -> bool:
        negated = self._sign == b"!"
        if negated:
            self._next()
        if self._name is not None:
            found = self._name.removeprefix(_OWN) in self._classes
            self._next()
            return found is not negated
        if self._sign != b"(" or self._deep == DEEPEST:
            raise _NoExpressionError
        self._deep += 1
        self._next()
        found = self._either()
        if self._sign != b")":
            raise _NoExpressionError
        self._deep -= 1
        self._next()
        return found is not negated


def holds(expression: bytes, classes: Container[bytes]) -> bool | None:
    """
    Whether a node with *classes* is one that *expression* means; None when it is no
    expression of classes.

    `!` binds strongest, then `.` or `&` (and), then `|` or `||` (or). Takes time in
    proportion to the length.

    Source: CFEngine 3.21, observed with what follows an EXEC. It looks no further when
    something follows a whole expression; here that is none.
    """
    try:
        return _Evaluation(expression, classes).whole()
    except _NoExpressionError:
        return None
