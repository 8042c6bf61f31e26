# SPDX-License-Identifier: MIT
"""
`nodecomm inventory`: what a node tells about itself, on this machine's disk.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO, cast

from attrs import asdict

from nodecomm.cli.inventory_make import (
    MakeOptions,
    NotMade,
    SignOptions,
    make,
    sign_document,
)
from nodecomm.cli.inventory_retry import RetryOptions, retry
from nodecomm.cli.inventory_send import SendOptions, send
from nodecomm.cli.inventory_waiting import WaitingOptions, waiting
from nodecomm.cli.key_file import read_key_file
from nodecomm.cli.options import CommandOptions, GroupOptions, write_json
from nodecomm.cli.server_state import CONFIG, find_state
from nodecomm.inventory.document import read_document
from nodecomm.inventory.failures import SPOOL_NAME, failed_facts, read_failed
from nodecomm.inventory.keys import (
    KeyRefused,
    read_agent_key,
)
from nodecomm.inventory.limits import (
    DocumentLimits,
    DocumentRefused,
    is_compressed,
    uncompress,
)
from nodecomm.inventory.model import Inventory, Refusal
from nodecomm.inventory.signature import (
    MAX_SIGNATURE_SIZE,
    SignatureRefused,
    read_signature,
    verify,
)
from nodecomm.wire.text import safe

__all__ = ["Options", "run"]


class _VerifyOptions(CommandOptions):
    takes = "[options] DOCUMENT SIGNATURE"
    subjects = (("document", "DOCUMENT"), ("signature", "SIGNATURE"))
    longdesc = (
        "Check that DOCUMENT (FILE.ocs, or FILE.ocs.gz) is an inventory that a server "
        "can use, and that SIGNATURE (FILE.ocs.sign) is its signature. How old it is "
        "does not matter here. Exit status: 0 both hold, 1 they do not."
    )
    optParameters = [
        [
            "key",
            "k",
            None,
            "file with the public key or certificate that must have signed it, in PEM "
            "form; without it, the one in the document",
        ],
    ]


class _ShowOptions(CommandOptions):
    takes = "[options] DOCUMENT"
    subjects = (("document", "DOCUMENT"),)
    longdesc = (
        "Print what DOCUMENT (FILE.ocs, or FILE.ocs.gz) says, as far as a server reads "
        "it; with --json all of that. Nothing is verified."
    )


class _FailedOptions(CommandOptions):
    takes = "[options] [FOLDER]"
    subjects = (("folder", "FOLDER"),)
    optional = 1
    longdesc = (
        "List what a server has received and not believed, or a relay could not pass "
        "on, the oldest first, with the reason. FOLDER is where it keeps what it has "
        "received, by default `inventories` in the state folder; the files are in "
        "FOLDER/failed/NUMBER. With --json all that is known of each."
    )
    optParameters = [CONFIG]


class Options(GroupOptions):
    """
    The command line of `nodecomm inventory`.
    """

    longdesc = (
        "Make, sign, verify, show and send inventories; list what waits, and what was "
        "not believed or not passed on, and send it again."
    )
    subCommands = [
        ["make", None, MakeOptions, "make an inventory of this node"],
        ["sign", None, SignOptions, "sign a document with this machine's key"],
        ["verify", None, _VerifyOptions, "check a document and its signature"],
        ["show", None, _ShowOptions, "print what a document says"],
        ["send", None, SendOptions, "send an inventory to a server"],
        ["waiting", None, WaitingOptions, "list what waits in a server or a relay"],
        ["failed", None, _FailedOptions, "list what a server did not believe"],
        ["retry", None, RetryOptions, "send again what a relay has put aside"],
    ]
    takes = "COMMAND [options]"
    unnamed = (
        "what about inventories? Commands: make, sign, verify, show, send, waiting, "
        "failed, retry"
    )


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    Run one `nodecomm inventory` command and return its exit status.
    """
    name = cast(str, options.subCommand)
    try:
        if name == "send":
            return send(options, stdout, stderr)
        if name == "retry":
            return retry(options, stdout, stderr)
        facts, lines = _COMMANDS[name](options, stdout)
    except (DocumentRefused, KeyRefused, SignatureRefused, NotMade) as error:
        return _refused(error.refusal, stdout, stderr, as_json=options.as_json)
    if options.as_json:
        write_json(facts, stdout)
    else:
        stdout.writelines(f"{safe(line)}\n" for line in lines)
    return 0


def _refused(refusal: Refusal, stdout: TextIO, stderr: TextIO, *, as_json: bool) -> int:
    if as_json:
        facts = {**asdict(refusal), "status": 1}
        write_json({"error": facts}, stdout, indent=None)
    stderr.write(f"error: {refusal.code}: {safe(refusal.text)}\n")
    return 1


def _read(path: str, limit: int) -> bytes:
    """
    A file's content, or one byte more than *limit* of it.
    """
    with Path(path).open("rb") as stream:
        return stream.read(limit + 1)


def _document(path: str) -> bytes:
    limits = DocumentLimits()
    data = _read(path, limits.size)
    return uncompress(data, limits) if is_compressed(data) else data


def _verify(options: CommandOptions) -> tuple[Any, list[str]]:
    data = _document(options["document"])
    inventory = read_document(data)
    own = read_agent_key(inventory.agent, inventory.node_id).key
    key = read_key_file(options["key"]).key if options["key"] else own
    signature = read_signature(_read(options["signature"], MAX_SIGNATURE_SIZE))
    verify(data, signature, key)
    facts = {
        "valid": True,
        "node_id": inventory.node_id,
        "hostname": inventory.hostname,
        "written": _when(inventory.written),
        "key": key.md5,
        "key_from": "file" if options["key"] else "document",
        "document_key": own.md5,
    }
    lines = [
        f"valid: inventory of {inventory.hostname}, node {inventory.node_id}",
        f"written {_when(inventory.written) or 'at an unknown time'}",
        f"signed with {key.md5}, "
        + ("the key given" if options["key"] else "the key in the document"),
    ]
    if own != key:
        lines.append(f"it brings another key: {own.md5}")
    return facts, lines


def _when(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None


def _show(options: CommandOptions) -> tuple[Any, list[str]]:
    inventory = read_document(_document(options["document"]))
    facts = asdict(inventory)
    facts["written"] = _when(inventory.written)
    facts["addresses"] = list(inventory.addresses)
    try:
        own = read_agent_key(inventory.agent, inventory.node_id)
        facts["key"] = {"md5": own.key.md5, "sha": own.key.sha, "bits": own.key.bits}
        key = f"{own.key.md5}, {own.key.bits} bits, " + (
            "in a certificate" if own.certificate else "without a certificate"
        )
    except KeyRefused as error:
        facts["key"] = {"error": asdict(error.refusal)}
        key = f"UNUSABLE: {error.refusal.text}"
    return facts, [f"{name:<14} {value}" for name, value in _lines(inventory, key)]


def _lines(inventory: Inventory, key: str) -> Iterator[tuple[str, object]]:
    """
    What a person wants to know first.
    """
    os, hardware = inventory.os, inventory.hardware
    yield "node", inventory.node_id
    yield "hostname", inventory.hostname
    if inventory.original_hostname:
        yield "really called", inventory.original_hostname
    yield "written", _when(inventory.written) or "at an unknown time"
    yield "policy server", inventory.policy_server_id
    if inventory.policy_server_hostname:
        yield "", inventory.policy_server_hostname
    yield "agent", f"{inventory.agent.name} {inventory.agent.version}"
    yield "owner", inventory.owner
    yield "key", key
    yield "system", os.full_name or os.name or os.kernel_name
    yield "kernel", os.kernel_version
    yield "machine", hardware.virtual_system or inventory.bios.model or "unknown"
    if hardware.memory is not None:
        yield "memory", f"{hardware.memory} MiB"
    for processor in inventory.processors:
        yield "processor", f"{processor.quantity} x {processor.name}"
    for card in inventory.interfaces:
        addresses = " ".join(x.address for x in card.addresses) or "no address"
        yield "interface", f"{card.name} {addresses}"
    for place in inventory.filesystems:
        size = "" if place.total is None else f", {place.total} MiB"
        where = place.mount or place.letter or place.device
        yield "file system", f"{where} ({place.kind or 'unknown'}{size})"
    yield "software", f"{len(inventory.software)} packages"
    if inventory.properties:
        names = [name for found in inventory.properties for name in found]
        yield "properties", " ".join(names)


def _chosen(options: GroupOptions) -> CommandOptions:
    return cast(CommandOptions, options.subOptions)


def _received(options: GroupOptions) -> str:
    """
    The folder of what a server has received.
    """
    chosen = _chosen(options)
    if chosen["folder"] is not None:
        return cast(str, chosen["folder"])
    state = find_state(chosen["config"], options.named_state_dir)
    state.check()
    folder = state.folder / SPOOL_NAME
    if not folder.exists():
        raise FileNotFoundError(
            errno.ENOENT,
            "no server has received anything there (see --config)",
            str(folder),
        )
    return str(folder)


def _failed(options: GroupOptions) -> tuple[Any, list[str]]:
    found = read_failed(_received(options))
    lines = []
    for each in found:
        when = each.failed.strftime("%Y-%m-%d %H:%M:%S %Z")
        sender = each.sender.address or "an unknown address"
        lines.append(f"{each.serial} {when} {each.name} from {sender}")
        lines.append(f"    {each.refusal.code}: {each.refusal.text}")
    facts = [{"number": each.serial, **failed_facts(each)} for each in found]
    return facts, lines


_COMMANDS: dict[str, Callable[[GroupOptions, TextIO], tuple[Any, list[str]]]] = {
    "make": make,
    "sign": sign_document,
    "verify": lambda options, stdout: _verify(_chosen(options)),
    "show": lambda options, stdout: _show(_chosen(options)),
    "waiting": lambda options, stdout: waiting(_received(options)),
    "failed": lambda options, stdout: _failed(options),
}
