# SPDX-License-Identifier: MIT
"""
Who gets what over the classic protocol, and who gets nothing: real agents, and attacks
that work against the real server. Each is mounted against both, so that it is known to
be one.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.classicpeer import ClassicPeer, encrypted_to, new_nonce, sauth
from tests.interop.harness import (
    RealAgent,
    RealServer,
    Run,
    Server,
    WorkFolder,
    config_for,
    peer_program,
    wait_until,
)
from tests.interop.prepared import (
    NOBODY,
    NobodyFolder,
    PreparedServer,
    need_nobody,
    public_folder,
)
from tests.interop.rawpeer import Closed, RawPeer, context, frame
from tests.interop.trees import described
from tests.recorded import key_pair
from tests.recorded.opened import digest

HOST = "127.0.0.2"

REFUSAL = b"BAD: Unspecified server refusal (see verbose server output)"

#: The keys of the server, of its nodes, and of nobody that it knows.
SERVER, NODE, STRANGER = key_pair("server"), key_pair("client"), key_pair("other")


@dataclass
class Rule:
    """
    A folder of its own, and who may have it.

    Attributes:
        policy: Attributes of the real server's promise.
        settings: Lines of our server's rule.
    """

    policy: str
    settings: str


_EVERYBODY = Rule('admit_ips => { "127.0.0.1" }', 'admit_ips = ["127.0.0.1"]')

RULES = {
    "open": _EVERYBODY,
    "sealed": Rule(
        _EVERYBODY.policy + ', ifencrypted => "true"',
        _EVERYBODY.settings + "\nifencrypted = true",
    ),
    "mapped": Rule(
        _EVERYBODY.policy + ', maproot => { "127.0.0.1" }',
        _EVERYBODY.settings + '\nmaproot = ["127.0.0.1"]',
    ),
    "named": Rule(
        'admit_hostnames => { "trusted.example.com" }',
        'admit_hostnames = ["trusted.example.com"]',
    ),
    "keyed": Rule(
        f'admit_keys => {{ "{NODE.public.md5}" }}',
        f'admit_keys = ["{NODE.public.md5}"]',
    ),
    "open/inner": Rule('admit_ips => { "127.7.7.7" }', 'admit_ips = ["127.7.7.7"]'),
}


def fill(tree: Path) -> None:
    """
    Make each folder, with a file that everybody may read and one of its owner's.
    """
    for name in RULES:
        (tree / name).mkdir(parents=True)
        for file, mode in (("public", 0o644), ("private", 0o600)):
            path = tree / name / file
            path.write_text(f"{name}/{file}\n")
            path.chmod(mode)
    (tree / "open" / "empty").touch()


def served(
    kind: str,
    folder: Path,
    tree: Path,
    *,
    classic: bool = True,
    trusting: bool = True,
) -> RealServer | PreparedServer:
    """
    A server with those rules.
    """
    if kind == "cf-serverd":
        access = "".join(
            f'  "{tree}/{name}/" shortcut => "{name.replace("/", "-")}",\n'
            f"    {rule.policy};\n"
            for name, rule in RULES.items()
        )
        work = WorkFolder(folder / "work", key=SERVER)
        return RealServer(work, {}, access=access, classic=classic, trusting=trusting)
    more = "".join(
        f'[[access]]\npath = "{tree}/{name}/"\nshortcut = "{name.replace("/", "-")}"\n'
        f"{rule.settings}\n"
        for name, rule in RULES.items()
    )
    users = 'trustusers = ["root", "nobody", "bob"]\n'
    settings = config_for(
        {}, server=users, more=more, classic=classic, trusting=trusting
    )
    return PreparedServer(folder / "server", settings, key=SERVER)


@dataclass
class Guarded:
    """
    A running server.
    """

    server: Server
    tree: Path
    folder: Path

    @property
    def real(self) -> bool:
        """
        Whether it is the real one, which is less strict.
        """
        return self.server.kind == "cf-serverd"

    def peer(self) -> ClassicPeer:
        """
        A peer that has said nothing yet.
        """
        return ClassicPeer(self.server.port, NODE, SERVER.public)

    def path(self, name: str) -> str:
        """
        Where something is on the server.
        """
        return str(self.tree / name)


@pytest.fixture(scope="module", params=["cf-serverd", "nodecomm"])
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    """
    The server of all tests that leave it as it is.
    """
    peer_program("cf-agent")
    with ExitStack() as stack:
        folder = stack.enter_context(public_folder())
        fill(folder / "tree")
        server = served(request.param, folder, folder / "tree")
        stack.enter_context(server)
        yield Guarded(server, folder / "tree", folder)
        assert "Traceback" not in server.logs()


def copy(
    node: WorkFolder, server: Server, source: str, to: Path, *, encrypt: bool = False
) -> Run:
    """
    Let a real agent copy, and purge what the server has not.
    """
    return RealAgent(node).copy(
        HOST,
        server.port,
        source,
        to,
        protocol_version="1",
        encrypt="true" if encrypt else "false",
        purge="true",
    )


@pytest.fixture
def node(tmp_path: Path) -> WorkFolder:
    """
    The work folder of a node that knows no server.
    """
    return WorkFolder(tmp_path / "node", key=NODE)


def test_encrypted_only(guarded: Guarded, node: WorkFolder, tmp_path: Path) -> None:
    """
    What is served encrypted only is refused to an agent that asks in clear, and given
    to one that encrypts.
    """
    to = tmp_path / "copy"
    done = copy(node, guarded.server, "sealed", to)
    assert list(to.iterdir()) == [], done.output

    done = copy(node, guarded.server, "sealed", to, encrypt=True)
    assert described(to) == described(guarded.tree / "sealed"), done.output


@pytest.mark.parametrize("encrypt", [False, True], ids=["plain", "encrypted"])
def test_rights_of_users(guarded: Guarded, encrypt: bool) -> None:
    """
    The agent of a user gets what everybody may read, and what only the owner may
    read where its address is mapped to root.
    """
    need_nobody()
    with public_folder() as folder:
        node = NobodyFolder(folder / "node", key=NODE)
        for name, expected in (
            ("open", {"public", "empty"}),
            ("mapped", {"public", "private"}),
        ):
            to = node.path / name
            to.mkdir()
            os.chown(to, NOBODY, NOBODY)
            done = copy(node, guarded.server, name, to, encrypt=encrypt)

            found = {file.name for file in to.iterdir() if file.is_file()}
            # What the agent began to fetch and was refused it leaves behind.
            assert {name for name in found if "." not in name} == expected, done.output
            for name_ in expected - {"empty"}:
                assert (to / name_).read_text() == f"{name}/{name_}\n"


def test_rules_with_keys(guarded: Guarded, node: WorkFolder, tmp_path: Path) -> None:
    """
    A rule that admits a key admits nobody at the real server, and its owner at ours.
    """
    to = tmp_path / "copy"
    done = copy(node, guarded.server, "keyed", to)

    found = {file.name for file in to.iterdir()}
    assert found == (set() if guarded.real else {"public", "private"}), done.output


def test_rules_within_others(
    guarded: Guarded, node: WorkFolder, tmp_path: Path
) -> None:
    """
    A rule for a folder within another's: the real server goes by the first that fits,
    ours by the nearest, as over TLS.
    """
    to = tmp_path / "copy"
    done = copy(node, guarded.server, "open", to)

    assert (to / "public").exists(), done.output
    assert (to / "inner" / "public").exists() == guarded.real, done.output


@pytest.mark.parametrize("kind", ["cf-serverd", "nodecomm"])
def test_a_node_that_is_not_trusted(
    kind: str, node: WorkFolder, tmp_path: Path
) -> None:
    """
    A node whose key is not trusted gets nothing, and its key is not kept. Once the key
    is put there it is served.
    """
    tree = tmp_path / "tree"
    fill(tree)
    with served(kind, tmp_path / "server", tree, trusting=False) as server:
        done = copy(node, server, "open", tmp_path / "copy")
        assert list((tmp_path / "copy").iterdir()) == [], done.output
        assert list(server.ppkeys.glob("root-*")) == []

        name = f"root-{NODE.public.md5}.pub"
        (server.ppkeys / name).write_bytes(NODE.public.to_pem())
        (server.ppkeys / name).chmod(0o600)
        # The agent took the server's key when it was refused; it has to prove it now.
        done = copy(node, server, "open", tmp_path / "copy")
        assert (tmp_path / "copy" / "public").exists(), done.output


def test_a_server_with_another_key(
    guarded: Guarded, node: WorkFolder, tmp_path: Path
) -> None:
    """
    An agent that knows the server by another key copies nothing and purges nothing.
    """
    to = tmp_path / "copy"
    to.mkdir()
    (to / "kept").write_text("only here\n")
    node.know(HOST, STRANGER.public)

    done = copy(node, guarded.server, "open", to)

    assert [file.name for file in to.iterdir()] == ["kept"], done.output


@pytest.mark.parametrize("kind", ["cf-serverd", "nodecomm"])
def test_an_address_that_is_not_allowed(
    kind: str, node: WorkFolder, tmp_path: Path
) -> None:
    """
    Where the protocol is not allowed the connection is closed without a word, and
    nothing is purged; TLS is served. Our log says which setting it is.
    """
    tree = tmp_path / "tree"
    fill(tree)
    to = tmp_path / "copy"
    to.mkdir()
    (to / "kept").write_text("only here\n")
    with served(kind, tmp_path / "server", tree, classic=False) as server:
        done = copy(node, server, "open", to)
        assert [file.name for file in to.iterdir()] == ["kept"], done.output
        with ClassicPeer(server.port, NODE, SERVER.public) as peer:
            peer.say(*peer.opening())
            assert peer.rest() == b""
        with RawPeer(server.port, context(NODE)) as secure:
            secure.handshake().dialog()
            assert secure.stat(b"open/public").startswith(b"OK: 0 420 ")
        if kind == "nodecomm":
            assert "allowlegacyconnects" in server.logs()


def test_without_the_cipher(node: WorkFolder, tmp_path: Path) -> None:
    """
    Where OpenSSL has not got the cipher an agent that encrypts gets nothing and purges
    nothing, and the log says so at the start and at each attempt; agents that do not
    encrypt are served, and so is TLS.
    """
    tree = tmp_path / "tree"
    fill(tree)
    to = tmp_path / "copy"
    to.mkdir()
    (to / "kept").write_text("only here\n")
    rule = f'[[access]]\npath = "{tree}/open/"\nshortcut = "open"\n'
    rule += RULES["open"].settings
    server = PreparedServer(
        tmp_path / "server",
        config_for({}, more=rule, classic=True),
        key=SERVER,
        environment={"CRYPTOGRAPHY_OPENSSL_NO_LEGACY": "1"},
    )
    with server:
        wait_until(lambda: "classic.cipher-missing" in server.logs(), "the warning")
        done = copy(node, server, "open", to, encrypt=True)
        assert [file.name for file in to.iterdir()] == ["kept"], done.output
        assert "Blowfish" in server.logs().split("session.opened")[-1]

        done = copy(node, server, "open", to)
        assert described(to) == described(tree / "open"), done.output
        with RawPeer(server.port, context(NODE)) as secure:
            secure.handshake().dialog()
            assert secure.stat(b"open/public").startswith(b"OK: 0 420 ")
        assert "Traceback" not in server.logs()


# Attacks.


def content_of(peer: ClassicPeer, path: str, size: int) -> bytes:
    """
    What a peer gets when it asks for a file, or what it is told instead.
    """
    peer.say(f"GET 2048 {path}".encode())
    try:
        first = peer.exactly(min(size, 8))
        if first.startswith(b"t "):
            return peer.exactly(int(first[1:].strip(b"\0")))
        return first + peer.exactly(size - len(first))
    except Closed:
        return b""


def test_a_host_name_that_is_a_pattern(guarded: Guarded) -> None:
    """
    The real server believes the name that a peer gives, and takes it for a regular
    expression: `.*` is everybody. Ours believes neither name nor pattern.
    """
    for host in ("trusted.example.com", ".*"):
        with guarded.peer() as peer:
            peer.say(*peer.opening(host=host))
            peer.say(*peer.closing(peer.welcomed()))
            found = content_of(peer, guarded.path("named/public"), 13)

            assert found == (b"named/public\n" if guarded.real else REFUSAL)


def test_a_second_claim(guarded: Guarded) -> None:
    """
    The real server lets a peer that was let in as `bob` say that it is root. Ours
    closes.
    """
    with guarded.peer() as peer:
        peer.dialog(user="bob")
        private = guarded.path("open/private")
        refused = content_of(peer, private, 13)
        assert refused.startswith(b"BAD: "), refused
        if guarded.real:
            # A block of 2,048 bytes follows the refusal.
            peer.exactly(2048)
        peer.say(b"CAUTH 127.0.0.1 localhost root 0")
        found = content_of(peer, private, 13)

    assert (found == b"open/private\n") == guarded.real


def test_a_session_key_in_clear(guarded: Guarded) -> None:
    """
    The real server takes a session key that is not encrypted. Ours closes.
    """
    with guarded.peer() as peer:
        peer.say(*peer.opening())
        proof, _ = peer.closing(peer.welcomed())
        peer.say(proof, peer.session_key)
        peer.say(peer.encrypted("SOPENDIR", b"OPENDIR open\0"))
        if guarded.real:
            assert b"public\0" in peer.opened(peer.transaction())
        else:
            assert peer.rest() in (b"", frame(REFUSAL))


def test_a_recorded_session_key_as_a_challenge(guarded: Guarded) -> None:
    """
    Somebody who recorded an encrypted session key has it digested by the real server
    as a challenge of 16 bytes, and can try keys against that. Ours answers nothing but
    challenges of the right size.
    """
    session_key = os.urandom(16)
    recorded = encrypted_to(SERVER.public, session_key)
    for size in (16, 37):
        with guarded.peer() as peer:
            opening = peer.opening()
            opening[1] = sauth("y", recorded, size)
            peer.say(*opening)
            # Each takes one of the two: the real server what has that size in clear,
            # ours what says that it has the right one.
            if guarded.real == (size == 16):
                assert peer.transaction().startswith(b"OK: ")
                assert (peer.transaction() == digest(session_key)) == guarded.real
            else:
                assert peer.rest() in (b"", frame(REFUSAL))


def test_challenges_that_cannot_be_read(guarded: Guarded) -> None:
    """
    The real server tells a ciphertext that it can read from one that it cannot, which
    is enough to read what was recorded. Ours answers both in the same frames, and the
    same to the same.
    """
    good = encrypted_to(SERVER.public, new_nonce())
    damaged = bytes([good[0] ^ 1]) + good[1:]
    tried = {
        "good": good,
        "another size": encrypted_to(SERVER.public, new_nonce()[:-1]),
        "damaged": damaged,
        "too large": b"\xff" * 256,
    }
    sizes: dict[str, list[int]] = {}
    answers: dict[str, list[bytes]] = {}
    for what, data in [*tried.items(), *tried.items()]:
        with guarded.peer() as peer:
            opening = peer.opening()
            opening[1] = sauth("y", data)
            peer.say(*opening)
            try:
                found = [peer.transaction()]
                if found[0].startswith(b"OK: "):
                    found += [peer.transaction(), peer.transaction()]
            except Closed:
                found = []
        sizes[what] = [len(payload) for payload in found]
        answers.setdefault(what, []).append(found[1] if found[1:] else b"")

    whole = sizes["good"]
    assert len(whole) == 3
    for what in tried:
        assert (sizes[what] == whole) == (what == "good" or not guarded.real), what
        if not guarded.real:
            assert answers[what][0] == answers[what][1]
    assert len({both[0] for both in answers.values()}) == (2 if guarded.real else 4)


def test_a_stranger_who_poses_as_the_server(guarded: Guarded) -> None:
    """
    A peer without any private key shows the server's own public key on one
    connection, and has the counter-challenge answered on another: the real server
    takes it for the owner of that key. Ours knows its own challenges again.
    """
    with guarded.peer() as first, guarded.peer() as second:
        opening = first.opening()
        opening[2:] = ClassicPeer.opening(_posing(first))[2:]
        first.say(*opening)
        assert first.transaction().startswith(b"OK: ")
        first.transaction()
        counter = first.transaction()

        opening = second.opening()
        opening[1] = sauth("y", counter)
        second.say(*opening)
        assert second.transaction().startswith(b"OK: ")
        answer = second.transaction()

        first.say(answer, encrypted_to(SERVER.public, first.session_key))
        try:
            first.say(b"VERSION")
            let_in = first.transaction().startswith(b"OK: ")
        except Closed:
            let_in = False

    assert let_in == guarded.real


def _posing(peer: ClassicPeer) -> ClassicPeer:
    """
    The same peer with the server's key, of which only the public half is used.
    """
    peer.key = SERVER
    return peer


def test_nothing_of_the_servers_memory(guarded: Guarded) -> None:
    """
    An empty file that is asked for encrypted is what was in the real server's memory;
    ours encrypts nothing.
    """
    with guarded.peer() as peer:
        peer.dialog()
        path = guarded.path("open/empty")
        peer.say(peer.encrypted("SGET", f"GET dummykey {path}\0".encode(), " 2048"))
        payload = peer.transaction()
        if guarded.real:
            assert len(payload) % 8
        else:
            assert peer.opened(payload) == b""
        peer.say(b"VERSION")
        assert peer.transaction().startswith(b"OK: ")


def test_what_only_the_owner_may_read(guarded: Guarded) -> None:
    """
    A user who may not read a file is told of it by the real server, and can compare
    its content; ours refuses it in every request, once each.
    """
    private = guarded.path("open/private").encode()
    right = digest(b"open/private\n")
    with guarded.peer() as peer:
        peer.dialog(user="bob")
        answers = []
        for request in (
            b"SYNCH %d STAT %b" % (time.time(), private),
            b"MD5 %b\0\0%b" % (private, right),
        ):
            peer.say(request)
            answers.append(peer.transaction())
            if answers[-1].startswith(b"OK:"):
                peer.transaction()
        peer.say(b"GET 2048 " + private)
        answers.append(peer.transaction())
        if guarded.real:
            assert peer.exactly(2048).startswith(REFUSAL)
        peer.say(b"VERSION")
        assert peer.transaction().startswith(b"OK: ")

    if guarded.real:
        assert answers[0].startswith(b"OK: 0 384 ")
        assert answers[1:] == [b"CFD_FALSE", REFUSAL]
    else:
        assert answers == [REFUSAL] * 3


def test_a_link_out_of_what_is_served(guarded: Guarded) -> None:
    """
    A link to what is not served is refused in every request.
    """
    link = guarded.tree / "open" / "out"
    link.symlink_to("/etc/passwd")
    path = str(link).encode()
    try:
        with guarded.peer() as peer:
            peer.dialog()
            for request in (
                b"SYNCH %d STAT %b" % (time.time(), path),
                b"GET 2048 %b" % path,
                b"MD5 %b\0\0%b" % (path, digest(b"")),
            ):
                peer.say(request)
                assert peer.transaction() == REFUSAL
            peer.say(peer.encrypted("SGET", b"GET dummykey %b\0" % path, " 2048"))
            assert peer.transaction() == REFUSAL
            assert peer.rest() == b""
    finally:
        link.unlink()


def test_a_link_that_is_turned_round_all_the_time(guarded: Guarded) -> None:
    """
    While a link is turned from what is served to what is not and back, as fast as it
    goes, our server never serves, compares or describes what it must not. The real
    one checks a path and then opens it again.
    """
    if guarded.real:
        pytest.skip("whether it is caught is a matter of luck")
    secret = guarded.folder / "secret"
    secret.write_text("a secret text\n")
    secret.chmod(0o644)
    place = guarded.tree / "open"
    link, new = place / "turning", place / ".turning"
    link.symlink_to("public")
    ended = threading.Event()

    def turn() -> None:
        while not ended.is_set():
            for target in (str(secret), "public"):
                new.symlink_to(target)
                new.replace(link)

    thread = threading.Thread(target=turn)
    thread.start()
    path = str(link)
    compared = b"MD5 %b\0\0%b" % (path.encode(), digest(secret.read_bytes()))
    clear = f"GET dummykey {path}\0".encode()
    seen = set()
    try:
        for _ in range(30):
            # A name that is never the same twice ends the connection.
            with guarded.peer() as peer, contextlib.suppress(Closed):
                peer.dialog()
                for _ in range(40):
                    seen.add(content_of(peer, path, 12))
                    peer.say(b"SYNCH %d STAT %b" % (time.time(), path.encode()))
                    first = peer.transaction()
                    if first.startswith(b"OK: "):
                        seen.add(first.split()[6] + b" bytes")
                        seen.add(peer.transaction())
                    else:
                        seen.add(first)
                    peer.say(compared)
                    seen.add(peer.transaction())
                peer.say(peer.encrypted("SGET", clear, " 2048"))
                payload = peer.transaction()
                seen.add(payload if payload == REFUSAL else peer.opened(payload))
    finally:
        ended.set()
        thread.join()
        link.unlink()
        new.unlink(missing_ok=True)

    # Nothing where the connection was closed.
    allowed = {b"open/public\n", b"12 bytes", b"OK:public", b"CFD_TRUE", REFUSAL, b""}
    assert seen <= allowed
    assert {b"open/public\n", REFUSAL} <= seen
