# SPDX-License-Identifier: MIT
"""
`nodecomm access explain`: may a node have something, by which rule, and why not by
another.

Exit statuses: 0 it may, 1 it may not (or that cannot be decided), 2 the command line
or the configuration is wrong.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from attrs import evolve, frozen
from twisted.python import usage

from nodecomm.access.decision import HOSTNAME_NEEDED, Decision
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.explain import Explanation, Step, explain
from nodecomm.access.networks import read_address
from nodecomm.access.requests import (
    FILE_OPERATIONS,
    NAME_OPERATIONS,
    AccessRequest,
    is_resolved,
)
from nodecomm.access.snapshot import HostnameNeededError, Snapshot
from nodecomm.cli.options import CommandOptions, GroupOptions, write_json
from nodecomm.identity.keys import PublicKey, parse_digest
from nodecomm.identity.peer import Peer
from nodecomm.identity.store import FileKeyStore
from nodecomm.service.loading import check_access, load
from nodecomm.wire.text import from_text, safe, to_text

__all__ = ["Options", "run"]

#: Reason codes of this command, besides those of the evaluator.
NOT_FOUND = "not_found"
NO_SHORTCUT = "no_shortcut"

#: A file that everybody may read: what is assumed where there is no file to look at.
_READABLE = 0o100644

#: The names of protocols; versions 2 and 3 do not differ here.
#: Source: CFEngine 3.21, the values of `protocol_version`.
_CLASSIC = frozenset({"1", "classic"})
_TLS = frozenset({"2", "tls", "3", "cookie", "latest"})

#: What is said of a classic peer, by whether its request is encrypted.
_CLASSIC_SHOWN = {
    False: ", over the classic protocol in the clear",
    True: ", over the classic protocol, encrypted",
}


class _ExplainOptions(CommandOptions):
    """
    The command line of `nodecomm access explain`.
    """

    takes = "[options] REQUEST_PATH"
    subjects = (("path", "REQUEST_PATH"),)
    longdesc = (
        "Say whether a node may have REQUEST_PATH (a path, a shortcut and a path, or "
        "a handle), by which rule and line of the configuration, and why the nearest "
        "other rules did not decide. The path is looked at on this machine. Exit "
        "status: 0 it may, 1 it may not, 2 the configuration is wrong."
    )
    optParameters = [
        ["config", "c", None, "the configuration; default as for the server"],
        ["ip", None, None, "the node's address (required)"],
        ["hostname", None, None, "its host name; empty: it has none"],
        ["user", None, "root", "the user that asks"],
        [
            "operation",
            None,
            "stat",
            "stat, get, md5, opendir; or literal, context, query, bundle, variable",
        ],
        ["protocol", None, None, "what it speaks: latest (over TLS, usual) or classic"],
    ]
    optFlags = [
        ["encrypt", None, "classic: the request is encrypted"],
        ["unencrypted", None, "the same as --protocol classic without --encrypt"],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.digests: list[str] = []
        #: Whether the node speaks the classic protocol.
        self.classic = False

    def opt_key(self, digest: str) -> None:
        """
        The digest of its key, MD5=... or SHA=...; both may be given.
        """
        try:
            self.digests.append(parse_digest(digest))
        except ValueError as error:
            raise usage.UsageError(f"--key: {error}") from None

    def parseArgs(self, *given: str) -> None:
        if len(given) > 1:
            raise usage.UsageError("one REQUEST_PATH at a time")
        super().parseArgs(*given)

    def postOptions(self) -> None:
        if self["ip"] is None:
            raise usage.UsageError("whose request? --ip ADDRESS is missing")
        address = read_address(self["ip"])
        if address is None:
            raise usage.UsageError(f"--ip takes an address, not {self['ip']!r}")
        self["ip"] = address.text
        operations = FILE_OPERATIONS | NAME_OPERATIONS
        if self["operation"] not in operations:
            known = ", ".join(sorted(operations))
            raise usage.UsageError(
                f"unknown operation {self['operation']!r}; there are {known}"
            )
        given = self["protocol"]
        unencrypted = bool(self["unencrypted"])
        protocol = "latest" if given is None else given.lower()
        if protocol not in _CLASSIC | _TLS:
            raise usage.UsageError(f"--protocol takes latest or classic, not {given!r}")
        if unencrypted and given is not None and protocol in _TLS:
            raise usage.UsageError(
                f"--unencrypted is about --protocol classic, and contradicts {given}:"
                " TLS is always encrypted"
            )
        self.classic = protocol in _CLASSIC or unencrypted
        if self["encrypt"] and unencrypted:
            raise usage.UsageError("--encrypt and --unencrypted contradict each other")
        if self["encrypt"] and not self.classic:
            raise usage.UsageError(
                "--encrypt belongs to --protocol classic; TLS is always encrypted"
            )


class Options(GroupOptions):
    """
    The command line of `nodecomm access`.
    """

    takes = "explain [options]"
    subCommands = [
        ["explain", None, _ExplainOptions, "say who may have what, and why"],
    ]
    unnamed = "say what to do: nodecomm access explain"


@frozen
class _NamedKey:
    """
    A key of which only the digests are known: enough for rules, which compare those.
    """

    md5: str
    digests: tuple[str, ...]


class _Target(NamedTuple):
    """
    What a path leads to on this machine.
    """

    request: AccessRequest
    note: str
    exists: bool = True


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    Explain one decision.
    """
    given = cast(_ExplainOptions, options.subOptions)
    config = Path(given["config"]) if given["config"] else None
    snapshot, loaded = check_access(load(config, state_dir=options.named_state_dir))
    if snapshot is None:
        for problem in loaded.problems:
            if problem.is_error:
                stderr.write(f"{problem}\n")
        stderr.write("error: the configuration cannot be used\n")
        return 2
    try:
        asked = from_text(given["path"])
    except ValueError as error:
        stderr.write(f"error: {safe(given['path'])}: {error}\n")
        return 2
    keys = Path(loaded.usable().server.state_dir) / "ppkeys"
    peer = _peer(given, keys)
    answer = _explain(snapshot, peer, given, asked)
    if options.as_json:
        shown = {"peer": _peer_json(peer, given), "operation": given["operation"]}
        shown |= {"asked": to_text(asked)} | answer.as_json()
        write_json(shown, stdout)
    else:
        stdout.write(_as_text(peer, given, answer))
    return 0 if answer.decision.allowed else 1


def _peer(given: _ExplainOptions, keys: Path) -> Peer:
    """
    The peer that the options describe.
    """
    try:
        uid: int | None = pwd.getpwnam(given["user"]).pw_uid
    except KeyError:
        uid = None
    return Peer(
        address=given["ip"],
        key=_key(given.digests, keys),
        user=given["user"],
        uid=uid,
        hostname=given["hostname"] or None,
        hostname_known=given["hostname"] is not None,
        protocol=1 if given.classic else 3,
        # A classic connection never is; a request on it may be.
        encrypted=not given.classic,
    )


def _explain(
    snapshot: Snapshot, peer: Peer, given: _ExplainOptions, asked: bytes
) -> Explanation:
    """
    Walk the way of a connection, then of a request.
    """
    connection = snapshot.check_connection(peer.address)
    if given.classic and connection.allowed:
        connection = snapshot.check_legacy_connection(peer.address)
    step = Step("connection", connection.text)
    if not connection.allowed:
        return Explanation(connection, (step,), ())
    operation = given["operation"]
    encrypted = _counts_as_encrypted(given)
    if operation in NAME_OPERATIONS:
        request = AccessRequest(operation, asked, encrypted=encrypted)
        answer = explain(snapshot, peer, request)
    else:
        answer = _explain_file(snapshot, peer, operation, asked, encrypted)
    return evolve(answer, steps=(step, *answer.steps)) if given.classic else answer


def _counts_as_encrypted(given: _ExplainOptions) -> bool | None:
    """
    Whether rules with `ifencrypted` take the request for an encrypted one; None: as
    the connection.
    """
    if not given.classic:
        return None
    # Source: CFEngine 3.21: a STAT always counts as encrypted.
    return bool(given["encrypt"]) or given["operation"] == "stat"


def _key(digests: Sequence[str], folder: Path) -> PublicKey | None:
    """
    The stored key with one of these digests, else what stands in for it.
    """
    if not digests:
        return None
    if folder.is_dir():
        for stored in FileKeyStore(folder).entries():
            if any(stored.key.matches(digest) for digest in digests):
                return stored.key
    md5 = next((d for d in digests if d.startswith("MD5=")), digests[0])
    return cast(PublicKey, _NamedKey(md5, tuple(digests)))


def _explain_file(
    snapshot: Snapshot,
    peer: Peer,
    operation: str,
    asked: bytes,
    encrypted: bool | None,
) -> Explanation:
    """
    Walk the way of a request for a path: shortcut, links, rules.
    """
    steps: list[Step] = []
    path = asked
    if not asked.startswith(b"/"):
        first = safe(to_text(asked.partition(b"/")[0]))
        try:
            expanded = snapshot.expand_shortcut(peer, asked)
        except HostnameNeededError:
            text = f"what shortcut {first} stands for depends on the host name"
            decision = Decision(False, HOSTNAME_NEEDED, text, undecidable=True)
            return Explanation(decision, (Step("shortcut", text),), ())
        if expanded is None:
            known = ", ".join(safe(to_text(name)) for name in snapshot.shortcuts)
            text = f"the path is not absolute and {first} is no shortcut"
            text += f" (there are: {known})" if known else " (there are none)"
            decision = Decision(False, NO_SHORTCUT, text)
            return Explanation(decision, (Step("shortcut", text),), ())
        path = expanded
        shown = safe(to_text(path))
        steps.append(Step("shortcut", f"{first} stands for the path: {shown}"))
    target = _look(snapshot, operation, path)
    if target.note:
        steps.append(Step("file", target.note))
    if not target.exists:
        kind = "folder" if target.request.is_directory else "file"
        steps.append(Step("file", f"below, as if it were a {kind} that all may read"))
    request = target.request._replace(encrypted=encrypted)
    answer = explain(snapshot, peer, request, asked=path)
    if not target.exists:
        answer = evolve(answer, decision=Decision(False, NOT_FOUND, target.note))
    links: tuple[Step, ...] = ()
    if operation == "stat" and peer.protocol == 1 and answer.decision.allowed:
        links = _link_steps(snapshot, peer, path)
    return evolve(answer, steps=(*steps, *answer.steps, *links))


def _look(snapshot: Snapshot, operation: str, path: bytes) -> _Target:
    """
    What *path* is on this machine.

    Raises:
        OSError: It cannot be told.
    """
    folded = os.path.normpath(path)
    for mount, source in snapshot.mounts.items():
        if folded == mount or folded.startswith(mount.rstrip(b"/") + b"/"):
            text = f"source {source} answers for it; taken for one that all may read"
            wanted = operation == "opendir" or path.endswith(b"/")
            request = AccessRequest(operation, folded, wanted, None, _READABLE)
            return _Target(request, text)
    shown = safe(to_text(path))
    try:
        real = os.path.realpath(path, strict=True)
        if path.endswith(b"/") and not os.path.isdir(real):
            raise NotADirectoryError
    except (FileNotFoundError, NotADirectoryError):
        if operation in ("stat", "md5") and os.path.islink(path):
            return _look_at_link(operation, path)
        folder = path.endswith(b"/") or operation == "opendir"
        named = path if is_resolved(path) else folded
        text = f"{shown} does not exist here; a node is refused, whatever the rules say"
        request = AccessRequest(operation, named, folder, None, _READABLE)
        return _Target(request, text, exists=False)
    status = os.stat(real)
    note = "" if real == path else f"{shown} leads to {safe(to_text(real))}"
    return _Target(
        AccessRequest(
            operation, real, stat.S_ISDIR(status.st_mode), status.st_uid, status.st_mode
        ),
        note,
    )


def _look_at_link(operation: str, path: bytes) -> _Target:
    """
    The link *path* itself, which leads nowhere: a STAT shows it, and any content
    differs from it.
    """
    place = _place(path)
    status = os.lstat(path)
    request = AccessRequest(operation, place, False, status.st_uid, status.st_mode)
    shown = safe(to_text(path))
    return _Target(
        request, f"{shown} is a link that leads nowhere, and stands for itself"
    )


def _place(path: bytes) -> bytes:
    """
    Where the last part of *path* is, if that is a link.
    """
    folder, _, name = path.rpartition(b"/")
    return os.path.join(os.path.realpath(folder or b"/"), name)


def _link_steps(snapshot: Snapshot, peer: Peer, path: bytes) -> tuple[Step, ...]:
    """
    What a STAT of the classic protocol, which is allowed, shows where *path* is a link.
    """
    if not os.path.islink(path):
        return ()
    place, status = _place(path), os.lstat(path)
    request = AccessRequest(
        "stat", place, False, status.st_uid, status.st_mode, encrypted=True
    )
    decision = AccessEvaluator(snapshot).evaluate(snapshot, peer, request)
    shown = safe(to_text(place))
    if decision.allowed:
        return (Step("link", f"the node sees a link, {shown}, and its text"),)
    text = f"the node sees what it leads to, and no link: for {shown}, {decision.text}"
    return (Step("link", text),)


def _peer_json(peer: Peer, given: _ExplainOptions) -> dict[str, Any]:
    return {
        "protocol": "classic" if given.classic else "tls",
        "address": peer.address,
        "key": list(peer.key.digests) if peer.key is not None else [],
        "user": peer.user,
        "uid": peer.uid,
        "hostname": peer.hostname,
        "hostname_known": peer.hostname_known,
        "encrypted": not given.classic or bool(given["encrypt"]),
    }


def _as_text(peer: Peer, given: _ExplainOptions, answer: Explanation) -> str:
    """
    The explanation for a person.
    """
    decision = answer.decision
    word = "allowed" if decision.allowed else "denied"
    if decision.undecidable:
        word = "cannot be decided: the connection is closed (give --hostname)"
    lines = [f"{word} [{decision.reason}]: {decision.text}", ""]
    name = peer.hostname or ("none" if peer.hostname_known else "not given")
    key = " ".join(peer.key.digests) if peer.key is not None else "not given"
    uid = "nobody here" if peer.uid is None else f"uid {peer.uid}"
    lines.append(
        safe(f"peer: {peer.address}, host name {name}, user {peer.user} ({uid}), ")
        + f"key {key}"
        + (_CLASSIC_SHOWN[bool(given["encrypt"])] if given.classic else "")
    )
    for number, step in enumerate(answer.steps, 1):
        lines.append(f"{number}. {step.about}: {step.text}")
    if answer.others:
        lines += ["", "other rules:"]
        lines += [f"- {safe(o.rule.label)}: {safe(o.text)}" for o in answer.others]
    if answer.notes:
        lines += ["", "notes:"]
        lines += [f"- {note}" for note in answer.notes]
    return "\n".join(lines) + "\n"
