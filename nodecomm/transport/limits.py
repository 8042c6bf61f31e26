# SPDX-License-Identifier: MIT
"""
Limits that protect those who are already connected.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime

    _Begin = Callable[["HandshakeTicket"], None]


T = TypeVar("T")


class _Turns(Generic[T]):
    """
    A queue in which each asker has his turn, however many others of one asker are
    before him; those of one asker go in order of arrival.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[str, OrderedDict[HandshakeTicket, T]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, ticket: HandshakeTicket, item: T) -> None:
        """
        Put at the end of its asker's; a ticket is there once.
        """
        mine = self._of.setdefault(ticket.asker, OrderedDict())
        self._size += ticket not in mine
        mine[ticket] = item

    def discard(self, ticket: HandshakeTicket) -> bool:
        """
        Take out; whether it was there.
        """
        mine = self._of.get(ticket.asker)
        if mine is None or ticket not in mine:
            return False
        del mine[ticket]
        self._size -= 1
        if not mine:
            del self._of[ticket.asker]
        return True

    def take(self) -> tuple[HandshakeTicket, T]:
        """
        Take the first one of the asker whose turn it is.
        """
        asker, mine = next(iter(self._of.items()))
        ticket, item = mine.popitem(last=False)
        self._size -= 1
        if mine:
            self._of.move_to_end(asker)
        else:
            del self._of[asker]
        return ticket, item


class HandshakeTicket:
    """
    One connection's place at the `HandshakeGate`.
    """

    __slots__ = ("_gate", "_placed", "asker")

    def __init__(self, gate: HandshakeGate, asker: str = "") -> None:
        self._gate: HandshakeGate | None = gate
        self.asker = asker
        self._placed = False

    def step(self, advance: Callable[[], None]) -> bool:
        """
        Run *advance*, a part of the handshake that may cost a private key operation,
        now or in a later turn of the reactor. True when it has run.
        """
        if self._gate is None:
            return False
        return self._gate._step(self, advance)

    def rest(self) -> None:
        """
        The handshake waits for its peer: others may have the place. Its next steps
        are taken in turn all the same. Otherwise as many peers as there are places,
        each with half a hello, would shut everybody else out.
        """
        if self._gate is not None:
            self._gate._give_up(self)

    def leave(self) -> None:
        """
        Give up the place, whatever came of the handshake. Again: nothing happens.
        """
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._leave(self)


class HandshakeGate:
    """
    Lets at most *at_once* handshakes be worked on, and at most one of their steps
    run in each turn of the reactor, so that a wave of new nodes (each costs about a
    millisecond) delays those who are being served by one step, not by all of them.
    The others wait in order of arrival, or where it is said who asks, one of each in
    turn; their ClientHello stays unread in the kernel. A handshake that waits for its
    peer has no place.

    Attributes:
        at_once: The limit; at least 1.
        in_progress: Handshakes that have a place now.
        admitted: How many have been given a place so far.
        delayed: How many of those had to wait for it.
        most_waiting: The longest the queue has been.
    """

    def __init__(self, reactor: IReactorTime, at_once: int) -> None:
        if at_once < 1:
            raise ValueError(f"handshakes at once must be at least 1, not {at_once}")
        self._reactor = reactor
        self.at_once = at_once
        self.in_progress = 0
        self.admitted = 0
        self.delayed = 0
        self.most_waiting = 0
        self._waiting: _Turns[_Begin] = _Turns()
        self._steps: _Turns[Callable[[], None]] = _Turns()
        self._stepped = False

    @property
    def waiting(self) -> int:
        """
        Connections that wait for a place.
        """
        return len(self._waiting)

    def enter(self, begin: _Begin, asker: str = "") -> HandshakeTicket:
        """
        Ask for a place. *begin* is called with the ticket when there is one: before
        this returns if there is one now.

        Args:
            begin: Begins the handshake.
            asker: Whose it is, if askers are to have turns.
        """
        ticket = HandshakeTicket(self, asker)
        if self.in_progress < self.at_once and not self._waiting:
            self._admit(ticket, begin)
        else:
            self._waiting.add(ticket, begin)
            self.delayed += 1
            self.most_waiting = max(self.most_waiting, len(self._waiting))
        return ticket

    def _admit(self, ticket: HandshakeTicket, begin: _Begin) -> None:
        ticket._placed = True
        self.in_progress += 1
        self.admitted += 1
        begin(ticket)

    def _leave(self, ticket: HandshakeTicket) -> None:
        self._steps.discard(ticket)
        if not self._waiting.discard(ticket):
            self._give_up(ticket)

    def _give_up(self, ticket: HandshakeTicket) -> None:
        if not ticket._placed:
            return
        ticket._placed = False
        self.in_progress -= 1
        while self._waiting and self.in_progress < self.at_once:
            self._admit(*self._waiting.take())

    def _step(self, ticket: HandshakeTicket, advance: Callable[[], None]) -> bool:
        if self._stepped:
            self._steps.add(ticket, advance)
            return False
        self._stepped = True
        # A call due now runs at the start of the next turn, and after it everything
        # that is readable or writable then is served.
        self._reactor.callLater(0, self._next_turn)
        advance()
        return True

    def _next_turn(self) -> None:
        while self._steps:
            ticket, advance = self._steps.take()
            if ticket._gate is not None:
                self._reactor.callLater(0, self._next_turn)
                advance()
                return
        self._stepped = False


def raise_descriptor_limit() -> tuple[int, int]:
    """
    Raise the soft limit of open descriptors to the hard one.

    Returns:
        The soft limit before and after. `(0, 0)` where there is no such limit.
    """
    try:
        import resource  # noqa: PLC0415
    except ImportError:
        return 0, 0
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before == hard:
        return before, before
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        # macOS reports no hard limit but accepts no more than a constant.
        return before, before
    return before, hard
