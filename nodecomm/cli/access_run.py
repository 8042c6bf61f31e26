# SPDX-License-Identifier: MIT
"""
`nodecomm access explain --exec`: may somebody have this node run its command, with
which classes and bundles, and what is in the way.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from nodecomm.access.decision import ADMITTED, Decision
from nodecomm.access.explain import Explanation, Step
from nodecomm.access.explain_execution import (
    Part,
    RunExplanation,
    explain_items,
    explain_run,
)
from nodecomm.cli.access_nodes import ServerNodes, read_nodes
from nodecomm.cli.explaining import explain_file
from nodecomm.cli.explaining_key import ClientTrust
from nodecomm.identity.own import KEYS_FOLDER
from nodecomm.server.execution.classes import full_hostname, node_classes, selects
from nodecomm.service.agent_prepared import prepare_agent
from nodecomm.service.agent_snapshot import caller_trust
from nodecomm.service.loading import (
    ReadFiles,
    check_access,
    load,
    load_agent,
    without_passwords,
)
from nodecomm.service.prepared import state_folder, trust_windows
from nodecomm.wire.execute import BadArguments, InvalidArguments, parse_execute
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.config.model import Settings
    from nodecomm.identity.callers import CallerTrust
    from nodecomm.identity.keys import PublicKey
    from nodecomm.identity.peer import Peer

__all__ = ["Asked", "Node", "explain_exec", "load_node", "run_as_text"]

#: Reason codes besides those of the evaluator; the log of a server has them, too.
CLASS_MATCH = "class_match"
MALFORMED = "malformed"
NO_PROGRAM = "no_program"
NO_LISTENER = "no_listener"
NO_KEY = "no_key"

#: What becomes of a peer.
CLOSED = "the connection is closed without a word"
DENIED_CLASSES = "the peer is told that the class match failed, and may go on"

#: Classes of the node that are shown.
_MAX_SHOWN = 100


@frozen
class Asked:
    """
    What a peer asks for.

    Attributes:
        options: Each option of the request with its list, in order.
        selected: The class expressions that select nodes; None: none are sent.
    """

    options: tuple[tuple[str, str], ...] = ()
    selected: tuple[str, ...] | None = None

    @property
    def payload(self) -> bytes:
        """
        The request as it is sent.
        """
        # An option without a list would take the next word for one.
        words = [f"{word} {text}" for word, text in self.options if text]
        return " ".join(["EXEC", *words]).encode("utf-8", "surrogateescape")


@frozen
class Node:
    """
    The node that is asked, as its configuration has it.

    Attributes:
        snapshot: The rules.
        state_dir: The state folder.
        callers: Who may connect at all, of an agent; None: a server, where the lists
            of addresses say that.
        clients: Whose keys a server trusts.
        listens: Whether it listens anywhere.
        known: Keys of nodes, as far as a server has them.
    """

    snapshot: Snapshot
    state_dir: str
    callers: CallerTrust | None = None
    clients: ClientTrust | None = None
    listens: bool = True
    known: tuple[PublicKey, ...] = ()


def load_node(
    config: Path | None, state_dir: Path | None, *, agent: bool
) -> tuple[Node | None, ReadFiles[Any]]:
    """
    The node that a configuration is for, None if it cannot be used; and what was read,
    with all problems.
    """
    if not agent:
        snapshot, loaded = check_access(
            without_passwords(load(config, state_dir=state_dir))
        )
        if snapshot is None:
            return None, loaded
        settings = loaded.usable()
        nodes = read_nodes(settings)
        if nodes is not None:
            snapshot = nodes.put_in_force(snapshot)
        return _server_node(snapshot, settings, nodes), loaded
    prepared, read = prepare_agent(load_agent(config, state_dir=state_dir))
    if prepared is None:
        return None, read
    node = Node(
        prepared.snapshot,
        prepared.state,
        caller_trust(prepared),
        listens=bool(prepared.listen),
    )
    return node, read


def _server_node(
    snapshot: Snapshot, settings: Settings, nodes: ServerNodes | None
) -> Node:
    folder = Path(state_folder(settings))
    windows, _ = trust_windows(settings)
    clients = ClientTrust(
        folder,
        folder / KEYS_FOLDER,
        settings.server.trustusers,
        windows,
        None if nodes is None else nodes.table.keys,
    )
    return Node(
        snapshot,
        settings.server.state_dir,
        clients=clients,
        known=() if nodes is None else tuple(nodes.keys()),
    )


def explain_exec(node: Node, peer: Peer, asked: Asked) -> RunExplanation:
    """
    Walk the way of a connection, then of a request for a run.
    """
    return RunExplanation(tuple(_parts(node, peer, asked)))


def _parts(node: Node, peer: Peer, asked: Asked) -> Iterator[Part]:
    snapshot = node.snapshot
    if node.callers is None:
        yield from _server_connection(snapshot, peer, node.clients)
    else:
        yield from _agent_connection(node, node.callers, peer)
    mistake: BadArguments | None = None
    try:
        request = parse_execute(asked.payload)
    except BadArguments as error:
        request, mistake = error.before, error
    selected = None
    if asked.selected is not None:
        selected = _select(snapshot, asked.selected)
    yield from explain_run(snapshot, peer, _program(snapshot, peer), selected)
    yield from explain_items(snapshot, peer, request)
    if mistake is not None:
        told = f"the peer is told: {safe(to_text(mistake.denial))}; it may go on"
        text = "an item is made of letters, digits, _ and :, with commas between items"
        if isinstance(mistake, InvalidArguments):
            text = f"this is no option of EXEC: {safe(to_text(mistake.rest))}"
        yield Part(
            "arguments", safe(to_text(asked.payload)), _no(MALFORMED, text), told
        )


def _server_connection(
    snapshot: Snapshot, peer: Peer, clients: ClientTrust | None
) -> Iterator[Part]:
    """
    Whether a server takes the connection.
    """
    answer = _plain(snapshot.check_connection(peer.address))
    if peer.key is None:
        note = "which keys are trusted was not looked at: --key says whose it is"
        answer = evolve(answer, notes=(note,))
    yield Part("connection", peer.address, answer, CLOSED)
    if peer.protocol == 1:
        decision = snapshot.check_legacy_connection(peer.address)
        yield Part("connection", "classic", _plain(decision), CLOSED)
    if peer.key is not None and clients is not None:
        decided = clients.judge(peer.key, peer)
        yield Part("key", _digests(peer), _plain(decided), CLOSED)


def _agent_connection(node: Node, callers: CallerTrust, peer: Peer) -> Iterator[Part]:
    """
    Whether an agent takes the connection: there only keys count.
    """
    if not node.listens:
        text = "[agent] listen is empty, so nobody can connect"
        yield Part("connection", "listen", _no(NO_LISTENER, text), "there is no port")
    if peer.protocol == 1:
        text = "an agent speaks TLS only, not the classic protocol"
        yield Part("connection", "classic", _no("not_tls", text), CLOSED)
    yield Part("key", _digests(peer), _caller(callers, peer), CLOSED)


def _caller(callers: CallerTrust, peer: Peer) -> Explanation:
    """
    Whether the peer's key may ask an agent for anything.
    """
    if peer.key is None:
        return _no(NO_KEY, "who may connect is decided by the key, and none is given")
    known = _whole_key(callers, peer.key.digests)
    if known is not None:
        decided = callers.check_key(known, peer.address)
        return _plain(Decision(decided.trusted, decided.code, decided.text))
    for name, keys in (("run_keys", callers.named), ("server_keys", callers.pinned)):
        for one in keys:
            if one in peer.key.digests:
                code = "run_key" if name == "run_keys" else "server_pinned"
                text = f"key {one} is named in {name}"
                return _plain(Decision(True, code, text))
    servers = ", ".join(callers.servers) or "none"
    return _no(
        "not_a_caller",
        f"no key with this digest is stored for a policy server ({safe(servers)}), and "
        "it is neither in server_keys nor in run_keys",
    )


def _whole_key(callers: CallerTrust, digests: Iterable[str]) -> PublicKey | None:
    """
    The key with one of *digests*, among those that are known whole.
    """
    wanted = set(digests)
    stored = [key for entry in callers.store.entries() for key in entry.keys]
    for key in (*callers.named, *callers.pinned, *stored):
        if not isinstance(key, str) and wanted & set(key.digests):
            return key
    return None


def _program(snapshot: Snapshot, peer: Peer) -> Explanation:
    """
    Whether the peer is admitted to the program, as it is on this machine.
    """
    execution = snapshot.execution
    if execution is None or execution.program is None:
        text = "the service does it itself, so no rule about a program is asked"
        return _plain(Decision(True, ADMITTED, text))
    # An EXEC over the classic protocol counts as encrypted, as it does upstream.
    encrypted = True if peer.protocol == 1 else None
    answer = explain_file(snapshot, peer, "exec", execution.program, encrypted)
    if answer.decision.allowed and not os.path.isfile(execution.program):
        text = "this is no plain file, and so no program"
        return evolve(answer, decision=Decision(False, NO_PROGRAM, text))
    return answer


def _select(snapshot: Snapshot, wanted: Sequence[str]) -> Part:
    """
    Whether this node has one of the classes that nodes are selected by.
    """
    execution = snapshot.execution
    more = () if execution is None else execution.settings.classes
    classes = node_classes(more, hostnames=[socket.gethostname(), full_hostname()])
    listed = ", ".join(sorted(to_text(one) for one in classes)[:_MAX_SHOWN])
    step = Step("classes", f"this node has: {safe(listed)}")
    shown = safe(", ".join(wanted)) or "(none)"
    asked = [one.encode("utf-8", "surrogateescape") for one in wanted]
    if selects(classes, asked):
        decision = Decision(True, ADMITTED, f"this node has a class of {shown}")
    else:
        decision = Decision(
            False, CLASS_MATCH, f"this node has no class that is asked for: {shown}"
        )
    return Part("select", shown, Explanation(decision, (step,), ()), DENIED_CLASSES)


def _plain(decision: Decision) -> Explanation:
    return Explanation(decision, (), ())


def _no(code: str, text: str) -> Explanation:
    return _plain(Decision(False, code, text))


def _digests(peer: Peer) -> str:
    return "not given" if peer.key is None else " ".join(peer.key.digests)


def run_as_text(shown_peer: str, answer: RunExplanation) -> str:
    """
    The explanation for a person.
    """
    decision = answer.decision
    deciding = answer.deciding
    word = "allowed" if decision.allowed else "denied"
    if decision.undecidable:
        word = "cannot be decided: the connection is closed (give --hostname)"
    lines = [f"{word} [{decision.reason}]: {answer.text}"]
    if not decision.allowed and not decision.undecidable:
        lines.append(deciding.told)
    lines += ["", shown_peer]
    for number, part in enumerate(answer.parts, 1):
        lines += _part_lines(number, part)
    return "\n".join(lines) + "\n"


def _part_lines(number: int, part: Part) -> Iterator[str]:
    decision, answer = part.decision, part.explanation
    word = "allowed" if decision.allowed else "denied"
    if decision.undecidable:
        word = "cannot be decided"
    yield (
        f"{number}. {part.about} {part.subject}: {word} [{decision.reason}]: "
        f"{decision.text}"
    )
    for step in answer.steps:
        yield f"   - {step.about}: {step.text}"
    for other in answer.others:
        yield f"   - not {safe(other.rule.label)}: {safe(other.text)}"
    for note in answer.notes:
        yield f"   - note: {note}"
