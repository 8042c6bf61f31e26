# SPDX-License-Identifier: MIT
"""
`nodecomm access export`: the rules in force, in the policy language of CFEngine.

Exit statuses: 0 all of them are said, 1 some cannot be said there (the file is
written), 2 the command line or the configuration is wrong, or the file cannot be
written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from twisted.python import usage

from nodecomm.access.export_cfengine import BUNDLE, Exported, export_policy
from nodecomm.access.export_control import Control
from nodecomm.access.export_entries import Md5Of
from nodecomm.cli.access_reading import Rules, read_rules
from nodecomm.cli.options import CommandOptions, file_to_write, write_json
from nodecomm.identity.files import replace_file
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.own import PUBLIC_NAME
from nodecomm.identity.store import FileKeyStore
from nodecomm.service.loading import resolve_path
from nodecomm.wire.text import safe

__all__ = ["ExportOptions", "run_export"]

#: Source: CFEngine 3.21, its grammar.
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ExportOptions(CommandOptions):
    """
    The command line of `nodecomm access export`.
    """

    takes = "[options]"
    longdesc = (
        "Write the rules in force, those about the files of nodes among them, as a"
        " bundle that cf-serverd loads and decides by alike. What its language has no"
        " words for is told, in the file and on the standard error output, and admits"
        " nobody there. The paths are looked at on this machine. Exit status: 0 all is"
        " said, 1 something cannot be said, 2 nothing was written."
    )
    optParameters = [
        ["config", "c", None, "the configuration; default as for the server"],
        ["format", "f", "cfengine", "the language; there is cfengine"],
        ["output", "o", None, "the file to write; default: the standard output"],
        ["bundle", None, BUNDLE, "what the bundle is called"],
    ]
    optFlags = [
        ["control", None, "what [server] says, too: a policy to run cf-serverd with"],
    ]

    def postOptions(self) -> None:
        if self["format"] != "cfengine":
            raise usage.UsageError(f"--format takes cfengine, not {self['format']!r}")
        if not _IDENTIFIER.fullmatch(self["bundle"]):
            raise usage.UsageError(
                f"--bundle takes letters, digits and _, not {self['bundle']!r}"
            )


def run_export(
    given: ExportOptions,
    state_dir: Path | None,
    stdout: TextIO,
    stderr: TextIO,
    *,
    as_json: bool,
) -> int:
    """
    Write the rules.
    """
    config = Path(given["config"]) if given["config"] else None
    about = "which has no rules for paths; a server's has"
    rules = read_rules(config, state_dir, about, stderr)
    if rules is None:
        return 2
    output = given["output"]
    place = None if output in (None, "-") else file_to_write(output)
    nodes = rules.nodes
    if nodes is not None and nodes.unknown and rules.snapshot.node_rules:
        stderr.write(
            f"error: the nodes are not known, so nothing is written: {nodes.unknown}\n"
        )
        return 2
    without = list(_without_rule(rules))
    made = export_policy(
        rules.snapshot,
        resolve=resolve_path,
        md5_of=_known_keys(rules),
        source=rules.description,
        bundle=given["bundle"],
        control=Control(rules.settings, rules.snapshot) if given["control"] else None,
        without_rule=without,
    )
    if place is not None:
        try:
            replace_file(str(place), made.policy)
        except OSError as error:
            why = error.strerror or type(error).__name__
            stderr.write(f"error: {safe(output)} cannot be written: {why}\n")
            return 2
    elif not as_json:
        _write(made.policy, stdout)
    if as_json:
        write_json(_as_json(made, output, without), stdout)
    for left in made.left_out:
        stderr.write(f"warning: {safe(str(left))}\n")
    if made.left_out:
        stderr.write(
            f"warning: {len(made.left_out)} "
            + ("part" if len(made.left_out) == 1 else "parts")
            + " of the rules cannot be said in that language, and admit nobody there\n"
        )
    return 1 if made.left_out else 0


def _write(policy: bytes, stdout: TextIO) -> None:
    """
    Paths are bytes, and so is the file.
    """
    binary = getattr(stdout, "buffer", None)
    if binary is None:
        stdout.write(policy.decode("utf-8", "backslashreplace"))
        return
    stdout.flush()
    binary.write(policy)
    binary.flush()


def _as_json(
    made: Exported, output: str | None, without_rule: list[str]
) -> dict[str, Any]:
    return {
        "format": "cfengine",
        "output": output if output != "-" else None,
        # Bytes that are no UTF-8 as Python has them in text.
        "policy": made.policy.decode("utf-8", "surrogateescape"),
        "promises": made.promises,
        "left_out": [{"rule": one.rule, "text": one.text} for one in made.left_out],
        "notes": list(made.notes),
        "without_rule": without_rule,
    }


def _without_rule(rules: Rules) -> Iterator[str]:
    """
    What to tell of accepted nodes whose files are not served here.
    """
    if rules.nodes is None or not rules.snapshot.node_rules:
        return
    for node, why in rules.nodes.left_out():
        name = f" ({safe(node.hostname)})" if node.hostname else ""
        yield f"node {node.node_id}{name} {why}"


def _known_keys(rules: Rules) -> Md5Of:
    """
    The MD5 digests of all keys that this server knows, by their other ones.
    """
    known: dict[str, str] | None = None

    def find(digest: str) -> str | None:
        nonlocal known
        if known is None:
            known = {other: key.md5 for key in _keys(rules) for other in key.digests}
        return known.get(digest)

    return find


def _keys(rules: Rules) -> Iterator[PublicKey]:
    if rules.nodes is not None:
        yield from rules.nodes.keys()
    try:
        for stored in FileKeyStore(rules.keys).entries():
            yield stored.key
    except OSError:
        # What is not known is told of the entry that needs it.
        return
    try:
        yield PublicKey.from_pem((rules.keys / PUBLIC_NAME).read_bytes())
    except (OSError, ValueError):
        return
