# SPDX-License-Identifier: MIT
"""
The reference of all keys, as reStructuredText, from what the model says about them.

`python -m nodecomm.config.reference` prints it for the documentation, with `agent`
behind it that of an agent's file; a test fails when the page has another text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from textwrap import wrap

from attrs import NOTHING, asdict, has

from nodecomm.config.agent import AgentConfiguration
from nodecomm.config.durations import duration_text
from nodecomm.config.errors import in_toml
from nodecomm.config.fields import Key, keys_of, type_name
from nodecomm.config.model import Settings
from nodecomm.config.secrets import Secret

__all__ = ["reference"]

WIDTH = 78


def reference(cls: type = Settings) -> str:
    """
    One section for each table, one entry for each key.
    """
    lines: list[str] = []
    for key in keys_of(cls):
        header = f"``[[{key.name}]]``" if key.is_list else f"``[{key.name}]``"
        lines += [header, "-" * len(header), "", *_paragraph(key.about.doc, ""), ""]
        lines += _entries(key.element, key.name)
    return "\n".join(lines).rstrip() + "\n"


def _entries(cls: type, path: str) -> Iterator[str]:
    for key in keys_of(cls):
        name = f"{path}.{key.name}"
        yield f"``{name}``"
        yield from _paragraph(_facts(key), "    ")
        yield ""
        yield from _paragraph(key.about.doc, "    ")
        yield ""
        if key.about.upstream:
            yield from _paragraph(f"In CFEngine: {key.about.upstream}", "    ")
            yield ""
        if key.element is not None:
            yield from _entries(key.element, name)


def _facts(key: Key) -> str:
    is_duration = key.about.shape == "duration"
    said = "length of time" if is_duration else type_name(key.type)
    if key.about.unit:
        said += f", in {key.about.unit}"
    for word, bound in (("least", key.about.minimum), ("most", key.about.maximum)):
        if bound is not None:
            said += f", at {word} {duration_text(bound) if is_duration else bound}"
    if key.default is NOTHING:
        default = "It must be given."
    elif key.default is None:
        default = "Default: not set."
    elif isinstance(key.default, tuple):
        default = f"Default: ``{in_toml(list(key.default))}``."
    else:
        default = f"Default: ``{in_toml(_as_written(key.default))}``."
    return f"*{said[0].upper()}{said[1:]}.* {default}"


def _as_written(value: object) -> object:
    """
    A default as the file would have it: of a table what is set.
    """
    if not has(type(value)) or isinstance(value, Secret):
        return value
    return asdict(value, filter=lambda _, each: each is not None)  # type: ignore[arg-type]


def _paragraph(text: str, indent: str) -> list[str]:
    marked = text.replace("`", "``").replace("````", "``")
    return wrap(
        marked,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    wanted = AgentConfiguration if sys.argv[1:] == ["agent"] else Settings
    sys.stdout.write(reference(wanted))
