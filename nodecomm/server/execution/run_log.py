# SPDX-License-Identifier: MIT
"""
The facts about runs that peers ask for, each stated once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.logger import Logger

from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.server.execution.orders import RunOrder, RunOutcome

__all__ = ["RunLog"]

#: Names of classes or bundles that one event lists; a request can have thousands.
_MOST_NAMES = 100


@define(eq=False)
class RunLog:
    """
    Where the events about runs go.
    """

    log: Logger = field(factory=lambda: Logger("nodecomm.server"))

    def started(self, order: RunOrder, command: bytes, waited: float) -> None:
        """
        A run begins.

        Args:
            order: What was asked for.
            command: The command with all its arguments.
            waited: Seconds that it waited for its turn.
        """
        self.log.info(
            "a run for {log_user} from {peer} ({key}) begins: {command}",
            event="run.started",
            command=to_text(command),
            run_as=order.execution.user,
            waited=round(waited, 3),
            **_who(order),
            **_what(order),
        )

    def waits(self, order: RunOrder, before: int) -> None:
        """
        A run has to wait until others have ended.

        Args:
            order: What was asked for.
            before: How many runs come first.
        """
        self.log.info(
            "a run for {log_user} from {peer} ({key}) waits; before it: {before}",
            event="run.waits",
            before=before,
            **_who(order),
            **_what(order),
        )

    def joined(self, order: RunOrder, first: RunOrder, begun: float | None) -> None:
        """
        A peer gets the output of a run that others have asked for.

        Args:
            order: What it asked for.
            first: What those asked for who are at the head of that run.
            begun: Seconds since its beginning; None: it waits for its turn.
        """
        self.log.info(
            "{log_user} from {peer} ({key}) joins the run for {log_first}",
            event="run.joined",
            log_first=f"{first.peer.user or '-'} from {first.peer.address}",
            begun=None if begun is None else round(begun, 3),
            **_who(order),
            **_what(order),
        )

    def refused(self, order: RunOrder, reason: str, text: str) -> None:
        """
        There will be no run for a peer that may have one.

        Args:
            order: What it asked for.
            reason: A stable word: `busy`, `too_many_waiting`, `stopping`, `withdrawn`.
            text: What it was told; for `withdrawn`, why it may not have it any more.
        """
        self.log.warn(
            "no run for {log_user} from {peer} ({key}): {text}",
            event="run.refused",
            reason=reason,
            text=text,
            **_who(order),
            **_what(order),
        )

    def ended(
        self, order: RunOrder, outcome: RunOutcome, waited: float, **counts: Any
    ) -> None:
        """
        A run has ended, or will never begin.

        Args:
            order: What was asked for.
            outcome: What came of it.
            waited: Seconds that it waited for its turn.
            counts: lines, bytes, cut, joined.
        """
        say = self.log.warn if outcome.why else self.log.info
        say(
            "the run for {log_user} from {peer} ({key}) ended after {seconds} s:"
            " {log_outcome}",
            event="run.ended",
            log_outcome=_outcome_text(outcome),
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            seconds=round(outcome.seconds, 3),
            waited=round(waited, 3),
            why=outcome.why,
            **counts,
            **_who(order),
            **_what(order),
        )


#: What `RunOutcome.why` is in a sentence.
_WHY = {
    "timeout": "it took longer than the timeout of [run]",
    "stopped": "the service stops",
    "left": "nobody listened to it any more",
}


def _outcome_text(outcome: RunOutcome) -> str:
    why = _WHY.get(outcome.why, outcome.why.removeprefix("failed: "))
    if outcome.why.startswith("failed: "):
        return why
    said = []
    if outcome.exit_code is not None:
        said.append(f"exit code {outcome.exit_code}")
    elif outcome.signal is not None:
        said.append(f"ended by signal {outcome.signal}")
    if why:
        said.append(why)
    return ", ".join(said) or "no exit code"


def _who(order: RunOrder) -> dict[str, Any]:
    peer = order.peer
    return {
        "peer": peer.address,
        "port": peer.port,
        "key": peer.digest,
        "user": peer.user,
        "hostname": peer.hostname,
        # For the message alone.
        "log_user": peer.user or "-",
    }


def _what(order: RunOrder) -> dict[str, Any]:
    return {
        "classes": _names(order.defined),
        "bundles": _names(order.bundles),
        "selected": _names(order.selected),
    }


def _names(names: tuple[bytes, ...]) -> list[str]:
    return [to_text(name) for name in names[:_MOST_NAMES]]
