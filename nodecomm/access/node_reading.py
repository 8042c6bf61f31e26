# SPDX-License-Identifier: MIT
"""
`[[node_files]]` and `[[common_files]]`, as rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nodecomm.access.findings import Findings
from nodecomm.access.lists import ListReader
from nodecomm.access.node_paths import NODE_ID, NodeFiles, ambiguous, settle
from nodecomm.access.nodes import NodeRules
from nodecomm.access.paths import PathReader, Resolve, real_parent
from nodecomm.access.requests import is_resolved
from nodecomm.access.rules import Rule
from nodecomm.config.model import Settings
from nodecomm.wire.text import from_text, to_text

__all__ = ["read_common_files", "read_node_files"]


def read_common_files(
    settings: Settings, findings: Findings, paths: PathReader, lists: ListReader
) -> list[Rule]:
    """
    The rules of `[[common_files]]`: each admits the networks of `[inventory]`.
    """
    if settings.inventory is None or not settings.common_files:
        return []
    networks = lists.networks("inventory.networks", settings.inventory.networks)
    rules: list[Rule] = []
    for index, table in enumerate(settings.common_files):
        key = f"common_files[{index}].path"
        place = paths.read(key, table.path, None)
        if place is None:
            continue
        shown = to_text(place.path)
        rules.append(
            Rule(
                kind="path",
                path=place.path,
                tree=place.tree,
                text=shown + "/" if place.tree and place.path != b"/" else shown,
                origin=findings.origin(key),
                index=index,
                written=(table.path,),
                origins=(findings.origin(key),),
                admit_ips=networks,
                maproot=networks,
                missing=place.missing,
                table="common_files",
            )
        )
    return rules


def read_node_files(
    settings: Settings, findings: Findings, resolve: Resolve, rules: Sequence[Rule]
) -> NodeRules:
    """
    What `[[node_files]]` say, and what is wrong with them.

    Args:
        settings: The whole configuration.
        findings: Collects what is wrong.
        resolve: What a path is now.
        rules: The other path rules.
    """
    if settings.inventory is None or not settings.node_files:
        return NodeRules()
    state = _real(settings.server.state_dir, resolve)
    found: list[NodeFiles] = []
    for index, table in enumerate(settings.node_files):
        key = f"node_files[{index}].path"
        one = _read(key, table.path, findings, resolve)
        if one is None:
            continue
        prefix, below, tree = one
        if prefix.rstrip(b"/") == state:
            findings.tell(
                key,
                "a node that calls itself as a folder of the server's state would be "
                "given that, the private key included",
                table.path,
                "put the folders of nodes into one of their own",
            )
            continue
        files = NodeFiles.of(
            prefix,
            below,
            tree=tree,
            legacy_hosts=table.legacy_hosts,
            written=table.path,
            origin=findings.origin(key),
            index=index,
        )
        if _clashes(key, files, found, findings):
            continue
        found.append(files)
    others = [rule.path for rule in rules if rule.table == "common_files"]
    if state is not None:
        others.append(state)
    settled = settle(found, others)
    _tell_of_others(settled, rules, findings)
    return NodeRules(settled)


def _read(
    key: str, text: str, findings: Findings, resolve: Resolve
) -> tuple[bytes, bytes, bool] | None:
    """
    The folder above the first component with an id in it, resolved; what stands below
    it; whether that is about folders only. None: it is none, which was told.
    """
    try:
        raw = from_text(text)
    except ValueError as error:
        findings.tell(key, str(error), text)
        return None
    tree = raw.endswith(b"/")
    path = raw.rstrip(b"/")
    before, _, after = path.partition(NODE_ID)
    folder, _, head = before.rpartition(b"/")
    if NODE_ID not in path or not is_resolved(path) or not folder:
        if all(problem.key_path != key for problem in findings.problems):
            findings.tell(
                key,
                "this is no absolute path with {node_id} in it, below a folder",
                text,
                "write it such as /srv/nodes/{node_id}/",
            )
        return None
    if b"\0" in raw or b"\n" in raw:
        findings.tell(key, "no request can name a path with NUL or newline", text)
        return None
    below = head + NODE_ID + after
    try:
        resolved = resolve(folder)
    except OSError as error:
        said = error.strerror or type(error).__name__
        findings.tell(key, f"the path cannot be resolved: {said}", text)
        return None
    if resolved is None:
        findings.tell(
            key,
            f"{to_text(folder)} does not exist now; the rules will hold when it is "
            "made, as long as it is no link",
            text,
            severity="warning",
        )
        return real_parent(folder, resolve) or folder, below, tree
    if not resolved.is_directory:
        findings.tell(key, f"{to_text(folder)} is no folder", text)
        return None
    return resolved.path, below, tree


def _real(text: str, resolve: Resolve) -> bytes | None:
    """
    What a folder is now, or would be; None: it cannot be said.
    """
    try:
        raw = from_text(text).rstrip(b"/")
        resolved = resolve(raw)
    except (OSError, ValueError):
        return None
    if resolved is not None:
        return resolved.path.rstrip(b"/")
    return real_parent(raw, resolve) or raw


def _clashes(
    key: str, files: NodeFiles, before: Iterable[NodeFiles], findings: Findings
) -> bool:
    """
    Whether it is, or could be, another one of them.
    """
    for other in before:
        if other.components() == files.components():
            if other.written.rstrip("/") == files.written.rstrip("/"):
                # Whoever looked at the keys has told of that.
                return True
            why = "the same path as"
            hint = "leave one of them out"
        elif ambiguous(files, other):
            why = "one node's folder could be in another one's, because of"
            hint = "give each a folder of its own for the nodes"
        else:
            continue
        where = f" ({other.origin})" if other.origin is not None else ""
        findings.tell(key, f"{why} '{other.written}'{where}", files.written, hint)
        return True
    return False


def _tell_of_others(
    node_files: Iterable[NodeFiles], rules: Sequence[Rule], findings: Findings
) -> None:
    """
    Tell of rules that open what is, or will be, files of nodes to others.
    """
    for files in node_files:
        above: Rule | None = None
        for rule in rules:
            if rule.tree and files.prefix.startswith(rule.path.rstrip(b"/") + b"/"):
                if above is None or len(rule.path) > len(above.path):
                    above = rule
                continue
            place = files.read(rule.path, rule.tree)
            if place is not None and place.root == rule.path and _admits(rule):
                findings.tell(
                    f"{rule.table}[{rule.index}].path",
                    f"these are the files of node {place.node_id}, too "
                    f"('{files.written}'): whoever is admitted here has them besides "
                    "that node",
                    rule.written[0],
                    severity="warning",
                )
        if above is not None and _admits(above):
            findings.tell(
                f"node_files[{files.index}].path",
                f"rule {above.label} opens the folder above: folders there that are of "
                "no accepted node are open to whomever it admits",
                files.written,
                "put the folders of nodes where no other rule leads",
                "warning",
            )


def _admits(rule: Rule) -> bool:
    return any(
        len(entries) for name, entries in rule.lists() if name.startswith("admit")
    )
