# SPDX-License-Identifier: MIT
"""
The real agent copies what changes while it is being copied, over the classic protocol:
a copy is the old one or a whole new one, never a mixture, a piece, or the text of an
error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.harness import Run, WorkFolder
from tests.interop.prepared import roomy_folder
from tests.interop.test_changing import (
    Place,
    changed_meanwhile,
    copy,
    empty,
    failing_files,
    grow,
    replace,
    rewrite,
    shrink,
    small_files,
    tree,
    vanish,
)
from tests.interop.trees import described

#: The fixtures of those tests serve here, too.
__all__ = ["copy", "tree"]

ENCRYPT = {"plain": "false", "encrypted": "true"}


class ClassicPlace(Place):
    """
    The same with an agent that speaks the classic protocol.

    Attributes:
        encrypt: Whether it encrypts, as its policy says it.
    """

    encrypt = "false"

    def copy(self, source: str, to: Path, **options: Any) -> Run:
        """
        Copy a folder, or a file, that is called *source* to *to*.
        """
        return super().copy(
            source, to, protocol_version="1", encrypt=self.encrypt, **options
        )


@pytest.fixture(scope="module")
def shared() -> Iterator[ClassicPlace]:
    """
    The place of all tests here.
    """
    with roomy_folder() as folder:
        made = ClassicPlace(folder, WorkFolder(folder / "node"))
        with made.server:
            yield made
            assert "Traceback" not in made.server.logs()


@pytest.fixture(params=list(ENCRYPT))
def place(request: pytest.FixtureRequest, shared: ClassicPlace) -> ClassicPlace:
    """
    The place, with an agent that encrypts or not.
    """
    shared.encrypt = ENCRYPT[request.param]
    return shared


#: What happens to a file, and how it is copied meanwhile; all of it when asked for.
CHANGES = [("plain", shrink), ("encrypted", grow), ("encrypted", rewrite)]
if os.environ.get("NODECOMM_FULL") == "1":
    CHANGES = [
        (way, change)
        for way in ENCRYPT
        for change in (grow, shrink, empty, rewrite, vanish, replace)
    ]


@pytest.mark.parametrize(
    ("place", "change"),
    CHANGES,
    indirect=["place"],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_file_that_changes_during_its_transfer(
    place: ClassicPlace, tree: Path, copy: Path, change: Callable[[Path], None]
) -> None:
    """
    The copy is the old one, or the file as it was when it was asked for, or as it is
    now; the next run makes it equal.
    """
    changed_meanwhile(place, copy, change)


def test_small_files(place: ClassicPlace, tree: Path, copy: Path) -> None:
    """
    Files of 0 to 70 bytes, shorter than the protocol's error texts and than blocks of
    the cipher, arrive as they are, and again when they have changed.
    """
    for letter in (b"A", b"t"):
        small_files(tree, letter)
        done = place.copy("tree", copy)
        assert described(copy) == described(tree), done.output


def test_small_files_that_cannot_be_read(place: ClassicPlace, copy: Path) -> None:
    """
    A file of 1 to 70 bytes that fails after its STAT keeps its old content: no text of
    an error is written into it, however short it is.
    """
    failing_files(place, copy, (1, 4, 8, 31, 59, 67, 70))


def test_a_tree_that_fails_in_the_middle(place: ClassicPlace, copy: Path) -> None:
    """
    A listed file whose STAT fails, for whatever reason that is no decision about
    access, ends the connection: nothing is purged.
    """
    small_files(place.brittle, b"A")
    place.copy("brittle", copy)
    (copy / "extra").write_text("only here\n")
    before = described(copy)
    for operation, name in (("resolve", "20"), ("entries", ""), ("digest", "30")):
        place.control.fail(name, operation, "EIO", later=True)
        try:
            done = place.copy("brittle", copy, purge="true")
        finally:
            place.control.nothing()
        # The agent leaves what it could not finish, under another name.
        assert described(copy).items() >= before.items(), done.output

    done = place.copy("brittle", copy, purge="true")
    assert not (copy / "extra").exists(), done.output
