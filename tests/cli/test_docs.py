# SPDX-License-Identifier: MIT
"""
The page about the commands has all of them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from nodecomm.cli.main import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "commands.rst"


@pytest.mark.parametrize("name", ["access", "agent", "inventory", "nodes"])
def test_subcommands(name: str) -> None:
    """Each subcommand stands in the section of its command."""
    (module,) = (place for each, place, _ in COMMANDS if each == name)
    names = [each for each, *_ in import_module(module).Options.subCommands]
    section = PAGE.read_text().partition(f"\n{name}\n{'-' * len(name)}\n")[2]
    section = section.partition("\n\n\n")[0]

    missing = [each for each in names if f"{name} {each}" not in section]

    assert section
    assert len(names) > 1
    assert missing == []
