# SPDX-License-Identifier: MIT
"""
Putting settings into a configuration that a person writes too: into a file of our
own beside his, without the keys that he has set.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from nodecomm.config.errors import (
    ConfigError,
    Origin,
    child_path,
    in_toml,
    printable,
    shortened,
)
from nodecomm.identity.files import write_new
from nodecomm.service.sources import Reading, is_there
from nodecomm.service.written import Standing, WrittenFile, make_folders

__all__ = ["PART_NAME", "ConfigurationSet", "LeftOut", "Plan"]

#: Our file in the folder beside the main one. Names in it are read in order, and
#: whoever wants to be read before or after has room on either side.
PART_NAME = "50-bootstrap.toml"


@frozen
class LeftOut:
    """
    A key that is not written, because a person has set it.

    Attributes:
        key_path: The key.
        wanted: What would have been written.
        theirs: What it is.
        origin: Where that stands.
    """

    key_path: str
    wanted: object
    theirs: object
    origin: Origin | None

    @property
    def differs(self) -> bool:
        """
        Whether the two say different things.
        """
        return self.wanted != self.theirs

    def __str__(self) -> str:
        """
        `PLACE: KEY = THEIRS stays; OURS would have been written`.
        """
        place = "" if self.origin is None else f"{self.origin}: "
        return (
            f"{place}{printable(self.key_path)} = {shortened(self.theirs)} stays as it "
            f"is; {shortened(self.wanted)} would have been written"
        )


@frozen
class Plan:
    """
    What is to be written.

    Attributes:
        tree: The keys and their values.
        left_out: The keys that a person has set.
        may_write: Whether our file may be written; else what is in *tree* is missing
            for good.
    """

    tree: Mapping[str, Any]
    left_out: tuple[LeftOut, ...]
    may_write: bool


class ConfigurationSet:
    """
    A main file, the folder of parts beside it, and our part among them.

    Args:
        folder: Where the main file is.
        main: Its name, such as `agent.toml`.
        model: The class that the files describe.
        by: The command that writes, as people type it.
    """

    def __init__(self, folder: Path, main: str, model: type, by: str) -> None:
        self.main = folder / main
        parts = folder / (main.removesuffix(".toml") + ".d")
        self.part = WrittenFile(parts / PART_NAME, by)
        self._model = model

    def of_others(self) -> Reading:
        """
        What persons have written: all files but ours; with ours, once one of them
        has changed it.

        Raises:
            ConfigError: A file cannot be read or is no TOML.
        """
        reading = Reading(model=self._model)
        parts = reading.parts(self.main)
        if is_there(self.main):
            reading.file(self.main)
        for part in parts:
            if part != self.part.path or not self.part.may_write:
                reading.file(part)
        if reading.problems:
            raise ConfigError(reading.problems)
        return reading

    def plan(
        self,
        wanted: Mapping[str, Any],
        *,
        served: Callable[[str, Mapping[str, Any], Sequence[Any]], bool] | None = None,
    ) -> Plan:
        """
        What of *wanted* is to be written beside what persons have written.

        Args:
            wanted: Tables; a list of tables is written as `[[...]]` and adds up with
                theirs where they write it so too.
            served: Whether one table of such a list is made needless by theirs.

        Raises:
            ConfigError: Their files cannot be read.
        """
        others = self.of_others()
        left_out: list[LeftOut] = []
        tree = _beside(wanted, others.tree, "", others, left_out, served)
        return Plan(tree, tuple(left_out), self.part.may_write)

    def write(self, plan: Plan, comments: Mapping[str, str]) -> list[Path]:
        """
        Write our part, and a main file of comments alone if there is none: the
        programs are started with its name.

        Args:
            plan: What to write.
            comments: Lines to put before a key or table, by key path; "" is the top,
                `main` the text of the main file.

        Returns:
            The files that were written; none: all was so already.
        """
        written = []
        if plan.may_write and self.part.write(as_toml(plan.tree, comments)):
            written.append(self.part.path)
        make_folders(self.main.parent)
        if not os.path.lexists(self.main):
            text = _commented(comments["main"])
            if write_new(str(self.main.parent), self.main.name, text.encode()):
                self.main.chmod(0o644)
                written.append(self.main)
        return written

    @contextlib.contextmanager
    def undone_if_it_fails(self) -> Any:
        """
        Put our part back as it was if the block raises.
        """
        before = self.part.read()
        try:
            yield
        except BaseException:
            if before[0] in (Standing.OURS, Standing.MISSING):
                self.part.restore(before)
            raise


def _beside(
    wanted: Mapping[str, Any],
    theirs: Mapping[str, Any],
    path: str,
    others: Reading,
    left_out: list[LeftOut],
    served: Callable[[str, Mapping[str, Any], Sequence[Any]], bool] | None,
) -> dict[str, Any]:
    """
    Those of *wanted* that *theirs* leave room for.
    """
    room: dict[str, Any] = {}
    for name, value in wanted.items():
        here = child_path(path, name)
        if name not in theirs:
            room[name] = value
            continue
        there = theirs[name]
        if isinstance(value, dict) and isinstance(there, dict):
            inner = _beside(value, there, here, others, left_out, served)
            if inner:
                room[name] = inner
        elif _is_tables(value) and isinstance(there, list):
            missing = [
                one
                for one in value
                if one not in there and not (served and served(here, one, there))
            ]
            if missing and here in others.table_arrays:
                room[name] = missing
            elif missing:
                # Written in one piece, so that nothing can be added elsewhere.
                left_out.append(LeftOut(here, missing, there, others.origins.get(here)))
        else:
            left_out.append(LeftOut(here, value, there, others.origins.get(here)))
    return room


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def as_toml(tree: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """
    A tree of tables as a file: `[table]`, `[[table]]`, one value a line.
    """
    lines = [_commented(comments.get("", "")).rstrip("\n")]
    for name, value in tree.items():
        _table(lines, name, value, comments)
    return "\n".join(lines).lstrip("\n") + "\n"


def _table(
    lines: list[str], path: str, value: Any, comments: Mapping[str, str]
) -> None:
    tables = value if isinstance(value, list) else [value]
    for index, table in enumerate(tables):
        lines.append("")
        if index == 0 and path in comments:
            lines.append(_commented(comments[path]).rstrip("\n"))
        lines.append(f"[[{path}]]" if isinstance(value, list) else f"[{path}]")
        later = []
        for key, one in table.items():
            here = child_path(path, key)
            if isinstance(one, dict) or _is_tables(one):
                later.append((here, one))
                continue
            if here in comments:
                lines.append(_commented(comments[here]).rstrip("\n"))
            lines.append(f"{key} = {in_toml(one)}")
        for here, one in later:
            _table(lines, here, one, comments)


def _commented(text: str) -> str:
    return "".join(f"# {printable(line)}".rstrip() + "\n" for line in text.splitlines())
