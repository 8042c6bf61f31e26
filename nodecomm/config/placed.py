# SPDX-License-Identifier: MIT
"""
A configuration whose values remember where they stand, and what looks for problems in
one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from attrs import evolve, field, frozen

from nodecomm.config.errors import Origin, Problem, Severity, element_path

__all__ = ["Checks", "Placed"]


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


P = TypeVar("P", bound=Placed)


@frozen
class Checks(Generic[P]):
    """
    A look for what is wrong in *whole*.
    """

    whole: P

    def problem(
        self,
        path: str,
        message: str,
        value: object = None,
        hint: str = "",
        *,
        warning: bool = False,
    ) -> Problem:
        """
        A problem at *path*, or at what would hold it; an error unless *warning*.
        """
        place = self.whole.nearest_origin(path)
        severity: Severity = "warning" if warning else "error"
        return Problem(path, message, value, hint, place, severity)

    def repeated(self, path: str, values: Iterable[str]) -> Iterator[Problem]:
        """
        Values that stand twice in a list where that makes no sense.
        """
        first: dict[str, str] = {}
        for index, value in enumerate(values):
            here = element_path(path, index)
            if value in first:
                yield self.problem(
                    here,
                    f"the same as {self.named(first[value])}",
                    value,
                    "leave one of them out",
                )
            first.setdefault(value, here)

    def named(self, path: str) -> str:
        """
        *path* as another message may name it: as it reads in its file, with place.
        """
        origin = self.whole.origin(path)
        return path if origin is None else f"{origin.key_path or path} in {origin}"
