# SPDX-License-Identifier: MIT
"""
From settings to a snapshot. Everything that is wrong or doubtful in the rules is found
in one run; nothing here touches the disk, paths are resolved by whoever calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodecomm.access.findings import Findings
from nodecomm.access.lists import ListReader
from nodecomm.access.node_reading import read_common_files, read_node_files
from nodecomm.access.paths import PathReader, Resolve, Resolved
from nodecomm.access.patterns import Pattern, UnsupportedPatternError
from nodecomm.access.roles import check_program, read_execution, read_roles
from nodecomm.access.rules import Rule
from nodecomm.access.snapshot import Shortcut, Snapshot
from nodecomm.config.errors import Problem
from nodecomm.config.model import AccessSettings, Settings
from nodecomm.wire.text import from_text, to_text

__all__ = ["Resolve", "Resolved", "compile_snapshot"]


def compile_snapshot(
    settings: Settings,
    *,
    resolve: Resolve,
    generation: int = 0,
    sync: Sequence[str] = (),
) -> tuple[Snapshot, list[Problem]]:
    """
    Make the snapshot of a configuration.

    Args:
        settings: What the configuration says.
        resolve: What a path is now, links followed; None when there is nothing. It
            may raise OSError.
        generation: The number of this configuration.
        sync: The program, with arguments, that `cfruncommand = "sync"` stands for;
            empty: whoever runs it does so without a program.

    Returns:
        The snapshot, and everything that was found wrong. With an error among the
        problems the snapshot must not be put in force: an entry that cannot be
        evaluated matches nobody in it, which in a deny list lets peers in.
    """
    findings = Findings(settings)
    snapshot = _Compiler(settings, findings, resolve).compile(generation, sync)
    check_program(settings, snapshot, findings, resolve)
    return snapshot, findings.problems


class _Compiler:
    """
    One run over one configuration.
    """

    def __init__(
        self, settings: Settings, findings: Findings, resolve: Resolve
    ) -> None:
        self._settings = settings
        self._findings = findings
        self._resolve = resolve
        self._paths = PathReader(findings, resolve)
        self._lists = ListReader(findings)
        self._shortcuts: dict[bytes, Shortcut] = {}

    def compile(self, generation: int, sync: Sequence[str]) -> Snapshot:
        """
        The snapshot.
        """
        server = self._settings.server
        rules: dict[tuple[str, bytes, bool], Rule] = {}
        for index, table in enumerate(self._settings.access):
            rule = self._rule(index, table)
            if rule is not None:
                self._add(rules, rule)
        for rule in read_common_files(
            self._settings, self._findings, self._paths, self._lists
        ):
            self._add(rules, rule)
        path_rules = tuple(rule for rule in rules.values() if rule.kind == "path")
        connections = self._lists.connections
        return Snapshot(
            generation=generation,
            rules=path_rules,
            names=tuple(rule for rule in rules.values() if rule.kind != "path"),
            shortcuts=self._shortcuts,
            allowconnects=connections("allowconnects", server.allowconnects),
            denyconnects=connections("denyconnects", server.denyconnects, deny=True),
            allowallconnects=connections("allowallconnects", server.allowallconnects),
            allowlegacyconnects=connections(
                "allowlegacyconnects", server.allowlegacyconnects
            ),
            allowusers=frozenset(server.allowusers),
            users_origin=self._settings.origin("server.allowusers"),
            execution=read_execution(self._settings, self._findings, sync),
            roles=read_roles(self._settings, self._findings),
            node_rules=read_node_files(
                self._settings, self._findings, self._resolve, path_rules
            ),
        )

    def _add(self, rules: dict[tuple[str, bytes, bool], Rule], rule: Rule) -> None:
        place = (rule.kind, rule.path, rule.tree)
        known = rules.get(place)
        rules[place] = rule if known is None else self._merge(known, rule)

    def _rule(self, index: int, table: AccessSettings) -> Rule | None:
        """
        The rule of one table; None when it has no usable path.
        """
        key = f"access[{index}]"
        # The lists are read first, so that their problems are told in any case.
        lists = self._lists.read(key, table)
        text = table.path
        if not text:
            self._findings.tell(
                key if text is None else f"{key}.path",
                "the rule does not say what it is about",
                hint='give it a path, such as path = "/srv/files"',
            )
            return None
        origin = self._findings.origin(f"{key}.path")
        pattern: Pattern | None = None
        tree, missing = False, False
        if table.resource_type == "path":
            place = self._paths.read(f"{key}.path", text, table.source)
            if place is None:
                return None
            self._shortcut(f"{key}.shortcut", table.shortcut, text)
            path, tree, missing = place
            shown = to_text(path) + ("/" if tree and path != b"/" else "")
        else:
            self._no_path(key, table)
            name = self._name(f"{key}.path", table, text)
            if name is None:
                return None
            path, pattern = name
            shown = text
        return Rule(
            kind=table.resource_type,
            path=path,
            tree=tree,
            text=shown,
            origin=origin,
            index=index,
            written=(text,),
            origins=(origin,),
            ifencrypted=table.ifencrypted,
            source=table.source,
            missing=missing,
            pattern=pattern,
            **lists,
        )

    def _no_path(self, key: str, table: AccessSettings) -> None:
        """
        Tell of what only path rules have.
        """
        for name in ("shortcut", "source"):
            value = getattr(table, name)
            if value is not None:
                self._findings.tell(
                    f"{key}.{name}",
                    f"a rule of type {table.resource_type} has no {name}",
                    value,
                    "leave it out",
                )

    def _name(
        self, key: str, table: AccessSettings, text: str
    ) -> tuple[bytes, Pattern | None] | None:
        """
        What a rule that is about no path is about.
        """
        if table.resource_type not in ("context", "bundle"):
            try:
                return from_text(text), None
            except ValueError as error:
                self._findings.tell(key, str(error), text)
                return None
        raw = text.encode("utf-8", "surrogatepass")
        try:
            return raw, Pattern(text)
        except UnsupportedPatternError as error:
            # Nothing is covered by the rule then, what it denies included.
            denies = (
                *table.deny_ips,
                *table.deny_hostnames,
                *table.deny_keys,
                *table.deny,
            )
            self._findings.tell(
                key,
                f"the regular expression cannot be evaluated, so the rule covers "
                f"nothing: {error}",
                text,
                "write it without that, or one rule for each name",
                "error" if denies else "warning",
            )
            return raw, None

    def _merge(self, known: Rule, rule: Rule) -> Rule:
        """
        Two tables for the same thing are one rule.
        """
        if rule.source != known.source and rule.table == "access":
            self._findings.tell(
                f"access[{rule.index}].source",
                f"{known.label} is the same path with another source",
                rule.source,
                "give both the same source, or leave it out in both",
            )

        return known.merged(rule)

    def _shortcut(self, key: str, shortcut: str | None, text: str) -> None:
        """
        Note the shortcut of a path rule.
        """
        if shortcut is None:
            return
        try:
            name = from_text(shortcut)
        except ValueError as error:
            self._findings.tell(key, str(error), shortcut)
            return
        if not name or b"/" in name or name in (b".", b".."):
            self._findings.tell(
                key,
                "no request begins with such a shortcut",
                shortcut,
                "a shortcut is one name without a slash",
            )
            return
        origin = self._findings.origin(key)
        known = self._shortcuts.get(name)
        if known is not None:
            where = f" ({known.origin})" if known.origin is not None else ""
            self._findings.tell(
                key,
                f"the shortcut stands for {to_text(known.target)} already{where}",
                shortcut,
                "give each shortcut once",
            )
            return
        self._shortcuts[name] = Shortcut(name, from_text(text), origin)
