# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_inventory`: an agent whose servers, machine and clock
are fakes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from nodecomm.inventory.making import UploadFiles
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.upstream_errors import (
    Permanent,
    Transient,
    UntrustedServer,
    failure_of,
)
from nodecomm.service.agent_inventory_making import (
    InventoryOrder,
    MadeFiles,
    MakingFailed,
)
from nodecomm.service.agent_inventory_prepared import InventoryTarget
from nodecomm.service.agent_inventory_sources import NoWay, no_key
from nodecomm.service.agent_inventory_status import InventoryStatus
from nodecomm.service.agent_inventory_when import DAY, HOUR, Daily, Sent
from nodecomm.service.agent_outbox import Outbox, ask_for_inventory
from nodecomm.service.agent_schedule import share_of
from nodecomm.service.agent_status import ailments, describe, read_status
from nodecomm.sync.model import SyncRequest
from nodecomm.testing import key_pair
from tests.service.agents import Answer as SyncAnswer
from tests.service.agents import FakeAgent, result

SHARE = share_of(key_pair(1).public.md5)

#: A little after the first run is due.
FIRST = SHARE * 300 + 0.01

#: 2026-11-22 12:00 UTC.
NOON = 1795348800.0

A, B = "https://a/", "https://b/"

ONLY_A = '[inventory]\nurls = ["https://a/"]\n'

#: What comes of a file that is sent: an error, something later, or nothing special.
Put = Exception | Deferred[int] | None


@define
class FakeWays:
    """
    Servers, and a machine.

    Attributes:
        ids: The id of each server, or why there is none.
        puts: What comes of a file that is sent; by default it is stored.
        machine: What comes of a look at the machine; by default it is well.
        log: Whatever happened, in order.
        stored: The files that servers have: box, name and content.
    """

    ids: dict[str, str | Exception] = field(factory=lambda: {A: "root", B: "root-b"})
    puts: Callable[[str, Box, str], Put] = lambda *about: None
    machine: MakingFailed | Deferred[MadeFiles] | None = None
    log: list[str] = field(factory=list)
    stored: dict[str, bytes] = field(factory=dict)
    made: int = 0
    stopped: bool = False

    async def connect(self, target: Any, prepared: Any) -> _FakeUpstream:
        """As `Ways`."""
        answer = self.ids[target.url]
        if isinstance(answer, NoWay):
            raise answer
        return _FakeUpstream(self, target.url)

    async def make(self, order: InventoryOrder, prepared: Any) -> MadeFiles:
        """As `Ways`."""
        self.log.append(f"make for {order.server_id} of {order.server}")
        if isinstance(self.machine, MakingFailed):
            raise self.machine
        if self.machine is not None:
            return await self.machine
        self.made += 1
        return made(self.made, order.server_id)

    def stop(self) -> None:
        """As `Ways`."""
        self.stopped = True

    def took(self) -> list[str]:
        """What has happened since the last look."""
        log, self.log = self.log, []
        return log


def made(number: int, server_id: str = "root") -> MadeFiles:
    """An inventory."""
    name = f"n-1_{number}.ocs"
    content = f"{number} for {server_id}".encode()
    files = UploadFiles(f"{name}.gz", content, f"{name}.sign", b"signed " + content)
    return MadeFiles(files, "n-1", "web1", 100, ("packages: no dpkg",))


@define
class _FakeUpstream:
    ways: FakeWays
    url: str

    def server_id(self) -> Deferred[str]:
        """As `Upstream`."""
        answer = self.ways.ids[self.url]
        self.ways.log.append(f"uuid {self.url}")
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    def put(self, box: Box, name: str, path: Any) -> Deferred[int]:
        """As `Upstream`."""
        self.ways.log.append(f"put {box.value} {name}")
        answer = self.ways.puts(self.url, box, name)
        if isinstance(answer, Deferred):
            return answer
        if answer is not None:
            return fail(answer)
        content = Path(path).read_bytes()
        self.ways.stored[name] = content
        return succeed(201)

    def close(self) -> Deferred[None]:
        """As `Upstream`."""
        return succeed(None)


def first(number: int) -> list[str]:
    """What is sent of one inventory to the first box."""
    return [f"put first n-1_{number}.ocs.gz", f"put first n-1_{number}.ocs.sign"]


WHOLE = [f"uuid {A}", "make for root of a", *first(1)]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine is in UTC."""
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


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


def same(request: SyncRequest) -> SyncAnswer:
    """Nothing has changed."""
    return result()


def agent(folder: Path, ways: FakeWays, more: str = "") -> FakeAgent:
    """An agent that copies nothing interesting."""
    servers: dict[str, Callable[[SyncRequest], SyncAnswer]]
    servers = {"a:5308": same, "b:5308": same}
    return FakeAgent(folder, servers, more=more, ways=ways, civil=NOON)


def status(agent: FakeAgent) -> InventoryStatus:
    """How its inventories are doing, as the file has it."""
    found = read_status(os.fspath(agent.folder / "state"))
    assert found is not None
    assert found.inventory is not None
    return found.inventory


def later(agent: FakeAgent, seconds: float) -> None:
    """Time passes, as it does, in many small steps."""
    agent.reactor.pump([seconds / 50] * 50)


def daily(agent: FakeAgent) -> float:
    """Seconds until the node's point of the day."""
    now = agent.civil + agent.reactor.seconds()
    return Daily(0, 360, SHARE).after(now) - now


def test_the_first_one(tmp_path: Path, events: list[LogEvent]) -> None:
    """
    After the first start: the server's id first, then the document and its signature,
    byte for byte; what is remembered of it and what people are told.
    """
    ways = FakeWays()
    node = agent(tmp_path, ways)
    later(node, FIRST - 1)
    assert ways.took() == []
    later(node, 1.1)
    assert ways.took() == WHOLE
    assert ways.stored["n-1_1.ocs.gz"] == b"1 for root"
    found = status(node)
    assert found.sent is not None
    assert (found.sent.url, found.sent.server_id) == (A, "root")
    assert (found.sent.reason, found.state, found.waits) == ("first", "waiting", "")
    assert found.servers == (A, B)
    (said,) = named(events, "agent.inventory-sent")
    assert formatEvent(said) == "the inventory of this node (n-1) is with https://a/"
    whole = node.service.status
    assert ailments(whole, running=True) == []
    told = "\n".join(describe(whole, node.service.point(), running=True))
    assert "inventory:     sent" in told
    assert "policy server root" in told
    assert "node:          n-1" in told
    assert "without packages: no dpkg" in told


def test_daily_at_its_own_point(tmp_path: Path) -> None:
    """Each night once, and nothing in between, for a week."""
    ways = FakeWays()
    node = agent(tmp_path, ways)
    later(node, 600)
    ways.took()
    for day in range(7):
        left = daily(node)
        node.reactor.advance(left - 1)
        assert ways.took() == []
        node.reactor.advance(2)
        sent = ways.took()
        assert sent == [f"uuid {A}", "make for root of a", *first(day + 2)]


def test_a_restart_sends_nothing_anew(tmp_path: Path) -> None:
    """What was acknowledged is remembered; after an upgrade one is sent."""
    ways = FakeWays()
    node = agent(tmp_path, ways)
    later(node, 600)
    node.kill()
    ways.took()
    node.start()
    later(node, 3600)
    assert ways.took() == []
    node.kill()
    outbox = Outbox(os.fspath(tmp_path / "state"))
    sent = outbox.sent()
    assert sent is not None
    older = Sent(sent.when, "0.0.1", sent.key, sent.servers, reason="first")
    outbox.acknowledged(older, "")
    node.start()
    later(node, 600)
    assert ways.took()[-1] == "put first n-1_2.ocs.sign"
    again = outbox.sent()
    assert again is not None
    assert again.reason == "version"


def test_it_is_kept_and_sent_again(tmp_path: Path, events: list[LogEvent]) -> None:
    """
    With growing pauses, the same one, until a server has it; whatever was lost, the
    halves that arrive belong together.
    """
    ways = FakeWays(ids={A: "root", B: Transient("nobody there")})
    lost = {"n-1_1.ocs.sign"}
    ways.puts = lambda url, box, name: (
        Transient("no answer after 60 seconds") if name in lost else None
    )
    node = agent(tmp_path, ways)
    later(node, FIRST + 0.1)
    assert ways.took() == [*WHOLE, f"uuid {B}"]
    for pause in (30, 60, 120, 240, 480, 960, 1920, 3600, 3600):
        node.reactor.advance(pause - 0.2)
        assert ways.took() == []
        node.reactor.advance(0.3)
        assert ways.took() == [f"uuid {A}", *first(1), f"uuid {B}"]
    found = status(node)
    assert found.failures_in_a_row == 10
    assert found.waits == "n-1_1.ocs.gz"
    assert [f.kind for f in found.failures] == ["unreachable", "unreachable"]
    lost.clear()
    node.reactor.advance(3601)
    assert ways.took() == [f"uuid {A}", *first(1)]
    assert ways.stored["n-1_1.ocs.sign"] == b"signed 1 for root"
    assert status(node).failures_in_a_row == 0
    assert os.listdir(tmp_path / "state" / "own-inventory") == ["sent.json"]


def test_killed_before_it_was_acknowledged(tmp_path: Path) -> None:
    """The next process sends the same one."""
    ways = FakeWays()
    ways.puts = lambda *about: Transient("no answer")
    node = agent(tmp_path, ways, more=ONLY_A)
    later(node, FIRST + 0.1)
    node.kill()
    ways.took()
    ways.puts = lambda *about: None
    node.start()
    later(node, FIRST + 0.1)
    assert ways.took() == [f"uuid {A}", *first(1)]


def test_another_server_takes_one_that_names_it(tmp_path: Path) -> None:
    """One that names the first server is never sent to the second."""
    ways = FakeWays(ids={A: "root", B: "root-b"})
    ways.puts = lambda url, box, name: Transient("busy") if url == A else None
    node = agent(tmp_path, ways)
    later(node, FIRST + 0.1)
    assert ways.took() == [
        f"uuid {A}",
        "make for root of a",
        "put first n-1_1.ocs.gz",
        f"uuid {B}",
        "make for root-b of b",
        *first(2),
    ]
    assert ways.stored["n-1_2.ocs.gz"] == b"2 for root-b"


def test_servers_that_share_a_registry(tmp_path: Path) -> None:
    """They have one id, and one inventory does for both."""
    ways = FakeWays(ids={A: "root", B: "root"})
    ways.puts = lambda url, box, name: Transient("busy") if url == A else None
    node = agent(tmp_path, ways)
    later(node, FIRST + 0.1)
    assert ways.took() == [*WHOLE[:3], f"uuid {B}", *first(1)]


def test_a_newer_one_replaces_one_that_waits(tmp_path: Path) -> None:
    """One of yesterday, or of another time of the clock, is not sent any more."""
    ways = FakeWays()
    ways.puts = lambda *about: Transient("no answer")
    node = agent(tmp_path, ways, more=ONLY_A)
    later(node, FIRST + 0.1)
    node.reactor.advance(12 * HOUR)
    ways.took()
    node.reactor.advance(HOUR * 2)
    assert "put first n-1_2.ocs.gz" in ways.took()
    files = os.listdir(tmp_path / "state" / "own-inventory")
    assert sorted(files) == ["kept.json", "n-1_2.ocs.gz", "n-1_2.ocs.sign"]
    node.civil += 2 * DAY
    node.reactor.advance(HOUR * 2)
    assert "put first n-1_3.ocs.gz" in ways.took()


def test_refused_for_good(tmp_path: Path, events: list[LogEvent]) -> None:
    """
    A file that the server does not want is not sent again; a new one is, much later.
    """
    ways = FakeWays()
    ways.puts = lambda *about: Permanent("the server answers 413: too large", 413)
    node = agent(tmp_path, ways, more=ONLY_A)
    later(node, FIRST + 0.1)
    assert ways.took() == WHOLE[:3]
    assert not Outbox(os.fspath(tmp_path / "state")).kept()
    node.reactor.advance(899)
    assert ways.took() == []
    node.reactor.advance(2)
    assert "make for root of a" in ways.took()
    (failure,) = status(node).failures
    assert (failure.kind, failure.code, failure.url) == ("refused", "http-413", A)


def unknown(url: str) -> NoWay:
    """No key is known of a server."""
    return NoWay(no_key(InventoryTarget(url, (), "hub")))


def test_a_server_that_asks_to_wait(tmp_path: Path) -> None:
    """Its pause is kept where it is longer."""
    ways = FakeWays()
    busy = failure_of(503, "", retry_after=600)
    ways.puts = lambda *about: busy
    node = agent(tmp_path, ways, more=ONLY_A)
    later(node, FIRST + 0.1)
    ways.took()
    node.reactor.advance(600)
    assert ways.took() == []
    node.reactor.advance(40)
    assert ways.took() != []


def test_the_box_for_nodes_that_are_known(tmp_path: Path) -> None:
    """
    Once a server has taken one, with the account that nodes are given; where the server
    has another one, with the first again.
    """
    more = f'{ONLY_A}update_user = "rudder"\nupdate_password = "secret"\n'
    ways = FakeWays()
    node = agent(tmp_path, ways, more=more)
    later(node, FIRST + 0.1)
    assert ways.took() == WHOLE
    later(node, DAY)
    assert "put update n-1_2.ocs.gz" in ways.took()
    ways.puts = lambda url, box, name: (
        failure_of(401, "") if box is Box.UPDATE else None
    )
    later(node, DAY)
    assert ways.took()[-3:] == ["put update n-1_3.ocs.gz", *first(3)]
    assert status(node).failures == ()


@pytest.mark.parametrize("asked_for", [False, True])
def test_nobody_takes_inventories(
    tmp_path: Path, events: list[LogEvent], asked_for: bool
) -> None:
    """
    A policy server without HTTPS, or with something else there: told in the status, but
    no ailment, unless somebody has written that inventories are sent.
    """
    ways = FakeWays(
        ids={
            A: Transient("no connection: Connection was refused by other side"),
            B: UntrustedServer("b:443 shows another key", "key-changed"),
        }
    )
    node = agent(tmp_path, ways, more="[inventory]\n" if asked_for else "")
    later(node, FIRST + 0.1)
    wrong = ailments(node.service.status, running=True)
    assert bool(wrong) == asked_for
    assert len(named(events, "agent.inventory-failed")) == 2 * asked_for
    assert len(named(events, "agent.inventory-not-taken")) == 2 * (not asked_for)
    told = "\n".join(describe(node.service.status, node.service.point(), running=True))
    assert "https://a/: unreachable (connection): no connection" in told
    assert "https://b/: untrusted (key-changed): b:443 shows another key" in told
    assert "next try in 30s" in told
    if asked_for:
        assert "once: https://a/: no connection" in wrong[0]
    # Nothing was made for nobody.
    assert ways.made == 0


def test_one_that_was_taken_before_is_an_ailment(tmp_path: Path) -> None:
    """A server that took one takes none any more: somebody has to look."""
    ways = FakeWays()
    node = agent(tmp_path, ways)
    later(node, FIRST + 0.1)
    ways.ids = {A: Transient("away"), B: Transient("away, too")}
    node.reactor.advance(daily(node) + 1)
    node.reactor.advance(40)
    (wrong,) = ailments(node.service.status, running=True)
    assert "2 times in a row: https://a/: away; https://b/: away, too" in wrong


def test_the_key_becomes_known_with_the_first_run(tmp_path: Path) -> None:
    """Nothing is sent before, and there is no pause after."""
    ways = FakeWays(ids={A: unknown(A), B: unknown(B)})
    node = agent(tmp_path, ways, more="[inventory]\n")
    answer: Deferred[Any] = Deferred()
    node.servers.answers["a:5308"] = lambda request: answer
    later(node, FIRST + 0.1)
    assert ways.took() == []
    (failure, _) = status(node).failures
    assert failure.code == "no-key"
    ways.ids = {A: "root", B: "root"}
    answer.callback(result())
    assert ways.took() == WHOLE


def test_asking_for_one(tmp_path: Path) -> None:
    """A mark in the state folder and a signal; one more signal sends none."""
    ways = FakeWays()
    node = agent(tmp_path, ways)
    later(node, FIRST + 0.1)
    ways.took()
    node.service.run_now()
    assert ways.took() == []
    ask_for_inventory(os.fspath(tmp_path / "state"))
    node.service.run_now()
    assert ways.took()[-1] == "put first n-1_2.ocs.sign"
    node.service.run_now()
    assert ways.took() == []
    found = status(node)
    assert found.sent is not None
    assert found.sent.reason == "asked"


def test_whoever_asks_for_a_run_may_ask_for_one(tmp_path: Path) -> None:
    """It is sent beside the run; where none are sent, that is said."""
    ways = FakeWays()
    node = agent(tmp_path, ways)
    later(node, FIRST + 0.1)
    ways.took()
    said: list[str] = []
    node.service.follow_run(said.append)
    assert ways.took() == []
    node.service.follow_run(said.append, inventory=True)
    assert ways.took()[-1] == "put first n-1_2.ocs.sign"
    assert "an inventory is sent, too" in said
    node.write(node.file.read_text() + "[inventory]\nenabled = false\n")
    assert node.service.reload()
    node.service.follow_run(said.append, inventory=True)
    assert ways.took() == []
    assert "no inventories are sent" in said


def test_hurry_during_an_attempt(tmp_path: Path) -> None:
    """Who hurries while one fails has the next one at once."""
    ways = FakeWays()
    answer: Deferred[int] = Deferred()
    ways.puts = lambda *about: answer
    node = agent(tmp_path, ways, more=ONLY_A)
    later(node, FIRST + 0.1)
    ways.took()
    node.service.run_now()
    ways.puts = lambda *about: None
    answer.errback(Transient("no answer"))
    assert ways.took() == [f"uuid {A}", *first(1)]


def test_a_signal_ends_a_pause(tmp_path: Path) -> None:
    """What waits is sent at once when somebody says so, and after a reload."""
    ways = FakeWays(ids={A: Transient("away"), B: Transient("away")})
    node = agent(tmp_path, ways)
    later(node, FIRST + 0.1)
    ways.took()
    node.service.run_now()
    assert ways.took() == [f"uuid {A}", f"uuid {B}"]
    ways.ids = {A: "root", B: "root"}
    assert node.service.reload()
    assert ways.took() == WHOLE


@pytest.mark.parametrize("hanging", ["making", "sending"])
def test_stopped_in_the_middle(
    tmp_path: Path, events: list[LogEvent], hanging: str
) -> None:
    """It ends at once; the next process goes on."""
    ways = FakeWays()
    if hanging == "making":
        ways.machine = Deferred()
    else:
        ways.puts = lambda *about: Deferred()
    node = agent(tmp_path, ways)
    later(node, FIRST + 0.1)
    assert status(node).state == hanging
    done = node.service.stopService()
    assert done.called
    assert ways.stopped
    assert not named(events, "agent.inventory-failed")
    assert not named(events, "agent.inventory-ended")
    ways.machine = None
    ways.puts = lambda *about: None
    ways.took()
    node.start()
    later(node, FIRST + 0.1)
    assert ways.took()[-2:] == first(1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            MakingFailed("command", "/usr/bin/x failed (exit status 1)", "run it"),
            "command",
        ),
        (MakingFailed("hangs", "looking at this machine takes longer"), "hangs"),
    ],
)
def test_the_machine_cannot_be_looked_at(
    tmp_path: Path, events: list[LogEvent], error: MakingFailed, code: str
) -> None:
    """No other server is asked for that; it is tried again."""
    ways = FakeWays(machine=error)
    node = agent(tmp_path, ways)
    later(node, FIRST + 0.1)
    assert ways.took() == WHOLE[:2]
    (failure,) = status(node).failures
    assert (failure.kind, failure.code, failure.url) == ("local", code, "")
    (said,) = named(events, "agent.inventory-failed")
    assert formatEvent(said).startswith("the inventory of this node was not sent: ")
    ways.machine = None
    node.reactor.advance(31)
    assert ways.took() == WHOLE


def test_a_full_disk(
    tmp_path: Path, events: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told and tried again; copies go on."""
    ways = FakeWays()
    node = agent(tmp_path, ways)
    with monkeypatch.context() as patch:

        def full(*args: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(Outbox, "keep", full)
        later(node, FIRST + 0.1)
        assert ways.took() == WHOLE[:2]
        (failure,) = status(node).failures
        assert "No space left on device" in failure.text
        assert node.asked
    ask_for_inventory(os.fspath(tmp_path / "state"))
    with monkeypatch.context() as patch:
        # It was sent, and that cannot be written down: not twice by this process.
        patch.setattr(Outbox, "acknowledged", full)
        node.service.run_now()
        assert ways.took()[-2:] == first(2)
        assert named(events, "agent.state-failed")
        node.service.run_now()
    later(node, 4 * HOUR)
    assert ways.took() == []


def test_a_mistake_of_this_program(tmp_path: Path, events: list[LogEvent]) -> None:
    """It is told, and ends neither the agent nor the trying."""
    ways = FakeWays(ids={A: RuntimeError("oops"), B: "root"})
    node = agent(tmp_path, ways)
    later(node, FIRST + 0.1)
    assert ways.took()[-2:] == first(1)
    assert named(events, "agent.inventory-ended")


def test_none_are_sent(tmp_path: Path) -> None:
    """Where the configuration says so; until it says otherwise."""
    ways = FakeWays()
    node = agent(tmp_path, ways, more="[inventory]\nenabled = false\n")
    later(node, DAY)
    assert ways.took() == []
    told = describe(node.service.status, node.service.point(), running=True)
    assert "inventory:     none is sent (enabled = false)" in told
    node.write(node.file.read_text().replace("enabled = false", "enabled = true"))
    assert node.service.reload()
    assert ways.took() == WHOLE
    node.write(node.file.read_text().replace("enabled = true", "enabled = false"))
    assert node.service.reload()
    assert status(node).state == "off"
    node.reactor.advance(3 * DAY)
    assert ways.took() == []


def test_other_servers(tmp_path: Path) -> None:
    """A node that is bootstrapped to another server tells it what it is."""
    ways = FakeWays()
    node = agent(tmp_path, ways)
    later(node, FIRST + 0.1)
    ways.took()
    node.write(node.file.read_text().replace('"a", "b"', '"b"'))
    assert node.service.reload()
    assert ways.took() == [f"uuid {B}", "make for root-b of b", *first(2)]


def test_the_id_of_the_node_in_a_source(tmp_path: Path) -> None:
    """The node's own folder at the server, which is made known by its id."""
    node = FakeAgent(tmp_path, {"a:5308": same}, copies=(), more=NODE_FILES)
    later(node, FIRST + 0.1)
    node_id = (tmp_path / "state" / "uuid").read_text().strip()
    assert node.asked == [("a:5308", f"/var/rudder/share/{node_id}")]
    assert node.service.status.copies[0].source == f"/var/rudder/share/{node_id}"
    assert node.service.reload()
    assert node.service.status.copies[0].last_success is not None
    node.reactor.advance(300)
    assert node.asked == [("a:5308", f"/var/rudder/share/{node_id}")]


NODE_FILES = """
[[copy]]
source = "/var/rudder/share/{node_id}"
destination = "/srv/own"
"""
