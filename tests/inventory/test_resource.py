# SPDX-License-Identifier: MIT
"""
Where nodes put their inventories: codes, checks before the content, and limits.
"""

from __future__ import annotations

import errno
import gzip
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from nodecomm.access.networks import AddressList
from nodecomm.inventory.limits import DocumentLimits
from nodecomm.inventory.names import read_name
from nodecomm.inventory.pairs import Box, Sender
from nodecomm.server.pools import InlinePool, QueueFull
from tests.inventory.web import RULES, Connection, Server, basic, head, read_reply

BOTH = pytest.mark.parametrize("own_site", [True, False], ids=["own", "stock"])


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server with a site of its own."""
    return Server(tmp_path / "spool")


LOGIN = {"Authorization": basic("rudder")}


class LatePool(InlinePool):
    """Runs work when a test says so."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], object]] = []

    def run(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Keep it."""
        done: Deferred[Any] = Deferred()
        run = super().run
        self.jobs.append(lambda: run(work, *args).chainDeferred(done))
        return done

    def work(self) -> None:
        """Do all that waits."""
        while self.jobs:
            self.jobs.pop(0)()


class FullPool(InlinePool):
    """Takes nothing."""

    def run(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """There is too much already."""
        raise QueueFull("no")


@BOTH
def test_a_pair(tmp_path: Path, own_site: bool) -> None:
    """Both files are stored, and what they hold is there to decide about."""
    server = Server(tmp_path, own_site)

    assert server.put("/inventories/a.ocs.gz", gzip.compress(b"<doc/>")).status == 201
    assert server.deliveries == []
    reply = server.put("/inventories/a.ocs.sign", b"sig")

    assert (reply.status, reply.body) == (201, b"")
    (delivery,) = server.deliveries
    assert (delivery.document, delivery.signature) == (b"<doc/>", b"sig")
    assert delivery.sender == Sender(Box.FIRST, "192.0.2.7")


@BOTH
@pytest.mark.parametrize(
    ("method", "path", "password", "address", "expected"),
    [
        # Source: Apache httpd 2.4 with Rudder's configuration, measured.
        ("PUT", "/inventories/a.ocs", "rudder", "192.0.2.7", 201),
        ("PUT", "/inventory-updates/a.ocs", "secret", "192.0.2.7", 201),
        ("PUT", "/inventories/a.ocs", None, "192.0.2.7", 401),
        ("PUT", "/inventories/a.ocs", "wrong", "192.0.2.7", 401),
        ("PUT", "/inventories/a.ocs", "secret", "192.0.2.7", 401),
        ("PUT", "/inventory-updates/a.ocs", "rudder", "192.0.2.7", 401),
        ("PUT", "/inventories/a.ocs", None, "198.51.100.1", 403),
        ("PUT", "/inventories/a.ocs", "rudder", "198.51.100.1", 403),
        ("GET", "/inventories/a.ocs", None, "192.0.2.7", 403),
        ("GET", "/inventories/a.ocs", "rudder", "192.0.2.7", 403),
        ("GET", "/inventories/", "rudder", "192.0.2.7", 403),
        ("HEAD", "/inventories/a.ocs", "rudder", "192.0.2.7", 403),
        ("POST", "/inventories/a.ocs", "rudder", "192.0.2.7", 403),
        ("DELETE", "/inventories/a.ocs", "rudder", "192.0.2.7", 403),
        ("PROPFIND", "/inventories/", "rudder", "192.0.2.7", 403),
        ("MKCOL", "/inventories/b", "rudder", "192.0.2.7", 403),
        ("OPTIONS", "/inventories/", "rudder", "192.0.2.7", 403),
        ("PUT", "/inventories", "rudder", "192.0.2.7", 409),
        ("PUT", "/inventories/", "rudder", "192.0.2.7", 409),
        ("PUT", "/inventories/b/a.ocs", "rudder", "192.0.2.7", 409),
        ("PUT", "/inventories/%2e%2e/a.ocs", "rudder", "192.0.2.7", 405),
        ("PUT", "/inventories/../uuid", "rudder", "192.0.2.7", 405),
        ("PUT", "/inventories/..%2fa.ocs", "rudder", "192.0.2.7", 400),
        ("PUT", "/inventories/a%00.ocs", "rudder", "192.0.2.7", 400),
        ("PUT", "/inventories/a.txt", "rudder", "192.0.2.7", 400),
        ("PUT", "//inventories/a.ocs", "rudder", "192.0.2.7", 201),
        ("PUT", "/inventories//a.ocs", "rudder", "192.0.2.7", 201),
        ("PUT", "///inventories///a.ocs", "rudder", "192.0.2.7", 201),
        ("PUT", "/inventories/a_16:07:29+01:00.ocs", "rudder", "192.0.2.7", 201),
        ("PUT", "/inventories/a_16%3A07%2B01.ocs", "rudder", "192.0.2.7", 201),
        ("PUT", "/inventories/a.ocs?x=y", "rudder", "192.0.2.7", 201),
        ("PUT", "/elsewhere/a.ocs", "rudder", "192.0.2.7", 404),
        ("PUT", "/", "rudder", "192.0.2.7", 404),
        ("GET", "/uuid", None, "198.51.100.1", 200),
        ("HEAD", "/uuid", None, "198.51.100.1", 200),
        ("GET", "//uuid", None, "198.51.100.1", 200),
        ("GET", "/uuid/x", None, "198.51.100.1", 404),
        ("PUT", "/uuid", "rudder", "192.0.2.7", 405),
    ],
)
def test_codes(
    tmp_path: Path,
    own_site: bool,
    method: str,
    path: str,
    password: str | None,
    address: str,
    expected: int,
) -> None:
    """Each request has the code that senders know."""
    server = Server(tmp_path, own_site)
    headers: dict[str, Any] = (
        {} if password is None else {"Authorization": basic(password)}
    )
    body = b"<doc/>" if method in ("PUT", "POST") else None

    reply = server.ask(method, path, body, address=address, **headers)

    assert reply.status == expected
    assert server.resource.receiving.spool.waiting == (expected == 201)
    assert server.resource.uploads == 0
    assert ("Www-Authenticate" in reply.headers) == (expected == 401)


def test_the_id_of_the_server(server: Server) -> None:
    """The id is a line of plain text."""
    reply = server.ask("GET", "/uuid")

    assert reply.body == b"root\n"
    assert reply.headers["Content-Type"] == "text/plain"


@BOTH
def test_the_same_name_again(tmp_path: Path, own_site: bool) -> None:
    """A file that waits is replaced, and that is told by the code."""
    server = Server(tmp_path, own_site)
    server.put("/inventories/a.ocs", b"one")

    again = server.put("/inventories/a.ocs", b"one")
    other = server.put("/inventories/a.ocs", b"two")
    server.put("/inventories/a.ocs.sign", b"s")

    assert (again.status, other.status) == (204, 204)
    assert [each.document for each in server.deliveries] == [b"two"]


@BOTH
def test_only_if_new(tmp_path: Path, own_site: bool) -> None:
    """`If-None-Match: *` keeps what is there."""
    server = Server(tmp_path, own_site)

    first = server.put("/inventories/a.ocs", b"one", If_None_Match="*")
    second = server.put("/inventories/a.ocs", b"two", If_None_Match="*")
    server.put("/inventories/a.ocs.sign", b"s")

    assert (first.status, second.status) == (201, 412)
    assert [each.document for each in server.deliveries] == [b"one"]


@BOTH
def test_parts_of_files(tmp_path: Path, own_site: bool) -> None:
    """A part of a file is refused."""
    server = Server(tmp_path, own_site)

    reply = server.put("/inventories/a.ocs", Content_Range="bytes 0-5/10")

    assert reply.status == 400
    assert server.resource.receiving.spool.waiting == 0


@BOTH
def test_an_empty_file(tmp_path: Path, own_site: bool) -> None:
    """A file without content is stored like any other; it will not be believed."""
    server = Server(tmp_path, own_site)

    assert server.put("/inventories/a.ocs", b"").status == 201


@BOTH
def test_too_large(tmp_path: Path, own_site: bool) -> None:
    """What is beyond the limit of its kind is refused, on any site."""
    rules = evolve(RULES, limits=DocumentLimits(size=100, compressed=50))
    server = Server(tmp_path, own_site, rules)

    assert server.put("/inventories/a.ocs", bytes(100)).status == 201
    assert server.put("/inventories/b.ocs", bytes(101)).status == 413
    assert server.put("/inventories/b.ocs.gz", bytes(51)).status == 413
    assert server.put("/inventories/b.ocs.sign", bytes(16385)).status == 413


def test_without_a_length(server: Server) -> None:
    """A content whose length is not known beforehand is refused, and not read."""
    connection = server.connect()
    headers = {"Authorization": basic("rudder"), "Transfer-Encoding": "chunked"}

    connection.send(head("PUT", "/inventories/a.ocs", None, headers))

    assert read_reply(connection.take()).status == 411


@BOTH
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_nothing_is_said_of_a_length(
    tmp_path: Path, own_site: bool, version: str
) -> None:
    """A file that would end with the connection is refused, and replaces nothing."""
    server = Server(tmp_path, own_site)
    server.put("/inventories/a.ocs", b"good")
    connection = server.connect()

    request = head("PUT", "/inventories/a.ocs", None, LOGIN)
    connection.send(request.replace(b"HTTP/1.1", f"HTTP/{version}".encode()))

    assert read_reply(connection.take()).status == 411
    (half,) = Path(server.resource.receiving.spool.folder, "incoming").iterdir()
    assert half.read_bytes() == b"good"


def test_headers_of_a_stranger(tmp_path: Path) -> None:
    """Whatever is in a header, there is an answer, and no mistake of ours."""
    proxy = AddressList(["192.0.2.7"])
    server = Server(tmp_path, rules=evolve(RULES, trusted_proxies=proxy))

    def ask(path: str, name: str, value: bytes) -> int:
        connection = server.connect()
        lines = {} if name == "Authorization" else dict(LOGIN)
        if name.strip().lower() not in ("content-length", "transfer-encoding"):
            lines["Content-Length"] = "0"
        method = "PUT" if path.startswith("/inv") else "GET"
        request = head(method, path, None, {**lines, name: "@"})
        connection.send(request.replace(b"@", value))
        reply = connection.take()
        connection.lose()
        return int(reply.split()[1])

    for name, value, expected in (
        ("Content-Length", b"9" * 5000, 400),
        ("Content-length ", b"9" * 5000, 400),
        ("Content-Length", b"0" * 19, 400),
        ("Content-Length", b"9" * 18, 413),
        ("Content-Length", b"\xff", 400),
        ("Authorization", b"Basic \xff\xfe", 401),
        ("Authorization", b"\xff", 401),
        ("X-Forwarded-For", b"\xff\xfe", 403),
        ("If-None-Match", b"\xff", 201),
        ("Content-Range", b"\xff", 400),
        ("Expect", b"\xff", 204),
        ("Transfer-Encoding", b"\xff", 400),
        ("Connection", b"\xff", 204),
        ("Cookie", b"\xff=\xff; =", 204),
        ("Content-Type", b"\xff", 204),
    ):
        assert ask("/inventories/a.ocs", name, value) == expected, (name, value)
        assert ask("/uuid", name, value) in (200, 400, 413), (name, value)
        assert ask("/", name, value) in (404, 400, 413), (name, value)


def test_a_large_upload_is_refused_before_it_is_sent(server: Server) -> None:
    """Two gigabytes are refused at their announcement; what comes after is not kept."""
    connection = server.connect()
    lines = {"Authorization": basic("rudder"), "Content-Length": str(2 << 30)}

    connection.send(head("PUT", "/inventories/a.ocs", None, lines))

    reply = read_reply(connection.take())
    assert (reply.status, reply.headers["Connection"]) == (413, "close")
    for _ in range(3):
        connection.send(bytes(100_000))
    assert connection.take() == b""
    assert not connection.transport.aborted
    server.clock.advance(2)
    assert connection.transport.aborted
    connection.lose()


def test_refused_before_it_is_asked_for(server: Server) -> None:
    """Who asks before he sends is told no, and not to go on."""
    connection = server.connect("198.51.100.1")
    lines = {"Expect": "100-continue", "Content-Length": "1000"}

    connection.send(head("PUT", "/inventories/a.ocs", None, lines))

    assert connection.take().startswith(b"HTTP/1.1 403 ")
    connection.lose()


def test_a_name_that_waits_is_not_asked_for(server: Server) -> None:
    """Who wants no file replaced is told so before he has sent his."""
    server.put("/inventories/a.ocs", b"one")
    connection = server.connect()
    lines = {**LOGIN, "Expect": "100-continue", "If-None-Match": "*"}

    connection.send(
        head("PUT", "/inventories/a.ocs", None, {**lines, "Content-Length": "1000"})
    )

    assert connection.take().startswith(b"HTTP/1.1 412 ")
    connection.lose()


def test_told_to_go_on(server: Server) -> None:
    """Who asks before he sends is told to, if he may."""
    connection = server.connect()
    lines = {
        "Authorization": basic("rudder"),
        "Expect": "100-continue",
        "Content-Length": "6",
    }

    connection.send(head("PUT", "/inventories/a.ocs", None, lines))
    assert connection.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(b"<doc/>")

    assert read_reply(connection.take()).status == 201


def test_the_connection_stays(server: Server) -> None:
    """Several files go over one connection, also after a small one was refused."""
    connection = server.connect()

    statuses = [
        server.put(f"/inventories/{name}", connection=connection).status
        for name in ("a.ocs", "b.txt", "b.ocs", "a.ocs")
    ]

    assert statuses == [201, 400, 201, 204]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=12))
def test_any_split(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    """How the bytes were cut does not matter."""
    server = Server(tmp_path_factory.mktemp("split"))
    body = bytes(range(200))
    lines = {"Authorization": basic("rudder")}
    data = head("PUT", "/inventories/a.ocs", body, lines) + body
    connection = server.connect()
    for size in sizes:
        connection.send(data[:size])
        data = data[size:]
    connection.send(data)

    assert read_reply(connection.take()).status == 201
    server.put("/inventories/a.ocs.sign", b"s")
    assert server.deliveries[0].document == body


def begin(server: Server, size: int = 1000) -> Connection:
    """The beginning of an upload, with half of its content."""
    connection = server.connect()
    lines = {"Authorization": basic("rudder")}
    connection.send(head("PUT", "/inventories/a.ocs", bytes(size), lines))
    connection.send(bytes(size // 2))
    return connection


def partial(server: Server) -> list[str]:
    """Uploads under way on disk."""
    path = Path(server.resource.receiving.spool.folder, "partial")
    return [each.name for each in path.iterdir()]


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_cut_off(server: Server, size: int) -> None:
    """Of an upload that ends too early nothing is left."""
    connection = begin(server, size)
    assert server.resource.uploads == 1

    connection.lose()

    assert server.resource.uploads == 0
    assert server.resource.receiving.spool.waiting == 0
    assert partial(server) == []
    assert server.clock.getDelayedCalls()[1:] == []


def test_too_slow(server: Server) -> None:
    """An upload that takes too long is ended, however steadily it comes."""
    connection = begin(server)

    for _ in range(30):
        server.clock.advance(10)
        connection.send(b"x")

    assert connection.transport.aborted
    assert server.resource.uploads == 0
    connection.lose()


def test_nothing_comes(server: Server) -> None:
    """A sender that falls silent is cut off earlier."""
    connection = begin(server)

    server.clock.advance(61)

    assert connection.transport.disconnecting
    connection.lose()
    server.clock.advance(60)


def test_a_large_upload_is_written_piece_by_piece(tmp_path: Path) -> None:
    """The sender is held up while a piece is written, so few bytes wait in memory."""
    pool = LatePool()
    server = Server(tmp_path, pool=pool)
    connection = begin(server, 200_000)

    assert connection.transport.producerState == "paused"
    pool.work()
    assert connection.transport.producerState == "producing"
    assert len(partial(server)) == 1

    connection.send(bytes(100_000))
    pool.work()

    assert read_reply(connection.take()).status == 201
    assert server.resource.receiving.spool.waiting == 1


def test_cut_off_while_a_piece_is_written(tmp_path: Path) -> None:
    """The end of the connection waits for the thread, and then nothing is left."""
    pool = LatePool()
    server = Server(tmp_path, pool=pool)
    connection = begin(server, 200_000)

    connection.lose()
    assert server.resource.uploads == 1
    pool.work()

    assert server.resource.uploads == 0
    assert partial(server) == []


def test_cut_off_before_the_answer(tmp_path: Path) -> None:
    """An upload that was whole is stored, whether or not its sender hears of it."""
    pool = LatePool()
    server = Server(tmp_path, pool=pool)
    connection = server.connect()
    lines = {"Authorization": basic("rudder")}
    connection.send(head("PUT", "/inventories/a.ocs", b"<doc/>", lines) + b"<doc/>")

    connection.lose()
    pool.work()

    assert server.resource.receiving.spool.waiting == 1
    assert server.resource.uploads == 0


def test_too_many_uploads(tmp_path: Path) -> None:
    """One more upload than may be is told to come again; then there is room again."""
    server = Server(tmp_path, rules=evolve(RULES, at_once=1))
    connection = begin(server)

    reply = server.put("/inventories/b.ocs")
    connection.lose()

    assert (reply.status, reply.headers["Retry-After"]) == (503, "60")
    assert server.put("/inventories/b.ocs").status == 201


def test_slow_uploads_of_one_sender(tmp_path: Path) -> None:
    """Whoever begins many uploads and ends none leaves half of the places."""
    server = Server(tmp_path, rules=evolve(RULES, at_once=10))
    allowed = {"Authorization": basic("rudder")}
    slow = []
    for number in range(10):
        slow.append(server.connect())
        slow[-1].send(head("PUT", f"/inventories/{number}.ocs", b"<doc/>", allowed))

    assert server.resource.uploads == 5
    other = server.put("/inventories/b.ocs", address="192.0.2.8")
    assert other.status == 201
    for each in slow:
        each.lose()
    assert server.resource.uploads == 0
    assert server.put("/inventories/c.ocs").status == 201


def test_halves_of_one_sender(tmp_path: Path) -> None:
    """Whoever sends halves without end leaves half of the places to others."""
    server = Server(tmp_path, rules=evolve(RULES, waiting=10))
    statuses = [server.put(f"/inventories/{n}.ocs").status for n in range(8)]

    assert statuses == [201] * 5 + [503] * 3
    other = server.put("/inventories/b.ocs", address="192.0.2.8")
    assert other.status == 201
    server.clock.advance(700)
    assert server.put("/inventories/c.ocs").status == 201


def test_too_much_waits(tmp_path: Path) -> None:
    """Halves without the other one are bounded; the id is told all the same."""
    server = Server(tmp_path, rules=evolve(RULES, waiting=2))
    server.put("/inventories/a.ocs")
    server.put("/inventories/b.ocs")

    assert server.put("/inventories/c.ocs").status == 503
    assert server.ask("GET", "/uuid").status == 200
    # One that takes the place of what waits takes no other.
    assert server.put("/inventories/a.ocs").status == 204
    # What another half waits for makes room.
    assert server.put("/inventories/a.ocs.sign").status == 201
    assert server.put("/inventories/c.ocs").status == 201


def test_no_room(tmp_path: Path) -> None:
    """Uploads are refused before the disk is full."""
    server = Server(tmp_path, rules=evolve(RULES, min_free=1 << 62))

    assert server.put("/inventories/a.ocs").status == 507


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EIO, 503)]
)
def test_the_disk_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch, number: int, expected: int
) -> None:
    """What could not be written is not acknowledged, and nothing is left of it."""

    def fails(*args: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr("os.fsync", fails)

    assert server.put("/inventories/a.ocs").status == expected
    monkeypatch.undo()
    assert partial(server) == []
    assert server.resource.receiving.spool.waiting == 0
    assert server.put("/inventories/a.ocs").status == 201


def test_the_threads_are_busy(tmp_path: Path) -> None:
    """Where nothing can be written now, the sender is told to come again."""
    server = Server(tmp_path, pool=FullPool())

    assert server.put("/inventories/a.ocs").status == 503
    assert server.resource.uploads == 0


def test_after_the_end(server: Server) -> None:
    """A server that stops takes nothing more."""
    server.resource.receiving.stop()

    assert server.put("/inventories/a.ocs").status == 503


def test_long_contents_elsewhere(server: Server) -> None:
    """Other paths take no content to speak of."""
    connection = server.connect()
    connection.send(head("POST", "/uuid", None, {"Content-Length": "2000000"}))

    assert read_reply(connection.take()).status == 413
    connection.lose()


@pytest.fixture
def refused() -> Iterator[list[dict[str, Any]]]:
    """What is stated of refused uploads."""
    stated: list[dict[str, Any]] = []

    def note(event: dict[str, Any]) -> None:
        if event.get("event") == "upload.refused":
            stated.append(event)

    observer: Any = note
    globalLogPublisher.addObserver(observer)
    yield stated
    globalLogPublisher.removeObserver(observer)


@BOTH
@pytest.mark.parametrize(
    "path", ["/", "/node.ocs", "/inventory/", "/inventory/node.ocs", "//x//y"]
)
def test_a_path_that_is_wrong(
    tmp_path: Path, own_site: bool, path: str, refused: list[dict[str, Any]]
) -> None:
    """However long the file is, the sender and the log are told of the path."""
    server = Server(tmp_path, own_site)
    reply = server.ask("PUT", path, bytes(200_000))

    assert (reply.status, b"go to inventories/" in reply.body) == (404, True)
    (event,) = refused
    assert (event["reason"], event["peer"]) == ("path", "192.0.2.7")

    assert server.ask("GET", path).status == 404
    assert len(refused) == 1


@BOTH
def test_a_box_without_a_user(
    tmp_path: Path, own_site: bool, refused: list[dict[str, Any]]
) -> None:
    """The log tells it from a wrong password; the sender cannot."""
    accounts = {Box.FIRST: RULES.accounts[Box.FIRST]}
    server = Server(tmp_path, own_site, evolve(RULES, accounts=accounts))
    given: dict[str, Any] = {"Authorization": basic("wrong")}
    wrong = server.put("/inventories/a.ocs", **given)
    none = server.put("/inventory-updates/a.ocs", **given)

    assert wrong == none
    assert b"user and the password" in none.body
    assert [each["reason"] for each in refused] == ["credentials", "no-user"]


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=x", "text/plain"]
)
def test_forms(server: Server, kind: str) -> None:
    """A form is refused for its method, whatever is in it."""
    reply = server.ask("POST", "/inventories/a.ocs", b"x", Content_Type=kind)

    assert reply.status == 403


@BOTH
def test_proxies(tmp_path: Path, own_site: bool) -> None:
    """The address is whom a proxy of ours speaks for; others are not believed."""
    rules = evolve(RULES, trusted_proxies=AddressList(["10.0.0.1"]))
    server = Server(tmp_path, own_site, rules)

    def put(address: str, forwarded: str) -> int:
        return server.put(
            "/inventories/a.ocs", address=address, X_Forwarded_For=forwarded
        ).status

    assert put("10.0.0.1", "192.0.2.9") == 201
    assert put("10.0.0.1", "198.51.100.1") == 403
    assert put("198.51.100.1", "192.0.2.9") == 403
    assert put("10.0.0.1", "192.0.2.9, 198.51.100.1") == 403
    incoming = Path(server.resource.receiving.spool.folder, "incoming")
    assert [each.name for each in incoming.iterdir()] == ["a.ocs~first~192.0.2.9"]


def test_less_than_was_told(tmp_path: Path) -> None:
    """A site that has kept less of a file than there was has its upload refused."""

    class Forgetful(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(size)[:-1]

    class Forgets(Request):
        def process(self) -> None:
            assert self.content is not None
            self.content = Forgetful(self.content.read())
            super().process()

    server = Server(tmp_path, own_site=False)
    server.site.requestFactory = Forgets

    assert server.put("/inventories/a.ocs").status == 400
    assert server.resource.receiving.spool.waiting == 0


def test_in_another_tree(server: Server) -> None:
    """The resource works anywhere in an application's tree."""
    root, below = Resource(), Resource()
    root.putChild(b"nodes", below)
    below.putChild(b"v1", server.resource)
    stock: Any = Site(root, reactor=server.clock)
    for site in (server.site, stock):
        site.resource = root
        site.log = lambda request: None
        connection = Connection(site, "192.0.2.7")
        lines = {"Authorization": basic("rudder")}
        path = "/nodes/v1//inventories/a.ocs"
        connection.send(head("PUT", path, b"<doc/>", lines) + b"<doc/>")
        assert read_reply(connection.take()).status in (201, 204)


def test_http_2_is_not_offered(server: Server) -> None:
    """Only the protocol in which a request is seen before its content."""
    assert server.site.acceptableProtocols() == [b"http/1.1"]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_garbage(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes are answered or cut off, and store nothing."""
    server = Server(tmp_path_factory.mktemp("garbage"))
    connection = server.connect()

    connection.send(data)
    connection.send(b"\r\n\r\n")
    connection.lose()

    assert server.resource.receiving.spool.waiting == 0
    assert server.resource.uploads == 0


def test_the_names_that_are_read(server: Server) -> None:
    """A name in a path is the one that is stored."""
    server.put("/inventory-updates/f5_2024-03-21T16:07:29%2B01:00.ocs")

    name = read_name("f5_2024-03-21T16:07:29+01:00.ocs")
    assert server.resource.receiving.spool.holds(name)
