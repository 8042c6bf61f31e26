# SPDX-License-Identifier: MIT
"""
What of `[inventory]` can only be judged where addresses, endpoints and keys are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nodecomm.access.networks import AddressList, parse_entry
from nodecomm.config.errors import Problem, child_path, element_path
from nodecomm.config.inventory import OWN_KEY
from nodecomm.config.inventory_upstream import RELAY_KEYS
from nodecomm.inventory.keys import KeyRefused, read_pem
from nodecomm.inventory.opening import NodesPlace, nodes_place
from nodecomm.service.endpoints import endpoint_problems
from nodecomm.storage.postgres_place import DatabaseUnusable, PostgresPlace, is_postgres

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nodecomm.config.inventory import InventorySettings
    from nodecomm.config.model import Settings

__all__ = ["address_list", "inventory_problems", "place_of_nodes", "waits_for_restart"]

#: The lists of addresses.
_NETWORKS = ("networks", "trusted_proxies", "auto_accept")

#: Keys whose new value is in force after a reload; that of all others after a restart.
_AT_ONCE = frozenset(
    {
        "listen",
        "certificate",
        "networks",
        "registry_max_stale",
        "trusted_proxies",
        "plain",
        "auto_accept",
        "first_user",
        "first_password",
        "update_user",
        "update_password",
        "upload_timeout",
        "uploads_at_once",
        "connections",
        "connections_per_address",
        "waiting",
        "min_free",
        "upstream",
        *RELAY_KEYS,
        "keep_deleted",
    }
)


def inventory_problems(settings: Settings) -> list[Problem]:
    """
    Everything that is wrong with `[inventory]` and `[[registered]]` beyond their form.
    """
    inventory = settings.inventory
    if inventory is None:
        return []
    return [
        *endpoint_problems(settings, "inventory.listen", inventory.listen),
        *_database_problems(settings),
        *_network_problems(settings),
        *_certificate_problems(settings),
        *_key_problems(settings),
        *_upstream_problems(settings),
    ]


def address_list(texts: Iterable[str]) -> AddressList:
    """
    A list of addresses that has passed `inventory_problems`.
    """
    return AddressList([parse_entry(text, acl=False) for text in texts])


def place_of_nodes(inventory: InventorySettings, folder: str) -> NodesPlace:
    """
    Where a configuration has the nodes.

    Raises:
        UnknownDatabase: It names something else.
    """
    password = inventory.database_password
    return nodes_place(
        inventory.database, folder, None if password is None else password.reveal()
    )


def waits_for_restart(old: Settings, new: Settings) -> list[str]:
    """
    The keys about inventories whose new value will be in force only after a restart.
    """
    before, after = old.inventory, new.inventory
    if before is None or after is None:
        return [] if before is after else ["inventory"]
    waiting = [
        child_path("inventory", name)
        for name in before.__class__.__annotations__
        if name not in _AT_ONCE and getattr(before, name) != getattr(after, name)
    ]
    if (before.upstream is None) is not (after.upstream is None):
        waiting.append("inventory.upstream")
    return waiting


def _database_problems(settings: Settings) -> Iterator[Problem]:
    assert settings.inventory is not None  # noqa: S101
    named = settings.inventory.database
    if not is_postgres(named):
        return
    try:
        PostgresPlace(named).check()
    except DatabaseUnusable as error:
        path = "inventory.database"
        # It may hold a password.
        yield Problem(path, str(error), None, "", settings.nearest_origin(path))


def _network_problems(settings: Settings) -> Iterator[Problem]:
    for name in _NETWORKS:
        for index, text in enumerate(getattr(settings.inventory, name)):
            path = element_path(child_path("inventory", name), index)
            try:
                pattern = parse_entry(text, acl=False)
            except ValueError as error:
                why, _, hint = str(error).partition("; ")
            else:
                if pattern.form not in ("word", "nothing"):
                    continue
                why = pattern.ineffective or "this matches no address of its own"
                hint = "write an address or a network"
            yield Problem(path, why, text, hint, settings.nearest_origin(path))


def _certificate_problems(settings: Settings) -> Iterator[Problem]:
    assert settings.inventory is not None  # noqa: S101
    chosen = settings.inventory.certificate
    if chosen.cert == OWN_KEY or chosen.key is None:
        return
    # Most servers show their own key, and need not load this for a check.
    from nodecomm.inventory.https import (  # noqa: PLC0415
        CertificateError,
        certificate_from_files,
    )

    try:
        certificate_from_files(chosen.cert, chosen.key)
    except CertificateError as error:
        # Whoever checks may not be the user who serves, and may not read the key.
        path = "inventory.certificate"
        yield Problem(
            path,
            str(error),
            None,
            "a server that cannot read it does not start, and one that runs goes on"
            " with the one that it has",
            settings.nearest_origin(path),
            "warning",
        )


def _upstream_problems(settings: Settings) -> Iterable[Problem]:
    assert settings.inventory is not None  # noqa: S101
    if settings.inventory.upstream is None:
        return ()
    # It brings a web client along, which others need not load.
    from nodecomm.service.inventory_relaying import upstream_problems  # noqa: PLC0415

    return upstream_problems(settings)


def _key_problems(settings: Settings) -> Iterator[Problem]:
    for index, node in enumerate(settings.registered):
        path = child_path(element_path("registered", index), "key")
        try:
            read_pem(node.key)
        except KeyRefused as error:
            origin = settings.nearest_origin(path)
            hint = "write the node's public key, or its certificate, in PEM form"
            yield Problem(path, str(error), None, hint, origin)
