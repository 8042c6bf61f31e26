# SPDX-License-Identifier: MIT
"""
What people should know who use a protocol that does not protect what it carries.
"""

from __future__ import annotations

__all__ = ["classic_warning"]


def classic_warning(servers: object, *, encrypt: bool) -> str:
    """
    One line about speaking the classic protocol with *servers*.
    """
    if encrypt:
        return (
            f"the classic protocol is spoken with {servers}, encrypted: its cipher is"
            " one of the 1990s, and whoever is on the way can change what is sent,"
            " unnoticed"
        )
    return (
        f"the classic protocol is spoken with {servers}, in the clear: whoever is on"
        " the way can read what is sent, and change it, unnoticed"
    )
