# SPDX-License-Identifier: MIT
"""
The rules that `nodecomm access` is about: those of a configuration, with the nodes that
its server has.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from attrs import frozen

from nodecomm.access.snapshot import Snapshot
from nodecomm.cli.access_nodes import ServerNodes, read_nodes
from nodecomm.config.model import Settings
from nodecomm.service.loading import (
    ReadFiles,
    check_access,
    is_of_agent,
    load,
    without_passwords,
)
from nodecomm.wire.text import safe

__all__ = ["Rules", "read_rules", "tell_missing", "tell_unusable"]


@frozen
class Rules:
    """
    What a server decides by.

    Attributes:
        snapshot: The rules.
        settings: The configuration that they come from.
        description: Which configuration that is.
        nodes: The nodes that are in force in the rules; None: the server keeps none.
    """

    snapshot: Snapshot
    settings: Settings
    description: str
    nodes: ServerNodes | None = None

    @property
    def keys(self) -> Path:
        """
        The folder of stored keys.
        """
        return Path(self.settings.server.state_dir) / "ppkeys"


def read_rules(
    config: Path | None, state_dir: Path | None, about: str, stderr: TextIO
) -> Rules | None:
    """
    Read the rules; None if there are none to use, which is told.

    Args:
        config: The configuration; None: the usual one.
        state_dir: The state folder that a command line names.
        about: What to tell of a configuration that is an agent's.
        stderr: Where to tell.
    """
    if config is not None and is_of_agent(config):
        stderr.write(f"error: {safe(str(config))} is an agent's, {about}\n")
        return None
    snapshot, loaded = check_access(
        without_passwords(load(config, state_dir=state_dir))
    )
    if snapshot is None:
        tell_unusable(loaded, stderr)
        return None
    tell_missing(loaded, stderr)
    settings = loaded.usable()
    nodes = read_nodes(settings)
    if nodes is not None:
        snapshot = nodes.put_in_force(snapshot)
    return Rules(snapshot, settings, loaded.description, nodes)


def tell_missing(loaded: ReadFiles[Any], stderr: TextIO) -> None:
    """
    Tell where no configuration was found: the answer is about what stands in for it.
    """
    if not loaded.sources:
        stderr.write(
            f"warning: there is no {safe(loaded.missing)}; the rules asked are those of"
            " a server without a configuration (-c names one)\n"
        )


def tell_unusable(loaded: ReadFiles[Any], stderr: TextIO) -> None:
    """
    Tell why there are no rules to ask.
    """
    for problem in _errors(loaded):
        stderr.write(f"{problem}\n")
    stderr.write("error: the configuration cannot be used\n")


def _errors(loaded: ReadFiles[Any]) -> Iterable[object]:
    return (problem for problem in loaded.problems if problem.is_error)
