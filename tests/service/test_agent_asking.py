# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_asking`, with an agent whose servers are scripts.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from nodecomm.inventory.upstream_errors import Transient
from nodecomm.service.agent_asking import (
    LONGEST_START,
    AgentAsk,
    InventoryAsk,
    NoRun,
    describe_run,
    takes_signal,
)
from nodecomm.service.agent_inventory_making import MadeFiles
from nodecomm.service.agent_inventory_prepared import InventoryTarget
from nodecomm.service.agent_inventory_sources import NoWay, no_key
from nodecomm.service.agent_inventory_status import inventory_failures
from nodecomm.service.agent_status import AgentStatus, Point
from nodecomm.sync.model import SyncResult
from tests.service.agents import Answer, FakeAgent, result
from tests.service.test_agent_inventory import FakeWays, made
from tests.service.test_agent_service import FIRST, A, down, new, same


class Asking:
    """
    An agent of this very process, and somebody who asks it.

    Attributes:
        said: What was told meanwhile.
        signals: The signals that were sent.
        meanwhile: Called with the seconds of each wait, besides that they pass.
    """

    def __init__(
        self,
        folder: Path,
        agent: FakeAgent,
        timeout: float = 600,
        kind: type[AgentAsk] = AgentAsk,
    ) -> None:
        self.agent = agent
        self.said: list[str] = []
        self.signals: list[tuple[int, int]] = []
        self.meanwhile: Callable[[float], object] = lambda seconds: None
        self.signalled: Callable[[], object] = agent.service.run_now
        self.proc = folder / "proc" / str(os.getpid())
        self.proc.mkdir(parents=True)
        self.catches(signal.SIGUSR1)
        self.ask = kind(
            str(folder / "state"),
            timeout,
            agent.service.point,
            self.said.append,
            sleep=self._sleep,
            kill=self._kill,
            proc=folder / "proc",
        )

    def catches(self, *numbers: int) -> None:
        """The signals that the process has functions for."""
        mask = sum(1 << (number - 1) for number in numbers)
        (self.proc / "status").write_text(f"Name:\tx\nSigCgt:\t{mask:016x}\n")

    def made(self) -> AgentStatus:
        """What comes of it."""
        return self.ask.make()

    def told(self, status: AgentStatus) -> list[str]:
        """The same for people."""
        return describe_run(status, self.ask.asked, self.present)

    @property
    def present(self) -> Point:
        """Now."""
        return self.agent.service.point()

    def _sleep(self, seconds: float) -> None:
        self.meanwhile(seconds)
        self.agent.reactor.advance(seconds)

    def _kill(self, pid: int, number: int) -> None:
        self.signals.append((pid, number))
        self.signalled()


def test_a_run_now(tmp_path: Path) -> None:
    """It is made at once, and what came of it is told."""
    asking = Asking(tmp_path, FakeAgent(tmp_path, {A: new}))
    status = asking.made()
    assert asking.signals == [(os.getpid(), signal.SIGUSR1)]
    assert asking.agent.asked == [(A, "masterfiles")]
    attempt = status.last_attempt
    assert attempt is not None
    assert (attempt.reason, attempt.outcome) == ("signal", "succeeded")
    lines = asking.told(status)
    assert lines[0].startswith("masterfiles -> /srv/masterfiles: updated from a:5308")
    assert "  updated: a.cf" in lines
    assert lines[-1] == "the run succeeded after 0.0 s"


def test_a_run_that_fails(tmp_path: Path) -> None:
    """Why it failed and what to do is told."""
    asking = Asking(tmp_path, FakeAgent(tmp_path, {A: down, "b:5308": down}))
    lines = asking.told(asking.made())
    assert lines[-1] == "the run failed after 0.0 s"
    assert any("unreachable (connection-refused)" in line for line in lines)
    assert any("what to do: " in line for line in lines)


def test_a_run_that_takes_its_time(tmp_path: Path) -> None:
    """It is waited for; a line each minute says that it goes on."""
    answer: Deferred[SyncResult] = Deferred()
    asking = Asking(tmp_path, FakeAgent(tmp_path, {A: lambda request: answer}))

    def meanwhile(seconds: float) -> None:
        if len(asking.said) == 3 and not answer.called:
            answer.callback(result())

    asking.meanwhile = meanwhile
    status = asking.made()
    assert status.last_attempt is not None
    assert status.last_attempt.seconds == pytest.approx(120, abs=1)
    assert asking.said == [
        "a run is under way",
        "still under way after 1m",
        "still under way after 2m",
    ]


def test_during_a_run(tmp_path: Path) -> None:
    """What is under way goes on, and the run that was asked for follows it."""
    first: Deferred[SyncResult] = Deferred()
    answers: Iterator[Answer] = iter([first, result(changed=True)])
    asking = Asking(tmp_path, FakeAgent(tmp_path, {A: lambda request: next(answers)}))
    asking.agent.reactor.advance(FIRST)
    assert asking.agent.asked == [(A, "masterfiles")]

    def meanwhile(seconds: float) -> None:
        if not first.called:
            first.callback(result())

    asking.meanwhile = meanwhile
    status = asking.made()
    assert asking.said == ["a run is under way; the one that is asked for follows it"]
    assert status.last_attempt is not None
    assert status.last_attempt.reason == "signal"
    assert status.copies[0].outcome == "updated"


def test_what_follows_an_update_is_waited_for(tmp_path: Path) -> None:
    """The run is over when after_update is."""
    agent = FakeAgent(tmp_path, {A: new}, more='after_update = ["/bin/echo", "done"]\n')
    asking = Asking(tmp_path, agent)
    status = asking.made()
    assert status.after_update is not None
    assert status.after_update.status == 0
    ran = re.compile(r"after_update: exit status 0 after \d+\.\d s")
    assert any(ran.fullmatch(line) for line in asking.told(status)), asking.told(status)
    # Nothing has changed, so it does not run; what it was before is not told.
    agent.servers.answers[A] = same
    asking.agent.reactor.advance(1)
    assert not any("after_update" in line for line in asking.told(asking.made()))


def test_nobody_is_there(tmp_path: Path) -> None:
    """Without an agent it is said how to start one, and no signal is sent."""
    asking = Asking(tmp_path, FakeAgent(tmp_path, {A: same}))
    asking.agent.service.stopService()
    with pytest.raises(NoRun, match=r"no agent is running .*twistd nodecomm-agent"):
        asking.made()
    assert asking.signals == []


def test_no_signal_ends_an_agent(tmp_path: Path) -> None:
    """
    One that has no function for the signal yet would be ended by it: it is waited for,
    and given up.
    """
    asking = Asking(tmp_path, FakeAgent(tmp_path, {A: same}))
    asking.catches(signal.SIGHUP)
    with pytest.raises(NoRun, match="takes no SIGUSR1"):
        asking.made()
    assert asking.signals == []
    assert asking.agent.reactor.seconds() == pytest.approx(LONGEST_START, abs=0.2)
    asking.meanwhile = lambda seconds: asking.catches(signal.SIGUSR1)
    asking.made()
    assert len(asking.signals) == 1


def test_an_agent_that_ends(tmp_path: Path) -> None:
    """Whoever waits is told at once, not after the time limit."""
    asking = Asking(tmp_path, FakeAgent(tmp_path, {A: same}))

    def gone() -> None:
        raise ProcessLookupError

    asking.signalled = gone
    with pytest.raises(NoRun, match="ended before the run was over"):
        asking.made()


def test_a_stop_during_the_run(tmp_path: Path) -> None:
    """A run that the agent's own stop ended was none that succeeded."""
    answer: Deferred[SyncResult] = Deferred()
    asking = Asking(tmp_path, FakeAgent(tmp_path, {A: lambda request: answer}))
    asking.meanwhile = lambda seconds: asking.agent.service.stopService()
    status = asking.made()
    assert status.last_attempt is not None
    assert status.last_attempt.outcome == "stopped"
    assert status.state == "stopped"


def test_too_long(tmp_path: Path) -> None:
    """After the time limit the run goes on, and is no longer waited for."""
    answer: Deferred[SyncResult] = Deferred()
    agent = FakeAgent(tmp_path, {A: lambda request: answer})
    with pytest.raises(NoRun, match="not over after 30s; it goes on"):
        Asking(tmp_path, agent, timeout=30).made()
    assert agent.service.status.state == "running"


def test_whether_a_signal_ends_a_process(tmp_path: Path) -> None:
    """The system is asked; where it tells nothing, nothing is known."""
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        assert takes_signal(os.getpid(), signal.SIGUSR1) is True
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        assert takes_signal(os.getpid(), signal.SIGUSR1) is False
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert takes_signal(os.getpid(), signal.SIGUSR1, tmp_path) is None


class TestInventory:
    """Asking for an inventory."""

    def test_it_is_sent(self, tmp_path: Path) -> None:
        """Whenever the last one was; what goes on is told."""
        ways = FakeWays(ids={"https://a/": "root", "https://b/": "root"})
        agent = FakeAgent(tmp_path, {A: same, "b:5308": same}, ways=ways)
        agent.reactor.advance(FIRST)
        assert ways.made == 1
        asking = Asking(tmp_path, agent, kind=InventoryAsk)
        later: Deferred[MadeFiles] = Deferred()
        ways.machine = later
        passed = 0.0

        def wait(seconds: float) -> None:
            nonlocal passed
            passed += seconds
            if passed > 1 and not later.called:
                later.callback(made(2))

        asking.meanwhile = wait
        status = asking.ask.make()
        assert status.inventory is not None
        assert status.inventory.sent is not None
        assert status.inventory.sent.reason == "asked"
        assert asking.said == ["an inventory is being made"]
        assert inventory_failures(status.inventory) == []
        assert ways.stored["n-1_2.ocs.gz"] == b"2 for root"

    def test_it_cannot_be_sent(self, tmp_path: Path) -> None:
        """The first attempt is over when it has failed, and tells why."""
        away = Transient("nobody there")
        ways = FakeWays(ids={"https://a/": away, "https://b/": away})
        agent = FakeAgent(tmp_path, {A: same, "b:5308": same}, ways=ways)
        agent.reactor.advance(FIRST)
        ways.took()
        asking = Asking(tmp_path, agent, kind=InventoryAsk)
        status = asking.ask.make()
        assert ways.took() == ["uuid https://a/", "uuid https://b/"]
        assert status.inventory is not None
        (wrong,) = inventory_failures(status.inventory)
        assert "2 times in a row: https://a/: nobody there" in wrong

    def test_the_run_makes_the_server_known(self, tmp_path: Path) -> None:
        """
        Where the key of the server is not known yet, what comes of it is told after the
        run that was asked for, which may make it known.
        """
        target = InventoryTarget("https://a/", (), "a")
        ways = FakeWays(ids={"https://a/": NoWay(no_key(target))})
        runs: list[Deferred[SyncResult]] = []

        def slow(request: object) -> Deferred[SyncResult]:
            runs.append(Deferred())
            return runs[-1]

        more = '[inventory]\nurls = ["https://a/"]\n'
        agent = FakeAgent(tmp_path, {A: slow}, more=more, ways=ways)
        asking = Asking(tmp_path, agent, kind=InventoryAsk)
        passed = 0

        def wait(seconds: float) -> None:
            nonlocal passed
            passed += 1
            if passed == 20:
                ways.ids["https://a/"] = "root"
            if passed >= 20 and not runs[-1].called:
                runs[-1].callback(result())

        asking.meanwhile = wait
        status = asking.ask.make()
        assert passed >= 20
        assert status.inventory is not None
        assert status.inventory.sent is not None
        assert inventory_failures(status.inventory) == []

        ways.ids["https://a/"] = NoWay(no_key(target))
        passed = 20
        status = asking.ask.make()
        assert status.inventory is not None
        (wrong,) = inventory_failures(status.inventory)
        assert "no key of" in wrong

    def test_none_are_sent(self, tmp_path: Path) -> None:
        """It is said why, and nothing is asked for."""
        more = "[inventory]\nenabled = false\n"
        agent = FakeAgent(tmp_path, {A: same}, more=more, ways=FakeWays())
        agent.reactor.advance(FIRST)
        asking = Asking(tmp_path, agent, kind=InventoryAsk)
        with pytest.raises(NoRun, match="the agent sends no inventories"):
            asking.ask.make()
        assert asking.signals == []
        assert not (tmp_path / "state" / "own-inventory").exists()
