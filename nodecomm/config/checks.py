# SPDX-License-Identifier: MIT
"""
What the keys of a configuration must be together. What one value must be stands in
`nodecomm.config.shapes`; what an address or a pattern can match is decided where it
is used, in `nodecomm.access`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from attrs import frozen

from nodecomm.config.errors import Problem, child_path, element_path
from nodecomm.config.execution import SYNC, check_execution
from nodecomm.config.fields import About
from nodecomm.config.inventory import check_inventory
from nodecomm.config.model import AccessSettings, LogSettings, Settings
from nodecomm.config.node_files import check_node_files
from nodecomm.config.placed import Checks
from nodecomm.config.shapes import MismatchError, check_about

__all__ = ["check_log", "check_settings"]

#: The variables that stand for something of the peer.
PEER_VARIABLES = ("$(connection.ip)", "$(connection.hostname)", "$(connection.key)")

_VARIABLE = re.compile(r"\$\([^)]*\)|\$\{[^}]*\}")
_ABSOLUTE = About("", shape="absolute-path")


def check_settings(settings: Settings) -> list[Problem]:
    """
    Everything that is wrong between the keys of *settings*.
    """
    checks = _Checks(settings)
    return [
        *checks.server(),
        *check_execution(checks, "server", settings.server, settings.roles),
        *checks.access(),
        *check_log(checks, settings.log),
        *checks.repeated("plugins.commands", settings.plugins.commands),
        *checks.inventory(),
        *check_node_files(
            checks, settings.inventory, settings.node_files, settings.common_files
        ),
    ]


@frozen
class _Checks(Checks[Settings]):
    def server(self) -> Iterator[Problem]:
        """
        `[server]`.
        """
        server = self.whole.server
        if not server.listen:
            yield self.problem(
                "server.listen",
                "the server would listen nowhere",
                [],
                'write ["tcp6:5308"]',
            )
        yield from self.repeated("server.listen", server.listen)
        for index, network in enumerate(server.allowed_networks):
            path = element_path("server.allowed_networks", index)
            if network[:1] == "@":
                yield self.problem(
                    path, "no name can stand in the list that is named", network
                )
            elif not network.strip():
                yield self.problem(
                    path, "an empty text is no address", network, "leave it out"
                )
        if server.allowlegacyconnects:
            yield self.problem(
                "server.allowlegacyconnects",
                "the classic protocol does not protect what is sent: whoever is "
                "between node and server can read or change it",
                list(server.allowlegacyconnects),
                "list only nodes that cannot speak TLS yet",
                warning=True,
            )
        if not re.fullmatch(r"[!-~]+", server.allowciphers):
            yield self.problem(
                "server.allowciphers",
                "not a list of cipher suites",
                server.allowciphers,
                'write names divided by ":", or leave the key out',
            )

    def inventory(self) -> Iterator[Problem]:
        """
        `[inventory]` and each `[[registered]]`.
        """
        inventory, registered = self.whole.inventory, self.whole.registered
        if inventory is not None:
            yield from check_inventory(self, inventory, registered)
        elif registered:
            yield self.problem(
                "registered",
                "without [inventory] the server knows no nodes",
                None,
                "write [inventory], or leave [[registered]] out",
                warning=True,
            )

    def access(self) -> Iterator[Problem]:
        """
        Each `[[access]]`, and their shortcuts together.
        """
        yield from self.bundles()
        shortcuts: dict[str, str] = {}
        for index, rule in enumerate(self.whole.access):
            path = element_path("access", index)
            yield from self.rule(path, rule)
            if rule.shortcut is None:
                continue
            here = child_path(path, "shortcut")
            if rule.shortcut in shortcuts:
                yield self.problem(
                    here,
                    f"the name is taken by {self.named(shortcuts[rule.shortcut])}",
                    rule.shortcut,
                    "give each shortcut its own name",
                )
            shortcuts.setdefault(rule.shortcut, here)

    def bundles(self) -> Iterator[Problem]:
        """
        Rules about bundles where nothing is run that takes any.
        """
        command = self.whole.server.cfruncommand
        if command and command != SYNC:
            return
        for index, rule in enumerate(self.whole.access):
            if rule.resource_type != "bundle":
                continue
            why = "the node's own sync takes no bundles"
            what = "write a command of your own as cfruncommand"
            if not command:
                why = "without cfruncommand there is nothing to run"
                what = "write cfruncommand in [server]"
            yield self.problem(
                element_path("access", index),
                f"a rule about bundles has no effect: {why}",
                None,
                f"leave it out, or {what}",
                warning=True,
            )
            return

    def rule(self, path: str, rule: AccessSettings) -> Iterator[Problem]:
        """
        One `[[access]]`.
        """
        where = child_path(path, "path")
        if rule.resource_type != "path":
            if not rule.path:
                yield self.problem(
                    where,
                    f"a {rule.resource_type} rule without a handle or pattern",
                    rule.path,
                    'write path = "..." with the handle or pattern',
                )
            for key in ("shortcut", "source"):
                if getattr(rule, key) is not None:
                    yield self.problem(
                        child_path(path, key),
                        f"this belongs to paths; the rule is about a "
                        f"{rule.resource_type}",
                        getattr(rule, key),
                        'leave it out, or resource_type = "path"',
                    )
        elif rule.path is None:
            if rule.source is None:
                yield self.problem(
                    where,
                    "neither path nor source is given",
                    None,
                    'write path = "/..." for the file or folder that is served',
                )
            else:
                yield self.problem(
                    where,
                    "the source has no path below which it answers",
                    None,
                    f'write path = "/{rule.source}" or another absolute path',
                )
        else:
            yield from self.file_path(where, rule.path)

    def file_path(self, where: str, path: str) -> Iterator[Problem]:
        """
        The path of a rule about files.
        """
        try:
            check_about(path, _ABSOLUTE)
        except MismatchError as error:
            yield self.problem(where, error.message, path, error.hint)
        for variable in _VARIABLE.findall(path):
            if variable not in PEER_VARIABLES:
                yield self.problem(
                    where,
                    f"{variable} stands for nothing and is taken as it is",
                    path,
                    "known are " + ", ".join(PEER_VARIABLES),
                    warning=True,
                )


def check_log(checks: Checks[Any], log: LogSettings) -> Iterator[Problem]:
    """
    `[log]`, which a server and an agent have alike.
    """
    if log.file is not None and log.file == log.audit:
        yield checks.problem(
            "log.audit",
            "the log is written to the same file",
            log.audit,
            "give the audit log its own file",
        )
