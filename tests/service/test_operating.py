# SPDX-License-Identifier: MIT
"""
The operator's page names every event that exists, and none besides.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nodecomm
from nodecomm.service.logs import NEEDED_VERBOSITY, Verbosity

ROOT = Path(nodecomm.__file__).parent
PAGE = ROOT.parent / "docs" / "operating.rst"

#: What the name of an event looks like.
NAME = re.compile(r"[a-z]+(\.[a-z0-9-]+)?")


def texts(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may become."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def emitted() -> set[str]:
    """
    What is given as `event=`, or to a method whose name speaks of an event.
    """
    found: set[str] = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            for keyword in node.keywords:
                if keyword.arg == "event":
                    found.update(texts(keyword.value))
            name = getattr(node.func, "attr", "")
            if name.endswith("_event") and node.args:
                found.update(t for t in texts(node.args[0]) if NAME.fullmatch(t))
    return found


def documented() -> set[str]:
    """The first column of the table of events."""
    _, _, table = PAGE.read_text().partition("\nEvents\n------\n")
    return set(re.findall(r"^   \* - `([^`]+)`$", table, re.MULTILINE))


#: What the second column says of the verbosity that an event takes.
TAKES = {"-v": Verbosity.VERBOSE, "-d": Verbosity.DEBUG}


def verbosities() -> dict[str, Verbosity]:
    """The events that are logged only when more is asked for, by the same table."""
    _, _, table = PAGE.read_text().partition("\nEvents\n------\n")
    rows = r"^   \* - `([^`]+)`\n     - [a-z]+, with `(-[vd])`$"
    return {
        event: TAKES[option] for event, option in re.findall(rows, table, re.MULTILINE)
    }


def test_what_more_is_logged_when_asked_for() -> None:
    """An event needs the option that the page names, and no other does."""
    assert verbosities() == NEEDED_VERBOSITY


def test_every_event_is_documented() -> None:
    """A name that is emitted is on the page, and the other way round."""
    assert emitted() == documented()
