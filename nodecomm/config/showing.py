# SPDX-License-Identifier: MIT
"""
A configuration as it is shown: every value with its origin, secrets hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from attrs import frozen

from nodecomm.config.errors import Origin, child_path, element_path, in_toml, printable
from nodecomm.config.fields import Key, keys_of
from nodecomm.config.placed import Placed
from nodecomm.config.secrets import HIDDEN, Secret

__all__ = ["Shown", "as_toml", "shown_values"]

DEFAULT = "default"

#: What comes before a password in a URL, and the password.
_PASSWORD = re.compile(
    r"(^[a-z][a-z0-9+.-]*://[^:@/?#]*:)[^@/]*(?=@)"
    r"|(?<=[?&]password=)[^&#]*|(?<=[?&]sslpassword=)[^&#]*"
)


@frozen
class Shown:
    """
    One value.

    Attributes:
        key_path: Which.
        value: What; never a secret.
        origin: Where it stands; None for a default.
    """

    key_path: str
    value: object
    origin: Origin | None


def shown_values(settings: Placed) -> list[Shown]:
    """
    Every value of *settings*, the elements of a list one by one, in the order of the
    model. A key that is not set and has no default value has None.
    """
    return list(_values(settings, "", settings))


def _values(value: Any, path: str, settings: Placed) -> Iterator[Shown]:
    for key in keys_of(value.__class__):
        inner, here = getattr(value, key.name), child_path(path, key.name)
        if not key.is_list:
            if key.element is not None and inner is not None:
                yield from _values(inner, here, settings)
            else:
                yield Shown(here, _visible(inner), settings.origin(here))
            continue
        if not inner:
            yield Shown(here, [], settings.origin(here))
        for index, element in enumerate(inner):
            place = element_path(here, index)
            if key.element is not None:
                yield from _values(element, place, settings)
            else:
                yield Shown(place, _visible(element), settings.origin(place))


def _visible(value: object) -> object:
    """
    *value*, or for a secret what may be shown of it: where it comes from. A URL is
    shown without the password in it.
    """
    if isinstance(value, str):
        return _PASSWORD.sub(rf"\1{HIDDEN}", value)
    if not isinstance(value, Secret):
        return value
    if value.file is not None:
        return {"file": value.file}
    if value.env is not None:
        return {"env": value.env}
    return HIDDEN


def as_toml(settings: Placed) -> str:
    """
    *settings* as a file that means the same (but for hidden secrets), each value
    with its origin in a comment.
    """
    return "\n".join(_Writer(settings).lines()) + "\n"


@frozen
class _Writer:
    settings: Placed

    def lines(self) -> Iterator[str]:
        """
        The file.
        """
        divided = False
        for header, path, table in self.sections():
            if divided:
                yield ""
            divided = True
            yield header
            if table is not None:
                yield from self.table(table, path)

    def sections(self) -> Iterator[tuple[str, str, Any]]:
        """
        Header, key path and content of each table.
        """
        # A program may have tables of its own in a class derived from ours.
        whole: Any = self.settings
        for key in keys_of(whole.__class__):
            value = getattr(whole, key.name)
            if key.is_list:
                for index, one in enumerate(value):
                    path = element_path(key.name, index)
                    yield f"[[{key.name}]]  # {self.place(path)}", path, one
            elif value is None:
                yield f"# [{key.name}] is not set", key.name, None
            else:
                yield f"[{key.name}]", key.name, value

    def table(self, value: Any, path: str) -> Iterator[str]:
        """
        The keys of one table.
        """
        for key in keys_of(value.__class__):
            inner, here = getattr(value, key.name), child_path(path, key.name)
            if inner is None:
                yield f"# {key.name} is not set"
            elif key.is_list and inner:
                yield from self.array(key, inner, here)
            elif key.element is not None and not key.is_list:
                shown, place = self.inline(key, inner, here)
                yield f"{key.name} = {shown}  # {place}"
            else:
                shown = in_toml(list(inner) if key.is_list else _visible(inner))
                yield f"{key.name} = {shown}  # {self.place(here)}"

    def array(self, key: Key, values: tuple[Any, ...], path: str) -> Iterator[str]:
        """
        A list, one element a line, for each may come from another place.
        """
        yield f"{key.name} = ["
        for index, value in enumerate(values):
            here = element_path(path, index)
            if key.element is None:
                shown, place = in_toml(_visible(value)), self.place(here)
            else:
                shown, place = self.inline(key, value, here)
            yield f"    {shown},  # {place}"
        yield "]"

    def inline(self, key: Key, value: Any, path: str) -> tuple[str, str]:
        """
        A table within a line, and its origin in words.
        """
        shown = in_toml(
            {
                inner.name: _visible(getattr(value, inner.name))
                for inner in keys_of(key.element)
                if getattr(value, inner.name) is not None
            }
        )
        first = child_path(path, keys_of(key.element)[0].name)
        return shown, self.place(first if self.settings.origin(first) else path)

    def place(self, path: str) -> str:
        """
        The origin of *path* in words.
        """
        origin = self.settings.origin(path)
        return DEFAULT if origin is None else printable(str(origin))
