# SPDX-License-Identifier: MIT
"""
Commands and file sources that other packages bring.

They are found with `twisted.plugin`, but none is active until the configuration
names it: installing a package changes nothing that is served.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from attrs import field, frozen
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.plugin import getPlugins
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from nodecomm.config.errors import Problem
from nodecomm.interfaces import API, ICommand, IFileSource
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.config.model import Settings

__all__ = [
    "BrokenPlugin",
    "FoundPlugin",
    "FoundPlugins",
    "active_commands",
    "active_sources",
    "find_plugins",
]


@frozen
class FoundPlugin:
    """
    A plugin that is installed.
    """

    #: "command" or "source".
    kind: str
    name: str
    #: The module and class it comes from.
    origin: str
    #: The interface version it was written for.
    api: object
    #: The command words, as the wire has them; empty for a source.
    words: tuple[bytes, ...]
    plugin: Any = field(repr=False)
    #: Why it cannot be used, or None.
    fault: str | None = None


@frozen
class BrokenPlugin:
    """
    Something in the plugin folders that could not be imported.
    """

    error: str
    #: The file and line that raised, where known.
    where: str


@frozen
class FoundPlugins:
    """
    All plugins of this installation.
    """

    commands: tuple[FoundPlugin, ...] = ()
    sources: tuple[FoundPlugin, ...] = ()
    broken: tuple[BrokenPlugin, ...] = ()


def find_plugins(package: ModuleType | None = None) -> FoundPlugins:
    """
    Look for installed commands and sources. Blocks: it reads folders and imports
    the plugins' modules. One that fails to import is reported by `broken`, and
    costs no other plugin.

    Args:
        package: Where to look; `twisted.plugins` by default.
    """
    failures: list[Failure] = []
    with _collected_failures(failures):
        commands = list(_described("command", ICommand, package))
        sources = list(_described("source", IFileSource, package))
    broken = dict.fromkeys(_broken(failure) for failure in failures)
    return FoundPlugins(
        tuple(sorted(commands, key=_order)),
        tuple(sorted(sources, key=_order)),
        tuple(broken),
    )


def _order(found: FoundPlugin) -> tuple[str, str]:
    return found.name, found.origin


@contextmanager
def _collected_failures(failures: list[Failure]) -> Iterator[None]:
    """
    `getPlugins` logs what fails to import and goes on; collect those failures.
    """

    @implementer(ILogObserver)
    class Collector:
        def __call__(self, event: LogEvent) -> None:
            # `twisted.plugin` still speaks the older logging interface.
            failure = event.get("log_failure") or event.get("failure")
            if isinstance(failure, Failure):
                failures.append(failure)

    collector = Collector()
    globalLogPublisher.addObserver(collector)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(collector)


def _described(
    kind: str, interface: type[Interface], package: ModuleType | None
) -> Iterator[FoundPlugin]:
    for plugin in getPlugins(interface, package):
        name = getattr(plugin, "name", None)
        words = getattr(plugin, "words", ()) if kind == "command" else ()
        api = getattr(plugin, "api", None)
        made_by = plugin if isinstance(plugin, type) else type(plugin)
        yield FoundPlugin(
            kind=kind,
            name=name if isinstance(name, str) else repr(name),
            origin=f"{made_by.__module__}:{made_by.__qualname__}",
            api=api,
            words=tuple(words) if _are_words(words) else (),
            plugin=plugin,
            fault=_fault(kind, plugin, name, api, words),
        )


def _are_words(words: object) -> bool:
    return isinstance(words, (tuple, list)) and all(
        isinstance(word, bytes) and word.split() == [word] for word in words
    )


def _fault(
    kind: str, plugin: object, name: object, api: object, words: object
) -> str | None:
    """
    Why the server cannot use the plugin, or None.
    """
    if not isinstance(name, str) or not name:
        return "its name is not a text"
    if api != API or isinstance(api, bool):
        return f"it is written for api version {api!r}; this server has version {API}"
    if kind == "source":
        return (
            None if callable(getattr(plugin, "resolve", None)) else "it cannot resolve"
        )
    if not words or not _are_words(words):
        return "its words are not a tuple of bytes without white space"
    versions = getattr(plugin, "versions", None)
    if not isinstance(versions, (set, frozenset)) or not versions:
        return "its versions are not a set of protocol versions"
    if not callable(getattr(plugin, "answer", None)):
        return "it cannot answer"
    return None


def _broken(failure: Failure) -> BrokenPlugin:
    where = ""
    if failure.frames:
        _, path, line, *_rest = failure.frames[-1]
        where = f"{path}:{line}"
    kind = failure.type.__name__ if failure.type else "error"
    return BrokenPlugin(f"{kind}: {failure.value}", where)


def active_commands(
    settings: Settings, found: FoundPlugins, builtin: Iterable[ICommand]
) -> tuple[list[ICommand], list[Problem]]:
    """
    The commands that `[plugins] commands` names, in its order.

    Args:
        settings: The configuration.
        found: What is installed.
        builtin: The server's own commands. A plugin may take a word of theirs only
            when the configuration says `override = true`.
    """
    taken = {word for command in builtin for word in command.words}
    owners: dict[bytes, str] = {}
    active: list[ICommand] = []
    problems: list[Problem] = []
    for index, name in enumerate(settings.plugins.commands):
        key_path = f"plugins.commands[{index}]"
        chosen, problem = _choose(
            settings, key_path, name, found.commands, "command", found.broken
        )
        if problem is not None:
            problems.append(problem)
        if chosen is None:
            continue
        active.append(chosen.plugin)
        for word in chosen.words:
            if word in taken and not settings.plugins.override:
                message = f"the plugin would replace the built-in word {to_text(word)}"
                hint = "say `override = true` in [plugins] if that is meant"
            elif word in owners:
                message = f"{owners[word]} answers the word {to_text(word)} already"
                hint = "name only one of the two plugins"
            else:
                owners[word] = name
                continue
            problems.append(_problem(settings, key_path, message, name, hint))
    return active, problems


def active_sources(
    settings: Settings, found: FoundPlugins
) -> tuple[dict[str, IFileSource], list[Problem]]:
    """
    The sources that access rules name, by name.
    """
    active: dict[str, IFileSource] = {}
    problems: list[Problem] = []
    for index, access in enumerate(settings.access):
        name = access.source
        if not name:
            continue
        chosen, problem = _choose(
            settings,
            f"access[{index}].source",
            name,
            found.sources,
            "source",
            found.broken,
        )
        if problem is not None:
            problems.append(problem)
        if chosen is not None:
            active[name] = chosen.plugin
    return active, problems


def _choose(
    settings: Settings,
    key_path: str,
    name: str,
    candidates: Iterable[FoundPlugin],
    kind: str,
    broken: Collection[BrokenPlugin],
) -> tuple[FoundPlugin | None, Problem | None]:
    candidates = list(candidates)
    named = [each for each in candidates if each.name == name]
    if not named:
        names = ", ".join(each.name for each in candidates)
        hint = f"installed: {names}" if names else f"no {kind} plugin is installed"
        if broken:
            hint += "; not importable: " + "; ".join(
                f"{each.error} ({each.where})" if each.where else each.error
                for each in broken
            )
        return None, _problem(
            settings, key_path, f"there is no {kind} plugin of this name", name, hint
        )
    if len(named) > 1:
        origins = " and ".join(each.origin for each in named)
        return None, _problem(
            settings,
            key_path,
            f"two {kind} plugins have this name: {origins}",
            name,
            "uninstall one of them",
        )
    (chosen,) = named
    if chosen.fault is not None:
        return None, _problem(
            settings,
            key_path,
            f"the plugin cannot be used: {chosen.fault}",
            name,
            f"it comes from {chosen.origin}",
        )
    return chosen, None


def _problem(
    settings: Settings, key_path: str, message: str, value: str, hint: str
) -> Problem:
    return Problem(
        key_path=key_path,
        message=message,
        value=value,
        hint=hint,
        origin=settings.origins.get(key_path),
        severity="error",
    )
