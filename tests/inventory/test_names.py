# SPDX-License-Identifier: MIT
"""
The names that the files of an inventory have.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.inventory.names import MAX_NAME, Half, UploadName, read_name


@pytest.mark.parametrize(
    ("text", "half", "pair", "compressed"),
    [
        ("node1-b9a7.ocs", Half.DOCUMENT, "node1-b9a7.ocs", False),
        ("node1-b9a7.ocs.gz", Half.DOCUMENT, "node1-b9a7.ocs", True),
        ("node1-b9a7.ocs.sign", Half.SIGNATURE, "node1-b9a7.ocs", False),
        ("node1.xml", Half.DOCUMENT, "node1.xml", False),
        ("node1.xml.gz", Half.DOCUMENT, "node1.xml", True),
        ("node1.xml.sign", Half.SIGNATURE, "node1.xml", False),
        (
            "b9a7_2024-03-21T16:07:29+01:00.ocs.gz",
            Half.DOCUMENT,
            "b9a7_2024-03-21T16:07:29+01:00.ocs",
            True,
        ),
    ],
)
def test_names_that_nodes_use(
    text: str, half: Half, pair: str, compressed: bool
) -> None:
    """Both halves of an inventory have the same pair, compressed or not."""
    assert read_name(text) == UploadName(text, half, pair, compressed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".ocs",
        ".davfs.tmp1234.ocs",
        "..ocs",
        "..",
        "node1",
        "node1.gz",
        "node1.sign",
        "node1.ocs.gz.sign",
        "node1.ocs.sign.gz",
        "node1.OCS",
        "node1.ocs.bak",
        "a/b.ocs",
        "a\\b.ocs",
        "../b.ocs",
        "a b.ocs",
        "a~b.ocs",
        "a\0.ocs",
        "a.ocs\n",
        "nodé.ocs",
        "a" * MAX_NAME + ".ocs",
    ],
)
def test_what_is_no_name(text: str) -> None:
    """Anything that is no such name, or could be more than a name, is refused."""
    with pytest.raises(ValueError, match="a name"):
        read_name(text)


def test_the_longest_name() -> None:
    """A name of exactly the limit is taken."""
    text = "a" * (MAX_NAME - 4) + ".ocs"

    assert read_name(text).text == text


@settings(max_examples=100)
@given(st.text(max_size=220))
def test_garbage(text: str) -> None:
    """Any text is a file's name within one folder, or refused."""
    try:
        name = read_name(text)
    except ValueError:
        return
    assert name.text == text
    assert "/" not in text
    assert not text.startswith(".")
