# SPDX-License-Identifier: MIT
"""
From the tree of a TOML reader to `Settings`, or to an agent's `AgentConfiguration`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

import attrs
from attrs import frozen

from nodecomm.config.agent import AgentConfiguration, check_agent
from nodecomm.config.agent_listening import explained
from nodecomm.config.checks import check_settings
from nodecomm.config.errors import Origin, Problem, encloses
from nodecomm.config.model import Settings
from nodecomm.config.names import expand_names
from nodecomm.config.placed import Placed
from nodecomm.config.tree import structure_tree

__all__ = [
    "Outcome",
    "structure",
    "structure_agent_partly",
    "structure_partly",
    "unique",
    "worth_telling",
]

S = TypeVar("S", bound=Placed)


@frozen
class Outcome(Generic[S]):
    """
    A configuration as far as it could be understood.

    Attributes:
        settings: What was right; wrong keys have their default, wrong elements are
            left out. To be used only for looking for further problems, unless
            `problems` holds no error.
        problems: Everything found, each once.
        dropped: Key paths in *settings* whose fault has been told: what was left
            out, and what does not go together.
    """

    settings: S
    problems: tuple[Problem, ...]
    dropped: frozenset[str]

    @property
    def is_usable(self) -> bool:
        """
        Whether no error was found.
        """
        return not any(problem.is_error for problem in self.problems)


def structure(
    tree: Mapping[str, Any], origins: Mapping[str, Origin] | None = None
) -> tuple[Settings | None, list[Problem]]:
    """
    Make `Settings` of *tree*, strictly.

    Args:
        tree: What the TOML reader gave.
        origins: Where each key and element stands, by key path.

    Returns:
        The settings, or None if there is any error, and all problems of the run.
    """
    outcome = structure_partly(tree, origins)
    settings = outcome.settings if outcome.is_usable else None
    return settings, list(outcome.problems)


def structure_partly(
    tree: Mapping[str, Any], origins: Mapping[str, Origin] | None = None
) -> Outcome[Settings]:
    """
    As `structure`, but with what was right even if something else was wrong.
    """
    read = structure_tree(Settings, tree, origins or {})
    # Before names are expanded: key paths still are those of `read.dropped`.
    plain = attrs.evolve(read.value, origins=read.origins)
    together = list(worth_telling(check_settings(plain), read.dropped))
    expanded, unknown = expand_names(read.value, read.origins)
    problems = unique([*read.problems, *together, *unknown])
    return Outcome(expanded, tuple(problems), read.dropped | _wrong(together))


def structure_agent_partly(
    tree: Mapping[str, Any], origins: Mapping[str, Origin] | None = None
) -> Outcome[AgentConfiguration]:
    """
    As `structure_partly`, for the configuration of an agent.
    """
    read = structure_tree(AgentConfiguration, tree, origins or {})
    configuration = attrs.evolve(read.value, origins=read.origins)
    dropped = read.dropped
    together = list(worth_telling(check_agent(configuration, dropped), dropped))
    problems = unique([*map(explained, read.problems), *together])
    return Outcome(configuration, tuple(problems), dropped | _wrong(together))


def _wrong(problems: Iterable[Problem]) -> set[str]:
    return {problem.key_path for problem in problems if problem.is_error}


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """
    *problems* without repetitions: one entry of a named list can be wrong in every
    list that it was expanded in.
    """
    return list({str(problem): problem for problem in problems}.values())


def worth_telling(
    problems: Iterable[Problem], dropped: Iterable[str]
) -> Iterable[Problem]:
    """
    *problems* without those about *dropped* or about what holds it: they may be there
    only because something wrong was left out, or say the same again.
    """
    left_out = tuple(dropped)
    for problem in problems:
        if not any(encloses(problem.key_path, path) for path in left_out):
            yield problem
