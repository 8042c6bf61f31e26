# SPDX-License-Identifier: MIT
"""
One rule: what it is about, and whom its lists admit and deny.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import evolve, field, frozen

from nodecomm.access.entries import Entry, HostnameList, KeyList
from nodecomm.access.networks import AddressList
from nodecomm.access.patterns import Pattern
from nodecomm.config.errors import Origin
from nodecomm.wire.text import safe

__all__ = ["LIST_NAMES", "Rule", "RuleList"]

#: The lists of a rule in the order in which they are asked.
LIST_NAMES = (
    "admit_ips",
    "admit_hostnames",
    "admit_keys",
    "deny_ips",
    "deny_hostnames",
    "deny_keys",
)

RuleList = AddressList | HostnameList | KeyList


@frozen(eq=False)
class Rule:
    """
    The access rules for one path, handle or pattern. Several `[[access]]` tables for
    the same path are one rule: their lists add up.

    Attributes:
        kind: `path`, `literal`, `variable`, `context`, `query` or `bundle`; `role`
            for one of `[[roles]]`.
        path: For a path rule the resolved path without a final slash (`/` is the
            root), else the handle or pattern.
        tree: Whether a path rule covers the folder and everything below it, rather
            than exactly one thing that is no folder.
        text: `path` as people read it, with the final slash of a tree.
        origin: Where the first of its tables stands.
        index: Which `[[access]]` (or `[[roles]]`) that is.
        written: The `path` values of its tables, as they were written.
        origins: Where all of its tables stand.
        maproot, maproot_hostnames: Whose root may read files of any owner, without
            TLS.
        maproot_keys: Who may read files of any owner, whatever it calls itself.
        ifencrypted: Serves encrypted requests only.
        source: The file source that answers below the path, or None.
        missing: The path did not exist when the rules were loaded.
        pattern: The expression of a `context` or `bundle` rule, or of a role.
        authorize: The user names that a role authorizes; a role has no other lists.
        table: The kind of table that it was made of: `access`, `node_files`,
            `common_files` or `roles`.
        node: The node whose files it is about; empty for all other rules.
    """

    kind: str
    path: bytes
    tree: bool
    text: str
    origin: Origin | None = None
    index: int = 0
    written: tuple[str, ...] = ()
    origins: tuple[Origin | None, ...] = ()
    admit_ips: AddressList = field(factory=AddressList)
    admit_hostnames: HostnameList = field(factory=HostnameList)
    admit_keys: KeyList = field(factory=KeyList)
    deny_ips: AddressList = field(factory=AddressList)
    deny_hostnames: HostnameList = field(factory=HostnameList)
    deny_keys: KeyList = field(factory=KeyList)
    maproot: AddressList = field(factory=AddressList)
    maproot_hostnames: HostnameList = field(factory=HostnameList)
    maproot_keys: KeyList = field(factory=KeyList)
    ifencrypted: bool = False
    source: str | None = None
    missing: bool = False
    pattern: Pattern | None = None
    authorize: tuple[str, ...] = ()
    table: str = "access"
    node: str = ""

    @property
    def place(self) -> str:
        """
        `FILE:LINE` of the rule, or which rule it is.
        """
        if self.origin is not None and self.origin.line:
            return f"{self.origin.file}:{self.origin.line}"
        return f"{self.table}[{self.index}]"

    @property
    def label(self) -> str:
        """
        The rule as a message names it: what it is about, and where it stands. Safe
        for a terminal.
        """
        kind = "" if self.kind == "path" else f"{self.kind} "
        return safe(f"{kind}{self.text} ({self.place})")

    def merged(self, other: Rule) -> Rule:
        """
        This rule and another one about the same thing, as one: their lists add up.
        """

        def addresses(name: str) -> AddressList:
            return AddressList((*getattr(self, name), *getattr(other, name)), acl=True)

        def hostnames(name: str) -> HostnameList:
            return HostnameList((*getattr(self, name), *getattr(other, name)))

        def keys(name: str) -> KeyList:
            return KeyList((*getattr(self, name), *getattr(other, name)))

        return evolve(
            self,
            written=(*self.written, *other.written),
            origins=(*self.origins, *other.origins),
            ifencrypted=self.ifencrypted or other.ifencrypted,
            admit_ips=addresses("admit_ips"),
            admit_hostnames=hostnames("admit_hostnames"),
            admit_keys=keys("admit_keys"),
            deny_ips=addresses("deny_ips"),
            deny_hostnames=hostnames("deny_hostnames"),
            deny_keys=keys("deny_keys"),
            maproot=addresses("maproot"),
            maproot_hostnames=hostnames("maproot_hostnames"),
            maproot_keys=keys("maproot_keys"),
        )

    def lists(self) -> Iterator[tuple[str, RuleList]]:
        """
        Its lists by name, in the order in which they are asked.
        """
        for name in LIST_NAMES:
            yield name, getattr(self, name)

    @property
    def uses_hostnames(self) -> bool:
        """
        Whether the answer may depend on the peer's host name.
        """
        return (
            self.admit_hostnames.needs_name
            or self.deny_hostnames.needs_name
            or self.maproot_hostnames.needs_name
        )

    def ineffective(self) -> Iterator[tuple[str, Entry]]:
        """
        The entries that match nobody, with the name of their list.
        """
        for name, entries in self.lists():
            for entry in entries:
                if entry.ineffective:
                    yield name, entry
