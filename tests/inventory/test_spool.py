# SPDX-License-Identifier: MIT
"""
The folder where inventories wait: nothing that was stored is lost, whatever happens.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.inventory.failures import read_failed
from nodecomm.inventory.limits import DocumentLimits, DocumentRefused
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.names import Half, read_name
from nodecomm.inventory.pairs import Box, Pair, Sender, mark_of
from nodecomm.inventory.spool import NameTaken, Placed, Spool, SpoolInUse

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)

FROM = Sender(Box.UPDATE, "192.0.2.7")


#: What becomes of something that was stored.
WAYS = ["finish", "fail", "claim", "replace", "late"]


class Clock:
    """Time that a test lets pass."""

    def __init__(self) -> None:
        self.passed = 0.0

    def seconds(self) -> float:
        """For durations."""
        return self.passed

    def now(self) -> datetime:
        """Civil time."""
        return NOW + timedelta(seconds=self.passed)


@pytest.fixture
def clock() -> Clock:
    """The clock of the spool."""
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Callable[[], Spool]:
    """Makes spools of one folder, one after the other."""

    def made() -> Spool:
        return Spool(tmp_path / "spool", seconds=clock.seconds, now=clock.now)

    return made


@pytest.fixture
def spool(make: Callable[[], Spool]) -> Spool:
    """An open spool."""
    made = make()
    made.open()
    return made


def put(
    spool: Spool,
    name: str,
    data: bytes,
    sender: Sender = FROM,
    *,
    only_new: bool = False,
) -> Placed:
    """Upload a file whole."""
    part = spool.begin()
    part.write(data)
    return spool.place(part, read_name(name), sender, only_new=only_new)


def read(pair: Pair | None) -> tuple[bytes, bytes | None]:
    """Both files of a pair."""
    assert pair is not None
    return pair.read(DocumentLimits())


def late_mark(spool: Spool) -> str:
    """The mark of the one document that was put aside for want of a signature."""
    (late,) = spool.unsigned(0, NOW.timestamp() + 86400)
    return mark_of(os.stat(late.path))


def join(spool: Spool, name: str, mark: str) -> Placed | None:
    """Bring a signature that was elsewhere."""
    part = spool.begin()
    part.write(b"s")
    try:
        return spool.join(part, read_name(name), FROM, mark)
    finally:
        part.discard()


def crash(spool: Spool) -> None:
    """End as if killed: nothing is tidied, only the lock goes with the process."""
    assert spool._owned is not None
    os.close(spool._owned)
    spool._owned = None


def test_what_is_no_file_is_left_alone(
    spool: Spool, make: Callable[[], Spool], tmp_path: Path
) -> None:
    """Links to nowhere, pipes and folders with a half's name stop nothing."""
    incoming = tmp_path / "spool" / "incoming"
    put(spool, "a.ocs", b"a")
    (held,) = incoming.iterdir()
    spool.close()
    names = [held.name.replace("a.ocs", f"{x}.ocs") for x in "bcde"]
    (incoming / names[0]).symlink_to("/nowhere")
    (incoming / names[1]).symlink_to(held)
    (incoming / names[2]).mkdir()
    os.mkfifo(incoming / names[3])
    other = make()

    assert other.open() == []
    assert other.waiting == 1
    assert len(list(incoming.iterdir())) == 5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.ocs", "a.ocs.sign"),
        ("a.ocs.sign", "a.ocs"),
        ("a.ocs.gz", "a.ocs.sign"),
        ("a.ocs.sign", "a.ocs.gz"),
        ("a.xml", "a.xml.sign"),
    ],
)
def test_either_order(spool: Spool, first: str, second: str) -> None:
    """The half that comes second completes the pair, whichever it is."""
    contents = {}
    for name in (first, second):
        document = gzip.compress(b"<doc/>") if name.endswith(".gz") else b"<doc/>"
        contents[name] = b"sig" if name.endswith(".sign") else document

    assert put(spool, first, contents[first]) == Placed()
    pair = put(spool, second, contents[second]).pair

    assert read(pair) == (b"<doc/>", b"sig")
    assert pair is not None
    assert (pair.name, pair.sender, pair.when) == (first[:5], FROM, NOW)
    assert (spool.waiting, spool.undecided) == (0, 1)


def test_halves_of_others_do_not_meet(spool: Spool) -> None:
    """Files of different names are no pair, however much they are alike."""
    put(spool, "a.ocs", b"a")

    assert put(spool, "a.xml.sign", b"s").pair is None
    assert put(spool, "b.ocs.sign", b"s").pair is None
    assert spool.waiting == 3


def test_the_sender_of_the_document_counts(spool: Spool) -> None:
    """Whoever sends the signature says nothing of where the document came from."""
    put(spool, "a.ocs", b"a", Sender(Box.FIRST, "192.0.2.1"))

    pair = put(spool, "a.ocs.sign", b"s", Sender(Box.UPDATE, "2001:db8::1")).pair

    assert pair is not None
    assert pair.sender == Sender(Box.FIRST, "192.0.2.1")


def test_the_same_again(spool: Spool) -> None:
    """A sender that repeats itself finds its file there, and nothing has changed."""
    put(spool, "a.ocs", b"a")

    again = put(spool, "a.ocs", b"a")

    assert again == Placed(existed=True)
    assert read(put(spool, "a.ocs.sign", b"s").pair) == (b"a", b"s")
    assert spool.failed() == []


def test_another_content_under_the_same_name(spool: Spool) -> None:
    """The later file waits; the former is put aside, not thrown away."""
    put(spool, "a.ocs", b"former")

    placed = put(spool, "a.ocs", b"latter")

    assert placed.existed
    assert placed.replaced is not None
    assert placed.replaced.refusal.code == "replaced"
    folder = Path(spool.folder, "failed", placed.replaced.serial)
    assert (folder / "a.ocs").read_bytes() == b"former"
    assert read(put(spool, "a.ocs.sign", b"s").pair) == (b"latter", b"s")


def test_plain_and_compressed_are_one_half(spool: Spool) -> None:
    """A document under its two names is one document; the later one counts."""
    put(spool, "a.ocs", b"plain")

    placed = put(spool, "a.ocs.gz", gzip.compress(b"packed"))

    assert not placed.existed
    assert read(put(spool, "a.ocs.sign", b"s").pair) == (b"packed", b"s")


def test_only_if_new(spool: Spool) -> None:
    """A file that waits is not replaced if the sender says so; another name is new."""
    put(spool, "a.ocs", b"a")

    assert spool.holds(read_name("a.ocs"))
    assert not spool.holds(read_name("a.ocs.gz"))
    with pytest.raises(NameTaken):
        put(spool, "a.ocs", b"b", only_new=True)
    # Of another name, though it takes the place of that one.
    assert not put(spool, "a.ocs.gz", gzip.compress(b"b"), only_new=True).existed
    assert put(spool, "b.ocs", b"b", only_new=True) == Placed()
    assert read(put(spool, "a.ocs.sign", b"s").pair) == (b"b", b"s")


def test_two_in_flight(spool: Spool) -> None:
    """A pair under way is not touched by the next one of the same name."""
    put(spool, "a.ocs", b"one")
    first = put(spool, "a.ocs.sign", b"s1").pair
    put(spool, "a.ocs.sign", b"s2")
    second = put(spool, "a.ocs", b"two").pair

    assert read(first) == (b"one", b"s1")
    assert read(second) == (b"two", b"s2")
    assert first is not None
    assert second is not None
    assert first.serial < second.serial


def test_finished(spool: Spool, make: Callable[[], Spool]) -> None:
    """What was decided about is gone, also for the next program."""
    put(spool, "a.ocs", b"a")
    pair = put(spool, "a.ocs.sign", b"s").pair
    assert pair is not None

    spool.finish(pair)

    assert spool.undecided == 0
    spool.close()
    assert make().open() == []


def test_failed(spool: Spool, make: Callable[[], Spool]) -> None:
    """What is not believed is kept as it was sent, with the reason beside it."""
    put(spool, "a.ocs.gz", gzip.compress(b"a", mtime=0))
    pair = put(spool, "a.ocs.sign", b"s").pair
    assert pair is not None

    failed = spool.fail(pair, Refusal("too-old", "a year ago", "ACCESSLOG/LOGDATE"))

    folder = Path(spool.folder, "failed", failed.serial)
    assert (folder / "a.ocs.gz").read_bytes() == gzip.compress(b"a", mtime=0)
    assert (folder / "a.ocs.sign").read_bytes() == b"s"
    assert json.loads((folder / "reason.json").read_text()) == {
        "name": "a.ocs",
        "code": "too-old",
        "text": "a year ago",
        "element": "ACCESSLOG/LOGDATE",
        "box": "update",
        "address": "192.0.2.7",
        "received": "2026-11-22T12:00:00+00:00",
        "failed": "2026-11-22T12:00:00+00:00",
        "files": ["a.ocs.gz", "a.ocs.sign"],
    }
    spool.close()
    assert make().open() == []
    assert read_failed(spool.folder) == [failed]


def test_halves_of_an_address(make: Callable[[], Spool], clock: Clock) -> None:
    """It is counted how many wait, however they come and go, and after a new start."""
    spool = make()
    spool.open()
    other = Sender(Box.FIRST, "192.0.2.8")

    def counts() -> tuple[int, int, int]:
        return (spool.waiting, spool.waiting_of("192.0.2.7"), spool.waiting_of(""))

    for name in ("a.ocs", "b.ocs", "c.ocs.sign"):
        put(spool, name, b"x")
    assert counts() == (3, 3, 0)
    put(spool, "a.ocs", b"x")
    put(spool, "b.ocs", b"y", other)
    assert counts() == (3, 2, 0)
    assert spool.waiting_of("192.0.2.8") == 1
    spool.close()
    assert counts() == (0, 0, 0)
    spool.open()
    assert counts() == (3, 2, 0)
    put(spool, "a.ocs.sign", b"x")
    assert counts() == (2, 1, 0)
    clock.passed += 600
    spool.expire(waited=600)
    assert counts() == (0, 0, 0)
    assert spool.waiting_of("192.0.2.8") == 0


def test_a_name_is_on_disk_before_anything_follows(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An upload is stored when its name is, too: before that it is no part of a pair, and
    nobody decides about it.
    """
    synced: list[list[str]] = []

    def sync(folder: str) -> None:
        assert spool.claim_unsigned(waited=0) == []
        assert spool.lonely(Half.DOCUMENT, waited=0) == []
        synced.append(sorted(os.listdir(folder)))

    monkeypatch.setattr("nodecomm.inventory.spool.sync_folder", sync)
    put(spool, "a.ocs", b"a")
    assert synced == [["a.ocs~update~192.0.2.7"]]
    (pair,) = spool.claim_unsigned(waited=0)
    assert pair.signature is None


def test_orphans(spool: Spool, clock: Clock) -> None:
    """A half that waits too long for the other is put aside; later ones still wait."""
    put(spool, "a.ocs", b"a")
    put(spool, "b.ocs.sign", b"s")
    clock.passed = 300
    put(spool, "c.ocs", b"c")

    failed = spool.expire(waited=300)

    assert {(x.name, x.refusal.code) for x in failed} == {
        ("a.ocs", "no-signature"),
        ("b.ocs", "no-document"),
    }
    assert spool.waiting == 1
    assert spool.undecided == 0
    assert put(spool, "c.ocs.sign", b"s").pair is not None


def test_halves_that_somebody_removed(spool: Spool, clock: Clock) -> None:
    """
    Whoever removes files that wait is in nobody's way: others are put aside in time,
    and what he has removed can be sent again.
    """
    for name in ("a.ocs", "b.ocs", "c.ocs", "d.ocs.sign"):
        put(spool, name, b"1")
    for path in Path(spool.folder, "incoming").glob("[ab].*"):
        path.unlink()

    assert put(spool, "a.ocs.sign", b"s") == Placed()
    assert put(spool, "b.ocs", b"2") == Placed()
    assert read(put(spool, "a.ocs", b"again").pair) == (b"again", b"s")
    for path in Path(spool.folder, "incoming").glob("[b].*"):
        path.unlink()
    clock.passed = 700
    assert [each.name for each in spool.claim_unsigned(600)] == ["c.ocs"]
    assert [each.name for each in spool.expire(600)] == ["d.ocs"]
    assert spool.waiting == 0
    put(spool, "e.ocs.sign", b"1")
    (lonely,) = spool.lonely(Half.SIGNATURE, 0)
    os.unlink(lonely.path)
    assert spool.give_up(lonely)
    assert not spool.give_up(lonely)


def test_a_signature_that_comes_late(
    spool: Spool, make: Callable[[], Spool], clock: Clock
) -> None:
    """
    A document that was put aside for want of a signature is taken back for it, and no
    other one: with the box and the address that it came from.
    """
    put(spool, "b.ocs.sign", b"s")
    put(spool, "a.ocs.gz", b"a", Sender(Box.FIRST, "192.0.2.1"))
    spool.expire(waited=0)
    mark = late_mark(spool)
    spool.close()
    spool = make()
    spool.open()
    assert [late_mark(spool), spool.waiting] == [mark, 0]

    assert join(spool, "b.ocs.sign", mark) is None
    assert join(spool, "a.ocs.sign", f"{mark}0") is None
    placed = join(spool, "a.ocs.sign", mark)

    assert placed is not None
    assert read(placed.pair) == (b"a", b"s")
    assert placed.pair is not None
    assert placed.pair.sender == Sender(Box.FIRST, "192.0.2.1")
    assert [x.name for x in spool.failed()] == ["b.ocs"]
    assert spool.unsigned(0, 2 * NOW.timestamp()) == []
    assert len(os.listdir(Path(spool.folder, "ready"))) == 1
    assert join(spool, "a.ocs.sign", mark) is None


def test_which_documents_may_be_taken_back(spool: Spool, clock: Clock) -> None:
    """
    Those that arrived in a certain time, while no other one of the name waits; and as
    long as nobody removes them.
    """
    assert spool.unsigned(0, 2 * NOW.timestamp()) == []
    for name in ("a.ocs", "b.ocs", "c.ocs", "d.ocs", "e.ocs.sign"):
        put(spool, name, b"1")
        clock.passed += 10
    pair = put(spool, "d.ocs.sign", b"s").pair
    assert pair is not None
    spool.fail(pair, Refusal("no-signature", "not with this file"))
    spool.expire(waited=0)
    began = NOW.timestamp()

    def found(earliest: float, latest: float) -> list[str]:
        return [x.name.text for x in spool.unsigned(began + earliest, began + latest)]

    assert found(0, 20) == ["a.ocs", "b.ocs", "c.ocs"]
    assert found(0, 19) == ["a.ocs", "b.ocs"]
    assert found(10, 20) == ["b.ocs", "c.ocs"]
    put(spool, "b.ocs", b"2")
    assert found(0, 20) == ["c.ocs"]
    mark = late_mark(spool)
    shutil.rmtree(Path(spool.folder, "failed"))
    assert join(spool, "c.ocs.sign", mark) is None
    assert found(0, 20) == []


def test_no_room_to_take_it_back(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be taken back stays aside, and is the next time."""
    put(spool, "a.ocs", b"a")
    spool.expire(waited=0)
    mark, before = late_mark(spool), spool.failed()
    rename = os.rename

    def full(source: str, target: str) -> None:
        if target.startswith(os.path.join(spool.folder, "incoming")):
            raise OSError(errno.ENOSPC, "full")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(OSError, match="full"):
            join(spool, "a.ocs.sign", mark)
    assert (spool.failed(), spool.waiting) == (before, 0)
    assert os.listdir(Path(spool.folder, "ready")) == []

    placed = join(spool, "a.ocs.sign", mark)
    assert placed is not None
    assert read(placed.pair) == (b"a", b"s")


def test_unsigned(spool: Spool, clock: Clock) -> None:
    """Documents that nobody has signed can be taken out as they are."""
    put(spool, "a.ocs", b"a")
    put(spool, "b.ocs.sign", b"s")
    clock.passed = 60
    put(spool, "c.ocs", b"c")

    (pair,) = spool.claim_unsigned(waited=60)

    assert read(pair) == (b"a", None)
    assert spool.waiting == 2


def test_restart(spool: Spool, make: Callable[[], Spool]) -> None:
    """Halves and pairs survive the program, with where they came from."""
    put(spool, "a.ocs", b"a", Sender(Box.FIRST, "2001:db8::1"))
    one = put(spool, "a.ocs.sign", b"s").pair
    put(spool, "b.ocs", b"b", Sender(Box.FIRST, "192.0.2.1"))
    left = spool.begin()
    left.write(b"half an upl")
    crash(spool)

    again = make()

    assert again.open() == [one]
    assert read(one) == (b"a", b"s")
    pair = put(again, "b.ocs.sign", b"s").pair
    assert pair is not None
    assert pair.sender == Sender(Box.FIRST, "192.0.2.1")
    assert pair.serial > one.serial if one else False
    assert not os.path.exists(left.path)


@settings(max_examples=65, deadline=None)
@given(st.integers(0, 12), st.sampled_from(WAYS))
def test_killed_at_any_step(
    tmp_path_factory: pytest.TempPathFactory, steps: int, what: str
) -> None:
    """
    After the end at any renaming, every file that was stored is there once: waiting, to
    be decided about, or failed with a reason. Only what was decided about may be gone.
    """
    clock = Clock()
    folder = tmp_path_factory.mktemp("killed")
    spool = Spool(folder, seconds=clock.seconds, now=clock.now)
    spool.open()
    put(spool, "a.ocs", b"a")
    pair, mark = None, ""
    if what == "late":
        spool.expire(waited=0)
        mark = late_mark(spool)
    elif what in ("finish", "fail"):
        pair = put(spool, "a.ocs.sign", b"s").pair
    done = 0

    class Killed(BaseException):
        pass

    def counted(work: Callable[..., None]) -> Callable[..., None]:
        def run(*args: object, **kwargs: object) -> None:
            nonlocal done
            if done >= steps:
                raise Killed
            done += 1
            work(*args, **kwargs)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "mkdir", "rmdir", "unlink"):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            if what == "claim":
                put(spool, "a.ocs.sign", b"s")
            elif what == "replace":
                put(spool, "a.ocs", b"A")
            elif what == "late":
                assert join(spool, "a.ocs.sign", mark) is not None
            elif what == "fail" and pair is not None:
                spool.fail(pair, Refusal("too-old", "a year ago"))
            elif pair is not None:
                spool.finish(pair)
        except Killed:
            pass
    crash(spool)

    again = Spool(folder, seconds=clock.seconds, now=clock.now)
    pairs = again.open()
    contents = sorted(
        path.read_bytes()
        for path in folder.rglob("*.ocs*")
        if path.is_file() and "partial" not in path.parts
    )
    if what == "finish":
        assert contents in ([], [b"a", b"s"])
    elif what == "replace":
        assert contents in ([b"a"], [b"A", b"a"])
    elif what in ("claim", "late"):
        assert contents in ([b"a"], [b"a", b"s"])
    else:
        assert contents == [b"a", b"s"]
    accounted = sum(2 for each in pairs if each.signature) + again.waiting
    accounted += sum(len(each.files) for each in again.failed())
    assert accounted == len(contents)
    again.close()


def test_two_halves_of_one_kind_are_found(
    spool: Spool, make: Callable[[], Spool]
) -> None:
    """If two documents of one name are left, the later one waits on."""
    put(spool, "a.ocs", b"a")
    incoming = Path(spool.folder, "incoming")
    (found,) = incoming.iterdir()
    later = incoming / "a.ocs~first~192.0.2.9"
    later.write_bytes(b"later")
    os.utime(later, (NOW.timestamp() + 5, NOW.timestamp() + 5))
    crash(spool)

    again = make()
    again.open()

    assert not found.exists()
    assert [each.refusal.code for each in again.failed()] == ["replaced"]
    assert read(put(again, "a.ocs.sign", b"s").pair) == (b"later", b"s")


def test_files_of_others_do_not_matter(spool: Spool, make: Callable[[], Spool]) -> None:
    """What somebody has put into the folders stops nothing."""
    for name in ("README", "a.ocs", "a.ocs~first", "a.ocs~x~y", "a.bin~first~"):
        Path(spool.folder, "incoming", name).write_bytes(b"?")
    Path(spool.folder, "ready", "notes").mkdir()
    Path(spool.folder, "ready", "README").write_bytes(b"?")
    kept = Path(spool.folder, "ready", "mine", "a.txt")
    kept.parent.mkdir()
    kept.write_bytes(b"?")
    Path(spool.folder, "failed", "notes").mkdir()
    crash(spool)

    again = make()

    assert again.open() == []
    assert (again.waiting, again.failed()) == (0, [])
    assert kept.exists()


def test_a_failure_leaves_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be stored does not count as waiting."""

    def fails(*args: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="no"):
        put(spool, "a.ocs", b"a")

    assert spool.waiting == 0
    assert not spool.holds(read_name("a.ocs"))


def test_one_owner(spool: Spool, make: Callable[[], Spool]) -> None:
    """A second program is told, and may have the folder when the first has left."""
    other = make()

    with pytest.raises(SpoolInUse, match="another program uses"):
        other.open()

    spool.close()
    assert other.open() == []
    other.close()


def test_an_upload_that_ends_early(spool: Spool) -> None:
    """Of an upload that was not placed nothing is left."""
    part = spool.begin()
    part.write(b"abc")

    part.discard()
    part.discard()

    assert list(Path(spool.folder, "partial").iterdir()) == []
    with pytest.raises(ValueError, match="ended"):
        part.write(b"more")


def test_what_failed_is_bounded(tmp_path: Path, clock: Clock) -> None:
    """The oldest of what failed goes, and that is told."""
    spool = Spool(tmp_path, seconds=clock.seconds, now=clock.now, failed_kept=2)
    spool.open()
    for name in ("a.ocs", "b.ocs", "c.ocs"):
        put(spool, name, b"?")
    kept = [each.serial for each in spool.expire(waited=0)]

    assert spool.trim_failed() == kept[:1]
    assert [each.name for each in spool.failed()] == ["b.ocs", "c.ocs"]
    assert spool.trim_failed() == []


def test_what_failed_is_bounded_in_bytes(tmp_path: Path, clock: Clock) -> None:
    """Large files are not kept in any number."""
    spool = Spool(tmp_path, seconds=clock.seconds, now=clock.now)
    spool._failed_size = 150_000
    spool.open()
    for name in ("a.ocs", "b.ocs", "c.ocs"):
        put(spool, name, bytes(70_000))
    spool.expire(waited=0)

    assert len(spool.trim_failed()) == 1
    assert [each.name for each in spool.failed()] == ["b.ocs", "c.ocs"]


def test_who_sends_most_loses_first(tmp_path: Path, clock: Clock) -> None:
    """A sender who repeats himself pushes out his own, and nothing of others."""
    spool = Spool(tmp_path, seconds=clock.seconds, now=clock.now, failed_kept=3)
    spool.open()
    put(spool, "first.ocs", b"?", Sender(Box.FIRST, "192.0.2.1"))
    for number in range(5):
        put(spool, f"{number}.ocs", b"?", Sender(Box.FIRST, "192.0.2.2"))
    spool.expire(waited=0)

    spool.trim_failed()
    assert [each.name for each in spool.failed()] == ["first.ocs", "3.ocs", "4.ocs"]


def test_a_half_of_a_decided_pair(spool: Spool) -> None:
    """
    Half of a pair that was decided about may come again, when its sender has missed the
    answer; it is no failure. Another content is.
    """
    for name, decide in (
        ("a.ocs", spool.finish),
        ("b.ocs", lambda pair: spool.fail(pair, Refusal("bad-signature", "no"))),
    ):
        put(spool, name, b"document")
        pair = put(spool, f"{name}.sign", b"signature").pair
        assert pair is not None
        decide(pair)
    failed = len(spool.failed())
    for name in ("a.ocs", "b.ocs"):
        put(spool, f"{name}.sign", b"signature")
    assert spool.expire(waited=0) == []
    assert spool.waiting == 0
    assert len(spool.failed()) == failed
    assert os.listdir(Path(spool.folder, "incoming")) == []

    put(spool, "a.ocs.sign", b"another")
    assert [each.refusal.code for each in spool.expire(waited=0)] == ["no-document"]
    # Both together are an inventory again.
    put(spool, "a.ocs.sign", b"signature")
    assert put(spool, "a.ocs", b"document").pair is not None


def test_bombs_stay_packed(spool: Spool) -> None:
    """A document is unpacked within limits only, whatever its name promises."""
    put(spool, "a.ocs", gzip.compress(bytes(4 << 20)))
    pair = put(spool, "a.ocs.sign", b"s").pair

    with pytest.raises(DocumentRefused) as caught:
        read(pair)

    assert caught.value.refusal.code == "gzip-bomb"


def test_a_large_plain_document(spool: Spool) -> None:
    """A document that is not compressed has a limit, too."""
    put(spool, "a.ocs", bytes(101))
    pair = put(spool, "a.ocs.sign", b"s").pair
    assert pair is not None

    with pytest.raises(DocumentRefused) as caught:
        pair.read(DocumentLimits(size=100))

    assert caught.value.refusal.code == "too-large"
