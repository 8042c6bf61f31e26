# SPDX-License-Identifier: MIT
"""
A configuration whose values remember where they stand.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve, field, frozen

from nodecomm.config.errors import Origin

__all__ = ["Placed"]


@frozen(kw_only=True)
class Placed:
    """
    What every whole configuration has besides its tables.

    Attributes:
        origins: Where each value stands, by key path in the result; a value without
            an entry is the default.
    """

    origins: Mapping[str, Origin] = field(factory=dict, eq=False, repr=False)

    def origin(self, key_path: str) -> Origin | None:
        """
        Where the value at *key_path* (`server.listen[0]`, `access[2].path`) stands;
        None for a default.
        """
        return self.origins.get(key_path)

    def nearest_origin(self, key_path: str) -> Origin | None:
        """
        Where the value at *key_path* stands, or else the table or list that would
        hold it: the place to name when something is missing.
        """
        around = key_path
        while around:
            origin = self.origins.get(around)
            if origin is not None:
                rest = key_path[len(around) :]
                known = origin.key_path or around
                return evolve(origin, key_path=known + rest) if rest else origin
            around = around[: max(around.rfind("."), around.rfind("["), 0)]
        return None
