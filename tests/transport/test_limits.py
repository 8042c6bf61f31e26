# SPDX-License-Identifier: MIT
"""
The gate for handshakes, and the limit of descriptors.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.transport.limits import (
    HandshakeGate,
    HandshakeTicket,
    raise_descriptor_limit,
)


class Turns(Clock):
    """
    As a reactor, and unlike a Clock, runs a call made in a turn in the next turn.
    """

    def turn(self) -> None:
        due, self.calls = self.calls, []
        for call in due:
            call.func(*call.args, **call.kw)


class GateTests(SynchronousTestCase):
    """
    Who may go on with a handshake, and when.
    """

    def test_first_in_first_out(self) -> None:
        """Those beyond the limit begin in the order in which they came."""
        gate = HandshakeGate(Clock(), 2)
        begun: list[int] = []

        def begin(number: int) -> Callable[[HandshakeTicket], None]:
            return lambda _: begun.append(number)

        tickets = [gate.enter(begin(number)) for number in range(5)]
        self.assertEqual(begun, [0, 1])
        tickets[3].leave()
        tickets[1].leave()
        tickets[1].leave()
        tickets[0].leave()

        self.assertEqual(begun, [0, 1, 2, 4])
        self.assertEqual((gate.in_progress, gate.waiting), (2, 0))
        self.assertEqual((gate.admitted, gate.delayed, gate.most_waiting), (4, 3, 3))

    def test_askers_have_turns(self) -> None:
        """
        However many one asker has before him, another waits for one of each only, for
        a place and for a step.
        """
        clock = Clock()
        gate = HandshakeGate(clock, 1)
        begun: list[str] = []
        gate.enter(lambda ticket: None, "a").leave()
        first = gate.enter(lambda ticket: None, "a")
        waiting = [
            gate.enter(lambda _, name=f"{asker}{n}": begun.append(name), asker)  # type: ignore[misc]
            for n, asker in enumerate("aaabba")
        ]
        waiting[1].leave()
        self.assertEqual(gate.waiting, 5)
        for ticket in (first, *(waiting[n] for n in (0, 3, 2, 4))):
            ticket.leave()
        self.assertEqual(begun, ["a0", "b3", "a2", "b4", "a5"])

        stepped: list[str] = []
        tickets = [
            (name, HandshakeGate.enter(gate, lambda ticket: None, name[0]))
            for name in ("a1", "a2", "a3", "b1")
        ]
        for name, ticket in tickets:
            ticket.step(lambda name=name: stepped.append(name))  # type: ignore[misc]
        for _ in tickets:
            clock.advance(0)
        self.assertEqual(stepped, ["a1", "a2", "b1", "a3"])

    def test_one_step_a_turn(self) -> None:
        """The first step runs at once, each other one in a turn of its own."""
        turns = Turns()
        gate = HandshakeGate(turns, 8)
        done: list[int] = []
        tickets = [gate.enter(lambda _: None) for _ in range(4)]
        ran = [t.step(partial(done.append, n)) for n, t in enumerate(tickets)]
        self.assertEqual((ran, done), ([True, False, False, False], [0]))
        tickets[2].leave()
        for expected in ([0, 1], [0, 1, 3], [0, 1, 3]):
            turns.turn()
            self.assertEqual(done, expected)
        tickets[1].step(lambda: done.append(9))

        self.assertEqual(done, [0, 1, 3, 9])

    def test_waiting_for_the_peer_needs_no_place(self) -> None:
        """Handshakes that wait for their peers shut nobody out, and go on later."""
        gate = HandshakeGate(Clock(), 1)
        begun: list[int] = []
        tickets = [gate.enter(lambda _, n=n: begun.append(n)) for n in range(3)]  # type: ignore[misc]
        self.assertEqual(begun, [0])

        tickets[0].rest()
        tickets[0].rest()
        self.assertEqual((begun, gate.in_progress), ([0, 1], 1))
        tickets[1].rest()
        self.assertEqual((begun, gate.in_progress), ([0, 1, 2], 1))

        self.assertTrue(tickets[0].step(lambda: begun.append(9)))
        for ticket in tickets:
            ticket.leave()
        self.assertEqual((begun[-1], gate.in_progress, gate.waiting), (9, 0, 0))

    def test_step_after_leaving(self) -> None:
        """Who has left takes no step."""
        gate = HandshakeGate(Clock(), 1)
        ticket = gate.enter(lambda _: None)
        ticket.leave()

        self.assertFalse(ticket.step(self.fail))

    def test_limit_must_be_positive(self) -> None:
        """A gate that lets nobody through is a mistake."""
        self.assertRaises(ValueError, HandshakeGate, Clock(), 0)

    @given(
        at_once=st.integers(1, 4),
        acts=st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=60),
    )
    @settings(max_examples=50, deadline=None)
    def test_never_more_than_the_limit(
        self, at_once: int, acts: list[tuple[bool, int]]
    ) -> None:
        """However they come and go, no more than the limit and nobody forgotten."""
        gate = HandshakeGate(Clock(), at_once)
        begun: list[HandshakeTicket] = []
        present: list[HandshakeTicket] = []
        for enter, which in acts:
            if enter:
                present.append(gate.enter(begun.append))
            elif present:
                present.pop(which % len(present)).leave()

            self.assertEqual(gate.in_progress, min(len(present), at_once))
            self.assertEqual(gate.waiting, max(0, len(present) - at_once))


class DescriptorLimitTests(SynchronousTestCase):
    """
    The soft limit of open descriptors.
    """

    def test_raised_to_the_hard_one(self) -> None:
        """Afterwards the soft limit is the hard one, and what it was is told."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        lower = min(soft, hard - 1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))

        self.assertEqual(raise_descriptor_limit(), (lower, hard))
        self.assertEqual(raise_descriptor_limit(), (hard, hard))
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE), (hard, hard))
