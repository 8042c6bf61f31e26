# SPDX-License-Identifier: MIT
"""
The folder of a relay: what was stored waits there, whatever happens, until it is above.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from nodecomm.identity.files import sync_folder
from nodecomm.inventory.failures import Failed, read_failed
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.names import read_name
from nodecomm.inventory.outbox import Outbox, Outgoing, send_again
from nodecomm.inventory.pairs import Box, Sender
from nodecomm.inventory.spool import NameTaken, Placed, Spool, SpoolInUse

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)

FROM = Sender(Box.UPDATE, "192.0.2.7")


class Clock:
    """Time that a test lets pass; the civil clock may be set besides."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.set_by = timedelta(0)

    def seconds(self) -> float:
        """For durations."""
        return self.passed

    def now(self) -> datetime:
        """Civil time."""
        return NOW + timedelta(seconds=self.passed) + self.set_by


@pytest.fixture
def clock() -> Clock:
    """The clock of the folder."""
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Callable[[], Outbox]:
    """Makes outboxes of one folder, one after the other."""

    def made() -> Outbox:
        return Outbox(tmp_path / "spool", seconds=clock.seconds, now=clock.now)

    return made


@pytest.fixture
def outbox(make: Callable[[], Outbox]) -> Outbox:
    """An open outbox."""
    made = make()
    made.open()
    return made


def put(
    outbox: Outbox | Spool, name: str, data: bytes, sender: Sender = FROM, **how: Any
) -> Any:
    """Upload a file whole."""
    part = outbox.begin()
    part.write(data)
    return outbox.place(part, read_name(name), sender, **how)


def crash(outbox: Outbox | Spool) -> None:
    """End as if killed: nothing is tidied, only the lock goes with the process."""
    assert outbox._owned is not None
    os.close(outbox._owned)
    outbox._owned = None


def content(item: Outgoing) -> tuple[str, Box, str, bytes]:
    """All of a file that goes on."""
    return item.name.text, item.sender.box, item.sender.address, read(item)


def read(item: Outgoing) -> bytes:
    """What is in it."""
    return Path(item.path).read_bytes()


def test_each_file_by_itself(outbox: Outbox, make: Callable[[], Outbox]) -> None:
    """
    Files wait in the order in which they came, byte for byte, with their names and
    boxes; also for the next program.
    """
    odd = bytes(range(256)) * 300
    sent = [
        ("b.ocs.gz", b"\x1f\x8b not gzip at all", Sender(Box.FIRST, "2001:db8::1")),
        ("a.ocs.sign", odd, FROM),
        ("a.ocs", b"", FROM),
        ("b.ocs.sign", b"\r\n", Sender(Box.FIRST, "")),
    ]
    for name, data, sender in sent:
        placed, item = put(outbox, name, data, sender)
        assert placed == Placed()
        assert content(item) == (name, sender.box, sender.address, data)
    assert (outbox.waiting, outbox.undecided) == (4, 0)
    crash(outbox)
    later = make()

    found = later.open()

    wanted = [(n, s.box, s.address, d) for n, d, s in sent]
    assert [content(item) for item in found] == wanted
    assert later.rescan() == found


def test_long_names(outbox: Outbox, make: Callable[[], Outbox]) -> None:
    """The longest name from the longest address has room."""
    name = "n" * 191 + ".ocs.sign"
    sender = Sender(Box.UPDATE, "2001:db8:1234:5678:1234:5678:1234:5678")
    _, item = put(outbox, name, b"x", sender)
    crash(outbox)

    (found,) = make().open()

    assert found.name == item.name
    assert found.sender == sender


def test_the_same_again(outbox: Outbox) -> None:
    """
    The same content of a name that waits changes nothing; other content waits behind
    it, and so does what comes into the other box.
    """
    _, first = put(outbox, "a.ocs", b"1")

    assert put(outbox, "a.ocs", b"1") == (Placed(existed=True), None)
    placed, second = put(outbox, "a.ocs", b"2")
    assert placed == Placed(existed=True)
    assert put(outbox, "a.ocs", b"2") == (Placed(existed=True), None)
    placed, third = put(outbox, "a.ocs", b"1")
    assert placed == Placed(existed=True)
    placed, other = put(outbox, "a.ocs", b"1", Sender(Box.FIRST))
    assert placed == Placed()
    assert outbox.rescan() == [first, second, third, other]
    assert os.listdir(os.path.join(outbox.folder, "partial")) == []


def test_only_new(outbox: Outbox) -> None:
    """What is to be stored only if nothing of its name waits is not stored then."""
    _, item = put(outbox, "a.ocs", b"1", only_new=True)
    with pytest.raises(NameTaken):
        put(outbox, "a.ocs", b"2", only_new=True)
    assert outbox.holds(item.name)
    assert not outbox.holds(read_name("a.ocs.gz"))
    outbox.done(item)

    assert not outbox.holds(item.name)
    put(outbox, "a.ocs", b"2", only_new=True)


def test_done(outbox: Outbox, make: Callable[[], Outbox]) -> None:
    """What is above is gone here, once and for all; the rest is not."""
    _, first = put(outbox, "a.ocs", b"1")
    _, second = put(outbox, "a.ocs.sign", b"2")
    outbox.done(first)
    outbox.done(first)

    assert outbox.rescan() == [second]
    crash(outbox)
    assert [each.path for each in make().open()] == [second.path]


def test_put_aside(outbox: Outbox, make: Callable[[], Outbox]) -> None:
    """What is put aside is in failed/, as it was sent, with the reason."""
    _, item = put(outbox, "a.ocs.gz", b"zipped")
    why = Refusal("upstream-refused", "the server answers 413")
    failed = outbox.fail(item, why)

    assert outbox.waiting == 0
    assert read_failed(outbox.folder) == [failed]
    assert (failed.name, failed.refusal, failed.sender) == ("a.ocs.gz", why, FROM)
    path = Path(outbox.folder, "failed", failed.serial)
    assert (path / "a.ocs.gz").read_bytes() == b"zipped"
    crash(outbox)
    assert make().open() == []


@pytest.mark.parametrize("step", ["mkdir", "rename", "unlink", "fsync"])
@pytest.mark.parametrize("what", ["place", "done", "fail"])
def test_killed_anywhere(
    make: Callable[[], Outbox], monkeypatch: pytest.MonkeyPatch, step: str, what: str
) -> None:
    """
    A program that is killed before any step loses nothing that was acknowledged:
    each file waits, whole, or is in failed/ with a reason, and none is there twice.
    """
    for count in range(12):
        outbox = make()
        shutil.rmtree(outbox.folder, ignore_errors=True)
        outbox.open()
        _, old = put(outbox, "a.ocs", b"old")
        calls = 0
        real = getattr(os, step)

        def killed(
            *args: Any, real: Any = real, count: int = count, **how: Any
        ) -> object:
            nonlocal calls
            calls += 1
            if calls > count:
                raise KeyboardInterrupt
            return real(*args, **how)

        placed = finished = False
        with monkeypatch.context() as patch:
            patch.setattr(os, step, killed)
            try:
                if what == "place":
                    put(outbox, "b.ocs", b"new")
                    placed = True
                elif what == "done":
                    outbox.done(old)
                else:
                    outbox.fail(old, Refusal("expired", "too long"))
                finished = True
            except KeyboardInterrupt:
                pass
        crash(outbox)
        later = make()
        waiting = {each.name.text: read(each) for each in later.open()}
        failed = [each.files for each in read_failed(later.folder)]
        crash(later)

        if what == "place":
            assert waiting["a.ocs"] == b"old"
            assert waiting.get("b.ocs", b"new") == b"new"
            assert not placed or "b.ocs" in waiting
        elif what == "done":
            assert waiting in ({}, {"a.ocs": b"old"})
        else:
            assert (waiting, failed) in (
                ({"a.ocs": b"old"}, []),
                ({}, [("a.ocs",)]),
            )
        if finished:
            break
    else:
        pytest.fail("it takes more steps than were tried")


def test_disk_full(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be put aside, for the reason cannot be written, still waits."""
    _, item = put(outbox, "a.ocs", b"1")

    def full(*args: object, **how: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            outbox.fail(item, Refusal("expired", "too long"))
    assert outbox.rescan() == [item]
    assert read(item) == b"1"


def test_others_work_there(outbox: Outbox) -> None:
    """
    What others remove is forgotten, what they put there is found, and what is no
    file to send is in nobody's way.
    """
    _, first = put(outbox, "a.ocs", b"1")
    _, second = put(outbox, "b.ocs", b"2")
    top = Path(outbox.folder, "outgoing")
    shutil.rmtree(top / first.serial)
    (top / "note").write_text("mine")
    (top / "empty").mkdir()
    (top / "strange").mkdir()
    (top / "strange" / "file").write_text("?")
    (top / "\N{SUPERSCRIPT TWO}").mkdir()
    mine = top / "00000000000000000001"
    mine.mkdir()
    (mine / "c.ocs~first~").write_bytes(b"3")
    (mine / "c.ocs.sign~first~").write_bytes(b"4")

    found = outbox.rescan()

    assert [each.name.text for each in found] == ["c.ocs.sign", "b.ocs", "c.ocs"]
    assert outbox.rescan() == found
    assert outbox.waiting == 3
    assert second in found
    assert not (top / "\N{SUPERSCRIPT TWO}").exists()
    assert (top / "strange" / "file").exists()


def test_the_clock_is_set(
    outbox: Outbox, clock: Clock, make: Callable[[], Outbox]
) -> None:
    """
    How long a file has waited does not depend on a civil clock that is set; one that
    was ahead when the file came does not let it wait for years.
    """
    _, first = put(outbox, "a.ocs", b"1")
    clock.passed += 50
    clock.set_by = timedelta(days=-400)
    _, second = put(outbox, "a.ocs", b"2")

    assert outbox.rescan() == [first, second]
    assert [clock.passed - each.arrived for each in (first, second)] == [50, 0]
    crash(outbox)
    later = make()
    found = later.open()
    assert [read(each) for each in found] == [b"1", b"2"]
    assert [clock.passed - each.arrived for each in found] == [0, 0]
    clock.passed += 10
    crash(later)
    assert [clock.passed - each.arrived for each in make().open()] == [10, 10]


def test_order_after_a_clock_set_back(
    outbox: Outbox, clock: Clock, make: Callable[[], Outbox]
) -> None:
    """What comes later is behind, although the clock says that it was before."""
    put(outbox, "a.ocs", b"1")
    crash(outbox)
    clock.set_by = timedelta(days=-1)
    later = make()
    later.open()
    put(later, "a.ocs", b"2")

    assert [read(each) for each in later.rescan()] == [b"1", b"2"]


def test_one_program_at_a_time(outbox: Outbox, make: Callable[[], Outbox]) -> None:
    """Another program is told that the folder is in use."""
    with pytest.raises(SpoolInUse):
        make().open()
    outbox.close()
    make().open()


def test_taken_over(tmp_path: Path, clock: Clock, make: Callable[[], Outbox]) -> None:
    """
    What a server that decides has left undecided is passed on by the relay that it
    becomes: pairs and halves, each file with its name, box and sender.
    """
    spool = Spool(tmp_path / "spool", seconds=clock.seconds, now=clock.now)
    spool.open()
    put(spool, "a.ocs.sign", b"1")
    put(spool, "a.ocs.gz", b"2", Sender(Box.FIRST, "192.0.2.9"))
    put(spool, "b.ocs", b"3")
    clock.passed += 1
    put(spool, "c.ocs.sign", b"4")
    crash(spool)

    found = make().open()

    update, address = Box.UPDATE, "192.0.2.7"
    assert [content(each) for each in found] == [
        ("a.ocs.gz", Box.FIRST, "192.0.2.9", b"2"),
        ("a.ocs.sign", update, address, b"1"),
        ("b.ocs", update, address, b"3"),
        ("c.ocs.sign", update, address, b"4"),
    ]
    assert os.listdir(tmp_path / "spool" / "ready") == []
    assert os.listdir(tmp_path / "spool" / "incoming") == []


def test_the_same_as_an_older_one(outbox: Outbox) -> None:
    """
    What is like a file that waits again, but not like the later one of its name, is no
    repetition: above, the later one would count.
    """
    _, older = put(outbox, "a.ocs", b"1")
    outbox.fail(older, Refusal("expired", "too long"))
    put(outbox, "a.ocs", b"2")
    send_again(outbox.folder, older.serial)
    outbox.rescan()

    _, again = put(outbox, "a.ocs", b"1")

    assert again is not None
    assert [read(each) for each in outbox.rescan()] == [b"1", b"2", b"1"]


@pytest.mark.parametrize("step", ["mkdir", "rename", "rmdir"])
def test_killed_when_taking_over(
    tmp_path: Path, clock: Clock, make: Callable[[], Outbox], step: str
) -> None:
    """
    A server that becomes a relay, and is killed at that, has every file that it has
    acknowledged, in the one place or the other.
    """
    sent = {"a.ocs": b"1", "a.ocs.sign": b"2", "b.ocs": b"3"}
    for count in range(20):
        spool = Spool(tmp_path / "spool", seconds=clock.seconds, now=clock.now)
        shutil.rmtree(spool.folder, ignore_errors=True)
        spool.open()
        for name, data in sent.items():
            put(spool, name, data)
        crash(spool)
        calls = 0
        real = getattr(os, step)

        def killed(
            *args: Any, real: Any = real, count: int = count, **how: Any
        ) -> object:
            nonlocal calls
            calls += 1
            if calls > count:
                raise KeyboardInterrupt
            return real(*args, **how)

        relay = make()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, step, killed)
            with contextlib.suppress(KeyboardInterrupt):
                relay.open()
        relay.close()
        later = make()
        found = [(each.name.text, read(each)) for each in later.open()]
        crash(later)

        assert sorted(found) == sorted(sent.items())
        if calls <= count:
            break
    else:
        pytest.fail("it takes more steps than were tried")


def test_trimmed(tmp_path: Path, clock: Clock) -> None:
    """Of what failed the newest are kept, and the caller is told which are not."""
    outbox = Outbox(tmp_path, seconds=clock.seconds, now=clock.now, failed_kept=1)
    outbox.open()
    serials = []
    for name in ("a.ocs", "b.ocs"):
        _, item = put(outbox, name, b"1")
        serials.append(item.serial)
        outbox.fail(item, Refusal("expired", "too long"))

    assert outbox.trim_failed() == serials[:1]
    assert [each.serial for each in outbox.failed()] == serials[1:]


def test_handed_back(tmp_path: Path, clock: Clock, outbox: Outbox) -> None:
    """
    What a relay has not passed on is decided about by the server that it becomes; a
    second file of one name waits for the next start.
    """
    put(outbox, "a.ocs", b"1")
    put(outbox, "a.ocs.sign", b"2")
    put(outbox, "b.ocs", b"3")
    put(outbox, "b.ocs", b"4")
    outbox.close()

    assert Outbox(outbox.folder, seconds=clock.seconds, now=clock.now).hand_back() == 3
    spool = Spool(tmp_path / "spool", seconds=clock.seconds, now=clock.now)
    (pair,) = spool.open()
    assert pair.name == "a.ocs"
    assert pair.signature is not None
    assert Path(pair.document).read_bytes() == b"1"
    assert Path(pair.signature).read_bytes() == b"2"
    assert spool.waiting == 1
    spool.expire(waited=0)
    spool.close()
    again = Outbox(outbox.folder, seconds=clock.seconds, now=clock.now)
    assert again.hand_back() == 3
    assert again.hand_back() == 0


def test_nothing_to_hand_back(tmp_path: Path, clock: Clock) -> None:
    """A server that never was a relay has no folder for it."""
    outbox = Outbox(tmp_path / "spool", seconds=clock.seconds, now=clock.now)

    assert outbox.hand_back() == 0
    assert not (tmp_path / "spool").exists()


def aside(outbox: Outbox, clock: Clock) -> Failed:
    """A file that was put aside."""
    _, item = put(outbox, "a.ocs.gz", b"1")
    clock.passed += 100
    return outbox.fail(item, Refusal("expired", "too long"))


def test_sent_again(outbox: Outbox, clock: Clock, make: Callable[[], Outbox]) -> None:
    """
    What was put aside waits again as it did before, in its box, as if it had come
    now; it may be put aside again, and be sent in the end.
    """
    failed = aside(outbox, clock)
    assert send_again(outbox.folder, failed.serial) == ("a.ocs.gz",)
    (item,) = outbox.rescan()
    assert content(item) == ("a.ocs.gz", Box.UPDATE, "192.0.2.7", b"1")
    assert read_failed(outbox.folder) == []

    failed = outbox.fail(item, Refusal("upstream-refused", "no"))
    assert read_failed(outbox.folder) == [failed]
    send_again(outbox.folder, failed.serial)
    crash(outbox)
    later = make()
    (item,) = later.open()
    later.done(item)
    assert os.listdir(os.path.join(later.folder, "outgoing")) == []


@pytest.mark.parametrize("count", range(4))
def test_killed_when_sent_again(
    outbox: Outbox, clock: Clock, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Whoever was killed at that can do it again."""
    failed = aside(outbox, clock)
    left = [count]
    for step in ("rename", "replace", "utime"):
        real = getattr(os, step)

        def killed(*args: Any, real: Any = real) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            real(*args)

        monkeypatch.setattr(os, step, killed)
    with pytest.raises(KeyboardInterrupt):
        send_again(outbox.folder, failed.serial)
    monkeypatch.undo()

    assert send_again(outbox.folder, failed.serial) == ("a.ocs.gz",)
    (item,) = outbox.rescan()
    assert read(item) == b"1"


@pytest.mark.parametrize("serial", ["", ".", "..", "1", "../failed", "/etc"])
def test_nothing_to_send_again(outbox: Outbox, clock: Clock, serial: str) -> None:
    """A number that there is not is told, and nothing outside is touched."""
    aside(outbox, clock)
    with pytest.raises(FileNotFoundError):
        send_again(outbox.folder, serial)
    assert len(outbox.failed()) == 1


@pytest.mark.parametrize(
    "reason",
    [
        "",
        "[]",
        "{}",
        '{"files": ["../../a.ocs"]}',
        '{"files": ["/etc/passwd"]}',
        '{"address": "/../../outgoing/1"}',
        '{"address": "192.0.2.7~"}',
    ],
)
def test_reasons_that_are_none(outbox: Outbox, clock: Clock, reason: str) -> None:
    """A reason that nobody has written here moves no file."""
    failed = aside(outbox, clock)
    path = Path(outbox.folder, "failed", failed.serial, "reason.json")
    if '"' in reason:
        reason = json.dumps({**json.loads(path.read_text()), **json.loads(reason)})
    path.write_text(reason)
    with pytest.raises(ValueError, match=r"reason|name"):
        send_again(outbox.folder, failed.serial)
    assert path.exists()


def test_a_name_is_on_disk_when_it_is_stored(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is acknowledged is found after a crash: the folder that it is in, too."""
    synced: list[str] = []
    real = sync_folder

    def sync(folder: str) -> None:
        synced.append(os.path.relpath(folder, outbox.folder))
        real(folder)

    monkeypatch.setattr("nodecomm.inventory.outbox.sync_folder", sync)
    _, item = put(outbox, "a.ocs", b"a")

    holder = os.path.relpath(os.path.dirname(item.path), outbox.folder)
    assert synced == [holder, os.path.dirname(holder)]
