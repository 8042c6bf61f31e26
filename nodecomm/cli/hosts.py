# SPDX-License-Identifier: MIT
"""
Which nodes a command is about: those it names, and those in a list.
"""

from __future__ import annotations

import codecs
import os
import sys
from typing import TYPE_CHECKING, BinaryIO

from twisted.python import usage

from nodecomm.client.address import DEFAULT_PORT, ServerAddress, parse_server

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["label", "read_hosts", "without_duplicates"]

#: Bytes of a line of a list; a name has 255 at the most, and a remark may follow.
_LINE = 4096

#: Mistakes in a list that are told; one line is wrong as often as all are.
_TOLD = 10


def label(server: ServerAddress) -> str:
    """
    A node as people know it: the port is there if it is not the usual one.
    """
    return server.host if server.port == DEFAULT_PORT else str(server)


def read_hosts(name: str) -> list[ServerAddress]:
    """
    The nodes in the file *name*, `-` for standard input: one a line, empty lines and
    what follows a `#` left out.

    Raises:
        usage.UsageError: It cannot be read, or a line is none.
    """
    if name != "-":
        try:
            with open(name, "rb") as file:
                return _read(file, name)
        except OSError as error:
            msg = f"--hosts-from {name}: {error.strerror}"
            raise usage.UsageError(msg) from error
    if sys.stdin is None:
        msg = "--hosts-from -: standard input is closed"
        raise usage.UsageError(msg)
    try:
        return _read(sys.stdin.buffer, "standard input")
    except OSError as error:
        msg = f"--hosts-from -: {error.strerror}"
        raise usage.UsageError(msg) from error


def _read(file: BinaryIO, name: str) -> list[ServerAddress]:
    servers: list[ServerAddress] = []
    mistakes: list[str] = []
    for number, line in _lines(file):
        if number == 1:
            # Some editors begin a file with this.
            line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
        text = os.fsdecode(line).partition("#")[0].strip()
        if not text:
            continue
        try:
            if len(line) > _LINE:
                msg = f"a line of more than {_LINE} bytes"
                raise ValueError(msg)
            if len(text.split()) > 1:
                msg = f"{text!r} is more than one name; write one a line"
                raise ValueError(msg)
            servers.append(parse_server(text))
        except ValueError as error:
            mistakes.append(f"{name}:{number}: {error}")
            if len(mistakes) > _TOLD:
                mistakes[-1] = "..."
                break
    if mistakes:
        raise usage.UsageError("; ".join(mistakes))
    return servers


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """
    Lines with their numbers; what is too long to be one comes in pieces, the first of
    which shows it.
    """
    number = 0
    while line := file.readline(_LINE + 1):
        number += 1
        yield number, line


def without_duplicates(
    servers: Iterable[ServerAddress],
) -> tuple[list[ServerAddress], list[ServerAddress]]:
    """
    Each of *servers* once, in their order, and those that were there more than once.
    """
    once: dict[ServerAddress, int] = {}
    for server in servers:
        once[server] = once.get(server, 0) + 1
    return list(once), [server for server, times in once.items() if times > 1]
