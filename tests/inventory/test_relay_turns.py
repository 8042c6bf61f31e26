# SPDX-License-Identifier: MIT
"""
The order in which a relay sends, and its pauses.
"""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodecomm.inventory.names import read_name
from nodecomm.inventory.outbox import Outgoing
from nodecomm.inventory.pairs import Sender
from nodecomm.inventory.relay_turns import Lane, Turn, growing_pause

WHEN = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)

#: Pauses without chance.
PAUSES = [10, 20, 40, 80, 160, 320, 480, 480]


def pause(count: int) -> float:
    """The pauses of these tests."""
    return PAUSES[min(count, 7)]


class Sending:
    """A lane with files by name, and a clock."""

    def __init__(self, *names: str, at_once: int = 4) -> None:
        self.lane = Lane(at_once, pause)
        self.now = 0.0
        self.turns: list[Turn] = []
        self.add(*names)

    def add(self, *names: str) -> None:
        """Let files come."""
        for name in names:
            serial = f"{len(self.turns):020d}"
            item = Outgoing(serial, "", read_name(name), Sender(), self.now, WHEN)
            self.turns.append(Turn(item))
            self.lane.add(self.turns[-1])

    def take(self) -> list[Turn]:
        """All that may be sent now."""
        found = []
        while (turn := self.lane.take(self.now)) is not None:
            found.append(turn)
        return found

    def names(self) -> list[str]:
        """What they are called."""
        return [turn.item.name.text for turn in self.take()]

    def taken(self, *turns: Turn) -> None:
        """The server above has these."""
        for turn in turns:
            self.lane.answered()
            self.lane.leave(turn)

    def wait(self) -> float:
        """Let time pass until something can be sent."""
        at = self.lane.next_at()
        assert at is not None
        passed = at - self.now
        self.now = max(at, self.now)
        return passed


@pytest.mark.parametrize(
    ("count", "least", "most"),
    [(0, 10, 12.5), (1, 20, 25), (2, 40, 50), (5, 320, 400), (6, 480, 600)],
)
def test_pauses_grow(count: int, least: float, most: float) -> None:
    """Pauses double from ten seconds to ten minutes, each a little by chance."""
    assert growing_pause(count, lambda: 0.0) == least
    assert growing_pause(count, lambda: 1.0) == most
    assert least <= growing_pause(count) <= most


def test_longest_pause() -> None:
    """However often it was tried, the pause is ten minutes at the most."""
    assert growing_pause(10_000, lambda: 1.0) == 600


def test_in_order() -> None:
    """Files go in the order in which they came, so many at a time."""
    sending = Sending("a.ocs", "b.ocs", "c.ocs", at_once=2)

    first, second = sending.take()
    assert [first, second] == sending.turns[:2]
    sending.taken(first)
    assert sending.names() == ["c.ocs"]
    assert sending.lane.next_at() is None


def test_one_name_one_after_the_other() -> None:
    """Files of one name, documents and signatures alike, do not overtake each other."""
    sending = Sending("a.ocs.sign", "a.ocs", "b.ocs", "a.ocs.gz")

    a, b = sending.take()
    assert [a, b] == [sending.turns[0], sending.turns[2]]
    sending.taken(b)
    assert sending.take() == []
    sending.taken(a)
    (document,) = sending.take()
    assert document is sending.turns[1]
    sending.taken(document)
    assert sending.names() == ["a.ocs.gz"]


def test_one_bad_file_stops_no_other() -> None:
    """A file that is not taken waits, longer each time, and the others go on."""
    sending = Sending("bad.ocs")
    waited = []
    for count in range(5):
        (bad,) = sending.take()
        assert not sending.lane.failed(bad, sending.now)
        sending.add(f"good-{count}.ocs")
        (good,) = sending.take()
        sending.taken(good)
        assert sending.take() == []
        waited.append(sending.wait())

    assert waited == [10, 20, 40, 80, 160]


def test_a_bad_half_does_not_hold_up_the_other_for_ever() -> None:
    """After three tries the other files of its name go first."""
    sending = Sending("a.ocs", "a.ocs.sign")
    tries = 0
    while True:
        (turn,) = sending.take()
        if turn is sending.turns[1]:
            break
        sending.lane.failed(turn, sending.now)
        tries += 1
        sending.wait()

    assert tries == 3
    assert sending.now <= 70


def test_a_server_that_is_away() -> None:
    """
    When none is taken, one file at a time is tried, with pauses that grow, and never
    the same one while there are others; when one is taken all of them go.
    """
    names = [f"{count}.ocs" for count in range(100)]
    sending = Sending(*names)
    tried = sending.take()
    assert len(tried) == 4
    closings = [sending.lane.failed(turn, sending.now) for turn in tried]
    assert closings == [False, True, False, False]

    waited = []
    for _ in range(6):
        assert sending.take() == []
        waited.append(sending.wait())
        (turn,) = sending.take()
        tried.append(turn)
        assert sending.lane.failed(turn, sending.now)
    assert waited == [10, 20, 40, 80, 160, 320]
    assert len(set(tried)) == 10
    sending.wait()
    (turn,) = sending.take()
    sending.taken(turn)

    gone = 1
    while turns := sending.take():
        gone += len(turns)
        sending.taken(*turns)
    assert gone == 100
    assert len(sending.lane) == 0


def test_a_single_file() -> None:
    """
    The pauses of a single file grow from ten seconds to ten minutes; one that comes
    meanwhile need not wait for it.
    """
    sending = Sending("a.ocs")
    waited = []
    for _ in range(9):
        (turn,) = sending.take()
        sending.lane.failed(turn, sending.now)
        waited.append(sending.wait())
        sending.now -= 1
        assert sending.take() == []
        sending.now += 1

    assert waited == [10, 20, 40, 80, 160, 320, 480, 480, 480]
    assert not sending.lane.is_closed
    sending.now -= 1
    sending.add("new.ocs")
    assert sending.names() == ["new.ocs"]


def test_certain_at_once() -> None:
    """What is certainly not because of the file holds all of them up at once."""
    sending = Sending("a.ocs", "b.ocs", at_once=1)
    (turn,) = sending.take()
    assert sending.lane.failed(turn, 0, at_once=True, at_least=77)

    assert sending.take() == []
    assert sending.wait() == 77
    assert sending.names() == ["b.ocs"]


def test_new_files_do_not_starve() -> None:
    """
    Where it is the files that are not taken, one that was never tried does not wait
    as long as they do.
    """
    sending = Sending("a.ocs", "b.ocs")
    for _ in range(8):
        for turn in sending.take():
            sending.lane.failed(turn, sending.now, fresh_may=True)
        sending.wait()
    for turn in sending.take():
        sending.lane.failed(turn, sending.now, fresh_may=True)
    sending.add("new.ocs")

    assert sending.take() == []
    assert sending.wait() == 10
    (new,) = sending.take()
    assert new is sending.turns[-1]
    sending.taken(new)
    assert not sending.lane.is_closed


def test_old_files_do_not_starve() -> None:
    """While new files come all the time, one in four is one that was tried before."""
    sending = Sending("old.ocs", at_once=1)
    (old,) = sending.take()
    sending.lane.failed(old, sending.now)
    sending.now = 10
    sending.add(*(f"{count}.ocs" for count in range(10)))

    for _ in range(4):
        (turn,) = sending.take()
        if turn is old:
            return
        sending.taken(turn)
    pytest.fail("the old one had no turn")


@pytest.mark.parametrize("tried", range(1, 20))
def test_order_holds_when_the_server_comes_back(tried: int) -> None:
    """
    Two inventories of one name that were tried while the server was away, however
    often, go one after the other when it is back: no signature meets another one's
    document. The halves of one may go in either order.
    """
    sending = Sending("a.ocs", "a.ocs.sign")
    sending.now = 86400
    sending.add("a.ocs", "a.ocs.sign")
    for _ in range(tried):
        for turn in sending.take():
            sending.lane.failed(turn, sending.now)
        sending.wait()
    gone = []
    while len(sending.lane):
        turns = sending.take()
        if not turns:
            sending.wait()
        gone += [sending.turns.index(turn) for turn in turns]
        sending.taken(*turns)

    assert sorted(gone[:2]) == [0, 1]
    assert sorted(gone[2:]) == [2, 3]


@pytest.mark.parametrize(("apart", "passes"), [(600, True), (601, False)])
def test_halves_that_came_far_apart(apart: int, passes: bool) -> None:
    """Only a half that can be one of the same inventory passes before it is certain."""
    sending = Sending("a.ocs")
    for _ in range(3):
        (bad,) = sending.take()
        sending.lane.failed(bad, sending.now)
        sending.wait()
    sending.now = apart
    sending.add("a.ocs.sign")

    assert sending.turns[0].lets_pass(sending.turns[1]) is passes


def test_one_of_a_name_at_a_time() -> None:
    """A file that may be passed is not passed while it is being sent."""
    sending = Sending("a.ocs", "a.ocs")
    first, later = sending.turns
    first.failures = 3
    assert sending.take() == [first]
    sending.add("b.ocs", "a.ocs")
    assert sending.names() == ["b.ocs"]
    sending.lane.wait(first, sending.now)
    # The later one goes by, and the first one is due before that has ended.
    assert sending.take() == [later]
    sending.wait()
    assert sending.take() == [first]
    assert sending.lane.passed_by(later) == []


def test_certainly_bad() -> None:
    """
    A file that is not taken while others are is passed by all of its name, which it
    would keep here otherwise.
    """
    sending = Sending("a.ocs")
    for count in range(3):
        (bad,) = sending.take()
        sending.lane.failed(bad, sending.now)
        sending.add(f"good-{count}.ocs")
        sending.taken(*sending.take())
        sending.wait()
    sending.now = 86400
    sending.add("a.ocs")

    assert sending.turns[-1] in sending.take()


def test_passed_by() -> None:
    """What a later file of the same name has overtaken is told; other halves not."""
    sending = Sending("a.ocs", "a.ocs.sign", "a.ocs")
    first, signature, last = sending.turns
    first.failures = 3
    sending.lane.leave(signature)

    assert sending.lane.passed_by(last) == [first]
    assert sending.lane.passed_by(first) == []


def test_gone_meanwhile() -> None:
    """What somebody has removed is not sent, and what is behind it is."""
    sending = Sending("a.ocs", "a.ocs.sign", "b.ocs")
    sending.lane.leave(sending.turns[0])
    sending.lane.leave(sending.turns[2])
    sending.lane.leave(sending.turns[2])

    assert sending.names() == ["a.ocs.sign"]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["a.ocs", "a.ocs.sign", "b.ocs", "b.xml", "c.ocs.gz"]),
            st.sampled_from(["take", "fail", "fail at once", "done", "wait", "remove"]),
        ),
        max_size=60,
    )
)
def test_whatever_happens(events: list[str]) -> None:
    """
    Whatever comes, fails, goes or is removed, in whatever order: once the server above
    takes all, each file is sent exactly once.
    """
    sending = Sending()
    under_way: list[Turn] = []
    done: list[Turn] = []
    for event in events:
        if "." in event:
            sending.add(event)
        elif event == "take":
            under_way += sending.take()
        elif event == "wait" and sending.lane.next_at() is not None:
            sending.wait()
        elif event == "remove" and sending.turns:
            turn = sending.turns[len(done) % len(sending.turns)]
            if turn not in under_way and turn not in done:
                sending.lane.leave(turn)
                done.append(turn)
        elif under_way:
            turn = under_way.pop(0)
            if event == "done":
                sending.taken(turn)
                done.append(turn)
            elif event.startswith("fail"):
                sending.lane.failed(turn, sending.now, at_once="once" in event)
            else:
                under_way.append(turn)
    for turn in under_way:
        sending.taken(turn)
        done.append(turn)
    while len(sending.lane):
        turns = sending.take()
        if not turns:
            sending.now += 600
        sending.taken(*turns)
        done += turns

    assert len(done) == len(set(done))
    assert set(done) == set(sending.turns)
