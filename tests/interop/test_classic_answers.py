# SPDX-License-Identifier: MIT
"""
What a server answers to each command of the classic protocol, in clear and encrypted,
byte for byte, and whether it goes on afterwards: the same from the real server and
from nodecomm.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from nodecomm.identity.keys import KeyPair, PublicKey
from tests.interop.classicpeer import ClassicPeer, encrypted_to, mpi, new_nonce, sauth
from tests.interop.conftest import ClassicShares
from tests.interop.harness import Server
from tests.interop.rawpeer import Closed, RawPeer, context, frame
from tests.interop.trees import content
from tests.recorded import key_pair
from tests.recorded.opened import digest

REFUSAL = b"BAD: Unspecified server refusal (see verbose server output)"
DENIED = b"BAD: Request denied"
TERMINATOR = b"---cfXen/gine/cfXen/gine---"


@pytest.fixture(scope="session")
def key(classic_server: Server) -> KeyPair:
    """
    A key that the server trusts.
    """
    with ClassicPeer(classic_server.port, key_pair("other"), theirs()) as peer:
        peer.dialog()
    return key_pair("other")


def theirs() -> PublicKey:
    """
    The key of every server here.
    """
    return key_pair("server").public


@pytest.fixture
def peer(classic_server: Server, key: KeyPair) -> Iterator[ClassicPeer]:
    """
    A peer that has been welcomed.
    """
    with ClassicPeer(classic_server.port, key, theirs()) as made:
        yield made.dialog()


def goes_on(peer: ClassicPeer) -> bool:
    """
    Whether the server still answers.
    """
    try:
        peer.say(b"VERSION")
        return peer.transaction().startswith(b"OK: ")
    except Closed:
        return False


def now() -> bytes:
    """
    The time as a request has it.
    """
    return b"%d" % time.time()


@pytest.mark.parametrize("form", ["n", "y"])
@pytest.mark.parametrize("step", [1, 7, 100, 10_000])
def test_the_dialog_in_pieces(
    classic_server: Server, key: KeyPair, form: str, step: int
) -> None:
    """
    However the bytes are cut, even the first, the dialog is the same; the end of it
    and requests may come together.
    """
    with ClassicPeer(classic_server.port, key, theirs()) as peer:
        opening = b"".join(map(frame, peer.opening(form)))
        for at in range(0, len(opening), step):
            peer.send(opening[at : at + step])
            if step == 1 and at < 20:
                time.sleep(0.001)
        counter = peer.welcomed(form)
        peer.say(*peer.closing(counter), b"VERSION", b"VERSION")

        assert peer.transaction().startswith(b"OK: 3.")
        assert peer.transaction().startswith(b"OK: 3.")


@pytest.mark.parametrize("edition", ["", " c", " N", " c more"])
def test_editions(classic_server: Server, key: KeyPair, edition: str) -> None:
    """
    A client may leave its edition out, and a name of another changes nothing; nor does
    a word more at the real server, which ours refuses.
    """
    with ClassicPeer(classic_server.port, key, theirs()) as peer:
        opening = peer.opening("n")
        text = f"SAUTH n 37 37{edition}".encode()
        opening[1] = text.ljust(24, b"\0") + peer.nonce
        peer.say(*opening)
        if edition == " c more" and classic_server.kind == "nodecomm":
            assert peer.rest() in (b"", frame(REFUSAL))
            return
        peer.say(*peer.closing(peer.welcomed("n")))
        assert goes_on(peer)


def test_a_longer_answer_to_the_counter_challenge(
    classic_server: Server, key: KeyPair
) -> None:
    """
    Of a longer answer the first 16 bytes count.
    """
    with ClassicPeer(classic_server.port, key, theirs()) as peer:
        peer.say(*peer.opening())
        proof, session_key = peer.closing(peer.welcomed())
        peer.say(proof + b"and more", session_key)
        assert goes_on(peer)


def broken_openings(peer: ClassicPeer) -> dict[str, list[bytes]]:
    """
    Openings with something wrong in them.
    """
    claim, challenge, modulus, exponent = peer.opening("n")
    nonce = challenge[24:]
    return {
        "no claim": [claim.replace(b"CAUTH", b"CAUTX"), challenge, modulus, exponent],
        "three words": [b"CAUTH 127.0.0.1 localhost", challenge, modulus, exponent],
        "slash": [claim.replace(b"root", b"ro/ot"), challenge, modulus, exponent],
        "backslash": [claim.replace(b"root", b"ro\\ot"), challenge, modulus, exponent],
        "long user": [claim.replace(b"root", b"r" * 256), challenge, modulus, exponent],
        "no challenge": [claim, b"VERSION"],
        "request": [claim, b"SYNCH 1 STAT files"],
        "sizes differ": [claim, sauth("n", nonce, 36), modulus, exponent],
        "too short": [claim, sauth("n", nonce)[:-1], modulus, exponent],
        "empty": [claim, sauth("n", b"", 0), modulus, exponent],
        "three numbers": [
            claim,
            b"SAUTH n 37".ljust(24, b"\0") + nonce,
            modulus,
            exponent,
        ],
        "modulus is no number": [claim, challenge, b"\0\0\0\x05abc", exponent],
        "even exponent": [claim, challenge, modulus, mpi(65536)],
    }


BROKEN = (
    *("no claim", "three words", "slash", "backslash", "long user", "no challenge"),
    *("request", "sizes differ", "too short", "empty", "three numbers"),
    *("modulus is no number", "even exponent"),
)


#: What of it the real server takes.
TAKEN = ("three words", "long user", "even exponent")


@pytest.mark.parametrize("what", BROKEN)
def test_broken_openings(classic_server: Server, key: KeyPair, what: str) -> None:
    """
    An opening with a mistake is refused and the connection closed. The refusal may be
    lost when the server closes with bytes unread. The real server takes some of the
    mistakes; ours takes none.
    """
    with ClassicPeer(classic_server.port, key, theirs()) as peer:
        openings = broken_openings(peer)
        assert tuple(openings) == BROKEN
        peer.say(*openings[what])

        if classic_server.kind == "cf-serverd" and what in TAKEN:
            assert peer.transaction().startswith(b"OK: ")
            return
        refused = frame(REFUSAL)
        if what == "even exponent":
            refused = frame(b"BAD: key could not be accepted on trust") + refused
        assert peer.rest() in (b"", refused), what


@pytest.mark.parametrize("wrong", ["proof", "short", "key of 15", "key of 17"])
def test_broken_ends(classic_server: Server, key: KeyPair, wrong: str) -> None:
    """
    A wrong answer to the counter-challenge, or a session key of another size, earns
    no answer to any request.
    """
    with ClassicPeer(classic_server.port, key, theirs()) as peer:
        peer.say(*peer.opening())
        proof, session_key = peer.closing(peer.welcomed())
        if wrong == "proof":
            proof = digest(new_nonce())
        elif wrong == "short":
            proof = proof[:15]
        else:
            size = int(wrong.rsplit(maxsplit=1)[-1])
            session_key = encrypted_to(theirs(), os.urandom(size))
        peer.say(proof, session_key)
        if wrong.startswith("key") and classic_server.kind == "nodecomm":
            # Nothing tells it from a right one; but nothing can be read either.
            peer.say(peer.encrypted("SOPENDIR", b"OPENDIR files/empty\0"))
            payload = peer.transaction()
            assert payload == REFUSAL
            return

        assert peer.rest() in (b"", frame(REFUSAL))


#: The digest of the file of 67 bytes, and one of no file.
SAME = digest(content(67))
OTHER = digest(b"other")

#: Requests in clear that have one frame for an answer, how it begins, and whether the
#: server goes on.
PLAIN = [
    (b"VERSION", b"OK: 3.", True),
    (b"VERSION x", b"OK: 3.", True),
    (b"VERSIONX", DENIED, False),
    (b"version", DENIED, False),
    (b"SYNCH {now} STAT files/nonesuch", REFUSAL, True),
    (b"SYNCH {now} STAT /etc/passwd", REFUSAL, True),
    (b"SYNCH {now} STAT ./files", REFUSAL, True),
    (b"SYNCH {now} STAT files/sizes/67/", REFUSAL, True),
    # The real server's test squares the difference and overflows: it takes some of
    # the larger ones.
    (b"SYNCH {past} STAT files", b"BAD: Clocks are too far unsynchronized ", True),
    (b"SYNCH x STAT files", DENIED, False),
    (b"SYNCH {now} STAT", DENIED, False),
    (b"SYNCH", DENIED, False),
    (b"GET 2048 files/nonesuch", REFUSAL, True),
    (b"GET -1 files/sizes/67", REFUSAL, False),
    (b"GET 4097 files/sizes/67", REFUSAL, False),
    (b"OPENDIR files/nonesuch", REFUSAL, False),
    (b"OPENDIR files/sizes/67", b"BAD: cfengine, couldn't open dir ", True),
    (b"MD5 files/sizes/67\0\0" + SAME, b"CFD_FALSE", True),
    (b"MD5 files/sizes/67\0\0" + OTHER, b"CFD_TRUE", True),
    (b"MD5 files/empty\0\0" + SAME, b"CFD_TRUE", True),
    (b"MD5 files/nonesuch\0\0" + SAME, REFUSAL, True),
    (b"VAR nonesuch", REFUSAL, False),
    (b"CONTEXT nonesuch", REFUSAL, False),
    (b"QUERY delta", DENIED, False),
    (b"COOKIE", DENIED, False),
    (b"AUTH", DENIED, False),
    (b"CLASSES", DENIED, False),
    (b"NOSUCHWORD", DENIED, False),
    # The real server says the refusal.
    (b"SAUTH n 37 37 c", b"BAD: ", False),
]


@pytest.mark.parametrize(
    ("request_", "answer", "kept"), PLAIN, ids=[str(row[0])[2:40] for row in PLAIN]
)
def test_requests_in_clear(
    peer: ClassicPeer, request_: bytes, answer: bytes, kept: bool
) -> None:
    """
    The answer begins so, is one frame, and the connection is kept or closed.
    """
    past = b"%d" % (time.time() - 4000)
    peer.say(request_.replace(b"{now}", now()).replace(b"{past}", past))

    assert peer.transaction().startswith(answer)
    assert goes_on(peer) == kept


def test_a_file_asked_as_a_folder(
    peer: ClassicPeer, classic_shares: ClassicShares
) -> None:
    """
    The answer names what was asked for, a shortcut expanded; the real server puts one
    slash more behind that.
    """
    folder = os.fsencode(classic_shares.files)
    for name in (b"files/sizes/67", folder + b"/sizes/67", b"files/./sizes/67"):
        peer.say(b"OPENDIR " + name)

        full = folder + b"/" + name.partition(b"/")[2] if name[:1] != b"/" else name
        said = peer.transaction().replace(b"//", b"/")
        assert said == b"BAD: cfengine, couldn't open dir " + full


@pytest.mark.parametrize("request_", [b"GET", b"OPENDIR", b"MD5"])
def test_requests_without_an_argument(peer: ClassicPeer, request_: bytes) -> None:
    """
    The real server closes without a word; a word is no harm.
    """
    peer.say(request_)

    assert peer.rest() in (b"", frame(DENIED), frame(REFUSAL))


#: Encrypted commands with what is in them, how the answer begins, whether the answer
#: is encrypted, and whether the server goes on.
SEALED = [
    ("SSYNCH", b"SYNCH {now} STAT files/nonesuch\0", "", REFUSAL, False, True),
    ("SSYNCH", b"SYNCH x STAT files\0", "", DENIED, False, False),
    ("SOPENDIR", b"OPENDIR files/nonesuch\0", "", REFUSAL, False, False),
    (
        *("SOPENDIR", b"OPENDIR files/sizes/67\0", ""),
        *(b"BAD: cfengine, couldn't open dir ", True, True),
    ),
    ("SMD5", b"MD5 files/sizes/67\0\0" + SAME, "", b"CFD_FALSE", False, True),
    ("SMD5", b"MD5 files/sizes/67\0\0" + OTHER, "", b"CFD_TRUE", False, True),
    ("SMD5", b"MD5 files/nonesuch\0\0" + SAME, "", REFUSAL, False, True),
    ("SGET", b"GET dummykey files/nonesuch\0", " 2048", REFUSAL, False, False),
    ("SGET", b"GET dummykey files/sizes/67\0", " -5", REFUSAL, False, False),
    ("SGET", b"GET dummykey files/sizes/67\0", " 2048", content(67), True, True),
    ("SGET", b"GET dummykey files/sizes/67\0", " 0", content(67), True, True),
    ("SGET", b"GET dummykey files/sizes/67\0", " 4096", content(67), True, True),
    ("SGET", b"GET dummykey files/sizes/67\0", "", content(67), True, True),
    ("SGET", b"GET dummykey files/sizes/67\0", " x", content(67), True, True),
    ("SVAR", b"VAR nonesuch\0", "", REFUSAL, False, False),
    ("SCONTEXT", b"CONTEXT nonesuch\0", "", REFUSAL, False, False),
    ("SQUERY", b"QUERY delta\0", "", REFUSAL, False, False),
]


@pytest.mark.parametrize(
    ("word", "clear", "block", "answer", "opened", "kept"),
    SEALED,
    ids=[f"{row[0]}{row[2]} {row[1][:32]!r}" for row in SEALED],
)
def test_encrypted_requests(
    peer: ClassicPeer,
    word: str,
    clear: bytes,
    block: str,
    answer: bytes,
    opened: bool,
    kept: bool,
) -> None:
    """
    The answer begins so, encrypted or not, and the connection is kept or closed.
    """
    peer.say(peer.encrypted(word, clear.replace(b"{now}", now()), block))

    payload = peer.transaction()
    assert (peer.opened(payload) if opened else payload).startswith(answer)
    assert goes_on(peer) == kept


#: What an envelope's mistakes lead to: whether the server goes on after a length that
#: is not that of the ciphertext, and after a ciphertext that says another word.
ENVELOPES = {
    "SSYNCH": (False, True),
    "SOPENDIR": (False, True),
    "SGET": (False, True),
    "SMD5": (True, False),
    "SVAR": (True, False),
    "SCONTEXT": (True, False),
    "SQUERY": (True, False),
    "SCALLBACK": (True, False),
}


@pytest.mark.parametrize("word", ENVELOPES)
@pytest.mark.parametrize(
    "mistake", ["longer", "shorter", "negative", "bare", "word", "garbage", "odd", "0"]
)
def test_envelopes(peer: ClassicPeer, word: str, mistake: str) -> None:
    """
    An envelope that is wrong, and a ciphertext that is, are refused; which of them
    end the connection depends on the command.
    """
    block = " 2048" if word == "SGET" else ""
    whole = peer.encrypted(word, b"XYZ nothing that there is\0", block)
    payload = {
        "longer": whole + b"x",
        "shorter": whole[:-1],
        "negative": f"{word} -1{block}\0".encode().ljust(16, b"x"),
        "bare": word.encode(),
        "word": whole,
        "garbage": f"{word} 16{block}\0".encode().ljust(16, b"x") + b"z" * 16,
        "odd": f"{word} 15{block}\0".encode().ljust(16, b"x") + b"z" * 15,
        "0": f"{word} 0{block}\0".encode().ljust(16, b"x"),
    }[mistake]
    by_length = mistake in ("longer", "shorter", "negative", "bare")

    peer.say(payload)

    if word != "SCALLBACK":
        assert peer.transaction() == REFUSAL
    assert goes_on(peer) == ENVELOPES[word][0 if by_length else 1]


def test_a_payload_of_nothing_is_ignored(peer: ClassicPeer) -> None:
    """
    A request that begins with a NUL has no answer.
    """
    peer.say(b"\0", b"\0VERSION")

    assert goes_on(peer)


#: What links are said to be: type, permissions, permissions of the link, size, text.
LINKS = [
    (b"to-file", 0, 0o644, 0o777, 11, b"target"),
    (b"short", 0, 0o644, 0o777, 24, b"t"),
    (b"to-folder", 2, 0o755, 0o777, None, b"../a"),
    (b"to-folder/", 2, 0o755, 0, None, b""),
    (b"dangling", 1, 0o777, 0o777, 19, b"nowhere/to/be/found"),
    (b"target", 0, 0o644, 0, 11, b""),
]


@pytest.mark.parametrize("word", ["SYNCH", "SSYNCH"])
@pytest.mark.parametrize(
    ("name", "kind", "mode", "link_mode", "size", "target"),
    LINKS,
    ids=[row[0].decode() for row in LINKS],
)
def test_links(
    peer: ClassicPeer,
    classic_shares: ClassicShares,
    word: str,
    name: bytes,
    kind: int,
    mode: int,
    link_mode: int,
    size: int | None,
    target: bytes,
) -> None:
    """
    A link has type, permissions, owner, size and times of what it leads to, its own
    permissions, number, number of names and device, and its text; also when the text
    is one character.
    """
    clear = b"SYNCH %b STAT files/links/%b" % (now(), name)
    peer.say(clear if word == "SYNCH" else peer.encrypted(word, clear + b"\0"))
    first, second = peer.transaction(), peer.transaction()
    path = classic_shares.files / "links" / os.fsdecode(name)
    led = path.stat() if path.exists() else path.lstat()
    own = path.stat() if name.endswith(b"/") else path.lstat()

    numbers = [int(word) for word in first.removeprefix(b"OK: ").split()]
    assert numbers[:3] == [kind, mode, link_mode]
    assert numbers[3:5] == [led.st_uid, led.st_gid]
    assert numbers[5] == (led.st_size if size is None else size)
    assert numbers[7:9] == [int(led.st_mtime), int(led.st_ctime)]
    assert numbers[11] == own.st_nlink
    assert second == b"OK:" + target


@pytest.mark.parametrize("size", [1, 7, 8, 4063, 4064, 4065, 16384, 100_000])
def test_encrypted_files(
    peer: ClassicPeer, classic_shares: ClassicShares, size: int
) -> None:
    """
    A file comes in blocks of 4,064 bytes, each encrypted alone; the frame of the last
    says so.
    """
    tree, name = classic_shares.folder()
    (tree / "file").write_bytes(content(size))
    peer.say(peer.encrypted("SGET", f"GET dummykey {name}/file\0".encode(), " 2048"))

    frames = peer.frames()

    blocks = [peer.opened(payload) for _, payload in frames]
    assert b"".join(blocks) == content(size)
    assert [len(block) for block in blocks[:-1]] == [4064] * ((size - 1) // 4064)
    assert [status for status, _ in frames] == ["m"] * (len(frames) - 1) + ["t"]
    assert goes_on(peer)


@pytest.mark.parametrize("block", [0, 1, 2048, 4096])
def test_files_in_clear(peer: ClassicPeer, block: int) -> None:
    """
    A file comes as it is, whatever block is asked for; the next answer follows.
    """
    peer.say(
        b"GET %d files/sizes/100000" % block,
        b"GET %d files/sizes/0" % block,
        b"VERSION",
    )

    assert peer.exactly(100_000) == content(100_000)
    assert peer.transaction().startswith(b"OK: 3.")


@pytest.mark.parametrize("encrypted", [False, True])
def test_listings(
    peer: ClassicPeer, classic_shares: ClassicShares, encrypted: bool
) -> None:
    """
    A listing has every name once and the terminator; each packet of an encrypted one
    is encrypted alone.
    """
    tree, name = classic_shares.folder()
    for number in range(300):
        (tree / f"{number:03d}-{'n' * (number % 60)}").touch()
    clear = f"OPENDIR {name}".encode()
    peer.say(peer.encrypted("SOPENDIR", clear + b"\0") if encrypted else clear)

    packets = [payload for _, payload in peer.frames()]

    if encrypted:
        packets = [peer.opened(packet) for packet in packets]
    assert len(packets) > 2
    assert all(packet.endswith(b"\0\0") for packet in packets)
    assert all(len(packet) <= 3841 for packet in packets[:-1])
    names = [part for packet in packets for part in packet[:-1].split(b"\0")[:-1]]
    assert names[-1] == TERMINATOR
    assert sorted(names[:-1]) == sorted(
        [b".", b"..", *(os.fsencode(entry.name) for entry in tree.iterdir())]
    )
    assert goes_on(peer)


def test_everything_ahead(peer: ClassicPeer) -> None:
    """
    Two hundred requests that come at once, encrypted and not, are answered in order.
    """
    for _ in range(40):
        peer.say(
            peer.encrypted("SSYNCH", b"SYNCH %b STAT files/sizes/67\0" % now()),
            peer.encrypted("SGET", b"GET dummykey files/sizes/67\0", " 2048"),
            b"GET 2048 files/sizes/67",
            peer.encrypted("SMD5", b"MD5 files/sizes/67\0\0" + SAME),
            b"MD5 files/sizes/67\0\0" + OTHER,
        )
    for _ in range(40):
        assert peer.transaction().startswith(b"OK: 0 420 0 ")
        assert peer.transaction() == b"OK:"
        assert peer.opened(peer.transaction()) == content(67)
        assert peer.exactly(67) == content(67)
        assert peer.transaction() == b"CFD_FALSE"
        assert peer.transaction() == b"CFD_TRUE"


def test_tls_and_classic_at_the_same_time(
    classic_server: Server, peer: ClassicPeer
) -> None:
    """
    One port serves both at the same time, the same key in both; links show only in
    one of them.
    """
    with RawPeer(classic_server.port, context(key_pair("other"))) as secure:
        secure.handshake().dialog()
        for _ in range(3):
            assert secure.stat(b"files/links/to-file").startswith(b"OK: 0 420 0 ")
            assert peer.stat(b"files/links/to-file").startswith(b"OK: 0 420 511 ")
