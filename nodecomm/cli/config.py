# SPDX-License-Identifier: MIT
"""
`nodecomm config check` and `nodecomm config show`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from twisted.python import usage

from nodecomm.cli.options import CommandOptions, GroupOptions, write_json
from nodecomm.config.errors import Origin, Problem, printable
from nodecomm.config.showing import as_toml, shown_values
from nodecomm.service.agent_prepared import prepare_agent
from nodecomm.service.loading import (
    AGENT_FILE,
    SYSTEM_FILE,
    Loaded,
    LoadedAgent,
    is_of_agent,
    load,
    load_agent,
)
from nodecomm.service.prepared import prepare

__all__ = ["Options", "run"]


class _FileOptions(CommandOptions):
    takes = "[options] [FILE]"
    subjects = (("file", "FILE"),)
    optional = 1
    optParameters = [
        [
            "config",
            "c",
            None,
            f"the same as FILE (without it {SYSTEM_FILE}, else the embedded defaults;"
            f" with --agent {AGENT_FILE})",
        ],
    ]
    optFlags = [
        [
            "agent",
            None,
            "it is an agent's; so is a file called agent.toml or with a table [agent]",
        ],
    ]

    def postOptions(self) -> None:
        """
        The file is named in one way or the other.
        """
        if self["file"] and self["config"]:
            msg = f"which file, {self['config']} or {self['file']}? Name it once"
            raise usage.UsageError(msg)
        self["config"] = self["config"] or self["file"]


class CheckOptions(_FileOptions):
    """
    `nodecomm config check`.
    """

    longdesc = (
        "Reads the file and NAME.d/*.toml beside it, and tells everything that is "
        "wrong, each with file, line and column. Warnings do not matter for the exit "
        "status: 0 the configuration can be used, 1 it cannot."
    )


class ShowOptions(_FileOptions):
    """
    `nodecomm config show`.
    """

    longdesc = (
        "Prints the configuration that results, defaults included, each value with "
        "the place it comes from. Secrets are hidden."
    )


class Options(GroupOptions):
    """
    `nodecomm config`.
    """

    takes = "check|show [options]"
    subCommands = [
        ["check", None, CheckOptions, "tell everything that is wrong with it"],
        ["show", None, ShowOptions, "print the result with the origin of each value"],
    ]
    unnamed = "say what to do with the configuration: check, show"


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    Check or show a configuration. The exit status is 1 if it cannot be used.
    """
    chosen: _FileOptions = options.subOptions
    loaded = _load(
        Path(chosen["config"]) if chosen["config"] else None,
        options.named_state_dir,
        agent=bool(chosen["agent"]),
    )
    in_json = options.as_json
    if options.subCommand == "check":
        _check(loaded, in_json, stdout, stderr)
    else:
        _show(loaded, in_json, stdout, stderr)
    return 1 if loaded.settings is None else 0


def _load(
    config: Path | None, state_dir: Path | None, *, agent: bool
) -> Loaded | LoadedAgent:
    if agent or (config is not None and is_of_agent(config)):
        return prepare_agent(load_agent(config, state_dir=state_dir))[1]
    return prepare(load(config, state_dir=state_dir))[1]


def _check(
    loaded: Loaded | LoadedAgent, in_json: bool, stdout: TextIO, stderr: TextIO
) -> None:
    if in_json:
        write_json(_facts(loaded), stdout)
        return
    _tell(loaded.problems, stderr)
    errors = sum(problem.is_error for problem in loaded.problems)
    warnings = len(loaded.problems) - errors
    counts = [
        f"{count} {word}{'' if count == 1 else 's'}"
        for count, word in ((errors, "error"), (warnings, "warning"))
        if count
    ]
    said = "cannot be used" if errors else "can be used"
    told = f" ({', '.join(counts)})" if counts else ""
    stdout.write(f"{printable(loaded.description)}: {said}{told}\n")


def _show(
    loaded: Loaded | LoadedAgent, in_json: bool, stdout: TextIO, stderr: TextIO
) -> None:
    if in_json:
        facts = _facts(loaded)
        if loaded.settings is not None:
            facts["values"] = [
                {
                    "key": shown.key_path,
                    "value": _plain(shown.value),
                    "origin": _place(shown.origin),
                }
                for shown in shown_values(loaded.settings)
            ]
        write_json(facts, stdout)
        return
    _tell(loaded.problems, stderr)
    if loaded.settings is not None:
        stdout.write(f"# {printable(loaded.description)}\n\n")
        stdout.write(as_toml(loaded.settings))


def _tell(problems: Iterable[Problem], stderr: TextIO) -> None:
    for problem in problems:
        stderr.write(f"{problem}\n")


def _facts(loaded: Loaded | LoadedAgent) -> dict[str, Any]:
    return {
        "usable": loaded.settings is not None,
        "description": loaded.description,
        "sources": list(loaded.sources),
        "problems": [
            {
                "severity": problem.severity,
                "key": problem.shown_key,
                "value": _plain(problem.value),
                "message": problem.message,
                "hint": problem.hint,
                "origin": _place(problem.origin),
            }
            for problem in loaded.problems
        ],
    }


def _place(origin: Origin | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    if not origin.line:
        return {"file": origin.file}
    return {"file": origin.file, "line": origin.line, "column": origin.column}


def _plain(value: object) -> object:
    """
    *value* as JSON can hold it.
    """
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    # JSON has no inf and nan, which TOML does have.
    return value if isinstance(value, float) and value - value == 0 else str(value)
