# SPDX-License-Identifier: MIT
"""
What the model says about each key besides its type: meaning, unit, bounds. Reading,
`nodecomm config show` and the reference in the documentation all work from this, so
a new key is one new attribute.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from attrs import frozen

from nodecomm.config.errors import in_toml
from nodecomm.config.secrets import Secret

__all__ = ["About", "Key", "about", "hints", "keys_of", "type_name"]

#: Where `About` lies in an attribute's metadata.
ABOUT = "nodecomm"

Shape = Literal[
    "",
    "endpoint",
    "absolute-path",
    "no-slash",
    "user",
    "duration",
    "remote-path",
    "glob",
    "class",
]


@frozen
class About:
    """
    What there is to say about one key.

    Attributes:
        doc: One or two sentences for the reference.
        unit: Of a number; "" where it has none.
        minimum: The least number allowed; of a duration, the least seconds.
        maximum: The greatest number allowed; of a duration, the most seconds.
        upstream: What the attribute of that name means in CFEngine, where that
            differs; "" where it means the same or does not exist.
        addresses: Whether the texts are addresses, so that `@allowed_networks` may
            stand among them.
        shape: What each text must look like.
        shorthand: Whether a plain text may stand in place of the whole table, and
            then means this key.
    """

    doc: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    upstream: str = ""
    addresses: bool = False
    shape: Shape = ""
    shorthand: bool = False


def about(
    doc: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    upstream: str = "",
    addresses: bool = False,
    shape: Shape = "",
    shorthand: bool = False,
) -> dict[str, Any]:
    """
    The metadata of one attribute of the model: `field(metadata=about("..."))`.
    """
    return {
        ABOUT: About(
            doc, unit, minimum, maximum, upstream, addresses, shape, shorthand
        ),
    }


@frozen
class Key:
    """
    One key that a class of the model takes.
    """

    name: str
    type: Any
    default: object
    about: About

    @property
    def element(self) -> Any:
        """
        The class of the model that one element of this list, or this table, is;
        else None.
        """
        for candidate in (self.type, *get_args(self.type)):
            if isinstance(candidate, type) and attrs.has(candidate):
                return None if candidate is Secret else candidate
        return None

    @property
    def is_secret(self) -> bool:
        """
        Whether nobody may see the value.
        """
        return self.type is Secret or Secret in get_args(self.type)

    @property
    def is_list(self) -> bool:
        """
        Whether the file gives a list here.
        """
        return get_origin(self.type) is tuple


def hints(cls: type) -> Mapping[str, Any]:
    """
    The types of *cls*'s attributes, names resolved.
    """
    return typing.get_type_hints(cls)


@cache
def keys_of(cls: type) -> tuple[Key, ...]:
    """
    The keys that *cls* takes, in the order of the model. An attribute without
    `about` is no key.
    """
    resolved = hints(cls)
    keys = []
    for attribute in attrs.fields(cls):
        told = attribute.metadata.get(ABOUT)
        if told is None:
            continue
        default = attribute.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()
        keys.append(Key(attribute.name, resolved[attribute.name], default, told))
    return tuple(keys)


_NAMES: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    datetime: "time with offset",
    Secret: "secret",
}


def type_name(wanted: Any) -> str:
    """
    A type of the model in words.
    """
    if wanted in _NAMES:
        return _NAMES[wanted]
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return "one of " + ", ".join(in_toml(a) for a in arguments)
    if origin is tuple:
        inner = arguments[0]
        if inner is str:
            return "list of texts"
        return "list of tables" if attrs.has(inner) else f"list of {type_name(inner)}"
    if origin in {Union, types.UnionType}:
        return " or ".join(type_name(a) for a in arguments if a is not type(None))
    return "table"
