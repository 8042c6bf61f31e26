# SPDX-License-Identifier: MIT
"""
The command lines of `nodecomm nodes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from twisted.python import usage

from nodecomm.cli.options import CommandOptions, GroupOptions
from nodecomm.cli.server_state import CONFIG
from nodecomm.identity.keys import parse_digest_or_none
from nodecomm.inventory.nodes import Status

__all__ = ["Options"]

#: The form of a key's digest that curl has, too.
_PIN = re.compile(r"sha256//[A-Za-z0-9+/]{43}=")


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
