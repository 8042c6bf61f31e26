# SPDX-License-Identifier: MIT
"""
Where each key and each element of an array stands in a TOML file.

The standard library's reader says what a file means, not where; tree-sitter's says
where. Both read the same text here, and the first one decides what is valid.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

import tree_sitter_toml
from attrs import define, field, frozen
from tree_sitter import Language, Node, Parser

from nodecomm.config.errors import Origin, child_path, element_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

__all__ = ["Positions", "find_positions", "place_of_error"]

_STATED_PLACE = re.compile(r" ?\(at (?:line (\d+), column (\d+)|end of document)\)\Z")


@frozen
class Positions:
    """
    What one file says where.

    Attributes:
        origins: By key path. A key stands where its name begins, a table of its own
            where its header begins, an element where it begins.
        table_arrays: Key paths of the arrays that are written as `[[name]]`.
    """

    origins: dict[str, Origin]
    table_arrays: frozenset[str]


def find_positions(source: bytes, name: str) -> Positions:
    """
    The places in *source*, a valid TOML document that is called *name*.
    """
    walk = _Walk(name, source.split(b"\n"))
    walk.document(Parser(Language(tree_sitter_toml.language())).parse(source).root_node)
    return Positions(walk.origins, frozenset(walk.counts))


def place_of_error(error: ValueError, text: str) -> tuple[str, int, int]:
    """
    What is wrong, and the line and column where *error* was found in *text*.
    """
    said = str(error)
    stated = _STATED_PLACE.search(said)
    if stated is None:
        return said, 0, 0
    message = said[: stated.start()]
    if stated[1] is not None:
        return message, int(stated[1]), int(stated[2])
    lines = text.split("\n")
    return f"{message} at the end of the file", len(lines), len(lines[-1]) + 1


@define
class _Walk:
    name: str
    lines: Sequence[bytes]
    origins: dict[str, Origin] = field(factory=dict)
    #: Elements so far of each array that is written as `[[name]]`.
    counts: dict[str, int] = field(factory=dict)

    def document(self, root: Node) -> None:
        """
        The whole file.
        """
        for node in root.named_children:
            if node.type == "pair":
                self.pair(node, "")
            elif node.type in {"table", "table_array_element"}:
                self.table(node)

    def table(self, node: Node) -> None:
        """
        `[name]` or `[[name]]` and its pairs.
        """
        header = next((n for n in node.named_children if _is_key(n)), None)
        if header is None:
            return
        *around, last = _names(header)
        path = ""
        for name in around:
            path = self.latest(child_path(path, name))
            self.note(path, node)
        path = child_path(path, last)
        if node.type == "table_array_element":
            self.note(path, node)
            count = self.counts.get(path, 0)
            self.counts[path] = count + 1
            path = element_path(path, count)
        self.note(path, node)
        for pair in node.named_children:
            if pair.type == "pair":
                self.pair(pair, path)

    def latest(self, path: str) -> str:
        """
        What a header's name stands for inside a longer header: for an array of
        tables its last element.
        """
        count = self.counts.get(path)
        return path if count is None else element_path(path, count - 1)

    def pair(self, node: Node, path: str) -> None:
        """
        `name = value` in the table at *path*.
        """
        header, value = _ends(node)
        if header is None or value is None:
            return
        for name in _names(header):
            path = child_path(path, name)
            self.note(path, node)
        self.value(value, path)

    def value(self, node: Node, path: str) -> None:
        """
        What stands in an array or an inline table.
        """
        if node.type == "array":
            elements = (n for n in node.named_children if n.type != "comment")
            for index, element in enumerate(elements):
                here = element_path(path, index)
                self.note(here, element)
                self.value(element, here)
        elif node.type == "inline_table":
            for pair in node.named_children:
                if pair.type == "pair":
                    self.pair(pair, path)

    def note(self, path: str, node: Node) -> None:
        """
        Remember where *path* was first seen.
        """
        if path not in self.origins:
            row, column = node.start_point
            before = self.lines[row][:column].decode("utf-8", "replace")
            self.origins[path] = Origin(self.name, row + 1, len(before) + 1, path)


def _is_key(node: Node) -> bool:
    return node.type in {"bare_key", "quoted_key", "dotted_key"}


def _ends(pair: Node) -> tuple[Node | None, Node | None]:
    nodes = [n for n in pair.named_children if n.type != "comment"]
    if len(nodes) < 2 or not _is_key(nodes[0]):
        return None, None
    return nodes[0], nodes[-1]


def _names(key: Node) -> list[str]:
    return list(_each_name(key))


def _each_name(key: Node) -> Iterator[str]:
    if key.type == "dotted_key":
        for part in key.named_children:
            yield from _each_name(part)
    elif key.type == "quoted_key":
        # The reader of the standard library undoes the escapes.
        yield next(iter(tomllib.loads(_text(key) + " = 0")))
    else:
        yield _text(key)


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")
