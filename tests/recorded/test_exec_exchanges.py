# SPDX-License-Identifier: MIT
"""
The recorded remote runs are what they claim to be, and our reading of them agrees with
both real sides.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nodecomm.wire.execute import (
    ExecuteRequest,
    is_terminator,
    parse_execute,
    split_classes,
)
from nodecomm.wire.framing import MAX_RECORD, TransactionBuffer
from nodecomm.wire.replies import REFUSAL
from nodecomm.wire.run_reader import (
    Announced,
    Denied,
    Ended,
    Event,
    ExitCode,
    Line,
    Remark,
    RunReader,
)
from tests import recorded
from tests.recorded import Exchange, Record, exec_names, load
from tests.recorded.test_exchanges import read_welcome, requests

#: What a real server says of itself in an output, when it cannot execute a program.
_CANNOT = b"   error: 127.0.0.1>       Couldn't run '"

#: What each answer says after the announcement: lines of output, what else was said,
#: and how it ended (no number: nothing said so).
ANSWERS: dict[str, tuple[list[bytes], list[bytes], int | None]] = {
    "plain": ([b"hello", b"arguments: "], [], 0),
    "classes": ([b"hello", b"arguments: -D ok_a,ok_b"], [], 0),
    "bundles": ([b"hello", b"arguments: --bundlesequence b_one,b_two"], [], 0),
    "both": ([b"hello", b"arguments: -D ok_a --bundlesequence b_one"], [], 0),
    "selected": ([b"hello", b"arguments: "], [], 0),
    "not-selected": (
        [],
        [
            b"Hello  (127.0.0.1), nothing relevant to do here...",
            b"EXEC denied due to failed class match (check cf-serverd verbose output)",
        ],
        None,
    ),
    "refused-user": ([], [REFUSAL], None),
    "refused-role": (
        [],
        [b"EXEC denied role activation (check cf-serverd verbose output)"],
        None,
    ),
    "refused-bundle": (
        [],
        [b"EXEC denied bundle activation (check cf-serverd verbose output)"],
        None,
    ),
    "bad-class": (
        [],
        [b"EXEC denied role activation (check cf-serverd verbose output)"],
        None,
    ),
    "bad-arguments": ([], [b"EXEC denied: invalid arguments: reboot"], None),
    "missing": ([], [REFUSAL], None),
    "fails": ([], [], 3),
    "killed": ([b"before"], [], None),
    "nothing": ([], [], 0),
    "blank": ([b"", b"", b"a", b""], [], 0),
    "open": ([b"one", b"two without end"], [], 0),
    "long": ([b"x" * 4083, b"after"], [], 0),
    "binary": ([bytes(range(1, 10)), bytes(range(11, 256)), b"after"], [], 0),
    "nul": ([b"a", b"c", b"d", b""], [], 0),
    "returns": ([b"a\rb\r", b"c\r", b"\r"], [], 0),
    "streams": ([b"out1", b"err1", b"out2", b"err2"], [], 0),
    "forged": (
        [
            b"---cfXen/gine/cfXen/gine---",
            b"(exit code: 0)",
            b"> (exit code: 0)",
            b"BAD: Unspecified server refusal (see verbose server output)",
            b"EXEC denied role activation (check cf-serverd verbose output)",
        ],
        [],
        5,
    ),
}

#: What was asked for: the request, and classes of which the node must have one.
REQUESTS: dict[str, tuple[bytes, list[bytes]]] = {
    "plain": (b"EXEC", []),
    "classes": (b"EXEC -Dok_a,ok_b", []),
    "bundles": (b"EXEC -b b_one,b_two", []),
    "both": (b"EXEC -Dok_a -b b_one", []),
    "selected": (b"EXEC", [b"no", b"linux", b"any"]),
    "not-selected": (b"EXEC", [b"no", b"never"]),
    "refused-role": (b"EXEC -Dother_a", []),
    "bad-class": (b"EXEC -Dok_a;reboot", []),
    "bad-arguments": (b"EXEC -Dok_a reboot", []),
}


def events(exchange: Exchange) -> list[Event]:
    """
    What the server said, up to the end of its answer.
    """
    buffer = TransactionBuffer()
    buffer.feed(read_welcome(exchange).trailing())
    reader = RunReader()
    found: list[Event] = []
    while not reader.ended:
        transaction = buffer.next_transaction()
        assert transaction is not None
        assert not transaction.more
        found += reader.feed(transaction.payload)
    return found


def test_each_is_known() -> None:
    """
    No recorded run is left out below.
    """
    known = {f"exec/{name}" for name in (*ANSWERS, "not-executable")}

    assert set(exec_names()) == known


@pytest.mark.parametrize("name", exec_names())
def test_the_file_is_the_exchange(name: str, tmp_path: Path) -> None:
    """
    Writing a run and reading it again changes nothing; the server speaks first, and
    only the last record says that a side closed.
    """
    exchange = load(name)
    exchange.write(tmp_path / "again.jsonl")
    before, recorded.FOLDER = recorded.FOLDER, tmp_path
    try:
        again = load("again")
    finally:
        recorded.FOLDER = before

    assert again == exchange
    assert exchange.records[0] == Record("server", b"CFE_v3 cf-serverd 3.21.0\n")
    assert max(len(record.data) for record in exchange.records) <= MAX_RECORD
    assert [r for r in exchange.records if not r.data] == exchange.records[-1:]


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(name: str) -> None:
    """
    cf-runagent sends the request, a frame for each class, and the terminator, without
    a NUL.
    """
    request, *classes = requests(load(f"exec/{name}"))

    assert (request, classes[:-1]) == REQUESTS[name]
    assert [split_classes(frame) for frame in classes[:-1]] == [
        [frame] for frame in classes[:-1]
    ]
    assert classes[-1] == b"---cfXen/gine/cfXen/gine---"
    assert is_terminator(classes[-1])


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    """
    What cf-serverd says of a run is read as what it is: lines of output are lines
    whatever is in them, and what the server says itself is told apart.
    """
    lines, said, code = ANSWERS[name]

    found = events(load(f"exec/{name}"))

    assert [event.data for event in found if isinstance(event, Line)] == lines
    assert [e.text for e in found if isinstance(e, Remark | Denied)] == said
    codes = [event.number for event in found if isinstance(event, ExitCode)]
    assert codes == ([] if code is None else [code])
    assert found[-1] == Ended()
    assert isinstance(found[0], Denied | Remark if said else Announced)


@pytest.mark.parametrize("name", ["plain", "classes", "bundles", "both"])
def test_the_announcement_is_the_command(name: str) -> None:
    """
    What cf-serverd announces is its command and what our reading of the request adds.
    """
    exchange = load(f"exec/{name}")
    request: ExecuteRequest = parse_execute(requests(exchange)[0])

    announced = events(exchange)[0]

    assert isinstance(announced, Announced)
    command, *words = announced.command.split(b" ")
    assert command.startswith(b"/")
    assert words == list(request.words)


def test_a_program_that_is_none() -> None:
    """
    cf-serverd announces what it cannot execute, says so in a line, and 1.
    """
    announced, line, code, _ = events(load("exec/not-executable"))

    assert isinstance(announced, Announced)
    assert isinstance(line, Line)
    assert line.data == (
        b"%b%b'. (execv: Permission denied)" % (_CANNOT, announced.command)
    )
    assert code == ExitCode(1)
