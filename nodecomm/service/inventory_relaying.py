# SPDX-License-Identifier: MIT
"""
The part of a relay that passes inventories on, wired from `inventory.upstream`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nodecomm.config.durations import parse_duration
from nodecomm.config.errors import Problem, element_path
from nodecomm.identity.files import read_small
from nodecomm.inventory.outbox import Outbox
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.relaying import Relaying
from nodecomm.inventory.spool_folder import FAILED_KEPT
from nodecomm.inventory.upstream import InventoryUpstream, parse_url
from nodecomm.inventory.upstream_trust import PinnedKeys, parse_pins, read_pins
from nodecomm.service.own_state import StartError, os_error_text

if TYPE_CHECKING:
    from nodecomm.config.inventory import InventorySettings
    from nodecomm.config.model import Settings
    from nodecomm.server.pools import Pool

__all__ = ["open_relaying", "put_in_force", "upstream_of", "upstream_problems"]

_KEYS = "inventory.upstream_key"


def upstream_problems(settings: Settings) -> Iterator[Problem]:
    """
    What is wrong with the address and the keys of the server above, beyond their form.
    """
    inventory = settings.inventory
    if inventory is None or inventory.upstream is None:
        return
    path = "inventory.upstream"
    try:
        parse_url(inventory.upstream)
    except ValueError as error:
        # What is no address may hold a password.
        yield Problem(path, str(error), None, "", settings.nearest_origin(path))
    for index, text in enumerate(inventory.upstream_key):
        path = element_path(_KEYS, index)
        try:
            _pins(text)
        except (ValueError, OSError) as error:
            told = str(error)
            hint = "write sha256//..., MD5=..., SHA=..., or the path of a file"
            if isinstance(error, OSError):
                told = os_error_text(error, text)
            yield Problem(path, told, text, hint, settings.nearest_origin(path))


def upstream_of(
    inventory: InventorySettings, reactor: Any, pool: Pool
) -> InventoryUpstream:
    """
    The server above, as a configuration says that has passed `upstream_problems`.

    Raises:
        ValueError: A file with a key has changed since, and cannot be used.
        OSError: It cannot be read.
    """
    assert inventory.upstream is not None  # noqa: S101
    pins = [pin for text in inventory.upstream_key for pin in _pins(text)]
    check = PinnedKeys(
        pins, f"if its key was changed on purpose, write the new one into {_KEYS}"
    )
    return InventoryUpstream(
        reactor, inventory.upstream, _accounts(inventory), check, pool=pool
    )


def open_relaying(
    inventory: InventorySettings,
    folder: str,
    *,
    server_id: str,
    reactor: Any,
    pool: Pool,
    now: Callable[[], datetime],
) -> Relaying:
    """
    What takes files and passes them on.

    Args:
        inventory: The table; it has `upstream`.
        folder: Where files wait.
        server_id: The id of this server.
        reactor: Drives all of it.
        pool: Where what blocks is done.
        now: Civil time in UTC.

    Raises:
        StartError: The keys of the server above cannot be read.
        SpoolInUse: Another program has the folder.
        OSError: It cannot be used.
    """
    outbox = Outbox(
        folder,
        seconds=time.monotonic,
        now=now,
        # Whatever may wait may have to be put aside.
        failed_kept=FAILED_KEPT + 2 * inventory.waiting,
    )
    # Once before any thread is there, so that what is wrong is told at start.
    outbox.open()
    outbox.close()
    try:
        upstream = upstream_of(inventory, reactor, pool)
    except OSError as error:
        raise StartError(os_error_text(error, _KEYS)) from error
    except ValueError as error:
        raise StartError(f"{_KEYS}: {error}") from error
    return Relaying(
        outbox,
        upstream,
        reactor=reactor,
        pool=pool,
        server_id=server_id,
        address=str(upstream.url),
        keep=float(parse_duration(inventory.upstream_keep)),
    )


def put_in_force(
    relaying: Relaying, inventory: InventorySettings, reactor: Any, pool: Pool
) -> str:
    """
    Go on by another configuration; what waits is tried at once.

    Returns:
        Why that cannot be; "" if it can.
    """
    try:
        upstream = upstream_of(inventory, reactor, pool)
    except (OSError, ValueError) as error:
        return str(error)
    relaying.keep = float(parse_duration(inventory.upstream_keep))
    relaying.send_to(upstream, str(upstream.url))
    return ""


def _accounts(inventory: InventorySettings) -> dict[Box, tuple[str, str]]:
    """
    User and password of each box above: those that nodes use here, unless others are
    given.
    """
    first = inventory.upstream_first_password or inventory.first_password
    accounts = {
        Box.FIRST: (
            inventory.upstream_first_user or inventory.first_user,
            first.reveal(),
        )
    }
    user = inventory.upstream_user or inventory.update_user
    password = inventory.upstream_password or inventory.update_password
    if user is not None and password is not None:
        accounts[Box.UPDATE] = user, password.reveal()
    return accounts


def _pins(text: str) -> tuple[str, ...]:
    """
    The names of the keys that one entry means.
    """
    if not text.startswith("/"):
        return parse_pins(text)
    _, data = read_small(text)
    return read_pins(data)
