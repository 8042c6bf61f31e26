# SPDX-License-Identifier: MIT
"""
The evaluator: a snapshot, a peer and a request give a decision. Pure and quick; what
a rule says about a peer is worked out once and remembered with the peer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from nodecomm.access import decision as reasons
from nodecomm.access.decision import Decision
from nodecomm.access.judgement import (
    judge,
    judge_any,
    judge_role,
    judge_words,
    maps_root,
    needs_hostname,
)
from nodecomm.access.requests import (
    FILE_OPERATIONS,
    NAME_OPERATIONS,
    RIGHT_OPERATIONS,
    ROLE,
    AccessRequest,
    is_resolved,
)
from nodecomm.access.snapshot import Snapshot
from nodecomm.interfaces import IAccessEvaluator
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from nodecomm.access.rules import Rule
    from nodecomm.identity.peer import Peer

__all__ = ["MEMO_FOLDERS", "MEMO_RULES", "AccessEvaluator", "has_right"]

#: Rules whose answer is remembered for one peer; beyond that the memory starts anew.
#: A peer asks for a few trees, so this is never reached but by someone searching.
MEMO_RULES = 256

#: Folders remembered for one peer. Agents copy folder by folder.
MEMO_FOLDERS = 256

_MEMO_KEY = "access"

#: What no file in a resolved path is called.
_NO_NAMES = frozenset({b"", b".", b".."})


class _View:
    """
    What is remembered about one peer. It holds for one snapshot and for what was
    known of the peer then.
    """

    __slots__ = (
        "address",
        "folders",
        "found",
        "hostname",
        "key",
        "known",
        "snapshot",
        "words",
    )

    def __init__(self, snapshot: Snapshot, peer: Peer) -> None:
        self.snapshot = snapshot
        self.address = peer.address
        self.key = peer.key
        self.hostname = peer.hostname
        self.known = peer.hostname_known
        self.found: dict[Rule, Decision] = {}
        self.words: dict[Rule, Decision] = {}
        self.folders: dict[bytes, Decision] = {}

    def remember(self, folder: bytes, decision: Decision) -> None:
        """
        Everything in *folder*, and itself, is allowed for the same reason.
        """
        if len(self.folders) >= MEMO_FOLDERS:
            self.folders.clear()
        self.folders[folder] = decision

    def judged(self, rule: Rule, peer: Peer) -> Decision:
        """
        What the lists of *rule* say about the peer.
        """
        decision = self.found.get(rule)
        if decision is None:
            if len(self.found) >= MEMO_RULES:
                self.found.clear()
            decision = self.found[rule] = judge(rule, peer)
        return decision

    def judged_words(self, rule: Rule, peer: Peer) -> Decision:
        """
        What *rule* says where it was found for the peer's own values.
        """
        decision = self.words.get(rule)
        if decision is None:
            if len(self.words) >= MEMO_RULES:
                self.words.clear()
            decision = self.words[rule] = judge_words(rule, peer)
        return decision


def has_right(peer: Peer, request: AccessRequest) -> bool:
    """
    Whether the user may read the file itself: root may, its owner may, and anybody
    may read what is readable by others.
    """
    return (
        (request.mode is not None and bool(request.mode & 0o004))
        or peer.uid == 0
        or peer.user == "root"
        or (request.owner is not None and request.owner == peer.uid)
    )


@implementer(IAccessEvaluator)
class AccessEvaluator:
    """
    Decides by the rules of a snapshot.

    Attributes:
        snapshot: The one in force; set it to replace all rules at once.
    """

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.snapshot = snapshot if snapshot is not None else Snapshot()

    def evaluate(
        self, snapshot: Snapshot, peer: Peer, request: AccessRequest
    ) -> Decision:
        """
        Decide. Never raises for any peer or request, never blocks.
        """
        operation, path, is_directory, _, mode, encrypted = request
        if operation not in FILE_OPERATIONS:
            return self._evaluate_name(snapshot, peer, request)
        view = peer.memo.get(_MEMO_KEY)
        if (
            view is None
            or view.snapshot is not snapshot
            or view.hostname is not peer.hostname
            or view.known is not peer.hostname_known
            or view.key is not peer.key
            or view.address is not peer.address
        ):
            view = peer.memo[_MEMO_KEY] = _View(snapshot, peer)
        # Rules for trees decide alike about a folder and about whatever is in it, so
        # what they allowed is remembered by folder.
        if is_directory:
            if path[-1:] == b"/" and len(path) > 1:
                path = path[:-1]
            folder = path if path != b"/" else b""
            usable = path != b""
        else:
            folder, slash, name = path.rpartition(b"/")
            usable = (
                slash != b""
                and name not in _NO_NAMES
                and path not in snapshot.files
                and not snapshot.node_rules.names_one(path)
            )
        decision = view.folders.get(folder) if usable else None
        if decision is None:
            decision = self._look_up(view, peer, path, folder, is_directory)
            if not decision.allowed:
                return decision
        rule = decision.rule
        if rule is None:
            return decision
        if rule.ifencrypted and not (
            peer.encrypted if encrypted is None else encrypted
        ):
            return _not_encrypted(rule)
        if (
            is_directory
            or (mode is not None and mode & 0o004)
            or operation not in RIGHT_OPERATIONS
            or has_right(peer, request)
        ):
            return decision
        return _right(rule, peer, request, decision)

    def _look_up(
        self,
        view: _View,
        peer: Peer,
        path: bytes,
        folder: bytes,
        is_directory: bool,
    ) -> Decision:
        """
        Both look-ups. What allows all in *folder* is remembered.
        """
        if not is_resolved(path):
            return _unresolved(path)
        snapshot = view.snapshot
        rule = snapshot.find(path, is_directory)
        decision = None if rule is None else view.judged(rule, peer)
        root = snapshot.pending_root(path, is_directory)
        if root is not None:
            decision = _pending(decision, root)
        if decision is not None and decision.allowed:
            # A rule for this one file says nothing about its folder.
            if is_directory or not (
                path in snapshot.files or snapshot.node_rules.names_one(path)
            ):
                view.remember(folder, decision)
            return decision
        if snapshot.substitutes:
            second = self._second(view, peer, path, is_directory)
            if (
                second is not None
                and second.allowed
                and peer.hostname_known
                and not snapshot.file_substitutes
                and not snapshot.node_rules.single
                # The address, host name and key have no slash in them, so what is
                # replaced in the folder does not depend on the name.
                and snapshot.substituted(peer, folder) is not None
            ):
                view.remember(folder, second)
            decision = _either(decision, second)
        return _no_rule(path) if decision is None else decision

    def _second(
        self, view: _View, peer: Peer, path: bytes, is_directory: bool
    ) -> Decision | None:
        """
        The look-up with the peer's own values turned into `$(connection.*)`.
        """
        snapshot = view.snapshot
        if not peer.hostname_known:
            pending = snapshot.hostname_rule(path, is_directory)
            if pending is not None:
                return needs_hostname(pending, "path")
        changed = snapshot.substituted(peer, path)
        if changed is None:
            return None
        rule = snapshot.find(changed, is_directory)
        if rule is None:
            return None
        return view.judged_words(rule, peer)

    def _evaluate_name(
        self, snapshot: Snapshot, peer: Peer, request: AccessRequest
    ) -> Decision:
        """
        Decide about a handle, a class, a query or a bundle.
        """
        operation, name = request.operation, request.path
        if operation == ROLE:
            return judge_role(snapshot.named(ROLE, name), peer, name)
        if operation not in NAME_OPERATIONS:
            return Decision(
                False,
                reasons.UNKNOWN_OPERATION,
                f"there are no rules for {safe(str(operation))[:40]}",
            )
        decision = _judge_names(snapshot.named(operation, name), peer)
        if (
            operation == "literal"
            and peer.protocol == 1
            and (decision is None or not decision.allowed)
        ):
            # Source: CFEngine 3.21: on the classic protocol a VAR is admitted by a
            # rule of type variable, too.
            decision = _either(
                decision, _judge_names(snapshot.named("variable", name), peer)
            )
        if decision is None:
            shown = safe(to_text(name[:200]))
            text = f"no rule of type {operation} names {shown}"
            return Decision(False, reasons.NO_RULE, text)
        encrypted = (
            request.encrypted if request.encrypted is not None else peer.encrypted
        )
        if decision.allowed and decision.rule is not None and not encrypted:
            # Those that were asked, which may be the ones of type variable.
            asked = snapshot.named(decision.rule.kind, name)
            needing = [rule for rule in asked if rule.ifencrypted]
            if needing:
                return _not_encrypted(needing[0])
        return decision


def _judge_names(rules: list[Rule], peer: Peer) -> Decision | None:
    return judge_any(rules, peer) if rules else None


def _either(first: Decision | None, second: Decision | None) -> Decision | None:
    """
    Access is granted if either grants. Otherwise the one to report is the one that
    might still grant, else the one with the longer path.
    """
    if first is None or second is None:
        return first if second is None else second
    if second.allowed or (second.undecidable and not first.allowed):
        return second
    if first.allowed or first.undecidable:
        return first
    if (
        first.rule is not None
        and second.rule is not None
        and len(second.rule.path) > len(first.rule.path)
    ):
        return second
    return first


def _pending(decision: Decision | None, root: bytes) -> Decision:
    """
    What a decision is worth where *root* may be a node's, and the nodes are not known:
    the node's rule would be asked before those of shorter paths, and a rule for the
    same path would be one with it, which admits its key besides.
    """
    rule = None if decision is None else decision.rule
    if decision is not None and rule is not None:
        if len(rule.path) > len(root):
            return decision
        if len(rule.path) == len(root) and decision.allowed:
            return decision
    text = (
        f"{safe(to_text(root[:4096]))} may be a node's, and which nodes there are is "
        "not known"
    )
    return Decision(False, reasons.NODES_UNKNOWN, text, undecidable=True)


def _unresolved(path: bytes) -> Decision:
    text = f"{safe(to_text(path[:200]))} is not a resolved absolute path"
    return Decision(False, reasons.UNRESOLVED_PATH, text)


def _no_rule(path: bytes) -> Decision:
    text = f"no rule covers {safe(to_text(path[:4096]))}"
    return Decision(False, reasons.NO_RULE, text)


def _not_encrypted(rule: Rule) -> Decision:
    text = (
        f"rule {rule.label} has ifencrypted, and the request was not encrypted"
        ' (encrypt => "true" on a classic node does that, and so does TLS)'
    )
    return Decision(False, reasons.NOT_ENCRYPTED, text, rule, list_name="ifencrypted")


def _right(
    rule: Rule, peer: Peer, request: AccessRequest, admitted: Decision
) -> Decision:
    """
    The decision where the user has no right of its own on the file.
    """
    found = maps_root(rule, peer)
    if found:
        return admitted
    if found.unknown:
        return needs_hostname(rule, "maproot")
    owner = "unknown" if request.owner is None else str(request.owner)
    mode = "unknown" if request.mode is None else f"{request.mode & 0o7777:04o}"
    user = safe(peer.user) or "(no name)"
    text = (
        f"rule {rule.label} admits, but user {user} has no right to read the file "
        f"itself (owner {owner}, mode {mode}): only root, its owner, or anybody when "
        "it is readable by others"
    )
    return Decision(False, reasons.NO_RIGHT, text, rule)
