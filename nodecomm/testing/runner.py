# SPDX-License-Identifier: MIT
"""
Runs that a test makes up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from nodecomm.server.execution.orders import IRunner, RunOutcome
from nodecomm.wire.run_output import OutputLines, Printed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nodecomm.server.execution.orders import RunOrder, RunSink

__all__ = ["MemoryRun", "MemoryRunner"]


@define(eq=False)
class MemoryRun:
    """
    A run of no program: a test says what it prints, and when it ends.

    Attributes:
        order: What was asked for.
        paused: Whether it was asked to print nothing for now.
        left: Whether its listener has gone, or it has ended.
    """

    order: RunOrder
    _sink: RunSink
    paused: bool = False
    left: bool = False
    _lines: OutputLines = field(factory=OutputLines, init=False)

    def begin(self) -> None:
        """
        Announce the command, with what is added to it.
        """
        command = self.order.execution.command
        text = command if isinstance(command, str) else " ".join(command)
        if not self.left:
            self._sink.begun(b" ".join([text.encode(), *self.order.words]))

    def say(self, data: bytes) -> None:
        """
        Print *data*.
        """
        self._give(self._lines.feed(data))

    def tell(self, text: str) -> None:
        """
        Let the peer know *text*.
        """
        self._give(self._lines.finish())
        if not self.left:
            self._sink.notice(text)

    def refuse(self, text: str) -> None:
        """
        There is no run, because of *text*.
        """
        if not self.left:
            self.left = True
            self._sink.refused(text)

    def end(self, exit_code: int | None = 0, **outcome: Any) -> None:
        """
        End, with this exit code or with none to tell.
        """
        self._give(self._lines.finish())
        if not self.left:
            self.left = True
            self._sink.ended(RunOutcome(exit_code, **outcome))

    def _give(self, lines: bytes) -> None:
        if lines and not self.left:
            self._sink.output(Printed(lines))

    # Its listener's hold on it.

    def pause(self) -> None:
        """Print nothing for now."""
        self.paused = True

    def resume(self) -> None:
        """Print again."""
        self.paused = False

    def leave(self) -> None:
        """Nobody listens any more."""
        self.left = True


@implementer(IRunner)
@define(eq=False)
class MemoryRunner:
    """
    Takes every order, and begins the run at once.

    Attributes:
        classes: The classes of this node; expressions are compared as they are.
        at_once: Whether it does; else a test begins it, or refuses.
        runs: Each run, in the order in which they were asked for.
        stopped: Whether it takes no more.
    """

    classes: Sequence[bytes] = (b"any",)
    at_once: bool = True
    runs: list[MemoryRun] = field(factory=list)
    stopped: bool = False

    def selects(self, patterns: Sequence[bytes]) -> bool:
        """Whether one of *patterns* is a class of this node."""
        return not set(patterns).isdisjoint(self.classes)

    def ask(self, order: RunOrder, sink: RunSink) -> MemoryRun:
        """Note the run, and begin it."""
        run = MemoryRun(order, sink)
        self.runs.append(run)
        if self.stopped:
            run.refuse("the runner has stopped")
        elif self.at_once:
            run.begin()
        return run

    def stop(self, grace: float | None = None) -> Deferred[None]:
        """End all runs, and refuse further ones."""
        self.stopped = True
        for run in self.runs:
            run.end(None, why="stopped")
        return succeed(None)

    def apply(self, settings: Any) -> None:
        """There is nothing to set."""
