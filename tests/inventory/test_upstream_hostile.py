# SPDX-License-Identifier: MIT
"""
Sending inventories to servers that do as they like: nothing takes for ever, nothing
grows, and nothing is taken for a success that is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from nodecomm.identity.servers import ServerDecision
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.upstream import SendFailed, SendTimeouts, Transient
from nodecomm.inventory.upstream_trust import PinnedKeys, ShownKey
from tests.inventory.hub import HUB, Hub, Script, hub_pair

NAME = "a.ocs"

#: More than fits into the buffers on the way.
LARGE = 2_000_000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A network; in the end nothing is left of it."""
    hub = Hub(tmp_path)
    yield hub
    hub.end()


class Pouring:
    """
    A server that goes on sending for as long as it can be written to.
    """

    def __init__(self, script: Script, begin: bytes, again: bytes) -> None:
        self.sent = 0
        self._script = script
        self._again = again * (4096 // len(again) + 1)
        self._paused = False
        script.say(begin)
        transport: Any = script.transport
        transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        """Pour."""
        self._paused = False
        while not self._paused and self.sent < 50_000_000:
            self._script.say(self._again)
            self.sent += len(self._again)

    def pauseProducing(self) -> None:
        """Wait."""
        self._paused = True

    def stopProducing(self) -> None:
        """It is over."""
        self._paused = True


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"HTTP/1.1 ", b"9"),
        (b"HTTP/1.1 201 ", b"x"),
        (b"HTTP/1.1 201 OK\r\n", b"X-Header: y\r\n"),
        (b"HTTP/1.1 201 OK\r\nX: y\r\n", b" folded\r\n"),
        (b"HTTP/1.1 201 OK\r\nX: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\n"),
        (b"HTTP/1.1 500 No\r\n\r\n", b"<html>"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 99999999999\r\n\r\n", b"x"),
        (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        (b"", b"\x00"),
        (b"", b"\r\n"),
    ],
)
def test_answers_without_end(hub: Hub, begin: bytes, again: bytes) -> None:
    """An answer that does not end is cut off; little of it is read."""
    pouring: list[Pouring] = []
    server = hub.scripted(
        on_request=lambda script: pouring.append(Pouring(script, begin, again))
    )

    put = hub.failure(hub.upstream().put(Box.FIRST, NAME, b"<doc/>"))
    asked = hub.failure(hub.upstream().server_id())

    assert isinstance(put, SendFailed)
    assert type(asked) is Transient
    assert hub.network.clock.seconds() < 1
    assert [each.lost is not None for each in server.seen] == [True, True]
    # Buffers on the way hold some.
    assert all(each.sent < 1_000_000 for each in pouring)


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/9.9 201 OK\r\n\r\n",
        b"HTTP/1.1 201 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 201 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 201 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00" * 100,
        b"\xff\xfe\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\nroot",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"",
    ],
)
def test_nonsense_is_no_id(hub: Hub, answer: bytes) -> None:
    """An answer that makes no sense, or is cut off, is none."""

    def say(script: Script) -> None:
        script.say(answer)
        script.close()

    hub.scripted(on_request=say)

    error = hub.failure(hub.upstream().server_id())

    assert type(error) is Transient
    assert hub.network.clock.seconds() < 1


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    start=st.sampled_from(
        [b"", b"HTTP/1.1 ", b"HTTP/1.1 500 No\r\n", b"HTTP/1.1 404 No\r\nX: y\r\n\r\n"]
    ),
    rest=st.binary(max_size=200),
    sizes=st.lists(st.integers(1, 50), max_size=20),
    ends=st.booleans(),
)
def test_any_answer(
    tmp_path: Path, start: bytes, rest: bytes, sizes: list[int], ends: bool
) -> None:
    """Whatever is said, in whatever pieces: it ends, and is no success."""
    hub = Hub(tmp_path)

    def say(script: Script) -> None:
        data = start + rest
        for size in sizes:
            script.say(data[:size])
            data = data[size:]
        script.say(data)
        if ends:
            script.close()

    hub.scripted(on_request=say)

    error = hub.failure(hub.upstream().put(Box.FIRST, NAME, b"<doc/>"))

    assert isinstance(error, SendFailed)
    assert hub.network.clock.seconds() < 61
    hub.end()


def test_the_code_is_enough(hub: Hub) -> None:
    """A server that has said that it has the file, and is gone then, has it."""

    def say(script: Script) -> None:
        script.say(b"HTTP/1.1 201 Created\r\nContent-Length: 40\r\n\r\nsto")
        script.close()

    hub.scripted(on_request=say)

    assert hub.result(hub.upstream().put(Box.FIRST, NAME, b"<doc/>")) == 201


def test_half_a_code_is_not(hub: Hub) -> None:
    """What is cut off before the end of the head says nothing."""

    def say(script: Script) -> None:
        script.say(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n")
        script.close()

    hub.scripted(on_request=say)

    error = hub.failure(hub.upstream().put(Box.FIRST, NAME, b"<doc/>"))

    assert type(error) is Transient


def test_first_go_on_then_yes(hub: Hub) -> None:
    """Words on the way are passed over."""
    go_on = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    hub.scripted(
        on_request=lambda script: script.say(
            go_on + b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
        )
    )

    assert hub.result(hub.upstream().put(Box.FIRST, NAME, b"<doc/>")) == 201


def test_an_old_server(hub: Hub) -> None:
    """HTTP/1.0, which ends an answer by closing."""

    def say(script: Script) -> None:
        script.say(b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nroot\n")
        script.close()

    hub.scripted(on_request=say)

    assert hub.result(hub.upstream().server_id()) == "root"


def test_no_answer(hub: Hub) -> None:
    """A server that says nothing is left after a minute."""
    server = hub.scripted()

    error = hub.failure(hub.upstream().put(Box.FIRST, NAME, b"<doc/>"))

    assert type(error) is Transient
    assert "for 60 seconds nothing has moved" in error.reason
    assert hub.network.clock.seconds() == 60
    hub.network.pump()
    assert server.seen[0].lost is not None


def test_nobody_reads(hub: Hub) -> None:
    """A server that takes nothing is left as well; the file is not read to its end."""

    def deaf(script: Script) -> None:
        transport: Any = script.transport
        transport.pauseProducing()

    hub.scripted(on_request=deaf)
    path = hub.folder / "large"
    path.write_bytes(bytes(LARGE))
    sending = hub.upstream().put(Box.FIRST, NAME, path)

    error = hub.failure(sending)

    assert type(error) is Transient
    assert "nothing has moved" in error.reason
    (connection,) = hub.network.connections
    assert connection.client.sent < LARGE
    connection.server.resumeProducing()


def test_slow_but_steady(hub: Hub) -> None:
    """A slow answer is waited for while something of it comes, and not for ever."""

    def drip(script: Script) -> None:
        transport: Any = script.transport

        def one() -> None:
            if script.lost is None:
                transport.write(b"x")
                hub.network.clock.callLater(50, one)

        script.say(b"HTTP/1.1 200 OK\r\nX: ")
        one()

    hub.scripted(on_request=drip)
    upstream = hub.upstream(timeouts=SendTimeouts(whole=600))

    error = hub.failure(upstream.put(Box.FIRST, NAME, b"<doc/>"))

    assert type(error) is Transient
    assert "after 600 seconds" in error.reason
    assert hub.network.clock.seconds() == 600


def test_a_slow_reader(hub: Hub) -> None:
    """A server that takes a large file slowly gets it."""

    pauses: list[int] = []

    def slowly(got: bytes) -> bool:
        if len(got) // 300_000 > len(pauses):
            transport: Any = server.seen[0].transport
            pauses.append(len(got))
            transport.pauseProducing()
            hub.network.clock.callLater(20, transport.resumeProducing)
        return got.endswith(b"!")

    server = hub.scripted(
        reads=slowly,
        on_request=lambda script: script.say(
            b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
        ),
    )
    path = hub.folder / "large"
    path.write_bytes(bytes(LARGE) + b"!")

    assert hub.result(hub.upstream().put(Box.FIRST, NAME, path)) == 201
    assert hub.network.clock.seconds() == 120


def test_closed_in_the_middle(hub: Hub) -> None:
    """A server that goes away while it is being sent to."""
    hub.scripted(on_request=lambda script: script.transport.abortConnection())
    path = hub.folder / "large"
    path.write_bytes(bytes(LARGE))

    error = hub.failure(hub.upstream().put(Box.FIRST, NAME, path))

    assert type(error) is Transient


class Talker(Protocol):
    """Speaks without TLS."""

    def connectionMade(self) -> None:
        """At once."""
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 400 You are speaking TLS to me\r\n\r\n")


class Leaver(Protocol):
    """Goes as soon as somebody comes."""

    def connectionMade(self) -> None:
        """Go."""
        assert self.transport is not None
        self.transport.loseConnection()


@pytest.mark.parametrize(
    ("protocol", "seconds"), [(Talker, 0.0), (Leaver, 0.0), (Protocol, 15.0)]
)
def test_no_tls(hub: Hub, protocol: Any, seconds: float) -> None:
    """What speaks something else, or nothing, gets nothing."""
    hub.network.listen(HUB, Factory.forProtocol(protocol))

    error = hub.failure(hub.upstream().put(Box.FIRST, NAME, b"<doc/>"))

    assert type(error) is Transient
    assert "TLS" in error.reason
    assert hub.network.clock.seconds() == seconds


class Slow(PinnedKeys):
    """Takes its time to keep a key."""

    def __init__(self) -> None:
        super().__init__([hub_pair().public])
        self.kept: Deferred[ServerDecision] = Deferred()

    def keep(self, server: str, shown: ShownKey) -> Any:
        """Not yet."""
        return self.kept


def test_speaking_first(hub: Hub) -> None:
    """A server that speaks before it is asked is not answered."""
    server = hub.scripted(
        on_connect=lambda script: script.say(
            b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
        )
    )
    check = Slow()

    error = hub.failure(hub.upstream(check).put(Box.FIRST, NAME, b"<doc/>"))
    check.kept.callback(ServerDecision(True, "pinned", ""))

    assert type(error) is Transient
    assert "speaks before it was asked" in error.reason
    hub.network.pump()
    assert server.got == b""


def test_slow_to_decide(hub: Hub) -> None:
    """A decision that does not come is no yes."""
    server = hub.scripted()

    error = hub.failure(hub.upstream(Slow()).put(Box.FIRST, NAME, b"<doc/>"))

    assert type(error) is Transient
    assert "after 15 seconds" in error.reason
    assert server.got == b""


def test_more_than_the_answer(hub: Hub) -> None:
    """What follows an answer is no answer to the next request."""
    yes = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    server = hub.scripted(on_request=lambda script: script.say(yes + yes))
    upstream = hub.upstream()
    assert hub.result(upstream.put(Box.FIRST, NAME, b"<doc/>")) == 201
    server.on_request = lambda script: script.say(
        b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
    )

    error = hub.failure(upstream.put(Box.FIRST, "b.ocs", b"<doc/>"))

    assert isinstance(error, Transient)
    assert error.status == 401
