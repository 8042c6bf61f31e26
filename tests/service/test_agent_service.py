# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_service`, `agent_run`, `agent_after` and
`agent_keeping`, with servers that are scripts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from nodecomm.client.address import ServerAddress
from nodecomm.client.errors import (
    BadAnswer,
    ConnectionBroken,
    Refused,
    Rejected,
    Unreachable,
    UntrustedServer,
)
from nodecomm.service.agent_schedule import share_of
from nodecomm.service.agent_status import ailments, describe, read_status
from nodecomm.service.own_state import StartError, lock_holder
from nodecomm.sync.errors import LocalError, VerificationFailed
from nodecomm.sync.model import Change, SyncRequest, SyncResult
from nodecomm.sync.staging import Commit
from nodecomm.testing import key_pair
from tests.service.agents import AGENT, COPY, Answer, FakeAgent, result

A, B = "a:5308", "b:5308"
#: A little after the first run is due, and so after each point of the grid.
FIRST = share_of(key_pair(1).public.md5) * 300 + 0.01
DOWN = Unreachable("connection-refused", "a:5308 at 10.0.0.1: nobody listens")


def same(request: SyncRequest) -> Answer:
    """Nothing has changed."""
    return result()


def new(request: SyncRequest) -> Answer:
    """Something has changed."""
    return result(changed=True)


def down(request: SyncRequest) -> Answer:
    """Nobody listens."""
    return DOWN


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    """What is stated meanwhile."""
    stated: list[LogEvent] = []
    observer = cast(ILogObserver, stated.append)
    globalLogPublisher.addObserver(observer)
    yield stated
    globalLogPublisher.removeObserver(observer)


def named(events: list[LogEvent], name: str) -> list[LogEvent]:
    """The events of one name."""
    return [event for event in events if event.get("event") == name]


def test_the_first_run_and_the_next_ones(tmp_path: Path) -> None:
    """The first comes at the host's own point of the splay, then every interval."""
    agent = FakeAgent(tmp_path, {A: same})
    agent.reactor.advance(FIRST - 0.1)
    assert agent.asked == []
    agent.reactor.advance(0.2)
    assert agent.asked == [(A, "masterfiles")]
    for _ in range(3):
        agent.reactor.advance(299.7)
        assert agent.asked == []
        agent.reactor.advance(0.3)
        assert agent.asked == [(A, "masterfiles")]


def test_a_step_of_the_civil_clock_changes_nothing(tmp_path: Path) -> None:
    """A day forward or back: runs come when they would have, ages stay right."""
    agent = FakeAgent(tmp_path, {A: same})
    agent.reactor.advance(FIRST)
    assert len(agent.asked) == 1
    for step in (86400, -2 * 86400):
        agent.civil += step
        agent.reactor.advance(299.9)
        assert agent.asked == []
        status = agent.service.status
        assert status.last_success is not None
        passed = status.last_success.seconds_until(agent.service.point())
        assert passed == pytest.approx(299.9)
        agent.reactor.advance(0.1)
        assert len(agent.asked) == 1


def test_failover(tmp_path: Path, events: list[LogEvent]) -> None:
    """The next server is asked at once; the one that failed comes last for a time."""
    agent = FakeAgent(tmp_path, {A: down, B: same})
    agent.reactor.advance(FIRST)
    assert agent.asked == [(A, "masterfiles"), (B, "masterfiles")]
    (said,) = named(events, "agent.server-failed")
    assert said["code"] == "connection-refused"
    assert said["avoided"] == 30
    status = agent.service.status
    assert status.copies[0].server == B
    assert status.copies[0].failures[0].server == A
    assert status.server == B
    assert status.server_key == "MD5=of-b"
    # Half a minute is over long before the next run; the first is asked first again.
    agent.reactor.advance(300)
    assert agent.asked == [(A, "masterfiles"), (B, "masterfiles")]
    agent.service.run_now()
    assert agent.asked == [(B, "masterfiles")]
    agent.servers.answers[A] = same
    agent.reactor.advance(300)
    assert agent.asked == [(A, "masterfiles")]


@pytest.mark.parametrize(
    ("error", "elsewhere", "heals"),
    [
        (DOWN, True, True),
        (Unreachable("name-unknown", "x"), True, True),
        (UntrustedServer("key-changed", "x", ServerAddress("a"), None), True, False),
        (Rejected("not-trusted", "x"), True, False),
        (Refused("refused", b"masterfiles", b"BAD: Unspecified"), True, False),
        (ConnectionBroken("closed", "x"), True, True),
        (BadAnswer("out-of-step", "x"), True, True),
        (VerificationFailed("digest", "a.cf"), True, True),
        (LocalError("mount-point", "x"), False, False),
        (LocalError("no-space", "x"), False, True),
        (OSError(28, "No space left on device", "/x"), False, False),
        (RuntimeError("a mistake"), False, False),
    ],
)
def test_what_each_failure_means(
    tmp_path: Path,
    events: list[LogEvent],
    error: Exception,
    elsewhere: bool,
    heals: bool,
) -> None:
    """
    Whether another server is asked, and whether the next try comes before the next
    regular run. Each says what it was and what to do.
    """
    agent = FakeAgent(tmp_path, {A: lambda r: error, B: lambda r: error})
    agent.reactor.advance(FIRST)
    assert [server for server, _ in agent.asked] == ([A, B] if elsewhere else [A])
    agent.reactor.advance(30)
    assert bool(agent.asked) == heals
    said = named(events, "agent.copy-failed")[0]
    assert said["remedy"]
    assert str(error) in said["text"] or "No space left" in said["text"]
    (copy,) = agent.service.status.copies
    assert copy.outcome == "failed"
    assert copy.failures[-1].remedy == said["remedy"]
    assert agent.service.status.last_success is None


def test_a_node_that_is_not_accepted_yet(
    tmp_path: Path, events: list[LogEvent]
) -> None:
    """What keeps a new node from its own files is named first, and for those only."""
    refused = Refused("refused", b"/srv/nodes/x", b"BAD: Unspecified")
    more = COPY.format("m") + COPY.format("own").replace('"own"', '"nodes/{node_id}"')
    agent = FakeAgent(
        tmp_path, {A: lambda r: refused, B: lambda r: refused}, copies=(), more=more
    )
    agent.reactor.advance(FIRST)
    own_id = (tmp_path / "state" / "uuid").read_text().strip()
    whole, own = (x["remedy"] for x in named(events, "agent.copy-failed"))
    assert f"`nodecomm nodes accept {own_id}`; if it is, {whole}" in own
    assert "nodes accept" not in whole


def test_pauses_grow_up_to_the_interval(tmp_path: Path) -> None:
    """
    30 s, 60 s, 120 s, then only the regular runs are left.
    """
    agent = FakeAgent(tmp_path, {A: down, B: down})
    agent.reactor.advance(FIRST)
    runs = []
    for second in range(900):
        if agent.asked:
            runs.append(second)
        agent.reactor.advance(1)
    assert runs == [0, 30, 90, 210, 300, 600]


def test_the_source_itself(tmp_path: Path, events: list[LogEvent]) -> None:
    """What became of it is told under the name of a folder in itself."""
    changes = (Change(b"", "added"), Change(b"a.cf", "added"))
    agent = FakeAgent(tmp_path, {A: lambda request: result(True, changes=changes)})
    agent.reactor.advance(FIRST)
    (updated,) = named(events, "agent.updated")
    assert updated["changes"] == ["added .", "added a.cf"]


def test_copies_do_not_stop_each_other(tmp_path: Path) -> None:
    """A copy that fails for its own reasons does not keep others from being made."""

    def answer(request: SyncRequest) -> Answer:
        if request.source == b"one":
            return LocalError("mount-point", "/srv/one is a mount point")
        if request.source == b"two":
            return Refused("refused", b"two", b"BAD: Unspecified server refusal")
        return result(changed=True)

    agent = FakeAgent(tmp_path, {A: answer, B: answer}, copies=("one", "two", "three"))
    agent.reactor.advance(FIRST)

    assert agent.asked == [(A, "one"), (A, "two"), (B, "two"), (A, "three")]
    outcomes = [copy.outcome for copy in agent.service.status.copies]
    assert outcomes == ["failed", "failed", "updated"]
    assert agent.service.status.last_success is None


def test_servers_that_are_down_are_asked_once_a_run(tmp_path: Path) -> None:
    """With ten copies and no server a run does not wait ten times for each."""
    agent = FakeAgent(tmp_path, {A: down, B: down}, copies=("one", "two", "three"))
    agent.reactor.advance(FIRST)

    assert agent.asked == [(A, "one"), (B, "one")]
    copies = agent.service.status.copies
    assert [len(copy.failures) for copy in copies] == [2, 2, 2]


def test_one_connection_serves_all_copies(tmp_path: Path) -> None:
    """What brought one copy brings the next, and is closed at the end."""
    agent = FakeAgent(tmp_path, {A: same}, copies=("one", "two"))
    agent.reactor.advance(FIRST)

    assert agent.asked == [(A, "one"), (A, "two")]
    assert agent.servers.closed == [A]


def test_a_run_that_is_asked_for(tmp_path: Path) -> None:
    """It comes at once, and one more right after a run that is under way."""
    waiting: list[Deferred[SyncResult]] = []

    def slow(request: SyncRequest) -> Answer:
        waiting.append(Deferred())
        return waiting[-1]

    agent = FakeAgent(tmp_path, {A: slow})
    agent.service.run_now()
    assert len(agent.asked) == 1
    agent.service.run_now()
    agent.service.run_now()
    agent.reactor.advance(1000)
    # Runs never overlap.
    assert agent.asked == []
    waiting.pop().callback(result())
    assert len(agent.asked) == 1
    waiting.pop().callback(result())
    assert agent.asked == []
    assert agent.service.status.last_attempt is not None
    assert agent.service.status.last_attempt.reason == "signal"


def test_reloading(tmp_path: Path, events: list[LogEvent]) -> None:
    """A good file is in force for the next run, a bad one changes nothing."""
    agent = FakeAgent(tmp_path, {A: same, B: same})
    agent.reactor.advance(FIRST)
    assert agent.asked == [(A, "masterfiles")]

    agent.write(AGENT + "[[copy]]\n")
    assert not agent.service.reload()
    assert named(events, "config.rejected")
    agent.reactor.advance(300)
    assert agent.asked == [(A, "masterfiles")]

    text = AGENT.replace('["a", "b"]', '["b"]').replace("5m", "10s")
    agent.write(text + COPY.format("modules"))
    assert agent.service.reload()
    assert agent.asked == []
    agent.reactor.advance(10)
    assert agent.asked == [(B, "modules")]
    agent.reactor.advance(10)
    assert agent.asked == [(B, "modules")]
    assert [copy.source for copy in agent.service.status.copies] == ["modules"]


def test_nothing_to_copy(tmp_path: Path, events: list[LogEvent]) -> None:
    """
    An agent that is only there to be asked makes no runs of its own accord, says so,
    and all is well with it. What is to be copied after a reload is copied, and again
    nothing once it is not.
    """
    program = 'listen = ["tcp:5308"]\ncfruncommand = ["/bin/true"]\n'
    agent = FakeAgent(tmp_path, {A: same}, copies=(), more=program)
    (started,) = named(events, "agent.started")
    assert "nothing is to be copied" in str(formatEvent(started))
    agent.reactor.advance(1000)
    status = read_status(str(tmp_path / "state"))
    assert status is not None
    assert (status.last_attempt, status.next_run) == (None, None)
    assert ailments(status, running=True) == []
    lines = describe(status, agent.service.point(), running=True)
    assert lines[0].endswith("no run but those that are asked for")

    agent.service.run_now()
    assert agent.service.status.last_attempt is not None
    assert agent.service.status.last_attempt.outcome == "succeeded"
    assert agent.asked == []

    agent.write(AGENT + program + COPY.format("masterfiles"))
    assert agent.service.reload()
    agent.reactor.advance(300)
    assert agent.asked == [(A, "masterfiles")]
    agent.write(AGENT + program)
    assert agent.service.reload()
    agent.reactor.advance(1000)
    assert agent.asked == []
    assert agent.service.status.next_run is None


def test_a_reload_during_a_run(tmp_path: Path) -> None:
    """The run goes on as it began, and no later run is lost."""
    waiting: Deferred[SyncResult] = Deferred()
    agent = FakeAgent(tmp_path, {A: lambda request: waiting, B: same})
    agent.reactor.advance(FIRST)
    agent.write(AGENT.replace('["a", "b"]', '["b"]') + COPY.format("masterfiles"))
    assert agent.service.reload()
    waiting.callback(result())
    assert agent.asked == [(A, "masterfiles")]
    agent.reactor.advance(300)
    assert agent.asked == [(B, "masterfiles")]


def test_stopping_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """What is under way is cancelled, and the end waits for its end."""
    cancelled: list[Deferred[SyncResult]] = []
    agent = FakeAgent(tmp_path, {A: lambda request: Deferred(cancelled.append)})
    agent.reactor.advance(FIRST)
    stopped: list[object] = []
    agent.service.stopService().addBoth(stopped.append)

    assert len(cancelled) == 1
    assert stopped == [None]
    assert agent.servers.closed == [A]
    assert agent.reactor.getDelayedCalls() == []
    status = read_status(str(tmp_path / "state"))
    assert status is not None
    assert status.state == "stopped"
    assert status.last_attempt is not None
    assert status.last_attempt.outcome == "stopped"
    assert lock_holder(str(tmp_path / "state" / "agent.lock")) is None


def test_stopping_while_waiting(tmp_path: Path) -> None:
    """Nothing is left behind."""
    agent = FakeAgent(tmp_path, {A: same})
    stopped: list[object] = []
    agent.service.stopService().addBoth(stopped.append)

    assert stopped == [None]
    assert agent.reactor.getDelayedCalls() == []
    assert agent.asked == []


def test_two_agents_on_one_state_folder(tmp_path: Path) -> None:
    """The second does not start, and says why."""
    agent = FakeAgent(tmp_path, {A: same})
    with pytest.raises(StartError, match="another agent runs with this state folder"):
        agent.start()


# -- after_update ---------------------------------------------------------------

Made = Callable[..., FakeAgent]


@pytest.fixture
def following(tmp_path: Path) -> Made:
    """Makes an agent whose `after_update` writes a line into a file."""

    def make(
        servers: dict[str, Callable[[SyncRequest], Answer]],
        copies: tuple[str, ...] = ("masterfiles",),
        script: str = "echo ran >> $0",
    ) -> FakeAgent:
        command = json.dumps(["/bin/sh", "-c", script, str(tmp_path / "ran")])
        return FakeAgent(
            tmp_path, servers, copies=copies, more=f"after_update = {command}\n"
        )

    return make


def runs(agent: FakeAgent) -> int:
    """How often `after_update` ran since the last look."""
    path = agent.folder / "ran"
    if not path.exists():
        return 0
    count = len(path.read_text().splitlines())
    path.unlink()
    return count


def test_after_a_change_only(following: Made, events: list[LogEvent]) -> None:
    """It runs once for a run that changed something, and not for one that did not."""
    agent = following({A: new})
    agent.reactor.advance(FIRST)
    assert runs(agent) == 1
    agent.servers.answers[A] = same
    agent.reactor.advance(300)
    assert runs(agent) == 0
    after = agent.service.status.after_update
    assert after is not None
    assert (after.status, after.succeeded) == (0, True)
    assert len(named(events, "agent.after-update-ended")) == 1


def test_after_a_complete_run_only(following: Made, events: list[LogEvent]) -> None:
    """
    A change waits until every copy succeeds in one run, and is then not forgotten
    though that run changes nothing.
    """

    def answer(request: SyncRequest) -> Answer:
        return result(changed=True) if request.source == b"one" else DOWN

    agent = following({A: answer, B: down}, ("one", "two"))
    agent.reactor.advance(FIRST)
    assert runs(agent) == 0
    assert named(events, "agent.after-update-waits")
    assert agent.service.status.after_update_pending
    agent.servers.answers[A] = same
    agent.service.run_now()
    assert runs(agent) == 1
    assert not agent.service.status.after_update_pending


@pytest.mark.parametrize("in_place", [True, False])
def test_killed_around_the_exchange(
    following: Made, tmp_path: Path, in_place: bool
) -> None:
    """
    Killed between the note of a change and what follows: the next start runs
    `after_update` once, at once, if the set is in its place, and not if not.
    """
    (tmp_path / "set").mkdir()
    status = (tmp_path / "set").stat()
    inode = status.st_ino if in_place else status.st_ino + 1

    def dies(request: SyncRequest) -> Answer:
        return Deferred()

    agent = following({A: dies})
    agent.reactor.advance(FIRST)
    agent.service.rounds.follower.pending.note(
        bytes(tmp_path / "set"),
        Commit((status.st_dev, inode)).identity,
        completes=True,
    )
    agent.kill()
    agent.servers.answers[A] = same
    agent.start()
    assert runs(agent) == (1 if in_place else 0)
    agent.reactor.advance(300)
    assert runs(agent) == 0


def test_one_that_ends_the_agent_each_time(
    following: Made, events: list[LogEvent]
) -> None:
    """It is begun twice for one change, then given up."""
    agent = following({A: same})
    pending = agent.service.rounds.follower.pending
    pending.note(b"/x", None, completes=True)
    pending.begin()
    pending.begin()
    agent.kill()
    agent.start()
    assert runs(agent) == 0
    assert named(events, "agent.after-update-given-up")
    agent.kill()
    agent.start()
    assert len(named(events, "agent.after-update-given-up")) == 1


def test_one_that_fails(following: Made, events: list[LogEvent]) -> None:
    """Its words and its status are told; it is not repeated."""
    agent = following({A: new}, script="echo ran >> $0; echo oops >&2; exit 3")
    agent.reactor.advance(FIRST)
    agent.servers.answers[A] = same
    agent.reactor.advance(300)

    assert runs(agent) == 1
    assert [event["line"] for event in named(events, "agent.output")] == ["oops"]
    (ended,) = named(events, "agent.after-update-ended")
    assert ended["status"] == 3
    after = agent.service.status.after_update
    assert after is not None
    assert not after.succeeded


def test_without_after_update(tmp_path: Path) -> None:
    """Nothing is noted and nothing follows."""
    agent = FakeAgent(tmp_path, {A: new})
    agent.reactor.advance(FIRST)

    assert not (tmp_path / "state" / "agent-pending.json").exists()
    assert agent.service.status.copies[0].outcome == "updated"


def test_state_that_cannot_be_written(tmp_path: Path, events: list[LogEvent]) -> None:
    """It is told once, and the copies are made all the same."""
    agent = FakeAgent(tmp_path, {A: same})
    status = tmp_path / "state" / "agent-status.json"
    status.unlink(missing_ok=True)
    (status / "in the way").mkdir(parents=True)
    agent.reactor.advance(FIRST)
    agent.reactor.advance(300)

    assert len(agent.asked) == 2
    assert len(named(events, "agent.state-failed")) == 1


def test_over_tls_nothing_is_said_of_protection(
    tmp_path: Path, events: list[LogEvent]
) -> None:
    """That is how it should be; the status tells it."""
    agent = FakeAgent(tmp_path, {A: same})
    agent.reactor.advance(FIRST)

    assert named(events, "agent.unprotected") == []
    assert agent.service.status.protocol == "TLS"


@pytest.mark.parametrize("encrypt", [False, True])
def test_each_classic_run_says_that_it_is_not_protected(
    tmp_path: Path, events: list[LogEvent], encrypt: bool
) -> None:
    """Once a run, however many copies and servers, with how it is spoken."""
    more = f'protocol = "classic"\nencrypt = {str(encrypt).lower()}\n'
    agent = FakeAgent(tmp_path, {A: down, B: same}, more=more, copies=("x", "y"))
    agent.reactor.advance(FIRST)
    (said,) = named(events, "agent.unprotected")
    agent.reactor.advance(300)

    assert len(named(events, "agent.unprotected")) == 2
    assert (said["servers"], said["encrypt"]) == ([A, B], encrypt)
    assert f"{A}, {B}, {'encrypted' if encrypt else 'in the clear'}" in said["text"]
    how = "encrypted" if encrypt else "in the clear"
    assert agent.service.status.protocol == f"classic, {how}: not protected on the way"
