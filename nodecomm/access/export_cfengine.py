# SPDX-License-Identifier: MIT
"""
The rules in CFEngine's policy language: a bundle that `cf-serverd` loads, and decides
by as this server does.

What the language has no words for is told, in the file and to whoever asked for it, and
closes more than it opens: an entry that cannot be said admits nobody, and a rule with
such an entry in a deny list admits nobody at all.

Source: CFEngine 3.21, observed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from attrs import field, frozen

from nodecomm.access.entries import (
    CONNECTION_HOSTNAME,
    CONNECTION_IP,
    CONNECTION_KEY,
    Entry,
    HostnameEntry,
)
from nodecomm.access.export_entries import (
    Md5Of,
    UnsayableError,
    address_entries,
    hostname_entry,
    key_entries,
    quoted,
    whole,
)
from nodecomm.access.networks import AddressPattern
from nodecomm.access.paths import Resolve
from nodecomm.access.rules import LIST_NAMES, Rule, RuleList
from nodecomm.access.snapshot import Snapshot
from nodecomm.wire.text import from_text, safe, to_text

__all__ = ["BUNDLE", "Exported", "LeftOut", "export_policy", "string_list"]

#: What the bundle is called.
BUNDLE = "access_rules"

#: Columns of a list that stands in one line.
_WIDTH = 70

_WORD = b"$(connection."
_WORDS = frozenset({CONNECTION_IP, CONNECTION_HOSTNAME, CONNECTION_KEY})

_HOST_NAMES = (
    "host names: cf-serverd takes the name that a reverse look-up gives; here it must "
    "also lead back to the address"
)
_SHA_NAMES = (
    "$(connection.key) in a path: cf-serverd puts the MD5 digest there; here a path "
    "with the SHA digest leads to the same rule"
)
_RIGHTS = (
    "node_files: a file that others may not read is given to its node's key here; "
    "cf-serverd gives it to the user root or its owner only"
)
_TRUST = (
    "node_files: the keys of accepted nodes are trusted here; cf-serverd needs them in "
    "its ppkeys folder, or trustkeysfrom"
)
_CLASSIC = (
    "the classic protocol: over it cf-serverd knows no keys, so admit_keys and "
    "$(connection.*) admit nobody and deny_keys denies nobody, and it believes the "
    "peer what it is called"
)
_CLOSED = "the rule is written so that it admits nobody"


@frozen
class LeftOut:
    """
    Something that the language has no words for.

    Attributes:
        rule: The rule that it is about, as messages name it.
        text: What is missing, and why.
    """

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


class Control(Protocol):
    """
    What stands before the bundle: see `nodecomm.access.export_control`.
    """

    policy: bytes
    left_out: list[LeftOut]
    notes: list[str]


@frozen
class Exported:
    """
    The rules in CFEngine's language.

    Attributes:
        policy: The file.
        promises: How many there are in it.
        left_out: What it does not say.
        notes: Where `cf-serverd` differs whatever is said.
    """

    policy: bytes
    promises: int
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


@frozen
class _Promise:
    """
    One promise of type `access`, as far as it is said.

    Attributes:
        promiser: What it is about, as bytes of the file.
        about: The rules that it was made of, for people.
        kind: `resource_type`.
        attributes: Attributes other than lists, as bytes of the file.
        lists: Entries by list.
        closed: Nobody may be admitted by it.
    """

    promiser: bytes
    about: tuple[str, ...]
    kind: str = "path"
    attributes: tuple[tuple[str, bytes], ...] = ()
    lists: dict[str, list[str]] = field(factory=dict)
    closed: bool = False

    def with_(self, other: _Promise) -> _Promise:
        """
        Both as one, as cf-serverd takes two promises about the same path.
        """
        lists = {name: list(entries) for name, entries in self.lists.items()}
        for name, entries in other.lists.items():
            mine = lists.setdefault(name, [])
            mine.extend(entry for entry in entries if entry not in mine)
        return _Promise(
            self.promiser,
            tuple(dict.fromkeys((*self.about, *other.about))),
            self.kind,
            tuple(dict.fromkeys((*self.attributes, *other.attributes))),
            lists,
            self.closed or other.closed,
        )

    def written(self) -> bytes:
        """
        The promise.
        """
        lines = [f"      # {text}\n".encode("ascii", "replace") for text in self.about]
        attributes = list(self.attributes)
        if self.kind != "path":
            attributes.insert(0, ("resource_type", quoted(self.kind.encode())))
        attributes += [
            (name, string_list(entries))
            for name, entries in self.lists.items()
            if entries and not (self.closed and not name.startswith("deny"))
        ]
        made = [b"        %s => %s" % (name.encode(), it) for name, it in attributes]
        text = b"".join(lines) + b"      " + self.promiser
        return text + b"".join(b"\n" + b",\n".join(made) for _ in made[:1]) + b";\n"


def string_list(entries: Sequence[str]) -> bytes:
    """
    A list of strings in the language.
    """
    made = [
        quoted(e.encode("utf-8", "surrogateescape"), words=e in _WORDS) for e in entries
    ]
    line = b"{ " + b", ".join(made) + b" }"
    if len(line) <= _WIDTH:
        return line
    return (
        b"{\n" + b"".join(b"          %s,\n" % entry for entry in made) + b"        }"
    )


def export_policy(
    snapshot: Snapshot,
    *,
    resolve: Resolve,
    md5_of: Md5Of,
    source: str = "",
    bundle: str = BUNDLE,
    control: Control | None = None,
    without_rule: Iterable[str] = (),
) -> Exported:
    """
    Write the rules that are in force.

    Args:
        snapshot: They, with the nodes that are served.
        resolve: What a path is now. It may raise OSError.
        md5_of: Knows keys.
        source: What the rules were read from.
        bundle: What the bundle is called.
        control: `body server control`, for a file that is a policy by itself.
        without_rule: What to tell of nodes that no rule is about.
    """
    writer = _Writer(snapshot, resolve, md5_of)
    access, roles = writer.access(), writer.roles()
    missing, notes = writer.left_out, writer.notes()
    before = b""
    if control is not None:
        missing, notes = [*control.left_out, *missing], [*control.notes, *notes]
        before = control.policy
    text = _head(source, missing, notes, without_rule) + before
    text += b"bundle server %s()\n{\n" % bundle.encode("ascii")
    if access:
        text += b"  access:\n" + b"\n".join(promise.written() for promise in access)
    if roles:
        text += b"\n" if access else b""
        text += b"  roles:\n" + b"\n".join(roles)
    promises = len(access) + len(roles)
    return Exported(text + b"}\n", promises, tuple(missing), tuple(notes))


def _head(
    source: str,
    left_out: Iterable[LeftOut],
    notes: Iterable[str],
    without_rule: Iterable[str],
) -> bytes:
    lines = ["Access rules of nodecomm for cf-serverd."]
    if source:
        lines.append(f"Exported from {source}: write changes there, and export again.")
    for title, items in (
        ("Not in here, for want of words in this language:", left_out),
        ("Decided in another way by cf-serverd:", notes),
        ("Accepted nodes without a rule:", without_rule),
    ):
        told = [f"- {item}" for item in items]
        if told:
            lines += ["", title, *told]
    text = "".join(f"# {safe(line)}".rstrip() + "\n" for line in lines)
    return text.encode("ascii", "backslashreplace") + b"\n"


class _Writer:
    """
    One export.
    """

    def __init__(self, snapshot: Snapshot, resolve: Resolve, md5_of: Md5Of) -> None:
        self._snapshot = snapshot
        self._resolve = resolve
        self._md5_of = md5_of
        self._legacy = bool(len(snapshot.allowlegacyconnects))
        self.left_out: list[LeftOut] = []
        self._host_names = False
        self._keyed_paths = False
        self._nodes = False

    def access(self) -> list[_Promise]:
        """
        All promises of type `access`. Paths below others come first: over the classic
        protocol the first that fits decides, over TLS the longest. Those of nodes stand
        by id.
        """
        found: dict[bytes, _Promise] = {}
        order: dict[bytes, tuple[int, bytes]] = {}
        nodes = self._snapshot.rules_of_nodes()
        for rule in (*self._snapshot.rules, *nodes):
            for path, promise in self._paths(rule):
                known = found.get(path)
                found[path] = promise if known is None else known.with_(promise)
                order[path] = (-path.rstrip(b"/").count(b"/"), path)
        made = [found[path] for path in sorted(found, key=order.__getitem__)]
        made += self._more_shortcuts()
        return [*made, *self._names()]

    def _paths(self, rule: Rule) -> Iterator[tuple[bytes, _Promise]]:
        """
        The promises about the path of a rule, each with what it covers.
        """
        root = rule.path.rstrip(b"/")
        covered = [root + b"/" if rule.tree else root]
        closed = rule.source is not None
        if closed:
            self._tell(
                rule,
                f"the source {rule.source} answers below it, which cf-serverd does not "
                f"have; {_CLOSED}",
            )
        if rule.node:
            self._nodes = True
            if not self._is_itself(rule):
                return
            if not rule.tree:
                # A file or a folder, whichever there is.
                covered.append(root + b"/")
        if _WORD in rule.path:
            self._keyed_paths |= b"(connection.key)" in rule.path
            self._host_names |= b"(connection.hostname)" in rule.path
        lists, closed = self._lists(rule, closed=closed)
        attributes = self._shortcuts(rule)[:1]
        if rule.ifencrypted:
            attributes.append(("ifencrypted", b'"true"'))
        for path in covered:
            yield (
                path,
                _Promise(
                    quoted(path, words=True),
                    (_about(rule),),
                    attributes=tuple(attributes),
                    lists=lists,
                    closed=closed,
                ),
            )

    def _is_itself(self, rule: Rule) -> bool:
        """
        Whether the folder of a node is no link: here nothing is served through one, and
        cf-serverd would open what it leads to.
        """
        try:
            real = self._resolve(rule.path)
        except OSError as error:
            why = error.strerror or type(error).__name__
            self._tell(rule, f"it cannot be looked at ({why}), so no rule is written")
            return False
        if real is None or real.path == rule.path:
            return True
        self._tell(
            rule,
            f"it is a link to {to_text(real.path)}: through it nothing is open here, "
            "and cf-serverd would open what it leads to, so no rule is written",
        )
        return False

    def _lists(self, rule: Rule, *, closed: bool) -> tuple[dict[str, list[str]], bool]:
        """
        The lists of a rule, and whether it must be closed.
        """
        lists: dict[str, list[str]] = {}
        for name, entries in rule.lists():
            lists[name], unsaid = self._entries(rule, name, entries)
            if unsaid and name.startswith("deny"):
                self._tell(rule, f"a part of {name} is missing, so {_CLOSED}")
                closed = True
        mapped, _ = self._entries(rule, "maproot", rule.maproot)
        more, _ = self._entries(rule, "maproot", rule.maproot_hostnames)
        lists["maproot"] = [*mapped, *more]
        return lists, closed

    def _entries(
        self, rule: Rule, name: str, entries: RuleList
    ) -> tuple[list[str], bool]:
        """
        What one list says, and whether something of it could not be said.
        """
        said: list[str] = []
        unsaid = False
        words = entries.words
        keep_words = _WORD in rule.path and self._may_have_words(rule, name)
        for entry in entries:
            if entry.ineffective or (entry in words and not keep_words):
                # It matches nobody here; there a word does wherever the name of a
                # file holds the peer's address or key.
                continue
            try:
                said.extend(self._said(rule, entry))
            except UnsayableError as error:
                unsaid = True
                self._tell(rule, f'entry "{entry.text}" of {name}: {error}')
        return list(dict.fromkeys(said)), unsaid

    def _said(self, rule: Rule, entry: Entry) -> Iterable[str]:
        if isinstance(entry, AddressPattern):
            return address_entries(entry)
        if isinstance(entry, HostnameEntry):
            self._host_names = True
            return (hostname_entry(entry),)
        if rule.node and entry.text.startswith("SHA="):
            # The MD5 digest of the same key is beside it.
            return ()
        return key_entries(entry, self._md5_of)

    def _may_have_words(self, rule: Rule, name: str) -> bool:
        """
        Whether `$(connection.*)` may stand in a list: where they admit somebody,
        cf-serverd asks no other entry of the deny lists.
        """
        if name.startswith("deny"):
            return True
        concrete = [
            list_name
            for list_name in LIST_NAMES
            if list_name.startswith("deny")
            for entries in [getattr(rule, list_name)]
            if len(entries) > len(entries.words)
        ]
        if not concrete:
            return True
        if getattr(rule, name).words:
            self._tell(
                rule,
                f"where $(connection.*) of {name} admit, cf-serverd does not ask "
                f"{' and '.join(concrete)}; so they are left out, and it admits nobody",
            )
        return False

    def _shortcuts(self, rule: Rule) -> list[tuple[str, bytes]]:
        """
        The shortcuts that stand for the path of a rule, as attributes.
        """
        written = {from_text(text) for text in rule.written}
        return [
            ("shortcut", quoted(cut.name))
            for cut in self._snapshot.shortcuts.values()
            if cut.target in written
        ]

    def _more_shortcuts(self) -> Iterator[_Promise]:
        """
        A promise has one shortcut; others of the same path are promises of their own.
        """
        for rule in self._snapshot.rules:
            path = rule.path.rstrip(b"/") + (b"/" if rule.tree else b"")
            for attribute in self._shortcuts(rule)[1:]:
                about = (f"{_about(rule)}: another shortcut",)
                promiser = quoted(path, words=True)
                yield _Promise(promiser, about, attributes=(attribute,))

    def _names(self) -> Iterator[_Promise]:
        """
        The rules of other resource types.
        """
        for rule in self._snapshot.names:
            if rule.kind == "literal":
                self._tell(
                    rule,
                    "the language has the text of a literal in its rule, and here it "
                    "comes from elsewhere; no rule is written",
                )
                continue
            if rule.kind in ("context", "bundle"):
                if rule.pattern is None:
                    continue
                name = whole(rule.pattern.text).encode("utf-8", "surrogateescape")
            else:
                name = rule.path
            lists, closed = self._lists(rule, closed=False)
            del lists["maproot"]
            attributes = (("ifencrypted", b'"true"'),) if rule.ifencrypted else ()
            yield _Promise(
                quoted(name), (_about(rule),), rule.kind, attributes, lists, closed
            )

    def roles(self) -> list[bytes]:
        """
        All promises of type `roles`.
        """
        made = []
        for rule in self._snapshot.roles:
            if rule.pattern is None or not rule.authorize:
                continue
            name = whole(rule.pattern.text).encode("utf-8", "surrogateescape")
            made.append(
                b"      # %s\n      %s\n        authorize => %s;\n"
                % (
                    _about(rule).encode("ascii", "replace"),
                    quoted(name),
                    string_list(rule.authorize),
                )
            )
        return made

    def notes(self) -> list[str]:
        """
        Where cf-serverd differs from what these rules mean here.
        """
        told = (
            (self._host_names, _HOST_NAMES),
            (self._keyed_paths, _SHA_NAMES),
            (self._nodes, _RIGHTS),
            (self._nodes, _TRUST),
            (self._legacy, _CLASSIC),
        )
        return [text for applies, text in told if applies]

    def _tell(self, rule: Rule, text: str) -> None:
        left = LeftOut(rule.label, safe(text))
        if left not in self.left_out:
            self.left_out.append(left)


def _about(rule: Rule) -> str:
    node = f", node {rule.node}" if rule.node else ""
    return safe(f"{rule.label}{node}")
