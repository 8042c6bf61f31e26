# SPDX-License-Identifier: MIT
"""
What every service states about its configuration and its log files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import TYPE_CHECKING

from nodecomm.service.own_state import os_error_text

if TYPE_CHECKING:
    from twisted.logger import Logger

    from nodecomm.config.errors import Problem

__all__ = [
    "changed_keys",
    "reopen_or_tell",
    "tell_problems",
    "tell_rejected",
    "tell_waiting",
]


def changed_keys(old: object, new: object, keys: Iterable[str]) -> list[str]:
    """
    Which of *keys* (`log.file`) have other values in *new*.
    """
    return [key for key in keys if attrgetter(key)(old) != attrgetter(key)(new)]


def reopen_or_tell(reopen: Callable[[], object], log: Logger) -> None:
    """
    Open the log files again.
    """
    try:
        reopen()
    except OSError as error:
        log.error(
            "the log goes on in the old file: {reason}",
            event="log.failed",
            reason=os_error_text(error, "log"),
        )


def tell_problems(problems: Iterable[Problem], log: Logger) -> None:
    """
    State each problem of a configuration.
    """
    for problem in problems:
        say = log.error if problem.is_error else log.warn
        say("{problem}", event="config.problem", problem=str(problem))


def tell_rejected(
    problems: Iterable[Problem], description: str, log: Logger, reason: str = ""
) -> None:
    """
    State that a configuration is not put in force.

    Args:
        problems: All that is wrong with it.
        description: Where it stands.
        log: Takes it.
        reason: What is in the way besides.
    """
    log.error(
        "the configuration is not used, for its errors ({errors}); the one of"
        " before stays in force ({configuration}){reason}",
        event="config.rejected",
        errors=sum(problem.is_error for problem in problems),
        configuration=description,
        reason=reason and f" ({reason})",
    )


def tell_waiting(keys: Iterable[str], log: Logger) -> None:
    """
    State which *keys*, if any, have changed and are read at start only.
    """
    waiting = ", ".join(keys)
    if waiting:
        log.warn(
            "changed, and in force only after a restart: {keys}",
            event="config.needs-restart",
            keys=waiting,
        )
