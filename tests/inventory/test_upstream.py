# SPDX-License-Identifier: MIT
"""
Sending inventories to a server: what arrives, and what becomes of answers.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError, DNSLookupError

from nodecomm.inventory import upstream as upstream_module
from nodecomm.inventory.own import node_certificate
from nodecomm.inventory.pairs import Box, Sender
from nodecomm.inventory.upstream import (
    ClientCertificate,
    Permanent,
    SendFailed,
    SendTimeouts,
    Transient,
    parse_url,
)
from nodecomm.server.pools import InlinePool, QueueFull
from tests.inventory.hub import HUB, NOW, Hub, Script, hub_pair
from tests.inventory.web import RULES

NAME = "0f1e_2026-11-22T12:00:00+01:00.ocs"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A network; in the end nothing is left of it."""
    hub = Hub(tmp_path)
    yield hub
    hub.end()


def answering(answer: bytes) -> Callable[[Script], None]:
    """Whoever gives this answer to every request."""
    return lambda script: script.say(answer)


def reply(status: int, body: bytes = b"", *headers: str) -> bytes:
    """An answer."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_a_pair(hub: Hub) -> None:
    """Both files arrive as they are, in the box that they were put in."""
    server = hub.ours()
    upstream = hub.upstream()
    document = gzip.compress(b"<doc/>" * 1000)

    for box in Box:
        name = f"{box.value}.ocs"
        assert hub.result(upstream.put(box, f"{name}.gz", document)) == 201
        assert hub.result(upstream.put(box, f"{name}.sign", b"sig\r\n\xff")) == 201

    assert [(d.document, d.signature) for d in server.deliveries] == [
        (b"<doc/>" * 1000, b"sig\r\n\xff")
    ] * 2
    senders = [Sender(box, "192.0.2.7") for box in Box]
    assert [d.sender for d in server.deliveries] == senders


def test_again(hub: Hub) -> None:
    """The same file may be sent again: the answer is another success."""
    hub.ours()
    upstream = hub.upstream()

    codes = [hub.result(upstream.put(Box.FIRST, NAME, b"<doc/>")) for _ in range(3)]

    assert codes == [201, 204, 204]
    # One connection was enough.
    assert len(hub.network.connections) == 1


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3_000_001])
def test_files(hub: Hub, size: int) -> None:
    """A file is read in pieces of 64 KiB, and arrives whole."""
    got = hub.scripted(
        on_request=answering(reply(201)), reads=lambda got: got.endswith(b"!")
    )
    content = bytes(range(256)) * (size // 256 + 1)
    content = content[: size - 1] + b"!" if size else b""
    got.reads = lambda data: data.endswith(content)
    path = hub.folder / "file"
    path.write_bytes(content)
    sizes: list[int] = []

    class Pool(InlinePool):
        def run(self, work: Any, *args: Any) -> Deferred[Any]:
            def noted() -> Any:
                result = work(*args)
                if isinstance(result, bytes):
                    sizes.append(len(result))
                return result

            return super().run(noted)

    assert hub.result(hub.upstream(pool=Pool()).put(Box.FIRST, NAME, path)) == 201

    head, _, body = got.got.partition(b"\r\n\r\n")
    assert body == content
    assert f"Content-Length: {size}".encode() in head
    assert b"Transfer-Encoding" not in head
    assert sum(sizes) == size
    assert all(each <= 65_536 for each in sizes)


def test_the_request(hub: Hub) -> None:
    """What goes over the wire; nothing else is told of this machine."""
    server = hub.scripted(on_request=answering(reply(201)))
    upstream = hub.upstream(url="https://hub.example.com:8443//relay//in/")

    hub.result(upstream.put(Box.UPDATE, NAME, b"<doc/>"))

    lines = server.got.decode().split("\r\n")
    assert lines[0] == f"PUT /relay/in/inventory-updates/{NAME} HTTP/1.1"
    names = sorted(line.partition(":")[0] for line in lines[1 : lines.index("")])
    assert names == [
        "Authorization",
        "Content-Length",
        "Content-Type",
        "Host",
        "User-Agent",
    ]
    assert "Host: hub.example.com:8443" in lines
    assert "Authorization: Basic cnVkZGVyOnNlY3JldA==" in lines


def test_the_way_that_it_came(hub: Hub) -> None:
    """The next server is told by which relays a file has come."""
    server = hub.scripted(on_request=answering(reply(201)))

    hub.result(hub.upstream().put(Box.UPDATE, NAME, b"<doc/>", via=["a", "b"]))

    assert "Via: 1.1 a, 1.1 b" in server.got.decode().split("\r\n")


def test_a_box_without_an_account(hub: Hub) -> None:
    """No password goes where none was given for."""
    server = hub.scripted(on_request=answering(reply(401)))
    upstream = hub.upstream(accounts={Box.FIRST: ("rudder", "rudder")})

    error = hub.failure(upstream.put(Box.UPDATE, NAME, b"<doc/>"))

    assert isinstance(error, Transient)
    assert b"Authorization" not in server.got


def test_with_a_certificate(hub: Hub) -> None:
    """A node's own certificate goes to a server that asks for one."""
    seen: list[Any] = []
    server = hub.ours()

    def knows(key: Any) -> bool:
        seen.append(key)
        return True

    server.resource._knows_key = knows
    own = hub_pair()
    shown = ClientCertificate(node_certificate(own, "n1", NOW), own.private)

    code = hub.result(
        hub.upstream(accounts={}, certificate=shown).put(Box.UPDATE, NAME, b"<doc/>")
    )

    assert (code, seen) == (201, [own.public])


def test_the_id(hub: Hub) -> None:
    """`GET /uuid` tells it."""
    hub.ours()

    assert hub.result(hub.upstream().server_id()) == "root"


@pytest.mark.parametrize(
    "body",
    [b"", b"Root", b"a b", b"<html>", b"a" * 51, b"\xff", b"../x", b"root\nmore\n"],
)
def test_no_id(hub: Hub, body: bytes) -> None:
    """Something else answers there."""
    hub.scripted(on_request=answering(reply(200, body)))

    error = hub.failure(hub.upstream().server_id())

    assert isinstance(error, Transient)
    assert "check the address" in error.reason


@pytest.mark.parametrize(
    ("status", "permanent"),
    [
        # Source: the rules for relays, which hold for nodes as well.
        *((status, True) for status in (400, 409, 411, 412, 413, 414, 415, 422, 508)),
        *(
            (status, False)
            for status in (401, 403, 404, 405, 407, 408, 410, 416, 425, 429)
        ),
        *((status, False) for status in (500, 501, 502, 503, 504, 507, 599)),
        # These are no successes either.
        *((status, False) for status in (202, 203, 205, 206, 207, 304, 451, 600)),
    ],
)
def test_statuses(hub: Hub, status: int, permanent: bool) -> None:
    """Whether an answer is the last word."""
    hub.scripted(on_request=answering(reply(status, b"no \x1b[31mway\nat all")))

    error = hub.failure(hub.upstream().put(Box.FIRST, NAME, b"<doc/>"))

    assert type(error) is (Permanent if permanent else Transient)
    assert isinstance(error, SendFailed)
    assert error.status == status
    assert f"answers {status}" in error.reason
    if status not in (205, 304):
        # What it says is told as far as it harms nobody.
        assert r"(no \x1b[31mway)" in error.reason


@pytest.mark.parametrize("status", [200, 201, 204])
def test_successes(hub: Hub, status: int) -> None:
    """Any of these says that the file is there."""
    body = b"" if status == 204 else b"ok"
    hub.scripted(on_request=answering(reply(status, body)))

    assert hub.result(hub.upstream().put(Box.FIRST, NAME, b"<doc/>")) == status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(hub: Hub, status: int) -> None:
    """A server that sends us elsewhere gets neither file nor password there."""
    elsewhere = "Location: https://elsewhere.example.com/x"
    server = hub.scripted(on_request=answering(reply(status, b"", elsewhere)))
    upstream = hub.upstream()

    for ask in (lambda: upstream.put(Box.FIRST, NAME, b"<doc/>"), upstream.server_id):
        error = hub.failure(ask())

        assert type(error) is Transient
        assert "elsewhere.example.com/x; that is not followed" in error.reason
    assert len(hub.network.connections) == 1
    assert server.got.count(b"Authorization") == 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["Retry-After: 60"], 60.0),
        (["Retry-After: 0"], 0.0),
        (["Retry-After: 999999999"], 86400.0),
        (["Retry-After: -5"], None),
        (["Retry-After: soon"], None),
        (["Retry-After: 1e9"], None),
        ([], None),
        (
            [
                "Date: Sun, 22 Nov 2026 12:00:00 GMT",
                "Retry-After: Sun, 22 Nov 2026 12:02:00 GMT",
            ],
            120.0,
        ),
        (
            [
                "Date: Sun, 22 Nov 2026 12:00:00 GMT",
                "Retry-After: Sun, 22 Nov 2026 11:00:00 GMT",
            ],
            0.0,
        ),
        (["Retry-After: Sun, 22 Nov 2026 12:02:00 GMT"], None),
        (["Date: nonsense", "Retry-After: Sun, 22 Nov 2026 12:02:00 GMT"], None),
    ],
)
def test_pauses(hub: Hub, headers: list[str], expected: float | None) -> None:
    """How long a server asks to wait."""
    hub.scripted(on_request=answering(reply(503, b"busy", *headers)))

    error = hub.failure(hub.upstream().put(Box.FIRST, NAME, b"<doc/>"))

    assert isinstance(error, Transient)
    assert error.retry_after == expected


def test_our_own_refusals(hub: Hub) -> None:
    """What our own server answers says what to do."""
    hub.ours(rules=evolve(RULES, limits=evolve(RULES.limits, compressed=100)))
    upstream = hub.upstream(accounts={Box.FIRST: ("rudder", "wrong")})

    wrong = hub.failure(upstream.put(Box.FIRST, NAME, b"<doc/>"))
    large = hub.failure(hub.upstream().put(Box.FIRST, NAME + ".gz", b"x" * 200))

    assert "401 (" in str(wrong)
    assert "): check the user and the password" in str(wrong)
    assert type(large) is Permanent
    assert "the file is larger than the server takes" in large.reason


def test_refused_before_it_is_sent(hub: Hub) -> None:
    """The rest of a large file is not sent to a server that does not want it."""
    server = hub.scripted(
        on_request=answering(reply(413, b"too large", "Connection: close"))
    )
    path = hub.folder / "large"
    path.write_bytes(bytes(50_000_000))

    error = hub.failure(hub.upstream().put(Box.FIRST, NAME, path))

    assert type(error) is Permanent
    assert "too large" in error.reason
    assert len(server.got) < 1_000_000


def test_a_kept_connection_that_is_closed(hub: Hub) -> None:
    """The next file simply goes over another one."""
    server = hub.scripted(on_request=answering(reply(201)))
    upstream = hub.upstream()
    hub.result(upstream.put(Box.FIRST, NAME, b"<doc/>"))
    # Closed while the next request is on its way.
    server.on_request = lambda script: (
        script.close() if script is server.seen[0] else script.say(reply(204))
    )

    assert hub.result(upstream.put(Box.FIRST, NAME, b"<doc/>")) == 204

    assert [script.asked for script in server.seen] == [2, 1]
    assert server.seen[1].got.endswith(b"\r\n\r\n<doc/>")


def test_a_server_that_always_closes(hub: Hub) -> None:
    """It is asked again only if the connection had served before."""
    server = hub.scripted(on_request=lambda script: script.close())
    upstream = hub.upstream()

    error = hub.failure(upstream.put(Box.FIRST, NAME, b"<doc/>"))

    assert type(error) is Transient
    assert "ended before an answer came" in error.reason
    assert len(server.seen) == 1


def test_an_unused_connection_is_closed(hub: Hub) -> None:
    """It is kept for the next file for a few seconds and no longer."""
    hub.ours()
    hub.result(hub.upstream().put(Box.FIRST, NAME, b"<doc/>"))
    (connection,) = hub.network.connections

    hub.network.advance(9)
    assert not connection.over
    hub.network.advance(2)
    assert connection.over


def test_a_server_that_does_not_close(hub: Hub) -> None:
    """A server that never answers our farewell does not keep us."""
    hub.scripted(on_request=answering(reply(201)))
    upstream = hub.upstream()
    hub.result(upstream.put(Box.FIRST, NAME, b"<doc/>"))
    (connection,) = hub.network.connections
    connection.server.pauseProducing()

    closing = upstream.close()
    hub.network.advance(3)

    assert closing.called
    assert connection.client.lost
    connection.server.resumeProducing()


def test_several_at_once(hub: Hub) -> None:
    """Files do not wait for each other."""
    hub.ours()
    upstream = hub.upstream()

    sent = [upstream.put(Box.FIRST, f"{i}.ocs", b"<doc/>") for i in range(5)]

    assert [hub.result(each) for each in sent] == [201] * 5


def test_given_up(hub: Hub) -> None:
    """Whoever does not want it any more has the connection closed at once."""
    server = hub.scripted()
    sending = hub.upstream().put(Box.FIRST, NAME, b"<doc/>")
    hub.network.pump()
    assert server.got

    sending.cancel()

    assert isinstance(hub.failure(sending), CancelledError)
    hub.network.pump()
    assert server.seen[0].lost is not None


@pytest.mark.parametrize("when", ["connecting", "handshake", "sending"])
def test_given_up_early(hub: Hub, when: str) -> None:
    """At any stage."""
    hub.scripted()
    if when == "connecting":
        hub.network.listen(HUB, None)
    path = hub.folder / "large"
    path.write_bytes(bytes(1_000_000))
    sending = hub.upstream().put(Box.FIRST, NAME, path)
    if when == "sending":
        hub.network.pump()

    sending.cancel()

    assert isinstance(hub.failure(sending), CancelledError)


@pytest.mark.parametrize("case", ["missing", "folder", "shrinks"])
def test_files_that_cannot_be_read(hub: Hub, case: str) -> None:
    """That is our own matter, and no failure of the server."""
    hub.scripted()
    path = hub.folder / "file"
    if case == "folder":
        path.mkdir()
    elif case == "shrinks":
        path.write_bytes(bytes(200_000))
    reads: list[int] = []

    class Pool(InlinePool):
        def run(self, work: Any, *args: Any) -> Deferred[Any]:
            if getattr(work, "__name__", "") == "read":
                reads.append(args[0])
                if len(reads) == 2:
                    path.write_bytes(b"")
            return super().run(work, *args)

    error = hub.failure(hub.upstream(pool=Pool()).put(Box.FIRST, NAME, path))

    assert isinstance(error, OSError)
    assert not isinstance(error, SendFailed)


def test_nobody_has_time_to_read(hub: Hub) -> None:
    """A pool that takes nothing is a reason to try again."""
    hub.scripted()
    path = hub.folder / "file"
    path.write_bytes(b"<doc/>")

    class Full(InlinePool):
        def run(self, work: Any, *args: Any) -> Deferred[Any]:
            raise QueueFull

    error = hub.failure(hub.upstream(pool=Full()).put(Box.FIRST, NAME, path))

    assert type(error) is Transient
    assert hub.network.connections == []


@pytest.mark.parametrize(
    "name", ["", "../x.ocs", "a b.ocs", "a.txt", "a/b.ocs", ".ocs"]
)
def test_names(hub: Hub, name: str) -> None:
    """A name that no server takes is sent to none."""
    assert isinstance(
        hub.failure(hub.upstream().put(Box.FIRST, name, b"<doc/>")), ValueError
    )
    assert hub.network.connections == []


@pytest.mark.parametrize(
    ("listening", "expected"),
    [
        (ConnectionRefusedError(), "refused"),
        (DNSLookupError("no such name"), "no such name"),
        (OSError(101, "Network is unreachable"), "unreachable"),
        (None, "no connection after 20 seconds"),
    ],
)
def test_no_connection(hub: Hub, listening: Any, expected: str) -> None:
    """Nobody there."""
    hub.network.listen(HUB, listening)

    error = hub.failure(hub.upstream().put(Box.FIRST, NAME, b"<doc/>"))

    assert type(error) is Transient
    assert expected in error.reason


@pytest.mark.parametrize(
    ("text", "host", "port", "base", "again"),
    [
        ("https://hub", "hub", 443, "", "https://hub/"),
        ("https://hub/", "hub", 443, "", "https://hub/"),
        ("https://hub//", "hub", 443, "", "https://hub/"),
        ("https://HUB.Example.com:8443", "hub.example.com", 8443, "", None),
        ("https://hub:443/a/b/", "hub", 443, "/a/b", "https://hub/a/b/"),
        ("https://hub//a//b", "hub", 443, "/a/b", "https://hub/a/b/"),
        ("https://[::1]:8443/x", "::1", 8443, "/x", "https://[::1]:8443/x/"),
        ("https://[2001:DB8::1]", "2001:db8::1", 443, "", None),
        ("https://192.0.2.1/", "192.0.2.1", 443, "", "https://192.0.2.1/"),
        ("https://bücher.example", "xn--bcher-kva.example", 443, "", None),
    ],
)
def test_addresses(text: str, host: str, port: int, base: str, again: Any) -> None:
    """Addresses of servers."""
    url = parse_url(text)

    assert (url.host, url.port, url.base) == (host, port, base)
    if again:
        assert str(url) == again
    assert parse_url(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hub",
        "http://hub/",
        "https://",
        "https:///x",
        "https://user:secret@hub/",
        "https://user@hub/",
        "https://hub/?x",
        "https://hub/#x",
        "https://hub:x/",
        "https://hub:0/",
        "https://hub:70000/",
        "https://[::1/",
        "https://[nonsense]/",
        "https://hub example/",
        "https://hub/a b",
        "https://hub/a\r\nX: y",
        "https://hub\x00/",
        "https://hub/../x",
        "https://" + "a" * 64 + ".example/",
        "ftp://hub/",
    ],
)
def test_no_addresses(text: str) -> None:
    """What is none; a password in it is not told."""
    with pytest.raises(ValueError) as caught:
        parse_url(text)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("user", "password"), [("a:b", "x"), ("a\n", "x"), ("", "x"), ("a", "x\r\ny")]
)
def test_no_accounts(hub: Hub, user: str, password: str) -> None:
    """What a header cannot hold; the password is not told."""
    with pytest.raises(ValueError) as caught:
        hub.upstream(accounts={Box.FIRST: (user, password)})

    assert password not in str(caught.value)


def test_over_an_address(hub: Hub) -> None:
    """A server without a name."""
    hub.ours()
    upstream = hub.upstream(url="https://[2001:db8::1]:444/")

    assert hub.result(upstream.server_id()) == "root"


def test_straight_to_the_address(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default."""
    hub.ours()
    asked: list[Any] = []

    def endpoint(*given: Any, **more: Any) -> Any:
        asked.append((*given, more))
        return hub.network.endpoint_for(HUB)

    monkeypatch.setattr(upstream_module, "HostnameEndpoint", endpoint)
    timeouts = SendTimeouts(connect=5)

    upstream = hub.upstream(url="https://[::1]:8443/", endpoint=None, timeouts=timeouts)

    assert hub.result(upstream.server_id()) == "root"
    assert asked == [(hub.network.clock, "::1", 8443, {"timeout": 5})]
