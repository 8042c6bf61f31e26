# SPDX-License-Identifier: MIT
"""
One rule and one peer: do its lists admit, do they deny, does it need the host name?

Admit lists are asked first (addresses, host names, keys; the first entry that matches
admits), then the deny lists, where any match denies. Deny wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nodecomm.access import decision as reasons
from nodecomm.access.decision import Decision
from nodecomm.access.entries import Entry
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from nodecomm.access.rules import Rule
    from nodecomm.identity.peer import Peer

__all__ = [
    "Found",
    "admitting",
    "admitting_word",
    "denying",
    "judge",
    "judge_any",
    "judge_role",
    "judge_words",
    "maps_root",
]


class Found(NamedTuple):
    """
    What a group of lists says.

    Attributes:
        list_name: The list whose entry matches; empty when none does.
        entry: That entry.
        unknown: None matches, and one could if the peer's host name were known.
    """

    list_name: str = ""
    entry: Entry | None = None
    unknown: bool = False

    def __bool__(self) -> bool:
        return self.entry is not None

    def __str__(self) -> str:
        if self.entry is None:
            return "no entry"
        origin = self.entry.origin
        place = f" ({origin.file}:{origin.line})" if origin and origin.line else ""
        return safe(f'entry "{self.entry.text}" of {self.list_name}{place}')


_NOTHING = Found()
_UNKNOWN = Found(unknown=True)


def admitting(rule: Rule, peer: Peer) -> Found:
    """
    The entry that admits *peer*.
    """
    entry: Entry | None = rule.admit_ips.find(peer.address)
    if entry is not None:
        return Found("admit_ips", entry)
    if peer.hostname_known:
        entry = rule.admit_hostnames.find(peer.hostname)
        if entry is not None:
            return Found("admit_hostnames", entry)
    if peer.key is not None:
        entry = rule.admit_keys.find(peer.key.digests)
        if entry is not None:
            return Found("admit_keys", entry)
    if not peer.hostname_known and rule.admit_hostnames.needs_name:
        return _UNKNOWN
    return _NOTHING


def admitting_word(rule: Rule) -> Found:
    """
    The `$(connection.*)` entry that admits whoever the rule's path was found for.

    The path must have such a word itself. CFEngine 3.21 does not ask for that: there,
    `admit_keys` with `$(connection.key)` on `/srv/all` admits a peer to everything
    below whose name happens to contain the peer's address.
    """
    if b"$(connection." in rule.path:
        if rule.admit_ips.words:
            return Found("admit_ips", rule.admit_ips.words[0])
        if rule.admit_hostnames.words:
            return Found("admit_hostnames", rule.admit_hostnames.words[0])
        if rule.admit_keys.words:
            return Found("admit_keys", rule.admit_keys.words[0])
    return _NOTHING


def denying(rule: Rule, peer: Peer, *, words: bool = False) -> Found:
    """
    The entry that denies *peer*.

    Args:
        words: Whether a `$(connection.*)` entry counts, as it does where the rule was
            found for the peer's own values.
    """
    entry: Entry | None = rule.deny_ips.find(peer.address)
    if entry is not None:
        return Found("deny_ips", entry)
    if peer.hostname_known:
        entry = rule.deny_hostnames.find(peer.hostname)
        if entry is not None:
            return Found("deny_hostnames", entry)
    if peer.key is not None:
        entry = rule.deny_keys.find(peer.key.digests)
        if entry is not None:
            return Found("deny_keys", entry)
    if words:
        if rule.deny_ips.words:
            return Found("deny_ips", rule.deny_ips.words[0])
        if rule.deny_hostnames.words:
            return Found("deny_hostnames", rule.deny_hostnames.words[0])
        if rule.deny_keys.words:
            return Found("deny_keys", rule.deny_keys.words[0])
    if not peer.hostname_known and rule.deny_hostnames.needs_name:
        return _UNKNOWN
    return _NOTHING


def maps_root(rule: Rule, peer: Peer) -> Found:
    """
    The entry that lets *peer* read files of any owner: its key where the rule is about
    the files of its node; else one of `maproot`, of which over TLS there is none, as in
    CFEngine 3.21.
    """
    if peer.key is not None:
        own = rule.maproot_keys.find(peer.key.digests)
        if own is not None:
            return Found("maproot_keys", own)
    if peer.encrypted:
        return _NOTHING
    entry: Entry | None = rule.maproot.find(peer.address)
    if entry is None and peer.hostname_known:
        entry = rule.maproot_hostnames.find(peer.hostname)
    if entry is not None:
        return Found("maproot", entry)
    if not peer.hostname_known and rule.maproot_hostnames.needs_name:
        return _UNKNOWN
    return _NOTHING


def _admitted(rule: Rule, found: Found) -> Decision:
    text = f"rule {rule.label} admits: {found}"
    entry = found.entry.text if found.entry is not None else ""
    return Decision(
        True, reasons.ADMITTED, text, rule, list_name=found.list_name, entry=entry
    )


def _denied(rule: Rule, found: Found) -> Decision:
    text = f"rule {rule.label} denies: {found}"
    entry = found.entry.text if found.entry is not None else ""
    return Decision(
        False, reasons.DENIED, text, rule, list_name=found.list_name, entry=entry
    )


def needs_hostname(rule: Rule, list_name: str) -> Decision:
    """
    The decision that cannot be made without the peer's host name.
    """
    return Decision(
        False,
        reasons.HOSTNAME_NEEDED,
        f"rule {rule.label} decides by host name ({list_name}), and the peer's is not "
        "known",
        rule,
        undecidable=True,
        list_name=list_name,
    )


def _not_admitted(rule: Rule) -> Decision:
    text = f"rule {rule.label} covers it, and no entry of its admit lists matches"
    return Decision(False, reasons.NOT_ADMITTED, text, rule)


def judge(rule: Rule, peer: Peer) -> Decision:
    """
    What the lists of *rule* say about *peer*.
    """
    return _weigh(rule, admitting(rule, peer), denying(rule, peer))


def judge_words(rule: Rule, peer: Peer) -> Decision:
    """
    What *rule* says about *peer* where it was found by replacing the peer's values
    with `$(connection.*)`. The deny lists still hold for the peer itself.
    """
    return _weigh(rule, admitting_word(rule), denying(rule, peer, words=True))


def _weigh(rule: Rule, admit: Found, deny: Found) -> Decision:
    if deny:
        return _denied(rule, deny)
    if admit:
        if deny.unknown:
            return needs_hostname(rule, "deny_hostnames")
        return _admitted(rule, admit)
    if admit.unknown:
        return needs_hostname(rule, "admit_hostnames")
    return _not_admitted(rule)


def judge_any(rules: list[Rule], peer: Peer) -> Decision:
    """
    What several rules about the same name say together: any deny denies, and at
    least one must admit.

    Args:
        rules: At least one.
    """
    denies = [(rule, denying(rule, peer)) for rule in rules]
    for rule, found in denies:
        if found:
            return _denied(rule, found)
    admits = [(rule, admitting(rule, peer)) for rule in rules]
    possible = [(rule, found) for rule, found in admits if found or found.unknown]
    if not possible:
        return _not_admitted(rules[0])
    for rule, found in denies:
        if found.unknown:
            return needs_hostname(rule, "deny_hostnames")
    for rule, found in possible:
        if found:
            return _admitted(rule, found)
    return needs_hostname(possible[0][0], "admit_hostnames")


def judge_role(rules: list[Rule], peer: Peer, name: bytes) -> Decision:
    """
    Whether *peer* may have the class *name* defined for a run: one of the roles about
    it must authorize the user.

    Args:
        rules: The roles whose expressions match the class.
    """
    shown, user = safe(to_text(name[:200])), safe(peer.user) or "(no name)"
    for rule in rules:
        if peer.user in rule.authorize:
            text = f"{rule.label} authorizes user {user} to define {shown}"
            return Decision(
                True,
                reasons.ADMITTED,
                text,
                rule,
                list_name="authorize",
                entry=peer.user,
            )
    if not rules:
        return Decision(False, reasons.NO_ROLE, f"no role is about the class {shown}")
    text = f"{rules[0].label} is about the class {shown}"
    text += (
        ", and does not authorize"
        if len(rules) == 1
        else (f", as are {len(rules) - 1} more, and none authorizes")
    )
    return Decision(False, reasons.NOT_AUTHORIZED, f"{text} user {user}", rules[0])
