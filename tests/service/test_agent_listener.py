# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_listener`, `agent_sync` and `agent_events`: an agent
whose servers are scripts, and callers in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, formatEvent

from nodecomm.identity.keys import KeyPair
from nodecomm.identity.server_keys import ServerKeyStore
from nodecomm.server.execution.accounts import AccountError
from nodecomm.service import agent_listener
from nodecomm.service.agent_status import read_status
from nodecomm.service.own_state import StartError, lock_holder
from nodecomm.sync.model import SyncRequest, SyncResult
from nodecomm.testing import MemoryClient, key_pair
from nodecomm.wire.commands import encode_opendir, encode_stat
from nodecomm.wire.execute import END, REFUSED
from nodecomm.wire.framing import encode_transaction
from tests.service.agents import (
    AGENT,
    COPY,
    Answer,
    FakeAgent,
    FakePort,
    result,
)
from tests.service.test_agent_service import (
    FIRST,
    A,
    B,
    down,
    events,
    named,
    new,
    same,
)

__all__ = ["events"]

HUB, OTHER, STRANGER = 2, 3, 4
LISTEN = 'listen = ["tcp:5308"]\ncfruncommand = "sync"\n'
END_PAYLOAD = END[8:]
REFUSAL = b"BAD: Unspecified server refusal (see verbose server output)"


class Agent(FakeAgent):
    """
    An agent that is asked for runs.
    """

    def __init__(
        self,
        folder: Path,
        servers: dict[str, Callable[[SyncRequest], Answer]] | None = None,
        *,
        more: str = LISTEN,
    ) -> None:
        self.keys = ServerKeyStore(folder / "state" / "server-keys")
        self._callers = 0
        super().__init__(folder, servers or {A: same}, more=more)

    def dial(
        self, key: KeyPair, user: bytes = b"root", port: int = 5308
    ) -> MemoryClient:
        """Somebody who connects."""
        self._callers += 1
        where = IPv4Address("TCP", "192.0.2.1", 40_000 + self._callers)
        protocol = self.reactor.ports[port].factory.buildProtocol(where)
        return MemoryClient(protocol, where, self.reactor, key, user)

    def caller(
        self, number: int = HUB, user: bytes = b"root", port: int = 5308
    ) -> MemoryClient:
        """One who is welcome."""
        client = self.dial(key_pair(number), user, port)
        assert client.identify()
        return client

    def settled(self, client: MemoryClient) -> list[bytes]:
        """What the caller got, once all that is due has happened."""
        self.reactor.advance(0)
        client.pump()
        return client.transactions()


@pytest.fixture
def agent(tmp_path: Path) -> Any:
    """An agent that knows the key of one of its servers."""
    made = Agent(tmp_path, {A: new, B: down})
    made.keys.add(A, key_pair(HUB).public)
    yield made
    made.service.stopService()


def test_a_run(agent: Agent) -> None:
    """
    A policy server asks, and gets what the agent says of its run, line by line, and an
    exit code.
    """
    caller = agent.caller()
    got = caller.execute()
    got += agent.settled(caller)

    assert agent.asked == [(A, "masterfiles")]
    assert got[0] == b"cf-serverd executing cfruncommand: sync\n"
    assert got[-2:] == [b"(exit code: 0)\n", END_PAYLOAD]
    lines = got[1:-2]
    assert all(line.startswith(b"> ") and line.endswith(b"\n") for line in lines)
    assert b"> a run begins (request)\n" in lines
    assert any(b"/srv/masterfiles is updated to masterfiles" in line for line in lines)
    assert b">   updated a.cf\n" in lines
    # Once more on the same connection.
    assert caller.execute()[-1] == END_PAYLOAD
    assert not caller.closed


def test_a_run_that_fails(tmp_path: Path) -> None:
    """What failed and what to do is told, and the exit code is 1."""
    agent = Agent(tmp_path, {A: down, B: down})
    agent.keys.add(B, key_pair(HUB).public)
    got = agent.caller().execute()
    assert got[-2:] == [b"(exit code: 1)\n", END_PAYLOAD]
    said = b"".join(got)
    assert b"what to do: " in said
    assert b"> error: the last run failed for 1 of 1 copies\n" in got


def test_who_may_connect(agent: Agent, events: list[LogEvent]) -> None:
    """
    A key that is nobody's is turned away, and the log says how it would be let in;
    the key of another server, too. One that is stored meanwhile is let in.
    """
    agent.keys.add("elsewhere:5308", key_pair(OTHER).public)
    for number in (STRANGER, OTHER):
        assert not agent.dial(key_pair(number)).identify()
    refused = named(events, "trust.refused")
    assert [event["code"] for event in refused] == ["not_a_caller"] * 2
    digest = key_pair(STRANGER).public.md5
    assert f'run_keys = ["{digest}"]' in refused[0]["text"]
    assert refused[0]["key"] == digest
    agent.keys.add(B, key_pair(STRANGER).public)
    assert agent.dial(key_pair(STRANGER)).identify()


def test_a_key_that_is_forgotten(agent: Agent, events: list[LogEvent]) -> None:
    """
    Its holder may ask for no run any more, though he connected before; nor if he had
    begun to ask.
    """
    caller, asking = agent.caller(), agent.caller()
    asking.send(encode_transaction(b"EXEC"))
    agent.keys.forget(A)
    assert caller.execute() == [REFUSAL, END_PAYLOAD]
    asking.send(encode_transaction(END_PAYLOAD[:-1]))
    assert asking.transactions() == [REFUSAL, END_PAYLOAD]
    assert caller.closed
    assert asking.closed
    assert agent.asked == []
    refused = named(events, "request.refused")
    assert [event["reason"] for event in refused] == ["not_a_caller"] * 2


def test_keys_that_the_configuration_names(tmp_path: Path) -> None:
    """
    With `server_keys` the key that is named may ask, though it is stored nowhere yet;
    another one that is stored for a server may not.
    """
    named_key = key_pair(HUB).public.md5
    agent = Agent(tmp_path, more=f'{LISTEN}server_keys = ["{named_key}"]\n')
    agent.keys.add(A, key_pair(OTHER).public)

    assert agent.dial(key_pair(HUB)).identify()
    assert not agent.dial(key_pair(OTHER)).identify()


def test_users(agent: Agent, events: list[LogEvent]) -> None:
    """
    Only those in allowusers may ask; the others get the refusal. The log says what was
    asked for.
    """
    caller = agent.caller(user=b"bob")
    caller.send(b"".join([*map(encode_transaction, (b"EXEC", b"linux"))]))
    assert caller.transactions() == []
    caller.send(encode_transaction(END_PAYLOAD[:-1]))
    assert caller.transactions() == [REFUSAL, END_PAYLOAD]
    assert caller.closed
    assert REFUSED.endswith(END)
    (refused,) = named(events, "request.refused")
    assert formatEvent(refused).startswith("refused EXEC sync to bob from 192.0.2.1 (")


def test_nothing_else_is_served(agent: Agent) -> None:
    """Neither files nor values, whoever asks; and the version to everybody."""
    own = f"{agent.folder}/agent.toml".encode()
    for payload in (
        encode_stat(int(agent.civil), own),
        encode_opendir(own),
        b"GET 4096 " + own,
        b"MD5 " + own,
        b"VAR x",
        b"CONTEXT .*",
        b"QUERY delta 0",
        b"SCALLBACK",
    ):
        caller = agent.caller()
        assert caller.request(payload) == [b"BAD: Request denied"], payload
        assert caller.closed
    assert agent.caller().request(b"VERSION") == [b"OK: 3.21.0"]


def test_only_over_tls(agent: Agent) -> None:
    """What begins as the classic protocol does is closed at once."""
    client = agent.dial(key_pair(HUB))
    client.send_raw(b"t 17      CAUTH x y root 0")
    assert client.closed or client.wire.disconnecting


def test_the_sync_takes_nothing(agent: Agent) -> None:
    """Neither classes nor bundles can be given to it."""
    caller = agent.caller()
    assert b"role activation" in caller.execute(defined=[b"a"])[0]
    assert b"bundle activation" in caller.execute(bundles=[b"b"])[0]
    assert not caller.closed
    assert agent.asked == []


def test_nodes_are_selected_by_class(agent: Agent) -> None:
    """A node without such a class does nothing."""
    caller = agent.caller()
    got = caller.execute(selected=[b"nowhere_at_all"])
    assert b"nothing relevant to do here" in got[0]
    assert agent.asked == []
    assert caller.execute(selected=[b"nowhere", b"an[y]"])[-1] == END_PAYLOAD
    assert agent.asked == [(A, "masterfiles")]


class Slow:
    """
    A server that answers when a test says so.
    """

    def __init__(self) -> None:
        self.answers: list[Deferred[SyncResult]] = []

    def __call__(self, request: SyncRequest) -> Answer:
        """Later."""
        self.answers.append(Deferred())
        return self.answers[-1]


def slow_agent(folder: Path, more: str = LISTEN) -> tuple[Agent, Slow]:
    """An agent whose runs take as long as a test wants."""
    slow = Slow()
    agent = Agent(folder, {A: slow}, more=more)
    agent.keys.add(A, key_pair(HUB).public)
    return agent, slow


def test_a_run_that_is_under_way_is_followed_by_another(tmp_path: Path) -> None:
    """
    It may have seen the servers before what is asked for was there. Nothing of it is
    told to whoever asks during it.
    """
    agent, slow = slow_agent(tmp_path)
    agent.service.run_now()
    caller = agent.caller()
    got = caller.execute()
    told = b"> a run is under way; the one that is asked for follows it\n"
    assert got[1:] == [told]
    slow.answers[0].callback(result(True))
    got = agent.settled(caller)
    assert got == [b"> a run begins (request)\n"]
    slow.answers[1].callback(result())
    got = agent.settled(caller)
    assert got[-2:] == [b"(exit code: 0)\n", END_PAYLOAD]
    assert len(slow.answers) == 2


def test_the_agent_stops_before_the_next_run(tmp_path: Path) -> None:
    """Who waits for it is told."""
    agent, _ = slow_agent(tmp_path)
    agent.service.run_now()
    caller = agent.caller()
    caller.execute()
    agent.service.stopService()
    got = agent.settled(caller)
    assert b"the service stops" in got[-2]
    assert got[-1] == END_PAYLOAD


@pytest.mark.parametrize("at_once", [1, 5])
def test_callers_share_a_run_that_has_not_begun(tmp_path: Path, at_once: int) -> None:
    """All who ask while a run is under way are served by the one after it."""
    agent, slow = slow_agent(tmp_path, LISTEN + f"[run]\nat_once = {at_once}\n")
    callers = [agent.caller() for _ in range(4)]
    for caller in callers:
        caller.execute()
    slow.answers[0].callback(result())
    assert agent.settled(callers[0])[-1] == END_PAYLOAD
    for caller in callers[1:]:
        assert END_PAYLOAD not in agent.settled(caller)
    slow.answers[1].callback(result())
    for caller in callers[1:]:
        assert agent.settled(caller)[-1] == END_PAYLOAD
    assert len(slow.answers) == 2


def test_whoever_asks_gets_what_is_new(tmp_path: Path) -> None:
    """
    Only a run that nobody has asked for may be told what a server found some seconds
    before.
    """
    asked: list[bool] = []

    def answer(request: SyncRequest) -> Answer:
        asked.append(request.new)
        return result()

    agent = Agent(tmp_path, {A: answer})
    agent.keys.add(A, key_pair(HUB).public)
    agent.reactor.advance(FIRST)
    agent.reactor.advance(300)
    agent.caller().execute()
    agent.service.run_now()
    agent.reactor.advance(300)
    assert asked == [False, False, True, True, False]


@pytest.mark.parametrize("hello", [False, True])
def test_strangers_do_not_keep_callers_out(tmp_path: Path, hello: bool) -> None:
    """
    However many connect and do nothing, or say nothing more than hello. Those who are
    closed for a caller are of the address that has most of them.
    """
    agent, slow = slow_agent(tmp_path)
    listening = agent.service.listener
    assert listening is not None
    assert listening.factory is not None
    counts = listening.factory.admission
    held = []
    for number in range(120):
        where = IPv4Address("TCP", f"198.51.100.{number // 15}", 1024 + number)
        protocol = agent.reactor.ports[5308].factory.buildProtocol(where)
        held.append(MemoryClient(protocol, where, agent.reactor, key_pair(STRANGER)))
        if hello:
            held[-1].step()
    assert counts.untrusted == counts.before_trust
    alone = agent.dial(key_pair(HUB))
    more = agent.dial(key_pair(HUB))
    assert more.identify()
    assert alone.identify()
    more.execute()
    assert len(slow.answers) == 1
    for client in held:
        client.hang_up()
    alone.hang_up()
    more.hang_up()
    agent.reactor.advance(1)
    assert (counts.total, counts.untrusted) == (0, 0)
    assert (listening.factory._newcomers, listening.factory._dropped) == ({}, set())


def test_a_caller_who_leaves(tmp_path: Path, events: list[LogEvent]) -> None:
    """The run is the agent's own, and goes on."""
    agent, slow = slow_agent(tmp_path)
    caller = agent.caller()
    caller.execute()
    caller.hang_up()
    slow.answers[0].callback(result())
    agent.reactor.advance(0)
    (ended,) = named(events, "agent.run-ended")
    assert ended["failed"] == 0
    (over,) = named(events, "run.ended")
    assert (over["why"], over["exit_code"]) == ("left", None)


def test_a_long_run(tmp_path: Path) -> None:
    """
    Each minute a line says that it goes on. Whoever has waited for the time limit is
    told that it does, and gets no exit code.
    """
    agent, slow = slow_agent(tmp_path, LISTEN + '[run]\ntimeout = "150s"\n')
    caller = agent.caller()
    caller.execute()
    got: list[bytes] = []
    for _ in range(16):
        agent.reactor.advance(10)
        got += agent.settled(caller)
    assert got[:2] == [
        b"> still under way after 1m\n",
        b"> still under way after 2m\n",
    ]
    assert b"takes longer than the timeout of [run]" in got[2]
    assert got[3:] == [END_PAYLOAD]
    assert agent.service.status.state == "running"
    assert not slow.answers[0].called


def test_the_agent_stops(tmp_path: Path) -> None:
    """Callers are told, and the connection ends."""
    agent, _ = slow_agent(tmp_path)
    caller = agent.caller()
    caller.execute()
    agent.service.stopService()
    got = agent.settled(caller)
    assert got[-1] == END_PAYLOAD
    assert b"the service stops" in got[-2]
    assert caller.closed
    assert agent.reactor.ports == {}


def test_it_listens_where_it_is_told(tmp_path: Path, events: list[LogEvent]) -> None:
    """
    Nowhere by default. A reload adds and takes away addresses and keys at once; one
    that cannot be had leaves it where it is, with a line in the log. The status tells.
    """
    agent = Agent(tmp_path, more="")
    agent.keys.add(A, key_pair(HUB).public)
    assert agent.reactor.ports == {}
    assert agent.service.status.listening == ()

    def reload(more: str) -> None:
        agent.write(AGENT + more + COPY.format("masterfiles"))
        assert agent.service.reload()

    digest = key_pair(OTHER).public.md5
    reload(LISTEN + f'run_keys = ["{digest}"]\n')
    assert sorted(agent.reactor.ports) == [5308]
    status = read_status(str(tmp_path / "state"))
    assert status is not None
    assert status.listening == ("tcp:5308",)
    caller = agent.caller(OTHER)
    assert caller.execute()[-1] == END_PAYLOAD
    reload(LISTEN.replace("5308", "5309"))
    assert sorted(agent.reactor.ports) == [5309]
    # Connections stay, and their holders may ask no more.
    assert caller.execute() == [REFUSAL, END_PAYLOAD]
    agent.reactor.taken.add(5310)
    reload(LISTEN.replace("5308", "5310"))
    assert sorted(agent.reactor.ports) == [5309]
    (failed,) = named(events, "listen.failed")
    assert 'listen = ["tcp:5311"] in [agent]' in failed["reason"]
    caller = agent.caller(port=5309)
    reload("")
    assert agent.reactor.ports == {}
    assert agent.service.status.listening == ()
    agent.settled(caller)
    assert caller.closed
    reload(LISTEN)
    assert agent.caller().execute()[-1] == END_PAYLOAD


def test_the_file_tells_where_it_listens(tmp_path: Path) -> None:
    """
    From the start on, and also where an old address takes its time to be given up: the
    new one is in the file then, and not only after the next run. A stopped agent
    listens nowhere.
    """
    agent = Agent(tmp_path)

    def told() -> tuple[str, ...]:
        status = read_status(str(tmp_path / "state"))
        assert status is not None
        return status.listening

    assert told() == ("tcp:5308",)
    stop = FakePort.stopListening
    gone: Deferred[None] = Deferred()

    def stop_slowly(port: FakePort) -> Deferred[None]:
        stop(port)
        return gone

    with mock.patch.object(FakePort, "stopListening", stop_slowly):
        agent.write(agent.file.read_text().replace("5308", "5309"))
        assert agent.service.reload()
    gone.callback(None)
    assert told() == ("tcp:5309",)
    agent.service.stopService()
    assert told() == ()


def test_an_address_that_cannot_be_had(tmp_path: Path) -> None:
    """The agent does not start, and says why; nothing is left behind."""
    agent = Agent(tmp_path, more="")
    agent.service.stopService()
    agent.write(AGENT + LISTEN + COPY.format("masterfiles"))
    agent.reactor.taken.add(5308)
    with pytest.raises(StartError, match=r"cannot listen on tcp:5308: .*in \[agent\]"):
        agent.start()
    # One that could be had is given up, and nobody waits until it is.
    agent.write(agent.file.read_text().replace('["tcp:', '["tcp:5307", "tcp:'))
    with (
        mock.patch.object(FakePort, "stopListening", lambda port: Deferred()),
        pytest.raises(StartError, match="cannot listen on tcp:5308"),
    ):
        agent.start()
    assert lock_holder(str(tmp_path / "state" / "agent.lock")) is None


def test_limits_of_runs(tmp_path: Path, events: list[LogEvent]) -> None:
    """What waits its turn, what joins and what is refused is as configured."""
    agent, _ = slow_agent(tmp_path, LISTEN + '[run]\nagain = "refuse"\n')
    one, two = agent.caller(), agent.caller()
    one.execute()
    got = two.execute()
    assert got[-1] == END_PAYLOAD
    assert not any(b"exit code" in line for line in got)
    (refused,) = named(events, "run.refused")
    assert refused["reason"] == "busy"


def test_the_record(tmp_path: Path) -> None:
    """Who asked for a run, and what came of it, is in the audit log."""
    file = tmp_path / "audit.json"
    agent = Agent(tmp_path, more=f'{LISTEN}[log]\naudit = "{file}"\n')
    agent.keys.add(A, key_pair(HUB).public)
    caller = agent.caller()
    caller.execute()
    caller.hang_up()
    agent.service.stopService()
    agent.reactor.advance(1)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    by_name = {record["event"]: record for record in records}
    assert list(by_name) == [
        "session.opened",
        "run.started",
        "run.ended",
        "request",
        "session.closed",
    ]
    ended = by_name["run.ended"]
    assert (ended["user"], ended["peer"]) == ("root", "192.0.2.1")
    assert ended["key"] == key_pair(HUB).public.md5
    assert (ended["exit_code"], ended["classes"], ended["bundles"]) == (0, [], [])


def test_an_audit_log_that_cannot_be_written(tmp_path: Path) -> None:
    """The agent does not start, and says why; nothing is left behind."""
    agent = Agent(tmp_path, more="")
    agent.service.stopService()
    more = f'{LISTEN}[log]\naudit = "{tmp_path}/none/audit"\n'
    agent.write(AGENT + more + COPY.format("masterfiles"))
    with pytest.raises(StartError, match="none/audit: No such file"):
        agent.start()
    assert agent.reactor.ports == {}
    assert lock_holder(str(tmp_path / "state" / "agent.lock")) is None


def test_a_user_that_nothing_can_run_as(tmp_path: Path, events: list[LogEvent]) -> None:
    """The agent does not start so; a reload to it changes nothing."""
    agent = Agent(tmp_path, more="")
    command = 'listen = ["tcp:5308"]\ncfruncommand = ["/bin/sh"]\ncfrunuser = "root"\n'
    agent.write(AGENT + command + COPY.format("masterfiles"))
    refused = mock.patch.object(
        agent_listener, "find_account", side_effect=AccountError("only root can")
    )
    with refused:
        assert not agent.service.reload()
    (rejected,) = named(events, "config.rejected")
    assert "only root can" in rejected["reason"]
    assert agent.reactor.ports == {}
    agent.service.stopService()
    with refused, pytest.raises(StartError, match=r"agent\.cfrunuser: only root can"):
        agent.start()
    assert lock_holder(str(tmp_path / "state" / "agent.lock")) is None
    # Whoever runs this may not be root.
    with mock.patch.object(agent_listener, "find_account"):
        agent.start()
    assert sorted(agent.reactor.ports) == [5308]
    agent.service.stopService()
