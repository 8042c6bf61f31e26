# SPDX-License-Identifier: MIT
"""
`nodecomm sync` and its sisters over the classic protocol, plain and encrypted, from the
real server and from ours: the same as the real agent, and what that one cannot store.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodecomm.identity.server_keys import SERVER_KEYS_FOLDER, ServerKeyStore
from tests.interop.conftest import KINDS, ClassicShares
from tests.interop.harness import (
    NodecommServer,
    RealAgent,
    RealServer,
    Server,
    WorkFolder,
    config_for,
)
from tests.interop.servers import LOOPBACK
from tests.interop.syncing import FULL, SyncAgent, SyncRun, leftovers
from tests.interop.test_agent import Agent, address, agent
from tests.interop.trees import Entry, content, described
from tests.recorded import key_pair

__all__ = ["agent"]

PLAIN = ("--protocol", "classic")
ENCRYPTED = (*PLAIN, "--encrypt")


@pytest.fixture(params=[PLAIN, ENCRYPTED], ids=["plain", "encrypted"])
def words(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """
    The options for both ways to ask: each of one kind of server, and whole copies of
    both kinds.
    """
    assert isinstance(request.param, tuple)
    kind = request.node.callspec.params.get("classic_server")
    usual = PLAIN if kind == "nodecomm" else ENCRYPTED
    whole = request.node.originalname == "test_a_copy_is_that_of_the_real_agent"
    if kind is not None and request.param != usual and not (whole or FULL):
        pytest.skip("the other way to ask; NODECOMM_FULL=1 asks in both")
    return request.param


@pytest.fixture
def ours(tmp_path: Path) -> SyncAgent:
    """
    A node that copies with our program.
    """
    return SyncAgent(tmp_path / "ours", key=key_pair("client"))


@pytest.fixture
def scratch(classic_shares: ClassicShares) -> tuple[Path, str]:
    """
    An empty folder of the test's own on the server, and what a client calls it.
    """
    return classic_shares.folder()


def is_storable_for_real_agents(name: bytes, entry: Entry) -> bool:
    """
    Whether the real agent can make it: it stores neither names that are too long for
    it, nor links to a name of one character.
    """
    is_short_link = entry.kind == "link" and len(entry.content) == 1
    return len(os.path.basename(name)) <= 249 and not is_short_link


def warned(done: SyncRun) -> list[str]:
    """
    What was said beside the result.
    """
    return done.errors.splitlines()


def test_a_copy_is_that_of_the_real_agent(
    classic_server: Server,
    classic_shares: ClassicShares,
    ours: SyncAgent,
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """
    Names, kinds, contents, modes and links of the tree of all hard cases are what the
    real agent fetched from the same server, and what it cannot store is here. A second
    update finds nothing to do. One line says that nothing protects all this.
    """
    real = RealAgent(WorkFolder(tmp_path / "node", key=key_pair("client")))
    encrypt = "true" if "--encrypt" in words else "false"
    real.copy(
        "127.0.0.2",
        classic_server.port,
        "files",
        tmp_path / "real",
        protocol_version="1",
        encrypt=encrypt,
    )
    expected = described(tmp_path / "real")
    shutil.rmtree(tmp_path / "real")
    copy = tmp_path / "copy"

    done = ours.sync(classic_server.port, "files", copy, *words, "--preserve")
    again = ours.sync(classic_server.port, "files", copy, *words, "--preserve")
    found = described(copy)

    assert found == described(classic_shares.files)
    assert expected == {
        name: entry
        for name, entry in found.items()
        if is_storable_for_real_agents(name, entry)
    }
    assert found[b"links/to-folder"] == Entry("link", 0, 0, "../a")
    assert found[b"links/short"].content == "t"
    assert done.facts["changed"]
    assert not again.facts["changed"]
    assert (again.facts["fetched"], again.facts["refused"]) == (0, [])
    assert done.facts["connections"] == again.facts["connections"] == 1
    for run in (done, again):
        (line,) = warned(run)
        assert line.startswith("warning: the classic protocol is spoken with 127.0.0.1")
        assert ("encrypted" in line) == ("--encrypt" in words)
    assert leftovers(copy) == set()


def test_a_loop_of_links(
    classic_server: Server,
    classic_shares: ClassicShares,
    ours: SyncAgent,
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """
    Links up the tree are links, and nothing is endless.
    """
    done = ours.sync(classic_server.port, "loops", tmp_path / "copy", *words)

    assert done.facts["warnings"] == []
    assert described(tmp_path / "copy") == described(classic_shares.loops)


def test_what_changes(
    classic_server: Server,
    ours: SyncAgent,
    scratch: tuple[Path, str],
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """
    Files, folders and links that come, go and take each other's places: the copy is
    what the server has, each time. Folders that are gone cost one connection more.
    """
    tree, name = scratch
    copy = tmp_path / "copy"
    for folder in ("one", "two/in", "three"):
        (tree / folder).mkdir(parents=True)
        (tree / folder / "file").write_bytes(content(5000))
    (tree / "way").symlink_to("one")
    (tree / "up").symlink_to("..")
    (tree / "lost").symlink_to("nowhere")

    def update() -> SyncRun:
        done = ours.sync(classic_server.port, name, copy, *words, "--purge")
        assert done.status == 0, done
        assert described(copy) == described(tree)
        return done

    first = update()
    assert first.facts["refused"] == []
    (tree / "one" / "file").write_bytes(content(5000, 1))
    (tree / "way").unlink()
    (tree / "way").symlink_to("three")
    (tree / "lost").unlink()
    (tree / "lost").mkdir()
    (tree / "lost" / "found").write_bytes(b"here")
    shutil.rmtree(tree / "three")
    (tree / "three").write_bytes(b"a file")
    changed = update()
    assert changed.facts["fetched"] == 3
    shutil.rmtree(tree / "one")
    shutil.rmtree(tree / "two")
    shutil.rmtree(tree / "lost")
    (tree / "one").symlink_to("three")
    gone = update()
    assert gone.facts["removed"] == 6
    assert gone.facts["connections"] <= 2
    assert not update().facts["changed"]


def test_both_protocols_by_turns(
    classic_server: Server,
    classic_shares: ClassicShares,
    ours: SyncAgent,
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """
    A destination that was copied over TLS, where links are what they lead to, becomes
    one with links, and back.
    """
    copy = tmp_path / "copy"
    followed = described(classic_shares.files, follow=True)
    plain = described(classic_shares.files)
    for options, expected in (((), followed), (words, plain), ((), followed)):
        done = ours.sync(classic_server.port, "files", copy, "--purge", *options)

        assert done.status == 0, done
        assert described(copy) == expected


def test_the_source_is_a_link(
    classic_server: Server,
    classic_shares: ClassicShares,
    ours: SyncAgent,
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """
    It is followed, to a folder and to a file.
    """
    port = classic_server.port
    folder, file = tmp_path / "folder", tmp_path / "file"
    assert ours.sync(port, "files/links/to-folder", folder, *words).status == 0
    assert ours.sync(port, "files/links/to-file", file, *words).status == 0

    assert described(folder) == described(classic_shares.files / "a")
    assert file.read_bytes() == b"the target\n"


def test_a_single_file(
    classic_server: Server,
    ours: SyncAgent,
    scratch: tuple[Path, str],
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """
    An empty one, one of two blocks of the cipher, and a large one.
    """
    tree, name = scratch
    for size in (0, 4065, 3_000_000):
        (tree / "file").write_bytes(content(size))

        done = ours.sync(classic_server.port, f"{name}/file", tmp_path / "file", *words)

        assert done.facts["changed"], size
        assert (tmp_path / "file").read_bytes() == content(size)


def test_stat_ls_and_get(
    classic_server: Server,
    ours: SyncAgent,
    classic_shares: ClassicShares,
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """
    The commands show links as links, get what they lead to, and tell a refusal.
    """
    at = f"127.0.0.1:{classic_server.port}:files"
    more = (*words, "--trust-server")

    facts = ours.run("stat", "--json", f"{at}/links/to-folder", *more).facts
    assert (facts["type"], facts["target"], facts["target_type"]) == (
        "link",
        "../a",
        "folder",
    )
    facts = ours.run("stat", "--json", f"{at}/links/dangling", *more).facts
    assert (facts["type"], facts["target"]) == ("link", "nowhere/to/be/found")
    listed = ours.run("ls", "-l", f"{at}/links", *more)
    assert listed.status == 0
    assert "to-file -> target" in listed.output
    listed = ours.run("ls", f"{at}/links/to-file", *more)
    assert listed.output == "files/links/to-file\n"
    local = tmp_path / "local"
    done = ours.run("get", f"{at}/links/to-file", str(local), *more)
    assert done.status == 0, done
    assert local.read_bytes() == b"the target\n"
    done = ours.run("get", f"{at}/sizes/3000000", str(local), *more)
    assert local.read_bytes() == content(3_000_000)
    assert ours.run("stat", f"{at}/nothing", *more).status == 5
    assert ours.run("ls", f"{at}/nothing", *more).status == 5
    assert len(warned(done)) == 1


def test_another_key(
    classic_server: Server, ours: SyncAgent, words: tuple[str, ...], tmp_path: Path
) -> None:
    """
    A server that has another key than is stored, or than is named, gets no question:
    status 4, and what to do.
    """
    name = f"127.0.0.1:{classic_server.port}"
    copy = tmp_path / "copy"
    other = key_pair("client").public
    store = ServerKeyStore(ours.state / SERVER_KEYS_FOLDER)
    store.add(name, other)

    changed = ours.sync(classic_server.port, "files", copy, *words)
    pin = ("--server-key", other.sha)
    pinned = ours.sync(classic_server.port, "files", copy, *words, *pin, trust=False)

    for done in (changed, pinned):
        assert done.status == 4, done
        assert key_pair("server").public.md5 in done.said
    assert f"nodecomm server-key accept {name} --protocol classic" in changed.said
    assert json.loads(changed.output)["error"]["code"] == "key-changed"
    assert not copy.exists()
    if words != PLAIN:
        # What follows is not encrypted.
        return

    asked = ours.run("server-key", "accept", name, *PLAIN)
    wrong = ours.run("server-key", "accept", name, other.md5, *PLAIN)
    right = ours.run(
        "server-key", "accept", name, key_pair("server").public.sha, *PLAIN
    )

    statuses = (asked.status, wrong.status, right.status)
    assert statuses == (4, 4, 0), (asked, wrong, right)
    digest = key_pair("server").public.md5
    command = f"nodecomm server-key accept {name} --protocol classic {digest}"
    assert command in asked.said
    assert store.keys(name) == (key_pair("server").public,)
    done = ours.sync(classic_server.port, "loops", copy, *words, trust=False)
    assert done.status == 0, done


def test_a_server_that_does_not_speak_it(ours: SyncAgent, tmp_path: Path) -> None:
    """
    It hangs up, and the setting that decides is named.
    """
    tree = tmp_path / "tree"
    tree.mkdir()
    work = WorkFolder(tmp_path / "work", key=key_pair("server"))
    with RealServer(work, {"tree": tree}) as server:
        done = ours.sync(server.port, "tree", tmp_path / "copy", *PLAIN, "-t", "5")

    assert done.status == 3, done
    assert "allowlegacyconnects" in done.errors


@pytest.fixture(params=KINDS)
def closed(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Server, Path]]:
    """
    A server with a tree of which parts are given encrypted only, and one not at all.
    The real server's classic rules go by the order in which they stand.
    """
    tree = tmp_path / "tree"
    for folder in ("open", "sealed-1", "sealed-2/in", "shut"):
        (tree / folder).mkdir(parents=True)
        (tree / folder / "file").write_bytes(content(5000))
    (tree / "link").symlink_to("open")
    (tree / "to-shut").symlink_to("shut")
    networks = ", ".join(f'"{network}"' for network in LOOPBACK)
    key = key_pair("server")
    if request.param == "cf-serverd":
        sealed = "".join(
            f'  "{tree}/sealed-{number}/" admit_ips => {{ {networks} }},'
            ' ifencrypted => "true";\n'
            for number in (1, 2)
        )
        access = (
            f'{sealed}  "{tree}/shut/" deny_ips => {{ {networks} }};\n'
            f'  "{tree}/" shortcut => "tree", admit_ips => {{ {networks} }};\n'
        )
        work = WorkFolder(tmp_path / "work", key=key)
        with RealServer(work, {}, access=access, classic=True) as real:
            yield real, tree
    else:
        rules = "".join(
            f'[[access]]\npath = "{tree}/sealed-{number}/"\nifencrypted = true\n'
            f"admit_ips = [{networks}]\n"
            for number in (1, 2)
        )
        rules += f'[[access]]\npath = "{tree}/shut/"\ndeny_ips = [{networks}]\n'
        settings = config_for({"tree": tree}, classic=True, more=rules)
        with NodecommServer(tmp_path / "server", settings, key=key) as server:
            yield server, tree


def test_parts_that_are_refused(
    closed: tuple[Server, Path], ours: SyncAgent, tmp_path: Path
) -> None:
    """
    A refused listing ends a classic connection: the rest is brought here all the same,
    each time, and nothing that was there before is removed. Encrypted, the parts that
    are given encrypted only are there as well.
    """
    server, tree = closed
    copy = tmp_path / "copy"
    whole = described(tree)
    open_names = {b"open", b"open/file", b"link"}
    sealed = {name for name in whole if name.startswith(b"sealed")}

    plain = ours.sync(server.port, "tree", copy, *PLAIN, "--purge")

    assert plain.status == 0, plain
    assert {*map(str.encode, plain.facts["refused"])} >= {
        b"sealed-1",
        b"sealed-2",
        b"shut",
    }
    assert described(copy).keys() == open_names

    both = ours.sync(server.port, "tree", copy, *ENCRYPTED, "--purge")

    assert both.status == 0, both
    found = described(copy)
    assert found == {name: whole[name] for name in open_names | sealed}
    assert both.facts["connections"] == 1

    # What is here from the encrypted run stays in one that is not.
    (tree / "open" / "file").write_bytes(b"new")
    again = ours.sync(server.port, "tree", copy, *PLAIN, "--purge")

    assert again.status == 0, again
    assert again.facts["removed"] == 0
    assert described(copy).keys() == open_names | sealed
    assert (copy / "open" / "file").read_bytes() == b"new"


def test_content_that_is_refused(
    ours: SyncAgent, words: tuple[str, ...], tmp_path: Path
) -> None:
    """
    The real server describes files that it does not give to a user who may not read
    them. They are left out; all others come.
    """
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(6):
        file = tree / f"file{number}"
        file.write_bytes(content(5000, number))
        file.chmod(0o600 if number in (1, 4) else 0o644)
    work = WorkFolder(tmp_path / "work", key=key_pair("server"))
    copy = tmp_path / "copy"
    user = ["--user", "daemon"]
    if "--encrypt" not in words:
        # In the clear the whole file is waited for.
        user += ["--timeout", "2"]
    with RealServer(work, {"tree": tree}, classic=True) as server:
        for _ in range(10):
            done = ours.sync(server.port, "tree", copy, *words, *user)
            # A busy machine may be slow before that.
            if done.status != 3:
                break

    if "--encrypt" not in words:
        # In the clear a refusal cannot be told from content but by its digest.
        assert done.status == 6, done
        assert "begins with a refusal" in done.errors
        assert not copy.exists()
        return
    assert done.status == 0, done
    assert done.facts["refused"] == ["file1", "file4"]
    assert done.facts["connections"] <= 3
    assert sorted(os.listdir(copy)) == ["file0", "file2", "file3", "file5"]


@pytest.mark.parametrize("encrypt", [False, True])
def test_the_agent(
    agent: Agent, classic_server: Server, scratch: tuple[Path, str], encrypt: bool
) -> None:
    """
    The agent copies by its configuration, warns at each run, and its status says what
    is spoken.
    """
    tree, name = scratch
    (tree / "promises.cf").write_text("bundle agent main {}\n")
    (tree / "link").symlink_to("promises.cf")
    more = (
        f'interval = "10m"\nsplay = "0s"\nprotocol = "classic"\n'
        f"encrypt = {json.dumps(encrypt)}"
    )
    agent.configure(address(classic_server), source=name, more=more)
    process = agent.start()
    process.wait_for("agent.updated")
    agent.settled()

    assert described(agent.destination) == described(tree)
    status, out, errors = agent.status()
    assert (status, errors) == (0, "")
    how = "encrypted" if encrypt else "in the clear"
    assert f"protocol:      classic, {how}: not protected on the way" in out
    process.signal(signal.SIGUSR1)
    process.wait_for("agent.unprotected:", times=2)
