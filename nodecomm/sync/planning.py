# SPDX-License-Identifier: MIT
"""
What the new set consists of, and in what it differs from the present one.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Literal

from attrs import define, field, frozen

from nodecomm.sync.excluding import Exclusion
from nodecomm.sync.model import (
    UNKNOWN,
    Change,
    Kind,
    LocalEntry,
    RemoteEntry,
    RemoteTree,
    SyncRequest,
    Wanted,
)
from nodecomm.wire.text import to_text

__all__ = ["Plan", "is_kept_as_it_is", "make_file_plan", "make_plan"]


@frozen
class Plan:
    """
    The new set.

    Attributes:
        wanted: All of it, parents before children.
        changes: What differs from the present set, in name order.
        warnings: For people.
    """

    wanted: tuple[Wanted, ...]
    changes: tuple[Change, ...]
    warnings: tuple[str, ...] = ()


def make_plan(
    request: SyncRequest,
    tree: RemoteTree,
    local: Mapping[bytes, LocalEntry],
    fetched: Set[bytes],
    left: Set[bytes] = frozenset(),
) -> Plan:
    """
    Put together what the server has and what stays here.

    What the server has takes the place of what is here under its name. What it does
    not have stays, unless `purge` is asked for; what is excluded, and what the server
    lists and does not describe, stays in any case, and everything below it.

    Args:
        request: What was asked for.
        tree: What the server has.
        local: The present set.
        fetched: Files of the tree whose content was fetched.
        left: Files of the tree of which the server told no content.
    """
    return _Planning(request, tree, local, fetched, left).plan()


def is_kept_as_it_is(wanted: Wanted, local: LocalEntry) -> bool:
    """
    Whether *local* has the attributes of *wanted* already.
    """
    if wanted.kind is Kind.LINK:
        return wanted.owner in (None, (local.uid, local.gid))
    return (
        wanted.mode == local.mode
        and wanted.owner in (None, (local.uid, local.gid))
        and wanted.mtime in (None, local.mtime_ns // 10**9)
    )


def make_file_plan(
    request: SyncRequest,
    tree: RemoteTree,
    local: Mapping[bytes, LocalEntry],
    fetched: Set[bytes],
) -> Plan:
    """
    The same for a source that is a file.
    """
    entry = tree.entries[b""]
    here = local.get(b"")
    wanted = Wanted(
        b"",
        Kind.FILE,
        entry.mode,
        "fetched" if fetched else "kept",
        (entry.uid, entry.gid) if request.preserve else None,
        entry.mtime if request.preserve else None,
    )
    changes: tuple[Change, ...] = ()
    if here is None:
        changes = (Change(b"", "added"),)
    elif fetched:
        changes = (Change(b"", "updated"),)
    elif not is_kept_as_it_is(wanted, here):
        changes = (Change(b"", "attributes"),)
    return Plan((wanted,), changes)


@define
class _Planning:
    _request: SyncRequest
    _tree: RemoteTree
    _local: Mapping[bytes, LocalEntry]
    _fetched: Set[bytes]
    _left: Set[bytes]
    _excluded: Exclusion = field(init=False)
    _new: dict[bytes, Wanted] = field(factory=dict, init=False)
    _stays: set[bytes] = field(factory=set, init=False)
    _shields: set[bytes] = field(factory=set, init=False)
    _warnings: list[str] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._excluded = Exclusion(self._request.exclude)

    def plan(self) -> Plan:
        self._find_what_stays()
        for name in sorted(self._tree.entries):
            if name and name not in self._left:
                self._take(name, self._tree.entries[name])
        for name in sorted(self._local):
            if name and name not in self._new:
                self._carry(name, self._local[name])
        return Plan(
            tuple(self._new[name] for name in sorted(self._new)),
            tuple(self._changes()),
            tuple(self._warnings),
        )

    def _find_what_stays(self) -> None:
        """
        Local names that stay whatever happens, and the folders that they are in.
        """
        present = self._tree.present | self._left
        for name in sorted(self._local):
            parent = name.rpartition(b"/")[0]
            if name and (
                name in present
                or (parent and parent in self._stays)
                or self._excluded(name, self._local[name].kind is Kind.FOLDER)
            ):
                self._stays.add(name)
                while parent and parent not in self._shields:
                    self._shields.add(parent)
                    parent = parent.rpartition(b"/")[0]

    def _take(self, name: bytes, entry: RemoteEntry) -> None:
        """
        *name* as the server has it, unless something that stays is in the way.
        """
        if not self._has_folder(name):
            return
        here = self._local.get(name)
        if name in self._stays:
            if here is not None and here.kind is not entry.kind:
                self._warn(name, "is excluded here and stays what it is")
            return
        if name in self._shields and entry.kind is not Kind.FOLDER:
            self._warn(name, "stays a folder, as names that stay are in it")
            self._stays.add(name)
            return
        preserve = self._request.preserve
        self._new[name] = Wanted(
            name,
            entry.kind,
            entry.mode,
            "fetched" if name in self._fetched else "kept",
            (entry.uid, entry.gid) if preserve and entry.uid != UNKNOWN else None,
            entry.mtime if preserve and entry.kind is not Kind.LINK else None,
            entry.target,
        )

    def _has_folder(self, name: bytes) -> bool:
        """
        Whether the folder that *name* is in will be one.
        """
        parent = name.rpartition(b"/")[0]
        if not parent:
            return True
        above = self._new.get(parent)
        return above is not None and above.kind is Kind.FOLDER

    def _carry(self, name: bytes, here: LocalEntry) -> None:
        """
        *name*, which the server does not have, as it is here.
        """
        stays = name in self._stays or name in self._shields
        if not self._has_folder(name) or (self._request.purge and not stays):
            return
        self._new[name] = Wanted(
            name, here.kind, here.mode, "carried", target=here.target
        )

    def _warn(self, name: bytes, why: str) -> None:
        self._warnings.append(f"{to_text(name)}: {why}")

    def _changes(self) -> list[Change]:
        changes = []
        for name in sorted(self._new.keys() | self._local.keys()):
            if not name:
                continue
            what = _change(self._new.get(name), self._local.get(name))
            if what is not None:
                changes.append(Change(name, what))
        return changes


def _change(
    wanted: Wanted | None, here: LocalEntry | None
) -> Literal["added", "updated", "removed", "attributes"] | None:
    if wanted is None:
        return "removed"
    if here is None:
        return "added"
    if wanted.origin == "carried":
        return None
    if (
        wanted.origin == "fetched"
        or wanted.kind is not here.kind
        or (wanted.kind is Kind.LINK and wanted.target != here.target)
    ):
        return "updated"
    return None if is_kept_as_it_is(wanted, here) else "attributes"
