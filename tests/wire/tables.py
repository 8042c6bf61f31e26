# SPDX-License-Identifier: MIT
"""
Tables of steps, as the documentation has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

_State = TypeVar("_State", bound=Enum)
_Input = TypeVar("_Input", bound=Enum)


def documented(table: Mapping[tuple[_State, _Input], _State]) -> list[str]:
    """
    The lines of *table* in the documentation: its head, then a row for each step,
    with a rule before, between and after.
    """
    rows = [("state", "input", "next")] + [
        (state.value, happened.value, following.value)
        for (state, happened), following in table.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = " ".join("=" * width for width in widths)
    head, *steps = [
        " ".join(
            word.ljust(width) for word, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    return [rule, head, rule, *steps, rule]


def stands_in(page: Path, table: Mapping[tuple[_State, _Input], _State]) -> bool:
    """
    Whether *page* has the table, row by row, and no more rows.
    """
    return "\n".join(["", *documented(table), ""]) in page.read_text()
