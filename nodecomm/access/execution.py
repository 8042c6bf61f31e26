# SPDX-License-Identifier: MIT
"""
Who may have a command run (EXEC): what is run, and the decisions about it, each of
which can be asked for alone. A server asks for one after another, as the request comes
in; `nodecomm access explain --exec` asks for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen

from nodecomm.access import decision as reasons
from nodecomm.access.decision import Decision
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.requests import ROLE, AccessRequest
from nodecomm.config.execution import Command, RunSettings
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.config.errors import Origin
    from nodecomm.identity.peer import Peer
    from nodecomm.interfaces import IAccessEvaluator

__all__ = [
    "FORCE_INVENTORY",
    "Execution",
    "judge_bundles",
    "judge_command",
    "judge_roles",
    "judge_user",
]


#: The class that has an agent send an inventory of its node.
#: Source: Rudder's system policies.
FORCE_INVENTORY = b"force_inventory"


@frozen
class Execution:
    """
    What is run when a peer asks for a run.

    Attributes:
        command: A program with its arguments, or a text for `/bin/sh -c`.
        program: The absolute path of its program, which path rules must admit a peer
            to; None where no program is run: the node's own sync, done by the service
            itself.
        user: As whom; None: as the service.
        is_sync: Whether it is the node's own sync, which takes no classes and no
            bundles, but `force_inventory` where it is done by the service itself.
        settings: How many at a time, how long, how much output.
        origin: Where `cfruncommand` stands.
    """

    command: Command
    program: bytes | None = None
    user: str | None = None
    is_sync: bool = False
    settings: RunSettings = field(factory=RunSettings)
    origin: Origin | None = None

    @property
    def place(self) -> str:
        """
        `FILE:LINE` of `cfruncommand`, or the name of the key.
        """
        if self.origin is not None and self.origin.line:
            return f"{self.origin.file}:{self.origin.line}"
        return "cfruncommand"


def judge_command(snapshot: Snapshot) -> Decision:
    """
    Whether anything is run for anybody. Whether the peer is admitted to the program is
    decided on the resolved path, as an `exec` request of its own.
    """
    execution = snapshot.execution
    if execution is None:
        return Decision(
            False,
            reasons.NO_COMMAND,
            "cfruncommand is not set",
            list_name="cfruncommand",
        )
    return Decision(
        True,
        reasons.ADMITTED,
        f"there is a command ({safe(execution.place)})",
        list_name="cfruncommand",
    )


def judge_user(snapshot: Snapshot, peer: Peer) -> Decision:
    """
    Whether the peer's user may ask for a run. Names are compared exactly.
    """
    user = safe(peer.user) or "(no name)"
    origin = snapshot.users_origin
    place = ""
    if origin is not None and origin.line:
        place = safe(f" ({origin.file}:{origin.line})")
    if peer.user in snapshot.allowusers:
        return Decision(
            True,
            reasons.ADMITTED,
            f"allowusers{place} names user {user}",
            list_name="allowusers",
            entry=peer.user,
        )
    return Decision(
        False,
        reasons.NOT_ALLOW_USERS,
        f"allowusers{place} does not name user {user}",
        list_name="allowusers",
    )


def judge_roles(
    snapshot: Snapshot,
    peer: Peer,
    defined: Sequence[bytes],
    *,
    evaluator: IAccessEvaluator | None = None,
) -> Decision:
    """
    Whether a run for the peer may be given these classes (`-D`).

    Returns:
        The first decision that is not to allow; else one that allows all.
    """
    return _judge_all(ROLE, "class", snapshot, peer, defined, evaluator)


def judge_bundles(
    evaluator: IAccessEvaluator,
    snapshot: Snapshot,
    peer: Peer,
    bundles: Sequence[bytes],
) -> Decision:
    """
    Whether a run for the peer may be of these bundles (`-b`). Of the rules about one
    all are asked: any of them may deny, and one must admit.

    Returns:
        The first decision that is not to allow; else one that allows all.
    """
    return _judge_all("bundle", "bundle", snapshot, peer, bundles, evaluator)


def _judge_all(
    operation: str,
    word: str,
    snapshot: Snapshot,
    peer: Peer,
    names: Sequence[bytes],
    evaluator: IAccessEvaluator | None,
) -> Decision:
    execution = snapshot.execution
    if names and execution is not None and execution.is_sync:
        if (
            operation == ROLE
            and execution.program is None
            and set(names) == {FORCE_INVENTORY}
        ):
            # Whoever may have a run may have the agent tell its own server of itself.
            text = "the agent's own sync takes this class: it sends an inventory, too"
            return Decision(True, reasons.ADMITTED, text)
        shown = safe(to_text(b", ".join(names)[:200]))
        text = f"the node's own sync takes none, neither classes nor bundles: {shown}"
        return Decision(False, reasons.TAKES_NONE, text)
    asked = AccessEvaluator(snapshot) if evaluator is None else evaluator
    decision = Decision(True, reasons.ADMITTED, f"no {word} is asked for")
    for name in names:
        decision = asked.evaluate(snapshot, peer, AccessRequest(operation, name))
        if not decision.allowed:
            return decision
    return decision
