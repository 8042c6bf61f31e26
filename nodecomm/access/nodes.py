# SPDX-License-Identifier: MIT
"""
The nodes that are served, as far as rules are concerned, and the rules that follow from
them.

Nothing is made for a node before it (or somebody else) asks for something of it: a
request's path says which node it could be about, and its rule is made then. So nodes
are put in force in the time that it takes to copy a table of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from types import MappingProxyType
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from nodecomm.access.entries import Entry, HostnameEntry, HostnameList, KeyList
from nodecomm.access.networks import (
    AddressList,
    AddressPattern,
    parse_entry,
    read_address,
)
from nodecomm.access.node_paths import NodeFiles, NodePath
from nodecomm.access.rules import Rule
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.identity.keys import PublicKey

__all__ = [
    "NodeRules",
    "ServedNode",
    "ServedNodes",
    "is_served_here",
    "telling_addresses",
]


def is_served_here(policy_server_id: str | None, server_id: str) -> bool:
    """
    Whether a node gets its files from the server *server_id*.

    Args:
        policy_server_id: The server that the node says it belongs to; None while it has
            sent nothing that says so.
        server_id: This server.
    """
    if policy_server_id is None:
        return True
    return policy_server_id.strip().lower() == server_id.strip().lower()


def telling_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """
    Those of a machine's addresses that another machine may see, in one spelling.
    """
    found: dict[str, None] = {}
    for text in addresses:
        read = read_address(text)
        if read is None:
            continue
        known = ip_address(read.text)
        if not (
            known.is_loopback
            or known.is_link_local
            or known.is_unspecified
            or known.is_multicast
            or read.text == "255.255.255.255"
        ):
            found[read.text] = None
    return tuple(found)


def _telling_name(name: str | None) -> str | None:
    """
    A host name that may stand in a list as it is, in one spelling; None: it is none,
    or one that every machine has.
    """
    if name is None:
        return None
    name = name.strip().lower().rstrip(".")
    labels = name.split(".")
    if len(name) > 253 or not all(
        label.isascii() and label.replace("-", "a").replace("_", "a").isalnum()
        for label in labels
    ):
        return None
    if labels[0].rstrip("0123456789") == "localhost" or read_address(name) is not None:
        return None
    # A name of digits alone is not one that a look-up can tell from an address.
    return None if labels[-1].isdigit() else name


@frozen
class ServedNode:
    """
    An accepted node whose files are served here.

    Attributes:
        node_id: Its id, in the case that it writes.
        key: Its key; None: nothing is open to it.
        hostname: What it is called; None where that is no host name or one that every
            machine has.
        addresses: Its addresses, without those that mean another machine elsewhere
            (loopback, link-local).
    """

    node_id: str
    key: PublicKey | None
    hostname: str | None = field(default=None, converter=_telling_name)
    addresses: tuple[str, ...] = field(default=(), converter=telling_addresses)


@frozen(eq=False)
class NodeRules:
    """
    What a configuration says about the files of nodes, whichever nodes there are.

    Attributes:
        node_files: Each `[[node_files]]`, no two for the same path.
        single: Whether one of them may be about one file.
        legacy_hosts: Whether one of them admits host names and addresses.
    """

    node_files: tuple[NodeFiles, ...] = ()
    single: bool = field(init=False)
    legacy_hosts: bool = field(init=False)

    @single.default
    def _single(self) -> bool:
        return any(not files.tree for files in self.node_files)

    @legacy_hosts.default
    def _legacy_hosts(self) -> bool:
        return any(files.legacy_hosts for files in self.node_files)

    def __bool__(self) -> bool:
        return bool(self.node_files)

    def paths(self, path: bytes, is_directory: bool) -> Iterator[NodePath]:
        """
        Of which nodes *path* (resolved) is or would be, the longest path first.
        """
        found = [
            place
            for files in self.node_files
            if (place := files.read(path, is_directory)) is not None
        ]
        if len(found) > 1:
            found.sort(key=lambda place: len(place.root), reverse=True)
        return iter(found)

    def names_one(self, path: bytes) -> bool:
        """
        Whether *path*, which is no folder, is or would be all that a node has there:
        that says nothing about the folder which it is in.
        """
        return self.single and any(
            place.root == path for place in self.paths(path, False)
        )


class ServedNodes:
    """
    The nodes that are in force, and their rules as far as somebody has asked for them.

    Args:
        rules: What the configuration says.
        nodes: The nodes.
        before: Those that were in force before; what has not changed is taken over.
    """

    __slots__ = ("_counts", "_known", "_made", "nodes", "rules")

    def __init__(
        self,
        rules: NodeRules,
        nodes: Mapping[str, ServedNode] | Iterable[ServedNode],
        before: ServedNodes | None = None,
    ) -> None:
        given = nodes.values() if isinstance(nodes, Mapping) else nodes
        known = {node.node_id.lower(): node for node in given}
        self.rules = rules
        self._known = known
        self.nodes: Mapping[str, ServedNode] = MappingProxyType(known)
        self._made: dict[str, dict[tuple[NodeFiles, bool], Rule]] = {}
        # How many nodes have a host name or address, as far as that counts.
        self._counts: dict[str, int] = {}
        if before is not None and before.rules is rules:
            self._take_over(before)
        elif rules.legacy_hosts:
            for node in known.values():
                self._count(node, 1)

    def _take_over(self, before: ServedNodes) -> None:
        known, old = self._known, before._known
        gone = [
            (name, was)
            for name, was in old.items()
            if (node := known.get(name)) is not was and node != was
        ]
        self._made = before._made.copy()
        for name, _ in gone:
            self._made.pop(name, None)
        if not self.rules.legacy_hosts:
            return
        self._counts = before._counts.copy()
        come = [
            node
            for name, node in known.items()
            if (was := old.get(name)) is not node and was != node
        ]
        touched: dict[str, None] = {}
        for _, was in gone:
            touched.update(self._count(was, -1))
        for node in come:
            touched.update(self._count(node, 1))
        changed = {
            text
            for text in touched
            if (before._counts.get(text, 0) > 1) is not (self._counts.get(text, 0) > 1)
        }
        if changed:
            for name in list(self._made):
                node = known[name]
                if not changed.isdisjoint((node.hostname or "", *node.addresses)):
                    del self._made[name]

    def _count(self, node: ServedNode, step: int) -> dict[str, None]:
        """
        Count what a node is called by; returns that.
        """
        texts = dict.fromkeys(node.addresses)
        if node.hostname is not None:
            texts[node.hostname] = None
        for text in texts:
            self._counts[text] = self._counts.get(text, 0) + step
        return texts

    def __len__(self) -> int:
        return len(self._known)

    def find(self, place: NodePath) -> ServedNode | None:
        """
        The node that *place* is of; None: there is none, or nothing is open to it.
        """
        node = self._known.get(place.node_id.lower())
        if node is None or node.key is None or node.node_id != place.node_id:
            return None
        return node

    def rule(
        self, place: NodePath, node: ServedNode, *, tree: bool, same: Rule | None
    ) -> Rule:
        """
        The rule about *place*, always the same one while the node is the same.

        Args:
            place: A path of the node.
            node: The node.
            tree: Whether it is about a folder and all below it.
            same: The rule that `[[access]]` or `[[common_files]]` have for the same
                thing: both are one rule.
        """
        # The look at a tree is made in other threads: whoever is first has made it.
        made = self._made.setdefault(node.node_id.lower(), {})
        rule = made.get((place.files, tree))
        if rule is None:
            rule = self._make(place, node, tree)
            if same is not None:
                rule = evolve(same.merged(rule), node=node.node_id)
            rule = made.setdefault((place.files, tree), rule)
        return rule

    def _make(self, place: NodePath, node: ServedNode, tree: bool) -> Rule:
        files, key = place.files, node.key
        digests = () if key is None else key.digests
        keys = KeyList([Entry(text, origin=files.origin) for text in digests])
        names, addresses = HostnameList(), AddressList()
        if files.legacy_hosts:
            names, addresses = self._hosts(files, node)
        shown = to_text(place.root)
        return Rule(
            kind="path",
            path=place.root,
            tree=tree,
            text=shown + "/" if tree else shown,
            origin=files.origin,
            index=files.index,
            written=(files.written,),
            origins=(files.origin,),
            admit_ips=addresses,
            admit_hostnames=names,
            admit_keys=keys,
            maproot=addresses,
            maproot_hostnames=names,
            maproot_keys=keys,
            table="node_files",
            node=node.node_id,
        )

    def called(self, node: ServedNode) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """
        The host name and addresses by which `legacy_hosts` admits a node; and those by
        which it does not, because other nodes have them, too.
        """
        names = () if node.hostname is None else (node.hostname,)
        texts = (*names, *node.addresses)
        counts = self._counts
        return (
            tuple(text for text in texts if counts.get(text) == 1),
            tuple(text for text in texts if counts.get(text, 0) > 1),
        )

    def _hosts(
        self, files: NodeFiles, node: ServedNode
    ) -> tuple[HostnameList, AddressList]:
        """
        What `legacy_hosts` admits: what names this node and no other one.
        """
        names: list[HostnameEntry] = []
        name = node.hostname
        if name is not None and self._counts[name] == 1:
            names.append(HostnameEntry(text=name, name=name, origin=files.origin))
        addresses: list[AddressPattern] = [
            evolve(parse_entry(text, acl=True), origin=files.origin)
            for text in node.addresses
            if self._counts[text] == 1
        ]
        return HostnameList(names), AddressList(addresses, acl=True)

    def places(self) -> Iterator[tuple[ServedNode, NodePath]]:
        """
        Each path that is open to a node, by id, and in the order of the configuration.
        """
        for node in sorted(self._known.values(), key=lambda node: node.node_id):
            if node.key is None:
                continue
            for files in self.rules.node_files:
                place = files.place(node.node_id)
                if place is not None:
                    yield node, place
