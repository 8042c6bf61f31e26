# SPDX-License-Identifier: MIT
"""
Runs that the tests make up, and those who listen to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from attrs import define, field
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.access.execution import Execution
from nodecomm.config.execution import RunSettings
from nodecomm.identity.peer import Peer
from nodecomm.server.execution.command_line import shown_command
from nodecomm.server.execution.executables import RunWatcher
from nodecomm.server.execution.orders import RunOrder, RunOutcome, Ticket
from nodecomm.server.execution.runner import Runner
from nodecomm.wire.run_output import Printed


def make_order(
    *defined: str,
    bundles: tuple[str, ...] = (),
    selected: tuple[str, ...] = (),
    user: str = "root",
    address: str = "10.0.0.1",
    command: tuple[str, ...] | str = ("/usr/bin/agent", "-K"),
    run_as: str | None = None,
    withdrawn: Callable[[], str] = lambda: "",
    is_sync: bool = False,
    **settings: Any,
) -> RunOrder:
    """A run with these classes."""
    return RunOrder(
        tuple(name.encode() for name in defined),
        tuple(name.encode() for name in bundles),
        tuple(name.encode() for name in selected),
        Peer(address, 4711, user=user),
        Execution(
            command, user=run_as, is_sync=is_sync, settings=RunSettings(**settings)
        ),
        withdrawn=withdrawn,
    )


@define(eq=False)
class MadeUp:
    """
    A run that does what it is told by the test (`Running`).
    """

    order: RunOrder
    watcher: RunWatcher
    paused: bool = False
    stopped: list[tuple[str, float | None]] = field(factory=list)

    def pause(self) -> None:
        """It is to give nothing."""
        self.paused = True

    def resume(self) -> None:
        """It is to go on."""
        self.paused = False

    def stop(self, why: str, grace: float | None = None) -> None:
        """It is to end."""
        self.stopped.append((why, grace))

    def say(self, data: bytes) -> bool:
        """It prints."""
        return self.watcher.output(data)

    def end(self, code: int | None = 0, **more: Any) -> None:
        """It ends."""
        self.watcher.ended(RunOutcome(code, **more))


@define(eq=False)
class MakesUp:
    """
    Begins such runs (`Executable`).
    """

    runs: list[MadeUp] = field(factory=list)
    fails: bool = False
    #: What each run does when it begins.
    then: Callable[[MadeUp], object] = lambda run: None

    def command(self, order: RunOrder) -> bytes:
        """The command."""
        return shown_command(order)

    def begin(self, order: RunOrder, watcher: RunWatcher) -> MadeUp:
        """Another run."""
        if self.fails:
            raise RuntimeError("made up")
        run = MadeUp(order, watcher)
        self.runs.append(run)
        self.then(run)
        return run


@define(eq=False)
class Heard:
    """
    Keeps what it hears (`RunSink`).
    """

    calls: list[tuple[str, Any]] = field(factory=list)
    given: list[Printed] = field(factory=list)
    ticket: Ticket | None = None
    then: Callable[[str], object] = lambda call: None

    def begun(self, command: bytes) -> None:
        """The announcement."""
        self._hear("begun", command)

    def output(self, printed: Printed) -> None:
        """Output; that which comes in pieces is one call here."""
        data = printed.lines
        self.given.append(printed)
        if self.calls and self.calls[-1][0] == "output":
            self.calls[-1] = ("output", self.calls[-1][1] + data)
        else:
            self.calls.append(("output", data))
        self.then("output")

    def notice(self, text: str) -> None:
        """Words of the runner."""
        self._hear("notice", text)

    def ended(self, outcome: RunOutcome) -> None:
        """The end."""
        self._hear("ended", outcome)

    def refused(self, text: str) -> None:
        """There is no run."""
        self._hear("refused", text)

    def _hear(self, call: str, what: object) -> None:
        self.calls.append((call, what))
        self.then(call)

    @property
    def names(self) -> list[str]:
        """The calls without what was in them."""
        return [name for name, _ in self.calls]

    @property
    def printed(self) -> bytes:
        """All output."""
        return b"".join(what for name, what in self.calls if name == "output")

    @property
    def notices(self) -> list[str]:
        """All words of the runner."""
        return [what for name, what in self.calls if name == "notice"]


class RunTestCase(SynchronousTestCase):
    """
    A runner with runs that are made up.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.made = MakesUp()
        self.runner = self.make_runner()
        self.events: list[dict[str, Any]] = []
        observer = cast("ILogObserver", self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def make_runner(self, **settings: Any) -> Runner:
        """A runner with these settings."""
        return Runner(
            self.clock,
            RunSettings(**settings),
            executable=self.made,
            monotonic=self.clock.seconds,
        )

    def ask(self, *defined: str, **more: Any) -> Heard:
        """Ask for a run with these classes."""
        heard = Heard()
        heard.ticket = self.runner.ask(make_order(*defined, **more), heard)
        return heard

    @property
    def runs(self) -> list[MadeUp]:
        """The runs that have begun."""
        return self.made.runs

    def told(self, event: str) -> list[dict[str, Any]]:
        """The events of this name."""
        return [each for each in self.events if each.get("event") == event]
