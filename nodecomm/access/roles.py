# SPDX-License-Identifier: MIT
"""
From the configuration to what is run for peers, and to the roles.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodecomm.access.execution import Execution
from nodecomm.access.findings import Findings
from nodecomm.access.paths import Resolve
from nodecomm.access.patterns import Pattern, UnsupportedPatternError
from nodecomm.access.rules import Rule
from nodecomm.access.snapshot import Snapshot
from nodecomm.config.errors import in_toml
from nodecomm.config.execution import SYNC, program_of
from nodecomm.config.model import Settings
from nodecomm.wire.text import to_text

__all__ = ["check_program", "read_execution", "read_roles"]

#: Where the command stands.
_KEY = "server.cfruncommand"

#: Addresses that a message names.
_SHOWN = 5


def read_roles(settings: Settings, findings: Findings) -> tuple[Rule, ...]:
    """
    Each `[[roles]]` as a rule. One whose expression cannot be evaluated is about no
    class.
    """
    roles = []
    for index, role in enumerate(settings.roles):
        key = f"roles[{index}].pattern"
        pattern: Pattern | None = None
        try:
            pattern = Pattern(role.pattern)
        except UnsupportedPatternError as error:
            findings.tell(
                key,
                "the regular expression cannot be evaluated, so the role is about no "
                f"class: {error}",
                role.pattern,
                "write it without that, or one role for each class",
                "warning",
            )
        origin = findings.origin(key)
        roles.append(
            Rule(
                kind="role",
                table="roles",
                path=role.pattern.encode("utf-8", "surrogatepass"),
                tree=False,
                text=role.pattern,
                origin=origin,
                index=index,
                written=(role.pattern,),
                origins=(origin,),
                pattern=pattern,
                authorize=role.authorize,
            )
        )
    return tuple(roles)


def read_execution(
    settings: Settings, findings: Findings, sync: Sequence[str]
) -> Execution | None:
    """
    What is run for peers; None: nothing.

    Args:
        settings: What the configuration says.
        findings: Knows where it says so.
        sync: What `sync` stands for; empty: no program.
    """
    written = settings.server.cfruncommand
    is_sync = written == SYNC
    command = tuple(sync) or SYNC if is_sync else written
    try:
        program = "" if command == SYNC else program_of(command)
    except ValueError:
        return None
    # A program cannot be looked up by a name with a NUL.
    unusable = "\0" in program or not program.startswith("/")
    if not command or (command != SYNC and unusable):
        # What is wrong with it was told when the file was read.
        return None
    return Execution(
        command=command,
        program=program.encode("utf-8", "surrogateescape") or None,
        user=settings.server.cfrunuser,
        is_sync=is_sync,
        settings=settings.run,
        origin=findings.origin(_KEY),
    )


def check_program(
    settings: Settings, snapshot: Snapshot, findings: Findings, resolve: Resolve
) -> None:
    """
    Tell of a program that is not there, or that no rule admits anybody to: whoever
    asks for a run would be refused. And of those who can ask for one at a time.
    """
    execution = snapshot.execution
    if execution is None or execution.program is None:
        return
    shown = to_text(execution.program)
    said, hint = f"{shown} does not exist", ""
    try:
        resolved = resolve(execution.program)
    except OSError as error:
        resolved = None
        said = f"{shown} cannot be looked at ({error.strerror or type(error).__name__})"
    if resolved is not None:
        if resolved.is_directory:
            said, hint = f"{shown} is a folder", "name a program"
        elif (rule := snapshot.find(resolved.path, is_directory=False)) is None:
            said = f"no rule admits anybody to {shown}"
            hint = (
                f"write [[access]] with path = {in_toml(shown)} and whom it admits: "
                "admit_keys, admit_ips or admit_hostnames"
            )
        else:
            _check_second(settings, snapshot, findings, rule)
            return
    written = settings.server.cfruncommand
    findings.tell(
        _KEY,
        f"{said}, so whoever asks for a run is refused",
        written if isinstance(written, str) else list(written),
        hint,
        "warning",
    )


def _check_second(
    settings: Settings, snapshot: Snapshot, findings: Findings, rule: Rule
) -> None:
    """
    Tell of addresses that may have the program run, and have one connection at a time:
    what becomes of a second request from there is not for `[run]` to say.
    """
    several = snapshot.allowallconnects
    missing = [
        entry.text
        for entry in rule.admit_ips
        if (first := entry.first()) is not None and several.find(first) is None
    ]
    if not missing and several.entries:
        return
    who = ", ".join(missing[:_SHOWN]) or "whoever it admits"
    if len(missing) > _SHOWN:
        who += f" and {len(missing) - _SHOWN} more"
    findings.tell(
        "server.allowallconnects",
        f"{rule.label} has cfruncommand run for {who}, and an address that is not here "
        "has one connection at a time: a second request from it is turned away while a "
        "run that it asked for goes on",
        list(settings.server.allowallconnects),
        f"write allowallconnects = {in_toml(missing[:1] or ['192.0.2.1'])} in [server],"
        " with the addresses that ask for runs",
        "warning",
    )
