# SPDX-License-Identifier: MIT
"""
From an agent's configuration that was read to everything an agent is built from, with
all that is wrong with it found in one run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from nodecomm.client.address import ServerAddress, parse_server
from nodecomm.config.agent import (
    AgentConfiguration,
    AgentSettings,
    CopySettings,
    encloses_path,
    is_digest_text,
)
from nodecomm.config.durations import parse_duration
from nodecomm.config.errors import Problem, child_path, element_path
from nodecomm.config.placed import Checks
from nodecomm.identity.files import read_small
from nodecomm.identity.keys import PublicKey, UnusableKey, check_sane, parse_digest
from nodecomm.identity.own import KEYS_FOLDER
from nodecomm.identity.server_keys import (
    SERVER_KEYS_FOLDER,
    ServerKeyStore,
    ServerKeysUnreadable,
)
from nodecomm.identity.users import own_user
from nodecomm.service.agent_inventory_prepared import (
    PreparedInventory,
    inventory_problems,
    prepare,
)
from nodecomm.service.agent_outbox import OUTBOX_FOLDER
from nodecomm.service.agent_schedule import LONGEST_SPLAY
from nodecomm.service.agent_snapshot import agent_snapshot
from nodecomm.service.endpoints import endpoint_problems
from nodecomm.service.loading import resolve_path
from nodecomm.service.run_checks import execution_problems
from nodecomm.service.telling import changed_keys
from nodecomm.sync.model import SyncLimits, SyncRequest
from nodecomm.wire.cipher import missing
from nodecomm.wire.text import from_text, to_text

if TYPE_CHECKING:
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.service.loading import LoadedAgent

__all__ = [
    "PlannedCopy",
    "PreparedAgent",
    "for_node",
    "kept_at_start",
    "prepare_agent",
]

#: Keys that are read at start only.
_AT_START = ("agent.state_dir", "log.format", "log.file", "log.audit")

#: Stands for the id of this node in the source of a copy.
NODE_ID = "{node_id}"

#: What in the state folder is ours, so that no copy may take its place.
_OWN_FOLDERS = (KEYS_FOLDER, SERVER_KEYS_FOLDER, OUTBOX_FOLDER, "sync")


@frozen
class PlannedCopy:
    """
    One copy.

    Attributes:
        settings: As configured.
        request: What is asked of the sync.
        node_id: The id of this node, if its source is named by that.
    """

    settings: CopySettings
    request: SyncRequest
    node_id: str | None = None


@frozen
class PreparedAgent:
    """
    A configuration without errors, ready to be put in force.

    Attributes:
        loaded: What was read, with all problems (now warnings only).
        configuration: The configuration.
        state: The state folder as the system's functions take it.
        servers: In their order.
        pinned: Keys named beforehand, whole or by digest.
        copies: In their order.
        interval: Seconds from run to run.
        splay: Seconds within which the first run comes.
        timeout: Seconds that a server may take.
        user: Who we say we are.
        protocol: What is spoken, for people.
        command: What runs after an update; empty for nothing.
        command_timeout: Seconds that it may take.
        listen: Where others may ask for a run.
        run_keys: Keys that may, besides those of the servers; whole or by digest.
        snapshot: The rules about such runs.
        inventory: What is told about this node, and to whom; None: nothing.
    """

    loaded: LoadedAgent
    configuration: AgentConfiguration
    state: str
    servers: tuple[ServerAddress, ...]
    pinned: tuple[str | PublicKey, ...]
    copies: tuple[PlannedCopy, ...]
    interval: float
    splay: float
    timeout: float
    user: bytes
    protocol: str
    command: tuple[str, ...] | str
    command_timeout: float
    listen: tuple[str, ...]
    run_keys: tuple[str | PublicKey, ...]
    snapshot: Snapshot
    inventory: PreparedInventory | None

    @property
    def means_node_id(self) -> bool:
        """
        Whether the id of this node has to stand somewhere.
        """
        return any(NODE_ID in copy.settings.source for copy in self.copies)


def prepare_agent(
    loaded: LoadedAgent, *, generation: int = 0
) -> tuple[PreparedAgent | None, LoadedAgent]:
    """
    Look at everything in a configuration that reading alone does not: names of
    servers, files of keys, programs to run. Blocks.

    Args:
        loaded: What was read.
        generation: The number of this configuration.

    Returns:
        What to put in force, or None if there is any error, and *loaded* with all
        problems added.
    """
    look = _Look(loaded.partial, [])
    servers = look.servers()
    pinned = look.keys("server_keys", look.whole.agent.server_keys)
    run_keys = look.keys("run_keys", look.whole.agent.run_keys)
    look.first_use()
    look.callers(servers)
    look.encryption()
    look.copies()
    look.command()
    pins = inventory_problems(look.whole, look.tell)
    look.problems.extend(
        endpoint_problems(look.whole, "agent.listen", look.whole.agent.listen)
    )
    snapshot, wrong = agent_snapshot(
        look.whole, resolve=resolve_path, generation=generation
    )
    look.problems.extend(wrong)
    look.problems.extend(execution_problems(look.whole, "agent", snapshot.execution))
    checked = loaded.with_problems(look.problems)
    configuration = checked.settings
    if configuration is None:
        return None, checked
    agent = configuration.agent
    interval = parse_duration(agent.interval)
    splay = (
        min(interval, LONGEST_SPLAY)
        if agent.splay is None
        else parse_duration(agent.splay)
    )
    limits = SyncLimits(duration=parse_duration(agent.max_duration))
    prepared = PreparedAgent(
        checked,
        configuration,
        os.fsdecode(from_text(agent.state_dir)),
        servers,
        pinned,
        tuple(_planned(copy, limits) for copy in configuration.copy),
        interval,
        splay,
        parse_duration(agent.timeout),
        own_user() if agent.user is None else agent.user.encode(),
        _protocol(agent),
        agent.after_update,
        parse_duration(agent.after_update_timeout),
        agent.listen,
        run_keys,
        snapshot,
        prepare(configuration, servers, pinned, pins),
    )
    return prepared, checked


def for_node(prepared: PreparedAgent, node_id: str) -> PreparedAgent:
    """
    *prepared* with the id of this node wherever the configuration means it.
    """

    def named(copy: PlannedCopy) -> PlannedCopy:
        if NODE_ID not in copy.settings.source:
            return copy
        source = copy.settings.source.replace(NODE_ID, node_id)
        return PlannedCopy(
            evolve(copy.settings, source=source),
            evolve(copy.request, source=from_text(source)),
            node_id,
        )

    return evolve(prepared, copies=tuple(map(named, prepared.copies)))


def _protocol(agent: AgentSettings) -> str:
    if agent.protocol != "classic":
        return "TLS"
    how = "encrypted" if agent.encrypt else "in the clear"
    return f"classic, {how}: not protected on the way"


def kept_at_start(
    old: PreparedAgent, new: PreparedAgent
) -> tuple[PreparedAgent, list[str]]:
    """
    *new* with what is read at start only as it was, and which keys that concerns.
    """
    waiting = changed_keys(old.configuration, new.configuration, _AT_START)
    return evolve(new, state=old.state), waiting


def _planned(copy: CopySettings, limits: SyncLimits) -> PlannedCopy:
    request = SyncRequest(
        source=from_text(copy.source),
        # Two slashes at the beginning are the one thing that normpath leaves.
        destination=b"/" + os.path.normpath(from_text(copy.destination)).lstrip(b"/"),
        compare=copy.compare,
        purge=copy.purge,
        preserve=copy.preserve,
        exclude=tuple(map(from_text, copy.exclude)),
        replace=copy.replace,
        limits=limits,
    )
    return PlannedCopy(copy, request)


@frozen
class _Look(Checks[AgentConfiguration]):
    """
    A look at one configuration.
    """

    problems: list[Problem]

    def tell(
        self,
        path: str,
        message: str,
        value: object = None,
        hint: str = "",
        *,
        warning: bool = False,
    ) -> None:
        """
        Note a problem at *path*.
        """
        found = self.problem(path, message, value, hint, warning=warning)
        self.problems.append(found)

    def servers(self) -> tuple[ServerAddress, ...]:
        """
        `policy_servers`.
        """
        found: list[ServerAddress] = []
        names = self.whole.agent.policy_servers
        for index, text in enumerate(names):
            path = element_path("agent.policy_servers", index)
            try:
                server = parse_server(text)
            except ValueError as error:
                hint = 'write "HOST", "HOST:PORT", "ADDRESS" or "[ADDRESS]:PORT"'
                self.tell(path, str(error), text, hint)
                continue
            if server in found:
                if text not in names[:index]:
                    # The same text twice has been told.
                    self.tell(path, "this is a server named before", text)
                continue
            found.append(server)
        return tuple(found)

    def keys(self, name: str, texts: Sequence[str]) -> tuple[str | PublicKey, ...]:
        """
        `server_keys` or `run_keys`.
        """
        found: list[str | PublicKey] = []
        for index, text in enumerate(texts):
            path = element_path(f"agent.{name}", index)
            try:
                if is_digest_text(text):
                    found.append(parse_digest(text))
                else:
                    found.append(_read_key(text))
            except OSError as error:
                said = f"this file cannot be read: {error.strerror or error}"
                self.tell(path, said, text)
            except ValueError as error:
                hint = "write MD5=..., SHA=..., or the absolute path of a key file"
                self.tell(path, str(error), text, hint)
        return tuple(found)

    def first_use(self) -> None:
        """
        `trust_server` beside what excludes it.
        """
        agent = self.whole.agent
        if agent.server_keys and agent.trust_server:
            self.tell(
                "agent.trust_server",
                "it has no effect: server_keys says which keys are good",
                True,
                "leave it out",
                warning=True,
            )

    def callers(self, servers: Sequence[ServerAddress]) -> None:
        """
        A listener that nobody may ask for anything, as no key is known.
        """
        agent = self.whole.agent
        if not agent.listen or agent.server_keys or agent.run_keys:
            return
        # With trust_server the first run makes one known, if there is a run.
        if (agent.trust_server and self.whole.copy) or not servers:
            return
        state = os.fsdecode(from_text(agent.state_dir))
        store = ServerKeyStore(os.path.join(state, SERVER_KEYS_FOLDER))
        try:
            if any(store.keys(str(server)) for server in servers):
                return
        except (OSError, ServerKeysUnreadable):
            # That is told where somebody asks.
            return
        self.tell(
            "agent.listen",
            "nobody may ask for a run yet: no key of a policy server is known here",
            list(agent.listen),
            f"`nodecomm server-key accept {servers[0]}` makes one known, and so do"
            ' server_keys and run_keys = ["MD5=..."] in [agent]',
            warning=True,
        )

    def encryption(self) -> None:
        """
        `encrypt`: whether there is the cipher for it here.
        """
        agent = self.whole.agent
        wanted = agent.protocol == "classic" and agent.encrypt
        reason = missing() if wanted else None
        if reason is not None:
            self.tell("agent.encrypt", reason, True, "leave it out", warning=True)

    def copies(self) -> None:
        """
        Destinations that would take the place of the agent's own state, or have no
        folder to be in.
        """
        state = self.whole.agent.state_dir
        for index, copy in enumerate(self.whole.copy):
            path = child_path(element_path("copy", index), "destination")
            own = [os.path.join(state, name) for name in _OWN_FOLDERS]
            if encloses_path(copy.destination, state) or any(
                encloses_path(folder, copy.destination) for folder in own
            ):
                self.tell(
                    path,
                    f"the agent keeps its own state there ({state})",
                    copy.destination,
                    "name a folder of its own, such as "
                    + os.path.join(state, "inputs"),
                )
            elif parent := _missing_parent(copy.destination, state):
                self.tell(
                    path,
                    f"the folder {to_text(parent)} does not exist",
                    copy.destination,
                    "make it before the agent runs; the destination itself is made",
                    warning=True,
                )

    def command(self) -> None:
        """
        `after_update`: whether there is such a program.
        """
        command = self.whole.agent.after_update
        if isinstance(command, str) or not command or "\0" in command[0]:
            return
        program = command[0]
        if program.startswith("/") and not (
            os.path.isfile(program) and os.access(program, os.X_OK)
        ):
            self.tell(
                element_path("agent.after_update", 0),
                "there is no such program now",
                program,
                "install it, or correct the path",
                warning=True,
            )


def _missing_parent(destination: str, state: str) -> bytes:
    """
    The folder that a destination would be in, if it is not there and the agent does
    not make it, as it makes its state folder; else empty.
    """
    parent = os.path.dirname(os.path.normpath(from_text(destination)))
    if encloses_path(to_text(parent), state):
        return b""
    try:
        os.stat(parent)
    except (FileNotFoundError, NotADirectoryError):
        return parent
    except OSError:
        # Who checks may not see what the agent sees.
        return b""
    return b""


def _read_key(text: str) -> PublicKey:
    """
    The public key in a file.

    Raises:
        OSError: It cannot be read.
        ValueError: It holds something else, or a key nobody should use.
    """
    _, data = read_small(os.fsdecode(from_text(text)))
    try:
        key = PublicKey.from_pem(data)
        check_sane(key)
    except UnusableKey as error:
        raise ValueError(str(error)) from error
    return key
