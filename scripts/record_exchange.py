# SPDX-License-Identifier: MIT
"""
Record what CFEngine's own programs say to each other.

    python -m scripts.record_exchange [NAME ...]

Starts a real cf-serverd, lets the real clients talk to it through a relay that ends
TLS on both sides, or passes the classic protocol on, and writes one file for each
connection to tests/recorded/. Needs the cfengine3 package, and root where another user
is needed. Run it from the source folder, in the environment of the tests.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.interop.harness import RealAgent, RealServer, WorkFolder
from tests.interop.prepared import NobodyFolder, public_folder
from tests.interop.relay import PlainRelay, Relay
from tests.interop.running import Command, run_node
from tests.recorded import FOLDER, Exchange, key_pair, make_tree

Tree = dict[str, dict[str, Any]]

_TIME = 1_700_000_000


def _file(content: str, mode: str = "644") -> dict[str, Any]:
    return {"content": content, "mode": mode, "mtime": _TIME}


_FOLDER: dict[str, Any] = {"folder": True, "mode": "755", "mtime": _TIME}

#: A little of everything. Sizes round the real client's block of 2048 bytes and the
#: frame of 4096.
SMALL: Tree = {
    "promises.cf": _file("bundle agent main {}\n"),
    "empty": _file(""),
    "block": _file("b" * 2048),
    "frame": _file("f" * 4097),
    "a name": _file("with a space\n", "600"),
    "\\xff\\xfe": _file("no UTF-8\n"),
    "program": _file("#!/bin/sh\n", "4755"),
    "folder": _FOLDER,
    "folder/inside": _file("inside\n"),
    "folder/nothing": _FOLDER,
    "to-file": {"link": "promises.cf"},
    "to-folder": {"link": "folder"},
    "dangling": {"link": "nowhere"},
    "again": {"hard": "promises.cf"},
}

#: The same names with other contents, for a second run.
CHANGED: Tree = {
    **SMALL,
    "block": _file("c" * 2048),
    "frame": _file("f" * 4000),
}

#: A listing of several frames.
WIDE: Tree = {f"{number:03d}-{'n' * (number % 60)}": _file("") for number in range(400)}


@dataclass
class Case:
    """
    One recorded connection.

    Attributes:
        title: What is done, in words.
        client: Does it, with a node and the relay's port.
        tree: What is served as `files`.
        before: Copied by the node first, unrecorded, to the same destination.
    """

    title: str
    client: Callable[[WorkFolder, int], object]
    tree: Tree = field(default_factory=lambda: SMALL)
    before: Tree | None = None


def _copy(**options: Any) -> Callable[[WorkFolder, int], object]:
    def client(node: WorkFolder, port: int) -> object:
        to = node.path / "copy"
        return RealAgent(node).copy("127.0.0.1", port, "files", to, **options)

    return client


def _cf_net(*words: str) -> Callable[[WorkFolder, int], object]:
    def client(node: WorkFolder, port: int) -> object:
        return node.cf_net("127.0.0.1", port, *words)

    return client


#: Where the classic client meets its server: it would never challenge 127.0.0.1.
CLASSIC_HOST = "127.0.0.2"

#: A link of one character too, which the real client cannot read.
CLASSIC: Tree = {**SMALL, "one": {"link": "b"}, "b": _file("b\n")}

#: Sizes round the blocks of 4,064 bytes and of 8, in which files are encrypted.
BLOCKS: Tree = {
    str(size): _file("x" * size) for size in (1, 7, 8, 4063, 4064, 4065, 8128, 8129)
}

#: Files that only their owner may read.
PRIVATE: Tree = {"private": _file("p" * 100, "600"), "public": _file("public\n")}


@dataclass
class ClassicCase:
    """
    One recorded classic connection: a copy by cf-agent.

    Attributes:
        title: What is done, in words.
        tree: What is served as `files`.
        before: Copied by the node first, unrecorded, to the same destination.
        options: Attributes of `body copy_from`.
        source: What is copied.
        client_key: The node's key.
        server_key: The server's key.
        known: The key that the node knows the server by (form `y`); None: it does not
            know the server (form `n`).
        trusted: The server trusts the node on first use.
        allowed: The node's address is in `allowlegacyconnects`.
        rule: More attributes of the rule for the tree.
        nobody: The agent is run by a user without rights.
    """

    title: str
    tree: Tree = field(default_factory=lambda: CLASSIC)
    before: Tree | None = None
    options: dict[str, str] = field(default_factory=dict)
    source: str = "files"
    client_key: str = "client"
    server_key: str = "server"
    known: str | None = None
    trusted: bool = True
    allowed: bool = True
    rule: str = ""
    nobody: bool = False


_ENCRYPTED = {"encrypt": "true"}
_VERIFIED = {"verify": "true"}

CLASSIC_CASES: dict[str, ClassicCase] = {
    "copy-n": ClassicCase("copy, the server is not known", options=_VERIFIED),
    "copy-y": ClassicCase("copy", options=_VERIFIED, known="server"),
    "copy-encrypted-n": ClassicCase(
        "encrypted copy, the server is not known", options={**_ENCRYPTED, **_VERIFIED}
    ),
    "copy-encrypted-y": ClassicCase(
        "encrypted copy", options={**_ENCRYPTED, **_VERIFIED}, known="server"
    ),
    "update": ClassicCase(
        "update, compare digest, purge",
        tree={**CLASSIC, **CHANGED},
        before=CLASSIC,
        options={"purge": "true"},
        known="server",
    ),
    "update-encrypted": ClassicCase(
        "encrypted update, compare digest, purge",
        tree={**CLASSIC, **CHANGED},
        before=CLASSIC,
        options={**_ENCRYPTED, "purge": "true"},
        known="server",
    ),
    "blocks-encrypted": ClassicCase(
        "encrypted copy of files of whole blocks",
        tree=BLOCKS,
        options=_ENCRYPTED,
        known="server",
    ),
    "wide-encrypted": ClassicCase(
        "encrypted copy of 150 empty files",
        tree=dict(list(WIDE.items())[:150]),
        options=_ENCRYPTED,
        known="server",
    ),
    "stat-refused": ClassicCase(
        "asks for what is not served", source="/etc", known="server"
    ),
    "stat-refused-encrypted": ClassicCase(
        "asks for what is not served, encrypted",
        source="/etc",
        options=_ENCRYPTED,
        known="server",
    ),
    "opendir-refused": ClassicCase(
        "asks in clear for what is served encrypted only",
        rule='ifencrypted => "true"',
        known="server",
    ),
    "get-refused": ClassicCase(
        "a user asks for what only the owner may read",
        tree=PRIVATE,
        nobody=True,
    ),
    "get-refused-encrypted": ClassicCase(
        "a user asks for what only the owner may read, encrypted",
        tree=PRIVATE,
        options=_ENCRYPTED,
        nobody=True,
    ),
    "untrusted-client": ClassicCase(
        "the server does not trust the node", known="server", trusted=False
    ),
    "untrusted-server": ClassicCase(
        "the node does not trust the server", options={"trustkey": "false"}
    ),
    "other-server": ClassicCase("the server has another key", known="other"),
    "not-allowed": ClassicCase("classic is not allowed", allowed=False),
    "client-exponent-3": ClassicCase(
        "the node's key has exponent 3, the server's 4096 bits",
        tree=PRIVATE,
        options=_ENCRYPTED,
        client_key="exponent-3",
        server_key="large",
        known="large",
    ),
    "server-exponent-3": ClassicCase(
        "the server's key has exponent 3, the node's 4096 bits",
        tree=PRIVATE,
        options=_ENCRYPTED,
        client_key="large",
        server_key="exponent-3",
        known="exponent-3",
    ),
    "client-small": ClassicCase(
        "the node's key has 1024 bits",
        tree=PRIVATE,
        options=_ENCRYPTED,
        client_key="small",
    ),
}


def _run_classic(case: ClassicCase, node: WorkFolder, port: int) -> object:
    options: dict[str, Any] = {"protocol_version": "1", **case.options}
    to = node.path / "copy"
    return RealAgent(node).copy(
        CLASSIC_HOST, port, case.source, to, timeout=3, **options
    )


def record_classic(case: ClassicCase, folder: Path) -> Exchange:
    """
    Let the real programs do what *case* says, in new work folders below *folder*.
    """
    hub = WorkFolder(folder / "hub", key=key_pair(case.server_key))
    kind = NobodyFolder if case.nobody else WorkFolder
    node = kind(folder / "node", key=key_pair(case.client_key))
    version = hub.run("cf-serverd", "--version").output.split()[-1]
    if case.known is not None:
        node.know(CLASSIC_HOST, key_pair(case.known).public)

    def server(tree: Path) -> RealServer:
        rule = f",\n    {case.rule}" if case.rule else ""
        return RealServer(
            hub,
            {},
            classic=case.allowed,
            trusting=case.trusted,
            access=f'  "{tree}/" shortcut => "files",'
            f' admit_ips => {{ "127.0.0.1" }}{rule};\n',
        )

    if case.before is not None:
        make_tree(folder / "before", case.before)
        with server(folder / "before") as real:
            _run_classic(case, node, real.port)
    make_tree(folder / "tree", case.tree)
    with (
        server(folder / "tree") as real,
        PlainRelay("127.0.0.1", real.port, address=CLASSIC_HOST) as relay,
    ):
        outcome = _run_classic(case, node, relay.port)
    if len(relay.connections) != 1:
        raise RuntimeError(f"{len(relay.connections)} connections: {outcome}")
    return Exchange(
        title=case.title,
        programs=f"CFEngine {version}",
        tls="",
        shortcut="files",
        tree=case.tree,
        records=relay.connections[0],
        keys={"client": case.client_key, "server": case.server_key},
    )


CASES: dict[str, Case] = {
    "agent-copy-v2": Case(
        "cf-agent copies a tree, protocol version 2, verify",
        _copy(protocol_version="2", verify="true"),
    ),
    "agent-copy-v3": Case(
        "cf-agent copies a tree, newest protocol version, verify",
        _copy(verify="true"),
    ),
    "agent-update-v3": Case(
        "cf-agent updates its copy, compare digest, purge",
        _copy(purge="true"),
        tree=CHANGED,
        before=SMALL,
    ),
    "agent-refused": Case(
        "cf-agent asks for what is not served",
        lambda node, port: RealAgent(node).copy(
            "127.0.0.1", port, "/etc", node.path / "copy"
        ),
    ),
    "net-connect": Case("cf-net connect", _cf_net("connect")),
    "net-stat": Case("cf-net stat", _cf_net("stat", "files/frame")),
    "net-stat-dangling": Case(
        "cf-net stat of a link to nowhere", _cf_net("stat", "files/dangling")
    ),
    "net-stat-refused": Case("cf-net stat, refused", _cf_net("stat", "files/absent")),
    "net-opendir": Case("cf-net opendir", _cf_net("opendir", "files")),
    "net-opendir-wide": Case(
        "cf-net opendir of 400 names", _cf_net("opendir", "files"), tree=WIDE
    ),
    "net-opendir-refused": Case(
        "cf-net opendir, refused", _cf_net("opendir", "files/absent")
    ),
    "net-get": Case("cf-net get", _cf_net("get", "files/frame")),
    "net-get-refused": Case("cf-net get, refused", _cf_net("get", "files/absent")),
}


def record(case: Case, folder: Path) -> Exchange:
    """
    Let the real programs do what *case* says, in new work folders below *folder*.
    """
    hub, node = WorkFolder(folder / "hub"), WorkFolder(folder / "node")
    version = hub.run("cf-serverd", "--version").output.split()[-1]
    if case.before is not None:
        make_tree(folder / "before", case.before)
        with RealServer(hub, {"files": folder / "before"}) as server:
            case.client(node, server.port)
    make_tree(folder / "tree", case.tree)
    with (
        RealServer(hub, {"files": folder / "tree"}) as server,
        Relay("127.0.0.1", server.port) as relay,
    ):
        outcome = case.client(node, relay.port)
    if len(relay.connections) != 1:
        raise RuntimeError(f"{len(relay.connections)} connections: {outcome}")
    return Exchange(
        title=case.title,
        programs=f"CFEngine {version}",
        tls=relay.tls,
        shortcut="files",
        tree=case.tree,
        records=relay.connections[0],
    )


@dataclass
class RunCase:
    """
    One recorded run, asked for by cf-runagent.

    Attributes:
        title: What is done, in words.
        words: Its options.
        state: How the command is: "there", "missing" or "not executable".
        nobody: A user without rights asks.
    """

    title: str
    words: tuple[str, ...] = ()
    state: str = "there"
    nobody: bool = False


RUN_CASES: dict[str, RunCase] = {
    "plain": RunCase("run"),
    "classes": RunCase("run with two classes", ("-D", "ok_a,ok_b")),
    "bundles": RunCase("run of two bundles", ("--remote-bundles", "b_one,b_two")),
    "both": RunCase(
        "run of a bundle with a class", ("-D", "ok_a", "--remote-bundles", "b_one")
    ),
    "selected": RunCase("run of who has one of three classes", ("-s", "no,linux,any")),
    "not-selected": RunCase("run of who has one of two classes", ("-s", "no,never")),
    "refused-user": RunCase("run, the user may not", nobody=True),
    "refused-role": RunCase("run with a class of others", ("-D", "other_a")),
    "refused-bundle": RunCase("run of a denied bundle", ("--remote-bundles", "other")),
    "bad-class": RunCase("run with what is no class", ("-D", "ok_a;reboot")),
    "bad-arguments": RunCase("run with a blank in a class", ("-D", "ok_a reboot")),
    "missing": RunCase("run, there is no such program", state="missing"),
    "not-executable": RunCase("run, the program is none", state="not executable"),
    "fails": RunCase("run that ends with 3", ("-D", "ok_code_3")),
    "killed": RunCase("run that a signal ends", ("-D", "ok_signal_9")),
    "nothing": RunCase("run that says nothing", ("-D", "ok_nothing")),
    "blank": RunCase("run with empty lines", ("-D", "ok_blank")),
    "open": RunCase("run whose last line has no end", ("-D", "ok_open")),
    "long": RunCase("run with a million bytes in a line", ("-D", "ok_long")),
    "binary": RunCase("run with all bytes but NUL", ("-D", "ok_binary")),
    "nul": RunCase("run with NULs", ("-D", "ok_nul")),
    "returns": RunCase("run with carriage returns", ("-D", "ok_returns")),
    "streams": RunCase("run with both streams", ("-D", "ok_streams")),
    "forged": RunCase("run that says what servers say", ("-D", "ok_forged")),
}


def record_run(case: RunCase, folder: Path) -> Exchange:
    """
    Let the real programs do what *case* says, in new work folders below *folder*.
    """
    command = Command.made(folder / "run")
    hub = WorkFolder(folder / "hub")
    version = hub.run("cf-serverd", "--version").output.split()[-1]
    control, access = command.real()
    states: dict[str, AbstractContextManager[None]] = {
        "there": nullcontext(),
        "missing": command.missing(),
        "not executable": command.not_executable(),
    }
    with (
        RealServer(hub, {}, control=control, access=access) as server,
        Relay("127.0.0.1", server.port) as relay,
        states[case.state],
    ):
        kind = NobodyFolder if case.nobody else WorkFolder
        node = run_node(kind(folder / "node"), relay.key.public)
        outcome = node.run("cf-runagent", *case.words, "-H", f"127.0.0.1:{relay.port}")
    if len(relay.connections) != 1:
        raise RuntimeError(f"{len(relay.connections)} connections: {outcome}")
    return Exchange(
        title=case.title,
        programs=f"CFEngine {version}",
        tls=relay.tls,
        shortcut="",
        tree={},
        records=relay.connections[0],
    )


#: What makes the exchange of a name, by the folder in which it is.
_KINDS: dict[str, Callable[[str, Path], Exchange]] = {
    "": lambda name, folder: record(CASES[name], folder),
    "classic": lambda name, folder: record_classic(CLASSIC_CASES[name], folder),
    "exec": lambda name, folder: record_run(RUN_CASES[name], folder),
}


def main(names: list[str]) -> int:
    """
    Record the cases of these names, or all; those of classic exchanges begin with
    `classic/`, those of remote runs with `exec/`.
    """
    os.umask(0o022)
    every = [
        *CASES,
        *(f"classic/{name}" for name in CLASSIC_CASES),
        *(f"exec/{name}" for name in RUN_CASES),
    ]
    for name in names or every:
        kind, _, rest = name.rpartition("/")
        with public_folder() as folder:
            exchange = _KINDS[kind](rest, folder)
        exchange.write(FOLDER / f"{name}.jsonl")
        sys.stdout.write(f"{name}: {len(exchange.records)} records\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
