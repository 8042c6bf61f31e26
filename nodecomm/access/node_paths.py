# SPDX-License-Identifier: MIT
"""
Paths with `{node_id}` in them: of which node is this one? Each `[[node_files]]` has
one.

A node chooses its own id. What it chooses must never make its folder another node's, or
something that is no node's at all; `settle` sees to that for all of them together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from attrs import evolve, field, frozen

from nodecomm.config.errors import Origin

__all__ = ["NODE_ID", "NodeFiles", "NodePath", "ambiguous", "is_node_id", "settle"]

#: What stands for the node's id.
NODE_ID = b"{node_id}"

#: Source: Rudder 5.0, the check of a node's id.
_ID = re.compile(rb"[a-zA-Z0-9][a-zA-Z0-9-]{0,49}")

_ID_BYTES = frozenset(
    b"-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


def is_node_id(text: bytes) -> bool:
    """
    Whether a node may be called so: one whose id is anything else has no files.
    """
    return _ID.fullmatch(text) is not None


class NodePath(NamedTuple):
    """
    Where the files of one node are, or would be.

    Attributes:
        files: The `[[node_files]]`.
        node_id: The node.
        root: The path, without a final slash.
    """

    files: NodeFiles
    node_id: str
    root: bytes


@frozen(eq=False)
class NodeFiles:
    """
    One `[[node_files]]`.

    Attributes:
        prefix: The folder that the nodes' ones are in, resolved, with a final slash.
        parts: The components below it, divided where the id stands; the first has one.
        tree: Whether it is about folders and all below them only; otherwise a file of
            that name is meant, too.
        legacy_hosts: Whether the node's host name and addresses are admitted, too.
        written: The path as it was written.
        origin: Where.
        index: Which `[[node_files]]` it is.
        reserved: The ids that open nothing here, since their folder is something else.
    """

    prefix: bytes
    parts: tuple[tuple[bytes, ...], ...]
    tree: bool = True
    legacy_hosts: bool = False
    written: str = ""
    origin: Origin | None = None
    index: int = 0
    reserved: frozenset[bytes] = frozenset()
    _pieces: tuple[bytes, ...] = field(init=False, repr=False)

    @_pieces.default
    def _joined(self) -> tuple[bytes, ...]:
        rest = b"/".join(NODE_ID.join(part) for part in self.parts)
        return tuple((self.prefix + rest).split(NODE_ID))

    @classmethod
    def of(cls, prefix: bytes, below: bytes, **others: object) -> NodeFiles:
        """
        That of a path.

        Args:
            prefix: The folder above the first component with an id in it, resolved.
            below: What stands below it, with `{node_id}` in it and no final slash.
            others: The other attributes.
        """
        parts = tuple(tuple(part.split(NODE_ID)) for part in below.split(b"/"))
        return cls(prefix.rstrip(b"/") + b"/", parts, **others)  # type: ignore[arg-type]

    def read(self, path: bytes, is_directory: bool) -> NodePath | None:
        """
        Of which node *path* (resolved, without a final slash) is or would be.
        """
        prefix = self.prefix
        if not path.startswith(prefix):
            return None
        start = len(prefix)
        end = path.find(b"/", start)
        raw = _id_in(path[start:] if end < 0 else path[start:end], self.parts[0])
        if raw is None or raw in self.reserved:
            return None
        root = raw.join(self._pieces)
        if path == root:
            if self.tree and not is_directory:
                return None
        elif not path.startswith(root + b"/"):
            return None
        return NodePath(self, raw.decode("ascii"), root)

    def place(self, node_id: str) -> NodePath | None:
        """
        Where the files of a node are; None: nowhere.
        """
        raw = node_id.encode("utf-8", "replace")
        if not is_node_id(raw) or raw in self.reserved:
            return None
        return NodePath(self, node_id, raw.join(self._pieces))

    def components(self) -> list[tuple[bytes, ...]]:
        """
        All components of the path, each divided where the id stands.
        """
        names = [name for name in self.prefix.split(b"/") if name]
        return [*((name,) for name in names), *self.parts]


def _id_in(name: bytes, parts: Sequence[bytes]) -> bytes | None:
    """
    The id in one component of a path; None: it is none of a node.
    """
    if len(parts) == 2:
        first, last = parts
        if not (name.startswith(first) and name.endswith(last)):
            return None
        raw = name[len(first) : len(name) - len(last)]
    else:
        times = len(parts) - 1
        length, rest = divmod(len(name) - sum(map(len, parts)), times)
        if rest or length < 1:
            return None
        raw = name[len(parts[0]) : len(parts[0]) + length]
        if raw.join(parts) != name:
            return None
    return raw if is_node_id(raw) else None


def settle(
    all_files: Sequence[NodeFiles], others: Iterable[bytes]
) -> tuple[NodeFiles, ...]:
    """
    The same with the ids `reserved` whose folder holds something that is not theirs:
    what another `[[node_files]]` gives to other nodes, or one of *others*.

    Args:
        all_files: All of a configuration.
        others: Resolved paths that must not be in a node's folder.
    """
    protected = [_literals(path) for path in others]
    settled: list[NodeFiles] = []
    for files in all_files:
        mine = files.components()
        found = {
            raw
            for path in protected
            if len(path) >= len(mine)
            for raw in _meeting(mine, path)[0]
        }
        for other in all_files:
            if other is not files:
                found.update(_meeting(mine, other.components())[0])
        settled.append(evolve(files, reserved=frozenset(found)))
    return tuple(settled)


def ambiguous(one: NodeFiles, two: NodeFiles) -> bool:
    """
    Whether one of these paths for a node can be, or be in, the other one for another
    node, for more than a few ids that could be `reserved`.
    """
    return _meeting(one.components(), two.components())[1]


def _literals(path: bytes) -> list[tuple[bytes, ...]]:
    return [(name,) for name in path.split(b"/") if name]


def _meeting(
    one: Sequence[tuple[bytes, ...]], two: Sequence[tuple[bytes, ...]]
) -> tuple[Iterator[bytes], bool]:
    """
    Where two paths lead to the same place, one of them perhaps further.

    Returns:
        The ids of nodes with which *one* does so though *two* is not that node's, and
        whether there is no end of such ids.
    """
    nothing: tuple[Iterator[bytes], bool] = (iter(()), False)
    mine: set[bytes] = set()
    theirs: set[bytes] = set()
    for left, right in zip(one, two, strict=False):
        if left == right:
            if len(left) > 1:
                # The same id, then, so it is the same node.
                return nothing
        elif len(left) == 1 and len(right) == 1:
            return nothing
        elif len(right) == 1:
            raw = _id_in(right[0], left)
            if raw is None:
                return nothing
            mine.add(raw)
        elif len(left) == 1:
            raw = _id_in(left[0], right)
            if raw is None:
                return nothing
            theirs.add(raw)
        elif not _can_be_equal(left, right):
            return nothing
    if len(mine) > 1 or len(theirs) > 1 or (mine and mine == theirs):
        return nothing
    return iter(mine), not (mine or theirs)


def _can_be_equal(left: tuple[bytes, ...], right: tuple[bytes, ...]) -> bool:
    """
    Whether two components with ids may be equal for two ids; perhaps also where they
    cannot be.
    """
    if len(left) != 2 or len(right) != 2:
        return True
    heads, tails = (
        sorted((left[0], right[0]), key=len),
        sorted((left[1], right[1]), key=len),
    )
    if not (heads[1].startswith(heads[0]) and tails[1].endswith(tails[0])):
        return False
    more = heads[1][len(heads[0]) :] + tails[1][: len(tails[1]) - len(tails[0])]
    return _ID_BYTES.issuperset(more)
