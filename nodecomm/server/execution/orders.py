# SPDX-License-Identifier: MIT
# ruff: noqa: N805 - methods of an interface have no self.
"""
What the command EXEC and whoever runs programs say to each other.

The command decides who may have what, and speaks to the peer; the runner knows
programs, and neither peers nor frames. Everything here happens in the reactor's
thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from attrs import field, frozen
from zope.interface import Interface

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.defer import Deferred

    from nodecomm.access.execution import Execution
    from nodecomm.identity.peer import Peer
    from nodecomm.wire.run_output import Printed

__all__ = ["IRunner", "RunOrder", "RunOutcome", "RunSink", "Ticket"]


@frozen(eq=False)
class RunOrder:
    """
    A run that a peer may have: all has been decided already. For one that waits it is
    decided again when it is its turn.

    Attributes:
        defined: Classes to define, each of `A-Za-z0-9_:`, or empty.
        bundles: Bundles to run, likewise.
        selected: The class expressions of which one matched, for the record.
        peer: Who asks.
        execution: What there is to run, of the snapshot that the request began with.
        words: What is added to the command, word by word: `-D` or `--bundlesequence`,
            each with its list as the peer wrote it, in its order, as often as it came.
        withdrawn: Asked when it is this one's turn: why the peer may not have the run
            any more, by the rules that are in force then; empty: it may.
    """

    defined: tuple[bytes, ...]
    bundles: tuple[bytes, ...]
    selected: tuple[bytes, ...]
    peer: Peer
    execution: Execution
    words: tuple[bytes, ...] = ()
    withdrawn: Callable[[], str] = field(default=lambda: "", repr=False)


@frozen
class RunOutcome:
    """
    How a run ended.

    Attributes:
        exit_code: What the peer is told as the exit code; None: it is told none.
        signal: The signal that ended the program; None: none did.
        seconds: How long it took, from its own beginning.
        why: What ended it before its time: `timeout`, `stopped` (the service stops),
            `left` (nobody listens), `failed: ...` (it could not be begun, in words
            for the operator); empty: it ended by itself.
    """

    exit_code: int | None
    signal: int | None = None
    seconds: float = 0.0
    why: str = ""


class RunSink(Protocol):
    """
    Who listens to a run. The calls come in this order, some of them perhaps already
    before `IRunner.ask` has returned; none after `Ticket.leave`.

    1. `notice`, any number of times: the run must wait;
    2. either `refused`, which is the last call, or `begun`, once;
    3. `output` and `notice`, any number of times;
    4. `ended`, the last call.
    """

    def begun(self, command: bytes) -> None:
        """
        The run begins, or one that is under way was joined.

        Args:
            command: The command with all its arguments, as the peer is told.
        """
        ...

    def output(self, printed: Printed) -> None:
        """
        The program has printed these lines; not more than 70,000 bytes. All who listen
        are given the same object.
        """
        ...

    def notice(self, text: str) -> None:
        """
        The peer is to know *text*, one line without an end: that the run waits for
        its turn, was joined or cut short, that output was dropped.
        """
        ...

    def ended(self, outcome: RunOutcome) -> None:
        """
        The program has ended, and all of its output was given.
        """
        ...

    def refused(self, text: str) -> None:
        """
        There will be no run: *text* says why, to the peer.
        """
        ...


class Ticket(Protocol):
    """
    One listener's hold on a run. Each call may come at any time, also when the run
    has ended, and then does nothing.
    """

    def pause(self) -> None:
        """
        No `output` for now, or none after what is on its way: one call more at most.
        """
        ...

    def resume(self) -> None:
        """
        Output again.
        """
        ...

    def leave(self) -> None:
        """
        The listener has gone; a run that nobody listens to any more is ended.
        """
        ...


class IRunner(Interface):
    """
    Runs what peers may have run. All methods but `stop` are synchronous.
    """

    def selects(patterns: Sequence[bytes]) -> bool:
        """
        Whether one of *patterns*, anchored expressions on class names, matches a
        class of this node. What is no usable expression matches nothing. Never
        raises, and takes no longer for any patterns.
        """

    def ask(order: RunOrder, sink: RunSink) -> Ticket:
        """
        Have *order* run, now or when it is its turn, and tell *sink*.
        """

    def stop(grace: float | None = None) -> Deferred[None]:
        """
        End all runs, and refuse further ones. Fires when no program is left.

        Args:
            grace: Seconds until they are killed, if that is less than `kill_after`.
        """

    def apply(settings: Any) -> None:
        """
        Take over changed settings, for runs that begin from now on.
        """
