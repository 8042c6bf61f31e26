# SPDX-License-Identifier: MIT
"""
What can be wrong with the keys of a relay, which passes inventories on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attrs import fields_dict

from nodecomm.config.errors import Problem, child_path
from nodecomm.config.placed import Checks

if TYPE_CHECKING:
    from nodecomm.config.inventory import InventorySettings

__all__ = ["RELAY_KEYS", "check_upstream"]

#: The keys that there are only on a relay, besides `upstream` itself.
RELAY_KEYS = (
    "upstream_key",
    "upstream_first_user",
    "upstream_first_password",
    "upstream_user",
    "upstream_password",
    "upstream_keep",
)

#: What a server decides by.
_OF_DECISIONS = (
    "signatures",
    "max_age",
    "max_ahead",
    "auto_accept",
    "max_ratio",
    "orphan_after",
)

#: The id of a server without one above it.
_ROOT = "root"


def check_upstream(
    checks: Checks[Any], settings: InventorySettings
) -> Iterator[Problem]:
    """
    Everything that is wrong between `upstream` and other keys.
    """
    if settings.upstream is None:
        for name in _changed(settings, RELAY_KEYS):
            yield checks.problem(
                child_path("inventory", name),
                "it has no effect: this server is no relay",
                None,
                'write upstream = "https://...", or leave it out',
                warning=True,
            )
        return
    if not settings.upstream_key:
        yield checks.problem(
            "inventory.upstream_key",
            "nothing is sent to a server whose key is not known",
            None,
            "write what `nodecomm key show`, or `rudder agent info`, tells there: "
            'upstream_key = ["MD5=..."]',
        )
    for name in _changed(settings, _OF_DECISIONS):
        yield checks.problem(
            child_path("inventory", name),
            "it has no effect: a relay decides about no inventory",
            None,
            "leave it out here; write it where upstream leads to",
            warning=True,
        )
    if not settings.listen:
        yield checks.problem(
            "inventory.upstream",
            "there is nothing to pass on: no node can send anything here",
            settings.upstream,
            "write listen, or leave upstream out",
            warning=True,
        )
    if settings.server_id == _ROOT:
        yield checks.problem(
            "inventory.server_id",
            "this is the id of a server without one above it",
            _ROOT,
            "leave it out, or write an id of its own",
            warning=True,
        )
    yield from _check_accounts(checks, settings)


def _check_accounts(
    checks: Checks[Any], settings: InventorySettings
) -> Iterator[Problem]:
    for key in ("upstream_first_user", "upstream_user"):
        name = getattr(settings, key)
        if name is not None and (not name or ":" in name or not name.isprintable()):
            yield checks.problem(
                child_path("inventory", key),
                "Basic authentication cannot have this user",
                name,
                "write a name without a colon",
            )
    user = settings.upstream_user or settings.update_user
    password = settings.upstream_password or settings.update_password
    if settings.upstream_user is not None and password is None:
        yield checks.problem(
            "inventory.upstream_user",
            "it has no password",
            settings.upstream_user,
            "write upstream_password, too",
        )
    if settings.upstream_password is not None and user is None:
        yield checks.problem(
            "inventory.upstream_password",
            "nobody says whose it is",
            None,
            "write upstream_user, too",
        )


def _changed(settings: InventorySettings, names: tuple[str, ...]) -> list[str]:
    """
    Those of some keys that do not have their defaults.
    """
    known = fields_dict(type(settings))
    return [name for name in names if getattr(settings, name) != known[name].default]
