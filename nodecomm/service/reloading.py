# SPDX-License-Identifier: MIT
"""
Putting a new configuration in force while sessions are open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodecomm.config.errors import Problem
from nodecomm.server.commands import builtin_commands, command_table
from nodecomm.server.execution.accounts import AccountError, find_account
from nodecomm.service.inventory_checks import waits_for_restart
from nodecomm.service.telling import changed_keys
from nodecomm.transport.limits import raise_descriptor_limit

if TYPE_CHECKING:
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.config.model import Settings
    from nodecomm.server.factory import TLSFactory
    from nodecomm.service.prepared import Prepared

__all__ = [
    "apply",
    "connections_that_fit",
    "folders_gone",
    "needs_restart",
    "run_user_problems",
    "visits_that_fit",
]

#: Descriptors kept for files, the database, logs and name look-ups: this many, or a
#: tenth of all.
RESERVED = 256

#: Keys that are read at start only.
_AT_START = (
    "server.state_dir",
    "server.allowciphers",
    "server.allowtlsversion",
    "limits.digest_cache_entries",
    "limits.disk_threads",
    "limits.digest_threads",
    "limits.crypto_threads",
    "limits.name_lookups_at_once",
    "log.format",
    "log.file",
    "log.audit",
)


def connections_that_fit(asked: int, besides: int = 0) -> tuple[int, int]:
    """
    How many connections there can be, with the soft limit of descriptors raised to
    the hard one.

    Args:
        asked: The setting.
        besides: Connections of another kind, such as those of `visits_that_fit`.

    Returns:
        The number, not above *asked*, and the limit of descriptors (0: none).
    """
    _, descriptors = raise_descriptor_limit()
    # RLIM_INFINITY is a negative number in Python.
    if descriptors <= 0:
        return asked, 0
    fit = max(descriptors - max(RESERVED, descriptors // 10) - besides, 1)
    return min(asked, fit), descriptors


def visits_that_fit(asked: int) -> int:
    """
    How many connections there can be to the site of inventories; of the descriptors it
    has a quarter at the most.
    """
    _, descriptors = raise_descriptor_limit()
    if descriptors <= 0:
        return asked
    return max(1, min(asked, (descriptors - RESERVED) // 4))


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """
    The keys whose new value will be in force only after a restart.
    """
    return [*changed_keys(old, new, _AT_START), *waits_for_restart(old, new)]


def folders_gone(old: Snapshot, new: Snapshot) -> list[Problem]:
    """
    The rules whose folder was there when *old* was loaded and is not there now. Such
    a rule covers nothing, all below it would be refused, and nodes that purge would
    delete their copies.
    """
    folders = {text for rule in old.rules if rule.tree for text in rule.written}
    return [
        Problem(
            f"{rule.table}[{rule.index}].path",
            "this folder was here before and is not here now; without it the rule"
            " covers nothing, and nodes would delete their copies",
            text,
            "put the folder back, or take the rule out",
            rule.origin,
        )
        for rule in new.rules
        if rule.missing and not rule.tree
        for text in rule.written
        if text in folders
    ]


def run_user_problems(settings: Settings) -> list[Problem]:
    """
    Whether this process can run `cfruncommand` as `cfrunuser`. Blocks for a look into
    the list of users.
    """
    server = settings.server
    if not server.cfruncommand:
        return []
    try:
        find_account(server.cfrunuser)
    except AccountError as error:
        key_path = "server.cfrunuser"
        return [
            Problem(
                key_path,
                str(error),
                server.cfrunuser,
                "leave it out, or start the server as root",
                settings.nearest_origin(key_path),
            )
        ]
    return []


def apply(
    factory: TLSFactory,
    prepared: Prepared,
    max_connections: int,
    snapshot: Snapshot | None = None,
) -> None:
    """
    Put the rules, limits and plugins of *prepared* in force. Requests that have
    begun keep the rules they began with; connections beyond a lowered limit stay.

    Args:
        factory: The server.
        prepared: The configuration.
        max_connections: Connections at a time.
        snapshot: Its rules with those that follow from nodes, where there are any.
    """
    settings = prepared.settings
    limits = settings.limits
    factory.limits = limits
    admission = factory.admission
    admission.max_connections = max_connections
    admission.before_trust = limits.connections_before_trust
    admission.per_address = limits.connections_per_address
    factory.gate.at_once = limits.handshakes_at_once
    factory.port.first_byte_timeout = limits.first_byte_timeout
    factory.port.handshake_timeout = limits.handshake_timeout
    factory.names.keep = limits.name_cache_seconds
    factory.names.timeout = limits.name_timeout
    factory.trust.windows = prepared.windows
    factory.trust.users = frozenset(settings.server.trustusers)
    factory.commands = command_table([*builtin_commands(), *prepared.commands])
    serving = factory.serving
    serving.deny_bad_clocks = settings.server.denybadclocks
    factory.manifests.max_age = settings.server.manifest_max_age
    if serving.execution is not None:
        serving.execution.apply(settings.run)
    # Before the rules that name them.
    serving.sources = {**serving.sources, **prepared.sources}
    serving.evaluator.snapshot = prepared.snapshot if snapshot is None else snapshot
