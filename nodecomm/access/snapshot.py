# SPDX-License-Identifier: MIT
"""
All rules in force, as one immutable value that is replaced as a whole.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from attrs import field, frozen

from nodecomm.access import decision as reasons
from nodecomm.access.decision import Decision
from nodecomm.access.entries import CONNECTION_HOSTNAME, CONNECTION_IP, CONNECTION_KEY
from nodecomm.access.networks import AddressList
from nodecomm.access.nodes import NodeRules, ServedNode, ServedNodes
from nodecomm.access.patterns import Pattern
from nodecomm.access.requests import ROLE
from nodecomm.access.rules import Rule
from nodecomm.config.errors import Origin

if TYPE_CHECKING:
    from nodecomm.access.execution import Execution
    from nodecomm.access.node_paths import NodePath
    from nodecomm.identity.peer import Peer

__all__ = [
    "HostnameNeededError",
    "Shortcut",
    "Snapshot",
    "expandable_hostname",
    "path_pattern",
]

_IP = CONNECTION_IP.encode()
_HOSTNAME = CONNECTION_HOSTNAME.encode()
_KEY = CONNECTION_KEY.encode()
_SAFE_HOSTNAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\Z")


class HostnameNeededError(Exception):
    """
    A shortcut stands for a path with the peer's host name in it, and that name is
    not known. Close the connection, never refuse: a refused STAT makes a purging node
    delete its copy.
    """


@frozen
class Shortcut:
    """
    A name for the beginning of a path.

    Attributes:
        name: What a request begins with.
        target: The path as it was written, `$(connection.*)` included.
        origin: Where it stands.
        folder: The target with a final slash; None when it has `$(connection.*)`.
    """

    name: bytes
    target: bytes
    origin: Origin | None = None
    folder: bytes | None = field(init=False, repr=False, eq=False)

    @folder.default
    def _folder(self) -> bytes | None:
        if b"$(connection." in self.target:
            return None
        return self.target.rstrip(b"/") + b"/"


def expandable_hostname(peer: Peer) -> bytes | None:
    """
    The peer's host name where it may stand in a path, or None. A name from the DNS
    may hold any byte; one with a slash must not become part of a path.
    """
    name = peer.hostname
    if peer.hostname_known and name and _SAFE_HOSTNAME.match(name):
        return name.encode("ascii")
    return None


@frozen(eq=False)
class Snapshot:
    """
    The rules and lists of one loaded configuration.

    Attributes:
        generation: Counts the configurations loaded.
        rules: The path rules that are the same whichever nodes there are, merged by
            path, in the order of the configuration.
        names: The rules of the other resource types.
        shortcuts: By name.
        allowconnects, denyconnects, allowallconnects, allowlegacyconnects: Who may
            connect, and how.
        allowusers: The user names that may ask for a run.
        users_origin: Where that list stands; None where it is not written.
        execution: What is run then; None: nothing.
        roles: Which classes a run may be given, by whom.
        node_rules: What the configuration says about the files of nodes.
        served: The nodes, see `with_nodes`; None: not known.
        mounts: Path to the name of the file source that answers below it.
        uses_hostnames: Whether any answer may depend on a peer's host name; if not,
            none need be looked up.
        substitutes: Whether any path rule has `$(connection.*)` in its path.
        file_substitutes: Whether one of those covers exactly one file.
        files: The rules that cover exactly one thing, by path.
    """

    generation: int = 0
    rules: tuple[Rule, ...] = ()
    names: tuple[Rule, ...] = ()
    shortcuts: Mapping[bytes, Shortcut] = field(factory=dict)
    allowconnects: AddressList = field(factory=AddressList)
    denyconnects: AddressList = field(factory=AddressList)
    allowallconnects: AddressList = field(factory=AddressList)
    allowlegacyconnects: AddressList = field(factory=AddressList)
    allowusers: frozenset[str] = frozenset()
    users_origin: Origin | None = None
    execution: Execution | None = None
    roles: tuple[Rule, ...] = ()
    node_rules: NodeRules = field(factory=NodeRules)
    served: ServedNodes | None = field(default=None, init=False)
    mounts: Mapping[bytes, str] = field(init=False)
    uses_hostnames: bool = field(init=False)
    substitutes: bool = field(init=False)
    file_substitutes: bool = field(init=False)
    files: Mapping[bytes, Rule] = field(init=False, repr=False)
    _words: frozenset[bytes] = field(init=False, repr=False)
    _trees: dict[bytes, Rule] = field(init=False, repr=False)
    _exact_names: dict[tuple[str, bytes], Rule] = field(init=False, repr=False)
    _hostname_paths: tuple[tuple[Pattern, Rule], ...] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        put = object.__setattr__
        trees: dict[bytes, Rule] = {}
        files: dict[bytes, Rule] = {}
        for rule in self.rules:
            if rule.tree:
                trees[rule.path.rstrip(b"/")] = rule
            # A source may answer for its path itself with something that is no
            # folder.
            if not rule.tree or rule.source is not None:
                files[rule.path] = rule
        put(self, "_trees", trees)
        put(self, "files", files)
        put(self, "_exact_names", {(r.kind, r.path): r for r in self.names})
        put(
            self,
            "mounts",
            MappingProxyType({r.path: r.source for r in self.rules if r.source}),
        )
        paths = [rule.path for rule in self.rules]
        put(self, "substitutes", any(b"$(connection." in path for path in paths))
        words = (_IP, _HOSTNAME, _KEY)
        used = frozenset(word for word in words if any(word in path for path in paths))
        put(self, "_words", used)
        put(self, "file_substitutes", any(b"$(connection." in path for path in files))
        named = [rule for rule in self.rules if _HOSTNAME in rule.path]
        put(
            self,
            "_hostname_paths",
            tuple((path_pattern(r.path, tree=r.tree), r) for r in named),
        )
        put(
            self,
            "uses_hostnames",
            bool(named)
            or self.node_rules.legacy_hosts
            or any(rule.uses_hostnames for rule in (*self.rules, *self.names))
            or any(_HOSTNAME in cut.target for cut in self.shortcuts.values()),
        )

    def with_nodes(
        self, nodes: Mapping[str, ServedNode] | Iterable[ServedNode] | None
    ) -> Snapshot:
        """
        The same rules for other nodes. Cheap: the rules of a node are made when
        somebody asks for something of it, and those of nodes that are the same as
        before are the same rules.

        Args:
            nodes: All nodes that are served here, as values of a table or one after
                another; None: they are not known. Then whatever might be a node's is
                undecidable.
        """
        before = self.served
        if nodes is None:
            if before is None:
                return self
            served = None
        else:
            served = ServedNodes(self.node_rules, nodes, before)
            if before is not None and before.nodes == served.nodes:
                return self
        twin = copy.copy(self)
        object.__setattr__(twin, "served", served)
        return twin

    @property
    def nodes(self) -> Mapping[str, ServedNode] | None:
        """
        The nodes that are served here, by id in lower case; None: they are not known.
        """
        return None if self.served is None else self.served.nodes

    def rules_of_nodes(self) -> Iterator[Rule]:
        """
        The rules about the files of nodes, by id: all of them, made now. Where
        `[[access]]` has a rule for the same path, both are one.
        """
        served = self.served
        if served is not None:
            for node, place in served.places():
                yield self._rule_at(served, place, node, tree=place.files.tree)

    def pending_root(self, path: bytes, is_directory: bool) -> bytes | None:
        """
        While the nodes are not known: the folder (or file) of the node that *path*
        might be of; None: what decides about it is known.
        """
        if self.served is not None or not self.node_rules:
            return None
        place = next(self.node_rules.paths(path, is_directory), None)
        return None if place is None else place.root

    def _rule_at(
        self, served: ServedNodes, place: NodePath, node: ServedNode, *, tree: bool
    ) -> Rule:
        same = (self._trees if tree else self.files).get(place.root)
        return served.rule(place, node, tree=tree, same=same)

    def find(self, path: bytes, is_directory: bool) -> Rule | None:
        """
        The rule with the longest path that covers *path* (resolved, without a final
        slash), or None.
        """
        rule = self._find(path, is_directory)
        served = self.served
        if served is None or not self.node_rules:
            return rule
        for place in self.node_rules.paths(path, is_directory):
            if rule is not None and len(rule.path) > len(place.root):
                return rule
            node = served.find(place)
            if node is not None:
                tree = is_directory or len(path) > len(place.root)
                return self._rule_at(served, place, node, tree=tree)
        return rule

    def _find(self, path: bytes, is_directory: bool) -> Rule | None:
        """
        As `find`, among the rules that are the same whichever nodes there are.
        """
        if is_directory:
            parent = path if path != b"/" else b""
        else:
            rule = self.files.get(path)
            if rule is not None:
                return rule
            parent = path[: path.rfind(b"/")]
        trees = self._trees
        while True:
            rule = trees.get(parent)
            if rule is not None or not parent:
                return rule
            parent = parent[: parent.rfind(b"/")]

    def substituted(self, peer: Peer, path: bytes) -> bytes | None:
        """
        *path* with the peer's own address, host name and key digest (both names of
        the key) turned back into `$(connection.*)`; None when none of them is in it.
        Only words that stand in the path of some rule are looked for.
        """
        changed = path
        if _IP in self._words and peer.address:
            changed = path.replace(peer.address.encode("utf-8", "replace"), _IP)
        if _HOSTNAME in self._words:
            hostname = expandable_hostname(peer)
            if hostname is not None:
                changed = changed.replace(hostname, _HOSTNAME)
        if _KEY in self._words and peer.key is not None and b"=" in changed:
            for digest in peer.key.digests:
                changed = changed.replace(digest.encode("ascii"), _KEY)
        return changed if changed != path else None

    def hostname_rule(self, path: bytes, is_directory: bool) -> Rule | None:
        """
        A rule with `$(connection.hostname)` in its path that could cover *path* for a
        peer with a fitting name, or None.
        """
        subject = path + b"/" if is_directory and path != b"/" else path
        for pattern, rule in self._hostname_paths:
            if pattern.matches(subject):
                return rule
        return None

    def named(self, kind: str, name: bytes) -> list[Rule]:
        """
        The rules of that kind (not `path`), or the roles, that are about *name*, in
        order.
        """
        if kind in ("context", "bundle", ROLE):
            return [
                rule
                for rule in (self.roles if kind == ROLE else self.names)
                if rule.kind == kind
                and rule.pattern is not None
                and rule.pattern.matches(name)
            ]
        rule = self._exact_names.get((kind, name))
        return [] if rule is None else [rule]

    def expand_shortcut(self, peer: Peer, name: bytes) -> bytes | None:
        """
        The path that a request for *name* (`shortcut` or `shortcut/rest`) means to
        this peer; None when it begins with no shortcut. The path is not resolved.

        Raises:
            HostnameNeededError: It depends on the host name, which is not known.
        """
        first, slash, rest = name.partition(b"/")
        shortcut = self.shortcuts.get(first) if first else None
        if shortcut is None:
            return None
        if slash and shortcut.folder is not None:
            return shortcut.folder + rest
        path = shortcut.target
        if shortcut.folder is None:
            path = path.replace(_IP, peer.address.encode("utf-8", "replace"))
            if _HOSTNAME in path:
                if not peer.hostname_known:
                    raise HostnameNeededError(shortcut.name)
                hostname = expandable_hostname(peer)
                if hostname is not None:
                    path = path.replace(_HOSTNAME, hostname)
            if peer.key is not None:
                # Source: CFEngine 3.21, community edition: the digest is MD5.
                path = path.replace(_KEY, peer.key.md5.encode("ascii"))
        if not slash:
            return path
        return path.rstrip(b"/") + b"/" + rest

    def check_connection(self, address: str) -> Decision:
        """
        Whether a connection from *address* is taken at all.
        """
        if len(self.allowconnects):
            allowed = self.allowconnects.find(address)
            if allowed is None:
                return Decision(
                    False,
                    reasons.NOT_ALLOW_CONNECTS,
                    f"no entry of allowconnects matches {address}",
                    list_name="allowconnects",
                )
        denied = self.denyconnects.find(address)
        if denied is not None:
            return Decision(
                False,
                reasons.DENY_CONNECTS,
                f'entry "{denied.text}" of denyconnects matches {address}',
                list_name="denyconnects",
                entry=denied.text,
            )
        return Decision(
            True, reasons.ADMITTED, f"{address} may connect", list_name="allowconnects"
        )

    def check_legacy_connection(self, address: str) -> Decision:
        """
        Whether *address*, which may connect, may speak the classic protocol. An empty
        list allows nobody.
        """
        found = self.allowlegacyconnects.find(address)
        if found is None:
            return Decision(
                False,
                reasons.NOT_ALLOW_LEGACY_CONNECTS,
                f"no entry of allowlegacyconnects matches {address}, so it may not "
                "speak the classic protocol",
                list_name="allowlegacyconnects",
            )
        return Decision(
            True,
            reasons.ADMITTED,
            f'entry "{found.text}" of allowlegacyconnects lets {address} speak the '
            "classic protocol",
            list_name="allowlegacyconnects",
            entry=found.text,
        )


def path_pattern(path: bytes, *, tree: bool) -> Pattern:
    """
    What a request must look like to be covered by a rule with `$(connection.*)` in
    its path, whoever asks.

    Args:
        path: The path of the rule.
        tree: Whether the rule covers a folder and all below it.
    """
    words = re.split(rb"(\$\(connection\.(?:ip|hostname|key)\))", path)
    text = "".join(
        "[^/]+"
        if word in (_IP, _HOSTNAME, _KEY)
        else "".join(f"\\x{byte:02x}" for byte in word)
        for word in words
    )
    return Pattern(text + ("/.*" if tree else ""))
