# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_outbox`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import pytest

from nodecomm.inventory.making import UploadFiles
from nodecomm.service.agent_inventory_when import Sent
from nodecomm.service.agent_outbox import Kept, Outbox, ask_for_inventory
from nodecomm.service.agent_points import Point

NOW = Point(1_800_000_000.0, "boot", 5)
FACTS = Kept(NOW, "1.0", "MD5=a", "root", "n-1", "web1", "daily", "", "", "", "", "")
SENT = Sent(NOW, "1.0", "MD5=a", ("https://hub/",), "https://hub/", "root", "n-1")


def files(name: str) -> UploadFiles:
    """An inventory of this name."""
    document = f"document {name}".encode()
    signature = f"signature {name}".encode()
    return UploadFiles(f"{name}.ocs.gz", document, f"{name}.ocs.sign", signature)


def content(outbox: Outbox, kept: Kept) -> tuple[bytes, bytes]:
    """What is in the files of an inventory."""
    document, signature = (Path(outbox.path(name)) for name in kept.names)
    return document.read_bytes(), signature.read_bytes()


def test_it_waits_until_it_is_acknowledged(tmp_path: Path) -> None:
    """It is there for every process until then, and then what is remembered of it."""
    outbox = Outbox(os.fspath(tmp_path))
    assert outbox.kept() is None
    assert outbox.sent() is None
    kept = outbox.keep(files("a"), FACTS)
    assert Outbox(os.fspath(tmp_path)).kept() == kept
    assert content(outbox, kept) == (b"document a", b"signature a")
    outbox.acknowledged(SENT, "")
    assert outbox.kept() is None
    assert Outbox(os.fspath(tmp_path)).sent() == SENT
    assert os.listdir(outbox.folder) == ["sent.json"]


def test_a_newer_one_takes_its_place(tmp_path: Path) -> None:
    """Nothing of the older one is left, whatever else lay there."""
    outbox = Outbox(os.fspath(tmp_path))
    outbox.keep(files("a"), FACTS)
    (tmp_path / "own-inventory" / ".new-x.tmp").write_bytes(b"left behind")
    kept = outbox.keep(files("b"), FACTS)
    assert outbox.kept() == kept
    assert sorted(os.listdir(outbox.folder)) == ["b.ocs.gz", "b.ocs.sign", "kept.json"]


#: Calls of the system that change something when one takes the place of another.
STEPS = 13


class Killed(BaseException):
    """The process is no more."""


@pytest.mark.parametrize("survives", range(STEPS + 1))
def test_killed_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    """The older one, the newer one, or none: each whole, and never halves of both."""
    outbox = Outbox(os.fspath(tmp_path))
    outbox.keep(files("a"), FACTS)
    left = survives

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **more: Any) -> Any:
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            return call(*args, **more)

        return step

    with monkeypatch.context() as patch:
        for name in ("unlink", "rename", "fsync"):
            patch.setattr(os, name, dying(getattr(os, name)))
        with pytest.raises(Killed) if survives < STEPS else nullcontext():
            outbox.keep(files("b"), FACTS)
    found = outbox.kept()
    if found is not None:
        name = found.document[0]
        expected = (f"document {name}".encode(), f"signature {name}".encode())
        assert content(outbox, found) == expected
    # Whatever is left: the next one is kept.
    assert outbox.keep(files("c"), FACTS) == outbox.kept()
    assert len(os.listdir(outbox.folder)) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a.ocs.gz").write_bytes(b"document"),
        lambda folder: (folder / "a.ocs.sign").unlink(),
        lambda folder: (folder / "a.ocs.sign").write_bytes(b"x" * 11),
        lambda folder: (folder / "kept.json").write_bytes(b"{}"),
        lambda folder: (folder / "kept.json").write_bytes(b"\xff"),
        lambda folder: (folder / "kept.json").write_bytes(b""),
        lambda folder: (folder / "kept.json").write_text(
            (folder / "kept.json").read_text().replace("a.ocs.gz", "../a.ocs.gz")
        ),
        lambda folder: (folder / "kept.json").write_text(
            (folder / "kept.json").read_text().replace("1800000000.0", "1e300")
        ),
    ],
)
def test_what_is_not_whole_is_not_there(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """A disk that lost something: there is none, and another one can be kept."""
    outbox = Outbox(os.fspath(tmp_path))
    outbox.keep(files("a"), FACTS)
    damage(tmp_path / "own-inventory")
    assert outbox.kept() is None
    assert outbox.keep(files("b"), FACTS) == outbox.kept()


def test_what_was_sent_cannot_be_read(tmp_path: Path) -> None:
    """As if nothing had been sent; never an error."""
    outbox = Outbox(os.fspath(tmp_path))
    outbox.acknowledged(SENT, "")
    path = Path(outbox.path("sent.json"))
    for damaged in (b"", b"[]", b"{", b'{"when": 3}'):
        path.write_bytes(damaged)
        assert outbox.sent() is None
    outbox.acknowledged(attrs.evolve(SENT, when=Point(-1.0, "", 0)), "")
    assert outbox.sent() is None


def test_asking(tmp_path: Path) -> None:
    """A request stands until an inventory that was made for it is acknowledged."""
    outbox = Outbox(os.fspath(tmp_path))
    assert outbox.asked() == ""
    ask_for_inventory(os.fspath(tmp_path))
    first = outbox.asked()
    second = outbox.ask()
    assert first != second == outbox.asked()
    outbox.acknowledged(SENT, first)
    assert outbox.asked() == second
    outbox.acknowledged(SENT, second)
    assert outbox.asked() == ""
    # Somebody's own hand will do.
    Path(outbox.path("asked")).touch()
    assert outbox.asked() == "?"
    outbox.acknowledged(SENT, "?")
    assert outbox.asked() == ""


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told; there is room for what comes next, as the older one is gone."""
    outbox = Outbox(os.fspath(tmp_path))
    outbox.keep(files("a"), FACTS)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            outbox.keep(files("b"), FACTS)
    assert outbox.kept() is None
