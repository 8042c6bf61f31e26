# SPDX-License-Identifier: MIT
"""
The worked examples of `docs/examples` do what `docs/plugins.rst` says of them.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

import twisted.plugins
from nodecomm.config.errors import Problem
from nodecomm.interfaces import ICommand, IFileSource, IHeldObject
from nodecomm.service.loading import load
from nodecomm.service.plugins import FoundPlugins, find_plugins
from nodecomm.service.prepared import Prepared, prepare
from nodecomm.service.reloading import apply
from nodecomm.testing import MemoryServer, key_pair, memory_server

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MODULES = ("nodecomm_whoami", "nodecomm_node_facts")

CONFIGURATION = """
[plugins]
commands = ["whoami"]

[[access]]
path = "/node-facts"
shortcut = "facts"
source = "node-facts"
admit_ips = ["10.0.0.0/8"]
"""


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """
    Both examples on the search path, copied so that no cache file is left behind.
    """
    folders = []
    for example in ("whoami", "node-facts"):
        shutil.copytree(EXAMPLES / example, tmp_path / example)
        folders.append(str(tmp_path / example))
    plugin_folders = [str(Path(folder) / "twisted" / "plugins") for folder in folders]
    sys.path[:0] = folders
    twisted.plugins.__path__[:0] = plugin_folders
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)
        for folder in plugin_folders:
            twisted.plugins.__path__.remove(folder)
        for module in MODULES:
            sys.modules.pop(f"twisted.plugins.{module}", None)


def prepared(folder: Path, text: str = CONFIGURATION) -> Prepared | list[Problem]:
    """The configuration of the examples, or its problems."""
    path = folder / "server.toml"
    path.write_text(text)
    made, loaded = prepare(load(path, state_dir=folder / "state"))
    return made if made is not None else list(loaded.problems)


@pytest.fixture
def server(installed: None, tmp_path: Path) -> MemoryServer:
    """A server with the configuration of the examples in force."""
    made = memory_server()
    ready = prepared(tmp_path)
    assert isinstance(ready, Prepared), ready
    apply(made.factory, ready, 100)
    # The windows of the memory server, not of the file.
    made.factory.trust.windows = memory_server().factory.trust.windows
    return made


@pytest.fixture
def found(installed: None) -> FoundPlugins:
    """What is installed now."""
    return find_plugins()


def test_the_interfaces(found: FoundPlugins) -> None:
    """The examples provide the interfaces in full."""
    (command,) = [each for each in found.commands if each.name == "whoami"]
    (source,) = [each for each in found.sources if each.name == "node-facts"]
    assert verifyObject(ICommand, command.plugin)
    assert verifyObject(IFileSource, source.plugin)
    assert verifyObject(IHeldObject, source.plugin.resolve(None, b""))
    assert (command.fault, source.fault) == (None, None)


def test_the_command(server: MemoryServer) -> None:
    """`WHOAMI` tells each node its own user, key and address."""
    for number, address in ((1, "10.0.0.1"), (2, "10.0.0.2")):
        node = server.connect(address, key=key_pair(number))
        digest = key_pair(number).public.md5
        assert node.request(b"WHOAMI") == [f"OK: root {digest} {address}".encode()]


def test_the_command_with_arguments(server: MemoryServer) -> None:
    """What the command does not understand ends the connection."""
    node = server.connect("10.0.0.1")
    (answer,) = node.request(b"WHOAMI really")

    assert answer.startswith(b"BAD:")
    assert node.closed


def test_the_command_is_unknown_without_a_word(installed: None) -> None:
    """Installed is not active."""
    node = memory_server().connect("10.0.0.1")
    (answer,) = node.request(b"WHOAMI")

    assert answer.startswith(b"BAD:")


def test_the_source(server: MemoryServer) -> None:
    """Every node finds its own file, by STAT, OPENDIR, MD5 and GET alike."""
    contents = []
    for number, address in ((1, "10.0.0.1"), (2, "10.0.0.2")):
        node = server.connect(address, key=key_pair(number))
        assert node.opendir(b"facts") == [b".", b"..", b"identity.json"]
        status = node.stat(b"facts/identity.json")
        assert status is not None
        content = node.get(b"facts/identity.json", status.size)
        assert len(content) == status.size
        digest = hashlib.md5(content, usedforsecurity=False).digest()
        assert node.differs(b"facts/identity.json", digest) == b"CFD_FALSE"
        assert node.stat(b"facts/other") is None
        assert not node.closed
        contents.append(json.loads(content))

    assert [content["address"] for content in contents] == ["10.0.0.1", "10.0.0.2"]
    assert contents[0]["key"] != contents[1]["key"]


def test_the_source_obeys_the_rules(server: MemoryServer) -> None:
    """A node that the rule does not admit has nothing of the source."""
    node = server.connect("192.168.0.1")

    assert node.stat(b"facts/identity.json") is None
    assert node.opendir(b"facts") is None


def test_what_is_not_installed(tmp_path: Path) -> None:
    """Without the packages the same configuration has two errors, with their lines."""
    problems = prepared(tmp_path)
    assert isinstance(problems, list)
    told = {
        problem.key_path: problem.origin.line if problem.origin else 0
        for problem in problems
        if problem.is_error
    }

    assert told == {"plugins.commands[0]": 3, "access[0].source": 8}


def test_the_page_tells_the_truth() -> None:
    """The configuration on the page is the one that is tested here."""
    page = (EXAMPLES.parent / "plugins.rst").read_text()
    for block in CONFIGURATION.strip().split("\n\n"):
        indented = "\n".join(f"    {line}" for line in block.splitlines())
        assert indented in page
