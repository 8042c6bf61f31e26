# SPDX-License-Identifier: MIT
"""
`"@allowed_networks"` in lists of addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from attrs import define, field

from nodecomm.config.errors import Origin, Problem, child_path, element_path
from nodecomm.config.fields import Key, keys_of
from nodecomm.config.model import Settings, TrustWindowSettings
from nodecomm.config.shapes import did_you_mean

__all__ = ["expand_names"]

#: The one list that has a name.
NAME = "@allowed_networks"
LIST_PATH = "server.allowed_networks"


def expand_names(
    settings: Settings, origins: Mapping[str, Origin]
) -> tuple[Settings, list[Problem]]:
    """
    *settings* with each name in a list of addresses replaced by what it stands for,
    and `Settings.origins` filled: an address that came by name stands where the
    named list has it.
    """
    expansion = _Expansion(settings.server.allowed_networks, origins)
    expanded = expansion.table(settings, "", "")
    return (
        attrs.evolve(expanded, origins=expansion.result),
        expansion.problems,
    )


@define
class _Expansion:
    networks: tuple[str, ...]
    origins: Mapping[str, Origin]
    result: dict[str, Origin] = field(factory=dict)
    problems: list[Problem] = field(factory=list)

    def table(self, value: Any, old: str, new: str) -> Any:
        """
        One object of the model, from key path *old* to *new*.
        """
        self._move(old, new)
        changes: dict[str, Any] = {}
        for key in keys_of(value.__class__):
            inner = getattr(value, key.name)
            old_path, new_path = child_path(old, key.name), child_path(new, key.name)
            if key.element is not None and inner is not None:
                if key.is_list:
                    changes[key.name] = self._tables(inner, old_path, new_path)
                else:
                    changes[key.name] = self.table(inner, old_path, new_path)
            elif key.is_list:
                changes[key.name] = self._texts(key, inner, old_path, new_path)
            else:
                self._move(old_path, new_path)
        return attrs.evolve(value, **changes)

    def _tables(self, values: tuple[Any, ...], old: str, new: str) -> tuple[Any, ...]:
        self._move(old, new)
        result: list[Any] = []
        for index, value in enumerate(values):
            old_path = element_path(old, index)
            for one, place in self._windows(value, old_path):
                new_path = element_path(new, len(result))
                result.append(self.table(one, old_path, new_path))
                if place is not None and place in self.origins:
                    self.result[child_path(new_path, "network")] = self.origins[place]
        return tuple(result)

    def _windows(self, value: Any, path: str) -> Iterator[tuple[Any, str | None]]:
        """
        *value*, or for a trust window with a name one window per network.
        """
        if not isinstance(value, TrustWindowSettings) or value.network[:1] != "@":
            yield value, None
            return
        network = child_path(path, "network")
        if not self._is_known(value.network, network):
            return
        if value.count is not None and len(self.networks) > 1:
            self._report(
                network,
                value.network,
                f"the name stands for {len(self.networks)} networks, and each would "
                "be counted by itself",
                "write one table for each network, or leave out count",
            )
            return
        for index, one in enumerate(self.networks):
            yield attrs.evolve(value, network=one), element_path(LIST_PATH, index)

    def _texts(
        self, key: Key, values: tuple[Any, ...], old: str, new: str
    ) -> tuple[Any, ...]:
        self._move(old, new)
        if not key.about.addresses:
            for index in range(len(values)):
                self._move(element_path(old, index), element_path(new, index))
            return values
        result: list[str] = []
        for index, value in enumerate(values):
            path = element_path(old, index)
            if value[:1] != "@":
                self._move(path, element_path(new, len(result)))
                result.append(value)
            elif self._is_known(value, path):
                for place, one in enumerate(self.networks):
                    self._move(
                        element_path(LIST_PATH, place),
                        element_path(new, len(result)),
                    )
                    result.append(one)
        return tuple(result)

    def _is_known(self, value: str, path: str) -> bool:
        if value == NAME:
            return True
        meant = did_you_mean(value, [NAME])
        self._report(
            path,
            value,
            "no list has this name",
            f'did you mean "{NAME}"?' if meant else f'the only name is "{NAME}"',
        )
        return False

    def _report(self, path: str, value: str, message: str, hint: str) -> None:
        self.problems.append(
            Problem(path, message, value, hint, self.origins.get(path))
        )

    def _move(self, old: str, new: str) -> None:
        if old in self.origins:
            self.result[new] = self.origins[old]
