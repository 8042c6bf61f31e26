# SPDX-License-Identifier: MIT
"""
Peers that lie, stop, flood or wait, against the server's own process. Each costs at
most its own connection; everyone else is served.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from OpenSSL import SSL

from nodecomm.identity.keys import KeyPair, PublicKey
from tests.identity import forgery
from tests.interop import oddkeys
from tests.interop.harness import (
    RealAgent,
    WorkFolder,
    config_for,
    wait_until,
)
from tests.interop.prepared import ROOT, PreparedServer
from tests.interop.rawpeer import (
    QUICK,
    Closed,
    RawPeer,
    context,
    context_for,
    elliptic_context,
    frame,
    stat_request,
)
from tests.interop.trees import big_file

#: Bytes of the file that takes long.
BIG = 100_000_000

#: Connections that are held at once; all of the promised ones when asked for.
HELD = 10_000 if os.environ.get("NODECOMM_FULL") == "1" else 1_000

#: Bytes of memory that a held connection may cost the server.
PER_CONNECTION = 100_000

#: A server that gives nobody up who is slow because the machine is busy, and one that
#: soon does.
PATIENT = """
[limits]
first_byte_timeout = 600
handshake_timeout = 600
dialog_timeout = 600
write_timeout = 600
"""
IMPATIENT = """
[limits]
first_byte_timeout = 1
handshake_timeout = 2
dialog_timeout = 1
"""

#: How often a peer that was given up too early tries again to be given up later.
TRIALS = 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    What is served: a small file and a big one.
    """
    path = tmp_path_factory.mktemp("hostile") / "tree"
    path.mkdir()
    (path / "file").write_bytes(b"content\n")
    big_file(path / "big", BIG)
    return path


@pytest.fixture(scope="module")
def key() -> KeyPair:
    """
    A key that is trusted on first use.
    """
    return KeyPair.generate(QUICK)


@pytest.fixture(scope="module")
def server(
    tree: Path, key: KeyPair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PreparedServer]:
    """
    The server of all tests that leave it running. At the end it has made no mistake.
    """
    settings = config_for({"tree": tree}).replace(
        "maxconnections = 200", "maxconnections = 12000"
    )
    folder = tmp_path_factory.mktemp("server")
    with PreparedServer(folder / "server", settings + PATIENT) as made:
        # Trusted from here on.
        RawPeer(made.port, context(key)).handshake().dialog().socket.close()
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
    settings = config_for({"tree": tree}) + IMPATIENT
    with PreparedServer(folder / "server", settings) as made:
        yield made
        made.check()


@pytest.fixture
def other(server: PreparedServer, key: KeyPair) -> Iterator[RawPeer]:
    """
    A decent peer, connected before whatever happens, and served after it.
    """
    with RawPeer(server.port, context(key)) as peer:
        peer.handshake().dialog()
        assert peer.stat(b"tree/file").startswith(b"OK:")
        yield peer
        assert peer.stat(b"tree/file").startswith(b"OK:")


GARBAGE = [
    b"\0",
    b"\xff" * 200,
    b"t",
    b"x 5\0\0\0\0\0hello",
    b"t -5\0\0\0\0hello",
    b"t 0\0\0\0\0\0",
    b"t 4089\0\0" + b"x" * 4089,
    b"t 99999999999999",
    b"\n" * 3000,
    frame(b"\0"),
    frame(b"NOSUCHWORD at all"),
    frame(b"GET"),
    frame(b"GET 0 /"),
    frame(b"SYNCH"),
    frame(b"SYNCH x STAT "),
    frame(b"MD5 tree/file"),
    frame(b"%n%s" * 500),
    *(random.Random(seed).randbytes(3000) for seed in range(6)),
]


@pytest.mark.parametrize("stage", ["tcp", "record", "greeting", "identity", "session"])
def test_garbage(
    server: PreparedServer, key: KeyPair, other: RawPeer, stage: str
) -> None:
    """
    Garbage before TLS, as TLS, in the dialog and as requests: the connection ends or
    the garbage is answered, and nothing else happens.
    """
    for garbage in GARBAGE:
        with RawPeer(
            server.port, None if stage in ("tcp", "record") else context(key)
        ) as peer:
            if peer.tls is not None:
                peer.handshake()
                if stage == "session":
                    peer.dialog()
                else:
                    peer.line()
                if stage == "identity":
                    peer.send(b"CFE_v3 cf-agent 3.21.0\n")
            with contextlib.suppress(Closed, OSError, SSL.Error):
                peer.send((b"\x16\3\1" if stage == "record" else b"") + garbage)
                if peer.tls is None:
                    peer.socket.shutdown(socket.SHUT_WR)
                else:
                    peer.tls.shutdown()
            said = peer.rest()
            if peer.tls is None:
                # A TLS alert, or nothing.
                assert said[:1] in (b"", b"\x15"), (garbage, said)
            elif stage == "session":
                assert said == b"" or said[8:].startswith((b"BAD: ", b"CFD_TRUE")), said
            else:
                assert said == b"" or garbage[:1] == b"\n", (garbage, said)


def test_half_hellos_shut_nobody_out(server: PreparedServer, key: KeyPair) -> None:
    """
    Many times more peers than handshakes are worked on begin one and wait; another
    peer is served while they still do.
    """
    with contextlib.ExitStack() as peers:
        waiting = [peers.enter_context(RawPeer(server.port)) for _ in range(100)]
        for peer in waiting:
            peer.send(b"\x16")
        with RawPeer(server.port, context(key)) as other:
            other.handshake().dialog()
            assert other.stat(b"tree/file").startswith(b"OK:")
            assert not any(peer.closed for peer in waiting)


def test_other_mount_namespaces(
    server: PreparedServer, tree: Path, key: KeyPair
) -> None:
    """
    What another mount namespace has at an admitted path is not served through
    `/proc/PID/root`, though the system tells the admitted path for its name.
    """
    script = f"mount -t tmpfs none {tree} && echo secret >{tree}/shadow && echo ready"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script + " && exec sleep 60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                pytest.skip("no mount namespace of its own may be made here")
            root = f"/proc/{process.pid}/root{tree}"
            assert Path(root, "shadow").read_text() == "secret\n"
            for request in (
                stat_request(f"{root}/shadow".encode()),
                frame(f"GET 2048 {root}/shadow".encode()),
                frame(f"OPENDIR {root}".encode()),
            ):
                with RawPeer(server.port, context(key)) as peer:
                    peer.handshake().dialog()
                    peer.send(request)
                    with contextlib.suppress(Closed):
                        assert peer.receive()[8:].startswith(b"BAD: ")
        finally:
            process.kill()


def test_half_a_frame(server: PreparedServer, key: KeyPair, other: RawPeer) -> None:
    """
    A frame may take its time; what is there of it is kept, and it is answered when
    it is whole. A peer that goes in the middle is forgotten.
    """
    request = stat_request(b"tree/file")
    for cut in (1, 7, 8, 9, len(request) - 1):
        with RawPeer(server.port, context(key)) as peer:
            peer.handshake().dialog()
            peer.send(request[:cut])
            assert other.stat(b"tree/file").startswith(b"OK:")
            assert not peer.closed
            peer.send(request[cut:])
            assert peer.transaction().startswith(b"OK:")
        with RawPeer(server.port, context(key)) as peer:
            peer.handshake().dialog()
            peer.send(request[:cut])


def test_a_hello_byte_by_byte(
    server: PreparedServer, key: KeyPair, other: RawPeer
) -> None:
    """
    A ClientHello in segments of one byte is a ClientHello.
    """
    client = SSL.Connection(context(key), None)
    client.set_connect_state()
    with RawPeer(server.port) as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        first = True
        while True:
            try:
                client.do_handshake()
                done = True
            except SSL.WantReadError:
                done = False
            with contextlib.suppress(SSL.WantReadError):
                data = client.bio_read(65536)
                for position, byte in enumerate(data if first else b""):
                    peer.send(bytes([byte]))
                    # The beginning at least arrives byte by byte, whatever the
                    # system joins later; all of it would take too long.
                    if position < 100:
                        time.sleep(0.001)
                if not first:
                    peer.send(data)
                first = False
            if done:
                break
            client.bio_write(peer.receive())
        while True:
            try:
                assert client.recv(100).startswith(b"CFE_v3")
                return
            except SSL.WantReadError:
                client.bio_write(peer.receive())


def test_peers_that_never_read(
    server: PreparedServer, key: KeyPair, other: RawPeer
) -> None:
    """
    Twelve peers ask for 100 MB, some more than once, and read nothing: the server's
    memory stays flat.
    """
    before = server.resident
    peers = [RawPeer(server.port, context(key), receive_buffer=4096) for _ in range(12)]
    try:
        for number, peer in enumerate(peers):
            peer.handshake().dialog()
            peer.send(frame(b"GET 2048 tree/big") * (1 + number % 5))
        most = 0
        for _ in range(100):
            assert other.stat(b"tree/file").startswith(b"OK:")
            most = max(most, server.resident - before)
            time.sleep(0.01)
    finally:
        for peer in peers:
            peer.socket.close()

    # 256 KiB of one answer each, and what the kernel does not count here.
    assert most < 24_000_000


@pytest.mark.parametrize("request_", [b"GET 2048 tree/big", b"OPENDIR tree/many"])
def test_a_peer_that_never_reads_is_cut_off(
    tree: Path, key: KeyPair, tmp_path: Path, request_: bytes
) -> None:
    """
    After `write_timeout` without a byte taken the connection ends; meanwhile one
    that reads slowly, far less than the system holds for it, is served.
    """
    many = tree / "many"
    many.mkdir(exist_ok=True)
    for number in range(1000):
        (many / f"{number:04}-{'n' * 200}").touch()
    settings = config_for({"tree": tree}) + "\n[limits]\nwrite_timeout = 3\n"
    with PreparedServer(tmp_path / "server", settings) as server:
        stuck = RawPeer(server.port, context(key), receive_buffer=4096)
        slow = RawPeer(server.port, context(key), receive_buffer=4096)
        with stuck, slow:
            stuck.handshake().dialog()
            slow.handshake().dialog()
            assert stuck.tls is not None
            assert slow.tls is not None
            # The listings together are more than the system holds.
            stuck.send(frame(request_) * 60)
            slow.send(frame(request_) * 60)

            def is_cut_off() -> bool:
                assert slow.tls is not None
                slow.tls.recv(2048)
                return "write_timeout" in server.logs()

            wait_until(is_cut_off, "the end of the one that is stuck")
            assert slow.tls.recv(16384)


def test_a_peer_that_asks_and_never_reads(
    server: PreparedServer, key: KeyPair, other: RawPeer
) -> None:
    """
    A peer that sends requests without end and reads no answer is not read any more:
    memory stays flat, and its own writes stand still.
    """
    before = server.resident
    with RawPeer(server.port, context(key), receive_buffer=4096) as peer:
        peer.handshake().dialog()
        assert peer.tls is not None
        requests = stat_request(b"tree/file") * 300
        peer.socket.setblocking(False)
        sent = 0
        with contextlib.suppress(SSL.WantWriteError):
            while sent < 200_000_000:
                sent += peer.tls.send(requests)
        assert other.stat(b"tree/file").startswith(b"OK:")

    assert sent < 200_000_000
    assert server.resident - before < 24_000_000


@pytest.mark.parametrize(
    ("stage", "limit"),
    [
        ("tcp", "nothing came in time"),
        ("hello", "in the TLS handshake: it took too long"),
        ("handshake", "dialog_timeout"),
        ("greeting", "dialog_timeout"),
        ("endless", "dialog_timeout"),
        ("long", "bad identification"),
    ],
)
def test_a_peer_that_comes_to_no_end(
    server: PreparedServer,
    impatient: PreparedServer,
    key: KeyPair,
    stage: str,
    limit: str,
) -> None:
    """
    A peer that says nothing, stops in the handshake or the dialog, or says a line
    without end, is given up; the log says at which limit.
    """
    asked = server if stage == "long" else impatient
    told = asked.logs().count(limit)
    using = None if stage in ("tcp", "hello") else context(key)
    with contextlib.ExitStack() as peers:
        for _ in range(TRIALS):
            peer = peers.enter_context(RawPeer(asked.port, using))
            # On a busy machine it may be given up before it has come so far.
            with contextlib.suppress(Closed):
                if stage == "hello":
                    peer.send(b"\x16\3\1\1\0\1\0")
                elif peer.tls is not None:
                    peer.handshake().line()
                if stage == "greeting":
                    peer.send(b"CFE_v3 cf-agent 3.21.0\n")
                break
        with contextlib.suppress(Closed):
            if stage == "long":
                peer.send(b"C" * 5000)
            while stage == "endless" and not peer.closed:
                peer.send(b"C")
                time.sleep(0.02)
        assert peer.rest() == b""
    # A limit that was reached just now is told once for all of a burst.
    wait_until(lambda: bool(told) or asked.logs().count(limit) > told, limit)


@pytest.mark.parametrize("version", [b"0", b"1", b"4", b"-3", b"x", b"", b"9" * 30])
def test_protocol_versions(
    server: PreparedServer, key: KeyPair, other: RawPeer, version: bytes
) -> None:
    """
    A version that is none, too old or too new ends the connection without a word.
    """
    with RawPeer(server.port, context(key)) as peer:
        peer.handshake().line()
        with contextlib.suppress(Closed):
            peer.send(b"CFE_v" + version + b" cf-agent 3.21.0\n")
            peer.send(b"IDENTITY USERNAME=root\n")
        assert peer.rest() == b""


@pytest.mark.parametrize(
    "user",
    [
        b"../root",
        b"a/b",
        b"a\\b",
        b"..",
        b"-x",
        b"a\0b",
        b"\x1b[31m",
        b"\xff",
        b"u" * 65,
    ],
)
def test_user_names(
    server: PreparedServer, key: KeyPair, other: RawPeer, user: bytes
) -> None:
    """
    A name that must not become part of a file name ends the connection; no file is
    made, and no control character of it gets into the log.
    """
    before = set(server.ppkeys.iterdir())
    with RawPeer(server.port, context(key)) as peer:
        peer.handshake().line()
        with contextlib.suppress(Closed):
            peer.send(b"CFE_v3 cf-agent 3.21.0\n")
            peer.send(b"IDENTITY USERNAME=" + user + b"\n")
        assert peer.rest() == b""
    assert set(server.ppkeys.iterdir()) == before
    assert not set(server.logs()) & {"\0", "\x1b", "\x07"}


def test_renegotiation(server: PreparedServer, key: KeyPair, other: RawPeer) -> None:
    """
    Over TLS 1.2 a peer that wants to negotiate again is not given that.
    """
    with RawPeer(server.port, context(key, version=SSL.TLS1_2_VERSION)) as peer:
        peer.handshake().dialog()
        assert peer.tls is not None
        assert peer.tls.get_protocol_version_name() == "TLSv1.2"
        assert peer.tls.renegotiate()
        with pytest.raises(SSL.Error, match="no renegotiation"):
            peer.tls.do_handshake()


def refused(server: PreparedServer, using: SSL.Context) -> str:
    """
    Connect; check that not one byte is said, and return what the log says of it.
    """
    before = len(server.logs())
    with RawPeer(server.port, using) as peer:
        said = b""
        with contextlib.suppress(Closed):
            said = peer.handshake().rest()
    assert said == b""
    wait_until(
        lambda: any(
            event in server.logs()[before:]
            for event in ("trust.refused", "connection.lost")
        ),
        "a line of the log",
    )
    return server.logs()[before:]


def test_no_certificate(server: PreparedServer, other: RawPeer) -> None:
    """
    A peer without a certificate fails in the handshake.
    """
    assert "peer did not return a certificate" in refused(server, context(None))


def test_a_certificate_that_is_not_rsa(server: PreparedServer, other: RawPeer) -> None:
    """
    A key of another kind is refused before a line is said.
    """
    assert "holds no RSA key" in refused(server, elliptic_context())


def test_a_forged_key(server: PreparedServer, other: RawPeer) -> None:
    """
    The owner of another key with the digest of a trusted one, cut elsewhere, gets
    through the handshake and no further; nothing is stored.
    """
    honest = forgery.victim()
    stored = server.ppkeys / f"root-{honest.md5}.pub"
    stored.write_bytes(honest.to_pem())
    forged = oddkeys.forged()
    assert forged.public.md5 == honest.md5
    before = set(server.ppkeys.iterdir())

    said = refused(server, context_for(forged.certificate_der(), forged.private_der()))

    assert "trust.refused" in said
    assert honest.md5 in said
    assert "exponent" in said
    assert set(server.ppkeys.iterdir()) == before
    assert stored.read_bytes() == honest.to_pem()


@pytest.mark.parametrize("make", [oddkeys.exponent_one, oddkeys.exponent_two])
def test_exponents(server: PreparedServer, other: RawPeer, make: object) -> None:
    """
    A key with exponent 1, or an even one, is refused, although a first contact would
    be trusted.
    """
    assert callable(make)
    odd = make()
    using = context_for(odd.certificate_der(), odd.private_der())
    before = set(server.ppkeys.iterdir())
    # With an even exponent three of four handshakes fail for want of a signature.
    for _ in range(60):
        said = refused(server, using)
        if "trust.refused" in said:
            break
    assert "trust.refused" in said, said
    assert set(server.ppkeys.iterdir()) == before


@pytest.fixture
def strict(tree: Path, key: KeyPair, tmp_path: Path) -> Iterator[PreparedServer]:
    """
    A server with room for four connections, two of them not yet trusted, where only
    one address may connect more than once.
    """
    settings = (
        config_for({"tree": tree})
        .replace("maxconnections = 200", "maxconnections = 4")
        .replace(
            'allowallconnects = ["127.0.0.0/8", "::1"]',
            'allowallconnects = ["127.0.0.9"]',
        )
    )
    limits = "[limits]\nconnections_before_trust = 2\n"
    with PreparedServer(tmp_path / "server", settings + limits) as made:
        yield made


def test_too_many_connections(strict: PreparedServer, key: KeyPair) -> None:
    """
    A connection too many is closed before a byte, whatever it is too many of; the
    others go on, and when one ends there is room again.
    """

    def connect(source: str) -> RawPeer:
        return RawPeer(strict.port, context(key), source=source)

    def turned_away(source: str, limit: str) -> None:
        with RawPeer(strict.port, source=source) as peer:
            assert peer.rest() == b""
        # Told once for each burst.
        assert limit in strict.logs()

    with contextlib.ExitStack() as stack:
        one = stack.enter_context(connect("127.0.0.1"))
        one.handshake().dialog()
        turned_away("127.0.0.1", "allowallconnects")
        many = [stack.enter_context(connect("127.0.0.9")) for _ in range(2)]
        turned_away("127.0.0.9", "connections_before_trust")
        for peer in many:
            peer.handshake().dialog()
        last = stack.enter_context(connect("127.0.0.2"))
        last.handshake().dialog()
        turned_away("127.0.0.9", "maxconnections")
        for peer in (one, *many, last):
            assert peer.stat(b"tree/file").startswith(b"OK:")
        last.socket.close()
        wait_until(
            lambda: strict.logs().count("session.closed") == 1, "the end of a session"
        )
        again = stack.enter_context(connect("127.0.0.2"))
        again.handshake().dialog()
        assert again.stat(b"tree/file").startswith(b"OK:")


def raw_process(*words: object) -> subprocess.Popen[str]:
    """
    The raw peer as a process of its own.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "tests.interop.rawpeer", *map(str, words)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def key_file(key: KeyPair, tmp_path: Path) -> Path:
    """
    The trusted key, for another process.
    """
    path = tmp_path / "key"
    path.write_bytes(key.to_pem())
    return path


def test_many_idle_connections(
    server: PreparedServer,
    key_file: Path,
    other: RawPeer,
    record_property: Callable[[str, object], None],
) -> None:
    """
    Connections of many addresses are held in another process; the server needs
    little memory for each, serves others meanwhile, and then each of them.
    """
    before = server.resident
    with raw_process("hold", server.port, HELD, key_file) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == f"held {HELD}\n"
        each = (server.resident - before) // HELD
        record_property("bytes_per_connection", each)
        print(f"{HELD} connections, {each} bytes of the server's memory each")
        assert other.stat(b"tree/file").startswith(b"OK:")
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == f"{HELD}\n"

    assert each < PER_CONNECTION


def test_a_burst_of_handshakes(
    server: PreparedServer,
    key_file: Path,
    other: RawPeer,
    record_property: Callable[[str, object], None],
) -> None:
    """
    While 300 peers want a handshake at once, a session is served all the time.
    """
    with raw_process("burst", server.port, 300, key_file) as attacker:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == "begun\n"
        delays = []
        while attacker.poll() is None:
            began = time.monotonic()
            assert other.stat(b"tree/file").startswith(b"OK:")
            delays.append(time.monotonic() - began)
        assert attacker.stdout.readline() == "done 300\n"
    longest = max(delays)
    record_property("longest_delay", longest)
    print(f"{len(delays)} STATs, the longest took {longest * 1000:.1f} ms")
    # Reported, not judged; but it waits for a few of the handshakes each time, not for
    # all of them, nor for the 32 that are worked on.
    assert len(delays) > 40


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "silent"])
def test_a_stop_during_a_large_answer(
    tree: Path, key: KeyPair, tmp_path: Path, reads: bool
) -> None:
    """
    SIGTERM during a GET of 100 MB: a peer that reads gets all of it, and then the
    end; one that does not read is given up after `stop_grace`.
    """
    grace = 300 if reads else 1
    limits = f"[limits]\nstop_grace = {grace}\n"
    settings = config_for({"tree": tree}) + limits
    with PreparedServer(tmp_path / "server", settings) as server:
        with (
            RawPeer(server.port, context(key)) as peer,
            RawPeer(server.port, context(key)) as idle,
        ):
            idle.handshake().dialog()
            peer.handshake().dialog()
            peer.send(frame(b"GET 2048 tree/big"))
            got = len(peer.receive())
            os.kill(server.pid, signal.SIGTERM)
            assert idle.rest() == b""
            with pytest.raises(OSError):
                RawPeer(server.port)
            if reads:
                with contextlib.suppress(Closed):
                    while True:
                        got += len(peer.receive(1 << 20))
                assert got == BIG
            wait_until(lambda: not server.alive, "the end of the server")
        assert "server.stopped" in server.logs()


def test_200_first_connections(tree: Path, tmp_path: Path) -> None:
    """
    200 keys come for the first time, from four processes at once: each is welcomed,
    stored once under its own name, and whole.
    """
    made: dict[str, PublicKey] = {}
    for process in range(4):
        folder = tmp_path / f"keys{process}"
        folder.mkdir()
        for number in range(50):
            pair = KeyPair.generate(QUICK)
            made[pair.public.md5] = pair.public
            (folder / str(number)).write_bytes(pair.to_pem())
    settings = config_for({"tree": tree}).replace(
        "maxconnections = 200", "maxconnections = 300"
    )
    with PreparedServer(tmp_path / "server", settings + PATIENT) as server:
        processes = [
            raw_process("first", server.port, tmp_path / f"keys{number}")
            for number in range(4)
        ]
        answers: dict[str, str] = {}
        for process_ in processes:
            assert process_.stdout is not None
            assert process_.stdout.readline() == "ready\n"
        for process_ in processes:
            assert process_.stdin is not None
            process_.stdin.write("\n")
            process_.stdin.flush()
        for process_ in processes:
            output, _ = process_.communicate()
            for line in output.splitlines():
                md5, answer = line.split(" ", 1)
                answers[md5] = answer

        assert answers == dict.fromkeys(made, "OK WELCOME USERNAME=root")
        stored = {
            file.name: PublicKey.from_pem(file.read_bytes())
            for file in server.ppkeys.glob("*MD5=*.pub")
        }
        assert stored == {f"root-{md5}.pub": key for md5, key in made.items()}
        assert "Traceback" not in server.logs()


def test_first_use_windows(tree: Path, tmp_path: Path) -> None:
    """
    Real agents come to a window that is over, to one with a single place, and to the
    same when that is taken: only the one in between is trusted; the log says why.
    """
    settings = config_for({"tree": tree}).replace(
        'trustkeysfrom = ["127.0.0.0/8", "::1"]',
        'trustkeysfrom = [{ network = "127.0.0.1", until = 2020-01-01T00:00:00Z }]',
    )
    one_place = settings.replace("until = 2020-01-01T00:00:00Z", "count = 1")
    assert "2020" in settings
    with PreparedServer(tmp_path / "server", settings) as server:

        def come(name: str) -> bool:
            copy = tmp_path / name
            agent = RealAgent(WorkFolder(tmp_path / f"node-{name}"))
            agent.copy(
                "127.0.0.1",
                server.port,
                "tree/file",
                copy,
                recursive=False,
            )
            return copy.exists()

        assert not come("early")
        assert "of trustkeysfrom is over" in server.logs()
        assert "trust.window-closed" in server.logs()
        server.write_settings(one_place)
        server.reload()
        wait_until(lambda: "config.loaded" in server.logs(), "the reload")
        assert come("first")
        assert not come("second")
        assert "used up" in server.logs()
        server.reload()
        wait_until(
            lambda: server.logs().count("trust.window-closed") > 1, "the closed window"
        )
    assert len(list(server.ppkeys.glob("root-*.pub"))) == 1
