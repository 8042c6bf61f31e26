# SPDX-License-Identifier: MIT
"""
Plugins: found with Twisted's own search, active only when the configuration names
them, and never able to break the rest.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from attrs import evolve
from twisted.logger import globalLogPublisher

from nodecomm.config.errors import Origin, Problem
from nodecomm.config.model import AccessSettings, PluginSettings, Settings
from nodecomm.server.commands import builtin_commands, command_table
from nodecomm.service.plugins import (
    FoundPlugins,
    active_commands,
    active_sources,
    find_plugins,
)

GOOD = """
from twisted.plugin import IPlugin
from zope.interface import implementer
from nodecomm.interfaces import ICommand, IFileSource

@implementer(IPlugin, ICommand)
class Word:
    api = 1
    versions = frozenset({2, 3})
    def __init__(self, name, *words):
        self.name, self.words = name, words
    def answer(self, request):
        raise NotImplementedError

@implementer(IPlugin, IFileSource)
class Source:
    api = 1
    def __init__(self, name):
        self.name = name
    def resolve(self, peer, name):
        raise FileNotFoundError

hello = Word("hello", b"HELLO", b"HI")
other = Word("other", b"HI")
version = Word("version-too", b"VERSION")
twice = Word("twice", b"TWICE")
again = Word("twice", b"AGAIN")
spaced = Word("spaced", b"A B")
wordless = Word("wordless")
older = Word("older", b"OLD")
older.api = 0
facts = Source("facts")
newer = Source("newer")
newer.api = 2
"""


@pytest.fixture
def package(tmp_path: Path) -> Iterator[ModuleType]:
    """
    A plugin package with one good module, one that does not parse and one that
    raises when it is imported.
    """
    folder = tmp_path / "plugpack"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from twisted.plugin import pluginPackagePaths\n"
        "__path__.extend(pluginPackagePaths(__name__))\n"
        "__all__ = []\n"
    )
    (folder / "good.py").write_text(GOOD)
    (folder / "syntax.py").write_text("def (:\n")
    (folder / "raises.py").write_text("import not_installed_anywhere\n")
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    # What fails to import is logged by Twisted, too; keep the test's output clean.
    early = list(globalLogPublisher._observers)
    for observer in early:
        globalLogPublisher.removeObserver(observer)
    try:
        yield importlib.import_module("plugpack")
    finally:
        for observer in early:
            globalLogPublisher.addObserver(observer)
        sys.path.remove(str(tmp_path))
        for name in [each for each in sys.modules if each.startswith("plugpack")]:
            del sys.modules[name]


@pytest.fixture
def found(package: ModuleType) -> FoundPlugins:
    """What is in the package."""
    return find_plugins(package)


def configured(*commands: str, override: bool = False) -> Settings:
    """Settings that name these commands, each with an origin."""
    origins = {
        f"plugins.commands[{index}]": Origin("server.toml", 10 + index, 5)
        for index in range(len(commands))
    }
    plugins = PluginSettings(commands=commands, override=override)
    return Settings(plugins=plugins, origins=origins)


def test_everything_is_found(found: FoundPlugins) -> None:
    """Commands and sources are found, in name order, with words and origin."""
    assert [each.name for each in found.sources] == ["facts", "newer"]
    assert [each.name for each in found.commands] == [
        "hello",
        "older",
        "other",
        "spaced",
        "twice",
        "twice",
        "version-too",
        "wordless",
    ]
    hello = found.commands[0]
    assert hello.words == (b"HELLO", b"HI")
    assert hello.origin == "plugpack.good:Word"
    assert hello.fault is None


def test_broken_modules_cost_nothing_else(found: FoundPlugins) -> None:
    """A module that fails to import is reported once, with the place."""
    assert len(found.broken) == 2
    told = {each.error.partition(":")[0]: each.where for each in found.broken}
    assert set(told) == {"SyntaxError", "ModuleNotFoundError"}
    assert told["ModuleNotFoundError"].endswith("raises.py:1")


def test_nothing_is_active_by_itself(found: FoundPlugins) -> None:
    """Without a word in the configuration no plugin is active."""
    assert active_commands(Settings(), found, builtin_commands()) == ([], [])
    assert active_sources(Settings(), found) == ({}, [])


def test_named_plugins_are_active(found: FoundPlugins) -> None:
    """A named command is active, and a named source."""
    commands, problems = active_commands(configured("hello"), found, builtin_commands())
    assert problems == []
    assert [command.name for command in commands] == ["hello"]

    access = (AccessSettings(path="/a"), AccessSettings(path="/b", source="facts"))
    sources, problems = active_sources(Settings(access=access), found)
    assert problems == []
    assert list(sources) == ["facts"]


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("nowhere", "no command plugin of this name", "raises.py:1"),
        ("facts", "no command plugin of this name", "hello"),
        ("twice", "two command plugins have this name", "uninstall"),
        ("older", "api version 0; this server has version 1", "plugpack.good"),
        ("spaced", "words are not", "plugpack.good"),
        ("wordless", "words are not", "plugpack.good"),
        ("version-too", "replace the built-in word VERSION", "override = true"),
    ],
)
def test_what_cannot_be_active(
    found: FoundPlugins, name: str, message: str, hint: str
) -> None:
    """Each reason against a plugin is a problem that names key, place and way out."""
    settings = configured("hello", name)
    _, problems = active_commands(settings, found, builtin_commands())

    (problem,) = problems
    assert problem.key_path == "plugins.commands[1]"
    assert problem.origin == Origin("server.toml", 11, 5)
    assert problem.value == name
    assert problem.is_error
    assert message in problem.message
    assert hint in problem.hint


def test_override_replaces_a_word(found: FoundPlugins) -> None:
    """With `override` a plugin answers a built-in word; the others stay."""
    settings = configured("version-too", override=True)
    commands, problems = active_commands(settings, found, builtin_commands())

    assert problems == []
    table = command_table([*builtin_commands(), *commands])
    assert table[3][b"VERSION"].name == "version-too"
    assert table[3][b"SYNCH"].name == "stat"


def test_two_plugins_for_one_word(found: FoundPlugins) -> None:
    """Two plugins for one word are a problem, override or not."""
    settings = configured("hello", "other", override=True)
    _, problems = active_commands(settings, found, builtin_commands())

    assert [problem.message for problem in problems] == [
        "hello answers the word HI already"
    ]


def test_unknown_sources(found: FoundPlugins) -> None:
    """An unknown source, and one for another api, are problems of their rule."""
    access = (
        AccessSettings(path="/a", source="fact"),
        AccessSettings(path="/b", source="newer"),
    )
    settings = evolve(
        Settings(access=access), origins={"access[0].source": Origin("s.toml", 3, 1)}
    )
    sources, problems = active_sources(settings, found)

    assert sources == {}
    first, second = problems
    assert isinstance(first, Problem)
    assert first.key_path == "access[0].source"
    assert first.origin == Origin("s.toml", 3, 1)
    assert "facts" in first.hint
    assert second.key_path == "access[1].source"
    assert "api version 2" in second.message


def test_installed_plugins_can_be_listed() -> None:
    """Looking through the real plugin folders works; nodecomm brings none itself."""
    assert all(
        not each.origin.startswith("nodecomm.") for each in find_plugins().commands
    )
