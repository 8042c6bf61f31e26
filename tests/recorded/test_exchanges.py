# SPDX-License-Identifier: MIT
"""
The recorded exchanges are what they claim to be, and our reading of the protocol
agrees with both real sides.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nodecomm.wire.commands import parse_get, parse_stat
from nodecomm.wire.dialog import ClientDialog, Identity, ServerDialog, Welcome
from nodecomm.wire.framing import MAX_RECORD, Transaction, TransactionBuffer
from nodecomm.wire.replies import REFUSAL, ListingParser, parse_stat_reply
from nodecomm.wire.text import from_text
from tests import recorded
from tests.interop.trees import described
from tests.recorded import Exchange, Record, load, make_tree, names


@pytest.fixture(params=names())
def exchange(request: pytest.FixtureRequest) -> Exchange:
    """
    Each recorded exchange in turn.
    """
    return load(request.param)


def requests(exchange: Exchange) -> list[bytes]:
    """
    What the client asked for after the dialog.
    """
    dialog = ServerDialog(b"test")
    dialog.receive_data(exchange.sent_by("client"))
    buffer = TransactionBuffer()
    buffer.feed(dialog.trailing())
    found = []
    while (transaction := buffer.next_transaction()) is not None:
        assert not transaction.more
        found.append(transaction.payload)
    assert len(buffer) == 0
    return found


def read_welcome(exchange: Exchange) -> ClientDialog:
    """
    Our client's dialog, after it has read the server's two lines.
    """
    hello, _, rest = exchange.sent_by("server").partition(b"\n")
    client = ClientDialog(b"root", b"test")
    client.receive_data(hello + b"\n")
    client.lines()
    answers = client.receive_data(rest)
    assert isinstance(answers[-1], Welcome)
    return client


def test_there_are_some() -> None:
    """
    The table below is not empty by accident.
    """
    assert {"agent-copy-v2", "agent-copy-v3", "net-get"} <= set(names())


def test_the_file_is_the_exchange(exchange: Exchange, tmp_path: Path) -> None:
    """
    Writing an exchange and reading it again changes nothing.
    """
    exchange.write(tmp_path / "again.jsonl")
    before, recorded.FOLDER = recorded.FOLDER, tmp_path
    try:
        again = load("again")
    finally:
        recorded.FOLDER = before

    assert again == exchange


def test_records(exchange: Exchange) -> None:
    """
    The server speaks first, no record is longer than TLS allows, and only the last
    one says that a side closed.
    """
    assert exchange.records[0] == Record("server", b"CFE_v3 cf-serverd 3.21.0\n")
    assert max(len(record.data) for record in exchange.records) <= MAX_RECORD
    assert [bool(record.data) for record in exchange.records].index(False) == (
        len(exchange.records) - 1
    )


def test_dialog(exchange: Exchange) -> None:
    """
    Each side's lines are understood by our other side.
    """
    server = ServerDialog(b"test")
    events = server.receive_data(exchange.sent_by("client"))
    client = read_welcome(exchange)

    assert isinstance(events[-1], Identity)
    assert server.user == b"root"
    assert server.version == (2 if "version 2" in exchange.title else 3)
    assert client.version == 3


def test_the_tree_is_what_was_served(exchange: Exchange, tmp_path: Path) -> None:
    """
    The tree can be made again, and what the real server said of it is true of it:
    statuses, listings and contents.
    """
    tree = tmp_path / "tree"
    make_tree(tree, exchange.tree)
    made = described(tree, follow=True)
    shortcut = exchange.shortcut.encode()
    buffer = TransactionBuffer()
    buffer.feed(read_welcome(exchange).trailing())
    sizes: dict[bytes, int] = {}

    def transaction() -> Transaction:
        found = buffer.next_transaction()
        assert found is not None
        return found

    def answer() -> bytes:
        return transaction().payload

    for request in requests(exchange):
        word = request.split()[0]
        if word == b"SYNCH":
            path = parse_stat(request).path
            first = answer()
            if first == REFUSAL:
                assert path[len(shortcut) + 1 :] not in made
                continue
            reply = parse_stat_reply(first, answer())
            sizes[path] = reply.size
            if path != shortcut:
                entry = made[path[len(shortcut) + 1 :]]
                kind = {0: "file", 1: "link", 2: "folder"}[reply.kind]
                assert entry.kind == kind
                if kind == "file":
                    assert (entry.mode, entry.size) == (reply.mode, reply.size)
                if kind == "link":
                    assert entry.content.encode() == reply.target
        elif word == b"OPENDIR":
            path = request[len(b"OPENDIR ") :]
            below = path[len(shortcut) + 1 :]
            packet = transaction()
            if packet.payload == REFUSAL:
                assert below not in made
                continue
            listing = ListingParser()
            found = listing.feed(*packet)
            while not listing.finished:
                found += listing.feed(*transaction())
            prefix = below + b"/" if below else b""
            expected = {
                name[len(prefix) :]
                for name in made
                if name.startswith(prefix) and b"/" not in name[len(prefix) :]
            }
            assert set(found) == expected | {b".", b".."}
        elif word == b"GET":
            path = parse_get(request).path
            data = buffer.take(sizes[path])
            name = path[len(shortcut) + 1 :].replace(b"to-folder/", b"folder/")
            contents = {
                from_text(key): from_text(what["content"])
                for key, what in exchange.tree.items()
                if "content" in what
            }
            contents[b"to-file"] = contents[b"again"] = contents[b"promises.cf"]
            assert data == contents[name]
        else:
            assert word == b"MD5"
            assert answer() in (b"CFD_TRUE", b"CFD_FALSE")
    assert len(buffer) == 0
