# SPDX-License-Identifier: MIT
"""
cf-runagent asks for runs: it shows and returns the same, whichever server is asked.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import KINDS
from tests.interop.harness import WorkFolder, peer_program, wait_until
from tests.interop.prepared import NobodyFolder, need_nobody, public_folder
from tests.interop.running import ROOM, Running, run_node, running_server
from tests.interop.syncing import FULL_ONLY

HOST = "127.0.0.1"

REFUSED = "!!  Unspecified server refusal (see verbose server output)\n"

DENIED = "(check cf-serverd verbose output)"

#: Options, what is added to the command (None: nothing is announced), what is shown
#: after the announcement, and the exit status.
RUNS: list[tuple[list[str], str | None, list[str], int]] = [
    ([], "", ["-> hello", "-> arguments: "], 0),
    (
        ["-D", "ok_a,ok_b", "--remote-bundles", "b_1,b_2"],
        " -D ok_a,ok_b --bundlesequence b_1,b_2",
        [
            "-> hello",
            "-> arguments: -D ok_a,ok_b --bundlesequence b_1,b_2",
        ],
        0,
    ),
    (
        ["-s", "never,any,not", "-D", "ok_nothing"],
        " -D ok_nothing",
        [],
        0,
    ),
    (["-s", "any.!never", "-D", "ok_code_4"], " -D ok_code_4", ["(exit code: 4)"], 4),
    (["-D", "ok_code_3"], " -D ok_code_3", ["(exit code: 3)"], 3),
    (["-D", "ok_code_255"], " -D ok_code_255", ["(exit code: 255)"], 255),
    (["-D", "ok_signal_9"], " -D ok_signal_9", ["-> before"], 255),
    (["-D", "ok_nothing"], " -D ok_nothing", [], 0),
    (["-D", "ok_blank"], " -D ok_blank", ["-> ", "-> ", "-> a", "-> "], 0),
    (["-D", "ok_open"], " -D ok_open", ["-> one", "-> two without end"], 0),
    (["-D", "ok_long"], " -D ok_long", ["-> " + "x" * ROOM, "-> after"], 0),
    (["-D", "ok_nul"], " -D ok_nul", ["-> a", "-> c", "-> d", "-> "], 0),
    (
        ["-D", "ok_binary"],
        " -D ok_binary",
        [
            "-> " + os.fsdecode(bytes(range(1, 10))),
            "-> " + os.fsdecode(bytes(range(11, 256))),
            "-> after",
        ],
        0,
    ),
    (
        ["-D", "ok_forged"],
        " -D ok_forged",
        [
            "-> ---cfXen/gine/cfXen/gine---",
            "-> (exit code: 0)",
            "-> > (exit code: 0)",
            "-> BAD: Unspecified server refusal (see verbose server output)",
            "-> EXEC denied role activation (check cf-serverd verbose output)",
            "(exit code: 5)",
        ],
        5,
    ),
    (["-D", "other_a"], None, [f"EXEC denied role activation {DENIED}"], 255),
    (["-D", "ok_a;reboot"], None, [f"EXEC denied role activation {DENIED}"], 255),
    (["-D", "ok_a reboot"], None, ["EXEC denied: invalid arguments: reboot"], 255),
    (
        ["--remote-bundles", "b_1,other"],
        None,
        [f"EXEC denied bundle activation {DENIED}"],
        255,
    ),
    (
        ["-s", "never,not"],
        None,
        [
            "Hello  (127.0.0.1), nothing relevant to do here...\n",
            f"EXEC denied due to failed class match {DENIED}",
        ],
        255,
    ),
]


@pytest.fixture(scope="module", params=KINDS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """
    A server of each kind. Ours has a text for a shell as its command, unlike those of
    the other tests.
    """
    folder = tmp_path_factory.mktemp(f"run-client-{request.param}")
    with running_server(request.param, folder, text=True) as running:
        yield running


@pytest.fixture
def asking(running: Running, tmp_path: Path) -> WorkFolder:
    """
    A machine that trusts the server and may ask it for runs.
    """
    node = WorkFolder(tmp_path / "node", key=running.client)
    return run_node(node, running.key.public)


def where(running: Running) -> str:
    """
    What `-H` says.
    """
    return f"{HOST}:{running.server.port}"


def shown(running: Running, words: str | None, lines: list[str]) -> str:
    """
    What is printed of an answer.
    """
    said = list(lines)
    if words is not None:
        path = running.command.path
        said.insert(0, f"cf-serverd executing cfruncommand: {path}{words}")
    return "".join(f"{HOST}> {line}\n" for line in said)


def test_runs(running: Running, asking: WorkFolder) -> None:
    """
    Each run, denial and selection is shown as it is, and is the exit status.
    """
    found, expected = [], []
    for options, words, lines, status in RUNS:
        done = asking.run("cf-runagent", *options, "-H", where(running))
        found.append((options, done.output, done.status))
        code = ["(exit code: 0)"] if words is not None and status == 0 else []
        expected.append((options, shown(running, words, lines + code), status))

    assert found == expected


def test_refusals(running: Running, asking: WorkFolder, tmp_path: Path) -> None:
    """
    A machine to which the program is not admitted, and a program that is missing, are
    refused, and that is all that is told; one that cannot be executed is a run.
    """
    other = WorkFolder(tmp_path / "other", key=running.denied)
    run_node(other, running.key.public)
    refused = (255, shown(running, None, [REFUSED]))

    assert other.run("cf-runagent", "-H", where(running)) == refused
    with running.command.missing():
        assert asking.run("cf-runagent", "-H", where(running)) == refused
    with running.command.not_executable():
        status, output = asking.run("cf-runagent", "-H", where(running))
    assert status not in (0, 255)
    announced, line, code = output.splitlines()
    assert f"{announced}\n" == shown(running, "", [])
    assert "ermission denied" in line
    assert code == f"{HOST}> (exit code: {status})"


def test_a_refused_user(running: Running) -> None:
    """
    A user who is not among those that may is refused.
    """
    need_nobody()
    with public_folder() as folder:
        # Not the key of the other machine: the server has it under another name.
        node = run_node(NobodyFolder(folder / "node"), running.key.public)
        done = node.run("cf-runagent", "-H", where(running))

    assert done == (255, shown(running, None, [REFUSED]))


def started(running: Running, asking: WorkFolder, what: str) -> subprocess.Popen[bytes]:
    """
    cf-runagent, which asks for a run with this class.
    """
    return subprocess.Popen(
        [peer_program("cf-runagent"), "-D", what, "-H", where(running)],
        env=asking.environment,
        cwd=asking.path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )


def said(asked: subprocess.Popen[bytes], lines: int | None = None) -> list[bytes]:
    """
    So many lines that it prints, or all that are left.
    """
    assert asked.stdout is not None
    if lines is None:
        return asked.stdout.read().splitlines()
    return [asked.stdout.readline().rstrip(b"\n") for _ in range(lines)]


def test_what_a_run_says_is_shown_while_it_goes_on(
    running: Running, asking: WorkFolder
) -> None:
    """
    The first line is there before the run has said its last.
    """
    command = running.command
    command.go.unlink(missing_ok=True)
    with command.waiting(), started(running, asking, "ok_wait") as asked:
        _, first = said(asked, 2)
        command.go.touch()
        rest = said(asked)

    assert first.startswith(b"127.0.0.1> -> waits ")
    assert rest == [b"127.0.0.1> -> goes", b"127.0.0.1> (exit code: 0)"]
    assert asked.returncode == 0


def test_more_than_one_asks(running: Running, asking: WorkFolder) -> None:
    """
    While a run is under way, who asks ours for the same gets what it has said and all
    that it says then; who asks for another is told that it waits, and has its turn.
    The real server begins another for each.
    """
    if running.server.kind != "nodecomm":
        pytest.skip("the real server runs all at once")
    command = running.command
    command.go.unlink(missing_ok=True)
    with command.waiting(), started(running, asking, "ok_wait") as first:
        (_, waits) = said(first, 2)
        with (
            started(running, asking, "ok_wait") as second,
            started(running, asking, "ok_code_3") as third,
        ):
            announced, joined, again = said(second, 3)
            (turn,) = said(third, 1)
            command.go.touch()
            ends = [said(first), said(second), said(third)]

    assert announced.endswith(b" -D ok_wait")
    assert joined.startswith(b"127.0.0.1> -> nodecomm: ")
    assert again == waits
    assert turn.startswith(b"127.0.0.1> -> nodecomm: waiting: 1 run")
    goes = [b"127.0.0.1> -> goes", b"127.0.0.1> (exit code: 0)"]
    assert ends[:2] == [goes, goes]
    assert ends[2][-1] == b"127.0.0.1> (exit code: 3)"
    assert [each.returncode for each in (first, second, third)] == [0, 0, 3]


@FULL_ONLY
def test_a_long_run(running: Running, asking: WorkFolder) -> None:
    """
    cf-runagent gives up after 11 s without a byte when told to be impatient; a run that
    takes longer, and says something each second, is not lost to it.
    """
    done = asking.run(
        "cf-runagent", "-t", "1", "-D", "ok_minutes", "-H", where(running)
    )

    numbers = [f"-> {number}" for number in range(1, 14)]
    lines = shown(running, " -D ok_minutes", [*numbers, "(exit code: 0)"])
    assert done == (0, lines)


def _ended(pid: int) -> bool:
    """
    Whether there is no such process, or only its status is left of it.
    """
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def test_who_asked_goes_away(running: Running, asking: WorkFolder) -> None:
    """
    When cf-runagent ends in the middle, ours ends the run with all that it has started.
    The real server does not notice before the run's next line.
    """
    if running.server.kind != "nodecomm":
        pytest.skip("the real server lets the run go on")
    with started(running, asking, "ok_left") as asked:
        _, _, left = said(asked, 3)
        child = int(left.split()[-1])
        assert not _ended(child)
        asked.kill()

    wait_until(lambda: _ended(child), "the end of what the run has started")


def test_several_at_once(running: Running, asking: WorkFolder) -> None:
    """
    Children of one cf-runagent ask at the same time; each is answered. (Its exit status
    is then the number of hosts, whatever they said.)
    """
    hosts = ",".join([where(running)] * 3)

    done = asking.run("cf-runagent", "--background=3", "-D", "ok_code_0", "-H", hosts)

    assert done.output.count("(exit code: 0)") == 3
