# SPDX-License-Identifier: MIT
"""
Relays that pass files round: the mark of each is in the header `Via`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis.strategies import binary, lists
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from nodecomm.inventory.failures import Failed, read_failed
from nodecomm.inventory.outbox import OUTGOING_NAME, Outbox, send_again
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.relaying import Relaying
from nodecomm.inventory.resource import InventoryResource
from nodecomm.inventory.site import UploadSite
from nodecomm.inventory.upstream import PATHS
from nodecomm.inventory.upstream_errors import Transient, failure_of
from nodecomm.inventory.via import MOST, join_via, mark_of, read_via, server_of
from nodecomm.server.pools import InlinePool
from tests.inventory.web import (
    NOW,
    PASSWORDS,
    RULES,
    Connection,
    Reply,
    Server,
    basic,
    head,
    read_reply,
)

AWAY = Transient("away")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([b""], []),
        ([b"1.1 nodecomm-a"], ["a"]),
        ([b"1.1 nodecomm-a, 1.1 nodecomm-b"], ["a", "b"]),
        ([b"1.1 nodecomm-a", b"1.1 nodecomm-b"], ["a", "b"]),
        ([b" ,1.0 nodecomm-a,, \tHTTP/2 nodecomm-b (it, too) ,"], ["a", "b"]),
        # Proxies, by name, with a port, or with the id of a relay.
        ([b"1.1 a, 1.1 relay.example.com:443 (Apache), 1.1 nodecomm"], []),
        ([b"1.1 varnish, 1.1 nodecomm-a, 1.1 nginx"], ["a"]),
        ([b"nodecomm-a", b"1.1", b"1.1 nodecomm-", b"1.1  nodecomm-\xe9"], []),
        ([b"1.1 nodecomm-" + 151 * b"a"], []),
        ([b"1.1 nodecomm-a, " * 1000], (MOST + 1) * ["a"]),
    ],
)
def test_marks(lines: list[bytes], expected: list[str]) -> None:
    """The marks of relays are found among all that may stand in the header."""
    assert list(map(server_of, read_via(lines))) == expected


@given(lists(binary(max_size=60), max_size=5))
@settings(max_examples=60, deadline=None)
def test_whatever_comes(lines: list[bytes]) -> None:
    """Whatever is in the header, what is read is one that we would write."""
    found = read_via(lines)
    assert read_via([join_via(found).encode("ascii")]) == found


def test_odd_ids() -> None:
    """The mark of a server is a word, whatever its id is."""
    mark = mark_of("a b,é(")
    assert read_via([join_via([mark]).encode("ascii")]) == (mark,)


@define(slots=False)
class Link:
    """
    What a relay has above, in memory.

    Attributes:
        site: Takes what is sent; nobody is there while it is None.
        sent: What was put there: name and header.
    """

    site: Any = None
    sent: list[tuple[str, str]] = field(factory=list)

    def server_id(self) -> Deferred[str]:
        """Does not say."""
        return fail(AWAY if self.site is None else failure_of(404, ""))

    def put(
        self, box: Box, name: str, content: str, *, via: Sequence[str]
    ) -> Deferred[None]:
        """Put a file there."""
        self.sent.append((name, join_via(via)))
        reply = put(self.site, name, Path(content).read_bytes(), box, join_via(via))
        if reply.status in (201, 204):
            return succeed(None)
        return fail(failure_of(reply.status, reply.body.decode().strip()))

    def close(self) -> Deferred[None]:
        """Nothing is open."""
        return succeed(None)


def put(
    site: Any, name: str, body: bytes, box: Box = Box.FIRST, via: str = ""
) -> Reply:
    """Put a file into a server, as a node or a relay."""
    folder = PATHS[box]
    headers = {"Authorization": basic(PASSWORDS[folder])}
    if via:
        headers["Via"] = via
    connection = Connection(site, "192.0.2.7")
    connection.send(head("PUT", f"/{folder}/{name}", body, headers) + body)
    return read_reply(connection.take())


class Relay:
    """A relay in memory."""

    def __init__(self, folder: Path, name: str, clock: Clock) -> None:
        self.folder = folder / name
        self.name = name
        self.clock = clock
        self.above = Link()
        self.start()

    def start(self) -> None:
        """Begin."""
        outbox = Outbox(
            self.folder,
            seconds=self.clock.seconds,
            now=lambda: NOW + timedelta(seconds=self.clock.seconds()),
        )
        pool = InlinePool()
        self.relaying = Relaying(
            outbox,
            self.above,
            reactor=self.clock,
            pool=pool,
            server_id=self.name,
            address=f"https://above-{self.name}/",
        )
        self.relaying.start()
        resource = InventoryResource(
            self.relaying, RULES, server_id=self.name, reactor=self.clock, pool=pool
        )
        self.site = UploadSite(resource, reactor=self.clock)

    def failed(self) -> list[Failed]:
        """What was put aside."""
        return read_failed(self.folder)

    def waiting(self) -> list[Path]:
        """What waits."""
        return sorted((self.folder / OUTGOING_NAME).iterdir())


@pytest.fixture
def clock() -> Clock:
    """The time."""
    return Clock()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_ring(tmp_path: Path, clock: Clock, count: int) -> None:
    """
    Relays in a ring pass a file round once: the last of them puts it aside, and says by
    which relays it went and what to change. Its sender has his answer all the same.
    """
    ring = [Relay(tmp_path, f"r{number}", clock) for number in range(count)]
    for relay, above in zip(ring, [*ring[1:], ring[0]], strict=True):
        relay.above.site = above.site
    with capturedLogs() as logs:
        assert put(ring[0].site, "a.ocs", b"<doc/>").status == 201
        clock.advance(3600)

    assert [len(relay.above.sent) for relay in ring] == count * [1]
    assert [relay.waiting() for relay in ring] == count * [[]]
    assert [len(relay.failed()) for relay in ring] == [*(count - 1) * [0], 1]
    last = ring[-1]
    (failed,) = last.failed()
    assert failed.refusal.code == "loop"
    way = " -> ".join(relay.name for relay in ring)
    assert f"{way} -> https://above-{last.name}/" in failed.refusal.text
    assert "inventory.upstream" in failed.refusal.text
    aside = last.folder / "failed" / failed.serial / "a.ocs"
    assert aside.read_bytes() == b"<doc/>"
    (told,) = [each for each in logs if each.get("event") == "upload.refused"]
    assert (told["status"], told["reason"]) == (508, "loop")


def test_a_chain(tmp_path: Path, clock: Clock) -> None:
    """Relays one above the other pass a file on, and tell the next who they are."""
    top = Server(tmp_path / "top", clock=clock)
    low, high = Relay(tmp_path, "low", clock), Relay(tmp_path, "high", clock)
    low.above.site, high.above.site = high.site, top.site
    put(low.site, "a.ocs", b"<doc/>", Box.UPDATE)
    put(low.site, "a.ocs.sign", b"x=y", Box.UPDATE)

    assert low.above.sent[0] == ("a.ocs", "1.1 nodecomm-low")
    assert high.above.sent[0] == ("a.ocs", "1.1 nodecomm-low, 1.1 nodecomm-high")
    assert [each.document for each in top.deliveries] == [b"<doc/>"]
    assert [relay.failed() for relay in (low, high)] == [[], []]


def test_a_server_that_decides_takes_all(tmp_path: Path) -> None:
    """Who passes nothing on takes a file whatever way it came."""
    top = Server(tmp_path)
    via = join_via([mark_of("root"), *(MOST + 5) * [mark_of("a")]])
    assert top.put("/inventories/a.ocs", Via=via).status == 201


def test_remembered(tmp_path: Path, clock: Clock) -> None:
    """
    By which relays a file has come is not forgotten while it waits, be the relay
    killed; a file that a node has sent has none.
    """
    relay = Relay(tmp_path, "b", clock)
    assert put(relay.site, "a.ocs", b"1", via="1.1 nodecomm-a, 1.1 proxy").status == 201
    assert put(relay.site, "b.ocs", b"2").status == 201
    relay.relaying.spool._leave()
    relay.relaying._started = False
    top = Server(tmp_path / "top", clock=clock)
    relay.above.site = top.site
    relay.start()

    assert sorted(relay.above.sent) == [
        ("a.ocs", "1.1 nodecomm-a, 1.1 nodecomm-b"),
        ("b.ocs", "1.1 nodecomm-b"),
    ]
    assert relay.waiting() == []


def test_a_way_that_somebody_has_written(tmp_path: Path, clock: Clock) -> None:
    """
    Of what stands in the file beside it, only marks go into the header, and no more of
    them than there may be; a pipe in its place is not waited for.
    """
    relay = Relay(tmp_path, "b", clock)
    relay.relaying.spool._leave()
    relay.relaying._started = False
    for name in ("a", "b", "c"):
        folder = relay.folder / OUTGOING_NAME / name
        folder.mkdir()
        (folder / f"{name}.ocs~first~").write_bytes(b"1")
    top = relay.folder / OUTGOING_NAME
    (top / "a" / "via").write_bytes(b"nodecomm-x\0 nodecomm-\xff evil:1 nodecomm-a")
    (top / "b" / "via").write_bytes(5000 * b"nodecomm-a\n")
    os.mkfifo(top / "c" / "via")
    relay.above.site = Server(tmp_path / "top", clock=clock).site
    relay.start()

    ways = dict(relay.above.sent)
    assert ways["a.ocs"] == "1.1 nodecomm-a, 1.1 nodecomm-b"
    assert ways["b.ocs"].count("1.1 ") == MOST + 2
    assert ways["c.ocs"] == "1.1 nodecomm-b"


def test_too_many_relays(tmp_path: Path, clock: Clock) -> None:
    """A chain that is longer than any real one is taken for a ring."""
    relay = Relay(tmp_path, "here", clock)
    marks = [mark_of(f"r{number}") for number in range(MOST + 1)]
    assert put(relay.site, "a.ocs", b"1", via=join_via(marks[1:])).status == 201
    assert put(relay.site, "b.ocs", b"1", via=join_via(marks)).status == 508


def test_sent_again(tmp_path: Path, clock: Clock) -> None:
    """
    When the operator has put the ring right, and has it sent again, the way that the
    file went is not held against it.
    """
    a, b = Relay(tmp_path, "a", clock), Relay(tmp_path, "b", clock)
    a.above.site, b.above.site = b.site, a.site
    put(a.site, "x.ocs", b"<doc/>")
    (failed,) = b.failed()
    top = Server(tmp_path / "top", clock=clock)
    a.above.site = top.site
    send_again(b.folder, failed.serial)
    clock.advance(30)

    assert b.above.sent[-1] == ("x.ocs", "1.1 nodecomm-b")
    assert a.above.sent[-1] == ("x.ocs", "1.1 nodecomm-b, 1.1 nodecomm-a")
    assert [relay.waiting() for relay in (a, b)] == [[], []]
    assert [relay.failed() for relay in (a, b)] == [[], []]


def test_a_forged_way(tmp_path: Path, clock: Clock) -> None:
    """
    Who sends a file as if the relay above had passed it on has his own put aside, and
    not the same one that its node sends after him.
    """
    low, high = Relay(tmp_path, "low", clock), Relay(tmp_path, "high", clock)
    top = Server(tmp_path / "top", clock=clock)
    high.above.site = top.site
    forged = join_via([mark_of("high")])
    assert put(low.site, "a.ocs", b"<doc/>", via=forged).status == 201
    assert put(low.site, "a.ocs", b"<doc/>").status in (201, 204)
    low.above.site = high.site
    clock.advance(60)

    assert [name for name, _ in high.above.sent] == ["a.ocs"]
    assert [failed.refusal.code for failed in low.failed()] == ["loop"]
    assert low.waiting() == []


def test_what_is_left_over(tmp_path: Path, clock: Clock) -> None:
    """A folder in which the file is no longer goes at the next look."""
    relay = Relay(tmp_path, "b", clock)
    put(relay.site, "a.ocs", b"1", via="1.1 nodecomm-a")
    (folder,) = relay.waiting()
    relay.relaying.spool._leave()
    relay.relaying._started = False
    (folder / "a.ocs~first~192.0.2.7").unlink()
    left = sorted(each.name for each in folder.iterdir())
    assert left == ["tried.json", "via"]
    relay.start()

    assert relay.waiting() == []
