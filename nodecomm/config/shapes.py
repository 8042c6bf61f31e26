# SPDX-License-Identifier: MIT
"""
What a single value must be: its type, and for texts and numbers what they must look
like. Nothing here knows where a value stands.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from datetime import date, datetime
from typing import Any

from nodecomm.config.durations import duration_text, parse_duration
from nodecomm.config.errors import in_toml
from nodecomm.config.fields import About, Shape
from nodecomm.config.secrets import Secret
from nodecomm.wire.text import from_text

__all__ = [
    "LARGEST_NUMBER",
    "MismatchError",
    "boolean",
    "check_about",
    "check_raw",
    "choice",
    "command",
    "did_you_mean",
    "moment",
    "number",
    "secret",
    "text",
    "whole_number",
]

#: No number of the configuration may be larger; timers and counters overflow
#: somewhere above.
LARGEST_NUMBER = 10**12

#: Source: CFEngine 3.21: a user name of the identification line is shorter than
#: this many bytes.
LONGEST_USER = 1023

#: Characters in the name of a class, more than anybody needs.
LONGEST_CLASS = 255

_ENDPOINT = re.compile(r"([A-Za-z][A-Za-z0-9_.+-]*):(.+)\Z", re.DOTALL)
_ADDRESS_AND_PORT = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]*)\]|(?P<four>[0-9.]+|\*)):(?P<port>\d+)\Z"
)
_CLASS = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
_NOT_IN_CLASS = re.compile(r"[^A-Za-z0-9_]", re.ASCII)

#: For those who wrote something that is no number.
_WRITE_NUMBER = "write digits without quotes, such as 100"

_DIVIDER = re.compile(r"(?<!\\):")


class MismatchError(ValueError):
    """
    A value is not what its key takes.

    Attributes:
        message: What is wrong.
        hint: What to write instead.
        secret: Whether the value must not be shown.
    """

    def __init__(self, message: str, hint: str = "", *, secret: bool = False) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint
        self.secret = secret


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """
    The one of *known* that *name* was probably meant to be.
    """
    folded = {k.lower().replace("-", "_"): k for k in known}
    wanted = name.lower().replace("-", "_").replace(" ", "_")
    close = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.7)
    return folded[close[0]] if close else None


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, int):
        return "a whole number"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return "a date or time"


def wrong_type(value: object, wanted: str, hint: str = "") -> MismatchError:
    """
    *value* has another type than *wanted* (in words).
    """
    return MismatchError(f"{_kind(value)} where {wanted} belongs", hint)


def _unquoted(value: object, pattern: str) -> str:
    if isinstance(value, str) and re.fullmatch(pattern, value):
        return f"write {value} without quotes"
    return ""


def text(value: object) -> str:
    """
    A text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        raise wrong_type(value, "a text", f"write {in_toml(value[0])}")
    if isinstance(value, (list, dict)):
        raise wrong_type(value, "a text", 'write one text, "..."')
    raise wrong_type(value, "a text", f'write "{in_toml(value)}"')


def boolean(value: object) -> bool:
    """
    `true` or `false`.
    """
    if isinstance(value, bool):
        return value
    hint = _unquoted(value, "true|false") or "write true or false"
    raise wrong_type(value, "true or false", hint)


def whole_number(value: object) -> int:
    """
    An integer.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    hint = _unquoted(value, r"[+-]?\d{1,15}") or _WRITE_NUMBER
    if isinstance(value, float) and value.is_integer():
        hint = f"write {int(value)}"
    raise wrong_type(value, "a whole number", hint)


def number(value: object) -> float:
    """
    An integer or a float.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise MismatchError(
                "not a finite number", f"write a number up to {LARGEST_NUMBER}"
            )
        return value
    hint = _unquoted(value, r"[+-]?\d{1,15}(\.\d+)?") or _WRITE_NUMBER
    raise wrong_type(value, "a number", hint)


def moment(value: object) -> datetime:
    """
    A time with an offset, so that it means one moment.
    """
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            return value
        example = value.isoformat()
        raise MismatchError(
            "a time without offset means another moment in each time zone",
            f"write {example}Z for UTC or {example}+01:00",
        )
    if isinstance(value, date):
        raise wrong_type(
            value, "a time with offset", f"write {value.isoformat()}T00:00:00Z"
        )
    hint = _unquoted(value, r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*")
    raise wrong_type(
        value, "a time with offset", hint or "write it as 2026-12-01T00:00:00Z"
    )


def choice(value: object, choices: tuple[Any, ...]) -> Any:
    """
    One of *choices*, texts and whole numbers.
    """
    # By type, too: true equals 1.
    for one in choices:
        if type(value) is type(one) and value == one:
            return value
    listed = ", ".join(map(in_toml, choices))
    texts = {str(one): one for one in choices}
    meant = did_you_mean(value if isinstance(value, str) else str(value), texts)
    raise MismatchError(
        "not one of the values this key takes",
        f"write {in_toml(texts[meant])}" if meant else f"write one of {listed}",
    )


def secret(value: object) -> Secret:
    """
    A text, or a table that says where the text is.
    """
    if isinstance(value, str) and value:
        return Secret(value)
    hint = 'write { file = "/path" } or { env = "NAME" }'
    if isinstance(value, dict):
        places = {k: v for k, v in value.items() if k in {"file", "env"}}
        if len(value) == len(places) == 1:
            (name, place), *_ = places.items()
            if isinstance(place, str) and place and "\0" not in place:
                return Secret(file=place) if name == "file" else Secret(env=place)
        raise MismatchError(
            "this table does not say where the secret is", hint, secret=True
        )
    raise MismatchError("not a secret", hint, secret=True)


def check_about(value: Any, told: About) -> None:
    """
    Check one value of the right type (one element, where the key takes a list)
    against what the model says about its key.

    Raises:
        MismatchError: It is out of bounds or of the wrong shape.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_bounds(value, told)
    elif isinstance(value, str):
        if told.shape == "duration":
            _check_duration(value, told)
        elif told.shape:
            _SHAPES[told.shape](value)
        if told.addresses:
            _check_address_text(value)


def check_raw(value: object, told: About) -> None:
    """
    Check one value as the file has it, before its type is looked at.

    Raises:
        MismatchError: It is what people write where they mean another type.
    """
    if told.shape == "duration" and isinstance(value, (int, float)):
        if isinstance(value, bool):
            raise wrong_type(value, "a length of time", 'write "5m"')
        meant = in_toml(f"{round(value)}s") if math.isfinite(value) else '"5m"'
        raise MismatchError("a length of time needs a unit", f"write {meant}")


def command(value: object) -> tuple[str, ...] | str:
    """
    A program and its arguments as a list, or one text for the shell.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise wrong_type(
            value,
            "a list of texts",
            'write ["/path/of/program", "argument"]',
        )
    return tuple(value)


def _check_duration(value: str, told: About) -> None:
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        number = re.fullmatch(r"[0-9]{1,9}", value)
        meant = (
            in_toml(f"{value}s") if number else 'a text such as "90s", "5m", "1h30m"'
        )
        raise MismatchError(str(error), f"write {meant}") from None
    if told.minimum is not None and seconds < told.minimum:
        least = in_toml(duration_text(told.minimum))
        raise MismatchError("too short", f"write at least {least}")
    if told.maximum is not None and seconds > told.maximum:
        most = in_toml(duration_text(told.maximum))
        raise MismatchError("too long", f"write at most {most}")


def _check_bounds(value: float, told: About) -> None:
    if told.minimum is not None and value < told.minimum:
        least = _counted(told.minimum, told.unit)
        raise MismatchError("too small", f"write at least {least}")
    most = LARGEST_NUMBER if told.maximum is None else told.maximum
    if value > most:
        raise MismatchError("too large", f"write at most {_counted(most, told.unit)}")


def _counted(number: float, unit: str) -> str:
    """
    So many of *unit*, which the model has in the plural.
    """
    if number == 1:
        unit = f"{unit[:-3]}y" if unit.endswith("ies") else unit.removesuffix("s")
    return f"{number} {unit}".rstrip()


def _check_address_text(value: str) -> None:
    if not value.strip():
        raise MismatchError("an empty text is no address", "leave it out")


def _check_endpoint(value: str) -> None:
    if value.isdecimal():
        raise MismatchError(
            "a port alone is no endpoint", f"write {in_toml('tcp6:' + value)}"
        )
    bare = _ADDRESS_AND_PORT.match(value)
    if bare is not None:
        port = bare["port"]
        if bare["four"] is not None:
            where = "" if bare["four"] == "*" else f":interface={bare['four']}"
            meant = f"tcp:{port}{where}"
        else:
            meant = f"tcp6:{port}:interface={bare['six'] or '::'}".replace(
                bare["six"] or "::", (bare["six"] or "::").replace(":", "\\:")
            )
        raise MismatchError(
            "an address and a port are no endpoint", f"write {_literal(meant)}"
        )
    found = _ENDPOINT.match(value)
    if found is None:
        raise MismatchError(
            "not an endpoint string", 'write "tcp6:5308" or another NAME:ARGUMENTS'
        )
    name, arguments = found[1].lower(), _DIVIDER.split(found[2])
    if name in {"ssl", "tls"}:
        port = next((part for part in arguments if part.isdecimal()), "5308")
        raise MismatchError(
            "this server speaks TLS itself; an endpoint that also does is not "
            "understood by any node",
            f"write {in_toml(f'tcp6:{port}')}",
        )
    if name in {"tcp", "tcp4", "tcp6"}:
        if name == "tcp4":
            raise MismatchError(
                "Twisted has no endpoint of this name",
                f"write {_literal('tcp:' + found[2])}",
            )
        _check_tcp(name, arguments)


def _check_tcp(name: str, arguments: list[str]) -> None:
    ports = [a.partition("=")[2] for a in arguments if a.startswith("port=")]
    if "=" not in arguments[0]:
        ports.append(arguments[0])
    if len(ports) != 1 or not ports[0].isdecimal() or not ports[0].isascii():
        raise MismatchError("the endpoint names no port", f'write "{name}:5308"')
    if len(ports[0]) > 5 or int(ports[0]) > 65535:
        raise MismatchError("no such port", "write a port from 1 to 65535")


def _literal(value: str) -> str:
    return f"'{value}'" if "\\" in value else in_toml(value)


def _check_absolute_path(value: str) -> None:
    if "\0" in value:
        raise MismatchError("a path cannot hold a NUL", "leave it out")
    if not value.startswith("/"):
        raise MismatchError(
            "not an absolute path",
            "write the whole path, such as /var/lib/nodecomm/inputs",
        )
    try:
        from_text(value)
    except ValueError as error:
        raise MismatchError(
            str(error), r"write two backslashes for one, \xNN for a byte"
        ) from None


def _check_no_slash(value: str) -> None:
    if not value or value in {".", ".."}:
        raise MismatchError(
            "this cannot be a name", 'write a name such as "masterfiles"'
        )
    if "/" in value:
        meant = value.strip("/").rpartition("/")[2]
        raise MismatchError(
            "a slash cannot be part of this name",
            f"write {in_toml(meant)}"
            if meant
            else 'write a name such as "masterfiles"',
        )
    if "\0" in value or "\n" in value:
        raise MismatchError(
            "a NUL or a newline cannot be part of a name", "leave it out"
        )


def _check_user(value: str) -> None:
    if not value:
        raise MismatchError("an empty text is no user name", "leave it out")
    if any(c in "/\\" or c.isspace() or not c.isprintable() for c in value):
        raise MismatchError(
            "a slash, a backslash, a space or a control cannot be part of a user name",
            'write a name such as "root"',
        )
    if len(value.encode("utf-8", "surrogatepass")) > LONGEST_USER:
        raise MismatchError("too long", f"write at most {LONGEST_USER} bytes")


def _check_remote_path(value: str) -> None:
    if not value:
        raise MismatchError(
            "an empty text names nothing on a server",
            'write a shortcut such as "masterfiles", or an absolute path',
        )
    _check_name_text(value)


def _check_glob(value: str) -> None:
    if not value.strip("/"):
        raise MismatchError("this matches no name", "leave it out")
    if value.startswith("/"):
        raise MismatchError(
            "names are relative to the source", f"write {in_toml(value.lstrip('/'))}"
        )
    _check_name_text(value)


def _check_name_text(value: str) -> None:
    if "\0" in value or "\n" in value:
        raise MismatchError(
            "a NUL or a newline cannot be part of a name", "leave it out"
        )
    try:
        from_text(value)
    except ValueError as error:
        raise MismatchError(
            str(error), r"write two backslashes for one, \xNN for a byte"
        ) from None


def _check_class(value: str) -> None:
    if not value:
        raise MismatchError("an empty text is no class", "leave it out")
    if not _CLASS.fullmatch(value):
        meant = _NOT_IN_CLASS.sub("_", value)
        raise MismatchError(
            "only letters, digits and _ can be part of a class",
            f"write {in_toml(meant)}",
        )
    if len(value) > LONGEST_CLASS:
        raise MismatchError("too long", f"write at most {LONGEST_CLASS} characters")


_SHAPES: dict[Shape, Callable[[str], None]] = {
    "endpoint": _check_endpoint,
    "absolute-path": _check_absolute_path,
    "no-slash": _check_no_slash,
    "user": _check_user,
    "remote-path": _check_remote_path,
    "glob": _check_glob,
    "class": _check_class,
}
