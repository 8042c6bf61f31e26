# SPDX-License-Identifier: MIT
"""
A failure of the server never deletes a node's copy.

A purging agent takes the refusal of a STAT for "this is gone" and deletes its own
file. So only a decision about access, or a name that does not exist, is refused.
Everything else closes the connection, and the agent keeps what it has. Each test
copies a tree with the real agent, lets something go wrong in the next run, and looks
at what is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.interop.brittle import CONTROL, NAME, TREE, Control, write_plugin
from tests.interop.harness import RealAgent, Run, WorkFolder, config_for, wait_until
from tests.interop.prepared import (
    AS_NOBODY,
    NOBODY,
    ROOT,
    NobodyFolder,
    PreparedServer,
    need_nobody,
    public_folder,
)
from tests.interop.trees import Entry, described

#: What the rule of the plugin is bound to; no such folder exists.
MOUNT = "/brittle"

#: Every kind of failure, as it can be raised by what serves files.
KINDS = (
    *("EIO", "ESTALE", "ENOMEM", "EMFILE", "ENFILE", "EACCES", "ETIMEDOUT"),
    *("QueueFull", "MemoryError", "ValueError"),
)

LATER = pytest.mark.parametrize("later", [False, True], ids=["at-once", "later"])


def make_tree(path: Path) -> Path:
    """
    A tree whose names have an order that the plugin keeps.
    """
    (path / "b").mkdir(parents=True)
    for name in ("a", "b/one", "b/two", "m", "z"):
        (path / name).write_text(f"the content of {name}\n")
    return path


class Node:
    """
    A node that keeps a purged copy of a folder, and what the copy was.
    """

    def __init__(self, agent: RealAgent, port: int, source: str, copy: Path) -> None:
        self.agent = agent
        self.port = port
        self.source = source
        self.copy = copy
        self.before: dict[bytes, Entry] = {}

    def run(self) -> Run:
        """
        Bring the copy up to date.
        """
        return self.agent.copy(
            "127.0.0.1", self.port, self.source, self.copy, purge="true"
        )

    def remember(self) -> None:
        """
        Put a file there that the next whole run will delete: whether it is still
        there tells a run that did not come to its end. Then note all there is.
        """
        (self.copy / "extra").write_text("only here\n")
        self.before = described(self.copy)

    @property
    def lost(self) -> set[bytes]:
        """
        What was there before and is not any more, or is something else.
        """
        now = described(self.copy)
        return {name for name, entry in self.before.items() if now.get(name) != entry}


class Place:
    """
    A server with a folder that the plugin serves, and with a real one.
    """

    def __init__(self, folder: Path) -> None:
        self.tree = make_tree(folder / "tree")
        self.real = make_tree(folder / "real")
        self.control = Control(folder / "control")
        self.settings = (
            config_for({"real": self.real})
            + f'[[access]]\npath = "{MOUNT}/"\nshortcut = "brittle"\n'
            + f'source = "{NAME}"\nadmit_ips = ["127.0.0.1"]\n'
        )
        plugins = write_plugin(folder / "plugins")
        self.server = PreparedServer(
            folder / "server",
            self.settings,
            environment={
                "PYTHONPATH": f"{plugins}:{ROOT}",
                TREE: str(self.tree),
                CONTROL: str(self.control.path),
            },
        )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """
    The work folder of the node of all tests here.
    """
    return WorkFolder(tmp_path_factory.mktemp("failures") / "node")


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, work: WorkFolder
) -> Iterator[Place]:
    """
    The place of all tests that leave the server running.
    """
    place = Place(tmp_path_factory.mktemp("brittle"))
    with place.server:
        yield place


@pytest.fixture(scope="module")
def copied(
    shared: Place, work: WorkFolder, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """
    A whole copy of both folders, made by the agent.
    """
    found = {}
    for source, tree in (("brittle", shared.tree), ("real", shared.real)):
        copy = tmp_path_factory.mktemp("copies") / source
        node = Node(RealAgent(work), shared.server.port, source, copy)
        done = node.run()
        assert names(copy) == names(tree), done.output
        found[source] = copy
    return found


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    """
    That place, in order again after each test.
    """
    yield shared
    shared.control.nothing()


@pytest.fixture
def node_of(
    shared: Place, copied: dict[str, Path], work: WorkFolder, tmp_path: Path
) -> Callable[[str], Node]:
    """
    Makes a node with a whole copy of one of the two folders.
    """

    def make(source: str) -> Node:
        copy = tmp_path / source
        shutil.copytree(copied[source], copy)
        node = Node(RealAgent(work), shared.server.port, source, copy)
        node.remember()
        return node

    return make


def names(folder: Path) -> dict[bytes, str]:
    """
    Every name below *folder*, with the digest of its content.
    """
    return {name: entry.content for name, entry in described(folder).items()}


def test_a_run_without_failure_purges(
    place: Place, node_of: Callable[[str], Node]
) -> None:
    """
    Without a failure the file that is only on the node is deleted, so its presence
    in the other tests means something.
    """
    for source in ("brittle", "real"):
        node = node_of(source)
        done = node.run()

        assert node.lost == {b"extra"}, done.output


@LATER
def test_a_name_that_does_not_exist_is_purged(
    place: Place, node_of: Callable[[str], Node], later: bool
) -> None:
    """
    A listed file that does not exist any more is refused, and deleted on the node:
    the one failure that is no failure.
    """
    node = node_of("brittle")
    place.control.fail("m", "resolve", "ENOENT", later=later)

    done = node.run()

    assert node.lost == {b"extra", b"m"}, done.output


@LATER
@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_stat_deletes_nothing(
    place: Place, node_of: Callable[[str], Node], kind: str, later: bool
) -> None:
    """
    Whatever fails at a STAT in the middle of a run, nothing is lost, and the log
    says what failed.
    """
    node = node_of("brittle")
    place.control.fail("m", "resolve", kind, later=later)
    told = place.server.logs().count("SYNCH brittle/m")

    done = node.run()

    assert node.lost == set(), done.output
    assert place.server.logs().count("SYNCH brittle/m") > told


@LATER
@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("", "resolve"),
        ("", "entries"),
        ("a", "resolve"),
        ("b", "resolve"),
        ("b", "entries"),
        ("b/one", "resolve"),
        ("b/two", "digest"),
        ("m", "digest"),
        ("z", "resolve"),
    ],
)
def test_a_failure_anywhere_deletes_nothing(
    place: Place,
    node_of: Callable[[str], Node],
    name: str,
    operation: str,
    later: bool,
) -> None:
    """
    At the top, in a folder, at the first and at the last name, when listing and when
    comparing: nothing is lost.
    """
    node = node_of("brittle")
    place.control.fail(name, operation, "EIO", later=later)

    done = node.run()

    assert node.lost == set(), done.output


@LATER
@pytest.mark.parametrize("kind", ["EIO", "ENOENT", "MemoryError"])
def test_a_failing_read_writes_nothing(
    place: Place, node_of: Callable[[str], Node], kind: str, later: bool
) -> None:
    """
    A file that cannot be read after its STAT leaves the old copy as it was, with
    none of an error's text in it.
    """
    node = node_of("brittle")
    (node.copy / "m").write_text("older\n")
    node.remember()
    place.control.fail("m", "read", kind, later=later)

    done = node.run()

    assert node.lost == set(), done.output
    assert (node.copy / "m").read_text() == "older\n"


@pytest.mark.parametrize("free", [1, 2])
def test_no_descriptors_left(
    place: Place, node_of: Callable[[str], Node], free: int
) -> None:
    """
    A server that can open the connection, and then no file or one, loses nothing;
    and it serves again as soon as it can.
    """
    node = node_of("real")
    # A file that must be read, which takes one descriptor more than a STAT.
    (node.copy / "b" / "two").write_text("older\n")
    node.remember()

    with place.server.free_descriptors(free):
        done = node.run()

    assert node.lost == set(), done.output
    assert "Too many open files" in place.server.logs()
    assert node.run().status == 0
    assert names(node.copy) == names(place.real)


def in_background(node: Node, outputs: list[Run]) -> threading.Thread:
    """
    Start a run of the node's agent.
    """
    thread = threading.Thread(target=lambda: outputs.append(node.run()))
    thread.start()
    return thread


@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
def test_a_reload_in_the_middle(
    place: Place, node_of: Callable[[str], Node], good: bool
) -> None:
    """
    The configuration is read again between two requests of a run: the run goes on
    to its end, whether the new file is good or not.
    """
    node = node_of("brittle")
    place.control.wait("m")
    outputs: list[Run] = []
    event = "config.loaded" if good else "config.rejected"
    told = place.server.logs().count(event)

    thread = in_background(node, outputs)
    try:
        wait_until(place.control.reached.exists, "the STAT in the middle")
        place.server.write_settings(place.settings if good else "nonsense = [")
        place.server.reload()
        wait_until(lambda: place.server.logs().count(event) > told, event)
    finally:
        place.server.write_settings(place.settings)
        place.control.nothing()
        thread.join()

    assert node.lost == {b"extra"}, outputs[0].output


def loaded(server: PreparedServer, times: int) -> bool:
    """
    Whether the server has said so often that a configuration is in force.
    """
    return server.logs().count("config.loaded") >= times


def test_reloads_all_the_time(
    place: Place, node_of: Callable[[str], Node], tmp_path: Path
) -> None:
    """
    Reload upon reload while a larger tree is compared: nothing of it is refused.
    """
    many = place.real / "many"
    many.mkdir()
    for number in range(300):
        (many / str(number)).write_text(f"{number}\n")
    node = node_of("real")
    try:
        node.run()
        node.remember()
        outputs: list[Run] = []
        told = place.server.logs().count("config.loaded")
        thread = in_background(node, outputs)
        reloads = 0
        while thread.is_alive():
            place.server.reload()
            reloads += 1
            wanted = told + reloads
            wait_until(partial(loaded, place.server, wanted), "the reload")
        thread.join()
    finally:
        shutil.rmtree(many)

    assert reloads > 3
    assert node.lost == {b"extra"}, outputs[0].output


@pytest.mark.parametrize("finishes", [True, False], ids=["in-time", "too-late"])
def test_a_stop_in_the_middle(work: WorkFolder, tmp_path: Path, finishes: bool) -> None:
    """
    The server is stopped while it works on a STAT, and is done with it in time or
    not: nothing is lost.
    """
    place = Place(tmp_path / "place")
    place.server.write_settings(place.settings + "[limits]\nstop_grace = 1\n")
    node = Node(RealAgent(work), place.server.port, "brittle", tmp_path / "copy")
    outputs: list[Run] = []
    with place.server:
        node.run()
        assert names(node.copy) == names(place.tree)
        node.remember()
        place.control.wait("m")
        thread = in_background(node, outputs)
        wait_until(place.control.reached.exists, "the STAT in the middle")
        os.kill(place.server.pid, signal.SIGTERM)
        wait_until(lambda: "server.stopping" in place.server.logs(), "the stop")
        if finishes:
            place.control.nothing()
        wait_until(lambda: not place.server.alive, "the end of the server")
        thread.join()

    assert node.lost == set(), outputs[0].output
    assert "server.stopped" in place.server.logs()
    # Nobody listens now: nothing is lost either.
    done = node.run()
    assert node.lost == set(), done.output


@pytest.fixture(scope="module")
def poor(work: WorkFolder) -> Iterator[tuple[PreparedServer, Path]]:
    """
    A server that runs without root's rights, and the folder it serves.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(public_folder())
        prefix: tuple[str, ...] = ()
        if os.geteuid() == 0:
            need_nobody()
            prefix = AS_NOBODY
        tree = make_tree(folder / "tree")
        server = PreparedServer(
            folder / "server", config_for({"tree": tree}), prefix=prefix
        )
        if prefix:
            for path in (server.folder, server.state):
                os.chown(path, NOBODY, NOBODY)
        stack.enter_context(server)
        yield server, tree


@pytest.mark.parametrize("name", [".", "b", "m", "b/one"])
def test_what_our_own_process_may_not_read(
    poor: tuple[PreparedServer, Path], work: WorkFolder, tmp_path: Path, name: str
) -> None:
    """
    A file or folder that the server's own user may not read is a failure of the
    server, not a decision about the node: nothing is lost.
    """
    server, tree = poor
    node = Node(RealAgent(work), server.port, "tree", tmp_path / "copy")
    node.run()
    assert names(node.copy) == names(tree)
    node.remember()
    mode = (tree / name).stat().st_mode
    (tree / name).chmod(0)
    try:
        done = node.run()
    finally:
        (tree / name).chmod(mode)

    assert node.lost - changed_mode(name) == set(), done.output
    assert "Permission denied" in server.logs()


def changed_mode(name: str) -> set[bytes]:
    """
    What is different in a copy when *name* has lost its mode on the server: the
    agent copies the mode before it looks into a folder.
    """
    return {os.fsencode(name)}


def test_a_denied_file_is_purged(
    shared: Place, work: WorkFolder, tmp_path: Path
) -> None:
    """
    A rule that denies one file of a tree takes the file away from the nodes, by
    their own purge: a decision, not a failure.
    """
    tree = make_tree(tmp_path / "tree")
    settings = config_for({"tree": tree})
    node_copy = tmp_path / "copy"
    with PreparedServer(tmp_path / "server", settings) as server:
        node = Node(RealAgent(work), server.port, "tree", node_copy)
        node.run()
        assert names(node_copy) == names(tree)
        node.remember()
        server.write_settings(
            f'{settings}[[access]]\npath = "{tree}/m"\n'
            'admit_ips = ["127.0.0.0/8"]\ndeny_ips = ["127.0.0.1"]\n'
        )
        server.reload()
        wait_until(lambda: "config.loaded" in server.logs(), "the reload")

        done = node.run()

        assert node.lost == {b"extra", b"m"}, done.output
        refused = [line for line in server.logs().splitlines() if "refused:" in line]
        assert len(refused) == 1
        assert "tree/m" in refused[0]


def test_the_right_on_a_file(tmp_path: Path) -> None:
    """
    An agent of another user than root gets what everybody may read; what becomes
    private is refused to it, and purged; an agent of root still gets it.
    """
    need_nobody()
    with ExitStack() as stack:
        folder = stack.enter_context(public_folder())
        tree = make_tree(folder / "tree")
        settings = config_for(
            {"tree": tree}, server='trustusers = ["root", "nobody"]\n'
        )
        server = stack.enter_context(PreparedServer(tmp_path / "server", settings))
        nodes = {}
        for user, kind in (("nobody", NobodyFolder), ("root", WorkFolder)):
            home = folder / user
            home.mkdir()
            work = kind(home / "work")
            copy = home / "copy"
            copy.mkdir()
            if user == "nobody":
                os.chown(copy, NOBODY, NOBODY)
            nodes[user] = Node(RealAgent(work), server.port, "tree", copy)
            done = nodes[user].run()
            assert names(copy) == names(tree), done.output
            nodes[user].before = described(copy)

        (tree / "m").chmod(0o600)

        done = nodes["nobody"].run()
        assert nodes["nobody"].lost == {b"m"}, done.output
        done = nodes["root"].run()
        assert names(nodes["root"].copy) == names(tree), done.output
        # Only the mode is another one.
        assert nodes["root"].lost == {b"m"}
