# SPDX-License-Identifier: MIT
"""
A relay: what is put into it gets to the server above, byte for byte, or is put aside
with the reason.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from nodecomm.inventory.backlog import read_backlog
from nodecomm.inventory.failures import Failed, read_failed
from nodecomm.inventory.names import read_name
from nodecomm.inventory.outbox import Outbox
from nodecomm.inventory.pairs import Box, Sender
from nodecomm.inventory.relaying import Relaying
from nodecomm.inventory.resource import InventoryResource
from nodecomm.inventory.site import UploadSite
from nodecomm.inventory.upstream_errors import (
    Transient,
    UntrustedServer,
    failure_of,
)
from nodecomm.server.pools import InlinePool
from tests.inventory.web import NOW, PASSWORDS, RULES, Connection, basic, head
from tests.inventory.web import read_reply as reply_of

FROM = Sender(Box.UPDATE, "192.0.2.7")

DAY = 86400

#: Files of which a relay has many.
MANY = 10_000 if os.environ.get("NODECOMM_FULL") == "1" else 500

#: When tests begin, by the clock of the reactor.
START = NOW.timestamp()


@define(slots=False)
class Above:
    """
    The server above, as far as a relay sees it.

    Attributes:
        put_here: What it has: box, name and content, in order.
        tries: The names that were tried, and when.
        answer: What it says: None that it has the file, a status, or a failure.
    """

    clock: Clock
    put_here: list[tuple[Box, str, bytes]] = field(factory=list)
    tries: list[tuple[str, float]] = field(factory=list)
    asked: int = 0
    id: str | Exception = "root"
    answer: Callable[[str], Any] = field(default=lambda name: None)
    under_way: int = 0
    most: int = 0
    closed: int = 0

    def server_id(self) -> Deferred[str]:
        """Tell who this is."""
        self.asked += 1
        return succeed(self.id) if isinstance(self.id, str) else fail(self.id)

    def put(
        self, box: Box, name: str, content: str, *, via: Sequence[str]
    ) -> Deferred[None]:
        """Take a file, or not."""
        self.tries.append((name, self.clock.seconds()))
        data = Path(content).read_bytes()
        answer = self.answer(name)
        if isinstance(answer, int):
            answer = failure_of(answer, "")
        if isinstance(answer, Exception):
            return fail(answer)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        done: Deferred[None] = answer or succeed(None)

        def ended(result: Any) -> Any:
            self.under_way -= 1
            return result

        def stored(_: object) -> None:
            self.put_here.append((box, name, data))

        return done.addBoth(ended).addCallback(stored)

    def close(self) -> Deferred[None]:
        """Close what is kept open."""
        self.closed += 1
        return succeed(None)

    @property
    def names(self) -> list[str]:
        """The names of what it has."""
        return [name for _, name, _ in self.put_here]


class Relay:
    """A relay, its folder and its time."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.clock = Clock()
        self.clock.rightNow = START
        self.set_by = timedelta(0)
        self.above = Above(self.clock)
        self.options = options
        self.relaying = self._make()
        self.relaying.start()

    def _make(self) -> Relaying:
        outbox = Outbox(self.folder, seconds=self.seconds, now=self.now)
        return Relaying(
            outbox,
            self.above,
            reactor=self.clock,
            pool=InlinePool(),
            server_id="relay-1",
            address="https://root.example/",
            **self.options,
        )

    def seconds(self) -> float:
        """The clock for durations; it begins elsewhere than the reactor's."""
        return 5000 + self.clock.seconds() - START

    def now(self) -> datetime:
        """Civil time."""
        return NOW + timedelta(seconds=self.clock.seconds() - START) + self.set_by

    def store(self, name: str, data: bytes = b"<doc/>", sender: Sender = FROM) -> Any:
        """Store a file."""
        part = self.relaying.spool.begin()
        part.write(data)
        stored: list[Any] = []
        self.relaying.store(part, read_name(name), sender, only_new=False).addBoth(
            stored.append
        )
        (found,) = stored
        return found

    def killed(self) -> None:
        """End as if killed, and start again."""
        self.relaying._started = False
        self.relaying.spool._leave()
        for call in self.clock.getDelayedCalls():
            call.cancel()
        self.relaying = self._make()
        self.relaying.start()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        end = self.clock.seconds() + seconds
        while (left := end - self.clock.seconds()) > 0:
            ahead = [call.getTime() for call in self.clock.getDelayedCalls()]
            upto = min([end, *(each for each in ahead)]) - self.clock.seconds()
            self.clock.advance(min(left, max(upto, 0.001)))

    def failed(self) -> list[Failed]:
        """What was put aside."""
        return read_failed(self.folder)

    def waiting(self) -> int:
        """Files that wait on disk."""
        return len(list((self.folder / "outgoing").iterdir()))


@pytest.fixture
def relay(tmp_path: Path) -> Relay:
    """A relay."""
    return Relay(tmp_path)


def answering(*answers: tuple[str, Any]) -> Callable[[str], Any]:
    """What is said to files whose names begin with something; all others are taken."""

    def answer(name: str) -> Any:
        return next((said for start, said in answers if name.startswith(start)), None)

    return answer


def events(logs: Iterable[Any], *kinds: str) -> list[Any]:
    """The events of some kinds."""
    return [each for each in logs if each.get("event") in kinds]


def test_byte_for_byte(relay: Relay) -> None:
    """
    What is stored is sent at once: its bytes, its name, its box; what is compressed
    stays so, and what is no inventory at all is not looked at.
    """
    files = [
        (Box.FIRST, "a.ocs.gz", gzip.compress(b"<doc/>")),
        (Box.FIRST, "a.ocs.sign", b"header=\r\n"),
        (Box.UPDATE, "b:1+2.xml", bytes(range(256))),
        (Box.UPDATE, "b:1+2.xml.sign", b""),
    ]
    with capturedLogs() as logs:
        for box, name, data in files:
            relay.store(name, data, Sender(box, "192.0.2.9"))

    assert relay.above.put_here == files
    assert relay.waiting() == 0
    told = events(logs, "inventory.forwarded")
    assert [(each["name"], each["box"]) for each in told] == [
        (name, box.value) for box, name, _ in files
    ]


def test_kept_until_acknowledged(relay: Relay) -> None:
    """A file is there until the server above has said that it has it."""
    answer: Deferred[None] = Deferred()
    relay.above.answer = lambda name: answer
    relay.store("a.ocs")

    assert relay.waiting() == 1
    answer.callback(None)
    assert relay.waiting() == 0


def test_server_above_is_away(relay: Relay) -> None:
    """
    While nobody answers, everything waits, with few tries, and further apart each
    time; new files are taken all the same. When there is an answer all goes.
    """
    relay.above.answer = lambda name: Transient("no connection")
    with capturedLogs() as logs:
        for count in range(20):
            relay.store(f"{count}.ocs")
            relay.store(f"{count}.ocs.sign")
        relay.wait(3600)
        relay.store("late.ocs")
        tried = len(relay.above.tries)

    # One at first, one more to see whether it is the file, and then with pauses.
    assert 9 <= tried <= 14
    times = [at for _, at in relay.above.tries]
    pauses = [after - before for before, after in pairwise(times[1:])]
    assert pauses[:6] == sorted(pauses[:6])
    assert all(10 <= each <= 600 for each in pauses)
    assert relay.waiting() == 41
    told = events(logs, "upstream.away")
    assert len(told) == tried - 1
    assert told[-1]["waiting"] == 40
    assert told[-1]["oldest"] > 2000
    assert told[-1]["reason"] == "no connection"

    relay.above.answer = lambda name: None
    with capturedLogs() as logs:
        relay.wait(1200)
    assert sorted(relay.above.names) == sorted(set(relay.above.names))
    assert len(relay.above.names) == 41
    assert relay.waiting() == 0
    assert len(events(logs, "upstream.back")) == 1


@pytest.mark.parametrize("status", [None, 401, 403, 408, 425, 429, 500, 502, 503, 507])
def test_what_may_heal_is_kept(relay: Relay, status: int | None) -> None:
    """
    A password that is wrong, a disk that is full, a mistake above: the file waits for
    days, and is sent when that is over.
    """
    said = Transient("lost") if status is None else failure_of(status, "")
    relay.above.answer = lambda name: said
    relay.store("a.ocs")
    relay.wait(DAY / 4)

    assert 35 < len(relay.above.tries) < 50
    assert relay.failed() == []
    relay.above.answer = lambda name: None
    relay.wait(700)
    assert relay.above.put_here == [(Box.UPDATE, "a.ocs", b"<doc/>")]


@pytest.mark.parametrize("status", [400, 409, 411, 412, 413, 414, 415, 422])
def test_what_is_not_wanted_is_put_aside(relay: Relay, status: int) -> None:
    """
    What the server above does not want is tried once, and is in failed/ then, as it
    was sent, with what was answered; the others go on.
    """
    relay.above.answer = answering(("bad", status))
    with capturedLogs() as logs:
        relay.store("bad.ocs", b"large")
        relay.store("good.ocs")
        relay.wait(3600)

    assert [name for name, _ in relay.above.tries] == ["bad.ocs", "good.ocs"]
    (failed,) = relay.failed()
    assert failed.refusal.code == "upstream-refused"
    assert str(status) in failed.refusal.text
    assert failed.sender == FROM
    aside = relay.folder / "failed" / failed.serial / "bad.ocs"
    assert aside.read_bytes() == b"large"
    assert len(events(logs, "inventory.failed")) == 1


@pytest.mark.parametrize("said", [500, 503, 504, 401, Transient("cut off")])
def test_one_bad_file_stops_no_other(relay: Relay, said: Any) -> None:
    """One file that is never taken delays none of the others."""
    relay.above.answer = answering(("bad", said))
    relay.store("bad.ocs")
    for count in range(25):
        relay.store(f"{count}.ocs")
        assert relay.above.names[-1] == f"{count}.ocs"
        relay.wait(61 * count)

    assert relay.waiting() == 1


def test_many_bad_files(relay: Relay) -> None:
    """
    Many files that are never taken hold up new ones for seconds, not for the
    minutes that they wait themselves.
    """
    relay.above.answer = answering(("bad", 500))
    for count in range(50):
        relay.store(f"bad-{count}.ocs")
    relay.wait(3 * 3600)
    for count in range(10):
        relay.store(f"{count}.ocs")
        relay.wait(13)
        assert f"{count}.ocs" in relay.above.names
        relay.wait(287)

    assert relay.waiting() == 50


def test_bad_document_good_signature(relay: Relay) -> None:
    """One half that is never taken does not keep the other half here."""
    relay.above.answer = lambda name: 500 if name == "a.ocs" else None
    relay.store("a.ocs")
    relay.store("a.ocs.sign")
    relay.wait(120)

    assert relay.above.names == ["a.ocs.sign"]


def test_boxes_have_their_own_pauses(relay: Relay) -> None:
    """Where the password of one box is wrong, the other box goes on."""
    relay.above.answer = answering(("update", 401))
    for count in range(5):
        relay.store(f"update-{count}.ocs")
        relay.store(f"first-{count}.ocs", sender=Sender(Box.FIRST))

    assert relay.above.names == [f"first-{count}.ocs" for count in range(5)]
    assert len(relay.above.tries) == 7


def test_come_again_later(relay: Relay) -> None:
    """A server that says when to come again is not asked before, within reason."""
    said = failure_of(503, "", retry_after=300)
    relay.above.answer = lambda name: said
    relay.store("a.ocs")
    relay.wait(299)
    assert len(relay.above.tries) == 1
    relay.wait(2)
    assert len(relay.above.tries) == 2
    relay.above.answer = lambda name: failure_of(503, "", retry_after=1e9)
    relay.wait(301)
    relay.above.answer = lambda name: None
    relay.wait(601)
    assert relay.above.names == ["a.ocs"]


def test_how_it_went_is_noted(relay: Relay) -> None:
    """
    Beside what waits stands how often it was tried, why it was not taken, and when it
    is tried again, for commands that other processes run.
    """
    relay.above.answer = answering(("a", 500), ("b", UntrustedServer("who?", "key")))
    relay.store("a.ocs")
    (a,) = read_backlog(relay.folder)
    assert a.tried is not None
    assert (a.tried.tries, a.tried.when) == (1, relay.now())
    assert "answers 500" in a.tried.reason
    assert 10 <= (a.tried.again - relay.now()).total_seconds() <= 12.5

    relay.store("b.ocs")
    _, b = read_backlog(relay.folder)
    assert b.tried is not None
    assert b.tried.reason == "who?"
    (pause,) = {call.getTime() - START for call in relay.clock.getDelayedCalls()[:1]}
    assert 10 <= (b.tried.again - NOW).total_seconds() <= max(pause, 12.5)
    relay.above.answer = lambda name: None
    relay.wait(60)
    assert read_backlog(relay.folder) == []


def test_a_note_that_cannot_be_written(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing depends on it."""
    relay.above.answer = lambda name: 500

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nodecomm.inventory.outbox.write_tried", full)
        relay.store("a.ocs")
    relay.above.answer = lambda name: None
    relay.wait(13)

    assert relay.above.names == ["a.ocs"]


def test_another_key(relay: Relay) -> None:
    """A server with another key is not asked again for each file."""
    untrusted = UntrustedServer("another key", "key-changed", ["sha256//x"])
    relay.above.id = untrusted
    with capturedLogs() as logs:
        for count in range(10):
            relay.store(f"{count}.ocs")
        relay.wait(3600)

    assert relay.above.tries == []
    assert relay.above.asked < 14
    (told, *_) = events(logs, "upstream.away")
    assert told["reason"] == "another key"


def test_itself_above(relay: Relay) -> None:
    """A relay whose server above is itself sends nothing in circles, and says so."""
    relay.above.id = "relay-1"
    with capturedLogs() as logs:
        relay.store("a.ocs")
        relay.wait(3600)

    assert relay.above.tries == []
    assert relay.waiting() == 1
    assert "sends to itself" in events(logs, "upstream.away")[0]["reason"]
    relay.above.id = "root"
    relay.wait(600)
    assert relay.above.names == ["a.ocs"]


def test_a_server_without_an_id(relay: Relay) -> None:
    """A server above that does not say what its id is gets its files, too."""
    relay.above.id = failure_of(404, "")
    relay.store("a.ocs")
    relay.store("b.ocs")

    assert relay.above.names == ["a.ocs", "b.ocs"]
    assert relay.above.asked == 1


def test_asked_once(relay: Relay) -> None:
    """Who is above is asked once, however much waits for that."""
    asked: list[Deferred[str]] = []

    def ask() -> Deferred[str]:
        asked.append(Deferred())
        return asked[-1]

    relay.above.server_id = ask  # type: ignore[method-assign]
    for count in range(4):
        relay.store(f"{count}.ocs")
    assert len(asked) == 1
    asked[0].errback(Transient("no connection"))
    assert relay.above.tries == []
    relay.wait(13)
    asked[-1].callback("root")
    relay.wait(13)

    assert sorted(relay.above.names) == [f"{count}.ocs" for count in range(4)]


def test_expired(relay: Relay) -> None:
    """
    What has waited for too long is put aside, with the reason and what was said last;
    it is not removed. What came later still waits.
    """
    relay.above.answer = lambda name: failure_of(401, "")
    relay.relaying.keep = 7 * 3600
    relay.store("a.ocs", b"1")
    relay.wait(3 * 3600)
    relay.store("b.ocs", b"2")
    relay.wait(4 * 3600 + 60)

    (failed,) = relay.failed()
    assert failed.name == "a.ocs"
    assert failed.refusal.code == "expired"
    assert "7h" in failed.refusal.text
    assert "401" in failed.refusal.text
    aside = relay.folder / "failed" / failed.serial / "a.ocs"
    assert aside.read_bytes() == b"1"
    relay.above.answer = lambda name: None
    relay.wait(700)
    assert relay.above.names == ["b.ocs"]


def test_expired_while_it_was_down(tmp_path: Path) -> None:
    """Days in which the relay did not run count, and a clock that was set does not."""
    relay = Relay(tmp_path)
    relay.above.answer = lambda name: Transient("away")
    relay.store("a.ocs")
    relay.set_by = timedelta(days=-30)
    relay.wait(60)
    relay.set_by = timedelta(days=30)
    relay.wait(60)
    assert relay.failed() == []
    relay.killed()
    relay.wait(60)

    assert [each.refusal.code for each in relay.failed()] == ["expired"]


def test_tried_before_it_has_expired(tmp_path: Path) -> None:
    """
    What waited for too long while the relay was off, or by a clock that is ahead, is
    tried before it is put aside: the server above may be there.
    """
    relay = Relay(tmp_path)
    relay.above.answer = lambda name: Transient("away")
    names = ("a.ocs", "a.ocs.sign", "b.ocs", "c.ocs", "d.ocs", "e.ocs")
    for name in names:
        relay.store(name)
    relay.set_by = timedelta(days=30)
    relay.above.answer = lambda name: None
    relay.killed()
    relay.wait(60)

    assert relay.failed() == []
    assert set(names) <= set(relay.above.names)


def test_another_way(relay: Relay) -> None:
    """
    When an operator has written another password or address, nothing that waits waits
    any longer.
    """
    relay.above.answer = lambda name: failure_of(401, "")
    for count in range(3):
        relay.store(f"{count}.ocs")
    relay.wait(5000)
    other = Above(relay.clock)
    relay.relaying.send_to(other, "https://other.example/")

    assert sorted(other.names) == ["0.ocs", "1.ocs", "2.ocs"]
    assert (relay.above.closed, other.closed, other.asked) == (1, 0, 1)
    with capturedLogs() as logs:
        relay.store("3.ocs")
    (told,) = events(logs, "inventory.forwarded")
    assert told["upstream"] == "https://other.example/"


def test_same_name_again(relay: Relay) -> None:
    """
    Several inventories under one name, as older nodes send them, all get above, one
    after the other, also when the relay was killed while they waited.
    """
    relay.above.answer = lambda name: Transient("away")
    for data in (b"1", b"2", b"3"):
        relay.store("a.ocs", data)
        relay.store("a.ocs.sign", data)
        relay.wait(3600)
    relay.killed()
    relay.wait(7200)
    relay.above.answer = lambda name: None
    relay.wait(1200)

    found = [data for _, _, data in relay.above.put_here]
    assert found == [b"1", b"1", b"2", b"2", b"3", b"3"]


def test_overtaken(relay: Relay) -> None:
    """
    When the server above never takes a file, a later one of its name goes before it,
    and then the earlier one is put aside, for it would take the place of the later.
    """
    relay.above.answer = lambda name: 500 if name == "a.ocs" else None
    relay.store("a.ocs", b"1")
    for count in range(3):
        relay.store(f"good-{count}.ocs")
        relay.wait(50)
    relay.above.answer = lambda name: None
    relay.store("a.ocs", b"2")

    assert relay.above.put_here[-1] == (Box.UPDATE, "a.ocs", b"2")
    (failed,) = relay.failed()
    assert failed.refusal.code == "replaced"
    assert "500" in failed.refusal.text
    assert relay.waiting() == 0
    relay.wait(DAY)
    assert len(relay.above.put_here) == 4


def test_killed(relay: Relay) -> None:
    """
    A relay that is killed has everything that was not acknowledged above, and sends
    what it cannot know about once more.
    """
    answers: list[Deferred[None]] = []

    def answer(name: str) -> Deferred[None]:
        answers.append(Deferred())
        return answers[-1]

    relay.above.answer = answer
    for count in range(10):
        relay.store(f"{count}.ocs")
    assert relay.above.most == 4
    answers[0].callback(None)
    relay.above.answer = lambda name: None
    relay.killed()

    names = [f"{count}.ocs" for count in range(10)]
    assert sorted(relay.above.names) == names
    for left in answers:
        if not left.called:
            left.callback(None)
    assert set(relay.above.names) == set(names)
    assert relay.waiting() == 0


def test_stopped(relay: Relay) -> None:
    """
    A relay that ends waits a little for what is under way, and leaves the rest for
    the next start.
    """
    answers: list[Deferred[None]] = [Deferred(), Deferred()]
    relay.above.answer = lambda name: answers[int(name[0])]
    relay.store("0.ocs")
    relay.store("1.ocs")
    ended: list[object] = []
    relay.relaying.stop().addCallback(ended.append)
    assert not relay.relaying.is_running
    answers[0].callback(None)
    assert relay.waiting() == 1
    assert not ended
    relay.clock.advance(5)

    assert ended
    assert relay.waiting() == 1
    assert relay.clock.getDelayedCalls() == []
    relay.above.answer = lambda name: None
    relay.relaying.start()
    assert relay.above.names == ["0.ocs", "1.ocs"]
    relay.relaying.stop().addCallback(ended.append)
    assert len(ended) == 2


def test_disk_full(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What is to be put aside, while the disk is full, is not sent again and again for
    that, and is put aside when there is room.
    """
    relay.above.answer = answering(("bad", 413))

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, capturedLogs() as logs:
        patch.setattr("nodecomm.inventory.spool_folder.write_reason", full)
        relay.store("bad.ocs")
        relay.wait(3600)
        relay.store("good.ocs")
    assert events(logs, "upstream.delayed")[0]["reason"].endswith("on device")
    assert relay.waiting() == 1
    relay.wait(700)

    assert [name for name, _ in relay.above.tries] == ["bad.ocs", "good.ocs"]
    assert [each.refusal.code for each in relay.failed()] == ["upstream-refused"]


def test_expired_and_disk_full(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has waited for too long stays where it is while the disk is full."""
    relay.above.answer = lambda name: Transient("away")
    relay.relaying.keep = 3600
    relay.store("a.ocs")
    relay.wait(3600 - 60)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nodecomm.inventory.spool_folder.write_reason", full)
        relay.wait(300)
        assert relay.waiting() == 1
        assert relay.failed() == []
    relay.wait(700)

    assert [each.refusal.code for each in relay.failed()] == ["expired"]
    assert relay.waiting() == 0


def test_cannot_be_removed(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is above and cannot be removed here is not sent again for that."""

    def refuse(*args: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(relay.relaying.spool, "done", refuse)
        relay.store("a.ocs")
        relay.wait(3600)
    relay.wait(700)

    assert relay.above.names == ["a.ocs"]
    assert relay.waiting() == 0


def test_cannot_be_removed_for_long(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server above has is not put aside, as if that had never taken it."""
    relay.relaying.keep = 1800

    def refuse(*args: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(relay.relaying.spool, "done", refuse)
        relay.store("a.ocs")
        relay.wait(3600)

    assert relay.above.names == ["a.ocs"]
    assert relay.failed() == []


def test_expired_on_its_way(relay: Relay) -> None:
    """What is being sent is not put aside, however long it has waited."""
    answers: list[Any] = [500]
    relay.above.answer = lambda name: answers[0]
    relay.store("a.ocs")
    relay.wait(3500)
    answers[0] = Deferred()
    relay.wait(700)
    assert relay.above.under_way == 1
    relay.relaying.keep = 3600
    relay.wait(60)
    assert relay.failed() == []
    answers[0].callback(None)

    assert relay.above.names == ["a.ocs"]
    assert (relay.failed(), relay.waiting()) == ([], 0)


def test_gone_and_cannot_be_removed(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody has removed is told of once, though its folder cannot go."""
    relay.above.answer = lambda name: FileNotFoundError(errno.ENOENT, "gone")

    def refuse(*args: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch, capturedLogs() as logs:
        patch.setattr(relay.relaying.spool, "done", refuse)
        relay.store("a.ocs")
        relay.wait(60)

    assert len(relay.above.tries) == 1
    assert len(events(logs, "inventory.gone")) == 1


def test_removed_by_somebody(relay: Relay) -> None:
    """A file that somebody removes is told of, and is in nobody's way."""
    relay.above.answer = lambda name: Transient("away")
    relay.store("a.ocs")
    relay.store("b.ocs")
    shutil.rmtree(next((relay.folder / "outgoing").iterdir()))
    relay.above.answer = lambda name: None
    with capturedLogs() as logs:
        relay.wait(13)
        relay.wait(60)

    assert len(relay.above.put_here) == 1
    assert relay.waiting() == 0
    assert relay.relaying.spool.waiting == 0
    assert len(events(logs, "inventory.gone")) <= 1


def test_somebody_removed_what_failed(relay: Relay) -> None:
    """
    Whoever removes all of `failed/` does not stop that more is put there, nor is that
    lost.
    """
    relay.above.answer = answering(("bad", 413))
    (relay.folder / "failed").rmdir()
    relay.store("bad.ocs")
    assert [each.name for each in relay.failed()] == ["bad.ocs"]
    shutil.rmtree(relay.folder / "failed")
    relay.wait(60)
    relay.store("bad-2.ocs")

    assert [each.name for each in relay.failed()] == ["bad-2.ocs"]


def test_put_there_by_somebody(relay: Relay) -> None:
    """What others put into the folder is found, and sent."""
    folder = relay.folder / "outgoing" / "00000000000000000007"
    folder.mkdir()
    (folder / "a.ocs~first~").write_bytes(b"1")
    relay.wait(31)

    assert relay.above.put_here == [(Box.FIRST, "a.ocs", b"1")]


def test_unreadable_folder(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that fails is told, and there is another one."""

    def refuse() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, capturedLogs() as logs:
        patch.setattr(relay.relaying.spool, "rescan", refuse)
        relay.wait(95)
    assert len(events(logs, "inventory.unsearchable")) == 3
    test_put_there_by_somebody(relay)


def test_mistake(relay: Relay) -> None:
    """A mistake in the program is told with its place, and the file waits."""
    said: list[Exception] = [RuntimeError("bug")]
    relay.above.answer = lambda name: said.pop() if said else None
    with capturedLogs() as logs:
        relay.store("a.ocs")
        relay.store("b.ocs")
        relay.wait(13)

    assert relay.above.names == ["b.ocs", "a.ocs"]
    (told,) = events(logs, "inventory.delayed")
    assert "bug" in told["log_failure"].getErrorMessage()


def test_many_files(relay: Relay) -> None:
    """Many files that have waited all go, once, after few tries."""
    many = MANY
    relay.above.answer = lambda name: Transient("away")
    top = relay.folder / "outgoing"
    for count in range(many):
        folder = top / f"{count:020d}"
        folder.mkdir()
        (folder / f"{count // 2}.ocs{'.sign' * (count % 2)}~update~").write_bytes(b"x")
    relay.killed()
    relay.wait(60)
    assert relay.relaying.spool.waiting == many
    assert len(relay.above.tries) < 10
    relay.above.answer = lambda name: None
    relay.wait(120)

    assert len(relay.above.names) == len(set(relay.above.names)) == many
    assert relay.waiting() == 0


def test_behind_the_resource(relay: Relay) -> None:
    """
    A node that puts a file into a relay is answered as by a server that decides, and
    asks it for its id; its checks are the same.
    """
    resource = InventoryResource(
        relay.relaying,
        RULES,
        server_id="relay-1",
        reactor=relay.clock,
        pool=InlinePool(),
    )
    site = UploadSite(resource, reactor=relay.clock)

    def ask(method: str, path: str, body: bytes | None = None, **more: str) -> int:
        connection = Connection(site, "192.0.2.7")
        connection.send(head(method, path, body, more) + (body or b""))
        return reply_of(connection.take()).status

    def put(path: str, body: bytes, password: str = "", **more: str) -> int:
        password = password or PASSWORDS[path.split("/")[1]]
        return ask("PUT", path, body, Authorization=basic(password), **more)

    assert ask("GET", "/uuid") == 200
    assert put("/inventories/a.ocs", b"1") == 201
    assert relay.above.put_here == [(Box.FIRST, "a.ocs", b"1")]
    relay.above.answer = lambda name: Transient("away")
    assert put("/inventory-updates/b.ocs.sign", b"2") == 201
    assert put("/inventory-updates/b.ocs.sign", b"2") == 204
    assert put("/inventory-updates/b.ocs.sign", b"3", If_None_Match="*") == 412
    assert put("/inventory-updates/b.ocs", b"2", "wrong") == 401
    assert put("/inventory-updates/b.odt", b"2") == 400
    assert relay.waiting() == 1
    relay.relaying.stop()
    assert put("/inventory-updates/c.ocs", b"2") == 503


def test_moment(relay: Relay) -> None:
    """How long a file waited is told from when it came."""
    assert NOW.tzinfo is timezone.utc
    relay.above.answer = lambda name: Transient("away")
    relay.store("a.ocs")
    relay.wait(100)
    relay.above.answer = lambda name: None
    with capturedLogs() as logs:
        relay.wait(100)

    (told,) = events(logs, "inventory.forwarded")
    assert 100 <= told["waited"] <= 200
