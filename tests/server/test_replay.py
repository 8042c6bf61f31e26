# SPDX-License-Identifier: MIT
"""
What the real clients said to the real server, said to ours: the same answers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define, field

from nodecomm.testing import MemoryServer, memory_server
from nodecomm.wire.commands import parse_get, parse_stat
from nodecomm.wire.dialog import ClientDialog, ServerDialog
from nodecomm.wire.framing import MAX_RECORD, TransactionBuffer
from nodecomm.wire.replies import ListingParser, StatReply, parse_stat_reply
from tests.recorded import Exchange, load, make_tree, names


@define
class Answers:
    """
    What one server said, read in the light of what it was asked.

    Attributes:
        stats: Status replies and what was said instead, by place.
        listings: Names in order, by place.
        contents: Bytes of files, by place.
        words: All other answers, by place.
    """

    stats: dict[int, StatReply | bytes] = field(factory=dict)
    listings: dict[int, list[bytes] | bytes] = field(factory=dict)
    contents: dict[int, bytes] = field(factory=dict)
    words: dict[int, list[bytes]] = field(factory=dict)


def requests(exchange: Exchange) -> list[bytes]:
    """
    What the client asked for.
    """
    dialog = ServerDialog(b"test")
    dialog.receive_data(exchange.sent_by("client"))
    buffer = TransactionBuffer()
    buffer.feed(dialog.trailing())
    found = []
    while (transaction := buffer.next_transaction()) is not None:
        found.append(transaction.payload)
    return found


def read(asked: list[bytes], said: bytes) -> Answers:
    """
    *said*, all bytes of a server, as answers to *asked*; every byte of it.
    """
    hello, _, rest = said.partition(b"\n")
    dialog = ClientDialog(b"root", b"test")
    dialog.receive_data(hello + b"\n")
    dialog.lines()
    dialog.receive_data(rest)
    buffer = TransactionBuffer()
    buffer.feed(dialog.trailing())
    answers = Answers()
    sizes: dict[bytes, int] = {}

    def next_payload() -> tuple[bytes, bool]:
        transaction = buffer.next_transaction()
        assert transaction is not None
        return transaction.payload, transaction.more

    for place, request in enumerate(asked):
        word = request.split()[0]
        if word == b"GET":
            size = sizes.get(parse_get(request).path, 0)
            answers.contents[place] = buffer.take(size)
            continue
        payload, more = next_payload()
        if payload.startswith(b"BAD: ") or word == b"MD5":
            answers.words[place] = [payload]
        elif word == b"SYNCH":
            reply = parse_stat_reply(payload, next_payload()[0])
            answers.stats[place] = reply
            sizes[parse_stat(request).path] = reply.size
        else:
            assert word == b"OPENDIR"
            listing = ListingParser()
            found = listing.feed(payload, more)
            while not listing.finished:
                found += listing.feed(*next_payload())
            answers.listings[place] = found
    assert len(buffer) == 0
    return answers


def served(exchange: Exchange, tree: Path) -> MemoryServer:
    """
    Our server of the same tree, at the time of the recording.
    """
    make_tree(tree, exchange.tree)
    rule = {
        "path": str(tree),
        "shortcut": exchange.shortcut,
        "admit_ips": ["127.0.0.1"],
    }
    server = memory_server(rule)
    times = [
        parse_stat(request).client_time
        for request in requests(exchange)
        if request.startswith(b"SYNCH")
    ]
    server.now = float(times[0]) if times else server.now
    return server


@pytest.fixture(params=names())
def exchange(request: pytest.FixtureRequest) -> Exchange:
    """
    Each recorded exchange in turn.
    """
    return load(request.param)


@pytest.fixture
def tree() -> Iterator[Path]:
    """
    Where to make the served tree.
    """
    folder = Path(tempfile.mkdtemp()).resolve()
    yield folder / "tree"
    shutil.rmtree(folder)


def replay(exchange: Exchange, server: MemoryServer) -> list[bytes]:
    """
    Say the client's records to our server, one by one, as they were sent; the
    records that come back.
    """
    client = server.dial()
    assert client is not None
    client.pump()
    for record in exchange.records:
        if record.sender == "client" and record.data:
            assert not client.closed
            client.send(record.data)
    client.hang_up()
    return client.records


def fixed(reply: StatReply) -> tuple[object, ...]:
    """
    What does not depend on the file system that a tree was made on, nor on when.
    """
    folder = reply.kind == 2
    return (
        reply.kind,
        reply.mode,
        reply.link_mode,
        (reply.uid, reply.gid) if os.geteuid() == 0 else None,
        # A link's own times are those of the moment it was made.
        None if folder else reply.size,
        None if reply.kind == 1 else reply.mtime,
        None if folder else reply.holes,
        None if folder else reply.nlink,
        reply.target,
    )


def test_there_are_some() -> None:
    """
    The table below is not empty by accident.
    """
    assert {"agent-copy-v2", "agent-copy-v3", "net-opendir-wide"} <= set(names())


def test_same_answers(exchange: Exchange, tree: Path) -> None:
    """
    Statuses, listings, digests, contents and refusals are the real server's; only
    what a file system gives itself differs.
    """
    asked = requests(exchange)
    theirs = read(asked, exchange.sent_by("server"))

    ours = read(asked, b"".join(replay(exchange, served(exchange, tree))))

    assert ours.words == theirs.words
    assert ours.contents == theirs.contents
    assert ours.stats.keys() == theirs.stats.keys()
    for place, reply in ours.stats.items():
        other = theirs.stats[place]
        assert isinstance(reply, StatReply)
        assert isinstance(other, StatReply)
        assert fixed(reply) == fixed(other), asked[place]
    assert {p: sorted(found) for p, found in ours.listings.items()} == {
        p: sorted(found) for p, found in theirs.listings.items()
    }


def test_same_objects(exchange: Exchange, tree: Path) -> None:
    """
    Where the real server's inode numbers say "the same file", ours do, and where
    they do not, ours do not.
    """
    asked = requests(exchange)
    theirs = read(asked, exchange.sent_by("server")).stats
    ours = read(asked, b"".join(replay(exchange, served(exchange, tree)))).stats

    def same(stats: dict[int, StatReply | bytes]) -> list[tuple[int, int]]:
        return [
            (one, two)
            for one, first in stats.items()
            for two, second in stats.items()
            if one < two
            and isinstance(first, StatReply)
            and isinstance(second, StatReply)
            and (first.ino, first.dev) == (second.ino, second.dev)
        ]

    assert same(ours) == same(theirs)


def test_same_packets(exchange: Exchange, tree: Path) -> None:
    """
    The listing is cut into as many packets as the real server's, and no record of
    ours divides a frame.
    """
    records = replay(exchange, served(exchange, tree))
    for record in records:
        assert len(record) <= MAX_RECORD
    if not exchange.title.startswith("cf-net opendir of"):
        return

    def packets(said: bytes) -> int:
        buffer = TransactionBuffer()
        buffer.feed(said.split(b"\n", 2)[2])
        count = 0
        while buffer.next_transaction() is not None:
            count += 1
        return count

    # Names are packed in the order of the folder, so one packet may be had more or
    # less.
    assert abs(packets(b"".join(records)) - packets(exchange.sent_by("server"))) <= 1


def test_all_at_once(exchange: Exchange, tree: Path) -> None:
    """
    A client that sends everything ahead gets the same bytes, but for the bytes that
    the dialog and access times change.
    """
    server = served(exchange, tree)
    one_by_one = b"".join(replay(exchange, server))
    client = server.dial()
    assert client is not None
    client.pump()

    client.send(exchange.sent_by("client"))

    asked = requests(exchange)
    first = read(asked, one_by_one)
    second = read(asked, client.received())
    assert first.words == second.words
    assert first.contents == second.contents
    assert first.listings == second.listings
    assert first.stats.keys() == second.stats.keys()
