# SPDX-License-Identifier: MIT
"""
Reading the configuration: the files, what they add up to, and where each value
stands.

Reading blocks; it happens at start and on SIGHUP, and files are small.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs
from attrs import frozen

from nodecomm.access.compile import Resolved, compile_snapshot
from nodecomm.access.findings import Findings
from nodecomm.access.lists import ListReader
from nodecomm.access.snapshot import Snapshot
from nodecomm.config.agent import AgentConfiguration
from nodecomm.config.errors import (
    ConfigError,
    Origin,
    Problem,
    child_path,
    element_path,
)
from nodecomm.config.fields import keys_of
from nodecomm.config.model import Settings
from nodecomm.config.placed import Placed
from nodecomm.config.secrets import Secret
from nodecomm.config.structure import (
    structure,
    structure_agent_partly,
    structure_partly,
    unique,
    worth_telling,
)
from nodecomm.identity.places import STATE_DIR_VARIABLE, standard_state_dir
from nodecomm.service.run_checks import sync_command
from nodecomm.service.sample import default_tree
from nodecomm.service.sources import Reading, UnreadableError, is_there, read_bytes
from nodecomm.wire.text import from_text, to_text

__all__ = [
    "AGENT_FILE",
    "SYSTEM_FILE",
    "Loaded",
    "LoadedAgent",
    "ReadFiles",
    "check_access",
    "embedded_defaults",
    "file_path",
    "is_of_agent",
    "load",
    "load_agent",
    "read_secrets",
    "resolve_path",
    "without_passwords",
]

#: What is read when no file is named, by a server and by an agent.
SYSTEM_FILE = Path("/etc/nodecomm/server.toml")
AGENT_FILE = Path("/etc/nodecomm/agent.toml")

#: The passwords with which inventories are taken and sent.
_PASSWORDS = (
    "inventory.first_password",
    "inventory.update_password",
    "inventory.upstream_first_password",
    "inventory.upstream_password",
)

#: Bytes of a file with a secret.
LARGEST_SECRET = 65536

T = TypeVar("T")
S = TypeVar("S", bound=Placed)
R = TypeVar("R", bound="ReadFiles[Any]")


@frozen
class ReadFiles(Generic[S]):
    """
    What reading gave.

    Attributes:
        settings: To run with; None if there was an error.
        problems: Everything found, in the order of the files.
        sources: The files that were read, in order.
        partial: As much as could be understood, for looking for more problems.
        dropped: Key paths in *partial* whose fault has been told.
        missing: The file that would have been read, had it existed.
    """

    settings: S | None
    problems: tuple[Problem, ...]
    sources: tuple[str, ...]
    partial: S
    dropped: frozenset[str] = frozenset()
    missing: str = ""

    @property
    def description(self) -> str:
        """
        Which configuration this is, for the log and for `config check`.
        """
        return ", ".join(self.sources) or self.missing

    def usable(self) -> S:
        """
        The settings.

        Raises:
            ConfigError: There was an error.
        """
        if self.settings is None:
            raise ConfigError(self.problems)
        return self.settings

    def with_problems(self: R, more: list[Problem]) -> R:
        """
        The same, with what a later check of `partial` found.
        """
        told = list(worth_telling(more, self.dropped))
        problems = tuple(_in_order([*self.problems, *told], self.sources))
        failed = any(problem.is_error for problem in problems)
        return attrs.evolve(
            self, problems=problems, settings=None if failed else self.settings
        )


@frozen
class Loaded(ReadFiles[Settings]):
    """
    What reading a server's configuration gave; no sources: the embedded defaults.
    """

    @property
    def description(self) -> str:
        """
        Which configuration this is, for the log and for `config check`.
        """
        if self.sources:
            return ", ".join(self.sources)
        return (
            f"embedded defaults for development ({self.missing} does not exist), "
            f"state in {self.partial.server.state_dir}"
        )


@frozen
class LoadedAgent(ReadFiles[AgentConfiguration]):
    """
    What reading an agent's configuration gave. There are no defaults to run with:
    somebody has to say which server.
    """


def load(
    path: Path | None = None,
    *,
    state_dir: Path | None = None,
    environ: Mapping[str, str] | None = None,
    system_file: Path = SYSTEM_FILE,
) -> Loaded:
    """
    Read the configuration.

    Args:
        path: The file, and with it each `NAME.d/*.toml` beside it in name order.
            None: *system_file* if that is there, else the embedded defaults.
        state_dir: Takes the place of `state_dir` of the file and of the variable.
        environ: The environment; None: that of this process.
        system_file: Tests name another one.
    """
    environ = os.environ if environ is None else environ
    named, reading = _read(path, system_file, Settings)
    if not reading.sources and not reading.problems:
        settings = embedded_defaults(_state_dir(None, state_dir, environ)[0])
        return Loaded(settings, (), (), settings, missing=str(system_file))
    outcome = structure_partly(reading.tree, reading.origins)
    settings, unread = read_secrets(outcome.settings, named.parent, environ)
    settings = _with_state_dir(settings, state_dir, environ)
    problems = [*reading.problems, *outcome.problems, *unread]
    return Loaded(
        None if any(p.is_error for p in problems) else settings,
        tuple(_in_order(problems, reading.sources)),
        tuple(reading.sources),
        settings,
        outcome.dropped,
    )


def load_agent(
    path: Path | None = None,
    *,
    state_dir: Path | None = None,
    environ: Mapping[str, str] | None = None,
    system_file: Path = AGENT_FILE,
) -> LoadedAgent:
    """
    Read the configuration of an agent; arguments as in `load`. That no file is there
    is an error.
    """
    environ = os.environ if environ is None else environ
    named, reading = _read(path, system_file, AgentConfiguration)
    outcome = structure_agent_partly(reading.tree, reading.origins)
    found = list(outcome.problems)
    if reading.problems:
        # What is missing may stand in what could not be read.
        found = [problem for problem in found if problem.origin is not None]
    problems = [*reading.problems, *found]
    if not reading.sources and not reading.problems:
        hint = "name one with -c FILE, or let `nodecomm bootstrap HOST` write it"
        origin = Origin(str(named), 0, 0)
        problems = [Problem("", "there is no configuration", None, hint, origin)]
    read, unread = read_secrets(outcome.settings, named.parent, environ)
    problems += unread
    settings = _agent_with_state_dir(read, state_dir, environ)
    return LoadedAgent(
        None if any(p.is_error for p in problems) else settings,
        tuple(_in_order(problems, reading.sources)),
        tuple(reading.sources),
        settings,
        outcome.dropped,
        missing=str(named),
    )


def is_of_agent(path: Path) -> bool:
    """
    Whether a file, by its name or by what is in it and beside it, is an agent's and
    not a server's.
    """
    if path.name == AGENT_FILE.name:
        return True
    _, reading = _read(path, path, AgentConfiguration)
    return "agent" in reading.tree and "server" not in reading.tree


def _read(path: Path | None, system_file: Path, model: type) -> tuple[Path, Reading]:
    """
    The file that counts, and what it and the files beside it add up to.
    """
    named = system_file if path is None else path
    reading = Reading(model=model)
    parts = reading.parts(named)
    if path is not None or is_there(named):
        reading.file(named)
    for part in parts:
        reading.file(part)
    return named, reading


def embedded_defaults(state_dir: Path) -> Settings:
    """
    The configuration for trying things out: this machine only is trusted and
    served, with what lies in *state_dir*.
    """
    folder = Path(_as_text(Path(os.path.abspath(state_dir))))
    settings, problems = structure(default_tree(folder))
    if settings is None:
        raise ConfigError(problems)
    origins = {
        path: Origin("embedded defaults", 0, 0, path) for path in settings.origins
    }
    return attrs.evolve(settings, origins=origins)


def read_secrets(
    value: T, folder: Path, environ: Mapping[str, str]
) -> tuple[T, list[Problem]]:
    """
    *value*, an object of the model, with each secret read from where it stands.

    Args:
        value: A `Settings`, or a part of one.
        folder: What relative names of files start from.
        environ: Where `{ env = "..." }` looks.
    """
    origins: Mapping[str, Origin] = getattr(value, "origins", {})
    problems: list[Problem] = []

    def read(here: Any, path: str) -> Any:
        if isinstance(here, Secret):
            try:
                return _read_secret(here, folder, environ)
            except UnreadableError as error:
                problems.append(
                    Problem(path, error.message, None, error.hint, origins.get(path))
                )
                return here
        if isinstance(here, tuple):
            return tuple(read(e, element_path(path, i)) for i, e in enumerate(here))
        if not attrs.has(type(here)):
            return here
        changes = {
            key.name: read(getattr(here, key.name), child_path(path, key.name))
            for key in keys_of(here.__class__)
        }
        return attrs.evolve(here, **changes)

    return read(value, ""), problems


# -- what the rules say ---------------------------------------------------------


def resolve_path(path: bytes) -> Resolved | None:
    """
    What *path* is now, links followed; None where there is nothing.

    Raises:
        OSError: It cannot be told.
    """
    try:
        real = os.path.realpath(path, strict=True)
        return Resolved(real, stat.S_ISDIR(os.stat(real).st_mode))
    except (FileNotFoundError, NotADirectoryError):
        return None


def without_passwords(loaded: Loaded) -> Loaded:
    """
    The same for those who take no inventories and send none: faults in the passwords of
    that, which may be out of an operator's reach, are none of theirs.
    """
    problems = tuple(
        problem
        for problem in loaded.problems
        if not (problem.is_error and problem.key_path.startswith(_PASSWORDS))
    )
    bad = any(problem.is_error for problem in problems)
    settings = None if bad else loaded.partial
    return attrs.evolve(loaded, settings=settings, problems=problems)


def check_access(
    loaded: Loaded,
    *,
    resolve: Callable[[bytes], Resolved | None] = resolve_path,
    generation: int = 0,
) -> tuple[Snapshot | None, Loaded]:
    """
    Make the access rules of what was loaded, and add what is wrong with them.

    Returns:
        The snapshot to put in force, or None if there is any error; and *loaded*
        with all problems.
    """
    settings = loaded.partial
    snapshot, problems = compile_snapshot(
        settings,
        resolve=resolve,
        generation=generation,
        sync=sync_command(settings, "server.state_dir", settings.server.state_dir),
    )
    checked = loaded.with_problems([*problems, *_check_windows(settings)])
    return (None if checked.settings is None else snapshot), checked


def _check_windows(settings: Settings) -> list[Problem]:
    """
    What is wrong with the addresses of `trustkeysfrom`; they are no part of the
    rules, but are judged as the other lists of connections are.
    """
    networks = [window.network for window in settings.server.trustkeysfrom]
    findings = Findings(settings)
    ListReader(findings).connections("trustkeysfrom", networks)
    return [
        attrs.evolve(problem, key_path=path, origin=settings.nearest_origin(path))
        for problem in findings.problems
        for path in [child_path(problem.key_path, "network")]
    ]


def _read_secret(secret: Secret, folder: Path, environ: Mapping[str, str]) -> Secret:
    if secret.is_known:
        return secret
    if secret.env is not None:
        given = environ.get(secret.env)
        if not given:
            raise UnreadableError(
                f"the environment variable {secret.env} is not set",
                "set it, or name another place",
            )
        return Secret(given, env=secret.env)
    place = folder / (secret.file or "")
    try:
        text = read_bytes(place, LARGEST_SECRET).decode()
    except UnreadableError as error:
        raise UnreadableError(f"the secret's file {place} {error.message}") from error
    except UnicodeDecodeError as error:
        raise UnreadableError(f"the secret's file {place} is no text") from error
    # An editor ends the last line; the secret does not.
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise UnreadableError(f"the secret's file {place} is empty")
    return Secret(text, file=secret.file)


def file_path(text: str) -> Path:
    """
    The file that a path of the configuration names. In `Settings` a path is text in
    which `\\xNN` stands for a byte that is not UTF-8.

    Raises:
        ValueError: An escape in *text* is wrong. What was loaded has none.
    """
    return Path(os.fsdecode(from_text(text)))


# -- the state folder ---------------------------------------------------------


def _as_text(path: Path) -> str:
    return to_text(os.fsencode(path))


def _state_dir(
    written: str | None, option: Path | None, environ: Mapping[str, str]
) -> tuple[Path, str]:
    """
    The folder for the state, and what names it ("" if nobody does): the option, the
    variable, the file (which has *written*), in this order, so that every command of
    one person agrees.
    """
    if option is not None:
        return option, "--state-dir"
    named = environ.get(STATE_DIR_VARIABLE)
    if named:
        return Path(named), STATE_DIR_VARIABLE
    if written is not None:
        return Path(written), "file"
    return standard_state_dir(environ, os.geteuid()), ""


def _placed_state_dir(
    settings: Placed,
    key_path: str,
    written: str,
    option: Path | None,
    environ: Mapping[str, str],
) -> tuple[str, dict[str, Origin]]:
    """
    The state folder as text, and the origins that go with it.
    """
    given = written if settings.origin(key_path) is not None else None
    folder, source = _state_dir(given, option, environ)
    origins = dict(settings.origins)
    if source == "file":
        return written, origins
    if source:
        origins[key_path] = Origin(source, 0, 0, key_path)
    else:
        origins.pop(key_path, None)
    return _as_text(Path(os.path.abspath(folder))), origins


def _with_state_dir(
    settings: Settings, option: Path | None, environ: Mapping[str, str]
) -> Settings:
    folder, origins = _placed_state_dir(
        settings, "server.state_dir", settings.server.state_dir, option, environ
    )
    server = attrs.evolve(settings.server, state_dir=folder)
    return attrs.evolve(settings, server=server, origins=origins)


def _agent_with_state_dir(
    settings: AgentConfiguration, option: Path | None, environ: Mapping[str, str]
) -> AgentConfiguration:
    folder, origins = _placed_state_dir(
        settings, "agent.state_dir", settings.agent.state_dir, option, environ
    )
    agent = attrs.evolve(settings.agent, state_dir=folder)
    return attrs.evolve(settings, agent=agent, origins=origins)


# -- order of problems --------------------------------------------------------


def _in_order(
    problems: list[Problem], sources: tuple[str, ...] | list[str]
) -> list[Problem]:
    """
    Each problem once, in the order in which a person reads the files.
    """
    rank = {name: index for index, name in enumerate(sources)}

    def place(problem: Problem) -> tuple[int, int, int]:
        origin = problem.origin
        if origin is None:
            return len(rank), 0, 0
        return rank.get(origin.file, len(rank)), origin.line, origin.column

    return sorted(unique(problems), key=place)
