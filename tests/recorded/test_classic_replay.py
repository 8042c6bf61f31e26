# SPDX-License-Identifier: MIT
"""
What the real programs said to each other, said to our own ends: the machines of the
dialog, the envelopes and the cipher byte for byte; the server and the client in what
they answer, ask and deliver. What was drawn at random then is drawn again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.client.classic import ClassicSession
from nodecomm.client.errors import Refused, UntrustedServer
from nodecomm.identity.counters import Counters
from nodecomm.identity.servers import ServerDecision
from nodecomm.testing import MemoryServer, memory_server
from nodecomm.wire.cipher import SessionCipher
from nodecomm.wire.classic import Challenge, encode_mpi, parse_cauth, parse_sauth
from nodecomm.wire.classic_dialog import (
    Accepted,
    Claimed,
    ClassicClientDialog,
    ClassicServerDialog,
    Countered,
    Denied,
    Introduced,
    SessionKeySent,
    WrongProof,
)
from nodecomm.wire.classic_stages import State
from nodecomm.wire.commands import parse_digest, parse_get, parse_opendir, parse_stat
from nodecomm.wire.errors import RemoteProtocolError
from nodecomm.wire.framing import TransactionBuffer, encode_transaction
from nodecomm.wire.replies import REFUSAL
from nodecomm.wire.sealed import (
    open_sealed,
    parse_sealed,
    seal_digest,
    seal_get,
    seal_opendir,
    seal_stat,
)
from tests.client.classic_scripted import ClassicPeer, ClassicPlace
from tests.client.scripted import Trusting
from tests.recorded import classic_names, key_pair, make_tree
from tests.recorded.opened import (
    Answers,
    Opened,
    digest,
    number,
    opened,
    read,
    unsealed,
)
from tests.recorded.test_classic_exchanges import REFUSED, UNFINISHED
from tests.server.test_replay import fixed

#: Those that go on to requests.
FINISHED = [name for name in classic_names() if name not in UNFINISHED]

#: Those in which every request is answered, by our server as by the real one.
SERVED = [name for name in FINISHED if name not in REFUSED]

Event = Claimed | Introduced | SessionKeySent | Accepted | Denied | Countered


def frames(payloads: list[bytes]) -> bytes:
    """
    Payloads as they were sent.
    """
    return b"".join(map(encode_transaction, payloads))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """
    *data* in pieces that end at *places*.
    """
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[at:end] for at, end in zip([0, *ends], ends, strict=False)]


class RealClient:
    """
    A recorded client at our machine of the server's end.
    """

    def __init__(self, found: Opened) -> None:
        self.found = found
        self.dialog = ClassicServerDialog()
        self.said = b""
        self.events: list[Event] = []

    def hear(self, pieces: list[bytes]) -> bytes:
        """
        Hear the client out, and decide as the real server did; what comes behind the
        dialog.
        """
        requests = b""
        for piece in pieces:
            self._take(self.dialog.receive_data(piece))
            if self.done:
                requests += self.dialog.trailing()
        return requests

    @property
    def done(self) -> bool:
        """
        Whether the dialog is over, and went well.
        """
        return self.dialog.state is State.DONE

    def _take(self, events: list[Claimed | Introduced | SessionKeySent]) -> None:
        found = self.found
        for event in events:
            self.events.append(event)
            if isinstance(event, Introduced) and found.answers[1:]:
                own = [number(answer) for answer in found.answers[3:]]
                self.said += self.dialog.accept(
                    on_trust=found.answers[0].startswith(b"OK: unknown"),
                    answer=digest(found.nonce),
                    counter=found.answers[2],
                    expected=digest(found.counter),
                    own=(own[0], own[1]) if own else None,
                )
                self._take(self.dialog.receive_data(b""))
            elif isinstance(event, Introduced):
                key = found.answers[:1] == [b"BAD: key could not be accepted on trust"]
                self.said += self.dialog.refuse(key=key)
            elif isinstance(event, SessionKeySent):
                self.dialog.established()


@pytest.mark.parametrize("name", classic_names())
@pytest.mark.parametrize("step", [1, 5, 4096])
def test_the_servers_end(name: str, step: int) -> None:
    """
    Our server's end reads every real client however its bytes are cut, and says what
    the real server said, byte for byte.
    """
    found = opened(name)
    sent = found.exchange.sent_by("client")
    client = RealClient(found)
    requests = client.hear([sent[at : at + step] for at in range(0, len(sent), step)])

    claimed, introduced, *rest = client.events
    claim = parse_cauth(found.dialog[0])
    assert claimed == Claimed(claim)
    assert claim.address == b"127.0.0.1"
    own = found.exchange.key("client").public
    assert introduced == Introduced(
        parse_sauth(found.dialog[1]), own.modulus, own.exponent
    )
    if found.answers[1:]:
        assert client.said == frames(found.answers)
    else:
        # The real server says something behind this, which the client left unread.
        assert client.said.startswith(frames(found.answers))
    if name in UNFINISHED:
        assert rest == []
        assert client.dialog.state in (State.REFUSED, State.AWAIT_ANSWER)
        return
    assert rest == [SessionKeySent(found.dialog[5])]
    assert client.dialog.state is State.DONE
    assert requests == frames(found.requests)


@pytest.mark.parametrize("name", ["classic/copy-n", "classic/copy-encrypted-y"])
def test_the_servers_end_at_every_cut(name: str) -> None:
    """
    Wherever the bytes of the dialog are cut in two, nothing changes.
    """
    found = opened(name)
    sent = frames([*found.dialog, *found.requests[:2]])
    for place in range(len(sent) + 1):
        client = RealClient(found)
        assert client.hear([sent[:place], sent[place:]]) == frames(found.requests[:2])
        assert client.said == frames(found.answers)


@settings(max_examples=100)
@given(st.sampled_from(FINISHED), st.lists(st.integers(0, 2000), max_size=8))
def test_the_servers_end_in_any_pieces(name: str, places: list[int]) -> None:
    """
    Nor does it wherever they are cut in many.
    """
    found = opened(name)
    client = RealClient(found)
    sent = frames([*found.dialog, *found.requests[:2]])

    assert client.hear(cut(sent, places)) == frames(found.requests[:2])
    assert client.said == frames(found.answers)


class RealServer:
    """
    A recorded server at our machine of the client's end.
    """

    def __init__(self, found: Opened) -> None:
        self.found = found
        own = found.exchange.key("client").public
        self.dialog = ClassicClientDialog(
            parse_cauth(found.dialog[0]),
            Challenge(found.form.encode(), found.dialog[1][24:], 37),
            own.modulus,
            own.exponent,
            digest(found.nonce),
        )
        self.events: list[Event] = []
        self.said = self.dialog.opening()

    def hear(self, pieces: list[bytes]) -> bytes:
        """
        Hear the server out, and answer as the real client did; what comes behind the
        dialog.
        """
        for at, piece in enumerate(pieces):
            self.events += self.dialog.receive_data(piece)
            if any(isinstance(event, Countered) for event in self.events):
                rest = b"".join(pieces[at + 1 :])
                if self.found.dialog[4:]:
                    answer = digest(self.found.counter)
                    self.said += self.dialog.answer(answer, self.found.dialog[5])
                    self.events += self.dialog.receive_data(rest)
                    return self.dialog.trailing()
                return rest
        return b""


@pytest.mark.parametrize("name", classic_names())
@pytest.mark.parametrize("step", [1, 5, 4096])
def test_the_clients_end(name: str, step: int) -> None:
    """
    Our client's end reads every real server however its bytes are cut, and says what
    the real client said, byte for byte.
    """
    found = opened(name)
    server = RealServer(found)
    # The real server says nothing more before the client has answered.
    dialog = frames(found.answers)
    pieces = [dialog[at : at + step] for at in range(0, len(dialog), step)]
    rest = server.hear([*pieces, found.replies] if found.dialog[4:] else pieces)

    assert server.said == frames(found.dialog)
    if found.answers[1:]:
        text = found.answers[0]
        theirs = found.exchange.key("server").public
        assert server.events == [
            Accepted(text, text.startswith(b"OK: unknown")),
            Countered(
                found.answers[2],
                (theirs.modulus, theirs.exponent) if found.form == "n" else None,
            ),
        ]
        assert rest == found.replies
    else:
        assert server.events == [Denied(answer) for answer in found.answers]


@pytest.mark.parametrize("name", ["classic/copy-n", "classic/copy-encrypted-y"])
def test_the_clients_end_at_every_cut(name: str) -> None:
    """
    Wherever the bytes of the dialog are cut in two, nothing changes.
    """
    found = opened(name)
    said = frames(found.answers)
    for place in range(len(said) + 1):
        server = RealServer(found)
        server.hear([said[:place], said[place:], found.replies])
        assert server.said == frames(found.dialog)


@pytest.mark.parametrize("name", FINISHED)
def test_a_server_with_another_key_proves_nothing(name: str) -> None:
    """
    The digest of another challenge is no proof, at the client's end.
    """
    found = opened(name)
    server = RealServer(found)
    with pytest.raises(WrongProof):
        server.dialog.receive_data(
            frames([found.answers[0], digest(b"another"), *found.answers[2:]])
        )


@pytest.mark.parametrize("name", FINISHED)
def test_a_client_with_another_key_proves_nothing(name: str) -> None:
    """
    The digest of another challenge is no proof, at the server's end.
    """
    found = opened(name)
    client = RealClient(found)
    with pytest.raises(RemoteProtocolError):
        client.hear([frames([*found.dialog[:4], digest(b"another"), found.dialog[5]])])


@pytest.mark.parametrize("name", FINISHED)
def test_envelopes(name: str) -> None:
    """
    Each envelope of the real client is opened to the request in clear, and what we put
    into one for that request is the same text.
    """
    found = opened(name)
    cipher = SessionCipher(found.session_key)
    for request in found.requests:
        clear = found.clear(request)
        if clear == request:
            continue
        word = clear.split()[0]
        assert open_sealed(parse_sealed(request), cipher) == clear
        if word == b"SYNCH":
            stat = parse_stat(clear)
            ours = seal_stat(stat.client_time, stat.path, cipher)
        elif word == b"OPENDIR":
            ours = seal_opendir(parse_opendir(clear).path, cipher)
        elif word == b"MD5":
            compared = parse_digest(clear)
            assert compared.digest is not None
            ours = seal_digest(compared.path, compared.digest, cipher)
        else:
            ours = seal_get(parse_get(clear).path, cipher)
        assert unsealed(found.session_key, ours[16:]) == unsealed(
            found.session_key, request[16:]
        )
        assert parse_sealed(ours).word == parse_sealed(request).word


@pytest.mark.parametrize(
    "name",
    [
        *("classic/blocks-encrypted", "classic/copy-encrypted-n"),
        *("classic/copy-encrypted-y", "classic/server-exponent-3"),
    ],
)
def test_the_cipher(name: str) -> None:
    """
    Our cipher makes of each file the frames that the real server made, and opens
    them.
    """
    found = opened(name)
    cipher = SessionCipher(found.session_key)
    answers = read(found, found.replies)
    assert answers.contents
    for place, content in answers.contents.items():
        ours = cipher.encrypt_blocks(content, last=True)
        assert ours in found.replies
        payloads, at = [], 0
        for size in answers.frames[place]:
            payloads.append(ours[at + 8 : at + 8 + size])
            at += 8 + size
        assert at == len(ours)
        assert b"".join(cipher.decrypt_joined(payloads)) == content


@pytest.fixture
def tree() -> Iterator[Path]:
    """
    Where to make the served tree.
    """
    folder = Path(tempfile.mkdtemp()).resolve()
    yield folder / "tree"
    shutil.rmtree(folder)


def served(found: Opened, tree: Path, **more: Any) -> MemoryServer:
    """
    Our server of the same tree, with the same key, at the time of the recording.
    """
    make_tree(tree, found.exchange.tree)
    server = memory_server(
        {
            "path": str(tree),
            "shortcut": found.exchange.shortcut,
            "admit_ips": ["127.0.0.1"],
            **more,
        },
        server={
            "allowlegacyconnects": ["127.0.0.1"],
            "trustusers": ["root", "nobody"],
        },
        key=found.exchange.key("server"),
    )
    times = [
        parse_stat(found.clear(request)).client_time
        for request in found.requests
        if found.clear(request).startswith(b"SYNCH")
    ]
    server.now = float(times[0])
    return server


def replayed(
    found: Opened, server: MemoryServer, pieces: list[bytes], patch: pytest.MonkeyPatch
) -> tuple[bytes, bytes]:
    """
    Say the client's bytes to our server; what it says in the dialog and afterwards.
    The client's own answers hold only for the counter-challenge that it got.
    """
    patch.setattr(Counters, "new", lambda _self, _random=None: found.counter)
    key = found.exchange.key("client")
    server.store.add(parse_cauth(found.dialog[0]).user.decode(), key.public)
    client = server.dial_classic(key=key)
    assert client is not None
    for piece in pieces:
        if not client.closed:
            client.send(piece)
    client.hang_up()
    said = client.received()
    buffer = TransactionBuffer()
    buffer.feed(said)
    # The counter-challenge is encrypted in another way each time, and the key may be
    # known or new, so only the number of answers is the same.
    for _ in found.answers:
        assert buffer.next_payload()
    dialog = len(said) - len(buffer)
    return said[:dialog], said[dialog:]


def pieces_of(found: Opened) -> list[bytes]:
    """
    What the client sent, as it was sent.
    """
    return [
        record.data
        for record in found.exchange.records
        if record.sender == "client" and record.data
    ]


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("whole", [False, True], ids=["as sent", "ahead"])
def test_our_server_answers_alike(
    name: str, whole: bool, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    To a real client's bytes, as it sent them or all at once, our server answers what
    the real server did; only what a file system gives itself differs.
    """
    found = opened(name)
    sent = pieces_of(found)
    if whole:
        sent = [frames(found.dialog[:4]), frames([*found.dialog[4:], *found.requests])]
    dialog, replies = replayed(found, served(found, tree), sent, monkeypatch)
    theirs, ours = read(found, found.replies), read(found, replies)

    assert frames([digest(found.nonce)]) in dialog
    if found.form == "n":
        key = found.exchange.key("server").public
        ends = frames([encode_mpi(key.modulus), encode_mpi(key.exponent)])
        assert dialog.endswith(ends)
    assert ours.contents == theirs.contents
    assert ours.frames == theirs.frames
    assert ours.words == theirs.words
    assert {place: sorted(names) for place, names in ours.listings.items()} == {
        place: sorted(names) for place, names in theirs.listings.items()
    }
    assert ours.stats.keys() == theirs.stats.keys()
    for place, reply in ours.stats.items():
        assert fixed(reply) == fixed(theirs.stats[place]), found.clear(
            found.requests[place]
        )


@pytest.mark.parametrize("name", ["classic/copy-n", "classic/copy-encrypted-y"])
def test_our_server_in_single_bytes(
    name: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Our server answers the same when each byte of the dialog and of the first requests
    comes alone.
    """
    found = opened(name)
    some = Opened(found.exchange, found.dialog, found.requests[:3], found.answers)
    sent = frames([*some.dialog, *some.requests])
    one_by_one = [sent[at : at + 1] for at in range(len(sent))]

    _, replies = replayed(some, served(found, tree), one_by_one, monkeypatch)

    ours, theirs = read(some, replies), read(found, found.replies)
    assert sorted(ours.stats) == [0, 2]
    for place, reply in ours.stats.items():
        assert fixed(reply) == fixed(theirs.stats[place])
    assert sorted(ours.listings[1]) == sorted(theirs.listings[1])


def answers_to(
    name: str, tree: Path, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> tuple[Opened, Answers]:
    """
    What our server answers to a recorded client.
    """
    found = opened(name)
    server = served(found, tree, **more)
    _, replies = replayed(found, server, pieces_of(found), monkeypatch)
    return found, read(found, replies)


@pytest.mark.parametrize(
    "name", ["classic/stat-refused", "classic/stat-refused-encrypted"]
)
def test_our_server_refuses_alike(
    name: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is not served is refused in the real server's words.
    """
    found, ours = answers_to(name, tree, monkeypatch)

    assert ours == read(found, found.replies)


def test_our_server_refuses_listings_alike(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is served encrypted only may be looked at, and is not listed.
    """
    found, ours = answers_to(
        "classic/opendir-refused", tree, monkeypatch, ifencrypted=True
    )
    theirs = read(found, found.replies)

    assert ours.words == theirs.words == {1: [REFUSAL]}
    assert ours.stats.keys() == theirs.stats.keys()


@pytest.mark.parametrize(
    "name", ["classic/get-refused", "classic/get-refused-encrypted"]
)
def test_our_server_refuses_earlier(
    name: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What a user may not read the real server shows, and refuses when it is asked for,
    twice; ours refuses it from the start, once each time.
    """
    found = opened(name)
    if os.geteuid() != 0:
        pytest.skip("the files belong to another user")
    server = served(found, tree)
    _, replies = replayed(found, server, pieces_of(found), monkeypatch)
    asked = [found.clear(request) for request in found.requests]
    stat = next(
        i for i, text in enumerate(asked) if text.endswith(b"STAT files/private")
    )

    assert asked[stat + 1].startswith(b"GET ")
    # Its status, and then its content.
    assert frames([REFUSAL, REFUSAL]) in replies
    assert replies.count(REFUSAL) == 2
    assert found.replies.count(REFUSAL) == 2


class RecordedServer:
    """
    A script: says what a real server said, and notes what our client asks.
    """

    def __init__(self, found: Opened) -> None:
        self.found = found
        # What we ask of what the real client asked: not the content of empty files.
        self.wanted = len(wanted(found))
        self.asked: list[bytes] = []
        self.answer = self.session_key = b""

    async def __call__(self, peer: ClassicPeer) -> None:
        """The whole connection."""
        opening = [await peer.request() for _ in range(4)]
        self.claim, self.challenge = parse_cauth(opening[0]), parse_sauth(opening[1])
        assert opening[2:] == self.found.dialog[2:4]
        peer.send(frames(self.found.answers))
        self.answer = await peer.request()
        self.session_key = await peer.request()
        while len(self.asked) < self.wanted:
            self.asked.append(await peer.request())
        peer.send(self.found.replies)


def wanted(found: Opened) -> list[bytes]:
    """
    The requests of a recorded client that have an answer, in clear.
    """
    clear = [found.clear(request) for request in found.requests]
    return [text for text in clear if text != b"GET 2048 files/empty"]


def drawn(*founds: Opened) -> Any:
    """
    Draws what the recorded clients drew.
    """
    kept = {
        16: [found.session_key for found in founds if not found.refused],
        32: [found.nonce[5:] for found in founds],
    }
    return lambda size: kept[size].pop(0) if kept.get(size) else os.urandom(size)


def ask(session: ClassicSession, found: Opened, kept: list[bytes]) -> list[Any]:
    """
    Ask a session all that a real client asked.
    """
    sizes = {
        parse_stat(found.clear(found.requests[place])).path: reply.size
        for place, reply in read(found, found.replies).stats.items()
    }
    asked: list[Any] = []
    for clear in wanted(found):
        word = clear.split()[0]
        if word == b"SYNCH":
            asked.append(session.stat(parse_stat(clear).path))
        elif word == b"OPENDIR":
            asked.append(session.opendir(parse_opendir(clear).path))
        elif word == b"MD5":
            compared = parse_digest(clear)
            assert compared.digest is not None
            asked.append(session.differs(compared.path, compared.digest))
        else:
            path = parse_get(clear).path
            asked.append(session.get(path, sizes[path], kept.append))
    return asked


def delivered(found: Opened) -> list[Any]:
    """
    What a session should deliver for what was recorded.
    """
    answers = read(found, found.replies)
    expected: list[Any] = []
    for place, request in enumerate(found.requests):
        if found.clear(request) == b"GET 2048 files/empty":
            continue
        if place in answers.stats:
            expected.append(answers.stats[place])
        elif place in answers.listings:
            names = answers.listings[place]
            expected.append([name for name in names if name not in (b".", b"..")])
        elif place in answers.contents:
            expected.append(None)
        else:
            expected.append(answers.words[place] == [b"CFD_TRUE"])
    return expected


@pytest.mark.parametrize("name", [name for name in SERVED if opened(name).form == "y"])
def test_our_client_is_told_the_same(name: str) -> None:
    """
    Our client challenges a real server as the real client did, asks it the same, and
    delivers what it said.
    """
    found = opened(name)
    server = RecordedServer(found)
    pair = found.exchange.key("server")
    encrypted = any(request.startswith(b"SS") for request in found.requests)
    place = ClassicPlace(
        server,
        pair=pair,
        trust=Trusting(None, pair.public),
        key=found.exchange.key("client"),
        encrypt=encrypted,
        random_bytes=drawn(found),
    )
    session = place.connect()
    session.window = 1000
    pieces: list[bytes] = []
    results = [place.result(each) for each in ask(session, found, pieces)]

    assert server.answer == found.dialog[4]
    assert server.challenge.form == b"y"
    again = Opened(found.exchange, [*found.dialog[:5], server.session_key])
    assert again.session_key == found.session_key
    assert results == delivered(found)
    assert b"".join(pieces) == b"".join(read(found, found.replies).contents.values())
    texts = [again.clear(request) for request in server.asked]
    assert [without_time(text) for text in texts] == [
        without_time(text) for text in wanted(found)
    ]


def without_time(text: bytes) -> bytes:
    """
    A request without the client's time in it.
    """
    words = text.split(b" ", 2)
    return b" ".join([words[0], words[2]]) if words[0] == b"SYNCH" else text


def test_our_client_asks_a_strange_server_for_its_key() -> None:
    """
    A real server that is not known is asked for its key, and then challenged with it
    on another connection; nothing is asked before.
    """
    strange, known = opened("classic/copy-n"), opened("classic/copy-y")
    first, second = RecordedServer(strange), RecordedServer(known)
    pair = known.exchange.key("server")
    place = ClassicPlace(
        first,
        second,
        pair=pair,
        trust=Trusting(None),
        key=known.exchange.key("client"),
        random_bytes=drawn(strange, known),
    )
    session = place.connect()
    session.window = 1000
    results = [place.result(each) for each in ask(session, known, [])]

    assert (first.challenge.form, second.challenge.form) == (b"n", b"y")
    assert first.challenge.data == strange.nonce
    assert first.answer == b""
    assert results == delivered(known)
    assert place.trust.asked


def test_our_client_does_not_believe_another_server() -> None:
    """
    A real server that has another key than the known one refuses our challenge. It is
    asked for the key that it has, proves it, and is not trusted with it; nothing is
    asked of it.
    """
    other = opened("classic/other-server")
    stranger = opened("classic/untrusted-server")
    found = opened("classic/copy-y")
    servers = [RecordedServer(each) for each in (other, stranger, found)]
    place = ClassicPlace(
        *servers,
        pair=found.exchange.key("server"),
        trust=Trusting(
            ServerDecision(False, "key-changed", "another key"),
            key_pair("other").public,
        ),
        key=found.exchange.key("client"),
        random_bytes=drawn(other, stranger, found),
    )
    refused = place.refused()

    assert isinstance(refused, UntrustedServer)
    assert refused.code == "key-changed"
    assert [server.challenge.form for server in servers] == [*(b"y", b"n", b"y")]
    assert [server.asked for server in servers] == [[], [], []]


def test_our_client_is_refused() -> None:
    """
    What a real server refuses is refused here, and a refused content ends the
    connection of an encrypted session.
    """
    for name in ("classic/stat-refused", "classic/stat-refused-encrypted"):
        found = opened(name)
        pair = found.exchange.key("server")
        place = ClassicPlace(
            RecordedServer(found),
            pair=pair,
            trust=Trusting(None, pair.public),
            key=found.exchange.key("client"),
            encrypt="encrypted" in name,
            random_bytes=drawn(found),
        )
        session = place.connect()
        asked = session.stat(parse_stat(wanted(found)[0]).path)

        assert isinstance(place.failure(asked), Refused)
