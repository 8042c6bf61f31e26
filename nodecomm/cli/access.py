# SPDX-License-Identifier: MIT
"""
`nodecomm access explain`: may a node have something, by which rule, and why not by
another. `nodecomm access export` is `nodecomm.cli.access_export`.

Exit statuses: 0 it may, 1 it may not (or that cannot be decided), 2 the command line
or the configuration is wrong.
"""

from __future__ import annotations

import pwd
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any, TextIO, cast

from attrs import evolve
from twisted.python import usage

from nodecomm.access.decision import HOSTNAME_NEEDED, Decision
from nodecomm.access.explain import Explanation, Step, explain
from nodecomm.access.networks import read_address
from nodecomm.access.requests import (
    FILE_OPERATIONS,
    NAME_OPERATIONS,
    AccessRequest,
)
from nodecomm.cli.access_export import ExportOptions, run_export
from nodecomm.cli.access_reading import Rules, read_rules, tell_missing, tell_unusable
from nodecomm.cli.access_run import Asked, explain_exec, load_node, run_as_text
from nodecomm.cli.explaining import explain_file, find_key
from nodecomm.cli.options import CommandOptions, GroupOptions, write_error, write_json
from nodecomm.identity.keys import PublicKey, parse_digest
from nodecomm.identity.peer import Peer
from nodecomm.service.loading import is_of_agent
from nodecomm.wire.text import from_text, safe, to_text

__all__ = ["Options", "run"]

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

    takes = "[options] (REQUEST_PATH | --exec)"
    subjects = (("path", "REQUEST_PATH"),)
    optional = 1
    longdesc = (
        "Say whether a node may have REQUEST_PATH (a path, a shortcut and a path, or "
        "a handle), by which rule and line of the configuration, and why the nearest "
        "other rules did not decide. The path is looked at on this machine. With "
        "--exec, say whether cfruncommand would be run for it, with the classes and "
        "bundles that it asks for; an agent's configuration will do for that, too. "
        "Exit status: 0 it may, 1 it may not, 2 the configuration is wrong."
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
        ["exec", None, "a run of cfruncommand is asked for, and no path"],
        ["agent", None, "--exec: the configuration is an agent's"],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.digests: list[str] = []
        #: Whether the node speaks the classic protocol.
        self.classic = False
        #: What a run is to be given, in the order in which it is named.
        self.given: list[tuple[str, str]] = []
        #: The classes that nodes are selected by; None: they are not.
        self.selected: tuple[str, ...] | None = None

    def opt_key(self, digest: str) -> None:
        """
        The digest of its key, MD5=... or SHA=...; both may be given.
        """
        try:
            self.digests.append(parse_digest(digest))
        except ValueError as error:
            raise usage.UsageError(f"--key: {error}") from None

    def opt_define_class(self, classes: str) -> None:
        """
        --exec: classes that the run is to define, with commas between.
        """
        self.given.append(("-D", classes))

    opt_D = opt_define_class

    def opt_remote_bundles(self, bundles: str) -> None:
        """
        --exec: bundles that are to be run, with commas between.
        """
        self.given.append(("-b", bundles))

    def opt_select_class(self, classes: str) -> None:
        """
        --exec: classes of which the node must have one, with commas between.
        """
        self.selected = (*(self.selected or ()), *filter(None, classes.split(",")))

    opt_s = opt_select_class

    def parseArgs(self, *given: str) -> None:
        if len(given) > 1:
            raise usage.UsageError("one REQUEST_PATH at a time")
        super().parseArgs(*given)

    def _check_exec(self) -> None:
        """
        What goes with `--exec`, and what goes with a path.
        """
        if self["exec"]:
            if self["path"] is not None:
                raise usage.UsageError("--exec is about no path; leave it out")
            if self["operation"] != "stat":
                raise usage.UsageError("--exec is the operation; leave out --operation")
            if self["encrypt"] or self["unencrypted"]:
                raise usage.UsageError(
                    "--encrypt and --unencrypted are about requests for a path"
                )
            return
        if self["path"] is None:
            raise usage.UsageError("which REQUEST_PATH? Or a run: --exec")
        if self.given or self.selected is not None or self["agent"]:
            raise usage.UsageError(
                "--define-class, --remote-bundles, --select-class and --agent belong"
                " to --exec"
            )

    def postOptions(self) -> None:
        self._check_exec()
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

    takes = "explain|export [options]"
    subCommands = [
        ["explain", None, _ExplainOptions, "say who may have what, and why"],
        ["export", None, ExportOptions, "write the rules as CFEngine's policy"],
    ]
    unnamed = "say what to do: nodecomm access explain, or nodecomm access export"


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    Explain one decision, or write all rules.
    """
    if not options.as_json:
        return _run(options, stdout, stderr)
    told = StringIO()
    try:
        status = _run(options, stdout, told)
    finally:
        stderr.write(told.getvalue())
    if status == 2:
        text = told.getvalue().rstrip().removeprefix("error: ")
        write_error("local", text, status, stdout)
    return status


def _run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    if options.subCommand == "export":
        return run_export(
            cast(ExportOptions, options.subOptions),
            options.named_state_dir,
            stdout,
            stderr,
            as_json=options.as_json,
        )
    given = cast(_ExplainOptions, options.subOptions)
    config = Path(given["config"]) if given["config"] else None
    if given["exec"]:
        return _run_exec(given, options, config, stdout, stderr)
    about = "which serves nothing by name; --exec asks whom it runs something for"
    rules = read_rules(config, options.named_state_dir, about, stderr)
    if rules is None:
        return 2
    try:
        asked = from_text(given["path"])
    except ValueError as error:
        stderr.write(f"error: {safe(given['path'])}: {error}\n")
        return 2
    nodes = rules.nodes
    peer = _peer(given, rules.keys, () if nodes is None else nodes.keys())
    answer = _explain(rules, peer, given, asked)
    if options.as_json:
        shown = {"peer": _peer_json(peer, given), "operation": given["operation"]}
        if nodes is not None:
            shown["nodes"] = nodes.as_json(peer)
        shown |= {"asked": to_text(asked)} | answer.as_json()
        write_json(shown, stdout)
    else:
        stdout.write(_as_text(peer, given, answer))
    return 0 if answer.decision.allowed else 1


def _run_exec(
    given: _ExplainOptions,
    options: Options,
    config: Path | None,
    stdout: TextIO,
    stderr: TextIO,
) -> int:
    """
    Explain what becomes of a request for a run.
    """
    agent = bool(given["agent"]) or (config is not None and is_of_agent(config))
    node, loaded = load_node(config, options.named_state_dir, agent=agent)
    if node is None:
        tell_unusable(loaded, stderr)
        return 2
    tell_missing(loaded, stderr)
    peer = _peer(given, Path(node.state_dir) / "ppkeys", node.known)
    answer = explain_exec(node, peer, Asked(tuple(given.given), given.selected))
    if options.as_json:
        shown = {"peer": _peer_json(peer, given), "operation": "exec"}
        write_json(shown | answer.as_json(), stdout)
    else:
        stdout.write(run_as_text(_peer_line(peer, given), answer))
    return 0 if answer.decision.allowed else 1


def _peer(given: _ExplainOptions, keys: Path, known: Iterable[PublicKey] = ()) -> Peer:
    """
    The peer that the options describe.
    """
    try:
        uid: int | None = pwd.getpwnam(given["user"]).pw_uid
    except KeyError:
        uid = None
    return Peer(
        address=given["ip"],
        key=find_key(given.digests, keys, known),
        user=given["user"],
        uid=uid,
        hostname=given["hostname"] or None,
        hostname_known=given["hostname"] is not None,
        protocol=1 if given.classic else 3,
        # A classic connection never is; a request on it may be.
        encrypted=not given.classic,
    )


def _explain(
    rules: Rules, peer: Peer, given: _ExplainOptions, asked: bytes
) -> Explanation:
    """
    Walk the way of a connection, then of a request.
    """
    snapshot, nodes = rules.snapshot, rules.nodes
    connection = snapshot.check_connection(peer.address)
    if given.classic and connection.allowed:
        connection = snapshot.check_legacy_connection(peer.address)
    step = Step("connection", connection.text)
    if not connection.allowed:
        return Explanation(connection, (step,), ())
    before: tuple[Step, ...] = (step,) if given.classic else ()
    if nodes is not None:
        found, trust = nodes.judge(peer)
        before += tuple(found)
        if trust is not None and not trust.trusted:
            decision = Decision(False, trust.code, safe(trust.text))
            return Explanation(decision, (step, *found), ())
    operation = given["operation"]
    encrypted = _counts_as_encrypted(given)
    if operation in NAME_OPERATIONS:
        request = AccessRequest(operation, asked, encrypted=encrypted)
        answer = explain(snapshot, peer, request)
    else:
        tell = None if nodes is None else nodes.tell
        answer = explain_file(snapshot, peer, operation, asked, encrypted, tell)
    return evolve(answer, steps=(*before, *answer.steps))


def _counts_as_encrypted(given: _ExplainOptions) -> bool | None:
    """
    Whether rules with `ifencrypted` take the request for an encrypted one; None: as
    the connection.
    """
    if not given.classic:
        return None
    # Source: CFEngine 3.21: a STAT always counts as encrypted.
    return bool(given["encrypt"]) or given["operation"] == "stat"


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


def _peer_line(peer: Peer, given: _ExplainOptions) -> str:
    name = peer.hostname or ("none" if peer.hostname_known else "not given")
    key = " ".join(peer.key.digests) if peer.key is not None else "not given"
    uid = "nobody here" if peer.uid is None else f"uid {peer.uid}"
    how = _CLASSIC_SHOWN[bool(given["encrypt"])] if given.classic else ""
    if given["exec"] and given.classic:
        how = ", over the classic protocol"
    shown = f"peer: {peer.address}, host name {name}, user {peer.user} ({uid}), "
    return f"{safe(shown)}key {key}{how}"


def _as_text(peer: Peer, given: _ExplainOptions, answer: Explanation) -> str:
    """
    The explanation for a person.
    """
    decision = answer.decision
    word = "allowed" if decision.allowed else "denied"
    if decision.undecidable:
        word = "cannot be decided: the connection is closed"
        if decision.reason == HOSTNAME_NEEDED:
            word += " (give --hostname)"
    lines = [f"{word} [{decision.reason}]: {decision.text}", ""]
    lines.append(_peer_line(peer, given))
    for number, step in enumerate(answer.steps, 1):
        lines.append(f"{number}. {step.about}: {step.text}")
    if answer.others:
        lines += ["", "other rules:"]
        lines += [f"- {safe(o.rule.label)}: {safe(o.text)}" for o in answer.others]
    if answer.notes:
        lines += ["", "notes:"]
        lines += [f"- {note}" for note in answer.notes]
    return "\n".join(lines) + "\n"
