# SPDX-License-Identifier: MIT
"""
`nodecomm nodes`: which nodes a server has, and what an operator decides about them.
"""

from __future__ import annotations

import math
import os
import pwd
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Any, TextIO, TypeVar, cast

from twisted.python import usage

from nodecomm.cli.key_file import read_key_file
from nodecomm.cli.nodes_shown import (
    COMPARE,
    event_facts,
    event_lines,
    key_lines,
    list_lines,
    node_facts,
    node_lines,
    served_by,
    suspicion_facts,
)
from nodecomm.cli.options import (
    CommandOptions,
    GroupOptions,
    repeat_config,
    repeat_state_dir,
    write_json,
)
from nodecomm.cli.server_state import CONFIG, find_state
from nodecomm.identity.files import ensure_folder
from nodecomm.identity.keys import parse_digest_or_none
from nodecomm.inventory.copying import NotEmpty, copy_nodes
from nodecomm.inventory.keys import KeyRefused
from nodecomm.inventory.lifecycle import (
    Accept,
    Block,
    Change,
    Decision,
    Delete,
    Lift,
    NotPossible,
    Refuse,
    Register,
    ResetDate,
    SetKey,
    TrustAgain,
)
from nodecomm.inventory.nodes import Node, Status
from nodecomm.inventory.opening import (
    NodesAway,
    NodesPlace,
    NodesUnusable,
    UnknownDatabase,
    open_nodes_at,
)
from nodecomm.inventory.records import Records, put_decision
from nodecomm.inventory.suspicions import Suspicion, by_node, suspicions
from nodecomm.storage.database import DatabaseAway
from nodecomm.wire.text import safe

__all__ = ["Options", "run"]

T = TypeVar("T")

#: Seconds between two looks while a command waits.
_LOOK_EVERY = 0.5

#: The form of a key's digest that curl has, too.
_PIN = re.compile(r"sha256//[A-Za-z0-9+/]{43}=")

#: Nodes that are named where an id was wanted, and characters of one that name them.
_MEANT = 3
_PART = 4

#: Characters of an operator's name in a history.
_NAME = 64


class _NodesOptions(CommandOptions):
    """
    What all of these commands take.
    """

    optParameters = [
        [
            "database",
            None,
            None,
            "where the nodes are: sqlite:///FILE, relative to the state folder, or"
            " postgresql://...",
        ],
        CONFIG,
    ]


class _NodeOptions(_NodesOptions):
    takes = "[options] NODE"
    subjects: Sequence[tuple[str, str]] = (("node", "NODE"),)


def _status(name: str) -> Status:
    try:
        return Status(name)
    except ValueError:
        known = ", ".join(status.value for status in Status)
        msg = f"--status takes one of {known}, not {name!r}"
        raise usage.UsageError(msg) from None


class _ListOptions(_NodesOptions):
    longdesc = (
        "Print the nodes that are pending, accepted or blocked, and what is suspicious "
        "about them."
    )
    optParameters = [["status", "s", None, "only those with this status"]]
    optFlags = [["all", "a", "refused and deleted ones, too"]]

    def postOptions(self) -> None:
        if self["status"] is not None:
            self["status"] = _status(self["status"])


class _ShowOptions(_NodeOptions):
    longdesc = "Print all that is known of NODE, an id."


class _AcceptOptions(_NodeOptions):
    longdesc = (
        "Accept NODE, which is pending, and print the digests of its key: compare them "
        "with what the node itself prints, or give the right one with --key, then "
        "another key is not accepted."
    )
    optParameters = [
        [
            "key",
            "k",
            None,
            "the digest that its key must have: MD5=..., SHA=... or sha256//...",
        ]
    ]
    optFlags = [
        ["duplicate-hostname", None, "although an accepted node has its host name"]
    ]

    def postOptions(self) -> None:
        key = self["key"]
        if key is None or parse_digest_or_none(key) or _PIN.fullmatch(key):
            return
        msg = f"--key takes MD5=..., SHA=... or sha256//..., whole, not {key!r}"
        raise usage.UsageError(msg)


class _RefuseOptions(_NodeOptions):
    longdesc = "Refuse NODE, which is pending. Its next inventory makes it so again."


class _DeleteOptions(_NodeOptions):
    longdesc = (
        "Remove NODE and forget its key. Its next inventory makes it pending, whatever "
        "key it has then; its history stays."
    )


class _BlockOptions(_NodeOptions):
    longdesc = (
        "Take nothing from NODE any more, which need not be known yet. With --lift that"
        " is over: its next inventory makes it pending."
    )
    optFlags = [["lift", None, "the node is blocked no longer"]]


class _HistoryOptions(_NodeOptions):
    longdesc = "Print what happened to NODE, the oldest first."


class _SetKeyOptions(_NodeOptions):
    takes = "[options] NODE PEM"
    subjects = (("node", "NODE"), ("pem", "PEM"))
    longdesc = (
        "Give NODE the public key in the file PEM, or that of the certificate in it. "
        "The key that it had is refused from then on."
    )


class _TrustAgainOptions(_NodeOptions):
    longdesc = (
        "Let the next inventory of NODE decide which key it has. Until it comes nothing"
        " is open to the node, and whoever sends it is the node. `set-key` is safer."
    )


class _ResetDateOptions(_NodeOptions):
    longdesc = (
        "Take an inventory of NODE that is older than its last one: its clock was "
        "wrong."
    )


class _RegisterOptions(_NodeOptions):
    takes = "[options] ID PEM"
    subjects = (("node", "ID"), ("pem", "PEM"))
    longdesc = (
        "Accept a node before its first inventory, by the public key in the file PEM, "
        "or that of the certificate in it."
    )


class _WaitOptions(_NodeOptions):
    takes = "[options] [NODE]"
    optional = 1
    longdesc = (
        "Wait until a node is pending, or until NODE is pending or accepted, and print "
        "it. Exit status: 0 there it is, 1 the time is over."
    )
    optParameters = [
        ["status", "s", None, "wait for this status instead"],
        ["timeout", "t", None, "seconds to wait at the most"],
    ]

    def postOptions(self) -> None:
        if self["status"] is not None:
            self["status"] = _status(self["status"])
        if self["timeout"] is None:
            return
        try:
            seconds = float(self["timeout"])
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < math.inf:
            msg = f"--timeout takes seconds, not {self['timeout']!r}"
            raise usage.UsageError(msg)
        self["timeout"] = seconds


class _CopyOptions(_NodesOptions):
    takes = "[options] FROM"
    subjects = (("from", "FROM"),)
    longdesc = (
        "Copy all nodes, with their history and newest inventories, from another "
        "database, such as sqlite:///nodes.sqlite, into this one, which has none. "
        "Servers that use either must not run meanwhile."
    )


class Options(GroupOptions):
    """
    The command line of `nodecomm nodes`.
    """

    longdesc = "List, accept, refuse and remove the nodes that send inventories."
    subCommands = [
        ["list", None, _ListOptions, "print which nodes there are"],
        ["show", None, _ShowOptions, "print what is known of a node"],
        ["accept", None, _AcceptOptions, "accept a pending node"],
        ["refuse", None, _RefuseOptions, "refuse a pending node"],
        ["delete", None, _DeleteOptions, "remove a node"],
        ["block", None, _BlockOptions, "take nothing from a node any more"],
        ["history", None, _HistoryOptions, "print what happened to a node"],
        ["set-key", None, _SetKeyOptions, "give a node another key"],
        ["trust-again", None, _TrustAgainOptions, "let its next inventory decide"],
        ["reset-date", None, _ResetDateOptions, "take an older inventory of a node"],
        ["register", None, _RegisterOptions, "accept a node before it comes"],
        ["wait", None, _WaitOptions, "wait for a node"],
        ["copy", None, _CopyOptions, "copy all nodes from another database"],
    ]
    takes = "COMMAND [options]"
    unnamed = (
        "what about nodes? Commands: "
        "list, show, accept, refuse, delete, block, history, set-key, trust-again, "
        "reset-date, register, wait, copy"
    )


class _Failed(Exception):  # noqa: N818
    """
    What was asked for cannot be done.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Nodes:
    """
    The nodes that a command line is about. A file that is not there is made when
    something is to be written.

    Args:
        place: Where they are.
        stack: Closes it.
        other: Where those of another database are, by its name.
        server_id: What nodes call the server; None where nothing says so.
        above: The server that it passes inventories on to; None for none.
    """

    def __init__(
        self,
        place: NodesPlace,
        stack: ExitStack,
        other: Callable[[str], NodesPlace],
        server_id: str | None = None,
        above: str | None = None,
    ) -> None:
        self.server_id = server_id
        self.above = above
        self.place = place
        self.other = other
        self._stack = stack.enter_context(ExitStack())
        self._run: Callable[[Callable[[Records], Any], bool], Any] | None = None

    def read(self, work: Callable[[Records], T]) -> T | None:
        """
        What *work* finds; None while there is no file.
        """
        if self._run is None and not self.place.is_made:
            return None
        return cast(T, self._opened()(work, False))

    def write(self, work: Callable[[Records], T]) -> T:
        """
        What *work* returns, when it is in force. A server need not have been started
        before: what is missing of its state folder is made.
        """
        if self.place.path is not None:
            ensure_folder(str(self.place.path.parent))
        return cast(T, self._opened()(work, True))

    def _opened(self) -> Callable[[Callable[[Records], Any], bool], Any]:
        if self._run is None:
            self._run = self._stack.enter_context(open_nodes_at(self.place))
        return self._run

    def meant(self, name: str) -> str:
        """
        Which nodes somebody may mean by *name*, who is told that no id is so; "" for
        none.
        """
        found = [
            f"{node.node_id} ({node.hostname}, {node.status.value})"
            for node in self.read(lambda records: list(records.nodes())) or ()
            if _may_mean(name.lower(), node)
        ]
        if not found:
            return ""
        more = f" and {len(found) - _MEANT} more" if len(found) > _MEANT else ""
        return f"; a node is named by its whole id: {', '.join(found[:_MEANT])}{more}"

    def close(self) -> None:
        """
        Let go of the database; it is opened again when it is needed.
        """
        self._run = None
        self._stack.close()

    def node(self, node_id: str) -> tuple[Node, tuple[Suspicion, ...]]:
        """
        A node, and what is suspicious about it.
        """

        def find(records: Records) -> tuple[Node | None, tuple[Suspicion, ...]]:
            return records.node(node_id), suspicions(records.nodes(*_LIVE))

        node, found = self.read(find) or (None, ())
        if node is None:
            known = "" if self.place.is_made else ", which is not there (see --config)"
            text = f"no node {node_id} is known in {self.place}{known}"
            raise _Failed("unknown-node", text)
        return node, tuple(by_node(found).get(node.node_id, ()))


def _may_mean(name: str, node: Node) -> bool:
    hostname = (node.hostname or "").lower()
    by_id = len(name) >= _PART and node.node_id.lower().startswith(name)
    return by_id or name in (hostname, hostname.partition(".")[0])


_LIVE = tuple(status for status in Status if status.is_live)

_Answer = tuple[Any, Iterable[str]]


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    Run one `nodecomm nodes` command and return its exit status.
    """
    chosen = cast(CommandOptions, options.subOptions)
    command = _COMMANDS[cast(str, options.subCommand)]
    try:
        state = find_state(chosen["config"], options.named_state_dir)
        if chosen["database"] is None:
            state.check()
        place = state.nodes(chosen["database"])
    except UnknownDatabase as error:
        raise usage.UsageError(f"--database: {error}") from error
    try:
        with ExitStack() as stack:
            nodes = _Nodes(place, stack, state.nodes, state.server_id, state.upstream)
            try:
                facts, lines = command(nodes, chosen)
            except (NotPossible, _Failed) as error:
                if error.code != "unknown-node":
                    raise
                text = f"{error}{nodes.meant(chosen['node'])}"
                raise _Failed(error.code, text) from error
    except (NotPossible, _Failed) as error:
        code, text = error.code, str(error)
    except KeyRefused as error:
        code, text = error.refusal.code, error.refusal.text
    except UnknownDatabase as error:
        raise usage.UsageError(str(error)) from error
    except NodesUnusable as error:
        code, text = "database", str(error)
    else:
        if options.as_json:
            write_json(facts, stdout)
        else:
            stdout.writelines(f"{safe(line)}\n" for line in lines)
        return 0
    text = repeat_config(text, chosen["config"])
    text = safe(repeat_state_dir(text, options.named_state_dir))
    if options.as_json:
        error_facts = {"code": code, "text": text, "status": 1}
        write_json({"error": error_facts}, stdout, indent=None)
    stderr.write(f"error: {text}\n")
    return 1


def _present() -> datetime:
    return datetime.now(timezone.utc)


def _operator() -> str:
    """
    Who decides, for the history.
    """
    uid = os.getuid()
    if uid == 0 and os.environ.get("SUDO_USER"):
        return os.environ["SUDO_USER"][:_NAME]
    try:
        return pwd.getpwuid(uid).pw_name[:_NAME]
    except KeyError:
        return f"uid {uid}"


def _list(nodes: _Nodes, options: CommandOptions) -> _Answer:
    def find(records: Records) -> tuple[list[Node], tuple[Suspicion, ...], bool]:
        every = records.nodes()
        shown = [node for node in every if _is_wanted(node.status, options)]
        return shown, suspicions(every), bool(every)

    shown, found, any_node = nodes.read(find) or ([], (), False)
    about, server_id = by_node(found), nodes.server_id
    facts = {
        "nodes": [
            node_facts(node, about.get(node.node_id, ()), server_id) for node in shown
        ],
        "warnings": suspicion_facts(found),
    }
    if shown:
        return facts, list_lines(shown, found, nodes.server_id)
    if any_node:
        asked = "this status" if options["status"] else "such a status (see --all)"
        return facts, [f"there are no nodes with {asked}", *list_lines([], found)]
    line = "there are no nodes"
    if nodes.above is not None:
        line += f": inventories are passed on to {nodes.above}, whose nodes they are"
    elif not nodes.place.is_made:
        line += f": {nodes.place} is not there (see --config)"
    return facts, [line]


def _is_wanted(status: Status, options: CommandOptions) -> bool:
    if options["status"] is not None:
        return status is options["status"]
    return bool(options["all"]) or status.is_live or status is Status.BLOCKED


def _show(nodes: _Nodes, options: CommandOptions) -> _Answer:
    node, found = nodes.node(options["node"])
    server_id = nodes.server_id
    return node_facts(node, found, server_id), node_lines(node, found, server_id)


def _history(nodes: _Nodes, options: CommandOptions) -> _Answer:
    node, _ = nodes.node(options["node"])
    events = nodes.read(lambda records: records.events(node.node_id)) or ()
    facts = {"id": node.node_id, "history": event_facts(events)}
    return facts, event_lines(events)


def _decided(
    nodes: _Nodes,
    decision: Decision,
    done: str,
    *advice: str,
    before: str = "",
    with_key: bool = False,
) -> _Answer:
    """
    Put a decision in force, and say so; *before* is said where it was already.
    """
    by, now = _operator(), _present()

    def work(records: Records) -> tuple[Change, tuple[Suspicion, ...]]:
        change = put_decision(records, decision, now, by)
        doubts = by_node(suspicions(records.nodes(*_LIVE)))
        return change, tuple(doubts.get(change.node.node_id, ()))

    if nodes.place.is_made or isinstance(decision, (Block, Register)):
        change, found = nodes.write(work)
        node = change.node
        done = done if change.events else before or f"{done} before"
    else:
        node, found = nodes.node(decision.node_id)
    name = f"{node.hostname}, " if node.hostname else ""
    lines = [f"{done}: {name}node {node.node_id}"]
    if with_key:
        lines += [f"key {line}" for line in key_lines(node.key)]
    other = served_by(node, nodes.server_id)
    if with_key and other is not None:
        lines.append(f"served by {other}: nothing is open to it on this server")
    lines += advice
    lines += [f"warning: {x.text}" for x in found]
    return node_facts(node, found, nodes.server_id), lines


def _accept(nodes: _Nodes, options: CommandOptions) -> _Answer:
    decision = Accept(
        options["node"], options["key"], bool(options["duplicate-hostname"])
    )
    advice = () if options["key"] else (COMPARE,)
    return _decided(nodes, decision, "accepted", *advice, with_key=True)


def _refuse(nodes: _Nodes, options: CommandOptions) -> _Answer:
    return _decided(nodes, Refuse(options["node"]), "refused")


def _delete(nodes: _Nodes, options: CommandOptions) -> _Answer:
    return _decided(nodes, Delete(options["node"]), "deleted")


def _block(nodes: _Nodes, options: CommandOptions) -> _Answer:
    if options["lift"]:
        return _decided(nodes, Lift(options["node"]), "blocked no longer")
    return _decided(nodes, Block(options["node"]), "blocked")


def _set_key(nodes: _Nodes, options: CommandOptions) -> _Answer:
    decision = SetKey(options["node"], read_key_file(options["pem"]))
    before = "the key that it has already"
    return _decided(nodes, decision, "another key", before=before, with_key=True)


def _trust_again(nodes: _Nodes, options: CommandOptions) -> _Answer:
    decision = TrustAgain(options["node"])
    return _decided(nodes, decision, "the next inventory decides")


def _reset_date(nodes: _Nodes, options: CommandOptions) -> _Answer:
    decision, done = ResetDate(options["node"]), "the next inventory may be older"
    return _decided(nodes, decision, done, before=done)


def _register(nodes: _Nodes, options: CommandOptions) -> _Answer:
    decision = Register(options["node"], read_key_file(options["pem"]))
    return _decided(nodes, decision, "registered", with_key=True)


def _wait(nodes: _Nodes, options: CommandOptions) -> _Answer:
    node_id, status = options["node"], options["status"]
    wanted = (status,) if status else _LIVE if node_id else (Status.PENDING,)

    def find(records: Records) -> tuple[list[Node], tuple[Suspicion, ...]] | None:
        if node_id is None:
            found = list(records.nodes(*wanted))
        else:
            node = records.node(node_id)
            found = [] if node is None or node.status not in wanted else [node]
        return (found, suspicions(records.nodes(*_LIVE))) if found else None

    limit = options["timeout"]
    end = math.inf if limit is None else time.monotonic() + limit
    answered, away = False, ""
    while True:
        try:
            there = nodes.read(find)
        except (DatabaseAway, NodesAway) as error:
            if not answered:
                # More likely a mistake in its name than one that is restarted.
                raise
            nodes.close()
            there, away = None, f"; the database does not answer: {error}"
        else:
            answered, away = True, ""
        if there is not None:
            break
        left = end - time.monotonic()
        if left <= 0:
            named = " or ".join(x.value for x in wanted)
            msg = f"{node_id or 'no node'} is {'not ' if node_id else ''}{named} yet"
            raise _Failed("timeout", msg + away)
        time.sleep(min(left, _LOOK_EVERY))
    found, doubts = there
    of_each, server_id = by_node(doubts), nodes.server_id
    own = [of_each.get(node.node_id, []) for node in found]
    facts = {
        "nodes": [
            node_facts(node, mine, server_id)
            for node, mine in zip(found, own, strict=True)
        ]
    }
    # Each once; comparing them would compare all that they name.
    about = {id(x): x for mine in own for x in mine}
    return facts, list_lines(found, about.values(), server_id)


def _copy(nodes: _Nodes, options: CommandOptions) -> _Answer:
    source = nodes.other(options["from"])
    if not source.is_made:
        raise _Failed("no-database", f"{source} is not there")
    with open_nodes_at(source) as read:

        def work(records: Records) -> int:
            return cast(int, read(lambda found: copy_nodes(found, records), False))

        try:
            count = nodes.write(work)
        except NotEmpty as error:
            raise _Failed("not-empty", f"{nodes.place}: {error}") from error
    facts = {"nodes": count, "from": str(source), "to": str(nodes.place)}
    return facts, [f"copied {count} nodes from {source} to {nodes.place}"]


_COMMANDS: dict[str, Callable[[_Nodes, CommandOptions], _Answer]] = {
    "list": _list,
    "show": _show,
    "accept": _accept,
    "refuse": _refuse,
    "delete": _delete,
    "block": _block,
    "history": _history,
    "set-key": _set_key,
    "trust-again": _trust_again,
    "reset-date": _reset_date,
    "register": _register,
    "wait": _wait,
    "copy": _copy,
}
