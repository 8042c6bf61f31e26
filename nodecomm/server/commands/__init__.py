# SPDX-License-Identifier: MIT
"""
The commands of the wire protocol, one class each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodecomm.server.commands.content import GetCommand
from nodecomm.server.commands.digest import DigestCommand
from nodecomm.server.commands.execute import ExecuteCommand
from nodecomm.server.commands.listing import OpendirCommand
from nodecomm.server.commands.status import StatCommand
from nodecomm.server.commands.values import (
    CallbackCommand,
    ContextCommand,
    CookieCommand,
    LiteralCommand,
    QueryCommand,
)
from nodecomm.server.commands.version import VersionCommand

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nodecomm.interfaces import ICommand

__all__ = ["builtin_commands", "command_table"]


def builtin_commands() -> list[ICommand]:
    """
    One of each command that the community server answers.
    """
    return [
        VersionCommand(),
        StatCommand(),
        OpendirCommand(),
        DigestCommand(),
        GetCommand(),
        LiteralCommand(),
        ContextCommand(),
        QueryCommand(),
        CookieCommand(),
        CallbackCommand(),
        ExecuteCommand(),
    ]


def command_table(
    commands: Iterable[ICommand], versions: Iterable[int] = (1, 2, 3)
) -> Mapping[int, Mapping[bytes, ICommand]]:
    """
    *commands* by protocol version and word; a later one replaces an earlier one.
    """
    listed = list(commands)
    return {
        version: {
            word: command
            for command in listed
            if version in command.versions
            for word in command.words
        }
        for version in versions
    }
