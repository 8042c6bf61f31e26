# SPDX-License-Identifier: MIT
"""
`nodecomm access explain` says what the server does: every request of a table is
explained, and asked for, over each protocol.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nodecomm.cli import main
from nodecomm.config.errors import in_toml
from nodecomm.testing import MemoryClassicClient, MemoryClient, key_pair, memory_server
from nodecomm.testing.server import MemoryServer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

HERE = "10.2.1.1"
CONTENT = b"content"
Client = MemoryClient | MemoryClassicClient

CONFIG = """\
[server]
allowallconnects = ["0.0.0.0/0"]
allowlegacyconnects = ["10.2.0.0/16"]
allowconnects = ["10.0.0.0/8"]

[[access]]
path = {files}
shortcut = "files"
admit_ips = ["10.0.0.0/8"]

[[access]]
path = {keyed}
admit_keys = ["{key}"]

[[access]]
path = {others}
admit_ips = ["10.9.9.9"]

[[access]]
path = {sealed}
ifencrypted = true
admit_ips = ["10.0.0.0/8"]
maproot = ["10.2.1.1"]
"""

#: What is asked for.
NAMES = (
    "files",
    "files/a",
    "files/private",
    "files/link",
    "files/folder-link",
    "files/nowhere",
    "files/others/f",
    "files/to-others",
    "files/others/out",
    "files/keyed/f",
    "files/sealed",
    "files/sealed/f",
    "files/sealed/private",
    "files/missing",
    "nothing/a",
    "/etc/passwd",
)

WAYS = {
    "tls": [],
    "plain": ["--protocol", "classic"],
    "encrypted": ["--protocol", "classic", "--encrypt"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A tree with a case for each rule, and its configuration.
    """
    root = tmp_path_factory.mktemp("served").resolve()
    files = root / "files"
    for name in ("keyed", "others", "sealed"):
        (files / name).mkdir(parents=True)
    for name in (
        *("a", "private", "keyed/f", "others/f"),
        *("sealed/f", "sealed/private"),
    ):
        (files / name).write_bytes(CONTENT)
        (files / name).chmod(0o600 if name.endswith("private") else 0o644)
    for name, text in (
        ("link", "a"),
        ("folder-link", "sealed"),
        ("nowhere", "gone"),
        ("to-others", "others/f"),
        ("others/out", "../a"),
    ):
        (files / name).symlink_to(text)
    (root / "server.toml").write_text(
        CONFIG.format(
            key=key_pair(1).public.md5,
            files=in_toml(str(files)),
            **{
                name: in_toml(str(files / name))
                for name in ("keyed", "others", "sealed")
            },
        )
    )
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> MemoryServer:
    """
    A server with that configuration, which trusts key 1 under two names.
    """
    tables = tomllib.loads((root / "server.toml").read_text())
    made = memory_server(*tables["access"], server=tables["server"])
    for user in ("root", "daemon"):
        made.store.add(user, key_pair(1).public)
    return made


def explained(root: Path, name: str, operation: str, user: str, way: str) -> bool:
    """
    What the command says, by its exit status and in JSON alike.
    """
    out, err = io.StringIO(), io.StringIO()
    command = ["access", "explain", "-c", str(root / "server.toml"), name, "--json"]
    command += ["--ip", HERE, "--user", user, "--operation", operation, *WAYS[way]]
    command += ["--key", key_pair(1).public.md5, "--hostname", ""]
    status = main.run(command, out, err)
    assert err.getvalue() == ""
    assert json.loads(out.getvalue())["allowed"] is (status == 0)
    return status == 0


def served(
    server: MemoryServer, name: str, operation: str, user: str, way: str
) -> bool:
    """
    Whether a node gets it.
    """
    path, who = name.encode(), user.encode()
    client: Client
    asks: dict[str, Callable[[], object]]
    if way == "tls":
        client = server.connect(HERE, user=who)
    else:
        client = server.connect_classic(HERE, user=who)
    wanted = bytes(16)
    if way == "encrypted":
        assert isinstance(client, MemoryClassicClient)
        asks = {
            "stat": lambda: client.sealed_stat(path),
            "opendir": lambda: client.sealed_opendir(path),
            "md5": lambda: client.sealed_differs(path, wanted) == b"CFD_TRUE",
            "get": lambda: client.sealed_get(path) == CONTENT,
        }
    else:
        asks = {
            "stat": lambda: client.stat(path),
            "opendir": lambda: client.opendir(path),
            "md5": lambda: client.differs(path, wanted) == b"CFD_TRUE",
            "get": lambda: client.get(path, len(CONTENT)) == CONTENT,
        }
    try:
        return bool(asks[operation]())
    finally:
        client.hang_up()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("user", ["root", "daemon"])
def test_what_is_explained_is_what_is_done(
    root: Path, server: MemoryServer, user: str, way: str
) -> None:
    """
    For files, folders and links under every kind of rule the command allows what the
    server gives, and nothing else.
    """
    folders = {"files", "files/sealed", "files/folder-link"}
    compared = [
        (name, operation)
        for name in NAMES
        for operation in ("stat", "opendir", "md5", "get")
        # The command is about rules; none makes a folder of a file.
        if operation == "stat" or (operation == "opendir") == (name in folders)
    ]

    said = {each: explained(root, *each, user, way) for each in compared}
    done = {each: served(server, *each, user, way) for each in compared}

    assert said == done
    assert {True, False} <= set(said.values())
