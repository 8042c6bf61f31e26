# SPDX-License-Identifier: MIT
"""
What a service states about the classic protocol, which protects nothing that is sent,
and what of its configuration cannot work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nodecomm.access.networks import read_address
from nodecomm.config.errors import Problem
from nodecomm.wire.cipher import missing
from nodecomm.wire.classic import MAX_CHALLENGE
from nodecomm.wire.text import safe

if TYPE_CHECKING:
    from twisted.logger import Logger

    from nodecomm.access.snapshot import Snapshot
    from nodecomm.config.model import Settings
    from nodecomm.identity.keys import PublicKey

__all__ = ["classic_problems", "tell_classic"]


def tell_classic(
    settings: Settings,
    log: Logger,
    *,
    before: Settings | None = None,
    missing: Callable[[], str | None] = missing,
) -> None:
    """
    State who may speak the classic protocol, and that nobody can do so encrypted
    where the cipher is missing.

    Args:
        settings: The configuration in force.
        log: Takes it.
        before: The one that was in force until now: what has not changed is not told
            again. None at the start.
        missing: Why there is no cipher, and what to do; None when there is one.
    """
    networks = settings.server.allowlegacyconnects
    known = () if before is None else before.server.allowlegacyconnects
    if not networks or networks == known:
        return
    log.warn(
        "the classic protocol, which does not protect what is sent, may be spoken by"
        " {networks}; session.unprotected tells who does",
        event="classic.allowed",
        networks=safe(", ".join(networks)),
    )
    reason = None if known else missing()
    if reason is not None:
        log.warn(
            "encrypted requests of the classic protocol will be refused: {reason}",
            event="classic.cipher-missing",
            reason=reason,
        )


def classic_problems(
    settings: Settings, snapshot: Snapshot, key: PublicKey | None
) -> list[Problem]:
    """
    What keeps nodes that may speak the classic protocol from being served.

    Args:
        settings: The configuration.
        snapshot: Its lists of addresses.
        key: The server's own; None if it is not known.
    """
    listed = settings.server.allowlegacyconnects
    problems: list[Problem] = []
    longest = 8 * MAX_CHALLENGE
    if listed and key is not None and key.bits > longest:
        key_path = "server.allowlegacyconnects"
        problems.append(
            Problem(
                key_path,
                f"this server's key has {key.bits} bits, and the classic protocol has"
                f" no room for a challenge of more than {longest}: nodes that know the"
                " key cannot connect by it",
                list(listed),
                f"give the server a key of at most {longest} bits, or have the nodes"
                " use TLS",
                settings.nearest_origin(key_path),
                "warning",
            )
        )
    for index, network in enumerate(listed):
        address = read_address(network)
        if address is None:
            continue
        decision = snapshot.check_connection(address.text)
        if not decision.allowed:
            key_path = f"server.allowlegacyconnects[{index}]"
            problems.append(
                Problem(
                    key_path,
                    f"this address may not connect at all: {decision.text}",
                    network,
                    "write it in allowconnects, too, or leave it out here",
                    settings.nearest_origin(key_path),
                    "warning",
                )
            )
    return problems
