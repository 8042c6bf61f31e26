# SPDX-License-Identifier: MIT
"""
What a service states about the classic protocol, which protects nothing that is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nodecomm.wire.cipher import missing
from nodecomm.wire.text import safe

if TYPE_CHECKING:
    from twisted.logger import Logger

    from nodecomm.config.model import Settings

__all__ = ["tell_classic"]


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
