# SPDX-License-Identifier: MIT
"""
Twisted protocols and factories that answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nodecomm.server.factory import ClassicFactory, PortFactory, TLSFactory

__all__ = ["ClassicFactory", "PortFactory", "TLSFactory"]


def __getattr__(name: str) -> Any:
    """
    The factories, loaded when they are asked for: a client uses the pools of this
    room, and all that a server consists of would double the time it takes to start.
    """
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from nodecomm.server import factory  # noqa: PLC0415

    return getattr(factory, name)
