# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.access.patterns`.
"""

from __future__ import annotations

import pytest

from nodecomm.access.patterns import Pattern, UnsupportedPatternError


@pytest.mark.parametrize(
    "text", ["(.{0,9}){0,99}" * 10, r"\pL{1000}" * 20, "((a{1,9}){1,9}){1,9}", "a{900}"]
)
def test_expressions_of_peers_must_not_cost_much(text: str) -> None:
    """What is short and means a lot is no expression, when it comes from a peer."""
    with pytest.raises(UnsupportedPatternError):
        Pattern(text, bounded=True)


@pytest.mark.parametrize(
    "text",
    ["web_.*", "(a|b)[0-9]{1,3}_x", "(a+)+b", ".*_(east|west)_example_(org|com)"],
)
def test_expressions_that_people_write(text: str) -> None:
    """What people ask for is the same expression, whoever asks."""
    for name in (b"web_1", b"a12_x", b"aaab", b"x_east_example_org", b""):
        bounded = Pattern(text, bounded=True)
        assert bounded.matches(name) == Pattern(text).matches(name)
