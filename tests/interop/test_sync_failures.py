# SPDX-License-Identifier: MIT
"""
Whatever goes wrong during an update, the copy is wholly one set, and the next update
succeeds.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodecomm.identity.keys import KeyPair
from tests.interop.conftest import KINDS, Shares
from tests.interop.harness import (
    NodecommServer,
    RealServer,
    Server,
    WorkFolder,
    config_for,
    peer_program,
)
from tests.interop.latency import DelayedRelay
from tests.interop.syncing import (
    FULL,
    SyncAgent,
    SyncRun,
    ended,
    fresh_server,
    leftovers,
)
from tests.interop.trees import Entry, content, described
from tests.ports import free_port

#: Exit statuses, as they are documented.
DONE, LOCAL, USAGE, UNREACHABLE, UNTRUSTED, REFUSED, UNVERIFIED = range(7)


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest,
    shares: Shares,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """
    As that of all tests here, but for the age of manifests: what changes must be seen
    at once.
    """
    folder = tmp_path_factory.mktemp(request.param)
    with fresh_server(request.param, folder, vars(shares)) as started:
        yield started


@pytest.fixture
def ours(tmp_path: Path) -> SyncAgent:
    """
    A node that copies with our program.
    """
    return SyncAgent(tmp_path / "ours")


def write_generation(tree: Path, generation: int, files: int = 30) -> None:
    """
    Make every file of a tree say which generation it is of, in each of its pieces.
    """
    for number in range(files):
        path = tree / f"folder{number % 5}" / f"file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"generation %06d\n" % generation * (1 + number * number))


def generation_of(copy: Path, files: int = 30) -> int:
    """
    The one generation that all files of a copy are wholly of; none is missing.
    """
    found = set()
    for number in range(files):
        data = (copy / f"folder{number % 5}" / f"file{number}").read_bytes()
        lines = data.split(b"\n")
        assert len(lines) == 2 + number * number, (number, len(lines))
        found |= set(lines) - {b""}
    assert len(found) == 1, found
    return int(found.pop().split()[1])


def test_files_that_change_while_they_are_copied(
    server: Server, scratch: tuple[Path, str], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    Files that grow, shrink, are written anew or replaced all the time come whole or
    not at all: no file here is ever a mixture, cut, or the text of an error.
    """
    tree, name = scratch
    letters = [b"A", b"B", b"C"]
    sizes = [1_000_000, 60, 2_500_000]

    def filled(number: int) -> bytes:
        return letters[number % 3] * sizes[number % 3]

    for file in ("rewritten", "replaced", "appended"):
        (tree / file).write_bytes(filled(0))
    (tree / "steady").write_bytes(b"steady\n")
    end = threading.Event()

    def change() -> None:
        number = 0
        while not end.wait(0.005):
            number += 1
            (tree / "new").write_bytes(filled(number))
            (tree / "new").rename(tree / "replaced")
            if number % 5 == 0:
                # In place, so that there are moments in which it is empty.
                (tree / "rewritten").write_bytes(filled(number))
            with (tree / "appended").open("ab") as file:
                if number % 50 == 0:
                    file.truncate(10)
                file.write(b"A" * 997)

    copy = tmp_path / "copy"
    changer = threading.Thread(target=change)
    changer.start()
    runs = []
    try:
        for _ in range(12 if FULL else 1):
            runs.append(ours.sync(server.port, name, copy, "--timeout", "2"))
            if runs[-1].status == DONE:
                replaced = (copy / "replaced").read_bytes()
                assert replaced in [filled(number) for number in range(3)]
                for file in ("rewritten", "appended", "new"):
                    data = (copy / file).read_bytes() if (copy / file).exists() else b""
                    assert len(set(data)) <= 1, (file, len(data))
            elif copy.exists():
                assert (copy / "steady").read_bytes() == b"steady\n"
    finally:
        end.set()
        changer.join()
    (tree / "new").unlink(missing_ok=True)
    last = ours.sync(server.port, name, copy, "--purge")

    assert {run.status for run in runs} <= {DONE, UNREACHABLE, UNVERIFIED}, runs
    assert last.status == DONE, last
    assert described(copy) == described(tree)


def test_killed_at_any_moment(
    server: Server, scratch: tuple[Path, str], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    However often an update is killed, the copy is wholly of one generation and never
    goes back, and the next update that is not killed succeeds and leaves nothing
    behind.
    """
    tree, name = scratch
    write_generation(tree, 1)
    copy = tmp_path / "copy"
    draw = random.Random()
    killed = 0
    with DelayedRelay(server.port, 0.004) as relay:
        first = ours.sync(relay.port, name, copy, "--purge")
        assert first.status == DONE, first
        newest = 1
        for generation in range(2, 202 if FULL else 7):
            write_generation(tree, generation)
            process = ours.start(*ours.command(relay.port, name, copy, "--purge"))
            try:
                # The first is killed for certain: no program is ready by then.
                process.wait(draw.uniform(0.02, 0.6) if killed else 0.001)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
            process.communicate()
            now = generation_of(copy)
            assert newest <= now <= generation
            newest = now
        done = ours.sync(relay.port, name, copy, "--purge")

    assert killed
    assert done.status == DONE, done
    assert described(copy) == described(tree)
    assert leftovers(copy) == set()


def test_cut_at_any_byte(
    server: Server, scratch: tuple[Path, str], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    A connection that breaks after any number of bytes is made again and what is
    missing is asked for again; when it breaks every time, the copy is as it was, the
    status says that the server could not be reached (or, where the very first one broke
    right behind our name, that it may not trust us, for that looks the same), and there
    is never more than one connection.
    """
    tree, name = scratch
    write_generation(tree, 1)
    copy = tmp_path / "copy"
    draw = random.Random()
    with DelayedRelay(server.port, 0.004) as relay:
        ours.sync(relay.port, name, copy)
        for generation in range(3, 120 if FULL else 5, 2):
            write_generation(tree, generation)
            once = draw.randrange(200_000)
            relay.cuts = iter([once])
            done = ours.sync(relay.port, name, copy)
            if done.status == REFUSED:
                # Right behind our name, which is a few of all those bytes.
                done = ours.sync(relay.port, name, copy)
            assert done.status == DONE, (once, done)
            assert generation_of(copy) == generation, once

            write_generation(tree, generation + 1)
            always = [draw.randrange(20_000) for _ in range(20)]
            relay.cuts = iter(always)
            failed = ours.sync(relay.port, name, copy)
            assert failed.status in (DONE, UNREACHABLE, REFUSED), (always, failed)
            assert generation_of(copy) == generation + (failed.status == DONE)
            assert leftovers(copy) == set(), (always, failed)
            relay.cuts = iter(())

    assert relay.most_at_once == 1


def test_a_server_that_falls_silent(
    server: Server, scratch: tuple[Path, str], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    A server that is there and says nothing any more is given up; the copy is as it
    was.
    """
    tree, name = scratch
    write_generation(tree, 1)
    copy = tmp_path / "copy"
    with DelayedRelay(server.port) as relay:
        ours.sync(relay.port, name, copy)
        write_generation(tree, 2)
        relay.silences = iter([0, 3000, 0, 3000, 0, 0, 0, 0])
        done = ours.sync(relay.port, name, copy, "--timeout", "0.3")

    assert done.status == UNREACHABLE, done
    assert generation_of(copy) == 1


def test_two_updates_of_one_copy(
    server: Server, scratch: tuple[Path, str], tmp_path: Path
) -> None:
    """
    Two nodes' programs that update one folder at the same time do it one after the
    other; one that may not wait says who holds it.
    """
    tree, name = scratch
    write_generation(tree, 1)
    copy = tmp_path / "copy"
    nodes = [SyncAgent(tmp_path / f"node{number}") for number in range(3)]
    with DelayedRelay(server.port, 0.05) as relay:
        running = [
            node.start(
                *node.command(
                    relay.port, name, copy, "--trust-server", "--lock-wait", wait
                )
            )
            for node, wait in zip(nodes, ("300", "300", "0"), strict=True)
        ]
        runs = [ended(process) for process in running]

    assert [run.status for run in runs[:2]] == [DONE, DONE], runs
    assert sum(run.facts["changed"] for run in runs if run.status == DONE) == 1
    if runs[2].status != DONE:
        assert runs[2].status == LOCAL
        assert any(str(process.pid) in runs[2].said for process in running[:2])
    assert generation_of(copy) == 1
    assert leftovers(copy) == set()


@contextmanager
def _server(
    kind: str,
    folder: Path,
    shares: dict[str, Path],
    *,
    denied: Path | None = None,
    port: int | None = None,
) -> Iterator[Server]:
    """
    A server of one kind that refuses one file.
    """
    if kind == "cf-serverd":
        access = (
            "" if denied is None else f'  "{denied}" deny_ips => {{ "0.0.0.0/0" }};\n'
        )
        real = RealServer(WorkFolder(folder / "work"), shares, access=access)
        if port is not None:
            policy = real.work.path / "inputs" / "promises.cf"
            text = policy.read_text().replace(str(real.port), str(port))
            real.work.write_policy("promises.cf", text)
            real.port = port
        with real:
            yield real
    else:
        more = (
            ""
            if denied is None
            else f'[[access]]\npath = "{denied}"\ndeny_ips = ["0.0.0.0/0"]\n'
        )
        ours = NodecommServer(folder, config_for(shares, more=more))
        if port is not None:
            ours.port = port
            ours.write_settings(config_for(shares, more=more))
        with ours:
            yield ours


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused_is_not_deleted(
    kind: str, ours: SyncAgent, tmp_path: Path
) -> None:
    """
    A file and a folder that the server lists and refuses stay here as they are, and
    purge removes only what it does not list.
    """
    peer_program("cf-serverd")
    tree = tmp_path / "tree"
    (tree / "secret").mkdir(parents=True)
    for file in ("secret/one", "secret/two", "open", "gone"):
        (tree / file).write_text(f"{file}\n")
    copy = tmp_path / "copy"
    with _server(kind, tmp_path / "1", {"tree": tree}) as server:
        first = ours.sync(server.port, "tree", copy, "--purge")
    before = described(copy)
    (tree / "gone").unlink()
    (tree / "open").write_text("changed\n")
    (tree / "secret" / "one").write_text("changed too\n")
    with _server(
        kind, tmp_path / "2", {"tree": tree}, denied=tree / "secret"
    ) as server:
        done = ours.sync(server.port, "tree", copy, "--purge")

    assert first.status == DONE, first
    assert done.facts["refused"] == ["secret"]
    del before[b"gone"]
    assert {name: described(copy)[name] for name in before if name != b"open"} == {
        name: entry for name, entry in before.items() if name != b"open"
    }
    assert set(described(copy)) == set(before)
    assert (copy / "open").read_text() == "changed\n"


@pytest.mark.parametrize("kind", KINDS)
def test_another_key_is_refused_until_it_is_accepted(
    kind: str, ours: SyncAgent, tmp_path: Path
) -> None:
    """
    A server is trusted at first use only when that is asked for; one with another key
    at the same address is refused, whatever is asked for, until the new key is
    accepted by name; a digest given with the command is the only one it accepts.
    """
    peer_program("cf-serverd")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"one\n")
    copy, port = tmp_path / "copy", free_port()
    with _server(kind, tmp_path / "1", {"tree": tree}, port=port) as server:
        unknown = ours.sync(port, "tree", copy, trust=False)
        assert not copy.exists()
        wrong = ours.sync(port, "tree", copy, "--server-key", "MD5=" + "0" * 32)
        assert not copy.exists()
        trusted = ours.sync(port, "tree", copy)
        again = ours.sync(port, "tree", copy, trust=False)
        old = KeyPair.load((server.ppkeys / "localhost.priv").read_bytes()).public
    (tree / "file").write_bytes(b"two\n")
    with _server(kind, tmp_path / "2", {"tree": tree}, port=port) as server:
        changed = ours.sync(port, "tree", copy)
        assert (copy / "file").read_bytes() == b"one\n"
        new = KeyPair.load((server.ppkeys / "localhost.priv").read_bytes()).public
        accepted = ours.run("server-key", "accept", f"127.0.0.1:{port}", new.md5)
        after = ours.sync(port, "tree", copy, trust=False)

    assert [unknown.status, wrong.status] == [UNTRUSTED, UNTRUSTED]
    assert [trusted.status, again.status] == [DONE, DONE], (trusted, again)
    assert changed.status == UNTRUSTED
    for word in (old.md5, new.md5, "server-key accept"):
        assert word in changed.said
    assert accepted.status == DONE, accepted
    assert after.status == DONE, after
    assert (copy / "file").read_bytes() == b"two\n"


def _nobody_there(port: int) -> tuple[int, str]:
    return free_port(), "127.0.0.1"


@pytest.mark.parametrize(
    ("where", "source", "status"),
    [
        (_nobody_there, "files", UNREACHABLE),
        (lambda port: (port, "no-such-host.invalid"), "files", UNREACHABLE),
        (lambda port: (port, "127.0.0.1"), "nonesuch", REFUSED),
        (lambda port: (port, "127.0.0.1"), "/etc", REFUSED),
    ],
    ids=["nobody-listens", "no-such-name", "no-such-source", "not-served"],
)
def test_what_was_wrong_is_said(
    server: Server,
    ours: SyncAgent,
    tmp_path: Path,
    where: Callable[[int], tuple[int, str]],
    source: str,
    status: int,
) -> None:
    """
    Each thing that can be wrong has its own exit status, and the copy is as it was.
    """
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "file").write_bytes(b"mine\n")
    port, host = where(server.port)

    done = ours.sync(port, source, copy, "--purge", host=host)

    assert done.status == status, done
    assert source in done.said or host in done.said
    assert (copy / "file").read_bytes() == b"mine\n"


def test_a_server_that_does_not_trust_us(ours: SyncAgent, tmp_path: Path) -> None:
    """
    A server that does not know our key has its own exit status too, and the text
    gives the digest that its administrator needs.
    """
    settings = config_for({"tree": tmp_path}).replace(
        'trustkeysfrom = ["127.0.0.0/8", "::1"]', "trustkeysfrom = []"
    )
    with NodecommServer(tmp_path / "server", settings) as server:
        done = ours.sync(server.port, "tree", tmp_path / "copy")
    key = KeyPair.load((ours.state / "ppkeys" / "localhost.priv").read_bytes())

    assert done.status == REFUSED, done
    assert key.public.md5 in done.said
    assert not (tmp_path / "copy").exists()


def test_interrupted_by_hand(
    server: Server, scratch: tuple[Path, str], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    An update that is interrupted from the terminal, or ended, says so in its status
    and leaves nothing behind.
    """
    tree, name = scratch
    (tree / "file").write_bytes(content(3_000_000))
    copy = tmp_path / "copy"
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with DelayedRelay(server.port, silences=[10_000]) as relay:
            process = ours.start(
                *ours.command(relay.port, name, copy, "--trust-server")
            )
            while not relay.accepted:
                assert process.poll() is None, ended(process)
                time.sleep(0.01)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.7)
            process.send_signal(number)
            run = ended(process)

        assert run.status == status, run
        assert not copy.exists()
        assert leftovers(copy) == set()


def _sets(copy: Path) -> dict[bytes, Entry] | None:
    return described(copy) if copy.exists() else None


def test_a_server_without_rights(tmp_path: Path) -> None:
    """
    A real server that may not read a file says so inside the content of small files;
    none of that ever becomes a file here, and nothing is put in place.
    """
    from tests.interop.prepared import (  # noqa: PLC0415
        AS_NOBODY,
        NOBODY,
        need_nobody,
        public_folder,
    )

    need_nobody()
    with public_folder() as folder:
        work = WorkFolder(folder / "work")
        tree = folder / "tree"
        tree.mkdir()
        (tree / "open").write_bytes(b"open\n")
        copy = tmp_path / "copy"
        node = SyncAgent(tmp_path / "node")

        class Unprivileged(RealServer):
            """cf-serverd as a user without rights."""

            def _start(
                self,
                command: list[str],
                environment: dict[str, str],
                cwd: Path,
                log: Path,
            ) -> None:
                for place in (work.path, *work.path.rglob("*")):
                    os.chown(place, NOBODY, NOBODY, follow_symlinks=False)
                super()._start([*AS_NOBODY, *command], environment, cwd, log)

        with Unprivileged(work, {"tree": tree}) as server:
            first = node.sync(server.port, "tree", copy)
            before = _sets(copy)
            runs: list[SyncRun] = []
            for size in (1, 3, 4, 59, 67, 70, 5000) if FULL else (3, 67, 5000):
                (tree / "closed").write_bytes(content(size))
                (tree / "closed").chmod(0)
                # It owes the rest of the content, for which this waits. A busy machine
                # may be as slow before that.
                for _ in range(10):
                    run = node.sync(server.port, "tree", copy, "--timeout", "1")
                    assert _sets(copy) == before, run
                    if run.status != UNREACHABLE:
                        break
                runs.append(run)

    assert first.status == DONE, first
    assert {run.status for run in runs} == {UNVERIFIED}, runs
    assert all("closed" in run.said for run in runs)
