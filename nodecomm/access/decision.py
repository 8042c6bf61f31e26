# SPDX-License-Identifier: MIT
"""
What was decided, and why. The reason codes are stable: logs, JSON and metrics use
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from nodecomm.access.rules import Rule

__all__ = [
    "ADMITTED",
    "DENIED",
    "DENY_CONNECTS",
    "HOSTNAME_NEEDED",
    "NODES_UNKNOWN",
    "NOT_ADMITTED",
    "NOT_ALLOW_CONNECTS",
    "NOT_ALLOW_LEGACY_CONNECTS",
    "NOT_ALLOW_USERS",
    "NOT_AUTHORIZED",
    "NOT_ENCRYPTED",
    "NO_COMMAND",
    "NO_RIGHT",
    "NO_ROLE",
    "NO_RULE",
    "REASONS",
    "TAKES_NONE",
    "UNKNOWN_OPERATION",
    "UNRESOLVED_PATH",
    "Decision",
]

ADMITTED = "admitted"
NO_RULE = "no_rule"
NOT_ADMITTED = "not_admitted"
DENIED = "denied"
NO_RIGHT = "no_right_on_file"
NOT_ENCRYPTED = "not_encrypted"
HOSTNAME_NEEDED = "hostname_needed"
NODES_UNKNOWN = "nodes_unknown"
UNRESOLVED_PATH = "unresolved_path"
UNKNOWN_OPERATION = "unknown_operation"
NOT_ALLOW_CONNECTS = "not_in_allowconnects"
DENY_CONNECTS = "in_denyconnects"
NOT_ALLOW_LEGACY_CONNECTS = "not_in_allowlegacyconnects"
NO_COMMAND = "no_command"
NOT_ALLOW_USERS = "not_in_allowusers"
NO_ROLE = "no_role"
NOT_AUTHORIZED = "not_authorized"
TAKES_NONE = "takes_none"

#: Every reason code and what it means.
REASONS = {
    ADMITTED: "an entry of the rule's admit lists matches",
    NO_RULE: "no rule covers what was asked for",
    NOT_ADMITTED: "a rule covers it, and none of its admit lists matches",
    DENIED: "an entry of the rule's deny lists matches",
    NO_RIGHT: "the rule admits, and the user may not read the file itself",
    NOT_ENCRYPTED: "the rule serves encrypted requests only",
    HOSTNAME_NEEDED: "host names decide here and the peer's is not known",
    NODES_UNKNOWN: "this may be a node's folder, and the nodes are not known now",
    UNRESOLVED_PATH: "the path is not absolute or has not been resolved",
    UNKNOWN_OPERATION: "there are no rules for such a request",
    NOT_ALLOW_CONNECTS: "the address is not in allowconnects",
    DENY_CONNECTS: "the address is in denyconnects",
    NOT_ALLOW_LEGACY_CONNECTS: "the address may not speak the classic protocol",
    NO_COMMAND: "there is no cfruncommand, so nothing runs for anybody",
    NOT_ALLOW_USERS: "the user may not ask for a run: allowusers does not name it",
    NO_ROLE: "no role is about the class that is to be defined",
    NOT_AUTHORIZED: "roles are about the class, and none authorizes the user",
    TAKES_NONE: "the node's own sync takes neither classes nor bundles",
}


@frozen(eq=False)
class Decision:
    """
    The answer of the evaluator.

    Attributes:
        allowed: Whether the peer may have it.
        reason: The code, a key of `REASONS`.
        text: The same for a person: which rule (with its file and line), which list,
            which entry.
        rule: The rule that decided; None when there is none.
        undecidable: The answer depends on the peer's host name, or on the nodes that
            there are, and that is not known. Never refuse then: a refused STAT makes a
            purging node delete its copy. Close the connection.
        list_name: The list that decided, such as `admit_ips`.
        entry: The entry of it, as it was written.
    """

    allowed: bool
    reason: str
    text: str
    rule: Rule | None = None
    undecidable: bool = False
    list_name: str = ""
    entry: str = ""
