# SPDX-License-Identifier: MIT
"""
The documentation and what the program does.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nodecomm.inventory

ROOT = Path(__file__).parents[2]

#: What makes a refusal; its first argument is the code.
MAKERS = {
    *("DocumentRefused", "KeyRefused", "SignatureRefused"),
    *("Refusal", "_Refused", "_refuse"),
}


def codes_in_source() -> set[str]:
    """
    Every code with which something is refused.
    """
    folder = Path(nodecomm.inventory.__path__[0])
    found = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in MAKERS:
                code = node.args[0]
                codes = [code]
                if isinstance(code, ast.IfExp):
                    codes = [code.body, code.orelse]
                for each in codes:
                    if isinstance(each, ast.Constant):
                        found.add(str(each.value))
    return found


def test_reasons() -> None:
    """
    The table of reasons has every code, and none that there is not.
    """
    text = (ROOT / "docs" / "inventory.rst").read_text()
    table = text.partition("   * - Code\n")[2].partition("\n\n\n")[0]
    rows = re.findall(r"^   \* - (.*)$", table, re.MULTILINE)
    told = {code for row in rows for code in re.findall("``(.+?)``", row)}

    assert told == codes_in_source()
