# SPDX-License-Identifier: MIT
"""
`nodecomm plugins list`: the commands and file sources that are installed, and which
of them a configuration makes active.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

from nodecomm.cli.options import CommandOptions, GroupOptions, write_json
from nodecomm.config.model import Settings
from nodecomm.service.loading import load
from nodecomm.service.plugins import FoundPlugin, FoundPlugins, find_plugins
from nodecomm.wire.text import safe, to_text

__all__ = ["Options", "run"]


class ListOptions(CommandOptions):
    """
    `nodecomm plugins list`.
    """

    longdesc = (
        "Lists the plugins that are installed. None is active until a configuration "
        'names it: a command in `[plugins] commands = ["NAME"]`, a file source in '
        '`source = "NAME"` of an access rule.'
    )
    optParameters = [
        ["config", "c", None, "also tell which are active with this configuration"],
    ]


class Options(GroupOptions):
    """
    `nodecomm plugins`.
    """

    takes = "list [options]"
    unnamed = "say what to do with the plugins: list"
    subCommands = [["list", None, ListOptions, "list what is installed"]]


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    List the plugins. The exit status is 1 when the configuration given cannot be
    read; a plugin that is broken is listed as such.
    """
    chosen: ListOptions = options.subOptions
    settings: Settings | None = None
    if chosen["config"]:
        loaded = load(Path(chosen["config"]))
        settings = loaded.settings
        if settings is None:
            for problem in loaded.problems:
                stderr.write(f"{problem}\n")
            return 1
    found = find_plugins()
    rows = [_facts(each, settings) for each in (*found.commands, *found.sources)]
    if options.as_json:
        broken = [{"error": each.error, "where": each.where} for each in found.broken]
        write_json({"plugins": rows, "broken": broken}, stdout)
    else:
        _table(rows, found, stdout)
    return 0


def _facts(found: FoundPlugin, settings: Settings | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": found.kind,
        "name": found.name,
        "api": found.api if isinstance(found.api, int) else str(found.api),
        "words": [to_text(word) for word in found.words],
        "origin": found.origin,
        "fault": found.fault,
    }
    if settings is not None:
        if found.kind == "command":
            active = found.name in settings.plugins.commands
        else:
            active = any(found.name == each.source for each in settings.access)
        facts["active"] = active
    return facts


def _table(rows: list[dict[str, Any]], found: FoundPlugins, stdout: TextIO) -> None:
    if not rows and not found.broken:
        stdout.write("no plugins are installed\n")
    lines = []
    for row in rows:
        state = row["fault"] or {None: "", True: "active", False: "not active"}.get(
            row.get("active"), ""
        )
        words = " ".join(row["words"])
        lines.append([row["kind"], row["name"], words, row["origin"], state])
    if lines:
        lines.insert(0, ["KIND", "NAME", "WORDS", "FROM", "STATE"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            safe(cell).ljust(width) for cell, width in zip(line, widths, strict=True)
        )
        stdout.write("  ".join(cells).rstrip() + "\n")
    for each in found.broken:
        where = f" ({each.where})" if each.where else ""
        stdout.write(f"cannot be imported: {safe(each.error + where)}\n")
