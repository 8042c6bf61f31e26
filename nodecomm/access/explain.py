# SPDX-License-Identifier: MIT
"""
Why a peer may or may not have something, step by step, and why the rules that one
might have expected to decide did not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from nodecomm.access.decision import NO_RIGHT
from nodecomm.access.entries import HostnameList, KeyList
from nodecomm.access.evaluator import AccessEvaluator, has_right
from nodecomm.access.judgement import admitting_word, judge, maps_root
from nodecomm.access.requests import (
    FILE_OPERATIONS,
    RIGHT_OPERATIONS,
    ROLE,
    AccessRequest,
)
from nodecomm.access.snapshot import path_pattern
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from nodecomm.access.decision import Decision
    from nodecomm.access.nodes import ServedNode, ServedNodes
    from nodecomm.access.rules import Rule, RuleList
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.identity.peer import Peer

__all__ = ["Explanation", "Other", "Step", "TellNode", "explain"]

#: Says where the node of an id stands.
TellNode = Callable[[str], str]

#: What a node makes of the refusal for want of the right on a file.
PURGED = (
    "a STAT that is refused for this looks like a file that does not exist: a node "
    "that copies with purge deletes its copy"
)

#: Other rules that are told of; the nearest come first.
MAX_OTHERS = 10

#: Names and addresses that are told of a node.
_NAMED = 10


@frozen
class Step:
    """
    One step of the decision: what was looked at (a stable word), what came of it.
    """

    about: str
    text: str


@frozen
class Other:
    """
    A rule that did not decide.

    Attributes:
        rule: The rule.
        code: `hidden`, `no_final_slash`, `not_a_folder`, `other_peer`, `resolved` or
            `elsewhere` (a stable word).
        text: Why it did not, and what to write if it should.
    """

    rule: Rule
    code: str
    text: str


@frozen
class Explanation:
    """
    A decision with its reasons.

    Attributes:
        decision: What the evaluator says.
        steps: How it came to that, in order.
        others: The nearest other rules, and why they did not decide.
        notes: What follows from the decision, and entries of the rules involved
            that match nobody.
    """

    decision: Decision
    steps: tuple[Step, ...]
    others: tuple[Other, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """
        The same as plain values.
        """
        decision = self.decision
        return {
            "allowed": decision.allowed,
            "undecidable": decision.undecidable,
            "reason": decision.reason,
            "text": decision.text,
            "rule": None if decision.rule is None else _rule_json(decision.rule),
            "list": decision.list_name or None,
            "entry": decision.entry or None,
            "steps": [{"about": step.about, "text": step.text} for step in self.steps],
            "others": [
                {"rule": _rule_json(other.rule), "code": other.code, "text": other.text}
                for other in self.others
            ],
            "notes": list(self.notes),
        }


def _rule_json(rule: Rule) -> dict[str, Any]:
    origin = rule.origin
    return {
        "type": rule.kind,
        "path": rule.text,
        "written": list(rule.written),
        "table": rule.table,
        "index": rule.index,
        "node": rule.node or None,
        "file": None if origin is None else origin.file,
        "line": None if origin is None else origin.line,
    }


def explain(
    snapshot: Snapshot,
    peer: Peer,
    request: AccessRequest,
    *,
    asked: bytes | None = None,
    tell_node: TellNode | None = None,
) -> Explanation:
    """
    Decide as the evaluator does, and say why.

    Args:
        snapshot: The rules.
        peer: Who asks.
        request: For what, resolved.
        asked: The absolute path before links were followed, where that is known.
        tell_node: Says where the node of an id stands, to follow a sentence.
    """
    decision = AccessEvaluator(snapshot).evaluate(snapshot, peer, request)
    if request.operation == ROLE:
        return _explain_role(snapshot, peer, request, decision)
    if request.operation not in FILE_OPERATIONS:
        return _explain_name(snapshot, peer, request, decision)
    path, is_directory = request.path, request.is_directory
    if is_directory and path != b"/":
        path = path.rstrip(b"/")
    steps: list[Step] = []
    first = snapshot.find(path, is_directory)
    shown = _shown(path, is_directory)
    steps.append(Step("request", f"{request.operation} of {shown}"))
    steps.extend(_node_steps(snapshot, path, is_directory, tell_node))
    involved: list[Rule] = []
    if first is None:
        steps.append(Step("look-up", f"no rule covers {shown}"))
    else:
        involved.append(first)
        steps.append(Step("look-up", f"the longest rule for it is {_named(first)}"))
        steps.extend(_list_steps(first, peer))
    granted = first is not None and judge(first, peer).allowed
    if snapshot.substitutes and not granted:
        second = _explain_second(snapshot, peer, path, is_directory, steps)
        if second is not None and second not in involved:
            involved.append(second)
    if decision.rule is not None and decision.rule not in involved:
        involved.append(decision.rule)
    steps.extend(_file_steps(peer, request, decision))
    others = tuple(_others(snapshot, peer, path, is_directory, involved, asked))
    notes = _notes(involved)
    if decision.reason == NO_RIGHT:
        notes = (PURGED, *notes)
    return Explanation(decision, tuple(steps), others[:MAX_OTHERS], notes)


def _node_steps(
    snapshot: Snapshot, path: bytes, is_directory: bool, tell: TellNode | None
) -> Iterator[Step]:
    """
    Of which nodes this path is, or would be.
    """
    for place in snapshot.node_rules.paths(path, is_directory):
        files = place.files
        where = f"node_files[{files.index}]"
        if files.origin is not None and files.origin.line:
            where = f"{files.origin.file}:{files.origin.line}"
        text = f"{_shown(place.root)} is that of node {place.node_id} ({where})"
        if tell is not None:
            text += f", {tell(place.node_id)}"
        if files.legacy_hosts and snapshot.served is not None:
            node = snapshot.served.find(place)
            text += "" if node is None else _legacy(snapshot.served, node)
        yield Step("node_files", safe(text))


def _legacy(served: ServedNodes, node: ServedNode) -> str:
    """
    Who else may have a node's files by `legacy_hosts`, to follow a sentence.
    """
    alone, shared = (_some(texts) for texts in served.called(node))
    text = f"; and, with legacy_hosts, to whoever comes from {alone or 'nowhere'}"
    return text + (f", but not {shared}, which other nodes have too" if shared else "")


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _explain_second(
    snapshot: Snapshot,
    peer: Peer,
    path: bytes,
    is_directory: bool,
    steps: list[Step],
) -> Rule | None:
    """
    The steps of the look-up with `$(connection.*)`; the rule found.
    """
    about = "look-up with $(connection.*)"
    pending = snapshot.hostname_rule(path, is_directory)
    if pending is not None and not peer.hostname_known:
        text = f"{_named(pending)} may be meant, which needs the peer's host name"
        steps.append(Step(about, text))
        return pending
    changed = snapshot.substituted(peer, path)
    if changed is None:
        text = "the path has neither the peer's address nor its host name or key in it"
        steps.append(Step(about, text))
        return None
    shown = _shown(changed, is_directory)
    rule = snapshot.find(changed, is_directory)
    if rule is None:
        steps.append(Step(about, f"no rule covers {shown}"))
        return None
    steps.append(Step(about, f"the longest rule for {shown} is {_named(rule)}"))
    word = admitting_word(rule)
    if word:
        steps.append(Step(word.list_name, f"{word} stands for this peer"))
    else:
        text = "no admit list of it has $(connection.ip), .hostname or .key"
        if b"$(connection." not in rule.path:
            text = "its own path has no $(connection.*), so those words do not count"
        steps.append(Step("admit", text))
    steps.extend(
        step for step in _list_steps(rule, peer) if step.about.startswith("deny")
    )
    return rule


def _list_steps(rule: Rule, peer: Peer) -> Iterator[Step]:
    """
    What each list of *rule* says about *peer*.
    """
    admitted = False
    for name, entries in rule.lists():
        if not len(entries):
            continue
        if admitted and name.startswith("admit"):
            continue
        text, matched = _list_text(entries, peer)
        admitted = admitted or (matched and name.startswith("admit"))
        yield Step(name, text)
    if not any(len(e) for name, e in rule.lists() if name.startswith("admit")):
        yield Step("admit", "its admit lists are empty, so it admits nobody")


def _list_text(entries: RuleList, peer: Peer) -> tuple[str, bool]:
    """
    What one list says, and whether an entry matches.
    """
    found: Any
    if isinstance(entries, HostnameList):
        if not entries.needs_name and not entries.words:
            return "none of its entries can match", False
        if not peer.hostname_known:
            return "the peer's host name is not known, which this list needs", False
        if not peer.hostname:
            return "the peer has no host name, so no entry matches", False
        subject, found = safe(peer.hostname), entries.find(peer.hostname)
    elif isinstance(entries, KeyList):
        if peer.key is None:
            return "no key is known for the peer, so no entry matches", False
        subject = " or ".join(peer.key.digests)
        found = entries.find(peer.key.digests)
    else:
        subject, found = safe(peer.address), entries.find(peer.address)
    if found is None:
        return f"no entry matches {subject} ({len(entries)} written)", False
    place = ""
    if found.origin is not None and found.origin.line:
        place = f" ({found.origin.file}:{found.origin.line})"
    return f'entry "{safe(found.text)}"{place} matches {subject}', True


def _file_steps(
    peer: Peer, request: AccessRequest, decision: Decision
) -> Iterator[Step]:
    """
    What is looked at after a rule has admitted.
    """
    rule = decision.rule
    if rule is None or decision.reason not in (
        "admitted",
        "no_right_on_file",
        "not_encrypted",
    ):
        if decision.list_name == "maproot":
            yield Step("right", decision.text)
        return
    if rule.ifencrypted:
        encrypted = _is_encrypted(peer, request)
        yield _encryption_step(peer, request)
        if not encrypted:
            return
    if request.operation == "exec":
        yield Step("right", "it is run and not given away, which needs no right on it")
        return
    if request.operation not in RIGHT_OPERATIONS or request.is_directory:
        yield Step("right", "folders need no right of their own")
        return
    owner = "unknown" if request.owner is None else str(request.owner)
    mode = "unknown" if request.mode is None else f"{request.mode & 0o7777:04o}"
    uid = "nobody here" if peer.uid is None else f"uid {peer.uid}"
    what = f"file of owner {owner}, mode {mode}; user {safe(peer.user)} ({uid})"
    if has_right(peer, request):
        yield Step("right", f"{what} may read it")
    elif decision.allowed:
        yield Step("right", f"{what} may not read it, but {maps_root(rule, peer)} does")
    else:
        yield Step("right", f"{what} may not read it")


def _is_encrypted(peer: Peer, request: AccessRequest) -> bool:
    return peer.encrypted if request.encrypted is None else request.encrypted


def _encryption_step(peer: Peer, request: AccessRequest) -> Step:
    """
    What a rule with `ifencrypted` sees.
    """
    text = "encrypted" if _is_encrypted(peer, request) else "not encrypted"
    if peer.protocol == 1 and request.operation in ("stat", "exec"):
        name = "a STAT" if request.operation == "stat" else "an EXEC"
        text = f"{name} of the classic protocol counts as encrypted"
    return Step("ifencrypted", text)


def _others(
    snapshot: Snapshot,
    peer: Peer,
    path: bytes,
    is_directory: bool,
    involved: list[Rule],
    asked: bytes | None,
) -> Iterator[Other]:
    """
    The other rules that one might have expected to decide, the nearest first.
    """
    rules = [rule for rule in snapshot.rules if rule not in involved]
    rules.sort(key=lambda rule: len(rule.path), reverse=True)
    longest = involved[0] if involved else None
    told: list[Other] = []
    for rule in rules:
        other = _covering(rule, path, is_directory, longest, peer)
        if other is None and asked is not None and asked != path:
            other = _by_name(rule, asked, path)
        if other is not None:
            told.append(other)
    yield from told
    named = {id(other.rule) for other in told}
    if not told:
        yield from _elsewhere([r for r in rules if id(r) not in named], path)


def _covering(
    rule: Rule, path: bytes, is_directory: bool, longest: Rule | None, peer: Peer
) -> Other | None:
    """
    A rule whose path leads to the request, and why it does not decide.
    """
    below = path.startswith(rule.path.rstrip(b"/") + b"/")
    if rule.tree and (below or (path == rule.path and is_directory)):
        hider = f"{longest.label} is longer" if longest is not None else ""
        would = judge(rule, peer)
        says = "would have admitted" if would.allowed else "would not have admitted"
        text = f"hidden: only the longest path counts, and {hider}; it {says} this peer"
        return Other(rule, "hidden", text)
    if rule.tree and path == rule.path:
        return Other(rule, "not_a_folder", "it covers a folder, and this is none")
    slash = f"it has no final slash, so it covers exactly {rule.text} and only while "
    slash += f"that is no folder; write '{rule.text}/'"
    if not rule.tree and (below or (path == rule.path and is_directory)):
        return Other(rule, "no_final_slash", slash)
    if b"$(connection." not in rule.path:
        return None
    subject = path + b"/" if is_directory and path != b"/" else path
    if path_pattern(rule.path, tree=rule.tree).matches(subject):
        text = "it covers this for the peer whose address, host name or key is in the "
        return Other(rule, "other_peer", text + "path, and that is not this peer")
    if not rule.tree and path_pattern(rule.path, tree=True).matches(subject):
        return Other(rule, "no_final_slash", slash)
    return None


def _by_name(rule: Rule, asked: bytes, path: bytes) -> Other | None:
    """
    A rule that covers the path as it was asked for, before links were followed.
    """
    if asked == rule.path or asked.startswith(rule.path.rstrip(b"/") + b"/"):
        text = (
            f"it covers {_shown(asked)}, but that leads to {_shown(path)}, and rules "
        )
        return Other(rule, "resolved", text + "are applied to where a path leads")
    return None


def _elsewhere(rules: list[Rule], path: bytes) -> Iterator[Other]:
    """
    Up to three rules whose paths begin as the request does.
    """
    parts = path.split(b"/")
    scored: list[tuple[int, Rule]] = []
    for rule in rules:
        common = 0
        for one, other in zip(parts, rule.path.split(b"/"), strict=False):
            if one != other:
                break
            common += 1
        if common > 1:
            scored.append((common, rule))
    scored.sort(key=lambda pair: pair[0], reverse=True)
    for _, rule in scored[:3]:
        yield Other(rule, "elsewhere", "it covers another path")


def _explain_name(
    snapshot: Snapshot, peer: Peer, request: AccessRequest, decision: Decision
) -> Explanation:
    """
    A handle, a class, a query or a bundle.
    """
    shown = safe(to_text(request.path))
    steps = [Step("request", f"{request.operation} {shown}")]
    involved = snapshot.named(request.operation, request.path)
    if request.operation == "literal" and peer.protocol == 1:
        involved = [*involved, *snapshot.named("variable", request.path)]
    if not involved:
        steps.append(Step("look-up", f"no rule of that type names {shown}"))
    for rule in involved:
        steps.append(Step("look-up", f"{_named(rule)} names it"))
        steps.extend(_list_steps(rule, peer))
    if any(rule.ifencrypted for rule in involved):
        steps.append(_encryption_step(peer, request))
    others = [
        Other(rule, "elsewhere", f"it is a rule of type {rule.kind}")
        for rule in snapshot.names
        if rule.path == request.path and rule not in involved
    ]
    others += [
        Other(rule, "elsewhere", "its path or expression is another")
        for rule in snapshot.names
        if rule.kind == request.operation and rule not in involved
    ]
    return Explanation(
        decision, tuple(steps), tuple(others[:MAX_OTHERS]), _notes(involved)
    )


def _explain_role(
    snapshot: Snapshot, peer: Peer, request: AccessRequest, decision: Decision
) -> Explanation:
    """
    A class that a run is to be given.
    """
    shown, user = safe(to_text(request.path)), safe(peer.user) or "(no name)"
    steps = [Step("request", f"class {shown}, to be defined by user {user}")]
    involved = snapshot.named(ROLE, request.path)
    if not involved:
        steps.append(Step("look-up", f"no role is about {shown}"))
    for role in involved:
        steps.append(Step("look-up", f"{role.label} is about it"))
        listed = safe(", ".join(role.authorize)) or "nobody"
        steps.append(Step("authorize", f"it authorizes {listed}"))
    others = []
    for role in snapshot.roles:
        if role in involved:
            continue
        text = "its expression does not match the whole name of the class"
        if role.pattern is None:
            text = "its expression cannot be evaluated, so it is about no class"
        does = "authorizes" if peer.user in role.authorize else "does not authorize"
        others.append(Other(role, "elsewhere", f"{text}; it {does} user {user}"))
    return Explanation(decision, tuple(steps), tuple(others[:MAX_OTHERS]))


def _notes(rules: list[Rule]) -> tuple[str, ...]:
    """
    The entries of *rules* that match nobody.
    """
    return tuple(
        safe(
            f'entry "{entry.text}" of {name} of {rule.label} matches nobody: '
            f"{entry.ineffective}"
        )
        for rule in rules
        for name, entry in rule.ineffective()
    )


def _named(rule: Rule) -> str:
    """
    A rule with how it was written, where links made that another path.
    """
    written = {text.rstrip("/") for text in rule.written} - {rule.text.rstrip("/")}
    text = rule.label
    if written and rule.kind == "path":
        text += f", written as {' and '.join(sorted(written))}"
    if rule.missing:
        text += ", which did not exist when the rules were loaded"
    return safe(text)


def _shown(path: bytes, is_directory: bool = False) -> str:
    text = safe(to_text(path))
    return f"{text}/" if is_directory and path != b"/" else text
