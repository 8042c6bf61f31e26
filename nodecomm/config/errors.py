# SPDX-License-Identifier: MIT
"""
What can be wrong with a configuration, as values, and how it is told to a person.

A problem names the key, the value, where it stands and what to write instead. One
reading reports all of them; only `ConfigError` stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime, time
from typing import Literal

from attrs import frozen

__all__ = [
    "ConfigError",
    "Origin",
    "Problem",
    "Severity",
    "child_path",
    "element_path",
    "encloses",
    "in_toml",
    "printable",
    "shortened",
]

Severity = Literal["error", "warning"]

#: Characters of a value that are shown; the rest is cut, the file has it.
SHOWN_VALUE = 100

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def printable(text: str) -> str:
    """
    *text* with every character a terminal might act on (controls, direction
    overrides, lone surrogates) written as TOML would escape it.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    number = ord(character)
    return f"\\u{number:04X}" if number <= 0xFFFF else f"\\U{number:08X}"


def in_toml(value: object) -> str:
    """
    *value* as it would be written in the file, on one line.
    """
    if isinstance(value, str):
        plain = "".join(_ESCAPES.get(c, c) for c in value)
        return f'"{printable(plain)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, dict):
        pairs = (f"{_key(k)} = {in_toml(v)}" for k, v in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(in_toml(v) for v in value) + "]"
    return printable(str(value))


def shortened(value: object) -> str:
    """
    *value* as in the file, the end of a long one cut off.
    """
    shown = in_toml(value)
    return shown if len(shown) <= SHOWN_VALUE else shown[:SHOWN_VALUE] + "..."


def _key(name: str) -> str:
    return name if _BARE_KEY.match(name) else in_toml(name)


def child_path(path: str, key: str) -> str:
    """
    The key path of *key* in the table at *path* ("" is the whole file).
    """
    return f"{path}.{_key(key)}" if path else _key(key)


def element_path(path: str, index: int) -> str:
    """
    The key path of one element of the array at *path*.
    """
    return f"{path}[{index}]"


def encloses(outer: str, inner: str) -> bool:
    """
    Whether *inner* is *outer* itself or lies in it.
    """
    return (
        not outer
        or inner == outer
        or (inner.startswith(outer) and inner[len(outer)] in ".[")
    )


@frozen
class Origin:
    """
    Where a value stands. A key stands where its name begins, an element of an array
    where the element begins.

    Attributes:
        file: The file as it was named, or what else gave the value (an option, a
            variable of the environment).
        line: From 1; 0 when only the file is known.
        column: In characters, from 1.
        key_path: The key path as it reads in that file. It differs from the one in
            the result where files were merged or a named list was expanded.
    """

    file: str
    line: int
    column: int
    key_path: str = ""

    def __str__(self) -> str:
        name = printable(self.file)
        return f"{name}:{self.line}:{self.column}" if self.line else name


@frozen
class Problem:
    """
    One thing that is wrong, or doubtful.

    Attributes:
        key_path: Which key, such as `access[0].admit_ips[1]`.
        message: What is wrong with it.
        value: The value in question as TOML gave it (a text is shown in quotes);
            None where the problem is not a value. Never a secret.
        hint: What to write instead.
        origin: Where it stands, if that is known.
        severity: An error keeps the configuration from being used.
    """

    key_path: str
    message: str
    value: object = None
    hint: str = ""
    origin: Origin | None = None
    severity: Severity = "error"

    @property
    def is_error(self) -> bool:
        """
        Whether the configuration cannot be used because of this.
        """
        return self.severity == "error"

    @property
    def shown_key(self) -> str:
        """
        The key path as it reads in the file, if that is known.
        """
        if self.origin is not None and self.origin.key_path:
            return self.origin.key_path
        return self.key_path

    def __str__(self) -> str:
        """
        `FILE:LINE:COLUMN: SEVERITY: KEY = VALUE: MESSAGE; HINT`.
        """
        key = self.shown_key
        parts = [str(self.origin)] if self.origin is not None else []
        parts.append(self.severity)
        if self.value is not None:
            parts.append(f"{printable(key)} = {shortened(self.value)}")
        elif key:
            parts.append(printable(key))
        said = printable(self.message)
        if self.hint:
            said += f"; {printable(self.hint)}"
        return ": ".join([*parts, said])


class ConfigError(Exception):
    """
    The configuration cannot be used. Correct every error in `problems`; `nodecomm
    config check` shows them again without starting anything.

    Attributes:
        problems: All that was found, warnings included, in the order of the files.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))
