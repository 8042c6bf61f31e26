# SPDX-License-Identifier: MIT
"""
What a server says to who asks for a run, to the last byte: cf-serverd and ours say the
same, in every version of the protocol.

The texts stand here as literals: they are not taken from our own code.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.conftest import KINDS
from tests.interop.rawpeer import RawPeer, frame
from tests.interop.running import (
    END,
    REFUSAL,
    ROOM,
    TERMINATOR,
    Running,
    answer,
    running_server,
)

VERSIONS = (3, 2, 1)

ROLE = b"EXEC denied role activation (check cf-serverd verbose output)"
BUNDLE = b"EXEC denied bundle activation (check cf-serverd verbose output)"
CLASS = b"EXEC denied due to failed class match (check cf-serverd verbose output)"

#: A request, the words that it adds to the command, the lines of output, the exit code.
RUNS: list[tuple[bytes, bytes, list[bytes], int | None]] = [
    (b"EXEC", b"", [b"hello", b"arguments: "], 0),
    (b"EXEC ", b"", [b"hello", b"arguments: "], 0),
    (b"EXEC -D", b"", [b"hello", b"arguments: "], 0),
    (b"EXEC -Dok_a", b" -D ok_a", [b"hello", b"arguments: -D ok_a"], 0),
    (b"EXEC -D \t ok_a ", b" -D ok_a", [b"hello", b"arguments: -D ok_a"], 0),
    (
        b"EXEC -Dok_a,ok_b,",
        b" -D ok_a,ok_b,",
        [b"hello", b"arguments: -D ok_a,ok_b,"],
        0,
    ),
    (
        b"EXEC -bb_1,b_2 -Dok_a -b b_3",
        b" --bundlesequence b_1,b_2 -D ok_a --bundlesequence b_3",
        [
            b"hello",
            b"arguments: --bundlesequence b_1,b_2 -D ok_a --bundlesequence b_3",
        ],
        0,
    ),
    (b"EXEC -Dok_code_0", b" -D ok_code_0", [], 0),
    (b"EXEC -Dok_code_3", b" -D ok_code_3", [], 3),
    (b"EXEC -Dok_code_127", b" -D ok_code_127", [], 127),
    (b"EXEC -Dok_code_255", b" -D ok_code_255", [], 255),
    (b"EXEC -Dok_signal_15", b" -D ok_signal_15", [b"before"], None),
    (b"EXEC -Dok_signal_9", b" -D ok_signal_9", [b"before"], None),
    (b"EXEC -Dok_nothing", b" -D ok_nothing", [], 0),
    (b"EXEC -Dok_blank", b" -D ok_blank", [b"", b"", b"a", b""], 0),
    (b"EXEC -Dok_open", b" -D ok_open", [b"one", b"two without end"], 0),
    (b"EXEC -Dok_nul", b" -D ok_nul", [b"a", b"c", b"d", b""], 0),
    (b"EXEC -Dok_returns", b" -D ok_returns", [b"a\rb\r", b"c\r", b"\r"], 0),
    (b"EXEC -Dok_streams", b" -D ok_streams", [b"out1", b"err1", b"out2", b"err2"], 0),
    (
        b"EXEC -Dok_binary",
        b" -D ok_binary",
        [bytes(range(1, 10)), bytes(range(11, 256)), b"after"],
        0,
    ),
    (
        b"EXEC -Dok_forged",
        b" -D ok_forged",
        [
            b"---cfXen/gine/cfXen/gine---",
            b"(exit code: 0)",
            b"> (exit code: 0)",
            b"BAD: Unspecified server refusal (see verbose server output)",
            b"EXEC denied role activation (check cf-serverd verbose output)",
        ],
        5,
    ),
    (b"EXEC -Dok_room_4082", b" -D ok_room_4082", [b"y" * 4082], 0),
    (b"EXEC -Dok_room_4083", b" -D ok_room_4083", [b"y" * 4083], 0),
    (b"EXEC -Dok_room_4084", b" -D ok_room_4084", [b"y" * ROOM], 0),
    (b"EXEC -Dok_room_4100", b" -D ok_room_4100", [b"y" * ROOM], 0),
    (b"EXEC -Dok_long", b" -D ok_long", [b"x" * ROOM, b"after"], 0),
]

#: What a real server cannot send to a classic peer: a line that is too long, and then
#: all lines after it are missing, or it is cut later.
LONG = (b"EXEC -Dok_room_4084", b"EXEC -Dok_room_4100", b"EXEC -Dok_long")

#: A request, and the text by which it is denied.
DENIALS: list[tuple[bytes, bytes]] = [
    (b"EXEC -Dother_a", ROLE),
    (b"EXEC -Dxok_a", ROLE),
    (b"EXEC -DOK_A", ROLE),
    (b"EXEC -Dok_a,other_a", ROLE),
    (b"EXEC -Dok_a -D other_a", ROLE),
    (b"EXEC -D,ok_a", ROLE),
    (b"EXEC -Dok_a,,ok_b", ROLE),
    (b"EXEC -Dok_a;reboot", ROLE),
    (b"EXEC -Dok_a.ok_b", ROLE),
    (b"EXEC -Dok_a|ok_b", ROLE),
    (b"EXEC -Dok_-", ROLE),
    (b"EXEC -Dok_\xc3\xa9", ROLE),
    (b"EXEC -Dok_a\n", ROLE),
    (b"EXEC -D$(reboot)", ROLE),
    (b"EXEC -D -b b_1", ROLE),
    (b"EXEC -Dother_a -bother", ROLE),
    (b"EXEC -Dother_a -x", ROLE),
    (b"EXEC -bother", BUNDLE),
    (b"EXEC -bb_1,other", BUNDLE),
    (b"EXEC -bb_denied", BUNDLE),
    (b"EXEC -bb_1,b_denied", BUNDLE),
    (b"EXEC -b,b_1", BUNDLE),
    (b"EXEC -bb_1;reboot", BUNDLE),
    (b"EXEC -bb_`reboot`", BUNDLE),
    (b"EXEC -bother -Dother_a", BUNDLE),
    (b"EXEC -Dok_a -bother -x", BUNDLE),
    (b"EXEC -x", b"EXEC denied: invalid arguments: -x"),
    (b"EXEC reboot", b"EXEC denied: invalid arguments: reboot"),
    (b"EXEC -K -I", b"EXEC denied: invalid arguments: -K -I"),
    (b"EXEC --define ok_a", b"EXEC denied: invalid arguments: --define ok_a"),
    (b"EXEC -Dok_a\treboot now", b"EXEC denied: invalid arguments: reboot now"),
    (b"EXEC -Dok_a -b b_1 -x", b"EXEC denied: invalid arguments: -x"),
    (b"EXEC -x -Dother_a", b"EXEC denied: invalid arguments: -x -Dother_a"),
]

#: What follows a request, frame by frame, and whether a class of it is one of a node
#: that has `any`.
SELECTIONS: list[tuple[list[bytes], bool]] = [
    ([b"any"], True),
    ([b"any\0"], True),
    ([b"never", b"any"], True),
    ([b"never any"], True),
    ([b"never"] * 9 + [b"any"], True),
    ([b"an."], True),
    ([b"[a-b]n[y]"], True),
    ([b"never|any"], True),
    ([b"any.any"], True),
    ([b"any&!never"], True),
    ([b"!never"], True),
    ([b"(never|any).any"], True),
    ([b"never"], False),
    ([b"never", b"not"], False),
    ([b"never not"], False),
    ([b"never,any"], False),
    ([b"an"], False),
    ([b"ny"], False),
    ([b"ANY"], False),
    ([b"any.never"], False),
    ([b"!any"], False),
    ([b"("], False),
    ([b" "], False),
]


@pytest.fixture(scope="module", params=KINDS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """
    A server of each kind.
    """
    folder = tmp_path_factory.mktemp(f"run-{request.param}")
    with running_server(request.param, folder) as running:
        yield running


def ask(peer: RawPeer, *payloads: bytes) -> list[bytes]:
    """
    Make a request with these frames behind it; the answer.
    """
    peer.send(b"".join(map(frame, (*payloads, TERMINATOR))))
    return answer(peer)


@pytest.mark.parametrize("version", VERSIONS)
def test_runs(running: Running, version: int) -> None:
    """
    Runs, one after the other on one connection: the announcement, each line in a frame,
    the exit code where there is one, the terminator with a NUL; the connection is kept.
    """
    found, expected = [], []
    with running.connect(version) as peer:
        for request, words, lines, code in RUNS:
            if version == 1 and request in LONG and running.server.kind != "nodecomm":
                continue
            found.append((request, ask(peer, request)))
            end = [] if code is None else [b"(exit code: %d)\n" % code]
            said = [b"> %b\n" % line for line in lines]
            expected.append((request, [running.announcement(words), *said, *end]))
        peer.send(frame(b"VERSION"))
        version_said = peer.transaction()

    assert found == expected
    assert version_said == b"OK: 3.21.0"


@pytest.mark.parametrize("version", VERSIONS)
def test_denials(running: Running, version: int) -> None:
    """
    A class that no role admits, a bundle that no rule admits or one denies, and what is
    no argument: a text and the terminator, and the connection is kept.
    """
    with running.connect(version) as peer:
        found = [(request, ask(peer, request)) for request, _ in DENIALS]
        again = ask(peer, b"EXEC -Dok_nothing")

    assert found == [(request, [text]) for request, text in DENIALS]
    assert again[-1] == b"(exit code: 0)\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_selections(running: Running, version: int) -> None:
    """
    Classes in frames or separated by spaces: one must be the node's, as a class, as a
    pattern, or as an expression of classes. Else two texts and the terminator, and the
    connection is kept. On TLS the first text names no host.
    """
    host = b"localhost" if version == 1 else b""
    hello = b"Hello %b (127.0.0.1), nothing relevant to do here...\n\n" % host
    found, expected = [], []
    for frames, runs in SELECTIONS:
        with running.connect(version) as peer:
            found.append((frames, ask(peer, b"EXEC -Dok_nothing", *frames)))
        run = [running.announcement(b" -D ok_nothing"), b"(exit code: 0)\n"]
        expected.append((frames, run if runs else [hello, CLASS]))

    assert found == expected


def test_class_is_judged_before_arguments(running: Running) -> None:
    """
    What is asked of other nodes is not looked at further.
    """
    with running.connect() as peer:
        assert ask(peer, b"EXEC -Dother_a -x", b"never")[-1] == CLASS


def test_what_comes_after_a_class_that_matches(running: Running) -> None:
    """
    Ours reads all that belongs to a request. The real server goes on at once, and takes
    the rest for requests: it is why a client with `-s` cannot keep the connection.
    """
    with running.connect() as peer:
        said = ask(peer, b"EXEC -Dok_nothing", b"any", b"never", b"not")
        assert said[-1] == b"(exit code: 0)\n"
        if running.server.kind == "nodecomm":
            assert ask(peer, b"EXEC -Dok_code_3") == [
                running.announcement(b" -D ok_code_3"),
                b"(exit code: 3)\n",
            ]
        else:
            assert peer.transaction() == b"BAD: Request denied"


def refused(running: Running, peer: RawPeer, *payloads: bytes) -> None:
    """
    The request is refused and the connection closed. Ours reads all of it before; the
    real server closes after the first frame, and what the client then sends may cost it
    the answer.
    """
    everything = [*payloads, TERMINATOR]
    with peer:
        for payload in (
            everything if running.server.kind == "nodecomm" else payloads[:1]
        ):
            peer.send(frame(payload))
        assert answer(peer) == [REFUSAL]
        assert peer.rest() == b""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("classes", [[], [b"any"], [b"never"] * 3])
def test_refusals(running: Running, version: int, classes: list[bytes]) -> None:
    """
    A user who may not, a peer to whom the program is not admitted, and a program that
    is missing are refused with the same bytes, whatever else they ask; then the server
    closes.
    """
    request = (b"EXEC -x", *classes)
    refused(running, running.connect(version, user="other"), *request)
    refused(running, running.connect(version, key=running.denied), *request)
    with running.command.missing():
        refused(running, running.connect(version), *request)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("request_", [b"EXECUTE", b"EXEC-Dok_a", b"exec", b"EXEC\tx"])
def test_another_word(running: Running, version: int, request_: bytes) -> None:
    """
    What is not EXEC draws another refusal, without a terminator.
    """
    with running.connect(version) as peer:
        peer.send(frame(request_))
        assert peer.transaction() == b"BAD: Request denied"
        assert peer.rest() == b""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_program_that_cannot_be_executed(running: Running, version: int) -> None:
    """
    It is announced; one line says why, and the exit code is not 0.
    """
    with running.command.not_executable(), running.connect(version) as peer:
        announced, line, code = ask(peer, b"EXEC")

    assert announced == running.announcement()
    assert line.startswith(b"> ")
    assert line.endswith(b"ermission denied)\n" if b"(" in line else b"denied\n")
    assert code.startswith(b"(exit code: ")
    assert code != b"(exit code: 0)\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_line_is_sent_when_it_is_whole(running: Running, version: int) -> None:
    """
    What a run says arrives while it goes on.
    """
    command = running.command
    command.go.unlink(missing_ok=True)
    with command.waiting(), running.connect(version) as peer:
        peer.send(frame(b"EXEC -Dok_wait") + frame(TERMINATOR))
        assert peer.transaction() == running.announcement(b" -D ok_wait")
        assert peer.transaction().startswith(b"> waits ")
        command.go.touch()
        assert answer(peer) == [b"> goes\n", b"(exit code: 0)\n"]


def test_two_runs_are_asked_for_at_once(running: Running) -> None:
    """
    A second request, sent before the first is answered, is answered after it.
    """
    with running.connect() as peer:
        both = [b"EXEC -Dok_code_3", TERMINATOR, b"EXEC -Dok_code_4", TERMINATOR]
        peer.send(b"".join(map(frame, both)))
        assert answer(peer)[-1] == b"(exit code: 3)\n"
        assert answer(peer)[-1] == b"(exit code: 4)\n"


def test_the_answer_ends_with_the_terminator_and_a_nul(running: Running) -> None:
    """
    All frames have the status of a last one, also in the middle.
    """
    with running.connect() as peer:
        peer.send(frame(b"EXEC -Dok_nothing") + frame(TERMINATOR))
        said = b""
        while not said.endswith(END):
            said += peer.receive()

    assert said == b"".join(
        map(
            frame,
            [running.announcement(b" -D ok_nothing"), b"(exit code: 0)\n", END],
        )
    )
