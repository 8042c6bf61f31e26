# SPDX-License-Identifier: MIT
"""
From what `nodecomm access explain` is given to what the rules are asked about: the file
that a name leads to on this machine, the key that a digest belongs to.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from attrs import evolve, frozen

from nodecomm.access.decision import HOSTNAME_NEEDED, Decision
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.explain import Explanation, Step, TellNode, explain
from nodecomm.access.requests import AccessRequest, is_resolved
from nodecomm.access.snapshot import HostnameNeededError, Snapshot
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.peer import Peer
from nodecomm.identity.store import FileKeyStore
from nodecomm.wire.text import safe, to_text

__all__ = ["NOT_FOUND", "NO_SHORTCUT", "explain_file", "find_key"]

#: Reason codes besides those of the evaluator.
NOT_FOUND = "not_found"
NO_SHORTCUT = "no_shortcut"

#: A file that everybody may read: what is assumed where there is no file to look at.
_READABLE = 0o100644


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


def find_key(
    digests: Sequence[str], folder: Path, known: Iterable[PublicKey] = ()
) -> PublicKey | None:
    """
    The stored key with one of these digests, else what stands in for it.

    Args:
        digests: Those that are given.
        folder: Where keys are stored.
        known: Keys that are known from elsewhere.
    """
    if not digests:
        return None
    for key in known:
        if any(key.matches(digest) for digest in digests):
            return key
    # Whoever may not look there has the digests, and rules compare those.
    with contextlib.suppress(OSError):
        for stored in FileKeyStore(folder).entries():
            if any(stored.key.matches(digest) for digest in digests):
                return stored.key
    md5 = next((d for d in digests if d.startswith("MD5=")), digests[0])
    return cast(PublicKey, _NamedKey(md5, tuple(digests)))


def explain_file(
    snapshot: Snapshot,
    peer: Peer,
    operation: str,
    asked: bytes,
    encrypted: bool | None,
    tell_node: TellNode | None = None,
) -> Explanation:
    """
    Walk the way of a request for a path: shortcut, links, rules. *tell_node* as for
    `explain`.
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
    answer = explain(snapshot, peer, request, asked=path, tell_node=tell_node)
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
