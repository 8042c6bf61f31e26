# SPDX-License-Identifier: MIT
"""
From a configuration that was read to everything a server is built from, with all
that is wrong with it found in one run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

from nodecomm.access.compile import compile_snapshot
from nodecomm.access.networks import AddressPattern, parse_entry, read_address
from nodecomm.config.errors import Problem
from nodecomm.config.model import ServerSettings, Settings
from nodecomm.identity.decisions import TrustWindow
from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.identity.own import KEYS_FOLDER, OwnKeyError, load_own_key
from nodecomm.server.commands import builtin_commands
from nodecomm.service.classic import classic_problems
from nodecomm.service.endpoints import endpoint_problems
from nodecomm.service.inventory_checks import inventory_problems
from nodecomm.service.loading import resolve_path
from nodecomm.service.plugins import (
    FoundPlugins,
    active_commands,
    active_sources,
    find_plugins,
)
from nodecomm.service.run_checks import execution_problems, sync_command
from nodecomm.transport.context import server_context
from nodecomm.wire.text import from_text

if TYPE_CHECKING:
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.interfaces import ICommand, IFileSource
    from nodecomm.service.loading import Loaded

__all__ = ["Prepared", "prepare", "state_folder", "trust_windows"]


@frozen
class Prepared:
    """
    A configuration without errors, ready to be put in force.

    Attributes:
        loaded: What was read, with all problems (now warnings only).
        settings: The configuration.
        snapshot: Its rules and lists.
        windows: Its trust windows.
        commands: The plugins' commands that it names.
        sources: The plugins' sources that it names.
    """

    loaded: Loaded
    settings: Settings
    snapshot: Snapshot
    windows: tuple[TrustWindow, ...]
    commands: tuple[ICommand, ...]
    sources: dict[str, IFileSource]


def prepare(
    loaded: Loaded,
    *,
    generation: int = 0,
    find: Callable[[], FoundPlugins] = find_plugins,
) -> tuple[Prepared | None, Loaded]:
    """
    Look at everything in a configuration that reading alone does not. Blocks: paths
    are resolved and, where the configuration names plugins, these are imported.

    Args:
        loaded: What was read.
        generation: The number of this configuration.
        find: Looks for plugins.

    Returns:
        What to put in force, or None if there is any error, and *loaded* with all
        problems added.
    """
    settings = loaded.partial
    snapshot, problems = compile_snapshot(
        settings,
        resolve=resolve_path,
        generation=generation,
        sync=sync_command(settings, "server.state_dir", settings.server.state_dir),
    )
    problems += execution_problems(settings, "server", snapshot.execution)
    windows, wrong = trust_windows(settings)
    problems += wrong
    problems += endpoint_problems(settings, "server.listen", settings.server.listen)
    problems += inventory_problems(settings)
    problems += _cipher_problems(settings)
    problems += classic_problems(settings, snapshot, _own_key(settings))
    commands: list[ICommand] = []
    sources: dict[str, IFileSource] = {}
    if settings.plugins.commands or any(rule.source for rule in settings.access):
        found = find()
        commands, wrong = active_commands(settings, found, builtin_commands())
        problems += wrong
        sources, wrong = active_sources(settings, found)
        problems += wrong
    checked = loaded.with_problems(problems)
    if checked.settings is None:
        return None, checked
    prepared = Prepared(
        checked, checked.settings, snapshot, windows, tuple(commands), sources
    )
    return prepared, checked


def state_folder(settings: Settings) -> str:
    """
    The state folder as the system's functions take it.
    """
    return os.fsdecode(from_text(settings.server.state_dir))


def trust_windows(
    settings: Settings,
) -> tuple[tuple[TrustWindow, ...], list[Problem]]:
    """
    The windows of `trustkeysfrom`, and what is wrong with them.
    """
    windows: list[TrustWindow] = []
    problems: list[Problem] = []
    for index, window in enumerate(settings.server.trustkeysfrom):
        key_path = f"server.trustkeysfrom[{index}].network"
        if key_path not in settings.origins:
            # Written as a plain text.
            key_path = f"server.trustkeysfrom[{index}]"
        try:
            pattern = parse_entry(window.network, acl=False)
        except ValueError as error:
            problems.append(
                Problem(
                    key_path,
                    str(error),
                    window.network,
                    "",
                    settings.nearest_origin(key_path),
                )
            )
            continue
        if pattern.form in ("word", "nothing"):
            problems.append(
                Problem(
                    key_path,
                    pattern.ineffective or "this matches no address of its own",
                    window.network,
                    "write an address or a network",
                    settings.nearest_origin(key_path),
                )
            )
            continue
        until = None if window.until is None else window.until.timestamp()
        if until is not None and until <= time.time():
            until_path = f"server.trustkeysfrom[{index}].until"
            problems.append(
                Problem(
                    until_path,
                    "this window is over, it trusts nobody",
                    window.until,
                    "take it out, or write a later time",
                    settings.nearest_origin(until_path),
                    "warning",
                )
            )
        windows.append(
            TrustWindow(_matcher(pattern), window.network, until, window.count)
        )
    return tuple(windows), problems


def _matcher(pattern: AddressPattern) -> Callable[[str], bool]:
    def matches(address: str) -> bool:
        read = read_address(address)
        return read is not None and pattern.matches(read)

    return matches


def _cipher_problems(settings: Settings) -> list[Problem]:
    """
    Whether OpenSSL can do what `allowciphers` and `allowtlsversion` ask for.
    """
    server = settings.server
    if (server.allowciphers, server.allowtlsversion) == (
        ServerSettings().allowciphers,
        ServerSettings().allowtlsversion,
    ):
        return []
    try:
        # Any key will do; the smallest is made fastest.
        server_context(
            KeyPair.generate(1024),
            ciphers=server.allowciphers,
            min_version=server.allowtlsversion,
        )
    except ValueError as error:
        key_path = "server.allowciphers"
        return [
            Problem(
                key_path,
                str(error),
                server.allowciphers,
                "",
                settings.nearest_origin(key_path),
            )
        ]
    return []


def _own_key(settings: Settings) -> PublicKey | None:
    """
    This server's key; None where there is none yet, or none that can be used, which
    the start tells of.
    """
    folder = os.path.join(state_folder(settings), KEYS_FOLDER)
    try:
        return load_own_key(folder).public
    except (OwnKeyError, OSError):
        return None
