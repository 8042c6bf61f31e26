# SPDX-License-Identifier: MIT
"""
In which order a relay sends what waits, and when it tries again.

There is a `Lane` for each box of the server above. What is new goes first, and one turn
in four is for what was tried before. A file that was not taken waits by itself, longer
each time, and the others go on. When two of them were not taken, and none between, it
is not they: the lane is closed for a while, longer each time, and then one file is
tried, not always the same; the first that is taken opens it again.

Files of one name go in the order in which they came, for above a later one takes the
place of an earlier one, and a document would meet another one's signature. After three
tries the other half of the same inventory may pass a file, and when others were taken
meanwhile, so that it is certain to be about this file, all of its name may.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator

from attrs import define, field

from nodecomm.inventory.model import Refusal
from nodecomm.inventory.outbox import Outgoing

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "Lane", "Turn", "growing_pause"]

#: Seconds before another try: at first, and at the most.
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 600.0

#: So much longer than it must be a pause may be, so that relays that have lost the same
#: server do not come back all at once.
_SPREAD = 0.25

#: Files of one name that came within so many seconds may be halves of one inventory: no
#: server waits longer for the other one.
_TOGETHER = 600.0

#: So many files that were not taken, and none between, close the lane.
_CLOSE = 2

#: A file that was not taken so often lets later ones of its name pass.
_STUCK = 3

#: Of so many files that are sent while new ones wait, one was tried before.
_TRIED_EACH = 4


def growing_pause(count: int, chance: Callable[[], float] = random.random) -> float:
    """
    Seconds before the next try, after so many before.

    Args:
        count: How many there were, besides the first.
        chance: A random number from 0 to 1.
    """
    longest = LONGEST_PAUSE / (1 + _SPREAD)
    pause = min(FIRST_PAUSE * 2.0 ** min(count, 30), longest)
    return pause * (1 + _SPREAD * chance())


@define(eq=False)
class Turn:
    """
    A file, and how it fared.

    Attributes:
        item: The file.
        tries: How often it was not taken.
        failures: How often, for certain because of this file.
        unclear: How often since any file was taken.
        not_before: When it is tried again.
        said: Why it was not taken, the last time.
        refusal: Why it is to be put aside; None if it is not.
        is_above: Whether the server above has it.
        is_gone: Whether it is no longer here.
    """

    item: Outgoing
    tries: int = 0
    failures: int = 0
    unclear: int = 0
    not_before: float = 0.0
    said: str = ""
    refusal: Refusal | None = None
    is_above: bool = False
    is_gone: bool = False
    _queued: bool = False
    _is_probe: bool = False

    def lets_pass(self, later: Turn) -> bool:
        """
        Whether a later one of its name may be sent before it.
        """
        if self.failures >= _STUCK:
            return True
        apart = abs(later.item.arrived - self.item.arrived)
        return (
            self.failures + self.unclear >= _STUCK
            and self.item.name.half is not later.item.name.half
            and apart <= _TOGETHER
        )


@define(eq=False)
class Lane:
    """
    What waits for one box.

    Args:
        at_once: Files that are sent at a time.
        pause: Seconds before the next try, by the number of tries before.
    """

    at_once: int = 4
    pause: Callable[[int], float] = growing_pause
    _chains: dict[str, list[Turn]] = field(factory=dict, init=False)
    _fresh: deque[Turn] = field(factory=deque, init=False)
    _tried: list[tuple[float, str, Turn]] = field(factory=list, init=False)
    _sending: set[Turn] = field(factory=set, init=False)
    _unclear: set[Turn] = field(factory=set, init=False)
    _taken: int = field(default=0, init=False)
    _closings: int = field(default=0, init=False)
    _closed_until: float = field(default=0.0, init=False)
    #: When a file that was never tried may be the one that is tried next.
    _fresh_from: float = field(default=0.0, init=False)

    @property
    def is_closed(self) -> bool:
        """
        Whether one file at a time is tried, after a pause.
        """
        return self._closings > 0

    @property
    def closed_until(self) -> float:
        """
        When that will be.
        """
        return self._closed_until

    def __iter__(self) -> Iterator[Turn]:
        for chain in list(self._chains.values()):
            yield from list(chain)

    def __len__(self) -> int:
        return sum(map(len, self._chains.values()))

    def is_sending(self, turn: Turn) -> bool:
        """
        Whether it is being sent.
        """
        return turn in self._sending

    def add(self, turn: Turn) -> None:
        """
        Let a file wait behind the others.
        """
        chain = self._chains.setdefault(turn.item.name.pair, [])
        chain.append(turn)
        self._release(chain)

    def take(self, now: float) -> Turn | None:
        """
        What is to be sent now; None if there is nothing.
        """
        if len(self._sending) >= (1 if self.is_closed else self.at_once):
            return None
        while True:
            at = self.next_at()
            if at is None or at > now:
                return None
            turn = self._choose(now)
            if turn is None:
                return None
            turn._queued = False
            if not self._is_blocked(turn):
                break
        turn._is_probe = self.is_closed
        self._taken += 1
        self._sending.add(turn)
        return turn

    def next_at(self) -> float | None:
        """
        When something can be sent, if nothing changes until then; None: never.
        """
        self._drop_gone()
        if self._fresh:
            at = 0.0
        elif self._tried:
            at = self._tried[0][0]
        else:
            return None
        if not self.is_closed:
            return at
        if self._fresh:
            return min(self._closed_until, self._fresh_from)
        return max(self._closed_until, at)

    def leave(self, turn: Turn) -> None:
        """
        It is no longer here.
        """
        self._sending.discard(turn)
        self._unclear.discard(turn)
        turn.is_gone = True
        name = turn.item.name.pair
        chain = self._chains.get(name)
        if chain is None or turn not in chain:
            return
        chain.remove(turn)
        if chain:
            self._release(chain)
        else:
            del self._chains[name]

    def answered(self) -> None:
        """
        The server above has taken a file, or says that it never will: it is there.
        """
        for turn in self._unclear:
            if not self.is_closed:
                # Of several the first ones may have been about the server.
                turn.failures += 1
            turn.unclear = 0
        self._unclear.clear()
        self._closings = 0

    def reopen(self) -> None:
        """
        Something has changed, so that all may fare better now: nothing waits longer.
        """
        for turn in self:
            turn.not_before = 0.0
            turn.unclear = 0
        self._tried = [(0.0, serial, turn) for _, serial, turn in self._tried]
        heapq.heapify(self._tried)
        self._unclear.clear()
        self._closings = 0

    def passed_by(self, turn: Turn) -> list[Turn]:
        """
        The earlier ones of exactly its name: the server above has a later one now.
        """
        chain = self._chains.get(turn.item.name.pair, [])
        return [
            each
            for each in chain
            if each.item.serial < turn.item.serial
            and each.item.name == turn.item.name
            and each not in self._sending
        ]

    def wait(self, turn: Turn, now: float) -> None:
        """
        Something here was in the way, not above: it is tried again.
        """
        self._sending.discard(turn)
        turn.tries += 1
        self._requeue(turn, now + self.pause(turn.tries - 1))

    def failed(
        self,
        turn: Turn,
        now: float,
        *,
        at_once: bool = False,
        fresh_may: bool = False,
        at_least: float = 0.0,
    ) -> bool:
        """
        A file was not taken.

        Args:
            turn: It.
            now: The time.
            at_once: Whether that is for certain not because of this file.
            fresh_may: Whether it may well be because of this file, so that another one,
                which was never tried, need not wait for long.
            at_least: Seconds that the server above asks for.

        Returns:
            Whether the lane was closed by that, or is closed for longer.
        """
        self._sending.discard(turn)
        turn.tries += 1
        turn.unclear += 1
        self._unclear.add(turn)
        was_open = not turn._is_probe
        # A lane that is closed waits for it; what was tried longer ago goes before.
        again = now
        if was_open:
            count = turn.failures + turn.unclear
            again += max(self.pause(count - 1), at_least)
        self._requeue(turn, again)
        if self.is_closed and was_open:
            # It was under way when the lane was closed.
            return False
        if not (at_once or self.is_closed or len(self._unclear) >= _CLOSE):
            return False
        pause = max(self.pause(self._closings), at_least)
        self._closings += 1
        self._closed_until = now + pause
        soon = FIRST_PAUSE if fresh_may else pause
        self._fresh_from = now + max(soon, at_least)
        return True

    # What holds it together

    def _release(self, chain: list[Turn]) -> None:
        for place, turn in enumerate(chain):
            before = chain[:place]
            if not all(each.lets_pass(turn) for each in before):
                # Who stands behind is hardly ever let pass, and comes here again.
                if place >= 2:
                    return
                continue
            if not turn._queued and turn not in self._sending:
                self._queue(turn)

    def _is_blocked(self, turn: Turn) -> bool:
        for each in self._chains[turn.item.name.pair]:
            if each is turn:
                return False
            if each in self._sending or not each.lets_pass(turn):
                return True
        return False

    def _queue(self, turn: Turn) -> None:
        turn._queued = True
        if turn.tries:
            heapq.heappush(self._tried, (turn.not_before, turn.item.serial, turn))
        else:
            self._fresh.append(turn)

    def _requeue(self, turn: Turn, not_before: float) -> None:
        turn.not_before = not_before
        self._queue(turn)
        self._release(self._chains[turn.item.name.pair])

    def _choose(self, now: float) -> Turn | None:
        due = bool(self._tried) and self._tried[0][0] <= now
        is_olds_turn = self._taken % _TRIED_EACH == _TRIED_EACH - 1
        if self._fresh and (self.is_closed or not (due and is_olds_turn)):
            return self._fresh.popleft()
        return heapq.heappop(self._tried)[2] if due else None

    def _drop_gone(self) -> None:
        while self._fresh and self._fresh[0].is_gone:
            self._fresh.popleft()
        while self._tried and self._tried[0][2].is_gone:
            heapq.heappop(self._tried)
