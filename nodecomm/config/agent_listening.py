# SPDX-License-Identifier: MIT
"""
The part of an agent's configuration that is about its own listener, where others ask
for runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve, field, frozen

from nodecomm.config.errors import Problem, child_path, element_path, encloses
from nodecomm.config.execution import SYNC, RoleSettings, check_execution
from nodecomm.config.fields import about
from nodecomm.config.peers import PeerSettings
from nodecomm.config.placed import Checks

if TYPE_CHECKING:
    from nodecomm.config.agent import AgentSettings

__all__ = ["BundleRuleSettings", "check_listening", "explained"]


@frozen(kw_only=True)
class BundleSettings:
    """
    What an `[[access]]` of an agent is about.
    """

    path: str = field(
        metadata=about(
            "A regular expression that the whole name of a bundle must match.",
            upstream="The promiser of the `access` promise.",
        ),
    )
    resource_type: Literal["bundle"] = field(
        metadata=about(
            "What `path` names. An agent serves nothing else: no files, no values.",
        ),
    )


@frozen(kw_only=True)
class BundleRuleSettings(PeerSettings, BundleSettings):
    """
    One `[[access]]` of an agent: who may have which bundles run.
    """


def check_listening(
    checks: Checks[Any],
    agent: AgentSettings,
    roles: tuple[RoleSettings, ...],
    access: tuple[BundleRuleSettings, ...],
    dropped: Collection[str] = (),
) -> Iterator[Problem]:
    """
    Everything that is wrong between the keys of the listener.

    Args:
        checks: The look at the whole configuration.
        agent: `[agent]`.
        roles: Each `[[roles]]`.
        access: Each `[[access]]`.
        dropped: The keys in whose place the defaults stand, as they are wrong alone.
    """
    # What is left out because it is wrong is there all the same.
    listens = agent.listen or _is_about("agent.listen", dropped)
    runs = agent.cfruncommand or _is_about("agent.cfruncommand", dropped)
    yield from checks.repeated("agent.listen", agent.listen)
    yield from checks.repeated("agent.run_keys", agent.run_keys)
    yield from check_execution(checks, "agent", agent, roles)
    if agent.listen and not runs:
        yield checks.problem(
            "agent.listen",
            "there is nothing that could be asked for here: cfruncommand is not set",
            list(agent.listen),
            f'write cfruncommand = "{SYNC}" in [agent] for the node\'s own sync, or a'
            ' command of your own such as ["/usr/bin/cf-agent", "-K"]',
        )
    if not listens:
        for key in ("cfruncommand", "run_keys"):
            if getattr(agent, key):
                yield checks.problem(
                    f"agent.{key}",
                    "it has no effect: the agent listens nowhere, so nobody can ask"
                    " for a run",
                    getattr(agent, key),
                    'write listen = ["tcp6:5308"] in [agent], or leave it out',
                    warning=True,
                )
    if agent.cfruncommand == SYNC and agent.cfrunuser is not None:
        yield checks.problem(
            "agent.cfrunuser",
            "it has no effect: the sync is done by the agent itself",
            agent.cfrunuser,
            "leave it out, or write a command of your own as cfruncommand",
            warning=True,
        )
    yield from _check_bundles(checks, agent, access)


def _check_bundles(
    checks: Checks[Any],
    agent: AgentSettings,
    access: tuple[BundleRuleSettings, ...],
) -> Iterator[Problem]:
    """
    Each `[[access]]`.
    """
    if access and not agent.cfruncommand:
        yield checks.problem(
            "access",
            "they have no effect without cfruncommand: there is nothing to run",
            None,
            "write cfruncommand in [agent], or leave them out",
            warning=True,
        )
    elif access and agent.cfruncommand == SYNC:
        yield checks.problem(
            "access",
            "they have no effect: the node's own sync takes no bundles",
            None,
            "leave them out, or write a command of your own as cfruncommand",
            warning=True,
        )
    for index, rule in enumerate(access):
        path = element_path("access", index)
        if not rule.path:
            yield checks.problem(
                child_path(path, "path"),
                "a bundle rule without a pattern",
                rule.path,
                'write path = "..." with the bundle\'s name, or a pattern',
            )
        elif rule.path.startswith("/"):
            yield checks.problem(
                child_path(path, "path"),
                "no bundle has such a name, so the rule has no effect",
                rule.path,
                "leave it out: for the program of cfruncommand no rule is needed",
                warning=True,
            )


def _is_about(key: str, paths: Collection[str]) -> bool:
    return any(encloses(key, path) for path in paths)


#: Keys of a server that say who may connect.
_CONNECTING = frozenset(
    f"agent.{name}"
    for name in (
        "allowconnects",
        "denyconnects",
        "allowallconnects",
        "allowlegacyconnects",
        "trustusers",
    )
)

#: Tables of a server.
_OF_SERVERS = frozenset({"server", "limits", "plugins"})

_WHO = (
    "leave it out; the keys of policy_servers may ask without more, and"
    ' run_keys = ["MD5=..."] in [agent] names others'
)


def explained(problem: Problem) -> Problem:
    """
    *problem*, said better where somebody wrote a key of a server that an agent must
    not have.
    """
    path = problem.key_path
    if path == "agent.trustkeysfrom":
        message = (
            "an agent trusts nobody on first use, so there is no such key here: who may"
            " ask for runs has a key that is known beforehand"
        )
        return evolve(problem, message=message, value=None, hint=_WHO)
    if path in _CONNECTING:
        message = (
            "there is no such key here: at an agent the key of whoever connects"
            " decides, and not his address"
        )
        return evolve(problem, message=message, value=None, hint=_WHO)
    if path in _OF_SERVERS:
        message = "this table belongs to nodecomm-server; an agent has none"
        hint = (
            "leave it out; known here: agent, copy, access, roles, run, inventory, log"
        )
        return evolve(problem, message=message, value=None, hint=hint)
    if path.startswith("access[") and problem.message == "resource_type is missing":
        hint = (
            'write resource_type = "bundle" if path names a bundle; for the program of'
            " cfruncommand no rule is needed: whoever may connect may have it run"
        )
        return evolve(problem, hint=hint)
    return problem
