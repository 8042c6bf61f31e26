# SPDX-License-Identifier: MIT
"""
`nodecomm key`: this machine's key, and whose keys are trusted.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from twisted.python import usage

from nodecomm.cli.options import (
    CONFIG,
    CommandOptions,
    GroupOptions,
    StateOptions,
    fail,
    repeat_state_dir,
    write_json,
)
from nodecomm.identity.files import read_small
from nodecomm.identity.keys import (
    InsaneKey,
    PublicKey,
    UnusableKey,
    check_sane,
    parse_digest,
    parse_digest_or_none,
)
from nodecomm.identity.own import (
    KEYS_FOLDER,
    PRIVATE_NAME,
    OwnKeyError,
    create_own_key,
    load_own_key,
)
from nodecomm.identity.pins import PINS_NAME, PinnedDigests
from nodecomm.identity.store import FileKeyStore, KeyConflict
from nodecomm.identity.users import UntrustedUser, check_user
from nodecomm.storage.database import DATABASE_NAME, DatabaseAway, connect
from nodecomm.storage.migrations import DatabaseTooNew
from nodecomm.storage.seen import SeenEntry, read_seen
from nodecomm.wire.text import safe

if TYPE_CHECKING:
    from nodecomm.storage.postgres_place import PostgresPlace

__all__ = ["Options", "run"]


class _GenerateOptions(CommandOptions):
    longdesc = (
        "Make this machine's key pair, ppkeys/localhost.priv and localhost.pub. "
        "A key that is there already is never overwritten."
    )
    optParameters = [["bits", "b", "2048", "size of the key: 2048, 3072 or 4096"]]

    def postOptions(self) -> None:
        try:
            self["bits"] = int(self["bits"])
        except ValueError:
            msg = f"--bits takes a number, not {self['bits']!r}"
            raise usage.UsageError(msg) from None


class _ShowOptions(CommandOptions):
    longdesc = "Print the digests of this machine's own key."


class _ListOptions(CommandOptions):
    longdesc = (
        "Print whose keys are trusted; with --seen, where and when each was last here, "
        "then the keys that were seen and are not trusted now. Several servers with one"
        " database see keys together: name the configuration."
    )
    optParameters = [CONFIG]
    optFlags = [["seen", "s", "where and when each key was last seen"]]


class _TrustOptions(CommandOptions):
    takes = "[options] FILE"
    longdesc = "Trust the public key in FILE, a node's ppkeys/localhost.pub."
    optParameters = [["user", "u", "root", "the user name that the node comes with"]]

    subjects = (("file", "FILE"),)


class _TrustDigestOptions(CommandOptions):
    takes = "[options] DIGEST"
    longdesc = (
        "Trust the key with this digest (as `cf-key -p` prints it) when it comes for "
        "the first time, although no window of trustkeysfrom is open."
    )

    subjects = (("digest", "DIGEST"),)


class _RemoveOptions(CommandOptions):
    takes = "[options] NAME"
    longdesc = (
        "Trust a key no longer. NAME is a file's name as `nodecomm key list` prints "
        "it, or a digest, which stands for all files of that key and for the digest "
        "named by trust-digest."
    )

    subjects = (("name", "NAME"),)


class Options(GroupOptions):
    """
    The command line of `nodecomm key`.
    """

    longdesc = "Make, show, list, trust and remove keys."
    subCommands = [
        ["generate", None, _GenerateOptions, "make this machine's key pair"],
        ["show", None, _ShowOptions, "print this machine's own key digests"],
        ["list", None, _ListOptions, "print whose keys are trusted"],
        ["trust", None, _TrustOptions, "trust the key in a file"],
        ["trust-digest", None, _TrustDigestOptions, "trust a key before it comes"],
        ["remove", None, _RemoveOptions, "trust a key no longer"],
    ]

    takes = "COMMAND [options]"

    unnamed = (
        "what about keys? Commands: generate, show, list, trust, trust-digest, remove"
    )


class _Output:
    """
    Facts for a person, or the same as JSON.
    """

    def __init__(self, stream: TextIO, as_json: bool) -> None:
        self._stream = stream
        self.as_json = as_json

    def fact(self, value: object, *lines: str) -> None:
        """
        Print the value as JSON, or the lines.
        """
        if self.as_json:
            write_json(value, self._stream)
        else:
            for line in lines:
                self._stream.write(safe(line) + "\n")


class _State:
    """
    What is in one state folder.

    Args:
        folder: The folder.
        shared: The database that the server shares with others, if it has one.
    """

    def __init__(self, folder: Path, shared: PostgresPlace | None = None) -> None:
        self.folder = folder
        self.shared = shared
        self.keys = folder / KEYS_FOLDER
        self.database = folder / DATABASE_NAME
        self.store = FileKeyStore(self.keys)
        self.pins = PinnedDigests(folder / PINS_NAME)


def _state_of(chosen: StateOptions, options: Options) -> _State:
    config = chosen.get("config")
    if config is None and not chosen.get("seen"):
        return _State(options.state_dir)
    from nodecomm.cli.server_state import find_state  # noqa: PLC0415

    found = find_state(config, options.named_state_dir)
    return _State(found.folder, found.nodes().shared)


class _Refused(Exception):  # noqa: N818
    """
    What was asked for cannot be done; the text is for the person who asked.
    """


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    Run one `nodecomm key` command and return its exit status.
    """
    chosen = cast(StateOptions, options.subOptions)
    state = _state_of(chosen, options)
    output = _Output(stdout, options.as_json)
    command = _COMMANDS[cast(str, options.subCommand)]
    try:
        command(state, chosen, output)
    except (_Refused, OwnKeyError) as error:
        text = repeat_state_dir(str(error), options.named_state_dir)
        return fail(stderr, safe(text))
    except BrokenPipeError:
        # That is about the output, and no file.
        raise
    except OSError as error:
        where = error.filename if error.filename is not None else state.folder
        return fail(stderr, safe(f"{os.fsdecode(where)}: {error.strerror or error}"))
    return 0


def _key_facts(key: PublicKey) -> dict[str, Any]:
    return {"md5": key.md5, "sha": key.sha, "bits": key.bits, "exponent": key.exponent}


def _generate(state: _State, options: StateOptions, output: _Output) -> None:
    try:
        pair = create_own_key(state.keys, bits=options["bits"])
    except InsaneKey as error:
        msg = f"--bits {options['bits']}: {error}; 2048 is usual"
        raise _Refused(msg) from error
    path = str(state.keys / PRIVATE_NAME)
    facts = {"path": path, **_key_facts(pair.public)}
    output.fact(facts, f"made {path}", pair.public.md5)


def _show(state: _State, options: StateOptions, output: _Output) -> None:
    pair = load_own_key(state.keys)
    path = str(state.keys / PRIVATE_NAME)
    key = pair.public
    lines = (key.md5, key.sha, f"{key.bits} bits, {path}")
    output.fact({"path": path, **_key_facts(key)}, *lines)


def _list(state: _State, options: StateOptions, output: _Output) -> None:
    if options["seen"]:
        _list_seen(state, output)
        return
    stored = state.store.entries()
    unusable = state.store.unusable()
    named = state.pins.digests()
    bad_lines = state.pins.bad_lines()
    facts = {
        "keys": [
            {"name": entry.name, "user": entry.user, **_key_facts(entry.key)}
            for entry in stored
        ],
        "named_digests": named,
        "unusable": [{"name": x.name, "reason": x.reason} for x in unusable]
        + [
            {"name": f"{PINS_NAME}:{number}", "reason": f"no digest: {line}"}
            for number, line in bad_lines
        ],
    }
    lines = [f"{x.name}  user {x.user or '(none)'}, {x.key.bits} bits" for x in stored]
    lines += [f"{digest}  named beforehand (trust-digest)" for digest in named]
    lines += [f"{x.name}  UNUSABLE: {x.reason}" for x in unusable]
    lines += [
        f"{PINS_NAME} line {number}  UNUSABLE: no digest: {line}"
        for number, line in bad_lines
    ]
    if not lines:
        lines = [f"no key is trusted in {state.keys}"]
    output.fact(facts, *lines)


def _list_seen(state: _State, output: _Output) -> None:
    entries: list[SeenEntry] = []
    if state.shared is not None:
        entries = _seen_together(state.shared)
    elif state.database.exists():
        try:
            connection = connect(state.database)
            try:
                entries = read_seen(connection)
            finally:
                connection.close()
        except (sqlite3.Error, DatabaseTooNew) as error:
            msg = f"{state.database}: {error}"
            raise _Refused(msg) from error
    by_digest: dict[str, list[SeenEntry]] = {}
    for entry in entries:
        by_digest.setdefault(entry.digest, []).append(entry)
    facts: list[dict[str, Any]] = []
    lines = []
    trusted: dict[str, str] = {}
    for stored in state.store.entries():
        trusted.setdefault(stored.key.md5, stored.name)
        facts.append(
            {
                "digest": stored.key.md5,
                "name": stored.name,
                "trusted": True,
                "seen": [_seen_facts(e) for e in by_digest.get(stored.key.md5, ())],
            }
        )
        for line in map(_seen_line, by_digest.get(stored.key.md5, [])):
            lines.append(f"{line}  {stored.name}")
        if stored.key.md5 not in by_digest:
            lines.append(f"never seen  {stored.name}")
    for digest, seen in by_digest.items():
        if digest in trusted:
            continue
        known = [_seen_facts(entry) for entry in seen]
        facts.append({"digest": digest, "name": None, "trusted": False, "seen": known})
        lines += [f"{_seen_line(entry)}  {digest} (not trusted now)" for entry in seen]
    output.fact(facts, *(lines or [f"no key is trusted in {state.keys}, none seen"]))


def _seen_together(place: PostgresPlace) -> list[SeenEntry]:
    from nodecomm.storage.postgres import blocking  # noqa: PLC0415
    from nodecomm.storage.postgres_place import DatabaseUnusable  # noqa: PLC0415
    from nodecomm.storage.shared_keys import KEYS  # noqa: PLC0415

    try:
        with blocking(place, KEYS) as run:
            return cast("list[SeenEntry]", run(read_seen, False))
    except (DatabaseAway, DatabaseUnusable, DatabaseTooNew) as error:
        msg = f"{place}: {error}"
        raise _Refused(msg) from error


def _seen_facts(entry: SeenEntry) -> dict[str, str]:
    return {
        "address": entry.address,
        "direction": entry.direction,
        "last": _when(entry.last),
    }


def _seen_line(entry: SeenEntry) -> str:
    return f"{_when(entry.last)}  {entry.direction}  {entry.address}"


def _when(seconds: float) -> str:
    moment = datetime.fromtimestamp(int(seconds), timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _trust(state: _State, options: StateOptions, output: _Output) -> None:
    path = options["file"]
    try:
        user = check_user(options["user"])
    except UntrustedUser as error:
        msg = f"--user: {error}"
        raise _Refused(msg) from error
    try:
        key = PublicKey.from_pem(read_small(path)[1])
        check_sane(key)
    except UnusableKey as error:
        msg = f"{path}: {error}; give the node's ppkeys/localhost.pub"
        raise _Refused(msg) from error
    except ValueError as error:
        msg = f"{path} {error}"
        raise _Refused(msg) from error
    try:
        name = state.store.add(user, key)
    except KeyConflict as error:
        msg = (
            f"{path}: KEY CONFLICT: {state.keys / error.name} {error.reason}. Two "
            "usable keys never share a digest by accident: look at both, then "
            f"`nodecomm key remove {error.name}` if the stored one is wrong"
        )
        raise _Refused(msg) from error
    facts = {"name": name, "user": user, **_key_facts(key)}
    output.fact(facts, f"trusted: {name}")


def _trust_digest(state: _State, options: StateOptions, output: _Output) -> None:
    try:
        digest = parse_digest(options["digest"])
    except ValueError as error:
        raise _Refused(str(error)) from error
    added = state.pins.add(digest)
    lines = [f"the key {digest} is trusted when it comes"]
    if not added:
        lines = [f"{digest} was named already"]
    output.fact({"digest": digest, "added": added}, *lines)


def _remove(state: _State, options: StateOptions, output: _Output) -> None:
    name = options["name"]
    removed = list(state.store.remove(name))
    if parse_digest_or_none(name) is not None and state.pins.remove(name):
        removed.append(f"{PINS_NAME}: {parse_digest(name)}")
    if not removed:
        msg = f"nothing in {state.keys} is called {name}; see `nodecomm key list`"
        raise _Refused(msg)
    output.fact({"removed": removed}, *(f"removed: {entry}" for entry in removed))


_COMMANDS: dict[str, Callable[[_State, StateOptions, _Output], None]] = {
    "generate": _generate,
    "show": _show,
    "list": _list,
    "trust": _trust,
    "trust-digest": _trust_digest,
    "remove": _remove,
}
