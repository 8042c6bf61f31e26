# SPDX-License-Identifier: MIT
"""
From the plain tree of a TOML reader to a class of the model, strictly and with every
problem in one go.

cattrs does the structuring: no value is converted, no key is ignored. Where
something is wrong, that key or element is taken out and the rest is structured
again, so that what depends on the rest can be checked in the same run.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Generic, Literal, TypeVar, Union, cast, get_args, get_origin

import attrs
from attrs import frozen
from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, override

from nodecomm.config import shapes
from nodecomm.config.errors import Origin, Problem, child_path, element_path, in_toml
from nodecomm.config.fields import Key, keys_of, type_name
from nodecomm.config.secrets import Secret
from nodecomm.config.shapes import MismatchError, did_you_mean

__all__ = ["Structured", "is_public", "structure_tree", "without_values"]

#: The type of a key that takes a program with arguments, or a text for the shell.
COMMAND = tuple[str, ...] | str

#: The file of a value whose place nobody told.
NAMELESS = "configuration"

T = TypeVar("T")
Hook = Callable[[Any, Any], Any]
Step = str | int
Steps = tuple[Step, ...]


@frozen
class Structured(Generic[T]):
    """
    What became of a tree.

    Attributes:
        value: The object; keys and elements that were wrong are left out of it.
        origins: Where each value stands, by key path in *value*.
        problems: What was wrong.
        dropped: Key paths in *value* of what was left out.
    """

    value: T
    origins: Mapping[str, Origin]
    problems: tuple[Problem, ...]
    dropped: frozenset[str]


def structure_tree(
    cls: type[T], tree: Mapping[str, Any], origins: Mapping[str, Origin]
) -> Structured[T]:
    """
    Make an object of the attrs class *cls*, all of whose keys have defaults.

    Args:
        cls: A class whose attributes carry `nodecomm.config.fields.about`.
        tree: What the TOML reader gave.
        origins: Where each key and element stands, by key path in *tree*.
    """
    converter = _converter()
    named: dict[str, Origin] = {}
    _name_places(tree, "", origins, named)
    moved: Mapping[str, Origin] = named
    plain: Mapping[str, Any] = _without_shorthand(cls, tree, named, "")
    problems: list[Problem] = []
    dropped: set[str] = set()
    while True:
        try:
            value = converter.structure(plain, cls)
        except ClassValidationError as error:
            faults = list(_faults(error, ()))
            problems.extend(
                _problem(plain, moved, fault, _secret_names(cast(Any, cls)))
                for fault in faults
                # A key that was there but wrong has been reported already.
                if fault.missing is None
                or child_path(_path(fault.steps), fault.missing) not in dropped
            )
            plain, moved, gone = _prune(plain, moved, faults)
            dropped = {_moved(path, gone) for path in dropped} | set(gone.dropped)
        else:
            return Structured(value, moved, tuple(problems), frozenset(dropped))


def _name_places(
    value: Any, path: str, known: Mapping[str, Origin], named: dict[str, Origin]
) -> None:
    """
    Give everything in the tree a place that says how its key path reads in the
    file, for messages after elements were taken out or added.
    """
    origin = known.get(path, Origin(NAMELESS, 0, 0))
    if path:
        kept = origin if origin.key_path else attrs.evolve(origin, key_path=path)
        named[path] = kept
    if isinstance(value, dict):
        for name, inner in value.items():
            _name_places(inner, child_path(path, name), known, named)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _name_places(inner, element_path(path, index), known, named)


# -- strictness ---------------------------------------------------------------


@cache
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for wanted, read in (
        (str, shapes.text),
        (bool, shapes.boolean),
        (int, shapes.whole_number),
        (float, shapes.number),
        (datetime, shapes.moment),
        (Secret, shapes.secret),
    ):
        converter.register_structure_hook(wanted, _ignoring_type(read))
    converter.register_structure_hook_func(
        _is_choice,
        lambda value, t: shapes.choice(value, get_args(t)),
    )
    converter.register_structure_hook_func(
        lambda wanted: wanted == COMMAND, _ignoring_type(shapes.command)
    )
    converter.register_structure_hook_factory(_is_table, _table_hook)
    return converter


def _ignoring_type(read: Callable[[object], Any]) -> Hook:
    return lambda value, _: read(value)


def _is_choice(wanted: Any) -> bool:
    return get_origin(wanted) is Literal


def _is_table(cls: Any) -> bool:
    return isinstance(cls, type) and attrs.has(cls) and cls is not Secret


def _table_hook(cls: type, converter: Converter) -> Hook:
    """
    How *cls* is read from a table: each key by its type and what is said about it.
    """
    known = {key.name: key for key in keys_of(cls)}
    overrides = {
        attribute.name: (
            override(struct_hook=_key_hook(known[attribute.name], converter))
            if attribute.name in known
            else override(omit=True)
        )
        for attribute in attrs.fields(cls)
    }
    read: Hook = make_dict_structure_fn(cls, converter, **overrides)  # type: ignore[arg-type]

    def hook(value: Any, wanted: Any) -> Any:
        if not isinstance(value, dict):
            # Unlike other hints this one never has the value in it.
            hint = _table_hint(cls)
            fault = shapes.wrong_type(value, "a table", hint)
            raise _hidden_in(cls, fault, hint)
        return read(value, wanted)

    return hook


def _hidden_in(cls: type | None, fault: MismatchError, hint: str = "") -> MismatchError:
    """
    *fault*, with a value that is not shown if it stands where *cls* would have
    secrets; *hint* is then all that is left of its hint.
    """
    if cls is None or not _secret_names(cls):
        return fault
    return MismatchError(fault.message, hint, secret=True)


@cache
def _secret_names(cls: Hashable) -> frozenset[str]:
    """
    The names of all keys of the class *cls*, and of what is in it, that are secrets.
    """
    names: set[str] = set()
    for key in keys_of(cast(type, cls)):
        if key.is_secret:
            names.add(key.name)
        elif key.element is not None:
            names |= _secret_names(key.element)
    return frozenset(names)


def _key_hook(key: Key, converter: Converter) -> Hook:
    wanted = _without_none(key.type)
    if key.is_list:
        element = get_args(wanted)[0]
        return _list_hook(key, element, _checked(key, element, converter))
    return _checked(key, wanted, converter)


def _checked(key: Key, wanted: Any, converter: Converter) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        shapes.check_raw(value, key.about)
        made = converter.structure(value, wanted)
        shapes.check_about(made, key.about)
        return made

    return hook


def _list_hook(key: Key, wanted: Any, read: Hook) -> Hook:
    def hook(value: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            fault = shapes.wrong_type(
                value, f"a {type_name(key.type)}", _list_hint(key, value)
            )
            raise _hidden_in(key.element, fault)
        made, errors = [], []
        for index, element in enumerate(value):
            try:
                made.append(read(element, wanted))
            except Exception as error:
                note = IterableValidationNote(f"element {index}", index, wanted)
                # BaseException.add_note needs Python 3.11.
                error.__notes__ = [*getattr(error, "__notes__", ()), note]  # type: ignore[attr-defined]
                errors.append(error)
        if errors:
            raise IterableValidationError(f"in {key.name}", errors, tuple)
        return tuple(made)

    return hook


def _list_hint(key: Key, value: object) -> str:
    if isinstance(value, str):
        parts = [p for p in value.replace(",", " ").split() if p]
        listed = parts if key.about.addresses and len(parts) > 1 else [value]
        return f"write {in_toml(listed)}"
    if isinstance(value, dict) and key.element is not None:
        return f"write [[{key.name}]]"
    if key.element is not None:
        return _table_hint(key.element, "[", "]")
    return 'write ["..."]'


def _table_hint(cls: type, before: str = "", after: str = "") -> str:
    """
    A table of *cls* to write, with its first key, or that key's text alone.
    """
    key = keys_of(cls)[0]
    hint = f"write {before}{{ {key.name} = ... }}{after}"
    if key.about.shorthand:
        hint += f', or a text, its {key.name}, alone: {before}"..."{after}'
    return hint


def _without_none(wanted: Any) -> Any:
    if get_origin(wanted) in {Union, types.UnionType}:
        others = [a for a in get_args(wanted) if a is not type(None)]
        if len(others) == 1:
            return others[0]
    return wanted


def _without_shorthand(
    cls: Any, value: Any, origins: dict[str, Origin], path: str
) -> Any:
    """
    The tree with each plain text that stands for a table replaced by that table;
    *origins* gets the place of its key.
    """
    keys = {key.name: key for key in keys_of(cls)}
    if isinstance(value, str):
        for key in keys.values():
            if key.about.shorthand:
                if path in origins:
                    origins[child_path(path, key.name)] = origins[path]
                return {key.name: value}
        return value
    if not isinstance(value, dict):
        return value
    result = dict(value)
    for name, inner in value.items():
        inner_key = keys.get(name)
        if inner_key is None or inner_key.element is None:
            continue
        element, here = inner_key.element, child_path(path, name)
        if not inner_key.is_list:
            result[name] = _without_shorthand(element, inner, origins, here)
        elif isinstance(inner, list):
            result[name] = [
                _without_shorthand(element, one, origins, element_path(here, index))
                for index, one in enumerate(inner)
            ]
    return result


# -- from what cattrs raised to problems --------------------------------------


@frozen
class _Fault:
    """
    One thing wrong, at *steps* from the root.

    Attributes:
        missing: The required key that is absent: the table is unusable.
        unknown: Whether there is no such key.
        meant: The key that an unknown key was probably meant to be.
    """

    steps: Steps
    message: str
    hint: str = ""
    secret: bool = False
    missing: str | None = None
    unknown: bool = False
    meant: str | None = None


def _faults(error: Exception, steps: Steps) -> Sequence[_Fault]:
    if isinstance(error, (ClassValidationError, IterableValidationError)):
        found: list[_Fault] = []
        for inner in error.exceptions:
            step = _step(inner)
            if isinstance(inner, ForbiddenExtraKeysError):
                found.extend(_unknown(inner, steps))
            elif isinstance(inner, KeyError) and isinstance(step, str):
                found.append(_missing(error.cl, steps, step))
            else:
                found.extend(_faults(inner, steps if step is None else (*steps, step)))
        return found
    if isinstance(error, MismatchError):
        return [_Fault(steps, error.message, error.hint, error.secret)]
    raise error


def _step(error: BaseException) -> Step | None:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return note.name
        if isinstance(note, IterableValidationNote):
            return note.index
    return None


def _unknown(error: ForbiddenExtraKeysError, steps: Steps) -> Sequence[_Fault]:
    keys = {key.name: key for key in keys_of(error.cl)}
    found = []
    for name in error.extra_fields:
        meant = did_you_mean(name, keys)
        if meant is not None:
            hint = f"did you mean {meant}?"
        else:
            hint = "known here: " + ", ".join(keys)
        # Among secrets an unknown key may be one.
        secret = any(key.is_secret for key in keys.values())
        found.append(
            _Fault(
                (*steps, name),
                "unknown key",
                hint,
                secret=secret,
                unknown=True,
                meant=meant,
            )
        )
    return found


def _missing(cls: type, steps: Steps, name: str) -> _Fault:
    (key,) = (k for k in keys_of(cls) if k.name == name)
    return _Fault(
        steps,
        f"{name} is missing",
        f"write {name} = ... ({type_name(key.type)})",
        missing=name,
    )


def _path(steps: Steps) -> str:
    path = ""
    for step in steps:
        path = (
            element_path(path, step)
            if isinstance(step, int)
            else child_path(path, step)
        )
    return path


def _problem(
    tree: Mapping[str, Any],
    origins: Mapping[str, Origin],
    fault: _Fault,
    secrets: frozenset[str],
) -> Problem:
    value: Any = tree
    # A secret may stand under a misspelt name, or in the wrong table.
    hidden = fault.secret or fault.missing is not None
    for step in fault.steps:
        value = value[step]
        hidden |= isinstance(step, str) and did_you_mean(step, secrets) is not None
    # What unknown keys and lists hold is told element by element, or not at all.
    hidden |= isinstance(value, dict) and fault.unknown
    hidden |= isinstance(value, list) and any(map(_holds_table, value))
    origin = None
    for length in range(len(fault.steps), -1, -1):
        origin = origins.get(_path(fault.steps[:length]))
        if origin is not None:
            break
    path = _path(fault.steps)
    if length < len(fault.steps) and origin is not None:
        # The place is that of something around it.
        rest = path[len(_path(fault.steps[:length])) :]
        origin = attrs.evolve(origin, key_path=origin.key_path + rest)
    return Problem(
        path,
        fault.message,
        None if hidden else without_values(value),
        fault.hint,
        origin,
    )


def _holds_table(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_holds_table, value))
    return isinstance(value, dict)


def without_values(value: Any) -> Any:
    """
    *value* as it may be shown: of tables only their keys, since a secret may stand
    in one that is in the wrong place.
    """
    if isinstance(value, dict):
        return dict.fromkeys(value, "...")
    if isinstance(value, list):
        return [without_values(element) for element in value]
    return value


def is_public(cls: type, steps: Sequence[str]) -> bool:
    """
    Whether the value of the key at *steps*, from a file of the class *cls*, is known
    to be no secret.
    """
    names = _secret_names(cast(Hashable, cls))
    return not any(did_you_mean(step, names) is not None for step in steps)


# -- taking out what is wrong -------------------------------------------------


@frozen
class _Gone:
    """
    What `_prune` did to key paths.
    """

    moved: Mapping[str, str]
    dropped: frozenset[str]


def _moved(path: str, gone: _Gone) -> str:
    """
    Where *path* is after pruning: under the nearest path around it that was kept.
    """
    rest = ""
    around = path
    while around:
        if around in gone.moved:
            return gone.moved[around] + rest
        cut = max(around.rfind("."), around.rfind("["))
        cut = max(cut, 0)
        around, rest = around[:cut], around[cut:] + rest
    return path


def _prune(
    tree: Mapping[str, Any], origins: Mapping[str, Origin], faults: Sequence[_Fault]
) -> tuple[Mapping[str, Any], dict[str, Origin], _Gone]:
    wrong = {fault.steps: fault for fault in faults}
    kept: dict[str, Origin] = {}
    moved: dict[str, str] = {}
    dropped: set[str] = set()

    def copy(value: Any, steps: Steps, path: str) -> Any:
        old = _path(steps)
        moved[old] = path
        if old in origins:
            kept[path] = origins[old]
        if isinstance(value, dict):
            table = {}
            for name, inner in value.items():
                here = (*steps, name)
                if here in wrong:
                    meant = wrong[here].meant
                    dropped.add(child_path(path, name))
                    if meant is not None:
                        dropped.add(child_path(path, meant))
                else:
                    table[name] = copy(inner, here, child_path(path, name))
            return table
        if isinstance(value, list):
            elements: list[Any] = []
            for index, inner in enumerate(value):
                here = (*steps, index)
                if here in wrong:
                    dropped.add(path)
                else:
                    elements.append(
                        copy(inner, here, element_path(path, len(elements)))
                    )
            return elements
        return value

    pruned = copy(tree, (), "")
    return pruned, kept, _Gone(moved, frozenset(dropped))
