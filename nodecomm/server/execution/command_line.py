# SPDX-License-Identifier: MIT
"""
What is run for an order: the operator's command, with the classes and bundles that the
peer may have.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from nodecomm.wire.text import safe

if TYPE_CHECKING:
    from nodecomm.server.execution.orders import RunOrder

__all__ = ["added_words", "command_line", "shown_command"]

#: The words of our own.
_DEFINE = b"-D"
_BUNDLES = b"--bundlesequence"

#: All else that a peer can have a command contain, whether a shell reads it or not.
_IS_LIST = re.compile(rb"[A-Za-z0-9_:,]+").fullmatch

#: A text that is one command, and begins with its program: a shell can become that.
_IS_ONE_COMMAND = re.compile(r"/[^\n;&|()`]*").fullmatch


def added_words(order: RunOrder) -> tuple[str, ...]:
    """
    The words that stand behind the operator's command. They are looked at once more:
    here it is where a mistake elsewhere would run something.

    Raises:
        ValueError: One has a character that none may have.
    """
    words = order.words
    if not words:
        lists = ((_DEFINE, order.defined), (_BUNDLES, order.bundles))
        words = tuple(
            [
                each
                for word, names in lists
                if names
                for each in (word, b",".join(names))
            ]
        )
    for word in words:
        if word not in (_DEFINE, _BUNDLES) and not _IS_LIST(word):
            msg = f"this cannot stand in a command: {word[:200]!a}"
            raise ValueError(msg)
    return tuple([word.decode("ascii") for word in words])


def command_line(order: RunOrder) -> tuple[str, ...]:
    """
    The program and its arguments. Where the operator wrote a text, that is a shell,
    and its text ends in our words and checked characters only. It becomes the command
    if there is but one, so that a signal that ends that is not told as an exit code.
    Source: CFEngine 3.21, observed: the command is its own child.

    Raises:
        ValueError: A class or a bundle has a character that none may have.
    """
    command = order.execution.command
    words = added_words(order)
    if isinstance(command, str):
        text = " ".join([command, *words])
        return ("/bin/sh", "-c", f"exec {text}" if _IS_ONE_COMMAND(command) else text)
    return (*command, *words)


def shown_command(order: RunOrder) -> bytes:
    """
    The command as the peer is told of it: one line, in which a list stands as a shell
    would read it.

    Raises:
        ValueError: A class or a bundle has a character that none may have.
    """
    command = order.execution.command
    text = command if isinstance(command, str) else shlex.join(command)
    return " ".join([safe(text), *added_words(order)]).encode("utf-8", "replace")
