# SPDX-License-Identifier: MIT
"""
The nodes that a command line is about, in whichever database they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, TypeVar, cast

from nodecomm.identity.files import ensure_folder
from nodecomm.inventory.nodes import Node, Status
from nodecomm.inventory.opening import NodesPlace, open_nodes_at
from nodecomm.inventory.records import Records
from nodecomm.inventory.suspicions import Suspicion, suspicions_of

__all__ = ["LIVE", "Answer", "Failed", "Nodes"]

T = TypeVar("T")

#: Nodes that are named where an id was wanted, and characters of one that name them.
_MEANT = 3
_PART = 4

#: Whoever is a node now.
LIVE = tuple(status for status in Status if status.is_live)

#: What a command has found: facts, and lines for people.
Answer = tuple[Any, Iterable[str]]


class Failed(Exception):  # noqa: N818
    """
    What was asked for cannot be done.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Nodes:
    """
    The nodes that a command line is about. A file that is not there is made when
    something is to be written.

    Args:
        place: Where they are.
        stack: Closes it.
        other: Where those of another database are, by its name.
        server_id: What nodes call the server; None where nothing says so.
        above: The server that it passes inventories on to; None for none.
    """

    def __init__(
        self,
        place: NodesPlace,
        stack: ExitStack,
        other: Callable[[str], NodesPlace],
        server_id: str | None = None,
        above: str | None = None,
    ) -> None:
        self.server_id = server_id
        self.above = above
        self.place = place
        self.other = other
        self._stack = stack.enter_context(ExitStack())
        self._run: Callable[[Callable[[Records], Any], bool], Any] | None = None

    def read(self, work: Callable[[Records], T]) -> T | None:
        """
        What *work* finds; None while there is no file.
        """
        if self._run is None and not self.place.is_made:
            return None
        return cast(T, self._opened()(work, False))

    def write(self, work: Callable[[Records], T]) -> T:
        """
        What *work* returns, when it is in force. A server need not have been started
        before: what is missing of its state folder is made.
        """
        if self.place.path is not None:
            ensure_folder(str(self.place.path.parent))
        return cast(T, self._opened()(work, True))

    def _opened(self) -> Callable[[Callable[[Records], Any], bool], Any]:
        if self._run is None:
            self._run = self._stack.enter_context(open_nodes_at(self.place))
        return self._run

    def meant(self, name: str) -> str:
        """
        Which nodes somebody may mean by *name*, who is told that no id is so; "" for
        none.
        """
        found = [
            f"{node.node_id} ({node.hostname or 'no name'}, {node.status.value})"
            for node in self.read(lambda records: list(records.nodes())) or ()
            if _may_mean(name.lower(), node)
        ]
        if not found:
            return ""
        more = f" and {len(found) - _MEANT} more" if len(found) > _MEANT else ""
        return f"; a node is named by its whole id: {', '.join(found[:_MEANT])}{more}"

    def close(self) -> None:
        """
        Let go of the database; it is opened again when it is needed.
        """
        self._run = None
        self._stack.close()

    def node(self, node_id: str) -> tuple[Node, tuple[Suspicion, ...]]:
        """
        A node, and what is suspicious about it.
        """

        def find(records: Records) -> tuple[Node, tuple[Suspicion, ...]] | None:
            node = records.node(node_id)
            return None if node is None else (node, suspicions_of(node, records))

        found = self.read(find)
        if found is None:
            known = "" if self.place.is_made else ", which is not there (see --config)"
            text = f"no node {node_id} is known in {self.place}{known}"
            raise Failed("unknown-node", text)
        return found


def _may_mean(name: str, node: Node) -> bool:
    hostname = (node.hostname or "").lower()
    by_id = len(name) >= _PART and node.node_id.lower().startswith(name)
    by_name = bool(name) and name in (hostname, hostname.partition(".")[0])
    return by_id or by_name
