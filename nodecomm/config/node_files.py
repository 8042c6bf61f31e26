# SPDX-License-Identifier: MIT
"""
The part of a server's configuration that says which files a node has as soon as it is
accepted, and which ones all have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from nodecomm.config.errors import Problem, child_path, element_path
from nodecomm.config.fields import About, about
from nodecomm.config.shapes import MismatchError, check_about

if TYPE_CHECKING:
    from nodecomm.config.inventory import InventorySettings
    from nodecomm.config.placed import Checks

__all__ = [
    "NODE_ID",
    "CommonFileSettings",
    "NodeFileSettings",
    "check_node_files",
]

#: What stands for the id of a node.
NODE_ID = "{node_id}"

_ABSOLUTE = About("", shape="absolute-path")
_BRACES = re.compile(r"\{[^{}/]*\}")
_VARIABLE = re.compile(r"\$[({]")


@frozen(kw_only=True)
class NodeFileSettings:
    """
    One `[[node_files]]`: files of each node.
    """

    path: str = field(
        metadata=about(
            "The folder of a node, absolute; `{node_id}` stands for its id, once or "
            "more often. It is open to the key of that node alone, from the moment at "
            "which the node is accepted. Without a final slash it may be a file, too.",
            upstream="No counterpart; there a program writes one `access` promise for "
            "each node.",
        ),
    )
    legacy_hosts: bool = field(
        default=False,
        metadata=about(
            "Open it to the node's host name and addresses, too, whatever key comes "
            "from there: for old nodes that use another key than their inventory "
            "names. It makes the rule weaker: a name or an address can be forged.",
        ),
    )


@frozen(kw_only=True)
class CommonFileSettings:
    """
    One `[[common_files]]`: files that all nodes have.
    """

    path: str = field(
        metadata=about(
            "The file or folder, absolute; a final slash makes it a folder even when "
            "it does not exist yet. It is open to the `networks` of `[inventory]`.",
            upstream="No counterpart; an `access` promise with `admit_ips`.",
        ),
    )


def check_node_files(
    checks: Checks[Any],
    inventory: InventorySettings | None,
    node_files: tuple[NodeFileSettings, ...],
    common_files: tuple[CommonFileSettings, ...],
) -> Iterator[Problem]:
    """
    Everything that is wrong between the keys about the files of nodes.
    """
    if inventory is None:
        for name, tables in (
            ("node_files", node_files),
            ("common_files", common_files),
        ):
            if tables:
                yield checks.problem(
                    element_path(name, 0),
                    "without [inventory] the server knows no nodes and no networks of "
                    "theirs",
                    None,
                    f"write [inventory], or leave [[{name}]] out",
                )
    elif node_files and inventory.upstream and inventory.database.startswith("sqlite:"):
        yield checks.problem(
            element_path("node_files", 0),
            "a relay learns of no node from the inventories that it passes on: there "
            "are only those that are registered here",
            None,
            "let it have the database of the server above it (postgresql://...), or "
            "register its nodes",
            warning=True,
        )
    nodes = [files.path for files in node_files]
    common = [files.path for files in common_files]
    yield from _twice(checks, "node_files", nodes)
    yield from _twice(checks, "common_files", common)
    for index, path in enumerate(nodes):
        table = element_path("node_files", index)
        yield from _node_path(checks, child_path(table, "path"), path)
        if node_files[index].legacy_hosts:
            yield checks.problem(
                child_path(table, "legacy_hosts"),
                "the node's key, host name or address is enough by itself: whoever can "
                "forge the name or address of a node, and has any key that is trusted, "
                "reads the files of that node",
                True,
                "leave it out as soon as the keys of all nodes are known here",
                warning=True,
            )
    for index, path in enumerate(common):
        where = child_path(element_path("common_files", index), "path")
        if NODE_ID in path:
            yield checks.problem(
                where,
                f"files of one node are not common to all; {NODE_ID} stands for "
                "nothing here",
                path,
                "write it as [[node_files]]",
            )
        else:
            yield from _absolute(checks, where, path)
            yield from _no_variable(checks, where, path)


def _twice(checks: Checks[Any], name: str, paths: list[str]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for index, path in enumerate(paths):
        here = child_path(element_path(name, index), "path")
        same = first.setdefault(path.rstrip("/"), here)
        if same != here:
            yield checks.problem(
                here,
                f"the same as {checks.named(same)}",
                path,
                "leave one of them out",
            )


def _absolute(checks: Checks[Any], where: str, path: str) -> Iterator[Problem]:
    try:
        check_about(path, _ABSOLUTE)
    except MismatchError as error:
        yield checks.problem(where, error.message, path, error.hint)


def _no_variable(checks: Checks[Any], where: str, path: str) -> Iterator[Problem]:
    if _VARIABLE.search(path):
        yield checks.problem(
            where,
            "variables of a peer have no meaning here",
            path,
            "write an [[access]] for such a path",
        )


def _node_path(checks: Checks[Any], where: str, path: str) -> Iterator[Problem]:
    """
    The path of a `[[node_files]]`.
    """
    wrong = list(_absolute(checks, where, path))
    if wrong:
        yield from wrong
        return
    yield from _no_variable(checks, where, path)
    for word in _BRACES.findall(path):
        if word != NODE_ID:
            yield checks.problem(
                where, f"{word} stands for nothing", path, f"known is {NODE_ID}"
            )
    names = path.strip("/").split("/")
    if NODE_ID not in path:
        yield checks.problem(
            where,
            "all nodes would have the same files",
            path,
            f"write {NODE_ID} where the id of the node stands, or write the path as "
            "[[common_files]]",
        )
    elif NODE_ID in names[0]:
        yield checks.problem(
            where,
            "a node that calls itself as a folder of the system would be given that",
            path,
            f"put the folders of nodes into one of their own: /srv/nodes/{NODE_ID}/",
        )
    if any(name in ("", ".", "..") for name in names):
        yield checks.problem(
            where,
            "no request is resolved to such a path",
            path,
            "write it without empty names, '.' and '..'",
        )
