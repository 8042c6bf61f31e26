# SPDX-License-Identifier: MIT
"""
Why a peer may or may not have something run: every step that a server takes, each
with its rules. Later steps are looked at even if an earlier one refuses, so that all
that is in the way is found at once.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attrs import frozen

from nodecomm.access.decision import Decision
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.execution import (
    FORCE_INVENTORY,
    judge_bundles,
    judge_command,
    judge_roles,
    judge_user,
)
from nodecomm.access.explain import Explanation, Step, explain
from nodecomm.access.requests import ROLE, AccessRequest
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from nodecomm.access.execution import Execution
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.identity.peer import Peer
    from nodecomm.wire.execute import ExecuteRequest

__all__ = ["Part", "RunExplanation", "command_text", "explain_items", "explain_run"]

#: What becomes of a peer that is refused, by the step that refuses.
REFUSED = "the peer is told nothing but that it is refused, and the connection ends"
DENIED_ROLE = "the peer is told that the role activation is denied, and may go on"
DENIED_BUNDLE = "the peer is told that the bundle activation is denied, and may go on"


@frozen
class Part:
    """
    One step.

    Attributes:
        about: What is decided (a stable word): `connection`, `key`, `command`,
            `program`, `user`, `select`, `role`, `bundle` or `arguments`.
        subject: About what: the program, the user, the class.
        explanation: The decision with its reasons.
        told: What becomes of the peer if it is refused here.
    """

    about: str
    subject: str
    explanation: Explanation
    told: str = REFUSED

    @property
    def decision(self) -> Decision:
        """
        The decision alone.
        """
        return self.explanation.decision

    def as_json(self) -> dict[str, Any]:
        """
        The same as plain values.
        """
        shown: dict[str, Any] = {"step": self.about, "subject": self.subject}
        return shown | self.explanation.as_json()


@frozen
class RunExplanation:
    """
    All steps.
    """

    parts: tuple[Part, ...]

    @property
    def deciding(self) -> Part:
        """
        The step that refuses, or the last one if none does.
        """
        refusing = (part for part in self.parts if not part.decision.allowed)
        return next(refusing, self.parts[-1])

    @property
    def decision(self) -> Decision:
        """
        What becomes of the request.
        """
        return self.deciding.decision

    @property
    def text(self) -> str:
        """
        What becomes of it, for a person.
        """
        part = self.deciding
        if part.decision.allowed:
            return "all that is asked for may be run"
        return f"{part.about} {part.subject}: {part.decision.text}"

    def as_json(self) -> dict[str, Any]:
        """
        The same as plain values.
        """
        deciding, decision = self.deciding, self.decision
        return {
            "allowed": decision.allowed,
            "undecidable": decision.undecidable,
            "reason": decision.reason,
            "text": self.text,
            "step": None if decision.allowed else deciding.about,
            "told": None if decision.allowed else deciding.told,
            "steps": [part.as_json() for part in self.parts],
        }


def explain_run(
    snapshot: Snapshot, peer: Peer, program: Explanation, selected: Part | None
) -> Iterator[Part]:
    """
    The steps that do not depend on what the run is to be given, in the order in which
    a server takes them.

    Args:
        snapshot: The rules.
        peer: Who asks.
        program: Whether the peer is admitted to the program, where it leads.
        selected: Whether this node has a class that is asked for; None: none is.
    """
    execution = snapshot.execution
    yield Part("command", "cfruncommand", _command(snapshot))
    if execution is not None:
        name = "sync" if execution.program is None else to_text(execution.program)
        yield Part("program", safe(name), program)
    yield Part("user", safe(peer.user), _plain(judge_user(snapshot, peer)))
    if selected is not None:
        yield selected


def explain_items(
    snapshot: Snapshot, peer: Peer, asked: ExecuteRequest
) -> Iterator[Part]:
    """
    The step for each class and bundle that the run is to be given.
    """
    for option in asked.options:
        for item in option.items:
            if option.word == b"-D":
                yield _item("role", DENIED_ROLE, snapshot, peer, item)
            else:
                yield _item("bundle", DENIED_BUNDLE, snapshot, peer, item)


def command_text(execution: Execution) -> str:
    """
    What is run, for a person.
    """
    command = execution.command
    if execution.program is None:
        return "the node's own sync, done by the service itself"
    if isinstance(command, str):
        return safe(f"/bin/sh -c {shlex.quote(command)}")
    return safe(shlex.join(command))


def _command(snapshot: Snapshot) -> Explanation:
    decision = judge_command(snapshot)
    execution = snapshot.execution
    if execution is None:
        return _plain(decision)
    steps = [Step("runs", command_text(execution))]
    if execution.is_sync:
        own = execution.program is None
        but = f", but {to_text(FORCE_INVENTORY)}" if own else ""
        steps.append(Step("sync", f"it takes neither classes nor bundles{but}"))
    user = "as the service itself"
    if execution.user is not None:
        user = f"as user {safe(execution.user)} (cfrunuser)"
    return Explanation(decision, (*steps, Step("user", user)), ())


def _item(about: str, told: str, snapshot: Snapshot, peer: Peer, name: bytes) -> Part:
    """
    One class or bundle.
    """
    evaluator = AccessEvaluator(snapshot)
    if about == "role":
        decision = judge_roles(snapshot, peer, [name], evaluator=evaluator)
        request = AccessRequest(ROLE, name)
    else:
        decision = judge_bundles(evaluator, snapshot, peer, [name])
        request = AccessRequest("bundle", name)
    shown = safe(to_text(name)) or "(empty)"
    answer = explain(snapshot, peer, request)
    if answer.decision.reason != decision.reason:
        # What is run takes none, whatever the rules say.
        answer = _plain(decision)
    return Part(about, shown, answer, told)


def _plain(decision: Decision) -> Explanation:
    return Explanation(decision, (), ())
