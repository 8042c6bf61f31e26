# SPDX-License-Identifier: MIT
"""
The part of an agent's configuration that is about inventories: what is sent where, and
when.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import urlsplit

from attrs import field, frozen

from nodecomm.config.errors import Problem, element_path
from nodecomm.config.fields import about
from nodecomm.config.placed import Checks
from nodecomm.config.secrets import Secret

__all__ = ["AgentInventorySettings", "check_agent_inventory", "minute_of_day"]

#: Seconds.
HOUR = 3600

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)

#: What a host and a path of a URL consist of here: nothing that a request line or a
#: terminal would take for something else.
_PLAIN_URL = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?", re.ASCII)


@frozen(kw_only=True)
class AgentInventorySettings:
    """
    `[inventory]`: what this node tells its policy server about itself.
    """

    enabled: bool = field(
        default=True,
        metadata=about(
            "Whether inventories are sent: after the first start, after an upgrade of "
            "the agent, and daily.",
        ),
    )
    urls: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Where to, as `https://HOST/` or `https://HOST:PORT/`; the first one that "
            "works is used. Empty: port 443 of each of `policy_servers`.",
        ),
    )
    server_trust: Literal["policy-server-key", "pin", "ca", "none"] = field(
        default="policy-server-key",
        metadata=about(
            "What the server's certificate must be. `policy-server-key`: one of the "
            "key that is known of the policy server; `pin`: one of the key that it had "
            "the first time; `ca`: issued by an authority, for this name; `none`: any, "
            "so that whoever can reach the network between can have the password and "
            "the inventory. Nothing is sent before this is checked.",
        ),
    )
    server_keys: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Keys of the server's certificate, for one that has others than the policy "
            "server: `sha256//...`, `MD5=...`, `SHA=...`, or absolute paths of files "
            "with a public key or certificate. If any is given, only these are good "
            "(with `policy-server-key` and `pin`).",
        ),
    )
    ca_file: str | None = field(
        default=None,
        metadata=about(
            'With `server_trust = "ca"`: a file with the certificates of the '
            "authorities in PEM form. Not set: those of the system.",
            shape="absolute-path",
        ),
    )
    first_user: str = field(
        default="rudder",
        metadata=about("The user for `/inventories/`."),
    )
    first_password: Secret = field(
        default=Secret("rudder"),
        metadata=about("Its password."),
    )
    update_user: str | None = field(
        default=None,
        metadata=about(
            "The user for `/inventory-updates/`, which is used once the server has "
            "taken an inventory of this node. Not set: `/inventories/` is used always.",
        ),
    )
    update_password: Secret | None = field(
        default=None,
        metadata=about("Its password."),
    )
    command: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "A program, by its absolute path, with its arguments, that prints an "
            "inventory of the machine as FusionInventory does; the agent adds who the "
            "node is. No shell is involved. Empty: the agent looks at the machine "
            "itself.",
        ),
    )
    timeout: str = field(
        default="10m",
        metadata=about(
            "Making an inventory may take this long. A program is ended then, with all "
            "that it started in its process group.",
            shape="duration",
            minimum=1,
            maximum=6 * HOUR,
        ),
    )
    between: tuple[str, ...] = field(
        default=("00:00", "06:00"),
        metadata=about(
            "The hours of the day, in local time, between which the daily inventory is "
            "sent, at a point that the digest of this machine's key decides.",
        ),
    )


def check_agent_inventory(
    checks: Checks[Any], settings: AgentInventorySettings
) -> Iterator[Problem]:
    """
    Everything that is wrong between the keys of `[inventory]`.
    """
    yield from checks.repeated("inventory.urls", settings.urls)
    for index, url in enumerate(settings.urls):
        reason = _fault_of_url(url)
        if reason:
            yield checks.problem(
                element_path("inventory.urls", index),
                reason,
                # It may hold a password.
                None,
                'write "https://hub.example.com/"',
            )
    yield from _check_trust(checks, settings)
    yield from _check_accounts(checks, settings)
    yield from _check_command(checks, settings.command)
    yield from _check_between(checks, settings.between)


def minute_of_day(text: str) -> int:
    """
    The minute of the day that `HH:MM` means.

    Raises:
        ValueError: It is something else.
    """
    found = _CLOCK.fullmatch(text)
    if found is None:
        msg = "no time of day"
        raise ValueError(msg)
    return int(found[1]) * 60 + int(found[2])


def _fault_of_url(url: str) -> str:
    """
    What is wrong with the address of a server; "" for a good one.
    """
    if not _PLAIN_URL.fullmatch(url):
        return "a URL has no blanks, controls or letters beyond ASCII"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        return f"no URL: {error}"
    if parts.scheme != "https":
        return "inventories go over HTTPS only"
    if "@" in parts.netloc:
        return "users and passwords have keys of their own"
    if parts.query or parts.fragment or url[-1] in "?#":
        return "a server's address has no ? and no #"
    if port == 0 or not _is_host(host):
        return "it names no host, or no port"
    return ""


def _is_host(host: str) -> bool:
    if ":" not in host:
        return _HOST.fullmatch(host) is not None
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _check_trust(
    checks: Checks[Any], settings: AgentInventorySettings
) -> Iterator[Problem]:
    trust = settings.server_trust
    yield from checks.repeated("inventory.server_keys", settings.server_keys)
    if settings.ca_file is not None and trust != "ca":
        yield checks.problem(
            "inventory.ca_file",
            "it has no effect: server_trust asks for no authority",
            settings.ca_file,
            'leave it out, or write server_trust = "ca"',
            warning=True,
        )
    if settings.server_keys and trust in ("ca", "none"):
        yield checks.problem(
            "inventory.server_keys",
            f'they have no effect with server_trust = "{trust}"',
            list(settings.server_keys),
            'leave them out, or write server_trust = "policy-server-key"',
            warning=True,
        )
    if trust == "none":
        yield checks.problem(
            "inventory.server_trust",
            "whoever can reach the network between can have the password and the "
            "inventory",
            trust,
            'write "policy-server-key", or name the key in server_keys',
            warning=True,
        )


def _check_accounts(
    checks: Checks[Any], settings: AgentInventorySettings
) -> Iterator[Problem]:
    for name in ("first_user", "update_user"):
        user = getattr(settings, name)
        if user is not None and (not user or ":" in user or not user.isprintable()):
            yield checks.problem(
                f"inventory.{name}",
                "Basic authentication cannot have this user",
                user,
                "write a name without a colon",
            )
    user, password = settings.update_user, settings.update_password
    if (user is None) != (password is None):
        missing = "update_user" if user is None else "update_password"
        there = "update_password" if user is None else "update_user"
        yield checks.problem(
            f"inventory.{there}",
            f"it has no effect without {missing}",
            None,
            f"write {missing}, too",
        )


def _check_command(checks: Checks[Any], command: tuple[str, ...]) -> Iterator[Problem]:
    path = "inventory.command"
    if any("\0" in part for part in command):
        yield checks.problem(path, "a NUL cannot be part of a command", None)
    elif command and not command[0].startswith("/"):
        yield checks.problem(
            element_path(path, 0),
            "the program is not named by an absolute path",
            command[0],
            "the agent has no search path of its own; write one such as "
            "/usr/bin/fusioninventory-inventory",
        )


def _check_between(checks: Checks[Any], between: tuple[str, ...]) -> Iterator[Problem]:
    path = "inventory.between"
    if len(between) != 2:
        yield checks.problem(
            path,
            "these are not two times of day",
            list(between),
            'write ["00:00", "06:00"]',
        )
        return
    for index, text in enumerate(between):
        try:
            minute_of_day(text)
        except ValueError as error:
            yield checks.problem(
                element_path(path, index), str(error), text, 'write "HH:MM"'
            )
