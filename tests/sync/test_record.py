# SPDX-License-Identifier: MIT
"""
What is remembered about a copy, and when it may be believed.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodecomm.sync.clocks import Moment, SteadyClock
from nodecomm.sync.model import Kind, LocalEntry, RemoteEntry
from nodecomm.sync.record import LocalState, Record, ServerState

SERVER = ServerState(10, 1700000000, 1700000001, 42)
LOCAL = LocalState(10, 1700000000 * 10**9, 1700000002 * 10**9, 7, 1)
MD5 = bytes(range(16))

SECOND = 10**9


def load(path: Path) -> Record:
    """The record of one copy."""
    return Record.load(path, "hub:5308", b"/source", b"/destination")


def at(seconds: float, boot: str = "boot") -> Moment:
    """A moment of one start of the machine."""
    return Moment(boot, round(seconds * SECOND))


@pytest.mark.parametrize(
    ("first", "again", "confirmed", "settled"),
    [
        (at(0), at(0), at(0), False),
        (at(0), at(0), at(1.999999), False),
        (at(0), at(0), at(2), True),
        (at(0), at(300), at(300.1), True),
        # The machine was started again: the values count as new.
        (at(0, "earlier"), at(300), at(300.1), False),
        (at(0, "earlier"), at(300), at(302), True),
        # A clock that goes back is another start that has the same name.
        (at(500), at(1), at(2), False),
    ],
)
def test_settled(
    tmp_path: Path, first: Moment, again: Moment, confirmed: Moment, settled: bool
) -> None:
    """
    A file need not be asked about when its digest was confirmed two seconds after the
    same values were first seen, since the same start of the machine.
    """
    record = load(tmp_path)
    record.note(b"f", SERVER, LOCAL, MD5, seen=first, confirmed=first)
    assert not record.files[b"f"].settled
    record.save()
    record = load(tmp_path)
    record.note(b"f", SERVER, LOCAL, MD5, seen=again, confirmed=confirmed)

    assert record.files[b"f"].settled is settled
    assert (record.unchanged(b"f", SERVER, LOCAL) is not None) is settled


def test_other_values_are_new(tmp_path: Path) -> None:
    """
    When any of the server's values changes, the time begins anew.
    """
    for place in range(4):
        record = load(tmp_path)
        record.note(b"f", SERVER, LOCAL, MD5, seen=at(0), confirmed=at(5))
        values = list(SERVER)
        values[place] += 1
        other = ServerState(*values)
        assert record.unchanged(b"f", other, LOCAL) is None
        made = record.note(b"f", other, LOCAL, MD5, seen=at(10), confirmed=at(10))
        assert made.first_seen == at(10)
        assert not made.settled


def test_local_file_that_changed(tmp_path: Path) -> None:
    """
    Any difference of the local file makes the record useless, its digest, too.
    """
    record = load(tmp_path)
    record.note(b"f", SERVER, LOCAL, MD5, seen=at(0), confirmed=at(5))
    assert record.known_digest(b"f", LOCAL) == MD5
    for place in range(5):
        values = list(LOCAL)
        values[place] += 1
        assert record.unchanged(b"f", SERVER, LocalState(*values)) is None
        assert record.known_digest(b"f", LocalState(*values)) is None
    assert record.known_digest(b"other", LOCAL) is None


def test_states_of_entries() -> None:
    """
    States are made of what a server and a disk say.
    """
    remote = RemoteEntry(Kind.FILE, 0o644, 0, 0, 10, 1700000000, 1700000001, 42, 9)
    local = LocalEntry(Kind.FILE, 0o644, 0, 0, *LOCAL)

    assert ServerState.of(remote) == SERVER
    assert LocalState.of(local) == LOCAL


numbers = st.integers(-(2**63), 2**64)
moments = st.builds(Moment, st.sampled_from(["a", "b", ""]), numbers)
names = st.binary(min_size=1, max_size=40)


@given(
    st.dictionaries(
        names,
        st.tuples(
            st.builds(ServerState, numbers, numbers, numbers, numbers),
            st.builds(LocalState, numbers, numbers, numbers, numbers, numbers),
            st.binary(min_size=16, max_size=16),
            moments,
            moments,
        ),
        max_size=5,
    ),
    st.dictionaries(names, st.sampled_from(Kind), max_size=3),
    st.none() | st.binary(max_size=30),
)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_is_saved_is_loaded(
    tmp_path: Path,
    files: dict[bytes, tuple[ServerState, LocalState, bytes, Moment, Moment]],
    kinds: dict[bytes, Kind],
    manifest: bytes | None,
) -> None:
    """
    Whatever the names and values, the next run has what this one knew, in this order.
    """
    record = load(tmp_path)
    record.files.clear()
    for name, (server, local, md5, seen, confirmed) in files.items():
        record.note(name, server, local, md5, seen=seen, confirmed=confirmed)
    record.kinds = kinds
    record.hold_manifest(manifest)
    record.save()
    again = load(tmp_path)

    assert again.warning == ""
    assert list(again.files.items()) == list(record.files.items())
    assert list(again.hints().items()) == list(kinds.items())
    assert again.manifest() == manifest
    assert again.manifest_md5 == record.manifest_md5


def test_file_is_for_us_alone(tmp_path: Path) -> None:
    """
    One file for each copy, which nobody else can read.
    """
    others = [
        Record.load(tmp_path, server, source, destination)
        for server in ("a:1", "b:1")
        for source in (b"x", b"y")
        for destination in (b"/x", b"/y")
    ]
    for record in others:
        record.save()

    files = list((tmp_path / "sync").iterdir())
    assert len(files) == 8
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def saved(tmp_path: Path) -> Record:
    """A record on disk, with a file, a folder and a manifest, and nothing else."""
    record = Record(load(tmp_path).path)
    record.note(b"f\xff", SERVER, LOCAL, MD5, seen=at(0), confirmed=at(5))
    record.kinds = {b"d": Kind.FOLDER}
    record.hold_manifest(b"manifest")
    record.save()
    return record


@given(st.data())
@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_damage_is_an_empty_record(tmp_path: Path, data: st.DataObject) -> None:
    """
    A record that was cut or overwritten is empty, with a warning, or says what it said.
    """
    record = saved(tmp_path)
    whole = record.path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    junk = data.draw(st.binary(max_size=4))
    end = whole[cut + len(junk) :] if data.draw(st.booleans()) else b""
    record.path.write_bytes(whole[:cut] + junk + end)
    again = load(tmp_path)

    if again.warning:
        assert not again.files
        assert not again.kinds
        assert again.manifest() is None
    for known in again.files.values():
        values = (*known.server, *known.local, known.first_seen.ns, known.confirmed.ns)
        assert {type(value) for value in values} == {int}
        assert len(known.md5) == 16
    again.save()
    assert load(tmp_path).warning == ""


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    """
    Nor what is no file: both are damage, and take no memory.
    """
    path = load(tmp_path).path
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "damaged" in load(tmp_path).warning
    path.unlink()
    os.mkfifo(path)
    assert "damaged" in load(tmp_path).warning


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"files": None},
        {"kinds": [["d", "x"]]},
        {"kinds": [["\\q", "d"]]},
        {"moments": [["boot"], [0], [0]]},
        {"moments": [["boot"], [-1, 0], [0, 0]]},
        {"moments": [["boot"], [0, 7], [0, 0]]},
        {"manifest": 7},
    ],
)
def test_wrong_values_are_damage(tmp_path: Path, change: dict[str, object]) -> None:
    """
    Each part is checked.
    """
    record = saved(tmp_path)
    record.path.write_text(
        json.dumps({**json.loads(record.path.read_text()), **change})
    )
    again = load(tmp_path)

    assert "damaged" in again.warning
    assert not again.files


def test_columns_are_checked(tmp_path: Path) -> None:
    """
    Each column has a whole number for each file.
    """
    for key in json.loads(saved(tmp_path).path.read_text())["files"]:
        wrongs: list[object] = [[], [1.5], [True], [[]], [1, 2], None]
        for wrong in wrongs:
            record = saved(tmp_path)
            stored = json.loads(record.path.read_text())
            stored["files"][key] = wrong
            record.path.write_text(json.dumps(stored))
            assert "damaged" in load(tmp_path).warning, (key, wrong)


def test_manifest_that_was_changed(tmp_path: Path) -> None:
    """
    A manifest is only given out if it has the digest that is remembered.
    """
    record = saved(tmp_path)
    path = record.path.with_suffix(".manifest")
    path.write_bytes(b"manifesT")
    assert load(tmp_path).manifest() is None
    path.unlink()
    again = load(tmp_path)
    assert again.manifest() is None
    again.hold_manifest(None)
    again.save()

    assert load(tmp_path).manifest_md5 is None


def test_record_that_cannot_be_read(tmp_path: Path) -> None:
    """
    A folder or a pipe in place of the record does not stop an update.
    """
    record = saved(tmp_path)
    record.path.unlink()
    os.mkfifo(record.path)
    assert not load(tmp_path).files
    record.path.unlink()
    record.path.mkdir()

    assert "cannot be read" in load(tmp_path).warning


def test_other_files_are_forgotten(tmp_path: Path) -> None:
    """
    Files that are no more are not remembered for ever.
    """
    record = saved(tmp_path)
    record.note(b"g", SERVER, LOCAL, MD5, seen=at(0), confirmed=at(0))
    record.keep_only({b"g", b"h"})

    assert list(record.files) == [b"g"]


def test_steady_clock(tmp_path: Path) -> None:
    """
    Moments go on, and name the start of the machine; where it has no name, no other
    process's moments can be compared.
    """
    clock = SteadyClock()
    first, second = clock(), SteadyClock()()
    assert second.since(first) is not None
    assert second.ns >= first.ns
    missing = str(tmp_path / "missing")
    one, other = SteadyClock(missing)(), SteadyClock(missing)()
    assert one.since(other) is None
    (tmp_path / "named").write_text("abc\n")
    assert SteadyClock(str(tmp_path / "named"))().boot == "abc"
