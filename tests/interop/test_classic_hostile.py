# SPDX-License-Identifier: MIT
"""
Classic peers that lie, stop, flood or wait, against the server's own process. Each
costs at most its own connection; everyone else is served, over both protocols.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.interop.classicpeer import ClassicPeer, encrypted_to, mpi, sauth
from tests.interop.harness import config_for, wait_until
from tests.interop.prepared import PreparedServer
from tests.interop.rawpeer import Closed, RawPeer, context, frame
from tests.interop.test_hostile import IMPATIENT, PATIENT, TRIALS
from tests.interop.trees import big_file
from tests.recorded import key_pair
from tests.recorded.opened import sealed

SERVER, NODE = key_pair("server"), key_pair("client")

REFUSAL = b"BAD: Unspecified server refusal (see verbose server output)"

#: Bytes of the file that takes long.
BIG = 100_000_000

#: Bytes of memory that a burst of peers may cost the server while it lasts.
FLAT = 30_000_000


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    What is served: a small file, a big one, and a folder of many names.
    """
    path = tmp_path_factory.mktemp("hostile") / "tree"
    (path / "many").mkdir(parents=True)
    (path / "file").write_bytes(b"content\n")
    big_file(path / "big", BIG)
    for number in range(1000):
        (path / "many" / f"{number:04}-{'n' * 200}").touch()
    return path


@pytest.fixture(scope="module")
def server(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PreparedServer]:
    """
    The server of all tests that leave it running. At the end it has made no mistake.
    """
    folder = tmp_path_factory.mktemp("server")
    settings = config_for({"tree": tree}, classic=True) + PATIENT
    with PreparedServer(folder / "server", settings, key=SERVER) as made:
        # Trusted from here on.
        with dial(made) as peer:
            peer.dialog()
            assert peer.stat(b"tree/file").startswith(b"OK:")
        yield made
        made.check()


@pytest.fixture(scope="module")
def impatient(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PreparedServer]:
    """
    A server that soon gives peers up.
    """
    folder = tmp_path_factory.mktemp("impatient")
    settings = config_for({"tree": tree}, classic=True) + IMPATIENT
    with PreparedServer(folder / "server", settings, key=SERVER) as made:
        yield made
        made.check()


@pytest.fixture
def others(server: PreparedServer) -> Iterator[tuple[ClassicPeer, RawPeer]]:
    """
    Decent peers of both protocols, connected before whatever happens, and served
    after it.
    """
    with dial(server) as classic, RawPeer(server.port, context(NODE)) as secure:
        classic.dialog()
        secure.handshake().dialog()
        yield classic, secure
        for peer in (classic, secure):
            assert peer.stat(b"tree/file").startswith(b"OK:")


def dial(server: PreparedServer, receive_buffer: int = 0) -> ClassicPeer:
    """
    A peer that has said nothing yet.
    """
    return ClassicPeer(server.port, NODE, SERVER.public, receive_buffer=receive_buffer)


STAGES = ("claim", "challenge", "modulus", "exponent", "proof", "key", "session")


def bring(peer: ClassicPeer, stage: str) -> None:
    """
    Say all that comes before *stage*.
    """
    opening = peer.opening()
    place = STAGES.index(stage)
    if place < 4:
        peer.say(*opening[:place])
        return
    peer.say(*opening)
    closing = peer.closing(peer.welcomed())
    peer.say(*closing[: place - 4])


def garbage(peer: ClassicPeer) -> list[bytes]:
    """
    What makes no sense at any stage, or only at another one.
    """
    claim, challenge, modulus, exponent = peer.opening("n")
    return [
        b"t",
        b"t 5\0\0\0\0\0",
        b"x 5\0\0\0\0\0hello",
        b"t 0\0\0\0\0\0",
        b"t -5\0\0\0\0hello",
        b"t 4089\0\0" + b"x" * 4089,
        b"m 99999999999999",
        b"\n" * 3000,
        frame(b"\0"),
        frame(b"NOSUCHWORD at all"),
        frame(b"SGET 8 2048\0\0\0\0\0" + b"\xff" * 8),
        frame(b"SSYNCH 99999999999"),
        frame(sauth("y", b"\xff" * 256)),
        frame(sauth("n", b"\0" * 512, 512)),
        frame(mpi(1)),
        frame(b"\xff\xff\xff\xff" + b"\1" * 100),
        frame(b"%n%s" * 500),
        frame(claim) + frame(claim),
        frame(challenge) * 3,
        frame(modulus) * 3 + frame(exponent),
        *(random.Random(seed).randbytes(3000) for seed in range(4)),
        b"t " + random.Random(9).randbytes(3000),
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_garbage(
    server: PreparedServer, others: tuple[ClassicPeer, RawPeer], stage: str
) -> None:
    """
    Garbage at every stage: the connection ends or the garbage is refused, and nothing
    else happens.
    """
    for number in range(len(garbage(others[0]))):
        with dial(server) as peer:
            bring(peer, stage)
            with contextlib.suppress(Closed, OSError):
                peer.send(garbage(peer)[number])
                peer.socket.shutdown(1)
            said = peer.rest()
            # A TLS alert, where the first byte was that of TLS.
            assert said[:1] in (b"", b"\x15") or said[8:13] in (b"BAD: ", b"OK: k"), (
                garbage(peer)[number],
                said,
            )


def test_frames_in_pieces(
    server: PreparedServer, others: tuple[ClassicPeer, RawPeer]
) -> None:
    """
    An envelope may take its time; it is answered when it is whole. A peer that goes in
    the middle is forgotten.
    """
    for cut in (1, 7, 8, 9, 20, 30):
        with dial(server) as peer:
            peer.dialog()
            request = frame(peer.encrypted("SOPENDIR", b"OPENDIR tree\0"))
            peer.send(request[:cut])
            assert others[1].stat(b"tree/file").startswith(b"OK:")
            assert not peer.closed
            peer.send(request[cut:])
            assert b"file\0" in peer.opened(peer.transaction())
        with dial(server) as peer:
            peer.dialog()
            peer.send(request[:cut])


def test_peers_that_stop(impatient: PreparedServer) -> None:
    """
    Peers that say nothing more, at whatever stage of the dialog, are given up; the log
    says at which limit.
    """
    with contextlib.ExitStack() as stack:
        peers = {}
        for stage in STAGES[:-1]:
            for _ in range(TRIALS):
                peers[stage] = stack.enter_context(dial(impatient))
                # On a busy machine it may be given up before it has come so far.
                with contextlib.suppress(Closed):
                    bring(peers[stage], stage)
                    break
        for stage, peer in peers.items():
            assert peer.rest() == b"", stage
    for limit in ("nothing came in time", "dialog_timeout"):
        wait_until(partial(_told, impatient, limit), limit)


def _told(server: PreparedServer, what: str) -> bool:
    return what in server.logs()


def test_a_dialog_without_end(impatient: PreparedServer) -> None:
    """
    A peer whose dialog comes byte by byte, too slowly, is given up as well.
    """
    with dial(impatient) as peer:
        data = frame(b"CAUTH 127.0.0.1 localhost root 0") + b"t 4000\0\0" + b"x" * 4000
        with contextlib.suppress(Closed):
            for byte in data:
                peer.send(bytes([byte]))
                if peer.closed:
                    break
                time.sleep(0.02)
            else:
                raise AssertionError("it was let go on")
        assert peer.rest() == b""


def test_requests_before_the_end_of_the_dialog(
    server: PreparedServer, others: tuple[ClassicPeer, RawPeer]
) -> None:
    """
    A peer that floods before it is let in is not kept in memory; one that sends its
    requests ahead is served.
    """
    before = server.resident
    with dial(server) as peer:
        peer.say(*peer.opening())
        counter = peer.welcomed()
        peer.say(*peer.closing(counter), *[b"VERSION"] * 2000)
        for _ in range(2000):
            assert peer.transaction().startswith(b"OK: 3.")
    with dial(server) as peer:
        with contextlib.suppress(Closed):
            peer.say(*peer.opening())
            peer.socket.settimeout(1)
            for _ in range(2000):
                peer.send(frame(b"x" * 4000) * 10)
        assert others[0].stat(b"tree/file").startswith(b"OK:")

    assert server.resident - before < FLAT


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_peers_that_never_read(
    server: PreparedServer, others: tuple[ClassicPeer, RawPeer], encrypted: bool
) -> None:
    """
    Twelve peers ask for 100 MB, some more than once, and read nothing: the server's
    memory stays flat, and others are served.
    """
    before = server.resident
    with contextlib.ExitStack() as stack:
        for number in range(12):
            peer = stack.enter_context(dial(server, 4096))
            peer.dialog()
            request = b"GET 2048 tree/big"
            if encrypted:
                request = peer.encrypted("SGET", b"GET dummykey tree/big\0", " 2048")
            peer.say(*[request] * (1 + number % 5))
        most = 0
        for _ in range(60):
            for other in others:
                assert other.stat(b"tree/file").startswith(b"OK:")
            most = max(most, server.resident - before)
            time.sleep(0.01)

    assert most < FLAT


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_peer_that_asks_and_never_reads(
    server: PreparedServer, others: tuple[ClassicPeer, RawPeer], encrypted: bool
) -> None:
    """
    A peer that sends requests without end and reads no answer is not read any more:
    memory stays flat, and its own writes stand still.
    """
    before = server.resident
    with dial(server, 4096) as peer:
        peer.dialog()
        request = b"OPENDIR tree/many"
        if encrypted:
            request = peer.encrypted("SOPENDIR", request + b"\0")
        requests = frame(request) * 300
        peer.socket.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 50_000_000:
                sent += peer.socket.send(requests)
        for other in others:
            assert other.stat(b"tree/file").startswith(b"OK:")

    assert sent < 50_000_000
    assert server.resident - before < FLAT


def test_peers_that_go_while_they_are_worked_for(
    server: PreparedServer, others: tuple[ClassicPeer, RawPeer]
) -> None:
    """
    Peers that go right after asking, at every stage, leave no descriptor open.
    """
    before = len(server.descriptors)
    for _ in range(10):
        for stage in STAGES:
            with dial(server) as peer:
                bring(peer, stage)
                if stage == "session":
                    peer.say(
                        peer.encrypted("SGET", b"GET dummykey tree/big\0", " 2048"),
                        b"GET 2048 tree/big",
                    )
    wait_until(lambda: len(server.descriptors) <= before, "closed descriptors")


def test_many_challenges_at_once(
    server: PreparedServer, others: tuple[ClassicPeer, RawPeer]
) -> None:
    """
    While a hundred peers want RSA done for them others are served, and then each of
    them gets its answer.
    """
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(dial(server)) for _ in range(100)]
        openings = [b"".join(map(frame, peer.opening())) for peer in peers]
        for peer, opening in zip(peers, openings, strict=True):
            peer.send(opening)
        for other in others:
            assert other.stat(b"tree/file").startswith(b"OK:")
        for peer in peers:
            peer.say(*peer.closing(peer.welcomed()), b"VERSION")
        for peer in peers:
            assert peer.transaction().startswith(b"OK: 3.")


def test_a_session_key_for_nobody(
    server: PreparedServer, others: tuple[ClassicPeer, RawPeer]
) -> None:
    """
    A session key that cannot be read is answered like one that can: nothing shows but
    that no envelope holds what it says.
    """
    for wrong in (
        os.urandom(256),
        b"\0" * 256,
        b"\xff" * 256,
        encrypted_to(SERVER.public, os.urandom(15)),
        encrypted_to(NODE.public, os.urandom(16)),
    ):
        with dial(server) as peer:
            peer.say(*peer.opening())
            proof, _ = peer.closing(peer.welcomed())
            peer.say(proof, wrong, b"VERSION")
            assert peer.transaction().startswith(b"OK: 3.")
            peer.say(peer.encrypted("SOPENDIR", b"OPENDIR tree\0"))
            assert peer.transaction() == REFUSAL
            peer.say(b"VERSION")
            assert peer.transaction().startswith(b"OK: 3.")


def test_damaged_envelopes(
    server: PreparedServer, others: tuple[ClassicPeer, RawPeer]
) -> None:
    """
    Whatever of a ciphertext is damaged, the word or the padding, the answer is the
    same.
    """
    with dial(server) as peer:
        # With a key of its own each run would damage something else.
        peer.session_key = b"always the same!"
        peer.dialog()
        data = sealed(peer.session_key, b"OPENDIR tree\0")
        head = b"SOPENDIR %d\0" % len(data)
        for place in range(len(data)):
            damaged = bytearray(data)
            damaged[place] ^= 0x55
            peer.say(head.ljust(16, b"x") + bytes(damaged), b"VERSION")
            assert peer.transaction() == REFUSAL
            assert peer.transaction().startswith(b"OK: 3.")


def asking(peer: ClassicPeer, word: str, name: str) -> bytes:
    """
    The payload that asks for something, encrypted when the word says so.
    """
    if word == "SGET":
        clear = f"GET dummykey {name}\0".encode()
        return peer.encrypted("SGET", clear, " 2048")
    return {"GET": b"GET 2048 ", "OPENDIR": b"OPENDIR "}[word] + name.encode()


def test_a_peer_that_never_reads_is_cut_off(tree: Path, tmp_path: Path) -> None:
    """
    After `write_timeout` without a byte taken a connection ends, whatever was asked
    for; meanwhile those that read slowly are served.
    """
    wanted = {"GET": "tree/big", "SGET": "tree/big", "OPENDIR": "tree/many"}
    settings = config_for({"tree": tree}, classic=True)
    limits = "\n[limits]\nwrite_timeout = 2\n"
    with contextlib.ExitStack() as stack:
        server = PreparedServer(tmp_path / "server", settings + limits, key=SERVER)
        stack.enter_context(server)
        slow = []
        for word, name in wanted.items():
            for patient in (False, True):
                peer = stack.enter_context(dial(server, 4096))
                peer.dialog()
                peer.say(*[asking(peer, word, name)] * 60)
                if patient:
                    slow.append(peer)

        def are_cut_off() -> bool:
            for peer in slow:
                peer.receive(2048)
            return server.logs().count("session.closed") >= len(wanted)

        wait_until(are_cut_off, "the end of those that are stuck")
        closed = [line for line in server.logs().splitlines() if "session.cl" in line]
        assert len(closed) == len(wanted)
        assert all("write_timeout" in line for line in closed)
        for peer in slow:
            assert peer.receive(2048)


def test_a_stop_during_large_answers(tree: Path, tmp_path: Path) -> None:
    """
    SIGTERM during the transfer of large files: peers that read get all of it, and then
    the end.
    """
    size = 20_000_000
    big_file(tree / "large", size)
    settings = config_for({"tree": tree}, classic=True)
    limits = "[limits]\nstop_grace = 300\n"
    with PreparedServer(tmp_path / "server", settings + limits, key=SERVER) as server:
        with dial(server) as clear, dial(server) as secret, dial(server) as idle:
            for peer, word in ((clear, "GET"), (secret, "SGET")):
                peer.dialog()
                peer.say(asking(peer, word, "tree/large"))
            idle.dialog()
            assert idle.stat(b"tree/file").startswith(b"OK:")
            got = [len(peer.receive(1)) for peer in (clear, secret)]
            os.kill(server.pid, signal.SIGTERM)
            assert idle.rest() == b""
            for number, peer in enumerate((clear, secret)):
                with contextlib.suppress(Closed):
                    while True:
                        got[number] += len(peer.receive(1 << 20))
            blocks = -(-size // 4064)
            padding = 8 - size % 4064 % 8
            # A header for each block, and 8 bytes more in all blocks but the last.
            assert got == [size, size + 8 * blocks + 8 * (blocks - 1) + padding]
        wait_until(lambda: not server.alive, "the end of the server")
        assert "server.stopped" in server.logs()
        assert "Traceback" not in server.logs()
