# SPDX-License-Identifier: MIT
"""
The agent's configuration as a bootstrap writes it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodecomm.client.address import ServerAddress, parse_server
from nodecomm.config.agent import AgentConfiguration, encloses_path
from nodecomm.config.errors import ConfigError
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.places import STATE_DIR_VARIABLE
from nodecomm.service.agent_prepared import prepare_agent
from nodecomm.service.bootstrap_model import (
    COPIES,
    BootstrapError,
    BootstrapRequest,
    Copied,
    Copy,
)
from nodecomm.service.loading import load_agent
from nodecomm.service.recording import ConfigurationSet
from nodecomm.service.units import AGENT
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.service.bootstrapping import Bootstrap

__all__ = [
    "BY",
    "agent_files",
    "path_text",
    "record",
    "refuse_contradictions",
    "without_state_variable",
]

#: What the files say that wrote them.
BY = "nodecomm bootstrap"

_MAIN_FILE = """\
The agent's configuration: your own settings go here. `nodecomm bootstrap` writes
agent.d/50-bootstrap.toml, which is read after this file; a key may stand in one of
the two only.

[agent]
interval = "5m"
after_update = ["/usr/bin/cf-agent", "-K"]
"""

_PART = """\
The policy server of this node, and what is copied from it.
"""


def agent_files(request: BootstrapRequest) -> ConfigurationSet:
    """
    The agent's configuration.
    """
    return ConfigurationSet(request.config_dir, AGENT.config, AgentConfiguration, BY)


def _agent_tree(request: BootstrapRequest, copies: Sequence[Copy]) -> dict[str, Any]:
    agent: dict[str, Any] = {
        "state_dir": path_text(request.state_dir),
        "policy_servers": [str(request.server)],
    }
    if request.record_user:
        agent["user"] = request.user
    if request.protocol is not None:
        agent["protocol"] = request.protocol
    tables = [
        {
            "source": copy.source,
            "destination": path_text(request.state_dir / copy.folder),
            "purge": copy.purge,
        }
        for copy in copies
    ]
    return {"agent": agent, "copy": tables}


def refuse_contradictions(request: BootstrapRequest, files: ConfigurationSet) -> None:
    """
    End here if a person's settings lead elsewhere.

    Raises:
        BootstrapError: They do.
        ConfigError: They cannot be read.
    """
    plan = files.plan(_agent_tree(request, COPIES[:1]), served=_copied_there)
    for left_out in plan.left_out:
        if left_out.key_path == "agent.policy_servers":
            if not _names(left_out.theirs, request.server):
                raise BootstrapError(
                    f"{left_out}: add {request.server} there, or take the line"
                    " out, and run this again"
                )
        elif left_out.key_path == "agent.state_dir" and left_out.differs:
            raise BootstrapError(
                f"{left_out}: run this again with --state-dir "
                f"{left_out.theirs}, or take the line out"
            )
    if not plan.may_write and (missing := _keys(plan.tree)):
        raise BootstrapError(
            f"{files.part.path} was changed by hand and is left as it is, but has "
            f"not: {', '.join(missing)}; add that, or move the file away, and run "
            "this again"
        )


def record(
    bootstrap: Bootstrap,
    files: ConfigurationSet,
    copies: Sequence[Copied],
    key: PublicKey,
) -> None:
    """
    Write the server and what was copied into the agent's configuration, and check all
    of it as the agent will.

    Raises:
        ConfigError: There are mistakes in it; what was written has been taken back.
        OSError: It cannot be written.
    """
    made = {copied.source for copied in copies}
    wanted = [copy for copy in COPIES if copy.source in made]
    plan = files.plan(_agent_tree(bootstrap.request, wanted), served=_copied_there)
    for left_out in plan.left_out:
        if left_out.differs:
            bootstrap.warn(str(left_out))
    if not plan.may_write and plan.tree:
        bootstrap.warn(
            f"{files.part.path} was changed by hand and is left as it is; it has "
            f"not: {', '.join(_keys(plan.tree))}"
        )
    with files.undone_if_it_fails():
        written = files.write(plan, {"": _PART, "main": _MAIN_FILE})
        environ = without_state_variable()
        prepared, loaded = prepare_agent(load_agent(files.main, environ=environ))
        if prepared is None:
            raise ConfigError(loaded.problems)
    bootstrap.wrote(written)
    if not written:
        bootstrap.say(f"{files.main}: nothing had to be changed for this server")
    for problem in loaded.problems:
        bootstrap.warn(str(problem))
    if prepared.pinned and not any(
        key == one if isinstance(one, PublicKey) else key.matches(one)
        for one in prepared.pinned
    ):
        bootstrap.warn(
            f"server_keys of the agent's configuration has no {key.md5}: the agent "
            "will not talk to this server"
        )


def _copied_there(
    key_path: str, wanted: Mapping[str, Any], theirs: Sequence[Any]
) -> bool:
    """
    Whether a person has a copy to the same place, or around it, or inside it.
    """
    for one in theirs:
        there = one.get("destination") if isinstance(one, dict) else None
        if isinstance(there, str) and (
            encloses_path(there, wanted["destination"])
            or encloses_path(wanted["destination"], there)
        ):
            return True
    return False


def _names(servers: object, wanted: ServerAddress) -> bool:
    """
    Whether a list of servers has *wanted*, however it is spelled.
    """
    for one in servers if isinstance(servers, list) else []:
        with contextlib.suppress(ValueError, TypeError):
            if parse_server(one) == wanted:
                return True
    return False


def _keys(tree: Mapping[str, Any]) -> list[str]:
    """
    The keys of a tree as people would look for them.
    """
    keys = []
    for name, value in tree.items():
        if isinstance(value, dict):
            keys += [f"{name}.{inner}" for inner in _keys(value)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            keys += [f"[[{name}]] with {next(iter(one.values()))!r}" for one in value]
        else:
            keys.append(name)
    return keys


def path_text(path: Path) -> str:
    """
    A path as a configuration has it.
    """
    return to_text(os.fsencode(path))


def without_state_variable() -> dict[str, str]:
    """
    The environment as the programs that are started have it.
    """
    return {k: v for k, v in os.environ.items() if k != STATE_DIR_VARIABLE}
