# SPDX-License-Identifier: MIT
"""
What an agent's configuration says about runs that others ask for, as the rules that
the server's commands and evaluator work with.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import attrs
from attrs import evolve

from nodecomm.access.compile import Resolve, compile_snapshot
from nodecomm.config.execution import SYNC, program_of
from nodecomm.config.model import AccessSettings, ServerSettings, Settings
from nodecomm.identity.callers import CallerTrust
from nodecomm.identity.server_keys import SERVER_KEYS_FOLDER, ServerKeyStore
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.config.agent import AgentConfiguration
    from nodecomm.config.agent_listening import BundleRuleSettings
    from nodecomm.config.errors import Origin, Problem
    from nodecomm.service.agent_prepared import PreparedAgent

__all__ = ["agent_settings", "agent_snapshot", "caller_trust"]

#: Every address. Who may connect is decided by keys alone.
EVERYWHERE = ("0.0.0.0/0", "::/0")

#: The keys that `[agent]` and `[server]` both have, and that mean the same.
_SHARED = ("cfruncommand", "cfrunuser", "allowusers")


def agent_settings(configuration: AgentConfiguration) -> Settings:
    """
    The settings of a server that runs for others what *configuration* says, and serves
    nothing else. Everybody who may connect is admitted to the program.
    """
    agent = configuration.agent
    rules = [AccessSettings(**_values(rule)) for rule in configuration.access]
    origins = _origins(configuration)
    program = _program(agent.cfruncommand)
    if program:
        place = configuration.origin("agent.cfruncommand")
        if place is not None:
            origins[f"access[{len(rules)}].path"] = place
        # A program's name is taken as it is, and a rule's has escapes.
        path = to_text(program.encode("utf-8", "surrogateescape"))
        rules.append(AccessSettings(path=path, admit_ips=EVERYWHERE))
    return Settings(
        server=ServerSettings(
            listen=agent.listen,
            state_dir=agent.state_dir,
            allowallconnects=EVERYWHERE,
            **{name: getattr(agent, name) for name in _SHARED},
        ),
        access=tuple(rules),
        roles=configuration.roles,
        run=configuration.run,
        log=configuration.log,
        origins=origins,
    )


def agent_snapshot(
    configuration: AgentConfiguration, *, resolve: Resolve, generation: int = 0
) -> tuple[Snapshot, list[Problem]]:
    """
    The rules by which the agent runs something for others, and all that is wrong with
    them; arguments as for `compile_snapshot`.
    """
    settings = agent_settings(configuration)
    snapshot, problems = compile_snapshot(
        settings, resolve=resolve, generation=generation
    )
    # What is wrong with the rule of the program is told of the program, too.
    made = f"access[{len(configuration.access)}]"
    told = [one for one in problems if not one.key_path.startswith(made)]
    return snapshot, [_of_agent(one) for one in told]


def caller_trust(prepared: PreparedAgent) -> CallerTrust:
    """
    Who may connect to the agent that *prepared* is for.
    """
    return CallerTrust(
        ServerKeyStore(os.path.join(prepared.state, SERVER_KEYS_FOLDER)),
        [str(server) for server in prepared.servers],
        pinned=prepared.pinned,
        named=prepared.run_keys,
    )


def _program(command: tuple[str, ...] | str) -> str:
    """
    The absolute path of the program; "" where there is none.
    """
    if command == SYNC:
        return ""
    try:
        program = program_of(command)
    except ValueError:
        return ""
    return program if program.startswith("/") else ""


def _values(rule: BundleRuleSettings) -> dict[str, Any]:
    return {each.name: getattr(rule, each.name) for each in attrs.fields(type(rule))}


def _origins(configuration: AgentConfiguration) -> dict[str, Origin]:
    """
    Where each value stands, by the key of a server that it is under here.
    """
    found = {}
    for path, origin in configuration.origins.items():
        head, dot, rest = path.partition(".")
        table = "server" if head == "agent" else head
        found[table + dot + rest] = origin
    return found


def _of_agent(problem: Problem) -> Problem:
    head, dot, rest = problem.key_path.partition(".")
    if head != "server":
        return problem
    return evolve(problem, key_path=f"agent{dot}{rest}")
