# SPDX-License-Identifier: MIT
"""
Expressions of classes mean here what they mean to cf-serverd.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.server.execution.classes import selects
from nodecomm.server.execution.expressions import DEEPEST, holds

#: Those of the node of the tables.
CLASSES = frozenset({b"any", b"linux", b"64_bit", b"a", b"b"})

#: What cf-serverd says to the same, with `any` and others that are no name here.
OBSERVED: list[tuple[bytes, bool | None]] = [
    (b"any", True),
    (b"never", False),
    (b"!any", False),
    (b"!never", True),
    (b"any.linux", True),
    (b"any&linux", True),
    (b"any.never", False),
    (b"any|never", True),
    (b"never|any", True),
    (b"any||never", True),
    (b"any|never.never", True),
    (b"never.never|any", True),
    (b"!any|any", True),
    (b"!(any)", False),
    (b"!(never|not)", True),
    (b"any.(never|any)", True),
    (b"(any)", True),
    (b"(any|never)", True),
    (b"!never.any", True),
    (b"!any.any", False),
    (b"any.9", False),
    (b"64_bit", True),
    (b"default:any", True),
    (b"ANY|any", True),
    (b"any&&any", None),
    (b"!!any", None),
    (b"any.", None),
    (b".any", None),
    (b"|any", None),
    (b"()", None),
    (b"(any", None),
    (b"any..any", None),
    (b"any.&any", None),
    (b"an*", None),
    (b"-any", None),
    (b"any.\xe9", None),
    (b" ", None),
    (b"", None),
    # Where it forgives what follows.
    (b"any)", None),
    (b"any!", None),
    (b"any;never", None),
    (b"(any)any", None),
    (b"any|||never", None),
]


@pytest.mark.parametrize(("expression", "expected"), OBSERVED)
def test_observed(expression: bytes, expected: bool | None) -> None:
    """
    And, or, not and parentheses, as cf-serverd reads them; anything else is none.
    """
    assert holds(expression, CLASSES) is expected


def test_parentheses_are_bounded() -> None:
    """
    Deep nesting is no expression, however deep it is.
    """
    for deep, expected in ((DEEPEST, True), (DEEPEST + 1, None), (100_000, None)):
        assert holds(b"(" * deep + b"any" + b")" * deep, CLASSES) is expected


def test_many_at_one_depth() -> None:
    """
    Only nesting is bounded.
    """
    assert holds(b"|".join([b"(never)"] * 1000 + [b"(any)"]), CLASSES) is True


_names = st.sampled_from(["any", "linux", "never", "a", "b", "c"])
_texts = st.recursive(
    _names,
    lambda inner: st.one_of(
        inner.map(lambda one: f"(not ({one}))"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} and {two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} or {two[1]})"),
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(_texts)
def test_same_as_python(text: str) -> None:
    """
    What Python makes of the same words.
    """
    mine = text.replace("not (", "!(").replace(" and ", ".").replace(" or ", "|")
    known = {name: name.encode() in CLASSES for name in ("never", "c")}
    values = {name.decode(): True for name in CLASSES} | known

    found = holds(mine.encode(), CLASSES)

    assert found is eval(text, {"__builtins__": {}}, values)


@settings(max_examples=100)
@given(st.binary(max_size=80) | st.text("ab|&.!()", max_size=80).map(str.encode))
def test_garbage(expression: bytes) -> None:
    """
    Whatever a peer sends is an expression or none.
    """
    assert holds(expression, CLASSES) in (True, False, None)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([b"any.linux"], True),
        ([b"!never"], True),
        ([b"!any", b"never.any"], False),
        # No expression, or one that is false, may still be a pattern of a class.
        ([b"lin.x"], True),
        ([b"l.*|never"], True),
        ([b"any.never", b"never|b"], True),
    ],
)
def test_selecting(patterns: list[bytes], expected: bool) -> None:
    """
    Nodes are selected by class, by expression and by pattern.
    """
    assert selects(CLASSES, patterns) is expected
