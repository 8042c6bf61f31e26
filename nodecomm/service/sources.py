# SPDX-License-Identifier: MIT
"""
The files of one configuration, added up to one tree in which everything has its
place.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from nodecomm.config.errors import (
    Origin,
    Problem,
    child_path,
    element_path,
    shortened,
)
from nodecomm.config.model import Settings
from nodecomm.config.tree import is_public, without_values
from nodecomm.service.positions import Positions, find_positions, place_of_error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

__all__ = ["Reading", "UnreadableError", "is_there", "read_bytes"]

#: Bytes of one configuration file. A file this long is no configuration, and what
#: never ends (a device) must not fill the memory.
LARGEST_FILE = 16 * 1024 * 1024


class UnreadableError(Exception):
    """
    A file cannot be used, or what else a value should come from.

    Attributes:
        message: Why, to follow its name.
        hint: What to do.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint


def is_there(path: Path) -> bool:
    """
    Whether *path* exists, for all we can tell: where we may not look, it may well
    be there, and reading it will say why not.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def read_bytes(path: Path, most: int) -> bytes:
    """
    The content of a regular file.

    Raises:
        UnreadableError: It cannot be read, or is longer than *most* bytes.
    """
    try:
        # Without O_NONBLOCK opening a fifo waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise UnreadableError("is a folder", "name a file, in it or elsewhere")
            if not stat.S_ISREG(mode):
                raise UnreadableError("is not a regular file", "name one that is")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(most + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnreadableError(f"cannot be read: {reason}") from error
    if len(data) > most:
        raise UnreadableError(f"is longer than {most} bytes")
    return data


@define
class Reading:
    """
    The files so far, as one tree.

    Attributes:
        model: The class that the tree is for.
    """

    model: type = Settings
    tree: dict[str, Any] = field(factory=dict)
    origins: dict[str, Origin] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    sources: list[str] = field(factory=list)
    table_arrays: set[str] = field(factory=set)

    def parts(self, path: Path) -> list[Path]:
        """
        What is to be read after *path*: the files in the folder beside it.
        """
        folder = path.with_name(path.name.removesuffix(".toml") + ".d")
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            if is_there(path) or not isinstance(error, NotADirectoryError):
                self.fail(str(folder), f"cannot be read: {error.strerror or error}")
            return []
        # What an editor leaves behind (.#x.toml, .x.toml.swp) is not meant.
        return [
            folder / name
            for name in names
            if name.endswith(".toml") and not name.startswith(".")
        ]

    def fail(
        self, name: str, message: str, hint: str = "", line: int = 0, column: int = 0
    ) -> None:
        """
        Note that a file cannot be used.
        """
        origin = Origin(name, line, column)
        self.problems.append(Problem("", message, None, hint, origin))

    def file(self, path: Path) -> None:
        """
        Read one file and add it.
        """
        name = str(path)
        self.sources.append(name)
        try:
            source = read_bytes(path, LARGEST_FILE)
        except UnreadableError as error:
            self.fail(name, error.message, error.hint)
            return
        try:
            text = source.decode()
        except UnicodeDecodeError as error:
            before = source[: error.start]
            line = before.count(b"\n") + 1
            column = len(before.rpartition(b"\n")[2].decode()) + 1
            byte = source[error.start]
            self.fail(
                name,
                f"byte 0x{byte:02x} is not UTF-8",
                "save the file as UTF-8",
                line,
                column,
            )
            return
        if text.startswith("\ufeff"):
            hint = "save the file as UTF-8 without one"
            self.fail(name, "begins with a byte order mark", hint, 1, 1)
            return
        try:
            tree = tomllib.loads(text)
            positions = find_positions(source, name)
        except tomllib.TOMLDecodeError as error:
            message, line, column = place_of_error(error, text)
            self.fail(name, f"not valid TOML: {message}", "", line, column)
            return
        except RecursionError:
            self.fail(name, "too deeply nested")
            return
        _Merge(self, name, positions).table(self.tree, tree, "", "")


@frozen
class _Merge:
    """
    One file on its way into the tree.
    """

    reading: Reading
    name: str
    positions: Positions

    def table(
        self, into: dict[str, Any], table: dict[str, Any], old: str, new: str
    ) -> None:
        """
        Add *table*, at key path *old* in its file, to *into*, at *new* in the tree.
        """
        for name, value in table.items():
            old_path, new_path = child_path(old, name), child_path(new, name)
            if name not in into:
                into[name] = self.copy(value, old_path, new_path)
                continue
            there = into[name]
            if isinstance(there, dict) and isinstance(value, dict):
                self.table(there, value, old_path, new_path)
            elif self.adds_up(old_path, new_path):
                for index, element in enumerate(value):
                    here = element_path(new_path, len(there))
                    there.append(
                        self.copy(element, element_path(old_path, index), here)
                    )
            else:
                self.refuse(old_path, new_path, there, value)

    def adds_up(self, old: str, new: str) -> bool:
        """
        Whether both are written as `[[name]]`.
        """
        return old in self.positions.table_arrays and new in self.reading.table_arrays

    def refuse(self, old: str, new: str, there: Any, value: Any) -> None:
        """
        Report a second value for one key, with both.
        """
        first = self.reading.origins[new]
        shown = is_public(self.reading.model, new.split("."))
        before = "a value"
        if shown:
            before = f"the value {shortened(without_values(there))}"
        self.reading.problems.append(
            Problem(
                new,
                f"this key already has {before} in {first}",
                without_values(value) if shown else None,
                "keep one of the two",
                self.origin(old),
            )
        )

    def copy(self, value: Any, old: str, new: str) -> Any:
        """
        *value*, with the places of all that is in it noted.
        """
        self.reading.origins[new] = self.origin(old)
        if old in self.positions.table_arrays:
            self.reading.table_arrays.add(new)
        if isinstance(value, dict):
            return {
                name: self.copy(inner, child_path(old, name), child_path(new, name))
                for name, inner in value.items()
            }
        if isinstance(value, list):
            return [
                self.copy(inner, element_path(old, index), element_path(new, index))
                for index, inner in enumerate(value)
            ]
        return value

    def origin(self, path: str) -> Origin:
        """
        Where *path* stands in this file; the file alone where that is not known.
        """
        found = self.positions.origins.get(path)
        return found or Origin(self.name, 0, 0, path)
