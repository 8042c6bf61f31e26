# SPDX-License-Identifier: MIT
"""
`nodecomm inventory make` and `sign`.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO, cast

from twisted.python import usage

from nodecomm.cli.options import (
    CommandOptions,
    GroupOptions,
    check_server_id,
    file_to_write,
    repeat_state_dir,
)
from nodecomm.identity.files import replace_file
from nodecomm.identity.keys import KeyPair
from nodecomm.identity.own import KEYS_FOLDER, OwnKeyError, load_own_key
from nodecomm.inventory.document import read_document
from nodecomm.inventory.keys import read_agent_key
from nodecomm.inventory.limits import DocumentLimits, is_compressed, uncompress
from nodecomm.inventory.making import make_inventory
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.own import NodeIdError, own_key_date
from nodecomm.inventory.signature import read_signature, sign, verify
from nodecomm.inventory.writing import IncompleteDocument

__all__ = ["MakeOptions", "NotMade", "SignOptions", "make", "sign_document"]

#: The id of the server that has no server above it.
#: Source: Rudder, every release.
_ROOT = "root"

#: Stands for a stream in the place of a file.
_STREAM = "-"

_NO_FILE = "--json tells about a file; name it with --output"


class NotMade(Exception):  # noqa: N818
    """
    What was asked for cannot be made.

    Attributes:
        refusal: Why; `no-key`, `node-id`, `incomplete`.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.refusal = Refusal(code, text)


class MakeOptions(CommandOptions):
    """
    The command line of `nodecomm inventory make`.
    """

    longdesc = (
        "Make an inventory of this node: what the machine is, the node's id, and its "
        "key. The key must be there (`nodecomm key generate`); the id is made once and "
        "kept in the state folder. Nothing is sent."
    )
    optParameters = [
        ["output", "o", None, "file for the document; else it is printed"],
        [
            "from",
            "f",
            None,
            "complete this document of the machine, for example of "
            "fusioninventory-inventory, and do not look at the machine; - reads it",
        ],
        ["node-id", None, None, "the id of this node, if it has none yet"],
        ["hostname", None, None, "what the node is called; else this machine's name"],
        ["policy-server", None, None, "what this node calls its policy server"],
        [
            "policy-server-id",
            None,
            None,
            "the id of the policy server; else that which the agent was told, or root",
        ],
    ]

    def postOptions(self) -> None:
        """
        Look whether a server may have the id.
        """
        check_server_id(self["policy-server-id"])


class SignOptions(CommandOptions):
    """
    The command line of `nodecomm inventory sign`.
    """

    takes = "[options] DOCUMENT"
    subjects = (("document", "DOCUMENT"),)
    longdesc = (
        "Sign DOCUMENT (FILE.ocs, or FILE.ocs.gz, whose content is signed) with this "
        "machine's key, and put the signature beside it: FILE.ocs.sign."
    )
    optParameters = [
        ["output", "o", None, "file for the signature; else FILE.ocs.sign; - prints"],
    ]


def make(group: GroupOptions, stdout: TextIO) -> tuple[Any, list[str]]:
    """
    Make an inventory.

    Args:
        group: The command line, `MakeOptions` in it.
        stdout: Where the document goes if no file is named.

    Returns:
        Facts for a program and lines for a person.

    Raises:
        NotMade: It cannot be made.
        DocumentRefused: No server would take it.
    """
    options = cast(MakeOptions, group.subOptions)
    source, output = options["from"], options["output"]
    is_printed = output in (None, _STREAM)
    if group.as_json and is_printed:
        raise usage.UsageError(_NO_FILE)
    place = None if is_printed else file_to_write(output)
    pair = _own_key(group)
    server_id = options["policy-server-id"] or _known_server(group.state_dir)
    try:
        made = make_inventory(
            group.state_dir,
            pair,
            datetime.now(timezone.utc),
            policy_server_id=server_id,
            policy_server=options["policy-server"],
            node_id=options["node-id"],
            hostname=options["hostname"],
            foreign=None if source is None else _document(source),
        )
    except NodeIdError as error:
        raise NotMade("node-id", str(error)) from error
    except IncompleteDocument as error:
        raise NotMade("incomplete", f"{source}: {error}") from error
    if place is None:
        _print(made.document, stdout)
        return {}, []
    _write(place, made.document)
    inventory = made.inventory
    facts = {
        "document": output,
        "bytes": len(made.document),
        "node_id": inventory.node_id,
        "hostname": inventory.hostname,
        "key": pair.public.md5,
        "server_id": server_id,
        "skipped": [
            {"source": each.source, "reason": each.reason} for each in made.skipped
        ],
    }
    lines = [
        f"made {output}: {inventory.hostname}, node {inventory.node_id}, of server "
        f"{server_id}"
    ]
    lines += [f"without {each}" for each in made.skipped]
    return facts, lines


def sign_document(group: GroupOptions, stdout: TextIO) -> tuple[Any, list[str]]:
    """
    Sign an inventory.

    Args:
        group: The command line, `SignOptions` in it.
        stdout: Where the signature goes if the file is called `-`.

    Returns:
        Facts for a program and lines for a person.

    Raises:
        NotMade: There is no key.
        DocumentRefused: No server would take the document.
        KeyRefused: No server would take the key in it.
    """
    options = cast(SignOptions, group.subOptions)
    is_printed = options["output"] == _STREAM
    if group.as_json and is_printed:
        raise usage.UsageError(_NO_FILE)
    pair = _own_key(group)
    document = options["document"]
    limits = DocumentLimits()
    data = _document(document)
    if is_compressed(data):
        data = uncompress(data, limits)
        document = document.removesuffix(".gz")
    inventory = read_document(data, limits)
    brought = read_agent_key(inventory.agent, inventory.node_id).key
    signature = sign(
        data,
        pair,
        hostname=socket.gethostname(),
        key_date=own_key_date(group.state_dir),
    )
    # What leaves has been seen to hold.
    verify(data, read_signature(signature), pair.public)
    if is_printed:
        _print(signature, stdout)
        return {}, []
    output = options["output"] or f"{document}.sign"
    _write(file_to_write(output), signature)
    facts = {
        "signature": output,
        "node_id": inventory.node_id,
        "key": pair.public.md5,
        "document_key": brought.md5,
    }
    return facts, list(_signed(output, pair, brought.md5))


def _signed(output: str, pair: KeyPair, brought: str) -> Iterator[str]:
    yield f"made {output}: signed with {pair.public.md5}"
    if brought != pair.public.md5:
        yield f"the document brings another key: {brought}"


def _known_server(state_dir: Path) -> str:
    """
    The policy server that the last inventory of this node's agent named: two that name
    different ones would make the node change its server again and again.
    """
    # What it needs, most calls do not.
    from nodecomm.service.agent_outbox import Outbox  # noqa: PLC0415

    outbox = Outbox(os.fspath(state_dir))
    last = outbox.kept() or outbox.sent()
    return last.server_id if last is not None and last.server_id else _ROOT


def _print(document: bytes, stdout: TextIO) -> None:
    """
    Print a document as it is, whatever the encoding of the stream.
    """
    stream = getattr(stdout, "buffer", None)
    if stream is None:
        stdout.write(document.decode("utf-8", "replace"))
    else:
        stdout.flush()
        stream.write(document)


def _write(path: Path, data: bytes) -> None:
    try:
        replace_file(str(path), data)
    except OSError as error:
        # It would name a temporary file that nobody has heard of.
        raise OSError(error.errno, error.strerror, str(path)) from error


def _own_key(group: GroupOptions) -> KeyPair:
    try:
        return load_own_key(group.state_dir / KEYS_FOLDER)
    except OwnKeyError as error:
        text = repeat_state_dir(str(error), group.named_state_dir)
        raise NotMade("no-key", text) from error


def _document(path: str) -> bytes:
    """
    The content of a document, or one byte more of it than is read of one.
    """
    limit = DocumentLimits().size + 1
    if path == _STREAM:
        return sys.stdin.buffer.read(limit)
    with Path(path).open("rb") as stream:
        return stream.read(limit)
