# SPDX-License-Identifier: MIT
"""
Record what CFEngine's own programs say to each other.

    python -m scripts.record_exchange [NAME ...]

Starts a real cf-serverd, lets the real clients talk to it through a relay that ends
TLS on both sides, and writes one file for each connection to tests/recorded/. Needs
the cfengine3 package. Run it from the source folder, in the environment of the tests.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.interop.harness import RealAgent, RealServer, WorkFolder
from tests.interop.relay import Relay
from tests.recorded import FOLDER, Exchange, make_tree

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


def main(names: list[str]) -> int:
    """
    Record the cases of these names, or all.
    """
    for name in names or CASES:
        with tempfile.TemporaryDirectory() as folder:
            exchange = record(CASES[name], Path(folder))
        exchange.write(FOLDER / f"{name}.jsonl")
        sys.stdout.write(f"{name}: {len(exchange.records)} records\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
