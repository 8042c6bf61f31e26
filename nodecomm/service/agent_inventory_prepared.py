# SPDX-License-Identifier: MIT
"""
From `[inventory]` of an agent to what is sent where, with all that is wrong with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal
from urllib.parse import urlsplit

from attrs import field, frozen

from nodecomm.client.address import ServerAddress
from nodecomm.config.agent import AgentConfiguration
from nodecomm.config.agent_inventory import AgentInventorySettings, minute_of_day
from nodecomm.config.durations import parse_duration
from nodecomm.config.errors import element_path
from nodecomm.identity.files import read_small
from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.upstream_trust import (
    Authorities,
    AuthoritiesUnusable,
    parse_pins,
    read_pins,
)
from nodecomm.wire.text import from_text

__all__ = ["InventoryTarget", "PreparedInventory", "inventory_problems", "prepare"]

#: Tells of a problem: key path, message, value, hint, and whether it is a warning.
Tell = Callable[..., object]


@frozen
class InventoryTarget:
    """
    A server that inventories are sent to.

    Attributes:
        url: Where it takes them.
        servers: The policy servers whose keys it may have.
        name: What this node calls its policy server.
    """

    url: str
    servers: tuple[ServerAddress, ...]
    name: str


@frozen
class PreparedInventory:
    """
    What is sent where.

    Attributes:
        targets: The servers, in their order.
        trust: What the certificate of one must be.
        pins: Keys that it must have one of, whole or by name; empty: as *trust* says.
        ca_file: The authorities, if they count; None: those of the system.
        accounts: User and password of each box.
        command: The program that prints an inventory; empty: none.
        timeout: Seconds that making one may take.
        begin: The first minute of the day that the daily one may be sent in.
        end: The minute before which it must be.
        is_asked_for: Whether a person has written `[inventory]`, and so wants to hear
            of it when nobody takes inventories.
    """

    targets: tuple[InventoryTarget, ...]
    trust: Literal["policy-server-key", "pin", "ca", "none"]
    pins: tuple[str | PublicKey, ...]
    ca_file: str | None
    accounts: dict[Box, tuple[str, str]] = field(repr=False)
    command: tuple[str, ...]
    timeout: float
    begin: int
    end: int
    is_asked_for: bool

    @property
    def urls(self) -> tuple[str, ...]:
        """
        Where to, as text.
        """
        return tuple(target.url for target in self.targets)


def inventory_problems(whole: AgentConfiguration, tell: Tell) -> tuple[str, ...]:
    """
    Look at what reading alone does not: files of keys and authorities, the program.
    Blocks. Returns the names of the keys in `server_keys`.
    """
    settings = whole.inventory
    pins: list[str] = []
    for index, text in enumerate(settings.server_keys):
        try:
            pins += _pins_of(text)
        except OSError as error:
            path = element_path("inventory.server_keys", index)
            said = f"this file cannot be read: {error.strerror or error}"
            tell(path, said, text)
        except ValueError as error:
            path = element_path("inventory.server_keys", index)
            hint = (
                "write sha256//..., MD5=..., SHA=..., or the absolute path of a file "
                "with a public key or certificate"
            )
            tell(path, str(error), text, hint)
    if settings.server_trust == "ca" and settings.ca_file is not None:
        try:
            Authorities(_path(settings.ca_file))
        except AuthoritiesUnusable as error:
            tell("inventory.ca_file", str(error), settings.ca_file)
    command = settings.command
    if command and command[0].startswith("/") and "\0" not in command[0]:
        program = command[0]
        if not (os.path.isfile(program) and os.access(program, os.X_OK)):
            tell(
                element_path("inventory.command", 0),
                "there is no such program now",
                program,
                "install it, or correct the path",
                warning=True,
            )
    return tuple(pins)


def prepare(
    whole: AgentConfiguration,
    servers: Sequence[ServerAddress],
    pinned: Sequence[str | PublicKey],
    pins: Sequence[str],
) -> PreparedInventory | None:
    """
    What is sent where; None if nothing is.

    Args:
        whole: A configuration without errors.
        servers: The policy servers.
        pinned: The keys that they may have, if these were named beforehand.
        pins: The names of the keys in `server_keys` of `[inventory]`.
    """
    settings = whole.inventory
    if not settings.enabled:
        return None
    targets = _targets(settings, servers)
    if not targets:
        return None
    good: tuple[str | PublicKey, ...] = tuple(pins)
    if not good and settings.server_trust == "policy-server-key":
        good = tuple(pinned)
    begin, end = map(minute_of_day, settings.between)
    return PreparedInventory(
        targets,
        settings.server_trust,
        good,
        None if settings.ca_file is None else _path(settings.ca_file),
        _accounts(settings),
        settings.command,
        parse_duration(settings.timeout),
        begin,
        end,
        whole.origin("inventory") is not None,
    )


def _targets(
    settings: AgentInventorySettings, servers: Sequence[ServerAddress]
) -> tuple[InventoryTarget, ...]:
    if settings.urls:
        name = servers[0].host if servers else ""
        return tuple(
            InventoryTarget(url, tuple(servers), name or urlsplit(url).hostname or "")
            for url in settings.urls
        )
    found: dict[str, InventoryTarget] = {}
    for server in servers:
        host = f"[{server.host}]" if ":" in server.host else server.host
        url = f"https://{host}/"
        # The zone of a link-local address stands in no URL.
        if "%" not in url:
            found.setdefault(url, InventoryTarget(url, (server,), server.host))
    return tuple(found.values())


def _accounts(settings: AgentInventorySettings) -> dict[Box, tuple[str, str]]:
    accounts = {
        Box.FIRST: (settings.first_user, settings.first_password.reveal()),
    }
    if settings.update_user is not None and settings.update_password is not None:
        password = settings.update_password.reveal()
        accounts[Box.UPDATE] = (settings.update_user, password)
    return accounts


def _pins_of(text: str) -> tuple[str, ...]:
    """
    The names of the keys that an entry of `server_keys` means.

    Raises:
        OSError: Its file cannot be read.
        ValueError: It is none, or the file holds none.
    """
    if text.startswith("/"):
        return read_pins(read_small(_path(text))[1])
    return parse_pins(text)


def _path(text: str) -> str:
    return os.fsdecode(from_text(text))
