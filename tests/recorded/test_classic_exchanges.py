# SPDX-License-Identifier: MIT
"""
The recorded classic exchanges are what they claim to be: what both real sides do.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nodecomm.wire.commands import parse_stat
from nodecomm.wire.replies import REFUSAL
from nodecomm.wire.text import from_text
from tests import recorded
from tests.interop.trees import described
from tests.recorded import Exchange, classic_names, key_pair, load, make_tree
from tests.recorded.opened import Opened, digest, number, opened, read

#: Exchanges in which the dialog comes to no end, with what the server says last.
UNFINISHED = {
    "classic/not-allowed": None,
    "classic/other-server": REFUSAL,
    "classic/untrusted-client": b"BAD: key could not be accepted on trust",
    "classic/untrusted-server": None,
}

#: Those in which the real server serves what ours refuses from the start, or closes.
REFUSED = {
    "classic/get-refused",
    "classic/get-refused-encrypted",
    "classic/opendir-refused",
    "classic/stat-refused",
    "classic/stat-refused-encrypted",
}


@pytest.fixture(params=classic_names())
def name(request: pytest.FixtureRequest) -> str:
    """
    Each recorded exchange in turn.
    """
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def exchange(name: str) -> Exchange:
    """
    The exchange.
    """
    return load(name)


@pytest.fixture
def found(name: str) -> Opened:
    """
    The exchange, opened.
    """
    return opened(name)


def test_there_are_some() -> None:
    """
    The table below is not empty by accident.
    """
    assert {"classic/copy-n", "classic/copy-encrypted-y"} <= set(classic_names())
    assert UNFINISHED.keys() | REFUSED <= set(classic_names())


def test_the_file_is_the_exchange(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Writing an exchange and reading it again changes nothing.
    """
    exchange.write(tmp_path / "again.jsonl")
    monkeypatch.setattr(recorded, "FOLDER", tmp_path)

    assert load("again") == exchange


def test_pieces(exchange: Exchange) -> None:
    """
    The client speaks first, in clear, and only the last piece says that a side
    closed.
    """
    assert exchange.tls == ""
    assert exchange.records[0].sender == "client"
    assert exchange.records[0].data[8:].startswith(b"CAUTH 127.0.0.1 localhost ")
    assert [bool(record.data) for record in exchange.records].index(False) == (
        len(exchange.records) - 1
    )


def test_opening(exchange: Exchange, found: Opened) -> None:
    """
    The client claims who it is, challenges the server in one of two forms, and sends
    its public key.
    """
    *_, user, last = found.dialog[0].split(b" ")
    text, _, filling = found.dialog[1][:24].partition(b"\0")
    size = len(found.dialog[1]) - 24
    own = exchange.key("client").public

    assert (user, last) == (b"nobody" if "user" in exchange.title else b"root", b"0")
    assert text == b"SAUTH %s %d 37 c" % (found.form.encode(), size)
    assert not filling.strip(b"\0")
    assert found.nonce[:5] == b"\0\0\0\x21\0"
    assert found.nonce[5] >= 0x80
    assert len(found.nonce) == 37
    assert number(found.dialog[2]) == own.modulus
    assert number(found.dialog[3]) == own.exponent


def test_answer(name: str, exchange: Exchange, found: Opened) -> None:
    """
    A server that trusts the client proves that it could read the challenge, and
    challenges the client with as many bytes; to a client that does not know its key
    it sends that too.
    """
    if name in UNFINISHED and name != "classic/untrusted-server":
        expected = UNFINISHED[name]
        assert found.answers == ([] if expected is None else [expected])
        return
    theirs = exchange.key("server").public

    seen = "update" in name
    assert found.answers[0] == (
        b"OK: key accepted" if seen else b"OK: unknown key was accepted on trust"
    )
    assert found.answers[1] == digest(found.nonce)
    assert len(found.counter) == 37
    assert found.counter[:5] == b"\0\0\0\x21\0"
    assert [number(answer) for answer in found.answers[3:]] == (
        [theirs.modulus, theirs.exponent] if found.form == "n" else []
    )


def test_end(name: str, found: Opened) -> None:
    """
    The client proves that it could read the counter-challenge, and chooses a key of
    16 bytes; a client that does not trust the server closes before.
    """
    if name in UNFINISHED:
        assert found.refused
        assert found.requests == []
        return
    assert found.dialog[4] == digest(found.counter)
    assert len(found.session_key) == 16


def test_another_servers_challenge(found: Opened) -> None:
    """
    A challenge for another key is one that its owner can read.
    """
    challenge = opened("classic/other-server").dialog[1][24:]

    assert len(challenge) == key_pair("other").private.key_size // 8
    assert len(opened("classic/other-server").nonce) == 37


def test_the_tree_is_what_was_served(
    name: str, exchange: Exchange, found: Opened, tmp_path: Path
) -> None:
    """
    The tree can be made again, and what the real server said of it is true of it:
    statuses, links as links, listings, contents and digests.
    """
    if name in UNFINISHED:
        return
    tree = tmp_path / "tree"
    make_tree(tree, exchange.tree)
    as_they_are, followed = described(tree), described(tree, follow=True)
    answers = read(found, found.replies)
    shortcut = exchange.shortcut.encode()
    contents = {
        from_text(key): from_text(what["content"])
        for key, what in exchange.tree.items()
        if "content" in what
    }
    kinds = {0: "file", 1: "link", 2: "folder"}

    def below(place: int) -> bytes:
        clear = found.clear(found.requests[place]).split(b"\0")[0]
        return clear[clear.index(shortcut) + len(shortcut) + 1 :]

    for place, reply in answers.stats.items():
        path = below(place)
        assert parse_stat(found.clear(found.requests[place])).client_time > 0
        if not path:
            continue
        entry = followed[path]
        assert kinds[reply.kind] == entry.kind
        if entry.kind == "file":
            assert (reply.mode, reply.size) == (entry.mode, entry.size)
        if as_they_are[path].kind == "link":
            assert reply.link_mode == 0o777
            assert reply.target == as_they_are[path].content.encode()
        else:
            assert (reply.link_mode, reply.target) == (0, b"")
    for place, names in answers.listings.items():
        prefix = below(place) + b"/" if below(place) else b""
        expected = {
            key[len(prefix) :]
            for key in as_they_are
            if key.startswith(prefix) and b"/" not in key[len(prefix) :]
        }
        assert set(names) == expected | {b".", b".."}
    for place, content in answers.contents.items():
        linked = exchange.tree.get(os_name(below(place)), {})
        path = from_text(linked["hard"]) if "hard" in linked else below(place)
        assert content == contents[path]
    for place, words in answers.words.items():
        request = found.clear(found.requests[place])
        if request.startswith(b"MD5"):
            assert words in ([b"CFD_TRUE"], [b"CFD_FALSE"])
        else:
            assert name in REFUSED
            assert {word[: len(REFUSAL)] for word in words} == {REFUSAL}
    assert (name in REFUSED) == any(
        words[0] == REFUSAL for words in answers.words.values()
    )


def os_name(path: bytes) -> str:
    """
    A path as the tree of an exchange names it.
    """
    return path.decode("ascii", "backslashreplace")


def test_blocks() -> None:
    """
    A file is encrypted in blocks of 4,064 bytes, each of which grows by 1 to 8.
    """
    found = opened("classic/blocks-encrypted")
    answers = read(found, found.replies)

    assert {
        len(content): answers.frames[place]
        for place, content in answers.contents.items()
    } == {
        1: [8],
        7: [8],
        8: [16],
        4063: [4064],
        4064: [4072],
        4065: [4072, 8],
        8128: [4072, 4072],
        8129: [4072, 4072, 8],
    }


def test_empty_files_are_not_asked_for() -> None:
    """
    The real client asks for an empty file in clear, and never encrypted.
    """
    for name, expected in (("copy-y", 1), ("copy-encrypted-y", 0)):
        found = opened(f"classic/{name}")
        asked = [found.clear(request) for request in found.requests]

        assert asked.count(b"GET 2048 files/empty") == expected


def test_links_of_one_character_are_told() -> None:
    """
    The real server tells the text of every link; it is the real client that does not
    take one of a single character.
    """
    found = opened("classic/copy-y")
    answers = read(found, found.replies)

    assert b"b" in {reply.target for reply in answers.stats.values()}
