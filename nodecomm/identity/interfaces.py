# SPDX-License-Identifier: MIT
"""
What a trust policy asks of others. Each method may return its value or a Deferred
of it.
"""

from __future__ import annotations

from typing import Any

from zope.interface import Interface

__all__ = ["ISeen", "IWindowCounter"]


class IWindowCounter(Interface):
    """
    Counts the uses of trust windows, for all processes together.
    """

    def take(window_id: str, limit: int, token: str) -> Any:
        """
        Take one place for *token*, atomically, unless others hold *limit* places:
        whether it holds one now. Taking twice takes one.
        """

    def has_room(window_id: str, limit: int, token: str) -> Any:
        """
        Whether `take` would succeed now.
        """

    def used(window_id: str) -> Any:
        """
        How many places are taken.
        """


class ISeen(Interface):
    """
    Who was seen where.
    """

    def digests_at(address: str) -> Any:
        """
        The MD5 digests of the keys that connected from an address, the last one
        first.
        """
