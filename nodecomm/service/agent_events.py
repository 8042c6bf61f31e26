# SPDX-License-Identifier: MIT
"""
What one agent states, for the log of the program and for those who follow its runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogPublisher,
    formatEvent,
    globalLogPublisher,
)

__all__ = ["AgentEvents", "Follow", "lines_of"]

#: Events that are about other things than a run.
_NOT_OF_A_RUN = frozenset({"agent.run-asked", "agent.listening"})
_OF_INVENTORIES = "agent.inventory-"


@define(eq=False)
class Follow:
    """
    Somebody who follows a run until it and what follows it are over.

    Attributes:
        over: Fires with what is not as it should be then, for people; or with None if
            the agent stops before.
    """

    _tell: Callable[[str], object]
    _leave: Callable[[Follow], object]
    #: Whether it is not the run that is under way that is meant, but the next one.
    _next: bool = False
    over: Deferred[list[str] | None] = field(factory=Deferred)

    def leave(self) -> None:
        """
        Follow no longer; `over` never fires then. The run goes on.
        """
        self._leave(self)


class AgentEvents:
    """
    The events of one agent.

    Attributes:
        log: States them.
    """

    def __init__(self) -> None:
        observer = cast(ILogObserver, self._observe)
        publisher = LogPublisher(observer, globalLogPublisher)
        self.log = Logger("nodecomm.service.agent", observer=publisher)
        self._follows: list[Follow] = []

    def follow(self, tell: Callable[[str], object], *, after: bool = False) -> Follow:
        """
        Have *tell* called with each line about runs from now on, until one is over.

        Args:
            after: Whether a run is under way, and only the one after it is meant.
        """
        follow = Follow(tell, self._forget, after)
        self._follows.append(follow)
        return follow

    def run_over(self, ailments: list[str] | None) -> None:
        """
        A run is over, and what follows it.

        Args:
            ailments: What is not as it should be, for people; None: the agent stops,
                and there is no more run.
        """
        follows, self._follows = self._follows, []
        over = []
        for follow in follows:
            if follow._next and ailments is not None:
                follow._next = False
                self._follows.append(follow)
            else:
                over.append(follow)
        for follow in over:
            follow.over.callback(ailments)

    def _forget(self, follow: Follow) -> None:
        if follow in self._follows:
            self._follows.remove(follow)

    def _observe(self, event: LogEvent) -> None:
        if self._follows:
            for line in lines_of(event):
                for follow in list(self._follows):
                    if not follow._next:
                        follow._tell(line)


def lines_of(event: LogEvent) -> Iterator[str]:
    """
    What an event says about a run, in lines; none for one that says nothing about it.
    """
    name = event.get("event")
    if not isinstance(name, str) or not name.startswith("agent."):
        return
    if name in _NOT_OF_A_RUN or name.startswith(_OF_INVENTORIES):
        return
    yield from formatEvent(event).splitlines()
    changes = event.get("changes")
    if isinstance(changes, list):
        for change in changes:
            yield f"  {change}"
        more = event.get("changed_names", 0) - len(changes)
        if more > 0:
            yield f"  and {more} more"
